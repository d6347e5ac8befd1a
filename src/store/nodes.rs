//! The nodes that share this database, and which of them runs which lane. Rows only: who is dead and
//! who should have what is decided elsewhere.

use sqlx::FromRow;

use super::{Error, Store};
use crate::domain::lane::LaneId;
use crate::domain::time::Timestamp;

/// A node as the others see it.
#[derive(Clone, Debug, FromRow)]
pub struct NodeRow {
    /// Drawn when it joined; never given twice.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The word of its data directory: a restart there is the same place.
    pub data_dir: String,
    /// Where it keeps hints: `memory` or `redis`.
    pub hints: String,
    /// `live`, or `leaving`: it takes no lanes any more.
    pub state: String,
    /// Grows while it lives.
    pub beat: i64,
    /// The version of the configuration that it acts by.
    pub config_seen: i64,
    /// What its lanes do, as JSON.
    pub report: String,
    /// When it joined.
    #[sqlx(try_from = "i64")]
    pub started_at: Timestamp,
}

impl NodeRow {
    /// Whether it gives its lanes away.
    pub fn is_leaving(&self) -> bool {
        self.state == "leaving"
    }
}

/// A lane that is not sealed, and who runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneRow {
    /// Which lane.
    pub id: LaneId,
    /// The node that took it last. It is free when this names no node.
    pub node: Option<String>,
    /// That of the newest take.
    pub epoch: i64,
    /// How many lanes its set has.
    pub lanes: u16,
    /// Where its set is between being made and being gone.
    pub set: SetState,
}

impl LaneRow {
    /// Whether it is to be sealed.
    pub fn is_closing(&self) -> bool {
        self.set == SetState::Closing
    }
}

/// Where a lane set is between being made and being gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetState {
    /// Its lanes are taken as those before it are sealed.
    Opening,
    /// It is the only one.
    Stable,
    /// Its lanes are sealed, each after the turn that runs.
    Closing,
}

const JOIN: &str = "insert into nodes (id, name, data_dir, hints, started_at)
    values ($1, $2, $3, $4, $5)";

const BEAT: &str = "update nodes set beat = beat + 1, config_seen = $2, report = $3 where id = $1";

const NODES: &str = "select id, name, data_dir, hints, state, beat, config_seen, report, started_at
    from nodes order by id";

const LANES: &str = "select l.namespace, l.generation, l.lane, l.node, l.epoch, s.lanes, s.state
    from lanes l join lane_sets s on s.namespace = l.namespace and s.generation = l.generation
    where l.sealed_at is null order by l.namespace, l.generation, l.lane";

const DRAW: &str = "update counters set value = value + $1 where name = 'epoch' returning value";

/// A statement of its own after [`DRAW`]: it sees whatever was taken with an earlier epoch, and the row of
/// the node that took it, because both were committed before the counter was free again. A lane of a new set
/// waits until every older one that may have a slot of it is sealed; see [`crate::domain::lane::overlap`].
const TAKE: &str = "update lanes set node = $1, epoch = $2
    where namespace = $3 and generation = $4 and lane = $5 and sealed_at is null and epoch < $2
      and (node is null or not exists (select 1 from nodes n where n.id = lanes.node))
      and exists (select 1 from nodes n where n.id = $1)
      and not exists (
        select 1 from lane_sets mine, lanes o
          join lane_sets s on s.namespace = o.namespace and s.generation = o.generation
        where mine.namespace = $3 and mine.generation = $4 and o.namespace = $3 and o.generation < $4
          and o.sealed_at is null
          and o.lane * mine.lanes < (lanes.lane + 1) * s.lanes
          and lanes.lane * s.lanes < (o.lane + 1) * mine.lanes)";

const RELEASE: &str = "update lanes set node = null
    where namespace = $1 and generation = $2 and lane = $3 and node = $4 and epoch = $5";

impl Store {
    /// Makes the row of a node under a fresh id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn join(&self, node: &NodeRow) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        sqlx::query(JOIN)
            .bind(&node.id)
            .bind(&node.name)
            .bind(&node.data_dir)
            .bind(&node.hints)
            .bind(node.started_at.as_millis())
            .execute(&mut writing.tx)
            .await?;
        writing.commit().await
    }

    /// Shows the others that a node lives. `false` when it has no row any more: its lease is lost, for
    /// ever.
    ///
    /// # Errors
    /// Those of the database: unknown whether the others saw it.
    pub async fn beat(&self, id: &str, config_seen: i64, report: &str) -> Result<bool, Error> {
        let mut writing = self.begin().await?;
        let beaten = sqlx::query(BEAT)
            .bind(id)
            .bind(config_seen)
            .bind(report)
            .execute(&mut writing.tx)
            .await?;
        writing.commit().await?;
        Ok(beaten.rows_affected() == 1)
    }

    /// Every node that has a row, by id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn nodes(&self) -> Result<Vec<NodeRow>, Error> {
        Ok(sqlx::query_as(NODES).fetch_all(&self.reader).await?)
    }

    /// Removes a node that has not beaten since `beat`; `false` when it has, or is gone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reap(&self, id: &str, beat: i64) -> Result<bool, Error> {
        const REAP: &str = "delete from nodes where id = $1 and beat = $2";
        let mut writing = self.begin().await?;
        let reaped = sqlx::query(REAP)
            .bind(id)
            .bind(beat)
            .execute(&mut writing.tx)
            .await?;
        writing.commit().await?;
        Ok(reaped.rows_affected() == 1)
    }

    /// Removes the nodes that ran on a data directory. Whoever holds its lock knows that they are dead.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reap_data_dir(&self, word: &str) -> Result<u64, Error> {
        self.change_node("delete from nodes where data_dir = $1", word)
            .await
    }

    /// Tells the others that a node takes no lanes any more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn leave(&self, id: &str) -> Result<u64, Error> {
        self.change_node("update nodes set state = 'leaving' where id = $1", id)
            .await
    }

    /// Removes a node that has handed over its lanes; should it still have some, they are free.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn remove_node(&self, id: &str) -> Result<u64, Error> {
        self.change_node("delete from nodes where id = $1", id)
            .await
    }

    async fn change_node(&self, statement: &'static str, which: &str) -> Result<u64, Error> {
        let mut writing = self.begin().await?;
        let changed = sqlx::query(statement)
            .bind(which)
            .execute(&mut writing.tx)
            .await?;
        writing.commit().await?;
        Ok(changed.rows_affected())
    }

    /// Every lane that is not sealed, in order.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lanes(&self) -> Result<Vec<LaneRow>, Error> {
        let rows: Vec<RawLane> = sqlx::query_as(LANES).fetch_all(&self.reader).await?;
        rows.into_iter().map(RawLane::lane).collect()
    }

    /// Takes those of `lanes` that are free, if the node has a row, each under an epoch of its own, which is returned with it.
    ///
    /// # Errors
    /// Those of the database; unknown what was taken, until the rows are read again.
    pub async fn take_lanes(
        &self,
        lanes: &[LaneId],
        node: &str,
    ) -> Result<Vec<(LaneId, i64)>, Error> {
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        let count = i64::try_from(lanes.len()).unwrap_or(i64::MAX);
        let mut writing = self.begin().await?;
        // The row of the counter is locked first by everybody, so that no two takers wait for each other.
        let newest: i64 = sqlx::query_scalar(DRAW)
            .bind(count)
            .fetch_one(&mut writing.tx)
            .await?;
        let mut lanes: Vec<_> = lanes.iter().collect();
        lanes.sort();
        let mut taken = Vec::new();
        for (lane, epoch) in lanes.into_iter().zip(newest - count + 1..) {
            let changed = sqlx::query(TAKE)
                .bind(node)
                .bind(epoch)
                .bind(lane.namespace.as_str())
                .bind(lane.generation)
                .bind(i64::from(lane.index))
                .execute(&mut writing.tx)
                .await?;
            if changed.rows_affected() == 1 {
                taken.push((lane.clone(), epoch));
            }
        }
        writing.commit().await?;
        Ok(taken)
    }

    /// Frees lanes that a node runs under these epochs; those that somebody took since stay theirs.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_lanes(&self, lanes: &[(LaneId, i64)], node: &str) -> Result<(), Error> {
        // In order, as they are taken, so that no two wait for each other.
        let mut lanes: Vec<_> = lanes.iter().collect();
        lanes.sort();
        let mut writing = self.begin().await?;
        for (lane, epoch) in lanes {
            sqlx::query(RELEASE)
                .bind(lane.namespace.as_str())
                .bind(lane.generation)
                .bind(i64::from(lane.index))
                .bind(node)
                .bind(epoch)
                .execute(&mut writing.tx)
                .await?;
        }
        writing.commit().await
    }

    /// The number that tells this database from every other one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn cluster(&self) -> Result<i64, Error> {
        const READ: &str = "select value from counters where name = 'cluster'";
        Ok(sqlx::query_scalar(READ).fetch_one(&self.reader).await?)
    }
}

#[derive(FromRow)]
struct RawLane {
    namespace: String,
    generation: i64,
    lane: i64,
    node: Option<String>,
    epoch: i64,
    lanes: i64,
    state: String,
}

impl RawLane {
    fn lane(self) -> Result<LaneRow, Error> {
        Ok(LaneRow {
            id: lane_id(&self.namespace, self.generation, self.lane)?,
            node: self.node,
            epoch: self.epoch,
            lanes: u16::try_from(self.lanes).unwrap_or(1),
            set: match self.state.as_str() {
                "opening" => SetState::Opening,
                "stable" => SetState::Stable,
                _ => SetState::Closing,
            },
        })
    }
}

/// The lane that a row is about.
pub(super) fn lane_id(namespace: &str, generation: i64, lane: i64) -> Result<LaneId, Error> {
    let wrong = || Error::Integrity(format!("lane {namespace}-{generation}-{lane} is malformed"));
    Ok(LaneId {
        namespace: namespace.parse().map_err(|_| wrong())?,
        generation,
        index: u16::try_from(lane).map_err(|_| wrong())?,
    })
}
