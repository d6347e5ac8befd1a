//! The reduce handlers: (state, event) → state.
//!
//! Owns how events are folded and what a fold may cost. Promises that a fold depends on nothing but
//! the state and the events it is given, and not on how the events were divided into tasks; that
//! every state is JSON of [`STATE_MAX`] bytes at most; and that no reducer, whatever it does, takes
//! the daemon down or keeps a thread from the others. Leaves reading events and storing states to
//! the turn that calls it.
//!
//! - `fold.rs`: the threads; `queue.rs`: whose turn is next; `budget.rs`: the time of a turn
//! - `task.rs`: folds one task, on a thread or in a process
//! - `sieve.rs`: the events that a handler takes, and what a fold of those has come to among all
//! - `process.rs`, `wire.rs`: the processes in which scripts fold, and the hard deadline
//! - `builtin.rs`: `latest`, `append:N`, `count`
//! - `document.rs`: `merge` and `patch`, over `tree.rs`, which keeps what is not touched to the byte
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

/// The largest state, in bytes of JSON.
pub const STATE_MAX: usize = 256 * 1024;

/// How long one event may take.
const TIME_MAX: Duration = Duration::from_millis(50);

/// The longest message about a failure, in characters.
const MESSAGE_MAX: usize = 500;

/// One cursor's share of a turn.
#[derive(Clone, Debug)]
pub struct Task {
    /// Whose time it takes.
    pub handler: HandlerId,
    /// How its events become its state.
    pub reducer: Reducer,
    /// The state so far; none before the first event.
    pub state: Option<String>,
    /// The chain so far.
    pub chain: Chain,
    /// What an event that can never be folded leads to.
    pub on_error: OnError,
    /// Which events it takes; the others are passed without a reducer.
    pub only: Filter,
    /// The events after its position, in order.
    pub events: Vec<Arc<Event>>,
}

/// How far a task came.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    /// Events folded or skipped, from the front.
    pub passed: usize,
    /// The state after them.
    pub state: Option<String>,
    /// The chain after them.
    pub chain: Chain,
    /// Those of them that were skipped, in order.
    pub skipped: Vec<DeadLetter>,
    /// Number of them that were passed without a reducer.
    pub untaken: usize,
    /// Why the next event was not folded; none when all were, or when the budget had been spent.
    pub failure: Option<Failure>,
    /// How long it took.
    pub took: Duration,
}

/// What folding made of the events of a task.
#[derive(Clone, Debug, Default, PartialEq)]
struct Outcome {
    passed: usize,
    skipped: Vec<DeadLetter>,
    state: Option<String>,
    failure: Option<Failure>,
    took: Duration,
    /// The time of events that took longer than [`SHORT`].
    over: Duration,
}

/// Why an event was not folded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The reducer refused it, and always will: hold at once.
    #[error("{0}")]
    Rejected(String),
    /// It took too long, which may be due to load: try again later.
    #[error("{0}")]
    OutOfTime(String),
    /// It needed too much memory, which may be due to what others need: try again later.
    #[error("{0}")]
    OutOfMemory(String),
    /// It did not end, and its process was ended for it. Hold at once, do not try again.
    #[error("{0}")]
    Stuck(String),
    /// It is not what was stored. Hold at once: no policy skips it, since nobody knows what it said.
    #[error("hash mismatch: the event is not as it was stored; restore a backup, or skip it")]
    Damaged,
}

impl Failure {
    /// True if the event had to be ended for its time, which others had to do without.
    pub fn is_out_of_time(&self) -> bool {
        matches!(self, Self::OutOfTime(_) | Self::Stuck(_))
    }
}

impl Folded {
    /// What a task has come to; its chain goes by what became of each event.
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
    /// Nothing folded yet.
    fn nothing(task: &Task) -> Self {
        Self {
            state: task.state.clone(),
            ..Self::default()
        }
    }

    /// Adds what became of the events after these.
    fn add(&mut self, next: Self) {
        self.passed += next.passed;
        self.skipped.extend(next.skipped);
        self.state = next.state;
        self.failure = next.failure;
        self.took += next.took;
        self.over += next.over;
    }
}

/// A reducer at work on one stream's state.
trait Reduce {
    /// Folds one event into the state. After an error the state is what it was.
    fn reduce(&mut self, event: &Event) -> Result<(), Failure>;

    /// The state as JSON; none before the first event.
    fn state(&self) -> Option<String>;
}

/// A reducer that cannot begin, as the state is none of its own.
struct Unable {
    why: Failure,
    state: Option<String>,
}

impl Reduce for Unable {
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

/// `text` on one line as it may be shown (`text.rs`), cut after [`MESSAGE_MAX`] characters.
fn printable(text: &str) -> String {
    let cut = text.char_indices().nth(MESSAGE_MAX).map(|(at, _)| at);
    let shown = text::printable_line(&text[..cut.unwrap_or(text.len())]);
    format!("{shown}{}", if cut.is_some() { "…" } else { "" })
}
