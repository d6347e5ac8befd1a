//! Turns of handlers beyond their share of fold time, beside those of the lanes.
//!
//! A lane leaves such a handler out (`share.rs` decides which; `lane.rs` keeps its cursors ready). Its
//! turns run here, one at a time for each handler of this node, on separate threads, so its folds cost
//! the lanes only processor time, of which others get more. The namespace that has used least is next,
//! then the handler that has. A handler whose folds run out of time waits longer each time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::{Engine, Worker};
use crate::domain::hook::HandlerId;

/// Interval of the search for handlers that may fold, while one is slow.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Runs turns of slow handlers for as long as the node runs.
pub async fn run(engine: Arc<Engine>) {
    let (mut turns, mut folding) = (FuturesUnordered::new(), HashSet::new());
    let shares = engine.folds.lanes.shares().clone();
    loop {
        while turns.len() < engine.folds.slow.threads()
            && let Some((worker, handler)) = next(&engine, &folding)
        {
            folding.insert(handler);
            let engine = &engine;
            turns.push(async move {
                worker.take_slow_turn(engine, handler).await;
                handler
            });
        }
        let is_any = shares.with(|shares, _| shares.has_left_out());
        tokio::select! {
            Some(handler) = turns.next() => {
                folding.remove(&handler);
            }
            () = shares.slower.notified(), if !is_any => {}
            () = tokio::time::sleep(LOOK_EVERY), if is_any => {
                if shares.with(|shares, now| shares.relax(now)) {
                    engine.workers().iter().for_each(|worker| worker.wake());
                }
            }
        }
    }
}

/// The next handler, and a lane that has ready cursors of it.
fn next(engine: &Engine, folding: &HashSet<HandlerId>) -> Option<(Arc<Worker>, HandlerId)> {
    let shares = engine.folds.lanes.shares();
    let mut may = shares.with(|shares, now| shares.may_fold(now));
    may.retain(|handler| !folding.contains(handler));
    if may.is_empty() {
        return None;
    }
    let workers = engine.workers();
    let mut waiting = Vec::new();
    for worker in &workers {
        for handler in worker.ready_of(&may, engine) {
            waiting.push(((worker.id.namespace.clone(), handler), worker));
        }
    }
    let names: Vec<_> = waiting.iter().map(|(name, _)| name.clone()).collect();
    let first = shares.with(|shares, _| shares.first(&names))?;
    let of_it: Vec<_> = waiting.iter().filter(|(name, _)| *name == first).collect();
    // The lanes have no order, so one is chosen at random.
    let nth = rand::random_range(0..of_it.len().max(1));
    let (_, worker) = of_it.get(nth)?;
    Some((Arc::clone(worker), first.1))
}
