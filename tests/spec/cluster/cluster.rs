//! Nodes that share Postgres and Redis, and what may happen to each of them while webhooks come: nothing
//! is lost, doubled or reordered, everybody's work is done within seconds once the fault is gone, and a
//! sender that asks another node is answered as long as there is one.
//!
//! Every test shows that its fault has bitten: one that harms nobody proves nothing.

use std::collections::BTreeSet;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::checker::{self, Attempt, Event, Outcome, Stored, TRAIL_JS, trail};
use super::daemon::{Client, Daemon, Home, Lost, Servers, Setup};
use super::embedded::torture::outcome;
use super::postgres::{self, Server};
use super::redis::Sharded;
use super::world::{ended, until};

const NAMES: [&str; 3] = ["a", "b", "c"];
const HOOK: &str = "orders";
const SENDERS: usize = 8;

/// Number of streams of a sender, which no other sender uses.
const STREAMS: usize = 4;

/// Number of rounds for each stream that gets a single event.
const ONCE_EVERY: i64 = 4;

/// Between two events of a sender.
const PAUSE: Duration = Duration::from_millis(5);

/// Between two tries to have an event accepted.
const AGAIN: Duration = Duration::from_millis(20);

/// Time after which a sender tries the next node.
const PATIENCE: Duration = Duration::from_secs(2);

/// Time limit for finishing the work once no more failures happen.
const HEAL_MAX: Duration = Duration::from_secs(30);

/// Time limit for a node to stop.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Time for which lanes may have no node after one has left, on a busy machine.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);

/// Three nodes, and what they share.
pub struct Cluster {
    servers: Arc<Servers>,
    homes: Vec<Home>,
    daemons: Vec<Option<Daemon>>,
    write_key: String,
    read_key: String,
}

impl Cluster {
    /// Three running nodes, each with lanes.
    fn start(postgres: &'static Server) -> Self {
        Self::on(Servers::on(postgres))
    }

    /// The same on these servers.
    pub fn on(servers: Arc<Servers>) -> Self {
        let homes: Vec<_> = NAMES.map(|name| Home::of(&servers, name)).into();
        homes[0].write("trail.js", TRAIL_JS);
        let mut daemons = vec![Some(homes[0].start())];
        homes[0]
            .apply("[[hooks]]\nname = 'orders'\nreduce = 'trail.js'\norder_by = 'body:/account'\n");
        daemons.extend(homes[1..].iter().map(|home| Some(home.start())));
        let cluster = Self {
            write_key: homes[0].key("write"),
            read_key: homes[0].key("read"),
            servers,
            homes,
            daemons,
        };
        cluster.spread();
        cluster
    }

    /// Waits until every node runs lanes and every lane has a node.
    pub fn spread(&self) {
        until(|| (self.owners() == BTreeSet::from(NAMES.map(str::to_owned))).then_some(()));
    }

    /// Names of the nodes that have lanes; an empty name stands for lanes without a node.
    fn owners(&self) -> BTreeSet<String> {
        self.servers.ask(
            "select coalesce(n.name, '') from lanes l left join nodes n on n.id = l.node
             where l.sealed_at is null",
        )
    }

    /// Epoch of a lane.
    fn epoch(&self) -> i64 {
        let epoch = "select value from counters where name = 'epoch'";
        self.servers.ask(epoch).first().unwrap().parse().unwrap()
    }

    /// All lanes with their epochs.
    fn epochs(&self) -> BTreeSet<(i64, i64)> {
        let rows = "select json_build_array(lane, epoch) from lanes where sealed_at is null";
        let rows = self.servers.ask(rows).into_iter();
        rows.map(|row| serde_json::from_str(&row).unwrap())
            .collect()
    }

    /// The same as Redis has it.
    fn claims(&self) -> BTreeSet<(i64, i64)> {
        let redis = &self.servers.redis;
        let generation = redis.ask(&["HGET", "{hooklane}:lanes:default:conf", "generation"]);
        let own = format!("{{hooklane}}:lanes:default:own:{}", generation[0]);
        let fields = redis.ask(&["HGETALL", &own]);
        let number = |text: &String| text.parse().unwrap();
        let pairs = fields.chunks_exact(2);
        pairs
            .map(|pair| (number(&pair[0]), number(&pair[1])))
            .collect()
    }

    /// The word that Redis has from the node that told it of the lanes; empty if none has.
    fn boot(&self) -> String {
        let boot = ["HGET", "{hooklane}:lanes:default:conf", "boot"];
        self.servers.redis.ask(&boot).concat()
    }

    pub fn kill(&mut self, node: usize) {
        self.daemons[node].take().unwrap().kill();
    }

    /// Stops a node as an operator does; its lanes must run elsewhere soon after.
    fn stop(&mut self, node: usize) {
        let mut daemon = self.daemons[node].take().unwrap();
        let status = daemon
            .terminate(STOP_MAX)
            .expect("a node that stops in time");
        let stopped = Instant::now();
        let log = self.homes[node].log();
        assert_eq!(status.code(), Some(0), "{log}");
        until(|| (!self.is_bereft(node)).then_some(()));
        let took = stopped.elapsed();
        assert!(
            took < HAND_OVER_MAX,
            "lanes were without a node for {took:?}"
        );
    }

    pub fn restart(&mut self, node: usize) {
        self.daemons[node] = Some(self.homes[node].start());
    }

    /// True if a lane has no node, or still this one.
    fn is_bereft(&self, node: usize) -> bool {
        let owners = self.owners();
        owners.contains("") || owners.contains(NAMES[node])
    }

    /// Begins to send to all nodes.
    pub fn load(&self) -> (Arc<Load>, Vec<JoinHandle<()>>) {
        let load = Arc::new(Load {
            clients: self.homes.iter().map(|home| home.addr).collect(),
            key: self.write_key.clone(),
            began: Instant::now(),
            stop: AtomicBool::new(false),
            failed: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            slowest: Mutex::default(),
            log: Mutex::default(),
        });
        let senders = (0..SENDERS).map(|sender| tokio::spawn(Arc::clone(&load).send(sender)));
        let senders = senders.collect();
        load.goes_on();
        (load, senders)
    }

    /// Lets the senders finish, and compares what they know with what each node shows and with what is
    /// in the tables.
    pub async fn judge(&self, load: Arc<Load>, senders: Vec<JoinHandle<()>>) {
        load.stop.store(true, Ordering::Relaxed);
        for sender in senders {
            sender.await.unwrap();
        }
        let log = std::mem::take(&mut *load.log.lock());
        let clients = self
            .homes
            .iter()
            .map(|home| Client::new(home.addr, &self.read_key));
        let mut clients: Vec<_> = clients.collect();
        checker::settle(&mut clients[0], &[HOOK], HEAL_MAX).await;
        let shown = checker::read(&mut clients[1], &[HOOK]).await;
        compare(&log, &shown);
        compare(&log, &checker::read_tables(&self.servers));
        let (sent, failed) = (log.len(), load.failed.load(Ordering::Relaxed));
        println!("{sent} requests, {failed} tries failed");
        for home in &self.homes {
            let said = home.log();
            assert!(!said.contains("panicked"), "{said}");
            let page = clients[0].get("/metrics").await.body;
            let page = String::from_utf8(page.to_vec()).unwrap();
            for reason in ["deadlock", "serialization"] {
                let none = format!("hooklane_database_retries_total{{reason=\"{reason}\"}} 0");
                assert!(page.contains(&none), "{page}");
            }
            clients.rotate_left(1);
        }
    }
}

/// Every promise, and the order in which the only sender of each stream sent.
fn compare(log: &[Attempt], stored: &[Stored]) {
    let broken = checker::check(log, stored, trail);
    assert!(broken.is_empty(), "{}", checker::report(&broken));
    let all = stored.iter().flat_map(|stream| &stream.events);
    let astray = all.filter(|event| number(event) != event.seq).count();
    assert_eq!(astray, 0, "events out of order");
}

fn number(event: &Event) -> i64 {
    let body: Value = serde_json::from_slice(&event.body).unwrap();
    body["number"].as_i64().unwrap()
}

/// State shared by the senders. The next event of a stream is sent after the one before was accepted.
pub struct Load {
    clients: Vec<std::net::SocketAddr>,
    key: String,
    began: Instant,
    stop: AtomicBool,
    /// Number of requests that a node refused or did not answer.
    failed: AtomicUsize,
    accepted: AtomicUsize,
    /// The longest time from the first try to the 2xx of an event.
    slowest: Mutex<Duration>,
    log: Mutex<Vec<Attempt>>,
}

impl Load {
    async fn send(self: Arc<Self>, sender: usize) {
        let mut clients: Vec<_> = self
            .clients
            .iter()
            .map(|a| Client::new(*a, &self.key))
            .collect();
        for client in &mut clients {
            client.patience = PATIENCE;
        }
        let mut at = sender;
        for number in 1.. {
            for stream in 0..STREAMS {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                self.deliver(
                    &mut clients,
                    &mut at,
                    &format!("s{sender}-{stream}"),
                    number,
                )
                .await;
                tokio::time::sleep(PAUSE).await;
            }
            // No later event replaces a lost hint of this one.
            if number % ONCE_EVERY == 0 {
                let account = format!("once{sender}-{number}");
                self.deliver(&mut clients, &mut at, &account, 1).await;
            }
            // A stream comes through one node and then through another.
            at += 1;
        }
    }

    async fn deliver(&self, clients: &mut [Client], at: &mut usize, account: &str, number: i64) {
        let began = Instant::now();
        let body = json!({"account": account, "number": number, "amount": 1});
        let body = Bytes::from(body.to_string());
        let nodes = clients.len();
        while !self
            .attempt(&mut clients[*at % nodes], account, number, &body)
            .await
        {
            self.failed.fetch_add(1, Ordering::Relaxed);
            *at += 1;
            tokio::time::sleep(AGAIN).await;
        }
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let mut slowest = self.slowest.lock();
        *slowest = began.elapsed().max(*slowest);
    }

    /// True if it was accepted.
    async fn attempt(&self, client: &mut Client, account: &str, number: i64, body: &Bytes) -> bool {
        let key = format!("{account}-{number}");
        let sent_at = self.began.elapsed();
        let answer = client.post(HOOK, body.clone(), Some(&key)).await;
        if answer.as_ref().is_err_and(|lost| *lost == Lost::Unsent) {
            return false;
        }
        let outcome = match answer {
            Ok(answer) => outcome(&answer, self.began.elapsed()),
            Err(_) => Outcome::Unknown,
        };
        assert_ne!(outcome, Outcome::Refused, "{key}");
        let accepted = outcome != Outcome::Unknown;
        self.log.lock().push(Attempt {
            stream: format!("{HOOK}/{account}"),
            body: body.clone(),
            dedupe_key: Some(key),
            sent_at,
            outcome,
        });
        accepted
    }

    /// Waits until each stream has got a few more events.
    pub fn goes_on(&self) {
        let enough = self.accepted.load(Ordering::Relaxed) + SENDERS * STREAMS * 3;
        until(|| (self.accepted.load(Ordering::Relaxed) > enough).then_some(()));
    }

    /// Waits until as many tries have failed as there are senders.
    pub fn is_hit(&self) {
        let enough = self.failed.load(Ordering::Relaxed) + SENDERS;
        until(|| (self.failed.load(Ordering::Relaxed) >= enough).then_some(()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lanes_of_a_node_that_was_killed_run_on_the_others_when_its_lease_is_over() {
    let mut cluster = Cluster::start(postgres::shared());
    let (load, senders) = cluster.load();
    let epoch = cluster.epoch();
    cluster.kill(0);
    load.is_hit();
    until(|| (!cluster.is_bereft(0)).then_some(()));
    assert!(cluster.epoch() > epoch, "lanes were taken");
    load.goes_on();
    cluster.restart(0);
    cluster.spread();
    cluster.judge(load, senders).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_of_three_nodes_are_resized_by_any_of_them() {
    let cluster = Cluster::start(postgres::shared());
    let (load, senders) = cluster.load();
    for (home, count) in cluster.homes.iter().zip(["16", "3", "9"]) {
        home.run(&["lanes", "resize", count, "--yes", "--confirm", count]);
        load.goes_on();
    }
    cluster.spread();
    cluster.judge(load, senders).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_lanes_of_a_dead_node_are_sealed_when_its_lease_is_over() {
    let mut cluster = Cluster::start(postgres::shared());
    let (load, senders) = cluster.load();
    cluster.kill(0);
    // It returns when every old lane is sealed, those of the dead too.
    cluster.homes[1].run(&["lanes", "resize", "7", "--yes", "--confirm", "7"]);
    load.is_hit();
    until(|| (!cluster.is_bereft(0)).then_some(()));
    let unsealed = "select count(*) from lanes where sealed_at is null";
    assert_eq!(
        cluster.servers.ask(unsealed),
        BTreeSet::from(["7".to_owned()])
    );
    load.goes_on();
    cluster.restart(0);
    cluster.spread();
    cluster.judge(load, senders).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_in_the_middle_of_a_resize_leaves_it_to_the_others() {
    let mut cluster = Cluster::start(postgres::shared());
    let (load, senders) = cluster.load();
    for (count, pause_ms) in [("16", 45), ("5", 120)] {
        let resize =
            cluster.homes[0].command(&["lanes", "resize", count, "--yes", "--confirm", count]);
        let mut resize = { resize }
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        cluster.kill(0);
        resize.wait().unwrap();
        cluster.restart(0);
        let under_way = "select 1 from lane_sets where state in ('opening', 'closing')";
        until(|| cluster.servers.ask(under_way).is_empty().then_some(()));
        cluster.spread();
        load.goes_on();
    }
    cluster.judge(load, senders).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stood_still_for_longer_than_its_lease_does_no_harm_when_it_goes_on() {
    let cluster = Cluster::start(postgres::shared());
    let (load, senders) = cluster.load();
    let sleeper = cluster.daemons[0].as_ref().unwrap();
    sleeper.freeze();
    load.is_hit();
    until(|| (!cluster.is_bereft(0)).then_some(()));
    load.goes_on();
    sleeper.thaw();
    until(|| {
        cluster.homes[0]
            .log()
            .contains("the lease is lost")
            .then_some(())
    });
    cluster.spread();
    cluster.judge(load, senders).await;
}

/// One command wipes and counts hints in the lanes of all nodes; a silent node is named, and does its
/// part later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_are_made_again_by_every_node_and_counted_together() {
    const ACCOUNTS: usize = 60;
    let cluster = Cluster::start(postgres::shared());
    let asked = &cluster.homes[0];
    asked.run(&["lanes", "pause", "--all", "--yes"]);
    let mut client = Client::new(cluster.homes[1].addr, &cluster.write_key);
    for account in 0..ACCOUNTS {
        let body = json!({"account": format!("a{account}"), "number": 1, "amount": 1});
        let answer = client.post(HOOK, Bytes::from(body.to_string()), None).await;
        assert_eq!(answer.unwrap().status, 202);
    }
    let rebuild = |args: &[&str]| {
        let args = [&["lanes", "rebuild", "-o", "json"], args].concat();
        let Output {
            status,
            stdout,
            stderr,
        } = asked.command(&args).output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        let found: Value = serde_json::from_slice(&stdout).unwrap_or_else(|_| panic!("{said}"));
        (found, status.code(), said)
    };
    // Every hint has come where it belongs.
    let all = json!(ACCOUNTS);
    let (looked_at, ..) = until(|| {
        let looked_at = rebuild(&["--dry-run"]);
        (looked_at.0["hinted"] == all).then_some(looked_at)
    });
    let (rebuilt, code, _) = rebuild(&["--reason", "a look"]);
    for found in [&looked_at, &rebuilt] {
        assert_eq!(found["behind"], all, "{found}");
        assert_eq!(
            (&found["forgotten"], &found["silent"]),
            (&json!(0), &json!([]))
        );
        assert_eq!(found["lanes_done"], found["lanes"], "{found}");
        let nodes = found["nodes"].as_array().unwrap();
        let mut names: Vec<_> = nodes
            .iter()
            .map(|part| part["node"].as_str().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, NAMES);
        for part in nodes {
            assert!(part["lanes"] != 0 && part["hinted"] != 0, "{found}");
        }
    }
    assert_eq!((code, &rebuilt["hinted"]), (Some(0), &all), "{rebuilt}");

    let sleeper = cluster.daemons[2].as_ref().unwrap();
    sleeper.freeze();
    let (found, code, said) = rebuild(&[]);
    assert_eq!((code, &found["silent"]), (Some(3), &json!(["c"])), "{said}");
    assert!(found["lanes_done"].as_u64() < found["lanes"].as_u64());
    assert!(said.contains("NOT MOVING: no answer yet from c"), "{said}");
    sleeper.thaw();
    let answers = "select count(*) from hint_answers
        where request = (select max(id) from hint_requests)";
    until(|| cluster.servers.ask(answers).contains("3").then_some(()));
    let noted = asked.run(&["audit", "list", "-o", "json"]);
    let noted: Value = serde_json::from_str(&noted).unwrap();
    let noted = noted["items"].as_array().unwrap();
    let rows = noted
        .iter()
        .filter(|row| row["operation"] == "lanes rebuild");
    let silent: Vec<_> = rows.map(|row| &row["details"]["silent"]).collect();
    assert_eq!(silent, [&json!(["c"]), &json!([])], "a look is not noted");

    asked.run(&["lanes", "resume", "--all"]);
    let mut reader = Client::new(asked.addr, &cluster.read_key);
    checker::settle(&mut reader, &[HOOK], HEAL_MAX).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgres_is_gone_events_are_refused_and_afterwards_everything_goes_on() {
    // Its guard ends it with this process.
    let postgres = Box::leak(Box::new(Server::start()));
    let cluster = Cluster::start(postgres);
    let (load, senders) = cluster.load();
    for _ in 0..2 {
        postgres.kill();
        load.is_hit();
        postgres.start_again();
        load.goes_on();
    }
    cluster.judge(load, senders).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_gone_or_comes_back_empty_is_missed_by_no_event() {
    let cluster = Cluster::start(postgres::shared());
    let (load, senders) = cluster.load();
    let boot = cluster.boot();
    cluster.servers.redis.kill();
    load.goes_on();
    cluster.servers.redis.start_empty();
    until(|| (!cluster.boot().is_empty()).then_some(()));
    assert_ne!(cluster.boot(), boot);
    until(|| (cluster.claims() == cluster.epochs()).then_some(()));
    cluster.judge(load, senders).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_that_a_redis_cluster_moves_to_another_of_its_nodes_are_followed() {
    let sharded = Sharded::start();
    let redis = Arc::clone(&sharded.nodes[0].0);
    let cluster = Cluster::on(Servers::sharing(postgres::shared(), redis));
    let (load, senders) = cluster.load();
    for _ in 0..3 {
        let owner = sharded.reshard();
        // Nodes come here now: with each turn they run a script.
        let scripts = || {
            let said = owner.ask(&["INFO", "commandstats"]);
            said.into_iter()
                .find(|line| line.starts_with("cmdstat_evalsha:"))
        };
        let before = scripts();
        load.goes_on();
        until(|| (scripts() != before).then_some(()));
        load.goes_on();
    }
    cluster.judge(load, senders).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_that_are_wiped_are_found_again() {
    let cluster = Cluster::start(postgres::shared());
    let (load, senders) = cluster.load();
    for _ in 0..5 {
        let boot = cluster.boot();
        cluster.servers.redis.ask(&["FLUSHALL"]);
        until(|| Some(cluster.boot()).filter(|now| !now.is_empty() && *now != boot));
        load.goes_on();
    }
    until(|| (cluster.claims() == cluster.epochs()).then_some(()));
    cluster.judge(load, senders).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_knows_what_was_long_ago_is_told_what_is() {
    let mut cluster = Cluster::start(postgres::shared());
    let (load, senders) = cluster.load();
    let old = cluster.claims();
    cluster.servers.redis.keep();
    cluster.stop(0);
    cluster.restart(0);
    cluster.spread();
    until(|| (cluster.claims() == cluster.epochs()).then_some(()));
    assert_ne!(cluster.claims(), old, "lanes were taken since");
    cluster.servers.redis.kill();
    cluster.servers.redis.start_older();
    until(|| (cluster.claims() == cluster.epochs()).then_some(()));
    load.goes_on();
    cluster.judge(load, senders).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_replaced_one_by_one_and_no_sender_has_to_wait() {
    let mut cluster = Cluster::start(postgres::shared());
    let (load, senders) = cluster.load();
    for node in 0..NAMES.len() {
        let epoch = cluster.epoch();
        cluster.stop(node);
        assert!(cluster.epoch() > epoch, "lanes were taken");
        cluster.restart(node);
        cluster.spread();
        load.goes_on();
    }
    let slowest = *load.slowest.lock();
    assert!(slowest < PATIENCE, "an event had to wait for {slowest:?}");
    cluster.judge(load, senders).await;
}

/// Time limit for a node to find that it must not start, except for leases that it waits for.
const REFUSAL_MAX: Duration = Duration::from_secs(12);

/// Starts a node that must end at once, and gives what it says: one line that has all of `words`, and
/// no password.
fn refused(home: &Home, options: &[&str], words: &[&str]) {
    let serve = ["serve", "--listen", "127.0.0.1:0", "--log", "short"];
    let mut command = home.command(&[&serve[..], options].concat());
    let began = Instant::now();
    let Output { status, stderr, .. } = ended(&mut command);
    let said = String::from_utf8(stderr).unwrap();
    assert!(!status.success(), "{options:?}: {said}");
    assert!(began.elapsed() < REFUSAL_MAX, "{options:?}: {said}");
    assert!(
        !said.contains("secret") && !said.contains("panicked"),
        "{said}"
    );
    let errors: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("error"))
        .collect();
    let [error] = errors[..] else {
        panic!("{options:?}: not one error: {said}");
    };
    for word in words {
        assert!(said.contains(word), "{options:?}: no {word:?} in {error}");
    }
}

#[test]
fn a_second_node_without_redis_is_refused_and_the_first_goes_on() {
    let servers = Servers::on(postgres::shared());
    let first = Home::of(&servers, "first");
    let _daemon = first.start();
    let second = Home::new(Setup::Embedded);
    let options = ["--database", &servers.url(), "--node", "second"];
    refused(
        &second,
        &options,
        &["node first already runs on this database", "--redis"],
    );
    first.run(&["hooks", "create", "hello"]);
}

#[test]
fn a_node_with_redis_beside_one_without_is_refused() {
    let servers = Servers::on(postgres::shared());
    let first = Home::of(&servers, "first");
    let alone = first.spawn_with(&["--database", &servers.url()]);
    let first = first.ready(alone);
    let second = Home::new(Setup::Embedded);
    let (database, redis) = (servers.url(), servers.redis.url());
    let options = [
        "--database",
        &database,
        "--redis",
        &redis,
        "--node",
        "second",
    ];
    refused(&second, &options, &["node first already runs", "memory"]);
    drop(first);
}

#[test]
fn two_databases_that_share_one_redis_are_refused() {
    let servers = Servers::on(postgres::shared());
    let first = Home::of(&servers, "first");
    let _daemon = first.start();
    let others = Servers::sharing(postgres::shared(), Arc::clone(&servers.redis));
    let second = Home::new(Setup::Embedded);
    let options = ["--database", &others.url(), "--redis", &others.redis.url()];
    refused(&second, &options, &["Redis", "database"]);
}

#[test]
fn servers_that_cannot_be_used_are_named_in_one_line_without_a_password() {
    let home = Home::new(Setup::Embedded);
    let servers = Servers::on(postgres::shared());
    let database = servers.url();
    let nobody = "127.0.0.1:1";
    let postgres = format!("postgres://u:secret@{nobody}/n");
    refused(
        &home,
        &["--database", &postgres],
        &[nobody, "cannot be reached"],
    );
    let missing = servers.postgres.url("postgres", "nothing_here");
    refused(
        &home,
        &["--database", &missing],
        &["no database nothing_here"],
    );
    refused(
        &home,
        &["--database", "mysql://u:secret@h/n"],
        &["postgres://"],
    );

    let redis = |url: &str, words: &[&str]| {
        refused(&home, &["--database", &database, "--redis", url], words);
    };
    redis(&format!("redis://u:secret@{nobody}"), &[nobody]);
    redis("http://u:secret@h", &["redis://"]);
    servers
        .redis
        .ask(&["CONFIG", "SET", "requirepass", "other"]);
    redis(&servers.redis.url(), &["password"]);
    redis(
        &format!("{}?pass=secret", servers.redis.url()),
        &["password"],
    );
    let alone = ["--redis", "redis://u:secret@h"];
    refused(&home, &alone, &["--database"]);
}
