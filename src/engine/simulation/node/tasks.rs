//! Steps of the tasks of a node that are left to do.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::domain::cursor::CursorId;
use crate::domain::hook::Handler;
use crate::domain::lane::LaneId;
use crate::domain::name::Name;
use crate::engine::rebuild::work::Work;
use crate::engine::simulation::database::Rebuild;
use crate::store::CursorBacklog as Found;

/// A part of a step of [`Look`] that is left to do.
pub enum Part {
    /// Waits for lanes to stop, and sends their hints to the next owners.
    Sent(u64),
    /// Waits for lanes to stop, and seals them.
    Seal(u64, Vec<(LaneId, i64)>),
    /// Waits for lanes to stop, and frees them.
    Free(u64, Vec<(LaneId, i64)>),
    Claim(LaneId, i64),
    Hint(Vec<Found>),
}

/// A step of acting by a configuration.
pub enum Act {
    Stop,
    Seal(u64),
    CloseSets,
    Open(BTreeSet<LaneId>),
    Turns,
    Wait(Vec<u64>),
}

/// A step of a rebuild.
pub enum Refold {
    /// Checks the reducer.
    Claimed(Rebuild),
    Begin(Rebuild, Arc<Handler>),
    Fold(Rebuild, Arc<Handler>, Box<Work>),
    ReadAgain(Rebuild, Arc<Handler>, Box<Work>),
    End(Rebuild),
}

/// A step of leaving.
pub enum Leave {
    Row,
    Close,
    Free(u64, Vec<(LaneId, i64)>),
    /// No more events are accepted; accepted ones are stored, hinted and passed on.
    Finish,
    Stopped(u64),
    Go,
}

/// A step of sending hints to another node.
pub enum Send {
    Push(LaneId, Vec<CursorId>, bool),
    Raise(Name),
}
