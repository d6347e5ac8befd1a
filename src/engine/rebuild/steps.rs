//! Commits the steps of parallel rebuilds together: for a small rebuild, commits would take longer than
//! all its folds.

use tokio::sync::{mpsc, oneshot};

use crate::domain::time::Timestamp;
use crate::store::{Error, RebuildStep, RebuildStepResult, Store};

/// Number of steps that may wait for a commit.
const WAITING_MAX: usize = 64;

type Asked = (RebuildStep, oneshot::Sender<RebuildStepResult>);

/// Sends steps, and returns when they are committed.
pub struct Steps(mpsc::Sender<Asked>);

/// A channel for steps to [`run`].
pub fn channel() -> (Steps, mpsc::Receiver<Asked>) {
    let (ask, asked) = mpsc::channel(WAITING_MAX);
    (Steps(ask), asked)
}

impl Steps {
    /// Commits a step, together with those of other rebuilds.
    ///
    /// # Errors
    /// [`Error::Closed`] when [`run`] has ended; its error gives the reason.
    pub async fn take(&self, step: RebuildStep) -> Result<RebuildStepResult, Error> {
        let (done, stepped) = oneshot::channel();
        let asked = self.0.send((step, done)).await;
        asked.map_err(|_| Error::Closed)?;
        stepped.await.map_err(|_| Error::Closed)
    }
}

/// Commits the steps that gathered during the last commit, until the channel is closed.
///
/// # Errors
/// Errors of the database. The rows of the rebuilds show which of the waiting steps are committed.
pub async fn run(store: &Store, mut asked: mpsc::Receiver<Asked>) -> Result<(), Error> {
    let mut together = Vec::new();
    while asked.recv_many(&mut together, WAITING_MAX).await > 0 {
        let (steps, done): (Vec<_>, Vec<_>) = together.drain(..).unzip();
        let stepped = store.advance_rebuilds(steps, Timestamp::now()).await?;
        for (done, stepped) in done.into_iter().zip(stepped) {
            // The rebuild may have been given up meanwhile.
            let _ = done.send(stepped);
        }
    }
    Ok(())
}
