//! Hints wiped and made again from the database while everything runs: a loss of all of them, on purpose.
//!
//! It moves no cursor and stops no lane, so that it is always safe to try. What is hinted meanwhile stays:
//! lanes forget first, then the database is read, so whatever a forgotten hint was about is found.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, Worker, sweep};
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::hook::HandlerId;
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::lanes::redis;
use crate::store::{self, Behind, Want};

/// What was found in the lanes that run here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Those lanes.
    pub lanes: u64,
    /// Cursors that they knew to have work.
    pub hinted: u64,
    /// Cursors of theirs that are behind, as the database has it.
    pub behind: u64,
    /// Those of them that flow and that nobody had hinted.
    pub forgotten: u64,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The hints of the other nodes could not be wiped: nothing was.
    #[error(transparent)]
    Hints(#[from] redis::Error),
    /// The database failed; the next sweep finds what this one did not.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Cursors of a page whose next event is looked at: more than a few means that hints were lost at large.
const LOOKED_AT_MAX: usize = 256;

/// An event younger than this may have its hint still on the way.
const YOUNG: Duration = Duration::from_secs(3);

/// Wipes the hints of some namespaces and makes them again; `dry_run` only looks.
///
/// # Errors
/// [`Error`]; work is never lost.
pub async fn run(
    engine: &Engine,
    namespaces: &HashSet<Name>,
    dry_run: bool,
) -> Result<Found, Error> {
    let began = Timestamp::now();
    if !dry_run {
        for namespace in namespaces {
            engine.relay.wipe(engine, namespace).await?;
        }
    }
    let workers = engine.workers_of(namespaces);
    let known = |worker: &Arc<Worker>| match dry_run {
        true => worker.known(),
        false => worker.wipe(),
    };
    let known: HashSet<CursorId> = workers.iter().flat_map(known).collect();
    let mut found = Found {
        lanes: workers.len() as u64,
        hinted: known.len() as u64,
        ..Found::default()
    };
    let mut after = CursorId {
        stream: StreamId(0),
        handler: HandlerId(0),
    };
    loop {
        let page = engine.store.behind(after, sweep::PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(found);
        };
        after = last.cursor;
        let here = |behind: &Behind| {
            let lane = sweep::lane_of(&engine.catalog.peek(), behind);
            lane.is_some_and(|lane| {
                namespaces.contains(&lane.namespace) && engine.lanes.is_open(&lane)
            })
        };
        let page: Vec<Behind> = page.into_iter().filter(here).collect();
        found.behind += page.len() as u64;
        // Judged before it is hinted, and perhaps applied.
        found.forgotten += forgotten(engine, &page, &known, began).await?;
        if !dry_run {
            sweep::hint(engine, &page);
        }
    }
}

/// How many cursors of a page flow, were not known, and need an event that has waited for long.
async fn forgotten(
    engine: &Engine,
    page: &[Behind],
    known: &HashSet<CursorId>,
    began: Timestamp,
) -> Result<u64, store::Error> {
    let is_unknown = |behind: &&Behind| behind.flows && !known.contains(&behind.cursor);
    let unknown: Vec<_> = page.iter().filter(is_unknown).collect();
    let (looked_at, rest) = unknown.split_at(unknown.len().min(LOOKED_AT_MAX));
    let mut forgotten = rest.len() as u64;
    for behind in looked_at {
        let want = Want {
            cursor: behind.cursor,
            events_max: 1,
        };
        let input = engine.store.inputs(vec![want]).await?.pop().flatten();
        let next = input.and_then(|input| Some(input.events.first()?.received_at));
        forgotten += u64::from(next.is_some_and(|at| began.since(at) > YOUNG));
    }
    Ok(forgotten)
}
