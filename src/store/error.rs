//! What can go wrong in the store, sorted by what the caller must do (the classes of the protocol).

use rusqlite::ErrorCode;
use sqlx::postgres::PgDatabaseError;

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
    /// Unknown whether stored: the connection ended before the answer came. The server is asked again
    /// through another connection, and the process goes on.
    #[error("connection to the database lost: {0}")]
    Lost(String),
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
        matches!(self, Self::Busy(_) | Self::Space | Self::Lost(_))
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
            Self::Lost(what) => Self::Lost(what.clone()),
            Self::Refused(what) => Self::Refused(what.clone()),
            Self::Closed => Self::Closed,
        }
    }

    /// The class of what a Postgres server says, by its SQLSTATE.
    fn of_state(state: &str, what: String) -> Self {
        match state {
            // Deadlock, lost to another transaction, a lock that was not got, no connection left.
            "40P01" | "40001" | "55P03" | "53300" => Self::Busy(what),
            "53100" => Self::Space,
            // It is being stopped or started, or turned into a standby. 40003: completion unknown.
            "57P01" | "57P02" | "57P03" | "57P05" | "25006" | "40003" => Self::Lost(what),
            _ if state.starts_with("08") => Self::Lost(what),
            _ => Self::Integrity(what),
        }
    }

    fn of_database(error: &dyn sqlx::error::DatabaseError, what: String) -> Self {
        if let Some(postgres) = error.try_downcast_ref::<PgDatabaseError>() {
            return Self::of_state(postgres.code(), what);
        }
        match error.code().and_then(|code| code.parse().ok()) {
            Some(code) => Self::of_code(code, what),
            None => Self::Integrity(what),
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
            sqlx::Error::Database(inner) => Self::of_database(&*inner, what),
            sqlx::Error::PoolTimedOut => Self::Busy(what),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Self::Closed,
            // Of a connection: SQLite says what became of its file in codes.
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => Self::Lost(what),
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

    #[test]
    fn nothing_that_a_server_says_ends_the_process() {
        let class = |state| Error::of_state(state, String::new());
        for state in ["40P01", "40001", "55P03"] {
            assert!(matches!(class(state), Error::Busy(_)), "{state}");
        }
        for state in ["57P01", "57P02", "57P03", "08006", "25006"] {
            assert!(matches!(class(state), Error::Lost(_)), "{state}");
            assert!(class(state).is_passing(), "{state}");
        }
        assert!(matches!(class("53100"), Error::Space));
        assert!(
            matches!(class("23505"), Error::Integrity(_)),
            "unique index"
        );
        for state in ["08006", "57P01", "58030", "XX001", "23505"] {
            assert!(!class(state).is_fatal(), "{state}");
        }
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(matches!(
            Error::from(sqlx::Error::Io(reset)),
            Error::Lost(_)
        ));
    }
}
