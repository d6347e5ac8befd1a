//! What is seen of the whole once a second, for all who look: snapshots, their history, what is normal,
//! and the log of what changed. `past.rs` has the history, `normals.rs` what is stored of what is normal,
//! `feed.rs` who is told.

mod feed;
mod normals;
mod operations;
mod past;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::{Counter, Histogram};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use feed::Feeds;
pub use feed::Follower;
use past::Past;

use super::{Admin, Error, eta, verdict};
use crate::api::{self, Lane, LaneState, Severity};
use crate::domain::cursor::CursorId;
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::lane::{LaneId, LaneSet, Slot};
use crate::domain::name::{Name, StreamName};
use crate::domain::thresholds::Thresholds;
use crate::domain::time::{Timestamp, since_boot};
use crate::engine::catalog;
use crate::engine::membership::LEASE;
use crate::engine::ownership::{Member, View};
use crate::engine::{self, Waits};
use crate::metrics::Normal;
use crate::store;
use crate::text::counted;

/// Seconds of FLOW from which a slope is told.
const FLOWS_KEPT: usize = 60;

/// Seconds between looks at what need not be looked at every second.
const STEP: u64 = past::STEP as u64;

/// Steps of a lane's trend, and seconds in each.
const TREND: usize = 10;
const TREND_STEP: u64 = 90;

/// Cursors shown that are set aside, and that flow.
const SET_ASIDE_MAX: usize = 50;
const FLOWING_MAX: usize = 20;

/// Entries of the log that are kept, and shown.
const LOG_KEPT: usize = 1_000;
const LOG_SHOWN: usize = 200;

/// Hooks shown.
const HOOKS_SHOWN: usize = 20;

/// Hooks that other nodes are told of.
const HOOKS_TOLD: usize = 50;

/// Seconds between counts of streams.
const COUNTS_EVERY: u64 = 60;

/// Streams that are counted every ten seconds.
const COUNTED_OFTEN: u64 = 10_000;

/// How long one look may take before it is told that the database does not answer.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// A node whose beat has not changed for so long, three beats, has lost its lanes as far as people are told.
const SILENT: Duration = Duration::from_secs(9);

/// A node whose beat has not changed for so long, a beat and a half, is said to be silent.
const QUIET: Duration = Duration::from_secs(5);

/// A node whose beat has not changed for so long may know less of its lanes than the database.
const UNHEARD: Duration = Duration::from_secs(2);

/// Other nodes are told of a turn that has run for so long.
const LONG_TURN: Duration = Duration::from_secs(2);

/// Other nodes are told of a reducer that takes longer than this for an event, in seconds.
const SLOW_FOLD: f64 = 0.005;

/// What one node tells the others of itself, once a second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct NodeReport {
    pub lanes: Vec<Lane>,
    pub cursors: Vec<(Name, api::CursorLine)>,
    pub version: Option<String>,
    pub cpu: Option<f64>,
    pub commit_p99_ms: Option<f64>,
    pub fsync_p99_ms: Option<f64>,
    /// Events that it accepts, a second.
    pub accepted_per_s: f64,
    /// Hooks that get something from it: how much a second, and what is normal.
    pub hooks: Vec<(i64, f64, Option<f64>)>,
    /// Handlers that are much slower in its lanes than is normal: the time they take for an event, and the normal one.
    pub slow: Vec<(i64, f64, f64)>,
    /// Streams that keep events past their time: of which namespace, and in words.
    pub overdue: Vec<(Name, String)>,
    /// What is normal for its commits.
    pub commit_normal_ms: Option<f64>,
    /// What is wrong with Redis, as it sees it.
    pub hints: Option<api::Outage>,
    /// Turns of its lanes that have run for long: the lane, the cursor, and the time in milliseconds.
    pub turns: Vec<(String, String, u64)>,
    /// In each of its lanes that is late the stream with most to go, and how much.
    pub largest: Vec<(String, StreamName, u64)>,
    /// Reducers that take long for an event, and how long in seconds.
    pub folds: Vec<(i64, f64)>,
    /// What was finished since it began, by how long it had waited.
    pub waits: HashMap<Name, Waits>,
    /// What waits now, by how long so far.
    pub waiting: HashMap<Name, Waits>,
    /// Times of the last minutes in microseconds, and how many events took them.
    pub wait: HashMap<Name, Vec<(u64, u64)>>,
    pub work: HashMap<Name, Vec<(u64, u64)>>,
}

/// Keeps what was seen.
pub struct Monitor {
    began: Timestamp,
    seen: Mutex<Seen>,
    feeds: Feeds,
}

struct Seen {
    ticks: u64,
    spaces: HashMap<Name, Space>,
    snapshots: HashMap<Name, Arc<api::Snapshot>>,
    hooks: HashMap<HookId, Pace>,
    handlers: HashMap<HandlerId, Pace>,
    commit: Normal,
    /// What is stored of what is normal; none before it was read.
    kept: Option<normals::Kept>,
    accepted: (u64, Duration, f64),
    cpu: (Duration, Duration, f64),
    nodes: HashSet<String>,
    /// Since when the database does not answer.
    unanswered: Option<Timestamp>,
    /// What was wrong with database and Redis a second ago, for the log.
    troubles: Vec<(&'static str, String)>,
    /// The newest operation of an operator that stands in the log.
    noted: Option<i64>,
    /// Lost events that no operator knows of.
    lost: u64,
    log: VecDeque<api::LogLine>,
}

/// A figure now, and what is normal for it.
#[derive(Clone, Copy, Default)]
struct Pace {
    now: f64,
    normal: Normal,
}

impl Pace {
    /// Both figures, where it is much more than normal.
    fn is_slow(self) -> Option<(f64, f64)> {
        let normal = self.normal.value()?;
        (self.now > 2.0 * normal).then_some((self.now, normal))
    }
}

/// What was seen of one namespace.
#[derive(Default)]
struct Space {
    flow: VecDeque<u64>,
    lanes: HashMap<String, History>,
    past: Past,
    set_aside: HashSet<String>,
    help: Option<u16>,
    counts: Option<store::NamespaceCounts>,
    since: verdict::Since,
    /// Resizes and rebuilds that were under way a second ago.
    operations: Vec<String>,
}

#[derive(Default)]
struct History {
    flow: VecDeque<u64>,
    trend: VecDeque<u64>,
    state: Option<LaneState>,
    node: Option<String>,
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            began: Timestamp::now(),
            seen: Mutex::new(Seen {
                ticks: 0,
                spaces: HashMap::new(),
                snapshots: HashMap::new(),
                hooks: HashMap::new(),
                handlers: HashMap::new(),
                commit: Normal::default(),
                kept: None,
                accepted: (0, since_boot(), 0.0),
                cpu: (processor_time(), since_boot(), 0.0),
                nodes: HashSet::new(),
                unanswered: None,
                troubles: Vec::new(),
                noted: None,
                lost: 0,
                log: VecDeque::new(),
            }),
            feeds: Feeds::default(),
        }
    }
}

/// What is known of this node's own lanes before names are looked up.
struct Own {
    id: LaneId,
    lane: Lane,
    lines: Vec<crate::engine::lane::Line>,
    largest: Option<(CursorId, u64)>,
    turn: Option<(Duration, CursorId)>,
    reading: engine::Reading,
}

impl Admin {
    /// Looks at everything once: tells the other nodes of this one, makes the snapshots, and tells those who
    /// follow them. Where the database does not answer, that is what is told, and the rest stays as it was.
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
            Err(Error::Store(error)) => self.note_failure(error.told(), now),
            Err(error) => self.note_failure(error.to_string(), now),
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
            let lost = self.store.count_lost(None).await?;
            self.monitor.seen.lock().lost = lost;
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
            .map(|node| (node.name.clone(), Whole::report(&node.report)))
            .collect();
        let operations = self.operations(catalog).await?;
        self.note_acts().await?;
        let mut namespaces: Vec<_> = catalog.lane_sets.keys().cloned().collect();
        namespaces.sort();
        let whole = Whole {
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

    /// The snapshots as they were, and first of all that the database does not answer.
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
            known
                .verdicts
                .retain(|verdict| verdict.rule != 2 && verdict.class != api::Class::Ok);
            let storage = verdict::storage(&verdict::Facts {
                at: now,
                storage: known.storage.clone(),
                ..verdict::Facts::default()
            });
            if let Some(verdict) = storage {
                known.verdicts.insert(0, verdict);
            }
        }
    }

    /// A namespace as last seen, and what a window shows of its past.
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

    pub(super) async fn seen(&self, namespace: &Name) -> Result<Arc<api::Snapshot>, Error> {
        let engine = self.engine()?;
        if !engine.catalog.now().lane_sets.contains_key(namespace) {
            // Another node may have made it just now; and if not, the error says what was perhaps meant.
            self.namespace(namespace).await?;
        }
        if self.last_seen(namespace).is_none() {
            self.observe().await?;
        }
        self.last_seen(namespace)
            .ok_or_else(|| Error::missing("namespace", namespace))
    }

    /// What was seen a second ago, if anything was.
    pub(super) fn last_seen(&self, namespace: &Name) -> Option<Arc<api::Snapshot>> {
        self.monitor.seen.lock().snapshots.get(namespace).cloned()
    }

    /// What a window shows of a namespace's past, without what was seen until `after`.
    fn past(
        &self,
        namespace: &Name,
        window: api::Window,
        after: Option<Timestamp>,
    ) -> Vec<api::Sample> {
        let seen = self.monitor.seen.lock();
        let space = seen.spaces.get(namespace);
        space.map_or_else(Vec::new, |space| space.past.shown(window, after))
    }

    /// Brings what is measured every second, and every ten, up to now.
    fn tick(&self, catalog: &catalog::Snapshot, now: Timestamp) {
        let Some(engine) = &self.engine else { return };
        let mut seen = self.monitor.seen.lock();
        seen.ticks += 1;
        let accepted = engine.metrics.events_accepted.get();
        let clock = since_boot();
        if seen.ticks % 2 == 1 {
            let elapsed = clock.saturating_sub(seen.accepted.1).as_secs_f64().max(0.1);
            let rate = accepted.saturating_sub(seen.accepted.0) as f64 / elapsed;
            seen.accepted = (accepted, clock, rate);
            let used = processor_time();
            let elapsed = clock.saturating_sub(seen.cpu.1).as_secs_f64().max(0.1);
            let share = used.saturating_sub(seen.cpu.0).as_secs_f64() / elapsed;
            seen.cpu = (used, clock, share);
        }
        if !seen.ticks.is_multiple_of(STEP) {
            return;
        }
        let was_late = |seen: &Seen| {
            let flows = seen.spaces.iter();
            let mut flows = flows.filter_map(|(name, space)| Some((name, space.flow.back()?)));
            flows.any(|(name, flow)| is_over(*flow, catalog.thresholds(name)))
        };
        let learns = !was_late(&seen);
        let pulse = &engine.metrics.pulse;
        if let Some(p99) = pulse.commit_p99(now)
            && learns
        {
            seen.commit.learn(p99.as_secs_f64() * 1_000.0);
        }
        let accepted = pulse.take_accepted();
        for hook in catalog.hooks_by_id.keys() {
            let events = accepted.get(hook).copied().unwrap_or(0);
            let pace = seen.hooks.entry(*hook).or_default();
            pace.now = events as f64 / STEP as f64;
            if learns {
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

    async fn own_lanes(
        &self,
        catalog: &catalog::Snapshot,
        now: Timestamp,
    ) -> Result<Vec<Own>, Error> {
        let engine = self.engine()?;
        let mut own = Vec::new();
        for id in catalog.lane_sets.values().flat_map(LaneSet::ids) {
            let Some(worker) = engine.worker(&id) else {
                continue;
            };
            let (survey, reading) = worker.survey(now);
            let lane = super::lanes::running(&id, &self.node, &survey, &reading, None, now);
            let gathers = self.gathers(&survey).await?;
            own.push(Own {
                lane: api::Lane { gathers, ..lane },
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

    /// What is to be shown of cursors of this node: one query, and none when nothing waits.
    async fn names(
        &self,
        catalog: &catalog::Snapshot,
        own: &[Own],
        now: Timestamp,
    ) -> Result<HashMap<CursorId, api::CursorLine>, Error> {
        let mut lines: HashMap<CursorId, (&LaneId, crate::engine::lane::Line)> = HashMap::new();
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

    /// Cursors of a lane that runs here, for people.
    pub(super) async fn cursor_lines(
        &self,
        lines: Vec<crate::engine::lane::Line>,
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

    /// Tells the other nodes what the lanes of this one do. Those that do nothing are left out.
    fn tell(&self, own: &[Own], names: &HashMap<CursorId, api::CursorLine>, now: Timestamp) {
        let Some(engine) = &self.engine else { return };
        let Some(member) = &engine.member else { return };
        let is_told = |own: &&Own| own.lane.backlog > 0 || own.lane.wait_ms.is_some();
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
            // Rates to a whole number, so that a quiet cluster has no news to write.
            lane.in_per_s = lane.in_per_s.map(f64::round);
            lane.out_per_s = lane.out_per_s.map(f64::round);
        }
        member.report(serde_json::to_string(&report).unwrap_or_default());
    }

    async fn look(&self, namespace: &Name, whole: &Whole<'_>) -> Result<(), Error> {
        let Some(set) = whole.catalog.lane_sets.get(namespace) else {
            return Ok(());
        };
        let mut lanes = whole.lanes(set);
        self.show_modes(set, &mut lanes).await?;
        self.count_orphans(set, &mut lanes, whole).await?;
        let cursors = whole.cursors(namespace, &lanes);
        let thresholds = whole.catalog.thresholds(namespace);
        let help = match self.wants_help(namespace, thresholds, &lanes) {
            true => lanes_that_help(&self.store.waiting(namespace).await?, &lanes),
            false => None,
        };
        let counts = match self.wants_counts(namespace, whole.catalog) {
            true => Some(self.store.namespace_counts(namespace).await?),
            false => None,
        };
        let mut seen = self.monitor.seen.lock();
        let snapshot = self.compose(&mut seen, set, lanes, cursors, whole, help, counts);
        seen.snapshots.insert(namespace.clone(), Arc::new(snapshot));
        Ok(())
    }

    /// What waits in lanes that nobody runs: a node that is gone does not tell, the database does.
    async fn count_orphans(
        &self,
        set: &LaneSet,
        lanes: &mut [Lane],
        whole: &Whole<'_>,
    ) -> Result<(), Error> {
        let unheard = whole.unheard();
        let is_orphan = |lane: &&mut Lane| {
            let node = lane.node.as_ref();
            lane.state == LaneState::NoOwner || node.is_some_and(|node| unheard.contains(node))
        };
        let is_small = {
            let seen = self.monitor.seen.lock();
            let space = seen.spaces.get(&set.namespace);
            let counts = space.and_then(|space| space.counts.as_ref());
            counts.is_some_and(|counts| counts.streams() <= COUNTED_OFTEN)
        };
        if !is_small || !lanes.iter_mut().any(|lane| is_orphan(&lane)) {
            return Ok(());
        }
        let mut waiting = HashMap::new();
        for slot in self.store.waiting(&set.namespace).await? {
            let lane = set.lane(Slot(slot.slot)).to_string();
            *waiting.entry(lane).or_insert(0) += slot.events;
        }
        let silent = whole.silent();
        for lane in lanes.iter_mut().filter(is_orphan) {
            let mut silent = silent.iter();
            let silent = silent.find(|silent| lane.node.as_ref() == Some(&silent.node));
            let events = waiting.get(&lane.lane).copied().unwrap_or(0);
            waits_unseen(lane, events, silent.map(|silent| silent.silent));
        }
        Ok(())
    }

    /// Whether it is worth a query which number of lanes would help.
    fn wants_help(&self, namespace: &Name, thresholds: Thresholds, lanes: &[Lane]) -> bool {
        let facts = verdict::Facts {
            thresholds,
            lanes,
            ..verdict::Facts::default()
        };
        let seen = self.monitor.seen.lock();
        let before = seen.spaces.get(namespace);
        let before = before.and_then(|space| space.flow.back());
        let was_late = before.is_some_and(|flow| is_over(*flow, thresholds));
        facts.is_late() && (seen.ticks.is_multiple_of(STEP) || !was_late)
    }

    /// Whether it is time to count streams, which takes a while when there are many.
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

    #[allow(clippy::too_many_arguments)]
    fn compose(
        &self,
        seen: &mut Seen,
        set: &LaneSet,
        mut lanes: Vec<Lane>,
        cursors: Vec<api::CursorLine>,
        whole: &Whole<'_>,
        help: Option<u16>,
        counts: Option<store::NamespaceCounts>,
    ) -> api::Snapshot {
        let now = whole.now;
        let ticks = seen.ticks;
        let mut space = seen.spaces.remove(&set.namespace).unwrap_or_default();
        space.counts = counts.or(space.counts);
        let counts = space.counts.clone().unwrap_or_default();
        let thresholds = whole.catalog.thresholds(&set.namespace);
        let mut news = space.note_lanes(&mut lanes, &cursors, whole, thresholds, ticks);
        if ticks.is_multiple_of(STEP) || help.is_some() {
            space.help = help;
        }
        let mut total = total(&lanes);
        (total.wait_ms, total.work_ms) = whole.times(&set.namespace, total.oldest_ms);
        total.dead = counts.dead;
        total.backlog_per_s = space.past.backlog_per_s(total.backlog, now);
        let waits = whole.waits(&set.namespace);
        space.past.note(&total, waits, now);
        keep(&mut space.flow, total.flow_ms.unwrap_or(0), FLOWS_KEPT);
        news.extend(space.note_set_aside(&cursors));
        news.extend(note_nodes(&mut seen.nodes, whole));
        super::lanes::hide_flow_of_stopped(&mut lanes);
        let mut storage = self.storage(seen, now);
        let accepted = whole.reports().map(|report| report.accepted_per_s);
        storage.accepted_per_s += accepted.sum::<f64>();
        let (hooks, paces) = hook_lines(seen, set, whole, &counts);
        let handlers = handler_paces(seen, set, whole);
        let turns = whole.turns(&set.namespace);
        let operations = whole.operations.get(&set.namespace);
        let operations = operations.cloned().unwrap_or_default();
        news.extend(space.note_operations(&operations));
        seen.note_troubles(whole.troubles(&storage), now);
        let commits = whole.slow_commits(&storage, &self.node);
        let silent = whole.silent();
        let largest = whole.largest(&set.namespace);
        let paused = stopped_hooks(set, whole.catalog, now, false);
        let stuck = stopped_hooks(set, whole.catalog, now, true);
        let overdue = self.overdue(&set.namespace, whole);
        let mut verdicts = verdict::verdicts(&verdict::Facts {
            at: now,
            namespace: Some(set.namespace.clone()),
            thresholds,
            lanes: &lanes,
            cursors: &cursors,
            silent: &silent,
            heirs: &whole.heirs(),
            storage: storage.clone(),
            commits: &commits,
            hints: whole.failing_hints(&storage),
            turns: &turns,
            hooks: &paces,
            handlers: &handlers,
            paused: &paused,
            stuck: &stuck,
            overdue: &overdue,
            largest: &largest,
            lanes_that_help: space.help,
            lost: seen.lost,
        });
        space.since.date(&mut verdicts, now);
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
            started_at: self.monitor.began,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.clone(),
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
            total,
            storage,
            lanes,
            cursors,
            nodes: self.nodes(seen, &set.namespace, whole),
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

    /// What nodes tell of streams of a namespace that keep events past their time.
    fn overdue(&self, namespace: &Name, whole: &Whole<'_>) -> Vec<String> {
        let own = self.engine.as_deref().map(overdue).unwrap_or_default();
        let told = whole.reports().flat_map(|report| report.overdue.clone());
        let of_space = own
            .into_iter()
            .chain(told)
            .filter(|(space, _)| space == namespace);
        of_space.map(|(_, told)| told).collect()
    }

    fn storage(&self, seen: &Seen, now: Timestamp) -> api::Storage {
        let Some(engine) = &self.engine else {
            return api::Storage::default();
        };
        let pulse = &engine.metrics.pulse;
        let failing = pulse.failing();
        api::Storage {
            accepting: failing.is_none() && !engine.is_failing(),
            hints: failing_hints(engine),
            hints_server: engine.relay.server(),
            accepted_per_s: hundredths(seen.accepted.2),
            commit_p99_ms: commit_p99(engine, now),
            commit_normal_ms: seen.commit.value().map(hundredths),
            fsync_p99_ms: fsync_p99(engine, now),
            error_since: failing.as_ref().map(|failing| failing.since),
            error: failing.map(|failing| failing.error),
            noted: pulse.noted(now).map(|noted| api::Noted {
                from: noted.from,
                until: noted.until,
                error: noted.error,
            }),
        }
    }

    fn nodes(&self, seen: &Seen, namespace: &Name, whole: &Whole<'_>) -> Vec<api::NodeLine> {
        let Some(engine) = &self.engine else {
            return Vec::new();
        };
        let now = whole.now;
        let Some(member) = &engine.member else {
            let own = whole
                .own
                .iter()
                .filter(|own| own.id.namespace == *namespace);
            let indexes: Vec<_> = own.clone().map(|own| own.id.index).collect();
            return vec![api::NodeLine {
                node: self.node.clone(),
                lanes: whole.own.len() as u64,
                lanes_here: indexes.len() as u64,
                owns: ranges(&indexes),
                busy: mean(own.filter_map(|own| own.lane.busy)),
                cpu: Some(hundredths(seen.cpu.2)),
                commit_p99_ms: commit_p99(engine, now),
                fsync_p99_ms: fsync_p99(engine, now),
                beat_ms: None,
                up_ms: Some(millis(now.since(self.monitor.began))),
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
                leaving: false,
            }];
        };
        let me = member.id();
        let line = |node: &crate::store::NodeRow| {
            let report = Whole::report(&node.report);
            let mine = whole.view.lanes.iter();
            let mine = mine.filter(|lane| lane.node.as_ref() == Some(&node.id));
            let of_space = mine.clone().filter(|lane| lane.id.namespace == *namespace);
            let indexes: Vec<_> = of_space.map(|lane| lane.id.index).collect();
            let is_of_space = |lane: &&Lane| lane.id().is_some_and(|id| id.namespace == *namespace);
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
                beat_ms: match node.id == me {
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
}

/// Everything that one look at the whole has found.
struct Whole<'w> {
    catalog: &'w catalog::Snapshot,
    view: &'w View,
    silences: &'w HashMap<String, Duration>,
    own: &'w [Own],
    names: &'w HashMap<CursorId, api::CursorLine>,
    /// What the other nodes tell, by their names.
    reports: Vec<(String, NodeReport)>,
    /// What is under way, by namespace.
    operations: HashMap<Name, Vec<api::Operation>>,
    now: Timestamp,
}

impl Whole<'_> {
    fn report(json: &str) -> NodeReport {
        serde_json::from_str(json).unwrap_or_default()
    }

    fn is_silent(&self, node: &str) -> bool {
        self.silences
            .get(node)
            .is_some_and(|silent| *silent >= SILENT)
    }

    fn reports(&self) -> impl Iterator<Item = &NodeReport> {
        self.reports.iter().map(|(_, report)| report)
    }

    /// The names of nodes whose beat has not changed for this long, and for how long.
    fn silent_for(&self, least: Duration) -> impl Iterator<Item = (&String, Duration)> {
        let nodes = self.view.nodes.iter();
        let silent = nodes.filter_map(|node| Some((&node.name, *self.silences.get(&node.id)?)));
        silent.filter(move |(_, silent)| *silent >= least)
    }

    fn silent(&self) -> Vec<verdict::Silent> {
        let silent = self.silent_for(QUIET);
        let silent = silent.map(|(node, silent)| verdict::Silent {
            node: node.clone(),
            silent,
            left: LEASE.saturating_sub(silent),
        });
        silent.collect()
    }

    fn unheard(&self) -> HashSet<&String> {
        self.silent_for(UNHEARD).map(|(node, _)| node).collect()
    }

    /// Nodes that beat, and so take over what others leave.
    fn heirs(&self) -> Vec<String> {
        let is_quiet = |id| self.silences.get(id).is_some_and(|silent| *silent >= QUIET);
        let nodes = self.view.nodes.iter();
        let heirs = nodes.filter(|node| !is_quiet(&node.id) && !node.is_leaving());
        heirs.map(|node| node.name.clone()).collect()
    }

    /// What is wrong with Redis: what this node sees, else what another one does.
    fn failing_hints(&self, storage: &api::Storage) -> Option<api::Outage> {
        let own = storage.hints.iter();
        let told = self.reports().filter_map(|report| report.hints.as_ref());
        own.chain(told).min_by_key(|outage| outage.since).cloned()
    }

    fn troubles(&self, storage: &api::Storage) -> Vec<(&'static str, String)> {
        let storage_error = storage.error.iter().map(|why| ("storage", why.clone()));
        let hints = self.failing_hints(storage);
        let hints = hints.into_iter().map(|outage| ("hints", outage.why));
        storage_error.chain(hints).collect()
    }

    /// How long commits take on each node, and what is normal there: the same list on all of them.
    fn slow_commits(&self, own: &api::Storage, node: &str) -> Vec<(Option<String>, f64, f64)> {
        let is_alone = self.view.nodes.len() < 2;
        let own = (node, own.commit_p99_ms, own.commit_normal_ms);
        let told = self.reports.iter();
        let told = told.map(|(node, told)| (&**node, told.commit_p99_ms, told.commit_normal_ms));
        let all = std::iter::once(own).chain(told);
        all.filter_map(|(node, p99, normal)| {
            Some(((!is_alone).then(|| node.to_owned()), p99?, normal?))
        })
        .collect()
    }

    /// The lanes of a set, wherever they run; while it is resized, those of the older one that are not
    /// sealed before them.
    fn lanes(&self, set: &LaneSet) -> Vec<Lane> {
        let reports = super::lanes::reports(self.view);
        let older = self.view.lanes.iter().map(|lane| lane.id.clone());
        let older =
            older.filter(|id| id.namespace == set.namespace && id.generation < set.generation);
        let shown = |id: LaneId| match self.own.iter().find(|own| own.id == id) {
            Some(own) => Lane {
                epoch: super::lanes::epoch(&id, self.view),
                ..own.lane.clone()
            },
            None => {
                let mut lane = super::lanes::elsewhere(&id, self.view, &reports);
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

    /// What each hook gets a second from all nodes, and what is normal.
    fn hook_paces(&self, seen: &Seen) -> HashMap<HookId, (f64, Option<f64>)> {
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

    fn cursors(&self, namespace: &Name, lanes: &[Lane]) -> Vec<api::CursorLine> {
        let own = self.own.iter().filter(|own| own.id.namespace == *namespace);
        let lines = own.flat_map(|own| &own.lines);
        let mut lines: Vec<_> = lines
            .filter_map(|line| self.names.get(&line.cursor).cloned())
            .collect();
        for node in &self.view.nodes {
            let told = Self::report(&node.report).cursors.into_iter();
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

    fn turns(&self, namespace: &Name) -> Vec<(LaneId, String, Duration)> {
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

    fn largest(&self, namespace: &Name) -> Vec<(LaneId, StreamName, u64)> {
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
    fn waits(&self, namespace: &Name) -> past::Counted {
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
    fn times(
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
            super::lanes::percentiles(&wait, oldest_ms),
            super::lanes::percentiles(&work, None),
        )
    }
}

impl Seen {
    /// What other nodes are told of it. What does not happen is left out, so that a quiet cluster has no news.
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
        NodeReport {
            folds,
            commit_normal_ms: self.commit.value().map(hundredths),
            cpu: Some(hundredths(self.cpu.2)),
            accepted_per_s: self.accepted.2.round(),
            hooks,
            slow,
            ..NodeReport::default()
        }
    }
}

impl Seen {
    fn add_log(&mut self, line: api::LogLine) {
        if self.log.len() == LOG_KEPT {
            self.log.pop_back();
        }
        self.log.push_front(line);
    }

    /// Says in the log what is wrong with database and Redis now and was not, and what is over.
    fn note_troubles(&mut self, now: Vec<(&'static str, String)>, at: Timestamp) {
        let before = std::mem::replace(&mut self.troubles, now.clone());
        let is_in =
            |all: &[(&str, String)], scope: &str| all.iter().any(|(known, _)| *known == scope);
        let began = now.iter().filter(|(scope, _)| !is_in(&before, scope));
        let began = began.map(|(scope, why)| (Severity::Trouble, *scope, why.clone()));
        let over = before.iter().filter(|(scope, _)| !is_in(&now, scope));
        let over = over.map(|(scope, why)| (Severity::Fine, *scope, format!("over: {why}")));
        let news: Vec<_> = began.chain(over).collect();
        for (severity, scope, what) in news {
            self.add_log(api::LogLine {
                at,
                severity,
                scope: scope.to_owned(),
                what,
            });
        }
    }
}

impl NodeReport {
    /// Adds what the verdict of every node needs to know of a lane: a turn that runs for long, and, where the
    /// lane is late, the stream with most to go.
    fn tell_worst(
        &mut self,
        own: &Own,
        names: &HashMap<CursorId, api::CursorLine>,
        thresholds: Thresholds,
    ) {
        if let Some((ran, cursor)) = own.turn.filter(|(ran, _)| *ran >= LONG_TURN) {
            let line = names.get(&cursor);
            let name = line.map(|line| format!("{} -> {}", line.stream, line.handler));
            let name = name.unwrap_or_default();
            self.turns.push((own.lane.lane.clone(), name, millis(ran)));
        }
        let is_late = own.lane.flow_ms.is_some_and(|ms| is_over(ms, thresholds));
        if let Some((cursor, events)) = own.largest.filter(|_| is_late)
            && let Some(line) = names.get(&cursor)
        {
            let lane = own.lane.lane.clone();
            self.largest.push((lane, line.stream.clone(), events));
        }
    }

    /// Adds what the lanes of each namespace make together.
    fn sum_up(&mut self, own: &[Own]) {
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

/// The times that were seen, in microseconds, and how many events took them.
fn counts<C: Counter>(times: &Histogram<C>) -> impl Iterator<Item = (u64, u64)> + '_ {
    let recorded = times.iter_recorded();
    recorded.map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value().as_u64()))
}

fn gather(times: &mut Histogram<u64>, counts: impl IntoIterator<Item = (u64, u64)>) {
    for (time, events) in counts {
        times.saturating_record_n(time, events);
    }
}

/// Notes how much waits in a lane whose node told of it last before it fell silent. What was set aside or kept then
/// still is; the rest may flow, and waits at least since then.
fn waits_unseen(lane: &mut Lane, events: u64, silent: Option<Duration>) {
    let stands = lane.backlog.saturating_sub(lane.backlog_flowing);
    lane.backlog = events.max(stands);
    lane.backlog_flowing = lane.backlog - stands;
    let Some(silent) = silent else { return };
    let older = |ms: u64| ms.saturating_add(millis(silent));
    lane.flow_ms = (lane.backlog_flowing > 0).then(|| older(lane.flow_ms.unwrap_or(0)));
    lane.oldest_ms = lane.oldest_ms.map(older).max(lane.flow_ms);
}

/// Forgets the lines that others in the lanes of their namespace keep from being shown: names of thousands are not
/// looked up once a second.
fn keep_those_shown(own: &mut [Own]) {
    use crate::engine::lane::Line;
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

type News = (Severity, String, String);

impl Space {
    /// Adds to the lanes what their history tells, and says what is new about them.
    fn note_lanes(
        &mut self,
        lanes: &mut [Lane],
        cursors: &[api::CursorLine],
        whole: &Whole<'_>,
        thresholds: Thresholds,
        ticks: u64,
    ) -> Vec<News> {
        let mut news = Vec::new();
        let live = whole
            .view
            .nodes
            .iter()
            .filter(|node| !whole.is_silent(&node.id));
        let has_heir = live.count() > 0;
        for lane in lanes.iter_mut() {
            let history = self.lanes.entry(lane.lane.clone()).or_default();
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
            (lane.eta, lane.eta_ms) = (word.map(str::to_owned), ms);
            lane.trend = history.trend.iter().copied().collect();
            lane.severity = verdict::severity(lane, cursors, &flow, thresholds);
            news.extend(history.news(lane));
        }
        self.lanes
            .retain(|name, _| lanes.iter().any(|lane| lane.lane == *name));
        news
    }

    /// Says which resizes and rebuilds have begun and ended since the last look.
    fn note_operations(&mut self, operations: &[api::Operation]) -> Vec<News> {
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

    fn note_set_aside(&mut self, cursors: &[api::CursorLine]) -> Vec<News> {
        let is_aside = |line: &&api::CursorLine| matches!(&*line.condition, "waiting" | "held");
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
                    .unwrap_or_else(|| line.condition.clone());
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

impl History {
    fn news(&mut self, lane: &Lane) -> Option<News> {
        let is_first = self.state.is_none();
        let has_moved = self.node != lane.node;
        let before = self.state.replace(lane.state);
        self.node.clone_from(&lane.node);
        let scope = format!("lane {}", lane.index);
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
            return Some((severity, scope, what));
        }
        let node = lane.node.as_ref().filter(|_| has_moved)?;
        Some((Severity::Fine, scope, format!("taken by {node}")))
    }
}

fn note_nodes(known: &mut HashSet<String>, whole: &Whole<'_>) -> Vec<News> {
    let now: HashSet<_> = whole
        .view
        .nodes
        .iter()
        .map(|node| node.name.clone())
        .collect();
    let is_first = known.is_empty();
    let mut news = Vec::new();
    if !is_first {
        for node in now.difference(known) {
            news.push((Severity::Fine, node.clone(), "has joined".to_owned()));
        }
        for node in known.difference(&now) {
            news.push((Severity::Unusual, node.clone(), "is gone".to_owned()));
        }
    }
    *known = now;
    news
}

/// Whether a FLOW in milliseconds is late.
fn is_over(flow_ms: u64, thresholds: Thresholds) -> bool {
    Duration::from_millis(flow_ms) > thresholds.warn
}

fn keep<T>(ring: &mut VecDeque<T>, value: T, most: usize) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(value);
}

/// Says of cursors that flow in lanes that an operator has stopped that they are paused.
fn pause(cursors: &mut [api::CursorLine], lanes: &[Lane]) {
    for line in cursors {
        let lane = lanes.iter().find(|lane| line.is_in(lane));
        if lane.is_some_and(Lane::is_stopped) && line.condition == "flowing" {
            line.condition = "paused".to_owned();
        }
    }
}

fn is_same(a: &api::CursorLine, b: &api::CursorLine) -> bool {
    a.stream == b.stream && a.handler == b.handler
}

fn line_of(
    stream: StreamName,
    handler: &Name,
    kept: Option<&crate::store::CursorState>,
    line: Option<&(&LaneId, crate::engine::lane::Line)>,
    now: Timestamp,
) -> api::CursorLine {
    let position = kept.map(|kept| kept.position).unwrap_or_default();
    let behind = line.map_or(0, |(_, line)| line.behind);
    let is_aside = line.is_some_and(|(_, line)| line.is_set_aside);
    let condition = match line {
        Some((_, line)) if line.is_kept => "paused".to_owned(),
        // The row may be a moment ahead of the lane, or behind it: the lane says what it does.
        Some(_) if !is_aside => "flowing".to_owned(),
        _ => kept
            .map_or("flowing", |kept| kept.condition.word())
            .to_owned(),
    };
    let kept = kept.filter(|_| is_aside);
    let by_operator = kept.is_some_and(|kept| kept.condition.is_by_operator());
    api::CursorLine {
        by_operator,
        stream,
        handler: handler.clone(),
        lane: line.map_or(0, |(lane, _)| lane.index),
        generation: line.map_or(0, |(lane, _)| lane.generation),
        condition,
        position,
        head: crate::domain::position::Seq(
            position
                .0
                .saturating_add(i64::try_from(behind).unwrap_or(0)),
        ),
        behind,
        oldest_ms: line.map(|(_, line)| millis(now.since(line.oldest))),
        tries: kept.map_or(0, |kept| kept.condition.tries()),
        result: kept.and_then(|kept| kept.condition.reason().map(str::to_owned)),
        retry_at: kept.and_then(|kept| kept.retry_at()),
        next: None,
    }
}

fn total(lanes: &[Lane]) -> api::Total {
    let sum = |of: fn(&Lane) -> u64| lanes.iter().map(of).sum();
    let rate = |of: fn(&Lane) -> Option<f64>| hundredths(lanes.iter().filter_map(of).sum());
    let is_running = |lane: &&Lane| !lane.is_stopped();
    let etas = lanes.iter().map(|lane| (lane.eta.as_deref(), lane.eta_ms));
    let (eta, eta_ms) = eta::worst(etas);
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

/// The hooks of a namespace that operators have paused, or that are stuck, and who, when and why.
fn stopped_hooks(
    set: &LaneSet,
    catalog: &catalog::Snapshot,
    now: Timestamp,
    is_stuck: bool,
) -> Vec<(Name, String)> {
    let told = |(id, stop): (&HookId, &crate::store::HookStop)| {
        let hook = catalog.hooks_by_id.get(id)?;
        let is_meant = stop.stuck().is_some() == is_stuck;
        let is_here = hook.namespace == set.namespace && is_meant;
        let told = super::stops::told(&hook.name, stop, now).filter(|_| is_here)?;
        Some((hook.name.clone(), told))
    };
    let mut paused: Vec<_> = catalog.stops.hooks.iter().filter_map(told).collect();
    paused.sort_unstable();
    paused
}

/// Streams of this node that keep events past their time, in words, and whose lanes they use.
fn overdue(engine: &crate::engine::Engine) -> Vec<(Name, String)> {
    let catalog = engine.catalog.peek();
    let told = |found: crate::engine::prune::Overdue| {
        let hook = catalog.hooks.get(&found.example.hook)?;
        let streams = counted(found.streams, "stream keeps", "streams keep");
        let (keep, why, example) = (found.keep, found.why, found.example);
        let told = format!("{streams} events past {keep}, such as {example}: {why}");
        Some((hook.namespace.clone(), told))
    };
    engine.overdue().into_iter().filter_map(told).collect()
}

fn hook_lines(
    seen: &Seen,
    set: &LaneSet,
    whole: &Whole<'_>,
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
        verify: "write key".to_owned(),
    };
    (hooks.iter().take(HOOKS_SHOWN).map(line).collect(), told)
}

/// Handlers with the time that they take for an event, and the normal one; in lanes of several nodes, that of each.
fn handler_paces(seen: &Seen, set: &LaneSet, whole: &Whole<'_>) -> Vec<(String, f64, Option<f64>)> {
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
    seen: &Seen,
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

/// The least number of lanes after which none is above 70 % busy, were today's waiting work laid on them.
fn lanes_that_help(waiting: &[crate::store::SlotBacklog], lanes: &[Lane]) -> Option<u16> {
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

/// What is wrong with Redis, as this node sees it.
fn failing_hints(engine: &crate::engine::Engine) -> Option<api::Outage> {
    let (since, why) = engine.relay.trouble()?;
    Some(api::Outage { why, since })
}

pub(super) fn commit_p99(engine: &crate::engine::Engine, now: Timestamp) -> Option<f64> {
    engine.metrics.pulse.commit_p99(now).map(fine_millis)
}

fn fsync_p99(engine: &crate::engine::Engine, now: Timestamp) -> Option<f64> {
    engine.metrics.pulse.sync_p99(now).map(fine_millis)
}

fn fine_millis(took: Duration) -> f64 {
    hundredths(took.as_secs_f64() * 1_000.0)
}

/// Processor time that this process has used.
fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(used.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(used.tv_nsec).unwrap_or(0))
}

/// `0-3,7`
fn ranges(indexes: &[u16]) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*index) => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let written = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    written.collect::<Vec<_>>().join(",")
}

fn mean(shares: impl Iterator<Item = f64>) -> Option<f64> {
    let shares: Vec<_> = shares.collect();
    let sum: f64 = shares.iter().sum();
    (!shares.is_empty()).then(|| hundredths(sum / shares.len() as f64))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn while_lanes_are_resized_a_cursor_stands_still_with_the_lane_of_its_own_generation() {
        let lane = |generation, state| Lane {
            state,
            ..super::super::lanes::idle(&LaneId {
                namespace: Name::default_namespace(),
                generation,
                index: 0,
            })
        };
        let lanes = [lane(7, LaneState::Active), lane(8, LaneState::Paused)];
        let stream: StreamName = "billing/acme".parse().unwrap();
        let handler: Name = "reduce".parse().unwrap();
        let mut lines = [7, 8].map(|generation| api::CursorLine {
            generation,
            ..line_of(stream.clone(), &handler, None, None, Timestamp::default())
        });
        pause(&mut lines, &lanes);
        let conditions = lines.map(|line| line.condition);
        assert_eq!(conditions, ["flowing", "paused"]);
    }
}
