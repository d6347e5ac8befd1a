//! Answers of `hooklane why` and `hooklane lanes of`, and the result of rebuilding hints.

use serde::{Deserialize, Serialize};

use super::OrderCounts;
use super::condition::Condition;
use super::{Class, Deliveries, Lane, Rejection, UnusedSecret};
use crate::domain::event::EventId;
use crate::domain::filter::Filter;
use crate::domain::keep::Keep;
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;

/// Diagnosis of a stream: why it is, or is not, at its head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The stream.
    pub stream: StreamName,
    /// Seq of its newest event.
    pub head: Seq,
    /// Counts of the provider's order; absent for a hook without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderCounts>,
    /// Its slot, which determines its lane.
    pub slot: u16,
    /// The namespace of its hook.
    pub namespace: Name,
    /// Its lane at this moment.
    pub lane: Lane,
    /// Party that causes it.
    pub class: Class,
    /// The finding in words.
    pub verdict: String,
    /// 99th percentile of the commit times of the answering node, in milliseconds.
    #[serde(default)]
    pub commit_p99_ms: Option<f64>,
    /// Diagnosis of each handler.
    pub cursors: Vec<CursorDiagnosis>,
    /// Outcomes of the deliveries of its hook's handlers, over all streams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<Deliveries>,
    /// The event that was asked about.
    pub event: Option<EventDiagnosis>,
    /// Latest rejected requests of the hook, newest first; only for a stream without a key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejections: Vec<Rejection>,
    /// Secrets of the hook that verify nothing; only for a stream without a key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unused_secrets: Vec<UnusedSecret>,
}

/// Diagnosis of one handler in a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CursorDiagnosis {
    /// The handler.
    pub handler: Name,
    /// `flowing`, `waiting`, `held` or `paused`.
    pub condition: Condition,
    /// The last event applied.
    pub position: Position,
    /// Number of events still to apply.
    pub behind: u64,
    /// Error of the last try, or reason of the operator's hold; `null` while it flows.
    pub reason: Option<String>,
    /// True if an operator holds it; false if it failed.
    #[serde(default)]
    pub by_operator: bool,
    /// Time since when it has not moved.
    pub since: Option<Timestamp>,
    /// Number of failed tries of the next event.
    pub tries: u32,
    /// Time of the next try.
    pub retry_at: Option<Timestamp>,
    /// Time until which it gathers events for its debounce; moves on when more events come.
    #[serde(default)]
    pub gathers_until: Option<Timestamp>,
    /// Seq up to which it moves while its lane drains.
    pub mark: Option<Position>,
    /// The event that it needs next; `null` at the head.
    pub next: Option<EventId>,
    /// Receive time of that event.
    pub next_received_at: Option<Timestamp>,
    /// Filter of the events that it handles; it skips the others.
    #[serde(default, skip_serializing_if = "Filter::takes_all")]
    pub only: Filter,
    /// Retention of its hook, if the next event is older than that and is kept only for this cursor.
    #[serde(default)]
    pub kept_past: Option<Keep>,
    /// Condition that ends the present state.
    pub ends: String,
    /// Commands that help.
    pub helps: Vec<Help>,
    /// Measures that do not help.
    pub does_not: Vec<String>,
}

/// A command that helps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Help {
    /// The complete command.
    pub command: String,
    /// Effect of the command.
    pub what: String,
}

/// Diagnosis of one event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventDiagnosis {
    /// The event.
    pub event: EventId,
    /// Its place in the stream.
    pub seq: Seq,
    /// Its receive time.
    pub received_at: Timestamp,
    /// Outcome for each handler, in words.
    pub fate: Vec<String>,
}

/// The lane that a stream belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamLane {
    /// The stream.
    pub stream: StreamName,
    /// True if it has events.
    pub stored: bool,
    /// Its slot.
    pub slot: u16,
    /// The namespace of its hook.
    pub namespace: Name,
    /// Number of lanes of the namespace.
    pub lanes: u16,
    /// The lane of its turns now.
    pub lane: LaneId,
    /// The place of its lane if there were as many lanes as was asked about.
    pub index_if: Option<u16>,
}

/// Request to wipe hints and make them again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HintsSpec {
    /// Only hints of this namespace; `null` for all.
    pub namespace: Option<Name>,
    /// Only count, and change nothing.
    pub dry_run: bool,
    /// Reason, in the operator's words.
    pub reason: Option<String>,
}

/// Result of wiping hints and making them again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hints {
    /// The namespaces concerned.
    pub namespaces: Vec<Name>,
    /// Node that answers.
    pub node: String,
    /// Result of each node that answered.
    pub nodes: Vec<NodeHints>,
    /// Nodes that did not answer in time; each does its part later.
    pub silent: Vec<String>,
    /// Number of lanes of the nodes that answered.
    pub lanes_done: u64,
    /// Number of lanes of all nodes.
    pub lanes: u64,
    /// Number of cursors that had a hint before.
    pub hinted: u64,
    /// Number of cursors that are behind, from the database.
    pub behind: u64,
    /// Number of flowing cursors that are behind and had no hint.
    pub forgotten: u64,
    /// True if hints were only counted.
    pub dry_run: bool,
    /// Duration, in milliseconds.
    pub took_ms: u64,
}

/// Result of one node for its own lanes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeHints {
    /// The node.
    pub node: String,
    /// Number of its lanes in these namespaces.
    pub lanes: u64,
    /// Number of cursors that had a hint before.
    pub hinted: u64,
    /// Number of cursors that are behind, from the database.
    pub behind: u64,
    /// Number of flowing cursors that are behind and had no hint.
    pub forgotten: u64,
}
