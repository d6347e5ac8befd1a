//! What is kept: events, cursors, configuration. One concrete [`Store`] over SQLite; the statements
//! are written in the words that SQLite and Postgres share, over relations with the same columns.
//!
//! Two ways lead into the file. What is hot (storing events, moving cursors, reading for a turn) goes
//! through SQLite's own interface: one [`writer`] thread puts whatever has gathered into one
//! transaction. Everything else goes through sqlx. Both take the same fair lock before they write, so
//! an operator's change never waits behind a busy log for more than one commit.

mod counts;
mod cursors;
mod error;
mod events;
mod hooks;
mod keys;
mod known;
mod namespaces;
mod sqlite;
mod streams;
mod tail;
mod writer;

use std::path::Path;
use std::sync::Arc;

use sqlx::SqlitePool;
use tokio::sync::{Mutex, MutexGuard};

pub use cursors::{Advance, Behind, Input, Mover, Skip, Step, Want};
pub use error::Error;
pub use events::{Appended, Filter, NewEvent, Stored};
pub use hooks::HookPlan;
pub use keys::LastUse;
pub use namespaces::Namespace;
pub use streams::{CursorRow, CursorsFilter, StreamRow};
pub use writer::Commit;

/// The database. Cheap to clone; closed when [`Store::close`] was called.
#[derive(Clone)]
pub struct Store {
    /// Configuration and operators' changes, one connection; see [`Store::begin`].
    writer: SqlitePool,
    /// Everything that only reads and is not hot.
    reader: SqlitePool,
    /// Turns.
    hot: Arc<sqlite::Readers>,
    /// Events and cursors.
    log: writer::Handle,
    tail: Arc<tail::Tail>,
    known: Arc<known::Known>,
    /// Held by whoever writes; fair, so that nobody starves.
    turn_to_write: Arc<Mutex<()>>,
}

/// How events are best given to the store.
#[derive(Clone, Copy, Debug)]
pub struct Committers {
    /// How many may store events side by side; a stream belongs to one of them.
    pub count: usize,
    /// Batches that one of them may have with the store at once, so that it never waits for the next.
    pub batches: usize,
}

/// A transaction that writes, and the right to.
struct Writing<'a> {
    tx: sqlx::Transaction<'static, sqlx::Sqlite>,
    _turn: MutexGuard<'a, ()>,
}

impl Writing<'_> {
    async fn commit(self) -> Result<(), Error> {
        Ok(self.tx.commit().await?)
    }

    /// Makes every node read the configuration again, once this has committed.
    async fn config_changed(&mut self) -> Result<(), Error> {
        counts::raise_config_version(&mut self.tx).await
    }
}

impl Store {
    /// Opens the database file, makes or moves its tables, and finishes what a crash left: the WAL is
    /// copied into the file and synced before anything new is accepted, and the index of the log is
    /// brought up to its end.
    ///
    /// # Errors
    /// [`Error::Refused`] when a setting that durability rests on does not hold.
    pub async fn open(file: &Path, commits: writer::Observer) -> Result<Self, Error> {
        let connection = sqlite::open_writer(file)?;
        let writer = sqlite::writer_pool(file).await?;
        sqlx::migrate!("migrations/sqlite")
            .run(&writer)
            .await
            .map_err(|error| Error::Refused(error.to_string()))?;
        let turn_to_write = Arc::new(Mutex::new(()));
        let tail = Arc::new(tail::Tail::default());
        let known = Arc::new(known::Known::default());
        let memory = (tail.clone(), known.clone());
        let log = writer::start(connection, memory, turn_to_write.clone(), commits)?;
        Ok(Self {
            writer,
            reader: sqlite::reader_pool(file).await?,
            hot: Arc::new(sqlite::Readers::new(file)),
            log,
            tail,
            known,
            turn_to_write,
        })
    }

    /// How events are best given to this store: one batch that is committed, one that gathers until then.
    pub fn committers(&self) -> Committers {
        Committers {
            count: 1,
            batches: 2,
        }
    }

    /// Finishes the transaction that runs, indexes the log, copies the WAL into the file and closes.
    pub async fn close(self) {
        self.log.stop().await;
        self.reader.close().await;
        self.writer.close().await;
    }

    /// Waits for this caller's turn to write and begins a transaction that writes.
    async fn begin(&self) -> Result<Writing<'_>, Error> {
        let turn = self.turn_to_write.lock().await;
        let tx = self.writer.begin_with("begin immediate").await?;
        Ok(Writing { tx, _turn: turn })
    }
}
