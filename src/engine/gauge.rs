//! Figures of a lane over the last minutes: rates, waiting times and working times.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::{Counter, Histogram};

use super::lane::Span;
use crate::domain::hook::HandlerId;
use crate::domain::time::Timestamp;

/// Length of a step of the window.
const STEP_MS: i64 = 30_000;

/// Number of steps in the window: five minutes.
const STEPS: usize = 10;

/// Seconds over which all rates and busy shares are measured, of lanes as of hooks: a change shows within
/// this time.
pub const RATE_SECONDS: usize = 10;

/// Longest time recorded, in microseconds: a hundred days.
const LONGEST_US: u64 = 100 * 86_400_000_000;

/// The window of one lane, filled by its turns.
#[derive(Default)]
pub struct Gauge {
    steps: VecDeque<Step>,
    /// Time of the first record.
    began: Option<i64>,
    waits: Waits,
    /// The last seconds, those without a record left out.
    seconds: VecDeque<Second>,
}

/// One second, by the clock.
#[derive(Default)]
struct Second {
    at: i64,
    came: u64,
    went: u64,
    /// Duration of the turns that ended in it.
    busy: Duration,
}

struct Step {
    begins: i64,
    failed: u64,
    wait: Histogram<u32>,
    work: Histogram<u32>,
}

/// Upper bounds of the classes of waiting times, in microseconds; longer ones are the last class.
const CLASSES_US: [u64; 6] = [
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    60_000_000,
    600_000_000,
];

/// Number of events by class of waiting time.
pub type Waits = [u64; CLASSES_US.len() + 1];

/// The figures of the window.
pub struct Reading {
    /// Events received per second, over the last ten seconds.
    pub in_per_s: f64,
    /// Events passed per second, over the same time.
    pub out_per_s: f64,
    /// Number of failed tries.
    pub failed: u64,
    /// Time from the receipt of an event until its turn was done, in microseconds.
    pub wait: Histogram<u32>,
    /// Time of the reducer for one event, in microseconds.
    pub work: Histogram<u32>,
    /// Share of the last ten seconds in which a turn ran, 0 to 1.
    pub busy: f64,
    /// Applied events by waiting time, since the lane began to run here.
    pub waits: Waits,
    /// Waiting events by their waiting time so far.
    pub waiting: Waits,
}

/// Number of ages by which the events of one cursor are represented, at most and at least, and of all
/// cursors of a lane.
const AGES_MAX: u64 = 32;
const AGES_MIN: u64 = 4;
const AGES_OF_LANE: u64 = 4_096;

impl Span {
    /// Ages of its events at `now`, assuming that they were received evenly between the oldest and the
    /// newest, each with the number of events. Exact for two events; more are represented by at most
    /// `most` ages.
    fn ages(&self, now: Timestamp, most: u64) -> impl Iterator<Item = (Duration, u64)> + use<> {
        let (oldest, newest) = (now.since(self.oldest), now.since(self.newest));
        let (events, ages) = (self.events, self.events.min(most));
        let step =
            oldest.saturating_sub(newest).as_secs_f64() / ages.saturating_sub(1).max(1) as f64;
        let until =
            move |nth: u64| (u128::from(events) * u128::from(nth) / u128::from(ages)) as u64;
        (0..ages).map(move |nth| {
            let age = oldest.saturating_sub(Duration::from_secs_f64(step * nth as f64));
            (age, until(nth + 1) - until(nth))
        })
    }
}

impl Gauge {
    /// Records that `events` were received.
    pub fn came(&mut self, events: u64, now: Timestamp) {
        if let Some(second) = self.second(now) {
            second.came += events;
        }
    }

    /// Records events that were passed, by their receive times, and the work on them.
    pub fn went(
        &mut self,
        received: &[Timestamp],
        work: &[(HandlerId, Duration, u32)],
        now: Timestamp,
    ) {
        for at in received {
            self.waits[class(micros(now.since(*at)))] += 1;
        }
        if let Some(second) = self.second(now) {
            second.went += received.len() as u64;
        }
        let Some(step) = self.step(now) else {
            return;
        };
        for at in received {
            step.wait.saturating_record(micros(now.since(*at)));
        }
        for (_, took, events) in work.iter().filter(|(.., events)| *events > 0) {
            step.work
                .saturating_record_n(micros(*took / *events), *events);
        }
    }

    /// Records a turn, with its duration and number of failed tries.
    pub fn turned(&mut self, took: Duration, failed: u64, now: Timestamp) {
        if let Some(step) = self.step(now) {
            step.failed += failed;
        }
        if let Some(second) = self.second(now) {
            second.busy += took;
        }
    }

    /// Events received per second, events passed per second, and the share of time that turns took, 0 to 1.
    fn rates(&self, now: Timestamp) -> (f64, f64, f64) {
        let first = second_of(now) - (RATE_SECONDS as i64 - 1);
        let (mut came, mut went, mut busy) = (0, 0, Duration::ZERO);
        for second in self.seconds.iter().filter(|second| second.at >= first) {
            came += second.came;
            went += second.went;
            busy += second.busy;
        }
        let since = self
            .began
            .map_or(first * 1_000, |began| began.max(first * 1_000));
        let seconds = ((now.as_millis() - since) as f64 / 1_000.0).max(1.0);
        let share = busy.as_secs_f64() / seconds;
        (came as f64 / seconds, went as f64 / seconds, share.min(1.0))
    }

    /// The figures of the last five minutes. Waiting events count with their ages so far.
    pub fn reading(&self, now: Timestamp, spans: &[Span]) -> Reading {
        let since = now.as_millis() - STEP_MS * STEPS as i64;
        let steps = self.steps.iter().filter(|step| step.begins > since);
        let mut failed = 0;
        let (mut wait, mut work) = (times(), times());
        for step in steps {
            failed += step.failed;
            // Both histograms have the same bounds, so adding cannot fail.
            let _ = wait.add(&step.wait);
            let _ = work.add(&step.work);
        }
        let mut waiting = Waits::default();
        let share = AGES_OF_LANE / (spans.len() as u64).max(1);
        let most = share.clamp(AGES_MIN, AGES_MAX);
        for (age, events) in spans.iter().flat_map(|span| span.ages(now, most)) {
            let age = micros(age);
            wait.saturating_record_n(age, u32::try_from(events).unwrap_or(u32::MAX));
            waiting[class(age)] += events;
        }
        let (in_per_s, out_per_s, busy) = self.rates(now);
        Reading {
            in_per_s,
            out_per_s,
            failed,
            wait,
            work,
            busy,
            waits: self.waits,
            waiting,
        }
    }

    fn step(&mut self, now: Timestamp) -> Option<&mut Step> {
        let begins = begin_of(now);
        self.began.get_or_insert(now.as_millis());
        if self.steps.back().is_none_or(|step| step.begins < begins) {
            if self.steps.len() == STEPS {
                self.steps.pop_front();
            }
            self.steps.push_back(Step {
                begins,
                failed: 0,
                wait: times(),
                work: times(),
            });
        }
        self.steps.back_mut()
    }

    fn second(&mut self, now: Timestamp) -> Option<&mut Second> {
        let at = second_of(now);
        self.began.get_or_insert(now.as_millis());
        if self.seconds.back().is_none_or(|last| last.at < at) {
            if self.seconds.len() == RATE_SECONDS {
                self.seconds.pop_front();
            }
            self.seconds.push_back(Second {
                at,
                ..Second::default()
            });
        }
        self.seconds.back_mut()
    }
}

/// The second of a time.
fn second_of(now: Timestamp) -> i64 {
    now.as_millis().div_euclid(1_000)
}

/// Begin of the current step.
fn begin_of(now: Timestamp) -> i64 {
    now.as_millis() - now.as_millis().rem_euclid(STEP_MS)
}

/// Class of a waiting time.
fn class(wait_us: u64) -> usize {
    CLASSES_US.partition_point(|bound| *bound <= wait_us)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(LONGEST_US)
}

/// An empty histogram of times in microseconds; all have the same bounds.
pub fn times<C: Counter>() -> Histogram<C> {
    Histogram::new_with_bounds(1, LONGEST_US, 1)
        .expect("1 to a hundred days at one figure is a range that histograms have")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_forgets_what_is_older_than_five_minutes() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        let mut gauge = Gauge::default();
        gauge.came(10, at(0));
        gauge.went(
            &[at(0)],
            &[(HandlerId(1), Duration::from_micros(8), 2)],
            at(2),
        );
        let reading = gauge.reading(at(5), &[]);
        assert_eq!((reading.in_per_s, reading.out_per_s), (2.0, 0.2));
        assert_eq!(reading.work.max(), 4);
        assert!(reading.wait.max() >= 2_000_000);

        gauge.came(1, at(400));
        let reading = gauge.reading(at(400), &[]);
        assert_eq!(reading.wait.len(), 0);
    }

    #[test]
    fn rates_tell_of_now_and_not_of_minutes_ago() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        let rate = |gauge: &Gauge, now| gauge.reading(at(now), &[]).in_per_s;
        let mut gauge = Gauge::default();
        for second in 0..240 {
            gauge.came(if second < 200 { 1 } else { 100 }, at(second));
        }
        assert!(rate(&gauge, 240) > 99.0, "a flood is seen as high as it is");
        assert!(rate(&gauge, 245) < 60.0, "and ebbs as it does");
        assert_eq!(rate(&gauge, 250), 0.0, "and is over when it is over");
        gauge.came(30, at(320));
        assert!(rate(&gauge, 321) < 4.0, "one burst is no rate of its own");
        assert_eq!(rate(&gauge, 330), 0.0);
    }

    #[test]
    fn a_lane_that_was_idle_for_long_is_busy_as_soon_as_its_turns_follow_each_other() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        let mut gauge = Gauge::default();
        for second in 0..240 {
            gauge.turned(Duration::from_millis(1), 1, at(second));
        }
        let idle = gauge.reading(at(240), &[]);
        assert!(idle.busy < 0.01);
        assert_eq!(idle.failed, 240);
        for second in 240..250 {
            gauge.turned(Duration::from_secs(1), 0, at(second));
        }
        assert!(gauge.reading(at(250), &[]).busy > 0.9);
        assert!(gauge.reading(at(255), &[]).busy < 0.6);
        assert!(gauge.reading(at(270), &[]).busy < 0.01);
    }

    #[test]
    fn what_waits_is_counted_by_its_age_between_the_oldest_and_the_newest_of_each_cursor() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        let span = |oldest, newest, events| Span {
            oldest: at(oldest),
            newest: at(newest),
            events,
        };
        // One cursor with 1,000 events of the last 1,000 seconds, one with two.
        let reading =
            Gauge::default().reading(at(1_000), &[span(0, 1_000, 1_000), span(0, 999, 2)]);
        assert_eq!(reading.wait.len(), 1_002);
        let seconds = |quantile| reading.wait.value_at_quantile(quantile) / 1_000_000;
        assert!((450..=560).contains(&seconds(0.5)), "{}", seconds(0.5));
        assert!((850..=960).contains(&seconds(0.9)), "{}", seconds(0.9));
        assert_eq!(reading.waiting.iter().sum::<u64>(), 1_002);
        let of_ten_minutes = reading.waiting[6];
        assert!((370..=430).contains(&of_ten_minutes), "{of_ten_minutes}");
        let day = [span(-86_400, 1_000, 9)];
        let longest = Gauge::default().reading(at(1_000), &day).wait.max();
        assert!(longest >= 87_400 * 1_000_000, "{longest}");
        let many = vec![span(0, 1_000, 7); 100_000];
        assert_eq!(
            Gauge::default().reading(at(1_000), &many).wait.len(),
            700_000
        );
    }
}
