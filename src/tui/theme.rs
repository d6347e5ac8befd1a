//! Colours and characters: full colour, no colour, or ASCII only.
//!
//! Promises: without colour, neither foreground nor background is set, only bold, reverse, underline
//! and dim. In ASCII each character becomes one character. Colour only repeats what a mark says. No
//! background colour is ever set, so each colour must be readable on dark and light backgrounds; few
//! words are yellow.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthChar as _;

use crate::api::Severity;

/// Abilities of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    /// True if it shows colour.
    pub colour: bool,
    /// True if its background is known to be light.
    pub light: bool,
    /// True if it shows only ASCII.
    pub ascii: bool,
}

/// Meaning of a text, from which its style follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// No particular meaning.
    Plain,
    /// Column titles of a table.
    Header,
    /// Separators, and hints about keys.
    Quiet,
    /// All is well.
    Good,
    /// Unusual state.
    Unusual,
    /// State that needs an operator.
    Trouble,
}

impl From<Severity> for Tone {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Fine => Self::Plain,
            Severity::Unusual => Self::Unusual,
            Severity::Trouble => Self::Trouble,
        }
    }
}

impl Theme {
    /// The theme for these environment variables; `is_ascii` is the flag of the command.
    pub fn of(var: impl Fn(&str) -> Option<String>, is_ascii: bool) -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| var(name).filter(|value| !value.is_empty()));
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        let speaks = locale.contains("utf-8") || locale.contains("utf8");
        Self {
            colour: var("NO_COLOR").is_none_or(|value| value.is_empty()),
            light: var("COLORFGBG").is_some_and(|value| is_light(&value)),
            ascii: is_ascii || !speaks,
        }
    }

    /// The style of a tone.
    pub fn style(self, tone: Tone) -> Style {
        let modifier = match tone {
            Tone::Plain | Tone::Good | Tone::Unusual => Modifier::empty(),
            Tone::Header => Modifier::UNDERLINED,
            Tone::Quiet => Modifier::DIM,
            Tone::Trouble => Modifier::BOLD,
        };
        let style = Style::new().add_modifier(modifier);
        match tone {
            _ if !self.colour => style,
            // Green and yellow are hard to read on a light background.
            Tone::Good if self.light => style,
            Tone::Unusual if self.light => style.fg(Color::Magenta),
            Tone::Good => style.fg(Color::Green),
            Tone::Unusual => style.fg(Color::Yellow),
            Tone::Trouble => style.fg(Color::Red),
            Tone::Plain | Tone::Header | Tone::Quiet => style,
        }
    }

    /// A span in the style of a tone.
    pub fn span(self, tone: Tone, text: impl Into<String>) -> Span<'static> {
        Span::styled(text.into(), self.style(tone))
    }

    /// A line in the style of a tone. For [`Tone::Unusual`] only the first words, up to a gap, are
    /// coloured, so that the figures after them stay easy to read.
    pub fn line(self, tone: Tone, text: impl Into<String>) -> Line<'static> {
        let text = text.into();
        let gap = match tone {
            Tone::Unusual if self.colour => gap(&text),
            _ => None,
        };
        match gap.map(|gap| text.split_at(gap)) {
            Some((words, rest)) => {
                Line::from(vec![self.span(tone, words), Span::raw(rest.to_owned())])
            }
            None => Line::from(self.span(tone, text)),
        }
    }

    /// A table row in the style of a tone, highlighted if selected.
    pub fn row(self, tone: Tone, text: String, is_selected: bool) -> Line<'static> {
        let mut line = self.line(tone, text);
        if is_selected {
            for span in &mut line.spans {
                span.style = span.style.add_modifier(Modifier::REVERSED);
            }
        }
        line
    }

    /// Replaces characters that the terminal cannot show.
    pub fn shown(self, mut line: Line<'static>) -> Line<'static> {
        if self.ascii {
            for span in &mut line.spans {
                if !span.content.is_ascii() {
                    span.content = span.content.chars().flat_map(plain).collect();
                }
            }
        }
        line
    }
}

/// True if a value of `COLORFGBG`, such as `15;0`, means a light background: white, in either shade.
fn is_light(value: &str) -> bool {
    matches!(value.rsplit(';').next(), Some("7" | "15"))
}

/// Index at which the first words of a row end: at the first two blanks after readable text.
fn gap(text: &str) -> Option<usize> {
    let begin = text.find(char::is_alphanumeric)?;
    Some(begin + text[begin..].find("  ")?)
}

/// ASCII characters of the same width as `c`.
fn plain(c: char) -> impl Iterator<Item = char> {
    let instead = match c {
        c if c.is_ascii() => c,
        '─' => '-',
        '│' => '|',
        '┌' | '┐' | '└' | '┘' | '┬' | '┴' | '├' | '┤' | '┼' => '+',
        '▲' => '^',
        '▼' => 'v',
        '·' => '.',
        _ => '?',
    };
    std::iter::repeat_n(instead, c.width().unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_speaks_unicode_when_its_locale_says_so_and_has_colour_unless_told_not_to() {
        let of = |pairs: &'static [(&str, &str)], flag| {
            let var = move |name: &str| {
                let found = pairs.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let theme = Theme::of(var, flag);
            (theme.colour, theme.ascii)
        };
        assert_eq!(of(&[("LANG", "en_US.UTF-8")], false), (true, false));
        assert_eq!(of(&[("LANG", "en_US.UTF-8")], true), (true, true));
        assert_eq!(of(&[("LANG", "C")], false), (true, true));
        assert_eq!(
            of(&[("LANG", "C"), ("LC_ALL", "C.utf8")], false),
            (true, false)
        );
        assert_eq!(
            of(&[("NO_COLOR", "1"), ("LC_CTYPE", "UTF-8")], false),
            (false, false)
        );
        assert_eq!(of(&[("NO_COLOR", "")], false), (true, true));
    }

    #[test]
    fn what_is_unusual_has_few_words_in_colour_and_none_that_are_pale_on_white() {
        let theme = |background: &'static str| {
            Theme::of(
                move |name| (name == "COLORFGBG").then(|| background.to_owned()),
                false,
            )
        };
        let line = theme("15;0").row(Tone::Unusual, " ~ 5 paused   0".to_owned(), true);
        let parts: Vec<_> = line.spans.iter().map(|span| &*span.content).collect();
        assert_eq!(parts, [" ~ 5 paused", "   0"]);
        assert_eq!(
            (line.spans[0].style.fg, line.spans[1].style.fg),
            (Some(Color::Yellow), None)
        );
        let reversed = |span: &Span<'_>| span.style.add_modifier.contains(Modifier::REVERSED);
        assert!(line.spans.iter().all(reversed));
        for light in ["0;15", "0;default;7"] {
            assert_eq!(
                theme(light).style(Tone::Unusual).fg,
                Some(Color::Magenta),
                "{light}"
            );
            assert_eq!(theme(light).style(Tone::Good).fg, None, "{light}");
        }
    }

    #[test]
    fn ascii_keeps_the_width_of_what_it_replaces() {
        let theme = Theme {
            colour: false,
            light: false,
            ascii: true,
        };
        let line = theme.shown(Line::from("─ 日本 ▲é"));
        assert_eq!(line.to_string(), "- ???? ^?");
    }
}
