//! `events`: lists, shows and follows events.

mod replay;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use http::Method;
use serde::Serialize;

use super::export::ExportEvents;
use super::print::{Columns, Output, Row};
use super::reach::{Offline, Reach, with_query};
use super::{Exit, Printer, Trouble, flags};
use crate::api::{EventRow, Fate, List, LostConfirmed, LostEvent, Outcome};
use crate::domain::event::EventId;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::{Timestamp, parse_duration};
use crate::text::{self, quoted};

/// See events: list, show, follow and export them; deliver them once more
#[derive(Subcommand)]
pub enum Events {
    List(All),
    Show(Show),
    Tail(Tail),
    Lost(Lost),
    Replay(replay::Replay),
    Replays(replay::Replays),
    Export(ExportEvents),
}

impl Events {
    /// Access to the database when no daemon runs.
    pub fn offline(&self) -> Offline {
        match self {
            Self::Export(_) => Offline::Open,
            _ => Offline::Never,
        }
    }

    /// Runs the verb.
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        match self {
            Self::List(list) => list.run(reach, out).await,
            Self::Show(show) => show.run(reach, out).await,
            Self::Tail(tail) => tail.run(reach, out).await,
            Self::Lost(lost) => lost.run(reach, out).await,
            Self::Replay(replay) => replay.run(reach, out).await,
            Self::Replays(replays) => replays.run(reach, out).await,
            Self::Export(export) => export.run(reach, out).await,
        }
    }
}

const EVENTS: &str = "/v1/admin/events";

/// Age of the oldest event in a list.
const SINCE_DEFAULT: Duration = Duration::from_secs(3_600);

/// Number of final characters that identify an event among its neighbours; the first characters are the
/// time.
const TAIL_LEN: usize = 8;

impl Row for EventRow {
    const HEADER: &'static [&'static str] =
        &["EVENT", "STREAM", "SEQ ", "RECEIVED", "SIZE ", "FATE"];
    const DROPS: &'static [&'static str] = &["SIZE", "SEQ", "RECEIVED"];

    fn cells(&self) -> Vec<String> {
        vec![
            short(self.event),
            quoted(self.stream.short()),
            match self.waits_until {
                Some(_) => "-".to_owned(),
                None => self.seq.to_string(),
            },
            self.received_at.to_string(),
            text::size(self.size),
            match self.waits_until {
                Some(at) => format!("held back until {}", at.clock()),
                None => fates(&self.fate),
            },
        ]
    }

    fn whole(&self) -> Vec<String> {
        let mut cells = with_whole_id(self.event, self.cells());
        cells[1] = quoted(&self.stream);
        cells
    }

    fn name(&self) -> String {
        self.event.to_string()
    }
}

/// An event in the dead letters; its table shows the reason instead of the outcome.
#[derive(Serialize)]
#[serde(transparent)]
struct Dead(EventRow);

impl Row for Dead {
    const HEADER: &'static [&'static str] =
        &["EVENT", "STREAM", "SEQ ", "RECEIVED", "HANDLER", "REASON"];
    const DROPS: &'static [&'static str] = &["HANDLER", "SEQ", "RECEIVED"];

    fn cells(&self) -> Vec<String> {
        let row = &self.0;
        let dead = row
            .fate
            .iter()
            .filter(|fate| fate.outcome == Outcome::Skipped);
        let handlers: Vec<_> = dead.map(|fate| fate.handler.as_str()).collect();
        vec![
            short(row.event),
            quoted(row.stream.short()),
            row.seq.to_string(),
            row.received_at.to_string(),
            handlers.join(", "),
            row.reason.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }

    fn whole(&self) -> Vec<String> {
        let mut cells = with_whole_id(self.0.event, self.cells());
        cells[1] = quoted(&self.0.stream);
        cells
    }

    fn name(&self) -> String {
        self.0.name()
    }
}

fn with_whole_id(event: EventId, mut cells: Vec<String>) -> Vec<String> {
    cells[0] = event.to_string();
    cells
}

/// Column widths of the endless list.
const WIDTHS: &[usize] = &[14, 24, 8, 24, 8];

/// Short form of an id: `evt_..7k2m9qx4`.
pub fn short(event: EventId) -> String {
    let text = event.to_string();
    format!("evt_..{}", &text[text.len() - TAIL_LEN..])
}

/// True if `text` is the id of `event`, in full or in short form.
pub fn is_meant(text: &str, event: EventId) -> bool {
    match text.strip_prefix("evt_..") {
        Some(end) => end.len() >= TAIL_LEN && event.to_string().ends_with(end),
        None => text == event.to_string(),
    }
}

fn fates(fates: &[Fate]) -> String {
    let told: Vec<String> = fates.iter().map(fate).collect();
    match told.is_empty() {
        true => "-".to_owned(),
        false => told.join(", "),
    }
}

fn fate(fate: &Fate) -> String {
    let outcome = fate.outcome.word();
    match &fate.reason {
        Some(reason) => format!("{} {outcome}: {reason}", fate.handler),
        None => format!("{} {outcome}", fate.handler),
    }
}

/// List events, newest first
///
/// Examples:
///   hooklane events list --hook orders --since 10m
///   hooklane events list --stream orders/c07 -o jsonl
///   hooklane events list --dead --since 30d
///   hooklane events list --hook pay --delivery evt_1PqLm82eZvKYlo2C
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct All {
    /// Only those of one hook
    #[arg(long, value_name = "NAME")]
    hook: Option<Name>,
    /// Only those of one stream, HOOK or HOOK/KEY
    #[arg(long, value_parser = flags::stream)]
    stream: Option<StreamName>,
    /// Only those received in this time [default: 1h; with --delivery, all that are kept]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,
    /// Only the dead letters: events that were skipped, each with its reason
    #[arg(long)]
    dead: bool,
    /// Only late events: those that came after one of their stream with a higher version
    #[arg(long, conflicts_with_all = ["dead", "delivery"])]
    late: bool,
    /// Only the event that came under this delivery id: that of the provider, or its idempotency key
    #[arg(long, value_name = "ID", conflicts_with = "dead")]
    delivery: Option<String>,
    /// Number of events at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Older ones than this event, where an earlier list ended
    #[arg(long, value_name = "ID")]
    after: Option<EventId>,
    #[command(flatten)]
    columns: Columns,
}

impl All {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let now = Timestamp::now().as_millis();
        let since = match (self.since, &self.delivery) {
            (None, Some(_)) => Duration::MAX,
            (since, _) => since.unwrap_or(SINCE_DEFAULT),
        };
        let since = crate::domain::time::millis(since);
        let query = [
            ("hook", self.hook.as_ref().map(Name::to_string)),
            ("stream", meant(reach, self.stream).await?),
            (
                "since",
                Some(Timestamp::from_millis(now.saturating_sub(since).max(0)).to_string()),
            ),
            ("dead", self.dead.then(|| "true".to_owned())),
            ("late", self.late.then(|| "true".to_owned())),
            ("delivery", self.delivery.clone()),
            ("limit", Some(self.limit.to_string())),
            ("after", self.after.map(|event| event.to_string())),
        ];
        let events: List<EventRow> = reach.get(&with_query(EVENTS, &query)).await?;
        if !self.dead {
            out.list(&events, self.columns)?;
            if let Some(id) = self.delivery.filter(|_| events.items.is_empty()) {
                let hook = self
                    .hook
                    .map_or_else(|| "HOOK".to_owned(), |hook| hook.to_string());
                out.foot(format_args!(
                    "{} did not arrive, was rejected (hooklane why {hook}), or is past its hook's --keep",
                    quoted(id)
                ))?;
            }
            return Ok(Exit::Done);
        }
        let dead = events.items.into_iter().map(Dead).collect::<Vec<_>>();
        let none = dead.is_empty();
        out.list(&List::new(events.at, dead, events.next), self.columns)?;
        if none {
            out.foot(format_args!(
                "no dead letters among the events of this time; further back: --since 30d"
            ))?;
        }
        Ok(Exit::Done)
    }
}

/// List events that were acknowledged and that a failover of Postgres has lost
///
/// Their senders must send them again. `status` names them until you acknowledge them.
///
/// Examples:
///   hooklane events lost
///   hooklane events lost --acknowledge
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Lost {
    /// Acknowledge all of them: `status` stops naming them
    #[arg(long)]
    acknowledge: bool,
    #[command(flatten)]
    columns: Columns,
}

impl Lost {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        const LOST: &str = "/v1/admin/events/lost";
        if !self.acknowledge {
            let events: List<LostEvent> = reach.get(LOST).await?;
            out.list(&events, self.columns)?;
            return Ok(Exit::Done);
        }
        let seen: LostConfirmed = reach.call(Method::DELETE, LOST, None::<&()>).await?;
        if !out.object(&seen)? {
            let events = text::counted(seen.events, "lost event", "lost events");
            out.line(&format!("{events} acknowledged"))?;
        }
        Ok(Exit::Done)
    }
}

impl Row for LostEvent {
    const HEADER: &'static [&'static str] = &["EVENT", "STREAM", "SEQ ", "NODE", "FOUND"];
    const DROPS: &'static [&'static str] = &["NODE", "FOUND", "SEQ"];

    fn cells(&self) -> Vec<String> {
        let hook = || self.hook.as_ref().map(|hook| format!("{hook}/?"));
        let stream = self.stream.as_ref().map(|stream| quoted(stream.short()));
        vec![
            short(self.event),
            stream.or_else(hook).unwrap_or_else(|| "-".to_owned()),
            self.seq
                .map_or_else(|| "held".to_owned(), |seq| seq.to_string()),
            self.node.clone(),
            self.found_at.to_string(),
        ]
    }

    fn whole(&self) -> Vec<String> {
        with_whole_id(self.event, self.cells())
    }

    fn name(&self) -> String {
        self.event.to_string()
    }
}

/// Show one event and what became of it
///
/// Examples:
///   hooklane events show evt_..7k2m9qx4 --headers
///   hooklane events show evt_01m834emheemq8k9w37k2m9qx4 --body > body.json
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Show {
    /// The event, whole or as evt_.. and its last 8 characters
    id: String,
    /// Write its body to stdout, byte for byte, and nothing else
    #[arg(long)]
    body: bool,
    /// Show its headers too
    #[arg(long, conflicts_with = "body")]
    headers: bool,
}

impl Show {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let id = resolve(reach, &self.id).await?;
        let event: EventRow = reach.get(&format!("{EVENTS}/{id}")).await?;
        if self.body {
            out.bytes(&body(&event)?)?;
            return Ok(Exit::Done);
        }
        out.item(&event, &id.to_string(), &self.facts(&event))?;
        if out.output() == Output::Table {
            match &event.body {
                Some(body) => out.line(&format!("\n{body}"))?,
                None => out.say(format_args!(
                    "the body is not text: --body writes it as it is"
                ))?,
            }
            out.flush()?;
        }
        Ok(Exit::Done)
    }

    fn facts<'e>(&self, event: &'e EventRow) -> Vec<(&'e str, String)> {
        let key = event
            .key
            .map_or_else(|| "hooklane.sock".into(), |key| key.to_string());
        let mut facts = vec![
            ("event", event.event.to_string()),
            ("stream", place(event)),
            (
                "received",
                format!(
                    "{}, {}, by {key}",
                    event.received_at,
                    text::size(event.size)
                ),
            ),
        ];
        facts.extend(event.fate.iter().map(|one| ("fate", fate(one))));
        if let Some(late) = event.late {
            let told = format!("it came after an event with a higher version (--late {late})");
            facts.push(("late", told));
        }
        if let Some(key) = &event.dedupe_key {
            facts.push(("dedupe key", key.clone()));
        }
        if let Some(query) = &event.query {
            facts.push(("query", query.clone()));
        }
        if self.headers {
            for (name, value) in event.headers.iter().flatten() {
                facts.push((name.as_str(), value.clone()));
            }
        }
        facts
    }
}

/// The stream of an event and its place there.
fn place(event: &EventRow) -> String {
    match event.waits_until {
        Some(at) => format!("{}, held back until {at}: it has no seq yet", event.stream),
        None => format!("{}, seq {}", event.stream, event.seq),
    }
}

/// The full name of the stream given on the command line, if any.
async fn meant(reach: &Reach, typed: Option<StreamName>) -> Result<Option<String>, Trouble> {
    match typed {
        Some(typed) => Ok(Some(reach.meant(typed).await?.to_string())),
        None => Ok(None),
    }
}

fn body(event: &EventRow) -> Result<Vec<u8>, Trouble> {
    match (&event.body, &event.body_base64) {
        (Some(text), _) => Ok(text.clone().into_bytes()),
        (None, Some(base64)) => STANDARD.decode(base64).map_err(|error| {
            Trouble::new(
                Exit::Failed,
                "unexpected_answer",
                format!("a body is damaged: {error}"),
            )
        }),
        (None, None) => Ok(Vec::new()),
    }
}

/// Number of newest events in which a short form is searched for.
const LOOKED_AT: u32 = 1000;

/// The event that a text names, in full or in short form.
///
/// # Errors
/// [`Trouble`] when it names no event, or several.
pub async fn resolve(reach: &Reach, text: &str) -> anyhow::Result<EventId> {
    if !text.starts_with("evt_..") {
        let wrong = |error: crate::domain::event::InvalidEventId| Trouble::usage(error.to_string());
        return Ok(text.parse().map_err(wrong)?);
    }
    let path = with_query(EVENTS, &[("limit", Some(LOOKED_AT.to_string()))]);
    let newest: List<EventRow> = reach.get(&path).await?;
    let mut meant = newest.items.iter().filter(|row| is_meant(text, row.event));
    match (meant.next(), meant.next()) {
        (Some(row), None) => Ok(row.event),
        (Some(_), Some(_)) => Err(Trouble::usage(format!("{text} is more than one event")).into()),
        (None, _) => {
            let message = format!("no event {text} among the newest {LOOKED_AT}");
            let trouble = Trouble::new(Exit::Missing, "no_such_event", message);
            Err(trouble.fact("older", "give its whole id").into())
        }
    }
}

/// Follow events as they arrive; Ctrl-C ends
///
/// Examples:
///   hooklane events tail --hook orders
///   hooklane events tail -o jsonl | jq .stream
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Tail {
    /// Only those of one hook
    #[arg(long, value_name = "NAME")]
    hook: Option<Name>,
    /// Only those of one stream, HOOK or HOOK/KEY
    #[arg(long, value_parser = flags::stream)]
    stream: Option<StreamName>,
}

impl Tail {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let query = [
            ("hook", self.hook.map(|hook| hook.to_string())),
            ("stream", meant(reach, self.stream).await?),
        ];
        let path = with_query(&format!("{EVENTS}/tail"), &query);
        let mut followed = reach.follow(&path).await?;
        out.foot(format_args!("following events as they arrive; Ctrl-C ends"))?;
        while let Some(data) = followed.next().await? {
            let event: EventRow = serde_json::from_str(&data)?;
            out.live(&event, WIDTHS)?;
        }
        let message = "the daemon ended; the events until then are above";
        Err(Trouble::new(Exit::Unreachable, "ended", message).into())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_meant_by_its_whole_id_or_its_end() {
        let event: EventId = "evt_01m834emheemq8k9w37k2m9qx4".parse().unwrap();
        assert_eq!(short(event), "evt_..7k2m9qx4");
        for right in ["evt_..7k2m9qx4", "evt_01m834emheemq8k9w37k2m9qx4"] {
            assert!(is_meant(right, event));
        }
        for wrong in ["evt_..", "evt_..4", "evt_..7k2m9qx5", "7k2m9qx4", ""] {
            assert!(!is_meant(wrong, event), "{wrong}");
        }
    }
}
