//! Retention: removes events that every cursor has passed from the front of their streams, and keeps
//! the reducer's state at that point as a checkpoint.
//!
//! Promises: a cut is atomic. It happens only if the floor is unchanged, every cursor of the stream has
//! passed its end, nothing is being rebuilt, and the reducer is the one that made the checkpoint. So
//! two nodes may cut the same stream. Other modules decide which events are due and compute
//! checkpoints.

use sqlx::{AssertSqlSafe, FromRow};

use super::backend::ops::Prune;
use super::rebuilds::Shadow;
use super::streams::slot;
use super::{Error, Statement, Store, StreamRow};
use crate::domain::cursor::{Chain, CursorId};
use crate::domain::event::StreamId;
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::name::OrderingKey;
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;

/// Number of events that a query measures.
const MEASURED_MAX: i64 = 5_000;

/// Number of streams that a transaction measures.
const MEASURED_STREAMS: usize = 256;

/// A stream with the data that retention needs.
#[derive(Clone, Debug)]
pub struct Prunable {
    /// The stream.
    pub stream: StreamRow,
    /// Seq that every cursor has passed; the head if there are no cursors.
    pub passed: Seq,
    /// Time at which its first event was received.
    pub oldest: Timestamp,
}

/// Age and size of an event.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct Aged {
    /// Seq of the event.
    pub seq: i64,
    /// Time at which it was received, in milliseconds since 1970.
    pub received_at: i64,
    /// Size of body and headers, in bytes.
    pub bytes: i64,
}

/// Start of a fold from the beginning: a checkpoint, or the position at which the handler was added.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Position, state and chain at the start.
    pub shadow: Shadow,
    /// Oldest fold version that contributed to the state; `None` if nothing was folded.
    pub fold: Option<i64>,
}

#[derive(FromRow)]
struct Row {
    stream: i64,
    hook: i64,
    ordering_key: String,
    slot: i64,
    head: i64,
    floor: i64,
    created_at: i64,
    passed: i64,
    oldest: Option<i64>,
}

/// Streams with events, and the first event of each, for numbers of our own making. In a file, only
/// indexed events may be removed.
macro_rules! prunable {
    ($oldest:literal) => {
        concat!(
            "select s.id as stream, s.hook, s.ordering_key, s.slot, s.head, s.floor, s.created_at,
              coalesce((select min(coalesce(c.position, 0)) from handlers h
                left join cursors c on c.handler = h.id and c.stream = s.id
                where h.hook = s.hook and (h.deleted_at is null
                  or h.replay_stream = s.id and c.handler is not null)), s.head) as passed,
              (",
            $oldest,
            ") as oldest
            from streams s where s.head > s.floor and s.id in "
        )
    };
}

const PRUNABLE: Statement = Statement {
    sqlite: prunable!(
        "select l.received_at from log_index i join log l on l.n = i.n
          where i.stream = s.id and i.seq = s.floor + 1
            and i.n <= (select value from counters where name = 'indexed')"
    ),
    postgres: prunable!(
        "select e.received_at from events e where e.stream = s.id and e.seq = s.floor + 1"
    ),
};

const AGES: Statement = Statement {
    sqlite: "select i.seq, l.received_at, octet_length(l.body) + octet_length(l.headers) as bytes
        from log_index i join log l on l.n = i.n
        where i.stream = $1 and i.seq > $2 and i.seq <= $3
          and i.n <= (select value from counters where name = 'indexed')
        order by i.seq limit $4",
    postgres: "select e.seq, e.received_at,
          cast(octet_length(e.body) + octet_length(e.headers) as bigint) as bytes
        from events e where e.stream = $1 and e.seq > $2 and e.seq <= $3 order by e.seq limit $4",
};

/// Reads by stream id. The plus sign stops SQLite from choosing the index by hook, which would read all
/// of its streams.
const BEGINNINGS: &str = "select s.id, s.floor, k.fold, k.state, k.chain
    from streams s
    left join checkpoints k on k.stream = s.id and k.handler = $1 and k.position = s.floor
    where s.id >= $2 and s.id <= $3 and + s.hook = $4 and s.floor > 0";

/// Number of streams that begin at a checkpoint, and of those to which another code version
/// contributed.
const CHECKPOINTED: &str = "select count(*),
      count(case when coalesce(k.fold, 0) <> $4 then 1 end) from streams s
    left join cursors c on c.stream = s.id and c.handler = $2
    left join checkpoints k on k.stream = s.id and k.handler = $2 and k.position = s.floor
    where s.hook = $1 and ($3 is null or s.id = $3) and s.floor > coalesce(c.base, 0)";

const UNMEASURED: &str = "select s.id, coalesce(z.measured, s.floor)
    from streams s left join sizes z on z.stream = s.id
    where s.hook = $1 and s.head > coalesce(z.measured, s.floor) order by s.id";

/// Adds to the former measurement, or starts at the floor, unless another node has measured or cut the
/// stream meanwhile.
const MEASURE: &str = "insert into sizes (stream, measured, bytes)
    select $1, $3, $4 from streams s where s.id = $1
      and (s.floor = $2 or exists (select 1 from sizes z where z.stream = s.id))
    on conflict (stream) do update set measured = excluded.measured, bytes = sizes.bytes + $4
      where sizes.measured = $2";

const SIZE: &str = "select cast(coalesce(sum(z.bytes), 0) as bigint)
    from sizes z join streams s on s.id = z.stream where s.hook = $1";

impl Store {
    /// Streams of a hook that have events at the begin of the call, in order of id.
    pub async fn streams_with_events(&self, hook: HookId) -> Result<Vec<StreamId>, Error> {
        const READ: &str = "select id from streams where hook = $1 and head > floor order by id";
        self.backend.index().await?;
        let read = sqlx::query_scalar(READ).bind(hook.0);
        let ids: Vec<i64> = read.fetch_all(&self.reader).await?;
        Ok(ids.into_iter().map(StreamId).collect())
    }

    /// Retention data of those of the given streams that have events, in order.
    pub async fn prunable(&self, streams: &[StreamId]) -> Result<Vec<Prunable>, Error> {
        if streams.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = streams.iter().map(|stream| stream.0.to_string()).collect();
        let text = format!("{} ({}) order by s.id", self.sql(PRUNABLE), ids.join(","));
        let rows = sqlx::query_as::<_, Row>(AssertSqlSafe(text))
            .persistent(false)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().filter_map(Row::prunable).collect())
    }

    /// Events of a stream with seqs over `after` up to `to`, at most `limit`, in order.
    pub async fn ages(
        &self,
        stream: StreamId,
        after: Seq,
        to: Seq,
        limit: i64,
    ) -> Result<Vec<Aged>, Error> {
        Ok(sqlx::query_as(self.sql(AGES))
            .bind(stream.0)
            .bind(after.0)
            .bind(to.0)
            .bind(limit)
            .fetch_all(&self.reader)
            .await?)
    }

    /// Starts of folds, for streams with ids from the first to the last, unless they start at the first
    /// event.
    pub async fn beginnings(
        &self,
        hook: HookId,
        handler: HandlerId,
        first: StreamId,
        last: StreamId,
    ) -> Result<Vec<Beginning>, Error> {
        type BeginningRow = (i64, i64, Option<i64>, Option<String>, Option<Vec<u8>>);
        let rows: Vec<BeginningRow> = sqlx::query_as(BEGINNINGS)
            .bind(handler.0)
            .bind(first.0)
            .bind(last.0)
            .bind(hook.0)
            .fetch_all(&self.reader)
            .await?;
        let beginning = |(stream, floor, fold, state, chain): BeginningRow| Beginning {
            shadow: Shadow {
                cursor: CursorId {
                    stream: StreamId(stream),
                    handler,
                },
                position: Position(floor),
                state,
                chain: Chain::from_bytes(chain.unwrap_or_default()),
            },
            fold,
        };
        Ok(rows.into_iter().map(beginning).collect())
    }

    /// Number of streams of a hook, or of one stream, that begin at a checkpoint, and how many of these
    /// checkpoints have contributions of a fold version other than `fold`.
    pub async fn checkpointed(
        &self,
        hook: HookId,
        handler: HandlerId,
        only: Option<StreamId>,
        fold: i64,
    ) -> Result<(u64, u64), Error> {
        let (all, older): (i64, i64) = sqlx::query_as(CHECKPOINTED)
            .bind(hook.0)
            .bind(handler.0)
            .bind(only.map(|stream| stream.0))
            .bind(fold)
            .fetch_one(&self.reader)
            .await?;
        let number = |count: i64| u64::try_from(count).unwrap_or(0);
        Ok((number(all), number(older)))
    }

    /// Removes events and stores checkpoints in one transaction, durable on return; tells for each cut
    /// if it was made.
    ///
    /// # Errors
    /// Nothing was removed, unless the connection was lost: then it is unknown, and the floors show it.
    pub async fn prune(&self, prune: Prune) -> Result<Vec<bool>, Error> {
        self.backend.prune(prune).await
    }

    /// Size of all events of a hook at the begin of the call, in bytes.
    pub async fn hook_bytes(&self, hook: HookId) -> Result<i64, Error> {
        self.backend.index().await?;
        let unmeasured = sqlx::query_as(UNMEASURED).bind(hook.0);
        let streams: Vec<(i64, i64)> = unmeasured.fetch_all(&self.reader).await?;
        for some in streams.chunks(MEASURED_STREAMS) {
            self.measure(some).await?;
        }
        let size = sqlx::query_scalar(SIZE).bind(hook.0);
        Ok(size.fetch_one(&self.reader).await?)
    }

    /// Measures streams from the end of the former measurement on.
    async fn measure(&self, streams: &[(i64, i64)]) -> Result<(), Error> {
        let mut parts = Vec::with_capacity(streams.len());
        for (stream, from) in streams {
            let mut from = *from;
            loop {
                let (after, to) = (Seq(from), Seq(i64::MAX));
                let events = self.ages(StreamId(*stream), after, to, MEASURED_MAX);
                let events = events.await?;
                let Some(last) = events.last() else {
                    break;
                };
                let bytes: i64 = events.iter().map(|event| event.bytes).sum();
                parts.push((*stream, from, last.seq, bytes));
                from = last.seq;
            }
        }
        let mut writing = self.begin().await?;
        for (stream, from, to, bytes) in parts {
            sqlx::query(MEASURE)
                .bind(stream)
                .bind(from)
                .bind(to)
                .bind(bytes)
                .execute(&mut writing.tx)
                .await?;
        }
        writing.commit().await
    }

    /// Time of receipt of the event at which the oldest events of a hook add up to `bytes`, or of a
    /// slightly older one in a large hook; `None` if there are fewer bytes.
    pub async fn oldest_bytes(&self, hook: HookId, bytes: i64) -> Result<Option<Timestamp>, Error> {
        self.backend.oldest_bytes(hook, bytes).await
    }
}

impl Row {
    fn prunable(self) -> Option<Prunable> {
        Some(Prunable {
            oldest: Timestamp::from_millis(self.oldest?),
            passed: Seq(self.passed),
            stream: StreamRow {
                id: StreamId(self.stream),
                hook: HookId(self.hook),
                key: OrderingKey::stored(self.ordering_key),
                slot: slot(self.slot),
                head: Seq(self.head),
                floor: Seq(self.floor),
                created_at: Timestamp::from_millis(self.created_at),
            },
        })
    }
}
