//! Events: the answer to their sender, and their later display.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::event::EventId;
use crate::domain::key::KeyId;
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;
use crate::domain::version::Late;

/// Answer to a webhook that is durably stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Id of the event; of a duplicate, the id of the first one.
    pub event: EventId,
    /// Hook that received it.
    pub hook: Name,
    /// Ordering key of its stream; empty for the stream without a key.
    pub stream: OrderingKey,
    /// Its place in the stream; `null` while it is held back for a reorder window.
    pub seq: Option<Seq>,
    /// Time at which its last byte arrived.
    pub received_at: Timestamp,
    /// Time until which it is held back; absent for an event with a seq.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_until: Option<Timestamp>,
    /// True if the event had been accepted before.
    pub duplicate: bool,
}

/// A stored event. Its body is in `body` or `body_base64`, or in neither where lists leave it out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// Id of the event.
    pub event: EventId,
    /// Its stream, `HOOK` or `HOOK/KEY`.
    pub stream: StreamName,
    /// Its place in the stream; 0 while it is held back.
    pub seq: Seq,
    /// Time at which its last byte arrived.
    pub received_at: Timestamp,
    /// Time until which it is held back for a reorder window; absent for an event with a seq.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_until: Option<Timestamp>,
    /// Its treatment, if an event with a higher version came before it: `apply`, `mark` or `skip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Late>,
    /// Length of its body, in bytes.
    pub size: u64,
    /// Access key that it was sent with; `null` through the socket.
    pub key: Option<KeyId>,
    /// Delivery id or idempotency key given by the sender.
    pub dedupe_key: Option<String>,
    /// Query of the URL to which it was posted, as sent and without `?`; `null` when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Headers, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Body as sent, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Body in base64, if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// Outcome for each handler.
    #[serde(default)]
    pub fate: Vec<Fate>,
    /// Reason for being in the dead letters; `null` when it is not there, and where `fate` is left out.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Outcome of an event for one handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fate {
    /// The handler.
    pub handler: Name,
    /// The outcome.
    pub outcome: Outcome,
    /// Reason why it was skipped or cannot be folded.
    pub reason: Option<String>,
}

/// Outcome of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The handler has not reached it yet.
    Waiting,
    /// It is the next event of a held cursor.
    Held,
    /// It is part of the state, or was delivered.
    Folded,
    /// The destination or a consumer acknowledged it.
    Delivered,
    /// The filter of the handler excludes it, or a newer event was delivered in its place.
    Passed,
    /// It is in the dead letters.
    Skipped,
}

impl Outcome {
    /// Its name in tables.
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
    /// Id that its sender was given.
    pub event: EventId,
    /// Its hook; `null` when the hook no longer exists.
    pub hook: Option<Name>,
    /// Its stream; `null` when that is lost too.
    pub stream: Option<StreamName>,
    /// Its former place in the stream, which another event may have now; `null` if it was held back for a
    /// reorder window.
    pub seq: Option<Seq>,
    /// Node that acknowledged it.
    pub node: String,
    /// Time at which it was found missing.
    pub found_at: Timestamp,
}

/// Result of confirming lost events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostConfirmed {
    /// Number of lost events that are confirmed now.
    pub events: u64,
}
