//! `POST /in/{hook}`: cheap checks first, then the body, then a place in the queue. The answer comes
//! when the event is durable.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::auth::{self, Access, KEY_HEADER};
use super::dedupe::{DedupeKey, dedupe_key};
use super::edge::{Admission, Peer};
use super::error::Error;
use super::grant::Grant;
use super::handshake;
use super::verify::{self, NotVerified};
use super::{App, body, json};
use crate::api::Accepted;
use crate::domain::event::{EventId, QUERY};
use crate::domain::handshake::Handshake;
use crate::domain::hook::{Hook, OrderBy, Unordered};
use crate::domain::lane::Slot;
use crate::domain::name::OrderingKey;
use crate::domain::time::Timestamp;
use crate::domain::version::Version;
use crate::engine::Engine;
use crate::engine::catalog::{Stale, Trusted};
use crate::engine::intake::{Answer, Refused, Room};
use crate::metrics;
use crate::store::{self, Appended, NewEvent, Provided};

/// Path prefix of the hooks' URLs.
pub const PATH: &str = "/in/";

/// Answers a request under [`PATH`].
pub async fn receive(
    app: App,
    request: Request<Incoming>,
    peer: Peer,
    admission: &Admission,
) -> Response {
    let Some(engine) = app.engine.clone() else {
        return Error::not_found("nothing receives here").into_response();
    };
    match accept(&app, &engine, request, peer, admission).await {
        Ok(response) => response,
        Err(refusal) => {
            engine.metrics.refused(refusal.reason);
            refusal.error.into_response()
        }
    }
}

/// An answer other than 2xx, with the reason under which it is counted.
struct Refusal {
    error: Box<Error>,
    reason: metrics::Refused,
}

impl Refusal {
    fn new(reason: metrics::Refused, error: Error) -> Self {
        let error = Box::new(error);
        Self { error, reason }
    }
}

async fn accept(
    app: &App,
    engine: &Engine,
    request: Request<Incoming>,
    peer: Peer,
    admission: &Admission,
) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let (hook, access) = admit(engine, &head, peer).await?;
    if let Some(answer) = handshake::by_head(engine, &hook, &head, peer).await {
        return answer.map_err(not_greeted);
    }
    // The socket belongs to the operator, so its requests need no signature.
    let verify = hook.verify.as_ref().filter(|_| access != Access::Socket);
    match verify {
        Some(verify) => {
            verify::check_head(engine, &hook, verify, &head, peer).map_err(not_verified)?
        }
        None => admission.grant(),
    }
    body::check(&head.headers, &body, hook.body_max).map_err(unread)?;
    let mut room = engine.intake.room(hook.id, 0).map_err(no_room)?;
    let body = read(&mut room, &hook, &head.headers, body).await?;
    // The key may have been revoked while the body was read.
    let grant = Grant::of(access, app);
    if !grant.holds().await.map_err(stale)? {
        return Err(unauthorized(Error::unauthorized()));
    }
    if verify.is_some() {
        // The secret of the sender may have been removed while the body was read.
        let catalog = engine.catalog.trusted().await.map_err(stale)?;
        let now = catalog.hooks_by_id.get(&hook.id);
        let verify = now.and_then(|hook| hook.verify.as_ref());
        let verify = verify.ok_or_else(|| unauthorized(Error::unauthorized()))?;
        verify::check(engine, &hook, verify, (&head, &body), peer).map_err(not_verified)?;
        admission.grant();
        if let Some(answer) = handshake::signed(&hook, verify, (&head, &body)) {
            return answer.map_err(not_greeted);
        }
    }
    let key = ordering_key(&hook, &head.headers, &body)?;
    let dedupe_key = dedupe_key(&hook, &head.headers, &body).map_err(ambiguous)?;
    let promised = Promised::of(dedupe_key.as_ref(), &body);

    let received_at = Timestamp::now();
    let provided = provided(&hook, (&head.headers, &body), received_at);
    let waits_until = provided.as_ref().and_then(|provided| provided.due_at);
    let event = NewEvent {
        hook: hook.id,
        slot: Slot::of(&hook.name, &key),
        key: key.clone(),
        id: EventId::new(received_at),
        received_at,
        key_id: access.key(),
        dedupe_key: dedupe_key.map(|key| key.text),
        headers: headers_of(&head.headers, head.uri.query()).into(),
        body,
        provided,
    };
    let id = event.id;
    let answer = room.let_in(event).map_err(no_room)?;
    let outcome = outcome(engine, answer).await;
    let accepted = |event, seq, received_at, duplicate| Accepted {
        event,
        hook: hook.name.clone(),
        stream: key.clone(),
        seq,
        received_at,
        waits_until: None,
        duplicate,
    };
    match outcome {
        Ok(Appended::New { seq, .. }) => {
            engine.metrics.events_accepted.inc();
            let accepted = accepted(id, Some(seq), received_at, false);
            Ok(json(StatusCode::ACCEPTED, &accepted))
        }
        Ok(Appended::HeldBack) => {
            engine.metrics.events_accepted.inc();
            let accepted = Accepted {
                waits_until,
                ..accepted(id, None, received_at, false)
            };
            Ok(json(StatusCode::ACCEPTED, &accepted))
        }
        Ok(Appended::Duplicate {
            id,
            seq,
            received_at,
        }) => {
            if let Some(promised) = promised {
                promised.keep(engine, &hook, &key, id).await?;
            }
            engine.metrics.events_duplicate.inc();
            Ok(json(StatusCode::OK, &accepted(id, seq, received_at, true)))
        }
        Ok(Appended::Gone) => Err(unauthorized(Error::unauthorized())),
        Ok(Appended::Refused) => Err(not_stored(&store::Error::Integrity(String::new()))),
        Err(error) => Err(not_stored(&error)),
    }
}

/// Waits for the outcome of an event. While the database is known not to answer, its outcome may be resolved
/// for seconds; the sender is told after half a second that it is not known. The event is stored or not, as if
/// the sender had disconnected.
async fn outcome(engine: &Engine, answer: oneshot::Receiver<Answer>) -> Answer {
    tokio::select! {
        biased;
        // The channel closes without an answer only when the process stops.
        answer = answer => answer.unwrap_or(Err(Arc::new(store::Error::Closed))),
        () = engine.store.stays_silent() => {
            Err(Arc::new(store::Error::Lost("no answer in time".to_owned())))
        }
    }
}

/// Reads the body into memory that was reserved before.
async fn read(
    room: &mut Room<'_>,
    hook: &Hook,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Bytes, Refusal> {
    let mut refused = None;
    let take_room = |bytes| {
        let grown = room.grow(bytes);
        refused = grown.err();
        refused.is_none()
    };
    let read = body::read(headers, body, hook.body_max, take_room).await;
    read.map_err(|error| refused.map_or_else(|| unread(error), no_room))
}

fn unread(error: body::Error) -> Refusal {
    Refusal::new(reason_of(error), error.into())
}

/// Finds the hook and checks the sender's access. An unknown hook and a wrong key get the same answer.
async fn admit(engine: &Engine, head: &Parts, peer: Peer) -> Result<(Arc<Hook>, Access), Refusal> {
    let path = head.uri.path().strip_prefix(PATH).unwrap_or_default();
    let (name, in_path) = match path.split_once('/') {
        Some((name, key)) => (name, Some(key)),
        None => (path, None),
    };
    let access = auth::access(engine, peer, &head.headers, in_path).await;
    let catalog = engine.catalog.trusted().await.map_err(stale)?;
    let hook = catalog.hooks.get(name);
    // On a hook that verifies, the signature replaces the write key, even if the sender presents one.
    let verifies = hook.is_some_and(|hook| hook.verify.is_some());
    let access = match access {
        Err(error) if verifies && error.status() == StatusCode::UNAUTHORIZED => Access::Nobody,
        access => access.map_err(not_admitted)?,
    };
    if access == Access::Nobody && !verifies {
        return Err(unauthorized(Error::unauthorized()));
    }
    let hook = match (hook, access) {
        (Some(hook), access) if access.may_write(hook.id) => hook.clone(),
        (Some(hook), _) if verifies => hook.clone(),
        (None, Access::Socket) => {
            let error = Error::not_found(format!("no hook {name:?}"));
            return Err(Refusal::new(metrics::Refused::Key, error));
        }
        _ => return Err(unauthorized(Error::unauthorized())),
    };
    accepts_from(engine, &hook, head, peer)?;
    let is_handshake = |asked: Handshake| asked.is_by(head.method.as_str());
    if head.method != Method::POST && !hook.handshake.is_some_and(is_handshake) {
        if access == Access::Nobody {
            return Err(unauthorized(Error::unauthorized()));
        }
        let error = Error::method("POST");
        return Err(Refusal::new(metrics::Refused::Malformed, error));
    }
    within_rate(&catalog, access)?;
    Ok((hook, access))
}

/// Checks that the hook accepts requests from the sender's address. The socket belongs to the operator.
fn accepts_from(engine: &Engine, hook: &Hook, head: &Parts, peer: Peer) -> Result<(), Refusal> {
    let Some(ip) = peer.ip().filter(|_| !hook.allow_from.is_empty()) else {
        return Ok(());
    };
    if hook.allow_from.contain(ip) {
        return Ok(());
    }
    verify::note_address(engine, hook, head, peer);
    let error = Error::forbidden(format!("this hook accepts no requests from {ip}"));
    Err(Refusal::new(metrics::Refused::Address, error))
}

/// Takes a token from the key's rate limit, if it has one. Each request costs a token, even if it is
/// refused.
fn within_rate(catalog: &Trusted, access: Access) -> Result<(), Refusal> {
    let Access::Key { id, .. } = access else {
        return Ok(());
    };
    let bucket = catalog.key(id).and_then(|live| live.bucket.as_ref());
    let taken = bucket.map_or(Ok(()), |bucket| bucket.take(Instant::now()));
    taken.map_err(|wait| {
        let seconds = wait.as_millis().div_ceil(1_000);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        Refusal::new(metrics::Refused::Rate, Error::too_many(seconds))
    })
}

/// The refusal of a signed request. It hides the cause from the sender; `hooklane why HOOK` tells the
/// operator.
fn not_verified(cause: NotVerified) -> Refusal {
    match cause {
        NotVerified::Unsigned => Refusal::new(metrics::Refused::Signature, Error::unauthorized()),
        NotVerified::Locked => {
            let message = "the hook cannot verify senders now; nothing was stored";
            let error = Error::unavailable("secrets_locked", message, 60);
            Refusal::new(metrics::Refused::Locked, error)
        }
    }
}

fn unauthorized(error: Error) -> Refusal {
    Refusal::new(metrics::Refused::Key, error)
}

fn not_admitted(error: Error) -> Refusal {
    let reason = match error.status() {
        StatusCode::SERVICE_UNAVAILABLE => metrics::Refused::Busy,
        _ => metrics::Refused::Key,
    };
    Refusal::new(reason, error)
}

fn stale(stale: Stale) -> Refusal {
    not_admitted(stale.into())
}

fn reason_of(error: body::Error) -> metrics::Refused {
    match error {
        body::Error::TooLarge { .. } => metrics::Refused::TooLarge,
        body::Error::TooSlow => metrics::Refused::TooSlow,
        body::Error::Encoded => metrics::Refused::Encoded,
        body::Error::Aborted => metrics::Refused::Aborted,
        body::Error::Malformed => metrics::Refused::Malformed,
        body::Error::NoRoom => metrics::Refused::QueueFull,
    }
}

/// The refusal of a request for which there is no memory. Refusals happen only here: an admitted
/// request is never dropped.
fn no_room(refused: Refused) -> Refusal {
    let code = match refused {
        Refused::Full => "queue_full",
        Refused::HookFull => "hook_queue_full",
        Refused::Stopping => "stopping",
    };
    let error = Error::unavailable(code, refused.to_string(), 1);
    Refusal::new(metrics::Refused::QueueFull, error)
}

fn not_stored(error: &store::Error) -> Refusal {
    use metrics::Refused as Reason;
    let (reason, code, message, seconds) = match error {
        store::Error::Space => (
            Reason::DiskFull,
            "disk_full",
            "the disk is full; nothing was stored",
            10,
        ),
        store::Error::Memory(_) => (
            Reason::Unknown,
            "out_of_memory",
            "the database is out of memory; whether this was stored is not known",
            5,
        ),
        store::Error::Io(_) | store::Error::Malformed(_) | store::Error::Lost(_) => (
            Reason::Unknown,
            "unknown",
            "the database failed; whether this was stored is not known",
            5,
        ),
        store::Error::Away(_) => (
            Reason::Busy,
            "away",
            "the database does not answer; nothing was stored",
            1,
        ),
        store::Error::Closed => (Reason::Unknown, "stopping", "the node is stopping", 1),
        _ => (
            Reason::Busy,
            "busy",
            "database unavailable; nothing was stored",
            1,
        ),
    };
    Refusal::new(reason, Error::unavailable(code, message, seconds))
}

/// The refusal of a handshake.
fn not_greeted(error: Error) -> Refusal {
    match error.status() {
        StatusCode::BAD_REQUEST => Refusal::new(metrics::Refused::Malformed, error),
        _ => not_admitted(error),
    }
}

/// The ordering key of an event, by the rule of its hook.
fn ordering_key(hook: &Hook, headers: &HeaderMap, body: &[u8]) -> Result<OrderingKey, Refusal> {
    let OrderBy::Place(place) = &hook.order_by else {
        return Ok(OrderingKey::none());
    };
    match (place.find(headers, body), hook.unordered) {
        (Ok(key), _) => Ok(OrderingKey::new(&key)),
        (Err(_), Unordered::Keep) => Ok(OrderingKey::none()),
        (Err(absent), Unordered::Refuse) => Err(Refusal::new(
            metrics::Refused::OrderingKey,
            Error::unprocessable(
                "ordering_key_missing",
                format!("the event has no ordering key ({place}): {absent}"),
            )
            .hint("send it, or let such events into the hook's own stream: --unordered keep"),
        )),
    }
}

/// The event's place in the provider's order, by the rule of its hook. An event without a version does
/// not wait: it gets its seq at once.
fn provided(
    hook: &Hook,
    (headers, body): (&HeaderMap, &[u8]),
    received_at: Timestamp,
) -> Option<Provided> {
    let rule = hook.versioning.as_ref()?;
    let version = Version::of(&rule.by, hook.version_rule, headers, body);
    let due_at = |window| match version {
        Some(_) => received_at.after(window),
        None => received_at,
    };
    Some(Provided {
        due_at: rule.window.map(due_at),
        late: rule.late,
        version,
    })
}

/// The refusal of a request with two different dedupe keys.
fn ambiguous(why: String) -> Refusal {
    let error = Error::unprocessable("dedupe_key_ambiguous", format!("the event has {why}"));
    let error = error.hint("send one value: it is the key by which a repeat is known");
    Refusal::new(metrics::Refused::DedupeKey, error)
}

/// A dedupe key whose sender promises always the same body.
struct Promised {
    key: String,
    body: Bytes,
}

impl Promised {
    fn of(key: Option<&DedupeKey>, body: &Bytes) -> Option<Self> {
        let key = key.filter(|key| key.names_one_body)?;
        Some(Self {
            key: key.text.clone(),
            body: body.clone(),
        })
    }

    /// Compares the body with that of the event that had this key first. If that event has been pruned,
    /// any body passes.
    async fn keep(
        self,
        engine: &Engine,
        hook: &Hook,
        key: &OrderingKey,
        first: EventId,
    ) -> Result<(), Refusal> {
        let is_kept = engine
            .store
            .repeats_body(hook.id, key, &self.key, &self.body)
            .await
            .map_err(|error| not_stored(&error))?;
        if is_kept {
            return Ok(());
        }
        let message = format!(
            "the idempotency key {:?} came before with another body, as event {first}",
            self.key
        );
        let error = Error::unprocessable("idempotency_key_reused", message)
            .hint("nothing was stored; give each event an idempotency key of its own");
        Err(Refusal::new(metrics::Refused::IdempotencyKey, error))
    }
}

/// The URL's query and the headers as a JSON object in their order, without credentials and connection
/// headers. Repeated headers are joined as RFC 9110 §5.3 allows.
fn headers_of(headers: &HeaderMap, query: Option<&str>) -> String {
    const LEFT_OUT: [&str; 7] = [
        "connection",
        "keep-alive",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "expect",
    ];
    let mut text = String::with_capacity(256);
    text.push('{');
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        push_text(&mut text, QUERY);
        text.push(':');
        push_text(&mut text, query);
    }
    for name in headers.keys() {
        let secret = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, KEY_HEADER].contains(name);
        if secret || LEFT_OUT.contains(&name.as_str()) {
            continue;
        }
        if text.len() > 1 {
            text.push(',');
        }
        push_text(&mut text, name.as_str());
        text.push(':');
        push_text(&mut text, &joined(headers, name));
    }
    text.push('}');
    text
}

fn joined<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Cow<'h, str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().map(|value| value.as_bytes());
    let mut text = String::from_utf8_lossy(first.unwrap_or_default());
    for value in values {
        let text = text.to_mut();
        text.push_str(", ");
        text.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    text
}

fn push_text(json: &mut String, text: &str) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        json.push_str(&serde_json::Value::from(text).to_string());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_kept_without_credentials_and_with_every_value() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "Bearer x".parse().unwrap());
        headers.insert(KEY_HEADER, "hl_w_x".parse().unwrap());
        headers.append("x-a", "1".parse().unwrap());
        headers.append("x-a", "\"2\"".parse().unwrap());
        headers.insert("x-b", http::HeaderValue::from_bytes(b"\xff").unwrap());
        let kept: serde_json::Value = serde_json::from_str(&headers_of(&headers, None)).unwrap();
        let wanted = serde_json::json!({"x-a": "1, \"2\"", "x-b": "\u{fffd}"});
        assert_eq!(kept, wanted);
    }
}
