//! Hints to and from other nodes: hints for lanes that run elsewhere are sent, hints for lanes that run
//! here are received.
//!
//! Any hint may be lost. Every sign of a loss leads to the same three steps: raise the namespace, claim
//! the lanes again, sweep the database. While Redis is away, the node sweeps every second.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Engine;
use crate::domain::cursor::CursorId;
use crate::domain::lane::{LaneId, LaneSet};
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::lanes::redis::{Answer, Error, Redis, Sign};
use crate::lanes::{Backlog, Hint, Recheck};

/// Interval at which queues are read without a poke.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Interval of the pulse, which shows whether Redis has lost data.
const PULSE_EVERY: Duration = Duration::from_secs(1);

/// Number of batches that may wait to be sent; the sweep of the lanes' owners finds further ones.
const WAITING_MAX: usize = 1_024;

/// Time for which a stopping node waits until its last hints are sent.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Number of hints in one call.
const BATCH_MAX: usize = 2_048;

/// Connection to the other nodes. Without Redis there are none.
pub struct Relay {
    redis: Option<Redis>,
    out: mpsc::Sender<Outgoing>,
    waiting: Mutex<Option<mpsc::Receiver<Outgoing>>>,
    /// Number of batches not sent yet.
    unsent: watch::Sender<usize>,
    away: AtomicBool,
}

type Outgoing = (LaneId, Vec<CursorId>);

impl Relay {
    /// A relay through this server, if there is one.
    pub fn new(redis: Option<Redis>) -> Self {
        let (out, waiting) = mpsc::channel(WAITING_MAX);
        Self {
            redis,
            out,
            waiting: Mutex::new(Some(waiting)),
            unsent: watch::channel(0).0,
            away: AtomicBool::new(false),
        }
    }

    /// True if other nodes send hints.
    pub fn is_shared(&self) -> bool {
        self.redis.is_some()
    }

    /// Address of the Redis server, without the password.
    pub fn server(&self) -> Option<String> {
        self.redis.as_ref().map(Redis::address)
    }

    /// Time since when Redis cannot be used, and the reason with what to do.
    pub fn trouble(&self) -> Option<(Timestamp, String)> {
        self.redis.as_ref().and_then(Redis::trouble)
    }

    /// True if Redis does not answer.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Queues hints to be sent; does not wait.
    pub fn send(&self, lane: LaneId, cursors: Vec<CursorId>) {
        if self.redis.is_some() && !cursors.is_empty() {
            self.unsent.send_modify(|unsent| *unsent += 1);
            if self.out.try_send((lane, cursors)).is_err() {
                // The queue is full; the owner's sweep finds these cursors.
                self.unsent.send_modify(|unsent| *unsent -= 1);
            }
        }
    }

    /// Waits briefly until all hints are sent. Hints that are not sent cost time, because a sweep must
    /// find their cursors.
    pub async fn flush(&self) {
        let mut unsent = self.unsent.subscribe();
        let _ = timeout(FLUSH_MAX, unsent.wait_for(|unsent| *unsent == 0)).await;
    }

    /// Makes other nodes look at once, for example when lanes have become free.
    pub async fn poke(&self, lanes: &[LaneId]) {
        let Some(redis) = &self.redis else { return };
        let namespaces: HashSet<&Name> = lanes.iter().map(|lane| &lane.namespace).collect();
        for namespace in namespaces {
            let _ = redis.poke(namespace).await;
        }
    }

    /// Announces a new lane set to Redis and to other nodes. The owner of an old lane learns of it when
    /// it next asks for hints.
    pub async fn raise(&self, set: &LaneSet) {
        let Some(redis) = &self.redis else { return };
        if redis.raise(set).await.is_ok() {
            let _ = redis.poke(&set.namespace).await;
        }
    }

    /// Removes the keys of a closed lane set.
    pub async fn forget(&self, set: &LaneSet) {
        let Some(redis) = &self.redis else { return };
        if let Err(error) = redis.forget(set).await {
            tracing::debug!(%error, "the queues of a closed lane set stay");
        }
    }

    /// Removes the hints of a namespace and its owners' claims, claims the lanes that run here again,
    /// and sweeps. The other owners notice when they next ask for hints, and do the same.
    ///
    /// # Errors
    /// [`Error::Away`].
    pub async fn wipe(&self, engine: &Engine, namespace: &Name) -> Result<(), Error> {
        let Some(redis) = &self.redis else {
            return Ok(());
        };
        redis.wipe(namespace).await?;
        let mut lanes = engine.held();
        lanes.retain(|(lane, _)| lane.namespace == *namespace);
        let claimed = claim(engine, redis, &lanes).await;
        engine.sweep_soon();
        claimed
    }

    /// Starts the tasks that send and receive hints.
    pub fn start(engine: &Arc<Engine>, duties: &mut JoinSet<()>) {
        let relay = &engine.relay;
        let (Some(redis), Some(waiting)) = (relay.redis.clone(), relay.waiting.lock().take())
        else {
            return;
        };
        duties.spawn(redis.clone().listen());
        duties.spawn(send_all(engine.clone(), redis.clone(), waiting));
        duties.spawn(receive_all(engine.clone(), redis.clone()));
        duties.spawn(watch(engine.clone(), redis));
    }

    /// Fences the previous owners of lanes that were just taken. If Redis is away, this happens when it
    /// returns.
    pub async fn claim(&self, engine: &Engine, lanes: &[(LaneId, i64)]) {
        let Some(redis) = &self.redis else { return };
        if let Err(error) = claim(engine, redis, lanes).await {
            tracing::debug!(%error, "lanes are claimed later");
        }
    }
}

/// Raises the namespaces of `lanes`, then claims each lane.
async fn claim(engine: &Engine, redis: &Redis, lanes: &[(LaneId, i64)]) -> Result<(), Error> {
    let catalog = engine.catalog.now();
    let namespaces: HashSet<&Name> = lanes.iter().map(|(lane, _)| &lane.namespace).collect();
    for namespace in namespaces {
        if let Some(set) = catalog.lane_sets.get(namespace) {
            redis.raise(set).await?;
        }
    }
    let claims = lanes.iter().map(|(lane, epoch)| redis.claim(lane, *epoch));
    let answers = futures_util::future::join_all(claims).await;
    for ((lane, epoch), answer) in lanes.iter().zip(answers) {
        if let Answer::Fenced(later) = answer? {
            tracing::info!(%lane, epoch, later, "another node has taken the lane");
            engine.look_at_lanes();
        }
    }
    Ok(())
}

async fn send_all(engine: Arc<Engine>, redis: Redis, mut waiting: mpsc::Receiver<Outgoing>) {
    while let Some(first) = waiting.recv().await {
        let mut batch: BTreeMap<(Name, i64), Vec<(u16, CursorId)>> = BTreeMap::new();
        let (mut hints, mut batches) = (0, 0);
        let mut next = Some(first);
        while let Some((lane, cursors)) = next {
            hints += cursors.len();
            batches += 1;
            let of_set = batch.entry((lane.namespace, lane.generation)).or_default();
            of_set.extend(cursors.into_iter().map(|cursor| (lane.index, cursor)));
            next = if hints < BATCH_MAX {
                waiting.try_recv().ok()
            } else {
                None
            };
        }
        for ((namespace, generation), hints) in batch {
            if let Err(error) = push(&engine, &redis, &namespace, generation, &hints).await {
                tracing::debug!(%error, "hints are left to the sweep");
            }
        }
        let unsent = &engine.relay.unsent;
        unsent.send_modify(|unsent| *unsent -= batches);
    }
}

async fn push(
    engine: &Engine,
    redis: &Redis,
    namespace: &Name,
    generation: i64,
    hints: &[(u16, CursorId)],
) -> Result<(), Error> {
    match Pushed::of(&redis.push(namespace, generation, hints).await?) {
        Pushed::Unknown => {
            if let Some(set) = engine.catalog.now().lane_sets.get(namespace) {
                redis.raise(set).await?;
            }
            redis.push(namespace, generation, hints).await?;
        }
        Pushed::Old => {
            let _ = engine.catalog.refresh().await;
            engine.catalog_changed();
            let now = engine.catalog.now();
            let set = now.lane_sets.get(namespace);
            // Redis has a generation that the database does not have; it will be wiped and swept soon.
            if set.is_some_and(|set| set.generation > generation) {
                let now = Timestamp::now();
                engine.place_later(hints.iter().map(|(_, cursor)| hint_of(*cursor, now)));
            }
        }
        Pushed::Done => {}
    }
    Ok(())
}

async fn receive_all(engine: Arc<Engine>, redis: Redis) {
    let mut more = false;
    loop {
        if !more {
            let _ = timeout(LOOK_EVERY, redis.poked()).await;
            engine.look_at_lanes_if_free();
        }
        let lanes = engine.held();
        more = match redis.pop(&lanes, BATCH_MAX).await {
            Ok(answers) => receive(&engine, &redis, &lanes, answers).await,
            Err(_) => {
                engine.relay.away.store(true, Ordering::Relaxed);
                false
            }
        };
    }
}

/// Handles the answers of a pop; true if there may be more hints.
async fn receive(
    engine: &Engine,
    redis: &Redis,
    lanes: &[(LaneId, i64)],
    answers: Vec<Answer<Vec<CursorId>>>,
) -> bool {
    let mut more = false;
    let mut lost = Vec::new();
    for ((lane, epoch), answer) in lanes.iter().zip(answers) {
        match Popped::of(answer, *epoch) {
            Popped::Hints(cursors) => {
                more |= cursors.len() == BATCH_MAX;
                receive_hints(engine, lane, cursors);
            }
            Popped::Taken => engine.look_at_lanes(),
            Popped::Forgotten => lost.push((lane.clone(), *epoch)),
            Popped::Old => {
                let _ = engine.catalog.refresh().await;
                engine.catalog_changed();
                engine.look_at_lanes();
            }
        }
    }
    if !lost.is_empty() {
        tracing::warn!(
            lanes = lost.len(),
            "Redis has forgotten lanes: they are claimed and swept"
        );
        recover(engine, redis, &lost).await;
    }
    more
}

/// Meaning of the answer to a pop of a lane's hints.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Popped {
    /// Cursors that have work.
    Hints(Vec<CursorId>),
    /// Another node has taken the lane since: look at which node runs which lane.
    Taken,
    /// Redis has lost data: raise, claim, sweep.
    Forgotten,
    /// The lane belongs to an old lane set: read the configuration, and look at which node runs which
    /// lane.
    Old,
}

impl Popped {
    /// The meaning for the owner of the lane under `epoch`.
    pub(super) fn of(answer: Answer<Vec<CursorId>>, epoch: i64) -> Self {
        match answer {
            Answer::Done(cursors) => Self::Hints(cursors),
            Answer::NotOwner(Some(later)) if later > epoch => Self::Taken,
            Answer::Wiped | Answer::Behind(_) | Answer::NotOwner(_) => Self::Forgotten,
            Answer::Stale(_) | Answer::Fenced(_) => Self::Old,
        }
    }
}

/// Meaning of the answer to a push of hints into lanes of a generation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// The cursors are hinted.
    Done,
    /// Redis does not know the generation: raise it, and push again.
    Unknown,
    /// A newer lane set runs: read the configuration, and forward the hints by it.
    Old,
}

impl Pushed {
    pub(super) fn of<T>(answer: &Answer<T>) -> Self {
        match answer {
            Answer::Wiped | Answer::Behind(_) => Self::Unknown,
            Answer::Stale(_) => Self::Old,
            Answer::Done(_) | Answer::NotOwner(_) | Answer::Fenced(_) => Self::Done,
        }
    }
}

fn receive_hints(engine: &Engine, lane: &LaneId, cursors: Vec<CursorId>) {
    if cursors.is_empty() {
        return;
    }
    engine.store.invalidate(cursors.iter().copied());
    let now = Timestamp::now();
    let hints = cursors.into_iter().map(|cursor| hint_of(cursor, now));
    let hints = hints.collect();
    if let Err(hints) = engine.lanes.hint(lane, hints) {
        // The lane was closed meanwhile; the hints go to its next owner.
        let cursors = hints.into_iter().map(|hint| hint.cursor).collect();
        engine.relay.send(lane.clone(), cursors);
    }
}

/// The purpose of another node's hint is unknown: it may have released the cursor, so the hint asks for
/// a recheck, which costs one read if the cursor is still set aside.
pub(super) fn hint_of(cursor: CursorId, now: Timestamp) -> Hint {
    Hint {
        cursor,
        oldest: now,
        newest: now,
        backlog: Backlog::More(1),
        recheck: Recheck::Yes,
    }
}

async fn recover(engine: &Engine, redis: &Redis, lanes: &[(LaneId, i64)]) {
    if let Err(error) = claim(engine, redis, lanes).await {
        tracing::debug!(%error, "lanes are claimed later");
    }
    engine.sweep_soon();
}

/// Detects that Redis has lost data, is away, or has a generation that the database does not have.
async fn watch(engine: Arc<Engine>, redis: Redis) {
    let mut clock = tokio::time::interval(PULSE_EVERY);
    let mut ahead: HashMap<Name, i64> = HashMap::new();
    let mut told = String::new();
    loop {
        clock.tick().await;
        let sign = redis.pulse().await;
        let why = redis.trouble().map(|(_, why)| why).unwrap_or_default();
        let was_away = engine
            .relay
            .away
            .swap(sign == Sign::Away, Ordering::Relaxed);
        match sign {
            Sign::Away => {
                if told != why {
                    tracing::warn!("{why}; until then work is found by sweeping");
                    told = why;
                }
                engine.sweep_soon();
            }
            Sign::Lost => {
                recover(&engine, &redis, &engine.held()).await;
            }
            Sign::Fine if was_away => {
                told.clear();
                tracing::info!("Redis answers again");
                recover(&engine, &redis, &engine.held()).await;
            }
            Sign::Fine => ahead = wipe_what_is_ahead(&engine, &redis, &ahead).await,
        }
    }
}

/// Wipes namespaces for which Redis has had a later generation than the database in two looks. Even a
/// database that has lost data is the source of truth.
async fn wipe_what_is_ahead(
    engine: &Engine,
    redis: &Redis,
    seen: &HashMap<Name, i64>,
) -> HashMap<Name, i64> {
    let catalog = engine.catalog.now();
    let mut ahead = HashMap::new();
    for (name, set) in &catalog.lane_sets {
        let Ok(Answer::Stale(generation)) = redis.raise(set).await else {
            continue;
        };
        if seen.get(name) != Some(&generation) {
            // This node's configuration may be out of date.
            let _ = engine.catalog.refresh().await;
            ahead.insert(name.clone(), generation);
        } else if redis.wipe(name).await.is_ok() {
            tracing::warn!(namespace = %name, generation, "Redis knew lanes that the database does not");
            engine.sweep_soon();
        }
    }
    ahead
}
