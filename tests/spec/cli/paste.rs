//! Every command that is printed can be pasted: a real shell reads its arguments whole, whatever senders
//! have chosen for names, and runs nothing else.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use hooklane::text::{escaped, unescaped};
use tempfile::TempDir;

use crate::daemon::Setup;
use crate::world::World;

/// Ordering keys that a sender may choose.
const HOSTILE: [&str; 14] = [
    "y;touch PWNED;#",
    "$(touch PWNED)",
    "`touch PWNED`",
    "it's \"quoted\"",
    "' ; touch PWNED ; '",
    "a b   c",
    "-rf",
    "--help",
    "&& touch PWNED &",
    "| tee PWNED > PWNED2",
    "\\u{202e}literal\\",
    "\u{202e}gnimoc\u{200b}",
    "ключ 日本 \u{1f600}",
    "*?[a-z]{b,c}~!$HOME#",
];

const HOOKS: &str = "[[hooks]]\nname = 'pay'\nreduce = 'no.js'\norder_by = 'body:/customer'\n";

const NO_JS: &str = "export default () => { throw new Error('no good'); };";

fn stream(key: &str) -> String {
    format!("pay/{key}")
}

/// A world in which the streams of all these keys, and one that is hashed, are held.
fn world() -> (World, String) {
    let world = World::new(Setup::Embedded, &[("no.js", NO_JS)], HOOKS);
    let long = "x".repeat(300);
    for key in HOSTILE.iter().copied().chain([&*long]) {
        world.accepted("pay", serde_json::json!({"customer": key}).to_string());
    }
    for key in HOSTILE {
        world.held(&stream(key));
    }
    let all = world.home.run(&["streams", "list", "-o", "names"]);
    let hashed = all.lines().find(|name| name.contains("/sha256:"));
    let hashed = hashed.unwrap().to_owned();
    world.held(&hashed);
    (world, hashed)
}

/// Both outputs of a command.
fn said(world: &World, args: &[&str]) -> String {
    let ended = world
        .home
        .command(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8([ended.stdout, b"\n".to_vec(), ended.stderr].concat()).unwrap()
}

/// A shell whose `hooklane` only prints its arguments.
struct Shell(TempDir);

impl Shell {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::Permissions::from_mode(0o755);
        let dir = tempfile::tempdir().unwrap();
        let stub = dir.path().join("hooklane");
        std::fs::write(
            &stub,
            "#!/bin/sh\nfor word; do printf '%s\\0' \"$word\"; done\n",
        )
        .unwrap();
        std::fs::set_permissions(&stub, mode).unwrap();
        std::fs::create_dir(dir.path().join("here")).unwrap();
        Self(dir)
    }

    /// The arguments that a pasted line gives to `hooklane`.
    fn paste(&self, line: &str) -> Vec<String> {
        let here = self.0.path().join("here");
        let ended = Command::new("/bin/sh")
            .args(["-c", line])
            .env("PATH", format!("{}:/usr/bin:/bin", self.0.path().display()))
            .current_dir(&here)
            .output()
            .unwrap();
        assert!(
            ended.status.success() && ended.stderr.is_empty(),
            "{line}: {ended:?}"
        );
        assert!(is_empty(&here), "{line} did something else");
        let words = String::from_utf8(ended.stdout).unwrap();
        words.split_terminator('\0').map(str::to_owned).collect()
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

/// The commands in a text, each to the end of its line.
fn commands(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| Some(&line[line.find("hooklane ")?..]))
        .filter(|command| !command.starts_with("hooklane failed"))
        .collect()
}

#[test]
fn every_printed_command_reaches_hooklane_whole_and_runs_nothing_else() {
    let (world, hashed) = world();
    let shell = Shell::new();
    let names: BTreeSet<String> = HOSTILE
        .map(stream)
        .into_iter()
        .chain([hashed.clone()])
        .collect();
    let mut seen = BTreeSet::new();
    let mut look = |args: &[&str], least: usize| {
        let text = said(&world, args);
        let commands = commands(&text);
        assert!(commands.len() >= least, "{args:?}: {text}");
        for command in commands {
            let words = shell.paste(command);
            let parsed = hooklane::cli::tree()
                .try_get_matches_from(["hooklane".to_owned()].iter().chain(&words));
            assert!(parsed.is_ok(), "{args:?} prints {command}: {parsed:?}");
            for word in words.iter().filter(|word| word.starts_with("pay/")) {
                let name = unescaped(word).into_owned();
                // A hashed name has a short form, which every command takes.
                let is_short = name.len() == "pay/sha256:".len() + 12 && hashed.starts_with(&name);
                let is_known = is_short || names.contains(&name);
                assert!(is_known, "{args:?} prints {command}: {word}");
                seen.insert(if is_short { hashed.clone() } else { name });
            }
        }
    };
    for name in &names {
        // As anybody would type it: one of them reads like an escape.
        let name = &*escaped(name);
        look(&["why", name], 2);
        look(&["streams", "show", name], 2);
        look(&["streams", "hold", name], 1);
        look(&["streams", "release", name], 0);
        look(&["state", "show", name, "--rebuilt"], 0);
        look(&["streams", "skip", name, "--event", "evt_..00000000"], 0);
    }
    look(&["doctor"], 1);
    look(&["lanes", "list"], 0);
    look(
        &[
            "lanes",
            "drain",
            "--all",
            "--yes",
            "--wait",
            "--timeout",
            "1s",
        ],
        1,
    );
    look(&["lanes", "resume", "--all"], 0);
    look(
        &[
            "hooks",
            "edit",
            "pay",
            "--order-by",
            "body:/a b;touch PWNED",
        ],
        1,
    );
    look(&["hooks", "edit", "pay", "--order-by", "body:/customer"], 1);
    assert_eq!(seen, names, "every name was printed in a command");
}

#[test]
fn what_would_be_typed_to_confirm_is_printed_so_that_it_can_be_pasted() {
    let (world, _) = world();
    let shell = Shell::new();
    for key in HOSTILE {
        let name = stream(key);
        let next = world.cursor(&name)["next"].as_str().unwrap().to_owned();
        let typed = escaped(&name);
        let skip = ["streams", "skip", &typed, "--event", &next];
        let text = said(&world, &skip);
        let (_, answer) = text.split_once("answer  ").unwrap();
        let words = shell.paste(&format!("hooklane {}", answer.trim_end()));
        assert_eq!(words[..2], ["--yes", "--confirm"]);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        world.home.run(&[&skip[..], &words].concat());
    }
}

#[test]
fn names_that_are_printed_come_back_through_xargs_and_by_hand() {
    let (world, hashed) = world();
    let bin = env!("CARGO_BIN_EXE_hooklane");
    let data = world.home.data();
    let through = |line: &str| {
        let ended = Command::new("/bin/sh")
            .args(["-ec", line])
            .env("HOOKLANE_DATA", &data)
            .env("hooklane", bin)
            .output()
            .unwrap();
        assert!(ended.status.success(), "{line}: {ended:?}");
        let values = serde_json::Deserializer::from_slice(&ended.stdout).into_iter();
        let values = values.map(Result::<serde_json::Value, _>::unwrap);
        let names = values.map(|value| value["stream"].as_str().unwrap().to_owned());
        names.collect::<BTreeSet<_>>()
    };
    let names: BTreeSet<String> = HOSTILE
        .map(stream)
        .into_iter()
        .chain([hashed.clone()])
        .collect();
    let list = "$hooklane streams list -o names";
    let why = "\"$hooklane\" why -o json";
    assert_eq!(through(&format!("{list} | xargs -n 1 {why}")), names);
    assert_eq!(through(&format!("{list} -0 | xargs -0 -n 1 {why}")), names);

    let short = &hashed[.."pay/sha256:".len() + 12];
    let table = world.home.run(&["streams", "list"]);
    assert!(
        table.contains(&format!("{short} ")) && !table.contains(&hashed),
        "{table}"
    );
    for args in [
        &["why", short][..],
        &["streams", "show", short],
        &["lanes", "of", short],
    ] {
        let shown = world.home.run(&[args, &["-o", "json"]].concat());
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["stream"], *hashed, "{args:?}");
    }
    world.home.run(&["streams", "retry", short]);
    let escaped = "pay/\\u{202e}gnimoc\\u{200b}";
    world.home.run(&["streams", "retry", escaped]);
    let refused = said(&world, &["streams", "list", "-0"]);
    assert!(refused.contains("it goes with -o names"), "{refused}");
}
