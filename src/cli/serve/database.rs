//! Opening the database, which may itself be starting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;

use crate::cli::{Exit, Trouble};
use crate::metrics::Metrics;
use crate::store::{Database, Store};
use crate::{engine, store, text};

/// Time for which the start waits for a database that does not answer, which may itself be starting.
const SERVER_WAIT: Duration = Duration::from_secs(10);

/// Interval between two attempts.
const TRY_EVERY: Duration = Duration::from_secs(2);

pub async fn open(
    database: &Database,
    metrics: &Arc<Metrics>,
    failed: &watch::Sender<Option<String>>,
) -> anyhow::Result<Store> {
    let began = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        let observer = engine::observer(metrics.clone(), failed.clone());
        let error = match Store::open(database, observer).await {
            Ok(store) => return Ok(store),
            Err(store::Error::Away(error)) => error,
            Err(error) => return Err(error).with_context(|| format!("cannot open {database}")),
        };
        let waited = began.elapsed();
        if waited >= SERVER_WAIT {
            let waited = crate::text::duration(waited);
            let message = format!("{error} {tries} tries in {waited}");
            let trouble = Trouble::new(Exit::Unreachable, "database_away", message)
                .fact("now", "nothing listens: senders are refused and will retry")
                .fact(
                    "check",
                    format!("hooklane doctor --database {}", text::quoted(database)),
                );
            return Err(trouble.into());
        }
        tracing::warn!(%error, tries, "the database does not answer yet");
        tokio::time::sleep(TRY_EVERY).await;
    }
}
