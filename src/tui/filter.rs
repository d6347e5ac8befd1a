//! Filter of rows: words, and words of one field such as `state:paused` or `-hook:billing`.

/// The words of a filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    text: String,
}

/// Fields that a word may name.
const FIELDS: [&str; 8] = [
    "lane",
    "state",
    "node",
    "hook",
    "stream",
    "handler",
    "condition",
    "fate",
];

impl Filter {
    /// The text as typed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True if everything is shown.
    pub fn is_empty(&self) -> bool {
        self.text.trim().is_empty()
    }

    /// Empties the filter.
    pub fn clear(&mut self) {
        self.text.clear();
    }

    /// Appends a character.
    pub fn push(&mut self, c: char) {
        if !c.is_control() && self.text.len() < 200 {
            self.text.push(c);
        }
    }

    /// Removes the last character.
    pub fn pop(&mut self) {
        self.text.pop();
    }

    /// Replaces the text.
    pub fn set(&mut self, text: String) {
        self.text = text;
    }

    /// The value that the filter requires of a field, if any.
    pub fn wants(&self, field: &str) -> Option<&str> {
        let words = self.text.split_whitespace();
        let mut wanted = words.filter_map(|word| word.split_once(':'));
        let found = wanted.find(|(name, value)| *name == field && !value.is_empty());
        found.map(|(_, value)| value)
    }

    /// True if a row with these fields is shown. A field may occur several times.
    pub fn shows(&self, row: &[(&str, &str)]) -> bool {
        let mut words = self.text.split_whitespace();
        words.all(|word| match word.strip_prefix('-') {
            Some("") => true,
            Some(word) => !has(row, word),
            None => has(row, word),
        })
    }
}

fn has(row: &[(&str, &str)], word: &str) -> bool {
    let word = word.to_lowercase();
    match word
        .split_once(':')
        .filter(|(field, _)| FIELDS.contains(field))
    {
        // Compared as a whole, because lane 1 is not lane 11.
        Some(("lane", wanted)) => row.iter().any(|(field, value)| {
            *field == "lane" && (wanted.is_empty() || value.to_lowercase() == wanted)
        }),
        Some((wanted_field, wanted)) => row
            .iter()
            .any(|(field, value)| *field == wanted_field && value.to_lowercase().contains(wanted)),
        None => row
            .iter()
            .any(|(_, value)| value.to_lowercase().contains(&word)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_choose_rows_and_a_field_narrows_them() {
        let row = [
            ("lane", "default-1-1"),
            ("lane", "1"),
            ("state", "paused"),
            ("stream", "billing/Acme"),
            ("hook", "billing"),
        ];
        let shows = |text: &str| {
            let mut filter = Filter::default();
            filter.set(text.to_owned());
            filter.shows(&row)
        };
        for text in [
            "",
            "  ",
            "-",
            "paus",
            "state:paused",
            "lane:1",
            "lane:default-1-1",
            "acme -orders",
            "hook:bill stream:acme",
            "state: ",
            "-node:eu-2",
            "-lane:11",
        ] {
            assert!(shows(text), "{text}");
        }
        for text in [
            "active",
            "-paused",
            "lane:11",
            "state:act",
            "hook:acme",
            "billing orders",
        ] {
            assert!(!shows(text), "{text}");
        }
    }
}
