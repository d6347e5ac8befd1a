//! Acting by the configuration: it is read when it changes, and no turn goes by an older one.

use std::sync::Arc;
use std::time::Duration;

use super::{Engine, catalog};
use crate::domain::hook::HandlerId;
use crate::store::Error;

/// Interval at which the configuration version is read. Short enough that the configuration is never
/// too old to judge keys by.
const CATALOG_EVERY: Duration = Duration::from_millis(500);

/// Interval at which acting by a configuration is tried again after a failure.
const ACT_EVERY: Duration = Duration::from_secs(1);

/// Pause after a failed read of the configuration.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

impl Engine {
    /// Reads the configuration at once, after this node has changed it, and starts to act by it.
    ///
    /// # Errors
    /// Errors of the database; the change takes effect within a second anyway.
    pub async fn config_changed(&self) -> Result<(), Error> {
        self.catalog.refresh().await?;
        self.catalog_changed();
        Ok(())
    }

    /// Reports that the configuration was read again.
    pub(super) fn catalog_changed(&self) {
        self.signals.changed.notify_one();
    }

    /// The configuration version by which every lane here acts: no turn goes by an older one.
    pub fn acted(&self) -> i64 {
        *self.changes.acting.borrow()
    }

    /// Waits until every lane here acts by this version of the configuration, or a later one.
    pub async fn acts_by(&self, version: i64) {
        let mut acting = self.changes.acting.subscribe();
        let _ = acting.wait_for(|acted| *acted >= version).await;
    }

    /// Reads the configuration when it has changed. This is a task of its own, because acting by a
    /// configuration may wait for long turns.
    pub(super) async fn keep_catalog_current(self: Arc<Self>) {
        let mut fails = false;
        loop {
            self.catalog.wanted(CATALOG_EVERY).await;
            match self.catalog.refresh().await {
                Ok(has_changed) => {
                    if std::mem::take(&mut fails) {
                        tracing::info!("the configuration is read again");
                    }
                    if has_changed {
                        self.catalog_changed();
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!(%error, "the configuration cannot be read: requests with keys are answered 503 soon");
                    }
                    self.fail_if_fatal(&error);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Acts by the configuration whenever it changes; `before` is the one in force at the start.
    pub(super) async fn follow_catalog(self: Arc<Self>, mut before: Arc<catalog::Snapshot>) {
        loop {
            let _ = tokio::time::timeout(ACT_EVERY, self.signals.changed.notified()).await;
            let now = self.catalog.now();
            if self.acted() == now.version {
                continue;
            }
            match self.act(&before, &now).await {
                Ok(()) => before = now,
                Err(error) => tracing::warn!(%error, "the configuration is acted on later"),
            }
        }
    }

    /// Acts by a configuration: runs its lanes. Returns when no turn goes by an older one.
    pub(super) async fn act(
        self: &Arc<Self>,
        before: &catalog::Snapshot,
        now: &catalog::Snapshot,
    ) -> Result<(), Error> {
        match self.member {
            Some(_) => self.look_at_lanes(),
            None => self.run_every_lane().await?,
        }
        let workers: Vec<_> = {
            let running = self.running_lanes.running.read();
            running.values().map(|lane| lane.worker.clone()).collect()
        };
        let stopping = self.running_lanes.stopping.read().clone();
        for worker in workers.iter().chain(&stopping) {
            worker.turns_end().await;
        }
        self.deliveries.pulls.claims_end().await;
        self.deliveries.pulls.forget_all_but(&now.handlers);
        // No turn is under way that could cache a part of these streams again.
        self.store.forget(&now.erased);
        if now.stops != before.stops {
            // Everything that an operator has stopped stands still once this node acts by it, deliveries
            // included.
            self.deliveries
                .forwards
                .flights
                .ended_before(now.version)
                .await;
        }
        self.deliveries.forwards.forget_all_but(&now.handlers);
        self.deliveries
            .tallies
            .retain(|id| now.handlers.contains_key(id));
        let lets_go = now.lets_go(before);
        for worker in &workers {
            if lets_go {
                self.place_later(worker.give_up_strangers(now));
            }
            // A configuration between these two may have stopped something for a while, and turns may
            // have gone by it.
            worker.let_kept_go();
        }
        let had = |handler: &HandlerId| before.handlers.contains_key(handler);
        if lets_go || !now.handlers.keys().all(had) {
            self.sweep_soon();
        }
        if now.keeps_otherwise(before) {
            self.prune_soon();
        }
        self.changes.acting.send_replace(now.version);
        if self.member.is_some() {
            self.look_at_lanes();
        }
        Ok(())
    }
}
