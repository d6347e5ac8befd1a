//! The SQLite wing: turns read through a pool of connections, and one thread stores events and moves
//! cursors.

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
mod repeats;
mod tail;
mod waiting;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{Mutex as FairMutex, MutexGuard};

use self::checkpoint::Checkpointer;
use self::cursor_cache::CursorCache;
use self::readers::Readers;
use self::tail::Tail;
use super::ops::{
    Advance, Appended, Due, Input, InputRequest, NewEvent, Observer, Prune, Range, Released, Step,
};
use super::session::Alarm;
use crate::domain::cursor::{Cursor, CursorId};
use crate::domain::event::{Event, StreamId};
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::name::OrderingKey;
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;
use crate::store::Error;

pub use self::look::examine_file;

/// Bytes that the disk must have free after it was full: one body of the usual limit.
const ROOM: usize = 1 << 20;

/// The hot path on SQLite. Stopped by [`Sqlite::close`].
pub struct Sqlite {
    file: PathBuf,
    readers: Arc<Readers>,
    /// Sends work to the writer thread.
    log: writer::Handle,
    tail: Arc<Tail>,
    cursors: Arc<CursorCache>,
    /// The write lock, shared by the writer thread, the checkpointer and operators' transactions. It is
    /// fair, so that no one starves.
    write_lock: Arc<FairMutex<()>>,
}

impl Sqlite {
    /// Checks that the disk has room for an event, by a file beside the database that is removed again. A
    /// small transaction proves nothing: it may find room in the write-ahead log.
    ///
    /// # Errors
    /// [`Error::Space`]; [`Error::Closed`] when the thread was lost.
    pub async fn has_room(&self) -> Result<(), Error> {
        let probe = self.file.with_extension("room");
        let tried = tokio::task::spawn_blocking(move || {
            let written = std::fs::write(&probe, vec![0; ROOM]);
            // If it cannot be removed, the next try replaces it.
            let _ = std::fs::remove_file(&probe);
            written.map_err(|_| Error::Space)
        });
        tried.await.map_err(|_| Error::Closed)?
    }

    /// Starts the threads on a file whose tables are migrated.
    pub fn start(
        file: &Path,
        connection: Connection,
        observer: Arc<Observer>,
        alarm: &Alarm,
    ) -> Result<Self, Error> {
        let write_lock = Arc::new(FairMutex::new(()));
        let tail = Arc::new(Tail::default());
        let cursors = Arc::new(CursorCache::default());
        let memory = (tail.clone(), cursors.clone());
        let checkpointer = Checkpointer::start(file, write_lock.clone(), alarm.clone())?;
        let log = writer::start(
            connection,
            memory,
            write_lock.clone(),
            checkpointer,
            observer,
        )?;
        Ok(Self {
            file: file.to_owned(),
            readers: Arc::new(Readers::new(file, alarm.clone())),
            log,
            tail,
            cursors,
            write_lock,
        })
    }

    /// Stores the events that `batch` returns. It is called on the writer thread when the transaction
    /// begins.
    pub fn append(
        &self,
        batch: Box<dyn FnOnce() -> Vec<NewEvent> + Send>,
    ) -> impl Future<Output = Result<Vec<Appended>, Error>> + Send + use<> {
        self.log.append(batch)
    }

    /// Moves cursors in one transaction; each step succeeds or fails on its own.
    pub async fn advance(&self, steps: Vec<Step>) -> Result<Vec<Advance>, Error> {
        self.log.advance(steps).await
    }

    /// Reads inputs from memory where the caches have everything, the others from the file.
    pub async fn inputs(&self, wants: Vec<InputRequest>) -> Result<Vec<Option<Input>>, Error> {
        let mut inputs: Vec<_> = wants
            .iter()
            .map(|want| inputs::input_in_memory(&self.cursors, &self.tail, want))
            .collect();
        let unknown =
            |(want, input): (&InputRequest, &Option<Input>)| input.is_none().then_some(*want);
        let wants: Vec<_> = wants.iter().zip(&inputs).filter_map(unknown).collect();
        if wants.is_empty() {
            return Ok(inputs);
        }
        let tail = self.tail.clone();
        let read: Vec<_> = self
            .readers
            .read(move |db| {
                let read = |want: &InputRequest| inputs::read_input(db, &tail, want);
                wants.iter().map(read).collect::<Result<_, _>>()
            })
            .await?;
        let missing = inputs.iter_mut().filter(|input| input.is_none());
        for (input, read) in missing.zip(read) {
            *input = read;
        }
        Ok(inputs)
    }

    /// A cursor with its stream's head and the time of its last change; `None` when the stream no
    /// longer exists.
    pub async fn cursor(&self, id: CursorId) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
        let tail = self.tail.clone();
        self.readers
            .read(move |db| inputs::read_cursor(db, &tail, id))
            .await
    }

    /// Like [`Sqlite::cursor`], by hook and ordering key.
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

    /// Events of many streams, in order: one list for each range.
    pub async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<Vec<Arc<Event>>>, Error> {
        let tail = self.tail.clone();
        self.readers
            .read(move |db| {
                let read = |range: &Range| inputs::read_range(db, &tail, range);
                ranges.iter().map(read).collect::<Result<_, _>>()
            })
            .await
    }

    /// Removes events and stores checkpoints in their place. Returns for each cut whether it was done.
    pub async fn prune(&self, prune: Prune) -> Result<Vec<bool>, Error> {
        self.log.prune(prune).await
    }

    /// Stores waiting events that are due, in the order of their versions.
    pub async fn release(&self, due: Due) -> Result<Vec<Released>, Error> {
        self.log.release(due).await
    }

    /// See [`crate::store::Store::oldest_bytes`].
    pub async fn oldest_bytes(&self, hook: HookId, bytes: i64) -> Result<Option<Timestamp>, Error> {
        let oldest = move |db: &Connection| prune::oldest_bytes(db, hook, bytes);
        self.readers.read(oldest).await
    }

    /// Brings the log index up to the end of the log.
    pub async fn index(&self) -> Result<(), Error> {
        self.log.index().await
    }

    /// Head of a stream if its row may not have it yet. `None` means that the row, read after this
    /// call, has it.
    pub fn head_ahead(&self, stream: StreamId) -> Option<Seq> {
        self.tail.last(stream)
    }

    /// Makes the writer read streams again. Must be called before a transaction that deletes streams
    /// commits.
    pub fn streams_deleted(&self) {
        self.log.streams_deleted();
    }

    /// Drops the cached events and cursors of streams that no longer exist.
    pub fn forget(&self, gone: &[StreamId]) {
        self.tail.forget(gone);
        self.cursors.forget(gone);
    }

    /// Cuts the WAL to length zero; `false` if readers still need a part of it.
    pub async fn empty_wal(&self) -> Result<bool, Error> {
        let (file, write_lock) = (self.file.clone(), self.write_lock.clone());
        let emptied = tokio::task::spawn_blocking(move || checkpoint::empty(&file, &write_lock));
        emptied.await.map_err(|_| Error::Closed)?
    }

    /// Waits for the write lock.
    pub async fn write_lock(&self) -> MutexGuard<'_, ()> {
        self.write_lock.lock().await
    }

    /// Waits for running operations, indexes the log and copies the WAL into the file.
    pub async fn close(&self) {
        self.log.stop().await;
    }
}
