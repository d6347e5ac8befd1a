//! The audit log as JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::time::Timestamp;

/// One operation of an operator that changed something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRow {
    /// Row number; it grows with every row.
    pub id: i64,
    /// Time of the operation.
    pub at: Timestamp,
    /// The operator, such as `uid 1000` or `key ops`.
    pub actor: String,
    /// Origin of the request: `socket`, an address, or `offline` when no daemon ran.
    pub from: String,
    /// Name of the operation, as the command line spells it, such as `lanes resize`.
    pub operation: String,
    /// The hook, stream, lane, namespace or key that was changed.
    pub subject: String,
    /// Reason that the operator gave.
    pub reason: Option<String>,
    /// Further details; never a secret or a body.
    pub details: Value,
}

/// The configuration that an operator's plan is based on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanContext {
    /// Version for plans. A change sent with it in `If-Match` is refused once another operator has
    /// changed the configuration.
    pub version: i64,
    /// Name of the node that answers; empty when no daemon runs.
    pub node: String,
    /// The operator, as the audit log will record it: `uid 1000`, `key ops`.
    pub by: String,
}
