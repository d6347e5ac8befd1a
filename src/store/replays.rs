//! Replays: temporary handlers that deliver stored events of a stream again. Their cursors are normal
//! ones; only this file and the configuration know that the handlers are temporary.

use sqlx::FromRow;

use super::backend::session::Tx;
use super::cursors::CursorBacklog;
use super::{Error, Store};
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::hook::{HandlerId, HookId, Replay};
use crate::domain::lane::Slot;
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;

/// Plan of a replay.
#[derive(Clone, Copy, Debug)]
pub struct NewReplay {
    /// The hook.
    pub hook: HookId,
    /// The replay and its handler.
    pub replay: Replay,
    /// First event.
    pub from: Seq,
}

#[derive(FromRow)]
struct Row {
    id: i64,
    replay_of: i64,
    replay_stream: i64,
    replay_to: i64,
}

const LIST: &str = "select id, replay_of, replay_stream, replay_to from handlers
    where replay_to is not null order by id";

const ADD: &str = "insert into handlers
    (hook, name, kind, reduce, on_error, created_at, deleted_at, replay_of, replay_stream, replay_to)
    select hook, name, kind, '', 'hold', $2, $2, id, $3, $4 from handlers
    where id = $1 and deleted_at is null returning id";

const BEGIN: &str = "insert into cursors (stream, handler, position, base, chain, updated_at)
    values ($1, $2, $3, $3, $4, $5)";

const CURSORS: &str = "select c.stream, c.handler, s.slot, c.position, h.replay_to, c.condition
    from handlers h
    join cursors c on c.handler = h.id and c.stream = h.replay_stream
    join streams s on s.id = c.stream
    where h.replay_to is not null order by h.id";

const RUNNING: &str =
    "select h.hook, h.name, s.ordering_key, c.base, c.position, h.replay_to, h.created_at
    from handlers h
    join cursors c on c.handler = h.id and c.stream = h.replay_stream
    join streams s on s.id = c.stream
    where h.replay_to is not null order by h.id";

/// A replay under way.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct RunningReplay {
    /// Number of the hook.
    pub hook: i64,
    /// Name of the handler.
    pub name: String,
    /// Ordering key of the stream.
    pub ordering_key: String,
    /// Seq before the first event.
    pub base: i64,
    /// Seq of the last event that is done.
    pub position: i64,
    /// Seq of the last event.
    pub replay_to: i64,
    /// Time at which it began, in milliseconds since 1970.
    pub created_at: i64,
}

/// Marks a dead letter that was delivered after all.
const TELL: &str = "update dead_letters set reason = reason || $4
    where handler = $1 and stream = $2 and seq <= $3
      and seq > (select base from cursors where stream = $2 and handler = $5)";

/// Replays among the handlers, with their numbers.
pub(super) async fn list(tx: &mut Tx) -> Result<Vec<(HandlerId, Replay)>, Error> {
    let rows: Vec<Row> = sqlx::query_as(LIST).fetch_all(&mut *tx).await?;
    Ok(rows.into_iter().map(Row::replay).collect())
}

impl Row {
    fn replay(self) -> (HandlerId, Replay) {
        let replay = Replay {
            of: HandlerId(self.replay_of),
            stream: StreamId(self.replay_stream),
            to: Seq(self.replay_to),
        };
        (HandlerId(self.id), replay)
    }
}

/// Removes the replays of a handler.
pub(super) async fn remove_of(tx: &mut Tx, handler: HandlerId) -> Result<(), Error> {
    const OF: &str = "select id from handlers where replay_of = $1";
    let ids: Vec<i64> = sqlx::query_scalar(OF)
        .bind(handler.0)
        .fetch_all(&mut *tx)
        .await?;
    for id in ids {
        remove(tx, HandlerId(id)).await?;
    }
    Ok(())
}

/// Removes a replay; `false` if there is none.
pub(super) async fn remove(tx: &mut Tx, id: HandlerId) -> Result<bool, Error> {
    const PARTS: [&str; 2] = [
        "delete from cursors where handler = $1",
        "delete from deliveries where handler = $1",
    ];
    const REMOVE: &str = "delete from handlers where id = $1 and replay_to is not null";
    let removed = sqlx::query(REMOVE).bind(id.0).execute(&mut *tx).await?;
    if removed.rows_affected() == 0 {
        return Ok(false);
    }
    for part in PARTS {
        sqlx::query(part).bind(id.0).execute(&mut *tx).await?;
    }
    Ok(true)
}

impl Store {
    /// Begins a replay; `None` if its handler was removed.
    pub async fn add_replay(
        &self,
        new: NewReplay,
        at: Timestamp,
    ) -> Result<Option<HandlerId>, Error> {
        let replay = new.replay;
        let mut writing = self.begin().await?;
        // Retention reads the row of the hook first, so it removes none of these events meanwhile.
        sqlx::query("update hooks set name = name where id = $1")
            .bind(new.hook.0)
            .execute(&mut writing.tx)
            .await?;
        let id: Option<i64> = sqlx::query_scalar(ADD)
            .bind(replay.of.0)
            .bind(at.as_millis())
            .bind(replay.stream.0)
            .bind(replay.to.0)
            .fetch_optional(&mut writing.tx)
            .await?;
        let Some(id) = id else {
            return Ok(None);
        };
        sqlx::query(BEGIN)
            .bind(replay.stream.0)
            .bind(id)
            .bind(new.from.0 - 1)
            .bind(Vec::<u8>::new())
            .bind(at.as_millis())
            .execute(&mut writing.tx)
            .await?;
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(Some(HandlerId(id)))
    }

    /// Removes a replay, finished or not; `false` if there is none.
    pub async fn remove_replay(&self, id: HandlerId) -> Result<bool, Error> {
        let mut writing = self.begin().await?;
        if !remove(&mut writing.tx, id).await? {
            return Ok(false);
        }
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(true)
    }

    /// Ends a replay that has delivered its last event; `false` if it was ended before.
    pub async fn end_replay(
        &self,
        id: HandlerId,
        replay: Replay,
        at: Timestamp,
    ) -> Result<bool, Error> {
        let mut writing = self.begin().await?;
        sqlx::query(TELL)
            .bind(replay.of.0)
            .bind(replay.stream.0)
            .bind(replay.to.0)
            .bind(format!("; replayed {at}"))
            .bind(id.0)
            .execute(&mut writing.tx)
            .await?;
        if !remove(&mut writing.tx, id).await? {
            return Ok(false);
        }
        writing.operation_progressed().await?;
        writing.commit().await?;
        Ok(true)
    }

    /// The replays under way, oldest first.
    pub async fn running_replays(&self) -> Result<Vec<RunningReplay>, Error> {
        Ok(sqlx::query_as(RUNNING).fetch_all(&self.reader).await?)
    }

    /// Progress of all replays; finished ones have no remaining events.
    pub async fn replays_behind(&self) -> Result<Vec<CursorBacklog>, Error> {
        type CursorRow = (i64, i64, i64, i64, i64, String);
        let rows: Vec<CursorRow> = sqlx::query_as(CURSORS).fetch_all(&self.reader).await?;
        let behind = |(stream, handler, slot, position, to, condition): CursorRow| CursorBacklog {
            cursor: CursorId {
                stream: StreamId(stream),
                handler: HandlerId(handler),
            },
            slot: Slot(u16::try_from(slot).unwrap_or_default()),
            events: Position(position).behind(Seq(to)),
            flows: condition == "flowing",
            received: None,
        };
        Ok(rows.into_iter().map(behind).collect())
    }
}
