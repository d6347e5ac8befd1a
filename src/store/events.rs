//! Events: appended in batches, read in the order of their stream, listed for the eye.

use sqlx::FromRow;

use super::backend::ops::{Appended, NewEvent};
use super::backend::rows::EventColumns;
use super::{Error, Statement, Store};
use crate::domain::event::{Event, EventId, StreamId};
use crate::domain::hook::HookId;
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;

/// A stored event with the names of its stream, for people and readers.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The event.
    pub event: Event,
    /// The name of its hook.
    pub hook: String,
    /// The ordering key of its stream.
    pub ordering_key: String,
}

/// Which events a list is about.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those of one hook.
    pub hook: Option<HookId>,
    /// Those of one stream.
    pub stream: Option<StreamId>,
    /// Those received at or after a moment.
    pub since: Option<Timestamp>,
    /// Those older than this one.
    pub before: Option<EventId>,
    /// Those in the dead letters.
    pub dead: bool,
    /// At most so many.
    pub limit: i64,
}

#[derive(FromRow)]
struct Row {
    stream: i64,
    seq: i64,
    id: Vec<u8>,
    received_at: i64,
    key_id: Option<i64>,
    dedupe_key: Option<String>,
    headers: Vec<u8>,
    body: Vec<u8>,
    checksum: Option<i64>,
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
        };
        Self {
            event: columns.event(StreamId(row.stream), Seq(row.seq)),
            hook: row.hook,
            ordering_key: row.ordering_key,
        }
    }
}

/// Reads whole events; what follows names the relation `e` they are in. Headers are read as bytes: damaged ones may be
/// no text.
macro_rules! select_events {
    ($headers:literal, $($rest:tt)*) => {
        concat!(
            "select e.stream, e.seq, e.id, e.received_at, e.key_id, e.dedupe_key, ", $headers, " as headers, e.body,
             e.checksum, h.name as hook, s.ordering_key
             from ", $($rest)*
        )
    };
}

/// The same for both databases.
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

/// The newest first. On SQLite the row number is the order of storing; on Postgres the id stands for it.
const LIST: Statement = select_events_from!(
    "log e join streams s on s.id = e.stream join hooks h on h.id = s.hook
     where h.deleted_at is null and ($1 is null or s.hook = $1)
       and ($2 is null or e.stream = $2) and ($3 is null or e.received_at >= $3)
       and ($4 is null or e.n < coalesce(
         (select n from log_ids where id = $4 union all select n from log
           where n > (select value from counters where name = 'indexed') and id = $4),
         9223372036854775807))
     order by e.n desc limit $5",
    "events e join streams s on s.id = e.stream join hooks h on h.id = s.hook
     where h.deleted_at is null and ($1 is null or s.hook = $1)
       and ($2 is null or e.stream = $2) and ($3 is null or e.received_at >= $3)
       and ($4 is null or e.id < $4)
     order by e.id desc limit $5"
);

/// From the dead letters, which are few, and not through the log, which is long. By id, whose front is the
/// clock: the order of storing is not asked of what is looked at one by one.
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

impl Store {
    /// Stores a batch in one transaction, in its order, and says what became of each. When the future is
    /// done, what is new is on stable storage and readable.
    ///
    /// In a file, `batch` is asked when its transaction begins, on another thread, so that what comes
    /// until then is in it too; batches are stored in the order of these calls, awaited or not. On a
    /// server it is asked at once, and stored while the future is awaited.
    ///
    /// # Errors
    /// Nothing of the batch is stored, unless the error is fatal or the connection was lost: then it is
    /// unknown.
    pub fn append(
        &self,
        batch: impl FnOnce() -> Vec<NewEvent> + Send + 'static,
    ) -> impl Future<Output = Result<Vec<Appended>, Error>> + Send + 'static {
        self.backend.append(batch)
    }

    /// At most `limit` events of a stream after `after`, in order.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn events_after(
        &self,
        stream: StreamId,
        after: Seq,
        limit: i64,
    ) -> Result<Vec<Stored>, Error> {
        let rows: Vec<Row> = sqlx::query_as(self.words(READ))
            .bind(stream.0)
            .bind(after.0)
            .bind(limit)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(Stored::from).collect())
    }

    /// The newest events first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn events_list(&self, filter: &Filter) -> Result<Vec<Stored>, Error> {
        if filter.dead {
            return self.dead_list(filter).await;
        }
        let rows: Vec<Row> = sqlx::query_as(self.words(LIST))
            .bind(filter.hook.map(|hook| hook.0))
            .bind(filter.stream.map(|stream| stream.0))
            .bind(filter.since.map(Timestamp::as_millis))
            .bind(filter.before.map(|id| id.as_bytes().to_vec()))
            .bind(filter.limit)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(Stored::from).collect())
    }

    async fn dead_list(&self, filter: &Filter) -> Result<Vec<Stored>, Error> {
        let before = filter.before.map(|id| id.as_bytes().to_vec());
        let rows: Vec<Row> = sqlx::query_as(self.words(LIST_DEAD))
            .bind(filter.hook.map(|hook| hook.0))
            .bind(filter.stream.map(|stream| stream.0))
            .bind(filter.since.map(Timestamp::as_millis))
            .bind(before)
            .bind(filter.limit)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(Stored::from).collect())
    }

    /// The event with this id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn event(&self, id: EventId) -> Result<Option<Stored>, Error> {
        let row: Option<Row> = sqlx::query_as(self.words(GET))
            .bind(id.as_bytes().to_vec())
            .fetch_optional(&self.reader)
            .await?;
        Ok(row.map(Stored::from))
    }
}
