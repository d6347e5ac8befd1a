//! Moves everything from a SQLite file to a Postgres server: every row under its own number, followed
//! by a proof that both sides are equal.
//!
//! A broken-off migration resumes: each part is one transaction, which also records that the part is
//! done. The file is only read. Until the migration has finished, no node starts on the server.

use std::path::Path;

use futures_util::TryStreamExt as _;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgPool, Postgres};

use super::Error;
use super::backend::postgres::server;
use super::backend::session::{Reader, Session};
use super::database::Server;

/// Small tables, moved in one transaction, with their columns; both databases use the same names.
const SMALL: [(&str, &str); 13] = [
    ("namespaces", "id, name, created_at, warn_ms, crit_ms"),
    (
        "lane_sets",
        "namespace, generation, lanes, state, created_at, asked_by, reason",
    ),
    (
        "lanes",
        "namespace, generation, lane, epoch, sealed_at, mode, mode_at, mode_by, mode_reason",
    ),
    (
        "hooks",
        "id, namespace, name, order_by, unordered, dedupe_by, body_max, keep, verify, tolerance_ms, public_url, secrets, handshake, version_by, version_rule, late, reorder_ms, allow_from, created_at, deleted_at, moves_at, moves_to, moves_version, paused_at, paused_by, paused_reason",
    ),
    (
        "handlers",
        "id, hook, name, kind, reduce, source, fold, on_error, quiet_ms, longest_ms, terms, secrets, only_events, created_at, deleted_at, replay_of, replay_stream, replay_to",
    ),
    (
        "keys",
        "id, key_id, name, kind, hook, hash, created_at, expires_at, revoked_at, last_used_at, last_used_from, rate, burst, created_by, consume",
    ),
    (
        "rejections",
        "hook, reason, count, first_at, last_at, found, clock_ms, sample",
    ),
    ("secret_uses", "hook, secret, first_at, last_at"),
    ("dead_letters", "handler, stream, seq, reason, created_at"),
    ("marks", "stream, handler, namespace, slot, mark"),
    (
        "alerts",
        "receiver, finding, id, content, stage, tries, due_at, began_at, ended_at",
    ),
    ("normals", "node, kind, subject, mean, samples, learned_at"),
    (
        "audit",
        "id, at, actor, came_from, operation, subject, reason, details",
    ),
];

/// Tables that may be long, each moved in its own transaction.
const LONG: [(&str, &str); 5] = [
    (
        "streams",
        "id, hook, ordering_key, slot, head, floor, created_at, version, late",
    ),
    (
        "cursors",
        "stream, handler, position, era, base, state, chain, condition, retry_at, tries, reason, held_by, updated_at",
    ),
    (
        "checkpoints",
        "stream, handler, position, fold, state, chain",
    ),
    (
        "deliveries",
        "stream, handler, number, era, position, upto, attempt, lease_until, consumer",
    ),
    (
        "waiting",
        "hook, ordering_key, slot, id, received_at, key_id, dedupe_key, headers, body, checksum, version, late, due_at",
    ),
];

const EVENT: &str =
    "stream, seq, id, received_at, key_id, dedupe_key, headers, body, checksum, late";

/// Tables whose number sequences continue after the last number of the file.
const NUMBERED: [&str; 6] = [
    "namespaces",
    "hooks",
    "handlers",
    "keys",
    "streams",
    "audit",
];

/// Number of events after which a transaction ends; a stream is never split.
const EVENTS_MAX: i64 = 50_000;

/// Bytes sent to the server at a time.
const CHUNK: usize = 256 * 1024;

/// Progress report of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationProgress {
    /// Current part: `move` or `verify`.
    pub what: &'static str,
    /// Number of events done.
    pub done: u64,
    /// Number of events in all.
    pub of: u64,
}

/// Result of a finished migration: the rows that were compared and found equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationProof {
    /// Number of streams whose events are equal on both sides, compared by a chain of hashes over each
    /// event.
    pub streams: u64,
    /// Number of their events.
    pub events: u64,
    /// Number of cursors that are equal, states included.
    pub cursors: u64,
    /// True if an earlier run had already moved everything.
    pub was_moved: bool,
}

/// Number of streams and events in a file that no daemon has open.
pub fn size(file: &Path) -> Result<(u64, u64), Error> {
    let db = open(file)?;
    let count = |text| db.query_row(text, [], |row| row.get::<_, i64>(0));
    let streams = count("select count(*) from streams")?;
    let events = count("select count(*) from log")?;
    Ok((number(streams), number(events)))
}

/// Moves all rows of a file to a server and proves that they are equal. The file must have been closed
/// cleanly by its last daemon, or opened and closed since. `begun` is called after the target has been
/// checked and before anything is written there; `told` is called with the progress.
///
/// # Errors
/// [`Error::Refused`] when the server has other data, or the two sides differ at the end; the message
/// says which.
pub async fn migrate(
    file: &Path,
    to: &Server,
    begun: impl FnOnce() -> std::io::Result<()>,
    mut told: impl FnMut(MigrationProgress),
) -> Result<MigrationProof, Error> {
    server::prepare(to).await?;
    let db = open(file)?;
    let pool = PgPool::connect_with(to.native.clone()).await?;
    let was_moved = enter(&db, &pool).await?;
    if !was_moved {
        begun().map_err(|error| {
            Error::Refused(format!("the start of the move cannot be noted: {error}"))
        })?;
        small(&db, &pool).await?;
        for (table, columns) in LONG {
            long(&db, &pool, table, columns).await?;
        }
        events(&db, &pool, &mut told).await?;
        go_on_counting(&db, &pool).await?;
    }
    let proof = prove(&db, &pool, &mut told).await?;
    let mut tx = begin(&pool).await?;
    note(&mut tx, "finished", 1).await?;
    tx.end().await?;
    pool.close().await;
    Ok(MigrationProof { was_moved, ..proof })
}

/// The message to show while a migration into this database is unfinished; `None` when there is none.
pub(super) async fn unfinished(reader: &Reader) -> Result<Option<String>, Error> {
    const LOOK: &str = "select count(*) from moves where name = 'source'
        and not exists (select 1 from moves where name = 'finished')";
    let unfinished: i64 = sqlx::query_scalar(LOOK).fetch_one(reader).await?;
    Ok((unfinished > 0).then(|| {
        "a move into this database is not at its end; run hooklane migrate again".to_owned()
    }))
}

fn open(file: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(file, flags)?)
}

/// Makes the checks of [`migrate`] without writing anything.
///
/// # Errors
/// [`Error::Refused`] when the migration would be refused.
pub async fn check(file: &Path, to: &Server) -> Result<(), Error> {
    let db = open(file)?;
    has_no_erasures(&db)?;
    let pool = PgPool::connect_with(to.native.clone()).await?;
    let mut tx = begin(&pool).await?;
    let is_empty: bool = sqlx::query_scalar("select to_regclass('moves') is null")
        .fetch_one(&mut tx)
        .await?;
    if !is_empty {
        progress(&mut tx, source(&db)?).await?;
    }
    tx.end().await?;
    pool.close().await;
    Ok(())
}

/// State of the migration into a server.
#[derive(PartialEq, Eq)]
enum MigrationState {
    NotBegun,
    Begun,
    Finished,
}

/// Checks that this file may go to the server, and records it as the source. True if everything was
/// already moved.
async fn enter(db: &Connection, pool: &PgPool) -> Result<bool, Error> {
    has_no_erasures(db)?;
    let source = source(db)?;
    let mut tx = begin(pool).await?;
    let progress = progress(&mut tx, source).await?;
    if progress == MigrationState::NotBegun {
        note(&mut tx, "source", source).await?;
    }
    tx.end().await?;
    Ok(progress == MigrationState::Finished)
}

/// Refuses a file that still has data of erased streams: it would be moved too, and nothing would remove it there.
fn has_no_erasures(db: &Connection) -> Result<(), Error> {
    // The tables of an older file are not moved yet.
    if !db.table_exists(None, "erasures")? {
        return Ok(());
    }
    let open: i64 = db.query_row("select count(*) from erasures", [], |row| row.get(0))?;
    match open {
        0 => Ok(()),
        _ => Err(Error::Refused(
            "the data of erased streams is not removed yet: start hooklane serve on the file for a minute, then stop it"
                .into(),
        )),
    }
}

fn source(db: &Connection) -> Result<i64, Error> {
    const SOURCE: &str = "select value from counters where name = 'cluster'";
    Ok(db.query_row(SOURCE, [], |row| row.get(0))?)
}

async fn progress(tx: &mut Session<Postgres>, source: i64) -> Result<MigrationState, Error> {
    const OTHERS: &str = "select (select count(*) from hooks) + (select count(*) from streams)";
    let nodes: i64 = sqlx::query_scalar("select count(*) from nodes")
        .fetch_one(&mut *tx)
        .await?;
    if nodes > 0 {
        return Err(Error::Refused(
            "a node runs on the target database, or did a moment ago: stop it, and wait 15 s"
                .into(),
        ));
    }
    match noted(tx, "source").await? {
        Some(known) if known == source => {
            return Ok(match noted(tx, "finished").await? {
                Some(_) => MigrationState::Finished,
                None => MigrationState::Begun,
            });
        }
        Some(_) => {
            return Err(Error::Refused(
                "another file was moved into the target database: take an empty one".into(),
            ));
        }
        None => {}
    }
    let others: i64 = sqlx::query_scalar(OTHERS).fetch_one(&mut *tx).await?;
    if others > 0 {
        return Err(Error::Refused(
            "the target database has hooks already: take an empty one".into(),
        ));
    }
    Ok(MigrationState::NotBegun)
}

/// Begins a transaction in a way that also works behind a pooler that shares sessions.
async fn begin(pool: &PgPool) -> Result<Session<Postgres>, Error> {
    let (session, _) = Session::begin(pool, "begin; select 1").await?;
    Ok(session)
}

async fn noted(tx: &mut Session<Postgres>, name: &str) -> Result<Option<i64>, Error> {
    let value = sqlx::query_scalar("select value from moves where name = $1");
    Ok(value.bind(name).fetch_optional(tx).await?)
}

async fn note(tx: &mut Session<Postgres>, name: &str, value: i64) -> Result<(), Error> {
    const NOTE: &str = "insert into moves (name, value) values ($1, $2)
        on conflict (name) do update set value = excluded.value";
    sqlx::query(NOTE).bind(name).bind(value).execute(tx).await?;
    Ok(())
}

async fn small(db: &Connection, pool: &PgPool) -> Result<(), Error> {
    let mut tx = begin(pool).await?;
    if noted(&mut tx, "small").await?.is_some() {
        return Ok(tx.end().await?);
    }
    // A node that was started on the target by mistake has created the default namespace.
    for table in ["lanes", "lane_sets", "namespaces", "keys", "audit"] {
        let text = format!("delete from {table}");
        sqlx::query(sqlx::AssertSqlSafe(text))
            .execute(&mut tx)
            .await?;
    }
    for (table, columns) in SMALL {
        let text = format!("select {columns} from {table}");
        copy(db, tx.connection(), table, columns, &text, []).await?;
    }
    for counter in ["epoch", "config_version", "plan_version"] {
        const SET: &str = "update counters set value = greatest(value, $2) where name = $1";
        let read = "select value from counters where name = ?1";
        let value: i64 = db.query_row(read, [counter], |row| row.get(0))?;
        sqlx::query(SET)
            .bind(counter)
            .bind(value + 1)
            .execute(&mut tx)
            .await?;
    }
    note(&mut tx, "small", 1).await?;
    Ok(tx.end().await?)
}

async fn long(db: &Connection, pool: &PgPool, table: &str, columns: &str) -> Result<(), Error> {
    let mut tx = begin(pool).await?;
    if noted(&mut tx, table).await?.is_some() {
        return Ok(tx.end().await?);
    }
    let text = format!("select {columns} from {table}");
    copy(db, tx.connection(), table, columns, &text, []).await?;
    note(&mut tx, table, 1).await?;
    Ok(tx.end().await?)
}

async fn events(
    db: &Connection,
    pool: &PgPool,
    told: &mut impl FnMut(MigrationProgress),
) -> Result<(), Error> {
    const SIZES: &str =
        "select stream, count(*) from log_index where stream > ?1 group by stream order by stream";
    let mut tx = begin(pool).await?;
    let done: i64 = sqlx::query_scalar("select count(*) from events")
        .fetch_one(&mut tx)
        .await?;
    let after = noted(&mut tx, "events").await?.unwrap_or(0);
    tx.end().await?;
    let mut sizes = db.prepare(SIZES)?;
    let rows = sizes.query_map([after], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let sizes = rows.collect::<Result<Vec<(i64, i64)>, _>>()?;
    let of = done + sizes.iter().map(|(_, events)| events).sum::<i64>();
    let (mut done, mut after) = (done, after);
    let mut rest = sizes.as_slice();
    while !rest.is_empty() {
        let mut events = 0;
        let take = rest.iter().take_while(|(_, size)| {
            let fits = events == 0 || events + size <= EVENTS_MAX;
            events += size;
            fits
        });
        let (batch, later) = rest.split_at(take.count());
        let last = batch.last().map_or(after, |(stream, _)| *stream);
        told(MigrationProgress {
            what: "move",
            done: number(done),
            of: number(of),
        });
        let columns: Vec<_> = EVENT
            .split(", ")
            .map(|name| match name {
                "stream" | "seq" => format!("i.{name}"),
                name => format!("l.{name}"),
            })
            .collect();
        let text = format!(
            "select {} from log_index i join log l on l.n = i.n
             where i.stream > ?1 and i.stream <= ?2 order by i.stream, i.seq",
            columns.join(", ")
        );
        let mut tx = begin(pool).await?;
        copy(db, tx.connection(), "events", EVENT, &text, [after, last]).await?;
        note(&mut tx, "events", last).await?;
        tx.end().await?;
        done += batch.iter().map(|(_, size)| size).sum::<i64>();
        (after, rest) = (last, later);
    }
    Ok(())
}

/// Sets the sequences so that new numbers continue after the last ones drawn in the file.
async fn go_on_counting(db: &Connection, pool: &PgPool) -> Result<(), Error> {
    const LAST: &str = "select coalesce(max(seq), 0) from sqlite_sequence where name = ?1";
    let mut tx = begin(pool).await?;
    for table in NUMBERED {
        let last: i64 = db.query_row(LAST, [table], |row| row.get(0))?;
        sqlx::query("select setval(pg_get_serial_sequence($1, 'id'), greatest($2, 1), $2 > 0)")
            .bind(table)
            .bind(last)
            .execute(&mut tx)
            .await?;
    }
    Ok(tx.end().await?)
}

/// Copies the rows of a query on the file into a table, in the text format of Postgres' COPY.
async fn copy<const N: usize>(
    db: &Connection,
    to: &mut PgConnection,
    table: &str,
    columns: &str,
    text: &str,
    bound: [i64; N],
) -> Result<(), Error> {
    let width = columns.split(',').count();
    let mut read = db.prepare(text)?;
    let mut rows = read.query(rusqlite::params_from_iter(bound))?;
    let mut into = to
        .copy_in_raw(&format!("copy {table} ({columns}) from stdin"))
        .await?;
    let mut buffer = Vec::with_capacity(CHUNK * 2);
    while let Some(row) = rows.next()? {
        for at in 0..width {
            if at > 0 {
                buffer.push(b'\t');
            }
            write(&mut buffer, row.get_ref(at)?);
        }
        buffer.push(b'\n');
        if buffer.len() >= CHUNK {
            into.send(buffer.as_slice()).await?;
            buffer.clear();
        }
    }
    into.send(buffer.as_slice()).await?;
    into.finish().await?;
    Ok(())
}

/// Appends a value in the text format of COPY.
fn write(to: &mut Vec<u8>, value: ValueRef<'_>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match value {
        ValueRef::Null => to.extend_from_slice(b"\\N"),
        ValueRef::Integer(number) => to.extend_from_slice(number.to_string().as_bytes()),
        ValueRef::Real(number) => to.extend_from_slice(number.to_string().as_bytes()),
        ValueRef::Text(text) => {
            for byte in text {
                match byte {
                    b'\\' => to.extend_from_slice(b"\\\\"),
                    b'\t' => to.extend_from_slice(b"\\t"),
                    b'\n' => to.extend_from_slice(b"\\n"),
                    b'\r' => to.extend_from_slice(b"\\r"),
                    byte => to.push(*byte),
                }
            }
        }
        ValueRef::Blob(bytes) => {
            to.extend_from_slice(b"\\\\x");
            for byte in bytes {
                to.push(HEX[usize::from(byte >> 4)]);
                to.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
}

/// Hash over the rows of one key: the events of a stream, or one cursor.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Link {
    key: (i64, i64),
    rows: u64,
    hash: [u8; 32],
}

/// Hashes rows of the same key in order; rows come sorted by key.
#[derive(Default)]
struct Chain {
    open: Option<Link>,
}

impl Chain {
    /// Adds a row. Returns the finished link when the row begins a new key.
    fn add(&mut self, key: (i64, i64), row: &[u8]) -> Option<Link> {
        let ended = self.open.take_if(|link| link.key != key);
        let link = self.open.get_or_insert(Link {
            key,
            rows: 0,
            hash: [0; 32],
        });
        let mut hash = Sha256::new();
        hash.update(link.hash);
        hash.update(row);
        link.hash = hash.finalize().into();
        link.rows += 1;
        ended
    }
}

/// Reads both sides in the same order and compares them, stream by stream and cursor by cursor.
async fn prove(
    db: &Connection,
    pool: &PgPool,
    told: &mut impl FnMut(MigrationProgress),
) -> Result<MigrationProof, Error> {
    let of: i64 = db.query_row("select count(*) from log", [], |row| row.get(0))?;
    let (mut done, of) = (0, number(of));
    let mut tell = |rows: u64| {
        done += rows;
        told(MigrationProgress {
            what: "verify",
            done,
            of,
        });
    };
    let events =
        "select i.stream, i.seq, l.id, l.received_at, l.key_id, l.dedupe_key, l.headers, l.body,
        l.checksum, l.late from log_index i join log l on l.n = i.n order by i.stream, i.seq";
    let there =
        "select stream, seq, id, received_at, key_id, dedupe_key, headers, body, checksum, late
        from events order by stream, seq";
    let (streams, events) = same(db, pool, events, there, false, "stream", &mut tell).await?;
    let columns = LONG[1].1;
    let cursors = format!("select {columns} from cursors order by stream, handler");
    let (cursors, _) = same(
        db,
        pool,
        &cursors,
        &cursors,
        true,
        "cursor of stream",
        &mut |_| (),
    )
    .await?;
    let mut tx = begin(pool).await?;
    for (table, _) in SMALL.into_iter().chain(LONG) {
        let text = format!("select count(*) from {table}");
        let here: i64 = db.query_row(&text, [], |row| row.get(0))?;
        let there: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(text))
            .fetch_one(&mut tx)
            .await?;
        if here != there {
            return Err(Error::Refused(format!(
                "{table}: {here} rows in the file, {there} in the target"
            )));
        }
    }
    tx.end().await?;
    Ok(MigrationProof {
        streams,
        events,
        cursors,
        was_moved: false,
    })
}

/// Compares the hashes of both sides. Returns the number of links and of rows.
async fn same(
    db: &Connection,
    pool: &PgPool,
    here: &str,
    there: &str,
    by_pair: bool,
    what: &str,
    tell: &mut impl FnMut(u64),
) -> Result<(u64, u64), Error> {
    let mut read = db.prepare(here)?;
    let width = read.column_count();
    let mut ours = read.query([])?;
    let mut tx = begin(pool).await?;
    let mut theirs = sqlx::query(sqlx::AssertSqlSafe(there.to_owned())).fetch(&mut tx);
    let (mut our_chain, mut their_chain) = (Chain::default(), Chain::default());
    let (mut links, mut rows) = (0, 0);
    let (mut row_here, mut row_there) = (Vec::new(), Vec::new());
    loop {
        let next = next_link(&mut our_chain, || {
            let Some(row) = ours.next()? else {
                return Ok(None);
            };
            row_here.clear();
            for at in 0..width {
                write(&mut row_here, row.get_ref(at)?);
                row_here.push(b'\t');
            }
            let second = if by_pair { row.get(1)? } else { 0 };
            Ok(Some(((row.get(0)?, second), row_here.clone())))
        })?;
        let mut other = None;
        while other.is_none() {
            match theirs.try_next().await? {
                None => {
                    other = their_chain.open.take();
                    break;
                }
                Some(row) => {
                    row_there.clear();
                    for at in 0..width {
                        write_row(&mut row_there, &row, at)?;
                        row_there.push(b'\t');
                    }
                    let second = if by_pair { row.try_get(1)? } else { 0 };
                    other = their_chain.add((row.try_get(0)?, second), &row_there);
                }
            }
        }
        if next != other {
            let stream = next
                .as_ref()
                .or(other.as_ref())
                .map_or(0, |link| link.key.0);
            return Err(Error::Refused(format!(
                "{what} {stream} is not the same in the file and in the target: nothing is served from it"
            )));
        }
        let Some(link) = next else {
            drop(theirs);
            tx.end().await?;
            return Ok((links, rows));
        };
        links += 1;
        rows += link.rows;
        tell(link.rows);
    }
}

type Keyed = ((i64, i64), Vec<u8>);

/// Reads rows until a link is finished.
fn next_link(
    chain: &mut Chain,
    mut next: impl FnMut() -> Result<Option<Keyed>, Error>,
) -> Result<Option<Link>, Error> {
    loop {
        match next()? {
            None => return Ok(chain.open.take()),
            Some((key, row)) => {
                if let Some(ended) = chain.add(key, &row) {
                    return Ok(Some(ended));
                }
            }
        }
    }
}

/// Appends a value of a server's row, formatted exactly as [`write()`] formats the file's.
fn write_row(to: &mut Vec<u8>, row: &sqlx::postgres::PgRow, at: usize) -> Result<(), Error> {
    use sqlx::{Column as _, TypeInfo as _};
    match row.column(at).type_info().name() {
        "INT8" => match row.try_get::<Option<i64>, _>(at)? {
            Some(number) => write(to, ValueRef::Integer(number)),
            None => write(to, ValueRef::Null),
        },
        "BYTEA" => match row.try_get::<Option<&[u8]>, _>(at)? {
            Some(bytes) => write(to, ValueRef::Blob(bytes)),
            None => write(to, ValueRef::Null),
        },
        _ => match row.try_get::<Option<&str>, _>(at)? {
            Some(text) => write(to, ValueRef::Text(text.as_bytes())),
            None => write(to, ValueRef::Null),
        },
    }
    Ok(())
}

fn number(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
