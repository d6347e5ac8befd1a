//! Forwards hints that arrived at a lane which is no longer the right one: its lane was sealed, Redis
//! no longer accepts its lane set, or its hook has moved.
//!
//! Hints may be dropped when there are very many; a sweep finds what they were about.

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

/// Number of hints that may wait.
const WAITING_MAX: usize = 100_000;

/// Hints to be forwarded.
#[derive(Default)]
pub struct Misplaced {
    hints: Mutex<Vec<Hint>>,
    look: Notify,
}

impl Misplaced {
    /// Tries again the hints whose lane was not open, for example after lanes have been opened.
    pub fn look_again(&self) {
        self.look.notify_one();
    }
}

impl Engine {
    /// Forwards hints to the right lanes soon.
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

/// Forwards hints as they arrive, until dropped.
pub async fn run(engine: Arc<Engine>) {
    loop {
        engine.misplaced.look.notified().await;
        place_now(&engine).await;
    }
}

/// Forwards the waiting hints now.
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
    // The sender of the hint may know a newer configuration. Without reading it, two nodes would send
    // the hint back and forth.
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
            // The lane will be opened soon, and this is then called again.
            false => engine.misplaced.hints.lock().extend(hints),
        }
    }
    Ok(())
}

/// The lanes that hints belong to. Hints about deleted streams or handlers are dropped.
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
