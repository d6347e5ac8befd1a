//! Events that are held back for a reorder window, and their release.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::repeats::find_duplicate;
use crate::domain::event::{EventId, StreamId};
use crate::domain::hook::HookId;
use crate::domain::lane::Slot;
use crate::domain::name::OrderingKey;
use crate::domain::time::Timestamp;
use crate::domain::version::{Late, Version};
use crate::store::Error;
use crate::store::backend::ops::{
    Appended, Due, NewEvent, Provided, RELEASED_BYTES_MAX, RELEASED_MAX,
};

/// Holds an event back until `due_at`, inside the open transaction.
pub fn hold_back(db: &Connection, new: &NewEvent, due_at: Timestamp) -> Result<Appended, Error> {
    const INSERT: &str = "insert into waiting (hook, ordering_key, slot, id, received_at, key_id,
          dedupe_key, headers, body, checksum, version, late, due_at)
        select id, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13
        from hooks where id = ?1 and deleted_at is null";
    if let Some(duplicate) = find_earlier(db, new)? {
        return Ok(duplicate);
    }
    let late = new.provided.as_ref().map_or(Late::default(), |of| of.late);
    let inserted = db.prepare_cached(INSERT)?.execute(params![
        new.hook.0,
        new.key.as_str(),
        new.slot.0,
        new.id.as_bytes(),
        new.received_at.as_millis(),
        new.key_id,
        new.dedupe_key,
        &*new.headers,
        &*new.body,
        new.checksum(),
        new.version().map_or("", Version::as_str),
        late.word(),
        due_at.as_millis(),
    ])?;
    Ok(match inserted {
        0 => Appended::Gone,
        _ => Appended::HeldBack,
    })
}

/// The event with the same dedupe key that is held back or stored.
fn find_earlier(db: &Connection, new: &NewEvent) -> Result<Option<Appended>, Error> {
    const WAITING: &str = "select id, received_at from waiting
        where hook = ?1 and ordering_key = ?2 and dedupe_key = ?3";
    const STREAM: &str = "select id from streams where hook = ?1 and ordering_key = ?2";
    let Some(dedupe_key) = new.dedupe_key.as_deref() else {
        return Ok(None);
    };
    let (hook, key) = (new.hook.0, new.key.as_str());
    let held = db
        .prepare_cached(WAITING)?
        .query_row(params![hook, key, dedupe_key], |row| {
            Ok(Appended::Duplicate {
                id: EventId::from_bytes(row.get(0)?),
                seq: None,
                received_at: Timestamp::from_millis(row.get(1)?),
            })
        })
        .optional()?;
    if held.is_some() {
        return Ok(held);
    }
    let stream: Option<i64> = db
        .prepare_cached(STREAM)?
        .query_row(params![hook, key], |row| row.get(0))
        .optional()?;
    match stream {
        Some(stream) => find_duplicate(db, StreamId(stream), Some(dedupe_key)),
        None => Ok(None),
    }
}

/// Events to store next: those whose window has ended, and in each of their streams those with lower
/// versions before them.
pub fn due(db: &Connection, due: Due) -> Result<Vec<NewEvent>, Error> {
    const DUE: &str = "select w.hook, w.ordering_key, w.slot, w.id, w.received_at, w.key_id,
          w.dedupe_key, w.headers, w.body, w.version, w.late
        from (select hook, ordering_key, max(version) as version from waiting
              where due_at <= ?1 or due_at > ?2 group by hook, ordering_key) q
        join waiting w on w.hook = q.hook and w.ordering_key = q.ordering_key
          and w.version <= q.version
        order by w.hook, w.ordering_key, w.version, w.received_at, w.n limit ?3";
    let mut read = db.prepare_cached(DUE)?;
    let (now, far) = (due.now.as_millis(), due.far.as_millis());
    let mut rows = read.query(params![now, far, RELEASED_MAX])?;
    let mut events: Vec<NewEvent> = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let event = event_of(row)?;
        bytes += event.body.len() + event.headers.len();
        if !events.is_empty() && i64::try_from(bytes).is_ok_and(|all| all > RELEASED_BYTES_MAX) {
            break;
        }
        events.push(event);
    }
    Ok(events)
}

fn event_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<NewEvent> {
    let version: String = row.get(9)?;
    let late: String = row.get(10)?;
    Ok(NewEvent {
        hook: HookId(row.get(0)?),
        key: OrderingKey::stored(row.get(1)?),
        slot: Slot(row.get(2)?),
        id: EventId::from_bytes(row.get(3)?),
        received_at: Timestamp::from_millis(row.get(4)?),
        key_id: row.get(5)?,
        dedupe_key: row.get(6)?,
        headers: row.get::<_, String>(7)?.into(),
        body: row.get::<_, Vec<u8>>(8)?.into(),
        provided: Some(Provided {
            version: Some(version)
                .filter(|version| !version.is_empty())
                .map(Version::from_text),
            late: late.parse().unwrap_or_default(),
            due_at: None,
        }),
    })
}

/// Removes events that have just been stored, or whose hook is deleted.
pub fn remove(db: &Connection, events: &[NewEvent]) -> Result<(), Error> {
    let mut remove = db.prepare_cached("delete from waiting where id = ?1")?;
    for event in events {
        remove.execute([event.id.as_bytes()])?;
    }
    Ok(())
}
