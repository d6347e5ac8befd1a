//! Which cursors have work: hints, one queue in memory for each lane that runs here.
//!
//! A hint is a courtesy. Losing every one of them costs time, never an event or its order, because the
//! sweep finds the same cursors in the database. Being in the queue is the only sign of being hinted.

pub mod redis;

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::domain::cursor::CursorId;
use crate::domain::lane::LaneId;
use crate::domain::time::Timestamp;

/// "This cursor has work."
#[derive(Clone, Copy, Debug)]
pub struct Hint {
    /// Which cursor.
    pub cursor: CursorId,
    /// When the oldest event that this hint is about was received.
    pub oldest: Timestamp,
    /// When the newest was; [`Timestamp::default`] where that is not known.
    pub newest: Timestamp,
    /// How much.
    pub behind: Behind,
    /// What it asks of a cursor that was set aside.
    pub aside: Aside,
}

/// How much a cursor has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// So many events more than were known.
    More(u64),
    /// So many in all.
    All(u64),
}

/// What a hint asks of a cursor that was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    /// Nothing: another event has come, which waits behind the one that failed.
    Stay,
    /// To look again: somebody may have let it go.
    Return,
}

impl Hint {
    /// Puts a later hint for the same cursor into this one.
    pub fn merge(&mut self, later: Hint) {
        self.oldest = self.oldest.min(later.oldest);
        self.newest = self.newest.max(later.newest);
        self.behind = self.behind.and(later.behind);
        if later.aside == Aside::Return {
            self.aside = Aside::Return;
        }
    }
}

impl Behind {
    /// What is known after `later` is told too.
    #[must_use]
    pub fn and(self, later: Behind) -> Behind {
        match (self, later) {
            (_, Behind::All(events)) => Behind::All(events),
            (Behind::All(known), Behind::More(events)) => Behind::All(known + events),
            (Behind::More(known), Behind::More(events)) => Behind::More(known + events),
        }
    }

    /// The number of events.
    pub fn events(self) -> u64 {
        match self {
            Behind::More(events) | Behind::All(events) => events,
        }
    }
}

/// The hints of the lanes that run here.
#[derive(Default)]
pub struct Lanes {
    queues: RwLock<HashMap<LaneId, Arc<Queue>>>,
}

/// The hints of one lane, longest waiting first.
pub struct Queue {
    /// None once the lane does not run here any more.
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
    /// The queue of a lane that runs here from now on.
    pub fn open(&self, lane: &LaneId) -> Arc<Queue> {
        let mut queues = self.queues.write();
        queues.entry(lane.clone()).or_default().clone()
    }

    /// Takes the queue of a lane away, with the hints that nobody took; every later one is given back to
    /// who hints.
    pub fn close(&self, lane: &LaneId) -> Vec<Hint> {
        let queue = self.queues.write().remove(lane);
        let left = queue.and_then(|queue| queue.hints.lock().take());
        left.into_iter().flatten().map(|(_, hint)| hint).collect()
    }

    /// Whether a lane runs here.
    pub fn is_open(&self, lane: &LaneId) -> bool {
        self.queues.read().contains_key(lane)
    }

    /// Notes that cursors have work in `lane`. A cursor hinted twice is hinted once.
    ///
    /// # Errors
    /// The lane does not run here: the hints are given back.
    pub fn hint(&self, lane: &LaneId, hints: Vec<Hint>) -> Result<(), Vec<Hint>> {
        let queue = self.queues.read().get(lane).cloned();
        match queue {
            Some(queue) => queue.push(hints),
            None => Err(hints),
        }
    }
}

impl Queue {
    /// Adds hints and wakes who runs the lane.
    ///
    /// # Errors
    /// The lane does not run here any more: the hints are given back.
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

    /// Removes every hint. What is read in the database after this sees what each was about.
    pub fn take(&self) -> Vec<Hint> {
        let mut queue = self.hints.lock();
        let hints = queue.iter_mut().flat_map(|hints| hints.drain(..));
        hints.map(|(_, hint)| hint).collect()
    }

    /// Whether a hint waits for a cursor other than this one.
    pub fn has_other(&self, cursor: CursorId) -> bool {
        let queue = self.hints.lock();
        queue
            .as_ref()
            .is_some_and(|hints| hints.len() > usize::from(hints.contains_key(&cursor)))
    }

    /// Wakes who runs the lane.
    pub fn poke(&self) {
        self.poke.notify_one();
    }

    /// Waits until something was pushed since the last wait.
    pub async fn poked(&self) {
        self.poke.notified().await;
    }

    /// Hints that wait to be taken.
    pub fn len(&self) -> usize {
        self.hints.lock().as_ref().map_or(0, IndexMap::len)
    }

    /// Whether none waits.
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
            behind: Behind::More(1),
            aside: Aside::Stay,
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
            .map(|h| (h.cursor.stream.0, h.oldest.as_millis(), h.behind))
            .collect();
        assert_eq!(seen, [(1, 3, Behind::More(2)), (2, 6, Behind::More(1))]);
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
        // Who was about to push when it closed is told, too.
        assert_eq!(queue.push(vec![hint(3, 1)]).unwrap_err().len(), 1);
    }
}
