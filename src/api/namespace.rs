//! Namespaces and how many lanes they have.

use serde::{Deserialize, Serialize};

use crate::domain::name::Name;

/// A namespace as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespaceSpec {
    /// Its name.
    pub name: Name,
    /// How many lanes it begins with.
    #[serde(default = "one")]
    pub lanes: u16,
    /// FLOW from which on it is late; none for what it has, in the beginning 10 s.
    #[serde(default)]
    pub warn_ms: Option<u64>,
    /// FLOW from which on somebody must look; none for what it has, in the beginning a minute.
    #[serde(default)]
    pub crit_ms: Option<u64>,
}

fn one() -> u16 {
    1
}

/// A namespace that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name.
    pub name: Name,
    /// How many lanes it has.
    pub lanes: u16,
    /// The generation of its lane set.
    pub generation: i64,
    /// How many hooks it has.
    pub hooks: u64,
    /// FLOW from which on it is late.
    pub warn_ms: u64,
    /// FLOW from which on somebody must look.
    pub crit_ms: u64,
}
