//! The lanes that wait to move cursors, gathered for the next call.

use parking_lot::Mutex;
use tokio::sync::{Mutex as FairMutex, oneshot};

use crate::store::Error;
use crate::store::backend::ops::{Advance, Step};

/// What lanes have asked for and no call has taken yet. [`advance`](super::advance) fills and empties it.
#[derive(Default)]
pub struct Movers {
    pub waiting: Mutex<Vec<Asked>>,
    /// Held by the caller whose call moves what all have asked for.
    pub calling: FairMutex<()>,
}

/// Answers one caller.
pub type Answer = oneshot::Sender<Result<Vec<Advance>, Error>>;

/// The cursors that one caller wants moved.
pub struct Asked {
    pub steps: Vec<Step>,
    pub answer: Answer,
}
