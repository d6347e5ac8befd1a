//! Removes events at the front of streams by one call of a database function.

use super::{Postgres, settle};
use crate::domain::hook::HookId;
use crate::domain::time::Timestamp;
use crate::store::Error;
use crate::store::backend::ops::{Cut, Prune, WALKED_MAX};
use crate::store::backend::session::Session;

const PRUNE: &str = "select stream from hooklane_prune($1, $2, $3, $4, $5, $6, $7, $8, $9)";

/// Ids begin with the receive time, so the smallest id is the oldest event.
const OLDEST: &str = "select e.id from streams s
    cross join lateral (select e.id from events e where e.stream = s.id and e.seq = s.floor + 1) e
    where s.hook = $1 order by e.id limit 1";

/// Scans the index of ids; events of other hooks that arrived meanwhile are passed over.
const WALK: &str = "select e.id, e.received_at,
      (octet_length(e.body) + octet_length(e.headers))::bigint
    from events e join streams s on s.id = e.stream
    where s.hook = $1 and e.id >= $2 order by e.id limit $3";

/// Number of events scanned by one query.
const STEP: usize = 5_000;

impl Postgres {
    /// Removes events and stores checkpoints in their place. Returns for each cut whether it was done.
    ///
    /// # Errors
    /// Nothing was removed, except after a lost connection: then the outcome is unknown until the
    /// floors are read.
    pub async fn prune(&self, prune: Prune) -> Result<Vec<bool>, Error> {
        let cuts = &prune.cuts;
        let mut db = self.connection().await?;
        let call = sqlx::query_scalar::<_, i64>(PRUNE)
            .bind(prune.hook.0)
            .bind(prune.reducer.map(|(handler, _)| handler.0))
            .bind(prune.reducer.map(|(_, fold)| fold))
            .bind(column(cuts, |cut| cut.stream.0))
            .bind(column(cuts, |cut| cut.floor.0))
            .bind(column(cuts, |cut| cut.to.0))
            .bind(column(cuts, |cut| cut.checkpoint.fold))
            .bind(column(cuts, |cut| cut.checkpoint.state.as_deref()))
            .bind(column(cuts, |cut| cut.checkpoint.chain.as_bytes()));
        let answer = self.answer(call.fetch_all(&mut db)).await;
        let pruned = settle(db, answer).await?;
        Ok(column(cuts, |cut| pruned.contains(&cut.stream.0)))
    }

    /// See [`crate::store::Store::oldest_bytes`].
    pub async fn oldest_bytes(&self, hook: HookId, bytes: i64) -> Result<Option<Timestamp>, Error> {
        let mut db = self.connection().await?;
        let oldest = walk(&mut db, hook, bytes).await?;
        db.end().await?;
        Ok(oldest)
    }
}

async fn walk(
    db: &mut Session<sqlx::Postgres>,
    hook: HookId,
    bytes: i64,
) -> Result<Option<Timestamp>, Error> {
    let first = sqlx::query_scalar(OLDEST).bind(hook.0);
    let mut from: Option<Vec<u8>> = first.fetch_optional(&mut *db).await?;
    let (mut passed, mut walked) = (0, 0);
    while let Some(id) = from.take() {
        let walk = sqlx::query_as(WALK).bind(hook.0).bind(id).bind(STEP as i64);
        let step: Vec<(Vec<u8>, i64, i64)> = walk.fetch_all(&mut *db).await?;
        for (_, received_at, bytes_of) in &step {
            passed += bytes_of;
            walked += 1;
            if passed >= bytes || walked == WALKED_MAX {
                return Ok(Some(Timestamp::from_millis(*received_at)));
            }
        }
        from = step.into_iter().nth(STEP - 1).map(next);
    }
    Ok(None)
}

/// The smallest id after the last one of a page, so that no event is counted twice.
fn next((mut id, ..): (Vec<u8>, i64, i64)) -> Vec<u8> {
    id.push(0);
    id
}

fn column<'a, T>(cuts: &'a [Cut], of: impl Fn(&'a Cut) -> T) -> Vec<T> {
    cuts.iter().map(of).collect()
}
