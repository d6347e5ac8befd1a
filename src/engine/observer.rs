//! The callback for every transaction: metrics, readiness, and fatal errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::domain::time::Timestamp;
use crate::metrics::{Metrics, Retried};
use crate::store::{self, Commit, Error};

/// Callback for every transaction: updates the metrics, and reports fatal errors to `failed`, which
/// ends the process.
pub fn observer(
    metrics: Arc<Metrics>,
    failed: watch::Sender<Option<String>>,
) -> Box<dyn Fn(Commit) + Send + Sync> {
    let was_failing = AtomicBool::new(false);
    Box::new(move |commit| {
        metrics.commits.inc();
        metrics.commit_seconds.observe(commit.took.as_secs_f64());
        metrics
            .pulse
            .committed(commit.took, commit.synced, Timestamp::now());
        if commit.events > 0 {
            metrics.commit_events.observe(commit.events as f64);
        }
        let failing = commit.error.is_some();
        if let Some(Error::Contended(clash, _)) = &commit.error {
            metrics.retried(match clash {
                store::Clash::Deadlock => Retried::Deadlock,
                store::Clash::Serialization => Retried::Serialization,
            });
        }
        note_outcome(&metrics, &commit);
        // Logged once at the beginning and once at the end of a failure, because a full disk refuses
        // thousands of transactions a second.
        match (was_failing.swap(failing, Ordering::Relaxed), commit.error) {
            (_, Some(error)) if error.is_fatal() => {
                failed.send_replace(error.last_words());
            }
            (false, Some(error)) => tracing::error!(%error, "transactions fail"),
            (true, None) => tracing::info!("transactions succeed again"),
            _ => {}
        }
    })
}

/// Records the outcome of a transaction for readiness and verdicts.
fn note_outcome(metrics: &Metrics, commit: &Commit) {
    let (pulse, now) = (&metrics.pulse, Timestamp::now());
    match &commit.error {
        Some(error @ Error::Space) => pulse.filled(error.told(), now),
        Some(error) => pulse.ended(Err(error.told()), now),
        // On a full disk small transactions may still succeed.
        None if pulse.is_full() && commit.events == 0 => {}
        None => pulse.ended(Ok(()), now),
    }
}
