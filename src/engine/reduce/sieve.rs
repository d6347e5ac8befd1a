//! Filters the events of a task. The reducer gets only events that the handler takes; the fold passes
//! the others in order.

use std::sync::Arc;

use super::{Folded, Outcome, Task};
use crate::domain::event::Event;
use crate::domain::version::Late;

/// True if the handler of a task takes all of its events.
pub(super) fn takes_all(task: &Task) -> bool {
    let is_skipped = |event: &Arc<Event>| event.late == Some(Late::Skip);
    task.only.takes_all() && !task.events.iter().any(is_skipped)
}

/// A task before its events were filtered.
pub(super) struct Sieved {
    task: Task,
    /// Indexes in `task.events` of the events to fold.
    taken: Vec<usize>,
}

impl Sieved {
    /// Removes from `task` the events that its handler does not take; `None` if it takes all.
    pub(super) fn of(task: &mut Task) -> Option<Self> {
        if takes_all(task) {
            return None;
        }
        let takes = |(_, event): &(usize, &Arc<Event>)| task.only.takes(event);
        let taken = task.events.iter().enumerate().filter(takes);
        let taken: Vec<_> = taken.map(|(at, _)| at).collect();
        let events = taken.iter().map(|at| task.events[*at].clone()).collect();
        let all = std::mem::replace(&mut task.events, events);
        let task = Task {
            events: all,
            ..task.clone()
        };
        Some(Self { task, taken })
    }

    /// Maps a fold of the taken events to all events of the task: it passes the events up to the next
    /// one that was not folded.
    pub(super) fn among_all(&self, folded: Folded) -> Folded {
        let all = self.task.events.len();
        let outcome = Outcome {
            passed: self.taken.get(folded.passed).copied().unwrap_or(all),
            skipped: folded.skipped,
            state: folded.state,
            failure: folded.failure,
            took: folded.took,
            ..Outcome::default()
        };
        let taken = self.taken.partition_point(|at| *at < outcome.passed);
        let untaken = outcome.passed - taken;
        Folded {
            untaken,
            ..Folded::of(&self.task, outcome)
        }
    }
}
