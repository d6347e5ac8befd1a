//! Shell completion: the scripts for the shells, and the answers to their requests.
//!
//! Names of hooks, streams, lanes, namespaces and keys come from the daemon. Quick and silent: when no
//! daemon answers at once, there are no completions.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, Command};
use clap_complete::CompleteEnv;
use clap_complete::engine::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _,
};
use clap_complete::env::Shells;

use super::reach::{Offline, Place, Reach, with_query};
use crate::api::List;
use crate::text::{escaped, quoted, unescaped};

/// Environment variable set by the scripts; its value is the shell.
const VARIABLE: &str = "HOOKLANE_COMPLETE";

/// Time limit of an answer, because a user waits for it.
const PATIENCE: Duration = Duration::from_millis(500);

/// The script for a shell. It calls this program for completions.
///
/// # Errors
/// The shell is unknown.
pub fn script(shell: &str) -> io::Result<Vec<u8>> {
    let shells = Shells::builtins();
    let found = shells.completer(shell).ok_or(io::ErrorKind::NotFound)?;
    let mut script = Vec::new();
    found.write_registration(VARIABLE, "hooklane", "hooklane", "hooklane", &mut script)?;
    if shell == "zsh" {
        // zsh finds the file in fpath and runs it as the body of a function for the first completion.
        script.extend(
            b"[[ ${funcstack[1]} == _hooklane ]] && _clap_dynamic_completer_hooklane \"$@\"\n",
        );
    }
    Ok(script)
}

/// Answers a request of a shell; false if this call is not one.
pub fn answer(args: &[OsString], tree: impl Fn() -> Command) -> bool {
    if std::env::var_os(VARIABLE).is_none_or(|shell| shell.is_empty()) {
        return false;
    }
    let place = place_of(args);
    let completing = CompleteEnv::with_factory(move || with_names(tree(), &place));
    let completing = completing
        .var(VARIABLE)
        .bin("hooklane")
        .completer("hooklane");
    let here = std::env::current_dir().ok();
    // A shell that is completing a line has no use for an error.
    completing
        .try_complete(args, here.as_deref())
        .unwrap_or(true)
}

/// Daemon to ask for names, from the line so far and the environment.
#[derive(Clone)]
struct CompletionPlace {
    data: Option<PathBuf>,
    url: Option<String>,
    key_file: Option<PathBuf>,
    namespace: Option<String>,
    /// True for bash, which inserts names unquoted; zsh and fish quote them.
    is_bash: bool,
}

fn place_of(args: &[OsString]) -> CompletionPlace {
    let words: Vec<&str> = args.iter().filter_map(|word| word.to_str()).collect();
    // The command line follows the first `--`.
    let line = words
        .iter()
        .position(|word| *word == "--")
        .map_or(0, |at| at + 1);
    let line = &words[line.min(words.len())..];
    let is_send = line.get(1) == Some(&"send");
    let flag = |name: &str| {
        let mut pairs = line.iter().zip(line.iter().skip(1));
        let apart = pairs
            .find(|(word, _)| **word == name)
            .map(|(_, value)| *value);
        let joined = || {
            line.iter()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        apart.or_else(joined).map(str::to_owned)
    };
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    // The `--data` flag of `send` is a body.
    let data = flag("--data")
        .filter(|_| !is_send)
        .or_else(|| env("HOOKLANE_DATA"));
    let key_file = flag("--key-file").or_else(|| env("HOOKLANE_KEY_FILE"));
    CompletionPlace {
        data: data.map(PathBuf::from),
        url: flag("--url").or_else(|| env("HOOKLANE_URL")),
        key_file: key_file.map(PathBuf::from),
        namespace: flag("--namespace"),
        is_bash: env(VARIABLE).as_deref() == Some("bash"),
    }
}

/// Adds completers to the arguments that take names.
fn with_names(tree: Command, place: &CompletionPlace) -> Command {
    fn walk(command: Command, path: &str, place: &CompletionPlace) -> Command {
        let path = format!("{path} {}", command.get_name());
        let completed = |arg: Arg| match kind(&path, &arg) {
            Some(kind) => arg.add(completer(kind, place.clone())),
            None => arg,
        };
        command
            .mut_args(completed)
            .mut_subcommands(|inner| walk(inner, &path, place))
    }
    walk(tree, "", place)
}

/// The kind of names that an argument takes.
fn kind(path: &str, arg: &Arg) -> Option<&'static str> {
    let value = arg.get_value_names().unwrap_or_default();
    let is_lane = value.iter().any(|name| name == "LANE");
    let noun = path.split(' ').nth(2).unwrap_or_default();
    Some(match arg.get_id().as_str() {
        "stream" => "stream",
        "hook" => "hook",
        "namespace" => "namespace",
        "handler" => "handler",
        "lane" | "lanes" if is_lane => "lane",
        "id" if noun == "keys" => "key",
        "reduce" => "reducer",
        "name" if noun == "hooks" => "hook",
        "name" if path.ends_with("namespaces delete") => "namespace",
        _ => return None,
    })
}

fn completer(kind: &'static str, place: CompletionPlace) -> ArgValueCompleter {
    ArgValueCompleter::new(move |start: &OsStr| {
        let names = match (kind, start.to_str()) {
            (_, None) => Vec::new(),
            ("reducer", Some(start)) => return reducers(start),
            ("handler", Some(start)) if "reduce".starts_with(start) => vec!["reduce".to_owned()],
            (kind, Some(start)) => {
                let start = unescaped(start.trim_start_matches(['\'', '"']));
                ask(kind, &start, &place).unwrap_or_default()
            }
        };
        names
            .iter()
            .map(|name| CompletionCandidate::new(inserted(name, place.is_bash)))
            .collect()
    })
}

/// A name as it is inserted into the line.
fn inserted(name: &str, is_bash: bool) -> String {
    match is_bash {
        true => quoted(name),
        false => escaped(name).into_owned(),
    }
}

/// The built-in reducers, and the scripts in the directory that is being typed.
fn reducers(start: &str) -> Vec<CompletionCandidate> {
    const BUILT_IN: [&str; 5] = ["latest", "merge", "patch", "append:", "count"];
    let built_in = BUILT_IN.into_iter().filter(|name| name.starts_with(start));
    let is_script = |path: &Path| {
        path.extension()
            .is_some_and(|end| end == "js" || end == "mjs")
    };
    let scripts = PathCompleter::any().filter(move |path| path.is_dir() || is_script(path));
    let scripts = scripts.complete(OsStr::new(start));
    built_in
        .map(CompletionCandidate::new)
        .chain(scripts)
        .collect()
}

/// Asks the daemon; `None` when it does not answer at once.
fn ask(kind: &str, start: &str, place: &CompletionPlace) -> Option<Vec<String>> {
    let place_to_ask = Place {
        url: place.url.clone(),
        key_file: place.key_file.clone(),
        data: place.data.clone(),
        data_from: String::new(),
        patience: PATIENCE,
    };
    let query = [
        ("kind", Some(kind.to_owned())),
        ("start", Some(start.to_owned())),
        ("namespace", place.namespace.clone()),
    ];
    let path = with_query("/v1/admin/names", &query);
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().ok()?;
    let names = async {
        let reach = Reach::find(&place_to_ask, Offline::Never).await.ok()?;
        reach.get::<List<String>>(&path).await.ok()
    };
    let names = runtime.block_on(async { tokio::time::timeout(PATIENCE, names).await });
    Some(names.ok()??.items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> CompletionPlace {
        let words = ["hooklane", "--"].iter().chain(words);
        place_of(&words.map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_line_says_which_daemon_is_asked() {
        let place = line(&["hooklane", "why", "--data", "/a", "--url=http://b", ""]);
        assert_eq!(place.data, Some(PathBuf::from("/a")));
        assert_eq!(place.url.as_deref(), Some("http://b"));
        let place = line(&["hooklane", "send", "--data", "{}", ""]);
        assert_ne!(place.data, Some(PathBuf::from("{}")), "that is a body");
        assert!(place_of(&[]).namespace.is_none());
    }

    #[test]
    fn arguments_that_take_names_know_which() {
        let tree = super::super::tree();
        let kind_of = |path: &str, id: &str| {
            let mut command = &tree;
            for word in path.split(' ') {
                command = command.find_subcommand(word).unwrap();
            }
            let arg = command.get_arguments().find(|arg| arg.get_id() == id);
            kind(&format!(" hooklane {path}"), arg.unwrap())
        };
        for (path, id, kind) in [
            ("why", "stream", Some("stream")),
            ("streams hold", "stream", Some("stream")),
            ("state rebuild", "stream", Some("stream")),
            ("hooks pause", "name", Some("hook")),
            ("hooks create", "names", None),
            ("hooks edit", "reduce", Some("reducer")),
            ("hooks test", "stream", Some("stream")),
            ("send", "hook", Some("hook")),
            ("keys create", "hook", Some("hook")),
            ("keys create", "name", None),
            ("lanes pause", "lanes", Some("lane")),
            ("lanes show", "lane", Some("lane")),
            ("lanes resize", "lanes", None),
            ("namespaces delete", "name", Some("namespace")),
            ("namespaces create", "name", None),
        ] {
            assert_eq!(kind_of(path, id), kind, "{path} {id}");
        }
    }
}
