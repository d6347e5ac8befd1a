//! Events for people, with the outcome of each.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Admin, Error};
use crate::api::{self, Fate, Outcome};
use crate::domain::cursor::{Condition, CursorId};
use crate::domain::event::{Event, EventId};
use crate::domain::hook::{Handler, Hook};
use crate::domain::key::KeyId;
use crate::domain::name::{Name, OrderingKey, StreamName, kept};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;
use crate::domain::version::Late;
use crate::store::{Filter, HeldBack, HeldBackFilter, Stored};

/// Selects events for a list.
#[derive(Clone, Debug, Default)]
pub struct EventsFilter {
    /// Only events of this hook.
    pub hook: Option<Name>,
    /// Only events of this stream.
    pub stream: Option<StreamName>,
    /// Only events received at or after this time.
    pub since: Option<Timestamp>,
    /// Only events older than this one, for paging.
    pub before: Option<EventId>,
    /// Only events in the dead letters.
    pub dead: bool,
    /// Only late events.
    pub late: bool,
    /// Only the event with this delivery id, in each stream that has one.
    pub delivery: Option<String>,
    /// Number of events at most.
    pub limit: i64,
}

impl Admin {
    /// Events without their bodies, newest first.
    ///
    /// # Errors
    /// [`Error::Missing`] hook or stream.
    pub async fn events(&self, filter: &EventsFilter) -> Result<Vec<api::EventRow>, Error> {
        let hook = match &filter.hook {
            Some(name) => Some(self.hook(name).await?.id),
            None => None,
        };
        let stream = match &filter.stream {
            Some(name) => Some(self.stream(name).await?.1.id),
            None => None,
        };
        let filter = Filter {
            hook,
            stream,
            since: filter.since,
            before: filter.before,
            dead: filter.dead,
            late: filter.late,
            dedupe_key: filter.delivery.as_ref().map(|id| kept(id.as_bytes())),
            limit: filter.limit,
        };
        let events = self.store.events_list(&filter).await?;
        let keys = self.key_ids().await?;
        let mut rows = Vec::with_capacity(events.len());
        if filter.dedupe_key.is_some() && filter.before.is_none() {
            let held = HeldBackFilter {
                hook: filter.hook,
                dedupe_key: filter.dedupe_key.clone(),
                limit: filter.limit,
                ..HeldBackFilter::default()
            };
            for held in &self.store.held_back(&held).await? {
                rows.push(held_back(held, shown(&held.stored, &keys)?));
            }
        }
        for stored in &events {
            let mut row = shown(stored, &keys)?;
            row.fate = self.fate(stored).await?;
            row.reason = reason(&row.fate);
            rows.push(row);
        }
        Ok(rows)
    }

    /// One event with headers, body and outcome.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Damaged`].
    pub async fn show_event(&self, id: EventId) -> Result<api::EventRow, Error> {
        let Some(stored) = self.store.event(id).await? else {
            return self.show_held_back(id).await;
        };
        let mut row = whole(&stored, &self.key_ids().await?)?;
        row.fate = self.fate(&stored).await?;
        row.reason = reason(&row.fate);
        Ok(row)
    }

    /// An event that is held back, with headers and body.
    async fn show_held_back(&self, id: EventId) -> Result<api::EventRow, Error> {
        let filter = HeldBackFilter {
            id: Some(id),
            limit: 1,
            ..HeldBackFilter::default()
        };
        let held = self.store.held_back(&filter).await?;
        let held = held.first().ok_or_else(|| {
            Error::missing(
                "event (retention removes events that are older than its hook's --keep)",
                id,
            )
        })?;
        let row = whole(&held.stored, &self.key_ids().await?)?;
        Ok(held_back(held, row))
    }

    /// The events of a stream after `after`, in order, with their bodies. Empty for a stream that does
    /// not exist.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub async fn stream_events(
        &self,
        hook: &Hook,
        key: &OrderingKey,
        after: Seq,
        limit: i64,
    ) -> Result<Vec<api::EventRow>, Error> {
        let Some(stream) = self.store.stream(hook.id, key).await? else {
            return Ok(Vec::new());
        };
        let events = self.store.events_after(stream.id, after, limit).await?;
        let keys = self.key_ids().await?;
        events.iter().map(|stored| whole(stored, &keys)).collect()
    }

    /// True if the hook has a stream with this ordering key.
    pub async fn has_stream(&self, hook: &Hook, key: &OrderingKey) -> Result<bool, Error> {
        Ok(self.store.stream(hook.id, key).await?.is_some())
    }

    async fn key_ids(&self) -> Result<HashMap<i64, KeyId>, Error> {
        let keys = self.store.keys().await?.into_iter();
        Ok(keys.map(|(key, _)| (key.number, key.id)).collect())
    }

    async fn fate(&self, stored: &Stored) -> Result<Vec<Fate>, Error> {
        let hooks = self.store.hooks().await?;
        let Some(hook) = hooks.iter().find(|hook| hook.name.as_str() == stored.hook) else {
            return Ok(Vec::new());
        };
        let mut fates = Vec::with_capacity(hook.handlers.len());
        for handler in &hook.handlers {
            let id = CursorId {
                stream: stored.event.stream,
                handler: handler.id,
            };
            let (outcome, reason) = self.outcome(id, handler, &stored.event).await?;
            fates.push(Fate {
                handler: handler.name.clone(),
                outcome,
                reason,
            });
        }
        Ok(fates)
    }

    async fn outcome(
        &self,
        id: CursorId,
        handler: &Handler,
        event: &Event,
    ) -> Result<(Outcome, Option<String>), Error> {
        let seq = event.seq;
        let Some((cursor, ..)) = self.store.cursor(id).await? else {
            return Ok((Outcome::Waiting, None));
        };
        if let Some(reason) = self.store.dead_letter(id, seq).await? {
            return Ok((Outcome::Skipped, Some(reason)));
        }
        Ok(match cursor.condition {
            _ if cursor.position.0 >= seq.0 && event.late == Some(Late::Skip) => {
                let reason = "it came after an event with a higher version (--late skip)";
                (Outcome::Passed, Some(reason.to_owned()))
            }
            _ if cursor.position.0 >= seq.0 && !handler.only.takes(event) => {
                let reason = format!("it does not match --only {}", handler.only);
                (Outcome::Passed, Some(reason))
            }
            _ if cursor.position.0 >= seq.0 && handler.reducer().is_none() => {
                (Outcome::Delivered, None)
            }
            _ if cursor.position.0 >= seq.0 => (Outcome::Folded, None),
            Condition::Held { reason, .. } => (Outcome::Held, Some(reason)),
            condition => (Outcome::Waiting, condition.reason().map(str::to_owned)),
        })
    }
}

/// Reason for being in the dead letters; that of the first handler, where several skipped the event.
fn reason(fates: &[Fate]) -> Option<String> {
    let dead = fates.iter().find(|fate| fate.outcome == Outcome::Skipped);
    dead?.reason.clone()
}

fn shown(stored: &Stored, keys: &HashMap<i64, KeyId>) -> Result<api::EventRow, Error> {
    let event = &stored.event;
    let hook = stored.hook.parse();
    Ok(api::EventRow {
        event: event.id,
        stream: StreamName {
            hook: hook.map_err(|_| Error::missing("hook", &stored.hook))?,
            key: OrderingKey::stored(stored.ordering_key.clone()),
        },
        seq: event.seq,
        received_at: event.received_at,
        waits_until: None,
        late: event.late,
        size: event.body.len() as u64,
        key: event.key_id.and_then(|number| keys.get(&number).copied()),
        dedupe_key: event.dedupe_key.clone(),
        query: None,
        headers: None,
        body: None,
        body_base64: None,
        fate: Vec::new(),
        reason: None,
    })
}

/// The row of an event that is held back.
fn held_back(held: &HeldBack, row: api::EventRow) -> api::EventRow {
    api::EventRow {
        waits_until: Some(held.due_at),
        ..row
    }
}

fn whole(stored: &Stored, keys: &HashMap<i64, KeyId>) -> Result<api::EventRow, Error> {
    let Event { id, seq, .. } = stored.event;
    if stored.event.is_damaged {
        return Err(Error::Damaged { id, seq });
    }
    let mut row = shown(stored, keys)?;
    let headers: BTreeMap<String, String> =
        serde_json::from_str(&stored.event.headers_alone()).unwrap_or_default();
    row.headers = Some(headers);
    row.query = Some(stored.event.query()).filter(|query| !query.is_empty());
    match std::str::from_utf8(&stored.event.body) {
        Ok(text) => row.body = Some(text.to_owned()),
        Err(_) => row.body_base64 = Some(STANDARD.encode(&stored.event.body)),
    }
    Ok(row)
}
