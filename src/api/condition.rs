//! The condition of a cursor, as operators see it.

use serde::{Deserialize, Serialize};

use crate::domain::cursor;

/// The condition of a cursor. On the wire it is one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// It moves whenever there is something after its position.
    Flowing,
    /// Set aside until a moment; it tries again by itself.
    Waiting,
    /// Set aside until an operator acts.
    Held,
    /// It has work, and an operator has stopped its lane or its hook.
    Paused,
    /// A word of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl Condition {
    /// The word for it in tables and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Flowing => "flowing",
            Self::Waiting => "waiting",
            Self::Held => "held",
            Self::Paused => "paused",
            Self::Unknown => "unknown",
        }
    }

    /// True if the lane goes on without the cursor.
    pub fn is_set_aside(self) -> bool {
        matches!(self, Self::Waiting | Self::Held)
    }
}

impl From<&cursor::Condition> for Condition {
    fn from(condition: &cursor::Condition) -> Self {
        match condition {
            cursor::Condition::Flowing => Self::Flowing,
            cursor::Condition::Waiting { .. } => Self::Waiting,
            cursor::Condition::Held { .. } => Self::Held,
        }
    }
}
