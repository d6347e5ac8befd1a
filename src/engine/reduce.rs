//! Reduce handlers: (state, event) → state.
//!
//! Defines how events are folded and what a fold may cost. Promises: the result depends only on the
//! state and the events, not on how the events are divided into tasks; every state is JSON of at most
//! [`STATE_MAX`] bytes; no reducer can crash the daemon or block a thread for others. Reading events
//! and storing states is left to the calling turn.
//!
//! - `fold.rs`: the threads; `queue.rs`: order of the turns; `budget.rs`: time limit of a turn
//! - `task.rs`: folds one task, on a thread or in a process
//! - `sieve.rs`: the events that a handler takes, and what a fold of those has come to among all
//! - `process.rs`, `wire.rs`: the processes in which scripts fold, and the hard deadline
//! - `builtin.rs`: `latest`, `append:N`, `count`
//! - `document.rs`: `merge` and `patch`, over `tree.rs`, which keeps untouched parts byte for byte
//! - `script.rs`, `realm.js`: JavaScript, its realm and its limits

use std::sync::Arc;
use std::time::Duration;

use crate::domain::cursor::{Applied, Chain, DeadLetter};
use crate::domain::event::Event;
use crate::domain::filter::Filter;
use crate::domain::hook::{HandlerId, OnError, Reducer};
use crate::text;

mod budget;
mod builtin;
mod document;
mod fold;
mod process;
mod queue;
mod script;
mod sieve;
mod task;
#[cfg(test)]
mod tests;
mod tree;
mod wire;

pub use budget::{Budget, SharedShares, Until};
pub use fold::{Folds, Pool};
pub use process::{ARGUMENT, check, serve};

/// Largest state, in bytes of JSON.
pub const STATE_MAX: usize = 256 * 1024;

/// Time limit of one event.
const TIME_MAX: Duration = Duration::from_millis(50);

/// Length limit of a failure's message, in characters.
const MESSAGE_MAX: usize = 500;

/// The events of one cursor to fold in a turn.
#[derive(Clone, Debug)]
pub struct Task {
    /// The handler whose time it costs.
    pub handler: HandlerId,
    /// The reducer.
    pub reducer: Reducer,
    /// The state so far; `None` before the first event.
    pub state: Option<String>,
    /// The chain so far.
    pub chain: Chain,
    /// Failure policy for events that can never be folded.
    pub on_error: OnError,
    /// Filter of the events that it takes; the others are passed without folding.
    pub only: Filter,
    /// The events after its position, in order.
    pub events: Vec<Arc<Event>>,
}

/// Result of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    /// Number of events folded or skipped, from the front.
    pub passed: usize,
    /// State after them.
    pub state: Option<String>,
    /// Chain after them.
    pub chain: Chain,
    /// Skipped events among them, in order.
    pub skipped: Vec<DeadLetter>,
    /// Number of events passed without folding.
    pub untaken: usize,
    /// Reason why the next event was not folded; `None` when all were, or the time of the turn was used
    /// up.
    pub failure: Option<Failure>,
    /// Time spent.
    pub took: Duration,
}

/// Result of folding the events of a task.
#[derive(Clone, Debug, Default, PartialEq)]
struct Outcome {
    passed: usize,
    skipped: Vec<DeadLetter>,
    state: Option<String>,
    failure: Option<Failure>,
    took: Duration,
    /// Time of events that took longer than [`SHORT`](crate::engine::share::SHORT).
    over: Duration,
}

/// Reason why an event was not folded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The reducer refused it and always will: hold at once.
    #[error("{0}")]
    Rejected(String),
    /// It took too long, which may be due to load: try again later.
    #[error("{0}")]
    OutOfTime(String),
    /// It needed too much memory, which may be due to others: try again later.
    #[error("{0}")]
    OutOfMemory(String),
    /// It did not end, and its process was killed. Hold at once, without another try.
    #[error("{0}")]
    Stuck(String),
    /// It does not match its checksum. Hold at once; it is never skipped by policy, because its content
    /// is unknown.
    #[error("hash mismatch: the event is not as it was stored; restore a backup, or skip it")]
    Damaged,
}

impl Failure {
    /// True if the event was aborted for its time, during which others had to wait.
    pub fn is_out_of_time(&self) -> bool {
        matches!(self, Self::OutOfTime(_) | Self::Stuck(_))
    }
}

impl Folded {
    /// The result of a task; computes the chain from the outcome of each event.
    fn of(task: &Task, outcome: Outcome) -> Self {
        let mut skipped = outcome.skipped.iter().peekable();
        let mut chain = task.chain.clone();
        for event in &task.events[..outcome.passed] {
            let applied = match skipped.next_if(|letter| letter.seq == event.seq) {
                Some(_) => Applied::Skipped,
                None => Applied::Folded,
            };
            chain = chain.next(event.id, applied);
        }
        Self {
            passed: outcome.passed,
            state: outcome.state,
            chain,
            skipped: outcome.skipped,
            untaken: 0,
            failure: outcome.failure,
            took: outcome.took,
        }
    }
}

impl Outcome {
    /// An outcome with nothing folded.
    fn nothing(task: &Task) -> Self {
        Self {
            state: task.state.clone(),
            ..Self::default()
        }
    }

    /// Adds the outcome of the following events.
    fn add(&mut self, next: Self) {
        self.passed += next.passed;
        self.skipped.extend(next.skipped);
        self.state = next.state;
        self.failure = next.failure;
        self.took += next.took;
        self.over += next.over;
    }
}

/// A reducer working on one stream's state.
trait Reduce {
    /// Folds one event into the state. After an error the state is unchanged.
    fn reduce(&mut self, event: &Event) -> Result<(), Failure>;

    /// The state as JSON; `None` before the first event.
    fn state(&self) -> Option<String>;
}

/// A reducer that cannot start, because the state is not one of its own.
struct BrokenReducer {
    why: Failure,
    state: Option<String>,
}

impl Reduce for BrokenReducer {
    fn reduce(&mut self, _: &Event) -> Result<(), Failure> {
        Err(self.why.clone())
    }

    fn state(&self) -> Option<String> {
        self.state.clone()
    }
}

fn check_size(len: usize) -> Result<(), Failure> {
    if len <= STATE_MAX {
        return Ok(());
    }
    Err(Failure::Rejected(format!(
        "the state would have {len} bytes; {STATE_MAX} is the limit"
    )))
}

/// `text` on one line in printable form (`text.rs`), cut after [`MESSAGE_MAX`] characters.
fn printable(text: &str) -> String {
    let cut = text.char_indices().nth(MESSAGE_MAX).map(|(at, _)| at);
    let shown = text::printable_line(&text[..cut.unwrap_or(text.len())]);
    format!("{shown}{}", if cut.is_some() { "…" } else { "" })
}
