//! The monitor: once a second it computes a snapshot of each namespace for all viewers, with history,
//! baselines and the log of changes. `look.rs` has the steps of a second: `survey.rs` gathers from this
//! node, `cluster.rs` merges it with the reports of the other nodes, `seen.rs`, `space.rs` and `past.rs`
//! remember, `snapshot.rs` composes. `normals.rs` stores baselines, `feed.rs` sends to followers.

mod cluster;
mod feed;
mod follower;
mod lines;
mod look;
mod normals;
mod operations;
mod own_report;
mod past;
mod seen;
mod snapshot;
mod space;
mod survey;

use std::sync::Arc;

use parking_lot::Mutex;

use feed::Feeds;
pub use follower::Follower;
pub(super) use own_report::commit_p99;
use seen::MonitorState;

use crate::api;
use crate::domain::time::Timestamp;

/// Seconds between updates of figures that are not needed every second.
const STEP: u64 = past::STEP as u64;

/// Number of set-aside cursors shown, and of flowing ones.
const SET_ASIDE_MAX: usize = 50;
const FLOWING_MAX: usize = 20;

/// State of the monitor, shared by all viewers.
pub struct Monitor {
    began: Timestamp,
    seen: Mutex<MonitorState>,
    /// Receivers of alerts, as the task that posts them last saw them.
    pub(super) receivers: Mutex<Vec<api::AlertReceiver>>,
    feeds: Feeds,
}

impl Monitor {
    /// The latest snapshot of each namespace.
    pub(super) fn snapshots(&self) -> Vec<Arc<api::Snapshot>> {
        self.seen.lock().snapshots.values().cloned().collect()
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            began: Timestamp::now(),
            seen: Mutex::default(),
            receivers: Mutex::default(),
            feeds: Feeds::default(),
        }
    }
}
