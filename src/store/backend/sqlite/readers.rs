//! Connections through which turns read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};

use super::file::LOCK_WAIT;
use crate::store::Error;
use crate::store::backend::session::Alarm;

/// Number of connections that stay open between turns.
const READERS_MAX: usize = 4;

/// Pool of read-only connections. Each statement has its own snapshot, begun when it runs: a snapshot
/// kept open from an earlier statement would miss events that were committed since.
pub struct Readers {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
    alarm: Alarm,
}

impl Readers {
    pub fn new(file: &Path, alarm: Alarm) -> Self {
        Self {
            file: file.to_owned(),
            idle: Mutex::default(),
            alarm,
        }
    }

    /// Runs `read` with one of the connections on a blocking thread.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let readers = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let db = readers.take()?;
            let result = read(&db);
            readers.give_back(db);
            result
        });
        let read = reading.await.map_err(|_| Error::Closed)?;
        if let Err(error) = &read {
            self.alarm.hear(error);
        }
        read
    }

    fn take(&self) -> Result<Connection, Error> {
        if let Some(db) = self.idle.lock().pop() {
            return Ok(db);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(&self.file, flags)?;
        db.busy_timeout(LOCK_WAIT)?;
        db.pragma_update(None, "cache_size", -8_000)?;
        db.set_prepared_statement_cache_capacity(16);
        Ok(db)
    }

    fn give_back(&self, db: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < READERS_MAX {
            idle.push(db);
        }
    }
}
