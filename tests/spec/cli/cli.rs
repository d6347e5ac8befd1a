//! The command line and a real daemon: what people see from the first command to the last.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// A home without a daemon, and one that can be started.
struct Home {
    dir: TempDir,
    daemon: Option<Child>,
    /// TCP address of the daemon.
    url: String,
}

impl Home {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            daemon: None,
            url: String::new(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.dir.path().join(name), text).unwrap();
        self.path(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hooklane"));
        command.env_clear().env("HOOKLANE_DATA", self.path("data"));
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command().args(args).output().unwrap()
    }

    /// Output of a command that must succeed.
    fn out(&self, args: &[&str]) -> String {
        let ended = self.run(args);
        assert!(ended.status.success(), "{args:?}: {ended:?}");
        String::from_utf8(ended.stdout).unwrap()
    }

    /// Exit code and message of a command that must fail.
    fn err(&self, args: &[&str]) -> (i32, String) {
        let ended = self.run(args);
        let text = String::from_utf8(ended.stderr).unwrap();
        (ended.status.code().unwrap(), text)
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let args = [args, &["-o", "json"]].concat();
        serde_json::from_str(&self.out(&args)).unwrap()
    }

    /// Starts the daemon and waits until it says that it is ready.
    fn serve(&mut self) {
        let mut command = self.command();
        command.args(["serve", "--listen", "127.0.0.1:0", "--log", "short"]);
        let mut daemon = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(daemon.stderr.take().unwrap()).lines();
        let said = lines.by_ref().map(Result::unwrap);
        for line in said.take_while(|line| !line.starts_with("ready in ")) {
            if let Some((_, url)) = line.split_once("POST ") {
                self.url = url.trim_end_matches("/in/HOOK").to_owned();
            }
        }
        assert!(!self.url.is_empty(), "the daemon did not say where it is");
        // Closing its stderr would end the daemon.
        std::thread::spawn(move || lines.for_each(drop));
        self.daemon = Some(daemon);
    }

    fn stop(&mut self) -> std::process::ExitStatus {
        let mut daemon = self.daemon.take().unwrap();
        let pid = rustix::process::Pid::from_child(&daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        daemon.wait().unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

#[test]
fn configuration_is_made_without_a_daemon_and_is_there_when_one_starts() {
    let mut home = Home::new();
    home.out(&["hooks", "create", "hello", "--reduce", "latest"]);
    home.out(&["namespaces", "create", "acme", "--lanes", "4"]);
    let key = home.out(&[
        "keys", "create", "--type", "write", "--hook", "hello", "--name", "me",
    ]);
    assert_eq!(key.len(), "hl_w_".len() + 44 + "\n".len(), "the key alone");

    home.serve();
    assert_eq!(home.out(&["hooks", "list", "-o", "names"]), "hello\n");
    assert_eq!(
        home.json(&["lanes", "list", "--namespace", "acme"])["items"][3]["index"],
        3
    );
    let sent = home
        .command()
        .args(["send", "hello", "--url", &home.url, "--body", "{\"n\":1}"])
        .env("HOOKLANE_KEY", key.trim())
        .output()
        .unwrap();
    assert!(sent.status.success(), "{sent:?}");
    assert!(home.stop().success());
}

#[test]
fn an_event_is_followed_until_its_state_is_read_and_survives_the_daemon() {
    let mut home = Home::new();
    home.serve();
    home.out(&["hooks", "create", "hello", "--reduce", "count"]);
    let ended = home.run(&["send", "hello", "--body", "{\"n\":1}"]);
    let text = String::from_utf8(ended.stderr).unwrap();
    assert!(
        text.contains("hello seq 1, on disk before the answer"),
        "{text}"
    );
    assert!(text.contains("state 1 "), "{text}");

    let (code, text) = home.err(&["send", "hello", "--count", "50"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("50 of 50"), "{text}");
    assert!(home.stop().success());
    home.serve();
    assert_eq!(home.out(&["state", "show", "hello"]), "51\n");
    assert_eq!(home.json(&["state", "show", "hello"])["position"], 51);
}

#[test]
fn an_event_that_cannot_be_folded_names_its_line_and_the_ways_out() {
    let mut home = Home::new();
    home.serve();
    let script = "export default (state, event) => {\n  throw new TypeError('no');\n};\n";
    let script = home.write("sum.js", script);
    home.out(&[
        "hooks",
        "create",
        "orders",
        "--reduce",
        &script,
        "--order-by",
        "body:/c",
    ]);
    let (code, text) = home.err(&["send", "orders", "--body", "{\"c\":\"a b\"}"]);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("sum.js:2"), "{text}");

    let held = home.json(&["streams", "show", "orders/a b"]);
    let next = held["cursors"][0]["next"].as_str().unwrap();
    let skip = ["streams", "skip", "orders/a b", "--event"];
    let other = [&skip[..], &["evt_..00000000"]].concat();
    assert_eq!(home.err(&other).0, 7, "another event is next");
    let unsure = [&skip[..], &[next]].concat();
    assert_eq!(home.err(&unsure).0, 2, "nobody can be asked");
    let sure = [&unsure[..], &["--yes", "--confirm", "orders/a b"]].concat();
    home.out(&sure);
    assert_eq!(
        home.json(&["streams", "show", "orders/a b"])["cursors"][0]["behind"],
        0
    );
    let shown = home.json(&["events", "show", next]);
    assert_eq!(shown["fate"][0]["outcome"], "skipped");
    assert_eq!(
        home.out(&["events", "show", next, "--body"]),
        "{\"c\":\"a b\"}"
    );
}

#[test]
fn a_file_is_applied_once_and_says_nothing_the_second_time() {
    let home = Home::new();
    home.write("orders.js", "export default (state, event) => event.body");
    let file = home.write(
        "hooks.toml",
        "[[namespaces]]\nname = 'acme'\n[[hooks]]\nname = 'orders'\nnamespace = 'acme'\nreduce = 'orders.js'\n",
    );
    // A plan reads, and what reads makes no database.
    home.out(&["namespaces", "create", "first"]);
    let changes = |args: &[&str]| home.json(args)["changes"].as_array().unwrap().len();
    assert_eq!(changes(&["hooks", "apply", &file, "--dry-run"]), 2);
    assert_eq!(changes(&["hooks", "apply", &file]), 2);
    assert_eq!(changes(&["hooks", "apply", &file]), 0);
    home.out(&["hooks", "create", "other"]);
    assert_eq!(
        home.err(&["hooks", "apply", &file, "--prune"]).0,
        2,
        "it would delete"
    );
    let prune = [
        "hooks",
        "apply",
        &file,
        "--prune",
        "--yes",
        "--confirm",
        "1",
    ];
    assert_eq!(changes(&prune), 1);
    assert_eq!(home.out(&["hooks", "list", "-o", "names"]), "orders\n");
}

#[test]
fn one_daemon_has_the_data_and_a_second_one_learns_which() {
    let mut home = Home::new();
    home.serve();
    let pid = home.daemon.as_ref().unwrap().id().to_string();
    let (code, text) = home.err(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, 7);
    assert!(text.contains(&format!("in use by process {pid}")), "{text}");
}

#[test]
fn a_key_goes_to_a_private_file_and_to_no_other_place() {
    use std::os::unix::fs::MetadataExt as _;
    let home = Home::new();
    let file = home.path("key");
    let create = [
        "keys", "create", "--type", "admin", "--name", "ops", "--out", &file,
    ];
    let made = home.run(&create);
    assert!(made.stdout.is_empty());
    let key = std::fs::read_to_string(&file).unwrap();
    assert_eq!(Path::new(&file).metadata().unwrap().mode() & 0o777, 0o600);
    assert!(!String::from_utf8(made.stderr).unwrap().contains(key.trim()));
    assert_eq!(home.err(&create).0, 2, "the file is not overwritten");
    assert_eq!(
        home.json(&["keys", "list"])["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn one_of_a_thing_is_not_called_several() {
    let mut home = Home::new();
    home.serve();
    let said = |args: &[&str]| String::from_utf8(home.run(args).stderr).unwrap();
    let made = said(&["namespaces", "create", "solo", "--lanes", "1"]);
    assert!(made.contains("created  solo, 1 lane\n"), "{made}");
    home.out(&["hooks", "create", "alone", "--namespace", "solo"]);
    let refused = home.run(&["namespaces", "delete", "solo"]);
    assert_eq!(refused.status.code(), Some(7));
    let refused = String::from_utf8(refused.stderr).unwrap();
    let begin = "error: namespace solo is not empty, hooks: 1\n";
    assert!(refused.starts_with(begin), "nothing is asked: {refused}");
    home.out(&["hooks", "edit", "alone", "--namespace", "default"]);
    let gone = said(&["namespaces", "delete", "solo", "--yes", "--confirm", "solo"]);
    assert!(gone.contains("1 lane, 0 hooks\n"), "{gone}");
    home.out(&["hooks", "create", "hello"]);
    home.out(&["send", "hello", "--no-wait", "-q"]);
    let asked = said(&["hooks", "delete", "hello"]);
    assert!(asked.contains("(1 stream, 1 event)"), "{asked}");
    let gone = said(&["hooks", "delete", "hello", "--yes", "--confirm", "hello"]);
    assert!(
        gone.contains("deleted  hello: 1 stream, 1 event\n"),
        "{gone}"
    );
}

#[test]
fn a_misspelled_name_is_recognised() {
    let home = Home::new();
    home.out(&["hooks", "create", "billing"]);
    let (code, text) = home.err(&["hooks", "show", "biling"]);
    assert_eq!(code, 5);
    assert!(text.contains("Did you mean billing?"), "{text}");
    let (code, _) = home.err(&["keys", "revoke", "k_00000000", "--yes"]);
    assert_eq!(code, 5);
}

#[test]
fn lanes_that_are_watched_are_shown_again_and_again() {
    let mut home = Home::new();
    home.serve();
    let mut watch = home.command();
    let watch = watch.args(["lanes", "list", "--watch", "-o", "json"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let seen = BufReader::new(watch.stdout.take().unwrap());
    let lists = serde_json::Deserializer::from_reader(seen).into_iter::<serde_json::Value>();
    let at: Vec<_> = lists
        .take(2)
        .map(|list| list.unwrap()["at"].to_string())
        .collect();
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert!(at.len() == 2 && at[0] < at[1], "{at:?}");
}

#[test]
fn what_arrives_is_followed() {
    let mut home = Home::new();
    home.serve();
    home.out(&["hooks", "create", "hello"]);
    let mut tail = home.command();
    let tail = tail.args(["events", "tail", "-o", "jsonl"]);
    let mut tail = tail.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    // The begin of the daemon's stream is not visible, so events are sent until one arrives.
    let (seen, first) = std::sync::mpsc::channel();
    std::thread::spawn(move || seen.send(lines.next()));
    let line = loop {
        home.out(&["send", "hello", "--no-wait", "-q"]);
        if let Ok(line) = first.try_recv() {
            break line.unwrap().unwrap();
        }
    };
    tail.kill().unwrap();
    tail.wait().unwrap();
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["stream"], "hello");
}
