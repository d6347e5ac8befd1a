//! Check of a server for damaged events. The server checks its pages itself.

use rand::RngExt as _;
use sqlx::{PgConnection, Row as _};

use super::rows::event_at;
use crate::domain::event::StreamId;
use crate::store::backend::ops::DamageCheck;

/// Number of events that are picked.
const EVENTS: u32 = 64;

/// Compares randomly chosen events with their checksums, the newest one among them.
///
/// # Errors
/// Errors of the server.
pub async fn check_damage(db: &mut PgConnection) -> Result<DamageCheck, sqlx::Error> {
    const ENDS: &str = "select (select id from events order by id limit 1),
        (select id from events order by id desc limit 1)";
    const PICK: &str = "select e.stream, e.seq, e.id, e.received_at, e.key_id, e.dedupe_key, e.headers, e.body, e.checksum, null::text
        from unnest($1::bytea[]) as u (id)
        cross join lateral (select * from events e where e.id >= u.id order by e.id limit 1) e";
    let mut found = DamageCheck::default();
    let ends: (Option<Vec<u8>>, Option<Vec<u8>>) = sqlx::query_as(ENDS).fetch_one(&mut *db).await?;
    let (Some(first), Some(last)) = ends else {
        return Ok(found);
    };
    // The first bytes of an id are the receive time.
    let clock = |id: &[u8]| {
        let front = id.first_chunk::<8>().copied().unwrap_or_default();
        u64::from_be_bytes(front)
    };
    let (from, to) = (clock(&first), clock(&last).max(clock(&first)));
    let mut ids = vec![last];
    let picked = (1..EVENTS).map(|_| rand::rng().random_range(from..=to));
    ids.extend(picked.map(|at| at.to_be_bytes().to_vec()));
    let rows = sqlx::query(PICK).bind(ids).fetch_all(&mut *db).await?;
    for row in &rows {
        found.note(event_at(StreamId(row.try_get(0)?), row, 1)?);
    }
    Ok(found)
}
