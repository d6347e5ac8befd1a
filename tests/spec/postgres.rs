//! A private Postgres server for whoever needs one: reached through a socket in a directory of its own,
//! in memory where that is possible, because `fsync` stays on. A guard beside it ends it and removes
//! the directory as soon as this process lets go of it, however this process ends.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Ends with the input of its shell: then this process is gone, or needs the server no more.
const GUARD: &str = r#"
trap '' INT HUP
eval "$MAKE" >log 2>&1 &&
  pg_ctl start --wait --silent -o "$OPTIONS -k $PWD" -l log &&
  echo ready || echo failed
cat >/dev/null
pg_ctl stop --mode=immediate --silent >/dev/null 2>&1
rm -rf "$PWD"
"#;

/// A new one, with nothing in it.
const NEW: &str = "initdb --no-sync --auth=trust --username=postgres --encoding=UTF8 --locale=C";

/// As the server is started, but for the directory of its socket.
const OPTIONS: &str = "-c listen_addresses= -c max_connections=300";

/// The server that the tests of this process share, each in a database of its own.
pub fn shared() -> &'static Server {
    static SERVER: LazyLock<Server> = LazyLock::new(Server::start);
    &SERVER
}

pub struct Server {
    dir: PathBuf,
    port: u16,
    guard: Child,
}

impl Server {
    pub fn start() -> Self {
        let memory = Path::new("/dev/shm");
        match memory.is_dir() {
            true => Self::start_in(memory),
            false => Self::start_in(Path::new("/tmp")),
        }
    }

    /// Its files are in a directory of their own in `parent`.
    pub fn start_in(parent: &Path) -> Self {
        Self::make_in(parent, NEW)
    }

    /// One that follows this one, and has everything that this one has now.
    pub fn standby(&self) -> Self {
        let primary = self.dir.display();
        let make = format!(
            "pg_basebackup --host={primary} --username=postgres --pgdata=\"$PGDATA\" \
             --write-recovery-conf --wal-method=stream --checkpoint=fast --no-sync"
        );
        let parent = self.dir.parent().unwrap();
        Self::make_in(parent, &make)
    }

    /// One that also listens on a port of this machine, perhaps with a certificate of its own signing.
    pub fn on_port(port: u16, tls: bool) -> Self {
        let certificate = r#"openssl req -new -x509 -days 2 -nodes -subj /CN=localhost \
            -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
            -keyout "$PGDATA/server.key" -out "$PGDATA/server.crt" && chmod 600 "$PGDATA/server.key""#;
        let (make, ssl) = match tls {
            true => (format!("{NEW} && {certificate}"), "on"),
            false => (NEW.to_owned(), "off"),
        };
        let options = OPTIONS.replace("listen_addresses=", "listen_addresses=127.0.0.1");
        let options = format!("{options} -c port={port} -c ssl={ssl}");
        let mut server = Self::make_with(Path::new("/tmp"), &make, &options);
        server.port = port;
        server
    }

    /// The port in the name of its socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn make_in(parent: &Path, make: &str) -> Self {
        Self::make_with(parent, make, OPTIONS)
    }

    fn make_with(parent: &Path, make: &str, options: &str) -> Self {
        let dir = tempfile::tempdir_in(parent).unwrap().keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        if is_root() {
            done(
                "chown",
                Command::new("chown").arg("postgres").arg(&dir).output(),
            );
        }
        let mut guard = as_postgres("sh");
        guard.args(["-c", GUARD]).current_dir(&dir);
        guard
            .env("PGDATA", dir.join("data"))
            .env("OPTIONS", options)
            .env("MAKE", make);
        guard.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guard = guard.spawn().unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(guard.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert_eq!(said, "ready\n", "no Postgres server: {}", log());
        Self {
            dir,
            port: 5432,
            guard,
        }
    }

    /// Makes a database and says its name.
    pub fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.ask("postgres", &format!("create database {name}"));
        name
    }

    /// Address of a database for `user`.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!(
            "postgres:///{database}?host={}&user={user}",
            self.dir.display()
        )
    }

    /// The directory of its socket.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Stops it and starts it again.
    pub fn restart(&self) {
        let mut restart = as_postgres("pg_ctl");
        restart.current_dir(&self.dir).env("PGDATA", self.data());
        restart.args(["restart", "--wait", "--silent", "--mode=fast", "-l", "log"]);
        done("pg_ctl restart", restart.output());
    }

    /// The process that all others of the server are children of.
    pub fn pid(&self) -> u32 {
        let running = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        running.lines().next().unwrap().parse().unwrap()
    }

    /// Kills it with -9, without a word to those that are connected.
    pub fn kill(&self) {
        let pid = Pid::from_raw(self.pid().cast_signed()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }

    /// Starts it after a kill. What served connections may take a while to notice, and it starts only
    /// when all of that is gone.
    pub fn start_again(&self) {
        let patience = Instant::now() + Duration::from_secs(30);
        let options = format!("{OPTIONS} -k {}", self.dir.display());
        loop {
            let mut start = as_postgres("pg_ctl");
            start.current_dir(&self.dir).env("PGDATA", self.data());
            start.args(["start", "--wait", "--silent", "-l", "log", "-o", &options]);
            let done = start.output().unwrap();
            if done.status.success() {
                return;
            }
            assert!(Instant::now() < patience, "no Postgres server: {done:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Reads its settings again, and waits until `name` is `value`.
    pub fn reload(&self, name: &str, value: &str) {
        self.ask("postgres", "select pg_reload_conf()");
        let patience = Instant::now() + Duration::from_secs(10);
        while !self
            .ask("postgres", &format!("show {name}"))
            .contains(value)
        {
            assert!(Instant::now() < patience, "{name} is not {value}");
        }
    }

    pub fn run_file(&self, database: &str, file: &Path) {
        done("psql", self.psql(database).arg("--file").arg(file).output());
    }

    /// Runs a statement; the lines of its answer.
    pub fn ask(&self, database: &str, query: &str) -> BTreeSet<String> {
        let answer = self.psql(database).arg("--command").arg(query).output();
        let answer = done("psql", answer);
        let lines = String::from_utf8(answer.stdout).unwrap();
        lines.lines().map(str::to_owned).collect()
    }

    fn psql(&self, database: &str) -> Command {
        let mut psql = Command::new(binaries().join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
        psql.args(["--set=ON_ERROR_STOP=1", "--username=postgres"]);
        psql.args(["--dbname", database, "--host"]).arg(&self.dir);
        psql
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// A program, with the server's own ones found first, as a user that the server accepts: not root.
pub fn as_postgres(program: &str) -> Command {
    let mut command = match is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
            command.arg("--").arg(program);
            command
        }
        false => Command::new(program),
    };
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", binaries().display()));
    command
}

/// The newest server that is installed, else the one on PATH.
fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let installed = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<_> = std::env::split_paths(&on_path).collect();
    let mut installed: Vec<_> = installed.collect();
    installed.sort();
    let all = installed.into_iter().rev().chain(on_path);
    let has = |dir: &PathBuf| {
        ["initdb", "pg_ctl", "psql"]
            .iter()
            .all(|p| dir.join(p).exists())
    };
    all.into_iter()
        .find(has)
        .expect("initdb, pg_ctl and psql: install postgresql (apt-get install postgresql)")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn done(what: &str, output: std::io::Result<Output>) -> Output {
    let output =
        output.unwrap_or_else(|error| panic!("{what} (is postgresql installed?): {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {said}");
    output
}
