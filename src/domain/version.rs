//! The provider's order: the version that a provider writes into its events, and the treatment of
//! events that arrive after one with a higher version.
//!
//! An event is late if its version is lower than the highest version before it in its stream. This is
//! decided once, in the transaction that gives the event its seq, and stored with it together with the
//! hook's policy of that moment. So every handler and every rebuild treats the event alike.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::HeaderMap;

use super::place::Place;

/// Digits of a number before and after its decimal point. More digits after it are ignored, so two
/// versions that differ only there count as equal.
const WHOLE_DIGITS: usize = 18;
const FRACTION_DIGITS: u32 = 9;

/// 10^9: parts of a whole number.
const FRACTION: i128 = 10_i128.pow(FRACTION_DIGITS);

/// The largest whole number, 10^18, in parts.
const LIMIT: i128 = 10_i128.pow(WHOLE_DIGITS as u32) * FRACTION;

/// The longest text that is read as a version, in bytes.
const TEXT_MAX: usize = 64;

/// The longest reorder window. Longer ones would let people forget that events wait.
pub const WINDOW_MAX: Duration = Duration::from_secs(3600);

/// Rule for the provider's order in a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioning {
    /// Place of the version in an event.
    pub by: Place,
    /// Treatment of late events.
    pub late: Late,
    /// Time for which an event is held back, so that lower versions can still come before it; `None`
    /// gives each event its place on arrival.
    pub window: Option<Duration>,
}

/// Treatment of a late event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Late {
    /// Handled as any other event; it is only counted.
    Apply,
    /// Handled, and marked as late for reducers and receivers.
    #[default]
    Mark,
    /// Passed by every handler.
    Skip,
}

/// A text that names no treatment of late events.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not one of apply, mark and skip")]
pub struct InvalidLate(String);

impl Late {
    /// Its name in flags, JSON and the database.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Mark => "mark",
            Self::Skip => "skip",
        }
    }
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Late {
    type Err = InvalidLate;

    fn from_str(text: &str) -> Result<Self, InvalidLate> {
        let words = [Self::Apply, Self::Mark, Self::Skip];
        let found = words.into_iter().find(|late| late.word() == text);
        found.ok_or_else(|| InvalidLate(text.chars().take(80).collect()))
    }
}

/// A version in the form in which it is stored: texts of one length that sort as the versions do, in
/// both databases. A later rule of the same hook sorts after every version of an earlier rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(String);

impl Version {
    /// Length of the number of the rule at the beginning of [`Version::as_str`].
    pub const RULE_LEN: usize = 8;

    /// The version of an event; `None` if it has none that can be read. `rule` is the number of the
    /// hook's rule, which rises when the place changes.
    pub fn of(by: &Place, rule: u32, headers: &HeaderMap, body: &[u8]) -> Option<Self> {
        let found = by.find(headers, body).ok()?;
        let parts = parts(std::str::from_utf8(&found).ok()?)?;
        // Moves the range to positive numbers, whose digits sort as the numbers do.
        Some(Self(format!("{rule:08x}{:028}", parts + LIMIT)))
    }

    /// A version read from the database.
    pub fn from_text(text: String) -> Self {
        Self(text)
    }

    /// The text to store.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if an event with this version is late after one with `highest`. Versions of different rules
    /// cannot be compared.
    pub fn is_late_after(&self, highest: &Self) -> bool {
        self < highest && self.0.get(..Self::RULE_LEN) == highest.0.get(..Self::RULE_LEN)
    }
}

/// A number or an RFC 3339 time as billionths. A time counts in seconds since 1970.
fn parts(text: &str) -> Option<i128> {
    if text.len() > TEXT_MAX {
        return None;
    }
    let parts = number(text).or_else(|| {
        let at: jiff::Timestamp = text.parse().ok()?;
        Some(at.as_nanosecond())
    })?;
    (parts.abs() < LIMIT).then_some(parts)
}

/// A decimal number such as `17`, `-1.5` or `1.7e9`, exactly.
fn number(text: &str) -> Option<i128> {
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (is_negative, digits) = match digits.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, digits),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = || whole.bytes().chain(fraction.bytes());
    if whole.is_empty() || !all().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // At most 64 digits were given, of which those that count fit.
    let scale = i32::try_from(fraction.len()).ok()?;
    let shift = exponent
        .checked_sub(scale)?
        .checked_add(FRACTION_DIGITS as i32)?;
    let mut value: i128 = 0;
    let keep = all()
        .count()
        .saturating_sub(usize::try_from(-shift.min(0)).ok()?);
    for digit in all().take(keep) {
        value = value
            .checked_mul(10)?
            .checked_add(i128::from(digit - b'0'))?;
    }
    if value != 0 && shift > 0 {
        let factor = 10_i128.checked_pow(u32::try_from(shift).ok()?)?;
        value = value.checked_mul(factor)?;
    }
    Some(if is_negative { -value } else { value })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn version(rule: u32, text: &str) -> Option<Version> {
        let mut headers = HeaderMap::new();
        headers.insert("x-version", text.parse().unwrap());
        let by: Place = "header:x-version".parse().unwrap();
        Version::of(&by, rule, &headers, b"")
    }

    #[test]
    fn versions_sort_as_numbers_and_times_do() {
        let sorted = [
            "-999999999999999999",
            "-1.5",
            "-1",
            "0",
            "0.000000001",
            "1e-3",
            "9",
            "10",
            "1.7e9",
            "1700000000.000100",
            "1700000000.0002",
            "2023-11-14T22:13:21Z",
            "2023-11-14T22:13:21.5Z",
            "2023-11-15T00:13:22+02:00",
            "1700000002.5",
            "999999999999999999",
        ];
        let texts: Vec<_> = sorted
            .iter()
            .map(|text| version(3, text).unwrap())
            .collect();
        for pair in texts.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
            assert!(pair[0].is_late_after(&pair[1]) && !pair[1].is_late_after(&pair[0]));
            assert_eq!(pair[0].as_str().len(), pair[1].as_str().len());
        }
        assert_eq!(version(1, "1.70"), version(1, "17e-1"));
        assert_eq!(version(1, "1e-2147483648"), version(1, "0"));
        assert_eq!(version(1, "1700000000"), version(1, "2023-11-14T22:13:20Z"));
        assert!(
            !version(1, "5")
                .unwrap()
                .is_late_after(&version(1, "5.0").unwrap())
        );
    }

    #[test]
    fn a_new_rule_is_above_every_version_of_the_old_one_and_makes_nothing_late() {
        let (old, new) = (version(1, "999").unwrap(), version(2, "-5").unwrap());
        assert!(old < new && !old.is_late_after(&new));
    }

    #[test]
    fn other_texts_are_no_versions() {
        for text in [
            "x",
            "1,5",
            "1e",
            "1e99",
            "1e-",
            "1e2147483647",
            ".5",
            "--1",
            "+1",
            "0x10",
            "NaN",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "1000000000000000000",
            "99999999999999999999999999999999999999999999999999999999999999999999",
        ] {
            assert_eq!(version(1, text), None, "{text}");
        }
        let by: Place = "/a".parse().unwrap();
        for body in ["", "{}", r#"{"a":null}"#, r#"{"a":{}}"#, r#"{"a":true}"#] {
            let found = Version::of(&by, 1, &HeaderMap::new(), body.as_bytes());
            assert_eq!(found, None, "{body}");
        }
        let found = Version::of(&by, 1, &HeaderMap::new(), br#"{"a":"7"}"#);
        assert_eq!(found, version(1, "7"));
    }

    #[test]
    fn a_treatment_reads_back_as_it_was_written() {
        for late in [Late::Apply, Late::Mark, Late::Skip] {
            assert_eq!(late.word().parse(), Ok(late));
        }
        assert!("stale".parse::<Late>().is_err());
    }
}
