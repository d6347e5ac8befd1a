//! The audit note of an operation that is under way. It is written in the transaction that changes
//! something, so that neither is stored without the other.

use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::Error;
use super::backend::session::Tx;
use crate::domain::time::{Timestamp, millis};

/// Age after which rows of the audit log are removed.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// Audit note of an operation that an operator is about to do.
#[derive(Clone, Debug)]
pub struct Note {
    /// Name of the operator.
    pub by: String,
    /// Origin of the request: `socket`, an address, or `offline`.
    pub from: String,
    /// Name of the operation, as the command line spells it.
    pub operation: &'static str,
    /// The object to be changed.
    pub subject: String,
    /// The reason that the operator gave.
    pub reason: Option<String>,
    /// Further details, as far as they are known.
    pub details: Map<String, Value>,
    /// [`super::Store::plan_version`] when the operator's plan was made; `None` accepts any.
    pub planned: Option<i64>,
}

/// A [`Note`] shared by the transactions of one operation; the first one inserts its row, later ones
/// update it.
pub(super) struct Noting(Mutex<Noted>);

struct Noted {
    note: Note,
    /// Number of its row, once it is inserted.
    row: Option<i64>,
    /// True if the row has the current content of the note.
    is_stored: bool,
}

const ADD: &str = "insert into audit (at, actor, came_from, operation, subject, reason, details)
    values ($1, $2, $3, $4, $5, $6, $7) returning id";

const AMEND: &str = "update audit set details = $2 where id = $1";

/// Locks the version of plans, provided it has this value; other changes of the configuration wait.
const IS_VERSION: &str =
    "update counters set value = value where name = 'plan_version' and value = $1";

const FORGET: &str = "delete from audit where at < $1";

impl Noting {
    /// A note that no transaction has written yet.
    pub(super) fn new(note: Note) -> Self {
        Self(Mutex::new(Noted {
            note,
            row: None,
            is_stored: false,
        }))
    }

    /// Changes the note; the next transaction writes it.
    pub(super) fn amend(&self, change: impl FnOnce(&mut Note)) {
        let mut noted = self.0.lock();
        change(&mut noted.note);
        noted.is_stored = false;
    }

    /// Adds fields to the details of the note.
    pub(super) fn tell(&self, details: Value) {
        if let Value::Object(details) = details {
            self.amend(|note| note.details.extend(details));
        }
    }

    /// Writes the note as the last statement of a transaction that has raised the version of plans `raised`
    /// times. Returns the number of its row, or `None` if there was nothing to write. Call
    /// [`Noting::written`] after the commit.
    ///
    /// # Errors
    /// [`Error::Changed`] when the configuration is not the one that was planned for. The caller must
    /// roll back on any error.
    pub(super) async fn write(&self, tx: &mut Tx, raised: i64) -> Result<Option<i64>, Error> {
        let (note, row) = match &*self.0.lock() {
            noted if noted.is_stored => return Ok(None),
            noted => (noted.note.clone(), noted.row),
        };
        let details = Value::Object(note.details).to_string();
        if let Some(row) = row {
            let amend = sqlx::query(AMEND).bind(row).bind(details);
            amend.execute(&mut *tx).await?;
            return Ok(Some(row));
        }
        if let Some(planned) = note.planned {
            let is_version = sqlx::query(IS_VERSION).bind(planned + raised);
            if is_version.execute(&mut *tx).await?.rows_affected() == 0 {
                return Err(Error::Changed);
            }
        }
        let now = Timestamp::now().as_millis();
        let row = sqlx::query_scalar(ADD)
            .bind(now)
            .bind(note.by)
            .bind(note.from)
            .bind(note.operation)
            .bind(note.subject)
            .bind(note.reason)
            .bind(details)
            .fetch_one(&mut *tx)
            .await?;
        let forget = sqlx::query(FORGET).bind(now.saturating_sub(millis(KEPT)));
        forget.execute(&mut *tx).await?;
        Ok(Some(row))
    }

    /// Records that the transaction which wrote the row has committed.
    pub(super) fn written(&self, row: i64) {
        let mut noted = self.0.lock();
        if noted.row.replace(row).is_none() {
            let (by, operation, subject) =
                (&noted.note.by, noted.note.operation, &noted.note.subject);
            tracing::info!(by, operation, subject, "an operation is noted");
        }
        noted.is_stored = true;
    }
}
