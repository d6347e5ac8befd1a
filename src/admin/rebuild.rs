//! States folded again: planned, asked for, looked at.

use std::sync::Arc;

use super::{Admin, Error};
use crate::api;
use crate::domain::hook::{Handler, Hook, HookId};
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;
use crate::engine::rebuild::fold_to;
use crate::store::{self, NewRebuild, StreamRow};

impl Admin {
    /// Begins to fold states again, or says how much it would be.
    ///
    /// # Errors
    /// [`Error::Missing`] hook or stream; [`Error::Invalid`] without either; [`Error::Conflict`] while the
    /// same is under way; [`Error::NeedsDaemon`].
    pub async fn rebuild(&self, spec: &api::RebuildSpec, by: &str) -> Result<api::Rebuild, Error> {
        let engine = self.engine()?;
        let (hook, only) = self.whose(spec).await?;
        let handler = reduce(&hook)?;
        let plan = self.plan_rebuild(&hook, only.as_ref(), spec).await?;
        if spec.dry_run {
            return Ok(plan);
        }
        // What was changed by another node a moment ago counts: the version of the reducer is compared.
        self.changed().await?;
        let new = NewRebuild {
            hook: hook.id,
            handler: handler.id,
            fold: handler.fold,
            only: only.map(|stream| (stream.key, stream.head.0)),
            check_only: spec.check,
            by: by.to_owned(),
        };
        let id = self.store.begin_rebuild(&new, Timestamp::now()).await?;
        let Some(id) = id else {
            return Err(Error::Conflict(format!(
                "states of hook {} are being rebuilt already. Nothing was changed.",
                hook.name
            )));
        };
        engine.rebuild_soon();
        self.show_rebuild(id).await
    }

    /// A rebuild as it stands.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub async fn show_rebuild(&self, id: i64) -> Result<api::Rebuild, Error> {
        let rebuild = self.store.rebuild(id).await?;
        let rebuild = rebuild.ok_or_else(|| Error::missing("rebuild", id))?;
        self.as_shown(rebuild).await
    }

    /// Rebuilds that are under way.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rebuilds(&self) -> Result<Vec<api::Rebuild>, Error> {
        let mut shown = Vec::new();
        for rebuild in self.store.running_rebuilds().await? {
            shown.push(self.as_shown(rebuild).await?);
        }
        Ok(shown)
    }

    /// The state of a stream up to and with an event, as today's reducer folds it. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Missing`] stream; [`Error::Invalid`] for an event that is not there, or that cannot be
    /// folded.
    pub async fn fold_to(&self, stream: &StreamName, to: Seq) -> Result<api::FoldedTo, Error> {
        let engine = self.engine()?;
        let (hook, row) = self.stream(stream).await?;
        if to.0 < 1 || to > row.head {
            return Err(Error::Invalid(format!(
                "{stream} has events 1 to {}, not {to}",
                row.head
            )));
        }
        let folded = fold_to(engine, &hook, reduce(&hook)?, row, to).await?;
        let shadow = folded.map_err(|why| Error::Invalid(format!("{stream}: {why}")))?;
        let state = shadow.state.map(serde_json::value::RawValue::from_string);
        Ok(api::FoldedTo {
            stream: stream.clone(),
            position: shadow.position.0,
            state: state.transpose().unwrap_or_default(),
        })
    }

    async fn whose(&self, spec: &api::RebuildSpec) -> Result<(Hook, Option<StreamRow>), Error> {
        match (&spec.stream, &spec.hook) {
            (Some(stream), _) => {
                let (hook, row) = self.stream(stream).await?;
                Ok((hook, Some(row)))
            }
            (None, Some(hook)) => Ok((self.hook(hook).await?, None)),
            (None, None) => Err(Error::Invalid("name a hook or a stream".to_owned())),
        }
    }

    async fn plan_rebuild(
        &self,
        hook: &Hook,
        only: Option<&StreamRow>,
        spec: &api::RebuildSpec,
    ) -> Result<api::Rebuild, Error> {
        let (streams, events) = match only {
            Some(stream) => (1, stream.head.0),
            None => self.store.hook_size(hook.id).await?,
        };
        Ok(api::Rebuild {
            id: None,
            hook: hook.name.clone(),
            stream: only.map(|stream| named(&hook.name, stream.key.clone())),
            check: spec.check,
            state: "planned".to_owned(),
            streams: number(streams),
            streams_done: 0,
            events: number(events),
            events_done: 0,
            differ: 0,
            failed: 0,
            samples: Vec::new(),
            error: None,
        })
    }

    async fn as_shown(&self, rebuild: store::Rebuild) -> Result<api::Rebuild, Error> {
        let hooks = self.store.hooks().await?;
        let hook = hooks
            .into_iter()
            .find(|hook| hook.id == HookId(rebuild.hook));
        let hook = hook.map(|hook| hook.name);
        let hook = hook.ok_or_else(|| Error::missing("hook", "that was deleted"))?;
        let samples = rebuild.samples();
        let check = rebuild.is_check();
        let key = rebuild.ordering_key.map(OrderingKey::stored);
        Ok(api::Rebuild {
            id: Some(rebuild.id),
            stream: key.map(|key| named(&hook, key)),
            hook,
            check,
            state: rebuild.state,
            streams: number(rebuild.streams),
            streams_done: number(rebuild.streams_done),
            events: number(rebuild.events),
            events_done: number(rebuild.events_done),
            differ: number(rebuild.differ),
            failed: number(rebuild.failed),
            samples,
            error: rebuild.error,
        })
    }
}

fn reduce(hook: &Hook) -> Result<&Arc<Handler>, Error> {
    let none = || Error::Invalid(format!("hook {} has no reduce handler", hook.name));
    hook.reduce().ok_or_else(none)
}

fn named(hook: &Name, key: OrderingKey) -> StreamName {
    StreamName {
        hook: hook.clone(),
        key,
    }
}

fn number(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
