//! Stops of lanes and hooks: pauses, drains with their marks, and moves between namespaces.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Database, Lane, Stage};
use crate::domain::cursor::Condition;
use crate::domain::hook::HookId;
use crate::domain::lane::{LaneId, LaneSet, Mode, slots};
use crate::domain::name::Name;
use crate::domain::position::Position;
use crate::domain::time::Timestamp;
use crate::engine::simulation::mutant::Mutant;
use crate::store::{Attribution, HookStop, NamespaceMove};

impl Database {
    fn set_modes(
        &mut self,
        lanes: &[LaneId],
        mode: Mode,
        may: impl Fn(Mode) -> bool,
    ) -> Vec<LaneId> {
        let since = self.changed();
        let mut changed = Vec::new();
        for lane in &mut self.lanes {
            if lanes.contains(&lane.row.id) && lane.mode != mode && may(lane.mode) {
                (lane.mode, lane.since) = (mode, since);
                changed.push(lane.row.id.clone());
            }
        }
        changed
    }

    /// Applies a request about lanes to all of their slots, whatever lane set has them now.
    fn asked(&mut self, set: &LaneSet, lanes: &[LaneId], is: impl Fn(Mode) -> bool) {
        let newest = self.set(&set.namespace).clone();
        let strays = |lane: &LaneId| {
            let (ours, of) = (lane.index, set.lanes);
            let overlaps = |other: &&Lane| {
                let id = &other.row.id;
                let shares = slots(ours, of).start < slots(id.index, newest.lanes).end
                    && slots(id.index, newest.lanes).start < slots(ours, of).end;
                shares && !is(other.mode)
            };
            self.of_set(&newest)
                .find(overlaps)
                .map(|lane| lane.row.id.clone())
        };
        if let Some(stray) = lanes.iter().find_map(strays) {
            self.breaks(|| format!("{stray} does not do what was asked"));
        }
    }

    pub fn pause_lanes(&mut self, set: &LaneSet, lanes: &[LaneId]) -> bool {
        if !self.locks(set) {
            return false;
        }
        self.set_modes(lanes, Mode::Paused, |_| true);
        self.asked(set, lanes, |mode| mode == Mode::Paused);
        true
    }

    pub fn drain_lanes(&mut self, set: &LaneSet, lanes: &[LaneId]) -> bool {
        if !self.locks(set) {
            return false;
        }
        let may = |mode| matches!(mode, Mode::Active | Mode::Paused);
        let drained = self.set_modes(lanes, Mode::Draining, may);
        let mut marks = Vec::new();
        for stream in self.streams.values() {
            let head = Position(stream.events.len() as i64);
            let lane = set.lane(stream.slot);
            let is_here = *self.namespace_of(stream.hook) == set.namespace;
            let is_held = matches!(stream.cursor.condition, Condition::Held { .. });
            if is_here && drained.contains(&lane) && stream.cursor.position < head && !is_held {
                marks.push((stream.cursor.id, head));
            }
        }
        for (cursor, head) in marks {
            let mark = self.marks.entry(cursor);
            let mark = mark.or_insert_with(|| (set.namespace.clone(), head));
            if mark.0 != set.namespace {
                *mark = (set.namespace.clone(), head);
            }
        }
        self.asked(set, lanes, Mode::has_marks);
        true
    }

    pub fn resume_lanes(&mut self, set: &LaneSet, lanes: &[LaneId]) -> bool {
        if !self.locks(set) {
            return false;
        }
        self.set_modes(lanes, Mode::Active, |_| true);
        let streams = &self.streams;
        self.marks.retain(|cursor, (namespace, _)| {
            let lane = set.lane(streams[&cursor.stream].slot);
            *namespace != set.namespace || !lanes.contains(&lane)
        });
        self.sets.retain(|(planned, stage)| {
            *stage != Stage::Planned || planned.namespace != set.namespace
        });
        self.asked(set, lanes, |mode| mode == Mode::Active);
        true
    }

    /// Indices of the lanes that have not reached their marks.
    pub fn left(&self, set: &LaneSet) -> HashSet<u16> {
        let mut left = HashSet::new();
        for (cursor, (namespace, mark)) in &self.marks {
            let stream = &self.streams[&cursor.stream];
            let is_held = matches!(stream.cursor.condition, Condition::Held { .. });
            let stop = self.stops.get(&stream.hook);
            let is_paused = stop.is_some_and(|(stop, _)| stop.pause.is_some());
            let is_below = stream.cursor.position < *mark;
            if *namespace == set.namespace && is_below && !is_held && !is_paused {
                left.insert(stream.slot.lane(set.lanes));
            }
        }
        left
    }

    pub fn lanes_drained(&mut self, set: &LaneSet, lanes: &[LaneId]) {
        if !self.locks(set) {
            return;
        }
        let left = self.left(set);
        let done = lanes.iter().filter(|lane| !left.contains(&lane.index));
        let done: Vec<_> = done.collect();
        let since = self.changed();
        for lane in &mut self.lanes {
            if done.contains(&&lane.row.id) && lane.mode == Mode::Draining {
                // The lane's rights are the same as before.
                lane.mode = Mode::Drained;
                lane.since = lane.since.min(since);
            }
        }
    }

    pub fn pause_hook(&mut self, hook: HookId) {
        let since = self.changed();
        let (stop, _) = self
            .stops
            .entry(hook)
            .or_insert((HookStop::default(), since));
        stop.pause = Some(Attribution {
            by: "somebody".to_owned(),
            reason: None,
            at: Timestamp::from_millis(since),
        });
    }

    pub fn resume_hook(&mut self, hook: HookId) {
        self.changed();
        if let Some((stop, _)) = self.stops.get_mut(&hook) {
            stop.pause = None;
        }
        self.stops
            .retain(|_, (stop, _)| *stop != HookStop::default());
    }

    pub fn begin_move(&mut self, hook: HookId, from: &Name, to: &Name) -> Option<NamespaceMove> {
        let is_moving = self
            .stops
            .get(&hook)
            .is_some_and(|(stop, _)| stop.moving.is_some());
        let is_there = self.namespace_of(hook) == from;
        // The fault that this mutant has: the second mover goes on as if it were the first.
        let late = self.mutant == Mutant::LateMover;
        if (is_moving || !is_there) && !late {
            return None;
        }
        let since = self.changed();
        let moving = NamespaceMove {
            hook,
            to: to.clone(),
            since,
        };
        let (stop, _) = self
            .stops
            .entry(hook)
            .or_insert((HookStop::default(), since));
        stop.moving = Some(moving.clone());
        Some(moving)
    }

    pub fn end_move(&mut self, moving: &NamespaceMove) -> bool {
        let stop = self.stops.get_mut(&moving.hook);
        let late = self.mutant == Mutant::LateMover;
        let is_it = stop.is_some_and(|(stop, _)| stop.moving.as_ref() == Some(moving));
        let unseen = self
            .nodes
            .iter()
            .any(|node| node.config_seen < moving.since);
        if (!is_it && !late) || (unseen && self.mutant != Mutant::MoveBeforeAllAct) {
            return false;
        }
        self.give_up(moving.hook);
        if self.mutant != Mutant::MovesWithoutEpoch {
            self.epoch += 1;
            self.moved.insert(moving.hook, self.epoch);
        }
        let found = self.hooks.iter_mut().find(|hook| hook.id == moving.hook);
        if let Some(hook) = found {
            let mut moved = (**hook).clone();
            moved.namespace = moving.to.clone();
            *hook = Arc::new(moved);
        }
        self.marks.retain(|cursor, (namespace, _)| {
            cursor.handler.0 != moving.hook.0 || *namespace == moving.to
        });
        true
    }

    pub fn give_up_move(&mut self, moving: &NamespaceMove) {
        let stop = self.stops.get(&moving.hook);
        if stop.is_some_and(|(stop, _)| stop.moving.as_ref() == Some(moving)) {
            self.give_up(moving.hook);
        }
    }

    fn give_up(&mut self, hook: HookId) {
        self.changed();
        if let Some((stop, _)) = self.stops.get_mut(&hook) {
            stop.moving = None;
        }
        self.stops
            .retain(|_, (stop, _)| *stop != HookStop::default());
    }
}
