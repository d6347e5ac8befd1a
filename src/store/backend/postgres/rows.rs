//! Decoding of Postgres rows that contain events.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::domain::event::{Event, StreamId};
use crate::domain::position::Seq;
use crate::store::backend::rows::EventColumns;

/// The event whose columns begin at `first` with its seq, compared with its checksum.
pub fn event_at(stream: StreamId, row: &PgRow, first: usize) -> Result<Event, sqlx::Error> {
    let headers: &str = row.try_get(first + 5)?;
    let columns = EventColumns {
        id: row.try_get(first + 1)?,
        received_at: row.try_get(first + 2)?,
        key_id: row.try_get(first + 3)?,
        dedupe_key: row.try_get(first + 4)?,
        headers: headers.as_bytes(),
        body: row.try_get(first + 6)?,
        checksum: row.try_get(first + 7)?,
        late: row.try_get(first + 8)?,
    };
    Ok(columns.event(stream, Seq(row.try_get(first)?)))
}
