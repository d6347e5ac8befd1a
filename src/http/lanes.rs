//! Routes that resize, stop and let go lanes, make their hints again, and say where streams belong; and the
//! names of all there is.

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::admin::{Answer, Body};
use super::audit::By;
use super::auth::Operator;
use super::read::{Asked, list, name};
use super::{App, json};
use crate::admin::Act;
use crate::api::{Hints, HintsSpec, LanesSpec, ResizeSpec, Stopped};
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

async fn progress(_: Operator, State(app): State<App>, Asked(query): Asked<OfNamespace>) -> Answer {
    let namespace = name(query.namespace.as_deref())?;
    let namespace = namespace.unwrap_or_else(Name::default_namespace);
    let progress = app.admin.resize_progress(&namespace).await?;
    Ok(json(StatusCode::OK, &progress))
}

async fn resize(By(actor): By, State(app): State<App>, Body(spec): Body<ResizeSpec>) -> Answer {
    let work = app.admin.resize(&spec, &actor.by);
    let resized = app.admin.act(&actor, work, |done| {
        done.next_generation?;
        let details = json!({"from": done.from, "to": done.to, "generation": done.next_generation,
            "drain_first": spec.drain_first});
        let act = Act::new("lanes resize", &spec.namespace).reason(spec.reason.as_ref());
        Some(act.details(details))
    });
    Ok(json(StatusCode::OK, &resized.await?))
}

/// Notes what was done to lanes.
fn act(operation: &'static str, spec: &LanesSpec, done: &Stopped) -> Option<Act> {
    let act = match &done.lanes[..] {
        [lane] => Act::new(operation, lane),
        _ => Act::new(operation, &spec.namespace),
    };
    let lanes = spec.lanes.as_ref().map(|_| &done.lanes);
    let details = json!({"lanes": lanes, "all": spec.lanes.is_none()});
    Some(act.reason(spec.reason.as_ref()).details(details))
}

async fn drain(By(actor): By, State(app): State<App>, Body(spec): Body<LanesSpec>) -> Answer {
    let work = app.admin.drain_lanes(&spec, &actor.by);
    let said = |done: &Stopped| act("lanes drain", &spec, done);
    let done = app.admin.act(&actor, work, said).await?;
    Ok(json(StatusCode::OK, &done))
}

async fn pause(By(actor): By, State(app): State<App>, Body(spec): Body<LanesSpec>) -> Answer {
    let work = app.admin.pause_lanes(&spec, &actor.by);
    let said = |done: &Stopped| act("lanes pause", &spec, done);
    let done = app.admin.act(&actor, work, said).await?;
    Ok(json(StatusCode::OK, &done))
}

async fn resume(By(actor): By, State(app): State<App>, Body(spec): Body<LanesSpec>) -> Answer {
    let work = app.admin.resume_lanes(&spec);
    let said = |done: &Stopped| act("lanes resume", &spec, done);
    let done = app.admin.act(&actor, work, said).await?;
    Ok(json(StatusCode::OK, &done))
}

async fn rebuild(By(actor): By, State(app): State<App>, Body(spec): Body<HintsSpec>) -> Answer {
    let work = app.admin.rebuild_hints(&spec);
    let said = |done: &Hints| {
        let subject = spec.namespace.as_ref().map_or("all", Name::as_str);
        let details =
            json!({"hinted": done.hinted, "behind": done.behind, "forgotten": done.forgotten});
        let act = Act::new("lanes rebuild", subject).reason(spec.reason.as_ref());
        (!done.dry_run).then(|| act.details(details))
    };
    let done = app.admin.act(&actor, work, said).await?;
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

/// Names that begin with what somebody is typing.
async fn names(_: Operator, State(app): State<App>, Asked(query): Asked<Begun>) -> Answer {
    let namespace = name(query.namespace.as_deref())?;
    let namespace = namespace.unwrap_or_else(Name::default_namespace);
    let names = app
        .admin
        .names_from(&query.kind, &query.start, &namespace)
        .await?;
    Ok(list(names, None))
}

/// Cursors that are shown of a lane unless it is said how many.
const TOP: usize = 10;

async fn show(_: Operator, State(app): State<App>, Asked(query): Asked<OneLane>) -> Answer {
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

async fn of(_: Operator, State(app): State<App>, Asked(query): Asked<OfStream>) -> Answer {
    let found = app.admin.lane_of_stream(&query.stream, query.lanes).await?;
    Ok(json(StatusCode::OK, &found))
}
