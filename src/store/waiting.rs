//! Events that are held back for a reorder window: their release, and their display.

use sqlx::FromRow;

use super::backend::ops::{Due, Released};
use super::backend::rows::EventColumns;
use super::{Error, Statement, Store, Stored};
use crate::domain::event::{EventId, StreamId};
use crate::domain::hook::HookId;
use crate::domain::name::OrderingKey;
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;

/// An event that is held back.
#[derive(Clone, Debug)]
pub struct HeldBack {
    /// The event, with seq 0, since it has none yet. Its stream may not exist.
    pub stored: Stored,
    /// End of its window.
    pub due_at: Timestamp,
}

/// Number of events that are held back, and the next end of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldBackCount {
    /// Number of events.
    pub events: u64,
    /// End of the first window.
    pub next_due: Option<Timestamp>,
}

/// Selects events that are held back; each field that is set is a condition.
#[derive(Clone, Debug, Default)]
pub struct HeldBackFilter {
    /// Only this event.
    pub id: Option<EventId>,
    /// Only events of this hook.
    pub hook: Option<HookId>,
    /// Only events with this dedupe key.
    pub dedupe_key: Option<String>,
    /// Number of events at most.
    pub limit: i64,
}

#[derive(FromRow)]
struct Row {
    id: Vec<u8>,
    hook: String,
    ordering_key: String,
    received_at: i64,
    due_at: i64,
    key_id: Option<i64>,
    dedupe_key: Option<String>,
    headers: Vec<u8>,
    body: Vec<u8>,
    checksum: i64,
}

impl From<Row> for HeldBack {
    fn from(row: Row) -> Self {
        let columns = EventColumns {
            id: &row.id,
            received_at: row.received_at,
            key_id: row.key_id,
            dedupe_key: row.dedupe_key,
            headers: &row.headers,
            body: row.body,
            checksum: Some(row.checksum),
            late: None,
        };
        Self {
            stored: Stored {
                event: columns.event(StreamId(0), Seq(0)),
                hook: row.hook,
                ordering_key: row.ordering_key,
            },
            due_at: Timestamp::from_millis(row.due_at),
        }
    }
}

/// Selects events that are held back; headers are read as bytes, because damaged ones may not be text.
macro_rules! held_back {
    ($headers:literal) => {
        concat!(
            "select w.id, h.name as hook, w.ordering_key, w.received_at, w.due_at, w.key_id,
               w.dedupe_key, ",
            $headers,
            " as headers, w.body, w.checksum
             from waiting w join hooks h on h.id = w.hook
             where h.deleted_at is null and ($1 is null or w.id = $1) and ($2 is null or w.hook = $2)
               and ($3 is null or w.dedupe_key = $3)
             order by w.due_at, w.n limit $4"
        )
    };
}

const LIST: Statement = Statement {
    sqlite: held_back!("cast(w.headers as blob)"),
    postgres: held_back!("convert_to(w.headers, 'UTF8')"),
};

impl Store {
    /// Stores events whose reorder window has ended, each after those of its stream that have lower
    /// versions, and returns those that got a seq: at least one while any is due, but not always all.
    /// On Postgres it stores nothing while another node does this.
    pub async fn release_due(&self, due: Due) -> Result<Vec<Released>, Error> {
        self.backend.release(due).await
    }

    /// End of the first reorder window; `None` if no event is held back.
    pub async fn next_due(&self) -> Result<Option<Timestamp>, Error> {
        const NEXT: &str = "select min(due_at) from waiting";
        let next: Option<i64> = sqlx::query_scalar(NEXT).fetch_one(&self.reader).await?;
        Ok(next.map(Timestamp::from_millis))
    }

    /// Number of events of a hook that are held back, in one stream or in all.
    pub async fn held_back_count(
        &self,
        hook: HookId,
        key: Option<&OrderingKey>,
    ) -> Result<HeldBackCount, Error> {
        const COUNT: &str = "select count(*), min(due_at) from waiting
            where hook = $1 and ($2 is null or ordering_key = $2)";
        let (events, next): (i64, Option<i64>) = sqlx::query_as(COUNT)
            .bind(hook.0)
            .bind(key.map(OrderingKey::as_str))
            .fetch_one(&self.reader)
            .await?;
        Ok(HeldBackCount {
            events: events.unsigned_abs(),
            next_due: next.map(Timestamp::from_millis),
        })
    }

    /// Events that are held back, the first to be released first.
    pub async fn held_back(&self, filter: &HeldBackFilter) -> Result<Vec<HeldBack>, Error> {
        let rows: Vec<Row> = sqlx::query_as(self.sql(LIST))
            .bind(filter.id.map(|id| id.as_bytes().to_vec()))
            .bind(filter.hook.map(|hook| hook.0))
            .bind(filter.dedupe_key.as_deref())
            .bind(filter.limit)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(HeldBack::from).collect())
    }

    /// Number of late events of a hook's streams.
    pub async fn late_count(&self, hook: HookId) -> Result<u64, Error> {
        const COUNT: &str =
            "select cast(coalesce(sum(late), 0) as bigint) from streams where hook = $1";
        let count: i64 = sqlx::query_scalar(COUNT)
            .bind(hook.0)
            .fetch_one(&self.reader)
            .await?;
        Ok(count.unsigned_abs())
    }

    /// Number of late events of a stream.
    pub async fn late_in_stream(&self, stream: StreamId) -> Result<u64, Error> {
        const COUNT: &str = "select late from streams where id = $1";
        let count: Option<i64> = sqlx::query_scalar(COUNT)
            .bind(stream.0)
            .fetch_optional(&self.reader)
            .await?;
        Ok(count.unwrap_or_default().unsigned_abs())
    }
}
