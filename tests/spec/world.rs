//! A daemon with a key of each kind, and requests to it byte by byte.
//!
//! Sends any request, also ones that no client would send, and shows the whole answer. Each request has
//! its own connection. Uses nothing of hooklane's code.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::daemon::{Daemon, Home, Setup};

/// Time limit for an answer or anything else that is awaited.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Interval of checks of what must be polled.
const LOOK: Duration = Duration::from_millis(10);

/// A home with a running daemon and keys for all of its hooks.
pub struct World {
    /// Its home.
    pub home: Home,
    /// A key that posts to every hook.
    pub write: String,
    /// A key that reads every hook.
    pub read: String,
    /// A key that does everything.
    pub admin: String,
    /// The daemon; taken by tests that stop it.
    pub daemon: Option<Daemon>,
    /// True if the log may contain errors.
    pub may_complain: bool,
}

impl World {
    /// A new world with the hooks of a TOML text, and files beside it.
    pub fn new(setup: Setup, files: &[(&str, &str)], hooks: &str) -> Self {
        Self::at(Home::new(setup), files, hooks)
    }

    /// A new world in a prepared home.
    pub fn at(home: Home, files: &[(&str, &str)], hooks: &str) -> Self {
        for (name, text) in files {
            home.write(name, text);
        }
        // Commands reach a server's database only through a node.
        let daemon = home.servers.as_ref().map(|_| home.start());
        home.apply(hooks);
        Self {
            write: home.key("write"),
            read: home.key("read"),
            admin: home.run(&["keys", "create", "--type", "admin", "--name", "ops"]),
            daemon: daemon.or_else(|| Some(home.start())),
            may_complain: false,
            home,
        }
    }

    /// Starts the daemon again; the one before must be gone.
    pub fn restart(&mut self) {
        self.daemon = Some(self.home.start());
    }

    /// Kills the daemon with -9.
    pub fn kill(&mut self) {
        self.daemon.take().unwrap().kill();
    }

    /// Sends a request.
    pub fn ask(&self, ask: &Ask) -> Reply {
        send(self.home.addr, &ask.bytes())
    }

    /// Posts an event.
    pub fn post(&self, hook: &str, body: impl AsRef<[u8]>) -> Reply {
        self.ask(&Ask::post(hook).key(&self.write).body(body))
    }

    /// Posts an event that must be accepted as a new one.
    pub fn accepted(&self, hook: &str, body: impl AsRef<[u8]>) -> Value {
        let reply = self.post(hook, body);
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.json()
    }

    /// Reads with the read key.
    pub fn get(&self, path: &str) -> Reply {
        self.ask(&Ask::new("GET", path).key(&self.read))
    }

    /// Asks the admin API.
    pub fn admin(&self, method: &str, path: &str, body: &Value) -> Reply {
        let ask = Ask::new(method, path).key(&self.admin);
        self.ask(&match body {
            Value::Null => ask,
            body => ask
                .header("content-type", "application/json")
                .body(body.to_string()),
        })
    }

    /// The state of `HOOK` or `HOOK/KEY` once `seq` is in it.
    pub fn state(&self, stream: &str, seq: i64) -> Value {
        let path = state_path(stream);
        let reply = self.get(&format!("{path}&min_seq={seq}&wait=60s"));
        assert_eq!(reply.status, 200, "{reply:?}\n{}", self.home.log());
        reply.json()["state"].take()
    }

    /// The row of the stream's only cursor.
    pub fn cursor(&self, stream: &str) -> Value {
        let stream = encoded(stream);
        let path = format!("/v1/admin/streams/show?stream={stream}");
        self.admin("GET", &path, &Value::Null).json()["cursors"][0].take()
    }

    /// Waits until the stream's cursor is held, and gives its row.
    pub fn held(&self, stream: &str) -> Value {
        until(|| Some(self.cursor(stream)).filter(|row| row["condition"] == "held"))
    }

    /// Revokes a key by its text.
    pub fn revoke(&self, key: &str) {
        let id = &key["hl_w_".len()..][..8];
        let path = format!("/v1/admin/keys/k_{id}");
        let reply = self.admin("DELETE", &path, &Value::Null);
        assert_eq!(reply.status, 200, "{reply:?}");
    }
}

impl Drop for World {
    /// Checks that the log has no panic and no internal failure.
    fn drop(&mut self) {
        let log = self.home.log();
        let complains = log.contains("\"ERROR\"") && !self.may_complain;
        let is_clean = !log.contains("panicked") && !complains;
        assert!(std::thread::panicking() || is_clean, "{log}");
    }
}

/// Path of the state of `HOOK` or `HOOK/KEY`; a query can be added with `&`.
pub fn state_path(stream: &str) -> String {
    let (hook, key) = stream.split_once('/').unwrap_or((stream, ""));
    format!("/v1/hooks/{hook}/state?stream={}", encoded(key))
}

/// Text percent-encoded for a query.
pub fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Calls `look` until it returns something.
pub fn until<T>(look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, look).expect("it never came")
}

/// Calls `look` until it returns something; `None` after the time limit.
pub fn within<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if began.elapsed() > patience {
            return None;
        }
        std::thread::sleep(LOOK);
    }
}

/// Exit status and output of a command, which must end in time and print little.
pub fn ended(command: &mut Command) -> Output {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let ended = within(PATIENCE, || child.try_wait().unwrap());
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    assert!(ended.is_some(), "it goes on: {output:?}");
    output
}

/// A request as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Ask {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Ask {
    /// A request without headers, except for those every request has.
    pub fn new(method: &str, path: &str) -> Self {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        Self {
            head: head.into_bytes(),
            body: Vec::new(),
        }
    }

    /// An event for `hook`, or for `HOOK/KEY` with a key in the path.
    pub fn post(hook: &str) -> Self {
        Self::new("POST", &format!("/in/{hook}"))
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.head.extend_from_slice(name.as_bytes());
        self.head.extend_from_slice(b": ");
        self.head.extend_from_slice(value.as_ref());
        self.head.extend_from_slice(b"\r\n");
        self
    }

    /// The same with a key in the usual header.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        self.header("authorization", format!("Bearer {key}"))
    }

    /// The same with a body and its length.
    #[must_use]
    pub fn body(self, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut ask = self.header("content-length", body.len().to_string());
        ask.body = body.to_vec();
        ask
    }

    /// The same with a body in chunks.
    #[must_use]
    pub fn chunks(self, pieces: &[&[u8]]) -> Self {
        let mut ask = self.header("transfer-encoding", "chunked");
        for piece in pieces {
            ask.body
                .extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            ask.body.extend_from_slice(piece);
            ask.body.extend_from_slice(b"\r\n");
        }
        ask.body.extend_from_slice(b"0\r\n\r\n");
        ask
    }

    /// The bytes as they are sent.
    pub fn bytes(&self) -> Vec<u8> {
        [&self.head[..], b"\r\n", &self.body].concat()
    }
}

/// An answer.
#[derive(Clone, PartialEq)]
pub struct Reply {
    /// The status code; 0 when the connection ended without an answer.
    pub status: u16,
    /// The lines of the head after the first.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{} {:?} {body}", self.status, self.headers)
    }
}

impl Reply {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header; empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(given, _)| given == name);
        found.map_or("", |(_, value)| value)
    }

    /// The error code; checks the form that all errors have.
    pub fn code(&self) -> String {
        let json = self.json();
        let error = &json["error"];
        let texts = [&error["code"], &error["message"]];
        let is_error = texts
            .iter()
            .all(|text| text.as_str().is_some_and(|t| !t.is_empty()));
        assert!(is_error, "no error in our words: {self:?}");
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        error["code"].as_str().unwrap().to_owned()
    }
}

/// Sends bytes as they are and reads what comes back until the connection ends.
pub fn send(addr: SocketAddr, bytes: &[u8]) -> Reply {
    let mut stream = open(addr);
    // After an early refusal the rest cannot be sent; only the answer counts.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    reply(bytes, &answer)
}

/// Sends bytes and no more after them.
pub fn send_and_leave(addr: SocketAddr, bytes: &[u8]) -> Reply {
    let mut stream = open(addr);
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    reply(bytes, &answer)
}

fn open(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads the answer to a request; the answer to a HEAD names a length and has no body.
fn reply(request: &[u8], answer: &[u8]) -> Reply {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = head.parse(answer) else {
        assert!(answer.is_empty(), "half an answer: {answer:?}");
        return Reply {
            status: 0,
            headers: Vec::new(),
            body: Vec::new(),
        };
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: Vec<_> = (head.headers.iter())
        .map(|header| (header.name.to_lowercase(), text(header.value)))
        .collect();
    let reply = Reply {
        status: head.code.unwrap(),
        headers,
        body: answer[length..].to_vec(),
    };
    let said: Option<usize> = reply.header("content-length").parse().ok();
    let said = said.filter(|_| !request.starts_with(b"HEAD "));
    let sent = said.unwrap_or(reply.body.len());
    assert_eq!(sent, reply.body.len(), "{reply:?}");
    reply
}

/// Server-sent events, as they come.
pub struct Watcher {
    lines: BufReader<TcpStream>,
    /// True if the answer ended properly.
    pub has_ended: bool,
}

impl Watcher {
    /// Begins to watch what a GET of `path` with `key` shows.
    pub fn new(addr: SocketAddr, path: &str, key: &str) -> Self {
        Self::of(addr, Ask::new("GET", path).key(key))
    }

    /// Begins to watch the answer to a request.
    pub fn of(addr: SocketAddr, ask: Ask) -> Self {
        let mut stream = open(addr);
        stream.write_all(&ask.bytes()).unwrap();
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.contains(" 200 "), "{line}");
        while line != "\r\n" {
            line.clear();
            lines.read_line(&mut line).unwrap();
        }
        Self {
            lines,
            has_ended: false,
        }
    }
}

impl Iterator for Watcher {
    type Item = Value;

    /// The data of the next event; `None` at the end.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        loop {
            line.clear();
            let length = self.lines.read_line(&mut line).unwrap();
            if let Some(data) = line.strip_prefix("data:") {
                return Some(serde_json::from_str(data.trim()).unwrap());
            }
            self.has_ended |= line == "0\r\n";
            if length == 0 {
                return None;
            }
        }
    }
}
