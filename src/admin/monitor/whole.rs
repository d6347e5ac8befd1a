//! What all nodes tell, merged: the same on each of them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::lines::{is_same, pause};
use super::survey::Own;
use super::{FLOWING_MAX, SET_ASIDE_MAX, past};
use crate::admin::figures::{counts, gather};
use crate::admin::report::NodeReport;
use crate::admin::{lanes, verdict};
use crate::api::{self, Lane, LaneState};
use crate::domain::cursor::CursorId;
use crate::domain::lane::{LaneId, LaneSet};
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;
use crate::engine::membership::LEASE;
use crate::engine::ownership::View;
use crate::engine::{self, Waits, catalog};

/// A node whose beat has not changed for so long, three beats, has lost its lanes as far as people are told.
const SILENT: Duration = Duration::from_secs(9);

/// A node whose beat has not changed for so long, a beat and a half, is said to be silent.
const QUIET: Duration = Duration::from_secs(5);

/// A node whose beat has not changed for so long may know less of its lanes than the database.
const UNHEARD: Duration = Duration::from_secs(2);

/// This process, at the time of the look.
pub struct Here {
    pub node: String,
    pub began: Timestamp,
    /// Its id among the nodes, if there may be several.
    pub member: Option<String>,
    /// Its storage, without the figures that are learned over time.
    pub storage: api::Storage,
    /// Streams that keep events past their time: of which namespace, and in words.
    pub overdue: Vec<(Name, String)>,
    /// Handlers that are too slow for its lanes.
    pub beside: Vec<i64>,
}

/// Everything that one look at the whole has found.
pub struct Whole<'w> {
    pub here: &'w Here,
    pub catalog: &'w catalog::Snapshot,
    pub view: &'w View,
    pub silences: &'w HashMap<String, Duration>,
    pub own: &'w [Own],
    pub names: &'w HashMap<CursorId, api::CursorLine>,
    /// What the other nodes tell, by their names.
    pub reports: Vec<(String, NodeReport)>,
    /// What is under way, by namespace.
    pub operations: HashMap<Name, Vec<api::Operation>>,
    pub now: Timestamp,
}

impl Whole<'_> {
    pub fn is_silent(&self, node: &str) -> bool {
        self.silences
            .get(node)
            .is_some_and(|silent| *silent >= SILENT)
    }

    pub fn reports(&self) -> impl Iterator<Item = &NodeReport> {
        self.reports.iter().map(|(_, report)| report)
    }

    /// The names of nodes whose beat has not changed for this long, and for how long.
    pub fn silent_for(&self, least: Duration) -> impl Iterator<Item = (&String, Duration)> {
        let nodes = self.view.nodes.iter();
        let silent = nodes.filter_map(|node| Some((&node.name, *self.silences.get(&node.id)?)));
        silent.filter(move |(_, silent)| *silent >= least)
    }

    pub fn silent(&self) -> Vec<verdict::Silent> {
        let silent = self.silent_for(QUIET);
        let silent = silent.map(|(node, silent)| verdict::Silent {
            node: node.clone(),
            silent,
            left: LEASE.saturating_sub(silent),
        });
        silent.collect()
    }

    pub fn unheard(&self) -> HashSet<&String> {
        self.silent_for(UNHEARD).map(|(node, _)| node).collect()
    }

    /// Nodes that beat, and so take over what others leave.
    pub fn heirs(&self) -> Vec<String> {
        let is_quiet = |id| self.silences.get(id).is_some_and(|silent| *silent >= QUIET);
        let nodes = self.view.nodes.iter();
        let heirs = nodes.filter(|node| !is_quiet(&node.id) && !node.is_leaving());
        heirs.map(|node| node.name.clone()).collect()
    }

    /// True if a node lives that takes over the lanes of others.
    pub fn has_heir(&self) -> bool {
        let nodes = &self.view.nodes;
        nodes.iter().any(|node| !self.is_silent(&node.id))
    }

    /// What is wrong with Redis: what this node sees, else what another one does.
    pub fn failing_hints(&self, storage: &api::Storage) -> Option<api::Outage> {
        let own = storage.hints.iter();
        let told = self.reports().filter_map(|report| report.hints.as_ref());
        own.chain(told).min_by_key(|outage| outage.since).cloned()
    }

    pub fn troubles(&self, storage: &api::Storage) -> Vec<(&'static str, String)> {
        let storage_error = storage.error.iter().map(|why| ("storage", why.clone()));
        let hints = self.failing_hints(storage);
        let hints = hints.into_iter().map(|outage| ("hints", outage.why));
        storage_error.chain(hints).collect()
    }

    /// How long commits take on each node, and what is normal there: the same list on all of them.
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

    /// Handlers of a namespace that are too slow for the lanes of some node, by name.
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

    /// Since when other nodes that beat have had their findings about a namespace.
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

    /// Streams of a namespace that keep events past their time, on whichever node.
    pub fn overdue(&self, namespace: &Name) -> Vec<String> {
        let told = self.reports().flat_map(|report| &report.overdue);
        let all = self.here.overdue.iter().chain(told);
        let of_space = all.filter(|(space, _)| space == namespace);
        of_space.map(|(_, told)| told.clone()).collect()
    }

    /// The lanes of a set, wherever they run; while it is resized, those of the older one that are not
    /// sealed before them.
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
        let is_aside = |line: &api::CursorLine| matches!(&*line.condition, "waiting" | "held");
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
        let turn = |own: &Own| {
            let (ran, cursor) = own.turn?;
            let name = self.names.get(&cursor);
            let name = name.map(|line| format!("{} -> {}", line.stream, line.handler));
            Some((own.id.clone(), name.unwrap_or_default(), ran))
        };
        let told = self.reports().flat_map(|report| &report.turns);
        let told = told.filter_map(|(lane, cursor, ms)| {
            Some((
                lane.parse().ok()?,
                cursor.clone(),
                Duration::from_millis(*ms),
            ))
        });
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
        let told = told.filter_map(|(lane, stream, events)| {
            Some((lane.parse().ok()?, stream.clone(), *events))
        });
        let told = told.filter(|(lane, ..): &(LaneId, _, _)| lane.namespace == *namespace);
        largest.chain(told).collect()
    }

    /// What was finished since the nodes began, and what waits now.
    pub fn waits(&self, namespace: &Name) -> past::Counted {
        let mut counted = past::Counted::default();
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

    /// How long events waited, and how long they were worked on, wherever: one distribution each.
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
