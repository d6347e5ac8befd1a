//! Lane sets: opened, resized, and followed by the next.

use super::{Database, Lane, Stage};
use crate::domain::lane::{LaneSet, Mode};
use crate::domain::name::Name;
use crate::engine::simulation::mutant::Mutant;
use crate::store::{LaneRow, SetState};

impl Database {
    /// The lane set of a namespace that runs, or is about to.
    pub fn set(&self, namespace: &Name) -> &LaneSet {
        let runs = |(set, stage): &&(LaneSet, Stage)| {
            set.namespace == *namespace && matches!(stage, Stage::Opening | Stage::Stable)
        };
        &self.sets.iter().find(runs).unwrap().0
    }

    pub fn has(&self, namespace: &Name, wanted: Stage) -> bool {
        let is = |(set, stage): &(LaneSet, Stage)| set.namespace == *namespace && *stage == wanted;
        self.sets.iter().any(is)
    }

    pub(super) fn turn_to(&mut self, namespace: &Name, from: Stage, to: Stage) {
        for (set, stage) in &mut self.sets {
            if set.namespace != *namespace || *stage != from {
                continue;
            }
            *stage = to;
            for lane in &mut self.lanes {
                if lane.row.id.namespace == set.namespace
                    && lane.row.id.generation == set.generation
                {
                    lane.row.set = match to {
                        Stage::Closing => SetState::Closing,
                        Stage::Stable => SetState::Stable,
                        Stage::Opening | Stage::Planned => SetState::Opening,
                    };
                }
            }
        }
    }

    pub(super) fn open(&mut self, set: &LaneSet, state: SetState, mode: Mode) {
        let since = self.version;
        self.lanes.extend(set.ids().map(|id| Lane {
            row: LaneRow {
                id,
                node: None,
                epoch: 0,
                lanes: set.lanes,
                set: state,
            },
            mode,
            since,
        }));
        self.lanes.sort_by(|a, b| a.row.id.cmp(&b.row.id));
    }

    /// True if the set is stable, which every change of lanes requires.
    pub(super) fn locks(&self, set: &LaneSet) -> bool {
        let stable = (set.clone(), Stage::Stable);
        self.sets.contains(&stable) || self.mutant == Mutant::StopsCrossResizes
    }

    fn next(from: &LaneSet, lanes: u16) -> LaneSet {
        LaneSet {
            namespace: from.namespace.clone(),
            generation: from.generation + 1,
            lanes,
        }
    }

    pub fn begin_resize(&mut self, from: &LaneSet, lanes: u16) -> bool {
        let stable = (from.clone(), Stage::Stable);
        if !self.sets.contains(&stable) || self.has(&from.namespace, Stage::Planned) {
            return false;
        }
        let of_set: Vec<_> = self.of_set(from).collect();
        let kind = |mode| match mode {
            Mode::Drained => Mode::Draining,
            other => other,
        };
        let mode = kind(of_set[0].mode);
        let since = of_set.iter().map(|lane| lane.since).max().unwrap_or(0);
        if of_set.iter().any(|lane| kind(lane.mode) != mode) {
            return false;
        }
        self.follow(from, &Self::next(from, lanes), mode, since);
        true
    }

    pub(super) fn of_set<'a>(&'a self, set: &'a LaneSet) -> impl Iterator<Item = &'a Lane> {
        let ours = |lane: &&Lane| {
            lane.row.id.namespace == set.namespace && lane.row.id.generation == set.generation
        };
        self.lanes.iter().filter(ours)
    }

    fn follow(&mut self, from: &LaneSet, to: &LaneSet, mode: Mode, since: i64) {
        self.turn_to(&from.namespace, Stage::Stable, Stage::Closing);
        self.sets
            .retain(|(set, stage)| *stage != Stage::Planned || set.namespace != to.namespace);
        self.sets.push((to.clone(), Stage::Opening));
        self.open(to, SetState::Opening, mode);
        let version = self.changed();
        for lane in self.lanes.iter_mut().filter(|lane| {
            lane.row.id.namespace == to.namespace && lane.row.id.generation == to.generation
        }) {
            lane.since = if mode == Mode::Active { version } else { since };
        }
    }

    pub fn plan_resize(&mut self, from: &LaneSet, lanes: u16) -> bool {
        let stable = (from.clone(), Stage::Stable);
        if !self.sets.contains(&stable) || self.has(&from.namespace, Stage::Planned) {
            return false;
        }
        self.sets.push((Self::next(from, lanes), Stage::Planned));
        self.drain_lanes(from, &from.ids().collect::<Vec<_>>())
    }

    pub fn begin_planned(&mut self, namespace: &Name) -> bool {
        let found = |wanted| {
            let is = move |(set, stage): &&(LaneSet, Stage)| {
                set.namespace == *namespace && *stage == wanted
            };
            self.sets.iter().find(is).map(|(set, _)| set.clone())
        };
        let (Some(from), Some(to)) = (found(Stage::Stable), found(Stage::Planned)) else {
            return false;
        };
        if self.of_set(&from).any(|lane| lane.mode != Mode::Drained) {
            return false;
        }
        self.follow(&from, &to, Mode::Active, 0);
        self.marks.retain(|_, (of, _)| of != namespace);
        true
    }
}
