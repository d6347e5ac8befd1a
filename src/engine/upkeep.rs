//! Upkeep of stored rows: last uses of keys and secrets, rejected requests, and events of deleted hooks.

use std::time::Duration;

use super::Engine;
use crate::domain::time::{Timestamp, millis};

/// Time after which the events of a deleted hook are removed.
const PURGE_AFTER: Duration = Duration::from_secs(3600);

/// Number of streams removed by one transaction.
const PURGE_STREAMS: i64 = 100;

impl Engine {
    /// Stores the last uses of keys. After an error they stay for the next call.
    pub(super) async fn store_uses(&self) {
        if let Err(error) = self.catalog.store_uses().await {
            tracing::warn!(%error, "the last uses of keys were not stored");
        }
    }

    /// Stores the uses of verifying secrets. After an error they stay for the next call.
    pub(super) async fn store_secret_uses(&self) {
        if let Err(error) = self.senders.secret_uses.store(&self.store).await {
            tracing::warn!(%error, "the uses of secrets were not stored");
        }
    }

    /// Stores the rejections of this node. After an error they stay for the next call.
    pub(super) async fn store_rejections(&self) {
        if let Err(error) = self.senders.rejections.store(&self.store).await {
            tracing::warn!(%error, "rejected requests were not noted");
        }
    }

    /// Removes the events of hooks that were deleted a while ago.
    pub(super) async fn purge_deleted(&self) {
        let hour_ago = Timestamp::now().as_millis() - millis(PURGE_AFTER);
        let before = Timestamp::from_millis(hour_ago);
        loop {
            match self.store.purge(before, PURGE_STREAMS).await {
                Ok(0) => break,
                Ok(streams) => tracing::info!(streams, "streams of deleted hooks removed"),
                Err(error) => {
                    tracing::warn!(%error, "deleted hooks are removed later");
                    break;
                }
            }
        }
    }
}
