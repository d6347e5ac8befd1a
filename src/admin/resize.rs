//! Resizing, draining, pausing and resuming lanes while they run. Each operation changes rows, by which
//! every node then acts; the answers report how far that has come.

use std::time::Duration;

use serde_json::json;

use super::namespaces::check_lanes;
use super::{Admin, Error};
use crate::api::{self, LaneState};
use crate::domain::lane::{LaneId, LaneSet, Mode, Slot};
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::store::{Attribution, AuditFilter, PendingResize, ResizeStart, SlotBacklog};
use crate::text::duration;

/// Time for which an operator waits until every node acts by a change, before the late nodes are named.
const ACT_MAX: Duration = Duration::from_secs(5);

/// Number of audit rows searched for the last resize.
const LOOKED_BACK: i64 = 50;

/// Pause between two looks at the nodes.
const LOOK: Duration = Duration::from_millis(20);

impl Admin {
    /// Starts a resize, or returns its plan. Resizing to the present number of lanes does nothing.
    ///
    /// # Errors
    /// [`Error::Conflict`] when a resize is under way, or the lanes are not as the operator saw them.
    pub async fn resize(&self, spec: &api::ResizeSpec, by: &str) -> Result<api::Resize, Error> {
        check_lanes(spec.lanes)?;
        self.engine()?;
        let set = self.namespace(&spec.namespace).await?.lanes;
        let under_way = self.store.resize_under_way(&spec.namespace).await?;
        if let Some(resize) = &under_way {
            return Err(Error::Conflict(busy(resize)));
        }
        let is_other = |seen: Option<i64>, now: i64| seen.is_some_and(|seen| seen != now);
        if is_other(spec.expect.map(i64::from), i64::from(set.lanes))
            || is_other(spec.generation, set.generation)
        {
            let (name, lanes) = (&spec.namespace, set.lanes);
            let wanted = spec.expect.filter(|wanted| *wanted != lanes);
            let wanted = wanted.map(|lanes| format!(", not {lanes}"));
            return Err(Error::Conflict(format!(
                "{name} has {lanes} lanes now{}{}. Nothing was changed.",
                wanted.unwrap_or_default(),
                self.last_resized(name).await?.unwrap_or_default()
            )));
        }
        let mut plan = self.plan_resize(&set, spec.lanes).await?;
        if spec.dry_run || set.lanes == spec.lanes {
            return Ok(plan);
        }
        self.store
            .tell_note(json!({"from": set.lanes, "to": spec.lanes,
            "generation": set.generation + 1, "drain_first": spec.drain_first}));
        let why = why(by, spec.reason.as_ref());
        // Paused lanes apply nothing, so waiting for them to drain would never end.
        let begun = match spec.drain_first && !plan.is_paused() {
            true => self.store.plan_resize(&set, spec.lanes, &why).await?,
            false => self.store.begin_resize(&set, spec.lanes, &why).await?,
        };
        match begun {
            ResizeStart::Begun(next) => {
                self.changed().await?;
                plan.next_generation = Some(next.generation);
                Ok(plan)
            }
            ResizeStart::Changed => Err(Error::Conflict(format!(
                "the lanes of {} were changed meanwhile. Nothing was changed.",
                spec.namespace
            ))),
            ResizeStart::Mixed => Err(Error::Conflict(plan.in_the_way.join("; "))),
        }
    }

    /// Text such as `: resized 40s ago by key ops-bob`, as far back as the audit log is searched.
    async fn last_resized(&self, namespace: &Name) -> Result<Option<String>, Error> {
        let of_namespace = AuditFilter {
            since: None,
            subject: Some(namespace.to_string()),
            before: None,
            limit: LOOKED_BACK,
        };
        let acts = self.audit(&of_namespace).await?;
        let last = acts.iter().find(|act| act.operation == "lanes resize");
        Ok(last.map(|act| {
            let age = duration(Timestamp::now().since(act.at));
            format!(": resized {age} ago by {}", act.actor)
        }))
    }

    async fn plan_resize(&self, set: &LaneSet, to: u16) -> Result<api::Resize, Error> {
        let waiting = self.store.waiting(&set.namespace).await?;
        let fullest_stream = self.store.largest_backlog(&set.namespace).await?;
        let size = self.store.resize_extent(set, to).await?;
        let number = |count: i64| u64::try_from(count).unwrap_or(0);
        let lanes = self.lanes(&set.namespace).await?;
        let busiest = lanes.iter().filter_map(|lane| lane.busy);
        let busiest = busiest.max_by(f64::total_cmp);
        let worst = lanes
            .iter()
            .filter_map(|lane| Some((lane, lane.worst.as_ref()?)));
        let worst = worst.max_by_key(|(_, worst)| worst.events);
        let busy = |lane: &&api::Lane| lane.busy.unwrap_or(0.0);
        let busy = lanes.iter().max_by(|a, b| busy(a).total_cmp(&busy(b)));
        let telling = worst.map(|(lane, _)| lane).or(busy);
        // An estimate that assumes evenly loaded streams.
        let after = |busy: f64| (busy * f64::from(set.lanes) / f64::from(to)).min(1.0);
        Ok(api::Resize {
            busiest,
            busiest_after: busiest.map(after),
            namespace: set.namespace.clone(),
            from: set.lanes,
            to,
            generation: set.generation,
            next_generation: None,
            streams: number(size.streams),
            moves: number(size.moves),
            set_aside: number(size.set_aside),
            worst: worst.map(|(_, worst)| Box::new(worst.clone())),
            lane: telling.map_or(0, |lane| lane.id.index),
            flow_ms: lanes.iter().filter_map(|lane| lane.flow_ms).max(),
            turn_wait_ms: lanes.iter().filter_map(|lane| lane.turn_wait_ms).max(),
            backlog: waiting.iter().map(|slot| slot.events).sum(),
            fullest_lane: fullest(&waiting, set.lanes),
            fullest_lane_after: fullest(&waiting, to),
            fullest_stream: fullest_stream.as_ref().map_or(0, |full| full.events),
            fullest_index_after: fullest_stream.as_ref().map(|full| full.slot.lane(to)),
            fullest: fullest_stream.map(|full| full.stream),
            in_the_way: self.in_the_way(set).await?,
            stopped: carried(&lanes),
        })
    }

    async fn in_the_way(&self, set: &LaneSet) -> Result<Vec<String>, Error> {
        let modes = self.store.lane_modes().await?;
        let mode = |lane: &LaneId| modes.get(lane).map_or(Mode::Active, |mode| mode.mode);
        let kind = |lane: &LaneId| match mode(lane) {
            Mode::Drained => Mode::Draining,
            mode => mode,
        };
        let lanes: Vec<_> = set.ids().collect();
        let is_mixed = lanes.iter().any(|lane| kind(lane) != kind(&lanes[0]));
        let stopped = lanes.iter().filter(|lane| mode(lane) != Mode::Active);
        Ok(match is_mixed {
            true => stopped
                .map(|lane| format!("{lane} is {}", mode(lane).word()))
                .collect(),
            false => Vec::new(),
        })
    }

    /// Progress of the resize of a namespace.
    ///
    /// # Errors
    /// [`Error::Missing`] namespace.
    pub async fn resize_progress(&self, namespace: &Name) -> Result<api::ResizeProgress, Error> {
        let under_way = self.store.resize_under_way(namespace).await?;
        let set = self.namespace(namespace).await?.lanes;
        let Some(resize) = under_way else {
            return Ok(api::ResizeProgress {
                generation: set.generation,
                lanes: set.lanes,
                under_way: false,
                sealed: 0,
                of: 0,
                waits_for: None,
                to: None,
            });
        };
        let of = resize.from.lanes;
        let unsealed = u16::try_from(resize.unsealed.len()).unwrap_or(of);
        Ok(api::ResizeProgress {
            generation: set.generation,
            lanes: set.lanes,
            under_way: true,
            sealed: of.saturating_sub(unsealed),
            of,
            waits_for: self.resize_waits_for(&resize).await?,
            to: Some(resize.to.lanes),
        })
    }

    async fn resize_waits_for(&self, resize: &PendingResize) -> Result<Option<String>, Error> {
        if resize.is_planned {
            let left = self.store.left(&resize.from).await?;
            let events: i64 = left.values().map(|left| left.events).sum();
            let cursors: i64 = left.values().map(|left| left.cursors).sum();
            return Ok(Some(format!(
                "{events} events of {cursors} cursors are left to drain"
            )));
        }
        Ok(resize.unsealed.first().map(|(lane, node)| match node {
            Some(node) => format!("lane {lane}, which node {node} has not sealed yet"),
            None => format!("lane {lane}, which has no node; the next node that looks seals it"),
        }))
    }

    /// Pauses lanes. Once no node is waited for, no turn runs in them.
    ///
    /// # Errors
    /// [`Error::Missing`] lane; [`Error::Conflict`] while a resize is under way.
    pub async fn pause_lanes(
        &self,
        spec: &api::LanesSpec,
        by: &str,
    ) -> Result<api::LanesStopped, Error> {
        let (set, lanes) = self.lanes_of(spec).await?;
        let why = why(by, spec.reason.as_ref());
        let done = self.store.pause_lanes(&set, &lanes, &why).await?;
        self.stopped(&set, &lanes, done).await
    }

    /// Drains lanes: events that wait now are applied, later ones are kept.
    ///
    /// # Errors
    /// As for [`Admin::pause_lanes`].
    pub async fn drain_lanes(
        &self,
        spec: &api::LanesSpec,
        by: &str,
    ) -> Result<api::LanesStopped, Error> {
        let (set, lanes) = self.lanes_of(spec).await?;
        let why = why(by, spec.reason.as_ref());
        let done = self.store.drain_lanes(&set, &lanes, &why).await?;
        self.stopped(&set, &lanes, done).await
    }

    /// Resumes lanes.
    ///
    /// # Errors
    /// As for [`Admin::pause_lanes`].
    pub async fn resume_lanes(&self, spec: &api::LanesSpec) -> Result<api::LanesStopped, Error> {
        let (set, lanes) = self.lanes_of(spec).await?;
        let done = self.store.resume_lanes(&set, &lanes).await?;
        self.stopped(&set, &lanes, done).await
    }

    async fn lanes_of(&self, spec: &api::LanesSpec) -> Result<(LaneSet, Vec<LaneId>), Error> {
        self.engine()?;
        let set = self.namespace(&spec.namespace).await?.lanes;
        let under_way = self.store.resize_under_way(&spec.namespace).await?;
        if let Some(resize) = under_way.filter(|resize| !resize.is_planned) {
            return Err(Error::Conflict(busy(&resize)));
        }
        let find = |name: &String| {
            let named =
                |lane: &LaneId| lane.to_string() == *name || lane.index.to_string() == *name;
            let found = set.ids().find(named);
            found.ok_or_else(|| no_lane(&set, name))
        };
        let named = spec.lanes.as_ref();
        let named = named.map(|names| names.iter().map(find).collect::<Result<Vec<_>, _>>());
        let named = named.transpose()?;
        let texts: Option<Vec<_>> = named
            .as_ref()
            .map(|lanes| lanes.iter().map(LaneId::to_string).collect());
        if let Some([lane]) = texts.as_deref() {
            self.store.amend_note(|note| note.subject.clone_from(lane));
        }
        self.store
            .tell_note(json!({"lanes": texts, "all": named.is_none()}));
        let lanes = named.unwrap_or_else(|| set.ids().collect());
        Ok((set, lanes))
    }

    /// Waits until every node acts by the change. `done` is false if the change was refused.
    async fn stopped(
        &self,
        set: &LaneSet,
        lanes: &[LaneId],
        done: bool,
    ) -> Result<api::LanesStopped, Error> {
        if !done {
            return Err(Error::Conflict(format!(
                "the lanes of {} were resized meanwhile. Nothing was changed.",
                set.namespace
            )));
        }
        self.changed().await?;
        let version = self.store.config_version().await?;
        Ok(api::LanesStopped {
            lanes: lanes.to_vec(),
            waits_for: self.acted_by_all(version).await?,
        })
    }

    /// Waits for all nodes to act by a version of the configuration; returns the names of those that do
    /// not in time.
    pub(super) async fn acted_by_all(&self, version: i64) -> Result<Vec<String>, Error> {
        let engine = self.engine()?;
        let began = tokio::time::Instant::now();
        loop {
            let mut late = Vec::new();
            if engine.acted() < version {
                late.push(self.node.clone());
            }
            let me = engine.member.as_ref().map(|member| member.id());
            for node in self.store.nodes().await? {
                if Some(&node.id) != me.as_ref() && node.config_seen < version {
                    late.push(node.name);
                }
            }
            if late.is_empty() || began.elapsed() > ACT_MAX {
                return Ok(late);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The stop that all lanes of a set have in common and the new lanes take over.
fn carried(lanes: &[api::Lane]) -> Option<api::InheritedStop> {
    let first = lanes.first()?;
    let state = match first.state {
        LaneState::Paused => LaneState::Paused,
        LaneState::Draining | LaneState::Drained => LaneState::Draining,
        LaneState::Active | LaneState::NoOwner => return None,
    };
    Some(api::InheritedStop {
        state,
        by: first.by.clone(),
        since: first.since,
        reason: first.reason.clone(),
    })
}

/// Error for a lane name that does not exist in the set.
pub(super) fn no_lane(set: &LaneSet, name: &str) -> Error {
    let there: Vec<_> = set.ids().map(|lane| lane.to_string()).collect();
    Error::missing_like("lane", name, there.iter().map(String::as_str))
}

pub(super) fn why(by: &str, reason: Option<&String>) -> Attribution {
    Attribution {
        by: by.to_owned(),
        reason: reason.cloned(),
        at: Timestamp::now(),
    }
}

fn busy(resize: &PendingResize) -> String {
    format!(
        "{} is being resized already: {} -> {} lanes, by {}. Nothing was changed.",
        resize.from.namespace,
        resize.from.lanes,
        resize.to.lanes,
        resize.by.as_deref().unwrap_or("an operator")
    )
}

/// Backlog of the fullest lane if there were `lanes` lanes.
fn fullest(waiting: &[SlotBacklog], lanes: u16) -> u64 {
    let mut full = vec![0_u64; usize::from(lanes)];
    for slot in waiting {
        full[usize::from(Slot(slot.slot).lane(lanes))] += slot.events;
    }
    full.into_iter().max().unwrap_or(0)
}
