//! The tables that this binary knows, and those that it does not.

use sqlx::migrate::{MigrateError, Migrator};

/// The number of the newest tables.
pub fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|m| m.version).max().unwrap_or(0)
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
