//! The writer thread, the only one that stores events and moves cursors. Work that arrives while a
//! transaction is synced goes into the next one; there is no timer and no target size.
//!
//! Items of a batch are independent: a duplicate or a lost compare-and-set is an outcome, not an error.
//! After an unexpected error everything is rolled back and the items run again one by one, so that one
//! bad item fails alone. Caches (heads, the tail) change only after the commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{Mutex, oneshot};

use super::append::Heads;
use super::checkpoint::Checkpointer;
use super::cursor_cache::CursorCache;
use super::index::{RUN_ROWS, Run, Unindexed, unindexed_rows};
use super::tail::Tail;
use super::{advance, file, prune, waiting};
use crate::domain::event::Event;
use crate::store::Error;
use crate::store::backend::ops::{
    Advance, Appended, Commit, Due, NewEvent, Observer, Prune, Released, Step,
};

/// Number of events and steps in one transaction; what exceeds it goes into the next one.
const ITEMS_MAX: usize = 1536;

/// Number of rows that each commit adds to the index, besides [`RUN_PACE`].
const RUN_STEP: usize = 64;

/// Number of index rows for each event of a commit. More than one, so that an index run ends before the
/// next begins.
const RUN_PACE: usize = 4;

/// Bytes of events after which the WAL is copied into the file. Small, because the sync of a copy
/// delays the syncs of concurrent commits by the time its writing takes: 14 ms for 32 MiB.
const CHECKPOINT_BYTES: usize = 1024 * 1024;

/// Estimated bytes in the WAL of a row besides its body and headers; a step has only these.
const ROW_BYTES: usize = 200;

/// Estimated bytes in the WAL of a commit besides its rows: some pages change in every commit.
const COMMIT_BYTES: usize = 16 * 1024;

/// Cost of removing an event, in rows: it is in the log and in three indexes.
const PRUNED_ROWS: usize = 4;

/// Idle time of the log after which the remaining rows are indexed.
const REST: Duration = Duration::from_millis(500);

/// Time for which a busy thread spins before it sleeps: about as long as waking it takes.
const ALERT: Duration = Duration::from_micros(60);

enum Op {
    /// A batch that is collected when its transaction begins.
    Gather(Batch, Answer<Vec<Appended>>),
    Append(Vec<NewEvent>, Answer<Vec<Appended>>),
    Advance(Vec<Step>, Answer<Vec<Advance>>),
    Prune(Prune, Answer<Vec<bool>>),
    Release(Due, Answer<Vec<Released>>),
    Index(Answer<()>),
    Stop(oneshot::Sender<()>),
}

type Batch = Box<dyn FnOnce() -> Vec<NewEvent> + Send>;

type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// Outcome of one [`Op`], not yet committed.
enum Uncommitted {
    Appended(Vec<Appended>),
    Advanced(Vec<Advance>),
    Pruned(Vec<bool>),
    Released(Vec<Released>),
}

/// Sends work to the writer thread.
#[derive(Clone)]
pub struct Handle {
    ops: Sender<Op>,
    /// Incremented before streams are deleted by another connection.
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

    /// Stores waiting events that are due, and removes them from those that wait.
    pub async fn release(&self, due: Due) -> Result<Vec<Released>, Error> {
        self.ask(|answer| Op::Release(due, answer)).await
    }

    /// Brings the log index up to the end of the log.
    pub async fn index(&self) -> Result<(), Error> {
        self.ask(Op::Index).await
    }

    /// Makes the thread read streams again. The caller deletes some of them and holds the write lock.
    pub fn streams_deleted(&self) {
        self.deletions.fetch_add(1, Ordering::Release);
    }

    pub async fn stop(&self) {
        let (stopped, wait) = oneshot::channel();
        if self.ops.send(Op::Stop(stopped)).is_ok() {
            let _ = wait.await;
        }
    }

    /// Queues the operation now, in the order of the calls; the future waits for the answer.
    fn ask<T: Send, O: FnOnce(Answer<T>) -> Op>(
        &self,
        op: O,
    ) -> impl Future<Output = Result<T, Error>> + Send + use<T, O> {
        let (answer, wait) = oneshot::channel();
        // If the thread has ended, the answer's channel is closed too.
        let _ = self.ops.send(op(answer));
        async move { wait.await.map_err(|_| Error::Closed)? }
    }
}

/// Starts the thread, after indexing the rows that the last process left unindexed.
pub fn start(
    db: Connection,
    (tail, cursors): (Arc<Tail>, Arc<CursorCache>),
    write_lock: Arc<Mutex<()>>,
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
        heads: Heads::new(tail.clone()),
        deletions_seen: 0,
        deletions: deletions.clone(),
        tail,
        cursors,
        write_lock,
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

struct Writer {
    db: Connection,
    next_n: i64,
    /// Newest row of the log that the index has.
    indexed: i64,
    /// Rows after `indexed` and after those of `run`, in the order of the log.
    unindexed: Vec<Unindexed>,
    /// The index run under way; each commit adds some of its rows to the index.
    run: Option<Run>,
    /// Bytes stored since the checkpointer was last woken.
    uncopied: usize,
    /// True if the last commit had several items.
    is_busy: bool,
    /// Time that the current transaction spent writing and syncing the log.
    synced: Option<Duration>,
    heads: Heads,
    deletions_seen: u64,
    deletions: Arc<AtomicU64>,
    tail: Arc<Tail>,
    cursors: Arc<CursorCache>,
    write_lock: Arc<Mutex<()>>,
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
                    let indexed = self.index();
                    if let Err(error) = indexed.as_ref().map_err(Error::again)
                        && error.is_fatal()
                    {
                        (self.observer)(Commit::failed(error));
                    }
                    let _ = answer.send(indexed);
                }
                (ops, Some(After::Stop(stopped))) => {
                    self.serve(ops);
                    self.index_and_report();
                    let Self {
                        db, checkpointer, ..
                    } = self;
                    drop(checkpointer);
                    // A WAL that cannot be copied now is copied at the next start.
                    let _ = file::checkpoint(&db);
                    drop(db);
                    let _ = stopped.send(());
                    return;
                }
            }
        }
    }

    /// The next operation. After a commit with several items the thread spins for a moment, which is
    /// quicker than being woken.
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

    /// An idle log with nothing to index costs nothing: the thread sleeps for an hour.
    fn patience(&self) -> Duration {
        match self.unindexed.is_empty() && self.run.is_none() {
            true => Duration::from_secs(3600),
            false => REST,
        }
    }

    /// Commits `ops` together; if that fails, each on its own.
    fn serve(&mut self, ops: Vec<Op>) {
        if ops.is_empty() {
            return;
        }
        // On busy cores, this lets requests that are ready join the commit.
        std::thread::yield_now();
        let ops: Vec<_> = ops.into_iter().map(Op::gathered).collect();
        self.is_busy = ops.iter().map(Op::items).sum::<usize>() > 1;
        match self.commit(&ops) {
            Ok(done) => answer_all(ops, done, &self.cursors),
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

    /// Runs the events of one refused append each in its own transaction; other refused operations fail
    /// as a whole.
    fn serve_apart(&mut self, op: Op, error: &Error) {
        let Op::Append(batch, answer) = op else {
            return refuse(op, error.again());
        };
        let mut appended = Vec::with_capacity(batch.len());
        for event in batch {
            let (alone, _) = oneshot::channel();
            match self.commit(&[Op::Append(vec![event], alone)]) {
                Ok(done) => appended.extend(done.into_iter().flat_map(|done| match done {
                    Uncommitted::Appended(one) => one,
                    _ => Vec::new(),
                })),
                Err(Error::Integrity(_)) => appended.push(Appended::Refused),
                Err(error) => return drop(answer.send(Err(error))),
            }
        }
        let _ = answer.send(Ok(appended));
    }

    fn commit(&mut self, ops: &[Op]) -> Result<Vec<Uncommitted>, Error> {
        let write_lock = self.write_lock.clone();
        let _turn = write_lock.blocking_lock();
        let began = Instant::now();
        let mut events = Vec::new();
        let mut run = self.run.take();
        let before = run.as_ref().map(Run::at);
        let result = self.transact(ops, run.as_mut(), &mut events);
        let steps = ops.iter().map(Op::steps).sum();
        let error = result.as_ref().err().map(Error::again);
        let committed = if error.is_some() { 0 } else { events.len() };
        if error.is_some() {
            self.roll_back();
            self.run = run.zip(before).map(|(run, at)| run.back_to(at));
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
    ) -> Result<Vec<Uncommitted>, Error> {
        if ops.iter().all(|op| op.items() == 0) {
            return Ok(ops.iter().map(Op::nothing_done).collect());
        }
        self.see_deletions();
        self.db.prepare_cached("begin immediate")?.execute([])?;
        let mut done = Vec::with_capacity(ops.len());
        for op in ops {
            done.push(match op {
                Op::Append(batch, _) => {
                    let appended = self.heads.append(&self.db, self.next_n, batch, events)?;
                    Uncommitted::Appended(appended)
                }
                Op::Advance(steps, _) => Uncommitted::Advanced(advance::advance(&self.db, steps)?),
                Op::Prune(prune, _) => {
                    Uncommitted::Pruned(prune::prune(&self.db, prune, self.indexed)?)
                }
                Op::Release(due, _) => Uncommitted::Released(self.release(*due, events)?),
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

    /// Stores waiting events that are due, inside the open transaction.
    fn release(
        &mut self,
        due: Due,
        events: &mut Vec<(i64, Arc<Event>)>,
    ) -> Result<Vec<Released>, Error> {
        let batch = waiting::due(&self.db, due)?;
        let appended = self.heads.append(&self.db, self.next_n, &batch, events)?;
        waiting::remove(&self.db, &batch)?;
        let released = batch.iter().zip(appended);
        Ok(released.filter_map(Released::of).collect())
    }

    /// Estimates what a commit added to the WAL, and wakes the checkpointer when that is enough.
    fn count_bytes(&mut self, events: &[(i64, Arc<Event>)], rows: usize) {
        let bytes = |(_, event): &(i64, Arc<Event>)| event.body.len() + event.headers.len();
        self.uncopied += events.iter().map(bytes).sum::<usize>();
        self.uncopied += (events.len() + rows) * ROW_BYTES + COMMIT_BYTES;
        if self.uncopied >= CHECKPOINT_BYTES {
            self.uncopied = 0;
            self.checkpointer.wake();
        }
    }

    /// Resumes the index build after a committed step; after the last step the index knows the whole run.
    fn indexed_as_far_as(&mut self, run: Option<Run>) {
        match run {
            Some(run) if run.is_done() => {
                self.indexed = run.last();
                self.tail.indexed(run.last());
            }
            other => self.run = other,
        }
    }

    fn roll_back(&mut self) {
        self.heads.clear();
        if !self.db.is_autocommit() {
            let _ = self.db.execute_batch("rollback");
        }
    }

    fn see_deletions(&mut self) {
        let deletions = self.deletions.load(Ordering::Acquire);
        if deletions != self.deletions_seen || self.heads.are_too_many() {
            self.deletions_seen = deletions;
            self.heads.clear();
        }
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

    /// Brings the log index up to the end of the log.
    fn index(&mut self) -> Result<(), Error> {
        loop {
            let begun = self.run.take();
            let Some(run) = begun.or_else(|| Run::of(std::mem::take(&mut self.unindexed))) else {
                return Ok(());
            };
            self.finish(run)?;
        }
    }

    /// Adds the remaining rows of a run to the index in one transaction.
    fn finish(&mut self, mut run: Run) -> Result<(), Error> {
        let write_lock = self.write_lock.clone();
        // At the start there is no async runtime that could be blocked, and no other writer.
        let _turn = write_lock.try_lock();
        let _turn = match _turn {
            Ok(turn) => turn,
            Err(_) => write_lock.blocking_lock(),
        };
        let before = run.at();
        let result = self.put_rest(&mut run);
        if result.is_err() {
            self.roll_back();
            self.run = Some(run.back_to(before));
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

/// Operation that runs only after the gathered work is committed.
enum After {
    Index(Answer<()>),
    Stop(oneshot::Sender<()>),
}

/// Takes the operations that have gathered, in order and up to [`ITEMS_MAX`].
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
    /// Collects the batch of a [`Op::Gather`].
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
            Self::Release(..) => 1,
            Self::Gather(..) | Self::Index(_) | Self::Stop(_) => 0,
        }
    }

    fn nothing_done(&self) -> Uncommitted {
        match self {
            Self::Advance(..) => Uncommitted::Advanced(Vec::new()),
            Self::Prune(prune, _) => Uncommitted::Pruned(vec![false; prune.cuts.len()]),
            _ => Uncommitted::Appended(Vec::new()),
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

fn answer_all(ops: Vec<Op>, done: Vec<Uncommitted>, cursors: &CursorCache) {
    for pair in ops.into_iter().zip(done) {
        match pair {
            (Op::Append(_, answer), Uncommitted::Appended(appended)) => {
                drop(answer.send(Ok(appended)))
            }
            (Op::Advance(steps, answer), Uncommitted::Advanced(moved)) => {
                steps
                    .into_iter()
                    .zip(&moved)
                    .filter(|(_, moved)| **moved == Advance::Moved)
                    .filter_map(|(step, _)| step.cursor_after())
                    .for_each(|cursor| cursors.put(cursor));
                drop(answer.send(Ok(moved)));
            }
            (Op::Prune(_, answer), Uncommitted::Pruned(pruned)) => drop(answer.send(Ok(pruned))),
            (Op::Release(_, answer), Uncommitted::Released(released)) => {
                drop(answer.send(Ok(released)));
            }
            (op, _) => refuse(op, Error::Closed),
        }
    }
}

fn refuse(op: Op, error: Error) {
    match op {
        Op::Gather(_, answer) | Op::Append(_, answer) => drop(answer.send(Err(error))),
        Op::Advance(_, answer) => drop(answer.send(Err(error))),
        Op::Prune(_, answer) => drop(answer.send(Err(error))),
        Op::Release(_, answer) => drop(answer.send(Err(error))),
        Op::Index(answer) => drop(answer.send(Err(error))),
        Op::Stop(_) => {}
    }
}
