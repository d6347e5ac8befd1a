//! Promises of a daemon to its operator: a bad event affects only its own stream, restarts lose
//! nothing, and commands work.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::SETUP;
use super::daemon::Home;
use super::world::{Ask, Watcher, World, until};

const STOP_MAX: Duration = Duration::from_secs(10);

/// Reducer that sums amounts, and throws at a text.
pub const SUM: &str = r#"export default function reduce(state, event) {
  state ??= { sum: 0 };
  if (typeof event.body.n !== "number") throw new TypeError(`no number: ${event.body.n}`);
  state.sum += event.body.n;
  return state;
}"#;

pub const ACCOUNTS: &str = r#"
    [[hooks]]
    name = "accounts"
    order_by = "body:/who"
    reduce = "sum.js"
"#;

fn accounts() -> World {
    World::new(SETUP, &[("sum.js", SUM)], ACCOUNTS)
}

pub fn event(who: &str, n: impl Into<Value>) -> String {
    json!({"who": who, "n": n.into()}).to_string()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that may fail.
pub fn attempt(home: &Home, args: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = home.command(args).output().unwrap();
    (status.code(), text(&stdout), text(&stderr))
}

#[test]
fn an_event_that_cannot_be_folded_holds_its_stream_alone_until_the_reducer_is_right() {
    let world = accounts();
    world.accepted("accounts", event("a", 1));
    let bad = world.accepted("accounts", event("a", "one"));
    world.accepted("accounts", event("a", 2));
    let row = world.held("accounts/a");
    assert_eq!((&row["position"], &row["head"]), (&json!(1), &json!(3)));
    assert_eq!(row["next"], bad["event"], "it names what it stands before");
    let reason = row["reason"].as_str().unwrap();
    assert!(
        reason.contains("no number: one") && reason.contains("sum.js"),
        "{reason}"
    );

    for n in 1..=20 {
        for who in 0..20 {
            world.accepted("accounts", event(&format!("other{who}"), n));
        }
    }
    for who in 0..20 {
        let state = world.state(&format!("accounts/other{who}"), 20);
        assert_eq!(state["sum"], 210, "the others flow, in whatever lane");
    }
    let held = "/v1/admin/streams?condition=held";
    let held = world.admin("GET", held, &Value::Null).json();
    assert_eq!(held["items"].as_array().unwrap().len(), 1);

    let retry = ["streams", "retry", "accounts/a"];
    world.home.run(&retry);
    let row = world.held("accounts/a");
    assert_eq!(row["position"], 1, "nothing is better by trying again");

    let fixed = world.home.write(
        "fixed.js",
        &SUM.replace("throw new TypeError", "return state; void "),
    );
    world.home.run(&[
        "hooks",
        "edit",
        "accounts",
        "--reduce",
        fixed.to_str().unwrap(),
    ]);
    world.home.run(&retry);
    assert_eq!(world.state("accounts/a", 3)["sum"], 3);
    assert_eq!(world.cursor("accounts/a")["condition"], "flowing");
    let nothing = world
        .home
        .run(&["streams", "retry", "accounts/a", "-o", "json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&nothing).unwrap()["released"],
        0
    );
}

#[test]
fn a_reducer_goes_with_its_states_and_one_that_comes_back_folds_from_the_first_event() {
    let world = accounts();
    world.accepted("accounts", event("a", 1));
    world.accepted("accounts", event("b", "two"));
    assert_eq!(world.state("accounts/a", 1)["sum"], 1);
    world.held("accounts/b");
    let set_aside = || {
        let lanes = world.admin("GET", "/v1/admin/lanes", &Value::Null).json();
        let lanes = lanes["items"].as_array().unwrap();
        let each = lanes.iter().map(|lane| lane["set_aside"].as_i64().unwrap());
        each.sum::<i64>()
    };
    assert_eq!(set_aside(), 1);

    let edit = |more: &[&str]| {
        let args = [&["hooks", "edit", "accounts"], more].concat();
        attempt(&world.home, &args)
    };
    world
        .home
        .run(&["hooks", "edit", "accounts", "--debounce", "1ms"]);
    let (code, _, said) = edit(&["--no-reduce"]);
    assert_eq!(
        code,
        Some(2),
        "it would leave a debounce of nothing: {said}"
    );
    assert!(said.contains("error: a debounce needs a reducer: end it too, with --no-debounce\n"));
    let refused = world.admin(
        "PATCH",
        "/v1/admin/hooks/accounts",
        &json!({"reduce": null}),
    );
    assert_eq!((refused.status, refused.code().as_str()), (422, "invalid"));
    assert_eq!(edit(&["--no-reduce", "--reduce", "count"]).0, Some(2));

    let (code, _, said) = edit(&["--no-reduce", "--no-debounce"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("  reduce: sum.js -> -\n") && said.contains("2 states go;"),
        "{said}"
    );
    assert_eq!(world.get("/v1/hooks/accounts/state?stream=a").status, 422);
    until(|| (set_aside() == 0).then_some(()));
    world.accepted("accounts", event("b", 3));

    let (code, _, said) = edit(&["--reduce", "count"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("hooks edit accounts --no-reduce\n"),
        "the way back: {said}"
    );
    assert_eq!(world.state("accounts/a", 1), 1);
    assert_eq!(world.state("accounts/b", 2), 2);
}

#[test]
fn the_stream_that_waits_longest_stands_first_and_what_waits_for_nothing_last() {
    let world = accounts();
    for (who, n) in [("late", json!(1)), ("done", json!(1)), ("first", json!(1))] {
        world.accepted("accounts", event(who, n));
        world.state(&format!("accounts/{who}"), 1);
    }
    for who in ["first", "late"] {
        world.accepted("accounts", event(who, "no"));
        world.held(&format!("accounts/{who}"));
        // Ages are told in milliseconds.
        let told = world.cursor(&format!("accounts/{who}"))["oldest_ms"].as_u64();
        until(|| {
            let now = world.cursor(&format!("accounts/{who}"))["oldest_ms"].as_u64();
            (now > told).then_some(())
        });
    }
    let list = |more: &[&str]| {
        let args = [&["streams", "list", "-o", "names"], more].concat();
        let (code, names, said) = attempt(&world.home, &args);
        assert_eq!(code, Some(0), "{said}");
        names
            .replace("accounts/", "")
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&[]), ["first", "late", "done"]);
    assert_eq!(
        list(&["--limit", "1"]),
        ["first"],
        "however few are asked for"
    );
    assert_eq!(list(&["--condition", "held"]), ["first", "late"]);
    assert_eq!(list(&["--condition", "flowing"]), ["done"]);
    assert_eq!(list(&["--sort", "created"]), ["late", "done", "first"]);
    assert_eq!(list(&["--after", "1"]), ["done", "first"]);
    let both = ["streams", "list", "--after", "1", "--sort", "oldest"];
    assert_eq!(attempt(&world.home, &both).0, Some(2));
}

#[test]
fn a_hook_that_goes_leaves_nothing_set_aside() {
    let world = accounts();
    world.accepted("accounts", event("a", "one"));
    world.held("accounts/a");
    let held = || {
        let page = String::from_utf8(world.get("/metrics").body).unwrap();
        page.contains("\nhooklane_cursors_held 1\n")
    };
    assert!(held());
    world.home.run(&[
        "hooks",
        "delete",
        "accounts",
        "--yes",
        "--confirm",
        "accounts",
    ]);
    until(|| (!held()).then_some(()));
}

#[test]
fn an_operator_passes_the_event_that_is_next_and_no_other() {
    let world = accounts();
    let good = world.accepted("accounts", event("a", 1));
    let bad = world.accepted("accounts", event("a", "one"));
    let later = world.accepted("accounts", event("a", 2));
    world.held("accounts/a");
    let skip = |event: &Value| {
        let id = event["event"].as_str().unwrap();
        let skip = ["streams", "skip", "accounts/a", "--event", id];
        attempt(
            &world.home,
            &[&skip[..], &["--yes", "--confirm", "accounts/a"]].concat(),
        )
    };
    for other in [&good, &later] {
        let (code, _, said) = skip(other);
        assert_eq!(code, Some(7), "{said}");
    }
    let bare = [
        "streams",
        "skip",
        "accounts/a",
        "--event",
        bad["event"].as_str().unwrap(),
    ];
    let (code, _, said) = attempt(&world.home, &[&bare[..], &["--no-input"]].concat());
    assert_eq!(
        code,
        Some(2),
        "it asks before it leaves something out: {said}"
    );
    assert_eq!(world.cursor("accounts/a")["position"], 1);

    let (code, _, said) = skip(&bad);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(world.state("accounts/a", 3)["sum"], 3);
    assert_eq!(fate(&world, &bad)["outcome"], "skipped");
    assert_eq!(fate(&world, &later)["outcome"], "folded");
    let (code, _, said) = skip(&bad);
    assert_eq!(code, Some(7), "twice is not once more: {said}");
}

/// Outcome of an event at the only handler.
fn fate(world: &World, event: &Value) -> Value {
    let path = format!("/v1/admin/events/{}", event["event"].as_str().unwrap());
    world.admin("GET", &path, &Value::Null).json()["fate"][0].take()
}

#[test]
fn a_hook_that_skips_on_error_keeps_a_dead_letter_with_its_reason_and_goes_on() {
    let world = World::new(
        SETUP,
        &[("sum.js", SUM)],
        &format!("{ACCOUNTS} on_error = \"skip\""),
    );
    world.accepted("accounts", event("a", 1));
    let bad = world.accepted("accounts", event("a", "one"));
    world.accepted("accounts", event("a", 2));
    assert_eq!(world.state("accounts/a", 3)["sum"], 3);
    let fate = fate(&world, &bad);
    assert_eq!(fate["outcome"], "skipped");
    assert!(fate["reason"].as_str().unwrap().contains("no number: one"));
}

#[test]
fn dead_letters_are_listed_with_their_reasons_and_nothing_else_is() {
    let world = World::new(
        SETUP,
        &[("sum.js", SUM)],
        &format!("{ACCOUNTS} on_error = \"skip\"\n[[hooks]]\nname = \"plain\"\nreduce = \"count\""),
    );
    world.accepted("plain", "1");
    world.accepted("accounts", event("a", 1));
    let first = world.accepted("accounts", event("a", "one"));
    // Ids of the same millisecond have no order.
    std::thread::sleep(Duration::from_millis(1));
    let second = world.accepted("accounts", event("b", "two"));
    world.accepted("accounts", event("b", 2));
    world.state("accounts/a", 2);
    world.state("accounts/b", 2);
    let dead = |more: &str| -> Vec<Value> {
        let path = format!("/v1/admin/events?dead=true{more}");
        let rows = world.admin("GET", &path, &Value::Null).json()["items"].take();
        let pair = |row: &Value| json!([row["event"], row["reason"].as_str().unwrap()]);
        rows.as_array().unwrap().iter().map(pair).collect()
    };
    let (one, two) = ("no number: one", "no number: two");
    let is = |row: &Value, event: &Value, why: &str| {
        row[0] == event["event"] && row[1].as_str().unwrap().contains(why)
    };
    let all = dead("");
    assert!(
        all.len() == 2 && is(&all[0], &second, two) && is(&all[1], &first, one),
        "{all:?}"
    );
    assert_eq!(dead("&hook=plain"), [] as [Value; 0]);
    assert_eq!(dead("&stream=accounts/a"), all[1..]);
    assert_eq!(dead("&since=2999-01-01T00:00:00Z"), [] as [Value; 0]);
    assert_eq!(dead("&limit=1"), all[..1]);
    let page = format!("&after={}", second["event"].as_str().unwrap());
    assert_eq!(dead(&page), all[1..], "newest first, page by page");

    let list = |more: &[&str]| {
        world
            .home
            .run(&[&["events", "list", "--dead"], more].concat())
    };
    let table = list(&["--stream", "accounts/a"]);
    let header = ["EVENT", "STREAM", "SEQ", "RECEIVED", "HANDLER", "REASON"];
    let mut lines = table.lines();
    assert!(
        lines.next().unwrap().split_whitespace().eq(header),
        "{table}"
    );
    let row = lines.next().unwrap();
    assert!(
        row.contains("accounts/a    2") && row.contains("reduce"),
        "{table}"
    );
    assert!(row.contains(one) && lines.next().is_none(), "{table}");
    assert_eq!(list(&["-o", "names"]).lines().count(), 2);
    let tail = world.admin("GET", "/v1/admin/events/tail?dead=true", &Value::Null);
    assert_eq!((tail.status, tail.code().as_str()), (400, "malformed"));
}

#[test]
fn a_reducer_without_end_or_measure_holds_its_stream_alone() {
    let world = World::new(
        SETUP,
        &[(
            "wild.js",
            r#"export default (state, { body }) => {
                 if (body.what === "loop") for (;;);
                 if (body.what === "grow") { let s = "x"; for (;;) s += s; }
                 if (body.what === "deep") { const f = () => f() + 1; return f(); }
                 if (body.what === "none") return undefined;
                 if (body.what === "cycle") { const a = {}; a.a = a; return a; }
                 if (body.what === "big") return "x".repeat(20 * 1024 * 1024);
                 return (state ?? 0) + 1;
               };"#,
        )],
        "[[hooks]]\nname = \"wild\"\norder_by = \"body:/what\"\nreduce = \"wild.js\"",
    );
    let wild = ["loop", "grow", "deep", "cycle", "big"];
    for what in wild {
        world.accepted("wild", json!({"what": what}).to_string());
    }
    world.accepted("wild", r#"{"what":"good"}"#);
    assert_eq!(world.state("wild/good", 1), 1);
    for what in wild {
        let row = world.held(&format!("wild/{what}"));
        assert_eq!(row["position"], 0);
        assert!(
            row["reason"]
                .as_str()
                .is_some_and(|reason| !reason.is_empty()),
            "{row}"
        );
    }
}

#[test]
fn a_debounce_waits_for_quiet_and_then_takes_everything_in_one_turn() {
    let world = World::new(
        SETUP,
        &[],
        "[[hooks]]\nname = \"plain\"\nreduce = \"count\"\ndebounce = \"2s,60s\"",
    );
    let path = "/v1/hooks/plain/watch";
    let mut watcher = Watcher::new(world.home.addr, path, &world.read);
    assert_eq!(watcher.next().unwrap()["position"], 0);
    for n in 0..20 {
        world.accepted("plain", n.to_string());
    }
    let last = Instant::now();
    assert_eq!(watcher.next().unwrap()["position"], 20, "one turn for all");
    assert!(
        last.elapsed() > Duration::from_millis(1_900),
        "only after it was quiet"
    );
}

#[test]
fn a_debounce_that_never_becomes_quiet_ends_at_its_longest() {
    let world = World::new(
        SETUP,
        &[],
        "[[hooks]]\nname = \"plain\"\nreduce = \"count\"\ndebounce = \"5s,5s\"",
    );
    let began = Instant::now();
    until(|| {
        let sent = Instant::now();
        world.accepted("plain", "{}");
        assert!(sent.elapsed() < Duration::from_secs(5), "it became quiet");
        let state = world.get("/v1/hooks/plain/state").json();
        (state["position"].as_i64() > Some(0)).then_some(())
    });
    assert!(began.elapsed() > Duration::from_millis(4_900));
}

#[test]
fn a_second_daemon_on_the_same_data_says_who_has_it_and_ends() {
    let world = accounts();
    let pid = world.daemon.as_ref().unwrap().pid().to_string();
    let (code, _, said) = attempt(&world.home, &["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains(&pid), "{said}");
    world.accepted("accounts", event("a", 1));
    assert_eq!(world.state("accounts/a", 1)["sum"], 1, "the first goes on");
}

#[test]
fn an_address_that_is_taken_ends_the_daemon_with_a_word() {
    let world = accounts();
    let other = Home::new(SETUP);
    let address = world.home.addr.to_string();
    let (code, _, said) = attempt(&other, &["serve", "--listen", &address]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&address), "{said}");
}

#[test]
fn everything_is_as_it_was_after_kill_9_and_after_a_stop() {
    let mut world = accounts();
    let repeated = |world: &World| {
        let ask = Ask::post("accounts")
            .key(&world.write)
            .header("webhook-id", "m1");
        world.ask(&ask.body(event("a", 1)))
    };
    let first = repeated(&world).json();
    world.accepted("accounts", event("a", 5));
    world.accepted("accounts", event("b", "not a number"));
    world.state("accounts/a", 2);
    world.held("accounts/b");
    let shown = |world: &World| {
        let mut state = world.get("/v1/hooks/accounts/state?stream=a").json();
        let events = world.get("/v1/hooks/accounts/events?stream=a").json();
        let mut held = world.cursor("accounts/b");
        held["oldest_ms"].take();
        let hooks = world.admin("GET", "/v1/admin/hooks", &Value::Null).json();
        [
            state.take(),
            events["items"].clone(),
            held,
            hooks["items"].clone(),
        ]
    };
    let before = shown(&world);
    world.kill();
    world.restart();
    assert_eq!(shown(&world), before, "after kill -9");
    let mut daemon = world.daemon.take().unwrap();
    assert_eq!(daemon.terminate(STOP_MAX).unwrap().code(), Some(0));
    world.restart();
    assert_eq!(shown(&world), before, "after a stop");

    let again = repeated(&world);
    assert_eq!(
        (again.status, &again.json()["event"]),
        (200, &first["event"])
    );
    assert_eq!(
        world.accepted("accounts", event("a", 1))["seq"],
        3,
        "no gap"
    );
    assert_eq!(world.state("accounts/a", 3)["sum"], 7);
}

#[test]
fn what_waited_behind_a_debounce_is_not_forgotten_by_a_stop() {
    let mut world = World::new(
        SETUP,
        &[],
        "[[hooks]]\nname = \"plain\"\nreduce = \"count\"\ndebounce = \"3s,60s\"",
    );
    for n in 0..5 {
        world.accepted("plain", n.to_string());
    }
    world.kill();
    world.restart();
    assert_eq!(world.state("plain", 5), 5);
}

#[test]
fn a_client_in_the_middle_of_a_body_does_not_keep_a_daemon_from_stopping() {
    let mut world = accounts();
    let mut stream = std::net::TcpStream::connect(world.home.addr).unwrap();
    let head = format!(
        "POST /in/accounts HTTP/1.1\r\nhost: x\r\nx-hooklane-key: {}\r\ncontent-length: 9\r\n\r\n1",
        world.write
    );
    stream.write_all(head.as_bytes()).unwrap();
    world.accepted("accounts", event("a", 1));
    let mut daemon = world.daemon.take().unwrap();
    let status = daemon
        .terminate(STOP_MAX)
        .expect("a daemon that stops in time");
    assert_eq!(status.code(), Some(0), "{}", world.home.log());
}

#[test]
fn only_its_user_can_read_what_a_daemon_keeps() {
    let world = accounts();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.home.data()), 0o700);
    assert_eq!(mode(&world.home.data().join("hooklane.sock")), 0o600);
}

#[test]
fn the_clock_of_a_reducer_is_the_event_and_its_zone_is_utc_wherever_the_daemon_runs() {
    let mut home = Home::new(SETUP);
    home.environment = vec![("TZ", "Asia/Kolkata"), ("LC_ALL", "tr_TR.UTF-8")];
    let world = World::at(
        home,
        &[(
            "clock.js",
            r#"export default (state, event) => ({
                 hours: new Date("2026-07-01T12:00:00Z").getHours(),
                 offset: new Date(0).getTimezoneOffset(),
                 local: new Date(2026, 0, 1).getTime(),
                 upper: "i".toLocaleUpperCase(),
                 now: new Date().getTime() === Date.parse(event.received_at),
                 same: Date.now() === Date.now(),
               });"#,
        )],
        "[[hooks]]\nname = \"clock\"\nreduce = \"clock.js\"",
    );
    world.accepted("clock", "{}");
    assert_eq!(
        world.state("clock", 1),
        json!({
            "hours": 12, "offset": 0, "local": 1_767_225_600_000_i64, "upper": "I", "now": true, "same": true,
        })
    );
}

#[test]
fn trying_a_reducer_stores_nothing() {
    let world = accounts();
    let good = world.home.write("good.json", &event("a", 2));
    let state = world.home.write("state.json", r#"{"sum": 40}"#);
    let bad = world.home.write("bad.json", &event("a", "two"));
    let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let test = ["hooks", "test", "accounts", "--event"];
    let tried = |more: &[&str]| attempt(&world.home, &[&test[..], more].concat());
    let (code, out, _) = tried(&[&path(&good)]);
    assert_eq!((code, out.trim()), (Some(0), r#"{"sum":2}"#));
    let (code, out, _) = tried(&[&path(&good), "--state", &path(&state)]);
    assert_eq!((code, out.trim()), (Some(0), r#"{"sum":42}"#));
    let (code, out, said) = tried(&[&path(&bad)]);
    assert!(
        code > Some(0) && out.is_empty() && said.contains("no number: two"),
        "{said}"
    );

    let hook = world
        .admin("GET", "/v1/admin/hooks/accounts", &Value::Null)
        .json();
    assert_eq!((&hook["events"], &hook["streams"]), (&json!(0), &json!(0)));
    assert_eq!(world.accepted("accounts", event("a", 1))["seq"], 1);
    assert_eq!(world.state("accounts/a", 1)["sum"], 1);
}

#[test]
fn a_hook_that_is_deleted_and_made_again_begins_anew() {
    let world = accounts();
    let old = world.admin(
        "POST",
        "/v1/admin/keys",
        &json!({
        "kind": "write", "hook": "accounts", "name": "old", "expires_in_ms": null}),
    );
    let old = old.json()["key"].as_str().unwrap().to_owned();
    world.accepted("accounts", event("a", 1));
    world.state("accounts/a", 1);
    let gone = world.admin("DELETE", "/v1/admin/hooks/accounts", &Value::Null);
    assert_eq!(
        gone.json(),
        json!({"deleted": "accounts", "streams": 1, "events": 1})
    );
    assert_eq!(world.post("accounts", event("a", 1)).status, 401);
    let file = world.home.write("again.toml", ACCOUNTS);
    world.home.run(&["hooks", "apply", file.to_str().unwrap()]);
    let with_old = world.ask(&Ask::post("accounts").key(&old).body(event("a", 1)));
    assert_eq!(
        with_old.status, 401,
        "a key is for the hook it was made for"
    );
    assert_eq!(world.accepted("accounts", event("a", 2))["seq"], 1);
    assert_eq!(world.state("accounts/a", 1)["sum"], 2);
}
