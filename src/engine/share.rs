//! Shares of fold time: which handler folds next, and which handlers fold beside the lanes. No clock,
//! no I/O.
//!
//! A fold that ends within a few milliseconds delays no one. Time beyond that fills the handler's
//! bucket, which leaks slowly. A handler with a full bucket is *slow*: its turns run beside those of
//! the lanes, one at a time, in separate processes with a lower priority, until the bucket is nearly
//! empty. So the long folds of one handler cost the lanes of a node at most one percent of their time.
//!
//! A long event makes its handler *suspect* while it folds: no second fold of the handler runs beside it, and
//! no lane begins one, until it ends. So the first burst of events without an end costs a node one thread. Lanes give such an event up at
//! 60 ms of processor time; it makes its handler slow, and is folded again beside them.
//!
//! A handler whose folds repeatedly exceed their time waits before its next fold, twice as long each
//! time. Among handlers that may fold, the namespace with the least time used is next, then the handler
//! with the least.
//!
//! `now` is the time since a fixed moment of this process; it never goes back.

use std::collections::HashMap;
use std::hash::Hash;
use std::thread::ThreadId;
use std::time::Duration;

use crate::domain::hook::HandlerId;
use crate::domain::name::Name;

/// Duration up to which a fold delays no one.
pub const SHORT: Duration = Duration::from_millis(5);

/// Level of the bucket, in time beyond [`SHORT`], at which it is full: one fold that ran out of time.
const FULL: Duration = Duration::from_millis(45);

/// Capacity of a bucket; it is empty after a minute.
const MOST: Duration = Duration::from_millis(600);

/// Level at which a handler is no longer slow.
const LOW: Duration = Duration::from_millis(10);

/// A bucket leaks 1/LEAK of the elapsed time.
const LEAK: u32 = 100;

/// Pause of a handler after its first aborted fold; each further one doubles it.
const WAIT: Duration = Duration::from_millis(50);

/// Longest such pause.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Cost of folding for one handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Total time.
    pub took: Duration,
    /// Time of folds that were longer than [`SHORT`].
    pub over: Duration,
    /// True if a fold was aborted.
    pub ran_out: bool,
}

/// Time used by each handler and each namespace.
#[derive(Debug, Default)]
pub struct Shares {
    handlers: HashMap<HandlerId, Share>,
    /// Handlers that fold a long event at present, with the thread.
    suspects: HashMap<HandlerId, ThreadId>,
    /// True if a handler has ceased to be suspect since the last report.
    has_cleared: bool,
    by_namespace: Fair<Name>,
    by_handler: HashMap<Name, Fair<HandlerId>>,
}

#[derive(Debug, Default)]
struct Share {
    bucket: Duration,
    seen: Duration,
    is_slow: bool,
    /// Number of consecutive folds that were aborted.
    ran_out: u32,
    not_before: Duration,
}

impl Share {
    fn leak(&mut self, now: Duration) {
        self.bucket = self
            .bucket
            .saturating_sub(now.saturating_sub(self.seen) / LEAK);
        self.seen = now;
    }
}

impl Shares {
    /// Adds the cost of a handler; true if it becomes slow.
    pub fn charge(&mut self, handler: HandlerId, cost: Cost, now: Duration) -> bool {
        let is_known = self.handlers.contains_key(&handler);
        if !is_known && cost.over.is_zero() && !cost.ran_out {
            return false;
        }
        let share = self.handlers.entry(handler).or_default();
        share.leak(now);
        share.bucket = (share.bucket + cost.over).min(MOST);
        if cost.ran_out {
            let wait = WAIT.saturating_mul(1 << share.ran_out.min(16));
            share.not_before = now + wait.min(WAIT_MAX);
            share.ran_out += 1;
        } else if !cost.took.is_zero() {
            (share.ran_out, share.not_before) = (0, now);
        }
        let was_slow = share.is_slow;
        share.is_slow |= share.bucket >= FULL;
        share.is_slow && !was_slow
    }

    /// Adds a fold of a slow handler, for the order among slow handlers.
    pub fn used(&mut self, namespace: &Name, handler: HandlerId, took: Duration) {
        self.by_namespace.charge(namespace, took);
        let handlers = self.by_handler.entry(namespace.clone());
        handlers.or_default().charge(&handler, took);
    }

    /// Records that a handler folds a long event on this thread. False if the thread must give the
    /// event up, because another thread folds a long one or the handler's turns run beside those of the
    /// lanes.
    pub fn suspect(&mut self, handler: HandlerId, thread: ThreadId) -> bool {
        !self.is_slow(handler) && *self.suspects.entry(handler).or_insert(thread) == thread
    }

    /// Records that a thread no longer folds.
    pub fn clear(&mut self, thread: ThreadId) {
        let before = self.suspects.len();
        self.suspects.retain(|_, by| *by != thread);
        self.has_cleared |= self.suspects.len() < before;
    }

    /// True if lanes leave a handler out: it is slow, or folds a long event at present.
    pub fn is_left_out(&self, handler: HandlerId) -> bool {
        self.is_slow(handler) || self.suspects.contains_key(&handler)
    }

    /// True if a handler is left out, or has ceased to be since the last report.
    pub fn has_left_out(&self) -> bool {
        self.has_slow() || !self.suspects.is_empty() || self.has_cleared
    }

    /// True if the turns of a handler run beside those of the lanes.
    pub fn is_slow(&self, handler: HandlerId) -> bool {
        let share = self.handlers.get(&handler);
        share.is_some_and(|share| share.is_slow)
    }

    /// The slow handlers, in no order.
    pub fn slow(&self) -> impl Iterator<Item = HandlerId> + '_ {
        let slow = self.handlers.iter().filter(|(_, share)| share.is_slow);
        slow.map(|(handler, _)| *handler)
    }

    /// True if any handler is slow.
    fn has_slow(&self) -> bool {
        self.handlers.values().any(|share| share.is_slow)
    }

    /// The slow handlers that may fold now, in no order.
    pub fn may_fold(&self, now: Duration) -> Vec<HandlerId> {
        let may = self.handlers.iter();
        let may = may.filter(|(_, share)| share.is_slow && share.not_before <= now);
        may.map(|(handler, _)| *handler).collect()
    }

    /// The next of the given handlers: in the namespace that has used least, the handler that has used
    /// least.
    pub fn first(&mut self, waiting: &[(Name, HandlerId)]) -> Option<(Name, HandlerId)> {
        let namespaces = waiting.iter().map(|(namespace, _)| namespace);
        let namespace = self.by_namespace.first(namespaces)?.clone();
        let of_it = waiting.iter().filter(|(of, _)| *of == namespace);
        let handlers = self.by_handler.entry(namespace.clone()).or_default();
        let handler = *handlers.first(of_it.map(|(_, handler)| handler))?;
        Some((namespace, handler))
    }

    /// Ends the slow state of handlers that have kept to their share for long enough; true if there were any,
    /// or if a handler has ceased to be suspect.
    pub fn relax(&mut self, now: Duration) -> bool {
        let mut relaxed = std::mem::take(&mut self.has_cleared);
        self.handlers.retain(|_, share| {
            share.leak(now);
            if share.is_slow && share.bucket <= LOW && share.not_before <= now {
                share.is_slow = false;
                relaxed = true;
            }
            share.is_slow || !share.bucket.is_zero()
        });
        relaxed
    }
}

/// Start-time fair queueing: the key that has used least is next. Unused time is not saved up: a key
/// that returns starts at the least value of those that waited.
#[derive(Debug)]
pub struct Fair<K> {
    used: HashMap<K, Duration>,
    least: Duration,
}

impl<K> Default for Fair<K> {
    fn default() -> Self {
        Self {
            used: HashMap::new(),
            least: Duration::ZERO,
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Fair<K> {
    /// The waiting key that has used least so far; the smallest of several.
    pub fn first<'k>(&mut self, waiting: impl Iterator<Item = &'k K>) -> Option<&'k K>
    where
        K: 'k,
    {
        let (used, first) = waiting.map(|key| (self.of(key), key)).min()?;
        self.least = used;
        self.used.retain(|_, of| *of > used);
        Some(first)
    }

    /// Adds the time that a key has used.
    pub fn charge(&mut self, key: &K, took: Duration) {
        let used = self.of(key) + took;
        self.used.insert(key.clone(), used);
    }

    fn of(&self, key: &K) -> Duration {
        self.used.get(key).map_or(self.least, |used| *used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: HandlerId = HandlerId(1);

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const RAN_OUT: Cost = Cost {
        took: ms(50),
        over: ms(50),
        ran_out: true,
    };

    #[test]
    fn a_fold_without_an_end_makes_its_handler_slow_for_a_while_and_many_for_a_minute() {
        let mut shares = Shares::default();
        assert!(shares.charge(BAD, RAN_OUT, ms(0)), "at once");
        assert!(shares.is_slow(BAD) && !shares.is_slow(HandlerId(2)));
        assert!(!shares.relax(ms(3_000)));
        assert!(shares.relax(ms(4_500)) && !shares.is_slow(BAD));
        for _ in 0..1_000 {
            shares.charge(BAD, RAN_OUT, ms(5_000));
        }
        assert!(!shares.relax(ms(60_000)));
        assert!(shares.relax(ms(65_000)));
    }

    #[test]
    fn while_one_thread_folds_a_long_event_no_other_folds_its_handler() {
        let mut shares = Shares::default();
        let others = || std::thread::spawn(|| std::thread::current().id()).join();
        let (one, two) = (others().unwrap(), others().unwrap());
        assert!(shares.suspect(BAD, one) && shares.suspect(BAD, one));
        assert!(!shares.suspect(BAD, two), "the second gives way");
        assert!(shares.suspect(HandlerId(2), two), "others do not");
        assert!(shares.is_left_out(BAD) && !shares.is_slow(BAD));
        shares.clear(one);
        assert!(!shares.is_left_out(BAD) && shares.has_left_out());
        assert!(shares.relax(ms(0)), "lanes look at it again");
        assert!(!shares.relax(ms(0)), "once");
        assert!(shares.suspect(BAD, two));
        shares.charge(BAD, RAN_OUT, ms(0));
        assert!(!shares.suspect(BAD, two), "it is slow");
    }

    #[test]
    fn long_folds_count_by_their_time_and_short_ones_do_not() {
        let mut shares = Shares::default();
        let fold = |took, over| Cost {
            took,
            over,
            ran_out: false,
        };
        for n in 0..10_000 {
            shares.charge(BAD, fold(ms(4), ms(0)), ms(4 * n));
            assert!(!shares.is_slow(BAD));
        }
        // One of 10 ms a second is one percent.
        for n in 0..1_000 {
            shares.charge(BAD, fold(ms(10), ms(10)), ms(40_000 + 1_000 * n));
            assert!(!shares.is_slow(BAD), "{n}");
        }
        let slow =
            (0..10).any(|n| shares.charge(BAD, fold(ms(10), ms(10)), ms(2_000_000 + 100 * n)));
        assert!(slow, "ten a second are not");
    }

    #[test]
    fn the_same_handler_waits_twice_as_long_after_each_fold_without_an_end() {
        let mut shares = Shares::default();
        let mut now = ms(0);
        for wait in [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000] {
            shares.charge(BAD, RAN_OUT, now);
            assert!(shares.may_fold(now + ms(wait - 1)).is_empty(), "{wait}");
            now += ms(wait);
            assert_eq!(shares.may_fold(now), [BAD]);
        }
        let success = Cost {
            took: ms(1),
            ..Cost::default()
        };
        shares.charge(BAD, success, now);
        assert_eq!(shares.may_fold(now), [BAD]);
        shares.charge(BAD, RAN_OUT, now);
        assert_eq!(shares.may_fold(now + ms(50)), [BAD], "it begins anew");
    }

    #[test]
    fn time_is_shared_among_namespaces_then_among_handlers() {
        let names: [Name; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let mut shares = Shares::default();
        let waiting: Vec<_> = [(0, 1), (0, 2), (0, 3), (1, 4)]
            .map(|(namespace, handler): (usize, i64)| {
                (names[namespace].clone(), HandlerId(handler))
            })
            .into();
        let mut used = [0; 5];
        for _ in 0..600 {
            let (namespace, handler) = shares.first(&waiting).unwrap();
            // The first handler of the first namespace takes ten times as long as any.
            let took = if handler == HandlerId(1) { 10 } else { 1 };
            shares.used(&namespace, handler, ms(took));
            used[usize::try_from(handler.0).unwrap()] += took;
        }
        let of_a: u64 = used[1..4].iter().sum();
        assert!(of_a.abs_diff(used[4]) <= 20, "{used:?}");
        for handler in 1..4 {
            assert!(used[handler].abs_diff(of_a / 3) <= 20, "{used:?}");
        }
    }

    #[test]
    fn nobody_saves_up_while_he_does_not_wait() {
        let mut fair = Fair::default();
        for _ in 0..100 {
            assert_eq!(fair.first([1].iter()), Some(&1));
            fair.charge(&1, ms(10));
        }
        let mut times = [0, 0];
        for _ in 0..10 {
            let first = *fair.first([1, 2].iter()).unwrap();
            fair.charge(&first, ms(10));
            times[first - 1] += 1;
        }
        assert!(times[0] >= 4 && times[1] >= 4, "{times:?}");
    }
}
