//! The two databases behind one enum: each operation of the hot path once, with an arm for each
//! database. Both wings, `sqlite` and `postgres`, have the same modules.

pub mod ops;
pub mod postgres;
pub mod rows;
pub mod session;
pub mod silence;
pub mod sqlite;
pub mod tables;

use std::sync::Arc;

use futures_util::future::Either;
use tokio::sync::MutexGuard;

use self::ops::{
    Acknowledged, Advance, Appended, Committers, Due, History, Input, InputRequest, Inspection,
    NewEvent, Prune, Range, Released, Step,
};
use self::postgres::{Postgres, server};
use self::sqlite::Sqlite;
use crate::domain::cursor::{Cursor, CursorId};
use crate::domain::event::{Event, StreamId};
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::name::OrderingKey;
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;
use crate::store::{Database, Error};

/// Operations of the hot path. `Store` documents the promises of each method that it passes on.
pub enum Backend {
    /// A SQLite file.
    Sqlite(Sqlite),
    /// A Postgres server.
    Postgres(Postgres),
}

/// A statement with a different text for each database.
#[derive(Clone, Copy)]
pub struct Statement {
    pub sqlite: &'static str,
    pub postgres: &'static str,
}

/// Examines a database without changing it.
///
/// # Errors
/// [`Error::Refused`] when a node could not start on it; the message says what to do.
pub async fn examine(database: &Database) -> Result<Inspection, Error> {
    match database {
        Database::Postgres(server) => server::examine(server).await,
        Database::Sqlite(file) => {
            let file = file.clone();
            let looked = tokio::task::spawn_blocking(move || sqlite::examine_file(&file));
            looked.await.map_err(|_| Error::Closed)?
        }
    }
}

impl Backend {
    /// Stores a batch in one transaction, in its order.
    pub fn append(
        &self,
        batch: impl FnOnce() -> Vec<NewEvent> + Send + 'static,
    ) -> impl Future<Output = Result<Vec<Appended>, Error>> + Send + 'static {
        match self {
            Self::Sqlite(file) => Either::Left(file.append(Box::new(batch))),
            Self::Postgres(server) => {
                let (server, batch) = (server.clone(), batch());
                Either::Right(async move { server.append(batch).await })
            }
        }
    }

    /// Moves cursors in one transaction; each step succeeds or fails on its own.
    pub async fn advance(&self, steps: Vec<Step>) -> Result<Vec<Advance>, Error> {
        match self {
            Self::Sqlite(file) => file.advance(steps).await,
            Self::Postgres(server) => server.advance(steps).await,
        }
    }

    /// Reads the input of a turn for each request, in order; `None` where the stream no longer exists.
    pub async fn inputs(&self, wants: Vec<InputRequest>) -> Result<Vec<Option<Input>>, Error> {
        match self {
            Self::Sqlite(file) => file.inputs(wants).await,
            Self::Postgres(server) => server.inputs(wants).await,
        }
    }

    /// Like [`Backend::inputs`], but answered from memory where this node has stored and moved
    /// everything itself.
    pub async fn turn_inputs(&self, wants: Vec<InputRequest>) -> Result<Vec<Option<Input>>, Error> {
        match self {
            Self::Sqlite(file) => file.inputs(wants).await,
            Self::Postgres(server) => server.turn_inputs(wants).await,
        }
    }

    /// Makes the next turn of these cursors read from the database. Does nothing on SQLite, where no
    /// other node writes.
    pub fn invalidate(&self, cursors: impl Iterator<Item = CursorId>) {
        match self {
            Self::Sqlite(_) => {}
            Self::Postgres(server) => server.invalidate(cursors),
        }
    }

    /// A cursor with its stream's head and the time of its last change; `None` when the stream no
    /// longer exists.
    pub async fn cursor(&self, id: CursorId) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
        match self {
            Self::Sqlite(file) => file.cursor(id).await,
            Self::Postgres(server) => server.cursor(id).await,
        }
    }

    /// Like [`Backend::cursor`], by hook and ordering key.
    pub async fn cursor_by_name(
        &self,
        hook: HookId,
        key: &OrderingKey,
        handler: HandlerId,
    ) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
        match self {
            Self::Sqlite(file) => file.cursor_by_name(hook, key, handler).await,
            Self::Postgres(server) => server.cursor_by_name(hook, key, handler).await,
        }
    }

    /// Events of many streams, in order: one list for each range.
    pub async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<Vec<Arc<Event>>>, Error> {
        match self {
            Self::Sqlite(file) => file.ranges(ranges).await,
            Self::Postgres(server) => server.ranges(ranges).await,
        }
    }

    /// Removes events and stores checkpoints in their place. Returns for each cut whether it was done.
    pub async fn prune(&self, prune: Prune) -> Result<Vec<bool>, Error> {
        match self {
            Self::Sqlite(file) => file.prune(prune).await,
            Self::Postgres(server) => server.prune(prune).await,
        }
    }

    /// Stores waiting events that are due, in the order of their versions, and returns those that got a
    /// seq. On Postgres, one node at a time does this; the others store nothing.
    pub async fn release(&self, due: Due) -> Result<Vec<Released>, Error> {
        match self {
            Self::Sqlite(file) => file.release(due).await,
            Self::Postgres(server) => server.release(due).await,
        }
    }

    /// Receive time of the event at which the oldest events of a hook add up to `bytes`.
    pub async fn oldest_bytes(&self, hook: HookId, bytes: i64) -> Result<Option<Timestamp>, Error> {
        match self {
            Self::Sqlite(file) => file.oldest_bytes(hook, bytes).await,
            Self::Postgres(server) => server.oldest_bytes(hook, bytes).await,
        }
    }

    /// Brings the log index and the heads in the rows of streams up to the end of the log. Does nothing
    /// on Postgres, which updates them with the events.
    pub async fn index(&self) -> Result<(), Error> {
        match self {
            Self::Sqlite(file) => file.index().await,
            Self::Postgres(_) => Ok(()),
        }
    }

    /// Head of a stream that is in memory but not yet in its row; `None` if the row has it.
    pub fn head_ahead(&self, stream: StreamId) -> Option<Seq> {
        match self {
            Self::Sqlite(file) => file.head_ahead(stream),
            Self::Postgres(_) => None,
        }
    }

    /// True if rows of streams get their heads only after their events are stored (SQLite).
    pub fn is_behind_log(&self) -> bool {
        match self {
            Self::Sqlite(_) => true,
            Self::Postgres(_) => false,
        }
    }

    /// Must be called before a transaction that deletes streams commits.
    pub fn streams_deleted(&self) {
        match self {
            Self::Sqlite(file) => file.streams_deleted(),
            Self::Postgres(_) => {}
        }
    }

    /// Drops what is cached of streams that no longer exist.
    pub fn forget(&self, gone: &[StreamId]) {
        match self {
            Self::Sqlite(file) => file.forget(gone),
            Self::Postgres(server) => server.forget(gone),
        }
    }

    /// Statement that reads the system number and timeline of the server; `None` on SQLite.
    pub fn history_statement(&self) -> Option<&'static str> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(_) => Some(postgres::HISTORY),
        }
    }

    /// Accepts this server and drops everything that was cached from the previous one.
    pub fn accept(&self, history: History) {
        match self {
            Self::Sqlite(_) => {}
            Self::Postgres(server) => server.accept(history),
        }
    }

    /// Events that this node acknowledged lately; `None` on SQLite, which cannot lose them.
    pub fn acknowledged(&self) -> Option<Vec<Acknowledged>> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(server) => Some(server.acknowledged()),
        }
    }

    /// The given events that the database does not have, without those that retention has removed.
    pub async fn missing(&self, events: &[Acknowledged]) -> Result<Vec<Acknowledged>, Error> {
        match self {
            Self::Sqlite(_) => Ok(Vec::new()),
            Self::Postgres(server) => server.missing(events).await,
        }
    }

    /// The statement that begins a write transaction and, on SQLite, the write lock to hold meanwhile.
    pub async fn write_lock(&self) -> (Option<MutexGuard<'_, ()>>, &'static str) {
        match self {
            Self::Sqlite(file) => (Some(file.write_lock().await), "begin immediate"),
            Self::Postgres(_) => (None, "begin"),
        }
    }

    /// See `Store::committers`.
    pub fn committers(&self) -> Committers {
        match self {
            Self::Sqlite(_) => Committers {
                count: 1,
                batches: 2,
            },
            Self::Postgres(_) => Committers {
                count: 2,
                batches: 1,
            },
        }
    }

    /// Selects the text of a statement for this database.
    pub fn sql(&self, statement: Statement) -> &'static str {
        match self {
            Self::Sqlite(_) => statement.sqlite,
            Self::Postgres(_) => statement.postgres,
        }
    }

    /// Waits for running operations and closes the connections of the hot path.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(file) => file.close().await,
            Self::Postgres(server) => server.close().await,
        }
    }
}
