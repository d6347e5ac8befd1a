//! The order of all events of a database, and a reader's cursor in it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Serialize, Serializer};

/// Place of an event among all events of the database. It grows with every event, is never given twice,
/// and keeps the order of each stream. Places have gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogPlace(pub i64);

/// The point up to which a reader has read a feed. Readers return it as they got it; it is opaque to
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FeedCursor {
    /// Number of the database that gave it.
    pub log: i64,
    /// Place of the last event that the reader has passed.
    pub place: LogPlace,
    /// Number of removals from the hook that the reader knows of.
    pub cuts: i64,
}

/// A text that is not a cursor of a feed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not the cursor of a feed; give it back as the feed gave it")]
pub struct InvalidFeedCursor(String);

const NUMBERS: usize = 3;
const NUMBER_LEN: usize = size_of::<i64>();

impl fmt::Display for FeedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: [i64; NUMBERS] = [self.log, self.place.0, self.cuts];
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl Serialize for FeedCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for FeedCursor {
    type Err = InvalidFeedCursor;

    fn from_str(text: &str) -> Result<Self, InvalidFeedCursor> {
        let wrong = || InvalidFeedCursor(text.chars().take(80).collect());
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        let (numbers, rest) = bytes.as_chunks::<NUMBER_LEN>();
        let numbers: Vec<_> = numbers.iter().map(|n| i64::from_be_bytes(*n)).collect();
        match (&numbers[..], rest) {
            (&[log, place, cuts], []) if place >= 0 => Ok(Self {
                log,
                place: LogPlace(place),
                cuts,
            }),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_as_it_was_written_and_nothing_else_is_one() {
        let cursor = FeedCursor {
            log: 7,
            place: LogPlace(i64::MAX),
            cuts: 0,
        };
        let text = cursor.to_string();
        assert_eq!(text.parse(), Ok(cursor));
        let before = FeedCursor {
            place: LogPlace(-1),
            ..cursor
        };
        for wrong in ["", "x", &text[1..], &before.to_string(), "\u{e9}"] {
            assert!(wrong.parse::<FeedCursor>().is_err(), "{wrong}");
        }
    }
}
