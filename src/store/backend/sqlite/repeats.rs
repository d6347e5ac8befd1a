//! Finds the first event with a dedupe key.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::domain::event::{EventId, StreamId};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;
use crate::store::Error;
use crate::store::backend::ops::Appended;

/// The stored event of `stream` with this dedupe key.
pub fn find_duplicate(
    db: &Connection,
    stream: StreamId,
    dedupe_key: Option<&str>,
) -> Result<Option<Appended>, Error> {
    const FIND: &str = "select id, seq, received_at from log where stream = ?1 and dedupe_key = ?2";
    let Some(dedupe_key) = dedupe_key else {
        return Ok(None);
    };
    let first = db
        .prepare_cached(FIND)?
        .query_row(params![stream.0, dedupe_key], |row| {
            Ok(Appended::Duplicate {
                id: EventId::from_bytes(row.get(0)?),
                seq: Some(Seq(row.get(1)?)),
                received_at: Timestamp::from_millis(row.get(2)?),
            })
        });
    Ok(first.optional()?)
}
