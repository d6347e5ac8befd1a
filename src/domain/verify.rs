//! Senders that sign: which scheme a hook checks, with which secrets, and the verdict on one request.
//!
//! Promises: the raw bytes are checked before anything of them is parsed, each comparison takes constant time and the
//! full length, and no bytes in a header make it panic. Each scheme is a file of its own beside this one, which names
//! the provider's documentation.

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

/// Largest difference between a sender's clock and ours, unless the hook says otherwise.
pub const TOLERANCE_DEFAULT: Duration = Duration::from_secs(300);

/// Largest tolerance that a hook may have.
pub const TOLERANCE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The words of the schemes, for messages and completion.
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

/// A provider's way to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// See `stripe.rs`.
    Stripe,
    /// See `github.rs`.
    GitHub,
    /// See `shopify.rs`.
    Shopify,
    /// See `slack.rs`.
    Slack,
    /// See `twilio.rs`.
    Twilio,
    /// See `gitlab.rs`.
    GitLab,
    /// See `standard.rs`.
    Standard,
    /// See `paddle.rs`.
    Paddle,
    /// See `square.rs`.
    Square,
    /// See `hubspot.rs`.
    HubSpot,
    /// See `linear.rs`.
    Linear,
    /// See `sendgrid.rs`.
    SendGrid,
    /// See `custom.rs`.
    Hmac(Arc<Custom>),
}

/// A text that names no scheme.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidScheme {
    /// PayPal signs with a certificate that has to be fetched, or asks a service of its own.
    #[error(
        "paypal cannot be verified without asking PayPal about each event. Next: give the sender a write key in its \
         URL, /in/HOOK/KEY, and check each event with PayPal in a handler"
    )]
    PayPal,
    /// None that is known.
    #[error("{0:?} is not a scheme: {list}, or none for the write key alone", list = WORDS.join(", "))]
    Unknown(String),
    /// The parts of `hmac:` say nothing sensible.
    #[error("hmac: {0}")]
    Hmac(#[from] InvalidCustom),
}

/// The verification that a hook does for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify {
    /// The sender's way to sign.
    pub scheme: Scheme,
    /// Largest difference between the sender's clock and ours.
    pub tolerance: Duration,
    /// The URL that the sender has, for the schemes that sign it.
    pub public_url: Option<String>,
    /// The secrets of the sender.
    pub secrets: Secrets,
}

impl Verify {
    /// The verdict on a request that came to `path_and_query`.
    ///
    /// # Errors
    /// [`Rejected`]; nothing of it is for the sender.
    pub fn check(&self, request: &Request<'_>, now: Timestamp) -> Result<(), Rejected> {
        let keys = self
            .secrets
            .open
            .iter()
            .map(|secret| self.scheme.key(secret));
        let claim = self.scheme.claim(request)?;
        claim.check(keys, request.body, now, self.tolerance)
    }

    /// The URL that the sender has: that of the hook, with the query that came unless the hook's has one.
    pub fn url(&self, query: Option<&str>) -> Cow<'_, str> {
        let url = self.public_url.as_deref().unwrap_or_default();
        match query.filter(|query| !query.is_empty() && !url.contains('?')) {
            Some(query) => format!("{url}?{query}").into(),
            None => url.into(),
        }
    }
}

impl Scheme {
    /// Reads the signatures of a request and the bytes that they are for.
    ///
    /// # Errors
    /// [`Rejected`] when it has no signature, or none that can be read.
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

    /// The key that a secret stands for; empty, which makes no signature, for a secret that stands for none.
    pub fn key<'s>(&self, secret: &'s Secret) -> Cow<'s, [u8]> {
        match self {
            Self::Standard => standard::key(secret.expose()).unwrap_or_default().into(),
            _ => secret.as_bytes().into(),
        }
    }

    /// Checks that a secret can be one of this scheme.
    ///
    /// # Errors
    /// In words, what it should be.
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

    /// Its word in tables.
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

    /// True if the sender signs its URL, which the hook must know then.
    pub fn signs_url(&self) -> bool {
        match self {
            Self::Twilio | Self::Square | Self::HubSpot => true,
            Self::Hmac(custom) => custom.signs_url(),
            _ => false,
        }
    }

    /// True if a repeat of an old request is refused by its time. Otherwise only the delivery id tells it.
    pub fn signs_time(&self) -> bool {
        match self {
            Self::GitHub | Self::Shopify | Self::Twilio | Self::GitLab | Self::Square => false,
            Self::Hmac(custom) => custom.signs_time(),
            _ => true,
        }
    }

    /// Where the provider's id of a delivery stands: the same when it sends a delivery again. None where the provider
    /// gives none. Twilio's SIDs name a message, which has several events; its token names the delivery.
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
