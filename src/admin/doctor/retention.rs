//! Checks whether retention can remove events when they are due.

use std::time::Duration;

use crate::admin::{Admin, Error};
use crate::api::Check;
use crate::domain::hook::Hook;
use crate::domain::keep::Keep;
use crate::domain::name::StreamName;
use crate::domain::time::Timestamp;
use crate::store::{CursorRow, CursorsFilter};
use crate::text::{counted, duration};

/// A cursor counts as a coming obstacle when its next event has waited for 1/SOON of the retention
/// time.
const SOON: u32 = 2;

impl Admin {
    /// The obstacles to retention, present or coming, for each hook that removes events. Empty when no
    /// hook does.
    pub(super) async fn retention(&self) -> Result<Vec<Check>, Error> {
        let hooks = self.store.hooks().await?;
        let removing: Vec<_> = hooks
            .iter()
            .filter(|hook| hook.keep != Keep::Forever)
            .collect();
        let rebuilds = self.store.running_rebuilds().await?;
        let mut checks = Vec::new();
        for hook in &removing {
            if hook.keep.is_short() {
                checks.push(short(hook));
            }
            if rebuilds.iter().any(|rebuild| rebuild.hook == hook.id.0) {
                let text = format!(
                    "nothing of hook {} is removed while it is rebuilt",
                    hook.name
                );
                checks.push(Check::warn("retention", text, "hooklane status"));
            }
            checks.extend(self.slowest(hook).await?);
        }
        if checks.is_empty() && !removing.is_empty() {
            let hooks = counted(removing.len() as u64, "hook removes", "hooks remove");
            checks.push(Check::ok(
                "retention",
                format!("{hooks} old events, nothing is in the way"),
            ));
        }
        Ok(checks)
    }

    /// The check of the cursor of a hook that is furthest behind.
    async fn slowest(&self, hook: &Hook) -> Result<Option<Check>, Error> {
        if let Keep::For(age) = hook.keep {
            let filter = CursorsFilter {
                hook: Some(hook.id),
                limit: 1,
                ..CursorsFilter::default()
            };
            let rows = self.store.cursors_behind(&filter).await?;
            let slowest = rows.into_iter().next();
            return Ok(slowest.and_then(|row| late(hook, age, row, Timestamp::now())));
        }
        let overdue = self.engine.iter().flat_map(|engine| engine.overdue());
        let mut overdue = overdue.filter(|overdue| overdue.example.hook == hook.name);
        Ok(overdue.next().map(|overdue| {
            let (keep, stream) = (hook.keep, &overdue.example);
            let text = format!("{stream} keeps more than {keep}: {}", overdue.why);
            Check::warn(
                "retention",
                text,
                format!("hooklane why {}", crate::text::quoted(stream)),
            )
        }))
    }
}

fn short(hook: &Hook) -> Check {
    let (name, keep) = (&hook.name, hook.keep);
    let text = format!(
        "hook {name} keeps events for {keep}, senders try again for longer: a repeat of one that is gone is new"
    );
    let remedy = format!("hooklane hooks edit {name} --keep 3d");
    Check::warn("retention", text, remedy)
}

/// The check of a cursor by the age of its next event.
fn late(hook: &Hook, age: Duration, row: CursorRow, now: Timestamp) -> Option<Check> {
    let waits = now.since(row.oldest?);
    if waits < age / SOON {
        return None;
    }
    let stream = StreamName {
        hook: hook.name.clone(),
        key: row.key,
    };
    let then = match waits < age {
        true => "it will be in the way",
        false => "it and all later events stay",
    };
    let text = format!(
        "hook {} keeps events for {}, and {stream} has one that waits for {} ({}): {then}",
        hook.name,
        hook.keep,
        duration(waits),
        row.condition.word()
    );
    Some(Check::warn(
        "retention",
        text,
        format!("hooklane why {}", crate::text::quoted(&stream)),
    ))
}
