//! Rebuilds states: folds the events of streams again while turns go on, and replaces the old state
//! once the new one has caught up.
//!
//! Everything that must survive a crash is in rows: the progress of a rebuild, and unfinished folds. A
//! swap raises the era of its cursor, so a turn computed from the old state loses its compare-and-set
//! and reads again. Nothing else is written, and nothing is sent.

mod steps;
pub(super) mod work;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use tokio::sync::Semaphore;

use self::steps::Steps;
use self::work::{Standing, Work, may_pass};
use super::Engine;
use super::reduce::{Folded, Folds, Task};
use crate::domain::cursor::{Condition, Cursor, CursorId};
use crate::domain::event::StreamId;
use crate::domain::hook::{Handler, HandlerId, Hook, HookId};
use crate::domain::name::{OrderingKey, StreamName};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;
use crate::store::{
    Error, InputRequest, Range, Rebuild, RebuildProgress, RebuildStep, Shadow, StreamRow,
};

/// Interval of the search for rebuilds to work on.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Pause of a rebuild after the database refused its work.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Number of streams handled together.
const STREAMS_MAX: i64 = 256;

/// Number of events read at a time, of one stream and of all.
const EVENTS_MAX: usize = 5_000;
const EVENTS_ALL_MAX: usize = 20_000;

/// Number of small rebuilds that run in parallel.
const SIDE_BY_SIDE: usize = 64;

/// Works on rebuilds for as long as the node runs; small ones in parallel.
pub async fn run(engine: Arc<Engine>) {
    let mut seen = Vec::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = engine.signals.rebuilds.notified() => {}
        }
        if let Err(error) = work_on_all(&engine, &mut seen).await {
            if engine.fail_if_fatal(&error) {
                return;
            }
            tracing::warn!(%error, "a rebuild goes on later");
            tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            engine.rebuild_soon();
        }
    }
}

/// Works on the running rebuilds; `seen` has those of the previous look.
async fn work_on_all(engine: &Engine, seen: &mut Vec<i64>) -> Result<(), Error> {
    let running = engine.store.running_rebuilds().await?;
    let before = std::mem::replace(seen, running.iter().map(|rebuild| rebuild.id).collect());
    if before.iter().any(|id| !seen.contains(id)) {
        // A rebuild has ended, on some node, and retention had to wait for it.
        engine.prune_soon();
    }
    let me = engine.member.as_ref().map(|member| member.id());
    let me = me.unwrap_or_default();
    let claimed = engine.store.claim_rebuilds(running, &me).await?;
    if claimed.is_empty() {
        return Ok(());
    }
    // The rebuild may need a reducer that another node has just changed.
    engine.config_changed().await?;
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let folds = Folds::start(threads)
        .map_err(|error| Error::Refused(format!("no threads to fold on: {error}")))?;
    let (steps, asked) = steps::channel();
    let room = Semaphore::new(EVENTS_ALL_MAX);
    let shared = Shared {
        folds,
        threads,
        steps,
    };
    let (shared, room) = (&shared, &room);
    let work = async {
        let works = claimed.into_iter().map(async |rebuild| {
            // Limits the events of parallel rebuilds to those of one large rebuild.
            let events = rebuild.events.clamp(1, EVENTS_ALL_MAX as i64);
            let _events = room.acquire_many(u32::try_from(events).unwrap_or(1)).await;
            work_on(engine, rebuild, shared).await
        });
        let mut works = stream::iter(works).buffer_unordered(SIDE_BY_SIDE);
        while let Some(worked) = works.next().await {
            worked?;
        }
        Ok(())
    };
    tokio::select! {
        worked = work => worked,
        Err(error) = steps::run(&engine.store, asked) => Err(error),
    }
}

/// Resources shared by parallel rebuilds.
struct Shared {
    folds: Folds,
    threads: usize,
    steps: Steps,
}

async fn work_on(engine: &Engine, mut rebuild: Rebuild, shared: &Shared) -> Result<(), Error> {
    let mut kept = engine.store.shadows(rebuild.id).await?;
    loop {
        let catalog = engine.catalog.now();
        let handler = catalog.handlers.get(&HandlerId(rebuild.handler)).cloned();
        let hook = catalog.hooks_by_id.get(&HookId(rebuild.hook)).cloned();
        let (Some(handler), Some(hook)) = (handler, hook) else {
            return end(engine, &rebuild, "its hook was deleted").await;
        };
        if handler.fold != rebuild.fold {
            let why = "the reducer was changed meanwhile: ask for it again";
            return end(engine, &rebuild, why).await;
        }
        let streams = page(engine, &rebuild).await?;
        if streams.is_empty() {
            let step = RebuildStep {
                ends: true,
                ..RebuildStep::of(&rebuild)
            };
            shared.steps.take(step).await?;
            return Ok(());
        }
        let is_last = streams.len() < STREAMS_MAX as usize;
        let page = Page {
            engine,
            folds: &shared.folds,
            threads: shared.threads,
            hook: &hook,
            handler: &handler,
        };
        let streams = page
            .rebuild(&mut rebuild, streams, &mut kept, &shared.steps)
            .await?;
        let step = RebuildStep {
            progress: streams,
            ends: is_last,
            ..RebuildStep::of(&rebuild)
        };
        (rebuild, _) = shared.steps.take(step).await?;
        if is_last {
            tracing::info!(rebuild = rebuild.id, "a rebuild has ended");
            return Ok(());
        }
    }
}

async fn page(engine: &Engine, rebuild: &Rebuild) -> Result<Vec<StreamRow>, Error> {
    let after = StreamId(rebuild.after_stream);
    let hook = HookId(rebuild.hook);
    match &rebuild.ordering_key {
        None => engine.store.streams(hook, after, STREAMS_MAX).await,
        Some(key) => {
            let key = OrderingKey::stored(key.clone());
            let stream = engine.store.stream(hook, &key).await?;
            Ok(stream.into_iter().filter(|row| row.id > after).collect())
        }
    }
}

/// Ends a rebuild that cannot continue.
async fn end(engine: &Engine, rebuild: &Rebuild, error: &str) -> Result<(), Error> {
    tracing::info!(rebuild = rebuild.id, error, "a rebuild has failed");
    let now = Timestamp::now();
    engine.store.end_rebuild(rebuild, Some(error), now).await
}

/// The state of a stream after the event `to`, folded by the present reducer. Changes nothing.
pub async fn fold_to(
    engine: &Engine,
    hook: &Hook,
    handler: &Handler,
    mut stream: StreamRow,
    to: Seq,
) -> Result<Result<Shadow, String>, Error> {
    loop {
        let key = stream.key.clone();
        let mut folded = fold_up_to(engine, hook, handler, vec![(stream, to)]).await?;
        let now = engine.store.stream(hook.id, &key).await?;
        let (Some(folded), Some(now)) = (folded.pop(), now) else {
            return Ok(Err("the stream is gone".to_owned()));
        };
        match folded.failure {
            None => return Ok(Ok(folded.shadow)),
            // Retention has removed events since the beginning of the fold was read.
            Some(_) if folded.began < now.floor && now.floor <= to => stream = now,
            Some(failure) => return Ok(Err(failure)),
        }
    }
}

/// A stream folded by the present reducer from its beginning up to an event.
pub struct FoldedUpTo {
    /// The stream.
    pub stream: StreamId,
    /// Seq at which the fold began: the floor when it was read.
    pub began: Seq,
    /// Oldest version of the reducer that took part in it.
    pub fold: i64,
    /// Result of the fold, as far as it got.
    pub shadow: Shadow,
    /// Reason why it stopped early.
    pub failure: Option<String>,
}

/// Folds streams, each up to the given event. Changes nothing.
pub async fn fold_up_to(
    engine: &Engine,
    hook: &Hook,
    handler: &Handler,
    streams: Vec<(StreamRow, Seq)>,
) -> Result<Vec<FoldedUpTo>, Error> {
    let page = Page {
        engine,
        folds: &engine.folds.lanes,
        threads: 1,
        hook,
        handler,
    };
    let ends: HashMap<_, _> = streams.iter().map(|(row, to)| (row.id, *to)).collect();
    let streams = streams.into_iter().map(|(row, _)| row).collect();
    let mut works = page.begin(streams, &mut HashMap::new()).await?;
    for work in &mut works {
        let to = ends.get(&work.stream.id).copied().unwrap_or_default();
        work.target = to.min(work.head);
    }
    while !works.iter().all(Work::is_there) {
        page.fold(&mut works).await?;
    }
    let up_to = |work: Work| FoldedUpTo {
        stream: work.stream.id,
        began: Seq(work.beginning.shadow.position.0),
        fold: work
            .beginning
            .fold
            .unwrap_or(handler.fold)
            .min(handler.fold),
        shadow: work.shadow,
        failure: work.failure,
    };
    Ok(works.into_iter().map(up_to).collect())
}

/// Everything needed to fold some streams of a hook.
struct Page<'p> {
    engine: &'p Engine,
    folds: &'p Folds,
    threads: usize,
    hook: &'p Hook,
    handler: &'p Handler,
}

impl Page<'_> {
    /// Rebuilds some streams completely. The last progress is left in the return value, to be recorded
    /// with the next step.
    async fn rebuild(
        &self,
        rebuild: &mut Rebuild,
        streams: Vec<StreamRow>,
        kept: &mut HashMap<StreamId, Shadow>,
        steps: &Steps,
    ) -> Result<RebuildProgress, Error> {
        let last = streams.last().map(|stream| stream.id);
        let mut works = self.begin(streams, kept).await?;
        let mut progress = RebuildProgress {
            after_stream: last,
            streams: i64::try_from(works.len()).unwrap_or(0),
            ..RebuildProgress::default()
        };
        loop {
            self.fold(&mut works).await?;
            self.settle(rebuild, &mut works, &mut progress, steps)
                .await?;
            works.retain(|work| !work.is_done);
            if works.is_empty() {
                return Ok(progress);
            }
        }
    }

    async fn begin(
        &self,
        streams: Vec<StreamRow>,
        kept: &mut HashMap<StreamId, Shadow>,
    ) -> Result<Vec<Work>, Error> {
        let (Some(first), Some(last)) = (streams.first(), streams.last()) else {
            return Ok(Vec::new());
        };
        let mut dead: HashMap<StreamId, HashSet<Seq>> = HashMap::new();
        let store = &self.engine.store;
        for (stream, seq) in store
            .dead_letters(self.handler.id, first.id, last.id)
            .await?
        {
            dead.entry(stream).or_default().insert(seq);
        }
        let beginnings = store.beginnings(self.hook.id, self.handler.id, first.id, last.id);
        let beginnings = beginnings.await?.into_iter();
        let mut beginnings: HashMap<_, _> = beginnings
            .map(|beginning| (beginning.shadow.cursor.stream, beginning))
            .collect();
        let live = self.read(streams.iter().map(|stream| stream.id)).await?;
        let mut works = Vec::with_capacity(streams.len());
        for (stream, live) in streams.into_iter().zip(live) {
            let Some((live, head)) = live else { continue };
            let beginning = beginnings.remove(&stream.id);
            let (kept, dead) = (kept.remove(&stream.id), dead.remove(&stream.id));
            let dead = dead.unwrap_or_default();
            works.push(Work::new(stream, live, head, beginning, kept, dead));
        }
        Ok(works)
    }

    /// Cursors with the heads of their streams.
    async fn read(
        &self,
        streams: impl Iterator<Item = StreamId>,
    ) -> Result<Vec<Option<(Cursor, Seq)>>, Error> {
        let want = |stream| InputRequest {
            cursor: CursorId {
                stream,
                handler: self.handler.id,
            },
            events_max: 0,
        };
        let inputs = self
            .engine
            .store
            .inputs(streams.map(want).collect())
            .await?;
        let read = |input: Option<crate::store::Input>| {
            let input = input?;
            Some((input.cursor, input.head))
        };
        Ok(inputs.into_iter().map(read).collect())
    }

    /// Reads and folds one portion of events.
    async fn fold(&self, works: &mut [Work]) -> Result<(), Error> {
        let (mut room, mut asked, mut ranges) = (EVENTS_ALL_MAX, Vec::new(), Vec::new());
        for (place, work) in works.iter().enumerate() {
            if room == 0 {
                break;
            }
            let limit = work.rest().min(EVENTS_MAX).min(room);
            if work.is_there() || limit == 0 {
                continue;
            }
            room -= limit;
            asked.push(place);
            ranges.push(Range {
                stream: work.stream.id,
                after: Seq(work.shadow.position.0),
                limit,
            });
        }
        let read = self.engine.store.ranges(ranges).await?;
        for (place, events) in asked.into_iter().zip(read) {
            let work = &mut works[place];
            let due = work.shadow.position.next();
            let numbers = events.iter().map(|event| event.seq.0);
            if events.is_empty() || !numbers.eq((due.0..).take(events.len())) {
                work.failure = Some(format!("gap: events after seq {} are missing", due.0 - 1));
                continue;
            }
            work.events = events;
            work.events.reverse();
        }
        loop {
            let tasks = works.iter_mut().enumerate();
            let tasks: Vec<_> = tasks
                .filter_map(|(place, work)| Some((place, work.task(self.handler)?)))
                .collect();
            if tasks.is_empty() {
                return Ok(());
            }
            for (place, folded) in self.fold_all(tasks).await {
                works[place].take(folded);
            }
        }
    }

    /// Folds tasks on all threads in parallel.
    async fn fold_all(&self, tasks: Vec<(usize, Task)>) -> Vec<(usize, Folded)> {
        let mut shares: Vec<(Vec<usize>, Vec<Task>, usize)> =
            vec![Default::default(); self.threads];
        for (place, task) in tasks {
            // The next task goes to the thread with the fewest events.
            if let Some(share) = shares.iter_mut().min_by_key(|share| share.2) {
                share.0.push(place);
                share.2 += task.events.len();
                share.1.push(task);
            }
        }
        let shares = shares.into_iter().filter(|share| !share.0.is_empty());
        let folding = shares.map(|(places, tasks, _)| async move {
            let folded = self.folds.fold(tasks, Duration::MAX).await;
            places.into_iter().zip(folded)
        });
        join_all(folding).await.into_iter().flatten().collect()
    }

    /// Swaps the states that have caught up with their cursors, and records the progress. The number of
    /// differing states is added to `later`, for the next step.
    async fn settle(
        &self,
        rebuild: &mut Rebuild,
        works: &mut [Work],
        later: &mut RebuildProgress,
        steps: &Steps,
    ) -> Result<(), Error> {
        let (mut swaps, mut swapping) = (Vec::new(), Vec::new());
        let (mut shadows, mut progress) = (Vec::new(), RebuildProgress::default());
        for (place, work) in works.iter_mut().enumerate() {
            progress.events += std::mem::take(&mut work.folded);
            match work.settle() {
                Standing::GoesOn => {
                    if work.shadow.position > work.beginning.shadow.position {
                        shadows.push(work.shadow.clone());
                    }
                }
                Standing::Failed => self.fail(work, &mut progress),
                Standing::IsThere if rebuild.is_check() => {
                    work.is_done = true;
                    self.note_difference(work, &mut progress);
                }
                Standing::IsThere => {
                    swapping.push(place);
                    swaps.push(work.swap());
                }
            }
        }
        let step = RebuildStep {
            swaps,
            shadows,
            progress,
            ..RebuildStep::of(rebuild)
        };
        let swapped;
        (*rebuild, swapped) = steps.take(step).await?;
        let mut lost = Vec::new();
        for (place, is_swapped) in swapping.into_iter().zip(swapped) {
            let work = &mut works[place];
            if !is_swapped {
                lost.push(place);
                continue;
            }
            work.is_done = true;
            self.note_difference(work, later);
            self.let_go(work);
        }
        self.read_again(works, &lost).await
    }

    fn fail(&self, work: &mut Work, progress: &mut RebuildProgress) {
        work.is_done = true;
        progress.failed += 1;
        let failure = work.failure.as_deref().unwrap_or("it came to no end");
        let name = self.name(work);
        progress
            .samples
            .push(format!("{name} kept its state: {failure}"));
    }

    fn note_difference(&self, work: &Work, progress: &mut RebuildProgress) {
        if let Some(differs) = &work.differs {
            progress.differ += 1;
            progress
                .samples
                .push(format!("{} {differs}", self.name(work)));
        }
    }

    fn name(&self, work: &Work) -> StreamName {
        StreamName {
            hook: self.hook.name.clone(),
            key: work.stream.key.clone(),
        }
    }

    /// Hints a cursor so that it continues from its new state.
    fn let_go(&self, work: &Work) {
        let behind = work.shadow.position.behind(work.head);
        self.engine
            .changes
            .applied
            .moved(std::iter::once(work.stream.id));
        if behind > 0 || work.live.condition != Condition::Flowing {
            let namespace = &self.hook.namespace;
            self.engine
                .let_go(namespace, work.stream.slot, work.live.id, behind);
        }
    }

    /// Reads the cursors again whose swaps were refused.
    async fn read_again(&self, works: &mut [Work], lost: &[usize]) -> Result<(), Error> {
        if lost.is_empty() {
            return Ok(());
        }
        let streams: Vec<_> = lost.iter().map(|place| works[*place].stream.id).collect();
        let live = self.read(streams.into_iter()).await?;
        for (place, live) in lost.iter().zip(live) {
            let work = &mut works[*place];
            let Some((live, head)) = live else {
                work.is_done = true;
                continue;
            };
            let catalog = self.engine.catalog.peek();
            let may_pass = may_pass(&catalog, self.hook, work.stream.slot, &live);
            work.lost_to(live, head, may_pass);
        }
        Ok(())
    }
}
