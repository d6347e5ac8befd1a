//! The loops of `forward.rs` for a node of the simulation, one step at a time.

use std::time::Duration;

use super::flight::{Flight, LOOK_EVERY, Stage, answer, send};
use super::mutant::Mutant;
use super::node::Node;
use super::outside::{Failed, Outside};
use crate::domain::cursor::CursorId;
use crate::engine::forward::request::Verdict;
use crate::engine::forward::{Decision, LEASE_MIN, decide, settle};
use crate::engine::lane::{Outcome, Parked};
use crate::engine::turn;
use crate::store::{Advance, InputRequest, Step};

const BUSY_AGAIN: Duration = Duration::from_millis(250);

impl Node {
    /// The process ends; a request in flight may have been acknowledged.
    pub fn crashes(mut self, out: &mut Outside) {
        for mut flight in std::mem::take(&mut self.flights.own) {
            let is_sent = matches!(flight.stage, Stage::Sent(..));
            if let Stage::Sent(payload, _) = &flight.stage
                && out.chance(0.5)
            {
                let _ = answer(&flight, payload, false, out);
            }
            if is_sent || matches!(flight.stage, Stage::Answered(..)) {
                flight.excuse(out);
            }
        }
    }

    /// Notes which deliveries another node may repeat, because this node has lost the right to its lanes.
    pub fn excuse_flights(&mut self, out: &mut Outside) {
        if out.delivers && !self.has_right(out) {
            for flight in self
                .flights
                .own
                .iter_mut()
                .filter(|flight| flight.has_begun())
            {
                flight.excuse(out);
            }
        }
    }

    /// Continues one of the deliveries; true if there is any.
    pub fn deliver(&mut self, out: &mut Outside) -> bool {
        if !self.flights.others.is_empty() && out.now >= self.flights.look_at {
            self.flights.look_at = out.now + LOOK_EVERY;
            let me = self.id.clone();
            let _ = self.flights.look(&me, out);
            return true;
        }
        if let Some(cursor) = self.flights.ended.pop() {
            if self.flights.is_marked(cursor) {
                return true;
            }
            let me = self.id.clone();
            if out
                .ask(|database| database.unmark_in_flight(cursor, &me))
                .is_err()
            {
                self.flights.ended.push(cursor);
            }
            return true;
        }
        let own = self.flights.own.iter().enumerate();
        let due = own.filter(|(_, flight)| flight.answers_at <= out.now);
        let due: Vec<_> = due.map(|(nth, _)| nth).collect();
        if due.is_empty() {
            return false;
        }
        let nth = due[out.below(due.len() as u64) as usize];
        let flight = self.flights.own.swap_remove(nth);
        if let Some(next) = self.deliver_on(flight, out) {
            self.flights.own.push(next);
        }
        true
    }

    /// Takes a delivery one step further; `None` at its end.
    fn deliver_on(&mut self, mut flight: Flight, out: &mut Outside) -> Option<Flight> {
        let cursor = flight.cursor;
        let is_sent = matches!(flight.stage, Stage::Sent(..));
        if is_sent && !flight.is_answered(self.has_stopped(flight.run), out) {
            return Some(flight);
        }
        match flight.stage {
            Stage::Waits(_) if self.has_stopped(flight.run) => return None,
            Stage::Waits(_)
                if self.flights.is_busy(cursor) && out.mutant != Mutant::BusyIgnored =>
            {
                let again = out.time().after(BUSY_AGAIN);
                self.set_aside(flight.run, cursor, Parked::Busy(again));
                return None;
            }
            Stage::Waits(gathered) => {
                flight.version = self.catalog.version;
                flight.stage = Stage::Begun(gathered);
            }
            // As at the begin, because the configuration may not have the lane any more.
            Stage::Begun(_) if self.has_stopped(flight.run) => {
                return self.ends(flight, Ended::Again);
            }
            Stage::Begun(gathered) => match self.packed(&flight, gathered, out) {
                Ok(stage) => flight.stage = stage,
                Err(ended) => return self.ends(flight, ended),
            },
            Stage::Packed(payload, until) => {
                flight.stage = Stage::Sent(payload, until);
                let Stage::Sent(payload, _) = &flight.stage else {
                    return None;
                };
                let is_stale = !self.has_right(out) || flight.is_excused;
                // A process that joins once more has a new row, and is the same sender.
                let sender = self.id.trim_end_matches('+');
                send(&flight, payload, sender, is_stale, out);
                if out.mutant == Mutant::MovesBeforeTheAnswer {
                    let (step, _) = settle(payload, &Verdict::Acknowledged(1), out.time(), 0.5);
                    let acted = self.acts_by(out);
                    let _ = out.ask(|database| database.advance(vec![step], acted));
                }
            }
            Stage::Sent(payload, until) => {
                flight.stage = Stage::Waits(Duration::ZERO);
                let verdict = answer(&flight, &payload, out.now >= until, out);
                let (step, passed) = settle(&payload, &verdict, out.time(), 0.5);
                flight.stage = Stage::Answered(payload, Box::new(step), passed);
            }
            Stage::Moves(step, outcome) => {
                let acted = self.acts_by(out);
                let moved = out.ask(|database| database.advance(vec![*step], acted));
                let ended = moved.map_or(Ended::Again, |_| Ended::With(outcome));
                flight.stage = Stage::Waits(Duration::ZERO);
                return self.ends(flight, ended);
            }
            Stage::Answered(ref payload, ref step, passed) => {
                let (aside, rest) = (
                    turn::aside(&step.condition),
                    turn::rest(&payload.input, passed, out.time()),
                );
                let Ok(moved) = self.advance(step, flight.is_excused, out) else {
                    if self.has_stopped(flight.run) {
                        // The next owner delivers it once more.
                        flight.excuse(out);
                        return self.ends(flight, Ended::Again);
                    }
                    return Some(flight);
                };
                let outcome = turn::outcome(moved, aside, rest);
                return self.ends(flight, Ended::With(outcome));
            }
        }
        Some(flight)
    }

    /// Reads and judges. The end of the delivery if nothing is sent.
    fn packed(
        &mut self,
        flight: &Flight,
        gathered: Duration,
        out: &mut Outside,
    ) -> Result<Stage, Ended> {
        let cursor = flight.cursor;
        let want = InputRequest {
            cursor,
            events_max: 1,
        };
        let mut inputs = out
            .ask(|database| database.inputs(&[want]))
            .map_err(|_| Ended::Again)?;
        let done = Ended::With(Outcome::Done);
        let Some(input) = inputs.pop().flatten() else {
            return Err(done);
        };
        let Some(handler) = self.catalog.handlers.get(&cursor.handler) else {
            return Err(done);
        };
        let now = out.time();
        match decide(&self.catalog, &flight.lane, input, handler, (now, gathered)) {
            Decision::Send(payload) => match self.time_to_send(out) {
                Some(time) => Ok(Stage::Packed(Box::new(payload), out.now + time)),
                None => Err(Ended::With(Outcome::More(turn::rest(
                    &payload.input,
                    0,
                    now,
                )))),
            },
            Decision::Leave(outcome) => Err(Ended::With(outcome)),
            Decision::Elsewhere(hint) => {
                self.place_later(vec![hint]);
                Err(done)
            }
            Decision::Halt(step, outcome) | Decision::Damaged(step, outcome) => {
                Ok(Stage::Moves(step, outcome))
            }
            Decision::Pass(_, step) => Ok(Stage::Moves(step, Outcome::Done)),
        }
    }

    /// Simulates one try of `forward::advance`.
    fn advance(&self, step: &Step, is_excused: bool, out: &mut Outside) -> Result<Advance, Failed> {
        // A delivery outlives the lease under which it began, and the configurations by which its node acts since.
        let acted = self.acts_by(out).filter(|_| !is_excused);
        let moved = out.ask(|database| database.advance(vec![step.clone()], acted))?;
        if moved.first() == Some(&Advance::Moved) {
            return Ok(Advance::Moved);
        }
        match step.to > step.from && step.skipped.is_empty() {
            true => out.ask(|database| database.advance_held(step)),
            false => Ok(Advance::Lost),
        }
    }

    fn ends(&mut self, flight: Flight, ended: Ended) -> Option<Flight> {
        let cursor = flight.cursor;
        if flight.is_marked {
            self.flights.ended.push(cursor);
        }
        if let Some(lane) = self.lane_of_run(flight.run) {
            match ended {
                Ended::With(outcome) => lane.turned(cursor, outcome),
                Ended::Again => lane.not_turned(cursor),
            }
        }
        None
    }

    fn set_aside(&mut self, run: u64, cursor: CursorId, aside: Parked) {
        if let Some(lane) = self.lane_of_run(run) {
            let rest = lane.rest(cursor);
            let outcome = rest.map_or(Outcome::Done, |rest| Outcome::Parked(aside, rest));
            lane.turned(cursor, outcome);
        }
    }

    /// Simulates `Engine::time_to_send`, in milliseconds.
    fn time_to_send(&self, out: &Outside) -> Option<u64> {
        let left = self.lease_left(Duration::from_millis(out.now));
        let timeout = crate::domain::forward::TIMEOUT_DEFAULT;
        let time = left.min(timeout);
        (left >= LEASE_MIN).then(|| u64::try_from(time.as_millis()).unwrap_or(0))
    }
}

/// End of a delivery for its lane.
enum Ended {
    With(Outcome),
    /// The cursor is as before.
    Again,
}
