//! Events that do not end: they cost their own hook its turns, and nobody else anything.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::daemon::{Home, Servers, Setup};
use super::postgres;
use super::world::{World, until};

/// Never comes back from a native call where `n` is large.
const STUCK_JS: &str = "export default function reduce(state, event) {
  return [Array(event.body.n).join('-').length];
}";

/// Never ends, but may be interrupted.
const LOOP_JS: &str = "export default function reduce(state, event) { for (;;); }";

const HOOKS: &str = "[[hooks]]\nname = 'poison'\nreduce = 'stuck.js'\norder_by = 'body:/k'\n\
    [[hooks]]\nname = 'loop'\nreduce = 'loop.js'\norder_by = 'body:/k'\n\
    [[hooks]]\nname = 'orders'\nreduce = 'sum.js'\norder_by = 'body:/k'\n";

const SUM_JS: &str = "export default function reduce(state, event) {
  return (state ?? 0) + event.body.n;
}";

const FILES: [(&str, &str); 3] = [
    ("stuck.js", STUCK_JS),
    ("loop.js", LOOP_JS),
    ("sum.js", SUM_JS),
];

/// Each event of it has a stream of its own.
const EVENTS: usize = 1_000;

fn world(home: Home) -> World {
    World::at(home, &FILES, HOOKS)
}

/// Posts to a hook over one connection; each must be accepted.
fn post_many(world: &World, hook: &str, bodies: impl Iterator<Item = String>) {
    let mut stream = TcpStream::connect(world.home.addr).unwrap();
    for body in bodies {
        let head = format!(
            "POST /in/{hook} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
             content-length: {}\r\n\r\n{body}",
            world.write,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let answer = read_answer(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    }
}

/// The head of an answer; its body is read too.
fn read_answer(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let len = head.split("content-length: ").nth(1).unwrap();
    let len = len.lines().next().unwrap().parse().unwrap();
    stream.read_exact(&mut vec![0; len]).unwrap();
    head.replacen("http", "HTTP", 1)
}

fn ask(home: &Home, args: &[&str]) -> Value {
    let args = [args, &["-o", "json"]].concat();
    let output = home.command(&args).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn poison(n: usize) -> String {
    json!({"k": n.to_string(), "n": 4_000_000_000_u64}).to_string()
}

/// Actor that paused the hook, once there is one.
fn stopped(home: &Home) -> Value {
    until(|| {
        let hook = ask(home, &["hooks", "show", "poison"]);
        Some(hook["paused"].clone()).filter(Value::is_object)
    })
}

fn a_thousand_events_that_do_not_end_stop_their_hook_and_nothing_else(setup: Setup) {
    let mut world = world(Home::new(setup));
    post_many(
        &world,
        "orders",
        (0..20).map(|k| json!({"k": k, "n": 1}).to_string()),
    );
    post_many(&world, "poison", (0..EVENTS).map(poison));
    post_many(
        &world,
        "orders",
        (0..20).map(|k| json!({"k": k, "n": 2}).to_string()),
    );
    for k in 0..20 {
        assert_eq!(world.state(&format!("orders/{k}"), 2), 3, "a neighbour");
    }
    let home = &world.home;
    let pause = stopped(home);
    assert_eq!(pause["by"], "hooklane", "{pause}");
    // No person did that, and the audit says so.
    let acts = ask(home, &["audit", "list", "--subject", "poison"]);
    let acts: Vec<_> = acts["items"].as_array().unwrap().iter().collect();
    let stops: Vec<_> = acts
        .iter()
        .filter(|act| act["actor"] == "hooklane")
        .collect();
    assert_eq!(stops.len(), 1, "{acts:?}");
    assert_eq!(stops[0]["operation"], "hooks pause");
    assert_eq!(stops[0]["reason"], pause["reason"]);
    assert!(stops[0]["from"].as_str().unwrap().starts_with("node"));
    let reason = pause["reason"].as_str().unwrap();
    assert!(
        reason.contains("stuck.js") && reason.contains("evt_"),
        "{reason}"
    );

    // Its events are accepted still, and all of them are kept.
    post_many(&world, "poison", std::iter::once(poison(EVENTS)));
    let held = || {
        let rows = ask(
            home,
            &["streams", "list", "--hook", "poison", "--condition", "held"],
        );
        rows["items"].as_array().map_or(0, Vec::len)
    };
    // Two events stop it, and no second one of it is begun beside the first.
    until(|| (held() == 2).then_some(()));

    let stream = format!("poison/{EVENTS}");
    let why = ask(home, &["why", &stream]);
    let told = why.to_string();
    assert_eq!(why["class"], "CODE", "{told}");
    for word in [
        "stuck.js",
        "evt_",
        "hooklane hooks edit poison --reduce",
        "hooklane hooks resume poison",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    until(|| {
        let status = ask(home, &["status"]).to_string();
        let words = [
            "hook poison stopped since ",
            "stuck.js",
            "hooklane hooks resume poison",
        ];
        words.iter().all(|word| status.contains(word)).then_some(())
    });

    // Neither a restart nor an operator who has mended nothing changes that.
    world.kill();
    world.restart();
    assert_eq!(stopped(&world.home), pause);
    world.home.run(&["hooks", "resume", "poison"]);
    assert_eq!(stopped(&world.home)["by"], "hooklane");

    // With a reducer that ends, every event is applied.
    let mended = world
        .home
        .write("mended.js", "export default (state, event) => event.body.n");
    let edit = [
        "hooks",
        "edit",
        "poison",
        "--reduce",
        mended.to_str().unwrap(),
    ];
    world.home.run(&edit);
    world.home.run(&["hooks", "resume", "poison"]);
    world.home.run(&["streams", "retry", "--hook", "poison"]);
    for n in (0..=EVENTS).step_by(100) {
        let state = world.state(&format!("poison/{n}"), 1);
        assert_eq!(state, 4_000_000_000_u64, "{n}");
    }
}

#[test]
fn a_thousand_events_that_do_not_end_stop_their_hook_and_nothing_else_in_a_file() {
    a_thousand_events_that_do_not_end_stop_their_hook_and_nothing_else(Setup::Embedded);
}

#[test]
fn a_thousand_events_that_do_not_end_stop_their_hook_and_nothing_else_on_servers() {
    a_thousand_events_that_do_not_end_stop_their_hook_and_nothing_else(Setup::Production);
}

/// While a hook gets an event without an end every few milliseconds, others are applied as they come.
fn neighbours_of_an_endless_hook_go_on(setup: Setup) {
    let world = world(Home::new(setup));
    post_many(
        &world,
        "loop",
        (0..300).map(|k| json!({"k": k}).to_string()),
    );
    let began = Instant::now();
    for round in 1..=20 {
        post_many(
            &world,
            "orders",
            (0..5).map(|k| json!({"k": k, "n": 1}).to_string()),
        );
        for k in 0..5 {
            assert_eq!(
                world.state(&format!("orders/{k}"), round),
                round,
                "a neighbour"
            );
        }
    }
    let took = began.elapsed();
    let tried = |n: &i32| world.cursor(&format!("loop/{n}"))["condition"] != "flowing";
    let tried = (0..300).filter(tried).count();
    // Each of them would have had 50 ms three times before: a quarter of a minute in which nobody else folds.
    assert!(tried < 150, "{tried} of 300 were tried in {took:?}");
    assert!(tried > 0, "none was tried in {took:?}");
}

#[test]
fn neighbours_of_an_endless_hook_go_on_in_a_file() {
    neighbours_of_an_endless_hook_go_on(Setup::Embedded);
}

#[test]
fn neighbours_of_an_endless_hook_go_on_on_servers() {
    neighbours_of_an_endless_hook_go_on(Setup::Production);
}

#[test]
fn poison_does_not_walk_from_node_to_node() {
    let servers: Arc<Servers> = Servers::on(postgres::shared());
    let first = world(Home::of(&servers, "a"));
    let others = ["b", "c"].map(|node| Home::of(&servers, node));
    let mut daemons: Vec<_> = others.iter().map(Home::start).collect();
    let owners = || {
        servers.ask(
            "select distinct coalesce(n.name, '') from lanes l left join nodes n on n.id = l.node
         where l.sealed_at is null",
        )
    };
    until(|| owners().iter().eq(["a", "b", "c"]).then_some(()));
    post_many(&first, "poison", (0..60).map(poison));
    let pause = stopped(&first.home);
    for home in &others {
        until(|| Some(stopped(home)).filter(|seen| *seen == pause));
    }
    let held = "select count(*) from cursors where condition = 'held'";
    let count = || -> usize { servers.ask(held).first().unwrap().parse().unwrap() };
    // It is paused already; when the command returns no turn of it runs on any node.
    first.home.run(&["hooks", "pause", "poison"]);
    let before = count();
    // Two events stop it; each of the three nodes may have begun one more before it knows.
    assert!((2..=5).contains(&before), "{before} of 60");

    // The node of these lanes is gone: no other node tries its events.
    daemons.remove(0).kill();
    until(|| owners().iter().eq(["a", "c"]).then_some(()));
    post_many(
        &first,
        "orders",
        (0..20).map(|k| json!({"k": k, "n": 1}).to_string()),
    );
    for k in 0..20 {
        assert_eq!(first.state(&format!("orders/{k}"), 1), 1, "a neighbour");
    }
    assert_eq!(count(), before);
    assert_eq!(stopped(&others[1]), pause, "it runs, and knows");
}
