//! Everything that is remembered from one second to the next, and the log.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::space::{News, Space};
use crate::api::{self, Severity};
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::name::Name;
use crate::domain::time::{Timestamp, since_boot};
use crate::engine::ownership::View;
use crate::metrics::Normal;

/// Entries of the log that are kept, and shown.
const LOG_KEPT: usize = 1_000;
pub const LOG_SHOWN: usize = 200;

/// Everything that is remembered, behind one lock.
pub struct Seen {
    pub ticks: u64,
    pub spaces: HashMap<Name, Space>,
    pub snapshots: HashMap<Name, Arc<api::Snapshot>>,
    pub hooks: HashMap<HookId, Pace>,
    pub handlers: HashMap<HandlerId, Pace>,
    pub commit: Normal,
    /// What is stored of what is normal; none before it was read.
    pub kept: Option<Kept>,
    pub accepted: (u64, Duration, f64),
    pub cpu: (Duration, Duration, f64),
    pub nodes: HashSet<String>,
    /// Since when the database does not answer.
    pub unanswered: Option<Timestamp>,
    /// What was wrong with database and Redis a second ago, for the log.
    pub troubles: Vec<(&'static str, String)>,
    /// The newest operation of an operator that stands in the log.
    pub noted: Option<i64>,
    /// Lost events that no operator knows of.
    pub lost: u64,
    pub log: VecDeque<api::LogLine>,
}

/// A figure now, and what is normal for it.
#[derive(Clone, Copy, Default)]
pub struct Pace {
    pub now: f64,
    pub normal: Normal,
}

impl Pace {
    /// Both figures, where it is much more than normal.
    pub fn is_slow(self) -> Option<(f64, f64)> {
        let normal = self.normal.value()?;
        (self.now > 2.0 * normal).then_some((self.now, normal))
    }
}

/// What is stored, by kind and subject.
pub type Kept = HashMap<(String, i64), Normal>;

impl Default for Seen {
    fn default() -> Self {
        Self {
            ticks: 0,
            spaces: HashMap::new(),
            snapshots: HashMap::new(),
            hooks: HashMap::new(),
            handlers: HashMap::new(),
            commit: Normal::default(),
            kept: None,
            accepted: (0, since_boot(), 0.0),
            cpu: (processor_time(), since_boot(), 0.0),
            nodes: HashSet::new(),
            unanswered: None,
            troubles: Vec::new(),
            noted: None,
            lost: 0,
            log: VecDeque::new(),
        }
    }
}

impl Seen {
    pub fn add_log(&mut self, line: api::LogLine) {
        if self.log.len() == LOG_KEPT {
            self.log.pop_back();
        }
        self.log.push_front(line);
    }

    /// Says in the log what is wrong with database and Redis now and was not, and what is over.
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

/// Processor time that this process has used.
pub fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(used.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(used.tv_nsec).unwrap_or(0))
}
