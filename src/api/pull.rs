//! Pull handlers: their settings, and the calls of their consumers.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::event::{Event, EventId};
use crate::domain::filter::Filter;
use crate::domain::forward::Begin;
use crate::domain::hook::OnError;
use crate::domain::name::{Name, OrderingKey};
use crate::domain::position::{Position, Seq};
use crate::domain::pull::{LEASE_DEFAULT, Pull};
use crate::domain::time::{Timestamp, millis};

/// Settings of a pull handler, in requests and answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullSpec {
    /// Its name, unique in its hook.
    pub name: Name,
    /// Number of tries of an event; `null` tries without end.
    #[serde(default)]
    pub attempts: Option<u32>,
    /// Failure policy after the last try: `hold` or `skip`.
    #[serde(default)]
    pub on_error: OnError,
    /// Length of a lease unless the call gives another one, in milliseconds.
    #[serde(default = "lease_default")]
    pub lease_ms: u64,
    /// Filter of the events that it delivers: one pattern of each place must match. Without patterns,
    /// all events.
    #[serde(default, skip_serializing_if = "Filter::takes_all")]
    pub only: Filter,
    /// Place where a new handler begins: `beginning` or `now`. Only in requests.
    #[serde(default, skip_serializing)]
    pub from: Begin,
}

fn lease_default() -> u64 {
    millis(LEASE_DEFAULT).unsigned_abs()
}

impl PullSpec {
    /// A handler with default settings.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            attempts: None,
            on_error: OnError::default(),
            lease_ms: lease_default(),
            only: Filter::default(),
            from: Begin::default(),
        }
    }

    /// The settings as a domain type.
    pub fn terms(&self) -> Pull {
        Pull {
            attempts: self.attempts,
            lease: Duration::from_millis(self.lease_ms),
        }
    }
}

/// Changes to a pull handler; fields that are left out stay as they are. A handler that does not exist
/// is created.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullEdit {
    /// Name of the handler.
    pub name: Name,
    /// Number of tries of an event; 0 tries without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Failure policy after the last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// Length of a lease, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// New filter of the events that it delivers; an empty list delivers all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Filter>,
    /// Place where a new handler begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Begin>,
}

impl PullEdit {
    /// Creates or changes the handler in `pulls`.
    pub(super) fn apply(&self, pulls: &mut Vec<PullSpec>) {
        match pulls.iter_mut().find(|pull| pull.name == self.name) {
            Some(pull) => *pull = self.applied(Some(pull)),
            None => pulls.push(self.applied(None)),
        }
    }

    /// The handler after this change.
    fn applied(&self, to: Option<&PullSpec>) -> PullSpec {
        let mut spec = to.map_or_else(|| PullSpec::new(self.name.clone()), PullSpec::clone);
        spec.attempts = match self.attempts {
            Some(0) => None,
            Some(attempts) => Some(attempts),
            None => spec.attempts,
        };
        spec.on_error = self.on_error.unwrap_or(spec.on_error);
        spec.lease_ms = self.lease_ms.unwrap_or(spec.lease_ms);
        spec.only = self.only.clone().unwrap_or(spec.only);
        spec.from = self.from.unwrap_or_default();
        spec
    }
}

/// A consumer's request for deliveries. Durations are written like `20s`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PullRequest {
    /// Number of deliveries at most, each of another stream: 1 to 100; default 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_streams: Option<u32>,
    /// Number of events at most in each delivery: 1 to 1,000; default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_events: Option<u32>,
    /// Time to wait when there is no event: `0s` to `60s`; default `20s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<String>,
    /// Length of the leases: `1s` to `12h`; default from the handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

/// Deliveries for a consumer; empty when the wait ended without an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PullResponse {
    /// The deliveries, at most one of each stream.
    pub deliveries: Vec<PullDelivery>,
}

/// Consecutive events of one stream, leased until they are acknowledged, given back, or the lease ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PullDelivery {
    /// Token for the answers; opaque.
    pub token: String,
    /// Ordering key of the stream.
    pub stream: OrderingKey,
    /// Number of the try of the first event, from 1.
    pub attempt: u32,
    /// Grows with every delivery of the stream. A receiver may refuse a smaller epoch than it has seen.
    pub epoch: i64,
    /// End of the lease, by the clock of the database.
    pub lease_until: Timestamp,
    /// Number of its replay; absent in a normal delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<i64>,
    /// The events, in order.
    pub events: Vec<PullEvent>,
}

/// An event of a delivery.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PullEvent {
    /// Id of the event.
    pub id: EventId,
    /// Its place in the stream.
    pub seq: Seq,
    /// Time at which its last byte arrived.
    pub received_at: Timestamp,
    /// True if an event with a higher version came before it; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    /// Headers, without credentials.
    pub headers: Box<RawValue>,
    /// Body as sent, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Body in base64, if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

impl From<&Event> for PullEvent {
    fn from(event: &Event) -> Self {
        let text = std::str::from_utf8(&event.body).ok();
        Self {
            id: event.id,
            seq: event.seq,
            received_at: event.received_at,
            late: event.is_marked_late(),
            headers: RawValue::from_string(event.headers.to_string()).unwrap_or_default(),
            body: text.map(str::to_owned),
            body_base64: text.is_none().then(|| STANDARD.encode(&event.body)),
        }
    }
}

/// A consumer's answers. Each entry succeeds or fails on its own; those that succeed become durable
/// together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PullAnswers {
    /// Acknowledged events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acks: Vec<PullAck>,
    /// Deliveries given back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nacks: Vec<PullNack>,
    /// Leases to extend.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extends: Vec<PullExtend>,
}

/// Acknowledges the events of a delivery up to one; the events behind it stay leased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullAck {
    /// Token of the delivery.
    pub token: String,
    /// Seq of the last event that is done.
    pub seq: Seq,
}

/// Gives a delivery back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullNack {
    /// Token of the delivery.
    pub token: String,
    /// Seq of the last event that is done; left out when none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// Delay before the next try, `0s` to `10m`; when left out, it grows with every try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in: Option<String>,
    /// Reason, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Extends a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullExtend {
    /// Token of the delivery.
    pub token: String,
    /// New length from now; default from the handler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

/// Outcomes of the answers, each list in the order of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PullOutcomes {
    /// Outcome of each `ack`.
    pub acks: Vec<PullSettled>,
    /// Outcome of each `nack`.
    pub nacks: Vec<PullSettled>,
    /// Outcome of each `extend`.
    pub extends: Vec<PullSettled>,
}

/// Outcome of one answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullSettled {
    /// Token of the delivery.
    pub token: String,
    /// True if it is done and durable.
    pub ok: bool,
    /// Reason of a refusal, after which nothing was changed: `stale` when the delivery no longer
    /// belongs to this consumer, `out_of_range` when the event is not part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Position of the handler in the stream.
    pub position: Position,
    /// End of the lease of the remaining events; `null` when the delivery is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_until: Option<Timestamp>,
}
