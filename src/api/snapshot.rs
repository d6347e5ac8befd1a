//! Snapshot: everything that a dashboard shows of one namespace. Computed once a second for all
//! viewers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::eta::Eta;
use super::rule::Rule;
use super::severity::Severity;
use super::{Lane, LaneState, Percentiles};
use crate::domain::event::EventId;
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;
use crate::text::count;

/// State of a namespace at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of this shape: within it, fields are only added.
    pub schema: u32,
    /// Grows with every snapshot of one process.
    pub seq: u64,
    /// Time at which it was taken.
    pub at: Timestamp,
    /// Time at which the answering process started.
    pub started_at: Timestamp,
    /// Version of the answering process.
    pub version: String,
    /// Name of the answering node.
    pub node: String,
    /// The viewer.
    pub viewer: Viewer,
    /// The namespace.
    pub namespace: Name,
    /// Generation of its lane set.
    pub generation: i64,
    /// Number of its hooks.
    pub hooks_count: u64,
    /// Number of streams of its hooks.
    pub streams_count: u64,
    /// FLOW from which it counts as late, in milliseconds.
    #[serde(default)]
    pub warn_ms: u64,
    /// FLOW from which an operator must look, in milliseconds.
    #[serde(default)]
    pub crit_ms: u64,
    /// Findings in words, worst first. At least one, which may be `OK`.
    pub verdicts: Vec<Verdict>,
    /// Resizes, rebuilds and replays that are under way, oldest first.
    #[serde(default)]
    pub operations: Vec<Operation>,
    /// Time of the last answer of the database, when the figures are stale; `null` while they are
    /// fresh.
    #[serde(default)]
    pub old_since: Option<Timestamp>,
    /// Receivers of this node's alerts.
    #[serde(default)]
    pub receivers: Vec<AlertReceiver>,
    /// All lanes together.
    pub total: Total,
    /// Event storage of this node.
    pub storage: Storage,
    /// Its lanes in order; during a resize those of the older generation first.
    pub lanes: Vec<Lane>,
    /// Cursors with work: the 50 worst of the set-aside ones, then the 20 oldest of the flowing ones.
    pub cursors: Vec<CursorLine>,
    /// The live nodes.
    pub nodes: Vec<NodeLine>,
    /// Every namespace.
    pub namespaces: Vec<NamespaceLine>,
    /// Its hooks, busiest first, at most 20.
    pub hooks: Vec<HookLine>,
    /// Samples of the requested window, oldest first; by default 15 minutes in steps of 10 s.
    pub history: Vec<Sample>,
    /// The newest entries of the log, newest first, at most 200.
    pub log: Vec<LogLine>,
}

/// A long-running change that an operator started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// The change and its object: `resize default 8 -> 16`, `rebuild orders`.
    pub what: String,
    /// Operator who started it, if known.
    pub by: Option<String>,
    /// Time at which it started.
    pub since: Timestamp,
    /// Number of units done.
    pub done: u64,
    /// Number of units in all.
    pub of: u64,
    /// Name of the unit: `lanes sealed`, `events`.
    pub unit: String,
    /// Condition that it waits for.
    pub waits_for: Option<String>,
    /// Command that shows its progress.
    pub watch: String,
}

impl Operation {
    /// Its progress in one line.
    pub fn told(&self) -> String {
        let (done, of, unit) = (count(self.done), count(self.of), &self.unit);
        let by = self.by.as_ref().map(|by| format!(" by {by}"));
        let waits = self.waits_for.as_ref();
        let waits = waits.map(|waits| format!("; waits for {waits}"));
        format!(
            "{}: {done} of {of} {unit}, begun{} at {}{}",
            self.what,
            by.unwrap_or_default(),
            self.since.clock(),
            waits.unwrap_or_default()
        )
    }
}

/// Time span of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Window {
    /// One minute, by the second.
    #[serde(rename = "1m")]
    Minute,
    /// Five minutes, by the second.
    #[serde(rename = "5m")]
    Five,
    /// 15 minutes, in steps of ten seconds.
    #[default]
    #[serde(rename = "15m")]
    Quarter,
    /// One hour, in steps of ten seconds.
    #[serde(rename = "1h")]
    Hour,
}

impl Window {
    /// Every window, shortest first.
    pub const ALL: [Self; 4] = [Self::Minute, Self::Five, Self::Quarter, Self::Hour];

    /// Its spelling in queries and flags.
    pub fn word(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::Five => "5m",
            Self::Quarter => "15m",
            Self::Hour => "1h",
        }
    }

    /// Number and length of its steps.
    pub fn steps(self) -> (usize, Duration) {
        match self {
            Self::Minute => (60, Duration::from_secs(1)),
            Self::Five => (300, Duration::from_secs(1)),
            Self::Quarter => (90, Duration::from_secs(10)),
            Self::Hour => (360, Duration::from_secs(10)),
        }
    }
}

impl std::str::FromStr for Window {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|window| window.word() == text);
        found.ok_or("a window is 1m, 5m, 15m or 1h")
    }
}

/// The viewer of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Viewer {
    /// Name for people, such as `ana (socket)` or `key grafana`.
    pub name: String,
    /// True if the viewer may change anything.
    pub may_act: bool,
}

/// One finding about a namespace, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its rule, 1 to 12; what touches everything has a low number.
    pub rule: Rule,
    /// Name of the finding, which stays the same while its text changes: `late`, `nodes`, `orders -> crm held`.
    #[serde(default)]
    pub finding: String,
    /// Party at fault.
    pub class: Class,
    /// Severity of the finding.
    pub severity: Severity,
    /// First sentence, without the class.
    pub text: String,
    /// Effect on events, and whether more lanes help; `null` when all is well.
    pub more: Option<String>,
    /// Command to run next, complete and quoted; `null` when there is nothing to do.
    #[serde(default)]
    pub next: Option<String>,
    /// Time since when it has been so.
    pub since: Option<Timestamp>,
    /// Number of events that it holds up.
    pub events: u64,
    /// Smallest number of lanes that would help, if more lanes would.
    pub lanes_that_help: Option<u16>,
    /// The lane it is about.
    pub lane: Option<LaneId>,
    /// The stream it is about.
    pub stream: Option<StreamName>,
    /// The hook that it is about.
    #[serde(default)]
    pub hook: Option<Name>,
}

/// Party that causes a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// In hooklane or its database.
    #[serde(rename = "US")]
    Us,
    /// Perhaps in hooklane or its database.
    #[serde(rename = "US?")]
    UsPerhaps,
    /// Senders send more than usual.
    #[serde(rename = "SENDERS")]
    Senders,
    /// In a destination.
    #[serde(rename = "THEM")]
    Them,
    /// In a reducer.
    #[serde(rename = "CODE")]
    Code,
    /// In one stream, whose events are applied one at a time.
    #[serde(rename = "ORDER")]
    Order,
    /// In the number of lanes, which is too small.
    #[serde(rename = "LANES")]
    Lanes,
    /// In an operator's own decision.
    #[serde(rename = "ON PURPOSE")]
    OnPurpose,
    /// Nowhere: all is well.
    #[serde(rename = "OK")]
    Ok,
}

impl Class {
    /// Its name, as in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Us => "US",
            Self::UsPerhaps => "US?",
            Self::Senders => "SENDERS",
            Self::Them => "THEM",
            Self::Code => "CODE",
            Self::Order => "ORDER",
            Self::Lanes => "LANES",
            Self::OnPurpose => "ON PURPOSE",
            Self::Ok => "OK",
        }
    }

    /// True if no one needs to act.
    pub fn is_well(self) -> bool {
        matches!(self, Self::OnPurpose | Self::Ok)
    }
}

/// The lanes of a namespace together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Total {
    /// Age of the oldest waiting event, in milliseconds.
    pub oldest_ms: Option<u64>,
    /// Age of the oldest waiting event of flowing cursors in running lanes.
    pub flow_ms: Option<u64>,
    /// Number of cursors that are waiting or held.
    pub set_aside: u64,
    /// Number of cursors that wait for a retry.
    pub waiting: u64,
    /// Number of cursors that need an operator.
    pub held: u64,
    /// Number of events still to apply.
    pub backlog: u64,
    /// Change of the backlog, in events per second.
    pub backlog_per_s: f64,
    /// Events received per second over the last half or whole minute, as for each lane. An event counts once
    /// for each handler of its hook.
    pub in_per_s: f64,
    /// Events applied per second over the same time.
    pub out_per_s: f64,
    /// The worst of the lanes that are not stopped on purpose: `never`, `retry`, `steady` …
    pub eta: Option<Eta>,
    /// Forecast of when all is applied; `null` when there is none.
    pub eta_ms: Option<u64>,
    /// Time from the receipt of an event until it is applied. Includes events that still wait.
    pub wait_ms: Option<Percentiles>,
    /// Time that reducers take for a turn.
    pub work_ms: Option<Percentiles>,
    /// Number of events in the dead letters.
    #[serde(default)]
    pub dead: u64,
    /// Number of failed tries in the last five minutes.
    #[serde(default)]
    pub failures: u64,
    /// Number of cursors with work.
    pub cursors: u64,
    /// Share of time in which a turn ran, 0 to 1, in the busiest lane.
    pub busiest: Option<f64>,
}

/// Event storage of this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Storage {
    /// True if events are accepted; otherwise `error` tells why not.
    pub accepting: bool,
    /// Events accepted per second by all nodes over the last 2 s.
    pub accepted_per_s: f64,
    /// 99th percentile of the commit times of the last minutes; `null` without a commit.
    pub commit_p99_ms: Option<f64>,
    /// Normal commit time of this node.
    pub commit_normal_ms: Option<f64>,
    /// 99th percentile of the sync times of the log; `null` on Postgres, which syncs by itself.
    #[serde(default)]
    pub fsync_p99_ms: Option<f64>,
    /// Present error of the database.
    pub error: Option<String>,
    /// Time since when the error lasts.
    #[serde(default)]
    pub error_since: Option<Timestamp>,
    /// Present error of Redis, as this node sees it; `null` where hints are in memory.
    #[serde(default)]
    pub hints: Option<Outage>,
    /// Address of Redis, without the password; `null` where hints are in memory.
    #[serde(default)]
    pub hints_server: Option<String>,
    /// Last outage of the database, if it ended less than an hour ago.
    #[serde(default)]
    pub noted: Option<PastOutage>,
    /// Restore of the database from a backup, for a day.
    #[serde(default)]
    pub restored: Option<Restored>,
}

/// A restore of the database from a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Time at which the backup was taken.
    pub taken_at: Timestamp,
    /// Time of the restore.
    pub at: Timestamp,
}

/// A past time span in which no event could be stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PastOutage {
    /// Start of the outage.
    pub from: Timestamp,
    /// Time at which a commit succeeded again.
    pub until: Timestamp,
    /// Error that caused it.
    pub error: String,
}

/// A present failure of an external service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// Reason, in words.
    pub why: String,
    /// Time since when it lasts.
    pub since: Timestamp,
}

/// A receiver of this node's alerts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertReceiver {
    /// Scheme and host of its URL.
    pub receiver: String,
    /// Number of posts that it has still to get.
    pub waiting: u64,
    /// Present failure to reach it.
    pub failing: Option<Outage>,
}

/// A cursor with work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CursorLine {
    /// Its stream.
    pub stream: StreamName,
    /// Its handler.
    pub handler: Name,
    /// Index of its lane in the lane set.
    pub lane: u16,
    /// Generation of the lane set; during a resize, two lanes have the same index.
    #[serde(default)]
    pub generation: i64,
    /// `flowing`, `waiting`, `held` or `paused`.
    pub condition: Condition,
    /// Seq of the last event that it has passed.
    pub position: Position,
    /// Seq of the last event of its stream.
    pub head: Seq,
    /// Number of events still to apply.
    pub behind: u64,
    /// Age of the event that it needs next, in milliseconds.
    pub oldest_ms: Option<u64>,
    /// Number of failed tries of that event.
    pub tries: u32,
    /// Error of the last try.
    pub result: Option<String>,
    /// Time of the next try.
    pub retry_at: Option<Timestamp>,
    /// The event that it needs next.
    pub next: Option<EventId>,
    /// True if an operator holds it; false if it failed.
    #[serde(default)]
    pub by_operator: bool,
}

impl CursorLine {
    /// True if the cursor is in this lane.
    pub fn is_in(&self, lane: &Lane) -> bool {
        (self.generation, self.lane) == (lane.id.generation, lane.id.index)
    }
}

/// A live node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeLine {
    /// Name for people.
    pub node: String,
    /// Number of lanes that it runs, of all namespaces.
    pub lanes: u64,
    /// Number of lanes of this namespace that it runs.
    #[serde(default)]
    pub lanes_here: u64,
    /// Indices of those lanes, as ranges: `0-3,7`.
    pub owns: String,
    /// Share of time in which its lanes of this namespace took turns, 0 to 1.
    pub busy: Option<f64>,
    /// Processor time of its process: 1.0 is one full core.
    pub cpu: Option<f64>,
    /// 99th percentile of its commit times, in milliseconds.
    pub commit_p99_ms: Option<f64>,
    /// 99th percentile of the sync times of its log; `null` on Postgres, which syncs by itself.
    #[serde(default)]
    pub fsync_p99_ms: Option<f64>,
    /// Time since its heartbeat was last seen to change.
    pub beat_ms: Option<u64>,
    /// Time since it started.
    pub up_ms: Option<u64>,
    /// Its version.
    pub version: Option<String>,
    /// True while it is leaving the cluster.
    pub leaving: bool,
}

/// Summary of a namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamespaceLine {
    /// Its name.
    pub namespace: Name,
    /// Number of its lanes.
    pub lanes: u16,
    /// Generation of its lane set.
    pub generation: i64,
    /// Number of its streams.
    #[serde(default)]
    pub streams: u64,
    /// Number of its lanes in each mode.
    #[serde(default)]
    pub states: BTreeMap<LaneState, u64>,
    /// Number of set-aside cursors.
    pub set_aside: u64,
    /// Age of the oldest waiting event, in milliseconds.
    pub oldest_ms: Option<u64>,
    /// Age of the oldest waiting event of flowing cursors.
    pub flow_ms: Option<u64>,
    /// Number of events still to apply.
    pub backlog: u64,
    /// Severity of its worst finding.
    #[serde(default)]
    pub severity: Severity,
}

/// Number of further findings, and whether one of them needs somebody: ` (+2 more, !)`.
pub fn how_many_more(others: &[Verdict]) -> String {
    let more = others.iter().filter(|other| other.class != Class::Ok);
    let worst = more.clone().map(|other| other.severity).max();
    match (more.count(), worst) {
        (0, _) => String::new(),
        (more, Some(Severity::Trouble)) => format!(" (+{more} more, !)"),
        (more, _) => format!(" (+{more} more)"),
    }
}

/// Summary of a hook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HookLine {
    /// Its name.
    pub hook: Name,
    /// Events accepted per second by all nodes over the last 10 s.
    pub in_per_s: f64,
    /// Its normal rate; `null` until one hour has been observed.
    pub normal_per_s: Option<f64>,
    /// True if it is paused.
    pub paused: bool,
    /// Number of its streams.
    #[serde(default)]
    pub streams: u64,
    /// Its handlers, such as `reduce latest`.
    pub handlers: String,
    /// Authentication of senders, such as `write key`.
    #[serde(default)]
    pub verify: String,
}

/// Figures of one step of a history: a second or ten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// End of the step.
    pub at: Timestamp,
    /// Largest backlog in the step.
    pub backlog: u64,
    /// Events received per second.
    pub in_per_s: f64,
    /// Events applied per second.
    pub out_per_s: f64,
    /// Largest FLOW in the step, in milliseconds.
    pub flow_ms: u64,
    /// Events by how long they had waited, at the end of the step or when they were applied: under 10
    /// ms, 100 ms, 1 s, 10 s, 1 min, 10 min, and longer.
    pub waits: [u64; 7],
}

/// An entry of the log: something that hooklane or an operator did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Time of the entry.
    pub at: Timestamp,
    /// Severity of the entry.
    pub severity: Severity,
    /// The lane, cursor or node concerned.
    pub scope: String,
    /// Description of what happened.
    pub what: String,
}

impl LogLine {
    /// True if the scope is this lane, or lanes with it: `lane 3`, `lanes 0-3,6`.
    pub fn is_of_lane(&self, index: u16) -> bool {
        let has = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse(), last.parse());
            matches!((first, last), (Ok(first), Ok(last)) if (first..=last).contains(&index))
        };
        let scope = &self.scope;
        let lanes = scope.strip_prefix("lane ").or(scope.strip_prefix("lanes "));
        lanes.is_some_and(|lanes| lanes.split(',').any(has))
    }
}
