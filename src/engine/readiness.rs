//! Readiness: can this node commit now? The last transaction says so while it is fresh; else one is made.
//!
//! A failure is believed until a transaction succeeds. So that this does not take until the next event
//! comes, one is tried every second while they fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use super::Engine;
use crate::domain::time::Timestamp;

/// How long a transaction that succeeded speaks for the present.
const FRESH: Duration = Duration::from_secs(5);

/// The least time from one trial to the next.
const EVERY: Duration = Duration::from_secs(1);

/// How long a trial may take before the answer is no.
const PATIENCE: Duration = Duration::from_secs(2);

/// A trial that runs or has ended. One at a time: a database that is stuck gets no queue of them.
#[derive(Default)]
pub(super) struct Readiness(Mutex<Option<(Instant, Trial)>>);

type Trial = Shared<BoxFuture<'static, Result<(), String>>>;

impl Engine {
    /// Says whether an event would be stored now.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn can_commit(self: &Arc<Self>) -> Result<(), String> {
        if let Some(reason) = &*self.failed.borrow() {
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

    /// The trial that runs, or that has ended just now, or a new one.
    fn trial(self: &Arc<Self>) -> Trial {
        let mut last = self.readiness.0.lock();
        let is_new =
            |(began, trial): &(Instant, Trial)| trial.peek().is_none() || began.elapsed() < EVERY;
        if let Some((_, trial)) = last.as_ref().filter(|last| is_new(last)) {
            return trial.clone();
        }
        let engine = self.clone();
        // A task of its own: a transaction is never given up half-way because nobody waits any more.
        let task = tokio::spawn(async move {
            let outcome = engine.store.try_commit().await;
            let outcome = outcome.map_err(|error| error.to_string());
            engine
                .metrics
                .pulse
                .ended(outcome.clone(), Timestamp::now());
            outcome
        });
        let trial = task
            .map(|ended| ended.unwrap_or_else(|error| Err(error.to_string())))
            .boxed()
            .shared();
        *last = Some((Instant::now(), trial.clone()));
        trial
    }
}

/// Tries a transaction every second while they fail.
pub(super) async fn run(engine: Arc<Engine>) {
    let mut clock = tokio::time::interval(EVERY);
    loop {
        clock.tick().await;
        if engine.metrics.pulse.failing().is_some() {
            let _ = engine.trial().await;
        }
    }
}
