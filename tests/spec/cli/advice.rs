//! Commands do what they say and say what to do next: the wrong call, the long call that is stopped, the fix
//! that is tried before it is live.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::daemon::{Home, Setup};
use crate::top::Terminal;
use crate::world::{World, ended, within};

const HOOKS: &str = "[[hooks]]\nname = 'pay'\nreduce = 'sum.js'\norder_by = 'body:/customer'\n\
    [[hooks]]\nname = 'hello'\nreduce = 'count'\n";

/// Fails for amounts that are not there.
const SUM_JS: &str = "export default (state, event) => ({\n\
    total: (state?.total ?? 0) + event.body.amount.value,\n  seq: event.seq });";

const FIXED_JS: &str = "export default (state, event) => ({\n\
    total: (state?.total ?? 0) + (event.body.amount?.value ?? 0),\n  seq: event.seq });";

fn world() -> World {
    let files = [("sum.js", SUM_JS), ("fixed.js", FIXED_JS)];
    World::new(Setup::Embedded, &files, HOOKS)
}

/// Exit code of a command, and its stderr.
fn said(home: &Home, args: &[&str]) -> (i32, String) {
    let done = ended(home.command(args).stdin(Stdio::null()));
    let said = String::from_utf8(done.stderr).unwrap();
    (done.status.code().unwrap_or(-1), said)
}

#[test]
fn a_fix_is_tried_on_an_event_and_on_what_is_stored_before_it_is_live() {
    let world = world();
    let event = |amount: Value| json!({"customer": "a", "amount": amount}).to_string();
    world.accepted("pay", event(json!({"value": 5})));
    world.accepted("pay", event(Value::Null));
    world.accepted("pay", event(json!({"value": 7})));
    let held = world.held("pay/a");
    let next = held["next"].as_str().unwrap();
    let file = |name: &str, text: &str| {
        let path = world.home.write(name, text);
        path.to_str().unwrap().to_owned()
    };
    let fixed = file("fixed.js", FIXED_JS);
    let body = file("body.json", &event(Value::Null));
    let whole = world.home.run(&["events", "show", next, "-o", "json"]);
    let whole = file("event.json", &whole);

    let test = |more: &[&str]| {
        ended(
            &mut world
                .home
                .command(&[&["hooks", "test", "pay"], more].concat()),
        )
    };
    let state = |done: &Output| -> Value { serde_json::from_slice(&done.stdout).unwrap() };
    let live = test(&["--event", &body]);
    assert!(!live.status.success(), "the live reducer fails: {live:?}");
    let done = test(&["--reduce", &fixed, "--event", &body]);
    assert_eq!(state(&done), json!({"total": 0, "seq": 1}), "{done:?}");
    let done = test(&["--reduce", &fixed, "--event", &whole]);
    assert_eq!(
        state(&done)["seq"],
        2,
        "a whole event keeps its seq: {done:?}"
    );

    let stored = ["--reduce", &fixed, "--stream", "pay/a"];
    let from = [&stored[..], &["--from-seq", "2"]].concat();
    let done = test(&from);
    assert_eq!(state(&done), json!({"total": 12, "seq": 3}), "{done:?}");
    let told = String::from_utf8(done.stderr).unwrap();
    assert!(
        told.contains("/total 5 -> 12") && told.contains("/seq 1 -> 3"),
        "{told}"
    );
    assert!(told.contains("hooklane streams retry pay/a"), "{told}");
    let done = test(&["--stream", "pay/a"]);
    assert_eq!(done.status.code(), Some(3), "{done:?}");
    assert!(
        String::from_utf8_lossy(&done.stderr).contains("at seq 2: TypeError"),
        "{done:?}"
    );
    let done = test(&[&stored[..], &["--from-seq", "9"]].concat());
    assert!(
        String::from_utf8_lossy(&done.stderr).contains("has events 1 to 3, not 9"),
        "{done:?}"
    );
    assert_eq!(world.cursor("pay/a")["position"], 1, "nothing was stored");
}

#[test]
fn commands_that_read_create_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("typo");
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hooklane"));
        let command = command.args(args).env_clear().env("HOOKLANE_DATA", &data);
        ended(command.stdin(Stdio::null()))
    };
    for args in [
        &["hooks", "list"][..],
        &["hooks", "show", "a"],
        &["hooks", "delete", "a", "--yes", "--confirm", "a"],
        &["hooks", "edit", "a", "--reduce", "count"],
        &["hooks", "apply", "/dev/null", "--dry-run"],
        &["keys", "list"],
        &["keys", "revoke", "k_00000000", "--yes"],
        &["namespaces", "list"],
        &["audit", "list"],
        &["doctor"],
        &["status"],
        &["lanes", "list"],
        &["top", "--once"],
    ] {
        let done = run(args);
        assert!(!data.exists(), "{args:?} made something: {done:?}");
        assert!(
            matches!(done.status.code(), Some(0 | 3 | 6)),
            "{args:?}: {done:?}"
        );
    }
    let done = run(&["hooks", "list"]);
    let told = String::from_utf8(done.stderr).unwrap();
    assert!(
        told.starts_with("error: no daemon and no database in "),
        "{told}"
    );
    assert!(told.contains("start      hooklane serve\n"), "{told}");
    assert!(run(&["hooks", "create", "a"]).status.success());
    assert!(run(&["hooks", "list"]).status.success() && data.exists());
}

#[test]
fn a_log_in_json_is_json_from_the_first_byte_also_when_the_start_fails() {
    let home = Home::new(Setup::Embedded);
    let listen = home.addr.to_string();
    let serve = ["serve", "--listen", &*listen, "--log", "json"];
    let is_json = |text: &str| {
        assert!(!text.is_empty());
        for line in text.lines() {
            assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
        }
    };
    let mut daemon = home.command(&serve).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(daemon.stderr.take().unwrap()).lines();
    let mut seen = String::new();
    while !seen.contains("\"ready\"") {
        seen += &(lines.next().unwrap().unwrap() + "\n");
    }
    let second = ended(&mut home.command(&serve));
    assert_eq!(second.status.code(), Some(7), "{second:?}");
    is_json(&String::from_utf8(second.stderr).unwrap());
    let wrong = ended(&mut home.command(&[&serve[..], &["--lanes", "x"]].concat()));
    assert_eq!(wrong.status.code(), Some(2));
    is_json(&String::from_utf8(wrong.stderr).unwrap());
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    seen.extend(lines.map(|line| line.unwrap() + "\n"));
    assert!(daemon.wait().unwrap().success());
    is_json(&seen);
}

#[test]
fn a_stream_that_does_not_exist_is_missing_and_a_hook_that_waits_for_its_first_event_is_not() {
    let world = world();
    assert_eq!(said(&world.home, &["state", "show", "pay/nobody"]).0, 5);
    assert_eq!(said(&world.home, &["why", "pay/nobody"]).0, 5);
    assert_eq!(said(&world.home, &["state", "show", "nohook"]).0, 5);
}

#[test]
fn a_wrong_call_says_what_is_right() {
    let world = world();
    world.accepted("pay", r#"{"customer":"a","amount":{"value":1}}"#);
    world.state("pay/a", 1);
    let file = world
        .home
        .write("named.toml", "[hooks.orders]\nreduce = 'count'\n");
    let data = world.home.data();
    for (args, code, part) in [
        (
            &["lanes", "resize", "abc"][..],
            2,
            "lane count is 1 to 1024, got abc",
        ),
        (
            &["lanes", "resize", "-1"],
            2,
            "lane count is 1 to 1024, got ",
        ),
        (
            &["namespaces", "delete", "default"],
            7,
            "default always exists",
        ),
        (
            &["state", "rebuild", "pay", "--to-seq", "1"],
            2,
            "give  pay/KEY",
        ),
        (
            &["hooks", "delete", "pay", "--yes"],
            2,
            "answer  --yes --confirm pay",
        ),
        (
            &["hooks", "delete", "pay", "--yes"],
            2,
            "--yes is not enough for this",
        ),
        (
            &["hooks", "apply", file.to_str().unwrap()],
            2,
            "write  [[hooks]] and",
        ),
        (&["hooks", "create", "pay"], 7, "hooklane hooks show pay"),
        (
            &["hooks", "create", "new", "pay"],
            7,
            "hook pay exists already",
        ),
        (&["hooks", "show", "new"], 5, "no hook \"new\""),
        (&["hooks", "show", "pax"], 5, "Did you mean pay?"),
        (
            &["lanes", "list", "--namespace", "a", "--nope"],
            2,
            "Usage: hooklane lanes list [OPTIONS]\n",
        ),
        (
            &[
                "migrate",
                "--from",
                data.to_str().unwrap(),
                "--to",
                "postgres://me@127.0.0.1:1/x",
            ],
            7,
            "stop it  systemctl stop hooklane, or kill ",
        ),
    ] {
        // `migrate` names its directories itself.
        let mut command = Command::new(env!("CARGO_BIN_EXE_hooklane"));
        let command = command.args(args).env("HOOKLANE_DATA", &data);
        let done = ended(command.stdin(Stdio::null()));
        let told = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(code), "{args:?}: {told}");
        assert!(told.contains(part), "{args:?}: {told}");
    }
    let taken = world.home.addr.to_string();
    let other = Home::new(Setup::Embedded);
    let (code, told) = said(&other, &["serve", "--listen", &taken]);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("who  ss -ltnp 'sport = :"), "{told}");
}

#[test]
fn what_was_sent_and_what_was_not_is_said_when_a_long_send_is_stopped() {
    let world = world();
    let mut send = Command::new(env!("CARGO_BIN_EXE_hooklane"));
    let send = send
        .args(["send", "hello", "--count", "100000", "--rate", "50"])
        .env("HOOKLANE_DATA", world.home.data());
    let send = send.stderr(Stdio::piped()).spawn().unwrap();
    // Then it has begun.
    world.state("hello", 3);
    kill_process(Pid::from_child(&send), Signal::INT).unwrap();
    let done = send.wait_with_output().unwrap();
    let told = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(130), "{told}");
    let sent: u64 = told
        .split("stopped  ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .unwrap();
    let left = format!(
        "go on    hooklane send hello --count {} --rate 50\n",
        100_000 - sent
    );
    assert!(told.contains(&left), "{told}");
    let state = world.state("hello", i64::try_from(sent).unwrap());
    assert!(
        (sent..=sent + 1).contains(&state.as_u64().unwrap()),
        "{state} {told}"
    );
}

#[test]
fn send_takes_a_body_and_says_what_the_old_flag_is_called_now() {
    let world = world();
    let send = |flag: &str| {
        let mut send = Command::new(env!("CARGO_BIN_EXE_hooklane"));
        let send = send.args(["send", "hello", flag, "{\"n\":1}"]);
        ended(send.env("HOOKLANE_DATA", world.home.data()))
    };
    for (flag, warns) in [("--body", false), ("-d", false), ("--data", true)] {
        let done = send(flag);
        let told = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success(), "{told}");
        assert_eq!(told.contains("is now --body"), warns, "{told}");
    }
    assert_eq!(world.state("hello", 3), 3);
}

#[test]
fn many_hooks_are_made_at_once_and_their_states_rebuilt_side_by_side() {
    const HOOKS: usize = 60;
    let world = world();
    let names: Vec<String> = (0..HOOKS).map(|n| format!("many-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let create = [&["hooks", "create", "--reduce", "count"], &names[..]].concat();
    world.home.run(&create);
    for name in &names {
        for n in 0..3 {
            world.accepted(name, n.to_string());
        }
        world.state(name, 3);
    }
    let all = [
        "state",
        "rebuild",
        "--all",
        "--yes",
        "--confirm",
        "all",
        "-o",
        "json",
    ];
    let done = ended(&mut world.home.command(&all));
    let told = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{told}");
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    let done = done.as_array().unwrap();
    assert_eq!(done.len(), HOOKS + 2, "{done:?}");
    for rebuild in done {
        assert_eq!(rebuild["state"], "done", "{rebuild}");
        assert_eq!(rebuild["streams_done"], rebuild["streams"], "{rebuild}");
        assert_eq!(rebuild["events_done"], rebuild["events"], "{rebuild}");
    }
    assert!(
        told.contains(&format!("fold    {} events of every hook", HOOKS * 3)),
        "{told}"
    );
    for name in &names {
        assert_eq!(world.state(name, 3), 3);
    }
}

#[test]
fn a_flag_with_an_empty_value_is_an_error_that_names_it_and_an_empty_variable_is_not_set() {
    let home = Home::new(Setup::Embedded);
    for (args, arg) in [
        (
            &["hooks", "create", "x", "--reduce", ""][..],
            "--reduce <NAME|FILE.js>",
        ),
        (
            &["hooks", "create", "x", "--order-by", ""],
            "--order-by <RULE>",
        ),
        (
            &["streams", "retry", "x", "--handler", ""],
            "--handler <NAME>",
        ),
        (&["hooks", "pause", "x", "--reason", ""], "--reason <TEXT>"),
        (&["status", "--url", ""], "--url <URL>"),
        (&["serve", "--database", ""], "--database <URL>"),
    ] {
        let (code, said_) = said(&home, args);
        assert_eq!((code, said_.lines().count()), (2, 2), "{args:?}: {said_}");
        assert!(
            said_.starts_with(&format!("error: {arg} is empty\n")),
            "{said_}"
        );
        assert!(said_.contains("a value, or leave the flag out"), "{said_}");
        let json = [args, &["-o", "json"]].concat();
        let (code, said_) = said(&home, &json);
        let error: Value = serde_json::from_str(&said_).unwrap();
        assert_eq!(
            (code, &error["error"]["code"]),
            (2, &json!("usage")),
            "{error}"
        );
    }
    assert!(!home.data().exists(), "nothing was made");
    let (code, said_) = said(&home, &["why", ""]);
    assert!(
        code == 2 && said_.starts_with("error: <STREAM> is empty\n"),
        "{said_}"
    );

    // A unit file or a container may have HOOKLANE_URL= among its variables.
    let mut empty = home.command(&["hooks", "create", "x", "--reduce", "count"]);
    let done = ended(empty.env("HOOKLANE_URL", "").env("HOOKLANE_OUTPUT", ""));
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn a_wait_that_is_stopped_says_what_is_still_wrong_and_what_to_type() {
    let world = world();
    world.accepted("pay", r#"{"customer":"a","amount":null}"#);
    world.held("pay/a");
    let status = || String::from_utf8(ended(&mut world.home.command(&["status"])).stdout).unwrap();
    let seen = within(Duration::from_secs(20), || {
        status().contains("CODE  pay/a").then_some(())
    });
    assert!(seen.is_some(), "{}", status());
    let (program, data) = (env!("CARGO_BIN_EXE_hooklane"), world.home.data());
    // Ctrl-C goes to the shell too, which must go on.
    let run = format!(
        "trap : INT; LANG=C.UTF-8 NO_COLOR=1 {program} status --wait 60s --data {}; echo ended $?; exec sleep 1000",
        data.display()
    );
    let terminal = Terminal::with(&run, (80, 24));
    terminal.sees(&["wait", "Ctrl-C stops waiting"]);
    terminal.keys(&["C-c"]);
    terminal.sees(&[
        "stopped",
        "not well yet",
        "CODE  pay/a",
        "hooklane status",
        "ended 130",
    ]);
}
