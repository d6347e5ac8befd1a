//! How many deliveries to one destination are in flight from this node, and how fast they follow each other. A
//! plain machine: the clock is handed in, and who begins deliveries asks [`Gate::next`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::domain::cursor::CursorId;
use crate::domain::rate::{Bucket, Limit, Rate};
use crate::engine::worker::Worker;

/// A cursor that waits for its delivery.
pub struct Waiting {
    /// Its lane.
    pub worker: Arc<Worker>,
    /// Which.
    pub cursor: CursorId,
    /// For how long it has gathered events.
    pub gathered: Duration,
}

/// What a gate lets happen.
pub enum Next {
    /// This delivery begins; [`Gate::leave`] is called when it has ended.
    Begin(Waiting),
    /// The rate is used up: it is asked again after this time, by one who first calls [`Gate::wait_is_over`].
    After(Duration),
}

/// The line in front of one destination, longest waiting first.
#[derive(Default)]
pub struct Gate {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Waiting>,
    in_flight: u32,
    /// At most so many are in flight, whatever the window.
    max: u32,
    /// At most so many are in flight now: it grows with each success and is halved by each failure.
    window: u32,
    rate: Option<Rate>,
    bucket: Option<Bucket>,
    /// True while somebody waits for the rate.
    is_timed: bool,
}

impl Gate {
    /// Takes the limits of the handler as they are configured now.
    pub fn limit(&self, max: u32, rate: Option<Rate>) {
        let mut inner = self.inner.lock();
        if inner.max != max {
            inner.max = max;
            inner.window = max;
        }
        if inner.rate != rate {
            inner.rate = rate;
            // No burst beyond what fits into a tenth of a second: a destination asked for a rate, not for an average.
            inner.bucket = rate.map(|rate| {
                let burst = (rate.requests() / 10).clamp(1, max.max(1));
                Bucket::new(Limit { rate, burst })
            });
        }
    }

    /// Puts a cursor at the end of the line.
    pub fn queue(&self, waiting: Waiting) {
        self.inner.lock().waiting.push_back(waiting);
    }

    /// What may happen at `now`; `None` when there is no room, or nobody waits. Cursors of lanes that have stopped
    /// leave the line.
    pub fn next(&self, now: Instant) -> Option<Next> {
        let mut inner = self.inner.lock();
        if inner.is_timed || inner.in_flight >= inner.window.min(inner.max).max(1) {
            return None;
        }
        while inner
            .waiting
            .front()
            .is_some_and(|waiting| waiting.worker.has_stopped())
        {
            inner.waiting.pop_front();
        }
        inner.waiting.front()?;
        if let Some(bucket) = &inner.bucket
            && let Err(wait) = bucket.take(now)
        {
            inner.is_timed = true;
            return Some(Next::After(wait));
        }
        let waiting = inner.waiting.pop_front()?;
        inner.in_flight += 1;
        Some(Next::Begin(waiting))
    }

    /// Notes that the time of [`Next::After`] is over.
    pub fn wait_is_over(&self) {
        self.inner.lock().is_timed = false;
    }

    /// Notes whether a request was acknowledged.
    pub fn went(&self, well: bool) {
        let mut inner = self.inner.lock();
        inner.window = match well {
            true => inner.window.saturating_add(1).min(inner.max),
            false => (inner.window / 2).max(1),
        };
    }

    /// Notes that a delivery has ended.
    pub fn leave(&self) {
        let mut inner = self.inner.lock();
        inner.in_flight = inner.in_flight.saturating_sub(1);
    }
}
