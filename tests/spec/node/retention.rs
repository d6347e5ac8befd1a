//! Events that are kept for some time only, on both set-ups: what goes and what stays, what a fold from
//! the beginning begins with afterwards, and who is told when something cannot go.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::daemon::{Home, Servers, Setup};
use super::postgres;
use super::sink::{Answer, Sink};
use super::world::{Ask, World, encoded, until};

const HOOKS: &str = "[[hooks]]\nname = 'orders'\nreduce = 'first.js'\norder_by = 'body:/account'\n\
    [[hooks]]\nname = 'bare'\n";

/// Sums, and throws when an event is not the one after the last: order is part of the state.
const FIRST_JS: &str = "export default function reduce(state, event) {\n\
    state ??= { sum: 0, last: 0 };\n\
    if (event.body.bad) throw new Error('no good');\n\
    if (event.seq !== state.last + 1) throw new Error(`${event.seq} after ${state.last}`);\n\
    return { sum: state.sum + event.body.n, last: event.seq };\n}\n";

/// The same with another sum.
const SECOND_JS: &str = "export default function reduce(state, event) {\n\
    state ??= { sum: 0, last: 0 };\n\
    if (event.seq !== state.last + 1) throw new Error(`${event.seq} after ${state.last}`);\n\
    return { sum: state.sum + 10 * event.body.n, last: event.seq };\n}\n";

fn world(setup: Setup) -> World {
    let files = [("first.js", FIRST_JS), ("second.js", SECOND_JS)];
    World::at(Home::new(setup), &files, HOOKS)
}

/// Sends `events` events with the number 1 to each of `streams` streams.
fn fill(world: &World, streams: i64, events: i64) {
    let mut last = 0;
    for _ in 0..events {
        for stream in 0..streams {
            let body = json!({"account": format!("s{stream}"), "n": 1});
            last = world.accepted("orders", body.to_string())["seq"]
                .as_i64()
                .unwrap();
        }
    }
    for stream in 0..streams {
        world.state(&format!("orders/s{stream}"), last);
    }
}

/// Runs a statement in the database of a daemon that runs.
pub fn tamper(home: &Home, in_file: &str, on_server: &str) {
    match &home.servers {
        Some(servers) => drop(servers.ask(on_server)),
        None => {
            let db = rusqlite::Connection::open(home.data().join("hooklane.db")).unwrap();
            db.busy_timeout(super::world::PATIENCE).unwrap();
            db.execute_batch(in_file).unwrap();
        }
    }
}

/// Lets every event that is stored now have come 40 days earlier.
fn age(home: &Home) {
    let days = 40_i64 * 86_400_000;
    let text =
        |table| format!("update {table} set received_at = received_at - {days}, checksum = null");
    tamper(home, &text("log"), &text("events"));
}

fn keep(world: &World, hook: &str, keep: &str) -> String {
    let args = ["hooks", "edit", hook, "--keep", keep];
    let done = world.home.command(&args).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stderr).unwrap()
}

/// The seqs that are left of a stream.
fn seqs(world: &World, stream: &str) -> Vec<i64> {
    let (hook, key) = stream.split_once('/').unwrap_or((stream, ""));
    let path = format!("/v1/hooks/{hook}/events?stream={}&limit=1000", encoded(key));
    let events = world.get(&path).json();
    let events = events["items"].as_array().unwrap();
    events
        .iter()
        .map(|event| event["seq"].as_i64().unwrap())
        .collect()
}

/// Waits until the events of a stream begin after `floor`.
fn until_floor(world: &World, stream: &str, floor: i64) {
    until(|| {
        (seqs(world, stream)
            .first()
            .is_none_or(|first| *first > floor))
        .then_some(())
    });
}

/// A command's code and what it said.
fn told(world: &World, args: &[&str]) -> (Option<i32>, String) {
    let done = world.home.command(args).output().unwrap();
    (done.status.code(), String::from_utf8(done.stderr).unwrap())
}

/// Compares every state with the fold from its beginning: streams, those that differ, those that failed.
fn checked(world: &World) -> (i64, i64, i64) {
    let args = ["state", "rebuild", "orders", "--check", "-o", "json"];
    let done = world.home.command(&args).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    let number = |of: &str| said[0][of].as_i64().unwrap();
    (number("streams_done"), number("differ"), number("failed"))
}

fn what_is_older_than_its_hook_keeps_it_goes_and_all_else_stays(setup: Setup) {
    let mut world = world(setup);
    fill(&world, 3, 4);
    let keyed = |key: &str| {
        let body = r#"{"account":"s0","n":1}"#;
        Ask::post("orders")
            .key(&world.write)
            .header("idempotency-key", key)
            .body(body)
    };
    let old = world.ask(&keyed("old")).json();
    world.accepted("bare", "stays");
    world.accepted("bare", "goes");
    age(&world.home);
    let young = world.ask(&keyed("young")).json();
    world.state("orders/s0", 6);

    let said = keep(&world, "orders", "30d");
    assert!(
        said.contains("keep: forever -> 30d") && !said.contains("warning"),
        "{said}"
    );
    assert!(
        said.contains("hooks edit orders --keep forever"),
        "the way back: {said}"
    );
    until_floor(&world, "orders/s0", 5);
    until_floor(&world, "orders/s2", 4);
    assert_eq!(seqs(&world, "orders/s0"), [6]);
    let shown = world.home.run(&["streams", "show", "orders/s0"]);
    let head = "6; retention has removed the events up to 5";
    assert!(shown.contains(head), "{shown}");
    assert_eq!(seqs(&world, "bare"), [1, 2], "it keeps its own for ever");
    let listed = world
        .home
        .run(&["events", "list", "--hook", "orders", "-o", "names"]);
    assert_eq!(listed, young["event"].as_str().unwrap());
    let (code, said) = told(&world, &["events", "show", old["event"].as_str().unwrap()]);
    assert_eq!(code, Some(5));
    assert!(said.contains("retention"), "{said}");

    // The state, its numbers and its dedupe keys go on.
    assert_eq!(world.state("orders/s0", 6), json!({"sum": 6, "last": 6}));
    let repeat = world.ask(&keyed("young"));
    assert_eq!(
        (repeat.status, repeat.json()["seq"].clone()),
        (200, json!(6))
    );
    let new = world.ask(&keyed("old"));
    assert_eq!((new.status, new.json()["seq"].clone()), (202, json!(7)));
    assert_eq!(world.state("orders/s0", 7), json!({"sum": 7, "last": 7}));
    world.kill();
    world.restart();
    let next = world.accepted("orders", r#"{"account":"s1","n":1}"#);
    assert_eq!(next["seq"], 5);
    assert_eq!(world.state("orders/s1", 5), json!({"sum": 5, "last": 5}));
    assert_eq!(checked(&world), (3, 0, 0));
    let shown = world.home.run(&["hooks", "show", "orders", "-o", "json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["keep"], &shown["events"]),
        (&json!("30d"), &json!(3))
    );
}

fn a_state_is_folded_again_from_its_checkpoint(setup: Setup) {
    let world = world(setup);
    fill(&world, 2, 4);
    age(&world.home);
    fill(&world, 2, 3);
    keep(&world, "orders", "30d");
    until_floor(&world, "orders/s0", 4);
    until_floor(&world, "orders/s1", 4);
    let metrics = String::from_utf8(world.get("/metrics").body).unwrap();
    assert!(
        metrics.contains("hooklane_events_pruned_total 8"),
        "{metrics}"
    );

    // Data missing from the live state comes back from the checkpoint.
    tamper(
        &world.home,
        "update cursors set state = '{\"sum\":0,\"last\":7}', era = era + 1",
        "update cursors set state = '{\"sum\":0,\"last\":7}', era = era + 1",
    );
    assert_eq!(checked(&world), (2, 2, 0));
    world
        .home
        .run(&["state", "rebuild", "orders", "--yes", "--confirm", "orders"]);
    assert_eq!(world.state("orders/s0", 7), json!({"sum": 7, "last": 7}));
    assert_eq!(checked(&world), (2, 0, 0));

    let at = |seq: &str| told(&world, &["state", "rebuild", "orders/s0", "--to-seq", seq]);
    let (code, said) = at("3");
    assert_eq!(code, Some(2));
    assert!(
        said.contains("has removed the events up to seq 4"),
        "{said}"
    );
    assert_eq!(at("4").0, Some(0));
    let then = world
        .home
        .run(&["state", "rebuild", "orders/s0", "--to-seq", "5"]);
    assert_eq!(then, r#"{"sum":5,"last":5}"#);
}

fn what_older_code_has_folded_is_kept_only_if_it_is_asked_for_by_name(setup: Setup) {
    let world = world(setup);
    fill(&world, 3, 2);
    age(&world.home);
    fill(&world, 2, 1);
    keep(&world, "orders", "30d");
    for stream in ["orders/s0", "orders/s1", "orders/s2"] {
        until_floor(&world, stream, 2);
    }
    let file = world.home.write("second.js", SECOND_JS);
    world.home.run(&[
        "hooks",
        "edit",
        "orders",
        "--reduce",
        file.to_str().unwrap(),
    ]);
    let rebuild = ["state", "rebuild", "orders", "--yes", "--confirm", "orders"];
    for args in [&rebuild[..], &["state", "rebuild", "orders", "--check"]] {
        let (code, said) = told(&world, args);
        assert_eq!(code, Some(7), "{said}");
        assert!(
            said.contains("3 streams of hook orders cannot be folded from the first"),
            "{said}"
        );
        assert!(said.contains("--from-checkpoints"), "{said}");
    }
    let (code, _) = told(&world, &["state", "rebuild", "orders/s0", "--to-seq", "3"]);
    assert_eq!(code, Some(7));
    assert_eq!(world.state("orders/s0", 3), json!({"sum": 3, "last": 3}));

    let (code, said) = told(&world, &[&rebuild[..], &["--from-checkpoints"]].concat());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("3 streams at a checkpoint"), "{said}");
    assert_eq!(
        world.state("orders/s0", 3),
        json!({"sum": 12, "last": 3}),
        "2 as they were, 1 anew"
    );
    assert_eq!(world.state("orders/s2", 2), json!({"sum": 2, "last": 2}));

    // Additions by new code do not make the checkpoint newer.
    age(&world.home);
    keep(&world, "orders", "29d");
    until_floor(&world, "orders/s0", 3);
    let (code, said) = told(&world, &["state", "rebuild", "orders/s0", "--yes"]);
    assert_eq!(code, Some(7), "{said}");
    let then = [
        "state",
        "rebuild",
        "orders/s0",
        "--to-seq",
        "3",
        "--from-checkpoints",
    ];
    assert_eq!(world.home.run(&then), r#"{"sum":12,"last":3}"#);
}

fn a_held_stream_keeps_its_events_and_somebody_is_told(setup: Setup) {
    let world = world(setup);
    fill(&world, 2, 2);
    world.accepted("orders", r#"{"account":"s0","n":1,"bad":true}"#);
    world.accepted("orders", r#"{"account":"s0","n":1}"#);
    world.held("orders/s0");
    age(&world.home);
    keep(&world, "orders", "30d");
    until_floor(&world, "orders/s1", 2);
    until_floor(&world, "orders/s0", 2);
    assert_eq!(
        seqs(&world, "orders/s0"),
        [3, 4],
        "from the one it is held at"
    );
    let verdict = until(|| {
        let now = world
            .admin("GET", "/v1/admin/snapshot", &Value::Null)
            .json();
        let verdicts = now["verdicts"].as_array()?.clone();
        let text = |verdict: &Value| verdict["text"].as_str().unwrap_or_default().to_owned();
        verdicts
            .iter()
            .map(text)
            .find(|text| text.contains("retention"))
    });
    assert!(
        verdict.contains("orders/s0") && verdict.contains("past 30d"),
        "{verdict}"
    );
    let why = world.home.run(&["why", "orders/s0"]);
    assert!(why.contains("kept past 30d"), "{why}");
    assert!(!world.home.run(&["why", "orders/s1"]).contains("kept past"));

    let mended = FIRST_JS.replace("if (event.body.bad)", "if (false)");
    let file = world.home.write("mended.js", &mended);
    let file = file.to_str().unwrap();
    world
        .home
        .run(&["hooks", "edit", "orders", "--reduce", file]);
    world.home.run(&["streams", "retry", "orders/s0"]);
    world.state("orders/s0", 4);
    keep(&world, "orders", "29d");
    until_floor(&world, "orders/s0", 4);
    assert!(seqs(&world, "orders/s0").is_empty());
}

fn a_reducer_that_comes_later_begins_at_what_is_kept(setup: Setup) {
    let world = world(setup);
    for body in ["1", "2", "3"] {
        world.accepted("bare", body);
    }
    age(&world.home);
    world.accepted("bare", "4");
    keep(&world, "bare", "30d");
    until_floor(&world, "bare", 3);
    world
        .home
        .run(&["hooks", "edit", "bare", "--reduce", "append:9"]);
    assert_eq!(world.state("bare", 4), json!([4]));
    world.accepted("bare", "5");
    assert_eq!(world.state("bare", 5), json!([4, 5]));
    let (code, said) = told(
        &world,
        &["state", "rebuild", "bare", "--yes", "--confirm", "bare"],
    );
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(world.state("bare", 5), json!([4, 5]));
}

fn an_amount_keeps_the_newest(setup: Setup) {
    let world = world(setup);
    for n in 0..20 {
        world.accepted("bare", format!("{n:0>1000}"));
        until(|| (seqs(&world, "bare").len() == n + 1).then_some(()));
    }
    let said = keep(&world, "bare", "8KB");
    assert!(!said.contains("warning"), "{said}");
    let left = until(|| Some(seqs(&world, "bare")).filter(|left| left.len() < 20));
    let bytes = |left: &[i64]| 1_000 * left.len();
    // Headers count too; what was received in one millisecond stays or goes together.
    until(|| (bytes(&seqs(&world, "bare")) <= 8_000).then_some(()));
    let left_now = seqs(&world, "bare");
    assert!(
        left_now.len() >= 5 && left_now.ends_with(&[20]),
        "{left:?} {left_now:?}"
    );
    let first = left_now[0];
    assert_eq!(left_now, (first..=20).collect::<Vec<_>>());
    let short = keep(&world, "bare", "1h");
    assert!(
        short.contains("warning: bare keeps events for 1h; senders try again for up to 3 days"),
        "{short}"
    );
}

/// A world whose hook `orders` folds, and delivers to a destination too.
fn beside_a_forward(setup: Setup, sink: &Sink) -> World {
    let mut home = Home::new(setup);
    home.environment
        .push(("HOOKLANE_ALLOW_DESTINATION", "127.0.0.0/8"));
    let crm = format!("[[hooks.forward]]\nname = 'crm'\nurl = '{}'\n", sink.url());
    let hooks = format!(
        "[[hooks]]\nname = 'orders'\nreduce = 'first.js'\norder_by = 'body:/account'\n{crm}\
         [[hooks]]\nname = 'bare'\n{crm}[[hooks.pull]]\nname = 'worker'\n"
    );
    World::at(home, &[("first.js", FIRST_JS)], &hooks)
}

/// Waits until a handler of a stream has come to `seq`.
fn passed(world: &World, stream: &str, handler: &str, seq: i64) {
    let path = format!("/v1/admin/streams/show?stream={}", encoded(stream));
    until(|| {
        let shown = world.admin("GET", &path, &Value::Null).json();
        let cursors = shown["cursors"].as_array()?.clone();
        let of = |cursor: &Value| cursor["handler"] == handler && cursor["position"] == seq;
        cursors.iter().any(of).then_some(())
    });
}

fn every_handler_of_a_hook_passes_an_event_before_it_goes(setup: Setup) {
    let sink = Sink::start();
    sink.answers(|seen| match (seen.stream().as_str(), seen.seq()) {
        ("orders/s1", 3..) => Answer::Status(410),
        _ => Answer::Status(204),
    });
    let world = beside_a_forward(setup, &sink);
    fill(&world, 2, 4);
    passed(&world, "orders/s0", "crm", 4);
    passed(&world, "orders/s1", "crm", 2);
    age(&world.home);
    keep(&world, "orders", "30d");
    until_floor(&world, "orders/s0", 4);
    until_floor(&world, "orders/s1", 2);
    assert_eq!(
        seqs(&world, "orders/s1"),
        [3, 4],
        "its reducer has passed them, its forward has not"
    );
    let why = world.home.run(&["why", "orders/s1"]);
    assert!(why.contains("kept past 30d"), "{why}");
    sink.answers(|_| Answer::Status(204));
    let retry = ["streams", "retry", "orders/s1", "--handler", "crm"];
    world.home.run(&retry);
    passed(&world, "orders/s1", "crm", 4);
    keep(&world, "orders", "29d");
    until_floor(&world, "orders/s1", 4);
    assert_eq!(checked(&world), (2, 0, 0), "checkpoints are as before");
    assert_eq!(sink.first_deliveries("orders/s1"), [1, 2, 3, 4]);
}

fn a_hook_without_a_reducer_gives_up_what_its_handlers_have_passed(setup: Setup) {
    let sink = Sink::start();
    let world = beside_a_forward(setup, &sink);
    for n in 1..=3 {
        world.accepted("bare", n.to_string());
    }
    passed(&world, "bare", "crm", 3);
    age(&world.home);
    let pull = |path: &str, body: Value| {
        let ask = Ask::new("POST", &format!("/v1/hooks/bare/pull/{path}"));
        world
            .ask(&ask.key(&world.admin).body(body.to_string()))
            .json()
    };
    let got = until(|| {
        let got = pull("worker", json!({"wait": "5s"}));
        got["deliveries"].get(0).cloned()
    });
    let ack = |seq: i64| {
        pull(
            "worker/ack",
            json!({"acks": [{"token": got["token"], "seq": seq}]}),
        )
    };
    ack(2);
    keep(&world, "bare", "30d");
    until_floor(&world, "bare", 2);
    assert_eq!(seqs(&world, "bare"), [3], "the worker has not answered it");
    ack(3);
    passed(&world, "bare", "worker", 3);
    keep(&world, "bare", "29d");
    until_floor(&world, "bare", 3);
    world.accepted("bare", "4");
    passed(&world, "bare", "crm", 4);
    assert_eq!(sink.first_deliveries("bare"), [1, 2, 3, 4]);
}

fn what_a_crash_broke_off_is_whole(setup: Setup) {
    let mut world = world(setup);
    fill(&world, 8, 120);
    age(&world.home);
    let streams: Vec<_> = (0..8).map(|n| format!("orders/s{n}")).collect();
    keep(&world, "orders", "30d");
    // As soon as some is gone.
    until(|| {
        streams
            .iter()
            .any(|stream| seqs(&world, stream).len() < 120)
            .then_some(())
    });
    world.kill();
    world.restart();
    for stream in &streams {
        let left = seqs(&world, stream);
        let first = 121 - i64::try_from(left.len()).unwrap();
        assert_eq!(left, (first..=120).collect::<Vec<_>>(), "{stream}");
        assert_eq!(world.state(stream, 120), json!({"sum": 120, "last": 120}));
    }
    assert_eq!(checked(&world), (8, 0, 0));
    // It goes on by itself.
    for stream in &streams {
        until_floor(&world, stream, 120);
    }
    assert_eq!(checked(&world), (8, 0, 0));
}

#[test]
fn nodes_share_what_is_to_be_removed_and_no_event_goes_twice() {
    let world = world(Setup::Production);
    let servers = world.home.servers.clone().unwrap();
    let second = Home::of(&servers, "b");
    let mut other = second.start();
    until(|| {
        let lanes = world.admin("GET", "/v1/admin/lanes", &Value::Null).json();
        let lanes = lanes["items"].as_array()?.clone();
        lanes.iter().any(|lane| lane["node"] == "b").then_some(())
    });
    fill(&world, 24, 12);
    age(&world.home);
    keep(&world, "orders", "30d");
    for n in 0..24 {
        until_floor(&world, &format!("orders/s{n}"), 12);
    }
    let pruned = |addr| {
        let page = super::world::send(addr, &Ask::new("GET", "/metrics").key(&world.read).bytes());
        let page = String::from_utf8(page.body).unwrap();
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix("hooklane_events_pruned_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let (one, two) = (pruned(world.home.addr), pruned(second.addr));
    assert_eq!(one + two, 24 * 12);
    assert!(one > 0 && two > 0, "{one} and {two}");
    assert_eq!(checked(&world), (24, 0, 0));
    assert!(other.terminate(super::world::PATIENCE).unwrap().success());
}

#[test]
fn floors_and_checkpoints_move_to_a_server() {
    let mut world = world(Setup::Embedded);
    fill(&world, 3, 4);
    age(&world.home);
    fill(&world, 3, 1);
    keep(&world, "orders", "30d");
    for n in 0..3 {
        until_floor(&world, &format!("orders/s{n}"), 4);
    }
    world.kill();
    let servers = Servers::on(postgres::shared());
    let (from, to) = (world.home.data().display().to_string(), servers.url());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hooklane"));
    let moved = command
        .args(["migrate", "--from", &from, "--to", &to, "--yes"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&moved.stderr);
    assert!(
        said.contains("verified: 3 streams, 3 events, 3 cursors"),
        "{said}"
    );
    let mut there = World {
        home: Home::of(&servers, "a"),
        write: world.write.clone(),
        read: world.read.clone(),
        admin: world.admin.clone(),
        daemon: None,
        may_complain: false,
    };
    there.restart();
    assert_eq!(checked(&there), (3, 0, 0));
    let next = there.accepted("orders", r#"{"account":"s1","n":1}"#);
    assert_eq!(next["seq"], 6);
    assert_eq!(there.state("orders/s1", 6), json!({"sum": 6, "last": 6}));
    let floors = servers.ask("select distinct floor from streams");
    assert_eq!(floors, BTreeSet::from(["4".to_owned()]));
}

on_both_setups! {
    what_is_older_than_its_hook_keeps_it_goes_and_all_else_stays
    a_state_is_folded_again_from_its_checkpoint
    what_older_code_has_folded_is_kept_only_if_it_is_asked_for_by_name
    a_held_stream_keeps_its_events_and_somebody_is_told
    a_reducer_that_comes_later_begins_at_what_is_kept
    an_amount_keeps_the_newest
    every_handler_of_a_hook_passes_an_event_before_it_goes
    a_hook_without_a_reducer_gives_up_what_its_handlers_have_passed
    what_a_crash_broke_off_is_whole
}
