//! Operations of operators, under way and past, shown on every node.

use std::collections::HashMap;

use crate::admin::{Admin, Error};
use crate::api::{self, Severity, command};
use crate::domain::hook::HookId;
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::time::Timestamp;
use crate::engine::catalog;
use crate::store::{AuditFilter, AuditRow, ITSELF, Rebuild, RunningReplay};
use crate::text::quoted;

/// Number of audit rows read for the log in one round.
const ACTS_MAX: i64 = 32;

/// Operations that the log already shows as changes of lanes.
const SEEN_BY_LANES: [&str; 3] = ["lanes pause", "lanes resume", "lanes drain"];

impl Admin {
    /// Resizes, rebuilds and replays that are under way, by namespace, oldest first.
    pub(super) async fn operations(
        &self,
        catalog: &catalog::Snapshot,
    ) -> Result<HashMap<Name, Vec<api::Operation>>, Error> {
        let mut all: HashMap<Name, Vec<api::Operation>> = HashMap::new();
        for namespace in self.store.resized_namespaces().await? {
            let Some(resize) = self.store.resize_under_way(&namespace).await? else {
                continue;
            };
            let progress = self.resize_progress(&namespace).await?;
            let (from, to) = (resize.from.lanes, resize.to.lanes);
            let operation = api::Operation {
                what: format!("resize {namespace} {from} -> {to} lanes"),
                by: resize.by,
                since: resize.at,
                done: progress.sealed.into(),
                of: progress.of.into(),
                unit: "lanes sealed".to_owned(),
                waits_for: progress.waits_for,
                watch: command::resize(to, &namespace),
            };
            all.entry(namespace).or_default().push(operation);
        }
        for rebuild in self.store.running_rebuilds().await? {
            if let Some(hook) = catalog.hooks_by_id.get(&HookId(rebuild.hook)) {
                let operation = of_rebuild(rebuild, &hook.name);
                let of_space = all.entry(hook.namespace.clone()).or_default();
                of_space.push(operation);
            }
        }
        let replays = match catalog.replays.is_empty() {
            true => Vec::new(),
            false => self.store.running_replays().await?,
        };
        for replay in replays {
            if let Some(hook) = catalog.hooks_by_id.get(&HookId(replay.hook)) {
                let operation = of_replay(replay, &hook.name);
                let of_space = all.entry(hook.namespace.clone()).or_default();
                of_space.push(operation);
            }
        }
        for operations in all.values_mut() {
            operations.sort_by_key(|operation| operation.since);
        }
        Ok(all)
    }

    /// Adds to the log the operations since the last round, on any node; in the first round, only the
    /// latest ones.
    pub(super) async fn note_acts(&self) -> Result<(), Error> {
        let newest = AuditFilter {
            limit: ACTS_MAX,
            ..AuditFilter::default()
        };
        let mut acts = self.store.audit(&newest).await?;
        acts.reverse();
        let mut seen = self.monitor.seen.lock();
        let before = seen.noted;
        for act in acts {
            seen.noted = seen.noted.max(Some(act.id));
            let is_told = before.is_some() && SEEN_BY_LANES.contains(&&*act.operation);
            if before.is_none_or(|before| act.id > before) && !is_told {
                seen.add_log(line(&act));
            }
        }
        seen.noted.get_or_insert(0);
        Ok(())
    }
}

fn of_rebuild(rebuild: Rebuild, hook: &Name) -> api::Operation {
    let verb = if rebuild.is_check() {
        "check"
    } else {
        "rebuild"
    };
    let key = rebuild.ordering_key.map(OrderingKey::stored);
    let subject = StreamName {
        hook: hook.clone(),
        key: key.unwrap_or_default(),
    };
    let check = if verb == "check" { " --check" } else { "" };
    let number = |count: i64| u64::try_from(count).unwrap_or(0);
    api::Operation {
        what: format!("{verb} state of {subject}"),
        by: Some(rebuild.asked_by),
        since: Timestamp::from_millis(rebuild.asked_at),
        done: number(rebuild.events_done),
        of: number(rebuild.events),
        unit: "events".to_owned(),
        waits_for: None,
        watch: format!("hooklane state rebuild {}{check}", quoted(&subject)),
    }
}

fn of_replay(replay: RunningReplay, hook: &Name) -> api::Operation {
    let stream = StreamName {
        hook: hook.clone(),
        key: OrderingKey::stored(replay.ordering_key),
    };
    let number = |count: i64| u64::try_from(count).unwrap_or(0);
    api::Operation {
        what: format!("replay {stream} -> {}", replay.name),
        by: None,
        since: Timestamp::from_millis(replay.created_at),
        done: number(replay.position - replay.base),
        of: number(replay.replay_to - replay.base),
        unit: "events".to_owned(),
        waits_for: None,
        watch: "hooklane events replays".to_owned(),
    }
}

/// An operation as a log line: `lanes resize 8 -> 16 by uid 1000 "spike"`.
fn line(act: &AuditRow) -> api::LogLine {
    let details: serde_json::Value = serde_json::from_str(&act.details).unwrap_or_default();
    let change = match (&details["from"], &details["to"]) {
        (from, to) if from.is_number() && to.is_number() => format!(" {from} -> {to}"),
        _ => String::new(),
    };
    let reason = act.reason.as_ref();
    let reason = reason.map_or_else(String::new, |reason| format!(" \"{reason}\""));
    let (operation, by) = (&act.operation, &act.actor);
    let (severity, what) = match by == ITSELF {
        true => (
            Severity::Trouble,
            format!("stopped by {}{reason}", act.came_from),
        ),
        false => (
            Severity::Fine,
            format!("{operation}{change} by {by}{reason}"),
        ),
    };
    api::LogLine {
        at: Timestamp::from_millis(act.at),
        severity,
        scope: act.subject.clone(),
        what,
    }
}
