//! How much something needs somebody.

use serde::{Deserialize, Serialize};

/// How much something needs somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// All is well.
    #[default]
    Fine,
    /// Not as usual, or so on purpose.
    Unusual,
    /// Somebody must look.
    Trouble,
}

impl Severity {
    /// The mark that goes before a row, and before a line of the log.
    pub fn mark(self) -> char {
        match self {
            Self::Fine => ' ',
            Self::Unusual => '~',
            Self::Trouble => '!',
        }
    }
}
