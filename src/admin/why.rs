//! Diagnosis of a stream: why it is where it is, and which lane it belongs to.

mod advice;

use std::time::Duration;

use super::monitor::commit_p99;
use super::namespaces::check_lanes;
use super::verdict::{MISSED, QUIET};
use super::{Admin, Error, forwards, stops};
use crate::api::{self, Class, CursorDiagnosis, EventDiagnosis, Help, LaneState, Rule, Verdict};
use crate::domain::cursor::{Condition, CursorId};
use crate::domain::event::{Event, EventId};
use crate::domain::filter::Filter;
use crate::domain::hook::{HandlerId, Hook};
use crate::domain::keep::Keep;
use crate::domain::lane::Slot;
use crate::domain::name::{Name, StreamName};
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;
use crate::engine::Engine;
use crate::store::{CursorRow, CursorsFilter};
use crate::text::{counted, duration};

use advice::{Stop, advise, blame, verdict};

/// A hint that is missing for longer than this may be lost.
const HINT_MAX: Duration = Duration::from_secs(2);

impl Admin {
    /// Explains why a stream is, or is not, at its head, for one handler or all, and optionally where
    /// one event is.
    ///
    /// # Errors
    /// [`Error::Missing`] hook, stream, handler or event; [`Error::NeedsDaemon`].
    pub async fn why(
        &self,
        name: &StreamName,
        handler: Option<&Name>,
        event: Option<EventId>,
    ) -> Result<api::Diagnosis, Error> {
        let (hook, stream) = match self.stream(name).await {
            Err(Error::Missing { kind: "stream", .. }) if name.key.as_str().is_empty() => {
                return self.why_hook(name).await;
            }
            found => found?,
        };
        let lane = self.lane_by_slot(&hook, stream.slot).await?;
        let filter = CursorsFilter {
            stream: Some(stream.id),
            limit: 100,
            ..CursorsFilter::default()
        };
        let rows = self.store.cursors(&filter).await?;
        let mut cursors = Vec::new();
        for row in rows {
            let Some(of) = hook.handlers.iter().find(|of| of.id == row.id.handler) else {
                continue;
            };
            if handler.is_none_or(|wanted| *wanted == of.name) {
                cursors.push(
                    self.why_cursor(&hook, &of.name, name, row, (&lane, stream.slot))
                        .await?,
                );
            }
        }
        if let Some(wanted) = handler.filter(|_| cursors.is_empty()) {
            let there = hook.handlers.iter().map(|handler| handler.name.as_str());
            return Err(Error::missing_like("handler", wanted.as_str(), there));
        }
        let event = match event {
            Some(id) => Some(self.why_event(id, name, &cursors).await?),
            None => None,
        };
        let catalog = self.engine()?.catalog.now();
        let stop = catalog.stops.hooks.get(&hook.id);
        let is_stuck = stop.is_some_and(|stop| stop.stuck().is_some());
        let unheard = silence(self.engine()?, &lane).filter(|silence| *silence >= MISSED);
        let (mut class, mut verdict) = verdict(name, &cursors, (&lane, unheard), is_stuck);
        if class == Class::Ok
            && cursors.iter().any(|cursor| cursor.behind > 0)
            && let Some(whole) = self.verdict_of(name, &hook, &lane)
        {
            blame(&whole, &mut cursors);
            // Without a node it takes no turns.
            verdict = match whole.rule {
                Rule::NoOwner => whole.text,
                _ => format!("{}; {verdict}", whole.text),
            };
            class = whole.class;
        }
        let lost = self.store.count_lost_of(stream.id, hook.id, &name.key);
        let lost = lost.await?;
        if lost > 0 {
            class = Class::Us;
            let events = counted(lost, "acknowledged event", "acknowledged events");
            verdict = format!("a failover of Postgres lost {events} of it; {verdict}");
        }
        Ok(api::Diagnosis {
            stream: name.clone(),
            head: stream.head,
            order: self.order_of_stream(&hook, (stream.id, &name.key)).await?,
            slot: stream.slot.0,
            namespace: hook.namespace.clone(),
            lane,
            class,
            verdict,
            commit_p99_ms: commit_p99(self.engine()?, Timestamp::now()),
            deliveries: forwards::deliveries(self.engine()?, &hook),
            cursors,
            event,
            rejections: match name.key.as_str() {
                "" => self.rejections(&hook.name).await?,
                _ => Vec::new(),
            },
            unused_secrets: match name.key.as_str() {
                "" => self.unused_secrets(&hook).await?,
                _ => Vec::new(),
            },
        })
    }

    /// The diagnosis of a hook that has no stream with the empty key: its rejections and unused secrets.
    async fn why_hook(&self, name: &StreamName) -> Result<api::Diagnosis, Error> {
        let hook = self.hook(&name.hook).await?;
        let rejections = self.rejections(&hook.name).await?;
        let unused_secrets = self.unused_secrets(&hook).await?;
        if rejections.is_empty() && unused_secrets.is_empty() {
            return Err(self.no_stream(&hook, name).await?);
        }
        let slot = Slot::of(&hook.name, &name.key);
        let requests: u64 = rejections.iter().map(|one| one.count).sum();
        let requests = counted(requests, "request was rejected", "requests were rejected");
        Ok(api::Diagnosis {
            stream: name.clone(),
            head: Seq(0),
            order: self.order_of_hook(&hook).await?,
            slot: slot.0,
            namespace: hook.namespace.clone(),
            lane: self.lane_by_slot(&hook, slot).await?,
            class: Class::Them,
            verdict: requests,
            commit_p99_ms: commit_p99(self.engine()?, Timestamp::now()),
            cursors: Vec::new(),
            event: None,
            deliveries: forwards::deliveries(self.engine()?, &hook),
            rejections,
            unused_secrets,
        })
    }

    /// The namespace's verdict that explains a stream which waits without an error of its own. Same
    /// text as in `status` and the dashboard.
    fn verdict_of(&self, stream: &StreamName, hook: &Hook, lane: &api::Lane) -> Option<Verdict> {
        let seen = self.last_seen(&hook.namespace)?;
        let is_late = lane.flow_ms.is_some_and(|ms| ms > seen.warn_ms);
        let silence = self
            .engine
            .as_ref()
            .and_then(|engine| silence(engine, lane));
        let is_silent = silence.is_some_and(|silence| silence >= QUIET);
        let is_about = |verdict: &&Verdict| match verdict.rule {
            Rule::NoOwner => lane.state == LaneState::NoOwner || is_silent,
            Rule::Turn => verdict.lane.as_ref() == Some(&lane.id),
            Rule::Storage => true,
            Rule::Flood | Rule::SlowHandler | Rule::OneStream | Rule::Late => {
                is_late
                    || verdict.stream.as_ref() == Some(stream)
                    || verdict.hook.as_ref() == Some(&stream.hook)
            }
            _ => false,
        };
        seen.verdicts.iter().find(is_about).cloned()
    }

    async fn lane_by_slot(&self, hook: &Hook, slot: Slot) -> Result<api::Lane, Error> {
        let id = self.lane_of(hook, slot).await?;
        let lanes = self.lanes(&hook.namespace).await?;
        let found = lanes.into_iter().find(|lane| lane.id == id);
        found.ok_or_else(|| Error::Conflict("the lanes are being resized; look again".to_owned()))
    }

    async fn why_cursor(
        &self,
        hook: &Hook,
        handler: &Name,
        stream: &StreamName,
        row: CursorRow,
        (lane, slot): (&api::Lane, Slot),
    ) -> Result<CursorDiagnosis, Error> {
        let after = Seq(row.position.0);
        let next = self.store.events_after(row.id.stream, after, 1).await?;
        let next = next.first().map(|stored| &stored.event);
        let mark = self.mark(row.id, lane).await?;
        let stop = self.stop(hook, row.position, mark, lane)?;
        let received = next.map(|event| event.received_at);
        let stop = match stop {
            Stop::Nothing if self.has_no_hint(row.id, lane, received)? => Stop::NoHint,
            stop => stop,
        };
        // For a failed cursor the time since its event was received, as in the verdict; another failed
        // try does not change it.
        let since = match (&row.condition, &stop) {
            (Condition::Flowing, Stop::Lane) => lane.since,
            (Condition::Flowing, _) => None,
            (condition, _) if condition.is_by_operator() => {
                self.store.cursor(row.id).await?.map(|(.., at)| at)
            }
            _ => received,
        };
        let behind = row.position.behind(row.head);
        let gathers_until = match (&row.condition, &stop) {
            (Condition::Flowing, Stop::Nothing) if behind > 0 => {
                self.gathers_until(hook, &row, next, slot).await?
            }
            _ => None,
        };
        let is_paused = matches!(stop, Stop::Lane | Stop::Hook(_) | Stop::Stuck(_)) && behind > 0;
        let mut why = CursorDiagnosis {
            handler: handler.clone(),
            condition: match row.condition {
                Condition::Flowing if is_paused => api::Condition::Paused,
                ref condition => condition.into(),
            },
            position: row.position,
            behind,
            reason: row.condition.reason().map(str::to_owned),
            by_operator: row.condition.is_by_operator(),
            since,
            tries: row.condition.tries(),
            retry_at: match row.condition {
                Condition::Waiting { retry_at, .. } => Some(retry_at),
                _ => None,
            },
            gathers_until,
            mark,
            next: next.map(|event| event.id),
            next_received_at: next.map(|event| event.received_at),
            only: filter_of(hook, row.id.handler),
            kept_past: match (hook.keep, next) {
                (Keep::For(age), Some(event))
                    if event.received_at.after(age) < Timestamp::now() =>
                {
                    Some(hook.keep)
                }
                _ => None,
            },
            ends: String::new(),
            helps: Vec::new(),
            does_not: Vec::new(),
        };
        if behind > 0 {
            advise(&mut why, stream, &row.condition, &stop, lane);
            if matches!((&row.condition, &stop), (Condition::Flowing, Stop::Nothing)) {
                self.advise_slow(&mut why, row.id)?;
            }
            self.advise_pull(&mut why, hook, row.id).await?;
        } else {
            why.ends = "nothing waits".to_owned();
        }
        Ok(why)
    }

    /// Time until which a cursor gathers events. The node of its lane knows it; for a lane of another
    /// node it is estimated from the events' receive times.
    async fn gathers_until(
        &self,
        hook: &Hook,
        row: &CursorRow,
        first: Option<&Event>,
        slot: Slot,
    ) -> Result<Option<Timestamp>, Error> {
        let handler = hook.handlers.iter().find(|of| of.id == row.id.handler);
        let debounce = handler.and_then(|handler| handler.debounce);
        let (Some(debounce), Some(first)) = (debounce, first) else {
            return Ok(None);
        };
        let engine = self.engine()?;
        let lane = engine
            .catalog
            .peek()
            .lanes_of(hook)
            .map(|set| set.lane(slot));
        if let Some(worker) = lane.and_then(|lane| engine.worker(&lane)) {
            return Ok(worker.gathers_until(row.id));
        }
        let before = Seq(row.head.0 - 1);
        let last = self.store.events_after(row.id.stream, before, 1).await?;
        let last = last
            .first()
            .map_or(first.received_at, |last| last.event.received_at);
        let now = Timestamp::now();
        let left = debounce.left((first.received_at, last), now, Duration::ZERO);
        Ok((!left.is_zero()).then(|| now.after(left)))
    }

    /// True if the lane is active and does not know of a cursor whose next event was received a while
    /// ago.
    fn has_no_hint(
        &self,
        cursor: CursorId,
        lane: &api::Lane,
        received: Option<Timestamp>,
    ) -> Result<bool, Error> {
        let age = received.map(|at| Timestamp::now().since(at));
        let age = age.unwrap_or_default();
        let engine = self.engine()?;
        let is_known = match engine.worker(&lane.id) {
            Some(worker) => worker.knows(cursor),
            // The last report of another node tells nothing of events that came after it.
            None => {
                let silence = silence(engine, lane).unwrap_or_default();
                lane.cursors > 0 || age < silence + HINT_MAX
            }
        };
        Ok(age > HINT_MAX && !is_known)
    }

    /// Adds the advice for a handler that is too slow for the lanes.
    fn advise_slow(&self, why: &mut CursorDiagnosis, cursor: CursorId) -> Result<(), Error> {
        let shares = self.engine()?.folds.lanes.shares();
        if why.gathers_until.is_none() && shares.with(|shares, _| shares.is_slow(cursor.handler)) {
            why.ends = format!(
                "by itself: {} is slow, so it takes one turn at a time, beside the lanes",
                why.handler
            );
            why.does_not.insert(0, "more lanes".to_owned());
        }
        Ok(())
    }

    /// Adds which consumer has the next events of a pull cursor, or that no consumer asks for them.
    async fn advise_pull(
        &self,
        why: &mut CursorDiagnosis,
        hook: &Hook,
        cursor: CursorId,
    ) -> Result<(), Error> {
        let mut handlers = hook.handlers.iter();
        let handler = handlers.find(|handler| handler.id == cursor.handler);
        if handler.is_none_or(|handler| handler.pull().is_none())
            || why.condition != api::Condition::Flowing
        {
            return Ok(());
        }
        let found = self
            .store
            .deliveries(cursor.handler, &[cursor.stream])
            .await?;
        let now = self.store.clock().await?;
        let open = found.into_iter().find(|delivery| delivery.is_open(now));
        let engine = self.engine()?;
        (why.ends, why.helps) = match open {
            Some(open) => {
                let left = open
                    .lease_until
                    .map_or_else(Default::default, |at| at.since(now));
                let seqs = format!("seq {} to {}", open.token.position.next(), open.upto);
                why.reason = Some(format!(
                    "{} has {seqs}, try {}",
                    open.consumer, open.attempt
                ));
                let ends = format!(
                    "when it is acknowledged; the lease ends in {}",
                    duration(left)
                );
                (ends, Vec::new())
            }
            None if engine.deliveries.pulls.waiting(cursor.handler) > 0 => {
                ("by itself, within seconds".to_owned(), Vec::new())
            }
            None => {
                why.reason = Some("no consumer waits for it on this node".to_owned());
                let help = Help {
                    command: format!(
                        "hooklane listen {} --handler {} --to URL",
                        hook.name, why.handler
                    ),
                    what: "or start a consumer that pulls".to_owned(),
                };
                ("when a consumer asks for it".to_owned(), vec![help])
            }
        };
        Ok(())
    }

    /// The drain mark of a cursor in a draining lane; `None` when it has none.
    async fn mark(&self, cursor: CursorId, lane: &api::Lane) -> Result<Option<Position>, Error> {
        if !matches!(lane.state, LaneState::Draining | LaneState::Drained) {
            return Ok(None);
        }
        Ok(self.store.marks().await?.get(&cursor).copied())
    }

    fn stop(
        &self,
        hook: &Hook,
        position: Position,
        mark: Option<Position>,
        lane: &api::Lane,
    ) -> Result<Stop, Error> {
        let catalog = self.engine()?.catalog.now();
        let is_before_mark = mark.is_some_and(|mark| position.0 < mark.0);
        if let Some(stop) = catalog.stops.hooks.get(&hook.id) {
            let told = stops::told(&hook.name, stop, Timestamp::now());
            return Ok(match told {
                Some(told) if stop.stuck().is_some() => Stop::Stuck(told),
                told => Stop::Hook(told),
            });
        }
        Ok(match lane.state {
            LaneState::NoOwner => Stop::NoOwner(None),
            LaneState::Active => match silence(self.engine()?, lane) {
                Some(silence) if silence >= QUIET => Stop::NoOwner(Some(silence)),
                _ => Stop::Nothing,
            },
            LaneState::Draining | LaneState::Drained if is_before_mark => Stop::Nothing,
            LaneState::Paused | LaneState::Draining | LaneState::Drained => Stop::Lane,
        })
    }

    async fn why_event(
        &self,
        id: EventId,
        stream: &StreamName,
        cursors: &[CursorDiagnosis],
    ) -> Result<EventDiagnosis, Error> {
        let row = self.show_event(id).await?;
        if row.stream != *stream {
            return Err(Error::Invalid(format!(
                "{id} is an event of {}, not of {stream}",
                row.stream
            )));
        }
        let passed = |handler: &Name| row.fate.iter().find(|fate| fate.handler == *handler);
        let fate = |cursor: &CursorDiagnosis| {
            let handler = &cursor.handler;
            let before = row.seq.0 - cursor.position.0 - 1;
            match passed(handler).map(|fate| fate.outcome) {
                Some(api::Outcome::Folded) => format!("{handler}: applied"),
                Some(api::Outcome::Delivered) => format!("{handler}: delivered"),
                Some(api::Outcome::Passed) => {
                    match passed(handler).and_then(|f| f.reason.clone()) {
                        Some(reason) => format!("{handler}: passed, {reason}"),
                        None => format!("{handler}: passed"),
                    }
                }
                Some(api::Outcome::Skipped) => format!("{handler}: in the dead letters"),
                _ if before <= 0 => format!("{handler}: it is next, {}", cursor.condition.word()),
                _ => {
                    let before = u64::try_from(before).unwrap_or(0);
                    let events = counted(before, "event is", "events are");
                    format!("{handler}: {events} before it, {}", cursor.condition.word())
                }
            }
        };
        Ok(EventDiagnosis {
            event: id,
            seq: row.seq,
            received_at: row.received_at,
            fate: cursors.iter().map(fate).collect(),
        })
    }

    /// The lane of a stream, stored or not: now, and with another number of lanes.
    ///
    /// # Errors
    /// [`Error::Missing`] hook; [`Error::Invalid`] number of lanes.
    pub async fn lane_of_stream(
        &self,
        name: &StreamName,
        lanes: Option<u16>,
    ) -> Result<api::StreamLane, Error> {
        lanes.map_or(Ok(()), check_lanes)?;
        let hook = self.hook(&name.hook).await?;
        let stream = self.store.stream(hook.id, &name.key).await?;
        let slot = match &stream {
            Some(stream) => stream.slot,
            None => Slot::of(&name.hook, &name.key),
        };
        let set = self.namespace(&hook.namespace).await?.lanes;
        Ok(api::StreamLane {
            stream: name.clone(),
            stored: stream.is_some(),
            slot: slot.0,
            lanes: set.lanes,
            lane: set.lane(slot),
            index_if: lanes.map(|lanes| slot.lane(lanes)),
            namespace: set.namespace,
        })
    }
}

/// Time since the last report of the other node that runs the lane.
fn silence(engine: &Engine, lane: &api::Lane) -> Option<Duration> {
    let member = engine.member.as_ref()?;
    let view = member.view();
    let node = lane.node.as_ref()?;
    let node = view.nodes.iter().find(|known| known.name == *node)?;
    member.silences().get(&node.id).copied()
}

fn filter_of(hook: &Hook, handler: HandlerId) -> Filter {
    let handler = hook.handlers.iter().find(|of| of.id == handler);
    handler
        .map(|handler| handler.only.clone())
        .unwrap_or_default()
}
