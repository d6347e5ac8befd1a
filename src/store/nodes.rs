//! The nodes that share this database, and which node runs which lane. Reads and writes rows only:
//! `engine/membership.rs` decides which node is dead, `engine/share.rs` which node should run a lane.

use sqlx::FromRow;

use super::{Error, Store};
use crate::domain::lane::LaneId;
use crate::domain::time::Timestamp;

/// A node as the other nodes see it.
#[derive(Clone, Debug, FromRow)]
pub struct NodeRow {
    /// Id, drawn when it joined; never reused.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Identifies its data directory. A node that restarts there takes the place of this one.
    pub data_dir: String,
    /// Place of its hints: `memory` or `redis`.
    pub hints: String,
    /// `live`, or `leaving` once it takes no more lanes.
    pub state: String,
    /// Heartbeat counter; it grows while the node lives.
    pub beat: i64,
    /// Version of the configuration that it acts by.
    pub config_seen: i64,
    /// Report on its lanes, as JSON.
    pub report: String,
    /// Time at which it joined.
    #[sqlx(try_from = "i64")]
    pub started_at: Timestamp,
}

impl NodeRow {
    /// True if the node is giving its lanes away.
    pub fn is_leaving(&self) -> bool {
        self.state == "leaving"
    }
}

/// A lane that is not sealed, and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneRow {
    /// The lane.
    pub id: LaneId,
    /// Id of the node that took it last. The lane is free when no such node exists.
    pub node: Option<String>,
    /// Epoch of the newest take.
    pub epoch: i64,
    /// Number of lanes in its set.
    pub lanes: u16,
    /// State of its set.
    pub set: SetState,
}

impl LaneRow {
    /// True if the lane is to be sealed.
    pub fn is_closing(&self) -> bool {
        self.set == SetState::Closing
    }
}

/// State of a lane set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetState {
    /// Replaces an older set: its lanes are taken as the older ones are sealed.
    Opening,
    /// The only set of its namespace.
    Stable,
    /// Being replaced: each lane is sealed after the turn that runs in it.
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

/// Takes a lane for a node. Must run after [`DRAW`] as a statement of its own: it then sees whatever
/// was taken under an earlier epoch, and the row of the node that took it, because both were committed
/// before the counter was free again. A lane of a new set can be taken only when every older lane that
/// shares a slot with it is sealed; see [`crate::domain::lane::overlap`].
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
    /// Inserts the row of a node under its fresh id.
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

    /// Raises the heartbeat of a node and publishes its report. `false` when the node has no row any
    /// more: its lease is lost for good.
    ///
    /// # Errors
    /// The outcome is unknown: other nodes may have seen the heartbeat or not.
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
    pub async fn nodes(&self) -> Result<Vec<NodeRow>, Error> {
        Ok(sqlx::query_as(NODES).fetch_all(&self.reader).await?)
    }

    /// Removes a node whose heartbeat is still `beat`; `false` when it has beaten since or is gone.
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

    /// Removes the nodes that ran on a data directory, and returns their number. The caller holds the
    /// lock of that directory, which proves that they are dead.
    pub async fn reap_data_dir(&self, word: &str) -> Result<u64, Error> {
        self.change_node("delete from nodes where data_dir = $1", word)
            .await
    }

    /// Marks a node as leaving, so that it is given no more lanes.
    pub async fn leave(&self, id: &str) -> Result<u64, Error> {
        self.change_node("update nodes set state = 'leaving' where id = $1", id)
            .await
    }

    /// Removes a node that has handed over its lanes. Lanes that it still has become free.
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
    pub async fn lanes(&self) -> Result<Vec<LaneRow>, Error> {
        let rows: Vec<RawLane> = sqlx::query_as(LANES).fetch_all(&self.reader).await?;
        rows.into_iter().map(RawLane::lane).collect()
    }

    /// Takes those of `lanes` that are free, provided the node has a row. Returns each taken lane with
    /// its new epoch.
    ///
    /// # Errors
    /// The outcome is unknown until the rows are read again.
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
        // Every taker locks the counter row first, so no two takers deadlock.
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

    /// Frees lanes that a node runs under these epochs. A lane that another node has taken since is
    /// left alone.
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
