//! The lanes that wait to move cursors, gathered for the next call.

use parking_lot::Mutex;
use tokio::sync::{Mutex as FairMutex, oneshot};

use crate::store::Error;
use crate::store::backend::ops::{Advance, Step};

/// Those who wait to move cursors.
#[derive(Default)]
pub struct Movers {
    pub waiting: Mutex<Vec<Asked>>,
    /// Held by the one whose call moves what all have asked for.
    pub calling: FairMutex<()>,
}

/// To one who waits.
pub type Answer = oneshot::Sender<Result<Vec<Advance>, Error>>;

pub struct Asked {
    pub steps: Vec<Step>,
    pub answer: Answer,
}
