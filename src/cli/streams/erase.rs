//! `streams erase`: removes the data of streams from every place, with a plan and a receipt.

use std::time::{Duration, Instant};

use clap::Args;
use http::Method;

use crate::api::{EraseSpec, Erased, OpenErasures};
use crate::cli::print::Stake;
use crate::cli::reach::Reach;
use crate::cli::{Exit, Printer, flags};
use crate::domain::name::{Name, StreamName};
use crate::text::{count, counted, printable_line, quoted};

const ERASE: &str = "/v1/admin/streams/erase";
const OPEN: &str = "/v1/admin/streams/erasures";

/// Time for which the command waits until the bytes are overwritten, and the interval of its looks.
const WAIT_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Erase streams: events, states, checkpoints, dead letters, dedupe keys and held back events
///
/// Nothing of a stream is left in the database, its log and its indexes a minute later. Its next event begins a new
/// stream at seq 1. Other streams keep their order, their states and their counts. Copies elsewhere stay: what was
/// delivered, backups, and archives of the database's log.
///
/// The audit log keeps the counts, the reason and a hash of the stream's name. Do not write personal data into the
/// reason.
///
/// Examples:
///   hooklane streams erase orders/c07 --reason 'request 4711'
///   hooklane streams erase --hook orders --matching 'eu-*' --reason 'ended'
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Erase {
    /// The stream, HOOK or HOOK/KEY
    #[arg(required_unless_present = "hook", conflicts_with = "hook")]
    #[arg(value_parser = flags::stream)]
    stream: Option<StreamName>,
    /// Streams of a hook, with --matching
    #[arg(long, value_name = "NAME", requires = "matching")]
    hook: Option<Name>,
    /// Pattern of their ordering keys: * matches any text, ? any character
    #[arg(long, value_name = "PATTERN", requires = "hook")]
    matching: Option<String>,
    /// Reason, for the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

impl Erase {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let here = reach.here().await?;
        let stream = match self.stream {
            Some(stream) => Some(reach.meant(stream).await?),
            None => None,
        };
        let mut spec = EraseSpec {
            stream,
            hook: self.hook,
            matching: self.matching,
            reason: Some(self.reason),
            expect: None,
            dry_run: true,
        };
        let plan: Erased = reach.call(Method::POST, ERASE, Some(&spec)).await?;
        let (subject, stake) = subject(&spec, &plan);
        let what = sizes(&plan);
        if !self.dry_run {
            out.is_answered(&what, &stake)?;
        }
        out.say(format_args!("erase {subject}   {}", reach.planned(&here)))?;
        out.facts(&planned(&plan))?;
        if self.dry_run {
            out.object(&plan)?;
            return Ok(Exit::Done);
        }
        if !out.confirm("Erase?", &what, &stake)? {
            return Ok(Exit::Failed);
        }
        spec.dry_run = false;
        spec.expect = Some(plan.streams);
        let mut erased: Erased = reach
            .call_planned(&here, Method::POST, ERASE, Some(&spec))
            .await?;
        if erased.bytes == "pending" && are_overwritten(reach).await? {
            erased.bytes = match erased.to_run.is_empty() {
                true => "overwritten".to_owned(),
                false => "removed".to_owned(),
            };
        }
        out.say(format_args!("erased  {}", sizes(&erased)))?;
        out.facts(&receipt(&erased))?;
        out.object(&erased)?;
        Ok(match erased.bytes.as_str() {
            "pending" => Exit::Unfinished,
            _ => Exit::Done,
        })
    }
}

/// The object of the plan, and what must be typed to go on.
fn subject(spec: &EraseSpec, plan: &Erased) -> (String, Stake) {
    match &spec.stream {
        Some(stream) => (quoted(stream), Stake::Severe(stream.to_string())),
        None => {
            let pattern = spec.matching.as_deref().unwrap_or_default();
            let streams = counted(plan.streams, "stream", "streams");
            (
                format!("{streams} of {}: {}", plan.hook, printable_line(pattern)),
                Stake::Severe(plan.streams.to_string()),
            )
        }
    }
}

/// Sizes in words, without those that are zero.
fn sizes(erased: &Erased) -> String {
    let mut sizes = vec![
        counted(erased.streams, "stream", "streams"),
        counted(erased.events, "event", "events"),
    ];
    let others = [
        (erased.held_back, "held back event", "held back events"),
        (erased.states, "state", "states"),
        (erased.checkpoints, "checkpoint", "checkpoints"),
        (erased.dead_letters, "dead letter", "dead letters"),
        (erased.dedupe_keys, "dedupe key", "dedupe keys"),
        (erased.replays, "replay", "replays"),
    ];
    let others = others.into_iter().filter(|(number, ..)| *number > 0);
    sizes.extend(others.map(|(number, one, many)| counted(number, one, many)));
    sizes.join(", ")
}

fn planned(plan: &Erased) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("  goes", sizes(plan)),
        (
            "  stays",
            "the hook and its other streams; what was delivered; backups and archived logs"
                .to_owned(),
        ),
        (
            "  then",
            "its next event begins a new stream at seq 1".to_owned(),
        ),
    ];
    facts.extend(to_run(plan));
    facts
}

fn receipt(erased: &Erased) -> Vec<(&'static str, String)> {
    let bytes = match erased.bytes.as_str() {
        "overwritten" => "overwritten in the files of the database",
        "removed" => "the rows are removed; their pages keep them until they are used again",
        _ => "still being overwritten: the nodes go on by themselves",
    };
    let mut facts: Vec<_> = erased
        .names
        .iter()
        .map(|name| ("  audit", name.clone()))
        .collect();
    let more = erased.streams.saturating_sub(erased.names.len() as u64);
    facts.extend((more > 0).then(|| ("  audit", format!("... {} more", count(more)))));
    facts.extend([
        ("  at", erased.at.to_string()),
        ("  by", printable_line(&erased.by).to_string()),
        (
            "  reason",
            printable_line(erased.reason.as_deref().unwrap_or("-")).to_string(),
        ),
        ("  bytes", bytes.to_owned()),
    ]);
    facts.extend(to_run(erased));
    facts
}

/// Statements that an operator has to run.
fn to_run(erased: &Erased) -> Option<(&'static str, String)> {
    let run = erased.to_run.join("; ");
    (!run.is_empty()).then(|| {
        (
            "  run",
            format!("{run}; on Postgres, when senders can wait"),
        )
    })
}

/// Waits until no data of erased streams is left; `false` if that takes long.
async fn are_overwritten(reach: &Reach) -> anyhow::Result<bool> {
    let began = Instant::now();
    loop {
        let open: OpenErasures = reach.get(OPEN).await?;
        if open.open == 0 || began.elapsed() > WAIT_MAX {
            return Ok(open.open == 0);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
