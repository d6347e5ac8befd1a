//! Streams and their cursors, found and listed.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, FromRow};

use super::backend::rows::condition_of;
use super::{Error, Store};
use crate::domain::cursor::{Condition, CursorId};
use crate::domain::event::StreamId;
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::lane::Slot;
use crate::domain::name::{Name, OrderingKey};
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;

/// A stream as it stands.
#[derive(Clone, Debug)]
pub struct StreamRow {
    /// Its number.
    pub id: StreamId,
    /// Its hook.
    pub hook: HookId,
    /// What its events share.
    pub key: OrderingKey,
    /// Where its lane is found.
    pub slot: Slot,
    /// Its last seq.
    pub head: Seq,
    /// The last seq that retention has removed; 0 while it has every event.
    pub floor: Seq,
    /// When its first event came.
    pub created_at: Timestamp,
}

/// One cursor with the names around it, for lists.
#[derive(Clone, Debug)]
pub struct CursorRow {
    /// Which cursor.
    pub id: CursorId,
    /// The hook's number.
    pub hook: HookId,
    /// The stream's ordering key.
    pub key: OrderingKey,
    /// The stream's slot.
    pub slot: Slot,
    /// The stream's last seq.
    pub head: Seq,
    /// How far the handler has come.
    pub position: Position,
    /// Whether it may move.
    pub condition: Condition,
    /// When the next event it needs was received; none when it is at its head.
    pub oldest: Option<Timestamp>,
    /// Events of its in the dead letters.
    pub dead: i64,
}

/// Which cursors a list is about.
#[derive(Clone, Debug, Default)]
pub struct CursorsFilter {
    /// Those of one hook.
    pub hook: Option<HookId>,
    /// Those of one stream.
    pub stream: Option<StreamId>,
    /// Those in one condition, by its word.
    pub condition: Option<&'static str>,
    /// Those of streams after this one.
    pub after: Option<StreamId>,
    /// At most so many.
    pub limit: i64,
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
}

const FIND: &str = "select id as stream, hook, ordering_key, slot, head, floor, created_at
    from streams where hook = $1 and ordering_key = $2";

#[derive(FromRow)]
struct Found {
    stream: i64,
    hook: i64,
    ordering_key: String,
    slot: i64,
    handler: Option<i64>,
    position: Option<i64>,
    condition: Option<String>,
    retry_at: Option<i64>,
    tries: Option<i64>,
    reason: Option<String>,
}

impl Found {
    fn cursor(self) -> Option<CursorState> {
        Some(CursorState {
            handler: HandlerId(self.handler?),
            position: Position(self.position?),
            condition: condition_of(
                &self.condition?,
                self.retry_at,
                u32::try_from(self.tries.unwrap_or(0)).unwrap_or(0),
                self.reason.unwrap_or_default(),
            ),
        })
    }
}

#[derive(FromRow)]
struct Listed {
    stream: i64,
    handler: i64,
    hook: i64,
    ordering_key: String,
    slot: i64,
    head: i64,
    position: i64,
    condition: String,
    retry_at: Option<i64>,
    tries: i64,
    reason: Option<String>,
    oldest: Option<i64>,
    dead: i64,
}

impl Store {
    /// Ordering keys of a hook that begin with `start`, in order, as far as the order of the database is that
    /// of bytes.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ordering_keys(
        &self,
        hook: HookId,
        start: &str,
        limit: i64,
    ) -> Result<Vec<String>, Error> {
        const READ: &str = "select ordering_key from streams
            where hook = $1 and ordering_key >= $2 order by ordering_key limit $3";
        let keys: Vec<String> = sqlx::query_scalar(READ)
            .bind(hook.0)
            .bind(start)
            .bind(limit)
            .fetch_all(&self.reader)
            .await?;
        Ok(keys
            .into_iter()
            .filter(|key| key.starts_with(start))
            .collect())
    }
}

/// By stream, so that it can be paged through.
const LIST: &str = "select s.id as stream, h.id as handler, s.hook, s.ordering_key, s.slot, s.head,
    coalesce(c.position, 0) as position, coalesce(c.condition, 'flowing') as condition,
    c.retry_at, coalesce(c.tries, 0) as tries, c.reason,
    case when s.head > coalesce(c.position, 0) then (select e.received_at from events e
      where e.stream = s.id and e.seq = coalesce(c.position, 0) + 1) end as oldest,
    (select count(*) from dead_letters d where d.handler = h.id and d.stream = s.id) as dead
    from streams s
    join hooks k on k.id = s.hook and k.deleted_at is null
    join handlers h on h.hook = s.hook and h.deleted_at is null
    left join cursors c on c.stream = s.id and c.handler = h.id
    where ($1 is null or s.hook = $1) and ($2 is null or s.id = $2)
      and ($3 is null or coalesce(c.condition, 'flowing') = $3) and s.id > $4
    order by s.id, h.id limit $5";

/// The oldest first; what waits for nothing comes last.
const LIST_OLDEST: &str = "select * from (select s.id as stream, h.id as handler, s.hook,
    s.ordering_key, s.slot, s.head,
    coalesce(c.position, 0) as position, coalesce(c.condition, 'flowing') as condition,
    c.retry_at, coalesce(c.tries, 0) as tries, c.reason,
    (select e.received_at from events e
      where e.stream = s.id and e.seq = coalesce(c.position, 0) + 1) as oldest,
    (select count(*) from dead_letters d where d.handler = h.id and d.stream = s.id) as dead
    from streams s
    join hooks k on k.id = s.hook and k.deleted_at is null
    join handlers h on h.hook = s.hook and h.deleted_at is null
    left join cursors c on c.stream = s.id and c.handler = h.id
    where ($1 is null or s.hook = $1) and ($3 is null or coalesce(c.condition, 'flowing') = $3)
      and s.head > coalesce(c.position, 0)) behind
    order by oldest, stream limit $5";

/// Streams with their cursors, by numbers that are not from outside.
const WITH_CURSORS: &str =
    "select s.id as stream, s.hook, s.ordering_key, s.slot, c.handler, c.position,
    c.condition, c.retry_at, c.tries, c.reason
    from streams s left join cursors c on c.stream = s.id where s.id in ";

const HOOKS: &str = "select k.id, (select count(*) from streams s where s.hook = k.id)
    from hooks k where k.namespace = $1 and k.deleted_at is null";

const DEAD: &str = "select count(*) from dead_letters d
    join handlers r on r.id = d.handler and r.deleted_at is null
    join hooks k on k.id = r.hook and k.deleted_at is null where k.namespace = $1";

/// How much a namespace has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceCounts {
    /// Its hooks, each with the number of its streams.
    pub hooks: HashMap<HookId, u64>,
    /// Dead letters of their handlers.
    pub dead: u64,
}

impl NamespaceCounts {
    /// Streams of all of its hooks.
    pub fn streams(&self) -> u64 {
        self.hooks.values().sum()
    }
}

/// A stream, and where its handlers are.
pub struct StreamCursors {
    /// Which.
    pub stream: StreamId,
    /// Its hook.
    pub hook: HookId,
    /// Its ordering key.
    pub key: OrderingKey,
    /// Where its lane is found.
    pub slot: Slot,
    cursors: Vec<CursorState>,
}

/// Where a handler is in a stream.
pub struct CursorState {
    handler: HandlerId,
    /// Its position.
    pub position: Position,
    /// Whether it may move.
    pub condition: Condition,
}

impl CursorState {
    /// When it is tried again, if it is.
    pub fn retry_at(&self) -> Option<Timestamp> {
        match self.condition {
            Condition::Waiting { retry_at, .. } => Some(retry_at),
            _ => None,
        }
    }
}

impl StreamCursors {
    /// Where a handler is; none before its first turn.
    pub fn of(&self, handler: HandlerId) -> Option<&CursorState> {
        self.cursors.iter().find(|cursor| cursor.handler == handler)
    }
}

const OF_HOOK: &str = "select id as stream, hook, ordering_key, slot, head, floor, created_at
    from streams where hook = $1 and id > $2 order by id limit $3";

impl Store {
    /// The stream of a hook with this ordering key.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn stream(
        &self,
        hook: HookId,
        key: &OrderingKey,
    ) -> Result<Option<StreamRow>, Error> {
        let Some(mut found) = self.find_stream(hook, key).await? else {
            return Ok(None);
        };
        match self.backend.head_ahead(found.id) {
            Some(head) => found.head = found.head.max(head),
            None if !self.backend.is_behind_log() => {}
            // Its row has it, perhaps only since just now.
            None => return self.find_stream(hook, key).await,
        }
        Ok(Some(found))
    }

    async fn find_stream(
        &self,
        hook: HookId,
        key: &OrderingKey,
    ) -> Result<Option<StreamRow>, Error> {
        let row: Option<Row> = sqlx::query_as(FIND)
            .bind(hook.0)
            .bind(key.as_str())
            .fetch_optional(&self.reader)
            .await?;
        Ok(row.map(StreamRow::from))
    }

    /// Streams and where their handlers are, in one query. A head is not among it: it may be in memory.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn cursors_of(&self, streams: &[StreamId]) -> Result<Vec<StreamCursors>, Error> {
        if streams.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = streams.iter().map(|stream| stream.0.to_string()).collect();
        let text = format!("{WITH_CURSORS} ({})", ids.join(","));
        let rows = sqlx::query_as::<_, Found>(AssertSqlSafe(text))
            .persistent(false)
            .fetch_all(&self.reader)
            .await?;
        let mut found: HashMap<i64, StreamCursors> = HashMap::new();
        for row in rows {
            let stream = found.entry(row.stream).or_insert_with(|| StreamCursors {
                stream: StreamId(row.stream),
                hook: HookId(row.hook),
                key: OrderingKey::stored(row.ordering_key.clone()),
                slot: Slot(u16::try_from(row.slot).unwrap_or_default()),
                cursors: Vec::new(),
            });
            stream.cursors.extend(row.cursor());
        }
        Ok(found.into_values().collect())
    }

    /// Hooks of a namespace, their streams, and what is in their dead letters.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn namespace_counts(&self, namespace: &Name) -> Result<NamespaceCounts, Error> {
        let hooks: Vec<(i64, i64)> = sqlx::query_as(HOOKS)
            .bind(namespace.as_str())
            .fetch_all(&self.reader)
            .await?;
        let dead: i64 = sqlx::query_scalar(DEAD)
            .bind(namespace.as_str())
            .fetch_one(&self.reader)
            .await?;
        let number = |count: i64| u64::try_from(count).unwrap_or(0);
        let hooks = hooks.into_iter();
        Ok(NamespaceCounts {
            hooks: hooks.map(|(hook, n)| (HookId(hook), number(n))).collect(),
            dead: number(dead),
        })
    }

    /// The streams of a hook after `after`, in the order of their making.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn streams(
        &self,
        hook: HookId,
        after: StreamId,
        limit: i64,
    ) -> Result<Vec<StreamRow>, Error> {
        self.backend.index().await?;
        let rows: Vec<Row> = sqlx::query_as(OF_HOOK)
            .bind(hook.0)
            .bind(after.0)
            .bind(limit)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(StreamRow::from).collect())
    }

    /// Cursors by stream.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn cursors(&self, filter: &CursorsFilter) -> Result<Vec<CursorRow>, Error> {
        self.list_cursors(LIST, filter).await
    }

    /// Cursors that are behind their heads, those that wait longest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn cursors_behind(&self, filter: &CursorsFilter) -> Result<Vec<CursorRow>, Error> {
        self.list_cursors(LIST_OLDEST, filter).await
    }

    async fn list_cursors(
        &self,
        list: &'static str,
        filter: &CursorsFilter,
    ) -> Result<Vec<CursorRow>, Error> {
        // Heads are moved, and the oldest event of each is found, by the index.
        self.backend.index().await?;
        let rows: Vec<Listed> = sqlx::query_as(list)
            .bind(filter.hook.map(|hook| hook.0))
            .bind(filter.stream.map(|stream| stream.0))
            .bind(filter.condition)
            .bind(filter.after.map_or(0, |after| after.0))
            .bind(filter.limit)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(CursorRow::from).collect())
    }
}

pub(super) fn slot(stored: i64) -> Slot {
    Slot(u16::try_from(stored).unwrap_or_default())
}

impl From<Row> for StreamRow {
    fn from(row: Row) -> Self {
        Self {
            id: StreamId(row.stream),
            hook: HookId(row.hook),
            key: OrderingKey::stored(row.ordering_key),
            slot: slot(row.slot),
            head: Seq(row.head),
            floor: Seq(row.floor),
            created_at: Timestamp::from_millis(row.created_at),
        }
    }
}

impl From<Listed> for CursorRow {
    fn from(row: Listed) -> Self {
        Self {
            id: CursorId {
                stream: StreamId(row.stream),
                handler: HandlerId(row.handler),
            },
            hook: HookId(row.hook),
            key: OrderingKey::stored(row.ordering_key),
            slot: slot(row.slot),
            head: Seq(row.head),
            position: Position(row.position),
            condition: condition_of(
                &row.condition,
                row.retry_at,
                u32::try_from(row.tries).unwrap_or(0),
                row.reason.unwrap_or_default(),
            ),
            oldest: row.oldest.map(Timestamp::from_millis),
            dead: row.dead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_page_of_a_hooks_streams_is_read_in_the_order_of_an_index() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hooklane.db");
        let store = Store::open(&file, Box::new(|_| ())).await.unwrap();
        let explain = sqlx::AssertSqlSafe(format!("explain query plan {OF_HOOK}"));
        let steps: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain)
            .bind(1)
            .bind(0)
            .bind(256)
            .fetch_all(&store.reader)
            .await
            .unwrap();
        let steps: Vec<_> = steps.into_iter().map(|step| step.3).collect();
        let steps = steps.join("; ");
        assert!(steps.contains("streams_by_hook"), "{steps}");
        assert!(!steps.contains("TEMP B-TREE"), "{steps}");
    }
}
