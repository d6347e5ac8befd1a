//! Lanes that run on a node, and their turns.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::cursor::{Applied, CursorId, DeadLetter};
use crate::domain::hook::OnError;
use crate::domain::lane::{LaneId, Mode};
use crate::domain::time::Timestamp;
use crate::engine::catalog::Snapshot;
use crate::engine::lane::Lane;
use crate::engine::reduce::{Failure, Folded, Task as Fold};
use crate::engine::share::{Cost, Shares};
use crate::engine::simulation::database::folds::{code, fold};
use crate::engine::simulation::outside::Outside;
use crate::engine::turn;
use crate::engine::turn::Turn;
use crate::lanes::{Hint, Queue};
use crate::store::Step;

/// A lane that runs here, or is in its last turn.
pub struct Run {
    pub number: u64,
    pub lane: Lane,
    pub queue: Arc<Queue>,
    pub epoch: i64,
    /// Running turns in the order in which they began; the last one may not have read yet.
    pub turns: Vec<Taken>,
}

/// A running turn.
pub struct Taken {
    pub number: u64,
    pub batch: Vec<CursorId>,
    /// `None` until it has read.
    pub read: Option<(Turn, Vec<Folded>, Vec<Step>, Timestamp)>,
}

/// Stopped lanes, with the hints left in their queues.
pub struct Stopping {
    pub ticket: u64,
    pub lane: LaneId,
    pub hints: Vec<Hint>,
    pub run: Run,
}

impl Run {
    /// The cursors of the next turn; `None` if there is nothing to do. A paused lane forwards hints that belong
    /// elsewhere.
    pub fn next_batch(
        &mut self,
        id: &LaneId,
        catalog: &Snapshot,
        shares: &mut Shares,
        strangers: &mut Vec<Hint>,
        out: &mut Outside,
    ) -> Option<Vec<CursorId>> {
        self.lane.hinted(self.queue.take());
        if catalog.stops.mode(id) == Mode::Paused {
            let is_strange = |cursor| catalog.is_stranger(id, cursor);
            strangers.append(&mut self.lane.give_up_new(is_strange));
            return (!strangers.is_empty()).then(Vec::new);
        }
        let max = out.below(3) as usize + 1;
        shares.relax(Duration::from_millis(out.now));
        let slow = shares.may_fold(Duration::from_millis(out.now));
        let mut slow = self.lane.ready_of(&slow, out.time());
        slow.sort_unstable();
        let batch = match slow.first() {
            Some(handler) if out.chance(0.5) => self.lane.next_of(*handler, max, out.time()),
            _ => {
                let is_slow = |handler| shares.is_slow(handler);
                self.lane.next_batch(max, out.time(), is_slow)
            }
        };
        (!batch.is_empty()).then_some(batch)
    }

    /// Begins a turn of the cursors to fold, and returns those to deliver, with their gathering times.
    pub fn begin(
        &mut self,
        number: u64,
        batch: Vec<CursorId>,
        catalog: &Snapshot,
        out: &Outside,
    ) -> Vec<(CursorId, Duration)> {
        let gathered = self.lane.gathered(&batch, out.time());
        let delivers = |(cursor, _): &(CursorId, Duration)| {
            let handler = catalog.handlers.get(&cursor.handler);
            handler.is_some_and(|handler| handler.forward().is_some())
        };
        let batch = batch.into_iter().zip(gathered);
        let (deliveries, batch): (Vec<_>, Vec<_>) = batch.partition(delivers);
        let flying = deliveries.iter().map(|(cursor, _)| *cursor);
        self.lane.delivers(flying);
        let batch: Vec<_> = batch.into_iter().map(|(cursor, _)| cursor).collect();
        if !batch.is_empty() {
            self.turns.push(Taken {
                number,
                batch,
                read: None,
            });
        }
        deliveries
    }

    /// Reads, decides and folds.
    pub fn read(
        &mut self,
        id: &LaneId,
        catalog: &Snapshot,
        shares: &mut Shares,
        strangers: &mut Vec<Hint>,
        out: &mut Outside,
    ) -> bool {
        let Some(mut taken) = self.turns.pop() else {
            return false;
        };
        let wants = turn::wants(&taken.batch, turn::EVENTS_MAX);
        let Ok(inputs) = out.ask(|database| database.inputs(&wants)) else {
            self.again(&taken.batch);
            return true;
        };
        let now = out.time();
        let gathered = self.lane.gathered(&taken.batch, now);
        let batch: Vec<_> = taken.batch.iter().copied().zip(gathered).collect();
        let (mut turn, tasks) = Turn::begin(catalog, id, &batch, inputs, now);
        strangers.append(&mut turn.strangers);
        let folded = tasks.iter().map(|task| fold_all(task, false, out));
        let folded: Vec<_> = folded.collect();
        for (task, folded) in tasks.iter().zip(&folded) {
            let failure = folded.failure.as_ref();
            let ran_out = failure.is_some_and(Failure::is_out_of_time);
            let took = Duration::from_millis(if ran_out { 50 } else { 1 });
            let cost = Cost {
                took,
                over: if ran_out { took } else { Duration::ZERO },
                ran_out,
            };
            shares.charge(task.handler, cost, Duration::from_millis(out.now));
        }
        let steps = turn.steps(&folded, now, || 0.5);
        taken.read = Some((turn, folded, steps, now));
        self.turns.push(taken);
        true
    }

    /// Simulates `Worker::again`.
    pub fn again(&mut self, batch: &[CursorId]) {
        for cursor in batch {
            self.lane.not_turned(*cursor);
        }
    }
}

/// Folds as much as the time allows. The content of an event determines its outcome; an event that is
/// skipped once is always skipped.
pub fn fold_all(task: &Fold, has_time: bool, out: &mut Outside) -> Folded {
    let (code, skips) = (code(&task.reducer), task.on_error == OnError::Skip);
    let mut folded = Folded {
        passed: 0,
        state: task.state.clone(),
        chain: task.chain.clone(),
        skipped: Vec::new(),
        untaken: 0,
        failure: None,
        took: Duration::ZERO,
    };
    for event in &task.events {
        let failure = match event.body[0] {
            b'r' if out.fails || skips => Some(Failure::Rejected("no good".to_owned())),
            b't' if !has_time && out.fails && out.chance(0.6) => {
                Some(Failure::OutOfTime("slow".to_owned()))
            }
            _ if !has_time && folded.passed > 0 && out.chance(0.05) => return folded,
            _ => None,
        };
        let applied = match failure {
            None => {
                folded.state = Some(fold(code, folded.state.as_deref(), event));
                Applied::Folded
            }
            Some(Failure::Rejected(reason)) if skips => {
                folded.skipped.push(DeadLetter {
                    seq: event.seq,
                    reason,
                });
                Applied::Skipped
            }
            Some(failure) => {
                folded.failure = Some(failure);
                return folded;
            }
        };
        folded.chain = folded.chain.next(event.id, applied);
        folded.passed += 1;
    }
    folded
}
