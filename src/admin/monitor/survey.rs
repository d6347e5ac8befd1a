//! Gathers the figures of this node's lanes and metrics.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::lines::line_of;
use super::seen::{MonitorState, processor_time};
use super::space::is_over;
use super::{FLOWING_MAX, SET_ASIDE_MAX, STEP};
use crate::admin::{Admin, Error, lanes};
use crate::api::{self, Lane};
use crate::domain::cursor::CursorId;
use crate::domain::lane::{LaneId, LaneSet};
use crate::domain::name::{Name, StreamName};
use crate::domain::time::{Timestamp, since_boot};
use crate::engine::lane::Line;
use crate::engine::{self, catalog};

/// Figures of a lane of this node, before names are looked up.
pub struct OwnLane {
    pub id: LaneId,
    pub lane: Lane,
    pub lines: Vec<Line>,
    pub largest: Option<(CursorId, u64)>,
    pub turn: Option<(Duration, CursorId)>,
    pub reading: engine::Reading,
}

impl Admin {
    /// Updates the figures that are measured every second, and every ten seconds.
    pub(super) fn tick(&self, catalog: &catalog::Snapshot, now: Timestamp) {
        let Some(engine) = &self.engine else { return };
        let mut seen = self.monitor.seen.lock();
        seen.ticks += 1;
        let pulse = &engine.metrics.pulse;
        seen.note_accepted(pulse.take_accepted(), since_boot());
        let clock = since_boot();
        if seen.ticks % 2 == 1 {
            let used = processor_time();
            let elapsed = clock.saturating_sub(seen.cpu.1).as_secs_f64().max(0.1);
            let share = used.saturating_sub(seen.cpu.0).as_secs_f64() / elapsed;
            seen.cpu = (used, clock, share);
        }
        let around = self.surroundings.as_ref();
        seen.room = around.and_then(|around| around.little_room());
        if !seen.ticks.is_multiple_of(STEP) {
            return;
        }
        let was_late = |seen: &MonitorState| {
            let flows = seen.spaces.iter();
            let mut flows = flows.filter_map(|(name, space)| Some((name, space.flow.back()?)));
            flows.any(|(name, flow)| is_over(*flow, catalog.thresholds(name)))
        };
        let learns = !was_late(&seen);
        if let Some(p99) = pulse.commit_p99(now)
            && learns
        {
            seen.commit.learn(p99.as_secs_f64() * 1_000.0);
        }
        if learns {
            for hook in catalog.hooks_by_id.keys() {
                let pace = seen.hooks.entry(*hook).or_default();
                pace.normal.learn(pace.now);
            }
        }
        let folds = pulse.take_folds();
        for (handler, folds) in folds {
            let Some(each) = folds.each() else { continue };
            let pace = seen.handlers.entry(handler).or_default();
            pace.now = each;
            if learns {
                pace.normal.learn(each);
            }
        }
        seen.hooks
            .retain(|hook, _| catalog.hooks_by_id.contains_key(hook));
        seen.handlers
            .retain(|handler, _| catalog.handlers.contains_key(handler));
    }

    pub(super) async fn own_lanes(
        &self,
        catalog: &catalog::Snapshot,
        now: Timestamp,
    ) -> Result<Vec<OwnLane>, Error> {
        let engine = self.engine()?;
        let mut own = Vec::new();
        for id in catalog.lane_sets.values().flat_map(LaneSet::ids) {
            let Some(worker) = engine.worker(&id) else {
                continue;
            };
            let (survey, reading) = worker.survey(now);
            let lane = lanes::running(&id, &self.node, &survey, &reading, None, now);
            let gathers = self.gathers(&survey).await?;
            own.push(OwnLane {
                lane: api::Lane {
                    gathers,
                    in_flight: lanes::in_flight(catalog, &id, &survey),
                    ..lane
                },
                lines: match survey.cursors {
                    0 => Vec::new(),
                    _ => worker.lines(SET_ASIDE_MAX, FLOWING_MAX),
                },
                largest: survey.largest,
                turn: worker.turn(),
                reading,
                id,
            });
        }
        keep_those_shown(&mut own);
        Ok(own)
    }

    /// Names of the cursors to be shown, by one query; no query when nothing waits.
    pub(super) async fn names(
        &self,
        catalog: &catalog::Snapshot,
        own: &[OwnLane],
        now: Timestamp,
    ) -> Result<HashMap<CursorId, api::CursorLine>, Error> {
        let mut lines: HashMap<CursorId, (&LaneId, Line)> = HashMap::new();
        for lane in own {
            lines.extend(lane.lines.iter().map(|l| (l.cursor, (&lane.id, *l))));
        }
        let others = own.iter().filter_map(|lane| Some(lane.largest?.0));
        let others = others.chain(own.iter().filter_map(|lane| Some(lane.turn?.1)));
        let mut wanted: HashSet<_> = others.map(|cursor| cursor.stream).collect();
        wanted.extend(lines.keys().map(|cursor| cursor.stream));
        let wanted: Vec<_> = wanted.into_iter().collect();
        let mut shown = HashMap::new();
        for row in self.store.cursors_of(&wanted).await? {
            let Some(hook) = catalog.hooks_by_id.get(&row.hook) else {
                continue;
            };
            for handler in &hook.handlers {
                let cursor = CursorId {
                    stream: row.stream,
                    handler: handler.id,
                };
                let stream = StreamName {
                    hook: hook.name.clone(),
                    key: row.key.clone(),
                };
                let kept = row.of(handler.id);
                let line = lines.get(&cursor);
                shown.insert(cursor, line_of(stream, &handler.name, kept, line, now));
            }
        }
        Ok(shown)
    }

    /// Cursors of a lane of this node as table rows.
    pub(in crate::admin) async fn cursor_lines(
        &self,
        lines: Vec<Line>,
        lane: &LaneId,
    ) -> Result<Vec<api::CursorLine>, Error> {
        let catalog = self.engine()?.catalog.now();
        let wanted: HashSet<_> = lines.iter().map(|line| line.cursor.stream).collect();
        let wanted: Vec<_> = wanted.into_iter().collect();
        let rows = self.store.cursors_of(&wanted).await?;
        let rows: HashMap<_, _> = rows.into_iter().map(|row| (row.stream, row)).collect();
        let now = Timestamp::now();
        let shown = lines.into_iter().filter_map(|line| {
            let row = rows.get(&line.cursor.stream)?;
            let handler = catalog.handlers.get(&line.cursor.handler)?;
            let stream = StreamName {
                hook: catalog.hooks_by_id.get(&row.hook)?.name.clone(),
                key: row.key.clone(),
            };
            let kept = row.of(handler.id);
            Some(line_of(
                stream,
                &handler.name,
                kept,
                Some(&(lane, line)),
                now,
            ))
        });
        Ok(shown.collect())
    }
}

/// Drops cursors that will not be shown, so that names of thousands are not looked up every second.
fn keep_those_shown(own: &mut [OwnLane]) {
    let age = |line: &Line| (line.oldest, line.cursor);
    for (is_aside, max) in [(true, SET_ASIDE_MAX), (false, FLOWING_MAX)] {
        let mut ages: HashMap<Name, Vec<_>> = HashMap::new();
        for own in own.iter() {
            let lines = own.lines.iter().filter(|l| l.is_set_aside == is_aside);
            let of_space = ages.entry(own.id.namespace.clone()).or_default();
            of_space.extend(lines.map(age));
        }
        for ages in ages.values_mut() {
            ages.sort_unstable();
            ages.truncate(max);
        }
        for own in own.iter_mut() {
            let last = ages.get(&own.id.namespace).and_then(|ages| ages.last());
            let is_shown = |line: &Line| last.is_some_and(|last| age(line) <= *last);
            own.lines
                .retain(|line| line.is_set_aside != is_aside || is_shown(line));
        }
    }
}
