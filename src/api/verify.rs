//! Senders that sign: how a hook verifies them, its secrets without their texts, and what it has rejected.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::name::Name;
use crate::domain::time::{Timestamp, millis};
use crate::domain::verify::{Scheme, TOLERANCE_DEFAULT};

/// Verification of a hook's sender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifySpec {
    /// The scheme: `stripe`, `github`, …
    pub scheme: Scheme,
    /// Largest difference between the sender's clock and ours.
    #[serde(default = "tolerance_default")]
    pub tolerance_ms: u64,
    /// The URL that the sender has, for the schemes that sign it.
    #[serde(default)]
    pub public_url: Option<String>,
    /// A secret of the sender. It is only taken, never shown; one that is there already changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Changes of a hook's verification; fields that are left out stay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerifyEdit {
    /// The scheme.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// Largest difference between the sender's clock and ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance_ms: Option<u64>,
    /// The URL that the sender has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// Another secret of the sender; the newest two are in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

fn tolerance_default() -> u64 {
    millis(TOLERANCE_DEFAULT).unsigned_abs()
}

impl VerifySpec {
    /// With a scheme and nothing else.
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
    /// The setting after the edit; `None` if there was none and the edit names no scheme.
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
    /// The forward handler that signs with it; none: it verifies senders.
    pub handler: Option<Name>,
    /// Its text; none: one is made, for a handler.
    pub secret: Option<String>,
}

/// A secret without its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretRow {
    /// By which it is removed; none until it is stored encrypted.
    pub id: Option<String>,
    /// The forward handler that signs with it; none: it verifies senders.
    pub handler: Option<Name>,
    /// When it was given.
    pub added_at: Option<Timestamp>,
    /// False if this node cannot decrypt it.
    pub usable: bool,
    /// The name of the key that encrypts it; none until it is stored encrypted.
    pub key: Option<String>,
    /// Its text, in the one answer that shows it: it was made just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Requests that a hook has rejected for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejection {
    /// `no_signature`, `malformed`, `wrong_secret`, `body_changed`, `other_url`, `other_hook`, `clock`, `locked`.
    pub reason: String,
    /// Number of requests.
    pub count: u64,
    /// When the first came.
    pub first_at: Timestamp,
    /// When the last came.
    pub last_at: Timestamp,
    /// The cause of the last one, in a sentence for an operator.
    pub told: String,
    /// The next step.
    pub helps: String,
    /// By how many milliseconds the clock of the last sender was ahead of ours, where its request told.
    pub clock_ms: Option<i64>,
    /// The last request without signature, secret and body.
    pub sample: Value,
}
