//! Retention: looks now and then for events that are older than their hook keeps them, and removes those
//! that every cursor has passed.
//!
//! What a reducer made of them is folded once more, from the last checkpoint up to the cut, and becomes
//! the checkpoint there: a fold from the beginning begins at it. So a stream that never rests is cut where
//! its age says, and a checkpoint is what a rebuild would have come to, whatever code the live state has
//! gone through. A node looks at the streams whose turns it takes; two that look at one do no harm.

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

/// How often it is looked for events that are due.
const EVERY: Duration = Duration::from_secs(300);

/// Streams that are looked at together.
const STREAMS_MAX: usize = 256;

/// Events and bytes that one transaction removes: events that come meanwhile wait for it.
const EVENTS_MAX: i64 = 256;
const BYTES_MAX: i64 = 4 * 1024 * 1024;

/// How long an event may be overdue before somebody should know.
const GRACE: Duration = Duration::from_secs(60);

/// Why most that keep events past their time do.
const NOT_PASSED: &str = "a cursor has not passed them";

/// Streams of a hook that keep events past their time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// One of them.
    pub example: StreamName,
    /// How many there are.
    pub streams: u64,
    /// How long their hook keeps events.
    pub keep: Keep,
    /// Why the example does.
    pub why: String,
}

/// What came of a look at a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Events that were removed.
    pub events: u64,
    /// Streams that keep more than they should.
    pub overdue: Option<Overdue>,
}

/// Looks at every hook that does not keep its events for ever, for as long as the node runs.
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
            () = engine.prunes.notified() => {}
        }
    }
}

/// Removes what is due of one hook; says which streams keep more than they should.
async fn prune_hook(engine: &Engine, hook: &Hook) -> Result<Option<Overdue>, Error> {
    loop {
        let Some(before) = due_before(engine, hook, Timestamp::now()).await? else {
            return Ok(None);
        };
        let looked = prune_before(engine, hook, before).await?;
        // What goes beyond an amount is found a part at a time.
        if matches!(hook.keep, Keep::For(_)) || looked.events == 0 {
            return Ok(looked.overdue);
        }
    }
}

/// Removes what a hook has received before a moment, of the streams whose turns are taken here and as far as
/// every cursor has passed it; says which streams keep some of it for long.
///
/// # Errors
/// Those of the database; what is left is removed by the next look.
pub async fn prune_before(
    engine: &Engine,
    hook: &Hook,
    before: Timestamp,
) -> Result<Looked, Error> {
    let mut look = Look {
        engine,
        hook,
        before,
        looked: Looked::default(),
    };
    let streams = engine.store.streams_with_events(hook.id).await?;
    for some in streams.chunks(STREAMS_MAX) {
        let found = engine.store.prunable(some).await?;
        look.prune(found).await?;
    }
    Ok(look.looked)
}

/// What was received before this moment is due; none when nothing is.
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
struct Look<'l> {
    engine: &'l Engine,
    hook: &'l Hook,
    before: Timestamp,
    looked: Looked,
}

impl Look<'_> {
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
            // Whoever stores events has at least as much of the database as this.
            tokio::time::sleep(began.elapsed()).await;
        }
        Ok(())
    }

    /// Whether nobody has said meanwhile that events are kept for another time.
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

    /// Takes streams off the queue, as many as one transaction may cut, and says up to where. One of which
    /// nothing is due is left out.
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

    /// Cuts streams in one transaction. Those of which more may be due go back to the queue.
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

    /// What the reducer makes of each stream up to its cut, or up to where it comes; none where it makes
    /// nothing of it, or where somebody else was there.
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

    /// Notes that a stream whose cursors stand at its floor keeps its next event past its time, if it does.
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

    /// Notes that a stream keeps events past their time.
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
