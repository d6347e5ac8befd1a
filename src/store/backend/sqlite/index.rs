//! The index of the log, which is built behind it: where the events of each stream stand, and each id.

use std::sync::Arc;

use rusqlite::{Connection, params};

use crate::domain::event::Event;
use crate::store::Error;

/// Rows of the log after which a run of its index begins. The more, the more rows of a stream come to
/// stand on one page: what an index costs is the pages it changes.
pub const RUN_ROWS: usize = 65_536;

/// A row of the log that the index does not know.
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

/// Rows of the log on their way into its index: first all by stream, with the heads that they move, then
/// all by id. Sorted, so that a page is changed in one go.
///
/// Rows that are in already are no error: a process that ended within a run begins it again, with more.
pub struct Run {
    places: Vec<Unindexed>,
    ids: Vec<([u8; 16], i64)>,
    /// How many of both are in the file.
    at: usize,
    /// The newest row of the log in it.
    last: i64,
}

impl Run {
    /// None when there are no rows.
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

    /// How many rows are in the file, or will be once the open transaction has committed.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The newest row of the log in it.
    pub fn last(&self) -> i64 {
        self.last
    }

    /// The run as it was at `at`, after its last step was rolled back.
    pub fn back_to(self, at: usize) -> Self {
        Self { at, ..self }
    }

    /// True once the index knows all of its rows.
    pub fn is_done(&self) -> bool {
        self.at == self.places.len() + self.ids.len()
    }

    /// Puts in about `rows` more; with the last one the index knows them all.
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

    /// Puts in places, and the head of a stream with the last of its places.
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

/// A doubled number or id: nobody knows which of the two is right.
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
