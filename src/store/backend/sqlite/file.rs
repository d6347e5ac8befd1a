//! Opening the SQLite file: the settings that durability rests on are set, read back, and insisted on.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyPool, ConnectOptions as _, Connection as _, Executor as _};

use crate::store::Error;

/// The oldest SQLite without the race between checkpoint and commit that lost committed writes.
const VERSION_MIN: (i32, &str) = (3_051_003, "3.51.3");

/// Bytes of a page of a new file; an older file keeps its own. A commit of a busy node is 10 to 30 KB of
/// log, and each page is two calls of the system.
const PAGE_BYTES: i64 = 8_192;

/// How long a connection waits for a lock that another process holds.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Opens the connection that stores events and moves cursors, and copies what the last process left
/// in the WAL into the file: after a failed sync, later frames of an old WAL would be read only as far
/// as the earlier ones are intact.
pub fn open_writer(file: &Path) -> Result<Connection, Error> {
    if rusqlite::version_number() < VERSION_MIN.0 {
        return Err(Error::Refused(format!(
            "SQLite {} may lose committed writes; {} or later is needed",
            rusqlite::version(),
            VERSION_MIN.1
        )));
    }
    let db = Connection::open(file)?;
    db.pragma_update(None, "page_size", PAGE_BYTES)?;
    insist_on_durability(&db)?;
    db.pragma_update(None, "cache_size", -32_000)?;
    db.set_prepared_statement_cache_capacity(32);
    checkpoint(&db)?;
    Ok(db)
}

/// Opens the connection that copies the WAL into the file beside the commits.
pub fn open_checkpointer(file: &Path) -> Result<Connection, Error> {
    let db = Connection::open(file)?;
    insist_on_durability(&db)?;
    Ok(db)
}

fn insist_on_durability(db: &Connection) -> Result<(), Error> {
    db.busy_timeout(LOCK_WAIT)?;
    let journal: String = db.query_row("pragma journal_mode = wal", [], |row| row.get(0))?;
    insist("journal_mode", &journal, "wal")?;
    db.pragma_update(None, "synchronous", "full")?;
    let synchronous: i64 = db.query_row("pragma synchronous", [], |row| row.get(0))?;
    insist("synchronous", &synchronous.to_string(), "2")?;
    // Only macOS distinguishes a sync that reaches the platter; elsewhere this changes nothing.
    db.pragma_update(None, "fullfsync", true)?;
    db.pragma_update(None, "mmap_size", 0)?;
    // Copied by a thread of its own.
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    Ok(())
}

/// Copies the whole WAL into the file, syncs it, and begins a fresh WAL.
pub fn checkpoint(db: &Connection) -> Result<(), Error> {
    let busy: i64 = db.query_row("pragma wal_checkpoint(truncate)", [], |row| row.get(0))?;
    match busy {
        0 => Ok(()),
        _ => Err(Error::Refused(
            "the write-ahead log could not be copied into the database: another process reads it"
                .into(),
        )),
    }
}

fn insist(setting: &str, found: &str, wanted: &str) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "SQLite {setting} is {found}, not {wanted}: is the data directory on a network file system?"
    )))
}

/// The one connection through which configuration changes. It never checkpoints.
pub async fn writer_pool(file: &Path) -> Result<AnyPool, Error> {
    pool(SqliteConnectOptions::new().filename(file), 1).await
}

/// Connections that only read.
pub async fn reader_pool(file: &Path) -> Result<AnyPool, Error> {
    let options = SqliteConnectOptions::new().filename(file).read_only(true);
    pool(options, 2).await
}

/// What a URL has no words for, said to each connection. The journal is what the file says it is.
const SETTINGS: &str = "pragma busy_timeout = 5000; pragma synchronous = full;
    pragma foreign_keys = off; pragma wal_autocheckpoint = 0";

async fn pool(options: SqliteConnectOptions, connections_max: u32) -> Result<AnyPool, Error> {
    let options = AnyConnectOptions::from_url(&options.to_url_lossy())?;
    let pool = AnyPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(Duration::from_secs(30))
        .after_connect(|db, _| Box::pin(async move { db.execute(SETTINGS).await.map(drop) }))
        // On a full disk SQLite rolls back by itself, which its connection does not learn: it believes
        // in its transaction for ever and can begin no other. A new one takes its place.
        .before_acquire(|db, _| Box::pin(async move { Ok(!db.is_in_transaction()) }));
    Ok(pool.connect_with(options).await?)
}
