//! Composes the snapshot of a namespace from gathered, merged and remembered figures.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::cluster::Observation;
use super::own_report::SLOW_FOLD;
use super::seen::{LOG_SHOWN, MonitorState, note_nodes};
use super::space::{FLOWS_KEPT, Help, is_over};
use crate::admin::figures::{hundredths, keep, mean, millis, ranges};
use crate::admin::report::NodeReport;
use crate::admin::{eta, lanes, stops, verdict};
use crate::api::{self, Lane};
use crate::domain::hook::HookId;
use crate::domain::lane::{LaneSet, Slot};
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::engine::catalog;
use crate::store;

/// Number of hooks shown.
const HOOKS_SHOWN: usize = 20;

/// Findings about one namespace in this round.
pub struct Findings<'l> {
    pub set: &'l LaneSet,
    pub lanes: Vec<Lane>,
    pub cursors: Vec<api::CursorLine>,
    /// Numbers of streams, if they were counted in this round.
    pub counts: Option<store::NamespaceCounts>,
    /// True if the work in the lanes of silent nodes was not counted.
    pub uncounted: bool,
}

/// Composes a snapshot, and updates `seen` for the next round.
pub fn compose(
    seen: &mut MonitorState,
    look: Findings<'_>,
    whole: &Observation<'_>,
) -> api::Snapshot {
    let Findings {
        set,
        mut lanes,
        cursors,
        counts,
        uncounted,
    } = look;
    let now = whole.now;
    let ticks = seen.ticks;
    let mut space = seen.spaces.remove(&set.namespace).unwrap_or_default();
    space.counts = counts.or(space.counts);
    let counts = space.counts.clone().unwrap_or_default();
    let thresholds = whole.catalog.thresholds(&set.namespace);
    let mut news = space.note_lanes(&mut lanes, &cursors, whole.has_heir(), thresholds, ticks);
    let mut total = total(&lanes);
    (total.wait_ms, total.work_ms) = whole.times(&set.namespace, total.oldest_ms);
    total.dead = counts.dead;
    total.backlog_per_s = space.past.backlog_per_s(total.backlog, now);
    let waits = whole.waits(&set.namespace);
    space.past.note(&total, waits, now);
    keep(&mut space.flow, total.flow_ms.unwrap_or(0), FLOWS_KEPT);
    if !is_over(total.flow_ms.unwrap_or(0), thresholds) {
        space.help = Help::default();
    }
    news.extend(space.note_set_aside(&cursors));
    news.extend(note_nodes(&mut seen.nodes, whole.view));
    lanes::hide_flow_of_stopped(&mut lanes);
    let storage = storage(seen, whole);
    let (hooks, paces) = hook_lines(seen, set, whole, &counts);
    let handlers = handler_paces(seen, set, whole);
    let turns = whole.turns(&set.namespace);
    let operations = whole.operations.get(&set.namespace);
    let operations = operations.cloned().unwrap_or_default();
    news.extend(space.note_operations(&operations));
    seen.note_troubles(whole.troubles(&storage), now);
    let commits = whole.slow_commits(&storage);
    let unheard = whole.unheard();
    let largest = whole.largest(&set.namespace);
    let paused = paused_hooks(set, whole.catalog, now);
    let stuck = stuck_hooks(set, whole.catalog, now);
    let beside = whole.beside(&set.namespace);
    let overdue = whole.overdue(&set.namespace);
    let full = whole.full();
    let mut verdicts = verdict::verdicts(&verdict::Facts {
        at: now,
        namespace: Some(set.namespace.clone()),
        thresholds,
        lanes: &lanes,
        cursors: &cursors,
        unheard: &unheard,
        uncounted,
        heirs: &whole.heirs(),
        storage: storage.clone(),
        commits: &commits,
        hints: whole.failing_hints(&storage),
        turns: &turns,
        hooks: &paces,
        handlers: &handlers,
        beside: &beside,
        paused: &paused,
        stuck: &stuck,
        overdue: &overdue,
        largest: &largest,
        lanes_that_help: space.help.lanes,
        lost: seen.lost,
        full: &full,
    });
    let others = whole.findings(&set.namespace);
    space.since.date(&mut verdicts, &others, now);
    for (severity, scope, what) in news {
        seen.add_log(api::LogLine {
            at: now,
            severity,
            scope,
            what,
        });
    }
    let snapshot = api::Snapshot {
        schema: 1,
        seq: ticks,
        at: now,
        started_at: whole.here.began,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: whole.here.node.clone(),
        viewer: api::Viewer {
            name: String::new(),
            may_act: false,
        },
        namespace: set.namespace.clone(),
        generation: set.generation,
        hooks_count: counts.hooks.len() as u64,
        streams_count: counts.streams(),
        warn_ms: millis(thresholds.warn),
        crit_ms: millis(thresholds.crit),
        verdicts,
        operations,
        old_since: None,
        receivers: whole.here.receivers.clone(),
        total,
        storage,
        lanes,
        cursors,
        nodes: nodes(seen, &set.namespace, whole),
        namespaces: Vec::new(),
        hooks,
        history: Vec::new(),
        log: seen.log.iter().take(LOG_SHOWN).cloned().collect(),
    };
    seen.spaces.insert(set.namespace.clone(), space);
    let namespaces = namespace_lines(seen, &snapshot, whole.catalog);
    api::Snapshot {
        namespaces,
        ..snapshot
    }
}

/// Event storage of this node, with the rate of accepted events of all nodes.
fn storage(seen: &MonitorState, whole: &Observation<'_>) -> api::Storage {
    let told = whole.reports().map(|report| report.accepted_per_s);
    let restored = seen.restored.flatten();
    let restored = restored.filter(|restored| restored.is_new(whole.now));
    api::Storage {
        restored: restored.map(|restored| api::Restored {
            taken_at: restored.taken_at,
            at: restored.at,
        }),
        accepted_per_s: hundredths(seen.accepted_per_s()) + told.sum::<f64>(),
        commit_normal_ms: seen.commit.value().map(hundredths),
        ..whole.here.storage.clone()
    }
}

fn nodes(seen: &MonitorState, namespace: &Name, whole: &Observation<'_>) -> Vec<api::NodeLine> {
    let (now, here) = (whole.now, whole.here);
    let Some(me) = &here.member else {
        let own = whole
            .own
            .iter()
            .filter(|own| own.id.namespace == *namespace);
        let indexes: Vec<_> = own.clone().map(|own| own.id.index).collect();
        return vec![api::NodeLine {
            node: here.node.clone(),
            lanes: whole.own.len() as u64,
            lanes_here: indexes.len() as u64,
            owns: ranges(&indexes),
            busy: mean(own.filter_map(|own| own.lane.busy)),
            cpu: Some(hundredths(seen.cpu.2)),
            commit_p99_ms: here.storage.commit_p99_ms,
            fsync_p99_ms: here.storage.fsync_p99_ms,
            beat_ms: None,
            up_ms: Some(millis(now.since(here.began))),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            leaving: false,
        }];
    };
    let line = |node: &crate::store::NodeRow| {
        let report = NodeReport::read(&node.report);
        let mine = whole.view.lanes.iter();
        let mine = mine.filter(|lane| lane.node.as_ref() == Some(&node.id));
        let of_space = mine.clone().filter(|lane| lane.id.namespace == *namespace);
        let indexes: Vec<_> = of_space.map(|lane| lane.id.index).collect();
        let is_of_space = |lane: &&Lane| lane.id.namespace == *namespace;
        api::NodeLine {
            node: node.name.clone(),
            lanes: mine.count() as u64,
            lanes_here: indexes.len() as u64,
            owns: ranges(&indexes),
            busy: mean(
                report
                    .lanes
                    .iter()
                    .filter(is_of_space)
                    .filter_map(|l| l.busy),
            ),
            cpu: report.cpu,
            commit_p99_ms: report.commit_p99_ms,
            fsync_p99_ms: report.fsync_p99_ms,
            beat_ms: match node.id == *me {
                true => Some(0),
                false => whole.silences.get(&node.id).map(|silent| millis(*silent)),
            },
            up_ms: Some(millis(now.since(node.started_at))),
            version: report.version,
            leaving: node.is_leaving(),
        }
    };
    let mut lines: Vec<_> = whole.view.nodes.iter().map(line).collect();
    lines.sort_by(|a, b| a.node.cmp(&b.node));
    lines
}

fn total(lanes: &[Lane]) -> api::Total {
    let sum = |of: fn(&Lane) -> u64| lanes.iter().map(of).sum();
    let rate = |of: fn(&Lane) -> Option<f64>| hundredths(lanes.iter().filter_map(of).sum());
    let is_running = |lane: &&Lane| !lane.is_stopped();
    let etas = lanes.iter().map(|lane| (lane.eta, lane.eta_ms));
    let (eta, eta_ms) = match eta::worst(etas) {
        (None, None)
            if lanes
                .iter()
                .any(|lane| lane.is_stopped() && lane.backlog > 0) =>
        {
            (Some(api::Eta::Resume), None)
        }
        worst => worst,
    };
    let busiest = lanes.iter().filter_map(|lane| lane.busy);
    api::Total {
        oldest_ms: lanes.iter().filter_map(|lane| lane.oldest_ms).max(),
        flow_ms: lanes
            .iter()
            .filter(is_running)
            .filter_map(|lane| lane.flow_ms)
            .max(),
        set_aside: sum(|lane| lane.set_aside),
        waiting: sum(|lane| lane.waiting),
        held: sum(|lane| lane.held),
        backlog: sum(|lane| lane.backlog),
        backlog_per_s: 0.0,
        in_per_s: rate(|lane| lane.in_per_s),
        out_per_s: rate(|lane| lane.out_per_s),
        eta,
        eta_ms,
        wait_ms: None,
        work_ms: None,
        dead: 0,
        failures: sum(|lane| lane.failures),
        cursors: sum(|lane| lane.cursors),
        busiest: busiest.max_by(f64::total_cmp),
    }
}

/// Paused hooks of a namespace, each with who paused it, when and why.
fn paused_hooks(set: &LaneSet, catalog: &catalog::Snapshot, now: Timestamp) -> Vec<(Name, String)> {
    let told = |(id, stop): (&HookId, &store::HookStop)| {
        let hook = catalog.hooks_by_id.get(id)?;
        let is_here = hook.namespace == set.namespace && stop.stuck().is_none();
        let told = stops::told(&hook.name, stop, now).filter(|_| is_here)?;
        Some((hook.name.clone(), told))
    };
    let mut paused: Vec<_> = catalog.stops.hooks.iter().filter_map(told).collect();
    paused.sort_unstable();
    paused
}

/// Hooks of a namespace that a node has stopped, each with its name, the event that did not end, and the time.
fn stuck_hooks(
    set: &LaneSet,
    catalog: &catalog::Snapshot,
    now: Timestamp,
) -> Vec<(Name, String, Timestamp)> {
    let told = |(id, stop): (&HookId, &store::HookStop)| {
        let hook = catalog.hooks_by_id.get(id)?;
        let why = stop.stuck().filter(|_| hook.namespace == set.namespace)?;
        let told = stops::told(&hook.name, stop, now)?;
        Some((hook.name.clone(), told, why.at))
    };
    let mut stuck: Vec<_> = catalog.stops.hooks.iter().filter_map(told).collect();
    stuck.sort_unstable();
    stuck
}

fn hook_lines(
    seen: &MonitorState,
    set: &LaneSet,
    whole: &Observation<'_>,
    counts: &store::NamespaceCounts,
) -> (Vec<api::HookLine>, Vec<(Name, f64, f64)>) {
    let catalog = whole.catalog;
    let hooks = catalog.hooks.values();
    let mut hooks: Vec<_> = hooks
        .filter(|hook| hook.namespace == set.namespace)
        .collect();
    let paces = whole.hook_paces(seen);
    let pace = |hook: HookId| paces.get(&hook).copied().unwrap_or_default();
    hooks.sort_by(|a, b| {
        let busier = pace(b.id).0.total_cmp(&pace(a.id).0);
        busier.then_with(|| a.name.cmp(&b.name))
    });
    let told = hooks.iter().filter_map(|hook| {
        let (now, normal) = pace(hook.id);
        Some((hook.name.clone(), now, normal?))
    });
    let told = told.collect();
    let line = |hook: &&Arc<crate::domain::hook::Hook>| api::HookLine {
        hook: hook.name.clone(),
        in_per_s: hundredths(pace(hook.id).0),
        normal_per_s: pace(hook.id).1.map(hundredths),
        paused: catalog.stops.hooks.contains_key(&hook.id),
        streams: counts.hooks.get(&hook.id).copied().unwrap_or(0),
        handlers: {
            let handlers = hook.handlers.iter();
            let told: Vec<_> = handlers.map(|h| h.described()).collect();
            told.join(", ")
        },
        verify: match &hook.verify {
            Some(verify) => verify.scheme.word().to_owned(),
            None => "write key".to_owned(),
        },
    };
    (hooks.iter().take(HOOKS_SHOWN).map(line).collect(), told)
}

impl Observation<'_> {
    /// Rate of accepted events of each hook over all nodes, with its baseline.
    fn hook_paces(&self, seen: &MonitorState) -> HashMap<HookId, (f64, Option<f64>)> {
        let own = seen.hooks.iter();
        let own = own.map(|(hook, pace)| (*hook, pace.now, pace.normal.value()));
        let told = self.reports().flat_map(|report| &report.hooks);
        let told = told.map(|(hook, now, normal)| (HookId(*hook), *now, *normal));
        let mut paces: HashMap<_, (f64, Option<f64>)> = HashMap::new();
        for (hook, now, normal) in own.chain(told) {
            let pace = paces.entry(hook).or_default();
            pace.0 += now;
            pace.1 = match (pace.1, normal) {
                (Some(one), Some(other)) => Some(one + other),
                (one, other) => one.or(other),
            };
        }
        paces
    }
}

/// Handlers with their time for one event and its baseline; one entry for each node that reports the
/// handler.
fn handler_paces(
    seen: &MonitorState,
    set: &LaneSet,
    whole: &Observation<'_>,
) -> Vec<(String, f64, Option<f64>)> {
    let hooks = whole.catalog.hooks.values();
    let hooks = hooks.filter(|hook| hook.namespace == set.namespace);
    let mut paces = Vec::new();
    for hook in hooks {
        for handler in &hook.handlers {
            let own = seen.handlers.get(&handler.id);
            let slow = own.and_then(|pace| pace.is_slow());
            let own = own.filter(|pace| pace.now > SLOW_FOLD).map(|pace| pace.now);
            let told = whole.reports().flat_map(|report| &report.slow);
            let told = told.filter(|(id, ..)| *id == handler.id.0);
            let told = told.map(|(_, now, normal)| (*now, *normal));
            let folds = whole.reports().flat_map(|report| &report.folds);
            let folds = folds.filter(|(id, _)| *id == handler.id.0);
            let folds = folds.map(|(_, now)| *now).chain(own).map(|now| (now, None));
            let name = format!("{} -> {}", hook.name, handler.name);
            let slow = slow.into_iter().chain(told);
            let slow = slow.map(|(now, normal)| (now, Some(normal))).chain(folds);
            paces.extend(slow.map(|(now, normal)| (name.clone(), now, normal)));
        }
    }
    paces
}

fn namespace_lines(
    seen: &MonitorState,
    fresh: &api::Snapshot,
    catalog: &catalog::Snapshot,
) -> Vec<api::NamespaceLine> {
    let line = |set: &LaneSet| {
        let known = match set.namespace == fresh.namespace {
            true => Some(fresh),
            false => seen.snapshots.get(&set.namespace).map(|known| &**known),
        };
        let total = known.map(|known| &known.total);
        let space = seen.spaces.get(&set.namespace);
        let counts = space.and_then(|space| space.counts.as_ref());
        let mut states = BTreeMap::new();
        for lane in known.iter().flat_map(|known| &known.lanes) {
            *states.entry(lane.state).or_insert(0) += 1;
        }
        api::NamespaceLine {
            namespace: set.namespace.clone(),
            lanes: set.lanes,
            generation: set.generation,
            states,
            streams: counts.map_or(0, store::NamespaceCounts::streams),
            set_aside: total.map_or(0, |total| total.set_aside),
            oldest_ms: total.and_then(|total| total.oldest_ms),
            flow_ms: total.and_then(|total| total.flow_ms),
            backlog: total.map_or(0, |total| total.backlog),
            severity: {
                let verdicts = known.iter().flat_map(|known| &known.verdicts);
                verdicts
                    .map(|verdict| verdict.severity)
                    .max()
                    .unwrap_or_default()
            },
        }
    };
    let mut lines: Vec<_> = catalog.lane_sets.values().map(line).collect();
    lines.sort_by(|a, b| a.namespace.cmp(&b.namespace));
    lines
}

/// Smallest number of lanes with which none would be more than 70 % busy, given the present backlog.
pub fn lanes_that_help(waiting: &[crate::store::SlotBacklog], lanes: &[Lane]) -> Option<u16> {
    const FULL: f64 = 0.7;
    let events: u64 = waiting.iter().map(|slot| slot.events).sum();
    let demand = |lane: &Lane| {
        let (came, went) = (lane.in_per_s.unwrap_or(0.0), lane.out_per_s.unwrap_or(0.0));
        lane.busy.unwrap_or(0.0) * (came / went.max(0.1)).max(1.0)
    };
    let demand: f64 = lanes.iter().map(demand).sum();
    if events == 0 {
        return None;
    }
    let mut count = u16::try_from(lanes.len()).unwrap_or(u16::MAX);
    while count < crate::domain::lane::LANES_MAX {
        count = count.saturating_mul(2).min(crate::domain::lane::LANES_MAX);
        let mut load = vec![0_u64; usize::from(count)];
        for slot in waiting {
            load[usize::from(Slot(slot.slot).lane(count))] += slot.events;
        }
        let fullest = load.iter().max().copied().unwrap_or(0);
        if demand * fullest as f64 / events as f64 <= FULL {
            return Some(count);
        }
    }
    None
}
