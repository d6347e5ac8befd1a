//! Runs one lane: everything that waits is in this loop, everything that decides is in [`Lane`].
//!
//! A lane folds one turn at a time. While that turn commits, the next one may fold, with other cursors,
//! so a stream with little to do does not wait until a spike beside it is on stable storage. Handlers
//! beyond their share of fold time take turns beside these (`slow.rs`), with their own cursors.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{MutexGuard, RwLock, RwLockReadGuard, watch};

use super::catalog::Snapshot;
use super::gauge::{Gauge, Reading};
use super::lane::{HandlerBacklog, Lane, Line, Outcome, Parked, Survey};
use super::{Engine, turn};
use crate::domain::cursor::CursorId;
use crate::domain::hook::HandlerId;
use crate::domain::lane::{LaneId, Mode};
use crate::domain::time::Timestamp;
use crate::lanes::{self, Backlog, Hint, Queue};
use crate::store::Error;

/// Number of turns of a lane at once: one that folds, and one that commits.
pub(super) const TURNS_MAX: usize = 2;

/// Pause of a lane after the database refused its turn.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Pause of a lane while the disk is full.
const PAUSE_WITHOUT_SPACE: Duration = Duration::from_secs(5);

/// Interval at which an idle lane looks at its clock.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// A lane that runs here.
pub struct Worker {
    /// The lane.
    pub id: LaneId,
    /// Epoch of this take of the lane.
    pub epoch: i64,
    /// True once it takes no more turns: its cursors belong to another worker.
    has_stopped: AtomicBool,
    queue: Arc<Queue>,
    lane: Mutex<Lane>,
    gauge: Mutex<Gauge>,
    /// The running turns: start time, and first cursor.
    running: Mutex<Vec<(Instant, CursorId)>>,
    /// Read-locked by each turn from the check of what the lane may do until it has ended.
    turns: RwLock<()>,
    /// Locked by the turn that reads and folds.
    fold: tokio::sync::Mutex<()>,
    /// Changes when a caller waits for the turns to end: turns of slow handlers are then aborted and
    /// taken again later.
    hurry: watch::Sender<()>,
    /// True once no more turns may begin.
    is_closed: AtomicBool,
}

/// Cursors with the time for which each has gathered events.
type Gathered = Vec<(CursorId, Duration)>;

/// A turn that may begin.
struct Next<'a> {
    /// Cursors to fold.
    batch: Vec<CursorId>,
    /// Time for which each of them has gathered events.
    gathered: Vec<Duration>,
    /// Cursors whose next events are to be delivered, with their gathering times.
    deliveries: Gathered,
    /// The lane's queue, if no cursor waits besides those of this turn; `None` if another one does.
    alone: Option<Arc<Queue>>,
    turn: RwLockReadGuard<'a, ()>,
    /// `None` for the turn of a slow handler.
    fold: Option<MutexGuard<'a, ()>>,
}

impl Worker {
    /// A worker for the lane of `queue`, which was taken under `epoch`.
    pub fn new(id: LaneId, epoch: i64, queue: Arc<Queue>) -> Self {
        Self {
            id,
            epoch,
            has_stopped: AtomicBool::new(false),
            queue,
            lane: Mutex::default(),
            gauge: Mutex::default(),
            running: Mutex::default(),
            turns: RwLock::default(),
            fold: tokio::sync::Mutex::default(),
            hurry: watch::channel(()).0,
            is_closed: AtomicBool::new(false),
        }
    }

    /// Takes turns until `stop` is requested; running turns are finished first.
    pub async fn run(self: &Arc<Self>, engine: &Arc<Engine>, mut stop: watch::Receiver<bool>) {
        let mut turns = FuturesUnordered::new();
        let mut goes_on = true;
        while goes_on && !*stop.borrow() {
            let running = turns.len();
            tokio::select! {
                biased;
                _ = stop.changed() => {}
                Some(ended) = turns.next() => goes_on = ended,
                mut next = self.next(engine, running == 0), if running < TURNS_MAX => {
                    let deliveries = std::mem::take(&mut next.deliveries);
                    engine.deliver(self, &deliveries);
                    if !next.batch.is_empty() {
                        turns.push(self.take_turn(engine, next, stop.clone()));
                    }
                }
            }
        }
        self.has_stopped.store(true, Ordering::Release);
        while turns.next().await.is_some() {}
        self.is_closed.store(true, Ordering::Relaxed);
        self.turns_end().await;
    }

    /// True once the cursors of this lane belong to another worker.
    pub fn has_stopped(&self) -> bool {
        self.has_stopped.load(Ordering::Acquire)
    }

    /// Takes back a cursor, unchanged, whose delivery did not happen.
    pub fn not_turned(&self, cursor: CursorId) {
        self.lane.lock().not_turned(cursor);
        self.queue.poke();
    }

    /// Takes back a cursor that cannot be delivered now.
    pub fn set_aside(&self, cursor: CursorId, aside: Parked) {
        let mut lane = self.lane.lock();
        let rest = lane.rest(cursor);
        lane.turned(
            cursor,
            rest.map_or(Outcome::Done, |rest| Outcome::Parked(aside, rest)),
        );
        drop(lane);
        self.queue.poke();
    }

    /// Takes back a cursor with its outcome, such as one that no longer exists.
    pub fn turned(&self, cursor: CursorId, outcome: Outcome) {
        self.lane.lock().turned(cursor, outcome);
        self.queue.poke();
    }

    /// Takes back a cursor after its delivery.
    pub fn delivered(&self, turned: &turn::Turned, now: Timestamp) {
        {
            let steady = Timestamp::steady();
            let mut lane = self.lane.lock();
            for (cursor, outcome) in &turned.outcomes {
                lane.turned(*cursor, outcome.by_other_clock(now, steady));
            }
        }
        let mut gauge = self.gauge.lock();
        gauge.went(&turned.received, &turned.work, now);
        gauge.turned(Duration::ZERO, turned.failed, now);
        drop(gauge);
        self.queue.poke();
    }

    /// Waits until cursors may take a turn. Cancel-safe: a cancelled call takes no cursor.
    async fn next(&self, engine: &Engine, is_only: bool) -> Next<'_> {
        let mut changes = engine.changes.acting.subscribe();
        loop {
            let fold = self.fold.lock().await;
            let turn = self.turns.read().await;
            changes.mark_unchanged();
            self.take_hints();
            let (batch, deliveries, alone) = self.next_batch(engine);
            if !batch.is_empty() || !deliveries.is_empty() {
                let alone = alone.filter(|_| is_only);
                let (batch, gathered) = batch.into_iter().unzip();
                return Next {
                    batch,
                    gathered,
                    deliveries,
                    alone,
                    turn,
                    fold: Some(fold),
                };
            }
            drop((turn, fold));
            tokio::select! {
                () = self.idle(engine) => {}
                _ = changes.changed() => {}
            }
        }
    }

    /// Returns when the running turns have ended. Later turns go by the present configuration.
    pub async fn turns_end(&self) {
        self.hurry.send_replace(());
        drop(self.turns.write().await);
    }

    /// Gives up every cursor, once the lane no longer runs.
    pub fn give_up(&self) -> Vec<Hint> {
        self.lane.lock().give_up()
    }

    /// Gives up cursors that take their turns elsewhere now.
    pub fn give_up_strangers(&self, catalog: &Snapshot) -> Vec<Hint> {
        self.take_hints();
        let is_strange = |cursor| catalog.is_stranger(&self.id, cursor);
        self.lane.lock().give_up_those(is_strange)
    }

    /// Lets cursors that an operator had stopped, or that gather events, check whether they must still
    /// wait.
    pub fn let_kept_go(&self) {
        self.lane.lock().let_kept_go();
    }

    /// The given handlers that have ready cursors.
    pub fn ready_of(&self, handlers: &[HandlerId], engine: &Engine) -> Vec<HandlerId> {
        if self.is_closed.load(Ordering::Relaxed) || self.is_paused(engine) {
            return Vec::new();
        }
        self.take_hints();
        self.lane.lock().ready_of(handlers, Timestamp::steady())
    }

    /// Wakes the worker, for example when a handler is no longer slow.
    pub fn wake(&self) {
        self.queue.poke();
    }

    /// Takes a turn of a slow handler, beside those of the lane.
    pub async fn take_slow_turn(&self, engine: &Engine, handler: HandlerId) {
        let hurry = self.hurry.subscribe();
        let turn = self.turns.read().await;
        if self.is_closed.load(Ordering::Relaxed) || self.is_paused(engine) {
            return;
        }
        let (batch, gathered) = {
            let (mut lane, now) = (self.lane.lock(), Timestamp::steady());
            let batch = lane.next_of(handler, turn::SLOW_CURSORS_MAX, now);
            let gathered = lane.gathered(&batch, now);
            (batch, gathered)
        };
        if batch.is_empty() {
            return;
        }
        let next = Next {
            batch,
            gathered,
            deliveries: Vec::new(),
            alone: None,
            turn,
            fold: None,
        };
        if let Err(error) = self.try_turn(engine, next, Some(hurry)).await
            && !engine.fail_if_fatal(&error)
        {
            tracing::warn!(lane = %self.id, %error, "a turn is taken again");
            tokio::time::sleep(pause(&error)).await;
        }
    }

    fn is_paused(&self, engine: &Engine) -> bool {
        engine.catalog.peek().stops.mode(&self.id) == Mode::Paused
    }

    /// True if the lane knows that a cursor has work.
    pub fn knows(&self, cursor: CursorId) -> bool {
        self.take_hints();
        self.lane.lock().knows(cursor)
    }

    /// The cursors that the lane knows to have work, in no order.
    pub fn cursors(&self) -> Vec<CursorId> {
        self.lane.lock().cursors().collect()
    }

    /// The cursors that the lane knows to have work, including those in its hint queue.
    pub fn known(&self) -> Vec<CursorId> {
        self.take_hints();
        self.cursors()
    }

    /// Forgets all cursors with work and returns them; the caller finds them again in the database.
    pub fn wipe(&self) -> Vec<CursorId> {
        self.take_hints();
        self.lane.lock().wipe()
    }

    /// Work of each handler that has some.
    pub fn backlogs(&self) -> HashMap<HandlerId, HandlerBacklog> {
        self.take_hints();
        self.lane.lock().backlogs()
    }

    /// Figures of the lane at `now`.
    pub fn survey(&self, now: Timestamp) -> (Survey, Reading) {
        self.take_hints();
        let (survey, spans) = {
            let lane = self.lane.lock();
            let (survey, steady) = (lane.survey(), Timestamp::steady());
            let by_wall =
                |(until, cursor): (Timestamp, _)| (until.by_other_clock(steady, now), cursor);
            let survey = Survey {
                turn_wait: lane.turn_wait(steady),
                gathers_longest: survey.gathers_longest.map(by_wall),
                ..survey
            };
            (survey, lane.spans())
        };
        let reading = self.gauge.lock().reading(now, &spans);
        (survey, reading)
    }

    /// Time until which a cursor gathers events in this lane, by the wall clock; `None` when it does
    /// not.
    pub fn gathers_until(&self, cursor: CursorId) -> Option<Timestamp> {
        let until = self.lane.lock().gathers_until(cursor)?;
        Some(until.by_other_clock(Timestamp::steady(), Timestamp::now()))
    }

    /// Cursors for display: the set-aside ones that have waited longest, then the others that have.
    pub fn lines(&self, set_aside_max: usize, flowing_max: usize) -> Vec<Line> {
        self.lane.lock().lines(set_aside_max, flowing_max)
    }

    /// The longest-running turn: its duration and first cursor.
    pub fn turn(&self) -> Option<(Duration, CursorId)> {
        let running = self.running.lock();
        let longest = running.iter().min_by_key(|(since, _)| *since);
        longest.map(|(since, cursor)| (since.elapsed(), *cursor))
    }

    fn take_hints(&self) {
        // Moved under the lane's lock, so that a hint is always visible in the queue or in the lane.
        let mut lane = self.lane.lock();
        let hints = self.queue.take();
        if hints.is_empty() {
            return;
        }
        let came = |hint: &lanes::Hint| match hint.backlog {
            Backlog::More(events) => events,
            Backlog::Total(_) => 0,
        };
        let came = hints.iter().map(came).sum();
        lane.hinted(hints);
        drop(lane);
        self.gauge.lock().came(came, Timestamp::now());
    }

    /// The next cursors to fold and to deliver, and the lane's queue if no cursor waits besides them. A paused
    /// lane takes no turns, but forwards hints about streams of another namespace, sent by a node that
    /// did not know of their move.
    fn next_batch(&self, engine: &Engine) -> (Gathered, Gathered, Option<Arc<Queue>>) {
        if self.is_paused(engine) {
            let is_strange = |cursor| engine.catalog.peek().is_stranger(&self.id, cursor);
            let strangers = self.lane.lock().give_up_new(is_strange);
            engine.place_later(strangers);
            return (Vec::new(), Vec::new(), None);
        }
        let catalog = engine.catalog.peek();
        let delivers = |cursor: &CursorId| {
            let handler = catalog.handlers.get(&cursor.handler);
            handler.is_some_and(|handler| handler.forward().is_some())
        };
        let mut lane = self.lane.lock();
        let shares = engine.folds.lanes.shares();
        shares.with(|shares, _| {
            let is_left_out = |handler| shares.is_left_out(handler);
            let now = Timestamp::steady();
            let batch = lane.next_batch(turn::CURSORS_MAX, now, is_left_out);
            let gathered = lane.gathered(&batch, now);
            let batch = batch.into_iter().zip(gathered);
            let (deliveries, batch): (Gathered, Gathered) =
                batch.partition(|(cursor, _)| delivers(cursor));
            lane.delivers(deliveries.iter().map(|(cursor, _)| *cursor));
            let alone = lane.is_idle(is_left_out).then(|| self.queue.clone());
            (batch, deliveries, alone)
        })
    }

    /// Takes a turn to its end, or pauses after a failure. True if further turns may follow.
    async fn take_turn(
        &self,
        engine: &Engine,
        next: Next<'_>,
        mut stop: watch::Receiver<bool>,
    ) -> bool {
        let Err(error) = self.try_turn(engine, next, None).await else {
            return true;
        };
        if engine.fail_if_fatal(&error) {
            return false;
        }
        tracing::warn!(lane = %self.id, %error, "a turn is taken again");
        tokio::select! {
            () = tokio::time::sleep(pause(&error)) => {}
            _ = stop.changed() => {}
        }
        true
    }

    /// Takes a turn to its end. With `gives_way`, folding is aborted when that changes.
    async fn try_turn(
        &self,
        engine: &Engine,
        next: Next<'_>,
        gives_way: Option<watch::Receiver<()>>,
    ) -> Result<(), Error> {
        let Next {
            batch,
            gathered,
            deliveries: _,
            alone,
            turn: _turn,
            fold,
        } = next;
        let began = Instant::now();
        let running = batch.first().map(|cursor| (began, *cursor));
        self.running.lock().extend(running);
        let folded = match gives_way {
            None => {
                let folds = &engine.folds.lanes;
                Some(turn::fold(engine, folds, &self.id, &batch, &gathered, alone).await)
            }
            Some(mut hurry) => {
                let folds = &engine.folds.slow;
                tokio::select! {
                    folded = turn::fold(engine, folds, &self.id, &batch, &gathered, alone) => Some(folded),
                    _ = hurry.changed() => None,
                }
            }
        };
        // The lane runs other turns meanwhile, so the turn of a slow handler does not count as its busy
        // time.
        let is_beside = fold.is_none();
        drop(fold);
        let Some(folded) = folded else {
            self.running.lock().retain(|one| Some(*one) != running);
            self.again(&batch);
            return Ok(());
        };
        let turned = match folded {
            Ok(folded) => folded.commit(engine).await,
            Err(error) => Err(error),
        };
        self.running.lock().retain(|one| Some(*one) != running);
        if turned.is_err() {
            self.again(&batch);
        }
        let turned = turned?;
        let now = Timestamp::now();
        {
            let mut lane = self.lane.lock();
            for (cursor, outcome) in &turned.outcomes {
                lane.turned(*cursor, *outcome);
            }
        }
        {
            let mut gauge = self.gauge.lock();
            gauge.went(&turned.received, &turned.work, now);
            let busy = match is_beside {
                true => Duration::ZERO,
                false => began.elapsed(),
            };
            gauge.turned(busy, turned.failed, now);
        }
        engine.count_turn(&turned, now);
        engine
            .changes
            .applied
            .moved(batch.iter().map(|cursor| cursor.stream));
        Ok(())
    }

    /// Puts a batch whose turn failed back to the end of the order.
    fn again(&self, batch: &[CursorId]) {
        let mut lane = self.lane.lock();
        for cursor in batch {
            lane.not_turned(*cursor);
        }
    }

    /// Waits for a hint, or for the time of a waiting cursor.
    async fn idle(&self, engine: &Engine) {
        let due = self.lane.lock().next_due();
        let due = due.filter(|_| !self.is_paused(engine));
        let Some(due) = due else {
            return self.queue.poked().await;
        };
        // Rounded up, so that the time has come when this returns.
        let wait = due.since(Timestamp::steady()) + Duration::from_millis(1);
        // Limited, because a timer stands still while the machine sleeps.
        let wait = wait.min(LOOK_EVERY);
        let _ = tokio::time::timeout(wait, self.queue.poked()).await;
    }
}

fn pause(error: &Error) -> Duration {
    match error {
        Error::Space => PAUSE_WITHOUT_SPACE,
        _ => PAUSE_AFTER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rusqlite::Connection;

    use super::*;
    use crate::domain::event::{EventId, StreamId};
    use crate::domain::hook::{DedupeBy, HandlerId, HookId, OnError, OrderBy, Reducer, Unordered};
    use crate::domain::keep::Keep;
    use crate::domain::lane::Slot;
    use crate::domain::name::{Name, OrderingKey};
    use crate::domain::place::Place;
    use crate::engine::{Running, observer};
    use crate::lanes::{Lanes, Recheck};
    use crate::metrics::Metrics;
    use crate::store::{Appended, HookPlan, NewEvent, Store};

    async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let soon = async {
            while !is_so().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let timely = tokio::time::timeout(Duration::from_secs(20), soon).await;
        assert!(timely.is_ok(), "not in 20 s: {what}");
    }

    /// A node with one lane and a hook that counts, once nothing is left to be found.
    async fn node(file: &std::path::Path) -> (Running, HookId, HandlerId) {
        let (failed, _) = watch::channel(None);
        let metrics = Metrics::new();
        let observer = observer(metrics.clone(), failed.clone());
        let store = Store::open(file, observer).await.unwrap();
        let (namespace, now) = (Name::default_namespace(), Timestamp::now());
        let made = store.create_namespace(&namespace, 1, Default::default(), now);
        made.await.unwrap();
        let running = Engine::start(store, None, Default::default(), metrics, failed)
            .await
            .unwrap();
        let engine = running.engine();
        let plan = HookPlan {
            name: "orders".parse().unwrap(),
            namespace,
            order_by: OrderBy::Place(Place::Header("x-account".into())),
            unordered: Unordered::Keep,
            dedupe_by: DedupeBy::default(),
            verify: None,
            handshake: None,
            versioning: None,
            allow_from: crate::domain::network::Networks::default(),
            body_max: 1_000,
            keep: Keep::Forever,
            reducer: Some(Reducer::Count),
            on_error: OnError::Hold,
            debounce: None,
            only: Default::default(),
            forwards: Vec::new(),
            pulls: Vec::new(),
        };
        let made = engine.store.create_hooks(&[plan], now).await;
        made.unwrap().unwrap();
        engine.config_changed().await.unwrap();
        engine.acts_by(engine.catalog.now().version).await;
        until("no work", async || engine.sweep().await.unwrap() == 0).await;
        let hook = engine.store.hooks().await.unwrap().remove(0);
        let handler = hook.handlers[0].id;
        (running, hook.id, handler)
    }

    /// Stores an event of which no lane hears.
    async fn store_unseen(store: &Store, hook: HookId, key: &str) -> StreamId {
        let received_at = Timestamp::now();
        let key = OrderingKey::new(key.as_bytes());
        let event = NewEvent {
            hook,
            slot: Slot::of(&"orders".parse().unwrap(), &key),
            key,
            id: EventId::new(received_at),
            received_at,
            key_id: None,
            dedupe_key: None,
            headers: "{}".into(),
            body: Bytes::from("{}"),
            provided: None,
        };
        match store.append(move || vec![event]).await.unwrap()[..] {
            [Appended::New { stream, .. }] => stream,
            ref other => panic!("{other:?}"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_paused_lane_passes_on_what_takes_its_turns_in_another_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let (node, hook, handler) = node(&dir.path().join("hooklane.db")).await;
        let engine = node.engine();
        let now = Timestamp::now();
        let other: Name = "other".parse().unwrap();
        let made = engine
            .store
            .create_namespace(&other, 1, Default::default(), now);
        assert!(made.await.unwrap());
        engine.config_changed().await.unwrap();
        let set = engine.catalog.now().lane_sets[&other].clone();
        let lanes: Vec<_> = set.ids().collect();
        let why = crate::store::Attribution {
            by: "somebody".to_owned(),
            reason: None,
            at: now,
        };
        let paused = engine.store.pause_lanes(&set, &lanes, &why).await;
        assert!(paused.unwrap());
        engine.config_changed().await.unwrap();
        engine.acts_by(engine.catalog.now().version).await;
        // As from a node that takes the hook to be there still. No sweep takes it out of that lane again.
        let stream = store_unseen(&engine.store, hook, "a").await;
        let cursor = CursorId { stream, handler };
        let hint = Hint {
            cursor,
            oldest: now,
            newest: now,
            backlog: Backlog::More(1),
            recheck: Recheck::No,
        };
        engine.lanes.hint(&lanes[0], vec![hint]).unwrap();
        let paused = engine.worker(&lanes[0]).unwrap();
        until("passed on", async || !paused.knows(cursor)).await;
        until("applied", async || {
            let read = engine.store.cursor(cursor).await.unwrap();
            read.is_some_and(|(cursor, ..)| cursor.position.0 == 1)
        })
        .await;
        node.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn while_a_turn_commits_the_next_one_folds_and_no_third_begins() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hooklane.db");
        let (node, hook, handler) = node(&file).await;
        let engine = node.engine();
        let lane = engine
            .running_lanes
            .running
            .read()
            .keys()
            .next()
            .cloned()
            .unwrap();
        // A sweep that comes late must not have them applied before the turns that are looked at.
        engine.stop_lanes(std::slice::from_ref(&lane)).await;
        let mut cursors = Vec::new();
        for key in ["a", "b", "c"] {
            let stream = store_unseen(&engine.store, hook, key).await;
            cursors.push(CursorId { stream, handler });
        }
        let queue = Lanes::default().open(&lane);
        let worker = Arc::new(Worker::new(lane, 0, queue.clone()));
        let (stop, stopping) = watch::channel(false);
        let (takes, on) = (worker.clone(), engine.clone());
        let taking = tokio::spawn(async move { takes.run(&on, stopping).await });
        let hint = |cursor: CursorId| Hint {
            cursor,
            oldest: Timestamp::now(),
            newest: Timestamp::now(),
            backlog: Backlog::More(1),
            recheck: Recheck::No,
        };
        let position = async |cursor| {
            let read = engine.store.cursor(cursor).await.unwrap();
            read.map(|(cursor, ..)| cursor.position.0)
        };

        // Nobody commits while somebody else writes.
        let other = Connection::open(&file).unwrap();
        other.execute_batch("begin immediate").unwrap();
        queue.push(vec![hint(cursors[0])]).unwrap();
        until("a turn", async || worker.running.lock().len() == 1).await;
        queue.push(vec![hint(cursors[1])]).unwrap();
        until("the next", async || worker.running.lock().len() == 2).await;
        queue.push(vec![hint(cursors[2])]).unwrap();
        // Reads take longer than it takes to begin a turn.
        for cursor in &cursors {
            assert_eq!(position(*cursor).await, Some(0), "nothing is committed");
        }
        assert_eq!(worker.running.lock().len(), 2);

        other.execute_batch("rollback").unwrap();
        for cursor in cursors {
            until("applied", async || position(cursor).await == Some(1)).await;
        }
        stop.send_replace(true);
        taking.await.unwrap();
        node.stop().await;
    }
}
