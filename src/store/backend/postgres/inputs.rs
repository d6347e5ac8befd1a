//! Reads for turns: cursors with the events after them, in one statement and so in one snapshot.

use std::sync::Arc;

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::rows::event_at;
use super::{Postgres, settle};
use crate::domain::cursor::{Chain, Cursor, CursorId, Era};
use crate::domain::event::{Event, StreamId};
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::name::OrderingKey;
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;
use crate::store::Error;
use crate::store::backend::ops::{Input, InputRequest, Range};
use crate::store::backend::rows::ConditionColumns;

/// One row for each event, with the cursor's columns in the first one; one row without an event where
/// there is none. Joined outward from the requests, so that the planner has no other order to choose.
const INPUTS: &str = "select w.ord, s.head, c.position, c.era, c.condition, c.retry_at, c.tries,
      case when coalesce(e.nth, 1) = 1 then c.reason end, case when coalesce(e.nth, 1) = 1 then c.state end,
      case when coalesce(e.nth, 1) = 1 then c.chain end, c.updated_at, c.held_by,
      e.seq, e.id, e.received_at, e.key_id, e.dedupe_key, e.headers, e.body, e.checksum, e.late
    from unnest($1, $2, $3) with ordinality as w (stream, handler, events_max, ord)
    left join streams s on s.id = w.stream
    left join cursors c on c.stream = w.stream and c.handler = w.handler
    left join lateral (
      select e.seq, e.id, e.received_at, e.key_id, e.dedupe_key, e.headers, e.body, e.checksum, e.late,
        row_number() over (order by e.seq) as nth
      from events e where e.stream = s.id and e.seq > coalesce(c.position, 0)
      order by e.seq limit w.events_max) e on true";

/// Number of the first event column.
const EVENT: usize = 12;

const CURSOR: &str =
    "select 1::bigint, s.head, c.position, c.era, c.condition, c.retry_at, c.tries,
      c.reason, c.state, c.chain, c.updated_at, c.held_by
    from streams s left join cursors c on c.stream = s.id and c.handler = $2 where s.id = $1";

const STATE: &str = "select s.id, s.head, c.position, c.era, c.condition, c.retry_at, c.tries,
      c.reason, c.state, c.chain, c.updated_at, c.held_by
    from streams s left join cursors c on c.stream = s.id and c.handler = $3
    where s.hook = $1 and s.ordering_key = $2";

/// The limit in the statement applies to each stream; events come in order.
const RANGES: &str =
    "select w.ord, e.seq, e.id, e.received_at, e.key_id, e.dedupe_key, e.headers, e.body, e.checksum, e.late
    from unnest($1, $2, $3) with ordinality as w (stream, after, most, ord)
    cross join lateral (
      select e.seq, e.id, e.received_at, e.key_id, e.dedupe_key, e.headers, e.body, e.checksum, e.late
      from events e where e.stream = w.stream and e.seq > w.after order by e.seq limit w.most) e
    order by w.ord, e.seq";

impl Postgres {
    /// Inputs of a turn: from memory where possible, the others by [`Postgres::inputs`].
    pub async fn turn_inputs(&self, wants: Vec<InputRequest>) -> Result<Vec<Option<Input>>, Error> {
        let mut inputs: Vec<_> = wants.iter().map(|want| self.memory.input(want)).collect();
        let unknown =
            |(want, input): (&InputRequest, &Option<Input>)| input.is_none().then_some(*want);
        let unknown: Vec<_> = wants.iter().zip(&inputs).filter_map(unknown).collect();
        if unknown.is_empty() {
            return Ok(inputs);
        }
        unknown
            .iter()
            .for_each(|want| self.memory.reads(want.cursor));
        let read = self.inputs(unknown).await?;
        let missing = inputs.iter_mut().filter(|input| input.is_none());
        for (input, read) in missing.zip(read) {
            if let Some(read) = &read {
                self.memory.has_read(read.cursor.id, read.head);
            }
            *input = read;
        }
        Ok(inputs)
    }

    /// Like [`Postgres::cursor`], by hook and ordering key.
    pub async fn cursor_by_name(
        &self,
        hook: HookId,
        key: &OrderingKey,
        handler: HandlerId,
    ) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
        let mut db = self.connection().await?;
        let read = sqlx::query(STATE)
            .bind(hook.0)
            .bind(key.as_str())
            .bind(handler.0);
        let answer = self.answer(read.fetch_optional(&mut db)).await;
        let Some(row) = settle(db, answer).await? else {
            return Ok(None);
        };
        let stream = StreamId(row.try_get(0)?);
        standing(CursorId { stream, handler }, &row).map(Some)
    }

    /// Reads the input of a turn for each request, in order; `None` where the stream no longer exists.
    /// The read begins after this call, so it sees whatever was committed before the hint that caused
    /// it.
    pub async fn inputs(&self, wants: Vec<InputRequest>) -> Result<Vec<Option<Input>>, Error> {
        let mut db = self.connection().await?;
        let limit = |want: &InputRequest| i64::try_from(want.events_max).unwrap_or(i64::MAX);
        let streams: Vec<i64> = wants.iter().map(|want| want.cursor.stream.0).collect();
        let handlers: Vec<i64> = wants.iter().map(|want| want.cursor.handler.0).collect();
        let read = sqlx::query(INPUTS)
            .bind(streams)
            .bind(handlers)
            .bind(wants.iter().map(limit).collect::<Vec<_>>());
        let answer = self.answer(read.fetch_all(&mut db)).await;
        let rows = settle(db, answer).await?;
        Ok(collect(&wants, &rows)?)
    }

    /// Events of many streams, in order: one list for each range.
    pub async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<Vec<Arc<Event>>>, Error> {
        let mut db = self.connection().await?;
        let limit = |range: &Range| i64::try_from(range.limit).unwrap_or(i64::MAX);
        let streams: Vec<i64> = ranges.iter().map(|range| range.stream.0).collect();
        let after: Vec<i64> = ranges.iter().map(|range| range.after.0).collect();
        let read = sqlx::query(RANGES)
            .bind(streams)
            .bind(after)
            .bind(ranges.iter().map(limit).collect::<Vec<_>>());
        let answer = self.answer(read.fetch_all(&mut db)).await;
        let rows = settle(db, answer).await?;
        let mut events = vec![Vec::new(); ranges.len()];
        for row in &rows {
            let ord: i64 = row.try_get(0)?;
            let at = usize::try_from(ord - 1).unwrap_or(usize::MAX);
            if let (Some(range), Some(list)) = (ranges.get(at), events.get_mut(at)) {
                list.push(Arc::new(event_at(range.stream, row, 1)?));
            }
        }
        Ok(events)
    }

    /// A cursor with its stream's head and the time of its last change; `None` when the stream no
    /// longer exists.
    pub async fn cursor(&self, id: CursorId) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
        let mut db = self.connection().await?;
        let read = sqlx::query(CURSOR).bind(id.stream.0).bind(id.handler.0);
        let answer = self.answer(read.fetch_optional(&mut db)).await;
        let Some(row) = settle(db, answer).await? else {
            return Ok(None);
        };
        standing(id, &row).map(Some)
    }
}

/// Decodes a cursor with its stream's head and the time of its last change.
fn standing(id: CursorId, row: &PgRow) -> Result<(Cursor, Seq, Timestamp), Error> {
    let updated_at: Option<i64> = row.try_get(10)?;
    let updated_at = Timestamp::from_millis(updated_at.unwrap_or_default());
    Ok((cursor_of(id, row)?, Seq(row.try_get(1)?), updated_at))
}

fn collect(wants: &[InputRequest], rows: &[PgRow]) -> Result<Vec<Option<Input>>, sqlx::Error> {
    let mut inputs: Vec<Option<Input>> = vec![None; wants.len()];
    for row in rows {
        let ord: i64 = row.try_get(0)?;
        let head: Option<i64> = row.try_get(1)?;
        let at = usize::try_from(ord - 1).unwrap_or(usize::MAX);
        let (Some(want), Some(head)) = (wants.get(at), head) else {
            continue;
        };
        if inputs[at].is_none() {
            inputs[at] = Some(Input {
                cursor: cursor_of(want.cursor, row)?,
                head: Seq(head),
                events: Vec::new(),
            });
        }
        let seq: Option<i64> = row.try_get(EVENT)?;
        if let (Some(input), Some(_)) = (&mut inputs[at], seq) {
            let event = event_at(want.cursor.stream, row, EVENT)?;
            input.events.push(Arc::new(event));
        }
    }
    Ok(inputs)
}

fn cursor_of(id: CursorId, row: &PgRow) -> Result<Cursor, sqlx::Error> {
    let Some(position) = row.try_get(2)? else {
        return Ok(Cursor::new(id));
    };
    let condition = ConditionColumns {
        word: row.try_get(4)?,
        retry_at: row.try_get(5)?,
        tries: row.try_get(6)?,
        reason: row.try_get(7)?,
        held_by: row.try_get(11)?,
    };
    Ok(Cursor {
        id,
        position: Position(position),
        era: Era(row.try_get(3)?),
        state: row.try_get(8)?,
        chain: Chain::from_bytes(row.try_get(9)?),
        condition: condition.condition(),
    })
}
