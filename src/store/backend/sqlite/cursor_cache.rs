//! Cursors as their last move left them, in memory, so that a turn that follows another reads no file.
//!
//! A turn takes its cursor out; the writer puts it back where the commit left it. Whoever moves a
//! cursor in another way need not come here: what is computed from a stale one loses its
//! compare-and-set, and then the row is read.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::domain::cursor::{Cursor, CursorId};

/// Bytes of cursors that are kept; when there are more, all are read again as they come.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a cursor costs beside its state, in bytes.
const OVERHEAD: usize = 200;

#[derive(Default)]
pub struct CursorCache(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    cursors: HashMap<CursorId, Cursor>,
    bytes: usize,
}

impl CursorCache {
    /// Takes a cursor out, if it is known.
    pub fn take(&self, id: CursorId) -> Option<Cursor> {
        let inner = &mut *self.0.lock();
        let cursor = inner.cursors.remove(&id)?;
        inner.bytes -= size(&cursor);
        Some(cursor)
    }

    /// Notes how the cursor stands in the database.
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
}

fn size(cursor: &Cursor) -> usize {
    cursor.state.as_ref().map_or(0, String::len) + OVERHEAD
}
