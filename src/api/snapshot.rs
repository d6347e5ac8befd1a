//! Everything a dashboard shows of one namespace at one moment, computed once a second for all who look.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::severity::Severity;
use super::{Lane, LaneState, Percentiles};
use crate::domain::event::EventId;
use crate::domain::name::{Name, StreamName};
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;
use crate::text::count;

/// A namespace at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The version of this shape: fields are only added within it.
    pub schema: u32,
    /// Grows with every snapshot of one process.
    pub seq: u64,
    /// When it was taken.
    pub at: Timestamp,
    /// When the process that answers began.
    pub started_at: Timestamp,
    /// Its version.
    pub version: String,
    /// Its name.
    pub node: String,
    /// Who looks.
    pub viewer: Viewer,
    /// What is shown.
    pub namespace: Name,
    /// The generation of its lane set.
    pub generation: i64,
    /// Its hooks, and their streams.
    pub hooks_count: u64,
    /// Streams of its hooks.
    pub streams_count: u64,
    /// FLOW from which on it is late.
    #[serde(default)]
    pub warn_ms: u64,
    /// FLOW from which on somebody must look.
    #[serde(default)]
    pub crit_ms: u64,
    /// What is wrong, in words: the worst first; at least one, which may be `OK`.
    pub verdicts: Vec<Verdict>,
    /// Resizes and rebuilds that are under way, whoever began them; the oldest first.
    #[serde(default)]
    pub operations: Vec<Operation>,
    /// When the figures were true, if the database has not answered since; none while they are fresh.
    #[serde(default)]
    pub old_since: Option<Timestamp>,
    /// All lanes together.
    pub total: Total,
    /// How events are stored.
    pub storage: Storage,
    /// Its lanes, in order; while it is resized those of the older generation first.
    pub lanes: Vec<Lane>,
    /// Cursors with work: the 50 worst that are set aside, then the 20 oldest that flow.
    pub cursors: Vec<CursorLine>,
    /// The live nodes.
    pub nodes: Vec<NodeLine>,
    /// Every namespace.
    pub namespaces: Vec<NamespaceLine>,
    /// Its hooks, the busiest first: 20 at most.
    pub hooks: Vec<HookLine>,
    /// What the window that was asked for has seen, oldest first; a quarter of an hour in steps of 10 s
    /// where none was.
    pub history: Vec<Sample>,
    /// The newest entries of the log, newest first: 200 at most.
    pub log: Vec<LogLine>,
}

/// An operator's change that takes a while and goes on by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// What it is and what it is about: `resize default 8 -> 16`, `rebuild orders`.
    pub what: String,
    /// Who began it, where that is known.
    pub by: Option<String>,
    /// When.
    pub since: Timestamp,
    /// How much of it is done.
    pub done: u64,
    /// How much there is to do.
    pub of: u64,
    /// What is counted: `lanes sealed`, `events`.
    pub unit: String,
    /// What it waits for.
    pub waits_for: Option<String>,
    /// The command that shows how far it has come.
    pub watch: String,
}

impl Operation {
    /// How far it has come, in one line.
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

/// How far back somebody looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Window {
    /// A minute, by the second.
    #[serde(rename = "1m")]
    Minute,
    /// Five, by the second.
    #[serde(rename = "5m")]
    Five,
    /// A quarter of an hour, in steps of ten seconds.
    #[default]
    #[serde(rename = "15m")]
    Quarter,
    /// An hour, in steps of ten seconds.
    #[serde(rename = "1h")]
    Hour,
}

impl Window {
    /// All of them, the shortest first.
    pub const ALL: [Self; 4] = [Self::Minute, Self::Five, Self::Quarter, Self::Hour];

    /// How it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::Five => "5m",
            Self::Quarter => "15m",
            Self::Hour => "1h",
        }
    }

    /// How many steps it has, and how long each is.
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

/// Who looks at a snapshot, and whether he may act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Viewer {
    /// As people know him: `ana (socket)`, `key grafana`.
    pub name: String,
    /// Whether he may change anything.
    pub may_act: bool,
}

/// One finding about the whole, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its rule, 1 to 12; what touches everything has a low number.
    pub rule: u8,
    /// Whose fault it is.
    pub class: Class,
    /// How much it needs somebody.
    pub severity: Severity,
    /// The first sentence, without its class.
    pub text: String,
    /// What it holds up, and whether more lanes help; none when all is well.
    pub more: Option<String>,
    /// The command to type next, whole and quoted; none when there is nothing to do.
    #[serde(default)]
    pub next: Option<String>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Events that it holds up.
    pub events: u64,
    /// The least number of lanes that would help, if more would.
    pub lanes_that_help: Option<u16>,
    /// The lane it is about, by name.
    pub lane: Option<String>,
    /// The stream it is about.
    pub stream: Option<StreamName>,
    /// The hook it is about.
    #[serde(default)]
    pub hook: Option<Name>,
}

/// Whose fault something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// Ours.
    #[serde(rename = "US")]
    Us,
    /// Perhaps ours.
    #[serde(rename = "US?")]
    UsPerhaps,
    /// Senders send more than usual.
    #[serde(rename = "SENDERS")]
    Senders,
    /// A destination.
    #[serde(rename = "THEM")]
    Them,
    /// A reducer.
    #[serde(rename = "CODE")]
    Code,
    /// One stream, which goes one event at a time.
    #[serde(rename = "ORDER")]
    Order,
    /// There are too few lanes.
    #[serde(rename = "LANES")]
    Lanes,
    /// An operator wants it so.
    #[serde(rename = "ON PURPOSE")]
    OnPurpose,
    /// Nobody's: all is well.
    #[serde(rename = "OK")]
    Ok,
}

impl Class {
    /// The word for it, as in JSON.
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

    /// Whether nobody needs to do anything.
    pub fn is_well(self) -> bool {
        matches!(self, Self::OnPurpose | Self::Ok)
    }
}

/// The lanes of a namespace together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Total {
    /// The age of the oldest event that waits at all.
    pub oldest_ms: Option<u64>,
    /// The same, of flowing cursors in running lanes.
    pub flow_ms: Option<u64>,
    /// Cursors waiting or held.
    pub set_aside: u64,
    /// Cursors that try again by themselves.
    pub waiting: u64,
    /// Cursors that need an operator.
    pub held: u64,
    /// Events still to apply.
    pub backlog: u64,
    /// How the backlog changes, in events a second.
    pub backlog_per_s: f64,
    /// Events that came in, a second, by the last half or whole minute, as for each lane. An event counts once for
    /// each handler of its hook.
    pub in_per_s: f64,
    /// Events that were applied, a second, by the same time.
    pub out_per_s: f64,
    /// The worst of the lanes that are not stopped on purpose: `never`, `retry`, `steady` …
    pub eta: Option<String>,
    /// When all is applied, where that can be told.
    pub eta_ms: Option<u64>,
    /// Received until applied, events that still wait included.
    pub wait_ms: Option<Percentiles>,
    /// The reducers' own time.
    pub work_ms: Option<Percentiles>,
    /// Events in the dead letters.
    #[serde(default)]
    pub dead: u64,
    /// Events that could not be applied in the last five minutes, each try counted.
    #[serde(default)]
    pub failures: u64,
    /// Cursors with work.
    pub cursors: u64,
    /// The share of time with a turn running, 0 to 1, of the busiest lane.
    pub busiest: Option<f64>,
}

/// How this node stores events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Storage {
    /// Whether events are accepted; none says why not.
    pub accepting: bool,
    /// Events accepted a second, by all nodes, in the last 2 s.
    pub accepted_per_s: f64,
    /// 99 of 100 commits of the last minutes took at most this; none without a commit.
    pub commit_p99_ms: Option<f64>,
    /// What is normal for it.
    pub commit_normal_ms: Option<f64>,
    /// 99 of 100 times the log of the file was synced in at most this; none where a server does that.
    #[serde(default)]
    pub fsync_p99_ms: Option<f64>,
    /// What is wrong with the database now.
    pub error: Option<String>,
    /// Since when.
    #[serde(default)]
    pub error_since: Option<Timestamp>,
    /// What is wrong with Redis now, as this node sees it; none where hints are in memory.
    #[serde(default)]
    pub hints: Option<Outage>,
    /// The address of the Redis that keeps hints, without a password; none where they are in memory.
    #[serde(default)]
    pub hints_server: Option<String>,
    /// When the database failed last, where that is over for less than an hour.
    #[serde(default)]
    pub noted: Option<Noted>,
}

/// A time in which no event was stored, and that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    /// When it began.
    pub from: Timestamp,
    /// When a commit succeeded again.
    pub until: Timestamp,
    /// Why there was none.
    pub error: String,
}

/// Something outside that does not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// In words.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
}

/// A cursor with work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CursorLine {
    /// Its stream.
    pub stream: StreamName,
    /// Its handler.
    pub handler: Name,
    /// The lane it is in, by its place in the lane set.
    pub lane: u16,
    /// The generation of that set: while it is resized, two lanes have the same place.
    #[serde(default)]
    pub generation: i64,
    /// `flowing`, `waiting`, `held` or `paused`.
    pub condition: String,
    /// Where it is.
    pub position: Position,
    /// The last event of its stream.
    pub head: Seq,
    /// Events still to apply.
    pub behind: u64,
    /// The age of the event that it needs next.
    pub oldest_ms: Option<u64>,
    /// Tries of that event.
    pub tries: u32,
    /// What went wrong last.
    pub result: Option<String>,
    /// When it is tried again.
    pub retry_at: Option<Timestamp>,
    /// The event it needs next.
    pub next: Option<EventId>,
    /// True if an operator holds it; false if it failed.
    #[serde(default)]
    pub by_operator: bool,
}

impl CursorLine {
    /// Whether it is in this lane.
    pub fn is_in(&self, lane: &Lane) -> bool {
        (self.generation, self.lane) == (lane.generation, lane.index)
    }
}

/// A live node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeLine {
    /// What people call it.
    pub node: String,
    /// Lanes it runs, of all namespaces.
    pub lanes: u64,
    /// How many of them are of this namespace.
    #[serde(default)]
    pub lanes_here: u64,
    /// Those of this namespace, as ranges: `0-3,7`.
    pub owns: String,
    /// The share of time in which its lanes of this namespace took turns, 0 to 1.
    pub busy: Option<f64>,
    /// Processor time used by its process: 1.0 is a whole core.
    pub cpu: Option<f64>,
    /// 99 of 100 of its commits took at most this.
    pub commit_p99_ms: Option<f64>,
    /// 99 of 100 times the log of its file was synced in at most this; none where a server does that.
    #[serde(default)]
    pub fsync_p99_ms: Option<f64>,
    /// How long ago its last beat was seen to change.
    pub beat_ms: Option<u64>,
    /// How long it runs.
    pub up_ms: Option<u64>,
    /// Its version.
    pub version: Option<String>,
    /// Whether it is on its way out.
    pub leaving: bool,
}

/// A namespace in a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamespaceLine {
    /// Its name.
    pub namespace: Name,
    /// Its lanes.
    pub lanes: u16,
    /// Their generation.
    pub generation: i64,
    /// Its streams.
    #[serde(default)]
    pub streams: u64,
    /// How many of its lanes are in each state.
    #[serde(default)]
    pub states: BTreeMap<LaneState, u64>,
    /// Cursors set aside.
    pub set_aside: u64,
    /// The age of the oldest event that waits at all.
    pub oldest_ms: Option<u64>,
    /// The same, of flowing cursors.
    pub flow_ms: Option<u64>,
    /// Events still to apply.
    pub backlog: u64,
    /// How much it needs somebody, as its verdict says.
    #[serde(default)]
    pub severity: Severity,
}

/// How many more findings there are, and whether one of them needs somebody: ` (+2 more, !)`.
pub fn how_many_more(others: &[Verdict]) -> String {
    let more = others.iter().filter(|other| other.class != Class::Ok);
    let worst = more.clone().map(|other| other.severity).max();
    match (more.count(), worst) {
        (0, _) => String::new(),
        (more, Some(Severity::Trouble)) => format!(" (+{more} more, !)"),
        (more, _) => format!(" (+{more} more)"),
    }
}

/// A hook in a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HookLine {
    /// Its name.
    pub hook: Name,
    /// Events accepted a second, by all nodes, in the last 10 s.
    pub in_per_s: f64,
    /// What is normal for it; none until an hour is known.
    pub normal_per_s: Option<f64>,
    /// Whether an operator has paused it.
    pub paused: bool,
    /// Its streams.
    #[serde(default)]
    pub streams: u64,
    /// Its handlers: `reduce latest`.
    pub handlers: String,
    /// How it knows its senders: `write key`.
    #[serde(default)]
    pub verify: String,
}

/// A second of the past, or ten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When they ended.
    pub at: Timestamp,
    /// The largest backlog in them.
    pub backlog: u64,
    /// Events that came, a second.
    pub in_per_s: f64,
    /// Events that were applied, a second.
    pub out_per_s: f64,
    /// The largest FLOW in them.
    pub flow_ms: u64,
    /// Events that waited, at their end or until they were applied in them, by how long:
    /// under 10 ms, 100 ms, 1 s, 10 s, 1 min, 10 min, and longer.
    pub waits: [u64; 7],
}

/// Something that hooklane or an operator did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When.
    pub at: Timestamp,
    /// How much it needs somebody.
    pub severity: Severity,
    /// A lane, a cursor, a node.
    pub scope: String,
    /// What happened.
    pub what: String,
}
