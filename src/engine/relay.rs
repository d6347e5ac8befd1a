//! Hints between this node and the others: what has work in a lane that runs elsewhere goes out, what
//! others say about lanes that run here comes in.
//!
//! It may lose any hint. Signs of a loss lead to the same three steps: the namespace is raised, lanes
//! are claimed again, the database is swept. While Redis is away, the node sweeps every second.

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

/// How often queues are looked at when nobody pokes.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often Redis is asked whether it still knows what it knew.
const PULSE_EVERY: Duration = Duration::from_secs(1);

/// Batches of hints that may wait to go out; more are left to the sweep of their owners.
const WAITING_MAX: usize = 1_024;

/// How long a node that ends waits for its last hints to go out.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Hints in one call.
const BATCH_MAX: usize = 2_048;

/// The way to and from the other nodes. Without Redis there are none.
pub struct Relay {
    redis: Option<Redis>,
    out: mpsc::Sender<Outgoing>,
    waiting: Mutex<Option<mpsc::Receiver<Outgoing>>>,
    /// Batches of hints that have not gone out.
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

    /// Whether hints come from other nodes.
    pub fn is_shared(&self) -> bool {
        self.redis.is_some()
    }

    /// The address of the server through which hints go, without a password.
    pub fn server(&self) -> Option<String> {
        self.redis.as_ref().map(Redis::address)
    }

    /// Since when and why it cannot be used, with what to do.
    pub fn trouble(&self) -> Option<(Timestamp, String)> {
        self.redis.as_ref().and_then(Redis::trouble)
    }

    /// Whether Redis does not answer.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Sends hints out, without waiting.
    pub fn send(&self, lane: LaneId, cursors: Vec<CursorId>) {
        if self.redis.is_some() && !cursors.is_empty() {
            self.unsent.send_modify(|unsent| *unsent += 1);
            if self.out.try_send((lane, cursors)).is_err() {
                // Full: the owner's sweep finds them.
                self.unsent.send_modify(|unsent| *unsent -= 1);
            }
        }
    }

    /// Waits until all that was to go out has, for a moment at most: the owners sweep otherwise, but later.
    pub async fn flush(&self) {
        let mut unsent = self.unsent.subscribe();
        let _ = timeout(FLUSH_MAX, unsent.wait_for(|unsent| *unsent == 0)).await;
    }

    /// Makes others look at once, as when lanes have become free.
    pub async fn poke(&self, lanes: &[LaneId]) {
        let Some(redis) = &self.redis else { return };
        let namespaces: HashSet<&Name> = lanes.iter().map(|lane| &lane.namespace).collect();
        for namespace in namespaces {
            let _ = redis.poke(namespace).await;
        }
    }

    /// Tells Redis and the other nodes of a new lane set at once: whoever runs an old lane hears of it when
    /// he asks for hints.
    pub async fn raise(&self, set: &LaneSet) {
        let Some(redis) = &self.redis else { return };
        if redis.raise(set).await.is_ok() {
            let _ = redis.poke(&set.namespace).await;
        }
    }

    /// Removes what is left of a lane set of which nothing runs any more.
    pub async fn forget(&self, set: &LaneSet) {
        let Some(redis) = &self.redis else { return };
        if let Err(error) = redis.forget(set).await {
            tracing::debug!(%error, "the queues of a closed lane set stay");
        }
    }

    /// Removes the hints of a namespace, and what is known of owners; claims the lanes that run here again, and
    /// sweeps. The other owners are told so when they next ask for hints: they do the same.
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

    /// Starts what moves hints.
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

    /// Fences the earlier owners of lanes that were just taken. When Redis is away, its return does it.
    pub async fn claim(&self, engine: &Engine, lanes: &[(LaneId, i64)]) {
        let Some(redis) = &self.redis else { return };
        if let Err(error) = claim(engine, redis, lanes).await {
            tracing::debug!(%error, "lanes are claimed later");
        }
    }
}

/// Raises the namespaces of `lanes`, then claims each.
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
            // Redis ahead of the database: wiped soon, and swept.
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

/// Acts by what was popped; says whether there may be more.
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

/// What an answer to who asked for the hints of a lane means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Popped {
    /// These have work.
    Hints(Vec<CursorId>),
    /// Somebody has taken the lane since: look at who runs what.
    Taken,
    /// Redis has lost something: raise, claim, sweep.
    Forgotten,
    /// The lane is of an old lane set: read the configuration, and look at who runs what.
    Old,
}

impl Popped {
    /// The meaning for who runs the lane under `epoch`.
    pub(super) fn of(answer: Answer<Vec<CursorId>>, epoch: i64) -> Self {
        match answer {
            Answer::Done(cursors) => Self::Hints(cursors),
            Answer::NotOwner(Some(later)) if later > epoch => Self::Taken,
            Answer::Wiped | Answer::Behind(_) | Answer::NotOwner(_) => Self::Forgotten,
            Answer::Stale(_) | Answer::Fenced(_) => Self::Old,
        }
    }
}

/// What an answer to who hinted cursors in lanes of a generation means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// They are hinted.
    Done,
    /// Redis has not heard of the generation: raise it, and hint again.
    Unknown,
    /// A newer lane set runs: read the configuration, and place the hints by it.
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
        // Closed in between: for the next owner.
        let cursors = hints.into_iter().map(|hint| hint.cursor).collect();
        engine.relay.send(lane.clone(), cursors);
    }
}

/// What another node meant is not known: it may have let the cursor go. A cursor that is still set aside
/// costs a look.
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

/// Notices that Redis has lost something, is away, or holds a generation that the database has lost.
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

/// Wipes namespaces of which Redis has known a later generation than the database for two looks: a
/// database that has lost something is still the truth.
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
            // It may be this node that has not looked for a while.
            let _ = engine.catalog.refresh().await;
            ahead.insert(name.clone(), generation);
        } else if redis.wipe(name).await.is_ok() {
            tracing::warn!(namespace = %name, generation, "Redis knew lanes that the database does not");
            engine.sweep_soon();
        }
    }
    ahead
}
