//! States folded again while webhooks come, on both set-ups: the new state is the fold of the same events
//! by the new code, and nothing is lost, doubled or reordered on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::daemon::{Client, Home, Setup};
use super::world::{World, until};

const HOOKS: &str = "[[hooks]]\nname = 'orders'\nreduce = 'first.js'\norder_by = 'body:/account'\n";

/// Sums, and forgets every third event: the mistake that a rebuild mends.
const FIRST_JS: &str = "export default function reduce(state, event) {\n\
    state ??= { sum: 0, seqs: [] };\n\
    if (event.seq % 3 !== 0) state.sum += event.body.n;\n\
    state.seqs = [...state.seqs, event.seq].slice(-5);\n\
    if (event.body.bad) throw new Error('no good');\n\
    return state;\n}\n";

/// Sums all, and throws when an event is not the one after the last: order is part of the state.
const SECOND_JS: &str = "export default function reduce(state, event) {\n\
    state ??= { sum: 0, last: 0 };\n\
    if (event.seq !== state.last + 1) throw new Error(`${event.seq} after ${state.last}`);\n\
    state.last = event.seq;\n\
    state.sum += event.body.n;\n\
    return state;\n}\n";

fn world(setup: Setup) -> World {
    let files = [("first.js", FIRST_JS), ("second.js", SECOND_JS)];
    World::at(Home::new(setup), &files, HOOKS)
}

/// Sends `events` events with the number 1 to each of `streams` streams.
fn fill(world: &World, streams: i64, events: i64) {
    for n in 0..events {
        for stream in 0..streams {
            let body = json!({"account": format!("s{stream}"), "n": 1, "round": n});
            world.accepted("orders", body.to_string());
        }
    }
    for stream in 0..streams {
        world.state(&format!("orders/s{stream}"), events);
    }
}

fn second_code(world: &World) {
    let file = world.home.write("second.js", SECOND_JS);
    world.home.run(&[
        "hooks",
        "edit",
        "orders",
        "--reduce",
        file.to_str().unwrap(),
    ]);
}

fn rebuild(world: &World, args: &[&str]) -> Value {
    let args = [&["state", "rebuild"], args, &["-o", "json"]].concat();
    let output = world.home.command(&args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    serde_json::from_slice::<Value>(&output.stdout).unwrap()[0].take()
}

fn the_new_state_is_the_fold_of_all_events_by_the_new_code(setup: Setup) {
    let world = world(setup);
    fill(&world, 5, 7);
    assert_eq!(
        world.state("orders/s0", 7)["sum"],
        5,
        "the first code forgets two"
    );
    second_code(&world);

    let checked = rebuild(&world, &["orders", "--check"]);
    assert_eq!(
        (&checked["differ"], &checked["streams_done"]),
        (&json!(5), &json!(5))
    );
    assert_eq!(checked["samples"][0], "orders/s0 /sum 5 -> 7");
    assert_eq!(
        world.state("orders/s0", 7)["sum"],
        5,
        "a check changes nothing"
    );

    let rebuilt = rebuild(&world, &["orders", "--yes", "--confirm", "orders"]);
    assert_eq!(rebuilt["differ"], 5);
    assert_eq!(
        (&rebuilt["events_done"], &rebuilt["failed"]),
        (&json!(35), &json!(0))
    );
    for stream in 0..5 {
        let state = world.state(&format!("orders/s{stream}"), 7);
        assert_eq!(state, json!({"sum": 7, "last": 7}));
    }
    let again = rebuild(&world, &["orders/s1", "--yes"]);
    assert_eq!(
        (&again["differ"], &again["streams_done"]),
        (&json!(0), &json!(1))
    );
    world.accepted("orders", r#"{"account":"s1","n":10}"#);
    assert_eq!(world.state("orders/s1", 8), json!({"sum": 17, "last": 8}));

    let then = world
        .home
        .run(&["state", "rebuild", "orders/s1", "--to-seq", "4"]);
    assert_eq!(then.trim(), r#"{"sum":4,"last":4}"#);
}

fn a_stream_that_the_new_code_can_fold_flows_again_and_one_that_it_cannot_keeps_its_state(
    setup: Setup,
) {
    let world = world(setup);
    fill(&world, 2, 2);
    world.accepted("orders", r#"{"account":"s0","n":1,"bad":true}"#);
    world.accepted("orders", r#"{"account":"s0","n":1}"#);
    world.held("orders/s0");
    second_code(&world);
    rebuild(&world, &["orders/s0", "--yes"]);
    assert_eq!(world.state("orders/s0", 4), json!({"sum": 4, "last": 4}));

    let picky = world.home.write(
        "picky.js",
        "export default (s, e) => { if (e.seq === 2) throw new Error('two'); return 1; }",
    );
    world.home.run(&[
        "hooks",
        "edit",
        "orders",
        "--reduce",
        picky.to_str().unwrap(),
    ]);
    let args = [
        "state",
        "rebuild",
        "orders",
        "--yes",
        "--confirm",
        "orders",
        "-o",
        "json",
    ];
    let output = world.home.command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said[0]["failed"], 2);
    let sample = said[0]["samples"][0].as_str().unwrap();
    assert!(
        sample.starts_with("orders/s0 kept its state: at seq 2: Error"),
        "{sample}"
    );
    assert_eq!(world.state("orders/s0", 4), json!({"sum": 4, "last": 4}));
}

async fn events_that_come_meanwhile_are_folded_once_and_in_order(setup: Setup) {
    let world = world(setup);
    fill(&world, 4, 3);
    second_code(&world);
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let mut client = Client::new(world.home.addr, &world.write);
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    let body = json!({"account": format!("s{sender}"), "n": 1}).to_string();
                    let answer = client.post("orders", body.into(), None).await.unwrap();
                    assert_eq!(answer.status, 202);
                    sent += 1;
                }
                sent
            })
        })
        .collect();
    tokio::task::block_in_place(|| {
        // The first finds streams that the old code has folded up to now and the new one goes on with:
        // they are held by the order that it checks, and flow again.
        for _ in 0..5 {
            rebuild(&world, &["orders", "--yes", "--confirm", "orders"]);
        }
    });
    stop.store(true, Ordering::Relaxed);
    for (sender, sent) in senders.into_iter().enumerate() {
        let sent: i64 = sent.await.unwrap();
        let all = sent + 3;
        assert!(sent > 20, "{sent} events are no load");
        let state = world.state(&format!("orders/s{sender}"), all);
        assert_eq!(state, json!({"sum": all, "last": all}));
    }
}

fn what_a_crash_broke_off_is_carried_on(setup: Setup) {
    let mut world = world(setup);
    fill(&world, 3, 40);
    let slow = "export default (s, e) => { const until = 400000; let x = 0; \
        for (let i = 0; i < until; i++) x += i; return (s?.n === undefined) ? {n: 1} : {n: s.n + 1}; }";
    let file = world.home.write("slow.js", slow);
    world.home.run(&[
        "hooks",
        "edit",
        "orders",
        "--reduce",
        file.to_str().unwrap(),
    ]);
    let spec = json!({"hook": "orders"});
    let begun = world.admin("POST", "/v1/admin/rebuilds", &spec);
    assert_eq!(begun.status, 202, "{begun:?}");
    let path = format!("/v1/admin/rebuilds/{}", begun.json()["id"]);
    assert_eq!(world.admin("POST", "/v1/admin/rebuilds", &spec).status, 409);
    world.kill();
    world.restart();
    let done = until(|| {
        let now = world.admin("GET", &path, &Value::Null).json();
        (now["state"] != "running").then_some(now)
    });
    assert_eq!(
        (&done["state"], &done["failed"]),
        (&json!("done"), &json!(0)),
        "{done}"
    );
    for stream in 0..3 {
        let state = world.state(&format!("orders/s{stream}"), 40);
        assert_eq!(state, json!({"n": 40}));
    }
}

fn what_makes_no_sense_is_refused(setup: Setup) {
    let world = world(setup);
    let code = |args: &[&str]| {
        let args = [&["state", "rebuild"], args].concat();
        world.home.command(&args).output().unwrap().status.code()
    };
    assert_eq!(code(&["nowhere", "--yes", "--confirm", "nowhere"]), Some(5));
    assert_eq!(code(&["orders/nobody", "--yes"]), Some(5));
    assert_eq!(
        code(&["orders", "--yes"]),
        Some(2),
        "severe: the name is to be typed"
    );
    assert_eq!(code(&[]), Some(2));
    world.accepted("orders", r#"{"account":"a","n":1}"#);
    assert_eq!(code(&["orders/a", "--to-seq", "2"]), Some(2));
}

macro_rules! on_both {
    ($($name:ident)*) => {
        mod embedded {
            $(#[test]
            fn $name() {
                super::$name(super::Setup::Embedded);
            })*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn events_that_come_meanwhile_are_folded_once_and_in_order() {
                super::events_that_come_meanwhile_are_folded_once_and_in_order(super::Setup::Embedded).await;
            }
        }
        mod production {
            $(#[test]
            fn $name() {
                super::$name(super::Setup::Production);
            })*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn events_that_come_meanwhile_are_folded_once_and_in_order() {
                super::events_that_come_meanwhile_are_folded_once_and_in_order(super::Setup::Production).await;
            }
        }
    };
}

on_both! {
    the_new_state_is_the_fold_of_all_events_by_the_new_code
    a_stream_that_the_new_code_can_fold_flows_again_and_one_that_it_cannot_keeps_its_state
    what_a_crash_broke_off_is_carried_on
    what_makes_no_sense_is_refused
}
