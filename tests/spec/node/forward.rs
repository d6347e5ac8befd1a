//! Promises to a destination: each event of a stream once, in order, through all failures.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::daemon::Setup;
use super::sink::{Answer, Sink};
use super::world::{World, encoded, until, within};

on_both_setups! {
    every_event_comes_once_in_order_byte_for_byte_and_signed
    a_destination_that_fails_holds_up_its_own_streams_and_nothing_else
    whatever_a_destination_does_no_event_is_passed_over
    a_kill_repeats_at_most_the_delivery_that_was_in_flight
    a_batch_is_one_request_and_its_answer_says_how_far_it_came
    of_the_events_that_gathered_the_newest_is_delivered
    an_event_that_used_up_its_tries_is_held_or_skipped
    an_address_that_is_not_public_is_not_reached
    a_forward_that_begins_now_delivers_what_comes_from_now_on
    lanes_are_resized_and_drained_while_deliveries_hang
    a_delivery_that_waits_for_its_turn_does_not_begin_in_a_paused_lane
    a_pause_waits_for_the_delivery_in_flight_or_names_the_node_that_does
    deliveries_are_seen_where_people_look
}

/// A world whose deliveries may reach this machine.
fn world(setup: Setup, hooks: &str) -> World {
    let mut home = super::daemon::Home::new(setup);
    home.environment
        .push(("HOOKLANE_ALLOW_DESTINATION", "127.0.0.0/8"));
    World::at(home, &[], hooks)
}

fn orders(sink: &Sink, more: &str) -> String {
    format!(
        "[[hooks]]\nname = 'orders'\norder_by = '/who'\nreduce = 'count'\n\
         [[hooks.forward]]\nname = 'crm'\nurl = '{}'\n{more}\n",
        sink.url()
    )
}

fn event(who: &str, n: i64) -> String {
    json!({"who": who, "n": n}).to_string()
}

fn cursor(world: &World, stream: &str, handler: &str) -> Value {
    let path = format!("/v1/admin/streams/show?stream={}", encoded(stream));
    let shown = world.admin("GET", &path, &Value::Null).json();
    let cursors = shown["cursors"].as_array().cloned().unwrap_or_default();
    let of = |cursor: &Value| cursor["handler"] == handler;
    cursors.into_iter().find(of).unwrap_or_default()
}

/// Waits until the forward handler of a stream has come to `seq`.
fn delivered(world: &World, stream: &str, seq: i64) {
    let there = within(Duration::from_secs(60), || {
        (cursor(world, stream, "crm")["position"] == seq).then_some(())
    });
    assert!(
        there.is_some(),
        "{}\n{}",
        cursor(world, stream, "crm"),
        world.home.log()
    );
}

fn at_most_one_in_flight(sink: &Sink) {
    for seen in sink.seen() {
        assert_eq!(seen.in_flight, 1, "{seen:?}");
    }
}

fn every_event_comes_once_in_order_byte_for_byte_and_signed(setup: Setup) {
    let sink = Sink::start();
    let world = world(setup, "");
    let url = format!("crm={}", sink.url());
    let made = world.home.run(&[
        "hooks",
        "create",
        "orders",
        "--order-by",
        "/who",
        "--forward",
        &url,
        "-o",
        "json",
    ]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let secret = made["new_secrets"][0]["secret"]
        .as_str()
        .unwrap()
        .to_owned();
    let shown = world.home.run(&["hooks", "show", "orders", "-o", "json"]);
    assert!(
        !shown.contains(&secret[10..]),
        "a secret is shown once: {shown}"
    );
    let mut sent = BTreeMap::<String, Vec<String>>::new();
    for n in 1..=20 {
        for who in ["a", "b", "c d/é"] {
            let body = format!("{{ \"n\" : {n},\n \"who\": {:?} }}", who);
            let reply = world.ask(
                &super::world::Ask::post("orders")
                    .key(&world.write)
                    .header("content-type", "application/x-own")
                    .body(&body),
            );
            assert_eq!(reply.status, 202, "{reply:?}");
            sent.entry(who.to_owned()).or_default().push(body);
        }
    }
    for (who, bodies) in sent {
        delivered(&world, &format!("orders/{who}"), 20);
        let stream = format!(
            "orders/{}",
            who.replace(' ', "%20")
                .replace('/', "%2F")
                .replace('é', "%C3%A9")
        );
        let seen: Vec<_> = sink
            .seen()
            .into_iter()
            .filter(|seen| seen.stream() == stream)
            .collect();
        assert_eq!(
            seen.iter().map(|seen| seen.seq()).collect::<Vec<_>>(),
            (1..=20).collect::<Vec<_>>()
        );
        for (seen, body) in seen.iter().zip(bodies) {
            assert_eq!(seen.body, body.as_bytes());
            assert_eq!(seen.header("content-type"), "application/x-own");
            assert_eq!(seen.attempt(), 1);
            assert!(is_signed(seen, &secret), "{seen:?}");
        }
    }
    at_most_one_in_flight(&sink);
}

/// Verifies as a receiver would, in other words than those that sign: over the raw parts, with OpenSSL.
pub fn is_signed(seen: &super::sink::Seen, secret: &str) -> bool {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let script = "key=$(printf %s \"$1\" | base64 -d | od -An -v -tx1 | tr -d ' \\n'); \
                  openssl dgst -sha256 -mac HMAC -macopt hexkey:$key -binary | base64";
    let mut signer = Command::new("sh")
        .args(["-c", script, "sh", secret.strip_prefix("whsec_").unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (id, at) = (seen.header("webhook-id"), seen.header("webhook-timestamp"));
    let mut stdin = signer.stdin.take().unwrap();
    stdin.write_all(format!("{id}.{at}.").as_bytes()).unwrap();
    stdin.write_all(&seen.body).unwrap();
    drop(stdin);
    let signed = signer.wait_with_output().unwrap().stdout;
    let signed = String::from_utf8(signed).unwrap();
    seen.header("webhook-signature") == format!("v1,{}", signed.trim())
}

fn a_destination_that_fails_holds_up_its_own_streams_and_nothing_else(setup: Setup) {
    let (down, up) = (Sink::start(), Sink::start());
    down.answers(|_| Answer::Full(503, "retry-after: 1", "no upstream".into()));
    let hooks =
        orders(&down, "") + &format!("[[hooks.forward]]\nname = 'erp'\nurl = '{}'\n", up.url());
    let world = world(setup, &hooks);
    for n in 1..=10 {
        for who in ["a", "b"] {
            world.accepted("orders", event(who, n));
        }
    }
    for who in ["a", "b"] {
        let stream = format!("orders/{who}");
        assert_eq!(
            world.state(&stream, 10),
            10,
            "the reducer goes its own pace"
        );
        until(|| (cursor(&world, &stream, "erp")["position"] == 10).then_some(()));
        let row = until(|| {
            Some(cursor(&world, &stream, "crm")).filter(|row| row["condition"] == "waiting")
        });
        assert_eq!(row["position"], 0);
        let reason = row["reason"].as_str().unwrap();
        assert!(
            reason.contains("503") && reason.contains("no upstream"),
            "{reason}"
        );
        assert_eq!(up.first_deliveries(&stream), (1..=10).collect::<Vec<_>>());
        assert_eq!(
            down.first_deliveries(&stream),
            [1],
            "nothing overtakes the first"
        );
    }
    down.answers(|_| Answer::Status(200));
    for who in ["a", "b"] {
        let stream = format!("orders/{who}");
        delivered(&world, &stream, 10);
        assert_eq!(down.first_deliveries(&stream), (1..=10).collect::<Vec<_>>());
        let tries = down
            .seen()
            .into_iter()
            .filter(|seen| seen.stream() == stream && seen.seq() == 1);
        let tries: Vec<_> = tries.map(|seen| seen.attempt()).collect();
        assert_eq!(
            tries,
            (1..=u32::try_from(tries.len()).unwrap()).collect::<Vec<_>>()
        );
    }
    at_most_one_in_flight(&down);
}

fn whatever_a_destination_does_no_event_is_passed_over(setup: Setup) {
    let sink = Sink::start();
    sink.answers(|seen| match (seen.seq(), seen.attempt()) {
        (1, 1) => Answer::Drop,
        (2, 1) => Answer::Half,
        (3, 1) => Answer::Full(302, "location: http://127.0.0.1:1/", String::new()),
        // Longer than the timeout, shorter than the timeout and the wait for the next try.
        (4, 1) => Answer::Hang(Duration::from_millis(800)),
        (5, 1) => Answer::Status(404),
        (6, 1) => Answer::Full(200, "x: y", "x".repeat(100_000)),
        (7, 1) => Answer::Status(410),
        _ => Answer::Status(204),
    });
    let world = world(setup, &orders(&sink, "timeout = '500ms'"));
    for n in 1..=8 {
        world.accepted("orders", event("a", n));
    }
    let row =
        until(|| Some(cursor(&world, "orders/a", "crm")).filter(|row| row["condition"] == "held"));
    assert_eq!(row["position"], 6, "a 410 holds: {row}");
    assert_eq!(
        sink.first_deliveries("orders/a"),
        (1..=7).collect::<Vec<_>>()
    );
    let tries = |seq| sink.seen().iter().filter(|seen| seen.seq() == seq).count();
    assert_eq!(
        (1..=7).map(tries).collect::<Vec<_>>(),
        [2, 2, 2, 2, 2, 1, 1]
    );
    let why = world.home.run(&["why", "orders/a", "--handler", "crm"]);
    assert!(why.contains("THEM") && why.contains("410"), "{why}");
    until(|| {
        let status = world.home.command(&["status"]).output().unwrap();
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        status.contains("THEM  orders/a -> crm held").then_some(())
    });
    let retry = ["streams", "retry", "orders/a", "--handler", "crm"];
    sink.answers(|_| Answer::Status(204));
    world.home.run(&retry);
    delivered(&world, "orders/a", 8);
    assert_eq!(
        sink.first_deliveries("orders/a"),
        (1..=8).collect::<Vec<_>>()
    );
    at_most_one_in_flight(&sink);
}

fn a_kill_repeats_at_most_the_delivery_that_was_in_flight(setup: Setup) {
    let sink = Sink::start();
    sink.answers(|_| Answer::Late(Duration::from_millis(20)));
    let mut world = world(setup, &orders(&sink, ""));
    // All of it is there before the first delivery, however quick those are.
    world.home.run(&["hooks", "pause", "orders"]);
    for n in 1..=60 {
        for who in ["a", "b", "c"] {
            world.accepted("orders", event(who, n));
        }
    }
    world.home.run(&["hooks", "resume", "orders"]);
    for _ in 0..3 {
        let before = sink.seen().len();
        until(|| (sink.seen().len() > before + 15).then_some(()));
        world.kill();
        world.restart();
    }
    for who in ["a", "b", "c"] {
        let stream = format!("orders/{who}");
        delivered(&world, &stream, 60);
        assert_eq!(sink.first_deliveries(&stream), (1..=60).collect::<Vec<_>>());
        let seen = sink.seen();
        let mut newest = 0;
        let mut stale = 0;
        for seq in seen
            .iter()
            .filter(|seen| seen.stream() == stream)
            .map(|seen| seen.seq())
        {
            stale += usize::from(seq <= newest);
            newest = newest.max(seq);
        }
        assert!(stale <= 3, "one stale delivery a kill at most: {stale}");
    }
}

fn a_batch_is_one_request_and_its_answer_says_how_far_it_came(setup: Setup) {
    let sink = Sink::start();
    sink.answers(|seen| match seen.attempt() {
        1 if seen.seq() == 1 => Answer::Status(500),
        _ => {
            let body: Value = serde_json::from_slice(&seen.body).unwrap();
            let events = body["events"].as_array().unwrap();
            // No more than three at a time are dealt with here.
            let last = events[..events.len().min(3)].last().unwrap()["seq"].clone();
            Answer::Full(
                200,
                "content-type: application/json",
                json!({"seq": last}).to_string(),
            )
        }
    });
    let world = world(setup, &orders(&sink, "batch = '5'"));
    for n in 1..=12 {
        world.accepted("orders", event("a", n));
    }
    delivered(&world, "orders/a", 12);
    let mut acknowledged = Vec::new();
    for seen in sink.seen().iter().filter(|seen| seen.is_acknowledged) {
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        let events = body["events"].as_array().unwrap().clone();
        assert!(events.len() <= 5, "{}", events.len());
        assert_eq!(
            (&body["hook"], &body["stream"], &body["handler"]),
            (&json!("orders"), &json!("a"), &json!("crm"))
        );
        acknowledged.extend(
            events
                .iter()
                .take(3)
                .map(|event| event["seq"].as_i64().unwrap()),
        );
    }
    assert_eq!(acknowledged, (1..=12).collect::<Vec<_>>());
    at_most_one_in_flight(&sink);
}

fn of_the_events_that_gathered_the_newest_is_delivered(setup: Setup) {
    let sink = Sink::start();
    let more = "coalesce = true\ndebounce = '300ms,3s'";
    let world = world(setup, &orders(&sink, more));
    for n in 1..=15 {
        world.accepted("orders", event("a", n));
    }
    delivered(&world, "orders/a", 15);
    let seqs = sink.first_deliveries("orders/a");
    assert_eq!(seqs.last(), Some(&15));
    assert!(seqs.len() < 15, "{seqs:?}");
    assert!(seqs.is_sorted());
}

fn an_event_that_used_up_its_tries_is_held_or_skipped(setup: Setup) {
    let sink = Sink::start();
    sink.answers(|seen| match seen.seq() {
        2 => Answer::Full(422, "x: y", "no such customer".into()),
        _ => Answer::Status(204),
    });
    let world = world(setup, &orders(&sink, "attempts = 2\non_error = 'skip'"));
    for n in 1..=3 {
        world.accepted("orders", event("a", n));
    }
    delivered(&world, "orders/a", 3);
    assert_eq!(sink.first_deliveries("orders/a"), [1, 2, 3]);
    let dead = world.home.run(&["events", "list", "--dead", "-o", "json"]);
    assert!(
        dead.contains("no such customer") && dead.contains("2 tries"),
        "{dead}"
    );
    world.home.run(&[
        "hooks",
        "edit",
        "orders",
        "--forward",
        "crm",
        "--on-error",
        "hold",
    ]);
    sink.answers(|seen| match seen.seq() {
        4 => Answer::Status(400),
        _ => Answer::Status(204),
    });
    world.accepted("orders", event("a", 4));
    until(|| (cursor(&world, "orders/a", "crm")["condition"] == "held").then_some(()));
}

fn an_address_that_is_not_public_is_not_reached(setup: Setup) {
    let sink = Sink::start();
    // Without the flag.
    let world = World::new(setup, &[], &orders(&sink, ""));
    world.accepted("orders", event("a", 1));
    let row = until(|| {
        Some(cursor(&world, "orders/a", "crm")).filter(|row| row["condition"] == "waiting")
    });
    let reason = row["reason"].as_str().unwrap();
    assert!(
        reason.contains("127.0.0.1 is not a public address"),
        "{reason}"
    );
    assert!(reason.contains("--allow-destination 127.0.0.1"), "{reason}");
    assert!(sink.seen().is_empty());
    for (url, why) in [
        ("crm=ftp://x.example", "does not begin with http"),
        ("crm=https://u:hunter2@x.example", "user part"),
        ("crm=x", "does not begin with http"),
        ("reduce=https://x.example", "choose another"),
        ("c r m=https://x.example", "not a name"),
    ] {
        let (code, _, said) = super::embedded::serve::attempt(
            &world.home,
            &["hooks", "create", "other", "--forward", url],
        );
        assert_eq!(code, Some(2), "{url}: {said}");
        assert!(
            said.contains(why) && !said.contains("hunter2"),
            "{url}: {said}"
        );
    }
}

fn a_forward_that_begins_now_delivers_what_comes_from_now_on(setup: Setup) {
    let (early, late) = (Sink::start(), Sink::start());
    let world = world(setup, &orders(&early, ""));
    for n in 1..=5 {
        world.accepted("orders", event("a", n));
    }
    delivered(&world, "orders/a", 5);
    let url = format!("erp={}", late.url());
    world.home.run(&[
        "hooks",
        "edit",
        "orders",
        "--forward",
        &url,
        "--from",
        "now",
    ]);
    let url = format!("all={}", late.url().replace("/hooks", "/all"));
    world
        .home
        .run(&["hooks", "edit", "orders", "--forward", &url]);
    world.accepted("orders", event("a", 6));
    for handler in ["erp", "all", "crm"] {
        until(|| (cursor(&world, "orders/a", handler)["position"] == 6).then_some(()));
    }
    let count = |seq| late.seen().iter().filter(|seen| seen.seq() == seq).count();
    assert_eq!((1..=6).map(count).collect::<Vec<_>>(), [1, 1, 1, 1, 1, 2]);
    assert_eq!(world.state("orders/a", 6), 6);
    world
        .home
        .run(&["hooks", "edit", "orders", "--remove-forward", "erp"]);
    assert_eq!(cursor(&world, "orders/a", "erp"), Value::Null);
}

fn lanes_are_resized_and_drained_while_deliveries_hang(setup: Setup) {
    let sink = Sink::start();
    sink.answers(|seen| match seen.attempt() {
        1 => Answer::Late(Duration::from_millis(1_500)),
        _ => Answer::Status(204),
    });
    let world = world(setup, &orders(&sink, ""));
    let streams: Vec<_> = (0..8).map(|n| format!("s{n}")).collect();
    for n in 1..=2 {
        for who in &streams {
            world.accepted("orders", event(who, n));
        }
    }
    until(|| (sink.seen().len() >= 8).then_some(()));
    world.home.run(&["lanes", "resize", "3", "--yes"]);
    world.home.run(&["lanes", "resize", "12", "--yes"]);
    for who in &streams {
        let stream = format!("orders/{who}");
        delivered(&world, &stream, 2);
        assert_eq!(sink.first_deliveries(&stream), [1, 2]);
        let seen = sink.seen();
        assert_eq!(
            seen.iter().filter(|seen| seen.stream() == stream).count(),
            2,
            "none is repeated"
        );
    }
    at_most_one_in_flight(&sink);
}

fn a_delivery_that_waits_for_its_turn_does_not_begin_in_a_paused_lane(setup: Setup) {
    let sink = Sink::start();
    sink.answers(|_| Answer::Late(Duration::from_secs(2)));
    let world = world(setup, &orders(&sink, "max_in_flight = 1"));
    let streams = ["orders/a", "orders/b", "orders/c"];
    for who in ["a", "b", "c"] {
        world.accepted("orders", event(who, 1));
    }
    until(|| (sink.seen().len() == 1).then_some(()));
    world.home.run(&["lanes", "pause", "--all", "--yes"]);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(sink.seen().len(), 1, "the others wait for a resume");
    world.home.run(&["lanes", "resume", "--all"]);
    for stream in streams {
        delivered(&world, stream, 1);
    }
    assert_eq!(sink.seen().len(), 3);
}

fn a_pause_waits_for_the_delivery_in_flight_or_names_the_node_that_does(setup: Setup) {
    let sink = Sink::start();
    sink.answers(|seen| match seen.seq() {
        1 => Answer::Late(Duration::from_millis(1_500)),
        _ => Answer::Late(Duration::from_secs(7)),
    });
    let world = world(setup, &orders(&sink, "timeout = '10s'"));
    let path = |verb: &str| format!("/v1/admin/hooks/orders/{verb}");
    let pause = || world.admin("POST", &path("pause"), &json!({})).json();
    let begins = |count| until(|| (sink.seen().len() == count).then_some(()));
    world.accepted("orders", event("a", 1));
    begins(1);
    let paused = pause();
    assert!(sink.seen()[0].is_acknowledged, "it has ended: {paused}");
    assert_eq!(paused["waits_for"], json!([]), "{paused}");

    world.admin("POST", &path("resume"), &json!({}));
    world.accepted("orders", event("a", 2));
    begins(2);
    let paused = pause();
    assert!(!sink.seen()[1].is_acknowledged, "it is in flight: {paused}");
    let late = paused["waits_for"].as_array().unwrap();
    assert_eq!(late.len(), 1, "{paused}");
    delivered(&world, "orders/a", 2);
    until(|| (pause()["waits_for"] == json!([])).then_some(()));
    assert_eq!(sink.first_deliveries("orders/a"), [1, 2]);
    assert_eq!(sink.seen().len(), 2, "none is repeated");
}

fn deliveries_are_seen_where_people_look(setup: Setup) {
    let sink = Sink::start();
    sink.answers(|seen| match (seen.seq(), seen.attempt()) {
        (3, 1) => Answer::Full(503, "x-a: b", "busy now".into()),
        (4, _) => Answer::Hang(Duration::from_secs(3)),
        _ => Answer::Status(204),
    });
    let world = world(setup, &orders(&sink, ""));
    for n in 1..=3 {
        world.accepted("orders", event("a", n));
    }
    delivered(&world, "orders/a", 3);
    let shown = world.home.run(&["hooks", "show", "orders", "-o", "json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let of = &shown["deliveries"][0];
    assert_eq!(
        (&of["handler"], &of["acknowledged"], &of["failed"]),
        (&json!("crm"), &json!(3), &json!(1)),
        "{of}"
    );
    assert!(
        of["last_ok_at"].is_string() && of["p50_ms"].is_u64(),
        "{of}"
    );
    for args in [
        &["hooks", "show", "orders"][..],
        &["streams", "show", "orders/a"],
        &["why", "orders/a"],
    ] {
        let told = world.home.run(args);
        assert!(
            told.contains("3 acknowledged, 1 failed; last: ok in "),
            "{args:?}: {told}"
        );
    }
    let page = String::from_utf8(world.get("/metrics").body).unwrap();
    let line = |outcome: &str| {
        let labels = format!("hook=\"orders\",handler=\"crm\",outcome=\"{outcome}\"");
        format!("hooklane_handler_deliveries_total{{{labels}}}")
    };
    assert!(page.contains(&(line("acknowledged") + " 3")), "{page}");
    assert!(page.contains(&(line("failed") + " 1")), "{page}");

    // The dashboard has a column for what is in flight, as a hook delivers.
    world.accepted("orders", event("a", 4));
    until(|| {
        let now = world
            .admin("GET", "/v1/admin/snapshot", &Value::Null)
            .json();
        let lanes = now["lanes"].as_array()?.clone();
        lanes
            .iter()
            .any(|lane| lane["in_flight"] == 1)
            .then_some(())
    });
}
