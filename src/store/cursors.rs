//! Cursors: read for a turn, moved by compare-and-set on (era, position), set aside.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::backend::ops::{Advance, Input, Mover, Step, Want};
use super::backend::session::Tx;
use super::backend::sqlite;
use super::backend::sqlite::tail::Tail;
use super::{Error, Hot, Statement, Store};
use crate::domain::cursor::{Applied, Chain, Condition, Cursor, CursorId, DeadLetter, Era};
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

/// Moves cursors inside the open transaction. Each stands or falls alone.
pub(super) fn advance(db: &Connection, steps: &[Step]) -> Result<Vec<Advance>, Error> {
    steps.iter().map(|step| advance_one(db, step)).collect()
}

fn advance_one(db: &Connection, step: &Step) -> Result<Advance, Error> {
    const CREATE: &str = "insert into cursors
        (stream, handler, position, era, state, chain, condition, retry_at, tries, reason, updated_at)
        values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) on conflict do nothing";
    const MOVE: &str = "update cursors set position = ?3, state = ?5, chain = ?6,
        condition = ?7, retry_at = ?8, tries = ?9, reason = ?10, updated_at = ?11
        where stream = ?1 and handler = ?2 and era = ?4 and position = ?12
          and (condition <> 'held' or ?13)";
    let retry_at = match &step.condition {
        Condition::Waiting { retry_at, .. } => Some(retry_at.as_millis()),
        _ => None,
    };
    let is_first = step.from == Position::default() && step.era == Era(1);
    let mut changed = 0;
    if is_first {
        changed = db.prepare_cached(CREATE)?.execute(params![
            step.cursor.stream.0,
            step.cursor.handler.0,
            step.to.0,
            step.era.0,
            step.state,
            step.chain.as_bytes(),
            step.condition.word(),
            retry_at,
            step.condition.tries(),
            step.condition.reason(),
            step.at.as_millis(),
        ])?;
    }
    if changed == 0 {
        changed = db.prepare_cached(MOVE)?.execute(params![
            step.cursor.stream.0,
            step.cursor.handler.0,
            step.to.0,
            step.era.0,
            step.state,
            step.chain.as_bytes(),
            step.condition.word(),
            retry_at,
            step.condition.tries(),
            step.condition.reason(),
            step.at.as_millis(),
            step.from.0,
            step.mover == Mover::Operator,
        ])?;
    }
    if changed == 0 {
        return Ok(Advance::Lost);
    }
    for letter in &step.skipped {
        bury(db, step, letter)?;
    }
    Ok(Advance::Moved)
}

fn bury(db: &Connection, step: &Step, letter: &DeadLetter) -> Result<(), Error> {
    const BURY: &str = "insert into dead_letters (handler, stream, seq, reason, created_at)
        values (?1, ?2, ?3, ?4, ?5)";
    db.prepare_cached(BURY)?.execute(params![
        step.cursor.handler.0,
        step.cursor.stream.0,
        letter.seq.0,
        letter.reason,
        step.at.as_millis(),
    ])?;
    Ok(())
}

impl Store {
    /// Reads what a turn starts from, one input a want, in order; none where the stream is gone. Every
    /// read begins after this is called, so whatever was committed before a hint is seen.
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
    pub async fn inputs(&self, wants: Vec<Want>) -> Result<Vec<Option<Input>>, Error> {
        let hot = match &*self.hot {
            Hot::Sqlite(hot) => hot,
            Hot::Postgres(hot) => return hot.inputs(wants).await,
        };
        let mut inputs: Vec<_> = wants
            .iter()
            .map(|want| input_in_memory(hot, want))
            .collect();
        let unknown = |(want, input): (&Want, &Option<Input>)| input.is_none().then_some(*want);
        let wants: Vec<_> = wants.iter().zip(&inputs).filter_map(unknown).collect();
        if wants.is_empty() {
            return Ok(inputs);
        }
        let tail = hot.tail.clone();
        let read: Vec<_> = hot
            .readers
            .read(move |db| {
                let read = |want: &Want| read_input(db, &tail, want);
                wants.iter().map(read).collect::<Result<_, _>>()
            })
            .await?;
        let missing = inputs.iter_mut().filter(|input| input.is_none());
        for (input, read) in missing.zip(read) {
            *input = read;
        }
        Ok(inputs)
    }

    /// As [`Store::inputs`], for a turn of this node: what this node has just stored and moved is not read
    /// again. Whoever hears of work by anything but a commit of this node says so to [`Store::doubt`].
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
    pub async fn turn_inputs(&self, wants: Vec<Want>) -> Result<Vec<Option<Input>>, Error> {
        match &*self.hot {
            Hot::Sqlite(_) => self.inputs(wants).await,
            Hot::Postgres(hot) => hot.turn_inputs(wants).await,
        }
    }

    /// Has the next turn of these cursors read them and their events: other nodes may have moved them,
    /// or stored some. Called before the hint is passed on that made doubtful what is known.
    pub fn doubt(&self, cursors: impl Iterator<Item = CursorId>) {
        if let Hot::Postgres(hot) = &*self.hot {
            hot.doubt(cursors);
        }
    }

    /// Moves cursors in one transaction; each stands or falls alone. When this returns, what moved is
    /// on stable storage.
    ///
    /// # Errors
    /// Nothing moved, unless the error is fatal or the connection was lost: then it is unknown.
    pub async fn advance(&self, steps: Vec<Step>) -> Result<Vec<Advance>, Error> {
        match &*self.hot {
            Hot::Sqlite(hot) => hot.log.advance(steps).await,
            Hot::Postgres(hot) => hot.advance(steps).await,
        }
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
        let hot = match &*self.hot {
            Hot::Sqlite(hot) => hot,
            Hot::Postgres(hot) => return hot.cursor(cursor).await,
        };
        let tail = hot.tail.clone();
        hot.readers
            .read(move |db| read_cursor(db, &tail, cursor))
            .await
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
        let hot = match &*self.hot {
            Hot::Sqlite(hot) => hot,
            Hot::Postgres(hot) => return hot.cursor_by_name(hook, key, handler).await,
        };
        let (tail, key) = (hot.tail.clone(), key.clone());
        let read = move |db: &Connection| {
            let Some(stream) = read_stream_id(db, hook, &key)? else {
                return Ok(None);
            };
            read_cursor(db, &tail, CursorId { stream, handler })
        };
        hot.readers.read(read).await
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
        self.hot.index().await?;
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

/// An input of which memory knows everything: where the cursor stands, and what comes after it.
fn input_in_memory(hot: &sqlite::Hot, want: &Want) -> Option<Input> {
    let cursor = hot.known.take(want.cursor)?;
    let stream = want.cursor.stream;
    let head = hot.tail.last(stream)?;
    let after = Seq(cursor.position.0);
    let (first, entries) = hot.tail.after(stream, after, want.events_max);
    let events: Option<Vec<_>> = entries.into_iter().map(|entry| entry.event).collect();
    let events = events.filter(|_| first.is_some_and(|first| first.0 <= after.0 + 1))?;
    Some(Input {
        cursor,
        head,
        events,
    })
}

fn read_input(db: &Connection, tail: &Tail, want: &Want) -> Result<Option<Input>, Error> {
    let Some((cursor, head, _)) = read_cursor(db, tail, want.cursor)? else {
        return Ok(None);
    };
    let after = Seq(cursor.position.0);
    let stream = want.cursor.stream;
    let (first, entries) = tail.after(stream, after, want.events_max);
    let mut events = Vec::new();
    let tail_begins = first.unwrap_or(Seq(i64::MAX));
    if tail_begins.0 > after.0 + 1 && head > after {
        read_indexed(db, stream, after, tail_begins, want.events_max, &mut events)?;
    }
    for entry in entries {
        if events.len() == want.events_max {
            break;
        }
        events.push(match entry.event {
            Some(event) => event,
            None => Arc::new(read_row(db, entry.n)?),
        });
    }
    Ok(Some(Input {
        cursor,
        head,
        events,
    }))
}

fn read_stream_id(
    db: &Connection,
    hook: HookId,
    key: &OrderingKey,
) -> Result<Option<StreamId>, Error> {
    const READ: &str = "select id from streams where hook = ?1 and ordering_key = ?2";
    let row = db
        .prepare_cached(READ)?
        .query_row(params![hook.0, key.as_str()], |row| row.get(0));
    Ok(row.optional()?.map(StreamId))
}

fn read_cursor(
    db: &Connection,
    tail: &Tail,
    id: CursorId,
) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
    const READ: &str = "select s.head, c.position, c.era, c.state, c.chain, c.condition,
        c.retry_at, c.tries, c.reason, c.updated_at
        from streams s left join cursors c on c.stream = s.id and c.handler = ?2 where s.id = ?1";
    // The tail is asked before the row: what leaves it in between is in the row then.
    let last = tail.last(id.stream).unwrap_or_default();
    let row = db
        .prepare_cached(READ)?
        .query_row(params![id.stream.0, id.handler.0], |row| {
            let head = last.max(Seq(row.get(0)?));
            let Some(position) = row.get(1)? else {
                return Ok((Cursor::new(id), head, Timestamp::default()));
            };
            let condition: String = row.get(5)?;
            let reason = row.get::<_, Option<String>>(8)?.unwrap_or_default();
            let cursor = Cursor {
                id,
                position: Position(position),
                era: Era(row.get(2)?),
                state: row.get(3)?,
                chain: Chain::from_bytes(row.get(4)?),
                condition: condition_of(&condition, row.get(6)?, row.get(7)?, reason),
            };
            Ok((cursor, head, Timestamp::from_millis(row.get(9)?)))
        });
    Ok(row.optional()?)
}

/// A condition as its row spells it.
pub(super) fn condition_of(
    word: &str,
    retry_at: Option<i64>,
    tries: u32,
    reason: String,
) -> Condition {
    match word {
        "held" => Condition::Held { reason },
        "waiting" => Condition::Waiting {
            retry_at: Timestamp::from_millis(retry_at.unwrap_or(0)),
            tries,
            reason,
        },
        _ => Condition::Flowing,
    }
}

/// Events between `after` and `before`, both excluded.
pub(super) fn read_indexed(
    db: &Connection,
    stream: StreamId,
    after: Seq,
    before: Seq,
    limit: usize,
    events: &mut Vec<Arc<Event>>,
) -> Result<(), Error> {
    const READ: &str = "select l.stream, l.seq, l.id, l.received_at, l.key_id, l.dedupe_key,
        l.headers, l.body
        from log_index i join log l on l.n = i.n
        where i.stream = ?1 and i.seq > ?2 and i.seq < ?3 order by i.seq limit ?4";
    let mut read = db.prepare_cached(READ)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = read.query_map(params![stream.0, after.0, before.0, limit], event_of)?;
    for event in rows {
        events.push(Arc::new(event?));
    }
    Ok(())
}

pub(super) fn read_row(db: &Connection, n: i64) -> Result<Event, Error> {
    const READ: &str = "select stream, seq, id, received_at, key_id, dedupe_key, headers, body
        from log where n = ?1";
    Ok(db.prepare_cached(READ)?.query_row([n], event_of)?)
}

fn event_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        stream: StreamId(row.get(0)?),
        seq: Seq(row.get(1)?),
        id: EventId::from_bytes(row.get(2)?),
        received_at: Timestamp::from_millis(row.get(3)?),
        key_id: row.get(4)?,
        dedupe_key: row.get(5)?,
        headers: row.get::<_, String>(6)?.into(),
        body: row.get::<_, Vec<u8>>(7)?.into(),
    })
}
