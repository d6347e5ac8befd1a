//! Where consumers of one handler wait on this node, and the streams that may have something for them.

use std::collections::{HashSet, VecDeque};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::ask::Ask;
use super::claims::Deliveries;
use crate::domain::event::StreamId;
use crate::store::Error;

/// Streams in the line; those beyond it are found by a look.
const STREAMS_MAX: usize = 10_000;

/// A consumer that waits.
pub struct Waiter {
    /// What it wants.
    pub ask: Ask,
    /// Where its answer goes.
    pub answer: oneshot::Sender<Result<Deliveries, Error>>,
    until: Instant,
    ticket: u64,
}

impl Waiter {
    /// One that waits until a moment.
    pub fn new(
        ask: Ask,
        answer: oneshot::Sender<Result<Deliveries, Error>>,
        until: Instant,
    ) -> Self {
        Self {
            ask,
            answer,
            until,
            ticket: 0,
        }
    }
}

/// The two lines of a handler.
#[derive(Default)]
pub struct Desk {
    lines: Mutex<Lines>,
    wake: Notify,
    /// When the last look began that has ended.
    pub looked: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Lines {
    streams: VecDeque<StreamId>,
    known: HashSet<StreamId>,
    waiters: VecDeque<Waiter>,
    tickets: u64,
    /// Whether somebody looks now and then.
    is_watched: bool,
}

impl Desk {
    /// Puts streams at the tail, but for those that stand there already.
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

    /// Puts a consumer at the tail; the ticket takes it out again.
    pub fn queue(&self, mut waiter: Waiter) -> u64 {
        let mut lines = self.lines.lock();
        lines.tickets += 1;
        waiter.ticket = lines.tickets;
        lines.waiters.push_back(waiter);
        lines.tickets
    }

    /// Takes a consumer out; `false` when it is being served, or has been.
    pub fn withdraw(&self, ticket: u64) -> bool {
        let mut lines = self.lines.lock();
        let at = lines
            .waiters
            .iter()
            .position(|waiter| waiter.ticket == ticket);
        at.and_then(|at| lines.waiters.remove(at)).is_some()
    }

    /// Puts a consumer back in front for which there was nothing; one whose time is over is told so.
    pub fn wait_again(&self, waiter: Waiter) {
        match waiter.until <= Instant::now() {
            true => drop(waiter),
            false => self.lines.lock().waiters.push_front(waiter),
        }
    }

    /// The next consumer, and streams for it: its share of all that wait, so that a few streams are not all one
    /// consumer's.
    pub fn next(&self) -> Option<(Waiter, Vec<StreamId>)> {
        let mut lines = self.lines.lock();
        let lines = &mut *lines;
        lines.waiters.retain(|waiter| !waiter.answer.is_closed());
        if lines.streams.is_empty() {
            return None;
        }
        let share = lines.streams.len().div_ceil(lines.waiters.len().max(1));
        let waiter = lines.waiters.pop_front()?;
        let most = share.min(waiter.ask.streams_max).min(lines.streams.len());
        let streams: Vec<_> = lines.streams.drain(..most).collect();
        for stream in &streams {
            lines.known.remove(stream);
        }
        Some((waiter, streams))
    }

    /// Consumers that wait.
    pub fn waiting(&self) -> usize {
        self.lines.lock().waiters.len()
    }

    /// True for the one who shall look now and then.
    pub fn begins_watch(&self) -> bool {
        let mut lines = self.lines.lock();
        let begins = !lines.is_watched && !lines.waiters.is_empty();
        lines.is_watched |= begins;
        begins
    }

    /// Whether somebody waits still; when nobody does, the next one begins another watch.
    pub fn is_watched(&self) -> bool {
        let mut lines = self.lines.lock();
        lines.waiters.retain(|waiter| !waiter.answer.is_closed());
        lines.is_watched = !lines.waiters.is_empty();
        lines.is_watched
    }

    /// Tells everybody who waits that there is nothing, when the handler is gone.
    pub fn dismiss(&self) {
        let mut lines = self.lines.lock();
        if lines.is_watched {
            lines.is_watched = false;
            lines.waiters.clear();
        }
    }

    /// Returns when there may be something for somebody.
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
        let ask = Ask {
            streams_max,
            events_max: 1,
            wait: Duration::from_secs(9),
            lease: Duration::from_secs(9),
            consumer: "a".into(),
        };
        let until = Instant::now() + Duration::from_secs(9);
        (Waiter::new(ask, answer, until), answered)
    }

    #[test]
    fn consumers_that_wait_share_the_streams_in_their_order_and_no_stream_comes_twice() {
        let desk = Desk::default();
        let (waiters, _answers): (Vec<_>, Vec<_>) = (0..3).map(|_| waiter(9)).unzip();
        waiters.into_iter().for_each(|waiter| {
            desk.queue(waiter);
        });
        desk.push([5, 4, 5, 3, 2, 4].map(StreamId));
        let shares: Vec<_> = std::iter::from_fn(|| desk.next())
            .map(|(_, streams)| streams.iter().map(|stream| stream.0).collect::<Vec<_>>())
            .collect();
        assert_eq!(shares, [vec![5, 4], vec![3], vec![2]]);
        assert_eq!(desk.waiting(), 0);
    }

    #[test]
    fn who_has_gone_away_gets_nothing_and_who_takes_his_ticket_out_is_not_served() {
        let desk = Desk::default();
        let (gone, answer) = waiter(1);
        desk.queue(gone);
        drop(answer);
        let (stays, _answer) = waiter(1);
        let ticket = desk.queue(stays);
        desk.push([StreamId(1)]);
        assert_eq!(
            desk.next().map(|(_, streams)| streams),
            Some(vec![StreamId(1)])
        );
        assert!(!desk.withdraw(ticket), "it is served");
        let (leaves, _answer) = waiter(1);
        let ticket = desk.queue(leaves);
        assert!(desk.withdraw(ticket) && !desk.withdraw(ticket));
        assert!(!desk.is_watched());
    }
}
