//! Retention: how long events are kept once every handler has passed them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::time::{millis, parse_duration};

/// Time for which providers resend events. A repeat that arrives after its event was removed counts as
/// a new event.
pub const RETRIES_LAST: Duration = Duration::from_secs(3 * 86_400);

/// Retention of a hook. Written `30d`, `10GB` or `forever`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Events are never removed, so states can be rebuilt from the first event.
    #[default]
    Forever,
    /// Events are kept for this time after they were received.
    For(Duration),
    /// The newest events are kept, up to this many bytes of bodies and headers.
    Bytes(u64),
}

/// A text that is not a retention.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is not how long to keep events: a time such as 30d or 12h, an amount such as 10GB, or forever"
)]
pub struct InvalidKeep(String);

const SPANS: [(&str, i64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Largest unit first within decimal and binary units, so that a size is displayed in the unit it was
/// given in.
const AMOUNTS: [(&str, u64); 9] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl Keep {
    /// True if a provider may resend an event after it was removed.
    pub fn is_short(self) -> bool {
        matches!(self, Self::For(age) if age < RETRIES_LAST)
    }
}

impl FromStr for Keep {
    type Err = InvalidKeep;

    fn from_str(text: &str) -> Result<Self, InvalidKeep> {
        let wrong = || InvalidKeep(text.chars().take(80).collect());
        if text == "forever" {
            return Ok(Self::Forever);
        }
        if let Ok(age) = parse_duration(text) {
            return if age.is_zero() {
                Err(wrong())
            } else {
                Ok(Self::For(age))
            };
        }
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(digits);
        let unit = AMOUNTS.iter().find(|(name, _)| *name == unit);
        let (_, unit) = unit.ok_or_else(wrong)?;
        let number: Option<u64> = number.parse().ok();
        let bytes = number.and_then(|number| number.checked_mul(*unit));
        match bytes.filter(|bytes| *bytes > 0 && i64::try_from(*bytes).is_ok()) {
            Some(bytes) => Ok(Self::Bytes(bytes)),
            None => Err(wrong()),
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str("forever"),
            Self::For(age) => {
                let age = millis(*age);
                let (unit, of) = SPANS
                    .into_iter()
                    .find(|(_, of)| age % of == 0)
                    .unwrap_or(("ms", 1));
                write!(f, "{}{unit}", age / of)
            }
            Self::Bytes(bytes) => {
                let (unit, of) = AMOUNTS
                    .into_iter()
                    .find(|(_, of)| bytes % of == 0)
                    .unwrap_or(("B", 1));
                write!(f, "{}{unit}", bytes / of)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_as_it_was_written() {
        for text in [
            "forever", "30d", "12h", "90m", "1500ms", "10GB", "3TB", "64MiB", "1B",
        ] {
            assert_eq!(text.parse::<Keep>().unwrap().to_string(), text);
        }
        assert_eq!("48h".parse::<Keep>().unwrap().to_string(), "2d");
        assert_eq!("1000MB".parse::<Keep>().unwrap().to_string(), "1GB");
    }

    #[test]
    fn what_says_nothing_is_refused_with_what_would() {
        for wrong in [
            "",
            "0d",
            "0GB",
            "30",
            "GB",
            "d",
            "-1d",
            "10 GB",
            "10gb",
            "30days",
            "for ever",
            "1.5GB",
            "99999999999999TB",
            "9999999TB",
            "400000d",
            "10GB ",
        ] {
            let error = wrong.parse::<Keep>().unwrap_err().to_string();
            assert!(error.contains("such as 30d or 12h"), "{wrong}: {error}");
        }
    }

    #[test]
    fn less_than_three_days_is_less_than_providers_try_again() {
        let is_short = |text: &str| text.parse::<Keep>().unwrap().is_short();
        assert!(is_short("71h") && !is_short("72h") && !is_short("forever") && !is_short("1KB"));
    }
}
