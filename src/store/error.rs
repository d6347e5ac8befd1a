//! Errors of the store, sorted by what the caller must do next.

use rusqlite::ErrorCode;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// An unexpected failure of the database. Expected outcomes, such as a lost compare-and-set, are not
/// errors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was stored. The same call may be tried again.
    #[error("database busy: {0}")]
    Busy(String),
    /// Nothing was stored: the transaction conflicted with another one. Try again once, at once.
    #[error("database contended: {1}")]
    Contended(Clash, String),
    /// The connection, or the answer, was lost: the outcome is unknown. The same call may be tried
    /// again.
    #[error("connection to the database lost: {0}")]
    Lost(String),
    /// The database is out of memory; nothing was stored or read. Passes when memory is free again.
    #[error("the database is out of memory: {0}")]
    Memory(String),
    /// Nothing was stored because the disk is full. Passes when there is room again.
    #[error("disk full")]
    Space,
    /// Nothing was stored, and the same call would fail again.
    #[error("database refused: {0}")]
    Integrity(String),
    /// The outcome is unknown, and the process must end: after a failed sync the kernel's answers
    /// cannot be trusted, so only the checks of the next start can establish what is stored.
    #[error("database input/output failed: {0}")]
    Io(String),
    /// The stored data cannot be read as a database. The process must end, because the extent of the
    /// damage is unknown.
    #[error("the database is malformed ({0}); keep a copy of it, then restore a backup")]
    Malformed(String),
    /// The database cannot be opened with the settings that durability requires; the message says what
    /// to do.
    #[error("{0}")]
    Refused(String),
    /// The server does not answer or accepts no connections; it may be starting.
    #[error("{0}")]
    Away(String),
    /// The configuration is not the one that a change was planned for; nothing was changed.
    #[error("the configuration has changed meanwhile")]
    Changed,
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
}

/// Kind of conflict between two transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clash {
    /// Each transaction waited for rows of the other.
    Deadlock,
    /// Rows that the transaction had read were changed before it could write.
    Serialization,
}

/// Text shown for every database that cannot be reached, independent of the driver's words.
const NO_ANSWER: &str = "the database does not answer";

impl Error {
    /// The failure in the words of the status screens.
    pub fn told(&self) -> String {
        match self {
            Self::Space => "the disk of the database is full".to_owned(),
            Self::Lost(_) | Self::Away(_) => NO_ANSWER.to_owned(),
            other => other.to_string(),
        }
    }

    /// True if the same call is worth trying again without a restart.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Busy(_)
                | Self::Contended(..)
                | Self::Lost(_)
                | Self::Memory(_)
                | Self::Space
                | Self::Away(_)
        )
    }

    /// True if the process must end.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Malformed(_))
    }

    /// The last line to log before the process ends; `None` if it need not end.
    pub fn last_words(&self) -> Option<String> {
        match self {
            Self::Io(_) => Some(format!(
                "{self}; acknowledged events are safe and are there at the next start"
            )),
            Self::Malformed(_) => Some(format!(
                "{self}. Nothing more is served from it; hooklane doctor looks at all of it"
            )),
            _ => None,
        }
    }

    /// A copy of the error for another caller that waits for the same commit.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Busy(what) => Self::Busy(what.clone()),
            Self::Contended(clash, what) => Self::Contended(*clash, what.clone()),
            Self::Lost(what) => Self::Lost(what.clone()),
            Self::Space => Self::Space,
            Self::Integrity(what) => Self::Integrity(what.clone()),
            Self::Io(what) => Self::Io(what.clone()),
            Self::Memory(what) => Self::Memory(what.clone()),
            Self::Malformed(what) => Self::Malformed(what.clone()),
            Self::Refused(what) => Self::Refused(what.clone()),
            Self::Away(what) => Self::Away(what.clone()),
            Self::Changed => Self::Changed,
            Self::Closed => Self::Closed,
        }
    }

    fn of_code(primary: i32, what: String) -> Self {
        match rusqlite::ffi::Error::new(primary).code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Busy(what),
            ErrorCode::DiskFull => Self::Space,
            // A process without free file descriptors has opened nothing, so nothing was written.
            // Otherwise the file itself is gone.
            ErrorCode::CannotOpen if super::files::are_short() => Self::Busy(format!(
                "no file descriptor is free ({what}): raise ulimit -n"
            )),
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Malformed(what),
            ErrorCode::OutOfMemory => Self::Memory(what),
            ErrorCode::SystemIoFailure | ErrorCode::CannotOpen => Self::Io(what),
            _ => Self::Integrity(what),
        }
    }
}

/// Classifies an error by Postgres' code. An error that ends the session leaves the outcome unknown;
/// any other one has rolled everything back.
fn of_postgres(error: &PgDatabaseError, what: String) -> Error {
    // The server also answers this when it has no memory for a new session.
    if error.code() == "53200" {
        return Error::Memory(what);
    }
    if matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic) {
        return Error::Lost(what);
    }
    match error.code() {
        "53100" => Error::Space,
        "40001" => Error::Contended(Clash::Serialization, what),
        "40P01" => Error::Contended(Clash::Deadlock, what),
        // A server that only reads is no longer the primary.
        "25006" => Error::Lost(what),
        // A prepared statement of ours is missing, or belongs to another client: the pooler hands out
        // sessions differently than it did at the start. Only the next start can detect the new mode.
        "26000" | "42P05" => {
            Error::Io(format!("a pooler gives our sessions to others now: {what}"))
        }
        // A lock timeout, or a cancelled statement.
        "55P03" | "57014" => Error::Busy(what),
        // The data on disk cannot be read as a table.
        "XX001" | "XX002" => Error::Malformed(what),
        code => match code.get(..2).unwrap_or_default() {
            "08" | "57" => Error::Lost(what),
            "53" | "58" => Error::Busy(what),
            _ => Error::Integrity(what),
        },
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as Sqlite;
        let what = error.to_string();
        match (error.sqlite_error(), &error) {
            (Some(code), _) => Self::of_code(code.extended_code, what),
            // The page is readable but holds a value that no statement of ours has stored.
            (
                None,
                Sqlite::FromSqlConversionFailure(..)
                | Sqlite::InvalidColumnType(..)
                | Sqlite::IntegralValueOutOfRange(..),
            ) => Self::Malformed(what),
            _ => Self::Integrity(what),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::of_sqlx(&error)
    }
}

impl Error {
    /// Classifies a borrowed error, which the caller passes on.
    pub(super) fn of_sqlx(error: &sqlx::Error) -> Self {
        let what = describe(error);
        match error {
            sqlx::Error::Database(inner) => {
                if let Some(inner) = inner.try_downcast_ref::<PgDatabaseError>() {
                    return of_postgres(inner, what);
                }
                match inner.code().and_then(|c| c.parse().ok()) {
                    Some(code) => Self::of_code(code, what),
                    None => Self::Integrity(what),
                }
            }
            sqlx::Error::PoolTimedOut => Self::Away(NO_ANSWER.to_owned()),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Self::Closed,
            // SQLite has no connection that could break; its errors carry codes, so this is Postgres.
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => Self::Lost(what),
            _ => Self::Integrity(what),
        }
    }
}

/// The error in words that an operator can act on.
pub(super) fn describe(error: &sqlx::Error) -> String {
    let said = error.to_string();
    let is_closed = match error {
        // sqlx reads a zero when the server closes the connection before its first byte.
        sqlx::Error::Protocol(said) => said.contains("from SSLRequest: 0x00"),
        sqlx::Error::Io(why) => why.kind() == std::io::ErrorKind::UnexpectedEof,
        _ => false,
    };
    match error {
        _ if is_closed => "it closed the connection".to_owned(),
        sqlx::Error::Protocol(said) if said.contains("from SSLRequest") => {
            "it does not answer as Postgres does".to_owned()
        }
        sqlx::Error::Io(why) => why.to_string(),
        _ => said,
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
        for malformed in [11, 26, 267] {
            let words = class(malformed).last_words().unwrap();
            assert!(words.contains("restore a backup"), "{words}");
        }
        assert!(class(1034).last_words().unwrap().contains("next start"));
        assert!(class(7).is_passing() && class(7).last_words().is_none());
        assert!(class(7).to_string().contains("out of memory"));
    }

    #[test]
    fn a_connection_that_breaks_is_unknown_and_never_the_end_of_the_process() {
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let lost = Error::from(sqlx::Error::Io(reset));
        assert!(matches!(lost, Error::Lost(_)));
        assert!(lost.is_passing() && !lost.is_fatal());
    }

    #[test]
    fn who_hangs_up_is_said_to_hang_up() {
        let answer = |byte| {
            let said = format!("unexpected response from SSLRequest: {byte}");
            describe(&sqlx::Error::Protocol(said))
        };
        assert_eq!(answer("0x00"), "it closed the connection");
        assert_eq!(answer("0x48"), "it does not answer as Postgres does");
        let ended = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        assert_eq!(
            describe(&sqlx::Error::Io(ended)),
            "it closed the connection"
        );
    }
}
