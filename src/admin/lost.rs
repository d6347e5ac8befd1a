//! Events that were acknowledged and that a failover of the database has lost. They are shown to
//! everyone until an operator confirms them.

use super::{Admin, Error};
use crate::api;
use crate::domain::name::{OrderingKey, StreamName};
use crate::domain::time::Timestamp;

/// Number of lost events listed at most.
const SHOWN_MAX: i64 = 10_000;

impl Admin {
    /// Lost events that no operator has confirmed, by stream.
    pub async fn lost_events(&self) -> Result<Vec<api::LostEvent>, Error> {
        let hooks = self.store.hooks().await?;
        let shown = |lost: crate::store::LostEvent| {
            let hook = hooks.iter().find(|hook| hook.id == lost.hook);
            let name = |(hook, key): (&crate::domain::hook::Hook, String)| StreamName {
                hook: hook.name.clone(),
                key: OrderingKey::new(key.as_bytes()),
            };
            api::LostEvent {
                event: lost.id,
                hook: hook.map(|hook| hook.name.clone()),
                stream: hook.zip(lost.key).map(name),
                seq: lost.place.map(|(_, seq)| seq),
                node: lost.node,
                found_at: lost.found_at,
            }
        };
        let lost = self.store.lost_events(SHOWN_MAX).await?;
        Ok(lost.into_iter().map(shown).collect())
    }

    /// Confirms every lost event for the operator; returns their number.
    pub async fn confirm_lost(&self) -> Result<u64, Error> {
        let seen = self.store.confirm_lost(Timestamp::now()).await?;
        if self.engine.is_some() {
            self.observe().await?;
        }
        Ok(seen)
    }
}
