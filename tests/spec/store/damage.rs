//! Damage: a changed byte is an error of that event, a malformed page the end of the node.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpStream;
use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::daemon::{Home, Setup};
use super::world::{Ask, World, until};

const HOOKS: &str = "[[hooks]]\nname = 'orders'\nreduce = 'sum.js'\non_error = 'skip'\n\
    [[hooks]]\nname = 'other'\nreduce = 'latest'\n";

const SUM: &str = "export default (state, event) => (state ?? 0) + event.body.n;\n";

on_both_setups! {
    a_changed_byte_of_a_body_holds_its_cursor_and_is_an_error_to_readers
    events_from_before_the_checksums_are_taken_as_they_are
}

/// Changes a stored event while no daemon has it.
fn tamper(world: &mut World, in_file: &str, on_server: &str) {
    // Stopped and not killed: then every event is in the index too.
    let mut daemon = world.daemon.take().unwrap();
    daemon.terminate(super::world::PATIENCE).unwrap();
    match &world.home.servers {
        Some(servers) => drop(servers.ask(on_server)),
        None => {
            let file = Connection::open(world.home.data().join("hooklane.db")).unwrap();
            assert!(file.execute(in_file, []).unwrap() > 0);
        }
    }
    world.restart();
}

fn three_events(setup: Setup) -> (World, Vec<Value>) {
    let world = World::at(Home::new(setup), &[("sum.js", SUM)], HOOKS);
    world.home.run(&["hooks", "pause", "orders"]);
    let events = (1..=3).map(|n| world.accepted("orders", json!({"n": n}).to_string()));
    let events = events.collect();
    (world, events)
}

fn a_changed_byte_of_a_body_holds_its_cursor_and_is_an_error_to_readers(setup: Setup) {
    let (mut world, events) = three_events(setup);
    world.may_complain = true;
    let changed = r#"{"n":9}"#;
    tamper(
        &mut world,
        &format!("update log set body = cast('{changed}' as blob) where seq = 2"),
        &format!("update events set body = '{changed}'::bytea where seq = 2"),
    );
    let bad = events[1]["event"].as_str().unwrap();

    let doctor = world
        .home
        .command(&["doctor", "-o", "json"])
        .output()
        .unwrap();
    assert_eq!(doctor.status.code(), Some(3));
    let report = String::from_utf8(doctor.stdout).unwrap();
    assert!(
        report.contains("hash mismatch") && report.contains(bad),
        "{report}"
    );

    world.home.run(&["hooks", "resume", "orders"]);
    let row = world.held("orders");
    assert_eq!((&row["position"], &row["head"]), (&json!(1), &json!(3)));
    let reason = row["reason"].as_str().unwrap();
    assert!(
        reason.contains("at seq 2: hash mismatch"),
        "no policy skips it: {reason}"
    );
    assert_eq!(row["next"], bad);

    for path in [
        "/v1/hooks/orders/events",
        "/v1/hooks/orders/events?after_seq=1",
    ] {
        let reply = world.get(path);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (500, "hash_mismatch")
        );
        assert!(
            reply.json()["error"]["message"]
                .as_str()
                .unwrap()
                .contains(bad)
        );
    }
    let behind = world.get("/v1/hooks/orders/events?after_seq=2").json();
    assert_eq!(
        behind["items"][0]["seq"], 3,
        "the others can be read: {behind}"
    );
    let shown = world.admin("GET", &format!("/v1/admin/events/{bad}"), &Value::Null);
    assert_eq!(
        (shown.status, shown.code().as_str()),
        (500, "hash_mismatch")
    );
    let listed = world
        .home
        .run(&["events", "list", "--hook", "orders", "-o", "names"]);
    assert!(listed.contains(bad), "{listed}");
    world.home.run(&["why", "orders"]);

    // Only somebody who decides so passes it.
    let skip = [
        "streams",
        "skip",
        "orders",
        "--event",
        bad,
        "--yes",
        "--confirm",
        "orders",
    ];
    world.home.run(&skip);
    assert_eq!(world.state("orders", 3), json!(4));
    assert!(world.home.log().contains("hash mismatch"));
}

fn events_from_before_the_checksums_are_taken_as_they_are(setup: Setup) {
    let (mut world, _) = three_events(setup);
    tamper(
        &mut world,
        "update log set checksum = null",
        "update events set checksum = null",
    );
    world.home.run(&["hooks", "resume", "orders"]);
    assert_eq!(world.state("orders", 3), json!(6));
}

/// Headers that are no text any more, and a row that the index takes for another one.
#[test]
fn whatever_of_a_row_is_changed_is_found() {
    for change in [
        "update log set headers = cast(x'7b22ff7d' as text) where seq = 2",
        "update log set received_at = received_at + 1 where seq = 2",
        "update log set id = zeroblob(16) where seq = 2",
        "update log_index set n = n + 1 where seq = 2",
    ] {
        let (mut world, _) = three_events(Setup::Embedded);
        world.may_complain = true;
        tamper(&mut world, change, "");
        world.home.run(&["hooks", "resume", "orders"]);
        let row = world.held("orders");
        assert_eq!(row["position"], 1, "{change}: {row}");
        let reply = world.get("/v1/hooks/orders/events");
        assert_eq!(reply.code(), "hash_mismatch", "{change}");
    }
}

/// The number of the page on which a table begins, and the size of one.
fn first_page(file: &Path, table: &str) -> (u64, u64) {
    let db = Connection::open(file).unwrap();
    let number = |sql: &str, params: &[&str]| -> u64 {
        let params = rusqlite::params_from_iter(params);
        let number: i64 = db.query_row(sql, params, |row| row.get(0)).unwrap();
        number.try_into().unwrap()
    };
    let root = "select rootpage from sqlite_master where name = ?1";
    (number(root, &[table]), number("pragma page_size", &[]))
}

/// Zeroes the page on which a table begins.
fn zero(file: &Path, table: &str) {
    let (page, size) = first_page(file, table);
    let mut file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.seek(SeekFrom::Start((page - 1) * size)).unwrap();
    file.write_all(&vec![0; usize::try_from(size).unwrap()])
        .unwrap();
    file.sync_all().unwrap();
}

/// A node with something in each of its tables, all of it in the file and not in its log.
fn at_rest() -> World {
    let mut world = World::at(Home::new(Setup::Embedded), &[("sum.js", SUM)], HOOKS);
    world.may_complain = true;
    world.accepted("orders", r#"{"n":1}"#);
    world.state("orders", 1);
    let mut daemon = world.daemon.take().unwrap();
    daemon.terminate(super::world::PATIENCE).unwrap();
    world
}

#[test]
fn a_malformed_page_is_refused_at_the_start_by_commands_and_by_the_doctor() {
    for table in ["log", "streams", "cursors"] {
        let world = at_rest();
        zero(&world.home.data().join("hooklane.db"), table);
        for command in [&["serve"][..], &["keys", "list"], &["doctor"]] {
            let output = world.home.command(command).output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(!output.status.success(), "{table} {command:?}: {said}");
            let words = ["malformed", "restore a backup"];
            assert!(
                words.iter().all(|word| said.contains(word)),
                "{table} {command:?}: {said}"
            );
        }
    }
}

#[test]
fn a_file_that_is_no_database_is_refused_in_the_same_words() {
    let world = at_rest();
    let file = world.home.data().join("hooklane.db");
    let mut whole = Vec::new();
    fs::File::open(&file)
        .unwrap()
        .read_to_end(&mut whole)
        .unwrap();
    whole[..16].copy_from_slice(b"not a database!!");
    fs::write(&file, whole).unwrap();
    for command in [&["serve"][..], &["doctor"]] {
        let output = world.home.command(command).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(
            !output.status.success() && said.contains("malformed"),
            "{said}"
        );
    }
}

/// Sends a request to a daemon that may be gone.
fn nudge(world: &World, ask: &Ask) {
    if let Ok(mut stream) = TcpStream::connect(world.home.addr) {
        let _ = stream.write_all(&ask.bytes());
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

/// Each of these is read through another connection: by a reader, by a turn, by the doctor.
#[test]
fn a_node_that_meets_a_malformed_page_while_it_runs_ends_whichever_way_it_is_met() {
    type Meet = fn(&World);
    // None of these is written before it is read, which would put its page right.
    let ways: [(&str, Meet); 3] = [
        ("audit", |world| {
            world.home.command(&["audit", "list"]).output().unwrap();
        }),
        ("cursors", |world| {
            let ask = Ask::post("orders").key(&world.write);
            nudge(world, &ask.body(r#"{"n":1}"#));
        }),
        ("marks", |world| {
            world.home.command(&["doctor"]).output().unwrap();
        }),
    ];
    for (table, meet) in ways {
        let mut world = at_rest();
        world.restart();
        zero(&world.home.data().join("hooklane.db"), table);
        let status = until(|| {
            // A commit has every other connection read its pages again.
            nudge(&world, &Ask::post("other").key(&world.write).body("{}"));
            meet(&world);
            world.daemon.as_mut().unwrap().ended()
        });
        assert!(!status.success(), "{table}");
        let log = world.home.log();
        let words = ["malformed", "restore a backup", "hooklane doctor"];
        assert!(
            words.iter().all(|word| log.contains(word)),
            "{table}: {log}"
        );
    }
}

/// The same on a server, which says so itself.
#[test]
fn a_node_whose_server_meets_a_damaged_page_ends() {
    let mut world = World::at(Home::new(Setup::Production), &[("sum.js", SUM)], HOOKS);
    world.may_complain = true;
    let servers = world.home.servers.clone().unwrap();
    servers.ask(
        "create function damage() returns trigger language plpgsql
         as $$ begin raise exception 'invalid page in block 7' using errcode = 'XX001'; end $$",
    );
    servers.ask("create trigger damage before insert on keys execute function damage()");
    let create = [
        "keys",
        "create",
        "--type",
        "read",
        "--all-hooks",
        "--name",
        "x",
    ];
    let output = world.home.command(&create).output().unwrap();
    assert!(!output.status.success());
    let status = until(|| world.daemon.as_mut().unwrap().ended());
    assert!(!status.success());
    let log = world.home.log();
    assert!(
        log.contains("invalid page") && log.contains("restore a backup"),
        "{log}"
    );
}
