//! `lanes`: lists, resizes and stops lanes.

mod hints;
mod operate;
mod show;

use std::cmp::Reverse;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::time::MissedTickBehavior;

use super::print::{Columns, Row};
use super::reach::{Reach, with_query};
use super::{Exit, Printer, Trouble};
use crate::api::{Lane, List, WorstCursor};
use crate::domain::name::Name;
use crate::text;

/// See how the lanes are doing, and operate them live
#[derive(Subcommand)]
pub enum Lanes {
    List(All),
    Resize(operate::ResizeLanes),
    Drain(operate::Drain),
    Pause(operate::Pause),
    Resume(operate::Resume),
    Rebuild(hints::Rebuild),
    Of(hints::Of),
    Show(show::Show),
}

impl Lanes {
    /// Checks a call before a daemon is asked.
    ///
    /// # Errors
    /// [`Trouble`] that says what is wrong.
    pub fn check(&self) -> Result<(), Trouble> {
        match self {
            Self::Resize(resize) => resize.count().map(drop),
            _ => Ok(()),
        }
    }

    /// Runs the verb, and waits for its end, for `limit` at most.
    pub async fn run(
        self,
        reach: &Reach,
        limit: Option<Duration>,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        match self {
            Self::List(list) => list.run(reach, out).await,
            Self::Resize(resize) => resize.run(reach, limit, out).await,
            Self::Drain(drain) => drain.run(reach, limit, out).await,
            Self::Pause(pause) => pause.run(reach, out).await,
            Self::Resume(resume) => resume.run(reach, out).await,
            Self::Rebuild(rebuild) => rebuild.run(reach, out).await,
            Self::Of(of) => of.run(reach, out).await,
            Self::Show(show) => show.run(reach, out).await,
        }
    }
}

impl Row for Lane {
    const HEADER: &'static [&'static str] = &[
        "LANE",
        "STATE",
        "HELD ",
        "OLDEST ",
        "FLOW ",
        "BACKLOG ",
        "IN/S ",
        "OUT/S ",
        "WAIT P99 ",
        "ETA",
        "NODE",
    ];
    const DROPS: &'static [&'static str] = &["OUT/S", "WAIT P99", "IN/S", "NODE"];

    fn cells(&self) -> Vec<String> {
        let age = |ms: Option<u64>| or_dash(ms.map(|ms| text::duration(Duration::from_millis(ms))));
        let rate = |per_s: Option<f64>| or_dash(per_s.map(|per_s| format!("{per_s:.0}")));
        let wait = self.wait_ms.map(|wait| {
            let wait = Duration::try_from_secs_f64(wait.p99 / 1000.0);
            text::duration(wait.unwrap_or_default())
        });
        vec![
            self.id.index.to_string(),
            self.state.word().to_owned(),
            self.set_aside.to_string(),
            age(self.oldest_ms),
            age(self.flow_ms),
            text::count(self.backlog),
            rate(self.in_per_s),
            rate(self.out_per_s),
            or_dash(wait),
            or_dash(self.eta.map(|eta| eta.word().to_owned())),
            or_dash(self.node.clone()),
        ]
    }

    fn whole(&self) -> Vec<String> {
        let mut cells = self.cells();
        cells[0] = self.id.to_string();
        cells
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// List the lanes of a namespace, a row each
///
/// OLDEST is the age of the oldest event that waits at all, FLOW the same without cursors that are
/// set aside, HELD how many those are.
///
/// Examples:
///   hooklane lanes list
///   hooklane lanes list --namespace acme -o json
///   hooklane lanes list --sort oldest --watch
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct All {
    /// Namespace of the lanes
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: Name,
    /// Only those in one state
    #[arg(long, value_parser = STATES)]
    state: Option<String>,
    /// By lane, or the one first in which an event waits longest, or most events
    #[arg(long, default_value = "lane", value_parser = ["lane", "oldest", "backlog"])]
    sort: String,
    /// Show them again every second; Ctrl-C ends
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    columns: Columns,
}

/// Names of the modes of a lane.
const STATES: [&str; 5] = ["active", "draining", "drained", "paused", "no owner"];

/// Refresh interval of a watched list.
const EVERY: Duration = Duration::from_secs(1);

impl All {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let namespace = Some(self.namespace.to_string());
        let path = with_query("/v1/admin/lanes", &[("namespace", namespace)]);
        let mut due = tokio::time::interval(EVERY);
        // After a slow answer the daemon is not asked several times in a row.
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            let mut lanes: List<Lane> = reach.get(&path).await?;
            self.choose(&mut lanes.items);
            if self.watch {
                out.clear()?;
            }
            self.show(&lanes, out)?;
            if !self.watch {
                return Ok(Exit::Done);
            }
        }
    }

    fn choose(&self, lanes: &mut Vec<Lane>) {
        if let Some(state) = &self.state {
            lanes.retain(|lane| lane.state.word() == state);
        }
        match self.sort.as_str() {
            "oldest" => lanes.sort_by_key(|lane| Reverse(lane.oldest_ms)),
            "backlog" => lanes.sort_by_key(|lane| Reverse(lane.backlog)),
            _ => {}
        }
    }

    fn show(&self, lanes: &List<Lane>, out: &mut Printer) -> std::io::Result<()> {
        out.list(lanes, self.columns)?;
        let worst = |lane: &&Lane| lane.worst.is_some() && lane.set_aside > 0;
        let oldest = lanes
            .items
            .iter()
            .filter(worst)
            .max_by_key(|lane| lane.oldest_ms);
        if let Some((lane, worst)) = oldest.and_then(|lane| Some((lane, lane.worst.as_ref()?))) {
            out.foot(format_args!("\n{}", look(lane, worst)))?;
        }
        Ok(())
    }
}

fn look(lane: &Lane, worst: &WorstCursor) -> String {
    let cursors = text::counted(lane.set_aside, "cursor", "cursors");
    let age = lane
        .oldest_ms
        .map(|ms| text::duration(Duration::from_millis(ms)));
    let (index, stream, handler) = (lane.id.index, &worst.stream, &worst.handler);
    let tries = match worst.tries {
        0 | 1 => String::new(),
        tries => format!(" x{tries}"),
    };
    format!(
        "lane {index}: {cursors} set aside, {stream} -> {handler} ({}{tries}, {}). \
         Look: hooklane why {}",
        worst.result,
        or_dash(age),
        text::quoted(stream)
    )
}
