//! Promises to a pull consumer: each event of a stream in order, one delivery at a time, through all
//! failures.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::daemon::{Home, Servers, Setup};
use super::postgres;
use super::sink::{Answer, Sink};
use super::world::{Ask, Reply, World, encoded, ended, send, until};

on_both_setups! {
    a_stream_comes_in_order_one_delivery_at_a_time_and_moves_with_what_is_acknowledged
    what_is_given_back_waits_counts_its_tries_and_ends_as_the_policy_says
    a_lease_that_ends_gives_the_events_to_the_next_and_makes_the_token_stale
    an_operator_who_skips_makes_the_token_stale
    a_stopped_hook_or_lane_delivers_nothing
    an_open_delivery_outlives_a_kill
    who_goes_away_holds_up_a_stream_no_longer_than_his_lease
    a_key_takes_the_deliveries_it_was_made_for_until_it_is_revoked
    what_cannot_be_meant_is_said_in_a_line
    a_hundred_consumers_share_the_streams_without_a_double
    the_workers_of_the_readme_work
    listen_posts_each_event_as_push_does_and_leaves_nothing_behind
}

const JOBS: &str =
    "[[hooks]]\nname = 'jobs'\norder_by = 'body:/who'\n[[hooks.pull]]\nname = 'worker'\n";

fn world(setup: Setup, more: &str) -> World {
    World::new(setup, &[], &format!("{JOBS}{more}"))
}

fn event(who: &str, n: i64) -> String {
    json!({"who": who, "n": n}).to_string()
}

fn call(addr: SocketAddr, key: &str, path: &str, body: &Value) -> Reply {
    let ask = Ask::new("POST", &format!("/v1/hooks/jobs/pull/{path}")).key(key);
    send(addr, &ask.body(body.to_string()).bytes())
}

fn pulled(addr: SocketAddr, key: &str, body: &Value) -> Vec<Value> {
    let reply = call(addr, key, "worker", body);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["deliveries"].as_array().unwrap().clone()
}

/// Deliveries available now.
fn now(world: &World) -> Vec<Value> {
    pulled(world.home.addr, &world.admin, &json!({"wait": "0s"}))
}

/// Waits for at least one delivery.
fn soon(world: &World, more: Value) -> Vec<Value> {
    let mut ask = json!({"wait": "5s"});
    ask.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    until(|| Some(pulled(world.home.addr, &world.admin, &ask)).filter(|got| !got.is_empty()))
}

fn answer(world: &World, body: &Value) -> Reply {
    call(world.home.addr, &world.admin, "worker/ack", body)
}

fn ack(world: &World, delivery: &Value, seq: i64) -> Value {
    let reply = answer(
        world,
        &json!({"acks": [{"token": delivery["token"], "seq": seq}]}),
    );
    reply.json()["acks"][0].clone()
}

fn seqs(delivery: &Value) -> Vec<i64> {
    let events = delivery["events"].as_array().unwrap();
    events
        .iter()
        .map(|event| event["seq"].as_i64().unwrap())
        .collect()
}

fn of<'d>(deliveries: &'d [Value], stream: &str) -> &'d Value {
    deliveries
        .iter()
        .find(|delivery| delivery["stream"] == stream)
        .unwrap()
}

fn cursor(world: &World, stream: &str) -> Value {
    let path = format!("/v1/admin/streams/show?stream={}", encoded(stream));
    let shown = world.admin("GET", &path, &Value::Null).json();
    let cursors = shown["cursors"].as_array().unwrap();
    cursors
        .iter()
        .find(|cursor| cursor["handler"] == "worker")
        .unwrap()
        .clone()
}

fn a_stream_comes_in_order_one_delivery_at_a_time_and_moves_with_what_is_acknowledged(
    setup: Setup,
) {
    let world = world(setup, "");
    for n in 1..=5 {
        world.accepted("jobs", event("a", n));
    }
    world.accepted("jobs", event("b", 1));
    let got = soon(&world, json!({}));
    let got = match got.len() {
        1 => [got, soon(&world, json!({}))].concat(),
        _ => got,
    };
    let (a, b) = (of(&got, "a"), of(&got, "b"));
    assert_eq!((seqs(a), seqs(b)), (vec![1, 2, 3, 4, 5], vec![1]));
    assert_eq!(a["attempt"], 1);
    assert_eq!(a["events"][2]["body"], event("a", 3));
    assert!(a["events"][0]["headers"].is_object(), "{a}");
    assert!(now(&world).is_empty(), "one delivery a stream");

    let part = ack(&world, a, 3);
    assert_eq!((&part["ok"], &part["position"]), (&json!(true), &json!(3)));
    assert!(part["lease_until"].is_string(), "the rest is open: {part}");
    assert_eq!(cursor(&world, "jobs/a")["position"], 3);
    world.accepted("jobs", event("a", 6));
    assert!(now(&world).is_empty(), "its rest is open");
    assert_eq!(ack(&world, a, 9)["code"], "out_of_range");
    for _ in 0..2 {
        let whole = ack(&world, a, 5);
        assert_eq!(
            (&whole["ok"], &whole["position"]),
            (&json!(true), &json!(5)),
            "{whole}"
        );
    }
    let next = soon(&world, json!({}));
    assert_eq!(seqs(of(&next, "a")), [6]);
    assert_eq!(
        ack(&world, a, 5)["code"],
        "stale",
        "another delivery is open"
    );
    let both = json!({"acks": [{"token": of(&next, "a")["token"], "seq": 6},
        {"token": b["token"], "seq": 1}]});
    let both = answer(&world, &both);
    assert_eq!(both.status, 200, "{both:?}");
    assert!(now(&world).is_empty());
    assert_eq!(cursor(&world, "jobs/a")["behind"], 0);

    // Waiting consumers are woken.
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let ask = json!({"wait": "30s", "max_events": 1});
            pulled(world.home.addr, &world.admin, &ask)
        });
        world.accepted("jobs", event("c", 1));
        assert_eq!(seqs(of(&waits.join().unwrap(), "c")), [1]);
    });
}

fn what_is_given_back_waits_counts_its_tries_and_ends_as_the_policy_says(setup: Setup) {
    let world = world(setup, "attempts = 2\non_error = 'skip'\n");
    for n in 1..=3 {
        world.accepted("jobs", event("a", n));
    }
    let first = soon(&world, json!({}))[0].clone();
    let back = json!({"nacks": [{"token": first["token"], "seq": 1, "retry_in": "1s",
        "reason": "the printer burns"}]});
    let reply = answer(&world, &back);
    assert_eq!(reply.json()["nacks"][0]["position"], 1, "{reply:?}");
    let row = cursor(&world, "jobs/a");
    assert_eq!(
        (&row["condition"], &row["tries"]),
        (&json!("waiting"), &json!(1)),
        "{row}"
    );
    assert!(
        row["reason"]
            .as_str()
            .unwrap()
            .contains("the printer burns"),
        "{row}"
    );

    let second = soon(&world, json!({}))[0].clone();
    assert_eq!((seqs(&second), &second["attempt"]), (vec![2, 3], &json!(2)));
    let reply = answer(&world, &json!({"nacks": [{"token": second["token"]}]}));
    assert_eq!(
        reply.json()["nacks"][0]["position"],
        2,
        "it is skipped: {reply:?}"
    );
    let third = soon(&world, json!({}))[0].clone();
    assert_eq!((seqs(&third), &third["attempt"]), (vec![3], &json!(1)));
    assert_eq!(ack(&world, &third, 3)["ok"], true);
    let dead = world.home.run(&["events", "list", "--dead", "-o", "json"]);
    let dead: Value = serde_json::from_str(&dead).unwrap();
    assert_eq!(dead["items"][0]["seq"], 2, "{dead}");
}

fn a_lease_that_ends_gives_the_events_to_the_next_and_makes_the_token_stale(setup: Setup) {
    let world = world(setup, "");
    world.accepted("jobs", event("a", 1));
    let slow = soon(&world, json!({"lease": "1s"}))[0].clone();
    let longer = json!({"extends": [{"token": slow["token"], "lease": "2s"}]});
    let longer = answer(&world, &longer).json()["extends"][0].clone();
    assert!(
        longer["lease_until"].as_str() > slow["lease_until"].as_str(),
        "{longer}"
    );
    let again = soon(&world, json!({"lease": "60s"}))[0].clone();
    assert_eq!((seqs(&again), &again["attempt"]), (vec![1], &json!(2)));
    assert!(again["epoch"].as_i64() > slow["epoch"].as_i64());
    let late = answer(
        &world,
        &json!({"acks": [{"token": slow["token"], "seq": 1}]}),
    );
    assert_eq!(late.status, 409, "{late:?}");
    let late = late.json()["acks"][0].clone();
    assert_eq!(
        (&late["ok"], &late["code"], &late["position"]),
        (&json!(false), &json!("stale"), &json!(0))
    );
    assert_eq!(
        cursor(&world, "jobs/a")["position"],
        0,
        "nothing is changed"
    );
    assert_eq!(ack(&world, &again, 1)["ok"], true);
}

fn an_operator_who_skips_makes_the_token_stale(setup: Setup) {
    let world = world(setup, "");
    let id = world.accepted("jobs", event("a", 1))["event"].clone();
    world.accepted("jobs", event("a", 2));
    let open = soon(&world, json!({}))[0].clone();
    let skip = json!({"stream": "jobs/a", "handler": "worker", "event": id});
    let skipped = world.admin("POST", "/v1/admin/streams/skip", &skip);
    assert_eq!(skipped.status, 200, "{skipped:?}");
    let late = answer(
        &world,
        &json!({"acks": [{"token": open["token"], "seq": 2}]}),
    );
    assert_eq!(
        (late.status, late.json()["acks"][0]["position"].clone()),
        (409, json!(1))
    );
    let next = soon(&world, json!({}))[0].clone();
    assert_eq!(seqs(&next), [2]);
    let hold = world
        .home
        .command(&["streams", "hold", "jobs/a", "--handler", "worker"])
        .output();
    assert!(hold.unwrap().status.success());
    assert_eq!(
        ack(&world, &next, 2)["ok"],
        true,
        "what is open may be acknowledged"
    );
    world.accepted("jobs", event("a", 3));
    assert!(now(&world).is_empty(), "held");
    world
        .home
        .run(&["streams", "release", "jobs/a", "--handler", "worker"]);
    assert_eq!(seqs(&soon(&world, json!({}))[0]), [3]);
}

fn a_stopped_hook_or_lane_delivers_nothing(setup: Setup) {
    let world = world(setup, "");
    world.accepted("jobs", event("a", 1));
    world.home.run(&["hooks", "pause", "jobs"]);
    assert!(now(&world).is_empty(), "the hook is paused");
    world.home.run(&["hooks", "resume", "jobs"]);
    let got = soon(&world, json!({}));
    assert_eq!(ack(&world, &got[0], 1)["ok"], true);
    world.home.run(&["lanes", "pause", "--all", "--yes"]);
    world.accepted("jobs", event("a", 2));
    assert!(now(&world).is_empty(), "the lanes are paused");
    world.home.run(&["lanes", "resume", "--all"]);
    let got = soon(&world, json!({}));
    // A resize moves the stream to another lane while a delivery is open.
    world.home.run(&["lanes", "resize", "7", "--yes"]);
    assert_eq!(ack(&world, &got[0], 2)["ok"], true);
    let why = world.home.run(&["why", "jobs/a"]);
    assert!(why.contains("worker"), "{why}");
}

fn an_open_delivery_outlives_a_kill(setup: Setup) {
    let mut world = world(setup, "");
    for n in 1..=2 {
        world.accepted("jobs", event("a", n));
    }
    let open = soon(&world, json!({"lease": "10m"}))[0].clone();
    assert_eq!(ack(&world, &open, 1)["ok"], true);
    world.kill();
    world.restart();
    assert!(now(&world).is_empty(), "it is open still");
    let repeated = ack(&world, &open, 1);
    assert_eq!(
        (&repeated["ok"], &repeated["position"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(ack(&world, &open, 2)["position"], 2);
    world.accepted("jobs", event("a", 3));
    assert_eq!(seqs(&soon(&world, json!({}))[0]), [3]);
}

/// A connection whose client may still read looks the same as one whose client is gone, so a delivery may go there.
fn who_goes_away_holds_up_a_stream_no_longer_than_his_lease(setup: Setup) {
    let world = world(setup, "");
    let mut gone = TcpStream::connect(world.home.addr).unwrap();
    let ask = Ask::new("POST", "/v1/hooks/jobs/pull/worker").key(&world.admin);
    let ask = ask.body(json!({"wait": "60s", "lease": "1s"}).to_string());
    gone.write_all(&ask.bytes()).unwrap();
    drop(gone);
    world.accepted("jobs", event("a", 1));
    let got = soon(&world, json!({}));
    assert_eq!(seqs(of(&got, "a")), [1]);
}

fn a_key_takes_the_deliveries_it_was_made_for_until_it_is_revoked(setup: Setup) {
    let world = world(setup, "[[hooks.pull]]\nname = 'other'\n");
    let (addr, home) = (world.home.addr, &world.home);
    let create = [
        "keys", "create", "--type", "read", "--hook", "jobs", "--name", "pool",
    ];
    let consumer = home.run(&[&create[..], &["--consume", "worker"]].concat());
    let wrong = home
        .command(&[&create[..], &["--consume", "worke"]].concat())
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(5), "{wrong:?}");
    let ask = json!({"wait": "0s"});
    until(|| (call(addr, &consumer, "worker", &ask).status == 200).then_some(()));
    for (key, path, status) in [
        (&consumer, "other", 403),
        (&world.read, "worker", 403),
        (&world.write, "worker", 401),
        (&world.admin, "none", 404),
    ] {
        let reply = call(addr, key, path, &ask);
        assert_eq!(reply.status, status, "{reply:?}");
        reply.code();
    }
    let id = format!("k_{}", &consumer["hl_r_".len()..][..8]);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| call(addr, &consumer, "worker", &json!({"wait": "60s"})));
        home.run(&["keys", "revoke", &id, "--yes"]);
        assert_eq!(
            waits.join().unwrap().status,
            401,
            "it does not outlive its key"
        );
    });
}

fn what_cannot_be_meant_is_said_in_a_line(setup: Setup) {
    let world = world(setup, "");
    let (addr, key) = (world.home.addr, &world.admin);
    for (body, part) in [
        (json!({"max_streams": 0}), "max_streams is 1 to 100, got 0"),
        (
            json!({"max_events": 1001}),
            "max_events is 1 to 1000, got 1001",
        ),
        (json!({"wait": "2m"}), "wait is 0s to"),
        (json!({"wait": "2"}), "not a duration"),
        (json!({"lease": "100ms"}), "a lease is"),
        (json!({"max": 1}), "unknown field"),
    ] {
        let reply = call(addr, key, "worker", &body);
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, 400, "{said}");
        assert!(said.contains(part), "{said}");
    }
    for body in [
        json!({}),
        json!({"acks": [{"token": "x", "seq": 1}]}),
        json!({"nacks": [{"token": "x", "retry_in": "1d"}]}),
    ] {
        let reply = call(addr, key, "worker/ack", &body);
        assert_eq!(
            (reply.status, reply.code()),
            (400, "malformed".into()),
            "{reply:?}"
        );
    }
    for flags in [
        &["--pull", "worker", "--lease", "1ms"][..],
        &["--attempts", "3"],
        &["--pull", "reduce"],
    ] {
        let args = [&["hooks", "edit", "jobs"][..], flags].concat();
        let wrong = world.home.command(&args).output().unwrap();
        assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    }
    let shown = world.home.run(&["hooks", "show", "jobs"]);
    assert!(shown.contains("worker   lease 30s"), "{shown}");
    let listed = world.home.run(&["hooks", "list"]);
    assert!(listed.contains("PULL"), "{listed}");
}

/// Events that consumers processed, by stream and in order.
type Done = Mutex<BTreeMap<String, Vec<i64>>>;

/// Pulls, notes and acknowledges until so many events are done.
fn consume(addrs: &[SocketAddr], key: &str, done: &Done, left: &AtomicUsize) {
    let mut turn = 0;
    while left.load(Ordering::Acquire) > 0 {
        turn += 1;
        let addr = |more: usize| addrs[(turn + more) % addrs.len()];
        let ask = json!({"wait": "2s", "max_streams": 3, "max_events": 4, "lease": "60s"});
        for delivery in pulled(addr(0), key, &ask) {
            let seqs = seqs(&delivery);
            let stream = delivery["stream"].as_str().unwrap().to_owned();
            done.lock().entry(stream).or_default().extend(&seqs);
            let acks = json!({"acks": [{"token": delivery["token"], "seq": seqs.last()}]});
            let reply = call(addr(1), key, "worker/ack", &acks);
            assert_eq!(reply.status, 200, "{reply:?}");
            left.fetch_sub(seqs.len(), Ordering::AcqRel);
        }
    }
}

fn are_in_order(done: &Done, streams: usize, events: usize) {
    let done = done.lock();
    assert_eq!(done.len(), streams);
    for (stream, seqs) in &*done {
        let all: Vec<_> = (1..).take(events).collect();
        assert_eq!(*seqs, all, "stream {stream}");
    }
}

fn a_hundred_consumers_share_the_streams_without_a_double(setup: Setup) {
    const STREAMS: usize = 20;
    const EVENTS: usize = 12;
    let world = world(setup, "");
    let done = Done::default();
    let left = AtomicUsize::new(STREAMS * EVENTS);
    let addrs = [world.home.addr];
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| consume(&addrs, &world.admin, &done, &left));
        }
        for n in (1..).take(EVENTS) {
            for stream in 0..STREAMS {
                world.accepted("jobs", event(&stream.to_string(), n));
            }
        }
    });
    are_in_order(&done, STREAMS, EVENTS);
}

#[test]
fn three_nodes_answer_any_call_through_a_resize_and_a_lost_node() {
    const STREAMS: usize = 9;
    const EVENTS: usize = 20;
    let servers = Servers::on(postgres::shared());
    let homes = ["a", "b", "c"].map(|name| Home::of(&servers, name));
    let mut daemons = vec![homes[0].start()];
    homes[0].apply(JOBS);
    daemons.extend(homes[1..].iter().map(Home::start));
    let (write, admin) = (
        homes[0].key("write"),
        homes[0].run(&["keys", "create", "--type", "admin", "--name", "ops"]),
    );
    let addrs = [homes[0].addr, homes[1].addr];
    for addr in addrs {
        let ask = json!({"wait": "0s"});
        until(|| (call(addr, &admin, "worker", &ask).status == 200).then_some(()));
    }
    let done = Done::default();
    let left = AtomicUsize::new(STREAMS * EVENTS);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| consume(&addrs, &admin, &done, &left));
        }
        for n in (1..).take(EVENTS) {
            for stream in 0..STREAMS {
                let post = Ask::post("jobs")
                    .key(&write)
                    .body(event(&stream.to_string(), n));
                let reply = send(addrs[stream % 2], &post.bytes());
                assert_eq!(reply.status, 202, "{reply:?}");
            }
            match n {
                5 => drop(homes[0].run(&["lanes", "resize", "6", "--yes"])),
                10 => daemons.pop().unwrap().kill(),
                _ => {}
            }
        }
    });
    are_in_order(&done, STREAMS, EVENTS);
}

/// The block of the README's section on pulling that begins with these words.
fn of_readme(begin: &str) -> String {
    super::readme::block("## Pulling", begin)
}

fn the_workers_of_the_readme_work(setup: Setup) {
    let world = world(setup, "");
    let url = format!("http://{}", world.home.addr);
    let workers = [
        ("python3", "import json", "worker.py"),
        ("sh", "pull=", "worker.sh"),
        ("node", "const url", "worker.mjs"),
    ];
    let there = |(program, begin, _): &(&str, &str, &str)| {
        super::readme::is_there(program, &format!("the worker that begins with {begin:?}"))
    };
    for (number, (program, begin, file)) in (1..).zip(workers.into_iter().filter(there)) {
        let path = world.home.write(file, &of_readme(begin));
        let mut worker = Command::new(program);
        worker
            .arg(&path)
            .env("HOOKLANE_URL", &url)
            .env("HOOKLANE_KEY", &world.admin);
        let mut worker = worker.stdout(Stdio::null()).spawn().unwrap();
        for who in ["a", "b"] {
            for n in 1..=3 {
                world.accepted("jobs", event(who, n));
            }
            until(|| {
                (cursor(&world, &format!("jobs/{who}"))["position"] == 3 * number).then_some(())
            });
        }
        worker.kill().unwrap();
        worker.wait().unwrap();
    }
}

fn listen_posts_each_event_as_push_does_and_leaves_nothing_behind(setup: Setup) {
    let sink = Sink::start();
    let world = world(setup, "");
    world.accepted("jobs", event("a", 1));
    world.accepted("jobs", event("a", 2));
    let url = sink.url();
    let once = [
        "listen",
        "jobs",
        "--to",
        &url,
        "--from",
        "beginning",
        "--once",
        "-o",
        "json",
    ];
    let first = ended(&mut world.home.command(&once));
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    let posted: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(
        (&posted["seq"], &posted["ok"]),
        (&json!(1), &json!(true)),
        "{posted}"
    );
    let seen = sink.seen();
    assert_eq!((seen[0].seq(), seen[0].stream()), (1, "jobs/a".to_owned()));
    assert!(
        seen[0].header("webhook-signature").starts_with("v1,"),
        "{seen:?}"
    );

    // A handler of its own keeps its place, and what fails is tried again.
    sink.answers(|seen| match seen.attempt() {
        1 => Answer::Status(500),
        _ => Answer::Status(204),
    });
    let named = ["listen", "jobs", "--to", &url, "--handler", "worker"];
    let mut listens = world
        .home
        .command(&named)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until(|| (cursor(&world, "jobs/a")["position"] == 2).then_some(()));
    kill_process(Pid::from_child(&listens), Signal::INT).unwrap();
    let status = listens.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    let shown = world.home.run(&["hooks", "show", "jobs", "-o", "json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["pull"].as_array().map(Vec::len), Some(1), "{shown}");
}
