//! The real `hooklane` from outside: a command, a process, an HTTP server.
//!
//! Owns a data directory and its port, starts and stops the daemon there, and sends it requests. In the
//! production set-up it also owns the database and the Redis that nodes share. It uses no line of
//! hooklane's own code.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::postgres::{self, Server};
use crate::redis_server::RedisServer;

/// Time limit of a start.
const READY_MAX: Duration = Duration::from_secs(60);

/// Default time limit of an answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Interval of checks while something is awaited.
const LOOK: Duration = Duration::from_millis(2);

/// Set-up of events and hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// A file and its own memory.
    Embedded,
    /// A Postgres server and a Redis server.
    Production,
}

/// Servers that the nodes of a cluster share.
pub struct Servers {
    /// The server with the tables.
    pub postgres: &'static Server,
    /// Name of the database there.
    pub database: String,
    /// The server with the hints.
    pub redis: Arc<RedisServer>,
    /// Directory of a socket in front of the server, such as a proxy's; `None` connects directly.
    /// Further parts of an address may follow, as `&name=value`.
    pub door: Option<String>,
}

impl Servers {
    /// A new database and an empty Redis.
    pub fn on(postgres: &'static Server) -> Arc<Self> {
        Self::sharing(postgres, Arc::new(RedisServer::start()))
    }

    /// A new database that nodes reach through another socket, and an empty Redis.
    pub fn behind(postgres: &'static Server, door: String) -> Arc<Self> {
        Arc::new(Self {
            postgres,
            database: postgres.database(),
            redis: Arc::new(RedisServer::start()),
            door: Some(door),
        })
    }

    /// A new database beside a Redis that others may use.
    pub fn sharing(postgres: &'static Server, redis: Arc<RedisServer>) -> Arc<Self> {
        let database = postgres.database();
        Arc::new(Self {
            postgres,
            database,
            redis,
            door: None,
        })
    }

    /// Address of the database for nodes.
    pub fn url(&self) -> String {
        match &self.door {
            Some(door) => format!("postgres:///{}?user=postgres&host={door}", self.database),
            None => self.postgres.url("postgres", &self.database),
        }
    }

    /// Runs a statement in the database; the lines of its answer.
    pub fn ask(&self, query: &str) -> std::collections::BTreeSet<String> {
        self.postgres.ask(&self.database, query)
    }
}

/// A data directory with a port: one daemon at a time may live here.
pub struct Home {
    dir: TempDir,
    /// Address at which its daemon listens.
    pub addr: SocketAddr,
    /// Environment variables for commands and daemons, beside those of the tests.
    pub environment: Vec<(&'static str, &'static str)>,
    /// Limit of open files for its daemon; `None` is the limit of the tests.
    pub files_max: Option<u32>,
    /// Servers that its daemon shares with other nodes; `None` uses a file.
    pub servers: Option<Arc<Servers>>,
    /// Name of its daemon.
    pub node: String,
}

/// Variable with the path of the key that encrypts secrets.
pub const SECRET_KEY_FILE: &str = "HOOKLANE_SECRET_KEY_FILE";

/// The key that the nodes of all tests share.
fn secret_key() -> PathBuf {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("secret.key");
    if !file.exists() {
        let mut new = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let key = "b3JkZXJlZCB3ZWJob29rcywgb25lIHN0cmVhbSBhLi4=\n";
        std::io::Write::write_all(&mut new, key.as_bytes()).unwrap();
        // Parallel tests write the same content.
        new.persist(&file).unwrap();
    }
    file
}

impl Home {
    /// An empty home. It is in the build directory, because the usual directory for temporary files may
    /// be in memory, where a sync costs and proves nothing.
    pub fn new(setup: Setup) -> Self {
        match setup {
            Setup::Embedded => Self::with(None, "a"),
            Setup::Production => Self::with(Some(Servers::on(postgres::shared())), "a"),
        }
    }

    /// An empty home for a node of a cluster.
    pub fn of(servers: &Arc<Servers>, node: &str) -> Self {
        Self::with(Some(Arc::clone(servers)), node)
    }

    fn with(servers: Option<Arc<Servers>>, node: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("home-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap();
        Self {
            dir,
            addr: SocketAddr::from(([127, 0, 0, 1], free_port())),
            environment: Vec::new(),
            files_max: None,
            servers,
            node: node.to_owned(),
        }
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Writes a file beside the data directory.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Log of the daemons here so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("serve.log")
    }

    /// A command on this data directory, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hooklane"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOOKLANE_")) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().copied());
        command.args(args).arg("--data").arg(self.data());
        command
    }

    /// Runs a command that must succeed; returns its output.
    pub fn run(&self, args: &[&str]) -> String {
        let done = self.command(args).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success(),
            "hooklane {}: {}\n{said}",
            args.join(" "),
            done.status
        );
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// Runs `work` while commands can reach the database: a file directly, a server through a node.
    pub fn prepare<T>(&self, work: impl FnOnce(&Self) -> T) -> T {
        let _daemon = self.servers.as_ref().map(|_| self.start());
        work(self)
    }

    /// Creates the hooks of a TOML text.
    pub fn apply(&self, hooks: &str) {
        let file = self.write("hooks.toml", hooks);
        self.run(&["hooks", "apply", file.to_str().unwrap()]);
    }

    /// Creates a key of `kind` for all hooks.
    pub fn key(&self, kind: &str) -> String {
        self.run(&[
            "keys",
            "create",
            "--type",
            kind,
            "--all-hooks",
            "--name",
            "outside",
        ])
    }

    /// Starts a daemon without waiting until it is ready.
    pub fn spawn(&self) -> Daemon {
        let shared = self.servers.as_ref();
        let shared = shared.map(|servers| (servers.url(), servers.redis.url()));
        match &shared {
            Some((url, redis)) => self.spawn_with(&["--database", url, "--redis", redis]),
            None => self.spawn_with(&[]),
        }
    }

    /// The same with other servers, or with none.
    pub fn spawn_with(&self, options: &[&str]) -> Daemon {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let listen = self.addr.to_string();
        let serve = ["serve", "--listen", &listen, "--node", &self.node];
        let mut command = self.command(&serve);
        if let Some(files) = self.files_max {
            let mut limited = Command::new("sh");
            let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
            limited.args(["-c", &script]).arg(command.get_program());
            limited.args(command.get_args());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => limited.env(name, value),
                    None => limited.env_remove(name),
                };
            }
            command = limited;
        }
        let has_key = |(name, _): &(&str, &str)| *name == SECRET_KEY_FILE;
        if self.servers.is_some() && !self.environment.iter().any(has_key) {
            command.env(SECRET_KEY_FILE, secret_key());
        }
        let child = command
            .args(options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Daemon { child }
    }

    /// Starts a daemon and waits until it is ready.
    pub fn start(&self) -> Daemon {
        self.ready(self.spawn())
    }

    /// Waits until a daemon is ready.
    pub fn ready(&self, mut daemon: Daemon) -> Daemon {
        let began = Instant::now();
        while !self.is_ready() {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("hooklane serve ended with {status}:\n{}", self.log());
            }
            assert!(
                began.elapsed() < READY_MAX,
                "hooklane serve is not ready:\n{}",
                self.log()
            );
            std::thread::sleep(LOOK);
        }
        daemon
    }

    fn is_ready(&self) -> bool {
        let over_tls = self
            .environment
            .iter()
            .any(|(name, _)| *name == "HOOKLANE_TLS_CERT");
        let answer = match over_tls {
            // Its port speaks TLS only; the socket never does.
            true => {
                UnixStream::connect(self.data().join("hooklane.sock")).and_then(status_of_ready)
            }
            false => TcpStream::connect(self.addr).and_then(|stream| {
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                status_of_ready(stream)
            }),
        };
        answer.is_ok_and(|answer| answer.ends_with(b" 200"))
    }
}

/// Beginning of the answer to `/readyz`, up to the status.
fn status_of_ready(mut stream: impl Read + Write) -> std::io::Result<Vec<u8>> {
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// A free port outside the kernel's range of local ports; otherwise a sender that calls a dead daemon
/// may end up connected to itself.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 10_000).unwrap_or(0);
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A running `hooklane serve`; killed when dropped.
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Freezes the process with SIGSTOP.
    #[allow(dead_code, reason = "the benchmark does no harm")]
    pub fn freeze(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    /// Lets it continue after [`Self::freeze`].
    #[allow(dead_code, reason = "the benchmark does no harm")]
    pub fn thaw(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    /// Kills it with -9 and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its exit status; `None` while it runs.
    #[allow(dead_code, reason = "the benchmark's daemons do not end")]
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Stops it with SIGTERM; `None` if it still runs after `patience`.
    pub fn terminate(&mut self, patience: Duration) -> Option<ExitStatus> {
        self.stops_by(Signal::TERM, patience)
    }

    /// The same with another signal.
    pub fn stops_by(&mut self, signal: Signal, patience: Duration) -> Option<ExitStatus> {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let began = Instant::now();
        while began.elapsed() < patience {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(LOOK);
        }
        None
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// One keep-alive connection, opened when it is needed.
pub struct Client {
    addr: SocketAddr,
    key: String,
    open: Option<SendRequest<Full<Bytes>>>,
    /// Time limit of an answer; a later one counts as lost.
    pub patience: Duration,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null if it is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Failure to get an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost {
    /// There was no connection: the request was never sent.
    Unsent,
    /// The connection broke: the outcome of the request is unknown.
    Unknown,
}

impl Client {
    /// A connection to `addr` with `key`, not opened yet.
    pub fn new(addr: SocketAddr, key: &str) -> Self {
        Self {
            addr,
            key: key.to_owned(),
            open: None,
            patience: ANSWER_MAX,
        }
    }

    /// GETs `path`; the daemon must answer.
    pub async fn get(&mut self, path: &str) -> Answer {
        let request = self.request("GET", path).body(Full::default()).unwrap();
        self.call(request).await.unwrap()
    }

    /// Sends an event to `hook`.
    pub async fn post(
        &mut self,
        hook: &str,
        body: Bytes,
        idempotency_key: Option<&str>,
    ) -> Result<Answer, Lost> {
        let mut request = self.request("POST", &format!("/in/{hook}"));
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let request = request.header("content-type", "application/json");
        self.call(request.body(Full::new(body)).unwrap()).await
    }

    fn request(&self, method: &str, path: &str) -> hyper::http::request::Builder {
        hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.addr.to_string())
            .header("authorization", format!("Bearer {}", self.key))
    }

    async fn call(&mut self, request: hyper::Request<Full<Bytes>>) -> Result<Answer, Lost> {
        let mut open = match self.open.take() {
            Some(open) if !open.is_closed() => open,
            _ => self.connect().await.ok_or(Lost::Unsent)?,
        };
        let answer = async {
            let answer = open.send_request(request).await?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Answer { status, body })
        };
        let answer = tokio::time::timeout(self.patience, answer).await;
        let answer = answer.ok().and_then(Result::ok).ok_or(Lost::Unknown)?;
        // The connection is ready again once its task has seen the end of the answer.
        if open.ready().await.is_ok() {
            self.open = Some(open);
        }
        Ok(answer)
    }

    async fn connect(&self) -> Option<SendRequest<Full<Bytes>>> {
        let stream = tokio::net::TcpStream::connect(self.addr).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (open, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(open)
    }
}
