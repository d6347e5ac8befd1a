//! The report of this node to the others, from its own figures.

use std::collections::HashMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::cluster::ThisProcess;
use super::past;
use super::seen::MonitorState;
use super::space::is_over;
use super::survey::OwnLane;
use crate::admin::Admin;
use crate::admin::figures::{counts, fine_millis, gather, hundredths, millis};
use crate::admin::report::NodeReport;
use crate::api;
use crate::domain::cursor::CursorId;
use crate::domain::name::{Name, StreamName};
use crate::domain::thresholds::Thresholds;
use crate::domain::time::Timestamp;
use crate::engine::{self, ownership::Member};
use crate::text::counted;

/// Number of hooks in the report.
const HOOKS_TOLD: usize = 50;

/// Running time from which a turn is reported.
const LONG_TURN: Duration = Duration::from_secs(2);

/// Time for one event, in seconds, from which a reducer is reported.
pub const SLOW_FOLD: f64 = 0.005;

impl Admin {
    /// This process, for the snapshots.
    pub(super) fn this_process(&self, engine: &engine::Engine, now: Timestamp) -> ThisProcess {
        ThisProcess {
            node: self.node.clone(),
            began: self.monitor.began,
            member: engine.member.as_ref().map(Member::id),
            storage: storage(engine, now),
            overdue: overdue(engine),
            beside: slow_handlers(engine),
            room: self.monitor.seen.lock().room,
            receivers: self.monitor.receivers.lock().clone(),
        }
    }

    /// Publishes the report of this node's lanes. Idle lanes are left out.
    pub(super) fn tell(
        &self,
        own: &[OwnLane],
        names: &HashMap<CursorId, api::CursorLine>,
        now: Timestamp,
    ) {
        let Some(engine) = &self.engine else { return };
        let Some(member) = &engine.member else { return };
        let is_told = |own: &&OwnLane| own.lane.backlog > 0 || own.lane.wait_ms.is_some();
        let mut report = NodeReport {
            lanes: own
                .iter()
                .filter(is_told)
                .map(|own| own.lane.clone())
                .collect(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            commit_p99_ms: commit_p99(engine, now),
            fsync_p99_ms: fsync_p99(engine, now),
            overdue: overdue(engine),
            hints: failing_hints(engine),
            beside: slow_handlers(engine),
            ..self.monitor.seen.lock().told()
        };
        let catalog = engine.catalog.peek();
        for own in own {
            report.tell_worst(own, names, catalog.thresholds(&own.id.namespace));
        }
        for own in own {
            let told = own.lines.iter().filter(|line| line.is_set_aside).take(5);
            let told = told.filter_map(|line| names.get(&line.cursor));
            let space = &own.id.namespace;
            report
                .cursors
                .extend(told.map(|line| (space.clone(), line.clone())));
        }
        report.sum_up(own);
        for lane in &mut report.lanes {
            // Rates are rounded: the others add them up for people.
            lane.in_per_s = lane.in_per_s.map(f64::round);
            lane.out_per_s = lane.out_per_s.map(f64::round);
        }
        member.report(serde_json::to_string(&report).unwrap_or_default());
    }
}

impl MonitorState {
    /// The figures to report. Idle hooks are left out, so that the report is short.
    fn told(&self) -> NodeReport {
        let hooks = self.hooks.iter().filter(|(_, pace)| pace.now > 0.0);
        let mut hooks: Vec<_> = hooks
            .map(|(hook, pace)| (hook.0, pace.now, pace.normal.value().map(hundredths)))
            .collect();
        hooks.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        hooks.truncate(HOOKS_TOLD);
        let slow = self.handlers.iter();
        let slow = slow.filter_map(|(of, pace)| Some((of.0, pace.is_slow()?)));
        let mut slow: Vec<_> = slow.map(|(of, (now, normal))| (of, now, normal)).collect();
        slow.sort_by_key(|(of, ..)| *of);
        let folds = self.handlers.iter();
        let mut folds: Vec<_> = folds
            .filter(|(_, pace)| pace.now > SLOW_FOLD)
            .map(|(of, pace)| (of.0, pace.now))
            .collect();
        folds.sort_by_key(|(of, _)| *of);
        let since = self.spaces.iter().flat_map(|(name, space)| {
            let told = space.since.told();
            told.map(|((rule, stream), since)| (name.clone(), *rule, stream.clone(), since))
        });
        let mut since: Vec<_> = since.collect();
        since.sort_by_key(|(space, rule, stream, _)| {
            (
                space.clone(),
                *rule,
                stream.as_ref().map(StreamName::to_string),
            )
        });
        NodeReport {
            folds,
            since,
            commit_normal_ms: self.commit.value().map(hundredths),
            room: self.room,
            cpu: Some(hundredths(self.cpu.2)),
            accepted_per_s: self.accepted_per_s().round(),
            hooks,
            slow,
            ..NodeReport::default()
        }
    }
}

impl NodeReport {
    /// Adds what the verdicts of all nodes need about a lane: a long-running turn, and, in a late lane,
    /// the stream with the largest backlog.
    fn tell_worst(
        &mut self,
        own: &OwnLane,
        names: &HashMap<CursorId, api::CursorLine>,
        thresholds: Thresholds,
    ) {
        if let Some((ran, cursor)) = own.turn.filter(|(ran, _)| *ran >= LONG_TURN) {
            let line = names.get(&cursor);
            let name = line.map(|line| format!("{} -> {}", line.stream, line.handler));
            let name = name.unwrap_or_default();
            self.turns.push((own.id.clone(), name, millis(ran)));
        }
        let is_late = own.lane.flow_ms.is_some_and(|ms| is_over(ms, thresholds));
        if let Some((cursor, events)) = own.largest.filter(|_| is_late)
            && let Some(line) = names.get(&cursor)
        {
            let lane = own.id.clone();
            self.largest.push((lane, line.stream.clone(), events));
        }
    }

    /// Adds the sums over the lanes of each namespace.
    fn sum_up(&mut self, own: &[OwnLane]) {
        let mut spaces: HashMap<_, (Histogram<u64>, Histogram<u64>)> = HashMap::new();
        for own in own {
            let space = &own.id.namespace;
            let waits = self.waits.entry(space.clone()).or_default();
            past::add(waits, own.reading.waits);
            if own.lane.backlog > 0 {
                let waiting = self.waiting.entry(space.clone()).or_default();
                past::add(waiting, own.reading.waiting);
            }
            let new = || (engine::times(), engine::times());
            let (wait, work) = spaces.entry(space.clone()).or_insert_with(new);
            gather(wait, counts(&own.reading.wait));
            gather(work, counts(&own.reading.work));
        }
        for (space, (wait, work)) in spaces {
            self.wait.insert(space.clone(), counts(&wait).collect());
            self.work.insert(space, counts(&work).collect());
        }
    }
}

fn storage(engine: &engine::Engine, now: Timestamp) -> api::Storage {
    let pulse = &engine.metrics.pulse;
    let failing = pulse.failing();
    api::Storage {
        accepting: failing.is_none() && !engine.is_failing(),
        hints: failing_hints(engine),
        hints_server: engine.relay.server(),
        commit_p99_ms: commit_p99(engine, now),
        fsync_p99_ms: fsync_p99(engine, now),
        error_since: failing.as_ref().map(|failing| failing.since),
        error: failing.map(|failing| failing.error),
        noted: pulse.noted(now).map(|noted| api::PastOutage {
            from: noted.from,
            until: noted.until,
            error: noted.error,
        }),
        ..api::Storage::default()
    }
}

/// Streams of this node that keep events past their retention, in words, with their namespaces.
fn overdue(engine: &engine::Engine) -> Vec<(Name, String)> {
    let catalog = engine.catalog.peek();
    let told = |found: engine::prune::Overdue| {
        let hook = catalog.hooks.get(&found.example.hook)?;
        let streams = counted(found.streams, "stream keeps", "streams keep");
        let (keep, why, example) = (found.keep, found.why, found.example);
        let told = format!("{streams} events past {keep}, such as {example}: {why}");
        Some((hook.namespace.clone(), told))
    };
    engine.overdue().into_iter().filter_map(told).collect()
}

/// Ids of the handlers that are too slow for this node's lanes, sorted.
fn slow_handlers(engine: &engine::Engine) -> Vec<i64> {
    let shares = engine.folds.lanes.shares();
    let mut slow: Vec<_> = shares.with(|shares, _| shares.slow().map(|of| of.0).collect());
    slow.sort_unstable();
    slow
}

/// Present failure of Redis, as seen by this node.
fn failing_hints(engine: &engine::Engine) -> Option<api::Outage> {
    let (since, why) = engine.relay.trouble()?;
    Some(api::Outage { why, since })
}

pub fn commit_p99(engine: &engine::Engine, now: Timestamp) -> Option<f64> {
    engine.metrics.pulse.commit_p99(now).map(fine_millis)
}

fn fsync_p99(engine: &engine::Engine, now: Timestamp) -> Option<f64> {
    engine.metrics.pulse.sync_p99(now).map(fine_millis)
}
