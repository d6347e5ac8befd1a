//! The sweep: finds cursors that are behind their heads in the database and hints them. It runs at the
//! start, for a new handler or lane set, and regularly in case a hint was lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Engine;
use super::catalog::Snapshot;
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::hook::HandlerId;
use crate::domain::lane::LaneId;
use crate::domain::time::Timestamp;
use crate::lanes::{Backlog, Hint, Recheck};
use crate::store::{self, Error, InputRequest};

/// Number of cursors read at a time.
pub(super) const PAGE: i64 = 10_000;

/// A sweep takes at most 1/SHARE of the time until the next one.
const SHARE: u32 = 100;

/// Shortest interval between two sweeps.
pub const EVERY: Duration = Duration::from_secs(15);

/// Time that the event after a position must have waited before its cursor counts as forgotten. Hints
/// that are under way take less.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3);

/// Reason for a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// An event after which cursors are expected to be found.
    Asked,
    /// The regular interval: every cursor found had been forgotten.
    Routine,
}

/// Sweeps on request and regularly, for as long as the node runs.
pub async fn watch(engine: Arc<Engine>) {
    let mut due = tokio::time::Instant::now() + EVERY;
    let mut commits = 0;
    loop {
        let asked = tokio::select! {
            () = tokio::time::sleep_until(due) => false,
            () = engine.signals.sweep.notified() => true,
        };
        // Nothing was stored since the last sweep, so no hint can have been lost since.
        let now = engine.metrics.commits.get();
        if !asked && now == commits && !engine.relay.is_shared() {
            due = tokio::time::Instant::now() + EVERY;
            continue;
        }
        commits = now;
        let why = match asked {
            true => Trigger::Asked,
            false => Trigger::Routine,
        };
        let wait = match run(&engine, why).await {
            Ok((_, wait)) => wait,
            Err(error) => {
                tracing::warn!(%error, "a sweep was cut short");
                EVERY
            }
        };
        due = tokio::time::Instant::now() + wait;
    }
}

/// Hints every cursor that is behind; returns their number, and the time until the next sweep.
///
/// # Errors
/// Errors of the database; cursors found before are hinted.
pub async fn run(engine: &Engine, why: Trigger) -> Result<(u64, Duration), Error> {
    let began = Instant::now();
    let mut found = 0;
    let mut after = CursorId {
        stream: StreamId(0),
        handler: HandlerId(0),
    };
    loop {
        let page = engine.store.behind(after, PAGE).await?;
        let Some(last) = page.last() else {
            break;
        };
        after = last.cursor;
        found += page.len() as u64;
        if why == Trigger::Routine {
            count_forgotten(engine, &page).await?;
        }
        hint(engine, &page);
    }
    let replays = engine.replays().await?;
    found += replays.len() as u64;
    hint(engine, &replays);
    Ok((found, EVERY.max(began.elapsed() * SHARE)))
}

/// Counts flowing cursors whose lane runs here and does not know them.
async fn count_forgotten(engine: &Engine, page: &[store::CursorBacklog]) -> Result<(), Error> {
    let catalog = engine.catalog.now();
    let is_unknown = |behind: &&store::CursorBacklog| {
        let lane = lane_of(&catalog, behind);
        let worker = lane.and_then(|lane| engine.worker(&lane));
        behind.flows && worker.is_some_and(|worker| !worker.knows(behind.cursor))
    };
    let want = |behind: &store::CursorBacklog| InputRequest {
        cursor: behind.cursor,
        events_max: 1,
    };
    let wants: Vec<_> = page
        .iter()
        .filter(is_unknown)
        .take(LOOKED_AT_MAX)
        .map(want)
        .collect();
    if wants.is_empty() {
        return Ok(());
    }
    let now = Timestamp::now();
    for input in engine.store.inputs(wants).await?.into_iter().flatten() {
        let waits = input
            .events
            .first()
            .map(|event| now.since(event.received_at));
        if waits.is_some_and(|waits| waits > FORGOTTEN_AFTER) {
            engine.metrics.forgotten.inc();
            let (stream, position) = (input.cursor.id.stream.0, input.cursor.position);
            tracing::warn!(stream, %position, "a sweep found work that nobody had hinted");
        }
    }
    Ok(())
}

/// Number of cursors of a page that are checked in detail; more than a few means a large loss of hints.
const LOOKED_AT_MAX: usize = 256;

/// The lane of a cursor; `None` for a pull handler, which has no turns in lanes.
pub(super) fn lane_of(catalog: &Snapshot, behind: &store::CursorBacklog) -> Option<LaneId> {
    let handler = catalog.handlers.get(&behind.cursor.handler)?;
    if handler.pull().is_some() {
        return None;
    }
    let hook = catalog.hook_of(behind.cursor.handler)?;
    Some(catalog.lanes_of(hook)?.lane(behind.slot))
}

/// Hints cursors that are behind in their lanes, as far as those run here.
pub(super) fn hint(engine: &Engine, page: &[store::CursorBacklog]) {
    engine
        .store
        .invalidate(page.iter().map(|behind| behind.cursor));
    for (lane, hints) in hints(&engine.catalog.peek(), page, Timestamp::now()) {
        // A lane that runs elsewhere is swept there.
        let _ = engine.lanes.hint(&lane, hints);
    }
}

/// Hints for cursors that are behind, by lane.
pub(super) fn hints(
    catalog: &Snapshot,
    page: &[store::CursorBacklog],
    now: Timestamp,
) -> BTreeMap<LaneId, Vec<Hint>> {
    let mut hints: BTreeMap<LaneId, Vec<Hint>> = BTreeMap::new();
    for behind in page {
        let Some(lane) = lane_of(catalog, behind) else {
            continue;
        };
        let (oldest, newest) = behind.received.unwrap_or((now, now));
        hints.entry(lane).or_default().push(Hint {
            cursor: behind.cursor,
            oldest,
            newest,
            backlog: Backlog::Total(behind.events),
            // The lane may have set the cursor aside and missed the hint that it was released.
            recheck: match behind.flows {
                true => Recheck::Yes,
                false => Recheck::No,
            },
        });
    }
    hints
}
