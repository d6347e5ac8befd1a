//! Recent figures of this node, for verdicts: commit times, events of each hook, fold times of each
//! handler. Kept in memory; needs no query.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::hook::{HandlerId, HookId};
use crate::domain::time::Timestamp;

/// Number of commit times kept.
const COMMITS_KEPT: usize = 4_096;

/// Age up to which a commit counts.
const COMMITS_WITHIN: Duration = Duration::from_secs(60);

/// Time for which a past failure is reported after its end.
const NOTED_FOR: Duration = Duration::from_secs(3600);

/// Recent figures, filled by commits and turns.
#[derive(Debug, Default)]
pub struct Pulse {
    commits: Mutex<Recent>,
    syncs: Mutex<Recent>,
    standing: Mutex<Outcomes>,
    accepted: Mutex<HashMap<HookId, u64>>,
    folds: Mutex<HashMap<HandlerId, Folds>>,
}

/// Outcome of the latest transactions: the last one, the present failure, and the last past failure.
#[derive(Debug, Default)]
struct Outcomes {
    last: Option<Timestamp>,
    failing: Option<Failing>,
    /// True if the failure is a full disk: only an event, or a check of the room, proves its end.
    is_full: bool,
    noted: Option<PastFailure>,
}

/// A present failure of transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Time of the first failure.
    pub since: Timestamp,
    /// Error of the last failure.
    pub error: String,
}

/// A past failure of transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastFailure {
    /// Time of the first failure.
    pub from: Timestamp,
    /// Time of the first success after it.
    pub until: Timestamp,
    /// Error of the last failure.
    pub error: String,
}

/// Recent durations with their times.
#[derive(Debug, Default)]
struct Recent(VecDeque<(Timestamp, Duration)>);

impl Recent {
    fn took(&mut self, took: Duration, now: Timestamp) {
        if self.0.len() == COMMITS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back((now, took));
    }

    /// 99th percentile of the last minute.
    fn p99(&mut self, now: Timestamp) -> Option<Duration> {
        self.0.retain(|(at, _)| now.since(*at) < COMMITS_WITHIN);
        let mut took: Vec<_> = self.0.iter().map(|(_, took)| *took).collect();
        let last = took.len().checked_sub(1)?;
        let (_, p99, _) = took.select_nth_unstable(last * 99 / 100);
        Some(*p99)
    }
}

/// Folds of one handler since the last call of [`Pulse::take_folds`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Folds {
    /// Time spent folding.
    pub took: Duration,
    /// Number of events folded.
    pub events: u64,
}

impl Folds {
    /// Time per event, in seconds.
    pub fn each(&self) -> Option<f64> {
        (self.events > 0).then(|| self.took.as_secs_f64() / self.events as f64)
    }
}

impl Pulse {
    /// Records a commit, and the duration of its sync if known.
    pub fn committed(&self, took: Duration, synced: Option<Duration>, now: Timestamp) {
        self.commits.lock().took(took, now);
        if let Some(synced) = synced {
            self.syncs.lock().took(synced, now);
        }
    }

    /// Records the outcome of a transaction.
    pub fn ended(&self, outcome: Result<(), String>, now: Timestamp) {
        let mut standing = self.standing.lock();
        standing.last = Some(now);
        standing.is_full = false;
        let before = standing.failing.take();
        match (outcome, before) {
            (Ok(()), None) => {}
            (Ok(()), Some(Failing { since, error })) => {
                standing.noted = Some(PastFailure {
                    from: since,
                    until: now,
                    error,
                });
            }
            (Err(error), before) => {
                let since = before.map_or(now, |failing| failing.since);
                standing.failing = Some(Failing { since, error });
            }
        }
    }

    /// Records that the disk is full.
    pub fn filled(&self, error: String, now: Timestamp) {
        self.ended(Err(error), now);
        self.standing.lock().is_full = true;
    }

    /// True if the disk is full, as far as is known.
    pub fn is_full(&self) -> bool {
        self.standing.lock().is_full
    }

    /// True if the last transaction succeeded, with the time since then; `None` when there was none.
    pub fn last(&self, now: Timestamp) -> Option<(bool, Duration)> {
        let standing = self.standing.lock();
        let last = standing.last?;
        Some((standing.failing.is_none(), now.since(last)))
    }

    /// The present failure of transactions.
    pub fn failing(&self) -> Option<Failing> {
        self.standing.lock().failing.clone()
    }

    /// The last past failure, for an hour after its end.
    pub fn noted(&self, now: Timestamp) -> Option<PastFailure> {
        let standing = self.standing.lock();
        let noted = standing.noted.as_ref();
        noted
            .filter(|noted| now.since(noted.until) < NOTED_FOR)
            .cloned()
    }

    /// Records the hooks of accepted events.
    pub fn accepted(&self, hooks: impl Iterator<Item = HookId>) {
        let mut accepted = self.accepted.lock();
        for hook in hooks {
            *accepted.entry(hook).or_default() += 1;
        }
    }

    /// Records the folds of a turn.
    pub fn folded(&self, work: &[(HandlerId, Duration, u32)]) {
        let mut folds = self.folds.lock();
        for (handler, took, events) in work {
            let folds = folds.entry(*handler).or_default();
            folds.took += *took;
            folds.events += u64::from(*events);
        }
    }

    /// 99th percentile of the commit times of the last minute, of the newest 4,096 if there were more.
    pub fn commit_p99(&self, now: Timestamp) -> Option<Duration> {
        self.commits.lock().p99(now)
    }

    /// 99th percentile of the sync times in them; `None` on Postgres, which syncs by itself.
    pub fn sync_p99(&self, now: Timestamp) -> Option<Duration> {
        self.syncs.lock().p99(now)
    }

    /// Number of events that each hook got since the last call.
    pub fn take_accepted(&self) -> HashMap<HookId, u64> {
        std::mem::take(&mut *self.accepted.lock())
    }

    /// Folds of each handler since the last call.
    pub fn take_folds(&self) -> HashMap<HandlerId, Folds> {
        std::mem::take(&mut *self.folds.lock())
    }
}

/// Baseline of a figure: its mean on a logarithmic scale, in which the last day counts most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Baseline {
    mean: f64,
    samples: u32,
}

const MILLION: f64 = 1_000_000.0;

impl Baseline {
    /// Number of samples before there is a baseline.
    const KNOWN_AFTER: u32 = 6;

    /// Number of samples in a day, one every ten seconds.
    const DAY: u32 = 8_640;

    /// Adds a sample. Call it every ten seconds while the figure is normal.
    pub fn learn(&mut self, value: f64) {
        if value <= 0.0 || !value.is_finite() {
            return;
        }
        self.samples = self.samples.saturating_add(1);
        let weight = 1.0 / f64::from(self.samples.min(Self::DAY));
        self.mean += weight * (value.ln() - self.mean);
    }

    /// The stored form: the mean of the logarithms in millionths, and the number of samples.
    pub fn parts(self) -> (i64, i64) {
        ((self.mean * MILLION).round() as i64, self.samples.into())
    }

    /// Restores a baseline. Impossible numbers are replaced by the nearest possible ones.
    pub fn from_parts(mean: i64, samples: i64) -> Self {
        Self {
            mean: (mean as f64 / MILLION).clamp(f64::MIN_POSITIVE.ln(), f64::MAX.ln()),
            samples: u32::try_from(samples.max(0)).unwrap_or(u32::MAX),
        }
    }

    /// The baseline, once a minute of samples exists.
    pub fn value(&self) -> Option<f64> {
        (self.samples >= Self::KNOWN_AFTER).then(|| self.mean.exp())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
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
    fn what_is_now_follows_the_last_transaction_and_what_was_is_a_note() {
        let at = Timestamp::from_millis;
        let pulse = Pulse::default();
        assert_eq!(pulse.last(at(0)), None);
        pulse.ended(Ok(()), at(1));
        pulse.ended(Err("busy".into()), at(2));
        pulse.ended(Err("full".into()), at(3));
        let failing = pulse.failing().unwrap();
        assert_eq!((failing.since, failing.error.as_str()), (at(2), "full"));
        assert_eq!(pulse.last(at(9)), Some((false, Duration::from_millis(6))));
        assert_eq!(pulse.noted(at(9)), None);
        pulse.ended(Ok(()), at(4));
        assert_eq!(pulse.failing(), None);
        assert_eq!(pulse.last(at(4)), Some((true, Duration::ZERO)));
        let noted = pulse.noted(at(9)).unwrap();
        assert_eq!((noted.from, noted.until), (at(2), at(4)));
        pulse.ended(Ok(()), at(5));
        assert_eq!(pulse.noted(at(9)), Some(noted));
        assert_eq!(pulse.noted(at(4_000_000)), None, "an hour later");
    }

    #[test]
    fn what_is_normal_is_known_after_a_minute_and_hardly_moved_by_one_sample() {
        let mut normal = Baseline::default();
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
        let again = Baseline::from_parts(mean, samples).value().unwrap();
        assert!((again / value - 1.0).abs() < 0.000_01, "{again}");
        for wrong in [i64::MIN, i64::MAX] {
            let value = Baseline::from_parts(wrong, wrong.max(7))
                .value()
                .unwrap_or(1.0);
            assert!(value.is_finite());
        }
    }
}
