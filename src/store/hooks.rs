//! Hooks and their handlers.

mod handlers;
mod plan;
mod rows;
mod terms;

use super::backend::Backend;
use super::{Error, Store, Writing, rejections, secret_uses};
use crate::domain::event::StreamId;
use crate::domain::forward::Begin;
use crate::domain::handshake::Handshake;
use crate::domain::hook::{Hook, HookId};
use crate::domain::name::Name;
use crate::domain::thresholds::Thresholds;
use crate::domain::time::{Timestamp, millis};
use crate::domain::version::Versioning;

use rows::{VerifyColumns, VersionColumns, allow_from, unordered_word};

pub use plan::{ForwardPlan, HookPlan, PullPlan};
pub(super) use rows::list;

/// Changes applied in one transaction.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    /// Namespaces to create, with their number of lanes and thresholds.
    pub new_namespaces: Vec<(&'a Name, u16, Thresholds)>,
    /// Namespaces with new thresholds.
    pub thresholds: Vec<(&'a Name, Thresholds)>,
    /// Existing hooks, with their desired settings.
    pub edited: Vec<(&'a Hook, HookPlan)>,
    /// Hooks to delete.
    pub deleted: Vec<HookId>,
    /// Hooks to create.
    pub new_hooks: Vec<HookPlan>,
}

const CREATE: &str = "insert into hooks
    (namespace, name, order_by, unordered, body_max, created_at, keep, dedupe_by,
    verify, tolerance_ms, public_url, secrets, handshake, version_by, late, reorder_ms, allow_from)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
    on conflict do nothing returning id";

const EDIT: &str = "update hooks set order_by = $2, unordered = $3, body_max = $4, keep = $5,
    dedupe_by = $6, verify = $7, tolerance_ms = $8, public_url = $9, secrets = $10,
    handshake = $11, version_by = $12, late = $13, reorder_ms = $14, allow_from = $15,
    version_rule = version_rule + case when version_by is distinct from $12 then 1 else 0 end
    where id = $1 and deleted_at is null";

const DELETE: &str = "update hooks set deleted_at = $2 where id = $1 and deleted_at is null";

const PURGEABLE: &str = "select s.id from streams s join hooks h on h.id = s.hook
    where h.deleted_at < $1 limit $2";

impl Store {
    /// All hooks with their handlers, by name.
    pub async fn hooks(&self) -> Result<Vec<Hook>, Error> {
        let mut tx = self.snapshot().await?;
        let hooks = list(&mut tx, &self.vault).await?;
        tx.commit().await?;
        Ok(hooks)
    }

    /// Creates hooks, all or none; `None` if one of the names is taken.
    pub async fn create_hooks(
        &self,
        plans: &[HookPlan],
        at: Timestamp,
    ) -> Result<Option<()>, Error> {
        let mut writing = self.begin().await?;
        for plan in plans {
            if !writing.create_hook(plan, at).await? {
                return Ok(None);
            }
        }
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(Some(()))
    }

    /// Applies `plan` to `hook`, except for the namespace. A changed reducer gets a new fold version;
    /// old states stay. Removing the reducer hides its cursors; a new reducer begins at the first
    /// stored event. `false` if the hook was deleted.
    pub async fn edit_hook(
        &self,
        hook: &Hook,
        plan: &HookPlan,
        at: Timestamp,
    ) -> Result<bool, Error> {
        self.heads_for(plan).await?;
        let mut writing = self.begin().await?;
        if !writing.edit_hook(hook, plan, at).await? {
            return Ok(false);
        }
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(true)
    }

    /// Updates the heads in the rows of streams from the log, if a new handler begins at the heads.
    async fn heads_for(&self, plan: &HookPlan) -> Result<(), Error> {
        let forwards = plan.forwards.iter().map(|forward| forward.from);
        let mut from = forwards.chain(plan.pulls.iter().map(|pull| pull.from));
        match from.any(|from| from == Begin::Now) {
            true => self.backend.index().await,
            false => Ok(()),
        }
    }

    /// Marks a hook as deleted: its name becomes free, and nothing reads it. [`Store::purge`] removes
    /// its events and states later, so that writes in flight leave nothing behind. `false` if it was
    /// deleted before.
    pub async fn delete_hook(&self, hook: HookId, at: Timestamp) -> Result<bool, Error> {
        let mut writing = self.begin().await?;
        if !writing.delete_hook(hook, at).await? {
            return Ok(false);
        }
        writing.config_changed().await?;
        self.backend.streams_deleted();
        writing.commit().await?;
        Ok(true)
    }

    /// Changes namespaces and hooks in one transaction; changes nothing and returns `false` if any of
    /// them was changed meanwhile. Hooks keep their lanes.
    pub async fn apply(&self, changes: &Batch<'_>, at: Timestamp) -> Result<bool, Error> {
        for (_, plan) in &changes.edited {
            self.heads_for(plan).await?;
        }
        let mut writing = self.begin().await?;
        for (name, lanes, thresholds) in &changes.new_namespaces {
            if !writing
                .create_namespace(name, *lanes, *thresholds, at)
                .await?
            {
                return Ok(false);
            }
        }
        for (name, to) in &changes.thresholds {
            if !writing.set_thresholds(name, *to).await? {
                return Ok(false);
            }
        }
        for (hook, plan) in &changes.edited {
            if !writing.edit_hook(hook, plan, at).await? {
                return Ok(false);
            }
        }
        for hook in &changes.deleted {
            if !writing.delete_hook(*hook, at).await? {
                return Ok(false);
            }
        }
        for plan in &changes.new_hooks {
            if !writing.create_hook(plan, at).await? {
                return Ok(false);
            }
        }
        writing.config_changed().await?;
        if !changes.deleted.is_empty() {
            self.backend.streams_deleted();
        }
        writing.commit().await?;
        Ok(true)
    }

    /// Encrypts handler secrets that an earlier hooklane stored in plain text, if there is a key;
    /// returns the number of handlers. Backups of the old database still contain the plain text. A
    /// failed call can be repeated.
    pub async fn seal_secrets(&self, at: Timestamp) -> Result<usize, Error> {
        const PLAIN: &str = "select id, secrets from handlers where secrets like '%\"whsec_%'";
        const SEAL: &str = "update handlers set secrets = $3 where id = $1 and secrets = $2";
        let plain: Vec<(i64, String)> = sqlx::query_as(PLAIN).fetch_all(&self.reader).await?;
        if plain.is_empty() || !self.vault.can_seal() {
            return Ok(0);
        }
        let mut writing = self.begin().await?;
        let mut handlers = 0;
        for (id, text) in plain {
            let Some(secrets) = self.vault.read(&text, str::parse) else {
                continue;
            };
            handlers += 1;
            sqlx::query(SEAL)
                .bind(id)
                .bind(&text)
                .bind(self.vault.write(&secrets, at)?)
                .execute(&mut writing.tx)
                .await?;
        }
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(handlers)
    }

    /// Removes up to `limit` streams of hooks deleted before `before`, with all their data; returns
    /// their number. After an error, a later call finds the rest.
    pub async fn purge(&self, before: Timestamp, limit: i64) -> Result<usize, Error> {
        // Groups of statements that run in one transaction. Postgres locks cursors and streams
        // separately, and the stream before its events, to which another node might be adding.
        const IN_FILE: &[&[&str]] = &[&[
            "delete from log_ids where id in
               (select l.id from log_index i join log l on l.n = i.n where i.stream = $1)",
            "delete from log where n in (select n from log_index where stream = $1)",
            "delete from log_index where stream = $1",
            CURSORS,
            DELIVERIES,
            DEAD_LETTERS,
            CHECKPOINTS,
            SIZES,
            STREAM,
        ]];
        const ON_SERVER: &[&[&str]] = &[
            &[CURSORS, DELIVERIES, DEAD_LETTERS, CHECKPOINTS, SIZES],
            &[STREAM, "delete from events where stream = $1"],
        ];
        const CURSORS: &str = "delete from cursors where stream = $1";
        const DELIVERIES: &str = "delete from deliveries where stream = $1";
        const DEAD_LETTERS: &str = "delete from dead_letters where stream = $1";
        const CHECKPOINTS: &str = "delete from checkpoints where stream = $1";
        const SIZES: &str = "delete from sizes where stream = $1";
        const STREAM: &str = "delete from streams where id = $1";
        let mut streams: Vec<i64> = sqlx::query_scalar(PURGEABLE)
            .bind(before.as_millis())
            .bind(limit)
            .fetch_all(&self.reader)
            .await?;
        if streams.is_empty() {
            return Ok(0);
        }
        streams.sort_unstable();
        self.backend.index().await?;
        let transactions = match &*self.backend {
            Backend::Sqlite(_) => IN_FILE,
            Backend::Postgres(_) => ON_SERVER,
        };
        for statements in transactions {
            let mut writing = self.begin().await?;
            for stream in &streams {
                for statement in *statements {
                    sqlx::query(*statement)
                        .bind(stream)
                        .execute(&mut writing.tx)
                        .await?;
                }
            }
            self.backend.streams_deleted();
            writing.commit().await?;
        }
        let gone: Vec<_> = streams.iter().copied().map(StreamId).collect();
        self.backend.forget(&gone);
        Ok(streams.len())
    }
}

impl Writing<'_> {
    /// Creates a hook; `false` if its name is taken.
    async fn create_hook(&mut self, plan: &HookPlan, at: Timestamp) -> Result<bool, Error> {
        let verify = VerifyColumns::of(plan.verify.as_ref(), self.vault, at)?;
        let versions = VersionColumns::of(plan.versioning.as_ref());
        let id: Option<i64> = sqlx::query_scalar(CREATE)
            .bind(plan.namespace.as_str())
            .bind(plan.name.as_str())
            .bind(plan.order_by.to_string())
            .bind(unordered_word(plan.unordered))
            .bind(i64::try_from(plan.body_max).unwrap_or(i64::MAX))
            .bind(at.as_millis())
            .bind(plan.keep.to_string())
            .bind(plan.dedupe_by.to_string())
            .bind(verify.scheme)
            .bind(verify.tolerance_ms)
            .bind(verify.public_url)
            .bind(verify.secrets)
            .bind(plan.handshake.map(Handshake::word))
            .bind(versions.by)
            .bind(versions.late)
            .bind(versions.reorder_ms)
            .bind(allow_from(&plan.allow_from))
            .fetch_optional(&mut self.tx)
            .await?;
        let Some(id) = id else {
            return Ok(false);
        };
        for handler in handlers::plans(plan, self.vault, at)? {
            handlers::add(&mut self.tx, HookId(id), &handler, at).await?;
        }
        Ok(true)
    }

    /// Edits a hook; `false` if it was deleted.
    async fn edit_hook(
        &mut self,
        hook: &Hook,
        plan: &HookPlan,
        at: Timestamp,
    ) -> Result<bool, Error> {
        let verify = VerifyColumns::of(plan.verify.as_ref(), self.vault, at)?;
        let versions = VersionColumns::of(plan.versioning.as_ref());
        let edited = sqlx::query(EDIT)
            .bind(hook.id.0)
            .bind(plan.order_by.to_string())
            .bind(unordered_word(plan.unordered))
            .bind(i64::try_from(plan.body_max).unwrap_or(i64::MAX))
            .bind(plan.keep.to_string())
            .bind(plan.dedupe_by.to_string())
            .bind(verify.scheme)
            .bind(verify.tolerance_ms)
            .bind(verify.public_url)
            .bind(verify.secrets)
            .bind(plan.handshake.map(Handshake::word))
            .bind(versions.by)
            .bind(versions.late)
            .bind(versions.reorder_ms)
            .bind(allow_from(&plan.allow_from))
            .execute(&mut self.tx)
            .await?;
        if edited.rows_affected() == 0 {
            return Ok(false);
        }
        self.forget_removed_secrets(hook, plan).await?;
        if hook.versioning != plan.versioning {
            self.move_windows(hook.id, plan.versioning.as_ref()).await?;
        }
        let plans = handlers::plans(plan, self.vault, at)?;
        for handler in &hook.handlers {
            if !plans.iter().any(|plan| plan.is(handler)) {
                handlers::remove(&mut self.tx, handler.id, at).await?;
            }
        }
        for plan in &plans {
            if let Some(handler) = hook.handlers.iter().find(|handler| plan.is(handler)) {
                handlers::edit(&mut self.tx, handler, plan).await?;
                continue;
            }
            let new = handlers::add(&mut self.tx, hook.id, plan, at).await?;
            handlers::begin(&mut self.tx, hook.id, new, plan.from, at).await?;
        }
        Ok(true)
    }

    /// Deletes the uses of the verifying secrets that the plan no longer has.
    async fn forget_removed_secrets(&mut self, hook: &Hook, plan: &HookPlan) -> Result<(), Error> {
        let before = hook.verify.iter().flat_map(|verify| verify.secrets.ids());
        for (id, _) in before {
            let mut after = plan.verify.iter().flat_map(|verify| verify.secrets.ids());
            if !after.any(|(kept, _)| kept == id) {
                secret_uses::forget(&mut self.tx, hook.id, Some(id)).await?;
            }
        }
        Ok(())
    }

    /// Ends the windows of waiting events as the new rule says. Events without a version do not wait.
    async fn move_windows(
        &mut self,
        hook: HookId,
        versioning: Option<&Versioning>,
    ) -> Result<(), Error> {
        const MOVE: &str = "update waiting set due_at = received_at + $2
            where hook = $1 and version <> ''";
        let window = versioning.and_then(|versioning| versioning.window);
        sqlx::query(MOVE)
            .bind(hook.0)
            .bind(millis(window.unwrap_or_default()))
            .execute(&mut self.tx)
            .await?;
        Ok(())
    }

    /// Marks a hook as deleted; `false` if it was before.
    async fn delete_hook(&mut self, hook: HookId, at: Timestamp) -> Result<bool, Error> {
        let deleted = sqlx::query(DELETE)
            .bind(hook.0)
            .bind(at.as_millis())
            .execute(&mut self.tx)
            .await?;
        if deleted.rows_affected() == 0 {
            return Ok(false);
        }
        handlers::remove_all(&mut self.tx, hook, at).await?;
        rejections::forget(&mut self.tx, hook).await?;
        secret_uses::forget(&mut self.tx, hook, None).await?;
        Ok(true)
    }
}
