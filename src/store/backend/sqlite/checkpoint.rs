//! Copies the WAL into the file in parallel to the commits, because a copy needs a write and a sync of
//! the file, for which no sender should wait.
//!
//! SQLite restarts a WAL only when all of it is copied, which never happens while commits go on. So
//! most of it is copied in parallel, and the small rest under the write lock.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::Mutex;

use super::file;
use crate::store::Error;
use crate::store::backend::session::Alarm;

/// Number of WAL frames (pages) that may be left for the copy under the write lock: half a megabyte,
/// one or two milliseconds. Each parallel copy leaves less than the one before, because it takes less
/// time.
const LEFT_MAX: i64 = 64;

/// Number of parallel copies before the one under the write lock, however much is left by then.
const PASSES_MAX: usize = 12;

/// The checkpoint thread. Dropping it waits for the current copy and ends the thread.
pub struct Checkpointer {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread. `write_lock` is the write lock.
    pub fn start(file: &Path, write_lock: Arc<Mutex<()>>, alarm: Alarm) -> Result<Self, Error> {
        let db = file::open_checkpointer(file)?;
        let (wake, woken) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || run(&db, &woken, &write_lock, &alarm))
            .map_err(|error| Error::Refused(format!("no thread for checkpoints: {error}")))?;
        Ok(Self {
            wake: Some(wake),
            thread: Some(thread),
        })
    }

    /// Requests a copy; returns at once.
    pub fn wake(&self) {
        if let Some(wake) = &self.wake {
            // A request that has not begun yet covers this one too.
            let _ = wake.try_send(());
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(db: &Connection, woken: &Receiver<()>, write_lock: &Mutex<()>, alarm: &Alarm) {
    while woken.recv().is_ok() {
        if let Err(error) = copy_all(db, write_lock) {
            // Errors that are not fatal, such as a full disk, pass: the WAL is still whole, and the
            // next copy covers the same frames.
            alarm.hear(&error);
        }
    }
}

/// Copies in parallel to the commits until a copy finds few new frames, then the rest under the write
/// lock.
fn copy_all(db: &Connection, write_lock: &Mutex<()>) -> Result<(), Error> {
    let mut copied = 0;
    for _ in 0..PASSES_MAX {
        let before = copied;
        copied = copy(db)?;
        if copied - before <= LEFT_MAX {
            break;
        }
    }
    let _turn = write_lock.blocking_lock();
    copy(db).map(drop)
}

/// Copies the WAL and cuts it to length zero, so that no deleted content is left in it. `false` if readers
/// still need a part of it.
pub fn empty(file: &Path, write_lock: &Mutex<()>) -> Result<bool, Error> {
    let db = file::open_emptier(file)?;
    copy(&db)?;
    let _turn = write_lock.blocking_lock();
    file::empty(&db)
}

/// Copies all frames that no reader needs, without blocking anyone. Returns the number of frames copied
/// so far.
fn copy(db: &Connection) -> Result<i64, Error> {
    Ok(db.query_row("pragma wal_checkpoint(passive)", [], |row| row.get(2))?)
}
