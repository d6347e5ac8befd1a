//! `serve`: starts a node. The only place where store, engine and HTTP are put together.

mod entrance;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{ArgMatches, Args, ValueEnum as _};
use ipnet::IpNet;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::filter::Targets;

use super::hooks::file;
use super::{Exit, Printer, Trouble, flags, lock};
use crate::admin::Admin;
use crate::admin::doctor::{FILES_BESIDE, Surroundings};
use crate::config::{self, Config, DataDir, Setting};
use crate::domain::alert::{Alerts, Receiver};
use crate::domain::network;
use crate::domain::secret::{InvalidSecret, Secret};
use crate::domain::time::parse_duration;
use crate::engine::forward::Guard;
use crate::engine::ownership::Node;
use crate::engine::{self, Engine, Running};
use crate::http::edge::{self, Admission, Entrance, Limits, Listener, Peer};
use crate::http::{self, App};
use crate::lanes::redis::Redis;
use crate::metrics::Metrics;
use crate::store::{self, Database, Store};
use crate::text;

/// Run a node: receive webhooks, keep them, process them in order
///
/// Examples:
///   hooklane serve
///   hooklane serve --listen 0.0.0.0:8420 --data /var/lib/hooklane
///   hooklane serve --database postgres://me@db/hl --redis redis://cache
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Serve {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value_t = config::LISTEN_DEFAULT)]
    #[arg(env = "HOOKLANE_LISTEN", hide_env_values = true)]
    listen: SocketAddr,

    /// The database for events and states: a path, or postgres://USER:PASSWORD@HOST/NAME, which any number of nodes
    /// may share [default: a file in the data directory]
    #[arg(
        long,
        value_name = "URL",
        env = "HOOKLANE_DATABASE",
        hide_env_values = true
    )]
    database: Option<String>,

    /// The Redis through which nodes that share a database tell each other of work: redis://USER:PASSWORD@HOST
    /// [default: memory, for one node]
    #[arg(
        long,
        value_name = "URL",
        env = "HOOKLANE_REDIS",
        hide_env_values = true
    )]
    redis: Option<String>,

    /// A file with the key that encrypts secrets in the database, the base64 of 32 random bytes. Nodes that share a
    /// database need the same [default: hooklane.key in the data directory, where the database is a file]
    #[arg(
        long,
        value_name = "FILE",
        env = "HOOKLANE_SECRET_KEY_FILE",
        hide_env_values = true
    )]
    secret_key_file: Option<PathBuf>,

    /// Lanes of the default namespace; counts at the first start only
    #[arg(long, value_name = "COUNT", default_value_t = config::LANES_DEFAULT)]
    #[arg(env = "HOOKLANE_LANES", hide_env_values = true)]
    lanes: u16,

    /// The name of this node [default: the host's name]
    #[arg(
        long,
        value_name = "NAME",
        env = "HOOKLANE_NODE",
        hide_env_values = true
    )]
    node: Option<String>,

    /// Time that running turns get at the end
    #[arg(long, value_name = "DURATION", default_value = "8s", value_parser = parse_duration)]
    #[arg(env = "HOOKLANE_GRACE", hide_env_values = true)]
    grace: Duration,

    /// Private addresses that deliveries may reach, as a CIDR range such as 10.1.0.0/16; may be given often
    /// [default: public addresses only]
    #[arg(long = "allow-destination", value_name = "CIDR", value_parser = network::range)]
    #[arg(
        env = "HOOKLANE_ALLOW_DESTINATION",
        value_delimiter = ',',
        hide_env_values = true
    )]
    allow_destinations: Vec<IpNet>,

    #[command(flatten)]
    entrance: entrance::Flags,

    /// URL that is posted to when a finding of status begins and when it ends: https://… gets signed JSON, slack:https://… gets
    /// the text that Slack reads; may be given often
    #[arg(long = "alert", value_name = "URL")]
    #[arg(env = "HOOKLANE_ALERT", value_delimiter = ',', hide_env_values = true)]
    alerts: Vec<Receiver>,

    /// A file with the secret that signs alerts, whsec_ and base64 [default: the secret in HOOKLANE_ALERT_SECRET]
    #[arg(
        long,
        value_name = "FILE",
        env = "HOOKLANE_ALERT_SECRET_FILE",
        hide_env_values = true
    )]
    alert_secret_file: Option<PathBuf>,

    /// Format of the log: auto is short on a terminal and json elsewhere
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Log::Auto)]
    #[arg(env = "HOOKLANE_LOG", hide_env_values = true)]
    log: Log,

    /// Least severe lines that are logged: error, warn, info, debug or trace, also for one module, as in
    /// info,hooklane::store=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = flags::log_level)]
    #[arg(env = "HOOKLANE_LOG_LEVEL", hide_env_values = true)]
    log_level: Targets,
}

/// Format of the log.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Log {
    /// Short lines on a terminal, JSON elsewhere
    Auto,
    /// Short lines
    Short,
    /// One JSON object a line
    Json,
}

impl Serve {
    /// The configuration from the flags, checked.
    pub fn config(self, data: DataDir, matches: &ArgMatches) -> Result<Config, Trouble> {
        let redis = |text: String| text.parse().map_err(|error| no_redis(&error));
        let database = self.database.map(|text| text.parse());
        let mut config = Config {
            data,
            database: database.transpose().map_err(config::Error::Database)?,
            secret_key: self.secret_key_file,
            redis: self.redis.map(redis).transpose()?,
            listen: self.listen,
            lanes: self.lanes,
            node: self.node.unwrap_or_else(config::host_name),
            grace: self.grace,
            door: self.entrance.door(),
            allow_destinations: self.allow_destinations,
            alerts: Alerts {
                receivers: self.alerts,
                secret: alert_secret(self.alert_secret_file.as_deref())?,
            },
            log: match self.log {
                Log::Auto => config::Log::Auto,
                Log::Short => config::Log::Short,
                Log::Json => config::Log::Json,
            },
            log_level: self.log_level,
            settings: Vec::new(),
        };
        config.settings = settings(&config, self.log, matches);
        Ok(config.checked()?)
    }
}

/// The secret that signs alerts, from a file or the environment.
fn alert_secret(file: Option<&Path>) -> Result<Option<Secret>, Trouble> {
    let is_set = std::env::var_os(ALERT_SECRET).is_some();
    let text = file::secret(file, is_set.then_some(ALERT_SECRET))?;
    let secret = text.map(|text| text.parse()).transpose();
    secret.map_err(|error: InvalidSecret| {
        Trouble::usage(format!("the secret of alerts: {error}"))
            .fact("make", "echo whsec_$(openssl rand -base64 32)")
    })
}

/// Variable with the secret that signs alerts.
const ALERT_SECRET: &str = "HOOKLANE_ALERT_SECRET";

/// The settings of the node, each with its origin.
fn settings(config: &Config, log: Log, matches: &ArgMatches) -> Vec<Setting> {
    let setting = |name, value: String| flags::setting(matches, name, value);
    let file = || config.data.database().display().to_string();
    let database = config.database.as_ref().map(ToString::to_string);
    let redis = config.redis.as_ref().map(ToString::to_string);
    let log = log.to_possible_value();
    let log = log.map_or_else(String::new, |log| log.get_name().to_owned());
    let mut settings = vec![
        setting("data", config.data.path().display().to_string()),
        setting("listen", config.listen.to_string()),
        setting("database", database.unwrap_or_else(file)),
        setting("redis", redis.unwrap_or_else(|| "none".to_owned())),
        setting("lanes", config.lanes.to_string()),
        setting("node", config.node.clone()),
        setting("grace", text::duration(config.grace)),
        setting("alert", receivers(&config.alerts)),
        setting("log", log),
    ];
    let door = &config.door;
    if !door.trusted.is_empty() {
        settings.push(setting("trust-proxy", door.trusted.to_string()));
    }
    if let Some((certificate, _)) = &door.tls {
        settings.push(setting("tls-cert", certificate.display().to_string()));
    }
    settings
}

/// The receivers of alerts for people: their hosts alone, as the rest of a URL may be a secret.
fn receivers(alerts: &Alerts) -> String {
    let receivers = alerts.receivers.iter().map(ToString::to_string);
    match receivers.collect::<Vec<_>>() {
        none if none.is_empty() => "none".to_owned(),
        some => some.join(" "),
    }
}

fn no_redis(error: &crate::lanes::redis::Error) -> config::Error {
    config::Error::Redis(error.to_string())
}

/// Runs until it is told to stop; accepted requests are answered before it returns.
///
/// # Errors
/// The node cannot start, or the database failed in a way that only a restart can resolve.
pub async fn run(config: Config, out: &mut Printer) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let is_new = !config.data.database().exists();
    let mut signals = Signals::new()?;
    let mut node = tokio::select! {
        node = Started::begin(&config) => node?,
        name = signals.next() => {
            match config.log {
                config::Log::Json => tracing::info!(signal = name, "stopped before it was ready"),
                _ => out.say(format_args!("stopped by {name} before it was ready"))?,
            }
            return Ok(Exit::Done);
        }
    };
    greet(&config, is_new, &node, began, out)?;

    let failure = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping");
            None
        }
        failure = node.failed() => failure,
    };
    tokio::select! {
        ended = node.stop(config.grace) => ended?,
        // A second signal ends the process like a crash, which the store survives.
        _ = signals.next() => anyhow::bail!("stopped before everything was finished"),
    }
    match failure {
        None => Ok(Exit::Done),
        Some(reason) => anyhow::bail!(reason),
    }
}

/// A running node that is ready: it listens, and has committed a row.
pub struct Started {
    running: Running,
    doors: Doors,
    epoch: i64,
    failing: watch::Receiver<Option<String>>,
    _lock: lock::Lock,
    _log: [WorkerGuard; 2],
}

impl Started {
    /// Starts everything in the configuration.
    ///
    /// # Errors
    /// The node cannot start.
    pub async fn begin(config: &Config) -> anyhow::Result<Self> {
        let entrance = entrance::entrance(&config.door).await?;
        let is_server = matches!(config.database, Some(Database::Postgres(_)));
        if !is_server {
            super::migrate::refuse_moved(&config.data)?;
        }
        let lock = lock::wait(&config.data).await?;
        if !is_server {
            lock::refuse_emptied(&config.data)?;
        }
        let log = super::log::begin(&config.data, config.log, &config.log_level)?;
        if let Some(mended) = &lock.mended {
            tracing::warn!("{mended}");
        }
        let connections_max = connections_max()?;
        let metrics = Metrics::new();
        let (failed, failing) = watch::channel(None);
        let running = start(config, metrics.clone(), failed).await?;
        // Readiness means that a row was committed, not only that a port is open.
        let epoch = running.engine().store.draw_epoch().await?;
        Ok(Self {
            doors: Doors::open(config, &running, metrics, (entrance, connections_max)).await?,
            running,
            epoch,
            failing,
            _lock: lock,
            _log: log,
        })
    }

    /// Address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.doors.address
    }

    /// Number of lanes.
    pub fn lanes(&self) -> u64 {
        let catalog = self.running.engine().catalog.peek();
        let sets = catalog.lane_sets.values();
        sets.map(|set| u64::from(set.lanes)).sum()
    }

    /// Waits until the node cannot go on; returns the reason.
    pub async fn failed(&mut self) -> Option<String> {
        reason(&mut self.failing).await
    }

    /// Answers accepted requests and finishes running turns.
    ///
    /// # Errors
    /// Not everything was finished within `grace`.
    pub async fn stop(self, grace: Duration) -> anyhow::Result<()> {
        let stop = async {
            self.running.leave().await;
            self.doors.close().await;
            self.running.stop().await;
        };
        let ended = tokio::time::timeout(grace + STOP_MARGIN, stop).await;
        ended.context("not everything was finished in time; the next start continues from there")
    }
}

/// Waits until the engine cannot go on; returns the reason.
async fn reason(failing: &mut watch::Receiver<Option<String>>) -> Option<String> {
    match failing.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone(),
        Err(_) => std::future::pending().await,
    }
}

/// Number of connections that the node accepts. Each one is an open file. The limit of open files is
/// raised to its maximum, because shells set a lower one, and [`FILES_BESIDE`] files are reserved for
/// the database, the log and the socket.
///
/// # Errors
/// The limit leaves no room for senders.
fn connections_max() -> anyhow::Result<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = ?limit.current, "the limit of open files stays");
    }
    let wanted = Limits::default().connections_max;
    let Some(files) = getrlimit(Resource::Nofile).current else {
        return Ok(wanted);
    };
    let left = usize::try_from(files.saturating_sub(FILES_BESIDE)).unwrap_or(usize::MAX);
    if left < CONNECTIONS_MIN {
        let least = FILES_BESIDE + CONNECTIONS_MIN as u64;
        let message = format!("the limit of open files is {files}, and a node needs {least}");
        return Err(Trouble::new(Exit::Usage, "files", message)
            .fact("raise", "ulimit -n, or LimitNOFILE= in its unit")
            .into());
    }
    if left < wanted {
        let connections = left;
        tracing::warn!(files, connections, "few open files are allowed: ulimit -n");
    }
    Ok(left.min(wanted))
}

/// Number of connections below which starting a node is pointless.
const CONNECTIONS_MIN: usize = 16;

/// Number of connections through the socket: commands and dashboards on this machine.
const SOCKET_CONNECTIONS_MAX: usize = 128;

/// Time for closing the store, in addition to the grace time of requests.
const STOP_MARGIN: Duration = Duration::from_secs(1);

async fn start(
    config: &Config,
    metrics: Arc<Metrics>,
    failed: watch::Sender<Option<String>>,
) -> anyhow::Result<Running> {
    let file = || Database::from(&config.data.database());
    let database = config.database.clone().unwrap_or_else(file);
    let mut store = open(&database, &metrics, &failed).await?;
    if let Some(file) = &config.secret_key {
        store = store.with_secret_key(file)?;
    }
    Admin::prepare(&store, config.lanes).await?;
    tell_locked(&store).await?;
    let node = match database {
        Database::Sqlite(_) => None,
        Database::Postgres(_) => Some(node(config, &store).await?),
    };
    let guard = Guard::new(config.allow_destinations.clone());
    Ok(Engine::start(store, node, guard, metrics, failed).await?)
}

/// Logs the hooks whose secrets cannot be decrypted. The node starts anyway, because the other hooks
/// work.
async fn tell_locked(store: &Store) -> anyhow::Result<()> {
    let (locked, _) = Admin::offline(store.clone()).unfit_secrets().await?;
    if !locked.is_empty() {
        let hooks = locked.join(", ");
        let key = store.vault().file().map(|file| file.display().to_string());
        tracing::error!(
            hooks,
            key = key.unwrap_or_else(|| "none".to_owned()),
            "the secret key does not decrypt the secrets of these hooks. Their senders are asked to try again later, and \
             their deliveries wait. Restore the key and start again, or give the secrets again: hooklane hooks secrets add"
        );
    }
    Ok(())
}

/// Time for which the start waits for a database that does not answer, which may itself be starting.
const SERVER_WAIT: Duration = Duration::from_secs(10);

/// Interval between two attempts.
const TRY_EVERY: Duration = Duration::from_secs(2);

async fn open(
    database: &Database,
    metrics: &Arc<Metrics>,
    failed: &watch::Sender<Option<String>>,
) -> anyhow::Result<Store> {
    let began = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        let observer = engine::observer(metrics.clone(), failed.clone());
        let error = match Store::open(database, observer).await {
            Ok(store) => return Ok(store),
            Err(store::Error::Away(error)) => error,
            Err(error) => return Err(error).with_context(|| format!("cannot open {database}")),
        };
        let waited = began.elapsed();
        if waited >= SERVER_WAIT {
            let waited = crate::text::duration(waited);
            let message = format!("{error} {tries} tries in {waited}");
            let trouble = Trouble::new(Exit::Unreachable, "database_away", message)
                .fact("now", "nothing listens: senders are refused and will retry")
                .fact(
                    "check",
                    format!("hooklane doctor --database {}", text::quoted(database)),
                );
            return Err(trouble.into());
        }
        tracing::warn!(%error, tries, "the database does not answer yet");
        tokio::time::sleep(TRY_EVERY).await;
    }
}

/// This node, among the nodes that share its database.
async fn node(config: &Config, store: &Store) -> anyhow::Result<Node> {
    let data_dir = lock::word(&config.data)?;
    let redis = match &config.redis {
        Some(address) => Some(Redis::connect(address, store.cluster().await?, &data_dir).await?),
        None => None,
    };
    Ok(Node {
        name: config.node.clone(),
        data_dir,
        redis,
    })
}

/// The listeners and the tasks that answer their requests.
struct Doors {
    open: JoinSet<()>,
    stop: watch::Sender<bool>,
    address: std::net::SocketAddr,
    connections_max: usize,
}

impl Doors {
    async fn open(
        config: &Config,
        running: &Running,
        metrics: Arc<Metrics>,
        (entrance, connections_max): (Entrance, usize),
    ) -> anyhow::Result<Self> {
        let engine = running.engine().clone();
        let front = engine.front.handle().clone();
        let tcp = front.spawn(Listener::tcp(config.listen)).await?;
        let tcp = tcp.map_err(|error| not_listening(error, config.listen))?;
        let address = tcp.address().unwrap_or(config.listen);
        let socket = Listener::socket(&config.data.socket())?;
        let (stop, stopping) = watch::channel(false);
        let mut around = Surroundings::of(config, Limits::default().connections_max);
        let certificate = entrance.certificate.clone();
        around.certificate = certificate.as_ref().map(|certificate| certificate.fault());
        let admin = Admin::online(engine.clone(), config.node.clone()).amid(around);
        let mut open = JoinSet::new();
        // Without a first look, screens and alerts know nothing of a database that goes away at once.
        look(&admin).await;
        open.spawn(observe(admin.clone(), stopping.clone()));
        if let Some(certificate) = certificate {
            open.spawn(certificate.follow(stopping.clone()));
        }
        let mut ending = stopping.clone();
        let stopped = async move {
            let _ = ending.wait_for(|stop| *stop).await;
        };
        open.spawn(admin.clone().post_alerts(config.alerts.clone(), stopped));
        let app = App {
            admin,
            engine: Some(engine),
            address: Some(address),
            stopping: stopping.clone(),
        };
        let routes = http::routes(app.clone());
        let by_socket = (socket, Entrance::default(), SOCKET_CONNECTIONS_MAX);
        for (listener, entrance, connections_max) in [(tcp, entrance, connections_max), by_socket] {
            let limits = Limits {
                connections_max,
                per_address_max: config.door.per_address_max,
                stop: config.grace,
                ..Limits::default()
            };
            let (app, routes) = (app.clone(), routes.clone());
            let service = move |request, peer: Peer, admission: Admission| {
                http::answer(app.clone(), routes.clone(), request, peer, admission)
            };
            let mut stopping = stopping.clone();
            let stopped = async move {
                let _ = stopping.wait_for(|stop| *stop).await;
            };
            let serve = edge::serve(
                listener,
                entrance,
                limits,
                metrics.clone(),
                service,
                stopped,
            );
            open.spawn_on(serve, &front);
        }
        Ok(Self {
            open,
            stop,
            address,
            connections_max,
        })
    }

    /// Stops accepting, and answers running requests.
    async fn close(mut self) {
        self.stop.send_replace(true);
        while self.open.join_next().await.is_some() {}
    }
}

/// The error of a port that cannot be used, with its present user if known.
fn not_listening(error: std::io::Error, address: SocketAddr) -> anyhow::Error {
    if error.kind() != std::io::ErrorKind::AddrInUse {
        return error.into();
    }
    let (port, next) = (address.port(), SocketAddr::new(address.ip(), 0));
    Trouble::new(Exit::Failed, "port_in_use", error.to_string())
        .fact("who", format!("ss -ltnp 'sport = :{port}'"))
        .fact("or", format!("--listen {next} takes a free port"))
        .into()
}

/// Runs the monitor once a second, for all viewers and for the reports to other nodes.
async fn observe(admin: Admin, mut stopping: watch::Receiver<bool>) {
    let mut kept = Instant::now();
    while !*stopping.borrow() {
        look(&admin).await;
        if kept.elapsed() >= KEEP_EVERY {
            kept = Instant::now();
            keep(&admin).await;
        }
        let _ = tokio::time::timeout(OBSERVE_EVERY, stopping.changed()).await;
    }
    keep(&admin).await;
}

async fn look(admin: &Admin) {
    if let Err(error) = admin.observe().await {
        tracing::debug!(%error, "the figures of the dashboard are old");
    }
}

async fn keep(admin: &Admin) {
    if let Err(error) = admin.keep_normals().await {
        tracing::debug!(%error, "the normal figures could not be stored");
    }
}

/// Interval at which baselines are stored.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// Interval of the monitor.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);

/// The kind of set-up in words.
fn set_up(config: &Config) -> String {
    let database = match &config.database {
        Some(Database::Postgres(_)) => "Postgres",
        _ => "SQLite",
    };
    match &config.redis {
        Some(_) => format!("{database}, hints in Redis"),
        None => format!("{database}, hints in memory"),
    }
}

/// Prints the first lines of a node, which end in `ready`.
fn greet(
    config: &Config,
    is_new: bool,
    started: &Started,
    began: Instant,
    out: &mut Printer,
) -> std::io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let (node, address, epoch) = (&config.node, started.address(), started.epoch);
    let data = config.data.path().display();
    tracing::info!(version, node, %data, %address, epoch, "ready");
    if config.log == config::Log::Json {
        // With a JSON log, stderr contains only JSON.
        return Ok(());
    }
    let new = if is_new { " (new)" } else { "" };
    out.say(format_args!(
        "hooklane {version}   node {node}   {}, {}",
        set_up(config),
        text::counted(started.lanes(), "lane", "lanes")
    ))?;
    out.say(format_args!(
        "  data   {data}{new}       every command here works through its socket, without a key"
    ))?;
    let scheme = match config.door.tls {
        Some(_) => "https",
        None => "http",
    };
    out.say(format_args!("  in     POST {scheme}://{address}/in/HOOK"))?;
    let connections = started.doors.connections_max;
    if connections < Limits::default().connections_max {
        let connections = text::count(connections as u64);
        out.say(format_args!(
            "  limit  {connections} connections: ulimit -n allows no more open files"
        ))?;
    }
    if is_new {
        out.say(format_args!(
            "  next   hooklane hooks create hello --reduce latest"
        ))?;
    }
    let took = crate::text::duration(began.elapsed());
    out.say(format_args!(
        "ready in {took}   (Ctrl-C finishes running turns, keeps all)"
    ))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// `None` if the signal is ignored, as by `nohup`.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: match is_ignored(SignalKind::hangup()) {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = hangup => "SIGHUP",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// True if the parent process has set the signal to be ignored. Known on Linux only.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (kind.as_raw_value() - 1) & 1 == 1)
}
