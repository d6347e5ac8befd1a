//! Handlers that take some of the events: they pass the others in order, count them, and say so.

use serde_json::{Value, json};

use super::daemon::{Home, Setup};
use super::sink::{Answer, Sink};
use super::world::{Ask, World, encoded, ended, until};

on_both_setups! {
    every_kind_of_handler_passes_what_it_does_not_take
    a_failing_event_is_the_next_one_although_others_are_passed
    a_batch_holds_what_the_handler_takes
    a_filter_is_shown_changed_and_ended
}

#[test]
fn a_pattern_that_cannot_be_parsed_is_said_in_a_line_and_changes_nothing() {
    let world = World::new(Setup::Embedded, &[], "[[hooks]]\nname = 'orders'\n");
    for args in [
        &[
            "hooks", "create", "new", "--reduce", "count", "--only", "type=x",
        ][..],
        &["hooks", "create", "new", "--pull", "w", "--only", "/type="],
        &["hooks", "edit", "orders", "--only", "/type=x"],
        &[
            "hooks",
            "edit",
            "orders",
            "--forward",
            "crm=http://127.0.0.1:1",
            "--only",
            "header:=x",
        ],
    ] {
        let done = ended(&mut world.home.command(args));
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{args:?}: {said}");
        assert_eq!(said.matches("error:").count(), 1, "{said}");
    }
    let names = world.home.run(&["hooks", "list", "-o", "names"]);
    assert_eq!(names, "orders");
    let shown = world.home.run(&["hooks", "show", "orders", "-o", "json"]);
    assert!(!shown.contains("only") && !shown.contains("crm"), "{shown}");
}

fn world(setup: Setup, hooks: &str) -> World {
    let mut home = Home::new(setup);
    home.environment
        .push(("HOOKLANE_ALLOW_DESTINATION", "127.0.0.0/8"));
    World::at(home, &[], hooks)
}

fn event(kind: &str, n: i64) -> String {
    json!({"type": kind, "n": n, "who": "a"}).to_string()
}

fn cursor(world: &World, stream: &str, handler: &str) -> Value {
    let path = format!("/v1/admin/streams/show?stream={}", encoded(stream));
    let shown = world.admin("GET", &path, &Value::Null).json();
    let cursors = shown["cursors"].as_array().cloned().unwrap_or_default();
    let of = |cursor: &Value| cursor["handler"] == handler;
    cursors.into_iter().find(of).unwrap_or_default()
}

fn comes_to(world: &World, handler: &str, seq: i64) {
    until(|| (cursor(world, "orders/a", handler)["position"] == seq).then_some(()));
}

fn passed(world: &World) -> u64 {
    let page = String::from_utf8(world.get("/metrics").body).unwrap();
    let line = "hooklane_events_passed_total{reason=\"filter\"} ";
    let count = page.lines().find_map(|of| of.strip_prefix(line));
    count.unwrap().parse().unwrap()
}

fn every_kind_of_handler_passes_what_it_does_not_take(setup: Setup) {
    let sink = Sink::start();
    let only = "only = ['/type=invoice.*']";
    let hooks = format!(
        "[[hooks]]\nname = 'orders'\norder_by = '/who'\nreduce = 'append:9'\n{only}\n\
         [[hooks.forward]]\nname = 'crm'\nurl = '{}'\n{only}\n\
         [[hooks.pull]]\nname = 'worker'\n{only}\n",
        sink.url()
    );
    let world = world(setup, &hooks);
    let kinds = [
        "charge.paid",
        "invoice.paid",
        "x",
        "invoice.sent",
        "invoicing",
        "y",
    ];
    let mut ids = Vec::new();
    for (n, kind) in (1..).zip(kinds) {
        ids.push(world.accepted("orders", event(kind, n))["event"].clone());
    }
    let state = world.state("orders/a", 6);
    let folded: Vec<_> = state
        .as_array()
        .unwrap()
        .iter()
        .map(|body| body["n"].clone())
        .collect();
    assert_eq!(folded, [2, 4]);
    comes_to(&world, "crm", 6);
    assert_eq!(sink.first_deliveries("orders/a"), [2, 4]);

    let pull = |path: &str, body: Value| {
        let ask = Ask::new("POST", &format!("/v1/hooks/orders/pull/{path}"));
        world
            .ask(&ask.key(&world.admin).body(body.to_string()))
            .json()
    };
    let got = until(|| {
        pull("worker", json!({"wait": "5s"}))["deliveries"]
            .get(0)
            .cloned()
    });
    let seqs: Vec<_> = got["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["seq"].clone())
        .collect();
    assert_eq!(seqs, [2, 4]);
    assert_eq!(
        cursor(&world, "orders/a", "worker")["position"],
        1,
        "what is before is passed"
    );
    pull(
        "worker/ack",
        json!({"acks": [{"token": got["token"], "seq": 4}]}),
    );
    assert_eq!(
        pull("worker", json!({"wait": "0s"}))["deliveries"],
        json!([])
    );
    comes_to(&world, "worker", 6);
    assert_eq!(
        passed(&world),
        3 * 4 - 1,
        "the one in a delivery is acknowledged with it"
    );

    let shown = world
        .home
        .run(&["events", "show", ids[0].as_str().unwrap()]);
    let reason = "it does not match --only body:/type=invoice.*";
    for handler in ["reduce", "crm", "worker"] {
        let line = shown.lines().find(|line| line.contains(handler));
        let line = line.unwrap_or_else(|| panic!("{handler}: {shown}"));
        assert!(line.contains("passed") && line.contains(reason), "{shown}");
    }
    let shown = world
        .home
        .run(&["events", "show", ids[1].as_str().unwrap()]);
    assert!(
        shown.contains("folded") && shown.contains("delivered"),
        "{shown}"
    );
    let why = world
        .home
        .run(&["why", "orders/a", "--event", ids[2].as_str().unwrap()]);
    assert!(why.contains(&format!("crm: passed, {reason}")), "{why}");
    assert!(why.contains("takes only body:/type=invoice.*"), "{why}");

    // A rebuild leads to the same state.
    let args = ["state", "rebuild", "orders", "--check", "-o", "json"];
    let checked: Value = serde_json::from_str(&world.home.run(&args)).unwrap();
    assert_eq!(
        (&checked[0]["differ"], &checked[0]["failed"]),
        (&json!(0), &json!(0))
    );
}

fn a_failing_event_is_the_next_one_although_others_are_passed(setup: Setup) {
    let sink = Sink::start();
    sink.answers(|seen| Answer::Status(if seen.seq() == 3 { 503 } else { 204 }));
    let hooks = format!(
        "[[hooks]]\nname = 'orders'\norder_by = '/who'\n\
         [[hooks.forward]]\nname = 'crm'\nurl = '{}'\nonly = ['/type=a', '/type=b']\nattempts = 1\n",
        sink.url()
    );
    let world = world(setup, &hooks);
    let mut ids = Vec::new();
    for (n, kind) in (1..).zip(["a", "x", "b", "x", "a"]) {
        ids.push(world.accepted("orders", event(kind, n))["event"].clone());
    }
    let row =
        until(|| Some(cursor(&world, "orders/a", "crm")).filter(|row| row["condition"] == "held"));
    assert_eq!(row["position"], 2, "{row}");
    let next = ids[2].as_str().unwrap();
    world.home.run(&[
        "streams",
        "skip",
        "orders/a",
        "--handler",
        "crm",
        "--event",
        next,
        "--yes",
        "--confirm",
        "orders/a",
    ]);
    comes_to(&world, "crm", 5);
    assert_eq!(sink.first_deliveries("orders/a"), [1, 3, 5]);
}

fn a_batch_holds_what_the_handler_takes(setup: Setup) {
    let sink = Sink::start();
    // The first answer acknowledges two of three, and so what lies between.
    sink.answers(|seen| match seen.seq() {
        2 => Answer::Full(200, "x-a: b", r#"{"seq":5}"#.into()),
        _ => Answer::Status(204),
    });
    let hooks = format!(
        "[[hooks]]\nname = 'orders'\norder_by = '/who'\n\
         [[hooks.forward]]\nname = 'crm'\nurl = '{}'\nonly = ['/type=a']\nbatch = '10'\n\
         debounce = '400ms,2s'\n",
        sink.url()
    );
    let world = world(setup, &hooks);
    for (n, kind) in (1..).zip(["x", "a", "x", "x", "a", "x", "a", "x"]) {
        world.accepted("orders", event(kind, n));
    }
    comes_to(&world, "crm", 8);
    let batches: Vec<Vec<i64>> = sink
        .seen()
        .iter()
        .map(|seen| {
            let body: Value = serde_json::from_slice(&seen.body).unwrap();
            let events = body["events"].as_array().unwrap();
            events
                .iter()
                .map(|event| event["seq"].as_i64().unwrap())
                .collect()
        })
        .collect();
    assert_eq!(batches, [vec![2, 5, 7], vec![7]]);
    assert_eq!(passed(&world), 5);
}

fn a_filter_is_shown_changed_and_ended(setup: Setup) {
    let world = world(setup, "");
    world.home.run(&[
        "hooks",
        "create",
        "orders",
        "--order-by",
        "/who",
        "--reduce",
        "count",
        "--only",
        "/type=a",
        "--only",
        "/type=b",
    ]);
    let shown = world.home.run(&["hooks", "show", "orders"]);
    assert!(shown.contains("body:/type=a, body:/type=b"), "{shown}");
    world.accepted("orders", event("a", 1));
    world.accepted("orders", event("c", 2));
    assert_eq!(world.state("orders/a", 2), 1);
    let done = ended(
        &mut world
            .home
            .command(&["hooks", "edit", "orders", "--no-only"]),
    );
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(
        said.contains("only: body:/type=a, body:/type=b -> -"),
        "{said}"
    );
    let back = "hooklane hooks edit orders --only body:/type=a --only body:/type=b";
    assert!(said.contains(back), "{said}");
    world.accepted("orders", event("c", 3));
    assert_eq!(world.state("orders/a", 3), 2);
    // Another filter makes another fold: what is there stays until a rebuild.
    let rebuild = ["state", "rebuild", "orders", "--yes", "--confirm", "orders"];
    world.home.run(&rebuild);
    assert_eq!(world.state("orders/a", 3), 3);
    let shown = world.home.run(&["hooks", "show", "orders", "-o", "json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["fold"], shown.get("only")), (&json!(2), None));
}
