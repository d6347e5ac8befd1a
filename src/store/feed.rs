//! The events of all streams in one order, for readers of a whole hook.
//!
//! The order is that of places: row numbers of the log on SQLite, a sequence on Postgres. A place is drawn
//! while the stream is locked, so places keep the order of each stream.
//!
//! On Postgres, a place may become visible after a higher one, because transactions of several nodes
//! run at once. A reader that passed the higher one would miss it for ever. So readers go no further
//! than [`Store::feed_end`]: a visible place whose transaction, and every transaction that may have drawn
//! a lower place, has ended. A transaction locks the table `events` before it draws a place, and keeps
//! that lock until its rows are visible; `pg_locks` names these transactions. Other long transactions of
//! the server delay nobody.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use sqlx::FromRow;

use super::events::{Row, Stored, select_events};
use super::{Error, Statement, Store};
use crate::domain::event::StreamId;
use crate::domain::feed::LogPlace;
use crate::domain::hook::HookId;
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;

/// Number of places that one query scans; events of other hooks have most of them.
const SCANNED_MAX: i64 = 20_000;

/// Time for which an observation of the end of the log is used.
const FRESH: Duration = Duration::from_millis(5);

/// The end of the log.
#[derive(Clone, Copy, Debug)]
pub struct FeedEnd {
    /// Number of the database.
    pub log: i64,
    /// Every event up to this place is readable.
    pub place: LogPlace,
    /// Every event that was acknowledged before this time is up to `place`.
    pub at: Timestamp,
    /// Highest place that was ever given. Another node may already read almost as far as this.
    pub highest: LogPlace,
}

/// The events that retention has removed from a hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedFloor {
    /// Highest place that was removed.
    pub place: LogPlace,
    /// Number of removals.
    pub cuts: i64,
}

/// Selects a part of the log.
#[derive(Clone, Copy, Debug)]
pub struct FeedRange {
    /// Only events of this hook.
    pub hook: Option<HookId>,
    /// Only events received at or after this time.
    pub since: Option<Timestamp>,
    /// Only events behind this place.
    pub after: LogPlace,
    /// Only events up to this place.
    pub until: LogPlace,
    /// Number of events at most.
    pub limit: i64,
    /// Bytes after which no further event is read.
    pub bytes_max: i64,
}

/// A part of the log.
#[derive(Debug, Default)]
pub struct FeedPart {
    /// The events, in order.
    pub events: Vec<(LogPlace, Stored)>,
    /// Place up to which these are all events of the range.
    pub reached: LogPlace,
}

/// The folded state of a stream.
#[derive(Debug, FromRow)]
pub struct StoredState {
    /// Id of the stream.
    pub stream: i64,
    /// Name of its hook.
    pub hook: String,
    /// Its ordering key.
    pub ordering_key: String,
    head: i64,
    position: i64,
    /// Era of the cursor.
    pub era: i64,
    /// The state as JSON.
    pub state: Option<String>,
    updated_at: i64,
}

impl StoredState {
    /// Seq of the last event in the state.
    pub fn position(&self) -> Position {
        Position(self.position)
    }

    /// Seq of the newest event of the stream. The row of a stream may lack the newest events.
    pub fn head(&self) -> Seq {
        Seq(self.head.max(self.position))
    }

    /// Time of the last change.
    pub fn updated_at(&self) -> Option<Timestamp> {
        (self.updated_at > 0).then(|| Timestamp::from_millis(self.updated_at))
    }
}

/// The highest place that is known to be complete. Shared by all readers of this node.
#[derive(Debug, Default)]
pub struct FeedWatermark(tokio::sync::Mutex<Settling>);

#[derive(Debug, Default)]
struct Settling {
    /// The last answer and its time: many readers wake at once, and one observation serves them all.
    last: Option<(Instant, FeedEnd)>,
    /// Place up to which the log is complete, and the time at which no higher one was visible.
    end: (i64, Timestamp),
    /// A visible place, the time at which no higher one was visible, and the transactions that may have
    /// drawn a lower one and still run.
    pending: Option<(i64, Timestamp, HashSet<String>)>,
}

impl Settling {
    /// Takes in an observation: the highest place that was visible at a time, and the transactions that
    /// were writing after that. Returns the place up to which the log is complete.
    fn observe(&mut self, newest: i64, at: Timestamp, writers: HashSet<String>) -> i64 {
        if let Some((place, since, waited_for)) = &mut self.pending {
            waited_for.retain(|writer| writers.contains(writer));
            if waited_for.is_empty() {
                self.end = (self.end.0.max(*place), *since);
                self.pending = None;
            }
        }
        match &self.pending {
            None if writers.is_empty() => self.end = (self.end.0.max(newest), at),
            None => self.pending = Some((newest, at, writers)),
            Some(_) => {}
        }
        self.end.0
    }
}

/// Number of the database, highest given place, highest visible one, and the transactions that may still
/// store events.
///
/// On Postgres the statement takes its snapshot first and reads the locks after it. That order matters: a
/// transaction that is missing in both has ended before the locks were read, so a later snapshot has its
/// rows.
const END: Statement = Statement {
    sqlite: "select (select value from counters where name = 'cluster'),
          max(coalesce((select max(n) from log), 0),
            (select value from counters where name = 'indexed')),
          coalesce((select max(n) from log), 0), ''",
    postgres: "select (select value from counters where name = 'cluster'),
          (select last_value from event_places), coalesce((select max(place) from events), 0),
          coalesce((select string_agg(l.virtualtransaction, ',') from pg_locks l
            where l.locktype = 'relation' and l.mode = 'RowExclusiveLock' and l.granted
              and l.relation = 'events'::regclass
              and l.database = (select oid from pg_database where datname = current_database())), '')",
};

const FLOOR: &str = "select place, cuts from feed_floors where hook = $1";

/// Builds a statement over the events of a range: after $1, up to $2, of hook $3, since $4. Stream and
/// hook are looked up for each event, never the other way round.
macro_rules! of_range {
    ($select:ident, $($rest:tt)*) => {
        Statement {
            sqlite: $select!(
                "cast(e.headers as blob)",
                "e.n",
                "log e cross join streams s on s.id = e.stream
                  cross join hooks h on h.id = s.hook
                where e.n > $1 and e.n <= $2 and h.deleted_at is null
                  and ($3 is null or + s.hook = $3) and ($4 is null or e.received_at >= $4)
                order by e.n limit $5"
            ),
            postgres: $select!(
                "convert_to(e.headers, 'UTF8')",
                "e.place",
                "events e
                  cross join lateral (select x.hook, x.ordering_key from streams x
                    where x.id = e.stream and ($3 is null or x.hook = $3) limit 1) s
                  cross join lateral (select x.name from hooks x
                    where x.id = s.hook and x.deleted_at is null limit 1) h
                where e.place > $1 and e.place <= $2 and ($4 is null or e.received_at >= $4)
                order by e.place limit $5"
            ),
        }
    };
}

macro_rules! select_sizes {
    ($headers:literal, $place:literal, $from:literal) => {
        concat!(
            "select ",
            $place,
            ", e.stream, e.seq,
              cast(octet_length(e.body) + octet_length(e.headers) as bigint) from ",
            $from
        )
    };
}

macro_rules! select_whole {
    ($headers:literal, $place:literal, $from:literal) => {
        select_events!($headers, $from)
    };
}

const SIZES: Statement = of_range!(select_sizes,);

const EVENTS: Statement = of_range!(select_whole,);

const STATES: &str =
    "select s.id as stream, h.name as hook, s.ordering_key, s.head, c.position, c.era,
      c.state, c.updated_at
    from streams s join hooks h on h.id = s.hook
      join handlers k on k.hook = h.id and k.kind = 'reduce' and k.deleted_at is null
      join cursors c on c.stream = s.id and c.handler = k.id
    where h.deleted_at is null and s.id > $1 and ($2 is null or s.hook = $2)
      and ($3 is null or c.updated_at >= $3)
    order by s.id limit $4";

impl Store {
    /// The end of the log, as far as it is complete. It may lag behind by a transaction or two. `reader` is
    /// the place of the reader; it may come from another node, which has looked later.
    pub async fn feed_end(&self, reader: LogPlace) -> Result<FeedEnd, Error> {
        // Held while the database is asked, so that observations are taken in as they were made.
        let mut settling = self.watermark.0.lock().await;
        match settling.last {
            Some((at, end)) if at.elapsed() < FRESH && reader <= end.highest => return Ok(end),
            _ => {}
        }
        let at = Timestamp::now();
        let read = sqlx::query_as(self.sql(END)).fetch_one(&self.reader);
        let (log, highest, newest, writers): (i64, i64, i64, String) = read.await?;
        let writers = writers.split(',').filter(|writer| !writer.is_empty());
        let place = settling.observe(newest, at, writers.map(str::to_owned).collect());
        let end = FeedEnd {
            log,
            place: LogPlace(place),
            at: settling.end.1,
            highest: LogPlace(highest.max(place)),
        };
        settling.last = Some((Instant::now(), end));
        Ok(end)
    }

    /// The events that retention has removed from a hook.
    pub async fn feed_floor(&self, hook: HookId) -> Result<FeedFloor, Error> {
        let read = sqlx::query_as(FLOOR).bind(hook.0);
        let row: Option<(i64, i64)> = read.fetch_optional(&self.reader).await?;
        let floor = |(place, cuts)| FeedFloor {
            place: LogPlace(place),
            cuts,
        };
        Ok(row.map(floor).unwrap_or_default())
    }

    /// The first events of a range. Reads a bounded number of places, so it may return no event although
    /// there are some further on: [`FeedPart::reached`] says where to go on.
    pub async fn feed_part(&self, range: &FeedRange) -> Result<FeedPart, Error> {
        let until = range.until.0.min(range.after.0.saturating_add(SCANNED_MAX));
        let sizes: Vec<(i64, i64, i64, i64)> = sqlx::query_as(self.sql(SIZES))
            .bind(range.after.0)
            .bind(until)
            .bind(range.hook.map(|hook| hook.0))
            .bind(range.since.map(Timestamp::as_millis))
            .bind(range.limit)
            .fetch_all(&self.reader)
            .await?;
        let fit = fitting(sizes.iter().map(|(.., bytes)| *bytes), range.bytes_max);
        let is_whole = fit == sizes.len() && i64::try_from(fit).is_ok_and(|fit| fit < range.limit);
        let reached = match sizes[..fit].last() {
            Some((last, ..)) if !is_whole => *last,
            _ => until,
        };
        if fit == 0 {
            return Ok(FeedPart {
                events: Vec::new(),
                reached: LogPlace(reached),
            });
        }
        let rows: Vec<Row> = sqlx::query_as(self.sql(EVENTS))
            .bind(range.after.0)
            .bind(reached)
            .bind(range.hook.map(|hook| hook.0))
            .bind(range.since.map(Timestamp::as_millis))
            .bind(range.limit)
            .fetch_all(&self.reader)
            .await?;
        let place = |(place, stream, seq, _): &(i64, i64, i64, i64)| ((*stream, *seq), *place);
        let places: HashMap<_, _> = sizes.iter().map(place).collect();
        let placed = |row: Row| {
            let stored = Stored::from(row);
            let StreamId(stream) = stored.event.stream;
            let place = places.get(&(stream, stored.event.seq.0))?;
            Some((LogPlace(*place), stored))
        };
        Ok(FeedPart {
            events: rows.into_iter().filter_map(placed).collect(),
            reached: LogPlace(reached),
        })
    }

    /// Folded states of streams with ids over `after`, in order of id, at most `limit`.
    pub async fn states(
        &self,
        hook: Option<HookId>,
        since: Option<Timestamp>,
        after: StreamId,
        limit: i64,
    ) -> Result<Vec<StoredState>, Error> {
        self.backend.index().await?;
        let read = sqlx::query_as(STATES)
            .bind(after.0)
            .bind(hook.map(|hook| hook.0))
            .bind(since.map(Timestamp::as_millis))
            .bind(limit);
        Ok(read.fetch_all(&self.reader).await?)
    }

    /// The highest id of a stream; zero without streams.
    pub async fn last_stream(&self) -> Result<StreamId, Error> {
        const READ: &str = "select coalesce(max(id), 0) from streams";
        let id = sqlx::query_scalar(READ).fetch_one(&self.reader).await?;
        Ok(StreamId(id))
    }
}

/// Number of first events that fit in `bytes_max`, but at least one.
fn fitting(sizes: impl Iterator<Item = i64>, bytes_max: i64) -> usize {
    let mut bytes = 0;
    let fits = sizes.enumerate().take_while(|(at, size)| {
        bytes += size;
        *at == 0 || bytes <= bytes_max
    });
    fits.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writers(names: &[&str]) -> HashSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_place_is_complete_when_all_that_wrote_beside_it_have_ended() {
        let mut settling = Settling::default();
        let mut now = 0;
        let mut observe = |newest, names: &[&str]| {
            now += 1;
            let place = settling.observe(newest, Timestamp::from_millis(now), writers(names));
            (place, settling.end.1.as_millis())
        };
        assert_eq!(observe(5, &[]), (5, 1));
        assert_eq!(observe(9, &["a", "b"]), (5, 1));
        assert_eq!(observe(12, &["b", "c"]), (5, 1), "b still runs");
        assert_eq!(observe(14, &["c", "d"]), (9, 2), "c came later");
        assert_eq!(observe(14, &["e"]), (14, 4));
        assert_eq!(observe(14, &[]), (14, 6));
        assert_eq!(observe(3, &[]), (14, 7), "it never goes back");
    }

    #[test]
    fn an_event_over_the_limit_goes_alone() {
        assert_eq!(fitting([9, 1].into_iter(), 5), 1);
        assert_eq!(fitting([2, 3, 1].into_iter(), 5), 2);
        assert_eq!(fitting([].into_iter(), 5), 0);
    }
}
