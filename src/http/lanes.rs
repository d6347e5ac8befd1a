//! Routes that resize, stop and resume lanes, rebuild hints and find the lane of a stream; and the
//! completion of names.

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use http::StatusCode;
use serde::Deserialize;

use super::actor::By;
use super::admin::{Answer, Body};
use super::auth::Operator;
use super::read::{Params, list, name};
use super::{App, json};
use crate::admin::{Act, Actor, Admin};
use crate::api::{HintsSpec, LanesSpec, ResizeSpec};
use crate::domain::name::{Name, StreamName};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/admin/lanes/resize", get(progress).post(resize))
        .route("/v1/admin/lanes/drain", post(drain))
        .route("/v1/admin/lanes/pause", post(pause))
        .route("/v1/admin/lanes/resume", post(resume))
        .route("/v1/admin/lanes/rebuild", post(rebuild))
        .route("/v1/admin/lanes/of", get(of))
        .route("/v1/admin/lanes/show", get(show))
        .route("/v1/admin/names", get(names))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfNamespace {
    namespace: Option<String>,
}

async fn progress(
    _: Operator,
    State(app): State<App>,
    Params(query): Params<OfNamespace>,
) -> Answer {
    let namespace = name(query.namespace.as_deref())?;
    let namespace = namespace.unwrap_or_else(Name::default_namespace);
    let progress = app.admin.resize_progress(&namespace).await?;
    Ok(json(StatusCode::OK, &progress))
}

async fn resize(By(actor): By, State(app): State<App>, Body(spec): Body<ResizeSpec>) -> Answer {
    let act = Act::new("lanes resize", &spec.namespace).reason(spec.reason.as_ref());
    let admin = app.admin.acting(&actor, act);
    let resized = admin.resize(&spec, &actor.by).await?;
    Ok(json(StatusCode::OK, &resized))
}

/// An [`Admin`] for an operation on lanes.
fn on_lanes(app: &App, actor: &Actor, operation: &'static str, spec: &LanesSpec) -> Admin {
    let act = Act::new(operation, &spec.namespace).reason(spec.reason.as_ref());
    app.admin.acting(actor, act)
}

async fn drain(By(actor): By, State(app): State<App>, Body(spec): Body<LanesSpec>) -> Answer {
    let admin = on_lanes(&app, &actor, "lanes drain", &spec);
    let done = admin.drain_lanes(&spec, &actor.by).await?;
    Ok(json(StatusCode::OK, &done))
}

async fn pause(By(actor): By, State(app): State<App>, Body(spec): Body<LanesSpec>) -> Answer {
    let admin = on_lanes(&app, &actor, "lanes pause", &spec);
    let done = admin.pause_lanes(&spec, &actor.by).await?;
    Ok(json(StatusCode::OK, &done))
}

async fn resume(By(actor): By, State(app): State<App>, Body(spec): Body<LanesSpec>) -> Answer {
    let admin = on_lanes(&app, &actor, "lanes resume", &spec);
    Ok(json(StatusCode::OK, &admin.resume_lanes(&spec).await?))
}

async fn rebuild(By(actor): By, State(app): State<App>, Body(spec): Body<HintsSpec>) -> Answer {
    let subject = spec.namespace.as_ref().map_or("all", Name::as_str);
    let act = Act::new("lanes rebuild", subject).reason(spec.reason.as_ref());
    let admin = match spec.dry_run {
        true => app.admin.clone(),
        false => app.admin.acting(&actor, act),
    };
    let done = admin.rebuild_hints(&spec).await?;
    Ok(json(StatusCode::OK, &done))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneLane {
    namespace: Option<String>,
    lane: String,
    top: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    kind: String,
    #[serde(default)]
    start: String,
    namespace: Option<String>,
}

/// Completes a name that is being typed.
async fn names(_: Operator, State(app): State<App>, Params(query): Params<Begun>) -> Answer {
    let namespace = name(query.namespace.as_deref())?;
    let namespace = namespace.unwrap_or_else(Name::default_namespace);
    let names = app
        .admin
        .names_from(&query.kind, &query.start, &namespace)
        .await?;
    Ok(list(names, None))
}

/// Default number of cursors shown of a lane.
const TOP: usize = 10;

async fn show(_: Operator, State(app): State<App>, Params(query): Params<OneLane>) -> Answer {
    let namespace = name(query.namespace.as_deref())?;
    let namespace = namespace.unwrap_or_else(Name::default_namespace);
    let top = query.top.unwrap_or(TOP);
    let shown = app.admin.show_lane(&namespace, &query.lane, top).await?;
    Ok(json(StatusCode::OK, &shown))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfStream {
    stream: StreamName,
    lanes: Option<u16>,
}

async fn of(_: Operator, State(app): State<App>, Params(query): Params<OfStream>) -> Answer {
    let found = app.admin.lane_of_stream(&query.stream, query.lanes).await?;
    Ok(json(StatusCode::OK, &found))
}
