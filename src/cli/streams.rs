//! `streams`: lists cursors, and retries, skips, holds and releases them. Erasing is in `streams/erase.rs`.

mod erase;

use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;

use super::print::{Columns, Output, Row, Stake};
use super::reach::{Reach, with_query};
use super::table::{self, Sheet};
use super::{Exit, Printer, Trouble, deliveries, events, flags};
use crate::api::{
    Condition, Hold as HoldSpec, HoldResult, HookRetry, List, Retry as RetrySpec, RetryResult,
    Skip as SkipSpec, SkipResult, Stream, StreamRow, Waiting, WaitingEvent,
};
use crate::domain::event::EventId;
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;
use crate::text::{self, quoted};

/// See streams and their cursors; retry, skip, hold, release and erase them
#[derive(Subcommand)]
pub enum Streams {
    List(All),
    Show(Show),
    Retry(Retry),
    Skip(Skip),
    Hold(Hold),
    Release(Release),
    Erase(erase::Erase),
}

impl Streams {
    /// Runs the verb.
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        match self {
            Self::List(list) => list.run(reach, out).await,
            Self::Show(show) => show.run(reach, out).await,
            Self::Retry(retry) => retry.run(reach, out).await,
            Self::Skip(skip) => skip.run(reach, out).await,
            Self::Hold(hold) => hold.run(reach, out).await,
            Self::Release(release) => release.run(reach, out).await,
            Self::Erase(erase) => erase.run(reach, out).await,
        }
    }
}

const STREAMS: &str = "/v1/admin/streams";

impl Row for StreamRow {
    const HEADER: &'static [&'static str] = &[
        "STREAM",
        "HANDLER",
        "CONDITION",
        "POSITION ",
        "HEAD ",
        "BEHIND ",
        "OLDEST ",
        "LANE",
        "REASON",
    ];
    const DROPS: &'static [&'static str] = &["LANE", "HEAD", "POSITION", "HANDLER"];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![quoted(self.stream.short())];
        cells.extend(cursor_cells(self));
        cells
    }

    fn whole(&self) -> Vec<String> {
        let mut cells = self.cells();
        cells[0] = quoted(&self.stream);
        cells
    }

    fn name(&self) -> String {
        self.stream.to_string()
    }
}

fn cursor_cells(row: &StreamRow) -> Vec<String> {
    let dash = || "-".to_owned();
    let age = |ms| text::duration(Duration::from_millis(ms));
    let reason = match (&row.reason, row.tries) {
        (None, _) => dash(),
        (Some(reason), 0 | 1) => reason.clone(),
        (Some(reason), tries) => format!("{reason} x{tries}"),
    };
    vec![
        row.handler.to_string(),
        row.condition.word().to_owned(),
        row.position.to_string(),
        row.head.to_string(),
        text::count(row.behind),
        row.oldest_ms.map_or_else(dash, age),
        row.lane.as_ref().map_or_else(dash, LaneId::to_string),
        reason,
    ]
}

/// List cursors, a row each: those whose events wait longest first
///
/// Examples:
///   hooklane streams list --condition held
///   hooklane streams list --sort created
///   hooklane streams list --hook orders --limit 1000 -o names
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct All {
    /// Only those of one hook
    #[arg(long, value_name = "NAME")]
    hook: Option<Name>,
    /// Only those in one condition
    #[arg(long, value_parser = ["flowing", "waiting", "held"])]
    condition: Option<String>,
    /// oldest: the longest wait first; created: the oldest stream first, in pages [default: oldest, or created with
    /// --after]
    #[arg(long, value_parser = ["oldest", "created"])]
    sort: Option<String>,
    /// Number of cursors at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// End of an earlier list
    #[arg(long)]
    after: Option<String>,
    #[command(flatten)]
    columns: Columns,
}

impl All {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let sort = match (self.sort.as_deref(), &self.after) {
            (Some("oldest"), Some(_)) => {
                let message = "--after goes on in a list that is sorted by created";
                return Err(Trouble::usage(message).into());
            }
            (Some("oldest"), None) | (None, None) => "oldest",
            _ => "created",
        };
        let query = [
            ("hook", self.hook.map(|hook| hook.to_string())),
            ("condition", self.condition),
            ("sort", Some(sort.to_owned())),
            ("limit", Some(self.limit.to_string())),
            ("after", self.after),
        ];
        let streams: List<StreamRow> = reach.get(&with_query(STREAMS, &query)).await?;
        out.list(&streams, self.columns)?;
        if sort == "oldest" && streams.items.len() == self.limit as usize {
            out.foot(format_args!(
                "these are the first {}; all in pages: --sort created",
                self.limit
            ))?;
        }
        Ok(Exit::Done)
    }
}

/// A stream as the daemon knows it.
///
/// # Errors
/// The daemon's error, for example that there is no such stream.
pub async fn look_up(reach: &Reach, name: &StreamName) -> Result<Stream, crate::client::Error> {
    look_at(reach, name, 0).await
}

/// A stream with up to `events` waiting events of each cursor.
async fn look_at(
    reach: &Reach,
    name: &StreamName,
    events: u16,
) -> Result<Stream, crate::client::Error> {
    let query = [
        ("stream", Some(name.to_string())),
        ("events", Some(events.to_string())),
    ];
    reach
        .get(&with_query(&format!("{STREAMS}/show"), &query))
        .await
}

/// Show one stream, what its handlers' cursors do, and the events that they need next
///
/// Examples:
///   hooklane streams show orders/c07
///   hooklane streams show orders/c07 --events 20
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Show {
    /// The stream, HOOK or HOOK/KEY
    #[arg(value_parser = flags::stream)]
    stream: StreamName,
    /// The cursor of one handler [default: all]
    #[arg(long, value_name = "NAME")]
    handler: Option<Name>,
    /// Number of waiting events of each cursor
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=100))]
    events: u16,
}

impl Show {
    async fn run(mut self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        self.stream = reach.meant(self.stream).await?;
        let mut stream = look_at(reach, &self.stream, self.events).await?;
        if let Some(handler) = &self.handler {
            let handlers = handlers(&stream);
            stream.cursors.retain(|row| row.handler == *handler);
            stream.waiting.retain(|events| events.handler == *handler);
            stream.deliveries.retain(|of| of.handler == *handler);
            if stream.cursors.is_empty() {
                return Err(no_handler(&self.stream, handler, &handlers).into());
            }
        }
        let mut facts = vec![
            ("stream", stream.stream.to_string()),
            ("head", head(&stream)),
            ("lane", format!("{}, slot {}", stream.lane, stream.slot)),
        ];
        facts.extend((stream.order.as_ref()).map(|counts| ("order", super::order::told(counts))));
        let cursors: Vec<String> = stream.cursors.iter().map(cursor).collect();
        facts.extend(cursors.iter().map(|cursor| ("cursor", cursor.clone())));
        let deliveries = stream.deliveries.iter().map(deliveries::told);
        facts.extend(deliveries.map(|told| ("delivered", told)));
        for row in &stream.cursors {
            facts.extend(ways_out(row));
        }
        out.item(&stream, &self.stream.to_string(), &facts)?;
        if out.output() == Output::Table {
            for waiting in &stream.waiting {
                show_waiting(waiting, &stream, out)?;
            }
        }
        Ok(Exit::Done)
    }
}

fn head(stream: &Stream) -> String {
    let (head, floor) = (stream.head, stream.floor);
    match floor.0 {
        0 => head.to_string(),
        _ => format!("{head}; retention has removed the events up to {floor}"),
    }
}

const WAITING: &[&str] = &["SEQ ", "EVENT", "AGE ", "SIZE ", "BODY"];

/// Prints the events that a handler needs next, in order.
fn show_waiting(waiting: &Waiting, stream: &Stream, out: &mut Printer) -> std::io::Result<()> {
    let now = Timestamp::now();
    let cells = |event: &WaitingEvent| {
        vec![
            event.seq.to_string(),
            events::short(event.event),
            text::duration(now.since(event.received_at)),
            text::size(event.size),
            event.start.clone(),
        ]
    };
    let sheet = Sheet {
        header: WAITING,
        drops: &["SIZE", "AGE"],
        rows: waiting.events.iter().map(cells).collect(),
    };
    out.line("")?;
    out.line(&format!("waiting for {}, in order", waiting.handler))?;
    for line in table::lines(&sheet, out.room()) {
        out.line(&line)?;
    }
    let row = stream
        .cursors
        .iter()
        .find(|row| row.handler == waiting.handler);
    let behind = row.map_or(0, |row| row.behind);
    match behind.saturating_sub(waiting.events.len() as u64) {
        0 => {}
        more => out.line(&format!("... {} more", text::count(more)))?,
    }
    out.flush()
}

fn handlers(stream: &Stream) -> Vec<Name> {
    stream
        .cursors
        .iter()
        .map(|row| row.handler.clone())
        .collect()
}

fn no_handler(stream: &StreamName, wanted: &Name, handlers: &[Name]) -> Trouble {
    let names = || handlers.iter().map(Name::as_str);
    let all = match handlers {
        [] => "it has none".to_owned(),
        _ => format!("it has {}", names().collect::<Vec<_>>().join(", ")),
    };
    let meant = text::closest(wanted.as_str(), names());
    let meant = meant.map(|meant| format!(". Did you mean {meant}?"));
    let message = format!(
        "{stream} has no handler {:?}, {all}{}",
        wanted.as_str(),
        meant.unwrap_or_default()
    );
    Trouble::new(Exit::Missing, "no_such_handler", message)
}

/// One cursor in words.
pub fn cursor(row: &StreamRow) -> String {
    let (handler, condition, position) = (&row.handler, row.condition.word(), row.position);
    let behind = match row.behind {
        0 => "at the head".to_owned(),
        behind => format!("{} behind", text::count(behind)),
    };
    let mut told = format!("{handler}  {condition} at {position}, {behind}");
    if let Some(next) = row.next {
        told += &format!("; next is {next}");
    }
    if let Some(reason) = &row.reason {
        told += &format!("\n{reason}");
    }
    if let Some(at) = row.retry_at {
        let tries = text::counted(u64::from(row.tries), "try", "tries");
        told += &format!("\ntried again at {at}, {tries} so far");
    }
    told
}

/// Commands that help with a set-aside cursor.
pub fn ways_out(row: &StreamRow) -> Vec<(&'static str, String)> {
    if row.condition == Condition::Flowing {
        return Vec::new();
    }
    let (stream, handler) = (quoted(&row.stream), &row.handler);
    if row.condition == Condition::Paused {
        let resume = format!("hooklane hooks resume {}", row.stream.hook);
        return vec![("helps", resume)];
    }
    if row.by_operator {
        let release = format!("hooklane streams release {stream} --handler {handler}");
        return vec![("helps", release)];
    }
    let mut ways = vec![(
        "helps",
        format!("hooklane streams retry {stream} --handler {handler}"),
    )];
    if let Some(next) = row.next {
        let skip = format!("hooklane streams skip {stream} --handler {handler} --event {next}");
        ways.push(("or", skip));
    }
    ways
}

/// Retry cursors that are set aside now
///
/// With --hook: all of them, but not the ones that an operator holds. Those are released one by one, with
/// `streams release`.
///
/// Examples:
///   hooklane streams retry orders/c07
///   hooklane streams retry --hook orders
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Retry {
    /// The stream, HOOK or HOOK/KEY
    #[arg(required_unless_present = "hook", conflicts_with = "hook")]
    #[arg(value_parser = flags::stream)]
    stream: Option<StreamName>,
    /// All streams of a hook
    #[arg(long, value_name = "NAME")]
    hook: Option<Name>,
    /// One handler [default: all that are set aside]
    #[arg(long, value_name = "NAME")]
    handler: Option<Name>,
}

impl Retry {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let post = Method::POST;
        let (of, released): (String, RetryResult) = match (self.stream, self.hook) {
            (Some(stream), _) => {
                let stream = reach.meant(stream).await?;
                let (of, handler) = (stream.to_string(), self.handler);
                let spec = RetrySpec { stream, handler };
                let path = format!("{STREAMS}/retry");
                (of, reach.call(post, &path, Some(&spec)).await?)
            }
            (None, Some(hook)) => {
                let spec = HookRetry {
                    handler: self.handler,
                };
                let path = format!("/v1/admin/hooks/{hook}/retry");
                let released = reach.call(post, &path, Some(&spec)).await?;
                (hook.to_string(), released)
            }
            (None, None) => return Err(Trouble::usage("give a stream, or --hook").into()),
        };
        match released.released {
            0 => out.say(format_args!("nothing is set aside in {of}"))?,
            n => {
                let cursors = text::counted(n, "cursor", "cursors");
                out.say(format_args!("retrying  {cursors} of {of} now"))?;
            }
        }
        out.object(&released)?;
        Ok(Exit::Done)
    }
}

/// Hold cursors of a stream, until they are released
///
/// Its events are accepted and kept; the other streams of its lane go on.
///
/// Examples:
///   hooklane streams hold orders/c07 --reason 'a look at its state'
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Hold {
    /// The stream, HOOK or HOOK/KEY
    #[arg(value_parser = flags::stream)]
    stream: StreamName,
    /// One handler [default: all]
    #[arg(long, value_name = "NAME")]
    handler: Option<Name>,
    /// Reason, for the other operators
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Hold {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let spec = HoldSpec {
            stream: reach.meant(self.stream).await?,
            handler: self.handler,
            reason: self.reason,
        };
        let path = format!("{STREAMS}/hold");
        let held: HoldResult = reach.call(Method::POST, &path, Some(&spec)).await?;
        let stream = &spec.stream;
        match held.held {
            0 => out.say(format_args!("already held: {stream}"))?,
            n => {
                let cursors = text::counted(n, "cursor", "cursors");
                out.say(format_args!("held   {cursors} of {stream}"))?;
            }
        }
        let back = format!("hooklane streams release {}", quoted(stream));
        out.facts(&[("back", back)])?;
        out.object(&held)?;
        Ok(Exit::Done)
    }
}

/// Release held cursors of a stream
///
/// Examples:
///   hooklane streams release orders/c07
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Release {
    /// The stream, HOOK or HOOK/KEY
    #[arg(value_parser = flags::stream)]
    stream: StreamName,
    /// One handler [default: all]
    #[arg(long, value_name = "NAME")]
    handler: Option<Name>,
}

impl Release {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let spec = RetrySpec {
            stream: reach.meant(self.stream).await?,
            handler: self.handler,
        };
        let path = format!("{STREAMS}/release");
        let released: RetryResult = reach.call(Method::POST, &path, Some(&spec)).await?;
        match released.released {
            0 => out.say(format_args!("nothing is held in {}", spec.stream))?,
            n => {
                let cursors = text::counted(n, "cursor", "cursors");
                out.say(format_args!("released  {cursors} of {}", spec.stream))?;
            }
        }
        out.object(&released)?;
        Ok(Exit::Done)
    }
}

/// Move the next event of a cursor to the dead letters and go on after it
///
/// Examples:
///   hooklane streams skip orders/c07 --event evt_01m834emheemq8k9w37k2m9qx4
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Skip {
    /// The stream, HOOK or HOOK/KEY
    #[arg(value_parser = flags::stream)]
    stream: StreamName,
    /// The event, which must be the next one
    #[arg(long, value_name = "ID")]
    event: String,
    /// One handler [default: reduce]
    #[arg(long, value_name = "NAME")]
    handler: Option<Name>,
}

impl Skip {
    async fn run(mut self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        self.stream = reach.meant(self.stream).await?;
        let here = reach.here().await?;
        let stream = look_up(reach, &self.stream).await?;
        let handler = self.handler.clone().unwrap_or_else(Name::reduce);
        let wanted = |row: &&StreamRow| row.handler == handler;
        let Some(row) = stream.cursors.iter().find(wanted) else {
            return Err(no_handler(&self.stream, &handler, &handlers(&stream)).into());
        };
        let event = self.next_of(row)?;
        let stake = Stake::Severe(self.stream.to_string());
        let what = format!("leaves {event} out of the state");
        out.is_answered(&what, &stake)?;
        out.say(format_args!(
            "skip in {} -> {}   {}",
            self.stream,
            row.handler,
            reach.planned(&here)
        ))?;
        out.facts(&[
            ("  event", format!("{event}, seq {}", row.position.next())),
            ("  reason", row.reason.clone().unwrap_or_else(|| "-".into())),
            (
                "  then",
                "the event goes to the dead letters, and the stream goes on with the one after it"
                    .into(),
            ),
        ])?;
        if !out.confirm("Skip?", &what, &stake)? {
            return Ok(Exit::Failed);
        }
        let spec = SkipSpec {
            stream: self.stream.clone(),
            handler: Some(row.handler.clone()),
            event,
        };
        let path = format!("{STREAMS}/skip");
        let skipped: SkipResult = reach.call(Method::POST, &path, Some(&spec)).await?;
        let position = skipped.position;
        out.say(format_args!(
            "skipped  {}; the cursor is at {position}",
            skipped.skipped
        ))?;
        out.object(&skipped)?;
        Ok(Exit::Done)
    }

    /// The event that was given, in full or in short form; it must be the one that the cursor needs
    /// next.
    fn next_of(&self, row: &StreamRow) -> Result<EventId, Trouble> {
        let Some(next) = row.next else {
            let message = format!("{} -> {} is at its head", row.stream, row.handler);
            return Err(Trouble::new(Exit::Conflict, "at_head", message));
        };
        match super::events::is_meant(&self.event, next) {
            true => Ok(next),
            false => {
                let message = format!("{} is not the next event of {}", self.event, row.stream);
                Err(Trouble::new(Exit::Conflict, "not_next", message)
                    .fact("next", next.to_string()))
            }
        }
    }
}
