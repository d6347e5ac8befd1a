//! Rebuilds of states: requests and progress.

use serde::{Deserialize, Serialize};

use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;

/// Request to rebuild states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebuildSpec {
    /// Rebuild every stream of this hook.
    #[serde(default)]
    pub hook: Option<Name>,
    /// Rebuild only this stream.
    #[serde(default)]
    pub stream: Option<StreamName>,
    /// Only compare the new states with the old ones.
    #[serde(default)]
    pub check: bool,
    /// Only return the plan.
    #[serde(default)]
    pub dry_run: bool,
    /// Accept checkpoints that an older version of the reducer had a part in.
    #[serde(default)]
    pub from_checkpoints: bool,
}

/// A rebuild: planned, under way, or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuild {
    /// Its number; `null` while it is only planned.
    pub id: Option<i64>,
    /// Hook whose states are rebuilt.
    pub hook: Name,
    /// The only stream; `null` for all streams.
    pub stream: Option<StreamName>,
    /// True if states are only compared.
    pub check: bool,
    /// `planned`, `running`, `done` or `failed`.
    pub state: String,
    /// Number of streams to rebuild.
    pub streams: u64,
    /// Number of streams done.
    pub streams_done: u64,
    /// Number of events to fold.
    pub events: u64,
    /// Number of events folded.
    pub events_done: u64,
    /// Number of streams that begin at a checkpoint because retention removed earlier events. Only in a
    /// plan.
    #[serde(default)]
    pub checkpoints: u64,
    /// Number of those checkpoints that an older version of the reducer had a part in. Only in a plan.
    #[serde(default)]
    pub older: u64,
    /// Events per second of the hook's last rebuild, if that took long enough to measure. Only in a
    /// plan.
    #[serde(default)]
    pub per_s_before: Option<u64>,
    /// Number of streams whose new state differs from the old one.
    pub differ: u64,
    /// Number of streams that could not be folded and kept their states.
    pub failed: u64,
    /// Some streams that differ or failed, one line each.
    pub samples: Vec<String>,
    /// Reason why the rebuild failed as a whole.
    pub error: Option<String>,
    /// Time of the request; the same for all hooks of one `--all`.
    #[serde(default)]
    pub asked_at: Option<Timestamp>,
}

/// State of a stream after an earlier event, folded by the present reducer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FoldedState {
    /// The stream.
    pub stream: StreamName,
    /// Seq of the last event folded.
    pub position: i64,
    /// The state after it.
    pub state: Option<Box<serde_json::value::RawValue>>,
}
