//! The note of an operation on its way into the database: it is written in the transaction that changes
//! something, so that neither is there without the other.

use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::Error;
use super::backend::session::Tx;
use crate::domain::time::{Timestamp, millis};

/// How long rows are kept.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// What an operator is about to do.
#[derive(Clone, Debug)]
pub struct Note {
    /// Who does it.
    pub by: String,
    /// From where: `socket`, an address, `offline`.
    pub from: String,
    /// What, as the command line names it.
    pub operation: &'static str,
    /// To what.
    pub subject: String,
    /// Why, as he said.
    pub reason: Option<String>,
    /// More, as far as it is known.
    pub details: Map<String, Value>,
    /// The version of the configuration that his plan was about; none: any.
    pub planned: Option<i64>,
}

/// A note on its way into the database.
pub(super) struct Noting(Mutex<Noted>);

struct Noted {
    note: Note,
    /// Its row, once it has one.
    row: Option<i64>,
    /// Whether the row says what the note says.
    is_stored: bool,
}

const ADD: &str = "insert into audit (at, actor, came_from, operation, subject, reason, details)
    values ($1, $2, $3, $4, $5, $6, $7) returning id";

const AMEND: &str = "update audit set details = $2 where id = $1";

/// Locks the version of the configuration, if it is that one: whoever changes something meanwhile waits.
const IS_VERSION: &str =
    "update counters set value = value where name = 'config_version' and value = $1";

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

    /// Changes the note before a transaction writes it.
    pub(super) fn amend(&self, change: impl FnOnce(&mut Note)) {
        let mut noted = self.0.lock();
        change(&mut noted.note);
        noted.is_stored = false;
    }

    /// Adds what is known now to the details.
    pub(super) fn tell(&self, details: Value) {
        if let Value::Object(details) = details {
            self.amend(|note| note.details.extend(details));
        }
    }

    /// Writes the note, at the end of a transaction that has raised the version of the configuration so many
    /// times; its row, if there was something to write.
    ///
    /// # Errors
    /// [`Error::Changed`] when the configuration is not the one that was planned for; the caller ends the
    /// transaction. Those of the database.
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

    /// Says that the transaction has committed.
    pub(super) fn written(&self, row: i64) {
        let mut noted = self.0.lock();
        if noted.row.replace(row).is_none() {
            let (by, operation, subject) =
                (&noted.note.by, noted.note.operation, &noted.note.subject);
            tracing::info!(by, operation, subject, "an operator has acted");
        }
        noted.is_stored = true;
    }
}
