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

/// Number of steps that count as the present: the current one and the one before.
const STEPS_NOW: i64 = 2;

/// Seconds over which the busy share of a lane is measured: a lane that becomes full shows so within
/// this time.
const BUSY_SECONDS: i64 = 10;

/// Longest time recorded, in microseconds: a hundred days.
const LONGEST_US: u64 = 100 * 86_400_000_000;

/// The window of one lane, filled by its turns.
#[derive(Default)]
pub struct Gauge {
    steps: VecDeque<Step>,
    /// Time of the first record.
    began: Option<i64>,
    waits: Waits,
    /// Time in which turns ran, by the second in which each ended.
    busy: VecDeque<(i64, Duration)>,
}

struct Step {
    begins: i64,
    came: u64,
    went: u64,
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
    /// Events received per second, over the last half or whole minute.
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
        if let Some(step) = self.step(now) {
            step.came += events;
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
        let Some(step) = self.step(now) else {
            return;
        };
        step.went += received.len() as u64;
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
        let second = now.as_millis().div_euclid(1_000);
        match self.busy.back_mut() {
            Some((last, busy)) if *last == second => *busy += took,
            _ => self.busy.push_back((second, took)),
        }
        while self.busy.len() as i64 > BUSY_SECONDS {
            self.busy.pop_front();
        }
    }

    fn busy(&self, now: Timestamp) -> f64 {
        let since = now.as_millis() - BUSY_SECONDS * 1_000;
        let recent = self.busy.iter();
        let recent = recent.filter(|(second, _)| *second * 1_000 >= since);
        let busy: Duration = recent.map(|(_, took)| *took).sum();
        let since = self.began.map_or(since, |began| began.max(since));
        let seconds = (now.as_millis() - since) as f64 / 1_000.0;
        (busy.as_secs_f64() / seconds.max(1.0)).min(1.0)
    }

    /// The figures of the last five minutes. Waiting events count with their ages so far.
    pub fn reading(&self, now: Timestamp, spans: &[Span]) -> Reading {
        let since = now.as_millis() - STEP_MS * STEPS as i64;
        let steps = self.steps.iter().filter(|step| step.begins > since);
        let (mut came, mut went, mut failed) = (0, 0, 0);
        let (mut wait, mut work) = (times(), times());
        let now_since = begin_of(now) - STEP_MS * (STEPS_NOW - 1);
        for step in steps {
            failed += step.failed;
            if step.begins >= now_since {
                came += step.came;
                went += step.went;
            }
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
        let now_since = self.began.map_or(now_since, |began| began.max(now_since));
        let seconds = ((now.as_millis() - now_since) as f64 / 1_000.0).max(1.0);
        Reading {
            in_per_s: came as f64 / seconds,
            out_per_s: went as f64 / seconds,
            failed,
            wait,
            work,
            busy: self.busy(now),
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
                came: 0,
                went: 0,
                failed: 0,
                wait: times(),
                work: times(),
            });
        }
        self.steps.back_mut()
    }
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
        let reading = gauge.reading(at(10), &[]);
        assert_eq!((reading.in_per_s, reading.out_per_s), (1.0, 0.1));
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
        assert_eq!(rate(&gauge, 299), 0.0, "and is over when it is over");
        gauge.came(30, at(320));
        assert_eq!(
            rate(&gauge, 320),
            30.0 / 50.0,
            "one burst is no rate of its own"
        );
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
