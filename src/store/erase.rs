//! Erasing streams: every row of a stream, and then every byte of it in the files of the database.
//!
//! An erasure has three steps. [`Store::begin_erasure`] deletes the stream in one transaction, so that nothing finds it
//! any more and its next event begins a new stream; it also notes which data is left. [`Store::remove_erased`]
//! removes that data in small transactions. [`Store::overwrite_erased`] makes the database overwrite its files. The
//! last two may be repeated at will: a node that is killed between them leaves a row in `erasures`, and the next one
//! goes on there.

use std::time::Duration;

use serde_json::json;
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};

use super::backend::Backend;
use super::backend::session::{Sessions, Tx};
use super::{Error, Statement, Store, Writing, replays};
use crate::domain::event::StreamId;
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::name::OrderingKey;
use crate::domain::time::Timestamp;

/// A stream to erase.
#[derive(Clone, Debug)]
pub struct ErasureTarget {
    /// Its hook.
    pub hook: HookId,
    /// Number of the stream; `None` if all of its events are held back.
    pub stream: Option<StreamId>,
    /// Ordering key of the stream.
    pub key: OrderingKey,
    /// Its name in older rows of the audit log.
    pub name: String,
    /// Replaces its name there.
    pub alias: String,
}

/// Sizes of one or more streams to erase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasureCounts {
    /// Number of streams.
    pub streams: i64,
    /// Number of stored events.
    pub events: i64,
    /// Number of events that are held back for a reorder window.
    pub held_back: i64,
    /// Number of stored events with a dedupe key.
    pub dedupe_keys: i64,
    /// Number of cursors, and of those with a state.
    pub cursors: i64,
    /// Number of states.
    pub states: i64,
    /// Number of checkpoints.
    pub checkpoints: i64,
    /// Number of dead letters.
    pub dead_letters: i64,
    /// Number of running replays.
    pub replays: i64,
}

impl ErasureCounts {
    fn add(&mut self, other: Self) {
        self.streams += other.streams;
        self.events += other.events;
        self.held_back += other.held_back;
        self.dedupe_keys += other.dedupe_keys;
        self.cursors += other.cursors;
        self.states += other.states;
        self.checkpoints += other.checkpoints;
        self.dead_letters += other.dead_letters;
        self.replays += other.replays;
    }
}

/// Outcome of beginning an erasure.
#[derive(Clone, Debug)]
pub enum BegunErasure {
    /// The streams are deleted; their data is being removed.
    Begun,
    /// A rebuild of the hook is running. Nothing was changed.
    Rebuilding,
}

/// An erasure that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// Its number.
    pub id: i64,
    /// Number of the deleted stream; `None` if all of its events were held back.
    pub stream: Option<StreamId>,
    /// Time at which the stream was deleted.
    pub asked_at: Timestamp,
}

type Row = (i64, Option<i64>, i64);

impl From<Row> for Erasure {
    fn from((id, stream, asked_at): Row) -> Self {
        Self {
            id,
            stream: stream.map(StreamId),
            asked_at: Timestamp::from_millis(asked_at),
        }
    }
}

/// State of the files of the database after an attempt to overwrite deleted content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwritten {
    /// No deleted content is left.
    Done,
    /// Somebody still reads the deleted rows. Try again later.
    InUse,
    /// Rows are removed, but their bytes stay until their pages are used again, because the tables are too large to be
    /// rewritten while senders wait, or belong to another role. An operator has to rewrite them.
    NotRewritten,
}

/// Number of events removed by one transaction.
const EVENTS_MAX: i64 = 1_000;

/// Size of all tables with content up to which they are rewritten at once, in bytes. Senders wait meanwhile: about a second.
const REWRITTEN_MAX: i64 = 128 * 1024 * 1024;

/// Time after which an erasure of a node that still runs counts as abandoned.
const ABANDONED: Duration = Duration::from_secs(120);

/// Number of checks for older transactions before a table is rewritten, and the interval between two.
const OLDER_TRIES: usize = 20;
const OLDER_EVERY: Duration = Duration::from_millis(100);

/// Tables with bodies, states and reasons.
const TABLES: [&str; 6] = [
    "events",
    "waiting",
    "cursors",
    "checkpoints",
    "shadows",
    "dead_letters",
];

/// Rows of a stream besides its events.
const PARTS: [&str; 9] = [
    "delete from cursors where stream = $1",
    "delete from deliveries where stream = $1",
    "delete from dead_letters where stream = $1",
    "delete from checkpoints where stream = $1",
    "delete from shadows where stream = $1",
    "delete from sizes where stream = $1",
    "delete from marks where stream = $1",
    "delete from in_flight where stream = $1",
    "delete from lost_events where stream = $1",
];

/// Seq up to which the next transaction removes events.
const NEXT: Statement = Statement {
    sqlite: "select max(seq) from (select seq from log_index where stream = $1 order by seq limit $2) page",
    postgres: "select max(seq) from (select seq from events where stream = $1 order by seq limit $2) page",
};

/// Statements that remove events up to a seq.
const EVENTS: [&[&str]; 2] = [
    &[
        "delete from log_ids where id in (select l.id from log_index i join log l on l.n = i.n
           where i.stream = $1 and i.seq <= $2)",
        "delete from log where n in (select n from log_index where stream = $1 and seq <= $2)",
        "delete from log_index where stream = $1 and seq <= $2",
    ],
    &["delete from events where stream = $1 and seq <= $2"],
];

/// Lets no node release waiting events until the end of the transaction; a release might have read some of them.
const NO_RELEASE: Statement = Statement {
    sqlite: "select 1 where true",
    postgres: "select 1 from (select pg_advisory_xact_lock(
        hashtextextended('hooklane_release ' || current_schema(), 0))) locked",
};

/// Selects the counts of a stream; those of its events are counted in different tables.
macro_rules! counts {
    ($events:literal, $keyed:literal) => {
        concat!(
            "select (",
            $events,
            "), (",
            $keyed,
            "),
        (select count(*) from waiting where hook = $2 and ordering_key = $3),
        (select count(*) from cursors where stream = $1),
        (select count(*) from cursors where stream = $1 and state is not null),
        (select count(*) from checkpoints where stream = $1),
        (select count(*) from dead_letters where stream = $1),
        (select count(*) from handlers where replay_stream = $1 and replay_to is not null)"
        )
    };
}

const COUNTS: Statement = Statement {
    sqlite: counts!(
        "(select count(*) from log_index where stream = $1)
          + (select count(*) from log where stream = $1
              and n > (select value from counters where name = 'indexed'))",
        "select count(*) from log where stream = $1 and dedupe_key is not null"
    ),
    postgres: counts!(
        "select count(*) from events where stream = $1",
        "select count(*) from events where stream = $1 and dedupe_key is not null"
    ),
};

impl Store {
    /// Ordering keys of a hook, with the numbers of their streams, including those of which all events are held back.
    pub async fn erasable(
        &self,
        hook: HookId,
    ) -> Result<Vec<(OrderingKey, Option<StreamId>)>, Error> {
        const READ: &str = "select ordering_key, id from streams where hook = $1
            union all
            select distinct w.ordering_key, cast(null as bigint) from waiting w where w.hook = $1
              and not exists (select 1 from streams s
                where s.hook = w.hook and s.ordering_key = w.ordering_key)
            order by 1";
        let rows: Vec<(String, Option<i64>)> = sqlx::query_as(READ)
            .bind(hook.0)
            .fetch_all(&self.reader)
            .await?;
        let row =
            |(key, stream): (String, Option<i64>)| (OrderingKey::stored(key), stream.map(StreamId));
        Ok(rows.into_iter().map(row).collect())
    }

    /// Sizes of these streams together.
    pub async fn erasure_counts(&self, targets: &[ErasureTarget]) -> Result<ErasureCounts, Error> {
        self.backend.index().await?;
        let mut tx = self.snapshot().await?;
        let mut all = ErasureCounts::default();
        for target in targets {
            all.add(self.counts_of(&mut tx, target).await?);
        }
        tx.commit().await?;
        Ok(all)
    }

    async fn counts_of(&self, tx: &mut Tx, target: &ErasureTarget) -> Result<ErasureCounts, Error> {
        type CountsRow = (i64, i64, i64, i64, i64, i64, i64, i64);
        let row: CountsRow = sqlx::query_as(self.sql(COUNTS))
            .bind(target.stream.map_or(0, |stream| stream.0))
            .bind(target.hook.0)
            .bind(target.key.as_str())
            .fetch_one(&mut *tx)
            .await?;
        let (events, dedupe_keys, held_back, cursors, states, checkpoints, dead_letters, replays) =
            row;
        Ok(ErasureCounts {
            streams: 1,
            events,
            held_back,
            dedupe_keys,
            cursors,
            states,
            checkpoints,
            dead_letters,
            replays,
        })
    }

    /// Deletes streams in one transaction, with their waiting events, and replaces their names in the audit log. The
    /// sizes are added to `all`, which becomes the content of the audit note. On return a new event of such a stream
    /// begins a new one.
    pub async fn begin_erasure(
        &self,
        targets: &[ErasureTarget],
        node: &str,
        at: Timestamp,
        all: &mut ErasureCounts,
    ) -> Result<BegunErasure, Error> {
        self.backend.index().await?;
        let mut writing = self.begin().await?;
        sqlx::query(self.sql(NO_RELEASE))
            .fetch_all(&mut writing.tx)
            .await?;
        let mut found = *all;
        for target in targets {
            if writing.is_rebuilt(target.hook).await? {
                return Ok(BegunErasure::Rebuilding);
            }
            // The stream comes first: its lock ends the appends that are under way.
            sqlx::query("delete from streams where id = $1")
                .bind(target.stream.map_or(0, |stream| stream.0))
                .execute(&mut writing.tx)
                .await?;
            found.add(self.counts_of(&mut writing.tx, target).await?);
            writing.begin_erasure(target, node, at).await?;
        }
        writing.tell_note(note(&found));
        writing.config_changed().await?;
        self.backend.streams_deleted();
        writing.commit().await?;
        *all = found;
        Ok(BegunErasure::Begun)
    }

    /// Erasures that have not ended, oldest first.
    pub async fn erasures(&self) -> Result<Vec<Erasure>, Error> {
        const READ: &str = "select id, stream, asked_at from erasures order by id";
        let rows: Vec<Row> = sqlx::query_as(READ).fetch_all(&self.reader).await?;
        Ok(rows.into_iter().map(Erasure::from).collect())
    }

    /// Erasures that a node has to finish: its own, and those whose node is gone or has given up.
    pub async fn erasures_for(&self, node: &str, now: Timestamp) -> Result<Vec<Erasure>, Error> {
        const READ: &str = "select id, stream, asked_at from erasures
            where node = $1 or asked_at < $2 or node not in (select id from nodes) order by id";
        let rows: Vec<Row> = sqlx::query_as(READ)
            .bind(node)
            .bind(now.before(ABANDONED).as_millis())
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(Erasure::from).collect())
    }

    /// Removes every row of a stream that was deleted. After an error, a later call removes the rest.
    pub async fn remove_erased(&self, stream: StreamId) -> Result<(), Error> {
        self.backend.index().await?;
        let mut writing = self.begin().await?;
        for part in PARTS {
            sqlx::query(part)
                .bind(stream.0)
                .execute(&mut writing.tx)
                .await?;
        }
        writing.commit().await?;
        while self.remove_events(stream).await? {}
        self.backend.forget(&[stream]);
        Ok(())
    }

    /// Removes some events of a deleted stream; `false` when there are none.
    async fn remove_events(&self, stream: StreamId) -> Result<bool, Error> {
        let [in_file, on_server] = EVENTS;
        let statements = match &*self.backend {
            Backend::Sqlite(_) => in_file,
            Backend::Postgres(_) => on_server,
        };
        let mut writing = self.begin().await?;
        let next: Option<i64> = sqlx::query_scalar(self.sql(NEXT))
            .bind(stream.0)
            .bind(EVENTS_MAX)
            .fetch_one(&mut writing.tx)
            .await?;
        let Some(to) = next else {
            return Ok(false);
        };
        for statement in statements {
            sqlx::query(*statement)
                .bind(stream.0)
                .bind(to)
                .execute(&mut writing.tx)
                .await?;
        }
        writing.commit().await?;
        Ok(true)
    }

    /// Drops what this node caches of streams that no longer exist.
    pub fn forget(&self, gone: &[StreamId]) {
        if !gone.is_empty() {
            self.backend.forget(gone);
        }
    }

    /// Overwrites deleted content in the files of the database.
    pub async fn overwrite_erased(&self) -> Result<Overwritten, Error> {
        match &*self.backend {
            // Every connection overwrites as it deletes; only older versions of pages in the WAL are left.
            Backend::Sqlite(file) => Ok(match file.empty_wal().await? {
                true => Overwritten::Done,
                false => Overwritten::InUse,
            }),
            Backend::Postgres(_) => self.vacuum().await,
        }
    }

    /// Removes deleted rows from the tables, and rewrites tables that are not too large: a vacuum alone leaves the bytes
    /// of a row in its page.
    async fn vacuum(&self) -> Result<Overwritten, Error> {
        // A vacuum runs outside of transactions, and its settings must not outlive it.
        let mut db = self.writer.acquire().await?.detach();
        let rewrites = self.may_rewrite(&mut db).await?;
        if rewrites {
            // A rewrite that waits for a long reader would keep everybody else waiting.
            sqlx::raw_sql("set lock_timeout = '2s'")
                .execute(&mut db)
                .await?;
        }
        if !is_past(&mut db).await? {
            return Ok(Overwritten::InUse);
        }
        for table in TABLES {
            let text = match rewrites {
                true => format!("vacuum (full) {table}"),
                false => format!("vacuum {table}"),
            };
            let vacuumed = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut db).await;
            match vacuumed.map_err(Error::from) {
                Ok(_) => {}
                Err(error) if error.is_passing() => return Ok(Overwritten::InUse),
                Err(error) => return Err(error),
            }
        }
        let _ = db.close().await;
        Ok(match rewrites {
            true => Overwritten::Done,
            false => Overwritten::NotRewritten,
        })
    }

    /// True if [`Store::overwrite_erased`] leaves no deleted content.
    pub async fn overwrites(&self) -> Result<bool, Error> {
        match &*self.backend {
            Backend::Sqlite(_) => Ok(true),
            Backend::Postgres(_) => {
                let mut db = self.writer.acquire().await?;
                self.may_rewrite(&mut db).await
            }
        }
    }

    /// True if the tables are small enough to be rewritten at once and belong to this role. A session that is shared
    /// cannot limit how long a rewrite waits for its lock.
    async fn may_rewrite(&self, db: &mut AnyConnection) -> Result<bool, Error> {
        if self.reader.sessions != Sessions::Own {
            return Ok(false);
        }
        let tables = TABLES.map(|table| format!("'{table}'::regclass"));
        let text = format!(
            "select coalesce(sum(pg_total_relation_size(oid)), 0)::bigint,
               coalesce(min(case when pg_has_role(relowner, 'usage') then 1 else 0 end), 0)::bigint
             from pg_class where oid in ({})",
            tables.join(", ")
        );
        let (bytes, is_owner): (i64, i64) = sqlx::query_as(AssertSqlSafe(text))
            .persistent(false)
            .fetch_one(db)
            .await?;
        Ok(bytes <= REWRITTEN_MAX && is_owner == 1)
    }

    /// Ends erasures whose data is gone.
    pub async fn end_erasures(&self, erasures: &[Erasure]) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        for erasure in erasures {
            sqlx::query("delete from erasures where id = $1")
                .bind(erasure.id)
                .execute(&mut writing.tx)
                .await?;
        }
        writing.commit().await
    }
}

/// Streams that were erased and whose data is still being removed.
pub(super) async fn streams(tx: &mut Tx) -> Result<Vec<StreamId>, Error> {
    const READ: &str = "select stream from erasures where stream is not null order by stream";
    let ids: Vec<i64> = sqlx::query_scalar(READ).fetch_all(&mut *tx).await?;
    Ok(ids.into_iter().map(StreamId).collect())
}

/// The sizes as details of an audit note.
fn note(found: &ErasureCounts) -> serde_json::Value {
    json!({
        "streams": found.streams,
        "events": found.events,
        "held_back": found.held_back,
        "states": found.states,
        "checkpoints": found.checkpoints,
        "dead_letters": found.dead_letters,
        "dedupe_keys": found.dedupe_keys,
    })
}

/// Waits until no transaction runs that began before this call; `false` if one goes on. Such a transaction may see deleted
/// rows, which a rewritten table would keep for it.
async fn is_past(db: &mut AnyConnection) -> Result<bool, Error> {
    const NOW: &str = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
    const OLDER: &str = "select count(*) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()
          and backend_xmin is not null and xact_start < to_timestamp($1 / 1000000.0)";
    let began: i64 = sqlx::query_scalar(NOW)
        .persistent(false)
        .fetch_one(&mut *db)
        .await?;
    for _ in 0..OLDER_TRIES {
        let older: i64 = sqlx::query_scalar(OLDER)
            .persistent(false)
            .bind(began)
            .fetch_one(&mut *db)
            .await?;
        if older == 0 {
            return Ok(true);
        }
        tokio::time::sleep(OLDER_EVERY).await;
    }
    Ok(false)
}

impl Writing<'_> {
    async fn is_rebuilt(&mut self, hook: HookId) -> Result<bool, Error> {
        const READ: &str = "select count(*) from rebuilds where hook = $1 and state = 'running'";
        let running: i64 = sqlx::query_scalar(READ)
            .bind(hook.0)
            .fetch_one(&mut self.tx)
            .await?;
        Ok(running > 0)
    }

    /// Notes the data to be removed, and removes the rows that have the name of the stream.
    async fn begin_erasure(
        &mut self,
        target: &ErasureTarget,
        node: &str,
        at: Timestamp,
    ) -> Result<(), Error> {
        const NOTE: &str = "insert into erasures (stream, node, asked_at) values ($1, $2, $3)";
        const BY_KEY: [&str; 3] = [
            "delete from waiting where hook = $1 and ordering_key = $2",
            "delete from rebuilds where hook = $1 and ordering_key = $2",
            "delete from lost_events where hook = $1 and ordering_key = $2",
        ];
        const SAMPLES: &str = "update rebuilds set samples = '[]' where hook = $1";
        const ALIAS: &str = "update audit set subject = $2 where subject = $1";
        const REPLAYS: &str = "select id from handlers
            where replay_stream = $1 and replay_to is not null";
        sqlx::query(NOTE)
            .bind(target.stream.map(|stream| stream.0))
            .bind(node)
            .bind(at.as_millis())
            .execute(&mut self.tx)
            .await?;
        for text in BY_KEY {
            sqlx::query(text)
                .bind(target.hook.0)
                .bind(target.key.as_str())
                .execute(&mut self.tx)
                .await?;
        }
        sqlx::query(SAMPLES)
            .bind(target.hook.0)
            .execute(&mut self.tx)
            .await?;
        sqlx::query(ALIAS)
            .bind(target.name.as_str())
            .bind(target.alias.as_str())
            .execute(&mut self.tx)
            .await?;
        let replays: Vec<i64> = sqlx::query_scalar(REPLAYS)
            .bind(target.stream.map_or(0, |stream| stream.0))
            .fetch_all(&mut self.tx)
            .await?;
        for id in replays {
            replays::remove(&mut self.tx, HandlerId(id)).await?;
        }
        Ok(())
    }
}
