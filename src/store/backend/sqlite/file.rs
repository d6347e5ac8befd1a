//! Opens the SQLite file. The settings that durability depends on are set, read back and required.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyPool, ConnectOptions as _, Connection as _, Executor as _};

use crate::store::Error;

/// The oldest SQLite without the race between checkpoint and commit that lost committed writes.
const VERSION_MIN: (i32, &str) = (3_051_003, "3.51.3");

/// Page size of a new file, in bytes; an existing file keeps its own. A commit of a busy node is 10 to
/// 30 KB of log, and each page costs two system calls.
const PAGE_BYTES: i64 = 8_192;

/// Time for which a connection waits for a lock that another process holds.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Opens the writer's connection, and copies what the last process left in the WAL into the file: after
/// a failed sync, frames of an old WAL are read only up to the first broken one.
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

/// Opens the connection that copies the WAL into the file.
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
    // Only macOS has a weaker sync, which may not reach the disk; elsewhere this changes nothing.
    db.pragma_update(None, "fullfsync", true)?;
    db.pragma_update(None, "mmap_size", 0)?;
    // Deleted content is overwritten with zeros; otherwise it stays in free pages.
    db.pragma_update(None, "secure_delete", true)?;
    // The checkpointer thread copies the WAL.
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    Ok(())
}

/// Copies the whole WAL into the file, syncs it, and restarts the WAL.
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

/// Time for which [`empty`] waits for readers of the WAL, while commits wait for it.
const READERS_WAIT: Duration = Duration::from_millis(50);

/// Opens a connection for [`empty`].
pub fn open_emptier(file: &Path) -> Result<Connection, Error> {
    let db = open_checkpointer(file)?;
    db.busy_timeout(READERS_WAIT)?;
    Ok(db)
}

/// Copies the whole WAL into the file and cuts the WAL to length zero. `false` if somebody reads it. The
/// caller holds the write lock.
pub fn empty(db: &Connection) -> Result<bool, Error> {
    let busy: i64 = db.query_row("pragma wal_checkpoint(truncate)", [], |row| row.get(0))?;
    Ok(busy == 0)
}

fn insist(setting: &str, found: &str, wanted: &str) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "SQLite {setting} is {found}, not {wanted}: is the data directory on a network file system?"
    )))
}

/// The pool of one connection for changes of the configuration. It never checkpoints.
pub async fn writer_pool(file: &Path) -> Result<AnyPool, Error> {
    pool(SqliteConnectOptions::new().filename(file), 1).await
}

/// Pool of read-only connections.
pub async fn reader_pool(file: &Path) -> Result<AnyPool, Error> {
    let options = SqliteConnectOptions::new().filename(file).read_only(true);
    pool(options, 2).await
}

/// Settings that cannot be given in the URL, run on each new connection. The journal mode is stored in
/// the file.
const SETTINGS: &str = "pragma busy_timeout = 5000; pragma synchronous = full;
    pragma foreign_keys = off; pragma wal_autocheckpoint = 0; pragma secure_delete = on";

async fn pool(options: SqliteConnectOptions, connections_max: u32) -> Result<AnyPool, Error> {
    let options = AnyConnectOptions::from_url(&options.to_url_lossy())?;
    let pool = AnyPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(Duration::from_secs(30))
        .after_connect(|db, _| Box::pin(async move { db.execute(SETTINGS).await.map(drop) }))
        // On a full disk, SQLite itself rolls back, and sqlx does not notice: its connection
        // still counts as inside a transaction and could never begin another one. Such a connection is
        // replaced.
        .before_acquire(|db, _| Box::pin(async move { Ok(!db.is_in_transaction()) }));
    Ok(pool.connect_with(options).await?)
}
