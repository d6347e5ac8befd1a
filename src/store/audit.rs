//! What operators changed: one row for each operation, kept for a while. The row of an operation is written in
//! the transaction that changes something, so that neither is there without the other.

use serde_json::Value;
use sqlx::FromRow;

use super::note::{Note, Noting};
use super::{Error, Store};
use crate::domain::time::Timestamp;

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

const LIST: &str = "select id, at, actor, came_from, operation, subject, reason, details from audit
    where ($1 is null or at >= $1)
      and ($2 is null or subject = $2 or substr(subject, 1, length($2) + 1) = $2 || '/')
      and ($3 is null or id < $3)
    order by id desc limit $4";

impl Store {
    /// The same database for one operation of an operator: the first transaction that changes something for
    /// it writes the note too, and is refused if the configuration is not the one that he planned for. An
    /// operation that changes nothing leaves no note.
    #[must_use]
    pub fn noting(&self, note: Note) -> Self {
        Self {
            noting: Some(Noting::new(note).into()),
            ..self.clone()
        }
    }

    /// Changes the note of the operation, before a transaction that writes it; nothing where there is none.
    pub fn amend_note(&self, change: impl FnOnce(&mut Note)) {
        if let Some(noting) = &self.noting {
            noting.amend(change);
        }
    }

    /// Adds to the details of the note, as [`Store::amend_note`] does.
    pub fn tell_note(&self, details: Value) {
        if let Some(noting) = &self.noting {
            noting.tell(details);
        }
    }

    /// Adds to the details of a note that is written already, when an operation is done.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn finish_note(&self, details: Value) -> Result<(), Error> {
        self.tell_note(details);
        self.begin().await?.commit().await
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
