//! Requests and answers in JSON: the same types for server, client and command line.
//!
//! Promises: fields are named like columns and flags; times are RFC 3339 UTC, durations end in `_ms`,
//! rates in `_per_s`; absent values are `null`; within one [`SCHEMA`], fields are only added. Requests
//! with an unknown field are refused, unknown fields of answers are ignored. `words` defines the
//! spelling of domain types; `admin` and `http` define what operations do.

mod alert;
mod audit;
pub mod command;
mod condition;
mod doctor;
mod erasure;
mod eta;
mod event;
pub mod feed;
mod forward;
mod hook;
mod key;
mod lane;
mod log;
mod namespace;
mod pull;
mod rebuild;
mod replay;
mod resize;
mod rule;
mod severity;
mod snapshot;
mod stream;
mod verify;
mod why;
mod words;

pub use alert::{Alert, AlertMessage};
pub use audit::{AuditRow, PlanContext};
pub use condition::Condition;
pub use doctor::{Check, Grade};
pub use erasure::{EraseSpec, Erased, OpenErasures};
pub use eta::Eta;
pub use event::{Accepted, EventRow, Fate, LostConfirmed, LostEvent, Outcome};
pub use forward::{Deliveries, ForwardEdit, ForwardSpec, InvalidEdit, NewSecret};
pub use hook::{
    Action, Apply, Change, ChangeKind, Changes, Deleted, Hook, HookEdit, HookRetry, HookSpec,
    HookStopSpec, HookStopped, NewHooks, OrderCounts, Paused, ReducerTest, TestResult,
};
pub use key::{Key, KeySpec, KeyState, NewKey};
pub use lane::{Gathering, Lane, LaneDetail, LaneState, Percentiles, WorstCursor};
pub use log::{ExportedState, FeedEvent, LogPage};
pub use namespace::{Namespace, NamespaceSpec};
pub use pull::{
    PullAck, PullAnswers, PullDelivery, PullEdit, PullEvent, PullExtend, PullNack, PullOutcomes,
    PullRequest, PullResponse, PullSettled, PullSpec,
};
pub use rebuild::{FoldedState, Rebuild, RebuildSpec};
pub use replay::{Replay, ReplaySpec};
pub use resize::{InheritedStop, LanesSpec, LanesStopped, Resize, ResizeProgress, ResizeSpec};
pub use rule::Rule;
pub use severity::Severity;
pub use snapshot::{
    AlertReceiver, Class, CursorLine, HookLine, LogLine, NamespaceLine, NodeLine, Operation,
    Outage, PastOutage, Restored, Sample, Snapshot, Storage, Total, Verdict, Viewer, Window,
    how_many_more,
};
pub use stream::{
    Hold, HoldResult, Retry, RetryResult, Skip, SkipResult, State, Stream, StreamRow, Waiting,
    WaitingEvent,
};
pub use verify::{Rejection, SecretRow, SecretSpec, UnusedSecret, VerifyEdit, VerifySpec};
pub use why::{
    CursorDiagnosis, Diagnosis, EventDiagnosis, Help, Hints, HintsSpec, NodeHints, StreamLane,
};

use serde::{Deserialize, Serialize};

use crate::domain::time::Timestamp;

/// Version of these JSON shapes.
pub const SCHEMA: u32 = 1;

/// A page of items in order, with the place where the next page begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct List<T> {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// Time at which the data was read.
    pub at: Timestamp,
    /// The items.
    pub items: Vec<T>,
    /// Value of `after` for the next page; `null` on the last page.
    pub next: Option<String>,
}

impl<T> List<T> {
    /// A page of data read at `at`.
    pub fn new(at: Timestamp, items: Vec<T>, next: Option<String>) -> Self {
        Self {
            schema: SCHEMA,
            at,
            items,
            next,
        }
    }
}

/// Body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The error.
    pub error: Error,
}

/// An error with its remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Stable identifier for programs, such as `no_such_hook`.
    pub code: String,
    /// Description of what happened, with the value concerned.
    pub message: String,
    /// Advice on what would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Commands to run next.
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

    /// Adds advice.
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
    fn lanes_rules_and_conditions_have_types_here_and_plain_words_and_numbers_on_the_wire() {
        let lane = r#"{"lane":"default-eu-115-3","index":3,"generation":115,"state":"active","set_aside":0,
            "waiting":0,"held":0,"oldest_ms":null,"flow_ms":null,"backlog":0,"backlog_flowing":0,
            "in_per_s":null,"out_per_s":null,"eta":"steady","eta_ms":null,"wait_ms":null,
            "work_ms":null,"node":null,"worst":null}"#;
        let read: Lane = serde_json::from_str(lane).unwrap();
        assert_eq!(
            (read.id.namespace.as_str(), read.id.index),
            ("default-eu", 3)
        );
        assert_eq!(read.eta, Some(Eta::Steady));
        let written = serde_json::to_string(&read).unwrap();
        let begin = r#"{"lane":"default-eu-115-3","index":3,"generation":115,"state":"active","#;
        assert!(written.starts_with(begin), "{written}");

        let words = r#"["flowing","waiting","held","paused"]"#;
        let conditions: Vec<Condition> = serde_json::from_str(words).unwrap();
        assert_eq!(serde_json::to_string(&conditions).unwrap(), words);
        let newer: (Condition, Eta, Rule) =
            serde_json::from_str(r#"["napping","soon",77]"#).unwrap();
        assert_eq!(newer, (Condition::Unknown, Eta::Unknown, Rule::Unknown));
        assert_eq!(serde_json::to_string(&Rule::Destination).unwrap(), "10");
    }

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
