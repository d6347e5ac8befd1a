//! Reasons why an operation was not carried out. The HTTP and command line layers add advice.

use std::fmt::Display;

use crate::api::InvalidEdit;
use crate::domain::event::EventId;
use crate::domain::feed::FeedCursor;
use crate::domain::name::Name;
use crate::domain::position::Seq;
use crate::lanes::redis;
use crate::store;
use crate::text::closest;

/// A failed operation; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object does not exist. A similar name may be suggested.
    #[error("no {kind} {name:?}")]
    Missing {
        /// Kind of the object.
        kind: &'static str,
        /// The name given.
        name: String,
        /// A similar existing name.
        meant: Option<String>,
    },
    /// The object already exists.
    #[error("{kind} {name} exists already")]
    Exists {
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The request is invalid; the message says why.
    #[error("{0}")]
    Invalid(String),
    /// The object is not as it was when the operator looked.
    #[error("{0}")]
    Conflict(String),
    /// The reducer under test refused the event.
    #[error("{0}")]
    Reducer(String),
    /// A stored event does not match its checksum.
    #[error("event {id} (seq {seq}) is not as it was stored: its checksum differs")]
    Damaged {
        /// Id of the event.
        id: EventId,
        /// Its place in its stream.
        seq: Seq,
    },
    /// Events behind a cursor cannot be read any more.
    #[error("{message}")]
    Gone {
        /// The reason.
        message: String,
        /// Cursor that goes on behind the gap.
        cursor: FeedCursor,
    },
    /// The operation needs a running daemon.
    #[error("this needs a running daemon")]
    NeedsDaemon,
    /// An external service does not answer; the same request may succeed later.
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
            InvalidEdit::NoUrl
            | InvalidEdit::NotVerified
            | InvalidEdit::NoVersion
            | InvalidEdit::Window => Self::Invalid(error.to_string()),
        }
    }
}

impl From<redis::Error> for Error {
    fn from(error: redis::Error) -> Self {
        Self::Away(error.to_string())
    }
}
