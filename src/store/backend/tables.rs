//! Versions of the tables: those that this binary knows, and errors about others.

use sqlx::migrate::{MigrateError, Migrator};

use crate::store::Error;

/// Number of the newest migration.
pub fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Converts a migration error of a SQLite file.
pub fn not_migrated(error: MigrateError) -> Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        other => Error::Refused(mismatch(&other)),
    }
}

/// Explains why the tables do not fit this binary, and what to do.
pub fn mismatch(error: &MigrateError) -> String {
    match error {
        MigrateError::VersionMissing(number) => format!(
            "the database was made by a newer hooklane (tables {number}); run that one, or a newer"
        ),
        other => other.to_string(),
    }
}
