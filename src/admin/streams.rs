//! Streams, their cursors and states: listing, showing, retrying and skipping.

use std::collections::HashSet;

use serde_json::json;
use serde_json::value::RawValue;

use super::{Admin, Error, forwards};
use crate::api;
use crate::domain::cursor::{Condition, CursorId};
use crate::domain::event::StreamId;
use crate::domain::hook::{Handler, Hook, Replay};
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;
use crate::store::{self, CursorRow, CursorsFilter, Stored};

/// Selects cursors for a list.
#[derive(Clone, Debug, Default)]
pub struct StreamsFilter {
    /// Only cursors of this hook.
    pub hook: Option<Name>,
    /// Only cursors in this condition.
    pub condition: Option<String>,
    /// True to sort by the age of the next event, longest waiting first, instead of by stream. Has no
    /// pages.
    pub oldest_first: bool,
    /// Number of the last stream of the previous page.
    pub after: Option<i64>,
    /// Number of cursors at most.
    pub limit: i64,
}

impl Admin {
    /// One row for each cursor, and where the next page begins.
    ///
    /// # Errors
    /// [`Error::Missing`] hook, [`Error::Invalid`] condition.
    pub async fn streams(
        &self,
        filter: &StreamsFilter,
    ) -> Result<(Vec<api::StreamRow>, Option<i64>), Error> {
        let hook = match &filter.hook {
            Some(name) => Some(self.hook(name).await?.id),
            None => None,
        };
        let cursors = CursorsFilter {
            hook,
            stream: None,
            condition: condition(filter.condition.as_deref())?,
            after: filter.after.map(StreamId),
            limit: filter.limit,
        };
        let rows = match filter.oldest_first {
            true => self.oldest_first(&cursors).await?,
            false => self.store.cursors(&cursors).await?,
        };
        let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows == filter.limit);
        let last = rows.last().map(|row| row.id.stream.0);
        let next = last.filter(|_| is_full && !filter.oldest_first);
        let rows = self.rows(rows).await?;
        Ok((rows, next))
    }

    /// Cursors that are behind, oldest first, followed by the others.
    async fn oldest_first(&self, filter: &CursorsFilter) -> Result<Vec<CursorRow>, Error> {
        let mut rows = self.store.cursors_behind(filter).await?;
        let limit = usize::try_from(filter.limit).unwrap_or(0);
        if rows.len() < limit {
            // The list has room for more, so all cursors that are behind are in it already.
            let known: HashSet<CursorId> = rows.iter().map(|row| row.id).collect();
            let mut rest = self.store.cursors(filter).await?;
            rest.retain(|row| !known.contains(&row.id));
            rows.append(&mut rest);
            rows.truncate(limit);
        }
        Ok(rows)
    }

    /// One stream with its cursors, and the next `events` events of each cursor that is behind.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub async fn show_stream(&self, name: &StreamName, events: i64) -> Result<api::Stream, Error> {
        let (hook, stream) = self.stream(name).await?;
        let filter = CursorsFilter {
            stream: Some(stream.id),
            limit: 100,
            ..CursorsFilter::default()
        };
        let rows = self.store.cursors(&filter).await?;
        let cursors = self.rows(rows).await?;
        let mut waiting = Vec::new();
        for row in cursors.iter().filter(|row| row.behind > 0 && events > 0) {
            let after = Seq(row.position.0);
            let events = self.store.events_after(stream.id, after, events).await?;
            waiting.push(api::Waiting {
                handler: row.handler.clone(),
                events: events.iter().map(waits).collect(),
            });
        }
        Ok(api::Stream {
            stream: name.clone(),
            head: stream.head,
            floor: stream.floor,
            order: self.order_of_stream(&hook, (stream.id, &name.key)).await?,
            slot: stream.slot.0,
            lane: self.lane_of(&hook, stream.slot).await?,
            deliveries: match &self.engine {
                Some(engine) => forwards::deliveries(engine, &hook),
                None => Vec::new(),
            },
            cursors,
            waiting,
        })
    }

    /// Retries set-aside cursors of a stream now.
    ///
    /// # Errors
    /// [`Error::Missing`] stream or handler; [`Error::NeedsDaemon`].
    pub async fn retry(&self, retry: &api::Retry) -> Result<api::RetryResult, Error> {
        let engine = self.engine()?;
        let (hook, stream) = self.stream(&retry.stream).await?;
        let handler = match &retry.handler {
            Some(name) => Some(self.handler(&hook, name)?.id),
            None => None,
        };
        let mut released = self.store.release(stream.id, handler).await?;
        if handler.is_some() {
            let catalog = engine.catalog.now();
            let is_meant = |of: &Replay| of.stream == stream.id && Some(of.of) == handler;
            for (id, _) in catalog.replays.iter().filter(|(_, of)| is_meant(of)) {
                released.extend(self.store.release(stream.id, Some(*id)).await?);
            }
        }
        for cursor in &released {
            engine.let_go(&hook.namespace, stream.slot, *cursor, 1);
        }
        Ok(api::RetryResult {
            released: released.len() as u64,
        })
    }

    /// Puts the event that a cursor needs next into the dead letters.
    ///
    /// # Errors
    /// [`Error::Conflict`] when another event is next.
    pub async fn skip(&self, skip: &api::Skip) -> Result<api::SkipResult, Error> {
        let engine = self.engine()?;
        let (hook, stream) = self.stream(&skip.stream).await?;
        let handler = match &skip.handler {
            Some(name) => self.handler(&hook, name)?,
            None => hook.reduce().ok_or_else(|| no_reducer(&hook.name))?,
        };
        let cursor = CursorId {
            stream: stream.id,
            handler: handler.id,
        };
        self.store
            .tell_note(json!({"handler": handler.name, "event": skip.event}));
        let now = Timestamp::now();
        let skipped = self
            .store
            .skip(cursor, skip.event, "skipped by an operator", now)
            .await?;
        if skipped == store::SkipOutcome::NotNext {
            return Err(Error::Conflict(format!(
                "{} is not the next event of {} -> {}",
                skip.event, skip.stream, handler.name
            )));
        }
        engine.let_go(&hook.namespace, stream.slot, cursor, 1);
        let position = self.position(cursor).await?;
        Ok(api::SkipResult {
            skipped: skip.event,
            handler: handler.name.clone(),
            position,
        })
    }

    /// The state of a stream, with the number of the stream if it exists.
    ///
    /// # Errors
    /// [`Error::Missing`] hook; [`Error::Invalid`] when it has no reducer.
    pub async fn state(
        &self,
        hook: &Hook,
        key: &OrderingKey,
    ) -> Result<(api::State, Option<StreamId>), Error> {
        let handler = hook.reduce().ok_or_else(|| no_reducer(&hook.name))?;
        let mut state = api::State {
            hook: hook.name.clone(),
            stream: key.clone(),
            position: Position::default(),
            era: 1,
            head: Default::default(),
            state: None,
            updated_at: None,
        };
        let found = self.store.cursor_by_name(hook.id, key, handler.id).await?;
        let Some((cursor, head, updated_at)) = found else {
            return Ok((state, None));
        };
        state.position = cursor.position;
        state.era = cursor.era.0;
        state.head = head;
        state.state = match cursor.state {
            Some(text) => Some(RawValue::from_string(text).map_err(malformed)?),
            None => None,
        };
        state.updated_at = Some(updated_at).filter(|at| at.as_millis() > 0);
        Ok((state, Some(cursor.id.stream)))
    }

    /// Rows as JSON, in the given order.
    pub(super) async fn rows(&self, rows: Vec<CursorRow>) -> Result<Vec<api::StreamRow>, Error> {
        let hooks = self.store.hooks().await?;
        let mut shown = Vec::with_capacity(rows.len());
        let namespaces = self.store.namespaces().await?;
        let stops = self.store.hook_stops().await?;
        for row in rows {
            let Some(hook) = hooks.iter().find(|hook| hook.id == row.hook) else {
                continue;
            };
            let of_row = |handler: &&std::sync::Arc<Handler>| handler.id == row.id.handler;
            let Some(handler) = hook.handlers.iter().find(of_row) else {
                continue;
            };
            let set = namespaces
                .iter()
                .find(|n| n.lanes.namespace == hook.namespace);
            let lane = set.map(|set| set.lanes.lane(row.slot));
            let next = self.next_event(&row).await?;
            let mut row = shown_row(hook, handler, row, lane, next);
            let is_paused = stops.get(&hook.id).is_some_and(|stop| stop.pause.is_some());
            if is_paused && row.condition == api::Condition::Flowing && row.behind > 0 {
                row.condition = api::Condition::Paused;
            }
            shown.push(row);
        }
        Ok(shown)
    }

    /// Id of the event that a set-aside cursor needs next; `skip` needs it.
    pub(super) async fn next_event(
        &self,
        row: &CursorRow,
    ) -> Result<Option<crate::domain::event::EventId>, Error> {
        if row.condition == Condition::Flowing {
            return Ok(None);
        }
        let after = Seq(row.position.0);
        let next = self.store.events_after(row.id.stream, after, 1).await?;
        Ok(next.first().map(|stored| stored.event.id))
    }

    pub(super) fn handler<'h>(
        &self,
        hook: &'h Hook,
        name: &Name,
    ) -> Result<&'h std::sync::Arc<Handler>, Error> {
        let found = hook.handlers.iter().find(|handler| handler.name == *name);
        found.ok_or_else(|| Error::missing("handler", name))
    }

    async fn position(&self, cursor: CursorId) -> Result<Position, Error> {
        let found = self.store.cursor(cursor).await?;
        Ok(found.map_or(Position::default(), |(cursor, ..)| cursor.position))
    }
}

/// Number of characters shown of a waiting event's body.
const START_MAX: usize = 120;

fn waits(stored: &Stored) -> api::WaitingEvent {
    let event = &stored.event;
    // A character has at most four bytes.
    let start = match event.is_damaged {
        true => b"(hash mismatch: it is not as it was stored)".as_slice(),
        false => &event.body[..event.body.len().min(START_MAX * 4)],
    };
    api::WaitingEvent {
        event: event.id,
        seq: event.seq,
        received_at: event.received_at,
        size: event.body.len() as u64,
        start: String::from_utf8_lossy(start)
            .chars()
            .take(START_MAX)
            .collect(),
    }
}

fn no_reducer(hook: &Name) -> Error {
    Error::Invalid(format!("hook {hook} has no reducer, and so no state"))
}

fn malformed(error: serde_json::Error) -> Error {
    Error::Store(store::Error::Integrity(format!(
        "a stored state is not JSON: {error}"
    )))
}

fn condition(word: Option<&str>) -> Result<Option<&'static str>, Error> {
    Ok(match word {
        None => None,
        Some("flowing") => Some("flowing"),
        Some("waiting") => Some("waiting"),
        Some("held") => Some("held"),
        Some(other) => {
            let message = format!("{other:?} is no condition: flowing, waiting or held");
            return Err(Error::Invalid(message));
        }
    })
}

fn shown_row(
    hook: &Hook,
    handler: &Handler,
    row: CursorRow,
    lane: Option<LaneId>,
    next: Option<crate::domain::event::EventId>,
) -> api::StreamRow {
    let now = Timestamp::now();
    let age = |at: Timestamp| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
    api::StreamRow {
        stream: StreamName {
            hook: hook.name.clone(),
            key: row.key,
        },
        handler: handler.name.clone(),
        condition: (&row.condition).into(),
        position: row.position,
        head: row.head,
        behind: row.position.behind(row.head),
        oldest_ms: row.oldest.map(age),
        tries: row.condition.tries(),
        retry_at: match row.condition {
            Condition::Waiting { retry_at, .. } => Some(retry_at),
            _ => None,
        },
        reason: row.condition.reason().map(str::to_owned),
        by_operator: row.condition.is_by_operator(),
        next,
        lane,
    }
}
