//! Backlogs of a namespace by slot and by stream, and the extent of a resize.

use std::collections::HashMap;

use super::backend::Statement;
use super::behind::{every_cursor, is_behind, position};
use super::{Error, Store};
use crate::domain::event::StreamId;
use crate::domain::lane::{LaneSet, SLOTS, Slot};
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::time::Timestamp;

/// Backlog of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotBacklog {
    /// The slot.
    pub slot: u16,
    /// Number of events that wait.
    pub events: u64,
    /// Time at which the oldest event of a flowing cursor was received.
    pub oldest: Option<Timestamp>,
}

/// The stream with the largest backlog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LargestBacklog {
    /// Name of the stream.
    pub stream: StreamName,
    /// Its slot.
    pub slot: Slot,
    /// Number of events that wait for the handler that is furthest behind.
    pub events: u64,
}

/// Number of streams and cursors that a resize affects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResizeExtent {
    /// Number of streams of the namespace.
    pub streams: i64,
    /// Number of streams whose lane index changes.
    pub moves: i64,
    /// Number of cursors that are waiting or held.
    pub set_aside: i64,
}

/// Selects the backlog of each slot, and the receive time of its oldest flowing event. On SQLite the log
/// index, which has every event then, is much faster than the view of all events.
macro_rules! waiting {
    ($received:literal) => {
        concat!(
            "select s.slot, cast(sum(s.head - ",
            position!(),
            ") as bigint), min(case when coalesce(c.condition, 'flowing') = 'flowing' then (",
            $received,
            " = ",
            position!(),
            " + 1) end) from ",
            every_cursor!(),
            " where k.namespace = $1 and ",
            is_behind!(),
            " group by s.slot"
        )
    };
}

const WAITING: Statement = Statement {
    sqlite: waiting!(
        "select l.received_at from log_index i join log l on l.n = i.n
        where i.stream = s.id and i.seq"
    ),
    postgres: waiting!("select e.received_at from events e where e.stream = s.id and e.seq"),
};

impl Store {
    /// Backlog of a namespace by slot. Slots without one are left out.
    pub async fn waiting(&self, namespace: &Name) -> Result<Vec<SlotBacklog>, Error> {
        self.backend.index().await?;
        let rows: Vec<(i64, i64, Option<i64>)> = sqlx::query_as(self.sql(WAITING))
            .bind(namespace.as_str())
            .fetch_all(&self.reader)
            .await?;
        let waiting = |(slot, events, oldest): (i64, i64, Option<i64>)| SlotBacklog {
            slot: u16::try_from(slot).unwrap_or_default(),
            events: u64::try_from(events).unwrap_or(0),
            oldest: oldest.map(Timestamp::from_millis),
        };
        Ok(rows.into_iter().map(waiting).collect())
    }

    /// The stream of a namespace with the largest backlog; `None` when nothing waits.
    pub async fn largest_backlog(&self, namespace: &Name) -> Result<Option<LargestBacklog>, Error> {
        const FULLEST: &str = concat!(
            "select k.name, s.ordering_key, s.slot, s.head - ",
            position!(),
            " as events from ",
            every_cursor!(),
            " where k.namespace = $1 and ",
            is_behind!(),
            " order by events desc, s.id limit 1"
        );
        self.backend.index().await?;
        let row: Option<(String, String, i64, i64)> = sqlx::query_as(FULLEST)
            .bind(namespace.as_str())
            .fetch_optional(&self.reader)
            .await?;
        let Some((hook, key, slot, events)) = row else {
            return Ok(None);
        };
        let hook = hook.parse();
        Ok(Some(LargestBacklog {
            stream: StreamName {
                hook: hook.map_err(|_| Error::Integrity("a hook has no name".to_owned()))?,
                key: OrderingKey::stored(key),
            },
            slot: Slot(u16::try_from(slot).unwrap_or_default()),
            events: u64::try_from(events).unwrap_or(0),
        }))
    }

    /// Number of streams and cursors that a resize to `to` lanes affects.
    pub async fn resize_extent(&self, from: &LaneSet, to: u16) -> Result<ResizeExtent, Error> {
        const SIZE: &str = "select count(*), cast(coalesce(sum(case when
              s.slot * $2 / $4 <> s.slot * $3 / $4 then 1 else 0 end), 0) as bigint)
            from streams s join hooks k on k.id = s.hook
            where k.deleted_at is null and k.namespace = $1";
        const ASIDE: &str = "select count(*) from cursors c
            join handlers h on h.id = c.handler and h.deleted_at is null
            join hooks k on k.id = h.hook
            where c.condition <> 'flowing' and k.deleted_at is null and k.namespace = $1";
        let namespace = from.namespace.as_str();
        let (streams, moves) = sqlx::query_as(SIZE)
            .bind(namespace)
            .bind(i64::from(from.lanes))
            .bind(i64::from(to))
            .bind(i64::from(SLOTS))
            .fetch_one(&self.reader)
            .await?;
        let set_aside = sqlx::query_scalar(ASIDE)
            .bind(namespace)
            .fetch_one(&self.reader)
            .await?;
        Ok(ResizeExtent {
            streams,
            moves,
            set_aside,
        })
    }

    /// Slots of streams. Streams that no longer exist are left out.
    pub async fn slots(&self, streams: &[StreamId]) -> Result<HashMap<StreamId, Slot>, Error> {
        const AT_A_TIME: usize = 1_000;
        let mut found = HashMap::with_capacity(streams.len());
        for streams in streams.chunks(AT_A_TIME) {
            let mut query =
                sqlx::QueryBuilder::<sqlx::Any>::new("select id, slot from streams where id in (");
            let mut numbers = query.separated(", ");
            for stream in streams {
                // Formatted into the text as a number: there may be more streams than a statement has
                // parameters.
                numbers.push(stream.0);
            }
            query.push(")");
            let rows: Vec<(i64, i64)> = query.build_query_as().fetch_all(&self.reader).await?;
            let slot = |(id, slot)| (StreamId(id), Slot(u16::try_from(slot).unwrap_or_default()));
            found.extend(rows.into_iter().map(slot));
        }
        Ok(found)
    }
}
