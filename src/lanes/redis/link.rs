//! The connection to Redis, opened again when it fails.
//!
//! Promises: no call takes much longer than [`PATIENCE`], calls do not queue up while the server is
//! away, and a connection that once failed to answer is not used again. Each new connection begins with
//! a check that the server is fit, is the same as before, and belongs to our cluster.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::Mutex;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, Pipeline,
    RedisError, RedisResult, ScriptInvocation, ServerError, ServerErrorKind,
};
use tokio::time::{Instant, timeout};

use super::error::Error;
use crate::domain::time::{Timestamp, millis};

/// Time limit for an answer. Hints are not worth waiting longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time limit for connecting at the start.
const PATIENCE_AT_START: Duration = Duration::from_secs(4);

/// Pause between two attempts to connect.
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// Time without a poke after which the subscription is checked with a ping.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// The oldest server version that is tested.
const VERSION_MIN: (u32, u32) = (6, 2);

/// Key under which the server stores the number of the cluster that uses it.
const CLUSTER: &str = "{hooklane}:cluster";

/// Channel pattern of the pokes of all namespaces.
const POKES: &str = "{hooklane}:lanes:*:poke";

/// Number of times that a node of a Redis Cluster may redirect us to another one.
const MOVES_MAX: usize = 4;

/// The address of a server. Its password is never displayed.
#[derive(Clone)]
pub struct Address {
    client: Client,
    shown: String,
}

impl FromStr for Address {
    type Err = Error;

    /// Reads `redis://USER:PASSWORD@HOST:PORT/NUMBER`, `rediss://…` or `redis+unix:///PATH`.
    fn from_str(text: &str) -> Result<Self, Error> {
        crate::text::check_userinfo(text).map_err(|why| Error::Refused(why.into()))?;
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

/// The connection to one server, with the state of failures.
pub(super) struct Link {
    address: Address,
    /// Number of our cluster, written under [`CLUSTER`].
    cluster: i64,
    open: Mutex<Option<Open>>,
    /// The server that was found last; pokes are heard there.
    found: Mutex<Client>,
    tries: tokio::sync::Mutex<Tries>,
    lost: AtomicBool,
    /// Time since when calls fail, and the reason of the last failure.
    trouble: Mutex<Option<(Timestamp, String)>>,
}

/// An open connection. The number tells it from earlier ones.
#[derive(Clone)]
struct Open {
    number: u64,
    server: MultiplexedConnection,
}

#[derive(Default)]
struct Tries {
    number: u64,
    next: Option<Instant>,
    run_id: String,
    said: String,
    /// Nodes of a Redis Cluster that were seen before. Any of them can name the node that has our keys.
    others: Vec<Client>,
    /// Counts attempts to connect: the address is tried first, then the other nodes in turn.
    door: usize,
}

impl Tries {
    fn door(&self, address: &Address) -> Client {
        let doors = 1 + self.others.len();
        let other = (self.door % doors).checked_sub(1);
        let other = other.and_then(|other| self.others.get(other));
        other.unwrap_or(&address.client).clone()
    }
}

/// The server that holds our keys, with its INFO and the number of the cluster that uses it.
struct Found {
    client: Client,
    server: MultiplexedConnection,
    info: String,
    cluster: Option<i64>,
}

impl Link {
    /// Connects for the first time, and checks that our user may run every command that hints need.
    pub async fn begin(address: &Address, cluster: i64) -> Result<Self, Error> {
        let link = Self {
            address: address.clone(),
            cluster,
            open: Mutex::new(None),
            found: Mutex::new(address.client.clone()),
            tries: tokio::sync::Mutex::default(),
            lost: AtomicBool::new(false),
            trouble: Mutex::new(None),
        };
        let begun = async {
            let open = link.connect(&mut *link.tries.lock().await).await?;
            link.try_permissions(open).await
        };
        match timeout(PATIENCE_AT_START, begun).await {
            Ok(begun) => begun.map(|()| link),
            Err(_) => Err(unfit(address, "cannot be reached: no answer", RUNS)),
        }
    }

    /// Time since when calls fail, and the reason.
    pub fn trouble(&self) -> Option<(Timestamp, String)> {
        self.trouble.lock().clone()
    }

    /// The address, without the password.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Records the outcome of a call.
    fn ended(&self, error: Option<&Error>) {
        let mut trouble = self.trouble.lock();
        let since = trouble.take().map(|(since, _)| since);
        *trouble = error.map(|error| (since.unwrap_or_else(Timestamp::now), error.to_string()));
    }

    /// Runs one command.
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        let mut open = self.open().await?;
        let said = timeout(PATIENCE, command.query_async(&mut open.server)).await;
        self.heard(open.number, said)
    }

    /// Runs a script; sends its full text if the server does not have it.
    pub async fn call<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, Error> {
        let mut open = self.open().await?;
        let said = timeout(PATIENCE, call.invoke_async(&mut open.server)).await;
        self.heard(open.number, said)
    }

    /// Drops the connection, so that the next call opens one and checks the server.
    pub fn close(&self) {
        *self.open.lock() = None;
    }

    /// Records that the server has lost data.
    pub fn note_loss(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// True if the server has lost data since the last call of this method.
    pub fn take_loss(&self) -> bool {
        self.lost.swap(false, Ordering::Relaxed)
    }

    /// Calls `poked` for each poke, and once at the beginning. Returns when the subscription fails.
    pub async fn hear(&self, poked: impl Fn()) -> Result<(), Error> {
        let pokes = timeout(PATIENCE, self.subscribe());
        let away = |error| refusal(&self.address, &error);
        let pokes = pokes.await.map_err(|_| self.no_answer())?.map_err(away)?;
        let (mut asks, mut pokes) = pokes.split();
        poked();
        loop {
            match timeout(SILENCE_MAX, pokes.next()).await {
                Ok(Some(_)) => poked(),
                Ok(None) => return Err(Error::Away("Redis ended the subscription".into())),
                Err(_) => {
                    let ping = timeout(PATIENCE, asks.ping::<redis::Value>()).await;
                    ping.map_err(|_| self.no_answer())?.map_err(away)?;
                }
            }
        }
    }

    async fn subscribe(&self) -> RedisResult<PubSub> {
        let client = self.found.lock().clone();
        let mut pokes = client.get_async_pubsub().await?;
        pokes.psubscribe(POKES).await?;
        Ok(pokes)
    }

    /// The open connection, or a new one. One call at a time connects, the others wait for it.
    async fn open(&self) -> Result<Open, Error> {
        if let Some(open) = self.open.lock().clone() {
            return Ok(open);
        }
        let opened = timeout(PATIENCE, async {
            let mut tries = self.tries.lock().await;
            if let Some(open) = self.open.lock().clone() {
                return Ok(open);
            }
            if tries.next.is_some_and(|next| Instant::now() < next) {
                return Err(Error::Away(tries.said.clone()));
            }
            // Set before connecting, in case this call is cancelled.
            tries.next = Some(Instant::now() + PATIENCE + BETWEEN_TRIES);
            let opened = self.connect(&mut tries).await;
            let failed = opened.as_ref().err();
            tries.next = failed.map(|_| Instant::now() + BETWEEN_TRIES);
            self.tell(&mut tries, failed);
            opened
        });
        let opened = match opened.await {
            Ok(opened) => opened.map_err(|error| Error::Away(error.to_string())),
            Err(_) => Err(self.no_answer()),
        };
        // A new connection does not clear the trouble: a server without memory for hints accepts
        // connections too.
        opened.inspect_err(|error| self.ended(Some(error)))
    }

    /// Logs why the server is away, once for each reason.
    fn tell(&self, tries: &mut Tries, error: Option<&Error>) {
        let said = error.map(Error::to_string).unwrap_or_default();
        if said != tries.said && !said.is_empty() {
            tracing::warn!("{said}");
        }
        tries.said = said;
    }

    async fn connect(&self, tries: &mut Tries) -> Result<Open, Error> {
        let refused = |error: RedisError| refusal(&self.address, &error);
        let door = tries.door(&self.address);
        // Set before connecting, in case this call is cancelled.
        tries.door += 1;
        let Found {
            client,
            mut server,
            info,
            ..
        } = find(door).await.map_err(refused)?;
        tries.door -= 1;
        let fit = check(&self.address, &info);
        let ours = async {
            fit?;
            // Marked after the check, because a replica takes no writes.
            let mut mark = redis::pipe();
            let set = mark.cmd("SET").arg(CLUSTER).arg(self.cluster).arg("NX");
            set.ignore().cmd("GET").arg(CLUSTER);
            let (found,): (Option<i64>,) = mark.query_async(&mut server).await.map_err(refused)?;
            self.check_cluster(found)
        };
        // A server that was not fit may have lost data by the time it is.
        ours.await.inspect_err(|_| self.note_loss())?;

        let run_id = field(&info, "run_id").unwrap_or_default().to_owned();
        let before = std::mem::replace(&mut tries.run_id, run_id);
        if !before.is_empty() && before != tries.run_id {
            self.note_loss();
        }
        if is_clustered(&info) {
            tries.others = others(&client, &mut server).await;
        }
        *self.found.lock() = client;
        tries.number += 1;
        let number = tries.number;
        let open = Open { number, server };
        *self.open.lock() = Some(open.clone());
        Ok(open)
    }

    /// Nodes of two databases on one server would take each other's hints.
    fn check_cluster(&self, found: Option<i64>) -> Result<(), Error> {
        match found {
            Some(found) if found != self.cluster => {
                Err(unfit(&self.address, OF_ANOTHER, OWN_REDIS))
            }
            _ => Ok(()),
        }
    }

    fn no_answer(&self) -> Error {
        Error::Away(format!(
            "Redis at {} does not answer within a second",
            self.address
        ))
    }

    /// Runs each command that scripts use once, under a namespace that cannot exist.
    async fn try_permissions(&self, mut open: Open) -> Result<(), Error> {
        let said: Vec<RedisResult<redis::Value>> = everything()
            .ignore_errors()
            .query_async(&mut open.server)
            .await
            .map_err(|error| refusal(&self.address, &error))?;
        let heard = self.subscribe().await.map(|_| redis::Value::Nil);
        // NOSCRIPT is the expected answer, because no script has this digest.
        let is_wrong = |error: &RedisError| error.code() != Some("NOSCRIPT");
        let mut errors = said.into_iter().chain([heard]).filter_map(Result::err);
        match errors.find(is_wrong) {
            Some(error) => Err(refusal(&self.address, &error)),
            None => Ok(()),
        }
    }

    /// The answer of a call. A connection that fails or times out is dropped.
    fn heard<T>(
        &self,
        number: u64,
        said: Result<RedisResult<T>, tokio::time::error::Elapsed>,
    ) -> Result<T, Error> {
        let error = match said {
            Ok(Ok(said)) => {
                self.ended(None);
                return Ok(said);
            }
            Ok(Err(error)) => {
                // The server has become a replica, and what it had may be gone.
                if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) {
                    self.note_loss();
                }
                Error::Away(refusal(&self.address, &error).to_string())
            }
            Err(_) => self.no_answer(),
        };
        self.ended(Some(&error));
        let mut open = self.open.lock();
        if open.as_ref().is_some_and(|open| open.number == number) {
            tracing::debug!(redis = %self.address, %error, "the connection is given up");
            *open = None;
        }
        Err(error)
    }
}

/// Finds the server that holds our keys, starting from any node of a Redis Cluster. All keys share a
/// hash tag, so one node has them all, and every other node redirects to it.
async fn find(door: Client) -> RedisResult<Found> {
    // The time limit is ours, because it covers both requests of a script call.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let (mut client, mut moves) = (door, 0);
    loop {
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let mut server = connecting.await?;
        let look = redis::cmd("INFO");
        let info: String = look.query_async(&mut server).await?;
        let mut mark = redis::cmd("GET");
        let cluster = mark.arg(CLUSTER).query_async(&mut server).await;
        let named = |error: &RedisError| Some(error.redirect_node()?.0.to_owned());
        match cluster {
            Ok(cluster) => {
                return Ok(Found {
                    client,
                    server,
                    info,
                    cluster,
                });
            }
            Err(error) => match named(&error).filter(|_| moves < MOVES_MAX) {
                Some(node) => client = at(&client, &node)?,
                None => return Err(error),
            },
        }
        moves += 1;
    }
}

/// A client for another node of the cluster, at `HOST:PORT`, with the same credentials.
fn at(client: &Client, node: &str) -> RedisResult<Client> {
    let info = client.get_connection_info().clone();
    let (host, port) = node.rsplit_once(':').unwrap_or((node, ""));
    let port = port.parse().unwrap_or(6379);
    let addr = match info.addr() {
        // A node that does not know its own host name gives the port alone.
        ConnectionAddr::Tcp(same, _) if host.is_empty() => ConnectionAddr::Tcp(same.clone(), port),
        ConnectionAddr::TcpTls {
            host: same,
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host: if host.is_empty() { same } else { host }.to_owned(),
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    };
    Client::open(info.set_addr(addr))
}

/// The nodes that a node of a cluster knows; empty when it does not answer.
async fn others(client: &Client, server: &mut MultiplexedConnection) -> Vec<Client> {
    let mut nodes = redis::cmd("CLUSTER");
    let nodes: RedisResult<String> = nodes.arg("NODES").query_async(server).await;
    let nodes = nodes.unwrap_or_default();
    let node = |line: &str| line.split(' ').nth(1)?.split('@').next().map(str::to_owned);
    let nodes = nodes.lines().filter_map(node);
    nodes.filter_map(|node| at(client, &node).ok()).collect()
}

fn is_clustered(info: &str) -> bool {
    field(info, "redis_mode") == Some("cluster")
}

/// Result of examining a server.
#[derive(Clone, Debug)]
pub struct RedisInspection {
    /// Version of the server.
    pub version: String,
    /// Round-trip time of a command.
    pub answers_in: Duration,
    /// Difference between its clock and ours in milliseconds, positive when it is ahead.
    pub clock: i64,
    /// True if it may evict hints when its memory is full.
    pub evicts: bool,
}

/// Examines a server without changing it. `cluster` is the number of our cluster.
///
/// # Errors
/// [`Error::Refused`] when no node can use it; the message says what to do.
pub async fn look(address: &Address, cluster: Option<i64>) -> Result<RedisInspection, Error> {
    let looked = timeout(PATIENCE_AT_START, async {
        let found = find(address.client.clone()).await?;
        facts(address, found, cluster).await
    });
    match looked.await {
        Ok(Ok(looked)) => looked,
        Ok(Err(error)) => Err(refusal(address, &error)),
        Err(_) => Err(unfit(address, "cannot be reached: no answer", RUNS)),
    }
}

async fn facts(
    address: &Address,
    found: Found,
    cluster: Option<i64>,
) -> RedisResult<Result<RedisInspection, Error>> {
    let Found {
        mut server,
        info,
        cluster: found,
        ..
    } = found;
    let (before, began) = (Timestamp::now(), Instant::now());
    let time = redis::cmd("TIME");
    let (seconds, micros): (i64, i64) = time.query_async(&mut server).await?;
    let answers_in = began.elapsed();
    // This write is refused like any other where writes are, and otherwise writes nothing, because the
    // key does not exist.
    let mut write = redis::cmd("SET");
    let write = write.arg("{hooklane}:nothing").arg(0).arg("XX");
    let written = write.query_async::<redis::Value>(&mut server).await;
    let is_other = found.is_some() && cluster.is_some() && found != cluster;
    if let Err(error) = check(address, &info) {
        return Ok(Err(error));
    }
    if is_other {
        return Ok(Err(unfit(address, OF_ANOTHER, OWN_REDIS)));
    }
    written?;
    let now = before.as_millis() + millis(answers_in) / 2;
    Ok(Ok(RedisInspection {
        version: field(&info, "redis_version").unwrap_or_default().to_owned(),
        answers_in,
        clock: seconds * 1_000 + micros / 1_000 - now,
        evicts: evicts(&info),
    }))
}

/// Every command that hints need, on keys and a channel of a namespace that does not exist.
fn everything() -> Pipeline {
    let key = |what| format!("{{hooklane}}:lanes::{what}:{:016x}", rand::random::<u64>());
    let (hash, queue) = (key("own"), key("q"));
    let mut all = redis::pipe();
    all.cmd("TIME");
    all.cmd("SCRIPT").arg("LOAD").arg("return 1");
    all.cmd("EVALSHA").arg("0".repeat(40)).arg(0);
    all.cmd("HSET").arg(&hash).arg(0).arg(0);
    all.cmd("HGET").arg(&hash).arg(0);
    all.cmd("ZADD").arg(&queue).arg("NX").arg(0).arg("0.0");
    all.cmd("ZPOPMIN").arg(&queue).arg(1);
    all.cmd("DEL").arg(&hash).arg(&queue);
    all.cmd("SCAN").arg(0).arg("COUNT").arg(1);
    all.cmd("PUBLISH").arg("{hooklane}:lanes::poke").arg(0);
    all
}

/// Checks by its INFO that a server is fit.
fn check(address: &Address, info: &str) -> Result<(), Error> {
    let version = field(info, "redis_version").unwrap_or_default();
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if number < VERSION_MIN {
        let what = format!("is version {version}");
        return Err(unfit(address, &what, "6.2 or later is needed"));
    }
    // A replica in a cluster redirects to its primary.
    if field(info, "role").is_some_and(|role| role != "master") && !is_clustered(info) {
        return Err(unfit(address, FOLLOWS, PRIMARY));
    }
    if evicts(info) {
        tracing::warn!(redis = %address, "Redis may evict hints when its memory is full: \
            set maxmemory-policy noeviction");
    }
    Ok(())
}

/// True if the server evicts keys when its memory is full.
fn evicts(info: &str) -> bool {
    let evicts = field(info, "maxmemory_policy").is_some_and(|policy| policy != "noeviction");
    evicts && field(info, "maxmemory") != Some("0")
}

/// A field of the answer to INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        (field == name).then_some(value.trim())
    })
}

const OF_ANOTHER: &str = "keeps the hints of another hooklane database";
const OWN_REDIS: &str = "give this one a Redis of its own, or another number at the end of its address; if \
    that database is gone for ever: redis-cli del {hooklane}:cluster";
const RUNS: &str = "does it run, and is the address right?";
const FOLLOWS: &str = "follows another server and takes no writes";
const FULL: &str = "is out of memory and takes no hints";
const ROOM: &str = "raise its maxmemory, or remove other data from it";
const PRIMARY: &str = "give the address of the primary";
const ALLOW: &str = "allow it ~{hooklane}:* &{hooklane}:lanes:*:poke +get +set +del +scan +hget +hset +zadd +zpopmin \
    +time +info +evalsha +script|load +publish +psubscribe";

/// Explains why the server cannot be used, and what to do: the same text at the start, in the log, in
/// `status` and in `doctor`.
fn refusal(address: &Address, error: &RedisError) -> Error {
    let said = error.to_string();
    let said = said.lines().next().unwrap_or_default();
    let strange = format!("does not let us in: {said}");
    let password = "see user and password in its address";
    match code(error).as_deref() {
        Some("NOPERM") => {
            let what = format!("refuses this user a command that hints need: {said}");
            unfit(address, &what, ALLOW)
        }
        Some("NOAUTH" | "WRONGPASS") => unfit(address, &strange, password),
        Some("OOM") => unfit(address, FULL, ROOM),
        Some("MISCONF") => {
            let what = format!("takes no writes: {said}");
            unfit(address, &what, "see its log and its disk")
        }
        Some("LOADING") => unfit(address, "is loading its data", "wait until it has"),
        Some("READONLY") => unfit(address, FOLLOWS, PRIMARY),
        Some("MASTERDOWN" | "CLUSTERDOWN") => {
            unfit(address, &format!("is not whole: {said}"), "see its nodes")
        }
        Some(_) => unfit(address, &format!("refuses: {said}"), "see its log"),
        None if error.kind() == ErrorKind::AuthenticationFailed => {
            unfit(address, &strange, password)
        }
        None => unfit(address, &format!("cannot be reached: {said}"), RUNS),
    }
}

/// The error code of a server's answer; the first one of a pipeline's.
fn code(error: &RedisError) -> Option<String> {
    let first = |errors: std::sync::Arc<[(usize, ServerError)]>| {
        let (_, first) = errors.first()?;
        Some(first.code().to_owned())
    };
    let own = || error.code().map(str::to_owned);
    error
        .clone()
        .into_server_errors()
        .and_then(first)
        .or_else(own)
}

fn unfit(address: &Address, what: &str, remedy: &str) -> Error {
    Error::Refused(format!("Redis at {address} {what}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(info: &str) -> Result<(), String> {
        let address: Address = "redis://u:secret@h:1".parse().unwrap();
        check(&address, info).map_err(|error| error.to_string())
    }

    #[test]
    fn a_server_is_judged_by_what_it_says_of_itself() {
        let fit = "redis_mode:standalone\r\nrole:master\r\nmaxmemory:0\r\n";
        for version in ["6.2.0", "7.0.15", "10.0.0", "6.10.1"] {
            assert_eq!(judged(&format!("redis_version:{version}\r\n{fit}")), Ok(()));
        }
        for version in ["6.0.16", "5.9.9", "2.8", "6", ""] {
            let why = judged(&format!("redis_version:{version}\r\n{fit}")).unwrap_err();
            assert!(
                why.contains("6.2 or later is needed") && why.contains("h:1"),
                "{why}"
            );
            assert!(!why.contains("secret") && !why.contains('\n'), "{why}");
        }
        let why = judged("redis_version:7.0.0\r\nrole:slave\r\n").unwrap_err();
        assert!(why.contains("address of the primary"), "{why}");
    }
}
