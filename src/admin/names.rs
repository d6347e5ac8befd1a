//! Completion of names for shells. Quick: everything is in memory, except streams, which are found by
//! index.

use std::collections::BTreeSet;

use super::{Admin, Error};
use crate::domain::hook::OrderBy;
use crate::domain::lane::LaneSet;
use crate::domain::name::Name;

/// Number of names at most.
pub const NAMES_MAX: usize = 100;

impl Admin {
    /// Names of a kind that begin with `start`, in order, as commands accept them.
    ///
    /// # Errors
    /// [`Error::Invalid`] kind; [`Error::NeedsDaemon`].
    pub async fn names_from(
        &self,
        kind: &str,
        start: &str,
        namespace: &Name,
    ) -> Result<Vec<String>, Error> {
        let catalog = self.engine()?.catalog.now();
        let all: BTreeSet<String> = match kind {
            "hook" => catalog.hooks.keys().map(Name::to_string).collect(),
            "namespace" => catalog.lane_sets.keys().map(Name::to_string).collect(),
            "lane" => {
                let set = catalog.lane_sets.get(namespace);
                let lanes = set.into_iter().flat_map(LaneSet::ids);
                // Lanes are completed by index, unless a full name is being typed.
                match start.starts_with(|c: char| c.is_ascii_digit()) || start.is_empty() {
                    true => lanes.map(|lane| lane.index.to_string()).collect(),
                    false => lanes.map(|lane| lane.to_string()).collect(),
                }
            }
            "key" => catalog.key_ids().map(|id| id.to_string()).collect(),
            "stream" => match start.split_once('/') {
                None => {
                    let hooks = catalog.hooks.values();
                    hooks
                        .map(|hook| stream_of(&hook.name, &hook.order_by))
                        .collect()
                }
                Some((hook, start)) => match catalog.hooks.get(hook) {
                    None => BTreeSet::new(),
                    Some(hook) => {
                        let limit = i64::try_from(NAMES_MAX).unwrap_or(i64::MAX);
                        let keys = self.store.ordering_keys(hook.id, start, limit).await?;
                        keys.into_iter()
                            .map(|key| format!("{}/{key}", hook.name))
                            .collect()
                    }
                },
            },
            other => {
                let message = format!("{other:?} is no kind: hook, stream, lane, namespace or key");
                return Err(Error::Invalid(message));
            }
        };
        let names = all.into_iter().filter(|name| name.starts_with(start));
        Ok(names.take(NAMES_MAX).collect())
    }
}

/// Prefix of the names of a hook's streams; the full name if it has one stream.
fn stream_of(hook: &Name, order_by: &OrderBy) -> String {
    match order_by {
        OrderBy::Nothing => hook.to_string(),
        _ => format!("{hook}/"),
    }
}
