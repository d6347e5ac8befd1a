//! The demo: it says the truth about what it did, and leaves nothing behind, however it ends.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::daemon::{Home, Setup};
use super::top::Terminal;
use super::world::until;

on_both_setups! {
    a_bench_measures_what_it_can_check_and_leaves_nothing
}

/// A place for temporary files of which it is seen what is left in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hooklane"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOOKLANE_")) {
            command.env_remove(name);
        }
        command.arg("demo").args(args);
        command.env("TMPDIR", self.0.path()).stdin(Stdio::null());
        command
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    fn left(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// The data directory of the demo that runs here, once its node takes requests and has events.
    fn data(&self) -> PathBuf {
        until(|| {
            let dir = self.left().into_iter().next()?;
            let list = hooklane(
                &dir,
                &["events", "list", "--stream", "orders/c01", "-o", "names"],
            );
            let events = String::from_utf8_lossy(&list.stdout).lines().count();
            (list.status.success() && events >= 3).then_some(dir)
        })
    }
}

fn hooklane(data: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hooklane"));
    command.args(args).env("HOOKLANE_DATA", data);
    command.env_remove("HOOKLANE_URL").output().unwrap()
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn without_a_terminal_it_sends_poisons_mends_checks_and_leaves_nothing() {
    let place = Place::new();
    let args = ["--for", "8s", "--rate", "200", "-o", "json"];
    let ended = place.command(&args).output().unwrap();
    let said = words(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    let sum: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let number = |name: &str| sum[name].as_u64().unwrap();
    assert_eq!(number("sent"), number("accepted"), "{sum}");
    assert_eq!(
        number("applied") + number("skipped"),
        number("sent"),
        "{sum}"
    );
    assert!(number("sent") > 16 * 100 + 400, "a spike, and more: {sum}");
    assert_eq!(number("skipped"), 1, "{sum}");
    assert!(number("failed_tries") >= 1, "{sum}");
    assert!(number("delivered") > 16 * 100, "{sum}");
    assert!(number("repeated") > 10, "{sum}");
    assert_eq!(sum["troubles"], serde_json::json!([]));
    for word in [
        "listening on http://127.0.0.1:",
        "poison   orders/c07",
        "skip     that event",
        "spike",
        "fail     echo answers 503 for orders/c07",
        "answer",
        "(checked)",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

#[test]
fn an_event_that_it_did_not_send_is_found() {
    let place = Place::new();
    let demo = place.start(&["--for", "6s", "--keep"]);
    let data = place.data();
    let body = r#"{"customer":"c01","n":1,"amount":1}"#;
    let sent = hooklane(&data, &["send", "orders", "--body", body]);
    assert!(sent.status.success(), "{}", words(&sent.stderr));
    let ended = demo.wait_with_output().unwrap();
    let said = words(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("NOT AS SENT") && said.contains("off      orders/c01"),
        "{said}"
    );
    let again = format!("again: hooklane serve --data {}", data.display());
    assert!(
        said.contains(&again) && data.join("hooklane.db").exists(),
        "{said}"
    );
}

#[test]
fn two_events_that_changed_places_are_found() {
    let place = Place::new();
    let demo = place.start(&["--for", "6s"]);
    let data = place.data();
    let db = rusqlite::Connection::open(data.join("hooklane.db")).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    let of = "where stream = (select id from streams where ordering_key = 'c01') and seq = ?1";
    let read = |seq: u8| -> (Vec<u8>, Vec<u8>) {
        let row = format!("select id, body from log {of}");
        let pair = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        db.query_row(&row, [seq], pair).unwrap()
    };
    for (seq, (id, body)) in [(1, read(2)), (2, read(1))] {
        let write = format!("update log set id = ?2, body = ?3, checksum = null {of}");
        let written = db.execute(&write, rusqlite::params![seq, id, body]);
        assert_eq!(written.unwrap(), 1);
    }
    let ended = demo.wait_with_output().unwrap();
    let said = words(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("was accepted as seq 1, and is 2"), "{said}");
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

#[test]
fn a_signal_ends_it_at_once_and_leaves_nothing() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let place = Place::new();
        let demo = place.start(&["--rate", "500"]);
        place.data();
        kill_process(Pid::from_child(&demo), signal).unwrap();
        let ended = demo.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(code), "{}", words(&ended.stderr));
        assert_eq!(place.left(), Vec::<PathBuf>::new());
    }
}

#[test]
fn on_a_terminal_it_is_the_dashboard_and_q_ends_in_the_checked_sum() {
    let place = Place::new();
    let environment = format!("LANG=C.UTF-8 TMPDIR={}", place.0.path().display());
    let terminal = Terminal::running(&environment, "demo --rate 200", (120, 40));
    terminal.sees(&["default: 8 lanes gen 1", "LIVE"]);
    terminal.sees(&["CODE  orders/c07 -> reduce", "HELD 1"]);
    terminal.sees(&["OK  ", "HELD 0"]);
    terminal.keys(&["q"]);
    let left = terminal.sees(&["ended 0", " icanon"]);
    assert!(left.contains("every state as sent (checked)"), "{left}");
    assert!(left.contains("1 skipped"), "{left}");
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

#[test]
fn ctrl_c_and_a_terminal_that_is_gone_leave_nothing() {
    let place = Place::new();
    let environment = format!("LANG=C.UTF-8 TMPDIR={}", place.0.path().display());
    let terminal = Terminal::running(&environment, "demo", (100, 30));
    terminal.sees(&["LIVE"]);
    terminal.keys(&["C-c"]);
    terminal.sees(&["ended 130", " icanon"]);
    assert_eq!(place.left(), Vec::<PathBuf>::new());

    let terminal = Terminal::running(&environment, "demo", (100, 30));
    terminal.sees(&["LIVE"]);
    drop(terminal);
    until(|| place.left().is_empty().then_some(()));
}

fn a_bench_measures_what_it_can_check_and_leaves_nothing(setup: Setup) {
    let home = Home::new(setup);
    let _daemon = home.start();
    let bench = ["bench", "--for", "2s", "--streams", "100", "-o", "json"];
    let ended = home.command(&bench).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    let summary: Value = serde_json::from_slice(&ended.stdout).unwrap_or_default();
    assert_eq!(ended.status.code(), Some(0), "{said}{summary}");
    assert_eq!(summary["troubles"], serde_json::json!([]), "{summary}");
    assert_eq!(summary["connections"], 64, "all of them are let in");
    assert!(summary["accepted"].as_u64() > Some(0), "{summary}");
    assert_eq!(summary["applied"], summary["accepted"]);
    let names = home.run(&["namespaces", "list", "-o", "names"]);
    assert_eq!(names, "default", "its own is deleted");
}
