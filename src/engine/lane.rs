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

mod entry;
mod ready;
mod survey;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::domain::cursor::CursorId;
use crate::domain::hook::HandlerId;
use crate::domain::time::Timestamp;
use crate::lanes::{self, Backlog, Hint};

use entry::{Again, At, Entry};
use ready::Ready;

pub use entry::Parked;
pub use survey::{HandlerBacklog, Line, Span, Survey};

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

/// Outcome of a turn for one cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is at its head, or no longer exists.
    Done,
    /// It has more events.
    More(Rest),
    /// It cannot move now.
    Parked(Parked, Rest),
}

/// Remaining events of a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// Receive time of the oldest one.
    pub oldest: Timestamp,
    /// Number of events.
    pub events: u64,
}

impl Outcome {
    /// Converts the time in it to another clock, which shows `to` when the present one shows `from`.
    #[must_use]
    pub fn by_other_clock(self, from: Timestamp, to: Timestamp) -> Self {
        match self {
            Self::Parked(Parked::Waiting(at), rest) => {
                Self::Parked(Parked::Waiting(at.by_other_clock(from, to)), rest)
            }
            Self::Parked(Parked::Gathering(at), rest) => {
                Self::Parked(Parked::Gathering(at.by_other_clock(from, to)), rest)
            }
            other => other,
        }
    }
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
            At::Parked(_) if returns => self.make_ready(hint.cursor, false),
            At::Parked(_) => {}
        }
    }

    fn make_ready(&mut self, cursor: CursorId, is_repeat: bool) {
        if let Some(entry) = self.cursors.get_mut(&cursor) {
            if let At::Parked(Parked::Waiting(at) | Parked::Gathering(at) | Parked::Busy(at)) =
                entry.at
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
            let is_repeat = matches!(at, Some(At::Parked(Parked::Waiting(_))));
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
            At::Parked(Parked::Gathering(until)) => Some(until),
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
        if !matches!(outcome, Outcome::Parked(Parked::Gathering(_), _)) {
            entry.gathers_since = None;
        }
        // If all events that were read are done, only events hinted since are waiting.
        entry.oldest = entry.came.take().unwrap_or(entry.oldest);
        if let Outcome::More(rest) | Outcome::Parked(_, rest) = outcome {
            entry.oldest = rest.oldest;
            // Events hinted since may or may not be counted in the rest; the next turn reads the exact
            // number.
            entry.backlog = Backlog::Total(rest.events.max(fresh.events()));
        }
        match (outcome, again) {
            (Outcome::Done, None) => drop(self.cursors.remove(&cursor)),
            (Outcome::Parked(aside, _), None | Some(Again::MoreEvents)) => {
                entry.at = At::Parked(aside);
                if let Parked::Waiting(at) | Parked::Gathering(at) | Parked::Busy(at) = aside {
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
            if let At::Parked(Parked::Waiting(at) | Parked::Gathering(at) | Parked::Busy(at)) =
                entry.at
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
            matches!(entry.at, At::Parked(Parked::Kept | Parked::Gathering(_)))
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
            At::Ready | At::Parked(_) => false,
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

#[cfg(test)]
mod tests;
