//! Hints between nodes, in Redis: each lane has a queue there, from which its owner takes hints into
//! its queue in memory.
//!
//! Redis holds hints only. What it forgets, repeats or rolls back costs time: every sign of a loss
//! makes the owners claim their lanes again and find their work in the database. No command blocks on
//! the server, because a stalled client must not swallow a hint. All keys share a hash tag, so one node
//! of a Redis Cluster has them all, and the cluster behaves like a single server. The data is too small
//! to need more than one.

mod error;
mod link;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{Script, ScriptInvocation};
use tokio::sync::Notify;

use self::link::Link;
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::hook::HandlerId;
use crate::domain::lane::{LaneId, LaneSet};
use crate::domain::name::Name;
use crate::domain::time::Timestamp;

pub use self::error::Error;
pub use self::link::{Address, RedisInspection, look};

/// Number of hints in one call; a Lua script blocks all other clients.
const PUSH_MAX: usize = 2_048;

/// Pause between two attempts to subscribe.
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// Answer of Redis to a command about a lane or a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// The command succeeded.
    Done(T),
    /// Redis has no entry for the namespace: it is new, or Redis was wiped.
    Wiped,
    /// A newer generation than ours runs; its number.
    Stale(i64),
    /// Redis has an older generation than ours; its number.
    Behind(i64),
    /// The lane is claimed under another epoch, or under none.
    NotOwner(Option<i64>),
    /// The lane was claimed under a later epoch.
    Fenced(i64),
}

impl<T> Answer<T> {
    fn map<U>(self, done: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Done(value) => Answer::Done(done(value)),
            Self::Wiped => Answer::Wiped,
            Self::Stale(generation) => Answer::Stale(generation),
            Self::Behind(generation) => Answer::Behind(generation),
            Self::NotOwner(epoch) => Answer::NotOwner(epoch),
            Self::Fenced(epoch) => Answer::Fenced(epoch),
        }
    }
}

/// Result of a pulse, see [`Redis::pulse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Redis has everything that this node wrote.
    Fine,
    /// Redis has forgotten data or was rolled back.
    Lost,
    /// Redis does not answer.
    Away,
}

/// A Redis server that holds hints. Cheap to clone.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    link: Link,
    scripts: Scripts,
    poked: Notify,
    pulse_key: String,
    /// Number of the last pulse that was answered.
    pulse: AtomicI64,
    /// For each namespace, the random word stored with it when this node last raised it. Another word
    /// means that Redis lost the namespace meanwhile.
    boots: Mutex<HashMap<Name, String>>,
}

struct Scripts {
    push: Script,
    claim: Script,
    pop: Script,
    raise: Script,
}

impl Redis {
    /// Connects and checks that the server is fit. `cluster` identifies the nodes of one database,
    /// `node` this node.
    ///
    /// # Errors
    /// [`Error::Refused`]; the message says what to do.
    pub async fn connect(address: &Address, cluster: i64, node: &str) -> Result<Self, Error> {
        Ok(Self(Arc::new(Inner {
            link: Link::begin(address, cluster).await?,
            scripts: Scripts {
                push: Script::new(include_str!("push.lua")),
                claim: Script::new(include_str!("claim.lua")),
                pop: Script::new(include_str!("pop.lua")),
                raise: Script::new(include_str!("raise.lua")),
            },
            poked: Notify::new(),
            pulse_key: format!("{{hooklane}}:pulse:{node}"),
            pulse: AtomicI64::new(0),
            boots: Mutex::default(),
        })))
    }

    /// Subscribes to the pokes of all namespaces, and runs until dropped. Read them with
    /// [`Redis::poked`].
    pub async fn listen(self) {
        loop {
            if let Err(error) = self.0.link.hear(|| self.0.poked.notify_one()).await {
                tracing::debug!(%error, "pokes are not heard");
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    }

    /// Waits until a node has poked since the last wait.
    pub async fn poked(&self) {
        self.0.poked.notified().await;
    }

    /// Pokes all nodes, for example when lanes have become free.
    ///
    /// # Errors
    /// [`Error::Away`]: nodes may not have noticed; they also look regularly.
    pub async fn poke(&self, namespace: &Name) -> Result<(), Error> {
        let mut poke = redis::cmd("PUBLISH");
        poke.arg(key(namespace, "poke")).arg(0);
        self.0.link.ask::<()>(&poke).await
    }

    /// Hints cursors in lanes of one generation of a namespace. Returns the number that were not hinted
    /// before.
    ///
    /// # Errors
    /// [`Error::Away`]: unknown which cursors are hinted.
    pub async fn push(
        &self,
        namespace: &Name,
        generation: i64,
        hints: &[(u16, CursorId)],
    ) -> Result<Answer<usize>, Error> {
        let mut added = 0;
        for hints in hints.chunks(PUSH_MAX) {
            match self.push_some(namespace, generation, hints).await? {
                Answer::Done(more) => added += more,
                other => return Ok(other),
            }
        }
        Ok(Answer::Done(added))
    }

    async fn push_some(
        &self,
        namespace: &Name,
        generation: i64,
        hints: &[(u16, CursorId)],
    ) -> Result<Answer<usize>, Error> {
        let mut call = self.0.scripts.push.prepare_invoke();
        call.key(key(namespace, "conf"));
        let mut places = HashMap::new();
        for (lane, _) in hints {
            let next = places.len() + 2;
            places.entry(*lane).or_insert_with(|| {
                call.key(queue(namespace, generation, *lane));
                next
            });
        }
        call.arg(generation).arg(key(namespace, "poke"));
        for (lane, cursor) in hints {
            call.arg(places[lane]).arg(member(*cursor));
        }
        self.run(&call, |said| {
            said.first()
                .and_then(|added| added.parse().ok())
                .unwrap_or(0)
        })
        .await
    }

    /// Claims a lane under an epoch, which fences every earlier owner.
    ///
    /// # Errors
    /// [`Error::Away`]: unknown whether the lane is claimed; claim it again.
    pub async fn claim(&self, lane: &LaneId, epoch: i64) -> Result<Answer<()>, Error> {
        let mut call = self.0.scripts.claim.prepare_invoke();
        call.key(key(&lane.namespace, "conf"))
            .key(owners(lane))
            .arg(lane.generation)
            .arg(lane.index)
            .arg(epoch);
        self.run(&call, |_| ()).await
    }

    /// Takes at most `max` hints from the queue of each lane, oldest first. Each lane has its own
    /// answer.
    ///
    /// # Errors
    /// [`Error::Away`]: hints may be lost, so sweep.
    pub async fn pop(
        &self,
        lanes: &[(LaneId, i64)],
        max: usize,
    ) -> Result<Vec<Answer<Vec<CursorId>>>, Error> {
        let calls = lanes.iter().map(|(lane, epoch)| async move {
            let mut call = self.0.scripts.pop.prepare_invoke();
            call.key(key(&lane.namespace, "conf"))
                .key(owners(lane))
                .key(queue(&lane.namespace, lane.generation, lane.index))
                .arg(lane.generation)
                .arg(lane.index)
                .arg(epoch)
                .arg(max);
            let cursors = |said: &[String]| said.iter().filter_map(|m| cursor(m)).collect();
            self.run(&call, cursors).await
        });
        join_all(calls).await.into_iter().collect()
    }

    /// Raises a namespace to the generation that the database has. If Redis has lost the namespace
    /// since this node last raised it, the next pulse reports the loss.
    ///
    /// # Errors
    /// [`Error::Away`]: unknown whether it is raised; raise it again.
    pub async fn raise(&self, set: &LaneSet) -> Result<Answer<()>, Error> {
        let mut call = self.0.scripts.raise.prepare_invoke();
        call.key(key(&set.namespace, "conf"))
            .arg(set.generation)
            .arg(set.lanes)
            .arg(format!("{:016x}", rand::random::<u64>()));
        let raised = self.run(&call, |said| said.first().cloned()).await?;
        Ok(raised.map(|boot| self.know_boot(&set.namespace, boot.unwrap_or_default())))
    }

    fn know_boot(&self, namespace: &Name, boot: String) {
        let known = self.0.boots.lock().insert(namespace.clone(), boot.clone());
        if known.is_some_and(|known| known != boot) {
            self.0.link.note_loss();
        }
    }

    /// Removes all hints of a namespace and the epochs of its owners, which then claim and sweep.
    ///
    /// # Errors
    /// [`Error::Away`]: some keys may remain; wipe again.
    pub async fn wipe(&self, namespace: &Name) -> Result<(), Error> {
        let pattern = key(namespace, "*");
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor)
                .arg("MATCH")
                .arg(&pattern)
                .arg("COUNT")
                .arg(1_000);
            let (next, keys): (u64, Vec<String>) = self.0.link.ask(&scan).await?;
            if !keys.is_empty() {
                self.delete(&keys).await?;
            }
            cursor = next;
            if cursor == 0 {
                // An owner that claimed again while the keys were being deleted may have lost hints
                // since. Deleting the namespace's entry last makes it claim once more.
                return self.delete(&[key(namespace, "conf")]).await;
            }
        }
    }

    /// Removes the keys of a sealed generation.
    ///
    /// # Errors
    /// [`Error::Away`]: some keys may remain.
    pub async fn forget(&self, set: &LaneSet) -> Result<(), Error> {
        let owners = set.ids().take(1).map(|lane| owners(&lane));
        let queue = |lane: LaneId| queue(&lane.namespace, lane.generation, lane.index);
        let keys: Vec<_> = owners.chain(set.ids().map(queue)).collect();
        self.delete(&keys).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), Error> {
        let mut delete = redis::cmd("DEL");
        self.0.link.ask::<()>(delete.arg(keys)).await
    }

    /// Time since when Redis cannot be used, and the reason with what to do; `None` when the last call
    /// was answered.
    pub fn trouble(&self) -> Option<(Timestamp, String)> {
        self.0.link.trouble()
    }

    /// Its address, without the password.
    pub fn address(&self) -> String {
        self.0.link.address()
    }

    /// Writes a counter and reads the previous value. A smaller value than the one written before means
    /// that the server has forgotten data or was rolled back. To be called every second. Each loss is
    /// reported once; the caller then raises, claims and sweeps until that has succeeded.
    pub async fn pulse(&self) -> Sign {
        let last = self.0.pulse.load(Ordering::Relaxed);
        let mut beat = redis::cmd("SET");
        beat.arg(&self.0.pulse_key)
            .arg(last + 1)
            .arg("EX")
            .arg(3600)
            .arg("GET");
        let Ok(stood) = self.0.link.ask::<Option<i64>>(&beat).await else {
            return Sign::Away;
        };
        self.0.pulse.store(last + 1, Ordering::Relaxed);
        let is_older = stood.unwrap_or(0) < last;
        // Both are read, so that one loss is reported once.
        if self.0.link.take_loss() || is_older {
            // A server that has forgotten us may belong to another cluster by now; a new connection
            // checks that.
            self.0.link.close();
            return Sign::Lost;
        }
        Sign::Fine
    }

    async fn run<T>(
        &self,
        call: &ScriptInvocation<'_>,
        done: impl Fn(&[String]) -> T,
    ) -> Result<Answer<T>, Error> {
        let said: Vec<String> = self.0.link.call(call).await?;
        let number = || said.get(1).and_then(|text| text.parse().ok());
        match said.first().map(String::as_str) {
            Some("OK" | "RAISED" | "SAME") => Ok(Answer::Done(done(&said[1..]))),
            Some("WIPED") => Ok(Answer::Wiped),
            Some("STALE") => Ok(Answer::Stale(number().unwrap_or(i64::MAX))),
            Some("BEHIND") => Ok(Answer::Behind(number().unwrap_or(0))),
            Some("NOTOWNER") => Ok(Answer::NotOwner(number())),
            Some("FENCED") => Ok(Answer::Fenced(number().unwrap_or(i64::MAX))),
            _ => Err(Error::Away(format!(
                "Redis says what is not understood: {said:?}"
            ))),
        }
    }
}

fn key(namespace: &Name, what: &str) -> String {
    format!("{{hooklane}}:lanes:{namespace}:{what}")
}

fn owners(lane: &LaneId) -> String {
    key(&lane.namespace, &format!("own:{}", lane.generation))
}

fn queue(namespace: &Name, generation: i64, lane: u16) -> String {
    key(namespace, &format!("q:{generation}:{lane}"))
}

/// The name of a cursor in a queue: `HANDLER.STREAM`.
fn member(cursor: CursorId) -> String {
    format!("{}.{}", cursor.handler.0, cursor.stream.0)
}

fn cursor(member: &str) -> Option<CursorId> {
    let (handler, stream) = member.split_once('.')?;
    Some(CursorId {
        stream: StreamId(stream.parse().ok()?),
        handler: HandlerId(handler.parse().ok()?),
    })
}
