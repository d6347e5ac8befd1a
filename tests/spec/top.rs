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
        let dir = tempfile::tempdir().unwrap();
        let terminal = Self {
            socket: dir.path().join("tmux"),
            _dir: dir,
        };
        let (width, height) = (size.0.to_string(), size.1.to_string());
        let made = terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &width,
            "-y",
            &height,
            "sh",
            "-c",
            run,
        ]);
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

    /// What is on the screen.
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
