//! Reorder windows: gives held back events their seqs when their windows have ended.
//!
//! An event of a hook with a window is durable and acknowledged before it has a seq. It gets one here,
//! in the transaction that moves it into its stream, behind all lower versions that have come by then.
//! So everything behind the seq stays as it is for other hooks: positions, rebuilds and deliveries know
//! one order. On Postgres every node does this; the database lets one at a time release.

use std::sync::Arc;
use std::time::Duration;

use super::{Engine, committer};
use crate::domain::cursor::CursorId;
use crate::domain::time::Timestamp;
use crate::store::{Due, Error, Released};

/// Longest wait between two looks while an event is held back; another node may hold back more.
const LOOK_MAX: Duration = Duration::from_millis(500);

/// Shortest wait, so that a release by another node is not asked for without pause.
const LOOK_MIN: Duration = Duration::from_millis(10);

/// Wait while no event is held back and no hook has a window.
const REST: Duration = Duration::from_secs(5);

/// Releases events for as long as the node runs.
pub async fn run(engine: Arc<Engine>) {
    loop {
        let wait = match release_due(&engine).await {
            Ok(wait) => wait,
            Err(error) if engine.fail_if_fatal(&error) => return,
            Err(error) => {
                tracing::warn!(%error, "held back events are released later");
                LOOK_MAX
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = engine.signals.held_back.notified() => {}
        }
    }
}

/// Releases events that are due; returns the time until the next look.
async fn release_due(engine: &Engine) -> Result<Duration, Error> {
    loop {
        let now = Timestamp::now();
        let Some(next) = engine.store.next_due().await? else {
            return Ok(rest(engine));
        };
        let due = Due::at(now);
        if next > now && next <= due.far {
            return Ok(next.since(now).clamp(LOOK_MIN, LOOK_MAX));
        }
        let released = engine.store.release_due(due).await?;
        if released.is_empty() {
            return Ok(LOOK_MIN);
        }
        tell(engine, &released);
    }
}

/// Wait while no event is held back.
fn rest(engine: &Engine) -> Duration {
    let catalog = engine.catalog.peek();
    let mut rules = catalog
        .hooks
        .values()
        .filter_map(|hook| hook.versioning.as_ref());
    match rules.any(|rule| rule.window.is_some()) {
        true => LOOK_MAX,
        false => REST,
    }
}

/// Counts and hints released events.
fn tell(engine: &Engine, released: &[Released]) {
    let late = released.iter().filter(|event| event.late.is_some());
    late.for_each(|event| committer::count_late(engine, event.hook));
    let catalog = engine.catalog.peek();
    let cursors = released.iter().flat_map(|event| {
        let hook = catalog.hooks_by_id.get(&event.hook);
        let handlers = hook.into_iter().flat_map(|hook| &hook.handlers);
        handlers.map(|handler| CursorId {
            stream: event.stream,
            handler: handler.id,
        })
    });
    // The events are not cached here, because the database stored them itself.
    engine.store.invalidate(cursors);
    let hints: Vec<_> = released
        .iter()
        .map(|event| (event.hook, event.received_at, event.stream, event.slot))
        .collect();
    committer::hint(engine, &hints);
    engine
        .metrics
        .pulse
        .accepted(hints.iter().map(|(hook, ..)| *hook));
    engine.changes.stored.send_replace(());
}
