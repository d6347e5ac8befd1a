//! Hints wiped and made again from the database while everything runs: a loss of all of them, on purpose.
//!
//! It moves no cursor and stops no lane, so that it is always safe to try. It is asked for in a row that every
//! node answers with what it found in its own lanes. What is hinted meanwhile stays: lanes forget first, then
//! the database is read, so whatever a forgotten hint was about is found.

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

/// How often it is looked for what other nodes were asked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Cursors of a page whose next event is looked at: more than a few means that hints were lost at large.
const LOOKED_AT_MAX: usize = 256;

/// An event younger than this may have its hint still on the way.
const YOUNG: Duration = Duration::from_secs(3);

/// Answers what is asked after the request `before`, for as long as the node runs.
pub(super) async fn run(engine: Arc<Engine>, before: i64) {
    loop {
        let asked = engine.hints.notified();
        match engine.member {
            // Nobody else asks the only node of a file.
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

/// Forgets the hints of the lanes that run here, and makes them again, or only looks.
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
        // Judged before it is hinted, and perhaps applied.
        found.forgotten += number(forgotten(engine, &page, &known, began).await?);
        if !request.dry_run {
            sweep::hint(engine, &page);
        }
    }
}

/// How many cursors of a page flow, were not known, and need an event that has waited for long.
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
