//! `audit`: changes by operators.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::print::{Columns, Row};
use super::reach::{Reach, with_query};
use super::{Exit, Printer};
use crate::api::{AuditRow, List};
use crate::domain::time::{Timestamp, millis, parse_duration};
use crate::text::{ago, unescaped};

/// See who changed what, when and why
#[derive(Subcommand)]
pub enum Audit {
    List(All),
}

impl Audit {
    /// Runs the verb.
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        match self {
            Self::List(list) => list.run(reach, out).await,
        }
    }
}

impl Row for AuditRow {
    const HEADER: &'static [&'static str] = &[
        "AGE ",
        "ACTOR",
        "FROM",
        "OPERATION",
        "SUBJECT",
        "REASON",
        "DETAILS",
    ];
    const DROPS: &'static [&'static str] = &["DETAILS", "FROM", "REASON"];

    fn cells(&self) -> Vec<String> {
        vec![
            ago(Timestamp::now().since(self.at)),
            self.actor.clone(),
            self.from.clone(),
            self.operation.clone(),
            self.subject.clone(),
            self.reason.clone().unwrap_or_else(|| "-".to_owned()),
            self.details.to_string(),
        ]
    }

    fn whole(&self) -> Vec<String> {
        let mut cells = self.cells();
        cells[0] = self.at.to_string();
        cells
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}

/// List what operators changed, the newest first
///
/// One row for each operation that changed something, kept for 90 days. Refused operations and plans have no
/// row. The actor is the user of the socket (uid 0) or the key (key ops). A hook that a node stopped because its
/// events do not end has the actor hooklane.
///
/// Examples:
///   hooklane audit list --since 7d
///   hooklane audit list --subject orders
///   hooklane audit list -o json
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct All {
    /// Only what was done in this time
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    since: Duration,
    /// Only what was done to this hook, stream, lane, namespace or key; a hook includes its streams
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Number of rows at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// End of an earlier list
    #[arg(long)]
    after: Option<i64>,
    #[command(flatten)]
    columns: Columns,
}

impl All {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let now = Timestamp::now().as_millis();
        let since = Timestamp::from_millis(now.saturating_sub(millis(self.since)).max(0));
        let query = [
            ("since", Some(since.to_string())),
            (
                "subject",
                self.subject.map(|name| unescaped(&name).into_owned()),
            ),
            ("limit", Some(self.limit.to_string())),
            ("after", self.after.map(|after| after.to_string())),
        ];
        let rows: List<AuditRow> = reach.get(&with_query("/v1/admin/audit", &query)).await?;
        out.list(&rows, self.columns)?;
        Ok(Exit::Done)
    }
}
