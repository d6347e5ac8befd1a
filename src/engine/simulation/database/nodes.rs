//! Nodes, and the lanes that they own.

use std::collections::HashSet;

use super::{Database, Lane, Stage};
use crate::domain::lane::{LaneId, LaneSet, overlap};
use crate::engine::simulation::mutant::Mutant;
use crate::store::{LaneRow, NodeRow};

impl Database {
    pub fn join(&mut self, row: NodeRow) {
        if !self.gone.insert(row.id.clone()) {
            self.breaks(|| format!("{} comes back", row.id));
        }
        self.nodes.push(row);
    }

    pub fn beat(&mut self, id: &str, config_seen: i64) -> bool {
        let row = self.nodes.iter_mut().find(|node| node.id == id);
        let Some(row) = row else { return false };
        row.beat += 1;
        row.config_seen = config_seen;
        true
    }

    pub fn leave(&mut self, id: &str) {
        let row = self.nodes.iter_mut().filter(|node| node.id == id);
        row.for_each(|node| node.state = "leaving".to_owned());
    }

    pub fn remove_node(&mut self, id: &str) {
        self.nodes.retain(|node| node.id != id);
    }

    pub fn reap(&mut self, id: &str, beat: i64) {
        self.nodes.retain(|node| node.id != id || node.beat != beat);
    }

    /// A process that starts on a machine knows that its predecessor there is dead.
    pub fn forget_data_dir(&mut self, machine: usize) {
        let data_dir = machine.to_string();
        self.nodes.retain(|node| node.data_dir != data_dir);
    }

    pub fn lives(&self, id: &str) -> bool {
        self.nodes.iter().any(|node| node.id == id)
    }

    pub fn rows(&self) -> Vec<LaneRow> {
        self.lanes.iter().map(|lane| lane.row.clone()).collect()
    }

    pub fn take_lanes(&mut self, lanes: &[LaneId], me: &str) -> Vec<(LaneId, i64)> {
        let mut taken = Vec::new();
        for lane in lanes {
            self.epoch += 1;
            if self.take(lane, me) {
                taken.push((lane.clone(), self.epoch));
            }
        }
        taken
    }

    pub(super) fn take(&mut self, id: &LaneId, me: &str) -> bool {
        let Some(at) = self.lanes.iter().position(|lane| lane.row.id == *id) else {
            return false;
        };
        let row = &self.lanes[at].row;
        let owner = row.node.as_ref();
        let is_free = owner.is_none_or(|node| !self.lives(node));
        let waits = self.lanes.iter().any(|old| {
            old.row.id.namespace == id.namespace
                && old.row.id.generation < id.generation
                && overlap((old.row.id.index, old.row.lanes), (id.index, row.lanes))
        });
        if !is_free || !self.lives(me) || (waits && self.mutant != Mutant::NoSealWait) {
            return false;
        }
        if row.epoch >= self.epoch {
            self.breaks(|| format!("the epochs of {id} do not grow"));
        }
        let row = &mut self.lanes[at].row;
        (row.node, row.epoch) = (Some(me.to_owned()), self.epoch);
        true
    }

    pub fn release_lanes(&mut self, lanes: &[(LaneId, i64)], me: &str) {
        for lane in &mut self.lanes {
            let row = &mut lane.row;
            let is_ours = row.node.as_deref() == Some(me);
            if is_ours
                && lanes
                    .iter()
                    .any(|(id, epoch)| *id == row.id && *epoch == row.epoch)
            {
                row.node = None;
            }
        }
    }

    pub fn seal_lanes(&mut self, lanes: &[(LaneId, i64)], me: &str) {
        let nodes: HashSet<&str> = self.nodes.iter().map(|node| node.id.as_str()).collect();
        self.lanes.retain(|lane| {
            let row = &lane.row;
            let named = lanes.iter().find(|(id, _)| *id == row.id);
            let is_ours = named
                .is_some_and(|(_, epoch)| row.node.as_deref() == Some(me) && *epoch == row.epoch);
            let is_free = row.node.as_deref().is_none_or(|node| !nodes.contains(node));
            !(row.is_closing() && named.is_some() && (is_ours || is_free))
        });
    }

    /// Ends the resizes whose old lanes are all sealed.
    pub fn close_sets(&mut self) -> Vec<LaneSet> {
        let closed: Vec<LaneSet> = self
            .sets
            .iter()
            .filter(|(set, stage)| {
                let is_of = |lane: &Lane| {
                    lane.row.id.namespace == set.namespace
                        && lane.row.id.generation == set.generation
                };
                *stage == Stage::Closing && !self.lanes.iter().any(is_of)
            })
            .map(|(set, _)| set.clone())
            .collect();
        for set in &closed {
            self.sets.retain(|(known, _)| known != set);
            self.turn_to(&set.namespace, Stage::Opening, Stage::Stable);
            self.changed();
        }
        closed
    }
}
