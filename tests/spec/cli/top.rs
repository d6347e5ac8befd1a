//! The dashboard in a real terminal: what it shows, and that the terminal is as it was however it ends.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::daemon::{Daemon, Home, Setup};
use super::world::until;

/// A terminal of a tmux server of its own, which ends with it.
pub struct Terminal {
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.tmux(&["kill-server"]));
    }
}

impl Terminal {
    /// Runs `hooklane top` in a shell in which `$?` can be seen after it.
    fn start(home: &Home, environment: &str, size: (u16, u16)) -> Self {
        let data = home.data();
        Self::running(environment, &format!("top --data {}", data.display()), size)
    }

    /// The same with another command.
    pub fn running(environment: &str, command: &str, size: (u16, u16)) -> Self {
        let program = env!("CARGO_BIN_EXE_hooklane");
        let run = format!(
            "env -u NO_COLOR TERM=xterm-256color {environment} {program} {command}; \
             echo ended $?; stty -a | grep -o '.icanon'; exec sleep 1000"
        );
        Self::with(&run, size)
    }

    /// One in which a line of a shell runs.
    pub fn with(run: &str, size: (u16, u16)) -> Self {
        Self::of(&["sh", "-c", run], size)
    }

    fn of(command: &[&str], size: (u16, u16)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let terminal = Self {
            socket: dir.path().join("tmux"),
            _dir: dir,
        };
        let (width, height) = (size.0.to_string(), size.1.to_string());
        let session = [
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &width,
            "-y",
            &height,
        ];
        let made = terminal.tmux(&[&session, command].concat());
        assert!(
            made.status.success(),
            "tmux: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        terminal
    }

    fn tmux(&self, args: &[&str]) -> std::process::Output {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(&self.socket).args(args);
        tmux.env_remove("TMUX").env("LANG", "C.UTF-8");
        tmux.stdin(Stdio::null())
            .output()
            .expect("tmux, which tests/run installs")
    }

    /// Presses keys.
    pub fn keys(&self, keys: &[&str]) {
        drop(self.tmux(&[&["send-keys"], keys].concat()));
    }

    /// The text on the screen.
    pub fn screen(&self) -> String {
        let shown = self.tmux(&["capture-pane", "-p"]);
        String::from_utf8_lossy(&shown.stdout).into_owned()
    }

    /// The screen with its escape codes.
    fn styled(&self) -> String {
        let shown = self.tmux(&["capture-pane", "-p", "-e"]);
        String::from_utf8_lossy(&shown.stdout).into_owned()
    }

    /// Waits until the screen has all of these.
    pub fn sees(&self, words: &[&str]) -> String {
        until(|| Some(self.screen()).filter(|shown| words.iter().all(|word| shown.contains(word))))
    }

    /// The process of the dashboard.
    pub fn pid(&self) -> i32 {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let shell = String::from_utf8_lossy(&shell.stdout).trim().to_owned();
        until(|| {
            let children = format!("/proc/{shell}/task/{shell}/children");
            let children = std::fs::read_to_string(children).ok()?;
            children.split_whitespace().next()?.parse().ok()
        })
    }
}

fn home() -> (Home, Daemon) {
    let home = Home::new(Setup::Embedded);
    let daemon = home.start();
    home.run(&["hooks", "create", "orders", "--reduce", "count"]);
    (home, daemon)
}

/// Sends events; `--data` is their body here.
fn send(home: &Home, args: &[&str]) {
    let mut send = Command::new(env!("CARGO_BIN_EXE_hooklane"));
    let sent = send
        .arg("send")
        .args(args)
        .env("HOOKLANE_DATA", home.data());
    let sent = sent.output().unwrap();
    assert!(
        sent.status.success(),
        "{}",
        String::from_utf8_lossy(&sent.stderr)
    );
}

const WIDE: (u16, u16) = (80, 24);

#[test]
fn a_quit_leaves_the_terminal_as_it_was_and_so_does_a_signal() {
    let (home, _daemon) = home();
    let terminal = Terminal::start(&home, "LANG=C.UTF-8", WIDE);
    terminal.sees(&[
        "default: 8 lanes gen 1",
        "OK  nothing waits",
        "LIVE",
        " 7 active",
    ]);
    terminal.keys(&["q"]);
    let left = terminal.sees(&["ended 0", " icanon"]);
    assert!(!left.contains("LIVE"), "the other screen is gone:\n{left}");

    let terminal = Terminal::start(&home, "LANG=C.UTF-8", WIDE);
    terminal.sees(&["LIVE", " 7 active"]);
    terminal.keys(&["Q"]);
    let left = terminal.sees(&["ended 0", "OK  nothing waits", " 7 active"]);
    assert!(
        !left.contains("? help"),
        "there are no keys any more:\n{left}"
    );
    let widest = left.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80) && left.contains("VERSION"), "{left}");

    let terminal = Terminal::start(&home, "LANG=C.UTF-8", WIDE);
    terminal.sees(&["LIVE"]);
    let pid = rustix::process::Pid::from_raw(terminal.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let left = terminal.sees(&["ended 143", " icanon"]);
    assert!(!left.contains("LIVE"), "{left}");
}

#[test]
fn a_terminal_that_is_gone_ends_it_also_where_no_signal_comes() {
    let (home, _daemon) = home();
    for wrapper in ["LANG=C.UTF-8", "LANG=C.UTF-8 setsid -w"] {
        let terminal = Terminal::start(&home, wrapper, WIDE);
        terminal.sees(&["LIVE"]);
        let pid = terminal.pid();
        drop(terminal);
        let began = Instant::now();
        until(|| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            status.is_err().then_some(())
        });
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "{:?}",
            began.elapsed()
        );
    }
}

#[test]
fn no_colour_means_none_and_the_selected_row_is_reversed_all_the_same() {
    let (home, _daemon) = home();
    let terminal = Terminal::start(&home, "LANG=C.UTF-8 NO_COLOR=1", WIDE);
    terminal.sees(&["LIVE", " 7 active"]);
    let shown = terminal.styled();
    let codes = shown
        .split("\u{1b}[")
        .skip(1)
        .filter_map(|rest| rest.split('m').next());
    for code in codes.flat_map(|codes| codes.split(';')) {
        let number: u32 = code.parse().unwrap_or(0);
        // 39 and 49 are the terminal's own.
        let is_own = matches!(number, 39 | 49);
        assert!(
            is_own || !(30..=49).contains(&number) && number < 90,
            "colour {code}"
        );
    }
    let row = shown.lines().find(|row| row.contains(" 0 active")).unwrap();
    let is_reversed = row.contains("\u{1b}[7m") || row.contains(";7m");
    assert!(is_reversed, "{row:?}");
    let terminal = Terminal::start(&home, "LANG=C.UTF-8", WIDE);
    terminal.sees(&["LIVE"]);
    let shown = terminal.styled();
    let live = shown.lines().next().unwrap();
    assert!(
        live.contains("38;5;2m") || live.contains("32m"),
        "LIVE is green: {live:?}"
    );
}

#[test]
fn a_locale_without_unicode_gets_ascii_and_a_pipe_one_plain_picture() {
    let (home, _daemon) = home();
    let terminal = Terminal::start(&home, "LANG=C LC_ALL=C", WIDE);
    let shown = terminal.sees(&["LIVE", " 7 active"]);
    assert!(shown.is_ascii(), "{shown}");

    let mut piped = home.command(&["top"]);
    let piped = piped
        .env("LANG", "C")
        .env_remove("LC_ALL")
        .output()
        .unwrap();
    assert_eq!(piped.status.code(), Some(0));
    let shown = String::from_utf8(piped.stdout).unwrap();
    assert!(shown.is_ascii() && !shown.contains('\u{1b}'), "{shown}");
    assert!(
        shown.contains("7 active") && shown.contains("OK  nothing waits"),
        "{shown}"
    );
    let json = home.run(&["top", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["lanes"].as_array().unwrap().len(), 8);
}

#[test]
fn a_daemon_that_is_gone_leaves_its_last_words_and_is_found_again() {
    let (home, daemon) = home();
    let terminal = Terminal::start(&home, "LANG=C.UTF-8", WIDE);
    terminal.sees(&["LIVE"]);
    daemon.kill();
    let shown = terminal.sees(&["LOST", "SHOWING OLD DATA from", " 7 active"]);
    assert!(shown.contains("retry in"), "{shown}");
    let _daemon = home.start();
    let shown = terminal.sees(&["LIVE", "OK  nothing waits"]);
    assert!(!shown.contains("SHOWING OLD DATA"), "{shown}");
}

#[test]
fn a_lane_is_paused_from_its_menu_and_lanes_are_resized_by_typing_the_number() {
    let (home, _daemon) = home();
    let terminal = Terminal::start(&home, "LANG=C.UTF-8", (140, 40));
    terminal.sees(&["LIVE", " 7 active"]);
    terminal.keys(&["Down", "a"]);
    terminal.sees(&["default-1-1 ", "> drain"]);
    terminal.keys(&["Down", "Enter"]);
    terminal.sees(&["pause default-1-1", "> Cancel"]);
    terminal.keys(&["Tab", "Enter"]);
    terminal.sees(&[" 1 paused", "ON PURPOSE  lane 1 paused by uid"]);
    terminal.keys(&["a"]);
    terminal.sees(&["> resume"]);
    terminal.keys(&["Enter"]);
    terminal.sees(&["resume default-1-1"]);
    terminal.keys(&["Tab", "Enter"]);
    terminal.sees(&[" 1 active", "OK  nothing waits"]);

    terminal.keys(&["r"]);
    terminal.sees(&["New number"]);
    terminal.keys(&["3", "Enter"]);
    terminal.sees(&["8 -> 3 lanes", "Type 3 to go on"]);
    terminal.keys(&["3", "Enter"]);
    terminal.sees(&["default: 3 lanes gen 2", " 2 active"]);
    assert!(!terminal.screen().contains(" 3 active"));
    terminal.tmux(&["resize-window", "-x", "40", "-y", "10"]);
    terminal.sees(&["oldest -  flow -", "OK"]);
    terminal.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    terminal.sees(&["default: 3 lanes gen 2", "WORK99"]);
}

#[test]
fn a_signal_of_a_lost_connection_ends_it_and_a_suspended_one_comes_back() {
    let (home, _daemon) = home();
    // A shell that keeps jobs: there is nobody to come back to without one.
    let terminal = Terminal::of(&["bash", "--norc", "--noprofile", "-i"], WIDE);
    let program = env!("CARGO_BIN_EXE_hooklane");
    let data = home.data();
    let run = format!(
        "LANG=C.UTF-8 TERM=xterm-256color {program} top --data {}",
        data.display()
    );
    terminal.keys(&[&run, "Enter"]);
    terminal.sees(&["LIVE", " 7 active"]);
    let pid = rustix::process::Pid::from_raw(terminal.pid()).unwrap();
    terminal.keys(&["C-z"]);
    let left = terminal.sees(&["Stopped"]);
    assert!(!left.contains("LIVE"), "{left}");
    terminal.keys(&["fg", "Enter"]);
    terminal.sees(&["LIVE", " 7 active"]);
    for (width, height, seen) in [
        ("1", "1", ""),
        ("40", "10", "oldest -  flow -"),
        ("140", "40", "throughput 15m"),
    ] {
        terminal.tmux(&["resize-window", "-x", width, "-y", height]);
        terminal.sees(&[seen]);
    }

    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    // Earlier input goes to the dashboard.
    until(|| {
        rustix::process::test_kill_process(pid)
            .is_err()
            .then_some(())
    });
    terminal.keys(&["echo ended $?; stty -a", "Enter"]);
    let left = terminal.sees(&["ended 129", " icanon"]);
    // Lines above it belong to tmux, which keeps two screens through a change of size.
    let after = left.split("ended 129").last().unwrap();
    assert!(!after.contains("throughput"), "{left}");
}

#[test]
fn what_senders_put_into_an_event_is_seen_whole_and_the_terminal_does_not_obey_it() {
    let (home, _daemon) = home();
    let body = "{\"a\":\"\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\"}";
    send(
        &home,
        &["orders", "--body", body, "--header", "x-evil: \u{9b}1m"],
    );
    let terminal = Terminal::start(&home, "LANG=C.UTF-8", WIDE);
    terminal.sees(&["LIVE"]);
    terminal.keys(&["e"]);
    terminal.sees(&[
        "FOLLOW",
        " orders ",
        "reduce   folded",
        "1 of the newest 1 shown",
    ]);
    terminal.keys(&["Enter"]);
    let whole = terminal.sees(&["x-evil: ", "body, "]);
    assert!(
        whole.contains(r"\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m"),
        "{whole}"
    );
    let title = terminal.tmux(&["display-message", "-p", "#{pane_title}"]);
    assert!(!String::from_utf8_lossy(&title.stdout).contains("owned"));
}

/// Terminals do not agree on how wide a character with its modifiers is: whatever was drawn is gone when it should be.
#[test]
fn emoji_leave_nothing_behind() {
    let (home, _daemon) = home();
    home.apply("[[hooks]]\nname = 'fun'\nreduce = 'count'\norder_by = 'body:/k'\n");
    for key in [
        "\u{2764}\u{fe0f}",
        "\u{1f44d}\u{1f3fd}",
        "\u{1f1e9}\u{1f1ea}",
        "1\u{fe0f}\u{20e3}",
    ] {
        let body = serde_json::json!({"k": format!("{key}|{key}")}).to_string();
        send(&home, &["fun", "--data", &body]);
    }
    let terminal = Terminal::start(&home, "LANG=C.UTF-8", WIDE);
    terminal.sees(&["LIVE"]);
    terminal.keys(&["e"]);
    terminal.sees(&["FOLLOW", "fun/", r"\u{fe0f}"]);
    terminal.keys(&["n"]);
    let shown = terminal.sees(&["NAMESPACE", "default"]);
    assert!(!shown.contains("fun/") && !shown.contains('|'), "{shown}");
    let below = shown.lines().skip(4).filter(|line| !line.trim().is_empty());
    assert_eq!(below.count(), 1, "nothing but the keys:\n{shown}");
}

#[test]
fn what_one_operator_has_changed_another_does_not_do_again() {
    let (home, _daemon) = home();
    let terminal = Terminal::start(&home, "LANG=C.UTF-8", WIDE);
    terminal.sees(&["LIVE"]);
    terminal.keys(&["r"]);
    terminal.sees(&["New number"]);
    terminal.keys(&["1", "6", "Enter"]);
    terminal.sees(&["8 -> 16 lanes", "Type 16 to go on"]);
    home.run(&["lanes", "resize", "4", "--yes"]);
    let shown = terminal.sees(&["changed meanwhile, nothing was done", "4 lanes gen 2"]);
    assert!(!shown.contains("Type 16"), "{shown}");

    terminal.keys(&["a"]);
    terminal.sees(&["> drain lane 0"]);
    terminal.keys(&["Enter"]);
    terminal.sees(&["drain default-2-0", "> Cancel"]);
    home.run(&["lanes", "pause", "0"]);
    terminal.sees(&["changed meanwhile, nothing was done", " 0 paused"]);
}

#[test]
fn streams_and_hooks_are_held_and_paused_from_their_menus() {
    let (home, _daemon) = home();
    send(&home, &["orders"]);
    let terminal = Terminal::start(&home, "LANG=C.UTF-8", WIDE);
    terminal.sees(&["LIVE"]);
    terminal.keys(&["e"]);
    terminal.sees(&["reduce   folded"]);
    terminal.keys(&["Enter"]);
    terminal.sees(&["body, "]);
    terminal.keys(&["Enter"]);
    terminal.sees(&["reduce: at the head"]);
    terminal.keys(&["H"]);
    terminal.sees(&["hold orders -> reduce", "> Cancel"]);
    terminal.keys(&["Tab", "Enter"]);
    terminal.sees(&["hold orders -> reduce: done", ">!reduce", "held"]);
    terminal.keys(&["a"]);
    terminal.sees(&["> retry orders", "  release orders", "  pause hook orders"]);
    terminal.keys(&["Down", "Enter"]);
    terminal.sees(&["release orders -> reduce"]);
    terminal.keys(&["Tab", "Enter"]);
    terminal.sees(&["release orders -> reduce: done", "reduce         flowing"]);
    terminal.keys(&["a"]);
    terminal.sees(&["  pause hook orders"]);
    terminal.keys(&["Down", "Enter"]);
    terminal.sees(&["pause hook orders", "> Cancel"]);
    terminal.keys(&["Tab", "Enter"]);
    terminal.sees(&["pause hook orders: done"]);
    assert!(home.run(&["hooks", "list"]).contains("paused"));
}

#[test]
fn who_may_only_look_has_a_menu_that_does_nothing() {
    let (home, _daemon) = home();
    let terminal = Terminal::running(
        &format!("LANG=C.UTF-8 HOOKLANE_KEY={}", home.key("read").trim()),
        &format!("top --url http://{}", home.addr),
        WIDE,
    );
    terminal.sees(&["LIVE", " 7 active"]);
    terminal.keys(&["a"]);
    terminal.sees(&["  pause lane 0", "may not change anything"]);
    terminal.keys(&["Down", "Enter", "r"]);
    terminal.sees(&["may not change anything", " 0 active"]);

    let terminal = Terminal::running(
        "LANG=C.UTF-8",
        &format!("top --read-only --data {}", home.data().display()),
        WIDE,
    );
    terminal.sees(&["LIVE"]);
    terminal.keys(&["r"]);
    terminal.sees(&["--read-only: nothing can be changed from here"]);
}

/// Answers as a daemon does, with a snapshot that none sends once the dashboard is there.
#[cfg(debug_assertions)]
fn liar(home: &Home) -> std::net::SocketAddr {
    use std::io::{Read as _, Write as _};
    let honest = snapshot(home);
    let mut wrong = honest.clone();
    for lane in wrong["lanes"].as_array_mut().unwrap() {
        lane["backlog_flowing"] = u64::MAX.into();
    }
    let door = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = door.local_addr().unwrap();
    std::thread::spawn(move || {
        for asked in door.incoming() {
            let mut asked = asked.unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && asked.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let is_live = head.starts_with(b"GET /v1/admin/snapshot/live");
            let (kind, body) = match is_live {
                true => {
                    let frame = serde_json::json!({"whole": wrong});
                    ("text/event-stream", format!("data: {frame}\n\n"))
                }
                false => ("application/json", honest.to_string()),
            };
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n{body}"
            );
            let _ = asked.write_all(answer.as_bytes());
            if is_live {
                // A reader that reaches the end reports the daemon as lost.
                std::mem::forget(asked);
            }
        }
    });
    address
}

/// Sums that overflow are a panic in a build that looks for such things, and in no other: there is nothing in
/// hooklane that panics when it is told to.
#[cfg(debug_assertions)]
#[test]
fn a_panic_gives_the_terminal_back_and_says_where_its_report_is() {
    let (home, _daemon) = home();
    let address = liar(&home);
    let key = home.key("read");
    let files = tempfile::tempdir().unwrap();
    let place = files.path().display();
    let log = files.path().join("top.log");
    for (option, report) in [
        ("", format!("report  {place}/hooklane-top-")),
        (
            &*format!("--log-file {}", log.display()),
            format!("report  {}", log.display()),
        ),
    ] {
        let terminal = Terminal::running(
            &format!("LANG=C.UTF-8 TMPDIR={place} HOOKLANE_KEY={}", key.trim()),
            &format!("top --url http://{address} {option}"),
            (140, 40),
        );
        let left = terminal.sees(&[
            "ended 1",
            " icanon",
            "error: the dashboard failed: attempt to add with overflow",
        ]);
        assert!(left.contains(&report), "{left}");
        assert!(left.contains("at      "), "{left}");
        assert!(!left.contains("LIVE"), "the other screen is gone:\n{left}");
        assert!(
            !left.contains("stack backtrace"),
            "that is in the report:\n{left}"
        );
    }
    let mut own = std::fs::read_dir(files.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let own = own.find(|path| *path != log).unwrap();
    for path in [own, log] {
        use std::os::unix::fs::MetadataExt as _;
        let report = std::fs::read_to_string(&path).unwrap();
        for word in [
            "attempt to add with overflow",
            "thread main",
            "tui::",
            concat!("hooklane ", env!("CARGO_PKG_VERSION")),
        ] {
            assert!(report.contains(word), "{word}: {report}");
        }
        assert!(!report.contains(key.trim()));
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }
}

#[test]
fn what_happens_while_it_runs_is_added_to_a_file() {
    let (home, daemon) = home();
    let files = tempfile::tempdir().unwrap();
    let log = files.path().join("top.log");
    std::fs::write(&log, "before\n").unwrap();
    let terminal = Terminal::running(
        "LANG=C.UTF-8",
        &format!(
            "top --data {} --log-file {}",
            home.data().display(),
            log.display()
        ),
        WIDE,
    );
    terminal.sees(&["LIVE", " 7 active"]);
    let told = |word: &str| {
        until(|| {
            let text = std::fs::read_to_string(&log).unwrap();
            text.contains(word).then_some(text)
        })
    };
    told("dashboard  watches default on a\n");
    home.run(&["lanes", "pause", "1", "--reason", "a \u{1b}[31mlook"]);
    let text = told(" ~ lane 1  paused by uid ");
    assert!(
        text.starts_with("before\n") && !text.contains('\u{1b}'),
        "{text}"
    );
    drop(daemon);
    told(" ! dashboard  lost the daemon: ");
    let _daemon = home.start();
    told("dashboard  found the daemon again\n");
    let (code, said) = {
        let done = home.command(&["top", "--log-file", "/"]).output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    assert_eq!(code, Some(2));
    assert!(said.contains("cannot write /: "), "{said}");
}

/// A dashboard of lines, read one by one.
struct Lines {
    top: std::process::Child,
    read: std::io::BufReader<std::process::ChildStdout>,
}

impl Lines {
    fn of(home: &Home, args: &[&str]) -> Self {
        let mut top = home.command(&[&["top", "-o", "jsonl"], args].concat());
        let mut top = top.stdout(Stdio::piped()).spawn().unwrap();
        let read = std::io::BufReader::new(top.stdout.take().unwrap());
        Self { top, read }
    }

    fn next(&mut self) -> serde_json::Value {
        use std::io::BufRead as _;
        let mut line = String::new();
        self.read.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        drop(self.top.kill());
        drop(self.top.wait());
    }
}

fn snapshot(home: &Home) -> serde_json::Value {
    serde_json::from_str(&home.run(&["top", "--once", "-o", "json"])).unwrap()
}

#[test]
fn what_is_put_together_from_changes_is_what_the_daemon_sees_and_latecomers_see_the_past() {
    let (home, _daemon) = home();
    let mut early = Lines::of(&home, &["--window", "1m"]);
    let began = early.next()["history"].as_array().unwrap().len();
    send(&home, &["orders", "--count", "50"]);
    home.run(&["streams", "hold", "orders"]);
    send(&home, &["orders", "--count", "3", "--no-wait"]);
    let held = until(|| Some(early.next()).filter(|line| line["total"]["backlog"] == 3));
    assert_eq!(held["lanes"][0]["lane"], "default-1-0");

    // The same second, asked for and followed.
    let mut line = held;
    until(|| {
        let asked = snapshot(&home);
        while line["seq"].as_u64() < asked["seq"].as_u64() {
            line = early.next();
        }
        let is_same_second = line["seq"] == asked["seq"];
        for part in [
            "at", "lanes", "cursors", "total", "verdicts", "log", "storage", "viewer",
        ] {
            if is_same_second {
                assert_eq!(line[part], asked[part], "{part}");
            }
        }
        is_same_second.then_some(())
    });

    let mut late = Lines::of(&home, &["--window", "1m"]);
    let first = late.next();
    let history = first["history"].as_array().unwrap();
    assert!(history.len() > began, "{} and {began}", history.len());
    assert!(
        history
            .iter()
            .any(|second| second["waits"][0].as_u64() > Some(0))
    );
    let later = until(|| Some(late.next()).filter(|line| line["seq"] != first["seq"]));
    let grown = later["history"].as_array().unwrap();
    assert_eq!(
        grown[..history.len()],
        history[..],
        "nothing of the past is lost"
    );
    assert!(grown.len() > history.len());
}

#[test]
fn a_viewer_is_sent_little_and_a_revoked_key_nothing_more() {
    use std::io::{Read as _, Write as _};
    let home = Home::new(Setup::Embedded);
    let _daemon = home.ready(home.spawn_with(&["--lanes", "64"]));
    let hook = [
        "hooks",
        "create",
        "orders",
        "--order-by",
        "body:/k",
        "--reduce",
        "count",
    ];
    home.run(&hook);
    let key = home.key("read");
    let mut viewer = std::net::TcpStream::connect(home.addr).unwrap();
    let ask = format!(
        "GET /v1/admin/snapshot/live HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\
         authorization: Bearer {}\r\n\r\n",
        key.trim()
    );
    viewer.write_all(ask.as_bytes()).unwrap();
    viewer
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut piece = vec![0; 1 << 20];
    let mut read = || {
        let len = viewer.read(&mut piece).unwrap();
        // An answer in chunks ends with an empty one.
        (len, len == 0 || piece[..len].ends_with(b"0\r\n\r\n"))
    };
    read();
    let sent = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            for k in 0..64 {
                let body = format!("{{\"k\":{k}}}");
                send(
                    &home,
                    &["orders", "--body", &body, "--count", "20", "--no-wait"],
                );
            }
        });
        // The headers and the whole, then the seconds of the load.
        let mut sent = vec![read().0, read().0];
        while !load.is_finished() || sent.len() < 5 {
            sent.push(read().0);
        }
        sent
    });
    let seconds = &sent[2..];
    let mean = seconds.iter().sum::<usize>() / seconds.len();
    assert!(mean < 3_000, "{mean} bytes a second: {sent:?}");

    let keys = home.run(&["keys", "list", "-o", "jsonl"]);
    let id = keys.lines().find(|line| line.contains("\"read\"")).unwrap();
    let id: serde_json::Value = serde_json::from_str(id).unwrap();
    home.run(&["keys", "revoke", id["id"].as_str().unwrap(), "--yes"]);
    until(|| read().1.then_some(()));
}
