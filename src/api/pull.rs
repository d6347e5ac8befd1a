//! Pull handlers: their settings, and the calls of their consumers.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::event::EventId;
use crate::domain::filter::Filter;
use crate::domain::forward::Begin;
use crate::domain::hook::OnError;
use crate::domain::name::{Name, OrderingKey};
use crate::domain::position::{Position, Seq};
use crate::domain::pull::{LEASE_DEFAULT, Pull};
use crate::domain::time::{Timestamp, millis};

/// A pull handler as it is asked for and shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullSpec {
    /// Its name, unique in its hook.
    pub name: Name,
    /// Tries of one event; `null` tries for ever.
    #[serde(default)]
    pub attempts: Option<u32>,
    /// What an event leads to that used up its tries: `hold` or `skip`.
    #[serde(default)]
    pub on_error: OnError,
    /// How long a delivery stays open unless the call says otherwise, in milliseconds.
    #[serde(default = "lease_default")]
    pub lease_ms: u64,
    /// Which events it delivers: one pattern of each place must match. Without a pattern, all.
    #[serde(default, skip_serializing_if = "Filter::takes_all")]
    pub only: Filter,
    /// Where a new handler begins: `beginning` or `now`. Never shown.
    #[serde(default, skip_serializing)]
    pub from: Begin,
}

fn lease_default() -> u64 {
    millis(LEASE_DEFAULT).unsigned_abs()
}

impl PullSpec {
    /// A handler with every setting at its default.
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

    /// The terms of its deliveries.
    pub fn terms(&self) -> Pull {
        Pull {
            attempts: self.attempts,
            lease: Duration::from_millis(self.lease_ms),
        }
    }
}

/// What to change in a pull handler; what is left out stays. One that does not exist is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullEdit {
    /// Its name.
    pub name: Name,
    /// Tries of one event; 0 tries for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// What an event leads to that used up its tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// How long a delivery stays open, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// Which events it delivers from now on; an empty list delivers all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Filter>,
    /// Where a new handler begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Begin>,
}

impl PullEdit {
    /// Makes or changes the handler among `pulls`.
    pub(super) fn apply(&self, pulls: &mut Vec<PullSpec>) {
        match pulls.iter_mut().find(|pull| pull.name == self.name) {
            Some(pull) => *pull = self.applied(Some(pull)),
            None => pulls.push(self.applied(None)),
        }
    }

    /// The handler after this edit.
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

/// Asks for deliveries. Durations are such as `20s`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PullAsk {
    /// Deliveries at most, each of another stream: 1 to 100; 10 unless it is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_streams: Option<u32>,
    /// Events in each of them at most: 1 to 1,000; 100 unless it is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_events: Option<u32>,
    /// How long to wait if there is nothing: `0s` to `60s`; `20s` unless it is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<String>,
    /// How long each stays open: `1s` to `12h`; that of the handler unless it is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

/// Deliveries; none after the wait.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pulled {
    /// At most one of each stream.
    pub deliveries: Vec<PullDelivery>,
}

/// Consecutive events of one stream, open until they are acknowledged, given back, or the lease is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PullDelivery {
    /// What to answer with; opaque.
    pub token: String,
    /// The ordering key of the stream.
    pub stream: OrderingKey,
    /// The try of the first event, from 1.
    pub attempt: u32,
    /// Grows with every delivery of the stream: a receiver may refuse a lower one than it has seen.
    pub epoch: i64,
    /// Until when it is open, by the clock of the database.
    pub lease_until: Timestamp,
    /// Which replay it belongs to; left out of a delivery that is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<i64>,
    /// In order.
    pub events: Vec<PullEvent>,
}

/// An event in a delivery.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PullEvent {
    /// Its id.
    pub id: EventId,
    /// Its place in the stream.
    pub seq: Seq,
    /// When its last byte was in.
    pub received_at: Timestamp,
    /// Its headers, without credentials.
    pub headers: Box<RawValue>,
    /// Its body as sent, where that is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Its body as sent, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

/// What a consumer answers; each entry stands or falls alone, all that hold are durable together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PullAnswers {
    /// Done, up to an event.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acks: Vec<PullAck>,
    /// Given back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nacks: Vec<PullNack>,
    /// To stay open for longer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extends: Vec<PullExtend>,
}

/// The events of a delivery up to one are done; what is behind it stays open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullAck {
    /// The token.
    pub token: String,
    /// The last event that is done.
    pub seq: Seq,
}

/// A delivery is given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullNack {
    /// The token.
    pub token: String,
    /// The last event that is done; left out when none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// How long to wait before the next try, `0s` to `10m`; left out, it grows with every try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in: Option<String>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A delivery shall stay open for longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullExtend {
    /// The token.
    pub token: String,
    /// From now; that of the handler if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

/// What became of the answers, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PullAnswered {
    /// Of each ack.
    pub acks: Vec<PullSettled>,
    /// Of each nack.
    pub nacks: Vec<PullSettled>,
    /// Of each extend.
    pub extends: Vec<PullSettled>,
}

/// What became of one answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullSettled {
    /// The token.
    pub token: String,
    /// Whether it is done and durable.
    pub ok: bool,
    /// Why not: `stale` when the delivery is not this consumer's any more, `out_of_range` when the event is none of
    /// it. Nothing was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Where the handler stands in the stream.
    pub position: Position,
    /// Until when the rest is open, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_until: Option<Timestamp>,
}
