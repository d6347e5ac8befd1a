//! Read routes: states, streams, events, live changes, and the health of the node.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::{Stream, stream};
use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde::Deserialize;
use tokio::time::Instant;

use super::auth::{self, Access};
use super::edge::Peer;
use super::error::Error;
use super::grant::Grant;
use super::{App, json};
use crate::admin::StreamsFilter;
use crate::api::{self, List};
use crate::domain::hook::{Hook, OrderBy};
use crate::domain::name::{Name, OrderingKey};
use crate::domain::position::{Position, Seq};
use crate::domain::time::{Timestamp, parse_duration};
use crate::engine::Engine;
use crate::metrics;

/// Longest time that a reader may wait for a position.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);

/// Default time for a reader that names a position.
const WAIT_DEFAULT: Duration = Duration::from_secs(5);

/// Interval of reads while another node moves the cursor.
const LOOK_ELSEWHERE: Duration = Duration::from_millis(25);

/// Interval of reads while this node moves the cursor; its lane may move to another node meanwhile.
const LOOK_HERE: Duration = Duration::from_secs(1);

/// Interval of reads while the stream does not exist.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Default number of items in a list.
pub const LIMIT_DEFAULT: i64 = 50;
/// Largest number of items in a list.
pub const LIMIT_MAX: i64 = 1_000;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/hooks/{hook}/state", get(state))
        .route("/v1/hooks/{hook}/streams", get(streams))
        .route("/v1/hooks/{hook}/events", get(events))
        .route("/v1/hooks/{hook}/watch", get(watch))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
}

/// Extractor for a hook that the client may read.
pub(super) struct Readable(pub Arc<Hook>, pub Arc<Engine>, pub Grant);

impl FromRequestParts<App> for Readable {
    type Rejection = Error;

    /// Without the right to read it, an existing hook looks like one that does not exist.
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        let access = Access::from_request_parts(parts, app).await?;
        let engine = app.engine.clone().ok_or_else(super::error::needs_daemon)?;
        let name = Path::<String>::from_request_parts(parts, app).await;
        let Ok(Path(name)) = name else {
            return Err(Error::malformed("the hook's name is no text"));
        };
        let hook = engine.catalog.peek().hooks.get(name.as_str()).cloned();
        match hook {
            Some(hook) if access.may_read(Some(hook.id)) => {
                Ok(Self(hook, engine, Grant::of(access, app)))
            }
            None if access.may_read(None) => Err(Error::not_found(format!("no hook {name:?}"))),
            _ => Err(Error::unauthorized()),
        }
    }
}

/// Extractor for query parameters, with our own error messages. A parameter without a value counts as
/// absent.
pub struct Params<T>(pub T);

impl<T: serde::de::DeserializeOwned> FromRequestParts<App> for Params<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Error> {
        let query = parts.uri.query().unwrap_or_default().split('&');
        let has_value = |part: &&str| {
            part.split_once('=')
                .is_some_and(|(_, value)| !value.is_empty())
        };
        let query: Vec<&str> = query.filter(has_value).collect();
        let uri = format!("/?{}", query.join("&"));
        let uri = uri
            .parse()
            .map_err(|_| Error::malformed("the query is malformed"))?;
        match Query::<T>::try_from_uri(&uri) {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(wrong) => Err(Error::malformed(wrong.body_text())),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateQuery {
    #[serde(default)]
    stream: String,
    min_seq: Option<i64>,
    wait: Option<String>,
}

async fn state(
    State(app): State<App>,
    Readable(hook, engine, grant): Readable,
    Params(query): Params<StateQuery>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let key = OrderingKey::new(query.stream.as_bytes());
    let wait = match &query.wait {
        Some(text) => parse_duration(text).map_err(|e| Error::malformed(e.to_string()))?,
        None => WAIT_DEFAULT,
    };
    is_one_stream(&app, &hook, &key).await?;
    let wanted = Position(query.min_seq.unwrap_or(0));
    let deadline = Instant::now() + wait.min(WAIT_MAX);
    let state = state_at(&app, &engine, &hook, &key, wanted, deadline);
    let state = grant.cover(state).await??;
    let tag = format!("\"{}-{}\"", state.era, state.position);
    let status = match state.position >= wanted {
        true if is_known(&headers, &tag) => StatusCode::NOT_MODIFIED,
        true => StatusCode::OK,
        false => StatusCode::GATEWAY_TIMEOUT,
    };
    let mut response = match status {
        StatusCode::NOT_MODIFIED => status.into_response(),
        _ => json(status, &state),
    };
    if let Ok(tag) = tag.parse() {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(response)
}

/// Refuses a request without a stream for a hook with ordering keys, because an empty answer would look
/// as if there were no events. If the hook has a stream without a key, that one is answered.
async fn is_one_stream(app: &App, hook: &Hook, key: &OrderingKey) -> Result<(), Error> {
    let is_named = !key.as_str().is_empty() || hook.order_by == OrderBy::Nothing;
    if is_named || app.admin.has_stream(hook, key).await? {
        return Ok(());
    }
    let (name, order_by) = (&hook.name, &hook.order_by);
    let message =
        format!("hook {name} has a stream for each ordering key ({order_by}); none is named");
    let hint = format!("name one: ?stream=KEY here, {name}/KEY in a command");
    Err(Error::unprocessable("stream_missing", message)
        .hint(hint)
        .next(format!("hooklane streams list --hook {name}")))
}

/// True if the client already has the version `tag`. Proxies may have marked it as weak (RFC 9110
/// §13.1.2).
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(IF_NONE_MATCH).iter();
    let mut given = given
        .filter_map(|value| value.to_str().ok())
        .flat_map(|v| v.split(','));
    given.any(|one| {
        let one = one.trim();
        one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag
    })
}

/// Time of the next read even without a notification: moves by other nodes are not notified.
fn look_again(engine: &Engine, hook: &Hook, key: &OrderingKey) -> Option<Instant> {
    let patience = match engine.runs_turns_of(hook, key) {
        true => LOOK_HERE,
        false => LOOK_ELSEWHERE,
    };
    let is_shared = engine.relay.is_shared();
    is_shared.then(|| Instant::now() + patience)
}

/// The state once it has reached a position, or as it is at the deadline.
async fn state_at(
    app: &App,
    engine: &Engine,
    hook: &Hook,
    key: &OrderingKey,
    wanted: Position,
    deadline: Instant,
) -> Result<api::State, Error> {
    let mut moves = None;
    loop {
        let (state, stream) = app.admin.state(hook, key).await?;
        let is_over = Instant::now() >= deadline || *app.stopping.borrow();
        if state.position >= wanted || is_over {
            return Ok(state);
        }
        match (&mut moves, stream) {
            // Subscribes before reading again, so that no move falls in between.
            (None, Some(stream)) => moves = Some(engine.changes.applied.watch(stream)),
            (Some(moves), _) => {
                let until =
                    look_again(engine, hook, key).map_or(deadline, |again| again.min(deadline));
                let _ = tokio::time::timeout_at(until, moves.changed()).await;
            }
            (None, None) => {
                let again = (Instant::now() + LOOK_AGAIN).min(deadline);
                tokio::time::sleep_until(again).await;
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamsQuery {
    after: Option<i64>,
    limit: Option<i64>,
}

async fn streams(
    State(app): State<App>,
    Readable(hook, ..): Readable,
    Params(query): Params<StreamsQuery>,
) -> Result<Response, Error> {
    let filter = StreamsFilter {
        hook: Some(hook.name.clone()),
        after: query.after,
        limit: limit(query.limit)?,
        ..StreamsFilter::default()
    };
    let (rows, next) = app.admin.streams(&filter).await?;
    let next = next.map(|after| after.to_string());
    Ok(list(rows, next))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    #[serde(default)]
    stream: String,
    after_seq: Option<i64>,
    limit: Option<i64>,
}

async fn events(
    State(app): State<App>,
    Readable(hook, ..): Readable,
    Params(query): Params<EventsQuery>,
) -> Result<Response, Error> {
    let key = OrderingKey::new(query.stream.as_bytes());
    let (after, limit) = (Seq(query.after_seq.unwrap_or(0)), limit(query.limit)?);
    is_one_stream(&app, &hook, &key).await?;
    let rows = app.admin.stream_events(&hook, &key, after, limit).await?;
    let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows == limit);
    let last = rows.last().filter(|_| is_full);
    let next = last.map(|row| row.seq.to_string());
    Ok(list(rows, next))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WatchQuery {
    #[serde(default)]
    stream: String,
}

/// A client that watches a state, with the version that it saw last.
struct Watch {
    app: App,
    hook: Arc<Hook>,
    engine: Arc<Engine>,
    key: OrderingKey,
    seen: Option<(i64, Position)>,
}

async fn watch(
    State(app): State<App>,
    Readable(hook, engine, grant): Readable,
    Params(query): Params<WatchQuery>,
) -> Result<Response, Error> {
    let key = OrderingKey::new(query.stream.as_bytes());
    is_one_stream(&app, &hook, &key).await?;
    // Reports a wrong hook at once, instead of within the stream.
    app.admin.state(&hook, &key).await?;
    let watch = Watch {
        app,
        hook,
        engine,
        key,
        seen: None,
    };
    let states = stream::unfold(watch, |mut watch| async move {
        let state = watch.next().await?;
        let id = format!("{}-{}", state.era, state.position);
        let event = sse::Event::default().event("state").id(id);
        let event = event.json_data(&state).ok()?;
        Some((Ok(event), watch))
    });
    Ok(server_sent(grant, states))
}

impl Watch {
    /// The next state that the client has not seen; `None` when the node stops or the hook is deleted.
    async fn next(&mut self) -> Option<api::State> {
        let mut stopping = self.app.stopping.clone();
        loop {
            if *stopping.borrow() {
                return None;
            }
            let deadline = Instant::now() + WAIT_MAX;
            let wanted = self
                .seen
                .map_or(Position(0), |(_, seen)| Position(seen.0 + 1));
            let next = state_at(
                &self.app,
                &self.engine,
                &self.hook,
                &self.key,
                wanted,
                deadline,
            );
            let state = tokio::select! {
                state = next => state.ok()?,
                _ = stopping.changed() => return None,
            };
            let stands = (state.era, state.position);
            if self.seen != Some(stands) {
                self.seen = Some(stands);
                return Some(state);
            }
            self.engine.catalog.peek().hooks_by_id.get(&self.hook.id)?;
        }
    }
}

/// Streams server-sent events while the client's right lasts, with regular comments that reveal a
/// client that is gone.
pub(super) fn server_sent(
    grant: Grant,
    events: impl Stream<Item = Result<sse::Event, Infallible>> + Send + 'static,
) -> Response {
    let alive = KeepAlive::new().interval(Duration::from_secs(15));
    Sse::new(grant.cover_all(events))
        .keep_alive(alive)
        .into_response()
}

/// Answers 200 if the node can commit and run lanes.
async fn readyz(State(app): State<App>) -> Result<&'static str, Error> {
    let engine = app.engine.ok_or_else(super::error::needs_daemon)?;
    let not_ready = |why: String| Error::unavailable("not_ready", why, 1);
    if *app.stopping.borrow() {
        return Err(not_ready("this node is stopping".to_owned()));
    }
    match engine.can_commit().await {
        Ok(()) => Ok("ready\n"),
        // The cause is not revealed here; `hooklane status` shows it.
        Err(_) => Err(not_ready("this node cannot commit now".to_owned())),
    }
}

async fn metrics(
    State(app): State<App>,
    access: Result<Access, Error>,
    axum::Extension(peer): axum::Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Error> {
    if !auth::is_near(&app, peer, &uri, &headers) && !access?.may_read(None) {
        return Err(Error::unauthorized());
    }
    let engine = app.engine.ok_or_else(super::error::needs_daemon)?;
    engine.measure();
    let mut response = engine.metrics.encode().into_response();
    let kind = HeaderValue::from_static(metrics::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// The JSON form of all lists.
pub(super) fn list<T: serde::Serialize>(items: Vec<T>, next: Option<String>) -> Response {
    json(StatusCode::OK, &List::new(Timestamp::now(), items, next))
}

/// The number of items requested.
pub(super) fn limit(asked: Option<i64>) -> Result<i64, Error> {
    match asked.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        other => Err(Error::malformed(format!(
            "limit is 1 to {LIMIT_MAX}, got {other}"
        ))),
    }
}

/// A name in a query.
pub(super) fn name(text: Option<&str>) -> Result<Option<Name>, Error> {
    let parsed = text.map(str::parse).transpose();
    parsed.map_err(|error: crate::domain::name::InvalidName| Error::malformed(error.to_string()))
}
