//! Desired settings of hooks and their handlers.

use crate::domain::filter::Filter;
use crate::domain::forward::{Begin, Forward};
use crate::domain::handshake::Handshake;
use crate::domain::hook::{
    Debounce, DedupeBy, Handler, Hook, OnError, OrderBy, Reducer, Unordered, Work,
};
use crate::domain::keep::Keep;
use crate::domain::name::Name;
use crate::domain::network::Networks;
use crate::domain::pull::Pull;
use crate::domain::secret::Secrets;
use crate::domain::verify::Verify;
use crate::domain::version::Versioning;

/// Desired settings of a hook.
#[derive(Clone, Debug, PartialEq)]
pub struct HookPlan {
    /// Name of the hook.
    pub name: Name,
    /// Namespace whose lanes its streams use.
    pub namespace: Name,
    /// Rule that divides its events into streams.
    pub order_by: OrderBy,
    /// Treatment of events without an ordering key.
    pub unordered: Unordered,
    /// Rule that identifies repeats of an event.
    pub dedupe_by: DedupeBy,
    /// Verification of the sender's signatures.
    pub verify: Option<Verify>,
    /// The test of the URL that it answers.
    pub handshake: Option<Handshake>,
    /// Rule for the provider's order.
    pub versioning: Option<Versioning>,
    /// Addresses from which it accepts requests; empty for all.
    pub allow_from: Networks,
    /// Size limit of a body, in bytes.
    pub body_max: u64,
    /// Retention of events that every handler has passed.
    pub keep: Keep,
    /// Reducer; `None` only stores events.
    pub reducer: Option<Reducer>,
    /// Policy for an event that cannot be folded.
    pub on_error: OnError,
    /// Debounce, which gathers events into one turn.
    pub debounce: Option<Debounce>,
    /// Filter of the events that it folds.
    pub only: Filter,
    /// Forward handlers, by name.
    pub forwards: Vec<ForwardPlan>,
    /// Pull handlers, by name.
    pub pulls: Vec<PullPlan>,
}

/// Desired settings of a forward handler.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardPlan {
    /// Name of the handler, unique in its hook.
    pub name: Name,
    /// Destination of its deliveries.
    pub to: Forward,
    /// Secrets that sign the handler's requests.
    pub secrets: Secrets,
    /// Policy for an event that has used up its tries.
    pub on_error: OnError,
    /// Debounce, which gathers events into a delivery.
    pub debounce: Option<Debounce>,
    /// Filter of the events that it delivers.
    pub only: Filter,
    /// First event for a new handler; ignored for an existing one.
    pub from: Begin,
}

/// Desired settings of a pull handler.
#[derive(Clone, Debug, PartialEq)]
pub struct PullPlan {
    /// Name of the handler, unique in its hook.
    pub name: Name,
    /// Terms of its deliveries.
    pub terms: Pull,
    /// Policy for an event that has used up its tries.
    pub on_error: OnError,
    /// Filter of the events that it delivers.
    pub only: Filter,
    /// First event for a new handler; ignored for an existing one.
    pub from: Begin,
}

impl From<&Hook> for HookPlan {
    fn from(hook: &Hook) -> Self {
        let reduce = hook.reduce();
        let forwards = hook.handlers.iter();
        let pulls = hook.handlers.iter();
        Self {
            name: hook.name.clone(),
            namespace: hook.namespace.clone(),
            order_by: hook.order_by.clone(),
            unordered: hook.unordered,
            dedupe_by: hook.dedupe_by.clone(),
            verify: hook.verify.clone(),
            handshake: hook.handshake,
            versioning: hook.versioning.clone(),
            allow_from: hook.allow_from.clone(),
            body_max: hook.body_max,
            keep: hook.keep,
            reducer: reduce.and_then(|handler| handler.reducer().cloned()),
            on_error: reduce.map(|handler| handler.on_error).unwrap_or_default(),
            debounce: reduce.and_then(|handler| handler.debounce),
            only: reduce
                .map(|handler| handler.only.clone())
                .unwrap_or_default(),
            forwards: forwards
                .filter_map(|handler| ForwardPlan::of(handler))
                .collect(),
            pulls: pulls.filter_map(|handler| PullPlan::of(handler)).collect(),
        }
    }
}

impl ForwardPlan {
    /// Present settings of a handler; `None` if it is not a forward handler.
    pub fn of(handler: &Handler) -> Option<Self> {
        let Work::Forward { to, secrets } = &handler.work else {
            return None;
        };
        Some(Self {
            name: handler.name.clone(),
            to: to.clone(),
            secrets: secrets.clone(),
            on_error: handler.on_error,
            debounce: handler.debounce,
            only: handler.only.clone(),
            from: Begin::default(),
        })
    }
}

impl PullPlan {
    /// Present settings of a handler; `None` if it is not a pull handler.
    pub fn of(handler: &Handler) -> Option<Self> {
        Some(Self {
            name: handler.name.clone(),
            terms: handler.pull()?.clone(),
            on_error: handler.on_error,
            only: handler.only.clone(),
            from: Begin::default(),
        })
    }
}
