//! Routes that resize, stop and let go lanes.

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::routing::{get, post};
use http::StatusCode;
use http::request::Parts;
use serde::Deserialize;

use super::admin::{Answer, Body};
use super::auth::{Access, Operator, who};
use super::error::Error;
use super::read::{Asked, name};
use super::{App, json};
use crate::api::{LanesSpec, ResizeSpec};
use crate::domain::name::Name;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/admin/lanes/resize", get(progress).post(resize))
        .route("/v1/admin/lanes/drain", post(drain))
        .route("/v1/admin/lanes/pause", post(pause))
        .route("/v1/admin/lanes/resume", post(resume))
}

/// Somebody who may administrate, as people know him.
pub(super) struct By(pub String);

impl FromRequestParts<App> for By {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        let Operator = Operator::from_request_parts(parts, app).await?;
        let access = Access::from_request_parts(parts, app).await?;
        Ok(Self(who(access, parts, app)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfNamespace {
    namespace: Option<String>,
}

async fn progress(_: Operator, State(app): State<App>, Asked(query): Asked<OfNamespace>) -> Answer {
    let namespace = name(query.namespace.as_deref())?;
    let namespace = namespace.unwrap_or_else(Name::default_namespace);
    let progress = app.admin.resize_progress(&namespace).await?;
    Ok(json(StatusCode::OK, &progress))
}

async fn resize(By(by): By, State(app): State<App>, Body(spec): Body<ResizeSpec>) -> Answer {
    Ok(json(StatusCode::OK, &app.admin.resize(&spec, &by).await?))
}

async fn drain(By(by): By, State(app): State<App>, Body(spec): Body<LanesSpec>) -> Answer {
    Ok(json(
        StatusCode::OK,
        &app.admin.drain_lanes(&spec, &by).await?,
    ))
}

async fn pause(By(by): By, State(app): State<App>, Body(spec): Body<LanesSpec>) -> Answer {
    Ok(json(
        StatusCode::OK,
        &app.admin.pause_lanes(&spec, &by).await?,
    ))
}

async fn resume(_: Operator, State(app): State<App>, Body(spec): Body<LanesSpec>) -> Answer {
    Ok(json(StatusCode::OK, &app.admin.resume_lanes(&spec).await?))
}
