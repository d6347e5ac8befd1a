//! `hooks pause` and `hooks resume`: stop and resume the cursors of a hook, while its events are still
//! accepted.

use clap::Args;
use http::Method;

use super::path;
use crate::api::{HookStopSpec, HookStopped};
use crate::cli::reach::Reach;
use crate::cli::{Exit, Printer};
use crate::domain::name::Name;

/// Stop the turns of a hook's streams; events are still accepted
///
/// The pause outlives restarts, until `hooks resume`.
///
/// Examples:
///   hooklane hooks pause orders --reason 'the new reducer is not there yet'
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Pause {
    /// The hook
    name: Name,
    /// Reason, for the other operators
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Pause {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let stopped = call("pause", &self.name, self.reason, reach).await?;
        match stopped.changed {
            true => out.say(format_args!("paused  {}", self.name))?,
            false => out.say(format_args!("already paused: {}", self.name))?,
        }
        out.facts(&[("back", format!("hooklane hooks resume {}", self.name))])?;
        end(&stopped, out)
    }
}

/// Resume a paused hook
///
/// Examples:
///   hooklane hooks resume orders
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Resume {
    /// The hook
    name: Name,
    /// Reason, for the other operators
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Resume {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let stopped = call("resume", &self.name, self.reason, reach).await?;
        match stopped.changed {
            true => out.say(format_args!("resumed  {}", self.name))?,
            false => out.say(format_args!("not paused: {}", self.name))?,
        }
        end(&stopped, out)
    }
}

async fn call(
    verb: &str,
    name: &Name,
    reason: Option<String>,
    reach: &Reach,
) -> anyhow::Result<HookStopped> {
    let spec = HookStopSpec { reason };
    let path = format!("{}/{verb}", path(name));
    Ok(reach.call(Method::POST, &path, Some(&spec)).await?)
}

fn end(stopped: &HookStopped, out: &mut Printer) -> anyhow::Result<Exit> {
    if !stopped.waits_for.is_empty() {
        let nodes = stopped.waits_for.join(", ");
        out.say(format_args!(
            "NOT MOVING: no answer yet from {nodes}; its lease ends in 15s"
        ))?;
    }
    out.object(stopped)?;
    Ok(match stopped.waits_for.is_empty() {
        true => Exit::Done,
        false => Exit::Unfinished,
    })
}
