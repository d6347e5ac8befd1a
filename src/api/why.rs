//! Why a stream is where it is; where it belongs; and what a rebuild of the hints has found.

use serde::{Deserialize, Serialize};

use super::{Class, Deliveries, Lane, Rejection};
use crate::domain::event::EventId;
use crate::domain::filter::Filter;
use crate::domain::keep::Keep;
use crate::domain::name::{Name, StreamName};
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;

/// Why a stream is, or is not, at its head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// Which stream.
    pub stream: StreamName,
    /// Its newest event.
    pub head: Seq,
    /// Where it stands among the lanes.
    pub slot: u16,
    /// Whose lanes.
    pub namespace: Name,
    /// The lane of its turns, as it does now.
    pub lane: Lane,
    /// Whose fault it is.
    pub class: Class,
    /// In words.
    pub verdict: String,
    /// How long commits of the node that answers take: 99 in 100 at most this, in milliseconds.
    #[serde(default)]
    pub commit_p99_ms: Option<f64>,
    /// Its handlers, each with where it is and why.
    pub cursors: Vec<WhyCursor>,
    /// Deliveries of its hook's handlers, over all streams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<Deliveries>,
    /// The event that was asked about.
    pub event: Option<WhyEvent>,
    /// Of a hook's own stream: the requests that the hook has rejected, the last first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejections: Vec<Rejection>,
}

/// Where one handler is in a stream, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhyCursor {
    /// The handler.
    pub handler: Name,
    /// `flowing`, `waiting`, `held` or `paused`.
    pub condition: String,
    /// The last event applied.
    pub position: Position,
    /// How many are still to apply.
    pub behind: u64,
    /// Why it does not move: the last error, or what its operator said; none while it flows.
    pub reason: Option<String>,
    /// True if an operator holds it; false if it failed.
    #[serde(default)]
    pub by_operator: bool,
    /// Since when it has not moved.
    pub since: Option<Timestamp>,
    /// Tries so far of the next event.
    pub tries: u32,
    /// When it is tried again.
    pub retry_at: Option<Timestamp>,
    /// Until when it gathers events, as its debounce asks; later when more come.
    #[serde(default)]
    pub gathers_until: Option<Timestamp>,
    /// The event it moves to and no further, while its lane drains.
    pub mark: Option<Position>,
    /// The event it needs next; none at the head.
    pub next: Option<EventId>,
    /// When that was received.
    pub next_received_at: Option<Timestamp>,
    /// Which events it takes; it passes the others.
    #[serde(default, skip_serializing_if = "Filter::takes_all")]
    pub only: Filter,
    /// How long its hook keeps events, where the next one is older than that and stays for this cursor.
    #[serde(default)]
    pub kept_past: Option<Keep>,
    /// What ends it.
    pub ends: String,
    /// What helps.
    pub helps: Vec<Help>,
    /// What does not.
    pub does_not: Vec<String>,
}

/// A command that helps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Help {
    /// The command, whole.
    pub command: String,
    /// What it does.
    pub what: String,
}

/// Where one event is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhyEvent {
    /// Which.
    pub event: EventId,
    /// Its place.
    pub seq: Seq,
    /// When it was received.
    pub received_at: Timestamp,
    /// For each handler: what became of it, in words.
    pub fate: Vec<String>,
}

/// Where a stream belongs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneOf {
    /// Which stream.
    pub stream: StreamName,
    /// Whether it has events.
    pub stored: bool,
    /// Where it stands among the lanes.
    pub slot: u16,
    /// Whose lanes.
    pub namespace: Name,
    /// How many they are.
    pub lanes: u16,
    /// The lane of its turns now.
    pub lane: String,
    /// The place of its lane if there were as many lanes as was asked about.
    pub index_if: Option<u16>,
}

/// Whose hints are to be wiped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HintsSpec {
    /// Whose; none for all namespaces.
    pub namespace: Option<Name>,
    /// Only look.
    pub dry_run: bool,
    /// Why.
    pub reason: Option<String>,
}

/// What was found when hints were wiped and made again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hints {
    /// The namespaces it was about.
    pub namespaces: Vec<Name>,
    /// The node that was asked.
    pub node: String,
    /// What each node found that has answered.
    pub nodes: Vec<HintsOf>,
    /// Nodes that have not answered in time; each does its part when it goes on.
    pub silent: Vec<String>,
    /// Lanes of those that have.
    pub lanes_done: u64,
    /// All lanes of theirs.
    pub lanes: u64,
    /// Cursors that were hinted before.
    pub hinted: u64,
    /// Cursors that are behind, as the database has it.
    pub behind: u64,
    /// Those of them that flow and had no hint.
    pub forgotten: u64,
    /// Whether it was only looked.
    pub dry_run: bool,
    /// How long it took.
    pub took_ms: u64,
}

/// What one node found in its own lanes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HintsOf {
    /// Which node.
    pub node: String,
    /// Its lanes of the namespaces.
    pub lanes: u64,
    /// Cursors that were hinted before.
    pub hinted: u64,
    /// Cursors that are behind, as the database has it.
    pub behind: u64,
    /// Those of them that flow and had no hint.
    pub forgotten: u64,
}
