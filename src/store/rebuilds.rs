//! Rebuilds: folding stored events into fresh states. This file has the requests, their progress, and
//! the swap of a new state for the old one. `engine/rebuild.rs` does the folding.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::FromRow;

use super::backend::ops::Range;
use super::backend::rows::held_by;
use super::backend::session::Tx;
use super::{Error, Store};
use crate::domain::cursor::{Chain, Condition, CursorId, DeadLetter, Era};
use crate::domain::event::{Event, StreamId};
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::lane::SLOTS;
use crate::domain::name::OrderingKey;
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;

/// Row of a rebuild.
#[derive(Clone, Debug, FromRow)]
pub struct Rebuild {
    /// Number of the rebuild.
    pub id: i64,
    /// Number of the hook whose states are folded again.
    pub hook: i64,
    /// Number of its reduce handler.
    pub handler: i64,
    /// Version of its reducer.
    pub fold: i64,
    /// Ordering key of the only stream to rebuild; `None` for every stream of the hook.
    pub ordering_key: Option<String>,
    /// 1 if new states are only compared with the old ones, else 0.
    pub check_only: i64,
    /// `running`, `done` or `failed`.
    pub state: String,
    /// Every stream up to this number is done.
    pub after_stream: i64,
    /// Number of streams to rebuild.
    pub streams: i64,
    /// Number of streams that are done.
    pub streams_done: i64,
    /// Number of events of these streams.
    pub events: i64,
    /// Number of events folded so far.
    pub events_done: i64,
    /// Number of streams whose new state differs from the old one.
    pub differ: i64,
    /// Number of streams that could not be folded and kept their states.
    pub failed: i64,
    /// Some streams that differ or failed, as a JSON array of strings.
    pub samples: String,
    /// Reason why the rebuild failed as a whole.
    pub error: Option<String>,
    /// Name of the operator who asked for it.
    pub asked_by: String,
    /// Time of the request, in milliseconds since 1970.
    pub asked_at: i64,
}

/// A request for a rebuild.
#[derive(Clone, Debug)]
pub struct NewRebuild {
    /// The hook.
    pub hook: HookId,
    /// Its reduce handler.
    pub handler: HandlerId,
    /// Version of its reducer.
    pub fold: i64,
    /// The only stream to rebuild and its number of events; `None` for every stream of the hook.
    pub only: Option<(OrderingKey, i64)>,
    /// True if new states are only compared with the old ones.
    pub check_only: bool,
    /// Name of the operator.
    pub by: String,
}

/// Progress of a rebuild since its row was last written.
#[derive(Clone, Debug, Default)]
pub struct RebuildProgress {
    /// Every stream up to this one is done; `None` if unchanged.
    pub after_stream: Option<StreamId>,
    /// Number of streams that are done.
    pub streams: i64,
    /// Number of events folded.
    pub events: i64,
    /// Number of streams whose new state differs.
    pub differ: i64,
    /// Number of streams that could not be folded.
    pub failed: i64,
    /// Some streams that differ or failed.
    pub samples: Vec<String>,
}

/// The unfinished fold of a stream, stored so that a restart resumes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// The cursor that will get the new state.
    pub cursor: CursorId,
    /// Position of the last event folded.
    pub position: Position,
    /// State at that position.
    pub state: Option<String>,
    /// Chain at that position.
    pub chain: Chain,
}

/// Replaces the state of a cursor by a rebuilt one. It is refused when the cursor's era has changed,
/// which every move by anything but a turn does, or when a turn has moved it beyond the new position.
#[derive(Clone, Debug)]
pub struct Swap {
    /// The rebuilt state with its position.
    pub shadow: Shadow,
    /// Era of the cursor when it was read.
    pub era: Era,
    /// Condition of the cursor after the swap.
    pub condition: Condition,
    /// Events that the new fold skips and the old one applied.
    pub skipped: Vec<DeadLetter>,
}

/// The changes of one rebuild, for a transaction that may include other rebuilds.
#[derive(Clone, Debug)]
pub struct RebuildStep {
    /// The rebuild as it was before.
    pub rebuild: Rebuild,
    /// Rebuilt states to put in place.
    pub swaps: Vec<Swap>,
    /// Unfinished folds to store.
    pub shadows: Vec<Shadow>,
    /// Progress since the last step.
    pub progress: RebuildProgress,
    /// True if the rebuild ends with this step.
    pub ends: bool,
}

impl RebuildStep {
    /// A step that changes nothing yet.
    pub fn of(rebuild: &Rebuild) -> Self {
        Self {
            rebuild: rebuild.clone(),
            swaps: Vec::new(),
            shadows: Vec::new(),
            progress: RebuildProgress::default(),
            ends: false,
        }
    }
}

/// A rebuild after a [`RebuildStep`], and for each of its swaps whether it was done.
pub type RebuildStepResult = (Rebuild, Vec<bool>);

const BEGIN: &str = "insert into rebuilds (hook, handler, ordering_key, check_only, asked_by, asked_at,
      streams, events, fold)
    select $1, $2, $3, $4, $5, $6,
      case when $3 is null then (select count(*) from streams where hook = $1) else 1 end,
      coalesce($7, (select cast(coalesce(sum(head - floor), 0) as bigint) from streams where hook = $1)), $8
    where true on conflict do nothing returning id";

const SHOW: &str =
    "select id, hook, handler, fold, ordering_key, check_only, state, after_stream, streams,
    streams_done, events, events_done, differ, failed, samples, error, asked_by, asked_at
    from rebuilds";

const CLAIM: &str = "update rebuilds set node = $1
    where id = $2 and state = 'running'
      and (node is null or node = $1 or not exists (select 1 from nodes where nodes.id = rebuilds.node))";

const ADVANCE: &str = "update rebuilds set after_stream = $2, streams_done = streams_done + $3,
      events_done = events_done + $4, differ = differ + $5, failed = failed + $6, samples = $7
    where id = $1 and state = 'running'";

const END: &str = "update rebuilds set state = $2, error = $3, ended_at = $4
    where id = $1 and state = 'running'";

const KEEP_SHADOW: &str = "insert into shadows (handler, stream, rebuild, position, state, chain)
    values ($1, $2, $3, $4, $5, $6)
    on conflict (handler, stream) do update set rebuild = excluded.rebuild,
      position = excluded.position, state = excluded.state, chain = excluded.chain";

/// If turns may not move a cursor (paused, moving or draining), a swap may not move it forward
/// either: the node that rebuilds may know an older configuration.
const SWAP: &str = "update cursors set position = $4, state = $5, chain = $6, era = era + 1,
      condition = $7, retry_at = null, tries = 0, reason = $8, updated_at = $9, held_by = $11
    where stream = $1 and handler = $2 and era = $3 and (position = $4 or position < $4 and exists (
      select 1 from streams s
        join hooks k on k.id = s.hook and k.paused_at is null and k.moves_version is null
        join lane_sets t on t.namespace = k.namespace and t.state in ('opening', 'stable')
        join lanes l on l.namespace = t.namespace and l.generation = t.generation
          and l.lane = s.slot * t.lanes / $10 and l.mode = 'active'
        where s.id = $1))";

/// Like [`SWAP`], for a cursor that has no row yet.
const FIRST: &str = "insert into cursors
      (stream, handler, era, position, state, chain, condition, reason, updated_at, held_by)
    select $1, $2, $3 + 1, $4, $5, $6, $7, $8, $9, $11
    where exists (
      select 1 from streams s
        join hooks k on k.id = s.hook and k.paused_at is null and k.moves_version is null
        join lane_sets t on t.namespace = k.namespace and t.state in ('opening', 'stable')
        join lanes l on l.namespace = t.namespace and l.generation = t.generation
          and l.lane = s.slot * t.lanes / $10 and l.mode = 'active'
        where s.id = $1)
    on conflict do nothing";

const BURY: &str = "insert into dead_letters (handler, stream, seq, reason, created_at)
    values ($1, $2, $3, $4, $5) on conflict do nothing";

impl Store {
    /// Stores a request for a rebuild and returns its number; `None` when a rebuild of that handler is
    /// under way.
    pub async fn begin_rebuild(
        &self,
        new: &NewRebuild,
        at: Timestamp,
    ) -> Result<Option<i64>, Error> {
        let begun = self.begin_rebuilds(std::slice::from_ref(new), at).await?;
        Ok(begun.ok().and_then(|ids| ids.first().copied()))
    }

    /// Stores requests for rebuilds, all or none. Returns their numbers, or the hook that already has a
    /// rebuild under way.
    pub async fn begin_rebuilds(
        &self,
        new: &[NewRebuild],
        at: Timestamp,
    ) -> Result<Result<Vec<i64>, HookId>, Error> {
        self.backend.index().await?;
        let mut writing = self.begin().await?;
        let mut ids = Vec::with_capacity(new.len());
        for new in new {
            match begin(&mut writing.tx, new, at).await? {
                Some(id) => ids.push(id),
                None => return Ok(Err(new.hook)),
            }
        }
        writing.tell_note(match &ids[..] {
            [id] => serde_json::json!({"rebuild": id}),
            ids => serde_json::json!({"rebuilds": ids.len()}),
        });
        writing.commit().await?;
        Ok(Ok(ids))
    }

    /// Rebuilds with numbers from `first` to `last`, both included.
    pub async fn rebuilds_between(&self, first: i64, last: i64) -> Result<Vec<Rebuild>, Error> {
        let text = const_format(SHOW, " where id between $1 and $2 order by id");
        let query = sqlx::query_as(text).bind(first).bind(last);
        Ok(query.fetch_all(&self.reader).await?)
    }

    /// A rebuild by its number.
    pub async fn rebuild(&self, id: i64) -> Result<Option<Rebuild>, Error> {
        let text = const_format(SHOW, " where id = $1");
        Ok(sqlx::query_as(text)
            .bind(id)
            .fetch_optional(&self.reader)
            .await?)
    }

    /// Rebuilds that have not ended, oldest first.
    pub async fn running_rebuilds(&self) -> Result<Vec<Rebuild>, Error> {
        let text = const_format(SHOW, " where state = 'running' order by id");
        Ok(sqlx::query_as(text).fetch_all(&self.reader).await?)
    }

    /// Events per second of the hook's last finished rebuild; `None` where it took less than a second.
    pub async fn rebuilt_per_s(&self, hook: HookId) -> Result<Option<u64>, Error> {
        const LAST: &str = "select events_done * 1000 / (ended_at - asked_at) from rebuilds
            where hook = $1 and state = 'done' and ended_at >= asked_at + 1000 and events_done > 0
            order by id desc limit 1";
        let query = sqlx::query_scalar(LAST).bind(hook.0);
        let per_s: Option<i64> = query.fetch_optional(&self.reader).await?;
        let per_s = per_s.and_then(|per_s| u64::try_from(per_s).ok());
        Ok(per_s.filter(|per_s| *per_s > 0))
    }

    /// Claims rebuilds for a node. Returns them without those that another live node has claimed.
    pub async fn claim_rebuilds(
        &self,
        rebuilds: Vec<Rebuild>,
        node: &str,
    ) -> Result<Vec<Rebuild>, Error> {
        if rebuilds.is_empty() {
            return Ok(rebuilds);
        }
        let mut writing = self.begin().await?;
        let mut claimed = Vec::with_capacity(rebuilds.len());
        for rebuild in rebuilds {
            let query = sqlx::query(CLAIM).bind(node).bind(rebuild.id);
            if query.execute(&mut writing.tx).await?.rows_affected() == 1 {
                claimed.push(rebuild);
            }
        }
        writing.commit().await?;
        Ok(claimed)
    }

    /// Ends a rebuild: as failed when there is an `error`, else as done.
    pub async fn end_rebuild(
        &self,
        rebuild: &Rebuild,
        error: Option<&str>,
        at: Timestamp,
    ) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        end(&mut writing.tx, rebuild.id, error, at).await?;
        writing.commit().await
    }

    /// Writes steps of rebuilds in one transaction: swaps states, stores unfinished folds, adds to the
    /// progress. The result says of each swap whether it was done; a refused swap is not counted as
    /// progress.
    pub async fn advance_rebuilds(
        &self,
        steps: Vec<RebuildStep>,
        at: Timestamp,
    ) -> Result<Vec<RebuildStepResult>, Error> {
        let mut writing = self.begin().await?;
        let mut stepped = Vec::with_capacity(steps.len());
        for step in steps {
            stepped.push(advance(&mut writing.tx, step, at).await?);
        }
        writing.commit().await?;
        Ok(stepped)
    }

    /// The unfinished folds of a rebuild, by stream.
    pub async fn shadows(&self, rebuild: i64) -> Result<HashMap<StreamId, Shadow>, Error> {
        const SHADOWS: &str =
            "select handler, stream, position, state, chain from shadows where rebuild = $1";
        type ShadowRow = (i64, i64, i64, Option<String>, Vec<u8>);
        let rows: Vec<ShadowRow> = sqlx::query_as(SHADOWS)
            .bind(rebuild)
            .fetch_all(&self.reader)
            .await?;
        let shadow = |(handler, stream, position, state, chain): ShadowRow| {
            let stream = StreamId(stream);
            let cursor = CursorId {
                stream,
                handler: HandlerId(handler),
            };
            let shadow = Shadow {
                cursor,
                position: Position(position),
                state,
                chain: Chain::from_bytes(chain),
            };
            (stream, shadow)
        };
        Ok(rows.into_iter().map(shadow).collect())
    }

    /// Dead letters of a handler in the streams from `first` to `last`, both included.
    pub async fn dead_letters(
        &self,
        handler: HandlerId,
        first: StreamId,
        last: StreamId,
    ) -> Result<Vec<(StreamId, Seq)>, Error> {
        const DEAD: &str = "select stream, seq from dead_letters
            where handler = $1 and stream >= $2 and stream <= $3";
        let rows: Vec<(i64, i64)> = sqlx::query_as(DEAD)
            .bind(handler.0)
            .bind(first.0)
            .bind(last.0)
            .fetch_all(&self.reader)
            .await?;
        let letter = |(stream, seq)| (StreamId(stream), Seq(seq));
        Ok(rows.into_iter().map(letter).collect())
    }

    /// Events of many streams, each in order, one list a range.
    pub async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<Vec<Arc<Event>>>, Error> {
        self.backend.ranges(ranges).await
    }
}

/// Two texts of ours as one.
fn const_format(first: &'static str, second: &'static str) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("{first}{second}"))
}

impl Rebuild {
    /// Samples kept.
    const SAMPLES_MAX: usize = 20;

    /// True if states are only compared, not replaced.
    pub fn is_check(&self) -> bool {
        self.check_only == 1
    }

    /// Descriptions of differences and failures.
    pub fn samples(&self) -> Vec<String> {
        serde_json::from_str(&self.samples).unwrap_or_default()
    }

    fn note(&mut self, progress: RebuildProgress) {
        if let Some(stream) = progress.after_stream {
            self.after_stream = stream.0;
        }
        self.streams_done += progress.streams;
        self.events_done += progress.events;
        self.differ += progress.differ;
        self.failed += progress.failed;
        let mut samples = self.samples();
        samples.extend(progress.samples);
        samples.truncate(Self::SAMPLES_MAX);
        self.samples = serde_json::to_string(&samples).unwrap_or_default();
    }
}

async fn begin(tx: &mut Tx, new: &NewRebuild, at: Timestamp) -> Result<Option<i64>, Error> {
    // This write of the hook's row orders the rebuild with removals of events: a removal is finished
    // before, or sees the rebuild.
    sqlx::query("update hooks set name = name where id = $1")
        .bind(new.hook.0)
        .execute(&mut *tx)
        .await?;
    Ok(sqlx::query_scalar(BEGIN)
        .bind(new.hook.0)
        .bind(new.handler.0)
        .bind(new.only.as_ref().map(|(key, _)| key.as_str().to_owned()))
        .bind(i64::from(new.check_only))
        .bind(&new.by)
        .bind(at.as_millis())
        .bind(new.only.as_ref().map(|(_, events)| *events))
        .bind(new.fold)
        .fetch_optional(&mut *tx)
        .await?)
}

async fn end(tx: &mut Tx, id: i64, error: Option<&str>, at: Timestamp) -> Result<(), Error> {
    const FORGET: &str = "delete from shadows where rebuild = $1";
    sqlx::query(FORGET).bind(id).execute(&mut *tx).await?;
    sqlx::query(END)
        .bind(id)
        .bind(if error.is_some() { "failed" } else { "done" })
        .bind(error)
        .bind(at.as_millis())
        .execute(&mut *tx)
        .await?;
    Ok(())
}

async fn advance(
    tx: &mut Tx,
    step: RebuildStep,
    at: Timestamp,
) -> Result<RebuildStepResult, Error> {
    let before = step.rebuild;
    let mut swapped = Vec::with_capacity(step.swaps.len());
    for swap in &step.swaps {
        swapped.push(put(tx, swap, at).await?);
    }
    for shadow in &step.shadows {
        keep(tx, before.id, shadow).await?;
    }
    let mut after = before.clone();
    after.note(step.progress);
    sqlx::query(ADVANCE)
        .bind(after.id)
        .bind(after.after_stream)
        .bind(after.streams_done - before.streams_done)
        .bind(after.events_done - before.events_done)
        .bind(after.differ - before.differ)
        .bind(after.failed - before.failed)
        .bind(&after.samples)
        .execute(&mut *tx)
        .await?;
    if step.ends {
        end(tx, after.id, None, at).await?;
    }
    Ok((after, swapped))
}

async fn put(tx: &mut Tx, swap: &Swap, at: Timestamp) -> Result<bool, Error> {
    let shadow = &swap.shadow;
    let mut changed = 0;
    // A cursor without a row stands at the base, in its first era.
    for text in [SWAP, FIRST] {
        if changed > 0 || text == FIRST && swap.era != Era(1) {
            break;
        }
        changed = sqlx::query(text)
            .bind(shadow.cursor.stream.0)
            .bind(shadow.cursor.handler.0)
            .bind(swap.era.0)
            .bind(shadow.position.0)
            .bind(shadow.state.as_deref())
            .bind(shadow.chain.as_bytes())
            .bind(swap.condition.word())
            .bind(swap.condition.reason())
            .bind(at.as_millis())
            .bind(i64::from(SLOTS))
            .bind(held_by(&swap.condition))
            .execute(&mut *tx)
            .await?
            .rows_affected();
    }
    if changed == 0 {
        return Ok(false);
    }
    for letter in &swap.skipped {
        sqlx::query(BURY)
            .bind(shadow.cursor.handler.0)
            .bind(shadow.cursor.stream.0)
            .bind(letter.seq.0)
            .bind(&letter.reason)
            .bind(at.as_millis())
            .execute(&mut *tx)
            .await?;
    }
    Ok(true)
}

async fn keep(tx: &mut Tx, rebuild: i64, shadow: &Shadow) -> Result<(), Error> {
    sqlx::query(KEEP_SHADOW)
        .bind(shadow.cursor.handler.0)
        .bind(shadow.cursor.stream.0)
        .bind(rebuild)
        .bind(shadow.position.0)
        .bind(shadow.state.as_deref())
        .bind(shadow.chain.as_bytes())
        .execute(&mut *tx)
        .await?;
    Ok(())
}
