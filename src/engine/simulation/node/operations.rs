//! Operations that operators have begun: drains, and hooks that move.

use super::{Done, FOLLOW_EVERY, Node};
use crate::domain::lane::LaneId;
use crate::engine::catalog::Drain;
use crate::engine::simulation::mutant::Mutant;
use crate::engine::simulation::outside::Outside;

const DRAINS_EVERY: u64 = 250;

impl Node {
    pub(super) fn see_to_drains(&mut self, out: &mut Outside) -> Done {
        if out.now < self.drains_at {
            return Ok(false);
        }
        self.drains_at = out.now + DRAINS_EVERY;
        let catalog = self.catalog.clone();
        let mut sets: Vec<_> = catalog.lane_sets.values().collect();
        sets.sort_by(|a, b| a.namespace.cmp(&b.namespace));
        for set in sets {
            match catalog.stops.drain(set) {
                Drain::None => {}
                Drain::UnderWay(draining) => {
                    let left = out.ask(|database| database.left(set))?;
                    let is_done = |lane: &LaneId| !left.contains(&lane.index);
                    let done: Vec<_> = draining.into_iter().filter(is_done).collect();
                    if !done.is_empty() {
                        out.ask(|database| database.lanes_drained(set, &done))?;
                        self.config_changed(out)?;
                    }
                }
                Drain::Done => {
                    if out.ask(|database| database.begin_planned(&set.namespace))? {
                        self.config_changed(out)?;
                    }
                }
            }
        }
        Ok(true)
    }

    pub(super) fn see_to_moves(&mut self, out: &mut Outside) -> Done {
        if out.now < self.moves_at {
            return Ok(false);
        }
        self.moves_at = out.now + FOLLOW_EVERY;
        let catalog = self.catalog.clone();
        let mut moving: Vec<_> = catalog.stops.moving().collect();
        moving.sort_by_key(|moving| moving.hook);
        for moving in moving {
            self.end_move(moving, out)?;
        }
        Ok(true)
    }

    /// Simulates `Engine::end_move`.
    pub fn end_move(&mut self, moving: &crate::store::NamespaceMove, out: &mut Outside) -> Done {
        let unseen = self.acted < moving.since && out.mutant != Mutant::MoveBeforeAllAct;
        if unseen || !out.ask(|database| database.end_move(moving))? {
            return Ok(false);
        }
        out.moved.push(moving.hook);
        self.config_changed(out)?;
        Ok(true)
    }
}
