//! Signed senders: the signature scheme and secrets of a hook, and the check of a request.
//!
//! Promises: signatures are verified over the raw bytes, and nothing parsed from them counts before;
//! each comparison takes constant time over the full length; no header can cause a panic. Each scheme
//! has a file beside this one, which links the provider's documentation.

pub mod claim;
pub mod custom;
pub mod diagnosis;
mod github;
mod gitlab;
mod hubspot;
mod linear;
mod paddle;
mod sendgrid;
mod shopify;
mod slack;
mod square;
mod standard;
mod stripe;
mod twilio;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use self::claim::{Claim, Rejected, Request};
use self::custom::{Custom, InvalidCustom};
use super::place::Place;
use super::secret::{Secret, Secrets};
use super::time::Timestamp;

/// Default for the largest difference between a sender's clock and ours.
pub const TOLERANCE_DEFAULT: Duration = Duration::from_secs(300);

/// Limit of the tolerance that a hook can set.
pub const TOLERANCE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Names of the schemes, for messages and completion.
pub const WORDS: [&str; 13] = [
    "stripe",
    "github",
    "shopify",
    "slack",
    "twilio",
    "gitlab",
    "standard",
    "paddle",
    "square",
    "hubspot",
    "linear",
    "sendgrid",
    "hmac:PARTS",
];

/// Signature scheme of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Stripe: HMAC-SHA256 of time and body: `stripe.rs`.
    Stripe,
    /// GitHub: HMAC-SHA256 of the body: `github.rs`.
    GitHub,
    /// Shopify: HMAC-SHA256 of the body: `shopify.rs`.
    Shopify,
    /// Slack: HMAC-SHA256 of time and body: `slack.rs`.
    Slack,
    /// Twilio: HMAC of the URL and the form: `twilio.rs`.
    Twilio,
    /// GitLab: the secret itself, in a header: `gitlab.rs`.
    GitLab,
    /// Standard Webhooks: HMAC-SHA256 of id, time and body: `standard.rs`.
    Standard,
    /// Paddle: HMAC-SHA256 of time and body: `paddle.rs`.
    Paddle,
    /// Square: HMAC-SHA256 of the URL and the body: `square.rs`.
    Square,
    /// HubSpot: HMAC-SHA256 of method, URL, body and time: `hubspot.rs`.
    HubSpot,
    /// Linear: HMAC-SHA256 of the body, which has the time: `linear.rs`.
    Linear,
    /// SendGrid: ECDSA with P-256 of time and body: `sendgrid.rs`.
    SendGrid,
    /// HMAC with parts that the hook names: `custom.rs`.
    Hmac(Arc<Custom>),
}

/// A text that names no scheme.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidScheme {
    /// PayPal signs with a certificate that must be fetched, or offers a service that verifies.
    #[error(
        "paypal cannot be verified without asking PayPal about each event. Next: give the sender a write key in its \
         URL, /in/HOOK/KEY, and check each event with PayPal in a handler"
    )]
    PayPal,
    /// No known scheme has this name.
    #[error("{0:?} is not a scheme: {list}, or none for the write key alone", list = WORDS.join(", "))]
    Unknown(String),
    /// The parts after `hmac:` are invalid.
    #[error("hmac: {0}")]
    Hmac(#[from] InvalidCustom),
}

/// Signature verification of a hook's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify {
    /// The signature scheme.
    pub scheme: Scheme,
    /// Largest accepted difference between the sender's clock and ours.
    pub tolerance: Duration,
    /// The URL configured at the sender, for schemes that sign it.
    pub public_url: Option<String>,
    /// Secrets shared with the sender.
    pub secrets: Secrets,
}

impl Verify {
    /// Verifies a request; returns the secret that made its signature.
    ///
    /// # Errors
    /// [`Rejected`] with the cause, which must not be told to the sender.
    pub fn check(&self, request: &Request<'_>, now: Timestamp) -> Result<&Secret, Rejected> {
        let claim = self.scheme.claim(request)?;
        let mut secrets = self.secrets.open.iter();
        let made = secrets.find(|secret| claim.is_made_with(&self.scheme.key(secret)));
        let secret = made.ok_or(Rejected::NoMatch)?;
        claim.check_beside(request.body, now, self.tolerance)?;
        Ok(secret)
    }

    /// The key that made the signature of a request; `None` if no secret in force did.
    pub fn signer(&self, request: &Request<'_>) -> Option<Cow<'_, [u8]>> {
        let claim = self.scheme.claim(request).ok()?;
        let keys = self.secrets.open.iter();
        let mut keys = keys.map(|secret| self.scheme.key(secret));
        keys.find(|key| claim.is_made_with(key))
    }

    /// The URL configured at the sender. The query of the request is appended unless the configured URL
    /// has its own.
    pub fn url(&self, query: Option<&str>) -> Cow<'_, str> {
        let url = self.public_url.as_deref().unwrap_or_default();
        match query.filter(|query| !query.is_empty() && !url.contains('?')) {
            Some(query) => format!("{url}?{query}").into(),
            None => url.into(),
        }
    }
}

impl Scheme {
    /// Reads the signatures of a request and the signed bytes.
    ///
    /// # Errors
    /// [`Rejected`] if the request has no signature, or an unreadable one.
    pub fn claim<'r>(&self, request: &Request<'r>) -> Result<Claim<'r>, Rejected> {
        match self {
            Self::Stripe => stripe::claim(request),
            Self::GitHub => github::claim(request),
            Self::Shopify => shopify::claim(request),
            Self::Slack => slack::claim(request),
            Self::Twilio => twilio::claim(request),
            Self::GitLab => gitlab::claim(request),
            Self::Standard => standard::claim(request),
            Self::Paddle => paddle::claim(request),
            Self::Square => square::claim(request),
            Self::HubSpot => hubspot::claim(request),
            Self::Linear => linear::claim(request),
            Self::SendGrid => sendgrid::claim(request),
            Self::Hmac(custom) => custom.claim(request),
        }
    }

    /// The key for a secret. It is empty, and then matches no signature, if the secret is invalid for
    /// the scheme.
    pub fn key<'s>(&self, secret: &'s Secret) -> Cow<'s, [u8]> {
        match self {
            Self::Standard => standard::key(secret.expose()).unwrap_or_default().into(),
            _ => secret.as_bytes().into(),
        }
    }

    /// Checks that a secret has the form that the scheme needs.
    ///
    /// # Errors
    /// A description of the expected form.
    pub fn fits(&self, secret: &Secret) -> Result<(), &'static str> {
        match self {
            Self::Standard if standard::key(secret.expose()).is_none() => {
                Err("a secret of Standard Webhooks is whsec_ and base64")
            }
            Self::SendGrid if claim::public_key(secret.as_bytes()).is_none() => {
                Err("for SendGrid, give the verification key, which is the base64 of a public key")
            }
            _ => Ok(()),
        }
    }

    /// Name of the scheme in tables.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Stripe => "stripe",
            Self::GitHub => "github",
            Self::Shopify => "shopify",
            Self::Slack => "slack",
            Self::Twilio => "twilio",
            Self::GitLab => "gitlab",
            Self::Standard => "standard",
            Self::Paddle => "paddle",
            Self::Square => "square",
            Self::HubSpot => "hubspot",
            Self::Linear => "linear",
            Self::SendGrid => "sendgrid",
            Self::Hmac(custom) => custom.word(),
        }
    }

    /// True if the signature covers the URL, which the hook must then know.
    pub fn signs_url(&self) -> bool {
        match self {
            Self::Twilio | Self::Square | Self::HubSpot => true,
            Self::Hmac(custom) => custom.signs_url(),
            _ => false,
        }
    }

    /// True if the signature covers a time, so that old requests cannot be replayed. Otherwise only the
    /// delivery id reveals a replay.
    pub fn signs_time(&self) -> bool {
        match self {
            Self::GitHub | Self::Shopify | Self::Twilio | Self::GitLab | Self::Square => false,
            Self::Hmac(custom) => custom.signs_time(),
            _ => true,
        }
    }

    /// Place of the provider's delivery id, which stays the same on a redelivery; `None` if the
    /// provider sends none. Twilio's SIDs name a message, which has several events; its idempotency
    /// token names the delivery.
    pub fn delivery_id(&self) -> Option<Place> {
        let header = |name: &str| Some(Place::Header(name.to_owned()));
        let body = |pointer: &str| Some(Place::Body(pointer.to_owned()));
        match self {
            Self::Stripe => body("/id"),
            Self::GitHub => header("x-github-delivery"),
            Self::Shopify => header("x-shopify-webhook-id"),
            Self::Slack | Self::Paddle | Self::Square => body("/event_id"),
            Self::Twilio => header("i-twilio-idempotency-token"),
            Self::GitLab => header("idempotency-key"),
            Self::Standard => header("webhook-id"),
            Self::Linear => header("linear-delivery"),
            Self::HubSpot | Self::SendGrid | Self::Hmac(_) => None,
        }
    }
}

impl FromStr for Scheme {
    type Err = InvalidScheme;

    fn from_str(text: &str) -> Result<Self, InvalidScheme> {
        Ok(match text {
            "stripe" => Self::Stripe,
            "github" => Self::GitHub,
            "shopify" => Self::Shopify,
            "slack" => Self::Slack,
            "twilio" => Self::Twilio,
            "gitlab" => Self::GitLab,
            "standard" => Self::Standard,
            "paddle" => Self::Paddle,
            "square" => Self::Square,
            "hubspot" => Self::HubSpot,
            "linear" => Self::Linear,
            "sendgrid" => Self::SendGrid,
            "paypal" => return Err(InvalidScheme::PayPal),
            _ => match text.strip_prefix("hmac:") {
                Some(parts) => Self::Hmac(Arc::new(parts.parse()?)),
                None => return Err(InvalidScheme::Unknown(text.chars().take(80).collect())),
            },
        })
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hmac(custom) => write!(f, "hmac:{custom}"),
            named => f.write_str(named.word()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
