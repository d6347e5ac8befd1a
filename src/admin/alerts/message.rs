//! An alert as an HTTP request. Plain functions without clock or I/O.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use crate::api::{Alert, AlertMessage};
use crate::domain::alert::{Format, Receiver};
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::engine::forward::request::signed;

/// The request that tells a receiver of the begin of an alert, or of its end if it has one.
pub fn request(
    receiver: &Receiver,
    secret: Option<&Secret>,
    alert: &Alert,
    began_at: Timestamp,
    now: Timestamp,
) -> Request<Full<Bytes>> {
    let body = match receiver.format {
        Format::Standard => serde_json::to_vec(&message(alert, began_at)),
        Format::Slack => serde_json::to_vec(&serde_json::json!({ "text": slack(alert) })),
    };
    let phase = match alert.ended_at {
        Some(_) => "ended",
        None => "began",
    };
    let id = format!("{}_{phase}", alert.alert);
    let secrets: Vec<_> = secret.into_iter().cloned().collect();
    signed(&receiver.url, &secrets, &id, now, body.unwrap_or_default())
}

fn message(alert: &Alert, began_at: Timestamp) -> AlertMessage {
    let (kind, timestamp) = match alert.ended_at {
        Some(at) => ("alert.ended", at),
        None => ("alert.began", began_at),
    };
    AlertMessage {
        kind: kind.to_owned(),
        timestamp,
        data: alert.clone(),
    }
}

/// The alert as a text for people, with the characters escaped that Slack reads as markup.
/// <https://api.slack.com/reference/surfaces/formatting#escaping>
fn slack(alert: &Alert) -> String {
    let class = alert.class.word();
    let first = match alert.ended_at {
        Some(at) => format!("Over since {}: {class}  {}", at.clock(), alert.text),
        None => format!("{class}  {}", alert.text),
    };
    let rest = match alert.ended_at {
        Some(_) => Vec::new(),
        None => {
            let next = alert.next.iter().map(|next| format!("Next: {next}"));
            alert.more.iter().cloned().chain(next).collect()
        }
    };
    let space = alert.namespace.as_ref();
    let space = space.map(|space| format!(", namespace {space}"));
    let from = format!("hooklane on {}{}", alert.node, space.unwrap_or_default());
    let lines: Vec<_> = std::iter::once(first).chain(rest).chain([from]).collect();
    let text = lines.join("\n");
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;

    use super::*;

    fn alert() -> Alert {
        let json = serde_json::json!({
            "alert": "alr_1", "finding": "orders -> crm held", "namespace": "default", "node": "eu-1",
            "rule": 10, "class": "THEM", "severity": "trouble",
            "text": "orders/acme -> crm held since 02:41:07Z: 410", "more": "Holds up only its own 61 events.",
            "next": "hooklane why orders/acme", "since": null, "hook": "orders", "stream": "orders/acme",
            "lane": null
        });
        serde_json::from_value(json).unwrap()
    }

    fn sent(to: &str, alert: &Alert) -> (http::HeaderMap, String) {
        let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let at = Timestamp::from_millis(86_400_000);
        let request = request(&to.parse().unwrap(), Some(&secret), alert, at, at);
        let (head, body) = request.into_parts();
        let body = body.collect().now_or_never().unwrap().unwrap().to_bytes();
        (head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn begin_and_end_are_messages_of_their_own_about_the_same_alert() {
        let (headers, began) = sent("https://ops.example/", &alert());
        assert_eq!(headers["webhook-id"], "alr_1_began");
        assert_eq!(headers["webhook-timestamp"], "86400");
        assert!(
            headers["webhook-signature"]
                .to_str()
                .unwrap()
                .starts_with("v1,")
        );
        let began: AlertMessage = serde_json::from_str(&began).unwrap();
        assert_eq!((&*began.kind, began.data), ("alert.began", alert()));
        let over = Alert {
            ended_at: Some(Timestamp::from_millis(90_000_000)),
            ..alert()
        };
        let (headers, ended) = sent("https://ops.example/", &over);
        assert_eq!(headers["webhook-id"], "alr_1_ended");
        let ended: AlertMessage = serde_json::from_str(&ended).unwrap();
        assert_eq!((&*ended.kind, ended.data), ("alert.ended", over));
    }

    #[test]
    fn slack_gets_the_words_of_the_finding_and_the_command() {
        let (_, body) = sent("slack:https://ops.example/", &alert());
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            body["text"],
            "THEM  orders/acme -&gt; crm held since 02:41:07Z: 410\nHolds up only its own 61 events.\n\
             Next: hooklane why orders/acme\nhooklane on eu-1, namespace default"
        );
    }
}
