//! Verification of signed requests, and records of rejected ones. The sender is not told the cause.

use http::HeaderMap;
use http::request::Parts;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::edge::Peer;
use crate::domain::hook::Hook;
use crate::domain::name::hex;
use crate::domain::seal::Sealed;
use crate::domain::time::Timestamp;
use crate::domain::verify::Verify;
use crate::domain::verify::claim::{Rejected, Request};
use crate::domain::verify::diagnosis::{Diagnosis, Reason, diagnose};
use crate::engine::Engine;

/// Headers that a sample may contain. None of them is a signature, token or cookie.
const SHOWN: [&str; 24] = [
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "date",
    "host",
    "user-agent",
    "via",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-github-event",
    "x-github-hook-id",
    "x-github-delivery",
    "x-gitlab-event",
    "x-shopify-topic",
    "x-shopify-shop-domain",
    "x-shopify-webhook-id",
    "x-slack-request-timestamp",
    "x-slack-retry-num",
    "x-hubspot-request-timestamp",
    "x-twilio-email-event-webhook-timestamp",
    "linear-event",
    "webhook-id",
    "webhook-timestamp",
];

/// Length limit of a header value in a sample, in characters.
const VALUE_MAX: usize = 120;

/// Number of leading bytes of a body that are hashed: enough to compare two bodies, too few to keep
/// one.
const HASHED: usize = 64;

/// Refusal of a request, as reported to its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotVerified {
    /// The signature is missing or wrong.
    Unsigned,
    /// The hook's secrets cannot be decrypted; the sender should try again.
    Locked,
}

/// Checks the headers before the body is read, so that a request without signature takes no memory for
/// a body.
pub(super) fn check_head(
    engine: &Engine,
    hook: &Hook,
    verify: &Verify,
    head: &Parts,
    peer: Peer,
) -> Result<(), NotVerified> {
    let url = verify.url(head.uri.query());
    let request = request(head, &url, b"");
    if verify.secrets.is_locked() {
        let diagnosis = Diagnosis::new(Reason::Locked, "");
        note(engine, hook, diagnosis, &request, peer);
        return Err(NotVerified::Locked);
    }
    match verify.scheme.claim(&request) {
        Ok(_) => Ok(()),
        Err(rejected) => {
            note(engine, hook, Diagnosis::of(&rejected), &request, peer);
            Err(NotVerified::Unsigned)
        }
    }
}

/// Verifies the signature over the whole body.
pub(super) fn check(
    engine: &Engine,
    hook: &Hook,
    verify: &Verify,
    (head, body): (&Parts, &[u8]),
    peer: Peer,
) -> Result<(), NotVerified> {
    let url = verify.url(head.uri.query());
    let request = request(head, &url, body);
    let now = Timestamp::now();
    let rejected = match verify.check(&request, now) {
        Ok(secret) => {
            let id = secret.sealed().map(Sealed::id);
            id.inspect(|id| engine.senders.secret_uses.note(hook.id, id, now));
            return Ok(());
        }
        Err(rejected) => rejected,
    };
    if rejected == Rejected::NoMatch && !verify.secrets.locked.is_empty() {
        // A secret that cannot be decrypted now may match, so the sender is asked to try again.
        note(
            engine,
            hook,
            Diagnosis::new(Reason::Locked, ""),
            &request,
            peer,
        );
        return Err(NotVerified::Locked);
    }
    let mut diagnosis = Diagnosis::of(&rejected);
    if rejected == Rejected::NoMatch && engine.senders.rejections.may_search(now) {
        let catalog = engine.catalog.peek();
        let others = catalog.hooks.values().filter(|other| other.id != hook.id);
        let others = others.filter_map(|other| Some((other.name.as_str(), other.verify.as_ref()?)));
        diagnosis = diagnose(verify, &request, others);
    }
    let signed_at = verify
        .scheme
        .claim(&request)
        .ok()
        .and_then(|claim| claim.at);
    diagnosis.clock_ms = signed_at.map(|at| at.as_millis().saturating_sub(now.as_millis()));
    note(engine, hook, diagnosis, &request, peer);
    Err(NotVerified::Unsigned)
}

fn request<'r>(head: &'r Parts, url: &'r str, body: &'r [u8]) -> Request<'r> {
    Request {
        method: head.method.as_str(),
        url,
        headers: &head.headers,
        body,
    }
}

/// Records a request from an address that the hook does not accept.
pub(super) fn note_address(engine: &Engine, hook: &Hook, head: &Parts, peer: Peer) {
    let from = peer.ip().map(|ip| ip.to_string());
    let diagnosis = Diagnosis::new(Reason::Address, from.unwrap_or_default());
    note(engine, hook, diagnosis, &request(head, "", b""), peer);
}

fn note(engine: &Engine, hook: &Hook, diagnosis: Diagnosis, request: &Request<'_>, peer: Peer) {
    engine
        .metrics
        .rejected(hook.name.as_str(), diagnosis.reason.word());
    let now = Timestamp::now();
    let sample = sample(request, peer, diagnosis.clock_ms, now).to_string();
    engine
        .senders
        .rejections
        .add(hook.id, diagnosis, sample, now);
}

/// The request as JSON, without signature, secret and body.
fn sample(request: &Request<'_>, peer: Peer, clock_ms: Option<i64>, now: Timestamp) -> Value {
    let from = match peer {
        Peer::User(user) => format!("uid {user}"),
        Peer::Address(_) | Peer::Behind(_) => {
            peer.ip().map(|ip| ip.to_string()).unwrap_or_default()
        }
    };
    // A request without signature was rejected before its body was read.
    let body = Some(request.body).filter(|body| !body.is_empty());
    let first = body.map(|body| &body[..body.len().min(HASHED)]);
    json!({
        "at": now.to_string(),
        "from": from,
        "method": request.method,
        "headers": shown(request.headers),
        "body_bytes": body.map(<[u8]>::len),
        "first_bytes_sha256": first.map(|first| hex(&Sha256::digest(first))),
        "clock_ms": clock_ms,
    })
}

fn shown(headers: &HeaderMap) -> Map<String, Value> {
    let shown = SHOWN.iter().filter_map(|name| {
        let value = String::from_utf8_lossy(headers.get(*name)?.as_bytes());
        let value: String = value.chars().take(VALUE_MAX).collect();
        Some(((*name).to_owned(), value.into()))
    });
    shown.collect()
}
