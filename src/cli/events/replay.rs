//! `events replay`, `events replays`: deliver stored events again, and show progress.

use clap::Args;
use http::Method;

use crate::api::{List, Replay as Shown, ReplaySpec};
use crate::cli::print::{Columns, Row, Stake};
use crate::cli::reach::Reach;
use crate::cli::{Exit, Printer, Trouble, flags};
use crate::domain::name::{Name, StreamName};
use crate::domain::position::Seq;
use crate::text::{counted, quoted};

const REPLAYS: &str = "/v1/admin/replays";

/// Number of events above which the user must type it to confirm.
const SEVERE: u64 = 1_000;

/// Deliver stored events once more, to one forward or pull handler
///
/// The events come in order, each after the one before is acknowledged, and beside those that are due. They are marked: a
/// request has the header hooklane-replay, a pulled delivery the field replay. Only events that the handler has passed
/// can be replayed. A dead letter that was delivered says so.
///
/// Examples:
///   hooklane events replay orders/acme --from 17 --to 20 --handler crm
///   hooklane events replay --dead evt_01m834emheemq8k9w37k2m9qx4
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Replay {
    /// The stream, HOOK or HOOK/KEY
    #[arg(value_parser = flags::stream, required_unless_present = "dead", conflicts_with = "dead")]
    stream: Option<StreamName>,
    /// The first event [default: the first that is kept]
    #[arg(long, value_name = "SEQ", conflicts_with = "dead")]
    from: Option<i64>,
    /// The last event [default: the last that the handler has passed]
    #[arg(long, value_name = "SEQ", conflicts_with = "dead")]
    to: Option<i64>,
    /// One dead letter, instead of a part of a stream
    #[arg(long, value_name = "ID")]
    dead: Option<String>,
    /// The handler [default: the only one that delivers]
    #[arg(long, value_name = "NAME")]
    handler: Option<Name>,
    /// Show what would be delivered, deliver nothing
    #[arg(long)]
    dry_run: bool,
}

impl Replay {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let spec = ReplaySpec {
            stream: match self.stream {
                Some(typed) => Some(reach.meant(typed).await?),
                None => None,
            },
            from: self.from.map(Seq),
            to: self.to.map(Seq),
            dead: match &self.dead {
                Some(id) => Some(super::resolve(reach, id).await?),
                None => None,
            },
            handler: self.handler,
            dry_run: true,
        };
        let here = reach.here().await?;
        let plan: Shown = reach.call(Method::POST, REPLAYS, Some(&spec)).await?;
        let events = counted(plan.events, "event", "events");
        let stake = Stake::Severe(plan.events.to_string());
        let asks = plan.events > SEVERE && !self.dry_run;
        let what = format!("delivers {events} once more");
        if asks {
            out.is_answered(&what, &stake)?;
        }
        out.say(format_args!(
            "replay {events} of {} (seq {} to {}) to {}   {}",
            plan.stream,
            plan.next,
            plan.to,
            plan.handler,
            reach.planned(&here)
        ))?;
        if self.dry_run {
            out.object(&plan)?;
            return Ok(Exit::Done);
        }
        if asks && !out.confirm("Replay?", &what, &stake)? {
            return Ok(Exit::Failed);
        }
        // The replay covers exactly the events of the plan that was shown.
        let spec = ReplaySpec {
            from: spec.dead.is_none().then_some(plan.next),
            to: spec.dead.is_none().then_some(plan.to),
            handler: Some(plan.handler),
            dry_run: false,
            ..spec
        };
        let begun: Shown = reach.call(Method::POST, REPLAYS, Some(&spec)).await?;
        let id = begun.id.unwrap_or_default();
        out.facts(&[
            ("begun", format!("replay {id}; deliveries say so")),
            ("see", "hooklane events replays".to_owned()),
            ("end", format!("hooklane events replays --cancel {id}")),
        ])?;
        out.object(&begun)?;
        Ok(Exit::Done)
    }
}

/// List replays under way, or end one
///
/// Examples:
///   hooklane events replays
///   hooklane events replays --cancel 17
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Replays {
    /// End this one; what is delivered stays delivered
    #[arg(long, value_name = "NUMBER")]
    cancel: Option<i64>,
    #[command(flatten)]
    columns: Columns,
}

impl Replays {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let Some(id) = self.cancel else {
            let replays: List<Shown> = reach.get(REPLAYS).await?;
            out.list(&replays, self.columns)?;
            return Ok(Exit::Done);
        };
        if id <= 0 {
            return Err(Trouble::usage("a replay has a number above zero").into());
        }
        let path = format!("{REPLAYS}/{id}");
        let gone: Shown = reach.call(Method::DELETE, &path, None::<&()>).await?;
        let left = counted(gone.events, "event is", "events are");
        out.say(format_args!(
            "ended replay {id}; {left} not delivered again"
        ))?;
        out.object(&gone)?;
        Ok(Exit::Done)
    }
}

impl Row for Shown {
    const HEADER: &'static [&'static str] = &[
        "REPLAY ",
        "STREAM",
        "HANDLER",
        "NEXT ",
        "TO ",
        "LEFT ",
        "CONDITION",
        "REASON",
    ];
    const DROPS: &'static [&'static str] = &["TO", "NEXT"];

    fn cells(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        vec![
            self.id.map_or_else(dash, |id| id.to_string()),
            quoted(&self.stream),
            self.handler.to_string(),
            self.next.to_string(),
            self.to.to_string(),
            self.events.to_string(),
            self.condition.clone(),
            self.reason.clone().unwrap_or_else(dash),
        ]
    }

    fn name(&self) -> String {
        self.id.map_or_else(String::new, |id| id.to_string())
    }
}
