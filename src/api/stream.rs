//! Streams and the cursors in them, and the state a reduce handler made of one.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Deliveries;
use crate::domain::event::EventId;
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;

/// The folded JSON of one stream. Position and era together name it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The hook.
    pub hook: Name,
    /// The ordering key of the stream; empty for the hook's only stream.
    pub stream: OrderingKey,
    /// The last event in it.
    pub position: Position,
    /// Counts what changed it other than an event.
    pub era: i64,
    /// The newest event of the stream.
    pub head: Seq,
    /// The state as it was folded; `null` before the first event.
    pub state: Option<Box<RawValue>>,
    /// When it last changed; none before the first event.
    pub updated_at: Option<Timestamp>,
}

/// One handler's cursor in one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamRow {
    /// The stream, `HOOK` or `HOOK/KEY`.
    pub stream: StreamName,
    /// The handler.
    pub handler: Name,
    /// `flowing`, `waiting`, `held`, or `paused` where it has work and its hook is paused.
    pub condition: String,
    /// The last event applied.
    pub position: Position,
    /// The newest event.
    pub head: Seq,
    /// How many are still to apply.
    pub behind: u64,
    /// The age of the oldest of them.
    pub oldest_ms: Option<u64>,
    /// Tries so far of the next event.
    pub tries: u32,
    /// Why it is set aside.
    pub reason: Option<String>,
    /// True if an operator holds it; false if it failed.
    #[serde(default)]
    pub by_operator: bool,
    /// When it is tried again.
    pub retry_at: Option<Timestamp>,
    /// The event it needs next; none at the head, and in lists that leave it out.
    #[serde(default)]
    pub next: Option<EventId>,
    /// The lane its turns are taken in, such as `default-1-5`.
    pub lane: Option<String>,
}

/// One stream with all that reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Which one.
    pub stream: StreamName,
    /// Its newest event.
    pub head: Seq,
    /// The last event that retention has removed; 0 while it has every event.
    #[serde(default)]
    pub floor: Seq,
    /// Where it stands among the lanes.
    pub slot: u16,
    /// The lane its slot points to.
    pub lane: String,
    /// Its cursors.
    pub cursors: Vec<StreamRow>,
    /// What those that are behind need next.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
    /// Deliveries of its hook's handlers, over all streams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<Deliveries>,
}

/// The events that a handler needs next, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// The handler.
    pub handler: Name,
    /// As many of them as were asked for.
    pub events: Vec<WaitingEvent>,
}

/// An event that waits, without the whole of its body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaitingEvent {
    /// Its id.
    pub event: EventId,
    /// Its place in the stream.
    pub seq: Seq,
    /// When its last byte was in.
    pub received_at: Timestamp,
    /// The length of its body, in bytes.
    pub size: u64,
    /// How its body begins, what is not UTF-8 replaced.
    pub start: String,
}

/// Cursors to let flow again, waiting or held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// The stream.
    pub stream: StreamName,
    /// One handler; none for all that are set aside.
    #[serde(default)]
    pub handler: Option<Name>,
}

/// How many cursors flow again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Zero when none was set aside.
    pub released: u64,
}

/// Cursors to set aside by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// The stream.
    pub stream: StreamName,
    /// One handler; none for all.
    #[serde(default)]
    pub handler: Option<Name>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// How many cursors are held now that were not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Zero when all were held already.
    pub held: u64,
}

/// The event that a cursor shall pass without applying it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skip {
    /// The stream.
    pub stream: StreamName,
    /// The handler; may be left out where only one is set aside.
    #[serde(default)]
    pub handler: Option<Name>,
    /// Its next event, and no other: guards against a cursor that moved meanwhile.
    pub event: EventId,
}

/// An event that is now in the dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Which one.
    pub skipped: EventId,
    /// The handler that passed it.
    pub handler: Name,
    /// Where its cursor is now.
    pub position: Position,
}
