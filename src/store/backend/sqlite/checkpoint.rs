//! Copies the WAL into the file beside the commits: what a checkpoint costs is a writing and a sync of
//! the file, for which nobody who stores an event has to wait.
//!
//! A WAL begins anew only when all of it is copied, which never happens while commits go on: so most of
//! it is copied beside them, and what they wrote meanwhile, which is little, in their place.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::Mutex;

use super::file;
use crate::store::Error;
use crate::store::backend::session::Alarm;

/// Frames of the WAL, each a page, that may be left for the copy while nobody commits: half a megabyte, a
/// millisecond or two. Each copy beside the commits leaves less than the one before it, as it takes less time.
const LEFT_MAX: i64 = 64;

/// Copies beside the commits before the one in their place, however much is left by then.
const PASSES_MAX: usize = 12;

/// The thread that copies; it ends when this is dropped, after the copy it is at.
pub struct Checkpointer {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread. `turn_to_write` is held by whoever writes.
    pub fn start(file: &Path, turn_to_write: Arc<Mutex<()>>, alarm: Alarm) -> Result<Self, Error> {
        let db = file::open_checkpointer(file)?;
        let (wake, woken) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || run(&db, &woken, &turn_to_write, &alarm))
            .map_err(|error| Error::Refused(format!("no thread for checkpoints: {error}")))?;
        Ok(Self {
            wake: Some(wake),
            thread: Some(thread),
        })
    }

    /// Asks for a copy, soon.
    pub fn wake(&self) {
        if let Some(wake) = &self.wake {
            // When one was asked for and has not begun, it is enough for both.
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

fn run(db: &Connection, woken: &Receiver<()>, turn_to_write: &Mutex<()>, alarm: &Alarm) {
    while woken.recv().is_ok() {
        if let Err(error) = copy_all(db, turn_to_write) {
            // What is not fatal, a full disk, passes: the WAL is whole, and the next copy begins where it must.
            alarm.hear(&error);
        }
    }
}

/// Copies beside the commits until a copy finds little that they added meanwhile, and the rest in
/// their place.
fn copy_all(db: &Connection, turn_to_write: &Mutex<()>) -> Result<(), Error> {
    let mut copied = 0;
    for _ in 0..PASSES_MAX {
        let before = copied;
        copied = copy(db)?;
        if copied - before <= LEFT_MAX {
            break;
        }
    }
    let _turn = turn_to_write.blocking_lock();
    copy(db).map(drop)
}

/// Copies what no reader needs in the WAL, without making anybody wait. Answers how many of its frames
/// are copied now.
fn copy(db: &Connection) -> Result<i64, Error> {
    Ok(db.query_row("pragma wal_checkpoint(passive)", [], |row| row.get(2))?)
}
