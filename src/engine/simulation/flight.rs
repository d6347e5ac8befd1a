//! Deliveries of a node of the simulation, as `forward/flights.rs` keeps them, and their requests.

use std::collections::HashSet;
use std::time::Duration;

use super::destination::Request;
use super::mutant::Mutant;
use super::outside::{Failed, Outside};
use crate::domain::cursor::CursorId;
use crate::domain::lane::LaneId;
use crate::domain::position::Position;
use crate::engine::forward::Payload;
use crate::engine::forward::request::Verdict;
use crate::engine::lane::Outcome;
use crate::store::Step;

pub const LOOK_EVERY: u64 = 250;

/// Deliveries of a node.
#[derive(Default)]
pub struct Flights {
    pub own: Vec<Flight>,
    pub others: HashSet<CursorId>,
    pub look_at: u64,
    /// Ended deliveries whose row in the database is to be removed.
    pub ended: Vec<CursorId>,
}

pub struct Flight {
    pub cursor: CursorId,
    pub lane: LaneId,
    /// Number of the lane's run, which is another one when the lane comes back.
    pub run: u64,
    pub epoch: i64,
    /// Configuration version at the begin.
    pub version: i64,
    pub is_marked: bool,
    /// True if another node may deliver events of the cursor at the same time, because of a fault.
    pub is_excused: bool,
    /// Time before which no answer comes; 0 if it comes at any time.
    pub answers_at: u64,
    pub stage: Stage,
}

pub enum Stage {
    /// Waits at the gate, after it has gathered for this long.
    Waits(Duration),
    Begun(Duration),
    /// The lease was long enough a moment ago.
    Packed(Box<Payload>, u64),
    /// The request is in flight, until this time.
    Sent(Box<Payload>, u64),
    Answered(Box<Payload>, Box<Step>, usize),
    /// Moves the cursor without a request.
    Moves(Box<Step>, Outcome),
}

impl Flight {
    /// A request that outlives its run is answered late, so that the next owner of the lane meets it. False until
    /// the answer comes.
    pub fn is_answered(&mut self, outlives: bool, out: &mut Outside) -> bool {
        if outlives && out.fails && self.answers_at == 0 {
            self.answers_at = out.now + out.below(5_000);
        }
        out.now >= self.answers_at
    }

    pub fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Waits(_))
    }

    /// True from the last check before the request until its answer is noted.
    pub fn is_sent(&self) -> bool {
        matches!(
            self.stage,
            Stage::Packed(..) | Stage::Sent(..) | Stage::Answered(..)
        )
    }
}

impl Flights {
    pub fn begin(
        &mut self,
        cursors: Vec<(CursorId, Duration)>,
        lane: &LaneId,
        run: u64,
        epoch: i64,
    ) {
        let flight = |(cursor, gathered)| Flight {
            cursor,
            lane: lane.clone(),
            run,
            epoch,
            version: 0,
            is_marked: false,
            is_excused: false,
            answers_at: 0,
            stage: Stage::Waits(gathered),
        };
        self.own.extend(cursors.into_iter().map(flight));
    }

    /// Cursors with a request in flight that no fault excuses, each with its lane.
    pub fn sent(&self) -> impl Iterator<Item = (&LaneId, CursorId)> {
        let sent = self
            .own
            .iter()
            .filter(|flight| flight.is_sent() && !flight.is_excused);
        sent.map(|flight| (&flight.lane, flight.cursor))
    }

    /// Like [`Self::sent`], each cursor with the position up to which the delivery moves it.
    pub fn targets(&self) -> impl Iterator<Item = (CursorId, Position)> {
        let sent = self.own.iter().filter(|flight| !flight.is_excused);
        sent.filter_map(|flight| {
            let (Stage::Packed(payload, _)
            | Stage::Sent(payload, _)
            | Stage::Answered(payload, ..)) = &flight.stage
            else {
                return None;
            };
            let next = payload.input.cursor.position.next();
            Some((flight.cursor, Position(next.0)))
        })
    }

    /// True if no delivery has begun and all ends are noted.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && !self.own.iter().any(Flight::has_begun)
    }

    pub fn are_older_than(&self, version: i64) -> bool {
        let mut begun = self.own.iter().filter(|flight| flight.has_begun());
        begun.any(|flight| flight.version < version)
    }

    /// Simulates `Flights::mark`. After a failure, each cursor may see one stale delivery.
    pub fn mark(&mut self, lanes: &[LaneId], me: &str, out: &mut Outside) {
        let given_up = self.own.iter_mut();
        let given_up = given_up.filter(|f| f.has_begun() && lanes.contains(&f.lane));
        let mut given_up: Vec<_> = given_up.collect();
        if given_up.is_empty() || out.mutant == Mutant::FlightsUnmarked {
            return;
        }
        given_up
            .iter_mut()
            .for_each(|flight| flight.is_marked = true);
        let cursors: Vec<_> = given_up.iter().map(|flight| flight.cursor).collect();
        let marked = out.ask(|database| database.mark_in_flight(&cursors, me));
        if marked.is_err() {
            for flight in given_up {
                flight.excuse(out);
            }
        }
    }

    /// Simulates `Flights::look`.
    pub fn look(&mut self, me: &str, out: &mut Outside) -> Result<(), Failed> {
        self.others = out.ask(|database| database.in_flight_elsewhere(me))?;
        self.look_at = out.now + LOOK_EVERY;
        Ok(())
    }

    /// True if the row of the cursor belongs to a delivery that is still in flight.
    pub fn is_marked(&self, cursor: CursorId) -> bool {
        let mut own = self.own.iter();
        own.any(|flight| flight.cursor == cursor && flight.is_marked)
    }

    pub fn is_busy(&self, cursor: CursorId) -> bool {
        let mut begun = self.own.iter().filter(|flight| flight.has_begun());
        self.others.contains(&cursor) || begun.any(|flight| flight.cursor == cursor)
    }
}

impl Flight {
    pub fn excuse(&mut self, out: &mut Outside) {
        if std::mem::replace(&mut self.is_excused, true) || !self.has_begun() {
            return;
        }
        let stream = out.database.streams.get_mut(&self.cursor.stream);
        if let Some(to) = stream.and_then(|stream| stream.destination.as_mut()) {
            to.excuse();
        }
    }
}

/// A request as its destination sees it, which answers with a 2xx or not.
pub fn send(flight: &Flight, payload: &Payload, node: &str, is_stale: bool, out: &mut Outside) {
    let epoch = match out.mutant {
        Mutant::NoEpoch => 1,
        _ => payload.epoch(flight.epoch),
    };
    let is_shared = out.is_shared;
    let Some(stream) = out.database.streams.get_mut(&flight.cursor.stream) else {
        return;
    };
    let (Some(to), Some(event)) = (&mut stream.destination, payload.events.first()) else {
        return;
    };
    let request = Request {
        seq: event.seq,
        node,
        epoch,
        is_stale,
    };
    if let Some(broken) = to.take(&request, &stream.dead, is_shared) {
        let broken = format!("{broken}: {:?}", flight.cursor);
        out.database.broken.get_or_insert(broken);
    }
}

/// The answer as the node sees it. A 2xx may get lost on its way.
pub fn answer(flight: &Flight, payload: &Payload, is_late: bool, out: &mut Outside) -> Verdict {
    let failed = |reason: &str| Verdict::Failed {
        reason: reason.to_owned(),
        after: None,
    };
    let Some(event) = payload.events.first() else {
        return failed("no event");
    };
    let (seq, body) = (event.seq, event.body[0]);
    let stream = out.database.streams.get(&flight.cursor.stream);
    let to = stream.and_then(|stream| stream.destination.as_ref());
    // A destination knows an event that it has acknowledged.
    let fails = out.fails && !to.is_some_and(|to| to.has_acknowledged(seq));
    if fails && body == b't' && out.chance(0.3) {
        let reason = "410".to_owned();
        return Verdict::Gone { reason };
    }
    if fails && (body == b'r' || out.chance(0.1)) {
        return failed("503");
    }
    let is_lost = out.fails && (is_late && out.chance(0.5) || out.chance(0.05));
    let stream = out.database.streams.get_mut(&flight.cursor.stream);
    if let Some(to) = stream.and_then(|stream| stream.destination.as_mut()) {
        to.acknowledge(seq);
        if is_lost {
            to.excuse();
        }
    }
    match is_lost {
        true => failed("no answer"),
        false => Verdict::Acknowledged(1),
    }
}
