//! What happens: events are let in and committed, lanes take turns, what was forgotten is found again.
//!
//! [`Engine`] owns everything that runs. [`Engine::start`] begins it, [`Running::stop`] ends it in the
//! order in which nothing is lost: nothing more is let in, what was let in is answered, turns finish.

pub mod applied;
pub mod catalog;
mod committer;
pub mod forward;
pub mod front;
mod gauge;
pub mod intake;
pub mod lane;
pub mod membership;
pub mod ownership;
mod place;
pub mod prune;
pub mod pull;
mod readiness;
pub mod rebuild;
pub mod reduce;
pub mod rejections;
mod relay;
mod share;
#[cfg(test)]
mod simulation;
mod slow;
mod sweep;
mod turn;
mod wipe;
mod worker;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::domain::cursor::CursorId;
use crate::domain::hook::{HandlerId, Hook, HookId};
use crate::domain::lane::{LaneId, LaneSet, Slot};
use crate::domain::name::{Name, OrderingKey};
use crate::domain::time::Timestamp;
use crate::lanes::{Backlog, Hint, Lanes, Recheck};
use crate::metrics::{Metrics, Retried};
use crate::store::{self, Commit, Error, Store, Stuck};

use catalog::Drain;
pub use gauge::{Reading, Waits, times};
pub use worker::Worker;

/// How often the version of the configuration is looked at, so that it is never too old to judge keys by.
const CATALOG_EVERY: Duration = Duration::from_millis(500);

/// How often what a configuration asks for is tried again, when it could not be done.
const ACT_EVERY: Duration = Duration::from_secs(1);

/// How long a look at the configuration that failed waits before the next one.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How often draining lanes are looked at, while there are any.
const DRAINS_EVERY: Duration = Duration::from_millis(250);

/// How often it is stored which keys were used.
const USES_EVERY: Duration = Duration::from_secs(60);

/// Interval at which rejections are stored.
const REJECTIONS_EVERY: Duration = Duration::from_secs(5);

/// How often deleted hooks are looked for, and how long they rest before their events are removed.
const PURGE_EVERY: Duration = Duration::from_secs(300);
const PURGE_AFTER: Duration = Duration::from_secs(3600);

/// Streams removed at a time.
const PURGE_STREAMS: i64 = 100;

/// How long the deliveries in flight of a lane that is given away may take to be named.
const MARK_MAX: Duration = Duration::from_secs(5);

/// Within this time of an event that did not end, a second one of the same hook stops it.
const STUCK_WITHIN: Duration = Duration::from_secs(60);

/// Threads that fold for handlers beyond their share of time: one of them leaves the others a thread.
const SLOW_THREADS: usize = 2;

/// Everything that runs on this node.
pub struct Engine {
    /// What is kept.
    pub store: Store,
    /// The configuration as last read.
    pub catalog: catalog::Catalog,
    /// The threads that take events in.
    pub front: front::Front,
    /// The queue in front of the committer.
    pub intake: intake::Intake,
    /// Hints.
    pub lanes: Lanes,
    /// The threads that fold.
    pub folds: reduce::Folds,
    /// Deliveries to destinations.
    pub forwards: forward::Forwards,
    /// Those that fold for handlers beyond their share of time.
    pub slow_folds: reduce::Folds,
    /// Deliveries to consumers that ask.
    pub pulls: pull::Pulls,
    /// Who waits for a state to move.
    pub applied: applied::Applied,
    /// Requests that hooks rejected here and that are not stored yet.
    pub rejections: rejections::Rejections,
    /// Every counter.
    pub metrics: Arc<Metrics>,
    /// The way to the other nodes.
    pub relay: relay::Relay,
    /// This node among the others; none when a file is all its own.
    pub member: Option<ownership::Member>,
    running: RwLock<HashMap<LaneId, RunningLane>>,
    /// Those that run here no more but for the turn that they are in.
    stopping: RwLock<Vec<Arc<Worker>>>,
    /// Whether no lane is opened any more.
    is_ending: AtomicBool,
    /// Asks for a sweep, as when a handler is new.
    sweep: Notify,
    /// Asks for a look at what is to be folded again.
    rebuilds: Notify,
    /// Asks for a look at whose hints are to be made again.
    hints: Notify,
    /// Asks for a look at what is kept for too long.
    prunes: Notify,
    /// Streams of which it is.
    overdue: RwLock<Vec<prune::Overdue>>,
    /// Asks for a look at the other nodes.
    look: Notify,
    /// Asks to act by the configuration as read.
    changed: Notify,
    /// Changes when lanes have to look at what they may do; the version by which all of them act.
    acting: watch::Sender<i64>,
    /// Hints that came to a lane that is not the right one any more.
    misplaced: place::Misplaced,
    /// Changes with every commit that stored events.
    stored: watch::Sender<()>,
    readiness: readiness::Readiness,
    failed: watch::Sender<Option<String>>,
}

/// A lane that runs here.
struct RunningLane {
    worker: Arc<Worker>,
    epoch: i64,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// The tasks of an engine that has started.
pub struct Running {
    engine: Arc<Engine>,
    committer: JoinSet<()>,
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
        metrics
            .pulse
            .committed(commit.took, commit.synced, Timestamp::now());
        if commit.events > 0 {
            metrics.commit_events.observe(commit.events as f64);
        }
        let failing = commit.error.is_some();
        if let Some(Error::Contended(clash, _)) = &commit.error {
            metrics.retried(match clash {
                store::Clash::Deadlock => Retried::Deadlock,
                store::Clash::Serialization => Retried::Serialization,
            });
        }
        let outcome = commit
            .error
            .as_ref()
            .map_or(Ok(()), |error| Err(error.told()));
        metrics.pulse.ended(outcome, Timestamp::now());
        // Once when it begins and once when it is over: a full disk refuses thousands a second.
        match (was_failing.swap(failing, Ordering::Relaxed), commit.error) {
            (_, Some(error)) if error.is_fatal() => {
                failed.send_replace(error.last_words());
            }
            (false, Some(error)) => tracing::error!(%error, "transactions fail"),
            (true, None) => tracing::info!("transactions succeed again"),
            _ => {}
        }
    })
}

impl Engine {
    /// Starts everything: when this returns, all unfinished work has been found.
    pub async fn start(
        store: Store,
        node: Option<ownership::Node>,
        guard: forward::Guard,
        metrics: Arc<Metrics>,
        failed: watch::Sender<Option<String>>,
    ) -> Result<Running, Error> {
        let member = match &node {
            Some(node) => Some(ownership::Member::join(&store, node).await?),
            None => None,
        };
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let shares = Arc::<reduce::SharedShares>::default();
        let folds = |threads, is_slow| {
            let shares = shares.clone();
            reduce::Folds::start_pool(reduce::Pool {
                threads,
                is_slow,
                shares,
            })
            .map_err(|error| Error::Refused(format!("no threads to fold on: {error}")))
        };
        let engine = Arc::new(Self {
            catalog: catalog::Catalog::load(store.clone()).await?,
            rejections: rejections::Rejections::default(),
            front: front::Front::start(threads).map_err(|error| {
                Error::Refused(format!("no threads to take events in: {error}"))
            })?,
            intake: intake::Intake::new(store.committers().count),
            store,
            lanes: Lanes::default(),
            forwards: forward::Forwards::new(guard),
            // One more than processors: an event that does not end leaves the others as many.
            folds: folds(threads + 1, false)?,
            slow_folds: folds(SLOW_THREADS, true)?,
            pulls: pull::Pulls::default(),
            applied: applied::Applied::default(),
            metrics,
            relay: relay::Relay::new(node.and_then(|node| node.redis)),
            member,
            running: RwLock::default(),
            stopping: RwLock::default(),
            is_ending: AtomicBool::new(false),
            sweep: Notify::new(),
            rebuilds: Notify::new(),
            hints: Notify::new(),
            prunes: Notify::new(),
            overdue: RwLock::default(),
            look: Notify::new(),
            changed: Notify::new(),
            acting: watch::channel(0).0,
            misplaced: place::Misplaced::default(),
            stored: watch::channel(()).0,
            readiness: readiness::Readiness::default(),
            failed,
        });
        let began = engine.catalog.now();
        // What was asked before this node was there is no business of its lanes: they are swept as they are taken.
        let asked = engine.store.last_hint_request().await?;
        let mut committer = JoinSet::new();
        for line in 0..engine.store.committers().count {
            committer.spawn_on(committer::run(engine.clone(), line), engine.front.handle());
        }
        engine.run_own_lanes().await?;
        let mut duties = JoinSet::new();
        relay::Relay::start(&engine, &mut duties);
        duties.spawn(ownership::Member::run(engine.clone()));
        duties.spawn(engine.clone().keep_catalog_current());
        duties.spawn(engine.clone().follow_catalog(began));
        duties.spawn(engine.clone().sweep_now_and_then());
        duties.spawn(place::run(engine.clone()));
        duties.spawn(forward::Flights::watch(engine.clone()));
        duties.spawn(engine.clone().watch_drains());
        duties.spawn(engine.clone().watch_moves());
        duties.spawn(slow::run(engine.clone()));
        duties.spawn(rebuild::run(engine.clone()));
        duties.spawn(wipe::run(engine.clone(), asked));
        duties.spawn(prune::run(engine.clone()));
        duties.spawn(engine.clone().note_uses());
        duties.spawn(engine.clone().note_rejections());
        duties.spawn(engine.clone().purge_deleted());
        duties.spawn(readiness::run(engine.clone()));
        Ok(Running {
            engine,
            committer,
            duties,
        })
    }

    /// Reads the configuration again at once, after this node has changed it, and begins to act by it.
    ///
    /// # Errors
    /// Those of the database; the change is acted on within a second all the same.
    pub async fn config_changed(&self) -> Result<(), Error> {
        self.catalog.refresh().await?;
        self.catalog_changed();
        Ok(())
    }

    /// Says that the configuration was read again.
    fn catalog_changed(&self) {
        self.changed.notify_one();
    }

    /// The version of the configuration by which every lane here acts: what an older one allowed is over.
    pub fn acted(&self) -> i64 {
        *self.acting.borrow()
    }

    /// Waits until every lane here acts by a version of the configuration, or a later one.
    pub async fn acts_by(&self, version: i64) {
        let mut acting = self.acting.subscribe();
        let _ = acting.wait_for(|acted| *acted >= version).await;
    }

    /// Finds every cursor that is behind its head and hints it, now; says how many there are.
    ///
    /// # Errors
    /// Those of the database; what was found before is hinted.
    pub async fn sweep(&self) -> Result<u64, Error> {
        let (found, _) = sweep::run(self, sweep::Why::Asked).await?;
        Ok(found)
    }

    /// Hints a cursor that may move again.
    pub fn let_go(&self, namespace: &Name, slot: Slot, cursor: CursorId, events: u64) {
        let catalog = self.catalog.peek();
        let handler = catalog.handlers.get(&cursor.handler);
        if handler.is_some_and(|handler| handler.pull().is_some()) {
            return self.pulls.hint(cursor);
        }
        let Some(set) = catalog.lane_sets.get(namespace) else {
            return;
        };
        self.store.invalidate(std::iter::once(cursor));
        let hint = Hint {
            cursor,
            oldest: Timestamp::now(),
            newest: Timestamp::default(),
            backlog: Backlog::Total(events),
            recheck: Recheck::Yes,
        };
        self.hint(set.lane(slot), vec![hint]);
    }

    /// Whether the turns of a stream are taken here.
    pub fn runs_turns_of(&self, hook: &Hook, key: &OrderingKey) -> bool {
        let catalog = self.catalog.peek();
        let set = catalog.lanes_of(hook);
        set.is_some_and(|set| self.lanes.is_open(&set.lane(Slot::of(&hook.name, key))))
    }

    /// Says that cursors have work in a lane, wherever it runs.
    fn hint(&self, lane: LaneId, hints: Vec<Hint>) {
        let Err(hints) = self.lanes.hint(&lane, hints) else {
            return;
        };
        match self.relay.is_shared() {
            true => {
                let cursors = hints.into_iter().map(|hint| hint.cursor).collect();
                self.relay.send(lane, cursors);
            }
            false => self.place_later(hints),
        }
    }

    /// The worker of a lane, if it runs here.
    pub fn worker(&self, lane: &LaneId) -> Option<Arc<Worker>> {
        let running = self.running.read();
        running.get(lane).map(|lane| lane.worker.clone())
    }

    /// The workers of every lane that runs here.
    fn workers(&self) -> Vec<Arc<Worker>> {
        let running = self.running.read();
        running.values().map(|lane| lane.worker.clone()).collect()
    }

    /// The workers of the lanes of some namespaces that run here.
    fn workers_of(&self, namespaces: &HashSet<Name>) -> Vec<Arc<Worker>> {
        let running = self.running.read();
        let of = |worker: &&RunningLane| namespaces.contains(&worker.worker.id.namespace);
        let lanes = running.values().filter(of);
        lanes.map(|lane| lane.worker.clone()).collect()
    }

    /// The lanes that run here, each with the epoch of its take.
    fn held(&self) -> Vec<(LaneId, i64)> {
        let running = self.running.read();
        let held = running.iter().map(|(id, lane)| (id.clone(), lane.epoch));
        held.collect()
    }

    /// The lanes that run here, and those that end their last turn.
    fn held_lanes(&self) -> Vec<LaneId> {
        let mut held: Vec<_> = self.running.read().keys().cloned().collect();
        held.extend(self.stopping.read().iter().map(|worker| worker.id.clone()));
        held
    }

    /// Asks for a look at who runs which lane.
    fn look_at_lanes(&self) {
        self.look.notify_one();
    }

    /// The same, when a node is on its way out or a lane set is: lanes may have become free.
    fn look_at_lanes_if_free(&self) {
        let someone_leaves = |member: &ownership::Member| {
            let view = member.view();
            let leaves = view.nodes.iter().any(|node| node.is_leaving());
            leaves || view.lanes.iter().any(store::LaneRow::is_closing)
        };
        if self.member.as_ref().is_some_and(someone_leaves) {
            self.look.notify_one();
        }
    }

    /// Asks for a look at what is to be folded again.
    pub fn rebuild_soon(&self) {
        self.rebuilds.notify_one();
    }

    /// Asks for a look at whose hints are to be made again.
    pub fn make_hints_soon(&self) {
        self.hints.notify_one();
    }

    /// Asks for a look at what is kept for too long.
    pub fn prune_soon(&self) {
        self.prunes.notify_one();
    }

    /// Streams of this node that keep events past their time, one entry a hook.
    pub fn overdue(&self) -> Vec<prune::Overdue> {
        self.overdue.read().clone()
    }

    /// Asks for a sweep.
    fn sweep_soon(&self) {
        self.sweep.notify_one();
    }

    /// Ends the process when an error leaves no other way; says whether it does.
    pub fn fail_if_fatal(&self, error: &Error) -> bool {
        if error.is_fatal() {
            self.failed.send_replace(error.last_words());
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
        let (now, catalog) = (Timestamp::now(), self.catalog.now());
        let mut lanes = Vec::new();
        let mut hooks: HashMap<HookId, lane::HandlerBacklog> = HashMap::new();
        for (id, lane) in self.running.read().iter() {
            let (survey, _) = lane.worker.survey(now);
            held += survey.held;
            set_aside += survey.held + survey.waiting;
            let age = survey.oldest.map(|oldest| now.since(oldest));
            lanes.push((id.to_string(), survey.backlog, age.unwrap_or_default()));
            for (handler, backlog) in lane.worker.backlogs() {
                let Some(handler) = catalog.handlers.get(&handler) else {
                    continue;
                };
                let of_hook = hooks.entry(handler.hook);
                of_hook
                    .and_modify(|all| all.add(backlog))
                    .or_insert(backlog);
            }
        }
        self.metrics.show_lanes(lanes);
        let name = |hook| catalog.hooks_by_id.get(&hook).map(|hook| &hook.name);
        let hooks = hooks.into_iter().filter_map(|(hook, backlog)| {
            let age = now.since(backlog.oldest);
            Some((name(hook)?.to_string(), backlog.events, backlog.held, age))
        });
        self.metrics.show_hooks(hooks.collect());
        self.metrics
            .database_up
            .set(i64::from(self.metrics.pulse.failing().is_none()));
        let is_redis_up = self.relay.trouble().is_none();
        self.metrics.redis_up.set(i64::from(is_redis_up));
        self.metrics.show_process();
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
        self.metrics.pulse.folded(&turned.work);
        for (_, took, _) in &turned.work {
            self.metrics.fold_seconds.observe(took.as_secs_f64());
        }
    }

    /// Notes that an event of a hook did not end. After the second one within a minute, on whichever node, the
    /// hook is paused: nothing more of it folds anywhere until an operator resumes it.
    async fn found_stuck(&self, hook: HookId, reason: &str, at: Timestamp) {
        self.metrics.folds_stuck.inc();
        let catalog = self.catalog.now();
        let Some(name) = catalog.hooks_by_id.get(&hook).map(|hook| &hook.name) else {
            return;
        };
        let node = self.member.as_ref().map(ownership::Member::name);
        let stuck = Stuck {
            hook,
            name,
            reason,
            at,
            from: node.map_or_else(|| "node".to_owned(), |node| format!("node {node}")),
        };
        match self.store.hook_stuck(&stuck, STUCK_WITHIN).await {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!(hook = hook.0, reason, "a hook is stopped");
                if let Err(error) = self.config_changed().await {
                    tracing::warn!(%error, "the configuration could not be read");
                }
            }
            Err(error) => tracing::warn!(%error, "an event that did not end could not be noted"),
        }
    }

    /// Runs the lanes that this node should, and finds their work.
    async fn run_own_lanes(self: &Arc<Self>) -> Result<(), Error> {
        match &self.member {
            Some(member) => member.begin(self).await,
            None => {
                self.run_every_lane().await?;
                self.sweep().await.map(drop)
            }
        }
    }

    /// Runs the lanes of every lane set, and no others: those of a set that goes end their turns and are
    /// sealed first. The only node of a file does a resize in one go.
    async fn run_every_lane(self: &Arc<Self>) -> Result<(), Error> {
        let catalog = self.catalog.now();
        let lanes: HashSet<LaneId> = catalog.lane_sets.values().flat_map(LaneSet::ids).collect();
        let gone = |lane: &LaneId| !lanes.contains(lane);
        let gone: Vec<_> = self.held_lanes().into_iter().filter(gone).collect();
        let left = self.stop_lanes(&gone).await;
        let sealed = self.seal_what_closes().await;
        let is_new = |lane: &LaneId| !self.lanes.is_open(lane);
        let opened = lanes.iter().any(is_new);
        for lane in lanes {
            self.open_lane(lane, 0);
        }
        self.place_later(left.into_iter().flat_map(|(_, hints)| hints));
        if opened {
            self.misplaced.look_again();
            self.sweep_soon();
        }
        sealed
    }

    /// Seals every lane of a set that closes: nobody runs them here any more, and there is nobody else.
    async fn seal_what_closes(&self) -> Result<(), Error> {
        let rows = self.store.lanes().await?;
        if rows.iter().all(|lane| lane.set == store::SetState::Stable) {
            return Ok(());
        }
        let closing = membership::idle(rows, &self.held_lanes().into_iter().collect());
        if !closing.is_empty() {
            let now = Timestamp::now();
            self.store.seal_lanes(&closing, "", now).await?;
        }
        self.close_sets().await
    }

    /// Ends every resize of which all old lanes are sealed.
    async fn close_sets(&self) -> Result<(), Error> {
        for set in self.store.close_sets().await? {
            let (namespace, generation) = (&set.namespace, set.generation);
            tracing::info!(%namespace, generation, "a lane set is closed");
            self.relay.forget(&set).await;
        }
        Ok(())
    }

    /// Runs a lane, if it does not run here yet.
    fn open_lane(self: &Arc<Self>, lane: LaneId, epoch: i64) {
        let mut running = self.running.write();
        // One that is stopped for good may be in its last turn.
        if running.contains_key(&lane) || self.is_ending.load(Ordering::Relaxed) {
            return;
        }
        let queue = self.lanes.open(&lane);
        let worker = Arc::new(Worker::new(lane.clone(), epoch, queue));
        let (stop, stopping) = watch::channel(false);
        let (engine, runs) = (self.clone(), worker.clone());
        let task = tokio::spawn(async move { runs.run(&engine, stopping).await });
        let started = RunningLane {
            worker,
            epoch,
            stop,
            task,
        };
        running.insert(lane, started);
        self.prune_soon();
    }

    /// Notes which draining lanes have reached their marks, and begins a resize that waits for that. Any
    /// node may: rows decide.
    async fn watch_drains(self: Arc<Self>) {
        let mut clock = tokio::time::interval(DRAINS_EVERY);
        loop {
            clock.tick().await;
            let catalog = self.catalog.now();
            let mut modes = catalog.stops.lanes.values();
            if !modes.any(|lane| lane.mode.has_marks()) {
                continue;
            }
            if let Err(error) = self.look_at_drains(&catalog).await {
                tracing::debug!(%error, "draining lanes are looked at again");
            }
        }
    }

    /// Carries on the moves of hooks, whoever began them. Any node may: rows decide.
    async fn watch_moves(self: Arc<Self>) {
        let mut clock = tokio::time::interval(ACT_EVERY);
        loop {
            clock.tick().await;
            let catalog = self.catalog.now();
            for moving in catalog.stops.moving() {
                if let Err(error) = self.end_move(moving).await {
                    tracing::debug!(%error, "hooks that stand still are looked at again");
                }
            }
        }
    }

    /// Lets a hook go on in the namespace that it moves to, if no turn of it runs any more, here or on
    /// another node; whether it was this that did.
    pub async fn end_move(&self, moving: &store::NamespaceMove) -> Result<bool, Error> {
        if self.acted() < moving.since || !self.store.end_move(moving).await? {
            return Ok(false);
        }
        self.config_changed().await?;
        Ok(true)
    }

    async fn look_at_drains(&self, catalog: &catalog::Snapshot) -> Result<(), Error> {
        for set in catalog.lane_sets.values() {
            match catalog.stops.drain(set) {
                Drain::None => {}
                Drain::UnderWay(draining) => {
                    let left = self.store.left(set).await?;
                    let is_done = |lane: &LaneId| !left.contains_key(&lane.index);
                    let done: Vec<_> = draining.into_iter().filter(is_done).collect();
                    if !done.is_empty() {
                        self.store.lanes_drained(set, &done).await?;
                        self.config_changed().await?;
                    }
                }
                Drain::Done => {
                    let planned = self.store.resize_under_way(&set.namespace).await?;
                    if let Some(resize) = planned.filter(|resize| resize.is_planned)
                        && self.store.begin_planned(&resize.from, &resize.to).await?
                    {
                        self.config_changed().await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Stops lanes, each between two turns. What they still had to do is said to whoever runs them next:
    /// an event may have been hinted here after the next owner has swept.
    async fn close_lanes(&self, lanes: &[LaneId]) {
        for (lane, left) in self.stop_lanes(lanes).await {
            let cursors = left.into_iter().map(|hint| hint.cursor).collect();
            self.relay.send(lane, cursors);
        }
    }

    /// Stops lanes, each between two turns, and gives what they still had to do.
    async fn stop_lanes(&self, lanes: &[LaneId]) -> Vec<(LaneId, Vec<Hint>)> {
        let closing: Vec<_> = {
            let mut running = self.running.write();
            // The queue is closed at once: should the lane be opened again before its turn has ended, it gets
            // another one.
            let stopped = |id: &LaneId| {
                let lane = running.remove(id)?;
                self.stopping.write().push(lane.worker.clone());
                lane.stop.send_replace(true);
                Some((id.clone(), lane, self.lanes.close(id)))
            };
            lanes.iter().filter_map(stopped).collect()
        };
        // Somebody else may be about to stop some of them, as when a lease has run out: whoever frees or seals a
        // lane knows that no turn of it runs here.
        let is_ours = |worker: &Arc<Worker>| {
            let mut ours = closing.iter().map(|(_, lane, _)| &lane.worker);
            ours.any(|ours| Arc::ptr_eq(ours, worker))
        };
        let others: Vec<_> = {
            let stopping = self.stopping.read();
            let others = stopping.iter().filter(|worker| lanes.contains(&worker.id));
            others.filter(|worker| !is_ours(worker)).cloned().collect()
        };
        for worker in others {
            worker.turns_end().await;
        }
        let mut left = Vec::with_capacity(closing.len());
        for (id, lane, mut hints) in closing {
            let _ = lane.task.await;
            let is_other = |worker: &Arc<Worker>| !Arc::ptr_eq(worker, &lane.worker);
            self.stopping.write().retain(is_other);
            hints.extend(lane.worker.give_up());
            left.push((id, hints));
        }
        self.mark_flights(lanes).await;
        left
    }

    /// Reads the configuration when it has changed. A task of its own: acting by one may wait for long turns.
    async fn keep_catalog_current(self: Arc<Self>) {
        let mut fails = false;
        loop {
            self.catalog.wanted(CATALOG_EVERY).await;
            match self.catalog.refresh().await {
                Ok(has_changed) => {
                    if std::mem::take(&mut fails) {
                        tracing::info!("the configuration is read again");
                    }
                    if has_changed {
                        self.catalog_changed();
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!(%error, "the configuration cannot be read: requests with keys are answered 503 soon");
                    }
                    self.fail_if_fatal(&error);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Names the deliveries of these lanes that are in flight, for the nodes that take them.
    async fn mark_flights(&self, lanes: &[LaneId]) {
        let Some(member) = &self.member else { return };
        let me = member.id();
        let marked = self.forwards.flights.mark(self, lanes, &me);
        match tokio::time::timeout(MARK_MAX, marked).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a delivery in flight may be repeated"),
            Err(_) => tracing::warn!("a delivery in flight may be repeated"),
        }
    }

    /// Acts by the configuration whenever it changes; `before` is the one that was acted by at the start.
    async fn follow_catalog(self: Arc<Self>, mut before: Arc<catalog::Snapshot>) {
        loop {
            let _ = tokio::time::timeout(ACT_EVERY, self.changed.notified()).await;
            let now = self.catalog.now();
            if self.acted() == now.version {
                continue;
            }
            match self.act(&before, &now).await {
                Ok(()) => before = now,
                Err(error) => tracing::warn!(%error, "the configuration is acted on later"),
            }
        }
    }

    /// Acts by a configuration: runs its lanes, and is done when no turn goes by an older one.
    async fn act(
        self: &Arc<Self>,
        before: &catalog::Snapshot,
        now: &catalog::Snapshot,
    ) -> Result<(), Error> {
        match self.member {
            Some(_) => self.look_at_lanes(),
            None => self.run_every_lane().await?,
        }
        let workers: Vec<_> = {
            let running = self.running.read();
            running.values().map(|lane| lane.worker.clone()).collect()
        };
        let stopping = self.stopping.read().clone();
        for worker in workers.iter().chain(&stopping) {
            worker.turns_end().await;
        }
        self.pulls.claims_end().await;
        self.pulls.forget_all_but(&now.handlers);
        if now.stops != before.stops {
            // What somebody has stopped stands still when this node acts by it, deliveries included.
            self.forwards.flights.ended_before(now.version).await;
        }
        self.forwards.forget_all_but(&now.handlers);
        let lets_go = now.lets_go(before);
        for worker in &workers {
            if lets_go {
                self.place_later(worker.give_up_strangers(now));
            }
            // Turns may have gone by a configuration that came between these two and stopped something.
            worker.let_kept_go();
        }
        let had = |handler: &HandlerId| before.handlers.contains_key(handler);
        if lets_go || !now.handlers.keys().all(had) {
            self.sweep_soon();
        }
        if now.keeps_otherwise(before) {
            self.prune_soon();
        }
        self.acting.send_replace(now.version);
        if self.member.is_some() {
            self.look_at_lanes();
        }
        Ok(())
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
            if !asked && now == commits && !self.relay.is_shared() {
                due = Instant::now() + sweep::EVERY;
                continue;
            }
            commits = now;
            let why = match asked {
                true => sweep::Why::Asked,
                false => sweep::Why::Routine,
            };
            let wait = match sweep::run(&self, why).await {
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

    async fn note_rejections(self: Arc<Self>) {
        let mut clock = tokio::time::interval(REJECTIONS_EVERY);
        loop {
            clock.tick().await;
            if let Err(error) = self.rejections.store(&self.store).await {
                tracing::warn!(%error, "rejected requests were not noted");
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

    /// Gives every lane to the other nodes, if there are any, while events still come in.
    pub async fn leave(&self) {
        if let Some(member) = &self.engine.member {
            member.leave(&self.engine).await;
        }
    }

    /// Answers what was let in, finishes the turns that run, and closes the store. What is still to do
    /// is found at the next start.
    pub async fn stop(mut self) {
        let engine = &self.engine;
        engine.intake.stop();
        while self.committer.join_next().await.is_some() {}
        engine.is_ending.store(true, Ordering::Relaxed);
        engine.close_lanes(&engine.held_lanes()).await;
        engine.forwards.flights.ended().await;
        engine.pulls.claims_end().await;
        if engine.relay.is_shared() {
            // What came last is hinted where it goes on.
            place::place_now(engine).await;
            engine.relay.flush().await;
        }
        self.duties.shutdown().await;
        if let Some(member) = &engine.member {
            member.go(engine).await;
        }
        if let Err(error) = self.engine.catalog.store_uses().await {
            tracing::warn!(%error, "the last uses of keys were not stored");
        }
        if let Err(error) = self.engine.rejections.store(&self.engine.store).await {
            tracing::warn!(%error, "rejected requests were not noted");
        }
        self.engine.store.clone().close().await;
    }
}
