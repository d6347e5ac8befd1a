//! Hints between nodes, in Redis: each lane has a queue there, from which its owner takes into the one
//! in its memory.
//!
//! Redis keeps hints only. What it forgets, repeats or rolls back costs time: every sign of a loss makes
//! the owners claim their lanes again and find their work in the database. Nothing here blocks: a client
//! that stalls must not swallow a hint. All keys share a hash tag, so that one node of a Redis Cluster has
//! them all: it is found like a single server, and its loss is noticed like that of one. Hints are too small
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
pub use self::link::{Address, Looked, look};

/// Hints in one call: a script holds everybody else up.
const PUSH_MAX: usize = 2_048;

/// The time from one try to hear pokes to the next.
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// What Redis says about a lane or a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// Done.
    Done(T),
    /// The namespace is unknown there: it was wiped, or is new.
    Wiped,
    /// A newer generation runs.
    Stale(i64),
    /// The generation there is older than ours.
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

/// What the pulse shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// All is there that we wrote.
    Fine,
    /// Something was forgotten or rolled back.
    Lost,
    /// No answer.
    Away,
}

/// A server that keeps hints. Cheap to clone.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    link: Link,
    scripts: Scripts,
    poked: Notify,
    pulse_key: String,
    /// The last beat that was answered.
    pulse: AtomicI64,
    /// The word that each namespace had when it was last raised: new after every loss.
    boots: Mutex<HashMap<Name, String>>,
}

struct Scripts {
    push: Script,
    claim: Script,
    pop: Script,
    raise: Script,
}

impl Redis {
    /// Connects, and checks that this server will do. `cluster` tells the nodes of one database from those
    /// of another, `node` this node from the others.
    ///
    /// # Errors
    /// [`Error::Refused`] in one line that says what to do.
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

    /// Hears the pokes of every namespace, for ever; [`Redis::poked`] tells.
    pub async fn listen(self) {
        loop {
            if let Err(error) = self.0.link.hear(|| self.0.poked.notify_one()).await {
                tracing::debug!(%error, "pokes are not heard");
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    }

    /// Waits until somebody has poked since the last wait.
    pub async fn poked(&self) {
        self.0.poked.notified().await;
    }

    /// Pokes every node, as when lanes have become free.
    ///
    /// # Errors
    /// [`Error::Away`].
    pub async fn poke(&self, namespace: &Name) -> Result<(), Error> {
        let mut poke = redis::cmd("PUBLISH");
        poke.arg(key(namespace, "poke")).arg(0);
        self.0.link.ask::<()>(&poke).await
    }

    /// Says that cursors have work in lanes of one generation of a namespace; how many were not known to.
    ///
    /// # Errors
    /// [`Error::Away`]: unknown whether they are hinted.
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

    /// Fences every earlier owner of a lane.
    ///
    /// # Errors
    /// [`Error::Away`].
    pub async fn claim(&self, lane: &LaneId, epoch: i64) -> Result<Answer<()>, Error> {
        let mut call = self.0.scripts.claim.prepare_invoke();
        call.key(key(&lane.namespace, "conf"))
            .key(owners(lane))
            .arg(lane.generation)
            .arg(lane.index)
            .arg(epoch);
        self.run(&call, |_| ()).await
    }

    /// Takes at most `max` hints off the queue of each lane, oldest first. Each lane has its own answer.
    ///
    /// # Errors
    /// [`Error::Away`]: what was taken is lost, so sweep.
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

    /// Lifts a namespace to the generation that the database has. The next pulse tells when the namespace
    /// was made anew since this node last raised it.
    ///
    /// # Errors
    /// [`Error::Away`].
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

    /// Removes every hint of a namespace and what it knows of owners: they claim and sweep then.
    ///
    /// # Errors
    /// [`Error::Away`].
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
                // Who came back while this went on may have lost hints since: he does so again.
                return self.delete(&[key(namespace, "conf")]).await;
            }
        }
    }

    /// Removes what is left of a generation that is sealed.
    ///
    /// # Errors
    /// [`Error::Away`].
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

    /// Since when and why it cannot be used, with what to do; none when the last call was answered.
    pub fn trouble(&self) -> Option<(Timestamp, String)> {
        self.0.link.trouble()
    }

    /// Its address, without a password.
    pub fn address(&self) -> String {
        self.0.link.address()
    }

    /// Writes a counter and reads what stood there: less than was written means that the server has
    /// forgotten or gone back. To be asked every second. A loss is told once; who hears of it raises, claims
    /// and sweeps until that has succeeded.
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
        // Both are asked: one loss is told once.
        if self.0.link.take_loss() || is_older {
            // What has forgotten us may belong to others by now: the next connection looks.
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

/// A cursor as it stands in a queue: `HANDLER.STREAM`.
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
