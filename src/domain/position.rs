//! The order of a stream, and how far a cursor has come in it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The gapless number of an event in its stream: 1, 2, 3 …
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub i64);

/// How far a handler has come in one stream: the seq of the last event applied. It moves only from
/// where its mover last saw it, so two that both believe they own a cursor cannot both move it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Position(pub i64);

impl Position {
    /// The only event that may be applied now; seqs have no gaps.
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }

    /// Events still to apply before `head` is reached; zero when caught up.
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
