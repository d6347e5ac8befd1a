//! Namespaces: creating, listing, changing and deleting them.

use std::time::Duration;

use super::{Admin, Error};
use crate::api;
use crate::domain::lane::LANES_MAX;
use crate::domain::name::Name;
use crate::domain::thresholds::Thresholds;
use crate::domain::time::{Timestamp, millis};
use crate::store;

impl Admin {
    /// Every namespace, by name.
    pub async fn namespaces(&self) -> Result<Vec<api::Namespace>, Error> {
        let namespaces = self.store.namespaces().await?;
        Ok(namespaces.into_iter().map(shown).collect())
    }

    /// Creates a namespace with its own lanes.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Invalid`] for a number of lanes out of range, and for thresholds.
    pub async fn create_namespace(
        &self,
        spec: &api::NamespaceSpec,
    ) -> Result<api::Namespace, Error> {
        check_lanes(spec.lanes)?;
        let thresholds = thresholds(spec, Thresholds::default())?;
        let now = Timestamp::now();
        if !self
            .store
            .create_namespace(&spec.name, spec.lanes, thresholds, now)
            .await?
        {
            return Err(Error::Exists {
                kind: "namespace",
                name: spec.name.to_string(),
            });
        }
        self.changed().await?;
        self.namespace(&spec.name).await.map(shown)
    }

    /// Deletes a namespace without hooks.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it has hooks, or is the default one.
    pub async fn delete_namespace(&self, name: &Name) -> Result<api::Namespace, Error> {
        let namespace = self.namespace(name).await?;
        if *name == Name::default_namespace() {
            return Err(Error::Conflict("namespace default always exists".into()));
        }
        if !self.store.delete_namespace(name).await? {
            let hooks = namespace.hooks;
            return Err(Error::Conflict(format!(
                "namespace {name} is not empty, hooks: {hooks}"
            )));
        }
        self.changed().await?;
        Ok(shown(namespace))
    }

    pub(super) async fn namespace(&self, name: &Name) -> Result<store::Namespace, Error> {
        let mut namespaces = self.store.namespaces().await?;
        let names = || {
            namespaces
                .iter()
                .map(|namespace| &namespace.lanes.namespace)
        };
        match names().position(|there| there == name) {
            Some(at) => Ok(namespaces.swap_remove(at)),
            None => {
                let there = names().map(Name::as_str);
                Err(Error::missing_like("namespace", name.as_str(), there))
            }
        }
    }
}

pub(super) fn check_lanes(lanes: u16) -> Result<(), Error> {
    match lanes {
        1..=LANES_MAX => Ok(()),
        _ => Err(Error::Invalid(format!(
            "lane count is 1 to {LANES_MAX}, got {lanes}"
        ))),
    }
}

fn whole(age: Duration) -> u64 {
    u64::try_from(millis(age)).unwrap_or(0)
}

/// The thresholds as requested; values that are left out stay as they are.
pub(super) fn thresholds(spec: &api::NamespaceSpec, was: Thresholds) -> Result<Thresholds, Error> {
    let asked = was.with(spec.warn_ms, spec.crit_ms);
    asked.map_err(|wrong| Error::Invalid(format!("namespace {}: {wrong}", spec.name)))
}

fn shown(namespace: store::Namespace) -> api::Namespace {
    api::Namespace {
        name: namespace.lanes.namespace,
        lanes: namespace.lanes.lanes,
        generation: namespace.lanes.generation,
        hooks: u64::try_from(namespace.hooks).unwrap_or(0),
        warn_ms: whole(namespace.thresholds.warn),
        crit_ms: whole(namespace.thresholds.crit),
    }
}
