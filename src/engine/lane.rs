//! The lane as a plain machine: which cursor is next, which ones wait, which ones are set aside. No clock, no
//! I/O. Times at which cursors become ready are those of a monotonic clock, [`Timestamp::steady`]; receive times
//! of events are not.
//!
//! ```text
//!            hinted                 next_batch               turned: done
//!   (idle) ─────────▶ ready ─────────────────────▶ running ───────────────▶ (idle)
//!                       ▲  ▲                          │ │ more, or hinted while running
//!                       │  └──────────────────────────┼─┘
//!                       │ its time has come,          │ turned: aside
//!                       └─ or hinted to return ── aside ◀┘
//! ```
//!
//! Handlers take turns one after the other, each with the cursor that became ready first. A cursor with more
//! events goes behind the others of its handler, so a handler gets no larger part of a turn for having many
//! cursors. Retries come after first tries, except for every fourth cursor. A cursor that is set aside takes no
//! place in the order; its lane goes on without it.
//!
//! Handlers beyond their share of fold time (`share.rs`) are left out: their cursors stay ready until
//! they are asked for by name.

use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use crate::domain::cursor::CursorId;
use crate::domain::hook::HandlerId;
use crate::domain::time::Timestamp;
use crate::lanes::{self, Backlog, Hint};

/// While others wait for their first try, one of this many cursors taken from a handler is a retry.
const REPEAT_EVERY: u8 = 4;

/// The cursors of one lane that have work.
#[derive(Debug, Default)]
pub struct Lane {
    ready: Ready,
    cursors: HashMap<CursorId, Entry>,
    due: BTreeSet<(Timestamp, CursorId)>,
    /// Cursors added since the last batch: while the lane is paused, no turn checks where they belong.
    unjudged: Vec<CursorId>,
    round: Round,
}

/// Ready cursors by handler.
#[derive(Debug, Default)]
struct Ready {
    /// Handlers with ready cursors, in the order in which they take turns.
    order: VecDeque<HandlerId>,
    handlers: HashMap<HandlerId, ReadyCursors>,
}

/// Ready cursors of one handler, in the order in which they became ready.
#[derive(Debug, Default)]
struct ReadyCursors {
    fresh: VecDeque<CursorId>,
    /// Cursors that try again.
    repeats: VecDeque<CursorId>,
    /// Number of cursors taken since the last retry.
    since_repeat: u8,
}

impl ReadyCursors {
    fn len(&self) -> usize {
        self.fresh.len() + self.repeats.len()
    }

    fn take(&mut self) -> Option<CursorId> {
        let repeats = self.fresh.is_empty() || self.since_repeat + 1 >= REPEAT_EVERY;
        if repeats && let Some(cursor) = self.repeats.pop_front() {
            self.since_repeat = 0;
            return Some(cursor);
        }
        self.since_repeat = self.since_repeat.saturating_add(1).min(REPEAT_EVERY);
        self.fresh.pop_front()
    }
}

impl Ready {
    fn push(&mut self, cursor: CursorId, is_repeat: bool) {
        let of = self.handlers.entry(cursor.handler).or_default();
        if of.len() == 0 {
            self.order.push_back(cursor.handler);
        }
        match is_repeat {
            true => of.repeats.push_back(cursor),
            false => of.fresh.push_back(cursor),
        }
    }

    /// Takes the next cursor of the first handler, which moves to the end of the order.
    fn take_first(&mut self) -> Option<CursorId> {
        let handler = self.order.pop_front()?;
        let of = self.handlers.get_mut(&handler)?;
        let cursor = of.take();
        match of.len() {
            0 => drop(self.handlers.remove(&handler)),
            _ => self.order.push_back(handler),
        }
        cursor
    }

    /// Takes at most `max` cursors, one handler after the other, except from handlers that are left
    /// out.
    fn take(&mut self, max: usize, left_out: impl Fn(HandlerId) -> bool) -> Vec<CursorId> {
        let (mut batch, mut passed_over) = (Vec::new(), 0);
        while batch.len() < max
            && passed_over < self.order.len()
            && let Some(handler) = self.order.front().copied()
        {
            if left_out(handler) {
                self.order.rotate_left(1);
                passed_over += 1;
            } else {
                batch.extend(self.take_first());
                passed_over = 0;
            }
        }
        batch
    }

    /// The cursor that will wait longest from now on, except of handlers that are left out.
    fn last(&self, left_out: impl Fn(HandlerId) -> bool) -> Option<CursorId> {
        let handlers = self.order.iter().filter(|handler| !left_out(**handler));
        let of = handlers.filter_map(|handler| self.handlers.get(handler));
        let of = of.max_by_key(|of| of.len())?;
        of.fresh.back().or(of.repeats.back()).copied()
    }

    fn retain(&mut self, stays: impl Fn(&CursorId) -> bool) {
        self.handlers.retain(|_, of| {
            of.fresh.retain(&stays);
            of.repeats.retain(&stays);
            of.len() > 0
        });
        self.order
            .retain(|handler| self.handlers.contains_key(handler));
    }
}

/// Measures how long cursors wait for their turns, one cursor at a time: the last ready cursor is
/// watched until it has run, or, in a turn with others, until that turn has ended. No cursor that was
/// ready before it waits longer.
#[derive(Debug, Default)]
struct Round {
    watched: Option<(CursorId, Timestamp)>,
    /// True while it is in the current turn, together with others.
    runs: bool,
    /// Waiting time of the last watched cursor.
    took: Option<Duration>,
}

#[derive(Debug)]
struct Entry {
    at: At,
    oldest: Timestamp,
    newest: Timestamp,
    backlog: Backlog,
    /// Events that a running turn may be reading; they count as waiting until it reports how many it
    /// has done.
    taken: u64,
    /// Receive time of the oldest event hinted since the turn began.
    came: Option<Timestamp>,
    /// Start of the first of the turns that have folded nothing because events are gathered.
    gathers_since: Option<Timestamp>,
    /// True while it runs outside of turns, as a delivery.
    is_in_flight: bool,
}

impl Entry {
    fn events(&self) -> u64 {
        self.backlog.events().saturating_add(self.taken)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum At {
    Ready,
    Running(Option<Again>),
    Aside(Aside),
}

/// A hint for a running cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    MoreEvents,
    Returned,
}

/// Reason why a cursor takes no turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aside {
    /// It failed and tries again at this time.
    Waiting(Timestamp),
    /// It failed and needs an operator.
    Held,
    /// It gathers events until this time.
    Gathering(Timestamp),
    /// Another lane or node has a delivery of it in flight; it checks again at this time.
    Busy(Timestamp),
    /// An operator has stopped it or its lane, or it is at its drain mark.
    Kept,
}

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

/// Outcome of a turn for one cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is at its head, or no longer exists.
    Done,
    /// It has more events.
    More(Rest),
    /// It cannot move now.
    Aside(Aside, Rest),
}

/// Remaining events of a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// Receive time of the oldest one.
    pub oldest: Timestamp,
    /// Number of events.
    pub events: u64,
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

impl Outcome {
    /// Converts the time in it to another clock, which shows `to` when the present one shows `from`.
    #[must_use]
    pub fn by_other_clock(self, from: Timestamp, to: Timestamp) -> Self {
        match self {
            Self::Aside(Aside::Waiting(at), rest) => {
                Self::Aside(Aside::Waiting(at.by_other_clock(from, to)), rest)
            }
            Self::Aside(Aside::Gathering(at), rest) => {
                Self::Aside(Aside::Gathering(at.by_other_clock(from, to)), rest)
            }
            other => other,
        }
    }
}

impl At {
    fn is_set_aside(&self) -> bool {
        matches!(self, Self::Aside(Aside::Waiting(_) | Aside::Held))
    }
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
    /// The cursor that gathers longest, and until when.
    pub gathers_longest: Option<(Timestamp, CursorId)>,
}

impl Lane {
    /// Adds hints.
    pub fn hinted(&mut self, hints: impl IntoIterator<Item = Hint>) {
        for hint in hints {
            self.hint(hint);
        }
    }

    fn hint(&mut self, hint: Hint) {
        let Some(entry) = self.cursors.get_mut(&hint.cursor) else {
            let entry = Entry {
                at: At::Ready,
                oldest: hint.oldest,
                newest: hint.newest,
                backlog: hint.backlog,
                taken: 0,
                came: None,
                gathers_since: None,
                is_in_flight: false,
            };
            self.cursors.insert(hint.cursor, entry);
            self.ready.push(hint.cursor, false);
            self.unjudged.push(hint.cursor);
            return;
        };
        entry.oldest = entry.oldest.min(hint.oldest);
        entry.newest = entry.newest.max(hint.newest);
        entry.backlog = entry.backlog.and(hint.backlog);
        let returns = hint.recheck == lanes::Recheck::Yes;
        match &mut entry.at {
            At::Ready => {}
            At::Running(again) => {
                entry.came = Some(entry.came.map_or(hint.oldest, |at| at.min(hint.oldest)));
                *again = match returns {
                    true => Some(Again::Returned),
                    false => again.or(Some(Again::MoreEvents)),
                };
            }
            At::Aside(_) if returns => self.make_ready(hint.cursor, false),
            At::Aside(_) => {}
        }
    }

    fn make_ready(&mut self, cursor: CursorId, is_repeat: bool) {
        if let Some(entry) = self.cursors.get_mut(&cursor) {
            if let At::Aside(Aside::Waiting(at) | Aside::Gathering(at) | Aside::Busy(at)) = entry.at
            {
                self.due.remove(&(at, cursor));
            }
            entry.at = At::Ready;
            self.ready.push(cursor, is_repeat);
        }
    }

    /// Makes cursors ready whose time has come.
    fn make_due_ready(&mut self, now: Timestamp) {
        while let Some((at, cursor)) = self.due.first().copied() {
            if at > now {
                break;
            }
            let at = self.cursors.get(&cursor).map(|entry| &entry.at);
            let is_repeat = matches!(at, Some(At::Aside(Aside::Waiting(_))));
            self.make_ready(cursor, is_repeat);
        }
    }

    /// Takes at most `max` ready cursors in their order, except those of handlers that are `left_out`.
    /// Cursors whose time has come by `now` are made ready first.
    pub fn next_batch(
        &mut self,
        max: usize,
        now: Timestamp,
        left_out: impl Fn(HandlerId) -> bool,
    ) -> Vec<CursorId> {
        self.make_due_ready(now);
        self.unjudged.retain(|cursor| left_out(cursor.handler));
        let batch = self.ready.take(max, &left_out);
        self.run(&batch, now);
        self.watch_round(&batch, now, left_out);
        batch
    }

    /// The given handlers that have ready cursors at `now`.
    pub fn ready_of(&mut self, handlers: &[HandlerId], now: Timestamp) -> Vec<HandlerId> {
        self.make_due_ready(now);
        let ready = |handler: &&HandlerId| self.ready.handlers.contains_key(handler);
        handlers.iter().filter(ready).copied().collect()
    }

    /// Takes at most `max` ready cursors of one handler, whether or not it is left out of the lane's
    /// turns.
    pub fn next_of(&mut self, handler: HandlerId, max: usize, now: Timestamp) -> Vec<CursorId> {
        self.unjudged.retain(|cursor| cursor.handler != handler);
        let batch = self.ready.take(max, |other| other != handler);
        self.run(&batch, now);
        batch
    }

    fn run(&mut self, batch: &[CursorId], now: Timestamp) {
        for cursor in batch {
            if let Some(entry) = self.cursors.get_mut(cursor) {
                entry.at = At::Running(None);
                entry.taken = entry.backlog.events();
                entry.backlog = Backlog::More(0);
                entry.gathers_since.get_or_insert(now);
            }
        }
    }

    fn watch_round(
        &mut self,
        batch: &[CursorId],
        now: Timestamp,
        left_out: impl Fn(HandlerId) -> bool,
    ) {
        // The turn of the watched cursor is still committing, and this is the next one.
        let commits = |(cursor, _): &(CursorId, Timestamp)| {
            let entry = self.cursors.get(cursor);
            let runs = entry
                .is_some_and(|entry| matches!(entry.at, At::Running(_)) && !entry.is_in_flight);
            runs && !batch.contains(cursor)
        };
        if self.round.runs && self.round.watched.as_ref().is_some_and(commits) {
            return;
        }
        // A cursor alone in its turn waits for no other.
        let others = batch.len() > 1;
        let waits = |cursor: &CursorId| {
            let entry = self.cursors.get(cursor);
            let is_ready = entry.is_some_and(|entry| entry.at == At::Ready);
            is_ready && !left_out(cursor.handler) || others && batch.contains(cursor)
        };
        match self.round.watched {
            Some((cursor, since)) if self.round.runs || !waits(&cursor) => {
                self.round.took = Some(now.since(since));
                self.round.watched = None;
            }
            Some(_) => {}
            None if self.is_idle(&left_out) && !others => self.round.took = Some(Duration::ZERO),
            None => {}
        }
        if self.round.watched.is_none() {
            let last = self.ready.last(left_out);
            let last = last.or(batch.last().copied().filter(|_| others));
            self.round.watched = last.map(|cursor| (cursor, now));
        }
        let watched = self.round.watched.map(|(cursor, _)| cursor);
        self.round.runs = watched.is_some_and(|cursor| others && batch.contains(&cursor));
    }

    /// Time for which each cursor of a batch has gathered events by `now`.
    pub fn gathered(&self, batch: &[CursorId], now: Timestamp) -> Vec<Duration> {
        let since = |cursor: &CursorId| self.cursors.get(cursor)?.gathers_since;
        let gathered = |cursor| since(cursor).map_or(Duration::ZERO, |since| now.since(since));
        batch.iter().map(gathered).collect()
    }

    /// Time until which a cursor gathers events, if it does.
    pub fn gathers_until(&self, cursor: CursorId) -> Option<Timestamp> {
        match self.cursors.get(&cursor)?.at {
            At::Aside(Aside::Gathering(until)) => Some(until),
            _ => None,
        }
    }

    /// Time that a ready cursor waits for its turn, as far as known at `now`.
    pub fn turn_wait(&self, now: Timestamp) -> Option<Duration> {
        let watched = self.round.watched.map(|(_, since)| now.since(since));
        watched.max(self.round.took)
    }

    /// True if no other cursor waits for a turn, except of handlers that are `left_out`.
    pub fn is_idle(&self, left_out: impl Fn(HandlerId) -> bool) -> bool {
        self.ready.order.iter().all(|handler| left_out(*handler))
    }

    /// Time at which the next cursor becomes ready by itself.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Records that these cursors of a batch run outside of the turn, each until [`Lane::turned`].
    pub fn delivers(&mut self, cursors: impl Iterator<Item = CursorId>) {
        for cursor in cursors {
            if let Some(entry) = self.cursors.get_mut(&cursor) {
                entry.is_in_flight = true;
            }
        }
    }

    /// Records the outcome of a turn for one cursor.
    pub fn turned(&mut self, cursor: CursorId, outcome: Outcome) {
        let Some(entry) = self.cursors.get_mut(&cursor) else {
            return;
        };
        let At::Running(again) = entry.at else {
            return;
        };
        let fresh = entry.backlog;
        (entry.taken, entry.is_in_flight) = (0, false);
        if !matches!(outcome, Outcome::Aside(Aside::Gathering(_), _)) {
            entry.gathers_since = None;
        }
        // If all events that were read are done, only events hinted since are waiting.
        entry.oldest = entry.came.take().unwrap_or(entry.oldest);
        if let Outcome::More(rest) | Outcome::Aside(_, rest) = outcome {
            entry.oldest = rest.oldest;
            // Events hinted since may or may not be counted in the rest; the next turn reads the exact
            // number.
            entry.backlog = Backlog::Total(rest.events.max(fresh.events()));
        }
        match (outcome, again) {
            (Outcome::Done, None) => drop(self.cursors.remove(&cursor)),
            (Outcome::Aside(aside, _), None | Some(Again::MoreEvents)) => {
                entry.at = At::Aside(aside);
                if let Aside::Waiting(at) | Aside::Gathering(at) | Aside::Busy(at) = aside {
                    self.due.insert((at, cursor));
                }
            }
            _ => self.make_ready(cursor, false),
        }
    }

    /// Remaining events of a cursor, as far as the lane knows.
    pub fn rest(&self, cursor: CursorId) -> Option<Rest> {
        let entry = self.cursors.get(&cursor)?;
        Some(Rest {
            oldest: entry.oldest,
            events: entry.events(),
        })
    }

    /// Records that a turn failed: the cursor is unchanged and goes to the end of the order.
    pub fn not_turned(&mut self, cursor: CursorId) {
        let running = self.cursors.get_mut(&cursor);
        let Some(entry) = running.filter(|entry| matches!(entry.at, At::Running(_))) else {
            return;
        };
        entry.backlog = Backlog::Total(entry.events());
        (entry.taken, entry.came, entry.is_in_flight) = (0, None, false);
        self.make_ready(cursor, false);
    }

    /// Gives up every cursor, as hints for the next owner.
    pub fn give_up(&mut self) -> Vec<Hint> {
        let cursors = std::mem::take(self).cursors;
        in_order(cursors.into_iter().map(hint).collect())
    }

    /// Gives up the cursors that match, except running ones, which their turn checks.
    pub fn give_up_those(&mut self, of_kind: impl Fn(CursorId) -> bool) -> Vec<Hint> {
        let given_up = |(cursor, entry): &(&CursorId, &Entry)| {
            of_kind(**cursor) && !matches!(entry.at, At::Running(_))
        };
        let gone: Vec<_> = self
            .cursors
            .iter()
            .filter(given_up)
            .map(|(c, _)| *c)
            .collect();
        let mut hints = Vec::with_capacity(gone.len());
        for cursor in &gone {
            let Some(entry) = self.cursors.remove(cursor) else {
                continue;
            };
            if let At::Aside(Aside::Waiting(at) | Aside::Gathering(at) | Aside::Busy(at)) = entry.at
            {
                self.due.remove(&(at, *cursor));
            }
            hints.push(hint((*cursor, entry)));
        }
        if !gone.is_empty() {
            let cursors = &self.cursors;
            self.ready.retain(|cursor| cursors.contains_key(cursor));
        }
        in_order(hints)
    }

    /// Gives up the cursors that match among those added since the last batch.
    pub fn give_up_new(&mut self, of_kind: impl Fn(CursorId) -> bool) -> Vec<Hint> {
        let mut new = std::mem::take(&mut self.unjudged);
        new.retain(|cursor| of_kind(*cursor));
        match new.is_empty() {
            true => Vec::new(),
            false => self.give_up_those(|cursor| new.contains(&cursor)),
        }
    }

    /// Makes ready the cursors that an operator had stopped or that gather events, so that a turn
    /// checks whether they must still wait. Cursors that wait for a retry are not affected.
    pub fn let_kept_go(&mut self) {
        let is_kept = |(_, entry): &(&CursorId, &Entry)| {
            matches!(entry.at, At::Aside(Aside::Kept | Aside::Gathering(_)))
        };
        let mut kept: Vec<_> = self
            .cursors
            .iter()
            .filter(is_kept)
            .map(|(c, _)| *c)
            .collect();
        kept.sort_unstable();
        for cursor in kept {
            self.make_ready(cursor, false);
        }
    }

    /// Forgets every cursor and returns them. Running ones stay, and take another turn.
    pub fn wipe(&mut self) -> Vec<CursorId> {
        let known = self.cursors().collect();
        (self.ready, self.due) = Default::default();
        self.cursors.retain(|_, entry| match &mut entry.at {
            At::Running(again) => {
                *again = again.or(Some(Again::MoreEvents));
                true
            }
            At::Ready | At::Aside(_) => false,
        });
        known
    }

    /// True if the cursor is known to have work.
    pub fn knows(&self, cursor: CursorId) -> bool {
        self.cursors.contains_key(&cursor)
    }

    /// Every cursor that is known to have work, in no order.
    pub fn cursors(&self) -> impl Iterator<Item = CursorId> + '_ {
        self.cursors.keys().copied()
    }

    /// For display: the set-aside cursors that have waited longest, then the others that have.
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
                is_kept: entry.at == At::Aside(Aside::Kept),
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
                held: u64::from(entry.at == At::Aside(Aside::Held)),
                waiting: u64::from(matches!(entry.at, At::Aside(Aside::Waiting(_)))),
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
                At::Aside(Aside::Waiting(_)) => {
                    survey.waiting += 1;
                    true
                }
                At::Aside(Aside::Held) => {
                    survey.held += 1;
                    true
                }
                At::Aside(Aside::Gathering(until)) => {
                    survey.gathering += 1;
                    survey.gathers_longest = survey.gathers_longest.max(Some((until, *cursor)));
                    false
                }
                _ => false,
            };
            let kept = entry.at == At::Aside(Aside::Kept);
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

/// The hint asks for a recheck, because the next owner may have set the cursor aside and not know that
/// it was released.
fn hint((cursor, entry): (CursorId, Entry)) -> Hint {
    Hint {
        cursor,
        oldest: entry.oldest,
        newest: entry.newest,
        backlog: entry.backlog,
        recheck: lanes::Recheck::Yes,
    }
}

/// Sorts hints by waiting time, so that the order is kept in the next lane.
fn in_order(mut hints: Vec<Hint>) -> Vec<Hint> {
    hints.sort_unstable_by_key(|hint| (hint.oldest, hint.cursor));
    hints
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::StreamId;
    use crate::domain::hook::HandlerId;

    fn cursor(stream: i64) -> CursorId {
        CursorId {
            stream: StreamId(stream),
            handler: HandlerId(1),
        }
    }

    fn hint(stream: i64, recheck: lanes::Recheck) -> Hint {
        Hint {
            cursor: cursor(stream),
            oldest: Timestamp::from_millis(stream),
            newest: Timestamp::from_millis(stream),
            backlog: Backlog::More(1),
            recheck,
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn rest(events: u64) -> Rest {
        Rest {
            oldest: at(7),
            events,
        }
    }

    fn lane_with(streams: &[i64]) -> Lane {
        let mut lane = Lane::default();
        lane.hinted(streams.iter().map(|s| hint(*s, lanes::Recheck::No)));
        lane
    }

    fn batch(lane: &mut Lane, max: usize, now: i64) -> Vec<i64> {
        let cursors = lane.next_batch(max, at(now), |_| false);
        cursors.iter().map(|cursor| cursor.stream.0).collect()
    }

    #[test]
    fn a_cursor_with_more_to_do_goes_behind_the_others() {
        let mut lane = lane_with(&[1, 2, 3]);
        assert_eq!(batch(&mut lane, 1, 0), [1]);
        lane.turned(cursor(1), Outcome::More(rest(5)));
        assert_eq!(batch(&mut lane, 9, 0), [2, 3, 1]);
    }

    fn of(handler: i64, stream: i64) -> Hint {
        Hint {
            cursor: CursorId {
                stream: StreamId(stream),
                handler: HandlerId(handler),
            },
            ..hint(stream, lanes::Recheck::No)
        }
    }

    #[test]
    fn handlers_take_turns_however_many_cursors_each_has() {
        let mut lane = Lane::default();
        lane.hinted((1..=50).map(|stream| of(1, stream)));
        lane.hinted([of(2, 51), of(2, 52), of(3, 53)]);
        assert_eq!(batch(&mut lane, 6, 0), [1, 51, 53, 2, 52, 3]);
    }

    #[test]
    fn a_handler_that_is_left_out_stays_ready_and_nobody_waits_for_it() {
        let mut lane = Lane::default();
        lane.hinted([of(1, 1), of(2, 2), of(1, 3)]);
        let slow = |handler| handler == HandlerId(1);
        let taken = lane.next_batch(9, at(0), slow);
        assert_eq!(taken, [of(2, 2).cursor]);
        assert!(lane.is_idle(slow) && lane.next_batch(9, at(0), slow).is_empty());
        assert_eq!(lane.turn_wait(at(90_000)), Some(Duration::ZERO));
        assert_eq!(
            lane.ready_of(&[HandlerId(1), HandlerId(2)], at(0)),
            [HandlerId(1)]
        );
        assert_eq!(lane.next_of(HandlerId(1), 1, at(0)), [of(1, 1).cursor]);
        assert_eq!(batch(&mut lane, 9, 0), [3], "it is left out no more");
    }

    #[test]
    fn first_tries_come_before_repeats_but_for_every_fourth() {
        let mut lane = lane_with(&[1, 2]);
        assert_eq!(batch(&mut lane, 9, 0), [1, 2]);
        for stream in [1, 2] {
            let waiting = Aside::Waiting(at(5));
            lane.turned(cursor(stream), Outcome::Aside(waiting, rest(1)));
        }
        lane.hinted((3..=9).map(|stream| hint(stream, lanes::Recheck::No)));
        let mut order = Vec::new();
        for _ in 0..9 {
            order.extend(batch(&mut lane, 1, 9));
        }
        assert_eq!(order, [3, 4, 5, 1, 6, 7, 8, 2, 9]);
    }

    #[test]
    fn only_what_came_since_the_last_batch_is_given_up_as_new() {
        let mut lane = lane_with(&[1, 2]);
        assert_eq!(batch(&mut lane, 1, 0), [1]);
        lane.hinted([3, 4].map(|stream| hint(stream, lanes::Recheck::No)));
        let given_up = lane.give_up_new(|cursor| cursor.stream.0 != 4);
        let given_up: Vec<_> = given_up.iter().map(|hint| hint.cursor.stream.0).collect();
        assert_eq!(given_up, [3]);
        assert!(lane.give_up_new(|_| true).is_empty(), "looked at already");
        assert_eq!(batch(&mut lane, 9, 0), [2, 4]);
    }

    #[test]
    fn a_cursor_gathers_from_its_first_turn_until_one_that_folds() {
        let seconds = Duration::from_secs;
        let mut lane = lane_with(&[1]);
        let gathers = |until| Outcome::Aside(Aside::Gathering(at(until)), rest(1));
        assert_eq!(batch(&mut lane, 9, 5_000), [1]);
        assert_eq!(lane.gathered(&[cursor(1)], at(5_000)), [seconds(0)]);
        lane.turned(cursor(1), gathers(6_000));
        assert_eq!(lane.gathers_until(cursor(1)), Some(at(6_000)));
        assert_eq!(batch(&mut lane, 9, 6_000), [1]);
        assert_eq!(lane.gathered(&[cursor(1)], at(6_000)), [seconds(1)]);
        lane.turned(cursor(1), Outcome::More(rest(1)));
        assert_eq!(lane.gathers_until(cursor(1)), None);
        assert_eq!(batch(&mut lane, 9, 9_000), [1]);
        assert_eq!(lane.gathered(&[cursor(1)], at(9_000)), [seconds(0)]);
    }

    #[test]
    fn a_turn_waits_as_long_as_the_last_of_those_who_are_ready() {
        let seconds = |n| Some(Duration::from_secs(n));
        let mut lane = lane_with(&[1, 2, 3]);
        assert_eq!(lane.turn_wait(at(0)), None);
        assert_eq!(batch(&mut lane, 1, 0), [1]);
        assert_eq!(lane.turn_wait(at(2_000)), seconds(2), "3 waits still");
        lane.turned(cursor(1), Outcome::More(rest(5)));
        assert_eq!(batch(&mut lane, 1, 3_000), [2]);
        lane.turned(cursor(2), Outcome::Done);
        assert_eq!(batch(&mut lane, 1, 6_000), [3]);
        assert_eq!(lane.turn_wait(at(6_000)), seconds(6));
        lane.turned(cursor(3), Outcome::Done);
        assert_eq!(batch(&mut lane, 9, 7_000), [1]);
        lane.turned(cursor(1), Outcome::More(rest(5)));
        assert_eq!(batch(&mut lane, 9, 8_000), [1]);
        assert_eq!(
            lane.turn_wait(at(9_000)),
            seconds(0),
            "alone, it waits for nobody"
        );
    }

    #[test]
    fn in_a_turn_with_others_a_cursor_waits_until_it_has_ended() {
        let seconds = |n| Some(Duration::from_secs(n));
        let mut lane = lane_with(&[1, 2]);
        assert_eq!(batch(&mut lane, 9, 0), [1, 2]);
        assert_eq!(lane.turn_wait(at(40_000)), seconds(40), "it runs still");
        lane.turned(cursor(1), Outcome::More(rest(5)));
        lane.turned(cursor(2), Outcome::More(rest(5)));
        assert_eq!(batch(&mut lane, 9, 50_000), [1, 2]);
        assert_eq!(lane.turn_wait(at(51_000)), seconds(50));
        lane.turned(cursor(1), Outcome::Done);
        lane.turned(cursor(2), Outcome::Done);
        assert!(batch(&mut lane, 9, 52_000).is_empty());
        assert!(batch(&mut lane, 9, 53_000).is_empty());
        assert_eq!(lane.turn_wait(at(53_000)), seconds(0));
    }

    #[test]
    fn a_hint_while_running_is_not_forgotten() {
        let mut lane = lane_with(&[1]);
        assert_eq!(batch(&mut lane, 9, 0), [1]);
        lane.hinted([hint(1, lanes::Recheck::No)]);
        assert!(batch(&mut lane, 9, 0).is_empty(), "one turn at a time");
        lane.turned(cursor(1), Outcome::Done);
        assert_eq!(batch(&mut lane, 9, 0), [1]);
        lane.turned(cursor(1), Outcome::Done);
        assert_eq!(lane.survey(), Survey::default());
    }

    #[test]
    fn what_a_running_turn_has_taken_waits_until_the_turn_says_what_became_of_it() {
        let mut lane = lane_with(&[1]);
        assert_eq!(batch(&mut lane, 9, 0), [1]);
        lane.hinted([hint(1, lanes::Recheck::No)]);
        assert_eq!(lane.survey().backlog_flowing, 2);
        assert_eq!(lane.lines(9, 9)[0].behind, 2);
        lane.turned(cursor(1), Outcome::More(rest(1)));
        assert_eq!(lane.survey().backlog_flowing, 1);
    }

    #[test]
    fn what_waits_is_as_old_as_its_oldest_event_whatever_has_been_done_or_could_not_be() {
        let came_at = |millis| Hint {
            oldest: at(millis),
            newest: at(millis),
            ..hint(1, lanes::Recheck::No)
        };
        let mut lane = Lane::default();
        lane.hinted([came_at(10)]);
        for next in [20, 30, 40] {
            assert_eq!(batch(&mut lane, 9, 0), [1]);
            lane.hinted([came_at(next)]);
            assert_eq!(lane.survey().oldest_flowing, Some(at(next - 10)));
            lane.turned(cursor(1), Outcome::Done);
            assert_eq!(lane.survey().oldest_flowing, Some(at(next)), "more came");
        }
        assert_eq!(batch(&mut lane, 9, 0), [1]);
        lane.hinted([came_at(50)]);
        lane.not_turned(cursor(1));
        let survey = lane.survey();
        assert_eq!((survey.oldest, survey.backlog), (Some(at(40)), 2));
        assert_eq!(batch(&mut lane, 9, 0), [1], "it is its turn again");
    }

    #[test]
    fn of_what_waits_for_a_cursor_it_is_known_when_the_oldest_came_and_when_the_newest() {
        let came_at = |millis| Hint {
            oldest: at(millis),
            newest: at(millis),
            ..hint(1, lanes::Recheck::No)
        };
        let mut lane = Lane::default();
        lane.hinted([10, 20, 30].map(came_at));
        assert_eq!(batch(&mut lane, 9, 0), [1]);
        let rest = Rest {
            oldest: at(20),
            events: 2,
        };
        lane.turned(cursor(1), Outcome::Aside(Aside::Held, rest));
        lane.hinted([came_at(60)]);
        let span = Span {
            oldest: at(20),
            newest: at(60),
            events: 3,
        };
        assert_eq!(lane.spans(), [span]);
    }

    #[test]
    fn a_cursor_aside_leaves_its_lane_free_and_returns_in_time_or_when_let_go() {
        let mut lane = lane_with(&[1, 2]);
        assert_eq!(batch(&mut lane, 9, 0), [1, 2]);
        lane.turned(cursor(1), Outcome::Aside(Aside::Waiting(at(100)), rest(1)));
        lane.turned(cursor(2), Outcome::Aside(Aside::Held, rest(1)));
        lane.hinted([
            hint(1, lanes::Recheck::No),
            hint(2, lanes::Recheck::No),
            hint(3, lanes::Recheck::No),
        ]);
        assert_eq!(batch(&mut lane, 9, 99), [3]);
        lane.turned(cursor(3), Outcome::Done);
        let survey = lane.survey();
        assert_eq!((survey.waiting, survey.held, survey.backlog), (1, 1, 4));
        assert_eq!(survey.oldest_flowing, None);

        assert_eq!(lane.next_due(), Some(at(100)));
        assert_eq!(batch(&mut lane, 9, 100), [1]);
        lane.hinted([hint(2, lanes::Recheck::Yes)]);
        assert_eq!(batch(&mut lane, 9, 100), [2]);
        assert_eq!(lane.next_due(), None);
    }

    #[test]
    fn of_cursors_that_gather_events_it_is_known_which_goes_on_last() {
        let mut lane = lane_with(&[1, 2, 3]);
        assert_eq!(batch(&mut lane, 9, 0), [1, 2, 3]);
        for (stream, until) in [(1, 50), (2, 70), (3, 60)] {
            let aside = Aside::Gathering(at(until));
            lane.turned(cursor(stream), Outcome::Aside(aside, rest(1)));
        }
        let survey = lane.survey();
        assert_eq!(survey.gathering, 3);
        assert_eq!(survey.gathers_longest, Some((at(70), cursor(2))));
        assert_eq!(survey.backlog_flowing, 3);
    }

    #[test]
    fn what_an_operator_had_stopped_goes_on_when_he_lets_it_go_whatever_it_waited_for() {
        let mut lane = lane_with(&[1, 2, 3]);
        assert_eq!(batch(&mut lane, 2, 0), [1, 2]);
        lane.turned(cursor(1), Outcome::Aside(Aside::Kept, rest(1)));
        lane.turned(cursor(2), Outcome::Aside(Aside::Held, rest(1)));
        lane.let_kept_go();
        assert_eq!(batch(&mut lane, 9, 0), [3, 1]);
    }

    #[test]
    fn being_let_go_during_the_turn_that_sets_it_aside_counts() {
        let mut lane = lane_with(&[1]);
        assert_eq!(batch(&mut lane, 9, 0), [1]);
        lane.hinted([hint(1, lanes::Recheck::Yes), hint(1, lanes::Recheck::No)]);
        lane.turned(cursor(1), Outcome::Aside(Aside::Held, rest(1)));
        assert_eq!(batch(&mut lane, 9, 0), [1]);
    }

    #[test]
    fn being_let_go_in_a_lane_that_gives_the_cursor_up_counts_where_it_is_set_aside() {
        let mut now = lane_with(&[1, 2]);
        assert_eq!(batch(&mut now, 9, 0), [1, 2]);
        now.turned(cursor(1), Outcome::Aside(Aside::Held, rest(1)));
        now.turned(cursor(2), Outcome::Aside(Aside::Held, rest(1)));

        let mut before = Lane::default();
        before.hinted([hint(1, lanes::Recheck::Yes), hint(2, lanes::Recheck::Yes)]);
        now.hinted(before.give_up_those(|stranger| stranger == cursor(1)));
        assert_eq!(batch(&mut now, 9, 0), [1]);
        now.hinted(before.give_up());
        assert_eq!(batch(&mut now, 9, 0), [2]);
    }

    #[test]
    fn what_is_wiped_is_forgotten_but_for_the_turn_that_runs() {
        let mut lane = lane_with(&[1, 2, 3]);
        assert_eq!(batch(&mut lane, 2, 0), [1, 2]);
        lane.turned(cursor(2), Outcome::Aside(Aside::Waiting(at(5)), rest(1)));
        let mut known = lane.wipe();
        known.sort_unstable();
        assert_eq!(known, [cursor(1), cursor(2), cursor(3)]);
        assert!(batch(&mut lane, 9, 9).is_empty(), "a turn still runs");
        assert_eq!(lane.next_due(), None);
        lane.hinted([hint(1, lanes::Recheck::No)]);
        lane.turned(cursor(1), Outcome::Done);
        assert_eq!(batch(&mut lane, 9, 9), [1], "its hint may have been wiped");
    }
}
