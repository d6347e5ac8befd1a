//! The modes of lanes: pauses, drains and their marks. Each change is one transaction, so a crash leaves it
//! done or not begun, and any node can carry it on.

use std::collections::HashMap;

use sqlx::{Any, Executor, FromRow};

use super::behind::{every_cursor, is_behind};
use super::nodes::lane_id;
use super::{Error, Store, Writing};
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::hook::HandlerId;
use crate::domain::lane::{LaneId, LaneSet, Mode, SLOTS, slots};
use crate::domain::name::Name;
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
    /// Number of events that these cursors still need up to their marks.
    pub events: i64,
}

/// Locks the stable set. Every change of the set or of the modes of its lanes takes this lock first, so
/// that changes run one after the other and later statements see all earlier ones.
const LOCK: &str = "update lane_sets set state = 'stable'
    where namespace = $1 and generation = $2 and lanes = $3 and state = 'stable'";

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
const MARK: &str = concat!(
    "insert into marks (stream, handler, namespace, slot, mark)
    select s.id, h.id, k.namespace, s.slot, s.head from ",
    every_cursor!(),
    " where k.namespace = $1 and s.slot >= $2 and s.slot < $3 and ",
    is_behind!(),
    "
      and coalesce(c.condition, 'flowing') <> 'held'
    on conflict (stream, handler) do update
      set namespace = excluded.namespace, slot = excluded.slot, mark = excluded.mark
      where marks.namespace <> excluded.namespace"
);

const UNMARK: &str = "delete from marks where namespace = $1 and slot >= $2 and slot < $3";

const LEFT: &str = "select m.slot * $2 / $3, count(*),
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
            .bind(i64::from(SLOTS))
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
        writing.operation_progressed().await?;
        writing.commit().await
    }
}

impl Writing<'_> {
    /// Runs an update bound to a lane set; true if it changed a row.
    pub(super) async fn change_set(
        &mut self,
        change: &'static str,
        set: &LaneSet,
    ) -> Result<bool, Error> {
        let changed = sqlx::query(change)
            .bind(set.namespace.as_str())
            .bind(set.generation)
            .bind(i64::from(set.lanes))
            .execute(&mut self.tx)
            .await?;
        Ok(changed.rows_affected() > 0)
    }

    /// Locks a lane set; true if it is the stable one.
    pub(super) async fn lock(&mut self, set: &LaneSet) -> Result<bool, Error> {
        self.change_set(LOCK, set).await
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

    pub(super) async fn drain(
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

    pub(super) async fn unmark(
        &mut self,
        namespace: &Name,
        range: std::ops::Range<u32>,
    ) -> Result<(), Error> {
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
