//! The server that this node has accepted, and the events it acknowledged there lately: a promoted
//! standby may not have all of them.
//!
//! Promises: once a connection has reached a server with another history, the hot path refuses to work
//! until [`RecentHistory::accept`] is called. With shared sessions, each transaction may reach another server.
//! Left to others: reacting to it (`engine/ownership.rs`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::domain::event::StreamId;
use crate::store::backend::ops::{Acknowledged, History};

/// Reads system number and timeline. The timeline is that of the WAL being written:
/// `pg_control_checkpoint` shows the old one until the first checkpoint after a failover, which may be
/// minutes later. Null on a standby.
pub const HISTORY: &str = "select system_identifier, case when not pg_is_in_recovery() then
      ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint end
    from pg_control_system()";

/// Acknowledged events are kept for this long, counted back from the newest.
const KEPT: Duration = Duration::from_secs(60);

/// Number of acknowledged events kept.
const KEPT_MAX: usize = 1_000_000;

#[derive(Default)]
pub struct RecentHistory {
    server: Mutex<Servers>,
    acknowledged: Mutex<Recent>,
}

#[derive(Default)]
struct Servers {
    known: Option<History>,
    is_other: bool,
}

/// Recently acknowledged events, one entry for each batch.
#[derive(Default)]
struct Recent {
    batches: VecDeque<(Instant, Vec<Acknowledged>)>,
    events: usize,
}

impl RecentHistory {
    /// Records the history of the server that a connection has reached, from a row of [`HISTORY`].
    ///
    pub fn note(&self, row: &PgRow) -> Result<(), sqlx::Error> {
        let timeline: Option<i64> = row.try_get(1)?;
        let Some(timeline) = timeline else {
            return Err(sqlx::Error::Protocol("the server only follows".into()));
        };
        let found = History {
            system: row.try_get(0)?,
            timeline,
        };
        let mut server = self.server.lock();
        server.is_other |= *server.known.get_or_insert(found) != found;
        Ok(())
    }

    /// True if a connection has reached another server than the accepted one.
    pub fn is_other(&self) -> bool {
        self.server.lock().is_other
    }

    /// Accepts a server.
    pub fn accept(&self, history: History) {
        *self.server.lock() = Servers {
            known: Some(history),
            is_other: false,
        };
    }

    /// Records a batch that was stored at `now`.
    pub fn acknowledged(&self, batch: Vec<Acknowledged>, now: Instant) {
        if batch.is_empty() {
            return;
        }
        let mut recent = self.acknowledged.lock();
        recent.events += batch.len();
        recent.batches.push_back((now, batch));
        while recent.is_too_much(now) {
            let gone = recent.batches.pop_front();
            recent.events -= gone.map_or(0, |(_, batch)| batch.len());
        }
    }

    /// Events of the last minute that had any, oldest first.
    pub fn recent(&self) -> Vec<Acknowledged> {
        let recent = self.acknowledged.lock();
        let batches = recent.batches.iter();
        batches.flat_map(|(_, batch)| batch).cloned().collect()
    }

    /// Drops the events of streams that no longer exist, so that they do not count as lost.
    pub fn forget(&self, gone: &[StreamId]) {
        let mut recent = self.acknowledged.lock();
        let stays = |event: &Acknowledged| {
            let place = event.place.in_stream();
            place.is_none_or(|(stream, _)| !gone.contains(&stream))
        };
        for (_, batch) in &mut recent.batches {
            batch.retain(stays);
        }
        recent.events = recent.batches.iter().map(|(_, batch)| batch.len()).sum();
    }
}

impl Recent {
    fn is_too_much(&self, now: Instant) -> bool {
        let is_old = |(at, _): &(Instant, _)| now.saturating_duration_since(*at) > KEPT;
        self.events > KEPT_MAX || self.batches.front().is_some_and(is_old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventId;
    use crate::domain::hook::HookId;
    use crate::domain::position::Seq;
    use crate::store::backend::ops::Place;

    fn batch(count: usize) -> Vec<Acknowledged> {
        let event = Acknowledged {
            id: EventId::from_bytes([0; 16]),
            hook: HookId(1),
            place: Place::Stream(StreamId(1), Seq(1)),
        };
        vec![event; count]
    }

    #[test]
    fn a_minute_is_kept_however_long_ago_it_was_and_never_too_much() {
        let past = RecentHistory::default();
        let began = Instant::now();
        past.acknowledged(batch(3), began);
        past.acknowledged(batch(2), began + KEPT);
        assert_eq!(past.recent().len(), 5);
        past.acknowledged(batch(1), began + KEPT + Duration::from_secs(1));
        assert_eq!(past.recent().len(), 3);
        past.acknowledged(batch(KEPT_MAX), began + KEPT + Duration::from_secs(2));
        assert_eq!(past.recent().len(), KEPT_MAX);
    }

    #[test]
    fn a_server_is_another_one_until_it_is_accepted() {
        let past = RecentHistory::default();
        let history = |timeline| History {
            system: 7,
            timeline,
        };
        past.accept(history(1));
        assert!(!past.is_other());
        past.server.lock().is_other = true;
        past.accept(history(2));
        assert!(!past.is_other());
    }
}
