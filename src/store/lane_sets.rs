//! Lane sets that replace one another, and the modes of lanes. Reads and writes rows only. Each change
//! is one transaction, so a crash leaves it done or not begun, and any node can carry it on.
//!
//! ```text
//! resize    stable ──▶ closing ── every lane sealed ──▶ closed
//!           (none) ──▶ opening ── the older one closed ──▶ stable
//! later     planned ── every lane of the stable one drained ──▶ opening
//! ```

use std::collections::HashMap;

use sqlx::{Any, Executor, FromRow};

use super::nodes::lane_id;
use super::{Error, Store, Writing};
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::hook::HandlerId;
use crate::domain::lane::{LaneId, LaneSet, Mode, Slot, slots};
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::position::Position;
use crate::domain::time::Timestamp;

/// Operator who asks for a change, with the reason and the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribution {
    /// Name of the operator, for people.
    pub by: String,
    /// Reason, in the operator's words.
    pub reason: Option<String>,
    /// Time of the request.
    pub at: Timestamp,
}

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

/// Mode of a lane that is not `active`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneMode {
    /// The mode.
    pub mode: Mode,
    /// Name of the operator who set it.
    pub by: Option<String>,
    /// Time at which it was set.
    pub at: Option<Timestamp>,
    /// Reason that the operator gave.
    pub reason: Option<String>,
}

/// Remaining work of a draining lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainRemainder {
    /// Number of cursors below their marks, without held cursors and those of paused hooks.
    pub cursors: i64,
    /// Number of their events up to the marks.
    pub events: i64,
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

/// Locks the stable set. Every change of the set or of the modes of its lanes takes this lock first, so
/// that changes run one after the other and later statements see all earlier ones.
const LOCK: &str = "update lane_sets set state = 'stable'
    where namespace = $1 and generation = $2 and lanes = $3 and state = 'stable'";

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

const MODES: &str = "select namespace, generation, lane, mode, mode_at, mode_by, mode_reason
    from lanes where mode <> 'active' and sealed_at is null";

const MARKS: &str = "select stream, handler, mark from marks";

const SET_MODE: &str = "update lanes set mode = $4, mode_at = $5, mode_by = $6, mode_reason = $7
    where namespace = $1 and generation = $2 and lane = $3 and sealed_at is null and mode <> $4";

/// Draining a lane that already drains moves no existing mark.
const DRAIN: &str = "update lanes set mode = $4, mode_at = $5, mode_by = $6, mode_reason = $7
    where namespace = $1 and generation = $2 and lane = $3 and sealed_at is null
      and mode in ('active', 'paused')";

/// Overwrites a mark that a hook has left behind in another namespace.
const MARK: &str = "insert into marks (stream, handler, namespace, slot, mark)
    select s.id, h.id, k.namespace, s.slot, s.head
    from streams s
    join hooks k on k.id = s.hook and k.deleted_at is null and k.namespace = $1
    join handlers h on h.hook = s.hook and h.deleted_at is null
    left join cursors c on c.stream = s.id and c.handler = h.id
    where s.slot >= $2 and s.slot < $3 and s.head > coalesce(c.position, 0)
      and coalesce(c.condition, 'flowing') <> 'held'
    on conflict (stream, handler) do update
      set namespace = excluded.namespace, slot = excluded.slot, mark = excluded.mark
      where marks.namespace <> excluded.namespace";

const UNMARK: &str = "delete from marks where namespace = $1 and slot >= $2 and slot < $3";

const LEFT: &str = "select m.slot * $2 / 65536, count(*),
      cast(sum(m.mark - coalesce(c.position, 0)) as bigint)
    from marks m left join cursors c on c.stream = m.stream and c.handler = m.handler
    where m.namespace = $1 and m.mark > coalesce(c.position, 0)
      and coalesce(c.condition, 'flowing') <> 'held'
      and not exists (select 1 from handlers h join hooks k on k.id = h.hook
        where h.id = m.handler and k.paused_at is not null)
    group by 1 order by 1";

/// Counts again, as [`LEFT`] does: the lane may have been resumed and drained anew since.
const DRAINED: &str = "update lanes set mode = 'drained'
    where namespace = $1 and generation = $2 and lane = $3 and sealed_at is null
      and mode = 'draining' and not exists (select 1
        from marks m left join cursors c on c.stream = m.stream and c.handler = m.handler
        where m.namespace = $1 and m.slot >= $4 and m.slot < $5 and m.mark > coalesce(c.position, 0)
          and coalesce(c.condition, 'flowing') <> 'held'
          and not exists (select 1 from handlers h join hooks k on k.id = h.hook
            where h.id = m.handler and k.paused_at is not null))";

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

pub(super) async fn modes<'c>(
    db: impl Executor<'c, Database = Any>,
) -> Result<HashMap<LaneId, LaneMode>, Error> {
    #[derive(FromRow)]
    struct Row {
        namespace: String,
        generation: i64,
        lane: i64,
        mode: String,
        mode_at: Option<i64>,
        mode_by: Option<String>,
        mode_reason: Option<String>,
    }
    let rows: Vec<Row> = sqlx::query_as(MODES).fetch_all(db).await?;
    let mode = |row: Row| {
        let lane = lane_id(&row.namespace, row.generation, row.lane)?;
        let wrong = |error: crate::domain::lane::Unknown| Error::Integrity(error.to_string());
        let mode = LaneMode {
            mode: row.mode.parse().map_err(wrong)?,
            by: row.mode_by,
            at: row.mode_at.map(Timestamp::from_millis),
            reason: row.mode_reason,
        };
        Ok((lane, mode))
    };
    rows.into_iter().map(mode).collect()
}

pub(super) async fn marks<'c>(
    db: impl Executor<'c, Database = Any>,
) -> Result<HashMap<CursorId, Position>, Error> {
    let rows: Vec<(i64, i64, i64)> = sqlx::query_as(MARKS).fetch_all(db).await?;
    let mark = |(stream, handler, mark)| {
        let cursor = CursorId {
            stream: StreamId(stream),
            handler: HandlerId(handler),
        };
        (cursor, Position(mark))
    };
    Ok(rows.into_iter().map(mark).collect())
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
            writing.unmark(&from.namespace, 0..65_536).await?;
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
        writing.config_changed().await?;
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

    /// Lanes in another mode than `active`.
    pub async fn lane_modes(&self) -> Result<HashMap<LaneId, LaneMode>, Error> {
        modes(&self.reader).await
    }

    /// Drain marks: the position up to which each cursor of a draining lane still moves.
    pub async fn marks(&self) -> Result<HashMap<CursorId, Position>, Error> {
        marks(&self.reader).await
    }

    /// Pauses lanes of a set; lanes that are already paused keep their reason. `false` when the set is
    /// being replaced or was replaced: then nothing was changed, because the new lanes have copied the
    /// modes of these.
    pub async fn pause_lanes(
        &self,
        set: &LaneSet,
        lanes: &[LaneId],
        why: &Attribution,
    ) -> Result<bool, Error> {
        let mut writing = self.begin().await?;
        if !writing.lock(set).await? {
            return Ok(false);
        }
        writing
            .set_modes(SET_MODE, lanes, Mode::Paused, why)
            .await?;
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(true)
    }

    /// Drains lanes of a set: cursors that are behind now move up to the present heads of their
    /// streams. `false` as for [`Store::pause_lanes`].
    pub async fn drain_lanes(
        &self,
        set: &LaneSet,
        lanes: &[LaneId],
        why: &Attribution,
    ) -> Result<bool, Error> {
        self.backend.index().await?;
        let mut writing = self.begin().await?;
        if !writing.lock(set).await? {
            return Ok(false);
        }
        writing.drain(&set.namespace, set.lanes, lanes, why).await?;
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(true)
    }

    /// Resumes lanes of a set and removes their marks. A planned resize, which waits for drained lanes,
    /// is cancelled. `false` as for [`Store::pause_lanes`].
    pub async fn resume_lanes(&self, set: &LaneSet, lanes: &[LaneId]) -> Result<bool, Error> {
        const GIVE_UP: &str = "delete from lane_sets where namespace = $1 and state = 'planned'";
        let nobody = Attribution {
            by: String::new(),
            reason: None,
            at: Timestamp::default(),
        };
        let mut writing = self.begin().await?;
        if !writing.lock(set).await? {
            return Ok(false);
        }
        writing
            .set_modes(SET_MODE, lanes, Mode::Active, &nobody)
            .await?;
        for lane in lanes {
            let range = slots(lane.index, set.lanes);
            writing.unmark(&set.namespace, range).await?;
        }
        sqlx::query(GIVE_UP)
            .bind(set.namespace.as_str())
            .execute(&mut writing.tx)
            .await?;
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(true)
    }

    /// Remaining work of the draining lanes of a set, by lane index. Lanes without work are left out.
    pub async fn left(&self, set: &LaneSet) -> Result<HashMap<u16, DrainRemainder>, Error> {
        let rows: Vec<(i64, i64, i64)> = sqlx::query_as(LEFT)
            .bind(set.namespace.as_str())
            .bind(i64::from(set.lanes))
            .fetch_all(&self.reader)
            .await?;
        let left = |(lane, cursors, events)| {
            let lane = u16::try_from(lane).unwrap_or(u16::MAX);
            (lane, DrainRemainder { cursors, events })
        };
        Ok(rows.into_iter().map(left).collect())
    }

    /// Marks as drained those of the lanes that have reached their marks by now; the others are
    /// unchanged.
    pub async fn lanes_drained(&self, set: &LaneSet, lanes: &[LaneId]) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        if !writing.lock(set).await? {
            return Ok(());
        }
        for lane in lanes {
            let range = slots(lane.index, set.lanes);
            sqlx::query(DRAINED)
                .bind(lane.namespace.as_str())
                .bind(lane.generation)
                .bind(i64::from(lane.index))
                .bind(i64::from(range.start))
                .bind(i64::from(range.end))
                .execute(&mut writing.tx)
                .await?;
        }
        writing.config_changed().await?;
        writing.commit().await
    }

    /// Slots of streams. Streams that no longer exist are left out.
    pub async fn slots(&self, streams: &[StreamId]) -> Result<HashMap<StreamId, Slot>, Error> {
        const AT_A_TIME: usize = 1_000;
        let mut found = HashMap::with_capacity(streams.len());
        for streams in streams.chunks(AT_A_TIME) {
            let mut query =
                sqlx::QueryBuilder::<sqlx::Any>::new("select id, slot from streams where id in (");
            let mut numbers = query.separated(", ");
            for stream in streams {
                // Formatted into the text as a number: there may be more streams than a statement has
                // parameters.
                numbers.push(stream.0);
            }
            query.push(")");
            let rows: Vec<(i64, i64)> = query.build_query_as().fetch_all(&self.reader).await?;
            let slot = |(id, slot)| (StreamId(id), Slot(u16::try_from(slot).unwrap_or_default()));
            found.extend(rows.into_iter().map(slot));
        }
        Ok(found)
    }
}

impl Writing<'_> {
    /// Runs an update bound to a lane set; true if it changed a row.
    async fn change_set(&mut self, change: &'static str, set: &LaneSet) -> Result<bool, Error> {
        let changed = sqlx::query(change)
            .bind(set.namespace.as_str())
            .bind(set.generation)
            .bind(i64::from(set.lanes))
            .execute(&mut self.tx)
            .await?;
        Ok(changed.rows_affected() > 0)
    }

    /// Locks a lane set; true if it is the stable one.
    async fn lock(&mut self, set: &LaneSet) -> Result<bool, Error> {
        self.change_set(LOCK, set).await
    }

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

    /// Sets the mode of lanes. Returns those that had another one.
    async fn set_modes<'a>(
        &mut self,
        change: &'static str,
        lanes: &'a [LaneId],
        mode: Mode,
        why: &Attribution,
    ) -> Result<Vec<&'a LaneId>, Error> {
        let is_stopped = mode != Mode::Active;
        let mut lanes: Vec<_> = lanes.iter().collect();
        lanes.sort();
        let mut changed = Vec::new();
        for lane in lanes {
            let done = sqlx::query(change)
                .bind(lane.namespace.as_str())
                .bind(lane.generation)
                .bind(i64::from(lane.index))
                .bind(mode.word())
                .bind(is_stopped.then(|| why.at.as_millis()))
                .bind(is_stopped.then(|| why.by.clone()))
                .bind(why.reason.clone())
                .execute(&mut self.tx)
                .await?;
            if done.rows_affected() == 1 {
                changed.push(lane);
            }
        }
        Ok(changed)
    }

    async fn drain(
        &mut self,
        namespace: &Name,
        of: u16,
        lanes: &[LaneId],
        why: &Attribution,
    ) -> Result<(), Error> {
        let drained = self.set_modes(DRAIN, lanes, Mode::Draining, why).await?;
        let ranges = drained.iter().map(|lane| slots(lane.index, of));
        for range in joined(ranges) {
            sqlx::query(MARK)
                .bind(namespace.as_str())
                .bind(i64::from(range.start))
                .bind(i64::from(range.end))
                .execute(&mut self.tx)
                .await?;
        }
        Ok(())
    }

    async fn unmark(&mut self, namespace: &Name, range: std::ops::Range<u32>) -> Result<(), Error> {
        sqlx::query(UNMARK)
            .bind(namespace.as_str())
            .bind(i64::from(range.start))
            .bind(i64::from(range.end))
            .execute(&mut self.tx)
            .await?;
        Ok(())
    }
}

/// Joins adjacent ranges, because each range costs a scan of all streams. The ranges come in order.
fn joined(ranges: impl Iterator<Item = std::ops::Range<u32>>) -> Vec<std::ops::Range<u32>> {
    let mut joined: Vec<std::ops::Range<u32>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

/// Backlog of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotBacklog {
    /// The slot.
    pub slot: u16,
    /// Number of events that wait.
    pub events: u64,
}

/// The stream with the largest backlog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LargestBacklog {
    /// Name of the stream.
    pub stream: StreamName,
    /// Its slot.
    pub slot: Slot,
    /// Number of events that wait for the handler that is furthest behind.
    pub events: u64,
}

/// Number of streams and cursors that a resize affects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResizeExtent {
    /// Number of streams of the namespace.
    pub streams: i64,
    /// Number of streams whose lane index changes.
    pub moves: i64,
    /// Number of cursors that are waiting or held.
    pub set_aside: i64,
}

impl Store {
    /// Backlog of a namespace by slot. Slots without one are left out.
    pub async fn waiting(&self, namespace: &Name) -> Result<Vec<SlotBacklog>, Error> {
        const WAITING: &str = "select s.slot,
              cast(sum(s.head - coalesce(c.position, 0)) as bigint)
            from streams s
            join hooks k on k.id = s.hook and k.deleted_at is null and k.namespace = $1
            join handlers h on h.hook = s.hook and h.deleted_at is null
            left join cursors c on c.stream = s.id and c.handler = h.id
            where s.head > coalesce(c.position, 0) group by s.slot";
        self.backend.index().await?;
        let rows: Vec<(i64, i64)> = sqlx::query_as(WAITING)
            .bind(namespace.as_str())
            .fetch_all(&self.reader)
            .await?;
        let waiting = |(slot, events)| SlotBacklog {
            slot: u16::try_from(slot).unwrap_or_default(),
            events: u64::try_from(events).unwrap_or(0),
        };
        Ok(rows.into_iter().map(waiting).collect())
    }

    /// The stream of a namespace with the largest backlog; `None` when nothing waits.
    pub async fn largest_backlog(&self, namespace: &Name) -> Result<Option<LargestBacklog>, Error> {
        const FULLEST: &str =
            "select k.name, s.ordering_key, s.slot, s.head - coalesce(c.position, 0)
            from streams s
            join hooks k on k.id = s.hook and k.deleted_at is null and k.namespace = $1
            join handlers h on h.hook = s.hook and h.deleted_at is null
            left join cursors c on c.stream = s.id and c.handler = h.id
            where s.head > coalesce(c.position, 0)
            order by s.head - coalesce(c.position, 0) desc, s.id limit 1";
        self.backend.index().await?;
        let row: Option<(String, String, i64, i64)> = sqlx::query_as(FULLEST)
            .bind(namespace.as_str())
            .fetch_optional(&self.reader)
            .await?;
        let Some((hook, key, slot, events)) = row else {
            return Ok(None);
        };
        let hook = hook.parse();
        Ok(Some(LargestBacklog {
            stream: StreamName {
                hook: hook.map_err(|_| Error::Integrity("a hook has no name".to_owned()))?,
                key: OrderingKey::stored(key),
            },
            slot: Slot(u16::try_from(slot).unwrap_or_default()),
            events: u64::try_from(events).unwrap_or(0),
        }))
    }

    /// Number of streams and cursors that a resize to `to` lanes affects.
    pub async fn resize_extent(&self, from: &LaneSet, to: u16) -> Result<ResizeExtent, Error> {
        const SIZE: &str = "select count(*), cast(coalesce(sum(case when
              s.slot * $2 / 65536 <> s.slot * $3 / 65536 then 1 else 0 end), 0) as bigint)
            from streams s join hooks k on k.id = s.hook
            where k.deleted_at is null and k.namespace = $1";
        const ASIDE: &str = "select count(*) from cursors c
            join handlers h on h.id = c.handler and h.deleted_at is null
            join hooks k on k.id = h.hook
            where c.condition <> 'flowing' and k.deleted_at is null and k.namespace = $1";
        let namespace = from.namespace.as_str();
        let (streams, moves) = sqlx::query_as(SIZE)
            .bind(namespace)
            .bind(i64::from(from.lanes))
            .bind(i64::from(to))
            .fetch_one(&self.reader)
            .await?;
        let set_aside = sqlx::query_scalar(ASIDE)
            .bind(namespace)
            .fetch_one(&self.reader)
            .await?;
        Ok(ResizeExtent {
            streams,
            moves,
            set_aside,
        })
    }
}
