//! Cursors: read for a turn, moved by compare-and-set on (era, position), set aside.

use super::backend::ops::{Advance, Input, Mover, Step, Want};
use super::backend::session::Tx;
use super::{Error, Statement, Store};
use crate::domain::cursor::{Applied, Condition, Cursor, CursorId, DeadLetter, Era};
use crate::domain::event::{Event, EventId, StreamId};
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::lane::Slot;
use crate::domain::name::OrderingKey;
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;

/// Every cursor that is behind, with the times of the first event it needs and of the last one of its stream. In a
/// file they are found by the index, which has every event up to the head that a stream's row has.
macro_rules! behind {
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
            from streams s
            join hooks k on k.id = s.hook and k.deleted_at is null
            join handlers h on h.hook = s.hook and h.deleted_at is null
            left join cursors c on c.stream = s.id and c.handler = h.id
            where s.head > coalesce(c.position, 0) and (s.id, h.id) > ($1, $2)
            order by s.id, h.id limit $3"
        )
    };
}

const BEHIND: Statement = Statement {
    sqlite: behind!(
        "select l.received_at from log_index i join log l on l.n = i.n where i.stream = s.id and ",
        "i.seq"
    ),
    postgres: behind!(
        "select e.received_at from events e where e.stream = s.id and ",
        "e.seq"
    ),
};

/// What became of an operator's wish to skip an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// It is in the dead letters, and the cursor stands behind it.
    Skipped,
    /// Another event is next.
    NotNext,
}

impl Store {
    /// Reads what a turn starts from, one input a want, in order; none where the stream is gone. Every
    /// read begins after this is called, so whatever was committed before a hint is seen.
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
    pub async fn inputs(&self, wants: Vec<Want>) -> Result<Vec<Option<Input>>, Error> {
        self.backend.inputs(wants).await
    }

    /// As [`Store::inputs`], for a turn of this node: what this node has just stored and moved is not read
    /// again. Whoever hears of work by anything but a commit of this node says so to [`Store::doubt`].
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
    pub async fn turn_inputs(&self, wants: Vec<Want>) -> Result<Vec<Option<Input>>, Error> {
        self.backend.turn_inputs(wants).await
    }

    /// Has the next turn of these cursors read them and their events: other nodes may have moved them,
    /// or stored some. Called before the hint is passed on that made doubtful what is known.
    pub fn doubt(&self, cursors: impl Iterator<Item = CursorId>) {
        self.backend.doubt(cursors);
    }

    /// Moves cursors in one transaction; each stands or falls alone. When this returns, what moved is
    /// on stable storage.
    ///
    /// # Errors
    /// Nothing moved, unless the error is fatal or the connection was lost: then it is unknown.
    pub async fn advance(&self, steps: Vec<Step>) -> Result<Vec<Advance>, Error> {
        self.backend.advance(steps).await
    }

    /// Lets set-aside cursors of a stream flow again; of all handlers when none is named.
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
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

    /// The same for many cursors, in one transaction.
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
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

    /// Moves cursors, or sets them aside, as an operator wants it: all, or none when somebody else has moved
    /// one first.
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
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

    /// Puts the event that `cursor` needs next into the dead letters and moves the cursor behind it. It
    /// must be the event `id`, or nothing is changed.
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
    pub async fn skip(
        &self,
        cursor: CursorId,
        id: EventId,
        reason: &str,
        at: Timestamp,
    ) -> Result<Skip, Error> {
        let want = Want {
            cursor,
            events_max: 1,
        };
        let input = self.inputs(vec![want]).await?.pop().flatten();
        let Some(input) = input.filter(|input| !input.has_gap()) else {
            return Ok(Skip::NotNext);
        };
        let Some(next) = input.events.first().filter(|event| event.id == id) else {
            return Ok(Skip::NotNext);
        };
        let step = skip_step(&input, next, reason, at);
        Ok(match self.operate(&[step]).await? {
            Advance::Moved => Skip::Skipped,
            Advance::Lost => Skip::NotNext,
        })
    }

    /// A cursor as it stands, and its stream's head; none when the stream is gone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn cursor(
        &self,
        cursor: CursorId,
    ) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
        self.backend.cursor(cursor).await
    }

    /// The same, by the name of the stream.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn cursor_by_name(
        &self,
        hook: HookId,
        key: &OrderingKey,
        handler: HandlerId,
    ) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
        self.backend.cursor_by_name(hook, key, handler).await
    }

    /// Why a handler passed an event without applying it; none when it did not.
    ///
    /// # Errors
    /// Those of the database.
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

    /// Every cursor that is behind its head and may move, now or later, with the slot of its stream, in
    /// pages: those of streams after `after`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn behind(&self, after: CursorId, limit: i64) -> Result<Vec<Behind>, Error> {
        self.backend.index().await?;
        let rows: Vec<BehindRow> = sqlx::query_as(self.words(BEHIND))
            .bind(after.stream.0)
            .bind(after.handler.0)
            .bind(limit)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(Behind::from).collect())
    }
}

/// A cursor that has work.
#[derive(Clone, Copy, Debug)]
pub struct Behind {
    /// Which cursor.
    pub cursor: CursorId,
    /// The slot of its stream.
    pub slot: Slot,
    /// How many events it has to go.
    pub events: u64,
    /// Whether it flows: nothing but a turn is missing.
    pub flows: bool,
    /// When the first event it has to go was received, and the last; none where that event is missing.
    pub received: Option<(Timestamp, Timestamp)>,
}

type BehindRow = (i64, i64, i64, i64, i64, Option<i64>, Option<i64>);

impl From<BehindRow> for Behind {
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
            set condition = 'flowing', retry_at = null, tries = 0, reason = null
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

/// Whether a cursor is moved: it was where the step begins.
async fn operate(tx: &mut Tx, step: &Step) -> Result<bool, Error> {
    const CREATE: &str = "insert into cursors
        (stream, handler, position, era, state, chain, condition, reason, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing";
    const MOVE: &str = "update cursors set position = $3, state = $5, chain = $6, condition = $7,
        retry_at = null, tries = 0, reason = $8, updated_at = $9
        where stream = $1 and handler = $2 and era = $4 and position = $10";
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
