//! Lane sets that follow one another, and lanes that are stopped and let go again. Rows only: each
//! change is one transaction, so that a crash finds it done or not begun, and any node carries it on.
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

/// Who asks for a change, why, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// As people write it.
    pub by: String,
    /// In the asker's words.
    pub reason: Option<String>,
    /// Now.
    pub at: Timestamp,
}

/// What became of the wish to resize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// This set follows.
    Begun(LaneSet),
    /// The set was not the only one, or not as it was seen: nothing was changed.
    Changed,
    /// Its lanes do not all do the same: nothing was changed.
    Mixed,
}

/// A lane that does not just take turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneMode {
    /// What it does.
    pub mode: Mode,
    /// Who wanted it, when and why.
    pub by: Option<String>,
    /// When.
    pub at: Option<Timestamp>,
    /// Why.
    pub reason: Option<String>,
}

/// What a draining lane has to do before it is drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Cursors below their marks that are neither held nor of a paused hook.
    pub cursors: i64,
    /// Their events up to the marks.
    pub events: i64,
}

/// A resize that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The set that goes.
    pub from: LaneSet,
    /// The set that comes.
    pub to: LaneSet,
    /// Whether it waits until the old one is drained.
    pub is_planned: bool,
    /// The lanes that are not sealed, and who runs each.
    pub unsealed: Vec<(u16, Option<String>)>,
    /// Who wanted it.
    pub by: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// A lane set of which nothing runs any more.
pub type Closed = LaneSet;

/// Locks the stable set: whatever changes it, or what its lanes do, waits for its turn here, and finds what
/// came before. The statements after it see that too.
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

/// The lanes of the new set do what the old ones did.
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

/// The lanes of the last closed set stay for people to look at.
const FORGET: &str = "delete from lanes where namespace = $1 and generation < $2";

const MODES: &str = "select namespace, generation, lane, mode, mode_at, mode_by, mode_reason
    from lanes where mode <> 'active' and sealed_at is null";

const MARKS: &str = "select stream, handler, mark from marks";

const SET_MODE: &str = "update lanes set mode = $4, mode_at = $5, mode_by = $6, mode_reason = $7
    where namespace = $1 and generation = $2 and lane = $3 and sealed_at is null and mode <> $4";

/// Draining what drains moves no mark that exists.
const DRAIN: &str = "update lanes set mode = $4, mode_at = $5, mode_by = $6, mode_reason = $7
    where namespace = $1 and generation = $2 and lane = $3 and sealed_at is null
      and mode in ('active', 'paused')";

/// A mark that a hook has left behind in another namespace is none.
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

/// What [`LEFT`] counts is looked at once more: the lane may have been let go and drained again.
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
    /// Begins a resize: `from` closes, a set of `lanes` opens.
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
    pub async fn begin_resize(
        &self,
        from: &LaneSet,
        lanes: u16,
        why: &Why,
    ) -> Result<Begun, Error> {
        let mut writing = self.begin().await?;
        if !writing.lock(from).await? || writing.has_plan(&from.namespace).await? {
            return Ok(Begun::Changed);
        }
        if writing.is_mixed(from).await? {
            return Ok(Begun::Mixed);
        }
        writing.change_set(CLOSING, from).await?;
        let to = writing.follow(from, lanes, "opening", why).await?;
        writing.add_lanes(from, &to).await?;
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(Begun::Begun(to))
    }

    /// Plans a resize for when every lane of `from` is drained, and drains them.
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
    pub async fn plan_resize(&self, from: &LaneSet, lanes: u16, why: &Why) -> Result<Begun, Error> {
        self.backend.index().await?;
        let mut writing = self.begin().await?;
        if !writing.lock(from).await? || writing.has_plan(&from.namespace).await? {
            return Ok(Begun::Changed);
        }
        if writing.is_mixed(from).await? {
            return Ok(Begun::Mixed);
        }
        let to = writing.follow(from, lanes, "planned", why).await?;
        let all: Vec<_> = from.ids().collect();
        writing
            .drain(&from.namespace, from.lanes, &all, why)
            .await?;
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(Begun::Begun(to))
    }

    /// Begins a planned resize, whose time has come: the lanes of the new set take turns without marks. Lanes that
    /// an operator had drained before the resize was planned stay so: the new ones keep what the old ones kept.
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
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

    /// Seals lanes of sets that close: those that `node` runs under these epochs, or that nobody runs.
    /// No turn may be running in them.
    ///
    /// # Errors
    /// Those of the database; unknown what is sealed, until the rows are read again.
    pub async fn seal_lanes(
        &self,
        lanes: &[(LaneId, i64)],
        node: &str,
        at: Timestamp,
    ) -> Result<(), Error> {
        // In order, as they are taken, so that no two wait for each other.
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

    /// Ends every resize of which all old lanes are sealed; says which sets are closed now. To be called
    /// after each seal has committed: of two who seal the last lanes, the later one sees both.
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
    pub async fn close_sets(&self) -> Result<Vec<Closed>, Error> {
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

    /// The resize of a namespace that is under way, if one is.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn resize_under_way(&self, namespace: &Name) -> Result<Option<Progress>, Error> {
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
        Ok(Some(Progress {
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

    /// The namespaces whose lanes are being resized, or will be when they are drained.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn resized_namespaces(&self) -> Result<Vec<Name>, Error> {
        const RESIZED: &str = "select distinct namespace from lane_sets
            where state in ('opening', 'planned') order by namespace";
        let names: Vec<String> = sqlx::query_scalar(RESIZED).fetch_all(&self.reader).await?;
        let parsed = names.iter().filter_map(|name| name.parse().ok());
        Ok(parsed.collect())
    }

    /// The lanes that do not just take turns.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lane_modes(&self) -> Result<HashMap<LaneId, LaneMode>, Error> {
        modes(&self.reader).await
    }

    /// Up to where cursors of draining lanes move.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn marks(&self) -> Result<HashMap<CursorId, Position>, Error> {
        marks(&self.reader).await
    }

    /// Pauses lanes of a set; those that are paused already stay as they are. `false` when another set has
    /// followed, or is about to: nothing was changed, as those lanes do what these did.
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
    pub async fn pause_lanes(
        &self,
        set: &LaneSet,
        lanes: &[LaneId],
        why: &Why,
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

    /// Drains lanes of a set: cursors that are behind now move up to where their streams are now. `false` as
    /// for [`Store::pause_lanes`].
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
    pub async fn drain_lanes(
        &self,
        set: &LaneSet,
        lanes: &[LaneId],
        why: &Why,
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

    /// Lets lanes of a set go on without marks. A planned resize, which waits for lanes to be drained, is
    /// given up. `false` as for [`Store::pause_lanes`].
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
    pub async fn resume_lanes(&self, set: &LaneSet, lanes: &[LaneId]) -> Result<bool, Error> {
        const GIVE_UP: &str = "delete from lane_sets where namespace = $1 and state = 'planned'";
        let nobody = Why {
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

    /// What each draining lane of a set has to do, by the lane's index; lanes that have nothing to do are
    /// left out.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn left(&self, set: &LaneSet) -> Result<HashMap<u16, Left>, Error> {
        let rows: Vec<(i64, i64, i64)> = sqlx::query_as(LEFT)
            .bind(set.namespace.as_str())
            .bind(i64::from(set.lanes))
            .fetch_all(&self.reader)
            .await?;
        let left = |(lane, cursors, events)| {
            let lane = u16::try_from(lane).unwrap_or(u16::MAX);
            (lane, Left { cursors, events })
        };
        Ok(rows.into_iter().map(left).collect())
    }

    /// Notes which lanes of a set have reached their marks; those that have not, by now, stay as they are.
    ///
    /// # Errors
    /// Those of the database; nothing was changed.
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

    /// The slots of streams; those that are gone are left out.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn slots(&self, streams: &[StreamId]) -> Result<HashMap<StreamId, Slot>, Error> {
        const AT_A_TIME: usize = 1_000;
        let mut found = HashMap::with_capacity(streams.len());
        for streams in streams.chunks(AT_A_TIME) {
            let mut query =
                sqlx::QueryBuilder::<sqlx::Any>::new("select id, slot from streams where id in (");
            let mut numbers = query.separated(", ");
            for stream in streams {
                // A number, which needs no place of its own: there may be more than a statement has.
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
    /// Changes the row of a set, or of what belongs to it; whether there was one as it was seen.
    async fn change_set(&mut self, change: &'static str, set: &LaneSet) -> Result<bool, Error> {
        let changed = sqlx::query(change)
            .bind(set.namespace.as_str())
            .bind(set.generation)
            .bind(i64::from(set.lanes))
            .execute(&mut self.tx)
            .await?;
        Ok(changed.rows_affected() > 0)
    }

    /// Locks a set; whether it is the stable one.
    async fn lock(&mut self, set: &LaneSet) -> Result<bool, Error> {
        self.change_set(LOCK, set).await
    }

    /// Whether a resize is planned.
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

    /// True if the mode that the lanes of a set have taken over is older than the set: then an operator had
    /// stopped them before the resize was asked for.
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

    /// Makes the row of the set that follows `from`.
    async fn follow(
        &mut self,
        from: &LaneSet,
        lanes: u16,
        state: &str,
        why: &Why,
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

    /// Sets modes; the lanes that had another one.
    async fn set_modes<'a>(
        &mut self,
        change: &'static str,
        lanes: &'a [LaneId],
        mode: Mode,
        why: &Why,
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
        why: &Why,
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

/// Ranges in order, those that touch made one: each costs a look at every stream.
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

/// What waits in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which slot.
    pub slot: u16,
    /// Events.
    pub events: u64,
}

/// A stream of which much waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fullest {
    /// Which.
    pub stream: StreamName,
    /// Where it stands among the lanes.
    pub slot: Slot,
    /// Events that wait for the handler that is furthest behind.
    pub events: u64,
}

/// How much would be resized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Streams of the namespace.
    pub streams: i64,
    /// Those whose lane would have another number.
    pub moves: i64,
    /// Cursors that are waiting or held.
    pub set_aside: i64,
}

impl Store {
    /// What waits in a namespace, by slot.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn waiting(&self, namespace: &Name) -> Result<Vec<Waiting>, Error> {
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
        let waiting = |(slot, events)| Waiting {
            slot: u16::try_from(slot).unwrap_or_default(),
            events: u64::try_from(events).unwrap_or(0),
        };
        Ok(rows.into_iter().map(waiting).collect())
    }

    /// The stream of a namespace of which most waits; none when nothing does.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn fullest_stream(&self, namespace: &Name) -> Result<Option<Fullest>, Error> {
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
        Ok(Some(Fullest {
            stream: StreamName {
                hook: hook.map_err(|_| Error::Integrity("a hook has no name".to_owned()))?,
                key: OrderingKey::stored(key),
            },
            slot: Slot(u16::try_from(slot).unwrap_or_default()),
            events: u64::try_from(events).unwrap_or(0),
        }))
    }

    /// How much a resize to `to` lanes is about.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn namespace_size(&self, from: &LaneSet, to: u16) -> Result<Size, Error> {
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
        Ok(Size {
            streams,
            moves,
            set_aside,
        })
    }
}
