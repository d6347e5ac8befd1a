//! What can go wrong in the store, sorted by what the caller must do (the classes of the protocol).

use rusqlite::ErrorCode;

/// A surprise of the database. Outcomes, such as a lost compare-and-set, are not errors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Certainly not stored, worth trying again.
    #[error("database busy: {0}")]
    Busy(String),
    /// Certainly not stored; goes on by itself when there is room.
    #[error("disk full")]
    Space,
    /// Certainly not stored; trying again would fail again.
    #[error("database refused: {0}")]
    Integrity(String),
    /// Unknown whether stored. The process must end: what the kernel says after a failed sync cannot be
    /// trusted, and only the checks of the next start can.
    #[error("database input/output failed: {0}")]
    Io(String),
    /// The database cannot be opened as it must be.
    #[error("{0}")]
    Refused(String),
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// Whether the same is worth trying again without a restart.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Space)
    }

    /// Whether the process must end.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Io(_))
    }

    /// The same error for another one that waits for the same commit.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Busy(what) => Self::Busy(what.clone()),
            Self::Space => Self::Space,
            Self::Integrity(what) => Self::Integrity(what.clone()),
            Self::Io(what) => Self::Io(what.clone()),
            Self::Refused(what) => Self::Refused(what.clone()),
            Self::Closed => Self::Closed,
        }
    }

    fn of_code(primary: i32, what: String) -> Self {
        match rusqlite::ffi::Error::new(primary).code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Busy(what),
            ErrorCode::DiskFull => Self::Space,
            ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::CannotOpen => Self::Io(what),
            _ => Self::Integrity(what),
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let what = error.to_string();
        match error.sqlite_error() {
            Some(code) => Self::of_code(code.extended_code, what),
            None => Self::Integrity(what),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let what = error.to_string();
        match error {
            sqlx::Error::Database(inner) => match inner.code().and_then(|c| c.parse().ok()) {
                Some(code) => Self::of_code(code, what),
                None => Self::Integrity(what),
            },
            sqlx::Error::PoolTimedOut => Self::Busy(what),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Self::Closed,
            sqlx::Error::Io(_) => Self::Io(what),
            _ => Self::Integrity(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_of_an_error_follows_its_code_extended_or_not() {
        let class = |code| Error::of_code(code, String::new());
        assert!(matches!(class(5), Error::Busy(_)));
        assert!(matches!(class(13), Error::Space));
        assert!(matches!(class(2067), Error::Integrity(_)), "unique index");
        assert!(class(1034).is_fatal(), "fsync failed");
        assert!(class(11).is_fatal(), "malformed");
    }
}
