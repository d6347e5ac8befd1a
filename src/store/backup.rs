//! Backup of a SQLite file, and the checks of a restored one.
//!
//! A backup is one file: the pages of the database, a summary (a line of JSON, after a newline), and a trailer
//! of fixed length with the length of the summary and the SHA-256 of everything before the trailer. SQLite ignores
//! the bytes after the last page, so a backup also opens as a database.
//!
//! The pages are one snapshot, however much is written meanwhile: a read transaction stays open until the
//! last page is copied. Until then the write-ahead log grows by what is written. The copy is synced in
//! steps, so that commits never wait for a large sync.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, InterruptHandle, OpenFlags, OptionalExtension as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::backend::ops::{RESTORED, Restored};
use super::backend::sqlite::file::LOCK_WAIT;
use super::{Error, Store, history, inspect};
use crate::domain::event::EventId;
use crate::domain::time::Timestamp;

/// Number of pages copied and synced in one step: half a megabyte in a file of ours. A commit waits for the
/// sync of one step at most.
const PAGES: i32 = 64;

/// Bytes read at a time.
const CHUNK: usize = 1024 * 1024;

/// Time between two attempts to copy a page that is locked.
const AGAIN: Duration = Duration::from_millis(10);

/// First words of the trailer. The number is the version of the format.
const MARK: &str = "hooklane backup 1 ";

/// Length of the trailer: the mark, ten digits, a space, 64 hexadecimal digits, and a newline.
const TRAILER: usize = MARK.len() + 10 + 1 + 64 + 1;

/// Longest summary, in bytes. A longer one is damage.
const SUMMARY_MAX: u64 = 64 * 1024;

/// Number of events that are checked in one step.
const EVENTS: i64 = 4_096;

/// Contents of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSummary {
    /// Version of the hooklane that made it.
    pub hooklane: String,
    /// Number of the newest migration of its tables.
    pub tables: i64,
    /// Time of the snapshot.
    pub taken_at: Timestamp,
    /// Size of the database in bytes.
    pub bytes: u64,
    /// Number of hooks.
    pub hooks: u64,
    /// Number of access keys.
    pub keys: u64,
    /// Number of streams.
    pub streams: u64,
    /// Number of events.
    pub events: u64,
    /// Newest event; `null` without events.
    pub newest_event: Option<EventId>,
    /// Time at which it was received.
    pub newest_received_at: Option<Timestamp>,
    /// Newest epoch that was drawn.
    pub epoch: i64,
    /// Version of the configuration.
    pub config_version: i64,
}

/// Reason why a file cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupFault {
    /// It has neither the trailer of a backup nor the beginning of a database.
    #[error("is no backup of hooklane")]
    Foreign,
    /// It begins as a database and has no trailer.
    #[error("has no end of a backup: it is cut off, or it is a plain copy of a database")]
    CutOff,
    /// It is of a later format.
    #[error("is a backup of a newer hooklane, in a format that this one does not know")]
    Newer,
    /// Its bytes are not those that were written.
    #[error("is damaged: {0}")]
    Damaged(&'static str),
    /// The file system refused.
    #[error("cannot be read: {0}")]
    System(#[from] io::Error),
}

/// Copies the database `from` into the empty file `to` at `path`, and seals it with its summary. `told`
/// is called with the bytes done and in all. Returns `None` if `gives_up` returned true meanwhile.
///
/// # Errors
/// [`Error::Space`] and [`Error::Refused`] concern the copy; other errors concern the database. The copy
/// is unfinished then.
pub async fn back_up(
    from: &Path,
    to: (&mut File, &Path),
    mut gives_up: impl FnMut() -> bool,
    mut told: impl FnMut(u64, u64),
) -> Result<Option<BackupSummary>, Error> {
    let (file, path) = to;
    let db = open(from)?;
    db.execute_batch("begin")?;
    let summary = summarize(&db)?;
    // The bytes are written once and read once, for the checksum.
    let all = 2 * summary.bytes;
    let mut copy = Connection::open(path)?;
    // If it is interrupted, the whole copy is thrown away.
    copy.execute_batch(
        "pragma journal_mode = off; pragma synchronous = off; pragma locking_mode = exclusive",
    )?;
    let backup = Backup::new(&db, &mut copy)?;
    loop {
        if gives_up() {
            return Ok(None);
        }
        match backup.step(PAGES)? {
            StepResult::Done => break,
            StepResult::More => file.sync_data().map_err(|error| unwritten(&error))?,
            _ => tokio::time::sleep(AGAIN).await,
        }
        let progress = backup.progress();
        let left = u64::try_from(progress.remaining).unwrap_or(0);
        let pages = u64::try_from(progress.pagecount).unwrap_or(0).max(1);
        told(summary.bytes * (pages - left.min(pages)) / pages, all);
        tokio::task::yield_now().await;
    }
    drop(backup);
    copy.close().map_err(|(_, error)| error)?;
    // The snapshot ends here, so that the write-ahead log can be copied and begun again.
    drop(db);
    seal(file, &summary, |done| told(summary.bytes + done, all)).await?;
    Ok(Some(summary))
}

fn open(file: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(file, flags)?;
    db.busy_timeout(LOCK_WAIT)?;
    Ok(db)
}

/// Reads the summary in the open transaction.
fn summarize(db: &Connection) -> Result<BackupSummary, Error> {
    // The row of a stream has its head as far as the log is indexed.
    const EVENTS: &str = "select (select coalesce(sum(head - floor), 0) from streams)
        + (select count(*) from log where n > (select value from counters where name = 'indexed'))";
    const NEWEST: &str = "select id, received_at from log order by n desc limit 1";
    let number = |text: &str| db.query_row(text, [], |row| row.get::<_, i64>(0));
    let count = |text: &str| number(text).map(|count| u64::try_from(count).unwrap_or(0));
    let counter = |name: &str| {
        let text = "select value from counters where name = ?1";
        db.query_row(text, [name], |row| row.get(0))
    };
    let newest: Option<(Vec<u8>, i64)> = db
        .query_row(NEWEST, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let id = |bytes: &[u8]| Some(EventId::from_bytes(bytes.try_into().ok()?));
    Ok(BackupSummary {
        hooklane: env!("CARGO_PKG_VERSION").to_owned(),
        tables: number("select max(version) from _sqlx_migrations")?,
        taken_at: Timestamp::now(),
        bytes: count("pragma page_count")? * count("pragma page_size")?,
        hooks: count("select count(*) from hooks where deleted_at is null")?,
        keys: count("select count(*) from keys where revoked_at is null")?,
        streams: count("select count(*) from streams")?,
        events: count(EVENTS)?,
        newest_event: newest.as_ref().and_then(|(bytes, _)| id(bytes)),
        newest_received_at: newest.map(|(_, at)| Timestamp::from_millis(at)),
        epoch: counter("epoch")?,
        config_version: counter("config_version")?,
    })
}

/// Appends the summary and the trailer, and syncs the file.
async fn seal(
    file: &mut File,
    summary: &BackupSummary,
    told: impl FnMut(u64),
) -> Result<(), Error> {
    let written = |error: io::Error| unwritten(&error);
    let length = file.metadata().map_err(written)?.len();
    if length != summary.bytes {
        return Err(Error::Refused(format!(
            "the copy has {length} bytes, and the database {}",
            summary.bytes
        )));
    }
    let json = serde_json::to_string(summary).unwrap_or_default();
    let line = format!("\n{json}\n");
    file.seek(SeekFrom::End(0)).map_err(written)?;
    file.write_all(line.as_bytes()).map_err(written)?;
    let hash = hash(file, length + line.len() as u64, told).await;
    let trailer = trailer(line.len(), &hash.map_err(written)?);
    file.seek(SeekFrom::End(0)).map_err(written)?;
    file.write_all(trailer.as_bytes()).map_err(written)?;
    file.sync_all().map_err(written)
}

fn trailer(summary: usize, hash: &[u8; 32]) -> String {
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{MARK}{summary:010} {hash}\n")
}

/// Hash of the first `length` bytes. Yields between two chunks, so that Ctrl-C is heard.
async fn hash(file: &mut File, length: u64, mut told: impl FnMut(u64)) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut done = 0;
    file.rewind()?;
    while done < length {
        let most = usize::try_from(length - done).unwrap_or(CHUNK).min(CHUNK);
        file.read_exact(&mut chunk[..most])?;
        hash.update(&chunk[..most]);
        done += most as u64;
        told(done);
        tokio::task::yield_now().await;
    }
    Ok(hash.finalize().into())
}

/// Reads the summary of a backup and checks its form, but not its checksum. The next read begins at the
/// start of the file.
///
/// # Errors
/// [`BackupFault`] names the fault of the file.
pub fn read_summary(file: &mut File) -> Result<BackupSummary, BackupFault> {
    let ends = read_ends(file)?;
    file.rewind()?;
    Ok(ends.summary)
}

/// Compares a backup with its checksum and returns its summary. `told` is called with the bytes done and
/// in all.
///
/// # Errors
/// [`BackupFault`] names the fault of the file.
pub async fn verify_backup(
    file: &mut File,
    mut told: impl FnMut(u64, u64),
) -> Result<BackupSummary, BackupFault> {
    let ends = read_ends(file)?;
    let length = ends.summary.bytes + ends.line;
    let found = hash(file, length, |done| told(done, length)).await?;
    match trailer(usize::try_from(ends.line).unwrap_or(0), &found) == ends.trailer {
        true => Ok(ends.summary),
        false => Err(BackupFault::Damaged("its checksum does not match")),
    }
}

/// Summary and trailer of a backup.
struct Ends {
    summary: BackupSummary,
    /// Length of the summary in bytes.
    line: u64,
    trailer: String,
}

fn read_ends(file: &mut File) -> Result<Ends, BackupFault> {
    const DAMAGED: BackupFault = BackupFault::Damaged("its summary cannot be read");
    let length = file.metadata()?.len();
    let at = length.checked_sub(TRAILER as u64);
    let trailer = match at {
        Some(at) => read_at(file, at, TRAILER)?,
        None => Vec::new(),
    };
    let trailer = String::from_utf8(trailer).unwrap_or_default();
    let Some(fields) = trailer.strip_prefix(MARK) else {
        return Err(without_trailer(file, &trailer)?);
    };
    let line: Option<u64> = fields.get(..10).and_then(|digits| digits.parse().ok());
    let line = line.filter(|line| *line <= SUMMARY_MAX).ok_or(DAMAGED)?;
    let at = at.and_then(|at| at.checked_sub(line)).ok_or(DAMAGED)?;
    let text = read_at(file, at, usize::try_from(line).unwrap_or(0))?;
    let summary: BackupSummary = serde_json::from_slice(&text).map_err(|_| DAMAGED)?;
    match summary.bytes == at {
        true => Ok(Ends {
            summary,
            line,
            trailer,
        }),
        false => Err(BackupFault::Damaged(
            "its length is not that of its summary",
        )),
    }
}

/// The fault of a file without our trailer.
fn without_trailer(file: &mut File, end: &str) -> io::Result<BackupFault> {
    const DATABASE: &[u8] = b"SQLite format 3\0";
    if end.starts_with("hooklane backup ") {
        return Ok(BackupFault::Newer);
    }
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let begin = read_at(file, 0, DATABASE.len().min(length))?;
    Ok(match !begin.is_empty() && DATABASE.starts_with(&begin) {
        true => BackupFault::CutOff,
        false => BackupFault::Foreign,
    })
}

fn read_at(file: &mut File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn unwritten(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Space,
        _ => Error::Refused(error.to_string()),
    }
}

/// Ends the running statement of a connection when it is dropped.
struct Interrupt(InterruptHandle);

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.0.interrupt();
    }
}

/// Checks a restored file that no one else has open: every page, every event against its checksum, the
/// seqs of every stream for gaps, and the number of events against the summary. `told` is called with
/// the events done and in all.
///
/// # Errors
/// [`Error::Malformed`] and [`Error::Refused`]: the backup is of a damaged database.
pub async fn check_restored(
    file: &Path,
    summary: &BackupSummary,
    mut told: impl FnMut(u64, u64),
) -> Result<(), Error> {
    const GAPS: &str = "select count(*) from streams s where s.head - s.floor <> (
        select count(*) from log_index i where i.stream = s.id and i.seq > s.floor and i.seq <= s.head)";
    const PAGES: &str = "pragma integrity_check(1)";
    let db = Connection::open(file)?;
    let _stop = Interrupt(db.get_interrupt_handle());
    // It may take minutes, in which Ctrl-C must be heard.
    let pages = tokio::task::spawn_blocking(move || {
        let found = db.query_row(PAGES, [], |row| row.get::<_, String>(0))?;
        Ok::<_, rusqlite::Error>((db, found))
    });
    let (db, found) = pages.await.map_err(|_| Error::Closed)??;
    if found != "ok" {
        return Err(Error::Malformed(found.replace('\n', " ")));
    }
    let mut events = 0;
    let mut after = 0;
    while let Some((last, read)) = inspect::check_events(&db, after, EVENTS)? {
        (after, events) = (last, events + read);
        told(events, summary.events);
        tokio::task::yield_now().await;
    }
    let gaps: i64 = db.query_row(GAPS, [], |row| row.get(0))?;
    if gaps > 0 {
        return Err(Error::Refused(format!("{gaps} streams lack events")));
    }
    match events == summary.events {
        true => Ok(()),
        false => Err(Error::Refused(format!(
            "it has {events} events, and its summary says {}",
            summary.events
        ))),
    }
}

impl Store {
    /// Marks the database as restored from a backup, and raises the epochs beyond those that the original
    /// may have drawn after the backup. Receivers that compare epochs accept its deliveries then. Draws
    /// the number of the database anew, so that cursors of feeds of the original are refused here.
    pub async fn mark_restored(&self, restored: Restored) -> Result<(), Error> {
        const SET: &str = "update counters set value = $2 where name = $1";
        let mut writing = self.begin().await?;
        for (name, at) in [
            ("restored_from", restored.taken_at),
            ("restored_at", restored.at),
        ] {
            let set = sqlx::query(SET).bind(name).bind(at.as_millis());
            set.execute(&mut writing.tx).await?;
        }
        let raise = sqlx::query(history::RAISE).bind(history::EPOCHS);
        raise.execute(&mut writing.tx).await?;
        let number = i64::try_from(rand::random::<u64>() >> 11).unwrap_or(1);
        let draw = sqlx::query(SET).bind("cluster").bind(number);
        draw.execute(&mut writing.tx).await?;
        writing.commit().await
    }

    /// The last restore of this database; `None` if there was none.
    pub async fn restored(&self) -> Result<Option<Restored>, Error> {
        let read = sqlx::query_as(RESTORED).fetch_one(&self.reader).await?;
        Ok(Restored::of(read))
    }
}
