//! Hooks and their handlers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::FromRow;

mod terms;

use super::backend::Backend;
use super::backend::session::Tx;
use super::vault::Vault;
use super::{Error, Store, Writing, rejections, replays};
use crate::domain::event::StreamId;
use crate::domain::filter::Filter;
use crate::domain::forward::{Begin, Forward};
use crate::domain::handshake::Handshake;
use crate::domain::hook::{
    Debounce, DedupeBy, Handler, HandlerId, Hook, HookId, OnError, OrderBy, Reducer, Source,
    Unordered, Work,
};
use crate::domain::keep::Keep;
use crate::domain::name::Name;
use crate::domain::network::Networks;
use crate::domain::pull::Pull;
use crate::domain::secret::{Secret, Secrets};
use crate::domain::thresholds::Thresholds;
use crate::domain::time::{Timestamp, millis};
use crate::domain::verify::{Scheme, TOLERANCE_DEFAULT, Verify};
use crate::domain::version::{Late, Versioning};

/// Desired settings of a hook.
#[derive(Clone, Debug, PartialEq)]
pub struct HookPlan {
    /// Name of the hook.
    pub name: Name,
    /// Namespace whose lanes its streams use.
    pub namespace: Name,
    /// Rule that divides its events into streams.
    pub order_by: OrderBy,
    /// Treatment of events without an ordering key.
    pub unordered: Unordered,
    /// Rule that identifies repeats of an event.
    pub dedupe_by: DedupeBy,
    /// Verification of the sender's signatures.
    pub verify: Option<Verify>,
    /// The test of the URL that it answers.
    pub handshake: Option<Handshake>,
    /// Rule for the provider's order.
    pub versioning: Option<Versioning>,
    /// Addresses from which it accepts requests; empty for all.
    pub allow_from: Networks,
    /// Size limit of a body, in bytes.
    pub body_max: u64,
    /// Retention of events that every handler has passed.
    pub keep: Keep,
    /// Reducer; `None` only stores events.
    pub reducer: Option<Reducer>,
    /// Policy for an event that cannot be folded.
    pub on_error: OnError,
    /// Debounce, which gathers events into one turn.
    pub debounce: Option<Debounce>,
    /// Filter of the events that it folds.
    pub only: Filter,
    /// Forward handlers, by name.
    pub forwards: Vec<ForwardPlan>,
    /// Pull handlers, by name.
    pub pulls: Vec<PullPlan>,
}

/// Desired settings of a forward handler.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardPlan {
    /// Name of the handler, unique in its hook.
    pub name: Name,
    /// Destination of its deliveries.
    pub to: Forward,
    /// Secrets that sign the handler's requests.
    pub secrets: Secrets,
    /// Policy for an event that has used up its tries.
    pub on_error: OnError,
    /// Debounce, which gathers events into a delivery.
    pub debounce: Option<Debounce>,
    /// Filter of the events that it delivers.
    pub only: Filter,
    /// First event for a new handler; ignored for an existing one.
    pub from: Begin,
}

/// Desired settings of a pull handler.
#[derive(Clone, Debug, PartialEq)]
pub struct PullPlan {
    /// Name of the handler, unique in its hook.
    pub name: Name,
    /// Terms of its deliveries.
    pub terms: Pull,
    /// Policy for an event that has used up its tries.
    pub on_error: OnError,
    /// Filter of the events that it delivers.
    pub only: Filter,
    /// First event for a new handler; ignored for an existing one.
    pub from: Begin,
}

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

impl From<&Hook> for HookPlan {
    fn from(hook: &Hook) -> Self {
        let reduce = hook.reduce();
        let forwards = hook.handlers.iter();
        let pulls = hook.handlers.iter();
        Self {
            name: hook.name.clone(),
            namespace: hook.namespace.clone(),
            order_by: hook.order_by.clone(),
            unordered: hook.unordered,
            dedupe_by: hook.dedupe_by.clone(),
            verify: hook.verify.clone(),
            handshake: hook.handshake,
            versioning: hook.versioning.clone(),
            allow_from: hook.allow_from.clone(),
            body_max: hook.body_max,
            keep: hook.keep,
            reducer: reduce.and_then(|handler| handler.reducer().cloned()),
            on_error: reduce.map(|handler| handler.on_error).unwrap_or_default(),
            debounce: reduce.and_then(|handler| handler.debounce),
            only: reduce
                .map(|handler| handler.only.clone())
                .unwrap_or_default(),
            forwards: forwards
                .filter_map(|handler| ForwardPlan::of(handler))
                .collect(),
            pulls: pulls.filter_map(|handler| PullPlan::of(handler)).collect(),
        }
    }
}

impl ForwardPlan {
    /// Present settings of a handler; `None` if it is not a forward handler.
    pub fn of(handler: &Handler) -> Option<Self> {
        let Work::Forward { to, secrets } = &handler.work else {
            return None;
        };
        Some(Self {
            name: handler.name.clone(),
            to: to.clone(),
            secrets: secrets.clone(),
            on_error: handler.on_error,
            debounce: handler.debounce,
            only: handler.only.clone(),
            from: Begin::default(),
        })
    }
}

impl PullPlan {
    /// Present settings of a handler; `None` if it is not a pull handler.
    pub fn of(handler: &Handler) -> Option<Self> {
        Some(Self {
            name: handler.name.clone(),
            terms: handler.pull()?.clone(),
            on_error: handler.on_error,
            only: handler.only.clone(),
            from: Begin::default(),
        })
    }
}

#[derive(FromRow)]
struct HookRow {
    id: i64,
    namespace: String,
    name: String,
    order_by: String,
    unordered: String,
    dedupe_by: String,
    verify: Option<String>,
    tolerance_ms: i64,
    public_url: Option<String>,
    secrets: Option<String>,
    handshake: Option<String>,
    version_by: Option<String>,
    version_rule: i64,
    late: String,
    reorder_ms: Option<i64>,
    allow_from: Option<String>,
    body_max: i64,
    keep: String,
    created_at: i64,
}

#[derive(FromRow)]
struct HandlerRow {
    id: i64,
    hook: i64,
    name: String,
    reduce: String,
    source: Option<String>,
    fold: i64,
    on_error: String,
    quiet_ms: Option<i64>,
    longest_ms: Option<i64>,
    kind: String,
    terms: Option<String>,
    secrets: Option<String>,
    only_events: Option<String>,
}

const HOOKS: &str = "select id, namespace, name, order_by, unordered, dedupe_by, body_max, keep,
    verify, tolerance_ms, public_url, secrets, handshake, version_by, version_rule, late, reorder_ms,
    allow_from, created_at
    from hooks where deleted_at is null order by name";

const HANDLERS: &str =
    "select id, hook, name, reduce, source, fold, on_error, quiet_ms, longest_ms,
    kind, terms, secrets, only_events from handlers where deleted_at is null order by id";

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

const ADD_HANDLER: &str = "insert into handlers
    (hook, name, kind, reduce, source, on_error, quiet_ms, longest_ms, terms, secrets, created_at,
      only_events)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) returning id";

const EDIT_HANDLER: &str =
    "update handlers set reduce = $2, source = $3, on_error = $4, quiet_ms = $5,
    longest_ms = $6, terms = $7, secrets = $8, fold = fold + $9, only_events = $10 where id = $1";

const REMOVE_HANDLER: &str = "update handlers set deleted_at = $2 where id = $1";

const REMOVE_HANDLERS: &str =
    "update handlers set deleted_at = $2 where hook = $1 and deleted_at is null";

const PURGEABLE: &str = "select s.id from streams s join hooks h on h.id = s.hook
    where h.deleted_at < $1 limit $2";

/// All hooks with their handlers, by name. `tx` must read from one snapshot, otherwise a hook may
/// appear without its handlers.
pub(super) async fn list(tx: &mut Tx, vault: &Vault) -> Result<Vec<Hook>, Error> {
    let handlers: Vec<HandlerRow> = sqlx::query_as(HANDLERS).fetch_all(&mut *tx).await?;
    let mut of_hook: HashMap<i64, Vec<Arc<Handler>>> = HashMap::new();
    for row in handlers {
        let (hook, handler) = (row.hook, row.handler(vault)?);
        of_hook.entry(hook).or_default().push(Arc::new(handler));
    }
    let hooks: Vec<HookRow> = sqlx::query_as(HOOKS).fetch_all(&mut *tx).await?;
    let with_handlers = |row: HookRow| {
        let handlers = of_hook.remove(&row.id).unwrap_or_default();
        row.hook(handlers, vault)
    };
    hooks.into_iter().map(with_handlers).collect()
}

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
        for wanted in wanted(plan, self.vault, at)? {
            add_handler(&mut self.tx, HookId(id), &wanted, at).await?;
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
        if hook.versioning != plan.versioning {
            self.move_windows(hook.id, plan.versioning.as_ref()).await?;
        }
        let plans = wanted(plan, self.vault, at)?;
        for handler in &hook.handlers {
            if !plans.iter().any(|wanted| wanted.is(handler)) {
                remove_handler(&mut self.tx, handler.id, at).await?;
            }
        }
        for wanted in &plans {
            if let Some(handler) = hook.handlers.iter().find(|handler| wanted.is(handler)) {
                edit_handler(&mut self.tx, handler, wanted).await?;
                continue;
            }
            let new = add_handler(&mut self.tx, hook.id, wanted, at).await?;
            begin(&mut self.tx, hook.id, new, wanted.from, at).await?;
        }
        Ok(true)
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
        remove_handlers(&mut self.tx, hook, at).await?;
        rejections::forget(&mut self.tx, hook).await?;
        Ok(true)
    }
}

/// The desired row of a handler.
struct Wanted<'a> {
    name: Name,
    kind: &'static str,
    reducer: Option<&'a Reducer>,
    on_error: OnError,
    debounce: Option<Debounce>,
    terms: Option<String>,
    secrets: Option<String>,
    only: &'a Filter,
    from: Begin,
}

impl Wanted<'_> {
    fn is(&self, handler: &Handler) -> bool {
        self.name == handler.name && self.kind == handler.kind()
    }
}

/// Desired rows of the handlers of a hook.
fn wanted<'p>(plan: &'p HookPlan, vault: &Vault, at: Timestamp) -> Result<Vec<Wanted<'p>>, Error> {
    let reduce = plan.reducer.as_ref().map(|reducer| Wanted {
        name: Name::reduce(),
        kind: "reduce",
        reducer: Some(reducer),
        on_error: plan.on_error,
        debounce: plan.debounce,
        terms: None,
        secrets: None,
        only: &plan.only,
        from: Begin::Beginning,
    });
    let forwards = plan.forwards.iter().map(|forward| {
        Ok(Wanted {
            name: forward.name.clone(),
            kind: "forward",
            reducer: None,
            on_error: forward.on_error,
            debounce: forward.debounce,
            terms: Some(terms::write(&forward.to)),
            secrets: Some(vault.write(&forward.secrets, at)?),
            only: &forward.only,
            from: forward.from,
        })
    });
    let pulls = plan.pulls.iter().map(|pull| Wanted {
        name: pull.name.clone(),
        kind: "pull",
        reducer: None,
        on_error: pull.on_error,
        debounce: None,
        terms: Some(terms::write_pull(&pull.terms)),
        secrets: None,
        only: &pull.only,
        from: pull.from,
    });
    let others = reduce.into_iter().chain(pulls).map(Ok);
    others.chain(forwards).collect()
}

async fn add_handler(
    tx: &mut Tx,
    hook: HookId,
    wanted: &Wanted<'_>,
    at: Timestamp,
) -> Result<HandlerId, Error> {
    let id: i64 = sqlx::query_scalar(ADD_HANDLER)
        .bind(hook.0)
        .bind(wanted.name.as_str())
        .bind(wanted.kind)
        .bind(wanted.reducer.map(Reducer::to_string).unwrap_or_default())
        .bind(wanted.reducer.and_then(source_of))
        .bind(on_error_word(wanted.on_error))
        .bind(wanted.debounce.map(|debounce| millis(debounce.quiet)))
        .bind(wanted.debounce.map(|debounce| millis(debounce.longest)))
        .bind(wanted.terms.as_deref())
        .bind(wanted.secrets.as_deref())
        .bind(at.as_millis())
        .bind(terms::write_filter(wanted.only))
        .fetch_one(&mut *tx)
        .await?;
    Ok(HandlerId(id))
}

/// Creates the cursors of a new handler that do not begin at zero: at the floors, where retention has
/// removed events, or at the heads. Neither moves meanwhile, because the row of the hook was written
/// before.
async fn begin(
    tx: &mut Tx,
    hook: HookId,
    handler: HandlerId,
    from: Begin,
    at: Timestamp,
) -> Result<(), Error> {
    const FLOOR: &str = "insert into cursors (stream, handler, position, base, chain, updated_at)
        select s.id, $2, s.floor, s.floor, $3, $4 from streams s
        where s.hook = $1 and s.floor > 0 order by s.id";
    const HEAD: &str = "insert into cursors (stream, handler, position, base, chain, updated_at)
        select s.id, $2, s.head, s.head, $3, $4 from streams s
        where s.hook = $1 and s.head > 0 order by s.id";
    let insert = match from {
        Begin::Beginning => FLOOR,
        Begin::Now => HEAD,
    };
    sqlx::query(insert)
        .bind(hook.0)
        .bind(handler.0)
        .bind(Vec::<u8>::new())
        .bind(at.as_millis())
        .execute(&mut *tx)
        .await?;
    Ok(())
}

async fn edit_handler(tx: &mut Tx, handler: &Handler, wanted: &Wanted<'_>) -> Result<(), Error> {
    let is_new_code = wanted.reducer.is_some()
        && (wanted.reducer != handler.reducer() || *wanted.only != handler.only);
    sqlx::query(EDIT_HANDLER)
        .bind(handler.id.0)
        .bind(wanted.reducer.map(Reducer::to_string).unwrap_or_default())
        .bind(wanted.reducer.and_then(source_of))
        .bind(on_error_word(wanted.on_error))
        .bind(wanted.debounce.map(|debounce| millis(debounce.quiet)))
        .bind(wanted.debounce.map(|debounce| millis(debounce.longest)))
        .bind(wanted.terms.as_deref())
        .bind(wanted.secrets.as_deref())
        .bind(i64::from(is_new_code))
        .bind(terms::write_filter(wanted.only))
        .execute(&mut *tx)
        .await?;
    Ok(())
}

async fn remove_handler(tx: &mut Tx, handler: HandlerId, at: Timestamp) -> Result<(), Error> {
    sqlx::query(REMOVE_HANDLER)
        .bind(handler.0)
        .bind(at.as_millis())
        .execute(&mut *tx)
        .await?;
    replays::remove_of(&mut *tx, handler).await?;
    // Otherwise a draining lane would wait for the removed handler.
    sqlx::query("delete from marks where handler = $1")
        .bind(handler.0)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

async fn remove_handlers(tx: &mut Tx, hook: HookId, at: Timestamp) -> Result<(), Error> {
    sqlx::query(REMOVE_HANDLERS)
        .bind(hook.0)
        .bind(at.as_millis())
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// The column of the accepted addresses; `None` for all.
fn allow_from(ranges: &Networks) -> Option<String> {
    (!ranges.is_empty()).then(|| ranges.to_string())
}

fn source_of(reducer: &Reducer) -> Option<&str> {
    match reducer {
        Reducer::Script(source) => Some(&source.text),
        _ => None,
    }
}

fn unordered_word(unordered: Unordered) -> &'static str {
    match unordered {
        Unordered::Refuse => "refuse",
        Unordered::Keep => "keep",
    }
}

fn on_error_word(on_error: OnError) -> &'static str {
    match on_error {
        OnError::Hold => "hold",
        OnError::Skip => "skip",
    }
}

impl HookRow {
    fn hook(self, handlers: Vec<Arc<Handler>>, vault: &Vault) -> Result<Hook, Error> {
        let wrong = |what: &str| Error::Integrity(format!("hook {}: malformed {what}", self.name));
        Ok(Hook {
            id: HookId(self.id),
            name: self.name.parse().map_err(|_| wrong("name"))?,
            namespace: self.namespace.parse().map_err(|_| wrong("namespace"))?,
            order_by: self.order_by.parse().map_err(|_| wrong("order_by"))?,
            unordered: match self.unordered.as_str() {
                "keep" => Unordered::Keep,
                _ => Unordered::Refuse,
            },
            dedupe_by: self.dedupe_by.parse().map_err(|_| wrong("dedupe_by"))?,
            verify: self.verify(vault)?,
            handshake: match &self.handshake {
                Some(word) => Some(word.parse().map_err(|_| wrong("handshake"))?),
                None => None,
            },
            versioning: self.versioning()?,
            version_rule: u32::try_from(self.version_rule).map_err(|_| wrong("version_rule"))?,
            allow_from: (self.allow_from.as_deref().unwrap_or_default().parse())
                .map_err(|_| wrong("allow_from"))?,
            body_max: u64::try_from(self.body_max).map_err(|_| wrong("body_max"))?,
            keep: self.keep.parse().map_err(|_| wrong("keep"))?,
            handlers,
            created_at: Timestamp::from_millis(self.created_at),
        })
    }
}

impl HookRow {
    fn verify(&self, vault: &Vault) -> Result<Option<Verify>, Error> {
        let wrong = |what: &str| Error::Integrity(format!("hook {}: malformed {what}", self.name));
        let Some(scheme) = &self.verify else {
            return Ok(None);
        };
        let scheme: Scheme = scheme.parse().map_err(|_| wrong("verify"))?;
        let text = self.secrets.as_deref().unwrap_or("[]");
        let secrets = vault.read(text, Secret::of_sender);
        Ok(Some(Verify {
            scheme,
            tolerance: Duration::from_millis(self.tolerance_ms.unsigned_abs()),
            public_url: self.public_url.clone(),
            secrets: secrets.ok_or_else(|| wrong("secrets"))?,
        }))
    }
}

impl HookRow {
    fn versioning(&self) -> Result<Option<Versioning>, Error> {
        let wrong = |what: &str| Error::Integrity(format!("hook {}: malformed {what}", self.name));
        let Some(by) = &self.version_by else {
            return Ok(None);
        };
        let window = self.reorder_ms.map(i64::unsigned_abs);
        Ok(Some(Versioning {
            by: by.parse().map_err(|_| wrong("version_by"))?,
            late: self.late.parse().map_err(|_| wrong("late"))?,
            window: window.map(Duration::from_millis),
        }))
    }
}

/// Columns of a hook's rule for the provider's order.
struct VersionColumns {
    by: Option<String>,
    late: &'static str,
    reorder_ms: Option<i64>,
}

impl VersionColumns {
    fn of(versioning: Option<&Versioning>) -> Self {
        let late = versioning.map_or(Late::default(), |versioning| versioning.late);
        Self {
            by: versioning.map(|versioning| versioning.by.to_string()),
            late: late.word(),
            reorder_ms: versioning
                .and_then(|versioning| versioning.window)
                .map(millis),
        }
    }
}

/// Columns of a hook's verification.
struct VerifyColumns {
    scheme: Option<String>,
    tolerance_ms: i64,
    public_url: Option<String>,
    secrets: Option<String>,
}

impl VerifyColumns {
    fn of(verify: Option<&Verify>, vault: &Vault, at: Timestamp) -> Result<Self, Error> {
        let secrets = verify.map(|verify| vault.write(&verify.secrets, at));
        let tolerance = verify.map_or(TOLERANCE_DEFAULT, |verify| verify.tolerance);
        Ok(Self {
            scheme: verify.map(|verify| verify.scheme.to_string()),
            tolerance_ms: millis(tolerance),
            public_url: verify.and_then(|verify| verify.public_url.clone()),
            secrets: secrets.transpose()?,
        })
    }
}

impl HandlerRow {
    fn handler(self, vault: &Vault) -> Result<Handler, Error> {
        let wrong = |what: &str| Error::Integrity(format!("handler {}: malformed {what}", self.id));
        let duration = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        Ok(Handler {
            id: HandlerId(self.id),
            hook: HookId(self.hook),
            name: self.name.parse().map_err(|_| wrong("name"))?,
            work: match (self.kind.as_str(), self.source) {
                ("reduce", Some(text)) => Work::Reduce(Reducer::Script(Arc::new(Source {
                    file: self.reduce,
                    text,
                }))),
                ("reduce", None) => {
                    let built_in = Reducer::built_in(&self.reduce);
                    Work::Reduce(built_in.map_err(|_| wrong("reducer"))?)
                }
                ("forward", _) => Work::Forward {
                    to: (self.terms.as_deref())
                        .and_then(terms::read)
                        .ok_or_else(|| wrong("terms"))?,
                    secrets: (self.secrets.as_deref())
                        .and_then(|text| vault.read(text, str::parse))
                        .ok_or_else(|| wrong("secrets"))?,
                },
                ("pull", _) => Work::Pull(
                    (self.terms.as_deref())
                        .and_then(terms::read_pull)
                        .ok_or_else(|| wrong("terms"))?,
                ),
                _ => return Err(wrong("kind")),
            },
            only: match &self.only_events {
                Some(text) => terms::read_filter(text).ok_or_else(|| wrong("filter"))?,
                None => Filter::default(),
            },
            fold: self.fold,
            on_error: match self.on_error.as_str() {
                "skip" => OnError::Skip,
                _ => OnError::Hold,
            },
            replay: None,
            debounce: self
                .quiet_ms
                .zip(self.longest_ms)
                .map(|(quiet, longest)| Debounce {
                    quiet: duration(quiet),
                    longest: duration(longest),
                }),
        })
    }
}
