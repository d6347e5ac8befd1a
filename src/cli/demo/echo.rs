//! The destination of the demo: it takes what is delivered, notes the order, and fails for one stream for a while.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::domain::name::StreamName;

/// A destination that listens until it is dropped.
pub struct Echo {
    /// Address that it listens on.
    pub addr: SocketAddr,
    noted: Arc<Mutex<Noted>>,
    accepting: JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[derive(Default)]
struct Noted {
    /// Seqs of each stream in the order of their first acknowledgement.
    first: HashMap<String, Vec<i64>>,
    /// The stream for which it fails.
    fails_for: Option<String>,
    failures: u64,
}

impl Noted {
    /// Status of the answer to a request about one event.
    fn answer(&mut self, stream: &str, seq: i64) -> StatusCode {
        if self.fails_for.as_deref() == Some(stream) {
            self.failures += 1;
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let first = self.first.entry(stream.to_owned()).or_default();
        if first.last().is_none_or(|last| seq > *last) {
            first.push(seq);
        }
        StatusCode::NO_CONTENT
    }
}

impl Echo {
    /// Listens on a port of this machine.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let noted = Arc::<Mutex<Noted>>::default();
        let accepting = tokio::spawn(accept(listener, noted.clone()));
        Ok(Self {
            addr,
            noted,
            accepting,
        })
    }

    /// Answers 503 to what comes of a stream from now on; of none, to nothing.
    pub fn fail_for(&self, stream: Option<&StreamName>) {
        self.noted.lock().fails_for = stream.map(ToString::to_string);
    }

    /// Number of events of a stream that it has acknowledged.
    pub fn delivered(&self, stream: &StreamName) -> u64 {
        let noted = self.noted.lock();
        let first = noted.first.get(&stream.to_string());
        first.map_or(0, |first| first.len() as u64)
    }

    /// Number of requests that it has failed.
    pub fn failures(&self) -> u64 {
        self.noted.lock().failures
    }

    /// Everything that is wrong with what came of a stream of so many events; empty when all is right.
    pub fn troubles(&self, stream: &StreamName, events: u64) -> Vec<String> {
        let noted = self.noted.lock();
        let first = noted.first.get(&stream.to_string());
        let first = first.map_or(&[][..], Vec::as_slice);
        let mut troubles = Vec::new();
        if first.len() as u64 != events {
            troubles.push(format!(
                "{stream}: {} events were delivered, {events} were accepted",
                first.len()
            ));
        }
        let wrong = (1..).zip(first).find(|(due, seq)| due != *seq);
        if let Some((due, seq)) = wrong {
            troubles.push(format!(
                "{stream}: seq {seq} was delivered where {due} was due"
            ));
        }
        troubles
    }
}

async fn accept(listener: TcpListener, noted: Arc<Mutex<Noted>>) {
    while let Ok((connection, _)) = listener.accept().await {
        let noted = noted.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &noted));
            let served = http1::Builder::new().serve_connection(TokioIo::new(connection), service);
            // A connection that breaks is the sender's to notice.
            let _ = served.await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    noted: &Mutex<Noted>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let header = |name: &str| {
        let value = request.headers().get(name);
        let text = value.and_then(|value| value.to_str().ok());
        text.unwrap_or_default().to_owned()
    };
    let (stream, seq) = (header("hooklane-stream"), header("hooklane-seq"));
    let _ = request.into_body().collect().await;
    let status = noted.lock().answer(&stream, seq.parse().unwrap_or(0));
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_delivered_out_of_order_or_not_at_all_is_a_trouble() {
        let echo = Echo::start().await.unwrap();
        let stream: StreamName = "orders/c07".parse().unwrap();
        let note = |seq| echo.noted.lock().answer("orders/c07", seq);
        echo.fail_for(Some(&stream));
        assert_eq!(note(1), StatusCode::SERVICE_UNAVAILABLE);
        echo.fail_for(None);
        for seq in [1, 2, 2, 1, 3] {
            assert_eq!(note(seq), StatusCode::NO_CONTENT);
        }
        assert_eq!(echo.troubles(&stream, 3), Vec::<String>::new());
        assert_eq!((echo.delivered(&stream), echo.failures()), (3, 1));
        assert_eq!(echo.troubles(&stream, 4).len(), 1);
        note(5);
        assert_eq!(echo.troubles(&stream, 4).len(), 1, "4 is missing");
    }
}
