//! `events export` and `state export`, on both set-ups: each event once and each stream in order, also in a file that
//! several exports wrote and one of which was ended.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::daemon::{Home, Setup};
use super::world::World;

const HOOKS: &str = "[[hooks]]\nname = 'orders'\nreduce = 'count'\norder_by = 'body:/account'\n\
    [[hooks]]\nname = 'bare'\n";

const EXPORT: [&str; 2] = ["events", "export"];

fn world(setup: Setup) -> World {
    World::at(Home::new(setup), &[], HOOKS)
}

fn fill(world: &World, events: usize) {
    for number in 0..events {
        let body = json!({"account": format!("s{}", number % 3), "n": number});
        world.accepted("orders", body.to_string());
    }
}

/// Exit code, lines of stdout and text of stderr.
fn export(home: &Home, args: &[&str]) -> (Option<i32>, Vec<Value>, String) {
    let done = home.command(args).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    (done.status.code(), lines(&text), said)
}

fn lines(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "half a line");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn file(path: &Path) -> Vec<Value> {
    lines(&std::fs::read_to_string(path).unwrap())
}

/// Asserts that every stream is complete from its first event on, and counts the events.
fn whole(lines: &[Value]) -> usize {
    let mut last = BTreeMap::new();
    for line in lines {
        let last = last.entry(line["stream"].to_string()).or_insert(0);
        assert_eq!(line["seq"], *last + 1, "{line}");
        *last += 1;
    }
    lines.len()
}

/// Exports once everything is settled: on a server, the newest events may be missing for a moment.
fn settled(home: &Home, args: &[&str], count: usize) -> (Vec<Value>, String) {
    super::world::until(|| {
        let (code, lines, said) = export(home, args);
        assert_eq!(code, Some(0), "{said}");
        (lines.len() == count).then_some((lines, said))
    })
}

fn every_event_is_exported_once_and_each_stream_in_order(setup: Setup) {
    let world = world(setup);
    fill(&world, 12);
    world.accepted("bare", [0xff]);
    let home = &world.home;
    let (all, said) = settled(home, &EXPORT, 13);
    assert_eq!(whole(&all), 13);
    assert_eq!(all[12]["body_base64"], "/w==");
    assert!(said.contains("13 events, complete up to 2"), "{said}");
    assert!(said.contains("hooklane events export --after "), "{said}");
    let (orders, _) = settled(home, &["events", "export", "--hook", "orders"], 12);
    assert!(
        orders
            .iter()
            .all(|event| event["stream"].as_str().unwrap().starts_with("orders/"))
    );
    let cursor = orders[7]["cursor"].as_str().unwrap();
    let after = ["events", "export", "--hook", "orders", "--after", cursor];
    assert_eq!(settled(home, &after, 4).0, orders[8..]);
    assert_eq!(
        settled(home, &["events", "export", "--since", "1h"], 13).0,
        all
    );
    assert_eq!(
        settled(
            home,
            &["events", "export", "--since", "2999-01-01T00:00:00Z"],
            0
        )
        .0
        .len(),
        0
    );

    let (code, _, said) = export(home, &["events", "export", "--since", "soon"]);
    assert_eq!(code, Some(2), "{said}");
    let (code, _, said) = export(home, &["events", "export", "--hook", "no"]);
    assert_eq!(code, Some(5), "{said}");
    let (code, _, said) = export(home, &["events", "export", "--after", "x"]);
    assert_ne!(code, Some(0), "{said}");
}

fn a_file_is_continued_behind_its_last_whole_line(setup: Setup) {
    let world = world(setup);
    let home = &world.home;
    let path = home.data().join("all.jsonl");
    let name = path.to_str().unwrap();
    fill(&world, 9);
    settled(home, &EXPORT, 9);
    let (code, none, said) = export(home, &["events", "export", "--out", name]);
    assert_eq!((code, none.len()), (Some(0), 0), "{said}");
    assert_eq!(whole(&file(&path)), 9);
    assert!(said.contains(&format!("--resume {name}")), "{said}");
    let (code, _, said) = export(home, &["events", "export", "--out", name]);
    assert_eq!(code, Some(7), "{said}");

    // As a kill leaves it: half of the last line is missing.
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 20]).unwrap();
    fill(&world, 9);
    settled(home, &EXPORT, 18);
    let (code, _, said) = export(home, &["events", "export", "--resume", name]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(whole(&file(&path)), 18);
    let (code, _, said) = export(
        home,
        &["events", "export", "--resume", name, "--hook", "bare"],
    );
    assert_eq!(code, Some(2), "{said}");
    let other = home.write("other", "no export\n");
    let (code, _, said) = export(
        home,
        &["events", "export", "--resume", other.to_str().unwrap()],
    );
    assert_eq!(code, Some(2), "{said}");
}

fn ctrl_c_leaves_whole_lines_and_the_export_goes_on(setup: Setup) {
    let world = world(setup);
    let home = &world.home;
    fill(&world, 1_200);
    settled(home, &EXPORT, 1_200);
    for (round, wait) in [0, 40, 80, 120, 200, 300].into_iter().enumerate() {
        let path = home.data().join(format!("{round}.jsonl"));
        let args = ["events", "export", "--out", path.to_str().unwrap()];
        let mut command = home.command(&args);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        child.wait().unwrap();
        if path.exists() {
            file(&path);
        }
        let resume = ["events", "export", "--resume", path.to_str().unwrap()];
        let (code, _, said) = export(home, &resume);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(whole(&file(&path)), 1_200);
    }
}

fn states_are_exported_with_their_positions(setup: Setup) {
    let world = world(setup);
    fill(&world, 12);
    world.state("orders/s2", 4);
    world.state("orders/s1", 4);
    world.state("orders/s0", 4);
    let (states, said) = settled(&world.home, &["state", "export", "--hook", "orders"], 3);
    for state in &states {
        assert_eq!(
            (&state["position"], &state["head"], &state["state"]),
            (&json!(4), &json!(4), &json!(4))
        );
        assert!(state["updated_at"].is_string() && state["era"].is_number());
    }
    assert!(said.contains("3 states, complete up to 2"), "{said}");
    let cursor = states[1]["cursor"].as_str().unwrap();
    let rest = settled(&world.home, &["state", "export", "--after", cursor], 1).0;
    assert_eq!(rest, states[2..]);
}

#[test]
fn it_works_without_a_daemon() {
    let mut world = world(Setup::Embedded);
    fill(&world, 6);
    world.state("orders/s0", 2);
    let mut daemon = world.daemon.take().unwrap();
    assert!(daemon.terminate(super::world::PATIENCE).is_some());
    let (events, _) = settled(&world.home, &EXPORT, 6);
    assert_eq!(whole(&events), 6);
    let (states, _) = settled(&world.home, &["state", "export"], 3);
    assert_eq!(states[0]["state"], 2);
}

on_both_setups! {
    every_event_is_exported_once_and_each_stream_in_order
    a_file_is_continued_behind_its_last_whole_line
    ctrl_c_leaves_whole_lines_and_the_export_goes_on
    states_are_exported_with_their_positions
}
