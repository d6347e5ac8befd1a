//! Metrics of the engine: gauges that are read on request, and counts of turns.

use std::collections::HashMap;
use std::time::Duration;

use super::{Engine, lane, turn};
use crate::domain::hook::HookId;
use crate::domain::time::Timestamp;

impl Engine {
    /// Updates the gauges of the metrics.
    pub fn measure(&self) {
        let (events, bytes) = self.intake.depth();
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.queue_events.set(number(events));
        self.metrics.queue_bytes.set(number(bytes));
        let (mut set_aside, mut held) = (0, 0);
        let (now, catalog) = (Timestamp::now(), self.catalog.now());
        let mut lanes = Vec::new();
        let mut hooks: HashMap<HookId, lane::HandlerBacklog> = HashMap::new();
        for (id, lane) in self.running_lanes.running.read().iter() {
            let (mut events, mut age) = (0, Duration::ZERO);
            for (handler, backlog) in lane.worker.backlogs() {
                events += backlog.events;
                age = age.max(now.since(backlog.oldest));
                held += backlog.held;
                set_aside += backlog.held + backlog.waiting;
                let Some(handler) = catalog.handlers.get(&handler) else {
                    continue;
                };
                let of_hook = hooks.entry(handler.hook);
                of_hook
                    .and_modify(|all| all.add(backlog))
                    .or_insert(backlog);
            }
            lanes.push((id.to_string(), events, age));
        }
        self.metrics.show_lanes(lanes);
        let name = |hook| catalog.hooks_by_id.get(&hook).map(|hook| &hook.name);
        let hooks = hooks.into_iter().filter_map(|(hook, backlog)| {
            let age = now.since(backlog.oldest);
            Some((name(hook)?.to_string(), backlog.events, backlog.held, age))
        });
        self.metrics.show_hooks(hooks.collect());
        self.metrics
            .database_up
            .set(i64::from(self.metrics.pulse.failing().is_none()));
        let is_redis_up = self.relay.trouble().is_none();
        self.metrics.redis_up.set(i64::from(is_redis_up));
        self.metrics.show_process();
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.cursors_set_aside.set(number(set_aside));
        self.metrics.cursors_held.set(number(held));
    }

    pub(super) fn count_turn(&self, turned: &turn::Turned, now: Timestamp) {
        self.metrics.turns.inc();
        self.metrics
            .events_applied
            .inc_by(turned.received.len() as u64);
        for at in &turned.received {
            self.metrics
                .wait_seconds
                .observe(now.since(*at).as_secs_f64());
        }
        self.metrics.pulse.folded(&turned.work);
        for (_, took, _) in &turned.work {
            self.metrics.fold_seconds.observe(took.as_secs_f64());
        }
    }
}
