//! Forward handlers of a hook: checks, plans and differences. The operations are in `hooks.rs`.

use std::collections::HashSet;
use std::time::Duration;

use super::Error;
use crate::api::{ForwardSpec, HookEdit, HookSpec, NewSecret};
use crate::domain::forward::{IN_FLIGHT_MAX, TIMEOUT_MAX};
use crate::domain::hook::{DEBOUNCE_MAX, Hook, Work};
use crate::domain::name::Name;
use crate::domain::secret::{Secret, Secrets};
use crate::domain::time::millis;
use crate::store::{ForwardPlan, HookPlan};

/// The most forward handlers of a hook.
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

/// Secrets of a hook that was just created.
pub fn all_secrets(hook: &Hook) -> Vec<NewSecret> {
    let secrets = hook.handlers.iter().filter_map(|handler| {
        let secret = secrets_of(hook, &handler.name)?.open.first()?;
        Some(NewSecret {
            hook: hook.name.clone(),
            handler: handler.name.clone(),
            secret: secret.expose().to_owned(),
        })
    });
    secrets.collect()
}

/// The forward handlers of a hook, without their secrets.
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
            ..ForwardSpec::new(handler.name.clone(), to.url.clone())
        })
    });
    specs.collect()
}

/// Changes, makes and removes forward handlers as an edit says.
///
/// # Errors
/// [`Error::Missing`] for one to be removed that is not there, [`Error::Invalid`] for a new one without a URL.
pub fn edit(forwards: &mut Vec<ForwardSpec>, edit: &HookEdit) -> Result<(), Error> {
    for name in &edit.remove_forward {
        let before = forwards.len();
        forwards.retain(|forward| forward.name != *name);
        if forwards.len() == before {
            return Err(Error::missing("handler", name));
        }
    }
    for change in &edit.forward {
        let named = |forward: &&mut ForwardSpec| Some(&forward.name) == change.name.as_ref();
        match forwards.iter_mut().find(named) {
            Some(forward) => {
                let after = change.applied(Some(forward));
                forward.clone_from(&after.unwrap_or_else(|| forward.clone()));
            }
            None => forwards.push(change.applied(None).ok_or_else(|| {
                Error::Invalid("a new forward handler needs a name and a URL: NAME=URL".into())
            })?),
        }
    }
    Ok(())
}

/// What changes from one to the other, in words.
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
    ]
}
