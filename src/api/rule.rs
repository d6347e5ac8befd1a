//! The rules by which a daemon judges what it sees.

use serde::{Deserialize, Serialize};

/// A rule. On the wire it is a number; a rule about everything has a low one, and findings are told in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum Rule {
    /// Lanes that no node runs.
    NoOwner = 1,
    /// The database, or Redis.
    Storage = 2,
    /// A turn that does not end.
    Turn = 3,
    /// Senders that send more than usual.
    Flood = 5,
    /// A handler that takes longer than usual.
    SlowHandler = 6,
    /// One stream that is most of what waits.
    OneStream = 7,
    /// Too few lanes, or late for no known reason.
    Late = 8,
    /// A reducer that fails.
    Reducer = 9,
    /// A destination that fails.
    Destination = 10,
    /// Something that an operator has stopped.
    OnPurpose = 11,
    /// All is well.
    Well = 12,
    /// A rule of a newer daemon.
    Unknown = 255,
}

impl Rule {
    /// Name of the findings of this rule. Rules about late events share one, because a wait that changes its cause
    /// is still the same wait.
    pub fn finding(self) -> &'static str {
        match self {
            Self::NoOwner => "nodes",
            Self::Storage => "database",
            Self::Turn => "turn",
            Self::Flood | Self::SlowHandler | Self::OneStream | Self::Late => "late",
            Self::Reducer | Self::Destination => "handler",
            Self::OnPurpose => "stopped",
            Self::Well | Self::Unknown => "",
        }
    }
}

impl From<Rule> for u8 {
    fn from(rule: Rule) -> Self {
        rule as u8
    }
}

impl From<u8> for Rule {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::NoOwner,
            2 => Self::Storage,
            3 => Self::Turn,
            5 => Self::Flood,
            6 => Self::SlowHandler,
            7 => Self::OneStream,
            8 => Self::Late,
            9 => Self::Reducer,
            10 => Self::Destination,
            11 => Self::OnPurpose,
            12 => Self::Well,
            _ => Self::Unknown,
        }
    }
}
