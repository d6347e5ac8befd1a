//! What operators changed: one row for each operation, kept for a while.

use std::time::Duration;

use sqlx::FromRow;

use super::{Error, Store};
use crate::domain::time::{Timestamp, millis};

/// How long rows are kept.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// Something that an operator changed.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct AuditRow {
    /// Grows with every row; zero for one that is not stored yet.
    pub id: i64,
    /// When it was done, in milliseconds.
    pub at: i64,
    /// Who did it.
    pub actor: String,
    /// From where: `socket`, an address, `offline`.
    pub came_from: String,
    /// What was done, as the command line names it.
    pub operation: String,
    /// To what.
    pub subject: String,
    /// Why, as he said.
    pub reason: Option<String>,
    /// More, as JSON.
    pub details: String,
}

/// Which rows a list is about.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Those at or after a moment.
    pub since: Option<Timestamp>,
    /// Those about one subject, or about streams of one hook.
    pub subject: Option<String>,
    /// Those older than this row.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: i64,
}

const ADD: &str = "insert into audit (at, actor, came_from, operation, subject, reason, details)
    values ($1, $2, $3, $4, $5, $6, $7)";

const FORGET: &str = "delete from audit where at < $1";

const LIST: &str = "select id, at, actor, came_from, operation, subject, reason, details from audit
    where ($1 is null or at >= $1)
      and ($2 is null or subject = $2 or substr(subject, 1, length($2) + 1) = $2 || '/')
      and ($3 is null or id < $3)
    order by id desc limit $4";

impl Store {
    /// Adds a row, and removes those that are too old.
    ///
    /// # Errors
    /// Those of the database; nothing was added.
    pub async fn add_audit(&self, row: &AuditRow) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        sqlx::query(ADD)
            .bind(row.at)
            .bind(&row.actor)
            .bind(&row.came_from)
            .bind(&row.operation)
            .bind(&row.subject)
            .bind(&row.reason)
            .bind(&row.details)
            .execute(&mut writing.tx)
            .await?;
        sqlx::query(FORGET)
            .bind(row.at.saturating_sub(millis(KEPT)))
            .execute(&mut writing.tx)
            .await?;
        writing.commit().await
    }

    /// Rows, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, Error> {
        let rows = sqlx::query_as(LIST)
            .bind(filter.since.map(Timestamp::as_millis))
            .bind(&filter.subject)
            .bind(filter.before)
            .bind(filter.limit)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows)
    }
}
