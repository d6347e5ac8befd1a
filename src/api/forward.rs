//! Forward handlers: where they deliver, and what changes in them.

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

/// A forward handler as it is asked for and shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardSpec {
    /// Its name, unique in its hook.
    pub name: Name,
    /// Where it delivers: an http or https URL.
    pub url: Destination,
    /// The time for one request, in milliseconds.
    #[serde(default = "timeout_default")]
    pub timeout_ms: u64,
    /// Tries of one event; `null` tries for ever.
    #[serde(default)]
    pub attempts: Option<u32>,
    /// What an event leads to that used up its tries: `hold` or `skip`.
    #[serde(default)]
    pub on_error: OnError,
    /// Requests in flight at once from one node.
    #[serde(default = "in_flight_default")]
    pub max_in_flight: u32,
    /// Requests from one node in the long run, such as `50/s`.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// Consecutive events of one stream in one request: `100` or `100,256KiB`.
    #[serde(default)]
    pub batch: Option<Batch>,
    /// Gathers events.
    #[serde(default)]
    pub debounce: Option<Debounce>,
    /// Of the events that gathered, only the newest is delivered.
    #[serde(default)]
    pub coalesce: bool,
    /// Which events it delivers: one pattern of each place must match. Without a pattern, all.
    #[serde(default, skip_serializing_if = "Filter::takes_all")]
    pub only: Filter,
    /// Where a new handler begins: `beginning` or `now`. Never shown.
    #[serde(default, skip_serializing)]
    pub from: Begin,
    /// What signs its requests, `whsec_…`; made when a new handler has none. Never shown.
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
    /// A handler with every setting at its default.
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

    /// The settings of its deliveries.
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

/// What to change in a forward handler; what is left out stays. One that does not exist is made, and needs a URL.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ForwardEdit {
    /// Its name.
    pub name: Option<Name>,
    /// Where it delivers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Destination>,
    /// The time for one request, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Tries of one event; 0 tries for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// What an event leads to that used up its tries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// Requests in flight at once from one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// Requests from one node in the long run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Events in one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// Gathers events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debounce: Option<Debounce>,
    /// Of the events that gathered, only the newest is delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coalesce: Option<bool>,
    /// Which events it delivers from now on; an empty list delivers all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<Filter>,
    /// Where a new handler begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Begin>,
    /// What signs the requests of a new handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl ForwardEdit {
    /// Makes or changes the handler among `forwards`.
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

    /// The handler after this edit; `None` when it is new and has no name or no URL.
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

/// Why an edit cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidEdit {
    /// No forward handler has this name.
    #[error("no forward handler {0}")]
    NoForward(Name),
    /// No pull handler has this name.
    #[error("no pull handler {0}")]
    NoPull(Name),
    /// A forward handler that does not exist needs a URL to be made.
    #[error("a new forward handler needs a name and a URL: NAME=URL")]
    NoUrl,
    /// Settings of a verification that there is none of.
    #[error("the hook verifies no signatures yet: give --verify SCHEME")]
    NotVerified,
}

/// Deliveries of a handler, counted by the node that answers since it was started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deliveries {
    /// The handler.
    pub handler: Name,
    /// Its destination; `None` for a pull handler.
    pub url: Option<Destination>,
    /// Those that were acknowledged.
    pub acknowledged: u64,
    /// Those that were not, each try counted.
    pub failed: u64,
    /// When the last one ended.
    pub last_at: Option<Timestamp>,
    /// Reason of the last failure; `None` if the last delivery was acknowledged.
    pub last_failure: Option<String>,
    /// Time of the last answer, in milliseconds.
    pub last_took_ms: Option<u64>,
    /// When the last acknowledged one ended.
    pub last_ok_at: Option<Timestamp>,
    /// Median time of answers, in milliseconds.
    pub p50_ms: Option<u64>,
    /// 99th percentile of the time of answers, in milliseconds.
    pub p99_ms: Option<u64>,
}

/// A secret that was made for a new forward handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSecret {
    /// The hook.
    pub hook: Name,
    /// The handler.
    pub handler: Name,
    /// What its receiver verifies requests with: `whsec_…`.
    pub secret: String,
}
