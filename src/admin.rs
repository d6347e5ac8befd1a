//! Operations of operators, each once: for the admin API, and for the command line when no daemon runs.
//! Operations on hooks, keys and namespaces need only a store; those on lanes, streams and states also
//! need a running engine.

mod alerts;
mod audit;
pub mod doctor;
mod erase;
mod error;
mod eta;
mod events;
mod feed;
mod figures;
mod forwards;
mod hints;
mod hooks;
mod keys;
mod lanes;
mod lost;
mod monitor;
mod names;
mod namespaces;
mod order;
mod pulls;
mod rebuild;
mod replays;
mod report;
mod resize;
mod stops;
mod streams;
mod tryout;
mod unused;
mod verdict;
mod verify;
mod why;

use std::sync::Arc;

pub use audit::{Act, Actor};
pub use error::Error;
pub use events::EventsFilter;
pub use feed::FeedRequest;
pub use monitor::Follower;
use monitor::Monitor;
pub use pulls::lease_range;
pub use streams::StreamsFilter;

use crate::api;
use crate::domain::hook::Hook;
use crate::domain::lane::LANES_MAX;
use crate::domain::name::{Name, StreamName};
use crate::domain::thresholds::Thresholds;
use crate::domain::time::Timestamp;
use crate::engine::Engine;
use crate::store::{CursorsFilter, Store, StreamRow};

/// Number of streams among which a similar name is searched for.
const MEANT_MAX: i64 = 1_000;

/// Runs operations on one database, and on its engine if one runs.
#[derive(Clone)]
pub struct Admin {
    store: Store,
    engine: Option<Arc<Engine>>,
    node: String,
    monitor: Arc<Monitor>,
    surroundings: Option<Arc<doctor::Surroundings>>,
}

impl Admin {
    /// Creates operations on a database without a running daemon; those that need an engine fail.
    pub fn offline(store: Store) -> Self {
        Self {
            store,
            engine: None,
            node: String::new(),
            monitor: Arc::default(),
            surroundings: None,
        }
    }

    /// Creates operations on a running engine, on the node of this name.
    pub fn online(engine: Arc<Engine>, node: String) -> Self {
        Self {
            store: engine.store.clone(),
            engine: Some(engine),
            node,
            monitor: Arc::default(),
            surroundings: None,
        }
    }

    /// Adds the surroundings that [`Admin::examine`] checks.
    #[must_use]
    pub fn amid(mut self, surroundings: doctor::Surroundings) -> Self {
        self.surroundings = Some(Arc::new(surroundings));
        self
    }

    /// Creates the default namespace with its lanes in a new database, and encrypts secrets that an earlier
    /// hooklane stored in plain text. Does neither in a database that has both.
    pub async fn prepare(store: &Store, lanes: u16) -> Result<(), Error> {
        let lanes = lanes.clamp(1, LANES_MAX);
        store
            .create_namespace(
                &Name::default_namespace(),
                lanes,
                Thresholds::default(),
                Timestamp::now(),
            )
            .await?;
        let sealed = store.seal_secrets(Timestamp::now()).await?;
        if sealed > 0 {
            tracing::info!(
                handlers = sealed,
                "signing secrets in plain text are encrypted now"
            );
        }
        Ok(())
    }

    /// The context for an operator's plan: it is valid until another operator changes the configuration.
    pub async fn here(&self, by: String) -> Result<api::PlanContext, Error> {
        Ok(api::PlanContext {
            version: self.store.plan_version().await?,
            node: self.node.clone(),
            by,
        })
    }

    fn engine(&self) -> Result<&Arc<Engine>, Error> {
        self.engine.as_ref().ok_or(Error::NeedsDaemon)
    }

    /// Makes this node apply the change just made before the operator is answered.
    async fn changed(&self) -> Result<(), Error> {
        match &self.engine {
            Some(engine) => Ok(engine.config_changed().await?),
            None => Ok(()),
        }
    }

    async fn hook(&self, name: &Name) -> Result<Hook, Error> {
        let mut hooks = self.store.hooks().await?;
        match hooks.iter().position(|hook| hook.name == *name) {
            Some(at) => Ok(hooks.swap_remove(at)),
            None => Err(Error::no_hook(name, hooks.iter().map(|hook| &hook.name))),
        }
    }

    async fn stream(&self, name: &StreamName) -> Result<(Hook, StreamRow), Error> {
        let hook = self.hook(&name.hook).await?;
        match self.store.stream(hook.id, &name.key).await? {
            Some(stream) => Ok((hook, stream)),
            None => Err(self.no_stream(&hook, name).await?),
        }
    }

    async fn no_stream(&self, hook: &Hook, name: &StreamName) -> Result<Error, Error> {
        if let Some(next) = self.only_held_back(hook, name).await? {
            return Ok(next);
        }
        let filter = CursorsFilter {
            hook: Some(hook.id),
            limit: MEANT_MAX,
            ..CursorsFilter::default()
        };
        let rows = self.store.cursors(&filter).await?;
        let there = rows.into_iter().map(|row| StreamName {
            hook: hook.name.clone(),
            key: row.key,
        });
        let there: Vec<_> = there.map(|stream| stream.to_string()).collect();
        let wanted = name.to_string();
        Ok(Error::missing_like(
            "stream",
            &wanted,
            there.iter().map(String::as_str),
        ))
    }
}
