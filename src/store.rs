//! What is kept: events, cursors, configuration. One concrete [`Store`] over SQLite and Postgres.
//!
//! What is hot (storing events, moving cursors, reading for a turn) goes through each database's own
//! interface, [`Backend`]. Everything else goes through sqlx, in statements that both understand, over
//! relations with the same columns. On SQLite both ways take the same fair lock before they write, so
//! an operator's change never waits behind a busy log for more than one commit.

mod audit;
mod backend;
mod configuration;
mod counts;
mod cursors;
mod database;
mod error;
mod events;
mod files;
mod flights;
mod hints;
mod history;
mod hooks;
mod keys;
mod lane_sets;
mod migrate;
mod namespaces;
mod nodes;
mod normals;
mod note;
mod prune;
mod rebuilds;
mod stops;
mod streams;

use std::path::Path;
use std::sync::{Arc, Once};

use sqlx::AnyPool;
use tokio::sync::MutexGuard;

use self::backend::postgres::{Postgres, server};
use self::backend::session::{Alarm, Reader, Sessions, Tx};
use self::backend::silence::Silence;
use self::backend::sqlite::{Sqlite, file, inspect};
use self::backend::{Backend, Statement, tables};

pub use audit::{AuditFilter, AuditRow};
pub use backend::look;
pub use backend::ops::{
    Advance, Appended, Checkpoint, Commit, Committers, Cut, DamageCheck, History, Input,
    Inspection, Mover, NewEvent, Observer, Prune, Range, Step, Want,
};
pub use configuration::Configuration;
pub use cursors::{Behind, Skip};
pub use database::{Database, NoDatabase, Server};
pub use error::{Clash, Error};
pub use events::{Filter, Stored};
pub use hints::{HintAnswer, HintRequest};
pub use history::{Accepted, LostEvent};
pub use hooks::{Batch, ForwardPlan, HookPlan};
pub use keys::LastUse;
pub use lane_sets::{Begun, Closed, Fullest, LaneMode, Left, Progress, Size, Waiting, Why};
pub use migrate::{Moved, Proof, may as may_migrate, migrate, size as migrate_size};
pub use namespaces::Namespace;
pub use nodes::{LaneRow, NodeRow, SetState};
pub use normals::NormalRow;
pub use note::Note;
pub use prune::{Aged, Beginning, Prunable};
pub use rebuilds::{NewRebuild, Rebuild, RebuildProgress, RebuildStep, Shadow, Stepped, Swap};
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
    backend: Arc<Backend>,
    /// What is noted with the next change; see [`Store::noting`].
    noting: Option<Arc<note::Noting>>,
}

/// A transaction that writes, and, on SQLite, the right to.
struct Writing<'a> {
    tx: Tx,
    _turn: Option<MutexGuard<'a, ()>>,
    noting: Option<&'a note::Noting>,
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
        sqlx::query("update counters set value = value + 1 where name = 'config_version'")
            .execute(&mut self.tx)
            .await?;
        Ok(())
    }

    /// Adds to what is noted.
    fn tell_note(&self, details: serde_json::Value) {
        if let Some(noting) = self.noting {
            noting.tell(details);
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

    async fn open_file(path: &Path, commits: Observer) -> Result<Self, Error> {
        let connection = file::open_writer(path)?;
        let writer = file::writer_pool(path).await?;
        sqlx::migrate!("migrations/sqlite")
            .run(&writer)
            .await
            .map_err(tables::not_migrated)?;
        inspect::at_start(&connection)?;
        let commits = Arc::new(commits);
        let alarm = alarm(commits.clone());
        let backend = Sqlite::start(path, connection, commits, &alarm)?;
        let backend = Backend::Sqlite(backend);
        Ok(Self {
            writer,
            reader: Reader {
                pool: file::reader_pool(path).await?,
                sessions: Sessions::Own,
                alarm,
                silence: None,
            },
            backend: backend.into(),
            noting: None,
        })
    }

    async fn open_server(server: &Server, commits: Observer) -> Result<Self, Error> {
        let sessions = server::prepare(server).await?;
        let silence = Silence::of(&server.native);
        let pool = server::pool(server, sessions, &silence).await?;
        let commits = Arc::new(commits);
        let alarm = alarm(commits.clone());
        let reader = Reader {
            pool: pool.clone(),
            sessions,
            alarm: alarm.clone(),
            silence: Some(silence.clone()),
        };
        if let Some(why) = migrate::unfinished(&reader).await? {
            return Err(Error::Refused(why));
        }
        let options = server.native.clone();
        let backend = Postgres::open(options, sessions, silence, commits, alarm).await?;
        backend.check_functions().await?;
        Ok(Self {
            writer: pool,
            reader,
            backend: Backend::Postgres(backend).into(),
            noting: None,
        })
    }

    /// How events are best given to this store. In a file: one batch that is committed, one that gathers
    /// until then. On a server: two, each with one batch, so that one commit is waited for while the other
    /// one is made. More would cut the same events into smaller batches, and a batch costs as much as a
    /// dozen events.
    pub fn committers(&self) -> Committers {
        self.backend.committers()
    }

    /// Finishes the transactions that run and closes. In a file, the log is indexed and the WAL copied.
    pub async fn close(self) {
        self.backend.close().await;
        self.reader.pool.close().await;
        self.writer.close().await;
    }

    /// Waits until it is known that the server does not answer; without an end where there is none.
    pub async fn falls_silent(&self) {
        match &self.reader.silence {
            Some(silence) => silence.is_known().await,
            None => std::future::pending().await,
        }
    }

    /// Begins a transaction that writes; on SQLite, when it is this caller's turn to.
    async fn begin(&self) -> Result<Writing<'_>, Error> {
        let (turn, begin) = self.backend.turn_to_write().await;
        let tx = Tx::begin(&self.writer, &self.reader, begin).await?;
        Ok(Writing {
            tx,
            _turn: turn,
            noting: self.noting.as_deref(),
            raised: 0,
        })
    }

    /// The words of this database.
    fn words(&self, statement: Statement) -> &'static str {
        self.backend.words(statement)
    }
}

/// Tells of an error as of a transaction that failed: whoever is told of those ends the process.
fn alarm(commits: Arc<Observer>) -> Alarm {
    Alarm::new(move |error| commits(Commit::failed(error)))
}
