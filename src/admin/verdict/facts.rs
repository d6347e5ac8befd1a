//! The facts that verdicts are made from.

use std::time::Duration;

use super::words::{hook_of, is_set_aside, over};
use crate::api::{Condition, CursorLine, Lane, Outage, Storage};
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::domain::thresholds::Thresholds;
use crate::domain::time::Timestamp;

/// Time without a heartbeat, one beat, after which the work in a node's lanes is counted in the database,
/// because its report may be too old.
pub const UNHEARD: Duration = Duration::from_secs(1);

/// Time within which the heartbeat of a healthy node is seen. A longer silence is named beside the work that
/// waits for the node.
pub const MISSED: Duration = Duration::from_millis(1_500);

/// Time without a heartbeat, two beats, after which a node is reported as silent. It may still be only slow.
pub const QUIET: Duration = Duration::from_secs(2);

/// A reducer that takes longer than this for an event is named when events wait, normal or not.
pub(super) const FOLD_SLOW: f64 = 0.005;

/// A lane that takes turns for a larger share of the time is busy.
const BUSY: f64 = 0.9;

/// The facts about one namespace, gathered at one moment.
#[derive(Default)]
pub struct Facts<'f> {
    /// The moment at which they were gathered.
    pub at: Timestamp,
    /// Waits from which the namespace counts as late.
    pub thresholds: Thresholds,
    /// The lanes of the namespace.
    pub lanes: &'f [Lane],
    /// Its cursors with work, those set aside first.
    pub cursors: &'f [CursorLine],
    /// The namespace that the verdict is about; none: the default one.
    pub namespace: Option<Name>,
    /// Nodes whose last heartbeat is older than one beat.
    pub unheard: &'f [Silent],
    /// True if the work in the lanes of those nodes is not counted, because there are too many streams. Then
    /// the lanes have the figures of the last report.
    pub uncounted: bool,
    /// Names of the live nodes, which take over the lanes of silent ones.
    pub heirs: &'f [String],
    /// Outage of Redis; `None` while it answers.
    pub hints: Option<Outage>,
    /// Figures of the storage.
    pub storage: Storage,
    /// Of each node of a cluster: its name, the p99 of its commits and the usual one, in milliseconds.
    pub commits: &'f [(Option<String>, f64, f64)],
    /// Turns that run: the lane, the cursor, and for how long.
    pub turns: &'f [(LaneId, String, Duration)],
    /// Hooks with what they get a second, and what is normal.
    pub hooks: &'f [(Name, f64, f64)],
    /// Handlers, such as `orders -> reduce`, with the time they take for an event in seconds, and what is normal
    /// where that is known.
    pub handlers: &'f [(String, f64, Option<f64>)],
    /// Hooks that operators have paused, and who, when and why.
    pub paused: &'f [(Name, String)],
    /// Handlers, such as `orders -> reduce`, that are too slow for the lanes: each takes one turn at a time on each
    /// node.
    pub beside: &'f [String],
    /// Hooks that a node has stopped because their events do not end: with which, and since when.
    pub stuck: &'f [(Name, String, Timestamp)],
    /// Streams that keep events past their time, in words, a line a hook.
    pub overdue: &'f [String],
    /// The stream with most to go among those that flow in each lane: the lane's place, and how much.
    pub largest: &'f [(LaneId, StreamName, u64)],
    /// The least number of lanes that no stream would keep busy, were what waits laid on them.
    pub lanes_that_help: Option<u16>,
    /// Acknowledged events that a failover has lost and that no operator knows of.
    pub lost: u64,
    /// Nodes whose disk is nearly full, and the free bytes there.
    pub full: &'f [(String, u64)],
}

/// A node that has not been heard for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent {
    /// Name of the node.
    pub node: String,
    /// Time since it was last heard.
    pub silent: Duration,
    /// Time until others may take its lanes.
    pub left: Duration,
}

impl Facts<'_> {
    /// The node that has been silent for longest, if any has missed two heartbeats.
    pub(super) fn most_silent(&self) -> Option<&Silent> {
        let longest = self.unheard.iter().max_by_key(|node| node.silent);
        longest.filter(|node| node.silent >= QUIET)
    }

    /// The node that owns the lane, if its last heartbeat is at least `least` old.
    pub(super) fn unheard_owner(&self, lane: &Lane, least: Duration) -> Option<&Silent> {
        let owner = |node: &&Silent| lane.node.as_ref() == Some(&node.node);
        let owner = self.unheard.iter().find(owner);
        owner.filter(|node| node.silent >= least)
    }

    pub(super) fn namespace(&self) -> Name {
        let named = self.namespace.clone();
        named.unwrap_or_else(Name::default_namespace)
    }

    /// The slowest reducer and its time for an event, in seconds, where that is long.
    pub(super) fn slowest(&self) -> Option<(&str, f64)> {
        let handlers = self.handlers.iter().map(|(name, now, _)| (&**name, *now));
        let slow = handlers.filter(|(_, now)| *now > FOLD_SLOW);
        slow.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    pub(super) fn flow(&self) -> Option<Duration> {
        let running = self.lanes.iter().filter(|lane| !lane.is_stopped());
        running
            .filter_map(|lane| lane.flow_ms)
            .max()
            .map(Duration::from_millis)
    }

    /// True if an event that may flow has waited for too long.
    pub fn is_late(&self) -> bool {
        self.flow().is_some_and(|flow| flow > self.thresholds.warn)
    }

    pub(super) fn busy(&self) -> Vec<&Lane> {
        let busy = |lane: &&Lane| lane.busy.is_some_and(|share| share > BUSY);
        self.lanes.iter().filter(busy).collect()
    }

    pub(super) fn flowing(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.backlog_flowing).sum()
    }

    pub(super) fn is_late_lane(&self, lane: &Lane) -> bool {
        !lane.is_stopped() && lane.flow_ms.is_some_and(over(self.thresholds.warn))
    }

    /// Busy lanes in which turns wait behind other cursors. However short a round is there: what waits in such a
    /// lane gets only its share of it.
    pub(super) fn crowded(&self) -> Vec<&Lane> {
        let waits = |lane: &&Lane| lane.turn_wait_ms.is_some_and(|ms| ms > 0);
        self.busy().into_iter().filter(waits).collect()
    }

    /// Number of events that wait for the known cursors of a hook.
    pub(super) fn behind(&self, hook: &Name) -> u64 {
        let of_hook = self.cursors.iter().filter(|c| c.stream.hook == *hook);
        of_hook.map(|cursor| cursor.behind).sum()
    }

    pub(super) fn backlog(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.backlog).sum()
    }

    /// A handler beside the lanes that has work, if any; of this hook, where one is given.
    pub(super) fn beside(&self, hook: Option<&Name>) -> Option<&str> {
        let has_work = |name: &&String| {
            let mut flowing = self
                .cursors
                .iter()
                .filter(|c| c.condition == Condition::Flowing);
            flowing.any(|c| **name == format!("{} -> {}", c.stream.hook, c.handler))
        };
        let is_meant = |name: &&String| hook.is_none() || hook_of(name).as_ref() == hook;
        let mut beside = self.beside.iter().filter(is_meant).filter(has_work);
        beside.next().map(String::as_str)
    }

    /// Number of cursors that are set aside; `None` if all of them are known by name.
    pub(super) fn set_aside_beyond_named(&self) -> Option<u64> {
        let all = self.lanes.iter().map(|lane| lane.set_aside).sum();
        let named = self.cursors.iter().filter(|c| is_set_aside(c)).count() as u64;
        (all > named).then_some(all)
    }

    /// Events that wait for cursors that are set aside.
    pub(super) fn events_set_aside(&self) -> u64 {
        let flows = |lane: &Lane| lane.backlog_flowing + lane.kept;
        let aside = |lane: &Lane| lane.backlog.saturating_sub(flows(lane));
        self.lanes.iter().map(aside).sum()
    }
}
