//! Moves a batch of cursors by one call of a database function. Requests that arrive while a call is
//! under way are combined into the next one, because a call costs as much as several cursors.

use std::collections::HashSet;
use std::time::Instant;

use tokio::sync::oneshot;

use super::movers::{Answer, MoveRequest};
use super::{Postgres, jitter, settle};
use crate::domain::cursor::{Condition, CursorId, DeadLetter};
use crate::domain::event::StreamId;
use crate::domain::hook::HandlerId;
use crate::store::Error;
use crate::store::backend::ops::{Advance, Mover, Step};
use crate::store::backend::rows::held_by;

const ADVANCE: &str = "select r_stream, r_handler from hooklane_advance(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)";

/// The cursors that moved: their streams and their handlers.
type Moved = (Option<Vec<i64>>, Option<Vec<i64>>);

/// Number of cursors in one call.
const CURSORS_MAX: usize = 1_024;

impl Postgres {
    /// Moves cursors in one transaction; each step succeeds or fails on its own. On return, operators'
    /// steps and dead letters are on stable storage. A turn's steps become durable within a moment; a
    /// crash of the server before that sets their cursors back to an earlier state of the same fold.
    ///
    /// # Errors
    /// Nothing moved, except after a lost connection: then the outcome is unknown until the cursors are
    /// read.
    pub async fn advance(&self, steps: Vec<Step>) -> Result<Vec<Advance>, Error> {
        let (answer, mut answered) = oneshot::channel();
        let asked = MoveRequest { steps, answer };
        self.movers.waiting.lock().push(asked);
        tokio::select! {
            biased;
            advanced = &mut answered => return advanced.map_err(|_| Error::Closed)?,
            _calling = self.movers.calling.lock() => self.advance_waiting().await,
        }
        answered.await.map_err(|_| Error::Closed)?
    }

    /// Moves the cursors of all waiting requests and answers them.
    async fn advance_waiting(&self) {
        let movers = std::mem::take(&mut *self.movers.waiting.lock());
        let mut movers = movers.into_iter().peekable();
        while movers.peek().is_some() {
            let (mut steps, mut answers) = (Vec::new(), Vec::new());
            let mut seen = HashSet::new();
            // One call can move a cursor only once, so requests for the same cursor go into two calls.
            let fits = |mover: &MoveRequest, seen: &mut HashSet<CursorId>, count: usize| {
                (count == 0 || count + mover.steps.len() <= CURSORS_MAX)
                    && mover.steps.iter().all(|step| seen.insert(step.cursor))
            };
            while let Some(mover) = movers.next_if(|m| fits(m, &mut seen, steps.len())) {
                answers.push((mover.steps.len(), mover.answer));
                steps.extend(mover.steps);
            }
            match answers.is_empty() {
                true => self.advance_one_by_one(movers.next()).await,
                false => self.advance_and_answer(steps, answers).await,
            }
        }
    }

    async fn advance_and_answer(&self, steps: Vec<Step>, answers: Vec<(usize, Answer)>) {
        let result = self.advance_together(&steps).await;
        let is_refused = matches!(result, Err(Error::Integrity(_))) && answers.len() > 1;
        let mut steps = steps.into_iter();
        let mut advanced = result.as_ref().map(|advanced| advanced.iter().copied());
        for (count, answer) in answers {
            let own: Vec<_> = steps.by_ref().take(count).collect();
            let result = match &mut advanced {
                // One of the combined requests is refused; only that one may fail.
                Err(_) if is_refused => self.advance_together(&own).await,
                Err(error) => Err(error.again()),
                Ok(advanced) => Ok(advanced.take(count).collect()),
            };
            if let Ok(advanced) = &result {
                self.remember(own, advanced);
            }
            let _ = answer.send(result);
        }
    }

    async fn advance_one_by_one(&self, mover: Option<MoveRequest>) {
        let Some(mover) = mover else { return };
        let mut advanced = Vec::with_capacity(mover.steps.len());
        for step in &mover.steps {
            match self.advance_together(std::slice::from_ref(step)).await {
                Ok(one) => advanced.extend(one),
                Err(error) => return drop(mover.answer.send(Err(error))),
            }
        }
        let _ = mover.answer.send(Ok(advanced));
    }

    /// Puts the moved cursors into the cache, and drops the others.
    fn remember(&self, steps: Vec<Step>, advanced: &[Advance]) {
        for (step, advance) in steps.into_iter().zip(advanced) {
            let cursor = step.cursor;
            match step.cursor_after().filter(|_| *advance == Advance::Moved) {
                Some(cursor) => self.memory.moved(cursor),
                None => self.memory.invalidate(cursor),
            }
        }
    }

    async fn advance_together(&self, steps: &[Step]) -> Result<Vec<Advance>, Error> {
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let moved = match self.try_advance(steps).await {
            Err(Error::Contended(..)) => {
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
        let mut db = self.connection().await?;
        let dead: Vec<_> = steps
            .iter()
            .flat_map(|step| step.skipped.iter().map(move |letter| (step, letter)))
            .collect();
        let is_durable = !dead.is_empty() || steps.iter().any(|s| s.mover == Mover::Operator);
        let call = sqlx::query_as::<_, Moved>(ADVANCE)
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
            .bind(column(steps, |step| held_by(&step.condition)))
            .bind(column(steps, |step| step.at.as_millis()))
            .bind(column(steps, |step| step.mover == Mover::Operator))
            .bind(letters(&dead, |step, _| step.cursor.stream.0))
            .bind(letters(&dead, |step, _| step.cursor.handler.0))
            .bind(letters(&dead, |_, letter| letter.seq.0))
            .bind(letters(&dead, |_, letter| letter.reason.as_str()))
            .bind(letters(&dead, |step, _| step.at.as_millis()))
            .bind(is_durable);
        let answer = self.answer(call.fetch_one(&mut db)).await;
        let (streams, handlers) = settle(db, answer).await?;
        let cursor = |(stream, handler)| CursorId {
            stream: StreamId(stream),
            handler: HandlerId(handler),
        };
        let moved = streams.into_iter().flatten();
        let moved = moved.zip(handlers.into_iter().flatten());
        Ok(moved.map(cursor).collect())
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
