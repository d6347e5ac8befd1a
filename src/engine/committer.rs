//! Commits the events that gathered during the last commit, answers their senders, and hints. An idle
//! node commits one event at once, a busy one hundreds together.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Engine;
use super::intake::{self, Waiting};
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::hook::HookId;
use crate::domain::lane::{LaneId, Slot};
use crate::domain::time::Timestamp;
use crate::lanes::{Backlog, Hint, Recheck};
use crate::store::{Appended, Error, NewEvent};

/// Runs until the intake has stopped and every accepted event is answered. The store commits the
/// batches of a line in the order in which they were begun.
pub async fn run(engine: Arc<Engine>, line: usize) {
    let places = Arc::new(Semaphore::new(engine.store.committers().batches));
    let mut commits = JoinSet::new();
    while let Ok(place) = places.clone().acquire_owned().await {
        if !engine.intake.is_filled(line).await {
            break;
        }
        let taken = Arc::new(Mutex::new(Vec::new()));
        let batch = take(engine.clone(), line, taken.clone());
        let committed = engine.store.append(batch);
        let engine = engine.clone();
        commits.spawn(async move {
            finish(&engine, committed.await, std::mem::take(&mut *taken.lock()));
            drop(place);
        });
        while commits.try_join_next().is_some() {}
    }
    while commits.join_next().await.is_some() {}
}

/// Moves a batch from the intake into `taken`, when its transaction begins.
fn take(
    engine: Arc<Engine>,
    line: usize,
    taken: Arc<Mutex<Vec<Waiting>>>,
) -> impl FnOnce() -> Vec<NewEvent> + Send + 'static {
    move || {
        let batch = engine.intake.take_batch(line);
        let events = batch.iter().map(|waiting| waiting.event.clone()).collect();
        *taken.lock() = batch;
        events
    }
}

/// Answers and hints a committed batch. Answers are sent first; hints are sent without waiting.
fn finish(engine: &Engine, committed: Result<Vec<Appended>, Error>, batch: Vec<Waiting>) {
    let outcome = committed.map_err(Arc::new);
    let room = |waiting: &Waiting| (waiting.event.hook, intake::size(&waiting.event));
    let room: Vec<_> = batch.iter().map(room).collect();
    engine.intake.committed(&room);
    let mut hints = Vec::new();
    let mut is_held = false;
    for (at, waiting) in batch.into_iter().enumerate() {
        let appended = match &outcome {
            Ok(appended) => appended.get(at).copied().ok_or(Arc::new(Error::Closed)),
            Err(error) => Err(error.clone()),
        };
        if let Ok(Appended::New {
            stream, slot, late, ..
        }) = appended
        {
            hints.push((waiting.event.hook, waiting.event.received_at, stream, slot));
            late.into_iter()
                .for_each(|_| count_late(engine, waiting.event.hook));
        }
        is_held |= matches!(appended, Ok(Appended::HeldBack));
        // A sender that has disconnected loses its answer, not its event.
        let _ = waiting.answer.send(appended);
    }
    let hooks = hints.iter().map(|(hook, ..)| *hook);
    engine.metrics.pulse.accepted(hooks);
    hint(engine, &hints);
    engine.changes.stored.send_replace(());
    if is_held {
        engine.signals.held_back.notify_one();
    }
}

/// Counts a late event of a hook.
pub(super) fn count_late(engine: &Engine, hook: HookId) {
    if let Some(hook) = engine.catalog.peek().hooks_by_id.get(&hook) {
        engine.metrics.late(hook.name.as_str());
    }
}

/// Hints the cursors of every stream that got an event.
pub(super) fn hint(engine: &Engine, stored: &[(HookId, Timestamp, StreamId, Slot)]) {
    let catalog = engine.catalog.peek();
    let mut hints: HashMap<LaneId, Vec<Hint>> = HashMap::new();
    for (hook, received_at, stream, slot) in stored {
        let Some(hook) = catalog.hooks_by_id.get(hook) else {
            continue;
        };
        let Some(lanes) = catalog.lanes_of(hook) else {
            continue;
        };
        for handler in &hook.handlers {
            if handler.pull().is_some() {
                engine.deliveries.pulls.hint(CursorId {
                    stream: *stream,
                    handler: handler.id,
                });
                continue;
            }
            hints.entry(lanes.lane(*slot)).or_default().push(Hint {
                cursor: CursorId {
                    stream: *stream,
                    handler: handler.id,
                },
                oldest: *received_at,
                newest: *received_at,
                backlog: Backlog::More(1),
                recheck: Recheck::No,
            });
        }
    }
    for (lane, hints) in hints {
        engine.hint(lane, hints);
    }
}
