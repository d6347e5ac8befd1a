//! Check of a SQLite file for damage: whether its pages can be read, and whether events match their
//! checksums. Time is limited; damage beyond it is found when the data is read.

use std::time::{Duration, Instant};

use super::inputs::event_of;
use crate::store::Error;
use crate::store::backend::ops::DamageCheck;
use rand::RngExt as _;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _};

/// Time limit at a start. Most files are checked completely in that time.
const AT_START: Duration = Duration::from_millis(500);

/// Time limit when an operator asks.
pub const ASKED: Duration = Duration::from_secs(3);

/// Number of events that are picked and compared with their checksums.
const EVENTS: u32 = 256;

/// Number of SQLite's virtual machine steps between two looks at the clock.
const STEPS: i32 = 100;

/// Checks a file before any event is accepted. A damaged event is logged and does not prevent the
/// start.
///
/// # Errors
/// [`Error::Malformed`] when a page cannot be read.
pub fn at_start(db: &Connection) -> Result<(), Error> {
    let found = inspect(db, AT_START, true)?;
    for event in found.damaged {
        let (stream, seq, id) = (event.stream.0, event.seq, event.id);
        tracing::error!(stream, %seq, event = %id, "hash mismatch: an event is not as it was stored");
    }
    Ok(())
}

/// Checks some events, if the tables `has_events` with checksums, then all pages, as far as the time
/// allows.
///
/// # Errors
/// [`Error::Malformed`] when a page cannot be read.
pub fn inspect(db: &Connection, time: Duration, has_events: bool) -> Result<DamageCheck, Error> {
    let mut found = DamageCheck::default();
    if has_events {
        within(db, time / 4, || pick(db, &mut found))?;
    }
    found.all_pages = Some(check_pages(db, time)?);
    Ok(found)
}

/// Runs `work` on a connection with a time limit; true if it ended within it.
fn within(
    db: &Connection,
    time: Duration,
    work: impl FnOnce() -> rusqlite::Result<()>,
) -> Result<bool, Error> {
    let until = Instant::now() + time;
    db.progress_handler(STEPS, Some(move || Instant::now() >= until))?;
    let done = work();
    db.progress_handler(0, None::<fn() -> bool>)?;
    let is_interrupted = |error: &rusqlite::Error| {
        error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
    };
    match done {
        Ok(()) => Ok(true),
        Err(error) if is_interrupted(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Checks pages until the first malformed one; true if all were checked.
fn check_pages(db: &Connection, time: Duration) -> Result<bool, Error> {
    let mut found = "ok".to_owned();
    let all = within(db, time, || {
        found = db.query_row("pragma quick_check(1)", [], |row| row.get(0))?;
        Ok(())
    })?;
    match found.as_str() {
        "ok" => Ok(all),
        _ => Err(Error::Malformed(found.replace('\n', " "))),
    }
}

/// Compares randomly chosen events with their checksums, the newest one among them.
fn pick(db: &Connection, found: &mut DamageCheck) -> rusqlite::Result<()> {
    const ENDS: &str = "select min(n), max(n) from log";
    const PICK: &str =
        "select stream, seq, id, received_at, key_id, dedupe_key, headers, body, checksum, null
        from log where n >= ?1 order by n limit 1";
    let ends = db.query_row(ENDS, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(first), Some(last)): (Option<i64>, Option<i64>) = ends else {
        return Ok(());
    };
    let mut read = db.prepare_cached(PICK)?;
    for nth in 0..EVENTS {
        let at = match nth {
            0 => last,
            // A short log is read completely, in order.
            _ if last - first < i64::from(EVENTS) => first + i64::from(nth) - 1,
            _ => rand::rng().random_range(first..=last),
        };
        if let Some(event) = read.query_row([at], event_of).optional()? {
            found.note(event);
        }
    }
    Ok(())
}

/// Compares the next events of the log after row `after`, at most `limit` of them, with their checksums.
/// Returns the last row and the number of events; `None` at the end of the log.
///
/// # Errors
/// [`Error::Refused`] names an event that is not as it was stored.
pub fn check_events(db: &Connection, after: i64, limit: i64) -> Result<Option<(i64, u64)>, Error> {
    const NEXT: &str = "select stream, seq, id, received_at, key_id, dedupe_key, headers, body,
        checksum, null, n from log where n > ?1 order by n limit ?2";
    let mut read = db.prepare_cached(NEXT)?;
    let mut rows = read.query((after, limit))?;
    let mut end = None;
    let mut events = 0;
    while let Some(row) = rows.next()? {
        let event = event_of(row)?;
        if event.is_damaged {
            return Err(Error::Refused(format!(
                "the event {} is not as it was stored (hash mismatch)",
                event.id
            )));
        }
        events += 1;
        end = Some((row.get(10)?, events));
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(rows: u32) -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("create table t (a text)").unwrap();
        for _ in 0..rows {
            let long = "x".repeat(10_000);
            db.execute("insert into t values (?1)", [long]).unwrap();
        }
        db
    }

    #[test]
    fn pages_are_looked_at_as_far_as_the_time_goes() {
        let db = file(100);
        let all = |time| inspect(&db, time, false).unwrap().all_pages;
        assert_eq!(all(Duration::from_secs(600)), Some(true));
        assert_eq!(all(Duration::ZERO), Some(false));
        assert!(
            db.query_row("select count(*) from t", [], |row| row.get::<_, i64>(0))
                .is_ok(),
            "nobody is interrupted afterwards"
        );
    }
}
