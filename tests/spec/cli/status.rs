//! `status`, as people and scripts see it, on both set-ups.

use serde_json::{Value, json};

use super::daemon::{Home, Servers, Setup};
use super::postgres;
use super::world::{Ask, World, until};

const HOOKS: &str = "[[hooks]]\nname = 'orders'\nreduce = 'count'\norder_by = 'body:/account'\n\
    [[hooks]]\nname = 'bills'\nreduce = 'picky.js'\norder_by = 'body:/account'\n";

const PICKY_JS: &str = "export default function reduce(state, event) {\n\
    if (event.body.bad) throw new Error('no good');\n  return (state ?? 0) + 1;\n}\n";

fn world(setup: Setup) -> World {
    World::at(Home::new(setup), &[("picky.js", PICKY_JS)], HOOKS)
}

/// Output and exit code of `status`.
fn status(home: &Home, args: &[&str]) -> (String, Option<i32>) {
    let args = [&["status"], args].concat();
    let output = home.command(&args).output().unwrap();
    (
        String::from_utf8(output.stdout).unwrap(),
        output.status.code(),
    )
}

/// Waits for a verdict of this class, and gives it.
fn verdict(world: &World, class: &str) -> Value {
    until(|| {
        let reply = world.admin("GET", "/v1/admin/snapshot", &Value::Null);
        let worst = reply.json()["verdicts"][0].take();
        (worst["class"] == class).then_some(worst)
    })
}

fn a_held_stream_is_named_with_its_reason_and_what_it_holds_up(setup: Setup) {
    let world = world(setup);
    let (said, code) = status(&world.home, &[]);
    assert!(said.starts_with("OK  "), "{said}");
    assert_eq!(code, Some(0));

    let globex = ["namespaces", "create", "globex", "--lanes", "2"];
    world.home.run(&globex);
    until(|| {
        let (said, _) = status(&world.home, &[]);
        said.contains(": 8 active     globex 2: 2 active\n")
            .then_some(())
    });

    world.accepted("bills", r#"{"account":"acme","bad":true}"#);
    world.accepted("bills", r#"{"account":"acme"}"#);
    world.accepted("bills", r#"{"account":"else"}"#);
    world.held("bills/acme");
    let worst = until(|| Some(verdict(&world, "CODE")).filter(|worst| worst["events"] == 2));
    assert_eq!(worst["stream"], "bills/acme", "{worst}");
    let (said, code) = status(&world.home, &[]);
    assert!(
        said.contains("CODE  bills/acme -> reduce held since "),
        "{said}"
    );
    assert!(
        said.contains(": at seq 1: Error in picky.js:2: no good"),
        "{said}"
    );
    assert!(
        said.contains("Holds up only its own 2 events (100% of all). More lanes: no, 1 stream.")
    );
    assert_eq!(code, Some(3));

    let (hook, node) = until(|| {
        let seen = world
            .admin("GET", "/v1/admin/snapshot", &Value::Null)
            .json();
        let hook = seen["hooks"]
            .as_array()?
            .iter()
            .find(|hook| hook["hook"] == "bills")?
            .clone();
        (hook["streams"] == 2).then(|| (hook, seen["nodes"][0].clone()))
    });
    let told = (&hook["handlers"], &hook["verify"]);
    assert_eq!(
        told,
        (&json!("reduce picky.js"), &json!("write key")),
        "{hook}"
    );
    let lanes = (&node["lanes"], &node["lanes_here"], &node["owns"]);
    assert_eq!(lanes, (&json!(10), &json!(8), &json!("0-7")), "{node}");

    until(|| {
        let lanes = world.home.run(&["lanes", "list", "-o", "json"]);
        let lanes: Value = serde_json::from_str(&lanes).unwrap();
        let lanes = lanes["items"].as_array()?.iter();
        let marked = |lane: &&Value| lane["severity"] == "trouble" && lane["held"] == 1;
        (lanes.filter(marked).count() == 1).then_some(())
    });

    let events = world.get("/v1/hooks/bills/events?stream=acme").json();
    let first = events["items"][0]["id"]
        .as_str()
        .or(events["items"][0]["event"].as_str());
    let skip = json!({"stream": "bills/acme", "event": first.unwrap()});
    let skipped = world.admin("POST", "/v1/admin/streams/skip", &skip);
    assert_eq!(skipped.status, 200, "{skipped:?}");
    let (said, code) = status(&world.home, &["--wait", "20s"]);
    assert!(said.starts_with("OK  "), "{said}");
    assert_eq!(code, Some(0));
    let log = world
        .admin("GET", "/v1/admin/snapshot", &Value::Null)
        .json()["log"]
        .take();
    let what: Vec<_> = log
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["what"].clone())
        .collect();
    assert!(what.contains(&json!("flows again")), "{what:?}");
}

fn all_streams_that_are_held_are_counted_though_fifty_are_named(setup: Setup) {
    let world = world(setup);
    for account in 0..60 {
        let bad = format!("{{\"account\":\"a{account}\",\"bad\":true}}");
        world.accepted("bills", &bad);
    }
    let snapshot = until(|| {
        let reply = world.admin("GET", "/v1/admin/snapshot", &Value::Null);
        let snapshot = reply.json();
        (snapshot["total"]["set_aside"] == 60 && snapshot["total"]["backlog"] == 60)
            .then_some(snapshot)
    });
    let named = snapshot["cursors"].as_array().unwrap();
    let ages: Vec<_> = named
        .iter()
        .map(|line| line["oldest_ms"].as_u64())
        .collect();
    assert_eq!(ages.len(), 50);
    assert!(ages.is_sorted_by(|a, b| a >= b), "{ages:?}");
    assert_eq!(named[0]["stream"], "bills/a0", "it has waited longest");
    let more = snapshot["verdicts"][0]["more"].as_str().unwrap();
    let told = "It and 59 more streams hold up only their own 60 events (100% of all).";
    assert!(more.starts_with(told), "{more}");
}

fn what_an_operator_has_stopped_is_no_trouble_and_says_who_and_why(setup: Setup) {
    let world = world(setup);
    world
        .home
        .run(&["lanes", "pause", "--all", "--yes", "--reason", "deploy"]);
    world.accepted("orders", r#"{"account":"a"}"#);
    let worst = until(|| Some(verdict(&world, "ON PURPOSE")).filter(|worst| worst["events"] == 1));
    let text = worst["text"].as_str().unwrap();
    assert!(
        text.contains("paused by") && text.ends_with("\"deploy\""),
        "{text}"
    );
    assert_eq!(status(&world.home, &[]).1, Some(0));
    let snapshot = world
        .admin("GET", "/v1/admin/snapshot", &Value::Null)
        .json();
    assert_eq!(snapshot["total"]["eta"], "resume", "nothing else waits");
    let lanes = snapshot["lanes"].as_array().unwrap();
    let full = lanes.iter().find(|lane| lane["backlog"] == 1).unwrap();
    assert_eq!(
        (&full["state"], &full["eta"]),
        (&json!("paused"), &json!("resume"))
    );
    assert_eq!(full["severity"], "unusual");
}

fn who_may_read_sees_everything_and_who_may_write_nothing(setup: Setup) {
    let world = world(setup);
    let ask = |key: &str| world.ask(&Ask::new("GET", "/v1/admin/snapshot").key(key));
    let seen = ask(&world.read);
    assert_eq!(seen.status, 200, "{seen:?}");
    assert_eq!(seen.json()["viewer"]["may_act"], false);
    assert_eq!(ask(&world.admin).json()["viewer"]["may_act"], true);
    assert_eq!(ask(&world.write).status, 403);
    let path = "/v1/admin/snapshot?namespace=nowhere";
    assert_eq!(world.admin("GET", path, &Value::Null).status, 404);
}

on_both_setups! {
    all_streams_that_are_held_are_counted_though_fifty_are_named
    a_held_stream_is_named_with_its_reason_and_what_it_holds_up
    what_an_operator_has_stopped_is_no_trouble_and_says_who_and_why
    who_may_read_sees_everything_and_who_may_write_nothing
}

#[test]
fn a_node_that_hangs_is_named_until_another_has_its_lanes() {
    let servers = Servers::on(postgres::shared());
    let homes = ["a", "b"].map(|name| Home::of(&servers, name));
    let (_a, b) = (homes[0].start(), homes[1].start());
    let seen = |home: &Home| -> Value {
        let output = home.command(&["status", "-o", "json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };
    until(|| {
        let nodes = seen(&homes[0])["nodes"].take();
        let owns = |node: &Value| node["owns"] != "";
        (nodes.as_array()?.len() == 2 && nodes.as_array()?.iter().all(owns)).then_some(())
    });
    b.freeze();
    let says = |words: &str| {
        until(|| {
            let worst = seen(&homes[0])["verdicts"][0].take();
            let text = worst["text"].as_str()?;
            (text.contains("node b silent for") && text.contains(words)).then_some(())
        })
    };
    says("stand still");
    says("have no owner");
    until(|| (seen(&homes[0])["verdicts"][0]["class"] == "OK").then_some(()));
    b.thaw();
}
