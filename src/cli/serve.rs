//! `serve`: starts a node. The only place where store, engine and HTTP are put together.

mod database;
mod doors;
mod entrance;
mod greeting;
mod node;
mod open_files;
mod signals;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{ArgMatches, Args, ValueEnum as _};
use ipnet::IpNet;
use tracing_subscriber::filter::Targets;

use self::greeting::greet;
pub use self::node::Started;
use self::signals::Signals;
use super::hooks::file;
use super::{Exit, Printer, Trouble, flags};
use crate::config::{Config, DataDir, Setting};
use crate::domain::alert::{Alerts, Receiver};
use crate::domain::network;
use crate::domain::secret::{InvalidSecret, Secret};
use crate::domain::time::parse_duration;
use crate::{config, text};

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

impl From<Log> for config::Log {
    fn from(log: Log) -> Self {
        match log {
            Log::Auto => Self::Auto,
            Log::Short => Self::Short,
            Log::Json => Self::Json,
        }
    }
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
            log: self.log.into(),
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
