//! What is kept: events, cursors, configuration. One concrete [`Store`] over SQLite and Postgres.
//!
//! What is hot (storing events, moving cursors, reading for a turn) goes through each database's own
//! interface, [`Hot`]. Everything else goes through sqlx, in statements that both understand, over
//! relations with the same columns. On SQLite both ways take the same fair lock before they write, so
//! an operator's change never waits behind a busy log for more than one commit.

mod audit;
mod backend;
mod counts;
mod cursors;
mod database;
mod error;
mod events;
mod hints;
mod history;
mod hooks;
mod keys;
mod lane_sets;
mod migrate;
mod namespaces;
mod nodes;
mod normals;
mod prune;
mod rebuilds;
mod stops;
mod streams;

use std::path::Path;
use std::sync::{Arc, Once};

use sqlx::AnyPool;
use sqlx::migrate::MigrateError;
use tokio::sync::MutexGuard;

use self::backend::postgres::server;
use self::backend::session::{Reader, Sessions, Tx};
use self::backend::{postgres, sqlite};

use crate::domain::event::StreamId;
use crate::domain::position::Seq;

pub use audit::{AuditFilter, AuditRow, Note};
pub use backend::ops::{
    Advance, Appended, Checkpoint, Commit, Cut, History, Input, Looked, Mover, NewEvent, Observer,
    Prune, Range, Step, Want,
};
pub use backend::sqlite::look::look;
pub use cursors::{Behind, Skip};
pub use database::{Database, NoDatabase, Server};
pub use error::{Clash, Error};
pub use events::{Filter, Stored};
pub use hints::{HintAnswer, HintRequest};
pub use history::{Accepted, LostEvent};
pub use hooks::{Batch, HookPlan};
pub use keys::LastUse;
pub use lane_sets::{Begun, Closed, Fullest, LaneMode, Left, Progress, Size, Waiting, Why};
pub use migrate::{Moved, Proof, migrate, size as migrate_size};
pub use namespaces::Namespace;
pub use nodes::{LaneRow, NodeRow, SetState};
pub use normals::NormalRow;
pub use prune::{Aged, Beginning, Prunable};
pub use rebuilds::{Come, NewRebuild, Rebuild, Shadow, Swap};
pub use stops::{HookStop, Move};
pub use streams::{
    CursorRow, CursorState, CursorsFilter, NamespaceCounts, StreamCursors, StreamRow,
};

/// The database. Cheap to clone; closed when [`Store::close`] was called.
#[derive(Clone)]
pub struct Store {
    /// Configuration and operators' changes; see [`Store::begin`].
    writer: AnyPool,
    /// Everything that only reads and is not hot.
    reader: Reader,
    hot: Arc<Hot>,
    /// What is noted with the next change; see [`Store::noting`].
    noting: Option<Arc<audit::Noting>>,
}

/// Storing events, moving cursors, reading for a turn: each database in its own words.
enum Hot {
    Sqlite(sqlite::Hot),
    Postgres(postgres::Hot),
}

/// How events are best given to the store.
#[derive(Clone, Copy, Debug)]
pub struct Committers {
    /// How many may store events side by side; a stream belongs to one of them.
    pub count: usize,
    /// Batches that one of them may have with the store at once, so that it never waits for the next.
    pub batches: usize,
}

/// A statement that the two databases understand differently.
#[derive(Clone, Copy)]
struct Statement {
    sqlite: &'static str,
    postgres: &'static str,
}

/// A transaction that writes, and, on SQLite, the right to.
struct Writing<'a> {
    tx: Tx,
    _turn: Option<MutexGuard<'a, ()>>,
    noting: Option<&'a audit::Noting>,
    /// How often it has raised the version of the configuration.
    raised: i64,
}

impl Writing<'_> {
    /// Commits, with the note of the operator who wants it.
    async fn commit(mut self) -> Result<(), Error> {
        let written = match self.noting {
            Some(noting) => noting.write(&mut self.tx, self.raised).await?,
            None => None,
        };
        self.tx.commit().await?;
        if let (Some(noting), Some(row)) = (self.noting, written) {
            noting.written(row);
        }
        Ok(())
    }

    /// Makes every node read the configuration again, once this has committed.
    async fn config_changed(&mut self) -> Result<(), Error> {
        self.raised += 1;
        counts::raise_config_version(&mut self.tx).await
    }

    /// Adds to what is noted.
    fn tell_note(&self, details: serde_json::Value) {
        if let Some(noting) = self.noting {
            noting.tell(details);
        }
    }
}

impl Hot {
    /// Brings to its end what is built behind the log: heads, and what finds an event by its place.
    /// Postgres moves them with the events.
    async fn index(&self) -> Result<(), Error> {
        match self {
            Self::Sqlite(hot) => hot.log.index().await,
            Self::Postgres(_) => Ok(()),
        }
    }

    /// The head of a stream, where it is known before its row has it.
    fn head_ahead(&self, stream: StreamId) -> Option<Seq> {
        match self {
            Self::Sqlite(hot) => hot.tail.last(stream),
            Self::Postgres(_) => None,
        }
    }

    /// Whether rows of streams get their heads only after their events were stored.
    fn is_behind_log(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    /// Called by who deletes streams, before that is committed.
    fn streams_deleted(&self) {
        if let Self::Sqlite(hot) = self {
            hot.log.streams_deleted();
        }
    }

    /// Forgets what is kept of streams that are gone.
    fn forget(&self, gone: &[StreamId]) {
        match self {
            Self::Sqlite(hot) => hot.tail.forget(gone),
            Self::Postgres(hot) => hot.forget(gone),
        }
    }
}

impl Store {
    /// Opens the database and makes or moves its tables. Of every transaction on events and cursors,
    /// `commits` is told.
    ///
    /// In a file, what a crash left is finished: the WAL is copied into the file and synced before
    /// anything new is accepted, and the index of the log is brought up to its end.
    ///
    /// # Errors
    /// [`Error::Refused`] when a setting that durability rests on does not hold, or a server cannot be
    /// reached; it says what to do.
    pub async fn open(database: impl Into<Database>, commits: Observer) -> Result<Self, Error> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        match database.into() {
            Database::Sqlite(file) => Self::open_file(&file, commits).await,
            Database::Postgres(server) => Self::open_server(&server, commits).await,
        }
    }

    async fn open_file(file: &Path, commits: Observer) -> Result<Self, Error> {
        let connection = sqlite::open_writer(file)?;
        let writer = sqlite::writer_pool(file).await?;
        sqlx::migrate!("migrations/sqlite")
            .run(&writer)
            .await
            .map_err(|error| Error::Refused(mismatch(&error)))?;
        let hot = Hot::Sqlite(sqlite::Hot::start(file, connection, commits)?);
        Ok(Self {
            writer,
            reader: Reader {
                pool: sqlite::reader_pool(file).await?,
                sessions: Sessions::Own,
            },
            hot: hot.into(),
            noting: None,
        })
    }

    async fn open_server(server: &Server, commits: Observer) -> Result<Self, Error> {
        let sessions = server::prepare(server).await?;
        let pool = server::pool(server, sessions).await?;
        let reader = Reader {
            pool: pool.clone(),
            sessions,
        };
        if let Some(why) = migrate::unfinished(&reader).await? {
            return Err(Error::Refused(why));
        }
        let options = server.native.clone();
        let hot = postgres::Hot::open(options, sessions, commits.into()).await?;
        hot.check_functions().await?;
        Ok(Self {
            writer: pool,
            reader,
            hot: Hot::Postgres(hot).into(),
            noting: None,
        })
    }

    /// How events are best given to this store. In a file: one batch that is committed, one that gathers
    /// until then. On a server: two, each with one batch, so that one commit is waited for while the other
    /// one is made. More would cut the same events into smaller batches, and a batch costs as much as a
    /// dozen events.
    pub fn committers(&self) -> Committers {
        match &*self.hot {
            Hot::Sqlite(_) => Committers {
                count: 1,
                batches: 2,
            },
            Hot::Postgres(_) => Committers {
                count: 2,
                batches: 1,
            },
        }
    }

    /// Finishes the transactions that run and closes. In a file, the log is indexed and the WAL copied.
    pub async fn close(self) {
        match &*self.hot {
            Hot::Sqlite(hot) => hot.log.stop().await,
            Hot::Postgres(hot) => hot.close().await,
        }
        self.reader.pool.close().await;
        self.writer.close().await;
    }

    /// Begins a transaction that writes; on SQLite, when it is this caller's turn to.
    async fn begin(&self) -> Result<Writing<'_>, Error> {
        let (turn, begin) = match &*self.hot {
            Hot::Sqlite(hot) => (Some(hot.turn_to_write.lock().await), "begin immediate"),
            Hot::Postgres(_) => (None, "begin"),
        };
        let tx = Tx::begin(&self.writer, self.reader.sessions, begin).await?;
        Ok(Writing {
            tx,
            _turn: turn,
            noting: self.noting.as_deref(),
            raised: 0,
        })
    }

    /// The words of this database.
    fn words(&self, statement: Statement) -> &'static str {
        match &*self.hot {
            Hot::Sqlite(_) => statement.sqlite,
            Hot::Postgres(_) => statement.postgres,
        }
    }
}

/// Why tables do not fit this binary, and what to do.
fn mismatch(error: &MigrateError) -> String {
    match error {
        MigrateError::VersionMissing(number) => format!(
            "the database was made by a newer hooklane (tables {number}); run that one, or a newer"
        ),
        other => other.to_string(),
    }
}
