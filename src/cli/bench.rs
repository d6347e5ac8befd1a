//! `bench`: measures how many events a daemon accepts and applies.
//!
//! Promises: it works in its own namespace, which is deleted with everything in it, also after Ctrl-C.
//! Order and number of events are checked at both ends: by the seqs in the answers, and by a reducer
//! that sees every event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use http::{Method, Request, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::reach::{Reach, with_query};
use super::{Exit, Printer, Trouble, state};
use crate::api::{Accepted, HookSpec, KeySpec, Lane, List, NamespaceSpec, NewKey, State};
use crate::client::{Client, Secret, Target};
use crate::domain::hook::{BODY_MAX_DEFAULT, Reducer, Source};
use crate::domain::key::Kind;
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::time::parse_duration;
use crate::text;

/// Measure how many events a daemon accepts and applies
///
/// Posts over HTTP from 64 connections to a hook in a namespace of its own, which is deleted at the end. Each
/// answer comes after its event is on disk. It shares the machine and the disk with everything else the
/// daemon does. Exit 1 when an event was lost, doubled or out of order.
///
/// Examples:
///   hooklane bench
///   hooklane bench --for 10s --streams 50 --rate 1000
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Bench {
    /// Duration of the run
    #[arg(long = "for", value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    lasts: Duration,
    /// Over how many streams
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    streams: u32,
    /// Bytes of a body
    #[arg(long, value_name = "BYTES", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u64).range(64..=BODY_MAX_DEFAULT))]
    size: u64,
    /// Events a second at most [default: no limit]
    #[arg(long, value_name = "PER SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
}

/// Number of connections that post.
const CONNECTIONS: u32 = 64;

/// Number of lanes of the namespace.
const LANES: u16 = 8;

/// A reducer that counts events that do not directly follow the previous one.
const REDUCER: &str = "export default (state, { body }) => ({ n: body.n, \
    off: (state?.off ?? 0) + (body.n === (state?.n ?? 0) + 1 ? 0 : 1) });";

/// Time limit of one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time limit for applying the last events while nothing progresses.
const STILL_MAX: Duration = Duration::from_secs(30);

/// Interval between looks at the backlog, and pause of a refused sender.
const LOOK: Duration = Duration::from_millis(50);

/// Result of the measurement.
#[derive(Debug, Default, Serialize)]
struct Summary {
    connections: u32,
    streams: u32,
    size: u64,
    took_ms: u64,
    accepted: u64,
    accepted_per_s: f64,
    refused: u64,
    answer_p50_ms: f64,
    answer_p99_ms: f64,
    applied: u64,
    applied_per_s: f64,
    /// Everything that is wrong.
    troubles: Vec<String>,
}

impl Bench {
    /// Measures, checks, and deletes what it created.
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let Reach::Daemon(client) = reach else {
            return Err(Trouble::new(Exit::Unreachable, "no_daemon", "this needs a daemon").into());
        };
        let here = reach.here().await?;
        let name: Name = format!("bench-{:08x}", rand::random::<u32>()).parse()?;
        out.say(format_args!(
            "bench     {} connections, {}, bodies of {}, for {}   {}",
            self.connections(),
            text::counted(self.streams.into(), "stream", "streams"),
            text::size(self.size),
            text::duration(self.lasts),
            reach.planned(&here)
        ))?;
        out.say(format_args!(
            "          in namespace {name}, {LANES} lanes, deleted at the end; Ctrl-C ends it early"
        ))?;
        let measured = self.measure(&name, client.target(), reach).await;
        let removed = remove(&name, reach).await;
        if removed.is_err() {
            out.say(format_args!(
                "left      hooklane hooks delete {name}, then hooklane namespaces delete {name}"
            ))?;
        }
        let summary = measured?;
        removed?;
        tell(&summary, out)?;
        out.object(&summary)?;
        Ok(match summary.troubles.is_empty() {
            true => Exit::Done,
            false => Exit::Failed,
        })
    }

    fn connections(&self) -> u32 {
        CONNECTIONS.min(self.streams)
    }

    async fn measure(
        &self,
        name: &Name,
        target: &Target,
        reach: &Reach,
    ) -> anyhow::Result<Summary> {
        let key = make(name, target, reach).await?;
        let (stop, stopping) = watch::channel(false);
        let mut senders = JoinSet::new();
        let began = Instant::now();
        for nth in 0..self.connections() {
            let streams = (nth..self.streams).step_by(self.connections() as usize);
            let each = self.rate.map(|rate| {
                Duration::from_secs_f64(f64::from(self.connections()) / f64::from(rate))
            });
            let sender = Sender {
                client: Client::new(target.clone(), key.clone(), PATIENCE),
                path: format!("/in/{name}"),
                size: self.size,
                each,
                sent: streams.map(|stream| (stream, 0)).collect(),
                took: Histogram::new(3)?,
                refused: 0,
                troubles: Vec::new(),
            };
            senders.spawn(sender.run(stopping.clone()));
        }
        tokio::select! {
            () = tokio::time::sleep(self.lasts) => {}
            () = asked_to_end() => {}
        }
        stop.send_replace(true);
        let senders = senders.join_all().await;
        let took = began.elapsed();
        settle(name, reach).await?;
        let applied_in = began.elapsed();

        let mut answers = Histogram::<u64>::new(3)?;
        let mut summary = Summary {
            connections: self.connections(),
            streams: self.streams,
            size: self.size,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            ..Summary::default()
        };
        for sender in senders {
            answers.add(&sender.took)?;
            summary.refused += sender.refused;
            summary.troubles.extend(sender.troubles);
            for (stream, sent) in sender.sent {
                summary.accepted += sent;
                let (applied, trouble) = check(name, stream, sent, reach).await?;
                summary.applied += applied;
                summary.troubles.extend(trouble);
            }
        }
        let ms = |quantile| answers.value_at_quantile(quantile) as f64 / 1_000.0;
        (summary.answer_p50_ms, summary.answer_p99_ms) = (ms(0.5), ms(0.99));
        summary.accepted_per_s = summary.accepted as f64 / took.as_secs_f64();
        summary.applied_per_s = summary.applied as f64 / applied_in.as_secs_f64();
        Ok(summary)
    }
}

/// Waits for a signal to end.
async fn asked_to_end() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(_) => std::future::pending().await,
    }
}

/// Creates the namespace, its hook, and a key if one is needed.
async fn make(name: &Name, target: &Target, reach: &Reach) -> anyhow::Result<Option<Secret>> {
    let namespace = NamespaceSpec {
        name: name.clone(),
        lanes: LANES,
        warn_ms: None,
        crit_ms: None,
    };
    let post = Method::POST;
    let path = "/v1/admin/namespaces";
    let _: Value = reach.call(post.clone(), path, Some(&namespace)).await?;
    let mut hook = HookSpec::new(name.clone());
    hook.namespace = name.clone();
    hook.order_by = "body:/s".parse()?;
    hook.reduce = Some(Reducer::Script(Arc::new(Source {
        file: "bench.js".to_owned(),
        text: REDUCER.to_owned(),
    })));
    let path = "/v1/admin/hooks";
    let _: Value = reach.call(post.clone(), path, Some(&hook)).await?;
    if matches!(target, Target::Socket(_)) {
        return Ok(None);
    }
    let key = KeySpec {
        kind: Kind::Write,
        hook: Some(name.clone()),
        name: name.clone(),
        consume: None,
        expires_in_ms: Some(24 * 3_600_000),
        rate: None,
        burst: None,
    };
    let made: NewKey = reach.call(post, "/v1/admin/keys", Some(&key)).await?;
    // Every node knows the key within two seconds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(Some(Secret::parse(&made.text)?))
}

/// Deletes what was created; the key is useless once its hook is deleted.
async fn remove(name: &Name, reach: &Reach) -> anyhow::Result<()> {
    for path in ["hooks", "namespaces"].map(|kind| format!("/v1/admin/{kind}/{name}")) {
        let request = Request::delete(path).body(Bytes::new());
        let answer = reach.exchange(request, PATIENCE).await?;
        // The object may never have been created.
        if answer.status() != StatusCode::NOT_FOUND {
            let _: Value = reach.read(&answer)?;
        }
    }
    Ok(())
}

/// One connection, with the streams that only it posts to.
struct Sender {
    client: Client,
    path: String,
    size: u64,
    /// Time between two posts; `None` posts without a pause.
    each: Option<Duration>,
    /// Streams with their number of accepted events.
    sent: Vec<(u32, u64)>,
    /// Answer times in microseconds.
    took: Histogram<u64>,
    refused: u64,
    troubles: Vec<String>,
}

impl Sender {
    async fn run(mut self, stopping: watch::Receiver<bool>) -> Self {
        let mut due = tokio::time::Instant::now();
        if let Some(each) = self.each {
            due += each.mul_f64(rand::random());
        }
        for nth in (0..self.sent.len()).cycle() {
            tokio::time::sleep_until(due).await;
            if *stopping.borrow() || !self.troubles.is_empty() {
                break;
            }
            self.post(nth).await;
            match self.each {
                Some(each) => due += each,
                None => due = tokio::time::Instant::now(),
            }
        }
        self
    }

    async fn post(&mut self, nth: usize) {
        let (stream, before) = self.sent[nth];
        let n = before + 1;
        let began = Instant::now();
        let answer = match Request::post(&self.path)
            .header("content-type", "application/json")
            .body(body(stream, n, self.size))
        {
            Ok(request) => self.client.exchange(request, Duration::ZERO).await,
            Err(error) => return self.troubles.push(error.to_string()),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return self.troubles.push(error.to_string()),
        };
        match answer.status() {
            StatusCode::ACCEPTED => {
                let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                // The histogram grows as needed, so recording cannot fail.
                let _ = self.took.record(took);
                self.sent[nth].1 = n;
                let accepted = serde_json::from_slice::<Accepted>(answer.body());
                let seq = accepted
                    .map(|accepted| accepted.seq.map_or(0, |seq| seq.0))
                    .unwrap_or(0);
                if u64::try_from(seq) != Ok(n) {
                    let trouble =
                        format!("event {n} of stream s{stream} was answered as seq {seq}");
                    self.troubles.push(trouble);
                }
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                self.refused += 1;
                tokio::time::sleep(LOOK).await;
            }
            status => self
                .troubles
                .push(format!("event {n} of s{stream}: {status}")),
        }
    }
}

/// A body of `size` bytes: `{"s":"s17","n":4,"pad":"…"}`.
fn body(stream: u32, n: u64, size: u64) -> Bytes {
    let mut body = format!("{{\"s\":\"s{stream}\",\"n\":{n},\"pad\":\"");
    let size = usize::try_from(size)
        .unwrap_or(usize::MAX)
        .max(body.len() + 2);
    body.extend(std::iter::repeat_n('x', size - 2 - body.len()));
    body.push_str("\"}");
    body.into()
}

/// Waits until the backlog is empty, or no longer shrinks.
async fn settle(name: &Name, reach: &Reach) -> anyhow::Result<()> {
    let path = with_query("/v1/admin/lanes", &[("namespace", Some(name.to_string()))]);
    let (mut least, mut at) = (u64::MAX, Instant::now());
    loop {
        let lanes: List<Lane> = reach.get(&path).await?;
        let left: u64 = lanes.items.iter().map(|lane| lane.backlog).sum();
        if left < least {
            (least, at) = (left, Instant::now());
        }
        // The check reports events that are not applied by then.
        if left == 0 || at.elapsed() > STILL_MAX {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Number of applied events of a stream, and what is wrong with them.
async fn check(
    name: &Name,
    stream: u32,
    sent: u64,
    reach: &Reach,
) -> anyhow::Result<(u64, Option<String>)> {
    let stream = StreamName {
        hook: name.clone(),
        key: OrderingKey::new(format!("s{stream}").as_bytes()),
    };
    if sent == 0 {
        return Ok((0, None));
    }
    let wait = [
        ("min_seq", Some(sent.to_string())),
        ("wait", Some("5s".to_owned())),
    ];
    let request = Request::get(state::path(&stream, &wait)).body(Bytes::new());
    let answer = reach.exchange(request, Duration::from_secs(5)).await?;
    let state: State = match answer.status() {
        // The stream has not reached the position; the answer contains its state.
        StatusCode::GATEWAY_TIMEOUT => serde_json::from_slice(answer.body())?,
        _ => reach.read(&answer)?,
    };
    let applied = u64::try_from(state.position.0).unwrap_or(0);
    let found = state.state.as_deref().map_or("null", |state| state.get());
    let found: Value = serde_json::from_str(found)?;
    let is_right = applied == sent && found == json!({"n": sent, "off": 0});
    let trouble = format!("{stream}: {sent} accepted, its state is {found} at {applied}");
    Ok((applied, (!is_right).then_some(trouble)))
}

/// Number of problems printed at most.
const SAID_MAX: usize = 10;

fn tell(summary: &Summary, out: &mut Printer) -> std::io::Result<()> {
    let took = text::duration(Duration::from_millis(summary.took_ms));
    out.say(format_args!(
        "accepted  {} in {took}, {}/s; answers p50 {:.1}ms p99 {:.1}ms, each after its event was on disk; \
         {} refused",
        text::count(summary.accepted),
        text::count(summary.accepted_per_s as u64),
        summary.answer_p50_ms,
        summary.answer_p99_ms,
        text::count(summary.refused)
    ))?;
    out.say(format_args!(
        "applied   {}, {}/s, by a JavaScript reducer",
        text::count(summary.applied),
        text::count(summary.applied_per_s as u64)
    ))?;
    if summary.troubles.is_empty() {
        let streams = text::counted(summary.streams.into(), "stream", "streams");
        return out.say(format_args!(
            "order     {streams}: answered and applied 1, 2, 3 ..., none lost, none doubled (checked)"
        ));
    }
    for trouble in summary.troubles.iter().take(SAID_MAX) {
        out.say(format_args!("off       {trouble}"))?;
    }
    if let Some(more) = summary.troubles.len().checked_sub(SAID_MAX + 1) {
        out.say(format_args!("off       and {} more", more + 1))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_the_size_that_was_asked_for() {
        for (stream, n, size) in [(0, 1, 64), (99_999, 1_000_000, 64), (7, 3, 512)] {
            let body = body(stream, n, size);
            assert_eq!(body.len() as u64, size);
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(
                (&body["s"], &body["n"]),
                (&json!(format!("s{stream}")), &json!(n))
            );
        }
    }
}
