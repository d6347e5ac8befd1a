//! `top`: the dashboard; where there is no terminal, one plain picture of it.

use std::io::{IsTerminal as _, Write as _, stdin, stdout};
use std::time::Duration;

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
use tokio::sync::mpsc;

use super::print::Output;
use super::reach::{Reach, with_query};
use super::{Exit, Printer};
use crate::api::{LanesSpec, Resize, ResizeSpec, Retry, Skip, Snapshot, Stopped, Stream};
use crate::client;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::{Timestamp, parse_duration};
use crate::tui::app::{Action, App, Message, Want};
use crate::tui::theme::Theme;
use crate::tui::{self, guard};

/// Watch the lanes live: depth, latency, whose fault it is; and operate them
///
/// Every action shows a plan and asks. Where stdout is no terminal, one plain picture is printed.
///
/// Examples:
///   hooklane top
///   hooklane top --once
///   hooklane top --read-only --interval 5s
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Top {
    /// Which namespace
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: Name,
    /// Print one picture and end
    #[arg(long)]
    once: bool,
    /// How often it is drawn anew
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// Nothing but ASCII; so it is too where the locale has no UTF-8
    #[arg(long)]
    ascii: bool,
    /// Change nothing, whoever looks
    #[arg(long)]
    read_only: bool,
}

/// The longest wait before a daemon that is gone is asked again.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How often the clock on the screen moves while nothing else does.
const TICK: Duration = Duration::from_secs(1);

/// The width of a picture where there is no terminal.
const WIDTH: usize = 140;

/// Whether somebody looks who can press keys.
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
            ascii,
            read_only: false,
        }
    }

    /// Runs until somebody quits.
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let path = with_query(
            "/v1/admin/snapshot",
            &[("namespace", Some(self.namespace.to_string()))],
        );
        let var = |name: &str| std::env::var(name).ok();
        let mut theme = Theme::of(var, self.ascii);
        theme.colour &= !out.is_colourless();
        let interval = self.interval.max(Duration::from_millis(100));
        let mut app = App::new(self.namespace.clone(), theme, self.read_only, interval);
        if self.once || !has_terminal() || out.output() != Output::Table {
            return self.picture(app, &path, reach, out).await;
        }
        // The first answer is waited for on the terminal as it is: an error is read there.
        let first: Snapshot = reach.get(&path).await?;
        app.update(Message::Snapshot(Box::new(first)));
        guard::on_panic();
        guard::watch()?;
        guard::take()?;
        let ended = show(&mut app, &path, reach).await;
        guard::restore();
        if ended? {
            out.line(&tui::plain(&app, WIDTH))?;
        }
        Ok(Exit::Done)
    }

    async fn picture(
        &self,
        mut app: App,
        path: &str,
        reach: &Reach,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        let snapshot: Snapshot = reach.get(path).await?;
        if !out.object(&snapshot)? {
            app.update(Message::Snapshot(Box::new(snapshot)));
            app.now = Timestamp::now();
            let mut text = tui::plain(&app, WIDTH);
            // The last line says which keys there are.
            let keys = text.trim_end().rfind('\n').unwrap_or(0);
            text.truncate(keys);
            out.line(text.trim_end())?;
        }
        Ok(Exit::Done)
    }
}

/// Draws and obeys until somebody quits; says whether the screen shall stay behind.
async fn show(app: &mut App, path: &str, reach: &Reach) -> anyhow::Result<bool> {
    let mut terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
    let (told, mut messages) = mpsc::unbounded_channel();
    keys(told.clone())?;
    let feed = feed(path, reach, told, app.interval);
    tokio::pin!(feed);
    let mut asked: FuturesUnordered<LocalBoxFuture<'_, Message>> = FuturesUnordered::new();
    let mut clock = tokio::time::interval(TICK);
    loop {
        app.now = Timestamp::now();
        terminal.draw(|frame| tui::draw(app, frame))?;
        let message = tokio::select! {
            message = messages.recv() => message.unwrap_or(Message::Redraw),
            () = &mut feed => Message::Redraw,
            Some(answer) = asked.next(), if !asked.is_empty() => answer,
            _ = clock.tick() => Message::Redraw,
        };
        let Some(want) = app.update(message) else {
            continue;
        };
        match want {
            Want::Quit { leave_screen } => return Ok(leave_screen),
            Want::Interrupt => guard::leave(130),
            Want::Suspend => {
                guard::restore();
                rustix::process::kill_current_process_group(rustix::process::Signal::TSTP)?;
                guard::take()?;
                terminal.clear()?;
            }
            Want::Copy(text) => {
                // The clipboard of the terminal, wherever it is: OSC 52.
                print!("\u{1b}]52;c;{}\u{7}", STANDARD.encode(&text));
                stdout().flush()?;
                app.note = Some(format!("copied {text}"));
            }
            Want::Save => app.note = Some(saved(app)),
            Want::Stream(stream) => asked.push(Box::pin(stream_of(reach, stream))),
            Want::Plan(lanes) => asked.push(Box::pin(plan(reach, app.namespace.clone(), lanes))),
            Want::Do(action) => asked.push(Box::pin(act(reach, app.namespace.clone(), action))),
        }
    }
}

/// A thread that reads keys: reading them waits, and nothing else may.
fn keys(told: mpsc::UnboundedSender<Message>) -> std::io::Result<()> {
    let read_all = move || {
        loop {
            let message = match read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Message::Key(key),
                Ok(_) => Message::Redraw,
                // The guard sees that the terminal is gone.
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

/// Asks for news for ever; a daemon that is gone is asked ever less often, at least every five seconds.
async fn feed(path: &str, reach: &Reach, told: mpsc::UnboundedSender<Message>, interval: Duration) {
    let (mut wait, mut pause) = (Duration::ZERO, interval);
    loop {
        tokio::time::sleep(pause).await;
        let message = match reach.get::<Snapshot>(path).await {
            Ok(snapshot) => {
                (wait, pause) = (Duration::ZERO, interval);
                Message::Snapshot(Box::new(snapshot))
            }
            Err(error) => {
                wait = (wait * 2).clamp(Duration::from_millis(500), RETRY_MAX);
                let jitter = rand::random_range(0.8..1.2);
                pause = wait.mul_f64(jitter).min(RETRY_MAX);
                Message::Lost {
                    why: error.to_string(),
                    retry_at: Timestamp::now().after(pause),
                }
            }
        };
        if told.send(message).is_err() {
            return;
        }
    }
}

async fn stream_of(reach: &Reach, stream: StreamName) -> Message {
    let path = with_query(
        "/v1/admin/streams/show",
        &[("stream", Some(stream.to_string()))],
    );
    Message::Stream(said(reach.get::<Stream>(&path).await))
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
                lanes: Some(vec![lane.clone()]),
                reason: None,
            };
            let path = format!("/v1/admin/lanes/{verb}");
            let stopped = reach.call::<Stopped, _>(post, &path, Some(&spec)).await;
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
        Action::Retry(stream) => {
            let spec = Retry {
                stream: stream.clone(),
                handler: None,
            };
            let path = "/v1/admin/streams/retry";
            let released = reach
                .call::<serde_json::Value, _>(post, path, Some(&spec))
                .await;
            said(released).map(|_| format!("{stream} tries again"))
        }
        Action::Skip(stream, event) => {
            let spec = Skip {
                stream: stream.clone(),
                event,
                handler: None,
            };
            let path = "/v1/admin/streams/skip";
            let skipped = reach
                .call::<serde_json::Value, _>(post, path, Some(&spec))
                .await;
            said(skipped).map(|_| format!("{stream} goes on behind {event}"))
        }
    })
}

fn said<T>(answer: Result<T, client::Error>) -> Result<T, String> {
    answer.map_err(|error| error.to_string())
}

/// Writes the screen into a file beside the caller, and says where.
fn saved(app: &App) -> String {
    let name = format!("hooklane-{}.txt", tui::stamp(app.now));
    match std::fs::write(&name, tui::plain(app, WIDTH)) {
        Ok(()) => format!("written to {name}"),
        Err(error) => format!("cannot write {name}: {error}"),
    }
}
