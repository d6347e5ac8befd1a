//! The HTTP client of deliveries: connections are kept and reused, addresses are judged when connecting,
//! redirects are answers like any other, and no proxy of the environment is asked.

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

/// How long a connection is kept that nothing uses.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Connections kept for one destination while nothing uses them.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// The most of an answer that is read, in bytes: enough for the position that a batch is acknowledged to.
pub const ANSWER_MAX: usize = 16 * 1024;

/// A destination's answer, its body cut at [`ANSWER_MAX`].
pub type Answer = Response<Bytes>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The time for the request is over. Whether the destination has acted is not known.
    #[error("no answer within {}", crate::text::duration(*.0))]
    TimedOut(Duration),
    /// No connection, or it broke off. Whether the destination has acted is not known.
    #[error("{0}")]
    Failed(String),
}

/// Sends requests to destinations. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    inner: legacy::Client<HttpsConnector<Connector>, Full<Bytes>>,
}

impl Client {
    /// A client that connects where `guard` lets it. On a machine that trusts no certificate, https fails.
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

    /// Sends one request and reads its answer, all within `time`. Cancel-safe in that a cancelled request closes
    /// its connection; the destination may have acted.
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
            // The status decides; what the long body says is of no use to anybody.
            Err(error) if error.is::<LengthLimitError>() => {
                Ok(Response::from_parts(head, Bytes::new()))
            }
            Err(error) => Err(failed(&*error)),
        }
    }
}

/// The innermost cause, which names what happened; those around it say "client error (Connect)".
fn failed(error: &(dyn std::error::Error + 'static)) -> Error {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Error::Failed(cause.to_string())
}

/// Connects to the addresses of a host that the guard lets through.
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
                // Without this, the end of a small request waits for the acknowledgement of its begin.
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => refused = error,
        }
    }
    Err(refused)
}
