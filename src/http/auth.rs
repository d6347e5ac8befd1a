//! Authorization: by a key from any of the places where a sender can put it, or by the socket, which
//! needs none.

use std::net::{IpAddr, SocketAddr};

use axum::extract::FromRequestParts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, Method, Uri};

use super::App;
use super::edge::{Admission, Peer};
use super::error::Error;
use crate::domain::hook::HookId;
use crate::domain::key::{KeyId, Kind, Malformed, Presented};
use crate::domain::time::Timestamp;
use crate::engine::Engine;
use crate::engine::catalog::LiveKey;

/// Header for senders that cannot set `Authorization`.
pub const KEY_HEADER: HeaderName = HeaderName::from_static("x-hooklane-key");

/// Identity and rights of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A client on the daemon's socket; may do everything.
    Socket,
    /// A client with a valid key.
    Key {
        /// Number of the key.
        number: i64,
        /// Public part of the key.
        id: KeyId,
        /// Permissions of the key.
        kind: Kind,
        /// The hook that it is valid for; `None` for all.
        hook: Option<HookId>,
    },
    /// A client without a key.
    Nobody,
}

impl Access {
    /// True if it may post events to `hook`.
    pub fn may_write(self, hook: HookId) -> bool {
        self.may(Kind::Write, Some(hook))
    }

    /// True if it may read states and events of `hook`, or of all hooks when `None`.
    pub fn may_read(self, hook: Option<HookId>) -> bool {
        self.may(Kind::Read, hook)
    }

    /// True if it may take deliveries of a handler, given that it may read the hook.
    pub fn may_consume(self, app: &App, handler: &str) -> bool {
        let Self::Key { id, kind, .. } = self else {
            return self == Self::Socket;
        };
        let is_for = |engine: &std::sync::Arc<crate::engine::Engine>| {
            let catalog = engine.catalog.trusted_now();
            let live = catalog.as_ref().and_then(|catalog| catalog.key(id));
            let consume = live.and_then(|live| live.key.consume.as_ref());
            consume.is_some_and(|name| name.as_str() == handler)
        };
        kind == Kind::Admin || kind == Kind::Read && app.engine.as_ref().is_some_and(is_for)
    }

    /// True if it may use the admin API.
    pub fn may_admin(self) -> bool {
        self.may(Kind::Admin, None)
    }

    fn may(self, wanted: Kind, on: Option<HookId>) -> bool {
        match self {
            Self::Socket => true,
            Self::Nobody => false,
            Self::Key { kind, hook, .. } => {
                kind == Kind::Admin || kind == wanted && (hook.is_none() || hook == on)
            }
        }
    }

    /// Number of the key that was used.
    pub fn key(self) -> Option<i64> {
        match self {
            Self::Key { number, .. } => Some(number),
            _ => None,
        }
    }
}

/// Determines the rights of a request. `in_path` is the key in the path, if there is one.
///
/// # Errors
/// 401 for a malformed key; the answer reveals nothing about hooks. 503 when the database does not tell
/// in time which keys are valid.
pub async fn access(
    engine: &Engine,
    peer: Peer,
    headers: &HeaderMap,
    in_path: Option<&str>,
) -> Result<Access, Error> {
    if let Peer::User(_) = peer {
        return Ok(Access::Socket);
    }
    let in_path = in_path.filter(|text| !text.is_empty());
    let presented = match in_path {
        Some(text) => Some(Presented::parse(text)),
        None => presented(headers),
    };
    let presented = match presented {
        None => return Ok(Access::Nobody),
        Some(Err(malformed)) => return Err(damaged(malformed)),
        Some(Ok(presented)) => presented,
    };
    let catalog = engine.catalog.trusted().await?;
    let live = catalog.key(presented.id);
    let now = Timestamp::now();
    if !presented.is(live.map(|live| &live.key)) {
        return Ok(Access::Nobody);
    }
    let Some(live) = live.filter(|live| live.key.is_live(now)) else {
        return Ok(Access::Nobody);
    };
    note_use(engine, live, now, peer);
    Ok(of_key(live, in_path.is_some()))
}

/// A key in a URL is visible to proxies and logs, so only a write key for one hook is accepted there.
fn of_key(live: &LiveKey, in_path: bool) -> Access {
    let key = &live.key;
    let hook = match key.scope {
        crate::domain::key::Scope::All => None,
        crate::domain::key::Scope::Hook(hook) => Some(hook),
    };
    if in_path && (key.kind != Kind::Write || hook.is_none()) {
        return Access::Nobody;
    }
    Access::Key {
        number: key.number,
        id: key.id,
        kind: key.kind,
        hook,
    }
}

fn note_use(engine: &Engine, live: &LiveKey, now: Timestamp, peer: Peer) {
    engine.catalog.key_used(live, now, peer.ip());
}

fn damaged(malformed: Malformed) -> Error {
    Error::unauthorized().hint(malformed.to_string())
}

/// The key in `Authorization: Bearer`, in `X-Hooklane-Key`, or in the password of basic authentication.
fn presented(headers: &HeaderMap) -> Option<Result<Presented, Malformed>> {
    let given = |name| {
        let value = headers.get(name).map(http::HeaderValue::as_bytes);
        value.filter(|value| !value.is_empty())
    };
    if let Some(value) = given(KEY_HEADER) {
        return Some(parse(value));
    }
    let value = given(AUTHORIZATION)?;
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = value.split_at(space);
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        Some(parse(rest))
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        let decoded = STANDARD.decode(rest).unwrap_or_default();
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        Some(parse(&decoded[colon + 1..]))
    } else {
        None
    }
}

fn parse(bytes: &[u8]) -> Result<Presented, Malformed> {
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed::NoKey)?;
    Presented::parse(text.trim())
}

/// True if a request comes from this machine and is meant for it. A web page in a local browser and a
/// local proxy have the same address, but they name another host, or the client that they act for. A
/// client behind a trusted proxy is never near, whatever its address there.
pub fn is_near(app: &App, peer: Peer, uri: &Uri, headers: &HeaderMap) -> bool {
    let address = match peer {
        Peer::User(_) => return true,
        Peer::Behind(_) => return false,
        Peer::Address(address) => address,
    };
    let is_passed_on = PASSED_ON.iter().any(|name| headers.contains_key(*name));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let here = |authority: &Authority| is_here(authority.host(), app.address);
    address.ip().to_canonical().is_loopback()
        && !is_passed_on
        && uri.authority().is_none_or(here)
        && host.is_some_and(|host| host.parse::<Authority>().is_ok_and(|host| here(&host)))
}

/// Headers by which proxies name their client.
const PASSED_ON: [&str; 4] = ["forwarded", "via", "x-forwarded-for", "x-real-ip"];

/// True if a host name always means this machine.
fn is_here(host: &str, listening: Option<SocketAddr>) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || listening.is_some_and(|address| address.ip() == ip),
        Err(_) => bare.eq_ignore_ascii_case("localhost"),
    }
}

/// Name of the client for people.
pub fn who(access: Access, parts: &Parts, app: &App) -> String {
    match (access, parts.extensions.get::<Peer>()) {
        (Access::Key { id, .. }, _) => {
            let engine = app.engine.as_ref();
            let catalog = engine.and_then(|engine| engine.catalog.trusted_now());
            let live = catalog.as_ref().and_then(|catalog| catalog.key(id));
            live.map_or_else(
                || format!("key {id}"),
                |live| format!("key {}", live.key.name),
            )
        }
        (_, Some(Peer::User(number))) => format!("uid {number}"),
        _ => "the socket".to_owned(),
    }
}

/// Extractor for a client that may use the admin API.
pub struct Operator;

impl FromRequestParts<App> for Operator {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        match of_parts(parts, app).await? {
            access if access.may_admin() => Ok(Self),
            Access::Nobody | Access::Socket => Err(Error::unauthorized()),
            access @ Access::Key { kind, .. } => {
                let (key, kind, what) = (who(access, parts, app), kind.word(), deed(parts));
                Err(Error::forbidden(format!("{key} ({kind}) may not {what}"))
                    .hint("needs type admin, or the socket on the machine of the daemon"))
            }
        }
    }
}

/// Description of the operation in two words, if the path has them: `POST /v1/admin/lanes/resize` is
/// `resize lanes`.
fn deed(parts: &Parts) -> String {
    let path = parts.uri.path().strip_prefix("/v1/admin/");
    // A client asks for its context only when it plans a change.
    if path == Some("here") {
        return "change anything".to_owned();
    }
    match path.and_then(|path| path.split_once('/')) {
        Some((noun, verb)) if parts.method == Method::POST && !verb.contains('/') => {
            format!("{verb} {noun}")
        }
        _ => "do this".to_owned(),
    }
}

impl FromRequestParts<App> for Access {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        of_parts(parts, app).await
    }
}

async fn of_parts(parts: &Parts, app: &App) -> Result<Access, Error> {
    let peer = parts.extensions.get::<Peer>().copied();
    let peer = peer.ok_or_else(Error::unauthorized)?;
    let Some(engine) = &app.engine else {
        return Ok(Access::Socket);
    };
    let access = access(engine, peer, &parts.headers, None).await?;
    if let (Access::Key { .. }, Some(admission)) = (access, parts.extensions.get::<Admission>()) {
        admission.grant();
    }
    Ok(access)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_those_that_no_other_can_have() {
        let listening = Some(SocketAddr::from(([192, 0, 2, 7], 8420)));
        for (host, here) in [
            ("localhost", true),
            ("LOCALHOST", true),
            ("127.0.0.1", true),
            ("127.9.8.7", true),
            ("[::1]", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("0.0.0.0", false),
            ("localhost.example", false),
            ("evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            assert_eq!(is_here(host, listening), here, "{host:?}");
        }
        assert!(!is_here("192.0.2.7", None));
    }
}
