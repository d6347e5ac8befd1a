//! The engine: accepts and commits events, runs the turns of lanes, and finds work whose hint was lost.
//!
//! [`Engine`] owns everything that runs. [`Engine::start`] starts it; [`Running::stop`] stops it in an
//! order that loses nothing: first no more events are accepted, then accepted ones are answered, then
//! turns finish.

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
mod release;
mod replays;
mod share;
#[cfg(test)]
mod simulation;
mod slow;
mod sweep;
pub mod tally;
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
pub use gauge::{RATE_SECONDS, Reading, Waits, times};
pub use worker::Worker;

/// Interval at which the configuration version is read. Short enough that the configuration is never
/// too old to judge keys by.
const CATALOG_EVERY: Duration = Duration::from_millis(500);

/// Interval at which acting by a configuration is tried again after a failure.
const ACT_EVERY: Duration = Duration::from_secs(1);

/// Pause after a failed read of the configuration.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Interval at which draining lanes are checked, while there are any.
const DRAINS_EVERY: Duration = Duration::from_millis(250);

/// Interval at which the last uses of keys are stored.
const USES_EVERY: Duration = Duration::from_secs(60);

/// Interval at which rejections are stored.
const REJECTIONS_EVERY: Duration = Duration::from_secs(5);

/// Interval of the search for deleted hooks, and time after which their events are removed.
const PURGE_EVERY: Duration = Duration::from_secs(300);
const PURGE_AFTER: Duration = Duration::from_secs(3600);

/// Number of streams removed by one transaction.
const PURGE_STREAMS: i64 = 100;

/// Time limit for recording the deliveries in flight of a lane that is given away.
const MARK_MAX: Duration = Duration::from_secs(5);

/// Time within which a second event that does not end stops its hook.
const STUCK_WITHIN: Duration = Duration::from_secs(60);

/// Number of threads that fold for handlers beyond their share of fold time: one such handler leaves
/// the others a thread.
const SLOW_THREADS: usize = 2;

/// Everything that runs on this node.
pub struct Engine {
    /// Events, cursors and configuration.
    pub store: Store,
    /// The configuration as last read.
    pub catalog: catalog::Catalog,
    /// The threads that accept events.
    pub front: front::Front,
    /// The queue in front of the committers.
    pub intake: intake::Intake,
    /// Hint queues of the lanes that run here.
    pub lanes: Lanes,
    /// The threads that fold.
    pub folds: reduce::Folds,
    /// Deliveries to destinations.
    pub forwards: forward::Forwards,
    /// Outcomes of deliveries on this node.
    pub tallies: tally::Tallies,
    /// The threads that fold for handlers beyond their share of fold time.
    pub slow_folds: reduce::Folds,
    /// Deliveries to pull consumers.
    pub pulls: pull::Pulls,
    /// Notifies readers that wait for a state to move.
    pub applied: applied::Applied,
    /// Rejections on this node that are not stored yet.
    pub rejections: rejections::Rejections,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Hints to and from other nodes.
    pub relay: relay::Relay,
    /// This node's membership in the cluster; `None` on SQLite.
    pub member: Option<ownership::Member>,
    running: RwLock<HashMap<LaneId, RunningLane>>,
    /// Lanes that this node has given up but whose last turn still runs.
    stopping: RwLock<Vec<Arc<Worker>>>,
    /// True once no lane may be opened any more.
    is_ending: AtomicBool,
    /// Requests a sweep, for example for a new handler.
    sweep: Notify,
    /// Requests a search for rebuilds to work on.
    rebuilds: Notify,
    /// Requests a search for hint requests to answer.
    hints: Notify,
    /// Requests a search for events that retention may remove.
    prunes: Notify,
    /// Reports that events were held back for a reorder window.
    held_back: Notify,
    /// Streams that keep events past their retention.
    overdue: RwLock<Vec<prune::Overdue>>,
    /// Requests a look at the other nodes and their lanes.
    look: Notify,
    /// Requests acting by the configuration as read.
    changed: Notify,
    /// The version by which all lanes here act. Changes when lanes must check again what they may do.
    acting: watch::Sender<i64>,
    /// Hints that arrived at a lane which is no longer the right one.
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

/// The tasks of a started engine.
pub struct Running {
    engine: Arc<Engine>,
    committer: JoinSet<()>,
    duties: JoinSet<()>,
}

/// Callback for every transaction: updates the metrics, and reports fatal errors to `failed`, which
/// ends the process.
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
        note_outcome(&metrics, &commit);
        // Logged once at the beginning and once at the end of a failure, because a full disk refuses
        // thousands of transactions a second.
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

/// Records the outcome of a transaction for readiness and verdicts.
fn note_outcome(metrics: &Metrics, commit: &Commit) {
    let (pulse, now) = (&metrics.pulse, Timestamp::now());
    match &commit.error {
        Some(error @ Error::Space) => pulse.filled(error.told(), now),
        Some(error) => pulse.ended(Err(error.told()), now),
        // On a full disk small transactions may still succeed.
        None if pulse.is_full() && commit.events == 0 => {}
        None => pulse.ended(Ok(()), now),
    }
}

impl Engine {
    /// Starts everything. On return, all unfinished work has been found.
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
            tallies: tally::Tallies::default(),
            // One more thread than processors, so that an event which does not end leaves the others a
            // thread for each.
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
            held_back: Notify::new(),
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
        // Requests from before this node joined do not concern its lanes, which are swept when they are
        // taken.
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
        duties.spawn(release::run(engine.clone()));
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

    /// Reads the configuration at once, after this node has changed it, and starts to act by it.
    ///
    /// # Errors
    /// Errors of the database; the change takes effect within a second anyway.
    pub async fn config_changed(&self) -> Result<(), Error> {
        self.catalog.refresh().await?;
        self.catalog_changed();
        Ok(())
    }

    /// Reports that the configuration was read again.
    fn catalog_changed(&self) {
        self.changed.notify_one();
    }

    /// The configuration version by which every lane here acts: no turn goes by an older one.
    pub fn acted(&self) -> i64 {
        *self.acting.borrow()
    }

    /// Waits until every lane here acts by this version of the configuration, or a later one.
    pub async fn acts_by(&self, version: i64) {
        let mut acting = self.acting.subscribe();
        let _ = acting.wait_for(|acted| *acted >= version).await;
    }

    /// Finds every cursor that is behind its head and hints it; returns their number.
    ///
    /// # Errors
    /// Errors of the database; cursors found before are hinted.
    pub async fn sweep(&self) -> Result<u64, Error> {
        let (found, _) = sweep::run(self, sweep::Trigger::Asked).await?;
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

    /// True if the turns of a stream run on this node.
    pub fn runs_turns_of(&self, hook: &Hook, key: &OrderingKey) -> bool {
        let catalog = self.catalog.peek();
        let set = catalog.lanes_of(hook);
        set.is_some_and(|set| self.lanes.is_open(&set.lane(Slot::of(&hook.name, key))))
    }

    /// Hints cursors in a lane, on whichever node it runs.
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

    /// The workers of all lanes that run here.
    fn workers(&self) -> Vec<Arc<Worker>> {
        let running = self.running.read();
        running.values().map(|lane| lane.worker.clone()).collect()
    }

    /// The workers of all lanes of these namespaces that run here.
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

    /// The lanes that run here, including those in their last turn.
    fn held_lanes(&self) -> Vec<LaneId> {
        let mut held: Vec<_> = self.running.read().keys().cloned().collect();
        held.extend(self.stopping.read().iter().map(|worker| worker.id.clone()));
        held
    }

    /// Requests a look at which node runs which lane.
    fn look_at_lanes(&self) {
        self.look.notify_one();
    }

    /// Requests it only if a node is leaving or a lane set is closing, because lanes may have become
    /// free.
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

    /// Requests a search for rebuilds to work on.
    pub fn rebuild_soon(&self) {
        self.rebuilds.notify_one();
    }

    /// Requests a search for hint requests to answer.
    pub fn make_hints_soon(&self) {
        self.hints.notify_one();
    }

    /// Requests a search for events that retention may remove.
    pub fn prune_soon(&self) {
        self.prunes.notify_one();
    }

    /// Streams of this node that keep events past their retention, one entry for each hook.
    pub fn overdue(&self) -> Vec<prune::Overdue> {
        self.overdue.read().clone()
    }

    /// Requests a sweep.
    fn sweep_soon(&self) {
        self.sweep.notify_one();
    }

    /// Ends the process if an error is fatal; true if it is.
    pub fn fail_if_fatal(&self, error: &Error) -> bool {
        if error.is_fatal() {
            self.failed.send_replace(error.last_words());
        }
        error.is_fatal()
    }

    /// True if the process is about to end itself.
    pub fn is_failing(&self) -> bool {
        self.failed.borrow().is_some()
    }

    /// A receiver that changes with every commit that stores events.
    pub fn stored(&self) -> watch::Receiver<()> {
        self.stored.subscribe()
    }

    /// Updates the gauges of the metrics.
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
            let (mut events, mut age) = (0, Duration::ZERO);
            for (handler, backlog) in lane.worker.backlogs() {
                events += backlog.events;
                age = age.max(now.since(backlog.oldest));
                held += backlog.held;
                set_aside += backlog.held + backlog.waiting;
                let Some(handler) = catalog.handlers.get(&handler) else {
                    continue;
                };
                let of_hook = hooks.entry(handler.hook);
                of_hook
                    .and_modify(|all| all.add(backlog))
                    .or_insert(backlog);
            }
            lanes.push((id.to_string(), events, age));
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

    /// Records that an event of a hook did not end. After the second one within a minute, on any node,
    /// the hook is paused: nothing of it folds until an operator resumes it.
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

    /// Runs the lanes that belong to this node, and finds their work.
    async fn run_own_lanes(self: &Arc<Self>) -> Result<(), Error> {
        match &self.member {
            Some(member) => member.begin(self).await,
            None => {
                self.run_every_lane().await?;
                self.sweep().await.map(drop)
            }
        }
    }

    /// Runs the lanes of every lane set, and no others. Lanes of a closing set first finish their turns
    /// and are sealed. On SQLite, a single node does a whole resize in one call.
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

    /// Seals every lane of a closing set; none runs here any more, and there is no other node.
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

    /// Ends every resize whose old lanes are all sealed.
    async fn close_sets(&self) -> Result<(), Error> {
        for set in self.store.close_sets().await? {
            let (namespace, generation) = (&set.namespace, set.generation);
            tracing::info!(%namespace, generation, "a lane set is closed");
            self.relay.forget(&set).await;
        }
        Ok(())
    }

    /// Runs a lane, unless it already runs here.
    fn open_lane(self: &Arc<Self>, lane: LaneId, epoch: i64) {
        let mut running = self.running.write();
        // A lane that is stopped for good may still be in its last turn.
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

    /// Marks draining lanes that have reached their marks as drained, and begins a resize that waits
    /// for them. Any node may do this; the rows decide.
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

    /// Continues the moves of hooks. Any node may do this; the rows decide.
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

    /// Ends the move of a hook to another namespace if no turn of it runs any more, on any node; true
    /// if this call ended it.
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

    /// Stops lanes between two turns. Their remaining hints are sent to the next owner, because an
    /// event may have been hinted here after the next owner swept.
    async fn close_lanes(&self, lanes: &[LaneId]) {
        for (lane, left) in self.stop_lanes(lanes).await {
            let cursors = left.into_iter().map(|hint| hint.cursor).collect();
            self.relay.send(lane, cursors);
        }
    }

    /// Stops lanes between two turns, and returns their remaining hints.
    async fn stop_lanes(&self, lanes: &[LaneId]) -> Vec<(LaneId, Vec<Hint>)> {
        let closing: Vec<_> = {
            let mut running = self.running.write();
            // The queue is closed at once. If the lane is opened again before its last turn has ended,
            // it gets a new queue.
            let stopped = |id: &LaneId| {
                let lane = running.remove(id)?;
                self.stopping.write().push(lane.worker.clone());
                lane.stop.send_replace(true);
                Some((id.clone(), lane, self.lanes.close(id)))
            };
            lanes.iter().filter_map(stopped).collect()
        };
        // Another task may be stopping some of these lanes, for example after a lost lease. Waiting for
        // those too ensures that no turn of them runs here when the caller frees or seals them.
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

    /// Reads the configuration when it has changed. This is a task of its own, because acting by a
    /// configuration may wait for long turns.
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

    /// Records the deliveries in flight of these lanes, for the nodes that take them.
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

    /// Acts by the configuration whenever it changes; `before` is the one in force at the start.
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

    /// Acts by a configuration: runs its lanes. Returns when no turn goes by an older one.
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
            // Whatever an operator has stopped stands still once this node acts by it, deliveries
            // included.
            self.forwards.flights.ended_before(now.version).await;
        }
        self.forwards.forget_all_but(&now.handlers);
        self.tallies.retain(|id| now.handlers.contains_key(id));
        let lets_go = now.lets_go(before);
        for worker in &workers {
            if lets_go {
                self.place_later(worker.give_up_strangers(now));
            }
            // A configuration between these two may have stopped something for a while, and turns may
            // have gone by it.
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
            // Nothing was stored since the last sweep, so no hint can have been lost since.
            let now = self.metrics.commits.get();
            if !asked && now == commits && !self.relay.is_shared() {
                due = Instant::now() + sweep::EVERY;
                continue;
            }
            commits = now;
            let why = match asked {
                true => sweep::Trigger::Asked,
                false => sweep::Trigger::Routine,
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
            self.store_rejections().await;
        }
    }

    /// Stores the rejections of this node. After an error they stay for the next call.
    async fn store_rejections(&self) {
        if let Err(error) = self.rejections.store(&self.store).await {
            tracing::warn!(%error, "rejected requests were not noted");
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
    /// The running engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Gives every lane to the other nodes, if there are any, while events are still accepted.
    pub async fn leave(&self) {
        if let Some(member) = &self.engine.member {
            member.leave(&self.engine).await;
        }
    }

    /// Answers accepted events, finishes running turns, and closes the store. Remaining work is found
    /// at the next start.
    pub async fn stop(mut self) {
        let engine = &self.engine;
        engine.intake.stop();
        while self.committer.join_next().await.is_some() {}
        engine.is_ending.store(true, Ordering::Relaxed);
        engine.close_lanes(&engine.held_lanes()).await;
        engine.forwards.flights.ended().await;
        engine.pulls.claims_end().await;
        if engine.relay.is_shared() {
            // The last events are hinted on the node that continues.
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
        self.engine.store_rejections().await;
        self.engine.store.clone().close().await;
    }
}
