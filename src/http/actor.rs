//! Identifies the operator of a change, and the configuration version that the plan was based on.

use axum::extract::FromRequestParts;
use http::HeaderValue;
use http::header::IF_MATCH;
use http::request::Parts;

use super::App;
use super::auth::{Access, Operator, who};
use super::edge::Peer;
use super::error::Error;
use crate::admin::Actor;

/// Extractor for an operator who changes something; every such route uses it. A request with `If-Match`
/// is refused unless the configuration has that version.
pub(super) struct By(pub Actor);

impl FromRequestParts<App> for By {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        let Operator = Operator::from_request_parts(parts, app).await?;
        let access = Access::from_request_parts(parts, app).await?;
        let from = match (&app.engine, parts.extensions.get::<Peer>()) {
            (None, _) => "offline".to_owned(),
            (_, Some(peer)) => peer
                .ip()
                .map_or_else(|| "socket".to_owned(), |ip| ip.to_string()),
            (_, None) => "socket".to_owned(),
        };
        let by = who(access, parts, app);
        let planned = match parts.headers.get(IF_MATCH) {
            Some(version) => Some(planned(version, app).await?),
            None => None,
        };
        Ok(Self(Actor { by, from, planned }))
    }
}

/// The version in `If-Match`, compared with the present one. This check is early; the transaction that
/// makes the change checks again.
async fn planned(version: &HeaderValue, app: &App) -> Result<i64, Error> {
    let version = version.to_str().ok().and_then(|text| text.parse().ok());
    let now = app.admin.here(String::new()).await?.version;
    version
        .filter(|planned| *planned == now)
        .ok_or_else(Error::changed)
}
