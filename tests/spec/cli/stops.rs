//! Hooks and streams that operators pause and resume by name, and the lanes in which they are shown.

use serde_json::{Value, json};

use std::time::Duration;

use super::daemon::{Home, Servers, Setup};
use super::postgres;
use super::world::{World, until, within};
use hooklane::domain::time::Timestamp;

const HOOKS: &str = "[[hooks]]\nname = 'orders'\nreduce = 'count'\norder_by = 'body:/account'\n\
    [[hooks]]\nname = 'bills'\nreduce = 'count'\norder_by = 'body:/account'\n";

fn world(setup: Setup) -> World {
    World::at(Home::new(setup), &[], HOOKS)
}

fn post(world: &World, stream: &str) -> i64 {
    let (hook, account) = stream.split_once('/').unwrap();
    let body = json!({"account": account}).to_string();
    world.accepted(hook, body)["seq"].as_i64().unwrap()
}

/// JSON output and exit code of a command.
fn ask(home: &Home, args: &[&str]) -> (Value, Option<i32>) {
    let args = [args, &["-o", "json"]].concat();
    let output = home.command(&args).output().unwrap();
    (
        serde_json::from_slice(&output.stdout).unwrap_or_default(),
        output.status.code(),
    )
}

fn position(home: &Home, stream: &str) -> i64 {
    let (shown, _) = ask(home, &["streams", "show", stream]);
    shown["cursors"][0]["position"].as_i64().unwrap()
}

fn a_paused_hook_keeps_what_comes_through_a_restart_and_says_who_wanted_it(setup: Setup) {
    let mut world = world(setup);
    post(&world, "orders/a");
    world.state("orders/a", 1);
    let home = &world.home;
    let paused = home.command(&["hooks", "pause", "orders", "--reason", "deploy"]);
    let paused = { paused }.output().unwrap();
    let said = String::from_utf8_lossy(&paused.stderr).into_owned();
    assert_eq!(paused.status.code(), Some(0), "{said}");
    assert!(
        said.contains("back  hooklane hooks resume orders"),
        "{said}"
    );
    assert_eq!(ask(home, &["hooks", "pause", "orders"]).0["changed"], false);

    for _ in 0..3 {
        post(&world, "orders/a");
    }
    post(&world, "bills/a");
    world.state("bills/a", 1);
    assert_eq!(position(home, "orders/a"), 1, "no turn after the pause");
    world.kill();
    world.restart();
    let home = &world.home;
    post(&world, "bills/a");
    world.state("bills/a", 2);
    assert_eq!(position(home, "orders/a"), 1, "no turn after the restart");

    let (hook, _) = ask(home, &["hooks", "show", "orders"]);
    assert_eq!(hook["paused"]["reason"], "deploy", "{hook}");
    let (shown, _) = ask(home, &["streams", "show", "orders/a"]);
    assert_eq!(shown["cursors"][0]["condition"], "paused", "{shown}");
    let list = home.run(&["hooks", "list"]);
    let row = list.lines().find(|row| row.starts_with("orders")).unwrap();
    assert!(
        row.contains(" paused ") && list.contains(" flowing "),
        "{list}"
    );
    let (why, _) = ask(home, &["why", "orders/a"]);
    assert_eq!(why["class"], "ON PURPOSE", "{why}");
    let told = why.to_string();
    assert!(
        told.contains("hook orders paused by uid") && told.contains("deploy"),
        "{told}"
    );
    assert!(told.contains("hooklane hooks resume orders"), "{told}");
    let (status, code) = until(|| {
        let (status, code) = ask(home, &["status"]);
        (status["verdicts"][0]["events"] == 3).then_some((status, code))
    });
    assert_eq!(
        (code, &status["verdicts"][0]["class"]),
        (Some(0), &json!("ON PURPOSE"))
    );

    // Moving it to other lanes and back does not let it go on.
    home.run(&["namespaces", "create", "acme", "--lanes", "2"]);
    home.run(&["hooks", "edit", "orders", "--namespace", "acme"]);
    home.run(&["hooks", "edit", "orders", "--namespace", "default"]);
    assert_eq!(position(home, "orders/a"), 1, "no turn after a move");

    home.run(&["hooks", "resume", "orders", "--reason", "deployed"]);
    world.state("orders/a", 4);
    let (audit, _) = ask(home, &["audit", "list"]);
    let rows = audit["items"].as_array().unwrap();
    let of = |operation: &str| {
        rows.iter()
            .filter(|row| row["operation"] == operation)
            .count()
    };
    assert_eq!((of("hooks pause"), of("hooks resume")), (1, 1), "{audit}");
    assert_eq!(ask(home, &["hooks", "pause", "nowhere"]).1, Some(5));
}

fn what_waits_in_a_stopped_lane_is_as_old_after_a_restart_as_it_was_before(setup: Setup) {
    let mut world = world(setup);
    let (paused, code) = ask(&world.home, &["lanes", "pause", "--all", "--yes"]);
    assert_eq!(code, Some(0), "{paused}");
    let time = |value: &Value| -> Timestamp { serde_json::from_value(value.clone()).unwrap() };
    let accepted = world.accepted("orders", r#"{"account":"a"}"#);
    world.kill();
    world.restart();
    post(&world, "orders/a");
    let oldest = || {
        let seen = world
            .admin("GET", "/v1/admin/snapshot", &Value::Null)
            .json();
        let age = seen["total"]["oldest_ms"].as_u64()?;
        Some(time(&seen["at"]).as_millis() - i64::try_from(age).unwrap())
    };
    let received = time(&accepted["received_at"]).as_millis();
    let is_told = within(Duration::from_secs(20), || {
        (oldest()? == received).then_some(())
    });
    assert!(
        is_told.is_some(),
        "it counts from {:?}, not from {received}",
        oldest()
    );
}

fn a_held_stream_stands_alone_and_goes_on_in_order_when_it_is_released(setup: Setup) {
    let world = world(setup);
    let home = &world.home;
    post(&world, "orders/a");
    post(&world, "orders/b");
    world.state("orders/a", 1);
    let (held, code) = ask(home, &["streams", "hold", "orders/a", "--reason", "a look"]);
    assert_eq!((held["held"].as_i64(), code), (Some(1), Some(0)));
    assert_eq!(ask(home, &["streams", "hold", "orders/a"]).0["held"], 0);
    for _ in 0..5 {
        post(&world, "orders/a");
    }
    post(&world, "orders/b");
    world.state("orders/b", 2);
    assert_eq!(position(home, "orders/a"), 1);
    let (shown, _) = ask(home, &["streams", "show", "orders/a"]);
    let reason = shown["cursors"][0]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("held by uid ") && reason.ends_with(": a look"),
        "{reason}"
    );

    let worst = until(|| {
        let (status, code) = ask(home, &["status"]);
        assert_eq!(code, Some(0), "on purpose: {status}");
        let worst = status["verdicts"][0].clone();
        (worst["events"] == 5).then_some(worst)
    });
    assert_eq!(worst["class"], "ON PURPOSE", "{worst}");
    let (why, _) = ask(home, &["why", "orders/a"]);
    assert_eq!(why["class"], "ON PURPOSE", "{why}");
    assert!(
        why.to_string()
            .contains("hooklane streams release orders/a"),
        "{why}"
    );

    let lane = shown["lane"].as_str().unwrap();
    let (shown, _) = ask(home, &["lanes", "show", lane]);
    assert_eq!(
        (&shown["held"], &shown["lane"]),
        (&json!(1), &json!(lane)),
        "{shown}"
    );
    let first = &shown["lines"][0];
    assert_eq!(
        (&first["stream"], &first["behind"]),
        (&json!("orders/a"), &json!(5))
    );
    let table = home.run(&["lanes", "show", lane]);
    assert!(table.contains("orders/a  reduce   held"), "{table}");
    assert_eq!(ask(home, &["lanes", "show", "99"]).1, Some(5));

    let (released, _) = ask(home, &["streams", "release", "orders/a"]);
    assert_eq!(released["released"], 1);
    world.state("orders/a", 6);
    assert_eq!(
        ask(home, &["streams", "release", "orders/a"]).0["released"],
        0
    );
    assert_eq!(ask(home, &["streams", "hold", "orders/nobody"]).1, Some(5));
    let (audit, _) = ask(home, &["audit", "list"]);
    let rows = audit["items"].as_array().unwrap().iter();
    let operations: Vec<_> = rows.map(|row| row["operation"].clone()).collect();
    assert_eq!(operations[..2], ["streams release", "streams hold"]);
}

fn a_reducer_whose_error_speaks_of_a_hold_is_no_operator(setup: Setup) {
    let reducer = "export default () => { throw 'held by uid 0: customs' }";
    let hooks = "[[hooks]]\nname = 'orders'\nreduce = 'no.js'\norder_by = 'body:/account'\n";
    let world = World::at(Home::new(setup), &[("no.js", reducer)], hooks);
    let home = &world.home;
    post(&world, "orders/a");
    let row = world.held("orders/a");
    assert_eq!(row["by_operator"], false, "{row}");
    let (why, _) = ask(home, &["why", "orders/a"]);
    assert_eq!(why["class"], "CODE", "{why}");
    let retried = world.admin("POST", "/v1/admin/hooks/orders/retry", &json!({}));
    assert_eq!(retried.json()["released"], 1, "{}", retried.status);
}

fn a_stream_under_load_is_held_between_two_turns_and_loses_nothing(setup: Setup) {
    let world = world(setup);
    let home = &world.home;
    post(&world, "orders/a");
    let stops = std::thread::scope(|scope| {
        let sends = scope.spawn(|| (0..150).map(|_| post(&world, "orders/a")).max());
        let mut stops = 0;
        while !sends.is_finished() {
            let (held, code) = ask(home, &["streams", "hold", "orders/a"]);
            assert_eq!(code, Some(0), "{held}");
            let at = position(home, "orders/a");
            post(&world, "orders/b");
            assert_eq!(position(home, "orders/a"), at, "it is held");
            ask(home, &["streams", "release", "orders/a"]);
            stops += 1;
        }
        assert_eq!(sends.join().unwrap(), Some(151));
        stops
    });
    assert!(stops > 0);
    let state = world.state("orders/a", 151);
    assert_eq!(state, 151);
}

fn a_hook_is_retried_as_a_whole_but_for_what_somebody_holds(setup: Setup) {
    const PICKY: &str = "export default (state, event) => {
        if (event.body.bad) throw new Error('no good'); return (state ?? 0) + 1; };\n";
    const PLAIN: &str = "export default (state, event) => (state ?? 0) + 1;\n";
    const PICKY_HOOKS: &str =
        "[[hooks]]\nname = 'orders'\nreduce = 'picky.js'\norder_by = 'body:/account'\n";
    let mut world = World::at(Home::new(setup), &[("picky.js", PICKY)], PICKY_HOOKS);
    world.may_complain = true;
    let home = &world.home;
    for account in ["a", "b", "c"] {
        let body = json!({"account": account, "bad": true}).to_string();
        world.accepted("orders", body);
        world.held(&format!("orders/{account}"));
    }
    post(&world, "orders/d");
    world.state("orders/d", 1);
    home.run(&["streams", "hold", "orders/d"]);
    post(&world, "orders/d");
    let plain = home.write("plain.js", PLAIN);
    home.run(&[
        "hooks",
        "edit",
        "orders",
        "--reduce",
        plain.to_str().unwrap(),
        "--yes",
    ]);
    let (released, _) = ask(home, &["streams", "retry", "--hook", "orders"]);
    assert_eq!(released["released"], 3, "all but orders/d");
    for account in ["a", "b", "c"] {
        world.state(&format!("orders/{account}"), 1);
    }
    assert_eq!(position(home, "orders/d"), 1);
    assert_eq!(ask(home, &["streams", "retry"]).1, Some(2));
    assert_eq!(
        ask(home, &["streams", "retry", "--hook", "nowhere"]).1,
        Some(5)
    );
    assert_eq!(
        ask(home, &["streams", "show", "orders/d", "--handler", "x"]).1,
        Some(5)
    );
}

fn a_drain_does_not_wait_for_a_paused_hook(setup: Setup) {
    let world = world(setup);
    let home = &world.home;
    home.run(&["hooks", "pause", "orders"]);
    post(&world, "orders/a");
    post(&world, "bills/a");
    home.run(&[
        "lanes",
        "drain",
        "--all",
        "--yes",
        "--wait",
        "--timeout",
        "20s",
    ]);
    let (lanes, _) = ask(
        home,
        &["lanes", "list", "--state", "drained", "--sort", "backlog"],
    );
    let backlogs = lanes["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|lane| lane["backlog"].clone());
    assert_eq!(backlogs.collect::<Vec<_>>()[..2], [json!(1), json!(0)]);
    assert_eq!(
        ask(home, &["lanes", "list", "--state", "paused"]).0["items"],
        json!([])
    );
    assert_eq!(position(home, "orders/a"), 0);
    assert_eq!(position(home, "bills/a"), 1);
    home.run(&["lanes", "resume", "--all"]);
    home.run(&["hooks", "resume", "orders"]);
    world.state("orders/a", 1);
}

on_both_setups! {
    what_waits_in_a_stopped_lane_is_as_old_after_a_restart_as_it_was_before
    a_paused_hook_keeps_what_comes_through_a_restart_and_says_who_wanted_it
    a_held_stream_stands_alone_and_goes_on_in_order_when_it_is_released
    a_reducer_whose_error_speaks_of_a_hold_is_no_operator
    a_stream_under_load_is_held_between_two_turns_and_loses_nothing
    a_drain_does_not_wait_for_a_paused_hook
    a_hook_is_retried_as_a_whole_but_for_what_somebody_holds
}

#[test]
fn a_hook_is_paused_also_while_no_daemon_runs() {
    let home = Home::new(Setup::Embedded);
    home.apply(HOOKS);
    home.run(&["hooks", "pause", "orders"]);
    let (hook, _) = ask(&home, &["hooks", "show", "orders"]);
    assert!(hook["paused"]["by"].is_string(), "{hook}");
    home.run(&["hooks", "resume", "orders"]);
    let (hook, _) = ask(&home, &["hooks", "show", "orders"]);
    assert_eq!(hook["paused"], Value::Null);
}

#[test]
fn a_pause_holds_on_every_node_when_the_command_returns() {
    let servers = Servers::on(postgres::shared());
    let homes = ["a", "b"].map(|name| Home::of(&servers, name));
    let _daemons = [homes[0].start(), homes[1].start()];
    homes[0].apply(HOOKS);
    until(|| {
        let (status, _) = ask(&homes[0], &["status"]);
        let nodes = status["nodes"].as_array()?;
        let owns = |node: &Value| node["owns"] != "";
        (nodes.len() == 2 && nodes.iter().all(owns)).then_some(())
    });
    homes[0].run(&["hooks", "pause", "orders"]);
    let key = homes[0].key("write");
    for account in 0..16 {
        let body = json!({"account": account.to_string()}).to_string();
        let asked = super::world::Ask::post("orders").key(&key).body(body);
        until(|| {
            let reply = super::world::send(homes[account % 2].addr, &asked.bytes());
            (reply.status == 202 || reply.status == 200).then_some(())
        });
    }
    let (streams, _) = ask(&homes[1], &["streams", "list"]);
    let rows = streams["items"].as_array().unwrap();
    assert_eq!(rows.len(), 16);
    assert!(rows.iter().all(|row| row["position"] == 0), "{streams}");
    let lanes = until(|| {
        let lanes = (0..8).map(|lane| ask(&homes[0], &["lanes", "show", &lane.to_string()]).0);
        let lanes: Vec<_> = lanes.collect();
        let kept: i64 = lanes
            .iter()
            .filter_map(|lane| lane["backlog"].as_i64())
            .sum();
        (kept == 16).then_some(lanes)
    });
    let own = lanes.iter().filter(|lane| lane["is_all"] == true).count();
    assert!((1..8).contains(&own), "some run elsewhere: {own}");
    homes[1].run(&["hooks", "resume", "orders"]);
    until(|| {
        let (streams, _) = ask(&homes[0], &["streams", "list"]);
        let mut rows = streams["items"].as_array()?.iter();
        rows.all(|row| row["position"] == 1).then_some(())
    });
}
