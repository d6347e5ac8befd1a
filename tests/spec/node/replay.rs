//! Stored events that are delivered once more: in order, marked, beside everything else; and what was in flight when an
//! operator held its stream.

use std::time::Duration;

use serde_json::{Value, json};

use super::daemon::{Home, Setup};
use super::sink::{Answer, Seen, Sink};
use super::world::{Ask, World, encoded, ended, until};

on_both_setups! {
    a_part_of_a_stream_comes_again_in_order_and_marked
    a_replay_goes_on_after_a_kill_and_can_be_ended
    a_dead_letter_is_delivered_after_all
    consumers_that_ask_get_a_replay_too
    what_is_acknowledged_under_an_operators_hold_does_not_come_again
}

fn world(setup: Setup, sink: &Sink, more: &str) -> World {
    let mut home = Home::new(setup);
    home.environment
        .push(("HOOKLANE_ALLOW_DESTINATION", "127.0.0.0/8"));
    let hooks = format!(
        "[[hooks]]\nname = 'orders'\norder_by = '/who'\nreduce = 'count'\n\
         [[hooks.forward]]\nname = 'crm'\nurl = '{}'\n{more}\n\
         [[hooks.pull]]\nname = 'worker'\n",
        sink.url()
    );
    World::at(home, &[], &hooks)
}

fn fill(world: &World, events: i64) -> Vec<String> {
    let sent = (1..=events).map(|n| {
        let body = json!({"who": "a", "n": n}).to_string();
        let accepted = world.accepted("orders", body);
        accepted["event"].as_str().unwrap().to_owned()
    });
    sent.collect()
}

fn cursor(world: &World, handler: &str) -> Value {
    let path = format!("/v1/admin/streams/show?stream={}", encoded("orders/a"));
    let shown = world.admin("GET", &path, &Value::Null).json();
    let cursors = shown["cursors"].as_array().cloned().unwrap_or_default();
    let of = |cursor: &Value| cursor["handler"] == handler;
    cursors.into_iter().find(of).unwrap_or_default()
}

fn comes_to(world: &World, handler: &str, seq: i64) {
    until(|| (cursor(world, handler)["position"] == seq).then_some(()));
}

fn replays(world: &World) -> Vec<Value> {
    let listed = world.home.run(&["events", "replays", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    listed["items"].as_array().unwrap().clone()
}

fn is_over(world: &World) {
    until(|| replays(world).is_empty().then_some(()));
}

fn is_replay(seen: &Seen) -> bool {
    !seen.header("hooklane-replay").is_empty()
}

/// The seqs of the replayed requests that a destination has acknowledged.
fn replayed(sink: &Sink) -> Vec<i64> {
    let seen = sink.seen();
    let replayed = seen
        .iter()
        .filter(|seen| is_replay(seen) && seen.is_acknowledged);
    replayed.map(Seen::seq).collect()
}

fn refused(world: &World, args: &[&str], part: &str) {
    let done = ended(&mut world.home.command(args));
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(
        !done.status.success() && said.contains(part),
        "{args:?}: {said}"
    );
    assert_eq!(said.matches("error:").count(), 1, "{said}");
}

fn a_part_of_a_stream_comes_again_in_order_and_marked(setup: Setup) {
    let sink = Sink::start();
    let world = world(setup, &sink, "");
    fill(&world, 6);
    comes_to(&world, "crm", 6);
    let replay = |from: &'static str, to: &'static str, handler: &'static str| {
        [
            "events",
            "replay",
            "orders/a",
            "--from",
            from,
            "--to",
            to,
            "--handler",
            handler,
        ]
    };
    refused(
        &world,
        &replay("2", "9", "crm"),
        "has passed orders/a up to seq 6",
    );
    refused(&world, &replay("4", "2", "crm"), "nothing from seq 4 to 2");
    refused(&world, &replay("1", "2", "reduce"), "state rebuild");
    refused(
        &world,
        &["events", "replay", "orders/a"],
        "name the handler: crm, worker",
    );

    // The second one fails twice: what is behind it waits, as at first.
    sink.answers(|seen| match (is_replay(seen), seen.seq(), seen.attempt()) {
        (true, 3, 1 | 2) => Answer::Status(503),
        _ => Answer::Status(204),
    });
    let dry = [&replay("2", "4", "crm")[..], &["--dry-run"]].concat();
    world.home.run(&dry);
    assert!(replays(&world).is_empty());
    world.home.run(&replay("2", "4", "crm"));
    fill(&world, 2);
    comes_to(&world, "crm", 8);
    is_over(&world);
    assert_eq!(replayed(&sink), [2, 3, 4]);
    assert_eq!(sink.seen().iter().filter(|seen| is_replay(seen)).count(), 5);
    let first = sink.seen().into_iter().filter(|seen| !is_replay(seen));
    assert_eq!(
        first.map(|seen| seen.seq()).collect::<Vec<_>>(),
        (1..=8).collect::<Vec<_>>()
    );
    assert_eq!(world.state("orders/a", 8), 8, "the state is not touched");
    assert_eq!(cursor(&world, "crm")["position"], 8);
}

fn a_replay_goes_on_after_a_kill_and_can_be_ended(setup: Setup) {
    let sink = Sink::start();
    let mut world = world(setup, &sink, "");
    fill(&world, 5);
    comes_to(&world, "crm", 5);
    let is_open = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let open = is_open.clone();
    sink.answers(move |seen| {
        let fails = is_replay(seen) && seen.seq() == 3;
        let opens = open.load(std::sync::atomic::Ordering::Relaxed);
        Answer::Status(if fails && !opens { 500 } else { 204 })
    });
    world
        .home
        .run(&["events", "replay", "orders/a", "--handler", "crm"]);
    let waits = until(|| {
        replays(&world)
            .pop()
            .filter(|row| row["condition"] == "waiting")
    });
    assert_eq!(
        (&waits["next"], &waits["events"]),
        (&json!(3), &json!(3)),
        "{waits}"
    );
    assert!(waits["reason"].as_str().unwrap().contains("500"));
    world.kill();
    world.restart();
    is_open.store(true, std::sync::atomic::Ordering::Relaxed);
    world
        .home
        .run(&["streams", "retry", "orders/a", "--handler", "crm"]);
    is_over(&world);
    assert_eq!(replayed(&sink), [1, 2, 3, 4, 5]);

    sink.answers(|seen| Answer::Status(if is_replay(seen) { 410 } else { 204 }));
    world.home.run(&[
        "events",
        "replay",
        "orders/a",
        "--from",
        "5",
        "--handler",
        "crm",
    ]);
    let held = until(|| {
        replays(&world)
            .pop()
            .filter(|row| row["condition"] == "held")
    });
    let id = held["id"].to_string();
    world.home.run(&["events", "replays", "--cancel", &id]);
    assert!(replays(&world).is_empty());
    refused(&world, &["events", "replays", "--cancel", &id], "no replay");
}

fn a_dead_letter_is_delivered_after_all(setup: Setup) {
    let sink = Sink::start();
    sink.answers(|seen| {
        Answer::Status(if seen.seq() == 2 && !is_replay(seen) {
            500
        } else {
            204
        })
    });
    let world = world(setup, &sink, "attempts = 1\non_error = 'skip'");
    let ids = fill(&world, 3);
    comes_to(&world, "crm", 3);
    refused(
        &world,
        &["events", "replay", "--dead", &ids[0]],
        "no dead letter",
    );
    world.home.run(&["events", "replay", "--dead", &ids[1]]);
    is_over(&world);
    assert_eq!(replayed(&sink), [2]);
    let shown = world.home.run(&["events", "show", &ids[1]]);
    assert!(
        shown.contains("crm skipped") && shown.contains("; replayed "),
        "{shown}"
    );
    let dead = world.home.run(&["events", "list", "--dead", "-o", "json"]);
    assert!(
        dead.contains(&ids[1]) && dead.contains("; replayed "),
        "{dead}"
    );
}

fn consumers_that_ask_get_a_replay_too(setup: Setup) {
    let sink = Sink::start();
    let world = world(setup, &sink, "");
    fill(&world, 4);
    let pull = |path: &str, body: Value| {
        let ask = Ask::new("POST", &format!("/v1/hooks/orders/pull/{path}"));
        world
            .ask(&ask.key(&world.admin).body(body.to_string()))
            .json()
    };
    let next = || {
        until(|| {
            pull("worker", json!({"wait": "5s"}))["deliveries"]
                .get(0)
                .cloned()
        })
    };
    let ack = |got: &Value, seq: i64| {
        let answered = pull(
            "worker/ack",
            json!({"acks": [{"token": got["token"], "seq": seq}]}),
        );
        assert_eq!(answered["acks"][0]["ok"], true, "{answered}");
    };
    let seqs = |got: &Value| -> Vec<i64> {
        let events = got["events"].as_array().unwrap();
        events
            .iter()
            .map(|event| event["seq"].as_i64().unwrap())
            .collect()
    };
    let first = next();
    assert_eq!(
        (seqs(&first), first.get("replay")),
        (vec![1, 2, 3, 4], None)
    );
    ack(&first, 4);
    world.home.run(&[
        "events",
        "replay",
        "orders/a",
        "--from",
        "2",
        "--to",
        "3",
        "--handler",
        "worker",
    ]);
    let again = next();
    assert_eq!(seqs(&again), [2, 3]);
    assert!(again["replay"].is_i64(), "{again}");
    let operation = until(|| {
        let snapshot = world.admin("GET", "/v1/admin/snapshot", &Value::Null);
        snapshot.json()["operations"].get(0).cloned()
    });
    assert_eq!(operation["what"], "replay orders/a -> worker");
    assert_eq!(
        (&operation["done"], &operation["of"]),
        (&json!(0), &json!(2)),
        "{operation}"
    );
    let now = pull("worker", json!({"wait": "0s"}));
    assert_eq!(
        now["deliveries"],
        json!([]),
        "one delivery of the replay at a time"
    );
    ack(&again, 3);
    assert!(replays(&world).is_empty());
    assert_eq!(cursor(&world, "worker")["position"], 4);
}

fn what_is_acknowledged_under_an_operators_hold_does_not_come_again(setup: Setup) {
    let sink = Sink::start();
    sink.answers(|seen| match seen.seq() {
        1 => Answer::Late(Duration::from_millis(1_500)),
        _ => Answer::Status(204),
    });
    let world = world(setup, &sink, "");
    fill(&world, 3);
    until(|| (!sink.seen().is_empty()).then_some(()));
    world
        .home
        .run(&["streams", "hold", "orders/a", "--handler", "crm"]);
    comes_to(&world, "crm", 1);
    let row = cursor(&world, "crm");
    assert_eq!(row["condition"], "held", "{row}");
    world
        .home
        .run(&["streams", "release", "orders/a", "--handler", "crm"]);
    comes_to(&world, "crm", 3);
    let seen: Vec<_> = sink.seen().iter().map(Seen::seq).collect();
    assert_eq!(seen, [1, 2, 3]);
}
