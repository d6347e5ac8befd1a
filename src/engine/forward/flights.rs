//! Cursors with a delivery in flight, on this node or on nodes that gave their lanes to it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::cursor::CursorId;
use crate::domain::lane::LaneId;
use crate::engine::Engine;
use crate::store::Error;

/// Interval of checks for the ends of other nodes' deliveries.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Deliveries in flight, at most one for each cursor.
pub struct Flights {
    own: Mutex<HashMap<CursorId, Flight>>,
    /// Deliveries that other nodes had in flight when they gave up their lanes.
    others: Mutex<HashSet<CursorId>>,
    /// Held while rows of this node are added or removed.
    rows: tokio::sync::Mutex<()>,
    ended: watch::Sender<()>,
}

struct Flight {
    lane: LaneId,
    /// Configuration version at the begin of the delivery.
    version: i64,
    /// True if the delivery is recorded in the database for the next owner of its lane.
    is_marked: bool,
}

impl Default for Flights {
    fn default() -> Self {
        Self {
            own: Mutex::default(),
            others: Mutex::default(),
            rows: tokio::sync::Mutex::default(),
            ended: watch::channel(()).0,
        }
    }
}

/// Guard of a delivery in flight. Dropping it ends the delivery.
pub struct InFlight {
    engine: Arc<Engine>,
    cursor: CursorId,
}

impl Flights {
    /// Begins a delivery; `None` while the cursor has another one in flight.
    pub fn begin(
        &self,
        engine: &Arc<Engine>,
        cursor: CursorId,
        lane: &LaneId,
        version: i64,
    ) -> Option<InFlight> {
        if self.others.lock().contains(&cursor) {
            return None;
        }
        let mut own = self.own.lock();
        if own.contains_key(&cursor) {
            return None;
        }
        let flight = Flight {
            lane: lane.clone(),
            version,
            is_marked: false,
        };
        own.insert(cursor, flight);
        Some(InFlight {
            engine: engine.clone(),
            cursor,
        })
    }

    /// Waits until every delivery that began with a configuration older than `version` has ended.
    pub async fn ended_before(&self, version: i64) {
        let mut ended = self.ended.subscribe();
        while (self.own.lock().values()).any(|flight| flight.version < version) {
            if ended.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until no delivery is in flight.
    pub async fn ended(&self) {
        self.ended_before(i64::MAX).await;
    }

    /// Records in the database which cursors of these lanes have deliveries in flight. The next owner
    /// of a lane leaves them alone until they end. After a failed call each cursor may see one stale
    /// delivery, as after a crash.
    pub async fn mark(&self, engine: &Engine, lanes: &[LaneId], node: &str) -> Result<(), Error> {
        let _rows = self.rows.lock().await;
        let cursors: Vec<_> = {
            let mut own = self.own.lock();
            let of_lanes = own
                .iter_mut()
                .filter(|(_, flight)| lanes.contains(&flight.lane));
            of_lanes
                .map(|(cursor, flight)| {
                    flight.is_marked = true;
                    *cursor
                })
                .collect()
        };
        if cursors.is_empty() {
            return Ok(());
        }
        engine.store.mark_in_flight(&cursors, node).await?;
        // A delivery that ended meanwhile found no row to remove, so the row is removed here.
        let gone = |cursor: &CursorId| !self.own.lock().contains_key(cursor);
        for cursor in cursors.into_iter().filter(gone) {
            engine.store.unmark_in_flight(cursor, node).await?;
        }
        Ok(())
    }

    /// Removes the row of a delivery that has ended. A later delivery of the cursor that is recorded needs the row.
    async fn unmark(&self, engine: &Engine, cursor: CursorId, node: &str) -> Result<(), Error> {
        let _rows = self.rows.lock().await;
        let is_marked = |flight: &Flight| flight.is_marked;
        if self.own.lock().get(&cursor).is_some_and(is_marked) {
            return Ok(());
        }
        engine.store.unmark_in_flight(cursor, node).await
    }

    /// Reads which deliveries other nodes still have in flight. Called after lanes were taken and
    /// before their first turn.
    pub async fn look(&self, engine: &Engine, me: &str) -> Result<(), Error> {
        let found = engine.store.in_flight_elsewhere(me).await?;
        *self.others.lock() = found.into_iter().collect();
        Ok(())
    }

    /// Repeats [`Self::look`] while other nodes have deliveries in flight. Never returns.
    pub async fn watch(engine: Arc<Engine>) {
        let Some(member) = &engine.member else { return };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let flights = &engine.deliveries.forwards.flights;
            if !flights.others.lock().is_empty()
                && let Err(error) = flights.look(&engine, &member.id()).await
            {
                tracing::debug!(%error, "deliveries of other nodes are looked at again");
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let flights = &self.engine.deliveries.forwards.flights;
        let ended = flights.own.lock().remove(&self.cursor);
        flights.ended.send_replace(());
        let is_marked = ended.is_some_and(|flight| flight.is_marked);
        let Some(member) = self.engine.member.as_ref().filter(|_| is_marked) else {
            return;
        };
        let (engine, cursor, me) = (self.engine.clone(), self.cursor, member.id());
        tokio::spawn(async move {
            // While the row is there, no other node delivers events of this cursor.
            while let Err(error) = engine
                .deliveries
                .forwards
                .flights
                .unmark(&engine, cursor, &me)
                .await
            {
                if error.is_fatal() || engine.is_failing() {
                    return;
                }
                tracing::warn!(%error, "the end of a delivery is noted later");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
    }
}
