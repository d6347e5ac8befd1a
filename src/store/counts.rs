//! The counter rows of the database, and counts over its tables.

use sqlx::{Any, Executor};

use super::backend::Backend;
use super::{Error, Store};
use crate::domain::hook::HookId;

pub(super) async fn config_version<'c>(
    db: impl Executor<'c, Database = Any>,
) -> Result<i64, Error> {
    const READ: &str = "select value from counters where name = 'config_version'";
    Ok(sqlx::query_scalar(READ).fetch_one(db).await?)
}

impl Store {
    /// Version of the configuration; it grows with every change of hooks, handlers, keys, namespaces or
    /// lane sets.
    pub async fn config_version(&self) -> Result<i64, Error> {
        config_version(&self.reader).await
    }

    /// Draws a new epoch, greater than every epoch drawn before.
    pub async fn draw_epoch(&self) -> Result<i64, Error> {
        const DRAW: &str =
            "update counters set value = value + 1 where name = 'epoch' returning value";
        let mut writing = self.begin().await?;
        let epoch = sqlx::query_scalar(DRAW).fetch_one(&mut writing.tx).await?;
        writing.commit().await?;
        Ok(epoch)
    }

    /// Checks that an event could be stored: takes the locks that storing one takes and commits an
    /// unchanged row.
    pub async fn try_commit(&self) -> Result<(), Error> {
        const TOUCH: &str = "update counters set value = value where name = 'epoch'";
        const WAIT: &str = "set local lock_timeout = '2s'";
        const LOCK: &str = "lock table streams, events in row exclusive mode";
        let mut writing = self.begin().await?;
        if let Backend::Postgres(_) = &*self.backend {
            sqlx::query(WAIT).execute(&mut writing.tx).await?;
            sqlx::query(LOCK).execute(&mut writing.tx).await?;
        }
        sqlx::query(TOUCH).execute(&mut writing.tx).await?;
        writing.commit().await
    }

    /// Checks that the disk has room for an event, after it was full. Postgres is not asked: there the
    /// next event finds out.
    ///
    /// # Errors
    /// [`Error::Space`].
    pub async fn has_room(&self) -> Result<(), Error> {
        match &*self.backend {
            Backend::Sqlite(file) => file.has_room().await,
            Backend::Postgres(_) => Ok(()),
        }
    }

    /// Number of streams of a hook, and number of their stored events.
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
