//! Questions before an action. Flags can answer them in advance; without a terminal they are errors.

use std::io::{BufRead as _, Write as _};

use super::Printer;
use crate::cli::exit::{Exit, Trouble};
use crate::domain::name::StreamName;
use crate::text::{escaped, printable_line, quoted, unescaped};

/// Severity of an action, which determines its question. Mild actions are done without one and print
/// how to undo them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stake {
    /// A yes is enough.
    Moderate,
    /// The user must type this text.
    Severe(String),
}

impl Printer {
    /// Asks `question`; true to go on. `what` describes in a few words what is at stake.
    ///
    /// # Errors
    /// [`Trouble`] that names the flags which answer, when no user can be asked.
    pub fn confirm(&mut self, question: &str, what: &str, stake: &Stake) -> anyhow::Result<bool> {
        match self.is_answered(what, stake)? {
            true => Ok(true),
            false => self.ask(question, stake),
        }
    }

    /// True if flags have answered what [`Printer::confirm`] would ask. Call it before showing a plan,
    /// so that only the error is printed when no user can be asked.
    ///
    /// # Errors
    /// As for [`Printer::confirm`].
    pub fn is_answered(&self, what: &str, stake: &Stake) -> Result<bool, Trouble> {
        let agreed = &self.style.agreed;
        let given = agreed.name.as_deref();
        match stake {
            Stake::Moderate if agreed.yes => return Ok(true),
            Stake::Severe(name)
                if agreed.yes && given.is_some_and(|given| is_typed(given, name)) =>
            {
                return Ok(true);
            }
            Stake::Severe(name) if given.is_some_and(|given| !is_typed(given, name)) => {
                let given = given.unwrap_or_default();
                let message = format!("--confirm says {given:?}, but this is about {name:?}");
                return Err(Trouble::usage(message));
            }
            _ => {}
        }
        match self.asks && !agreed.never_ask {
            true => Ok(false),
            false => Err(unanswered(what, stake, self.asks, agreed.yes)),
        }
    }

    fn ask(&mut self, question: &str, stake: &Stake) -> anyhow::Result<bool> {
        let expected = match stake {
            Stake::Moderate => {
                write!(self.talk, "{} [y/N] ", printable_line(question))?;
                None
            }
            Stake::Severe(name) => {
                write!(self.talk, "Type {} to go on: ", escaped(name))?;
                Some(name)
            }
        };
        self.talk.flush()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let answer = answer.trim();
        let agreed = match expected {
            Some(name) => is_typed(answer, name),
            None => ["y", "yes"].contains(&answer.to_lowercase().as_str()),
        };
        if !agreed {
            self.say(format_args!("nothing was changed"))?;
        }
        Ok(agreed)
    }
}

/// True if an answer names the object: as it is, as it is shown, or with a shortened hash.
fn is_typed(answer: &str, name: &str) -> bool {
    let is_short = |name: StreamName| name.short() == answer;
    *unescaped(answer) == *name || answer == name || name.parse().is_ok_and(is_short)
}

/// The error when a question is needed and cannot be asked.
fn unanswered(what: &str, stake: &Stake, terminal: bool, yes: bool) -> Trouble {
    let why = match terminal {
        true => "--no-input forbids it",
        false => "there is no terminal",
    };
    let answer = match stake {
        Stake::Moderate => "--yes".to_owned(),
        Stake::Severe(name) => format!("--yes --confirm {}", quoted(name)),
    };
    let message = match yes {
        true => {
            format!("--yes is not enough for this ({what}): it also needs --confirm with the name")
        }
        false => format!("this would ask ({what}), and {why}"),
    };
    Trouble::new(Exit::Usage, "would_ask", message).fact("answer", answer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::print::tests::desk;
    use crate::cli::print::{Agreed, Style};

    fn agreed(yes: bool, name: Option<&str>) -> Style {
        let name = name.map(str::to_owned);
        Style {
            agreed: Agreed {
                yes,
                name,
                never_ask: false,
            },
            ..Style::default()
        }
    }

    fn confirmed(
        style: Style,
        answers: Option<&'static str>,
        stake: &Stake,
    ) -> Result<bool, String> {
        let mut desk = desk(style, answers);
        let confirmed = desk.printer.confirm("Delete ship?", "57 streams", stake);
        confirmed.map_err(|error| {
            let trouble = crate::cli::exit::trouble(error).unwrap();
            assert_eq!(trouble.exit, Exit::Usage);
            desk.printer.trouble(&trouble).unwrap();
            desk.talk.text()
        })
    }

    #[test]
    fn a_moderate_question_wants_a_yes() {
        let ask = |style, answers| confirmed(style, answers, &Stake::Moderate);
        assert_eq!(ask(agreed(false, None), Some("y\n")), Ok(true));
        assert_eq!(ask(agreed(false, None), Some("YES\n")), Ok(true));
        assert_eq!(ask(agreed(false, None), Some("\n")), Ok(false));
        assert_eq!(ask(agreed(false, None), Some("")), Ok(false), "end of file");
        assert_eq!(ask(agreed(true, None), None), Ok(true));
        let refused =
            "error: this would ask (57 streams), and there is no terminal\n  answer  --yes\n";
        assert_eq!(ask(agreed(false, None), None), Err(refused.into()));
    }

    #[test]
    fn a_severe_question_wants_the_name_also_from_a_script() {
        let severe = Stake::Severe("ship".into());
        let ask = |style, answers| confirmed(style, answers, &severe);
        assert_eq!(ask(agreed(false, None), Some("ship\n")), Ok(true));
        assert_eq!(ask(agreed(false, None), Some("y\n")), Ok(false));
        assert_eq!(ask(agreed(true, Some("ship")), None), Ok(true));
        assert!(ask(agreed(true, Some("boat")), Some("ship\n")).is_err());
        let refused = ask(agreed(true, None), None).unwrap_err();
        assert!(
            refused.ends_with("answer  --yes --confirm ship\n"),
            "{refused}"
        );
        assert_eq!(ask(agreed(true, None), Some("ship\n")), Ok(true));
    }

    #[test]
    fn no_input_never_asks() {
        let mut style = agreed(false, None);
        style.agreed.never_ask = true;
        let refused = confirmed(style, Some("y\n"), &Stake::Moderate).unwrap_err();
        assert!(refused.contains("--no-input"), "{refused}");
    }
}
