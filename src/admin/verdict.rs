//! Verdicts: what is wrong, who causes it, what it delays, and if more lanes help. Only this file makes
//! verdicts, so that `status`, the dashboard and alerts say the same. It uses no clock and no I/O.

mod facts;
mod house;
mod lateness;
mod stops;
#[cfg(test)]
mod tests;
mod words;

use std::collections::HashMap;
use std::time::Duration;

use super::eta;
use crate::api::{Class, Condition, CursorLine, Lane, LaneState, Rule, Severity, Verdict};
use crate::domain::name::StreamName;
use crate::domain::thresholds::Thresholds;
use crate::domain::time::Timestamp;
use crate::text::{counted, duration, printable_line};
pub use facts::{Facts, MISSED, QUIET, Silent, UNHEARD};
pub(super) use house::storage;
use house::{disks, hangs, hints, lost, no_owner};
use lateness::{flood, late, one_stream, slow_code, too_few_lanes};
use stops::{held_on_purpose, on_purpose, overdue, paused_hooks, set_aside, stuck_hooks};
use words::{WAITS_LONG, is_by_hand, millis, over, percent, verdict};

/// All verdicts, worst first; at least one.
pub fn verdicts(facts: &Facts<'_>) -> Vec<Verdict> {
    let mut all = Vec::new();
    all.extend(no_owner(facts));
    all.extend(lost(facts));
    all.extend(storage(facts));
    all.extend(disks(facts));
    all.extend(hints(facts));
    all.extend(hangs(facts));
    all.extend(flood(facts));
    all.extend(slow_code(facts));
    all.extend(one_stream(facts));
    all.extend(too_few_lanes(facts));
    if all.is_empty() {
        all.extend(late(facts));
    }
    all.extend(stuck_hooks(facts));
    all.extend(set_aside(facts));
    all.extend(on_purpose(facts));
    all.extend(paused_hooks(facts));
    all.extend(held_on_purpose(facts));
    all.extend(overdue(facts));
    all.sort_by_key(|verdict| (verdict.rule, std::cmp::Reverse(verdict.events)));
    if all.is_empty() {
        all.push(well(facts));
    }
    all
}

/// Times since which findings stand, for those without another source. Each node tells the others, and
/// the earliest time counts.
#[derive(Default)]
pub struct Since(HashMap<Finding, Timestamp>);

/// A finding, by its rule and the stream that it is about.
pub type Finding = (Rule, Option<StreamName>);

impl Since {
    /// The findings of this node, for its report to the others.
    pub fn told(&self) -> impl Iterator<Item = (&Finding, Timestamp)> {
        self.0.iter().map(|(finding, since)| (finding, *since))
    }

    /// Adds to each verdict the time since which it stands without a break, also in its text. `others`
    /// are the findings of other nodes.
    pub fn date(
        &mut self,
        verdicts: &mut [Verdict],
        others: &[(Finding, Timestamp)],
        now: Timestamp,
    ) {
        let before = std::mem::take(&mut self.0);
        let is_trouble = |verdict: &&mut Verdict| !verdict.class.is_well();
        let undated = verdicts.iter_mut().filter(is_trouble);
        for verdict in undated.filter(|verdict| verdict.since.is_none()) {
            let finding = (verdict.rule, verdict.stream.clone());
            let of_others = others.iter().filter(|(of, _)| *of == finding);
            let known = of_others.map(|(_, since)| *since);
            let known = known.chain(before.get(&finding).copied()).min();
            let since = known.unwrap_or(now).min(now);
            self.0.insert(finding, since);
            verdict.since = Some(since);
            verdict.text += &format!(", since {}", since.clock_at(now));
        }
    }
}

/// Severity of a lane; `flow_ms` is its FLOW once a second, oldest first.
pub fn severity(
    lane: &Lane,
    cursors: &[CursorLine],
    flow_ms: &[u64],
    thresholds: Thresholds,
) -> Severity {
    let of_lane = |cursor: &&CursorLine| cursor.is_in(lane);
    let held_by_hand = cursors.iter().filter(of_lane).filter(|c| is_by_hand(c));
    let held_by_hand = held_by_hand.count() as u64;
    let is_bad = |cursor: &CursorLine| match cursor.condition {
        Condition::Held => !is_by_hand(cursor),
        Condition::Waiting => cursor.oldest_ms.is_some_and(over(WAITS_LONG)),
        _ => false,
    };
    let is_running = !lane.is_stopped();
    let rises = eta::slope(flow_ms).is_some_and(|slope| slope >= 0.95);
    if lane.state == LaneState::NoOwner
        || lane.held > held_by_hand
        || cursors.iter().filter(of_lane).any(is_bad)
        || is_running && (lane.flow_ms.is_some_and(over(thresholds.crit)) || rises)
    {
        Severity::Trouble
    } else if !is_running
        || lane.state == LaneState::Draining
        || lane.waiting + lane.held > 0
        || lane.flow_ms.is_some_and(over(thresholds.warn))
    {
        Severity::Unusual
    } else {
        Severity::Fine
    }
}

fn well(facts: &Facts<'_>) -> Verdict {
    let oldest = facts.lanes.iter().filter_map(|lane| lane.oldest_ms).max();
    let backlog = facts.backlog();
    let oldest = match oldest {
        Some(ms) => format!("oldest {}", duration(Duration::from_millis(ms))),
        None if backlog > 0 => counted(backlog, "event waits", "events wait"),
        None => "nothing waits".to_owned(),
    };
    let busiest = facts.lanes.iter().filter_map(|lane| lane.busy);
    let busiest = percent(busiest.fold(0.0, f64::max));
    let commit = facts.storage.commit_p99_ms;
    let commit = commit.map_or_else(String::new, |ms| format!(", commit {}", millis(ms)));
    let unheard = unheard(facts);
    Verdict {
        severity: Severity::Fine,
        more: None,
        ..verdict(
            Rule::Well,
            Class::Ok,
            format!("{oldest}, busiest lane {busiest}{commit}, nothing set aside{unheard}"),
            String::new(),
        )
    }
}

/// Names the node with work in its lanes that has been silent for longest, if its heartbeat is late. Its lanes
/// may stand still, and nobody knows it yet.
fn unheard(facts: &Facts<'_>) -> String {
    let has_work = |lane: &&Lane| lane.backlog > 0 || facts.uncounted;
    let lanes = facts.lanes.iter().filter(has_work);
    let owners = lanes.filter_map(|lane| facts.unheard_owner(lane, MISSED));
    let longest = owners.max_by_key(|node| node.silent);
    longest.map_or_else(String::new, |Silent { node, silent, .. }| {
        let (node, silent) = (printable_line(node), duration(*silent));
        format!(", node {node} silent for {silent}")
    })
}
