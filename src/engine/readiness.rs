//! Readiness: can this node commit now? A recent transaction answers that; otherwise one is tried.
//!
//! A failure counts until a transaction succeeds. So that this need not wait for the next event, one is
//! tried every second during a failure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use super::Engine;
use crate::domain::time::Timestamp;
use crate::store::Error;

/// Age up to which a successful transaction proves readiness.
const FRESH: Duration = Duration::from_secs(5);

/// Minimum interval between two trials.
const EVERY: Duration = Duration::from_secs(1);

/// Time limit of a trial, after which the answer is no.
const PATIENCE: Duration = Duration::from_secs(2);

/// The last trial, running or ended. Only one runs at a time, so that a stuck database gets no queue of
/// them.
#[derive(Default)]
pub(super) struct Readiness(Mutex<Option<(Instant, Trial)>>);

type Trial = Shared<BoxFuture<'static, Result<(), String>>>;

impl Engine {
    /// Checks that an event could be stored now.
    ///
    /// # Errors
    /// The reason why not, in words.
    pub async fn can_commit(self: &Arc<Self>) -> Result<(), String> {
        if let Some(reason) = &*self.changes.failed.borrow() {
            return Err(reason.clone());
        }
        if let Some((true, age)) = self.metrics.pulse.last(Timestamp::now())
            && age < FRESH
        {
            return Ok(());
        }
        let trial = self.trial();
        match tokio::time::timeout(PATIENCE, trial).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let why = "a commit takes longer than 2s: does another process hold a lock?";
                let outcome = Err(why.to_owned());
                self.metrics.pulse.ended(outcome.clone(), Timestamp::now());
                outcome
            }
        }
    }

    async fn try_commit(&self) -> Result<(), Error> {
        let was_full = self.metrics.pulse.is_full();
        self.store.try_commit().await?;
        match was_full {
            true => self.store.has_room().await,
            false => Ok(()),
        }
    }

    /// The running trial, or one that has just ended, or a new one.
    fn trial(self: &Arc<Self>) -> Trial {
        let mut last = self.readiness.0.lock();
        let is_new =
            |(began, trial): &(Instant, Trial)| trial.peek().is_none() || began.elapsed() < EVERY;
        if let Some((_, trial)) = last.as_ref().filter(|last| is_new(last)) {
            return trial.clone();
        }
        let engine = self.clone();
        // A task of its own, so that the transaction is not cancelled when the caller stops waiting.
        let task = tokio::spawn(async move {
            let outcome = engine.try_commit().await;
            let (pulse, now) = (&engine.metrics.pulse, Timestamp::now());
            match &outcome {
                Err(error @ Error::Space) => pulse.filled(error.told(), now),
                Err(error) => pulse.ended(Err(error.to_string()), now),
                Ok(()) => pulse.ended(Ok(()), now),
            }
            outcome.map_err(|error| error.to_string())
        });
        let trial = task
            .map(|ended| ended.unwrap_or_else(|error| Err(error.to_string())))
            .boxed()
            .shared();
        *last = Some((Instant::now(), trial.clone()));
        trial
    }
}

/// Tries a transaction every second during a failure.
pub(super) async fn run(engine: Arc<Engine>) {
    let mut clock = tokio::time::interval(EVERY);
    loop {
        clock.tick().await;
        if engine.metrics.pulse.failing().is_some() {
            let _ = engine.trial().await;
        }
    }
}
