//! Who changed what: every operation that changes something goes through [`Admin::act`].

use serde_json::Value;

use super::{Admin, Error};
use crate::api;
use crate::domain::time::Timestamp;
use crate::store::{AuditFilter, AuditRow};

/// Who acts, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// As people know him: `uid 1000`, `key ops`.
    pub by: String,
    /// `socket`, an address, or `offline`.
    pub from: String,
}

/// What was done.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    operation: &'static str,
    subject: String,
    reason: Option<String>,
    details: Value,
}

impl Act {
    /// An operation, as the command line names it, and what it was done to.
    pub fn new(operation: &'static str, subject: impl ToString) -> Self {
        Self {
            operation,
            subject: subject.to_string(),
            reason: None,
            details: Value::Object(serde_json::Map::new()),
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
        self.details = details;
        self
    }
}

impl Admin {
    /// Does `work`, and notes what it was by what came of it. What was refused changed nothing and is not
    /// noted; neither is what `said` finds to have changed nothing.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn act<T>(
        &self,
        actor: &Actor,
        work: impl Future<Output = Result<T, Error>>,
        said: impl FnOnce(&T) -> Option<Act>,
    ) -> Result<T, Error> {
        let done = work.await?;
        if let Some(act) = said(&done) {
            let row = AuditRow {
                id: 0,
                at: Timestamp::now().as_millis(),
                actor: actor.by.clone(),
                came_from: actor.from.clone(),
                operation: act.operation.to_owned(),
                subject: act.subject,
                reason: act.reason,
                details: act.details.to_string(),
            };
            let (by, operation, subject) = (&row.actor, &row.operation, &row.subject);
            tracing::info!(by, operation, subject, "an operator has acted");
            // It is done all the same: to call it failed would have it done again.
            if let Err(error) = self.store.add_audit(&row).await {
                tracing::error!(%error, by, operation, subject, "what an operator did is not noted");
            }
        }
        Ok(done)
    }

    /// What operators changed, the newest first.
    ///
    /// # Errors
    /// Those of the database.
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
