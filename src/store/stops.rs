//! Hooks whose cursors take no turns: paused hooks, and hooks that move to another namespace. Reads and
//! writes rows only; the engine knows whether every node has seen the stop.
//!
//! ```text
//! move   begin ──▶ every node applies it, and no turn runs in the old lanes ──▶ end
//!          └────── a node does not, and the mover stops waiting ──▶ given up
//! ```

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Map;
use sqlx::{Any, Executor};

use super::note::{Note, Noting};
use super::{Attribution, Error, Store, namespaces};
use crate::domain::hook::HookId;
use crate::domain::name::Name;
use crate::domain::time::{Timestamp, millis};

/// Actor recorded when hooklane itself pauses a hook whose events do not end. Operators are recorded as
/// `uid 0` or `key NAME`.
pub const ITSELF: &str = "hooklane";

/// An event whose fold did not end.
#[derive(Clone, Debug)]
pub struct Stuck<'s> {
    /// The event's hook.
    pub hook: HookId,
    /// Name of the event's hook.
    pub name: &'s Name,
    /// Id of the event, and the way in which its fold was stopped.
    pub reason: &'s str,
    /// Time at which it was found.
    pub at: Timestamp,
    /// The node that found it, as the audit records it: `node eu-1`.
    pub from: String,
}

/// Reason why the cursors of a hook take no turns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookStop {
    /// The move to another namespace, if one is under way.
    pub moving: Option<NamespaceMove>,
    /// The pause by an operator or by hooklane itself.
    pub pause: Option<Attribution>,
}

impl HookStop {
    /// The pause, if hooklane itself has set it because events of the hook do not end.
    pub fn stuck(&self) -> Option<&Attribution> {
        self.pause.as_ref().filter(|pause| pause.by == ITSELF)
    }
}

/// A hook on its way to another namespace. The version makes each move unique, so that a late caller
/// with an old one changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceMove {
    /// The hook.
    pub hook: HookId,
    /// The namespace it moves to.
    pub to: Name,
    /// Version of the configuration in which the hook was stopped.
    pub since: i64,
}

const STOPS: &str =
    "select id, moves_to, moves_version, paused_at, paused_by, paused_reason from hooks
    where (paused_at is not null or moves_version is not null) and deleted_at is null";

const PAUSE: &str = "update hooks set paused_at = $2, paused_by = $3, paused_reason = $4
    where id = $1 and deleted_at is null and paused_at is null";

const STUCK: &str = "update hooks set
      paused_by = case when paused_at is null and stuck_at >= $3 then $4 else paused_by end,
      paused_reason = case when paused_at is null and stuck_at >= $3 then $5 else paused_reason end,
      paused_at = case when paused_at is null and stuck_at >= $3 then $2 else paused_at end,
      stuck_at = $2
    where id = $1 and deleted_at is null
    returning cast(case when paused_at = $2 and paused_by = $4 then 1 else 0 end as bigint)";

const RESUME: &str =
    "update hooks set paused_at = null, paused_by = null, paused_reason = null, stuck_at = null
    where id = $1 and paused_at is not null";

const BEGIN_MOVE: &str = "update hooks set moves_at = $4, moves_to = $3, moves_version = 0
    where id = $1 and namespace = $2 and deleted_at is null and moves_version is null
      and exists (select 1 from namespaces where name = $3)";

const SINCE: &str = "update hooks set moves_version =
    (select value from counters where name = 'config_version') where id = $1 returning moves_version";

/// A node without a row does not delay the end: it reads its first configuration later, and the hook is
/// stopped in it or has moved.
const END_MOVE: &str =
    "update hooks set namespace = moves_to, moves_at = null, moves_to = null, moves_version = null
    where id = $1 and moves_version = $2 and deleted_at is null
      and not exists (select 1 from nodes n where n.config_seen < $2)";

const GIVE_UP_MOVE: &str = "update hooks set moves_at = null, moves_to = null, moves_version = null
    where id = $1 and moves_version = $2";

/// Removes marks that the hook had in lanes of its old namespace.
const UNMARK: &str = "delete from marks where namespace <> $2
    and handler in (select id from handlers where hook = $1)";

pub(super) async fn list<'c>(
    db: impl Executor<'c, Database = Any>,
) -> Result<HashMap<HookId, HookStop>, Error> {
    type Row = (
        i64,
        Option<String>,
        Option<i64>,
        Option<i64>,
        Option<String>,
        Option<String>,
    );
    let rows: Vec<Row> = sqlx::query_as(STOPS).fetch_all(db).await?;
    let stop = |(id, to, since, at, by, reason): Row| {
        let hook = HookId(id);
        let pause = at.map(|at| Attribution {
            by: by.unwrap_or_default(),
            reason,
            at: Timestamp::from_millis(at),
        });
        let moving = match since {
            Some(since) => {
                let to = to.and_then(|to| to.parse().ok());
                let wrong = || Error::Integrity(format!("hook {id} moves nowhere"));
                Some(NamespaceMove {
                    hook,
                    to: to.ok_or_else(wrong)?,
                    since,
                })
            }
            None => None,
        };
        Ok((hook, HookStop { moving, pause }))
    };
    rows.into_iter().map(stop).collect()
}

impl Store {
    /// The stopped hooks.
    pub async fn hook_stops(&self) -> Result<HashMap<HookId, HookStop>, Error> {
        list(&self.reader).await
    }

    /// Pauses the cursors of a hook; `false` when they are already paused.
    pub async fn pause_hook(&self, hook: HookId, why: &Attribution) -> Result<bool, Error> {
        let mut writing = self.begin().await?;
        let paused = sqlx::query(PAUSE)
            .bind(hook.0)
            .bind(why.at.as_millis())
            .bind(&why.by)
            .bind(&why.reason)
            .execute(&mut writing.tx)
            .await?;
        if paused.rows_affected() == 0 {
            return Ok(false);
        }
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(true)
    }

    /// Records that an event of a hook did not end. Pauses the hook, and returns `true`, when this
    /// already happened within the time `within`, on any node. The pause has its row in the audit.
    pub async fn hook_stuck(&self, stuck: &Stuck<'_>, within: Duration) -> Result<bool, Error> {
        let noting = Noting::new(Note {
            by: ITSELF.to_owned(),
            from: stuck.from.clone(),
            operation: "hooks pause",
            subject: stuck.name.to_string(),
            reason: Some(stuck.reason.to_owned()),
            details: Map::new(),
            planned: None,
        });
        let mut writing = self.begin().await?;
        let paused: Option<i64> = sqlx::query_scalar(STUCK)
            .bind(stuck.hook.0)
            .bind(stuck.at.as_millis())
            .bind(stuck.at.as_millis() - millis(within))
            .bind(ITSELF)
            .bind(stuck.reason)
            .fetch_optional(&mut writing.tx)
            .await?;
        let is_paused = paused == Some(1);
        if is_paused {
            writing.noting = Some(&noting);
            writing.config_changed().await?;
        }
        writing.commit().await?;
        Ok(is_paused)
    }

    /// Resumes the cursors of a paused hook; `false` when they are not paused.
    pub async fn resume_hook(&self, hook: HookId) -> Result<bool, Error> {
        let mut writing = self.begin().await?;
        let resumed = sqlx::query(RESUME)
            .bind(hook.0)
            .execute(&mut writing.tx)
            .await?;
        if resumed.rows_affected() == 0 {
            return Ok(false);
        }
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(true)
    }

    /// Stops the cursors of a hook of the namespace `from` so that it can move to `to`. `None` when the
    /// hook does not exist there, already moves, or `to` does not exist.
    pub async fn begin_move(
        &self,
        hook: HookId,
        from: &Name,
        to: &Name,
        at: Timestamp,
    ) -> Result<Option<NamespaceMove>, Error> {
        let mut writing = self.begin().await?;
        sqlx::query(namespaces::LOCK)
            .bind(to.as_str())
            .execute(&mut writing.tx)
            .await?;
        let begun = sqlx::query(BEGIN_MOVE)
            .bind(hook.0)
            .bind(from.as_str())
            .bind(to.as_str())
            .bind(at.as_millis())
            .execute(&mut writing.tx)
            .await?;
        if begun.rows_affected() == 0 {
            return Ok(None);
        }
        writing.config_changed().await?;
        let since = sqlx::query_scalar(SINCE)
            .bind(hook.0)
            .fetch_one(&mut writing.tx)
            .await?;
        writing.commit().await?;
        Ok(Some(NamespaceMove {
            hook,
            to: to.clone(),
            since,
        }))
    }

    /// Ends a move, provided every node acts by a configuration in which the hook is stopped; true if
    /// this call ended it. With no nodes at all, the caller must know that no turn of the hook runs.
    pub async fn end_move(&self, moving: &NamespaceMove) -> Result<bool, Error> {
        let mut writing = self.begin().await?;
        if !writing.change_move(END_MOVE, moving).await? {
            return Ok(false);
        }
        sqlx::query(UNMARK)
            .bind(moving.hook.0)
            .bind(moving.to.as_str())
            .execute(&mut writing.tx)
            .await?;
        writing.draw_moved(moving.hook).await?;
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(true)
    }

    /// Cancels a move and adds the reason to the audit note; the hook goes on in its old namespace.
    /// True if the move was still under way.
    pub async fn give_up_move(&self, moving: &NamespaceMove, why: &str) -> Result<bool, Error> {
        let mut writing = self.begin().await?;
        if !writing.change_move(GIVE_UP_MOVE, moving).await? {
            return Ok(false);
        }
        writing.tell_note(serde_json::json!({"given_up": why}));
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(true)
    }
}

impl super::Writing<'_> {
    async fn change_move(
        &mut self,
        change: &'static str,
        moving: &NamespaceMove,
    ) -> Result<bool, Error> {
        let changed = sqlx::query(change)
            .bind(moving.hook.0)
            .bind(moving.since)
            .execute(&mut self.tx)
            .await?;
        Ok(changed.rows_affected() == 1)
    }
}
