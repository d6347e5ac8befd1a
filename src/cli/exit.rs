//! Exit codes, and errors as they are shown to people.

use std::fmt;

use clap::error::{ContextKind, ContextValue};
use std::process::ExitCode;

use http::StatusCode;

use super::lock;
use crate::client::{self, Target};
use crate::config;
use crate::domain::key::{KEY_LEN, Malformed};
use crate::text::{closest, quoted};

/// The exit code; it tells the caller what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// Failed for a reason not listed below.
    Failed = 1,
    /// Wrong usage, or a question that may not be asked: fix the call.
    Usage = 2,
    /// Answered, but not well, or not finished in time: wait.
    Unfinished = 3,
    /// A key is missing, malformed, refused or has too few rights.
    Key = 4,
    /// No such hook, stream, lane, event, key or namespace.
    Missing = 5,
    /// The daemon or the database cannot be reached: try later.
    Unreachable = 6,
    /// The present state is not the expected one: read again, then decide.
    Conflict = 7,
    /// Ctrl-C, after printing what is done and what is not.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error as it is shown: one line, aligned facts, the next command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Exit code of the program.
    pub exit: Exit,
    /// Stable identifier for programs.
    pub code: String,
    /// Description of what happened, with the value concerned.
    pub message: String,
    /// Further facts in order, as label and text.
    pub facts: Vec<(&'static str, String)>,
}

impl Trouble {
    /// An error without facts.
    pub fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: code.to_owned(),
            message: message.into(),
            facts: Vec::new(),
        }
    }

    /// A usage error.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    /// There is no `kind` of this name; a similar one is suggested.
    pub fn missing<'a>(kind: &str, name: &str, there: impl Iterator<Item = &'a str>) -> Self {
        let meant = closest(name, there).map(|meant| format!(". Did you mean {meant}?"));
        let message = format!("no {kind} {name:?}{}", meant.unwrap_or_default());
        Self::new(Exit::Missing, "not_found", message).fact("all", format!("hooklane {kind}s list"))
    }

    /// Adds a fact.
    #[must_use]
    pub fn fact(mut self, label: &'static str, text: impl Into<String>) -> Self {
        self.facts.push((label, text.into()));
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Trouble {}

impl From<client::Error> for Trouble {
    fn from(error: client::Error) -> Self {
        use client::Error;
        let message = error.to_string();
        match error {
            Error::Url(..) => Self::new(Exit::Usage, "url", message),
            Error::Unreachable { target, .. } => {
                let trouble = Self::new(Exit::Unreachable, "no_daemon", message);
                match target {
                    Target::Socket(_) => trouble,
                    Target::Tcp { .. } => {
                        let healthz = quoted(format!("{target}/healthz"));
                        trouble.fact("check", format!("curl {healthz}"))
                    }
                }
            }
            Error::Forbidden { .. } => Self::new(Exit::Key, "socket_forbidden", message)
                .fact("needs", "the user whose directory it is, or root")
                .fact(
                    "or",
                    "--url http[s]://HOST:8420 with a key, in HOOKLANE_KEY or --key-file",
                ),
            Error::TimedOut { .. } => {
                Self::new(Exit::Unreachable, "timed_out", message).fact("longer", "--timeout 30s")
            }
            Error::BrokeOff { .. } => Self::new(Exit::Unreachable, "broke_off", message),
            Error::Garbled { .. } => Self::new(Exit::Failed, "unexpected_answer", message),
            Error::Refused { status, error } => Self {
                exit: of_status(status, &error.code),
                message,
                facts: {
                    let hint = error.hint.map(|hint| match hint.strip_prefix("needs ") {
                        Some(needs) => ("needs", needs.to_owned()),
                        None => ("hint", hint),
                    });
                    let next = match error.code.as_str() {
                        "not_found" => "all",
                        _ => "next",
                    };
                    let commands = error.next.into_iter();
                    hint.into_iter()
                        .chain(commands.map(|command| (next, command)))
                        .collect()
                },
                code: error.code,
            },
        }
    }
}

impl From<config::Error> for Trouble {
    fn from(error: config::Error) -> Self {
        let code = match error {
            config::Error::Lanes(_) => "lane_count",
            _ => "usage",
        };
        Self::new(Exit::Usage, code, error.to_string())
    }
}

impl From<lock::Error> for Trouble {
    fn from(error: lock::Error) -> Self {
        let message = error.to_string();
        match error {
            lock::Error::InUse { pid, .. } => Self::new(Exit::Conflict, "in_use", message)
                .fact("look", format!("ps -p {pid}"))
                .fact("or", "--data DIR for another one"),
            lock::Error::Emptied(ref dir, _) => Self::new(Exit::Conflict, "emptied", message)
                .fact(
                    "restore",
                    format!("hooklane restore FILE --data {}", quoted(dir)),
                )
                .fact("server", "--database URL, if its events are kept there")
                .fact(
                    "anew",
                    format!(
                        "rm -r {}, or --data DIR for another one",
                        quoted(format!("{dir}/log"))
                    ),
                ),
            lock::Error::Shared(_) | lock::Error::Network(_) | lock::Error::Open(..) => {
                Self::new(Exit::Usage, "data_directory", message)
            }
            lock::Error::System(..) => Self::new(Exit::Failed, "data_directory", message),
        }
    }
}

impl Trouble {
    /// A malformed key from `from`, which was not sent.
    pub fn key(error: Malformed, from: &str) -> Self {
        let length = match error {
            Malformed::Damaged(characters) => format!(", {characters} of {KEY_LEN} characters"),
            Malformed::NoKey => String::new(),
        };
        Self::new(Exit::Key, "malformed_key", error.to_string())
            .fact("from", format!("{from}{length}. Nothing was sent."))
    }
}

/// A clap error: its first line and its tips.
pub fn misread(error: &clap::Error) -> Trouble {
    if let Some(arg) = without_value(error) {
        return no_value(&arg);
    }
    let text = error.render().to_string();
    let mut parts = text.split("\n\n");
    let first = parts.next().unwrap_or_default().trim();
    let message: Vec<_> = first.lines().map(str::trim).collect();
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let tips = parts.filter_map(|part| part.trim().strip_prefix("tip: "));
    let tips: Vec<_> = tips.collect();
    let trouble = Trouble::usage(message);
    match tips.is_empty() {
        true => trouble,
        false => trouble.fact("hint", tips.join("; ")),
    }
}

/// The argument whose value is empty or missing, if this is the mistake in a call.
pub fn without_value(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let arg = text(ContextKind::InvalidArg)?;
    text(ContextKind::InvalidValue)
        .is_some_and(str::is_empty)
        .then(|| arg.to_owned())
}

/// Message about an argument, such as `--reduce <NAME>`, with an empty value. Mostly a shell variable
/// is not set; if the flag were ignored, the command would do something else.
pub fn no_value(arg: &str) -> Trouble {
    let next = match arg.starts_with('-') {
        true => "a value, or leave the flag out",
        false => "a value",
    };
    Trouble::usage(format!("{arg} is empty")).fact("give", next)
}

fn of_status(status: StatusCode, code: &str) -> Exit {
    match status {
        StatusCode::UNPROCESSABLE_ENTITY if code == "invalid" => Exit::Usage,
        StatusCode::BAD_REQUEST
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE => Exit::Usage,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Key,
        StatusCode::NOT_FOUND => Exit::Missing,
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Exit::Conflict,
        StatusCode::GATEWAY_TIMEOUT => Exit::Unfinished,
        StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::BAD_GATEWAY
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::INSUFFICIENT_STORAGE => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

/// The error to show; `None` for a closed pipe, which is no error.
pub fn trouble(error: anyhow::Error) -> Option<Trouble> {
    let error = match error.downcast::<Trouble>() {
        Ok(trouble) => return Some(trouble),
        Err(error) => error,
    };
    let error = match error.downcast::<client::Error>() {
        Ok(error) => return Some(error.into()),
        Err(error) => error,
    };
    let error = match error.downcast::<lock::Error>() {
        Ok(error) => return Some(error.into()),
        Err(error) => error,
    };
    let io = error.downcast_ref::<std::io::Error>();
    if io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe) {
        return None;
    }
    Some(Trouble::new(Exit::Failed, "failed", format!("{error:#}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_code_and_its_advice() {
        let body =
            br#"{"error":{"code":"exists","message":"there is a hook a","hint":"pick another",
            "next":["hooklane hooks show a"]}}"#;
        let refused = client::refused(StatusCode::CONFLICT, body);
        let trouble = trouble(refused.into()).unwrap();
        assert_eq!(
            (trouble.exit, trouble.code.as_str()),
            (Exit::Conflict, "exists")
        );
        let facts: Vec<_> = trouble.facts.iter().map(|(label, _)| *label).collect();
        assert_eq!(facts, ["hint", "next"]);
    }

    #[test]
    fn a_closed_pipe_is_no_trouble() {
        let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(trouble(closed.into()), None);
        assert!(trouble(std::io::Error::other("x").into()).is_some());
    }
}
