//! One turn: reads the events after each position, folds them in order, and moves state and position
//! together.
//!
//! A batch of cursors takes the turn together and shares a read, a fold and a commit; each cursor
//! succeeds or fails on its own.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::catalog::Snapshot;
use super::lane::{Outcome, Parked, Rest};
use super::reduce::{Budget, Failure, Folded, Folds, Task, Until};
use crate::domain::backoff;
use crate::domain::cursor::{Applied, Condition, Cursor, CursorId, Holder};
use crate::domain::hook::{BODY_MAX_DEFAULT, Handler, HandlerId, HookId, Reducer};
use crate::domain::lane::{LaneId, Mode};
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;
use crate::lanes::{self, Backlog, Hint, Queue};
use crate::metrics::Passed;
use crate::store::{Advance, Error, Input, InputRequest, Mover, Step};

/// Number of cursors in one turn.
pub const CURSORS_MAX: usize = 256;

/// Number of events of one cursor in one turn, while other cursors wait.
pub const EVENTS_MAX: usize = 64;

/// Number of events of one cursor in one turn, while no other cursor waits.
const EVENTS_ALONE_MAX: usize = 1_024;

/// Number of cursors in one turn of a handler beyond its share of fold time.
pub const SLOW_CURSORS_MAX: usize = 16;

/// Time limit for folding in a turn.
const BUDGET: Duration = Duration::from_millis(50);

/// Number of tries of an event whose failure may be due to load.
const TRIES_MAX: u32 = 3;

/// Result of a turn, for metrics and the lane.
#[derive(Default)]
pub struct Turned {
    /// Outcome for each cursor.
    pub outcomes: Vec<(CursorId, Outcome)>,
    /// Receive time of each event that was passed.
    pub received: Vec<Timestamp>,
    /// Time in the reducer and number of events of each cursor, by its handler.
    pub work: Vec<(HandlerId, Duration, u32)>,
    /// Number of events that could not be applied, skipped or not.
    pub failed: u64,
}

/// Decision about a cursor, from what was read.
pub(super) enum Plan {
    Leave(Outcome),
    /// Passes the cursor on to the lanes of another namespace, to which its hook has moved.
    Elsewhere,
    /// Holds the cursor, because events are missing.
    HaltAtGap,
    /// Folds its events.
    Go,
}

/// A turn between its read, its fold and its commit. It decides; the caller runs database and reducers.
#[derive(Default)]
pub struct Turn {
    outcomes: Vec<(CursorId, Outcome)>,
    /// Hints for cursors that take their turns elsewhere.
    pub strangers: Vec<Hint>,
    /// Steps that hold cursors at which events are missing.
    halted: Vec<Step>,
    folding: Vec<Input>,
    /// Reasons for which the lane sets the folding cursors aside afterwards, in their order.
    asides: Vec<Option<Parked>>,
}

/// A folded turn, which ends with its commit.
pub struct FoldedTurn {
    turn: Turn,
    folded: Vec<Folded>,
    steps: Vec<Step>,
    /// Time of the turn's decisions, by the wall clock and by the monotonic clock.
    at: Timestamp,
    steady: Timestamp,
}

/// Begins a turn for the cursors of `batch`: reads and folds. `gathered` is the time for which each has
/// gathered events; `alone` is the queue of their lane when no other cursor is ready.
///
/// # Errors
/// Errors of the database: nothing was changed, and the turn may be repeated.
pub async fn fold(
    engine: &Engine,
    folds: &Folds,
    lane: &LaneId,
    batch: &[CursorId],
    gathered: &[Duration],
    alone: Option<Arc<Queue>>,
) -> Result<FoldedTurn, Error> {
    let (events_max, until) = match (batch, alone) {
        ([cursor], Some(queue)) => (EVENTS_ALONE_MAX, Some(alone_until(queue, *cursor))),
        _ => (EVENTS_MAX, None),
    };
    let budget = Budget {
        time: BUDGET,
        until,
        of: Some(lane.namespace.clone()),
    };
    let mut wants = wants(batch, events_max);
    bound_bytes(&engine.catalog.peek(), &mut wants);
    let inputs = engine.store.turn_inputs(wants).await?;
    let (at, steady) = (Timestamp::now(), Timestamp::steady());
    let catalog = engine.catalog.now();
    let taken: Vec<_> = batch
        .iter()
        .copied()
        .zip(gathered.iter().copied())
        .collect();
    let (mut turn, tasks) = Turn::begin(&catalog, lane, &taken, inputs, at);
    for halted in &turn.halted {
        engine.metrics.gaps.inc();
        let (stream, reason) = (halted.cursor.stream.0, halted.condition.reason());
        tracing::error!(stream, position = %halted.from, reason, "events are missing: the cursor is held");
    }
    engine.place_later(std::mem::take(&mut turn.strangers));
    let folded = folds.fold(tasks, budget).await;
    for (stuck, reason) in turn.stuck(&catalog, &folded) {
        engine.found_stuck(stuck, &reason, at).await;
    }
    let steps = turn.steps(&folded, at, rand::random);
    turn.alarm_of_damage(engine, &folded);
    Ok(FoldedTurn {
        turn,
        folded,
        steps,
        at,
        steady,
    })
}

impl FoldedTurn {
    /// Moves state and position of its cursors in one transaction.
    ///
    /// # Errors
    /// Errors of the database: nothing is lost, and the turn may be repeated.
    pub async fn commit(self, engine: &Engine) -> Result<Turned, Error> {
        let steps = self.steps;
        let moves = steps
            .iter()
            .any(|step| step.from != step.to || step.condition != Condition::Flowing);
        let moved = match moves {
            true => engine.store.advance(steps).await?,
            false => vec![Advance::Lost; steps.len()],
        };
        engine
            .metrics
            .passed(Passed::Filter, self.turn.untaken(&self.folded, &moved));
        let mut turned = self.turn.end(&self.folded, &moved, self.at);
        for (_, outcome) in &mut turned.outcomes {
            *outcome = outcome.by_other_clock(self.at, self.steady);
        }
        Ok(turned)
    }
}

/// Limit for a cursor without competitors: once another one is hinted, it gets no more events than any
/// other.
fn alone_until(queue: Arc<Queue>, cursor: CursorId) -> Until {
    Arc::new(move |folded| folded >= EVENTS_MAX && queue.has_other(cursor))
}

/// The requests for a turn's inputs, with at most `events_max` events each.
pub fn wants(batch: &[CursorId], events_max: usize) -> Vec<InputRequest> {
    let want = |cursor: &CursorId| InputRequest {
        cursor: *cursor,
        events_max,
    };
    batch.iter().map(want).collect()
}

/// Reads fewer events of hooks with large bodies, so that a turn never needs more memory than one of
/// hooks with the default limit.
fn bound_bytes(catalog: &Snapshot, wants: &mut [InputRequest]) {
    for want in wants {
        let handler = catalog.handlers.get(&want.cursor.handler);
        let hook = handler.and_then(|handler| catalog.hooks_by_id.get(&handler.hook));
        let times = hook.map_or(1, |hook| hook.body_max.div_ceil(BODY_MAX_DEFAULT).max(1));
        let times = usize::try_from(times).unwrap_or(usize::MAX);
        want.events_max = (want.events_max / times).max(1);
    }
}

impl Turn {
    /// Decides from what was read, and returns the tasks to fold. `batch` has each cursor with the time
    /// for which it has gathered events.
    pub fn begin(
        catalog: &Snapshot,
        lane: &LaneId,
        batch: &[(CursorId, Duration)],
        inputs: Vec<Option<Input>>,
        now: Timestamp,
    ) -> (Self, Vec<Task>) {
        let (mut turn, mut tasks) = (Self::default(), Vec::new());
        for ((cursor, gathered), input) in batch.iter().zip(inputs) {
            let handler = catalog.handlers.get(&cursor.handler);
            let reducer = handler.and_then(|handler| handler.reducer());
            let (Some(mut input), Some(handler), Some(reducer)) = (input, handler, reducer) else {
                turn.outcomes.push((*cursor, Outcome::Done));
                continue;
            };
            let outcome = match judge(catalog, lane, &mut input, handler, (now, *gathered)) {
                Plan::Leave(outcome) => outcome,
                Plan::Elsewhere => {
                    turn.strangers.push(hint(&input, now));
                    Outcome::Done
                }
                Plan::HaltAtGap => {
                    turn.halted.push(hold_at_gap(&input, now));
                    Outcome::Parked(Parked::Held, rest(&input, 0, now))
                }
                Plan::Go => {
                    tasks.push(task(&mut input, handler, reducer));
                    turn.folding.push(input);
                    continue;
                }
            };
            turn.outcomes.push((*cursor, outcome));
        }
        (turn, tasks)
    }

    /// The hooks of events that did not end, each with a description.
    fn stuck(&self, catalog: &Snapshot, folded: &[Folded]) -> Vec<(HookId, String)> {
        let folding = self.folding.iter().zip(folded);
        let stuck = folding.filter_map(|(input, folded)| {
            let is_stuck = matches!(folded.failure, Some(Failure::Stuck(_)));
            let event = input.events.get(folded.passed).filter(|_| is_stuck)?;
            let handler = catalog.handlers.get(&input.cursor.id.handler)?;
            let (reducer, id) = (handler.reducer()?, event.id);
            let reason =
                format!("2 events within a minute did not end in {reducer}, the last one {id}");
            Some((handler.hook, reason))
        });
        stuck.collect()
    }

    /// The steps of all cursors. Those for missing events come first. `jitter` returns numbers from 0
    /// to 1.
    pub fn steps(
        &mut self,
        folded: &[Folded],
        now: Timestamp,
        mut jitter: impl FnMut() -> f64,
    ) -> Vec<Step> {
        let folding = self.folding.iter().zip(folded);
        let steps: Vec<_> = folding
            .map(|(input, folded)| step(input, folded, now, jitter()))
            .collect();
        let asides = steps.iter().map(|step| aside(&step.condition));
        self.asides = asides.collect();
        self.halted.iter().cloned().chain(steps).collect()
    }

    /// Logs damaged events; their cursors are held.
    fn alarm_of_damage(&self, engine: &Engine, folded: &[Folded]) {
        for (input, folded) in self.folding.iter().zip(folded) {
            if folded.failure != Some(Failure::Damaged) {
                continue;
            }
            engine.metrics.damaged.inc();
            let event = input.events.get(folded.passed);
            let id = event.map(|event| event.id.to_string());
            let stream = input.cursor.id.stream.0;
            tracing::error!(
                stream,
                event = id,
                "hash mismatch: an event is not as it was stored, its cursor is held"
            );
        }
    }

    /// Number of events passed without folding.
    fn untaken(&self, folded: &[Folded], moved: &[Advance]) -> usize {
        let moved = moved.iter().skip(self.halted.len());
        let moved = folded.iter().zip(moved);
        let moved = moved.filter(|(_, advance)| **advance == Advance::Moved);
        moved.map(|(folded, _)| folded.untaken).sum()
    }

    /// The outcomes of the cursors, from those of their steps. Steps for missing events need no
    /// outcome: a cursor whose step was lost is read again.
    pub fn end(self, folded: &[Folded], moved: &[Advance], now: Timestamp) -> Turned {
        let mut turned = Turned {
            outcomes: self.outcomes,
            ..Turned::default()
        };
        let moved = moved.iter().skip(self.halted.len()).zip(self.asides);
        for ((input, folded), (advance, aside)) in self.folding.iter().zip(folded).zip(moved) {
            let outcome = outcome(*advance, aside, rest(input, folded.passed, now));
            turned.outcomes.push((input.cursor.id, outcome));
            if *advance == Advance::Moved {
                let passed = &input.events[..folded.passed];
                let failed = folded.skipped.len() + usize::from(folded.failure.is_some());
                turned.failed += u64::try_from(failed).unwrap_or(0);
                turned.received.extend(passed.iter().map(|e| e.received_at));
                let passed = u32::try_from(passed.len()).unwrap_or(u32::MAX);
                let handler = input.cursor.id.handler;
                turned.work.push((handler, folded.took, passed));
            }
        }
        turned
    }
}

/// Decides about a cursor in this lane. If it moves only up to a mark, later events are removed from
/// its input.
pub(super) fn judge(
    catalog: &Snapshot,
    lane: &LaneId,
    input: &mut Input,
    handler: &Handler,
    (now, gathered): (Timestamp, Duration),
) -> Plan {
    if let Some(replay) = handler.replay {
        input.head = input.head.min(replay.to);
        input.events.retain(|event| event.seq <= replay.to);
    }
    let kept = |input: &Input| match input.events.is_empty() {
        true => Plan::Leave(Outcome::Done),
        false => Plan::Leave(Outcome::Parked(Parked::Kept, rest(input, 0, now))),
    };
    let hook = catalog.hooks_by_id.get(&handler.hook);
    if hook.is_some_and(|hook| hook.namespace != lane.namespace) {
        return Plan::Elsewhere;
    }
    // A delivery may have waited at the gate of its destination while its lane was paused.
    let is_paused = catalog.stops.mode(lane) == Mode::Paused;
    if is_paused || catalog.stops.hooks.contains_key(&handler.hook) {
        return kept(input);
    }
    if catalog.stops.mode(lane).has_marks() && !input.has_gap() {
        let mark = catalog.stops.marks.get(&input.cursor.id);
        let mark = mark.filter(|mark| input.cursor.position < **mark);
        let Some(mark) = mark else {
            return kept(input);
        };
        input.events.retain(|event| event.seq.0 <= mark.0);
    }
    plan(input, handler, now, gathered)
}

/// A hint for the cursor's present lane. It asks for a recheck, because that lane may have set the
/// cursor aside, and this hint may have been about its release.
pub(super) fn hint(input: &Input, now: Timestamp) -> Hint {
    let rest = rest(input, 0, now);
    Hint {
        cursor: input.cursor.id,
        oldest: rest.oldest,
        newest: input.events.last().map_or(now, |event| event.received_at),
        backlog: Backlog::Total(rest.events),
        recheck: lanes::Recheck::Yes,
    }
}

fn plan(input: &Input, handler: &Handler, now: Timestamp, gathered: Duration) -> Plan {
    match input.cursor.condition {
        Condition::Held { .. } => {
            return Plan::Leave(Outcome::Parked(Parked::Held, rest(input, 0, now)));
        }
        // A wait longer than the maximum means that the clock was ahead when the time was chosen, so it
        // is ignored.
        Condition::Waiting { retry_at, .. }
            if now < retry_at && retry_at.since(now) <= backoff::DELAY_MAX =>
        {
            let aside = Parked::Waiting(retry_at);
            return Plan::Leave(Outcome::Parked(aside, rest(input, 0, now)));
        }
        _ => {}
    }
    if input.has_gap() {
        return Plan::HaltAtGap;
    }
    let (Some(first), Some(last)) = (input.events.first(), input.events.last()) else {
        return Plan::Leave(Outcome::Done);
    };
    match handler.debounce {
        Some(debounce) => {
            let left = debounce.left((first.received_at, last.received_at), now, gathered);
            // A full read means that more events follow, so it is not a pause. The head was read before
            // the events, so it may be exceeded.
            if !left.is_zero() && last.seq >= input.head {
                let aside = Parked::Gathering(now.after(left));
                return Plan::Leave(Outcome::Parked(aside, rest(input, 0, now)));
            }
            Plan::Go
        }
        None => Plan::Go,
    }
}

fn task(input: &mut Input, handler: &Handler, reducer: &Reducer) -> Task {
    Task {
        handler: handler.id,
        reducer: reducer.clone(),
        state: input.cursor.state.take(),
        chain: input.cursor.chain.clone(),
        on_error: handler.on_error,
        only: handler.only.clone(),
        events: input.events.clone(),
    }
}

/// Remaining events when `passed` of the events that were read are done.
pub(super) fn rest(input: &Input, passed: usize, now: Timestamp) -> Rest {
    let position = Position(input.cursor.position.0 + i64::try_from(passed).unwrap_or(0));
    let next = input.events.get(passed).or(input.events.last());
    Rest {
        oldest: next.map_or(now, |event| event.received_at),
        events: position.behind(input.head),
    }
}

fn step(input: &Input, folded: &Folded, now: Timestamp, jitter: f64) -> Step {
    let Cursor {
        id, era, position, ..
    } = &input.cursor;
    let passed = i64::try_from(folded.passed).unwrap_or(0);
    let next = position.0 + passed + 1;
    Step {
        cursor: *id,
        era: *era,
        from: *position,
        to: Position(next - 1),
        state: folded.state.clone(),
        chain: folded.chain.clone(),
        condition: condition(input, folded, Seq(next), (now, jitter)),
        skipped: folded.skipped.clone(),
        mover: Mover::Turn,
        at: now,
    }
}

/// Condition of a cursor after a fold. Tries are counted per event, so the next event starts anew.
fn condition(
    input: &Input,
    folded: &Folded,
    next: Seq,
    (now, jitter): (Timestamp, f64),
) -> Condition {
    let Some(failure) = &folded.failure else {
        return Condition::Flowing;
    };
    let reason = format!("at seq {next}: {failure}");
    let tried = match folded.passed {
        0 => input.cursor.condition.tries(),
        _ => 0,
    };
    match failure {
        Failure::OutOfTime(_) | Failure::OutOfMemory(_) if tried + 1 < TRIES_MAX => {
            Condition::Waiting {
                retry_at: now.after(backoff::delay(tried + 1, jitter)),
                tries: tried + 1,
                reason,
            }
        }
        _ => Condition::Held {
            reason,
            by: Holder::Failure,
        },
    }
}

/// Moves a cursor past `passed` events that its handler does not take.
pub(super) fn pass(input: &Input, passed: usize, now: Timestamp) -> Step {
    let cursor = &input.cursor;
    let events = &input.events[..passed];
    let to = events
        .last()
        .map_or(cursor.position, |event| Position(event.seq.0));
    let chain = events.iter().fold(cursor.chain.clone(), |chain, event| {
        chain.next(event.id, Applied::Folded)
    });
    Step {
        cursor: cursor.id,
        era: cursor.era,
        from: cursor.position,
        to,
        state: cursor.state.clone(),
        chain,
        condition: Condition::Flowing,
        skipped: Vec::new(),
        mover: Mover::Turn,
        at: now,
    }
}

pub(super) fn hold_at_gap(input: &Input, now: Timestamp) -> Step {
    let (due, head) = (input.cursor.position.next(), input.head);
    let reason = format!("gap: seq {due} is missing, the head is {head}");
    hold(input, reason, now)
}

/// Holds a cursor before a damaged event.
pub(super) fn hold_at_damage(input: &Input, now: Timestamp) -> Step {
    let due = input.cursor.position.next();
    hold(input, format!("at seq {due}: {}", Failure::Damaged), now)
}

fn hold(input: &Input, reason: String, now: Timestamp) -> Step {
    let cursor = &input.cursor;
    Step {
        cursor: cursor.id,
        era: cursor.era,
        from: cursor.position,
        to: cursor.position,
        state: cursor.state.clone(),
        chain: cursor.chain.clone(),
        condition: Condition::Held {
            reason,
            by: Holder::Failure,
        },
        skipped: Vec::new(),
        mover: Mover::Turn,
        at: now,
    }
}

/// The reason why a lane sets aside a cursor in this condition.
pub(super) fn aside(condition: &Condition) -> Option<Parked> {
    match condition {
        Condition::Held { .. } => Some(Parked::Held),
        Condition::Waiting { retry_at, .. } => Some(Parked::Waiting(*retry_at)),
        Condition::Flowing => None,
    }
}

pub(super) fn outcome(advance: Advance, aside: Option<Parked>, rest: Rest) -> Outcome {
    match (advance, aside) {
        // Another writer moved the cursor, so it is read again.
        (Advance::Lost, _) => Outcome::More(rest),
        (Advance::Moved, Some(aside)) => Outcome::Parked(aside, rest),
        (Advance::Moved, None) if rest.events == 0 => Outcome::Done,
        (Advance::Moved, None) => Outcome::More(rest),
    }
}
