//! The rows of hooks and handlers, and their columns.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::FromRow;

use super::terms;
use crate::domain::filter::Filter;
use crate::domain::hook::{
    Debounce, Handler, HandlerId, Hook, HookId, OnError, Reducer, Source, Unordered, Work,
};
use crate::domain::network::Networks;
use crate::domain::secret::Secret;
use crate::domain::time::{Timestamp, millis};
use crate::domain::verify::{Scheme, TOLERANCE_DEFAULT, Verify};
use crate::domain::version::{Late, Versioning};
use crate::store::Error;
use crate::store::backend::session::Tx;
use crate::store::vault::Vault;

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

/// All hooks with their handlers, by name. `tx` must read from one snapshot, otherwise a hook may
/// appear without its handlers.
pub async fn list(tx: &mut Tx, vault: &Vault) -> Result<Vec<Hook>, Error> {
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

/// The column of the accepted addresses; `None` for all.
pub fn allow_from(ranges: &Networks) -> Option<String> {
    (!ranges.is_empty()).then(|| ranges.to_string())
}

pub fn unordered_word(unordered: Unordered) -> &'static str {
    match unordered {
        Unordered::Refuse => "refuse",
        Unordered::Keep => "keep",
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
pub struct VersionColumns {
    pub by: Option<String>,
    pub late: &'static str,
    pub reorder_ms: Option<i64>,
}

impl VersionColumns {
    pub fn of(versioning: Option<&Versioning>) -> Self {
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
pub struct VerifyColumns {
    pub scheme: Option<String>,
    pub tolerance_ms: i64,
    pub public_url: Option<String>,
    pub secrets: Option<String>,
}

impl VerifyColumns {
    pub fn of(verify: Option<&Verify>, vault: &Vault, at: Timestamp) -> Result<Self, Error> {
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
