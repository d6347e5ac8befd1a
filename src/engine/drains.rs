//! Drains of lanes and moves of hooks, which end once no turn of them runs any more.

use super::Engine;
use super::catalog::{self, Drain};
use crate::domain::lane::LaneId;
use crate::store::{self, Error};

impl Engine {
    /// Marks draining lanes that have reached their marks as drained, and begins a resize that waits
    /// for them. Any node may do this; the rows decide.
    pub(super) async fn watch_drains(&self) {
        let catalog = self.catalog.now();
        let mut modes = catalog.stops.lanes.values();
        if !modes.any(|lane| lane.mode.has_marks()) {
            return;
        }
        if let Err(error) = self.look_at_drains(&catalog).await {
            tracing::debug!(%error, "draining lanes are looked at again");
        }
    }

    /// Continues the moves of hooks. Any node may do this; the rows decide.
    pub(super) async fn watch_moves(&self) {
        let catalog = self.catalog.now();
        for moving in catalog.stops.moving() {
            if let Err(error) = self.end_move(moving).await {
                tracing::debug!(%error, "hooks that stand still are looked at again");
            }
        }
    }

    /// Ends the move of a hook to another namespace if no turn of it runs any more, on any node; true
    /// if this call ended it.
    pub async fn end_move(&self, moving: &store::NamespaceMove) -> Result<bool, Error> {
        if self.acted() < moving.since || !self.store.end_move(moving).await? {
            return Ok(false);
        }
        self.config_changed().await?;
        Ok(true)
    }

    async fn look_at_drains(&self, catalog: &catalog::Snapshot) -> Result<(), Error> {
        for set in catalog.lane_sets.values() {
            match catalog.stops.drain(set) {
                Drain::None => {}
                Drain::UnderWay(draining) => {
                    let left = self.store.left(set).await?;
                    let is_done = |lane: &LaneId| !left.contains_key(&lane.index);
                    let done: Vec<_> = draining.into_iter().filter(is_done).collect();
                    if !done.is_empty() {
                        self.store.lanes_drained(set, &done).await?;
                        self.config_changed().await?;
                    }
                }
                Drain::Done => {
                    let planned = self.store.resize_under_way(&set.namespace).await?;
                    if let Some(resize) = planned.filter(|resize| resize.is_planned)
                        && self.store.begin_planned(&resize.from, &resize.to).await?
                    {
                        self.config_changed().await?;
                    }
                }
            }
        }
        Ok(())
    }
}
