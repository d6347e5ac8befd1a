//! A node that leaves: it gives up its lanes and finishes what it has accepted.

use super::tasks::Leave;
use super::{Done, Node};
use crate::engine::simulation::mutant::Mutant;
use crate::engine::simulation::outside::{Failed, Outside};

impl Node {
    /// A signal has asked the process to end.
    pub fn end(&mut self) {
        self.leave.get_or_insert(Leave::Row);
    }

    /// True if it accepts events.
    pub fn lets_in(&self) -> bool {
        matches!(
            self.leave,
            None | Some(Leave::Row | Leave::Close | Leave::Free(..))
        )
    }

    /// Simulates `Running::leave`, then `Running::stop`.
    pub(super) fn leave_on(&mut self, out: &mut Outside) -> Done {
        let Some(now) = self.leave.take() else {
            return Ok(false);
        };
        // The others find what cannot be passed on once this node is gone.
        let (next, done) = match now {
            Leave::Row if !self.is_member => (Leave::Finish, true),
            Leave::Row => {
                let me = self.id.clone();
                match out.ask(|database| database.leave(&me)) {
                    Ok(()) => (Leave::Close, true),
                    Err(Failed) => (Leave::Finish, true),
                }
            }
            Leave::Close => {
                let mut held: Vec<_> = self.held().into_iter().collect();
                held.sort();
                let lanes: Vec<_> = held.iter().map(|(lane, _)| lane.clone()).collect();
                (Leave::Free(self.stop(&lanes), held), true)
            }
            Leave::Free(ticket, held) => match self.stopped(ticket, out) {
                None if out.mutant != Mutant::LeavesUnderTurns => {
                    (Leave::Free(ticket, held), false)
                }
                left => {
                    self.send_left(left.unwrap_or_default());
                    let me = self.id.clone();
                    let _ = out.ask(|database| database.release_lanes(&held, &me));
                    (Leave::Finish, true)
                }
            },
            Leave::Finish if !self.requests.is_empty() || !self.unhinted.is_empty() => {
                (Leave::Finish, false)
            }
            Leave::Finish => {
                let lanes = self.held_lanes();
                (Leave::Stopped(self.stop(&lanes)), true)
            }
            Leave::Stopped(ticket) if !self.flights.is_empty() => (Leave::Stopped(ticket), false),
            Leave::Stopped(ticket) => match self.stopped(ticket, out) {
                None => (Leave::Stopped(ticket), false),
                Some(left) => {
                    self.send_left(left);
                    (Leave::Go, true)
                }
            },
            // A node that starts on SQLite sweeps. In a cluster, the leaving node waits at most a
            // second.
            Leave::Go if self.is_member && self.has_hints_to_say() && !out.chance(0.05) => {
                (Leave::Go, false)
            }
            Leave::Go => {
                let me = self.id.clone();
                let _ = out.ask(|database| database.remove_node(&me));
                self.has_left = true;
                (Leave::Go, false)
            }
        };
        self.leave = Some(next);
        Ok(done)
    }
}
