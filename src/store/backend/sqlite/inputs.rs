//! Reads for turns and rebuilds: cursors and the events after them. The tail is asked before the file
//! (see [`Tail`]): what leaves it in between is in the file by then.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::cursor_cache::CursorCache;
use super::tail::Tail;
use crate::domain::cursor::{Chain, Cursor, CursorId, Era};
use crate::domain::event::{Event, StreamId};
use crate::domain::hook::HookId;
use crate::domain::name::OrderingKey;
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;
use crate::store::Error;
use crate::store::backend::ops::{Input, InputRequest, Range};
use crate::store::backend::rows::{ConditionColumns, EventColumns};

/// An input read from memory alone; `None` unless both the cursor and all events after it are cached.
pub fn input_in_memory(cursors: &CursorCache, tail: &Tail, want: &InputRequest) -> Option<Input> {
    let cursor = cursors.take(want.cursor)?;
    let stream = want.cursor.stream;
    let head = tail.last(stream)?;
    let after = Seq(cursor.position.0);
    let (first, entries) = tail.after(stream, after, want.events_max);
    let events: Option<Vec<_>> = entries.into_iter().map(|entry| entry.event).collect();
    let events = events.filter(|_| first.is_some_and(|first| first.0 <= after.0 + 1))?;
    Some(Input {
        cursor,
        head,
        events,
    })
}

/// An input read from the file and the tail; `None` when the stream no longer exists.
pub fn read_input(
    db: &Connection,
    tail: &Tail,
    want: &InputRequest,
) -> Result<Option<Input>, Error> {
    let Some((cursor, head, _)) = read_cursor(db, tail, want.cursor)? else {
        return Ok(None);
    };
    let range = Range {
        stream: want.cursor.stream,
        after: Seq(cursor.position.0),
        limit: want.events_max,
    };
    let events = read_range(db, tail, &range)?;
    Ok(Some(Input {
        cursor,
        head,
        events,
    }))
}

/// The stream of a hook with this ordering key.
pub fn read_stream_id(
    db: &Connection,
    hook: HookId,
    key: &OrderingKey,
) -> Result<Option<StreamId>, Error> {
    const READ: &str = "select id from streams where hook = ?1 and ordering_key = ?2";
    let row = db
        .prepare_cached(READ)?
        .query_row(params![hook.0, key.as_str()], |row| row.get(0));
    Ok(row.optional()?.map(StreamId))
}

/// A cursor from its row, with the head of its stream and the time of its last change.
pub fn read_cursor(
    db: &Connection,
    tail: &Tail,
    id: CursorId,
) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
    const READ: &str = "select s.head, c.position, c.era, c.state, c.chain, c.condition,
        c.retry_at, c.tries, c.reason, c.held_by, c.updated_at
        from streams s left join cursors c on c.stream = s.id and c.handler = ?2 where s.id = ?1";
    // Asked before the row is read: what leaves the tail in between is in the row by then.
    let last = tail.last(id.stream).unwrap_or_default();
    let row = db
        .prepare_cached(READ)?
        .query_row(params![id.stream.0, id.handler.0], |row| {
            let head = last.max(Seq(row.get(0)?));
            let Some(position) = row.get(1)? else {
                return Ok((Cursor::new(id), head, Timestamp::default()));
            };
            let condition: String = row.get(5)?;
            let held_by: Option<String> = row.get(9)?;
            let columns = ConditionColumns {
                word: &condition,
                retry_at: row.get(6)?,
                tries: row.get(7)?,
                reason: row.get(8)?,
                held_by: held_by.as_deref(),
            };
            let cursor = Cursor {
                id,
                position: Position(position),
                era: Era(row.get(2)?),
                state: row.get(3)?,
                chain: Chain::from_bytes(row.get(4)?),
                condition: columns.condition(),
            };
            Ok((cursor, head, Timestamp::from_millis(row.get(10)?)))
        });
    Ok(row.optional()?)
}

/// Reads indexed events between `after` and `before`, both excluded. An index entry that points to the
/// row of another event gives a checksum that cannot match, so the event counts as damaged.
fn read_indexed(
    db: &Connection,
    stream: StreamId,
    after: Seq,
    before: Seq,
    limit: usize,
    events: &mut Vec<Arc<Event>>,
) -> Result<(), Error> {
    const READ: &str = "select i.stream, i.seq, l.id, l.received_at, l.key_id, l.dedupe_key,
        l.headers, l.body, case when l.stream = i.stream and l.seq = i.seq then l.checksum else -1 end, l.late
        from log_index i join log l on l.n = i.n
        where i.stream = ?1 and i.seq > ?2 and i.seq < ?3 order by i.seq limit ?4";
    let mut read = db.prepare_cached(READ)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = read.query_map(params![stream.0, after.0, before.0, limit], event_of)?;
    for event in rows {
        events.push(Arc::new(event?));
    }
    Ok(())
}

fn read_row(db: &Connection, n: i64) -> Result<Event, Error> {
    const READ: &str = "select stream, seq, id, received_at, key_id, dedupe_key, headers, body,
        checksum, late from log where n = ?1";
    Ok(db.prepare_cached(READ)?.query_row([n], event_of)?)
}

/// Decodes an event from a log row. Damaged columns are no error here: the checksum reveals them.
pub fn event_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Event> {
    let dedupe_key = row.get_ref(5)?.as_bytes_or_null().unwrap_or_default();
    let late = row.get_ref(9)?.as_bytes_or_null().unwrap_or_default();
    let columns = EventColumns {
        id: bytes(row, 2)?,
        received_at: row.get_ref(3)?.as_i64().unwrap_or_default(),
        key_id: row.get_ref(4)?.as_i64_or_null().unwrap_or_default(),
        dedupe_key: dedupe_key.map(|key| String::from_utf8_lossy(key).into_owned()),
        headers: bytes(row, 6)?,
        body: bytes(row, 7)?.to_vec(),
        checksum: row.get_ref(8)?.as_i64_or_null().unwrap_or(Some(-1)),
        late: late.map(|word| String::from_utf8_lossy(word).into_owned()),
    };
    Ok(columns.event(StreamId(row.get(0)?), Seq(row.get(1)?)))
}

fn bytes<'r>(row: &'r rusqlite::Row<'_>, column: usize) -> rusqlite::Result<&'r [u8]> {
    Ok(row.get_ref(column)?.as_bytes().unwrap_or_default())
}

/// Events of a stream after a seq, in order: those that have left the tail from the index, then the
/// tail.
pub fn read_range(db: &Connection, tail: &Tail, range: &Range) -> Result<Vec<Arc<Event>>, Error> {
    let (first, entries) = tail.after(range.stream, range.after, range.limit);
    let tail_begins = first.unwrap_or(Seq(i64::MAX));
    let mut events = Vec::new();
    if tail_begins.0 > range.after.0 + 1 {
        let (after, most) = (range.after, range.limit);
        read_indexed(db, range.stream, after, tail_begins, most, &mut events)?;
    }
    for entry in entries {
        if events.len() == range.limit {
            break;
        }
        events.push(match entry.event {
            Some(event) => event,
            None => Arc::new(read_row(db, entry.n)?),
        });
    }
    Ok(events)
}
