//! The feed of a hook: the events of all its streams, each stream in order, by pages, long polls or
//! server-sent events. Also the pages of `events export` and `state export`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::response::sse;
use axum::routing::get;
use futures_util::stream;
use http::header::ACCEPT;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::auth::Operator;
use super::error::Error;
use super::read::{Params, Readable, WAIT_MAX, limit, name, server_sent};
use super::{App, json};
use crate::admin::FeedRequest;
use crate::api::{FeedEvent, LogPage};
use crate::domain::event::StreamId;
use crate::domain::feed::FeedCursor;
use crate::domain::hook::{Hook, HookId};
use crate::domain::time::{Timestamp, parse_duration};
use crate::engine::Engine;

/// Interval of reads while other nodes may store events.
const LOOK_ELSEWHERE: Duration = Duration::from_millis(100);

/// Time between a commit and the next read, for the commits that follow it.
const LOOK_SOON: Duration = Duration::from_millis(20);

/// Interval of reads on the only node, in case a notification is lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Number of events that a reader of server-sent events gets from one read.
const BATCH: i64 = 200;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/hooks/{hook}/feed", get(feed))
        .route("/v1/admin/events/export", get(export))
        .route("/v1/admin/states/export", get(export_states))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedQuery {
    after: Option<String>,
    limit: Option<i64>,
    wait: Option<String>,
}

/// A reader of a feed and its cursor.
struct Feed {
    app: App,
    engine: Arc<Engine>,
    hook: Arc<Hook>,
    request: FeedRequest,
    stored: tokio::sync::watch::Receiver<()>,
}

async fn feed(
    State(app): State<App>,
    Readable(hook, engine, grant): Readable,
    Params(query): Params<FeedQuery>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let last = headers.get("last-event-id").map(|id| id.to_str());
    let last = last.transpose();
    let last = last.map_err(|_| Error::malformed("Last-Event-ID is no text"))?;
    let request = FeedRequest {
        hook: Some(hook.id),
        after: cursor(last.or(query.after.as_deref()))?,
        limit: limit(query.limit)?,
        ..FeedRequest::default()
    };
    let mut feed = Feed {
        // Subscribes before the first read, so that no event falls in between.
        stored: engine.stored(),
        app,
        engine,
        hook,
        request,
    };
    if wants_events(&headers) {
        feed.request.limit = BATCH;
        // Reports a wrong cursor at once, instead of within the stream.
        let first = grant.cover(feed.read()).await??;
        return Ok(server_sent(grant, feed.events(first)));
    }
    let wait = query.wait.as_deref().map(parse_duration).transpose();
    let wait = wait.map_err(|error| Error::malformed(format!("wait: {error}")))?;
    let deadline = Instant::now() + wait.unwrap_or_default().min(WAIT_MAX);
    let page = grant.cover(feed.page(deadline)).await??;
    Ok(json(StatusCode::OK, &page))
}

/// True if the client asks for server-sent events.
fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    accepted.any(|value| value.contains("text/event-stream"))
}

fn cursor(text: Option<&str>) -> Result<Option<FeedCursor>, Error> {
    let parsed = text.filter(|text| !text.is_empty()).map(str::parse);
    let wrong = |error: crate::domain::feed::InvalidFeedCursor| Error::malformed(error.to_string());
    parsed.transpose().map_err(wrong)
}

impl Feed {
    /// The page behind the cursor, which moves to its end.
    async fn read(&mut self) -> Result<LogPage<FeedEvent>, Error> {
        let page = self.app.admin.feed(&self.request).await?;
        self.request.after = cursor(Some(&page.next))?;
        Ok(page)
    }

    /// The first page with an event, or the empty one at the deadline.
    async fn page(&mut self, deadline: Instant) -> Result<LogPage<FeedEvent>, Error> {
        loop {
            let page = self.read().await?;
            let is_over = Instant::now() >= deadline || *self.app.stopping.borrow();
            if is_over || !page.items.is_empty() || !self.exists() {
                return Ok(page);
            }
            if page.next == page.end {
                self.changed(deadline).await;
            }
        }
    }

    fn exists(&self) -> bool {
        let catalog = self.engine.catalog.peek();
        catalog.hooks_by_id.contains_key(&self.hook.id)
    }

    /// Waits until there may be new events.
    async fn changed(&mut self, deadline: Instant) {
        let patience = match self.engine.relay.is_shared() {
            true => LOOK_ELSEWHERE,
            false => LOOK_AGAIN,
        };
        let mut stopping = self.app.stopping.clone();
        let until = (Instant::now() + patience).min(deadline);
        tokio::select! {
            // Another commit is likely to follow, and the order of both is settled together.
            _ = self.stored.changed() => tokio::time::sleep(LOOK_SOON).await,
            () = tokio::time::sleep_until(until) => {}
            _ = stopping.changed() => {}
        }
    }

    /// The events from `first` on, until the node stops or the hook is deleted. A gap is told as the last
    /// event, `error`.
    fn events(
        self,
        first: LogPage<FeedEvent>,
    ) -> impl futures_util::Stream<Item = Result<sse::Event, Infallible>> + Send {
        let begin = (Some(self), VecDeque::from(first.items));
        stream::unfold(begin, |(feed, mut ready)| async move {
            let mut feed = feed?;
            while ready.is_empty() {
                if *feed.app.stopping.borrow() || !feed.exists() {
                    return None;
                }
                match feed.page(Instant::now() + WAIT_MAX).await {
                    Ok(page) => ready.extend(page.items),
                    Err(error) => return Some((Ok(failed(&error)), (None, ready))),
                }
            }
            let event = sent(&ready.pop_front()?)?;
            Some((Ok(event), (Some(feed), ready)))
        })
    }
}

fn sent(event: &FeedEvent) -> Option<sse::Event> {
    let sent = sse::Event::default().event("event").id(&event.cursor);
    sent.json_data(event).ok()
}

fn failed(error: &Error) -> sse::Event {
    let sent = sse::Event::default().event("error");
    sent.json_data(error).unwrap_or_default()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportQuery {
    hook: Option<String>,
    since: Option<Timestamp>,
    after: Option<String>,
    until: Option<String>,
    limit: Option<i64>,
}

async fn export(
    _: Operator,
    State(app): State<App>,
    Params(query): Params<ExportQuery>,
) -> Result<Response, Error> {
    let request = FeedRequest {
        hook: hook_id(&app, query.hook.as_deref()).await?,
        after: cursor(query.after.as_deref())?,
        until: cursor(query.until.as_deref())?,
        since: query.since,
        limit: limit(query.limit)?,
    };
    Ok(json(StatusCode::OK, &app.admin.feed(&request).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatesQuery {
    hook: Option<String>,
    since: Option<Timestamp>,
    after: Option<i64>,
}

async fn export_states(
    _: Operator,
    State(app): State<App>,
    Params(query): Params<StatesQuery>,
) -> Result<Response, Error> {
    let hook = hook_id(&app, query.hook.as_deref()).await?;
    let after = StreamId(query.after.unwrap_or(0));
    let states = app.admin.states(hook, query.since, after).await?;
    Ok(json(StatusCode::OK, &states))
}

async fn hook_id(app: &App, hook: Option<&str>) -> Result<Option<HookId>, Error> {
    match name(hook)? {
        Some(hook) => Ok(Some(app.admin.hook_id(&hook).await?)),
        None => Ok(None),
    }
}
