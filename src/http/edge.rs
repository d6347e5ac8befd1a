//! Accepts connections and passes requests on, however badly clients behave.
//!
//! It handles the listener, proxies and TLS, time-outs and limits of every connection, and stopping; the
//! given service interprets requests. HTTP/1.1 only. Promises: a client that is slow, silent or hostile uses up only
//! its own connections and delays no one else; a panic ends one connection; when files run out,
//! accepting pauses and everything else goes on.

mod certificate;
mod crowd;
mod entrance;
mod forwarded;
mod framing;
mod head;
#[cfg(test)]
mod hostile;
mod limits;
mod listener;
mod patience;
mod proxy;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use http::Request;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tracing::{error, warn};

pub use certificate::{Certificate, Fault, Files};
pub use crowd::Admission;
pub use entrance::Entrance;
pub use limits::Limits;
pub use listener::{Listener, Peer};

use super::error::Error;
use crate::metrics::{Metrics, TurnedAway};
use crowd::{Crowd, Seat, Visit};
use listener::Stream;
use patience::{Course, Patient};

/// Pause of accepting when the system has no more files or memory for connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers every request on `listener` with `service` until `stop` resolves. Then it stops accepting,
/// closes idle connections, and returns when running requests are answered or [`Limits::stop`] has
/// passed. Endless answers must watch for the stop themselves, and write regularly, because only a
/// failed write reveals that a client is gone.
pub async fn serve<S, F>(
    listener: Listener,
    entrance: Entrance,
    limits: Limits,
    metrics: Arc<Metrics>,
    service: S,
    stop: impl Future<Output = ()>,
) where
    S: Fn(Request<Incoming>, Peer, Admission) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let (stopping, stop_seen) = watch::channel(false);
    let door = Door::new(entrance, limits, metrics, stop_seen);
    let mut open = JoinSet::new();
    let mut stop = pin!(stop);
    let mut is_failing = false;
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = open.join_next() => door.note(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    is_failing = false;
                    if let Some(seat) = door.admit(&stream, peer) {
                        let conversation = door.converse(stream, peer, seat.clone(), service.clone());
                        seat.served_by(open.spawn(conversation));
                    }
                }
                Err(error) => door.survive(&error, &mut is_failing).await,
            },
        }
    }
    drop(listener);
    stopping.send_replace(true);
    door.close(open).await;
}

/// State shared by all connections of one listener.
struct Door {
    http: http1::Builder,
    entrance: Arc<Entrance>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    crowd: Arc<Crowd>,
    /// Answer to a connection that is turned away.
    turned_away: String,
    stop_seen: watch::Receiver<bool>,
}

impl Door {
    fn new(
        entrance: Entrance,
        limits: Limits,
        metrics: Arc<Metrics>,
        stop_seen: watch::Receiver<bool>,
    ) -> Self {
        let mut http = http1::Builder::new();
        // Hyper's own limit of 100 headers stays; changing it would cost an allocation per request.
        http.max_buf_size(limits.head_max.max(8 * 1024))
            .max_header_size(limits.head_max)
            .half_close(true);
        let limits = Arc::new(limits);
        Self {
            http,
            entrance: Arc::new(entrance),
            crowd: Crowd::new(limits.clone(), metrics.clone()),
            turned_away: no_place().as_bytes_sent(),
            limits,
            metrics,
            stop_seen,
        }
    }

    /// A seat for the connection, unless it is turned away.
    fn admit(&self, stream: &Stream, peer: Peer) -> Option<Arc<Seat>> {
        let seat = match peer.is_welcome() {
            true => self.crowd.seat(peer, self.entrance.carried(peer)),
            false => Err(TurnedAway::User),
        };
        match seat {
            Ok(seat) => {
                self.metrics.connections_accepted.inc();
                Some(seat)
            }
            Err(reason) => {
                self.metrics.turned_away(reason);
                // A client that begins with TLS would not understand the answer.
                if self.entrance.certificate.is_none() {
                    let _ = stream.try_write(self.turned_away.as_bytes());
                }
                None
            }
        }
    }

    /// Serves the requests of one connection, one after the other.
    fn converse<S, F>(
        &self,
        stream: Stream,
        peer: Peer,
        seat: Arc<Seat>,
        service: S,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        S: Fn(Request<Incoming>, Peer, Admission) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let mut stop_seen = self.stop_seen.clone();
        let http = self.http.clone();
        let (limits, metrics) = (self.limits.clone(), self.metrics.clone());
        let (entrance, crowd) = (self.entrance.clone(), self.crowd.clone());
        async move {
            let (stream, peer) = match entrance.asks(peer) {
                false => (stream, peer),
                true => {
                    // Boxed, so that connections without TLS take no memory for it.
                    let opening = entrance.open(stream, peer, &seat, (&limits, &metrics));
                    let opened = tokio::select! {
                        opened = Box::pin(opening) => opened,
                        _ = stop_seen.wait_for(|is_stopping| *is_stopping) => None,
                    };
                    let Some(opened) = opened else {
                        return;
                    };
                    opened
                }
            };
            let course = Arc::new(Course::default());
            let io = Patient::new(stream, course.clone(), limits, metrics);
            let answers = course.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let refused = answers.refused();
                answers.turn();
                let is_seated = seat.begins_request();
                let place = (answers.clone(), seat.clone());
                let (answer, visit) = match refused {
                    Some(refused) => (Err(refused), None),
                    None if !is_seated => (Err(no_place()), None),
                    None => match entrance.visitor(&crowd, peer, request.headers()) {
                        Ok((sender, visit)) => {
                            let admission = Admission(seat.clone());
                            (Ok(service(request, sender, admission)), visit)
                        }
                        Err(refused) => (Err(refused), None),
                    },
                };
                async move {
                    let response = match answer {
                        Ok(answer) => answer.await,
                        Err(refused) => refused.into_response(),
                    };
                    Ok::<_, Infallible>(response.map(|body| Answer {
                        body,
                        place,
                        _visit: visit,
                    }))
                }
            });
            let mut conversation = pin!(http.serve_connection(TokioIo::new(io), service));
            // The metrics record how it ended; errors here are the client's.
            tokio::select! {
                biased;
                _ = &mut conversation => return,
                _ = stop_seen.wait_for(|is_stopping| *is_stopping) => {}
            }
            course.stop();
            conversation.as_mut().graceful_shutdown();
            let _ = conversation.await;
        }
    }

    /// Handles a failed accept, with a pause if the next one would fail too.
    async fn survive(&self, error: &io::Error, is_failing: &mut bool) {
        use io::ErrorKind::{
            ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, NotConnected,
        };
        self.metrics.accept_errors.inc();
        // These errors concern one connection that is already gone.
        if let ConnectionAborted | ConnectionReset | Interrupted | InvalidInput | NotConnected =
            error.kind()
        {
            return;
        }
        if !std::mem::replace(is_failing, true) {
            warn!(%error, "cannot accept connections, trying on");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }

    /// Waits for the remaining connections, and aborts them when the time is up.
    async fn close(&self, mut open: JoinSet<()>) {
        let all = async {
            while let Some(ended) = open.join_next().await {
                self.note(ended);
            }
        };
        if tokio::time::timeout(self.limits.stop, all).await.is_err() {
            warn!(
                connections = open.len(),
                "connections cut off while stopping"
            );
            open.shutdown().await;
        }
    }

    fn note(&self, ended: Result<(), JoinError>) {
        if let Err(failure) = ended
            && failure.is_panic()
        {
            self.metrics.connections_panicked.inc();
            error!(%failure, "a connection ended in a panic");
        }
    }
}

/// Body of an answer; dropping it tells the connection that the answer has been sent.
struct Answer {
    body: axum::body::Body,
    place: (Arc<Course>, Arc<Seat>),
    _visit: Option<Visit>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        let (course, seat) = &self.place;
        course.turn();
        seat.ends_request();
    }
}

/// Answer when there are too many connections.
fn no_place() -> Error {
    let message = "there are as many connections as there may be";
    Error::unavailable("too_many_connections", message, 1)
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
