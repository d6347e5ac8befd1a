//! Streams with their cursors, and the state that a reduce handler computed.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::condition::Condition;
use super::{Deliveries, OrderCounts};
use crate::domain::event::EventId;
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;

/// The folded state of one stream, identified by position and era.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The hook.
    pub hook: Name,
    /// Ordering key of the stream; empty for the stream without a key.
    pub stream: OrderingKey,
    /// Seq of the last event in the state.
    pub position: Position,
    /// Counter of changes other than by an event.
    pub era: i64,
    /// Seq of the newest event of the stream.
    pub head: Seq,
    /// The state as JSON; `null` before the first event.
    pub state: Option<Box<RawValue>>,
    /// Time of its last change; `null` before the first event.
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
    pub condition: Condition,
    /// The last event applied.
    pub position: Position,
    /// Seq of the newest event.
    pub head: Seq,
    /// Number of events still to apply.
    pub behind: u64,
    /// Age of the oldest of them, in milliseconds.
    pub oldest_ms: Option<u64>,
    /// Number of failed tries of the next event.
    pub tries: u32,
    /// Reason for being set aside.
    pub reason: Option<String>,
    /// True if an operator holds it, false if it failed.
    #[serde(default)]
    pub by_operator: bool,
    /// Time of the next try.
    pub retry_at: Option<Timestamp>,
    /// The event that it needs next; `null` at the head, and in lists that leave it out.
    #[serde(default)]
    pub next: Option<EventId>,
    /// The lane its turns are taken in, such as `default-1-5`.
    pub lane: Option<LaneId>,
}

/// A stream with all of its cursors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Name of the stream.
    pub stream: StreamName,
    /// Seq of its newest event.
    pub head: Seq,
    /// Seq of the last event that retention has removed; 0 while it has every event.
    #[serde(default)]
    pub floor: Seq,
    /// Counts of the provider's order; absent for a hook without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderCounts>,
    /// Its slot, which determines its lane.
    pub slot: u16,
    /// The lane its slot points to.
    pub lane: LaneId,
    /// Its cursors.
    pub cursors: Vec<StreamRow>,
    /// For each cursor that is behind, the events it needs next.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
    /// Outcomes of the deliveries of its hook's handlers, over all streams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<Deliveries>,
}

/// The next events of a handler, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// The handler.
    pub handler: Name,
    /// The events, as many as were requested.
    pub events: Vec<WaitingEvent>,
}

/// A waiting event, with only the beginning of its body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaitingEvent {
    /// Id of the event.
    pub event: EventId,
    /// Its place in the stream.
    pub seq: Seq,
    /// Time at which its last byte arrived.
    pub received_at: Timestamp,
    /// Length of its body, in bytes.
    pub size: u64,
    /// Beginning of its body; bytes that are not UTF-8 are replaced.
    pub start: String,
}

/// Request to release set-aside cursors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// The stream.
    pub stream: StreamName,
    /// Only this handler; `null` for all that are set aside.
    #[serde(default)]
    pub handler: Option<Name>,
}

/// Result of releasing cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryResult {
    /// Number of cursors released; zero when none was set aside.
    pub released: u64,
}

/// Request to hold cursors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// The stream.
    pub stream: StreamName,
    /// Only this handler; `null` for all.
    #[serde(default)]
    pub handler: Option<Name>,
    /// Reason, in the operator's words.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Result of holding cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldResult {
    /// Number of newly held cursors; zero when all were held already.
    pub held: u64,
}

/// Request to skip an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skip {
    /// The stream.
    pub stream: StreamName,
    /// The handler; may be left out if only one cursor is set aside.
    #[serde(default)]
    pub handler: Option<Name>,
    /// Id of the cursor's next event. The request is refused if the cursor needs another one.
    pub event: EventId,
}

/// Result of skipping an event, which is in the dead letters now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkipResult {
    /// The event.
    pub skipped: EventId,
    /// The handler that skipped it.
    pub handler: Name,
    /// New position of its cursor.
    pub position: Position,
}
