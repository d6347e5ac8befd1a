//! The feed of a hook, and exports: parts of the log with the cursor behind each.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{PullEvent, SCHEMA};
use crate::domain::name::StreamName;
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;

/// A page in the order of the log. It may be empty although there is more: a reader has everything once
/// `next` is `end`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogPage<T> {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// Every event that was acknowledged before this time is up to `end`. Of states: the time at which they
    /// were read.
    pub at: Timestamp,
    /// The items.
    pub items: Vec<T>,
    /// Value of `after` for the next page.
    pub next: String,
    /// Cursor of the end of the log, as far as it is complete.
    pub end: String,
    /// Number of items between `next` and `end` at most, those of other hooks included.
    pub left: u64,
}

impl<T> LogPage<T> {
    /// A page that is complete up to `at`.
    pub fn new(at: Timestamp, items: Vec<T>, next: String, end: String, left: u64) -> Self {
        Self {
            schema: SCHEMA,
            at,
            items,
            next,
            end,
            left,
        }
    }
}

/// An event of a feed.
#[derive(Clone, Debug, Serialize)]
pub struct FeedEvent {
    /// Value of `after` for the events behind this one.
    pub cursor: String,
    /// Its stream, `HOOK` or `HOOK/KEY`.
    pub stream: StreamName,
    /// The event, with the fields that deliveries have.
    #[serde(flatten)]
    pub event: PullEvent,
}

/// The folded state of one stream in an export.
#[derive(Clone, Debug, Serialize)]
pub struct ExportedState {
    /// Value of `after` for the streams behind this one.
    pub cursor: String,
    /// The stream, `HOOK` or `HOOK/KEY`.
    pub stream: StreamName,
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
