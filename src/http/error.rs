//! Refusals: a status and `{"error":{"code","message","hint"}}`.
//!
//! Codes are stable, for programs; messages are for people and may change. Internal causes are not
//! revealed: errors that a sender cannot fix are [`Error::internal`], and their cause is logged.

use std::borrow::Cow;
use std::fmt;

use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::domain::feed::FeedCursor;
use crate::engine::catalog::Stale;
use crate::{admin, store};

/// Error answer to a request: a stable code, a message, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Error {
    #[serde(skip)]
    status: StatusCode,
    #[serde(skip)]
    extra: Extra,
    code: &'static str,
    message: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<Cow<'static, str>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    next: Box<[String]>,
    /// Cursor of a feed that goes on behind a gap.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<Box<FeedCursor>>,
}

/// Header of a refusal besides its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extra {
    Nothing,
    Authenticate,
    Allow(&'static str),
    RetryAfter(u32),
    /// The rest of the request was not read, so the connection must be closed.
    Close,
}

impl Error {
    /// A refusal with a status, a stable code and a message.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            extra: Extra::Nothing,
            code,
            message: message.into(),
            hint: None,
            next: Box::default(),
            cursor: None,
        }
    }

    /// A refusal after which the connection is closed, because what follows cannot be read.
    pub fn closing(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(status, code, message).with(Extra::Close)
    }

    /// The complete HTTP answer as text, for a connection on which no request was read. It closes the
    /// connection.
    pub fn as_bytes_sent(&self) -> String {
        let body = serde_json::to_string(&Failure { error: self }).unwrap_or_default();
        format!(
            "HTTP/1.1 {}\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            self.status,
            body.len()
        )
    }

    /// Adds advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a command to run next.
    #[must_use]
    pub fn next(mut self, command: impl Into<String>) -> Self {
        let mut next = self.next.into_vec();
        next.push(command.into());
        self.next = next.into();
        self
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// 400 `malformed`: the request cannot be understood.
    pub fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", message)
    }

    /// 401 `unauthorized`: the same answer to a missing key, a wrong one and an unknown hook.
    pub fn unauthorized() -> Self {
        let message = "no such hook, or no good key or signature for it";
        let hint = "send the key as Authorization: Bearer KEY or X-Hooklane-Key: KEY";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
            .hint(hint)
            .with(Extra::Authenticate)
    }

    /// 403 `forbidden`: the key is valid, but not for this.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 404 `not_found`.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// 405 `method`: the path accepts only the methods in `allow`, such as `GET, POST`.
    pub fn method(allow: &'static str) -> Self {
        let message = format!("this path takes {allow}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method", message).with(Extra::Allow(allow))
    }

    /// 405 `method`, for the router, which itself adds `Allow`.
    pub fn other_method() -> Self {
        let message = "this path takes other methods";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method", message)
    }

    /// 408 `too_slow`: the body did not arrive in time.
    pub fn too_slow() -> Self {
        let message = "the body came too slowly";
        Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message).with(Extra::Close)
    }

    /// 409: the request conflicts with the present state.
    pub fn conflict(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// 410 `gone`: what comes behind the cursor cannot be read any more. `cursor` goes on behind the gap.
    pub fn gone(message: impl Into<Cow<'static, str>>, cursor: FeedCursor) -> Self {
        let mut gone = Self::new(StatusCode::GONE, "gone", message)
            .hint(format!("after={cursor} goes on behind the gap"));
        gone.cursor = Some(Box::new(cursor));
        gone
    }

    /// 412 `changed`: the configuration is not the one that the plan was based on.
    pub fn changed() -> Self {
        let message = "hooks, keys, namespaces or lanes were changed since the plan was made. \
            Nothing was changed now.";
        Self::new(StatusCode::PRECONDITION_FAILED, "changed", message)
            .hint("look again, then decide")
            .next("hooklane audit list")
    }

    /// 413 `too_large`: the body is longer than `max` bytes.
    pub fn too_large(max: u64) -> Self {
        let message = format!("the body is longer than {max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message).with(Extra::Close)
    }

    /// 415 `encoded`: the body is compressed.
    pub fn encoded() -> Self {
        let message = "the body has a Content-Encoding";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoded", message)
            .hint("send it as it is")
            .with(Extra::Close)
    }

    /// 422: the request is understood but cannot be carried out.
    pub fn unprocessable(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message)
    }

    /// 429 `too_many`: retry after `seconds`.
    pub fn too_many(seconds: u32) -> Self {
        let message = "too many requests with this key";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many", message)
            .with(Extra::RetryAfter(seconds))
    }

    /// 431 `head_too_large`: there are more than `max` headers.
    pub fn head_too_large(max: usize) -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let message = format!("there are more than {max} headers");
        Self::new(status, "head_too_large", message).with(Extra::Close)
    }

    /// 500 `internal`: an error of the server.
    pub fn internal() -> Self {
        let message = "hooklane failed at this; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// 500 `hash_mismatch`: a stored event does not match its checksum.
    pub fn hash_mismatch(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "hash_mismatch", message).hint(
            "restore it from a backup, or have its sender send it again; other events can be read",
        )
    }

    /// 503: retry after `seconds`. Nothing was acknowledged.
    pub fn unavailable(
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
        seconds: u32,
    ) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message).with(Extra::RetryAfter(seconds))
    }

    /// 504 `not_yet`: what the client waited for did not happen in time.
    pub fn not_yet(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "not_yet", message)
    }

    fn with(mut self, extra: Extra) -> Self {
        self.extra = extra;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// 503: the request needs a daemon, and none runs.
pub fn needs_daemon() -> Error {
    Error::unavailable("no_daemon", "this needs a running daemon", 1).next("hooklane serve")
}

impl From<admin::Error> for Error {
    fn from(error: admin::Error) -> Self {
        let message = error.to_string();
        match error {
            admin::Error::Missing { kind, meant, .. } => {
                let missing = match meant {
                    Some(meant) => Self::not_found(format!("{message}. Did you mean {meant}?")),
                    None => Self::not_found(message),
                };
                match kind {
                    "hook" | "lane" | "key" | "namespace" => {
                        missing.next(format!("hooklane {kind}s list"))
                    }
                    _ => missing,
                }
            }
            admin::Error::Exists { kind, name } => {
                let exists = Self::conflict("exists", message);
                match kind {
                    "hook" => exists
                        .next(format!("hooklane hooks show {name}"))
                        .next(format!("hooklane hooks edit {name} --help")),
                    "namespace" => exists.next("hooklane namespaces list"),
                    _ => exists,
                }
            }
            admin::Error::Conflict(_) => Self::conflict("conflict", message),
            admin::Error::Invalid(_) => Self::unprocessable("invalid", message),
            admin::Error::Reducer(_) => Self::unprocessable("reducer", message),
            admin::Error::Gone { cursor, .. } => Self::gone(message, cursor),
            admin::Error::NeedsDaemon => needs_daemon(),
            admin::Error::Away(_) => Self::unavailable("away", message, 1).next("hooklane doctor"),
            admin::Error::Damaged { .. } => {
                tracing::error!(error = message, "hash mismatch");
                Self::hash_mismatch(message).next("hooklane doctor")
            }
            admin::Error::Store(store::Error::Changed) => Self::changed(),
            admin::Error::Store(error @ (store::Error::Away(_) | store::Error::Lost(_))) => {
                Self::unavailable("away", error.told(), 1).next("hooklane doctor")
            }
            admin::Error::Store(error) if error.is_passing() => {
                Self::unavailable("busy", message, 1).next("hooklane status")
            }
            admin::Error::Store(error) => {
                tracing::error!(%error, "an operation failed");
                Self::internal()
            }
        }
    }
}

impl From<Stale> for Error {
    fn from(stale: Stale) -> Self {
        Self::unavailable("configuration_stale", stale.to_string(), 1).next("hooklane status")
    }
}

impl From<super::body::Error> for Error {
    fn from(error: super::body::Error) -> Self {
        use super::body::Error as Body;
        match error {
            Body::TooLarge { max } => Self::too_large(max),
            Body::Encoded => Self::encoded(),
            Body::TooSlow => Self::too_slow(),
            Body::NoRoom => Self::unavailable("queue_full", error.to_string(), 1),
            Body::Malformed | Body::Aborted => {
                Self::malformed(error.to_string()).with(Extra::Close)
            }
        }
    }
}

#[derive(Serialize)]
struct Failure<'e> {
    error: &'e Error,
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = super::json(self.status, &Failure { error: &self });
        let text = HeaderValue::from_static;
        let (name, value) = match self.extra {
            Extra::Nothing => return response,
            Extra::Authenticate => (WWW_AUTHENTICATE, text(r#"Bearer realm="hooklane""#)),
            Extra::Allow(methods) => (ALLOW, text(methods)),
            Extra::RetryAfter(seconds) => (RETRY_AFTER, seconds.into()),
            Extra::Close => (CONNECTION, text("close")),
        };
        response.headers_mut().insert(name, value);
        response
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_refusal_is_json_with_a_stable_code() {
        let error = Error::unauthorized();
        assert_eq!(
            (error.status().as_u16(), error.code()),
            (401, "unauthorized")
        );
        let response = error.into_response();
        assert_eq!(
            response.headers()["www-authenticate"],
            r#"Bearer realm="hooklane""#
        );
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"]["code"], "unauthorized");
        assert!(body["error"]["hint"].is_string());
        assert!(body["error"].get("next").is_none());
    }

    #[test]
    fn each_refusal_has_its_status_and_header() {
        for (error, status, header) in [
            (Error::malformed("x"), 400, None),
            (Error::forbidden("x"), 403, None),
            (Error::not_found("x"), 404, None),
            (
                Error::method("GET, POST"),
                405,
                Some(("allow", "GET, POST")),
            ),
            (Error::too_slow(), 408, Some(("connection", "close"))),
            (Error::conflict("exists", "x"), 409, None),
            (Error::gone("x", FeedCursor::default()), 410, None),
            (Error::changed(), 412, None),
            (Error::too_large(9), 413, Some(("connection", "close"))),
            (Error::encoded(), 415, Some(("connection", "close"))),
            (Error::unprocessable("ordering_key", "x"), 422, None),
            (Error::too_many(7), 429, Some(("retry-after", "7"))),
            (
                Error::head_too_large(64),
                431,
                Some(("connection", "close")),
            ),
            (Error::internal(), 500, None),
            (
                Error::unavailable("queue_full", "x", 2),
                503,
                Some(("retry-after", "2")),
            ),
            (Error::not_yet("x"), 504, None),
        ] {
            let response = error.into_response();
            assert_eq!(response.status().as_u16(), status);
            if let Some((name, value)) = header {
                assert_eq!(response.headers()[name], value, "{status}");
            }
        }
    }
}
