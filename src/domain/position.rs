//! Seq and position: the order of a stream, and how far a cursor has come in it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of an event in its stream, without gaps: 1, 2, 3 …
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub i64);

/// Seq of the last event that a handler has applied in a stream. It moves by compare-and-set from the
/// last known value, so two nodes that both believe they own a cursor cannot both move it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Position(pub i64);

impl Position {
    /// Seq of the only event that may be applied next; seqs have no gaps.
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }

    /// Number of events up to `head`; zero when caught up.
    pub fn behind(self, head: Seq) -> u64 {
        u64::try_from(head.0.saturating_sub(self.0)).unwrap_or(0)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
