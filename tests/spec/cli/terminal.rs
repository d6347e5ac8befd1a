//! Commands at a terminal, on both set-ups: bounded waits, waiting events, authors of keys, and
//! thresholds of namespaces.

use serde_json::{Value, json};

use super::daemon::Setup;
use super::world::{self, World, until};

/// Takes its time for each event.
const SLOW_JS: &str = "export default function reduce(state, event) {\n\
    for (let i = 0; i < 400000; i++);\n\
    return event.seq;\n}\n";

const HOOKS: &str = "[[namespaces]]\nname = 'acme'\n\
    [[hooks]]\nname = 'orders'\nreduce = 'count'\norder_by = 'body:/account'\n\
    [[hooks]]\nname = 'ship'\nreduce = 'count'\n";

fn world(setup: Setup) -> World {
    World::new(setup, &[("slow.js", SLOW_JS)], HOOKS)
}

/// Exit code, stdout and stderr of a command.
fn ended(world: &World, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hooklane"));
    // Not as a flag: the --data of `send` is a body.
    let command = command.args(args).env("HOOKLANE_DATA", world.home.data());
    let done = world::ended(command);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (done.status.code(), text(done.stdout), text(done.stderr))
}

/// JSON output of a command.
fn said(world: &World, args: &[&str]) -> Value {
    let args = [args, &["-o", "json"]].concat();
    serde_json::from_str(&world.home.run(&args)).unwrap()
}

/// The JSON that is the last line of a text.
fn last(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// The first JSON of a text.
fn first(text: &str) -> Value {
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    values.next().unwrap().unwrap()
}

fn an_event_is_followed_for_as_long_as_is_asked_and_then_goes_on_by_itself(setup: Setup) {
    let world = world(setup);
    world.home.run(&["lanes", "pause", "--all", "--yes"]);
    let send = [
        "send",
        "orders",
        "--body",
        r#"{"account":"a"}"#,
        "--timeout",
        "1s",
    ];
    let (code, _, said) = ended(&world, &send);
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains("orders/a seq 1 is not folded after 1.0s"),
        "{said}"
    );
    assert!(said.contains("goes on  by itself"), "{said}");
    assert!(said.contains("hooklane why orders/a"), "{said}");

    let (code, printed, said) = ended(
        &world,
        &[&send[..], &["--count", "3", "-o", "json"]].concat(),
    );
    assert_eq!(code, Some(3), "{said}");
    assert_eq!(last(&said)["error"]["code"], "not_folded", "{said}");
    assert_eq!(
        first(&printed)["accepted"],
        3,
        "what was accepted is told: {printed}"
    );

    world.home.run(&["lanes", "resume", "--all"]);
    assert_eq!(world.state("orders/a", 4), json!(4), "it went on by itself");
}

fn a_rebuild_is_watched_for_as_long_as_is_asked_and_then_goes_on_by_itself(setup: Setup) {
    let world = world(setup);
    let events = 400;
    for _ in 0..events {
        world.accepted("orders", r#"{"account":"a"}"#);
    }
    world.accepted("ship", "{}");
    assert_eq!(world.state("orders/a", events), json!(events));
    let slow = world.home.write("slow.js", SLOW_JS);
    let slow = slow.to_str().unwrap();
    world
        .home
        .run(&["hooks", "edit", "orders", "--reduce", slow]);
    let rebuild = [
        "state",
        "rebuild",
        "--all",
        "--timeout",
        "600ms",
        "--yes",
        "--confirm",
        "all",
    ];
    let (code, printed, said) = ended(&world, &[&rebuild[..], &["-o", "json"]].concat());
    assert_eq!(code, Some(3), "{said}");
    let told = first(&printed);
    assert_eq!(told[1]["state"], "done", "the other did not wait: {told}");
    assert_eq!(
        (&told[0]["hook"], &told[0]["state"]),
        (&json!("orders"), &json!("running"))
    );
    let error = &last(&said)["error"];
    assert_eq!(error["code"], "not_done", "{said}");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("orders is not rebuilt after 600ms: "),
        "{message}"
    );
    let next = error["next"].to_string();
    assert!(next.contains("by itself"), "{next}");

    let running = || {
        world
            .admin("GET", "/v1/admin/rebuilds", &Value::Null)
            .json()
    };
    until(|| {
        running()["items"]
            .as_array()
            .unwrap()
            .is_empty()
            .then_some(())
    });
    assert_eq!(
        world.state("orders/a", events),
        json!(events),
        "by the slow one: its last seq"
    );
    let era = said_era(&world);
    assert!(era > 1, "it switched by itself");
}

fn said_era(world: &World) -> i64 {
    said(world, &["state", "show", "orders/a"])["era"]
        .as_i64()
        .unwrap()
}

fn a_stream_shows_what_it_needs_next_in_order(setup: Setup) {
    let world = world(setup);
    let posted: Vec<_> = (1..=3)
        .map(|n| {
            if n == 2 {
                world.home.run(&["streams", "hold", "orders/a"]);
            }
            world.accepted("orders", json!({"account": "a", "n": n}).to_string())
        })
        .inspect(|_| drop(world.state("orders/a", 1)))
        .collect();
    let shown = said(&world, &["streams", "show", "orders/a"]);
    assert_eq!(shown["floor"], 0);
    let waiting = &shown["waiting"][0];
    assert_eq!(waiting["handler"], "reduce");
    let ids: Vec<_> = waiting["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["event"])
        .collect();
    assert_eq!(ids, [&posted[1]["event"], &posted[2]["event"]]);
    assert_eq!(waiting["events"][0]["start"], r#"{"account":"a","n":2}"#);
    assert_eq!(waiting["events"][0]["size"], 21);

    let text = world
        .home
        .run(&["streams", "show", "orders/a", "--events", "1"]);
    let lines: Vec<_> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .collect();
    let at = lines
        .iter()
        .position(|line| *line == ["waiting", "for", "reduce,", "in", "order"]);
    let [header, row, more] = &lines[at.unwrap() + 1..] else {
        panic!("{text}")
    };
    assert_eq!(*header, ["SEQ", "EVENT", "AGE", "SIZE", "BODY"]);
    assert_eq!(
        (row[0], *row.last().unwrap()),
        ("2", r#"{"account":"a","n":2}"#)
    );
    assert_eq!(*more, ["...", "1", "more"]);
    let none = world
        .home
        .run(&["streams", "show", "orders/a", "--events", "0"]);
    assert!(!none.contains("waiting for"), "{none}");
    let path = "/v1/admin/streams/show?stream=orders/a&events=101";
    assert_eq!(world.admin("GET", path, &Value::Null).status, 400);
}

fn a_state_is_folded_again_to_be_looked_at_and_stays_as_it_is(setup: Setup) {
    let world = world(setup);
    for n in 1..=3 {
        world.accepted("orders", json!({"account": "a", "n": n}).to_string());
    }
    assert_eq!(world.state("orders/a", 3), json!(3));
    let show = ["state", "show", "orders/a", "--rebuilt"];
    let (code, printed, said) = ended(&world, &show);
    assert_eq!((code, printed.as_str()), (Some(0), "3\n"), "{said}");
    assert!(
        said.contains("position 3") && said.contains("the live state is the same"),
        "{said}"
    );

    world
        .home
        .run(&["hooks", "edit", "orders", "--reduce", "latest"]);
    let (code, printed, said) = ended(&world, &show);
    assert_eq!(
        (code, printed.as_str()),
        (Some(0), "{\"account\":\"a\",\"n\":3}\n"),
        "{said}"
    );
    assert!(said.contains("the live state differs"), "{said}");
    assert!(
        said.contains("switch  hooklane state rebuild orders/a"),
        "{said}"
    );
    assert_eq!(world.state("orders/a", 3), json!(3), "nothing was changed");
    let told = first(&ended(&world, &[&show[..], &["-o", "json"]].concat()).1);
    assert_eq!(
        (&told["position"], &told["state"]["n"]),
        (&json!(3), &json!(3))
    );
}

/// Failed and skipped events are counted, and the time of disk syncs where the database is a file.
fn failures_dead_letters_and_syncs_are_counted(setup: Setup) {
    let files = [(
        "picky.js",
        "export default () => { throw new Error('no') };\n",
    )];
    let world = World::new(
        setup,
        &files,
        "[[hooks]]\nname = 'bills'\nreduce = 'picky.js'\n",
    );
    world.accepted("bills", "{}");
    let held = world.held("bills");
    let snapshot = || {
        world
            .admin("GET", "/v1/admin/snapshot", &Value::Null)
            .json()
    };
    let seen = until(|| Some(snapshot()).filter(|seen| seen["total"]["failures"] == 1));
    assert_eq!(seen["total"]["dead"], 0);
    let lanes = seen["lanes"].as_array().unwrap();
    let failed: Vec<_> = lanes
        .iter()
        .map(|lane| lane["failures"].as_u64().unwrap())
        .collect();
    assert_eq!(failed.iter().sum::<u64>(), 1, "{failed:?}");
    assert_eq!(lanes[0]["in_flight"], Value::Null, "nothing is delivered");
    let fsync = [
        &seen["storage"]["fsync_p99_ms"],
        &seen["nodes"][0]["fsync_p99_ms"],
    ];
    match setup {
        Setup::Embedded => assert!(fsync.iter().all(|ms| ms.as_f64().is_some()), "{fsync:?}"),
        Setup::Production => assert_eq!(fsync, [&Value::Null; 2]),
    }
    let commit = seen["storage"]["commit_p99_ms"].as_f64().unwrap();
    assert!(
        fsync[0].as_f64().is_none_or(|ms| ms <= commit),
        "a part of it: {seen}"
    );
    let next = held["next"].as_str().unwrap();
    let worst = |lane: &Value| lane["worst"]["next"].as_str().map(str::to_owned);
    let lanes = said(&world, &["lanes", "list"])["items"].take();
    let worst: Vec<_> = lanes.as_array().unwrap().iter().filter_map(worst).collect();
    assert_eq!(worst, [next], "{lanes}");
    world.home.run(&[
        "streams",
        "skip",
        "bills",
        "--event",
        next,
        "--yes",
        "--confirm",
        "bills",
    ]);
    until(|| (snapshot()["total"]["dead"] == 1).then_some(()));
}

/// Bodies are cut between characters and tell nothing to the terminal.
fn what_is_shown_of_a_body_is_short_and_harmless(setup: Setup) {
    let world = world(setup);
    world.home.run(&["hooks", "pause", "ship"]);
    world.accepted("ship", "\u{1b}[31m\u{9b}".to_owned() + &"ü".repeat(500));
    world.accepted("ship", [0xff, 0xfe, b'x']);
    let shown = said(&world, &["streams", "show", "ship"]);
    let start = |at: usize| {
        shown["waiting"][0]["events"][at]["start"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(start(0).chars().count(), 120);
    assert_eq!(start(1), "\u{fffd}\u{fffd}x");
    let text = world.home.run(&["streams", "show", "ship"]);
    assert!(!text.contains(['\u{1b}', '\u{9b}']), "{text:?}");
}

fn keys_say_who_made_them_and_who_revokes_one_says_why(setup: Setup) {
    let world = world(setup);
    let spec = json!({"kind": "read", "hook": null, "name": "grafana", "expires_in_ms": null});
    let made = world.admin("POST", "/v1/admin/keys", &spec).json();
    assert_eq!(made["created_by"], "key ops");
    let uid = rustix::process::getuid().as_raw();
    let keys = said(&world, &["keys", "list"]);
    let by = |name: &str| {
        let mut keys = keys["items"].as_array().unwrap().iter();
        keys.find(|key| key["name"] == name).unwrap()["created_by"].clone()
    };
    assert_eq!(by("ops"), json!(format!("uid {uid}")));
    assert_eq!(by("grafana"), "key ops");
    let table = world.home.run(&["keys", "list"]);
    let header: Vec<_> = table
        .lines()
        .next()
        .unwrap()
        .split("  ")
        .map(str::trim)
        .collect();
    assert!(
        header.windows(2).any(|two| two == ["CREATED", "BY"]) || header.contains(&"BY"),
        "{table}"
    );
    assert!(table.contains("key ops"), "{table}");

    let path = format!(
        "/v1/admin/keys/{}?reason=left%20in%20a%20chat",
        made["id"].as_str().unwrap()
    );
    assert_eq!(world.admin("DELETE", &path, &Value::Null).status, 200);
    let row = said(&world, &["audit", "list", "--limit", "1"])["items"][0].take();
    assert_eq!(
        (&row["operation"], &row["reason"]),
        (&json!("keys revoke"), &json!("left in a chat"))
    );
}

/// A namespace of its own thresholds is late when the default one would not be, and stays so.
fn a_namespace_is_late_when_its_operator_says_so(setup: Setup) {
    let mut world = world(setup);
    world.home.run(&[
        "namespaces",
        "create",
        "quick",
        "--warn",
        "50ms",
        "--crit",
        "100ms",
    ]);
    let slow = world.home.write("slow.js", SLOW_JS);
    let slow = slow.to_str().unwrap();
    world.home.run(&[
        "hooks",
        "create",
        "rush",
        "--namespace",
        "quick",
        "--reduce",
        slow,
    ]);
    let of = |world: &World, namespace: &str| {
        let list = said(world, &["namespaces", "list"]);
        let mut items = list["items"].as_array().unwrap().iter();
        let found = items.find(|item| item["name"] == namespace).unwrap();
        (
            found["warn_ms"].as_u64().unwrap(),
            found["crit_ms"].as_u64().unwrap(),
        )
    };
    assert_eq!(of(&world, "quick"), (50, 100));
    assert_eq!(of(&world, "acme"), (10_000, 60_000));
    let spec = json!({"name": "no", "warn_ms": 10, "crit_ms": 9});
    let reply = world.admin("POST", "/v1/admin/namespaces", &spec);
    assert_eq!(reply.status, 422, "{reply:?}");

    until(|| {
        let snapshot = world
            .admin("GET", "/v1/admin/snapshot?namespace=quick", &Value::Null)
            .json();
        assert_eq!(snapshot["crit_ms"], 100);
        let flow = snapshot["total"]["flow_ms"].as_u64().unwrap_or(0);
        // As late as it stays, no other thresholds make it so, and its lane only by their slope.
        for _ in 0..if flow < 1_000 { 20 } else { 0 } {
            world.accepted("rush", "{}");
        }
        // The cause is only computed for a late namespace, and so is the severity of its lane.
        let (rule, severity) = (
            &snapshot["verdicts"][0]["rule"],
            &snapshot["lanes"][0]["severity"],
        );
        (flow < 5_000 && *rule == 7 && severity == "trouble").then_some(())
    });

    // A file changes what it names, and nothing else.
    let file = world.home.write(
        "spaces.toml",
        "[[namespaces]]\nname = 'quick'\nwarn = '20ms'\n",
    );
    let file = file.to_str().unwrap();
    let changes = said(&world, &["hooks", "apply", file])["changes"].take();
    assert_eq!(
        changes[0]["what"],
        json!(["warn: 50ms -> 20ms"]),
        "{changes}"
    );
    assert_eq!(
        said(&world, &["hooks", "apply", file])["changes"],
        json!([])
    );
    world.kill();
    world.restart();
    assert_eq!(of(&world, "quick"), (20, 100), "they are durable");
}

/// A node knows its learned usual values right after a restart.
fn a_node_that_is_started_again_knows_what_is_normal(setup: Setup) {
    let mut world = world(setup);
    let run = |world: &World, sql: &str| match &world.home.servers {
        Some(servers) => servers.ask(sql),
        None => {
            let db = rusqlite::Connection::open(world.home.data().join("hooklane.db")).unwrap();
            db.busy_timeout(super::world::PATIENCE).unwrap();
            let mut rows = db.prepare(sql).unwrap();
            let rows = rows.query_map([], |row| row.get::<_, i64>(0)).unwrap();
            rows.map(|row| row.unwrap().to_string()).collect()
        }
    };
    let hook = |world: &World| {
        let seen = world
            .admin("GET", "/v1/admin/snapshot", &Value::Null)
            .json();
        let mut hooks = seen["hooks"].as_array().unwrap().iter();
        hooks.find(|hook| hook["hook"] == "orders").cloned()
    };
    let stop = |world: &mut World| {
        let mut daemon = world.daemon.take().unwrap();
        let ended = daemon.terminate(super::world::PATIENCE).unwrap();
        assert!(ended.success(), "{ended}");
    };
    // One sample less than what counts as known: 403 a second, by its logarithm.
    stop(&mut world);
    run(&world, "insert into normals (node, kind, subject, mean, samples, learned_at)
        select 'a', 'hook', id, 6000000, 5, 4102444800000 from hooks where name = 'orders' returning samples");
    world.restart();
    assert_eq!(until(|| hook(&world))["normal_per_s"], Value::Null);
    let known = until(|| {
        world.accepted("orders", r#"{"account":"a"}"#);
        Some(hook(&world)?["normal_per_s"].clone()).filter(|normal| !normal.is_null())
    });
    let known = known.as_f64().unwrap();
    assert!((50.0..403.0).contains(&known), "{known}");

    stop(&mut world);
    let samples = run(
        &world,
        "select samples from normals where node = 'a' and kind = 'hook'",
    );
    let samples: Vec<i64> = samples
        .iter()
        .map(|text| text.trim().parse().unwrap())
        .collect();
    assert!(samples.len() == 1 && samples[0] >= 6, "{samples:?}");
    world.restart();
    let again = until(|| hook(&world));
    assert!(again["normal_per_s"].as_f64().unwrap() > 1.0, "{again}");
}

on_both_setups! {
    a_node_that_is_started_again_knows_what_is_normal
    an_event_is_followed_for_as_long_as_is_asked_and_then_goes_on_by_itself
    a_rebuild_is_watched_for_as_long_as_is_asked_and_then_goes_on_by_itself
    a_stream_shows_what_it_needs_next_in_order
    a_state_is_folded_again_to_be_looked_at_and_stays_as_it_is
    failures_dead_letters_and_syncs_are_counted
    what_is_shown_of_a_body_is_short_and_harmless
    keys_say_who_made_them_and_who_revokes_one_says_why
    a_namespace_is_late_when_its_operator_says_so
}
