//! Pull handlers of a hook: checks, rows and differences. The operations are in `hooks.rs`.

use std::collections::HashSet;
use std::time::Duration;

use super::Error;
use crate::api::{HookSpec, PullSpec};
use crate::domain::hook::Hook;
use crate::domain::name::Name;
use crate::domain::pull::{HANDLERS_MAX, LEASES};
use crate::domain::time::millis;
use crate::store::PullPlan;
use crate::text::duration;

/// Checks rules that concern several settings.
///
/// # Errors
/// [`Error::Invalid`] names the handler and a valid value.
pub fn check(spec: &HookSpec) -> Result<(), Error> {
    let mut names: HashSet<&Name> = spec.forward.iter().map(|forward| &forward.name).collect();
    for pull in &spec.pull {
        let wrong = |why: String| Error::Invalid(format!("pull {}: {why}", pull.name));
        if pull.name == Name::reduce() {
            return Err(wrong(
                "the name `reduce` is that of the reduce handler; choose another".into(),
            ));
        }
        if !names.insert(&pull.name) {
            return Err(wrong(
                "the hook has two handlers of this name; choose another".into(),
            ));
        }
        if !LEASES.contains(&Duration::from_millis(pull.lease_ms)) {
            return Err(wrong(lease_range(&format!("{} ms", pull.lease_ms))));
        }
        if pull.attempts == Some(0) {
            return Err(wrong(
                "attempts are 1 or more; leave them out to try for ever".into(),
            ));
        }
    }
    match spec.pull.len() > HANDLERS_MAX {
        true => Err(Error::Invalid(format!(
            "a hook has {HANDLERS_MAX} pull handlers at most"
        ))),
        false => Ok(()),
    }
}

/// Error text for a lease out of range.
pub fn lease_range(got: &str) -> String {
    let (least, most) = (duration(*LEASES.start()), duration(*LEASES.end()));
    format!("a lease is {least} to {most}, got {got}")
}

/// The row of a pull handler.
pub fn plan(spec: &PullSpec) -> PullPlan {
    PullPlan {
        name: spec.name.clone(),
        terms: spec.terms(),
        on_error: spec.on_error,
        only: spec.only.clone(),
        from: spec.from,
    }
}

/// The settings of a hook's pull handlers.
pub fn specs_of(hook: &Hook) -> Vec<PullSpec> {
    let handlers = hook.handlers.iter();
    let specs = handlers.filter_map(|handler| {
        let pull = handler.pull()?;
        Some(PullSpec {
            attempts: pull.attempts,
            on_error: handler.on_error,
            only: handler.only.clone(),
            lease_ms: millis(pull.lease).unsigned_abs(),
            ..PullSpec::new(handler.name.clone())
        })
    });
    specs.collect()
}

/// Differences between two lists of handlers, in words.
pub fn differences(from: &[PullSpec], to: &[PullSpec]) -> Vec<String> {
    fn find<'s>(specs: &'s [PullSpec], name: &Name) -> Option<&'s PullSpec> {
        specs.iter().find(|spec| spec.name == *name)
    }
    let mut what = Vec::new();
    for old in from {
        let Some(new) = find(to, &old.name) else {
            what.push(format!("pull {}: {} -> none", old.name, shown(old)));
            continue;
        };
        if shown(old) != shown(new) {
            what.push(format!(
                "pull {}: {} -> {}",
                old.name,
                shown(old),
                shown(new)
            ));
        }
    }
    let new = to.iter().filter(|new| find(from, &new.name).is_none());
    what.extend(new.map(|new| format!("pull {}: none -> {}", new.name, shown(new))));
    what
}

/// The settings of a handler in words.
pub fn shown(spec: &PullSpec) -> String {
    let lease = duration(Duration::from_millis(spec.lease_ms));
    let on_error = format!("{:?}", spec.on_error).to_lowercase();
    let mut shown = match spec.attempts {
        Some(attempts) => format!("lease {lease}, {attempts} attempts, then {on_error}"),
        None => format!("lease {lease}"),
    };
    if !spec.only.takes_all() {
        shown += &format!(", only {}", spec.only);
    }
    shown
}
