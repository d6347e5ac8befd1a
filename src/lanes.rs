//! Which cursors have work: hints, one queue a lane, in the memory of the one node.
//!
//! A hint is a courtesy. Losing every one of them costs time, never an event or its order, because the
//! sweep finds the same cursors in the database. Being in the queue is the only sign of being hinted.

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::domain::cursor::CursorId;
use crate::domain::lane::{LaneId, LaneSet};
use crate::domain::time::Timestamp;

/// "This cursor has work."
#[derive(Clone, Copy, Debug)]
pub struct Hint {
    /// Which cursor.
    pub cursor: CursorId,
    /// When the oldest event that this hint is about was received.
    pub oldest: Timestamp,
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
    /// To look again: somebody has let it go.
    Return,
}

impl Hint {
    /// Puts a later hint for the same cursor into this one.
    pub fn merge(&mut self, later: Hint) {
        self.oldest = self.oldest.min(later.oldest);
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

/// There is no such lane any more: load the newer lane set and hint there.
#[derive(Debug, thiserror::Error)]
#[error("lane {0} is sealed")]
pub struct Sealed(LaneId);

/// The hints of every lane.
#[derive(Default)]
pub struct Lanes {
    queues: RwLock<HashMap<LaneId, Arc<Queue>>>,
}

/// The hints of one lane, longest waiting first.
#[derive(Default)]
pub struct Queue {
    hints: Mutex<IndexMap<CursorId, Hint>>,
    poke: Notify,
}

impl Lanes {
    /// Makes queues for the lanes of `set`, where there are none.
    pub fn open(&self, set: &LaneSet) {
        let mut queues = self.queues.write();
        for lane in set.ids() {
            queues.entry(lane).or_default();
        }
    }

    /// Takes the queues of `set` away; what is hinted there from now on is refused.
    pub fn seal(&self, set: &LaneSet) {
        let mut queues = self.queues.write();
        for lane in set.ids() {
            queues.remove(&lane);
        }
    }

    /// The queue of one lane, for who runs it.
    ///
    /// # Errors
    /// [`Sealed`] when the lane is gone.
    pub fn queue(&self, lane: &LaneId) -> Result<Arc<Queue>, Sealed> {
        let queues = self.queues.read();
        let queue = queues.get(lane).ok_or_else(|| Sealed(lane.clone()))?;
        Ok(queue.clone())
    }

    /// Notes that cursors have work in `lane`. A cursor hinted twice is hinted once.
    ///
    /// # Errors
    /// [`Sealed`] when the lane is gone.
    pub fn hint(&self, lane: &LaneId, hints: impl IntoIterator<Item = Hint>) -> Result<(), Sealed> {
        self.queue(lane)?.push(hints);
        Ok(())
    }
}

impl Queue {
    /// Adds hints and wakes who runs the lane.
    pub fn push(&self, hints: impl IntoIterator<Item = Hint>) {
        let mut queue = self.hints.lock();
        for hint in hints {
            queue
                .entry(hint.cursor)
                .and_modify(|known| known.merge(hint))
                .or_insert(hint);
        }
        drop(queue);
        self.poke.notify_one();
    }

    /// Removes every hint. What is read in the database after this sees what each was about.
    pub fn take(&self) -> Vec<Hint> {
        let mut queue = self.hints.lock();
        queue.drain(..).map(|(_, hint)| hint).collect()
    }

    /// Waits until something was pushed since the last wait.
    pub async fn poked(&self) {
        self.poke.notified().await;
    }

    /// Hints that wait to be taken.
    pub fn len(&self) -> usize {
        self.hints.lock().len()
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
            behind: Behind::More(1),
            aside: Aside::Stay,
        }
    }

    fn set(lanes: u16) -> LaneSet {
        LaneSet {
            namespace: "default".parse().unwrap(),
            generation: 1,
            lanes,
        }
    }

    #[test]
    fn a_cursor_hinted_twice_is_hinted_once_and_keeps_its_place() {
        let queue = Queue::default();
        queue.push([hint(1, 5), hint(2, 6), hint(1, 3)]);
        let taken = queue.take();
        let seen: Vec<_> = taken
            .iter()
            .map(|h| (h.cursor.stream.0, h.oldest.as_millis(), h.behind))
            .collect();
        assert_eq!(seen, [(1, 3, Behind::More(2)), (2, 6, Behind::More(1))]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_sealed_lane_refuses_hints() {
        let lanes = Lanes::default();
        let set = set(2);
        lanes.open(&set);
        let [first, _] = set.ids().collect::<Vec<_>>().try_into().unwrap();
        lanes.hint(&first, [hint(1, 1)]).unwrap();
        lanes.open(&set);
        assert_eq!(
            lanes.queue(&first).unwrap().len(),
            1,
            "opening twice loses nothing"
        );
        lanes.seal(&set);
        assert!(lanes.hint(&first, [hint(1, 1)]).is_err());
    }
}
