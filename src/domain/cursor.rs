//! A handler's place in one stream, and whether it may move.
//!
//! ```text
//!             a try failed                  tries used up, or an error that cannot pass
//!   flowing ───────────────▶ waiting ──────────────────────────────▶ held
//!      ▲                        │ its time has come, or `streams retry`  │
//!      └────────────────────────┴────────────────────────────────────────┘
//! ```
//! *Paused* is not here: it is the mode of a lane or a hook, not of a cursor.

use sha2::{Digest, Sha256};

use super::event::{EventId, StreamId};
use super::hook::HandlerId;
use super::position::{Position, Seq};
use super::time::Timestamp;

/// One handler in one stream: what lanes schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CursorId {
    /// The stream it reads.
    pub stream: StreamId,
    /// The handler it belongs to.
    pub handler: HandlerId,
}

/// Whether a cursor may move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// It moves whenever there is something after its position.
    #[default]
    Flowing,
    /// Set aside until a moment; its lane goes on without it.
    Waiting {
        /// When the next try is due.
        retry_at: Timestamp,
        /// Tries so far of the event that failed.
        tries: u32,
        /// What went wrong.
        reason: String,
    },
    /// Set aside until an operator acts.
    Held {
        /// What went wrong, or who holds it.
        reason: String,
    },
}

impl Condition {
    /// What the reason of a cursor begins with that an operator holds; his name follows.
    pub const HELD_BY: &str = "held by ";

    /// True if an operator holds the cursor; false if its handler failed, or nothing is wrong.
    pub fn is_by_operator(&self) -> bool {
        matches!(self, Self::Held { reason } if reason.starts_with(Self::HELD_BY))
    }

    /// The word for it in tables, JSON and the database.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Flowing => "flowing",
            Self::Waiting { .. } => "waiting",
            Self::Held { .. } => "held",
        }
    }

    /// Why it is set aside; none while it flows.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Flowing => None,
            Self::Waiting { reason, .. } | Self::Held { reason } => Some(reason),
        }
    }

    /// Tries so far of the event that is next.
    pub fn tries(&self) -> u32 {
        match self {
            Self::Waiting { tries, .. } => *tries,
            _ => 0,
        }
    }
}

/// A counter in a cursor's row, raised by every change that is not an advance. Position and era
/// together name one state: equal pairs mean equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Era(pub i64);

/// What became of an event in a fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is in the state.
    Folded,
    /// It is in the dead letters.
    Skipped,
}

/// One value that shows that nothing was lost, repeated or reordered on the way to a position:
/// `chain(n) = SHA-256(chain(n-1) ‖ event id ‖ outcome byte)`, empty at the base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain(Vec<u8>);

impl Chain {
    /// A chain as the database keeps it.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The chain as the database keeps it: empty, or 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The chain one event further.
    #[must_use]
    pub fn next(&self, event: EventId, applied: Applied) -> Self {
        let mut hash = Sha256::new();
        hash.update(&self.0);
        hash.update(event.as_bytes());
        hash.update([u8::from(applied == Applied::Skipped)]);
        Self(hash.finalize().to_vec())
    }
}

/// A cursor's row: its place and its result, which no crash can separate.
#[derive(Clone, Debug, PartialEq)]
pub struct Cursor {
    /// Whose row it is.
    pub id: CursorId,
    /// The seq of the last event applied.
    pub position: Position,
    /// Names the state together with the position.
    pub era: Era,
    /// The folded JSON; none before the first event.
    pub state: Option<String>,
    /// Shows what the fold went through.
    pub chain: Chain,
    /// Whether it may move.
    pub condition: Condition,
}

impl Cursor {
    /// A cursor that has no row yet.
    pub fn new(id: CursorId) -> Self {
        Self {
            id,
            position: Position::default(),
            era: Era(1),
            state: None,
            chain: Chain::default(),
            condition: Condition::Flowing,
        }
    }
}

/// An event that a cursor passed without applying it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which one.
    pub seq: Seq,
    /// Why.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_tells_order_repetition_and_skips_apart() {
        let [a, b] = [EventId::from_bytes([1; 16]), EventId::from_bytes([2; 16])];
        let fold = |events: &[(EventId, Applied)]| {
            events
                .iter()
                .fold(Chain::default(), |chain, (id, applied)| {
                    chain.next(*id, *applied)
                })
        };
        let right = fold(&[(a, Applied::Folded), (b, Applied::Folded)]);
        for other in [
            &[(b, Applied::Folded), (a, Applied::Folded)][..],
            &[
                (a, Applied::Folded),
                (a, Applied::Folded),
                (b, Applied::Folded),
            ],
            &[(a, Applied::Folded), (b, Applied::Skipped)],
            &[(a, Applied::Folded)],
        ] {
            assert_ne!(fold(other), right);
        }
    }
}
