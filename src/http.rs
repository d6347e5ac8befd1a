//! The HTTP server: from a connection to a request, from a request to an operation, and from its
//! outcome to an answer.
//!
//! `edge` handles connections and their time-outs, `body` reads bodies, `auth` decides who may do what
//! and `grant` for how long, `error` answers refusals. `receive` takes events, `read` returns states
//! and events, `pull` delivers to consumers, `admin` calls the operations of [`crate::admin`]. HTTP/1.1
//! only.

mod actor;
mod admin;
mod audit;
pub mod auth;
pub mod body;
mod dedupe;
pub mod edge;
pub mod error;
mod feed;
mod grant;
mod handshake;
mod lanes;
mod pull;
mod read;
mod rebuild;
mod receive;
mod snapshot;
mod verify;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Serialize;
use tokio::sync::watch;
use tower_service::Service as _;

use crate::admin::Admin;
use crate::engine::Engine;
use edge::{Admission, Peer};

/// State that every request handler needs. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// Operations of operators.
    pub admin: Admin,
    /// The engine; `None` when a command works on the database without a daemon.
    pub engine: Option<Arc<Engine>>,
    /// Address that the server listens on; `None` without a daemon.
    pub address: Option<SocketAddr>,
    /// Becomes true when endless answers must end.
    pub stopping: watch::Receiver<bool>,
}

/// All routes except `/in/`.
pub fn routes(app: App) -> Router {
    Router::new()
        .merge(read::routes())
        .merge(feed::routes())
        .merge(pull::routes())
        .merge(admin::routes())
        .merge(lanes::routes())
        .merge(audit::routes())
        .merge(rebuild::routes())
        .merge(snapshot::routes())
        .fallback(|| async { error::Error::not_found("there is nothing here") })
        .method_not_allowed_fallback(|| async { error::Error::other_method() })
        .with_state(app)
}

/// Answers one request. Requests under `/in/` bypass the router, because they are the hot path, and its
/// threads do nothing else.
pub async fn answer(
    app: App,
    mut routes: Router,
    mut request: Request<Incoming>,
    peer: Peer,
    admission: Admission,
) -> Response {
    if request.uri().path().starts_with(receive::PATH) {
        return receive::receive(app, request, peer, &admission).await;
    }
    request.extensions_mut().insert(peer);
    request.extensions_mut().insert(admission);
    let call = async move { routes.call(request.map(Body::new)).await };
    let answered = match &app.engine {
        Some(engine) => engine.front.elsewhere(call).await,
        None => Some(call.await),
    };
    match answered {
        Some(Ok(response)) => response.into_response(),
        Some(Err(never)) => match never {},
        None => error::Error::internal().into_response(),
    }
}

/// Answers one request as a daemon would, for a command without one. A user who can open the database
/// is its operator.
pub async fn answer_offline(admin: Admin, request: Request<Bytes>) -> http::Response<Bytes> {
    // Only endless answers wait for it, and those need a daemon.
    let (_, stopping) = watch::channel(false);
    let app = App {
        admin,
        engine: None,
        address: None,
        stopping,
    };
    let mut request = request.map(Body::from);
    let owner = Peer::User(rustix::process::getuid().as_raw());
    request.extensions_mut().insert(owner);
    let (head, body) = match routes(app).call(request).await {
        Ok(response) => response.into_parts(),
        Err(never) => match never {},
    };
    let body = body.collect().await.map(|body| body.to_bytes());
    http::Response::from_parts(head, body.unwrap_or_default())
}

/// A JSON answer that is neither cached nor interpreted as another type.
pub fn json(status: StatusCode, answer: &impl Serialize) -> Response {
    let Ok(body) = serde_json::to_vec(answer) else {
        return error::Error::internal().into_response();
    };
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
