//! Folds one task, in the node or in a process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::builtin::{Append, Count, Latest};
use super::document::Document;
use super::script::{ByScript, Scripts};
use super::{BrokenReducer, Failure, Outcome, Reduce, Task, printable};
use crate::domain::cursor::DeadLetter;
use crate::domain::hook::{OnError, Reducer};
use crate::engine::share::SHORT;

/// Folds the events of a task in order, until `until`; `begin` is called before each event.
pub(super) fn fold_task(
    task: &Task,
    scripts: &mut Scripts,
    until: Option<Instant>,
    is_first: bool,
    mut begin: impl FnMut(usize),
) -> Outcome {
    fold_task_while(task, scripts, until, is_first, |event| {
        begin(event);
        false
    })
}

/// Like [`fold_task`]; `ends` is asked before each event whether to stop.
pub(super) fn fold_task_while(
    task: &Task,
    scripts: &mut Scripts,
    until: Option<Instant>,
    is_first: bool,
    mut ends: impl FnMut(usize) -> bool,
) -> Outcome {
    let mut outcome = Outcome::nothing(task);
    let mut reducer = begin(task, scripts);
    let mut clock = Clock::start();
    for (n, event) in task.events.iter().enumerate() {
        let is_tried = is_first && n == 0;
        if !is_tried && until.is_some_and(|until| Instant::now() >= until) || ends(n) {
            break;
        }
        let folded = caught(|| reducer.reduce(event));
        outcome.over += clock.over();
        match folded {
            Ok(Ok(())) => outcome.passed += 1,
            Ok(Err(Failure::Rejected(reason))) if task.on_error == OnError::Skip => {
                outcome.skipped.push(DeadLetter {
                    seq: event.seq,
                    reason,
                });
                outcome.passed += 1;
            }
            Ok(Err(failure)) | Err(failure) => {
                outcome.failure = Some(failure);
                break;
            }
        }
    }
    outcome.state = reducer.state();
    outcome.took = clock.began.elapsed();
    outcome
}

/// Measures the events of a task. A long event is measured in processor time, which does not depend on
/// the load.
struct Clock {
    began: Instant,
    last: Instant,
    /// Processor time at the last look, and time of short events since.
    used: Duration,
    short: Duration,
}

impl Clock {
    fn start() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            last: now,
            used: Self::used(),
            short: Duration::ZERO,
        }
    }

    fn used() -> Duration {
        let used = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(used).unwrap_or_default()
    }

    /// The time of the event that ends now, if it was longer than a short one.
    fn over(&mut self) -> Duration {
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.last, now);
        if took <= SHORT {
            self.short += took;
            return Duration::ZERO;
        }
        let used = Self::used();
        let before = std::mem::replace(&mut self.used, used) + std::mem::take(&mut self.short);
        let took = used.saturating_sub(before);
        if took > SHORT { took } else { Duration::ZERO }
    }
}

/// The task's reducer at the task's state.
fn begin<'a>(task: &'a Task, scripts: &'a mut Scripts) -> Box<dyn Reduce + 'a> {
    let state = task.state.clone();
    let begun: Result<Box<dyn Reduce>, Failure> = match &task.reducer {
        Reducer::Latest => Ok(Box::new(Latest { state })),
        Reducer::Count => Count::new(state.as_deref()).map(boxed),
        Reducer::Append(max) => Append::new(*max, state.as_deref()).map(boxed),
        Reducer::Merge => Document::merged(state).map(boxed),
        Reducer::Patch => Document::patched(state).map(boxed),
        Reducer::Script(source) => {
            scripts.prepare(source);
            return Box::new(ByScript {
                scripts,
                source,
                state,
            });
        }
    };
    begun.unwrap_or_else(|why| {
        let state = task.state.clone();
        Box::new(BrokenReducer { why, state })
    })
}

fn boxed<'a>(reducer: impl Reduce + 'a) -> Box<dyn Reduce + 'a> {
    Box::new(reducer)
}

/// A panic is a bug of ours; it must cost one stream, not the thread.
fn caught<T>(reduce: impl FnOnce() -> T) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(reduce)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let reason = format!("the reducer panicked: {}", text.unwrap_or("unknown"));
        Failure::Rejected(printable(&reason))
    })
}
