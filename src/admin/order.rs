//! The provider's order: its settings, and counts of late and held back events.

use std::time::Duration;

use super::{Admin, Error};
use crate::api::{self, HookSpec, OrderCounts};
use crate::domain::event::StreamId;
use crate::domain::hook::Hook;
use crate::domain::name::{OrderingKey, StreamName};
use crate::domain::time::millis;
use crate::domain::version::{Late, Versioning};
use crate::text::counted;

impl Admin {
    /// Counts of a hook; `None` if it has no versions.
    pub(super) async fn order_of_hook(&self, hook: &Hook) -> Result<Option<OrderCounts>, Error> {
        if hook.versioning.is_none() {
            return Ok(None);
        }
        let late = self.store.late_count(hook.id).await?;
        let held = self.store.held_back_count(hook.id, None).await?;
        Ok(Some(OrderCounts {
            late,
            held_back: held.events,
            next_due_at: held.next_due,
        }))
    }

    /// Counts of a stream; `None` if its hook has no versions.
    pub(super) async fn order_of_stream(
        &self,
        hook: &Hook,
        (stream, key): (StreamId, &OrderingKey),
    ) -> Result<Option<OrderCounts>, Error> {
        if hook.versioning.is_none() {
            return Ok(None);
        }
        let late = self.store.late_in_stream(stream).await?;
        let held = self.store.held_back_count(hook.id, Some(key)).await?;
        Ok(Some(OrderCounts {
            late,
            held_back: held.events,
            next_due_at: held.next_due,
        }))
    }
}

impl Admin {
    /// The error for a stream whose events are all held back; `None` if it has none.
    pub(super) async fn only_held_back(
        &self,
        hook: &Hook,
        name: &StreamName,
    ) -> Result<Option<Error>, Error> {
        let held = self.store.held_back_count(hook.id, Some(&name.key)).await?;
        let Some(next) = held.next_due else {
            return Ok(None);
        };
        let events = counted(held.events, "event is", "events are");
        Ok(Some(Error::Conflict(format!(
            "stream {name} has no event with a seq yet: {events} held back by the reorder window, the first until {next}"
        ))))
    }
}

/// Checks the settings of a declared hook as an edit that sets them would be checked.
pub(super) fn check(spec: &HookSpec) -> Result<(), Error> {
    let late = Some(spec.late).filter(|late| *late != Late::default());
    let edit = api::HookEdit {
        late,
        reorder_window_ms: spec.reorder_window_ms.map(Some),
        ..api::HookEdit::default()
    };
    edit.applied(spec.clone())?;
    Ok(())
}

/// The rule of a hook with these settings.
pub(super) fn versioning(spec: &HookSpec) -> Option<Versioning> {
    Some(Versioning {
        by: spec.version_by.clone()?,
        late: spec.late,
        window: spec.reorder_window_ms.map(Duration::from_millis),
    })
}

/// Treatment of late events.
pub(super) fn late(hook: &Hook) -> Late {
    let versioning = hook.versioning.as_ref();
    versioning.map_or(Late::default(), |versioning| versioning.late)
}

/// Reorder window, in milliseconds.
pub(super) fn window_ms(hook: &Hook) -> Option<u64> {
    let window = hook.versioning.as_ref()?.window?;
    Some(millis(window).unsigned_abs())
}

/// The settings in words.
pub(super) fn told(spec: &HookSpec) -> String {
    let Some(by) = &spec.version_by else {
        return "none".to_owned();
    };
    let window = spec.reorder_window_ms;
    let window = window.map_or_else(String::new, |ms| format!(", window {ms}ms"));
    format!("{by}, late {}{window}", spec.late)
}
