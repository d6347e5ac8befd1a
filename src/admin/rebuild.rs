//! Rebuilds of states: plans, requests and progress.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::json;

use super::{Admin, Error};
use crate::api;
use crate::domain::hook::{Handler, Hook, HookId};
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;
use crate::engine::rebuild::fold_to;
use crate::store::{self, NewRebuild, StreamRow};
use crate::text::counted;

impl Admin {
    /// Starts a rebuild, or returns its plan.
    ///
    /// # Errors
    /// [`Error::Missing`] hook or stream; [`Error::Invalid`] without either; [`Error::Conflict`] while
    /// a rebuild of the hook is under way, or when removed events were only folded by an older version
    /// of the reducer; [`Error::NeedsDaemon`].
    pub async fn rebuild(&self, spec: &api::RebuildSpec, by: &str) -> Result<api::Rebuild, Error> {
        let engine = self.engine()?;
        let (hook, only) = self.whose(spec).await?;
        let handler = reduce(&hook)?;
        let plan = self.plan_rebuild(&hook, only.as_ref(), spec).await?;
        if spec.dry_run {
            return Ok(plan);
        }
        if !spec.from_checkpoints {
            are_foldable(&hook.name, plan.older)?;
        }
        // Reads the configuration first: the version of the reducer may have been changed by another
        // node a moment ago.
        self.changed().await?;
        let new = NewRebuild {
            hook: hook.id,
            handler: handler.id,
            fold: handler.fold,
            only: only.map(|stream| (stream.key, stream.head.0 - stream.floor.0)),
            check_only: spec.check,
            by: by.to_owned(),
        };
        self.store
            .tell_note(json!({"streams": plan.streams, "events": plan.events}));
        let id = self.store.begin_rebuild(&new, Timestamp::now()).await?;
        let Some(id) = id else {
            return Err(under_way_already(Some(&hook.name)));
        };
        engine.rebuild_soon();
        self.show_rebuild(id).await
    }

    /// Starts rebuilds of every hook, all or none, or returns their plans.
    ///
    /// # Errors
    /// As for [`Admin::rebuild`].
    pub async fn rebuild_all(
        &self,
        spec: &api::RebuildSpec,
        by: &str,
    ) -> Result<Vec<api::Rebuild>, Error> {
        let engine = self.engine()?;
        let hooks = self.store.hooks().await?;
        let hooks: Vec<_> = hooks
            .iter()
            .filter(|hook| hook.reduce().is_some())
            .collect();
        let mut plans = Vec::with_capacity(hooks.len());
        for hook in &hooks {
            plans.push(self.plan_rebuild(hook, None, spec).await?);
        }
        if spec.dry_run || hooks.is_empty() {
            return Ok(plans);
        }
        for plan in plans.iter().filter(|_| !spec.from_checkpoints) {
            are_foldable(&plan.hook, plan.older)?;
        }
        self.changed().await?;
        let mut new = Vec::with_capacity(hooks.len());
        for hook in &hooks {
            let handler = reduce(hook)?;
            new.push(NewRebuild {
                hook: hook.id,
                handler: handler.id,
                fold: handler.fold,
                only: None,
                check_only: spec.check,
                by: by.to_owned(),
            });
        }
        let sum = |of: fn(&api::Rebuild) -> u64| plans.iter().map(of).sum::<u64>();
        let (streams, events) = (sum(|plan| plan.streams), sum(|plan| plan.events));
        self.store
            .tell_note(json!({"hooks": hooks.len(), "streams": streams, "events": events}));
        let begun = self.store.begin_rebuilds(&new, Timestamp::now()).await?;
        let ids = begun.map_err(|under_way| {
            let hook = hooks.iter().find(|hook| hook.id == under_way);
            under_way_already(hook.map(|hook| &hook.name))
        })?;
        engine.rebuild_soon();
        let begun = plans.into_iter().zip(ids).map(|(plan, id)| api::Rebuild {
            id: Some(id),
            state: "running".to_owned(),
            ..plan
        });
        Ok(begun.collect())
    }

    /// One rebuild.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub async fn show_rebuild(&self, id: i64) -> Result<api::Rebuild, Error> {
        let rebuild = self.store.rebuild(id).await?;
        let rebuild = rebuild.ok_or_else(|| Error::missing("rebuild", id))?;
        let mut shown = self.as_shown(vec![rebuild]).await?;
        shown
            .pop()
            .ok_or_else(|| Error::missing("hook", "that was deleted"))
    }

    /// Rebuilds that are under way.
    pub async fn rebuilds(&self) -> Result<Vec<api::Rebuild>, Error> {
        let running = self.store.running_rebuilds().await?;
        self.as_shown(running).await
    }

    /// Rebuilds with numbers from `first` to `last`, both included, in any state.
    pub async fn rebuilds_between(
        &self,
        first: i64,
        last: i64,
    ) -> Result<Vec<api::Rebuild>, Error> {
        let rebuilds = self.store.rebuilds_between(first, last).await?;
        self.as_shown(rebuilds).await
    }

    /// The state of a stream after the event `to`, folded by the present reducer. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Missing`] stream; [`Error::Invalid`] for an event that does not exist or cannot be
    /// folded; [`Error::Conflict`] as for [`Admin::rebuild`], unless `from_checkpoints`.
    pub async fn fold_to(
        &self,
        stream: &StreamName,
        to: Seq,
        from_checkpoints: bool,
    ) -> Result<api::FoldedState, Error> {
        let engine = self.engine()?;
        let (hook, row) = self.stream(stream).await?;
        if to.0 < 1 || to > row.head {
            return Err(Error::Invalid(format!(
                "{stream} has events 1 to {}, not {to}",
                row.head
            )));
        }
        if to < row.floor {
            return Err(Error::Invalid(format!(
                "{stream}: retention (keep {}) has removed the events up to seq {}: its state can be \
                 folded from there on, not at seq {to}",
                hook.keep, row.floor
            )));
        }
        let handler = reduce(&hook)?;
        if !from_checkpoints {
            let (_, older) = self.checkpointed(&hook, handler, Some(&row)).await?;
            are_foldable(&hook.name, older)?;
        }
        let folded = fold_to(engine, &hook, handler, row, to).await?;
        let shadow = folded.map_err(|why| Error::Invalid(format!("{stream}: {why}")))?;
        let state = shadow.state.map(serde_json::value::RawValue::from_string);
        Ok(api::FoldedState {
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
        let (checkpoints, older) = self.checkpointed(hook, reduce(hook)?, only).await?;
        let (streams, events) = match only {
            Some(stream) => (1, stream.head.0 - stream.floor.0),
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
            checkpoints,
            older,
            per_s_before: self.store.rebuilt_per_s(hook.id).await?,
            differ: 0,
            failed: 0,
            samples: Vec::new(),
            error: None,
            asked_at: None,
        })
    }

    /// Number of streams that begin at a checkpoint, and number of those checkpoints that an older
    /// version had a part in.
    async fn checkpointed(
        &self,
        hook: &Hook,
        handler: &Handler,
        only: Option<&StreamRow>,
    ) -> Result<(u64, u64), Error> {
        let only = only.map(|stream| stream.id);
        let store = &self.store;
        Ok(store
            .checkpointed(hook.id, handler.id, only, handler.fold)
            .await?)
    }

    /// Rebuilds as JSON; those of deleted hooks are left out.
    async fn as_shown(&self, rebuilds: Vec<store::Rebuild>) -> Result<Vec<api::Rebuild>, Error> {
        let hooks = self.store.hooks().await?;
        let names: HashMap<_, _> = hooks.iter().map(|hook| (hook.id, &hook.name)).collect();
        let shown = rebuilds.into_iter().filter_map(|rebuild| {
            let hook = names.get(&HookId(rebuild.hook))?;
            Some(shown(rebuild, hook))
        });
        Ok(shown.collect())
    }
}

fn shown(rebuild: store::Rebuild, hook: &Name) -> api::Rebuild {
    let samples = rebuild.samples();
    let check = rebuild.is_check();
    let key = rebuild.ordering_key.map(OrderingKey::stored);
    api::Rebuild {
        id: Some(rebuild.id),
        stream: key.map(|key| named(hook, key)),
        hook: hook.clone(),
        check,
        state: rebuild.state,
        streams: number(rebuild.streams),
        streams_done: number(rebuild.streams_done),
        events: number(rebuild.events),
        events_done: number(rebuild.events_done),
        checkpoints: 0,
        older: 0,
        per_s_before: None,
        differ: number(rebuild.differ),
        failed: number(rebuild.failed),
        samples,
        error: rebuild.error,
        asked_at: Some(Timestamp::from_millis(rebuild.asked_at)),
    }
}

fn under_way_already(hook: Option<&Name>) -> Error {
    let hook = hook.map_or("?", Name::as_str);
    Error::Conflict(format!(
        "states of hook {hook} are being rebuilt already. Nothing was changed. To follow that: hooklane state \
         rebuild {hook}"
    ))
}

/// Checks that the present reducer can fold a hook's streams from the beginning.
fn are_foldable(hook: &Name, older: u64) -> Result<(), Error> {
    if older == 0 {
        return Ok(());
    }
    let streams = counted(older, "stream", "streams");
    Err(Error::Conflict(format!(
        "{streams} of hook {hook} cannot be folded from the first event: retention has removed events \
         that older code has folded. To keep what that code made of them, and fold the rest on top: \
         --from-checkpoints. Nothing was changed."
    )))
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
