//! The rebuild of one stream as a plain machine: decides what is folded next, when the new state may
//! replace the old one, and what happens when that was too late. No I/O.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use crate::domain::cursor::{Applied, Chain, Condition, Cursor, DeadLetter, Holder};
use crate::domain::event::Event;
use crate::domain::hook::{Handler, Hook};
use crate::domain::lane::{Mode, Slot};
use crate::domain::position::{Position, Seq};
use crate::engine::catalog::Snapshot;
use crate::engine::reduce::{Folded, Task};
use crate::store::{Beginning, Shadow, StreamRow, Swap};
use crate::text::differences;

/// Number of swaps that may be lost to turns before the fold goes beyond the cursor's position.
const LOST_MAX: u32 = 2;

/// The rebuild of one stream.
pub struct Work {
    pub stream: StreamRow,
    /// The cursor as last read, and its head.
    pub live: Cursor,
    pub head: Seq,
    /// Beginning of every fold of the stream.
    pub beginning: Beginning,
    pub shadow: Shadow,
    /// Seq up to which it folds before the cursor is read again.
    pub target: Seq,
    /// Events in the dead letters, which stay skipped.
    pub dead: HashSet<Seq>,
    /// Events that only the new fold skips.
    pub skipped: Vec<DeadLetter>,
    /// Events read and not folded yet, in reverse.
    pub events: Vec<Arc<Event>>,
    pub folded: i64,
    pub failure: Option<String>,
    pub lost: u32,
    pub differs: Option<String>,
    pub is_done: bool,
}

/// Relation of a fold to its cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// More events must be folded first.
    GoesOn,
    /// It cannot reach the cursor's position, so the old state stays.
    Failed,
    /// It has reached the cursor's position, or passed it.
    IsThere,
}

impl Work {
    /// A rebuild that starts at `kept`, an earlier unfinished fold, else at `beginning`, else at the
    /// first event.
    pub fn new(
        stream: StreamRow,
        live: Cursor,
        head: Seq,
        beginning: Option<Beginning>,
        kept: Option<Shadow>,
        dead: HashSet<Seq>,
    ) -> Self {
        let at_first = || Beginning {
            shadow: Shadow {
                cursor: live.id,
                position: Position::default(),
                state: None,
                chain: Chain::default(),
            },
            fold: None,
        };
        let beginning = beginning.unwrap_or_else(at_first);
        Self {
            shadow: kept.unwrap_or_else(|| beginning.shadow.clone()),
            beginning,
            target: Seq(live.position.0),
            dead,
            live,
            head,
            stream,
            skipped: Vec::new(),
            events: Vec::new(),
            folded: 0,
            failure: None,
            lost: 0,
            differs: None,
            is_done: false,
        }
    }

    /// True if nothing more is to be folded before the cursor is read.
    pub fn is_there(&self) -> bool {
        self.failure.is_some() || self.shadow.position.next() > self.target
    }

    /// Number of events still to fold.
    pub fn rest(&self) -> usize {
        usize::try_from(self.shadow.position.behind(self.target)).unwrap_or(usize::MAX)
    }

    /// The next events to fold, up to an event that is skipped.
    pub fn task(&mut self, handler: &Handler) -> Option<Task> {
        while let Some(event) = self.events.last()
            && self.failure.is_none()
            && self.dead.contains(&event.seq)
        {
            self.shadow.chain = self.shadow.chain.next(event.id, Applied::Skipped);
            self.shadow.position = Position(event.seq.0);
            self.folded += 1;
            self.events.pop();
        }
        if self.failure.is_some() || self.events.is_empty() {
            self.events.clear();
            return None;
        }
        let is_dead = |event: &Arc<Event>| self.dead.contains(&event.seq);
        let begin = self.events.iter().rposition(is_dead).map_or(0, |at| at + 1);
        let mut events = self.events.split_off(begin);
        events.reverse();
        Some(Task {
            handler: handler.id,
            reducer: handler.reducer()?.clone(),
            state: self.shadow.state.clone(),
            chain: self.shadow.chain.clone(),
            on_error: handler.on_error,
            only: handler.only.clone(),
            events,
        })
    }

    /// Records the result of a fold.
    pub fn take(&mut self, folded: Folded) {
        let passed = i64::try_from(folded.passed).unwrap_or(0);
        self.folded += passed;
        self.shadow.position = Position(self.shadow.position.0 + passed);
        self.shadow.state = folded.state;
        self.shadow.chain = folded.chain;
        self.skipped.extend(folded.skipped);
        if let Some(failure) = folded.failure {
            let seq = self.shadow.position.next();
            self.failure = Some(format!("at seq {seq}: {failure}"));
            self.events.clear();
        }
    }

    /// Compares the fold with its cursor, and its state with the old one.
    pub fn settle(&mut self) -> Standing {
        if !self.is_there() {
            return Standing::GoesOn;
        }
        if self.shadow.position < self.live.position {
            return Standing::Failed;
        }
        if self.shadow.position == self.live.position {
            self.differs = difference(self.live.state.as_deref(), self.shadow.state.as_deref());
        }
        Standing::IsThere
    }

    /// The swap that puts the new state in place.
    pub fn swap(&self) -> Swap {
        Swap {
            shadow: self.shadow.clone(),
            era: self.live.era,
            condition: match &self.failure {
                None => Condition::Flowing,
                Some(reason) => Condition::Held {
                    reason: reason.clone(),
                    by: Holder::Failure,
                },
            },
            skipped: self.skipped.clone(),
        }
    }

    /// Records a refused swap, with the cursor as it is now. When that has happened too often, the fold
    /// goes on to the head, if it `may_pass` the cursor.
    pub fn lost_to(&mut self, live: Cursor, head: Seq, may_pass: bool) {
        self.lost += 1;
        if live.position < self.shadow.position {
            // The cursor has got another state, or may not be passed now. The fold starts from the
            // beginning; events beyond the cursor that could not be folded will be met again.
            self.shadow = self.beginning.shadow.clone();
            self.skipped.clear();
            self.failure = None;
        }
        self.target = match self.lost > LOST_MAX && may_pass {
            true => head,
            false => Seq(live.position.0),
        };
        (self.live, self.head) = (live, head);
    }
}

/// True if the rebuild may move the cursor forward, because no operator has stopped it.
pub fn may_pass(catalog: &Snapshot, hook: &Hook, slot: Slot, live: &Cursor) -> bool {
    let set = catalog.lane_sets.get(&hook.namespace);
    let is_active = set.is_some_and(|set| catalog.stops.mode(&set.lane(slot)) == Mode::Active);
    is_active && !catalog.stops.hooks.contains_key(&hook.id) && live.condition == Condition::Flowing
}

/// The first difference of two states, for people: `/total 118 -> 121`. `None` when they are equal as
/// JSON.
fn difference(old: Option<&str>, new: Option<&str>) -> Option<String> {
    if old == new {
        return None;
    }
    let read = |text: Option<&str>| match text {
        Some(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        None => Value::Null,
    };
    differences(&read(old), &read(new), 1).pop()
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn states_differ_as_json_and_the_first_place_is_said() {
        let of = |old, new| difference(Some(old), Some(new));
        assert_eq!(of(r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#), None);
        let said = of(
            r#"{"total":118,"by":{"x/y":1}}"#,
            r#"{"total":121,"by":{"x/y":2}}"#,
        );
        assert_eq!(said.as_deref(), Some("/total 118 -> 121"));
        let said = of(r#"{"by":{"x/y":1}}"#, r#"{"by":{"x/y":2}}"#);
        assert_eq!(said.as_deref(), Some("/by/x~1y 1 -> 2"));
        let said = of(r#"{"a":1}"#, r#"{"a":1,"n":[1]}"#);
        assert_eq!(said.as_deref(), Some("/n nothing -> [1]"));
        assert_eq!(of("5", "6").as_deref(), Some("/ 5 -> 6"));
        assert_eq!(difference(None, Some("null")), None);
    }
}
