//! One look of a node at the others, as a machine: it decides which step is next, and does no I/O.
//!
//! [`Look::next_step`] gives a step. Its driver carries the step out and tells the outcome, if it has one.
//! A driver that fails at a step drops the look; the next look begins from the first step.
//!
//! ```text
//! Follow ─ Beat ─┬─────────────────▶ ReadLanes ─ ReadNodes ─ Reap … ─ Decide
//!                └▶ CloseAll ─ Join ─▲                                  │
//!    Close ─ Seal ─ EndResizes ─ Refresh ─ Raise ─ Place ─ HandOver ─ Take ─ Refresh ─ Open ─ Claim ─ Sweep
//! ```
//! `ownership.rs` drives it against Postgres and Redis, the simulation against a model of both, and
//! `churn.rs` against a model of Postgres with unreliable connections. So all three keep one order.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::{decide, is_unfinished};
use crate::domain::lane::LaneId;
use crate::domain::name::Name;
use crate::store::{LaneRow, NodeRow};

/// A step of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookStep {
    /// Checks that the same database server still answers.
    Follow,
    /// Sends a heartbeat if one is due. If the row of the node is gone: [`Look::lease_lost`].
    Beat,
    /// Closes every lane that runs here.
    CloseAll,
    /// Joins under a new id.
    Join,
    /// Reads the lanes: [`Look::lanes_read`]. They are read before the nodes: an owner that is missing
    /// from the nodes is then known to be gone, not new.
    ReadLanes,
    /// Reads the nodes: [`Look::nodes_read`].
    ReadNodes,
    /// Removes a dead node, if its heartbeat is still this one.
    Reap(String, i64),
    /// Tells what this node runs: [`Look::decide`]. A node that leaves ends the look here.
    Decide,
    /// Closes lanes that no longer belong to this node; their hints go to the next owners.
    Close(Vec<LaneId>),
    /// Stops lanes of closing sets between two turns, then seals them.
    Seal(Vec<(LaneId, i64)>),
    /// Records the end of each resize whose old lanes are all sealed.
    EndResizes,
    /// Reads the configuration.
    Refresh,
    /// Makes Redis refuse hints for lanes of older sets of these namespaces.
    Raise(BTreeSet<Name>),
    /// Places the remaining hints of sealed lanes.
    Place,
    /// Closes lanes between two turns, then frees them.
    HandOver(Vec<(LaneId, i64)>),
    /// Takes free lanes: [`Look::taken`].
    Take(Vec<LaneId>),
    /// Opens lanes that were taken.
    Open(Vec<(LaneId, i64)>),
    /// Fences their previous owners in Redis. Earlier hints are found by the sweep that follows, later
    /// ones arrive here.
    Claim(Vec<(LaneId, i64)>),
    /// Finds the work of the lanes that were taken.
    Sweep,
}

/// A look under way: the steps that are left, and what was read.
#[derive(Debug)]
pub struct Look {
    steps: VecDeque<LookStep>,
    lanes: Vec<LaneRow>,
    nodes: Vec<NodeRow>,
}

impl Look {
    /// A look before its first step.
    pub fn begin() -> Self {
        Self {
            steps: [
                LookStep::Follow,
                LookStep::Beat,
                LookStep::ReadLanes,
                LookStep::ReadNodes,
            ]
            .into(),
            lanes: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// The next step; `None` at the end of the look.
    pub fn next_step(&mut self) -> Option<LookStep> {
        self.steps.pop_front()
    }

    /// Handles a heartbeat that found no row: others may have taken the lanes.
    pub fn lease_lost(&mut self) {
        self.steps.push_front(LookStep::Join);
        self.steps.push_front(LookStep::CloseAll);
    }

    /// Takes over the lanes that were read.
    pub fn lanes_read(&mut self, lanes: Vec<LaneRow>) {
        self.lanes = lanes;
    }

    /// Takes over the nodes that were read; `silent` are those found dead, each with its last heartbeat.
    pub fn nodes_read(&mut self, nodes: Vec<NodeRow>, silent: Vec<(String, i64)>) {
        self.nodes = nodes;
        let reap = silent
            .into_iter()
            .map(|(id, beat)| LookStep::Reap(id, beat));
        self.steps.extend(reap);
        self.steps.push_back(LookStep::Decide);
    }

    /// Decides what node `me` does with its lanes. It runs those of `held`, with their epochs; lanes are
    /// given away only while the set of nodes is stable.
    pub fn decide(&mut self, me: &str, held: &HashMap<LaneId, i64>, is_stable: bool) {
        let mut moves = decide(&self.lanes, &self.nodes, me, held, is_stable);
        moves.drop.sort();
        if !moves.drop.is_empty() {
            self.steps.push_back(LookStep::Close(moves.drop));
        }
        if !moves.seal.is_empty() || is_unfinished(&self.lanes) {
            let sealed = moves.seal.iter().map(|(lane, _)| lane.namespace.clone());
            let sealed = sealed.collect();
            self.steps.extend([
                LookStep::Seal(moves.seal),
                LookStep::EndResizes,
                LookStep::Refresh,
                LookStep::Raise(sealed),
                LookStep::Place,
            ]);
        }
        if !moves.hand_over.is_empty() {
            let is_theirs = |row: &&LaneRow| moves.hand_over.contains(&row.id);
            let freed = self.lanes.iter().filter(is_theirs);
            let freed = freed.map(|row| (row.id.clone(), row.epoch)).collect();
            self.steps.push_back(LookStep::HandOver(freed));
        }
        if !moves.take.is_empty() {
            self.steps.push_back(LookStep::Take(moves.take));
        }
    }

    /// The lanes that were taken, with the epochs of their rows. The configuration is read before they
    /// open, because lanes of an unknown set would run as if no one had stopped them.
    pub fn taken(&mut self, lanes: Vec<(LaneId, i64)>) {
        if !lanes.is_empty() {
            self.steps.extend([
                LookStep::Refresh,
                LookStep::Open(lanes.clone()),
                LookStep::Claim(lanes),
                LookStep::Sweep,
            ]);
        }
    }

    /// The lanes and nodes, once both are read.
    pub fn rows(&self) -> (&[LaneRow], &[NodeRow]) {
        (&self.lanes, &self.nodes)
    }
}
