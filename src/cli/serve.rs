//! Run a node: the one place where store, engine and doors are put together.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::lock;
use crate::admin::Admin;
use crate::config::Config;
use crate::engine::{self, Engine, Running};
use crate::http::edge::{self, Limits, Listener, Peer};
use crate::http::{self, App};
use crate::metrics::Metrics;
use crate::store::Store;

/// Runs until it is told to stop, and answers what it accepted before it does.
///
/// # Errors
/// When it cannot start, or when the database failed in a way that only a restart can judge.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let began = Instant::now();
    let is_new = !config.data.database().exists();
    let _lock = lock::take(&config.data)?;
    let _log = super::log::begin(&config.data, config.log)?;
    let mut signals = Signals::new()?;
    let metrics = Metrics::new();
    let (failed, mut failing) = watch::channel(None);

    let running = start(&config, metrics.clone(), failed).await?;
    // Ready means that a row was committed, not only that a port is open.
    let epoch = running.engine().store.draw_epoch().await?;
    let doors = Doors::open(&config, &running, metrics).await?;
    greet(&config, is_new, epoch, &doors, began);

    let failure = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping");
            None
        }
        failure = reason(&mut failing) => failure,
    };
    let stop = async {
        doors.close().await;
        running.stop().await;
    };
    tokio::select! {
        () = stop => {}
        // Asked twice: the crash that everything here is made for.
        _ = signals.next() => anyhow::bail!("stopped before everything was finished"),
        () = tokio::time::sleep(config.grace + STOP_MARGIN) => {
            anyhow::bail!("not everything was finished in time; the next start goes on from there")
        }
    }
    match failure {
        None => Ok(()),
        Some(reason) => anyhow::bail!("{reason}; what was acknowledged is found at the next start"),
    }
}

/// Waits until the engine cannot go on, and says why.
async fn reason(failing: &mut watch::Receiver<Option<String>>) -> Option<String> {
    match failing.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone(),
        Err(_) => std::future::pending().await,
    }
}

/// What closing the store may take beyond the grace that requests are given.
const STOP_MARGIN: Duration = Duration::from_secs(5);

async fn start(
    config: &Config,
    metrics: Arc<Metrics>,
    failed: watch::Sender<Option<String>>,
) -> anyhow::Result<Running> {
    let observer = engine::observer(metrics.clone(), failed.clone());
    let store = open_store(&config.data.database(), observer).await?;
    Admin::prepare(&store, config.lanes).await?;
    Ok(Engine::start(store, metrics, failed).await?)
}

async fn open_store(
    file: &Path,
    observer: Box<dyn Fn(crate::store::Commit) + Send>,
) -> anyhow::Result<Store> {
    Store::open(file, observer)
        .await
        .with_context(|| format!("cannot open {}", file.display()))
}

/// The listeners, and what answers behind them.
struct Doors {
    open: JoinSet<()>,
    stop: watch::Sender<bool>,
    address: std::net::SocketAddr,
}

impl Doors {
    async fn open(
        config: &Config,
        running: &Running,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let tcp = Listener::tcp(config.listen).await?;
        let address = tcp.address().unwrap_or(config.listen);
        let socket = Listener::socket(&config.data.socket())?;
        let (stop, stopping) = watch::channel(false);
        let engine = running.engine().clone();
        let app = App {
            admin: Admin::online(engine.clone(), config.node.clone()),
            engine: Some(engine),
            stopping: stopping.clone(),
        };
        let routes = http::routes(app.clone());
        let limits = Limits {
            stop: config.grace,
            ..Limits::default()
        };
        let mut open = JoinSet::new();
        for listener in [tcp, socket] {
            let (app, routes) = (app.clone(), routes.clone());
            let service =
                move |request, peer: Peer| http::answer(app.clone(), routes.clone(), request, peer);
            let mut stopping = stopping.clone();
            let stopped = async move {
                let _ = stopping.wait_for(|stop| *stop).await;
            };
            open.spawn(edge::serve(
                listener,
                limits.clone(),
                metrics.clone(),
                service,
                stopped,
            ));
        }
        Ok(Self {
            open,
            stop,
            address,
        })
    }

    /// Accepts nothing more and answers what is on its way.
    async fn close(mut self) {
        self.stop.send_replace(true);
        while self.open.join_next().await.is_some() {}
    }
}

fn greet(config: &Config, is_new: bool, epoch: i64, doors: &Doors, began: Instant) {
    let data = config.data.path().display();
    let new = if is_new { " (new)" } else { "" };
    let address = doors.address;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = config.node, %data, %address, epoch,
        "ready");
    eprintln!(
        "hooklane {}   node {}   SQLite, hints in memory",
        env!("CARGO_PKG_VERSION"),
        config.node
    );
    eprintln!(
        "  data   {data}{new}       every command here works through its socket, without a key"
    );
    eprintln!("  in     POST http://{address}/in/HOOK");
    if is_new {
        eprintln!("  next   hooklane hooks create hello --reduce latest");
    }
    let took = began.elapsed().as_millis();
    eprintln!("ready in {took}ms                       (Ctrl-C finishes running turns, keeps all)");
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
