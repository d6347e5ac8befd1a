//! Routes for the audit log, the diagnosis of a stream, and the doctor.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use serde::Deserialize;

use super::actor::By;
use super::admin::Answer;
use super::auth::Operator;
use super::read::{Params, limit, list};
use super::{App, json};
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    since: Option<Timestamp>,
    subject: Option<String>,
    after: Option<i64>,
    limit: Option<i64>,
}

/// Returns the operator's context for a plan.
async fn here(By(actor): By, State(app): State<App>) -> Answer {
    Ok(json(StatusCode::OK, &app.admin.here(actor.by).await?))
}

/// Runs the checks of the doctor.
async fn doctor(_: Operator, State(app): State<App>) -> Answer {
    Ok(list(app.admin.examine().await?, None))
}

async fn audit(_: Operator, State(app): State<App>, Params(query): Params<AuditQuery>) -> Answer {
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

async fn why(_: Operator, State(app): State<App>, Params(query): Params<WhyQuery>) -> Answer {
    let (stream, handler) = (&query.stream, query.handler.as_ref());
    let why = app.admin.why(stream, handler, query.event).await?;
    Ok(json(StatusCode::OK, &why))
}
