//! What nodes have found to be normal, so that one that begins anew knows it.

use std::time::Duration;

use sqlx::FromRow;

use super::{Error, Store};
use crate::domain::time::{Timestamp, millis};

/// How long a figure is kept that is not learned any more.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is normal for one figure of a node.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct NormalRow {
    /// `hook`, `handler` or `commit`.
    pub kind: String,
    /// The number of the hook or the handler; 0 for commits.
    pub subject: i64,
    /// The mean of the logarithms, in millionths.
    pub mean: i64,
    /// From how many samples.
    pub samples: i64,
}

const OF_NODE: &str = "select kind, subject, mean, samples from normals where node = $1";

const KEEP: &str = "insert into normals (node, kind, subject, mean, samples, learned_at)
    values ($1, $2, $3, $4, $5, $6)
    on conflict (node, kind, subject) do update
      set mean = excluded.mean, samples = excluded.samples, learned_at = excluded.learned_at";

const FORGET: &str = "delete from normals where learned_at < $1";

impl Store {
    /// What a node of this name had found to be normal.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn normals(&self, node: &str) -> Result<Vec<NormalRow>, Error> {
        let rows = sqlx::query_as(OF_NODE).bind(node);
        Ok(rows.fetch_all(&self.reader).await?)
    }

    /// Keeps what a node has found, and removes what nobody has learned for long.
    ///
    /// # Errors
    /// Those of the database; nothing was kept.
    pub async fn keep_normals(
        &self,
        node: &str,
        rows: &[NormalRow],
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
