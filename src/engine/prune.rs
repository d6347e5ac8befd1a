//! Retention: regularly looks for events older than their hook's retention, and removes those that
//! every cursor has passed.
//!
//! The removed events are folded once more, from the last checkpoint up to the cut, and the result
//! becomes the new checkpoint, where later folds begin. So a busy stream can be cut exactly at the age
//! limit, and a checkpoint equals the result of a rebuild, whatever versions of the reducer the live
//! state has seen. A node looks at the streams whose turns it runs; two nodes that look at the same
//! stream do no harm.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Engine;
use super::rebuild::fold_up_to;
use crate::domain::hook::Hook;
use crate::domain::keep::Keep;
use crate::domain::name::StreamName;
use crate::domain::position::Seq;
use crate::domain::time::{Timestamp, millis};
use crate::store::{Checkpoint, Cut, Error, Prunable, Prune};

/// Interval between two looks.
const EVERY: Duration = Duration::from_secs(300);

/// Number of streams handled together.
const STREAMS_MAX: usize = 256;

/// Number of events and bytes that one transaction removes; new events wait for it.
const EVENTS_MAX: i64 = 256;
const BYTES_MAX: i64 = 4 * 1024 * 1024;

/// Time for which an event may be overdue before it is reported.
const GRACE: Duration = Duration::from_secs(60);

/// The usual reason for keeping events past their retention.
const NOT_PASSED: &str = "a cursor has not passed them";

/// Streams of a hook that keep events past their retention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// One of these streams.
    pub example: StreamName,
    /// Number of these streams.
    pub streams: u64,
    /// Retention of their hook.
    pub keep: Keep,
    /// Reason why the example keeps its events.
    pub why: String,
}

/// Result of looking at a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneResult {
    /// Number of events removed.
    pub events: u64,
    /// Streams that keep more than their retention.
    pub overdue: Option<Overdue>,
}

/// Looks at every hook with a retention, for as long as the node runs.
pub async fn run(engine: Arc<Engine>) {
    for hook in engine.catalog.now().hooks.values() {
        if hook.keep.is_short() {
            let (hook, keep) = (&hook.name, hook.keep);
            tracing::warn!(%hook, %keep, "senders try again for longer: a repeat of an event that is gone is a new one");
        }
    }
    loop {
        let mut overdue = Vec::new();
        let catalog = engine.catalog.now();
        let due = catalog.hooks.values();
        for hook in due.filter(|hook| hook.keep != Keep::Forever) {
            match prune_hook(&engine, hook).await {
                Ok(found) => overdue.extend(found),
                Err(error) if engine.fail_if_fatal(&error) => return,
                Err(error) => tracing::warn!(hook = %hook.name, %error, "events are removed later"),
            }
        }
        let streams = overdue.iter().map(|found| found.streams).sum::<u64>();
        let streams = i64::try_from(streams).unwrap_or(i64::MAX);
        engine.metrics.streams_overdue.set(streams);
        *engine.overdue.write() = overdue;
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = engine.signals.prunes.notified() => {}
        }
    }
}

/// Removes the events of one hook that are due; returns the streams that keep more than they should.
async fn prune_hook(engine: &Engine, hook: &Hook) -> Result<Option<Overdue>, Error> {
    loop {
        let Some(before) = due_before(engine, hook, Timestamp::now()).await? else {
            return Ok(None);
        };
        let looked = prune_before(engine, hook, before).await?;
        // Events beyond a size limit are found in parts.
        if matches!(hook.keep, Keep::For(_)) || looked.events == 0 {
            return Ok(looked.overdue);
        }
    }
}

/// Removes events of a hook received before a time, from streams whose turns run here, as far as every
/// cursor has passed them. Returns the streams that keep such events for long.
///
/// # Errors
/// Errors of the database; remaining events are removed by the next look.
pub async fn prune_before(
    engine: &Engine,
    hook: &Hook,
    before: Timestamp,
) -> Result<PruneResult, Error> {
    let mut look = Pruning {
        engine,
        hook,
        before,
        looked: PruneResult::default(),
    };
    let streams = engine.store.streams_with_events(hook.id).await?;
    for some in streams.chunks(STREAMS_MAX) {
        let found = engine.store.prunable(some).await?;
        look.prune(found).await?;
    }
    Ok(look.looked)
}

/// Time before which events of the hook are due; `None` when none are.
async fn due_before(
    engine: &Engine,
    hook: &Hook,
    now: Timestamp,
) -> Result<Option<Timestamp>, Error> {
    match hook.keep {
        Keep::Forever => Ok(None),
        Keep::For(age) => {
            let before = now.as_millis().saturating_sub(millis(age));
            Ok(Some(Timestamp::from_millis(before)))
        }
        Keep::Bytes(most) => {
            let bytes = engine.store.hook_bytes(hook.id).await?;
            let excess = bytes.saturating_sub(i64::try_from(most).unwrap_or(i64::MAX));
            match excess > 0 {
                true => engine.store.oldest_bytes(hook.id, excess).await,
                false => Ok(None),
            }
        }
    }
}

/// One look at a hook.
struct Pruning<'l> {
    engine: &'l Engine,
    hook: &'l Hook,
    before: Timestamp,
    looked: PruneResult,
}

impl Pruning<'_> {
    async fn prune(&mut self, page: Vec<Prunable>) -> Result<(), Error> {
        let mut queue = VecDeque::new();
        for found in page {
            if found.oldest >= self.before || !self.is_ours(&found) {
                continue;
            }
            match found.passed > found.stream.floor {
                true => queue.push_back(found),
                false => self.note(&found, NOT_PASSED.to_owned()),
            }
        }
        while !queue.is_empty() && self.keeps_so_still() {
            let began = Instant::now();
            let mut cuts = self.cuts(&mut queue).await?;
            cuts.sort_unstable_by_key(|(found, _)| found.stream.id);
            self.cut(cuts, &mut queue).await?;
            // Pauses as long as the work took, so that storing events gets at least half of the
            // database.
            tokio::time::sleep(began.elapsed()).await;
        }
        Ok(())
    }

    /// True if the retention of the hook is unchanged.
    fn keeps_so_still(&self) -> bool {
        let catalog = self.engine.catalog.peek();
        let hook = catalog.hooks_by_id.get(&self.hook.id);
        hook.is_some_and(|hook| hook.keep == self.hook.keep)
    }

    fn is_ours(&self, found: &Prunable) -> bool {
        let catalog = self.engine.catalog.peek();
        let set = catalog.lanes_of(self.hook);
        set.is_some_and(|set| self.engine.lanes.is_open(&set.lane(found.stream.slot)))
    }

    /// Takes as many streams off the queue as one transaction may cut, each with the seq up to which it
    /// is cut. Streams with nothing due are left out.
    async fn cuts(&self, queue: &mut VecDeque<Prunable>) -> Result<Vec<(Prunable, Seq)>, Error> {
        let (mut events, mut bytes) = (EVENTS_MAX, BYTES_MAX);
        let mut cuts = Vec::new();
        while events > 0
            && bytes > 0
            && let Some(found) = queue.pop_front()
        {
            let floor = found.stream.floor;
            let ages = self
                .engine
                .store
                .ages(found.stream.id, floor, found.passed, events);
            let mut to = floor;
            for event in ages.await? {
                let is_due = event.received_at < self.before.as_millis();
                if !is_due || event.seq != to.0 + 1 || bytes <= 0 {
                    break;
                }
                to = Seq(event.seq);
                events -= 1;
                bytes -= event.bytes;
            }
            if to > floor {
                cuts.push((found, to));
            }
        }
        Ok(cuts)
    }

    /// Cuts streams in one transaction. Streams with more due events go back to the queue.
    async fn cut(
        &mut self,
        cuts: Vec<(Prunable, Seq)>,
        queue: &mut VecDeque<Prunable>,
    ) -> Result<(), Error> {
        let reducer = self.hook.reduce();
        let checkpoints = match reducer {
            Some(_) => self.checkpoints(&cuts).await?,
            None => cuts
                .iter()
                .map(|(_, to)| Some((*to, Checkpoint::default())))
                .collect(),
        };
        let (mut prune, mut going) = (Vec::new(), Vec::new());
        for ((found, _), checkpoint) in cuts.into_iter().zip(checkpoints) {
            let Some((to, checkpoint)) = checkpoint else {
                continue;
            };
            prune.push(Cut {
                stream: found.stream.id,
                floor: found.stream.floor,
                to,
                checkpoint,
            });
            going.push((found, to));
        }
        if prune.is_empty() {
            return Ok(());
        }
        let prune = Prune {
            hook: self.hook.id,
            reducer: reducer.map(|handler| (handler.id, handler.fold)),
            cuts: prune,
        };
        let done = self.engine.store.prune(prune).await?;
        for ((mut found, to), is_done) in going.into_iter().zip(done) {
            if !is_done {
                continue;
            }
            let events = to.0 - found.stream.floor.0;
            let events = u64::try_from(events).unwrap_or(0);
            self.engine.metrics.events_pruned.inc_by(events);
            self.looked.events += events;
            found.stream.floor = to;
            match found.passed > to {
                true => queue.push_back(found),
                false => self.note_next(found).await?,
            }
        }
        Ok(())
    }

    /// Folds each stream up to its cut, or as far as possible; `None` where the fold fails, or another
    /// node has cut the stream.
    async fn checkpoints(
        &mut self,
        cuts: &[(Prunable, Seq)],
    ) -> Result<Vec<Option<(Seq, Checkpoint)>>, Error> {
        let Some(handler) = self.hook.reduce() else {
            return Ok(Vec::new());
        };
        let streams = cuts.iter().map(|(found, to)| (found.stream.clone(), *to));
        let folded = fold_up_to(self.engine, self.hook, handler, streams.collect()).await?;
        let mut checkpoints = Vec::with_capacity(cuts.len());
        for (found, _) in cuts {
            let of_stream = folded.iter().find(|up_to| up_to.stream == found.stream.id);
            let Some(up_to) = of_stream.filter(|up_to| up_to.began == found.stream.floor) else {
                checkpoints.push(None);
                continue;
            };
            let to = Seq(up_to.shadow.position.0);
            if let Some(failure) = up_to.failure.as_ref().filter(|_| to == found.stream.floor) {
                self.note(found, format!("its reducer does not fold them: {failure}"));
            }
            let checkpoint = Checkpoint {
                fold: up_to.fold,
                state: up_to.shadow.state.clone(),
                chain: up_to.shadow.chain.clone(),
            };
            checkpoints.push((to > found.stream.floor).then_some((to, checkpoint)));
        }
        Ok(checkpoints)
    }

    /// Reports a stream whose cursors stand at its floor and whose next event is overdue.
    async fn note_next(&mut self, mut found: Prunable) -> Result<(), Error> {
        let floor = found.stream.floor;
        let next = self
            .engine
            .store
            .ages(found.stream.id, floor, Seq(floor.0 + 1), 1);
        if let Some(next) = next.await?.first() {
            found.oldest = Timestamp::from_millis(next.received_at);
            if found.oldest < self.before {
                self.note(&found, NOT_PASSED.to_owned());
            }
        }
        Ok(())
    }

    /// Reports a stream that keeps overdue events.
    fn note(&mut self, found: &Prunable, why: String) {
        if self.before.since(found.oldest) < GRACE && matches!(self.hook.keep, Keep::For(_)) {
            return;
        }
        let overdue = self.looked.overdue.get_or_insert_with(|| Overdue {
            example: StreamName {
                hook: self.hook.name.clone(),
                key: found.stream.key.clone(),
            },
            streams: 0,
            keep: self.hook.keep,
            why,
        });
        overdue.streams += 1;
    }
}
