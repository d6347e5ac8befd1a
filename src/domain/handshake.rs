//! Handshakes: requests by which a provider tests a URL before it sends events to it.
//!
//! Promises: a hook answers only the handshake that its operator asked for; an answer repeats at most
//! [`REPEATED_MAX`] printable characters without angle brackets; no request can cause a panic. Slack,
//! Twitch and Zoom sign their handshakes, which are read only after the signature has been verified.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use serde::Deserialize;
use sha2::Sha256;

use super::name::hex;
use super::place::fields;
use super::verify::claim::Request;
use super::verify::{Scheme, Verify};

/// Length limit of a text that an answer repeats, in bytes.
pub const REPEATED_MAX: usize = 1_024;

/// Length limit of a token of X, in bytes.
const TOKEN_MAX: usize = 256;

/// Size limit of the body of a signed handshake, in bytes; a larger body is an event.
const BODY_MAX: usize = 8 * 1_024;

/// The handshake that a hook answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// A signed POST of type `url_verification`; the answer is its challenge. Hooks that verify Slack
    /// answer it without being asked.
    /// <https://docs.slack.dev/reference/events/url_verification>
    Slack,
    /// A GET with `hub.challenge`, which is the answer, and `hub.verify_token`, a write key of the hook.
    /// <https://developers.facebook.com/docs/graph-api/webhooks/getting-started>
    Meta,
    /// A POST with `validationToken` in its query, which is the answer.
    /// <https://learn.microsoft.com/en-us/graph/change-notifications-delivery-webhooks>
    Graph,
    /// A signed POST of type `endpoint.url_validation`; the answer has its token, and an HMAC of it.
    /// <https://developers.zoom.us/docs/api/webhooks/#validate-your-webhook-endpoint>
    Zoom,
    /// A signed POST with `webhook_callback_verification` in a header; the answer is its challenge.
    /// <https://dev.twitch.tv/docs/eventsub/handling-webhook-events/#responding-to-a-challenge-request>
    Twitch,
    /// A GET with `crc_token`; the answer is an HMAC of it. It is not signed, so anybody can ask for it:
    /// the token may not be anything that an event could be.
    /// <https://docs.x.com/x-api/webhooks/introduction>
    X,
    /// A HEAD or GET without more, which some providers send to see that the URL exists.
    Probe,
}

/// A text that names no handshake.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a handshake: slack, meta, graph, zoom, twitch, x or probe")]
pub struct InvalidHandshake(String);

/// Error for a handshake that cannot be answered: the fault.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Unfit(&'static str);

/// Answer to a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An empty answer.
    Empty,
    /// The text that the provider sent.
    Text(String),
    /// The HMAC of the token that X sent, as `sha256=` and base64.
    Hmac(String),
    /// The token that Zoom sent, and its HMAC in hexadecimal digits.
    Tokens {
        /// The token as Zoom sent it.
        plain: String,
        /// The HMAC of the token.
        encrypted: String,
    },
}

/// A handshake by GET, which a hook accepts only with the right token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The token; the caller must check that it is a write key of the hook.
    pub token: String,
    /// The answer if the token is right.
    pub answer: Answer,
}

#[derive(Deserialize)]
struct SlackBody {
    r#type: String,
    challenge: String,
}

#[derive(Deserialize)]
struct TwitchBody {
    challenge: String,
}

#[derive(Deserialize)]
struct ZoomBody {
    event: String,
    payload: ZoomPayload,
}

#[derive(Deserialize)]
struct ZoomPayload {
    #[serde(rename = "plainToken")]
    plain_token: String,
}

impl Handshake {
    /// Its name in flags, files and tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Slack => "slack",
            Self::Meta => "meta",
            Self::Graph => "graph",
            Self::Zoom => "zoom",
            Self::Twitch => "twitch",
            Self::X => "x",
            Self::Probe => "probe",
        }
    }

    /// Checks that a hook with this scheme can answer it safely.
    ///
    /// # Errors
    /// The settings to give instead.
    pub fn fits(self, scheme: Option<&Scheme>) -> Result<(), &'static str> {
        match (self, scheme) {
            (Self::Slack, Some(Scheme::Slack)) => Ok(()),
            (Self::Slack, _) => Err(
                "the handshake of Slack is signed: give --verify slack with its secret, or --handshake none",
            ),
            (Self::Zoom, Some(Scheme::Hmac(_))) => Ok(()),
            (Self::Zoom, _) => Err(
                "the handshake of Zoom is signed: give --verify 'hmac:header=x-zm-signature,prefix=v0=,\
                 time=x-zm-request-timestamp,signed=v0:{header:x-zm-request-timestamp}:{body}' with its secret, or --handshake none",
            ),
            (Self::Twitch | Self::X, Some(Scheme::Hmac(_))) => Ok(()),
            (Self::Twitch, _) => Err(
                "the handshake of Twitch is signed: give --verify 'hmac:header=twitch-eventsub-message-signature,\
                 prefix=sha256=,time=twitch-eventsub-message-timestamp,signed={header:twitch-eventsub-message-id}{header:twitch-eventsub-message-timestamp}{body}' \
                 with its secret, or --handshake none",
            ),
            (Self::X, _) => Err(
                "the handshake of X is answered with the secret: give --verify 'hmac:header=x-twitter-webhooks-signature,\
                 encoding=base64,prefix=sha256=' with it, or --handshake none",
            ),
            (Self::Graph, Some(_)) => Err(
                "Microsoft Graph signs nothing: give --verify none, and a write key in its URL, /in/HOOK/KEY, or --handshake none",
            ),
            _ => Ok(()),
        }
    }

    /// True if the handshake is a request with this method, which is not POST.
    pub fn is_by(self, method: &str) -> bool {
        match self {
            Self::Meta | Self::X => method == "GET",
            Self::Probe => method == "GET" || method == "HEAD",
            Self::Slack | Self::Graph | Self::Zoom | Self::Twitch => false,
        }
    }
}

/// The answer to a signed handshake; `None` if the request is an event. The signature of the request
/// must have been verified.
pub fn signed(
    asked: Option<Handshake>,
    verify: &Verify,
    request: &Request<'_>,
) -> Option<Result<Answer, Unfit>> {
    if request.body.len() > BODY_MAX {
        return None;
    }
    match (&verify.scheme, asked) {
        (Scheme::Slack, _) => slack(request.body),
        (_, Some(Handshake::Zoom)) => zoom(verify, request),
        (_, Some(Handshake::Twitch)) => twitch(request),
        (_, Some(Handshake::X)) if !is_object(request.body) => {
            Some(Err(Unfit("an event of X is a JSON object")))
        }
        _ => None,
    }
}

fn slack(body: &[u8]) -> Option<Result<Answer, Unfit>> {
    let body: SlackBody = serde_json::from_slice(body).ok()?;
    let is_handshake = body.r#type == "url_verification";
    is_handshake.then(|| repeated(body.challenge).map(Answer::Text))
}

fn twitch(request: &Request<'_>) -> Option<Result<Answer, Unfit>> {
    let kind = request.headers.get("twitch-eventsub-message-type")?;
    if kind != "webhook_callback_verification" {
        return None;
    }
    let body: TwitchBody = serde_json::from_slice(request.body).ok()?;
    Some(repeated(body.challenge).map(Answer::Text))
}

/// True if the body begins as a JSON object, which no token of X does.
fn is_object(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
}

/// The answer to the handshake of X, with the newest secret.
///
/// # Errors
/// [`Unfit`] if the token is missing, or could be an event: its HMAC would be the signature of that event.
pub fn x(query: &str, verify: &Verify) -> Result<Answer, Unfit> {
    let token = parameter(query, "crc_token")?.ok_or(Unfit("crc_token is missing"))?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_+/=".contains(&byte);
    if !(1..=TOKEN_MAX).contains(&token.len()) || !token.bytes().all(is_plain) {
        return Err(Unfit(
            "crc_token is not 1 to 256 letters, digits and - _ + / =",
        ));
    }
    let secret = verify.secrets.open.first();
    let key = secret.map(|secret| verify.scheme.key(secret));
    let mac = hmac(
        &key.ok_or(Unfit("the hook has no secret"))?,
        token.as_bytes(),
    )?;
    Ok(Answer::Hmac(format!("sha256={}", STANDARD.encode(mac))))
}

fn hmac(key: &[u8], text: &[u8]) -> Result<[u8; 32], Unfit> {
    let mac = Hmac::<Sha256>::new_from_slice(key);
    let mut mac = mac.map_err(|_| Unfit("the secret is no key"))?;
    mac.update(text);
    Ok(mac.finalize().into_bytes().into())
}

fn zoom(verify: &Verify, request: &Request<'_>) -> Option<Result<Answer, Unfit>> {
    let body: ZoomBody = serde_json::from_slice(request.body).ok()?;
    if body.event != "endpoint.url_validation" {
        return None;
    }
    // Zoom has one secret, which is the one that signed; a rotation may have two in force.
    let key = verify.signer(request)?;
    let plain = repeated(body.payload.plain_token);
    Some(plain.and_then(|plain| {
        let encrypted = hex(&hmac(&key, plain.as_bytes())?);
        Ok(Answer::Tokens { plain, encrypted })
    }))
}

/// The answer to the handshake of Microsoft Graph; `None` if the request is an event.
pub fn graph(query: &str) -> Option<Result<Answer, Unfit>> {
    match parameter(query, "validationToken") {
        Ok(None) => None,
        Ok(Some(token)) => Some(repeated(token).map(Answer::Text)),
        Err(unfit) => Some(Err(unfit)),
    }
}

/// Reads the handshake of Meta.
///
/// # Errors
/// [`Unfit`] if a part of it is missing or malformed.
pub fn meta(query: &str) -> Result<Subscription, Unfit> {
    if parameter(query, "hub.mode")?.as_deref() != Some("subscribe") {
        return Err(Unfit("hub.mode is not subscribe"));
    }
    let token = parameter(query, "hub.verify_token")?;
    let challenge = parameter(query, "hub.challenge")?;
    Ok(Subscription {
        token: token.ok_or(Unfit("hub.verify_token is missing"))?,
        answer: Answer::Text(repeated(challenge.unwrap_or_default())?),
    })
}

/// The decoded value of a parameter.
fn parameter(query: &str, name: &str) -> Result<Option<String>, Unfit> {
    let found = fields(query.as_bytes()).filter(|(found, _)| **found == *name.as_bytes());
    let mut values = found.map(|(_, value)| value.into_owned());
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match String::from_utf8(value) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Unfit("a parameter is not text")),
        },
        (Some(_), Some(_)) => Err(Unfit("a parameter came twice")),
    }
}

/// A text that an answer may repeat.
fn repeated(text: String) -> Result<String, Unfit> {
    let is_harmless =
        |byte: u8| (byte == b' ' || byte.is_ascii_graphic()) && byte != b'<' && byte != b'>';
    match (1..=REPEATED_MAX).contains(&text.len()) && text.bytes().all(is_harmless) {
        true => Ok(text),
        false => Err(Unfit(
            "the text to repeat is not 1 to 1024 printable characters without < and >",
        )),
    }
}

impl FromStr for Handshake {
    type Err = InvalidHandshake;

    fn from_str(text: &str) -> Result<Self, InvalidHandshake> {
        let all = [
            Self::Slack,
            Self::Meta,
            Self::Graph,
            Self::Zoom,
            Self::Twitch,
            Self::X,
            Self::Probe,
        ];
        let found = all.into_iter().find(|one| one.word() == text);
        found.ok_or_else(|| InvalidHandshake(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_short_printable_text_without_markup_is_repeated() {
        let longest = "a".repeat(REPEATED_MAX);
        for good in ["1", "Validation: Testing, Request-Id: 1-2", &longest] {
            assert_eq!(repeated(good.to_owned()).as_deref(), Ok(good));
        }
        let longer = "a".repeat(REPEATED_MAX + 1);
        for bad in ["", "<script>", "a\r\nb", "a\0", "ü", &longer] {
            assert!(repeated(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_query_is_decoded_and_must_be_unambiguous() {
        let answer =
            |query| graph(query).map(|answer| answer.map(|a| a == Answer::Text("a b:c".into())));
        assert_eq!(answer("x=1&validationToken=a+b%3Ac"), Some(Ok(true)));
        assert_eq!(answer("validationToken=a%20b%3ac"), Some(Ok(true)));
        assert_eq!(answer("validationtoken=a"), None);
        assert_eq!(answer(""), None);
        for bad in [
            "validationToken=",
            "validationToken",
            "validationToken=a&validationToken=a",
            "validationToken=%ff",
            "validationToken=%3Cb%3E",
            "validationToken=%0a",
        ] {
            assert!(matches!(answer(bad), Some(Err(_))), "{bad}");
        }
    }

    #[test]
    fn meta_needs_mode_token_and_challenge() {
        let whole = meta("hub.mode=subscribe&hub.challenge=7&hub.verify_token=t%5F1").unwrap();
        assert_eq!(whole.token, "t_1");
        assert_eq!(whole.answer, Answer::Text("7".into()));
        for bad in [
            "",
            "hub.mode=subscribe&hub.challenge=7",
            "hub.mode=subscribe&hub.verify_token=t",
            "hub.mode=unsubscribe&hub.challenge=7&hub.verify_token=t",
            "hub.mode=subscribe&hub.challenge=7&hub.verify_token=t&hub.verify_token=u",
        ] {
            assert!(meta(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_body_that_is_no_handshake_is_an_event() {
        for body in [
            "",
            "[]",
            "{\"type\":\"url_verification\"}",
            "{\"type\":\"event_callback\",\"challenge\":\"a\"}",
        ] {
            assert_eq!(slack(body.as_bytes()), None, "{body}");
        }
        let markup = "{\"type\":\"url_verification\",\"challenge\":\"<b>\"}";
        assert!(matches!(slack(markup.as_bytes()), Some(Err(_))));
    }

    #[test]
    fn each_word_is_read_as_it_is_written() {
        for word in ["slack", "meta", "graph", "zoom", "twitch", "x", "probe"] {
            assert_eq!(word.parse::<Handshake>().unwrap().to_string(), word);
        }
        assert!("none".parse::<Handshake>().is_err());
    }
}
