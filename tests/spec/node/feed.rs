//! The feed of a hook, on both set-ups: no event is skipped or repeated and each stream is in order, by pages, long
//! polls and server-sent events, through kills, retention and writers that commit late.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Client, Daemon, Home, Servers, Setup};
use super::postgres;
use super::retention::tamper;
use super::world::{Ask, Watcher, World, until};

const HOOKS: &str = "[[hooks]]\nname = 'orders'\nreduce = 'count'\norder_by = 'body:/account'\n\
    [[hooks]]\nname = 'bare'\n";

/// Time for which a feed may outlive its key, on a busy machine.
const REVOKED_MAX: Duration = Duration::from_secs(10);

const WRITERS: usize = 3;
const ACCOUNTS: usize = 4;

/// Number of kills of the test that kills.
const KILLS: usize = 8;

fn world(setup: Setup) -> World {
    World::at(Home::new(setup), &[], HOOKS)
}

fn post(world: &World, account: &str) -> String {
    let accepted = world.accepted("orders", json!({"account": account}).to_string());
    accepted["event"].as_str().unwrap().to_owned()
}

fn path(after: &str, more: &str) -> String {
    format!("/v1/hooks/orders/feed?after={after}{more}")
}

/// A page that must be an answer.
fn page(world: &World, after: &str, more: &str) -> Value {
    let reply = world.get(&path(after, more));
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

fn ids(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap();
    let id = |item: &Value| item["id"].as_str().unwrap().to_owned();
    items.iter().map(id).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Everything behind a cursor, in pages of `limit`, and the cursor of the end.
fn rest(world: &World, after: &str, limit: usize) -> (Vec<Value>, String) {
    let (mut all, mut after) = (Vec::new(), after.to_owned());
    // The newest events may not be settled yet, so the end counts only after a moment without events.
    let mut quiet = 0;
    while quiet < 3 {
        let page = page(world, &after, &format!("&limit={limit}&wait=300ms"));
        let items = page["items"].as_array().unwrap();
        quiet = if items.is_empty() { quiet + 1 } else { 0 };
        assert!(items.len() <= limit);
        all.extend(items.iter().cloned());
        after = text(&page["next"]);
    }
    (all, after)
}

fn a_reader_gets_each_event_once_and_only_those_of_its_hook(setup: Setup) {
    let world = world(setup);
    let mut sent = Vec::new();
    for round in 0..4 {
        for account in ["a", "b", "c"] {
            sent.push(post(&world, account));
        }
        world.accepted("bare", format!("{round}"));
    }
    let reply = world.ask(&Ask::post("bare").key(&world.write).body([0xff, 0xfe]));
    assert_eq!(reply.status, 202);
    let (all, end) = rest(&world, "", 5);
    let got: Vec<_> = all.iter().map(|event| text(&event["id"])).collect();
    assert_eq!(got, sent, "one after the other, so in this order");
    assert_eq!(all[1]["stream"], "orders/b");
    assert_eq!(all[1]["body"], r#"{"account":"b"}"#);
    assert!(all[1]["headers"].is_object());
    let bare = world.get("/v1/hooks/bare/feed?limit=1000").json();
    let bodies = bare["items"].as_array().unwrap();
    assert_eq!(bodies.last().unwrap()["body_base64"], "//4=");

    // Any event's own cursor goes on behind it.
    let (tail, _) = rest(&world, &text(&all[8]["cursor"]), 1_000);
    assert_eq!(tail, all[9..]);
    // A long poll ends with the next event, not with its time.
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| page(&world, &end, "&wait=60s"));
        std::thread::sleep(Duration::from_millis(300));
        let next = post(&world, "a");
        assert_eq!(ids(&waits.join().unwrap()), [next]);
    });
}

fn a_feed_refuses_foreign_keys_and_cursors(setup: Setup) {
    let world = world(setup);
    post(&world, "a");
    let made = [
        "keys", "create", "--type", "read", "--hook", "bare", "--name", "bare",
    ];
    let other = world.home.run(&made);
    let ask = |path: &str, key: &str| world.ask(&Ask::new("GET", path).key(key));
    assert_eq!(ask(&path("", ""), &other).status, 401);
    assert_eq!(ask("/v1/hooks/bare/feed", &other).status, 200);
    assert_eq!(ask(&path("", ""), &world.write).status, 401);
    for wrong in ["x", "AAAA", "%C3%A9"] {
        let reply = world.get(&path(wrong, ""));
        assert_eq!((reply.status, &*reply.code()), (400, "malformed"));
    }
    assert_eq!(world.get(&path("", "&limit=0")).status, 400);
    assert_eq!(world.get(&path("", "&wait=soon")).status, 400);
    // 24 zero bytes: well-formed, but of no database.
    let reply = world.get(&path(&"A".repeat(32), ""));
    assert_eq!((reply.status, &*reply.code()), (410, "gone"));
    let again = text(&reply.json()["error"]["cursor"]);
    assert_eq!(rest(&world, &again, 10).0.len(), 1);
}

fn watcher(world: &World, key: &str, last: Option<&str>) -> Watcher {
    let ask = Ask::new("GET", "/v1/hooks/orders/feed").key(key);
    let ask = ask.header("accept", "text/event-stream");
    Watcher::of(
        world.home.addr,
        match last {
            Some(last) => ask.header("last-event-id", last),
            None => ask,
        },
    )
}

fn server_sent_events_go_on_where_the_connection_broke(setup: Setup) {
    let mut world = world(setup);
    let first: Vec<_> = (0..3).map(|_| post(&world, "a")).collect();
    let mut watch = watcher(&world, &world.read, None);
    let mut seen: Vec<_> = watch.by_ref().take(2).collect();
    world.kill();
    world.restart();
    let last = text(&seen[1]["cursor"]);
    let mut watch = watcher(&world, &world.read, Some(&last));
    seen.extend(watch.next());
    let later: Vec<_> = (0..2).map(|_| post(&world, "b")).collect();
    seen.extend(watch.by_ref().take(2));
    let got: Vec<_> = seen.iter().map(|event| text(&event["id"])).collect();
    assert_eq!(got, [first, later].concat());
}

fn a_feed_ends_with_its_key(setup: Setup) {
    let world = world(setup);
    let made = [
        "keys",
        "create",
        "--type",
        "read",
        "--all-hooks",
        "--name",
        "short",
    ];
    let key = world.home.run(&made);
    let end = rest(&world, "", 10).1;
    let mut watch = watcher(&world, &key, None);
    let at = std::thread::scope(|scope| {
        let watches = scope.spawn(|| {
            while watch.next().is_some() {}
            Instant::now()
        });
        let polls = scope.spawn(|| {
            let poll = Ask::new("GET", &path(&end, "&wait=60s")).key(&key);
            (world.ask(&poll).status, Instant::now())
        });
        std::thread::sleep(Duration::from_millis(300));
        world.revoke(&key);
        let revoked = Instant::now();
        let (status, polled) = polls.join().unwrap();
        assert_eq!(status, 401);
        polled.max(watches.join().unwrap()) - revoked
    });
    assert!(at < REVOKED_MAX, "it went on for {at:?}");
    assert!(watch.has_ended, "it broke off");
}

fn a_reader_learns_that_retention_removed_what_it_has_not_read(setup: Setup) {
    let world = world(setup);
    for _ in 0..6 {
        post(&world, "a");
    }
    world.state("orders/a", 6);
    let second = page(&world, "", "&limit=2");
    let (all, end) = rest(&world, "", 10);
    assert_eq!(all.len(), 6);
    let days = 40_i64 * 86_400_000;
    let older =
        |table| format!("update {table} set received_at = received_at - {days}, checksum = null");
    tamper(&world.home, &older("log"), &older("events"));
    world
        .home
        .run(&["hooks", "edit", "orders", "--keep", "30d", "--yes"]);
    let after = text(&second["next"]);
    let gone = until(|| Some(world.get(&path(&after, ""))).filter(|reply| reply.status != 200));
    assert_eq!((gone.status, &*gone.code()), (410, "gone"), "{gone:?}");
    // One at the end has missed nothing, and a new one gets what is kept.
    assert!(rest(&world, &end, 10).0.is_empty());
    let new = vec![post(&world, "a")];
    let got = |after: &str| -> Vec<_> {
        let (all, _) = rest(&world, after, 10);
        all.iter().map(|event| text(&event["id"])).collect()
    };
    assert_eq!(got(&end), new);
    assert_eq!(got(""), new);
    assert_eq!(got(&text(&gone.json()["error"]["cursor"])), new);
}

on_both_setups! {
    a_reader_gets_each_event_once_and_only_those_of_its_hook
    a_feed_refuses_foreign_keys_and_cursors
    server_sent_events_go_on_where_the_connection_broke
    a_feed_ends_with_its_key
    a_reader_learns_that_retention_removed_what_it_has_not_read
    each_event_comes_once_and_in_order_through_kills_of_nodes_under_load
}

/// A place is drawn before its transaction is visible. A reader that passed a higher place meanwhile
/// would never see the event.
#[test]
fn a_writer_that_commits_late_is_waited_for() {
    let world = world(Setup::Production);
    let servers = world.home.servers.clone().unwrap();
    let late = "insert into events (stream, seq, id, received_at, headers, body)
          select e.stream, e.seq + 1, '\\x0123456789abcdef0123456789abcdef', e.received_at, '{}', '\\x7b7d'
          from events e join streams s on s.id = e.stream where s.ordering_key = 'slow';
        update streams set head = head + 1 where ordering_key = 'slow';
        select pg_sleep(3)";
    post(&world, "slow");
    let (_, end) = rest(&world, "", 10);
    let quick = std::thread::scope(|scope| {
        let writer = scope.spawn(|| servers.ask(late));
        let writes = "select 1 from pg_stat_activity where query like 'insert into events%' and state = 'active'
            and wait_event = 'PgSleep'";
        until(|| (!servers.ask(writes).is_empty()).then_some(()));
        let quick: Vec<_> = (0..5).map(|_| post(&world, "quick")).collect();
        let early = page(&world, &end, "&wait=500ms");
        assert!(
            ids(&early).is_empty(),
            "it passed an event that is not visible yet"
        );
        writer.join().unwrap();
        quick
    });
    let (all, _) = rest(&world, &end, 3);
    let streams: Vec<_> = all.iter().map(|event| text(&event["stream"])).collect();
    assert_eq!(
        streams
            .iter()
            .filter(|stream| *stream == "orders/slow")
            .count(),
        1
    );
    let got: Vec<_> = all
        .iter()
        .filter(|event| event["stream"] == "orders/quick")
        .collect();
    let got: Vec<_> = got.iter().map(|event| text(&event["id"])).collect();
    assert_eq!(got, quick);
}

/// Two nodes on shared servers, or one on a file, and keys.
struct Nodes {
    homes: Vec<Home>,
    write: String,
    read: String,
}

impl Nodes {
    fn new(setup: Setup) -> (Self, Vec<Daemon>) {
        let homes = match setup {
            Setup::Embedded => vec![Home::new(setup)],
            Setup::Production => {
                let servers = Servers::on(postgres::shared());
                ["a", "b"].map(|name| Home::of(&servers, name)).into()
            }
        };
        let first = homes[0].start();
        homes[0].apply(HOOKS);
        let (write, read) = (homes[0].key("write"), homes[0].key("read"));
        let mut daemons = vec![first];
        daemons.extend(homes[1..].iter().map(Home::start));
        (Self { homes, write, read }, daemons)
    }

    /// Sends events until told to stop, each again until a node has answered. Their ids, by stream, in
    /// the order of sending.
    async fn write(&self, writer: usize, has_ended: &AtomicBool) -> BTreeMap<String, Vec<String>> {
        let mut sent = BTreeMap::<String, Vec<String>>::new();
        let mut node = writer;
        for number in 0.. {
            if has_ended.load(Ordering::Relaxed) {
                break;
            }
            let account = format!("w{writer}-{}", number % ACCOUNTS);
            let body = json!({"account": account, "n": number}).to_string();
            let key = format!("{writer}-{number}");
            let event = loop {
                let home = &self.homes[node % self.homes.len()];
                let mut client = Client::new(home.addr, &self.write);
                client.patience = Duration::from_secs(3);
                match client.post("orders", body.clone().into(), Some(&key)).await {
                    Ok(answer) if matches!(answer.status, 200 | 202) => break answer.json(),
                    _ => node += 1,
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            let ids = sent.entry(format!("orders/{account}")).or_default();
            ids.push(text(&event["event"]));
        }
        sent
    }

    /// Reads page by page from any node that answers, until told to stop and nothing more comes.
    async fn follow(&self, has_ended: &AtomicBool) -> Vec<Value> {
        let (mut all, mut after, mut node, mut quiet) = (Vec::new(), String::new(), 0, 0);
        while quiet < 5 {
            let was_over = has_ended.load(Ordering::Relaxed);
            let home = &self.homes[node % self.homes.len()];
            let ask = Ask::new("GET", &path(&after, "&limit=7&wait=200ms")).key(&self.read);
            let addr = home.addr;
            let reply = tokio::task::spawn_blocking(move || {
                std::panic::catch_unwind(|| super::world::send(addr, &ask.bytes())).ok()
            });
            node += 1;
            let Some(reply) = reply.await.unwrap().filter(|reply| reply.status == 200) else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let page = reply.json();
            let items = page["items"].as_array().unwrap();
            quiet = if was_over && items.is_empty() {
                quiet + 1
            } else {
                0
            };
            all.extend(items.iter().cloned());
            after = text(&page["next"]);
        }
        all
    }
}

fn each_event_comes_once_and_in_order_through_kills_of_nodes_under_load(setup: Setup) {
    let (nodes, mut daemons) = Nodes::new(setup);
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.enable_all().worker_threads(2).build().unwrap();
    let (stop_writing, stop_reading) = (AtomicBool::new(false), AtomicBool::new(false));
    let (sent, seen) = std::thread::scope(|scope| {
        let (nodes, runtime) = (&nodes, &runtime);
        let (stop_writing, stop_reading) = (&stop_writing, &stop_reading);
        let write =
            |writer| scope.spawn(move || runtime.block_on(nodes.write(writer, stop_writing)));
        let writers: Vec<_> = (0..WRITERS).map(write).collect();
        let reader = scope.spawn(move || runtime.block_on(nodes.follow(stop_reading)));
        for kill in 0..KILLS {
            std::thread::sleep(Duration::from_millis(150 + 90 * kill as u64));
            let at = kill % daemons.len();
            let daemon = daemons.remove(at);
            daemon.kill();
            daemons.insert(at, nodes.homes[at].start());
        }
        stop_writing.store(true, Ordering::Relaxed);
        let sent = writers.into_iter().map(|writer| writer.join().unwrap());
        let sent: BTreeMap<_, _> = sent.flatten().collect();
        stop_reading.store(true, Ordering::Relaxed);
        (sent, reader.join().unwrap())
    });
    let mut got = BTreeMap::<String, Vec<String>>::new();
    for event in &seen {
        let ids = got.entry(text(&event["stream"])).or_default();
        ids.push(text(&event["id"]));
        assert_eq!(event["seq"], ids.len(), "a gap, a repeat or another order");
    }
    let once: BTreeSet<_> = seen.iter().map(|event| text(&event["id"])).collect();
    assert_eq!(once.len(), seen.len());
    let accepted: usize = sent.values().map(Vec::len).sum();
    println!("{accepted} events through {KILLS} kills");
    assert!(accepted > 100, "too few events to prove anything");
    assert_eq!(got, sent);
}
