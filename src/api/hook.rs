//! Hooks: creating, listing, changing and deleting them, and trying a reducer.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{
    Deliveries, ForwardEdit, ForwardSpec, InvalidEdit, NamespaceSpec, NewSecret, PullEdit,
    PullSpec, VerifyEdit, VerifySpec,
};
use crate::domain::event::EventId;
use crate::domain::filter::Filter;
use crate::domain::handshake::Handshake;
use crate::domain::hook::{
    BODY_MAX_DEFAULT, Debounce, DedupeBy, OnError, OrderBy, Reducer, Unordered,
};
use crate::domain::keep::Keep;
use crate::domain::name::{Name, StreamName};
use crate::domain::network::Networks;
use crate::domain::place::Place;
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;
use crate::domain::version::{Late, WINDOW_MAX};

/// Settings of a hook, in requests and answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookSpec {
    /// Its name.
    pub name: Name,
    /// Namespace whose lanes its streams use.
    #[serde(default = "Name::default_namespace")]
    pub namespace: Name,
    /// Rule that divides its events into streams.
    #[serde(default)]
    pub order_by: OrderBy,
    /// Treatment of events without an ordering key: `refuse`, or `keep` in the hook's own stream.
    #[serde(default)]
    pub unordered: Unordered,
    /// Rule that recognizes a repeated event.
    #[serde(default)]
    pub dedupe_by: DedupeBy,
    /// Verification of the sender's signatures; `null` means that requests need a write key.
    #[serde(default)]
    pub verify: Option<VerifySpec>,
    /// The test of the URL that it answers: `slack`, `meta`, `graph`, `zoom`, `twitch`, `x` or `probe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake: Option<Handshake>,
    /// Place of the version that the provider gives its events; `null` orders them by arrival alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_by: Option<Place>,
    /// Treatment of late events: `apply`, `mark` or `skip`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub late: Late,
    /// Time for which an event is held back, so that lower versions can come before it, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reorder_window_ms: Option<u64>,
    /// Ranges of addresses from which it accepts requests; without one, all.
    #[serde(default, skip_serializing_if = "Networks::is_empty")]
    pub allow_from: Networks,
    /// Reducer; `null` only stores events.
    #[serde(default)]
    pub reduce: Option<Reducer>,
    /// Failure policy for events that cannot be folded: `hold` or `skip`.
    #[serde(default)]
    pub on_error: OnError,
    /// Rule for gathering events into one turn.
    #[serde(default)]
    pub debounce: Option<Debounce>,
    /// Filter of the events that it folds: one pattern of each place must match. Without patterns, all
    /// events.
    #[serde(default, skip_serializing_if = "Filter::takes_all")]
    pub only: Filter,
    /// Size limit of a body, in bytes.
    #[serde(default = "body_max_default")]
    pub body_max: u64,
    /// Retention of events that every handler has passed: `30d`, `10GB` or `forever`.
    #[serde(default)]
    pub keep: Keep,
    /// Forward handlers. Each delivers a stream's events in order and waits for a 2xx before the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forward: Vec<ForwardSpec>,
    /// Pull handlers. Consumers ask for a stream's events in order and acknowledge each before the
    /// next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pull: Vec<PullSpec>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn body_max_default() -> u64 {
    BODY_MAX_DEFAULT
}

impl HookSpec {
    /// A hook with one stream, without a reducer.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            namespace: Name::default_namespace(),
            order_by: OrderBy::default(),
            unordered: Unordered::default(),
            dedupe_by: DedupeBy::default(),
            verify: None,
            handshake: None,
            version_by: None,
            late: Late::default(),
            reorder_window_ms: None,
            allow_from: Networks::default(),
            reduce: None,
            on_error: OnError::default(),
            debounce: None,
            only: Filter::default(),
            body_max: BODY_MAX_DEFAULT,
            keep: Keep::default(),
            forward: Vec::new(),
            pull: Vec::new(),
        }
    }
}

/// Changes to a hook; fields that are left out stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookEdit {
    /// Namespace whose lanes its streams use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    /// Rule that divides future events into streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_by: Option<OrderBy>,
    /// Treatment of events without an ordering key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unordered: Option<Unordered>,
    /// Rule that recognizes a repeat of future events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedupe_by: Option<DedupeBy>,
    /// Verification of the sender's signatures; `null` removes it, and requests need a write key again.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub verify: Option<Option<VerifyEdit>>,
    /// The test of the URL that it answers; `null` ends it.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub handshake: Option<Option<Handshake>>,
    /// Place of the version of future events; `null` ends the provider's order and its settings.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub version_by: Option<Option<Place>>,
    /// Treatment of late events among future ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<Late>,
    /// Time for which an event is held back, in milliseconds; `null` ends the window.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub reorder_window_ms: Option<Option<u64>>,
    /// Ranges of addresses from which it accepts requests; an empty list for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_from: Option<Networks>,
    /// Reducer for future events; existing states stay. `null` removes the reducer with its states; a
    /// later reducer begins at the first stored event.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub reduce: Option<Option<Reducer>>,
    /// Failure policy for events that cannot be folded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// Rule for gathering events into one turn; `null` removes it.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub debounce: Option<Option<Debounce>>,
    /// New filter of the events that it folds; an empty list folds all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<Filter>,
    /// Size limit of a body, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_max: Option<u64>,
    /// Retention of events that every handler has passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// Forward handlers to create or to change, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forward: Vec<ForwardEdit>,
    /// Forward handlers to remove, with their positions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove_forward: Vec<Name>,
    /// Pull handlers to create or to change, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pull: Vec<PullEdit>,
    /// Pull handlers to remove, with their positions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove_pull: Vec<Name>,
}

impl HookEdit {
    /// Settings of the hook after this edit.
    ///
    /// # Errors
    /// [`InvalidEdit`]: a handler to remove does not exist, or a new one has no URL.
    pub fn applied(&self, mut spec: HookSpec) -> Result<HookSpec, InvalidEdit> {
        let edit = self.clone();
        spec.namespace = edit.namespace.unwrap_or(spec.namespace);
        spec.order_by = edit.order_by.unwrap_or(spec.order_by);
        spec.unordered = edit.unordered.unwrap_or(spec.unordered);
        spec.dedupe_by = edit.dedupe_by.unwrap_or(spec.dedupe_by);
        if let Some(change) = &self.verify {
            spec.verify = match change {
                Some(change) => {
                    let after = change.applied(spec.verify.as_ref());
                    Some(after.ok_or(InvalidEdit::NotVerified)?)
                }
                None => None,
            };
        }
        spec.handshake = edit.handshake.unwrap_or(spec.handshake);
        self.set_order(&mut spec)?;
        spec.allow_from = edit.allow_from.unwrap_or(spec.allow_from);
        // Failure policy and filter are removed together with the reducer.
        if edit.reduce == Some(None) {
            spec.on_error = OnError::default();
            spec.only = Filter::default();
        }
        spec.reduce = edit.reduce.unwrap_or(spec.reduce);
        spec.on_error = edit.on_error.unwrap_or(spec.on_error);
        spec.debounce = edit.debounce.unwrap_or(spec.debounce);
        spec.only = edit.only.unwrap_or(spec.only);
        spec.body_max = edit.body_max.unwrap_or(spec.body_max);
        spec.keep = edit.keep.unwrap_or(spec.keep);
        self.remove_handlers(&mut spec)?;
        for change in &self.forward {
            change.apply(&mut spec.forward)?;
        }
        for change in &self.pull {
            change.apply(&mut spec.pull);
        }
        Ok(spec)
    }

    /// Sets the provider's order.
    fn set_order(&self, spec: &mut HookSpec) -> Result<(), InvalidEdit> {
        if self.version_by == Some(None) {
            spec.late = Late::default();
            spec.reorder_window_ms = None;
        }
        spec.version_by = self.version_by.clone().unwrap_or(spec.version_by.take());
        if spec.version_by.is_none() && (self.late.is_some() || self.reorder_window_ms.is_some()) {
            return Err(InvalidEdit::NoVersion);
        }
        spec.late = self.late.unwrap_or(spec.late);
        spec.reorder_window_ms = self.reorder_window_ms.unwrap_or(spec.reorder_window_ms);
        match spec.reorder_window_ms {
            Some(0) => Err(InvalidEdit::Window),
            Some(ms) if Duration::from_millis(ms) > WINDOW_MAX => Err(InvalidEdit::Window),
            _ => Ok(()),
        }
    }

    fn remove_handlers(&self, spec: &mut HookSpec) -> Result<(), InvalidEdit> {
        for name in &self.remove_forward {
            let before = spec.forward.len();
            spec.forward.retain(|forward| forward.name != *name);
            if spec.forward.len() == before {
                return Err(InvalidEdit::NoForward(name.clone()));
            }
        }
        for name in &self.remove_pull {
            let before = spec.pull.len();
            spec.pull.retain(|pull| pull.name != *name);
            if spec.pull.len() == before {
                return Err(InvalidEdit::NoPull(name.clone()));
            }
        }
        Ok(())
    }
}

/// Deserializes a field so that `null` differs from an absent one.
fn given<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(from).map(Some)
}

/// An existing hook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hook {
    /// Its settings.
    #[serde(flatten)]
    pub spec: HookSpec,
    /// Version of its reducer, from 1; `null` when it has none.
    pub fold: Option<i64>,
    /// Time of its creation.
    pub created_at: Timestamp,
    /// Number of its streams; `null` unless the count was requested.
    pub streams: Option<u64>,
    /// Number of its stored events; `null` unless the count was requested.
    pub events: Option<u64>,
    /// The pause of its cursors; `null` while they take turns.
    #[serde(default)]
    pub paused: Option<Paused>,
    /// Counts of the provider's order, on request; `null` for a hook without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderCounts>,
    /// Outcomes of its handlers' deliveries, on request and if a daemon runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<Deliveries>,
    /// Secrets generated for new forward handlers. Only this answer contains them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub new_secrets: Vec<NewSecret>,
}

/// Counts of the provider's order, of a hook or a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderCounts {
    /// Number of events that were late.
    pub late: u64,
    /// Number of events that are held back.
    pub held_back: u64,
    /// End of the first of their windows.
    pub next_due_at: Option<Timestamp>,
}

/// Origin of a pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// The operator.
    pub by: String,
    /// Time of the pause.
    pub at: Timestamp,
    /// Reason that the operator gave.
    pub reason: Option<String>,
}

/// Request to pause or resume a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookStopSpec {
    /// Reason, in the operator's words.
    pub reason: Option<String>,
}

/// Request to retry set-aside cursors of a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookRetry {
    /// Only cursors of this handler; `null` for all handlers.
    pub handler: Option<Name>,
}

/// Result of pausing or resuming a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStopped {
    /// The hook.
    pub hook: Name,
    /// True if the hook was in the other state before.
    pub changed: bool,
    /// Nodes that may still take a turn by the previous configuration. Once it is empty, the change is
    /// in force everywhere.
    pub waits_for: Vec<String>,
}

/// Result of deleting a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The deleted hook.
    pub deleted: Name,
    /// Number of streams it had.
    pub streams: u64,
    /// Number of events it had.
    pub events: u64,
}

/// The desired configuration, as a file describes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Apply {
    /// The namespaces.
    pub namespaces: Vec<NamespaceSpec>,
    /// The hooks.
    pub hooks: Vec<HookSpec>,
}

/// Changes that an [`Apply`] makes or would make; empty when everything is as described.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The changes, in the order in which they are made.
    pub changes: Vec<Change>,
    /// Secrets generated for new forward handlers. Only this answer contains them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub new_secrets: Vec<NewSecret>,
}

/// A change of one hook or namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Kind of the change.
    pub action: Action,
    /// Kind of the object.
    pub kind: ChangeKind,
    /// Name of the object.
    pub name: Name,
    /// One line for each changed field, for people: `reduce: latest -> merge`.
    pub what: Vec<String>,
}

/// Kind of a [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The object is created.
    Create,
    /// The object's settings change.
    Edit,
    /// The object is deleted with everything in it.
    Delete,
}

/// Kind of the object of a [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// A hook.
    Hook,
    /// A namespace.
    Namespace,
}

/// Events to try a reducer on. Nothing is stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReducerTest {
    /// Headers of the event.
    pub headers: BTreeMap<String, String>,
    /// Body of the event.
    pub body: String,
    /// State before the event; `null` for the first event of a stream.
    pub state: Option<Box<RawValue>>,
    /// Id of the event, if it is a stored one.
    pub event: Option<EventId>,
    /// Seq of the event, if it is a stored one.
    pub seq: Option<Seq>,
    /// Receive time of the event, if it is a stored one.
    pub received_at: Option<Timestamp>,
    /// True to mark the event as late.
    #[serde(skip_serializing_if = "is_default")]
    pub late: bool,
    /// Reducer to try; `null` for the hook's own.
    pub reduce: Option<Reducer>,
    /// Stream whose stored events are folded, instead of the one event.
    pub stream: Option<StreamName>,
    /// Seq of the first of them; `null` for the first that is stored.
    pub from_seq: Option<Seq>,
}

/// Request to create hooks that differ only in their names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewHooks {
    /// The names.
    pub names: Vec<Name>,
    /// Settings of all of them; its name is ignored.
    pub like: HookSpec,
}

/// Result of trying a reducer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TestResult {
    /// State after the last event.
    pub state: Box<RawValue>,
    /// Duration of the fold, in milliseconds.
    pub took_ms: f64,
    /// State before the last event.
    #[serde(default)]
    pub before: Option<Box<RawValue>>,
    /// Seq of the last event folded, if stored events were folded.
    #[serde(default)]
    pub position: Option<i64>,
    /// Number of events folded.
    #[serde(default)]
    pub events: u64,
    /// Reason why the fold stopped early, if stored events were folded.
    #[serde(default)]
    pub failure: Option<String>,
}
