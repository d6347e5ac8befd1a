//! Global flags, and the parsers of values on the command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, ValueEnum as _, value_parser};
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::Style;
use super::print::{Agreed, Color, Output};
use super::reach::Place;
use crate::client::Target;
use crate::config::Setting;
use crate::domain::forward::Begin;
use crate::domain::hook::{BODY_MAX_LIMIT, Debounce, OnError, Unordered};
use crate::domain::name::{InvalidName, Name, StreamName};
use crate::domain::place;
use crate::domain::time::parse_duration;
use crate::domain::version::WINDOW_MAX;
use crate::text;

const HEADING: &str = "Global options";

/// Default time limit of one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Global flags, accepted before and after the verb.
#[derive(Args)]
#[command(next_help_heading = HEADING)]
pub struct Global {
    /// Ask a daemon elsewhere, http or https, such as http://10.0.0.5:8420; needs a key
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "HOOKLANE_URL",
        hide_env_values = true
    )]
    url: Option<String>,

    /// Read the access key from this file; without it the environment's HOOKLANE_KEY is the key
    #[arg(long, global = true, value_name = "PATH", env = "HOOKLANE_KEY_FILE")]
    #[arg(hide_env_values = true)]
    key_file: Option<PathBuf>,

    /// Format of the data on stdout
    #[arg(short, long, global = true, value_enum, default_value_t)]
    #[arg(env = "HOOKLANE_OUTPUT", hide_env_values = true)]
    output: Output,

    /// With -o names: end each name with a NUL byte, for xargs -0
    #[arg(short = '0', long, global = true)]
    null: bool,

    /// Print errors and the data that was asked for, nothing else
    #[arg(
        short,
        long,
        global = true,
        env = "HOOKLANE_QUIET",
        hide_env_values = true
    )]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    quiet: bool,

    /// Answer questions with yes; checks are never skipped
    #[arg(short, long, global = true)]
    yes: bool,

    /// With --yes, the name that a severe action would ask you to type
    #[arg(long, global = true, value_name = "NAME")]
    confirm: Option<String>,

    /// Never ask: fail and name the flag that answers
    #[arg(long, global = true, env = "HOOKLANE_NO_INPUT", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    no_input: bool,

    /// Use of colour
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    #[arg(env = "HOOKLANE_COLOR", hide_env_values = true)]
    color: Color,

    /// Time limit of one answer [default: 10s]; of commands that wait, of the whole [default: for ever]
    #[arg(long, global = true, value_name = "DURATION")]
    #[arg(value_parser = parse_duration, env = "HOOKLANE_TIMEOUT", hide_env_values = true)]
    timeout: Option<Duration>,
}

impl Global {
    /// Output settings of the printer.
    pub fn style(&self) -> Style {
        Style {
            output: self.output,
            null: self.null,
            quiet: self.quiet,
            color: self.color,
            agreed: Agreed {
                yes: self.yes,
                name: self.confirm.clone(),
                never_ask: self.no_input,
            },
        }
    }

    /// The daemon or directory that the command works on.
    pub fn place(&self, matches: &ArgMatches) -> Place {
        Place {
            url: self.url.clone(),
            key_file: self.key_file.clone(),
            data: given_data(matches),
            data_from: origin(matches, "data"),
            patience: self.timeout.unwrap_or(PATIENCE),
        }
    }

    /// The settings of every command, each with its origin.
    pub fn settings(&self, matches: &ArgMatches) -> Vec<Setting> {
        let word = |value: Option<clap::builder::PossibleValue>| {
            value.map_or_else(String::new, |value| value.get_name().to_owned())
        };
        let timeout = self.timeout.unwrap_or(PATIENCE);
        let key_file = self.key_file.as_ref();
        let key_file =
            key_file.map_or_else(|| "none".to_owned(), |path| path.display().to_string());
        // User and password in a URL are not shown.
        let url = self.url.as_ref().map(|url| match Target::parse(url) {
            Ok(target) => target.to_string(),
            Err(_) => "no URL".to_owned(),
        });
        let setting = |name, value: String| setting(matches, name, value);
        vec![
            setting("url", url.unwrap_or_else(|| "none".to_owned())),
            setting("key-file", key_file),
            setting("timeout", text::duration(timeout)),
            setting("output", word(self.output.to_possible_value())),
            setting("color", word(self.color.to_possible_value())),
            setting("quiet", self.quiet.to_string()),
            setting("no-input", self.no_input.to_string()),
        ]
    }

    /// Time limit of commands that wait for an end; `None` is no limit.
    pub fn limit(&self) -> Option<Duration> {
        self.timeout
    }
}

/// The output requested by a call that cannot be parsed.
pub fn output_of(args: &[OsString]) -> Output {
    let words: Vec<_> = args.iter().filter_map(|word| word.to_str()).collect();
    if words.contains(&"serve") && logs_json(&words) {
        return Output::Json;
    }
    let apart = words.iter().zip(words.iter().skip(1));
    let apart = apart.filter(|(flag, _)| matches!(**flag, "-o" | "--output"));
    let joined = words.iter().filter_map(|word| {
        let value = word.strip_prefix("--output=").or(word.strip_prefix("-o"));
        value.filter(|value| !value.is_empty())
    });
    let given = apart.map(|(_, value)| *value).chain(joined).last();
    let given = given.map(str::to_owned);
    let given = given.or_else(|| {
        std::env::var("HOOKLANE_OUTPUT")
            .ok()
            .filter(|value| !value.is_empty())
    });
    given
        .and_then(|word| Output::from_str(&word, false).ok())
        .unwrap_or_default()
}

/// True if a call of `serve` asks for a JSON log; its errors are JSON then too.
fn logs_json(words: &[&str]) -> bool {
    let apart = words.windows(2).any(|pair| pair == ["--log", "json"]);
    let from_environment = || std::env::var("HOOKLANE_LOG").is_ok_and(|log| log == "json");
    apart || words.contains(&"--log=json") || from_environment()
}

const DATA: &str = "data_dir";

/// Id of the argument with the body of an event.
const BODY: &str = "body";

/// Origin of a setting: its flag, its environment variable, or the default.
pub fn origin(matches: &ArgMatches, name: &str) -> String {
    let id = match name {
        "data" => DATA.to_owned(),
        name => name.replace('-', "_"),
    };
    let levels = std::iter::successors(Some(matches), |matches| {
        matches.subcommand().map(|(_, inner)| inner)
    });
    let sources = levels.filter_map(|matches| {
        let is_known = matches.try_contains_id(&id).is_ok();
        is_known.then(|| matches.value_source(&id)).flatten()
    });
    let sources: Vec<_> = sources.collect();
    if sources.contains(&ValueSource::CommandLine) {
        format!("--{name}")
    } else if sources.contains(&ValueSource::EnvVariable) {
        format!("HOOKLANE_{}", name.replace('-', "_").to_uppercase())
    } else {
        "built-in default".to_owned()
    }
}

/// The first argument with an empty value, in the spelling of the usage line. Only an event's body may
/// be empty.
pub fn empty(command: &clap::Command, matches: &ArgMatches) -> Option<String> {
    let is_empty = |arg: &&Arg| {
        let id = arg.get_id().as_str();
        let values = matches.try_get_raw(id).ok().flatten();
        id != BODY && values.is_some_and(|mut values| values.any(OsStr::is_empty))
    };
    let inner = || {
        let (name, matches) = matches.subcommand()?;
        empty(command.find_subcommand(name)?, matches)
    };
    let found = command.get_arguments().find(is_empty);
    found.map(spelled).or_else(inner)
}

/// Spelling of an argument in the usage line: `--reduce <NAME|FILE.js>` or `<LANE>`.
fn spelled(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default().iter();
    let values: Vec<_> = names.map(|name| format!("<{name}>")).collect();
    let flag = arg.get_long().map(|long| format!("--{long} "));
    flag.unwrap_or_default() + &values.join(" ")
}

/// A setting with its origin.
pub fn setting(matches: &ArgMatches, name: &'static str, value: impl ToString) -> Setting {
    Setting {
        name,
        value: value.to_string(),
        from: origin(matches, name),
    }
}

/// Adds `--data DIR` to every command that has no `--data` of its own. It cannot be a global flag of
/// clap, because `send --data` was an event's body and remains an alias for one release; `demo` has its
/// own directory.
pub fn with_data_everywhere(command: clap::Command) -> clap::Command {
    let taken = |arg: &Arg| arg.get_long() == Some("data");
    let is_taken = command.get_arguments().any(taken) || command.get_name() == "demo";
    let command = match is_taken {
        true => command,
        false => command.arg(data()),
    };
    command.mut_subcommands(with_data_everywhere)
}

fn data() -> Arg {
    Arg::new(DATA)
        .long("data")
        .value_name("DIR")
        .value_parser(value_parser!(PathBuf))
        .action(ArgAction::Set)
        .env("HOOKLANE_DATA")
        .hide_env_values(true)
        .help("Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]")
        .help_heading(HEADING)
}

/// The data directory given by the innermost flag, else by the environment.
fn given_data(matches: &ArgMatches) -> Option<PathBuf> {
    let inner = matches
        .subcommand()
        .and_then(|(_, inner)| given_data(inner));
    let here = || matches.try_get_one::<PathBuf>(DATA).ok().flatten().cloned();
    let is_flag = |matches: &ArgMatches| {
        let known = matches.try_contains_id(DATA).unwrap_or(false);
        known && matches.value_source(DATA) == Some(ValueSource::CommandLine)
    };
    let inner_is_flag = std::iter::successors(matches.subcommand(), |(_, m)| m.subcommand())
        .any(|(_, matches)| is_flag(matches));
    match is_flag(matches) && !inner_is_flag {
        true => here(),
        false => inner.or_else(here),
    }
}

/// Parses a stream, HOOK or HOOK/KEY, in its printed form: `\u{202e}` stands for an invisible
/// character.
pub fn stream(text: &str) -> Result<StreamName, InvalidName> {
    text::unescaped(text).parse()
}

/// Parses `refuse` or `keep`.
pub fn unordered(text: &str) -> Result<Unordered, String> {
    word(
        text,
        &[("refuse", Unordered::Refuse), ("keep", Unordered::Keep)],
    )
}

/// Parses `hold` or `skip`.
pub fn on_error(text: &str) -> Result<OnError, String> {
    word(text, &[("hold", OnError::Hold), ("skip", OnError::Skip)])
}

/// Value of a flag that takes a value or `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

/// Parses the place of a version, or `none`.
pub fn version_by(text: &str) -> Result<OrNone<place::Place>, String> {
    match text {
        "none" => Ok(OrNone(None)),
        text => {
            let place = text.parse::<place::Place>();
            place
                .map(|place| OrNone(Some(place)))
                .map_err(|error| format!("{error}, or none"))
        }
    }
}

/// Parses a reorder window such as `5s`, or `none`.
pub fn reorder_window(text: &str) -> Result<OrNone<Duration>, String> {
    if text == "none" {
        return Ok(OrNone(None));
    }
    match parse_duration(text) {
        Ok(window) if window.is_zero() || window > WINDOW_MAX => {
            Err("a reorder window is above zero and an hour at most, or none".to_owned())
        }
        Ok(window) => Ok(OrNone(Some(window))),
        Err(error) => Err(error.to_string()),
    }
}

fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        format!("it is {}", words.join(" or "))
    })
}

/// Default longest wait of a debounce, as a multiple of its quiet time.
const LONGEST_FACTOR: u32 = 10;

/// Parses `QUIET[,LONGEST]`, such as `500ms,5s`.
pub fn debounce(text: &str) -> Result<Debounce, String> {
    let parse = |text: &str| parse_duration(text).map_err(|error| error.to_string());
    let (quiet, longest) = match text.split_once(',') {
        Some((quiet, longest)) => (parse(quiet)?, parse(longest)?),
        None => {
            let quiet = parse(text)?;
            (quiet, quiet.saturating_mul(LONGEST_FACTOR))
        }
    };
    match quiet.is_zero() || longest < quiet {
        true => Err("the quiet time is above zero, the longest is not below it".to_owned()),
        false => Ok(Debounce { quiet, longest }),
    }
}

/// Parses a number of bytes: `65536`, `64KiB` or `2MiB`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let unit = match unit {
        "" => Some(1),
        "KiB" => Some(1024),
        "MiB" => Some(1024 * 1024),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    match number.zip(unit).and_then(|(n, unit)| n.checked_mul(unit)) {
        Some(bytes) if (1..=BODY_MAX_LIMIT).contains(&bytes) => Ok(bytes),
        _ => Err("it is a number of bytes such as 65536, 64KiB or 2MiB, 32MiB at most".to_owned()),
    }
}

/// Parses `NAME: VALUE` or `NAME:VALUE`.
pub fn header(text: &str) -> Result<(http::HeaderName, http::HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("it is NAME: VALUE")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| "that is no header's name")?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| "a header cannot have that value")?;
    Ok((name, value))
}

/// Parses `NAME=URL`, or the name of an existing handler. The URL is parsed later, because clap's
/// errors repeat the text, and a URL may contain a password.
pub fn forward(text: &str) -> Result<(Name, Option<String>), String> {
    let (name, url) = match text.split_once('=') {
        Some((name, url)) => (name, Some(url.to_owned())),
        None => (text, None),
    };
    let name = name.parse::<Name>().map_err(|error| error.to_string())?;
    Ok((name, url))
}

/// Parses `beginning` or `now`.
pub fn begin(text: &str) -> Result<Begin, String> {
    match text {
        "beginning" => Ok(Begin::Beginning),
        "now" => Ok(Begin::Now),
        _ => Err("beginning or now".into()),
    }
}

/// The least severe lines of a log, by module: `info` or `info,hooklane::store=debug`.
pub fn log_level(text: &str) -> Result<Targets, String> {
    // An empty text parses as `error`.
    let is_level = |level: &str| !level.is_empty() && level.parse::<LevelFilter>().is_ok();
    let is_one = |part: &str| match part.split_once('=') {
        Some((module, level)) => !module.is_empty() && is_level(level),
        None => is_level(part),
    };
    let levels = || text.parse().ok().filter(|_| text.split(',').all(is_one));
    levels().ok_or_else(|| {
        "not a level such as info, or levels of modules such as info,hooklane::store=debug".into()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_level_of_the_log_is_one_of_five_for_all_or_for_a_module() {
        for right in ["info", "warn,hooklane::store=debug", "off"] {
            assert!(log_level(right).is_ok(), "{right}");
        }
        for wrong in ["", "loud", "info,", "=info", "hooklane=loud", "info,,warn"] {
            assert!(log_level(wrong).is_err(), "{wrong}");
        }
    }

    fn data_of(args: &[&str]) -> Option<PathBuf> {
        let args = std::iter::once("hooklane").chain(args.iter().copied());
        given_data(&super::super::tree().try_get_matches_from(args).unwrap())
    }

    #[test]
    fn an_argument_with_an_empty_value_is_found_wherever_it_stands_but_an_empty_body_is_one() {
        let found = |words: &[&str]| {
            let tree = super::super::tree();
            let matches = tree.clone().try_get_matches_from(words).unwrap();
            empty(&tree, &matches)
        };
        for (words, arg) in [
            (
                &["hooks", "create", "x", "--reduce", ""][..],
                "--reduce <NAME|FILE.js>",
            ),
            (&["hooks", "pause", "x", "--reason", ""], "--reason <TEXT>"),
            (&["lanes", "pause", ""], "<LANE>"),
            (&["--url", "", "status"], "--url <URL>"),
        ] {
            let words = [&["hooklane"], words].concat();
            assert_eq!(found(&words).as_deref(), Some(arg));
        }
        assert_eq!(found(&["hooklane", "send", "x", "--body", ""]), None);
        assert_eq!(found(&["hooklane", "status"]), None);
    }

    #[test]
    fn the_data_directory_is_a_flag_before_and_after_the_verb() {
        let dir = |text: &str| Some(PathBuf::from(text));
        assert_eq!(data_of(&["hooks", "list", "--data", "/a"]), dir("/a"));
        assert_eq!(data_of(&["hooks", "--data", "/a", "list"]), dir("/a"));
        assert_eq!(data_of(&["--data", "/a", "hooks", "list"]), dir("/a"));
        assert_eq!(
            data_of(&["--data", "/a", "hooks", "list", "--data", "/b"]),
            dir("/b")
        );
        let send = ["--data", "/a", "send", "hello", "--body", "{}"];
        assert_eq!(data_of(&send), dir("/a"));
        let send = ["--data", "/a", "send", "hello", "--data", "{}"];
        assert_eq!(data_of(&send), dir("/a"), "the body is not the directory");
        assert_eq!(data_of(&["send", "hello", "--data", "{}"]), None);
    }

    #[test]
    fn a_setting_says_which_flag_it_came_from_or_that_it_is_built_in() {
        let of = |args: &[&str], name| {
            let args = std::iter::once("hooklane").chain(args.iter().copied());
            origin(
                &super::super::tree().try_get_matches_from(args).unwrap(),
                name,
            )
        };
        let call = ["--timeout", "3s", "serve", "--lanes", "8", "--data", "/a"];
        assert_eq!(of(&call, "timeout"), "--timeout");
        assert_eq!(
            of(&call, "lanes"),
            "--lanes",
            "also where it is the default's value"
        );
        assert_eq!(of(&call, "data"), "--data");
        assert_eq!(of(&call, "listen"), "built-in default");
        assert_eq!(of(&["--data", "/a", "doctor"], "data"), "--data");
        assert_eq!(
            of(&["doctor", "--key-file", "/k"], "key-file"),
            "--key-file"
        );
    }

    #[test]
    fn a_debounce_is_a_quiet_time_and_a_longest_wait() {
        let ms = Duration::from_millis;
        let both = debounce("500ms,5s").unwrap();
        assert_eq!((both.quiet, both.longest), (ms(500), ms(5000)));
        assert_eq!(debounce("100ms").unwrap().longest, ms(1000));
        for wrong in ["", "5", "0ms", "5s,1s", "1s,", ",1s", "1s,2s,3s"] {
            assert!(debounce(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_body_limit_is_a_sane_number_of_bytes() {
        assert_eq!(bytes("65536"), Ok(65_536));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        for wrong in ["", "0", "33MiB", "-1", "1GB", "99999999999999999999", "KiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
