//! One cursor of a lane: its place in the machine, and the events that wait for it.

use crate::domain::time::Timestamp;
use crate::lanes::Backlog;

#[derive(Debug)]
pub struct Entry {
    pub at: At,
    pub oldest: Timestamp,
    pub newest: Timestamp,
    pub backlog: Backlog,
    /// Events that a running turn may be reading; they count as waiting until it reports how many it
    /// has done.
    pub taken: u64,
    /// Receive time of the oldest event hinted since the turn began.
    pub came: Option<Timestamp>,
    /// Start of the first of the turns that have folded nothing because events are gathered.
    pub gathers_since: Option<Timestamp>,
    /// True while it runs outside of turns, as a delivery.
    pub is_in_flight: bool,
}

impl Entry {
    pub(super) fn events(&self) -> u64 {
        self.backlog.events().saturating_add(self.taken)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum At {
    Ready,
    Running(Option<Again>),
    Parked(Parked),
}

/// A hint for a running cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    MoreEvents,
    Returned,
}

/// Reason why a cursor takes no turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parked {
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

impl At {
    pub(super) fn is_set_aside(&self) -> bool {
        matches!(self, Self::Parked(Parked::Waiting(_) | Parked::Held))
    }
}
