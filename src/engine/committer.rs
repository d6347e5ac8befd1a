//! Commits whatever gathered while the last commit ran, answers, and hints. An idle node commits one
//! event at once, a busy one hundreds together.

use std::collections::HashMap;
use std::sync::Arc;

use super::Engine;
use super::intake::{self, Waiting};
use crate::domain::cursor::CursorId;
use crate::domain::hook::HookId;
use crate::domain::lane::LaneId;
use crate::domain::time::Timestamp;
use crate::lanes::{Aside, Behind, Hint};
use crate::store::{Appended, Error, NewEvent};

/// Runs until the intake has stopped and everything it let in was answered.
pub async fn run(engine: Arc<Engine>) {
    while let Some(batch) = engine.intake.next_batch().await {
        commit(&engine, batch).await;
    }
}

async fn commit(engine: &Engine, batch: Vec<Waiting>) {
    let room: Vec<_> = batch
        .iter()
        .map(|waiting| (waiting.event.hook, intake::size(&waiting.event)))
        .collect();
    let (events, answers): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|w| (w.event, w.answer)).unzip();
    let received: Vec<_> = events.iter().map(|e| (e.hook, e.received_at)).collect();
    let outcomes = store(engine, events).await;
    engine.intake.committed(&room);
    // The answers leave first; the hints wait for nobody and nobody waits for them.
    let mut appended = Vec::with_capacity(outcomes.len());
    for (answer, outcome) in answers.into_iter().zip(outcomes) {
        appended.push(outcome.as_ref().ok().copied());
        // A sender that has gone away loses its answer, not its event.
        let _ = answer.send(outcome);
    }
    hint(engine, &received, &appended);
    engine.stored.send_replace(());
}

/// Stores a batch. When it is refused as a whole, its events are tried one by one with their ids, so
/// that a single bad one fails alone.
async fn store(engine: &Engine, events: Vec<NewEvent>) -> Vec<intake::Answer> {
    let retry = (events.len() > 1).then(|| events.clone());
    let count = events.len();
    let error = match engine.store.append(events).await {
        Ok(appended) => return appended.into_iter().map(Ok).collect(),
        Err(error) => Arc::new(error),
    };
    let (Error::Integrity(_), Some(events)) = (&*error, retry) else {
        return vec![Err(error); count];
    };
    let mut outcomes = Vec::with_capacity(count);
    for event in events {
        let alone = engine.store.append(vec![event]).await;
        outcomes.push(match alone {
            Ok(appended) => appended.first().copied().ok_or(error.clone()),
            Err(error) => Err(Arc::new(error)),
        });
    }
    outcomes
}

/// Hints the cursors of every stream that got an event. Sealed lanes are left to the sweep of the next
/// lane set.
fn hint(engine: &Engine, received: &[(HookId, Timestamp)], appended: &[Option<Appended>]) {
    let catalog = engine.catalog.peek();
    let mut hints: HashMap<LaneId, Vec<Hint>> = HashMap::new();
    for ((hook, received_at), appended) in received.iter().zip(appended) {
        let Some(Appended::New { stream, slot, .. }) = appended else {
            continue;
        };
        let Some(hook) = catalog.hooks_by_id.get(hook) else {
            continue;
        };
        let Some(lanes) = catalog.lanes_of(hook) else {
            continue;
        };
        for handler in &hook.handlers {
            hints.entry(lanes.lane(*slot)).or_default().push(Hint {
                cursor: CursorId {
                    stream: *stream,
                    handler: handler.id,
                },
                oldest: *received_at,
                behind: Behind::More(1),
                aside: Aside::Stay,
            });
        }
    }
    for (lane, hints) in hints {
        let _ = engine.lanes.hint(&lane, hints);
    }
}
