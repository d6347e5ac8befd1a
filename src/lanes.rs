//! Hints: which cursors may have work. Each lane that runs on this node has one queue of them in
//! memory.
//!
//! Hints are advisory. Losing all of them costs time, never an event or its order, because the sweep
//! finds the same cursors in the database. A cursor is hinted exactly when it is in its lane's queue;
//! nothing else records it.

pub mod redis;

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::domain::cursor::CursorId;
use crate::domain::lane::LaneId;
use crate::domain::time::Timestamp;

/// A message to a lane that a cursor has work.
#[derive(Clone, Copy, Debug)]
pub struct Hint {
    /// The cursor.
    pub cursor: CursorId,
    /// Receive time of the oldest event that the hint is about.
    pub oldest: Timestamp,
    /// Receive time of the newest one; [`Timestamp::default`] if unknown.
    pub newest: Timestamp,
    /// Number of events that the cursor has to process.
    pub backlog: Backlog,
    /// Tells whether a cursor that was set aside must be looked at again.
    pub recheck: Recheck,
}

/// Backlog of a cursor, as far as the author of a hint knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// Number of events in addition to those known before.
    More(u64),
    /// Total number of events.
    Total(u64),
}

/// Tells whether a hint makes a cursor that was set aside take a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// It stays set aside: the hint is about a new event, which waits behind the one that failed.
    No,
    /// It takes a turn, because it may have been released.
    Yes,
}

impl Hint {
    /// Merges a later hint for the same cursor into this one.
    pub fn merge(&mut self, later: Hint) {
        self.oldest = self.oldest.min(later.oldest);
        self.newest = self.newest.max(later.newest);
        self.backlog = self.backlog.and(later.backlog);
        if later.recheck == Recheck::Yes {
            self.recheck = Recheck::Yes;
        }
    }
}

impl Backlog {
    /// The backlog after a `later` report.
    #[must_use]
    pub fn and(self, later: Backlog) -> Backlog {
        match (self, later) {
            (_, Backlog::Total(events)) => Backlog::Total(events),
            (Backlog::Total(known), Backlog::More(events)) => Backlog::Total(known + events),
            (Backlog::More(known), Backlog::More(events)) => Backlog::More(known + events),
        }
    }

    /// The number of events.
    pub fn events(self) -> u64 {
        match self {
            Backlog::More(events) | Backlog::Total(events) => events,
        }
    }
}

/// The hint queues of the lanes that run on this node.
#[derive(Default)]
pub struct Lanes {
    queues: RwLock<HashMap<LaneId, Arc<Queue>>>,
}

/// The hints of one lane, longest waiting first.
pub struct Queue {
    /// `None` once the lane no longer runs here.
    hints: Mutex<Option<Hints>>,
    poke: Notify,
}

type Hints = IndexMap<CursorId, Hint>;

impl Default for Queue {
    fn default() -> Self {
        Self {
            hints: Mutex::new(Some(Hints::default())),
            poke: Notify::new(),
        }
    }
}

impl Lanes {
    /// Opens the queue of a lane that starts to run here, or returns the open one.
    pub fn open(&self, lane: &LaneId) -> Arc<Queue> {
        let mut queues = self.queues.write();
        queues.entry(lane.clone()).or_default().clone()
    }

    /// Closes the queue of a lane and returns the hints left in it. Later hints for the lane are
    /// returned to their callers.
    pub fn close(&self, lane: &LaneId) -> Vec<Hint> {
        let queue = self.queues.write().remove(lane);
        let left = queue.and_then(|queue| queue.hints.lock().take());
        left.into_iter().flatten().map(|(_, hint)| hint).collect()
    }

    /// True if the lane runs here.
    pub fn is_open(&self, lane: &LaneId) -> bool {
        self.queues.read().contains_key(lane)
    }

    /// Adds hints to the queue of a lane. A cursor that is already hinted stays hinted once.
    ///
    /// # Errors
    /// Returns the hints if the lane does not run here.
    pub fn hint(&self, lane: &LaneId, hints: Vec<Hint>) -> Result<(), Vec<Hint>> {
        let queue = self.queues.read().get(lane).cloned();
        match queue {
            Some(queue) => queue.push(hints),
            None => Err(hints),
        }
    }
}

impl Queue {
    /// Adds hints and wakes the lane's worker.
    ///
    /// # Errors
    /// Returns the hints if the lane no longer runs here.
    pub fn push(&self, new: Vec<Hint>) -> Result<(), Vec<Hint>> {
        let mut queue = self.hints.lock();
        let Some(hints) = &mut *queue else {
            return Err(new);
        };
        for hint in new {
            hints
                .entry(hint.cursor)
                .and_modify(|known| known.merge(hint))
                .or_insert(hint);
        }
        drop(queue);
        self.poke.notify_one();
        Ok(())
    }

    /// Removes all hints. A database read after this call sees everything that the hints were about.
    pub fn take(&self) -> Vec<Hint> {
        let mut queue = self.hints.lock();
        let hints = queue.iter_mut().flat_map(|hints| hints.drain(..));
        hints.map(|(_, hint)| hint).collect()
    }

    /// True if another cursor than this one is hinted.
    pub fn has_other(&self, cursor: CursorId) -> bool {
        let queue = self.hints.lock();
        queue
            .as_ref()
            .is_some_and(|hints| hints.len() > usize::from(hints.contains_key(&cursor)))
    }

    /// Wakes the lane's worker without a hint.
    pub fn poke(&self) {
        self.poke.notify_one();
    }

    /// Waits until the queue was pushed to or poked since the last wait.
    pub async fn poked(&self) {
        self.poke.notified().await;
    }

    /// Number of hints in the queue.
    pub fn len(&self) -> usize {
        self.hints.lock().as_ref().map_or(0, IndexMap::len)
    }

    /// True if the queue has no hints.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::StreamId;
    use crate::domain::hook::HandlerId;

    fn hint(stream: i64, oldest: i64) -> Hint {
        Hint {
            cursor: CursorId {
                stream: StreamId(stream),
                handler: HandlerId(1),
            },
            oldest: Timestamp::from_millis(oldest),
            newest: Timestamp::from_millis(oldest),
            backlog: Backlog::More(1),
            recheck: Recheck::No,
        }
    }

    #[test]
    fn a_cursor_hinted_twice_is_hinted_once_and_keeps_its_place() {
        let queue = Queue::default();
        queue
            .push(vec![hint(1, 5), hint(2, 6), hint(1, 3)])
            .unwrap();
        let taken = queue.take();
        let seen: Vec<_> = taken
            .iter()
            .map(|h| (h.cursor.stream.0, h.oldest.as_millis(), h.backlog))
            .collect();
        assert_eq!(seen, [(1, 3, Backlog::More(2)), (2, 6, Backlog::More(1))]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_hint_of_the_same_cursor_is_no_other() {
        let queue = Queue::default();
        let cursor = hint(1, 5).cursor;
        assert!(!queue.has_other(cursor));
        queue.push(vec![hint(1, 5)]).unwrap();
        assert!(!queue.has_other(cursor));
        queue.push(vec![hint(2, 6)]).unwrap();
        assert!(queue.has_other(cursor));
    }

    #[test]
    fn a_lane_that_is_closed_gives_every_hint_back() {
        let lanes = Lanes::default();
        let lane = LaneId {
            namespace: "default".parse().unwrap(),
            generation: 1,
            index: 0,
        };
        let queue = lanes.open(&lane);
        lanes.hint(&lane, vec![hint(1, 1)]).unwrap();
        assert_eq!(lanes.open(&lane).len(), 1, "opening twice loses nothing");
        assert_eq!(lanes.close(&lane).len(), 1);
        assert_eq!(lanes.hint(&lane, vec![hint(2, 1)]).unwrap_err().len(), 1);
        // A push that comes after the close gets its hints back, too.
        assert_eq!(queue.push(vec![hint(3, 1)]).unwrap_err().len(), 1);
    }
}
