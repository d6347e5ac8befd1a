//! Whole sessions at a shell, compared with the snapshots. `INSTA_UPDATE=always` writes them anew.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::daemon::{Home, Setup};
use super::world::{World, until};

/// A shell in which hooklane finds the data directory of a home.
fn shell(home: &Home, line: &str) -> Command {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_hooklane"));
    let path = std::env::var("PATH").unwrap();
    let mut shell = Command::new("bash");
    shell.args(["--norc", "-c", line]).env_clear();
    shell.env(
        "PATH",
        format!("{}:{path}", program.parent().unwrap().display()),
    );
    shell
        .env("HOME", home.data().parent().unwrap())
        .env("LANG", "C");
    shell.env("HOOKLANE_DATA", home.data()).stdin(Stdio::null());
    shell
}

/// Each line with all that it says, and its exit code if that is not 0. What differs from run to run,
/// times and ids, is one word for all of its kind.
fn session(home: &Home, lines: &[&str]) -> String {
    let mut seen = String::new();
    for line in lines {
        let ended = shell(home, &format!("{{ {line}\n}} 2>&1"))
            .output()
            .unwrap();
        let said = String::from_utf8(ended.stdout).unwrap();
        assert!(!said.contains('\u{1b}'), "{line}: {said:?}");
        writeln!(seen, "$ {line}").unwrap();
        seen += &tamed(home, &said);
        match ended.status.code() {
            Some(0) => {}
            code => writeln!(seen, "? {}", code.unwrap()).unwrap(),
        }
    }
    seen
}

fn tamed(home: &Home, said: &str) -> String {
    let place = home.data().parent().unwrap().display().to_string();
    let said = said.replace(&place, "~");
    let said = said.replace(&home.addr.to_string(), "ADDRESS");
    // Progress at a given moment is random, too.
    let is_progress = |line: &&str| {
        let marks = ["[#", "[--", "NOT MOVING", "/s, about ", " came later"];
        let is_left = line.starts_with("drain ") && line.ends_with(" left");
        is_left || marks.iter().any(|mark| line.contains(mark))
    };
    let lines = said.lines().filter(|line| !is_progress(line));
    lines.map(|line| tamed_line(line) + "\n").collect()
}

fn tamed_line(line: &str) -> String {
    let (mut tamed, mut before) = (String::new(), "");
    for part in line.split_inclusive(' ') {
        let word = part.trim_end();
        let core = word.trim_matches(['(', ')', ',', '.', ';', ':', '"']);
        match kind(core, before) {
            None => tamed += part,
            Some(kind) => {
                // Numbers stand at the right of their columns: how far from the left is chance.
                while tamed.ends_with("   ") {
                    tamed.pop();
                }
                tamed += &part.replacen(core, kind, 1);
            }
        }
        if !word.is_empty() {
            before = word;
        }
    }
    tamed.trim_end().to_owned()
}

/// Compares a session with what is written down of it.
fn is_as_written(name: &str, seen: &str) {
    insta::with_settings!({omit_expression => true, prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!(name, seen);
    });
}

/// The set of words of which one appears at random.
fn kind(word: &str, before: &str) -> Option<&'static str> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let shape: String = word
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    let figure = |unit: &str| {
        let number = word
            .strip_suffix(unit)
            .map(|n| n.trim_start_matches(['<', '+', '-']));
        number.is_some_and(|n| digits(&n.replace(['.', ','], "")))
    };
    if before == "uid" && digits(word) {
        Some("N")
    } else if word.starts_with("evt_") {
        Some("EVENT")
    } else if word.starts_with("hl_") && word.len() > 40 {
        Some("KEY")
    } else if word.starts_with("k_") && word.len() == 10 {
        Some("k_ID")
    } else if shape.starts_with("0000-00-00T00:00:00") || shape == "00:00:00Z" {
        Some("TIME")
    } else if shape == "0000-00-00" {
        Some("DAY")
    } else if figure("/s") {
        Some("N/s")
    } else if figure("%") {
        Some("N%")
    } else if figure("ms") || figure("s") || ["0m00", "00m00", "0h00"].contains(&&*shape) {
        Some("T")
    } else {
        None
    }
}

#[test]
fn without_a_daemon() {
    let home = Home::new(Setup::Embedded);
    let seen = session(
        &home,
        &[
            "hooklane",
            "hooklane lanes list",
            "hooklane lanes list -o json",
            "hooklane why hello",
            "hooklane hooks list",
            "hooklane hooks create hello --reduce latest",
            "hooklane hooks create hello --reduce latest",
            "hooklane hooks create Hello",
            "hooklane hooks list",
            "hooklane hooks list -o names",
            "hooklane hooks show hello",
            "hooklane hooks show helo",
            "hooklane hooks show helo -o json",
            "hooklane hooks test hello --event - <<< '{\"n\":1}'",
            "hooklane hooks edit hello --reduce merge --dry-run",
            "hooklane hooks edit hello --reduce merge",
            "hooklane hooks edit hello --reduce merge",
            "hooklane hooks delete hello",
            "hooklane hooks delete hello --no-input",
            "hooklane hooks delete hello --yes --confirm helo",
            "hooklane keys create --type write --hook hello --name stripe-in --expires 90d",
            "hooklane keys create --type write --hook helo --name stripe-in",
            "hooklane keys create --type write --name stripe-in",
            "hooklane keys list",
            "hooklane keys revoke k_00000000 --yes",
            "hooklane keys revoke $(hooklane keys list -o names)",
            "hooklane keys revoke $(hooklane keys list -o names) --yes",
            "hooklane keys revoke $(hooklane keys list -o names) --yes",
            "hooklane namespaces create acme --lanes 4",
            "hooklane namespaces list",
            "hooklane namespaces delete acm",
            "hooklane namespaces delete acme --yes --confirm acme",
            "hooklane audit list -o jsonl | wc -l",
            "hooklane keys create --type read --hook hello --name grafana -q >/dev/null",
            "hooklane hooks delete hello --yes --confirm hello",
            "hooklane keys list",
        ],
    );
    is_as_written("without_a_daemon", &seen);
}

#[test]
fn wrong_calls() {
    let home = Home::new(Setup::Embedded);
    let seen = session(
        &home,
        &[
            "hooklane lanes lits",
            "hooklane lanes lits -o json",
            "hooklane lanes resize 0",
            "hooklane lanes resize 0 --output=json",
            "hooklane lanes resize -5",
            "hooklane lanes resize many",
            "hooklane lanes resize many -o json",
            "hooklane serve --lanes 0",
            "HOOKLANE_OUTPUT=json hooklane why",
            "hooklane hooks list --url ftp://a",
            "hooklane hooks list --url http://127.0.0.1:1",
            "HOOKLANE_KEY=hl_w_7Q2mC0vXr1b9TzKf hooklane send hello --url http://127.0.0.1:1",
            "HOOKLANE_KEY=secret hooklane send hello --url http://127.0.0.1:1",
            "hooklane hooks list --data /etc/passwd",
            "hooklane hooks apply nowhere.toml",
        ],
    );
    is_as_written("wrong_calls", &seen);
}

#[test]
fn first_steps() {
    let home = Home::new(Setup::Embedded);
    let _daemon = home.start();
    home.run(&["hooks", "create", "hello", "--reduce", "latest"]);
    let seen = session(
        &home,
        &[
            "hooklane lanes list",
            "hooklane lanes list --state paused -o names",
            "hooklane send hello --body '{\"n\":1}'",
            "hooklane send hello --count 20",
            "hooklane send helo",
            "hooklane state show hello",
            "hooklane state show helo",
            "hooklane state show hello -o names",
            "hooklane events list --limit 1",
            "hooklane events list -o names | wc -l",
            "hooklane events list -o jsonl | head -n 1 | wc -l",
            "hooklane events show evt_01m834emheemq8k9w37k2m9qx4",
            "hooklane streams list",
            "hooklane streams list -o names",
            "hooklane streams show hello",
            "hooklane streams show hello --handler redus",
            "hooklane streams skip hello --event evt_01m834emheemq8k9w37k2m9qx4",
            "hooklane why hello",
            "hooklane why hallo",
            "hooklane why hello/x",
            "hooklane lanes of hello --lanes 16",
            "hooklane state rebuild hello --dry-run",
            "hooklane state rebuild hello",
            "hooklane state rebuild hello --yes --confirm hello",
            "hooklane hooks pause hello --reason deploy",
            "hooklane hooks resume hello",
            "hooklane status >/dev/full",
            "hooklane lanes list >/dev/full",
        ],
    );
    is_as_written("first_steps", &seen);
}

const ORDERS: &str =
    "[[hooks]]\nname = 'orders'\nreduce = 'picky.js'\norder_by = 'body:/account'\n";

const PICKY_JS: &str = "export default function reduce(state, event) {\n\
    if (event.body.bad) throw new Error('no good');\n  return (state ?? 0) + 1;\n}\n";

#[test]
fn a_held_stream() {
    let world = World::new(Setup::Embedded, &[("picky.js", PICKY_JS)], ORDERS);
    let seen = session(
        &world.home,
        &[
            "hooklane send orders --body '{\"account\":\"acme\",\"bad\":true}'",
            "hooklane why orders/acme",
            "hooklane why orders/acm",
            "until hooklane status | grep -q CODE; do :; done; hooklane status -q | tail -n 4 | head -n 1",
            "hooklane streams list --condition held",
            "hooklane lanes drain 0 1 2 3 4 5 6 7 --wait --timeout 20s",
            "hooklane lanes resume --all",
            "hooklane streams hold orders/acme --reason look",
            "hooklane streams retry orders/acme",
            "until hooklane streams list --condition held -o names | grep -q acme; do :; done",
            "hooklane streams skip orders/acme --event evt_..00000000",
            "EVT=$(hooklane events list -o names); hooklane streams skip orders/acme --event $EVT",
            "EVT=$(hooklane events list -o names); \
             hooklane streams skip orders/acme --event $EVT --yes --confirm orders/acme",
            "hooklane events list --dead",
            "until hooklane status | grep -q 'nothing waits'; do :; done; \
             hooklane status --wait 20s -q | head -n 1",
        ],
    );
    is_as_written("a_held_stream", &seen);
}

#[test]
fn lanes_operated() {
    let home = Home::new(Setup::Embedded);
    let _daemon = home.start();
    let seen = session(
        &home,
        &[
            "hooklane lanes resize 16 --dry-run",
            "hooklane lanes resize 16",
            "hooklane lanes resize 16 --expect 9 --yes",
            "hooklane lanes resize 16 --expect 9 --yes -o json",
            "hooklane lanes resize 16 --expect 8 --yes",
            "hooklane lanes resize 16 --expect 8 --yes",
            "hooklane lanes resize 16",
            "hooklane lanes pause 2 --reason 'deploy #812'",
            "hooklane lanes resume 2",
            "hooklane lanes pause 99",
            "hooklane lanes show 99",
            "hooklane lanes list --namespace acme",
            "hooklane lanes drain 2 --dry-run",
            "hooklane lanes drain 2 --wait --timeout 20s",
            "hooklane lanes drain --all",
            "hooklane lanes resume --all -q",
        ],
    );
    is_as_written("lanes_operated", &seen);
}

#[test]
fn keys_that_are_too_weak() {
    let world = World::new(
        Setup::Embedded,
        &[],
        "[[hooks]]\nname = 'hello'\nreduce = 'count'\n",
    );
    let url = format!("--url http://{}", world.home.addr);
    let with = |key: &str, call: &str| {
        let line = format!("HOOKLANE_KEY={key} hooklane {call} {url}");
        let seen = session(&world.home, &[&line]);
        seen.replace(key, "KEY")
            .replace(&world.home.addr.to_string(), "ADDRESS")
    };
    let calls = [
        with(&world.read, "lanes resize 16"),
        with(&world.read, "why hello"),
        with(&world.write, "status"),
        with(&world.write, "send hello"),
        with(&world.read, "send hello"),
        with(&world.read, "state show hello"),
    ];
    is_as_written("keys_that_are_too_weak", &calls.concat());
}

/// A plan is about the world as it was: when that has changed meanwhile, nothing is done.
#[test]
fn what_has_changed_since_the_plan_is_not_acted_on() {
    let world = World::new(
        Setup::Embedded,
        &[],
        "[[hooks]]\nname = 'hello'\nreduce = 'count'\n",
    );
    let terminal = |call: &str| {
        let call = format!("{call} --data {}", world.home.data().display());
        super::top::Terminal::running("LANG=C NO_COLOR=1", &call, (100, 24))
    };
    let other = |call: &str| {
        world.home.run(&call.split(' ').collect::<Vec<_>>());
    };
    let file = world
        .home
        .write("only.toml", "[[hooks]]\nname = 'hello'\nreduce = 'count'\n");
    other("hooks create old");
    let apply = format!("hooks apply {} --prune", file.display());
    for (nth, (call, answer)) in [
        (apply.as_str(), "1"),
        ("hooks delete hello", "hello"),
        ("state rebuild hello", "hello"),
        ("lanes pause --all", "y"),
        ("lanes resize 16", "y"),
    ]
    .into_iter()
    .enumerate()
    {
        let asked = terminal(call);
        asked.sees(&[if answer == "y" { "[y/N]" } else { "to go on:" }]);
        match call {
            "lanes resize 16" => other("lanes resize 4 --yes"),
            _ => other(&format!("hooks create new-{nth}")),
        }
        asked.keys(&[answer, "Enter"]);
        let seen = asked.sees(&["ended 7"]);
        assert!(seen.contains("Nothing was changed"), "{call}\n{seen}");
    }
    let hooks = world.home.run(&["hooks", "list", "-o", "names"]);
    assert_eq!(hooks.lines().count(), 6, "{hooks}");
    assert_eq!(
        world
            .home
            .run(&["lanes", "list", "-o", "names", "--state", "active"])
            .lines()
            .count(),
        4
    );
}

/// Every column of every table is in its JSON too.
#[test]
fn a_table_shows_nothing_that_json_does_not_have() {
    let world = World::new(Setup::Embedded, &[("picky.js", PICKY_JS)], ORDERS);
    world.accepted("orders", r#"{"account":"acme","bad":true}"#);
    world.held("orders/acme");
    let pointers = |list: &str, column: &str| match column {
        "LANE" if list == "lanes" => vec!["/index", "/lane"],
        "AGE" => vec!["/at"],
        "HELD" => vec!["/set_aside"],
        "OLDEST" => vec!["/oldest_ms"],
        "FLOW" => vec!["/flow_ms"],
        "IN/S" => vec!["/in_per_s"],
        "OUT/S" => vec!["/out_per_s"],
        "WAIT P99" => vec!["/wait_ms"],
        "LAST USED" => vec!["/last_used_at", "/last_used_from"],
        "TYPE" => vec!["/type"],
        "CREATED" => vec!["/created_at"],
        "BY" => vec!["/created_by"],
        "WARN" => vec!["/warn_ms"],
        "CRIT" => vec!["/crit_ms"],
        "CONDITION" if list == "hooks" => vec!["/paused"],
        "EXPIRES" => vec!["/expires_at"],
        "ORDER BY" => vec!["/order_by"],
        "ON ERROR" => vec!["/on_error"],
        "RECEIVED" => vec!["/received_at"],
        _ => Vec::new(),
    };
    for list in [
        "lanes",
        "hooks",
        "keys",
        "streams",
        "events",
        "namespaces",
        "audit",
    ] {
        let table = world.home.run(&[list, "list"]);
        let json = world.home.run(&[list, "list", "-o", "json"]);
        let json: Value = serde_json::from_str(&json).unwrap();
        let item = &json["items"][0];
        let header = table.lines().next().unwrap();
        let columns = header
            .split("  ")
            .map(str::trim)
            .filter(|column| !column.is_empty());
        for column in columns {
            let mut known = pointers(list, column);
            let same = format!("/{}", column.to_lowercase());
            if known.is_empty() {
                known.push(&same);
            }
            for pointer in known {
                assert!(
                    item.pointer(pointer).is_some(),
                    "{list}: {column} {pointer}\n{item}"
                );
            }
        }
    }
}

/// Control characters in bodies, keys and headers of webhooks are shown, and never reach a terminal.
#[test]
fn nothing_that_came_from_outside_acts_on_a_terminal() {
    const EVIL_JS: &str = "export default function reduce(state, event) {\n\
        throw new Error(event.body.account);\n}\n";
    let hooks = "[[hooks]]\nname = 'orders'\nreduce = 'evil.js'\norder_by = 'body:/account'\n";
    let world = World::new(Setup::Embedded, &[("evil.js", EVIL_JS)], hooks);
    let evil = "\u{1b}[2J\u{9b}31m\u{202e}\u{7}\r\n'$(id)";
    let body = serde_json::json!({"account": evil, "more": evil}).to_string();
    let sent = world.accepted("orders", body);
    let event = sent["event"].as_str().unwrap().to_owned();
    let stream = until(|| {
        let held = world
            .home
            .run(&["streams", "list", "--condition", "held", "-o", "json"]);
        let held: Value = serde_json::from_str(&held).unwrap();
        held["items"][0]["stream"].as_str().map(str::to_owned)
    });
    for call in [
        &["status"][..],
        &["doctor"],
        &["top", "--once"],
        &["why", &stream],
        &["streams", "list"],
        &["streams", "show", &stream],
        &["lanes", "list"],
        &["events", "list"],
        &["events", "show", &event],
        &["events", "show", &event, "--headers"],
        &["streams", "retry", &stream],
        &["streams", "skip", &stream, "--event", "evt_..00000000"],
        &["why", &format!("{stream}x")],
        &["hooks", "show", evil],
        &["lanes", "pause", evil],
        &["--evil", evil],
    ] {
        for output in ["table", "json", "jsonl", "names"] {
            let said = world
                .home
                .command(&[call, &["-o", output]].concat())
                .output()
                .unwrap();
            let said = [said.stdout, said.stderr].concat();
            let said = String::from_utf8(said).unwrap();
            let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!said.contains(acts), "{call:?} -o {output}: {said:?}");
        }
    }
    until(|| {
        let seen = world.admin("GET", "/v1/admin/snapshot", &Value::Null);
        (seen.json()["verdicts"][0]["class"] == "CODE").then_some(())
    });
}
