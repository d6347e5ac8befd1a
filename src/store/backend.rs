//! The two databases behind one enum: each operation of the hot path once, an arm a database. Each has its
//! wing, and the same rooms in it.

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
    Acknowledged, Advance, Appended, Committers, History, Input, Inspection, NewEvent, Prune,
    Range, Step, Want,
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

/// Storing events, moving cursors, reading for a turn: each database in its own words. What a method
/// promises is said at the method of `Store` that calls it.
pub enum Backend {
    /// A file.
    Sqlite(Sqlite),
    /// A server.
    Postgres(Postgres),
}

/// A statement that the two databases understand differently.
#[derive(Clone, Copy)]
pub struct Statement {
    pub sqlite: &'static str,
    pub postgres: &'static str,
}

/// Looks at a database.
///
/// # Errors
/// [`Error::Refused`] when a node could not start on it; it says what to do.
pub async fn look(database: &Database) -> Result<Inspection, Error> {
    match database {
        Database::Postgres(server) => server::look(server).await,
        Database::Sqlite(file) => {
            let file = file.clone();
            let looked = tokio::task::spawn_blocking(move || sqlite::look_at_file(&file));
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

    /// Moves cursors in one transaction; each stands or falls alone.
    pub async fn advance(&self, steps: Vec<Step>) -> Result<Vec<Advance>, Error> {
        match self {
            Self::Sqlite(file) => file.advance(steps).await,
            Self::Postgres(server) => server.advance(steps).await,
        }
    }

    /// Reads what a turn starts from, one input a want, in order; none where the stream is gone.
    pub async fn inputs(&self, wants: Vec<Want>) -> Result<Vec<Option<Input>>, Error> {
        match self {
            Self::Sqlite(file) => file.inputs(wants).await,
            Self::Postgres(server) => server.inputs(wants).await,
        }
    }

    /// As [`Backend::inputs`], but out of memory where this node has stored and moved everything itself.
    pub async fn turn_inputs(&self, wants: Vec<Want>) -> Result<Vec<Option<Input>>, Error> {
        match self {
            Self::Sqlite(file) => file.inputs(wants).await,
            Self::Postgres(server) => server.turn_inputs(wants).await,
        }
    }

    /// Has the next turn of these cursors read them. No other node writes to a file.
    pub fn doubt(&self, cursors: impl Iterator<Item = CursorId>) {
        match self {
            Self::Sqlite(_) => {}
            Self::Postgres(server) => server.doubt(cursors),
        }
    }

    /// A cursor as it stands, its stream's head and its last change; none when the stream is gone.
    pub async fn cursor(&self, id: CursorId) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
        match self {
            Self::Sqlite(file) => file.cursor(id).await,
            Self::Postgres(server) => server.cursor(id).await,
        }
    }

    /// The same, by the name of the stream.
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

    /// Events of many streams, each in order, one list a range.
    pub async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<Vec<Arc<Event>>>, Error> {
        match self {
            Self::Sqlite(file) => file.ranges(ranges).await,
            Self::Postgres(server) => server.ranges(ranges).await,
        }
    }

    /// Removes events and keeps checkpoints in their place; says of each cut whether it was done.
    pub async fn prune(&self, prune: Prune) -> Result<Vec<bool>, Error> {
        match self {
            Self::Sqlite(file) => file.prune(prune).await,
            Self::Postgres(server) => server.prune(prune).await,
        }
    }

    /// When the event of a hook was received with which its oldest events come to `bytes`.
    pub async fn oldest_bytes(&self, hook: HookId, bytes: i64) -> Result<Option<Timestamp>, Error> {
        match self {
            Self::Sqlite(file) => file.oldest_bytes(hook, bytes).await,
            Self::Postgres(server) => server.oldest_bytes(hook, bytes).await,
        }
    }

    /// Brings to its end what is built behind the log: heads, and what finds an event by its place.
    /// Postgres moves them with the events.
    pub async fn index(&self) -> Result<(), Error> {
        match self {
            Self::Sqlite(file) => file.index().await,
            Self::Postgres(_) => Ok(()),
        }
    }

    /// The head of a stream, where it is known before its row has it.
    pub fn head_ahead(&self, stream: StreamId) -> Option<Seq> {
        match self {
            Self::Sqlite(file) => file.head_ahead(stream),
            Self::Postgres(_) => None,
        }
    }

    /// Whether rows of streams get their heads only after their events were stored.
    pub fn is_behind_log(&self) -> bool {
        match self {
            Self::Sqlite(_) => true,
            Self::Postgres(_) => false,
        }
    }

    /// Called before the deletion of streams is committed.
    pub fn streams_deleted(&self) {
        match self {
            Self::Sqlite(file) => file.streams_deleted(),
            Self::Postgres(_) => {}
        }
    }

    /// Forgets what is kept in memory of streams that are gone.
    pub fn forget(&self, gone: &[StreamId]) {
        match self {
            Self::Sqlite(file) => file.forget(gone),
            Self::Postgres(server) => server.forget(gone),
        }
    }

    /// The statement that says which server this is; none in a file.
    pub fn history_statement(&self) -> Option<&'static str> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(_) => Some(postgres::HISTORY),
        }
    }

    /// Goes on with this server, forgetting everything that was known of the one before.
    pub fn accept(&self, history: History) {
        match self {
            Self::Sqlite(_) => {}
            Self::Postgres(server) => server.accept(history),
        }
    }

    /// What was acknowledged lately; none in a file, which has all of it.
    pub fn acknowledged(&self) -> Option<Vec<Acknowledged>> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(server) => Some(server.acknowledged()),
        }
    }

    /// Those of some acknowledged events that the database does not have, and retention has not removed.
    pub async fn missing(&self, events: &[Acknowledged]) -> Result<Vec<Acknowledged>, Error> {
        match self {
            Self::Sqlite(_) => Ok(Vec::new()),
            Self::Postgres(server) => server.missing(events).await,
        }
    }

    /// How a transaction that writes begins, and, in a file, the right to.
    pub async fn turn_to_write(&self) -> (Option<MutexGuard<'_, ()>>, &'static str) {
        match self {
            Self::Sqlite(file) => (Some(file.turn_to_write().await), "begin immediate"),
            Self::Postgres(_) => (None, "begin"),
        }
    }

    /// How events are best given to this database; see `Store::committers`.
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

    /// The words of this database.
    pub fn words(&self, statement: Statement) -> &'static str {
        match self {
            Self::Sqlite(_) => statement.sqlite,
            Self::Postgres(_) => statement.postgres,
        }
    }

    /// Finishes what runs and closes the connections of the hot path.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(file) => file.close().await,
            Self::Postgres(server) => server.close().await,
        }
    }
}
