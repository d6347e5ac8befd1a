//! Finds the cursors that are behind their heads in the database and hints them: at start, when a
//! handler or a lane set is new, and now and then in case a hint was lost.

use std::collections::BTreeMap;
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

/// Cursors read at a time.
pub(super) const PAGE: i64 = 10_000;

/// A sweep takes at most a hundredth of the time until the next one.
const SHARE: u32 = 100;

/// The shortest time between two sweeps.
pub const EVERY: Duration = Duration::from_secs(15);

/// How long the event after a position must have waited before its cursor counts as forgotten: hints
/// that are on their way are not.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3);

/// Why a sweep runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Something has happened after which cursors are expected to be found.
    Asked,
    /// Just in case: whatever is found had been forgotten.
    Routine,
}

/// Hints every cursor that is behind; says how many, and when the next sweep is due.
///
/// # Errors
/// Those of the database; what was found before is hinted.
pub async fn run(engine: &Engine, why: Why) -> Result<(u64, Duration), Error> {
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
        if why == Why::Routine {
            count_forgotten(engine, &page).await?;
        }
        hint(engine, &page);
    }
    let replays = engine.replays().await?;
    found += replays.len() as u64;
    hint(engine, &replays);
    Ok((found, EVERY.max(began.elapsed() * SHARE)))
}

/// Counts the cursors that flow and that their lane, which runs here, knows nothing of.
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

/// Cursors of a page that are looked at closely: more than a few means that hints were lost at large.
const LOOKED_AT_MAX: usize = 256;

/// The lane in which a cursor takes its turns; none of a pull handler, whose consumers ask.
pub(super) fn lane_of(catalog: &Snapshot, behind: &store::CursorBacklog) -> Option<LaneId> {
    let handler = catalog.handlers.get(&behind.cursor.handler)?;
    if handler.pull().is_some() {
        return None;
    }
    let hook = catalog.hook_of(behind.cursor.handler)?;
    Some(catalog.lanes_of(hook)?.lane(behind.slot))
}

/// Hints cursors that are behind, each to its lane if that runs here.
pub(super) fn hint(engine: &Engine, page: &[store::CursorBacklog]) {
    engine
        .store
        .invalidate(page.iter().map(|behind| behind.cursor));
    for (lane, hints) in hints(&engine.catalog.peek(), page, Timestamp::now()) {
        // A lane that runs elsewhere is swept there.
        let _ = engine.lanes.hint(&lane, hints);
    }
}

/// What is said to each lane about cursors that are behind.
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
            // A lane may still have set aside what somebody has let go: that hint was lost too.
            recheck: match behind.flows {
                true => Recheck::Yes,
                false => Recheck::No,
            },
        });
    }
    hints
}
