//! Namespaces and their lane sets.

use std::time::Duration;

use sqlx::{Any, Executor, FromRow};

use super::{Error, Store, Writing};
use crate::domain::lane::LaneSet;
use crate::domain::name::Name;
use crate::domain::thresholds::Thresholds;
use crate::domain::time::{Timestamp, millis};

/// A namespace with its current lane set.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its newest lane set.
    pub lanes: LaneSet,
    /// Number of its hooks.
    pub hooks: i64,
    /// Time of its creation.
    pub created_at: Timestamp,
    /// Ages from which its events count as late.
    pub thresholds: Thresholds,
}

#[derive(FromRow)]
struct Row {
    name: String,
    generation: i64,
    lanes: i64,
    hooks: i64,
    created_at: i64,
    warn_ms: i64,
    crit_ms: i64,
}

const LIST: &str = "select n.name, l.generation, l.lanes, n.created_at, n.warn_ms, n.crit_ms,
    (select count(*) from hooks h where h.namespace = n.name and h.deleted_at is null) as hooks
    from namespaces n join lane_sets l on l.namespace = n.name
    where l.state in ('opening', 'stable') and l.generation =
      (select max(generation) from lane_sets where namespace = n.name and state in ('opening', 'stable'))
    order by n.name";

const CREATE: &str = "insert into namespaces (name, created_at, warn_ms, crit_ms)
    values ($1, $2, $3, $4) on conflict do nothing";

const WARN: &str = "update namespaces set warn_ms = $2, crit_ms = $3 where name = $1";

/// Generations of a namespace are never reused, not even after it was deleted and created again.
const OPEN: &str = "insert into lane_sets (namespace, generation, lanes, state, created_at)
    select $1, coalesce(max(generation), 0) + 1, $2, 'stable', $3
    from lane_sets where namespace = $1";

/// Inserts one row for each lane of the newest set.
const ADD_LANES: &str = "insert into lanes (namespace, generation, lane)
    with recursive each(lane) as (
      select cast(0 as bigint) union all select lane + 1 from each where lane + 1 < $2)
    select $1, (select max(generation) from lane_sets where namespace = $1), lane from each";

/// Closes every lane set, including those of a resize that is under way when the namespace is deleted.
const RETIRE: &str = "update lane_sets set state = 'closed' where namespace = $1";

const REMOVE_LANES: &str = "delete from lanes where namespace = $1";

/// Locks a namespace. Taken before checking or adding hooks of a namespace, so that deleting it and
/// adding a hook exclude each other.
pub(super) const LOCK: &str = "update namespaces set created_at = created_at where name = $1";

const DELETE: &str = "delete from namespaces where name = $1
    and not exists (select 1 from hooks
      where (namespace = $1 or moves_to = $1) and deleted_at is null)";

pub(super) async fn list<'c>(
    db: impl Executor<'c, Database = Any>,
) -> Result<Vec<Namespace>, Error> {
    let rows: Vec<Row> = sqlx::query_as(LIST).fetch_all(db).await?;
    rows.into_iter().map(Row::namespace).collect()
}

impl Store {
    /// Every namespace, by name.
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, Error> {
        list(&self.reader).await
    }

    /// Creates a namespace with its first lane set; `false` when it already exists.
    pub async fn create_namespace(
        &self,
        name: &Name,
        lanes: u16,
        thresholds: Thresholds,
        at: Timestamp,
    ) -> Result<bool, Error> {
        let mut writing = self.begin().await?;
        if !writing
            .create_namespace(name, lanes, thresholds, at)
            .await?
        {
            return Ok(false);
        }
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(true)
    }

    /// Deletes a namespace without hooks; `false` when it has hooks or does not exist.
    pub async fn delete_namespace(&self, name: &Name) -> Result<bool, Error> {
        let mut writing = self.begin().await?;
        sqlx::query(LOCK)
            .bind(name.as_str())
            .execute(&mut writing.tx)
            .await?;
        let deleted = sqlx::query(DELETE)
            .bind(name.as_str())
            .execute(&mut writing.tx)
            .await?;
        if deleted.rows_affected() == 0 {
            return Ok(false);
        }
        for statement in [REMOVE_LANES, RETIRE] {
            sqlx::query(statement)
                .bind(name.as_str())
                .execute(&mut writing.tx)
                .await?;
        }
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(true)
    }
}

impl Writing<'_> {
    /// Creates a namespace; `false` when it already exists.
    pub(super) async fn create_namespace(
        &mut self,
        name: &Name,
        lanes: u16,
        thresholds: Thresholds,
        at: Timestamp,
    ) -> Result<bool, Error> {
        let made = sqlx::query(CREATE)
            .bind(name.as_str())
            .bind(at.as_millis())
            .bind(millis(thresholds.warn))
            .bind(millis(thresholds.crit))
            .execute(&mut self.tx)
            .await?;
        if made.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query(OPEN)
            .bind(name.as_str())
            .bind(i64::from(lanes))
            .bind(at.as_millis())
            .execute(&mut self.tx)
            .await?;
        sqlx::query(ADD_LANES)
            .bind(name.as_str())
            .bind(i64::from(lanes))
            .execute(&mut self.tx)
            .await?;
        Ok(true)
    }

    /// Changes the thresholds of a namespace; `false` when it does not exist.
    pub(super) async fn set_thresholds(
        &mut self,
        name: &Name,
        to: Thresholds,
    ) -> Result<bool, Error> {
        let set = sqlx::query(WARN)
            .bind(name.as_str())
            .bind(millis(to.warn))
            .bind(millis(to.crit))
            .execute(&mut self.tx)
            .await?;
        Ok(set.rows_affected() > 0)
    }
}

impl Row {
    fn namespace(self) -> Result<Namespace, Error> {
        let wrong = || Error::Integrity(format!("namespace {} is malformed", self.name));
        let age = |ms| {
            u64::try_from(ms)
                .map(Duration::from_millis)
                .map_err(|_| wrong())
        };
        Ok(Namespace {
            lanes: LaneSet {
                namespace: self.name.parse().map_err(|_| wrong())?,
                generation: self.generation,
                lanes: u16::try_from(self.lanes).map_err(|_| wrong())?,
            },
            hooks: self.hooks,
            created_at: Timestamp::from_millis(self.created_at),
            thresholds: Thresholds {
                warn: age(self.warn_ms)?,
                crit: age(self.crit_ms)?,
            },
        })
    }
}
