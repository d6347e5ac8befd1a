//! Lanes as operators see them: backlog, age and throughput.

use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::eta::Eta;
use super::severity::Severity;
use crate::domain::event::EventId;
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;

/// One lane at one moment. An unknown figure is `null`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    /// The lane: `lane` is its name, such as `default-115-3`, `index` its place in the lane set, from 0, `generation`
    /// that of the set.
    #[serde(flatten, with = "super::words::lane_parts")]
    pub id: LaneId,
    /// State of the lane.
    pub state: LaneState,
    /// Number of cursors that are waiting or held.
    pub set_aside: u64,
    /// Number of cursors that wait for a retry.
    pub waiting: u64,
    /// Number of cursors that need an operator.
    pub held: u64,
    /// Age of its oldest waiting event, in milliseconds.
    pub oldest_ms: Option<u64>,
    /// Age of the oldest waiting event of its flowing cursors.
    pub flow_ms: Option<u64>,
    /// Number of events still to apply.
    pub backlog: u64,
    /// Number of events still to apply of flowing cursors.
    pub backlog_flowing: u64,
    /// Events received per second, over the last half or whole minute.
    pub in_per_s: Option<f64>,
    /// Events applied per second, over the same time.
    pub out_per_s: Option<f64>,
    /// The end of what waits, in a word.
    pub eta: Option<Eta>,
    /// Forecast of when all is applied; `null` when there is none.
    pub eta_ms: Option<u64>,
    /// Time from the receipt of an event until its turn starts. Includes events that still wait.
    pub wait_ms: Option<Percentiles>,
    /// Time that handlers take for a turn.
    pub work_ms: Option<Percentiles>,
    /// Time that a cursor with work waits for the lane's other cursors. More lanes shorten only this
    /// wait.
    #[serde(default)]
    pub turn_wait_ms: Option<u64>,
    /// Node that runs the lane.
    pub node: Option<String>,
    /// Epoch of the current owner; `null` on a single node.
    #[serde(default)]
    pub epoch: Option<i64>,
    /// The cursor in the worst condition.
    pub worst: Option<WorstCursor>,
    /// Number of events that an operator keeps from being applied.
    #[serde(default)]
    pub kept: u64,
    /// Number of events that a draining lane still has to apply.
    #[serde(default)]
    pub left: Option<u64>,
    /// Its cursors that gather events for a debounce.
    #[serde(default)]
    pub gathers: Option<Gathering>,
    /// Operator who stopped it.
    #[serde(default)]
    pub by: Option<String>,
    /// Time at which it was stopped.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Reason that the operator gave.
    #[serde(default)]
    pub reason: Option<String>,
    /// Severity of its condition.
    #[serde(default)]
    pub severity: Severity,
    /// Share of time in which a turn ran, 0 to 1.
    #[serde(default)]
    pub busy: Option<f64>,
    /// Number of failed tries in the last five minutes.
    #[serde(default)]
    pub failures: u64,
    /// Number of deliveries in flight; `null` while it has no forward handler at work.
    #[serde(default)]
    pub in_flight: Option<u64>,
    /// Number of cursors with work.
    #[serde(default)]
    pub cursors: u64,
    /// Backlog over the last 15 minutes in ten steps, oldest first.
    #[serde(default)]
    pub trend: Vec<u64>,
}

impl Lane {
    /// True if an operator keeps it from taking turns.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, LaneState::Paused | LaneState::Drained)
    }

    /// True if an operator has stopped or drains both lanes in one act.
    pub fn is_stopped_like(&self, other: &Self) -> bool {
        let is_kept = self.is_stopped() || self.state == LaneState::Draining;
        let of = |lane: &Self| (lane.state, lane.by.clone(), lane.reason.clone());
        is_kept && of(self) == of(other)
    }
}

/// Cursors that gather events before they take a turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gathering {
    /// Number of these cursors.
    pub cursors: u64,
    /// Stream of the cursor that gathers longest.
    pub stream: StreamName,
    /// Its handler.
    pub handler: Name,
    /// Time at which its turn begins if no event comes meanwhile.
    pub until: Timestamp,
}

/// A lane with its cursors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneDetail {
    /// The lane.
    #[serde(flatten)]
    pub lane: Lane,
    /// True if the cursors were selected from all of the lane's; false if from another node's report,
    /// which is limited.
    pub is_all: bool,
    /// Cursors with work: first the set-aside ones, then those whose events have waited longest.
    #[serde(rename = "lines")]
    pub cursors: Vec<super::CursorLine>,
}

/// Mode of a lane, as shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LaneState {
    /// It takes turns.
    #[serde(rename = "active")]
    Active,
    /// It takes no turns.
    #[serde(rename = "paused")]
    Paused,
    /// It takes turns up to the heads at the time when draining began.
    #[serde(rename = "draining")]
    Draining,
    /// It has reached those heads and keeps later events.
    #[serde(rename = "drained")]
    Drained,
    /// No node runs it.
    #[serde(rename = "no owner")]
    NoOwner,
}

impl LaneState {
    /// Its name in tables.
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
    /// Median, the 50th percentile.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest value.
    pub max: f64,
}

/// The cursor of a lane in the worst condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorstCursor {
    /// Its stream.
    pub stream: StreamName,
    /// Its handler.
    pub handler: Name,
    /// `waiting` or `held`.
    pub condition: Condition,
    /// Error of the last try.
    pub result: String,
    /// Number of failed tries.
    pub tries: u32,
    /// Number of events that it holds up.
    pub events: u64,
    /// Time since when it has been set aside, if known.
    pub since: Option<Timestamp>,
    /// Time of the next try.
    pub retry_at: Option<Timestamp>,
    /// The event that it needs next.
    pub next: Option<EventId>,
}
