//! Replays: stored events that a forward or pull handler delivers once more.

use serde::{Deserialize, Serialize};

use crate::domain::event::EventId;
use crate::domain::name::{Name, StreamName};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;

/// Which events shall be delivered once more: a part of a stream, or one dead letter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplaySpec {
    /// The stream.
    pub stream: Option<StreamName>,
    /// The first event; the first that is kept unless it is given.
    pub from: Option<Seq>,
    /// The last event; the last that the handler has passed unless it is given.
    pub to: Option<Seq>,
    /// The dead letter, instead of a part of a stream.
    pub dead: Option<EventId>,
    /// The handler; may be left out where the hook has one that delivers.
    pub handler: Option<Name>,
    /// Only look.
    pub dry_run: bool,
}

/// A replay under way, or one that would be begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Its number; deliveries carry it. None while it is only looked at.
    pub id: Option<i64>,
    /// The stream.
    pub stream: StreamName,
    /// The handler.
    pub handler: Name,
    /// The next event.
    pub next: Seq,
    /// The last event.
    pub to: Seq,
    /// Number of events still to deliver.
    pub events: u64,
    /// `flowing`, `waiting` or `held`.
    pub condition: String,
    /// Why it waits or is held.
    pub reason: Option<String>,
    /// When it is tried again.
    pub retry_at: Option<Timestamp>,
}
