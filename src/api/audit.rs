//! What operators changed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::time::Timestamp;

/// One operation that changed something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRow {
    /// Grows with every row.
    pub id: i64,
    /// When it was done.
    pub at: Timestamp,
    /// Who did it: `uid 1000`, `key ops`.
    pub actor: String,
    /// From where: `socket`, an address, or `offline` when no daemon ran.
    pub from: String,
    /// What was done, as the command line names it: `lanes resize`.
    pub operation: String,
    /// To what: a hook, a stream, a lane, a namespace, a key.
    pub subject: String,
    /// Why, as he said.
    pub reason: Option<String>,
    /// What else there is to say; never a secret or a body.
    pub details: Value,
}

/// Where an operator is, before he plans something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    /// The version of the configuration. A change that is asked for with it in `If-Match` is refused once
    /// there is another.
    pub version: i64,
    /// The node that answers; empty where none runs.
    pub node: String,
    /// Who asks, as he will be noted: `uid 1000`, `key ops`.
    pub by: String,
}
