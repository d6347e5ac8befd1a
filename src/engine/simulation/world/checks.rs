//! Invariants that hold at every step, and the reasons why a world is not settled.

use std::collections::BTreeMap;

use super::World;
use crate::domain::cursor::{Condition, CursorId};
use crate::domain::lane::{LaneId, Mode, overlap};
use crate::domain::name::Name;
use crate::domain::position::{Position, Seq};
use crate::engine::simulation::database;
use crate::engine::simulation::database::{NAMESPACES, Stage};
use crate::engine::simulation::node::Node;

impl World {
    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.machines
            .iter()
            .filter_map(|machine| machine.node.as_ref())
    }

    pub(super) fn check(&mut self) -> Result<(), String> {
        if let Some(broken) = self.out.database.broken.take() {
            return Err(broken);
        }
        let moved = std::mem::take(&mut self.out.moved);
        for machine in &mut self.machines {
            if let Some(node) = &mut machine.node {
                node.excuse_flights(&mut self.out);
            }
        }
        let mut turns: Vec<(&LaneId, CursorId)> = Vec::new();
        for node in self.nodes().filter(|node| node.has_right(&self.out)) {
            for (lane, cursor) in node.reading() {
                if moved.iter().any(|hook| hook.0 == cursor.handler.0) {
                    return Err(format!(
                        "{cursor:?} moves while a turn of it runs in {lane}"
                    ));
                }
                if turns.iter().any(|(_, other)| *other == cursor) {
                    return Err(format!("two turns of {cursor:?} at once, one in {lane}"));
                }
                turns.push((lane, cursor));
            }
            for (cursor, to) in node.flights.targets() {
                let stop = self.out.database.grounded(cursor, to, node.acted);
                if let Some(stop) = stop {
                    return Err(format!(
                        "a delivery of {cursor:?} is in flight under {stop}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Owners of lanes: at most one for each lane, and no new lane beside an old one that it overlaps.
    pub(super) fn owners(&self) -> Result<BTreeMap<LaneId, usize>, String> {
        let mut owners = BTreeMap::new();
        for (at, machine) in self.machines.iter().enumerate() {
            let node = machine.node.as_ref();
            let Some(node) = node.filter(|node| node.has_right(&self.out)) else {
                continue;
            };
            let mut held: Vec<_> = node.held().into_keys().collect();
            held.sort();
            for lane in held {
                let lanes = self.out.database.lanes.iter();
                let row = lanes.clone().find(|row| row.row.id == lane);
                let of = row.map_or(1, |row| row.row.lanes);
                let beside = lanes.map(|row| &row.row).find(|old| {
                    old.id.namespace == lane.namespace
                        && old.id.generation < lane.generation
                        && owners.contains_key(&old.id)
                        && overlap((old.id.index, old.lanes), (lane.index, of))
                });
                if let Some(old) = beside {
                    return Err(format!("{lane} runs beside {}", old.id));
                }
                if owners.insert(lane.clone(), at).is_some() {
                    return Err(format!("{lane} has two owners"));
                }
            }
        }
        Ok(owners)
    }

    /// The first reason why the world is not settled.
    pub(super) fn unsettled(&self) -> Option<String> {
        let database = &self.out.database;
        for (id, stream) in &database.streams {
            let head = Seq(stream.events.len() as i64);
            let row = &stream.cursor;
            let behind = row.position.behind(head);
            if behind == 0 {
                continue;
            }
            let stop = database.stops.get(&stream.hook);
            let is_paused = stop.is_some_and(|(stop, _)| stop.pause.is_some());
            let lane = database.lane_of(stream)?;
            let mark = database.mark(row.id).unwrap_or(Position(0));
            let waits = match &row.condition {
                Condition::Held { .. } => true,
                Condition::Waiting { retry_at, .. } => *retry_at > self.out.time(),
                Condition::Flowing => false,
            };
            let stops = match lane.mode {
                Mode::Paused => true,
                Mode::Draining | Mode::Drained => row.position >= mark,
                Mode::Active => false,
            };
            if !waits && !stops && !is_paused {
                let place = format!("{} of {}", row.position, head);
                return Some(format!(
                    "stream {} is forgotten at {place} in {}",
                    id.0, lane.row.id
                ));
            }
        }
        let of = NAMESPACES.map(|namespace| namespace.parse::<Name>().unwrap());
        if of
            .iter()
            .any(|namespace| database.has(namespace, Stage::Closing))
        {
            return Some("a resize does not end".to_owned());
        }
        if let Some(rebuild) = &database.rebuild {
            return Some(format!("{rebuild:?} does not end"));
        }
        // Its outcome may be from before the operator's last act.
        let nodes = || {
            self.machines
                .iter()
                .filter_map(|machine| machine.node.as_ref())
        };
        if nodes().any(Node::is_refolding) {
            return Some("a node does not end a rebuild".to_owned());
        }
        if database
            .stops
            .values()
            .any(|(stop, _)| stop.moving.is_some())
        {
            return Some("a hook does not arrive".to_owned());
        }
        let free = database.lanes.iter().find(|lane| {
            let owner = lane.row.node.as_ref();
            self.out.is_shared && owner.is_none_or(|node| !database.lives(node))
        });
        if let Some(free) = free {
            return Some(format!("{} has no owner", free.row.id));
        }
        let late = |lane: &&database::Lane| {
            let set = database.set(&lane.row.id.namespace);
            lane.mode == Mode::Draining && !database.left(set).contains(&lane.row.id.index)
        };
        let late = database.lanes.iter().find(late);
        late.map(|lane| format!("{} does not say that it is drained", lane.row.id))
    }

    /// An event acknowledged before another one was sent must precede it, and in the end all are
    /// acknowledged.
    pub(super) fn order_of_answers(&self) -> Result<(), String> {
        for (id, stream) in &self.out.database.streams {
            let mut least = u64::MAX;
            for (sent, acknowledged) in stream.times.iter().rev() {
                if *sent > least {
                    return Err(format!(
                        "stream {}: sent after a later one was acknowledged",
                        id.0
                    ));
                }
                least = least.min(acknowledged.unwrap_or(u64::MAX));
            }
            let head = Seq(stream.events.len() as i64);
            if stream.cursor.position.behind(head) > 0 {
                let lane = self.out.database.lane_of(stream);
                let lane = lane.map(|lane| format!("{} ({:?})", lane.row.id, lane.mode));
                return Err(format!(
                    "stream {} is not done: {:?} at {} of {head} in {lane:?} at {}",
                    id.0, stream.cursor.condition, stream.cursor.position, self.out.now
                ));
            }
        }
        match self.out.database.has_marks() {
            true => Err("marks are left".to_owned()),
            false => Ok(()),
        }
    }
}
