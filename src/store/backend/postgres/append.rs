//! Stores a batch by one call of a database function, and resolves unknown outcomes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::FromRow;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::QueryAs;

use super::{Postgres, jitter, settle};
use crate::domain::event::{Event, EventId, StreamId};
use crate::domain::hook::HookId;
use crate::domain::lane::Slot;
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;
use crate::domain::version::{Late, Version};
use crate::store::Error;
use crate::store::backend::ops::{
    Acknowledged, Appended, Due, NewEvent, Place, RELEASED_BYTES_MAX, RELEASED_MAX, Released,
};

/// Time limit for resolving an unknown outcome; the senders that wait for it have a deadline too.
const RESOLVE_MAX: Duration = Duration::from_secs(6);

/// Limit in place of [`RESOLVE_MAX`] while the server gives no answer at all. Other batches wait behind this one and fail
/// at once after it.
const RESOLVE_SILENT: Duration = Duration::from_millis(500);

/// Pause between two attempts to resolve, without the jitter.
const RESOLVE_PAUSE: Duration = Duration::from_millis(50);

const INGEST: &str = "select ord, outcome, stream, seq, slot, id, received_at, late
    from hooklane_ingest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

const APPEND: &str = "select r_stream, r_slot, r_head
    from hooklane_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

const WAIT: &str = "select ord, outcome, id, seq, received_at
    from hooklane_wait($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";

const RELEASE: &str = "select hook, stream, seq, slot, received_at, late
    from hooklane_release($1, $2, $3, $4)";

/// One row of the answer of `hooklane_wait`.
type HeldRow = (i64, String, Option<Vec<u8>>, Option<i64>, Option<i64>);

/// One row of the answer of `hooklane_release`.
type ReleasedRow = (i64, i64, i64, i64, i64, Option<String>);

/// Database function that takes the events of a call.
#[derive(Clone, Copy)]
enum Call {
    Number,
    HoldBack,
}

/// Ids, slots and heads of the streams, in the order of the request; `None` means that nothing was
/// stored.
type Placed = (Option<Vec<i64>>, Option<Vec<i64>>, Option<Vec<i64>>);

/// One row of the answer of `hooklane_ingest`.
type Row = (
    i64,
    String,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<Vec<u8>>,
    Option<i64>,
    Option<String>,
);

impl Postgres {
    /// Stores a batch in one transaction, in its order, and returns the outcome of each event. On
    /// return, new events are on stable storage and readable. Batches that are stored at the same time
    /// have no order between them.
    ///
    /// # Errors
    /// Nothing is stored, except after a lost connection: then the outcome is unknown.
    pub async fn append(&self, batch: Vec<NewEvent>) -> Result<Vec<Appended>, Error> {
        let is_held = |at: &usize| batch[*at].due_at().is_some();
        let (held, direct): (Vec<_>, Vec<_>) = (0..batch.len()).partition(is_held);
        let of = |places: &[usize]| places.iter().map(|at| &batch[*at]).collect::<Vec<_>>();
        let mut appended = vec![Appended::Refused; batch.len()];
        let waiting = self.store(&of(&held), Call::HoldBack).await?;
        for (at, outcome) in held.iter().zip(waiting) {
            appended[*at] = outcome;
        }
        for (at, outcome) in direct.iter().zip(self.number(&of(&direct)).await?) {
            appended[*at] = outcome;
        }
        Ok(appended)
    }

    /// Stores events and gives each a seq, in their order.
    async fn number(&self, batch: &[&NewEvent]) -> Result<Vec<Appended>, Error> {
        let mut appended = self.store(batch, Call::Number).await?;
        // A stream that was purged and created again while the call waited for its lock is reported as
        // gone. Only a second such answer means that the hook is deleted.
        let is_gone = |at: &usize| appended[*at] == Appended::Gone;
        let gone: Vec<usize> = (0..batch.len()).filter(is_gone).collect();
        let again: Vec<&NewEvent> = gone.iter().map(|at| batch[*at]).collect();
        let stored = self.store(&again, Call::Number).await?;
        for (at, outcome) in gone.into_iter().zip(stored) {
            appended[at] = outcome;
        }
        Ok(appended)
    }

    /// Stores events together. When the database refuses them, stores each on its own, so that one bad
    /// event fails alone.
    async fn store(&self, events: &[&NewEvent], call: Call) -> Result<Vec<Appended>, Error> {
        match self.resolve(events, call).await {
            Err(Error::Integrity(_)) => {}
            known => return known,
        }
        let mut appended = Vec::with_capacity(events.len());
        for event in events {
            appended.push(match self.resolve(&[*event], call).await {
                Ok(one) => one.first().copied().unwrap_or(Appended::Refused),
                Err(Error::Integrity(_)) => Appended::Refused,
                Err(error) => return Err(error),
            });
        }
        Ok(appended)
    }

    /// Stores events together and retries a deadlock once. When the connection is lost, the same events
    /// are sent again, and the function first looks for their ids. The lock on their streams waits for
    /// the lost statement to end, so each event is either found or known not to exist and stored now.
    async fn resolve(&self, events: &[&NewEvent], call: Call) -> Result<Vec<Appended>, Error> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + RESOLVE_MAX;
        let (mut lost, mut contended) = (None, false);
        loop {
            let again = lost.is_some();
            let answer = match call {
                Call::Number => self.ingest(events, again).await,
                Call::HoldBack => self.wait(events, again).await,
            };
            match answer {
                Ok(appended) => return Ok(appended),
                Err(Error::Contended(..)) if !contended => contended = true,
                Err(error)
                    if lost.is_none() && !matches!(error, Error::Lost(_) | Error::Memory(_)) =>
                {
                    return Err(error);
                }
                // Only an answer can resolve a lost outcome, and a silent server will not answer in
                // time.
                Err(error) if Instant::now() > deadline || self.is_silent() => {
                    return Err(lost.unwrap_or(error));
                }
                Err(error) => {
                    lost = lost.or(Some(error));
                    tokio::time::sleep(RESOLVE_PAUSE).await;
                }
            }
            jitter().await;
        }
    }

    /// True if the server has been silent for so long that unknown outcomes are not resolved. One that
    /// refuses connections is waited for: a restart takes seconds.
    fn is_silent(&self) -> bool {
        let lasts = self.silence.lasts_unanswered();
        lasts.is_some_and(|lasts| lasts > RESOLVE_SILENT)
    }

    async fn ingest(&self, events: &[&NewEvent], again: bool) -> Result<Vec<Appended>, Error> {
        let began = Instant::now();
        let result = match again {
            true => self.call_ingest(events, again).await,
            false => self.append_or_ingest(events).await,
        };
        let appended = result.iter().flatten();
        let stored: Vec<_> = events.iter().zip(appended).filter_map(placed).collect();
        self.report(began, stored.len(), 0, &result);
        let known = appended_ids(events, &result);
        self.past.acknowledged(known, Instant::now());
        self.memory.stored(stored.into_iter());
        result
    }

    /// Stores events by the quick function if nothing about them is unusual, else by the general one.
    async fn append_or_ingest(&self, events: &[&NewEvent]) -> Result<Vec<Appended>, Error> {
        let plan = Plan::of(events);
        if !plan.is_unusual
            && let Some(appended) = self.call_append(events, &plan).await?
        {
            return Ok(appended);
        }
        self.call_ingest(events, false).await
    }

    /// Calls the quick function; `None` means that it stored nothing, because a stream does not exist
    /// or an event is a repeat.
    async fn call_append(
        &self,
        events: &[&NewEvent],
        plan: &Plan<'_>,
    ) -> Result<Option<Vec<Appended>>, Error> {
        let streams = || plan.streams.iter();
        let mut db = self.connection().await?;
        let call = sqlx::query_as::<_, Placed>(APPEND)
            .bind(streams().map(|s| s.hook).collect::<Vec<_>>())
            .bind(streams().map(|s| s.key).collect::<Vec<_>>())
            .bind(streams().map(|s| s.count).collect::<Vec<_>>())
            .bind(&plan.stream)
            .bind(&plan.nth)
            .bind(column(events, |event| *event.id.as_bytes()))
            .bind(column(events, |event| event.received_at.as_millis()))
            .bind(column(events, |event| event.key_id))
            .bind(column(events, |event| event.dedupe_key.as_deref()))
            .bind(column(events, |event| &*event.headers))
            .bind(column(events, |event| &*event.body))
            .bind(column(events, NewEvent::checksum))
            .bind(plan.has_keys);
        let answer = self.answer(call.fetch_one(&mut db)).await;
        Ok(plan.outcomes(settle(db, answer).await?))
    }

    async fn call_ingest(&self, events: &[&NewEvent], again: bool) -> Result<Vec<Appended>, Error> {
        let mut db = self.connection().await?;
        let call = with_events::<Row>(INGEST, events)
            .bind(column(events, |event| event.version().map(Version::as_str)))
            .bind(column(events, policy))
            .bind(again);
        let answer = self.answer(call.fetch_all(&mut db)).await;
        Ok(outcomes(events, settle(db, answer).await?))
    }

    async fn wait(&self, events: &[&NewEvent], again: bool) -> Result<Vec<Appended>, Error> {
        let began = Instant::now();
        let result = self.call_wait(events, again).await;
        self.report(began, result.as_ref().map_or(0, Vec::len), 0, &result);
        let known = appended_ids(events, &result);
        self.past.acknowledged(known, Instant::now());
        result
    }

    async fn call_wait(&self, events: &[&NewEvent], again: bool) -> Result<Vec<Appended>, Error> {
        let due_at = |event: &NewEvent| event.due_at().unwrap_or_default().as_millis();
        let mut db = self.connection().await?;
        let call = with_events::<HeldRow>(WAIT, events)
            .bind(column(events, |event| {
                event.version().map_or("", Version::as_str)
            }))
            .bind(column(events, policy))
            .bind(column(events, due_at))
            .bind(again);
        let answer = self.answer(call.fetch_all(&mut db)).await;
        Ok(held_outcomes(events, settle(db, answer).await?))
    }

    /// Stores waiting events that are due, in the order of their versions. Stores nothing while another
    /// node does this.
    pub async fn release(&self, due: Due) -> Result<Vec<Released>, Error> {
        let began = Instant::now();
        let result = self.call_release(due).await;
        self.report(began, result.as_ref().map_or(0, Vec::len), 0, &result);
        result
    }

    async fn call_release(&self, due: Due) -> Result<Vec<Released>, Error> {
        let mut db = self.connection().await?;
        let call = sqlx::query_as::<_, ReleasedRow>(RELEASE)
            .bind(due.now.as_millis())
            .bind(due.far.as_millis())
            .bind(RELEASED_MAX)
            .bind(RELEASED_BYTES_MAX);
        let answer = self.answer(call.fetch_all(&mut db)).await;
        let rows = settle(db, answer).await?;
        let released = |(hook, stream, seq, slot, received_at, late): ReleasedRow| Released {
            hook: HookId(hook),
            stream: StreamId(stream),
            seq: Seq(seq),
            slot: Slot(u16::try_from(slot).unwrap_or_default()),
            received_at: Timestamp::from_millis(received_at),
            late: late_of(late.as_deref()),
        };
        Ok(rows.into_iter().map(released).collect())
    }
}

/// The new events of a result, which are acknowledged to their senders.
fn appended_ids(events: &[&NewEvent], result: &Result<Vec<Appended>, Error>) -> Vec<Acknowledged> {
    let appended = result.iter().flatten();
    let known = |(event, appended): (&&NewEvent, &Appended)| {
        let place = match appended {
            Appended::New { stream, seq, .. } => Place::Stream(*stream, *seq),
            Appended::HeldBack => Place::HeldBack(event.key.clone()),
            Appended::Duplicate { .. } | Appended::Gone | Appended::Refused => return None,
        };
        Some(Acknowledged {
            id: event.id,
            hook: event.hook,
            place,
        })
    };
    events.iter().zip(appended).filter_map(known).collect()
}

/// A new event at its place.
fn placed((event, appended): (&&NewEvent, &Appended)) -> Option<Arc<Event>> {
    match appended {
        Appended::New {
            stream, seq, late, ..
        } => Some(Arc::new(event.at(*stream, *seq, *late))),
        _ => None,
    }
}

/// The events of a batch, grouped by stream. Numbers begin at 1, as in the database.
#[derive(Default)]
struct Plan<'a> {
    streams: Vec<OfStream<'a>>,
    /// For each event, the number of its stream.
    stream: Vec<i64>,
    /// For each event, its number among the events of its stream.
    nth: Vec<i64>,
    has_keys: bool,
    /// True if an event has the dedupe key of an earlier one in the batch, or a version.
    is_unusual: bool,
}

struct OfStream<'a> {
    hook: i64,
    key: &'a str,
    count: i64,
}

impl<'a> Plan<'a> {
    fn of(events: &[&'a NewEvent]) -> Self {
        let mut plan = Self::default();
        let (mut known, mut keys) = (HashMap::new(), HashSet::new());
        for event in events {
            let (hook, key) = (event.hook.0, event.key.as_str());
            let at = *known.entry((hook, key)).or_insert(plan.streams.len());
            if at == plan.streams.len() {
                let count = 0;
                plan.streams.push(OfStream { hook, key, count });
            }
            plan.streams[at].count += 1;
            plan.nth.push(plan.streams[at].count);
            plan.stream.push(i64::try_from(at).unwrap_or(i64::MAX) + 1);
            plan.is_unusual |= event.version().is_some();
            if let Some(dedupe_key) = event.dedupe_key.as_deref() {
                plan.has_keys = true;
                plan.is_unusual |= !keys.insert((at, dedupe_key));
            }
        }
        plan
    }

    /// Outcome of each event, from the answers for the streams; `None` when nothing was stored.
    fn outcomes(&self, (streams, slots, heads): Placed) -> Option<Vec<Appended>> {
        let (streams, slots, heads) = (streams?, slots?, heads?);
        let new = |(stream, nth): (&i64, &i64)| {
            let at = usize::try_from(stream - 1).ok()?;
            Some(Appended::New {
                stream: StreamId(*streams.get(at)?),
                seq: Seq(heads.get(at)? + nth),
                slot: Slot(u16::try_from(*slots.get(at)?).unwrap_or_default()),
                late: None,
            })
        };
        self.stream.iter().zip(&self.nth).map(new).collect()
    }
}

fn column<'a, T>(events: &[&'a NewEvent], of: impl Fn(&'a NewEvent) -> T) -> Vec<T> {
    events.iter().map(|event| of(event)).collect()
}

/// A call of a function whose first ten arguments are the columns of events.
fn with_events<'q, R>(
    statement: &'static str,
    events: &[&'q NewEvent],
) -> QueryAs<'q, sqlx::Postgres, R, PgArguments>
where
    R: for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_as(statement)
        .bind(column(events, |event| event.hook.0))
        .bind(column(events, |event| event.key.as_str()))
        .bind(column(events, |event| i64::from(event.slot.0)))
        .bind(column(events, |event| *event.id.as_bytes()))
        .bind(column(events, |event| event.received_at.as_millis()))
        .bind(column(events, |event| event.key_id))
        .bind(column(events, |event| event.dedupe_key.as_deref()))
        .bind(column(events, |event| &*event.headers))
        .bind(column(events, |event| &*event.body))
        .bind(column(events, NewEvent::checksum))
}

/// Outcome of each event, in the order of the batch.
fn outcomes(events: &[&NewEvent], rows: Vec<Row>) -> Vec<Appended> {
    let mut appended = vec![Appended::Refused; events.len()];
    for (ord, outcome, stream, seq, slot, id, received_at, late) in rows {
        let Some(at) = usize::try_from(ord - 1)
            .ok()
            .filter(|at| *at < events.len())
        else {
            continue;
        };
        let (stream, seq) = (
            StreamId(stream.unwrap_or_default()),
            Seq(seq.unwrap_or_default()),
        );
        let slot = Slot(
            slot.and_then(|slot| u16::try_from(slot).ok())
                .unwrap_or_default(),
        );
        let id = id
            .and_then(|id| id.try_into().ok())
            .map(EventId::from_bytes);
        appended[at] = match (outcome.as_str(), id) {
            ("gone", _) => Appended::Gone,
            // An event found by its own id is the one whose outcome was lost, so it is new.
            ("dup", Some(id)) if id != events[at].id => Appended::Duplicate {
                id,
                seq: Some(seq),
                received_at: Timestamp::from_millis(received_at.unwrap_or_default()),
            },
            _ => Appended::New {
                stream,
                seq,
                slot,
                late: late_of(late.as_deref()),
            },
        };
    }
    appended
}

/// Outcome of each event that was to be held back, in the order of the batch.
fn held_outcomes(events: &[&NewEvent], rows: Vec<HeldRow>) -> Vec<Appended> {
    let mut appended = vec![Appended::Refused; events.len()];
    for (ord, outcome, id, seq, received_at) in rows {
        let at = usize::try_from(ord - 1).ok();
        let Some(one) = at.and_then(|at| appended.get_mut(at)) else {
            continue;
        };
        let id = id.and_then(|id| id.try_into().ok());
        *one = match (outcome.as_str(), id.map(EventId::from_bytes)) {
            ("dup", Some(id)) => Appended::Duplicate {
                id,
                seq: seq.map(Seq),
                received_at: Timestamp::from_millis(received_at.unwrap_or_default()),
            },
            ("wait", _) => Appended::HeldBack,
            _ => Appended::Gone,
        };
    }
    appended
}

/// Name of the treatment of an event if it is late.
fn policy(event: &NewEvent) -> &'static str {
    let late = event.provided.as_ref().map(|provided| provided.late);
    late.unwrap_or_default().word()
}

fn late_of(word: Option<&str>) -> Option<Late> {
    word.and_then(|word| word.parse().ok())
}
