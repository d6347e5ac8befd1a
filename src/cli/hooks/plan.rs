//! Describes changes of a hook in words, with the flags that undo them. Plain functions without I/O.

use std::time::Duration;

use crate::api::{
    Action, ChangeKind, Changes, ForwardSpec, Hook, HookEdit, HookSpec, InvalidEdit, Paused,
    PullSpec, Rejection, VerifySpec,
};
use crate::cli::{Exit, Trouble, deliveries, order};
use crate::domain::filter::Filter;
use crate::domain::handshake::Handshake;
use crate::domain::hook::{Debounce, OnError, Reducer, Unordered};
use crate::domain::keep::Keep;
use crate::domain::name::Name;
use crate::domain::network::Networks;
use crate::domain::time::{Timestamp, millis};
use crate::domain::verify::Scheme;
use crate::domain::version::Late;
use crate::text;

/// The hook after an edit.
pub fn edited(spec: HookSpec, edit: &HookEdit) -> Result<HookSpec, Trouble> {
    let hook = spec.name.clone();
    edit.applied(spec).map_err(|error| match error {
        InvalidEdit::NoUrl
        | InvalidEdit::NotVerified
        | InvalidEdit::NoVersion
        | InvalidEdit::Window => Trouble::usage(error.to_string()),
        InvalidEdit::NoForward(_) | InvalidEdit::NoPull(_) => {
            Trouble::new(Exit::Missing, "no_such_handler", format!("{hook}: {error}"))
                .fact("all", format!("hooklane hooks show {hook}"))
        }
    })
}

/// One setting: its text for people, and the flag that sets it, if there is one.
struct Setting {
    label: &'static str,
    shown: String,
    flag: Option<String>,
}

fn settings(spec: &HookSpec) -> Vec<Setting> {
    let plain = |label, flag: &str, shown: String| Setting {
        label,
        flag: Some(format!("{flag} {}", text::quoted(&shown))),
        shown,
    };
    vec![
        plain("namespace", "--namespace", spec.namespace.to_string()),
        plain("order by", "--order-by", spec.order_by.to_string()),
        plain("unordered", "--unordered", unordered(spec.unordered).into()),
        plain("dedupe by", "--dedupe-by", spec.dedupe_by.to_string()),
        Setting {
            label: "verify",
            shown: verify(spec.verify.as_ref()),
            flag: verify_flags(spec.verify.as_ref()),
        },
        Setting {
            label: "handshake",
            shown: handshake(spec).to_owned(),
            flag: Some(format!(
                "--handshake {}",
                spec.handshake.map_or("none", Handshake::word)
            )),
        },
        Setting {
            label: "versions",
            shown: versions(spec),
            flag: Some(version_flags(spec)),
        },
        Setting {
            label: "allow from",
            shown: allow_from(&spec.allow_from),
            flag: Some(allow_from_flags(&spec.allow_from)),
        },
        Setting {
            label: "reduce",
            shown: reduce(spec.reduce.as_ref()),
            flag: match &spec.reduce {
                Some(Reducer::Script(_)) => None,
                Some(built_in) => Some(format!("--reduce {built_in}")),
                None => Some("--no-reduce".into()),
            },
        },
        plain("on error", "--on-error", on_error(spec.on_error).into()),
        Setting {
            label: "debounce",
            shown: debounce(spec.debounce),
            flag: Some(match spec.debounce {
                Some(debounce) => format!("--debounce {}", debounce_text(debounce)),
                None => "--no-debounce".into(),
            }),
        },
        Setting {
            label: "only",
            shown: only(&spec.only),
            flag: Some(only_flags(&spec.only)),
        },
        plain("body max", "--body-max", spec.body_max.to_string()),
        plain("keep", "--keep", spec.keep.to_string()),
    ]
}

/// The settings that differ, one line each. A script may differ under the same file name.
pub fn differences(before: &HookSpec, after: &HookSpec) -> Vec<String> {
    let mut lines = Vec::new();
    for (old, new) in settings(before).iter().zip(settings(after)) {
        if old.shown != new.shown {
            lines.push(format!("{}: {} -> {}", new.label, old.shown, new.shown));
        } else if new.label == "reduce" && before.reduce != after.reduce {
            lines.push(format!("{}: {}, another text", new.label, new.shown));
        }
    }
    lines.extend(forward_differences(before, after));
    if after
        .verify
        .as_ref()
        .is_some_and(|verify| verify.secret.is_some())
        && before.verify.is_some()
    {
        lines.push("verify: another secret is in force too".to_owned());
    }
    let gets_secret = |forward: &&ForwardSpec| forward.secret.is_some();
    let secrets = after.forward.iter().filter(gets_secret);
    lines.extend(
        secrets.map(|forward| format!("forward: {} signs with another secret too", forward.name)),
    );
    lines.extend(
        pull_changes(before, after)
            .into_iter()
            .map(|(line, _)| line),
    );
    lines
}

/// The flags of `edit` that undo the change; `None` when a script was replaced, because its text is not
/// stored.
pub fn way_back(before: &HookSpec, after: &HookSpec) -> Option<String> {
    if !forward_differences(before, after).is_empty() {
        return None;
    }
    let changed = settings(before).into_iter().zip(settings(after));
    let reducer_changed = before.reduce != after.reduce;
    let changed = changed
        .filter(|(old, new)| old.shown != new.shown || (old.label == "reduce" && reducer_changed));
    let pulls = pull_changes(before, after);
    let pulls = pulls.into_iter().map(|(_, back)| back);
    let flags: Option<Vec<String>> = changed.map(|(old, _)| old.flag).chain(pulls).collect();
    flags.map(|flags| flags.join(" "))
}

/// The pull handlers that differ, each with the flags that undo the change. Positions of a removed
/// handler are lost.
fn pull_changes(before: &HookSpec, after: &HookSpec) -> Vec<(String, Option<String>)> {
    fn find<'s>(specs: &'s [PullSpec], like: &PullSpec) -> Option<&'s PullSpec> {
        specs.iter().find(|spec| spec.name == like.name)
    }
    let mut changes = Vec::new();
    for old in &before.pull {
        let name = &old.name;
        match find(&after.pull, old) {
            None => changes.push((
                format!("pull {name}: {} -> -; its positions are gone", pull(old)),
                None,
            )),
            Some(new) if pull(new) != pull(old) => changes.push((
                format!("pull {name}: {} -> {}", pull(old), pull(new)),
                Some(pull_flags(old)),
            )),
            Some(_) => {}
        }
    }
    let new = after
        .pull
        .iter()
        .filter(|new| find(&before.pull, new).is_none());
    changes.extend(new.map(|new| {
        let name = &new.name;
        let line = format!("pull {name}: - -> {}", pull(new));
        (line, Some(format!("--remove-pull {name}")))
    }));
    changes
}

/// The settings of a pull handler in words.
fn pull(spec: &PullSpec) -> String {
    let lease = text::duration(Duration::from_millis(spec.lease_ms));
    let mut shown = match spec.attempts {
        Some(attempts) => {
            let on_error = on_error(spec.on_error);
            format!("lease {lease}, {attempts} attempts, then {on_error}")
        }
        None => format!("lease {lease}"),
    };
    if !spec.only.takes_all() {
        shown += &format!(", only {}", spec.only);
    }
    shown
}

/// Display of a filter.
fn only(filter: &Filter) -> String {
    match filter.takes_all() {
        true => "-".to_owned(),
        false => filter.to_string(),
    }
}

/// Flags that set a filter.
fn only_flags(filter: &Filter) -> String {
    if filter.takes_all() {
        return "--no-only".to_owned();
    }
    let rules = filter.rules();
    let flags = rules.map(|rule| format!("--only {}", text::quoted(&rule)));
    flags.collect::<Vec<_>>().join(" ")
}

fn pull_flags(spec: &PullSpec) -> String {
    let (name, attempts) = (&spec.name, spec.attempts.unwrap_or(0));
    let on_error = on_error(spec.on_error);
    let (lease, only) = (spec.lease_ms, only_flags(&spec.only));
    format!("--pull {name} --lease {lease}ms --attempts {attempts} --on-error {on_error} {only}")
}

/// Line with the numbers of rejected requests by reason.
pub fn rejected(hook: &Name, rejections: &[Rejection]) -> String {
    let told = rejections
        .iter()
        .map(|one| format!("{} {}", text::count(one.count), one.reason));
    let told: Vec<_> = told.collect();
    match told.is_empty() {
        true => "none".to_owned(),
        false => format!("{}: hooklane why {hook}", told.join(", ")),
    }
}

/// Line about the verification of a hook.
pub fn verify(spec: Option<&VerifySpec>) -> String {
    let Some(spec) = spec else {
        return "write key".to_owned();
    };
    let mut parts = vec![spec.scheme.to_string()];
    match spec.scheme.signs_time() {
        true => {
            let tolerance = text::duration(Duration::from_millis(spec.tolerance_ms));
            parts.push(format!("clock within {tolerance}"));
        }
        false => parts.push("no time is signed".to_owned()),
    }
    if let Some(place) = spec.scheme.delivery_id() {
        parts.push(format!("repeats known by {place}"));
    }
    parts.extend(spec.public_url.clone());
    parts.join(", ")
}

/// Name of the handshake that a hook answers. A hook that verifies Slack answers that of Slack.
fn handshake(spec: &HookSpec) -> &'static str {
    let scheme = spec.verify.as_ref().map(|verify| &verify.scheme);
    match (spec.handshake, scheme) {
        (Some(Handshake::Probe), Some(Scheme::Slack)) => "slack, probe",
        (Some(Handshake::Meta), Some(Scheme::Slack)) => "slack, meta",
        (None, Some(Scheme::Slack)) => "slack",
        (Some(handshake), _) => handshake.word(),
        (None, _) => "-",
    }
}

/// The provider's order in words.
fn versions(spec: &HookSpec) -> String {
    let Some(by) = &spec.version_by else {
        return "-".to_owned();
    };
    let late = match spec.late {
        Late::Apply => "applied",
        Late::Mark => "marked",
        Late::Skip => "skipped",
    };
    let window = spec.reorder_window_ms.map(Duration::from_millis);
    let window = window.map_or_else(String::new, |window| {
        format!(", held back for {}", text::duration(window))
    });
    format!("{by}, late events are {late}{window}")
}

/// Flags that set the provider's order.
fn version_flags(spec: &HookSpec) -> String {
    let Some(by) = &spec.version_by else {
        return "--version-by none".to_owned();
    };
    let by = text::quoted(by.to_string());
    let window = spec.reorder_window_ms;
    let window = window.map_or_else(|| "none".to_owned(), |ms| format!("{ms}ms"));
    format!(
        "--version-by {by} --late {} --reorder-window {window}",
        spec.late
    )
}

/// The addresses from which a hook accepts requests.
fn allow_from(ranges: &Networks) -> String {
    match ranges.is_empty() {
        true => "any".to_owned(),
        false => ranges.to_string(),
    }
}

/// The flags that set these addresses.
fn allow_from_flags(ranges: &Networks) -> String {
    let flags = ranges.iter().map(|range| format!("--allow-from {range}"));
    match ranges.is_empty() {
        true => "--allow-from any".to_owned(),
        false => flags.collect::<Vec<_>>().join(" "),
    }
}

/// Flags that restore the former settings; `None` if that needs a secret, which is not readable.
fn verify_flags(spec: Option<&VerifySpec>) -> Option<String> {
    spec.is_none().then(|| "--verify none".to_owned())
}

/// The names of the pull handlers.
pub fn pulls(spec: &HookSpec) -> String {
    let names: Vec<_> = spec.pull.iter().map(|pull| pull.name.as_str()).collect();
    match names.is_empty() {
        true => "-".to_owned(),
        false => names.join(", "),
    }
}

/// All settings of a hook, as label and text.
pub fn facts(hook: &Hook) -> Vec<(&'static str, String)> {
    let mut facts = vec![("hook", hook.spec.name.to_string())];
    facts.push(("post to", format!("/in/{}", hook.spec.name)));
    facts.push(("condition", condition(hook.paused.as_ref())));
    for setting in settings(&hook.spec) {
        let shown = match (setting.label, hook.fold) {
            ("reduce", Some(fold)) => format!("{}, version {fold}", setting.shown),
            _ => setting.shown,
        };
        facts.push((setting.label, shown));
    }
    for forward in &hook.spec.forward {
        facts.push(("forward", forwarded(forward)));
    }
    for spec in &hook.spec.pull {
        facts.push(("pull", format!("{}   {}", spec.name, pull(spec))));
    }
    let deliveries = hook.deliveries.iter().map(deliveries::told);
    facts.extend(deliveries.map(|told| ("delivered", told)));
    facts.extend((hook.order.as_ref()).map(|counts| ("order", order::told(counts))));
    facts.push(("streams", counted(hook.streams)));
    facts.push(("events", counted(hook.events)));
    facts.push(("created", hook.created_at.to_string()));
    facts
}

/// Says whether a hook takes turns, and who stopped it, when and why.
fn condition(paused: Option<&Paused>) -> String {
    let Some(paused) = paused else {
        return "flowing".to_owned();
    };
    let reason = paused.reason.as_ref();
    let reason = reason.map_or_else(String::new, |reason| {
        format!(": {}", text::printable_line(reason))
    });
    let (by, since) = (&paused.by, paused.at.clock_at(Timestamp::now()));
    format!("paused since {since} by {by}{reason}")
}

/// A forward handler in one line: name, URL, and settings that are not the default.
fn forwarded(forward: &ForwardSpec) -> String {
    let plain = ForwardSpec::new(forward.name.clone(), forward.url.clone());
    let mut parts = vec![forward.name.to_string(), forward.url.to_string()];
    let mut differs = |is: bool, text: String| {
        if is {
            parts.push(text);
        }
    };
    let timeout = Duration::from_millis(forward.timeout_ms);
    differs(
        forward.timeout_ms != plain.timeout_ms,
        format!("timeout {}", text::duration(timeout)),
    );
    if let Some(attempts) = forward.attempts {
        differs(
            true,
            format!("{attempts} attempts, then {}", on_error(forward.on_error)),
        );
    }
    differs(
        forward.max_in_flight != plain.max_in_flight,
        format!("{} in flight", forward.max_in_flight),
    );
    if let Some(rate) = forward.rate {
        differs(true, rate.to_string());
    }
    if let Some(batch) = forward.batch {
        differs(true, format!("batch {batch}"));
    }
    if let Some(one) = forward.debounce {
        differs(true, format!("debounce {}", debounce_text(one)));
    }
    differs(forward.coalesce, "coalesce".into());
    differs(!forward.only.takes_all(), format!("only {}", forward.only));
    parts.join("  ")
}

/// The forward handlers that differ, one line each.
fn forward_differences(before: &HookSpec, after: &HookSpec) -> Vec<String> {
    let named = |spec: &HookSpec, name: &Name| {
        let found = spec.forward.iter().find(|forward| forward.name == *name);
        found.map_or_else(|| "none".into(), forwarded)
    };
    let mut names: Vec<_> = before.forward.iter().map(|forward| &forward.name).collect();
    let is_new = |name: &&Name| !before.forward.iter().any(|forward| forward.name == **name);
    names.extend(
        after
            .forward
            .iter()
            .map(|forward| &forward.name)
            .filter(is_new),
    );
    let lines = names.into_iter().map(|name| {
        let (old, new) = (named(before, name), named(after, name));
        (old != new).then(|| format!("forward: {old} -> {new}"))
    });
    lines.flatten().collect()
}

/// A warning about a short retention.
pub fn warning(name: &Name, keep: Keep) -> Option<String> {
    let warning = || {
        format!(
            "warning: {name} keeps events for {keep}; senders try again for up to 3 days, and a repeat of an event \
             that is gone is a new event"
        )
    };
    keep.is_short().then(warning)
}

/// The changes of an apply, one line for each field.
pub fn lines(changes: &Changes) -> Vec<String> {
    let mut lines = Vec::new();
    for change in &changes.changes {
        let action = match change.action {
            Action::Create => "create",
            Action::Edit => "edit",
            Action::Delete => "delete",
        };
        let kind = match change.kind {
            ChangeKind::Hook => "hook",
            ChangeKind::Namespace => "namespace",
        };
        lines.push(format!("{action}  {kind} {}", change.name));
        lines.extend(change.what.iter().map(|what| format!("        {what}")));
    }
    lines
}

/// Number of hooks that an apply deletes; it deletes no namespaces.
pub fn deleted(changes: &Changes) -> usize {
    let deleted = changes.changes.iter();
    deleted
        .filter(|change| change.action == Action::Delete)
        .count()
}

/// Name of the reducer, or its file.
pub fn reduce(reducer: Option<&Reducer>) -> String {
    reducer.map_or_else(|| "-".to_owned(), Reducer::to_string)
}

/// Name of the failure policy.
pub fn on_error(on_error: OnError) -> &'static str {
    match on_error {
        OnError::Hold => "hold",
        OnError::Skip => "skip",
    }
}

fn unordered(unordered: Unordered) -> &'static str {
    match unordered {
        Unordered::Refuse => "refuse",
        Unordered::Keep => "keep",
    }
}

fn debounce(debounce: Option<Debounce>) -> String {
    debounce.map_or_else(|| "-".to_owned(), debounce_text)
}

/// A number for people, or a dash.
pub fn counted(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), text::count)
}

/// The date of a time.
pub fn day(at: Timestamp) -> String {
    at.to_string().chars().take("2026-11-23".len()).collect()
}

/// A debounce as the flag spells it, such as `500ms,5s`.
fn debounce_text(debounce: Debounce) -> String {
    let text = |duration| match millis(duration) {
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    };
    format!("{},{}", text(debounce.quiet), text(debounce.longest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::hook::Source;

    fn script(text: &str) -> Option<Reducer> {
        let file = "a.js".to_owned();
        let text = text.to_owned();
        Some(Reducer::Script(Source { file, text }.into()))
    }

    #[test]
    fn an_edit_shows_what_changes_and_the_way_back() {
        let before = HookSpec::new("orders".parse().unwrap());
        let edit = HookEdit {
            order_by: Some("body:/a".parse().unwrap()),
            debounce: Some(Some(super::super::flags::debounce("500ms,5s").unwrap())),
            ..HookEdit::default()
        };
        let after = edited(before.clone(), &edit).unwrap();
        assert_eq!(
            differences(&before, &after),
            ["order by: none -> body:/a", "debounce: - -> 500ms,5s"]
        );
        assert_eq!(
            way_back(&before, &after).unwrap(),
            "--order-by none --no-debounce"
        );
        assert!(differences(&before, &before).is_empty());
    }

    #[test]
    fn a_reducer_that_goes_takes_along_what_its_errors_led_to_and_comes_back_with_it() {
        let mut before = HookSpec::new("orders".parse().unwrap());
        before.reduce = Some(Reducer::Count);
        before.on_error = OnError::Skip;
        let edit = HookEdit {
            reduce: Some(None),
            ..HookEdit::default()
        };
        let after = edited(before.clone(), &edit).unwrap();
        assert_eq!(
            differences(&before, &after),
            ["reduce: count -> -", "on error: skip -> hold"]
        );
        let back = way_back(&before, &after).unwrap();
        assert_eq!(back, "--reduce count --on-error skip");
        assert_eq!(
            way_back(&after, &before).unwrap(),
            "--no-reduce --on-error hold"
        );
    }

    #[test]
    fn another_text_under_the_same_file_name_is_a_change_without_a_way_back() {
        let spec = |text| HookSpec {
            reduce: script(text),
            ..HookSpec::new("orders".parse().unwrap())
        };
        assert_eq!(
            differences(&spec("1"), &spec("2")),
            ["reduce: a.js, another text"]
        );
        assert_eq!(way_back(&spec("1"), &spec("2")), None);
    }
}
