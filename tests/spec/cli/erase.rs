//! `streams erase`: nothing of a stream is left in any file, everything of the others is, and a node that is killed in
//! the middle goes on.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::checker::{self, Attempt, Outcome, Receipt, TRAIL_JS, trail};
use crate::daemon::{Client, Home, Setup};
use crate::sink::{Answer, Sink};
use crate::world::{Ask, World, ended, until, within};

on_both_setups! {
    no_byte_of_an_erased_stream_is_left_in_the_files
    the_others_keep_order_states_and_counts_under_load
    a_node_that_is_killed_in_the_middle_goes_on
    streams_are_erased_by_a_pattern_and_only_as_planned
    an_event_that_is_held_back_goes_too
}

/// Time within which no byte may be left.
const A_MINUTE: Duration = Duration::from_secs(60);

/// Keeps every body in its state, and shows a body in its error.
const KEEP_JS: &str = "export default function reduce(state, event) {\n\
    if (event.body.bad) throw new Error(`bad: ${event.body.text}`);\n\
    state ??= { texts: [] };\n\
    state.texts.push(event.body.text);\n\
    return state;\n}\n";

fn world(setup: Setup, sink: &Sink) -> World {
    let mut home = Home::new(setup);
    home.environment
        .push(("HOOKLANE_ALLOW_DESTINATION", "127.0.0.0/8"));
    let hooks = format!(
        "[[hooks]]\nname = 'orders'\norder_by = 'body:/who'\nreduce = 'keep.js'\n\
         [[hooks.forward]]\nname = 'crm'\nurl = '{}'\n\
         [[hooks.pull]]\nname = 'worker'\n\
         [[hooks]]\nname = 'trail'\norder_by = 'body:/who'\nreduce = 'trail.js'\n\
         [[hooks]]\nname = 'sorted'\norder_by = 'body:/who'\nreduce = 'keep.js'\nversion_by = 'body:/n'\n\
         reorder_window = '10m'\n",
        sink.url()
    );
    let files = [("keep.js", KEEP_JS), ("trail.js", TRAIL_JS)];
    World::at(home, &files, &hooks)
}

/// A text that is nowhere else, and that no database compresses.
fn secret() -> String {
    let random: [u8; 24] = rand::random();
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn body(who: &str, text: &str) -> String {
    json!({"who": who, "text": text}).to_string()
}

/// Runs a command: its exit code, stdout and stderr.
fn told(home: &Home, args: &[&str]) -> (Option<i32>, String, String) {
    let done = ended(home.command(args).stdin(Stdio::null()));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (done.status.code(), text(done.stdout), text(done.stderr))
}

fn erase(world: &World, stream: &str) -> Value {
    let args = [
        "streams",
        "erase",
        stream,
        "--reason",
        "request 4711",
        "--yes",
        "--confirm",
        stream,
        "-o",
        "json",
    ];
    let (code, out, said) = told(&world.home, &args);
    assert_eq!(code, Some(0), "{said}\n{}", world.home.log());
    serde_json::from_str(&out).unwrap()
}

/// The files of a directory, and of those in it, that contain `text`.
fn files_with(dir: &Path, text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let Ok(entries) = std::fs::read_dir(dir) else {
        return found;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if let Ok(content) = std::fs::read(&path)
            && memchr::memmem::find(&content, text.as_bytes()).is_some()
        {
            found.insert(path.display().to_string());
        }
    }
    found
}

/// The places that have `text`: files of the database, the log of the daemon, Redis.
fn places_with(world: &World, text: &str) -> BTreeSet<String> {
    let mut places = files_with(&world.home.data(), text);
    if world.home.log().contains(text) {
        places.insert("log".to_owned());
    }
    let Some(servers) = &world.home.servers else {
        return places;
    };
    servers.ask("checkpoint");
    let number = "select oid from pg_database where datname = current_database()";
    let number = servers.ask(number).pop_first().unwrap();
    let files = servers.postgres.data().join("base").join(number);
    places.extend(files_with(&files, text));
    for key in servers.redis.ask(&["keys", "*"]) {
        for read in [
            &["get", &key][..],
            &["lrange", &key, "0", "-1"],
            &["hgetall", &key],
            &["zrange", &key, "0", "-1"],
            &["smembers", &key],
        ] {
            let content = servers.redis.ask(read);
            if content.iter().any(|line| line.contains(text)) {
                places.insert(format!("redis {key}"));
            }
        }
    }
    places
}

fn are_gone(world: &World, secrets: &[String]) {
    for secret in secrets {
        let left = || Some(places_with(world, secret)).filter(BTreeSet::is_empty);
        if within(A_MINUTE, left).is_none() {
            let (places, log) = (places_with(world, secret), world.home.log());
            panic!("{secret} is left in {places:?}\n{log}");
        }
    }
}

fn count_of(erased: &Value, name: &str) -> i64 {
    erased[name].as_i64().unwrap()
}

fn no_byte_of_an_erased_stream_is_left_in_the_files(setup: Setup) {
    let sink = Sink::start();
    let world = world(setup, &sink);
    let secrets: Vec<String> = (0..4).map(|_| secret()).collect();
    let [short, long, bad, key] = &secrets[..] else {
        unreachable!("four were made");
    };
    // A long body is kept apart from its row, and a state that grows is moved again and again.
    let noise: String = (0..60).map(|_| self::secret()).collect();
    for n in 0..40 {
        world.accepted("orders", body("stays", &format!("other {n}")));
        world.accepted("orders", body("c07", &format!("{short} {n}")));
        world.accepted("orders", body("c07", &format!("{noise} {long} {n}")));
    }
    let keyed = Ask::post("orders")
        .key(&world.write)
        .header("idempotency-key", key)
        .body(body("c07", "keyed"));
    assert_eq!(world.ask(&keyed).status, 202);
    let poison = json!({"who": "c07", "text": bad, "bad": true}).to_string();
    world.accepted("orders", &poison);
    world.accepted("orders", &poison);
    world.state("orders/c07", 81);
    // One is a dead letter, and its reason shows the body; at the next one the cursor is held.
    let held = world.held("orders/c07");
    let next = held["next"].as_str().unwrap();
    let skip = [
        "streams",
        "skip",
        "orders/c07",
        "--event",
        next,
        "--yes",
        "--confirm",
        "orders/c07",
    ];
    assert_eq!(told(&world.home, &skip).0, Some(0));
    until(|| (world.cursor("orders/c07")["position"] == 82).then_some(()));
    world.held("orders/c07");
    // The destination does not answer any more: a delivery is in flight.
    until(|| (sink.first_deliveries("orders/c07").len() == 83).then_some(()));
    sink.answers(|_| Answer::Hang(Duration::from_secs(3)));
    world.accepted("orders", body("c07", short));
    until(|| (sink.first_deliveries("orders/c07").len() == 84).then_some(()));
    let pull = world.admin(
        "POST",
        "/v1/hooks/orders/pull/worker",
        &json!({"max_streams": 10, "max_events": 3}),
    );
    let tokens: Vec<Value> = pull.json()["deliveries"].as_array().unwrap().clone();
    let of_stream = |of: &&Value| of["stream"] == "c07";
    let token = tokens.iter().find(of_stream).unwrap()["token"].clone();
    for secret in &secrets {
        assert_ne!(
            places_with(&world, secret),
            BTreeSet::new(),
            "it was never there"
        );
    }
    let before = world
        .get("/v1/hooks/orders/events?stream=stays&limit=500")
        .json();

    let erased = erase(&world, "orders/c07");
    let counts = ["streams", "events", "dead_letters", "dedupe_keys", "states"];
    let counts = counts.map(|name| count_of(&erased, name));
    assert_eq!(counts, [1, 84, 1, 1, 1], "{erased}");
    assert_eq!(erased["bytes"], "overwritten", "{erased}");
    assert_eq!(erased["reason"], "request 4711");
    are_gone(&world, &secrets);

    // An acknowledgement of what is gone changes nothing.
    let ack = world.admin(
        "POST",
        "/v1/hooks/orders/pull/worker/ack",
        &json!({"acks": [{"token": token, "seq": 3}]}),
    );
    assert_ne!(ack.json()["acks"][0]["ok"], true, "{ack:?}");
    let again = [
        "streams",
        "erase",
        "orders/c07",
        "--reason",
        "x",
        "--yes",
        "--confirm",
        "orders/c07",
    ];
    let (code, _, said) = told(&world.home, &again);
    assert_eq!(code, Some(5), "{said}");
    let after = world
        .get("/v1/hooks/orders/events?stream=stays&limit=500")
        .json();
    assert_eq!(before["items"], after["items"]);
    assert_eq!(
        world.state("orders/stays", 40)["texts"]
            .as_array()
            .unwrap()
            .len(),
        40
    );
    assert_eq!(told(&world.home, &["top", "--once"]).0, Some(0));
    let metrics = world.ask(&Ask::new("GET", "/metrics").key(&world.admin));
    assert_eq!(metrics.status, 200);

    // The audit log has no name, not even in rows from before.
    let (_, audit, _) = told(&world.home, &["audit", "list", "-o", "json"]);
    assert!(!audit.contains("c07"), "{audit}");
    let alias = erased["names"][0].as_str().unwrap();
    let audit: Value = serde_json::from_str(&audit).unwrap();
    let rows = audit["items"].as_array().unwrap().iter();
    let of: Vec<_> = rows
        .filter(|row| row["subject"] == alias)
        .map(|row| row["operation"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(of, ["streams erase", "streams skip"]);

    // The next event begins a new stream.
    sink.answers(|_| Answer::Status(204));
    assert_eq!(world.accepted("orders", body("c07", "anew"))["seq"], 1);
    assert_eq!(world.state("orders/c07", 1), json!({"texts": ["anew"]}));
    until(|| {
        let last = sink.seen().pop()?;
        (last.stream() == "orders/c07"
            && last.seq() == 1
            && last.body == body("c07", "anew").as_bytes())
        .then_some(())
    });
    let keyed = world.ask(&keyed);
    assert_eq!((keyed.status, keyed.json()["seq"].clone()), (202, json!(2)));
    are_gone(&world, &secrets[..3]);
}

/// Sends events of one stream, one after the other, until it is told to stop.
async fn send(addr: std::net::SocketAddr, key: &str, who: &str, stop: &AtomicBool) -> Vec<Attempt> {
    let mut client = Client::new(addr, key);
    let (began, mut log) = (Instant::now(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let number = log.len();
        let body = json!({"who": who, "number": number, "amount": 1}).to_string();
        let (body, sent_at) = (Bytes::from(body), began.elapsed());
        let answer = client.post("trail", body.clone(), None).await;
        let outcome = match answer {
            Ok(answer) if answer.status == 202 => {
                let said = answer.json();
                Outcome::Accepted(Receipt {
                    at: began.elapsed(),
                    event: said["event"].as_str().unwrap().to_owned(),
                    seq: said["seq"].as_i64().unwrap(),
                    duplicate: false,
                })
            }
            _ => Outcome::Unknown,
        };
        log.push(Attempt {
            stream: format!("trail/{who}"),
            body,
            dedupe_key: None,
            sent_at,
            outcome,
        });
    }
    log
}

fn the_others_keep_order_states_and_counts_under_load(setup: Setup) {
    let sink = Sink::start();
    let world = world(setup, &sink);
    let stop = AtomicBool::new(false);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (addr, key) = (world.home.addr, world.write.as_str());
    let log = std::thread::scope(|scope| {
        let senders: Vec<_> = ["a", "b", "c", "gone"]
            .map(|who| {
                let (runtime, stop) = (&runtime, &stop);
                scope.spawn(move || runtime.block_on(send(addr, key, who, stop)))
            })
            .into_iter()
            .collect();
        let mut erased = 0;
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(400));
            erased += count_of(&erase(&world, "trail/gone"), "events");
        }
        stop.store(true, Ordering::Relaxed);
        assert!(erased > 0, "nothing came meanwhile");
        let logs = senders.into_iter().map(|sender| sender.join().unwrap());
        let logs: Vec<_> = logs.collect();
        let sent = logs[3].len();
        assert!(
            (erased as usize) < sent,
            "the stream comes again after each"
        );
        logs.into_iter().flatten().collect::<Vec<_>>()
    });
    let stays = |stream: &str| stream != "trail/gone";
    let log: Vec<_> = log.into_iter().filter(|of| stays(&of.stream)).collect();
    runtime.block_on(async {
        let mut client = Client::new(addr, &world.read);
        checker::settle(&mut client, &["trail"], A_MINUTE).await;
        let mut stored = checker::read(&mut client, &["trail"]).await;
        stored.retain(|of| stays(&of.stream));
        let broken = checker::check(&log, &stored, trail);
        assert!(broken.is_empty(), "{}", checker::report(&broken));
    });
    let args = ["state", "rebuild", "trail", "--check", "-o", "json"];
    let (code, out, said) = told(&world.home, &args);
    assert_eq!(code, Some(0), "{said}");
    let checked: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (checked[0]["differ"].as_i64(), checked[0]["failed"].as_i64()),
        (Some(0), Some(0))
    );
}

fn a_node_that_is_killed_in_the_middle_goes_on(setup: Setup) {
    let sink = Sink::start();
    let mut world = world(setup, &sink);
    let secret = secret();
    for n in 0..300 {
        world.accepted(
            "trail",
            json!({"who": "c07", "number": n, "amount": 1, "text": secret}).to_string(),
        );
    }
    world.accepted(
        "trail",
        json!({"who": "stays", "number": 1, "amount": 1}).to_string(),
    );
    world.state("trail/c07", 300);
    let ask = Ask::new("POST", "/v1/admin/streams/erase")
        .key(&world.admin)
        .header("content-type", "application/json")
        .body(json!({"stream": "trail/c07", "reason": "x"}).to_string());
    let addr = world.home.addr;
    let asking = std::thread::spawn(move || crate::world::send(addr, &ask.bytes()));
    // The stream is gone at once; its data goes a second later.
    until(|| {
        let shown = world.admin(
            "GET",
            "/v1/admin/streams/show?stream=trail/c07",
            &Value::Null,
        );
        (shown.status == 404).then_some(())
    });
    world.kill();
    let _ = asking.join();
    assert_ne!(
        places_with(&world, &secret),
        BTreeSet::new(),
        "it was killed too late"
    );
    world.restart();
    are_gone(&world, &[secret]);
    until(|| {
        let open = world.admin("GET", "/v1/admin/streams/erasures", &Value::Null);
        (open.json()["open"] == 0).then_some(())
    });
    let again = [
        "streams",
        "erase",
        "trail/c07",
        "--reason",
        "x",
        "--yes",
        "--confirm",
        "trail/c07",
    ];
    assert_eq!(told(&world.home, &again).0, Some(5));
    assert_eq!(world.state("trail/stays", 1)["count"], 1);
}

fn streams_are_erased_by_a_pattern_and_only_as_planned(setup: Setup) {
    let sink = Sink::start();
    let world = world(setup, &sink);
    for who in ["eu-1", "eu-2", "us-1"] {
        world.accepted("orders", body(who, "x"));
    }
    let of = |more: &[&str]| {
        let pattern = [
            "streams",
            "erase",
            "--hook",
            "orders",
            "--matching",
            "eu-*",
            "--reason",
            "x",
        ];
        told(&world.home, &[&pattern[..], more].concat())
    };
    let (code, out, said) = of(&["--dry-run", "-o", "json"]);
    assert_eq!(code, Some(0), "{said}");
    let plan: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (plan["streams"].as_i64(), &plan["bytes"]),
        (Some(2), &json!("planned"))
    );
    let (code, _, said) = of(&[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--confirm 2"), "{said}");
    let other = json!({"hook": "orders", "matching": "eu-*", "expect": 3});
    let refused = world.admin("POST", "/v1/admin/streams/erase", &other);
    assert_eq!(refused.status, 409, "{refused:?}");
    let (code, _, said) = of(&["--yes", "--confirm", "2"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, _, said) = of(&["--yes", "--confirm", "0"]);
    assert_eq!(code, Some(5), "{said}");
    assert_eq!(world.state("orders/us-1", 1), json!({"texts": ["x"]}));
    assert_eq!(world.accepted("orders", body("eu-1", "x"))["seq"], 1);
    for wrong in [
        json!({}),
        json!({"stream": "orders/a", "hook": "orders", "matching": "*"}),
        json!({"hook": "orders", "matching": ""}),
    ] {
        let refused = world.admin("POST", "/v1/admin/streams/erase", &wrong);
        assert_eq!(refused.status, 422, "{wrong} {refused:?}");
    }
}

fn an_event_that_is_held_back_goes_too(setup: Setup) {
    let sink = Sink::start();
    let world = world(setup, &sink);
    let secret = secret();
    let body = json!({"who": "c07", "n": 3, "text": secret}).to_string();
    assert_eq!(world.post("sorted", &body).status, 202);
    assert_ne!(
        places_with(&world, &secret),
        BTreeSet::new(),
        "it was never there"
    );
    let erased = erase(&world, "sorted/c07");
    assert_eq!(
        (count_of(&erased, "held_back"), count_of(&erased, "events")),
        (1, 0)
    );
    are_gone(&world, &[secret]);
}
