//! Screens tell the truth about lanes in namespaces with similar names, operations under way, and acts
//! of operators.

use serde_json::Value;

use super::daemon::{Home, Setup};
use super::world::{World, until};

fn snapshot(home: &Home, namespace: &str) -> Value {
    let status = ["status", "--namespace", namespace, "-o", "json"];
    let status = home.command(&status).output().unwrap();
    serde_json::from_slice(&status.stdout).unwrap_or_default()
}

/// Output of a command on stdout and stderr.
fn said(home: &Home, args: &[&str]) -> String {
    let done = home.command(args).output().unwrap();
    let text = [done.stdout, done.stderr].concat();
    String::from_utf8(text).unwrap()
}

/// Sends events; `--data` may be their body here.
fn sent(home: &Home, args: &[&str]) -> String {
    let mut send = std::process::Command::new(env!("CARGO_BIN_EXE_hooklane"));
    let send = send.arg("send").args(args);
    let done = send.env("HOOKLANE_DATA", home.data()).output().unwrap();
    let text = [done.stdout, done.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(done.status.success(), "{text}");
    text
}

fn states(home: &Home) -> Vec<String> {
    let lanes = home.run(&["lanes", "list", "-o", "json"]);
    let lanes: Value = serde_json::from_str(&lanes).unwrap();
    let lanes = lanes["items"].as_array().unwrap().clone();
    let state = |lane: Value| lane["state"].as_str().unwrap().to_owned();
    lanes.into_iter().map(state).collect()
}

#[test]
fn a_namespace_whose_name_begins_like_another_has_lanes_of_its_own() {
    let home = Home::new(Setup::Production);
    let _daemon = home.start();
    home.run(&["namespaces", "create", "default-eu", "--lanes", "2"]);
    let hooks = "[[hooks]]\nname = 'eu'\nnamespace = 'default-eu'\nreduce = 'count'\n";
    home.apply(hooks);
    let told = sent(&home, &["eu"]);
    assert!(told.contains("in lane default-eu-1-"), "{told}");
    sent(&home, &["eu", "--count", "50"]);
    let busy = |namespace| snapshot(&home, namespace)["nodes"][0]["busy"].take();
    until(|| busy("default-eu").is_number().then_some(()));
    assert_eq!(
        busy("default"),
        Value::Null,
        "no lane of it has done anything"
    );
}

#[test]
fn lanes_that_an_operator_has_stopped_stay_so_through_a_resize_that_drains_first() {
    let hooks = "[[hooks]]\nname = 'orders'\nreduce = 'count'\n";
    let world = World::new(Setup::Embedded, &[], hooks);
    let home = &world.home;
    let resize = |to: &str| said(home, &["lanes", "resize", to, "--drain-first", "--yes"]);
    let waiting = || world.cursor("orders")["behind"].as_u64();

    home.run(&["lanes", "pause", "--all", "--yes", "--reason", "deploy"]);
    world.accepted("orders", "{}");
    let told = resize("4");
    assert!(told.contains("the lanes are paused by "), "{told}");
    let stays = "\"deploy\", and the new ones stay paused; nothing is drained first. Resume: hooklane lanes resume --all";
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    assert!(bare(&told).contains(&bare(stays)), "{told}");
    assert_eq!(states(home), ["paused"; 4]);
    assert_eq!(waiting(), Some(1), "nothing was applied");

    home.run(&["lanes", "resume", "--all"]);
    until(|| (waiting() == Some(0)).then_some(()));
    home.run(&["lanes", "drain", "--all", "--yes", "--wait"]);
    world.accepted("orders", "{}");
    let told = resize("2");
    assert!(
        told.contains("and the new ones stay drained. Resume: "),
        "{told}"
    );
    let is_kept = |state: &String| matches!(&**state, "draining" | "drained");
    until(|| states(home).iter().all(is_kept).then_some(()));
    assert_eq!(states(home).len(), 2);
    assert_eq!(waiting(), Some(1), "what came later still waits");

    home.run(&["lanes", "resume", "--all"]);
    until(|| (waiting() == Some(0)).then_some(()));
    assert_eq!(states(home), ["active"; 2]);
    resize("3");
    assert_eq!(states(home), ["active"; 3], "nobody had stopped them");
}

const SLOW_JS: &str = "export default function reduce(state, event) {\n\
    let n = state ?? 0;\n\
    for (let i = 0; i < 300000; i += 1) n = (n * 31 + i) % 1000003;\n  return n;\n}\n";

#[test]
fn an_operation_under_way_is_seen_by_whoever_looks_and_taken_up_again() {
    let hooks = "[[hooks]]\nname = 'orders'\nreduce = 'slow.js'\n[[hooks]]\nname = 'quick'\nreduce = 'count'\n";
    let world = World::new(Setup::Embedded, &[("slow.js", SLOW_JS)], hooks);
    let home = &world.home;
    sent(home, &["orders", "--count", "200"]);
    sent(home, &["quick"]);
    let rebuild = ["state", "rebuild", "orders", "--yes", "--confirm", "orders"];
    home.run(&[&rebuild[..], &["--no-wait"]].concat());
    let under_way = until(|| {
        let text = said(home, &["status"]);
        text.contains("under way  rebuild state of orders: ")
            .then_some(text)
    });
    assert!(
        under_way.contains("of 200 events, begun by uid "),
        "{under_way}"
    );
    assert!(
        under_way.contains("watch: hooklane state rebuild orders"),
        "{under_way}"
    );
    let top = said(home, &["top", "--once"]);
    assert!(
        top.contains("under way: rebuild state of orders: "),
        "{top}"
    );
    let again = said(home, &rebuild);
    assert!(again.contains("already under way: "), "{again}");
    assert!(again.contains("switch  1 of 1"), "{again}");
    // The same for all hooks: it follows those that were begun together, also the one that is done.
    let all = ["state", "rebuild", "--all", "--yes", "--confirm", "all"];
    home.run(&[&all[..], &["--no-wait"]].concat());
    until(|| {
        // Not the log, which keeps a rebuild that was seen under way.
        let running = snapshot(home, "default")["operations"].to_string();
        (!running.contains("state of quick")).then_some(())
    });
    let again = said(home, &all);
    assert!(again.contains("already under way: every hook"), "{again}");
    assert!(again.contains("switch  2 of 2"), "{again}");
    let acts = home.run(&["audit", "list", "-o", "json"]);
    let begun = acts.matches("\"state rebuild\"").count();
    assert_eq!(begun, 2, "running it again begins nothing: {acts}");
    until(|| {
        snapshot(home, "default")["operations"]
            .as_array()?
            .is_empty()
            .then_some(())
    });
    home.run(&["hooks", "pause", "orders", "--reason", "deploy"]);
    let told = |words: &str| {
        let log = snapshot(home, "default")["log"].to_string();
        log.contains(words).then_some(())
    };
    until(|| told("state rebuild by uid "));
    until(|| told("hooks pause by uid "));
    until(|| told("ended"));
}

#[test]
fn why_dates_a_failure_as_status_does_and_a_try_more_does_not_change_that() {
    const PICKY_JS: &str = "export default function reduce(state, event) {\n\
        throw new Error('no good');\n}\n";
    let hooks = "[[hooks]]\nname = 'orders'\nreduce = 'picky.js'\n";
    let world = World::new(Setup::Embedded, &[("picky.js", PICKY_JS)], hooks);
    let home = &world.home;
    world.accepted("orders", "{}");
    world.held("orders");
    let since = |text: &str| {
        let at = text.find("since ")? + "since ".len();
        text.get(at..at + 9).map(str::to_owned)
    };
    let first = until(|| since(&said(home, &["status"])));
    assert_eq!(since(&said(home, &["why", "orders"])), Some(first.clone()));
    home.run(&["streams", "retry", "orders"]);
    world.held("orders");
    assert_eq!(since(&said(home, &["why", "orders"])), Some(first.clone()));
    let again = until(|| since(&said(home, &["status"])));
    assert_eq!(again, first);
    let why = said(home, &["why", "orders"]);
    assert!(!why.contains("helps     hooklane lanes rebuild"), "{why}");
}

/// The verdict of a namespace, as class and text without the words that have figures: ages grow.
fn verdict(home: &Home) -> (String, String) {
    let worst = snapshot(home, "default")["verdicts"][0].take();
    let word = |of: &str| worst[of].as_str().unwrap_or_default().to_owned();
    (word("class"), bare(&word("text")))
}

fn bare(text: &str) -> String {
    let words = text.split_whitespace();
    let has_figure = |word: &&str| word.contains(|c: char| c.is_ascii_digit());
    words.filter(|word| !has_figure(word)).collect()
}

/// Checks that `status`, `top` and `why` say the same of a stream once its state is this class. A change
/// between two of them is no contradiction, so the first is asked again behind the others.
fn agree(home: &Home, stream: &str, class: &str) {
    until(|| {
        let first = verdict(home);
        let status = said(home, &["status"]);
        let top = bare(&said(home, &["top", "--once"]));
        let why: Value = serde_json::from_str(&home.run(&["why", stream, "-o", "json"])).unwrap();
        if first.0 != class || verdict(home) != first {
            return None;
        }
        assert!(status.starts_with(&format!("{class}  ")), "{status}");
        for screen in [&bare(&status), &top] {
            assert!(screen.contains(&first.1), "{first:?}: {screen}");
        }
        assert_eq!(why["class"], class, "{why}\n{status}");
        Some(())
    });
}

#[test]
fn status_top_and_why_agree_in_every_state_that_is_staged() {
    const PICKY_JS: &str = "export default function reduce(state, event) {\n\
        if (event.body.bad) throw new Error('no good');\n  return (state ?? 0) + 1;\n}\n";
    let hooks = "[[hooks]]\nname = 'orders'\nreduce = 'picky.js'\norder_by = 'body:/account'\n";
    let world = World::new(Setup::Production, &[("picky.js", PICKY_JS)], hooks);
    let home = &world.home;
    let post = |account: &str, bad: bool| {
        let body = serde_json::json!({"account": account, "bad": bad});
        world.accepted("orders", body.to_string());
    };
    post("a", false);
    agree(home, "orders/a", "OK");

    home.run(&["lanes", "pause", "--all", "--yes", "--reason", "deploy"]);
    post("a", false);
    agree(home, "orders/a", "ON PURPOSE");
    home.run(&["lanes", "resume", "--all"]);
    home.run(&["lanes", "drain", "--all", "--yes", "--wait"]);
    post("a", false);
    agree(home, "orders/a", "ON PURPOSE");
    home.run(&["lanes", "resume", "--all"]);
    home.run(&["hooks", "pause", "orders", "--reason", "deploy"]);
    post("a", false);
    agree(home, "orders/a", "ON PURPOSE");
    home.run(&["hooks", "resume", "orders"]);
    agree(home, "orders/a", "OK");
    home.run(&["streams", "hold", "orders/a", "--reason", "deploy"]);
    post("a", false);
    agree(home, "orders/a", "ON PURPOSE");
    home.run(&["streams", "release", "orders/a"]);
    agree(home, "orders/a", "OK");

    post("acme", true);
    world.held("orders/acme");
    agree(home, "orders/acme", "CODE");
    home.run(&["lanes", "pause", "--all", "--yes", "--reason", "deploy"]);
    agree(home, "orders/acme", "CODE");
    home.run(&["lanes", "resume", "--all"]);
    agree(home, "orders/acme", "CODE");
}

#[test]
fn the_mark_of_a_namespace_follows_its_worst_verdict() {
    const PICKY_JS: &str = "export default function reduce(state, event) {\n\
        throw new Error('no good');\n}\n";
    let hooks = "[[namespaces]]\nname = 'eu'\n\
        [[hooks]]\nname = 'orders'\nnamespace = 'eu'\nreduce = 'picky.js'\n";
    let world = World::new(Setup::Embedded, &[("picky.js", PICKY_JS)], hooks);
    let home = &world.home;
    let marks = |default: &str, eu: &str| {
        until(|| {
            // The namespaces are looked at one after the other, so the others may be a second older.
            let seen = ["default", "eu"].map(|name| snapshot(home, name));
            let mark = |seen: &Value, nth: usize| seen["namespaces"][nth]["severity"].clone();
            let are_marked = |seen: &Value| mark(seen, 0) == default && mark(seen, 1) == eu;
            let is_told = seen.iter().all(are_marked);
            let worst = |seen: &Value| seen["verdicts"][0]["severity"].clone();
            (is_told && worst(&seen[0]) == default && worst(&seen[1]) == eu).then_some(())
        });
    };
    marks("fine", "fine");
    home.run(&["lanes", "pause", "--all", "--namespace", "eu", "--yes"]);
    marks("fine", "unusual");
    home.run(&["lanes", "resume", "--all", "--namespace", "eu"]);
    world.accepted("orders", "{}");
    world.held("orders");
    marks("fine", "trouble");
    // A second finding that is less bad changes nothing.
    home.run(&["lanes", "pause", "--all", "--namespace", "eu", "--yes"]);
    until(|| (snapshot(home, "eu")["verdicts"].as_array()?.len() == 2).then_some(()));
    marks("fine", "trouble");
}
