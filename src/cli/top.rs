//! `top`: the dashboard; without a terminal, one plain picture.

mod journal;
mod report;

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _, stdin, stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use crossterm::event::{Event, KeyEventKind, read};
use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use http::Method;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use serde_json::Value;
use tokio::sync::mpsc;

use journal::Journal;

use super::print::Output;
use super::reach::{Reach, encoded, with_query};
use super::{Exit, Printer};
use crate::api::feed::{Frame, apply, unstilled};
use crate::api::{
    Diagnosis, EventRow, Hold, HookStopSpec, LaneDetail, LanesSpec, LanesStopped, List, Resize,
    ResizeSpec, Retry, Sample, Skip, Snapshot, Stream, Window,
};
use crate::client;
use crate::domain::event::EventId;
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::{Timestamp, parse_duration};
use crate::tui::app::{App, Message};
use crate::tui::effect::{Action, Effect};
use crate::tui::theme::Theme;
use crate::tui::view::StreamShown;
use crate::tui::{self, guard};

/// Watch the lanes live and operate them: what is late, whose fault it is, what helps
///
/// Every action shows a plan and asks first. If stdout is not a terminal, it prints one plain picture. -o json
/// prints one snapshot, -o jsonl one a second for as long as it runs.
///
/// Examples:
///   hooklane top
///   hooklane top --once
///   hooklane top --read-only --interval 5s --window 1h
///   hooklane top --log-file top.log
///   hooklane top -o jsonl
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Top {
    /// Namespace to show
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: Name,
    /// Print one picture and end
    #[arg(long)]
    once: bool,
    /// Time between two updates of the screen
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// Window of the charts: 1m, 5m, 15m or 1h
    #[arg(long, value_name = "WINDOW", default_value = "15m", value_parser = window)]
    window: Window,
    /// Draw in ASCII only, as where the locale has no UTF-8
    #[arg(long)]
    ascii: bool,
    /// Allow no actions
    #[arg(long)]
    read_only: bool,
    /// Append the log of the dashboard to this file
    #[arg(long, value_name = "PATH", conflicts_with = "once")]
    log_file: Option<PathBuf>,
}

/// Longest pause before a lost daemon is asked again.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Interval at which the clock on the screen advances while nothing else changes.
const TICK: Duration = Duration::from_secs(1);

/// Width of a picture without a terminal.
const WIDTH: usize = 140;

/// True if there is a user who can press keys.
pub fn has_terminal() -> bool {
    let term = std::env::var("TERM").unwrap_or_default();
    stdin().is_terminal() && stdout().is_terminal() && !matches!(&*term, "" | "dumb")
}

impl Top {
    /// The dashboard of the default namespace.
    pub fn of_default(ascii: bool) -> Self {
        Self {
            namespace: Name::default_namespace(),
            once: false,
            interval: TICK,
            window: Window::default(),
            ascii,
            read_only: false,
            log_file: None,
        }
    }

    /// Runs until the user quits.
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let var = |name: &str| std::env::var(name).ok();
        let mut theme = Theme::of(var, self.ascii);
        theme.colour &= !out.is_colourless();
        let interval = self.interval.max(Duration::from_millis(100));
        let mut app = App::new(self.namespace.clone(), theme, self.read_only, interval);
        (app.window, app.place) = (self.window, place(reach));
        let journal = self.log_file.as_deref().map(Journal::open).transpose()?;
        if out.output() == Output::Jsonl && !self.once {
            return lines(&app, journal, reach, out).await;
        }
        if self.once || !has_terminal() || out.output() != Output::Table {
            return picture(app, journal, reach, out).await;
        }
        // The first answer is awaited before the screen is taken over, so that an error is readable.
        let first = reach.get(&SnapshotRequest::of(&app).path(ONCE)).await?;
        app.update(Message::Snapshot(Box::new(first)));
        guard::on_panic(move |panic| report::report(panic, self.log_file.as_deref()));
        guard::watch()?;
        guard::take()?;
        let ended = show(&mut app, journal, reach).await;
        guard::restore();
        if ended? {
            let width = usize::from(app.size.0).max(1);
            out.line(tui::plain(&app, width).trim_end())?;
        }
        Ok(Exit::Done)
    }
}

fn window(text: &str) -> Result<Window, &'static str> {
    text.parse()
}

/// Short description of where the daemon is.
fn place(reach: &Reach) -> String {
    match reach {
        Reach::Daemon(client) => match client.target() {
            client::Target::Socket(path) => {
                let name = path.file_name().unwrap_or(path.as_os_str());
                name.to_string_lossy().into_owned()
            }
            target @ client::Target::Tcp { .. } => target.to_string(),
        },
        Reach::Offline(_) => String::new(),
    }
}

/// The snapshot that the dashboard requests.
struct SnapshotRequest {
    namespace: Name,
    window: Window,
    interval: Duration,
}

impl SnapshotRequest {
    fn of(app: &App) -> Self {
        Self {
            namespace: app.namespace.clone(),
            window: app.window,
            interval: app.interval,
        }
    }

    fn path(&self, route: &str) -> String {
        let namespace = Some(self.namespace.to_string());
        let window = Some(self.window.word().to_owned());
        with_query(route, &[("namespace", namespace), ("window", window)])
    }
}

const ONCE: &str = "/v1/admin/snapshot";

async fn picture(
    mut app: App,
    journal: Option<Journal>,
    reach: &Reach,
    out: &mut Printer,
) -> anyhow::Result<Exit> {
    let snapshot: Snapshot = reach.get(&SnapshotRequest::of(&app).path(ONCE)).await?;
    if !out.object(&snapshot)? {
        app.now = Timestamp::now();
        let message = Message::Snapshot(Box::new(snapshot));
        if let Some(mut journal) = journal {
            journal.note(&message, app.now)?;
        }
        app.update(message);
        out.line(tui::plain(&app, WIDTH).trim_end())?;
    }
    Ok(Exit::Done)
}

/// Prints a snapshot per line until the output is closed.
async fn lines(
    app: &App,
    mut journal: Option<Journal>,
    reach: &Reach,
    out: &mut Printer,
) -> anyhow::Result<Exit> {
    let mut feed = Feed::open(reach, &SnapshotRequest::of(app)).await?;
    let mut shown = Instant::now();
    let mut is_first = true;
    while let Some(snapshot) = feed.next().await? {
        if is_first || shown.elapsed() >= almost(app.interval) {
            (shown, is_first) = (Instant::now(), false);
            out.object(&snapshot)?;
            out.flush()?;
        }
        if let Some(journal) = &mut journal {
            journal.note(&Message::Snapshot(Box::new(snapshot)), Timestamp::now())?;
        }
    }
    Ok(Exit::Done)
}

/// Slightly less than the interval, because snapshots do not come at exact intervals.
fn almost(interval: Duration) -> Duration {
    interval.saturating_sub(TICK / 2)
}

const LIVE: &str = "/v1/admin/snapshot/live";

/// The live feed, with the snapshot assembled so far.
struct Feed {
    followed: client::Followed,
    value: Value,
    history: VecDeque<Sample>,
    steps: usize,
}

impl Feed {
    async fn open(reach: &Reach, asked: &SnapshotRequest) -> anyhow::Result<Self> {
        Ok(Self {
            followed: reach.follow(&asked.path(LIVE)).await?,
            value: Value::Null,
            history: VecDeque::new(),
            steps: asked.window.steps().0,
        })
    }

    /// The snapshot after the next message; `None` when the daemon ends the feed.
    async fn next(&mut self) -> anyhow::Result<Option<Snapshot>> {
        let next = tokio::time::timeout(SILENT, self.followed.next()).await;
        let Some(text) = next.context("no news from the daemon for 3s")?? else {
            return Ok(None);
        };
        let frame: Frame = serde_json::from_str(&text)?;
        if let Some(mut whole) = frame.whole {
            let history = whole["history"].take();
            self.history = serde_json::from_value(history)?;
            self.value = whole;
            self.value["history"] = Value::Array(Vec::new());
        }
        if let Some(change) = frame.change {
            apply(&mut self.value, Arc::unwrap_or_clone(change))
                .context("the daemon told a change of something else")?;
        }
        self.history.extend(frame.past);
        while self.history.len() > self.steps {
            self.history.pop_front();
        }
        let value = unstilled(self.value.clone()).context("the daemon told no snapshot")?;
        let mut snapshot: Snapshot = serde_json::from_value(value)?;
        snapshot.history = self.history.iter().copied().collect();
        Ok(Some(snapshot))
    }
}

/// Silence of the daemon after which it counts as lost.
const SILENT: Duration = Duration::from_secs(3);

/// Draws and handles input until the user quits; true if the screen should remain visible.
async fn show(app: &mut App, mut journal: Option<Journal>, reach: &Reach) -> anyhow::Result<bool> {
    let mut terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
    let (told, mut messages) = mpsc::unbounded_channel();
    keys(told.clone())?;
    let follow = |app: &App| Box::pin(feed(SnapshotRequest::of(app), reach, told.clone()));
    let mut following = follow(app);
    let mut asked: FuturesUnordered<LocalBoxFuture<'_, Message>> = FuturesUnordered::new();
    let mut clock = tokio::time::interval(TICK);
    let mut pending = None;
    loop {
        app.now = Timestamp::now();
        if pending.is_none() {
            let size = terminal.size()?;
            app.size = (size.width, size.height);
            let _screen = guard::drawing();
            terminal.draw(|frame| tui::draw(app, frame))?;
        }
        let message = match pending.take() {
            Some(message) => message,
            None => tokio::select! {
                message = messages.recv() => message.unwrap_or(Message::Redraw),
                () = &mut following => Message::Redraw,
                Some(answer) = asked.next(), if !asked.is_empty() => answer,
                _ = clock.tick() => Message::Redraw,
            },
        };
        let noted = journal
            .as_mut()
            .map(|journal| journal.note(&message, app.now));
        let want = app.update(message);
        if let Some(Err(error)) = noted {
            journal = None;
            app.note = Some(format!("--log-file ends here: {error}"));
        }
        // Messages that have arrived meanwhile are handled before the next drawing.
        pending = messages.try_recv().ok();
        let Some(want) = want else {
            continue;
        };
        match want {
            Effect::Quit { leave_screen } => return Ok(leave_screen),
            Effect::Interrupt => guard::leave(130),
            Effect::Suspend => {
                guard::restore();
                rustix::process::kill_current_process_group(rustix::process::Signal::TSTP)?;
                guard::take()?;
                // A new terminal object, because clearing the old one asks the terminal for its cursor
                // position, and the key reader would get the answer.
                terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
            }
            Effect::Copy(text) => {
                // Sets the terminal's clipboard, also over ssh: OSC 52.
                print!("\u{1b}]52;c;{}\u{7}", STANDARD.encode(&text));
                stdout().flush()?;
                app.note = Some(format!("copied {text}"));
            }
            Effect::Save => app.note = Some(saved(app)),
            Effect::Follow => following = follow(app),
            want => {
                // A request that is dropped here is repeated with the next snapshot.
                if asked.len() < ASKED_MAX {
                    asked.push(answer(reach, app.namespace.clone(), want));
                }
            }
        }
    }
}

/// Number of requests under way at once.
const ASKED_MAX: usize = 8;

fn answer(reach: &Reach, namespace: Name, want: Effect) -> LocalBoxFuture<'_, Message> {
    match want {
        Effect::Lane(lane) => Box::pin(lane_of(reach, namespace, lane)),
        Effect::Stream(stream, handler) => Box::pin(stream_of(reach, stream, handler)),
        Effect::Events(hook, stream, count) => Box::pin(events_of(reach, hook, stream, count)),
        Effect::Event(event) => Box::pin(event_of(reach, event)),
        Effect::Plan(lanes) => Box::pin(plan(reach, namespace, lanes)),
        Effect::Do(action) => Box::pin(act(reach, namespace, action)),
        _ => Box::pin(std::future::ready(Message::Redraw)),
    }
}

/// Starts a thread that reads keys, because reading blocks.
fn keys(told: mpsc::UnboundedSender<Message>) -> std::io::Result<()> {
    let read_all = move || {
        loop {
            let message = match read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Message::Key(key),
                Ok(_) => Message::Redraw,
                // The guard notices that the terminal is gone.
                Err(_) => return,
            };
            if told.send(message).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("keys".to_owned());
    thread.spawn(read_all).map(drop)
}

/// Follows the feed until dropped. A lost daemon is asked at growing intervals of up to five seconds.
async fn feed(asked: SnapshotRequest, reach: &Reach, told: mpsc::UnboundedSender<Message>) {
    let mut wait = Duration::ZERO;
    loop {
        let lost = match follow(&asked, reach, &told, &mut wait).await {
            Ok(()) => "the daemon has ended the feed".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        wait = (wait * 2).clamp(Duration::from_millis(500), RETRY_MAX);
        let pause = wait.mul_f64(rand::random_range(0.8..1.2)).min(RETRY_MAX);
        let retry_at = Timestamp::now().after(pause);
        if told
            .send(Message::Lost {
                why: lost,
                retry_at,
            })
            .is_err()
        {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Passes on snapshots until the feed ends.
async fn follow(
    asked: &SnapshotRequest,
    reach: &Reach,
    told: &mpsc::UnboundedSender<Message>,
    wait: &mut Duration,
) -> anyhow::Result<()> {
    let mut feed = Feed::open(reach, asked).await?;
    let mut shown: Option<Instant> = None;
    while let Some(snapshot) = feed.next().await? {
        *wait = Duration::ZERO;
        if shown.is_none_or(|shown| shown.elapsed() >= almost(asked.interval)) {
            shown = Some(Instant::now());
            told.send(Message::Snapshot(Box::new(snapshot)))?;
        }
    }
    Ok(())
}

async fn lane_of(reach: &Reach, namespace: Name, lane: LaneId) -> Message {
    let query = [
        ("namespace", Some(namespace.to_string())),
        ("lane", Some(lane.to_string())),
        ("top", Some("100".to_owned())),
    ];
    let path = with_query("/v1/admin/lanes/show", &query);
    Message::Lane(said(reach.get::<LaneDetail>(&path).await).map(Box::new))
}

async fn stream_of(reach: &Reach, name: StreamName, handler: Option<Name>) -> Message {
    Message::Stream(said(shown_stream(reach, name, handler).await).map(Box::new))
}

async fn shown_stream(
    reach: &Reach,
    name: StreamName,
    handler: Option<Name>,
) -> Result<StreamShown, client::Error> {
    let of_stream = [("stream", Some(name.to_string()))];
    let stream: Stream = reach
        .get(&with_query("/v1/admin/streams/show", &of_stream))
        .await?;
    let why: Diagnosis = reach.get(&with_query("/v1/admin/why", &of_stream)).await?;
    let named = |row: &&crate::api::StreamRow| Some(&row.handler) == handler.as_ref();
    let selected = stream.cursors.iter().find(named);
    let behind = stream.cursors.iter().find(|row| row.behind > 0);
    let row = selected.or(behind).or_else(|| stream.cursors.first());
    let waiting = match row {
        Some(row) if row.behind > 0 => {
            let path = format!("/v1/hooks/{}/events", encoded(name.hook.as_str()));
            let query = [
                ("stream", Some(name.key.as_str().to_owned())),
                ("after_seq", Some(row.position.0.to_string())),
                ("limit", Some(WAITING_SHOWN.to_string())),
            ];
            reach
                .get::<List<EventRow>>(&with_query(&path, &query))
                .await?
                .items
        }
        _ => Vec::new(),
    };
    Ok(StreamShown {
        handler: row.map(|row| row.handler.clone()),
        stream,
        why,
        waiting,
    })
}

/// Number of waiting events shown of a stream.
const WAITING_SHOWN: usize = 10;

async fn events_of(
    reach: &Reach,
    hook: Option<Name>,
    stream: Option<StreamName>,
    count: usize,
) -> Message {
    let query = [
        ("hook", hook.map(|hook| hook.to_string())),
        ("stream", stream.map(|stream| stream.to_string())),
        ("limit", Some(count.to_string())),
    ];
    let path = with_query("/v1/admin/events", &query);
    let list = reach.get::<List<EventRow>>(&path).await;
    Message::Events(said(list).map(|list| list.items))
}

async fn event_of(reach: &Reach, event: EventId) -> Message {
    let path = format!("/v1/admin/events/{event}");
    Message::Event(said(reach.get::<EventRow>(&path).await).map(Box::new))
}

async fn plan(reach: &Reach, namespace: Name, lanes: u16) -> Message {
    let spec = resize(namespace, lanes, None, true);
    let path = "/v1/admin/lanes/resize";
    Message::Plan(said(reach.call(Method::POST, path, Some(&spec)).await))
}

fn resize(namespace: Name, lanes: u16, plan: Option<&Resize>, dry_run: bool) -> ResizeSpec {
    ResizeSpec {
        namespace,
        lanes,
        expect: plan.map(|plan| plan.from),
        generation: plan.map(|plan| plan.generation),
        dry_run,
        drain_first: false,
        reason: None,
    }
}

async fn act(reach: &Reach, namespace: Name, action: Action) -> Message {
    let post = Method::POST;
    Message::Done(match action {
        Action::Lane(verb, lane) => {
            let spec = LanesSpec {
                namespace,
                lanes: Some(vec![lane.to_string()]),
                reason: None,
            };
            let path = format!("/v1/admin/lanes/{verb}");
            let stopped = reach
                .call::<LanesStopped, _>(post, &path, Some(&spec))
                .await;
            said(stopped).map(|_| format!("{verb} {lane}: done"))
        }
        Action::Resize(plan) => {
            let spec = resize(namespace, plan.to, Some(&plan), false);
            let path = "/v1/admin/lanes/resize";
            let begun = reach.call::<Resize, _>(post, path, Some(&spec)).await;
            said(begun).map(|begun| {
                format!(
                    "resize {} -> {} begun. Back: resize to {}",
                    begun.from, begun.to, begun.from
                )
            })
        }
        Action::Hook(verb, hook) => {
            let path = format!("/v1/admin/hooks/{}/{verb}", encoded(hook.as_str()));
            let spec = HookStopSpec::default();
            let done = reach
                .call::<serde_json::Value, _>(post, &path, Some(&spec))
                .await;
            said(done).map(|_| format!("{verb} hook {hook}: done"))
        }
        Action::Cursor(verb, stream, handler) => {
            let path = format!("/v1/admin/streams/{verb}");
            let done: Result<serde_json::Value, _> = match verb {
                "hold" => {
                    let spec = Hold {
                        stream: stream.clone(),
                        handler: Some(handler.clone()),
                        reason: None,
                    };
                    reach.call(post, &path, Some(&spec)).await
                }
                _ => {
                    let spec = Retry {
                        stream: stream.clone(),
                        handler: Some(handler.clone()),
                    };
                    reach.call(post, &path, Some(&spec)).await
                }
            };
            said(done).map(|_| format!("{verb} {stream} -> {handler}: done"))
        }
        Action::Skip(stream, handler, event) => {
            let spec = Skip {
                stream: stream.clone(),
                event,
                handler: Some(handler),
            };
            let path = "/v1/admin/streams/skip";
            let skipped = reach
                .call::<serde_json::Value, _>(post, path, Some(&spec))
                .await;
            said(skipped).map(|_| format!("skipped {event} of {stream}"))
        }
    })
}

fn said<T>(answer: Result<T, client::Error>) -> Result<T, String> {
    answer.map_err(|error| error.to_string())
}

/// Writes the screen into a file in the working directory; returns the message for the user.
fn saved(app: &App) -> String {
    let name = format!("hooklane-{}.txt", tui::stamp(app.now));
    match std::fs::write(&name, tui::plain(app, WIDTH)) {
        Ok(()) => format!("written to {name}"),
        Err(error) => format!("cannot write {name}: {error}"),
    }
}
