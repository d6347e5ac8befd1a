//! Ready cursors and the order in which they take turns.

use std::collections::{HashMap, VecDeque};

use crate::domain::cursor::CursorId;
use crate::domain::hook::HandlerId;

/// While others wait for their first try, one of this many cursors taken from a handler is a retry.
const REPEAT_EVERY: u8 = 4;

/// Ready cursors by handler.
#[derive(Debug, Default)]
pub struct Ready {
    /// Handlers with ready cursors, in the order in which they take turns.
    pub order: VecDeque<HandlerId>,
    pub handlers: HashMap<HandlerId, ReadyCursors>,
}

/// Ready cursors of one handler, in the order in which they became ready.
#[derive(Debug, Default)]
pub struct ReadyCursors {
    fresh: VecDeque<CursorId>,
    /// Cursors that try again.
    repeats: VecDeque<CursorId>,
    /// Number of cursors taken since the last retry.
    since_repeat: u8,
}

impl ReadyCursors {
    pub(super) fn len(&self) -> usize {
        self.fresh.len() + self.repeats.len()
    }

    pub(super) fn take(&mut self) -> Option<CursorId> {
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
    pub(super) fn push(&mut self, cursor: CursorId, is_repeat: bool) {
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
    pub(super) fn take_first(&mut self) -> Option<CursorId> {
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
    pub(super) fn take(
        &mut self,
        max: usize,
        left_out: impl Fn(HandlerId) -> bool,
    ) -> Vec<CursorId> {
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
    pub(super) fn last(&self, left_out: impl Fn(HandlerId) -> bool) -> Option<CursorId> {
        let handlers = self.order.iter().filter(|handler| !left_out(**handler));
        let of = handlers.filter_map(|handler| self.handlers.get(handler));
        let of = of.max_by_key(|of| of.len())?;
        of.fresh.back().or(of.repeats.back()).copied()
    }

    pub(super) fn retain(&mut self, stays: impl Fn(&CursorId) -> bool) {
        self.handlers.retain(|_, of| {
            of.fresh.retain(&stays);
            of.repeats.retain(&stays);
            of.len() > 0
        });
        self.order
            .retain(|handler| self.handlers.contains_key(handler));
    }
}
