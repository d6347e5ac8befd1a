//! Retention: events that every cursor has passed are removed from the front of their streams, and what
//! the reducer made of them is kept in their place.
//!
//! Promises: a cut is done whole or not at all, and only where the floor is as it was seen, every cursor
//! of the stream has passed its end, nothing is being rebuilt, and the reducer is the one that made its
//! checkpoint. So two that cut the same stream do no harm. Leaves to others: which events are due, and
//! what a reducer makes of them.

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

/// Events measured by one query.
const MEASURED_MAX: i64 = 5_000;

/// Streams measured by one transaction.
const MEASURED_STREAMS: usize = 256;

/// A stream as retention sees it.
#[derive(Clone, Debug)]
pub struct Prunable {
    /// Which.
    pub stream: StreamRow,
    /// Up to where every cursor has come; its head where there are none.
    pub passed: Seq,
    /// When its first event was received.
    pub oldest: Timestamp,
}

/// When an event was received, and how large it is.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct Aged {
    /// Its place.
    pub seq: i64,
    /// When it was received.
    pub received_at: i64,
    /// Bytes of its body and headers.
    pub bytes: i64,
}

/// Where a fold from the beginning begins: at a checkpoint, or where its handler was added.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// The position, the state and the chain there.
    pub shadow: Shadow,
    /// The oldest version of the reducer that had a part in it; none where nothing was folded.
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

/// Streams with events, and the first of each, by numbers that are not from outside. In a file only what the
/// index knows may go.
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

/// By the numbers of streams, which the plus says: the index by hook would find all of its streams.
const BEGINNINGS: &str = "select s.id, s.floor, k.fold, k.state, k.chain
    from streams s
    left join checkpoints k on k.stream = s.id and k.handler = $1 and k.position = s.floor
    where s.id >= $2 and s.id <= $3 and + s.hook = $4 and s.floor > 0";

/// Streams that begin at a checkpoint, and those where another version of the code had a part in it.
const CHECKPOINTED: &str = "select count(*),
      count(case when coalesce(k.fold, 0) <> $4 then 1 end) from streams s
    left join cursors c on c.stream = s.id and c.handler = $2
    left join checkpoints k on k.stream = s.id and k.handler = $2 and k.position = s.floor
    where s.hook = $1 and ($3 is null or s.id = $3) and s.floor > coalesce(c.base, 0)";

const UNMEASURED: &str = "select s.id, coalesce(z.measured, s.floor)
    from streams s left join sizes z on z.stream = s.id
    where s.hook = $1 and s.head > coalesce(z.measured, s.floor) order by s.id";

/// On from where it was measured before, or from the floor; unless somebody else has measured it, or removed
/// some of it, meanwhile.
const MEASURE: &str = "insert into sizes (stream, measured, bytes)
    select $1, $3, $4 from streams s where s.id = $1
      and (s.floor = $2 or exists (select 1 from sizes z where z.stream = s.id))
    on conflict (stream) do update set measured = excluded.measured, bytes = sizes.bytes + $4
      where sizes.measured = $2";

const SIZE: &str = "select cast(coalesce(sum(z.bytes), 0) as bigint)
    from sizes z join streams s on s.id = z.stream where s.hook = $1";

impl Store {
    /// The streams of a hook that have events, in order; those that are stored when this begins.
    pub async fn streams_with_events(&self, hook: HookId) -> Result<Vec<StreamId>, Error> {
        const READ: &str = "select id from streams where hook = $1 and head > floor order by id";
        self.backend.index().await?;
        let read = sqlx::query_scalar(READ).bind(hook.0);
        let ids: Vec<i64> = read.fetch_all(&self.reader).await?;
        Ok(ids.into_iter().map(StreamId).collect())
    }

    /// How some streams stand, with the first event of each; those that have one, in order.
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

    /// The events of a stream after `after` and up to `to`, at most `limit`, in order.
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

    /// Where folds of streams from the first to the last begin that do not begin at the first event.
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

    /// How many streams of a hook, or of the one, begin at a checkpoint; and at how many of these another
    /// version of the reducer than `fold` had a part in what they begin with.
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

    /// Removes events and keeps checkpoints in their place, in one transaction; says of each cut whether it
    /// was done. When this returns, what was done is on stable storage.
    ///
    /// # Errors
    /// Nothing was removed, unless the connection was lost: then it is unknown, and the floors show it.
    pub async fn prune(&self, prune: Prune) -> Result<Vec<bool>, Error> {
        self.backend.prune(prune).await
    }

    /// Bytes of all events of a hook that are stored when this begins.
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

    /// Measures streams from where they were measured before.
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

    /// When the event of a hook was received with which its oldest events come to `bytes`, or one before it
    /// where there are many; none when there are not so many bytes.
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
