//! Finishes erasures: removes the data of streams that operators have erased, and overwrites it in the files of the
//! database. A node finishes its own erasures and those of nodes that are gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Engine;
use crate::domain::time::Timestamp;
use crate::store::{Error, Overwritten};

/// Interval of the search for erasures of nodes that are gone.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Interval between two tries while somebody still reads the deleted rows, or after an error.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// Age of an erasure at which no statement that began before it is under way. One could still make a cursor of the stream.
const SETTLED: Duration = Duration::from_secs(1);

/// Finishes erasures for as long as the node runs.
pub(super) async fn run(engine: Arc<Engine>) {
    let mut pause = TRY_EVERY;
    loop {
        let _ = timeout(pause, engine.signals.erasures.notified()).await;
        pause = match finish_all(&engine).await {
            Ok(true) => LOOK_EVERY,
            Ok(false) => TRY_EVERY,
            Err(error) if engine.fail_if_fatal(&error) => return,
            Err(error) => {
                tracing::warn!(%error, "the data of erased streams is removed later");
                TRY_EVERY
            }
        };
    }
}

/// True if no erasure is left to this node.
async fn finish_all(engine: &Engine) -> Result<bool, Error> {
    let me = engine.member.as_ref().map(|member| member.id());
    let me = me.unwrap_or_default();
    let store = &engine.store;
    let erasures = store.erasures_for(&me, Timestamp::now()).await?;
    let Some(youngest) = erasures.iter().map(|erasure| erasure.asked_at).max() else {
        return Ok(true);
    };
    let age = Timestamp::now().since(youngest);
    tokio::time::sleep(SETTLED.saturating_sub(age)).await;
    for stream in erasures.iter().filter_map(|erasure| erasure.stream) {
        store.remove_erased(stream).await?;
    }
    match store.overwrite_erased().await? {
        Overwritten::InUse => return Ok(false),
        Overwritten::Done => {}
        Overwritten::NotRewritten => tracing::warn!(
            "rows of erased streams are removed, but their bytes stay in the tables until their pages are used again: \
             run vacuum (full) at a quiet time"
        ),
    }
    store.end_erasures(&erasures).await?;
    tracing::info!(
        streams = erasures.len(),
        "the data of erased streams is removed"
    );
    Ok(true)
}

impl Engine {
    /// Requests a search for erasures to finish.
    pub fn finish_erasures_soon(&self) {
        self.signals.erasures.notify_one();
    }
}
