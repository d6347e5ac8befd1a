//! Forward handlers of a hook: checks, plans and differences. The operations are in `hooks.rs`.

use std::collections::HashSet;
use std::time::Duration;

use super::Error;
use crate::api::{Deliveries, ForwardSpec, HookSpec, NewSecret};
use crate::domain::filter::Filter;
use crate::domain::forward::{IN_FLIGHT_MAX, TIMEOUT_MAX};
use crate::domain::hook::{DEBOUNCE_MAX, Hook, Work};
use crate::domain::name::Name;
use crate::domain::secret::{Secret, Secrets};
use crate::domain::time::millis;
use crate::engine::Engine;
use crate::store::{ForwardPlan, HookPlan};

/// Number of forward handlers of a hook at most.
const FORWARDS_MAX: usize = 32;

/// Least timeout of a request; a handshake takes longer than less.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// Checks rules that concern several settings.
///
/// # Errors
/// [`Error::Invalid`] names the handler and what to give instead.
pub fn check(forwards: &[ForwardSpec]) -> Result<(), Error> {
    let mut names = HashSet::new();
    for forward in forwards {
        check_one(forward)
            .map_err(|why| Error::Invalid(format!("forward {}: {why}", forward.name)))?;
        if !names.insert(&forward.name) {
            return Err(Error::Invalid(format!(
                "forward {} is given twice",
                forward.name
            )));
        }
    }
    match forwards.len() > FORWARDS_MAX {
        true => Err(Error::Invalid(format!(
            "a hook has {FORWARDS_MAX} forward handlers at most"
        ))),
        false => Ok(()),
    }
}

fn check_one(forward: &ForwardSpec) -> Result<(), String> {
    let timeout = Duration::from_millis(forward.timeout_ms);
    if forward.name == Name::reduce() {
        return Err("the name `reduce` is that of the reduce handler; choose another".into());
    }
    if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&timeout) {
        return Err(format!(
            "a timeout is {} ms to {} s, got {} ms; work that takes longer is for a pull handler",
            TIMEOUT_MIN.as_millis(),
            TIMEOUT_MAX.as_secs(),
            forward.timeout_ms
        ));
    }
    if !(1..=IN_FLIGHT_MAX).contains(&forward.max_in_flight) {
        return Err(format!(
            "1 to {IN_FLIGHT_MAX} requests may be in flight, got {}",
            forward.max_in_flight
        ));
    }
    if forward.attempts == Some(0) {
        return Err("attempts are 1 or more; leave them out to try for ever".into());
    }
    if forward
        .debounce
        .is_some_and(|debounce| debounce.longest > DEBOUNCE_MAX)
    {
        return Err("a debounce may last an hour at most".into());
    }
    if forward.coalesce && forward.batch.is_some() {
        return Err("coalesce delivers one event, batch many: choose one".into());
    }
    secret(forward).map(drop)
}

fn secret(forward: &ForwardSpec) -> Result<Option<Secret>, String> {
    let given = forward.secret.as_deref().map(str::parse);
    given
        .transpose()
        .map_err(|error: crate::domain::secret::InvalidSecret| error.to_string())
}

/// Plans a forward handler. An existing one keeps its secrets; a new one without a secret gets one.
///
/// # Errors
/// [`Error::Invalid`] for a secret that is none.
pub fn plan(spec: &ForwardSpec, there: Option<&Hook>) -> Result<ForwardPlan, Error> {
    let given = secret(spec).map_err(Error::Invalid)?;
    let secrets = match (there.and_then(|hook| secrets_of(hook, &spec.name)), given) {
        (Some(secrets), None) => secrets.clone(),
        (Some(secrets), Some(new)) => secrets.with(new),
        (None, given) => Secrets::one(given.unwrap_or_else(Secret::generate)),
    };
    Ok(ForwardPlan {
        name: spec.name.clone(),
        to: spec.terms(),
        secrets,
        on_error: spec.on_error,
        debounce: spec.debounce,
        only: spec.only.clone(),
        from: spec.from,
    })
}

fn secrets_of<'h>(hook: &'h Hook, name: &Name) -> Option<&'h Secrets> {
    let handler = hook.handlers.iter().find(|handler| handler.name == *name)?;
    match &handler.work {
        Work::Forward { secrets, .. } => Some(secrets),
        Work::Reduce(_) | Work::Pull(_) => None,
    }
}

/// Secrets that [`plan`] generated, for the answer that shows them once.
pub fn new_secrets(plan: &HookPlan, spec: &HookSpec, there: Option<&Hook>) -> Vec<NewSecret> {
    let is_new = |forward: &&ForwardPlan| {
        let mut specs = spec.forward.iter();
        let given = specs.any(|spec| spec.name == forward.name && spec.secret.is_some());
        !given && there.is_none_or(|hook| secrets_of(hook, &forward.name).is_none())
    };
    let made = plan.forwards.iter().filter(is_new);
    made.flat_map(|forward| {
        forward.secrets.open.first().map(|secret| NewSecret {
            hook: plan.name.clone(),
            handler: forward.name.clone(),
            secret: secret.expose().to_owned(),
        })
    })
    .collect()
}

/// Outcomes of the deliveries of a hook's handlers on this node; empty if none was tried.
pub fn deliveries(engine: &Engine, hook: &Hook) -> Vec<Deliveries> {
    let ms = |took: Option<Duration>| took.map(|took| millis(took).unsigned_abs());
    let handlers = hook.handlers.iter().filter(|of| of.reducer().is_none());
    let told = handlers.filter_map(|handler| {
        let tally = engine.deliveries.tallies.of(handler.id);
        let last = tally.last.as_ref()?;
        Some(Deliveries {
            handler: handler.name.clone(),
            url: handler.forward().map(|to| to.url.clone()),
            acknowledged: tally.acknowledged,
            failed: tally.failed,
            last_at: Some(last.at),
            last_failure: last.failure.clone(),
            last_took_ms: ms(last.took),
            last_ok_at: tally.last_ok,
            p50_ms: ms(tally.took(50.0)),
            p99_ms: ms(tally.took(99.0)),
        })
    });
    told.collect()
}

/// Settings of a hook's forward handlers, without secrets.
pub fn specs_of(hook: &Hook) -> Vec<ForwardSpec> {
    let handlers = hook.handlers.iter();
    let specs = handlers.filter_map(|handler| {
        let to = handler.forward()?;
        Some(ForwardSpec {
            timeout_ms: millis(to.timeout).unsigned_abs(),
            attempts: to.attempts,
            on_error: handler.on_error,
            max_in_flight: to.in_flight_max,
            rate: to.rate,
            batch: to.batch,
            debounce: handler.debounce,
            coalesce: to.coalesce,
            only: handler.only.clone(),
            ..ForwardSpec::new(handler.name.clone(), to.url.clone())
        })
    });
    specs.collect()
}

/// Differences between two lists of handlers, in words.
pub fn differences(from: &[ForwardSpec], to: &[ForwardSpec]) -> Vec<String> {
    let find =
        |specs: &[ForwardSpec], name: &Name| specs.iter().find(|spec| spec.name == *name).cloned();
    let mut what = Vec::new();
    for old in from {
        match find(to, &old.name) {
            None => what.push(format!("forward {}: {} -> none", old.name, old.url)),
            Some(new) if settings(&new) != settings(old) => {
                let changed = settings(old).into_iter().zip(settings(&new));
                let changed = changed.filter(|(old, new)| old != new);
                what.extend(changed.map(|((field, old_text), (_, new_text))| {
                    format!("forward {} {field}: {old_text} -> {new_text}", old.name)
                }));
            }
            Some(_) => {}
        }
    }
    let is_new = |new: &&ForwardSpec| find(from, &new.name).is_none();
    what.extend(
        to.iter()
            .filter(is_new)
            .map(|new| format!("forward {}: none -> {}", new.name, new.url)),
    );
    what
}

fn settings(spec: &ForwardSpec) -> Vec<(&'static str, String)> {
    fn or_none<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(|| "none".into(), |value| value.to_string())
    }
    vec![
        ("url", spec.url.to_string()),
        ("timeout", format!("{}ms", spec.timeout_ms)),
        ("attempts", or_none(spec.attempts)),
        ("on_error", format!("{:?}", spec.on_error).to_lowercase()),
        ("max_in_flight", spec.max_in_flight.to_string()),
        ("rate", or_none(spec.rate)),
        ("batch", or_none(spec.batch)),
        (
            "debounce",
            or_none(spec.debounce.map(|debounce| format!("{debounce:?}"))),
        ),
        ("coalesce", spec.coalesce.to_string()),
        ("only", only(&spec.only)),
    ]
}

/// Description of a filter.
pub fn only(filter: &Filter) -> String {
    match filter.takes_all() {
        true => "all".into(),
        false => filter.to_string(),
    }
}
