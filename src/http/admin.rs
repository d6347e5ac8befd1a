//! Routes of the admin API. Each handler translates one request; the operations are in
//! [`crate::admin`].

use std::convert::Infallible;

use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use axum::response::Response;
use axum::response::sse;
use axum::routing::{delete, get, post};
use futures_util::stream;
use http::StatusCode;
use http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::actor::By;
use super::auth::Operator;
use super::error::Error;
use super::grant::Grant;
use super::read::{Params, limit, list, name, server_sent};
use super::{App, body, json};
use crate::admin::{Act, EventsFilter, StreamsFilter};
use crate::api;
use crate::api::{
    Apply, EraseSpec, EventRow, Hold, HookEdit, HookRetry, HookSpec, HookStopSpec, KeySpec,
    LostConfirmed, NamespaceSpec, NewHooks, ReducerTest, ReplaySpec, Retry, SecretSpec, Skip,
};
use crate::domain::event::EventId;
use crate::domain::key::KeyId;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/admin/hooks", get(hooks).post(create_hook))
        .route("/v1/admin/batch/hooks", post(create_hooks))
        .route("/v1/admin/hooks/apply", post(apply))
        .route(
            "/v1/admin/hooks/{hook}",
            get(show_hook).patch(edit_hook).delete(delete_hook),
        )
        .route("/v1/admin/hooks/{hook}/test", post(test_hook))
        .route(
            "/v1/admin/hooks/{hook}/secrets",
            get(secrets).post(add_secret),
        )
        .route("/v1/admin/hooks/{hook}/secrets/{id}", delete(remove_secret))
        .route("/v1/admin/hooks/{hook}/rejections", get(rejections))
        .route("/v1/admin/hooks/{hook}/pause", post(pause_hook))
        .route("/v1/admin/hooks/{hook}/retry", post(retry_hook))
        .route("/v1/admin/hooks/{hook}/resume", post(resume_hook))
        .route("/v1/admin/keys", get(keys).post(create_key))
        .route("/v1/admin/keys/{id}", delete(revoke_key))
        .route(
            "/v1/admin/namespaces",
            get(namespaces).post(create_namespace),
        )
        .route("/v1/admin/namespaces/{name}", delete(delete_namespace))
        .route("/v1/admin/lanes", get(lanes))
        .route("/v1/admin/streams", get(streams))
        .route("/v1/admin/streams/show", get(show_stream))
        .route("/v1/admin/streams/retry", post(retry))
        .route("/v1/admin/streams/skip", post(skip))
        .route("/v1/admin/streams/hold", post(hold))
        .route("/v1/admin/streams/release", post(release))
        .route("/v1/admin/streams/erase", post(erase))
        .route("/v1/admin/streams/erasures", get(erasures))
        .route("/v1/admin/events", get(events))
        .route("/v1/admin/events/tail", get(tail))
        .route("/v1/admin/events/lost", get(lost).delete(confirm_lost))
        .route("/v1/admin/events/{id}", get(show_event))
        .route("/v1/admin/replays", get(replays).post(replay))
        .route("/v1/admin/replays/{id}", delete(cancel_replay))
}

pub(super) type Answer = Result<Response, Error>;

/// Size limit of a request body, in bytes.
const BODY_MAX: u64 = 2 * 1024 * 1024;

/// Extractor for a JSON body, with our own error messages.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self, Error> {
        let (head, body) = request.into_parts();
        let body = body::read(&head.headers, body, BODY_MAX, |_| true).await?;
        let request = Request::from_parts(head, body.into());
        match axum::Json::<T>::from_request(request, app).await {
            Ok(axum::Json(body)) => Ok(Self(body)),
            Err(JsonRejection::JsonDataError(wrong)) => {
                Err(Error::unprocessable("invalid", wrong.body_text()))
            }
            Err(wrong) => Err(Error::malformed(wrong.body_text())),
        }
    }
}

/// Extractor for the one path segment that is a name or an id.
struct Named<T>(T);

impl<T> FromRequestParts<App> for Named<T>
where
    T: std::str::FromStr<Err: std::fmt::Display> + Send,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        let path = Path::<String>::from_request_parts(parts, app).await;
        let Path(text) = path.map_err(|wrong| Error::malformed(wrong.body_text()))?;
        let parsed = text.parse().map(Self);
        parsed.map_err(|error: T::Err| Error::malformed(error.to_string()))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfNamespace {
    namespace: Option<String>,
}

async fn hooks(_: Operator, State(app): State<App>, Params(query): Params<OfNamespace>) -> Answer {
    let namespace = name(query.namespace.as_deref())?;
    Ok(list(app.admin.hooks(namespace.as_ref()).await?, None))
}

async fn create_hook(By(actor): By, State(app): State<App>, Body(spec): Body<HookSpec>) -> Answer {
    let reduce = spec.reduce.as_ref().map(ToString::to_string);
    let details = json!({"namespace": spec.namespace, "reduce": reduce});
    let act = Act::new("hooks create", &spec.name).details(details);
    let hook = app.admin.acting(&actor, act).create_hook(&spec).await?;
    Ok(json(StatusCode::CREATED, &hook))
}

async fn create_hooks(By(actor): By, State(app): State<App>, Body(new): Body<NewHooks>) -> Answer {
    let reduce = new.like.reduce.as_ref().map(ToString::to_string);
    let details = json!({"namespace": new.like.namespace, "reduce": reduce, "names": new.names});
    let subject = crate::text::counted(new.names.len() as u64, "hook", "hooks");
    let act = Act::new("hooks create", subject).details(details);
    let hooks = app.admin.acting(&actor, act).create_hooks(&new).await?;
    Ok(json(
        StatusCode::CREATED,
        &api::List::new(Timestamp::now(), hooks, None),
    ))
}

async fn show_hook(_: Operator, State(app): State<App>, Named(hook): Named<Name>) -> Answer {
    Ok(json(StatusCode::OK, &app.admin.show_hook(&hook).await?))
}

async fn edit_hook(
    By(actor): By,
    State(app): State<App>,
    Named(hook): Named<Name>,
    Body(edit): Body<HookEdit>,
) -> Answer {
    let act = Act::new("hooks edit", &hook).details(json!({"set": without_code(&edit)}));
    let hook = app
        .admin
        .acting(&actor, act)
        .edit_hook(&hook, &edit)
        .await?;
    Ok(json(StatusCode::OK, &hook))
}

async fn secrets(_: Operator, State(app): State<App>, Named(hook): Named<Name>) -> Answer {
    Ok(list(app.admin.secrets(&hook).await?, None))
}

async fn add_secret(
    By(actor): By,
    State(app): State<App>,
    Named(hook): Named<Name>,
    Body(spec): Body<SecretSpec>,
) -> Answer {
    let act = Act::new("hooks secrets add", &hook).details(json!({"handler": spec.handler}));
    let added = app.admin.acting(&actor, act).add_secret(&hook, &spec).await;
    Ok(json(StatusCode::CREATED, &added?))
}

async fn remove_secret(
    By(actor): By,
    State(app): State<App>,
    Path((hook, id)): Path<(String, String)>,
) -> Answer {
    let hook: Name = hook
        .parse()
        .map_err(|error: crate::domain::name::InvalidName| Error::malformed(error.to_string()))?;
    let act = Act::new("hooks secrets remove", &hook).details(json!({"secret": id}));
    let removed = app
        .admin
        .acting(&actor, act)
        .remove_secret(&hook, &id)
        .await;
    Ok(json(StatusCode::OK, &removed?))
}

async fn rejections(_: Operator, State(app): State<App>, Named(hook): Named<Name>) -> Answer {
    Ok(list(app.admin.rejections(&hook).await?, None))
}

/// The settings of an edit, for the audit: a reducer by its name only, and no secrets.
fn without_code(edit: &HookEdit) -> serde_json::Value {
    let mut edit = edit.clone();
    for forward in &mut edit.forward {
        forward.secret = None;
    }
    if let Some(Some(verify)) = &mut edit.verify {
        verify.secret = None;
    }
    let mut set = serde_json::to_value(&edit).unwrap_or_default();
    if let (Some(Some(reducer)), Some(fields)) = (&edit.reduce, set.as_object_mut()) {
        fields.insert("reduce".to_owned(), reducer.to_string().into());
    }
    set
}

async fn delete_hook(By(actor): By, State(app): State<App>, Named(hook): Named<Name>) -> Answer {
    let admin = app.admin.acting(&actor, Act::new("hooks delete", &hook));
    Ok(json(StatusCode::OK, &admin.delete_hook(&hook).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct How {
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    prune: bool,
}

async fn apply(
    By(actor): By,
    State(app): State<App>,
    Params(how): Params<How>,
    Body(wanted): Body<Apply>,
) -> Answer {
    let admin = app.admin.acting(&actor, Act::new("hooks apply", "all"));
    let changes = admin.apply(&wanted, how.dry_run, how.prune).await?;
    Ok(json(StatusCode::OK, &changes))
}

async fn test_hook(
    _: Operator,
    State(app): State<App>,
    Named(hook): Named<Name>,
    Body(test): Body<ReducerTest>,
) -> Answer {
    let tested = app.admin.test_hook(&hook, &test).await?;
    Ok(json(StatusCode::OK, &tested))
}

async fn pause_hook(
    By(actor): By,
    State(app): State<App>,
    Named(hook): Named<Name>,
    Body(spec): Body<HookStopSpec>,
) -> Answer {
    let reason = spec.reason.as_ref();
    let act = Act::new("hooks pause", &hook).reason(reason);
    let admin = app.admin.acting(&actor, act);
    let stopped = admin.pause_hook(&hook, reason, &actor.by).await?;
    Ok(json(StatusCode::OK, &stopped))
}

async fn retry_hook(
    By(actor): By,
    State(app): State<App>,
    Named(hook): Named<Name>,
    Body(spec): Body<HookRetry>,
) -> Answer {
    let act = Act::new("streams retry", &hook).details(json!({"handler": spec.handler}));
    let admin = app.admin.acting(&actor, act);
    let released = admin.retry_hook(&hook, spec.handler.as_ref()).await?;
    Ok(json(StatusCode::OK, &released))
}

async fn resume_hook(
    By(actor): By,
    State(app): State<App>,
    Named(hook): Named<Name>,
    Body(spec): Body<HookStopSpec>,
) -> Answer {
    let act = Act::new("hooks resume", &hook).reason(spec.reason.as_ref());
    let stopped = app.admin.acting(&actor, act).resume_hook(&hook).await?;
    Ok(json(StatusCode::OK, &stopped))
}

async fn keys(_: Operator, State(app): State<App>) -> Answer {
    Ok(list(app.admin.keys().await?, None))
}

async fn create_key(By(actor): By, State(app): State<App>, Body(spec): Body<KeySpec>) -> Answer {
    let act = Act::new("keys create", &spec.name);
    let admin = app.admin.acting(&actor, act);
    let key = admin.create_key(&spec, &actor.by).await?;
    Ok(json(StatusCode::CREATED, &key))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReasonQuery {
    reason: Option<String>,
}

async fn revoke_key(
    By(actor): By,
    State(app): State<App>,
    Named(id): Named<String>,
    Params(why): Params<ReasonQuery>,
) -> Answer {
    let missing = || Error::not_found(format!("no key {id:?}"));
    let id = KeyId::parse(&id).ok_or_else(missing)?;
    let act = Act::new("keys revoke", id).reason(why.reason.as_ref());
    let admin = app.admin.acting(&actor, act);
    Ok(json(StatusCode::OK, &admin.revoke_key(id).await?))
}

async fn namespaces(_: Operator, State(app): State<App>) -> Answer {
    Ok(list(app.admin.namespaces().await?, None))
}

async fn create_namespace(
    By(actor): By,
    State(app): State<App>,
    Body(spec): Body<NamespaceSpec>,
) -> Answer {
    let details = json!({"lanes": spec.lanes, "warn_ms": spec.warn_ms, "crit_ms": spec.crit_ms});
    let act = Act::new("namespaces create", &spec.name).details(details);
    let admin = app.admin.acting(&actor, act);
    let namespace = admin.create_namespace(&spec).await?;
    Ok(json(StatusCode::CREATED, &namespace))
}

async fn delete_namespace(
    By(actor): By,
    State(app): State<App>,
    Named(name): Named<Name>,
) -> Answer {
    let admin = app
        .admin
        .acting(&actor, Act::new("namespaces delete", &name));
    Ok(json(StatusCode::OK, &admin.delete_namespace(&name).await?))
}

async fn lanes(_: Operator, State(app): State<App>, Params(query): Params<OfNamespace>) -> Answer {
    let namespace = name(query.namespace.as_deref())?;
    let namespace = namespace.unwrap_or_else(Name::default_namespace);
    Ok(list(app.admin.lanes(&namespace).await?, None))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamsQuery {
    hook: Option<String>,
    condition: Option<String>,
    sort: Option<String>,
    after: Option<i64>,
    limit: Option<i64>,
}

async fn streams(
    _: Operator,
    State(app): State<App>,
    Params(query): Params<StreamsQuery>,
) -> Answer {
    let filter = StreamsFilter {
        hook: name(query.hook.as_deref())?,
        condition: query.condition,
        oldest_first: match query.sort.as_deref() {
            Some("oldest") => true,
            None | Some("created") => false,
            Some(other) => {
                let message = format!("{other:?} is no order: oldest or created");
                return Err(Error::malformed(message));
            }
        },
        after: query.after,
        limit: limit(query.limit)?,
    };
    let (rows, next) = app.admin.streams(&filter).await?;
    Ok(list(rows, next.map(|after| after.to_string())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneStream {
    stream: String,
    #[serde(default)]
    events: i64,
}

/// Number of waiting events shown of a cursor.
const WAITING_MAX: i64 = 100;

async fn show_stream(
    _: Operator,
    State(app): State<App>,
    Params(query): Params<OneStream>,
) -> Answer {
    let stream = stream_name(&query.stream)?;
    if !(0..=WAITING_MAX).contains(&query.events) {
        let message = format!("events is 0 to {WAITING_MAX}, got {}", query.events);
        return Err(Error::malformed(message));
    }
    let shown = app.admin.show_stream(&stream, query.events).await?;
    Ok(json(StatusCode::OK, &shown))
}

fn stream_name(text: &str) -> Result<StreamName, Error> {
    let parsed = text.parse();
    parsed.map_err(|error: crate::domain::name::InvalidName| Error::malformed(error.to_string()))
}

async fn retry(By(actor): By, State(app): State<App>, Body(retry): Body<Retry>) -> Answer {
    let act = Act::new("streams retry", &retry.stream).details(json!({"handler": retry.handler}));
    let released = app.admin.acting(&actor, act).retry(&retry).await?;
    Ok(json(StatusCode::OK, &released))
}

async fn hold(By(actor): By, State(app): State<App>, Body(hold): Body<Hold>) -> Answer {
    let act = Act::new("streams hold", &hold.stream).details(json!({"handler": hold.handler}));
    let admin = app.admin.acting(&actor, act.reason(hold.reason.as_ref()));
    let held = admin.hold(&hold, &actor.by).await?;
    Ok(json(StatusCode::OK, &held))
}

async fn release(By(actor): By, State(app): State<App>, Body(release): Body<Retry>) -> Answer {
    let details = json!({"handler": release.handler});
    let act = Act::new("streams release", &release.stream).details(details);
    let released = app.admin.acting(&actor, act).release(&release).await?;
    Ok(json(StatusCode::OK, &released))
}

/// Erases streams. It goes on to its end even if the client leaves.
async fn erase(By(actor): By, State(app): State<App>, Body(spec): Body<EraseSpec>) -> Answer {
    let alias = spec.stream.as_ref().map(StreamName::alias);
    let hook = spec.hook.as_ref().map(Name::to_string);
    let act = Act::new("streams erase", alias.or(hook).unwrap_or_default());
    let admin = app.admin.acting(&actor, act.reason(spec.reason.as_ref()));
    let erasing = tokio::spawn(async move { admin.erase(&spec, &actor.by).await });
    let erased = erasing.await.map_err(|_| Error::internal())?;
    Ok(json(StatusCode::OK, &erased?))
}

async fn erasures(_: Operator, State(app): State<App>) -> Answer {
    Ok(json(StatusCode::OK, &app.admin.open_erasures().await?))
}

async fn skip(By(actor): By, State(app): State<App>, Body(skip): Body<Skip>) -> Answer {
    let act = Act::new("streams skip", &skip.stream);
    let skipped = app.admin.acting(&actor, act).skip(&skip).await?;
    Ok(json(StatusCode::OK, &skipped))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    hook: Option<String>,
    stream: Option<String>,
    since: Option<Timestamp>,
    #[serde(default)]
    dead: bool,
    #[serde(default)]
    late: bool,
    delivery: Option<String>,
    after: Option<EventId>,
    limit: Option<i64>,
}

impl EventsQuery {
    fn filter(self) -> Result<EventsFilter, Error> {
        Ok(EventsFilter {
            hook: name(self.hook.as_deref())?,
            stream: self.stream.as_deref().map(stream_name).transpose()?,
            since: self.since,
            before: self.after,
            dead: self.dead,
            late: self.late,
            delivery: self.delivery,
            limit: limit(self.limit)?,
        })
    }
}

async fn events(_: Operator, State(app): State<App>, Params(query): Params<EventsQuery>) -> Answer {
    let filter = query.filter()?;
    let rows = app.admin.events(&filter).await?;
    let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows == filter.limit);
    let next = rows
        .last()
        .filter(|_| is_full)
        .map(|row| row.event.to_string());
    Ok(list(rows, next))
}

async fn lost(_: Operator, State(app): State<App>) -> Answer {
    Ok(list(app.admin.lost_events().await?, None))
}

async fn confirm_lost(By(actor): By, State(app): State<App>) -> Answer {
    let act = Act::new("events lost --acknowledge", "all");
    let events = app.admin.acting(&actor, act).confirm_lost().await?;
    Ok(json(StatusCode::OK, &LostConfirmed { events }))
}

async fn replays(_: Operator, State(app): State<App>) -> Answer {
    Ok(list(app.admin.replays().await?, None))
}

async fn replay(By(actor): By, State(app): State<App>, Body(spec): Body<ReplaySpec>) -> Answer {
    let subject = match (&spec.stream, &spec.dead) {
        (Some(stream), _) => stream.to_string(),
        (None, Some(event)) => event.to_string(),
        (None, None) => String::new(),
    };
    let admin = app.admin.acting(&actor, Act::new("events replay", subject));
    Ok(json(StatusCode::OK, &admin.replay(&spec).await?))
}

async fn cancel_replay(By(actor): By, State(app): State<App>, Named(id): Named<i64>) -> Answer {
    let act = Act::new("events replays --cancel", id);
    let admin = app.admin.acting(&actor, act);
    Ok(json(StatusCode::OK, &admin.cancel_replay(id).await?))
}

async fn show_event(_: Operator, State(app): State<App>, Named(id): Named<EventId>) -> Answer {
    Ok(json(StatusCode::OK, &app.admin.show_event(id).await?))
}

/// Streams new events as server-sent events.
async fn tail(
    _: Operator,
    grant: Grant,
    State(app): State<App>,
    Params(query): Params<EventsQuery>,
) -> Answer {
    let mut filter = query.filter()?;
    if filter.delivery.is_some() {
        return Err(Error::malformed("one delivery is listed, not followed"));
    }
    if filter.dead {
        return Err(Error::malformed(
            "arriving events are no dead letters: list those with dead=true",
        ));
    }
    filter.limit = 1;
    let engine = app.engine.clone().ok_or_else(super::error::needs_daemon)?;
    // Subscribes before reading, so that no event falls in between. The read also reports at once when
    // the hook or stream does not exist.
    let stored = engine.stored();
    let newest = app.admin.events(&filter).await?;
    filter.limit = super::read::LIMIT_MAX;
    let tail = Tail {
        seen: newest.first().map(|row| row.event),
        stored,
        ready: Vec::new(),
        app,
        filter,
    };
    let rows = stream::unfold(tail, |mut tail| async move {
        let row = tail.next().await?;
        let event = sse::Event::default().event("event");
        let event = event.id(row.event.to_string()).json_data(&row).ok()?;
        Some((Ok::<_, Infallible>(event), tail))
    });
    Ok(server_sent(grant, rows))
}

struct Tail {
    app: App,
    filter: EventsFilter,
    /// The newest event already considered.
    seen: Option<EventId>,
    stored: tokio::sync::watch::Receiver<()>,
    /// Events that are read but not sent yet, newest first.
    ready: Vec<EventRow>,
}

impl Tail {
    async fn next(&mut self) -> Option<EventRow> {
        let mut stopping = self.app.stopping.clone();
        loop {
            if let Some(row) = self.ready.pop() {
                return Some(row);
            }
            tokio::select! {
                changed = self.stored.changed() => changed.ok()?,
                _ = stopping.changed() => return None,
            }
            let rows = self.app.admin.events(&self.filter).await.ok()?;
            let seen = self.seen;
            self.ready = rows
                .into_iter()
                .take_while(|row| Some(row.event) != seen)
                .collect();
            self.seen = self.ready.first().map(|row| row.event).or(seen);
        }
    }
}
