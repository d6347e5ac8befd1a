//! Hints in Redis, on private servers: what each script answers, and what is noticed when a server is
//! wiped, rolled back, frozen, restarted, or not fit at all.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hooklane::domain::cursor::CursorId;
use hooklane::domain::event::StreamId;
use hooklane::domain::hook::HandlerId;
use hooklane::domain::lane::{LaneId, LaneSet};
use hooklane::domain::name::Name;
use hooklane::lanes::redis::{Answer, Error, Redis, Sign};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::redis_server::RedisServer;

/// An answer, a second at most, and what a loaded machine adds.
const SOON: Duration = Duration::from_millis(1_800);

/// For what must happen, however loaded the machine is.
const LATE: Duration = Duration::from_secs(20);

/// The time from one look to the next.
const LOOK_EVERY: Duration = Duration::from_millis(20);

const CLUSTER: i64 = 7_001;

fn ask(server: &RedisServer, command: &[&str]) -> String {
    server.ask(command).join("\n")
}

async fn connect(server: &RedisServer) -> Redis {
    open(&server.url(), CLUSTER).await.unwrap()
}

async fn open(url: &str, cluster: i64) -> Result<Redis, Error> {
    Redis::connect(&url.parse()?, cluster, "a").await
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn set(generation: i64, lanes: u16) -> LaneSet {
    LaneSet {
        namespace: name("t"),
        generation,
        lanes,
    }
}

fn lane(generation: i64, index: u16) -> LaneId {
    LaneId {
        namespace: name("t"),
        generation,
        index,
    }
}

fn cursor(handler: i64, stream: i64) -> CursorId {
    CursorId {
        stream: StreamId(stream),
        handler: HandlerId(handler),
    }
}

async fn push(redis: &Redis, generation: i64, handler: i64) -> Answer<usize> {
    let hint = (0, cursor(handler, 10));
    redis.push(&name("t"), generation, &[hint]).await.unwrap()
}

async fn claim(redis: &Redis, generation: i64, epoch: i64) -> Answer<()> {
    redis.claim(&lane(generation, 0), epoch).await.unwrap()
}

async fn pop(redis: &Redis, generation: i64, epoch: i64) -> Answer<Vec<CursorId>> {
    let lanes = [(lane(generation, 0), epoch)];
    redis.pop(&lanes, 10).await.unwrap().remove(0)
}

async fn raise(redis: &Redis, generation: i64, lanes: u16) -> Answer<()> {
    redis.raise(&set(generation, lanes)).await.unwrap()
}

/// A node that owns lane 0 of generation 7 under epoch 41, and has seen its pulse.
async fn owner(server: &RedisServer) -> Redis {
    let redis = connect(server).await;
    assert_eq!(raise(&redis, 7, 2).await, Answer::Done(()));
    assert_eq!(claim(&redis, 7, 41).await, Answer::Done(()));
    for _ in 0..3 {
        assert_eq!(redis.pulse().await, Sign::Fine);
    }
    redis
}

/// The next sign that is neither of `passing`.
async fn sign(redis: &Redis, passing: &[Sign]) -> Sign {
    let looks = async {
        loop {
            let sign = redis.pulse().await;
            if !passing.contains(&sign) {
                return sign;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    timeout(LATE, looks).await.expect("another sign")
}

/// The word that is new after every loss.
fn boot(server: &RedisServer) -> String {
    ask(server, &["HGET", "{hooklane}:lanes:t:conf", "boot"])
}

fn free_port() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port().to_string()
}

/// A server that others can follow, and its port.
fn primary() -> (RedisServer, String) {
    let port = free_port();
    let options = ["--port", &port, "--bind", "127.0.0.1"];
    (RedisServer::with(&options), port)
}

/// It is refused in one line that says these words and no password.
fn refused(result: Result<Redis, Error>, words: &[&str]) {
    let error = result.err().expect("it is refused");
    assert!(matches!(error, Error::Refused(_)), "{error}");
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line}");
    assert!(!line.contains("s3cret") && !format!("{error:?}").contains("s3cret"));
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
}

#[tokio::test]
async fn every_script_answers_as_the_protocol_says() {
    use Answer::{Behind, Done, Fenced, NotOwner, Stale, Wiped};
    let server = RedisServer::start();
    let redis = connect(&server).await;
    assert_eq!(push(&redis, 7, 1).await, Wiped, "PUSH, empty");
    assert_eq!(pop(&redis, 7, 41).await, Wiped, "POP, empty");
    assert_eq!(claim(&redis, 7, 41).await, Wiped, "CLAIM, empty");
    assert_eq!(raise(&redis, 7, 2).await, Done(()), "RAISE creates");
    let first = boot(&server);
    assert!(!first.is_empty());
    assert_eq!(raise(&redis, 7, 2).await, Done(()), "RAISE again");
    assert_eq!(boot(&server), first, "the boot word is kept");
    assert_eq!(pop(&redis, 7, 41).await, NotOwner(None), "before CLAIM");
    assert_eq!(claim(&redis, 7, 41).await, Done(()), "CLAIM");
    assert_eq!(push(&redis, 7, 1).await, Done(1), "first hint");
    assert_eq!(push(&redis, 7, 1).await, Done(0), "no second hint");
    assert_eq!(push(&redis, 7, 2).await, Done(1), "another cursor");
    let oldest_first = vec![cursor(1, 10), cursor(2, 10)];
    assert_eq!(pop(&redis, 7, 41).await, Done(oldest_first));
    assert_eq!(pop(&redis, 7, 41).await, Done(vec![]), "an empty queue");
    assert_eq!(push(&redis, 7, 1).await, Done(1), "hinted again");
    assert_eq!(claim(&redis, 7, 43).await, Done(()), "a later take");
    assert_eq!(pop(&redis, 7, 41).await, NotOwner(Some(43)));
    assert_eq!(claim(&redis, 7, 41).await, Fenced(43));
    assert_eq!(pop(&redis, 7, 43).await, Done(vec![cursor(1, 10)]));
    let two = [(0, cursor(1, 10)), (1, cursor(1, 11))];
    assert_eq!(redis.push(&name("t"), 7, &two).await.unwrap(), Done(2));
    assert_eq!(ask(&server, &["ZCARD", "{hooklane}:lanes:t:q:7:1"]), "1");
    assert_eq!(raise(&redis, 8, 3).await, Done(()), "the next generation");
    assert_eq!(boot(&server), first, "the boot word is kept");
    assert_eq!(raise(&redis, 7, 2).await, Stale(8), "never lowers");
    assert_eq!(push(&redis, 7, 1).await, Stale(8));
    assert_eq!(pop(&redis, 7, 43).await, Stale(8));
    assert_eq!(push(&redis, 9, 1).await, Behind(8));
    assert_eq!(claim(&redis, 9, 50).await, Behind(8));
    ask(&server, &["FLUSHALL"]);
    assert_eq!(raise(&redis, 8, 3).await, Done(()), "by somebody else");
    assert_ne!(boot(&server), first, "a new boot word");
    assert_eq!(pop(&redis, 8, 43).await, NotOwner(None), "noticed");
}

#[tokio::test]
async fn hints_come_oldest_first_once_each_and_no_more_than_asked() {
    let server = RedisServer::start();
    let redis = owner(&server).await;
    // Three times more than fits into one call, each cursor twice.
    let hints: Vec<_> = (0..6_000).map(|n| (0, cursor(1, n % 3_000))).collect();
    let added = redis.push(&name("t"), 7, &hints).await.unwrap();
    assert_eq!(added, Answer::Done(3_000));
    let later = [(0, cursor(2, 1)), (1, cursor(2, 2))];
    redis.push(&name("t"), 7, &later).await.unwrap();
    let mut seen = Vec::new();
    let lanes = [(lane(7, 0), 41), (lane(7, 1), 41)];
    loop {
        let answers = redis.pop(&lanes, 700).await.unwrap();
        assert_eq!(answers[1], Answer::NotOwner(None), "each has its answer");
        let Answer::Done(popped) = &answers[0] else {
            panic!("{answers:?}");
        };
        assert!(popped.len() <= 700);
        if popped.is_empty() {
            break;
        }
        seen.extend(popped.clone());
    }
    let once: HashSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), once.len()), (3_001, 3_001));
    assert_eq!(seen.last(), Some(&cursor(2, 1)), "the latest comes last");
}

#[tokio::test]
async fn what_is_no_cursor_is_passed_over() {
    let server = RedisServer::start();
    let redis = owner(&server).await;
    let queue = "{hooklane}:lanes:t:q:7:0";
    let words = ["1", "x", "2", "1.x", "3", "1.2.3", "4", "", "5", "4.9"];
    ask(&server, &[&["ZADD", queue][..], &words[..]].concat());
    assert_eq!(pop(&redis, 7, 41).await, Answer::Done(vec![cursor(4, 9)]));
}

#[tokio::test]
async fn forgotten_scripts_are_sent_again() {
    let server = RedisServer::start();
    let redis = owner(&server).await;
    push(&redis, 7, 1).await;
    ask(&server, &["SCRIPT", "FLUSH"]);
    assert_eq!(push(&redis, 7, 2).await, Answer::Done(1));
    ask(&server, &["SCRIPT", "FLUSH"]);
    let both = vec![cursor(1, 10), cursor(2, 10)];
    assert_eq!(pop(&redis, 7, 41).await, Answer::Done(both));
    assert_eq!(redis.pulse().await, Sign::Fine);
}

#[tokio::test]
async fn a_wiped_namespace_forgets_hints_and_owners_and_the_others_keep_theirs() {
    let server = RedisServer::start();
    let redis = owner(&server).await;
    let other = LaneSet {
        namespace: name("t2"),
        ..set(3, 1)
    };
    redis.raise(&other).await.unwrap();
    let there = redis.push(&other.namespace, 3, &[(0, cursor(1, 1))]).await;
    assert_eq!(there.unwrap(), Answer::Done(1));
    push(&redis, 7, 1).await;
    redis.wipe(&name("t")).await.unwrap();
    assert_eq!(ask(&server, &["KEYS", "{hooklane}:lanes:t:*"]), "");
    assert_eq!(pop(&redis, 7, 41).await, Answer::Wiped);
    assert_eq!(ask(&server, &["ZCARD", "{hooklane}:lanes:t2:q:3:0"]), "1");
    assert_eq!(raise(&redis, 7, 2).await, Answer::Done(()));
    assert_eq!(pop(&redis, 7, 41).await, Answer::NotOwner(None));
}

#[tokio::test]
async fn an_emptied_server_is_a_loss_for_every_node() {
    let server = RedisServer::start();
    let redis = owner(&server).await;
    ask(&server, &["FLUSHALL"]);
    assert_eq!(sign(&redis, &[]).await, Sign::Lost);
    assert_eq!(pop(&redis, 7, 41).await, Answer::Wiped);
    raise(&redis, 7, 2).await;
    claim(&redis, 7, 41).await;
    // The new word may be told once more; then all is as before.
    sign(&redis, &[Sign::Lost]).await;
    assert_eq!(redis.pulse().await, Sign::Fine);
}

#[tokio::test]
async fn another_boot_word_is_a_loss() {
    let server = RedisServer::start();
    let redis = owner(&server).await;
    ask(
        &server,
        &["HSET", "{hooklane}:lanes:t:conf", "boot", "other"],
    );
    assert_eq!(raise(&redis, 7, 2).await, Answer::Done(()));
    assert_eq!(redis.pulse().await, Sign::Lost);
    assert_eq!(sign(&redis, &[Sign::Lost]).await, Sign::Fine);
}

#[tokio::test]
async fn a_pulse_that_went_back_by_one_beat_is_a_loss() {
    let server = RedisServer::start();
    let redis = owner(&server).await;
    let key = ask(&server, &["KEYS", "{hooklane}:pulse:*"]);
    let beat = ask(&server, &["GET", &key]);
    assert_eq!(redis.pulse().await, Sign::Fine);
    ask(&server, &["SET", &key, &beat]);
    assert_eq!(redis.pulse().await, Sign::Lost);
}

#[tokio::test]
async fn a_server_that_comes_back_empty_is_a_loss() {
    let server = RedisServer::start();
    let redis = owner(&server).await;
    server.kill();
    server.start_empty();
    assert_eq!(sign(&redis, &[Sign::Away]).await, Sign::Lost);
    assert_eq!(pop(&redis, 7, 41).await, Answer::Wiped);
}

#[tokio::test]
async fn a_server_that_goes_back_to_an_older_snapshot_is_a_loss() {
    let server = RedisServer::start();
    let redis = owner(&server).await;
    server.keep();
    push(&redis, 7, 1).await;
    server.kill();
    server.start_older();
    assert_eq!(sign(&redis, &[Sign::Away]).await, Sign::Lost);
    let answer = pop(&redis, 7, 41).await;
    assert_eq!(answer, Answer::Done(vec![]), "only the sign tells");
}

#[tokio::test]
async fn a_server_that_forgot_nothing_is_fine() {
    let server = RedisServer::start();
    let redis = owner(&server).await;
    ask(&server, &["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(sign(&redis, &[Sign::Away]).await, Sign::Fine);
    assert_eq!(pop(&redis, 7, 41).await, Answer::Done(vec![]));
}

#[tokio::test]
async fn a_server_that_is_gone_is_away_at_once_and_found_when_it_returns() {
    let server = RedisServer::start();
    let redis = owner(&server).await;
    server.kill();
    assert_eq!(sign(&redis, &[]).await, Sign::Away);
    for _ in 0..5 {
        let since = Instant::now();
        let hint = [(0, cursor(1, 1))];
        assert!(redis.push(&name("t"), 7, &hint).await.is_err());
        assert!(redis.pop(&[(lane(7, 0), 41)], 10).await.is_err());
        assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    }
    server.start_empty();
    assert_eq!(sign(&redis, &[Sign::Away]).await, Sign::Lost);
}

#[tokio::test]
async fn a_frozen_server_holds_nobody_for_longer_than_a_second() {
    let server = RedisServer::start();
    let redis = owner(&server).await;
    server.freeze();
    let since = Instant::now();
    let mut pushes = JoinSet::new();
    for n in 0..500 {
        let redis = redis.clone();
        pushes.spawn(async move {
            let hint = [(0, cursor(1, n))];
            redis.push(&name("t"), 7, &hint).await.is_err()
        });
    }
    assert!(pushes.join_all().await.iter().all(|failed| *failed));
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    let since = Instant::now();
    assert_eq!(redis.pulse().await, Sign::Away);
    assert!(redis.pop(&[(lane(7, 0), 41)], 10).await.is_err());
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    server.thaw();
    assert_eq!(sign(&redis, &[Sign::Away]).await, Sign::Fine);
    assert!(matches!(pop(&redis, 7, 41).await, Answer::Done(_)));
}

/// As after a failover behind one address: who answered before is silent for ever, and says no goodbye.
#[tokio::test]
async fn a_silent_connection_is_given_up_for_a_new_one() {
    let front = Front::open().await;
    let [old, new] = [RedisServer::start(), RedisServer::start()];
    front.lead_to(&old);
    let redis = open(&front.url(), CLUSTER).await.unwrap();
    assert_eq!(redis.pulse().await, Sign::Fine);
    let mut duties = JoinSet::new();
    duties.spawn(redis.clone().listen());
    old.freeze();
    front.lead_to(&new);
    assert_eq!(redis.pulse().await, Sign::Away);
    assert_eq!(sign(&redis, &[Sign::Away]).await, Sign::Lost);
    assert_eq!(push(&redis, 7, 1).await, Answer::Wiped, "the new one");
    old.thaw();
}

#[tokio::test]
async fn a_server_that_takes_no_writes_any_more_is_away_until_it_does() {
    let server = RedisServer::start();
    let (_primary, port) = primary();
    let redis = owner(&server).await;
    ask(&server, &["REPLICAOF", "127.0.0.1", &port]);
    assert_eq!(sign(&redis, &[]).await, Sign::Away);
    ask(&server, &["REPLICAOF", "NO", "ONE"]);
    // It may have been emptied on the way.
    assert_eq!(sign(&redis, &[Sign::Away]).await, Sign::Lost);
}

#[tokio::test]
async fn a_poke_is_heard_and_again_after_a_restart() {
    let server = RedisServer::start();
    let listener = connect(&server).await;
    let mut duties = JoinSet::new();
    duties.spawn(listener.clone().listen());
    let sender = owner(&server).await;
    heard(&listener, &sender, &server, 1).await;
    server.kill();
    server.start_empty();
    sign(&sender, &[Sign::Away]).await;
    raise(&sender, 7, 2).await;
    heard(&listener, &sender, &server, 100).await;
    while timeout(Duration::from_millis(50), listener.poked())
        .await
        .is_ok()
    {}
    sender.poke(&name("other")).await.unwrap();
    timeout(LATE, listener.poked()).await.expect("a bare poke");
}

/// A hint that nobody knew is heard of, as soon as the listener listens.
async fn heard(listener: &Redis, sender: &Redis, server: &RedisServer, first: i64) {
    let subscribed = async {
        while ask(server, &["PUBSUB", "NUMPAT"]) != "1" {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    timeout(LATE, subscribed).await.expect("it listens again");
    while timeout(Duration::from_millis(50), listener.poked())
        .await
        .is_ok()
    {}
    assert_eq!(push(sender, 7, first).await, Answer::Done(1));
    timeout(LATE, listener.poked()).await.expect("poked");
}

#[tokio::test]
async fn nodes_of_two_databases_do_not_share_a_server() {
    let server = RedisServer::start();
    let redis = owner(&server).await;
    assert!(open(&server.url(), CLUSTER).await.is_ok(), "another node");
    let other = open(&server.url(), 8_002).await;
    refused(other, &["another hooklane database", "{hooklane}:cluster"]);
    let beside = format!("{}?db=1", server.url());
    assert!(open(&beside, 8_002).await.is_ok(), "another number");
    // Emptied, and the other one was there first.
    ask(&server, &["FLUSHALL"]);
    let other = open(&server.url(), 8_002).await.unwrap();
    assert_eq!(other.raise(&set(7, 2)).await.unwrap(), Answer::Done(()));
    assert_eq!(sign(&redis, &[]).await, Sign::Lost);
    assert!(redis.pop(&[(lane(7, 0), 41)], 10).await.is_err());
    assert_eq!(redis.pulse().await, Sign::Away, "it keeps away");
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_refused_in_one_line() {
    let nobody = "redis://:s3cret@127.0.0.1:1";
    refused(
        open(nobody, CLUSTER).await,
        &["127.0.0.1:1", "cannot be reached"],
    );

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let since = Instant::now();
    let mute = open(&format!("redis://127.0.0.1:{port}"), CLUSTER).await;
    refused(mute, &["cannot be reached", "no answer"]);
    assert!(since.elapsed() < Duration::from_secs(6));

    let server = RedisServer::with(&["--requirepass", "right"]);
    let wrong = open(&format!("{}?pass=s3cret", server.url()), CLUSTER).await;
    refused(wrong, &["does not let us in", "password"]);
    let none = open(&server.url(), CLUSTER).await;
    refused(none, &["does not let us in", "password"]);
    let right = open(&format!("{}?pass=right", server.url()), CLUSTER).await;
    assert!(right.is_ok());

    let (_primary, port) = primary();
    let replica = RedisServer::with(&["--replicaof", "127.0.0.1", &port]);
    refused(
        open(&replica.url(), CLUSTER).await,
        &["no writes", "primary"],
    );

    let old = RedisServer::start();
    let info = ask(&old, &["INFO"]);
    let version = info.lines().find(|line| line.starts_with("redis_version:"));
    let (word, version) = version.unwrap().split_once(':').unwrap();
    let lie = format!("{word}:5{}", &version.trim()[1..]);
    let truth = format!("{word}:{}", version.trim());
    let port = crate::refused::liar(old.socket(), truth.into(), lie.into()).await;
    refused(
        open(&format!("redis://127.0.0.1:{port}"), CLUSTER).await,
        &["is version 5", "6.2 or later is needed"],
    );

    let full = RedisServer::start();
    ask(&full, &["CONFIG", "SET", "maxmemory", "1"]);
    refused(
        open(&full.url(), CLUSTER).await,
        &["is out of memory", "maxmemory"],
    );
}

/// Nodes of a Redis Cluster: three that divide the keys, and three that follow them.
pub struct Sharded {
    pub nodes: Vec<(Arc<RedisServer>, String)>,
}

impl Sharded {
    pub fn start() -> Self {
        let nodes: Vec<_> = (0..6).map(|_| Self::node()).collect();
        let doors = nodes.iter().map(|(_, door)| door.as_str());
        let mut create = std::process::Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(doors);
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let done = create.output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let sharded = Self { nodes };
        let follows =
            |server: &RedisServer| ask(server, &["INFO"]).contains("master_link_status:up");
        crate::world::until(|| {
            let mut nodes = sharded.nodes.iter();
            let is_ok = |server| ask(server, &["CLUSTER", "INFO"]).contains("cluster_state:ok");
            let followers = nodes.clone().filter(|(server, _)| follows(server)).count();
            (followers == 3 && nodes.all(|(server, _)| is_ok(server))).then_some(())
        });
        sharded
    }

    fn node() -> (Arc<RedisServer>, String) {
        let ports = [free_port(), free_port()];
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "500"];
        let listens = ["--bind", "127.0.0.1", "--port", &ports[0]];
        let bus = ["--cluster-port", &ports[1]];
        let server = RedisServer::with(&[&options[..], &listens, &bus].concat());
        (server.into(), format!("127.0.0.1:{}", ports[0]))
    }

    fn leaders(&self) -> impl Iterator<Item = &(Arc<RedisServer>, String)> {
        let leads = |server| ask(server, &["ROLE"]).starts_with("master");
        self.nodes.iter().filter(move |(server, _)| leads(server))
    }

    /// Gives the keys to another node, one after the other, as a reshard does; that node.
    pub fn reshard(&self) -> &RedisServer {
        let (from, door) = self.owner();
        let (to, to_door) = self.leaders().find(|(_, other)| other != door).unwrap();
        let (id, to_id) = (
            ask(from, &["CLUSTER", "MYID"]),
            ask(to, &["CLUSTER", "MYID"]),
        );
        let slot = ask(from, &["CLUSTER", "KEYSLOT", "{hooklane}"]);
        let set = |server, rest: &[&str]| {
            let said = ask(server, &[&["CLUSTER", "SETSLOT", &slot], rest].concat());
            assert_eq!(said, "OK");
        };
        set(to, &["IMPORTING", &id]);
        set(from, &["MIGRATING", &to_id]);
        let port = to_door.rsplit_once(':').unwrap().1;
        loop {
            let key = ask(from, &["CLUSTER", "GETKEYSINSLOT", &slot, "1"]);
            if key.is_empty() {
                break;
            }
            // Another node may have popped the last entry.
            let said = ask(from, &["MIGRATE", "127.0.0.1", port, &key, "0", "5000"]);
            assert!(["OK", "NOKEY"].contains(&said.as_str()), "{said}");
        }
        set(to, &["NODE", &to_id]);
        set(from, &["NODE", &to_id]);
        to
    }

    /// The node that has the keys.
    fn owner(&self) -> &(Arc<RedisServer>, String) {
        let has = |(server, _): &&(Arc<RedisServer>, String)| ask(server, &["DBSIZE"]) != "0";
        let mut owners = self.leaders().filter(has);
        let owner = owners.next().expect("keys");
        assert!(owners.next().is_none(), "they are in one place");
        owner
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_of_a_redis_cluster_leads_to_the_one_that_has_the_keys() {
    let sharded = tokio::task::block_in_place(Sharded::start);
    let mut nodes = Vec::new();
    for (_, door) in &sharded.nodes {
        nodes.push(open(&format!("redis://{door}"), CLUSTER).await.unwrap());
    }
    let mut duties = JoinSet::new();
    duties.spawn(nodes[1].clone().listen());
    timeout(LATE, nodes[1].poked()).await.expect("it listens");
    raise(&nodes[0], 7, 2).await;
    claim(&nodes[1], 7, 41).await;
    for (handler, from) in (1..).zip(&nodes) {
        assert_eq!(push(from, 7, handler).await, Answer::Done(1));
        timeout(LATE, nodes[1].poked()).await.expect("poked");
        let hint = Answer::Done(vec![cursor(handler, 10)]);
        assert_eq!(pop(&nodes[1], 7, 41).await, hint);
    }
    sharded.owner();
    let other = open(&format!("redis://{}", sharded.nodes[2].1), 8_002).await;
    refused(other, &["another hooklane database"]);
    nodes[3].wipe(&name("t")).await.unwrap();
    assert_eq!(pop(&nodes[1], 7, 41).await, Answer::Wiped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_redis_cluster_that_dies_is_a_loss_and_whoever_takes_its_place_is_found() {
    let sharded = tokio::task::block_in_place(Sharded::start);
    let first = open(&format!("redis://{}", sharded.nodes[0].1), CLUSTER).await;
    let first = first.unwrap();
    raise(&first, 7, 2).await;
    // Its address is that of the one that dies.
    let (owner, door) = sharded.owner();
    let redis = open(&format!("redis://{door}"), CLUSTER).await.unwrap();
    claim(&redis, 7, 41).await;
    assert_eq!(redis.pulse().await, Sign::Fine);
    owner.kill();
    assert_eq!(sign(&redis, &[Sign::Away]).await, Sign::Lost);
    assert_eq!(sign(&redis, &[Sign::Away]).await, Sign::Fine);
    raise(&redis, 7, 2).await;
    claim(&redis, 7, 42).await;
    assert_eq!(push(&redis, 7, 1).await, Answer::Done(1));
    assert_eq!(pop(&redis, 7, 42).await, Answer::Done(vec![cursor(1, 10)]));
}

/// The channels of pokes, as the refusal tells people to allow them: a pattern must be allowed literally.
const CHANNELS: &str = "&{hooklane}:lanes:*:poke";

/// Permissions that hints need, which the refusal asks operators to allow.
const NEEDED: [&str; 14] = [
    "get",
    "set",
    "del",
    "scan",
    "hget",
    "hset",
    "zadd",
    "zpopmin",
    "time",
    "info",
    "evalsha",
    "script|load",
    "publish",
    "psubscribe",
];

#[tokio::test]
async fn a_user_needs_what_is_documented_and_each_missing_permission_is_told() {
    let server = RedisServer::start();
    let url = format!("{}?user=node&pass=s3cret", server.url());
    let allow = |keys: &str, channels: &str, without: &str| {
        let mut rule = vec![
            "ACL", "SETUSER", "node", "reset", "on", ">s3cret", keys, channels,
        ];
        let commands: Vec<_> = NEEDED
            .iter()
            .filter(|command| **command != without)
            .map(|command| format!("+{command}"))
            .collect();
        rule.extend(commands.iter().map(String::as_str));
        assert_eq!(ask(&server, &rule), "OK");
    };
    for missing in NEEDED {
        allow("~{hooklane}:*", CHANNELS, missing);
        refused(open(&url, CLUSTER).await, &["allow", missing]);
    }
    allow("~{hooklane}:lanes*", CHANNELS, "");
    refused(open(&url, CLUSTER).await, &["~{hooklane}:*"]);
    allow("~{hooklane}:*", "resetchannels", "");
    refused(open(&url, CLUSTER).await, &[CHANNELS]);

    allow("~{hooklane}:*", CHANNELS, "");
    let redis = open(&url, CLUSTER).await.unwrap();
    let mut duties = JoinSet::new();
    duties.spawn(redis.clone().listen());
    raise(&redis, 7, 2).await;
    claim(&redis, 7, 41).await;
    let subscribed = async {
        while ask(&server, &["PUBSUB", "NUMPAT"]) != "1" {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    timeout(LATE, subscribed).await.expect("it listens");
    push(&redis, 7, 1).await;
    timeout(LATE, redis.poked()).await.expect("poked");
    assert_eq!(pop(&redis, 7, 41).await, Answer::Done(vec![cursor(1, 10)]));
    assert_eq!(redis.pulse().await, Sign::Fine);
    redis.wipe(&name("t")).await.unwrap();
}

#[test]
fn an_address_never_shows_its_password() {
    use hooklane::lanes::redis::Address;
    let address: Address = "redis://node:s3cret@cache.example:6380/2".parse().unwrap();
    for shown in [address.to_string(), format!("{address:?}")] {
        assert!(shown.contains("cache.example:6380"), "{shown}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    for wrong in [
        "",
        "cache:6379",
        "http://:s3cret@cache",
        "redis://:s3cret@ca che",
    ] {
        let error = wrong.parse::<Address>().unwrap_err().to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }
}

/// Prints how many hints a second one node pushes and pops: `cargo test --test spec rates -- --ignored
/// --nocapture`.
#[tokio::test]
#[ignore = "measures"]
async fn rates() {
    const HINTS: i64 = 100_000;
    let server = RedisServer::start();
    let redis = owner(&server).await;
    for batch in [1, 64, 256, 2_048] {
        let hints: Vec<_> = (0..HINTS.min(10_000 * batch))
            .map(|n| (0, cursor(1, n)))
            .collect();
        let batch = usize::try_from(batch).unwrap();
        let rate = |since: Instant| hints.len() as f64 / since.elapsed().as_secs_f64();
        let since = Instant::now();
        for some in hints.chunks(batch) {
            redis.push(&name("t"), 7, some).await.unwrap();
        }
        let pushed = rate(since);
        let since = Instant::now();
        let lanes = [(lane(7, 0), 41)];
        while redis.pop(&lanes, batch).await.unwrap() != [Answer::Done(vec![])] {}
        let popped = rate(since);
        println!("batches of {batch}: {pushed:.0} pushed/s, {popped:.0} popped/s");
    }
    let lanes: Vec<_> = (0..64).map(|index| (lane(7, index), 41)).collect();
    for (lane, epoch) in &lanes {
        redis.claim(lane, *epoch).await.unwrap();
    }
    let since = Instant::now();
    for _ in 0..100 {
        redis.pop(&lanes, 64).await.unwrap();
    }
    println!("64 empty lanes: {:?} a look", since.elapsed() / 100);
}

/// One address, behind which servers change. Connections that are open stay where they were led.
struct Front {
    port: u16,
    to: watch::Sender<PathBuf>,
    _duty: JoinSet<()>,
}

impl Front {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (to, now) = watch::channel(PathBuf::new());
        let mut duty = JoinSet::new();
        duty.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut outside, _)) = listener.accept().await {
                let socket = now.borrow().clone();
                connections.spawn(async move {
                    let inside = UnixStream::connect(socket).await;
                    let mut inside = inside.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
        });
        Self {
            port,
            to,
            _duty: duty,
        }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn lead_to(&self, server: &RedisServer) {
        self.to.send_replace(server.socket());
    }
}
