//! Access keys. The full text of a key is only in the answer that creates it.

use serde::{Deserialize, Serialize};

use crate::domain::key::{KeyId, Kind};
use crate::domain::name::Name;
use crate::domain::rate::Rate;
use crate::domain::time::Timestamp;

/// Request to create a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySpec {
    /// Permissions of the key.
    #[serde(rename = "type", alias = "kind")]
    pub kind: Kind,
    /// Hook that it is valid for; `null` for all hooks, and for an admin key.
    pub hook: Option<Name>,
    /// Name for people.
    pub name: Name,
    /// Pull handler of the hook whose deliveries it may take. Read keys only.
    #[serde(default)]
    pub consume: Option<Name>,
    /// Lifetime in milliseconds; `null` for no end.
    pub expires_in_ms: Option<u64>,
    /// Request limit, such as `100/s`; `null` for none. Write keys only.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// Number of requests at once; `null` for the number in the rate.
    #[serde(default)]
    pub burst: Option<u32>,
}

/// An existing key, without its secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// Public part, `k_…`.
    pub id: KeyId,
    /// Name for people.
    pub name: Name,
    /// Requests that the key permits.
    #[serde(rename = "type", alias = "kind")]
    pub kind: Kind,
    /// Hook that it is valid for; `null` for all hooks, and for an admin key.
    pub hook: Option<Name>,
    /// Pull handler whose deliveries it may take.
    #[serde(default)]
    pub consume: Option<Name>,
    /// Time of its creation.
    pub created_at: Timestamp,
    /// Operator who created it, as in the audit log; `null` for keys older than this field.
    #[serde(default)]
    pub created_by: Option<String>,
    /// Time of its last use. Exact to a second for uses on this node, to a minute for other nodes and
    /// after a crash.
    pub last_used_at: Option<Timestamp>,
    /// Address of its last use; `socket` for the local socket.
    pub last_used_from: Option<String>,
    /// Time at which it expires.
    pub expires_at: Option<Timestamp>,
    /// Time at which it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Request limit; `null` for none.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// Number of requests at once; `null` without a limit.
    #[serde(default)]
    pub burst: Option<u32>,
    /// State of the key now.
    pub state: KeyState,
}

/// Tells whether a key is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It is valid.
    Ok,
    /// It has expired.
    Expired,
    /// An operator has revoked it.
    Revoked,
}

/// A key that was just created. Only this answer contains its text.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewKey {
    /// The text to give to its user.
    #[serde(rename = "key")]
    pub text: String,
    /// The stored facts.
    #[serde(flatten)]
    pub facts: Key,
}
