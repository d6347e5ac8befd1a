//! Alerts that stand, and the posts about them that are due.
//!
//! ```text
//!          posted              over                   posted
//! Begin ───────────▶ Stands ───────────▶ End ────────────────▶ no row
//! ```
//! Any number of nodes may work on a row: each change names the stage and the number of tries that its node has
//! read, and changes nothing if another node was first.

use sqlx::FromRow;

use super::{Error, Store};
use crate::domain::time::Timestamp;

/// Stage of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertStage {
    /// The begin is to be posted.
    Begin,
    /// The begin is posted, or was given up.
    Stands,
    /// The end is to be posted.
    End,
}

/// An alert of one receiver.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct AlertRow {
    /// Name of the receiver.
    pub receiver: String,
    /// Name of the finding.
    pub finding: String,
    /// Id of the alert, which its posts repeat.
    pub id: String,
    /// The finding as it was at the begin, as JSON.
    pub content: String,
    /// Number of its [`AlertStage`], from 1.
    stage: i64,
    /// Number of tries of the post that is due.
    pub tries: i64,
    /// Time before which no node posts it, in milliseconds since 1970.
    pub due_at: i64,
    /// Time at which it began.
    pub began_at: i64,
    /// Time at which it ended, once it has.
    pub ended_at: Option<i64>,
}

const LIST: &str =
    "select receiver, finding, id, content, stage, tries, due_at, began_at, ended_at from alerts
    order by began_at, receiver, finding";

const ADD: &str =
    "insert into alerts (receiver, finding, id, content, stage, tries, due_at, began_at)
    values ($1, $2, $3, $4, 1, 0, $5, $5) on conflict do nothing";

const FINISH: &str = "update alerts set stage = 3, tries = 0, due_at = $4, ended_at = $4
    where receiver = $1 and finding = $2 and id = $3 and stage = 2";

const CLAIM: &str = "update alerts set tries = tries + 1, due_at = $6
    where receiver = $1 and finding = $2 and id = $3 and stage = $4 and tries = $5";

const POSTPONE: &str = "update alerts set due_at = $6
    where receiver = $1 and finding = $2 and id = $3 and stage = $4 and tries = $5";

const SETTLE: &str = "update alerts set stage = 2, tries = 0
    where receiver = $1 and finding = $2 and id = $3 and stage = 1";

const REMOVE: &str = "delete from alerts
    where receiver = $1 and finding = $2 and id = $3 and stage = 3";

impl AlertRow {
    /// A new alert of a receiver, which begins at `at`.
    pub fn new(
        receiver: String,
        finding: String,
        id: String,
        content: String,
        at: Timestamp,
    ) -> Self {
        Self {
            receiver,
            finding,
            id,
            content,
            stage: 1,
            tries: 0,
            due_at: at.as_millis(),
            began_at: at.as_millis(),
            ended_at: None,
        }
    }

    /// The row after a successful claim.
    pub fn claimed(self) -> Self {
        Self {
            tries: self.tries + 1,
            ..self
        }
    }

    /// Stage of the alert, decoded from its row.
    pub fn stage(&self) -> AlertStage {
        match self.stage {
            1 => AlertStage::Begin,
            2 => AlertStage::Stands,
            _ => AlertStage::End,
        }
    }
}

impl Store {
    /// All alerts, oldest first.
    pub async fn alerts(&self) -> Result<Vec<AlertRow>, Error> {
        Ok(sqlx::query_as(LIST).fetch_all(&self.reader).await?)
    }

    /// Adds an alert whose begin is to be posted. Does nothing if the finding has one.
    pub async fn add_alert(&self, alert: &AlertRow) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        sqlx::query(ADD)
            .bind(&alert.receiver)
            .bind(&alert.finding)
            .bind(&alert.id)
            .bind(&alert.content)
            .bind(alert.began_at)
            .execute(&mut writing.tx)
            .await?;
        writing.commit().await
    }

    /// Makes the end of a standing alert due.
    pub async fn finish_alert(&self, alert: &AlertRow, at: Timestamp) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        sqlx::query(FINISH)
            .bind(&alert.receiver)
            .bind(&alert.finding)
            .bind(&alert.id)
            .bind(at.as_millis())
            .execute(&mut writing.tx)
            .await?;
        writing.commit().await
    }

    /// Claims the post of an alert until a time. False if another node was first.
    pub async fn claim_alert(&self, alert: &AlertRow, until: Timestamp) -> Result<bool, Error> {
        self.set_due(CLAIM, alert, until).await
    }

    /// Moves the next try of a post that this node has claimed and read as `alert`.
    pub async fn postpone_alert(&self, alert: &AlertRow, until: Timestamp) -> Result<(), Error> {
        self.set_due(POSTPONE, alert, until).await.map(|_| ())
    }

    async fn set_due(
        &self,
        statement: &'static str,
        alert: &AlertRow,
        due: Timestamp,
    ) -> Result<bool, Error> {
        let mut writing = self.begin().await?;
        let done = sqlx::query(statement)
            .bind(&alert.receiver)
            .bind(&alert.finding)
            .bind(&alert.id)
            .bind(alert.stage)
            .bind(alert.tries)
            .bind(due.as_millis())
            .execute(&mut writing.tx)
            .await?;
        writing.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Ends the post of an alert: after its begin the alert stands, after its end there is none.
    pub async fn settle_alert(&self, alert: &AlertRow) -> Result<(), Error> {
        let statement = match alert.stage() {
            AlertStage::End => REMOVE,
            AlertStage::Begin | AlertStage::Stands => SETTLE,
        };
        let mut writing = self.begin().await?;
        sqlx::query(statement)
            .bind(&alert.receiver)
            .bind(&alert.finding)
            .bind(&alert.id)
            .execute(&mut writing.tx)
            .await?;
        writing.commit().await
    }
}
