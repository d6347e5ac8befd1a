//! Replays: a handler delivers stored events again, in order and marked, beside its normal cursors.

use std::sync::Arc;

use serde_json::json;

use super::{Admin, Error};
use crate::api;
use crate::domain::cursor::{Condition, CursorId};
use crate::domain::hook::{Handler, HandlerId, Hook, Replay};
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;
use crate::store::{NewReplay, StreamRow};

impl Admin {
    /// Begins a replay, or returns its plan.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Invalid`] for events that are gone, or that the handler has not passed yet.
    pub async fn replay(&self, spec: &api::ReplaySpec) -> Result<api::Replay, Error> {
        let engine = self.engine()?;
        let (hook, stream, name, dead) = self.replayed_stream(spec).await?;
        let handler = self.replaying(&hook, &stream, spec, dead).await?;
        let cursor = CursorId {
            stream: stream.id,
            handler: handler.id,
        };
        let passed = self.store.cursor(cursor).await?;
        let passed = passed.map_or(Position::default(), |(cursor, ..)| cursor.position);
        let (from, to) = match dead {
            Some(seq) => (seq, seq),
            None => (
                spec.from.unwrap_or(Seq(stream.floor.0 + 1)),
                spec.to.unwrap_or(Seq(passed.0)),
            ),
        };
        check(&name, &handler.name, &stream, passed, (from, to))?;
        let mut shown = api::Replay {
            id: None,
            stream: name,
            handler: handler.name.clone(),
            next: from,
            to,
            events: Position(from.0 - 1).behind(to),
            condition: Condition::Flowing.word().to_owned(),
            reason: None,
            retry_at: None,
        };
        if spec.dry_run {
            return Ok(shown);
        }
        self.store
            .tell_note(json!({"handler": handler.name, "from": from, "to": to}));
        let new = NewReplay {
            hook: hook.id,
            replay: Replay {
                of: handler.id,
                stream: stream.id,
                to,
            },
            from,
        };
        let id = self.store.add_replay(new, Timestamp::now()).await?;
        let id = id.ok_or_else(|| Error::missing("handler", &handler.name))?;
        engine.config_changed().await?;
        shown.id = Some(id.0);
        Ok(shown)
    }

    /// The stream of a replay, and the seq of the dead letter if it replays one.
    async fn replayed_stream(
        &self,
        spec: &api::ReplaySpec,
    ) -> Result<(Hook, StreamRow, StreamName, Option<Seq>), Error> {
        match (&spec.stream, spec.dead) {
            (Some(name), None) => {
                let (hook, stream) = self.stream(name).await?;
                Ok((hook, stream, name.clone(), None))
            }
            (None, Some(id)) => {
                let stored = self.store.event(id).await?;
                let stored = stored.ok_or_else(|| Error::missing("event", id))?;
                let hook: Name = stored
                    .hook
                    .parse()
                    .map_err(|_| Error::missing("hook", &stored.hook))?;
                let name = StreamName {
                    hook,
                    key: OrderingKey::stored(stored.ordering_key),
                };
                let (hook, stream) = self.stream(&name).await?;
                Ok((hook, stream, name, Some(stored.event.seq)))
            }
            _ => Err(Error::Invalid(
                "name a stream, or one dead letter".to_owned(),
            )),
        }
    }

    /// The handler of a replay: the named one, the one with the dead letter, or the only one.
    async fn replaying<'h>(
        &self,
        hook: &'h Hook,
        stream: &StreamRow,
        spec: &api::ReplaySpec,
        dead: Option<Seq>,
    ) -> Result<&'h Arc<Handler>, Error> {
        let mut able = Vec::new();
        for handler in hook.handlers.iter().filter(|of| of.reducer().is_none()) {
            let id = CursorId {
                stream: stream.id,
                handler: handler.id,
            };
            let is_meant = match dead {
                Some(seq) => self.store.dead_letter(id, seq).await?.is_some(),
                None => true,
            };
            if is_meant {
                able.push(handler);
            }
        }
        if let Some(name) = &spec.handler {
            let handler = self.handler(hook, name)?;
            if handler.reducer().is_some() {
                return Err(Error::Invalid(format!(
                    "{name} folds: an event cannot be inserted into the past of a fold; state rebuild folds anew"
                )));
            }
            return match able.iter().any(|of| of.id == handler.id) {
                true => Ok(handler),
                false => Err(Error::Invalid(format!(
                    "the event is no dead letter of {name}"
                ))),
            };
        }
        match (&able[..], dead) {
            ([handler], _) => Ok(handler),
            ([], Some(_)) => Err(Error::Invalid(
                "the event is no dead letter of a handler that delivers".to_owned(),
            )),
            ([], None) => Err(Error::Invalid(format!(
                "hook {} has no forward or pull handler",
                hook.name
            ))),
            (several, _) => {
                let mut names: Vec<_> = several.iter().map(|of| of.name.as_str()).collect();
                names.sort_unstable();
                Err(Error::Invalid(format!(
                    "name the handler: {}",
                    names.join(", ")
                )))
            }
        }
    }

    /// The running replays.
    pub async fn replays(&self) -> Result<Vec<api::Replay>, Error> {
        let catalog = self.engine()?.catalog.now();
        let mut shown = Vec::new();
        for (id, replay) in &catalog.replays {
            shown.extend(self.shown_replay(&catalog, *id, replay).await?);
        }
        Ok(shown)
    }

    async fn shown_replay(
        &self,
        catalog: &crate::engine::catalog::Snapshot,
        id: HandlerId,
        replay: &Replay,
    ) -> Result<Option<api::Replay>, Error> {
        let cursor = CursorId {
            stream: replay.stream,
            handler: id,
        };
        let named = self.store.cursors_of(&[replay.stream]).await?.pop();
        let found = self.store.cursor(cursor).await?;
        let (Some(named), Some((cursor, ..)), Some(handler)) =
            (named, found, catalog.handlers.get(&id))
        else {
            return Ok(None);
        };
        let Some(hook) = catalog.hooks_by_id.get(&handler.hook) else {
            return Ok(None);
        };
        Ok(Some(api::Replay {
            id: Some(id.0),
            stream: StreamName {
                hook: hook.name.clone(),
                key: named.key,
            },
            handler: handler.name.clone(),
            next: cursor.position.next(),
            to: replay.to,
            events: cursor.position.behind(replay.to),
            condition: cursor.condition.word().to_owned(),
            reason: cursor.condition.reason().map(str::to_owned),
            retry_at: match cursor.condition {
                Condition::Waiting { retry_at, .. } => Some(retry_at),
                _ => None,
            },
        }))
    }

    /// Cancels a replay.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub async fn cancel_replay(&self, id: i64) -> Result<api::Replay, Error> {
        let engine = self.engine()?;
        let there = self.replays().await?;
        let replay = there.into_iter().find(|replay| replay.id == Some(id));
        let replay = replay.ok_or_else(|| Error::missing("replay", id))?;
        if !self.store.remove_replay(HandlerId(id)).await? {
            return Err(Error::missing("replay", id));
        }
        engine.config_changed().await?;
        Ok(replay)
    }
}

/// Checks that the events are stored and that the handler has passed them; other events are still to be
/// delivered anyway.
fn check(
    stream: &StreamName,
    handler: &Name,
    row: &StreamRow,
    passed: Position,
    (from, to): (Seq, Seq),
) -> Result<(), Error> {
    if from.0 <= row.floor.0 {
        return Err(Error::Invalid(format!(
            "retention has removed the events of {stream} up to seq {}",
            row.floor
        )));
    }
    if to.0 > passed.0 {
        return Err(Error::Invalid(format!(
            "{handler} has passed {stream} up to seq {passed}; what comes after is delivered anyway"
        )));
    }
    match from <= to {
        true => Ok(()),
        false => Err(Error::Invalid(format!(
            "there is nothing from seq {from} to {to} of {stream}"
        ))),
    }
}
