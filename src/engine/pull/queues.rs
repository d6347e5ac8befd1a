//! Queues of a handler on this node: consumers that wait, and streams that may have events for them.

use std::collections::{HashSet, VecDeque};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::claims::Deliveries;
use super::request::ConsumerRequest;
use crate::domain::event::StreamId;
use crate::store::Error;

/// Length limit of the queue of streams; streams beyond it are found by a query of the database.
const STREAMS_MAX: usize = 10_000;

/// A waiting consumer.
pub struct Waiter {
    /// Its request.
    pub request: ConsumerRequest,
    /// Channel for its answer.
    pub answer: oneshot::Sender<Result<Deliveries, Error>>,
    until: Instant,
    ticket: u64,
}

impl Waiter {
    /// A consumer that waits until a time.
    pub fn new(
        request: ConsumerRequest,
        answer: oneshot::Sender<Result<Deliveries, Error>>,
        until: Instant,
    ) -> Self {
        Self {
            request,
            answer,
            until,
            ticket: 0,
        }
    }
}

/// The two queues of a handler.
#[derive(Default)]
pub struct Queues {
    lines: Mutex<Lines>,
    wake: Notify,
    /// Begin of the last completed query for streams. The lock is held during a query.
    pub looked: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Lines {
    streams: VecDeque<StreamId>,
    known: HashSet<StreamId>,
    waiters: VecDeque<Waiter>,
    tickets: u64,
    /// True while a task queries for streams regularly.
    is_watched: bool,
}

impl Queues {
    /// Adds streams at the end of their queue, except those already in it.
    pub fn push(&self, streams: impl IntoIterator<Item = StreamId>) {
        let mut lines = self.lines.lock();
        for stream in streams {
            if lines.streams.len() < STREAMS_MAX && lines.known.insert(stream) {
                lines.streams.push_back(stream);
            }
        }
        let wakes = !lines.waiters.is_empty() && !lines.streams.is_empty();
        drop(lines);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// Adds a consumer at the end of its queue; returns a ticket for [`Self::withdraw`].
    pub fn enqueue(&self, mut waiter: Waiter) -> u64 {
        let mut lines = self.lines.lock();
        lines.tickets += 1;
        waiter.ticket = lines.tickets;
        lines.waiters.push_back(waiter);
        lines.tickets
    }

    /// Removes a consumer; `false` if it is being or has been served.
    pub fn withdraw(&self, ticket: u64) -> bool {
        let mut lines = self.lines.lock();
        let at = lines
            .waiters
            .iter()
            .position(|waiter| waiter.ticket == ticket);
        at.and_then(|at| lines.waiters.remove(at)).is_some()
    }

    /// Puts a consumer without deliveries back at the front. If its time is over, it gets an empty
    /// answer.
    pub fn wait_again(&self, waiter: Waiter) {
        match waiter.until <= Instant::now() {
            true => drop(waiter),
            false => self.lines.lock().waiters.push_front(waiter),
        }
    }

    /// The next consumer with its share of the queued streams. Consumers share them, so that one
    /// consumer does not get all of a few streams.
    pub fn next(&self) -> Option<(Waiter, Vec<StreamId>)> {
        let mut lines = self.lines.lock();
        let lines = &mut *lines;
        lines.waiters.retain(|waiter| !waiter.answer.is_closed());
        if lines.streams.is_empty() {
            return None;
        }
        let share = lines.streams.len().div_ceil(lines.waiters.len().max(1));
        let waiter = lines.waiters.pop_front()?;
        let most = share
            .min(waiter.request.streams_max)
            .min(lines.streams.len());
        let streams: Vec<_> = lines.streams.drain(..most).collect();
        for stream in &streams {
            lines.known.remove(stream);
        }
        Some((waiter, streams))
    }

    /// Number of waiting consumers.
    pub fn waiting(&self) -> usize {
        self.lines.lock().waiters.len()
    }

    /// True for the caller that must start the regular queries.
    pub fn begins_watch(&self) -> bool {
        let mut lines = self.lines.lock();
        let begins = !lines.is_watched && !lines.waiters.is_empty();
        lines.is_watched |= begins;
        begins
    }

    /// True if a consumer still waits. If none does, the regular queries end, and the next caller of
    /// [`Self::begins_watch`] starts them again.
    pub fn is_watched(&self) -> bool {
        let mut lines = self.lines.lock();
        lines.waiters.retain(|waiter| !waiter.answer.is_closed());
        lines.is_watched = !lines.waiters.is_empty();
        lines.is_watched
    }

    /// Answers all waiting consumers with no deliveries, because the handler was removed.
    pub fn dismiss(&self) {
        let mut lines = self.lines.lock();
        if lines.is_watched {
            lines.is_watched = false;
            lines.waiters.clear();
        }
    }

    /// Waits until there may be events for a consumer.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn waiter(streams_max: usize) -> (Waiter, oneshot::Receiver<Result<Deliveries, Error>>) {
        let (answer, answered) = oneshot::channel();
        let request = ConsumerRequest {
            streams_max,
            events_max: 1,
            wait: Duration::from_secs(9),
            lease: Duration::from_secs(9),
            consumer: "a".into(),
        };
        let until = Instant::now() + Duration::from_secs(9);
        (Waiter::new(request, answer, until), answered)
    }

    #[test]
    fn consumers_that_wait_share_the_streams_in_their_order_and_no_stream_comes_twice() {
        let queues = Queues::default();
        let (waiters, _answers): (Vec<_>, Vec<_>) = (0..3).map(|_| waiter(9)).unzip();
        waiters.into_iter().for_each(|waiter| {
            queues.enqueue(waiter);
        });
        queues.push([5, 4, 5, 3, 2, 4].map(StreamId));
        let shares: Vec<_> = std::iter::from_fn(|| queues.next())
            .map(|(_, streams)| streams.iter().map(|stream| stream.0).collect::<Vec<_>>())
            .collect();
        assert_eq!(shares, [vec![5, 4], vec![3], vec![2]]);
        assert_eq!(queues.waiting(), 0);
    }

    #[test]
    fn who_has_gone_away_gets_nothing_and_who_takes_his_ticket_out_is_not_served() {
        let queues = Queues::default();
        let (gone, answer) = waiter(1);
        queues.enqueue(gone);
        drop(answer);
        let (stays, _answer) = waiter(1);
        let ticket = queues.enqueue(stays);
        queues.push([StreamId(1)]);
        assert_eq!(
            queues.next().map(|(_, streams)| streams),
            Some(vec![StreamId(1)])
        );
        assert!(!queues.withdraw(ticket), "it is served");
        let (leaves, _answer) = waiter(1);
        let ticket = queues.enqueue(leaves);
        assert!(queues.withdraw(ticket) && !queues.withdraw(ticket));
        assert!(!queues.is_watched());
    }
}
