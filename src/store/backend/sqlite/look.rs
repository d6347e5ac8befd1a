//! Examines a SQLite file without changing it: whether it exists, is intact, and has the tables of this
//! binary.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use super::inspect::{ASKED, inspect};
use crate::store::Error;
use crate::store::backend::ops::{Inspection, RESTORED, Restored};
use crate::store::backend::tables::newest;
use crate::store::vault::{SECRETS, sealed_with};

/// Examines the file.
///
/// # Errors
/// [`Error::Refused`] when a node could not start on it, [`Error::Malformed`] when it is damaged. The
/// message says what to do.
pub fn examine_file(file: &Path) -> Result<Inspection, Error> {
    let mut looked = Inspection {
        version: format!("SQLite {}", rusqlite::version()),
        tables_known: newest(&sqlx::migrate!("migrations/sqlite")),
        ..Inspection::default()
    };
    if !file.exists() {
        return Ok(looked);
    }
    let wal = file.with_extension("db-wal");
    let bytes = |file: &Path| file.metadata().map_or(0, |meta| meta.len());
    looked.bytes = bytes(file) + bytes(&wal);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let broken = |error: rusqlite::Error| match Error::from(error) {
        malformed @ Error::Malformed(_) => malformed,
        error => Error::Refused(format!(
            "{} cannot be read: {error}; see who may read it, or take the copy of a backup",
            file.display()
        )),
    };
    let db = Connection::open_with_flags(file, flags).map_err(broken)?;
    db.busy_timeout(Duration::from_secs(5))?;
    let journal: String = db
        .query_row("pragma journal_mode", [], |row| row.get(0))
        .map_err(broken)?;
    if journal != "wal" {
        return Err(Error::Refused(format!(
            "{} is in journal mode {journal}, not wal; no other program may change it",
            file.display()
        )));
    }
    const TABLES: &str = "select max(version) from _sqlx_migrations";
    const CLUSTER: &str = "select value from counters where name = 'cluster'";
    let has_tables = "select 1 from sqlite_master where name = '_sqlx_migrations'";
    let has_tables = db.query_row(has_tables, [], |row| row.get::<_, i64>(0));
    let has_tables = has_tables.optional().map_err(broken)?;
    if has_tables.is_some() {
        looked.tables = db.query_row(TABLES, [], |row| row.get(0)).map_err(broken)?;
        let cluster = db.query_row(CLUSTER, [], |row| row.get(0));
        looked.cluster = cluster.optional().unwrap_or_default();
        let has_events = looked.tables == Some(looked.tables_known);
        looked.damage = Some(inspect(&db, ASKED, has_events)?);
        if has_events {
            looked.sealed = sealed(&db).map_err(broken)?;
            let times = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            let times = db.query_row(RESTORED, [], times).map_err(broken)?;
            looked.restored = Restored::of(times);
        }
    }
    Ok(looked)
}

fn sealed(db: &Connection) -> rusqlite::Result<BTreeSet<(String, String)>> {
    let mut rows = db.prepare(SECRETS)?;
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect::<Result<_, _>>().map(sealed_with)
}
