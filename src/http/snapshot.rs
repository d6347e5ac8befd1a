//! Routes of the dashboard: the latest snapshot of a namespace, and its changes once a second,
//! compressed for clients that accept it.

use std::convert::Infallible;
use std::io::Write as _;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::response::{Response, sse};
use axum::routing::get;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{StreamExt as _, stream};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;

use super::admin::Answer;
use super::auth::{Access, who};
use super::error::Error;
use super::grant::Grant;
use super::read::{Params, name, server_sent};
use super::{App, json};
use crate::api::{Viewer, Window};
use crate::domain::name::Name;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/admin/snapshot", get(snapshot))
        .route("/v1/admin/snapshot/live", get(live))
}

/// Extractor for a client that may see everything and may be allowed to act.
struct Sees(Viewer, Grant);

impl FromRequestParts<App> for Sees {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        let access = Access::from_request_parts(parts, app).await?;
        match access {
            Access::Nobody => Err(Error::unauthorized()),
            access if access.may_read(None) || access.may_admin() => Ok(Self(
                Viewer {
                    name: who(access, parts, app),
                    may_act: access.may_admin(),
                },
                Grant::of(access, app),
            )),
            _ => Err(Error::forbidden("this key may not see all hooks")
                .hint("needs a read key for all hooks, an admin key, or the socket")),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfNamespace {
    namespace: Option<String>,
    #[serde(default)]
    window: Window,
}

impl OfNamespace {
    fn namespace(&self) -> Result<Name, Error> {
        let namespace = name(self.namespace.as_deref())?;
        Ok(namespace.unwrap_or_else(Name::default_namespace))
    }
}

async fn snapshot(
    Sees(viewer, _): Sees,
    State(app): State<App>,
    Params(query): Params<OfNamespace>,
) -> Answer {
    let namespace = query.namespace()?;
    let snapshot = app.admin.snapshot(&namespace, viewer, query.window).await?;
    Ok(json(StatusCode::OK, &snapshot))
}

/// Streams the snapshot and its changes as server-sent events, until the key is revoked.
async fn live(
    Sees(viewer, grant): Sees,
    State(app): State<App>,
    Params(query): Params<OfNamespace>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let namespace = query.namespace()?;
    let follower = app.admin.follow(&namespace, query.window, viewer).await?;
    let frames = stream::unfold((app, follower), |(app, mut follower)| async move {
        let mut stopping = app.stopping.clone();
        let frame = tokio::select! {
            frame = follower.next() => frame?,
            _ = stopping.wait_for(|stopping| *stopping) => return None,
        };
        let event = sse::Event::default().json_data(&frame).ok()?;
        Some((Ok::<_, Infallible>(event), (app, follower)))
    });
    let response = server_sent(grant, frames);
    match reads_gzip(&headers) {
        true => Ok(compressed(response)),
        false => Ok(response),
    }
}

fn reads_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT_ENCODING).iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    accepted.any(|value| value.split(',').any(|coding| coding.trim() == "gzip"))
}

/// Compresses the answer piece by piece, each readable at once, with a dictionary of the pieces before.
fn compressed(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    head.headers
        .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let pieces = body.into_data_stream().map(move |piece| {
        let piece = piece?;
        encoder.write_all(&piece)?;
        encoder.flush()?;
        Ok::<_, axum::BoxError>(Bytes::from(std::mem::take(encoder.get_mut())))
    });
    Response::from_parts(head, Body::from_stream(pieces))
}
