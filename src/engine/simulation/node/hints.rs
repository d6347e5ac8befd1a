//! Hints: found by sweeps, placed, sent to other nodes and received from them.

use super::tasks::Send;
use super::{Done, Node, SWEEP_EVERY};
use crate::domain::lane::LaneId;
use crate::domain::name::Name;
use crate::engine::place::placed;
use crate::engine::relay::{Popped, Pushed, hint_of};
use crate::engine::simulation::mutant::Mutant;
use crate::engine::simulation::outside::{Failed, Outside};
use crate::engine::sweep;
use crate::lanes;
use crate::store::{CursorBacklog as Found, LaneRow, NodeRow};

impl Node {
    pub(super) fn hint_found(&mut self, found: &[Found], out: &Outside) {
        for (lane, hints) in sweep::hints(&self.catalog, found, out.time()) {
            let _ = self.lanes.hint(&lane, hints);
        }
    }

    pub(super) fn sweep(&mut self, out: &mut Outside) -> Done {
        if let Some(found) = self.swept.take() {
            self.hint_found(&found, out);
            return Ok(true);
        }
        let is_due = out.sweeps && out.now >= self.sweep_at;
        if !self.sweep_soon && !is_due {
            return Ok(false);
        }
        self.sweep_at = out.now + SWEEP_EVERY;
        self.sweep_soon = false;
        self.swept = Some(out.ask(|database| database.behind())?);
        Ok(true)
    }

    pub(super) fn place(&mut self, out: &mut Outside) -> Done {
        if !std::mem::take(&mut self.place_due) {
            return Ok(false);
        }
        let hints = std::mem::take(&mut self.misplaced);
        let read = match out.mutant {
            Mutant::PlacedByOldNews => Ok(()),
            _ => self.config_changed(out),
        };
        let slots = read.and_then(|()| out.ask(|database| database.slots()));
        let Ok(slots) = slots else {
            self.sweep_soon = true;
            return Ok(true);
        };
        for (lane, hints) in placed(&self.catalog, &slots, hints) {
            let Err(hints) = self.lanes.hint(&lane, hints) else {
                continue;
            };
            match self.is_member {
                true => self.send_later(lane, hints.into_iter().map(|hint| hint.cursor).collect()),
                false => self.misplaced.extend(hints),
            }
        }
        Ok(true)
    }

    pub(super) fn send(&mut self, out: &mut Outside) -> Done {
        let Some(next) = self.sending.pop_front() else {
            return Ok(false);
        };
        let (lane, cursors, is_again) = match next {
            Send::Raise(namespace) => {
                self.raise(&namespace, out)?;
                return Ok(true);
            }
            Send::Push(lane, cursors, is_again) => (lane, cursors, is_again),
        };
        let checks = out.mutant != Mutant::PushAnyGeneration;
        let answer = out.ask_redis(|redis| redis.push(&lane, &cursors, checks))?;
        match Pushed::of(&answer) {
            Pushed::Unknown if !is_again => {
                let namespace = lane.namespace.clone();
                self.sending.push_front(Send::Push(lane, cursors, true));
                self.sending.push_front(Send::Raise(namespace));
            }
            Pushed::Old if !is_again => {
                let _ = self.config_changed(out);
                let set = self.catalog.lane_sets.get(&lane.namespace);
                if set.is_some_and(|set| set.generation > lane.generation) {
                    let now = out.time();
                    self.place_later(cursors.iter().map(|cursor| hint_of(*cursor, now)).collect());
                }
            }
            _ => {}
        }
        Ok(true)
    }

    pub(super) fn raise(&mut self, namespace: &Name, out: &mut Outside) -> Result<(), Failed> {
        let Some(set) = self.catalog.lane_sets.get(namespace) else {
            return Ok(());
        };
        let raised = out.ask_redis(|redis| redis.raise(set))?;
        if let lanes::redis::Answer::Done(boot) = raised {
            let known = self.boots.insert(namespace.clone(), boot);
            self.has_lost |= known.is_some_and(|known| known != boot);
        }
        Ok(())
    }

    pub(super) fn receive(&mut self, out: &mut Outside) -> Done {
        if !self.is_member {
            return Ok(false);
        }
        if let Some((lane, epoch)) = self.recovering.pop_front() {
            self.recover_on(&lane, epoch, out);
            return Ok(true);
        }
        // As `Engine::look_at_lanes_if_free`, after a poke.
        let leaves = self.nodes.iter().any(NodeRow::is_leaving);
        if leaves || self.rows.iter().any(LaneRow::is_closing) {
            let soon = if leaves { 20 } else { 250 };
            self.look_at = self.look_at.min(out.now + soon);
        }
        let count = self.runs.len().max(1);
        self.popped = (self.popped + 1) % count;
        let Some((lane, run)) = self.runs.iter().nth(self.popped) else {
            return Ok(false);
        };
        let (lane, epoch) = (lane.clone(), run.epoch);
        let Ok(answer) = out.ask_redis(|redis| redis.pop(&lane, epoch)) else {
            self.away = true;
            return Ok(true);
        };
        match Popped::of(answer, epoch) {
            Popped::Hints(cursors) if cursors.is_empty() => return Ok(false),
            Popped::Hints(cursors) => {
                let now = out.time();
                let hints = cursors.iter().map(|cursor| hint_of(*cursor, now)).collect();
                if let Err(hints) = self.lanes.hint(&lane, hints) {
                    self.send_later(lane, hints.into_iter().map(|hint| hint.cursor).collect());
                }
            }
            Popped::Forgotten if out.mutant == Mutant::LossIgnored => {}
            Popped::Forgotten => self.recover(vec![(lane, epoch)]),
            Popped::Taken => self.look_at = out.now,
            Popped::Old => {
                let _ = self.config_changed(out);
                self.look_at = out.now;
            }
        }
        Ok(true)
    }

    /// Raises, claims, and sweeps once all are claimed.
    fn recover(&mut self, lanes: Vec<(LaneId, i64)>) {
        for (lane, epoch) in &lanes {
            self.recovering.push_back((lane.clone(), None));
            self.recovering.push_back((lane.clone(), Some(*epoch)));
        }
        self.sweep_soon |= lanes.is_empty();
    }

    fn recover_on(&mut self, lane: &LaneId, epoch: Option<i64>, out: &mut Outside) {
        let done = match epoch {
            None => self.raise(&lane.namespace, out).is_ok(),
            Some(epoch) => match out.ask_redis(|redis| redis.claim(lane, epoch)) {
                Ok(lanes::redis::Answer::Fenced(_)) => {
                    self.look_at = out.now;
                    true
                }
                answer => answer.is_ok(),
            },
        };
        if !done {
            self.recovering.clear();
        }
        self.sweep_soon |= self.recovering.is_empty();
    }

    pub(super) fn beat_pulse(&mut self, out: &mut Outside) -> Done {
        if !self.is_member || out.now < self.pulse_at {
            return Ok(false);
        }
        self.pulse_at = out.now + 1_000;
        let (me, beat) = (self.id.trim_end_matches('+').to_owned(), self.pulse + 1);
        let Ok(stood) = out.ask_redis(|redis| redis.pulse(&me, beat)) else {
            self.away = true;
            self.sweep_soon = true;
            return Ok(true);
        };
        let was_away = std::mem::take(&mut self.away);
        let has_lost = std::mem::take(&mut self.has_lost) || stood < self.pulse;
        self.pulse = beat;
        if has_lost || was_away {
            let mut held: Vec<_> = self.held().into_iter().collect();
            held.sort();
            self.recover(held);
        }
        Ok(true)
    }

    /// Simulates `Relay::wipe`.
    pub fn wipe(&mut self, namespace: &Name, out: &mut Outside) {
        if !self.is_member || out.ask_redis(|redis| redis.wipe(namespace)).is_err() {
            return;
        }
        let held = self.held().into_iter();
        let mut held: Vec<_> = held
            .filter(|(lane, _)| lane.namespace == *namespace)
            .collect();
        held.sort();
        let _ = self.raise(namespace, out);
        for (lane, epoch) in held {
            let _ = out.ask_redis(|redis| redis.claim(&lane, epoch));
        }
        self.sweep_soon = true;
    }

    /// Simulates `engine/wipe.rs` for the lanes of this node.
    pub fn make_hints_again(&mut self, namespace: &Name, out: &mut Outside) {
        for (id, run) in &mut self.runs {
            if id.namespace == *namespace {
                run.lane.hinted(run.queue.take());
                run.lane.wipe();
            }
        }
        match out.ask(|database| database.behind()) {
            Ok(found) => self.hint_found(&found, out),
            Err(Failed) => self.sweep_soon = true,
        }
    }
}
