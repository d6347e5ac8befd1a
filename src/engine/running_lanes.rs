//! The lanes that run on this node: opened, closed between two turns, and given to other nodes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Engine, Worker, membership};
use crate::domain::lane::{LaneId, LaneSet};
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::lanes::Hint;
use crate::store::{self, Error};

/// Time limit for recording the deliveries in flight of a lane that is given away.
const MARK_MAX: Duration = Duration::from_secs(5);

/// The lanes of this node.
#[derive(Default)]
pub struct RunningLanes {
    pub running: RwLock<HashMap<LaneId, RunningLane>>,
    /// Lanes that this node has given up but whose last turn still runs.
    pub stopping: RwLock<Vec<Arc<Worker>>>,
    /// True once no lane may be opened any more.
    pub is_ending: AtomicBool,
}

/// A lane that runs here.
pub struct RunningLane {
    pub worker: Arc<Worker>,
    pub epoch: i64,
    pub stop: watch::Sender<bool>,
    pub task: JoinHandle<()>,
}

impl Engine {
    /// The worker of a lane, if it runs here.
    pub fn worker(&self, lane: &LaneId) -> Option<Arc<Worker>> {
        let running = self.running_lanes.running.read();
        running.get(lane).map(|lane| lane.worker.clone())
    }

    /// The workers of all lanes that run here.
    pub(super) fn workers(&self) -> Vec<Arc<Worker>> {
        let running = self.running_lanes.running.read();
        running.values().map(|lane| lane.worker.clone()).collect()
    }

    /// The workers of all lanes of these namespaces that run here.
    pub(super) fn workers_of(&self, namespaces: &HashSet<Name>) -> Vec<Arc<Worker>> {
        let running = self.running_lanes.running.read();
        let of = |worker: &&RunningLane| namespaces.contains(&worker.worker.id.namespace);
        let lanes = running.values().filter(of);
        lanes.map(|lane| lane.worker.clone()).collect()
    }

    /// The lanes that run here, each with the epoch of its take.
    pub(super) fn held(&self) -> Vec<(LaneId, i64)> {
        let running = self.running_lanes.running.read();
        let held = running.iter().map(|(id, lane)| (id.clone(), lane.epoch));
        held.collect()
    }

    /// The lanes that run here, including those in their last turn.
    pub(super) fn held_lanes(&self) -> Vec<LaneId> {
        let mut held: Vec<_> = self.running_lanes.running.read().keys().cloned().collect();
        held.extend(
            self.running_lanes
                .stopping
                .read()
                .iter()
                .map(|worker| worker.id.clone()),
        );
        held
    }

    /// Runs the lanes that belong to this node, and finds their work.
    pub(super) async fn run_own_lanes(self: &Arc<Self>) -> Result<(), Error> {
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
    pub(super) async fn run_every_lane(self: &Arc<Self>) -> Result<(), Error> {
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
    pub(super) async fn seal_what_closes(&self) -> Result<(), Error> {
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
    pub(super) async fn close_sets(&self) -> Result<(), Error> {
        for set in self.store.close_sets().await? {
            let (namespace, generation) = (&set.namespace, set.generation);
            tracing::info!(%namespace, generation, "a lane set is closed");
            self.relay.forget(&set).await;
        }
        Ok(())
    }

    /// Runs a lane, unless it already runs here.
    pub(super) fn open_lane(self: &Arc<Self>, lane: LaneId, epoch: i64) {
        let mut running = self.running_lanes.running.write();
        // A lane that is stopped for good may still be in its last turn.
        if running.contains_key(&lane) || self.running_lanes.is_ending.load(Ordering::Relaxed) {
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

    /// Stops lanes between two turns. Their remaining hints are sent to the next owner, because an
    /// event may have been hinted here after the next owner swept.
    pub(super) async fn close_lanes(&self, lanes: &[LaneId]) {
        for (lane, left) in self.stop_lanes(lanes).await {
            let cursors = left.into_iter().map(|hint| hint.cursor).collect();
            self.relay.send(lane, cursors);
        }
    }

    /// Stops lanes between two turns, and returns their remaining hints.
    pub(super) async fn stop_lanes(&self, lanes: &[LaneId]) -> Vec<(LaneId, Vec<Hint>)> {
        let closing: Vec<_> = {
            let mut running = self.running_lanes.running.write();
            // The queue is closed at once. If the lane is opened again before its last turn has ended,
            // it gets a new queue.
            let stopped = |id: &LaneId| {
                let lane = running.remove(id)?;
                self.running_lanes
                    .stopping
                    .write()
                    .push(lane.worker.clone());
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
            let stopping = self.running_lanes.stopping.read();
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
            self.running_lanes.stopping.write().retain(is_other);
            hints.extend(lane.worker.give_up());
            left.push((id, hints));
        }
        self.mark_flights(lanes).await;
        left
    }

    /// Records the deliveries in flight of these lanes, for the nodes that take them.
    pub(super) async fn mark_flights(&self, lanes: &[LaneId]) {
        let Some(member) = &self.member else { return };
        let me = member.id();
        let marked = self.deliveries.forwards.flights.mark(self, lanes, &me);
        match tokio::time::timeout(MARK_MAX, marked).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a delivery in flight may be repeated"),
            Err(_) => tracing::warn!("a delivery in flight may be repeated"),
        }
    }
}
