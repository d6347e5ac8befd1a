//! `state`: shows and rebuilds the state of a stream.

mod rebuild;

use std::time::Duration;

use clap::{Args, Subcommand};
use http::StatusCode;
use serde_json::value::RawValue;

use super::export::ExportStates;
use super::print::Output;
use super::reach::{Offline, Reach, with_query};
use super::{Exit, Printer, flags};
use crate::api;
use crate::client;
use crate::domain::name::StreamName;
use crate::text::quoted;

/// Read the state of a stream, compute it again, or export all
#[derive(Subcommand)]
pub enum State {
    Show(Show),
    Rebuild(rebuild::RebuildStates),
    Export(ExportStates),
}

impl State {
    /// Access to the database when no daemon runs.
    pub fn offline(&self) -> Offline {
        match self {
            Self::Export(_) => Offline::Open,
            _ => Offline::Never,
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
            Self::Show(show) => show.run(reach, out).await,
            Self::Rebuild(again) => again.run(reach, limit, out).await,
            Self::Export(export) => export.run(reach, out).await,
        }
    }
}

/// Print the state of a stream to stdout, its position and time to stderr
///
/// Examples:
///   hooklane state show hello
///   hooklane state show orders/c07 | jq .total
///   hooklane state show orders/c07 --rebuilt
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Show {
    /// The stream, HOOK or HOOK/KEY
    #[arg(value_parser = flags::stream)]
    stream: StreamName,
    /// Compute the state again with today's reducer, print that, and say whether it differs; changes nothing
    #[arg(long)]
    rebuilt: bool,
    /// With --rebuilt, begin at checkpoints that an older reducer made, too
    #[arg(long, requires = "rebuilt")]
    from_checkpoints: bool,
}

/// The path of a stream's state.
pub fn path(stream: &StreamName, more: &[(&str, Option<String>)]) -> String {
    let key = Some(stream.key.as_str().to_owned());
    let mut query = vec![("stream", key.filter(|key| !key.is_empty()))];
    query.extend_from_slice(more);
    with_query(&format!("/v1/hooks/{}/state", stream.hook), &query)
}

/// Time for which `state show` waits for events that were just received.
const MOMENT: &str = "500ms";

/// The state at its present head, if it gets there in a moment; else the state as it was.
async fn caught_up(stream: &StreamName, state: api::State, reach: &Reach) -> api::State {
    if state.position.behind(state.head) == 0 {
        return state;
    }
    let more = [
        ("min_seq", Some(state.head.to_string())),
        ("wait", Some(MOMENT.to_owned())),
    ];
    reach.get(&path(stream, &more)).await.unwrap_or(state)
}

impl Show {
    async fn run(mut self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        self.stream = reach.meant(self.stream).await?;
        let state: api::State = match reach.get(&path(&self.stream, &[])).await {
            Ok(state) => state,
            Err(error) => {
                // An operator gets an error with a similar name; a reader only learns that there is no
                // such stream.
                super::streams::look_up(reach, &self.stream).await?;
                return Err(error.into());
            }
        };
        let state = match self.rebuilt {
            true => state,
            false => caught_up(&self.stream, state, reach).await,
        };
        if state.head.0 == 0 {
            // A hook without events answers like a stream that does not exist. A read key sees only the
            // empty state.
            match super::streams::look_up(reach, &self.stream).await {
                Ok(_)
                | Err(client::Error::Refused {
                    status: StatusCode::FORBIDDEN,
                    ..
                }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.rebuilt && state.position.0 > 0 {
            let (stream, to) = (&self.stream, state.position.0);
            let folded = rebuild::fold(stream, to, self.from_checkpoints, reach).await?;
            return show_rebuilt(&state, &folded, &self.stream, out);
        }
        match out.output() {
            Output::Names => out.name(&self.stream.to_string())?,
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

/// Prints the state that the present reducer computes for the events in the live state.
fn show_rebuilt(
    live: &api::State,
    folded: &api::FoldedState,
    stream: &StreamName,
    out: &mut Printer,
) -> anyhow::Result<Exit> {
    match out.output() {
        Output::Names => out.name(&stream.to_string())?,
        _ if out.object(folded)? => {}
        _ => out.line(folded.state.as_deref().map_or("null", |state| state.get()))?,
    }
    out.flush()?;
    let value = |state: &Option<Box<RawValue>>| {
        let text = state.as_deref().map_or("null", RawValue::get);
        serde_json::from_str::<serde_json::Value>(text)
    };
    let position = folded.position;
    match value(&live.state)? == value(&folded.state)? {
        true => out.say(format_args!(
            "position {position}, folded again by today's reducer: the live state is the same"
        ))?,
        false => {
            out.say(format_args!(
                "position {position}, folded again by today's reducer: the live state differs"
            ))?;
            let switch = format!("hooklane state rebuild {}", quoted(stream));
            out.facts(&[("switch", switch)])?;
        }
    }
    Ok(Exit::Done)
}
