//! Who changes something, what was changed, why a stream is where it is, and what this node stands on.

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::routing::get;
use http::header::IF_MATCH;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;

use super::admin::Answer;
use super::auth::{Access, Operator, who};
use super::edge::Peer;
use super::error::Error;
use super::read::{Asked, limit, list};
use super::{App, json};
use crate::admin::Actor;
use crate::domain::event::EventId;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;
use crate::store::AuditFilter;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/admin/audit", get(audit))
        .route("/v1/admin/why", get(why))
        .route("/v1/admin/doctor", get(doctor))
        .route("/v1/admin/here", get(here))
}

/// Somebody who may administrate, as he is noted: every route that changes something asks for him. One who
/// says in `If-Match` which version of the configuration his plan was about changes no other.
pub(super) struct By(pub Actor);

impl FromRequestParts<App> for By {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        let Operator = Operator::from_request_parts(parts, app).await?;
        let access = Access::from_request_parts(parts, app).await?;
        let from = match (&app.engine, parts.extensions.get::<Peer>()) {
            (None, _) => "offline".to_owned(),
            (_, Some(Peer::Address(address))) => address.ip().to_string(),
            _ => "socket".to_owned(),
        };
        let by = who(access, parts, app);
        let planned = match parts.headers.get(IF_MATCH) {
            Some(version) => Some(planned(version, app).await?),
            None => None,
        };
        Ok(Self(Actor { by, from, planned }))
    }
}

/// The version that a plan was about. Looked at before anything is done for it; what counts is the look of
/// the transaction that changes something.
async fn planned(version: &HeaderValue, app: &App) -> Result<i64, Error> {
    let version = version.to_str().ok().and_then(|text| text.parse().ok());
    let now = app.admin.here(String::new()).await?.version;
    version
        .filter(|planned| *planned == now)
        .ok_or_else(Error::changed)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    since: Option<Timestamp>,
    subject: Option<String>,
    after: Option<i64>,
    limit: Option<i64>,
}

/// Where an operator is.
async fn here(By(actor): By, State(app): State<App>) -> Answer {
    Ok(json(StatusCode::OK, &app.admin.here(actor.by).await?))
}

/// What this node stands on.
async fn doctor(_: Operator, State(app): State<App>) -> Answer {
    Ok(list(app.admin.examine().await?, None))
}

async fn audit(_: Operator, State(app): State<App>, Asked(query): Asked<AuditQuery>) -> Answer {
    let filter = AuditFilter {
        since: query.since,
        subject: query.subject,
        before: query.after,
        limit: limit(query.limit)?,
    };
    let rows = app.admin.audit(&filter).await?;
    let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows == filter.limit);
    let next = rows
        .last()
        .filter(|_| is_full)
        .map(|row| row.id.to_string());
    Ok(list(rows, next))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WhyQuery {
    stream: StreamName,
    handler: Option<Name>,
    event: Option<EventId>,
}

async fn why(_: Operator, State(app): State<App>, Asked(query): Asked<WhyQuery>) -> Answer {
    let (stream, handler) = (&query.stream, query.handler.as_ref());
    let why = app.admin.why(stream, handler, query.event).await?;
    Ok(json(StatusCode::OK, &why))
}
