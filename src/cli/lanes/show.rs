//! `lanes show`: one lane with its cursors.

use std::time::Duration;

use clap::Args;

use super::or_dash;
use crate::api::{CursorLine, LaneDetail};
use crate::cli::reach::{Reach, with_query};
use crate::cli::table::{Sheet, lines};
use crate::cli::{Exit, Printer};
use crate::domain::name::Name;
use crate::text;

/// Show one lane and its cursors: those set aside first, then those that wait longest
///
/// Examples:
///   hooklane lanes show 3
///   hooklane lanes show default-1-3 --top 50
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Show {
    /// The lane, by name or place
    #[arg(value_name = "LANE")]
    lane: String,
    /// Namespace of the lanes
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: Name,
    /// Number of cursors at most
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    top: u16,
}

const HEADER: &[&str] = &[
    "STREAM",
    "HANDLER",
    "CONDITION",
    "OLDEST ",
    "BEHIND ",
    "POSITION ",
    "REASON",
];

impl Show {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let query = [
            ("namespace", Some(self.namespace.to_string())),
            ("lane", Some(self.lane)),
            ("top", Some(self.top.to_string())),
        ];
        let path = with_query("/v1/admin/lanes/show", &query);
        let shown: LaneDetail = reach.get(&path).await?;
        out.item(&shown, &shown.lane.id.to_string(), &facts(&shown))?;
        if out.output() == crate::cli::print::Output::Table && !shown.cursors.is_empty() {
            out.line("")?;
            let sheet = Sheet {
                header: HEADER,
                drops: &["POSITION", "HANDLER"],
                rows: shown.cursors.iter().map(cells).collect(),
            };
            for line in lines(&sheet, out.room()) {
                out.line(&line)?;
            }
        }
        out.flush()?;
        if !shown.is_all {
            let node = or_dash(shown.lane.node.clone());
            out.foot(format_args!(
                "the lane runs on node {node}: these are the cursors it tells of"
            ))?;
        }
        Ok(Exit::Done)
    }
}

fn facts(shown: &LaneDetail) -> Vec<(&'static str, String)> {
    let lane = &shown.lane;
    let age = |ms: Option<u64>| or_dash(ms.map(|ms| text::duration(Duration::from_millis(ms))));
    let rate = |per_s: Option<f64>| or_dash(per_s.map(|per_s| format!("{per_s:.0}/s")));
    let by = lane.by.as_ref().map(|by| format!(", by {by}"));
    let reason = lane.reason.as_ref().map(|reason| format!(" {reason:?}"));
    let (by, reason) = (by.unwrap_or_default(), reason.unwrap_or_default());
    vec![
        (
            "lane",
            format!("{}, {}{by}{reason}", lane.id, lane.state.word()),
        ),
        ("node", or_dash(lane.node.clone())),
        (
            "waits",
            format!(
                "{} of {}; oldest {}, flowing {}",
                text::counted(lane.backlog, "event", "events"),
                text::counted(lane.cursors, "cursor", "cursors"),
                age(lane.oldest_ms),
                age(lane.flow_ms)
            ),
        ),
        (
            "set aside",
            format!("{} waiting, {} held", lane.waiting, lane.held),
        ),
        (
            "speed",
            format!("in {}, out {}", rate(lane.in_per_s), rate(lane.out_per_s)),
        ),
    ]
}

fn cells(line: &CursorLine) -> Vec<String> {
    let age = line
        .oldest_ms
        .map(|ms| text::duration(Duration::from_millis(ms)));
    vec![
        text::quoted(line.stream.short()),
        line.handler.to_string(),
        line.condition.word().to_owned(),
        or_dash(age),
        text::count(line.behind),
        line.position.to_string(),
        or_dash(line.result.clone()),
    ]
}
