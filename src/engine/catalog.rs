//! The configuration as last read: hooks, handlers, keys, lane sets. One way to learn of a change,
//! whoever made it: the version in the database.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::domain::cursor::CursorId;
use crate::domain::hook::{Handler, HandlerId, Hook, HookId};
use crate::domain::key::{Key, KeyId};
use crate::domain::lane::{LaneId, LaneSet, Mode};
use crate::domain::name::Name;
use crate::domain::position::Position;
use crate::domain::rate::Bucket;
use crate::domain::thresholds::Thresholds;
use crate::domain::time::Timestamp;
use crate::store::{Error, HookStop, LaneMode, LastUse, Move, Store};

/// Hands out the newest [`Snapshot`].
pub struct Catalog {
    store: Store,
    now: ArcSwap<Snapshot>,
    /// Reads one at a time, so that an older one never replaces a newer one.
    reading: tokio::sync::Mutex<()>,
    uses: Mutex<HashMap<i64, Use>>,
}

/// The last use of a key here.
struct Use {
    last: LastUse,
    is_stored: bool,
}

/// Everything as it stood at one version.
#[derive(Default)]
pub struct Snapshot {
    /// Which version.
    pub version: i64,
    /// Hooks by name.
    pub hooks: HashMap<Name, Arc<Hook>>,
    /// Hooks by number.
    pub hooks_by_id: HashMap<HookId, Arc<Hook>>,
    /// Handlers by number.
    pub handlers: HashMap<HandlerId, Arc<Handler>>,
    /// Keys by the public part of their text, revoked and expired ones too.
    pub keys: HashMap<KeyId, LiveKey>,
    /// The newest lane set of each namespace.
    pub lane_sets: HashMap<Name, LaneSet>,
    /// When each namespace is late.
    pub thresholds: HashMap<Name, Thresholds>,
    /// What is stopped.
    pub stops: Stops,
}

/// What an operator has stopped, and whose lanes hooks use: what decides whether and where a cursor moves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    /// Lanes that do not just take turns.
    pub lanes: HashMap<LaneId, LaneMode>,
    /// Up to where cursors of draining lanes move.
    pub marks: HashMap<CursorId, Position>,
    /// Hooks whose cursors take no turns.
    pub hooks: HashMap<HookId, HookStop>,
}

/// The lanes of a set, as far as they drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drain {
    /// None has to be looked at.
    None,
    /// These may have reached their marks.
    UnderWay(Vec<LaneId>),
    /// All have: a resize may have waited for that.
    Done,
}

impl Stops {
    /// The hooks on their way to another namespace.
    pub fn moving(&self) -> impl Iterator<Item = &Move> {
        self.hooks.values().filter_map(|stop| stop.moving.as_ref())
    }

    /// What is to be seen to about the lanes of a set that drain.
    pub fn drain(&self, set: &LaneSet) -> Drain {
        let has = |lane: &LaneId, mode| self.mode(lane) == mode;
        let draining: Vec<_> = set.ids().filter(|lane| has(lane, Mode::Draining)).collect();
        if !draining.is_empty() {
            return Drain::UnderWay(draining);
        }
        match set.ids().all(|lane| has(&lane, Mode::Drained)) {
            true => Drain::Done,
            false => Drain::None,
        }
    }

    /// What a lane does.
    pub fn mode(&self, lane: &LaneId) -> Mode {
        self.lanes.get(lane).map_or(Mode::Active, |lane| lane.mode)
    }
}

/// A key, and the second in which it was last noted as used.
pub struct LiveKey {
    /// The key.
    pub key: Key,
    /// What it has left of its rate, if it has one.
    pub bucket: Option<Arc<Bucket>>,
    noted: AtomicI64,
}

impl Catalog {
    /// Reads the configuration for the first time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn load(store: Store) -> Result<Self, Error> {
        let catalog = Self {
            store,
            now: ArcSwap::default(),
            reading: tokio::sync::Mutex::default(),
            uses: Mutex::default(),
        };
        catalog.refresh().await?;
        Ok(catalog)
    }

    /// The configuration as last read.
    pub fn now(&self) -> Arc<Snapshot> {
        self.now.load_full()
    }

    /// The same, for who only looks at it.
    pub fn peek(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.now.load()
    }

    /// Reads the configuration again though its version is the same: another server may have had other
    /// changes.
    ///
    /// # Errors
    /// Those of the database; what was read before stays.
    pub async fn reload(&self) -> Result<(), Error> {
        let _one = self.reading.lock().await;
        let version = self.store.config_version().await?;
        let snapshot = read(&self.store, version, &self.now.load()).await?;
        self.now.store(Arc::new(snapshot));
        Ok(())
    }

    /// Reads the configuration again if its version has changed; says whether it had.
    ///
    /// # Errors
    /// Those of the database; the old configuration stays in force.
    pub async fn refresh(&self) -> Result<bool, Error> {
        let _one = self.reading.lock().await;
        let mut version = self.store.config_version().await?;
        if version == self.now.load().version {
            return Ok(false);
        }
        loop {
            let snapshot = read(&self.store, version, &self.now.load()).await?;
            // Parts of two versions are no configuration: a hook where it was, and not stopped any more.
            let now = self.store.config_version().await?;
            if now == version {
                self.now.store(Arc::new(snapshot));
                return Ok(true);
            }
            version = now;
        }
    }

    /// Notes that a key was used; cheap, as it acts once a second and key at most.
    pub fn key_used(&self, live: &LiveKey, at: Timestamp, from: Option<IpAddr>) {
        let second = at.as_millis() / 1_000;
        if live.noted.swap(second, Ordering::Relaxed) != second {
            let from = from.map_or("socket".into(), |ip| ip.to_string());
            let used = Use {
                last: LastUse { at, from },
                is_stored: false,
            };
            self.uses.lock().insert(live.key.number, used);
        }
    }

    /// Stores which keys were used since the last time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn store_uses(&self) -> Result<(), Error> {
        let mut uses = Vec::new();
        for (number, used) in self.uses.lock().iter_mut().filter(|(_, u)| !u.is_stored) {
            used.is_stored = true;
            uses.push((*number, used.last.clone()));
        }
        match uses.is_empty() {
            true => Ok(()),
            false => self.store.keys_used(&uses).await,
        }
    }

    /// When a key, by its number, was last used here, stored or not.
    pub fn last_use(&self, number: i64) -> Option<LastUse> {
        self.uses.lock().get(&number).map(|used| used.last.clone())
    }
}

impl Snapshot {
    /// When a namespace is late.
    pub fn thresholds(&self, namespace: &Name) -> Thresholds {
        self.thresholds.get(namespace).copied().unwrap_or_default()
    }

    /// The lanes in which the streams of `hook` take their turns.
    pub fn lanes_of(&self, hook: &Hook) -> Option<&LaneSet> {
        self.lane_sets.get(&hook.namespace)
    }

    /// The hook of a handler.
    pub fn hook_of(&self, handler: HandlerId) -> Option<&Arc<Hook>> {
        let handler = self.handlers.get(&handler)?;
        self.hooks_by_id.get(&handler.hook)
    }

    /// Whether a hook keeps its events for another time than before.
    pub fn keeps_otherwise(&self, before: &Snapshot) -> bool {
        let keep = |catalog: &Snapshot, hook| catalog.hooks_by_id.get(&hook).map(|hook| hook.keep);
        let changed = |hook: &Arc<Hook>| keep(before, hook.id).unwrap_or_default() != hook.keep;
        self.hooks.values().any(changed)
    }

    /// Whether a cursor takes its turns in the lanes of another namespace.
    pub fn is_stranger(&self, lane: &LaneId, cursor: CursorId) -> bool {
        let hook = self.hook_of(cursor.handler);
        hook.is_some_and(|hook| hook.namespace != lane.namespace)
    }

    /// Whether something may move, or moves elsewhere, that did not before.
    pub fn lets_go(&self, before: &Snapshot) -> bool {
        let elsewhere = |hook: &Arc<Hook>| {
            let was = before.hooks_by_id.get(&hook.id);
            was.is_some_and(|was| was.namespace != hook.namespace)
        };
        self.stops != before.stops || self.hooks.values().any(elsewhere)
    }
}

async fn read(store: &Store, version: i64, before: &Snapshot) -> Result<Snapshot, Error> {
    let hooks: Vec<_> = store.hooks().await?.into_iter().map(Arc::new).collect();
    let handlers = hooks.iter().flat_map(|hook| &hook.handlers);
    let live = |key: Key| LiveKey {
        bucket: bucket(&key, before),
        key,
        noted: AtomicI64::new(0),
    };
    let keys = store.keys().await?.into_iter();
    let namespaces = store.namespaces().await?;
    let late = namespaces.iter();
    let late = late.map(|n| (n.lanes.namespace.clone(), n.thresholds));
    let stops = stops(store).await?;
    Ok(Snapshot {
        version,
        stops,
        handlers: handlers.map(|h| (h.id, h.clone())).collect(),
        hooks_by_id: hooks.iter().map(|h| (h.id, h.clone())).collect(),
        hooks: hooks.into_iter().map(|h| (h.name.clone(), h)).collect(),
        keys: keys.map(|(key, _)| (key.id, live(key))).collect(),
        thresholds: late.collect(),
        lane_sets: namespaces
            .into_iter()
            .map(|n| (n.lanes.namespace.clone(), n.lanes))
            .collect(),
    })
}

async fn stops(store: &Store) -> Result<Stops, Error> {
    let lanes = store.lane_modes().await?;
    let has_marks = lanes.values().any(|lane| lane.mode.has_marks());
    Ok(Stops {
        marks: match has_marks {
            true => store.marks().await?,
            false => HashMap::new(),
        },
        hooks: store.hook_stops().await?,
        lanes,
    })
}

/// The bucket of a key; the one it had, so that no change of something else fills it.
fn bucket(key: &Key, before: &Snapshot) -> Option<Arc<Bucket>> {
    let limit = key.limit?;
    let had = before.keys.get(&key.id);
    let had = had.and_then(|live| live.bucket.clone());
    let same = had.filter(|bucket| bucket.limit() == limit);
    Some(same.unwrap_or_else(|| Arc::new(Bucket::new(limit))))
}
