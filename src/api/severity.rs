//! Severity of findings, lanes and log entries.

use serde::{Deserialize, Serialize};

/// Urgency of something for an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// All is well.
    #[default]
    Fine,
    /// Not as usual, or stopped on purpose.
    Unusual,
    /// An operator must look.
    Trouble,
}

impl Severity {
    /// Mark at the beginning of a row or a log line.
    pub fn mark(self) -> char {
        match self {
            Self::Fine => ' ',
            Self::Unusual => '~',
            Self::Trouble => '!',
        }
    }
}
