//! Lanes with their figures.

use std::collections::HashMap;

use super::report::NodeReport;
use super::{Admin, Error};
use crate::api::{self, Eta, LaneState, Percentiles, WorstCursor};
use crate::domain::cursor::{Condition, CursorId};
use crate::domain::hook::Hook;
use crate::domain::lane::{LaneId, LaneSet, Mode, Slot};
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;
use crate::engine::Reading;
use crate::engine::catalog::Snapshot;
use crate::engine::lane::Survey;
use crate::engine::ownership::{Member, View};
use crate::store::{CursorRow, CursorsFilter, DrainRemainder, LaneMode};

impl Admin {
    /// The lanes of a namespace.
    ///
    /// # Errors
    /// [`Error::Missing`] namespace; [`Error::NeedsDaemon`].
    pub async fn lanes(&self, namespace: &Name) -> Result<Vec<api::Lane>, Error> {
        let engine = self.engine()?;
        let set = self.namespace(namespace).await?.lanes;
        let others = engine.member.as_ref().map(Member::view).unwrap_or_default();
        let reports = reports(&others);
        let mut lanes = Vec::with_capacity(usize::from(set.lanes));
        for id in set.ids() {
            let lane = match self.lane_here(&id).await? {
                Some(lane) => api::Lane {
                    epoch: epoch(&id, &others),
                    ..lane
                },
                None => elsewhere(&id, &others, &reports),
            };
            lanes.push(lane);
        }
        self.show_modes(&set, &mut lanes).await?;
        hide_flow_of_stopped(&mut lanes);
        if let Some(seen) = self.last_seen(namespace) {
            for lane in &mut lanes {
                let known = seen.lanes.iter().find(|known| known.id == lane.id);
                if let Some(known) = known.filter(|known| known.state == lane.state) {
                    as_seen(lane, known);
                }
            }
        }
        Ok(lanes)
    }

    /// Adds the stops of the lanes, and the remaining work of draining ones.
    pub(super) async fn show_modes(
        &self,
        set: &LaneSet,
        lanes: &mut [api::Lane],
    ) -> Result<(), Error> {
        let modes = self.store.lane_modes().await?;
        if !set.ids().any(|id| modes.contains_key(&id)) {
            return Ok(());
        }
        let left = self.store.left(set).await?;
        show_modes(set, lanes, &modes, &left);
        Ok(())
    }

    /// A lane from its worker, if it runs on this node.
    async fn lane_here(&self, id: &LaneId) -> Result<Option<api::Lane>, Error> {
        let Some(worker) = self.engine()?.worker(id) else {
            return Ok(None);
        };
        let now = Timestamp::now();
        let (survey, reading) = worker.survey(now);
        let worst = self.worst(survey.worst, now).await?;
        let lane = running(id, &self.node, &survey, &reading, worst, now);
        let gathers = self.gathers(&survey).await?;
        let catalog = self.engine()?.catalog.now();
        Ok(Some(api::Lane {
            gathers,
            in_flight: in_flight(&catalog, id, &survey),
            ..lane
        }))
    }

    /// The cursors of a lane of this node that gather events.
    pub(super) async fn gathers(&self, survey: &Survey) -> Result<Option<api::Gathering>, Error> {
        let catalog = self.engine()?.catalog.now();
        let Some((until, cursor)) = survey.gathers_longest else {
            return Ok(None);
        };
        let Some((_, stream, handler)) = self.cursor_named(&catalog, cursor).await? else {
            return Ok(None);
        };
        Ok(Some(api::Gathering {
            cursors: survey.gathering,
            stream,
            handler,
            until,
        }))
    }

    /// The row of a cursor, with the names of its stream and handler.
    async fn cursor_named(
        &self,
        catalog: &Snapshot,
        cursor: CursorId,
    ) -> Result<Option<(CursorRow, StreamName, Name)>, Error> {
        let filter = CursorsFilter {
            stream: Some(cursor.stream),
            limit: 10,
            ..CursorsFilter::default()
        };
        let rows = self.store.cursors(&filter).await?;
        let Some(row) = rows.into_iter().find(|row| row.id == cursor) else {
            return Ok(None);
        };
        let hook = catalog.hooks_by_id.get(&row.hook);
        let handler = catalog.handlers.get(&cursor.handler);
        let (Some(hook), Some(handler)) = (hook, handler) else {
            return Ok(None);
        };
        let stream = StreamName {
            hook: hook.name.clone(),
            key: row.key.clone(),
        };
        Ok(Some((row, stream, handler.name.clone())))
    }

    /// The lane of the streams of `hook` with this slot.
    pub(super) async fn lane_of(&self, hook: &Hook, slot: Slot) -> Result<LaneId, Error> {
        Ok(self.namespace(&hook.namespace).await?.lanes.lane(slot))
    }

    async fn worst(
        &self,
        cursor: Option<CursorId>,
        now: Timestamp,
    ) -> Result<Option<WorstCursor>, Error> {
        let Some(cursor) = cursor else {
            return Ok(None);
        };
        let catalog = self.engine()?.catalog.now();
        let Some((row, stream, handler)) = self.cursor_named(&catalog, cursor).await? else {
            return Ok(None);
        };
        let next = self.next_event(&row).await?;
        Ok(Some(WorstCursor {
            stream,
            handler,
            condition: (&row.condition).into(),
            result: row.condition.reason().unwrap_or_default().to_owned(),
            tries: row.condition.tries(),
            events: row.position.behind(row.head),
            since: row.oldest.filter(|at| *at <= now),
            retry_at: match row.condition {
                Condition::Waiting { retry_at, .. } => Some(retry_at),
                _ => None,
            },
            next,
        }))
    }
}

/// Like [`Admin::show_modes`]. During a resize, `lanes` may include lanes of an older set.
fn show_modes(
    set: &LaneSet,
    lanes: &mut [api::Lane],
    modes: &HashMap<LaneId, LaneMode>,
    left: &HashMap<u16, DrainRemainder>,
) {
    for lane in lanes.iter_mut().filter(|lane| set.has(&lane.id)) {
        let Some(mode) = modes.get(&lane.id) else {
            continue;
        };
        let events = left.get(&lane.id.index).map_or(0, |left| left.events);
        lane.left = mode
            .mode
            .has_marks()
            .then(|| u64::try_from(events).unwrap_or(0));
        (lane.by, lane.since) = (mode.by.clone(), mode.at);
        lane.reason.clone_from(&mode.reason);
        if lane.state == LaneState::Active {
            lane.eta = Some(Eta::Resume);
            lane.state = match mode.mode {
                Mode::Active => LaneState::Active,
                Mode::Draining => LaneState::Draining,
                Mode::Drained => LaneState::Drained,
                Mode::Paused => LaneState::Paused,
            };
        }
    }
}

/// Copies figures that are only known after watching a lane for a while.
fn as_seen(lane: &mut api::Lane, known: &api::Lane) {
    lane.severity = known.severity;
    lane.trend.clone_from(&known.trend);
    // The forecast of a lane that has emptied or got work since is out of date.
    if (lane.backlog == 0) == (known.backlog == 0) {
        (lane.eta, lane.eta_ms) = (known.eta, known.eta_ms);
    }
}

/// FLOW is about running lanes: events in a stopped lane do not mean that it is late.
pub(super) fn hide_flow_of_stopped(lanes: &mut [api::Lane]) {
    for lane in lanes {
        if matches!(lane.state, LaneState::Paused | LaneState::Drained) {
            lane.flow_ms = None;
        }
    }
}

/// Latest reports of the nodes about their lanes, by lane.
pub(super) fn reports(view: &View) -> HashMap<LaneId, api::Lane> {
    let reports = view.nodes.iter();
    let reports = reports.map(|node| NodeReport::read(&node.report));
    let lanes = reports.flat_map(|report| report.lanes);
    lanes.map(|lane| (lane.id.clone(), lane)).collect()
}

/// A lane that does not run here: from its node's report, or without an owner.
pub(super) fn elsewhere(
    id: &LaneId,
    view: &View,
    reports: &HashMap<LaneId, api::Lane>,
) -> api::Lane {
    let row = view.lanes.iter().find(|lane| lane.id == *id);
    let owner = row.and_then(|lane| lane.node.as_ref());
    let Some(node) = view.nodes.iter().find(|node| Some(&node.id) == owner) else {
        return idle(id);
    };
    let reported = reports.get(id).cloned();
    api::Lane {
        state: LaneState::Active,
        node: Some(node.name.clone()),
        epoch: epoch(id, view),
        ..reported.unwrap_or_else(|| api::Lane {
            in_per_s: Some(0.0),
            out_per_s: Some(0.0),
            ..idle(id)
        })
    }
}

/// Epoch under which a lane was last taken.
pub(super) fn epoch(id: &LaneId, view: &View) -> Option<i64> {
    let row = view.lanes.iter().find(|row| row.id == *id)?;
    Some(row.epoch)
}

pub(super) fn idle(id: &LaneId) -> api::Lane {
    api::Lane {
        id: id.clone(),
        state: LaneState::NoOwner,
        set_aside: 0,
        waiting: 0,
        held: 0,
        oldest_ms: None,
        flow_ms: None,
        backlog: 0,
        backlog_flowing: 0,
        in_per_s: None,
        out_per_s: None,
        eta: None,
        eta_ms: None,
        wait_ms: None,
        work_ms: None,
        turn_wait_ms: None,
        node: None,
        epoch: None,
        worst: None,
        kept: 0,
        left: None,
        gathers: None,
        by: None,
        since: None,
        reason: None,
        severity: api::Severity::Fine,
        busy: None,
        failures: 0,
        in_flight: None,
        cursors: 0,
        trend: Vec::new(),
    }
}

/// Number of a lane's deliveries in flight; `None` if no hook of its namespace delivers.
pub(super) fn in_flight(catalog: &Snapshot, id: &LaneId, survey: &Survey) -> Option<u64> {
    let mut hooks = catalog.hooks.values();
    let delivers = hooks.any(|hook| {
        let mut handlers = hook.handlers.iter();
        hook.namespace == id.namespace && handlers.any(|of| of.forward().is_some())
    });
    delivers.then_some(survey.in_flight)
}

pub(super) fn running(
    id: &LaneId,
    node: &str,
    survey: &Survey,
    reading: &Reading,
    worst: Option<WorstCursor>,
    now: Timestamp,
) -> api::Lane {
    let age = |at: Option<Timestamp>| {
        at.map(|at| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX))
    };
    api::Lane {
        state: LaneState::Active,
        set_aside: survey.waiting + survey.held,
        waiting: survey.waiting,
        held: survey.held,
        oldest_ms: age(survey.oldest),
        flow_ms: age(survey.oldest_flowing),
        backlog: survey.backlog,
        backlog_flowing: survey.backlog_flowing,
        in_per_s: Some(tenths(reading.in_per_s)),
        out_per_s: Some(tenths(reading.out_per_s)),
        eta: eta(survey, reading),
        wait_ms: percentiles(&reading.wait, age(survey.oldest)),
        work_ms: percentiles(&reading.work, None),
        turn_wait_ms: survey
            .turn_wait
            .map(|waits| u64::try_from(waits.as_millis()).unwrap_or(u64::MAX)),
        node: Some(node.to_owned()),
        worst,
        kept: survey.kept,
        cursors: survey.cursors,
        failures: reading.failed,
        busy: Some((reading.busy * 1_000.0).round() / 1_000.0),
        ..idle(id)
    }
}

/// Forecast of the backlog: the obstacle if there is one, else the balance of events in and out.
fn eta(survey: &Survey, reading: &Reading) -> Option<Eta> {
    let set_aside = survey.waiting + survey.held;
    if survey.backlog_flowing > 0 {
        let grows = reading.in_per_s > reading.out_per_s * 1.05;
        Some(if grows { Eta::Grows } else { Eta::Steady })
    } else if survey.held > 0 {
        Some(Eta::Held)
    } else if set_aside > 0 {
        Some(Eta::Retry)
    } else {
        None
    }
}

/// Percentiles of a histogram. Its classes are shown by their upper ends; where that would exceed the
/// age of the oldest waiting event, that age is shown instead.
pub(super) fn percentiles<C: hdrhistogram::Counter>(
    histogram: &hdrhistogram::Histogram<C>,
    oldest_ms: Option<u64>,
) -> Option<Percentiles> {
    if histogram.is_empty() {
        return None;
    }
    let shown = |micros: u64| {
        let shown = micros as f64 / 1_000.0;
        let class = histogram.lowest_equivalent(micros) / 1_000..=micros / 1_000;
        match oldest_ms {
            Some(oldest) if class.contains(&oldest) => shown.min(oldest as f64),
            _ => shown,
        }
    };
    let at = |quantile| shown(histogram.value_at_quantile(quantile));
    Some(Percentiles {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        max: shown(histogram.max()),
    })
}

fn tenths(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine;

    #[test]
    fn nothing_that_waits_seems_to_wait_for_longer_than_the_oldest() {
        for oldest_ms in [0, 1, 17, 2_113, 90_001, 1_087_000] {
            let mut wait = engine::times::<u64>();
            wait.saturating_record_n(oldest_ms * 1_000 + 999, 100);
            let shown = percentiles(&wait, Some(oldest_ms)).unwrap();
            let oldest = oldest_ms as f64;
            assert_eq!((shown.p50, shown.p99, shown.max), (oldest, oldest, oldest));
        }
        let mut wait = engine::times::<u64>();
        wait.saturating_record_n(60_000_000, 100);
        let finished = percentiles(&wait, Some(1_000)).unwrap();
        assert!(finished.p99 >= 60_000.0, "some that waited longer are done");
    }

    #[test]
    fn modes_are_shown_of_the_lanes_that_have_them_also_while_older_ones_are_there() {
        let set = |generation, lanes| LaneSet {
            namespace: Name::default_namespace(),
            generation,
            lanes,
        };
        let (older, newer) = (set(7, 1), set(8, 2));
        let by = |by: &str, mode| LaneMode {
            mode,
            by: Some(by.to_owned()),
            at: None,
            reason: None,
        };
        let id = |index| newer.ids().nth(index).unwrap();
        let modes = HashMap::from([
            (id(0), by("ana", Mode::Paused)),
            (id(1), by("bob", Mode::Draining)),
        ]);
        let left = HashMap::from([(
            1,
            DrainRemainder {
                cursors: 1,
                events: 9,
            },
        )]);
        let of_both = older.ids().chain(newer.ids());
        let mut lanes: Vec<_> = of_both
            .map(|id| api::Lane {
                state: LaneState::Active,
                flow_ms: Some(5),
                ..idle(&id)
            })
            .collect();
        show_modes(&newer, &mut lanes, &modes, &left);
        hide_flow_of_stopped(&mut lanes);
        let shown: Vec<_> = lanes
            .iter()
            .map(|lane| {
                (
                    lane.id.to_string(),
                    lane.state,
                    lane.by.as_deref(),
                    lane.left,
                    lane.flow_ms,
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                (
                    "default-7-0".to_owned(),
                    LaneState::Active,
                    None,
                    None,
                    Some(5)
                ),
                (
                    "default-8-0".to_owned(),
                    LaneState::Paused,
                    Some("ana"),
                    None,
                    None
                ),
                (
                    "default-8-1".to_owned(),
                    LaneState::Draining,
                    Some("bob"),
                    Some(9),
                    Some(5)
                ),
            ]
        );
    }
}
