//! The counters of the database, and counts over its tables.

use sqlx::{Any, Executor};

use super::{Error, Store};
use crate::domain::hook::HookId;

pub(super) async fn config_version<'c>(
    db: impl Executor<'c, Database = Any>,
) -> Result<i64, Error> {
    const READ: &str = "select value from counters where name = 'config_version'";
    Ok(sqlx::query_scalar(READ).fetch_one(db).await?)
}

impl Store {
    /// Changes with every change of hooks, handlers, keys, namespaces or lane sets.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn config_version(&self) -> Result<i64, Error> {
        config_version(&self.reader).await
    }

    /// Draws an epoch: greater than every one drawn before.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn draw_epoch(&self) -> Result<i64, Error> {
        const DRAW: &str =
            "update counters set value = value + 1 where name = 'epoch' returning value";
        let mut writing = self.begin().await?;
        let epoch = sqlx::query_scalar(DRAW).fetch_one(&mut writing.tx).await?;
        writing.commit().await?;
        Ok(epoch)
    }

    /// The streams of a hook, and their events.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hook_size(&self, hook: HookId) -> Result<(i64, i64), Error> {
        const COUNT: &str = "select count(*), cast(coalesce(sum(head - floor), 0) as bigint)
            from streams where hook = $1";
        self.backend.index().await?;
        Ok(sqlx::query_as(COUNT)
            .bind(hook.0)
            .fetch_one(&self.reader)
            .await?)
    }
}
