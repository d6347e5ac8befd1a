//! Takes and gives away lanes: the loop around [`super::membership`], which decides.
//!
//! The only node of a file runs every lane and has no rows. Nodes that may share a server each have a
//! row and beat; a node whose lease has run out closes its lanes before others may take them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout;

use super::Engine;
use super::membership::{LEASE, Lease, RENEWAL, Watch, decide, is_unfinished};
use crate::domain::lane::LaneId;
use crate::domain::time::{Timestamp, since_boot};
use crate::lanes::redis::Redis;
use crate::store::{Error, History, LaneRow, NodeRow};

/// How often a node looks at the others.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How soon what a node's lanes do is shown to the others, when it has changed.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// A node among others on one server.
pub struct Node {
    /// What people call it.
    pub name: String,
    /// The word of its data directory.
    pub data_dir: String,
    /// Where hints are kept; none: in memory, and then it must be the only node.
    pub redis: Option<Redis>,
}

/// What a node knows of itself and of the others.
pub struct Member {
    name: String,
    data_dir: String,
    hints: &'static str,
    state: Mutex<State>,
    /// What its lanes do, as JSON, for the others.
    report: Mutex<String>,
    view: Mutex<View>,
}

struct State {
    id: String,
    lease: Lease,
    watch: Watch,
    beaten: Duration,
    reported: String,
    /// The version of the configuration that the others know this node to act by.
    config_seen: i64,
    leaving: bool,
    /// The server that this node's lanes are of.
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
    /// Joins the nodes of a server.
    ///
    /// # Errors
    /// [`Error::Refused`] when nodes could not hear of each other's events.
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
                reported: String::new(),
                config_seen: 0,
                leaving: false,
                history,
            }),
            report: Mutex::default(),
            view: Mutex::default(),
        })
    }

    /// What people call this node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of this node.
    pub fn id(&self) -> String {
        self.state.lock().id.clone()
    }

    /// What every node does, as last seen.
    pub fn view(&self) -> View {
        self.view.lock().clone()
    }

    /// How long each other node has been silent, by id.
    pub fn silences(&self) -> HashMap<String, Duration> {
        self.state.lock().watch.silences(since_boot())
    }

    /// For how long this node may still run its lanes.
    pub fn lease_left(&self) -> Duration {
        self.state.lock().lease.left(since_boot())
    }

    /// Says what the lanes of this node do.
    pub fn report(&self, json: String) {
        *self.report.lock() = json;
    }

    async fn beat(&self, engine: &Engine) -> Result<(), Error> {
        let report = self.report.lock().clone();
        let config = engine.acted();
        let sent = since_boot();
        let due = {
            let state = self.state.lock();
            let since = sent.saturating_sub(state.beaten);
            let is_news = state.reported != report;
            let waited_for = state.config_seen != config;
            since >= RENEWAL || waited_for || (since >= REPORT_EVERY && is_news)
        };
        if !due {
            return Ok(());
        }
        if in_time(engine.store.beat(&self.id(), config, &report)).await? {
            let mut state = self.state.lock();
            state.lease.renewed(sent);
            state.beaten = sent;
            state.reported = report;
            state.config_seen = config;
            return Ok(());
        }
        self.begin_again(engine).await
    }

    /// The lease is lost: drops everything, and joins under another id.
    async fn begin_again(&self, engine: &Engine) -> Result<(), Error> {
        tracing::warn!("the lease is lost: lanes are dropped, and taken anew");
        engine.close_lanes(&engine.held_lanes()).await;
        self.join_again(engine).await
    }

    /// Joins under another id.
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

    /// One look: beats, removes the dead, and moves lanes.
    async fn look(&self, engine: &Arc<Engine>) -> Result<(), Error> {
        self.follow(engine).await?;
        self.beat(engine).await?;
        let view = View {
            // Lanes first: an owner that is missing from the nodes is gone then, not new.
            lanes: in_time(engine.store.lanes()).await?,
            nodes: in_time(engine.store.nodes()).await?,
        };
        *self.view.lock() = view.clone();
        let now = since_boot();
        let (me, silent, stable, has_changed) = {
            let mut state = self.state.lock();
            let me = state.id.clone();
            let silent = state.watch.see(&view.nodes, &me, now);
            let has_changed = state.watch.has_changed();
            (me, silent, state.watch.is_stable(now), has_changed)
        };
        if has_changed {
            // What a dead node had stored, or was told, and not passed on yet is found here. Lanes that it ran
            // itself are swept as they are taken.
            engine.sweep_soon();
        }
        for (id, beat) in silent {
            if in_time(engine.store.reap(&id, beat)).await? {
                tracing::warn!(node = id, "a node is dead: its lanes are free");
                engine.look_at_lanes();
            }
        }
        if self.state.lock().leaving {
            return Ok(());
        }
        let held: HashMap<_, _> = engine.held().into_iter().collect();
        let moves = decide(&view.lanes, &view.nodes, &me, &held, stable);
        if !moves.drop.is_empty() {
            tracing::warn!(lanes = moves.drop.len(), "lanes are not ours any more");
            engine.close_lanes(&moves.drop).await;
        }
        if !moves.seal.is_empty() || is_unfinished(&view.lanes) {
            seal(engine, &me, &moves.seal).await?;
        }
        self.hand_over(engine, &me, &view.lanes, &moves.hand_over)
            .await?;
        take(engine, &me, &moves.take).await
    }

    /// Sees whether it is still the same server that answers. One that has taken its place may not have the
    /// newest events, takes and moves.
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

    /// Begins anew on another server: nothing that was known of lanes, hints and cursors holds there. Done
    /// again at the next look if it is broken off.
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

    /// Closes lanes, each between two turns, and frees them.
    async fn hand_over(
        &self,
        engine: &Engine,
        me: &str,
        rows: &[LaneRow],
        lanes: &[LaneId],
    ) -> Result<(), Error> {
        if lanes.is_empty() {
            return Ok(());
        }
        engine.close_lanes(lanes).await;
        let is_theirs = |row: &&LaneRow| lanes.contains(&row.id);
        let freed: Vec<_> = rows
            .iter()
            .filter(is_theirs)
            .map(|row| (row.id.clone(), row.epoch))
            .collect();
        in_time(engine.store.release_lanes(&freed, me)).await?;
        tracing::info!(lanes = lanes.len(), "lanes handed over");
        engine.relay.poke(lanes).await;
        Ok(())
    }

    /// Gives every lane away and takes none any more.
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

    /// Removes the row of this node, as the last thing that it does.
    pub async fn go(&self, engine: &Engine) {
        if let Err(error) = engine.store.remove_node(&self.id()).await {
            tracing::warn!(%error, "the row of this node is removed by the others");
        }
    }

    /// Takes the first lanes, and returns when this node runs what is its own.
    pub async fn begin(&self, engine: &Arc<Engine>) -> Result<(), Error> {
        self.look(engine).await
    }

    /// Looks at the others now and then, or when asked to. A look is never cut off in the middle of
    /// opening or closing lanes; when the lease runs out meanwhile, the lanes are closed all the same.
    pub async fn run(engine: Arc<Engine>) {
        let Some(member) = &engine.member else { return };
        loop {
            let _ = timeout(LOOK_EVERY, engine.look.notified()).await;
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

    /// How long nothing needs to be done about the lease.
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

/// Says which of the events that this node has acknowledged are lost.
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
        let (id, hook, seq) = (event.id, event.hook.0, event.seq.0);
        tracing::error!(%id, hook, seq, "an acknowledged event is lost");
    }
    let lost = lost.len();
    tracing::warn!(
        lost,
        "what was acknowledged before the failover was looked for"
    );
}

/// A call that the database must answer in time, or it is unknown what became of it.
async fn in_time<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let answer = timeout(PATIENCE, call).await;
    answer.unwrap_or_else(|_| Err(Error::Lost("no answer in time".into())))
}

/// Closes lanes of sets that go, each between two turns, and seals them; who waits for that is told, and
/// what they still had to do goes to the lanes that follow.
async fn seal(engine: &Arc<Engine>, me: &str, lanes: &[(LaneId, i64)]) -> Result<(), Error> {
    let ids: Vec<_> = lanes.iter().map(|(lane, _)| lane.clone()).collect();
    let left = engine.stop_lanes(&ids).await;
    if !lanes.is_empty() {
        in_time(engine.store.seal_lanes(lanes, me, Timestamp::now())).await?;
        tracing::info!(lanes = lanes.len(), "lanes sealed");
    }
    engine.close_sets().await?;
    engine.catalog.refresh().await?;
    engine.catalog_changed();
    for set in engine.catalog.now().lane_sets.values() {
        if ids.iter().any(|lane| lane.namespace == set.namespace) {
            engine.relay.raise(set).await;
        }
    }
    engine.place_later(left.into_iter().flat_map(|(_, hints)| hints));
    if !lanes.is_empty() {
        engine.look_at_lanes();
    }
    Ok(())
}

async fn take(engine: &Arc<Engine>, me: &str, lanes: &[LaneId]) -> Result<(), Error> {
    let taken = in_time(engine.store.take_lanes(lanes, me)).await?;
    if taken.is_empty() {
        return Ok(());
    }
    // Lanes of a set that is not known here yet would run as if nobody had stopped them. Those that are not
    // opened for want of an answer are given back at the next look.
    engine.catalog.refresh().await?;
    engine.catalog_changed();
    in_time(engine.forwards.flights.look(engine, me)).await?;
    tracing::info!(lanes = taken.len(), "lanes taken");
    for (lane, epoch) in &taken {
        engine.open_lane(lane.clone(), *epoch);
    }
    // In this order: what was hinted to the owner before is found by the sweep, what is hinted from now
    // on comes here.
    engine.relay.claim(engine, &taken).await;
    engine.sweep().await?;
    Ok(())
}

/// Without a way to tell each other of events there can be one node only. A dead one is waited for.
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
        // One that beats is alive.
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
