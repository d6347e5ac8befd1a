//! Who changed what: every operation that changes something is done by an [`Admin`] that acts for somebody.

use serde_json::{Map, Value};

use super::{Admin, Error};
use crate::api;
use crate::domain::time::Timestamp;
use crate::store::{AuditFilter, AuditRow, Note};

/// Who acts, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// As people know him: `uid 1000`, `key ops`.
    pub by: String,
    /// `socket`, an address, or `offline`.
    pub from: String,
    /// The version of the configuration that his plan was about; none: any.
    pub planned: Option<i64>,
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    operation: &'static str,
    subject: String,
    reason: Option<String>,
    details: Map<String, Value>,
}

impl Act {
    /// An operation, as the command line names it, and what it is done to. Details that only the operation
    /// knows it adds itself.
    pub fn new(operation: &'static str, subject: impl ToString) -> Self {
        Self {
            operation,
            subject: subject.to_string(),
            reason: None,
            details: Map::new(),
        }
    }

    /// The same with why.
    #[must_use]
    pub fn reason(mut self, reason: Option<&String>) -> Self {
        self.reason = reason.cloned();
        self
    }

    /// The same with more to say: never a secret, a body, or code.
    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        if let Value::Object(details) = details {
            self.details = details;
        }
        self
    }
}

impl Admin {
    /// The same, for one operation of somebody: it is noted with the first change that is made for it, in the
    /// same transaction. What is refused, and what turns out to change nothing, is not noted. Where he planned
    /// for a configuration that is no more, nothing is changed.
    #[must_use]
    pub fn acting(&self, actor: &Actor, act: Act) -> Self {
        let note = Note {
            by: actor.by.clone(),
            from: actor.from.clone(),
            operation: act.operation,
            subject: act.subject,
            reason: act.reason,
            details: act.details,
            planned: actor.planned,
        };
        Self {
            store: self.store.noting(note),
            ..self.clone()
        }
    }

    /// What operators changed, the newest first.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Vec<api::AuditRow>, Error> {
        let rows = self.store.audit(filter).await?;
        Ok(rows.into_iter().map(shown).collect())
    }
}

fn shown(row: AuditRow) -> api::AuditRow {
    api::AuditRow {
        id: row.id,
        at: Timestamp::from_millis(row.at),
        actor: row.actor,
        from: row.came_from,
        operation: row.operation,
        subject: row.subject,
        reason: row.reason,
        details: serde_json::from_str(&row.details).unwrap_or_default(),
    }
}
