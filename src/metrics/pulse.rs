//! What this node did lately, for verdicts: how long commits took, how much each hook got, how long each
//! handler's folds took. Small, and never a query.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::hook::{HandlerId, HookId};
use crate::domain::time::Timestamp;

/// Commits of which the times are kept.
const COMMITS_KEPT: usize = 4_096;

/// How long a commit counts.
const COMMITS_WITHIN: Duration = Duration::from_secs(60);

/// How long an error is news.
const ERROR_FOR: Duration = Duration::from_secs(60);

/// Fills itself from commits and turns.
#[derive(Debug, Default)]
pub struct Pulse {
    commits: Mutex<Recent>,
    syncs: Mutex<Recent>,
    error: Mutex<Option<Failing>>,
    accepted: Mutex<HashMap<HookId, u64>>,
    folds: Mutex<HashMap<HandlerId, Folds>>,
}

/// Transactions that have failed since the last one that did not.
#[derive(Clone, Debug)]
struct Failing {
    why: String,
    since: Timestamp,
    last: Timestamp,
}

/// How long something took each time of late.
#[derive(Debug, Default)]
struct Recent(VecDeque<(Timestamp, Duration)>);

impl Recent {
    fn took(&mut self, took: Duration, now: Timestamp) {
        if self.0.len() == COMMITS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back((now, took));
    }

    /// 99 of 100 within the last minute took at most this.
    fn p99(&mut self, now: Timestamp) -> Option<Duration> {
        self.0.retain(|(at, _)| now.since(*at) < COMMITS_WITHIN);
        let mut took: Vec<_> = self.0.iter().map(|(_, took)| *took).collect();
        let last = took.len().checked_sub(1)?;
        let (_, p99, _) = took.select_nth_unstable(last * 99 / 100);
        Some(*p99)
    }
}

/// Folds of one handler since they were last taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Folds {
    /// Time in them.
    pub took: Duration,
    /// Events folded.
    pub events: u64,
}

impl Folds {
    /// The time for one event, in seconds.
    pub fn each(&self) -> Option<f64> {
        (self.events > 0).then(|| self.took.as_secs_f64() / self.events as f64)
    }
}

impl Pulse {
    /// Notes a commit, and how long the sync in it took where that is known.
    pub fn committed(&self, took: Duration, synced: Option<Duration>, now: Timestamp) {
        self.commits.lock().took(took, now);
        if let Some(synced) = synced {
            self.syncs.lock().took(synced, now);
        }
    }

    /// Notes that a transaction failed.
    pub fn failed(&self, error: String, now: Timestamp) {
        let mut failing = self.error.lock();
        let since = failing.as_ref().map_or(now, |known| known.since);
        *failing = Some(Failing {
            why: error,
            since,
            last: now,
        });
    }

    /// Notes that a transaction did not fail: nothing is wrong any more.
    pub fn recovered(&self) {
        *self.error.lock() = None;
    }

    /// Notes that a hook got events.
    pub fn accepted(&self, hooks: impl Iterator<Item = HookId>) {
        let mut accepted = self.accepted.lock();
        for hook in hooks {
            *accepted.entry(hook).or_default() += 1;
        }
    }

    /// Notes the folds of a turn.
    pub fn folded(&self, work: &[(HandlerId, Duration, u32)]) {
        let mut folds = self.folds.lock();
        for (handler, took, events) in work {
            let folds = folds.entry(*handler).or_default();
            folds.took += *took;
            folds.events += u64::from(*events);
        }
    }

    /// 99 of 100 commits of the last minute took at most this; of the newest 4,096 when there were more.
    pub fn commit_p99(&self, now: Timestamp) -> Option<Duration> {
        self.commits.lock().p99(now)
    }

    /// The same of the syncs in them; none where a server does them.
    pub fn sync_p99(&self, now: Timestamp) -> Option<Duration> {
        self.syncs.lock().p99(now)
    }

    /// Why transactions fail, and since when; none if the last one did not, or was long ago.
    pub fn error(&self, now: Timestamp) -> Option<(String, Timestamp)> {
        let failing = self.error.lock();
        let news = failing.as_ref();
        let news = news.filter(|known| now.since(known.last) < ERROR_FOR);
        news.map(|known| (known.why.clone(), known.since))
    }

    /// Events that each hook got since the last call.
    pub fn take_accepted(&self) -> HashMap<HookId, u64> {
        std::mem::take(&mut *self.accepted.lock())
    }

    /// Folds of each handler since the last call.
    pub fn take_folds(&self) -> HashMap<HandlerId, Folds> {
        std::mem::take(&mut *self.folds.lock())
    }
}

/// What is normal for a figure: its mean on a logarithmic scale, in which the last day counts most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Normal {
    mean: f64,
    samples: u32,
}

const MILLION: f64 = 1_000_000.0;

impl Normal {
    /// Samples before anything is called normal.
    const KNOWN_AFTER: u32 = 6;

    /// Samples of a day, one every ten seconds.
    const DAY: u32 = 8_640;

    /// Learns from a sample, taken every ten seconds while all is well.
    pub fn learn(&mut self, value: f64) {
        if value <= 0.0 || !value.is_finite() {
            return;
        }
        self.samples = self.samples.saturating_add(1);
        let weight = 1.0 / f64::from(self.samples.min(Self::DAY));
        self.mean += weight * (value.ln() - self.mean);
    }

    /// As it is kept: the mean of the logarithms in millionths, and the number of samples.
    pub fn parts(self) -> (i64, i64) {
        ((self.mean * MILLION).round() as i64, self.samples.into())
    }

    /// What was kept. Numbers that no figure has are taken for the nearest that one may have.
    pub fn from_parts(mean: i64, samples: i64) -> Self {
        Self {
            mean: (mean as f64 / MILLION).clamp(f64::MIN_POSITIVE.ln(), f64::MAX.ln()),
            samples: u32::try_from(samples.max(0)).unwrap_or(u32::MAX),
        }
    }

    /// What is normal, once a minute is known.
    pub fn value(&self) -> Option<f64> {
        (self.samples >= Self::KNOWN_AFTER).then(|| self.mean.exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_commit_in_a_hundred_is_not_the_99th_of_them_but_two_are() {
        let at = Timestamp::from_millis;
        let pulse = Pulse::default();
        assert_eq!(pulse.commit_p99(at(0)), None);
        for n in 0..100 {
            let took = if n == 7 { 900 } else { 2 };
            pulse.committed(Duration::from_millis(took), None, at(n));
        }
        assert_eq!(pulse.commit_p99(at(100)), Some(Duration::from_millis(2)));
        pulse.committed(Duration::from_millis(900), None, at(101));
        pulse.committed(Duration::from_millis(900), None, at(101));
        assert_eq!(pulse.commit_p99(at(102)), Some(Duration::from_millis(900)));
        assert_eq!(pulse.commit_p99(at(70_000)), None, "a minute later");
    }

    #[test]
    fn what_is_wrong_is_wrong_since_the_first_failure_and_until_the_next_success() {
        let at = Timestamp::from_millis;
        let pulse = Pulse::default();
        pulse.failed("busy".to_owned(), at(1_000));
        pulse.failed("disk full".to_owned(), at(5_000));
        let error = pulse.error(at(6_000));
        assert_eq!(error, Some(("disk full".to_owned(), at(1_000))));
        assert_eq!(pulse.error(at(70_000)), None, "nobody has tried since");
        pulse.recovered();
        assert_eq!(pulse.error(at(6_000)), None);
        pulse.failed("busy".to_owned(), at(9_000));
        assert_eq!(pulse.error(at(9_000)), Some(("busy".to_owned(), at(9_000))));
    }

    #[test]
    fn what_is_normal_is_known_after_a_minute_and_hardly_moved_by_one_sample() {
        let mut normal = Normal::default();
        for _ in 0..5 {
            normal.learn(100.0);
        }
        assert_eq!(normal.value(), None);
        for _ in 0..1_000 {
            normal.learn(100.0);
        }
        normal.learn(10_000.0);
        let value = normal.value().unwrap();
        assert!((100.0..101.0).contains(&value), "{value}");
        let (mean, samples) = normal.parts();
        let again = Normal::from_parts(mean, samples).value().unwrap();
        assert!((again / value - 1.0).abs() < 0.000_01, "{again}");
        for wrong in [i64::MIN, i64::MAX] {
            let value = Normal::from_parts(wrong, wrong.max(7))
                .value()
                .unwrap_or(1.0);
            assert!(value.is_finite());
        }
    }
}
