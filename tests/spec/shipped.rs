//! Shipped files match the binary, and the command tree keeps its rules. `UPDATE=1` writes completions
//! and manual pages anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn hooklane(args: &[&str]) -> Output {
    let data = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_hooklane"))
        .args(args)
        .env_clear()
        .env("HOME", data.path())
        .output()
        .unwrap()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let files = entries.map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(path).unwrap())
    });
    files.collect()
}

fn is_shipped_as_generated(verb: &str, dir: &str) {
    let made = tempfile::tempdir().unwrap();
    let made = made.path().join(dir);
    let ended = hooklane(&[verb, "--dir", made.to_str().unwrap()]);
    assert!(ended.status.success(), "{ended:?}");
    let shipped = root().join(dir);
    if std::env::var_os("UPDATE").is_some() {
        let _ = std::fs::remove_dir_all(&shipped);
        std::fs::create_dir(&shipped).unwrap();
        for (name, text) in files(&made) {
            std::fs::write(shipped.join(name), text).unwrap();
        }
    }
    let (made, shipped) = (files(&made), files(&shipped));
    assert!(
        made.keys().eq(shipped.keys()),
        "{dir} lacks or has too many files; UPDATE=1 writes them anew"
    );
    for (name, text) in made {
        assert!(
            shipped[&name] == text,
            "{dir}/{name} is old; UPDATE=1 writes it anew"
        );
    }
}

#[test]
fn completions_are_those_of_the_tree() {
    is_shipped_as_generated("completions", "completions");
}

#[test]
fn manual_pages_are_those_of_the_tree() {
    is_shipped_as_generated("man", "man");
}

/// Calls `look` with every command of the tree and the words that lead to it.
fn walk(command: &clap::Command, words: &str, look: &mut impl FnMut(&clap::Command, &str)) {
    look(command, words);
    for inner in command.get_subcommands() {
        walk(inner, &format!("{words} {}", inner.get_name()), look);
    }
}

fn tree() -> clap::Command {
    let mut tree = hooklane::cli::tree();
    tree.build();
    tree
}

#[test]
fn no_help_shows_the_value_of_an_environment_variable_and_no_flag_takes_a_key() {
    let mut seen = 0;
    walk(&tree(), "hooklane", &mut |command, words| {
        for arg in command.get_arguments() {
            let id = arg.get_id().as_str();
            assert_ne!(arg.get_env(), Some("HOOKLANE_KEY".as_ref()), "{words} {id}");
            assert_ne!(arg.get_long(), Some("key"), "{words}");
            if arg.get_env().is_some() {
                assert!(arg.is_hide_env_values_set(), "{words} {id}");
                seen += 1;
            }
        }
    });
    assert!(seen > 100, "saw {seen} arguments only");
}

#[test]
fn no_help_and_no_error_tells_a_secret() {
    const SECRET: &str = "s3cr3ts3cr3t";
    let data = tempfile::tempdir().unwrap();
    let url = |scheme: &str| format!("{scheme}://user:{SECRET}@127.0.0.1:1/0");
    let said = |args: &[&str]| {
        let mut call = Command::new(env!("CARGO_BIN_EXE_hooklane"));
        call.args(args).env_clear().env("HOME", data.path());
        call.env("HOOKLANE_KEY", format!("hl_w_{SECRET}"));
        call.env("HOOKLANE_DATABASE", url("postgres"));
        call.env("HOOKLANE_REDIS", url("redis"));
        let ended = call.output().unwrap();
        let said = [ended.stdout, ended.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(!said.contains(SECRET), "{args:?}: {said}");
        said
    };
    walk(&tree(), "", &mut |_, words| {
        let help: Vec<_> = words.split_whitespace().chain(["--help"]).collect();
        assert!(said(&help).contains("Usage:"), "{help:?}");
    });
    for call in [
        &["doctor"][..],
        &["doctor", "-o", "json"],
        &["serve", "--listen", "nowhere"],
        &["hooks", "list", "--url", "http://127.0.0.1:1"],
        &["send", "hello", "--url", "http://127.0.0.1:1"],
    ] {
        said(call);
    }
}

#[test]
fn every_command_says_what_it_is_for_and_every_verb_has_an_example() {
    walk(&tree(), "hooklane", &mut |command, words| {
        let about = command.get_about().map(ToString::to_string);
        let about = about.unwrap_or_default();
        assert!(!about.is_empty(), "{words}");
        assert!(!about.ends_with('.'), "{words}: {about}");
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{words} {}", arg.get_id());
        }
        if !command.has_subcommands() {
            let long = command.get_long_about().map(ToString::to_string);
            let long = long.unwrap_or_default();
            let example = format!("Examples:\n  {words}");
            let shown = long.contains("Examples:\n  ") && long.contains(words);
            assert!(shown, "{words} lacks {example:?}: {long}");
        }
    });
}

#[test]
fn every_example_can_be_parsed() {
    let mut examples = 0;
    walk(&tree(), "hooklane", &mut |command, words| {
        let long = command.get_long_about().map(ToString::to_string);
        let long = long.unwrap_or_default();
        for line in long.lines().filter_map(|line| line.strip_prefix("  ")) {
            let Some(start) = line.find(words) else {
                continue;
            };
            let call = line[start..].split([';', '>', '|', '<']).next().unwrap();
            let args: Vec<String> = split(call);
            let parsed = hooklane::cli::tree().try_get_matches_from(&args);
            let is_missing_the_end = line.contains("xargs");
            assert!(parsed.is_ok() || is_missing_the_end, "{line}: {parsed:?}");
            examples += 1;
        }
    });
    assert!(examples > 25, "saw {examples} examples only");
}

/// Words as a shell splits them, with single quotes.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (nth, part) in line.split('\'').enumerate() {
        match nth % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

#[test]
fn a_bare_call_prints_a_dozen_lines_and_succeeds() {
    let ended = hooklane(&[]);
    let text = String::from_utf8(ended.stdout).unwrap();
    assert!(ended.status.success());
    assert!((8..=14).contains(&text.lines().count()), "{text}");
    assert!(text.contains("hooklane serve") && text.contains("--help"));
}

#[test]
fn errors_have_their_exit_codes() {
    let code = |args: &[&str]| hooklane(args).status.code().unwrap();
    assert_eq!(code(&["lanes", "list"]), 6, "no daemon");
    assert_eq!(code(&["lanes", "lits"]), 2, "no such verb");
    assert_eq!(code(&["hooks", "create", "Not-A-Name"]), 2);
    assert_eq!(code(&["serve", "--lanes", "0"]), 2);
    assert_eq!(
        code(&["hooks", "list", "--url", "http://127.0.0.1:1"]),
        4,
        "no key"
    );
    assert_eq!(code(&["hooks", "list", "--url", "ftp://a"]), 2);
    assert_eq!(
        code(&["keys", "create", "--type", "write", "--name", "a"]),
        2,
        "for which hook?"
    );
    assert_eq!(code(&["--version"]), 0);
}

#[test]
fn without_a_daemon_the_next_step_is_shown_for_people_and_for_programs() {
    let ended = hooklane(&["lanes", "list"]);
    let text = String::from_utf8(ended.stderr).unwrap();
    assert!(text.starts_with("error: no daemon at "), "{text}");
    assert!(text.contains("  start      hooklane serve\n"), "{text}");

    let ended = hooklane(&["lanes", "list", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&ended.stderr).unwrap();
    assert_eq!(json["error"]["code"], "no_daemon");
    assert_eq!(json["error"]["exit"], 6);
    assert!(ended.stdout.is_empty());
}

#[test]
fn help_and_manual_fit_80_columns_and_their_examples_can_be_pasted() {
    let pages = tempfile::tempdir().unwrap();
    let ended = hooklane(&["man", "--dir", pages.path().to_str().unwrap()]);
    assert!(ended.status.success(), "{ended:?}");
    let shown = |page: &str| {
        let page = pages.path().join(page);
        let nroff = Command::new("nroff")
            .args(["-man", "-Tutf8", "-rLL=80n"])
            .arg(page)
            .output();
        // Without nroff nobody reads manuals.
        let text = nroff.ok().filter(|done| done.status.success())?;
        Some(String::from_utf8_lossy(&text.stdout).into_owned())
    };
    walk(&tree(), "hooklane", &mut |command, words| {
        let mut call = Command::new(env!("CARGO_BIN_EXE_hooklane"));
        call.args(words.split_whitespace().skip(1)).arg("--help");
        let help = call
            .env_clear()
            .env("COLUMNS", "80")
            .output()
            .unwrap()
            .stdout;
        let help = String::from_utf8(help).unwrap();
        let too_wide = help.lines().find(|line| line.chars().count() > 80);
        assert_eq!(too_wide, None, "{words}");
        let long = command.get_long_about().map(ToString::to_string);
        let long = long.unwrap_or_default();
        let manual = shown(&format!("{}.1", words.replace(' ', "-")));
        let blocks = long.split("\n\n").filter(|block| block.contains("\n  "));
        for line in blocks
            .flat_map(str::lines)
            .filter(|line| line.starts_with("  "))
        {
            assert!(
                help.lines().any(|shown| shown == line),
                "{words}: {line}\n{help}"
            );
            let is_shown = |page: &String| page.lines().any(|shown| shown.trim() == line.trim());
            assert!(
                manual.as_ref().is_none_or(is_shown),
                "{words}: {line}\n{manual:?}"
            );
        }
    });
}
