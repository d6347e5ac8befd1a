//! Takes lanes and gives them away: carries out the steps of [`Look`] against Postgres and Redis.
//!
//! On SQLite, the only node runs every lane and has no row. On Postgres, each node has a row and sends
//! heartbeats; a node whose lease has run out closes its lanes before others may take them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout;

use super::Engine;
use super::membership::{LEASE, Lease, Look, LookStep, RENEWAL, Watch};
use crate::domain::lane::LaneId;
use crate::domain::name::Name;
use crate::domain::time::{Timestamp, since_boot};
use crate::lanes::Hint;
use crate::lanes::redis::Redis;
use crate::store::{Error, History, LaneRow, NodeRow};

/// Interval of looks at the other nodes.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Time limit for an answer of the database.
const PATIENCE: Duration = Duration::from_secs(5);

/// Interval of heartbeats, each with the newest report. The lease needs them every [`RENEWAL`] only; more
/// frequent ones let the other nodes see a silence within two seconds.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Settings of a node in a cluster.
pub struct Node {
    /// Name for people.
    pub name: String,
    /// Id of its data directory.
    pub data_dir: String,
    /// Place of the hints; `None` for memory, which allows only one node.
    pub redis: Option<Redis>,
}

/// State of this node's membership, and its view of the cluster.
pub struct Member {
    name: String,
    data_dir: String,
    hints: &'static str,
    state: Mutex<State>,
    /// Report on its lanes for the other nodes, as JSON.
    report: Mutex<String>,
    view: Mutex<View>,
}

struct State {
    id: String,
    lease: Lease,
    watch: Watch,
    beaten: Duration,
    /// Configuration version that this node has published as the one it acts by.
    config_seen: i64,
    leaving: bool,
    /// The server, with its history, that this node's lanes belong to.
    history: Option<History>,
}

/// The cluster as last seen.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Every node, by id.
    pub nodes: Vec<NodeRow>,
    /// Every lane, in order.
    pub lanes: Vec<LaneRow>,
}

impl Member {
    /// Joins the cluster of a database.
    ///
    /// # Errors
    /// [`Error::Refused`] when the nodes could not tell each other about events.
    pub async fn join(store: &crate::store::Store, node: &Node) -> Result<Self, Error> {
        store.reap_data_dir(&node.data_dir).await?;
        let hints = match node.redis {
            Some(_) => "redis",
            None => "memory",
        };
        refuse_strangers(store, hints).await?;
        let history = store.history().await?;
        if let Some(history) = history {
            store.accept_history(history).await?;
        }
        let sent = since_boot();
        let row = row(&node.name, &node.data_dir, hints);
        store.join(&row).await?;
        Ok(Self {
            name: node.name.clone(),
            data_dir: node.data_dir.clone(),
            hints,
            state: Mutex::new(State {
                id: row.id,
                lease: Lease::begun(sent),
                watch: Watch::default(),
                beaten: sent,
                config_seen: 0,
                leaving: false,
                history,
            }),
            report: Mutex::default(),
            view: Mutex::default(),
        })
    }

    /// Display name of this node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Id of this node.
    pub fn id(&self) -> String {
        self.state.lock().id.clone()
    }

    /// The cluster as last seen.
    pub fn view(&self) -> View {
        self.view.lock().clone()
    }

    /// Time since the last heartbeat of each other node, by id.
    pub fn silences(&self) -> HashMap<String, Duration> {
        self.state.lock().watch.silences(since_boot())
    }

    /// Time for which this node may still run its lanes.
    pub fn lease_left(&self) -> Duration {
        self.state.lock().lease.left(since_boot())
    }

    /// Sets the report on this node's lanes.
    pub fn report(&self, json: String) {
        *self.report.lock() = json;
    }

    /// Sends a heartbeat if one is due; false if this node's row is gone.
    async fn beat(&self, engine: &Engine) -> Result<bool, Error> {
        let report = self.report.lock().clone();
        let config = engine.acted();
        let sent = since_boot();
        let due = {
            let state = self.state.lock();
            let waited_for = state.config_seen != config;
            sent.saturating_sub(state.beaten) >= BEAT_EVERY || waited_for
        };
        if !due {
            return Ok(true);
        }
        if !in_time(engine.store.beat(&self.id(), config, &report)).await? {
            tracing::warn!("the lease is lost: lanes are dropped, and taken anew");
            return Ok(false);
        }
        let mut state = self.state.lock();
        state.lease.renewed(sent);
        state.beaten = sent;
        state.config_seen = config;
        Ok(true)
    }

    /// Joins under a new id.
    async fn join_again(&self, engine: &Engine) -> Result<(), Error> {
        let row = row(&self.name, &self.data_dir, self.hints);
        let sent = since_boot();
        in_time(engine.store.join(&row)).await?;
        let mut state = self.state.lock();
        state.id = row.id;
        state.lease = Lease::begun(sent);
        state.watch = Watch::default();
        state.beaten = sent;
        state.config_seen = 0;
        Ok(())
    }

    /// One look at the other nodes. An error ends it; the next one begins anew.
    async fn look(&self, engine: &Arc<Engine>) -> Result<(), Error> {
        let mut look = Look::begin();
        // Hints of lanes that were sealed, until the new lanes are known.
        let mut left = Vec::new();
        while let Some(step) = look.next_step() {
            match step {
                LookStep::Follow => self.follow(engine).await?,
                LookStep::Beat => {
                    if !self.beat(engine).await? {
                        look.lease_lost();
                    }
                }
                LookStep::CloseAll => engine.close_lanes(&engine.held_lanes()).await,
                LookStep::Join => self.join_again(engine).await?,
                LookStep::ReadLanes => look.lanes_read(in_time(engine.store.lanes()).await?),
                LookStep::ReadNodes => self.read_nodes(engine, &mut look).await?,
                LookStep::Reap(id, beat) => reap(engine, &id, beat).await?,
                LookStep::Decide => {
                    if !self.decide(engine, &mut look) {
                        return Ok(());
                    }
                }
                LookStep::Close(lanes) => {
                    tracing::warn!(lanes = lanes.len(), "lanes are not ours any more");
                    engine.close_lanes(&lanes).await;
                }
                LookStep::Seal(lanes) => left.extend(seal(engine, &self.id(), &lanes).await?),
                LookStep::EndResizes => engine.close_sets().await?,
                LookStep::Refresh => {
                    engine.catalog.refresh().await?;
                    engine.catalog_changed();
                }
                LookStep::Raise(namespaces) => raise(engine, &namespaces).await,
                LookStep::Place => engine.place_later(left.drain(..)),
                LookStep::HandOver(lanes) => hand_over(engine, &self.id(), &lanes).await?,
                LookStep::Take(lanes) => {
                    let taken = in_time(engine.store.take_lanes(&lanes, &self.id())).await?;
                    look.taken(taken);
                }
                LookStep::Open(lanes) => open(engine, &self.id(), lanes).await?,
                LookStep::Claim(lanes) => engine.relay.claim(engine, &lanes).await,
                LookStep::Sweep => engine.sweep().await.map(drop)?,
            }
        }
        Ok(())
    }

    async fn read_nodes(&self, engine: &Engine, look: &mut Look) -> Result<(), Error> {
        let nodes = in_time(engine.store.nodes()).await?;
        let (silent, has_changed) = {
            let mut state = self.state.lock();
            let me = state.id.clone();
            let silent = state.watch.see(&nodes, &me, since_boot());
            (silent, state.watch.has_changed())
        };
        look.nodes_read(nodes, silent);
        let (lanes, nodes) = look.rows();
        *self.view.lock() = View {
            lanes: lanes.to_vec(),
            nodes: nodes.to_vec(),
        };
        if has_changed {
            // Work that a dead node had stored or been told of, and not passed on, is found by this
            // sweep. Lanes of the dead node are swept when they are taken.
            engine.sweep_soon();
        }
        Ok(())
    }

    /// False if this node leaves, and so takes and gives away no lanes by a look.
    fn decide(&self, engine: &Engine, look: &mut Look) -> bool {
        let state = self.state.lock();
        if state.leaving {
            return false;
        }
        let held = engine.held().into_iter().collect();
        look.decide(&state.id, &held, state.watch.is_stable(since_boot()));
        true
    }

    /// Checks that the same server still answers. A server that has replaced it may lack the newest
    /// events, takes and moves.
    async fn follow(&self, engine: &Arc<Engine>) -> Result<(), Error> {
        let found = in_time(engine.store.history()).await?;
        let known = self.state.lock().history;
        match (known, found) {
            (Some(known), Some(found)) if found.is_before(known) => Err(Error::Lost(format!(
                "a server answers whose place another one has taken: its timeline is {}, not {}",
                found.timeline, known.timeline
            ))),
            (known, Some(found)) if known != Some(found) => self.fail_over(engine, found).await,
            _ => Ok(()),
        }
    }

    /// Starts anew on another server: nothing known about lanes, hints and cursors is valid there. An
    /// interrupted start is repeated at the next look.
    async fn fail_over(&self, engine: &Arc<Engine>, to: History) -> Result<(), Error> {
        tracing::warn!(
            timeline = to.timeline,
            "another Postgres server has taken over: lanes are dropped, and taken anew"
        );
        engine.close_lanes(&engine.held_lanes()).await;
        let accepted = in_time(engine.store.accept_history(to)).await?;
        if accepted.halted > 0 {
            let cursors = accepted.halted;
            tracing::error!(cursors, "cursors stand behind their heads: they are held");
        }
        in_time(engine.store.remove_node(&self.id())).await?;
        self.join_again(engine).await?;
        engine.catalog.reload().await?;
        engine.catalog_changed();
        for namespace in engine.catalog.now().lane_sets.keys() {
            if let Err(error) = engine.relay.wipe(engine, namespace).await {
                tracing::debug!(%error, %namespace, "its hints are wiped when Redis is seen to be ahead");
            }
        }
        self.state.lock().history = Some(to);
        engine.metrics.failovers.inc();
        let (engine, name) = (engine.clone(), self.name.clone());
        tokio::spawn(async move { find_lost(&engine, &name).await });
        Ok(())
    }

    /// Gives every lane away and takes no more.
    pub async fn leave(&self, engine: &Engine) {
        let me = {
            let mut state = self.state.lock();
            state.leaving = true;
            state.id.clone()
        };
        let held = engine.held();
        let lanes: Vec<_> = held.iter().map(|(lane, _)| lane.clone()).collect();
        let left = async {
            engine.store.leave(&me).await?;
            engine.close_lanes(&lanes).await;
            engine.store.release_lanes(&held, &me).await
        };
        if let Err(error) = left.await {
            tracing::warn!(%error, "lanes are free when this node is found dead");
        }
        engine.relay.poke(&lanes).await;
    }

    /// Removes the row of this node, as its last action.
    pub async fn go(&self, engine: &Engine) {
        if let Err(error) = engine.store.remove_node(&self.id()).await {
            tracing::warn!(%error, "the row of this node is removed by the others");
        }
    }

    /// Takes the first lanes; returns once this node runs its own lanes.
    pub async fn begin(&self, engine: &Arc<Engine>) -> Result<(), Error> {
        self.look(engine).await
    }

    /// Looks at the other nodes regularly and on request. A look is never cancelled while it opens or
    /// closes lanes. When the lease runs out meanwhile, the lanes are closed at once.
    pub async fn run(engine: Arc<Engine>) {
        let Some(member) = &engine.member else { return };
        loop {
            let _ = timeout(LOOK_EVERY, engine.signals.look.notified()).await;
            let look = {
                let engine = engine.clone();
                async move {
                    match &engine.member {
                        Some(member) => member.look(&engine).await,
                        None => Ok(()),
                    }
                }
            };
            let mut looking = tokio::spawn(look);
            let looked = loop {
                match timeout(member.time_to_act(), &mut looking).await {
                    Ok(looked) => break looked,
                    Err(_) => member.close_if_expired(&engine).await,
                }
            };
            if let Ok(Err(error)) = looked {
                tracing::warn!(%error, "the other nodes are not seen");
            }
            member.close_if_expired(&engine).await;
        }
    }

    /// Time until the lease needs attention.
    fn time_to_act(&self) -> Duration {
        match self.state.lock().lease.left(since_boot()) {
            Duration::ZERO => LOOK_EVERY,
            left => left,
        }
    }

    async fn close_if_expired(&self, engine: &Engine) {
        let holds = self.state.lock().lease.holds(since_boot());
        let lanes = engine.held_lanes();
        if !holds && !lanes.is_empty() {
            tracing::error!("the lease has run out: lanes are closed");
            engine.close_lanes(&lanes).await;
        }
    }
}

/// Logs which events acknowledged by this node are lost.
async fn find_lost(engine: &Engine, node: &str) {
    let lost = loop {
        match engine.store.find_lost(node).await {
            Ok(lost) => break lost,
            Err(error) => tracing::warn!(%error, "lost events are looked for again"),
        }
        if engine.is_failing() {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    engine.metrics.events_lost.inc_by(lost.len() as u64);
    for event in &lost {
        let (id, hook) = (event.id, event.hook.0);
        let seq = event.place.map(|(_, seq)| seq.0);
        tracing::error!(%id, hook, seq, "an acknowledged event is lost");
    }
    let lost = lost.len();
    tracing::warn!(
        lost,
        "what was acknowledged before the failover was looked for"
    );
}

/// Runs a database call with a time limit, after which its outcome is unknown.
async fn in_time<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let answer = timeout(PATIENCE, call).await;
    answer.unwrap_or_else(|_| Err(Error::Lost("no answer in time".into())))
}

/// Removes a dead node, if its heartbeat is still this one.
async fn reap(engine: &Engine, node: &str, beat: i64) -> Result<(), Error> {
    if in_time(engine.store.reap(node, beat)).await? {
        tracing::warn!(node, "a node is dead: its lanes are free");
        engine.look_at_lanes();
    }
    Ok(())
}

/// Stops lanes of closing sets between two turns and seals them; returns their remaining hints.
async fn seal(
    engine: &Engine,
    me: &str,
    lanes: &[(LaneId, i64)],
) -> Result<impl Iterator<Item = Hint> + use<>, Error> {
    let ids: Vec<_> = lanes.iter().map(|(lane, _)| lane.clone()).collect();
    let left = engine.stop_lanes(&ids).await;
    if !lanes.is_empty() {
        in_time(engine.store.seal_lanes(lanes, me, Timestamp::now())).await?;
        tracing::info!(lanes = lanes.len(), "lanes sealed");
        engine.look_at_lanes();
    }
    Ok(left.into_iter().flat_map(|(_, hints)| hints))
}

/// Tells Redis the present lane sets of these namespaces.
async fn raise(engine: &Engine, namespaces: &BTreeSet<Name>) {
    for set in engine.catalog.now().lane_sets.values() {
        if namespaces.contains(&set.namespace) {
            engine.relay.raise(set).await;
        }
    }
}

/// Closes lanes between two turns, and frees them.
async fn hand_over(engine: &Engine, me: &str, lanes: &[(LaneId, i64)]) -> Result<(), Error> {
    let ids: Vec<_> = lanes.iter().map(|(lane, _)| lane.clone()).collect();
    engine.close_lanes(&ids).await;
    in_time(engine.store.release_lanes(lanes, me)).await?;
    tracing::info!(lanes = lanes.len(), "lanes handed over");
    engine.relay.poke(&ids).await;
    Ok(())
}

/// Opens lanes that were taken. Lanes that are not opened because the database does not answer are given
/// back at the next look.
async fn open(engine: &Arc<Engine>, me: &str, lanes: Vec<(LaneId, i64)>) -> Result<(), Error> {
    in_time(engine.deliveries.forwards.flights.look(engine, me)).await?;
    tracing::info!(lanes = lanes.len(), "lanes taken");
    for (lane, epoch) in lanes {
        engine.open_lane(lane, epoch);
    }
    Ok(())
}

/// Without Redis, nodes cannot tell each other about events, so only one node may run. A dead one is
/// waited for.
async fn refuse_strangers(store: &crate::store::Store, hints: &str) -> Result<(), Error> {
    let began = since_boot();
    let mut watch = Watch::default();
    loop {
        let now = since_boot();
        let nodes = store.nodes().await?;
        for (id, beat) in watch.see(&nodes, "", now) {
            store.reap(&id, beat).await?;
        }
        let alone = |node: &&NodeRow| hints == "memory" || node.hints == "memory";
        let Some(other) = nodes.iter().find(alone) else {
            return Ok(());
        };
        // A node whose heartbeat changes is alive.
        let lives = now.saturating_sub(began) > RENEWAL * 2 && watch.has_beaten(&other.id);
        if lives || now.saturating_sub(began) > LEASE * 2 {
            return Err(Error::Refused(format!(
                "node {} already runs on this database and {}; give every node the same --redis",
                other.name,
                match hints {
                    "memory" => "this one would keep its hints in memory",
                    _ => "keeps its hints in memory",
                }
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn row(name: &str, data_dir: &str, hints: &str) -> NodeRow {
    NodeRow {
        id: uuid::Uuid::now_v7().simple().to_string(),
        name: name.to_owned(),
        data_dir: data_dir.to_owned(),
        hints: hints.to_owned(),
        state: "live".to_owned(),
        beat: 0,
        config_seen: 0,
        report: String::new(),
        started_at: Timestamp::now(),
    }
}
