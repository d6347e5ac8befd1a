//! What happens: events are let in and committed, lanes take turns, what was forgotten is found again.
//!
//! [`Engine`] owns everything that runs. [`Engine::start`] begins it, [`Running::stop`] ends it in the
//! order in which nothing is lost: nothing more is let in, what was let in is answered, turns finish.

pub mod applied;
pub mod catalog;
mod committer;
mod gauge;
pub mod intake;
pub mod lane;
pub mod membership;
pub mod reduce;
mod sweep;
mod turn;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::domain::cursor::CursorId;
use crate::domain::hook::HandlerId;
use crate::domain::lane::{LaneId, LaneSet, Slot};
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::lanes::{Aside, Behind, Hint, Lanes};
use crate::metrics::Metrics;
use crate::store::{Commit, Error, Store};

pub use gauge::Reading;
pub use worker::Worker;

/// How often the version of the configuration is looked at: a revoked key is refused within this time.
const CATALOG_EVERY: Duration = Duration::from_secs(1);

/// How often it is stored which keys were used.
const USES_EVERY: Duration = Duration::from_secs(60);

/// How often deleted hooks are looked for, and how long they rest before their events are removed.
const PURGE_EVERY: Duration = Duration::from_secs(300);
const PURGE_AFTER: Duration = Duration::from_secs(3600);

/// Streams removed at a time.
const PURGE_STREAMS: i64 = 100;

/// Threads lost to reducers that never return before the process ends itself to get them back.
const STUCK_MAX: usize = 4;

/// Everything that runs on this node.
pub struct Engine {
    /// What is kept.
    pub store: Store,
    /// The configuration as last read.
    pub catalog: catalog::Catalog,
    /// The queue in front of the committer.
    pub intake: intake::Intake,
    /// Hints.
    pub lanes: Lanes,
    /// The threads that fold.
    pub folds: reduce::Folds,
    /// Who waits for a state to move.
    pub applied: applied::Applied,
    /// Every counter.
    pub metrics: Arc<Metrics>,
    workers: RwLock<HashMap<LaneId, Arc<Worker>>>,
    /// Asks for a sweep, as when a handler is new.
    sweep: Notify,
    /// Changes with every commit that stored events.
    stored: watch::Sender<()>,
    failed: watch::Sender<Option<String>>,
}

/// The tasks of an engine that has started.
pub struct Running {
    engine: Arc<Engine>,
    stop: watch::Sender<bool>,
    committer: JoinSet<()>,
    lanes: Arc<Mutex<JoinSet<()>>>,
    duties: JoinSet<()>,
}

/// Tells an engine's metrics, and who must end the process, of every transaction.
pub fn observer(
    metrics: Arc<Metrics>,
    failed: watch::Sender<Option<String>>,
) -> Box<dyn Fn(Commit) + Send + Sync> {
    let was_failing = AtomicBool::new(false);
    Box::new(move |commit| {
        metrics.commits.inc();
        metrics.commit_seconds.observe(commit.took.as_secs_f64());
        if commit.events > 0 {
            metrics.commit_events.observe(commit.events as f64);
        }
        let failing = commit.error.is_some();
        // Once when it begins and once when it is over: a full disk refuses thousands a second.
        match (was_failing.swap(failing, Ordering::Relaxed), commit.error) {
            (_, Some(error)) if error.is_fatal() => {
                failed.send_replace(Some(error.to_string()));
            }
            (false, Some(error)) => tracing::error!(%error, "transactions fail"),
            (true, None) => tracing::info!("transactions succeed again"),
            _ => {}
        }
    })
}

impl Engine {
    /// Starts everything: when this returns, all unfinished work has been found.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn start(
        store: Store,
        metrics: Arc<Metrics>,
        failed: watch::Sender<Option<String>>,
    ) -> Result<Running, Error> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let engine = Arc::new(Self {
            catalog: catalog::Catalog::load(store.clone()).await?,
            intake: intake::Intake::new(store.committers().count),
            store,
            lanes: Lanes::default(),
            folds: reduce::Folds::start(threads)
                .map_err(|error| Error::Refused(format!("no threads to fold on: {error}")))?,
            applied: applied::Applied::default(),
            metrics,
            workers: RwLock::default(),
            sweep: Notify::new(),
            stored: watch::channel(()).0,
            failed,
        });
        let (stop, stopping) = watch::channel(false);
        let mut committer = JoinSet::new();
        for line in 0..engine.store.committers().count {
            committer.spawn(committer::run(engine.clone(), line));
        }
        let lanes = Arc::new(Mutex::new(JoinSet::new()));
        engine.run_new_lanes(&lanes, &stopping);
        sweep::run(&engine).await?;
        let mut duties = JoinSet::new();
        duties.spawn(engine.clone().follow_catalog(lanes.clone(), stopping));
        duties.spawn(engine.clone().sweep_now_and_then());
        duties.spawn(engine.clone().note_uses());
        duties.spawn(engine.clone().purge_deleted());
        Ok(Running {
            engine,
            stop,
            committer,
            lanes,
            duties,
        })
    }

    /// Reads the configuration again at once, after this node has changed it, and acts by it.
    ///
    /// # Errors
    /// Those of the database; the change is acted on within a second all the same.
    pub async fn config_changed(&self) -> Result<(), Error> {
        let before = self.catalog.now();
        self.catalog.refresh().await?;
        let after = self.catalog.now();
        let is_new = |handler: &HandlerId| !before.handlers.contains_key(handler);
        if after.handlers.keys().any(is_new) {
            self.sweep.notify_one();
        }
        Ok(())
    }

    /// Finds every cursor that is behind its head and hints it, now; says how many there are.
    ///
    /// # Errors
    /// Those of the database; what was found before is hinted.
    pub async fn sweep(&self) -> Result<u64, Error> {
        let (found, _) = sweep::run(self).await?;
        Ok(found)
    }

    /// Hints a cursor that may move again.
    pub fn let_go(&self, namespace: &Name, slot: Slot, cursor: CursorId, events: u64) {
        let catalog = self.catalog.peek();
        let Some(set) = catalog.lane_sets.get(namespace) else {
            return;
        };
        let hint = Hint {
            cursor,
            oldest: Timestamp::now(),
            behind: Behind::All(events),
            aside: Aside::Return,
        };
        self.hint(set.lane(slot), vec![hint]);
    }

    /// Says that cursors have work in a lane, wherever it runs.
    fn hint(&self, lane: LaneId, hints: Vec<Hint>) {
        // Whoever opens a lane sweeps it.
        let _ = self.lanes.hint(&lane, hints);
    }

    /// The worker of a lane, if it runs here.
    pub fn worker(&self, lane: &LaneId) -> Option<Arc<Worker>> {
        self.workers.read().get(lane).cloned()
    }

    /// Ends the process when an error leaves no other way; says whether it does.
    pub fn fail_if_fatal(&self, error: &Error) -> bool {
        if error.is_fatal() {
            self.failed.send_replace(Some(error.to_string()));
        }
        error.is_fatal()
    }

    /// Whether the process is about to end itself.
    pub fn is_failing(&self) -> bool {
        self.failed.borrow().is_some()
    }

    /// Is told of every commit that stores events from now on.
    pub fn stored(&self) -> watch::Receiver<()> {
        self.stored.subscribe()
    }

    /// Brings the gauges of the metrics up to now.
    pub fn measure(&self) {
        let (events, bytes) = self.intake.depth();
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.queue_events.set(number(events));
        self.metrics.queue_bytes.set(number(bytes));
        let (mut set_aside, mut held) = (0, 0);
        let now = Timestamp::now();
        for worker in self.workers.read().values() {
            let (survey, _) = worker.survey(now);
            held += survey.held;
            set_aside += survey.held + survey.waiting;
        }
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.cursors_set_aside.set(number(set_aside));
        self.metrics.cursors_held.set(number(held));
    }

    fn count_turn(&self, turned: &turn::Turned, now: Timestamp) {
        self.metrics.turns.inc();
        self.metrics
            .events_applied
            .inc_by(turned.received.len() as u64);
        for at in &turned.received {
            self.metrics
                .wait_seconds
                .observe(now.since(*at).as_secs_f64());
        }
        for (took, _) in &turned.work {
            self.metrics.fold_seconds.observe(took.as_secs_f64());
        }
        let stuck = self.folds.stuck();
        if stuck >= STUCK_MAX {
            self.failed.send_replace(Some(format!(
                "{stuck} threads are lost to reducers that never return; their streams are held"
            )));
        }
    }

    /// Runs the lanes of every lane set that is not run yet.
    fn run_new_lanes(
        self: &Arc<Self>,
        tasks: &Mutex<JoinSet<()>>,
        stopping: &watch::Receiver<bool>,
    ) {
        let catalog = self.catalog.now();
        for set in catalog.lane_sets.values() {
            for lane in set.ids() {
                self.run_lane(lane, tasks, stopping);
            }
        }
        self.drop_lanes_but(&catalog.lane_sets);
    }

    fn run_lane(
        self: &Arc<Self>,
        lane: LaneId,
        tasks: &Mutex<JoinSet<()>>,
        stopping: &watch::Receiver<bool>,
    ) {
        let mut workers = self.workers.write();
        if workers.contains_key(&lane) {
            return;
        }
        let queue = self.lanes.open(&lane);
        let worker = Arc::new(Worker::new(lane.clone(), queue));
        workers.insert(lane, worker.clone());
        let (engine, stopping) = (self.clone(), stopping.clone());
        let run = async move { worker.run(&engine, stopping).await };
        tasks.lock().spawn(run);
    }

    /// Namespaces that are gone have no hooks, so their lanes have no work.
    fn drop_lanes_but(&self, sets: &HashMap<Name, LaneSet>) {
        self.workers.write().retain(|lane, _| {
            sets.get(&lane.namespace)
                .is_some_and(|set| set.generation == lane.generation)
        });
    }

    async fn follow_catalog(
        self: Arc<Self>,
        lanes: Arc<Mutex<JoinSet<()>>>,
        stopping: watch::Receiver<bool>,
    ) {
        let mut seen = self.catalog.now().version;
        let mut clock = tokio::time::interval(CATALOG_EVERY);
        loop {
            clock.tick().await;
            if let Err(error) = self.config_changed().await {
                tracing::warn!(%error, "the configuration could not be read");
                self.fail_if_fatal(&error);
            }
            let version = self.catalog.now().version;
            if version != seen {
                seen = version;
                self.run_new_lanes(&lanes, &stopping);
            }
        }
    }

    async fn sweep_now_and_then(self: Arc<Self>) {
        let mut due = Instant::now() + sweep::EVERY;
        let mut commits = 0;
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep_until(due) => false,
                () = self.sweep.notified() => true,
            };
            // Nothing was stored since the last sweep: nothing can have been forgotten since.
            let now = self.metrics.commits.get();
            if !asked && now == commits {
                due = Instant::now() + sweep::EVERY;
                continue;
            }
            commits = now;
            let wait = match sweep::run(&self).await {
                Ok((_, wait)) => wait,
                Err(error) => {
                    tracing::warn!(%error, "a sweep was cut short");
                    sweep::EVERY
                }
            };
            due = Instant::now() + wait;
        }
    }

    async fn note_uses(self: Arc<Self>) {
        let mut clock = tokio::time::interval(USES_EVERY);
        loop {
            clock.tick().await;
            if let Err(error) = self.catalog.store_uses().await {
                tracing::warn!(%error, "the last uses of keys were not stored");
            }
        }
    }

    async fn purge_deleted(self: Arc<Self>) {
        let mut clock = tokio::time::interval(PURGE_EVERY);
        loop {
            clock.tick().await;
            let hour_ago = Timestamp::now().as_millis() - crate::domain::time::millis(PURGE_AFTER);
            let before = Timestamp::from_millis(hour_ago);
            loop {
                match self.store.purge(before, PURGE_STREAMS).await {
                    Ok(0) => break,
                    Ok(streams) => tracing::info!(streams, "streams of deleted hooks removed"),
                    Err(error) => {
                        tracing::warn!(%error, "deleted hooks are removed later");
                        break;
                    }
                }
            }
        }
    }
}

impl Running {
    /// The engine that runs.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Answers what was let in, finishes the turns that run, and closes the store. What is still to do
    /// is found at the next start.
    pub async fn stop(mut self) {
        self.engine.intake.stop();
        while self.committer.join_next().await.is_some() {}
        self.stop.send_replace(true);
        let mut lanes = std::mem::take(&mut *self.lanes.lock());
        while lanes.join_next().await.is_some() {}
        self.duties.shutdown().await;
        if let Err(error) = self.engine.catalog.store_uses().await {
            tracing::warn!(%error, "the last uses of keys were not stored");
        }
        self.engine.store.clone().close().await;
    }
}
