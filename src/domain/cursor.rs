//! A handler's cursor in one stream: its position, its result, and whether it may move.
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

/// Identifies a cursor: one handler in one stream. Lanes schedule cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CursorId {
    /// The stream that it reads.
    pub stream: StreamId,
    /// The handler that it belongs to.
    pub handler: HandlerId,
}

/// Tells whether a cursor may move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Moves whenever there is an event after its position.
    #[default]
    Flowing,
    /// Set aside until a retry; its lane goes on without it.
    Waiting {
        /// Time of the next try.
        retry_at: Timestamp,
        /// Number of failed tries of the event.
        tries: u32,
        /// Error of the last try.
        reason: String,
    },
    /// Set aside until an operator acts.
    Held {
        /// Error of the last try, or name and reason of the operator, in words for people.
        reason: String,
        /// Cause of the hold.
        by: Holder,
    },
}

/// Cause of a hold. Stored beside the reason, which is text for people and never parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The handler failed, or an event is missing or damaged.
    Failure,
    /// An operator holds the cursor on purpose.
    Operator,
}

impl Holder {
    /// The holder's name in the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Operator => "operator",
        }
    }
}

impl Condition {
    /// The condition of a cursor held by an operator, with an optional reason.
    pub fn held_by(operator: &str, reason: Option<&str>) -> Self {
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        Self::Held {
            reason: format!("held by {operator}{reason}"),
            by: Holder::Operator,
        }
    }

    /// True if an operator holds the cursor; false if its handler failed, or it is not held.
    pub fn is_by_operator(&self) -> bool {
        self.holder() == Some(Holder::Operator)
    }

    /// Cause of the hold; `None` unless the cursor is held.
    pub fn holder(&self) -> Option<Holder> {
        match self {
            Self::Held { by, .. } => Some(*by),
            _ => None,
        }
    }

    /// The condition's name in tables, JSON and the database.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Flowing => "flowing",
            Self::Waiting { .. } => "waiting",
            Self::Held { .. } => "held",
        }
    }

    /// Reason for being set aside; `None` while it flows.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Flowing => None,
            Self::Waiting { reason, .. } | Self::Held { reason, .. } => Some(reason),
        }
    }

    /// Number of failed tries of the next event.
    pub fn tries(&self) -> u32 {
        match self {
            Self::Waiting { tries, .. } => *tries,
            _ => 0,
        }
    }
}

/// Counter in a cursor's row, raised by every change other than an advance. Equal era and position mean
/// equal bytes of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Era(pub i64);

/// Outcome of an event in a fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The event is part of the state.
    Folded,
    /// The event is in the dead letters.
    Skipped,
}

/// Hash over everything that a fold went through, which shows that no event was lost, repeated or
/// reordered: `chain(n) = SHA-256(chain(n-1) ‖ event id ‖ outcome byte)`, empty at the base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain(Vec<u8>);

impl Chain {
    /// A chain read from the database.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes to store: none, or 32.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The chain after one more event.
    #[must_use]
    pub fn next(&self, event: EventId, applied: Applied) -> Self {
        let mut hash = Sha256::new();
        hash.update(&self.0);
        hash.update(event.as_bytes());
        hash.update([u8::from(applied == Applied::Skipped)]);
        Self(hash.finalize().to_vec())
    }
}

/// A cursor's row. Position and state are in one row, so no crash can separate them.
#[derive(Clone, Debug, PartialEq)]
pub struct Cursor {
    /// Identifies the cursor.
    pub id: CursorId,
    /// Seq of the last event applied.
    pub position: Position,
    /// Identifies the state together with the position.
    pub era: Era,
    /// The folded state as JSON; `None` before the first event.
    pub state: Option<String>,
    /// Hash over the events that were folded.
    pub chain: Chain,
    /// Tells whether it may move.
    pub condition: Condition,
}

impl Cursor {
    /// A cursor that has no row yet, at the beginning of its stream.
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

/// An event that a cursor skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Seq of the event.
    pub seq: Seq,
    /// Reason for skipping it.
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
