//! The one thread that stores events and moves cursors: whatever gathered while the last transaction
//! was synced goes into the next one. No timer, no target size.
//!
//! Items are independent: a duplicate or a lost compare-and-set is an outcome, not an error. After an
//! unexpected error everything is rolled back and the items run again one by one, so that a single bad
//! one fails alone. What is kept in memory (heads, the tail) changes only after the commit.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::{Mutex, oneshot};

use super::super::sqlite;
use super::checkpoint::Checkpointer;
use super::known::Known;
use super::tail::Tail;
use crate::domain::event::{Event, EventId, StreamId};
use crate::domain::hook::HookId;
use crate::domain::lane::Slot;
use crate::domain::name::OrderingKey;
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;
use crate::store::Error;
use crate::store::backend::ops::{Advance, Appended, Commit, NewEvent, Observer, Prune, Step};
use crate::store::cursors;
use crate::store::prune;

/// Events and steps that go into one transaction; what exceeds it goes first next time.
const ITEMS_MAX: usize = 1536;

/// Rows of the log after which a run of its index begins. The more, the more rows of a stream come to
/// stand on one page: what an index costs is the pages it changes.
const RUN_ROWS: usize = 65_536;

/// Rows of a run that go into the file with each commit, beside [`RUN_PACE`].
const RUN_STEP: usize = 64;

/// Rows of a run for each event of the commit they go with. More than one, so that a run ends before
/// the next begins.
const RUN_PACE: usize = 4;

/// Bytes of events after which the WAL is copied into the file. Few, because the sync of a copy holds up
/// the syncs of the commits beside it by as long as it has to write, 14 ms for 32 MiB.
const CHECKPOINT_BYTES: usize = 1024 * 1024;

/// What a row costs beside its body and headers, in bytes: of a step, all it costs.
const ROW_BYTES: usize = 200;

/// What a commit costs beside its rows, in bytes: some pages change however little is in it.
const COMMIT_BYTES: usize = 16 * 1024;

/// What the removal of an event costs, in rows: it is in the log and in three indexes, each elsewhere.
const PRUNED_ROWS: usize = 4;

/// How long the log must rest before the rows that are left are indexed.
const REST: Duration = Duration::from_millis(500);

/// How long the thread stays awake for the next operation while it is busy: about what waking it takes.
const ALERT: Duration = Duration::from_micros(60);

/// Streams whose head is kept in memory; when there are more, all are read again as they come.
const STREAMS_KEPT_MAX: usize = 100_000;

enum Op {
    /// A batch that is gathered only now that its transaction begins.
    Gather(Batch, Answer<Vec<Appended>>),
    Append(Vec<NewEvent>, Answer<Vec<Appended>>),
    Advance(Vec<Step>, Answer<Vec<Advance>>),
    Prune(Prune, Answer<Vec<bool>>),
    Index(Answer<()>),
    Stop(oneshot::Sender<()>),
}

type Batch = Box<dyn FnOnce() -> Vec<NewEvent> + Send>;

type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// What one [`Op`] led to, before it is committed.
enum Done {
    Appended(Vec<Appended>),
    Advanced(Vec<Advance>),
    Pruned(Vec<bool>),
}

/// Gives work to the thread.
#[derive(Clone)]
pub struct Handle {
    ops: Sender<Op>,
    /// Raised before streams are deleted behind the thread's back.
    deletions: Arc<AtomicU64>,
}

impl Handle {
    pub fn append(
        &self,
        batch: Batch,
    ) -> impl Future<Output = Result<Vec<Appended>, Error>> + Send + use<> {
        self.ask(|answer| Op::Gather(batch, answer))
    }

    pub fn advance(
        &self,
        steps: Vec<Step>,
    ) -> impl Future<Output = Result<Vec<Advance>, Error>> + Send + use<> {
        self.ask(|answer| Op::Advance(steps, answer))
    }

    pub async fn prune(&self, prune: Prune) -> Result<Vec<bool>, Error> {
        self.ask(|answer| Op::Prune(prune, answer)).await
    }

    /// Brings the index of the log to its end.
    pub async fn index(&self) -> Result<(), Error> {
        self.ask(Op::Index).await
    }

    /// Makes the thread read streams again; called by who deletes some, while nobody else may write.
    pub fn streams_deleted(&self) {
        self.deletions.fetch_add(1, Ordering::Release);
    }

    pub async fn stop(&self) {
        let (stopped, wait) = oneshot::channel();
        if self.ops.send(Op::Stop(stopped)).is_ok() {
            let _ = wait.await;
        }
    }

    /// Takes a place in the order now; the answer comes when it is awaited.
    fn ask<T: Send, O: FnOnce(Answer<T>) -> Op>(
        &self,
        op: O,
    ) -> impl Future<Output = Result<T, Error>> + Send + use<T, O> {
        let (answer, wait) = oneshot::channel();
        // When the thread is gone, so is the other end of the answer.
        let _ = self.ops.send(op(answer));
        async move { wait.await.map_err(|_| Error::Closed)? }
    }
}

/// Starts the thread, after it has indexed what the last process left unindexed.
pub fn start(
    db: Connection,
    (tail, known): (Arc<Tail>, Arc<Known>),
    turn_to_write: Arc<Mutex<()>>,
    checkpointer: Checkpointer,
    observer: Arc<Observer>,
) -> Result<Handle, Error> {
    let (ops, received) = mpsc::channel();
    let deletions = Arc::new(AtomicU64::new(0));
    let indexed = db.query_row(
        "select value from counters where name = 'indexed'",
        [],
        |row| row.get(0),
    )?;
    let last: Option<i64> = db.query_row("select max(n) from log", [], |row| row.get(0))?;
    let mut writer = Writer {
        db,
        next_n: last.unwrap_or(0).max(indexed) + 1,
        indexed,
        unindexed: Vec::new(),
        run: None,
        uncopied: 0,
        is_busy: false,
        synced: None,
        streams: HashMap::new(),
        deletions_seen: 0,
        deletions: deletions.clone(),
        tail,
        known,
        turn_to_write,
        checkpointer,
        observer,
    };
    writer.catch_up()?;
    std::thread::Builder::new()
        .name("store".into())
        .spawn(move || writer.run(&received))
        .map_err(|error| Error::Refused(format!("no thread for the store: {error}")))?;
    Ok(Handle { ops, deletions })
}

/// A stream as the next transaction will find it. Its row is moved when the log is indexed; until then
/// the tail knows its head.
struct Head {
    id: StreamId,
    slot: Slot,
    head: Seq,
}

struct Writer {
    db: Connection,
    next_n: i64,
    /// The newest row of the log that the index knows.
    indexed: i64,
    /// The rows after it and after those of the run, in the order of the log.
    unindexed: Vec<Unindexed>,
    /// What is being indexed, some rows with each commit.
    run: Option<Run>,
    /// Bytes stored since the WAL was last asked to be copied.
    uncopied: usize,
    /// Whether the last commit was for several.
    is_busy: bool,
    /// How long the log was written and synced for the transaction that runs.
    synced: Option<Duration>,
    streams: HashMap<(HookId, OrderingKey), Head>,
    deletions_seen: u64,
    deletions: Arc<AtomicU64>,
    tail: Arc<Tail>,
    known: Arc<Known>,
    turn_to_write: Arc<Mutex<()>>,
    checkpointer: Checkpointer,
    observer: Arc<Observer>,
}

impl Writer {
    fn run(mut self, received: &Receiver<Op>) {
        loop {
            let first = match self.next(received) {
                Ok(op) => op,
                Err(RecvTimeoutError::Timeout) => {
                    self.index_and_report();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match gather(first, received) {
                (ops, None) => self.serve(ops),
                (ops, Some(After::Index(answer))) => {
                    self.serve(ops);
                    let _ = answer.send(self.index());
                }
                (ops, Some(After::Stop(stopped))) => {
                    self.serve(ops);
                    self.index_and_report();
                    let Self {
                        db, checkpointer, ..
                    } = self;
                    drop(checkpointer);
                    // A WAL that cannot be copied now is copied by the next start.
                    let _ = sqlite::checkpoint(&db);
                    drop(db);
                    let _ = stopped.send(());
                    return;
                }
            }
        }
    }

    /// The next operation. After a commit for several it comes sooner than a thread that sleeps is awake.
    fn next(&self, received: &Receiver<Op>) -> Result<Op, RecvTimeoutError> {
        let alert_until = Instant::now() + ALERT;
        while self.is_busy && Instant::now() < alert_until {
            match received.try_recv() {
                Ok(op) => return Ok(op),
                Err(TryRecvError::Empty) => std::thread::yield_now(),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
            }
        }
        received.recv_timeout(self.patience())
    }

    /// Waits for ever while there is nothing to index: an idle log costs nothing.
    fn patience(&self) -> Duration {
        match self.unindexed.is_empty() && self.run.is_none() {
            true => Duration::from_secs(3600),
            false => REST,
        }
    }

    /// Commits `ops` together, or, when that fails, each alone.
    fn serve(&mut self, ops: Vec<Op>) {
        if ops.is_empty() {
            return;
        }
        // On busy cores the requests that are ready go first, and the commit is for more of them.
        std::thread::yield_now();
        let ops: Vec<_> = ops.into_iter().map(Op::gathered).collect();
        self.is_busy = ops.iter().map(Op::items).sum::<usize>() > 1;
        match self.commit(&ops) {
            Ok(done) => answer_all(ops, done, &self.known),
            Err(error) if error.is_fatal() || error.is_passing() => {
                for op in ops {
                    refuse(op, error.again());
                }
            }
            Err(error) => match <[Op; 1]>::try_from(ops) {
                Ok([op]) => self.serve_apart(op, &error),
                Err(ops) => ops.into_iter().for_each(|op| self.serve(vec![op])),
            },
        }
        if self.run.is_none() && self.unindexed.len() >= RUN_ROWS {
            self.run = Run::of(std::mem::take(&mut self.unindexed));
        }
    }

    /// Runs the items of one refused operation each alone, where they are independent.
    fn serve_apart(&mut self, op: Op, error: &Error) {
        let Op::Append(batch, answer) = op else {
            return refuse(op, error.again());
        };
        let mut appended = Vec::with_capacity(batch.len());
        for event in batch {
            let (alone, _) = oneshot::channel();
            match self.commit(&[Op::Append(vec![event], alone)]) {
                Ok(done) => appended.extend(done.into_iter().flat_map(|done| match done {
                    Done::Appended(one) => one,
                    Done::Advanced(_) | Done::Pruned(_) => Vec::new(),
                })),
                Err(Error::Integrity(_)) => appended.push(Appended::Refused),
                Err(error) => return drop(answer.send(Err(error))),
            }
        }
        let _ = answer.send(Ok(appended));
    }

    fn commit(&mut self, ops: &[Op]) -> Result<Vec<Done>, Error> {
        let turn_to_write = self.turn_to_write.clone();
        let _turn = turn_to_write.blocking_lock();
        let began = Instant::now();
        let mut events = Vec::new();
        let mut run = self.run.take();
        let before = run.as_ref().map(|run| run.at);
        let result = self.transact(ops, run.as_mut(), &mut events);
        let steps = ops.iter().map(Op::steps).sum();
        let error = result.as_ref().err().map(Error::again);
        let committed = if error.is_some() { 0 } else { events.len() };
        if error.is_some() {
            self.roll_back();
            self.run = run.zip(before).map(|(run, at)| Run { at, ..run });
        } else {
            self.next_n += i64::try_from(events.len()).unwrap_or(0);
            self.unindexed.extend(events.iter().map(Unindexed::of));
            let pruned: usize = ops.iter().map(Op::pruned).sum();
            self.count_bytes(&events, steps + PRUNED_ROWS * pruned);
            self.tail.push(events.into_iter());
            self.indexed_as_far_as(run);
        }
        (self.observer)(Commit {
            took: began.elapsed(),
            synced: self.synced.take(),
            events: committed,
            steps,
            error,
        });
        result
    }

    fn transact(
        &mut self,
        ops: &[Op],
        run: Option<&mut Run>,
        events: &mut Vec<(i64, Arc<Event>)>,
    ) -> Result<Vec<Done>, Error> {
        if ops.iter().all(|op| op.items() == 0) {
            return Ok(ops.iter().map(Op::nothing_done).collect());
        }
        self.see_deletions();
        self.db.prepare_cached("begin immediate")?.execute([])?;
        let mut done = Vec::with_capacity(ops.len());
        for op in ops {
            done.push(match op {
                Op::Append(batch, _) => Done::Appended(self.append(batch, events)?),
                Op::Advance(steps, _) => Done::Advanced(cursors::advance(&self.db, steps)?),
                Op::Prune(prune, _) => Done::Pruned(prune::prune(&self.db, prune, self.indexed)?),
                Op::Gather(..) | Op::Index(_) | Op::Stop(_) => continue,
            });
        }
        if let Some(run) = run {
            run.step(&self.db, RUN_STEP + RUN_PACE * events.len())?;
        }
        let began = Instant::now();
        self.db.prepare_cached("commit")?.execute([])?;
        self.synced = Some(began.elapsed());
        Ok(done)
    }

    /// Notes what a commit added to the WAL, and has the WAL copied when it is long.
    fn count_bytes(&mut self, events: &[(i64, Arc<Event>)], rows: usize) {
        let bytes = |(_, event): &(i64, Arc<Event>)| event.body.len() + event.headers.len();
        self.uncopied += events.iter().map(bytes).sum::<usize>();
        self.uncopied += (events.len() + rows) * ROW_BYTES + COMMIT_BYTES;
        if self.uncopied >= CHECKPOINT_BYTES {
            self.uncopied = 0;
            self.checkpointer.wake();
        }
    }

    /// Takes back a run whose step is committed, or what it means that it was the last.
    fn indexed_as_far_as(&mut self, run: Option<Run>) {
        match run {
            Some(run) if run.is_done() => {
                self.indexed = run.last;
                self.tail.indexed(run.last);
            }
            other => self.run = other,
        }
    }

    fn roll_back(&mut self) {
        self.streams.clear();
        if !self.db.is_autocommit() {
            let _ = self.db.execute_batch("rollback");
        }
    }

    fn see_deletions(&mut self) {
        let deletions = self.deletions.load(Ordering::Acquire);
        if deletions != self.deletions_seen || self.streams.len() > STREAMS_KEPT_MAX {
            self.deletions_seen = deletions;
            self.streams.clear();
        }
    }

    fn append(
        &mut self,
        batch: &[NewEvent],
        events: &mut Vec<(i64, Arc<Event>)>,
    ) -> Result<Vec<Appended>, Error> {
        let db = &self.db;
        let mut insert = db.prepare_cached(INSERT)?;
        let mut appended = Vec::with_capacity(batch.len());
        for new in batch {
            let n = self.next_n + i64::try_from(events.len()).unwrap_or(0);
            let one = match numbered(db, &mut self.streams, &self.tail, new)? {
                Err(not_new) => not_new,
                Ok(head) => {
                    let event = new.at(head.id, Seq(head.head.0 + 1));
                    put(&mut insert, n, &event)?;
                    head.head = event.seq;
                    events.push((n, Arc::new(event)));
                    Appended::New {
                        stream: head.id,
                        seq: head.head,
                        slot: head.slot,
                    }
                }
            };
            appended.push(one);
        }
        Ok(appended)
    }

    fn index_and_report(&mut self) {
        if let Err(error) = self.index() {
            (self.observer)(Commit::failed(error));
        }
    }

    /// Indexes what the last process left behind, in bounded batches.
    fn catch_up(&mut self) -> Result<(), Error> {
        loop {
            self.unindexed = unindexed_rows(&self.db, self.indexed)?;
            if self.unindexed.is_empty() {
                return Ok(());
            }
            self.index()?;
        }
    }

    /// Brings the index to the end of the log.
    fn index(&mut self) -> Result<(), Error> {
        loop {
            let begun = self.run.take();
            let Some(run) = begun.or_else(|| Run::of(std::mem::take(&mut self.unindexed))) else {
                return Ok(());
            };
            self.finish(run)?;
        }
    }

    /// Takes what is left of a run into the file at once.
    fn finish(&mut self, mut run: Run) -> Result<(), Error> {
        let turn_to_write = self.turn_to_write.clone();
        // At start there is no runtime yet that could be blocked, and nobody else who writes.
        let _turn = turn_to_write.try_lock();
        let _turn = match _turn {
            Ok(turn) => turn,
            Err(_) => turn_to_write.blocking_lock(),
        };
        let before = run.at;
        let result = self.put_rest(&mut run);
        if result.is_err() {
            self.roll_back();
            self.run = Some(Run { at: before, ..run });
        } else {
            self.indexed_as_far_as(Some(run));
        }
        result
    }

    fn put_rest(&self, run: &mut Run) -> Result<(), Error> {
        self.db.execute_batch("begin immediate")?;
        run.step(&self.db, usize::MAX)?;
        self.db.execute_batch("commit")?;
        Ok(())
    }
}

/// What must wait until the gathered work is committed.
enum After {
    Index(Answer<()>),
    Stop(oneshot::Sender<()>),
}

/// Takes what has gathered, in order and up to the limit.
fn gather(first: Op, received: &Receiver<Op>) -> (Vec<Op>, Option<After>) {
    let mut ops = Vec::new();
    let mut items = 0;
    let mut next = Some(first);
    while let Some(op) = next {
        match op {
            Op::Index(answer) => return (ops, Some(After::Index(answer))),
            Op::Stop(stopped) => return (ops, Some(After::Stop(stopped))),
            work => {
                items += work.items();
                ops.push(work);
            }
        }
        next = if items < ITEMS_MAX {
            received.try_recv().ok()
        } else {
            None
        };
    }
    (ops, None)
}

impl Op {
    /// Takes what has gathered for a batch until now.
    fn gathered(self) -> Self {
        match self {
            Self::Gather(batch, answer) => Self::Append(batch(), answer),
            other => other,
        }
    }

    fn items(&self) -> usize {
        match self {
            Self::Append(batch, _) => batch.len(),
            Self::Advance(steps, _) => steps.len(),
            Self::Prune(prune, _) => prune.events(),
            Self::Gather(..) | Self::Index(_) | Self::Stop(_) => 0,
        }
    }

    fn nothing_done(&self) -> Done {
        match self {
            Self::Advance(..) => Done::Advanced(Vec::new()),
            Self::Prune(prune, _) => Done::Pruned(vec![false; prune.cuts.len()]),
            _ => Done::Appended(Vec::new()),
        }
    }

    fn pruned(&self) -> usize {
        match self {
            Self::Prune(prune, _) => prune.events(),
            _ => 0,
        }
    }

    fn steps(&self) -> usize {
        match self {
            Self::Advance(steps, _) => steps.len(),
            _ => 0,
        }
    }
}

fn answer_all(ops: Vec<Op>, done: Vec<Done>, known: &Known) {
    for pair in ops.into_iter().zip(done) {
        match pair {
            (Op::Append(_, answer), Done::Appended(appended)) => drop(answer.send(Ok(appended))),
            (Op::Advance(steps, answer), Done::Advanced(moved)) => {
                steps
                    .into_iter()
                    .zip(&moved)
                    .filter(|(_, moved)| **moved == Advance::Moved)
                    .filter_map(|(step, _)| step.cursor_after())
                    .for_each(|cursor| known.put(cursor));
                drop(answer.send(Ok(moved)));
            }
            (Op::Prune(_, answer), Done::Pruned(pruned)) => drop(answer.send(Ok(pruned))),
            (op, _) => refuse(op, Error::Closed),
        }
    }
}

fn refuse(op: Op, error: Error) {
    match op {
        Op::Gather(_, answer) | Op::Append(_, answer) => drop(answer.send(Err(error))),
        Op::Advance(_, answer) => drop(answer.send(Err(error))),
        Op::Prune(_, answer) => drop(answer.send(Err(error))),
        Op::Index(answer) => drop(answer.send(Err(error))),
        Op::Stop(_) => {}
    }
}

/// The stream of an event, made when it is the first. None when its hook is gone.
fn find_or_create(db: &Connection, new: &NewEvent) -> Result<Option<Head>, Error> {
    const FIND: &str = "select s.id, s.slot, s.head from streams s
        join hooks h on h.id = s.hook and h.deleted_at is null
        where s.hook = ?1 and s.ordering_key = ?2";
    const CREATE: &str = "insert into streams (hook, ordering_key, slot, created_at)
        select id, ?2, ?3, ?4 from hooks where id = ?1 and deleted_at is null
        returning id";
    let key = new.key.as_str();
    let found = db
        .prepare_cached(FIND)?
        .query_row(params![new.hook.0, key], |row| {
            Ok(Head {
                id: StreamId(row.get(0)?),
                slot: Slot(row.get(1)?),
                head: Seq(row.get(2)?),
            })
        })
        .optional()?;
    if found.is_some() {
        return Ok(found);
    }
    let created = params![new.hook.0, key, new.slot.0, new.received_at.as_millis()];
    let id = db
        .prepare_cached(CREATE)?
        .query_row(created, |row| row.get(0))
        .optional()?;
    Ok(id.map(|id| Head {
        id: StreamId(id),
        slot: new.slot,
        head: Seq(0),
    }))
}

fn find_duplicate(
    db: &Connection,
    stream: StreamId,
    dedupe_key: Option<&str>,
) -> Result<Option<Appended>, Error> {
    const FIND: &str = "select id, seq, received_at from log where stream = ?1 and dedupe_key = ?2";
    let Some(dedupe_key) = dedupe_key else {
        return Ok(None);
    };
    let first = db
        .prepare_cached(FIND)?
        .query_row(params![stream.0, dedupe_key], |row| {
            Ok(Appended::Duplicate {
                id: EventId::from_bytes(row.get(0)?),
                seq: Seq(row.get(1)?),
                received_at: Timestamp::from_millis(row.get(2)?),
            })
        });
    Ok(first.optional()?)
}

const INSERT: &str = "insert into log
    (n, stream, seq, id, received_at, key_id, dedupe_key, headers, body)
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

fn put(insert: &mut rusqlite::Statement<'_>, n: i64, event: &Event) -> Result<(), Error> {
    insert.execute(params![
        n,
        event.stream.0,
        event.seq.0,
        event.id.as_bytes(),
        event.received_at.as_millis(),
        event.key_id,
        event.dedupe_key,
        &*event.headers,
        &*event.body,
    ])?;
    Ok(())
}

/// The head of the event's stream, which it is about to move; or why it moves none.
fn numbered<'h>(
    db: &Connection,
    streams: &'h mut HashMap<(HookId, OrderingKey), Head>,
    tail: &Tail,
    new: &NewEvent,
) -> Result<Result<&'h mut Head, Appended>, Error> {
    let head = match streams.entry((new.hook, new.key.clone())) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(unknown) => match find_or_create(db, new)? {
            Some(mut head) => {
                head.head = head.head.max(tail.last(head.id).unwrap_or_default());
                unknown.insert(head)
            }
            None => return Ok(Err(Appended::Gone)),
        },
    };
    let duplicate = find_duplicate(db, head.id, new.dedupe_key.as_deref())?;
    Ok(duplicate.map_or(Ok(head), Err))
}

/// A row of the log that the index does not know.
struct Unindexed {
    n: i64,
    stream: i64,
    seq: i64,
    id: [u8; 16],
}

impl Unindexed {
    fn of((n, event): &(i64, Arc<Event>)) -> Self {
        Self {
            n: *n,
            stream: event.stream.0,
            seq: event.seq.0,
            id: *event.id.as_bytes(),
        }
    }
}

/// Rows of the log on their way into its index: first all by stream, with the heads that they move, then
/// all by id. Sorted, so that a page is changed in one go.
///
/// Rows that are in already are no error: a process that ended within a run begins it again, with more.
struct Run {
    places: Vec<Unindexed>,
    ids: Vec<([u8; 16], i64)>,
    /// How many of both are in the file.
    at: usize,
    /// The newest row of the log in it.
    last: i64,
}

impl Run {
    /// None when there are no rows.
    fn of(mut places: Vec<Unindexed>) -> Option<Self> {
        let last = places.iter().map(|row| row.n).max()?;
        let mut ids: Vec<_> = places.iter().map(|row| (row.id, row.n)).collect();
        places.sort_unstable_by_key(|row| (row.stream, row.seq));
        ids.sort_unstable();
        Some(Self {
            places,
            ids,
            at: 0,
            last,
        })
    }

    fn is_done(&self) -> bool {
        self.at == self.places.len() + self.ids.len()
    }

    /// Puts in about `rows` more; with the last one the index knows them all.
    fn step(&mut self, db: &Connection, rows: usize) -> Result<(), Error> {
        let end = self.at.saturating_add(rows);
        self.put_places(db, end)?;
        self.put_ids(db, end)?;
        if self.is_done() {
            db.prepare_cached("update counters set value = ?1 where name = 'indexed'")?
                .execute([self.last])?;
        }
        Ok(())
    }

    /// Puts in places, and the head of a stream with the last of its places.
    fn put_places(&mut self, db: &Connection, end: usize) -> Result<(), Error> {
        let mut place = db.prepare_cached(PLACE)?;
        let mut head = db.prepare_cached("update streams set head = ?2 where id = ?1")?;
        while self.at < end
            && let Some(row) = self.places.get(self.at)
        {
            put_once(place.execute(params![row.stream, row.seq, row.n])?)?;
            let next = self.places.get(self.at + 1);
            if next.is_none_or(|next| next.stream != row.stream) {
                head.execute(params![row.stream, row.seq])?;
            }
            self.at += 1;
        }
        Ok(())
    }

    fn put_ids(&mut self, db: &Connection, end: usize) -> Result<(), Error> {
        let mut id = db.prepare_cached(ID)?;
        while self.at < end
            && let Some(at) = self.at.checked_sub(self.places.len())
            && let Some((bytes, n)) = self.ids.get(at)
        {
            put_once(id.execute(params![bytes, n])?)?;
            self.at += 1;
        }
        Ok(())
    }
}

const PLACE: &str = "insert into log_index (stream, seq, n) values (?1, ?2, ?3)
    on conflict (stream, seq) do update set n = n where n = excluded.n";

const ID: &str = "insert into log_ids (id, n) values (?1, ?2)
    on conflict (id) do update set n = n where n = excluded.n";

/// A doubled number or id: nobody knows which of the two is right.
fn put_once(changed: usize) -> Result<(), Error> {
    match changed {
        1 => Ok(()),
        _ => Err(Error::Io(
            "two events of the log have one number or one id".into(),
        )),
    }
}

fn unindexed_rows(db: &Connection, after: i64) -> Result<Vec<Unindexed>, Error> {
    const READ: &str = "select n, stream, seq, id from log where n > ?1 order by n limit ?2";
    let mut read = db.prepare_cached(READ)?;
    let rows = read.query_map(params![after, RUN_ROWS as i64], |row| {
        Ok(Unindexed {
            n: row.get(0)?,
            stream: row.get(1)?,
            seq: row.get(2)?,
            id: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
