//! Ownership of lanes: the steps of a look, the beat, and the end of a lease.

use std::collections::BTreeSet;
use std::time::Duration;

use super::tasks::Part;
use super::{Done, Node};
use crate::domain::lane::LaneId;
use crate::domain::name::Name;
use crate::engine::membership::{Look, LookStep, RENEWAL};
use crate::engine::simulation::mutant::Mutant;
use crate::engine::simulation::outside::{Failed, Outside};
use crate::lanes::Hint;
use crate::store::{LaneRow, SetState};

const LOOK_EVERY: u64 = 500;

impl Node {
    pub(super) fn look(&mut self, out: &mut Outside) -> Done {
        if !self.is_member {
            return Ok(false);
        }
        let looked = match (self.parts.pop_front(), self.look.take()) {
            (Some(part), look) => {
                self.look = look;
                self.look_part(part, out)
            }
            (None, Some(look)) => self.look_on(look, out),
            (None, None) if out.now < self.look_at => return Ok(false),
            (None, None) => {
                self.look_at = out.now + LOOK_EVERY;
                self.look = Some(Look::begin());
                return Ok(true);
            }
        };
        if looked.is_err() {
            self.look = None;
            self.parts.clear();
            self.left.clear();
        }
        looked
    }

    /// The next step of a look, up to its first request.
    fn look_on(&mut self, mut look: Look, out: &mut Outside) -> Done {
        let Some(step) = look.next_step() else {
            return Ok(true);
        };
        match step {
            // No other server takes the place of the database here.
            LookStep::Follow => return self.look_on(look, out),
            LookStep::Beat => {
                if !self.beat(out)? {
                    look.lease_lost();
                }
            }
            LookStep::CloseAll => {
                let lanes = self.held_lanes();
                self.close(&lanes);
            }
            LookStep::Join => {
                // Its row is gone, so others may have taken its lanes and may repeat its deliveries.
                self.excuse_flights(out);
                self.numbers += 1;
                self.id = format!("{}+", self.id);
                self.join(out);
            }
            LookStep::ReadLanes => look.lanes_read(self.read_lanes(out)?),
            LookStep::ReadNodes => {
                let nodes = out.ask(|database| database.nodes.clone())?;
                let now = Duration::from_millis(out.now);
                let silent = self.watch.see(&nodes, &self.id, now);
                let is_blind = out.mutant == Mutant::NoSweepForTheDead;
                self.sweep_soon |= self.watch.has_changed() && !is_blind;
                look.nodes_read(nodes, silent);
                let (rows, nodes) = look.rows();
                (self.rows, self.nodes) = (rows.to_vec(), nodes.to_vec());
            }
            LookStep::Reap(id, beat) => {
                out.ask(|database| database.reap(&id, beat))?;
                self.look_at = out.now;
            }
            LookStep::Decide if self.leave.is_some() => return Ok(true),
            LookStep::Decide => {
                let stable = self.watch.is_stable(Duration::from_millis(out.now));
                look.decide(&self.id, &self.held(), stable);
            }
            LookStep::Close(lanes) => self.close(&lanes),
            LookStep::Seal(lanes) => {
                let ids: Vec<_> = lanes.iter().map(|(lane, _)| lane.clone()).collect();
                let ticket = self.stop(&ids);
                self.parts.push_back(Part::Seal(ticket, lanes));
            }
            LookStep::EndResizes => {
                for set in out.ask(|database| database.close_sets())? {
                    let _ = out.ask_redis(|redis| redis.forget(&set));
                }
            }
            LookStep::Refresh => self.config_changed(out)?,
            LookStep::Raise(namespaces) => self.raise_all(&namespaces, out),
            LookStep::Place => {
                let left = std::mem::take(&mut self.left);
                self.place_later(left);
            }
            LookStep::HandOver(lanes) => {
                let ids: Vec<_> = lanes.iter().map(|(lane, _)| lane.clone()).collect();
                let ticket = self.stop(&ids);
                self.parts.push_back(Part::Free(ticket, lanes));
            }
            LookStep::Take(lanes) => {
                let me = self.id.clone();
                look.taken(out.ask(|database| database.take_lanes(&lanes, &me))?);
            }
            LookStep::Open(lanes) => {
                if out.delivers {
                    self.flights.look(&self.id, out)?;
                }
                for (lane, epoch) in lanes {
                    self.open(lane, epoch);
                }
            }
            LookStep::Claim(lanes) => {
                let namespaces = lanes.iter().map(|(lane, _)| lane.namespace.clone());
                self.raise_all(&namespaces.collect(), out);
                let claims = lanes.into_iter();
                let claims = claims.map(|(lane, epoch)| Part::Claim(lane, epoch));
                self.parts.extend(claims);
            }
            LookStep::Sweep if out.mutant == Mutant::NoSweepOnTake => {}
            LookStep::Sweep => {
                let found = out.ask(|database| database.behind())?;
                self.parts.push_back(Part::Hint(found));
            }
        }
        self.look = Some(look);
        Ok(true)
    }

    fn look_part(&mut self, part: Part, out: &mut Outside) -> Done {
        match part {
            Part::Sent(ticket) => {
                let Some(left) = self.stopped(ticket, out) else {
                    self.parts.push_front(part);
                    return Ok(false);
                };
                self.send_left(left);
            }
            Part::Seal(ticket, lanes) => {
                let waits = out.mutant != Mutant::SealUnderTurns;
                match self.stopped(ticket, out) {
                    Some(left) => self
                        .left
                        .extend(left.into_iter().flat_map(|(_, hints)| hints)),
                    None if waits => {
                        self.parts.push_front(Part::Seal(ticket, lanes));
                        return Ok(false);
                    }
                    None => {}
                }
                let me = self.id.clone();
                out.ask(|database| database.seal_lanes(&lanes, &me))?;
                if !lanes.is_empty() {
                    self.look_at = out.now;
                }
            }
            Part::Free(ticket, lanes) => {
                let Some(left) = self.stopped(ticket, out) else {
                    self.parts.push_front(Part::Free(ticket, lanes));
                    return Ok(false);
                };
                self.send_left(left);
                let me = self.id.clone();
                out.ask(|database| database.release_lanes(&lanes, &me))?;
            }
            Part::Claim(lane, epoch) => {
                let _ = out.ask_redis(|redis| redis.claim(&lane, epoch));
            }
            Part::Hint(found) => self.hint_found(&found, out),
        }
        Ok(true)
    }

    pub(super) fn close(&mut self, lanes: &[LaneId]) {
        let ticket = self.stop(lanes);
        self.parts.push_back(Part::Sent(ticket));
    }

    fn read_lanes(&self, out: &mut Outside) -> Result<Vec<LaneRow>, Failed> {
        let mut rows = out.ask(|database| database.rows())?;
        if out.mutant == Mutant::NoSealWait {
            let opening = rows.iter_mut().filter(|row| row.set == SetState::Opening);
            opening.for_each(|row| row.set = SetState::Stable);
        }
        Ok(rows)
    }

    fn raise_all(&self, namespaces: &BTreeSet<Name>, out: &mut Outside) {
        let sets = self.catalog.lane_sets.values();
        for set in sets.filter(|set| namespaces.contains(&set.namespace)) {
            let _ = out.ask_redis(|redis| redis.raise(set));
        }
    }

    pub(super) fn send_left(&mut self, left: Vec<(LaneId, Vec<Hint>)>) {
        for (lane, hints) in left {
            self.send_later(lane, hints.into_iter().map(|hint| hint.cursor).collect());
        }
    }

    /// False if its row is gone.
    fn beat(&mut self, out: &mut Outside) -> Result<bool, Failed> {
        let (sent, acted) = (out.now, self.acted);
        let renewal = u64::try_from(RENEWAL.as_millis()).unwrap_or(0);
        if sent < self.beaten + renewal && self.config_seen == acted {
            return Ok(true);
        }
        let me = self.id.clone();
        if !out.ask(|database| database.beat(&me, acted))? {
            return Ok(false);
        }
        self.lease.renewed(Duration::from_millis(sent));
        (self.beaten, self.config_seen) = (sent, acted);
        Ok(true)
    }

    /// Simulates `Member::close_if_expired`.
    pub(super) fn end_lease(&mut self, out: &mut Outside) -> bool {
        if let Some(ticket) = self.expired {
            let Some(left) = self.stopped(ticket, out) else {
                return false;
            };
            self.send_left(left);
            self.expired = None;
            return true;
        }
        let holds = self.lease.holds(Duration::from_millis(out.now));
        if !self.is_member || holds || self.runs.is_empty() {
            return false;
        }
        let lanes: Vec<_> = self.runs.keys().cloned().collect();
        self.expired = Some(self.stop(&lanes));
        true
    }
}
