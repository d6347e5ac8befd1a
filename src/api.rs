//! Requests and answers in JSON, the same types for server, client and command line.
//!
//! Promises: field names are those of the tables and flags; times are RFC 3339 UTC, durations end in
//! `_ms`, rates in `_per_s`; what is absent is `null`; fields are only added within one [`SCHEMA`].
//! Requests refuse a field they do not know, answers never do. How the words of the domain are
//! written is in `words`; what the operations mean is left to `admin` and `http`.

mod audit;
pub mod command;
mod doctor;
mod event;
pub mod feed;
mod forward;
mod hook;
mod key;
mod lane;
mod namespace;
mod pull;
mod rebuild;
mod resize;
mod severity;
mod snapshot;
mod stream;
mod verify;
mod why;
mod words;

pub use audit::{AuditRow, Here};
pub use doctor::{Check, Grade};
pub use event::{Accepted, EventRow, Fate, LostEvent, Outcome, SeenLost};
pub use forward::{ForwardEdit, ForwardSpec, NewSecret};
pub use hook::{
    Action, Apply, Change, ChangeKind, Changes, Deleted, Hook, HookEdit, HookRetry, HookSpec,
    HookStopSpec, HookStopped, NewHooks, Paused, Test, Tested,
};
pub use key::{Key, KeySpec, KeyState, NewKey};
pub use lane::{Gathers, Lane, LaneShown, LaneState, Percentiles, Worst};
pub use namespace::{Namespace, NamespaceSpec};
pub use pull::{
    PullAck, PullAnswered, PullAnswers, PullAsk, PullDelivery, PullEdit, PullEvent, PullExtend,
    PullNack, PullSettled, PullSpec, Pulled,
};
pub use rebuild::{FoldedTo, Rebuild, RebuildSpec};
pub use resize::{Carried, LanesSpec, Resize, ResizeProgress, ResizeSpec, Stopped};
pub use severity::Severity;
pub use snapshot::{
    Class, CursorLine, HookLine, LogLine, NamespaceLine, NodeLine, Noted, Operation, Outage,
    Sample, Snapshot, Storage, Total, Verdict, Viewer, Window, how_many_more,
};
pub use stream::{
    Held, Hold, Released, Retry, Skip, Skipped, State, Stream, StreamRow, Waiting, WaitingEvent,
};
pub use verify::{Rejection, SecretRow, SecretSpec, VerifyEdit, VerifySpec};
pub use why::{Help, Hints, HintsOf, HintsSpec, LaneOf, Why, WhyCursor, WhyEvent};

use serde::{Deserialize, Serialize};

use crate::domain::time::Timestamp;

/// The number of this set of shapes.
pub const SCHEMA: u32 = 1;

/// Items in order, and where to go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct List<T> {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it was true.
    pub at: Timestamp,
    /// The items.
    pub items: Vec<T>,
    /// What to give as `after` to get the items that follow; none at the end.
    pub next: Option<String>,
}

impl<T> List<T> {
    /// A list that is true at `at`.
    pub fn new(at: Timestamp, items: Vec<T>, next: Option<String>) -> Self {
        Self {
            schema: SCHEMA,
            at,
            items,
            next,
        }
    }
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong.
    pub error: Error,
}

/// What went wrong, and what helps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// A stable word for programs, such as `no_such_hook`.
    pub code: String,
    /// What happened, with the value.
    pub message: String,
    /// What would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Commands to go on with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
}

impl Error {
    /// An error without advice.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            hint: None,
            next: Vec::new(),
        }
    }

    /// The same with what would help.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_reads_back_and_answers_may_have_more_fields_than_known() {
        let text = r#"{"name":"orders","namespace":"acme","order_by":"header:x-account",
            "unordered":"keep","reduce":{"file":"a.js","source":"x"},"on_error":"skip",
            "debounce":{"quiet_ms":5,"longest_ms":50},"body_max":9,"fold":2,
            "created_at":"2026-11-23T02:59:14.231Z","streams":null,"events":7,"later":true}"#;
        let hook: Hook = serde_json::from_str(text).unwrap();
        let written = serde_json::to_string(&hook).unwrap();
        assert_eq!(serde_json::from_str::<Hook>(&written).unwrap(), hook);
        assert_eq!(hook.spec.order_by.to_string(), "header:x-account");
    }

    #[test]
    fn a_request_refuses_what_it_does_not_know() {
        for wrong in [
            r#"{"name":"a","forward":"x"}"#,
            r#"{"name":"A"}"#,
            r#"{"name":"a","reduce":"sum"}"#,
            r#"{"name":"a","unordered":"maybe"}"#,
            r#"{"name":"a","debounce":{"quiet_ms":9,"longest_ms":1}}"#,
        ] {
            assert!(serde_json::from_str::<HookSpec>(wrong).is_err(), "{wrong}");
        }
        let least: HookSpec = serde_json::from_str(r#"{"name":"a"}"#).unwrap();
        assert_eq!(least, HookSpec::new("a".parse().unwrap()));
    }

    #[test]
    fn an_edit_tells_what_goes_from_what_stays() {
        let edit = |text| serde_json::from_str::<HookEdit>(text).unwrap();
        assert_eq!(edit("{}").debounce, None);
        assert_eq!(edit(r#"{"debounce":null}"#).debounce, Some(None));
        let written = serde_json::to_string(&edit(r#"{"debounce":null}"#)).unwrap();
        assert_eq!(written, r#"{"debounce":null}"#);
    }

    #[test]
    fn a_state_keeps_its_bytes() {
        let text = r#"{"hook":"a","stream":"","position":1,"era":1,"head":1,
            "state":{"b":1.10,"a":12345678901234567890123},"updated_at":null}"#;
        let state: State = serde_json::from_str(text).unwrap();
        let raw = state.state.as_deref().map(serde_json::value::RawValue::get);
        assert_eq!(raw, Some(r#"{"b":1.10,"a":12345678901234567890123}"#));
    }
}
