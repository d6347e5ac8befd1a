//! `why`: explains why a stream is not at its head, what ends that, and what helps.

use std::time::Duration;

use clap::Args;
use unicode_width::UnicodeWidthStr as _;

use super::print::{aligned, fitted, folded};
use super::reach::{Reach, with_query};
use super::{Exit, Printer, events, flags};
use crate::api::{self, CursorDiagnosis, Help, LaneState, Rejection};
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;
use crate::text::{count, counted, duration, printable_line};

/// Say why a stream is not at its head, what ends it, and what helps
///
/// Of a hook that verifies its senders, it also says why requests were rejected.
///
/// Examples:
///   hooklane why orders/c07
///   hooklane why orders/c07 --handler reduce
///   hooklane why pay
///   hooklane why orders/c07 --event evt_01m834emheemq8k9w37k2m9qx4
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Why {
    /// The stream: HOOK or HOOK/KEY
    #[arg(value_parser = flags::stream)]
    stream: StreamName,
    /// Only one handler
    #[arg(long, value_name = "NAME")]
    handler: Option<Name>,
    /// Also where this event of it is
    #[arg(long, value_name = "ID")]
    event: Option<String>,
}

impl Why {
    /// Runs the verb.
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let event = match &self.event {
            Some(text) => Some(events::resolve(reach, text).await?),
            None => None,
        };
        let query = [
            ("stream", Some(reach.meant(self.stream).await?.to_string())),
            ("handler", self.handler.map(|handler| handler.to_string())),
            ("event", event.map(|event| event.to_string())),
        ];
        let why: api::Diagnosis = reach.get(&with_query("/v1/admin/why", &query)).await?;
        if !out.object(&why)? {
            for line in text(&why, out.room()) {
                out.line(&line)?;
            }
        }
        Ok(Exit::Done)
    }
}

/// The diagnosis in lines that fit into so many columns.
fn text(why: &api::Diagnosis, columns: Option<u16>) -> Vec<String> {
    let mut lines = indented(&title(why), 0, columns);
    let widest = why
        .cursors
        .iter()
        .map(|cursor| cursor.handler.as_str().len());
    let widest = widest.max().unwrap_or(0);
    for cursor in &why.cursors {
        lines.extend(indented(&place(cursor, widest), 2, columns));
    }
    let verdict = format!("{}  {}", why.class.word(), printable_line(&why.verdict));
    let mut facts = vec![("verdict", verdict), ("our side", our_side(why))];
    if let Some(event) = &why.event {
        let at = format!("seq {}, received {}", event.seq, event.received_at);
        facts.push(("event", format!("{at}; {}", event.fate.join("; "))));
    }
    facts.extend((why.order.as_ref()).map(|counts| ("order", super::order::told(counts))));
    let deliveries = why.deliveries.iter().map(super::deliveries::told);
    facts.extend(deliveries.map(|told| ("delivered", told)));
    for cursor in why.cursors.iter().filter(|cursor| cursor.behind > 0) {
        if let Some(keep) = cursor.kept_past {
            let kept = format!(
                "its events are kept past {keep}: retention waits for {}",
                cursor.handler
            );
            facts.push(("retention", kept));
        }
        facts.push(("ends", cursor.ends.clone()));
        let mut label = "helps";
        for help in &cursor.helps {
            facts.push((label, helping(help, columns)));
            label = "";
        }
        if !cursor.does_not.is_empty() {
            facts.push(("does not", cursor.does_not.join("; ")));
        }
    }
    let now = Timestamp::now();
    for one in &why.rejections {
        let ago = duration(now.since(one.last_at));
        let times = counted(one.count, "request", "requests");
        let told = printable_line(&one.told);
        facts.push(("rejected", format!("{times}, the last {ago} ago: {told}")));
        facts.extend(steps(&one.helps));
        facts.push(("the last", printable_line(&sample(one)).to_string()));
    }
    for one in &why.unused_secrets {
        facts.push(("secret", printable_line(&one.told).to_string()));
        facts.extend(steps(&one.helps));
    }
    lines.extend(aligned(&fitted(&facts, columns)));
    lines
}

/// The next steps for an operator, each in a line of its own.
fn steps(helps: &str) -> impl Iterator<Item = (&'static str, String)> {
    let labels = std::iter::once("helps").chain(std::iter::repeat(""));
    let steps = helps
        .split("; ")
        .map(|step| printable_line(step).to_string());
    labels.zip(steps)
}

/// Column at which facts begin.
const FACTS_AT: usize = 11;

/// A command with its comment: beside it, or in a line of its own where that has no room.
fn helping(help: &Help, columns: Option<u16>) -> String {
    let beside = format!("{}   # {}", help.command, help.what);
    match columns.is_none_or(|columns| FACTS_AT + beside.width() <= usize::from(columns)) {
        true => beside,
        false => format!("{}\n  # {}", help.command, help.what),
    }
}

/// A text with an indent. Where there is no room it is wrapped, and further lines are indented by two more.
fn indented(text: &str, indent: usize, columns: Option<u16>) -> Vec<String> {
    let text = printable_line(text).to_string();
    let text = match columns {
        Some(columns) => folded(&text, usize::from(columns).saturating_sub(indent + 2)),
        None => text,
    };
    let lines = text.lines().enumerate();
    let indents = |nth| if nth == 0 { indent } else { indent + 2 };
    lines
        .map(|(nth, line)| format!("{:1$}{2}", "", indents(nth), line.trim_end()))
        .collect()
}

/// The latest rejected request in a line.
fn sample(one: &Rejection) -> String {
    let sample = &one.sample;
    let text = |field: &str| sample[field].as_str().unwrap_or("-").to_owned();
    let headers = sample["headers"].as_object().into_iter().flatten();
    let headers = headers.map(|(name, value)| format!("{name}: {}", value.as_str().unwrap_or("")));
    let headers: Vec<_> = headers.collect();
    let bytes = sample["body_bytes"].as_u64();
    let bytes = bytes.map_or_else(String::new, |bytes| format!(", {bytes} bytes"));
    format!(
        "{} from {}{bytes}; {}",
        text("method"),
        text("from"),
        headers.join("; ")
    )
}

fn title(why: &api::Diagnosis) -> String {
    let behind = why.cursors.iter().filter(|cursor| cursor.behind > 0);
    let most = behind.clone().map(|cursor| cursor.behind).max();
    if why.head.0 == 0 {
        let (stream, lane) = (&why.stream, &why.lane.id);
        return format!("{stream} has no event without an ordering key   lane {lane}");
    }
    let place = match most {
        None => format!("at its head, {}", why.head),
        Some(most) => format!(
            "{} behind its head for {} of {}",
            counted(most, "event", "events"),
            behind.count(),
            counted(why.cursors.len() as u64, "handler", "handlers")
        ),
    };
    let node = why.lane.node.as_deref().map(|node| format!(" on {node}"));
    format!(
        "{} is {place}   lane {}, {}{}",
        why.stream,
        why.lane.id,
        why.lane.state.word(),
        node.unwrap_or_default()
    )
}

fn place(cursor: &CursorDiagnosis, widest: usize) -> String {
    let (handler, condition, position) =
        (&cursor.handler, cursor.condition.word(), cursor.position);
    let ago = |at: Timestamp| format!("{} ago", duration(Timestamp::now().since(at)));
    let only = match cursor.only.takes_all() {
        true => String::new(),
        false => format!("; takes only {}", cursor.only),
    };
    let mut line = format!("{handler:widest$}   {condition}  ");
    let Some(next) = cursor.next else {
        return line + &format!("at the head, {position}{only}");
    };
    line += &format!("at {position}; next is {next}");
    if let Some(at) = cursor.next_received_at {
        line += &format!(", received {}, {}", clock(at), ago(at));
    }
    if let Some(since) = cursor.since {
        line += &format!("; {condition} since {}, {}", clock(since), ago(since));
    }
    line + &only
}

/// Time of day such as `02:41:07Z`, with the date if it is not today.
fn clock(at: Timestamp) -> String {
    let (text, now) = (at.to_string(), Timestamp::now().to_string());
    match (text.get(..10) == now.get(..10), text.get(11..19)) {
        (true, Some(time)) => format!("{time}Z"),
        _ => text,
    }
}

/// Figures that show if hooklane itself is the cause: those of the lane, the database, and the lane's
/// other cursors.
fn our_side(why: &api::Diagnosis) -> String {
    let lane = &why.lane;
    let wait = Duration::from_millis(lane.turn_wait_ms.unwrap_or(0));
    let turns = match lane.state {
        LaneState::NoOwner => "no node runs this lane".to_owned(),
        LaneState::Paused | LaneState::Drained => format!("this lane is {}", lane.state.word()),
        _ if wait.is_zero() => "turns of this lane start at once".to_owned(),
        _ => format!("turns of this lane start in {}", duration(wait)),
    };
    let commit = why.commit_p99_ms.map(|ms| {
        let p99 = Duration::try_from_secs_f64(ms / 1_000.0).unwrap_or_default();
        format!(", commit p99 {}", duration(p99))
    });
    format!("{turns}{}, {}", commit.unwrap_or_default(), others(why))
}

/// The lane's other cursors with work.
fn others(why: &api::Diagnosis) -> String {
    let own = why.cursors.iter().filter(|cursor| cursor.behind > 0);
    let is_aside = |cursor: &&CursorDiagnosis| cursor.condition.is_set_aside();
    let own_aside = own.clone().filter(is_aside).count() as u64;
    let others = why.lane.cursors.saturating_sub(own.count() as u64);
    let aside = why.lane.set_aside.saturating_sub(own_aside);
    match (others, aside) {
        (0, _) => "no other cursor of it has work".to_owned(),
        (1, 0) => "its 1 other cursor with work flows".to_owned(),
        (others, 0) => format!("its {} other cursors with work flow", count(others)),
        (others, aside) => format!(
            "of its {} {} set aside",
            counted(others, "other cursor with work", "other cursors with work"),
            counted(aside, "is", "are")
        ),
    }
}
