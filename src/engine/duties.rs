//! The duties of the engine: the tasks that run from its start to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::catalog::Snapshot;
use super::{
    Engine, erase, forward, ownership, place, prune, readiness, rebuild, release, slow, sweep, wipe,
};

/// State of the database at the start, from which some duties go on.
#[derive(Clone)]
pub struct Beginning {
    /// The configuration in force.
    pub catalog: Arc<Snapshot>,
    /// The last hint request. Requests from before this node joined do not concern its lanes, which are
    /// swept when they are taken.
    pub hint_request: i64,
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One duty.
struct Duty {
    /// Name of the duty in traces.
    name: &'static str,
    /// Interval between two calls; `None` for a duty that runs until the engine ends.
    every: Option<Duration>,
    work: fn(Arc<Engine>, Beginning) -> Work,
}

const DUTIES: [Duty; 19] = [
    Duty {
        name: "membership",
        every: None,
        work: |engine, _| Box::pin(ownership::Member::run(engine)),
    },
    Duty {
        name: "configuration",
        every: None,
        work: |engine, _| Box::pin(engine.keep_catalog_current()),
    },
    Duty {
        name: "acting",
        every: None,
        work: |engine, from| Box::pin(engine.follow_catalog(from.catalog)),
    },
    Duty {
        name: "sweep",
        every: None,
        work: |engine, _| Box::pin(sweep::watch(engine)),
    },
    Duty {
        name: "misplaced hints",
        every: None,
        work: |engine, _| Box::pin(place::run(engine)),
    },
    Duty {
        name: "flights",
        every: None,
        work: |engine, _| Box::pin(forward::Flights::watch(engine)),
    },
    Duty {
        name: "drains",
        every: Some(Duration::from_millis(250)),
        work: |engine, _| Box::pin(async move { engine.watch_drains().await }),
    },
    Duty {
        name: "moves",
        every: Some(Duration::from_secs(1)),
        work: |engine, _| Box::pin(async move { engine.watch_moves().await }),
    },
    Duty {
        name: "slow handlers",
        every: None,
        work: |engine, _| Box::pin(slow::run(engine)),
    },
    Duty {
        name: "rebuilds",
        every: None,
        work: |engine, _| Box::pin(rebuild::run(engine)),
    },
    Duty {
        name: "hint requests",
        every: None,
        work: |engine, from| Box::pin(wipe::run(engine, from.hint_request)),
    },
    Duty {
        name: "retention",
        every: None,
        work: |engine, _| Box::pin(prune::run(engine)),
    },
    Duty {
        name: "erasures",
        every: None,
        work: |engine, _| Box::pin(erase::run(engine)),
    },
    Duty {
        name: "reorder windows",
        every: None,
        work: |engine, _| Box::pin(release::run(engine)),
    },
    Duty {
        name: "uses of keys",
        every: Some(Duration::from_secs(60)),
        work: |engine, _| Box::pin(async move { engine.store_uses().await }),
    },
    Duty {
        name: "uses of secrets",
        every: Some(Duration::from_secs(60)),
        work: |engine, _| Box::pin(async move { engine.store_secret_uses().await }),
    },
    Duty {
        name: "rejections",
        every: Some(Duration::from_secs(5)),
        work: |engine, _| Box::pin(async move { engine.store_rejections().await }),
    },
    Duty {
        name: "deleted hooks",
        every: Some(Duration::from_secs(300)),
        work: |engine, _| Box::pin(async move { engine.purge_deleted().await }),
    },
    Duty {
        name: "readiness",
        every: None,
        work: |engine, _| Box::pin(readiness::run(engine)),
    },
];

/// Starts every duty as a task of its own.
pub fn start(engine: &Arc<Engine>, from: &Beginning, tasks: &mut JoinSet<()>) {
    for duty in DUTIES {
        let span = tracing::debug_span!("duty", name = duty.name);
        tasks.spawn(run(duty, engine.clone(), from.clone()).instrument(span));
    }
}

async fn run(duty: Duty, engine: Arc<Engine>, from: Beginning) {
    let Some(period) = duty.every else {
        return (duty.work)(engine, from).await;
    };
    let mut clock = tokio::time::interval(period);
    loop {
        clock.tick().await;
        (duty.work)(engine.clone(), from.clone()).await;
    }
}
