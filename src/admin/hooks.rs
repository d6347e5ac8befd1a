//! Hooks: creating, changing, deleting and applying declarations.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::json;

use super::namespaces::{check_lanes, thresholds};
use super::{Admin, Error, forwards, order, pulls, verify};
use crate::api::{self, Action, Change, ChangeKind};
use crate::domain::handshake::Handshake;
use crate::domain::hook::{
    BODY_MAX_LIMIT, DEBOUNCE_MAX, Debounce, Handler, Hook, HookId, OnError, Reducer, Unordered,
    Work,
};
use crate::domain::name::Name;
use crate::domain::thresholds::Thresholds;
use crate::domain::time::Timestamp;
use crate::engine::reduce;
use crate::store::{Attribution, Batch, CursorRow, CursorsFilter, HookPlan};
use crate::text::duration;

/// Number of set-aside cursors read at a time. A page must not end between the cursors of one stream.
const ASIDE_PAGE: i64 = 1_000;

impl Admin {
    /// Every hook, or those of one namespace, by name.
    pub async fn hooks(&self, namespace: Option<&Name>) -> Result<Vec<api::Hook>, Error> {
        let hooks = self.store.hooks().await?;
        let wanted = |hook: &&Hook| namespace.is_none_or(|name| hook.namespace == *name);
        let mut all = Vec::new();
        let mut stops = self.store.hook_stops().await?;
        for hook in hooks.iter().filter(wanted) {
            let size = self.store.hook_size(hook.id).await?;
            let pause = stops.remove(&hook.id).and_then(|stop| stop.pause);
            all.push(shown(hook, pause, size));
        }
        Ok(all)
    }

    /// One hook.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub async fn show_hook(&self, name: &Name) -> Result<api::Hook, Error> {
        let hook = self.hook(name).await?;
        self.shown(&hook).await
    }

    /// Creates a hook.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Missing`] namespace, [`Error::Invalid`] with the reducer's error.
    pub async fn create_hook(&self, spec: &api::HookSpec) -> Result<api::Hook, Error> {
        self.namespace(&spec.namespace).await?;
        check(spec).await?;
        let plan = plan(spec, None)?;
        verify::can_keep(&self.store, &plan)?;
        let new_secrets = forwards::new_secrets(&plan, spec, None);
        let made = self.store.create_hooks(&[plan], Timestamp::now()).await?;
        made.ok_or_else(|| Error::Exists {
            kind: "hook",
            name: spec.name.to_string(),
        })?;
        self.changed().await?;
        let made = self.show_hook(&spec.name).await?;
        Ok(api::Hook {
            new_secrets,
            ..made
        })
    }

    /// Creates hooks that differ only in their names, in one transaction: all or none.
    ///
    /// # Errors
    /// As for [`Admin::create_hook`].
    pub async fn create_hooks(&self, new: &api::NewHooks) -> Result<Vec<api::Hook>, Error> {
        let like = |name: &Name| api::HookSpec {
            name: name.clone(),
            ..new.like.clone()
        };
        let specs: Vec<_> = new.names.iter().map(like).collect();
        self.namespace(&new.like.namespace).await?;
        let wanted = api::Apply {
            hooks: specs,
            ..api::Apply::default()
        };
        check_all(&wanted).await?;
        let there = self.store.hooks().await?;
        let taken = there.iter().find(|hook| new.names.contains(&hook.name));
        let exists = |name: &Name| Error::Exists {
            kind: "hook",
            name: name.to_string(),
        };
        if let Some(hook) = taken {
            return Err(exists(&hook.name));
        }
        let plans = wanted.hooks.iter().map(|spec| plan(spec, None));
        let plans = plans.collect::<Result<Vec<_>, _>>()?;
        for plan in &plans {
            verify::can_keep(&self.store, plan)?;
        }
        let made = self.store.create_hooks(&plans, Timestamp::now()).await?;
        made.ok_or_else(|| Error::Conflict("one of these hooks was made a moment ago".into()))?;
        self.changed().await?;
        let hooks = self.store.hooks().await?;
        let hooks: HashMap<_, _> = hooks.iter().map(|hook| (&hook.name, hook)).collect();
        let made = plans.iter().zip(&wanted.hooks);
        let shown = made.filter_map(|(plan, spec)| {
            let hook = hooks.get(&plan.name)?;
            Some(api::Hook {
                new_secrets: forwards::new_secrets(plan, spec, None),
                ..shown(hook, None, (0, 0))
            })
        });
        Ok(shown.collect())
    }

    /// Changes a hook; fields that the edit leaves out stay as they are.
    ///
    /// # Errors
    /// As for [`Admin::create_hook`].
    pub async fn edit_hook(&self, name: &Name, edit: &api::HookEdit) -> Result<api::Hook, Error> {
        let hook = self.hook(name).await?;
        let spec = edit.applied(spec_of(&hook))?;
        self.namespace(&spec.namespace).await?;
        check(&spec).await?;
        let new_secrets = self.set_hook(&hook, &spec).await?;
        let after = self.show_hook(name).await?;
        Ok(api::Hook {
            new_secrets,
            ..after
        })
    }

    /// Deletes a hook with its events and states.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub async fn delete_hook(&self, name: &Name) -> Result<api::Deleted, Error> {
        let hook = self.hook(name).await?;
        let (streams, events) = self.store.hook_size(hook.id).await?;
        let aside = self.set_aside(hook.id).await?;
        self.store
            .tell_note(json!({"streams": streams, "events": events}));
        if !self.store.delete_hook(hook.id, Timestamp::now()).await? {
            return Err(Error::missing("hook", name));
        }
        self.changed().await?;
        self.forget(&hook, &aside);
        Ok(api::Deleted {
            deleted: hook.name,
            streams: u64::try_from(streams).unwrap_or(0),
            events: u64::try_from(events).unwrap_or(0),
        })
    }

    /// Creates and changes hooks and namespaces as declared, and returns the changes. Applying the same
    /// declaration twice changes nothing. `prune` also deletes hooks that are not declared; `dry_run`
    /// only returns the changes. Everything is changed in one transaction, except that hooks move to
    /// other namespaces afterwards, one after the other.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a contradictory declaration, and [`Error::Conflict`] when a part of it
    /// was changed meanwhile: nothing is changed then. Also [`Error::Conflict`] for a hook that cannot
    /// move now.
    pub async fn apply(
        &self,
        wanted: &api::Apply,
        dry_run: bool,
        prune: bool,
    ) -> Result<api::Changes, Error> {
        check_all(wanted).await?;
        let there = self.store.hooks().await?;
        let namespaces = self.store.namespaces().await?;
        let has_namespace = |name: &Name| namespaces.iter().any(|n| n.lanes.namespace == *name);
        for spec in &wanted.hooks {
            let declared = wanted.namespaces.iter().any(|n| n.name == spec.namespace);
            if !declared && !has_namespace(&spec.namespace) {
                return Err(Error::missing("namespace", &spec.namespace));
            }
        }

        let (mut changes, mut batch) = (Vec::new(), Batch::default());
        let mut new_secrets = Vec::new();
        for spec in &wanted.namespaces {
            let Some(there) = namespaces.iter().find(|n| n.lanes.namespace == spec.name) else {
                changes.push(change(
                    Action::Create,
                    ChangeKind::Namespace,
                    &spec.name,
                    vec![],
                ));
                let thresholds = thresholds(spec, Thresholds::default())?;
                let new = (&spec.name, spec.lanes, thresholds);
                batch.new_namespaces.push(new);
                continue;
            };
            let to = thresholds(spec, there.thresholds)?;
            let what = later(there.thresholds, to);
            if !what.is_empty() {
                changes.push(change(
                    Action::Edit,
                    ChangeKind::Namespace,
                    &spec.name,
                    what,
                ));
                batch.thresholds.push((&spec.name, to));
            }
        }
        let (mut moves, mut bereft) = (Vec::new(), Vec::new());
        for spec in &wanted.hooks {
            let Some(hook) = there.iter().find(|hook| hook.name == spec.name) else {
                changes.push(change(Action::Create, ChangeKind::Hook, &spec.name, vec![]));
                let plan = plan(spec, None)?;
                new_secrets.extend(forwards::new_secrets(&plan, spec, None));
                batch.new_hooks.push(plan);
                continue;
            };
            let mut what = differences(&spec_of(hook), spec);
            if verify::brings_secret(spec, hook) {
                what.push("verify: another secret is in force too".to_owned());
            }
            if !what.is_empty() {
                changes.push(change(Action::Edit, ChangeKind::Hook, &spec.name, what));
                let plan = plan(spec, Some(hook))?;
                new_secrets.extend(forwards::new_secrets(&plan, spec, Some(hook)));
                batch.edited.push((hook, plan));
            }
            if hook.namespace != spec.namespace {
                moves.push((hook, &spec.namespace));
            }
            if loses_handlers(hook, spec) {
                bereft.push(hook);
            }
        }
        let declared: HashSet<_> = wanted.hooks.iter().map(|spec| &spec.name).collect();
        let is_gone = |hook: &&Hook| prune && !declared.contains(&hook.name);
        for hook in there.iter().filter(is_gone) {
            changes.push(change(Action::Delete, ChangeKind::Hook, &hook.name, vec![]));
            batch.deleted.push(hook.id);
            bereft.push(hook);
        }
        if dry_run || changes.is_empty() {
            return Ok(api::Changes {
                changes,
                new_secrets: Vec::new(),
            });
        }

        self.store.amend_note(|note| {
            note.subject = match &changes[..] {
                [change] => change.name.to_string(),
                changes => format!("{} changes", changes.len()),
            };
        });
        self.store.tell_note(json!({"changes": changes}));
        let edited = batch.edited.iter().map(|(_, plan)| plan);
        for plan in edited.chain(&batch.new_hooks) {
            verify::can_keep(&self.store, plan)?;
        }
        let mut aside = Vec::new();
        for hook in bereft {
            aside.push((hook, self.set_aside(hook.id).await?));
        }
        if !self.store.apply(&batch, Timestamp::now()).await? {
            let message = "another operator changed hooks or namespaces meanwhile. Nothing was changed; apply again";
            return Err(Error::Conflict(message.into()));
        }
        self.changed().await?;
        for (hook, aside) in &aside {
            self.forget(hook, aside);
        }
        for (hook, to) in moves {
            let moved = self.move_hook(hook, to).await;
            moved.map_err(|error| match error {
                Error::Conflict(why) => {
                    Error::Conflict(format!("{why}. The rest of the file is applied"))
                }
                other => other,
            })?;
        }
        self.changed().await?;
        Ok(api::Changes {
            changes,
            new_secrets,
        })
    }

    async fn set_hook(
        &self,
        hook: &Hook,
        spec: &api::HookSpec,
    ) -> Result<Vec<api::NewSecret>, Error> {
        let now = Timestamp::now();
        let plan = plan(spec, Some(hook))?;
        verify::can_keep(&self.store, &plan)?;
        let new_secrets = forwards::new_secrets(&plan, spec, Some(hook));
        let aside = match loses_handlers(hook, spec) {
            true => self.set_aside(hook.id).await?,
            false => Vec::new(),
        };
        if hook.namespace != spec.namespace {
            self.move_hook(hook, &spec.namespace).await?;
        }
        if !self.store.edit_hook(hook, &plan, now).await? {
            return Err(Error::missing("hook", &hook.name));
        }
        self.changed().await?;
        self.forget(hook, &aside);
        Ok(new_secrets)
    }

    /// Moves the streams of a hook to the lanes of another namespace. The first turn of the new lanes
    /// begins only when no turn of the old ones runs. Only this hook waits, for about one turn.
    async fn move_hook(&self, hook: &Hook, to: &Name) -> Result<(), Error> {
        let (name, now) = (&hook.name, Timestamp::now());
        let begun = self.store.begin_move(hook.id, &hook.namespace, to, now);
        let Some(moving) = begun.await? else {
            return Err(Error::Conflict(format!(
                "hook {name} stays where it is: it is on its way to another namespace, or has left {}, or \
                 there is no {to} any more",
                hook.namespace
            )));
        };
        let Some(engine) = &self.engine else {
            // Without a daemon no turns run.
            self.store.end_move(&moving).await?;
            return Ok(());
        };
        self.changed().await?;
        loop {
            let late = self.acted_by_all(moving.since).await?;
            let why = format!("node {} does not answer", late.join(", "));
            if !late.is_empty() && self.store.give_up_move(&moving, &why).await? {
                self.changed().await?;
                return Err(Error::Conflict(format!(
                    "{why}: hook {name} stays where it is; try again"
                )));
            }
            // Another node may have ended the move, or a new node may not have seen the stop yet.
            let is_over = async || {
                let stop = self.store.hook_stops().await?.remove(&hook.id);
                Ok::<_, Error>(stop.and_then(|stop| stop.moving).as_ref() != Some(&moving))
            };
            if engine.end_move(&moving).await? || is_over().await? {
                return Ok(());
            }
        }
    }

    /// The set-aside cursors of a hook, read before their handler is removed; empty without an engine.
    pub(super) async fn set_aside(&self, hook: HookId) -> Result<Vec<CursorRow>, Error> {
        let mut found = Vec::new();
        for condition in self.engine.iter().flat_map(|_| ["waiting", "held"]) {
            let mut filter = CursorsFilter {
                hook: Some(hook),
                condition: Some(condition),
                limit: ASIDE_PAGE,
                ..CursorsFilter::default()
            };
            loop {
                let page = self.store.cursors(&filter).await?;
                let Some(last) = page.last() else {
                    break;
                };
                filter.after = Some(last.id.stream);
                found.extend(page);
            }
        }
        Ok(found)
    }

    /// Hints cursors whose handler is gone, so that their lanes look at them and drop them.
    pub(super) fn forget(&self, hook: &Hook, aside: &[CursorRow]) {
        let cursors = self
            .engine
            .iter()
            .flat_map(|engine| aside.iter().map(move |row| (engine, row)));
        for (engine, row) in cursors {
            engine.let_go(&hook.namespace, row.slot, row.id, 1);
        }
    }

    async fn shown(&self, hook: &Hook) -> Result<api::Hook, Error> {
        let stop = self.store.hook_stops().await?.remove(&hook.id);
        let pause = stop.and_then(|stop| stop.pause);
        let size = self.store.hook_size(hook.id).await?;
        let engine = self.engine.as_deref();
        let deliveries = engine.map(|engine| forwards::deliveries(engine, hook));
        Ok(api::Hook {
            deliveries: deliveries.unwrap_or_default(),
            order: self.order_of_hook(hook).await?,
            ..shown(hook, pause, size)
        })
    }
}

fn shown(hook: &Hook, pause: Option<Attribution>, (streams, events): (i64, i64)) -> api::Hook {
    api::Hook {
        spec: spec_of(hook),
        fold: hook.reduce().map(|handler| handler.fold),
        created_at: hook.created_at,
        streams: u64::try_from(streams).ok(),
        events: u64::try_from(events).ok(),
        paused: pause.map(|pause| api::Paused {
            by: pause.by,
            at: pause.at,
            reason: pause.reason,
        }),
        order: None,
        deliveries: Vec::new(),
        new_secrets: Vec::new(),
    }
}

/// Checks a whole declaration before any of it is carried out.
async fn check_all(wanted: &api::Apply) -> Result<(), Error> {
    let mut names = HashSet::new();
    for spec in &wanted.namespaces {
        check_lanes(spec.lanes)?;
        thresholds(spec, Thresholds::default())?;
    }
    let mut sources = HashSet::new();
    for spec in &wanted.hooks {
        if !names.insert(&spec.name) {
            return Err(Error::Invalid(format!(
                "hook {} is declared twice",
                spec.name
            )));
        }
        // A reducer that many hooks share is compiled once.
        let is_known = match &spec.reduce {
            Some(Reducer::Script(source)) => !sources.insert(source.text.clone()),
            _ => false,
        };
        if is_known {
            check_sizes(spec)?;
        } else {
            check(spec).await?;
        }
    }
    Ok(())
}

async fn check(spec: &api::HookSpec) -> Result<(), Error> {
    check_sizes(spec)?;
    match &spec.reduce {
        Some(reducer) => check_reducer(reducer).await,
        None => Ok(()),
    }
}

/// Checks that a reducer compiles.
pub(super) async fn check_reducer(reducer: &Reducer) -> Result<(), Error> {
    let Reducer::Script(source) = reducer.clone() else {
        return Ok(());
    };
    // Compiling takes milliseconds and must not block the async runtime.
    let checked = tokio::task::spawn_blocking(move || reduce::check(&source)).await;
    match checked {
        Ok(Ok(())) => Ok(()),
        Ok(Err(fault)) => Err(Error::Invalid(fault)),
        Err(_) => Err(Error::Invalid("the reducer could not be compiled".into())),
    }
}

/// Number of ranges of addresses from which one hook accepts requests; each request is compared with all.
const ALLOW_FROM_MAX: usize = 256;

fn check_sizes(spec: &api::HookSpec) -> Result<(), Error> {
    forwards::check(&spec.forward)?;
    verify::check(spec.verify.as_ref())?;
    verify::check_handshake(spec)?;
    order::check(spec)?;
    pulls::check(spec)?;
    let ranges = spec.allow_from.iter().count();
    if ranges > ALLOW_FROM_MAX {
        return Err(Error::Invalid(format!(
            "a hook accepts requests from {ALLOW_FROM_MAX} ranges of addresses at most, got {ranges}; join those that are \
             neighbours"
        )));
    }
    if spec.body_max == 0 || spec.body_max > BODY_MAX_LIMIT {
        return Err(Error::Invalid(format!(
            "the largest body is 1 to {BODY_MAX_LIMIT} bytes, got {}",
            spec.body_max
        )));
    }
    if spec.reduce.is_none() && !spec.only.takes_all() {
        return Err(Error::Invalid(
            "a filter of the hook itself needs a reducer; a forward or pull handler has its own"
                .into(),
        ));
    }
    match spec.debounce {
        Some(debounce) if debounce.longest > DEBOUNCE_MAX => {
            Err(Error::Invalid("a debounce may last an hour at most".into()))
        }
        Some(_) if spec.reduce.is_none() => {
            Err(Error::Invalid("a debounce needs a reducer".into()))
        }
        _ => Ok(()),
    }
}

fn change(action: Action, kind: ChangeKind, name: &Name, what: Vec<String>) -> Change {
    Change {
        action,
        kind,
        name: name.clone(),
        what,
    }
}

/// The rows of a hook and its handlers; `there` is the existing hook.
fn plan(spec: &api::HookSpec, there: Option<&Hook>) -> Result<HookPlan, Error> {
    let forwards = spec.forward.iter();
    let forwards = forwards.map(|forward| forwards::plan(forward, there));
    Ok(HookPlan {
        name: spec.name.clone(),
        namespace: spec.namespace.clone(),
        order_by: spec.order_by.clone(),
        unordered: spec.unordered,
        dedupe_by: spec.dedupe_by.clone(),
        verify: verify::plan(spec.verify.as_ref(), there)?,
        handshake: spec.handshake,
        versioning: order::versioning(spec),
        allow_from: spec.allow_from.clone(),
        body_max: spec.body_max,
        keep: spec.keep,
        reducer: spec.reduce.clone(),
        on_error: spec.on_error,
        debounce: spec.debounce,
        only: spec.only.clone(),
        forwards: forwards.collect::<Result<_, _>>()?,
        pulls: spec.pull.iter().map(pulls::plan).collect(),
    })
}

/// True if the change removes a handler, and its cursors with it.
fn loses_handlers(hook: &Hook, spec: &api::HookSpec) -> bool {
    let stays = |name: &Name| spec.forward.iter().any(|forward| forward.name == *name);
    let goes = |handler: &Handler| match handler.work {
        Work::Reduce(_) => spec.reduce.is_none(),
        Work::Forward { .. } => !stays(&handler.name),
        Work::Pull(_) => !spec.pull.iter().any(|pull| pull.name == handler.name),
    };
    hook.handlers.iter().any(|handler| goes(handler))
}

fn spec_of(hook: &Hook) -> api::HookSpec {
    let reduce = hook.reduce();
    api::HookSpec {
        name: hook.name.clone(),
        namespace: hook.namespace.clone(),
        order_by: hook.order_by.clone(),
        unordered: hook.unordered,
        dedupe_by: hook.dedupe_by.clone(),
        verify: verify::spec_of(hook),
        handshake: hook.handshake,
        version_by: hook.versioning.as_ref().map(|of| of.by.clone()),
        late: order::late(hook),
        reorder_window_ms: order::window_ms(hook),
        allow_from: hook.allow_from.clone(),
        reduce: reduce.and_then(|handler| handler.reducer().cloned()),
        on_error: reduce.map(|handler| handler.on_error).unwrap_or_default(),
        debounce: reduce.and_then(|handler| handler.debounce),
        only: reduce
            .map(|handler| handler.only.clone())
            .unwrap_or_default(),
        body_max: hook.body_max,
        keep: hook.keep,
        forward: forwards::specs_of(hook),
        pull: pulls::specs_of(hook),
    }
}

/// Differences between thresholds, in words.
fn later(was: Thresholds, to: Thresholds) -> Vec<String> {
    let figures = [("warn", was.warn, to.warn), ("crit", was.crit, to.crit)];
    let changed = figures.into_iter().filter(|(_, from, to)| from != to);
    changed
        .map(|(field, from, to)| format!("{field}: {} -> {}", duration(from), duration(to)))
        .collect()
}

fn allow_from(spec: &api::HookSpec) -> String {
    match spec.allow_from.is_empty() {
        true => "any".to_owned(),
        false => spec.allow_from.to_string(),
    }
}

fn handshake(spec: &api::HookSpec) -> String {
    let word = spec.handshake.map(Handshake::word);
    word.unwrap_or("none").to_owned()
}

/// Differences between two hooks, in words.
fn differences(from: &api::HookSpec, to: &api::HookSpec) -> Vec<String> {
    let mut what = Vec::new();
    let mut note = |field: &str, from: String, to: String| {
        if from != to {
            what.push(format!("{field}: {from} -> {to}"));
        }
    };
    note(
        "namespace",
        from.namespace.to_string(),
        to.namespace.to_string(),
    );
    note(
        "order_by",
        from.order_by.to_string(),
        to.order_by.to_string(),
    );
    note(
        "unordered",
        unordered(from.unordered),
        unordered(to.unordered),
    );
    note(
        "dedupe_by",
        from.dedupe_by.to_string(),
        to.dedupe_by.to_string(),
    );
    what.extend(verify::differences(
        from.verify.as_ref(),
        to.verify.as_ref(),
    ));
    let mut note = |field: &str, from: String, to: String| {
        if from != to {
            what.push(format!("{field}: {from} -> {to}"));
        }
    };
    note("handshake", handshake(from), handshake(to));
    note("version_by", order::told(from), order::told(to));
    note("allow_from", allow_from(from), allow_from(to));
    note("reduce", reducer(&from.reduce), reducer(&to.reduce));
    note("on_error", on_error(from.on_error), on_error(to.on_error));
    note("debounce", debounce(from.debounce), debounce(to.debounce));
    note("only", forwards::only(&from.only), forwards::only(&to.only));
    note(
        "body_max",
        from.body_max.to_string(),
        to.body_max.to_string(),
    );
    note("keep", from.keep.to_string(), to.keep.to_string());
    what.extend(forwards::differences(&from.forward, &to.forward));
    what.extend(pulls::differences(&from.pull, &to.pull));
    if from.reduce != to.reduce && reducer(&from.reduce) == reducer(&to.reduce) {
        what.push(format!("reduce: {} has new code", reducer(&to.reduce)));
    }
    what
}

fn reducer(reducer: &Option<Reducer>) -> String {
    reducer.as_ref().map_or("none".into(), Reducer::to_string)
}

fn unordered(unordered: Unordered) -> String {
    match unordered {
        Unordered::Refuse => "refuse".into(),
        Unordered::Keep => "keep".into(),
    }
}

fn on_error(on_error: OnError) -> String {
    match on_error {
        OnError::Hold => "hold".into(),
        OnError::Skip => "skip".into(),
    }
}

fn debounce(debounce: Option<Debounce>) -> String {
    let ms = |duration: Duration| duration.as_millis();
    debounce.map_or("none".into(), |debounce| {
        format!(
            "{}ms, {}ms at most",
            ms(debounce.quiet),
            ms(debounce.longest)
        )
    })
}
