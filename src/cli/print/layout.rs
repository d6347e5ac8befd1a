//! Text that fits the terminal and cannot control it.

use std::io::{self, IsTerminal as _};

use unicode_width::UnicodeWidthStr as _;

use crate::text::printable;

/// Labels in one column, texts in the next; further lines of a text are indented below its first.
pub fn aligned(facts: &[(&str, String)]) -> Vec<String> {
    let width = facts
        .iter()
        .map(|(label, _)| label.len())
        .max()
        .unwrap_or(0);
    let mut lines = Vec::new();
    for (label, text) in facts {
        let mut label = *label;
        for part in text.split('\n') {
            lines.push(format!("{label:<width$}  {part}").trim_end().to_owned());
            label = "";
        }
    }
    lines
}

/// The facts, each text wrapped so that it fits beside its label.
pub fn fitted<'l>(facts: &[(&'l str, String)], columns: Option<u16>) -> Vec<(&'l str, String)> {
    let widest = facts.iter().map(|(label, _)| label.len()).max();
    let taken = widest.unwrap_or(0) + 2;
    let fit = |text: &String| match columns {
        Some(columns) => folded(text, usize::from(columns).saturating_sub(taken)),
        None => text.clone(),
    };
    let facts = facts.iter();
    facts.map(|(label, text)| (*label, fit(text))).collect()
}

/// Wraps a text between words; a command stays in one line, so that it can be copied.
pub fn folded(text: &str, room: usize) -> String {
    let (prose, command) = match text.find("hooklane ") {
        Some(at) => (text[..at].trim_end(), Some(&text[at..])),
        None => (text, None),
    };
    let words = prose.split(' ').skip(usize::from(prose.is_empty()));
    let words = words.chain(command);
    let mut folded = String::with_capacity(text.len());
    let mut used = 0;
    for word in words {
        let wide = word.width();
        match used {
            0 => {}
            _ if used + 1 + wide > room => {
                folded.push('\n');
                used = 0;
            }
            _ => {
                folded.push(' ');
                used += 1;
            }
        }
        folded.push_str(word);
        used += wide;
    }
    folded
}

/// Escapes everything in JSON that a terminal would act on. Such characters occur only in strings,
/// where an escape means the same.
pub fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut buffer = [0; 4];
    for c in json.chars() {
        let shown: &str = c.encode_utf8(&mut buffer);
        if c == '\n' || c.is_ascii_graphic() || c == ' ' || printable(shown).as_str() == shown {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                text += &format!("\\u{unit:04x}");
            }
        }
    }
    text
}

/// Width of the terminal that shows data; 80 if unknown.
pub fn width() -> Option<u16> {
    let stdout = io::stdout();
    stdout.is_terminal().then(|| columns(stdout))
}

pub fn columns(terminal: impl std::os::fd::AsFd) -> u16 {
    let size = rustix::termios::tcgetwinsize(&terminal);
    match size.map_or(0, |size| size.ws_col) {
        0 => 80,
        columns => columns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_means_the_same_and_cannot_act() {
        let json = "{\"a\":\"\u{9b}2J \u{202e} \u{7f} \u{e0041} ä\"}";
        let shown = harmless(json);
        assert_eq!(
            shown,
            "{\"a\":\"\\u009b2J \\u202e \\u007f \\udb40\\udc41 ä\"}"
        );
        let value = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(json));
    }

    #[test]
    fn a_long_text_is_broken_between_words_and_a_command_is_not() {
        assert_eq!(folded("one two  three four", 9), "one two \nthree\nfour");
        assert_eq!(folded("unbreakable", 4), "unbreakable");
        assert_eq!(
            folded("hooklane lanes resume 3", 9),
            "hooklane lanes resume 3"
        );
        let folded = folded("it goes on. Back: hooklane lanes resume 3", 12);
        assert_eq!(folded, "it goes on.\nBack:\nhooklane lanes resume 3");
    }
}
