//! Streams and their cursors: found by name, and listed.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, FromRow};

use super::backend::rows::ConditionColumns;
use super::behind::{every_cursor, is_behind};
use super::{Error, Store};
use crate::domain::cursor::{Condition, CursorId};
use crate::domain::event::StreamId;
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::lane::Slot;
use crate::domain::name::{Name, OrderingKey};
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;

/// A stream.
#[derive(Clone, Debug)]
pub struct StreamRow {
    /// Number of the stream.
    pub id: StreamId,
    /// Its hook.
    pub hook: HookId,
    /// Ordering key that its events share.
    pub key: OrderingKey,
    /// Slot, which determines its lane.
    pub slot: Slot,
    /// Seq of its last event.
    pub head: Seq,
    /// Seq of the last event that retention has removed; 0 while it has every event.
    pub floor: Seq,
    /// Receive time of its first event.
    pub created_at: Timestamp,
}

/// A cursor with the names and numbers around it, for lists.
#[derive(Clone, Debug)]
pub struct CursorRow {
    /// The cursor.
    pub id: CursorId,
    /// Its hook.
    pub hook: HookId,
    /// Ordering key of its stream.
    pub key: OrderingKey,
    /// Slot of its stream.
    pub slot: Slot,
    /// Seq of the last event of its stream.
    pub head: Seq,
    /// Position of the cursor.
    pub position: Position,
    /// Condition of the cursor.
    pub condition: Condition,
    /// Receive time of the next event that it needs; `None` when it is at the head.
    pub oldest: Option<Timestamp>,
    /// Number of events that it has in the dead letters.
    pub dead: i64,
}

/// Selects cursors for a list.
#[derive(Clone, Debug, Default)]
pub struct CursorsFilter {
    /// Only cursors of this hook.
    pub hook: Option<HookId>,
    /// Only cursors of this stream.
    pub stream: Option<StreamId>,
    /// Only cursors in this condition, as its row spells it.
    pub condition: Option<&'static str>,
    /// Only cursors of streams after this one, for paging.
    pub after: Option<StreamId>,
    /// Number of cursors at most.
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
    held_by: Option<String>,
}

impl Found {
    fn cursor(self) -> Option<CursorState> {
        let condition = ConditionColumns {
            word: &self.condition?,
            retry_at: self.retry_at,
            tries: self.tries?,
            reason: self.reason,
            held_by: self.held_by.as_deref(),
        };
        Some(CursorState {
            handler: HandlerId(self.handler?),
            position: Position(self.position?),
            condition: condition.condition(),
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
    held_by: Option<String>,
    oldest: Option<i64>,
    dead: i64,
}

impl Store {
    /// Ordering keys of a hook that begin with `start`, in order, at most `limit`. Keys are found only
    /// as far as the database sorts by bytes.
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

/// Sorted by stream, so that the list can be paged.
const LIST: &str = concat!(
    "select s.id as stream, h.id as handler, s.hook, s.ordering_key, s.slot, s.head,
    coalesce(c.position, 0) as position, coalesce(c.condition, 'flowing') as condition,
    c.retry_at, coalesce(c.tries, 0) as tries, c.reason, c.held_by,
    case when ",
    is_behind!(),
    " then (select e.received_at from events e
      where e.stream = s.id and e.seq = coalesce(c.position, 0) + 1) end as oldest,
    (select count(*) from dead_letters d where d.handler = h.id and d.stream = s.id) as dead
    from ",
    every_cursor!(),
    "
    where ($1 is null or s.hook = $1) and ($2 is null or s.id = $2)
      and ($3 is null or coalesce(c.condition, 'flowing') = $3) and s.id > $4
    order by s.id, h.id limit $5"
);

/// Sorted by the receive time of the next event, oldest first; cursors without one come last.
const LIST_OLDEST: &str = concat!(
    "select * from (select s.id as stream, h.id as handler, s.hook,
    s.ordering_key, s.slot, s.head,
    coalesce(c.position, 0) as position, coalesce(c.condition, 'flowing') as condition,
    c.retry_at, coalesce(c.tries, 0) as tries, c.reason, c.held_by,
    (select e.received_at from events e
      where e.stream = s.id and e.seq = coalesce(c.position, 0) + 1) as oldest,
    (select count(*) from dead_letters d where d.handler = h.id and d.stream = s.id) as dead
    from ",
    every_cursor!(),
    "
    where ($1 is null or s.hook = $1) and ($3 is null or coalesce(c.condition, 'flowing') = $3)
      and ",
    is_behind!(),
    ") behind
    order by oldest, stream limit $5"
);

/// Streams with their cursors. The ids are formatted into the statement; they never come from outside.
const WITH_CURSORS: &str =
    "select s.id as stream, s.hook, s.ordering_key, s.slot, c.handler, c.position,
    c.condition, c.retry_at, c.tries, c.reason, c.held_by
    from streams s left join cursors c on c.stream = s.id where s.id in ";

const HOOKS: &str = "select k.id, (select count(*) from streams s where s.hook = k.id)
    from hooks k where k.namespace = $1 and k.deleted_at is null";

const DEAD: &str = "select count(*) from dead_letters d
    join handlers r on r.id = d.handler and r.deleted_at is null
    join hooks k on k.id = r.hook and k.deleted_at is null where k.namespace = $1";

/// Sizes of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceCounts {
    /// Number of streams of each of its hooks.
    pub hooks: HashMap<HookId, u64>,
    /// Number of dead letters of its handlers.
    pub dead: u64,
}

impl NamespaceCounts {
    /// Number of streams of all its hooks.
    pub fn streams(&self) -> u64 {
        self.hooks.values().sum()
    }
}

/// A stream with the cursors of its handlers.
pub struct StreamCursors {
    /// The stream.
    pub stream: StreamId,
    /// Its hook.
    pub hook: HookId,
    /// Its ordering key.
    pub key: OrderingKey,
    /// Slot, which determines its lane.
    pub slot: Slot,
    cursors: Vec<CursorState>,
}

/// Position and condition of one handler in a stream.
pub struct CursorState {
    handler: HandlerId,
    /// Position of the cursor.
    pub position: Position,
    /// Condition of the cursor.
    pub condition: Condition,
}

impl CursorState {
    /// Time of the next try; `None` unless the cursor waits.
    pub fn retry_at(&self) -> Option<Timestamp> {
        match self.condition {
            Condition::Waiting { retry_at, .. } => Some(retry_at),
            _ => None,
        }
    }
}

impl StreamCursors {
    /// Cursor of a handler; `None` before its first turn.
    pub fn of(&self, handler: HandlerId) -> Option<&CursorState> {
        self.cursors.iter().find(|cursor| cursor.handler == handler)
    }
}

/// `id > 0` is what the index of pages demands on Postgres (migration 0096).
const OF_HOOK: &str = "select id as stream, hook, ordering_key, slot, head, floor, created_at
    from streams where hook = $1 and id > $2 and id > 0 order by id limit $3";

impl Store {
    /// The stream of a hook with this ordering key.
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
            // The log index has caught up since the first read, so the row has the head now.
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

    /// Streams with their cursors, in one query. Heads are not included, because they may be in memory
    /// only.
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

    /// Hooks of a namespace with their number of streams, and its dead letters.
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

    /// Streams of a hook after `after`, in the order of their creation, at most `limit`.
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

    /// Cursors that match the filter, by stream.
    pub async fn cursors(&self, filter: &CursorsFilter) -> Result<Vec<CursorRow>, Error> {
        self.list_cursors(LIST, filter).await
    }

    /// Cursors that are behind their head, longest waiting first.
    pub async fn cursors_behind(&self, filter: &CursorsFilter) -> Result<Vec<CursorRow>, Error> {
        self.list_cursors(LIST_OLDEST, filter).await
    }

    async fn list_cursors(
        &self,
        list: &'static str,
        filter: &CursorsFilter,
    ) -> Result<Vec<CursorRow>, Error> {
        // The list reads heads and oldest events through the log index.
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
        let condition = ConditionColumns {
            word: &row.condition,
            retry_at: row.retry_at,
            tries: row.tries,
            reason: row.reason,
            held_by: row.held_by.as_deref(),
        };
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
            condition: condition.condition(),
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
