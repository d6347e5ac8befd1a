//! Time limits of folds, and the shares that they are charged to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::name::Name;
use crate::engine::share::{SHORT, Shares};

/// The shares of a node, with their clock.
pub struct SharedShares {
    shares: Mutex<Shares>,
    began: Instant,
    /// Notified when a handler has become slow.
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
    /// Calls `act` with the shares and the present time.
    pub fn with<T>(&self, act: impl FnOnce(&mut Shares, Duration) -> T) -> T {
        act(&mut self.shares.lock(), self.began.elapsed())
    }
}

/// Conditions that end folding early. The first event is always tried.
#[derive(Clone)]
pub struct Budget {
    /// Time limit.
    pub time: Duration,
    /// Further condition, checked regularly.
    pub until: Option<Until>,
    /// Namespace whose time it is. Without one the time is not charged, and no share ends the fold.
    pub of: Option<Name>,
}

/// Given the number of events folded in a task, true to stop.
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

/// Tells whether the tasks of a turn fold in slices, so that one of them cannot use the time of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slices {
    None,
    Short,
}

impl Slices {
    /// End of a task that begins now.
    pub(super) fn end(self, until: Option<Instant>) -> Option<Instant> {
        let slice = match self {
            Self::None => return until,
            Self::Short => Instant::now().checked_add(SHORT),
        };
        until.into_iter().chain(slice).min()
    }
}
