//! Cursors whose delivery was in flight when its node gave up their lane.

use super::{Error, Store};
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::hook::HandlerId;

const MARK: &str = "insert into in_flight (stream, handler, node) values ($1, $2, $3)
    on conflict (stream, handler) do update set node = excluded.node";

const UNMARK: &str = "delete from in_flight where stream = $1 and handler = $2 and node = $3";

/// Rows of removed nodes do not count: a node never returns under its id.
const ELSEWHERE: &str = "select f.stream, f.handler from in_flight f
    join nodes n on n.id = f.node where f.node <> $1";

const FORGET: &str = "delete from in_flight where node not in (select id from nodes)";

impl Store {
    /// Records that `node` has deliveries of these cursors in flight. A failed call records none.
    pub async fn mark_in_flight(&self, cursors: &[CursorId], node: &str) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        sqlx::query(FORGET).execute(&mut writing.tx).await?;
        for cursor in cursors {
            sqlx::query(MARK)
                .bind(cursor.stream.0)
                .bind(cursor.handler.0)
                .bind(node)
                .execute(&mut writing.tx)
                .await?;
        }
        writing.commit().await
    }

    /// Records that a delivery of `node` has ended. After a failed call the row counts until the node
    /// is removed.
    pub async fn unmark_in_flight(&self, cursor: CursorId, node: &str) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        sqlx::query(UNMARK)
            .bind(cursor.stream.0)
            .bind(cursor.handler.0)
            .bind(node)
            .execute(&mut writing.tx)
            .await?;
        writing.commit().await
    }

    /// Cursors that live nodes other than `me` have in flight.
    pub async fn in_flight_elsewhere(&self, me: &str) -> Result<Vec<CursorId>, Error> {
        let rows: Vec<(i64, i64)> = sqlx::query_as(ELSEWHERE)
            .bind(me)
            .fetch_all(&self.reader)
            .await?;
        let cursor = |(stream, handler)| CursorId {
            stream: StreamId(stream),
            handler: HandlerId(handler),
        };
        Ok(rows.into_iter().map(cursor).collect())
    }
}
