//! The provider's order where senders, reducers, receivers and operators see it.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::daemon::{Client, Home, Setup};
use super::seeds::seed;
use super::sink::Sink;
use super::world::{Ask, World, encoded, ended, until};

on_both_setups! {
    late_events_are_applied_marked_or_skipped_as_the_hook_said_when_they_came
    held_back_events_outlive_a_kill_and_come_in_the_order_of_their_versions
    a_thousand_shuffled_streams_end_in_the_state_of_the_sorted_fold
    an_event_after_its_window_is_late_and_named
}

/// Keeps the versions and the marks of all events.
const MARKS_JS: &str = "export default (state, event) =>
  [...(state ?? []), [event.body.v ?? null, event.late]];\n";

/// Adds up what an event changes, in a way that depends on the order.
const SUM_JS: &str = "export default (state, event) =>
  ({ n: (state?.n ?? 0) + 1, sum: ((state?.sum ?? 7) * 31 + event.body.v) % 1000003 });\n";

fn world(setup: Setup, hooks: &str) -> World {
    let mut home = Home::new(setup);
    home.environment
        .push(("HOOKLANE_ALLOW_DESTINATION", "127.0.0.0/8"));
    World::at(home, &[("marks.js", MARKS_JS), ("sum.js", SUM_JS)], hooks)
}

fn event(version: i64) -> String {
    json!({"v": version, "who": "a"}).to_string()
}

/// The line of `text` that begins with a label.
fn line<'t>(text: &'t str, label: &str) -> &'t str {
    let found = text.lines().find(|line| line.starts_with(label));
    found.unwrap_or_else(|| panic!("no {label} in {text}"))
}

fn metric(world: &World, line: &str) -> u64 {
    let page = String::from_utf8(world.get("/metrics").body).unwrap();
    let found = page.lines().find_map(|of| of.strip_prefix(line));
    found.map_or(0, |count| count.trim().parse().unwrap())
}

fn late_events_are_applied_marked_or_skipped_as_the_hook_said_when_they_came(setup: Setup) {
    let sink = Sink::start();
    let hooks = format!(
        "[[hooks]]\nname = 'orders'\norder_by = '/who'\nreduce = 'marks.js'\nversion_by = '/v'\n\
         [[hooks.forward]]\nname = 'crm'\nurl = '{}'\n[[hooks.pull]]\nname = 'worker'\n",
        sink.url()
    );
    let world = world(setup, &hooks);
    world.accepted("orders", event(5));
    world.accepted("orders", event(3));
    let skip = ["hooks", "edit", "orders", "--late", "skip"];
    let said = ended(&mut world.home.command(&skip));
    let said = String::from_utf8(said.stderr).unwrap();
    let told = "versions: body:/v, late events are marked -> body:/v, late events are skipped";
    let back = "hooklane hooks edit orders --version-by body:/v --late mark --reorder-window none";
    assert!(said.contains(told) && said.contains(back), "{said}");
    let skipped = world.accepted("orders", event(2))["event"].clone();
    world
        .home
        .run(&["hooks", "edit", "orders", "--late", "apply"]);
    let applied = world.accepted("orders", event(1))["event"].clone();
    world.accepted("orders", r#"{"who":"a"}"#);
    let last = world.accepted("orders", event(9));
    assert_eq!(last["seq"], 6, "{last}");

    let wanted = json!([[5, false], [3, true], [1, false], [null, false], [9, false]]);
    assert_eq!(world.state("orders/a", 6), wanted);
    until(|| (sink.seen().len() == 5).then_some(()));
    let seen = sink.seen();
    let seqs: Vec<_> = seen
        .iter()
        .map(|seen| (seen.seq(), seen.header("hooklane-late")))
        .collect();
    assert_eq!(seqs, [(1, ""), (2, "true"), (4, ""), (5, ""), (6, "")]);
    let ask = Ask::new("POST", "/v1/hooks/orders/pull/worker").key(&world.admin);
    let got = world.ask(&ask.body(r#"{"wait":"5s"}"#)).json();
    let pulled = got["deliveries"][0]["events"].as_array().unwrap().clone();
    let pulled: Vec<_> = pulled
        .iter()
        .map(|e| (e["seq"].clone(), e["late"] == true))
        .collect();
    let wanted_pull = [(1, false), (2, true), (4, false), (5, false), (6, false)];
    assert_eq!(pulled, wanted_pull.map(|(seq, late)| (json!(seq), late)));

    // A test of the reducer on a marked event.
    let marked = world.home.run(&["events", "list", "--late", "-o", "names"]);
    let marked = marked.lines().last().unwrap();
    let whole = world.home.run(&["events", "show", marked, "-o", "json"]);
    let file = world.home.write("marked.json", &whole);
    let test = [
        "hooks",
        "test",
        "orders",
        "--event",
        file.to_str().unwrap(),
        "-o",
        "json",
    ];
    let tested: Value = serde_json::from_str(&world.home.run(&test)).unwrap();
    assert_eq!(tested["state"], json!([[3, true]]), "{whole}");

    // A rebuild treats each event as it was treated when it came.
    world
        .home
        .run(&["hooks", "edit", "orders", "--late", "skip"]);
    let check = ["state", "rebuild", "orders", "--check", "-o", "json"];
    let checked: Value = serde_json::from_str(&world.home.run(&check)).unwrap();
    assert_eq!(checked[0]["differ"], 0, "{checked}");
    world
        .home
        .run(&["state", "rebuild", "orders", "--yes", "--confirm", "orders"]);
    assert_eq!(world.state("orders/a", 6), wanted);

    let shown = world
        .home
        .run(&["events", "show", skipped.as_str().unwrap()]);
    let reason = "it came after an event with a higher version (--late skip)";
    assert_eq!(
        shown.matches(&format!("passed: {reason}")).count(),
        2,
        "{shown}"
    );
    let shown = world
        .home
        .run(&["events", "show", applied.as_str().unwrap()]);
    assert!(line(&shown, "late").ends_with("(--late apply)"), "{shown}");
    let listed = world.home.run(&["events", "list", "--late", "-o", "names"]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    for args in [
        &["hooks", "show", "orders"][..],
        &["streams", "show", "orders/a"],
        &["why", "orders/a"],
    ] {
        let shown = world.home.run(args);
        assert!(
            line(&shown, "order  ").ends_with("3 events were late"),
            "{shown}"
        );
    }
    assert_eq!(
        metric(&world, "hooklane_events_late_total{hook=\"orders\"} "),
        3
    );
}

fn held_back_events_outlive_a_kill_and_come_in_the_order_of_their_versions(setup: Setup) {
    let hooks = "[[hooks]]\nname = 'orders'\norder_by = '/who'\nreduce = 'marks.js'\n\
         version_by = 'header:x-version'\nreorder_window = '1h'\n";
    let mut world = world(setup, hooks);
    let post = |world: &World, version: &str, number: i64| {
        let ask = Ask::post("orders")
            .key(&world.write)
            .header("x-version", version);
        let ask = ask.header("idempotency-key", format!("k{number}"));
        world.ask(&ask.body(event(number)))
    };
    let first = post(&world, "2026-01-01T00:00:03Z", 3);
    assert_eq!(first.status, 202, "{first:?}");
    let first = first.json();
    assert!(
        first["seq"].is_null() && first["waits_until"].is_string(),
        "{first}"
    );
    let id = first["event"].as_str().unwrap();
    post(&world, "2026-01-01T01:00:01+01:00", 1);
    post(&world, "2026-01-01T00:00:02.5Z", 2);
    let again = post(&world, "2026-01-01T00:00:03Z", 3);
    assert_eq!(
        (again.status, again.json()["event"].as_str()),
        (200, Some(id))
    );

    let shown = world.home.run(&["events", "show", id]);
    assert!(
        line(&shown, "stream").contains("orders/a, held back until "),
        "{shown}"
    );
    assert!(shown.ends_with(&event(3)), "{shown}");
    let listed = world
        .home
        .run(&["events", "list", "--delivery", "k3", "-o", "names"]);
    assert_eq!(listed, id);
    let shown = world.home.run(&["hooks", "show", "orders"]);
    let told = "header:x-version, late events are marked, held back for 1h00";
    assert!(line(&shown, "versions").contains(told), "{shown}");
    let told = "0 events were late; 3 events are held back, the first until ";
    assert!(line(&shown, "order  ").contains(told), "{shown}");
    let why = ended(&mut world.home.command(&["why", "orders/a"]));
    let why = String::from_utf8(why.stderr).unwrap();
    assert!(
        why.contains("3 events are held back by the reorder window"),
        "{why}"
    );

    world.kill();
    world.restart();
    // An event without a version does not wait.
    world.accepted("orders", event(0));
    assert_eq!(world.state("orders/a", 1), json!([[0, false]]));
    world
        .home
        .run(&["hooks", "edit", "orders", "--reorder-window", "10ms"]);
    let wanted = json!([[0, false], [1, false], [2, false], [3, false]]);
    assert_eq!(world.state("orders/a", 4), wanted);
    let again = post(&world, "2026-01-01T00:00:03Z", 3).json();
    assert_eq!(
        (again["event"].as_str(), &again["seq"]),
        (Some(id), &json!(4))
    );
}

fn an_event_after_its_window_is_late_and_named(setup: Setup) {
    let hooks = "[[hooks]]\nname = 'orders'\norder_by = '/who'\nreduce = 'marks.js'\n\
         version_by = '/v'\nreorder_window = '50ms'\n";
    let world = world(setup, hooks);
    world.accepted("orders", event(7));
    assert_eq!(world.state("orders/a", 1), json!([[7, false]]));
    let late = world.accepted("orders", event(6));
    assert_eq!(world.state("orders/a", 2), json!([[7, false], [6, true]]));
    let listed = world.home.run(&["events", "list", "--late", "-o", "names"]);
    assert_eq!(json!(listed), late["event"]);
    assert_eq!(
        metric(&world, "hooklane_events_late_total{hook=\"orders\"} "),
        1
    );
    let path = format!("/v1/admin/streams/show?stream={}", encoded("orders/a"));
    let shown = world.admin("GET", &path, &Value::Null).json();
    assert_eq!(
        shown["order"],
        json!({"late": 1, "held_back": 0, "next_due_at": null})
    );
}

/// The state of `SUM_JS` after these versions.
fn sum(versions: impl Iterator<Item = i64>) -> Value {
    let (mut n, mut sum) = (0, 7);
    for version in versions {
        (n, sum) = (n + 1, (sum * 31 + version) % 1_000_003);
    }
    json!({"n": n, "sum": sum})
}

fn a_thousand_shuffled_streams_end_in_the_state_of_the_sorted_fold(setup: Setup) {
    const STREAMS: usize = 1_000;
    const EVENTS: usize = 5;
    const SENDERS: usize = 16;
    let hooks = "[[hooks]]\nname = 'orders'\norder_by = '/who'\nreduce = 'sum.js'\n\
         version_by = '/v'\nreorder_window = '10m'\n";
    let world = world(setup, hooks);
    let mut chance = StdRng::seed_from_u64(seed());
    let mut versions: Vec<Vec<i64>> = Vec::new();
    for _ in 0..STREAMS {
        versions.push(
            (0..EVENTS)
                .map(|_| chance.random_range(0..1_000_000))
                .collect(),
        );
    }
    let streams = versions.iter().enumerate();
    let bodies = streams.flat_map(|(stream, of)| {
        of.iter()
            .map(move |v| json!({"v": v, "who": format!("s{stream}")}).to_string())
    });
    let mut bodies: Vec<_> = bodies.collect();
    bodies.shuffle(&mut chance);
    let bodies = Arc::new(Mutex::new(bodies));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let senders = (0..SENDERS).map(|_| {
            let (bodies, mut client) = (bodies.clone(), Client::new(world.home.addr, &world.write));
            tokio::spawn(async move {
                loop {
                    let Some(body) = bodies.lock().pop() else {
                        return;
                    };
                    let answer = client.post("orders", body.into(), None).await.unwrap();
                    assert_eq!(answer.status, 202, "{}", answer.json());
                }
            })
        });
        for sender in senders.collect::<Vec<_>>() {
            sender.await.unwrap();
        }
    });
    // All have arrived within their windows.
    world
        .home
        .run(&["hooks", "edit", "orders", "--reorder-window", "1s"]);
    let all = i64::try_from(EVENTS).unwrap();
    let mut right = 0;
    for (stream, of) in versions.iter_mut().enumerate() {
        of.sort_unstable();
        let state = world.state(&format!("orders/s{stream}"), all);
        right += usize::from(state == sum(of.iter().copied()));
    }
    assert!(
        right * 1_000 >= STREAMS * 999,
        "{right} of {STREAMS} states are right"
    );
    assert_eq!(
        metric(&world, "hooklane_events_late_total{hook=\"orders\"} "),
        0
    );
}

#[test]
fn settings_that_make_no_sense_are_said_in_a_line_and_change_nothing() {
    let world = World::new(Setup::Embedded, &[], "[[hooks]]\nname = 'orders'\n");
    let file = world.home.write(
        "wrong.toml",
        "[[hooks]]\nname = 'new'\nreduce = 'count'\nreorder_window = '5s'\n",
    );
    for args in [
        &["hooks", "create", "new", "--late", "skip"][..],
        &["hooks", "create", "new", "--reorder-window", "5s"],
        &["hooks", "create", "new", "--version-by", "updated"],
        &[
            "hooks",
            "create",
            "new",
            "--version-by",
            "/v",
            "--late",
            "stale",
        ],
        &[
            "hooks",
            "create",
            "new",
            "--version-by",
            "/v",
            "--reorder-window",
            "61m",
        ],
        &[
            "hooks",
            "create",
            "new",
            "--version-by",
            "/v",
            "--reorder-window",
            "0s",
        ],
        &[
            "hooks",
            "create",
            "new",
            "--version-by",
            "/v",
            "--reorder-window",
            "soon",
        ],
        &["hooks", "edit", "orders", "--late", "mark"],
        &[
            "hooks",
            "edit",
            "orders",
            "--version-by",
            "none",
            "--late",
            "skip",
        ],
        &["hooks", "apply", file.to_str().unwrap()],
    ] {
        let done = ended(&mut world.home.command(args));
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{args:?}: {said}");
        assert_eq!(said.matches("error:").count(), 1, "{said}");
        println!("{args:?}: {said}");
    }
    for (field, value) in [
        ("late", json!("skip")),
        ("reorder_window_ms", json!(5)),
        ("version_by", json!("updated")),
        ("late", json!("stale")),
    ] {
        let body = json!({field: value});
        let reply = world.admin("PATCH", "/v1/admin/hooks/orders", &body);
        assert!((400..500).contains(&reply.status), "{reply:?}");
        reply.code();
    }
    assert_eq!(world.home.run(&["hooks", "list", "-o", "names"]), "orders");
}
