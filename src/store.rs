//! Durable storage: events, cursors and configuration, in one concrete [`Store`] over SQLite and
//! Postgres.
//!
//! The hot path (storing events, moving cursors, reading for a turn) goes through [`Backend`], which
//! has an arm for each database. Everything else goes through sqlx, in statements that both databases
//! understand, over relations with the same columns. On SQLite both paths take the same fair lock
//! before they write, so an operator's change never waits behind a busy log for more than one commit.

mod alerts;
mod audit;
mod backend;
mod backlogs;
mod backup;
mod behind;
mod configuration;
mod counts;
mod cursors;
mod database;
mod deliveries;
mod erase;
mod error;
mod events;
mod feed;
mod files;
mod flights;
mod hints;
mod history;
mod hooks;
mod keys;
mod lane_modes;
mod lane_sets;
mod migrate;
mod namespaces;
mod nodes;
mod normals;
mod note;
mod prune;
mod rebuilds;
mod rejections;
mod replays;
mod secret_uses;
mod stops;
mod streams;
mod vault;
mod waiting;

use std::path::Path;
use std::sync::{Arc, Once};

use sqlx::AnyPool;
use tokio::sync::MutexGuard;

use self::backend::postgres::{Postgres, server};
use self::backend::session::{Alarm, Reader, Sessions, Tx};
use self::backend::silence::Silence;
use self::backend::sqlite::{Sqlite, file, inspect};
use self::backend::{Backend, Statement, tables};

pub use alerts::{AlertRow, AlertStage};
pub use audit::{AuditFilter, AuditRow};
pub use backend::examine;
pub use backend::ops::{
    Advance, Appended, Checkpoint, Commit, Committers, Cut, DamageCheck, Due, History, Input,
    InputRequest, Inspection, Mover, NewEvent, Observer, Provided, Prune, Range, Released,
    Restored, Step,
};
pub use backlogs::{LargestBacklog, ResizeExtent, SlotBacklog};
pub use backup::{
    BackupFault, BackupSummary, back_up, check_restored, read_summary, verify_backup,
};
pub use configuration::Configuration;
pub use cursors::{CursorBacklog, SkipOutcome};
pub use database::{Database, InvalidDatabase, Server};
pub use deliveries::{
    Claim, Delivery, LockedDelivery, OpenedDelivery, SettledDelivery, Settlement, StreamSlot,
};
pub use erase::{BegunErasure, Erasure, ErasureCounts, ErasureTarget, Overwritten};
pub use error::{Clash, Error};
pub use events::{Filter, Stored};
pub use feed::{FeedEnd, FeedFloor, FeedPart, FeedRange, FeedWatermark, StoredState};
pub use hints::{HintAnswer, HintRequest};
pub use history::{AcceptedServer, LostEvent};
pub use hooks::{Batch, ForwardPlan, HookPlan, PullPlan};
pub use keys::LastUse;
pub use lane_modes::{Attribution, DrainRemainder, LaneMode};
pub use lane_sets::{PendingResize, ResizeStart};
pub use migrate::{
    MigrationProgress, MigrationProof, check as check_migration, migrate, size as migration_size,
};
pub use namespaces::Namespace;
pub use nodes::{LaneRow, NodeRow, SetState};
pub use normals::BaselineRow;
pub use note::Note;
pub use prune::{Aged, Beginning, Prunable};
pub use rebuilds::{
    NewRebuild, Rebuild, RebuildProgress, RebuildStep, RebuildStepResult, Shadow, Swap,
};
pub use rejections::Rejection;
pub use replays::{NewReplay, RunningReplay};
pub use secret_uses::SecretUse;
pub use stops::{HookStop, ITSELF, NamespaceMove, Stuck};
pub use streams::{
    CursorRow, CursorState, CursorsFilter, NamespaceCounts, StreamCursors, StreamRow,
};

pub use vault::{KEY_FILE, Vault};
pub use waiting::{HeldBack, HeldBackCount, HeldBackFilter};

/// Handle on the database. Cheap to clone; all clones are closed by [`Store::close`].
///
/// # Errors
/// This holds for every method. [`Error::is_passing`] tells whether the same call may be tried again,
/// [`Error::is_fatal`] whether the process must end. A method that fails has changed nothing, except
/// after [`Error::Lost`] or a fatal error: then the outcome is unknown. A method with an `# Errors`
/// section of its own says what differs. A cancelled method has committed all of its changes or none.
#[derive(Clone)]
pub struct Store {
    /// Connections for changes of the configuration and by operators; see [`Store::begin`].
    writer: AnyPool,
    /// Connections for reads outside the hot path.
    reader: Reader,
    backend: Arc<Backend>,
    /// Place up to which the events of all nodes are readable.
    watermark: Arc<feed::FeedWatermark>,
    /// Audit note of the current operation; see [`Store::noting`].
    noting: Option<Arc<note::Noting>>,
    /// Encrypts and decrypts secrets.
    vault: Arc<Vault>,
}

/// A write transaction; on SQLite it also holds the write lock. Dropping it rolls back.
struct Writing<'a> {
    tx: Tx,
    _turn: Option<MutexGuard<'a, ()>>,
    noting: Option<&'a note::Noting>,
    vault: &'a Vault,
    /// Number of times that it has raised the version of plans.
    raised: i64,
}

impl Writing<'_> {
    /// Writes the audit note, if there is one, and commits.
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

    /// Raises the version of the configuration, so that every node reads it again after the commit.
    /// Plans that operators have made before are refused from then on.
    async fn config_changed(&mut self) -> Result<(), Error> {
        self.operation_progressed().await?;
        self.raised += 1;
        sqlx::query("update counters set value = value + 1 where name = 'plan_version'")
            .execute(&mut self.tx)
            .await?;
        Ok(())
    }

    /// Raises the version of the configuration for a step that a node makes of an operation which an
    /// operator has already begun. Plans made meanwhile stay valid.
    async fn operation_progressed(&mut self) -> Result<(), Error> {
        sqlx::query("update counters set value = value + 1 where name = 'config_version'")
            .execute(&mut self.tx)
            .await?;
        Ok(())
    }

    /// Adds details to the audit note.
    fn tell_note(&self, details: serde_json::Value) {
        if let Some(noting) = self.noting {
            noting.tell(details);
        }
    }
}

impl Store {
    /// Opens the database and migrates its tables. `commits` is called after every transaction on
    /// events and cursors.
    ///
    /// On SQLite this also completes what a crash interrupted: the WAL is copied into the file and
    /// synced before any event is accepted, and the index is built up to the end of the log.
    ///
    /// # Errors
    /// [`Error::Refused`] when a setting that durability depends on does not hold, [`Error::Away`] when
    /// a server cannot be reached. The message says what to do.
    pub async fn open(database: impl Into<Database>, commits: Observer) -> Result<Self, Error> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        match database.into() {
            Database::Sqlite(file) => Self::open_file(&file, commits).await,
            Database::Postgres(server) => Self::open_server(&server, commits).await,
        }
    }

    async fn open_file(path: &Path, commits: Observer) -> Result<Self, Error> {
        let vault = Vault::beside(path)?;
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
            watermark: Arc::default(),
            noting: None,
            vault: vault.into(),
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
            watermark: Arc::default(),
            noting: None,
            vault: Arc::default(),
        })
    }

    /// The same store with the key of `file`, which encrypts and decrypts secrets.
    ///
    /// # Errors
    /// [`Error::Refused`] if the file has no valid key, with the next step.
    pub fn with_secret_key(self, file: &Path) -> Result<Self, Error> {
        let vault = Vault::with_file(file)?.into();
        Ok(Self { vault, ..self })
    }

    /// Encrypts and decrypts secrets.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// The number of committers and batches with the best throughput. SQLite: one batch commits while
    /// the next one gathers. Postgres: two committers with one batch each, so that one commits while
    /// the other waits for the server. More of them would split the same events into smaller batches,
    /// and a batch costs as much as a dozen events.
    pub fn committers(&self) -> Committers {
        self.backend.committers()
    }

    /// Waits for running transactions and closes. On SQLite, also indexes the log and copies the WAL
    /// into the file.
    pub async fn close(self) {
        self.backend.close().await;
        self.reader.pool.close().await;
        self.writer.close().await;
    }

    /// Waits until the server is known not to answer. Never returns on SQLite.
    pub async fn falls_silent(&self) {
        match &self.reader.silence {
            Some(silence) => silence.is_known().await,
            None => std::future::pending().await,
        }
    }

    /// Waits until the server is known not to answer, and still does not half a second later. Never returns on
    /// SQLite.
    pub async fn stays_silent(&self) {
        match &self.reader.silence {
            Some(silence) => silence.stays().await,
            None => std::future::pending().await,
        }
    }

    /// Begins a write transaction. On SQLite it first waits for the write lock.
    async fn begin(&self) -> Result<Writing<'_>, Error> {
        let (turn, begin) = self.backend.write_lock().await;
        let tx = Tx::begin(&self.writer, &self.reader, begin).await?;
        Ok(Writing {
            tx,
            _turn: turn,
            noting: self.noting.as_deref(),
            vault: &self.vault,
            raised: 0,
        })
    }

    /// Selects the text of a statement for this database.
    fn sql(&self, statement: Statement) -> &'static str {
        self.backend.sql(statement)
    }
}

/// Reports an error as a failed transaction to the observer, which ends the process if the error is
/// fatal.
fn alarm(commits: Arc<Observer>) -> Alarm {
    Alarm::new(move |error| commits(Commit::failed(error)))
}
