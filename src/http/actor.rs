//! Who changes something, and which configuration he has planned for.

use axum::extract::FromRequestParts;
use http::HeaderValue;
use http::header::IF_MATCH;
use http::request::Parts;

use super::App;
use super::auth::{Access, Operator, who};
use super::edge::Peer;
use super::error::Error;
use crate::admin::Actor;

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
