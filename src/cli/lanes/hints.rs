//! `lanes rebuild` rebuilds hints, and `lanes of` shows the lane of a stream.

use std::time::Duration;

use clap::{Args, value_parser};
use http::Method;

use crate::api::{Hints, HintsSpec, StreamLane};
use crate::cli::reach::{Reach, with_query};
use crate::cli::{Exit, Printer, flags};
use crate::domain::lane::LANES_MAX;
use crate::domain::name::{Name, StreamName};
use crate::text::{count, counted, duration, printable_line};

/// Make all hints again from the database, while everything runs
///
/// This is always safe: it touches no cursor and stops no lane. Every node does it for its own lanes. A node that
/// does not answer is named, and does it later.
///
/// Examples:
///   hooklane lanes rebuild --dry-run
///   hooklane lanes rebuild --namespace acme --reason 'after the outage of Redis'
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Rebuild {
    /// Namespace [default: all]
    #[arg(long, value_name = "NAME")]
    namespace: Option<Name>,
    /// Only say which hints are missing
    #[arg(long)]
    dry_run: bool,
    /// Reason, for the other operators
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Rebuild {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let spec = HintsSpec {
            namespace: self.namespace,
            dry_run: self.dry_run,
            reason: self.reason,
        };
        let path = "/v1/admin/lanes/rebuild";
        let found: Hints = reach.call(Method::POST, path, Some(&spec)).await?;
        tell(&found, out)?;
        out.object(&found)?;
        Ok(match found.silent.is_empty() {
            true => Exit::Done,
            false => Exit::Unfinished,
        })
    }
}

fn tell(found: &Hints, out: &mut Printer) -> std::io::Result<()> {
    let names: Vec<_> = found.namespaces.iter().map(Name::as_str).collect();
    let nodes: Vec<_> = found.nodes.iter().map(|part| part.node.as_str()).collect();
    let took = duration(Duration::from_millis(found.took_ms));
    let verb = match found.dry_run {
        true => "looked at",
        false => "rebuilt",
    };
    out.say(format_args!(
        "hints of {} {verb} in {took}: {} of {} on {}",
        names.join(", "),
        found.lanes_done,
        counted(found.lanes, "lane", "lanes"),
        printable_line(&nodes.join(", "))
    ))?;
    if !found.silent.is_empty() {
        let silent = found.silent.join(", ");
        let silent = printable_line(&silent);
        out.say(format_args!(
            "hints  NOT MOVING: no answer yet from {silent}, whose lanes are not counted yet"
        ))?;
    }
    let cursors = |number| counted(number, "cursor", "cursors");
    out.facts(&[
        ("  before", format!("{} hinted", cursors(found.hinted))),
        (
            "  behind",
            format!("{}, by the database", cursors(found.behind)),
        ),
        (
            "  forgotten",
            format!("{} flowed without a hint", count(found.forgotten)),
        ),
    ])
}

/// Say where a stream belongs: its slot and its lane, stored or not
///
/// Examples:
///   hooklane lanes of orders/c07
///   hooklane lanes of orders/c07 --lanes 16
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Of {
    /// The stream: HOOK or HOOK/KEY
    #[arg(value_parser = flags::stream)]
    stream: StreamName,
    /// Also where it would be with so many lanes
    #[arg(long, value_name = "COUNT")]
    #[arg(value_parser = value_parser!(u16).range(1..=i64::from(LANES_MAX)))]
    lanes: Option<u16>,
}

impl Of {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let query = [
            ("stream", Some(reach.meant(self.stream).await?.to_string())),
            ("lanes", self.lanes.map(|lanes| lanes.to_string())),
        ];
        let found: StreamLane = reach.get(&with_query("/v1/admin/lanes/of", &query)).await?;
        if out.object(&found)? {
            return Ok(Exit::Done);
        }
        let stored = match found.stored {
            true => "stored",
            false => "no event yet",
        };
        let (stream, slot, lane, lanes) = (&found.stream, found.slot, &found.lane, found.lanes);
        out.line(&format!(
            "{stream}  slot {slot}  lane {lane}, of {lanes}  {stored}"
        ))?;
        if let (Some(index), Some(lanes)) = (found.index_if, self.lanes) {
            out.line(&format!("with {lanes} lanes: lane {index}"))?;
        }
        Ok(Exit::Done)
    }
}
