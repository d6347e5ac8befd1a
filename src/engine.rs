//! The engine: accepts and commits events, runs the turns of lanes, and finds work whose hint was lost.
//!
//! [`Engine`] owns everything that runs. [`Engine::start`] starts it; [`Running::stop`] stops it in an
//! order that loses nothing: first no more events are accepted, then accepted ones are answered, then
//! turns finish.

mod acting;
pub mod applied;
pub mod catalog;
mod committer;
mod drains;
mod duties;
mod erase;
pub mod forward;
pub mod front;
mod gauge;
pub mod intake;
pub mod lane;
pub mod membership;
mod metering;
mod observer;
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
mod running_lanes;
pub mod secret_uses;
mod share;
mod signals;
#[cfg(test)]
mod simulation;
mod slow;
mod sweep;
pub mod tally;
mod turn;
mod upkeep;
mod wipe;
mod worker;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::domain::cursor::CursorId;
use crate::domain::hook::{Hook, HookId};
use crate::domain::lane::{LaneId, Slot};
use crate::domain::name::{Name, OrderingKey};
use crate::domain::time::Timestamp;
use crate::lanes::{Backlog, Hint, Lanes, Recheck};
use crate::metrics::Metrics;
use crate::store::{self, Error, Store, Stuck};

use signals::Signals;

pub use gauge::{RATE_SECONDS, Reading, Waits, times};
pub use observer::observer;
pub use worker::Worker;

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
    pub folds: FoldThreads,
    /// Deliveries to customers' own services.
    pub deliveries: Deliveries,
    /// Knowledge about senders that is not stored yet.
    pub senders: Senders,
    /// Changes that others wait for.
    pub changes: Changes,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Hints to and from other nodes.
    pub relay: relay::Relay,
    /// This node's membership in the cluster; `None` on SQLite.
    pub member: Option<ownership::Member>,
    /// The lanes that run here.
    running_lanes: running_lanes::RunningLanes,
    /// Requests to the duties.
    signals: Signals,
    /// Streams that keep events past their retention.
    overdue: RwLock<Vec<prune::Overdue>>,
    /// Hints that arrived at a lane which is no longer the right one.
    misplaced: place::Misplaced,
    readiness: readiness::Readiness,
}

/// The threads that fold, in two pools that share the fold time.
pub struct FoldThreads {
    /// Those of the lanes.
    pub lanes: reduce::Folds,
    /// Those of handlers beyond their share of fold time.
    pub slow: reduce::Folds,
}

/// Deliveries of this node.
pub struct Deliveries {
    /// Those to destinations.
    pub forwards: forward::Forwards,
    /// Those to pull consumers.
    pub pulls: pull::Pulls,
    /// Their outcomes.
    pub tallies: tally::Tallies,
}

/// Knowledge of this node about senders that is not stored yet.
#[derive(Default)]
pub struct Senders {
    /// Rejected requests.
    pub rejections: rejections::Rejections,
    /// Uses of verifying secrets.
    pub secret_uses: secret_uses::SecretUses,
}

/// Changes that others wait for.
pub struct Changes {
    /// Notifies readers that wait for a state to move.
    pub applied: applied::Applied,
    /// Changes with every commit that stored events.
    stored: watch::Sender<()>,
    /// The version by which all lanes here act. Changes when lanes must check again what they may do.
    acting: watch::Sender<i64>,
    /// The reason why this process ends itself, once it does.
    failed: watch::Sender<Option<String>>,
}

/// The tasks of a started engine.
pub struct Running {
    engine: Arc<Engine>,
    committer: JoinSet<()>,
    duties: JoinSet<()>,
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
            senders: Senders::default(),
            front: front::Front::start(threads).map_err(|error| {
                Error::Refused(format!("no threads to take events in: {error}"))
            })?,
            intake: intake::Intake::new(store.committers().count),
            store,
            lanes: Lanes::default(),
            deliveries: Deliveries {
                forwards: forward::Forwards::new(guard),
                pulls: pull::Pulls::default(),
                tallies: tally::Tallies::default(),
            },
            folds: FoldThreads {
                // One more thread than processors, so that an event which does not end leaves the
                // others a thread for each.
                lanes: folds(threads + 1, false)?,
                slow: folds(SLOW_THREADS, true)?,
            },
            changes: Changes {
                applied: applied::Applied::default(),
                stored: watch::channel(()).0,
                acting: watch::channel(0).0,
                failed,
            },
            metrics,
            relay: relay::Relay::new(node.and_then(|node| node.redis)),
            member,
            running_lanes: running_lanes::RunningLanes::default(),
            signals: Signals::default(),
            overdue: RwLock::default(),
            misplaced: place::Misplaced::default(),
            readiness: readiness::Readiness::default(),
        });
        let beginning = duties::Beginning {
            catalog: engine.catalog.now(),
            hint_request: engine.store.last_hint_request().await?,
        };
        let mut committer = JoinSet::new();
        for line in 0..engine.store.committers().count {
            committer.spawn_on(committer::run(engine.clone(), line), engine.front.handle());
        }
        engine.run_own_lanes().await?;
        let mut duties = JoinSet::new();
        relay::Relay::start(&engine, &mut duties);
        duties::start(&engine, &beginning, &mut duties);
        Ok(Running {
            engine,
            committer,
            duties,
        })
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
            return self.deliveries.pulls.hint(cursor);
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

    /// Requests a look at which node runs which lane.
    fn look_at_lanes(&self) {
        self.signals.look.notify_one();
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
            self.signals.look.notify_one();
        }
    }

    /// Requests a search for rebuilds to work on.
    pub fn rebuild_soon(&self) {
        self.signals.rebuilds.notify_one();
    }

    /// Requests a search for hint requests to answer.
    pub fn make_hints_soon(&self) {
        self.signals.hints.notify_one();
    }

    /// Requests a search for events that retention may remove.
    pub fn prune_soon(&self) {
        self.signals.prunes.notify_one();
    }

    /// Streams of this node that keep events past their retention, one entry for each hook.
    pub fn overdue(&self) -> Vec<prune::Overdue> {
        self.overdue.read().clone()
    }

    /// Requests a sweep.
    fn sweep_soon(&self) {
        self.signals.sweep.notify_one();
    }

    /// Ends the process if an error is fatal; true if it is.
    pub fn fail_if_fatal(&self, error: &Error) -> bool {
        if error.is_fatal() {
            self.changes.failed.send_replace(error.last_words());
        }
        error.is_fatal()
    }

    /// True if the process is about to end itself.
    pub fn is_failing(&self) -> bool {
        self.changes.failed.borrow().is_some()
    }

    /// A receiver that changes with every commit that stores events.
    pub fn stored(&self) -> watch::Receiver<()> {
        self.changes.stored.subscribe()
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
        engine
            .running_lanes
            .is_ending
            .store(true, Ordering::Relaxed);
        engine.close_lanes(&engine.held_lanes()).await;
        engine.deliveries.forwards.flights.ended().await;
        engine.deliveries.pulls.claims_end().await;
        if engine.relay.is_shared() {
            // The last events are hinted on the node that continues.
            place::place_now(engine).await;
            engine.relay.flush().await;
        }
        self.duties.shutdown().await;
        if let Some(member) = &engine.member {
            member.go(engine).await;
        }
        self.engine.store_uses().await;
        self.engine.store_secret_uses().await;
        self.engine.store_rejections().await;
        self.engine.store.clone().close().await;
    }
}
