//! Detects that the database server was replaced, and finds acknowledged events that the new one lacks.
//!
//! A promoted standby has a new timeline; a server restored elsewhere has another system number. Either
//! may lack the newest acknowledged events. A SQLite file has no such history.

use sqlx::FromRow;

use super::backend::ops::{History, Place};
use super::{Error, Store};
use crate::domain::event::{EventId, StreamId};
use crate::domain::hook::HookId;
use crate::domain::name::OrderingKey;
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;

/// Outcome of accepting a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptedServer {
    /// True if this server is another one than the last that was written to, and no node had noticed
    /// before.
    pub is_new: bool,
    /// Number of cursors that were held because their position was beyond the head of their stream.
    pub halted: u64,
}

/// An acknowledged event that the server does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostEvent {
    /// Id of the event.
    pub id: EventId,
    /// Its hook.
    pub hook: HookId,
    /// Its ordering key; `None` where the stream is lost too.
    pub key: Option<String>,
    /// Its former place; `None` if it was held back. Another event may have the seq now.
    pub place: Option<(StreamId, Seq)>,
    /// Id of the node that acknowledged it.
    pub node: String,
    /// Time at which it was found missing.
    pub found_at: Timestamp,
}

/// Step by which epochs are raised on a new server. It may lack the newest epochs that are already in
/// use in Redis.
pub(super) const EPOCHS: i64 = 1 << 20;

const NOTE: &str = "update counters set value = $2 where name = $1 and value <> $2";

pub(super) const RAISE: &str = "update counters set value = value + $1 where name = 'epoch'";

/// The server may have lost events whose places readers of a feed have already passed. Only Postgres has
/// such a server.
const SKIP_PLACES: &str = "select setval('event_places', nextval('event_places') + $1)";

const HALT: &str =
    "update cursors c set condition = 'held', held_by = 'failure', retry_at = null, reason =
      'the database lost events: position ' || c.position || ', but the head is ' || s.head
    from streams s where s.id = c.stream and c.position > s.head and c.condition <> 'held'";

const ADD: &str = "insert into lost_events (id, hook, stream, seq, ordering_key, node, found_at)
    values ($1, $2, $3, $4, $5, $6, $7) on conflict (id) do nothing";

const LIST: &str = "select l.id, l.hook, l.stream, coalesce(l.ordering_key, s.ordering_key) as ordering_key, l.seq, l.node, l.found_at
    from lost_events l left join streams s on s.id = l.stream and s.hook = l.hook
    where l.seen_at is null order by l.found_at, l.hook, l.stream, l.seq limit $1";

/// Number of events looked up by one query.
const PAGE: usize = 10_000;

impl Store {
    /// System number and timeline of the server; `None` on SQLite.
    ///
    /// # Errors
    /// [`Error::Lost`] also while the server is a standby.
    pub async fn history(&self) -> Result<Option<History>, Error> {
        let Some(statement) = self.backend.history_statement() else {
            return Ok(None);
        };
        let read = sqlx::query_as(statement).fetch_one(&self.reader).await?;
        let (system, timeline): (i64, Option<i64>) = read;
        let follows = || Error::Lost("the server only follows another one".into());
        let timeline = timeline.ok_or_else(follows)?;
        Ok(Some(History { system, timeline }))
    }

    /// Accepts this server as the current one. The first node to notice a new server raises the epochs
    /// and holds the cursors that stand beyond their head. Safe to repeat.
    pub async fn accept_history(&self, history: History) -> Result<AcceptedServer, Error> {
        const READ: &str = "select value from counters where name = 'timeline'";
        let mut writing = self.begin().await?;
        let last: i64 = sqlx::query_scalar(READ).fetch_one(&mut writing.tx).await?;
        let mut changed = 0;
        for (name, value) in [("timeline", history.timeline), ("system", history.system)] {
            let note = sqlx::query(NOTE).bind(name).bind(value);
            changed += note.execute(&mut writing.tx).await?.rows_affected();
        }
        let mut accepted = AcceptedServer::default();
        if changed > 0 && last != 0 {
            let raise = sqlx::query(RAISE).bind(EPOCHS);
            raise.execute(&mut writing.tx).await?;
            let skip = sqlx::query(SKIP_PLACES).bind(EPOCHS);
            skip.execute(&mut writing.tx).await?;
            let halted = sqlx::query(HALT).execute(&mut writing.tx).await?;
            accepted = AcceptedServer {
                is_new: true,
                halted: halted.rows_affected(),
            };
        }
        writing.commit().await?;
        self.backend.accept(history);
        Ok(accepted)
    }

    /// Looks for the events that this node acknowledged lately; records and returns the missing ones.
    ///
    /// # Errors
    /// The search may be repeated; an event is recorded once.
    pub async fn find_lost(&self, node: &str) -> Result<Vec<LostEvent>, Error> {
        let Some(acknowledged) = self.backend.acknowledged() else {
            return Ok(Vec::new());
        };
        let found_at = Timestamp::now();
        let mut lost = Vec::new();
        for page in acknowledged.chunks(PAGE) {
            let missing = self.backend.missing(page).await?;
            lost.extend(missing.into_iter().map(|event| LostEvent {
                id: event.id,
                hook: event.hook,
                key: match &event.place {
                    Place::HeldBack(key) => Some(key.as_str().to_owned()),
                    Place::Stream(..) => None,
                },
                place: event.place.in_stream(),
                node: node.to_owned(),
                found_at,
            }));
        }
        let mut writing = self.begin().await?;
        for event in &lost {
            let (stream, seq) = event
                .place
                .map_or((0, 0), |(stream, seq)| (stream.0, seq.0));
            sqlx::query(ADD)
                .bind(event.id.as_bytes().to_vec())
                .bind(event.hook.0)
                .bind(stream)
                .bind(seq)
                .bind(event.key.as_deref())
                .bind(&event.node)
                .bind(found_at.as_millis())
                .execute(&mut writing.tx)
                .await?;
        }
        writing.commit().await?;
        Ok(lost)
    }

    /// Lost events that no operator has confirmed yet, oldest finding first, at most `limit`.
    pub async fn lost_events(&self, limit: i64) -> Result<Vec<LostEvent>, Error> {
        let rows = sqlx::query_as(LIST).bind(limit);
        let rows: Vec<RawLost> = rows.fetch_all(&self.reader).await?;
        Ok(rows.into_iter().map(RawLost::lost).collect())
    }

    /// Number of unconfirmed lost events.
    pub async fn count_lost(&self) -> Result<u64, Error> {
        const COUNT: &str = "select count(*) from lost_events where seen_at is null";
        let count: i64 = sqlx::query_scalar(COUNT).fetch_one(&self.reader).await?;
        Ok(count.unsigned_abs())
    }

    /// Number of unconfirmed lost events of a stream, those included that were held back for it.
    pub async fn count_lost_of(
        &self,
        stream: StreamId,
        hook: HookId,
        key: &OrderingKey,
    ) -> Result<u64, Error> {
        const COUNT: &str = "select count(*) from lost_events where seen_at is null
            and (stream = $1 or hook = $2 and ordering_key = $3)";
        let count: i64 = sqlx::query_scalar(COUNT)
            .bind(stream.0)
            .bind(hook.0)
            .bind(key.as_str())
            .fetch_one(&self.reader)
            .await?;
        Ok(count.unsigned_abs())
    }

    /// Marks every lost event as known to the operator. Returns their number.
    pub async fn confirm_lost(&self, now: Timestamp) -> Result<u64, Error> {
        const SEE: &str = "update lost_events set seen_at = $1 where seen_at is null";
        let mut writing = self.begin().await?;
        let see = sqlx::query(SEE).bind(now.as_millis());
        let seen = see.execute(&mut writing.tx).await?.rows_affected();
        if seen > 0 {
            writing.tell_note(serde_json::json!({"events": seen}));
            writing.commit().await?;
        }
        Ok(seen)
    }
}

#[derive(FromRow)]
struct RawLost {
    id: Vec<u8>,
    hook: i64,
    stream: i64,
    ordering_key: Option<String>,
    seq: i64,
    node: String,
    found_at: i64,
}

impl RawLost {
    fn lost(self) -> LostEvent {
        LostEvent {
            id: EventId::from_bytes(self.id.try_into().unwrap_or_default()),
            hook: HookId(self.hook),
            key: self.ordering_key,
            place: (self.seq > 0).then_some((StreamId(self.stream), Seq(self.seq))),
            node: self.node,
            found_at: Timestamp::from_millis(self.found_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_earlier_timeline_of_the_same_server_is_before() {
        let history = |system, timeline| History { system, timeline };
        assert!(history(7, 1).is_before(history(7, 2)));
        assert!(!history(7, 2).is_before(history(7, 2)));
        assert!(!history(7, 3).is_before(history(7, 2)));
        assert!(!history(8, 1).is_before(history(7, 2)));
    }
}
