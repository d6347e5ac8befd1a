//! Deliveries of each handler since this node was started: for people, not for decisions.

use std::collections::HashMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::domain::hook::HandlerId;
use crate::domain::time::Timestamp;

/// The longest time that is told apart, in microseconds.
const TOOK_MAX: u64 = 600_000_000;

/// The tallies of this node.
#[derive(Default)]
pub struct Tallies(Mutex<HashMap<HandlerId, Tally>>);

/// The deliveries of one handler.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Those that were acknowledged, in whole or in part.
    pub acknowledged: u64,
    /// Those that were not; each try counts.
    pub failed: u64,
    /// The last one.
    pub last: Option<Last>,
    /// When the last acknowledged one was.
    pub last_ok: Option<Timestamp>,
    /// Times of answers, in microseconds; `None` for deliveries to consumers that ask.
    took: Option<Histogram<u32>>,
}

/// A delivery that has ended.
#[derive(Clone, Debug)]
pub struct Last {
    /// When.
    pub at: Timestamp,
    /// Why it failed; none when it was acknowledged.
    pub failure: Option<String>,
    /// Time of the answer; `None` for a delivery to a consumer that asks.
    pub took: Option<Duration>,
}

impl Tally {
    fn note(&mut self, last: Last) {
        match last.failure {
            None => {
                self.acknowledged += 1;
                self.last_ok = Some(last.at);
            }
            Some(_) => self.failed += 1,
        }
        if let Some(took) = last.took {
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            if self.took.is_none() {
                self.took = Histogram::new_with_max(TOOK_MAX, 2).ok();
            }
            if let Some(histogram) = &mut self.took {
                histogram.saturating_record(micros.clamp(1, TOOK_MAX));
            }
        }
        self.last = Some(last);
    }

    /// The time that so many of 100 answers took at most.
    pub fn took(&self, percent: f64) -> Option<Duration> {
        let histogram = self.took.as_ref()?;
        Some(Duration::from_micros(
            histogram.value_at_percentile(percent),
        ))
    }
}

impl Tallies {
    /// Notes what became of a delivery.
    pub fn note(&self, handler: HandlerId, last: Last) {
        self.0.lock().entry(handler).or_default().note(last);
    }

    /// The deliveries of a handler so far.
    pub fn of(&self, handler: HandlerId) -> Tally {
        self.0.lock().get(&handler).cloned().unwrap_or_default()
    }

    /// Forgets handlers that are gone.
    pub fn retain(&self, is_there: impl Fn(&HandlerId) -> bool) {
        self.0.lock().retain(|handler, _| is_there(handler));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_and_keeps_the_last() {
        let (tallies, handler) = (Tallies::default(), HandlerId(1));
        let note = |at: i64, failure: Option<&str>, ms: u64| {
            let last = Last {
                at: Timestamp::from_millis(at),
                failure: failure.map(str::to_owned),
                took: Some(Duration::from_millis(ms)),
            };
            tallies.note(handler, last);
        };
        note(1, None, 20);
        note(2, None, 30);
        note(3, Some("503"), 5_000);
        let tally = tallies.of(handler);
        assert_eq!((tally.acknowledged, tally.failed), (2, 1));
        assert_eq!(tally.last_ok, Some(Timestamp::from_millis(2)));
        assert_eq!(tally.last.as_ref().unwrap().failure.as_deref(), Some("503"));
        assert!(tally.took(50.0).unwrap() < Duration::from_millis(32));
        assert!(tally.took(99.0).unwrap() > Duration::from_secs(4));
        tallies.retain(|_| false);
        assert_eq!(tallies.of(handler).acknowledged, 0);
    }
}
