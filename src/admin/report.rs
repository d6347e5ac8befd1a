//! The report that each node writes once a second for the other nodes.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::api::{self, Lane};
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;
use crate::engine::Waits;

/// Report of a node about itself, written once a second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    pub lanes: Vec<Lane>,
    pub cursors: Vec<(Name, api::CursorLine)>,
    pub version: Option<String>,
    pub cpu: Option<f64>,
    pub commit_p99_ms: Option<f64>,
    pub fsync_p99_ms: Option<f64>,
    /// Events accepted per second by the node.
    pub accepted_per_s: f64,
    /// Hooks that receive events through this node: events per second, present and usual.
    pub hooks: Vec<(i64, f64, Option<f64>)>,
    /// Handlers much slower than usual in the node's lanes: time per event, present and usual.
    pub slow: Vec<(i64, f64, f64)>,
    /// Sentences about streams that keep events past their retention, with the namespace.
    pub overdue: Vec<(Name, String)>,
    /// Usual time of the node's commits, in milliseconds.
    pub commit_normal_ms: Option<f64>,
    /// Free bytes on the node's disk, if it is nearly full.
    pub room: Option<u64>,
    /// Present failure of Redis, as seen by the node.
    pub hints: Option<api::Outage>,
    /// Turns of the node's lanes that have run for long: the lane, the cursor, and the time in milliseconds.
    pub turns: Vec<(LaneId, String, u64)>,
    /// Stream with the largest backlog in each of the node's late lanes, with its number of events.
    pub largest: Vec<(LaneId, StreamName, u64)>,
    /// Reducers that have worked on one event for long, each with the time in seconds.
    pub folds: Vec<(i64, f64)>,
    /// Handlers that take turns beside the lanes, because they use more than their share of fold time.
    pub beside: Vec<i64>,
    /// Times since when the node has had its findings, by namespace, rule and stream.
    pub since: Vec<(Name, api::Rule, Option<StreamName>, Timestamp)>,
    /// Counts of events finished since the node started, by wait time.
    pub waits: HashMap<Name, Waits>,
    /// Counts of events that wait now, by wait time so far.
    pub waiting: HashMap<Name, Waits>,
    /// Wait times of the last minutes in microseconds, each with its number of events.
    pub wait: HashMap<Name, Vec<(u64, u64)>>,
    pub work: HashMap<Name, Vec<(u64, u64)>>,
}

impl NodeReport {
    /// Parses a report. An unreadable one, from another version, becomes an empty report.
    pub fn read(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_default()
    }
}
