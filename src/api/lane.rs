//! Lanes as operators see them: how much waits, how old it is, how fast it goes.

use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::eta::Eta;
use super::severity::Severity;
use crate::domain::event::EventId;
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;

/// One lane at one moment. A figure that is not known is `null`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    /// The lane: `lane` is its name, such as `default-115-3`, `index` its place in the lane set, from 0, `generation`
    /// that of the set.
    #[serde(flatten, with = "super::words::lane_parts")]
    pub id: LaneId,
    /// What it does.
    pub state: LaneState,
    /// Cursors that are waiting or held.
    pub set_aside: u64,
    /// Of these, those that try again by themselves.
    pub waiting: u64,
    /// Of these, those that need an operator.
    pub held: u64,
    /// The age of the oldest event that waits at all.
    pub oldest_ms: Option<u64>,
    /// The same, of flowing cursors only.
    pub flow_ms: Option<u64>,
    /// Events still to apply.
    pub backlog: u64,
    /// The same, of flowing cursors only.
    pub backlog_flowing: u64,
    /// Events that came in, a second, by the last half or whole minute.
    pub in_per_s: Option<f64>,
    /// Events that were applied, a second, by the same time.
    pub out_per_s: Option<f64>,
    /// The end of what waits, in a word.
    pub eta: Option<Eta>,
    /// When all is applied, where that can be told.
    pub eta_ms: Option<u64>,
    /// Received until its turn starts, events that still wait included.
    pub wait_ms: Option<Percentiles>,
    /// The handler's own time.
    pub work_ms: Option<Percentiles>,
    /// How long a cursor that could run waits until its lane runs it: the only wait that more lanes shorten.
    #[serde(default)]
    pub turn_wait_ms: Option<u64>,
    /// The node that runs it.
    pub node: Option<String>,
    /// Counts the nodes that have taken it, across all lanes; none where there is only one.
    #[serde(default)]
    pub epoch: Option<i64>,
    /// The cursor that is worst off.
    pub worst: Option<Worst>,
    /// Events that an operator keeps from being applied.
    #[serde(default)]
    pub kept: u64,
    /// Events that a draining lane still has to apply.
    #[serde(default)]
    pub left: Option<u64>,
    /// The cursors of it that gather events.
    #[serde(default)]
    pub gathers: Option<Gathers>,
    /// Who stopped it.
    #[serde(default)]
    pub by: Option<String>,
    /// When.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
    /// How much it needs somebody.
    #[serde(default)]
    pub severity: Severity,
    /// The share of time with a turn running, 0 to 1.
    #[serde(default)]
    pub busy: Option<f64>,
    /// Events that could not be applied in the last five minutes, each try counted.
    #[serde(default)]
    pub failures: u64,
    /// Deliveries that are under way; none while nothing is delivered.
    #[serde(default)]
    pub in_flight: Option<u64>,
    /// Cursors with work.
    #[serde(default)]
    pub cursors: u64,
    /// Its backlog in the last quarter of an hour, oldest first, ten steps.
    #[serde(default)]
    pub trend: Vec<u64>,
}

impl Lane {
    /// True if an operator keeps it from taking turns.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, LaneState::Paused | LaneState::Drained)
    }
}

/// Cursors that gather events before they take a turn, as a debounce asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gathers {
    /// How many.
    pub cursors: u64,
    /// The stream of the one that goes on last.
    pub stream: StreamName,
    /// Its handler.
    pub handler: Name,
    /// When it looks again: it goes on then if nothing came meanwhile.
    pub until: Timestamp,
}

/// A lane with the cursors in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneShown {
    /// The lane.
    #[serde(flatten)]
    pub lane: Lane,
    /// Whether the cursors are chosen from all of it; else from what another node tells of it.
    pub is_all: bool,
    /// Cursors with work: those set aside first, then those whose events wait longest.
    #[serde(rename = "lines")]
    pub cursors: Vec<super::CursorLine>,
}

/// What a lane does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LaneState {
    /// It takes turns.
    #[serde(rename = "active")]
    Active,
    /// It takes no turns.
    #[serde(rename = "paused")]
    Paused,
    /// It takes turns up to where its streams were when this began.
    #[serde(rename = "draining")]
    Draining,
    /// It has done that, and keeps what came later.
    #[serde(rename = "drained")]
    Drained,
    /// Nobody runs it.
    #[serde(rename = "no owner")]
    NoOwner,
}

impl LaneState {
    /// The word for it in tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Paused => "paused",
            Self::NoOwner => "no owner",
        }
    }
}

/// A distribution in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half are at most this.
    pub p50: f64,
    /// Nine in ten are at most this.
    pub p90: f64,
    /// 99 in 100 are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

/// The cursor of a lane that is worst off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worst {
    /// The stream.
    pub stream: StreamName,
    /// The handler.
    pub handler: Name,
    /// `waiting` or `held`.
    pub condition: Condition,
    /// What went wrong.
    pub result: String,
    /// Tries so far.
    pub tries: u32,
    /// Events it holds up.
    pub events: u64,
    /// Since when; none where that is not known.
    pub since: Option<Timestamp>,
    /// When it is tried again.
    pub retry_at: Option<Timestamp>,
    /// The event it needs next.
    pub next: Option<EventId>,
}
