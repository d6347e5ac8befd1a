//! Deliveries to pull consumers. At most one delivery per cursor is open, and each change of it is a
//! compare-and-set on its number and on the position of its cursor.
//!
//! ```text
//!           claim (number + 1)            ack up to its end, nack, give back
//!  (none) ────────────────────▶ open ───────────────────────────────────────▶ closed
//!             ▲                  │ ▲                                             │
//!             │    its lease     │ └─ ack of a part, extend                      │
//!             └─── has ended ────┴──────────────── claim ◀───────────────────────┘
//! ```
//! A row stays after its delivery, so that numbers are never reused. Rows of cursors are locked before rows of
//! deliveries, both in the order of streams. Leases are measured by the clock of the database.

use std::time::Duration;

use sqlx::{AssertSqlSafe, FromRow};

use super::backend::rows::held_by;
use super::backend::session::Tx;
use super::behind::is_behind;
use super::{Error, Statement, Store};
use crate::domain::cursor::{Chain, Condition, CursorId, DeadLetter, Era};
use crate::domain::event::StreamId;
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::lane::Slot;
use crate::domain::position::Position;
use crate::domain::pull::LEASE_MARGIN;
use crate::domain::time::Timestamp;
use crate::domain::token::Token;

/// A stream and its slot.
#[derive(Clone, Copy, Debug)]
pub struct StreamSlot {
    /// The stream.
    pub stream: StreamId,
    /// Its slot, which determines its lane.
    pub slot: Slot,
}

/// The latest delivery of a cursor, open or closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Identifies the delivery; its position is the one up to which events are acknowledged.
    pub token: Token,
    /// Position of the last event in it.
    pub upto: Position,
    /// Number of the try of its first unacknowledged event, from 1.
    pub attempt: u32,
    /// End of the lease, by the clock of the database; `None` once the delivery is closed.
    pub lease_until: Option<Timestamp>,
    /// Name of the consumer that holds it.
    pub consumer: String,
}

impl Delivery {
    /// True if a consumer may still hold it at `now`, by the clock of the database. Includes a margin
    /// for clock error.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.lease_until
            .is_some_and(|until| until >= now.before(LEASE_MARGIN))
    }
}

/// A delivery to open, with the cursor as it was read.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The cursor whose events are delivered.
    pub cursor: CursorId,
    /// Era of the cursor when it was read.
    pub era: Era,
    /// Position of the cursor when it was read.
    pub position: Position,
    /// Position of the last event to deliver.
    pub upto: Position,
    /// Number of the previous delivery of this cursor; 0 if there was none.
    pub before: i64,
    /// Number of the try of the first event, from 1.
    pub attempt: u32,
    /// Length of the lease.
    pub lease: Duration,
    /// Name of the consumer.
    pub consumer: String,
}

/// A delivery that was opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenedDelivery {
    /// Identifies the delivery in the consumer's answers.
    pub token: Token,
    /// End of the lease, by the clock of the database.
    pub lease_until: Timestamp,
}

/// A cursor and its latest delivery, both locked, at the moment when a consumer's answer is settled.
#[derive(Clone, Debug)]
pub struct LockedDelivery {
    /// The latest delivery.
    pub delivery: Delivery,
    /// Era of the cursor.
    pub era: Era,
    /// Position of the cursor.
    pub position: Position,
    /// Chain at that position.
    pub chain: Chain,
    /// Current time of the database.
    pub now: Timestamp,
}

/// The change that a consumer's answer leads to.
#[derive(Clone, Debug)]
pub enum Settlement {
    /// No change.
    Nothing,
    /// Moves the cursor to a position; the events behind it stay leased, if there are any.
    Acknowledge {
        /// New position.
        to: Position,
        /// Chain at the new position.
        chain: Chain,
    },
    /// Moves the cursor, closes the delivery and applies the failure policy.
    Close {
        /// New position.
        to: Position,
        /// Chain at the new position.
        chain: Chain,
        /// New condition of the cursor.
        condition: Condition,
        /// An event that the cursor passes without having handled it.
        skipped: Option<DeadLetter>,
    },
    /// Restarts the lease with this length.
    Extend(Duration),
    /// Closes the delivery; the cursor stays.
    Drop,
}

/// State of cursor and delivery after an answer was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettledDelivery {
    /// Position of the cursor.
    pub position: Position,
    /// End of the lease; `None` if the delivery is closed.
    pub lease_until: Option<Timestamp>,
}

#[derive(FromRow)]
struct Row {
    stream: i64,
    handler: i64,
    number: i64,
    era: i64,
    position: i64,
    upto: i64,
    attempt: i64,
    lease_until: Option<i64>,
    consumer: String,
}

impl From<Row> for Delivery {
    fn from(row: Row) -> Self {
        Self {
            token: Token {
                cursor: CursorId {
                    stream: StreamId(row.stream),
                    handler: HandlerId(row.handler),
                },
                era: Era(row.era),
                position: Position(row.position),
                number: row.number,
            },
            upto: Position(row.upto),
            attempt: u32::try_from(row.attempt).unwrap_or(u32::MAX),
            lease_until: row.lease_until.map(Timestamp::from_millis),
            consumer: row.consumer,
        }
    }
}

const CLOCK: Statement = Statement {
    sqlite: "select cast(unixepoch('subsec') * 1000 as integer)",
    postgres: "select cast(extract(epoch from clock_timestamp()) * 1000 as bigint)",
};

/// Selects streams that are behind and whose cursor may move, in the order in which they became ready:
/// when their next event was received, or when they were last delivered.
macro_rules! ready {
    ($received:literal) => {
        concat!(
            "select s.id, s.slot from streams s
            left join cursors c on c.stream = s.id and c.handler = $1
            left join deliveries d on d.stream = s.id and d.handler = $1
            where s.hook = $2 and ",
            is_behind!(),
            "
              and coalesce(c.condition, 'flowing') <> 'held'
              and (c.retry_at is null or c.retry_at <= $3)
              and (d.lease_until is null or d.lease_until < $4)
            order by case when coalesce(c.updated_at, 0) > coalesce((",
            $received,
            " = coalesce(c.position, 0) + 1), 0) then c.updated_at else (",
            $received,
            " = coalesce(c.position, 0) + 1) end, s.id limit $5"
        )
    };
}

const READY: Statement = Statement {
    sqlite: ready!(
        "select l.received_at from log_index i join log l on l.n = i.n
        where i.stream = s.id and i.seq"
    ),
    postgres: ready!("select e.received_at from events e where e.stream = s.id and e.seq"),
};

const DELIVERIES: &str =
    "select stream, handler, number, era, position, upto, attempt, lease_until, consumer
    from deliveries where handler = ";

const LOCK_DELIVERY: Statement = Statement {
    sqlite: "select stream, handler, number, era, position, upto, attempt, lease_until, consumer
        from deliveries where stream = $1 and handler = $2",
    postgres: "select stream, handler, number, era, position, upto, attempt, lease_until, consumer
        from deliveries where stream = $1 and handler = $2 for update",
};

const LOCK_CURSOR: Statement = Statement {
    sqlite: "select era, position, condition, chain from cursors where stream = $1 and handler = $2",
    postgres: "select era, position, condition, chain from cursors
        where stream = $1 and handler = $2 for update",
};

const MAKE_CURSOR: &str = "insert into cursors (stream, handler, position, chain, updated_at)
    values ($1, $2, 0, $3, $4) on conflict do nothing";

const CLAIM: &str = "insert into deliveries
    (stream, handler, number, era, position, upto, attempt, consumer, lease_until)
    values ($1, $2, 1, $3, $4, $5, $6, $7, $8)
    on conflict (stream, handler) do update set number = deliveries.number + 1, era = excluded.era,
      position = excluded.position, upto = excluded.upto, attempt = excluded.attempt,
      consumer = excluded.consumer, lease_until = excluded.lease_until
    where deliveries.number = $9
      and (deliveries.lease_until is null or deliveries.lease_until < $10)
    returning number";

/// An operator's hold stays in place; only its release lets the cursor go on.
const MOVE: &str = "update cursors set position = $3, chain = $4,
      reason = case when condition = 'held' then reason else $6 end,
      held_by = case when condition = 'held' then held_by else $10 end,
      retry_at = case when condition = 'held' then retry_at else $7 end,
      tries = case when condition = 'held' then tries else $8 end,
      condition = case when condition = 'held' then condition else $5 end,
      updated_at = $9
    where stream = $1 and handler = $2";

const BURY: &str = "insert into dead_letters (handler, stream, seq, reason, created_at)
    values ($1, $2, $3, $4, $5)";

/// Tries are counted per event: when the position has moved, the next event is at its first try.
const LEASE: &str = "update deliveries set position = $3, lease_until = $4,
      attempt = case when position = $3 then attempt else 1 end
    where stream = $1 and handler = $2";

const GIVE_BACK: &str = "update deliveries set lease_until = null
    where stream = $1 and handler = $2 and number = $3";

impl Store {
    /// Current time of the database.
    pub async fn clock(&self) -> Result<Timestamp, Error> {
        let at: i64 = sqlx::query_scalar(self.sql(CLOCK))
            .fetch_one(&self.reader)
            .await?;
        Ok(Timestamp::from_millis(at))
    }

    /// Streams of a hook that may have events to deliver for a pull handler, longest waiting first, at
    /// most `limit`.
    pub async fn ready(
        &self,
        handler: HandlerId,
        hook: HookId,
        limit: i64,
    ) -> Result<Vec<StreamSlot>, Error> {
        self.backend.index().await?;
        let now = self.clock().await?;
        let rows: Vec<(i64, i64)> = sqlx::query_as(self.sql(READY))
            .bind(handler.0)
            .bind(hook.0)
            .bind(now.as_millis())
            .bind(now.before(LEASE_MARGIN).as_millis())
            .bind(limit)
            .fetch_all(&self.reader)
            .await?;
        let stream = |(stream, slot)| StreamSlot {
            stream: StreamId(stream),
            slot: Slot(u16::try_from(slot).unwrap_or_default()),
        };
        Ok(rows.into_iter().map(stream).collect())
    }

    /// The latest deliveries of a handler in these streams, in no order. Streams without a delivery are
    /// left out.
    pub async fn deliveries(
        &self,
        handler: HandlerId,
        streams: &[StreamId],
    ) -> Result<Vec<Delivery>, Error> {
        if streams.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = streams.iter().map(|stream| stream.0.to_string()).collect();
        let text = format!(
            "{DELIVERIES}{} and stream in ({})",
            handler.0,
            ids.join(",")
        );
        let rows = sqlx::query_as::<_, Row>(AssertSqlSafe(text))
            .persistent(false)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(Delivery::from).collect())
    }

    /// Opens deliveries in one transaction. The result is `None` for a cursor that has another delivery
    /// or was moved meanwhile.
    ///
    /// # Errors
    /// Nothing was opened, except after a lost connection: then the outcome is unknown, and opened
    /// deliveries end with their leases.
    pub async fn claim(&self, claims: &[Claim]) -> Result<Vec<Option<OpenedDelivery>>, Error> {
        let mut order: Vec<_> = (0..claims.len()).collect();
        order.sort_unstable_by_key(|index| claims[*index].cursor);
        let mut opened = vec![None; claims.len()];
        let mut writing = self.begin().await?;
        let now = self.clock_of(&mut writing.tx).await?;
        for index in order {
            opened[index] = self.claim_one(&mut writing.tx, &claims[index], now).await?;
        }
        writing.commit().await?;
        Ok(opened)
    }

    async fn clock_of(&self, tx: &mut Tx) -> Result<Timestamp, Error> {
        let at: i64 = sqlx::query_scalar(self.sql(CLOCK))
            .fetch_one(&mut *tx)
            .await?;
        Ok(Timestamp::from_millis(at))
    }

    async fn claim_one(
        &self,
        tx: &mut Tx,
        claim: &Claim,
        now: Timestamp,
    ) -> Result<Option<OpenedDelivery>, Error> {
        let CursorId { stream, handler } = claim.cursor;
        if claim.position == Position::default() {
            sqlx::query(MAKE_CURSOR)
                .bind(stream.0)
                .bind(handler.0)
                .bind(Vec::<u8>::new())
                .bind(now.as_millis())
                .execute(&mut *tx)
                .await?;
        }
        let cursor = self.locked(tx, claim.cursor).await?;
        let may_open = |(era, position, condition, _): &Locked| {
            (*era, *position) == (claim.era.0, claim.position.0) && condition != "held"
        };
        if !cursor.as_ref().is_some_and(may_open) {
            return Ok(None);
        }
        let lease_until = now.after(claim.lease);
        let number: Option<i64> = sqlx::query_scalar(CLAIM)
            .bind(stream.0)
            .bind(handler.0)
            .bind(claim.era.0)
            .bind(claim.position.0)
            .bind(claim.upto.0)
            .bind(i64::from(claim.attempt))
            .bind(claim.consumer.as_str())
            .bind(lease_until.as_millis())
            .bind(claim.before)
            .bind(now.before(LEASE_MARGIN).as_millis())
            .fetch_optional(&mut *tx)
            .await?;
        Ok(number.map(|number| OpenedDelivery {
            token: Token {
                cursor: claim.cursor,
                era: claim.era,
                position: claim.position,
                number,
            },
            lease_until,
        }))
    }

    async fn locked(&self, tx: &mut Tx, cursor: CursorId) -> Result<Option<Locked>, Error> {
        Ok(sqlx::query_as(self.sql(LOCK_CURSOR))
            .bind(cursor.stream.0)
            .bind(cursor.handler.0)
            .fetch_optional(&mut *tx)
            .await?)
    }

    /// Settles consumers' answers in one transaction. `decide` is called once per cursor, by its index
    /// in `cursors`, in the order of cursors; it sees cursor and delivery, both locked, and returns the
    /// change to write. The result is `None` for a cursor that never had a delivery. On return, every
    /// change is on stable storage.
    ///
    /// # Errors
    /// Nothing was changed, except after a lost connection: then the outcome is unknown, and the same
    /// answers may be settled again.
    pub async fn settle(
        &self,
        cursors: &[CursorId],
        mut decide: impl FnMut(usize, &LockedDelivery) -> Settlement + Send,
    ) -> Result<Vec<Option<SettledDelivery>>, Error> {
        let mut order: Vec<_> = (0..cursors.len()).collect();
        order.sort_by_key(|index| cursors[*index]);
        let mut settled = vec![None; cursors.len()];
        let mut writing = self.begin().await?;
        let now = self.clock_of(&mut writing.tx).await?;
        for index in order {
            let tx = &mut writing.tx;
            if let Some(found) = self.found(tx, cursors[index], now).await? {
                let settle = decide(index, &found);
                settled[index] = Some(write(tx, &found, settle).await?);
            }
        }
        writing.commit().await?;
        Ok(settled)
    }

    async fn found(
        &self,
        tx: &mut Tx,
        cursor: CursorId,
        now: Timestamp,
    ) -> Result<Option<LockedDelivery>, Error> {
        let Some((era, position, _, chain)) = self.locked(tx, cursor).await? else {
            return Ok(None);
        };
        let row: Option<Row> = sqlx::query_as(self.sql(LOCK_DELIVERY))
            .bind(cursor.stream.0)
            .bind(cursor.handler.0)
            .fetch_optional(&mut *tx)
            .await?;
        Ok(row.map(|row| LockedDelivery {
            delivery: row.into(),
            era: Era(era),
            position: Position(position),
            chain: Chain::from_bytes(chain),
            now,
        }))
    }

    /// Closes deliveries that no consumer received; the try is not counted.
    ///
    /// # Errors
    /// The deliveries stay open until their leases end.
    pub async fn give_back(&self, tokens: &[Token]) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        for token in tokens {
            sqlx::query(GIVE_BACK)
                .bind(token.cursor.stream.0)
                .bind(token.cursor.handler.0)
                .bind(token.number)
                .execute(&mut writing.tx)
                .await?;
        }
        writing.commit().await
    }
}

/// Era, position, condition and chain of a locked cursor.
type Locked = (i64, i64, String, Vec<u8>);

async fn write(
    tx: &mut Tx,
    found: &LockedDelivery,
    settle: Settlement,
) -> Result<SettledDelivery, Error> {
    let delivery = &found.delivery;
    let changes = !matches!(settle, Settlement::Nothing);
    let dropped = matches!(settle, Settlement::Drop);
    let (position, lease_until) = match settle {
        Settlement::Nothing => (found.position, delivery.lease_until),
        Settlement::Acknowledge { to, chain } => {
            move_to(tx, found, to, &chain, &Condition::Flowing).await?;
            (to, delivery.lease_until.filter(|_| to < delivery.upto))
        }
        Settlement::Close {
            to,
            chain,
            condition,
            skipped,
        } => {
            move_to(tx, found, to, &chain, &condition).await?;
            if let Some(letter) = skipped {
                bury(tx, found, letter).await?;
            }
            (to, None)
        }
        Settlement::Drop => (delivery.token.position, None),
        Settlement::Extend(lease) => (found.position, Some(found.now.after(lease))),
    };
    if changes {
        sqlx::query(LEASE)
            .bind(delivery.token.cursor.stream.0)
            .bind(delivery.token.cursor.handler.0)
            .bind(position.0)
            .bind(lease_until.map(Timestamp::as_millis))
            .execute(&mut *tx)
            .await?;
    }
    let position = match dropped {
        true => found.position,
        false => position,
    };
    Ok(SettledDelivery {
        position,
        lease_until,
    })
}

async fn move_to(
    tx: &mut Tx,
    found: &LockedDelivery,
    to: Position,
    chain: &Chain,
    condition: &Condition,
) -> Result<(), Error> {
    let retry_at = match condition {
        Condition::Waiting { retry_at, .. } => Some(retry_at.as_millis()),
        _ => None,
    };
    let cursor = found.delivery.token.cursor;
    sqlx::query(MOVE)
        .bind(cursor.stream.0)
        .bind(cursor.handler.0)
        .bind(to.0)
        .bind(chain.as_bytes().to_vec())
        .bind(condition.word())
        .bind(condition.reason().map(str::to_owned))
        .bind(retry_at)
        .bind(i64::from(condition.tries()))
        .bind(found.now.as_millis())
        .bind(held_by(condition))
        .execute(&mut *tx)
        .await?;
    Ok(())
}

async fn bury(tx: &mut Tx, found: &LockedDelivery, letter: DeadLetter) -> Result<(), Error> {
    let cursor = found.delivery.token.cursor;
    sqlx::query(BURY)
        .bind(cursor.handler.0)
        .bind(cursor.stream.0)
        .bind(letter.seq.0)
        .bind(letter.reason)
        .bind(found.now.as_millis())
        .execute(&mut *tx)
        .await?;
    Ok(())
}
