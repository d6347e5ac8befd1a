//! A delivery as an HTTP request, and the meaning of its answer. Plain functions without clock or I/O.
//!
//! One event goes as it came: its body byte for byte with its content headers. A batch goes as JSON:
//! ```json
//! {"hook": "orders", "stream": "acme", "handler": "crm",
//!  "events": [{"id": "evt_…", "seq": 7, "received_at": "…", "query": "…", "headers": {…}, "body": "…"}]}
//! ```
//! where `body` is the body as text, or `body_base64` its base64 if it is not UTF-8. A 2xx acknowledges all of it,
//! or, with the body `{"seq": 9}`, the events up to that one.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::Sha256;

use super::client::{Answer, Error};
use crate::domain::event::Event;
use crate::domain::forward::{Destination, Forward};
use crate::domain::hook::HandlerId;
use crate::domain::name::{Name, OrderingKey};
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;

/// Number of characters of an answer that a failure keeps.
const EXCERPT_MAX: usize = 200;

/// Headers of the event that are forwarded; the others concern the sender's connection.
const KEPT: [&str; 5] = [
    "content-type",
    "content-language",
    "content-disposition",
    "traceparent",
    "tracestate",
];

/// Data of a delivery.
pub struct Delivery<'d> {
    /// Destination and its limits.
    pub to: &'d Forward,
    /// Secrets that sign it, newest first.
    pub secrets: &'d [Secret],
    /// Hook of the stream.
    pub hook: &'d Name,
    /// Ordering key of the stream.
    pub key: &'d OrderingKey,
    /// Name of the handler.
    pub handler: &'d Name,
    /// The events, at least one; more than one only in a batch.
    pub events: &'d [std::sync::Arc<Event>],
    /// Number of the try of the first event, from 1.
    pub attempt: u32,
    /// Epoch of the lane's owner, or of the hook's last move if that is higher. A receiver may refuse an epoch
    /// lower than one it has seen for the stream.
    pub epoch: i64,
    /// Number of its replay; `None` in a normal delivery.
    pub replay: Option<HandlerId>,
}

/// Meaning of an answer for the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This number of events, from the front, is acknowledged; at least one.
    Acknowledged(usize),
    /// Nothing is acknowledged; a retry may help, not before `after`.
    Failed {
        /// The cause.
        reason: String,
        /// Wait requested by the destination.
        after: Option<Duration>,
    },
    /// The destination refuses further tries.
    Gone {
        /// The cause.
        reason: String,
    },
}

#[derive(Serialize)]
struct Batch<'d> {
    hook: &'d Name,
    stream: &'d str,
    handler: &'d Name,
    events: Vec<BatchEvent<'d>>,
}

#[derive(Serialize)]
struct BatchEvent<'d> {
    id: String,
    seq: i64,
    received_at: Timestamp,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    late: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    query: String,
    headers: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// The part of a batch that its answer acknowledges.
#[derive(Deserialize)]
struct Progress {
    seq: i64,
}

/// The request of a delivery at `now`; `None` if it has no event.
pub fn request(delivery: &Delivery<'_>, now: Timestamp) -> Option<Request<Full<Bytes>>> {
    let first = delivery.events.first()?;
    let is_batch = delivery.to.batch.is_some();
    let body = match is_batch {
        true => batch(delivery),
        false => first.body.clone(),
    };
    let id = first.id.to_string();
    let mut request = signed(&delivery.to.url, delivery.secrets, &id, now, body);
    let headers = request.headers_mut();
    if !is_batch {
        headers.remove(CONTENT_TYPE);
        keep(headers, &first.headers);
    }
    set(headers, "hooklane-stream", &stream(delivery));
    set(headers, "hooklane-seq", &first.seq.to_string());
    set(headers, "hooklane-attempt", &delivery.attempt.to_string());
    set(headers, "hooklane-epoch", &delivery.epoch.to_string());
    if !is_batch && first.is_marked_late() {
        set(headers, "hooklane-late", "true");
    }
    if let Some(replay) = delivery.replay {
        set(headers, "hooklane-replay", &replay.0.to_string());
    }
    Some(request)
}

/// A POST of JSON with the headers of Standard Webhooks, signed with each secret, at `now`.
pub fn signed(
    to: &Destination,
    secrets: &[Secret],
    id: &str,
    now: Timestamp,
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let body = body.into();
    let seconds = now.as_millis().div_euclid(1_000);
    let signature = signature(secrets, id, seconds, &body);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = to.uri().clone();
    let headers = request.headers_mut();
    let agent = concat!("hooklane/", env!("CARGO_PKG_VERSION"));
    set(headers, USER_AGENT.as_str(), agent);
    set(headers, CONTENT_TYPE.as_str(), "application/json");
    set(headers, "webhook-id", id);
    set(headers, "webhook-timestamp", &seconds.to_string());
    if !signature.is_empty() {
        set(headers, "webhook-signature", &signature);
    }
    request
}

/// `HOOK` or `HOOK/KEY`, with characters of the key percent-encoded that are unsafe in headers or
/// shells.
fn stream(delivery: &Delivery<'_>) -> String {
    const PLAIN: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~')
        .remove(b':')
        .remove(b'@');
    match delivery.key.as_str() {
        "" => delivery.hook.to_string(),
        key => format!(
            "{}/{}",
            delivery.hook,
            percent_encoding::utf8_percent_encode(key, PLAIN)
        ),
    }
}

/// Sets a header; an invalid value is left out.
fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    let name = HeaderName::try_from(name);
    if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
        headers.insert(name, value);
    }
}

/// Copies the content headers of an event, whose headers are a JSON object.
fn keep(headers: &mut HeaderMap, of_event: &str) {
    let of_event: BTreeMap<String, String> = serde_json::from_str(of_event).unwrap_or_default();
    for name in KEPT {
        if let Some(value) = of_event.get(name) {
            set(headers, name, value);
        }
    }
    if !headers.contains_key(CONTENT_TYPE) {
        set(headers, CONTENT_TYPE.as_str(), "application/octet-stream");
    }
}

/// The signatures of Standard Webhooks: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, one for each
/// secret, with spaces between.
/// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
fn signature(secrets: &[Secret], id: &str, seconds: i64, body: &[u8]) -> String {
    let signed = secrets.iter().filter_map(|secret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(body);
        Some(format!(
            "v1,{}",
            STANDARD.encode(mac.finalize().into_bytes())
        ))
    });
    signed.collect::<Vec<_>>().join(" ")
}

fn batch(delivery: &Delivery<'_>) -> Bytes {
    let events = delivery.events.iter().map(|event| {
        let text = std::str::from_utf8(&event.body).ok();
        BatchEvent {
            id: event.id.to_string(),
            seq: event.seq.0,
            received_at: event.received_at,
            late: event.is_marked_late(),
            query: event.query(),
            headers: RawValue::from_string(event.headers_alone().into_owned()).ok(),
            body: text,
            body_base64: text.is_none().then(|| STANDARD.encode(&event.body)),
        }
    });
    let batch = Batch {
        hook: delivery.hook,
        stream: delivery.key.as_str(),
        handler: delivery.handler,
        events: events.collect(),
    };
    serde_json::to_vec(&batch).unwrap_or_default().into()
}

/// The meaning of the answer to `events`, which took the given time.
pub fn verdict(
    answer: Result<Answer, Error>,
    took: Duration,
    events: &[std::sync::Arc<Event>],
) -> Verdict {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let (reason, after) = (error.to_string(), None);
            return Verdict::Failed { reason, after };
        }
    };
    let status = answer.status();
    if status.is_success() {
        return acknowledged(answer.body(), events);
    }
    let reason = reason(status, took, answer.body());
    match status {
        StatusCode::GONE => Verdict::Gone { reason },
        _ => Verdict::Failed {
            reason,
            after: retry_after(answer.headers()),
        },
    }
}

/// Number of events that a 2xx acknowledges. Only an answer to several events may acknowledge fewer
/// than all.
fn acknowledged(body: &[u8], events: &[std::sync::Arc<Event>]) -> Verdict {
    let all = events.len();
    let progress = match all {
        0 | 1 => None,
        _ => serde_json::from_slice::<Progress>(body).ok(),
    };
    let Some(progress) = progress else {
        return Verdict::Acknowledged(all);
    };
    match events
        .iter()
        .filter(|event| event.seq.0 <= progress.seq)
        .count()
    {
        0 => Verdict::Failed {
            reason: format!("a 2xx that acknowledges nothing: seq {}", progress.seq),
            after: None,
        },
        done => Verdict::Acknowledged(done),
    }
}

fn reason(status: StatusCode, took: Duration, body: &[u8]) -> String {
    let took = crate::text::duration(took);
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * EXCERPT_MAX)]);
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let redirect = match status.is_redirection() {
        true => " (redirects are not followed)",
        false => "",
    };
    match text.chars().take(EXCERPT_MAX).collect::<String>() {
        excerpt if excerpt.is_empty() => format!("{} in {took}{redirect}", status.as_u16()),
        excerpt => format!("{} in {took}{redirect}: {excerpt}", status.as_u16()),
    }
}

/// `Retry-After` in seconds (RFC 9110, 10.2.3). The form with a date is not read: it is rare and
/// depends on two clocks.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::event::{EventId, StreamId};
    use crate::domain::position::Seq;

    fn event(seq: i64, body: &'static [u8]) -> Arc<Event> {
        Arc::new(Event {
            stream: StreamId(1),
            seq: Seq(seq),
            id: EventId::from_bytes([u8::try_from(seq).unwrap(); 16]),
            received_at: Timestamp::from_millis(0),
            key_id: None,
            dedupe_key: None,
            headers: r#"{"content-type":"text/plain","x-other":"1"}"#.into(),
            body: Bytes::from_static(body),
            late: None,
            is_damaged: false,
        })
    }

    fn answer(status: u16, body: &'static str) -> Result<Answer, Error> {
        let answer = http::Response::builder()
            .status(status)
            .header("retry-after", "7");
        Ok(answer.body(Bytes::from_static(body.as_bytes())).unwrap())
    }

    fn sent(events: &[Arc<Event>], batch: Option<&str>, key: &str) -> (HeaderMap, Bytes) {
        let mut to = Forward::to("https://crm.example/hooks".parse().unwrap());
        to.batch = batch.map(|text| text.parse().unwrap());
        let delivery = Delivery {
            to: &to,
            // The example of the Standard Webhooks specification.
            secrets: &["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap()],
            hook: &"orders".parse().unwrap(),
            key: &OrderingKey::new(key.as_bytes()),
            handler: &"crm".parse().unwrap(),
            events,
            attempt: 2,
            epoch: 9,
            replay: None,
        };
        let request = request(&delivery, Timestamp::from_millis(1_614_265_330_000)).unwrap();
        let (head, body) = request.into_parts();
        let body = futures_util::FutureExt::now_or_never(http_body_util::BodyExt::collect(body));
        (head.headers, body.unwrap().unwrap().to_bytes())
    }

    #[test]
    fn one_event_goes_as_it_came_and_says_what_it_is() {
        let (headers, body) = sent(&[event(7, b"\xff\x00 raw")], None, "a b/ü");
        assert_eq!(&body[..], b"\xff\x00 raw");
        for (name, value) in [
            ("content-type", "text/plain"),
            ("hooklane-stream", "orders/a%20b%2F%C3%BC"),
            ("hooklane-seq", "7"),
            ("hooklane-attempt", "2"),
            ("hooklane-epoch", "9"),
            ("webhook-timestamp", "1614265330"),
        ] {
            assert_eq!(headers[name], value, "{name}");
        }
        assert!(!headers.contains_key("x-other"));
    }

    /// The vector of the reference libraries: id, timestamp, body and secret give this signature.
    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(
            &[secret],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            body,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_batch_is_json_that_says_every_event() {
        let (headers, body) = sent(&[event(7, b"{}"), event(8, b"\xff")], Some("100"), "");
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["hooklane-stream"], "orders");
        assert_eq!(body["events"][0]["seq"], 7);
        assert_eq!(body["events"][0]["body"], "{}");
        assert_eq!(body["events"][0]["headers"]["x-other"], "1");
        assert_eq!(body["events"][1]["body_base64"], "/w==");
    }

    #[test]
    fn an_answer_acknowledges_all_some_or_nothing() {
        let events = [event(7, b""), event(8, b""), event(9, b"")];
        let judge = |status, body| verdict(answer(status, body), Duration::ZERO, &events);
        assert_eq!(judge(200, ""), Verdict::Acknowledged(3));
        assert_eq!(judge(204, "not json"), Verdict::Acknowledged(3));
        assert_eq!(judge(200, r#"{"seq":8}"#), Verdict::Acknowledged(2));
        assert_eq!(judge(200, r#"{"seq":99}"#), Verdict::Acknowledged(3));
        assert!(matches!(judge(200, r#"{"seq":6}"#), Verdict::Failed { .. }));
        assert!(matches!(
            judge(200, r#"{"seq":-9223372036854775808}"#),
            Verdict::Failed { .. }
        ));
        let one = verdict(answer(200, r#"{"seq":1}"#), Duration::ZERO, &events[..1]);
        assert_eq!(
            one,
            Verdict::Acknowledged(1),
            "one event is acknowledged by the status alone"
        );
        assert!(matches!(judge(410, ""), Verdict::Gone { .. }));
        let after = Some(Duration::from_secs(7));
        for status in [301, 404, 408, 425, 429, 500, 503] {
            let failed = judge(status, "down\n\nfor now");
            assert!(
                matches!(failed, Verdict::Failed { after: a, .. } if a == after),
                "{status}"
            );
        }
    }
}
