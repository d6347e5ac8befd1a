//! The audit log: one row for each operation of an operator, kept for 90 days. The row is written in
//! the same transaction as the change, so neither exists without the other.

use serde_json::Value;
use sqlx::FromRow;

use super::note::{Note, Noting};
use super::{Error, Store};
use crate::domain::time::Timestamp;

/// One row of the audit log: an operation that changed something.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct AuditRow {
    /// Row number; it grows with every row. Zero in a row that is not stored yet.
    pub id: i64,
    /// Time of the operation, in milliseconds since 1970.
    pub at: i64,
    /// Name of the operator.
    pub actor: String,
    /// Origin of the request: `socket`, an address, or `offline`.
    pub came_from: String,
    /// Name of the operation, as the command line spells it.
    pub operation: String,
    /// The object that was changed, such as a hook or `HOOK/KEY`.
    pub subject: String,
    /// The reason that the operator gave.
    pub reason: Option<String>,
    /// Further details, as a JSON object.
    pub details: String,
}

/// Selects rows of the audit log.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only rows at or after this time.
    pub since: Option<Timestamp>,
    /// Only rows about this subject, or about streams of this hook.
    pub subject: Option<String>,
    /// Only rows with a smaller number than this one, for paging.
    pub before: Option<i64>,
    /// Number of rows at most.
    pub limit: i64,
}

const LIST: &str = "select id, at, actor, came_from, operation, subject, reason, details from audit
    where ($1 is null or at >= $1)
      and ($2 is null or subject = $2 or substr(subject, 1, length($2) + 1) = $2 || '/')
      and ($3 is null or id < $3)
    order by id desc limit $4";

impl Store {
    /// A handle on the same database for one operation of an operator. The first transaction that
    /// changes something through it also writes the note, and fails with [`Error::Changed`] if the
    /// configuration is not the one that the operator planned for. An operation that changes nothing
    /// leaves no note.
    #[must_use]
    pub fn noting(&self, note: Note) -> Self {
        Self {
            noting: Some(Noting::new(note).into()),
            ..self.clone()
        }
    }

    /// Changes the note before a transaction writes it. Does nothing on a store without a note.
    pub fn amend_note(&self, change: impl FnOnce(&mut Note)) {
        if let Some(noting) = &self.noting {
            noting.amend(change);
        }
    }

    /// Adds fields to the details of the note, as [`Store::amend_note`] does.
    pub fn tell_note(&self, details: Value) {
        if let Some(noting) = &self.noting {
            noting.tell(details);
        }
    }

    /// Adds fields to the details of a note that is already written, once the operation has ended.
    pub async fn finish_note(&self, details: Value) -> Result<(), Error> {
        self.tell_note(details);
        self.begin().await?.commit().await
    }

    /// Rows of the audit log, newest first.
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
