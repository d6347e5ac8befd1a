//! Deliveries: the next events of a stream go to a destination, and the position moves after its 2xx.
//!
//! A lane hands a cursor over and continues with others; the cursor counts as running until its
//! delivery has ended. So no lane waits for a destination. A stream has at most one delivery in flight:
//! on a node, because [`Flights`] has one entry for each cursor; between nodes, because a lane that is
//! given up records its deliveries in flight, which the next owner leaves alone.
//!
//! ```text
//! lane ── ready cursor ──▶ gate of the destination ── room ──▶ read, judge, send ──▶ advance ──▶ back to the lane
//!                          (in flight, rate, window)
//! ```
//! The gate's window begins small, grows by one with each success and is halved by each failure, so that a
//! destination which is new or comes back after an outage is asked gently at first, and one that hangs holds few
//! requests (RFC 5681, slow start and multiplicative decrease).

pub mod client;
pub mod flights;
pub mod gate;
pub mod guard;
pub mod request;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::lane::{Outcome, Parked};
use super::tally::Last;
use super::turn::{self, Plan, Turned};
use super::worker::Worker;
use super::{Engine, catalog};
use crate::domain::backoff;
use crate::domain::cursor::{Applied, Condition, CursorId, DeadLetter, Holder};
use crate::domain::event::{Event, StreamId};
use crate::domain::failure::{Failure, Next};
use crate::domain::filter::Filter;
use crate::domain::forward::Forward;
use crate::domain::hook::{Handler, HandlerId, Hook, Work};
use crate::domain::lane::LaneId;
use crate::domain::name::OrderingKey;
use crate::domain::position::Position;
use crate::domain::time::Timestamp;
use crate::metrics::{Delivered, Passed};
use crate::store::{Advance, Error, Input, InputRequest, Mover, Step};

pub use client::Client;
pub use flights::Flights;
use gate::{Gate, Waiting};
pub use guard::Guard;
use request::{Delivery, Verdict};

/// Time after which a cursor with a delivery still in flight is tried again.
const BUSY_AGAIN: Duration = Duration::from_millis(250);

/// Pause after a failed read or write of the database.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Least remaining lease with which a request may begin.
pub const LEASE_MIN: Duration = Duration::from_secs(1);

/// Number of events read at once: enough to detect a quiet time, and for most batches.
const EVENTS_MAX: usize = 256;

/// Number of events read at once for a handler with a filter.
const EVENTS_SIEVED: usize = 32;

/// Number of ordering keys kept in memory.
const KEYS_MAX: usize = 100_000;

/// State of this node's deliveries.
pub struct Forwards {
    client: Client,
    gates: Mutex<HashMap<HandlerId, Arc<Gate>>>,
    /// Deliveries in flight.
    pub flights: Flights,
    keys: Mutex<HashMap<StreamId, OrderingKey>>,
}

impl Forwards {
    /// The state without deliveries. Connections go to addresses that `guard` permits.
    pub fn new(guard: Guard) -> Self {
        Self {
            client: Client::new(guard),
            gates: Mutex::default(),
            flights: Flights::default(),
            keys: Mutex::default(),
        }
    }

    /// The gate of a handler, updated to its present limits.
    fn gate(&self, handler: HandlerId, to: &Forward) -> Arc<Gate> {
        let mut gates = self.gates.lock();
        let gate = gates.entry(handler).or_default().clone();
        gate.limit(to.in_flight_max, to.rate);
        gate
    }

    /// Removes the gates of removed handlers.
    pub fn forget_all_but(&self, handlers: &HashMap<HandlerId, Arc<Handler>>) {
        self.gates.lock().retain(|id, _| handlers.contains_key(id));
    }
}

/// Begins as many deliveries as the gate permits.
fn admit(engine: &Arc<Engine>, gate: &Arc<Gate>) {
    while let Some(next) = gate.next(Instant::now()) {
        match next {
            gate::Next::Begin(waiting) => {
                let (engine, gate) = (engine.clone(), gate.clone());
                tokio::spawn(async move {
                    let pass = Pass { engine, gate };
                    run(&pass, &waiting).await;
                });
            }
            gate::Next::After(wait) => {
                let (engine, gate) = (engine.clone(), gate.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    gate.wait_is_over();
                    admit(&engine, &gate);
                });
                return;
            }
        }
    }
}

/// A place in a gate. Dropping it gives it back, also in a panic.
struct Pass {
    engine: Arc<Engine>,
    gate: Arc<Gate>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.leave();
        admit(&self.engine, &self.gate);
    }
}

/// Runs a delivery of a cursor, from reading its row until it is returned to its lane.
async fn run(pass: &Pass, waiting: &Waiting) {
    let (engine, worker, cursor) = (&pass.engine, &waiting.worker, waiting.cursor);
    if worker.has_stopped() {
        // Its lane has already given up the cursor.
        return;
    }
    let version = engine.catalog.peek().version;
    let Some(_flight) = engine
        .deliveries
        .forwards
        .flights
        .begin(engine, cursor, &worker.id, version)
    else {
        let again = Timestamp::steady().after(BUSY_AGAIN);
        return worker.set_aside(cursor, Parked::Busy(again));
    };
    match try_delivery(pass, waiting).await {
        Ok(turned) => {
            let now = Timestamp::now();
            worker.delivered(&turned, now);
            engine.metrics.pulse.folded(&turned.work);
        }
        Err(error) => {
            if engine.fail_if_fatal(&error) {
                return;
            }
            tracing::warn!(lane = %worker.id, %error, "a delivery is begun again");
            tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            worker.not_turned(cursor);
        }
    }
}

/// The events of a request, and the cursor that they move.
pub struct Payload {
    /// The handler that sends them.
    pub handler: Arc<Handler>,
    hook: Arc<Hook>,
    /// The events as they were read, with their cursor.
    pub input: Input,
    /// The epoch drawn when its hook moved to the namespace of the lane; 0 if it never moved.
    moved: i64,
    choice: Choice,
    /// The events to send.
    pub events: Vec<Arc<Event>>,
}

/// Indexes of the read events that go into a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Choice {
    /// Indexes of the events to send; empty if the handler takes none.
    sent: Vec<usize>,
    /// Number of events from the front that are skipped, whatever the answer.
    lead: usize,
    /// Number of events from the front that are passed once all sent ones are acknowledged.
    taken: usize,
}

impl Payload {
    /// The epoch that the request names, sent by the owner of a lane. Receivers see the epochs of a stream grow,
    /// also when its hook has moved to a lane that was taken earlier than the one before.
    pub fn epoch(&self, of_lane: i64) -> i64 {
        of_lane.max(self.moved)
    }

    /// Earlier tries of the first event sent. The cursor counts tries of the event after its position.
    fn tries(&self) -> u32 {
        match self.choice.lead {
            0 => self.input.cursor.condition.tries(),
            _ => 0,
        }
    }
}

impl Choice {
    /// Number of events passed if this number of sent events is acknowledged.
    fn passed(&self, acknowledged: usize) -> usize {
        match acknowledged {
            0 => self.lead,
            some => self.sent.get(some).copied().unwrap_or(self.taken),
        }
    }
}

async fn try_delivery(pass: &Pass, waiting: &Waiting) -> Result<Turned, Error> {
    let (worker, cursor) = (&waiting.worker, waiting.cursor);
    let engine = &pass.engine;
    let want = InputRequest {
        cursor,
        events_max: EVENTS_MAX,
    };
    let handler = engine.catalog.now().handlers.get(&cursor.handler).cloned();
    let want = match handler.as_deref().and_then(Handler::forward) {
        Some(to) => InputRequest {
            events_max: reads(to, handler.as_deref()),
            ..want
        },
        None => want,
    };
    let mut inputs = engine.store.turn_inputs(vec![want]).await?;
    let catalog = engine.catalog.now();
    if worker.has_stopped() {
        // The configuration may not have the modes and marks of the lane any more. The next owner delivers.
        worker.not_turned(cursor);
        return Ok(Turned::default());
    }
    let now = Timestamp::now();
    let leave = |outcome| Turned {
        outcomes: vec![(cursor, outcome)],
        ..Turned::default()
    };
    let (Some(input), Some(handler)) = (
        inputs.pop().flatten(),
        catalog.handlers.get(&cursor.handler),
    ) else {
        return Ok(leave(Outcome::Done));
    };
    let payload = match decide(
        &catalog,
        &worker.id,
        input,
        handler,
        (now, waiting.gathered),
    ) {
        Decision::Send(payload) => payload,
        Decision::Pass(input, step) => return pass_over(engine, worker, &input, *step).await,
        Decision::Leave(outcome) => return Ok(leave(outcome)),
        Decision::Elsewhere(hint) => {
            engine.place_later([hint]);
            return Ok(leave(Outcome::Done));
        }
        Decision::Damaged(step, outcome) => {
            engine.metrics.damaged.inc();
            tracing::error!(stream = cursor.stream.0, position = %step.from, "hash mismatch: an event is not as it was stored, its cursor is held");
            engine.store.advance(vec![*step]).await?;
            return Ok(leave(outcome));
        }
        Decision::Halt(step, outcome) => {
            engine.metrics.gaps.inc();
            tracing::error!(stream = cursor.stream.0, position = %step.from, "events are missing: the cursor is held");
            engine.store.advance(vec![*step]).await?;
            return Ok(leave(outcome));
        }
    };
    let Some(time) = engine.time_to_send(&payload.handler.work) else {
        return Ok(leave(Outcome::More(turn::rest(&payload.input, 0, now))));
    };
    let attempt = send(engine, worker, &payload, time).await?;
    let now = Timestamp::now();
    pass.gate
        .went(matches!(attempt.verdict, Verdict::Acknowledged(_)));
    engine.metrics.delivered(attempt.kind(), attempt.took);
    let (hook, name) = (payload.hook.name.as_str(), payload.handler.name.as_str());
    engine.metrics.delivered_by(hook, name, attempt.kind());
    engine.deliveries.tallies.note(
        cursor.handler,
        Last {
            at: now,
            failure: attempt.failure().map(str::to_owned),
            took: Some(attempt.took),
        },
    );
    let (step, passed) = settle(&payload, &attempt.verdict, now, rand::random());
    let aside = turn::aside(&step.condition);
    let to = step.to;
    let moved = advance(engine, worker, step).await?;
    if moved == Advance::Moved {
        count_passed(engine, &payload, passed);
        engine.end_replay(cursor, to).await?;
    }
    let outcome = turn::outcome(moved, aside, turn::rest(&payload.input, passed, now));
    let received = payload.input.events[..passed]
        .iter()
        .map(|event| event.received_at);
    Ok(Turned {
        outcomes: vec![(cursor, outcome)],
        received: received.collect(),
        work: vec![(
            cursor.handler,
            attempt.took,
            u32::try_from(passed.max(1)).unwrap_or(u32::MAX),
        )],
        failed: u64::from(aside.is_some()),
    })
}

/// Number of events to read for a delivery.
fn reads(to: &Forward, handler: Option<&Handler>) -> usize {
    let gathers = to.coalesce || handler.is_some_and(|handler| handler.debounce.is_some());
    let sieves = handler.is_some_and(|handler| !handler.only.takes_all());
    match (to.batch, gathers) {
        (Some(batch), _) => usize::try_from(batch.events).map_or(EVENTS_MAX, |n| n.min(EVENTS_MAX)),
        (None, true) => EVENTS_MAX,
        (None, false) if sieves => EVENTS_SIEVED,
        (None, false) => 1,
    }
}

/// Decision about a cursor whose events were read.
pub enum Decision {
    /// A request is sent.
    Send(Payload),
    /// The handler takes none of the events.
    Pass(Input, Box<Step>),
    /// Nothing is sent.
    Leave(Outcome),
    /// Its lane is another one.
    Elsewhere(crate::lanes::Hint),
    /// Events are missing: the cursor is held.
    Halt(Box<Step>, Outcome),
    /// The next event is damaged and is not delivered.
    Damaged(Box<Step>, Outcome),
}

/// Decides about a cursor, and takes the events that fit into a request.
pub fn decide(
    catalog: &catalog::Snapshot,
    lane: &LaneId,
    mut input: Input,
    handler: &Arc<Handler>,
    (now, gathered): (Timestamp, Duration),
) -> Decision {
    let hook = catalog.hooks_by_id.get(&handler.hook);
    let (Some(hook), Work::Forward { to, .. }) = (hook, &handler.work) else {
        return Decision::Leave(Outcome::Done);
    };
    match turn::judge(catalog, lane, &mut input, handler, (now, gathered)) {
        Plan::Leave(outcome) => Decision::Leave(outcome),
        Plan::Elsewhere => Decision::Elsewhere(turn::hint(&input, now)),
        Plan::HaltAtGap => {
            let outcome = Outcome::Parked(Parked::Held, turn::rest(&input, 0, now));
            Decision::Halt(Box::new(turn::hold_at_gap(&input, now)), outcome)
        }
        Plan::Go => {
            let intact = input.events.iter().take_while(|event| !event.is_damaged);
            let intact = intact.count();
            if intact == 0 {
                let outcome = Outcome::Parked(Parked::Held, turn::rest(&input, 0, now));
                return Decision::Damaged(Box::new(turn::hold_at_damage(&input, now)), outcome);
            }
            input.events.truncate(intact);
            let choice = choose(to, &handler.only, &input.events);
            if choice.sent.is_empty() {
                let step = turn::pass(&input, choice.taken, now);
                return Decision::Pass(input, Box::new(step));
            }
            let events = choice.sent.iter().map(|at| input.events[*at].clone());
            Decision::Send(Payload {
                handler: handler.clone(),
                hook: hook.clone(),
                moved: catalog.moved.get(&hook.id).copied().unwrap_or(0),
                events: events.collect(),
                choice,
                input,
            })
        }
    }
}

/// Chooses the events of a request from those read.
fn choose(to: &Forward, only: &Filter, events: &[Arc<Event>]) -> Choice {
    let all = events.len();
    let takes = |(_, event): &(usize, &Arc<Event>)| only.takes(event);
    let mut matching = events.iter().enumerate().filter(takes).map(|(at, _)| at);
    let mut next = matching.next();
    let mut choice = Choice {
        sent: Vec::new(),
        lead: next.unwrap_or(all),
        taken: all,
    };
    if to.coalesce {
        choice.sent.extend(next.into_iter().chain(matching).last());
        return choice;
    }
    let (most, most_bytes) = match to.batch {
        Some(batch) => (
            usize::try_from(batch.events).unwrap_or(EVENTS_MAX),
            batch.bytes,
        ),
        None => (1, u64::MAX),
    };
    let mut bytes = 0_u64;
    while let Some(at) = next {
        bytes = bytes.saturating_add(events[at].body.len() as u64);
        // A first event over the size limit of a batch goes alone.
        if choice.sent.len() == most || bytes > most_bytes && !choice.sent.is_empty() {
            choice.taken = at;
            break;
        }
        choice.sent.push(at);
        if to.batch.is_none() {
            choice.taken = at + 1;
            break;
        }
        next = matching.next();
    }
    choice
}

/// Moves a cursor past events that its handler does not take.
async fn pass_over(
    engine: &Engine,
    worker: &Worker,
    input: &Input,
    step: Step,
) -> Result<Turned, Error> {
    let passed = usize::try_from(step.to.0 - step.from.0).unwrap_or(0);
    let (cursor, to) = (step.cursor, step.to);
    let moved = advance(engine, worker, step).await?;
    if moved == Advance::Moved {
        engine.metrics.passed(Passed::Filter, passed);
        engine.end_replay(cursor, to).await?;
    }
    let rest = turn::rest(input, passed, Timestamp::now());
    let received = input.events[..passed].iter().map(|event| event.received_at);
    Ok(Turned {
        outcomes: vec![(cursor, turn::outcome(moved, None, rest))],
        received: received.collect(),
        ..Turned::default()
    })
}

/// Counts the events passed without being sent.
fn count_passed(engine: &Engine, payload: &Payload, passed: usize) {
    let unsent = payload.input.events[..passed].iter().enumerate();
    let unsent = unsent.filter(|(at, _)| !payload.choice.sent.contains(at));
    let (taken, left): (Vec<_>, Vec<_>) =
        unsent.partition(|(_, event)| payload.handler.only.takes(event));
    engine.metrics.passed(Passed::Coalesced, taken.len());
    engine.metrics.passed(Passed::Filter, left.len());
}

/// Result of one attempt to deliver.
struct Attempt {
    verdict: Verdict,
    took: Duration,
}

impl Attempt {
    /// Cause for which it is not acknowledged.
    fn failure(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Acknowledged(_) => None,
            Verdict::Failed { reason, .. } | Verdict::Gone { reason } => Some(reason),
        }
    }

    fn kind(&self) -> Delivered {
        match self.verdict {
            Verdict::Acknowledged(_) => Delivered::Acknowledged,
            Verdict::Failed { .. } | Verdict::Gone { .. } => Delivered::Failed,
        }
    }
}

async fn send(
    engine: &Engine,
    worker: &Worker,
    payload: &Payload,
    time: Duration,
) -> Result<Attempt, Error> {
    let events = &payload.events;
    let Work::Forward { to, secrets } = &payload.handler.work else {
        return Err(Error::Integrity(
            "a delivery of a handler that has no destination".into(),
        ));
    };
    if secrets.is_locked() {
        // A destination would refuse an unsigned request or, worse, trust it.
        let reason = "the signing secret cannot be decrypted: hooklane doctor says what to do";
        return Ok(Attempt {
            verdict: Verdict::Failed {
                reason: reason.to_owned(),
                after: None,
            },
            took: Duration::ZERO,
        });
    }
    let key = engine.ordering_key(payload.input.cursor.id.stream).await?;
    let delivery = Delivery {
        to,
        secrets: &secrets.open,
        hook: &payload.hook.name,
        key: &key,
        handler: &payload.handler.name,
        events,
        attempt: payload.tries().saturating_add(1),
        epoch: payload.epoch(worker.epoch),
        replay: payload.handler.replay.map(|_| payload.handler.id),
    };
    let Some(request) = request::request(&delivery, Timestamp::now()) else {
        return Err(Error::Integrity("a delivery without an event".into()));
    };
    let began = Instant::now();
    let answer = engine
        .deliveries
        .forwards
        .client
        .send(request, time.min(to.timeout))
        .await;
    let took = began.elapsed();
    let verdict = request::verdict(answer, took, events);
    Ok(Attempt { verdict, took })
}

/// The step of the cursor after a request, and the number of events it passes. `jitter` is from 0 to 1.
pub fn settle(payload: &Payload, verdict: &Verdict, now: Timestamp, jitter: f64) -> (Step, usize) {
    let cursor = &payload.input.cursor;
    let mut skipped = Vec::new();
    let lead = payload.choice.lead;
    let (passed, condition) = match verdict {
        Verdict::Acknowledged(events) => (payload.choice.passed(*events), Condition::Flowing),
        Verdict::Gone { reason } => (
            lead,
            Condition::Held {
                reason: reason.clone(),
                by: Holder::Failure,
            },
        ),
        Verdict::Failed { reason, after } => {
            let tries = payload.tries().saturating_add(1);
            let asked = after.unwrap_or_default().min(backoff::DELAY_MAX);
            let failure = Failure {
                tries,
                reason: reason.clone(),
                wait: backoff::delay(tries, jitter).max(asked),
            };
            let attempts = payload.handler.forward().and_then(|to| to.attempts);
            match failure.next(attempts, payload.handler.on_error, now) {
                Next::SetAside(condition) => (lead, condition),
                Next::Skip(reason) => {
                    let seq = Position(cursor.position.0 + i64::try_from(lead).unwrap_or(0)).next();
                    skipped.push(DeadLetter { seq, reason });
                    (lead + 1, Condition::Flowing)
                }
            }
        }
    };
    let passed = passed.min(payload.input.events.len());
    let events = payload.input.events.iter().take(passed);
    let chain = events.fold(cursor.chain.clone(), |chain, event| {
        let is_skipped = skipped.iter().any(|letter| letter.seq == event.seq);
        let applied = match is_skipped {
            true => Applied::Skipped,
            false => Applied::Folded,
        };
        chain.next(event.id, applied)
    });
    let step = Step {
        cursor: cursor.id,
        era: cursor.era,
        from: cursor.position,
        to: Position(cursor.position.0 + i64::try_from(passed).unwrap_or(0)),
        state: None,
        chain,
        condition,
        skipped,
        mover: Mover::Turn,
        at: now,
    };
    (step, passed)
}

/// Moves the cursor. The request is not repeated if the database fails: only the move is, until it is
/// known to have been made, by this call or by another node.
async fn advance(engine: &Engine, worker: &Worker, step: Step) -> Result<Advance, Error> {
    loop {
        match engine.store.advance(vec![step.clone()]).await {
            Ok(moved) if moved.first() == Some(&Advance::Moved) => return Ok(Advance::Moved),
            // An operator may have held it during the request: it moves, and stays held.
            Ok(_) if step.to > step.from && step.skipped.is_empty() => {
                return engine.store.advance_held(&step).await;
            }
            Ok(_) => return Ok(Advance::Lost),
            Err(error) if error.is_fatal() || engine.is_failing() || worker.has_stopped() => {
                return Err(error);
            }
            Err(error) => {
                tracing::warn!(stream = step.cursor.stream.0, %error, "a delivery is noted later");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

impl Engine {
    /// Queues cursors at the gates of their destinations.
    pub fn deliver(self: &Arc<Self>, worker: &Arc<Worker>, cursors: &[(CursorId, Duration)]) {
        let catalog = self.catalog.now();
        for (cursor, gathered) in cursors {
            let handler = catalog.handlers.get(&cursor.handler);
            let Some(to) = handler.and_then(|handler| handler.forward()) else {
                worker.turned(*cursor, Outcome::Done);
                continue;
            };
            let gate = self.deliveries.forwards.gate(cursor.handler, to);
            gate.queue(Waiting {
                worker: worker.clone(),
                cursor: *cursor,
                gathered: *gathered,
            });
            admit(self, &gate);
        }
    }

    /// Time limit for a request; `None` if this node's lease is too short for one.
    fn time_to_send(&self, work: &Work) -> Option<Duration> {
        let Work::Forward { to, .. } = work else {
            return None;
        };
        let Some(member) = &self.member else {
            return Some(to.timeout);
        };
        let left = member.lease_left();
        (left >= LEASE_MIN).then(|| left.min(to.timeout))
    }

    /// The ordering key of a stream, cached because it never changes.
    async fn ordering_key(&self, stream: StreamId) -> Result<OrderingKey, Error> {
        if let Some(key) = self.deliveries.forwards.keys.lock().get(&stream) {
            return Ok(key.clone());
        }
        let found = self.store.cursors_of(&[stream]).await?.pop();
        let key = found
            .map(|found| found.key)
            .ok_or(Error::Integrity("a stream is gone".into()))?;
        let mut keys = self.deliveries.forwards.keys.lock();
        if keys.len() >= KEYS_MAX {
            keys.clear();
        }
        keys.insert(stream, key.clone());
        Ok(key)
    }
}
