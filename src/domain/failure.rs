//! The failure policy of handlers that deliver: what follows a failed try.

use std::time::Duration;

use super::cursor::{Condition, Holder};
use super::hook::OnError;
use super::time::Timestamp;

/// A failed try of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Number of failed tries of the event, this one included.
    pub tries: u32,
    /// The error, for people.
    pub reason: String,
    /// Delay before the next try.
    pub wait: Duration,
}

/// Next step for an event after a failed try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The cursor is set aside, waiting or held.
    SetAside(Condition),
    /// The event goes to the dead letters, for this reason.
    Skip(String),
}

impl Failure {
    /// Decides what happens next. `attempts` is the number of tries; `None` tries without end.
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
            OnError::Hold => Next::SetAside(Condition::Held {
                reason,
                by: Holder::Failure,
            }),
            OnError::Skip => Next::Skip(reason),
        }
    }
}
