//! Events, cursors, and deliveries in flight.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::folds::{code_of, one_more};
use super::{Database, Stream};
use crate::domain::cursor::{Condition, CursorId};
use crate::domain::event::{Event, EventId, StreamId};
use crate::domain::lane::{Mode, Slot};
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;
use crate::engine::simulation::mutant::Mutant;
use crate::store::{Advance, CursorBacklog, Input, InputRequest, Mover, Step};

impl Database {
    /// Stores an event; returns its place in the stream.
    pub fn append(&mut self, stream: StreamId, body: u8, sent: u64) -> Option<usize> {
        let stored = self.streams.get_mut(&stream)?;
        let seq = stored.events.len() as i64 + 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&stream.0.to_be_bytes());
        id[8..].copy_from_slice(&seq.to_be_bytes());
        let event = Event {
            stream,
            seq: Seq(seq),
            id: EventId::from_bytes(id),
            received_at: Timestamp::from_millis(sent as i64),
            key_id: None,
            dedupe_key: None,
            headers: "".into(),
            body: vec![body].into(),
            late: None,
            is_damaged: false,
        };
        stored.events.push(Arc::new(event));
        stored.times.push((sent, None));
        Some(stored.events.len() - 1)
    }

    pub fn inputs(&self, wants: &[InputRequest]) -> Vec<Option<Input>> {
        let input = |want: &InputRequest| {
            let stream = self.streams.get(&want.cursor.stream)?;
            let after = stream.cursor.position.0 as usize;
            let events = stream.events.iter().skip(after).take(want.events_max);
            Some(Input {
                cursor: stream.cursor.clone(),
                head: Seq(stream.events.len() as i64),
                events: events.cloned().collect(),
            })
        };
        wants.iter().map(input).collect()
    }

    pub fn behind(&self) -> Vec<CursorBacklog> {
        let received = |stream: &Stream| {
            let next = usize::try_from(stream.cursor.position.0).unwrap_or(0);
            let first = stream.events.get(next)?.received_at;
            Some((first, stream.events.last()?.received_at))
        };
        let streams = self.streams.values();
        let behind = streams.map(|stream| CursorBacklog {
            cursor: stream.cursor.id,
            slot: stream.slot,
            events: stream
                .cursor
                .position
                .behind(Seq(stream.events.len() as i64)),
            flows: stream.cursor.condition == Condition::Flowing,
            received: received(stream),
        });
        behind.filter(|behind| behind.events > 0).collect()
    }

    pub fn slots(&self) -> HashMap<StreamId, Slot> {
        let streams = self.streams.iter();
        streams.map(|(id, stream)| (*id, stream.slot)).collect()
    }

    /// `acted` is the version that the mover's node acts by; `None` when it has lost the right to its
    /// lanes, or is not a node.
    pub fn advance(&mut self, steps: Vec<Step>, acted: Option<i64>) -> Vec<Advance> {
        let advanced = steps.into_iter().map(|step| self.advance_one(step, acted));
        advanced.collect()
    }

    fn advance_one(&mut self, step: Step, acted: Option<i64>) -> Advance {
        if let Some(why) = acted.and_then(|acted| self.stopped(&step, acted)) {
            self.breaks(|| format!("{why}: {step:?}"));
        }
        let blind = self.mutant == Mutant::NoCompare;
        let Some(stream) = self.streams.get_mut(&step.cursor.stream) else {
            return Advance::Lost;
        };
        let row = &mut stream.cursor;
        let is_same = row.era == step.era && row.position == step.from || blind;
        let is_held = matches!(row.condition, Condition::Held { .. });
        if !is_same || (is_held && step.mover == Mover::Turn) {
            return Advance::Lost;
        }
        let (from, to) = (row.position.0.min(step.to.0) as usize, step.to.0 as usize);
        let went_back = step.to < row.position;
        stream
            .dead
            .extend(step.skipped.iter().map(|letter| letter.seq));
        let delivers = stream.destination.is_some();
        let code = (!delivers).then(|| code_of(step.state.as_deref()));
        for event in &stream.events[from..to] {
            one_more(&mut stream.truth, code, event, &stream.dead);
        }
        let passed = stream.destination.as_ref();
        let passed = passed.and_then(|to_it| to_it.passed_over(from, to, &stream.dead));
        (row.position, row.condition) = (step.to, step.condition.clone());
        (row.state, row.chain) = (step.state.clone(), step.chain.clone());
        if went_back || stream.truth != (step.state.clone(), step.chain.clone()) {
            self.breaks(|| format!("not the fold of its events: {step:?}"));
        }
        if let Some(seq) = passed {
            self.breaks(|| format!("event {seq} is passed without a 2xx: {step:?}"));
        }
        Advance::Moved
    }

    /// Simulates `Store::advance_held`.
    pub fn advance_held(&mut self, step: &Step) -> Advance {
        let Some(stream) = self.streams.get_mut(&step.cursor.stream) else {
            return Advance::Lost;
        };
        let row = &stream.cursor;
        let is_held = matches!(row.condition, Condition::Held { .. });
        if !is_held || (row.era, row.position) != (step.era, step.from) {
            return Advance::Lost;
        }
        let held = Step {
            condition: row.condition.clone(),
            mover: Mover::Operator,
            ..step.clone()
        };
        self.advance_one(held, None)
    }

    /// Releases a cursor; true if it was set aside.
    pub fn release(&mut self, stream: StreamId) -> bool {
        let stream = self.streams.get_mut(&stream);
        let condition = stream.map(|stream| std::mem::take(&mut stream.cursor.condition));
        condition.is_some_and(|condition| condition != Condition::Flowing)
    }

    /// Simulates `Store::mark_in_flight`.
    pub fn mark_in_flight(&mut self, cursors: &[CursorId], node: &str) {
        self.flights.retain(|(of, _)| !cursors.contains(of));
        let marked = cursors.iter().map(|cursor| (*cursor, node.to_owned()));
        self.flights.extend(marked);
    }

    /// Simulates `Store::unmark_in_flight`.
    pub fn unmark_in_flight(&mut self, cursor: CursorId, node: &str) {
        self.flights.retain(|(of, by)| *of != cursor || by != node);
    }

    /// Simulates `Store::in_flight_elsewhere`.
    pub fn in_flight_elsewhere(&self, me: &str) -> HashSet<CursorId> {
        let flights = self.flights.iter();
        let elsewhere = flights.filter(|(_, node)| node != me && self.lives(node));
        elsewhere.map(|(cursor, _)| *cursor).collect()
    }

    /// The reason why a turn may not move a cursor once every node acts by the operators' requests.
    fn stopped(&self, step: &Step, acted: i64) -> Option<&'static str> {
        if step.mover == Mover::Operator || step.to == step.from {
            return None;
        }
        self.grounded(step.cursor, step.to, acted)
    }

    /// The reason why no delivery that moves a cursor this far may be in flight on a node that acts by a
    /// version.
    pub fn grounded(&self, cursor: CursorId, to: Position, acted: i64) -> Option<&'static str> {
        let stream = self.streams.get(&cursor.stream)?;
        let stop = self.stop_of(stream, cursor, to);
        stop.filter(|(_, since)| *since <= acted)
            .map(|(why, _)| why)
    }

    /// The cause that keeps a cursor from moving this far, and the version in which it began.
    pub(super) fn stop_of(
        &self,
        stream: &Stream,
        cursor: CursorId,
        to: Position,
    ) -> Option<(&'static str, i64)> {
        if let Some((_, since)) = self.stops.get(&stream.hook) {
            return Some(("a turn of a hook that stands still", *since));
        }
        let lane = self.lane_of(stream)?;
        let mark = self.marks.get(&cursor).map(|(_, mark)| *mark);
        match lane.mode {
            Mode::Paused => Some(("a turn in a paused lane", lane.since)),
            Mode::Draining | Mode::Drained if mark.is_none_or(|mark| to > mark) => {
                Some(("a turn beyond its mark", lane.since))
            }
            _ => None,
        }
    }
}
