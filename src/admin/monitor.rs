//! What is seen of the whole once a second, for all who look: snapshots, their history, what is normal,
//! and the log of what changed. `look.rs` has the steps of a second: `survey.rs` gathers from this node,
//! `whole.rs` merges it with the reports of the others, `seen.rs`, `space.rs` and `past.rs` remember,
//! `snapshot.rs` composes. `normals.rs` stores what is normal, `feed.rs` sends to those who follow.

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
mod whole;

use parking_lot::Mutex;

use feed::Feeds;
pub use follower::Follower;
pub(super) use own_report::commit_p99;
use seen::Seen;

use crate::domain::time::Timestamp;

/// Seconds between looks at what need not be looked at every second.
const STEP: u64 = past::STEP as u64;

/// Cursors shown that are set aside, and that flow.
const SET_ASIDE_MAX: usize = 50;
const FLOWING_MAX: usize = 20;

/// Keeps what was seen.
pub struct Monitor {
    began: Timestamp,
    seen: Mutex<Seen>,
    feeds: Feeds,
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            began: Timestamp::now(),
            seen: Mutex::default(),
            feeds: Feeds::default(),
        }
    }
}
