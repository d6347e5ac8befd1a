//! The HTTP client of deliveries. It reuses connections, checks addresses when it connects, does not
//! follow redirects, and ignores proxy settings of the environment.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tower_service::Service;

use super::guard::Guard;
use crate::trust;

/// Time for which an idle connection is kept.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Number of idle connections kept for a destination at most.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// Size limit for reading an answer's body, in bytes: enough for the position up to which a batch is
/// acknowledged.
pub const ANSWER_MAX: usize = 16 * 1024;

/// Answer of a destination; a body over [`ANSWER_MAX`] is dropped.
pub type Answer = Response<Bytes>;

/// Cause for which a request has no answer. The destination may have acted on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The timeout passed.
    #[error("no answer within {}", crate::text::duration(*.0))]
    TimedOut(Duration),
    /// No connection could be made, or it broke.
    #[error("{0}")]
    Failed(String),
}

/// Sends requests to destinations. Clones share connections.
#[derive(Clone)]
pub struct Client {
    inner: legacy::Client<HttpsConnector<Connector>, Full<Bytes>>,
}

impl Client {
    /// A client that connects to addresses that `guard` permits. If the machine has no trusted root
    /// certificates, https fails.
    pub fn new(guard: Guard) -> Self {
        let tls = trust::tls().unwrap_or_else(|error| {
            tracing::warn!(%error, "destinations with https cannot be reached");
            trust::nobody()
        });
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector(Arc::new(guard)));
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { inner }
    }

    /// Sends a request and reads the answer within `time`. Dropping the future closes the connection;
    /// the destination may have acted.
    ///
    /// # Errors
    /// [`Error`]: nothing is known of what the destination has done.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        time: Duration,
    ) -> Result<Answer, Error> {
        let answer = timeout(time, self.exchange(request)).await;
        answer.unwrap_or(Err(Error::TimedOut(time)))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        let answer = self.inner.request(request).await.map_err(|e| failed(&e))?;
        let (head, body) = answer.into_parts();
        match Limited::new(body, ANSWER_MAX).collect().await {
            Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
            // The status decides; a body this long is not needed.
            Err(error) if error.is::<LengthLimitError>() => {
                Ok(Response::from_parts(head, Bytes::new()))
            }
            Err(error) => Err(failed(&*error)),
        }
    }
}

/// The innermost cause of an error; the outer ones only say "client error (Connect)".
fn failed(error: &(dyn std::error::Error + 'static)) -> Error {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Error::Failed(cause.to_string())
}

/// Connects to those addresses of a host that the guard permits.
#[derive(Clone)]
struct Connector(Arc<Guard>);

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let guard = self.0.clone();
        Box::pin(async move { Ok(TokioIo::new(connect(&guard, &uri).await?)) })
    }
}

async fn connect(guard: &Guard, uri: &Uri) -> io::Result<TcpStream> {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let default = match uri.scheme_str() {
        Some("https") => 443,
        _ => 80,
    };
    let port = uri.port_u16().unwrap_or(default);
    let found: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    let (let_through, denied): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|address| guard.lets(address.ip()));
    let mut refused = match denied.first() {
        Some(address) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{} is not a public address; to allow it: hooklane serve --allow-destination {}",
                address.ip(),
                address.ip()
            ),
        ),
        None => io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
    };
    for address in let_through {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Otherwise Nagle's algorithm delays the end of a small request until its beginning is
                // acknowledged.
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => refused = error,
        }
    }
    Err(refused)
}
