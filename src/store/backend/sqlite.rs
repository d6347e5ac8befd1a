//! Opening the SQLite file: the settings that durability rests on are set, read back, and insisted on.

mod checkpoint;
mod known;
pub mod look;
pub mod tail;
pub mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyPool, ConnectOptions as _, Connection as _, Executor as _};
use tokio::sync::Mutex as FairMutex;

use self::checkpoint::Checkpointer;
use self::known::Known;
use self::tail::Tail;
use crate::store::Error;
use crate::store::backend::ops::{Commit, Observer};

/// The oldest SQLite without the race between checkpoint and commit that lost committed writes.
const VERSION_MIN: (i32, &str) = (3_051_003, "3.51.3");

/// Bytes of a page of a new file; an older file keeps its own. A commit of a busy node is 10 to 30 KB of
/// log, and each page is two calls of the system.
const PAGE_BYTES: i64 = 8_192;

/// How long a connection waits for a lock that another process holds.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Hot readers that are kept open between turns.
const READERS_MAX: usize = 4;

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

/// What is hot: turns read here, and the one thread that stores events and moves cursors.
pub struct Hot {
    pub readers: Arc<Readers>,
    /// Events and cursors.
    pub log: writer::Handle,
    pub tail: Arc<Tail>,
    pub known: Arc<Known>,
    /// Held by whoever writes; fair, so that nobody starves.
    pub turn_to_write: Arc<FairMutex<()>>,
}

impl Hot {
    /// Starts the thread, on a file whose tables are there.
    pub fn start(file: &Path, connection: Connection, commits: Observer) -> Result<Self, Error> {
        let turn_to_write = Arc::new(FairMutex::new(()));
        let tail = Arc::new(Tail::default());
        let known = Arc::new(Known::default());
        let memory = (tail.clone(), known.clone());
        let observer = Arc::new(commits);
        let alarm = observer.clone();
        let checkpointer = Checkpointer::start(
            file,
            turn_to_write.clone(),
            Box::new(move |error| alarm(Commit::failed(error))),
        )?;
        let log = writer::start(
            connection,
            memory,
            turn_to_write.clone(),
            checkpointer,
            observer,
        )?;
        Ok(Self {
            readers: Arc::new(Readers::new(file)),
            log,
            tail,
            known,
            turn_to_write,
        })
    }
}

/// Connections for turns. Each statement is a snapshot of its own, begun when it runs: a long-lived
/// snapshot would bring the forgotten event back.
pub struct Readers {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            idle: Mutex::default(),
        }
    }

    /// Reads with one of the connections, off the threads that must not block.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let readers = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let db = readers.take()?;
            let result = read(&db);
            readers.give_back(db);
            result
        });
        reading.await.map_err(|_| Error::Closed)?
    }

    fn take(&self) -> Result<Connection, Error> {
        if let Some(db) = self.idle.lock().pop() {
            return Ok(db);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(&self.file, flags)?;
        db.busy_timeout(LOCK_WAIT)?;
        db.pragma_update(None, "cache_size", -8_000)?;
        db.set_prepared_statement_cache_capacity(16);
        Ok(db)
    }

    fn give_back(&self, db: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < READERS_MAX {
            idle.push(db);
        }
    }
}
