//! Replays: a forward or pull handler delivers stored events again.

use serde::{Deserialize, Serialize};

use crate::domain::event::EventId;
use crate::domain::name::{Name, StreamName};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;

/// Events to replay: a range of a stream, or a dead letter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplaySpec {
    /// The stream.
    pub stream: Option<StreamName>,
    /// First event; by default the first stored one.
    pub from: Option<Seq>,
    /// Last event; by default the last that the handler has passed.
    pub to: Option<Seq>,
    /// The dead letter, in place of a range.
    pub dead: Option<EventId>,
    /// The handler; optional if only one of the hook's handlers delivers.
    pub handler: Option<Name>,
    /// True to return the plan without a replay.
    pub dry_run: bool,
}

/// A running replay, or the plan of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Number of the replay, which its deliveries carry; `null` for a plan.
    pub id: Option<i64>,
    /// The stream.
    pub stream: StreamName,
    /// The handler.
    pub handler: Name,
    /// Next event.
    pub next: Seq,
    /// Last event.
    pub to: Seq,
    /// Number of remaining events.
    pub events: u64,
    /// `flowing`, `waiting` or `held`.
    pub condition: String,
    /// Cause for which it waits or is held.
    pub reason: Option<String>,
    /// Time of the next try.
    pub retry_at: Option<Timestamp>,
}
