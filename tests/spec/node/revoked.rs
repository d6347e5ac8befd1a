//! Keys that are revoked or expire: no request and no answer that is under way outlives them by more than two
//! seconds, on any node, whatever happens to the node or to its way to the database.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use super::daemon::{Home, Servers, Setup};
use super::postgres;
use super::slow::Far;
use super::world::{Ask, Watcher, World, encoded, send, until, within};

const HOOKS: &str = "[[hooks]]\nname = 'orders'\nreduce = 'count'\norder_by = 'body:/account'\n";

/// Time for which access may outlive its end, plus an allowance for a busy machine.
const REVOKED_MAX: Duration = Duration::from_secs(2);
const BUSY: Duration = Duration::from_secs(8);

fn world(setup: Setup) -> World {
    World::at(Home::new(setup), &[], HOOKS)
}

/// A key of a kind for all hooks, with what is added.
fn key(home: &Home, kind: &str, more: &[&str]) -> String {
    let given = ["keys", "create", "--type", kind, "--name", "short"];
    let hooks: &[&str] = match kind {
        "admin" => &[],
        _ => &["--all-hooks"],
    };
    home.run(&[&given, hooks, more].concat())
}

/// The id of a key.
fn id(key: &str) -> String {
    format!("k_{}", &key["hl_w_".len()..][..8])
}

fn revoke(home: &Home, key: &str) {
    home.run(&["keys", "revoke", &id(key), "--yes"]);
}

fn post(home: &Home, key: &str) -> u16 {
    let ask = Ask::post("orders").key(key).body(r#"{"account":"a"}"#);
    send(home.addr, &ask.bytes()).status
}

/// Answers that do not end: their paths, and the kind of key for each.
const LONG: [(&str, &str); 4] = [
    ("read", "/v1/hooks/orders/watch?stream=a"),
    ("admin", "/v1/admin/events/tail"),
    ("read", "/v1/admin/snapshot/live"),
    ("admin", "/v1/hooks/orders/watch?stream=a"),
];

/// Ends keys by `end` while answers are open and events come, and says when all have ended.
fn all_end(world: &World, more: &[&str], end: impl Fn(&str)) {
    world.accepted("orders", r#"{"account":"a"}"#);
    world.state("orders/a", 1);
    let keys: Vec<_> = LONG
        .iter()
        .map(|(kind, _)| key(&world.home, kind, more))
        .collect();
    let has_ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let open = |(key, (_, path)): (&String, &'static (&'static str, &'static str))| {
            let mut watcher = Watcher::new(world.home.addr, path, key);
            scope.spawn(move || {
                while watcher.next().is_some() {}
                (*path, Instant::now(), watcher.has_ended)
            })
        };
        let open: Vec<_> = keys.iter().zip(&LONG).map(open).collect();
        scope.spawn(|| {
            while !has_ended.load(Ordering::Relaxed) {
                world.post("orders", r#"{"account":"a"}"#);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        keys.iter().for_each(|key| end(key));
        let ended = Instant::now();
        for answer in open {
            let (path, at, is_whole) = answer.join().unwrap();
            let took = at.saturating_duration_since(ended);
            assert!(took < REVOKED_MAX + BUSY, "{path} went on for {took:?}");
            assert!(is_whole, "{path} broke off");
        }
        has_ended.store(true, Ordering::Relaxed);
    });
}

fn every_open_answer_ends_with_its_key(setup: Setup) {
    let world = world(setup);
    all_end(&world, &[], |key| revoke(&world.home, key));
}

fn every_open_answer_ends_when_its_key_expires(setup: Setup) {
    let world = world(setup);
    // Longer than it takes to open all of them on a busy machine.
    all_end(&world, &["--expires", "15s"], |key| {
        let path = "/v1/hooks/orders/state?stream=a";
        let expired = within(Duration::from_secs(60), || {
            let reply = send(world.home.addr, &Ask::new("GET", path).key(key).bytes());
            (reply.status == 401).then_some(())
        });
        assert!(expired.is_some(), "a key that does not expire");
    });
}

fn who_waits_for_a_position_waits_no_longer_than_his_key_is_good(setup: Setup) {
    let world = world(setup);
    let reader = key(&world.home, "read", &[]);
    let path = format!(
        "/v1/hooks/orders/state?stream={}&min_seq=9&wait=60s",
        encoded("a")
    );
    let reply = std::thread::scope(|scope| {
        let ask = Ask::new("GET", &path).key(&reader);
        let waits = scope.spawn(move || (send(world.home.addr, &ask.bytes()), Instant::now()));
        revoke(&world.home, &reader);
        let ended = Instant::now();
        let (reply, at) = waits.join().unwrap();
        let took = at.saturating_duration_since(ended);
        assert!(took < REVOKED_MAX + BUSY, "it waited for {took:?}");
        reply
    });
    assert_eq!(
        (reply.status, &*reply.code()),
        (401, "unauthorized"),
        "{reply:?}"
    );
}

fn a_key_that_is_revoked_while_its_body_comes_stores_nothing(setup: Setup) {
    let world = world(setup);
    let writer = key(&world.home, "write", &[]);
    let body = br#"{"account":"slow"}"#;
    let ask = Ask::post("orders").key(&writer).body(body).bytes();
    let (head, rest) = ask.split_at(ask.len() - 4);
    let mut sender = TcpStream::connect(world.home.addr).unwrap();
    sender.write_all(head).unwrap();
    // Its head is read, as the next request of another connection is answered.
    assert_eq!(post(&world.home, &writer), 202);
    revoke(&world.home, &writer);
    sender.write_all(rest).unwrap();
    let mut answer = String::new();
    sender.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

fn revoking_does_not_mind_what_else_has_changed(setup: Setup) {
    let world = world(setup);
    let keys: Vec<_> = (0..6).map(|_| key(&world.home, "write", &[])).collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for verb in ["pause", "resume"] {
                    let path = format!("/v1/admin/hooks/orders/{verb}");
                    world.admin("POST", &path, &json!({}));
                }
            }
        });
        for key in &keys {
            let revoked = world
                .home
                .command(&["keys", "revoke", &id(key), "--yes"])
                .output();
            let revoked = revoked.unwrap();
            if !revoked.status.success() {
                is_over.store(true, Ordering::Relaxed);
                panic!("{}", String::from_utf8_lossy(&revoked.stderr));
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

on_both_setups! {
    every_open_answer_ends_with_its_key
    every_open_answer_ends_when_its_key_expires
    who_waits_for_a_position_waits_no_longer_than_his_key_is_good
    a_key_that_is_revoked_while_its_body_comes_stores_nothing
    revoking_does_not_mind_what_else_has_changed
    a_new_configuration_is_acted_by_while_it_changes_all_the_time
}

/// Pauses and resumes a hook as quickly as it can, while `body` runs.
fn while_it_changes<T>(world: &World, body: impl FnOnce() -> T) -> T {
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for hook in ["left", "right"] {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    for verb in ["pause", "resume"] {
                        let path = format!("/v1/admin/hooks/{hook}/{verb}");
                        world.admin("POST", &path, &json!({}));
                    }
                }
            });
        }
        let _over = Over(&is_over);
        body()
    })
}

const CHANGING: &str = "[[hooks]]\nname = 'orders'\nreduce = 'count'\norder_by = 'body:/account'\n\
    [[hooks]]\nname = 'left'\nreduce = 'count'\n[[hooks]]\nname = 'right'\nreduce = 'count'\n";

fn a_new_configuration_is_acted_by_while_it_changes_all_the_time(setup: Setup) {
    let world = World::at(Home::new(setup), &[], CHANGING);
    let servers = world.home.servers.as_ref();
    let far = servers.map(|servers| Home::of(servers, "b"));
    let _other = far.as_ref().map(Home::start);
    let home = far.as_ref().unwrap_or(&world.home);
    while_it_changes(&world, || {
        let writer = key(&world.home, "write", &[]);
        until(|| (post(home, &writer) == 202).then_some(()));
        revoke(&world.home, &writer);
        let revoked = Instant::now();
        until(|| (post(home, &writer) == 401).then_some(()));
        let took = revoked.elapsed();
        assert!(
            took < REVOKED_MAX + BUSY,
            "a revoked key worked for {took:?}"
        );
        world.admin("POST", "/v1/admin/hooks/orders/pause", &json!({}));
        let shown = || {
            world
                .admin("GET", "/v1/admin/hooks/orders", &Value::Null)
                .json()
        };
        until(|| shown()["paused"].is_object().then_some(()));
    });
}

/// Two nodes: the first reaches the database at once, the second by a way that may take its time.
struct Pair {
    near: World,
    far: Home,
    way: Far,
}

impl Pair {
    fn start() -> (Self, super::daemon::Daemon) {
        let server = postgres::shared();
        let way = Far::to(server);
        let near = World::at(Home::new(Setup::Production), &[], CHANGING);
        let servers = near.home.servers.as_ref().unwrap();
        let servers = Servers {
            postgres: server,
            database: servers.database.clone(),
            redis: servers.redis.clone(),
            door: Some(way.path().display().to_string()),
        };
        let far = Home::of(&std::sync::Arc::new(servers), "b");
        let daemon = far.start();
        (Self { near, far, way }, daemon)
    }
}

#[test]
fn a_node_that_stood_still_takes_nothing_by_a_key_that_was_revoked_meanwhile() {
    let (pair, daemon) = Pair::start();
    let writer = key(&pair.near.home, "write", &[]);
    until(|| (post(&pair.far, &writer) == 202).then_some(()));
    daemon.freeze();
    revoke(&pair.near.home, &writer);
    // The promise concerns requests sent at least two seconds later.
    std::thread::sleep(REVOKED_MAX);
    let ask = Ask::post("orders")
        .key(&writer)
        .body(r#"{"account":"late"}"#);
    let senders: Vec<_> = (0..20)
        .map(|_| {
            let mut sender = TcpStream::connect(pair.far.addr).unwrap();
            sender.write_all(&ask.bytes()).unwrap();
            sender
        })
        .collect();
    daemon.thaw();
    for mut sender in senders {
        let mut answer = String::new();
        sender.read_to_string(&mut answer).unwrap();
        assert!(!answer.starts_with("HTTP/1.1 202"), "{answer}");
    }
    assert_eq!(post(&pair.far, &writer), 401);
}

#[test]
fn a_revoked_key_works_for_two_seconds_at_most_where_the_database_is_far_away() {
    let (pair, _daemon) = Pair::start();
    pair.way.is_away(Duration::from_millis(100));
    while_it_changes(&pair.near, || {
        let writer = key(&pair.near.home, "write", &[]);
        until(|| (post(&pair.far, &writer) == 202).then_some(()));
        revoke(&pair.near.home, &writer);
        std::thread::sleep(REVOKED_MAX);
        // A request that is sent now is not taken, however busy the machine is.
        for _ in 0..50 {
            assert_ne!(post(&pair.far, &writer), 202);
        }
        until(|| (post(&pair.far, &writer) == 401).then_some(()));
    });
}

#[test]
fn a_configuration_that_takes_long_to_read_is_named_in_the_log() {
    let (pair, _daemon) = Pair::start();
    pair.way.is_away(Duration::from_millis(400));
    key(&pair.near.home, "write", &[]);
    let words = "the configuration took long to read";
    until(|| pair.far.log().contains(words).then_some(()));
    pair.way.is_away(Duration::ZERO);
}

#[test]
fn where_the_database_does_not_answer_a_key_is_neither_good_nor_bad() {
    let (pair, _daemon) = Pair::start();
    let reader = key(&pair.near.home, "read", &[]);
    let path = "/v1/hooks/orders/streams";
    let ask = Ask::new("GET", path).key(&reader).bytes();
    until(|| (send(pair.far.addr, &ask).status == 200).then_some(()));
    let watch = "/v1/hooks/orders/watch?stream=a";
    let mut watcher = Watcher::new(pair.far.addr, watch, &reader);
    assert!(watcher.next().is_some(), "the state as it is");
    pair.way.is_away(Duration::from_secs(20));
    let refused = until(|| {
        let reply = send(pair.far.addr, &ask);
        (reply.status == 503 && reply.code() == "configuration_stale").then_some(reply)
    });
    assert_eq!(refused.header("retry-after"), "1");
    // Without a key nothing has to be looked up.
    assert_eq!(
        send(pair.far.addr, &Ask::new("GET", path).bytes()).status,
        401
    );
    assert!(watcher.next().is_none() && watcher.has_ended, "it went on");
    pair.way.is_away(Duration::ZERO);
    until(|| (send(pair.far.addr, &ask).status == 200).then_some(()));
}
