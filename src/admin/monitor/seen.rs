//! State that the monitor keeps from one second to the next, and the log.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::space::{NamespaceState, News};
use crate::api::{self, Severity};
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::name::Name;
use crate::domain::time::{Timestamp, since_boot};
use crate::engine::RATE_SECONDS;
use crate::engine::ownership::View;
use crate::metrics::Baseline;
use crate::store::Restored;

/// Number of log entries kept, and shown.
const LOG_KEPT: usize = 1_000;
pub const LOG_SHOWN: usize = 200;

/// State of the monitor, behind one lock.
pub struct MonitorState {
    pub ticks: u64,
    pub spaces: HashMap<Name, NamespaceState>,
    pub snapshots: HashMap<Name, Arc<api::Snapshot>>,
    pub hooks: HashMap<HookId, Measured>,
    pub handlers: HashMap<HandlerId, Measured>,
    pub commit: Baseline,
    /// Baselines as stored; `None` until they are read.
    pub kept: Option<StoredBaselines>,
    /// Accepted events by hook, in each of the last seconds, with the time at its end.
    accepted: VecDeque<(Duration, HashMap<HookId, u64>)>,
    pub cpu: (Duration, Duration, f64),
    pub nodes: HashSet<String>,
    /// Time since when the database does not answer.
    pub unanswered: Option<Timestamp>,
    /// Failures of database and Redis in the last second, for the log.
    pub troubles: Vec<(&'static str, String)>,
    /// Number of the newest audit row in the log.
    pub noted: Option<i64>,
    /// Number of lost events that no operator has confirmed.
    pub lost: u64,
    /// The last restore of the database; the outer `None` until it is read.
    pub restored: Option<Option<Restored>>,
    /// Free bytes on the disk of the data directory, if it is nearly full.
    pub room: Option<u64>,
    pub log: VecDeque<api::LogLine>,
}

/// A figure and its baseline.
#[derive(Clone, Copy, Default)]
pub struct Measured {
    pub now: f64,
    pub normal: Baseline,
}

impl Measured {
    /// Present value and baseline, if the value is more than twice the baseline; else `None`.
    pub fn is_slow(self) -> Option<(f64, f64)> {
        let normal = self.normal.value()?;
        (self.now > 2.0 * normal).then_some((self.now, normal))
    }
}

/// Stored baselines, by kind and subject.
pub type StoredBaselines = HashMap<(String, i64), Baseline>;

impl Default for MonitorState {
    fn default() -> Self {
        Self {
            ticks: 0,
            spaces: HashMap::new(),
            snapshots: HashMap::new(),
            hooks: HashMap::new(),
            handlers: HashMap::new(),
            commit: Baseline::default(),
            kept: None,
            accepted: VecDeque::from([(since_boot(), HashMap::new())]),
            cpu: (processor_time(), since_boot(), 0.0),
            nodes: HashSet::new(),
            unanswered: None,
            troubles: Vec::new(),
            noted: None,
            lost: 0,
            restored: None,
            room: None,
            log: VecDeque::new(),
        }
    }
}

impl MonitorState {
    /// Adds the events that were accepted in the second that has just ended, and measures the rates of
    /// their hooks.
    pub fn note_accepted(&mut self, accepted: HashMap<HookId, u64>, clock: Duration) {
        // The first entry only says when the first second begins.
        if self.accepted.len() > RATE_SECONDS {
            self.accepted.pop_front();
        }
        self.accepted.push_back((clock, accepted));
        let begins = self.accepted.front().map_or(clock, |(at, _)| *at);
        let seconds = clock.saturating_sub(begins).as_secs_f64().max(1.0);
        for pace in self.hooks.values_mut() {
            pace.now = 0.0;
        }
        let recent = self.accepted.iter().skip(1);
        for (hook, events) in recent.flat_map(|(_, accepted)| accepted) {
            self.hooks.entry(*hook).or_default().now += *events as f64 / seconds;
        }
    }

    /// Events that this node accepts per second, of all hooks.
    pub fn accepted_per_s(&self) -> f64 {
        self.hooks.values().map(|pace| pace.now).sum()
    }

    pub fn add_log(&mut self, line: api::LogLine) {
        if self.log.len() == LOG_KEPT {
            self.log.pop_back();
        }
        self.log.push_front(line);
    }

    /// Logs failures of database and Redis that have begun or ended.
    pub fn note_troubles(&mut self, now: Vec<(&'static str, String)>, at: Timestamp) {
        let before = std::mem::replace(&mut self.troubles, now.clone());
        let is_in =
            |all: &[(&str, String)], scope: &str| all.iter().any(|(known, _)| *known == scope);
        let began = now.iter().filter(|(scope, _)| !is_in(&before, scope));
        let began = began.map(|(scope, why)| (Severity::Trouble, *scope, why.clone()));
        let over = before.iter().filter(|(scope, _)| !is_in(&now, scope));
        let over = over.map(|(scope, why)| (Severity::Fine, *scope, format!("over: {why}")));
        let news: Vec<_> = began.chain(over).collect();
        for (severity, scope, what) in news {
            self.add_log(api::LogLine {
                at,
                severity,
                scope: scope.to_owned(),
                what,
            });
        }
    }
}

pub fn note_nodes(known: &mut HashSet<String>, view: &View) -> Vec<News> {
    let now: HashSet<_> = view.nodes.iter().map(|node| node.name.clone()).collect();
    let is_first = known.is_empty();
    let mut news = Vec::new();
    if !is_first {
        for node in now.difference(known) {
            news.push((Severity::Fine, node.clone(), "has joined".to_owned()));
        }
        for node in known.difference(&now) {
            news.push((Severity::Unusual, node.clone(), "is gone".to_owned()));
        }
    }
    *known = now;
    news
}

/// Processor time used by this process.
pub fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(used.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(used.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_of_a_hook_is_that_of_the_last_ten_seconds_as_of_a_lane() {
        let at = Duration::from_secs;
        let mut seen = MonitorState {
            accepted: VecDeque::from([(at(0), HashMap::new())]),
            ..MonitorState::default()
        };
        let mut second = |second, events| {
            let accepted = HashMap::from([(HookId(1), events), (HookId(2), 2 * events)]);
            seen.note_accepted(accepted, at(second));
            (seen.hooks[&HookId(1)].now, seen.accepted_per_s())
        };
        assert_eq!(second(1, 40), (40.0, 120.0), "one second is known");
        assert_eq!(second(2, 0), (20.0, 60.0));
        for silent in 3..10 {
            second(silent, 0);
        }
        assert_eq!(second(10, 0), (4.0, 12.0));
        assert_eq!(second(11, 0), (0.0, 0.0), "and is over when it is over");
    }
}
