//! Resizing, pausing, draining and resuming lanes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LaneState, WorstCursor, command};
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;
use crate::text::{count, counted, duration};

fn default_namespace() -> Name {
    Name::default_namespace()
}

/// Request to resize a namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeSpec {
    /// The namespace.
    #[serde(default = "default_namespace")]
    pub namespace: Name,
    /// New number of lanes.
    pub lanes: u16,
    /// Required present number of lanes; the request is refused if it differs.
    #[serde(default)]
    pub expect: Option<u16>,
    /// Required present generation, from the plan; the request is refused if it differs.
    #[serde(default)]
    pub generation: Option<i64>,
    /// Only return the plan.
    #[serde(default)]
    pub dry_run: bool,
    /// The new lanes begin only when the old ones have applied their present backlog.
    #[serde(default)]
    pub drain_first: bool,
    /// Reason, in the operator's words.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Effects of a resize, planned or begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// The namespace.
    pub namespace: Name,
    /// Present number of lanes.
    pub from: u16,
    /// New number of lanes.
    pub to: u16,
    /// Present generation.
    pub generation: i64,
    /// New generation; `null` while it is only planned, or nothing changes.
    pub next_generation: Option<i64>,
    /// Number of streams of the namespace.
    pub streams: u64,
    /// Number of streams whose lane index changes.
    pub moves: u64,
    /// Number of set-aside cursors; they keep their condition.
    pub set_aside: u64,
    /// The set-aside cursor that holds up most events, if its lane reports it.
    #[serde(default)]
    pub worst: Option<Box<WorstCursor>>,
    /// Index of the lane to name: that cursor's, else the busiest.
    #[serde(default)]
    pub lane: u16,
    /// Age of the oldest event of flowing cursors, in milliseconds.
    #[serde(default)]
    pub flow_ms: Option<u64>,
    /// Time that turns wait for other cursors, in the lane where it is longest.
    #[serde(default)]
    pub turn_wait_ms: Option<u64>,
    /// Share of time in which a turn ran, 0 to 1, in the busiest lane.
    #[serde(default)]
    pub busiest: Option<f64>,
    /// Estimate of the busiest lane's share after the resize.
    #[serde(default)]
    pub busiest_after: Option<f64>,
    /// Number of events that wait.
    pub backlog: u64,
    /// Number of waiting events in the lane with the largest backlog.
    pub fullest_lane: u64,
    /// Number of these events in the lane that then has the largest backlog.
    pub fullest_lane_after: u64,
    /// Number of events that wait for one handler in the stream with the largest backlog, which stays
    /// in one lane.
    pub fullest_stream: u64,
    /// Stream with the largest backlog.
    #[serde(default)]
    pub fullest: Option<StreamName>,
    /// Index of that stream's lane after the resize.
    #[serde(default)]
    pub fullest_index_after: Option<u16>,
    /// Obstacles to the resize.
    pub in_the_way: Vec<String>,
    /// Stop of the present lanes, which the new ones take over.
    #[serde(default)]
    pub stopped: Option<InheritedStop>,
}

/// A stop that new lanes take over from the old ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InheritedStop {
    /// `paused` or `draining`.
    pub state: LaneState,
    /// Operator who stopped them.
    pub by: Option<String>,
    /// Time of the stop.
    pub since: Option<Timestamp>,
    /// Reason that the operator gave.
    pub reason: Option<String>,
}

impl Resize {
    /// The effects in words, as label and text, for every screen that shows the plan.
    pub fn told(&self, drain_first: bool, now: Timestamp) -> Vec<(&'static str, String)> {
        let mut told = vec![("how", self.how(drain_first)), ("split", self.split())];
        told.extend(self.carries(drain_first, now).map(|text| ("stopped", text)));
        if self.set_aside > 0 {
            told.push(("set aside", self.moves_as_it_is(now)));
        }
        told.push(("effect", self.effect()));
        if let Some(stream) = &self.fullest
            && self.fullest_stream * 2 > self.backlog
        {
            let index = self.fullest_index_after;
            let lane = index.map_or_else(String::new, |index| format!(" ({index})"));
            let share = percent(self.fullest_stream as f64 / self.backlog.max(1) as f64);
            told.push((
                "does not",
                format!("clear {stream} sooner: one stream stays in one lane{lane}, and it is {share} of the backlog"),
            ));
        }
        if !self.in_the_way.is_empty() {
            told.push(("in the way", self.in_the_way.join("; ")));
        }
        told
    }

    /// True if the lanes are paused: they apply nothing, whatever their number.
    pub fn is_paused(&self) -> bool {
        let stopped = self.stopped.as_ref();
        stopped.is_some_and(|stopped| stopped.state == LaneState::Paused)
    }

    /// Says that a stop stays in force, and how it ends.
    fn carries(&self, drain_first: bool, now: Timestamp) -> Option<String> {
        let InheritedStop {
            state,
            by,
            since,
            reason,
        } = self.stopped.as_ref()?;
        let by = by.as_ref().map(|by| format!(" by {by}"));
        let since = since.map(|at| format!(" since {}", at.clock_at(now)));
        let reason = reason.as_ref().map(|reason| format!(" \"{reason}\""));
        let (stay, nothing) = match state {
            LaneState::Paused if drain_first => ("paused", "; nothing is drained first"),
            LaneState::Paused => ("paused", ""),
            _ => ("drained", ""),
        };
        let resume =
            command::in_namespace("hooklane lanes resume --all".to_owned(), &self.namespace);
        Some(format!(
            "the lanes are {}{}{}{}, and the new ones stay {stay}{nothing}. Resume: {resume}",
            state.word(),
            by.unwrap_or_default(),
            since.unwrap_or_default(),
            reason.unwrap_or_default()
        ))
    }

    fn how(&self, drain_first: bool) -> String {
        let (from, next) = (self.generation, self.generation + 1);
        match drain_first && !self.is_paused() {
            true => {
                format!(
                    "generation {from} finishes what waits now, then generation {next} takes over"
                )
            }
            false => format!(
                "live: each lane of generation {from} finishes its running turn, then generation {next} takes over"
            ),
        }
    }

    fn split(&self) -> String {
        let streams = counted(self.streams, "stream", "streams");
        if self.to != self.from.saturating_mul(2) {
            let moves = count(self.moves);
            return format!("{moves} of {streams} get another lane; all keep their order");
        }
        let kept = match self.streams {
            0 | 1 => "order is kept".to_owned(),
            _ => format!("all {streams} keep their order"),
        };
        let (lane, first) = (self.lane, self.lane.saturating_mul(2));
        let second = first.saturating_add(1);
        format!("every lane becomes two ({lane} -> {first} and {second}); {kept}")
    }

    fn moves_as_it_is(&self, now: Timestamp) -> String {
        let worst = self.worst.as_ref().map(|worst| {
            let then = match worst.retry_at {
                Some(at) => format!("retry in {}", duration(at.since(now))),
                None => worst.condition.word().to_owned(),
            };
            format!("{} -> {}, {then}", worst.stream, worst.handler)
        });
        let worst = worst.unwrap_or_default();
        match (self.set_aside, worst.is_empty()) {
            (1, true) => "1 cursor stays set aside and delays nothing".to_owned(),
            (1, false) => format!("1 cursor stays set aside and delays nothing: {worst}"),
            (n, true) => format!("{} cursors stay set aside and delay nothing", count(n)),
            (n, false) => format!(
                "{} cursors stay set aside and delay nothing, such as {worst}",
                count(n)
            ),
        }
    }

    fn effect(&self) -> String {
        let is_idle = self.busiest.is_some_and(|busy| busy < IDLE);
        if is_idle && self.turn_wait_ms.unwrap_or(0) == 0 {
            return "none, lanes are idle".to_owned();
        }
        let busiest = self.busiest.zip(self.busiest_after).map(|(now, after)| {
            format!(
                "busiest lane {} -> about {}; ",
                percent(now),
                percent(after)
            )
        });
        let age = |ms| duration(Duration::from_millis(ms));
        let turns = match self.turn_wait_ms {
            None | Some(0) => "no turn waits for another now".to_owned(),
            Some(ms) => format!("turns wait {} for others now", age(ms)),
        };
        let flow = self.flow_ms.map_or_else(|| "-".to_owned(), age);
        format!("{}{turns} (FLOW {flow})", busiest.unwrap_or_default())
    }
}

/// A lane that is busy for a smaller share of time than this is idle.
const IDLE: f64 = 0.01;

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// Progress of a resize.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResizeProgress {
    /// Newest generation that takes turns.
    pub generation: i64,
    /// Number of its lanes.
    pub lanes: u16,
    /// True while a resize is under way.
    pub under_way: bool,
    /// Number of old lanes that are sealed.
    pub sealed: u16,
    /// Number of old lanes.
    pub of: u16,
    /// Condition that the other old lanes wait for.
    pub waits_for: Option<String>,
    /// New number of lanes; `null` when no resize is under way.
    #[serde(default)]
    pub to: Option<u16>,
}

/// Request to stop or resume lanes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanesSpec {
    /// The namespace.
    #[serde(default = "default_namespace")]
    pub namespace: Name,
    /// Names or indices of the lanes; `null` for all.
    #[serde(default)]
    pub lanes: Option<Vec<String>>,
    /// Reason, in the operator's words.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Result of stopping or resuming lanes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LanesStopped {
    /// Ids of the lanes.
    pub lanes: Vec<LaneId>,
    /// Nodes that may still take a turn by the previous configuration. Once it is empty, the change is
    /// in force everywhere.
    pub waits_for: Vec<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_what_moves_what_it_helps_and_what_it_does_not() {
        let now = Timestamp::from_millis(1_000_000);
        let plan = |worst: serde_json::Value, turn_wait_ms: u64| -> Resize {
            let plan = serde_json::json!({
                "namespace": "default", "from": 8, "to": 16, "generation": 115,
                "next_generation": null, "streams": 1204, "moves": 1204, "set_aside": 1,
                "worst": worst, "lane": 3, "flow_ms": 88, "turn_wait_ms": turn_wait_ms,
                "busiest": 0.38, "busiest_after": 0.2, "backlog": 17596, "fullest_lane": 16947,
                "fullest_lane_after": 16947, "fullest_stream": 16940, "fullest": "billing/acme",
                "fullest_index_after": 6, "in_the_way": []});
            serde_json::from_value(plan).unwrap()
        };
        let retries = serde_json::json!({
            "stream": "billing/acme", "handler": "crm", "condition": "waiting", "result": "503",
            "tries": 14, "events": 16940, "since": null, "next": null,
            "retry_at": now.after(Duration::from_secs(41))});
        let told = plan(retries, 0).told(false, now);
        let told: Vec<_> = told
            .iter()
            .map(|(label, text)| (*label, text.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (
                    "how",
                    "live: each lane of generation 115 finishes its running turn, then generation 116 takes over"
                ),
                (
                    "split",
                    "every lane becomes two (3 -> 6 and 7); all 1,204 streams keep their order"
                ),
                (
                    "set aside",
                    "1 cursor stays set aside and delays nothing: billing/acme -> crm, retry in 41s"
                ),
                (
                    "effect",
                    "busiest lane 38% -> about 20%; no turn waits for another now (FLOW 88ms)"
                ),
                (
                    "does not",
                    "clear billing/acme sooner: one stream stays in one lane (6), and it is 96% of the backlog"
                ),
            ]
        );
        let unknown = plan(serde_json::Value::Null, 2_000).told(true, now);
        assert_eq!(unknown[2].1, "1 cursor stays set aside and delays nothing");
        assert!(
            unknown[3].1.contains("turns wait 2.0s for others now"),
            "{unknown:?}"
        );
    }
}
