//! Pull routes: consumers take deliveries and answer for them. A call waits for events, and ends with
//! its wait time, its key, or when the node stops. Deliveries that do not reach their consumer are
//! given back.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde::de::DeserializeOwned;

use super::auth::{Access, who};
use super::error::Error;
use super::grant::Grant;
use super::{App, body, json};
use crate::admin::{self, lease_range};
use crate::api::{
    self, PullAnswers, PullDelivery, PullEvent, PullOutcomes, PullRequest, PullResponse,
    PullSettled,
};
use crate::domain::backoff::DELAY_MAX;
use crate::domain::hook::{Handler, Hook};
use crate::domain::pull::{
    EVENTS_DEFAULT, EVENTS_MAX, LEASES, Pull, STREAMS_DEFAULT, STREAMS_MAX, WAIT_DEFAULT, WAIT_MAX,
};
use crate::domain::time::parse_duration;
use crate::domain::token::Token;
use crate::engine::Engine;
use crate::engine::pull::{Answer, Answered, ConsumerRequest, Delivered, Deliveries, Nack};
use crate::text::duration;

/// Size limit of a request body, in bytes.
const BODY_MAX: u64 = 1024 * 1024;

/// Number of answers in one call.
const ANSWERS_MAX: usize = 1_000;

/// Length limit of a reason, in characters.
const REASON_MAX: usize = 500;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/hooks/{hook}/pull/{handler}", post(pull))
        .route("/v1/hooks/{hook}/pull/{handler}/ack", post(answer))
}

/// Extractor for a client that may take deliveries of a handler.
struct Consumer {
    engine: Arc<Engine>,
    handler: Arc<Handler>,
    grant: Grant,
    name: String,
}

impl FromRequestParts<App> for Consumer {
    type Rejection = Error;

    /// Without a right to the hook, an existing hook looks like one that does not exist.
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        let access = Access::from_request_parts(parts, app).await?;
        let engine = app.engine.clone().ok_or_else(super::error::needs_daemon)?;
        let path = Path::<(String, String)>::from_request_parts(parts, app).await;
        let Ok(Path((hook_name, name))) = path else {
            return Err(Error::malformed("the path is no text"));
        };
        let by = who(access, parts, app);
        let hook = engine.catalog.peek().hooks.get(hook_name.as_str()).cloned();
        let hook = match hook {
            Some(hook) if access.may_read(Some(hook.id)) => hook,
            None if access.may_read(None) => {
                return Err(Error::not_found(format!("no hook {hook_name:?}")));
            }
            _ => return Err(Error::unauthorized()),
        };
        if !access.may_consume(app, &name) {
            return Err(forbidden(&by, &hook, &name));
        }
        let mut pulls = hook.handlers.iter().filter(|of| of.pull().is_some());
        let Some(handler) = pulls.find(|of| of.name.as_str() == name) else {
            let message = format!("hook {} has no pull handler {name:?}", hook.name);
            let make = format!("hooklane hooks edit {} --pull NAME", hook.name);
            return Err(Error::not_found(message).next(make));
        };
        Ok(Self {
            engine,
            handler: handler.clone(),
            grant: Grant::of(access, app),
            name: by,
        })
    }
}

fn forbidden(by: &str, hook: &Hook, handler: &str) -> Error {
    let hook = &hook.name;
    let make = format!("hooklane keys create --type read --hook {hook} --consume NAME --name NAME");
    Error::forbidden(format!(
        "{by} may not take deliveries of {hook} -> {handler}"
    ))
    .hint("needs a read key that was made with --consume for this handler, or type admin")
    .next(make)
}

/// Extractor for a JSON body of any content type; an empty body gives the defaults.
struct Said<T>(T);

impl<T: DeserializeOwned + Default> FromRequest<App> for Said<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &App) -> Result<Self, Error> {
        let (head, body) = request.into_parts();
        let body = body::read(&head.headers, body, BODY_MAX, |_| true).await?;
        if body.trim_ascii().is_empty() {
            return Ok(Self(T::default()));
        }
        let said = serde_json::from_slice(&body);
        said.map(Self)
            .map_err(|wrong| Error::malformed(format!("the body is not as documented: {wrong}")))
    }
}

async fn pull(
    State(app): State<App>,
    consumer: Consumer,
    Said(asked): Said<PullRequest>,
) -> Result<Response, Error> {
    let request = consumer_request(&asked, consumer.handler.pull(), &consumer.name)?;
    let mut stopping = app.stopping.clone();
    let pulled = consumer.grant.cover(async {
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stops| *stops) => None,
            pulled = consumer.engine.pull(consumer.handler.id, request) => Some(pulled),
        }
    });
    // If the key was revoked meanwhile, the claimed deliveries are given back instead of sent.
    match pulled.await? {
        Some(deliveries) => Ok(given(deliveries.map_err(admin::Error::from)?)),
        None => Ok(json(
            StatusCode::OK,
            &PullResponse {
                deliveries: Vec::new(),
            },
        )),
    }
}

/// An answer whose deliveries count as handed over once the connection takes it.
fn given(deliveries: Deliveries) -> Response {
    let shown = PullResponse {
        deliveries: deliveries.items.iter().map(shown).collect(),
    };
    if shown.deliveries.is_empty() {
        return json(StatusCode::OK, &shown);
    }
    let Ok(text) = serde_json::to_vec(&shown) else {
        return axum::response::IntoResponse::into_response(Error::internal());
    };
    let length = text.len();
    let mut response = json(StatusCode::OK, &());
    let taken = stream::once(async move {
        deliveries.handed_over();
        Ok::<_, std::convert::Infallible>(Bytes::from(text))
    });
    *response.body_mut() = Body::from_stream(taken);
    let length = HeaderValue::from(length);
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

fn shown(delivered: &Delivered) -> PullDelivery {
    PullDelivery {
        token: delivered.token.to_string(),
        stream: delivered.stream.clone(),
        attempt: delivered.attempt,
        epoch: delivered.token.number,
        lease_until: delivered.lease_until,
        replay: delivered.replay.map(|replay| replay.0),
        events: delivered
            .events
            .iter()
            .map(|event| PullEvent::from(&**event))
            .collect(),
    }
}

fn consumer_request(
    asked: &PullRequest,
    pull: Option<&Pull>,
    consumer: &str,
) -> Result<ConsumerRequest, Error> {
    let count =
        |field: &str, given: Option<u32>, default: u32, most: u32| match given.unwrap_or(default) {
            count if (1..=most).contains(&count) => Ok(usize::try_from(count).unwrap_or(1)),
            other => Err(Error::malformed(format!(
                "{field} is 1 to {most}, got {other}"
            ))),
        };
    let wait = match &asked.wait {
        Some(text) => period("wait", text)?,
        None => WAIT_DEFAULT,
    };
    if wait > WAIT_MAX {
        let (most, got) = (duration(WAIT_MAX), duration(wait));
        return Err(Error::malformed(format!("wait is 0s to {most}, got {got}")));
    }
    Ok(ConsumerRequest {
        streams_max: count(
            "max_streams",
            asked.max_streams,
            STREAMS_DEFAULT,
            STREAMS_MAX,
        )?,
        events_max: count("max_events", asked.max_events, EVENTS_DEFAULT, EVENTS_MAX)?,
        wait,
        lease: lease(asked.lease.as_deref(), pull)?,
        consumer: consumer.to_owned(),
    })
}

fn period(field: &str, text: &str) -> Result<Duration, Error> {
    parse_duration(text).map_err(|wrong| Error::malformed(format!("{field}: {wrong}")))
}

fn lease(text: Option<&str>, pull: Option<&Pull>) -> Result<Duration, Error> {
    let Some(text) = text else {
        return Ok(pull.map_or(crate::domain::pull::LEASE_DEFAULT, |pull| pull.lease));
    };
    let lease = period("lease", text)?;
    match LEASES.contains(&lease) {
        true => Ok(lease),
        false => Err(Error::malformed(lease_range(text))),
    }
}

async fn answer(consumer: Consumer, Said(said): Said<PullAnswers>) -> Result<Response, Error> {
    let given = answers(&said, &consumer)?;
    if given.is_empty() {
        return Err(Error::malformed(
            "there is nothing in it: acks, nacks or extends",
        ));
    }
    let answered = consumer.engine.answer(&consumer.handler, &given).await;
    let answered = answered.map_err(admin::Error::from)?;
    let status = match answered[..] {
        [Answered::Stale { .. }] => StatusCode::CONFLICT,
        _ => StatusCode::OK,
    };
    let mut settled = given
        .iter()
        .zip(answered)
        .map(|((token, _), answered)| settled(token, answered));
    let answered = PullOutcomes {
        acks: settled.by_ref().take(said.acks.len()).collect(),
        nacks: settled.by_ref().take(said.nacks.len()).collect(),
        extends: settled.collect(),
    };
    Ok(json(status, &answered))
}

/// The answers of a request, in the order acks, nacks, extends. If one of them is malformed, none is
/// carried out.
fn answers(said: &PullAnswers, consumer: &Consumer) -> Result<Vec<(Token, Answer)>, Error> {
    let handler = &consumer.handler;
    let catalog = consumer.engine.catalog.now();
    let is_replay = |id| {
        let replay = catalog.handlers.get(&id).and_then(|of| of.replay);
        replay.is_some_and(|replay| replay.of == handler.id)
    };
    let number = said.acks.len() + said.nacks.len() + said.extends.len();
    if number > ANSWERS_MAX {
        return Err(Error::malformed(format!(
            "at most {ANSWERS_MAX} answers in one call, got {number}"
        )));
    }
    let token = |text: &str| match Token::from_str(text) {
        Ok(token) if token.cursor.handler == handler.id => Ok(token),
        Ok(token) if is_replay(token.cursor.handler) => Ok(token),
        Ok(_) => Err(Error::unprocessable(
            "other_handler",
            format!("the token is of another handler than {}", handler.name),
        )),
        Err(wrong) => Err(Error::malformed(wrong.to_string())),
    };
    let acks = said.acks.iter();
    let acks = acks.map(|ack| Ok((token(&ack.token)?, Answer::Ack(ack.seq))));
    let nacks = said.nacks.iter();
    let nacks = nacks.map(|nack| Ok((token(&nack.token)?, Answer::Nack(given_back(nack)?))));
    let extends = said.extends.iter().map(|extend| {
        let lease = lease(extend.lease.as_deref(), handler.pull())?;
        Ok((token(&extend.token)?, Answer::Extend(lease)))
    });
    acks.chain(nacks).chain(extends).collect()
}

fn given_back(said: &api::PullNack) -> Result<Nack, Error> {
    let retry_in = said.retry_in.as_deref();
    let retry_in = retry_in.map(|text| period("retry_in", text)).transpose()?;
    if retry_in.is_some_and(|wait| wait > DELAY_MAX) {
        let most = duration(DELAY_MAX);
        return Err(Error::malformed(format!("retry_in is 0s to {most}")));
    }
    let reason = said.reason.as_ref();
    Ok(Nack {
        seq: said.seq,
        retry_in,
        reason: reason.map(|text| text.chars().take(REASON_MAX).collect()),
    })
}

fn settled(token: &Token, answered: Answered) -> PullSettled {
    let (code, position, lease_until) = match answered {
        Answered::Done {
            position,
            lease_until,
        } => (None, position, lease_until),
        Answered::Stale { position } => (Some("stale"), position, None),
        Answered::OutOfRange { position } => (Some("out_of_range"), position, None),
    };
    PullSettled {
        token: token.to_string(),
        ok: code.is_none(),
        code: code.map(str::to_owned),
        position,
        lease_until,
    }
}
