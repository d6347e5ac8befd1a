//! Outcomes of each handler's deliveries since the start of the node, for display only.

use std::collections::HashMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::domain::hook::HandlerId;
use crate::domain::time::Timestamp;

/// Longest time recorded, in microseconds.
const TOOK_MAX: u64 = 600_000_000;

/// The tallies of this node.
#[derive(Default)]
pub struct Tallies(Mutex<HashMap<HandlerId, Tally>>);

/// Tally of a handler's deliveries.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Number of deliveries acknowledged wholly or in part.
    pub acknowledged: u64,
    /// Number of failed tries.
    pub failed: u64,
    /// The last delivery.
    pub last: Option<Last>,
    /// Time of the last acknowledgement.
    pub last_ok: Option<Timestamp>,
    /// Times of answers, in microseconds; `None` for pull handlers.
    took: Option<Histogram<u32>>,
}

/// Outcome of a delivery.
#[derive(Clone, Debug)]
pub struct Last {
    /// Time at which it ended.
    pub at: Timestamp,
    /// Cause of the failure; `None` if it was acknowledged.
    pub failure: Option<String>,
    /// Time of the answer; `None` for a pull delivery.
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

    /// Percentile of the answer times.
    pub fn took(&self, percent: f64) -> Option<Duration> {
        let histogram = self.took.as_ref()?;
        Some(Duration::from_micros(
            histogram.value_at_percentile(percent),
        ))
    }
}

impl Tallies {
    /// Records the outcome of a delivery.
    pub fn note(&self, handler: HandlerId, last: Last) {
        self.0.lock().entry(handler).or_default().note(last);
    }

    /// Tally of a handler so far.
    pub fn of(&self, handler: HandlerId) -> Tally {
        self.0.lock().get(&handler).cloned().unwrap_or_default()
    }

    /// Removes the tallies of removed handlers.
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
