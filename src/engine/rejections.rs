//! Rejected requests on this node since they were last stored: one tally per hook and reason, so
//! senders cannot make them grow.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use crate::domain::hook::HookId;
use crate::domain::time::Timestamp;
use crate::domain::verify::diagnosis::{Diagnosis, Reason};
use crate::store::{Error, Rejection, Store};

/// Least time between two searches for a cause, in milliseconds. Each costs some dozens of signature
/// checks, and any stranger can cause one.
const SEARCH_EVERY: i64 = 50;

/// Rejections not yet stored.
#[derive(Debug, Default)]
pub struct Rejections {
    tallies: Mutex<BTreeMap<(HookId, Reason), Rejection>>,
    searched_at: AtomicI64,
}

impl Rejections {
    /// True if a search for a cause is allowed now; the time of the search is recorded then.
    pub fn may_search(&self, now: Timestamp) -> bool {
        let now = now.as_millis();
        let last = self.searched_at.load(Ordering::Relaxed);
        let is_due = now.abs_diff(last) >= SEARCH_EVERY.unsigned_abs();
        is_due
            && self
                .searched_at
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Records a rejection. `sample` is the request as JSON, without secrets.
    pub fn add(&self, hook: HookId, diagnosis: Diagnosis, sample: String, at: Timestamp) {
        self.join(Rejection {
            hook,
            diagnosis,
            count: 1,
            first_at: at,
            last_at: at,
            sample,
        });
    }

    /// Stores the recorded rejections. After an error they stay recorded for the next call.
    pub async fn store(&self, store: &Store) -> Result<(), Error> {
        let taken: Vec<_> = std::mem::take(&mut *self.tallies.lock())
            .into_values()
            .collect();
        if taken.is_empty() {
            return Ok(());
        }
        let stored = store.add_rejections(&taken).await;
        if stored.is_err() {
            taken.into_iter().for_each(|one| self.join(one));
        }
        stored
    }

    /// Adds a rejection to its tally, which keeps the later of the two requests.
    fn join(&self, one: Rejection) {
        let mut tallies = self.tallies.lock();
        let key = (one.hook, one.diagnosis.reason);
        let Some(there) = tallies.get_mut(&key) else {
            tallies.insert(key, one);
            return;
        };
        let (count, first_at) = (there.count + one.count, there.first_at.min(one.first_at));
        if one.last_at >= there.last_at {
            *there = one;
        }
        there.count = count;
        there.first_at = first_at;
    }
}
