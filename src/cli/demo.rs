//! `demo`: a node, its traffic and the dashboard in one process, followed by a check of everything.
//!
//! Promises: no setup, and nothing left behind, however it ends. Its final report was checked against
//! the senders' records; any difference gives exit code 1.

mod check;
mod echo;
mod traffic;

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use http::{Method, Request};
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing_subscriber::filter::Targets;

use super::print::Output;
use super::reach::{Reach, with_query};
use super::serve::Started;
use super::top::{self, Top};
use super::{Exit, Printer};
use crate::api::{
    EventRow, ForwardSpec, HookSpec, KeySpec, LanesSpec, LanesStopped, List, NewKey, Skip, State,
};
use crate::client::{Client, Secret, Target};
use crate::config::{Config, DataDir, Door, GRACE_DEFAULT, LANES_DEFAULT, Log};
use crate::domain::alert::Alerts;
use crate::domain::event::EventId;
use crate::domain::hook::{Reducer, Source};
use crate::domain::key::Kind;
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::time::parse_duration;
use crate::{text, tui::guard};
use check::Found;
use echo::Echo;
use traffic::{Ledger, Sender, Wish};

/// See it work: a node with traffic and the dashboard, nothing to set up
///
/// It starts a node in a temporary directory and posts real webhooks to it over HTTP. From time to time the
/// reducer rejects an event of one customer: only that stream is held, until the event is skipped. From time to
/// time the destination of the orders fails for one customer, and all customers send at once. q ends it; then it checks that nothing was lost, doubled or reordered, and
/// deletes the directory. Without a terminal it runs for 20 seconds. Exit 1 if a check fails.
///
/// Examples:
///   hooklane demo
///   hooklane demo --rate 500 --customers 40
///   hooklane demo --for 10s -o json
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Demo {
    /// Events a second, without the spikes
    #[arg(long, value_name = "PER SECOND", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Customers: each one is a stream
    #[arg(long, value_name = "COUNT", default_value_t = 12)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=500))]
    customers: u16,
    /// Duration [default: until q; 20s without a terminal]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    lasts: Option<Duration>,
    /// Keep the data directory, and say where it is
    #[arg(long)]
    keep: bool,
    /// Draw the dashboard in ASCII only
    #[arg(long)]
    ascii: bool,
}

/// Duration without a terminal.
const LASTS: Duration = Duration::from_secs(20);

/// Duration of a round: a poisoned event, its repair, a spike. A shorter demo has one shortened round.
const ROUND: Duration = Duration::from_secs(30);

/// Incidents of a round, each with its time as a fraction of the round.
const ROUND_HAS: [(f64, Moment); 5] = [
    (1.0 / 6.0, Moment::Poison),
    (11.0 / 30.0, Moment::Skip),
    (14.0 / 30.0, Moment::Spike),
    (18.0 / 30.0, Moment::Fail),
    (25.0 / 30.0, Moment::Answer),
];

/// Streams of the second hook: pages that are visited.
const PAGES: [&str; 4] = ["home", "prices", "docs", "jobs"];

/// Time limit for applying everything at the end.
const SETTLE_MAX: Duration = Duration::from_secs(30);

/// Interval between looks at the backlog.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Clone, Copy)]
enum Moment {
    Poison,
    Skip,
    Spike,
    Fail,
    Answer,
}

/// Result of the demo.
#[derive(Debug, Default, Serialize)]
struct Summary {
    streams: usize,
    sent: u64,
    accepted: u64,
    applied: u64,
    skipped: u64,
    delivered: u64,
    failed_tries: u64,
    repeated: u64,
    refused: u64,
    answer_p50_ms: f64,
    answer_p99_ms: f64,
    took_ms: u64,
    /// Everything that is wrong.
    troubles: Vec<String>,
}

impl Demo {
    /// Runs until the user quits, or the time is over.
    pub async fn run(self, out: &mut Printer) -> anyhow::Result<Exit> {
        guard::watch_signals()?;
        let dir = self.directory()?;
        let config = config(&dir).checked()?;
        let mut node = Started::begin(&config).await?;
        let shown = top::has_terminal() && out.output() == Output::Table;
        self.greet(&config, node.address(), out)?;

        let began = Instant::now();
        let reach = Reach::Daemon(Client::new(
            Target::Socket(config.data.socket()),
            None,
            Duration::from_secs(10),
        ));
        let mut stage = self.set(&reach, node.address()).await?;
        let lasts = self.lasts.or((!shown).then_some(LASTS));
        let ended = match shown {
            true => self.show(&mut stage, &reach, lasts, out).await,
            false => {
                tokio::select! {
                    ended = stage.play(&reach, lasts, Some(&mut *out)) => ended,
                    why = node.failed() => Err(anyhow::anyhow!(why.unwrap_or_default())),
                }
            }
        };
        ended?;
        let summary = stage.end(&reach, began).await?;
        node.stop(config.grace).await?;
        tell(&summary, out)?;
        match self.keep {
            true => {
                let dir = dir.keep();
                let dir = dir.display();
                out.say(format_args!(
                    "data     {dir}    again: hooklane serve --data {dir}"
                ))?;
            }
            false => dir.close().context("the demo's directory is left behind")?,
        }
        out.say(format_args!("next     hooklane serve"))?;
        out.object(&summary)?;
        Ok(match summary.troubles.is_empty() {
            true => Exit::Done,
            false => Exit::Failed,
        })
    }

    /// A directory that is deleted with the process, even when a signal ends it.
    fn directory(&self) -> anyhow::Result<TempDir> {
        let made = tempfile::Builder::new().prefix("hooklane-demo-").tempdir();
        let dir = made.with_context(|| {
            let place = std::env::temp_dir();
            format!("no directory can be made in {}", place.display())
        })?;
        if !self.keep {
            let path = dir.path().to_owned();
            guard::at_last(move || remove(&path));
        }
        Ok(dir)
    }

    fn greet(&self, config: &Config, at: SocketAddr, out: &mut Printer) -> std::io::Result<()> {
        let data = config.data.path().display();
        out.facts(&[
            (
                "demo   ",
                format!("one process: a node in {data}, listening on http://{at}"),
            ),
            (
                "hooks  ",
                "orders, ordered by body:/customer; visits, ordered by header:x-page; \
                 both folded by JavaScript; orders are delivered to echo, in this process"
                    .to_owned(),
            ),
            (
                "traffic",
                format!(
                    "{} POSTs a second over HTTP, {}, {}; now and then a spike, and an event that \
                     its reducer rejects; now and then echo fails for one customer",
                    self.rate,
                    text::counted(self.customers.into(), "customer", "customers"),
                    text::counted(PAGES.len() as u64, "page", "pages"),
                ),
            ),
        ])
    }

    /// Creates the hooks and a key, and starts the senders.
    async fn set(&self, reach: &Reach, at: SocketAddr) -> anyhow::Result<Stage> {
        let echo = Echo::start().await?;
        for (name, order_by, file, text) in HOOKS {
            let mut hook = HookSpec::new(name.parse()?);
            hook.order_by = order_by.parse()?;
            hook.reduce = Some(Reducer::Script(Arc::new(Source {
                file: file.to_owned(),
                text: text.to_owned(),
            })));
            if name == "orders" {
                let url = format!("http://{}/", echo.addr);
                hook.forward = vec![ForwardSpec::new("echo".parse()?, url.parse()?)];
            }
            let _: Value = reach
                .call(Method::POST, "/v1/admin/hooks", Some(&hook))
                .await?;
        }
        let key = KeySpec {
            kind: Kind::Write,
            hook: None,
            name: "demo".parse()?,
            consume: None,
            expires_in_ms: None,
            rate: None,
            burst: None,
        };
        let key: NewKey = reach
            .call(Method::POST, "/v1/admin/keys", Some(&key))
            .await?;
        let key = Secret::parse(&key.text)?;
        let streams = self.streams()?;
        let every = Duration::from_secs_f64(streams.len() as f64 / f64::from(self.rate));
        let (wishes, wished) = watch::channel(Wish::default());
        let (poisoned, told) = mpsc::unbounded_channel();
        let mut senders = JoinSet::new();
        for stream in &streams {
            let target = Target::parse(&format!("http://{at}"))?;
            let sender = Sender {
                client: Client::new(target, Some(key.clone()), Duration::from_secs(10)),
                every,
                poisoned: poisoned.clone(),
                ledger: Ledger::new(stream.clone()),
            };
            senders.spawn(sender.run(wished.clone()));
        }
        let is_customer = |stream: &StreamName| stream.hook.as_str() == "orders";
        Ok(Stage {
            customers: streams.into_iter().filter(is_customer).collect(),
            senders,
            wishes,
            told,
            poisoned: Vec::new(),
            echo,
        })
    }

    fn streams(&self) -> anyhow::Result<Vec<StreamName>> {
        let stream = |hook: &str, key: &str| -> anyhow::Result<StreamName> {
            Ok(StreamName {
                hook: hook.parse()?,
                key: OrderingKey::new(key.as_bytes()),
            })
        };
        let customers = (1..=self.customers).map(|nth| stream("orders", &format!("c{nth:02}")));
        let pages = PAGES.iter().map(|page| stream("visits", page));
        customers.chain(pages).collect()
    }

    /// Runs the dashboard until q.
    async fn show(
        &self,
        stage: &mut Stage,
        reach: &Reach,
        lasts: Option<Duration>,
        out: &mut Printer,
    ) -> anyhow::Result<()> {
        let top = Top::of_default(self.ascii);
        tokio::select! {
            ended = top.run(reach, out) => ended.map(drop)?,
            ended = stage.play(reach, lasts, None) => {
                guard::restore();
                ended?;
            }
        }
        Ok(())
    }
}

const HOOKS: [(&str, &str, &str, &str); 2] = [
    (
        "orders",
        "body:/customer",
        "orders.js",
        include_str!("demo/orders.js"),
    ),
    (
        "visits",
        "header:x-page",
        "visits.js",
        include_str!("demo/visits.js"),
    ),
];

fn config(dir: &TempDir) -> Config {
    Config {
        secret_key: None,
        allow_destinations: vec![std::net::IpAddr::from(Ipv4Addr::LOCALHOST).into()],
        alerts: Alerts::default(),
        data: DataDir::at(dir.path()),
        database: None,
        redis: None,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        lanes: LANES_DEFAULT,
        node: "demo".to_owned(),
        grace: GRACE_DEFAULT,
        door: Door::default(),
        log: Log::Files,
        log_level: Targets::new().with_default(tracing::Level::INFO),
        settings: Vec::new(),
    }
}

/// Removes a directory in which files may still be created.
fn remove(path: &std::path::Path) {
    for _ in 0..100 {
        // Repeats while files are created during the removal.
        let _ = std::fs::remove_dir_all(path);
        if !path.exists() {
            return;
        }
    }
}

/// The running senders, and the demo's control over them.
struct Stage {
    customers: Vec<StreamName>,
    senders: JoinSet<Ledger>,
    wishes: watch::Sender<Wish>,
    told: mpsc::UnboundedReceiver<(StreamName, EventId)>,
    /// Poisoned events that are not skipped yet.
    poisoned: Vec<(StreamName, EventId)>,
    /// Destination of the orders.
    echo: Echo,
}

impl Stage {
    /// Plays rounds for the given time. Without a dashboard it prints what happens.
    async fn play(
        &mut self,
        reach: &Reach,
        lasts: Option<Duration>,
        mut out: Option<&mut Printer>,
    ) -> anyhow::Result<()> {
        let began = tokio::time::Instant::now();
        let round = lasts.unwrap_or(ROUND).min(ROUND);
        for nth in 0u32.. {
            for (part, moment) in ROUND_HAS {
                let due = round * nth + round.mul_f64(part);
                if lasts.is_some_and(|lasts| due >= lasts) {
                    tokio::time::sleep_until(began + lasts.unwrap_or_default()).await;
                    return Ok(());
                }
                tokio::time::sleep_until(began + due).await;
                let said = self.happens(moment, nth as usize, reach).await;
                if let (Some(out), Some(said)) = (&mut out, said) {
                    let at = text::duration(due);
                    out.say(format_args!("{at:<7}  {said}"))?;
                }
            }
        }
        Ok(())
    }

    async fn happens(&mut self, moment: Moment, round: usize, reach: &Reach) -> Option<String> {
        match moment {
            Moment::Poison => {
                let unlucky =
                    Arc::new(self.customers[(6 + 5 * round) % self.customers.len()].clone());
                let said = format!(
                    "poison   {unlucky} gets an event that its reducer rejects: it alone is held"
                );
                let poisons = |wish: &mut Wish| wish.poisons = (wish.poisons.0 + 1, Some(unlucky));
                self.wishes.send_modify(poisons);
                Some(said)
            }
            Moment::Skip => {
                self.skip_poison(reach).await;
                Some("skip     that event goes to the dead letters, its stream goes on".to_owned())
            }
            Moment::Fail => {
                let unlucky = self.customers[(6 + 5 * round) % self.customers.len()].clone();
                self.echo.fail_for(Some(&unlucky));
                Some(format!(
                    "fail     echo answers 503 for {unlucky}: its deliveries alone wait"
                ))
            }
            Moment::Answer => {
                self.echo.fail_for(None);
                Some("answer   echo takes all again: what waits goes out in order".to_owned())
            }
            Moment::Spike => {
                self.wishes.send_modify(|wish| wish.spikes += 1);
                Some("spike    every sender sends without a pause".to_owned())
            }
        }
    }

    /// Skips the poisoned events that their streams have reached.
    async fn skip_poison(&mut self, reach: &Reach) {
        while let Ok(told) = self.told.try_recv() {
            self.poisoned.push(told);
        }
        let mut left = Vec::new();
        for (stream, event) in self.poisoned.drain(..) {
            let skip = Skip {
                stream: stream.clone(),
                handler: None,
                event,
            };
            let path = "/v1/admin/streams/skip";
            let skipped: Result<Value, _> = reach.call(Method::POST, path, Some(&skip)).await;
            if skipped.is_err() {
                left.push((stream, event));
            }
        }
        self.poisoned = left;
    }

    /// Stops the senders, waits until everything is applied, and checks it.
    async fn end(mut self, reach: &Reach, began: Instant) -> anyhow::Result<Summary> {
        self.wishes.send_modify(|wish| wish.stop = true);
        self.echo.fail_for(None);
        let senders = std::mem::take(&mut self.senders);
        let mut ledgers = senders.join_all().await;
        ledgers.sort_by_cached_key(|ledger| ledger.stream.to_string());
        let took = began.elapsed();
        self.settle(&ledgers, reach).await?;
        let dead = dead_letters(reach).await?;
        let mut summary = Summary {
            streams: ledgers.len(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            ..Summary::default()
        };
        for ledger in &ledgers {
            let found = find(reach, &ledger.stream, &dead).await?;
            summary.add(ledger, &found);
            if ledger.stream.hook.as_str() == "orders" {
                let events = ledger.sent.len() as u64;
                summary.delivered += self.echo.delivered(&ledger.stream);
                summary
                    .troubles
                    .extend(self.echo.troubles(&ledger.stream, events));
            }
        }
        summary.failed_tries = self.echo.failures();
        let mut answers: Vec<u32> = ledgers.into_iter().flat_map(|l| l.took).collect();
        answers.sort_unstable();
        let at = |percent: usize| {
            let place = answers.len().saturating_sub(1) * percent / 100;
            f64::from(answers.get(place).copied().unwrap_or(0)) / 1_000.0
        };
        (summary.answer_p50_ms, summary.answer_p99_ms) = (at(50), at(99));
        Ok(summary)
    }

    /// Resumes what the user stopped in the dashboard, and waits until every state is at its head.
    async fn settle(&mut self, ledgers: &[Ledger], reach: &Reach) -> anyhow::Result<()> {
        let all = LanesSpec {
            namespace: Name::default_namespace(),
            lanes: None,
            reason: None,
        };
        let path = "/v1/admin/lanes/resume";
        let _: LanesStopped = reach.call(Method::POST, path, Some(&all)).await?;
        let began = Instant::now();
        while began.elapsed() < SETTLE_MAX {
            self.skip_poison(reach).await;
            let mut is_done = true;
            for ledger in ledgers {
                let state = state_of(reach, &ledger.stream).await?;
                is_done &= state.position.0 >= ledger.sent.len() as i64;
                let is_order = ledger.stream.hook.as_str() == "orders";
                let delivered = self.echo.delivered(&ledger.stream);
                is_done &= !is_order || delivered >= ledger.sent.len() as u64;
            }
            if is_done {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        // The check reports events that are not applied by then.
        Ok(())
    }
}

async fn state_of(reach: &Reach, stream: &StreamName) -> anyhow::Result<State> {
    let path = super::state::path(stream, &[]);
    let answer = reach
        .exchange(Request::get(path).body(Default::default()), Duration::ZERO)
        .await?;
    Ok(reach.read(&answer)?)
}

/// Number of items in one list.
const PAGE: usize = 1_000;

async fn dead_letters(reach: &Reach) -> anyhow::Result<HashSet<EventId>> {
    let mut dead = HashSet::new();
    let mut after = None;
    loop {
        let query = [
            ("dead", Some("true".to_owned())),
            ("limit", Some(PAGE.to_string())),
            ("after", after),
        ];
        let page: List<EventRow> = reach.get(&with_query("/v1/admin/events", &query)).await?;
        dead.extend(page.items.iter().map(|row| row.event));
        after = page.next;
        if after.is_none() {
            return Ok(dead);
        }
    }
}

/// Reads everything stored of a stream.
async fn find(
    reach: &Reach,
    stream: &StreamName,
    dead: &HashSet<EventId>,
) -> anyhow::Result<Found> {
    let mut stored = Vec::new();
    let mut after = None;
    loop {
        let query = [
            ("stream", Some(stream.key.as_str().to_owned())),
            ("limit", Some(PAGE.to_string())),
            ("after_seq", after),
        ];
        let path = format!("/v1/hooks/{}/events", stream.hook);
        let page: List<EventRow> = reach.get(&with_query(&path, &query)).await?;
        let rows = page.items.into_iter();
        stored.extend(rows.map(|row| (row.event, row.body.unwrap_or_default())));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let state = state_of(reach, stream).await?;
    let is_here = |(event, _): &(EventId, String)| dead.contains(event).then_some(*event);
    Ok(Found {
        dead: stored.iter().filter_map(is_here).collect(),
        stored,
        position: state.position,
        head: state.head,
        state: match &state.state {
            Some(text) => serde_json::from_str(text.get())?,
            None => Value::Null,
        },
    })
}

impl Summary {
    fn add(&mut self, ledger: &Ledger, found: &Found) {
        self.sent += ledger.events;
        self.accepted += ledger.sent.len() as u64;
        let passed = u64::try_from(found.position.0).unwrap_or(0);
        self.skipped += found.dead.len() as u64;
        self.applied += passed.saturating_sub(found.dead.len() as u64);
        self.repeated += ledger.repeated;
        self.refused += ledger.refused;
        self.troubles.extend(check::troubles(ledger, found));
    }
}

/// Number of problems printed at most.
const SAID_MAX: usize = 10;

fn tell(summary: &Summary, out: &mut Printer) -> std::io::Result<()> {
    let count = text::count;
    let fate = match summary.troubles.is_empty() {
        true => "none lost, none doubled, none out of order, every state as sent (checked)",
        false => "NOT AS SENT",
    };
    let ended = format!(
        "ended after {}: {} sent, {} accepted, {} applied, {} skipped, {} delivered: {fate}",
        text::duration(Duration::from_millis(summary.took_ms)),
        count(summary.sent),
        count(summary.accepted),
        count(summary.applied),
        count(summary.skipped),
        count(summary.delivered),
    );
    let answers = format!(
        "{} streams; answers, each after its event was on disk: p50 {:.1}ms p99 {:.1}ms; {} sent twice, each stored once; echo failed {} times",
        summary.streams,
        summary.answer_p50_ms,
        summary.answer_p99_ms,
        count(summary.repeated),
        count(summary.failed_tries),
    );
    // As wide as the labels of the other lines.
    out.facts(&[("demo   ", ended), ("       ", answers)])?;
    for trouble in summary.troubles.iter().take(SAID_MAX) {
        out.say(format_args!("off      {trouble}"))?;
    }
    if let Some(more) = summary.troubles.len().checked_sub(SAID_MAX + 1) {
        out.say(format_args!("off      and {} more", more + 1))?;
    }
    Ok(())
}
