//! Cursors: read for a turn, moved by compare-and-set on (era, position), set aside and released.

use super::backend::ops::{Advance, Input, InputRequest, Mover, Step};
use super::backend::rows::held_by;
use super::backend::session::Tx;
use super::behind::{every_cursor, is_behind};
use super::{Error, Statement, Store};
use crate::domain::cursor::{Applied, Condition, Cursor, CursorId, DeadLetter, Era};
use crate::domain::event::{Event, EventId, StreamId};
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::lane::Slot;
use crate::domain::name::OrderingKey;
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;

/// Selects every cursor that is behind, with the receive times of the first and the last event it still
/// needs. On SQLite those events are found through the log index, which covers every event up to the
/// head in the stream's row.
macro_rules! list_behind {
    ($received:literal, $seq:literal) => {
        concat!(
            "select s.id, h.id, s.slot, s.head - coalesce(c.position, 0),
              case when coalesce(c.condition, 'flowing') = 'flowing' then 1 else 0 end,
              (",
            $received,
            $seq,
            " = coalesce(c.position, 0) + 1), (",
            $received,
            $seq,
            " = s.head)
            from ",
            every_cursor!(),
            " where ",
            is_behind!(),
            " and (s.id, h.id) > ($1, $2)
            order by s.id, h.id limit $3"
        )
    };
}

const BEHIND: Statement = Statement {
    sqlite: list_behind!(
        "select l.received_at from log_index i join log l on l.n = i.n where i.stream = s.id and ",
        "i.seq"
    ),
    postgres: list_behind!(
        "select e.received_at from events e where e.stream = s.id and ",
        "e.seq"
    ),
};

/// Outcome of an operator's request to skip an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipOutcome {
    /// The event is in the dead letters, and the cursor stands behind it.
    Skipped,
    /// The cursor needs another event next; nothing was changed.
    NotNext,
}

impl Store {
    /// Reads the input of a turn for each request, in order; `None` where the stream no longer exists.
    /// Every read begins after this call, so it sees whatever was committed before the hint that caused
    /// it.
    pub async fn inputs(&self, wants: Vec<InputRequest>) -> Result<Vec<Option<Input>>, Error> {
        self.backend.inputs(wants).await
    }

    /// Like [`Store::inputs`], for a turn of this node: cursors and events that this node has just
    /// written come from memory. A caller that learns of work from another source than a commit of this
    /// node must call [`Store::invalidate`] first.
    pub async fn turn_inputs(&self, wants: Vec<InputRequest>) -> Result<Vec<Option<Input>>, Error> {
        self.backend.turn_inputs(wants).await
    }

    /// Invalidates the cached state of these cursors, so that their next turn reads cursor and events
    /// from the database. Call it before passing on a hint about work that this node did not commit
    /// itself.
    pub fn invalidate(&self, cursors: impl Iterator<Item = CursorId>) {
        self.backend.invalidate(cursors);
    }

    /// Moves cursors in one transaction; each step succeeds or fails on its own. On return, every moved
    /// cursor is on stable storage, except for turns' steps on Postgres: those become durable within a
    /// moment, and a crash before that sets their cursors back to an earlier state of the same fold.
    ///
    /// # Errors
    /// Nothing moved, except after a fatal error or a lost connection: then the outcome is unknown.
    pub async fn advance(&self, steps: Vec<Step>) -> Result<Vec<Advance>, Error> {
        self.backend.advance(steps).await
    }

    /// Releases the set-aside cursors of a stream: of one handler, or of all when `handler` is `None`.
    /// Returns the cursors that were set aside.
    pub async fn release(
        &self,
        stream: StreamId,
        handler: Option<HandlerId>,
    ) -> Result<Vec<CursorId>, Error> {
        let mut writing = self.begin().await?;
        let released = writing.release(stream, handler).await?;
        if !released.is_empty() {
            writing.tell_note(serde_json::json!({"cursors": released.len()}));
            writing.commit().await?;
        }
        Ok(released)
    }

    /// Releases many set-aside cursors in one transaction, each by stream and handler. Returns those
    /// that were set aside.
    pub async fn release_all(&self, cursors: &[CursorId]) -> Result<Vec<CursorId>, Error> {
        let mut writing = self.begin().await?;
        let mut released = Vec::new();
        for cursor in cursors {
            let of_stream = writing.release(cursor.stream, Some(cursor.handler));
            released.extend(of_stream.await?);
        }
        if !released.is_empty() {
            writing.commit().await?;
        }
        Ok(released)
    }

    /// Applies an operator's steps in one transaction: all of them, or none when another writer has
    /// moved one of the cursors first.
    pub async fn operate(&self, steps: &[Step]) -> Result<Advance, Error> {
        let mut writing = self.begin().await?;
        for step in steps {
            if !operate(&mut writing.tx, step).await? {
                return Ok(Advance::Lost);
            }
        }
        writing.commit().await?;
        Ok(Advance::Moved)
    }

    /// Moves a cursor that an operator holds, after its delivery in flight was acknowledged; it stays
    /// held. [`Advance::Lost`] unless it is held at the begin of the step.
    pub async fn advance_held(&self, step: &Step) -> Result<Advance, Error> {
        const MOVE: &str = "update cursors set position = $3, chain = $4, updated_at = $5
            where stream = $1 and handler = $2 and era = $6 and position = $7 and condition = 'held'";
        let mut writing = self.begin().await?;
        let moved = sqlx::query(MOVE)
            .bind(step.cursor.stream.0)
            .bind(step.cursor.handler.0)
            .bind(step.to.0)
            .bind(step.chain.as_bytes().to_vec())
            .bind(step.at.as_millis())
            .bind(step.era.0)
            .bind(step.from.0)
            .execute(&mut writing.tx)
            .await?;
        if moved.rows_affected() == 0 {
            return Ok(Advance::Lost);
        }
        writing.commit().await?;
        self.invalidate([step.cursor].into_iter());
        Ok(Advance::Moved)
    }

    /// Puts the event that `cursor` needs next into the dead letters and moves the cursor behind it. If
    /// that event is not `id`, nothing is changed.
    pub async fn skip(
        &self,
        cursor: CursorId,
        id: EventId,
        reason: &str,
        at: Timestamp,
    ) -> Result<SkipOutcome, Error> {
        let want = InputRequest {
            cursor,
            events_max: 1,
        };
        let input = self.inputs(vec![want]).await?.pop().flatten();
        let Some(input) = input.filter(|input| !input.has_gap()) else {
            return Ok(SkipOutcome::NotNext);
        };
        let Some(next) = input.events.first().filter(|event| event.id == id) else {
            return Ok(SkipOutcome::NotNext);
        };
        let step = skip_step(&input, next, reason, at);
        Ok(match self.operate(&[step]).await? {
            Advance::Moved => SkipOutcome::Skipped,
            Advance::Lost => SkipOutcome::NotNext,
        })
    }

    /// A cursor with its stream's head and the time of its last change; `None` when the stream no
    /// longer exists.
    pub async fn cursor(
        &self,
        cursor: CursorId,
    ) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
        self.backend.cursor(cursor).await
    }

    /// Like [`Store::cursor`], by hook and ordering key.
    pub async fn cursor_by_name(
        &self,
        hook: HookId,
        key: &OrderingKey,
        handler: HandlerId,
    ) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
        self.backend.cursor_by_name(hook, key, handler).await
    }

    /// The reason why a handler skipped an event; `None` when it did not skip it.
    pub async fn dead_letter(&self, cursor: CursorId, seq: Seq) -> Result<Option<String>, Error> {
        const READ: &str = "select reason from dead_letters
            where handler = $1 and stream = $2 and seq = $3";
        Ok(sqlx::query_scalar(READ)
            .bind(cursor.handler.0)
            .bind(cursor.stream.0)
            .bind(seq.0)
            .fetch_optional(&self.reader)
            .await?)
    }

    /// One page of the cursors that are behind their head and not held, with the slot of their stream:
    /// those after `after`, in order, at most `limit`.
    pub async fn behind(&self, after: CursorId, limit: i64) -> Result<Vec<CursorBacklog>, Error> {
        self.backend.index().await?;
        let rows: Vec<BehindRow> = sqlx::query_as(self.sql(BEHIND))
            .bind(after.stream.0)
            .bind(after.handler.0)
            .bind(limit)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(CursorBacklog::from).collect())
    }
}

/// A cursor with events to process.
#[derive(Clone, Copy, Debug)]
pub struct CursorBacklog {
    /// The cursor.
    pub cursor: CursorId,
    /// Slot of its stream.
    pub slot: Slot,
    /// Number of events between its position and the head.
    pub events: u64,
    /// True if the cursor is flowing, so that it only needs a turn; false if it waits for a retry.
    pub flows: bool,
    /// Receive times of the first and the last of these events; `None` where the first event is
    /// missing.
    pub received: Option<(Timestamp, Timestamp)>,
}

type BehindRow = (i64, i64, i64, i64, i64, Option<i64>, Option<i64>);

impl From<BehindRow> for CursorBacklog {
    fn from((stream, handler, slot, events, flows, first, last): BehindRow) -> Self {
        let at = Timestamp::from_millis;
        Self {
            cursor: CursorId {
                stream: StreamId(stream),
                handler: HandlerId(handler),
            },
            slot: Slot(u16::try_from(slot).unwrap_or_default()),
            events: u64::try_from(events).unwrap_or(0),
            flows: flows == 1,
            received: first.zip(last).map(|(first, last)| (at(first), at(last))),
        }
    }
}

fn skip_step(input: &Input, next: &Event, reason: &str, at: Timestamp) -> Step {
    let cursor = &input.cursor;
    Step {
        cursor: cursor.id,
        era: cursor.era,
        from: cursor.position,
        to: Position(next.seq.0),
        state: cursor.state.clone(),
        chain: cursor.chain.next(next.id, Applied::Skipped),
        condition: Condition::Flowing,
        skipped: vec![DeadLetter {
            seq: next.seq,
            reason: reason.to_owned(),
        }],
        mover: Mover::Operator,
        at,
    }
}

impl super::Writing<'_> {
    async fn release(
        &mut self,
        stream: StreamId,
        handler: Option<HandlerId>,
    ) -> Result<Vec<CursorId>, Error> {
        const RELEASE: &str = "update cursors
            set condition = 'flowing', retry_at = null, tries = 0, reason = null, held_by = null
            where stream = $1 and ($2 is null or handler = $2) and condition <> 'flowing'
            returning handler";
        let handlers: Vec<i64> = sqlx::query_scalar(RELEASE)
            .bind(stream.0)
            .bind(handler.map(|handler| handler.0))
            .fetch_all(&mut self.tx)
            .await?;
        let cursor = |handler| CursorId {
            stream,
            handler: HandlerId(handler),
        };
        Ok(handlers.into_iter().map(cursor).collect())
    }
}

/// Tells if a cursor was moved: it was at the position where the step begins.
async fn operate(tx: &mut Tx, step: &Step) -> Result<bool, Error> {
    const CREATE: &str = "insert into cursors
        (stream, handler, position, era, state, chain, condition, reason, held_by, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing";
    const MOVE: &str = "update cursors set position = $3, state = $5, chain = $6, condition = $7,
        retry_at = null, tries = 0, reason = $8, held_by = $9, updated_at = $10
        where stream = $1 and handler = $2 and era = $4 and position = $11";
    const BURY: &str = "insert into dead_letters (handler, stream, seq, reason, created_at)
        values ($1, $2, $3, $4, $5)";
    let bound = |text: &'static str| {
        sqlx::query(text)
            .bind(step.cursor.stream.0)
            .bind(step.cursor.handler.0)
            .bind(step.to.0)
            .bind(step.era.0)
            .bind(step.state.clone())
            .bind(step.chain.as_bytes().to_vec())
            .bind(step.condition.word())
            .bind(step.condition.reason().map(str::to_owned))
            .bind(held_by(&step.condition))
            .bind(step.at.as_millis())
    };
    let is_first = step.from == Position::default() && step.era == Era(1);
    let mut changed = 0;
    if is_first {
        changed = bound(CREATE).execute(&mut *tx).await?.rows_affected();
    }
    if changed == 0 {
        let step = bound(MOVE).bind(step.from.0).execute(&mut *tx);
        changed = step.await?.rows_affected();
    }
    for letter in step.skipped.iter().filter(|_| changed > 0) {
        sqlx::query(BURY)
            .bind(step.cursor.handler.0)
            .bind(step.cursor.stream.0)
            .bind(letter.seq.0)
            .bind(&letter.reason)
            .bind(step.at.as_millis())
            .execute(&mut *tx)
            .await?;
    }
    Ok(changed > 0)
}
