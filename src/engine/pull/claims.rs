//! Opening deliveries: what a cursor's row and its lane allow, claimed by compare-and-set.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::Engine;
use super::super::catalog::Snapshot;
use super::super::turn::{self, Plan};
use super::request::ConsumerRequest;
use crate::domain::backoff;
use crate::domain::cursor::{Applied, Condition, CursorId, DeadLetter};
use crate::domain::event::{Event, StreamId};
use crate::domain::failure::{Failure, Next};
use crate::domain::hook::{Handler, HandlerId};
use crate::domain::lane::{LaneId, Mode, Slot};
use crate::domain::name::OrderingKey;
use crate::domain::position::Position;
use crate::domain::time::Timestamp;
use crate::domain::token::Token;
use crate::metrics::Passed;
use crate::store::{
    Advance, Claim, Delivery, Error, Input, InputRequest, Mover, OpenedDelivery, Step,
};

/// Number of events read for an answer, over all its deliveries.
const EVENTS_READ_MAX: usize = 2_000;

/// Size limit of the bodies in an answer, in bytes; a larger first event goes alone.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// An open delivery.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// Token for the consumer's answer.
    pub token: Token,
    /// The ordering key of the stream.
    pub stream: OrderingKey,
    /// Number of the try of its first event, from 1.
    pub attempt: u32,
    /// End of its lease.
    pub lease_until: Timestamp,
    /// Its events, in order.
    pub events: Vec<Arc<Event>>,
    /// Number of its replay; `None` in a normal delivery.
    pub replay: Option<HandlerId>,
}

/// Deliveries on the way to a consumer. If dropped before [`Self::handed_over`], they are given back.
pub struct Deliveries {
    /// The deliveries.
    pub items: Vec<Delivered>,
    engine: Arc<Engine>,
    runtime: tokio::runtime::Handle,
}

impl Deliveries {
    /// No deliveries.
    pub(super) fn none(engine: &Arc<Engine>) -> Self {
        Self::of(engine, Vec::new())
    }

    fn of(engine: &Arc<Engine>, items: Vec<Delivered>) -> Self {
        Self {
            items,
            engine: engine.clone(),
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// Marks them as received by the consumer: from now on only answers and leases end them.
    pub fn handed_over(mut self) {
        self.items.clear();
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        let tokens: Vec<_> = self.items.drain(..).map(|item| item.token).collect();
        if tokens.is_empty() {
            return;
        }
        let engine = self.engine.clone();
        self.runtime.spawn(async move {
            // Holds up the end of the node until they are given back.
            let _claiming = engine.deliveries.pulls.claiming.clone().read_owned().await;
            match engine.store.give_back(&tokens).await {
                Ok(()) => tokens
                    .iter()
                    .for_each(|token| engine.deliveries.pulls.hint(token.cursor)),
                Err(error) => tracing::debug!(%error, "deliveries end with their leases"),
            }
        });
    }
}

/// The lane of a slot of a handler's hook. Its state decides if the cursor may move.
pub fn lane(catalog: &Snapshot, handler: &Handler, slot: Slot) -> Option<LaneId> {
    let hook = catalog.hooks_by_id.get(&handler.hook)?;
    Some(catalog.lanes_of(hook)?.lane(slot))
}

/// True if the lane lets the cursor move, as far as the configuration tells.
pub fn may_move(catalog: &Snapshot, lane: &LaneId, cursor: CursorId) -> bool {
    match catalog.stops.mode(lane) {
        Mode::Paused => false,
        mode => !mode.has_marks() || catalog.stops.marks.contains_key(&cursor),
    }
}

/// Decision about a cursor.
enum Judged {
    Nothing,
    /// Deliver later: the answer is full.
    Later,
    Claim(Claim, Vec<Arc<Event>>),
    Move(Box<Step>),
    /// The handler does not take the next events.
    Pass(Box<Step>),
}

impl Engine {
    /// Opens deliveries of some streams, where there is something to deliver and nobody has it.
    ///
    /// # Errors
    /// Those of the database; what was opened ends with its lease.
    pub(super) async fn claim(
        self: &Arc<Self>,
        handler: HandlerId,
        request: &ConsumerRequest,
        streams: Vec<StreamId>,
    ) -> Result<Deliveries, Error> {
        let _claiming = self.deliveries.pulls.claiming.read().await;
        let catalog = self.catalog.now();
        let Some(handler) = catalog.handlers.get(&handler) else {
            return Ok(Deliveries::none(self));
        };
        let now = Timestamp::now();
        // Delivery rows are read before cursors, so a delivery that ends in between is seen as open.
        let database_now = self.store.clock().await?;
        let before = self.store.deliveries(handler.id, &streams).await?;
        let before: HashMap<StreamId, Delivery> = before
            .into_iter()
            .map(|delivery| (delivery.token.cursor.stream, delivery))
            .collect();
        let is_free = |stream: &StreamId| {
            let delivery = before.get(stream);
            delivery.is_none_or(|delivery| !delivery.is_open(database_now))
        };
        let free: Vec<_> = streams.into_iter().filter(is_free).collect();
        let named = self.store.cursors_of(&free).await?;
        let lanes: HashMap<StreamId, LaneId> = named
            .iter()
            .filter_map(|named| Some((named.stream, lane(&catalog, handler, named.slot)?)))
            .filter(|(stream, lane)| may_move(&catalog, lane, cursor(handler.id, *stream)))
            .collect();
        let free: Vec<_> = free.into_iter().filter(|s| lanes.contains_key(s)).collect();
        let events_max = (EVENTS_READ_MAX / free.len().max(1)).clamp(1, request.events_max.max(1));
        let want = |stream: &StreamId| InputRequest {
            cursor: cursor(handler.id, *stream),
            events_max,
        };
        let inputs = self.store.inputs(free.iter().map(want).collect()).await?;
        let (mut claims, mut events) = (Vec::new(), Vec::new());
        let (mut steps, mut passes) = (Vec::new(), Vec::new());
        let mut room = ANSWER_BYTES_MAX;
        for mut input in inputs.into_iter().flatten() {
            let stream = input.cursor.id.stream;
            let judged = match lanes.get(&stream) {
                Some(lane) => {
                    match turn::judge(&catalog, lane, &mut input, handler, (now, Duration::ZERO)) {
                        Plan::Leave(_) | Plan::Elsewhere => Judged::Nothing,
                        Plan::HaltAtGap => Judged::Move(Box::new(turn::hold_at_gap(&input, now))),
                        Plan::Go => judge(
                            handler,
                            request,
                            &input,
                            before.get(&stream),
                            &mut room,
                            now,
                        ),
                    }
                }
                None => Judged::Nothing,
            };
            match judged {
                Judged::Nothing => {}
                Judged::Later => self.deliveries.pulls.hint(cursor(handler.id, stream)),
                Judged::Claim(claim, taken) => {
                    claims.push(claim);
                    events.push(taken);
                }
                Judged::Move(step) => steps.push(*step),
                Judged::Pass(step) => passes.push(*step),
            }
        }
        for step in steps {
            self.end_tries(step).await?;
        }
        self.pass_over(passes).await?;
        if claims.is_empty() {
            return Ok(Deliveries::none(self));
        }
        let opened = self.store.claim(&claims).await?;
        let keys: HashMap<StreamId, OrderingKey> = named
            .into_iter()
            .map(|named| (named.stream, named.key))
            .collect();
        let delivered = |(opened, (claim, events)): (Option<OpenedDelivery>, (&Claim, Vec<_>))| {
            let opened = opened?;
            Some(Delivered {
                token: opened.token,
                stream: keys.get(&claim.cursor.stream)?.clone(),
                attempt: claim.attempt,
                lease_until: opened.lease_until,
                events,
                replay: handler.replay.map(|_| handler.id),
            })
        };
        let opened = opened.into_iter().zip(claims.iter().zip(events));
        Ok(Deliveries::of(self, opened.filter_map(delivered).collect()))
    }

    /// Moves cursors past events that their handler does not take; later events are delivered next.
    async fn pass_over(&self, steps: Vec<Step>) -> Result<(), Error> {
        if steps.is_empty() {
            return Ok(());
        }
        let passed: Vec<_> = steps
            .iter()
            .map(|step| (step.cursor, step.to, step.to.0 - step.from.0))
            .collect();
        let moved = self.store.advance(steps).await?;
        for ((cursor, to, events), moved) in passed.into_iter().zip(moved) {
            if moved == Advance::Moved {
                let events = usize::try_from(events).unwrap_or(0);
                self.metrics.passed(Passed::Filter, events);
                self.end_replay(cursor, to).await?;
            }
            self.deliveries.pulls.hint(cursor);
        }
        Ok(())
    }

    /// Sets a cursor aside at a gap, or follows the failure policy if the tries are used up.
    async fn end_tries(&self, step: Step) -> Result<(), Error> {
        if let Some(reason) = step
            .condition
            .reason()
            .filter(|reason| reason.starts_with("gap"))
        {
            self.metrics.gaps.inc();
            let stream = step.cursor.stream.0;
            tracing::error!(stream, position = %step.from, reason, "events are missing: the cursor is held");
        }
        let cursor = step.cursor;
        let is_free = step.condition == Condition::Flowing;
        self.store.advance(vec![step]).await?;
        if is_free {
            self.deliveries.pulls.hint(cursor);
        }
        Ok(())
    }
}

fn cursor(handler: HandlerId, stream: StreamId) -> CursorId {
    CursorId { stream, handler }
}

/// Decides about a cursor that may move: a delivery, or the failure policy if the tries of its next
/// event were used up by expired leases.
fn judge(
    handler: &Handler,
    request: &ConsumerRequest,
    input: &Input,
    before: Option<&Delivery>,
    room: &mut usize,
    now: Timestamp,
) -> Judged {
    let left = |event: &&Arc<Event>| !event.is_damaged && !handler.only.takes(event);
    let lead = input.events.iter().take_while(left).count();
    if lead > 0 {
        // The delivery begins at an event that the handler takes.
        return Judged::Pass(Box::new(turn::pass(input, lead, now)));
    }
    let cursor = &input.cursor;
    // The consumer let the lease end and acknowledged nothing since the begin of the delivery.
    let over = before.filter(|before| {
        before.lease_until.is_some()
            && (before.token.era, before.token.position) == (cursor.era, cursor.position)
    });
    let tries = over.map_or(cursor.condition.tries(), |over| over.attempt);
    let attempts = handler.pull().and_then(|pull| pull.attempts);
    if let Some(over) = over
        && attempts.is_some_and(|attempts| tries >= attempts)
    {
        let failure = Failure {
            tries,
            reason: format!("{} did not answer within its lease", over.consumer),
            wait: backoff::delay(tries, 1.0),
        };
        return exhausted(handler, input, failure, now);
    }
    let mut taken = Vec::new();
    for event in input
        .events
        .iter()
        .filter(|event| handler.only.takes(event))
    {
        let is_first_of_all = *room == ANSWER_BYTES_MAX;
        if event.body.len() > *room && !is_first_of_all {
            break;
        }
        *room = room.saturating_sub(event.body.len());
        taken.push(event.clone());
    }
    let Some(last) = taken.last() else {
        return Judged::Later;
    };
    let claim = Claim {
        cursor: cursor.id,
        era: cursor.era,
        position: cursor.position,
        upto: Position(last.seq.0),
        before: before.map_or(0, |before| before.token.number),
        attempt: tries.saturating_add(1),
        lease: request.lease,
        consumer: request.consumer.clone(),
    };
    Judged::Claim(claim, taken)
}

fn exhausted(handler: &Handler, input: &Input, failure: Failure, now: Timestamp) -> Judged {
    let cursor = &input.cursor;
    let attempts = handler.pull().and_then(|pull| pull.attempts);
    let (condition, skipped) = match failure.next(attempts, handler.on_error, now) {
        Next::SetAside(condition) => (condition, None),
        Next::Skip(reason) => (Condition::Flowing, Some(reason)),
    };
    let passed = match (&skipped, input.events.first()) {
        (Some(_), Some(event)) => Some(event),
        _ => None,
    };
    let letters = skipped.into_iter().map(|reason| DeadLetter {
        seq: cursor.position.next(),
        reason,
    });
    Judged::Move(Box::new(Step {
        cursor: cursor.id,
        era: cursor.era,
        from: cursor.position,
        to: passed.map_or(cursor.position, |event| Position(event.seq.0)),
        state: None,
        chain: passed.map_or_else(
            || cursor.chain.clone(),
            |event| cursor.chain.next(event.id, Applied::Skipped),
        ),
        condition,
        skipped: letters.collect(),
        mover: Mover::Turn,
        at: now,
    }))
}
