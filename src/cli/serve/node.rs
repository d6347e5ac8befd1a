//! A running node: store, engine and listeners, put together from the configuration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tracing_appender::non_blocking::WorkerGuard;

use super::database::open;
use super::doors::Doors;
use super::entrance;
use super::open_files::connections_max;
use crate::admin::Admin;
use crate::cli::{lock, log, migrate};
use crate::config::Config;
use crate::engine::forward::Guard;
use crate::engine::ownership::Node;
use crate::engine::{Engine, Running};
use crate::lanes::redis::Redis;
use crate::metrics::Metrics;
use crate::store::{Database, Store};

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
            migrate::refuse_moved(&config.data)?;
        }
        let lock = lock::wait(&config.data).await?;
        if !is_server {
            lock::refuse_emptied(&config.data)?;
        }
        let log = log::begin(&config.data, config.log, &config.log_level)?;
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

    /// Number of the start, drawn from the database.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Number of connections that it accepts.
    pub fn connections_max(&self) -> usize {
        self.doors.connections_max
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
