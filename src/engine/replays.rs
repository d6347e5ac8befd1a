//! Replays of stored events: temporary handlers, which take turns like any other and end with their
//! last event.

use super::Engine;
use super::catalog::Snapshot;
use crate::domain::cursor::CursorId;
use crate::domain::hook::{HandlerId, Replay};
use crate::domain::position::Position;
use crate::domain::time::Timestamp;
use crate::store::{CursorBacklog, Error};

impl Engine {
    /// Ends the replay of a cursor that has passed the last event. After a failed call, a sweep ends it.
    pub async fn end_replay(&self, cursor: CursorId, position: Position) -> Result<(), Error> {
        let replay = replay(&self.catalog.peek(), cursor.handler);
        let Some(replay) = replay.filter(|replay| position.0 >= replay.to.0) else {
            return Ok(());
        };
        let now = Timestamp::now();
        if self.store.end_replay(cursor.handler, replay, now).await? {
            self.catalog.refresh().await?;
        }
        Ok(())
    }

    /// Replays with remaining events. Finished ones are removed here, in case their node ended before
    /// it could.
    pub(super) async fn replays(&self) -> Result<Vec<CursorBacklog>, Error> {
        if self.catalog.peek().replays.is_empty() {
            return Ok(Vec::new());
        }
        let all = self.store.replays_behind().await?;
        let (open, done): (Vec<_>, Vec<_>) = all.into_iter().partition(|replay| replay.events > 0);
        for behind in done {
            self.end_replay(behind.cursor, Position(i64::MAX)).await?;
        }
        Ok(open)
    }
}

fn replay(catalog: &Snapshot, handler: HandlerId) -> Option<Replay> {
    catalog.handlers.get(&handler)?.replay
}
