//! Appends a batch to the log: each event gets the number after the head of its stream.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::repeats::find_duplicate;
use super::tail::Tail;
use super::waiting;
use crate::domain::event::{Event, StreamId};
use crate::domain::hook::HookId;
use crate::domain::lane::Slot;
use crate::domain::name::OrderingKey;
use crate::domain::position::Seq;
use crate::domain::version::{Late, Version};
use crate::store::Error;
use crate::store::backend::ops::{Appended, NewEvent};

/// Number of streams whose heads are cached; when there are more, the cache is cleared.
const STREAMS_KEPT_MAX: usize = 100_000;

/// A stream as the next transaction finds it. Its row gets the head only when the log is indexed; until
/// then the tail has it.
struct Head {
    id: StreamId,
    slot: Slot,
    head: Seq,
    /// Highest version of its events. Its row has it too, since that is written with the event.
    version: Option<Version>,
}

impl Head {
    /// Treatment of a new event if it is late. Raises the highest version, here and in the row.
    fn judge(&mut self, db: &Connection, new: &NewEvent) -> Result<Option<Late>, Error> {
        const MOVE: &str = "update streams set version = ?2, late = late + ?3 where id = ?1";
        let (Some(version), Some(provided)) = (new.version(), &new.provided) else {
            return Ok(None);
        };
        let is_late = |highest: &Version| version.is_late_after(highest);
        let late = self.version.as_ref().is_some_and(is_late);
        if self
            .version
            .as_ref()
            .is_none_or(|highest| version > highest)
        {
            self.version = Some(version.clone());
        }
        let highest = self.version.as_ref().map(Version::as_str);
        db.prepare_cached(MOVE)?
            .execute(params![self.id.0, highest, late])?;
        Ok(late.then_some(provided.late))
    }
}

/// Cached heads of streams. A transaction that fails leaves wrong heads behind; the caller must then
/// call [`Heads::clear`].
pub struct Heads {
    streams: HashMap<(HookId, OrderingKey), Head>,
    tail: Arc<Tail>,
}

impl Heads {
    /// An empty cache. Heads that the file does not have yet are read from `tail`.
    pub fn new(tail: Arc<Tail>) -> Self {
        Self {
            streams: HashMap::new(),
            tail,
        }
    }

    /// Empties the cache, so that each head is read again with its next event.
    pub fn clear(&mut self) {
        self.streams.clear();
    }

    /// True if the cache is so large that it should be cleared.
    pub fn are_too_many(&self) -> bool {
        self.streams.len() > STREAMS_KEPT_MAX
    }

    /// Appends a batch inside the open transaction, its first event as row `next_n`. New events are
    /// pushed to `events`, behind those of the same transaction that are already there.
    pub fn append(
        &mut self,
        db: &Connection,
        next_n: i64,
        batch: &[NewEvent],
        events: &mut Vec<(i64, Arc<Event>)>,
    ) -> Result<Vec<Appended>, Error> {
        let mut insert = db.prepare_cached(INSERT)?;
        let mut appended = Vec::with_capacity(batch.len());
        for new in batch {
            if let Some(due_at) = new.due_at() {
                appended.push(waiting::hold_back(db, new, due_at)?);
                continue;
            }
            let n = next_n + i64::try_from(events.len()).unwrap_or(0);
            let one = match numbered(db, &mut self.streams, &self.tail, new)? {
                Err(not_new) => not_new,
                Ok(head) => {
                    let late = head.judge(db, new)?;
                    let event = new.at(head.id, Seq(head.head.0 + 1), late);
                    put(&mut insert, n, &event, new.checksum())?;
                    head.head = event.seq;
                    events.push((n, Arc::new(event)));
                    Appended::New {
                        stream: head.id,
                        seq: head.head,
                        slot: head.slot,
                        late,
                    }
                }
            };
            appended.push(one);
        }
        Ok(appended)
    }
}

/// The stream of an event; created for its first event. `None` when the hook was deleted.
fn find_or_create(db: &Connection, new: &NewEvent) -> Result<Option<Head>, Error> {
    const FIND: &str = "select s.id, s.slot, s.head, s.version from streams s
        join hooks h on h.id = s.hook and h.deleted_at is null
        where s.hook = ?1 and s.ordering_key = ?2";
    const CREATE: &str = "insert into streams (hook, ordering_key, slot, created_at)
        select id, ?2, ?3, ?4 from hooks where id = ?1 and deleted_at is null
        returning id";
    let key = new.key.as_str();
    let found = db
        .prepare_cached(FIND)?
        .query_row(params![new.hook.0, key], |row| {
            Ok(Head {
                id: StreamId(row.get(0)?),
                slot: Slot(row.get(1)?),
                head: Seq(row.get(2)?),
                version: row.get::<_, Option<String>>(3)?.map(Version::from_text),
            })
        })
        .optional()?;
    if found.is_some() {
        return Ok(found);
    }
    let created = params![new.hook.0, key, new.slot.0, new.received_at.as_millis()];
    let id = db
        .prepare_cached(CREATE)?
        .query_row(created, |row| row.get(0))
        .optional()?;
    Ok(id.map(|id| Head {
        id: StreamId(id),
        slot: new.slot,
        head: Seq(0),
        version: None,
    }))
}

const INSERT: &str = "insert into log
    (n, stream, seq, id, received_at, key_id, dedupe_key, headers, body, checksum, late)
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

fn put(
    insert: &mut rusqlite::Statement<'_>,
    n: i64,
    event: &Event,
    checksum: i64,
) -> Result<(), Error> {
    insert.execute(params![
        n,
        event.stream.0,
        event.seq.0,
        event.id.as_bytes(),
        event.received_at.as_millis(),
        event.key_id,
        event.dedupe_key,
        &*event.headers,
        &*event.body,
        checksum,
        event.late.map(Late::word),
    ])?;
    Ok(())
}

/// The cached head of the event's stream, which the caller moves; or the outcome for an event that is
/// not stored.
fn numbered<'h>(
    db: &Connection,
    streams: &'h mut HashMap<(HookId, OrderingKey), Head>,
    tail: &Tail,
    new: &NewEvent,
) -> Result<Result<&'h mut Head, Appended>, Error> {
    let head = match streams.entry((new.hook, new.key.clone())) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(unknown) => match find_or_create(db, new)? {
            Some(mut head) => {
                head.head = head.head.max(tail.last(head.id).unwrap_or_default());
                unknown.insert(head)
            }
            None => return Ok(Err(Appended::Gone)),
        },
    };
    let duplicate = find_duplicate(db, head.id, new.dedupe_key.as_deref())?;
    Ok(duplicate.map_or(Ok(head), Err))
}
