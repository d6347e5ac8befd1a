//! Events: the answer to the one who sent it, and what people see of it later.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::event::EventId;
use crate::domain::key::KeyId;
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;

/// The answer to a webhook that is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The event; of a duplicate, the first one.
    pub event: EventId,
    /// The hook it came to.
    pub hook: Name,
    /// The ordering key of its stream; empty for the hook's only stream.
    pub stream: OrderingKey,
    /// Its place in the stream.
    pub seq: Seq,
    /// When its last byte was in.
    pub received_at: Timestamp,
    /// Whether it had been accepted before.
    pub duplicate: bool,
}

/// A stored event. Its body is one of `body` and `body_base64`, or neither in lists that leave it out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// Its id.
    pub event: EventId,
    /// Its stream, `HOOK` or `HOOK/KEY`.
    pub stream: StreamName,
    /// Its place there.
    pub seq: Seq,
    /// When its last byte was in.
    pub received_at: Timestamp,
    /// The length of its body, in bytes.
    pub size: u64,
    /// The access key it came with; none when it came through the socket.
    pub key: Option<KeyId>,
    /// The delivery id or idempotency key its sender gave.
    pub dedupe_key: Option<String>,
    /// The query of the URL to which it was posted, as sent and without `?`; none where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Its headers, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Its body as sent, where that is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Its body as sent, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// What became of it, handler by handler.
    #[serde(default)]
    pub fate: Vec<Fate>,
    /// Why it is in the dead letters; none when it is not, and where `fate` is left out.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What became of an event at one handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fate {
    /// The handler.
    pub handler: Name,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was skipped, or why it cannot be folded.
    pub reason: Option<String>,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is still to come.
    Waiting,
    /// It is next, and its cursor is held.
    Held,
    /// It is in the state.
    Folded,
    /// The destination or a consumer has acknowledged it.
    Delivered,
    /// Its handler does not take it, or delivered a newer one in its place.
    Passed,
    /// It is in the dead letters.
    Skipped,
}

impl Outcome {
    /// The word for it in tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Held => "held",
            Self::Folded => "folded",
            Self::Delivered => "delivered",
            Self::Passed => "passed",
            Self::Skipped => "skipped",
        }
    }
}

/// An acknowledged event that a failover of the database has lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostEvent {
    /// Its id, which its sender was given.
    pub event: EventId,
    /// Its hook; none when that is gone.
    pub hook: Option<Name>,
    /// Its stream; none when that is lost too.
    pub stream: Option<StreamName>,
    /// The place it had, which another event may have now.
    pub seq: Seq,
    /// The node that had acknowledged it.
    pub node: String,
    /// When it was missed.
    pub found_at: Timestamp,
}

/// What an operator has said to know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenLost {
    /// Lost events.
    pub events: u64,
}
