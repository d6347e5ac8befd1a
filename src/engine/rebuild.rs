//! Folds the events of streams again, beside the turns that go on, and puts the new state in the place of
//! the old one where it has reached it.
//!
//! Everything that must outlive a crash is in rows: how far a rebuild has come, and the folds of streams
//! that are not at their end. A swap raises the era of its cursor, so a turn that was computed from the
//! old state loses its compare-and-set and reads again. Nothing else is written, nothing is sent.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use super::Engine;
use super::reduce::{Folded, Folds, Task};
use crate::domain::cursor::{Applied, Chain, Condition, Cursor, CursorId, DeadLetter};
use crate::domain::event::{Event, StreamId};
use crate::domain::hook::{Handler, HandlerId, Hook, HookId};
use crate::domain::lane::Mode;
use crate::domain::name::{OrderingKey, StreamName};
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;
use crate::store::{Beginning, Come, Error, Range, Rebuild, Shadow, StreamRow, Swap, Want};

/// How often it is looked for rebuilds that nobody works on.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long a rebuild rests after the database refused its work.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Streams that are worked on together.
const STREAMS_MAX: i64 = 256;

/// Events that are read at a time: of one stream, and of all.
const EVENTS_MAX: usize = 5_000;
const EVENTS_ALL_MAX: usize = 20_000;

/// Swaps that may be lost to turns before a fold goes beyond the cursor's position.
const LOST_MAX: u32 = 2;

/// Works on rebuilds, one at a time, for as long as the node runs.
pub async fn run(engine: Arc<Engine>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = engine.rebuilds.notified() => {}
        }
        if let Err(error) = work_on_all(&engine).await {
            if engine.fail_if_fatal(&error) {
                return;
            }
            tracing::warn!(%error, "a rebuild goes on later");
            tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            engine.rebuild_soon();
        }
    }
}

async fn work_on_all(engine: &Engine) -> Result<(), Error> {
    for rebuild in engine.store.running_rebuilds().await? {
        let me = engine.member.as_ref().map(|member| member.id());
        let me = me.unwrap_or_default();
        if engine.store.claim_rebuild(rebuild.id, &me).await? {
            work_on(engine, rebuild).await?;
        }
    }
    Ok(())
}

async fn work_on(engine: &Engine, mut rebuild: Rebuild) -> Result<(), Error> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let folds = Folds::start(threads)
        .map_err(|error| Error::Refused(format!("no threads to fold on: {error}")))?;
    let mut kept = engine.store.shadows(rebuild.id).await?;
    loop {
        let catalog = engine.catalog.now();
        let handler = catalog.handlers.get(&HandlerId(rebuild.handler)).cloned();
        let hook = catalog.hooks_by_id.get(&HookId(rebuild.hook)).cloned();
        let (Some(handler), Some(hook)) = (handler, hook) else {
            return end(engine, &rebuild, Some("its hook was deleted")).await;
        };
        if handler.fold != rebuild.fold {
            let why = "the reducer was changed meanwhile: ask for it again";
            return end(engine, &rebuild, Some(why)).await;
        }
        let streams = page(engine, &rebuild).await?;
        if streams.is_empty() {
            return end(engine, &rebuild, None).await;
        }
        let page = Page {
            engine,
            folds: &folds,
            threads,
            hook: &hook,
            handler: &handler,
        };
        page.rebuild(&mut rebuild, streams, &mut kept).await?;
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

async fn end(engine: &Engine, rebuild: &Rebuild, error: Option<&str>) -> Result<(), Error> {
    tracing::info!(rebuild = rebuild.id, error, "a rebuild has ended");
    let now = Timestamp::now();
    engine.store.end_rebuild(rebuild, error, now).await?;
    // Nothing of its hook was removed meanwhile.
    engine.prune_soon();
    Ok(())
}

/// The state of a stream as today's reducer folds it, up to and with an event. Nothing is changed.
///
/// # Errors
/// Those of the database.
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
            // Retention has removed events after it was read where the fold begins.
            Some(_) if folded.began < now.floor && now.floor <= to => stream = now,
            Some(failure) => return Ok(Err(failure)),
        }
    }
}

/// A stream as today's reducer folds it from its beginning up to an event.
pub struct UpTo {
    /// Which stream.
    pub stream: StreamId,
    /// Where it began: the floor, when it was read.
    pub began: Seq,
    /// The oldest version of the reducer that has a part in it.
    pub fold: i64,
    /// What came of it, as far as it came.
    pub shadow: Shadow,
    /// Why it came no further.
    pub failure: Option<String>,
}

/// Folds streams, in their order, each up to and with an event. Nothing is changed.
///
/// # Errors
/// Those of the database.
pub async fn fold_up_to(
    engine: &Engine,
    hook: &Hook,
    handler: &Handler,
    streams: Vec<(StreamRow, Seq)>,
) -> Result<Vec<UpTo>, Error> {
    let page = Page {
        engine,
        folds: &engine.folds,
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
    let up_to = |work: Work| UpTo {
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

/// What streams are folded with.
struct Page<'p> {
    engine: &'p Engine,
    folds: &'p Folds,
    threads: usize,
    hook: &'p Hook,
    handler: &'p Handler,
}

/// One stream while it is folded again.
struct Work {
    stream: StreamRow,
    /// The cursor as last read, and its head.
    live: Cursor,
    head: Seq,
    /// Where every fold of the stream begins.
    beginning: Beginning,
    shadow: Shadow,
    /// How far the shadow shall come before it is looked at the cursor again.
    target: Seq,
    /// Events that were skipped, and stay so.
    dead: HashSet<Seq>,
    /// Those that the new fold skips too.
    skipped: Vec<DeadLetter>,
    /// Events read and not yet folded, in reverse.
    events: Vec<Arc<Event>>,
    folded: i64,
    failure: Option<String>,
    lost: u32,
    differs: Option<String>,
    is_done: bool,
}

impl Work {
    /// Whether there is nothing to fold before the cursor is looked at.
    fn is_there(&self) -> bool {
        self.failure.is_some() || self.shadow.position.next() > self.target
    }

    /// Events still to fold.
    fn rest(&self) -> usize {
        usize::try_from(self.shadow.position.behind(self.target)).unwrap_or(usize::MAX)
    }
}

impl Page<'_> {
    /// Rebuilds some streams, to their ends.
    async fn rebuild(
        &self,
        rebuild: &mut Rebuild,
        streams: Vec<StreamRow>,
        kept: &mut HashMap<StreamId, Shadow>,
    ) -> Result<(), Error> {
        let last = streams.last().map(|stream| stream.id);
        let mut works = self.begin(streams, kept).await?;
        let number = i64::try_from(works.len()).unwrap_or(0);
        loop {
            self.fold(&mut works).await?;
            self.settle(rebuild, &mut works).await?;
            works.retain(|work| !work.is_done);
            if works.is_empty() {
                break;
            }
        }
        let come = Come {
            after_stream: last,
            streams: number,
            ..Come::default()
        };
        let now = Timestamp::now();
        self.engine
            .store
            .advance_rebuild(rebuild, &[], &[], come, now)
            .await?;
        Ok(())
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
            let at_first = || Beginning {
                shadow: Shadow {
                    cursor: live.id,
                    position: Position::default(),
                    state: None,
                    chain: Chain::default(),
                },
                fold: None,
            };
            let beginning = beginnings.remove(&stream.id).unwrap_or_else(at_first);
            let kept = kept.remove(&stream.id);
            works.push(Work {
                shadow: kept.unwrap_or_else(|| beginning.shadow.clone()),
                beginning,
                target: Seq(live.position.0),
                dead: dead.remove(&stream.id).unwrap_or_default(),
                live,
                head,
                stream,
                skipped: Vec::new(),
                events: Vec::new(),
                folded: 0,
                failure: None,
                lost: 0,
                differs: None,
                is_done: false,
            });
        }
        Ok(works)
    }

    /// Cursors as they stand, with their heads.
    async fn read(
        &self,
        streams: impl Iterator<Item = StreamId>,
    ) -> Result<Vec<Option<(Cursor, Seq)>>, Error> {
        let want = |stream| Want {
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

    /// Reads and folds one portion.
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
                .filter_map(|(place, work)| Some((place, self.task(work)?)))
                .collect();
            if tasks.is_empty() {
                return Ok(());
            }
            for (place, folded) in self.fold_all(tasks).await {
                works[place].take(folded);
            }
        }
    }

    /// What is to be folded next of a stream, up to an event that is skipped.
    fn task(&self, work: &mut Work) -> Option<Task> {
        while let Some(event) = work.events.last()
            && work.failure.is_none()
            && work.dead.contains(&event.seq)
        {
            work.shadow.chain = work.shadow.chain.next(event.id, Applied::Skipped);
            work.shadow.position = Position(event.seq.0);
            work.folded += 1;
            work.events.pop();
        }
        if work.failure.is_some() || work.events.is_empty() {
            work.events.clear();
            return None;
        }
        let is_dead = |event: &Arc<Event>| work.dead.contains(&event.seq);
        let begin = work.events.iter().rposition(is_dead).map_or(0, |at| at + 1);
        let mut events = work.events.split_off(begin);
        events.reverse();
        Some(Task {
            reducer: self.handler.reducer.clone(),
            state: work.shadow.state.clone(),
            chain: work.shadow.chain.clone(),
            on_error: self.handler.on_error,
            events,
        })
    }

    /// Folds on every thread at once.
    async fn fold_all(&self, tasks: Vec<(usize, Task)>) -> Vec<(usize, Folded)> {
        let mut shares: Vec<(Vec<usize>, Vec<Task>, usize)> =
            vec![Default::default(); self.threads];
        for (place, task) in tasks {
            // The next goes to whoever has least to do.
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

    /// Puts states in their places where they have reached their cursors, and notes how far it has come.
    async fn settle(&self, rebuild: &mut Rebuild, works: &mut [Work]) -> Result<(), Error> {
        let (mut swaps, mut swapping) = (Vec::new(), Vec::new());
        let (mut shadows, mut come) = (Vec::new(), Come::default());
        for (place, work) in works.iter_mut().enumerate() {
            come.events += std::mem::take(&mut work.folded);
            if !work.is_there() {
                if work.shadow.position > work.beginning.shadow.position {
                    shadows.push(work.shadow.clone());
                }
                continue;
            }
            if work.shadow.position < work.live.position {
                self.fail(work, &mut come);
                continue;
            }
            if work.shadow.position == work.live.position {
                work.differs = difference(work.live.state.as_deref(), work.shadow.state.as_deref());
            }
            if rebuild.is_check() {
                work.is_done = true;
                self.note_difference(work, &mut come);
                continue;
            }
            swapping.push(place);
            swaps.push(work.swap());
        }
        let now = Timestamp::now();
        let store = &self.engine.store;
        let swapped = store
            .advance_rebuild(rebuild, &swaps, &shadows, come, now)
            .await?;
        let (mut differ, mut lost) = (Come::default(), Vec::new());
        for (place, is_swapped) in swapping.into_iter().zip(swapped) {
            let work = &mut works[place];
            if !is_swapped {
                lost.push(place);
                continue;
            }
            work.is_done = true;
            self.note_difference(work, &mut differ);
            self.let_go(work);
        }
        if differ.differ > 0 {
            store
                .advance_rebuild(rebuild, &[], &[], differ, now)
                .await?;
        }
        self.read_again(works, &lost).await
    }

    fn fail(&self, work: &mut Work, come: &mut Come) {
        work.is_done = true;
        come.failed += 1;
        let failure = work.failure.as_deref().unwrap_or("it came to no end");
        let name = self.name(work);
        come.samples
            .push(format!("{name} kept its state: {failure}"));
    }

    fn note_difference(&self, work: &Work, come: &mut Come) {
        if let Some(differs) = &work.differs {
            come.differ += 1;
            come.samples.push(format!("{} {differs}", self.name(work)));
        }
    }

    fn name(&self, work: &Work) -> StreamName {
        StreamName {
            hook: self.hook.name.clone(),
            key: work.stream.key.clone(),
        }
    }

    /// Lets a cursor go on from where its new state is.
    fn let_go(&self, work: &Work) {
        let behind = work.shadow.position.behind(work.head);
        self.engine.applied.moved(std::iter::once(work.stream.id));
        if behind > 0 || work.live.condition != Condition::Flowing {
            let namespace = &self.hook.namespace;
            self.engine
                .let_go(namespace, work.stream.slot, work.live.id, behind);
        }
    }

    /// Looks where the cursors are now whose swaps were lost.
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
            work.lost += 1;
            if live.position < work.shadow.position && work.failure.is_none() {
                // Somebody else has put another state there: from the beginning.
                work.shadow = work.beginning.shadow.clone();
            }
            work.target = match work.lost > LOST_MAX && self.may_pass(work, &live) {
                true => head,
                false => Seq(live.position.0),
            };
            (work.live, work.head) = (live, head);
        }
        Ok(())
    }

    /// Whether a fold may take the turns of its cursor.
    fn may_pass(&self, work: &Work, live: &Cursor) -> bool {
        let catalog = self.engine.catalog.peek();
        let lane = catalog.lane_sets.get(&self.hook.namespace);
        let is_active = lane.is_some_and(|set| {
            let lane = set.lane(work.stream.slot);
            catalog.stops.mode(&lane) == Mode::Active
        });
        is_active
            && !catalog.stops.hooks.contains_key(&self.hook.id)
            && live.condition == Condition::Flowing
    }
}

impl Work {
    fn take(&mut self, folded: Folded) {
        let passed = i64::try_from(folded.passed).unwrap_or(0);
        self.folded += passed;
        self.shadow.position = Position(self.shadow.position.0 + passed);
        self.shadow.state = folded.state;
        self.shadow.chain = folded.chain;
        self.skipped.extend(folded.skipped);
        if let Some(failure) = folded.failure {
            let seq = self.shadow.position.next();
            self.failure = Some(format!("at seq {seq}: {failure}"));
            self.events.clear();
        }
    }

    fn swap(&self) -> Swap {
        Swap {
            shadow: self.shadow.clone(),
            era: self.live.era,
            condition: match &self.failure {
                None => Condition::Flowing,
                Some(reason) => Condition::Held {
                    reason: reason.clone(),
                },
            },
            skipped: self.skipped.clone(),
        }
    }
}

/// Where two states differ first, for people: `/total 118 -> 121`. None when they are equal as JSON.
fn difference(old: Option<&str>, new: Option<&str>) -> Option<String> {
    if old == new {
        return None;
    }
    let read = |text: Option<&str>| match text {
        Some(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        None => Value::Null,
    };
    first_difference("", &read(old), &read(new))
}

fn first_difference(path: &str, old: &Value, new: &Value) -> Option<String> {
    let text = |value: Option<&Value>| match value {
        None => "nothing".to_owned(),
        Some(value) => {
            let text = value.to_string();
            match text.char_indices().nth(40) {
                Some((end, _)) => format!("{}..", &text[..end]),
                None => text,
            }
        }
    };
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let keys = old
                .keys()
                .chain(new.keys().filter(|key| !old.contains_key(*key)));
            for key in keys {
                let path = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
                match (old.get(key), new.get(key)) {
                    (Some(old), Some(new)) => {
                        if let Some(found) = first_difference(&path, old, new) {
                            return Some(found);
                        }
                    }
                    (old, new) => return Some(format!("{path} {} -> {}", text(old), text(new))),
                }
            }
            None
        }
        (old, new) if old == new => None,
        (old, new) => {
            let path = if path.is_empty() { "/" } else { path };
            Some(format!("{path} {} -> {}", text(Some(old)), text(Some(new))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn states_differ_as_json_and_the_first_place_is_said() {
        let of = |old, new| difference(Some(old), Some(new));
        assert_eq!(of(r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#), None);
        let said = of(
            r#"{"total":118,"by":{"x/y":1}}"#,
            r#"{"total":121,"by":{"x/y":2}}"#,
        );
        assert_eq!(said.as_deref(), Some("/total 118 -> 121"));
        let said = of(r#"{"by":{"x/y":1}}"#, r#"{"by":{"x/y":2}}"#);
        assert_eq!(said.as_deref(), Some("/by/x~1y 1 -> 2"));
        let said = of(r#"{"a":1}"#, r#"{"a":1,"n":[1]}"#);
        assert_eq!(said.as_deref(), Some("/n nothing -> [1]"));
        assert_eq!(of("5", "6").as_deref(), Some("/ 5 -> 6"));
        assert_eq!(difference(None, Some("null")), None);
    }
}
