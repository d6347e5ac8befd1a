//! The database in a file: turns read here, and one thread stores events and moves cursors.

mod advance;
mod append;
mod checkpoint;
mod cursor_cache;
pub mod file;
mod index;
mod inputs;
pub mod inspect;
mod look;
mod prune;
mod readers;
mod tail;
mod writer;

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{Mutex as FairMutex, MutexGuard};

use self::checkpoint::Checkpointer;
use self::cursor_cache::CursorCache;
use self::readers::Readers;
use self::tail::Tail;
use super::ops::{Advance, Appended, Input, NewEvent, Observer, Prune, Range, Step, Want};
use super::session::Alarm;
use crate::domain::cursor::{Cursor, CursorId};
use crate::domain::event::{Event, StreamId};
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::name::OrderingKey;
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;
use crate::store::Error;

pub use self::look::look_at_file;

/// The hot path on SQLite. Stopped by [`Sqlite::close`].
pub struct Sqlite {
    readers: Arc<Readers>,
    /// The thread that stores events and moves cursors.
    log: writer::Handle,
    tail: Arc<Tail>,
    cursors: Arc<CursorCache>,
    /// Held while somebody writes; fair, so that nobody starves.
    turn_to_write: Arc<FairMutex<()>>,
}

impl Sqlite {
    /// Starts the thread, on a file whose tables are there.
    pub fn start(
        file: &Path,
        connection: Connection,
        observer: Arc<Observer>,
        alarm: &Alarm,
    ) -> Result<Self, Error> {
        let turn_to_write = Arc::new(FairMutex::new(()));
        let tail = Arc::new(Tail::default());
        let cursors = Arc::new(CursorCache::default());
        let memory = (tail.clone(), cursors.clone());
        let checkpointer = Checkpointer::start(file, turn_to_write.clone(), alarm.clone())?;
        let log = writer::start(
            connection,
            memory,
            turn_to_write.clone(),
            checkpointer,
            observer,
        )?;
        Ok(Self {
            readers: Arc::new(Readers::new(file, alarm.clone())),
            log,
            tail,
            cursors,
            turn_to_write,
        })
    }

    /// Stores what `batch` gives when its transaction begins, on the thread of the writer.
    pub fn append(
        &self,
        batch: Box<dyn FnOnce() -> Vec<NewEvent> + Send>,
    ) -> impl Future<Output = Result<Vec<Appended>, Error>> + Send + use<> {
        self.log.append(batch)
    }

    /// Moves cursors in one transaction; each stands or falls alone.
    pub async fn advance(&self, steps: Vec<Step>) -> Result<Vec<Advance>, Error> {
        self.log.advance(steps).await
    }

    /// Reads inputs: out of memory where it knows everything, and the rest out of the file.
    pub async fn inputs(&self, wants: Vec<Want>) -> Result<Vec<Option<Input>>, Error> {
        let mut inputs: Vec<_> = wants
            .iter()
            .map(|want| inputs::input_in_memory(&self.cursors, &self.tail, want))
            .collect();
        let unknown = |(want, input): (&Want, &Option<Input>)| input.is_none().then_some(*want);
        let wants: Vec<_> = wants.iter().zip(&inputs).filter_map(unknown).collect();
        if wants.is_empty() {
            return Ok(inputs);
        }
        let tail = self.tail.clone();
        let read: Vec<_> = self
            .readers
            .read(move |db| {
                let read = |want: &Want| inputs::read_input(db, &tail, want);
                wants.iter().map(read).collect::<Result<_, _>>()
            })
            .await?;
        let missing = inputs.iter_mut().filter(|input| input.is_none());
        for (input, read) in missing.zip(read) {
            *input = read;
        }
        Ok(inputs)
    }

    /// A cursor as it stands, its stream's head and its last change; none when the stream is gone.
    pub async fn cursor(&self, id: CursorId) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
        let tail = self.tail.clone();
        self.readers
            .read(move |db| inputs::read_cursor(db, &tail, id))
            .await
    }

    /// The same, by the name of the stream.
    pub async fn cursor_by_name(
        &self,
        hook: HookId,
        key: &OrderingKey,
        handler: HandlerId,
    ) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
        let (tail, key) = (self.tail.clone(), key.clone());
        let read = move |db: &Connection| {
            let Some(stream) = inputs::read_stream_id(db, hook, &key)? else {
                return Ok(None);
            };
            inputs::read_cursor(db, &tail, CursorId { stream, handler })
        };
        self.readers.read(read).await
    }

    /// Events of many streams, each in order, one list a range.
    pub async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<Vec<Arc<Event>>>, Error> {
        let tail = self.tail.clone();
        self.readers
            .read(move |db| {
                let read = |range: &Range| inputs::read_range(db, &tail, range);
                ranges.iter().map(read).collect::<Result<_, _>>()
            })
            .await
    }

    /// Removes events and keeps checkpoints in their place; says of each cut whether it was done.
    pub async fn prune(&self, prune: Prune) -> Result<Vec<bool>, Error> {
        self.log.prune(prune).await
    }

    /// See [`crate::store::Store::oldest_bytes`].
    pub async fn oldest_bytes(&self, hook: HookId, bytes: i64) -> Result<Option<Timestamp>, Error> {
        let oldest = move |db: &Connection| prune::oldest_bytes(db, hook, bytes);
        self.readers.read(oldest).await
    }

    /// Brings the index of the log to its end.
    pub async fn index(&self) -> Result<(), Error> {
        self.log.index().await
    }

    /// The head of a stream that its row may not have yet; none when the row, read afterwards, has it.
    pub fn head_ahead(&self, stream: StreamId) -> Option<Seq> {
        self.tail.last(stream)
    }

    /// Has the writer read streams again. Called before the deletion of some is committed.
    pub fn streams_deleted(&self) {
        self.log.streams_deleted();
    }

    /// Forgets the events that are kept of streams that are gone.
    pub fn forget(&self, gone: &[StreamId]) {
        self.tail.forget(gone);
    }

    /// Waits until this caller may write.
    pub async fn turn_to_write(&self) -> MutexGuard<'_, ()> {
        self.turn_to_write.lock().await
    }

    /// Finishes what runs, indexes the log and copies the WAL.
    pub async fn close(&self) {
        self.log.stop().await;
    }
}
