//! The TOML file of `hooks apply`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::flags::OrNone;
use super::{Trouble, flags};
use crate::api::{Apply, ForwardSpec, HookEdit, HookSpec, NamespaceSpec, PullSpec, VerifySpec};
use crate::cli::Exit;
use crate::domain::filter::Filter;
use crate::domain::forward::{Batch, Begin, Destination};
use crate::domain::handshake::Handshake;
use crate::domain::hook::{DedupeBy, OnError, OrderBy, Reducer, Source, Unordered};
use crate::domain::keep::Keep;
use crate::domain::name::Name;
use crate::domain::network::Networks;
use crate::domain::place::Place;
use crate::domain::rate::Rate;
use crate::domain::time::{millis, parse_duration};
use crate::domain::verify::Scheme;
use crate::domain::version::Late;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    namespaces: Vec<Space>,
    #[serde(default)]
    hooks: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Space {
    name: Name,
    #[serde(default = "one")]
    lanes: u16,
    warn: Option<String>,
    crit: Option<String>,
}

fn one() -> u16 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Name,
    namespace: Option<Name>,
    #[serde(default)]
    order_by: OrderBy,
    #[serde(default)]
    unordered: Unordered,
    #[serde(default)]
    dedupe_by: DedupeBy,
    verify: Option<Scheme>,
    public_url: Option<String>,
    tolerance: Option<String>,
    secret_file: Option<PathBuf>,
    secret_env: Option<String>,
    handshake: Option<Handshake>,
    version_by: Option<Place>,
    late: Option<Late>,
    reorder_window: Option<String>,
    #[serde(default)]
    allow_from: Networks,
    reduce: Option<String>,
    #[serde(default)]
    on_error: OnError,
    debounce: Option<String>,
    #[serde(default)]
    only: Filter,
    body_max: Option<Bytes>,
    #[serde(default)]
    keep: Keep,
    #[serde(default)]
    forward: Vec<ForwardEntry>,
    #[serde(default)]
    pull: Vec<PullEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForwardEntry {
    name: Name,
    url: Destination,
    timeout: Option<String>,
    attempts: Option<u32>,
    #[serde(default)]
    on_error: OnError,
    max_in_flight: Option<u32>,
    rate: Option<Rate>,
    batch: Option<Batch>,
    debounce: Option<String>,
    #[serde(default)]
    coalesce: bool,
    #[serde(default)]
    only: Filter,
    #[serde(default)]
    from: Begin,
    secret_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PullEntry {
    name: Name,
    attempts: Option<u32>,
    #[serde(default)]
    on_error: OnError,
    lease: Option<String>,
    #[serde(default)]
    only: Filter,
    #[serde(default)]
    from: Begin,
}

/// A number or a text with a unit: `65536` or `"64KiB"`.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "body_max is a number of bytes such as 65536 or \"64KiB\""
)]
enum Bytes {
    Number(u64),
    Text(String),
}

/// Reads a file, or stdin for `-`. Scripts are looked for beside it.
pub fn read(path: &Path) -> Result<Apply, Trouble> {
    let base = path.parent().unwrap_or(Path::new(""));
    parse(&text(path)?, base).map_err(|mut trouble| {
        trouble.message = format!("{}: {}", path.display(), trouble.message);
        trouble
    })
}

/// The text of a file, or of stdin for `-`.
pub fn text(path: &Path) -> Result<String, Trouble> {
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text),
        false => std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.map_err(|error| {
        let message = format!("cannot read {}: {error}", path.display());
        Trouble::new(Exit::Usage, "no_file", message)
    })?;
    Ok(text)
}

/// A built-in reducer, or the script in a file, relative to `base`.
pub fn reducer(text: &str, base: &Path) -> Result<Reducer, Trouble> {
    if !text.ends_with(".js") && !text.ends_with(".mjs") {
        return Reducer::built_in(text).map_err(|error| Trouble::usage(error.to_string()));
    }
    let path = base.join(text);
    let source = std::fs::read_to_string(&path).map_err(|error| {
        let message = format!("no reducer in {}: {error}", path.display());
        Trouble::new(Exit::Usage, "no_file", message)
    })?;
    let file = path.file_name().unwrap_or(path.as_os_str());
    Ok(Reducer::Script(
        Source {
            file: file.to_string_lossy().into_owned(),
            text: source,
        }
        .into(),
    ))
}

/// Reads a secret from a file (`-` for stdin) or from an environment variable.
///
/// # Errors
/// A failure to read it; the message does not repeat the secret.
pub fn secret(file: Option<&Path>, variable: Option<&str>) -> Result<Option<String>, Trouble> {
    let text = match (file, variable) {
        (Some(path), _) => text(path)?,
        (None, Some(name)) => std::env::var(name).map_err(|_| {
            let message = format!("the environment has no text in {name}");
            Trouble::new(Exit::Usage, "no_variable", message)
        })?,
        (None, None) => return Ok(None),
    };
    Ok(Some(text.trim().to_owned()))
}

fn parse(text: &str, base: &Path) -> Result<Apply, Trouble> {
    let wrong = |error: toml::de::Error| {
        let trouble = Trouble::usage(error.to_string().trim_end());
        match named_table(text) {
            Some((kind, name)) => {
                let instead = format!("[[{kind}]] and, in the next line, name = {name:?}");
                trouble.fact("write", instead)
            }
            None => trouble,
        }
    };
    let file: File = toml::from_str(text).map_err(wrong)?;
    let hooks = file.hooks.into_iter().map(|entry| spec(entry, base));
    let namespaces = file.namespaces.into_iter().map(namespace);
    Ok(Apply {
        namespaces: namespaces.collect::<Result<_, _>>()?,
        hooks: hooks.collect::<Result<_, _>>()?,
    })
}

/// Kind and name of a table such as `[hooks.orders]`, a common mistake for `[[hooks]]`.
fn named_table(text: &str) -> Option<(&'static str, String)> {
    let table: toml::Table = text.parse().ok()?;
    ["hooks", "namespaces"].into_iter().find_map(|kind| {
        let (name, _) = table.get(kind)?.as_table()?.iter().next()?;
        Some((kind, name.clone()))
    })
}

fn namespace(space: Space) -> Result<NamespaceSpec, Trouble> {
    let age = |field, text: Option<String>| {
        let parsed = text.map(|text| {
            let wrong = |error| format!("namespace {}: {field} {text:?}: {error}", space.name);
            parse_duration(&text)
                .map_err(wrong)
                .map(|age| millis(age).unsigned_abs())
        });
        parsed.transpose().map_err(Trouble::usage)
    };
    Ok(NamespaceSpec {
        warn_ms: age("warn", space.warn)?,
        crit_ms: age("crit", space.crit)?,
        lanes: space.lanes,
        name: space.name,
    })
}

fn spec(entry: Entry, base: &Path) -> Result<HookSpec, Trouble> {
    let of = format!("hook {}", entry.name);
    let named = |error: String| Trouble::usage(format!("{of}: {error}"));
    let mut spec = HookSpec::new(entry.name.clone());
    spec.verify = verify(&entry, base).map_err(named)?;
    spec.handshake = entry.handshake;
    let order = order(&entry).map_err(named)?;
    spec = order
        .applied(spec)
        .map_err(|error| named(error.to_string()))?;
    spec.allow_from = entry.allow_from;
    spec.namespace = entry.namespace.unwrap_or(spec.namespace);
    spec.order_by = entry.order_by;
    spec.unordered = entry.unordered;
    spec.dedupe_by = entry.dedupe_by;
    spec.on_error = entry.on_error;
    spec.only = entry.only;
    spec.keep = entry.keep;
    if let Some(text) = &entry.reduce {
        spec.reduce = Some(reducer(text, base).map_err(|e| named(e.message))?);
    }
    if let Some(text) = &entry.debounce {
        let wrong = |error| named(format!("debounce {text:?}: {error}"));
        spec.debounce = Some(flags::debounce(text).map_err(wrong)?);
    }
    if let Some(bytes) = entry.body_max {
        let text = match bytes {
            Bytes::Number(number) => number.to_string(),
            Bytes::Text(text) => text,
        };
        let wrong = |error| named(format!("body_max {text:?}: {error}"));
        spec.body_max = flags::bytes(&text).map_err(wrong)?;
    }
    for entry in entry.forward {
        spec.forward.push(forward(entry, base).map_err(named)?);
    }
    for entry in entry.pull {
        spec.pull.push(pull(entry).map_err(named)?);
    }
    Ok(spec)
}

/// The provider's order as an edit of a new hook.
fn order(entry: &Entry) -> Result<HookEdit, String> {
    let wrong = |text: &String, error| format!("reorder_window {text:?}: {error}");
    let window = entry.reorder_window.as_ref().map(|text| {
        let OrNone(window) = flags::reorder_window(text).map_err(|error| wrong(text, error))?;
        Ok::<_, String>(window.map(|window| millis(window).unsigned_abs()))
    });
    Ok(HookEdit {
        version_by: entry.version_by.clone().map(Some),
        late: entry.late,
        reorder_window_ms: window.transpose()?,
        ..HookEdit::default()
    })
}

fn verify(entry: &Entry, base: &Path) -> Result<Option<VerifySpec>, String> {
    let Some(scheme) = &entry.verify else {
        let is_given = entry.public_url.is_some()
            || entry.tolerance.is_some()
            || entry.secret_file.is_some()
            || entry.secret_env.is_some();
        return match is_given {
            true => Err("secret_file, secret_env, public_url and tolerance need verify".to_owned()),
            false => Ok(None),
        };
    };
    let mut spec = VerifySpec::new(scheme.clone());
    if let Some(text) = &entry.tolerance {
        let tolerance =
            parse_duration(text).map_err(|error| format!("tolerance {text:?}: {error}"))?;
        spec.tolerance_ms = millis(tolerance).unsigned_abs();
    }
    spec.public_url.clone_from(&entry.public_url);
    let file = entry.secret_file.as_ref().map(|file| base.join(file));
    let given = secret(file.as_deref(), entry.secret_env.as_deref());
    spec.secret = given.map_err(|error| error.message)?;
    Ok(Some(spec))
}

fn forward(entry: ForwardEntry, base: &Path) -> Result<ForwardSpec, String> {
    let name = entry.name.clone();
    let of =
        |what: &str, text: &str, error: String| format!("forward {name}: {what} {text:?}: {error}");
    let mut spec = ForwardSpec::new(entry.name, entry.url);
    if let Some(text) = &entry.timeout {
        let timeout =
            parse_duration(text).map_err(|error| of("timeout", text, error.to_string()))?;
        spec.timeout_ms = millis(timeout).unsigned_abs();
    }
    if let Some(text) = &entry.debounce {
        let debounce = flags::debounce(text).map_err(|error| of("debounce", text, error))?;
        spec.debounce = Some(debounce);
    }
    if let Some(file) = &entry.secret_file {
        let secret = text(&base.join(file)).map_err(|error| error.message)?;
        spec.secret = Some(secret.trim().to_owned());
    }
    spec.attempts = entry.attempts;
    spec.on_error = entry.on_error;
    spec.max_in_flight = entry.max_in_flight.unwrap_or(spec.max_in_flight);
    spec.rate = entry.rate;
    spec.batch = entry.batch;
    spec.coalesce = entry.coalesce;
    spec.only = entry.only;
    spec.from = entry.from;
    Ok(spec)
}

fn pull(entry: PullEntry) -> Result<PullSpec, String> {
    let (of, mut spec) = (format!("pull {}", entry.name), PullSpec::new(entry.name));
    spec.attempts = entry.attempts;
    spec.on_error = entry.on_error;
    spec.only = entry.only;
    spec.from = entry.from;
    if let Some(text) = &entry.lease {
        let wrong = |error| format!("{of}: lease {text:?}: {error}");
        spec.lease_ms = parse_duration(text)
            .map(|lease| millis(lease).unsigned_abs())
            .map_err(wrong)?;
    }
    Ok(spec)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::hook::Reducer;

    #[test]
    fn a_file_says_hooks_and_namespaces_and_scripts_stand_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("orders.js"), "export default 1").unwrap();
        let path = dir.path().join("hooks.toml");
        let text = r#"
            [[namespaces]]
            name = "acme"
            lanes = 4
            warn = "5m"

            [[hooks]]
            name = "orders"
            namespace = "acme"
            order_by = "body:/customer/id"
            unordered = "keep"
            reduce = "orders.js"
            on_error = "skip"
            debounce = "500ms,5s"
            body_max = "64KiB"
            keep = "30d"

            [[hooks.pull]]
            name = "worker"
            lease = "2m"
            attempts = 3
            only = ["/type=invoice.*", "header:X-GitHub-Event=push"]

            [[hooks]]
            name = "hello"
        "#;
        std::fs::write(&path, text).unwrap();
        let apply = read(&path).unwrap();
        let acme = &apply.namespaces[0];
        assert_eq!(
            (acme.lanes, acme.warn_ms, acme.crit_ms),
            (4, Some(300_000), None)
        );
        let [orders, hello] = &apply.hooks[..] else {
            panic!("two hooks")
        };
        assert_eq!(orders.body_max, 65_536);
        assert_eq!(orders.keep.to_string(), "30d");
        assert_eq!(
            (orders.pull[0].lease_ms, orders.pull[0].attempts),
            (120_000, Some(3))
        );
        assert_eq!(
            orders.pull[0].only.to_string(),
            "body:/type=invoice.*, header:x-github-event=push"
        );
        assert!(matches!(&orders.reduce, Some(Reducer::Script(s)) if s.text == "export default 1"));
        assert_eq!(*hello, HookSpec::new("hello".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, part) in [
            ("[[hooks]]\nname = 'A'", "not a name"),
            (
                "[[hooks]]\nname = 'a'\nforward = 'x'",
                "expected a sequence",
            ),
            (
                "[[hooks]]\nname = 'a'\nreduce = 'sum'",
                "hook a: \"sum\" is not a reducer",
            ),
            (
                "[[hooks]]\nname = 'a'\nreduce = 'no.js'",
                "hook a: no reducer in",
            ),
            ("[[hooks]]\nname = 'a'\norder_by = 'x'", "line 3"),
            ("[[hooks]]\nname = 'a'\nbody_max = 0", "hook a: body_max"),
            ("[[hooks]]\nname = 'a'\ndebounce = '5'", "hook a: debounce"),
            ("[[hooks]]\nname = 'a'\nkeep = '30'", "such as 30d or 12h"),
            (
                "[[hooks]]\nname = 'a'\nonly = ['type=x']",
                "\"type=x\" is not a pattern",
            ),
            (
                "[[hooks]]\nname = 'a'\n[[hooks.pull]]\nname = 'w'\nlease = '5'",
                "hook a: pull w: lease \"5\"",
            ),
            (
                "[[namespaces]]\nname = 'a'\nwarn = '5'",
                "namespace a: warn \"5\"",
            ),
            ("hooks = 1", "invalid type"),
        ] {
            let error = parse(text, Path::new("")).unwrap_err();
            assert!(error.message.contains(part), "{text}: {error}");
        }
        let error = parse("[hooks.orders]\nreduce = 'count'", Path::new("")).unwrap_err();
        let write = "[[hooks]] and, in the next line, name = \"orders\"";
        assert_eq!(error.facts, [("write", write.to_owned())]);
    }
}
