//! Answers to handshakes. They are short, of a type that no browser interprets, and never stored.

use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;

use super::auth::{self, Access};
use super::edge::Peer;
use super::error::Error;
use super::json as json_answer;
use crate::domain::handshake::{self, Answer, Handshake, Unfit};
use crate::domain::hook::Hook;
use crate::domain::verify::Verify;
use crate::domain::verify::claim::Request;
use crate::engine::Engine;

/// Answers a handshake that needs neither body nor signature; `None` if the request is an event. The
/// access of the sender must have been checked.
///
/// # Errors
/// 400 for a malformed handshake, 401 for a wrong token.
pub(super) async fn by_head(
    engine: &Engine,
    hook: &Hook,
    head: &Parts,
    peer: Peer,
) -> Option<Result<Response, Error>> {
    let query = head.uri.query().unwrap_or_default();
    match hook.handshake? {
        Handshake::Graph => handshake::graph(query).map(answered),
        asked if !asked.is_by(head.method.as_str()) => None,
        Handshake::X => Some(hashed(hook, query)),
        Handshake::Meta => Some(subscribed(engine, hook, query, peer).await),
        _ => Some(Ok(response(Answer::Empty))),
    }
}

/// Answers a handshake whose signature has been verified; `None` if the request is an event.
///
/// # Errors
/// 400 for a text that may not be repeated.
pub(super) fn signed(
    hook: &Hook,
    verify: &Verify,
    (head, body): (&Parts, &[u8]),
) -> Option<Result<Response, Error>> {
    let url = verify.url(head.uri.query());
    let request = Request {
        method: head.method.as_str(),
        url: &url,
        headers: &head.headers,
        body,
    };
    handshake::signed(hook.handshake, verify, &request).map(answered)
}

/// The answer to the handshake of X (Twitter): its token, hashed with the secret of the hook. The sender
/// is asked to try again while the secrets cannot be decrypted.
fn hashed(hook: &Hook, query: &str) -> Result<Response, Error> {
    let verify = hook.verify.as_ref().ok_or_else(Error::unauthorized)?;
    if verify.secrets.is_locked() {
        let message = "the hook cannot answer now";
        return Err(Error::unavailable("secrets_locked", message, 60));
    }
    answered(handshake::x(query, verify))
}

/// The verify token is a write key of this hook, so that it is kept as a hash and can be revoked.
async fn subscribed(
    engine: &Engine,
    hook: &Hook,
    query: &str,
    peer: Peer,
) -> Result<Response, Error> {
    let subscription = handshake::meta(query).map_err(malformed)?;
    let access = auth::access(engine, peer, &HeaderMap::new(), Some(&subscription.token)).await;
    let access = match access {
        Err(error) if error.status() == StatusCode::UNAUTHORIZED => Access::Nobody,
        access => access?,
    };
    match access.may_write(hook.id) && !subscription.token.is_empty() {
        true => Ok(response(subscription.answer)),
        false => Err(Error::unauthorized()),
    }
}

fn answered(answer: Result<Answer, Unfit>) -> Result<Response, Error> {
    answer.map(response).map_err(malformed)
}

fn malformed(unfit: Unfit) -> Error {
    Error::malformed(format!("the handshake cannot be answered: {unfit}"))
}

fn response(answer: Answer) -> Response {
    let text = match answer {
        Answer::Empty => String::new(),
        Answer::Text(text) => text,
        Answer::Hmac(text) => {
            return json_answer(StatusCode::OK, &json!({"response_token": text}));
        }
        Answer::Tokens { plain, encrypted } => {
            let tokens = json!({"plainToken": plain, "encryptedToken": encrypted});
            return json_answer(StatusCode::OK, &tokens);
        }
    };
    let mut response = Response::new(text.into());
    let headers = response.headers_mut();
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, text);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
