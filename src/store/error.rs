//! What can go wrong in the store, sorted by what the caller must do (the classes of the protocol).

use rusqlite::ErrorCode;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// A surprise of the database. Outcomes, such as a lost compare-and-set, are not errors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Certainly not stored, worth trying again.
    #[error("database busy: {0}")]
    Busy(String),
    /// Certainly not stored: rolled back because others wanted the same rows, worth one more try at once.
    #[error("database contended: {1}")]
    Contended(Clash, String),
    /// The connection or its answer was lost: unknown whether stored, or changed. Worth trying again.
    #[error("connection to the database lost: {0}")]
    Lost(String),
    /// Not stored, or not answered, for want of memory on the side of the database; goes on by itself when there is some.
    #[error("the database is out of memory: {0}")]
    Memory(String),
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
    /// What is kept cannot be read as a database. The process must end: what else is wrong is not known.
    #[error("the database is malformed ({0}); keep a copy of it, then restore a backup")]
    Malformed(String),
    /// The database cannot be opened as it must be.
    #[error("{0}")]
    Refused(String),
    /// The server does not answer, or takes nobody yet: it may be starting.
    #[error("{0}")]
    Away(String),
    /// The configuration is not the one that a change was planned for: nothing was changed.
    #[error("the configuration has changed meanwhile")]
    Changed,
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
}

/// How others stood in the way of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clash {
    /// Each waited for the other's rows.
    Deadlock,
    /// What it had read was changed before it could write.
    Serialization,
}

/// What people read of a database that cannot be reached now, whatever the driver says.
const NO_ANSWER: &str = "the database does not answer";

impl Error {
    /// What is wrong with the database, for people who look at the whole of it.
    pub fn told(&self) -> String {
        match self {
            Self::Space => "the disk of the database is full".to_owned(),
            Self::Lost(_) | Self::Away(_) => NO_ANSWER.to_owned(),
            other => other.to_string(),
        }
    }

    /// Whether the same is worth trying again without a restart.
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

    /// Whether the process must end.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Malformed(_))
    }

    /// Why the process ends, if it must.
    pub fn last_words(&self) -> Option<String> {
        match self {
            Self::Io(_) => Some(format!(
                "{self}; what was acknowledged is found at the next start"
            )),
            Self::Malformed(_) => Some(format!(
                "{self}. Nothing more is served from it; hooklane doctor looks at all of it"
            )),
            _ => None,
        }
    }

    /// The same error for another one that waits for the same commit.
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
            // Nothing was written through a file that was never open. Else the file itself is gone.
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

/// The class of an error that Postgres names. Whatever ends the session leaves the outcome open; any
/// other error has rolled everything back.
fn of_postgres(error: &PgDatabaseError, what: String) -> Error {
    // Also where the server has no memory for a session.
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
        // A server that only reads is not the primary any more.
        "25006" => Error::Lost(what),
        // A statement of ours is not there, or somebody else's is: sessions are not given as they were at
        // the start, and only the next start finds out how.
        "26000" | "42P05" => {
            Error::Io(format!("a pooler gives our sessions to others now: {what}"))
        }
        // A lock that did not come, a cancelled statement.
        "55P03" | "57014" => Error::Busy(what),
        // What is on disk cannot be read as a table.
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
            // A page that reads well and says what no statement of ours has stored.
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
    /// The class of an error that goes its way.
    pub(super) fn of_sqlx(error: &sqlx::Error) -> Self {
        let what = words(error);
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
            // SQLite has no connection that could break: its errors have codes.
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => Self::Lost(what),
            _ => Self::Integrity(what),
        }
    }
}

/// An error in words that somebody can act on.
pub(super) fn words(error: &sqlx::Error) -> String {
    let said = error.to_string();
    let is_closed = match error {
        // The one byte that is awaited first did not come.
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
            words(&sqlx::Error::Protocol(said))
        };
        assert_eq!(answer("0x00"), "it closed the connection");
        assert_eq!(answer("0x48"), "it does not answer as Postgres does");
        let ended = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        assert_eq!(words(&sqlx::Error::Io(ended)), "it closed the connection");
    }
}
