//! Events: appended in batches, read in stream order, listed for people.

use sqlx::FromRow;

use super::backend::ops::{Appended, NewEvent};
use super::backend::rows::EventColumns;
use super::{Error, Statement, Store};
use crate::domain::event::{Event, EventId, StreamId};
use crate::domain::hook::HookId;
use crate::domain::name::OrderingKey;
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;

/// A stored event with the names of its hook and its stream.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The event.
    pub event: Event,
    /// Name of its hook.
    pub hook: String,
    /// Ordering key of its stream.
    pub ordering_key: String,
}

/// Selects events for a list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only events of this hook.
    pub hook: Option<HookId>,
    /// Only events of this stream.
    pub stream: Option<StreamId>,
    /// Only events received at or after this time.
    pub since: Option<Timestamp>,
    /// Only events older than this one, for paging.
    pub before: Option<EventId>,
    /// Only events in the dead letters.
    pub dead: bool,
    /// Only late events.
    pub late: bool,
    /// Only events with this dedupe key: at most one in each stream.
    pub dedupe_key: Option<String>,
    /// Number of events at most.
    pub limit: i64,
}

#[derive(FromRow)]
pub(super) struct Row {
    stream: i64,
    seq: i64,
    id: Vec<u8>,
    received_at: i64,
    key_id: Option<i64>,
    dedupe_key: Option<String>,
    headers: Vec<u8>,
    body: Vec<u8>,
    checksum: Option<i64>,
    late: Option<String>,
    hook: String,
    ordering_key: String,
}

impl From<Row> for Stored {
    fn from(row: Row) -> Self {
        let columns = EventColumns {
            id: &row.id,
            received_at: row.received_at,
            key_id: row.key_id,
            dedupe_key: row.dedupe_key,
            headers: &row.headers,
            body: row.body,
            checksum: row.checksum,
            late: row.late,
        };
        Self {
            event: columns.event(StreamId(row.stream), Seq(row.seq)),
            hook: row.hook,
            ordering_key: row.ordering_key,
        }
    }
}

/// Selects whole events from the relation that follows, which must be named `e`. Headers are read as
/// bytes, because damaged headers may not be valid text.
macro_rules! select_events {
    ($headers:literal, $($rest:tt)*) => {
        concat!(
            "select e.stream, e.seq, e.id, e.received_at, e.key_id, e.dedupe_key, ", $headers, " as headers, e.body,
             e.checksum, e.late, h.name as hook, s.ordering_key
             from ", $($rest)*
        )
    };
}

pub(super) use select_events;

/// Builds a `select_events!` statement for both databases.
macro_rules! select_events_from {
    ($sqlite:literal, $postgres:literal) => {
        Statement {
            sqlite: select_events!("cast(e.headers as blob)", $sqlite),
            postgres: select_events!("convert_to(e.headers, 'UTF8')", $postgres),
        }
    };
    ($both:literal) => {
        select_events_from!($both, $both)
    };
}

const READ: Statement = select_events_from!(
    "events e join streams s on s.id = e.stream join hooks h on h.id = s.hook
     where e.stream = $1 and e.seq > $2 order by e.seq limit $3"
);

/// Newest first. On SQLite the row number gives the order of storing; on Postgres the id stands in for
/// it.
const LIST: Statement = select_events_from!(
    "log e join streams s on s.id = e.stream join hooks h on h.id = s.hook
     where h.deleted_at is null and ($1 is null or s.hook = $1)
       and ($2 is null or e.stream = $2) and ($3 is null or e.received_at >= $3)
       and ($4 is null or e.n < coalesce(
         (select n from log_ids where id = $4 union all select n from log
           where n > (select value from counters where name = 'indexed') and id = $4),
         9223372036854775807))
       and ($5 = 0 or e.late is not null)
     order by e.n desc limit $6",
    "events e join streams s on s.id = e.stream join hooks h on h.id = s.hook
     where h.deleted_at is null and ($1 is null or s.hook = $1)
       and ($2 is null or e.stream = $2) and ($3 is null or e.received_at >= $3)
       and ($4 is null or e.id < $4)
       and ($5 = 0 or e.late is not null)
     order by e.id desc limit $6"
);

/// Starts from the dead letters, which are few, instead of the log, which is long. Sorted by id, whose
/// first bytes are the receive time: exact storing order does not matter here.
const LIST_DEAD: Statement = select_events_from!(
    "(select distinct d.stream, d.seq from dead_letters d
      join handlers k on k.id = d.handler and k.deleted_at is null) d
     join events e on e.stream = d.stream and e.seq = d.seq
     join streams s on s.id = e.stream join hooks h on h.id = s.hook
     where h.deleted_at is null and ($1 is null or s.hook = $1)
       and ($2 is null or e.stream = $2) and ($3 is null or e.received_at >= $3)
       and ($4 is null or e.id < $4)
     order by e.id desc limit $5"
);

const GET: Statement = select_events_from!(
    "log e join streams s on s.id = e.stream join hooks h on h.id = s.hook
     where e.n = (select n from log_ids where id = $1 union all select n from log
       where n > (select value from counters where name = 'indexed') and id = $1)",
    "events e join streams s on s.id = e.stream join hooks h on h.id = s.hook where e.id = $1"
);

/// Condition on the dedupe key, which uses the index of each stream.
const LIST_DELIVERY: Statement = select_events_from!(
    "streams s join log e on e.stream = s.id and e.dedupe_key = $5 join hooks h on h.id = s.hook
     where h.deleted_at is null and ($1 is null or s.hook = $1)
       and ($2 is null or s.id = $2) and ($3 is null or e.received_at >= $3)
       and ($4 is null or e.id < $4)
     order by e.id desc limit $6",
    "streams s join events e on e.stream = s.id and e.dedupe_key = $5 join hooks h on h.id = s.hook
     where h.deleted_at is null and ($1 is null or s.hook = $1)
       and ($2 is null or s.id = $2) and ($3 is null or e.received_at >= $3)
       and ($4 is null or e.id < $4)
     order by e.id desc limit $6"
);

/// Counts events (0 or 1), stored or held back, that have the dedupe key but another body.
const OTHER_BODY: Statement = Statement {
    sqlite: "select count(*) from (select e.body from streams s
        join log e on e.stream = s.id and e.dedupe_key = $3
        where s.hook = $1 and s.ordering_key = $2 and e.body <> $4
      union all select w.body from waiting w
        where w.hook = $1 and w.ordering_key = $2 and w.dedupe_key = $3 and w.body <> $4) b",
    postgres: "select count(*) from (select e.body from streams s
        join events e on e.stream = s.id and e.dedupe_key = $3
        where s.hook = $1 and s.ordering_key = $2 and e.body <> $4
      union all select w.body from waiting w
        where w.hook = $1 and w.ordering_key = $2 and w.dedupe_key = $3 and w.body <> $4) b",
};

impl Store {
    /// True unless an event of the stream has this dedupe key and another body. The answer is
    /// known only while that event is kept, which is also as long as its dedupe key is honoured.
    pub async fn repeats_body(
        &self,
        hook: HookId,
        key: &OrderingKey,
        dedupe_key: &str,
        body: &[u8],
    ) -> Result<bool, Error> {
        let others: i64 = sqlx::query_scalar(self.sql(OTHER_BODY))
            .bind(hook.0)
            .bind(key.as_str())
            .bind(dedupe_key)
            .bind(body)
            .fetch_one(&self.reader)
            .await?;
        Ok(others == 0)
    }

    /// Stores a batch in one transaction, in its order, and returns the outcome of each event. Once the
    /// future has completed, the new events are on stable storage and readable.
    ///
    /// On SQLite, `batch` is called on the writer thread when its transaction begins, so it may include
    /// events that arrive until then; batches are stored in the order of these calls, whether awaited
    /// or not. On Postgres, `batch` is called at once, and stored while the future is awaited.
    ///
    /// # Errors
    /// No event of the batch is stored, except after a fatal error or a lost connection: then the
    /// outcome is unknown.
    pub fn append(
        &self,
        batch: impl FnOnce() -> Vec<NewEvent> + Send + 'static,
    ) -> impl Future<Output = Result<Vec<Appended>, Error>> + Send + 'static {
        self.backend.append(batch)
    }

    /// Events of a stream after `after`, in order, at most `limit`.
    pub async fn events_after(
        &self,
        stream: StreamId,
        after: Seq,
        limit: i64,
    ) -> Result<Vec<Stored>, Error> {
        let rows: Vec<Row> = sqlx::query_as(self.sql(READ))
            .bind(stream.0)
            .bind(after.0)
            .bind(limit)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(Stored::from).collect())
    }

    /// Events that match the filter, newest first.
    pub async fn events_list(&self, filter: &Filter) -> Result<Vec<Stored>, Error> {
        if filter.dead {
            return self.dead_list(filter).await;
        }
        if let Some(dedupe_key) = &filter.dedupe_key {
            return self.delivery_list(filter, dedupe_key).await;
        }
        let rows: Vec<Row> = sqlx::query_as(self.sql(LIST))
            .bind(filter.hook.map(|hook| hook.0))
            .bind(filter.stream.map(|stream| stream.0))
            .bind(filter.since.map(Timestamp::as_millis))
            .bind(filter.before.map(|id| id.as_bytes().to_vec()))
            .bind(i64::from(filter.late))
            .bind(filter.limit)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(Stored::from).collect())
    }

    async fn delivery_list(&self, filter: &Filter, dedupe_key: &str) -> Result<Vec<Stored>, Error> {
        let before = filter.before.map(|id| id.as_bytes().to_vec());
        let rows: Vec<Row> = sqlx::query_as(self.sql(LIST_DELIVERY))
            .bind(filter.hook.map(|hook| hook.0))
            .bind(filter.stream.map(|stream| stream.0))
            .bind(filter.since.map(Timestamp::as_millis))
            .bind(before)
            .bind(dedupe_key)
            .bind(filter.limit)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(Stored::from).collect())
    }

    async fn dead_list(&self, filter: &Filter) -> Result<Vec<Stored>, Error> {
        let before = filter.before.map(|id| id.as_bytes().to_vec());
        let rows: Vec<Row> = sqlx::query_as(self.sql(LIST_DEAD))
            .bind(filter.hook.map(|hook| hook.0))
            .bind(filter.stream.map(|stream| stream.0))
            .bind(filter.since.map(Timestamp::as_millis))
            .bind(before)
            .bind(filter.limit)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(Stored::from).collect())
    }

    /// The event with this id, if it is stored.
    pub async fn event(&self, id: EventId) -> Result<Option<Stored>, Error> {
        let row: Option<Row> = sqlx::query_as(self.sql(GET))
            .bind(id.as_bytes().to_vec())
            .fetch_optional(&self.reader)
            .await?;
        Ok(row.map(Stored::from))
    }
}
