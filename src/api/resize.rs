//! Lanes that are resized, stopped and let go on.

use serde::{Deserialize, Serialize};

use crate::domain::name::Name;

fn default_namespace() -> Name {
    Name::default_namespace()
}

/// How many lanes a namespace shall have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeSpec {
    /// Whose lanes.
    #[serde(default = "default_namespace")]
    pub namespace: Name,
    /// How many.
    pub lanes: u16,
    /// How many there must be now, or nothing is done.
    #[serde(default)]
    pub expect: Option<u16>,
    /// The generation that the plan was about, or nothing is done.
    #[serde(default)]
    pub generation: Option<i64>,
    /// Only the plan.
    #[serde(default)]
    pub dry_run: bool,
    /// The new lanes begin when the old ones have done what waits now.
    #[serde(default)]
    pub drain_first: bool,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What a resize means, planned or begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// Whose lanes.
    pub namespace: Name,
    /// How many there are.
    pub from: u16,
    /// How many there will be.
    pub to: u16,
    /// The generation that goes.
    pub generation: i64,
    /// The generation that comes; none while it is only planned, or nothing is to be done.
    pub next_generation: Option<i64>,
    /// Streams of the namespace.
    pub streams: u64,
    /// Those that get a lane of another number.
    pub moves: u64,
    /// Cursors that are set aside, which move as they are.
    pub set_aside: u64,
    /// The share of time with a turn running, 0 to 1, in the busiest lane.
    #[serde(default)]
    pub busiest: Option<f64>,
    /// About the same, had the resize been done.
    #[serde(default)]
    pub busiest_after: Option<f64>,
    /// Events that wait.
    pub backlog: u64,
    /// Those of them in the fullest lane.
    pub fullest_lane: u64,
    /// The same, had the resize been done.
    pub fullest_lane_after: u64,
    /// Events that wait in the fullest stream, which stays in one lane.
    pub fullest_stream: u64,
    /// What is in the way.
    pub in_the_way: Vec<String>,
}

/// How far a resize has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResizeProgress {
    /// The newest generation that takes turns.
    pub generation: i64,
    /// How many lanes it has.
    pub lanes: u16,
    /// Whether a resize is under way.
    pub under_way: bool,
    /// Old lanes that are sealed.
    pub sealed: u16,
    /// Old lanes.
    pub of: u16,
    /// What the rest waits for.
    pub waits_for: Option<String>,
}

/// Which lanes, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanesSpec {
    /// Whose lanes.
    #[serde(default = "default_namespace")]
    pub namespace: Name,
    /// Their names or places; none: all.
    #[serde(default)]
    pub lanes: Option<Vec<String>>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Lanes that were stopped or let go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stopped {
    /// Their names.
    pub lanes: Vec<String>,
    /// Nodes that may still take a turn by what was before; when there are none it is true everywhere.
    pub waits_for: Vec<String>,
}
