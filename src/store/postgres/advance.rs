//! Moving a batch of cursors: one call, each standing or falling alone.

use std::collections::HashSet;
use std::time::Instant;

use tokio::time::timeout;

use super::{ANSWER_MAX, Hot, jitter, settle};
use crate::domain::cursor::{Condition, CursorId, DeadLetter};
use crate::domain::event::StreamId;
use crate::domain::hook::HandlerId;
use crate::store::Error;
use crate::store::cursors::{Advance, Mover, Step};

const ADVANCE: &str = "select stream, handler from hooklane_advance(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)";

impl Hot {
    /// Moves cursors in one transaction; each stands or falls alone. When this returns, operators' moves
    /// and dead letters are on stable storage; a turn's moves will be within a moment, and a crash of
    /// the server before that sets their cursors back to an earlier state of the same fold.
    ///
    /// # Errors
    /// Nothing moved, unless the connection was lost: then it is unknown, and reading shows it.
    pub async fn advance(&self, steps: Vec<Step>) -> Result<Vec<Advance>, Error> {
        let mut seen = HashSet::with_capacity(steps.len());
        if steps.iter().all(|step| seen.insert(step.cursor)) {
            return self.advance_together(&steps).await;
        }
        // One call moves a cursor once: what is to move twice goes in two.
        let mut advanced = Vec::with_capacity(steps.len());
        for step in &steps {
            advanced.extend(self.advance_together(std::slice::from_ref(step)).await?);
        }
        Ok(advanced)
    }

    async fn advance_together(&self, steps: &[Step]) -> Result<Vec<Advance>, Error> {
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let moved = match self.try_advance(steps).await {
            Err(Error::Contended(_)) => {
                jitter().await;
                self.try_advance(steps).await?
            }
            known => known?,
        };
        let advance = |step: &Step| match moved.contains(&step.cursor) {
            true => Advance::Moved,
            false => Advance::Lost,
        };
        Ok(steps.iter().map(advance).collect())
    }

    async fn try_advance(&self, steps: &[Step]) -> Result<HashSet<CursorId>, Error> {
        let began = Instant::now();
        let result = self.call_advance(steps).await;
        self.report(began, 0, steps.len(), &result);
        result
    }

    async fn call_advance(&self, steps: &[Step]) -> Result<HashSet<CursorId>, Error> {
        let mut db = self.pool.acquire().await?;
        let dead: Vec<_> = steps
            .iter()
            .flat_map(|step| step.skipped.iter().map(move |letter| (step, letter)))
            .collect();
        let is_durable = !dead.is_empty() || steps.iter().any(|s| s.mover == Mover::Operator);
        let call = sqlx::query_as::<_, (i64, i64)>(ADVANCE)
            .bind(column(steps, |step| step.cursor.stream.0))
            .bind(column(steps, |step| step.cursor.handler.0))
            .bind(column(steps, |step| step.era.0))
            .bind(column(steps, |step| step.from.0))
            .bind(column(steps, |step| step.to.0))
            .bind(column(steps, |step| step.state.as_deref()))
            .bind(column(steps, |step| step.chain.as_bytes()))
            .bind(column(steps, |step| step.condition.word()))
            .bind(column(steps, retry_at))
            .bind(column(steps, |step| i64::from(step.condition.tries())))
            .bind(column(steps, |step| step.condition.reason()))
            .bind(column(steps, |step| step.at.as_millis()))
            .bind(column(steps, |step| step.mover == Mover::Operator))
            .bind(letters(&dead, |step, _| step.cursor.stream.0))
            .bind(letters(&dead, |step, _| step.cursor.handler.0))
            .bind(letters(&dead, |_, letter| letter.seq.0))
            .bind(letters(&dead, |_, letter| letter.reason.as_str()))
            .bind(letters(&dead, |step, _| step.at.as_millis()))
            .bind(is_durable);
        let answer = timeout(ANSWER_MAX, call.fetch_all(&mut *db)).await;
        let cursor = |(stream, handler)| CursorId {
            stream: StreamId(stream),
            handler: HandlerId(handler),
        };
        Ok(settle(db, answer)?.into_iter().map(cursor).collect())
    }
}

fn column<'a, T>(steps: &'a [Step], of: impl Fn(&'a Step) -> T) -> Vec<T> {
    steps.iter().map(of).collect()
}

fn letters<'a, T>(
    dead: &[(&'a Step, &'a DeadLetter)],
    of: impl Fn(&'a Step, &'a DeadLetter) -> T,
) -> Vec<T> {
    dead.iter().map(|(step, letter)| of(step, letter)).collect()
}

fn retry_at(step: &Step) -> Option<i64> {
    match &step.condition {
        Condition::Waiting { retry_at, .. } => Some(retry_at.as_millis()),
        _ => None,
    }
}
