//! A destination of deliveries: an HTTP server in a thread of this process that counts what it gets.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::requests;

/// Time limit for everything to arrive.
const ARRIVE_MAX: Duration = Duration::from_secs(120);

/// Name of a field that each event of a batch has, and no single event.
const IN_BATCH: &[u8] = b"\"received_at\":";

/// Answers of a sink.
#[derive(Clone, Copy)]
pub enum Answers {
    /// Each request is answered after this time.
    After(Duration),
    /// No request is ever answered.
    Never,
}

/// A running sink. It ends with the process.
pub struct Sink {
    addr: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    events: AtomicU64,
    /// Time at which each event came, by its number, if it came alone.
    at: Mutex<HashMap<u32, Instant>>,
}

impl Sink {
    pub fn start(answers: Answers) -> Self {
        let seen = Arc::<Seen>::default();
        let (told, tells) = mpsc::channel();
        let notes = Arc::clone(&seen);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let notes = Arc::clone(&notes);
                    let answer = move |request| answer(request, answers, Arc::clone(&notes));
                    let service = hyper::service::service_fn(answer);
                    let http = hyper::server::conn::http1::Builder::new();
                    tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
                }
            });
        });
        Self {
            addr: tells.recv().unwrap(),
            seen,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.addr)
    }

    /// Waits until so many events have come in all.
    pub fn wait_for(&self, events: u64) {
        let began = Instant::now();
        while self.seen.events.load(Ordering::Relaxed) < events {
            let came = self.seen.events.load(Ordering::Relaxed);
            assert!(
                began.elapsed() < ARRIVE_MAX,
                "{came} of {events} deliveries came"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Time at which each event came that came alone, by its number.
    pub fn arrivals(&self) -> HashMap<u32, Instant> {
        self.seen.at.lock().unwrap().clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: Answers,
    seen: Arc<Seen>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    if let Ok(body) = request.into_body().collect().await {
        let body = body.to_bytes();
        let in_batch = body.windows(IN_BATCH.len()).filter(|at| *at == IN_BATCH);
        let events = in_batch.count().max(1) as u64;
        if let Some(number) = requests::number(&body) {
            let mut at = seen.at.lock().unwrap();
            at.entry(number).or_insert_with(Instant::now);
        }
        match answers {
            Answers::After(time) if time.is_zero() => {}
            Answers::After(time) => tokio::time::sleep(time).await,
            Answers::Never => std::future::pending().await,
        }
        seen.events.fetch_add(events, Ordering::Relaxed);
    }
    Ok(Response::new(Empty::new()))
}
