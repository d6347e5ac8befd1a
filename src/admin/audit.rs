//! The audit log: every operation that changes something runs on an [`Admin`] that acts for an
//! operator.

use serde_json::{Map, Value};

use super::{Admin, Error};
use crate::api;
use crate::domain::time::Timestamp;
use crate::store::{AuditFilter, AuditRow, Note};

/// The operator who acts, and the origin of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Name of the operator, such as `uid 1000` or `key ops`.
    pub by: String,
    /// `socket`, an address, or `offline`.
    pub from: String,
    /// Version of the configuration that the operator's plan was based on; `None` accepts any.
    pub planned: Option<i64>,
}

/// Description of an operation for the audit log.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    operation: &'static str,
    subject: String,
    reason: Option<String>,
    details: Map<String, Value>,
}

impl Act {
    /// An operation, as the command line spells it, and its object. The operation itself adds details
    /// that only it knows.
    pub fn new(operation: &'static str, subject: impl ToString) -> Self {
        Self {
            operation,
            subject: subject.to_string(),
            reason: None,
            details: Map::new(),
        }
    }

    /// Adds the operator's reason.
    #[must_use]
    pub fn reason(mut self, reason: Option<&String>) -> Self {
        self.reason = reason.cloned();
        self
    }

    /// Adds details; never a secret, a body, or code.
    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        if let Value::Object(details) = details {
            self.details = details;
        }
        self
    }
}

impl Admin {
    /// An [`Admin`] for one operation of an operator. The operation is recorded in the transaction of
    /// its first change. Operations that are refused or change nothing are not recorded. If the
    /// configuration is not the one that the operator planned for, nothing is changed.
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

    /// Operations of operators, newest first.
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
