//! Rejected requests of hooks: their number for each reason, and the latest one without secrets. Each
//! hook has one row per reason, so senders cannot make the table grow.

use sqlx::FromRow;

use super::backend::session::Tx;
use super::{Error, Store};
use crate::domain::hook::HookId;
use crate::domain::time::Timestamp;
use crate::domain::verify::diagnosis::{Diagnosis, Reason};

/// Rejected requests of a hook with the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The hook.
    pub hook: HookId,
    /// Diagnosis of the latest request.
    pub diagnosis: Diagnosis,
    /// Number of requests.
    pub count: i64,
    /// Time of the first request.
    pub first_at: Timestamp,
    /// Time of the latest request.
    pub last_at: Timestamp,
    /// The latest request as JSON, without secrets.
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
    /// Adds rejections to the stored counts. `rejections` are sorted by hook and reason, so that nodes
    /// lock rows in the same order. A failed call adds nothing.
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

    /// Rejections of a hook by reason, latest first.
    pub async fn rejections(&self, hook: HookId) -> Result<Vec<Rejection>, Error> {
        let rows: Vec<Row> = sqlx::query_as(OF_HOOK)
            .bind(hook.0)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().filter_map(Row::rejection).collect())
    }
}

/// Deletes the rejections of a hook.
pub(super) async fn forget(tx: &mut Tx, hook: HookId) -> Result<(), Error> {
    sqlx::query("delete from rejections where hook = $1")
        .bind(hook.0)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

impl Row {
    /// The rejection; `None` if its reason is of a newer hooklane.
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
