//! Acting by the configuration.

use std::collections::BTreeSet;

use super::runs::Taken;
use super::tasks::Act;
use super::{Done, FOLLOW_EVERY, Node};
use crate::domain::lane::LaneId;
use crate::engine::membership::idle;
use crate::engine::simulation::database::Database;
use crate::engine::simulation::mutant::Mutant;
use crate::engine::simulation::outside::{Failed, Outside};

impl Node {
    /// Simulates `Engine::config_changed`.
    pub fn config_changed(&mut self, out: &mut Outside) -> Result<(), Failed> {
        self.follow_at = out.now;
        self.refresh(out)
    }

    fn refresh(&mut self, out: &mut Outside) -> Result<(), Failed> {
        let read = out.ask(Database::snapshot)?;
        if read.version > self.catalog.version {
            self.catalog = read;
        }
        Ok(())
    }

    pub(super) fn follow(&mut self, out: &mut Outside) -> Done {
        let Some(next) = self.act.pop_front() else {
            if out.now < self.follow_at {
                return Ok(false);
            }
            self.follow_at = out.now + FOLLOW_EVERY;
            self.refresh(out)?;
            if self.acted != self.catalog.version {
                self.to_act_by = self.catalog.clone();
                match self.is_member {
                    true => self.look_at = out.now,
                    false => self.act.push_back(Act::Stop),
                }
                self.act.push_back(Act::Turns);
            }
            return Ok(true);
        };
        let acted = self.act_on(next, out);
        if acted.is_err() {
            self.act.clear();
        }
        acted
    }

    fn act_on(&mut self, next: Act, out: &mut Outside) -> Done {
        match next {
            Act::Stop => {
                let sets = self.catalog.lane_sets.values();
                let lanes: BTreeSet<_> = sets.flat_map(|set| set.ids()).collect();
                let gone = |lane: &&LaneId| !lanes.contains(lane);
                let held = self.held_lanes();
                let gone: Vec<_> = held.iter().filter(gone).cloned().collect();
                self.act.push_front(Act::Open(lanes));
                let ticket = self.stop(&gone);
                self.act.push_front(Act::Seal(ticket));
            }
            Act::Seal(ticket) => {
                let Some(left) = self.stopped(ticket, out) else {
                    self.act.push_front(next);
                    return Ok(false);
                };
                self.left
                    .extend(left.into_iter().flat_map(|(_, hints)| hints));
                // Lanes are opened even if this fails.
                let running = self.held_lanes().into_iter().collect();
                let sealed = out.ask(|database| database.rows()).and_then(|rows| {
                    let closing = idle(rows, &running);
                    out.ask(|database| database.seal_lanes(&closing, ""))
                });
                match sealed {
                    Ok(()) => self.act.push_front(Act::CloseSets),
                    Err(Failed) => self.act.truncate(1),
                }
            }
            Act::CloseSets => {
                if out.ask(|database| database.close_sets()).is_err() {
                    self.act.truncate(1);
                }
            }
            Act::Open(lanes) => {
                let opened = lanes.iter().any(|lane| !self.lanes.is_open(lane));
                for lane in lanes {
                    self.open(lane, 0);
                }
                let left = std::mem::take(&mut self.left);
                self.place_later(left);
                self.place_due |= opened;
                self.sweep_soon |= opened;
            }
            Act::Turns => {
                let running = self
                    .runs
                    .values()
                    .chain(self.stopping.iter().map(|stop| &stop.run));
                let turns = running
                    .flat_map(|run| run.turns.iter().map(|turn| turn.number))
                    .collect();
                self.act.push_front(Act::Wait(turns));
            }
            Act::Wait(turns) => {
                let mut running = self
                    .runs
                    .values()
                    .chain(self.stopping.iter().map(|stop| &stop.run));
                let is_awaited = |turn: &Taken| turns.contains(&turn.number);
                let ends = running.any(|run| run.turns.iter().any(is_awaited));
                if ends && out.mutant != Mutant::ActsUnderTurns {
                    self.act.push_front(Act::Wait(turns));
                    return Ok(false);
                }
                let now = &self.to_act_by;
                let are_older = self.flights.are_older_than(now.version);
                let flies = now.stops != self.before.stops && are_older;
                if flies && out.mutant != Mutant::ActsUnderFlights {
                    self.act.push_front(Act::Wait(Vec::new()));
                    return Ok(false);
                }
                self.acts(out);
            }
        }
        Ok(true)
    }

    /// The end of `Engine::act`.
    fn acts(&mut self, out: &Outside) {
        let now = self.to_act_by.clone();
        let lets_go = now.lets_go(&self.before);
        let mut strangers = Vec::new();
        for (id, run) in &mut self.runs {
            if lets_go {
                run.lane.hinted(run.queue.take());
                strangers.extend(run.lane.give_up_those(|cursor| now.is_stranger(id, cursor)));
            }
            run.lane.let_kept_go();
        }
        self.place_later(strangers);
        self.sweep_soon |= lets_go;
        self.acted = now.version;
        self.before = now;
        self.look_at = out.now;
    }
}
