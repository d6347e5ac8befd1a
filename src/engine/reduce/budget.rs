//! The time that a fold may take, and whose it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::name::Name;
use crate::engine::share::{SHORT, Shares};

/// The shares of a node, and a clock for them.
pub struct SharedShares {
    shares: Mutex<Shares>,
    began: Instant,
    /// Called when a handler has become slow.
    pub slower: Notify,
}

impl Default for SharedShares {
    fn default() -> Self {
        Self {
            shares: Mutex::default(),
            began: Instant::now(),
            slower: Notify::new(),
        }
    }
}

impl SharedShares {
    /// The shares, and their now.
    pub fn with<T>(&self, act: impl FnOnce(&mut Shares, Duration) -> T) -> T {
        act(&mut self.shares.lock(), self.began.elapsed())
    }
}

/// When folding ends although there is more to fold. The first event is always tried.
#[derive(Clone)]
pub struct Budget {
    /// After this long.
    pub time: Duration,
    /// When this says so, asked now and then.
    pub until: Option<Until>,
    /// Whose time it is. With none it counts for nobody, and no share ends it.
    pub of: Option<Name>,
}

/// Whether to go no further, by how many events of the task are folded.
pub type Until = Arc<dyn Fn(usize) -> bool + Send + Sync>;

impl From<Duration> for Budget {
    fn from(time: Duration) -> Self {
        Self {
            time,
            until: None,
            of: None,
        }
    }
}

/// Whether the tasks of a turn fold in slices, so that one of them does not take the time of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slices {
    None,
    Short,
}

impl Slices {
    /// When a task that begins now ends.
    pub(super) fn end(self, until: Option<Instant>) -> Option<Instant> {
        let slice = match self {
            Self::None => return until,
            Self::Short => Instant::now().checked_add(SHORT),
        };
        until.into_iter().chain(slice).min()
    }
}
