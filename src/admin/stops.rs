//! Stopping and resuming by name: the cursors of a hook or a stream. Also shows a lane with its
//! cursors.

use std::collections::HashMap;

use serde_json::json;

use super::resize::why;
use super::{Admin, Error};
use crate::api;
use crate::domain::cursor::{Condition, Cursor, CursorId};
use crate::domain::hook::{HandlerId, Hook};
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::store::{Advance, HookStop, InputRequest, Mover, Step};

/// Number of attempts to hold a cursor that turns move meanwhile.
const TRIES: usize = 100;

/// Number of cursors released in one transaction, because turns wait for it.
const RELEASED_AT_A_TIME: usize = 500;

/// Number of cursors of a lane that are read.
const LOOKED_AT: usize = 1_000;

impl Admin {
    /// Pauses a hook: its cursors take no turns, its events are still accepted. Once no node is waited
    /// for, no turn of it runs.
    ///
    /// # Errors
    /// [`Error::Missing`] hook.
    pub async fn pause_hook(
        &self,
        name: &Name,
        reason: Option<&String>,
        by: &str,
    ) -> Result<api::HookStopped, Error> {
        let hook = self.hook(name).await?;
        let changed = self.store.pause_hook(hook.id, &why(by, reason)).await?;
        self.hook_stopped(name, changed).await
    }

    /// Resumes a paused hook.
    ///
    /// # Errors
    /// [`Error::Missing`] hook.
    pub async fn resume_hook(&self, name: &Name) -> Result<api::HookStopped, Error> {
        let hook = self.hook(name).await?;
        let changed = self.store.resume_hook(hook.id).await?;
        self.hook_stopped(name, changed).await
    }

    async fn hook_stopped(&self, name: &Name, changed: bool) -> Result<api::HookStopped, Error> {
        self.changed().await?;
        let waits_for = match &self.engine {
            Some(_) => {
                self.acted_by_all(self.store.config_version().await?)
                    .await?
            }
            None => Vec::new(),
        };
        Ok(api::HookStopped {
            hook: name.clone(),
            changed,
            waits_for,
        })
    }

    /// Holds cursors of a stream until an operator releases them.
    ///
    /// # Errors
    /// [`Error::Missing`] stream or handler; [`Error::NeedsDaemon`].
    pub async fn hold(&self, hold: &api::Hold, by: &str) -> Result<api::HoldResult, Error> {
        let engine = self.engine()?;
        let (hook, stream) = self.stream(&hold.stream).await?;
        let because = Condition::held_by(by, hold.reason.as_deref());
        let handlers = self.handlers(&hook, hold.handler.as_ref())?;
        let wants = handlers.iter().map(|handler| InputRequest {
            cursor: CursorId {
                stream: stream.id,
                handler: *handler,
            },
            events_max: 1,
        });
        let held = self.hold_all(wants.collect(), &because).await?;
        for cursor in &held {
            // Makes the lane look at the cursor, which sets it aside.
            engine.let_go(&hook.namespace, stream.slot, *cursor, 0);
        }
        Ok(api::HoldResult {
            held: held.len() as u64,
        })
    }

    /// Holds cursors; returns those that were not held before.
    async fn hold_all(
        &self,
        wants: Vec<InputRequest>,
        because: &Condition,
    ) -> Result<Vec<CursorId>, Error> {
        for _ in 0..TRIES {
            let inputs = self.store.inputs(wants.clone()).await?.into_iter();
            let cursors = inputs.flatten().map(|input| input.cursor);
            let is_free = |cursor: &Cursor| !matches!(cursor.condition, Condition::Held { .. });
            let steps: Vec<_> = (cursors.filter(is_free))
                .map(|cursor| held(cursor, because))
                .collect();
            if steps.is_empty() {
                return Ok(Vec::new());
            }
            self.store.tell_note(json!({"cursors": steps.len()}));
            if self.store.operate(&steps).await? == Advance::Moved {
                return Ok(steps.into_iter().map(|step| step.cursor).collect());
            }
        }
        let message = "its turns move it faster than it can be held; pause its lane first";
        Err(Error::Conflict(message.to_owned()))
    }

    /// Releases held cursors of a stream, whether an operator or a failure holds them.
    ///
    /// # Errors
    /// [`Error::Missing`] stream or handler; [`Error::NeedsDaemon`].
    pub async fn release(&self, release: &api::Retry) -> Result<api::RetryResult, Error> {
        self.retry(release).await
    }

    /// Retries the set-aside cursors of a hook now, except those that an operator holds.
    ///
    /// # Errors
    /// [`Error::Missing`] hook or handler; [`Error::NeedsDaemon`].
    pub async fn retry_hook(
        &self,
        name: &Name,
        handler: Option<&Name>,
    ) -> Result<api::RetryResult, Error> {
        let engine = self.engine()?;
        let hook = self.hook(name).await?;
        let handlers = self.handlers(&hook, handler)?;
        let mut aside = self.set_aside(hook.id).await?;
        aside.retain(|row| !row.condition.is_by_operator() && handlers.contains(&row.id.handler));
        aside.sort_by_key(|row| row.id);
        self.store.tell_note(json!({"cursors": aside.len()}));
        let mut released = 0;
        for rows in aside.chunks(RELEASED_AT_A_TIME) {
            let slots: HashMap<_, _> = rows.iter().map(|row| (row.id, row.slot)).collect();
            let cursors: Vec<_> = rows.iter().map(|row| row.id).collect();
            for cursor in self.store.release_all(&cursors).await? {
                engine.let_go(&hook.namespace, slots[&cursor], cursor, 1);
                released += 1;
            }
        }
        Ok(api::RetryResult { released })
    }

    fn handlers(&self, hook: &Hook, wanted: Option<&Name>) -> Result<Vec<HandlerId>, Error> {
        match wanted {
            Some(name) => Ok(vec![self.handler(hook, name)?.id]),
            None => Ok(hook.handlers.iter().map(|handler| handler.id).collect()),
        }
    }

    /// A lane with its cursors: first the set-aside ones, then those whose events have waited longest.
    ///
    /// # Errors
    /// [`Error::Missing`] namespace or lane; [`Error::NeedsDaemon`].
    pub async fn show_lane(
        &self,
        namespace: &Name,
        lane: &str,
        top: usize,
    ) -> Result<api::LaneDetail, Error> {
        let is_meant =
            |found: &api::Lane| found.id.to_string() == lane || found.id.index.to_string() == lane;
        let lanes = self.lanes(namespace).await?;
        let Some(found) = lanes.iter().find(|found| is_meant(found)) else {
            let there: Vec<_> = lanes.iter().map(|lane| lane.id.to_string()).collect();
            let there = there.iter().map(String::as_str);
            return Err(Error::missing_like("lane", lane, there));
        };
        let engine = self.engine.as_ref();
        let worker = engine.and_then(|engine| engine.worker(&found.id));
        let (cursors, is_all) = match worker {
            Some(worker) => {
                let lines = worker.lines(top.min(LOOKED_AT), top.min(LOOKED_AT));
                (self.cursor_lines(lines, &worker.id).await?, true)
            }
            None => {
                let seen = self.seen(namespace).await?;
                let seen = seen.cursors.iter().filter(|line| line.is_in(found));
                (seen.cloned().collect(), false)
            }
        };
        Ok(api::LaneDetail {
            lane: found.clone(),
            is_all,
            cursors: cursors.into_iter().take(top).collect(),
        })
    }
}

fn held(cursor: Cursor, because: &Condition) -> Step {
    Step {
        cursor: cursor.id,
        era: cursor.era,
        from: cursor.position,
        to: cursor.position,
        state: cursor.state,
        chain: cursor.chain,
        condition: because.clone(),
        skipped: Vec::new(),
        mover: Mover::Operator,
        at: Timestamp::now(),
    }
}

/// Describes the pause of a hook: `hook orders paused by uid 0 since 02:41:07Z "deploy"`; or since when a node has
/// stopped it, and with which event.
pub(super) fn told(hook: &Name, stop: &HookStop, now: Timestamp) -> Option<String> {
    let pause = stop.pause.as_ref()?;
    if stop.stuck().is_some() {
        let reason = pause.reason.as_deref().unwrap_or_default();
        let since = pause.at.clock_at(now);
        return Some(format!("hook {hook} stopped since {since}: {reason}"));
    }
    let reason = pause.reason.as_ref().map(|reason| format!(" {reason:?}"));
    Some(format!(
        "hook {hook} paused by {} since {}{}",
        pause.by,
        pause.at.clock_at(now),
        reason.unwrap_or_default()
    ))
}

/// Commands to run, in order, once the reducer of a stopped hook is repaired.
pub(super) fn restart(hook: &Name) -> [(String, &'static str); 3] {
    [
        (
            format!("hooklane hooks edit {hook} --reduce FILE"),
            "a reducer that ends with every event",
        ),
        (
            format!("hooklane hooks resume {hook}"),
            "let the hook go on",
        ),
        (
            format!("hooklane streams retry --hook {hook}"),
            "then those that it has held",
        ),
    ]
}
