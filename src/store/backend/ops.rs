//! Requests to both databases, and their answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::domain::cursor::{Chain, Condition, Cursor, CursorId, DeadLetter, Era};
use crate::domain::event::{Event, EventId, StreamId, checksum};
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::lane::Slot;
use crate::domain::name::OrderingKey;
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;
use crate::domain::version::{Late, Version, WINDOW_MAX};
use crate::store::Error;

/// An event to be stored. It has an id, but no place in a stream yet.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The hook that received it.
    pub hook: HookId,
    /// Ordering key of its stream.
    pub key: OrderingKey,
    /// Slot of its stream, used if the stream does not exist yet.
    pub slot: Slot,
    /// Id of the event.
    pub id: EventId,
    /// Time at which its last byte arrived.
    pub received_at: Timestamp,
    /// Number of the access key that it was sent with; `None` through the socket.
    pub key_id: Option<i64>,
    /// Delivery id or idempotency key given by the sender.
    pub dedupe_key: Option<String>,
    /// Headers as one JSON object.
    pub headers: Arc<str>,
    /// Body, byte for byte.
    pub body: Bytes,
    /// Its place in the provider's order; `None` if its hook orders events by arrival alone.
    pub provided: Option<Provided>,
}

/// Place of an event in the provider's order.
#[derive(Clone, Debug)]
pub struct Provided {
    /// Version of the event; `None` if it has none that can be read.
    pub version: Option<Version>,
    /// Treatment of the event if it is late.
    pub late: Late,
    /// Time until which it is held back; `None` gives it a seq at once.
    pub due_at: Option<Timestamp>,
}

impl NewEvent {
    pub(in crate::store) fn at(&self, stream: StreamId, seq: Seq, late: Option<Late>) -> Event {
        Event {
            stream,
            seq,
            id: self.id,
            received_at: self.received_at,
            key_id: self.key_id,
            dedupe_key: self.dedupe_key.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            late,
            is_damaged: false,
        }
    }

    /// Its version, if it has one.
    pub(in crate::store) fn version(&self) -> Option<&Version> {
        self.provided.as_ref()?.version.as_ref()
    }

    /// Time until which it is held back, if it is.
    pub(in crate::store) fn due_at(&self) -> Option<Timestamp> {
        self.provided.as_ref()?.due_at
    }

    /// Checksum of the event, as stored.
    pub(in crate::store) fn checksum(&self) -> i64 {
        checksum(
            self.id,
            self.received_at,
            self.headers.as_bytes(),
            &self.body,
        )
        .into()
    }
}

/// Outcome of storing a [`NewEvent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The event is durable.
    New {
        /// Its stream.
        stream: StreamId,
        /// Its place in the stream.
        seq: Seq,
        /// Slot stored with the stream, which may differ from [`NewEvent::slot`].
        slot: Slot,
        /// Treatment of the event, if it is late.
        late: Option<Late>,
    },
    /// The event is durable and held back; it gets its seq when it is released.
    HeldBack,
    /// The stream has an event with the same dedupe key already; nothing was stored.
    Duplicate {
        /// Id of the earlier event.
        id: EventId,
        /// Place of the earlier event; `None` while that one is held back.
        seq: Option<Seq>,
        /// Receive time of the earlier event.
        received_at: Timestamp,
    },
    /// The hook was deleted; nothing was stored.
    Gone,
    /// The database refuses this event, but not the others of its batch; it is not stored.
    Refused,
}

/// An event that was held back and has a seq now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// Its hook.
    pub hook: HookId,
    /// Its stream.
    pub stream: StreamId,
    /// Its place in the stream.
    pub seq: Seq,
    /// Slot of the stream.
    pub slot: Slot,
    /// Time at which its last byte arrived.
    pub received_at: Timestamp,
    /// Treatment of the event, if it is late.
    pub late: Option<Late>,
}

impl Released {
    /// The released event; `None` if it is a repeat or its hook was deleted.
    pub(in crate::store) fn of((event, appended): (&NewEvent, Appended)) -> Option<Self> {
        match appended {
            Appended::New {
                stream,
                seq,
                slot,
                late,
            } => Some(Self {
                hook: event.hook,
                stream,
                seq,
                slot,
                received_at: event.received_at,
                late,
            }),
            _ => None,
        }
    }
}

/// Selects the events that are released by one transaction.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Current time: windows that have ended by then.
    pub now: Timestamp,
    /// Windows that end later than this are of events that were received before the clock was set back;
    /// they count as ended.
    pub far: Timestamp,
}

impl Due {
    /// The limits of a release at `now`.
    pub fn at(now: Timestamp) -> Self {
        /// A window may end this much after the longest one, because clocks of nodes differ.
        const SLACK: Duration = Duration::from_secs(60);
        let far = now.after(WINDOW_MAX).after(SLACK);
        Self { now, far }
    }
}

/// Number and bytes of events that one transaction releases; one event is always released.
pub(in crate::store) const RELEASED_MAX: i64 = 512;
pub(in crate::store) const RELEASED_BYTES_MAX: i64 = 4 * 1024 * 1024;

/// A request for the input of a turn.
#[derive(Clone, Copy, Debug)]
pub struct InputRequest {
    /// The cursor that takes the turn.
    pub cursor: CursorId,
    /// Number of events at most.
    pub events_max: usize,
}

/// Input of a turn: the cursor and the events after it.
#[derive(Clone, Debug)]
pub struct Input {
    /// The cursor.
    pub cursor: Cursor,
    /// Head of its stream, read together with the cursor.
    pub head: Seq,
    /// Events after the cursor's position, in order, as many as were requested.
    pub events: Vec<Arc<Event>>,
}

impl Input {
    /// True if an event is missing between the position and the head. Its content is unknown, so the
    /// cursor must not go on.
    pub fn has_gap(&self) -> bool {
        let due = self.cursor.position.next();
        let numbers = self.events.iter().map(|event| event.seq.0);
        !numbers.eq((due.0..).take(self.events.len()))
            || (self.events.is_empty() && self.head >= due)
    }
}

/// A compare-and-set on a cursor: it moves the cursor, sets it aside, or both, provided era and
/// position are as they were read.
#[derive(Clone, Debug)]
pub struct Step {
    /// The cursor.
    pub cursor: CursorId,
    /// Era of the cursor when it was read.
    pub era: Era,
    /// Position of the cursor when it was read.
    pub from: Position,
    /// New position; equal to `from` when the cursor is only set aside.
    pub to: Position,
    /// State at `to`.
    pub state: Option<String>,
    /// Chain at `to`.
    pub chain: Chain,
    /// New condition of the cursor.
    pub condition: Condition,
    /// Events that the cursor passes without applying them; they become dead letters.
    pub skipped: Vec<DeadLetter>,
    /// Origin of the step.
    pub mover: Mover,
    /// Current time, stored as the time of the change.
    pub at: Timestamp,
}

impl Step {
    /// The cursor after the step, for the cursor cache; `None` unless it is flowing.
    pub(in crate::store) fn cursor_after(self) -> Option<Cursor> {
        (self.condition == Condition::Flowing).then_some(Cursor {
            id: self.cursor,
            position: self.to,
            era: self.era,
            state: self.state,
            chain: self.chain,
            condition: self.condition,
        })
    }
}

/// Outcome of a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// The cursor moved.
    Moved,
    /// Another writer moved the cursor first; the computed result is discarded.
    Lost,
}

/// Origin of a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mover {
    /// A turn. It never moves a held cursor.
    Turn,
    /// An operator. Moves a held cursor too, which ends the hold.
    Operator,
}

/// A request for consecutive events of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// The stream.
    pub stream: StreamId,
    /// Only events after this seq.
    pub after: Seq,
    /// Number of events at most.
    pub limit: usize,
}

/// A request to remove events from streams of one hook.
#[derive(Clone, Debug)]
pub struct Prune {
    /// The hook.
    pub hook: HookId,
    /// Its reduce handler and the version of the reducer that made the checkpoints; `None` if it has no
    /// reducer.
    pub reducer: Option<(HandlerId, i64)>,
    /// The cuts, sorted by stream.
    pub cuts: Vec<Cut>,
}

/// Removes the events of a stream after `floor` and up to `to`.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The stream.
    pub stream: StreamId,
    /// Floor of the stream when it was read; the cut is refused if it has changed.
    pub floor: Seq,
    /// New floor.
    pub to: Seq,
    /// Fold of all events up to `to`; ignored when the hook has no reducer.
    pub checkpoint: Checkpoint,
}

/// The fold of all removed events of a stream.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// Oldest version of the reducer that took part in it.
    pub fold: i64,
    /// State after the last removed event.
    pub state: Option<String>,
    /// Chain after the last removed event.
    pub chain: Chain,
}

impl Prune {
    /// Number of events to remove.
    pub(in crate::store) fn events(&self) -> usize {
        let events = |cut: &Cut| usize::try_from(cut.to.0 - cut.floor.0).unwrap_or(0);
        self.cuts.iter().map(events).sum()
    }
}

/// Number of events that one scan passes at most when it looks for the events beyond a size limit. A
/// longer read would keep the WAL from restarting.
pub const WALKED_MAX: usize = 50_000;

/// Report on a finished transaction, for metrics and error handling.
pub struct Commit {
    /// Time from the begin until the commit was durable.
    pub took: Duration,
    /// Part of `took` that went into writing and syncing the log; `None` on Postgres, which does that
    /// itself.
    pub synced: Option<Duration>,
    /// Number of events stored.
    pub events: usize,
    /// Number of cursors moved.
    pub steps: usize,
    /// Reason of the failure, if it failed. A fatal error must end the process.
    pub error: Option<Error>,
}

impl Commit {
    /// The report on a transaction that failed and stored nothing.
    pub(in crate::store) fn failed(error: Error) -> Self {
        Self {
            took: Duration::ZERO,
            synced: None,
            events: 0,
            steps: 0,
            error: Some(error),
        }
    }
}

/// Called after every transaction on events and cursors: on SQLite by the writer thread, on Postgres by
/// the task that ran the transaction.
pub type Observer = Box<dyn Fn(Commit) + Send + Sync>;

/// Result of examining a database.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// Product and version, such as `Postgres 16.3`.
    pub version: String,
    /// Number of its newest migration; `None` when it has no tables yet.
    pub tables: Option<i64>,
    /// Number of the newest migration that this binary knows.
    pub tables_known: i64,
    /// Size of the database in bytes.
    pub bytes: u64,
    /// Number that identifies the cluster of nodes that uses it.
    pub cluster: Option<i64>,
    /// Difference between its clock and ours in milliseconds, positive when it is ahead; `None` on
    /// SQLite, which uses our clock.
    pub clock: Option<i64>,
    /// Round-trip time of a query; `None` on SQLite.
    pub answers_in: Option<Duration>,
    /// Number of open connections, and its limit.
    pub connections: Option<(i64, i64)>,
    /// True if a pooler hands out sessions for one transaction at a time.
    pub shares_sessions: bool,
    /// Result of the check for damage; `None` where there are no events yet.
    pub damage: Option<DamageCheck>,
    /// Names of hooks with encrypted secrets, each with the id of a key that encrypted one.
    pub sealed: BTreeSet<(String, String)>,
    /// The last restore from a backup; `None` if there was none.
    pub restored: Option<Restored>,
}

/// Result of a check for damage.
#[derive(Clone, Debug, Default)]
pub struct DamageCheck {
    /// True if every page was checked, false if the time ran out; `None` on Postgres, which checks its
    /// pages itself.
    pub all_pages: Option<bool>,
    /// Number of events that were compared with their checksums.
    pub events: u64,
    /// The compared events that differ from their checksums.
    pub damaged: Vec<Event>,
}

impl DamageCheck {
    pub(in crate::store) fn note(&mut self, event: Event) {
        self.events += 1;
        let is_known = self.damaged.iter().any(|known| known.id == event.id);
        if event.is_damaged && !is_known {
            self.damaged.push(event);
        }
    }
}

/// A restore of this database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Time at which the backup was taken.
    pub taken_at: Timestamp,
    /// Time of the restore.
    pub at: Timestamp,
}

/// Time for which operators are told of a restore.
const TOLD_FOR: Duration = Duration::from_secs(24 * 3600);

impl Restored {
    /// True for a day after the restore, in which `status` and `doctor` mention it.
    pub fn is_new(self, now: Timestamp) -> bool {
        now.since(self.at) < TOLD_FOR
    }

    /// The times of two counters, in milliseconds; zero if the database was never restored.
    pub(in crate::store) fn of((taken_at, at): (i64, i64)) -> Option<Self> {
        (at > 0).then(|| Self {
            taken_at: Timestamp::from_millis(taken_at),
            at: Timestamp::from_millis(at),
        })
    }
}

/// Times of the last restore.
pub(in crate::store) const RESTORED: &str = "select
    coalesce((select value from counters where name = 'restored_from'), 0),
    coalesce((select value from counters where name = 'restored_at'), 0)";

/// Identifies a server and its history: equal values mean that no committed transaction is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// System number of the server. Drawn when it was created; standbys have the same one.
    pub system: i64,
    /// Timeline of the server. It grows when a standby is promoted.
    pub timeline: i64,
}

impl History {
    /// True if this is an earlier timeline of the server `other`: an old primary that should have been
    /// stopped.
    pub fn is_before(self, other: Self) -> bool {
        self.system == other.system && self.timeline < other.timeline
    }
}

/// An event that was stored and may have been acknowledged to its sender.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// Id of the event.
    pub id: EventId,
    /// Its hook.
    pub hook: HookId,
    /// Its place when it was stored.
    pub place: Place,
}

/// Place of a stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a stream.
    Stream(StreamId, Seq),
    /// Held back for a reorder window, for the stream of this ordering key. Its seq is not known even
    /// when it is released, since another node may do that.
    HeldBack(OrderingKey),
}

impl Place {
    /// Stream and seq; `None` for an event that was held back.
    pub(in crate::store) fn in_stream(&self) -> Option<(StreamId, Seq)> {
        match self {
            Self::Stream(stream, seq) => Some((*stream, *seq)),
            Self::HeldBack(_) => None,
        }
    }
}

/// Concurrency with which events are best given to the store.
#[derive(Clone, Copy, Debug)]
pub struct Committers {
    /// Number of committers that store events in parallel. Each stream belongs to one of them.
    pub count: usize,
    /// Number of batches that one committer may have in the store at once, so that the store never
    /// waits for the next one.
    pub batches: usize,
}
