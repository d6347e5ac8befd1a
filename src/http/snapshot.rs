//! The route of the dashboard: everything of one namespace, as last seen.

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::routing::get;
use http::StatusCode;
use http::request::Parts;
use serde::Deserialize;

use super::admin::Answer;
use super::auth::{Access, who};
use super::error::Error;
use super::read::{Asked, name};
use super::{App, json};
use crate::api::Viewer;
use crate::domain::name::Name;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/admin/snapshot", get(snapshot))
}

/// Somebody who may see everything, and perhaps do it too.
struct Sees(Viewer);

impl FromRequestParts<App> for Sees {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        let access = Access::from_request_parts(parts, app).await?;
        match access {
            Access::Nobody => Err(Error::unauthorized()),
            access if access.may_read(None) || access.may_admin() => Ok(Self(Viewer {
                name: who(access, parts, app),
                may_act: access.may_admin(),
            })),
            _ => Err(Error::forbidden("this key may not see all hooks")
                .hint("needs a read key for all hooks, an admin key, or the socket")),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfNamespace {
    namespace: Option<String>,
}

async fn snapshot(
    Sees(viewer): Sees,
    State(app): State<App>,
    Asked(query): Asked<OfNamespace>,
) -> Answer {
    let namespace = name(query.namespace.as_deref())?;
    let namespace = namespace.unwrap_or_else(Name::default_namespace);
    let snapshot = app.admin.snapshot(&namespace, viewer).await?;
    Ok(json(StatusCode::OK, &snapshot))
}
