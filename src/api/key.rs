//! Access keys: the text once, the rest for ever.

use serde::{Deserialize, Serialize};

use crate::domain::key::{KeyId, Kind};
use crate::domain::name::Name;
use crate::domain::rate::Rate;
use crate::domain::time::Timestamp;

/// A key to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySpec {
    /// What it may do.
    #[serde(rename = "type", alias = "kind")]
    pub kind: Kind,
    /// The hook it is for; none for all of them, and for an admin key.
    pub hook: Option<Name>,
    /// What people call it.
    pub name: Name,
    /// The pull handler of the hook that it may take deliveries of. Read keys only.
    #[serde(default)]
    pub consume: Option<Name>,
    /// How long it lives; none for ever.
    pub expires_in_ms: Option<u64>,
    /// How many requests it may send, such as `100/s`; none for any number. Write keys only.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// How many of them at once; none for as many as the rate has.
    #[serde(default)]
    pub burst: Option<u32>,
}

/// A key that exists, without its secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// Its public part, `k_…`.
    pub id: KeyId,
    /// What people call it.
    pub name: Name,
    /// What it may do.
    #[serde(rename = "type", alias = "kind")]
    pub kind: Kind,
    /// The hook it is for; none for all of them, and for an admin key.
    pub hook: Option<Name>,
    /// The pull handler of the hook that it may take deliveries of.
    #[serde(default)]
    pub consume: Option<Name>,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom, as the audit trail calls him; none of a key that is older than this note.
    #[serde(default)]
    pub created_by: Option<String>,
    /// When it was last used, to a second; what other nodes have seen of it, and this one before it was killed,
    /// to a minute.
    pub last_used_at: Option<Timestamp>,
    /// From which address; `socket` for the daemon's own machine.
    pub last_used_from: Option<String>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// How many requests it may send; none for any number.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// How many of them at once; none without a rate.
    #[serde(default)]
    pub burst: Option<u32>,
    /// Whether it is good.
    pub state: KeyState,
}

/// Whether a key is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It is.
    Ok,
    /// Its time is over.
    Expired,
    /// An operator ended it.
    Revoked,
}

/// A key that was just made: the only answer that has its text.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewKey {
    /// What to give to its user.
    #[serde(rename = "key")]
    pub text: String,
    /// What is kept of it.
    #[serde(flatten)]
    pub facts: Key,
}
