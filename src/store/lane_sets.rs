//! Lane sets that replace one another. Reads and writes rows only. Each change is one transaction, so a
//! crash leaves it done or not begun, and any node can carry it on.
//!
//! ```text
//! resize    stable ──▶ closing ── every lane sealed ──▶ closed
//!           (none) ──▶ opening ── the older one closed ──▶ stable
//! later     planned ── every lane of the stable one drained ──▶ opening
//! ```

use sqlx::FromRow;

use super::lane_modes::Attribution;
use super::{Error, Store, Writing};
use crate::domain::lane::{LaneId, LaneSet, SLOTS};
use crate::domain::name::Name;
use crate::domain::time::Timestamp;

/// Outcome of the request to resize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResizeStart {
    /// The set that will replace the old one.
    Begun(LaneSet),
    /// The old set was no longer the only one, or not the one that was seen; nothing was changed.
    Changed,
    /// The lanes of the old set have different modes; nothing was changed.
    Mixed,
}

/// A resize that is planned or under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingResize {
    /// The set that is being replaced.
    pub from: LaneSet,
    /// The set that replaces it.
    pub to: LaneSet,
    /// True while the resize waits until the old set is drained.
    pub is_planned: bool,
    /// Lanes of the old set that are not sealed, each with the name of the node that runs it.
    pub unsealed: Vec<(u16, Option<String>)>,
    /// Name of the operator who asked for it.
    pub by: Option<String>,
    /// Time of the request.
    pub at: Timestamp,
}

const CLOSING: &str = "update lane_sets set state = 'closing'
    where namespace = $1 and generation = $2 and lanes = $3 and state = 'stable'";

const PLANNED: &str = "select count(*) from lane_sets where namespace = $1 and state = 'planned'";

const MODES_OF_SET: &str =
    "select count(distinct case when mode = 'drained' then 'draining' else mode end)
    from lanes where namespace = $1 and generation = $2 and sealed_at is null";

const OPEN: &str = "insert into lane_sets
    (namespace, generation, lanes, state, created_at, asked_by, reason)
    values ($1, $2, $3, $4, $5, $6, $7)";

/// The lanes of the new set get the mode of the old ones.
const ADD_LANES: &str = "insert into lanes
    (namespace, generation, lane, mode, mode_at, mode_by, mode_reason)
    with recursive each(lane) as (
      select cast(0 as bigint) union all select lane + 1 from each where lane + 1 < $3)
    select o.namespace, $2, each.lane,
      case when o.mode = 'drained' then 'draining' else o.mode end, o.mode_at, o.mode_by, o.mode_reason
    from each join lanes o on o.namespace = $1 and o.generation = $4 and o.lane = 0";

const SEAL: &str = "update lanes set sealed_at = $4, node = null
    where namespace = $1 and generation = $2 and lane = $3 and sealed_at is null
      and exists (select 1 from lane_sets s where s.namespace = $1 and s.generation = $2
        and s.state = 'closing')
      and ((node = $5 and epoch = $6) or node is null
        or not exists (select 1 from nodes n where n.id = lanes.node))";

const CLOSE: &str = "update lane_sets set state = 'closed'
    where state = 'closing' and not exists (select 1 from lanes l
      where l.namespace = lane_sets.namespace and l.generation = lane_sets.generation
        and l.sealed_at is null)
    returning namespace, generation, lanes";

const STABLE: &str = "update lane_sets set state = 'stable'
    where namespace = $1 and state = 'opening'";

/// Rows of the last closed set's lanes are kept for people to look at.
const FORGET: &str = "delete from lanes where namespace = $1 and generation < $2";

const UNDER_WAY: &str = "select namespace, generation, lanes, state, created_at, asked_by
    from lane_sets where state <> 'closed' and namespace = $1 order by generation";

const UNSEALED: &str = "select l.lane, n.name from lanes l left join nodes n on n.id = l.node
    where l.namespace = $1 and l.generation = $2 and l.sealed_at is null order by l.lane";

#[derive(FromRow)]
struct SetRow {
    namespace: String,
    generation: i64,
    lanes: i64,
    state: String,
    created_at: i64,
    asked_by: Option<String>,
}

impl SetRow {
    fn set(&self) -> Result<LaneSet, Error> {
        lane_set(&self.namespace, self.generation, self.lanes)
    }
}

fn lane_set(namespace: &str, generation: i64, lanes: i64) -> Result<LaneSet, Error> {
    let wrong = || Error::Integrity(format!("lane set {namespace}-{generation} is malformed"));
    Ok(LaneSet {
        namespace: namespace.parse().map_err(|_| wrong())?,
        generation,
        lanes: u16::try_from(lanes).map_err(|_| wrong())?,
    })
}

impl Store {
    /// Begins a resize: `from` starts to close, and a new set of `lanes` lanes opens.
    pub async fn begin_resize(
        &self,
        from: &LaneSet,
        lanes: u16,
        why: &Attribution,
    ) -> Result<ResizeStart, Error> {
        let mut writing = self.begin().await?;
        if !writing.lock(from).await? || writing.has_plan(&from.namespace).await? {
            return Ok(ResizeStart::Changed);
        }
        if writing.is_mixed(from).await? {
            return Ok(ResizeStart::Mixed);
        }
        writing.change_set(CLOSING, from).await?;
        let to = writing.follow(from, lanes, "opening", why).await?;
        writing.add_lanes(from, &to).await?;
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(ResizeStart::Begun(to))
    }

    /// Plans a resize for the time when every lane of `from` is drained, and drains them.
    pub async fn plan_resize(
        &self,
        from: &LaneSet,
        lanes: u16,
        why: &Attribution,
    ) -> Result<ResizeStart, Error> {
        self.backend.index().await?;
        let mut writing = self.begin().await?;
        if !writing.lock(from).await? || writing.has_plan(&from.namespace).await? {
            return Ok(ResizeStart::Changed);
        }
        if writing.is_mixed(from).await? {
            return Ok(ResizeStart::Mixed);
        }
        let to = writing.follow(from, lanes, "planned", why).await?;
        let all: Vec<_> = from.ids().collect();
        writing
            .drain(&from.namespace, from.lanes, &all, why)
            .await?;
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(ResizeStart::Begun(to))
    }

    /// Begins a planned resize once all lanes are drained; `false` when they are not, or the plan no
    /// longer exists. The new lanes are active and have no marks, except where an operator had drained
    /// the old lanes before the resize was planned: then the new lanes stay drained.
    pub async fn begin_planned(&self, from: &LaneSet, to: &LaneSet) -> Result<bool, Error> {
        const BEGIN: &str = "update lane_sets set state = 'opening'
            where namespace = $1 and generation = $2 and lanes = $3 and state = 'planned'
              and not exists (select 1 from lanes l where l.namespace = $1 and l.generation < $2
                and l.sealed_at is null and l.mode <> 'drained')";
        const ACTIVE: &str = "update lanes set mode = 'active', mode_at = null, mode_by = null,
            mode_reason = null where namespace = $1 and generation = $2 and lane < $3";
        let mut writing = self.begin().await?;
        if !writing.change_set(CLOSING, from).await? || !writing.change_set(BEGIN, to).await? {
            return Ok(false);
        }
        writing.add_lanes(from, to).await?;
        if !writing.was_drained_before(to).await? {
            writing.change_set(ACTIVE, to).await?;
            writing.unmark(&from.namespace, 0..SLOTS).await?;
        }
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(true)
    }

    /// Seals lanes of closing sets: those that `node` runs under these epochs, and those that no node
    /// runs. The caller makes sure that no turn runs in them.
    ///
    /// # Errors
    /// The outcome is unknown until the rows are read again.
    pub async fn seal_lanes(
        &self,
        lanes: &[(LaneId, i64)],
        node: &str,
        at: Timestamp,
    ) -> Result<(), Error> {
        // All callers lock lanes in this order, so no two of them deadlock.
        let mut lanes: Vec<_> = lanes.iter().collect();
        lanes.sort();
        let mut writing = self.begin().await?;
        for (lane, epoch) in lanes {
            sqlx::query(SEAL)
                .bind(lane.namespace.as_str())
                .bind(lane.generation)
                .bind(i64::from(lane.index))
                .bind(at.as_millis())
                .bind(node)
                .bind(epoch)
                .execute(&mut writing.tx)
                .await?;
        }
        writing.commit().await
    }

    /// Ends every resize whose old lanes are all sealed, and returns the sets that are closed now. Call
    /// it after each seal has committed: of two nodes that seal the last lanes, the later one sees both
    /// seals.
    pub async fn close_sets(&self) -> Result<Vec<LaneSet>, Error> {
        let mut writing = self.begin().await?;
        let rows: Vec<(String, i64, i64)> =
            sqlx::query_as(CLOSE).fetch_all(&mut writing.tx).await?;
        for (namespace, generation, _) in &rows {
            sqlx::query(STABLE)
                .bind(namespace)
                .execute(&mut writing.tx)
                .await?;
            sqlx::query(FORGET)
                .bind(namespace)
                .bind(generation)
                .execute(&mut writing.tx)
                .await?;
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        writing.operation_progressed().await?;
        writing.commit().await?;
        let set = |(namespace, generation, lanes): &(String, i64, i64)| {
            lane_set(namespace, *generation, *lanes)
        };
        rows.iter().map(set).collect()
    }

    /// The resize of a namespace that is planned or under way.
    pub async fn resize_under_way(&self, namespace: &Name) -> Result<Option<PendingResize>, Error> {
        let rows: Vec<SetRow> = sqlx::query_as(UNDER_WAY)
            .bind(namespace.as_str())
            .fetch_all(&self.reader)
            .await?;
        let in_state = |states: [&str; 2]| {
            let found = |row: &&SetRow| states.contains(&row.state.as_str());
            rows.iter().rfind(found)
        };
        let Some(to) = in_state(["opening", "planned"]) else {
            return Ok(None);
        };
        let Some(from) = in_state(["closing", "stable"]) else {
            return Ok(None);
        };
        let unsealed: Vec<(i64, Option<String>)> = sqlx::query_as(UNSEALED)
            .bind(namespace.as_str())
            .bind(from.generation)
            .fetch_all(&self.reader)
            .await?;
        let index = |lane: i64| u16::try_from(lane).unwrap_or(u16::MAX);
        Ok(Some(PendingResize {
            from: from.set()?,
            to: to.set()?,
            is_planned: to.state == "planned",
            unsealed: unsealed
                .into_iter()
                .map(|(lane, node)| (index(lane), node))
                .collect(),
            by: to.asked_by.clone(),
            at: Timestamp::from_millis(to.created_at),
        }))
    }

    /// Namespaces with a resize that is planned or under way.
    pub async fn resized_namespaces(&self) -> Result<Vec<Name>, Error> {
        const RESIZED: &str = "select distinct namespace from lane_sets
            where state in ('opening', 'planned') order by namespace";
        let names: Vec<String> = sqlx::query_scalar(RESIZED).fetch_all(&self.reader).await?;
        let parsed = names.iter().filter_map(|name| name.parse().ok());
        Ok(parsed.collect())
    }
}

impl Writing<'_> {
    /// True if a resize of the namespace is planned.
    async fn has_plan(&mut self, namespace: &Name) -> Result<bool, Error> {
        let planned: i64 = sqlx::query_scalar(PLANNED)
            .bind(namespace.as_str())
            .fetch_one(&mut self.tx)
            .await?;
        Ok(planned > 0)
    }

    async fn is_mixed(&mut self, set: &LaneSet) -> Result<bool, Error> {
        let modes: i64 = sqlx::query_scalar(MODES_OF_SET)
            .bind(set.namespace.as_str())
            .bind(set.generation)
            .fetch_one(&mut self.tx)
            .await?;
        Ok(modes > 1)
    }

    /// True if the mode that the lanes of a set have copied is older than the set: an operator had
    /// stopped the old lanes before the resize was asked for.
    async fn was_drained_before(&mut self, to: &LaneSet) -> Result<bool, Error> {
        const BEFORE: &str = "select count(*) from lanes l
            join lane_sets s on s.namespace = l.namespace and s.generation = l.generation
            where l.namespace = $1 and l.generation = $2 and l.mode_at < s.created_at";
        let before: i64 = sqlx::query_scalar(BEFORE)
            .bind(to.namespace.as_str())
            .bind(to.generation)
            .fetch_one(&mut self.tx)
            .await?;
        Ok(before > 0)
    }

    /// Inserts the row of the set that replaces `from`.
    async fn follow(
        &mut self,
        from: &LaneSet,
        lanes: u16,
        state: &str,
        why: &Attribution,
    ) -> Result<LaneSet, Error> {
        let to = LaneSet {
            namespace: from.namespace.clone(),
            generation: from.generation + 1,
            lanes,
        };
        sqlx::query(OPEN)
            .bind(to.namespace.as_str())
            .bind(to.generation)
            .bind(i64::from(to.lanes))
            .bind(state)
            .bind(why.at.as_millis())
            .bind(&why.by)
            .bind(&why.reason)
            .execute(&mut self.tx)
            .await?;
        Ok(to)
    }

    async fn add_lanes(&mut self, from: &LaneSet, to: &LaneSet) -> Result<(), Error> {
        sqlx::query(ADD_LANES)
            .bind(to.namespace.as_str())
            .bind(to.generation)
            .bind(i64::from(to.lanes))
            .bind(from.generation)
            .execute(&mut self.tx)
            .await?;
        Ok(())
    }
}
