//! `events export` and `state export`: JSON Lines, page by page, to stdout or to a file that a later export
//! continues.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::print::{Output, Progress};
use super::reach::{Reach, with_query};
use super::{Exit, Printer, Trouble};
use crate::api::LogPage;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::{Timestamp, millis, parse_duration};
use crate::text::{counted, quoted};

/// Number of events in a page.
const PAGE: &str = "500";

/// Write stored events as JSON Lines, each stream in order
///
/// Each line has the fields that deliveries have, its stream, and a cursor. The export ends with the events that
/// were stored when it began; --resume or --after goes on later from there, without a gap or a repeat. Events that
/// retention removed are not in it. It works without a daemon too.
///
/// Examples:
///   hooklane events export --hook orders > orders.jsonl
///   hooklane events export --out all.jsonl
///   hooklane events export --resume all.jsonl
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct ExportEvents {
    #[command(flatten)]
    export: Export,
}

/// Write the states of all streams as JSON Lines
///
/// Each line has a stream, its state, the position and the era of that state, and a cursor. Each state is as it
/// was when its line was read; states of different streams may be of different moments. It works without a daemon
/// too.
///
/// Examples:
///   hooklane state export --hook orders | jq -c '[.stream, .state.total]'
///   hooklane state export --out states.jsonl
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct ExportStates {
    #[command(flatten)]
    export: Export,
}

#[derive(Args)]
struct Export {
    /// Only those of one hook
    #[arg(long, value_name = "NAME")]
    hook: Option<Name>,
    /// Only events received, or states changed, since this time: 1h, or 2026-11-23T02:59:14Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// Write to a new file instead of stdout
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Add to this file, behind its last whole line; a file that does not exist is made
    #[arg(long, value_name = "FILE", conflicts_with = "after")]
    resume: Option<PathBuf>,
    /// Begin behind this cursor, where an earlier export ended
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

/// Reads a point in time, or how long ago it is.
fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = parse_duration(text) {
        let at = Timestamp::now().as_millis().saturating_sub(millis(ago));
        return Ok(Timestamp::from_millis(at.max(0)));
    }
    let wrong = |_| {
        format!("{text:?} is neither a duration such as 1h nor a time such as 2026-11-23T02:59:14Z")
    };
    text.parse().map_err(wrong)
}

impl ExportEvents {
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        self.export.run(&EVENTS, reach, out).await
    }
}

impl ExportStates {
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        self.export.run(&STATES, reach, out).await
    }
}

/// The things that an export writes.
struct Kind {
    path: &'static str,
    command: &'static str,
    one: &'static str,
    many: &'static str,
    /// Query of each page, besides that of the user.
    limit: Option<&'static str>,
    /// True if an export ends at the end of the log that its first page tells.
    is_bounded: bool,
}

const EVENTS: Kind = Kind {
    path: "/v1/admin/events/export",
    command: "hooklane events export",
    one: "event",
    many: "events",
    limit: Some(PAGE),
    is_bounded: true,
};

const STATES: Kind = Kind {
    path: "/v1/admin/states/export",
    command: "hooklane state export",
    one: "state",
    many: "states",
    limit: None,
    is_bounded: false,
};

/// The receiver of the lines.
enum Target {
    Stdout,
    File(File, PathBuf),
}

impl Target {
    /// Writes whole lines.
    fn write(&mut self, lines: &[u8], out: &mut Printer) -> anyhow::Result<()> {
        match self {
            _ if lines.is_empty() => Ok(()),
            Self::Stdout => Ok(out.bytes(lines)?),
            Self::File(file, path) => Ok(file.write_all(lines).map_err(|e| failed(path, &e))?),
        }
    }

    fn finish(&self) -> anyhow::Result<()> {
        match self {
            Self::Stdout => Ok(()),
            Self::File(file, path) => Ok(file.sync_all().map_err(|e| failed(path, &e))?),
        }
    }

    /// The command that goes on where the export ended.
    fn next(&self, kind: &Kind, hook: Option<&Name>, cursor: &str) -> String {
        let command = kind.command;
        let hook = hook.map_or_else(String::new, |hook| format!(" --hook {hook}"));
        match self {
            Self::Stdout => format!("{command}{hook} --after {cursor}"),
            Self::File(_, path) => {
                format!("{command}{hook} --resume {}", quoted(path.display()))
            }
        }
    }
}

impl Export {
    async fn run(self, kind: &Kind, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let (mut target, mut after) = self.begin()?;
        let (mut until, mut complete_at) = (None, None);
        let (mut written, mut all) = (0, None);
        let mut bar = Progress::new("export", "Ctrl-C ends it behind a whole line");
        loop {
            let page = self
                .page(kind, after.as_deref(), until.as_deref(), reach)
                .await?;
            target.write(&lines(&page.items), out)?;
            written += page.items.len() as u64;
            let all = *all.get_or_insert(page.left + written);
            let done = all.saturating_sub(page.left);
            // Progress as JSON would be among the lines.
            if out.output() != Output::Jsonl {
                out.progress(&mut bar, done, all, None)?;
            }
            let next = target.next(kind, self.hook.as_ref(), &page.next);
            let stopped = format!("{} written", counted(written, kind.one, kind.many));
            out.on_ctrl_c(vec![("stopped", stopped), ("go on", next.clone())]);
            let at = *complete_at.get_or_insert(page.at);
            if page.next == page.end {
                target.finish()?;
                out.progress_ends(&bar)?;
                out.say(format_args!(
                    "{}, complete up to {at}. Later ones: {next}",
                    counted(written, kind.one, kind.many)
                ))?;
                return Ok(Exit::Done);
            }
            if kind.is_bounded {
                until.get_or_insert(page.end);
            }
            after = Some(page.next);
        }
    }

    async fn page(
        &self,
        kind: &Kind,
        after: Option<&str>,
        until: Option<&str>,
        reach: &Reach,
    ) -> anyhow::Result<LogPage<Box<RawValue>>> {
        let query = [
            ("hook", self.hook.as_ref().map(Name::to_string)),
            ("since", self.since.map(|at| at.to_string())),
            ("after", after.map(str::to_owned)),
            ("until", until.map(str::to_owned)),
            ("limit", kind.limit.map(str::to_owned)),
        ];
        Ok(reach.get(&with_query(kind.path, &query)).await?)
    }

    /// Opens the target, and finds the cursor behind which it goes on.
    fn begin(&self) -> anyhow::Result<(Target, Option<String>)> {
        if let Some(path) = &self.resume {
            let (file, last) = continued(path)?;
            let cursor = match last {
                Some(last) => Some(self.cursor(&last, path)?),
                None => None,
            };
            return Ok((Target::File(file, path.clone()), cursor));
        }
        let target = match &self.out {
            Some(path) => Target::File(created(path)?, path.clone()),
            None => Target::Stdout,
        };
        Ok((target, self.after.clone()))
    }

    /// The cursor in the last line of an earlier export.
    fn cursor(&self, last: &[u8], path: &Path) -> Result<String, Trouble> {
        let file = quoted(path.display());
        let line: Line = serde_json::from_slice(last).map_err(|_| {
            let message = format!("the last line of {file} is not of an export");
            Trouble::usage(message).fact("new file", "--out FILE")
        })?;
        match &self.hook {
            Some(hook) if line.stream.hook != *hook => {
                let other = &line.stream.hook;
                let message = format!("{file} has events of hook {other}");
                Err(Trouble::usage(message)
                    .fact("try", format!("--hook {other}, or without --hook")))
            }
            _ => Ok(line.cursor),
        }
    }
}

/// The fields of a line that a later export needs.
#[derive(Deserialize)]
struct Line {
    cursor: String,
    stream: StreamName,
}

fn lines(items: &[Box<RawValue>]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(items.iter().map(|item| item.get().len() + 1).sum());
    for item in items {
        lines.extend_from_slice(item.get().as_bytes());
        lines.push(b'\n');
    }
    lines
}

fn failed(path: &Path, error: &io::Error) -> Trouble {
    let message = format!("{}: {error}", quoted(path.display()));
    Trouble::new(Exit::Failed, "file", message)
}

fn created(path: &Path) -> Result<File, Trouble> {
    let created = OpenOptions::new().write(true).create_new(true).open(path);
    created.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let file = quoted(path.display());
            let message = format!("{file} exists already");
            Trouble::new(Exit::Conflict, "exists", message)
                .fact("add to it", format!("--resume {file}"))
        }
        _ => failed(path, &error),
    })
}

/// Opens a file at the end of its last whole line, and returns that line. What follows the line is removed:
/// an export that was killed may have left it.
fn continued(path: &Path) -> Result<(File, Option<Vec<u8>>), Trouble> {
    let mut open = OpenOptions::new();
    open.read(true).write(true).create(true).truncate(false);
    let file = open.open(path);
    let continued = file.and_then(|mut file| {
        let last = last_line(&mut file)?;
        Ok((file, last))
    });
    continued.map_err(|error| failed(path, &error))
}

/// Bytes that are read at once, backwards.
const CHUNK: u64 = 64 * 1024;

/// Cuts a file behind its last whole line and returns the line.
fn last_line(file: &mut File) -> io::Result<Option<Vec<u8>>> {
    let length = file.metadata()?.len();
    let Some(end) = newline_before(file, length)? else {
        file.set_len(0)?;
        file.rewind()?;
        return Ok(None);
    };
    let start = newline_before(file, end)?.map_or(0, |at| at + 1);
    file.set_len(end + 1)?;
    file.seek(SeekFrom::Start(start))?;
    let mut line = Vec::new();
    BufReader::new(&mut *file).read_until(b'\n', &mut line)?;
    file.seek(SeekFrom::End(0))?;
    Ok(Some(line))
}

/// Place of the last newline before `end`.
fn newline_before(file: &mut File, end: u64) -> io::Result<Option<u64>> {
    let mut end = end;
    while end > 0 {
        let start = end.saturating_sub(CHUNK);
        let mut chunk = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        (&mut *file).take(end - start).read_to_end(&mut chunk)?;
        if let Some(at) = chunk.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(start + at as u64));
        }
        end = start;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_of(text: &[u8]) -> (Option<Vec<u8>>, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        std::fs::write(&path, text).unwrap();
        let (mut file, last) = continued(&path).unwrap();
        file.write_all(b"+").unwrap();
        (last, std::fs::read(&path).unwrap())
    }

    #[test]
    fn a_file_goes_on_behind_its_last_whole_line() {
        let line = |text: &[u8]| Some(text.to_vec());
        assert_eq!(last_of(b"a\nb\n"), (line(b"b\n"), b"a\nb\n+".to_vec()));
        assert_eq!(last_of(b"a\nb\n{\"c"), (line(b"b\n"), b"a\nb\n+".to_vec()));
        assert_eq!(last_of(b"a\nb"), (line(b"a\n"), b"a\n+".to_vec()));
        assert_eq!(last_of(b"{\"a"), (None, b"+".to_vec()));
        assert_eq!(last_of(b""), (None, b"+".to_vec()));
        let long = [vec![b'x'; 3 * CHUNK as usize], b"\n".to_vec()].concat();
        let file = [b"a\n".to_vec(), long.clone(), vec![b'y'; CHUNK as usize]].concat();
        assert_eq!(last_of(&file).0, Some(long));
    }
}
