//! Hooks: what to make, what there is, what changes, and a fold tried on one event.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{
    Deliveries, ForwardEdit, ForwardSpec, InvalidEdit, NamespaceSpec, NewSecret, PullEdit,
    PullSpec, VerifyEdit, VerifySpec,
};
use crate::domain::event::EventId;
use crate::domain::filter::Filter;
use crate::domain::hook::{
    BODY_MAX_DEFAULT, Debounce, DedupeBy, OnError, OrderBy, Reducer, Unordered,
};
use crate::domain::keep::Keep;
use crate::domain::name::{Name, StreamName};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;

/// A hook as it is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookSpec {
    /// Its name.
    pub name: Name,
    /// Whose lanes its streams use.
    #[serde(default = "Name::default_namespace")]
    pub namespace: Name,
    /// What divides its events into streams.
    #[serde(default)]
    pub order_by: OrderBy,
    /// What becomes of an event without an ordering key: `refuse`, or `keep` in the hook's own stream.
    #[serde(default)]
    pub unordered: Unordered,
    /// How it knows a repeat of an event.
    #[serde(default)]
    pub dedupe_by: DedupeBy,
    /// Verification of its sender's signatures; none: requests need a write key.
    #[serde(default)]
    pub verify: Option<VerifySpec>,
    /// How events are folded; none stores them only.
    #[serde(default)]
    pub reduce: Option<Reducer>,
    /// What an event that cannot be folded leads to: `hold` or `skip`.
    #[serde(default)]
    pub on_error: OnError,
    /// Gathers events into one turn.
    #[serde(default)]
    pub debounce: Option<Debounce>,
    /// Which events it folds: one pattern of each place must match. Without a pattern, all.
    #[serde(default, skip_serializing_if = "Filter::takes_all")]
    pub only: Filter,
    /// The largest body it accepts, in bytes.
    #[serde(default = "body_max_default")]
    pub body_max: u64,
    /// For how long it keeps events that every handler has passed: `30d`, `10GB` or `forever`.
    #[serde(default)]
    pub keep: Keep,
    /// Where events are delivered, in order, each to its 2xx before the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forward: Vec<ForwardSpec>,
    /// Handlers whose consumers ask for events, in order, each acknowledged before the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pull: Vec<PullSpec>,
}

fn body_max_default() -> u64 {
    BODY_MAX_DEFAULT
}

impl HookSpec {
    /// A hook with one stream that stores and does not fold.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            namespace: Name::default_namespace(),
            order_by: OrderBy::default(),
            unordered: Unordered::default(),
            dedupe_by: DedupeBy::default(),
            verify: None,
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

/// What to change in a hook; what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookEdit {
    /// Whose lanes its streams use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    /// What divides its events into streams, from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_by: Option<OrderBy>,
    /// What becomes of an event without an ordering key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unordered: Option<Unordered>,
    /// How it knows a repeat of an event, from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedupe_by: Option<DedupeBy>,
    /// Verification of its sender's signatures; `null`: requests need a write key again.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub verify: Option<Option<VerifyEdit>>,
    /// How events are folded from now on; old state stays as it is. `null` folds no longer: the states
    /// are gone, and a reducer that comes later begins at the first event that is kept.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub reduce: Option<Option<Reducer>>,
    /// What an event that cannot be folded leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// Gathers events into one turn; `null` gathers no longer.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub debounce: Option<Option<Debounce>>,
    /// Which events it folds from now on; an empty list folds all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<Filter>,
    /// The largest body it accepts, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_max: Option<u64>,
    /// For how long it keeps events that every handler has passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// Forward handlers to make or to change, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forward: Vec<ForwardEdit>,
    /// Forward handlers to remove: their positions are gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove_forward: Vec<Name>,
    /// Pull handlers to make or to change, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pull: Vec<PullEdit>,
    /// Pull handlers to remove: their positions are gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove_pull: Vec<Name>,
}

impl HookEdit {
    /// The hook after this edit.
    ///
    /// # Errors
    /// [`InvalidEdit`]: a handler to remove is not there, or a new one has no URL.
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
        // The failure policy and the filter go with the reducer that they are of.
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

/// Tells a field that is `null` from one that is not there.
fn given<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(from).map(Some)
}

/// A hook that exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hook {
    /// How it is configured.
    #[serde(flatten)]
    pub spec: HookSpec,
    /// The version of its reducer, counted from 1; none when it only stores.
    pub fold: Option<i64>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its streams; none where counting them was not asked for.
    pub streams: Option<u64>,
    /// Its stored events; none where counting them was not asked for.
    pub events: Option<u64>,
    /// Who paused its cursors; none while they take turns.
    #[serde(default)]
    pub paused: Option<Paused>,
    /// Deliveries of its handlers, where these were asked for and a daemon runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<Deliveries>,
    /// Secrets that were made for new forward handlers; they are shown in this one answer only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub new_secrets: Vec<NewSecret>,
}

/// Who paused something, when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: Option<String>,
}

/// Why a hook is paused or let go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookStopSpec {
    /// In the asker's words.
    pub reason: Option<String>,
}

/// Which cursors of a hook shall try again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookRetry {
    /// Those of one handler; none: all that are set aside.
    pub handler: Option<Name>,
}

/// A hook that was paused or let go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStopped {
    /// The hook.
    pub hook: Name,
    /// Whether it was otherwise before.
    pub changed: bool,
    /// Nodes that may still take a turn by what was before; when there are none it is true everywhere.
    pub waits_for: Vec<String>,
}

/// What went with a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The hook.
    pub deleted: Name,
    /// The streams it had.
    pub streams: u64,
    /// The events it had.
    pub events: u64,
}

/// Everything that should exist, as a file says it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Apply {
    /// The namespaces.
    pub namespaces: Vec<NamespaceSpec>,
    /// The hooks.
    pub hooks: Vec<HookSpec>,
}

/// What an [`Apply`] changes, or would change; none when everything is so already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// In the order in which they are made.
    pub changes: Vec<Change>,
    /// Secrets that were made for new forward handlers; they are shown in this one answer only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub new_secrets: Vec<NewSecret>,
}

/// One hook or namespace that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happens to it.
    pub action: Action,
    /// What it is.
    pub kind: ChangeKind,
    /// Which one.
    pub name: Name,
    /// For people, a line a field: `reduce: latest -> merge`.
    pub what: Vec<String>,
}

/// What happens in a [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is made.
    Create,
    /// It becomes different.
    Edit,
    /// It goes, with everything in it.
    Delete,
}

/// What changes in a [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// A hook.
    Hook,
    /// A namespace.
    Namespace,
}

/// One event to try a hook's reducer on; nothing is stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Test {
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: String,
    /// The state before it; none for the first event of a stream.
    pub state: Option<Box<RawValue>>,
    /// Its id, seq and time, where it is an event that came.
    pub event: Option<EventId>,
    /// See [`Self::event`].
    pub seq: Option<Seq>,
    /// See [`Self::event`].
    pub received_at: Option<Timestamp>,
    /// The reducer to try; none: the hook's own.
    pub reduce: Option<Reducer>,
    /// Instead of one event: the stored events of this stream.
    pub stream: Option<StreamName>,
    /// The first of them; none: the first that is kept.
    pub from_seq: Option<Seq>,
}

/// Hooks to be made that differ in their names only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewHooks {
    /// Their names.
    pub names: Vec<Name>,
    /// Everything else about them; the name in it counts for nothing.
    pub like: HookSpec,
}

/// What a reducer made of a [`Test`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tested {
    /// The state after it.
    pub state: Box<RawValue>,
    /// How long the fold took.
    pub took_ms: f64,
    /// The state before.
    #[serde(default)]
    pub before: Option<Box<RawValue>>,
    /// The last event that is in the state, where stored events were folded.
    #[serde(default)]
    pub position: Option<i64>,
    /// Events folded.
    #[serde(default)]
    pub events: u64,
    /// Why it came no further, where stored events were folded.
    #[serde(default)]
    pub failure: Option<String>,
}
