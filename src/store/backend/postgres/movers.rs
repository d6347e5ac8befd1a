//! Queue of requests to move cursors, combined into the next call.

use parking_lot::Mutex;
use tokio::sync::{Mutex as FairMutex, oneshot};

use crate::store::Error;
use crate::store::backend::ops::{Advance, Step};

/// Requests that no call has taken yet. [`advance`](super::advance) fills and empties it.
#[derive(Default)]
pub struct MoveQueue {
    pub waiting: Mutex<Vec<MoveRequest>>,
    /// Held by the task whose call moves the cursors of all waiting requests.
    pub calling: FairMutex<()>,
}

/// Answers one request.
pub type Answer = oneshot::Sender<Result<Vec<Advance>, Error>>;

/// The steps of one caller, with the channel for its answer.
pub struct MoveRequest {
    pub steps: Vec<Step>,
    pub answer: Answer,
}
