//! Forecast of when a lane has applied its backlog, as a word.

use serde::{Deserialize, Serialize};

/// Estimate of when a lane's backlog ends, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Eta {
    /// As many events are passed as arrive, so the backlog stays.
    Steady,
    /// More events arrive than are passed.
    Grows,
    /// The backlog ages as fast as the clock.
    Never,
    /// After the next try of a cursor that waits.
    Retry,
    /// After an operator has released a cursor.
    Held,
    /// After another node has taken the lane.
    Lease,
    /// After an operator has resumed the lane.
    Resume,
    /// A word of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl Eta {
    /// The word for it in tables and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Grows => "grows",
            Self::Never => "never",
            Self::Retry => "retry",
            Self::Held => "held",
            Self::Lease => "lease",
            Self::Resume => "resume",
            Self::Unknown => "unknown",
        }
    }
}
