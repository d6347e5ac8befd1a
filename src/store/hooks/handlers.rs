//! The handlers of a hook: created, changed and removed together with their hook.

use super::plan::HookPlan;
use super::terms;
use crate::domain::filter::Filter;
use crate::domain::forward::Begin;
use crate::domain::hook::{Debounce, Handler, HandlerId, HookId, OnError, Reducer};
use crate::domain::name::Name;
use crate::domain::time::{Timestamp, millis};
use crate::store::backend::session::Tx;
use crate::store::vault::Vault;
use crate::store::{Error, replays};

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

/// The desired row of a handler.
pub struct HandlerPlan<'a> {
    name: Name,
    kind: &'static str,
    reducer: Option<&'a Reducer>,
    on_error: OnError,
    debounce: Option<Debounce>,
    terms: Option<String>,
    secrets: Option<String>,
    only: &'a Filter,
    pub from: Begin,
}

impl HandlerPlan<'_> {
    pub fn is(&self, handler: &Handler) -> bool {
        self.name == handler.name && self.kind == handler.kind()
    }
}

/// Desired rows of the handlers of a hook.
pub fn plans<'p>(
    plan: &'p HookPlan,
    vault: &Vault,
    at: Timestamp,
) -> Result<Vec<HandlerPlan<'p>>, Error> {
    let reduce = plan.reducer.as_ref().map(|reducer| HandlerPlan {
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
        Ok(HandlerPlan {
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
    let pulls = plan.pulls.iter().map(|pull| HandlerPlan {
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

pub async fn add(
    tx: &mut Tx,
    hook: HookId,
    plan: &HandlerPlan<'_>,
    at: Timestamp,
) -> Result<HandlerId, Error> {
    let id: i64 = sqlx::query_scalar(ADD_HANDLER)
        .bind(hook.0)
        .bind(plan.name.as_str())
        .bind(plan.kind)
        .bind(plan.reducer.map(Reducer::to_string).unwrap_or_default())
        .bind(plan.reducer.and_then(source_of))
        .bind(on_error_word(plan.on_error))
        .bind(plan.debounce.map(|debounce| millis(debounce.quiet)))
        .bind(plan.debounce.map(|debounce| millis(debounce.longest)))
        .bind(plan.terms.as_deref())
        .bind(plan.secrets.as_deref())
        .bind(at.as_millis())
        .bind(terms::write_filter(plan.only))
        .fetch_one(&mut *tx)
        .await?;
    Ok(HandlerId(id))
}

/// Creates the cursors of a new handler that do not begin at zero: at the floors, where retention has
/// removed events, or at the heads. Neither moves meanwhile, because the row of the hook was written
/// before.
pub async fn begin(
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

pub async fn edit(tx: &mut Tx, handler: &Handler, plan: &HandlerPlan<'_>) -> Result<(), Error> {
    let is_new_code =
        plan.reducer.is_some() && (plan.reducer != handler.reducer() || *plan.only != handler.only);
    sqlx::query(EDIT_HANDLER)
        .bind(handler.id.0)
        .bind(plan.reducer.map(Reducer::to_string).unwrap_or_default())
        .bind(plan.reducer.and_then(source_of))
        .bind(on_error_word(plan.on_error))
        .bind(plan.debounce.map(|debounce| millis(debounce.quiet)))
        .bind(plan.debounce.map(|debounce| millis(debounce.longest)))
        .bind(plan.terms.as_deref())
        .bind(plan.secrets.as_deref())
        .bind(i64::from(is_new_code))
        .bind(terms::write_filter(plan.only))
        .execute(&mut *tx)
        .await?;
    Ok(())
}

pub async fn remove(tx: &mut Tx, handler: HandlerId, at: Timestamp) -> Result<(), Error> {
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

pub async fn remove_all(tx: &mut Tx, hook: HookId, at: Timestamp) -> Result<(), Error> {
    sqlx::query(REMOVE_HANDLERS)
        .bind(hook.0)
        .bind(at.as_millis())
        .execute(&mut *tx)
        .await?;
    Ok(())
}

fn source_of(reducer: &Reducer) -> Option<&str> {
    match reducer {
        Reducer::Script(source) => Some(&source.text),
        _ => None,
    }
}

fn on_error_word(on_error: OnError) -> &'static str {
    match on_error {
        OnError::Hold => "hold",
        OnError::Skip => "skip",
    }
}
