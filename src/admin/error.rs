//! Why an operation was not carried out. Advice is added at the doors.

use std::fmt::Display;

use crate::api::InvalidEdit;
use crate::domain::event::EventId;
use crate::domain::name::Name;
use crate::domain::position::Seq;
use crate::lanes::redis;
use crate::store;
use crate::text::closest;

/// Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing; perhaps another one was meant.
    #[error("no {kind} {name:?}")]
    Missing {
        /// What was looked for.
        kind: &'static str,
        /// By which name.
        name: String,
        /// A name that is close.
        meant: Option<String>,
    },
    /// There is one already.
    #[error("{kind} {name} exists already")]
    Exists {
        /// What was to be made.
        kind: &'static str,
        /// By which name.
        name: String,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It is not what it was when the operator looked.
    #[error("{0}")]
    Conflict(String),
    /// A reducer refused an event that it was tried on.
    #[error("{0}")]
    Reducer(String),
    /// An event was read that is not what was stored.
    #[error("event {id} (seq {seq}) is not as it was stored: its checksum differs")]
    Damaged {
        /// Its id.
        id: EventId,
        /// Its place in its stream.
        seq: Seq,
    },
    /// Only a running daemon can do this.
    #[error("this needs a running daemon")]
    NeedsDaemon,
    /// What it needs does not answer; the same may succeed later.
    #[error("{0}")]
    Away(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    pub(super) fn missing(kind: &'static str, name: impl Display) -> Self {
        Self::Missing {
            kind,
            name: name.to_string(),
            meant: None,
        }
    }

    pub(super) fn missing_like<'a>(
        kind: &'static str,
        name: &str,
        there: impl Iterator<Item = &'a str>,
    ) -> Self {
        Self::Missing {
            kind,
            name: name.to_owned(),
            meant: closest(name, there),
        }
    }

    pub(super) fn no_hook<'a>(name: &Name, there: impl Iterator<Item = &'a Name>) -> Self {
        Self::missing_like("hook", name.as_str(), there.map(Name::as_str))
    }
}

impl From<InvalidEdit> for Error {
    fn from(error: InvalidEdit) -> Self {
        match error {
            InvalidEdit::NoForward(name) => Self::missing("handler", name),
            InvalidEdit::NoPull(name) => Self::missing("pull handler", name),
            InvalidEdit::NoUrl | InvalidEdit::NotVerified => Self::Invalid(error.to_string()),
        }
    }
}

impl From<redis::Error> for Error {
    fn from(error: redis::Error) -> Self {
        Self::Away(error.to_string())
    }
}
