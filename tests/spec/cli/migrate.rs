//! From a file to a server: everything is there afterwards, and goes on as if nothing had been.

use std::process::Output;
use std::sync::Arc;

use hooklane::store::{Database, Store};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::daemon::{Home, Servers, Setup};
use super::postgres;
use super::world::{Ask, World, until};

const HOOKS: &str = "[[hooks]]\nname = 'orders'\nreduce = 'picky.js'\norder_by = 'body:/account'\n\
    [[hooks]]\nname = 'plain'\nreduce = 'latest'\n[[hooks]]\nname = 'bare'\n\
    [[hooks]]\nname = 'held'\nreduce = 'latest'\nversion_by = '/v'\nreorder_window = '1h'\n";

const PICKY_JS: &str = "export default function reduce(state, event) {\n\
    if (event.body.bad) throw new Error('no good');\n\
    return { n: (state?.n ?? 0) + 1, last: event.seq };\n}\n";

const ODD: &str = "tab\\t\u{e9}\u{4e16} back\\\\slash \\u0000 nul, quote\\\" and a line\\nend";

/// A file with streams, repeats, a held cursor, a paused lane and a body that is no text.
fn filled() -> World {
    let world = World::at(Home::new(Setup::Embedded), &[("picky.js", PICKY_JS)], HOOKS);
    world
        .home
        .run(&["namespaces", "create", "acme", "--lanes", "3"]);
    for n in 0..40 {
        let account = format!("s{}", n % 7);
        let body = json!({"account": account, "n": n}).to_string();
        world.accepted("orders", body);
    }
    world.accepted("orders", format!(r#"{{"account":"odd","text":"{ODD}"}}"#));
    world.accepted("plain", [0_u8, 255, b'\\', b'\t', b'\n', 7]);
    world.accepted("bare", "x");
    world.accepted("orders", r#"{"account":"bad","bad":true}"#);
    world.accepted("orders", r#"{"account":"bad"}"#);
    world.held("orders/bad");
    world.state("orders/s0", 6);
    world.state("orders/odd", 1);
    let once = Ask::post("plain")
        .key(&world.write)
        .header("idempotency-key", "one");
    assert_eq!(world.ask(&once.body("first")).status, 202);
    world.state("plain", 2);
    world.accepted("held", r#"{"v":2}"#);
    world.accepted("held", r#"{"v":1}"#);
    world.home.run(&["lanes", "pause", "2", "--reason", "move"]);
    world
}

fn migrate(home: &Home, servers: &Servers, more: &[&str]) -> Output {
    let (from, to) = (home.data().display().to_string(), servers.url());
    let args = [&["migrate", "--from", &from, "--to", &to], more].concat();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hooklane"));
    command.args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn everything_moves_and_goes_on_where_it_was() {
    everything_moves(&Servers::on(postgres::shared()));
}

/// To these servers.
pub fn everything_moves(servers: &Arc<Servers>) {
    let mut world = filled();
    let busy = migrate(&world.home, servers, &["--yes"]);
    assert_eq!(
        busy.status.code(),
        Some(7),
        "a daemon has the directory: {}",
        said(&busy)
    );
    world.kill();
    assert_eq!(
        migrate(&world.home, servers, &["--dry-run"]).status.code(),
        Some(0)
    );
    assert_eq!(
        migrate(&world.home, servers, &[]).status.code(),
        Some(2),
        "it would ask"
    );

    let file = Connection::open(world.home.data().join("hooklane.db")).unwrap();
    file.execute_batch("insert into erasures (stream, node, asked_at) values (99, '', 0)")
        .unwrap();
    let early = migrate(&world.home, servers, &["--yes"]);
    assert_eq!(early.status.code(), Some(7), "{}", said(&early));
    assert!(said(&early).contains("erased streams"), "{}", said(&early));
    file.execute_batch("delete from erasures").unwrap();
    drop(file);

    let moved = migrate(&world.home, servers, &["--yes"]);
    assert_eq!(moved.status.code(), Some(0), "{}", said(&moved));
    let proof = "verified: 11 streams, 46 events, 10 cursors";
    assert!(said(&moved).contains(proof), "{}", said(&moved));
    let again = migrate(&world.home, servers, &["--yes"]);
    assert!(said(&again).contains("already moved"), "{}", said(&again));
    let refused = world.home.command(&["serve"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(7), "{}", said(&refused));
    assert!(
        said(&refused).contains("moved to postgres://"),
        "{}",
        said(&refused)
    );

    let there = World {
        home: Home::of(servers, "a"),
        write: world.write.clone(),
        read: world.read.clone(),
        admin: world.admin.clone(),
        daemon: None,
        may_complain: true,
    };
    let mut there = there;
    there.restart();
    assert_eq!(there.state("orders/s0", 6), json!({"n": 6, "last": 6}));
    let text = there.get("/v1/hooks/orders/events?stream=odd").json();
    let sent = format!(r#"{{"account":"odd","text":"{ODD}"}}"#);
    assert_eq!(text["items"][0]["body"], sent);
    let stored = there.accepted("orders", r#"{"account":"s0"}"#);
    assert_eq!(stored["seq"], 7, "seqs go on");
    assert_eq!(there.state("orders/s0", 7), json!({"n": 7, "last": 7}));
    assert_eq!(there.held("orders/bad")["behind"], 2);
    let once = Ask::post("plain")
        .key(&there.write)
        .header("idempotency-key", "one");
    let repeat = there.ask(&once.body("first"));
    assert_eq!(
        (repeat.status, repeat.json()["seq"].clone()),
        (200, json!(2))
    );
    let new = there.accepted("orders", r#"{"account":"new"}"#);
    assert_eq!(new["seq"], 1, "a new stream gets a number of its own");
    there.accepted("held", r#"{"v":3}"#);
    there
        .home
        .run(&["hooks", "edit", "held", "--reorder-window", "none"]);
    let held = until(|| {
        let held = there.get("/v1/hooks/held/events").json();
        Some(held["items"].as_array()?.clone()).filter(|held| held.len() == 3)
    });
    let held: Vec<_> = held.iter().map(|event| event["body"].clone()).collect();
    assert_eq!(held, [r#"{"v":1}"#, r#"{"v":2}"#, r#"{"v":3}"#]);
    let lanes = there.admin("GET", "/v1/admin/lanes", &Value::Null).json();
    let state = until(|| {
        let lanes = there.admin("GET", "/v1/admin/lanes", &Value::Null).json();
        Some(lanes["items"][2]["state"].clone()).filter(|state| *state == "paused")
    });
    assert_eq!(
        (state, &lanes["items"][2]["reason"]),
        (json!("paused"), &json!("move"))
    );
    let spaces = there
        .admin("GET", "/v1/admin/namespaces", &Value::Null)
        .json();
    assert_eq!(spaces["items"].as_array().unwrap().len(), 2);
}

#[test]
fn what_was_broken_off_goes_on_and_is_not_served_before() {
    let mut world = filled();
    world.kill();
    let servers = Servers::on(postgres::shared());
    assert_eq!(
        migrate(&world.home, &servers, &["--yes"]).status.code(),
        Some(0)
    );
    // As a crash in the middle of the events leaves it.
    servers.ask("delete from moves where name = 'finished'");
    servers.ask("delete from events where stream > 3");
    servers.ask("update moves set value = 3 where name = 'events'");
    let home = Home::of(&servers, "a");
    let mut refused = home.command(&["serve", "--database", &servers.url()]);
    let refused = refused
        .args(["--redis", &servers.redis.url()])
        .output()
        .unwrap();
    assert!(
        said(&refused).contains("run hooklane migrate again"),
        "{}",
        said(&refused)
    );
    servers.ask("delete from moves where name = 'finished'");
    // Its streams were numbered again by the part that is repeated; nothing is there twice.
    let moved = migrate(&world.home, &servers, &["--yes"]);
    assert_eq!(moved.status.code(), Some(0), "{}", said(&moved));
    assert!(said(&moved).contains("46 events"), "{}", said(&moved));
}

#[test]
fn a_row_that_differs_is_found_and_an_own_database_is_not_overwritten() {
    let mut world = filled();
    world.kill();
    let servers = Servers::on(postgres::shared());
    assert_eq!(
        migrate(&world.home, &servers, &["--yes"]).status.code(),
        Some(0)
    );
    servers.ask("update events set body = 'other' where stream = 5 and seq = 2");
    let found = migrate(&world.home, &servers, &["--yes"]);
    assert_eq!(found.status.code(), Some(7));
    assert!(
        said(&found).contains("stream 5 is not the same"),
        "{}",
        said(&found)
    );

    let mut other = World::new(Setup::Production, &[("picky.js", PICKY_JS)], HOOKS);
    other.accepted("plain", "x");
    let theirs = other.home.servers.clone().unwrap();
    let live = migrate(&world.home, &theirs, &["--yes"]);
    assert!(
        said(&live).contains("a node runs on the target"),
        "{}",
        said(&live)
    );
    other
        .daemon
        .take()
        .unwrap()
        .terminate(std::time::Duration::from_secs(10));
    let own = migrate(&world.home, &theirs, &["--yes"]);
    assert_eq!(own.status.code(), Some(7));
    assert!(said(&own).contains("has hooks already"), "{}", said(&own));
}

#[test]
fn no_column_of_an_event_or_a_cursor_may_differ() {
    let mut world = filled();
    world.kill();
    let servers = Servers::on(postgres::shared());
    let moved = migrate(&world.home, &servers, &["--yes"]);
    assert_eq!(moved.status.code(), Some(0), "{}", said(&moved));
    servers.ask("create table kept_events as select * from events");
    servers.ask("create table kept_cursors as select * from cursors");
    let one_event = "stream = 5 and seq = 2";
    let one_cursor = "(stream, handler) = (select min(stream), min(handler) from cursors where state is not null)";
    for (table, row, change) in [
        ("events", one_event, "id = decode(repeat('01', 16), 'hex')"),
        ("events", one_event, "received_at = received_at + 1"),
        ("events", one_event, "dedupe_key = 'x'"),
        ("events", one_event, "headers = headers || ' '"),
        (
            "events",
            one_event,
            "body = overlay(body placing '~' from 1)",
        ),
        ("cursors", one_cursor, "era = era + 1"),
        ("cursors", one_cursor, "state = '0'"),
        (
            "cursors",
            one_cursor,
            "chain = decode(repeat('01', 32), 'hex')",
        ),
        ("cursors", one_cursor, "condition = 'held'"),
    ] {
        let changed = format!("update {table} set {change} where {row} returning 1");
        assert_eq!(servers.ask(&changed).len(), 1, "{change}");
        let found = migrate(&world.home, &servers, &["--yes"]);
        assert_eq!(found.status.code(), Some(7), "{change}");
        assert!(said(&found).contains("is not the same"), "{}", said(&found));
        servers.ask(&format!("delete from {table}"));
        servers.ask(&format!("insert into {table} select * from kept_{table}"));
    }
    let again = migrate(&world.home, &servers, &["--yes"]);
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
}

#[test]
fn no_table_is_forgotten() {
    let mut world = filled();
    world.kill();
    let db = Connection::open(world.home.data().join("hooklane.db")).unwrap();
    let mut tables = db
        .prepare("select name from sqlite_master where type = 'table' order by name")
        .unwrap();
    let tables = tables.query_map([], |row| row.get(0)).unwrap();
    let tables: Vec<String> = tables.map(Result::unwrap).collect();
    let moved = [
        "alerts",
        "audit",
        "cursors",
        "checkpoints",
        "dead_letters",
        "deliveries",
        "handlers",
        "hooks",
        "keys",
        "lane_sets",
        "lanes",
        "log",
        "marks",
        "namespaces",
        "normals",
        "rejections",
        "secret_uses",
        "streams",
        "waiting",
    ];
    // Tables that are computed again, or concern a running daemon.
    let left = [
        "_sqlx_migrations",
        "counters",
        "erasures",
        // Of the places in the file; events get new ones.
        "feed_floors",
        "hint_answers",
        "hint_requests",
        "in_flight",
        "log_ids",
        "log_index",
        // Of a server that failed over.
        "lost_events",
        "moves",
        "nodes",
        "rebuilds",
        "shadows",
        // Measured anew.
        "sizes",
        "sqlite_sequence",
    ];
    for table in tables {
        let is_known = moved.contains(&table.as_str()) || left.contains(&table.as_str());
        assert!(is_known, "what becomes of {table} when a file is moved?");
    }
}

/// Events that came in meanwhile would be on one side only.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_not_at_its_end_keeps_daemons_and_commands_off_the_file() {
    let mut world = filled();
    world.kill();
    let servers = Servers::on(postgres::shared());
    let database: Database = servers.url().parse().unwrap();
    let tables = Store::open(database, Box::new(|_| {})).await.unwrap();
    tables.close().await;
    servers.ask(
        "create function fail() returns trigger language plpgsql
         as $$ begin raise exception 'no more'; end $$",
    );
    servers.ask("create trigger fail before insert on events execute function fail()");
    let begun = migrate(&world.home, &servers, &["--yes"]);
    assert_eq!(begun.status.code(), Some(7), "{}", said(&begun));
    for command in [&["serve"][..], &["hooks", "list"]] {
        let refused = world.home.command(command).output().unwrap();
        assert_eq!(refused.status.code(), Some(7), "{}", said(&refused));
        for word in [
            "being moved to postgres://",
            "go on",
            "give up",
            "moving-to",
        ] {
            assert!(said(&refused).contains(word), "{word}: {}", said(&refused));
        }
    }
    servers.ask("drop trigger fail on events");
    let moved = migrate(&world.home, &servers, &["--yes"]);
    assert_eq!(moved.status.code(), Some(0), "{}", said(&moved));
    assert!(!world.home.data().join("moving-to").exists());

    // Given up instead.
    let data = world.home.data();
    std::fs::rename(data.join("moved-to"), data.join("moving-to")).unwrap();
    std::fs::remove_file(data.join("moving-to")).unwrap();
    world.restart();
    world.state("orders/s0", 6);
}

#[test]
fn a_move_that_is_refused_before_it_began_keeps_nobody_off() {
    let mut world = filled();
    world.kill();
    let servers = Servers::on(postgres::shared());
    let other = Home::of(&servers, "b");
    let _daemon = other.start();
    let refused = migrate(&world.home, &servers, &["--yes"]);
    assert_eq!(refused.status.code(), Some(7), "{}", said(&refused));
    world.restart();
}
