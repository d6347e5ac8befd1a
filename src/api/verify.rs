//! Verification of senders: settings, secrets without their texts, and rejections.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::name::Name;
use crate::domain::time::{Timestamp, millis};
use crate::domain::verify::{Scheme, TOLERANCE_DEFAULT};

/// Signature verification of a hook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifySpec {
    /// Signature scheme: `stripe`, `github`, …
    pub scheme: Scheme,
    /// Largest accepted difference between the sender's clock and ours, in milliseconds.
    #[serde(default = "tolerance_default")]
    pub tolerance_ms: u64,
    /// The URL configured at the sender, for schemes that sign it.
    #[serde(default)]
    pub public_url: Option<String>,
    /// A secret to add, never shown. A secret that the hook already has changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Edit of a hook's verification; absent fields stay unchanged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerifyEdit {
    /// Signature scheme.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// Largest accepted difference between the sender's clock and ours, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance_ms: Option<u64>,
    /// The URL configured at the sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// A secret to add; the newest two are in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

fn tolerance_default() -> u64 {
    millis(TOLERANCE_DEFAULT).unsigned_abs()
}

impl VerifySpec {
    /// Settings with defaults and no secret.
    pub fn new(scheme: Scheme) -> Self {
        Self {
            scheme,
            tolerance_ms: tolerance_default(),
            public_url: None,
            secret: None,
        }
    }
}

impl VerifyEdit {
    /// The settings after the edit; `None` if there were none and the edit names no scheme.
    pub fn applied(&self, before: Option<&VerifySpec>) -> Option<VerifySpec> {
        let plain = || self.scheme.clone().map(VerifySpec::new);
        let before = before.cloned().or_else(plain)?;
        Some(VerifySpec {
            scheme: self.scheme.clone().unwrap_or(before.scheme),
            tolerance_ms: self.tolerance_ms.unwrap_or(before.tolerance_ms),
            public_url: self.public_url.clone().or(before.public_url),
            secret: self.secret.clone(),
        })
    }
}

/// A secret to add.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecretSpec {
    /// The forward handler that signs with it; `null` for a secret that verifies senders.
    pub handler: Option<Name>,
    /// Text of the secret; `null` generates one, for a handler only.
    pub secret: Option<String>,
}

/// A secret without its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretRow {
    /// Id for removal; `null` for a secret stored in plain text by an earlier hooklane.
    pub id: Option<String>,
    /// The forward handler that signs with it; `null` for a secret that verifies senders.
    pub handler: Option<Name>,
    /// Time at which it was given.
    pub added_at: Option<Timestamp>,
    /// False if this node cannot decrypt it.
    pub usable: bool,
    /// Id of the key that encrypts it; `null` if it is stored in plain text.
    pub key: Option<String>,
    /// Time of the latest request that it verified, to the minute; `null` for none and for a secret that
    /// signs deliveries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
    /// Set if it no longer verifies anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused: Option<UnusedSecret>,
    /// Text of the secret, only in the answer to the request that generated it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// A secret that verifies nothing: its hook accepted requests for a day or longer, and none was signed
/// with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedSecret {
    /// Id of the secret.
    pub secret: String,
    /// The finding, in a sentence.
    pub told: String,
    /// Next step for the operator.
    pub helps: String,
}

/// Rejected requests of a hook with the same reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejection {
    /// `no_signature`, `malformed`, `wrong_secret`, `body_changed`, `other_url`, `other_hook`, `clock`,
    /// `locked`.
    pub reason: String,
    /// Number of requests.
    pub count: u64,
    /// Time of the first request.
    pub first_at: Timestamp,
    /// Time of the latest request.
    pub last_at: Timestamp,
    /// Cause of the latest rejection, in a sentence.
    pub told: String,
    /// Next step for the operator.
    pub helps: String,
    /// Milliseconds by which the latest sender's clock was ahead of ours, if known.
    pub clock_ms: Option<i64>,
    /// The latest request, without signature, secret and body.
    pub sample: Value,
}
