//! A private Redis server: reached through a socket in a directory of its own, killed, emptied and put
//! back to what it knew before at will. A guard beside it ends it and removes the directory as soon as
//! this process lets go of it, however this process ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

/// Ends with the input of its shell: then this process is gone, or needs the server no more.
const GUARD: &str = r#"
trap '' INT HUP
cat >/dev/null
[ -e pid ] && kill -9 "$(cat pid)" 2>/dev/null
rm -rf "$PWD"
"#;

/// Time limit of a start.
const START_MAX: Duration = Duration::from_secs(20);

/// A running server, or one that was killed and waits to be started again.
pub struct RedisServer {
    dir: PathBuf,
    options: Vec<String>,
    guard: Child,
    server: Mutex<Option<Child>>,
}

impl RedisServer {
    /// An empty one.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// An empty one with further options, as on its command line.
    pub fn with(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap().keep();
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD]).current_dir(&dir);
        let server = Self {
            guard: guard.stdin(Stdio::piped()).spawn().unwrap(),
            server: Mutex::new(None),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            dir,
        };
        server.run();
        server
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// The socket alone.
    pub fn socket(&self) -> PathBuf {
        self.file("socket")
    }

    /// Asks it; the lines of the answer.
    pub fn ask(&self, command: &[&str]) -> Vec<String> {
        let said = self.cli(command);
        let said = said.unwrap_or_else(|| panic!("Redis does not answer {command:?}"));
        said.lines().map(str::to_owned).collect()
    }

    /// Kills it with -9; what it knew is gone.
    pub fn kill(&self) {
        let mut server = self.server.lock().take().expect("a server that runs");
        server.kill().unwrap();
        server.wait().unwrap();
        fs::remove_file(self.file("pid")).unwrap();
    }

    /// Starts it again after a kill, without anything.
    pub fn start_empty(&self) {
        self.run();
    }

    /// Keeps what it knows now, for [`start_older`](Self::start_older).
    pub fn keep(&self) {
        assert_eq!(self.ask(&["SAVE"]), ["OK"]);
        fs::rename(self.file("dump.rdb"), self.file("kept.rdb")).unwrap();
    }

    /// Starts it again after a kill, with what was kept.
    pub fn start_older(&self) {
        fs::copy(self.file("kept.rdb"), self.file("dump.rdb")).unwrap();
        self.run();
        fs::remove_file(self.file("dump.rdb")).unwrap();
    }

    /// Stops it from answering, its connections open.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it answer again.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        let server = self.server.lock();
        server.as_ref().expect("a server that runs").id()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn run(&self) {
        let path = |name: &str| self.file(name).display().to_string();
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .args(["--dir", &self.dir.display().to_string()])
            .args(["--unixsocket", &path("socket"), "--pidfile", &path("pid")])
            .args(["--logfile", &path("log")])
            .args(&self.options)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server (is it installed?): {error}"));
        *self.server.lock() = Some(server);
        let began = Instant::now();
        while !self.answers() || !self.file("pid").exists() {
            let log = || fs::read_to_string(self.file("log")).unwrap_or_default();
            assert!(began.elapsed() < START_MAX, "no Redis server: {}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Also who wants a password first.
    fn answers(&self) -> bool {
        let said = self.cli(&["PING"]);
        said.is_some_and(|said| said.starts_with("PONG") || said.starts_with("NOAUTH"))
    }

    /// None while it does not answer.
    fn cli(&self, command: &[&str]) -> Option<String> {
        let mut cli = Command::new("redis-cli");
        cli.arg("-s").arg(self.file("socket")).args(command);
        let done = cli.output().unwrap();
        let said = String::from_utf8(done.stdout).unwrap();
        done.status.success().then_some(said)
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::join(&self.dir, name)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.lock().take() {
            let _ = server.kill();
            let _ = server.wait();
            let _ = fs::remove_file(self.file("pid"));
        }
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
