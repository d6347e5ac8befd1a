//! The failure policy of handlers that deliver: how a failed try ends for its event.

use std::time::Duration;

use super::cursor::Condition;
use super::hook::OnError;
use super::time::Timestamp;

/// A delivery that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Tries of the event so far, with this one.
    pub tries: u32,
    /// The cause, for people.
    pub reason: String,
    /// How long to wait before the next try.
    pub wait: Duration,
}

/// How it goes on with the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Its cursor is set aside.
    SetAside(Condition),
    /// It goes to the dead letters, for this reason.
    Skip(String),
}

impl Failure {
    /// The decision of a policy with so many attempts; `None` tries for ever.
    pub fn next(self, attempts: Option<u32>, on_error: OnError, now: Timestamp) -> Next {
        let Self {
            tries,
            reason,
            wait,
        } = self;
        if attempts.is_none_or(|attempts| tries < attempts) {
            return Next::SetAside(Condition::Waiting {
                retry_at: now.after(wait),
                tries,
                reason,
            });
        }
        let word = if tries == 1 { "try" } else { "tries" };
        let reason = format!("{reason}, {tries} {word}");
        match on_error {
            OnError::Hold => Next::SetAside(Condition::Held { reason }),
            OnError::Skip => Next::Skip(reason),
        }
    }
}
