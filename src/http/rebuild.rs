//! Routes for rebuilds of states.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use http::StatusCode;
use serde::Deserialize;

use super::actor::By;
use super::admin::{Answer, Body};
use super::auth::Operator;
use super::error::Error;
use super::read::{Params, list};
use super::{App, json};
use crate::admin::Act;
use crate::api::RebuildSpec;
use crate::domain::name::StreamName;
use crate::domain::position::Seq;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/admin/rebuilds", get(rebuilds).post(rebuild))
        .route("/v1/admin/rebuilds/all", post(rebuild_all))
        .route("/v1/admin/rebuilds/fold", get(fold))
        .route("/v1/admin/rebuilds/{id}", get(show))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Between {
    first: Option<i64>,
    last: Option<i64>,
}

async fn rebuilds(_: Operator, State(app): State<App>, Params(between): Params<Between>) -> Answer {
    let rebuilds = match (between.first, between.last) {
        (None, None) => app.admin.rebuilds().await?,
        (first, last) => {
            let (first, last) = (first.unwrap_or(1), last.unwrap_or(i64::MAX));
            app.admin.rebuilds_between(first, last).await?
        }
    };
    Ok(list(rebuilds, None))
}

async fn rebuild_all(
    By(actor): By,
    State(app): State<App>,
    Body(spec): Body<RebuildSpec>,
) -> Answer {
    let admin = match spec.check || spec.dry_run {
        true => app.admin.clone(),
        false => app.admin.acting(&actor, Act::new("state rebuild", "all")),
    };
    Ok(list(admin.rebuild_all(&spec, &actor.by).await?, None))
}

async fn rebuild(By(actor): By, State(app): State<App>, Body(spec): Body<RebuildSpec>) -> Answer {
    let whole = spec.hook.as_ref().map(ToString::to_string);
    let only = spec.stream.as_ref().map(ToString::to_string);
    let act = Act::new("state rebuild", only.or(whole).unwrap_or_default());
    // A check changes no state, so it is not recorded.
    let admin = match spec.check {
        true => app.admin.clone(),
        false => app.admin.acting(&actor, act),
    };
    let rebuild = admin.rebuild(&spec, &actor.by).await?;
    let status = match rebuild.id {
        Some(_) => StatusCode::ACCEPTED,
        None => StatusCode::OK,
    };
    Ok(json(status, &rebuild))
}

async fn show(_: Operator, State(app): State<App>, Path(id): Path<String>) -> Answer {
    let id = id.parse();
    let id = id.map_err(|_| Error::malformed("a rebuild has a number".to_owned()))?;
    Ok(json(StatusCode::OK, &app.admin.show_rebuild(id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct To {
    stream: StreamName,
    to_seq: i64,
    #[serde(default)]
    from_checkpoints: bool,
}

async fn fold(_: Operator, State(app): State<App>, Params(to): Params<To>) -> Answer {
    let folded = app
        .admin
        .fold_to(&to.stream, Seq(to.to_seq), to.from_checkpoints)
        .await?;
    Ok(json(StatusCode::OK, &folded))
}
