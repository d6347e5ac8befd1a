//! State of one namespace in the monitor, and the log entries that follow from its changes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::past::History;
use crate::admin::figures::{keep, ranges};
use crate::admin::{eta, verdict};
use crate::api::{self, Lane, LaneState, Severity};
use crate::domain::lane::LaneId;
use crate::domain::thresholds::Thresholds;
use crate::store;

/// Number of seconds of FLOW kept for the slope.
pub const FLOWS_KEPT: usize = 60;

/// Number of steps in a lane's trend, and seconds in each.
const TREND: usize = 10;

const TREND_STEP: u64 = 90;

/// A log line without its time: severity, subject, and what happened.
pub type News = (Severity, String, String);

/// State of one namespace.
#[derive(Default)]
pub struct NamespaceState {
    pub flow: VecDeque<u64>,
    lanes: HashMap<LaneId, LaneHistory>,
    pub past: History,
    set_aside: HashSet<String>,
    pub help: Help,
    pub counts: Option<store::NamespaceCounts>,
    pub since: verdict::Since,
    /// Resizes, rebuilds and replays that were under way in the last round.
    operations: Vec<String>,
}

/// Number of lanes that would help while the namespace is late.
#[derive(Default)]
pub struct Help {
    /// `None` if it is not known, or no number would.
    pub lanes: Option<u16>,
    /// Round from which on it is computed again.
    pub next: u64,
}

#[derive(Default)]
struct LaneHistory {
    flow: VecDeque<u64>,
    trend: VecDeque<u64>,
    state: Option<LaneState>,
    node: Option<String>,
}

impl NamespaceState {
    /// Adds forecast, trend and severity to the lanes, and returns the news about them.
    pub fn note_lanes(
        &mut self,
        lanes: &mut [Lane],
        cursors: &[api::CursorLine],
        has_heir: bool,
        thresholds: Thresholds,
        ticks: u64,
    ) -> Vec<News> {
        let mut news: Vec<(Vec<u16>, Severity, String)> = Vec::new();
        for lane in lanes.iter_mut() {
            let history = self.lanes.entry(lane.id.clone()).or_default();
            keep(&mut history.flow, lane.flow_ms.unwrap_or(0), FLOWS_KEPT);
            match ticks % TREND_STEP {
                0 => keep(&mut history.trend, lane.backlog, TREND),
                _ => match history.trend.back_mut() {
                    Some(last) => *last = (*last).max(lane.backlog),
                    None => history.trend.push_back(lane.backlog),
                },
            }
            let flow: Vec<_> = history.flow.iter().copied().collect();
            let (word, ms) = eta::eta(&eta::Facts {
                state: lane.state,
                has_heir,
                flow_ms: &flow,
                backlog_flowing: lane.backlog_flowing,
                waiting: lane.waiting,
                held: lane.held,
            });
            (lane.eta, lane.eta_ms) = (word, ms);
            lane.trend = history.trend.iter().copied().collect();
            lane.severity = verdict::severity(lane, cursors, &flow, thresholds);
            let Some((severity, what)) = history.news(lane) else {
                continue;
            };
            let mut like = news.iter_mut();
            match like.find(|(_, of, told)| *of == severity && *told == what) {
                Some((lanes, ..)) => lanes.push(lane.id.index),
                None => news.push((vec![lane.id.index], severity, what)),
            }
        }
        self.lanes
            .retain(|id, _| lanes.iter().any(|lane| lane.id == *id));
        let line = |(lanes, severity, what)| (severity, scope(lanes), what);
        news.into_iter().map(line).collect()
    }

    /// Returns the news about resizes, rebuilds and replays that began or ended since the last round.
    pub fn note_operations(&mut self, operations: &[api::Operation]) -> Vec<News> {
        let now: Vec<_> = operations.iter().map(|known| known.what.clone()).collect();
        let begun = operations
            .iter()
            .filter(|o| !self.operations.contains(&o.what));
        let begun = begun.map(|o| {
            let by = o.by.as_ref().map(|by| format!(" by {by}"));
            let what = format!("under way{}", by.unwrap_or_default());
            (Severity::Unusual, o.what.clone(), what)
        });
        let over = self.operations.iter().filter(|known| !now.contains(known));
        let over = over.map(|known| (Severity::Fine, known.clone(), "ended".to_owned()));
        let news = begun.chain(over).collect();
        self.operations = now;
        news
    }

    pub fn note_set_aside(&mut self, cursors: &[api::CursorLine]) -> Vec<News> {
        let is_aside = |line: &&api::CursorLine| line.condition.is_set_aside();
        let now: HashMap<_, _> = cursors
            .iter()
            .filter(is_aside)
            .map(|line| (format!("{} -> {}", line.stream, line.handler), line))
            .collect();
        let mut news = Vec::new();
        for (name, line) in &now {
            if !self.set_aside.contains(name) {
                let what = line
                    .result
                    .clone()
                    .unwrap_or_else(|| line.condition.word().to_owned());
                news.push((
                    Severity::Trouble,
                    name.clone(),
                    format!("set aside: {what}"),
                ));
            }
        }
        for name in &self.set_aside {
            if !now.contains_key(name) {
                news.push((Severity::Fine, name.clone(), "flows again".to_owned()));
            }
        }
        self.set_aside = now.into_keys().collect();
        news
    }
}

/// `lane 3`, or `lanes 0-3,6` where the same happened to several at once.
fn scope(mut lanes: Vec<u16>) -> String {
    lanes.sort_unstable();
    match lanes.as_slice() {
        [only] => format!("lane {only}"),
        several => format!("lanes {}", ranges(several)),
    }
}

impl LaneHistory {
    fn news(&mut self, lane: &Lane) -> Option<(Severity, String)> {
        let is_first = self.state.is_none();
        let has_moved = self.node != lane.node;
        let before = self.state.replace(lane.state);
        self.node.clone_from(&lane.node);
        if is_first {
            return None;
        }
        if before != Some(lane.state) {
            let by = lane.by.as_ref().filter(|_| lane.state != LaneState::Active);
            let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
            let reason = lane.reason.as_ref().map(|reason| format!(" \"{reason}\""));
            let kept = match lane.state {
                LaneState::Drained => ", later events are kept until resume",
                _ => "",
            };
            let (state, reason) = (lane.state.word(), reason.unwrap_or_default());
            let what = format!("{state}{by}{reason}{kept}");
            let severity = match lane.state {
                LaneState::NoOwner => Severity::Trouble,
                LaneState::Active => Severity::Fine,
                _ => Severity::Unusual,
            };
            let what = match lane.node.as_ref().filter(|_| has_moved) {
                Some(node) if lane.state == LaneState::Active => format!("{what}, taken by {node}"),
                _ => what,
            };
            return Some((severity, what));
        }
        let node = lane.node.as_ref().filter(|_| has_moved)?;
        Some((Severity::Fine, format!("taken by {node}")))
    }
}

/// True if a FLOW in milliseconds counts as late.
pub fn is_over(flow_ms: u64, thresholds: Thresholds) -> bool {
    Duration::from_millis(flow_ms) > thresholds.warn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_that_are_stopped_in_one_act_are_one_line_of_the_log() {
        let lane = |index: u16, state| Lane {
            state,
            by: Some("ana".to_owned()),
            ..crate::admin::lanes::idle(&format!("default-1-{index}").parse().unwrap())
        };
        let mut space = NamespaceState::default();
        let mut news = |states: [LaneState; 4]| {
            let lanes = (0..).zip(states);
            let mut lanes: Vec<_> = lanes.map(|(index, state)| lane(index, state)).collect();
            space.note_lanes(&mut lanes, &[], true, Thresholds::default(), 1)
        };
        use LaneState::{Active, Draining, Paused};
        assert_eq!(news([Active; 4]), []);
        let told = news([Paused, Paused, Draining, Paused]);
        let told: Vec<_> = told
            .iter()
            .map(|(_, scope, what)| format!("{scope}  {what}"))
            .collect();
        assert_eq!(
            told,
            ["lanes 0-1,3  paused by ana", "lane 2  draining by ana"]
        );
        let line = |scope: &str| api::LogLine {
            at: Default::default(),
            severity: Severity::Fine,
            scope: scope.to_owned(),
            what: String::new(),
        };
        let of = |scope: &str| {
            (0..12)
                .filter(|lane| line(scope).is_of_lane(*lane))
                .collect::<Vec<_>>()
        };
        assert_eq!(of("lanes 0-1,3"), [0, 1, 3]);
        assert_eq!(of("lane 11"), [11]);
        assert_eq!(of("lanes/3 -> reduce"), [0; 0]);
    }
}
