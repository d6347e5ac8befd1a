//! History of a namespace, in memory: the last five minutes by the second, the last hour in steps of
//! ten seconds.

use std::collections::VecDeque;

use crate::admin::figures::{hundredths, keep};
use crate::api::{Sample, Total, Window};
use crate::domain::time::Timestamp;
use crate::engine::Waits;

/// Number of seconds kept.
const SECONDS_KEPT: usize = 300;

/// Seconds in a step.
pub(super) const STEP: usize = 10;

/// Number of steps kept: one hour.
const STEPS_KEPT: usize = 360;

/// Seconds over which the change of the backlog is measured: as long as rates, so that it is what came
/// less what went.
const CHANGE_OVER: usize = crate::engine::RATE_SECONDS;

/// Events by waiting time.
#[derive(Clone, Copy, Default)]
pub(super) struct WaitCounts {
    /// Events applied since the nodes started.
    pub finished: Waits,
    /// Events that wait now.
    pub waiting: Waits,
}

#[derive(Default)]
pub(super) struct History {
    seconds: VecDeque<Sample>,
    steps: VecDeque<Sample>,
    /// The seconds of the unfinished step, and the events applied in it.
    open: Vec<Sample>,
    finished: Waits,
    /// Counters of applied events in the last second.
    counted: Option<Waits>,
}

impl History {
    /// Adds the second that has just ended.
    pub fn note(&mut self, total: &Total, waits: WaitCounts, now: Timestamp) {
        let (counted, still) = (waits.finished, waits.waiting);
        let before = self.counted.replace(counted).unwrap_or(counted);
        let mut waits = [0; 7];
        for (nth, waits) in waits.iter_mut().enumerate() {
            // A node that restarted counts from zero.
            *waits = counted[nth].saturating_sub(before[nth]);
            self.finished[nth] += *waits;
        }
        add(&mut waits, still);
        let second = Sample {
            at: now,
            backlog: total.backlog,
            in_per_s: hundredths(total.in_per_s),
            out_per_s: hundredths(total.out_per_s),
            flow_ms: total.flow_ms.unwrap_or(0),
            waits,
        };
        keep(&mut self.seconds, second, SECONDS_KEPT);
        self.open.push(second);
        if self.open.len() == STEP {
            let mut finished = std::mem::take(&mut self.finished);
            add(&mut finished, still);
            let step = step_of(&std::mem::take(&mut self.open), finished);
            keep(&mut self.steps, step, STEPS_KEPT);
        }
    }

    /// Recent change of the backlog, in events per second.
    pub fn backlog_per_s(&self, backlog: u64, now: Timestamp) -> f64 {
        let back = self.seconds.len().saturating_sub(CHANGE_OVER);
        let Some(then) = self.seconds.get(back) else {
            return 0.0;
        };
        let elapsed = now.since(then.at).as_secs_f64().max(1.0);
        (backlog as f64 - then.backlog as f64) / elapsed
    }

    /// Samples of a window, oldest first, without those up to `after`.
    pub fn shown(&self, window: Window, after: Option<Timestamp>) -> Vec<Sample> {
        let (steps, each) = window.steps();
        let kept = match each.as_secs() {
            1 => &self.seconds,
            _ => &self.steps,
        };
        let is_new = |sample: &&Sample| after.is_none_or(|after| sample.at > after);
        let mut shown: Vec<_> = kept.iter().rev().take(steps).take_while(is_new).collect();
        shown.reverse();
        shown.into_iter().copied().collect()
    }
}

/// Adds counts by waiting time.
pub(super) fn add(sum: &mut Waits, waits: Waits) {
    for (sum, waits) in sum.iter_mut().zip(waits) {
        *sum += waits;
    }
}

fn step_of(seconds: &[Sample], waits: Waits) -> Sample {
    let mean = |of: fn(&Sample) -> f64| {
        hundredths(seconds.iter().map(of).sum::<f64>() / seconds.len().max(1) as f64)
    };
    let most = |of: fn(&Sample) -> u64| seconds.iter().map(of).max().unwrap_or(0);
    Sample {
        at: seconds.last().map(|second| second.at).unwrap_or_default(),
        backlog: most(|second| second.backlog),
        in_per_s: mean(|second| second.in_per_s),
        out_per_s: mean(|second| second.out_per_s),
        flow_ms: most(|second| second.flow_ms),
        waits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(1_795_489_154_000 + second * 1_000)
    }

    fn finished(events: u64) -> WaitCounts {
        WaitCounts {
            finished: [events, 0, 0, 0, 0, 0, 0],
            ..WaitCounts::default()
        }
    }

    fn past(seconds: i64) -> History {
        let mut past = History::default();
        for second in 0..seconds {
            let total = Total {
                backlog: second.unsigned_abs() * 3,
                in_per_s: second as f64,
                ..Total::default()
            };
            past.note(&total, finished(second.unsigned_abs() * 5), at(second));
        }
        past
    }

    #[test]
    fn a_window_shows_its_span_and_no_more_however_long_it_was_watched() {
        let past = past(5_000);
        for (window, steps) in [
            (Window::Minute, 60),
            (Window::Five, 300),
            (Window::Quarter, 90),
            (Window::Hour, 360),
        ] {
            let shown = past.shown(window, None);
            assert_eq!(shown.len(), steps, "{window:?}");
            assert_eq!(shown.last().map(|last| last.at), Some(at(4_999)));
        }
        let step = past.shown(Window::Hour, None).pop().unwrap();
        assert_eq!((step.backlog, step.waits[0]), (4_999 * 3, 50));
        assert_eq!(step.in_per_s, 4_994.5);
    }

    #[test]
    fn whoever_has_seen_the_past_is_told_only_what_came() {
        let past = past(100);
        assert_eq!(past.shown(Window::Minute, Some(at(97))).len(), 2);
        assert!(past.shown(Window::Hour, Some(at(99))).is_empty());
        assert_eq!(past.backlog_per_s(99 * 3 + 3, at(100)), 3.0);
    }

    #[test]
    fn a_node_that_began_anew_has_not_unfinished_anything() {
        let mut past = past(10);
        past.note(&Total::default(), finished(1), at(10));
        let last = past.shown(Window::Minute, None).pop().unwrap();
        assert_eq!(last.waits, [0; 7]);
    }
}
