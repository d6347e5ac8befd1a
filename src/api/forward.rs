//! Forward handlers: their settings, and changes to them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::filter::Filter;
use crate::domain::forward::{
    Batch, Begin, Destination, Forward, IN_FLIGHT_DEFAULT, TIMEOUT_DEFAULT,
};
use crate::domain::hook::{Debounce, OnError};
use crate::domain::name::Name;
use crate::domain::rate::Rate;
use crate::domain::time::{Timestamp, millis};

/// Settings of a forward handler, in requests and answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardSpec {
    /// Its name, unique in its hook.
    pub name: Name,
    /// Destination: an http or https URL.
    pub url: Destination,
    /// Time-out of one request, in milliseconds.
    #[serde(default = "timeout_default")]
    pub timeout_ms: u64,
    /// Number of tries of an event; `null` tries without end.
    #[serde(default)]
    pub attempts: Option<u32>,
    /// Failure policy after the last try: `hold` or `skip`.
    #[serde(default)]
    pub on_error: OnError,
    /// Requests in flight at once from one node.
    #[serde(default = "in_flight_default")]
    pub max_in_flight: u32,
    /// Limit of requests from one node, such as `50/s`.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// Limits for several events of one stream in one request, such as `100` or `100,256KiB`.
    #[serde(default)]
    pub batch: Option<Batch>,
    /// Rule for gathering events.
    #[serde(default)]
    pub debounce: Option<Debounce>,
    /// True if only the newest of the gathered events is delivered.
    #[serde(default)]
    pub coalesce: bool,
    /// Filter of the events that it delivers: one pattern of each place must match. Without patterns,
    /// all events.
    #[serde(default, skip_serializing_if = "Filter::takes_all")]
    pub only: Filter,
    /// Place where a new handler begins: `beginning` or `now`. Only in requests.
    #[serde(default, skip_serializing)]
    pub from: Begin,
    /// Signing secret, `whsec_…`; generated for a new handler when left out. Only in requests.
    #[serde(default, skip_serializing)]
    pub secret: Option<String>,
}

fn timeout_default() -> u64 {
    millis(TIMEOUT_DEFAULT).unsigned_abs()
}

fn in_flight_default() -> u32 {
    IN_FLIGHT_DEFAULT
}

impl ForwardSpec {
    /// A handler with default settings.
    pub fn new(name: Name, url: Destination) -> Self {
        Self {
            name,
            url,
            timeout_ms: timeout_default(),
            attempts: None,
            on_error: OnError::default(),
            max_in_flight: IN_FLIGHT_DEFAULT,
            rate: None,
            batch: None,
            debounce: None,
            coalesce: false,
            only: Filter::default(),
            from: Begin::default(),
            secret: None,
        }
    }

    /// The settings as a domain type.
    pub fn terms(&self) -> Forward {
        Forward {
            url: self.url.clone(),
            timeout: Duration::from_millis(self.timeout_ms),
            attempts: self.attempts,
            in_flight_max: self.max_in_flight,
            rate: self.rate,
            batch: self.batch,
            coalesce: self.coalesce,
        }
    }
}

/// Changes to a forward handler; fields that are left out stay as they are. A handler that does not
/// exist is created, and needs a URL.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ForwardEdit {
    /// Name of the handler.
    pub name: Option<Name>,
    /// Destination of its deliveries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Destination>,
    /// Time-out of one request, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Number of tries of an event; 0 tries without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Failure policy after the last try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// Requests in flight at once from one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// Limit of requests from one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Limits for several events in one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// Rule for gathering events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debounce: Option<Debounce>,
    /// True if only the newest of the gathered events is delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coalesce: Option<bool>,
    /// New filter of the events that it delivers; an empty list delivers all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<Filter>,
    /// Place where a new handler begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Begin>,
    /// Signing secret of a new handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl ForwardEdit {
    /// Creates or changes the handler in `forwards`.
    pub(super) fn apply(&self, forwards: &mut Vec<ForwardSpec>) -> Result<(), InvalidEdit> {
        let named = |forward: &ForwardSpec| Some(&forward.name) == self.name.as_ref();
        let there = forwards.iter().position(named);
        let after = self.applied(there.map(|at| &forwards[at]));
        let after = after.ok_or(InvalidEdit::NoUrl)?;
        match there {
            Some(at) => forwards[at] = after,
            None => forwards.push(after),
        }
        Ok(())
    }

    /// The handler after this change; `None` when it is new and lacks a name or a URL.
    fn applied(&self, to: Option<&ForwardSpec>) -> Option<ForwardSpec> {
        let mut spec = match to {
            Some(spec) => spec.clone(),
            None => ForwardSpec::new(self.name.clone()?, self.url.clone()?),
        };
        let edit = self.clone();
        spec.url = edit.url.unwrap_or(spec.url);
        spec.timeout_ms = edit.timeout_ms.unwrap_or(spec.timeout_ms);
        spec.attempts = match edit.attempts {
            Some(0) => None,
            Some(attempts) => Some(attempts),
            None => spec.attempts,
        };
        spec.on_error = edit.on_error.unwrap_or(spec.on_error);
        spec.max_in_flight = edit.max_in_flight.unwrap_or(spec.max_in_flight);
        spec.rate = edit.rate.or(spec.rate);
        spec.batch = edit.batch.or(spec.batch);
        spec.debounce = edit.debounce.or(spec.debounce);
        spec.coalesce = edit.coalesce.unwrap_or(spec.coalesce);
        spec.only = edit.only.unwrap_or(spec.only);
        spec.from = edit.from.unwrap_or_default();
        spec.secret = edit.secret;
        Some(spec)
    }
}

/// Cause for which an edit is invalid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidEdit {
    /// No forward handler has this name.
    #[error("no forward handler {0}")]
    NoForward(Name),
    /// No pull handler has this name.
    #[error("no pull handler {0}")]
    NoPull(Name),
    /// A new forward handler needs a URL.
    #[error("a new forward handler needs a name and a URL: NAME=URL")]
    NoUrl,
    /// The edit changes verification settings, but the hook does not verify.
    #[error("the hook verifies no signatures yet: give --verify SCHEME")]
    NotVerified,
    /// The edit changes the treatment of late events or the window, but events have no version.
    #[error("late events and the reorder window need versions: give --version-by RULE with them")]
    NoVersion,
    /// The reorder window is zero or too long.
    #[error("a reorder window is above zero and an hour at most")]
    Window,
}

/// Outcomes of the deliveries of a handler by the answering node, since its start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deliveries {
    /// Name of the handler.
    pub handler: Name,
    /// URL of the destination; `null` for a pull handler.
    pub url: Option<Destination>,
    /// Number of acknowledged deliveries.
    pub acknowledged: u64,
    /// Number of failed tries.
    pub failed: u64,
    /// Time at which the last try ended.
    pub last_at: Option<Timestamp>,
    /// Cause of the last try's failure; `null` if it was acknowledged.
    pub last_failure: Option<String>,
    /// Time of the last answer.
    pub last_took_ms: Option<u64>,
    /// Time of the last acknowledgement.
    pub last_ok_at: Option<Timestamp>,
    /// Median time of an answer.
    pub p50_ms: Option<u64>,
    /// 99th percentile of the answer times.
    pub p99_ms: Option<u64>,
}

/// A secret that was generated for a new forward handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSecret {
    /// The hook.
    pub hook: Name,
    /// Name of the handler.
    pub handler: Name,
    /// The secret with which the receiver verifies requests: `whsec_…`.
    pub secret: String,
}
