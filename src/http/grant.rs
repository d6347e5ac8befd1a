//! The right to receive an answer, for as long as it lasts. A key may be revoked or expire while an
//! answer is under way, so every answer that takes time checks here, and ends with its key.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use futures_util::{Stream, StreamExt as _, stream};
use http::request::Parts;

use super::App;
use super::auth::Access;
use super::error::Error;
use crate::domain::key::KeyId;
use crate::domain::time::Timestamp;
use crate::engine::Engine;
use crate::engine::catalog::Stale;

/// Interval at which a long answer checks its right.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The right of one request. Through the socket it never ends.
#[derive(Clone)]
pub struct Grant {
    key: Option<(KeyId, Arc<Engine>)>,
}

impl Grant {
    /// The right of a client with `access`.
    pub fn of(access: Access, app: &App) -> Self {
        let key = match (access, &app.engine) {
            (Access::Key { id, .. }, Some(engine)) => Some((id, engine.clone())),
            _ => None,
        };
        Self { key }
    }

    /// True while the key is valid.
    ///
    /// # Errors
    /// [`Stale`] when the database does not answer in time.
    pub async fn holds(&self) -> Result<bool, Stale> {
        let Some((id, engine)) = &self.key else {
            return Ok(true);
        };
        let catalog = engine.catalog.trusted().await?;
        let live = catalog.key(*id);
        Ok(live.is_some_and(|live| live.key.is_live(Timestamp::now())))
    }

    /// Returns when the right has ended, or cannot be confirmed any more. Cancel-safe.
    pub async fn ended(&self) {
        while self.holds().await == Ok(true) {
            match &self.key {
                Some((_, engine)) => engine.catalog.looked(LOOK_EVERY).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Runs `doing` and returns its result, provided the right still exists then.
    ///
    /// # Errors
    /// 401 when the right has ended first, 503 when that is unknown.
    pub async fn cover<T>(&self, doing: impl Future<Output = T>) -> Result<T, Error> {
        let done = tokio::select! {
            biased;
            () = self.ended() => None,
            done = doing => Some(done),
        };
        match (self.holds().await?, done) {
            (true, Some(done)) => Ok(done),
            _ => Err(Error::unauthorized()),
        }
    }

    /// Passes items on until the right ends. It is checked before each item.
    pub fn cover_all<T>(self, items: impl Stream<Item = T>) -> impl Stream<Item = T> {
        let all = (self, Box::pin(items));
        stream::unfold(all, |(grant, mut items)| async move {
            let item = grant.cover(items.next()).await.ok()??;
            Some((item, (grant, items)))
        })
    }
}

impl FromRequestParts<App> for Grant {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        let access = Access::from_request_parts(parts, app).await?;
        Ok(Self::of(access, app))
    }
}
