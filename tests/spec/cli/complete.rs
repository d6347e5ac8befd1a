//! Completion while a line is typed, by the scripts that are shipped and real shells where there are any.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::daemon::{Home, Setup};
use super::top::Terminal;
use super::world::{World, until};

const HOOKS: &str = "[[hooks]]\nname = 'orders'\nreduce = 'count'\norder_by = 'body:/account'\n\
    [[hooks]]\nname = 'ordinals'\nreduce = 'count'\n\
    [[hooks]]\nname = 'bills'\nreduce = 'count'\n";

/// Completions of a line by bash with the shipped script.
fn offered(home: &Home, line: &[&str]) -> Vec<String> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("completions/hooklane.bash");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_hooklane"));
    let path = format!(
        "{}:{}",
        program.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    const ASK: &str = "source \"$0\"; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9
        _clap_complete_hooklane hooklane \"${COMP_WORDS[COMP_CWORD]}\" x
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    let done = Command::new("bash")
        .args(["--norc", "-c", ASK])
        .arg(script)
        .args(line)
        .env("PATH", path)
        .env("HOOKLANE_DATA", home.data())
        .env_remove("HOOKLANE_URL")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    let silent = |line: &str| line.is_empty() || line.contains("compopt");
    assert!(said.lines().all(silent), "it is silent: {said}");
    let words = String::from_utf8(done.stdout).unwrap();
    let words = words.lines().map(|word| word.trim().to_owned());
    words.filter(|word| !word.is_empty()).collect()
}

fn names_are_those_that_the_daemon_knows(setup: Setup) {
    let world = World::at(Home::new(setup), &[], HOOKS);
    for account in ["c01", "c02", "d01"] {
        world.accepted("orders", format!("{{\"account\":\"{account}\"}}"));
    }
    let offered = |line: &[&str]| offered(&world.home, line);
    assert_eq!(
        offered(&["hooklane", "hooks", "pause", "or"]),
        ["orders", "ordinals"]
    );
    assert_eq!(offered(&["hooklane", "why", "or"]), ["orders/", "ordinals"]);
    let streams =
        until(|| Some(offered(&["hooklane", "why", "orders/c"])).filter(|s| s.len() == 2));
    assert_eq!(streams, ["orders/c01", "orders/c02"]);
    // bash puts it into the line as it is.
    world.accepted("orders", "{\"account\":\"y;touch PWNED;#\"}");
    let hostile = until(|| offered(&["hooklane", "why", "orders/y"]).pop());
    assert_eq!(hostile, "'orders/y;touch PWNED;#'");
    assert_eq!(
        offered(&["hooklane", "lanes", "show", "default-1-7"]),
        ["default-1-7"]
    );
    assert_eq!(
        offered(&["hooklane", "lanes", "pause", ""])[..2],
        ["0", "1"]
    );
    assert_eq!(
        offered(&["hooklane", "keys", "create", "--hook", "b"]),
        ["bills"]
    );
    assert_eq!(offered(&["hooklane", "keys", "revoke", "k_"]).len(), 3);
    assert_eq!(
        offered(&["hooklane", "streams", "re"]),
        ["retry", "release"]
    );
    assert_eq!(offered(&["hooklane", "hooks", "create", "or"]), [""; 0]);

    let began = Instant::now();
    for _ in 0..5 {
        offered(&["hooklane", "hooks", "show", "or"]);
    }
    let each = began.elapsed() / 5;
    assert!(each < Duration::from_millis(500), "{each:?}");
}

/// Real shells on a real terminal, with the scripts that are shipped: a name is completed by the Tab key.
#[test]
fn the_tab_key_completes_a_name_in_every_shell() {
    let world = World::at(Home::new(Setup::Embedded), &[], HOOKS);
    let scripts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("completions");
    let scripts = scripts.display();
    let program = PathBuf::from(env!("CARGO_BIN_EXE_hooklane"));
    let environment = format!(
        "env TERM=xterm-256color HOME={home} HOOKLANE_DATA={data} PATH={programs}:$PATH",
        home = world.home.data().parent().unwrap().display(),
        data = world.home.data().display(),
        programs = program.parent().unwrap().display(),
    );
    for (shell, ready) in [
        ("bash --norc", format!("source {scripts}/hooklane.bash")),
        (
            "zsh -f",
            format!("fpath=({scripts} $fpath); autoload -U compinit; compinit -D -u"),
        ),
        (
            "fish --no-config",
            format!("source {scripts}/hooklane.fish"),
        ),
    ] {
        let terminal = Terminal::with(&format!("{environment} {shell}"), (80, 24));
        terminal.keys(&[&format!("{ready}; echo re''ady"), "Enter"]);
        terminal.sees(&["ready"]);
        terminal.keys(&["hooklane hooks show ordi", "Tab"]);
        terminal.sees(&["hooklane hooks show ordinals"]);
        terminal.keys(&["C-u", "hooklane streams rel", "Tab"]);
        terminal.sees(&["hooklane streams release"]);
        terminal.keys(&["C-u", "hooklane hooks edit bills --reduce lat", "Tab"]);
        terminal.sees(&["--reduce latest"]);
    }
}

on_both_setups! {
    names_are_those_that_the_daemon_knows
}

#[test]
fn without_a_daemon_or_with_one_that_hangs_nothing_is_said_and_nobody_waits() {
    let home = Home::new(Setup::Embedded);
    assert_eq!(
        offered(&home, &["hooklane", "hooks", "show", "or"]),
        [""; 0]
    );
    assert!(offered(&home, &["hooklane", "hooks", "show", "--"]).contains(&"--output".to_owned()));
    assert!(!home.data().exists(), "nothing is made");
    let daemon = home.start();
    daemon.freeze();
    let began = Instant::now();
    assert_eq!(
        offered(&home, &["hooklane", "hooks", "show", "or"]),
        [""; 0]
    );
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    daemon.thaw();
}
