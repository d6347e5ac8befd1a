//! The listeners of a node, and the tasks beside them: the monitor, alerts and the certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::Admin;
use crate::admin::doctor::Surroundings;
use crate::cli::{Exit, Trouble};
use crate::config::Config;
use crate::engine::Running;
use crate::http;
use crate::http::edge::{Admission, Entrance, Limits, Listener, Peer};
use crate::http::{App, edge};
use crate::metrics::Metrics;

/// Number of connections through the socket: commands and dashboards on this machine.
const SOCKET_CONNECTIONS_MAX: usize = 128;

/// The listeners and the tasks that answer their requests.
pub struct Doors {
    open: JoinSet<()>,
    stop: watch::Sender<bool>,
    /// Address that the node listens on.
    pub address: SocketAddr,
    /// Number of connections that it accepts.
    pub connections_max: usize,
}

impl Doors {
    pub async fn open(
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
    pub async fn close(mut self) {
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
