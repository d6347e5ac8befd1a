//! The tables that this binary knows, and those that it does not.

use sqlx::migrate::{MigrateError, Migrator};

use crate::store::Error;

/// The number of the newest tables.
pub fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Why the tables of a file could not be made or moved.
pub fn not_migrated(error: MigrateError) -> Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        other => Error::Refused(mismatch(&other)),
    }
}

/// Why tables do not fit this binary, and what to do.
pub fn mismatch(error: &MigrateError) -> String {
    match error {
        MigrateError::VersionMissing(number) => format!(
            "the database was made by a newer hooklane (tables {number}); run that one, or a newer"
        ),
        other => other.to_string(),
    }
}
