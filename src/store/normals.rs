//! Baselines that nodes have learned (typical durations), stored so that a restarted node knows them at
//! once.

use std::time::Duration;

use sqlx::FromRow;

use super::{Error, Store};
use crate::domain::time::{Timestamp, millis};

/// Age after which a baseline that is no longer updated is removed.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Baseline of one measured duration of a node.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct BaselineRow {
    /// Kind of the measurement: `hook`, `handler` or `commit`.
    pub kind: String,
    /// Number of the hook or handler; 0 for commits.
    pub subject: i64,
    /// Mean of the logarithms of the samples, in millionths.
    pub mean: i64,
    /// Number of samples.
    pub samples: i64,
}

const OF_NODE: &str = "select kind, subject, mean, samples from normals where node = $1";

const KEEP: &str = "insert into normals (node, kind, subject, mean, samples, learned_at)
    values ($1, $2, $3, $4, $5, $6)
    on conflict (node, kind, subject) do update
      set mean = excluded.mean, samples = excluded.samples, learned_at = excluded.learned_at";

const FORGET: &str = "delete from normals where learned_at < $1";

impl Store {
    /// Baselines stored under this node name.
    pub async fn normals(&self, node: &str) -> Result<Vec<BaselineRow>, Error> {
        let rows = sqlx::query_as(OF_NODE).bind(node);
        Ok(rows.fetch_all(&self.reader).await?)
    }

    /// Stores the baselines of a node, and removes those that no node has updated for [`KEPT`].
    pub async fn keep_normals(
        &self,
        node: &str,
        rows: &[BaselineRow],
        at: Timestamp,
    ) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        for row in rows {
            sqlx::query(KEEP)
                .bind(node)
                .bind(&row.kind)
                .bind(row.subject)
                .bind(row.mean)
                .bind(row.samples)
                .bind(at.as_millis())
                .execute(&mut writing.tx)
                .await?;
        }
        sqlx::query(FORGET)
            .bind(at.as_millis().saturating_sub(millis(KEPT)))
            .execute(&mut writing.tx)
            .await?;
        writing.commit().await
    }
}
