//! The configuration as last read: hooks, handlers, keys, lane sets. One way to learn of a change,
//! whoever made it: the version in the database.

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
use crate::domain::hook::{Handler, HandlerId, Hook, HookId, Replay};
use crate::domain::key::{Key, KeyId};
use crate::domain::lane::{LaneId, LaneSet, Mode};
use crate::domain::name::Name;
use crate::domain::position::Position;
use crate::domain::rate::Bucket;
use crate::domain::thresholds::Thresholds;
use crate::domain::time::{Timestamp, millis, since_boot};
use crate::store::{Configuration, Error, HookStop, LaneMode, LastUse, NamespaceMove, Store};

/// For how long a configuration that was read may be used to judge keys, by the clock that counts while the
/// machine sleeps.
pub const TRUSTED_FOR: Duration = Duration::from_secs(2);

/// How long who judges a key waits for a configuration that may be used for that.
const READ_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long a read may take before the log says so.
const SLOW_READ: Duration = Duration::from_secs(1);

/// Hands out the newest [`Snapshot`].
pub struct Catalog {
    store: Store,
    now: ArcSwap<Snapshot>,
    /// When the newest snapshot was known to be that of the database, in milliseconds since boot: the moment
    /// before the question, not the one of the answer.
    current_at: AtomicI64,
    /// Reads one at a time, so that an older one never replaces a newer one.
    reading: tokio::sync::Mutex<()>,
    /// Changes with every look at the database that has succeeded.
    looked: watch::Sender<()>,
    /// Asks for such a look.
    wanted: Notify,
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
    /// Handlers by number, with those that are replays.
    pub handlers: HashMap<HandlerId, Arc<Handler>>,
    /// Keys by the public part of their text, revoked and expired ones too. Only [`Trusted`] shows them.
    pub(super) keys: HashMap<KeyId, LiveKey>,
    /// The newest lane set of each namespace.
    pub lane_sets: HashMap<Name, LaneSet>,
    /// When each namespace is late.
    pub thresholds: HashMap<Name, Thresholds>,
    /// What is stopped.
    pub stops: Stops,
    /// Replays under way, with their numbers.
    pub replays: Vec<(HandlerId, Replay)>,
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
    pub fn moving(&self) -> impl Iterator<Item = &NamespaceMove> {
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

/// A snapshot that is new enough to judge keys by.
pub struct Trusted(Guard<Arc<Snapshot>>);

impl Trusted {
    /// A key by the public part of its text, revoked and expired ones too.
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

/// The configuration was read too long ago to judge a key by it, and could not be read again in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database does not say in time which keys are good")]
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

    /// The same, for who only looks at it.
    pub fn peek(&self) -> Guard<Arc<Snapshot>> {
        self.now.load()
    }

    /// The configuration for who judges keys: less than [`TRUSTED_FOR`] old. When the last look at the database
    /// is longer ago, as after the process stood still, this waits for another one.
    ///
    /// # Errors
    /// [`Stale`] when there was none in time.
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
            // No look will end in time.
            () = self.store.falls_silent() => Err(Stale),
        }
    }

    /// The same, if nothing has to be waited for.
    pub fn trusted_now(&self) -> Option<Trusted> {
        // The moment first: the snapshot is that one or a newer one.
        let current_at = self.current_at.load(Ordering::Acquire);
        let trusted = Trusted(self.now.load());
        let age = millis(since_boot()).saturating_sub(current_at);
        (age < millis(TRUSTED_FOR)).then_some(trusted)
    }

    /// Waits until the database has been looked at once more, or for `longest`.
    pub async fn looked(&self, longest: Duration) {
        let _ = timeout(longest, self.looked.subscribe().changed()).await;
    }

    /// Waits until somebody needs a look at the database, or for `longest`.
    pub async fn wanted(&self, longest: Duration) {
        let _ = timeout(longest, self.wanted.notified()).await;
    }

    /// Reads the configuration again though its version is the same: another server may have had other
    /// changes.
    ///
    /// # Errors
    /// Those of the database; what was read before stays.
    pub async fn reload(&self) -> Result<(), Error> {
        let _one = self.reading.lock().await;
        self.read().await
    }

    /// Reads the configuration again if its version has changed; says whether it had.
    ///
    /// # Errors
    /// Those of the database; the old configuration stays in force.
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

    /// Reads and publishes one snapshot. One that others change meanwhile is published too: it is whole, and
    /// while the configuration changes all the time there is no other.
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

    /// Notes that the newest snapshot was that of the database at a moment.
    fn was_current(&self, asked: Duration) {
        self.current_at.store(millis(asked), Ordering::Release);
        self.looked.send_replace(());
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

    /// The ids of the keys that were not revoked, to show them.
    pub fn key_ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        let live = |live: &&LiveKey| live.key.revoked_at.is_none();
        self.keys.values().filter(live).map(|live| live.key.id)
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

/// The bucket of a key; the one it had, so that no change of something else fills it.
fn bucket(key: &Key, before: &Snapshot) -> Option<Arc<Bucket>> {
    let limit = key.limit?;
    let had = before.keys.get(&key.id);
    let had = had.and_then(|live| live.bucket.clone());
    let same = had.filter(|bucket| bucket.limit() == limit);
    Some(same.unwrap_or_else(|| Arc::new(Bucket::new(limit))))
}
