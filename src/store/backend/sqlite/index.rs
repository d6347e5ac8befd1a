//! The log index, which is built behind the log: it finds the rows of a stream's events, and the row of
//! an event id.

use std::sync::Arc;

use rusqlite::{Connection, params};

use crate::domain::event::Event;
use crate::store::Error;

/// Number of log rows after which an index run begins. More rows put more rows of a stream on one page,
/// and the cost of the index is the number of pages that change.
pub const RUN_ROWS: usize = 65_536;

/// A row of the log that is not in the index.
pub struct Unindexed {
    n: i64,
    stream: i64,
    seq: i64,
    id: [u8; 16],
}

impl Unindexed {
    pub fn of((n, event): &(i64, Arc<Event>)) -> Self {
        Self {
            n: *n,
            stream: event.stream.0,
            seq: event.seq.0,
            id: *event.id.as_bytes(),
        }
    }
}

/// Rows of the log on their way into the index: first all of them by stream, with the heads they move,
/// then all by id. Sorted, so that each page changes once.
///
/// Rows that are already in the index are no error: a process that ended within a run begins it again,
/// with more rows.
pub struct Run {
    places: Vec<Unindexed>,
    ids: Vec<([u8; 16], i64)>,
    /// Number of rows, of both kinds, that are in the index.
    at: usize,
    /// Newest log row of the run.
    last: i64,
}

impl Run {
    /// `None` when there are no rows.
    pub fn of(mut places: Vec<Unindexed>) -> Option<Self> {
        let last = places.iter().map(|row| row.n).max()?;
        let mut ids: Vec<_> = places.iter().map(|row| (row.id, row.n)).collect();
        places.sort_unstable_by_key(|row| (row.stream, row.seq));
        ids.sort_unstable();
        Some(Self {
            places,
            ids,
            at: 0,
            last,
        })
    }

    /// Number of rows in the index, counting those of the open transaction.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Newest log row of the run.
    pub fn last(&self) -> i64 {
        self.last
    }

    /// The run reset to `at`, after its last step was rolled back.
    pub fn back_to(self, at: usize) -> Self {
        Self { at, ..self }
    }

    /// True once all of its rows are in the index.
    pub fn is_done(&self) -> bool {
        self.at == self.places.len() + self.ids.len()
    }

    /// Adds about `rows` more rows; the last step also records that the whole run is indexed.
    pub fn step(&mut self, db: &Connection, rows: usize) -> Result<(), Error> {
        let end = self.at.saturating_add(rows);
        self.put_places(db, end)?;
        self.put_ids(db, end)?;
        if self.is_done() {
            db.prepare_cached("update counters set value = ?1 where name = 'indexed'")?
                .execute([self.last])?;
        }
        Ok(())
    }

    /// Adds rows by stream, and moves the head of a stream with its last row.
    fn put_places(&mut self, db: &Connection, end: usize) -> Result<(), Error> {
        let mut place = db.prepare_cached(PLACE)?;
        let mut head = db.prepare_cached("update streams set head = ?2 where id = ?1")?;
        while self.at < end
            && let Some(row) = self.places.get(self.at)
        {
            put_once(place.execute(params![row.stream, row.seq, row.n])?)?;
            let next = self.places.get(self.at + 1);
            if next.is_none_or(|next| next.stream != row.stream) {
                head.execute(params![row.stream, row.seq])?;
            }
            self.at += 1;
        }
        Ok(())
    }

    fn put_ids(&mut self, db: &Connection, end: usize) -> Result<(), Error> {
        let mut id = db.prepare_cached(ID)?;
        while self.at < end
            && let Some(at) = self.at.checked_sub(self.places.len())
            && let Some((bytes, n)) = self.ids.get(at)
        {
            put_once(id.execute(params![bytes, n])?)?;
            self.at += 1;
        }
        Ok(())
    }
}

const PLACE: &str = "insert into log_index (stream, seq, n) values (?1, ?2, ?3)
    on conflict (stream, seq) do update set n = n where n = excluded.n";

const ID: &str = "insert into log_ids (id, n) values (?1, ?2)
    on conflict (id) do update set n = n where n = excluded.n";

/// A doubled place or id means that the log is inconsistent, and it is unknown which row is right.
fn put_once(changed: usize) -> Result<(), Error> {
    match changed {
        1 => Ok(()),
        _ => Err(Error::Io(
            "two events of the log have one number or one id".into(),
        )),
    }
}

pub fn unindexed_rows(db: &Connection, after: i64) -> Result<Vec<Unindexed>, Error> {
    const READ: &str = "select n, stream, seq, id from log where n > ?1 order by n limit ?2";
    let mut read = db.prepare_cached(READ)?;
    let rows = read.query_map(params![after, RUN_ROWS as i64], |row| {
        Ok(Unindexed {
            n: row.get(0)?,
            stream: row.get(1)?,
            seq: row.get(2)?,
            id: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
