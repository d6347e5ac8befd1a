//! One round of the monitor, once a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::STEP;
use super::cluster::Observation;
use super::seen::LOG_SHOWN;
use super::snapshot::{Findings, compose, lanes_that_help};
use super::space::Help;
use crate::admin::figures::millis;
use crate::admin::report::NodeReport;
use crate::admin::{Admin, Error, verdict};
use crate::api::{self, Lane, LaneState};
use crate::domain::lane::{LaneSet, Slot};
use crate::domain::name::Name;
use crate::domain::thresholds::Thresholds;
use crate::domain::time::Timestamp;
use crate::engine::catalog;
use crate::engine::ownership::Member;
use crate::store;

/// Seconds between counts of streams.
const COUNTS_EVERY: u64 = 60;

/// Up to this number, streams are counted every ten seconds.
const COUNTED_OFTEN: u64 = 10_000;

/// Time limit of a round, after which the database is reported as not answering. With the second between
/// two rounds that is known within three seconds.
const LOOK_MAX: Duration = Duration::from_millis(1_500);

/// Time limit of the query that tells how many lanes would help.
const HELP_MAX: Duration = Duration::from_millis(500);

/// The query takes at most this part of the time.
const HELP_SHARE: u32 = 20;

impl Admin {
    /// Runs one round: publishes this node's report, composes the snapshots, and sends them to
    /// followers. When the database does not answer, that is reported, and the other figures keep their
    /// last values.
    ///
    /// # Errors
    /// Errors of the database; the snapshots report them too.
    pub async fn observe(&self) -> Result<(), Error> {
        let engine = self.engine()?;
        let catalog = engine.catalog.now();
        let now = Timestamp::now();
        let looked = tokio::time::timeout(LOOK_MAX, async {
            let recalled = self.recall().await;
            self.tick(&catalog, now);
            recalled?;
            self.look_at_all(&catalog, now).await
        });
        let looked = match looked.await {
            Ok(looked) => looked,
            Err(_) => Err(store::Error::Away("no answer in time".to_owned()).into()),
        };
        match &looked {
            Ok(()) => self.monitor.seen.lock().unanswered = None,
            // The round may have waited for the answer.
            Err(Error::Store(error)) => self.note_failure(error.told(), Timestamp::now()),
            Err(error) => self.note_failure(error.to_string(), Timestamp::now()),
        }
        let mut seen = self.monitor.seen.lock();
        let is_there = |name: &Name| catalog.lane_sets.contains_key(name);
        seen.spaces.retain(|name, _| is_there(name));
        seen.snapshots.retain(|name, _| is_there(name));
        self.monitor.feeds.keep(is_there);
        let snapshots: Vec<_> = seen.snapshots.values().cloned().collect();
        drop(seen);
        for snapshot in &snapshots {
            self.monitor.feeds.tell(snapshot);
        }
        looked
    }

    async fn look_at_all(&self, catalog: &catalog::Snapshot, now: Timestamp) -> Result<(), Error> {
        let engine = self.engine()?;
        let own = self.own_lanes(catalog, now).await?;
        let names = self.names(catalog, &own, now).await?;
        self.tell(&own, &names, now);
        if engine.member.is_some() {
            let lost = self.store.count_lost().await?;
            self.monitor.seen.lock().lost = lost;
        }
        let is_read = self.monitor.seen.lock().restored.is_some();
        if !is_read {
            let restored = self.store.restored().await?;
            self.monitor.seen.lock().restored = Some(restored);
        }
        let view = engine.member.as_ref().map(Member::view).unwrap_or_default();
        let silences = engine.member.as_ref().map(Member::silences);
        let silences = silences.unwrap_or_default();
        let me = engine.member.as_ref().map(Member::id);
        let told = view
            .nodes
            .iter()
            .filter(|node| Some(&node.id) != me.as_ref());
        let reports = told
            .map(|node| (node.name.clone(), NodeReport::read(&node.report)))
            .collect();
        let operations = self.operations(catalog).await?;
        self.note_acts().await?;
        let mut namespaces: Vec<_> = catalog.lane_sets.keys().cloned().collect();
        namespaces.sort();
        let whole = Observation {
            here: &self.this_process(engine, now),
            catalog,
            view: &view,
            silences: &silences,
            own: &own,
            names: &names,
            reports,
            operations,
            now,
        };
        for namespace in &namespaces {
            self.look(namespace, &whole).await?;
        }
        Ok(())
    }

    /// Adds the database's failure to the last snapshots as the first verdict.
    fn note_failure(&self, why: String, now: Timestamp) {
        let mut seen = self.monitor.seen.lock();
        let seen = &mut *seen;
        let ticks = seen.ticks;
        let failing = self.engine.as_ref();
        let failing = failing.and_then(|engine| engine.metrics.pulse.failing());
        let first = failing.map_or(now, |failing| failing.since);
        let since = *seen.unanswered.get_or_insert(first);
        seen.note_troubles(vec![("storage", why.clone())], now);
        let log: Vec<_> = seen.log.iter().take(LOG_SHOWN).cloned().collect();
        for snapshot in seen.snapshots.values_mut() {
            let known = Arc::make_mut(snapshot);
            known.old_since.get_or_insert(known.at);
            (known.seq, known.at) = (ticks, now);
            known.storage.error = Some(why.clone());
            known.storage.error_since = Some(since);
            known.storage.accepting = false;
            known.log.clone_from(&log);
            known.verdicts.retain(|verdict| {
                verdict.rule != api::Rule::Storage && verdict.class != api::Class::Ok
            });
            let storage = verdict::storage(&verdict::Facts {
                at: now,
                storage: known.storage.clone(),
                ..verdict::Facts::default()
            });
            if let Some(verdict) = storage {
                // Every namespace is in this database.
                for line in &mut known.namespaces {
                    line.severity = line.severity.max(verdict.severity);
                }
                known.verdicts.insert(0, verdict);
            }
        }
    }

    /// Latest snapshot of a namespace, with the history of a window.
    ///
    /// # Errors
    /// [`Error::Missing`] namespace; [`Error::NeedsDaemon`].
    pub async fn snapshot(
        &self,
        namespace: &Name,
        viewer: api::Viewer,
        window: api::Window,
    ) -> Result<api::Snapshot, Error> {
        let seen = self.seen(namespace).await?;
        Ok(api::Snapshot {
            viewer,
            history: self.past(namespace, window, None),
            ..(*seen).clone()
        })
    }

    pub(in crate::admin) async fn seen(
        &self,
        namespace: &Name,
    ) -> Result<Arc<api::Snapshot>, Error> {
        let engine = self.engine()?;
        if !engine.catalog.now().lane_sets.contains_key(namespace) {
            // Another node may just have created it; otherwise the error suggests a similar name.
            self.namespace(namespace).await?;
        }
        if self.last_seen(namespace).is_none() {
            self.observe().await?;
        }
        self.last_seen(namespace)
            .ok_or_else(|| Error::missing("namespace", namespace))
    }

    /// The latest snapshot, if there is one.
    pub(in crate::admin) fn last_seen(&self, namespace: &Name) -> Option<Arc<api::Snapshot>> {
        self.monitor.seen.lock().snapshots.get(namespace).cloned()
    }

    /// History of a namespace in a window, without samples up to `after`.
    pub(super) fn past(
        &self,
        namespace: &Name,
        window: api::Window,
        after: Option<Timestamp>,
    ) -> Vec<api::Sample> {
        let seen = self.monitor.seen.lock();
        let space = seen.spaces.get(namespace);
        space.map_or_else(Vec::new, |space| space.past.shown(window, after))
    }

    async fn look(&self, namespace: &Name, whole: &Observation<'_>) -> Result<(), Error> {
        let Some(set) = whole.catalog.lane_sets.get(namespace) else {
            return Ok(());
        };
        let mut lanes = whole.lanes(set);
        self.show_modes(set, &mut lanes).await?;
        let is_counted = self.count_orphans(set, &mut lanes, whole).await?;
        let cursors = whole.cursors(namespace, &lanes);
        let thresholds = whole.catalog.thresholds(namespace);
        self.look_for_help(namespace, thresholds, &lanes).await?;
        let counts = match self.wants_counts(namespace, whole.catalog) {
            true => Some(self.store.namespace_counts(namespace).await?),
            false => None,
        };
        let mut seen = self.monitor.seen.lock();
        let look = Findings {
            set,
            lanes,
            cursors,
            counts,
            uncounted: !is_counted,
        };
        let snapshot = compose(&mut seen, look, whole);
        seen.snapshots.insert(namespace.clone(), Arc::new(snapshot));
        Ok(())
    }

    /// Fills in the backlog of lanes whose node has not reported for a while from the database. False if
    /// there are such lanes and too many streams to count each second.
    async fn count_orphans(
        &self,
        set: &LaneSet,
        lanes: &mut [Lane],
        whole: &Observation<'_>,
    ) -> Result<bool, Error> {
        let unheard = whole.unheard();
        let silence = |lane: &Lane| {
            let mut unheard = unheard.iter();
            let owner = unheard.find(|node| lane.node.as_ref() == Some(&node.node));
            owner.map(|owner| owner.silent)
        };
        let is_orphan = |lane: &Lane| lane.state == LaneState::NoOwner || silence(lane).is_some();
        if !lanes.iter().any(is_orphan) {
            return Ok(true);
        }
        let is_small = {
            let seen = self.monitor.seen.lock();
            let space = seen.spaces.get(&set.namespace);
            let counts = space.and_then(|space| space.counts.as_ref());
            counts.is_some_and(|counts| counts.streams() <= COUNTED_OFTEN)
        };
        if !is_small {
            return Ok(false);
        }
        let mut waiting: HashMap<_, Unseen> = HashMap::new();
        for slot in self.store.waiting(&set.namespace).await? {
            let of_lane = waiting.entry(set.lane(Slot(slot.slot))).or_default();
            of_lane.events += slot.events;
            let oldest = slot.oldest.map(|at| whole.now.since(at));
            of_lane.oldest = of_lane.oldest.max(oldest);
        }
        for lane in lanes.iter_mut().filter(|lane| is_orphan(lane)) {
            let unseen = waiting.remove(&lane.id).unwrap_or_default();
            let silent = silence(lane);
            waits_unseen(lane, &unseen, silent);
        }
        Ok(true)
    }

    /// Computes how many lanes would help, if that is worth a query in this round. The query takes at most
    /// a twentieth of the time, and the rest of the round does not wait long for it.
    async fn look_for_help(
        &self,
        namespace: &Name,
        thresholds: Thresholds,
        lanes: &[Lane],
    ) -> Result<(), Error> {
        let facts = verdict::Facts {
            thresholds,
            lanes,
            ..verdict::Facts::default()
        };
        let ticks = {
            let seen = self.monitor.seen.lock();
            let before = seen.spaces.get(namespace);
            let is_due = before.is_none_or(|space| seen.ticks >= space.help.next);
            if !facts.is_late() || !is_due {
                return Ok(());
            }
            seen.ticks
        };
        let began = Instant::now();
        let waiting = timeout(HELP_MAX, self.store.waiting(namespace)).await;
        let lanes = match waiting {
            Ok(waiting) => lanes_that_help(&waiting?, lanes),
            Err(_) => None,
        };
        let pause = (began.elapsed() * HELP_SHARE).as_secs().max(STEP);
        let mut seen = self.monitor.seen.lock();
        let space = seen.spaces.entry(namespace.clone()).or_default();
        space.help = Help {
            lanes,
            next: ticks + pause,
        };
        Ok(())
    }

    /// True if the streams should be counted in this round. Counting takes a while when there are many.
    fn wants_counts(&self, namespace: &Name, catalog: &catalog::Snapshot) -> bool {
        let seen = self.monitor.seen.lock();
        let space = seen.spaces.get(namespace);
        let Some(known) = space.and_then(|space| space.counts.as_ref()) else {
            return true;
        };
        let hooks = catalog.hooks.values();
        let hooks = hooks.filter(|hook| hook.namespace == *namespace);
        let every = match known.streams() < COUNTED_OFTEN {
            true => STEP,
            false => COUNTS_EVERY,
        };
        hooks.count() != known.hooks.len() || seen.ticks.is_multiple_of(every)
    }
}

/// Work of a lane, as counted in the database.
#[derive(Default)]
struct Unseen {
    events: u64,
    /// Age of the oldest event of a flowing cursor.
    oldest: Option<Duration>,
}

/// Updates the figures of a lane whose node has been silent since its last report; `None` if it has no
/// node. Events that were set aside or kept then still are; the others may flow.
fn waits_unseen(lane: &mut Lane, unseen: &Unseen, silent: Option<Duration>) {
    let older = |ms: u64| ms.saturating_add(silent.map_or(0, millis));
    let stands = lane.backlog.saturating_sub(lane.backlog_flowing);
    lane.backlog = unseen.events.max(stands);
    lane.backlog_flowing = lane.backlog - stands;
    // The database does not know which hooks are paused. No flowing event is older than the report allows.
    let known = silent.map(|_| older(lane.flow_ms.unwrap_or(0)));
    let oldest = unseen.oldest.filter(|_| lane.backlog_flowing > 0);
    lane.flow_ms = oldest.map(|age| millis(age).min(known.unwrap_or(u64::MAX)));
    let stood = lane.oldest_ms.filter(|_| stands > 0).map(older);
    lane.oldest_ms = stood.max(lane.flow_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures of a lane after its count: backlog, flowing backlog, FLOW and OLDEST.
    fn counted(
        reported: (u64, u64, Option<u64>, Option<u64>),
        events: u64,
        age: u64,
    ) -> (u64, u64, Option<u64>, Option<u64>) {
        let (backlog, backlog_flowing, flow_ms, oldest_ms) = reported;
        let mut lane = Lane {
            backlog,
            backlog_flowing,
            flow_ms,
            oldest_ms,
            ..crate::admin::lanes::idle(&"default-1-0".parse().unwrap())
        };
        let oldest = (events > 0).then_some(Duration::from_millis(age));
        let unseen = Unseen { events, oldest };
        waits_unseen(&mut lane, &unseen, Some(Duration::from_millis(1_500)));
        let (flow, oldest) = (lane.flow_ms, lane.oldest_ms);
        (lane.backlog, lane.backlog_flowing, flow, oldest)
    }

    #[test]
    fn work_that_came_after_the_last_report_is_as_old_as_the_database_says() {
        let idle = (0, 0, None, None);
        assert_eq!(counted(idle, 0, 0), (0, 0, None, None));
        assert_eq!(counted(idle, 3, 20), (3, 3, Some(20), Some(20)));
        let busy = (2, 2, Some(400), Some(400));
        assert_eq!(counted(busy, 3, 1_900), (3, 3, Some(1_900), Some(1_900)));
        assert_eq!(counted(busy, 0, 0), (0, 0, None, None), "it was applied");
        let held = (5, 0, None, Some(60_000));
        assert_eq!(counted(held, 5, 61_500), (5, 0, None, Some(61_500)));
        let more = counted(held, 6, 61_500);
        assert_eq!(
            more,
            (6, 1, Some(1_500), Some(61_500)),
            "held, so not flowing"
        );
    }
}
