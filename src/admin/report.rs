//! The report that each node writes once a second, for all other nodes to read.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::api::{self, Lane};
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;
use crate::engine::Waits;

/// What one node tells the others of itself, once a second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    pub lanes: Vec<Lane>,
    pub cursors: Vec<(Name, api::CursorLine)>,
    pub version: Option<String>,
    pub cpu: Option<f64>,
    pub commit_p99_ms: Option<f64>,
    pub fsync_p99_ms: Option<f64>,
    /// Events that it accepts, a second.
    pub accepted_per_s: f64,
    /// Hooks that get something from it: how much a second, and what is normal.
    pub hooks: Vec<(i64, f64, Option<f64>)>,
    /// Handlers that are much slower in its lanes than is normal: the time they take for an event, and the normal one.
    pub slow: Vec<(i64, f64, f64)>,
    /// Streams that keep events past their time: of which namespace, and in words.
    pub overdue: Vec<(Name, String)>,
    /// What is normal for its commits.
    pub commit_normal_ms: Option<f64>,
    /// What is wrong with Redis, as it sees it.
    pub hints: Option<api::Outage>,
    /// Turns of its lanes that have run for long: the lane, the cursor, and the time in milliseconds.
    pub turns: Vec<(String, String, u64)>,
    /// In each of its lanes that is late the stream with most to go, and how much.
    pub largest: Vec<(String, StreamName, u64)>,
    /// Reducers that take long for an event, and how long in seconds.
    pub folds: Vec<(i64, f64)>,
    /// Handlers that are too slow for the node's lanes.
    pub beside: Vec<i64>,
    /// Findings of the node: namespace, rule, stream, and the time since which each stands.
    pub since: Vec<(Name, u8, Option<StreamName>, Timestamp)>,
    /// What was finished since it began, by how long it had waited.
    pub waits: HashMap<Name, Waits>,
    /// What waits now, by how long so far.
    pub waiting: HashMap<Name, Waits>,
    /// Times of the last minutes in microseconds, and how many events took them.
    pub wait: HashMap<Name, Vec<(u64, u64)>>,
    pub work: HashMap<Name, Vec<(u64, u64)>>,
}

impl NodeReport {
    /// The report that a node wrote. One that cannot be read, of another version, tells nothing.
    pub fn read(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_default()
    }
}
