//! Limits of the deliveries from this node to a destination: number in flight, and rate. Plain state
//! without a clock or I/O; the caller asks [`Gate::next`] and begins deliveries.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::domain::cursor::CursorId;
use crate::domain::rate::{Bucket, Limit, Rate};
use crate::engine::worker::Worker;

/// Number of deliveries in flight to a destination that has not answered yet (RFC 5681, initial window).
const WINDOW_FIRST: u32 = 4;

/// A cursor that waits for a delivery.
pub struct Waiting {
    /// The worker of its lane.
    pub worker: Arc<Worker>,
    /// The cursor.
    pub cursor: CursorId,
    /// Time for which it has gathered events.
    pub gathered: Duration,
}

/// Permission of a gate.
pub enum Next {
    /// Begin this delivery, and call [`Gate::leave`] when it has ended.
    Begin(Waiting),
    /// The rate is used up: after this time call [`Gate::wait_is_over`], then ask again.
    After(Duration),
}

/// Queue and limits of a destination, first come, first served.
#[derive(Default)]
pub struct Gate {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Waiting>,
    in_flight: u32,
    /// Configured limit of deliveries in flight.
    max: u32,
    /// Present limit of deliveries in flight: it grows by one with each success and is halved by each
    /// failure.
    window: u32,
    rate: Option<Rate>,
    bucket: Option<Bucket>,
    /// True while a caller waits for [`Next::After`].
    is_timed: bool,
}

impl Gate {
    /// Sets the limits to those of the handler's configuration.
    pub fn limit(&self, max: u32, rate: Option<Rate>) {
        let mut inner = self.inner.lock();
        if inner.max != max {
            inner.window = match inner.max {
                0 => WINDOW_FIRST.min(max),
                _ => inner.window.min(max),
            };
            inner.max = max;
        }
        if inner.rate != rate {
            inner.rate = rate;
            // Bursts are limited to a tenth of a second, because a rate limit is meant at all times,
            // not on average.
            inner.bucket = rate.map(|rate| {
                let burst = (rate.requests() / 10).clamp(1, max.max(1));
                Bucket::new(Limit { rate, burst })
            });
        }
    }

    /// Adds a cursor at the end of the queue.
    pub fn queue(&self, waiting: Waiting) {
        self.inner.lock().waiting.push_back(waiting);
    }

    /// The permission at `now`; `None` if the limit is reached or the queue is empty. Removes cursors
    /// of stopped lanes.
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

    /// Records that the time of [`Next::After`] is over.
    pub fn wait_is_over(&self) {
        self.inner.lock().is_timed = false;
    }

    /// Adjusts the window after a request; `well` if it was acknowledged.
    pub fn went(&self, well: bool) {
        let mut inner = self.inner.lock();
        inner.window = match well {
            true => inner.window.saturating_add(1).min(inner.max),
            false => (inner.window / 2).max(1),
        };
    }

    /// Records that a delivery has ended.
    pub fn leave(&self) {
        let mut inner = self.inner.lock();
        inner.in_flight = inner.in_flight.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_asked_more_at_once_as_it_answers_and_less_as_it_fails() {
        let gate = Gate::default();
        let window = |gate: &Gate| gate.inner.lock().window;
        gate.limit(64, None);
        assert_eq!(window(&gate), 4);
        (0..10).for_each(|_| gate.went(true));
        gate.limit(64, None);
        assert_eq!(window(&gate), 14);
        gate.went(false);
        gate.limit(128, None);
        assert_eq!(window(&gate), 7, "a higher limit is reached by answers");
        gate.limit(2, None);
        (0..10).for_each(|_| gate.went(true));
        assert_eq!(window(&gate), 2);
        (0..3).for_each(|_| gate.went(false));
        assert_eq!(window(&gate), 1);
    }
}
