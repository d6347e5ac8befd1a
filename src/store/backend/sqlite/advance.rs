//! Moves cursors by compare-and-set on era and position.

use rusqlite::{Connection, params};

use crate::domain::cursor::{Condition, DeadLetter, Era};
use crate::domain::position::Position;
use crate::store::Error;
use crate::store::backend::ops::{Advance, Mover, Step};
use crate::store::backend::rows::held_by;

/// Moves cursors inside the open transaction. Each step succeeds or fails on its own. A step of a stream
/// that was erased meanwhile makes no cursor.
pub fn advance(db: &Connection, steps: &[Step]) -> Result<Vec<Advance>, Error> {
    steps.iter().map(|step| advance_one(db, step)).collect()
}

fn advance_one(db: &Connection, step: &Step) -> Result<Advance, Error> {
    const CREATE: &str = "insert into cursors
        (stream, handler, position, era, state, chain, condition, retry_at, tries, reason, held_by, updated_at)
        select ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12
        where exists (select 1 from streams where id = ?1) on conflict do nothing";
    const MOVE: &str = "update cursors set position = ?3, state = ?5, chain = ?6,
        condition = ?7, retry_at = ?8, tries = ?9, reason = ?10, held_by = ?11, updated_at = ?12
        where stream = ?1 and handler = ?2 and era = ?4 and position = ?13
          and (condition <> 'held' or ?14)";
    let retry_at = match &step.condition {
        Condition::Waiting { retry_at, .. } => Some(retry_at.as_millis()),
        _ => None,
    };
    let is_first = step.from == Position::default() && step.era == Era(1);
    let mut changed = 0;
    if is_first {
        changed = db.prepare_cached(CREATE)?.execute(params![
            step.cursor.stream.0,
            step.cursor.handler.0,
            step.to.0,
            step.era.0,
            step.state,
            step.chain.as_bytes(),
            step.condition.word(),
            retry_at,
            step.condition.tries(),
            step.condition.reason(),
            held_by(&step.condition),
            step.at.as_millis(),
        ])?;
    }
    if changed == 0 {
        changed = db.prepare_cached(MOVE)?.execute(params![
            step.cursor.stream.0,
            step.cursor.handler.0,
            step.to.0,
            step.era.0,
            step.state,
            step.chain.as_bytes(),
            step.condition.word(),
            retry_at,
            step.condition.tries(),
            step.condition.reason(),
            held_by(&step.condition),
            step.at.as_millis(),
            step.from.0,
            step.mover == Mover::Operator,
        ])?;
    }
    if changed == 0 {
        return Ok(Advance::Lost);
    }
    for letter in &step.skipped {
        bury(db, step, letter)?;
    }
    Ok(Advance::Moved)
}

fn bury(db: &Connection, step: &Step, letter: &DeadLetter) -> Result<(), Error> {
    const BURY: &str = "insert into dead_letters (handler, stream, seq, reason, created_at)
        values (?1, ?2, ?3, ?4, ?5)";
    db.prepare_cached(BURY)?.execute(params![
        step.cursor.handler.0,
        step.cursor.stream.0,
        letter.seq.0,
        letter.reason,
        step.at.as_millis(),
    ])?;
    Ok(())
}
