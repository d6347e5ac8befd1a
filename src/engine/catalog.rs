//! The configuration as last read: hooks, handlers, keys, lane sets. Every change, by any node, is
//! noticed in one way: by the version in the database.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::hook::{Handler, HandlerId, Hook, HookId, Replay};
use crate::domain::key::{Key, KeyId};
use crate::domain::lane::{LaneId, LaneSet, Mode};
use crate::domain::name::Name;
use crate::domain::position::Position;
use crate::domain::rate::Bucket;
use crate::domain::thresholds::Thresholds;
use crate::domain::time::{Timestamp, millis, since_boot};
use crate::store::{Configuration, Error, HookStop, LaneMode, LastUse, NamespaceMove, Store};

/// Age up to which a configuration may be used to judge keys, by a clock that counts while the machine
/// sleeps.
pub const TRUSTED_FOR: Duration = Duration::from_secs(2);

/// Time for which judging a key waits for a fresh enough configuration.
const READ_WAIT_MAX: Duration = Duration::from_secs(1);

/// Duration of a read above which it is logged.
const SLOW_READ: Duration = Duration::from_secs(1);

/// Holds the newest [`Snapshot`].
pub struct Catalog {
    store: Store,
    now: ArcSwap<Snapshot>,
    /// Time at which the newest snapshot was known to be current, in milliseconds since boot: the time
    /// before the query, not that of its answer.
    current_at: AtomicI64,
    /// Allows one read at a time, so that an older snapshot never replaces a newer one.
    reading: tokio::sync::Mutex<()>,
    /// Changes with every successful read of the version.
    looked: watch::Sender<()>,
    /// Requests a read of the version.
    wanted: Notify,
    uses: Mutex<HashMap<i64, Use>>,
}

/// Last use of a key on this node.
struct Use {
    last: LastUse,
    is_stored: bool,
}

/// The configuration at one version.
#[derive(Default)]
pub struct Snapshot {
    /// The version.
    pub version: i64,
    /// Hooks by name.
    pub hooks: HashMap<Name, Arc<Hook>>,
    /// Hooks by number.
    pub hooks_by_id: HashMap<HookId, Arc<Hook>>,
    /// Handlers by id, including those of replays.
    pub handlers: HashMap<HandlerId, Arc<Handler>>,
    /// Keys by the public part of their text, including revoked and expired ones. Accessible only
    /// through [`Trusted`].
    pub(super) keys: HashMap<KeyId, LiveKey>,
    /// The newest lane set of each namespace.
    pub lane_sets: HashMap<Name, LaneSet>,
    /// Thresholds of each namespace.
    pub thresholds: HashMap<Name, Thresholds>,
    /// Stops of lanes and hooks.
    pub stops: Stops,
    /// Running replays by number.
    pub replays: Vec<(HandlerId, Replay)>,
    /// The epoch drawn at the end of each hook's last move to another namespace.
    pub moved: HashMap<HookId, i64>,
    /// Streams that were erased and whose data is still being removed.
    pub erased: Vec<StreamId>,
}

/// Everything that decides whether a cursor may move: stops of lanes and hooks, and drain marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    /// Lanes in another mode than `active`.
    pub lanes: HashMap<LaneId, LaneMode>,
    /// Drain marks of cursors in draining lanes.
    pub marks: HashMap<CursorId, Position>,
    /// Hooks whose cursors take no turns.
    pub hooks: HashMap<HookId, HookStop>,
}

/// State of draining in a lane set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drain {
    /// No lane needs to be checked.
    None,
    /// Lanes that drain and may have reached their marks.
    UnderWay(Vec<LaneId>),
    /// All lanes are drained, which a planned resize may be waiting for.
    Done,
}

impl Stops {
    /// The moves of hooks to another namespace that are under way.
    pub fn moving(&self) -> impl Iterator<Item = &NamespaceMove> {
        self.hooks.values().filter_map(|stop| stop.moving.as_ref())
    }

    /// State of draining in a lane set.
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

    /// Mode of a lane.
    pub fn mode(&self, lane: &LaneId) -> Mode {
        self.lanes.get(lane).map_or(Mode::Active, |lane| lane.mode)
    }
}

/// A key, with the second in which its use was last recorded.
pub struct LiveKey {
    /// The key.
    pub key: Key,
    /// Its token bucket, if it has a limit.
    pub bucket: Option<Arc<Bucket>>,
    noted: AtomicI64,
}

/// A snapshot that is fresh enough to judge keys by.
pub struct Trusted(Guard<Arc<Snapshot>>);

impl Trusted {
    /// A key by the public part of its text, also a revoked or expired one.
    pub fn key(&self, id: KeyId) -> Option<&LiveKey> {
        self.0.keys.get(&id)
    }
}

impl Deref for Trusted {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

/// The configuration is too old to judge keys by, and could not be read in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database does not answer")]
pub struct Stale;

impl Catalog {
    /// Reads the configuration for the first time.
    pub async fn load(store: Store) -> Result<Self, Error> {
        let catalog = Self {
            store,
            now: ArcSwap::default(),
            current_at: AtomicI64::new(i64::MIN),
            reading: tokio::sync::Mutex::default(),
            looked: watch::channel(()).0,
            wanted: Notify::new(),
            uses: Mutex::default(),
        };
        catalog.reload().await?;
        Ok(catalog)
    }

    /// The configuration as last read.
    pub fn now(&self) -> Arc<Snapshot> {
        self.now.load_full()
    }

    /// Borrows the configuration as last read.
    pub fn peek(&self) -> Guard<Arc<Snapshot>> {
        self.now.load()
    }

    /// The configuration for judging keys, less than [`TRUSTED_FOR`] old. Waits for another read when
    /// the last one is older, for example after the process was suspended.
    ///
    /// # Errors
    /// [`Stale`] when it could not be read in time.
    pub async fn trusted(&self) -> Result<Trusted, Stale> {
        if let Some(trusted) = self.trusted_now() {
            return Ok(trusted);
        }
        let mut looked = self.looked.subscribe();
        let next = async {
            loop {
                if let Some(trusted) = self.trusted_now() {
                    return Some(trusted);
                }
                self.wanted.notify_one();
                looked.changed().await.ok()?;
            }
        };
        tokio::select! {
            trusted = timeout(READ_WAIT_MAX, next) => trusted.ok().flatten().ok_or(Stale),
            // A silent database will not answer in time.
            () = self.store.falls_silent() => Err(Stale),
        }
    }

    /// The configuration for judging keys, if that is possible without waiting.
    pub fn trusted_now(&self) -> Option<Trusted> {
        // The time is read first, so the snapshot is the one of that time or a newer one.
        let current_at = self.current_at.load(Ordering::Acquire);
        let trusted = Trusted(self.now.load());
        let age = millis(since_boot()).saturating_sub(current_at);
        (age < millis(TRUSTED_FOR)).then_some(trusted)
    }

    /// Waits for the next read of the version, for at most `longest`.
    pub async fn looked(&self, longest: Duration) {
        let _ = timeout(longest, self.looked.subscribe().changed()).await;
    }

    /// Waits until a read of the version is requested, for at most `longest`.
    pub async fn wanted(&self, longest: Duration) {
        let _ = timeout(longest, self.wanted.notified()).await;
    }

    /// Reads the configuration even if its version is unchanged, because another server may have had
    /// other changes.
    ///
    /// # Errors
    /// Errors of the database; the old configuration stays in force.
    pub async fn reload(&self) -> Result<(), Error> {
        let _one = self.reading.lock().await;
        self.read().await
    }

    /// Reads the configuration if its version has changed; true if it had.
    ///
    /// # Errors
    /// Errors of the database; the old configuration stays in force.
    pub async fn refresh(&self) -> Result<bool, Error> {
        let _one = self.reading.lock().await;
        let asked = since_boot();
        if self.store.config_version().await? == self.now.load().version {
            self.was_current(asked);
            return Ok(false);
        }
        self.read().await?;
        Ok(true)
    }

    /// Reads and publishes one snapshot, even if the configuration is changed meanwhile: the snapshot
    /// is consistent, and under constant changes there would be no other one.
    async fn read(&self) -> Result<(), Error> {
        let asked = since_boot();
        let configuration = self.store.configuration().await?;
        let snapshot = snapshot(configuration, &self.now.load());
        let took = since_boot().saturating_sub(asked);
        if took > SLOW_READ {
            let (version, took) = (snapshot.version, millis(took));
            tracing::warn!(
                version,
                took_ms = took,
                "the configuration took long to read"
            );
        }
        self.now.store(Arc::new(snapshot));
        self.was_current(asked);
        Ok(())
    }

    /// Records that the newest snapshot was current at this time.
    fn was_current(&self, asked: Duration) {
        self.current_at.store(millis(asked), Ordering::Release);
        self.looked.send_replace(());
    }

    /// Records that a key was used. Cheap: it acts once per key and second.
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

    /// Stores the uses of keys since the last call.
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

    /// Last use of a key on this node, stored or not.
    pub fn last_use(&self, number: i64) -> Option<LastUse> {
        self.uses.lock().get(&number).map(|used| used.last.clone())
    }
}

impl Snapshot {
    /// Thresholds of a namespace.
    pub fn thresholds(&self, namespace: &Name) -> Thresholds {
        self.thresholds.get(namespace).copied().unwrap_or_default()
    }

    /// The lane set in which the streams of `hook` take their turns.
    pub fn lanes_of(&self, hook: &Hook) -> Option<&LaneSet> {
        self.lane_sets.get(&hook.namespace)
    }

    /// Ids of the keys that are not revoked, for display.
    pub fn key_ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        let live = |live: &&LiveKey| live.key.revoked_at.is_none();
        self.keys.values().filter(live).map(|live| live.key.id)
    }

    /// The hook of a handler.
    pub fn hook_of(&self, handler: HandlerId) -> Option<&Arc<Hook>> {
        let handler = self.handlers.get(&handler)?;
        self.hooks_by_id.get(&handler.hook)
    }

    /// True if the retention of a hook has changed.
    pub fn keeps_otherwise(&self, before: &Snapshot) -> bool {
        let keep = |catalog: &Snapshot, hook| catalog.hooks_by_id.get(&hook).map(|hook| hook.keep);
        let changed = |hook: &Arc<Hook>| keep(before, hook.id).unwrap_or_default() != hook.keep;
        self.hooks.values().any(changed)
    }

    /// True if a cursor takes its turns in lanes of another namespace.
    pub fn is_stranger(&self, lane: &LaneId, cursor: CursorId) -> bool {
        let hook = self.hook_of(cursor.handler);
        hook.is_some_and(|hook| hook.namespace != lane.namespace)
    }

    /// True if a cursor may move, or moves elsewhere, that did not before.
    pub fn lets_go(&self, before: &Snapshot) -> bool {
        let elsewhere = |hook: &Arc<Hook>| {
            let was = before.hooks_by_id.get(&hook.id);
            was.is_some_and(|was| was.namespace != hook.namespace)
        };
        self.stops != before.stops || self.hooks.values().any(elsewhere)
    }
}

fn snapshot(read: Configuration, before: &Snapshot) -> Snapshot {
    let hooks: Vec<_> = read.hooks.into_iter().map(Arc::new).collect();
    let handlers = hooks.iter().flat_map(|hook| &hook.handlers);
    let mut handlers: HashMap<_, _> = handlers.map(|h| (h.id, h.clone())).collect();
    for (id, replay) in &read.replays {
        if let Some(handler) = handlers.get(&replay.of) {
            let replaying = Arc::new(handler.replaying(*id, *replay));
            handlers.insert(*id, replaying);
        }
    }
    let live = |key: Key| LiveKey {
        bucket: bucket(&key, before),
        key,
        noted: AtomicI64::new(0),
    };
    let late = read.namespaces.iter();
    let late = late.map(|n| (n.lanes.namespace.clone(), n.thresholds));
    Snapshot {
        version: read.version,
        stops: Stops {
            lanes: read.lane_modes,
            marks: read.marks,
            hooks: read.hook_stops,
        },
        handlers,
        replays: read.replays,
        moved: read.moved,
        erased: read.erased,
        hooks_by_id: hooks.iter().map(|h| (h.id, h.clone())).collect(),
        hooks: hooks.into_iter().map(|h| (h.name.clone(), h)).collect(),
        keys: read
            .keys
            .into_iter()
            .map(|(key, _)| (key.id, live(key)))
            .collect(),
        thresholds: late.collect(),
        lane_sets: read
            .namespaces
            .into_iter()
            .map(|n| (n.lanes.namespace.clone(), n.lanes))
            .collect(),
    }
}

/// Token bucket of a key. The previous one is kept if its limit is unchanged, so that another change
/// does not refill it.
fn bucket(key: &Key, before: &Snapshot) -> Option<Arc<Bucket>> {
    let limit = key.limit?;
    let had = before.keys.get(&key.id);
    let had = had.and_then(|live| live.bucket.clone());
    let same = had.filter(|bucket| bucket.limit() == limit);
    Some(same.unwrap_or_else(|| Arc::new(Bucket::new(limit))))
}
