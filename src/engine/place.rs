//! Brings hints that came to a lane which is not the right one any more to the one that is: of a lane
//! that was sealed, of a lane set that Redis no longer takes, of a hook that has moved.
//!
//! It may lose hints when there are very many; a sweep finds what they were about.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Engine;
use super::catalog::Snapshot;
use crate::domain::event::StreamId;
use crate::domain::lane::{LaneId, Slot};
use crate::lanes::Hint;
use crate::store::Error;

/// Hints that may wait to be placed.
const WAITING_MAX: usize = 100_000;

/// Hints to be placed.
#[derive(Default)]
pub struct Misplaced {
    hints: Mutex<Vec<Hint>>,
    look: Notify,
}

impl Misplaced {
    /// Tries those again whose lane was not open, as when lanes have been opened.
    pub fn look_again(&self) {
        self.look.notify_one();
    }
}

impl Engine {
    /// Hints cursors in the lanes that are theirs now, as soon as these are found.
    pub(super) fn place_later(&self, hints: impl IntoIterator<Item = Hint>) {
        let mut waiting = self.misplaced.hints.lock();
        let were = waiting.len();
        waiting.extend(hints);
        if waiting.len() == were {
            return;
        }
        if waiting.len() > WAITING_MAX {
            waiting.truncate(WAITING_MAX);
            self.sweep_soon();
        }
        drop(waiting);
        self.misplaced.look.notify_one();
    }
}

/// Places hints as they come, for ever.
pub async fn run(engine: Arc<Engine>) {
    loop {
        engine.misplaced.look.notified().await;
        place_now(&engine).await;
    }
}

/// Places what waits for it.
pub async fn place_now(engine: &Engine) {
    let hints = std::mem::take(&mut *engine.misplaced.hints.lock());
    if let Err(error) = place(engine, hints).await {
        tracing::debug!(%error, "hints are left to a sweep");
        engine.sweep_soon();
    }
}

async fn place(engine: &Engine, hints: Vec<Hint>) -> Result<(), Error> {
    if hints.is_empty() {
        return Ok(());
    }
    // Whoever said it here may know a newer configuration: without it two nodes would send the hint to and fro.
    if engine.catalog.refresh().await? {
        engine.catalog_changed();
    }
    let mut streams: Vec<_> = hints.iter().map(|hint| hint.cursor.stream).collect();
    streams.sort_unstable();
    streams.dedup();
    let slots = engine.store.slots(&streams).await?;
    for (lane, hints) in placed(&engine.catalog.now(), &slots, hints) {
        let Err(hints) = engine.lanes.hint(&lane, hints) else {
            continue;
        };
        match engine.relay.is_shared() {
            true => {
                let cursors = hints.into_iter().map(|hint| hint.cursor).collect();
                engine.relay.send(lane, cursors);
            }
            // Opened in a moment, and then asked for again.
            false => engine.misplaced.hints.lock().extend(hints),
        }
    }
    Ok(())
}

/// Where hints belong. Those about streams or handlers that are gone belong nowhere.
pub fn placed(
    catalog: &Snapshot,
    slots: &HashMap<StreamId, Slot>,
    hints: Vec<Hint>,
) -> BTreeMap<LaneId, Vec<Hint>> {
    let mut placed: BTreeMap<LaneId, Vec<Hint>> = BTreeMap::new();
    for hint in hints {
        let hook = catalog.hook_of(hint.cursor.handler);
        let lanes = hook.and_then(|hook| catalog.lanes_of(hook));
        let slot = slots.get(&hint.cursor.stream);
        if let (Some(lanes), Some(slot)) = (lanes, slot) {
            placed.entry(lanes.lane(*slot)).or_default().push(hint);
        }
    }
    placed
}
