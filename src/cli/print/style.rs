//! Output settings: the format of data, colour, and questions that flags answer in advance.

/// Output format of data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Table,
    /// One JSON object
    Json,
    /// One JSON object a line
    Jsonl,
    /// One id a line, for xargs
    Names,
}

/// Use of colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal that has it, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    /// True if stderr gets colour.
    pub(super) fn wanted(self, terminal: bool, var: impl Fn(&str) -> Option<String>) -> bool {
        let set = |name| var(name).is_some_and(|value| !value.is_empty());
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if set("NO_COLOR") => false,
            Self::Auto if set("CLICOLOR_FORCE") => var("CLICOLOR_FORCE").as_deref() != Some("0"),
            Self::Auto => terminal && var("TERM").is_some_and(|term| term != "dumb"),
        }
    }
}

/// Flags that answer questions in advance.
#[derive(Clone, Debug, Default)]
pub struct Agreed {
    /// True with `--yes`, which agrees to every question.
    pub yes: bool,
    /// Name in `--confirm NAME`, which a severe action asks for.
    pub name: Option<String>,
    /// True with `--no-input`: a question that is not answered in advance is an error.
    pub never_ask: bool,
}

/// Output settings from the flags.
#[derive(Clone, Debug, Default)]
pub struct Style {
    /// Output format of data.
    pub output: Output,
    /// True if names end with a NUL byte.
    pub null: bool,
    /// True if only errors and data are printed.
    pub quiet: bool,
    /// Use of colour.
    pub color: Color,
    /// Questions that are already answered.
    pub agreed: Agreed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_asked_for_in_order() {
        let wanted = |color: Color, terminal, vars: &[(&str, &str)]| {
            color.wanted(terminal, |name| {
                let found = vars.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let term = ("TERM", "xterm");
        assert!(wanted(Color::Always, false, &[("NO_COLOR", "1")]));
        assert!(!wanted(Color::Auto, true, &[("NO_COLOR", "1"), term]));
        assert!(wanted(Color::Auto, true, &[("NO_COLOR", ""), term]));
        assert!(wanted(Color::Auto, false, &[("CLICOLOR_FORCE", "1")]));
        assert!(!wanted(Color::Auto, true, &[("TERM", "dumb")]));
        assert!(!wanted(Color::Auto, false, &[term]));
    }
}
