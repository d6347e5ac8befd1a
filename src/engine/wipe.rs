//! Rebuilds hints from the database while everything runs: a deliberate loss of all hints.
//!
//! It moves no cursor and stops no lane, so it is always safe. A request is a row that every node
//! answers with its findings for its own lanes. Hints that arrive meanwhile stay: lanes first forget
//! their hints, then the database is read, so everything a forgotten hint was about is found.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Engine, Worker, sweep};
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::hook::HandlerId;
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::store::{CursorBacklog, Error, HintAnswer, HintRequest, InputRequest};

/// Interval of the search for requests of other nodes.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Number of cursors of a page whose next event is checked; more than a few means a large loss of
/// hints.
const LOOKED_AT_MAX: usize = 256;

/// Age below which an event's hint may still be under way.
const YOUNG: Duration = Duration::from_secs(3);

/// Answers requests after the request `before`, for as long as the node runs.
pub(super) async fn run(engine: Arc<Engine>, before: i64) {
    loop {
        let asked = engine.signals.hints.notified();
        match engine.member {
            // On SQLite no other node makes requests.
            None => asked.await,
            Some(_) => drop(timeout(LOOK_EVERY, asked).await),
        }
        if let Err(error) = answer_all(&engine, before).await {
            if engine.fail_if_fatal(&error) {
                return;
            }
            tracing::warn!(%error, "hints are made again later");
            tokio::time::sleep(LOOK_EVERY).await;
            engine.make_hints_soon();
        }
    }
}

async fn answer_all(engine: &Engine, before: i64) -> Result<(), Error> {
    let me = engine.member.as_ref().map(|member| member.id());
    let me = me.unwrap_or_default();
    for request in engine.store.open_hint_requests(&me, before).await? {
        let found = make_again(engine, &me, &request).await?;
        engine.store.answer_hints(request.id, &found).await?;
    }
    Ok(())
}

/// Forgets the hints of the lanes that run here and makes them again, or only counts them.
async fn make_again(engine: &Engine, me: &str, request: &HintRequest) -> Result<HintAnswer, Error> {
    let began = Timestamp::now();
    let namespaces: HashSet<Name> = match &request.namespace {
        Some(namespace) => HashSet::from([namespace.clone()]),
        None => engine.catalog.now().lane_sets.keys().cloned().collect(),
    };
    let workers = engine.workers_of(&namespaces);
    let known = |worker: &Arc<Worker>| match request.dry_run {
        true => worker.known(),
        false => worker.wipe(),
    };
    let known: HashSet<CursorId> = workers.iter().flat_map(known).collect();
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let mut found = HintAnswer {
        node: me.to_owned(),
        lanes: number(workers.len()),
        hinted: number(known.len()),
        behind: 0,
        forgotten: 0,
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
        let here = |behind: &CursorBacklog| {
            let lane = sweep::lane_of(&engine.catalog.peek(), behind);
            lane.is_some_and(|lane| {
                namespaces.contains(&lane.namespace) && engine.lanes.is_open(&lane)
            })
        };
        let page: Vec<CursorBacklog> = page.into_iter().filter(here).collect();
        found.behind += number(page.len());
        // Counted before the cursors are hinted, after which they may be applied.
        found.forgotten += number(forgotten(engine, &page, &known, began).await?);
        if !request.dry_run {
            sweep::hint(engine, &page);
        }
    }
}

/// Number of flowing cursors of a page that were not known and need an event that has waited for long.
async fn forgotten(
    engine: &Engine,
    page: &[CursorBacklog],
    known: &HashSet<CursorId>,
    began: Timestamp,
) -> Result<usize, Error> {
    let is_unknown = |behind: &&CursorBacklog| behind.flows && !known.contains(&behind.cursor);
    let unknown: Vec<_> = page.iter().filter(is_unknown).collect();
    let (looked_at, rest) = unknown.split_at(unknown.len().min(LOOKED_AT_MAX));
    let mut forgotten = rest.len();
    for behind in looked_at {
        let want = InputRequest {
            cursor: behind.cursor,
            events_max: 1,
        };
        let input = engine.store.inputs(vec![want]).await?.pop().flatten();
        let next = input.and_then(|input| Some(input.events.first()?.received_at));
        forgotten += usize::from(next.is_some_and(|at| began.since(at) > YOUNG));
    }
    Ok(forgotten)
}
