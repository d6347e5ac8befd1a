//! Groups similar log entries into one line, with their number.

use crate::api::LogLine;

/// A log entry with the number of older similar ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'l> {
    /// The newest of them.
    pub line: &'l LogLine,
    /// Number of the others.
    pub folded: usize,
}

impl Entry<'_> {
    /// True if `line` belongs to the group.
    pub fn has(&self, line: &LogLine) -> bool {
        self.line == line || self.folded > 0 && is_like(self.line, line)
    }
}

/// Groups similar entries under the newest, in order; with `open`, each entry is on its own.
pub fn entries<'l>(lines: impl Iterator<Item = &'l LogLine>, open: bool) -> Vec<Entry<'l>> {
    let mut entries: Vec<Entry<'l>> = Vec::new();
    for line in lines {
        let like = entries.iter_mut().find(|entry| is_like(entry.line, line));
        match like.filter(|_| !open) {
            Some(entry) => entry.folded += 1,
            None => entries.push(Entry { line, folded: 0 }),
        }
    }
    entries
}

/// True if two entries differ only in numbers.
fn is_like(one: &LogLine, other: &LogLine) -> bool {
    let same = one.scope == other.scope && one.severity == other.severity;
    same && shape(&one.what).eq(shape(&other.what))
}

/// A text without digits.
fn shape(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().filter(|c| !c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Severity;
    use crate::domain::time::Timestamp;

    fn line(at: i64, scope: &str, what: &str) -> LogLine {
        LogLine {
            at: Timestamp::from_millis(at),
            severity: Severity::Trouble,
            scope: scope.to_owned(),
            what: what.to_owned(),
        }
    }

    #[test]
    fn what_says_the_same_of_the_same_is_one_entry_with_the_newest_on_top() {
        let log = [
            line(9, "billing/acme -> crm", "try 14: 503 in 5.0s, next in 81s"),
            line(8, "lane 6", "drained"),
            line(7, "billing/acme -> crm", "try 13: 503 in 5.0s, next in 9s"),
            line(6, "billing/acme -> crm", "try 2: timed out"),
            line(5, "billing/zed -> crm", "try 1: 503 in 5.0s, next in 2s"),
            line(4, "billing/acme -> crm", "try 1: 503 in 4.1s, next in 2s"),
        ];
        let folded = entries(log.iter(), false);
        let told: Vec<_> = folded
            .iter()
            .map(|e| (e.line.at.as_millis(), e.folded))
            .collect();
        assert_eq!(told, [(9, 2), (8, 0), (6, 0), (5, 0)]);
        assert!(folded[0].has(&log[2]) && !folded[0].has(&log[3]) && !folded[0].has(&log[4]));
        let open = entries(log.iter(), true);
        assert_eq!(open.len(), 6);
        assert!(!open[0].has(&log[2]));
    }
}
