//! Namespaces and their number of lanes.

use serde::{Deserialize, Serialize};

use crate::domain::name::Name;

/// Settings of a namespace, in requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespaceSpec {
    /// Its name.
    pub name: Name,
    /// Number of lanes of a new namespace.
    #[serde(default = "one")]
    pub lanes: u16,
    /// FLOW from which it counts as late; `null` keeps the present value, initially 10 s.
    #[serde(default)]
    pub warn_ms: Option<u64>,
    /// FLOW from which an operator must look; `null` keeps the present value, initially one minute.
    #[serde(default)]
    pub crit_ms: Option<u64>,
}

fn one() -> u16 {
    1
}

/// An existing namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name.
    pub name: Name,
    /// Number of its lanes.
    pub lanes: u16,
    /// Generation of its lane set.
    pub generation: i64,
    /// Number of its hooks.
    pub hooks: u64,
    /// FLOW from which it counts as late, in milliseconds.
    pub warn_ms: u64,
    /// FLOW from which an operator must look, in milliseconds.
    pub crit_ms: u64,
}
