//! The counter rows of the database, and counts over its tables.

use std::collections::HashMap;

use sqlx::{Any, Executor};

use super::backend::Backend;
use super::{Error, Store};
use crate::domain::hook::HookId;

const DRAW: &str = "update counters set value = value + 1 where name = 'epoch' returning value";

pub(super) async fn config_version<'c>(
    db: impl Executor<'c, Database = Any>,
) -> Result<i64, Error> {
    const READ: &str = "select value from counters where name = 'config_version'";
    Ok(sqlx::query_scalar(READ).fetch_one(db).await?)
}

/// The epoch drawn at the end of each hook's last move to another namespace.
pub(super) async fn moved<'c>(
    db: impl Executor<'c, Database = Any>,
) -> Result<HashMap<HookId, i64>, Error> {
    const READ: &str = "select cast(substr(name, 7) as bigint), value from counters
        where name like 'moved:%'";
    let rows: Vec<(i64, i64)> = sqlx::query_as(READ).fetch_all(db).await?;
    let moved = rows.into_iter().map(|(hook, epoch)| (HookId(hook), epoch));
    Ok(moved.collect())
}

impl super::Writing<'_> {
    /// Draws an epoch for a hook that has moved. Lanes of its new namespace may have been taken earlier than
    /// those of its old one, so their epochs may be lower than those that receivers have seen.
    pub(super) async fn draw_moved(&mut self, hook: HookId) -> Result<(), Error> {
        const NOTE: &str = "insert into counters (name, value) values ($1, $2)
            on conflict (name) do update set value = excluded.value";
        let epoch: i64 = sqlx::query_scalar(DRAW).fetch_one(&mut self.tx).await?;
        sqlx::query(NOTE)
            .bind(format!("moved:{}", hook.0))
            .bind(epoch)
            .execute(&mut self.tx)
            .await?;
        Ok(())
    }
}

impl Store {
    /// Version of the configuration; it grows with every change of hooks, handlers, keys, namespaces or
    /// lane sets.
    pub async fn config_version(&self) -> Result<i64, Error> {
        config_version(&self.reader).await
    }

    /// Version for operators' plans; it grows with every change that can make a plan wrong. The steps by
    /// which nodes carry on an operation leave it as it is.
    pub async fn plan_version(&self) -> Result<i64, Error> {
        const READ: &str = "select value from counters where name = 'plan_version'";
        Ok(sqlx::query_scalar(READ).fetch_one(&self.reader).await?)
    }

    /// Draws a new epoch, greater than every epoch drawn before.
    pub async fn draw_epoch(&self) -> Result<i64, Error> {
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
