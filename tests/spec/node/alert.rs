//! Alerts: one post when a finding begins and one when it ends, to real receivers, through crashes of a node.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::daemon::{Home, Servers, Setup};
use super::file::SmallDisk;
use super::forward::is_signed;
use super::postgres;
use super::sink::{Answer, Seen, Sink};
use super::world::{World, until, within};

on_both_setups! {
    a_held_stream_and_a_dead_destination_are_told_once_at_the_begin_and_once_at_the_end
    the_end_is_told_once_though_the_node_was_killed_meanwhile
    a_receiver_that_fails_is_seen_and_holds_up_nothing
}

const SECRET: &str = "whsec_b3JkZXJlZCB3ZWJob29rcywgb25lIHN0cmVhbSBhLi4=";

/// A time in which a post that is wrong would have come.
const QUIET: Duration = Duration::from_secs(8);

const BAD: &str = "export default function (state, event) {\n  if (event.body.bad) throw new Error('no good');\n  \
                   return (state ?? 0) + 1;\n}\n";

/// A home whose node posts alerts to `receivers`, separated by commas.
fn alerting(mut home: Home, receivers: String) -> Home {
    home.environment.extend([
        ("HOOKLANE_ALLOW_DESTINATION", "127.0.0.0/8"),
        ("HOOKLANE_ALERT", receivers.leak()),
        ("HOOKLANE_ALERT_SECRET", SECRET),
    ]);
    home
}

fn world(setup: Setup, receivers: String, hooks: &str) -> World {
    let home = alerting(Home::new(setup), receivers);
    World::at(home, &[("bad.js", BAD)], hooks)
}

const SUMS: &str = "[[hooks]]\nname = 'sums'\norder_by = '/who'\nreduce = 'bad.js'\n";

fn body(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.body).unwrap()
}

/// The acknowledged messages, each once: a node that is killed right after a post may leave it to another
/// one, which repeats it with the same id.
fn messages(sink: &Sink) -> Vec<Seen> {
    let (mut ids, seen) = (HashSet::new(), sink.seen());
    let seen = seen.into_iter().filter(|seen| seen.is_acknowledged);
    seen.filter(|seen| ids.insert(seen.header("webhook-id").to_owned()))
        .collect()
}

/// The messages about a finding, each as its type.
fn told(sink: &Sink, finding: &str) -> Vec<String> {
    let messages = messages(sink);
    let about = messages
        .iter()
        .map(body)
        .filter(|body| body["data"]["finding"] == finding);
    about
        .map(|body| body["type"].as_str().unwrap().to_owned())
        .collect()
}

fn told_once(sink: &Sink, finding: &str, kinds: &[&str]) {
    let there = within(Duration::from_secs(60), || {
        (told(sink, finding) == kinds).then_some(())
    });
    assert!(there.is_some(), "{finding}: {:?}", told(sink, finding));
}

/// The command that skips the event that holds its stream.
fn skip(bad: &Value) -> [&str; 8] {
    let event = bad["event"].as_str().unwrap();
    [
        "streams",
        "skip",
        "sums/a",
        "--event",
        event,
        "--yes",
        "--confirm",
        "sums/a",
    ]
}

fn status(world: &World) -> Value {
    let output = world
        .home
        .command(&["status", "-o", "json"])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn a_held_stream_and_a_dead_destination_are_told_once_at_the_begin_and_once_at_the_end(
    setup: Setup,
) {
    let (ops, chat, crm) = (Sink::start(), Sink::start(), Sink::start());
    crm.answers(|_| Answer::Status(503));
    let hooks = format!(
        "{SUMS}[[hooks]]\nname = 'orders'\norder_by = '/who'\n[[hooks.forward]]\nname = 'crm'\nurl = '{}'\n",
        crm.url()
    );
    let world = world(setup, format!("{},slack:{}", ops.url(), chat.url()), &hooks);
    let event = json!({"who": "a"}).to_string();
    let bad = json!({"who": "a", "bad": true}).to_string();
    world.accepted("orders", &event);
    let bad = world.accepted("sums", bad);
    world.held("sums/a");
    let (held, waiting) = ("sums -> reduce held", "orders -> crm waiting");
    told_once(&ops, held, &["alert.began"]);
    told_once(&ops, waiting, &["alert.began"]);

    let verdicts = status(&world)["verdicts"].take();
    let verdict = verdicts
        .as_array()
        .unwrap()
        .iter()
        .find(|verdict| verdict["finding"] == held);
    let verdict = verdict.unwrap();
    let seen = ops
        .seen()
        .into_iter()
        .find(|seen| body(seen)["data"]["finding"] == held)
        .unwrap();
    let message = body(&seen);
    for field in [
        "text", "more", "next", "class", "severity", "since", "stream",
    ] {
        assert_eq!(
            message["data"][field], verdict[field],
            "{field}: the words of status"
        );
    }
    assert_eq!(message["data"]["next"], "hooklane why sums/a");
    assert!(is_signed(&seen, SECRET), "{seen:?}");
    until(|| (chat.seen().len() == 2).then_some(()));
    let texts: Vec<_> = chat.seen().iter().map(body).collect();
    let is_held = |text: &&Value| {
        text["text"]
            .as_str()
            .unwrap()
            .starts_with("CODE  sums/a -&gt; reduce held")
    };
    let text = texts
        .iter()
        .find(is_held)
        .unwrap_or_else(|| panic!("{texts:?}"));
    assert!(
        text["text"]
            .as_str()
            .unwrap()
            .contains("\nNext: hooklane why sums/a\n"),
        "{text}"
    );

    crm.answers(|_| Answer::Status(204));
    world.home.run(&skip(&bad));
    told_once(&ops, held, &["alert.began", "alert.ended"]);
    told_once(&ops, waiting, &["alert.began", "alert.ended"]);
    std::thread::sleep(QUIET);
    assert_eq!(ops.seen().len(), 4, "{:?}", ops.seen());
    let ids: BTreeSet<_> = ops
        .seen()
        .iter()
        .map(|seen| seen.header("webhook-id").to_owned())
        .collect();
    assert_eq!(ids.len(), 4);
    let over = chat
        .seen()
        .into_iter()
        .map(|seen| body(&seen)["text"].as_str().unwrap().to_owned());
    assert_eq!(
        over.filter(|text| text.starts_with("Over since ")).count(),
        2
    );
}

fn the_end_is_told_once_though_the_node_was_killed_meanwhile(setup: Setup) {
    let ops = Sink::start();
    let mut world = world(setup, ops.url(), SUMS);
    let bad = world.accepted("sums", json!({"who": "a", "bad": true}).to_string());
    world.held("sums/a");
    let held = "sums -> reduce held";
    told_once(&ops, held, &["alert.began"]);
    until(|| (status(&world)["receivers"][0]["waiting"] == 0).then_some(()));
    world.kill();
    world.restart();
    // Lanes of a killed node have no owner until its lease ends; the stream is still held.
    std::thread::sleep(Duration::from_secs(25));
    assert_eq!(told(&ops, held), ["alert.began"], "it still stands");
    world.kill();
    world.restart();
    until(|| {
        world
            .home
            .command(&skip(&bad))
            .output()
            .unwrap()
            .status
            .success()
            .then_some(())
    });
    told_once(&ops, held, &["alert.began", "alert.ended"]);
    std::thread::sleep(QUIET);
    assert_eq!(told(&ops, held), ["alert.began", "alert.ended"]);
}

fn a_receiver_that_fails_is_seen_and_holds_up_nothing(setup: Setup) {
    let (up, down) = (Sink::start(), Sink::start());
    down.answers(|_| Answer::Full(302, "location: http://127.0.0.1:1/", String::new()));
    let world = world(setup, format!("{},{}", down.url(), up.url()), SUMS);
    world.accepted("sums", json!({"who": "a", "bad": true}).to_string());
    world.held("sums/a");
    let held = "sums -> reduce held";
    told_once(&up, held, &["alert.began"]);
    let receiver = format!("http://{}", down.addr);
    let line = until(|| {
        let output = world.home.command(&["status"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .find(|line| line.starts_with("alerts "))
            .map(str::to_owned)
    });
    assert!(
        line.contains(&receiver) && line.contains("answers 302; 1 post waits"),
        "{line}"
    );
    assert!(!line.contains("/hooks"), "the path may be a secret: {line}");
    assert_eq!(world.state("sums/b", 0), Value::Null);
    world.accepted("sums", json!({"who": "b"}).to_string());
    assert_eq!(world.state("sums/b", 1), 1);
    let tries = down.seen().len();
    until(|| (down.seen().len() > tries).then_some(()));
    down.answers(|_| Answer::Status(204));
    told_once(&down, held, &["alert.began"]);
    until(|| {
        let failing = status(&world)["receivers"][0]["failing"].take();
        failing.is_null().then_some(())
    });
    assert!(world.home.log().contains("an alert could not be posted"));
}

#[test]
fn two_nodes_post_once_and_tell_of_the_one_that_is_silent() {
    let ops = Sink::start();
    let servers = Servers::on(postgres::shared());
    let home = |name| alerting(Home::of(&servers, name), ops.url());
    let (a, b) = (home("a"), home("b"));
    a.write("bad.js", BAD);
    let first = a.start();
    a.apply(SUMS);
    let write = a.key("write");
    let mut second = Some(b.start());
    let post = super::world::Ask::post("sums")
        .key(&write)
        .body(json!({"who": "a", "bad": true}).to_string());
    let bad = super::world::send(a.addr, &post.bytes()).json();
    let held = "sums -> reduce held";
    told_once(&ops, held, &["alert.began"]);
    second.take().unwrap().kill();
    told_once(&ops, "nodes", &["alert.began"]);
    let nodes = ops
        .seen()
        .into_iter()
        .find(|seen| body(seen)["data"]["finding"] == "nodes")
        .unwrap();
    let text = body(&nodes)["data"]["text"].to_string();
    assert!(text.contains("node b silent for"), "{text}");
    let second = b.start();
    told_once(&ops, "nodes", &["alert.began", "alert.ended"]);
    std::thread::sleep(QUIET);
    assert_eq!(told(&ops, held), ["alert.began"]);
    a.run(&skip(&bad));
    told_once(&ops, held, &["alert.began", "alert.ended"]);
    std::thread::sleep(QUIET);
    assert_eq!(messages(&ops).len(), 4, "{:?}", ops.seen());
    drop((first, second));
}

#[test]
fn a_disk_that_fills_is_told_and_its_end_too() {
    let ops = Sink::start();
    let home = alerting(Home::new(Setup::Embedded), ops.url());
    let disk = SmallDisk::over(home.data(), "64m");
    let mut world = World::at(home, &[], "[[hooks]]\nname = 'orders'\nreduce = 'count'\n");
    let filler: PathBuf = world.home.data().join("half");
    std::fs::write(&filler, vec![0; 62_000_000]).unwrap();
    told_once(&ops, "disk a", &["alert.began"]);
    let text = body(&ops.seen()[0])["data"]["text"].to_string();
    assert!(text.starts_with("\"disk: node a has only "), "{text}");
    std::fs::remove_file(filler).unwrap();
    told_once(&ops, "disk a", &["alert.began", "alert.ended"]);
    world.kill();
    drop(disk);
}

#[test]
fn a_database_that_is_away_is_told_by_each_node_and_its_end_too() {
    let ops = Sink::start();
    let server: &'static postgres::Server = Box::leak(Box::new(postgres::Server::start()));
    let servers = Servers::on(server);
    let home = alerting(Home::of(&servers, "a"), ops.url());
    let node = home.start();
    server.kill();
    told_once(&ops, "database", &["alert.began"]);
    server.start_again();
    told_once(&ops, "database", &["alert.began", "alert.ended"]);
    std::thread::sleep(QUIET);
    assert_eq!(told(&ops, "database").len(), 2);
    drop(node);
}

#[test]
fn a_receiver_that_cannot_be_is_refused_before_anything_starts() {
    let home = Home::new(Setup::Embedded);
    let refused = |args: &[&str], why: &str| {
        let serve = [&["serve"], args].concat();
        let output = home.command(&serve).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.starts_with("error: ") && said.contains(why), "{said}");
        assert!(!home.data().exists(), "nothing has changed");
    };
    refused(&["--alert", "ops.example"], "--alert");
    refused(&["--alert", "https://me:pw@ops.example"], "user part");
    refused(&["--alert", "https://ops.example"], "--alert-secret-file");
    let short = home.write("short", "whsec_AAAA");
    let short = short.to_str().unwrap();
    let args = [
        "--alert",
        "https://ops.example",
        "--alert-secret-file",
        short,
    ];
    refused(&args, "openssl rand -base64 32");
    let nowhere = [
        "--alert",
        "https://ops.example",
        "--alert-secret-file",
        "/nowhere",
    ];
    refused(&nowhere, "/nowhere");
}
