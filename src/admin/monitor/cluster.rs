//! Merges the reports of all nodes; the result is the same on each node.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::lines::{is_same, pause};
use super::survey::OwnLane;
use super::{FLOWING_MAX, SET_ASIDE_MAX, past};
use crate::admin::figures::{counts, gather};
use crate::admin::report::NodeReport;
use crate::admin::verdict::{QUIET, UNHEARD};
use crate::admin::{lanes, verdict};
use crate::api::{self, Lane, LaneState};
use crate::domain::cursor::CursorId;
use crate::domain::lane::{LaneId, LaneSet};
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;
use crate::engine::membership::LEASE;
use crate::engine::ownership::View;
use crate::engine::{self, Waits, catalog};

/// Time without a heartbeat after which a node's lanes are shown without an owner.
const SILENT: Duration = Duration::from_secs(9);

/// This process.
pub struct ThisProcess {
    pub node: String,
    pub began: Timestamp,
    /// Its node id; `None` on SQLite.
    pub member: Option<String>,
    /// Its event storage, without baselines.
    pub storage: api::Storage,
    /// Streams that keep events past their retention: namespace and description.
    pub overdue: Vec<(Name, String)>,
    /// Handlers that are too slow for this node's lanes.
    pub beside: Vec<i64>,
    /// Free bytes on its disk, if it is nearly full.
    pub room: Option<u64>,
    /// Receivers of its alerts.
    pub receivers: Vec<api::AlertReceiver>,
}

/// Everything found in one round.
pub struct Observation<'w> {
    pub here: &'w ThisProcess,
    pub catalog: &'w catalog::Snapshot,
    pub view: &'w View,
    pub silences: &'w HashMap<String, Duration>,
    pub own: &'w [OwnLane],
    pub names: &'w HashMap<CursorId, api::CursorLine>,
    /// The reports of the other nodes, by name.
    pub reports: Vec<(String, NodeReport)>,
    /// Operations under way, by namespace.
    pub operations: HashMap<Name, Vec<api::Operation>>,
    pub now: Timestamp,
}

impl Observation<'_> {
    pub fn is_silent(&self, node: &str) -> bool {
        self.silences
            .get(node)
            .is_some_and(|silent| *silent >= SILENT)
    }

    pub fn reports(&self) -> impl Iterator<Item = &NodeReport> {
        self.reports.iter().map(|(_, report)| report)
    }

    /// Nodes that have had no heartbeat for at least `least`, with the time since the last one.
    pub fn silent_for(&self, least: Duration) -> impl Iterator<Item = (&String, Duration)> {
        let nodes = self.view.nodes.iter();
        let silent = nodes.filter_map(|node| Some((&node.name, *self.silences.get(&node.id)?)));
        silent.filter(move |(_, silent)| *silent >= least)
    }

    /// Nodes whose report may be too old, with the time since their last heartbeat.
    pub fn unheard(&self) -> Vec<verdict::Silent> {
        let silent = self.silent_for(UNHEARD);
        let silent = silent.map(|(node, silent)| verdict::Silent {
            node: node.clone(),
            silent,
            left: LEASE.saturating_sub(silent),
        });
        silent.collect()
    }

    /// Live nodes that can take over lanes.
    pub fn heirs(&self) -> Vec<String> {
        let is_quiet = |id| self.silences.get(id).is_some_and(|silent| *silent >= QUIET);
        let nodes = self.view.nodes.iter();
        let heirs = nodes.filter(|node| !is_quiet(&node.id) && !node.is_leaving());
        heirs.map(|node| node.name.clone()).collect()
    }

    /// True if a live node can take over lanes.
    pub fn has_heir(&self) -> bool {
        let nodes = &self.view.nodes;
        nodes.iter().any(|node| !self.is_silent(&node.id))
    }

    /// Failure of Redis: the earliest one that any node reports.
    pub fn failing_hints(&self, storage: &api::Storage) -> Option<api::Outage> {
        let own = storage.hints.iter();
        let told = self.reports().filter_map(|report| report.hints.as_ref());
        own.chain(told).min_by_key(|outage| outage.since).cloned()
    }

    pub fn troubles(&self, storage: &api::Storage) -> Vec<(&'static str, String)> {
        let storage_error = storage.error.iter().map(|why| ("storage", why.clone()));
        let hints = self.failing_hints(storage);
        let hints = hints.into_iter().map(|outage| ("hints", outage.why));
        let receivers = self.here.receivers.iter();
        let alerts = receivers.filter_map(|of| {
            let outage = of.failing.as_ref()?;
            Some(("alerts", format!("{}: {}", of.receiver, outage.why)))
        });
        storage_error.chain(hints).chain(alerts).collect()
    }

    /// Commit time and baseline of each node: the same list on every node.
    pub fn slow_commits(&self, own: &api::Storage) -> Vec<(Option<String>, f64, f64)> {
        let is_alone = self.view.nodes.len() < 2;
        let own = (&*self.here.node, own.commit_p99_ms, own.commit_normal_ms);
        let told = self.reports.iter();
        let told = told.map(|(node, told)| (&**node, told.commit_p99_ms, told.commit_normal_ms));
        let all = std::iter::once(own).chain(told);
        all.filter_map(|(node, p99, normal)| {
            Some(((!is_alone).then(|| node.to_owned()), p99?, normal?))
        })
        .collect()
    }

    /// Nodes whose disk is nearly full, with the free bytes there, by name.
    pub fn full(&self) -> Vec<(String, u64)> {
        let own = self.here.room.map(|room| (self.here.node.clone(), room));
        let told = self.reports.iter();
        let told = told.filter_map(|(node, report)| Some((node.clone(), report.room?)));
        let mut full: Vec<_> = own.into_iter().chain(told).collect();
        full.sort_unstable();
        full
    }

    /// Names of the handlers of a namespace that are too slow for the lanes of any node, sorted.
    pub fn beside(&self, namespace: &Name) -> Vec<String> {
        let told = self.reports().flat_map(|report| &report.beside);
        let slow: HashSet<_> = self.here.beside.iter().chain(told).collect();
        let hooks = self.catalog.hooks.values();
        let hooks = hooks.filter(|hook| hook.namespace == *namespace);
        let named = hooks.flat_map(|hook| hook.handlers.iter().map(move |of| (hook, of)));
        let named = named.filter(|(_, handler)| slow.contains(&handler.id.0));
        let named = named.map(|(hook, handler)| format!("{} -> {}", hook.name, handler.name));
        let mut named: Vec<_> = named.collect();
        named.sort_unstable();
        named
    }

    /// Findings of other live nodes about a namespace, each with the time since which it stands.
    pub fn findings(&self, namespace: &Name) -> Vec<(verdict::Finding, Timestamp)> {
        let quiet: HashSet<_> = self.silent_for(QUIET).map(|(node, _)| node).collect();
        let beat = self
            .reports
            .iter()
            .filter(|(node, _)| !quiet.contains(node));
        let told = beat.flat_map(|(_, report)| &report.since);
        let told = told.filter(|(space, ..)| space == namespace);
        told.map(|(_, rule, stream, since)| ((*rule, stream.clone()), *since))
            .collect()
    }

    /// Streams of a namespace that keep events past their retention, on any node.
    pub fn overdue(&self, namespace: &Name) -> Vec<String> {
        let told = self.reports().flat_map(|report| &report.overdue);
        let all = self.here.overdue.iter().chain(told);
        let of_space = all.filter(|(space, _)| space == namespace);
        of_space.map(|(_, told)| told.clone()).collect()
    }

    /// The lanes of a set, on any node. During a resize the unsealed lanes of the older set come first.
    pub fn lanes(&self, set: &LaneSet) -> Vec<Lane> {
        let reports = lanes::reports(self.view);
        let older = self.view.lanes.iter().map(|lane| lane.id.clone());
        let older =
            older.filter(|id| id.namespace == set.namespace && id.generation < set.generation);
        let shown = |id: LaneId| match self.own.iter().find(|own| own.id == id) {
            Some(own) => Lane {
                epoch: lanes::epoch(&id, self.view),
                ..own.lane.clone()
            },
            None => {
                let mut lane = lanes::elsewhere(&id, self.view, &reports);
                let row = self.view.lanes.iter().find(|row| row.id == id);
                let owner = row.and_then(|row| row.node.as_ref());
                if owner.is_some_and(|owner| self.is_silent(owner)) {
                    lane.state = LaneState::NoOwner;
                }
                lane
            }
        };
        older.chain(set.ids()).map(shown).collect()
    }

    pub fn cursors(&self, namespace: &Name, lanes: &[Lane]) -> Vec<api::CursorLine> {
        let own = self.own.iter().filter(|own| own.id.namespace == *namespace);
        let lines = own.flat_map(|own| &own.lines);
        let mut lines: Vec<_> = lines
            .filter_map(|line| self.names.get(&line.cursor).cloned())
            .collect();
        for node in &self.view.nodes {
            let told = NodeReport::read(&node.report).cursors.into_iter();
            let told = told.filter(|(space, line)| {
                space == namespace && !lines.iter().any(|known| is_same(known, line))
            });
            let told: Vec<_> = told.map(|(_, line)| line).collect();
            lines.extend(told);
        }
        pause(&mut lines, lanes);
        let is_aside = |line: &api::CursorLine| line.condition.is_set_aside();
        let (mut aside, mut rest): (Vec<_>, Vec<_>) = lines.into_iter().partition(is_aside);
        let by_age = |line: &api::CursorLine| std::cmp::Reverse(line.oldest_ms);
        aside.sort_by_key(by_age);
        rest.sort_by_key(by_age);
        aside.truncate(SET_ASIDE_MAX);
        aside.extend(rest.into_iter().take(FLOWING_MAX));
        aside
    }

    pub fn turns(&self, namespace: &Name) -> Vec<(LaneId, String, Duration)> {
        let own = self.own.iter().filter(|own| own.id.namespace == *namespace);
        let turn = |own: &OwnLane| {
            let (ran, cursor) = own.turn?;
            let name = self.names.get(&cursor);
            let name = name.map(|line| format!("{} -> {}", line.stream, line.handler));
            Some((own.id.clone(), name.unwrap_or_default(), ran))
        };
        let told = self.reports().flat_map(|report| &report.turns);
        let told = told
            .map(|(lane, cursor, ms)| (lane.clone(), cursor.clone(), Duration::from_millis(*ms)));
        let told = told.filter(|(lane, ..): &(LaneId, _, _)| lane.namespace == *namespace);
        own.filter_map(turn).chain(told).collect()
    }

    pub fn largest(&self, namespace: &Name) -> Vec<(LaneId, StreamName, u64)> {
        let own = self.own.iter().filter(|own| own.id.namespace == *namespace);
        let largest = own.filter_map(|own| {
            let (cursor, events) = own.largest?;
            Some((
                own.id.clone(),
                self.names.get(&cursor)?.stream.clone(),
                events,
            ))
        });
        let told = self.reports().flat_map(|report| &report.largest);
        let told = told.map(|(lane, stream, events)| (lane.clone(), stream.clone(), *events));
        let told = told.filter(|(lane, ..): &(LaneId, _, _)| lane.namespace == *namespace);
        largest.chain(told).collect()
    }

    /// Events applied since the nodes started, and events that wait now.
    pub fn waits(&self, namespace: &Name) -> past::WaitCounts {
        let mut counted = past::WaitCounts::default();
        for own in self.own.iter().filter(|own| own.id.namespace == *namespace) {
            past::add(&mut counted.finished, own.reading.waits);
            past::add(&mut counted.waiting, own.reading.waiting);
        }
        for report in self.reports() {
            let of_space = |waits: &HashMap<Name, Waits>| waits.get(namespace).copied();
            past::add(
                &mut counted.finished,
                of_space(&report.waits).unwrap_or_default(),
            );
            past::add(
                &mut counted.waiting,
                of_space(&report.waiting).unwrap_or_default(),
            );
        }
        counted
    }

    /// Distributions of waiting time and working time over all nodes.
    pub fn times(
        &self,
        namespace: &Name,
        oldest_ms: Option<u64>,
    ) -> (Option<api::Percentiles>, Option<api::Percentiles>) {
        let (mut wait, mut work) = (engine::times::<u64>(), engine::times::<u64>());
        for own in self.own.iter().filter(|own| own.id.namespace == *namespace) {
            gather(&mut wait, counts(&own.reading.wait));
            gather(&mut work, counts(&own.reading.work));
        }
        for report in self.reports() {
            gather(
                &mut wait,
                report.wait.get(namespace).into_iter().flatten().copied(),
            );
            gather(
                &mut work,
                report.work.get(namespace).into_iter().flatten().copied(),
            );
        }
        (
            lanes::percentiles(&wait, oldest_ms),
            lanes::percentiles(&work, None),
        )
    }
}
