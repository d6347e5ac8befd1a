//! `state`: what a reduce handler made of a stream's events.

mod rebuild;

use clap::{Args, Subcommand};

use super::print::Output;
use super::reach::{Reach, with_query};
use super::{Exit, Printer};
use crate::api;
use crate::domain::name::StreamName;

/// Read the state of a stream, or fold it again
#[derive(Subcommand)]
pub enum State {
    Show(Show),
    Rebuild(rebuild::Again),
}

impl State {
    /// Does what the verb says.
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        match self {
            Self::Show(show) => show.run(reach, out).await,
            Self::Rebuild(again) => again.run(reach, out).await,
        }
    }
}

/// Print the folded JSON of a stream to stdout, its position and time to stderr
///
/// Examples:
///   hooklane state show hello
///   hooklane state show orders/c07 | jq .total
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Show {
    /// The stream, HOOK or HOOK/KEY
    stream: StreamName,
}

/// Where the state of a stream is read.
pub fn path(stream: &StreamName, more: &[(&str, Option<String>)]) -> String {
    let key = Some(stream.key.as_str().to_owned());
    let mut query = vec![("stream", key.filter(|key| !key.is_empty()))];
    query.extend_from_slice(more);
    with_query(&format!("/v1/hooks/{}/state", stream.hook), &query)
}

impl Show {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let state: api::State = match reach.get(&path(&self.stream, &[])).await {
            Ok(state) => state,
            Err(error) => {
                // Operators learn which name was perhaps meant; readers, only that there is none.
                super::streams::look_up(reach, &self.stream).await?;
                return Err(error.into());
            }
        };
        match out.output() {
            Output::Names => out.line(&self.stream.to_string())?,
            _ if out.object(&state)? => {}
            _ => out.line(state.state.as_deref().map_or("null", |state| state.get()))?,
        }
        out.flush()?;
        let behind = state.position.behind(state.head);
        let head = match behind {
            0 => "at the head".to_owned(),
            behind => format!("{behind} behind the head, {}", state.head),
        };
        match state.updated_at {
            Some(at) => out.say(format_args!(
                "position {}, {head}, since {at}",
                state.position
            ))?,
            None => out.say(format_args!("nothing was folded yet, {head}"))?,
        }
        Ok(Exit::Done)
    }
}
