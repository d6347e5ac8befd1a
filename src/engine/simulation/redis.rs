//! Redis of the simulation: the scripts of `lanes/redis`, on maps.

use std::collections::BTreeMap;

use crate::domain::cursor::CursorId;
use crate::domain::lane::{LaneId, LaneSet};
use crate::domain::name::Name;
use crate::lanes::redis::Answer;

/// A server that may forget everything, or go back to an earlier state.
#[derive(Clone, Default)]
pub struct Redis {
    spaces: BTreeMap<Name, Space>,
    pulses: BTreeMap<String, i64>,
    drawn: u64,
}

#[derive(Clone, Default)]
struct Space {
    /// `None` if the namespace was never raised.
    generation: Option<i64>,
    boot: u64,
    owners: BTreeMap<(i64, u16), i64>,
    queues: BTreeMap<(i64, u16), Vec<CursorId>>,
}

impl Space {
    /// The answer to a caller with another generation than the known one.
    fn refuse<T>(&self, generation: i64) -> Option<Answer<T>> {
        match self.generation {
            None => Some(Answer::Wiped),
            Some(known) if generation < known => Some(Answer::Stale(known)),
            Some(known) if generation > known => Some(Answer::Behind(known)),
            Some(_) => None,
        }
    }
}

impl Redis {
    pub fn push(&mut self, lane: &LaneId, cursors: &[CursorId], checks: bool) -> Answer<()> {
        let space = self.spaces.entry(lane.namespace.clone()).or_default();
        if let Some(refused) = space.refuse(lane.generation).filter(|_| checks) {
            return refused;
        }
        let place = (lane.generation, lane.index);
        let queue = space.queues.entry(place).or_default();
        for cursor in cursors {
            if !queue.contains(cursor) {
                queue.push(*cursor);
            }
        }
        Answer::Done(())
    }

    pub fn claim(&mut self, lane: &LaneId, epoch: i64) -> Answer<()> {
        let space = self.spaces.entry(lane.namespace.clone()).or_default();
        if let Some(refused) = space.refuse(lane.generation) {
            return refused;
        }
        let owner = space.owners.entry((lane.generation, lane.index));
        let owner = owner.or_default();
        if epoch < *owner {
            return Answer::Fenced(*owner);
        }
        *owner = epoch;
        Answer::Done(())
    }

    pub fn pop(&mut self, lane: &LaneId, epoch: i64) -> Answer<Vec<CursorId>> {
        let space = self.spaces.entry(lane.namespace.clone()).or_default();
        if let Some(refused) = space.refuse(lane.generation) {
            return refused;
        }
        let place = (lane.generation, lane.index);
        match space.owners.get(&place) {
            Some(owner) if *owner == epoch => {
                Answer::Done(space.queues.remove(&place).unwrap_or_default())
            }
            other => Answer::NotOwner(other.copied()),
        }
    }

    /// Returns the random word with which the namespace was created.
    pub fn raise(&mut self, set: &LaneSet) -> Answer<u64> {
        self.drawn += 1;
        let space = self.spaces.entry(set.namespace.clone()).or_default();
        match space.generation {
            Some(known) if known > set.generation => return Answer::Stale(known),
            Some(_) => {}
            None => space.boot = self.drawn,
        }
        space.generation = Some(set.generation);
        Answer::Done(space.boot)
    }

    pub fn wipe(&mut self, namespace: &Name) {
        self.spaces.remove(namespace);
    }

    pub fn forget(&mut self, set: &LaneSet) {
        let space = self.spaces.entry(set.namespace.clone()).or_default();
        space
            .owners
            .retain(|(generation, _), _| *generation != set.generation);
        space
            .queues
            .retain(|(generation, _), _| *generation != set.generation);
    }

    /// Writes a growing number; returns the previous value.
    pub fn pulse(&mut self, node: &str, beat: i64) -> i64 {
        self.pulses.insert(node.to_owned(), beat).unwrap_or(0)
    }

    /// Restarts empty, or with an earlier state.
    pub fn come_back(&mut self, as_it_was: Option<&Redis>) {
        let drawn = self.drawn;
        *self = as_it_was.cloned().unwrap_or_default();
        self.drawn = drawn;
    }
}
