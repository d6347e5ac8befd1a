//! `send`: posts test events and follows them until they are applied.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use serde::Serialize;

use super::print::Progress;
use super::reach::Reach;
use super::{Exit, Printer, Trouble, events, flags, state, streams};
use crate::api::{Accepted, Condition, Hook, State};
use crate::client;
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::position::Seq;
use crate::text::{self, quoted};

/// Post test events to a hook and follow them until they are applied to its state
///
/// Through the socket it needs no key. With --url the key must be a write key of the hook; the events
/// are followed as far as that key may read.
///
/// Examples:
///   hooklane send hello --body '{"n":1}'
///   hooklane send orders -d @order.json --header 'X-Account: c07' --timeout 30s
///   hooklane send hello --count 1000 --rate 200
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Send {
    /// The hook
    hook: Name,
    /// The body: a text, @FILE, or - for stdin
    #[arg(short = 'd', long, value_name = "TEXT|@FILE|-", default_value = "{}")]
    body: String,
    /// The body, as --body was called before
    #[arg(id = "event", long = "data", hide = true, conflicts_with = "body")]
    data: Option<String>,
    /// A header; may be given often
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = flags::header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Number of events
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Events a second at most [default: no limit]
    #[arg(long, value_name = "PER SECOND", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// Do not wait until they are applied
    #[arg(long)]
    no_wait: bool,
}

/// An accepted post.
struct Posted {
    accepted: Accepted,
    status: StatusCode,
    took: Duration,
}

/// Events of one stream that were sent one after the other.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sent {
    first: Seq,
    last: Seq,
    accepted: u64,
    /// Number of seqs that did not grow; zero unless order is lost.
    disordered: u64,
}

/// Result of sending with `--count`.
#[derive(Debug, Default, Serialize)]
struct Summary {
    accepted: u64,
    duplicates: u64,
    disordered: u64,
    took_ms: u64,
    streams: BTreeMap<String, Sent>,
    folded: u64,
    unfolded: u64,
}

impl Send {
    /// Runs the verb, and follows accepted events for `limit` at most.
    pub async fn run(
        self,
        reach: &Reach,
        limit: Option<Duration>,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        if self.data.is_some() {
            out.say(format_args!(
                "warning: send --data is now --body (-d). In the next release --data names the data directory"
            ))?;
        }
        let body = body(self.data.as_ref().unwrap_or(&self.body))?;
        match self.count {
            1 => self.one(body, reach, limit, out).await,
            _ => self.many(body, reach, limit, out).await,
        }
    }

    async fn one(
        &self,
        body: Bytes,
        reach: &Reach,
        limit: Option<Duration>,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        let posted = self.post(body, reach).await?;
        let answered = Instant::now();
        let accepted = &posted.accepted;
        let stream = stream_of(accepted);
        let what = match accepted.duplicate {
            true => "duplicate",
            false => "accepted",
        };
        out.object(accepted)?;
        out.say(format_args!(
            "{what:<9}  {}  {} in {}   {}, on disk before the answer",
            events::short(accepted.event),
            posted.status.as_u16(),
            fine(posted.took),
            place(accepted),
        ))?;
        let Some(seq) = accepted.seq.filter(|_| !self.no_wait) else {
            return Ok(Exit::Done);
        };
        out.on_ctrl_c(vec![
            (
                "stopped",
                format!("watching: {stream} seq {seq} is stored and will be applied"),
            ),
            ("look", format!("hooklane why {}", quoted(&stream))),
        ]);
        let ended = follow(reach, &stream, seq, Wait::new(limit)).await?;
        let exit = tell_end(ended, answered.elapsed(), &stream, reach, out).await?;
        if exit == Exit::Done {
            let hook = &self.hook;
            let next = format!(
                "hooklane send {hook} --count 1000 --rate 200   # and in a second window: hooklane top\n\
                 hooklane keys create --type write --hook {hook} --name me   # a key for senders elsewhere"
            );
            out.facts(&[("next     ", next)])?;
        }
        Ok(exit)
    }

    async fn many(
        &self,
        body: Bytes,
        reach: &Reach,
        limit: Option<Duration>,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        let mut summary = Summary::default();
        let mut took = Vec::new();
        let began = Instant::now();
        let mut bar = Progress::new("send", "Ctrl-C stops sending; sent events are stored");
        for nth in 0..self.count {
            out.progress(&mut bar, nth, self.count, None)?;
            out.on_ctrl_c(self.stopped(nth));
            if let Some(rate) = self.rate {
                let due = Duration::from_secs_f64(nth as f64 / f64::from(rate));
                tokio::time::sleep_until((began + due).into()).await;
            }
            let posted = self.post(body.clone(), reach).await;
            let posted = posted.inspect_err(|_| {
                let _ = out.progress_ends(&bar);
                let _ = out.facts(&self.stopped(nth));
            })?;
            took.push(posted.took);
            summary.add(&posted.accepted);
        }
        summary.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        took.sort_unstable();
        out.progress_ends(&bar)?;
        self.tell(&summary, &took, began.elapsed(), out)?;
        let settled = match self.no_wait {
            true => Ok(Exit::Done),
            false => settle(&mut summary, &self.hook, reach, limit, out).await,
        };
        // The summary is printed even if not all events were seen to be applied.
        out.object(&summary)?;
        let exit = settled?;
        Ok(match summary.disordered {
            0 => exit,
            _ => Exit::Failed,
        })
    }

    /// The message for Ctrl-C after `sent` events: what was done, and how to continue.
    fn stopped(&self, sent: u64) -> Vec<(&'static str, String)> {
        let (count, left) = (text::count(self.count), self.count - sent);
        let rate = self.rate.map(|rate| format!(" --rate {rate}"));
        let body = match &*self.body {
            "{}" => String::new(),
            body => format!(" --body={}", quoted(body)),
        };
        let hook = &self.hook;
        let go_on = format!(
            "hooklane send {hook} --count {left}{}{body}",
            rate.unwrap_or_default()
        );
        vec![
            (
                "stopped",
                format!(
                    "{} of {count} sent: they are stored and will be applied",
                    text::count(sent)
                ),
            ),
            ("go on", go_on),
            ("look", format!("hooklane streams list --hook {hook}")),
        ]
    }

    fn tell(
        &self,
        summary: &Summary,
        took: &[Duration],
        whole: Duration,
        out: &mut Printer,
    ) -> std::io::Result<()> {
        let at = |percent: usize| took[(took.len() - 1) * percent / 100];
        out.say(format_args!(
            "accepted   {} in {}, {:.0}/s, answers p50 {} p99 {}; {} duplicates, {} out of order",
            text::count(summary.accepted),
            text::duration(whole),
            summary.accepted as f64 / whole.as_secs_f64().max(1e-6),
            fine(at(50)),
            fine(at(99)),
            text::count(summary.duplicates),
            text::count(summary.disordered),
        ))
    }

    async fn post(&self, body: Bytes, reach: &Reach) -> Result<Posted, client::Error> {
        let mut request = Request::post(format!("/in/{}", self.hook));
        let is = |(name, _): &(HeaderName, HeaderValue)| name == http::header::CONTENT_TYPE;
        if !self.headers.iter().any(is) {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let began = Instant::now();
        let answer = reach.exchange(request.body(body), Duration::ZERO).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            // An operator gets an error with a similar name; a sender only learns that there is no such
            // hook.
            let _: Hook = reach.get(&format!("/v1/admin/hooks/{}", self.hook)).await?;
        }
        Ok(Posted {
            took: began.elapsed(),
            accepted: reach.read(&answer)?,
            status: answer.status(),
        })
    }
}

impl Summary {
    fn add(&mut self, accepted: &Accepted) {
        if accepted.duplicate {
            self.duplicates += 1;
            return;
        }
        self.accepted += 1;
        let key = stream_of(accepted).to_string();
        // A held back event has no place yet.
        let Some(seq) = accepted.seq else {
            return;
        };
        let sent = self.streams.entry(key).or_insert(Sent {
            first: seq,
            last: Seq(seq.0 - 1),
            accepted: 0,
            disordered: 0,
        });
        sent.accepted += 1;
        if seq <= sent.last {
            sent.disordered += 1;
            self.disordered += 1;
        }
        sent.last = sent.last.max(seq);
    }
}

/// Reads `TEXT`, `@FILE` or `-`.
fn body(text: &str) -> Result<Bytes, Trouble> {
    let mut bytes = Vec::new();
    let read = match text.strip_prefix('@') {
        Some(path) => std::fs::read(path).map(|read| bytes = read),
        None if text == "-" => std::io::stdin().read_to_end(&mut bytes).map(|_| ()),
        None => return Ok(Bytes::copy_from_slice(text.as_bytes())),
    };
    read.map_err(|error| {
        let message = format!("cannot read the body from {text}: {error}");
        Trouble::new(Exit::Usage, "no_file", message)
    })?;
    Ok(bytes.into())
}

/// The stream of an event and its place there, in words.
fn place(accepted: &Accepted) -> String {
    let stream = stream_of(accepted);
    match (accepted.seq, accepted.waits_until) {
        (Some(seq), _) => format!("{stream} seq {seq}"),
        (None, Some(at)) => format!("{stream}, held back until {}", at.clock()),
        (None, None) => format!("{stream}, held back"),
    }
}

fn stream_of(accepted: &Accepted) -> StreamName {
    StreamName {
        hook: accepted.hook.clone(),
        key: OrderingKey::clone(&accepted.stream),
    }
}

/// Result of following an event.
enum Ended {
    /// The state contains it.
    Folded(State),
    /// The cursor of its stream is set aside: a description, and commands that help.
    SetAside(String, Vec<(&'static str, String)>),
    /// The hook has no reducer.
    Stored,
    /// The key may not read the state.
    Unseen,
    /// The time limit has passed.
    Late(Trouble),
}

/// Time limit of waiting.
#[derive(Clone, Copy)]
struct Wait {
    began: Instant,
    limit: Option<Duration>,
}

impl Wait {
    fn new(limit: Option<Duration>) -> Self {
        let began = Instant::now();
        Self { began, limit }
    }

    /// The part of `round` that fits into the limit; zero once it has passed.
    fn round(self, round: Duration) -> Duration {
        let left = (self.limit).map(|limit| limit.saturating_sub(self.began.elapsed()));
        left.map_or(round, |left| left.min(round))
    }

    /// The error once the limit has passed.
    fn late(self, stream: &StreamName, seq: Seq) -> Option<Trouble> {
        let limit = self.limit.filter(|limit| self.began.elapsed() >= *limit)?;
        let message = format!(
            "{stream} seq {seq} is not folded after {}",
            text::duration(limit)
        );
        Some(
            Trouble::new(Exit::Unfinished, "not_folded", message)
                .fact("goes on", "by itself: it is stored and will be applied")
                .fact("look", format!("hooklane why {}", quoted(stream))),
        )
    }
}

/// Times for which the daemon waits before it answers: short at first, because an event that cannot be
/// folded is set aside at once.
const ROUNDS: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(2)];

/// Waits until `seq` is folded, for as long as its stream flows.
async fn follow(
    reach: &Reach,
    stream: &StreamName,
    seq: Seq,
    waiting: Wait,
) -> anyhow::Result<Ended> {
    let [first, later] = ROUNDS;
    for round in std::iter::once(first).chain(std::iter::repeat(later)) {
        let round = waiting.round(round);
        let wait = format!("{}ms", round.as_millis());
        let query = [("min_seq", Some(seq.to_string())), ("wait", Some(wait))];
        let request = Request::get(state::path(stream, &query)).body(Bytes::new());
        let answer = reach.exchange(request, round).await?;
        match answer.status() {
            status if status.is_success() => return Ok(Ended::Folded(reach.read(&answer)?)),
            StatusCode::GATEWAY_TIMEOUT => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok(Ended::Unseen),
            _ if !reduces(reach, &stream.hook).await => return Ok(Ended::Stored),
            status => return Err(client::refused(status, answer.body()).into()),
        }
        if let Some(ended) = set_aside(reach, stream).await {
            return Ok(ended);
        }
        if let Some(late) = waiting.late(stream, seq) {
            return Ok(Ended::Late(late));
        }
    }
    Ok(Ended::Unseen)
}

/// True if the hook has a reducer, or cannot be read.
async fn reduces(reach: &Reach, hook: &Name) -> bool {
    let hook: Result<Hook, _> = reach.get(&format!("/v1/admin/hooks/{hook}")).await;
    hook.map_or(true, |hook| hook.spec.reduce.is_some())
}

async fn set_aside(reach: &Reach, name: &StreamName) -> Option<Ended> {
    // A read key may not ask this; the wait then goes on, until Ctrl-C.
    let stream = streams::look_up(reach, name).await.ok()?;
    let mut cursors = stream.cursors.iter();
    let row = cursors.find(|row| row.condition != Condition::Flowing)?;
    Some(Ended::SetAside(
        streams::cursor(row),
        streams::ways_out(row),
    ))
}

/// Number of characters of a state that are printed.
const STATE_SHOWN_MAX: usize = 60;

async fn tell_end(
    ended: Ended,
    later: Duration,
    stream: &StreamName,
    reach: &Reach,
    out: &mut Printer,
) -> anyhow::Result<Exit> {
    match ended {
        Ended::Folded(folded) => {
            let state = folded.state.as_deref().map_or("null", |state| state.get());
            let state: String = match state.chars().count() > STATE_SHOWN_MAX {
                true => state
                    .chars()
                    .take(STATE_SHOWN_MAX)
                    .chain("...".chars())
                    .collect(),
                false => state.to_owned(),
            };
            let lane = match streams::look_up(reach, stream).await {
                Ok(found) => format!(" in lane {}", plain(&found.lane)),
                Err(_) => String::new(),
            };
            out.say(format_args!(
                "folded     {} later{lane}   state {state}   hooklane state show {}",
                fine(later),
                quoted(stream)
            ))?;
            Ok(Exit::Done)
        }
        Ended::Stored => {
            out.say(format_args!(
                "stored     this hook has no reducer: nothing folds it"
            ))?;
            Ok(Exit::Done)
        }
        Ended::Unseen => {
            out.say(format_args!(
                "followed   no further: this key may not read the state"
            ))?;
            Ok(Exit::Done)
        }
        Ended::SetAside(cursor, ways) => {
            let mut facts = vec![("set aside", cursor)];
            facts.extend(ways);
            out.facts(&facts)?;
            Ok(Exit::Unfinished)
        }
        Ended::Late(trouble) => Err(trouble.into()),
    }
}

/// A lane of the default namespace by its place alone.
fn plain(lane: &LaneId) -> String {
    match lane.namespace == Name::default_namespace() {
        true => lane.index.to_string(),
        false => lane.to_string(),
    }
}

/// Waits until the last event of every stream is folded, and counts the folded ones.
async fn settle(
    summary: &mut Summary,
    hook: &Name,
    reach: &Reach,
    limit: Option<Duration>,
    out: &mut Printer,
) -> anyhow::Result<Exit> {
    let waiting = Wait::new(limit);
    let began = waiting.began;
    let streams: Vec<(StreamName, Sent)> = summary
        .streams
        .iter()
        .filter_map(|(name, sent)| Some((name.parse().ok()?, *sent)))
        .collect();
    let mut bar = Progress::new(
        "apply",
        "Ctrl-C stops watching; the events are stored and will be applied",
    );
    let of = streams.len() as u64;
    for (nth, (stream, sent)) in (0..).zip(streams) {
        out.progress(&mut bar, nth, of, None)?;
        out.on_ctrl_c(vec![
            (
                "stopped",
                format!(
                    "watching: {} of {} sent events were seen in a state",
                    text::count(summary.folded),
                    text::count(summary.accepted)
                ),
            ),
            ("", "all of them are stored and will be applied".to_owned()),
            ("look", format!("hooklane streams list --hook {hook}")),
        ]);
        match follow(reach, &stream, sent.last, waiting).await? {
            Ended::Folded(_) => summary.folded += sent.accepted,
            ended @ Ended::SetAside(..) => {
                summary.unfolded += sent.accepted;
                tell_end(ended, began.elapsed(), &stream, reach, out).await?;
            }
            ended => return tell_end(ended, began.elapsed(), &stream, reach, out).await,
        }
    }
    out.progress_ends(&bar)?;
    let (folded, accepted) = (text::count(summary.folded), text::count(summary.accepted));
    let later = fine(began.elapsed());
    let fate = match summary.unfolded {
        0 => "none lost, none out of order (checked)".to_owned(),
        left => {
            let left = text::counted(left, "event waits", "events wait");
            format!("{left} behind an event that is set aside")
        }
    };
    out.say(format_args!(
        "folded     {folded} of {accepted}, {later} later: {fate}"
    ))?;
    out.facts(&[("next     ", format!("hooklane streams list --hook {hook}"))])?;
    Ok(match summary.unfolded {
        0 => Exit::Done,
        _ => Exit::Unfinished,
    })
}

/// Formats short times with a tenth of a millisecond: `2.1ms`.
fn fine(long: Duration) -> String {
    match long.as_secs_f64() * 1000.0 {
        ms if ms < 100.0 => format!("{ms:.1}ms"),
        _ => text::duration(long),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::event::EventId;
    use crate::domain::time::Timestamp;

    fn accepted(seq: i64, duplicate: bool) -> Accepted {
        Accepted {
            event: EventId::from_bytes([0; 16]),
            hook: "a".parse().unwrap(),
            stream: OrderingKey::none(),
            seq: Some(Seq(seq)),
            received_at: Timestamp::from_millis(0),
            waits_until: None,
            duplicate,
        }
    }

    #[test]
    fn only_a_lane_of_the_default_namespace_goes_by_its_number() {
        assert_eq!(plain(&"default-115-3".parse().unwrap()), "3");
        assert_eq!(plain(&"default-eu-1-1".parse().unwrap()), "default-eu-1-1");
        assert_eq!(plain(&"acme-1-0".parse().unwrap()), "acme-1-0");
    }

    #[test]
    fn a_summary_counts_what_came_twice_and_what_came_in_disorder() {
        let mut summary = Summary::default();
        for (seq, duplicate) in [(4, false), (5, false), (4, true), (9, false), (7, false)] {
            summary.add(&accepted(seq, duplicate));
        }
        let counts = (summary.accepted, summary.duplicates, summary.disordered);
        assert_eq!(counts, (4, 1, 1));
        let sent = summary.streams["a"];
        assert_eq!((sent.first, sent.last), (Seq(4), Seq(9)));
    }

    #[test]
    fn a_body_is_a_text_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        std::fs::write(&path, b"\xff\x00").unwrap();
        assert_eq!(&body("{}").unwrap()[..], b"{}");
        assert_eq!(
            &body(&format!("@{}", path.display())).unwrap()[..],
            b"\xff\x00"
        );
        assert_eq!(body("@/nowhere/at/all").unwrap_err().exit, Exit::Usage);
    }
}
