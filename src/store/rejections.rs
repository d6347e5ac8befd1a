//! Requests that hooks have rejected: how many for which reason, and the last one of each without secrets. A hook has
//! one row a reason, so the table stays small whatever is sent.

use sqlx::FromRow;

use super::backend::session::Tx;
use super::{Error, Store};
use crate::domain::hook::HookId;
use crate::domain::time::Timestamp;
use crate::domain::verify::diagnosis::{Diagnosis, Reason};

/// Requests that a hook has rejected for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The hook.
    pub hook: HookId,
    /// The last diagnosis.
    pub diagnosis: Diagnosis,
    /// Number of requests.
    pub count: i64,
    /// When the first came.
    pub first_at: Timestamp,
    /// When the last came.
    pub last_at: Timestamp,
    /// The last one as JSON, without secrets.
    pub sample: String,
}

#[derive(FromRow)]
struct Row {
    hook: i64,
    reason: String,
    count: i64,
    first_at: i64,
    last_at: i64,
    found: String,
    clock_ms: Option<i64>,
    sample: String,
}

const ADD: &str = "insert into rejections
    (hook, reason, count, first_at, last_at, found, clock_ms, sample)
    values ($1, $2, $3, $4, $5, $6, $7, $8)
    on conflict (hook, reason) do update set count = rejections.count + excluded.count,
    last_at = excluded.last_at, found = excluded.found, clock_ms = excluded.clock_ms,
    sample = excluded.sample";

const OF_HOOK: &str = "select hook, reason, count, first_at, last_at, found, clock_ms, sample
    from rejections where hook = $1 order by last_at desc, reason";

impl Store {
    /// Adds what was rejected since the last time. `rejections` are sorted by hook and reason, so that nodes lock rows
    /// in one order.
    ///
    /// # Errors
    /// Those of the database; nothing was added.
    pub async fn add_rejections(&self, rejections: &[Rejection]) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        for one in rejections {
            sqlx::query(ADD)
                .bind(one.hook.0)
                .bind(one.diagnosis.reason.word())
                .bind(one.count)
                .bind(one.first_at.as_millis())
                .bind(one.last_at.as_millis())
                .bind(one.diagnosis.found.as_str())
                .bind(one.diagnosis.clock_ms)
                .bind(one.sample.as_str())
                .execute(&mut writing.tx)
                .await?;
        }
        writing.commit().await
    }

    /// The requests that a hook has rejected, by reason, the last first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rejections(&self, hook: HookId) -> Result<Vec<Rejection>, Error> {
        let rows: Vec<Row> = sqlx::query_as(OF_HOOK)
            .bind(hook.0)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().filter_map(Row::rejection).collect())
    }
}

/// Removes what a hook has rejected.
pub(super) async fn forget(tx: &mut Tx, hook: HookId) -> Result<(), Error> {
    sqlx::query("delete from rejections where hook = $1")
        .bind(hook.0)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

impl Row {
    /// `None` for a reason of a newer hooklane.
    fn rejection(self) -> Option<Rejection> {
        Some(Rejection {
            hook: HookId(self.hook),
            diagnosis: Diagnosis {
                reason: Reason::of_word(&self.reason)?,
                found: self.found,
                clock_ms: self.clock_ms,
            },
            count: self.count,
            first_at: Timestamp::from_millis(self.first_at),
            last_at: Timestamp::from_millis(self.last_at),
            sample: self.sample,
        })
    }
}
