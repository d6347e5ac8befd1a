//! Cache of cursors as their last move left them, so that consecutive turns of a cursor read no file.
//!
//! A turn takes its cursor out of the cache; the writer puts it back in its committed state. Other
//! writers need not update the cache: a step computed from a stale cursor loses its compare-and-set,
//! and then the row is read.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::domain::cursor::{Cursor, CursorId};
use crate::domain::event::StreamId;

/// Bytes of cursors in the cache; when it holds more, it is cleared.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Estimated bytes of a cursor besides its state.
const OVERHEAD: usize = 200;

#[derive(Default)]
pub struct CursorCache(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    cursors: HashMap<CursorId, Cursor>,
    bytes: usize,
}

impl CursorCache {
    /// Takes a cursor out of the cache.
    pub fn take(&self, id: CursorId) -> Option<Cursor> {
        let inner = &mut *self.0.lock();
        let cursor = inner.cursors.remove(&id)?;
        inner.bytes -= size(&cursor);
        Some(cursor)
    }

    /// Puts a cursor in its committed state into the cache.
    pub fn put(&self, cursor: Cursor) {
        let inner = &mut *self.0.lock();
        inner.bytes += size(&cursor);
        if let Some(older) = inner.cursors.insert(cursor.id, cursor) {
            inner.bytes -= size(&older);
        }
        if inner.bytes > BYTES_MAX {
            *inner = Inner::default();
        }
    }

    /// Drops the cursors of streams that no longer exist.
    pub fn forget(&self, gone: &[StreamId]) {
        let inner = &mut *self.0.lock();
        inner.cursors.retain(|id, _| !gone.contains(&id.stream));
        inner.bytes = inner.cursors.values().map(size).sum();
    }
}

fn size(cursor: &Cursor) -> usize {
    cursor.state.as_ref().map_or(0, String::len) + OVERHEAD
}
