//! The beginning of a TCP connection, before its first request: the header of a trusted proxy, and the
//! TLS handshake.
//!
//! ```text
//!   accepted ──▶ PROXY header ──▶ TLS handshake ──▶ requests
//!                (trusted peers)  (with a certificate)
//! ```
//! Promises: both together take no longer than [`Limits::handshake`]; meanwhile the connection holds a
//! seat as any other. A connection that needs neither passes without a wait.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::certificate::Certificate;
use super::crowd::{Carried, Crowd, Seat, Visit};
use super::limits::Limits;
use super::listener::{Peer, Stream};
use super::proxy::{self, ProxySource};
use crate::domain::network::Networks;
use crate::http::error::Error;
use crate::metrics::{Awaited, Metrics, TurnedAway};

/// First byte of a TLS connection: a record of type handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 0x16;

/// The way in of a listener.
#[derive(Clone, Debug, Default)]
pub struct Entrance {
    /// Proxies whose word about the sender is taken.
    pub trusted: Networks,
    /// True if those proxies begin each connection with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Certificate of the listener; `None` for plain HTTP.
    pub certificate: Option<Arc<Certificate>>,
}

/// Reason why a connection ends before its first request.
#[derive(Debug)]
enum Refused {
    /// The client is gone, or cannot understand an answer.
    Silently(TurnedAway),
    /// The client gets an answer in plain HTTP.
    With(TurnedAway, Error),
}

impl Entrance {
    /// True if the peer is a trusted proxy.
    pub(super) fn trusts(&self, peer: Peer) -> bool {
        match peer {
            Peer::Address(address) => self.trusted.contain(address.ip()),
            Peer::Behind(ip) => self.trusted.contain(ip),
            Peer::User(_) => false,
        }
    }

    /// The requests that a connection of the peer carries.
    pub(super) fn carried(&self, peer: Peer) -> Carried {
        match (self.trusts(peer), self.proxy_protocol) {
            (false, _) => Carried::Own,
            (true, true) => Carried::OneClient,
            (true, false) => Carried::Many,
        }
    }

    /// True if a connection of this peer begins with more than its first request.
    pub(super) fn asks(&self, peer: Peer) -> bool {
        self.certificate.is_some() || self.proxy_protocol && self.trusts(peer)
    }

    /// Leads a connection to its first request: its stream then, and its peer. `None` if it ended; that
    /// has been counted.
    pub(super) async fn open(
        &self,
        stream: Stream,
        peer: Peer,
        seat: &Seat,
        (limits, metrics): (&Limits, &Metrics),
    ) -> Option<(Stream, Peer)> {
        let Stream::Tcp(mut stream) = stream else {
            return Some((stream, peer));
        };
        let deadline = tokio::time::Instant::now() + limits.handshake;
        let greeted = tokio::time::timeout_at(deadline, self.greet(&mut stream, peer, seat)).await;
        let peer = match greeted {
            Err(_) => {
                metrics.timed_out(Awaited::Handshake);
                return None;
            }
            Ok(Err(refused)) => {
                refuse(stream, refused, limits.linger, metrics).await;
                return None;
            }
            Ok(Ok(peer)) => peer,
        };
        let Some(certificate) = &self.certificate else {
            return Some((Stream::Tcp(stream), peer));
        };
        let secured = tokio::time::timeout_at(deadline, certificate.acceptor().accept(stream));
        match secured.await {
            Err(_) => metrics.timed_out(Awaited::Handshake),
            Ok(Err(error)) => {
                tracing::debug!(%error, ?peer, "a TLS handshake failed");
                metrics.turned_away(TurnedAway::Tls);
            }
            Ok(Ok(stream)) => return Some((Stream::Tls(Box::new(stream)), peer)),
        }
        None
    }

    /// Reads the header of a trusted proxy, and finds out if TLS follows. The peer is its client then.
    async fn greet(
        &self,
        stream: &mut TcpStream,
        peer: Peer,
        seat: &Seat,
    ) -> Result<Peer, Refused> {
        let peer = match self.proxy_protocol && self.trusts(peer) {
            true => self.client(stream, peer, seat).await?,
            false => peer,
        };
        if self.certificate.is_some() {
            let mut first = [0];
            match stream.peek(&mut first).await {
                Ok(1) if first[0] == HANDSHAKE => {}
                Ok(1) => return Err(Refused::With(TurnedAway::Plain, speaks_tls())),
                Ok(_) | Err(_) => return Err(Refused::Silently(TurnedAway::Tls)),
            }
        }
        Ok(peer)
    }

    async fn client(
        &self,
        stream: &mut TcpStream,
        peer: Peer,
        seat: &Seat,
    ) -> Result<Peer, Refused> {
        let told = proxy::read(stream).await;
        let told = told.map_err(|_| Refused::Silently(TurnedAway::Proxy))?;
        match told {
            Some(ProxySource::Client(ip)) => {
                let peer = Peer::Behind(ip.to_canonical());
                seat.is_of(peer)
                    .map_err(|reason| self.refused(reason, super::no_place()))?;
                Ok(peer)
            }
            Some(ProxySource::Unnamed) => Ok(peer),
            None => {
                tracing::debug!(
                    ?peer,
                    "a trusted proxy sent no header of the PROXY protocol"
                );
                Err(self.refused(TurnedAway::Proxy, needs_header()))
            }
        }
    }

    /// A client that begins with TLS would not understand the answer.
    fn refused(&self, reason: TurnedAway, error: Error) -> Refused {
        match self.certificate {
            Some(_) => Refused::Silently(reason),
            None => Refused::With(reason, error),
        }
    }

    /// The sender of a request from `peer`, and its place among the requests of that sender if `peer` only
    /// passed it on.
    ///
    /// # Errors
    /// 400 if a trusted proxy does not name its client clearly; 503 if the sender has too many requests.
    pub(super) fn visitor(
        &self,
        crowd: &Arc<Crowd>,
        peer: Peer,
        headers: &http::HeaderMap,
    ) -> Result<(Peer, Option<Visit>), Error> {
        let sender = self.sender(peer, headers)?;
        match sender == peer {
            true => Ok((peer, None)),
            false => Ok((
                sender,
                Some(crowd.visit(sender).map_err(|_| super::no_place())?),
            )),
        }
    }

    fn sender(&self, peer: Peer, headers: &http::HeaderMap) -> Result<Peer, Error> {
        let Some(ip) = peer.ip().filter(|_| self.trusts(peer)) else {
            return Ok(peer);
        };
        match super::forwarded::sender(headers, ip, &self.trusted) {
            Ok(sender) if is_same(sender, ip) => Ok(peer),
            Ok(sender) => Ok(Peer::Behind(sender)),
            Err(unclear) => Err(Error::malformed(unclear.to_string())),
        }
    }
}

fn is_same(one: IpAddr, other: IpAddr) -> bool {
    one.to_canonical() == other.to_canonical()
}

/// Ends a connection, after an answer if the client can understand it. It waits a short time for bytes
/// that are still on their way, because these would make the system drop the answer.
async fn refuse(mut stream: TcpStream, refused: Refused, linger: Duration, metrics: &Metrics) {
    let (reason, error) = match refused {
        Refused::Silently(reason) => (reason, None),
        Refused::With(reason, error) => (reason, Some(error)),
    };
    metrics.turned_away(reason);
    let Some(error) = error else {
        return;
    };
    let answer = async {
        stream.write_all(error.as_bytes_sent().as_bytes()).await?;
        stream.shutdown().await?;
        let mut waste = [0; 4096];
        while stream.read(&mut waste).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(linger, answer).await;
}

/// Answer to plain HTTP where TLS is spoken.
fn speaks_tls() -> Error {
    let message = "this port speaks TLS: use https://";
    Error::closing(StatusCode::BAD_REQUEST, "tls_required", message)
}

/// Answer to a trusted proxy without its header.
fn needs_header() -> Error {
    let message = "a trusted proxy begins its connections with a header of the PROXY protocol here, and this one did not";
    Error::closing(StatusCode::BAD_REQUEST, "proxy_header", message)
        .hint("let the proxy send it, or start the node without --proxy-protocol")
}
