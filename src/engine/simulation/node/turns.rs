//! Turns of lanes, and lanes that open and stop.

use super::Node;
use super::runs::{Run, Stopping};
use super::tasks::Leave;
use crate::domain::lane::LaneId;
use crate::engine::lane::Lane;
use crate::engine::simulation::outside::Outside;
use crate::engine::worker::TURNS_MAX;
use crate::lanes::Hint;

impl Node {
    pub(super) fn turns(&mut self, nth: usize, out: &mut Outside) -> bool {
        let acted = self.acts_by(out);
        self.numbers += 1;
        let number = self.numbers;
        let running = self.runs.len();
        let (id, run, ends) = if nth < running {
            let Some((id, run)) = self.runs.iter_mut().nth(nth) else {
                return false;
            };
            (id, run, false)
        } else {
            let Some(stop) = self.stopping.get_mut(nth - running) else {
                return false;
            };
            (&stop.lane, &mut stop.run, true)
        };
        if run.turns.last().is_some_and(|turn| turn.read.is_none()) {
            let mut strangers = Vec::new();
            let read = run.read(id, &self.catalog, &mut self.shares, &mut strangers, out);
            self.place_later(strangers);
            return read;
        }
        let may_begin = !ends && run.turns.len() < TURNS_MAX;
        let begins = may_begin && (run.turns.is_empty() || out.chance(0.5));
        let mut strangers = Vec::new();
        let mut deliveries = Vec::new();
        let begins = begins && {
            let (shares, strangers) = (&mut self.shares, &mut strangers);
            let batch = run.next_batch(id, &self.catalog, shares, strangers, out);
            batch.is_some_and(|batch| {
                deliveries = run.begin(number, batch, &self.catalog, out);
                true
            })
        };
        let (lane, run_number, epoch) = (id.clone(), run.number, run.epoch);
        self.flights.begin(deliveries, &lane, run_number, epoch);
        let run = match ends {
            false => self.runs.get_mut(&lane),
            true => self
                .stopping
                .get_mut(nth - running)
                .map(|stop| &mut stop.run),
        };
        let Some(run) = run else { return false };
        if begins {
            self.place_later(strangers);
            return true;
        }
        if run.turns.is_empty() {
            return false;
        }
        // Commits of different cursors may overtake each other.
        let ended = run.turns.remove(out.below(run.turns.len() as u64) as usize);
        let Some((turn, folded, steps, at)) = ended.read else {
            return false;
        };
        let advanced = out.ask(|database| database.advance(steps, acted));
        let Ok(moved) = advanced else {
            run.again(&ended.batch);
            return true;
        };
        for (cursor, outcome) in turn.end(&folded, &moved, at).outcomes {
            run.lane.turned(cursor, outcome);
        }
        true
    }

    /// Stops lanes; the ticket tells when their turns have ended.
    pub(super) fn stop(&mut self, lanes: &[LaneId]) -> u64 {
        self.numbers += 1;
        for id in lanes {
            if self.stopping.iter().any(|stop| stop.lane == *id) {
                self.others.push((self.numbers, id.clone()));
            }
            if let Some(run) = self.runs.remove(id) {
                self.stopping.push(Stopping {
                    ticket: self.numbers,
                    lane: id.clone(),
                    hints: self.lanes.close(id),
                    run,
                });
            }
        }
        self.numbers
    }

    /// Remaining hints of stopped lanes, once all of them have ended their turns.
    pub(super) fn stopped(
        &mut self,
        ticket: u64,
        out: &mut Outside,
    ) -> Option<Vec<(LaneId, Vec<Hint>)>> {
        let awaited = |stop: &&Stopping| {
            let other = (ticket, stop.lane.clone());
            stop.ticket == ticket || self.others.contains(&other)
        };
        let mut awaited = self.stopping.iter().filter(awaited);
        if awaited.any(|stop| !stop.run.turns.is_empty()) {
            return None;
        }
        let others = self.others.iter().filter(|(other, _)| *other == ticket);
        let mut given_up: Vec<_> = others.map(|(_, lane)| lane.clone()).collect();
        self.others.retain(|(other, _)| *other != ticket);
        let (ended, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.stopping)
            .into_iter()
            .partition(|stop| stop.ticket == ticket);
        self.stopping = others;
        if self.is_member {
            given_up.extend(ended.iter().map(|stop| stop.lane.clone()));
            self.flights.mark(&given_up, &self.id, out);
        }
        let left = ended.into_iter().map(|mut stop| {
            stop.hints.extend(stop.run.lane.give_up());
            (stop.lane, stop.hints)
        });
        Some(left.collect())
    }

    pub(super) fn open(&mut self, lane: LaneId, epoch: i64) {
        let is_ending = matches!(self.leave, Some(Leave::Stopped(_) | Leave::Go));
        if self.runs.contains_key(&lane) || is_ending {
            return;
        }
        self.numbers += 1;
        let run = Run {
            number: self.numbers,
            queue: self.lanes.open(&lane),
            lane: Lane::default(),
            epoch,
            turns: Vec::new(),
        };
        self.runs.insert(lane, run);
    }
}
