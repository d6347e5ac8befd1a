//! A destination: a real HTTP server that logs requests and answers as configured.
//!
//! Each connection has a thread. The log has the requests in the order in which their last bytes
//! arrived, so its evidence of order and of requests in flight is independent of hooklane.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Vec<u8>,
    /// Requests of the same stream that were unanswered when it came, with itself.
    pub in_flight: usize,
    /// True once a 2xx was sent.
    pub is_acknowledged: bool,
}

impl Seen {
    /// A header; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The stream it is about.
    pub fn stream(&self) -> String {
        self.header("hooklane-stream").to_owned()
    }

    /// The seq of its first event.
    pub fn seq(&self) -> i64 {
        self.header("hooklane-seq").parse().unwrap()
    }

    /// Number of its try.
    pub fn attempt(&self) -> u32 {
        self.header("hooklane-attempt").parse().unwrap()
    }
}

/// Answer to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// With a status.
    Status(u16),
    /// With a status, a header line and a body.
    Full(u16, &'static str, String),
    /// With a 204, after a while.
    Late(Duration),
    /// Never: the connection stays open until this time is over.
    Hang(Duration),
    /// Not at all: the connection is closed.
    Drop,
    /// With half of a 200, then the connection is closed.
    Half,
}

type Judge = dyn Fn(&Seen) -> Answer + Send + Sync;

/// A destination that listens until it is dropped.
pub struct Sink {
    /// Address at which it listens.
    pub addr: SocketAddr,
    log: Arc<Mutex<Vec<Seen>>>,
    has_ended: Arc<AtomicBool>,
    judge: Arc<Mutex<Arc<Judge>>>,
}

impl Sink {
    /// A destination that answers 204 to all requests.
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let log = Arc::<Mutex<Vec<Seen>>>::default();
        let has_ended = Arc::<AtomicBool>::default();
        let accepts: Arc<Judge> = Arc::new(|_: &Seen| Answer::Status(204));
        let judge = Arc::new(Mutex::new(accepts));
        let open = Arc::<Mutex<HashMap<String, usize>>>::default();
        let (shared, ended, judging) = (log.clone(), has_ended.clone(), judge.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (log, judge, open) = (shared.clone(), judging.clone(), open.clone());
                std::thread::spawn(move || while serve(&stream, &log, &judge, &open).is_some() {});
            }
        });
        Self {
            addr,
            log,
            has_ended,
            judge,
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}/hooks", self.addr)
    }

    /// Sets the answer to later requests.
    pub fn answers(&self, judge: impl Fn(&Seen) -> Answer + Send + Sync + 'static) {
        *self.judge.lock() = Arc::new(judge);
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.log.lock().clone()
    }

    /// The seqs of a stream in the order in which they first came.
    pub fn first_deliveries(&self, stream: &str) -> Vec<i64> {
        let mut seqs = Vec::new();
        for seen in self
            .log
            .lock()
            .iter()
            .filter(|seen| seen.stream() == stream)
        {
            if !seqs.contains(&seen.seq()) {
                seqs.push(seen.seq());
            }
        }
        seqs
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.addr);
    }
}

/// Reads a request from a connection; `None` at its end.
fn serve(
    mut stream: &TcpStream,
    log: &Mutex<Vec<Seen>>,
    judge: &Mutex<Arc<Judge>>,
    open: &Mutex<HashMap<String, usize>>,
) -> Option<()> {
    let mut seen = read(stream)?;
    let of = seen.stream();
    seen.in_flight = {
        let mut open = open.lock();
        let in_flight = open.entry(of.clone()).or_default();
        *in_flight += 1;
        *in_flight
    };
    let at = {
        let mut log = log.lock();
        log.push(seen.clone());
        log.len() - 1
    };
    let judge = judge.lock().clone();
    let answer = judge(&seen);
    if let Answer::Late(time) | Answer::Hang(time) = answer {
        std::thread::sleep(time);
    }
    // Recorded before the answer is sent, because the next request may follow at once.
    if let Some(in_flight) = open.lock().get_mut(&of) {
        *in_flight -= 1;
    }
    let (status, header, body) = match answer {
        Answer::Status(status) => (status, "", String::new()),
        Answer::Full(status, header, body) => (status, header, body),
        Answer::Late(_) => (204, "", String::new()),
        Answer::Hang(_) | Answer::Drop => return None,
        Answer::Half => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le");
            return None;
        }
    };
    log.lock()[at].is_acknowledged = (200..300).contains(&status);
    let line = if header.is_empty() {
        String::new()
    } else {
        format!("{header}\r\n")
    };
    let length = if status == 204 {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let head = format!("HTTP/1.1 {status} X\r\n{length}{line}\r\n{body}");
    stream.write_all(head.as_bytes()).ok()
}

fn read(mut stream: &TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut headers);
        if let Ok(httparse::Status::Complete(length)) = head.parse(&bytes) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let headers: BTreeMap<_, _> = (head.headers.iter())
                .map(|header| (header.name.to_lowercase(), text(header.value)))
                .collect();
            let body: usize = headers
                .get("content-length")
                .map_or(0, |text| text.parse().unwrap());
            if bytes.len() >= length + body {
                return Some(Seen {
                    headers,
                    body: bytes[length..length + body].to_vec(),
                    in_flight: 0,
                    is_acknowledged: false,
                });
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}
