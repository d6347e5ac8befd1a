//! What both databases are asked, and what they answer.

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
use crate::store::Error;

/// An event that has not been stored yet: it has an id, but no place.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The hook that received it.
    pub hook: HookId,
    /// The stream it belongs to, by name.
    pub key: OrderingKey,
    /// Where that stream will be, should this be its first event.
    pub slot: Slot,
    /// Its id.
    pub id: EventId,
    /// When its last byte was in.
    pub received_at: Timestamp,
    /// The access key it came with.
    pub key_id: Option<i64>,
    /// The delivery id or idempotency key its sender gave.
    pub dedupe_key: Option<String>,
    /// Its headers as one JSON object.
    pub headers: Arc<str>,
    /// Its body.
    pub body: Bytes,
}

impl NewEvent {
    pub(in crate::store) fn at(&self, stream: StreamId, seq: Seq) -> Event {
        Event {
            stream,
            seq,
            id: self.id,
            received_at: self.received_at,
            key_id: self.key_id,
            dedupe_key: self.dedupe_key.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            is_damaged: false,
        }
    }

    /// Its checksum, as the database keeps it.
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

/// What became of a [`NewEvent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is durable.
    New {
        /// Its stream.
        stream: StreamId,
        /// Its place there.
        seq: Seq,
        /// The stored slot of the stream.
        slot: Slot,
    },
    /// Its stream has an event with the same dedupe key.
    Duplicate {
        /// The first one's id.
        id: EventId,
        /// The first one's place.
        seq: Seq,
        /// When the first one was received.
        received_at: Timestamp,
    },
    /// Its hook was deleted.
    Gone,
    /// The database refuses this event alone; it is not stored.
    Refused,
}

/// What a turn wants to read.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// Of which cursor.
    pub cursor: CursorId,
    /// At most so many events.
    pub events_max: usize,
}

/// What a turn starts from: the cursor as it stands, and the events after it.
#[derive(Clone, Debug)]
pub struct Input {
    /// The cursor.
    pub cursor: Cursor,
    /// The head of its stream, read with the cursor.
    pub head: Seq,
    /// The events after its position, in order, as many as were wanted.
    pub events: Vec<Arc<Event>>,
}

impl Input {
    /// Whether events are missing between the position and the head: nobody knows what they said, so
    /// the cursor may not go on.
    pub fn has_gap(&self) -> bool {
        let due = self.cursor.position.next();
        let numbers = self.events.iter().map(|event| event.seq.0);
        !numbers.eq((due.0..).take(self.events.len()))
            || (self.events.is_empty() && self.head >= due)
    }
}

/// One cursor's move, or its being set aside, or both: from where its mover saw it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which cursor.
    pub cursor: CursorId,
    /// The era in which it was read.
    pub era: Era,
    /// The position at which it was read.
    pub from: Position,
    /// Where it goes; `from` when it is only set aside.
    pub to: Position,
    /// The state at `to`.
    pub state: Option<String>,
    /// The chain at `to`.
    pub chain: Chain,
    /// Whether it may go on.
    pub condition: Condition,
    /// The events it passes without applying them.
    pub skipped: Vec<DeadLetter>,
    /// Who moves it.
    pub mover: Mover,
    /// Now.
    pub at: Timestamp,
}

impl Step {
    /// The cursor once it has moved, if it may go on.
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

/// What became of a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// The cursor moved.
    Moved,
    /// Somebody else moved it first; what was computed is thrown away.
    Lost,
}

/// Who moves a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mover {
    /// A turn: it never lets a held cursor go.
    Turn,
    /// An operator: what the cursor was held for is over.
    Operator,
}

/// Which events of a stream are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// Which stream.
    pub stream: StreamId,
    /// Those after this one.
    pub after: Seq,
    /// At most so many.
    pub limit: usize,
}

/// What is to be removed from streams of one hook.
#[derive(Clone, Debug)]
pub struct Prune {
    /// The hook.
    pub hook: HookId,
    /// Its reducer and the version that made the checkpoints; none where it only stores.
    pub reducer: Option<(HandlerId, i64)>,
    /// By stream.
    pub cuts: Vec<Cut>,
}

/// The events of a stream after `floor` and up to `to`.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Which stream.
    pub stream: StreamId,
    /// The floor as it was seen.
    pub floor: Seq,
    /// The floor as it shall be.
    pub to: Seq,
    /// What the reducer made of all events up to `to`; ignored where there is none.
    pub checkpoint: Checkpoint,
}

/// A fold up to a floor.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// The oldest version of the reducer that had a part in it.
    pub fold: i64,
    /// The state.
    pub state: Option<String>,
    /// The chain.
    pub chain: Chain,
}

impl Prune {
    /// Events that go.
    pub(in crate::store) fn events(&self) -> usize {
        let events = |cut: &Cut| usize::try_from(cut.to.0 - cut.floor.0).unwrap_or(0);
        self.cuts.iter().map(events).sum()
    }
}

/// Events that are walked past at most to find what goes beyond an amount: a read that lasts keeps the WAL
/// from beginning anew.
pub const WALKED_MAX: usize = 50_000;

/// What a transaction did, for whoever counts.
pub struct Commit {
    /// From its begin until it was durable.
    pub took: Duration,
    /// Of that, until the log of the file was synced; none where a server does that.
    pub synced: Option<Duration>,
    /// Events stored.
    pub events: usize,
    /// Cursors moved.
    pub steps: usize,
    /// Why it failed; the process must end when the error is fatal.
    pub error: Option<Error>,
}

impl Commit {
    /// One that stored nothing.
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

/// Called after every transaction on events and cursors: in a file by the thread of the writer, on a server by
/// the task that ran it.
pub type Observer = Box<dyn Fn(Commit) + Send + Sync>;

/// What is found of a database.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// What it runs on: `Postgres 16.3`.
    pub version: String,
    /// The number of its newest tables; none when it has no tables yet.
    pub tables: Option<i64>,
    /// The newest that this binary knows.
    pub tables_known: i64,
    /// Its size, in bytes.
    pub bytes: u64,
    /// Tells its nodes from those of another one.
    pub cluster: Option<i64>,
    /// How far its clock is ahead of ours, in milliseconds; none where it is ours.
    pub clock: Option<i64>,
    /// How long an answer takes; none where there is no way to go.
    pub answers_in: Option<Duration>,
    /// Connections in use, and how many there may be.
    pub connections: Option<(i64, i64)>,
    /// Whether a pooler gives connections a session for one transaction only.
    pub shares_sessions: bool,
    /// The look for damage; none where there is nothing yet.
    pub damage: Option<DamageCheck>,
}

/// The result of a look for damage.
#[derive(Clone, Debug, Default)]
pub struct DamageCheck {
    /// Whether every page was read; none where a server does that.
    pub all_pages: Option<bool>,
    /// Events compared with their checksums.
    pub events: u64,
    /// Those of them that are not as they were stored.
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

/// Tells one past of a server from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Its own number: drawn when it was made, and taken over by its standbys.
    pub system: i64,
    /// Grows when a standby takes its place.
    pub timeline: i64,
}

impl History {
    /// Whether this is what a server was before `other`: one that somebody should have stopped.
    pub fn is_before(self, other: Self) -> bool {
        self.system == other.system && self.timeline < other.timeline
    }
}

/// An event that was stored, and that its sender may have been told of.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// Its id.
    pub id: EventId,
    /// Its hook.
    pub hook: HookId,
    /// Its stream.
    pub stream: StreamId,
    /// Its place there.
    pub seq: Seq,
}

/// How events are best given to the store.
#[derive(Clone, Copy, Debug)]
pub struct Committers {
    /// How many may store events side by side; a stream belongs to one of them.
    pub count: usize,
    /// Batches that one of them may have with the store at once, so that it never waits for the next.
    pub batches: usize,
}
