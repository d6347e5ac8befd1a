//! Hints between nodes, in Redis: each lane has a queue there, from which its owner takes into the one
//! in its memory.
//!
//! Redis keeps hints only. What it forgets, repeats or rolls back costs time: every sign of a loss makes
//! the owners claim their lanes again and find their work in the database. Nothing here blocks: a client
//! that stalls must not swallow a hint. Keys of a namespace share a hash tag, so that each script finds
//! its keys on one node of a Redis Cluster.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, RedisError, Script, ServerErrorKind};
use tokio::sync::Notify;

use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::hook::HandlerId;
use crate::domain::lane::{LaneId, LaneSet};
use crate::domain::name::Name;

/// How long an answer may take: hints are worth no more.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the server may take to let us in at the start.
const PATIENCE_AT_START: Duration = Duration::from_secs(4);

/// The oldest server that is tested.
const VERSION_MIN: (u32, u32) = (6, 2);

/// Says which database's nodes use this server.
const CLUSTER: &str = "{hooklane}:cluster";

/// Where every namespace's pokes are heard.
const POKES: &str = "{hooklane:*}:poke";

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

/// Why Redis cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What we were told to use cannot work; says what to do.
    #[error("{0}")]
    Refused(String),
    /// No answer in time, or none that is understood.
    #[error("Redis: {0}")]
    Away(String),
}

/// The address of a server. Its password is never shown.
#[derive(Clone)]
pub struct Address {
    client: Client,
    shown: String,
}

impl FromStr for Address {
    type Err = Error;

    /// Reads `redis://USER:PASSWORD@HOST:PORT/NUMBER`, `rediss://…` or `redis+unix:///PATH`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |_| {
            Error::Refused(
                "not a Redis server: give redis://HOST:PORT or redis+unix:///PATH".into(),
            )
        };
        let client = Client::open(text).map_err(wrong)?;
        let shown = client.get_connection_info().addr().to_string();
        Ok(Self { client, shown })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.shown == other.shown
    }
}

impl Eq for Address {}

/// A server that keeps hints. Cheap to clone.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    address: Address,
    server: ConnectionManager,
    scripts: Scripts,
    poked: Notify,
    /// What nodes of this database write under [`CLUSTER`].
    cluster: i64,
    pulse_key: String,
    pulse: AtomicI64,
    run_id: Mutex<String>,
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
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_number_of_retries(1)
            .set_max_delay(PATIENCE);
        let connecting = ConnectionManager::new_with_config(address.client.clone(), config);
        let server = match tokio::time::timeout(PATIENCE_AT_START, connecting).await {
            Ok(server) => server.map_err(|error| refusal(address, &error))?,
            Err(_) => return Err(unfit(address, "cannot be reached: no answer", RUNS)),
        };
        let redis = Self(Arc::new(Inner {
            address: address.clone(),
            server,
            scripts: Scripts {
                push: Script::new(include_str!("push.lua")),
                claim: Script::new(include_str!("claim.lua")),
                pop: Script::new(include_str!("pop.lua")),
                raise: Script::new(include_str!("raise.lua")),
            },
            poked: Notify::new(),
            cluster,
            pulse_key: format!("{{hooklane}}:pulse:{node}"),
            pulse: AtomicI64::new(0),
            run_id: Mutex::default(),
        }));
        redis.check().await?;
        Ok(redis)
    }

    /// Hears the pokes of every namespace, for ever; [`Redis::poked`] tells.
    pub async fn listen(self) {
        loop {
            if let Err(error) = self.hear().await {
                tracing::debug!(%error, "pokes are not heard");
            }
            tokio::time::sleep(PATIENCE / 2).await;
        }
    }

    async fn hear(&self) -> Result<(), RedisError> {
        let mut pokes = self.0.address.client.get_async_pubsub().await?;
        pokes.psubscribe(POKES).await?;
        let mut pokes = pokes.into_on_message();
        while pokes.next().await.is_some() {
            self.0.poked.notify_one();
        }
        Ok(())
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
        self.ask::<()>(&poke).await
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

    /// Lifts a namespace to the generation that the database has.
    ///
    /// # Errors
    /// [`Error::Away`].
    pub async fn raise(&self, set: &LaneSet) -> Result<Answer<()>, Error> {
        let mut call = self.0.scripts.raise.prepare_invoke();
        call.key(key(&set.namespace, "conf"))
            .arg(set.generation)
            .arg(set.lanes)
            .arg(format!("{:016x}", rand::random::<u64>()));
        self.run(&call, |_| ()).await
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
            let (next, keys): (u64, Vec<String>) = self.ask(&scan).await?;
            if !keys.is_empty() {
                self.ask::<()>(redis::cmd("DEL").arg(keys)).await?;
            }
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// Writes a counter and reads what stood there: less than was written means that the server has
    /// forgotten or gone back. To be asked every second.
    pub async fn pulse(&self) -> Sign {
        let last = self.0.pulse.fetch_add(1, Ordering::Relaxed);
        let mut beat = redis::cmd("SET");
        beat.arg(&self.0.pulse_key)
            .arg(last + 1)
            .arg("EX")
            .arg(3600)
            .arg("GET");
        let stood: Result<Option<i64>, _> = self.ask(&beat).await;
        let info = self.ask::<String>(redis::cmd("INFO").arg("server")).await;
        let (Ok(stood), Ok(info)) = (stood, info) else {
            return Sign::Away;
        };
        let run_id = field(&info, "run_id").unwrap_or_default().to_owned();
        let before = std::mem::replace(&mut *self.0.run_id.lock(), run_id.clone());
        // A beat whose answer was lost may have arrived or not: only what is older tells.
        let is_older = last > 0 && stood.is_none_or(|stood| stood + 1 < last);
        match is_older || (!before.is_empty() && before != run_id) {
            true => Sign::Lost,
            false => Sign::Fine,
        }
    }

    /// Makes sure that no other database's nodes use this server.
    ///
    /// # Errors
    /// [`Error::Refused`] when they do.
    pub async fn check_cluster(&self) -> Result<(), Error> {
        let mut mark = redis::cmd("SET");
        mark.arg(CLUSTER).arg(self.0.cluster).arg("NX");
        self.ask::<Option<String>>(&mark).await?;
        let found: Option<i64> = self.ask(redis::cmd("GET").arg(CLUSTER)).await?;
        match found {
            Some(found) if found != self.0.cluster => Err(unfit(
                &self.0.address,
                "keeps the hints of another hooklane database",
                "give this one a Redis of its own, or another number at the end of its address; if that \
                 database is gone for ever: redis-cli del {hooklane}:cluster",
            )),
            _ => Ok(()),
        }
    }

    async fn check(&self) -> Result<(), Error> {
        let address = &self.0.address;
        let info: String = self
            .try_at_start(redis::cmd("INFO").arg("everything"))
            .await?;
        let version = field(&info, "redis_version").unwrap_or_default();
        let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
        let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if number < VERSION_MIN {
            let what = format!("is version {version}");
            return Err(unfit(address, &what, "6.2 or later is needed"));
        }
        if field(&info, "role").is_some_and(|role| role != "master") {
            let what = "follows another server and takes no writes";
            return Err(unfit(address, what, "give the address of the primary"));
        }
        let evicts = field(&info, "maxmemory_policy").is_some_and(|policy| policy != "noeviction");
        if evicts && field(&info, "maxmemory") != Some("0") {
            tracing::warn!(redis = %address, "Redis may evict hints when its memory is full: \
                set maxmemory-policy noeviction");
        }
        let mut script = redis::cmd("EVAL");
        script
            .arg("return redis.call('PUBLISH', '{hooklane:default}:poke', '0')")
            .arg(0);
        self.try_at_start::<i64>(&script).await?;
        self.check_cluster().await
    }

    async fn try_at_start<T: redis::FromRedisValue>(
        &self,
        command: &redis::Cmd,
    ) -> Result<T, Error> {
        let mut server = self.0.server.clone();
        let asked = command.query_async(&mut server);
        match tokio::time::timeout(PATIENCE_AT_START, asked).await {
            Ok(answer) => answer.map_err(|error| refusal(&self.0.address, &error)),
            Err(_) => Err(unfit(&self.0.address, "cannot be reached: no answer", RUNS)),
        }
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Error> {
        let mut server = self.0.server.clone();
        in_time(command.query_async(&mut server)).await
    }

    async fn run<T>(
        &self,
        call: &redis::ScriptInvocation<'_>,
        done: impl Fn(&[String]) -> T,
    ) -> Result<Answer<T>, Error> {
        let mut server = self.0.server.clone();
        let said: Vec<String> = in_time(call.invoke_async(&mut server)).await?;
        let number = || said.get(1).and_then(|text| text.parse().ok());
        match said.first().map(String::as_str) {
            Some("OK") => Ok(Answer::Done(done(&said[1..]))),
            Some("RAISED" | "SAME") => Ok(Answer::Done(done(&[]))),
            Some("WIPED") => Ok(Answer::Wiped),
            Some("STALE") => Ok(Answer::Stale(number().unwrap_or(i64::MAX))),
            Some("BEHIND") => Ok(Answer::Behind(number().unwrap_or(0))),
            Some("NOTOWNER") => Ok(Answer::NotOwner(number())),
            Some("FENCED") => Ok(Answer::Fenced(number().unwrap_or(i64::MAX))),
            _ => Err(Error::Away(format!("not understood: {said:?}"))),
        }
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T, RedisError>>) -> Result<T, Error> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| Error::Away(error.to_string())),
        Err(_) => Err(Error::Away("no answer within a second".into())),
    }
}

fn key(namespace: &Name, what: &str) -> String {
    format!("{{hooklane:{namespace}}}:{what}")
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

/// A line of what INFO says.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        (field == name).then_some(value.trim())
    })
}

const RUNS: &str = "does it run, and is the address right?";

/// Why the server does not let us in, and what to do about it.
fn refusal(address: &Address, error: &RedisError) -> Error {
    let said = error.to_string();
    match error.kind() {
        ErrorKind::AuthenticationFailed => {
            let what = format!("does not let us in: {said}");
            unfit(address, &what, "see user and password in its address")
        }
        _ if error.code() == Some("NOPERM") => unfit(
            address,
            &format!("does not let this user do what hints need: {said}"),
            "allow it +@all on ~{hooklane* and &{hooklane*",
        ),
        _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => {
            let what = format!("does not let us in: {said}");
            unfit(address, &what, "see user and password in its address")
        }
        ErrorKind::Server(ServerErrorKind::ReadOnly) => unfit(
            address,
            "follows another server and takes no writes",
            "give the address of the primary",
        ),
        _ => unfit(address, &format!("cannot be reached: {said}"), RUNS),
    }
}

fn unfit(address: &Address, what: &str, remedy: &str) -> Error {
    Error::Refused(format!("Redis at {address} {what}; {remedy}"))
}
