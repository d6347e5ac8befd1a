//! Steps of rebuilds that run side by side, committed together: for a small one the commits would take longer
//! than all its folds.

use tokio::sync::{mpsc, oneshot};

use crate::domain::time::Timestamp;
use crate::store::{Error, RebuildStep, RebuildStepResult, Store};

/// Steps that wait for a commit.
const WAITING_MAX: usize = 64;

type Asked = (RebuildStep, oneshot::Sender<RebuildStepResult>);

/// Takes steps, and returns when they are committed.
pub struct Steps(mpsc::Sender<Asked>);

/// Steps on their way to [`run`].
pub fn channel() -> (Steps, mpsc::Receiver<Asked>) {
    let (ask, asked) = mpsc::channel(WAITING_MAX);
    (Steps(ask), asked)
}

impl Steps {
    /// Commits a step, with what others take meanwhile.
    ///
    /// # Errors
    /// [`Error::Closed`] when nobody commits any more; [`run`] says why.
    pub async fn take(&self, step: RebuildStep) -> Result<RebuildStepResult, Error> {
        let (done, stepped) = oneshot::channel();
        let asked = self.0.send((step, done)).await;
        asked.map_err(|_| Error::Closed)?;
        stepped.await.map_err(|_| Error::Closed)
    }
}

/// Commits what gathered during the last commit, for as long as steps may come.
///
/// # Errors
/// Those of the database. Which of the steps that wait are committed is in the rows of their rebuilds.
pub async fn run(store: &Store, mut asked: mpsc::Receiver<Asked>) -> Result<(), Error> {
    let mut together = Vec::new();
    while asked.recv_many(&mut together, WAITING_MAX).await > 0 {
        let (steps, done): (Vec<_>, Vec<_>) = together.drain(..).unzip();
        let stepped = store.advance_rebuilds(steps, Timestamp::now()).await?;
        for (done, stepped) in done.into_iter().zip(stepped) {
            // Nobody waits any more for a step of a rebuild that was given up.
            let _ = done.send(stepped);
        }
    }
    Ok(())
}
