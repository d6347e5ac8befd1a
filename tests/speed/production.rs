//! The production set-up: a private Postgres on a real disk, where a sync costs what it costs, and a
//! private Redis. Each world has a database of its own on both.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::postgres::Server;

/// Measures this set-up instead of the embedded one.
pub const FLAG: &str = "--production";

static ON: AtomicBool = AtomicBool::new(false);

/// Measures this set-up from now on.
pub fn choose() {
    ON.store(true, Ordering::Relaxed);
}

/// Whether this set-up is measured.
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// One of two figures: of the embedded set-up, of this one.
pub fn or<T>(embedded: T, production: T) -> T {
    if is_on() { production } else { embedded }
}

/// What a daemon of a new world finds in its environment.
pub fn environment() -> Vec<(&'static str, &'static str)> {
    static SERVERS: LazyLock<(Server, Redis)> =
        LazyLock::new(|| (Server::start_in(Path::new("/var/tmp")), Redis::start()));
    static WORLDS: AtomicU32 = AtomicU32::new(0);
    if !is_on() {
        return Vec::new();
    }
    let (postgres, redis) = &*SERVERS;
    let number = WORLDS.fetch_add(1, Ordering::Relaxed);
    let database = postgres.url("postgres", &postgres.database());
    let hints = format!("redis://127.0.0.1:{}/{number}", redis.port);
    vec![
        ("HOOKLANE_DATABASE", database.leak()),
        ("HOOKLANE_REDIS", hints.leak()),
    ]
}

struct Redis {
    port: u16,
    _guard: Child,
}

impl Redis {
    /// It ends with this process, whose end closes the input of its shell.
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .unwrap()
            .port();
        let guard = format!(
            "redis-server --port {port} --save '' --databases 64 & until redis-cli -p {port} ping; \
             do sleep 0.05; done 2>&1 | grep --line-buffered PONG; cat >/dev/null; kill $!"
        );
        let mut guard = Command::new("sh")
            .args(["-c", &guard])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(guard.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains("PONG") {
            said.clear();
            let read = output.read_line(&mut said).unwrap();
            assert!(read > 0, "no redis-server (apt-get install redis-server)");
        }
        // Its log goes nowhere.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Self {
            port,
            _guard: guard,
        }
    }
}
