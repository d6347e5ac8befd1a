//! Figures of a lane, for displays and verdicts.

use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use super::Lane;
use super::entry::{At, Entry, Parked};
use crate::domain::cursor::CursorId;
use crate::domain::hook::HandlerId;
use crate::domain::time::Timestamp;

/// Work of one handler in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandlerBacklog {
    /// Receive time of the oldest waiting event.
    pub oldest: Timestamp,
    /// Events to go.
    pub events: u64,
    /// Cursors that need an operator.
    pub held: u64,
    /// Cursors that wait for a retry.
    pub waiting: u64,
}

impl HandlerBacklog {
    /// Adds other work.
    pub fn add(&mut self, other: Self) {
        self.oldest = self.oldest.min(other.oldest);
        self.events = self.events.saturating_add(other.events);
        self.held = self.held.saturating_add(other.held);
        self.waiting = self.waiting.saturating_add(other.waiting);
    }
}

/// A cursor with work, for display.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// The cursor.
    pub cursor: CursorId,
    /// True if it waits for a retry or for an operator.
    pub is_set_aside: bool,
    /// True if an operator has stopped it or its lane.
    pub is_kept: bool,
    /// Receive time of its oldest waiting event.
    pub oldest: Timestamp,
    /// Number of its waiting events.
    pub behind: u64,
}

/// The waiting events of one cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Receive time of the oldest one.
    pub oldest: Timestamp,
    /// Receive time of the newest one, which is not before the oldest.
    pub newest: Timestamp,
    /// Number of events.
    pub events: u64,
}

/// Figures of a lane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Number of cursors with work.
    pub cursors: u64,
    /// Number of cursors that wait for a retry.
    pub waiting: u64,
    /// Number of cursors that need an operator.
    pub held: u64,
    /// Number of waiting events.
    pub backlog: u64,
    /// Number of waiting events of cursors that take turns.
    pub backlog_flowing: u64,
    /// Receive time of the oldest waiting event.
    pub oldest: Option<Timestamp>,
    /// Receive time of the oldest waiting event of cursors that take turns.
    pub oldest_flowing: Option<Timestamp>,
    /// The set-aside cursor whose event has waited longest.
    pub worst: Option<CursorId>,
    /// Number of waiting events of cursors that an operator has stopped.
    pub kept: u64,
    /// The cursor with the most waiting events among those that take turns, and their number.
    pub largest: Option<(CursorId, u64)>,
    /// Time that a ready cursor waits for its turn.
    pub turn_wait: Option<Duration>,
    /// Number of cursors whose delivery is in flight, or next at its destination.
    pub in_flight: u64,
    /// Number of cursors that gather events.
    pub gathering: u64,
    /// The cursor whose events gather longest, and the end of its gathering.
    pub gathers_longest: Option<(Timestamp, CursorId)>,
}

impl Lane {
    /// Cursors for display: the set-aside ones that have waited longest, then the longest waiting others.
    pub fn lines(&self, set_aside_max: usize, flowing_max: usize) -> Vec<Line> {
        let (mut aside, mut flowing) = (BinaryHeap::new(), BinaryHeap::new());
        for (cursor, entry) in &self.cursors {
            let (oldest, max) = match entry.at.is_set_aside() {
                true => (&mut aside, set_aside_max),
                false => (&mut flowing, flowing_max),
            };
            keep_least(oldest, (entry.oldest, *cursor), max);
        }
        let oldest = [aside, flowing].map(BinaryHeap::into_sorted_vec).concat();
        let line = |(_, cursor)| {
            let entry = self.cursors.get(&cursor)?;
            Some(Line {
                cursor,
                is_set_aside: entry.at.is_set_aside(),
                is_kept: entry.at == At::Parked(Parked::Kept),
                oldest: entry.oldest,
                behind: entry.events(),
            })
        };
        oldest.into_iter().filter_map(line).collect()
    }

    /// The waiting events of each cursor, in no order.
    pub fn spans(&self) -> Vec<Span> {
        let span = |entry: &Entry| Span {
            oldest: entry.oldest,
            newest: entry.newest.max(entry.oldest),
            events: entry.events(),
        };
        let spans = self.cursors.values().map(span);
        spans.filter(|span| span.events > 0).collect()
    }

    /// Work of each handler that has some.
    pub fn backlogs(&self) -> HashMap<HandlerId, HandlerBacklog> {
        let mut backlogs: HashMap<HandlerId, HandlerBacklog> = HashMap::new();
        for (cursor, entry) in &self.cursors {
            let of_cursor = HandlerBacklog {
                oldest: entry.oldest,
                events: entry.events(),
                held: u64::from(entry.at == At::Parked(Parked::Held)),
                waiting: u64::from(matches!(entry.at, At::Parked(Parked::Waiting(_)))),
            };
            backlogs
                .entry(cursor.handler)
                .and_modify(|backlog| backlog.add(of_cursor))
                .or_insert(of_cursor);
        }
        backlogs
    }

    /// The figures of the lane.
    pub fn survey(&self) -> Survey {
        let mut survey = Survey::default();
        let mut oldest_aside = None;
        for (cursor, entry) in &self.cursors {
            let aside = match entry.at {
                At::Parked(Parked::Waiting(_)) => {
                    survey.waiting += 1;
                    true
                }
                At::Parked(Parked::Held) => {
                    survey.held += 1;
                    true
                }
                At::Parked(Parked::Gathering(until)) => {
                    survey.gathering += 1;
                    survey.gathers_longest = survey.gathers_longest.max(Some((until, *cursor)));
                    false
                }
                _ => false,
            };
            let kept = entry.at == At::Parked(Parked::Kept);
            if kept {
                survey.kept += entry.events();
            }
            survey.cursors += 1;
            survey.in_flight += u64::from(entry.is_in_flight);
            survey.backlog += entry.events();
            survey.oldest = earlier(survey.oldest, entry.oldest);
            if kept {
                continue;
            }
            if !aside {
                survey.backlog_flowing += entry.events();
                survey.oldest_flowing = earlier(survey.oldest_flowing, entry.oldest);
                let events = entry.events();
                if survey.largest.is_none_or(|(_, most)| events > most) {
                    survey.largest = Some((*cursor, events));
                }
            } else if oldest_aside.is_none_or(|at| entry.oldest < at) {
                oldest_aside = Some(entry.oldest);
                survey.worst = Some(*cursor);
            }
        }
        survey
    }
}

/// Keeps the `max` smallest values in a heap with the largest of them on top.
fn keep_least<T: Ord>(least: &mut BinaryHeap<T>, value: T, max: usize) {
    if least.len() < max {
        least.push(value);
    } else if let Some(mut top) = least.peek_mut()
        && value < *top
    {
        *top = value;
    }
}

fn earlier(known: Option<Timestamp>, other: Timestamp) -> Option<Timestamp> {
    Some(known.map_or(other, |known| known.min(other)))
}
