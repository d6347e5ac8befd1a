//! The threads that fold, the budget of a turn, and the deadline for calls that cannot be ended.
//!
//! Scripts may compute for as long as they are let, so folding has threads of its own. Each event
//! is marked as it begins. When a mark stays where it is for a second although its thread had the
//! chance to run, the thread is given up and another takes its place; what it had folded of that
//! stream is folded again, which gives the same, since folding is deterministic.
//!
//! ```text
//! fold ──▶ queue ──▶ thread: task by task, event by event ──▶ what was folded
//!   └─ looks at the mark every 100 ms ── 10 times the same ──▶ Stuck, a new thread
//! ```

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::builtin::{Append, Count, Document, Latest};
use super::script::{ByScript, Scripts};
use super::{Failure, Folded, Reduce, Task, Unable, printable};
use crate::domain::cursor::{Applied, DeadLetter};
use crate::domain::event::Event;
use crate::domain::hook::{OnError, Reducer};

/// How often the mark of a batch is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often in a row it may be found unmoved. Counting looks instead of time keeps a machine that
/// was halted for a while from calling its threads stuck.
const LOOKS_MAX: u32 = 10;

/// The stack of a thread in bytes: what scripts may use, and room for the engine itself.
const STACK: usize = 4 * 1024 * 1024;

/// A handle to the threads that fold. They end when the last handle is gone.
#[derive(Clone)]
pub struct Folds {
    queue: mpsc::Sender<Arc<Batch>>,
    waiting: Waiting,
    stuck: Arc<AtomicUsize>,
}

/// When folding ends although there is more to fold. The first event is always tried.
#[derive(Clone)]
pub struct Budget {
    /// After this long.
    pub time: Duration,
    /// When this says so, asked after each event.
    pub until: Option<Until>,
}

/// Whether to go no further, by how many events of the task are folded.
pub type Until = Arc<dyn Fn(usize) -> bool + Send + Sync>;

impl From<Duration> for Budget {
    fn from(time: Duration) -> Self {
        Self { time, until: None }
    }
}

type Waiting = Arc<Mutex<mpsc::Receiver<Arc<Batch>>>>;

/// The tasks of one turn.
struct Batch {
    tasks: Vec<Task>,
    budget: Budget,
    mark: Mark,
    progress: Mutex<Progress>,
}

struct Progress {
    /// What was folded, in the order of the tasks.
    folded: Vec<Folded>,
    /// Takes the word that this is all; none once the thread was given up.
    done: Option<oneshot::Sender<()>>,
}

impl Folds {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// The system has no room for another thread.
    pub fn start(threads: usize) -> io::Result<Self> {
        let (queue, waiting) = mpsc::channel();
        let folds = Self {
            queue,
            waiting: Arc::new(Mutex::new(waiting)),
            stuck: Arc::default(),
        };
        for _ in 0..threads.max(1) {
            folds.start_thread()?;
        }
        Ok(folds)
    }

    /// How many threads are lost to calls that have not come back. They still use processors: with
    /// several of them the daemon had better stop and start again.
    pub fn stuck(&self) -> usize {
        self.stuck.load(Relaxed)
    }

    /// Folds the tasks one after the other until they are done or `budget` is spent; the answer has
    /// one entry for each, in their order. A task that was not reached has passed nothing and has no
    /// failure. The first event is always tried. May be dropped: the fold then ends unheard.
    pub async fn fold(&self, tasks: Vec<Task>, budget: impl Into<Budget>) -> Vec<Folded> {
        let (done, mut is_done) = oneshot::channel();
        let batch = Arc::new(Batch::new(tasks, budget.into(), done));
        // It cannot fail: the other end is in `waiting`.
        let _ = self.queue.send(Arc::clone(&batch));
        let mut folded = match timeout(LOOK_EVERY, &mut is_done).await {
            Ok(_) => std::mem::take(&mut batch.progress.lock().folded),
            // On its own, so that a lost thread is replaced even if nobody waits for this answer.
            Err(_) => tokio::spawn(self.clone().watch(Arc::clone(&batch), is_done))
                .await
                .unwrap_or_default(),
        };
        let rest = &batch.tasks[folded.len()..];
        folded.extend(rest.iter().map(Folded::nothing));
        folded
    }

    /// Waits for what is folded, or gives the thread up.
    fn watch(
        self,
        batch: Arc<Batch>,
        mut is_done: oneshot::Receiver<()>,
    ) -> BoxFuture<'static, Vec<Folded>> {
        Box::pin(async move {
            let (mut seen, mut looks) = (None, 0);
            while timeout(LOOK_EVERY, &mut is_done).await.is_err() {
                let place = batch.mark.get();
                looks = if place == seen { looks + 1 } else { 0 };
                seen = place;
                if let Some(place) = place
                    && looks >= LOOKS_MAX
                    && let Some(folded) = batch.give_up(place)
                {
                    return self.replace(&batch, place, folded).await;
                }
            }
            std::mem::take(&mut batch.progress.lock().folded)
        })
    }

    /// Replaces the thread that is stuck, and folds again what it had folded of that stream.
    async fn replace(&self, batch: &Batch, place: Place, mut folded: Vec<Folded>) -> Vec<Folded> {
        self.stuck.fetch_add(1, Relaxed);
        if let Err(error) = self.start_thread() {
            tracing::error!(%error, "no thread to replace one that is stuck");
        }
        let task = &batch.tasks[place.task];
        tracing::error!(reducer = %task.reducer, "a fold is stuck; its thread is lost");
        let before = Task {
            events: task.events[..place.event].to_vec(),
            ..task.clone()
        };
        for mut again in self.fold(vec![before], Duration::MAX).await {
            again.failure.get_or_insert_with(|| {
                Failure::Stuck(format!(
                    "{}: a call inside the engine did not come back for a second",
                    task.reducer
                ))
            });
            folded.push(again);
        }
        folded
    }

    fn start_thread(&self) -> io::Result<()> {
        let (waiting, stuck) = (Arc::clone(&self.waiting), Arc::clone(&self.stuck));
        thread::Builder::new()
            .name("fold".to_owned())
            .stack_size(STACK)
            .spawn(move || work(&waiting, &stuck))
            .map(drop)
    }
}

/// Folds batches until there is no handle any more, or until this thread was given up.
fn work(waiting: &Waiting, stuck: &AtomicUsize) {
    let mut scripts = Scripts::default();
    loop {
        let next = waiting.lock().recv();
        let Ok(batch) = next else { return };
        if batch.fold(&mut scripts).is_err() {
            stuck.fetch_sub(1, Relaxed);
            return;
        }
    }
}

/// Nobody waits for this thread any more.
struct GivenUp;

impl Batch {
    fn new(tasks: Vec<Task>, budget: Budget, done: oneshot::Sender<()>) -> Self {
        Self {
            tasks,
            budget,
            mark: Mark::default(),
            progress: Mutex::new(Progress {
                folded: Vec::new(),
                done: Some(done),
            }),
        }
    }

    fn fold(&self, scripts: &mut Scripts) -> Result<(), GivenUp> {
        let until = Instant::now().checked_add(self.budget.time);
        for task in 0..self.tasks.len() {
            let folded = self.fold_task(task, scripts, until);
            let mut progress = self.progress.lock();
            if progress.done.is_none() {
                return Err(GivenUp);
            }
            progress.folded.push(folded);
        }
        let done = self.progress.lock().done.take().ok_or(GivenUp)?;
        let _ = done.send(());
        Ok(())
    }

    fn fold_task(&self, task: usize, scripts: &mut Scripts, until: Option<Instant>) -> Folded {
        let started = Instant::now();
        let (at, task) = (task, &self.tasks[task]);
        let mut folded = Folded::nothing(task);
        let mut reducer = begin(task, scripts);
        for (n, event) in task.events.iter().enumerate() {
            let is_first = at == 0 && n == 0;
            if !is_first && (until.is_some_and(|until| Instant::now() >= until) || self.ends(n)) {
                break;
            }
            if event.is_damaged {
                folded.failure = Some(Failure::Damaged);
                break;
            }
            self.mark.set(at, n);
            match caught(|| reducer.reduce(event)) {
                Ok(Ok(())) => folded.pass(event, Applied::Folded),
                Ok(Err(Failure::Rejected(reason))) if task.on_error == OnError::Skip => {
                    folded.skip(event, reason);
                }
                Ok(Err(failure)) | Err(failure) => {
                    folded.failure = Some(failure);
                    break;
                }
            }
        }
        folded.state = reducer.state();
        folded.took = started.elapsed();
        folded
    }

    fn ends(&self, folded: usize) -> bool {
        let until = self.budget.until.as_ref();
        until.is_some_and(|until| until(folded))
    }

    /// Takes what is folded away from the thread, if it still is where it was seen.
    fn give_up(&self, place: Place) -> Option<Vec<Folded>> {
        let mut progress = self.progress.lock();
        if self.mark.get() != Some(place) {
            return None;
        }
        progress.done.take()?;
        Some(std::mem::take(&mut progress.folded))
    }
}

impl Folded {
    fn pass(&mut self, event: &Event, applied: Applied) {
        self.chain = self.chain.next(event.id, applied);
        self.passed += 1;
    }

    fn skip(&mut self, event: &Event, reason: String) {
        let seq = event.seq;
        self.skipped.push(DeadLetter { seq, reason });
        self.pass(event, Applied::Skipped);
    }
}

/// The task's reducer at the task's state.
fn begin<'a>(task: &'a Task, scripts: &'a mut Scripts) -> Box<dyn Reduce + 'a> {
    let state = task.state.clone();
    let begun: Result<Box<dyn Reduce>, Failure> = match &task.reducer {
        Reducer::Latest => Ok(Box::new(Latest { state })),
        Reducer::Count => Count::new(state.as_deref()).map(boxed),
        Reducer::Append(max) => Append::new(*max, state.as_deref()).map(boxed),
        Reducer::Merge => Document::merged(state).map(boxed),
        Reducer::Patch => Document::patched(state).map(boxed),
        Reducer::Script(source) => {
            return Box::new(ByScript {
                scripts,
                source,
                state,
            });
        }
    };
    begun.unwrap_or_else(|why| {
        let state = task.state.clone();
        Box::new(Unable { why, state })
    })
}

fn boxed<'a>(reducer: impl Reduce + 'a) -> Box<dyn Reduce + 'a> {
    Box::new(reducer)
}

/// A panic is a bug of ours; it must cost one stream, not the thread.
fn caught<T>(reduce: impl FnOnce() -> T) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(reduce)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let reason = format!("the reducer panicked: {}", text.unwrap_or("unknown"));
        Failure::Rejected(printable(&reason))
    })
}

/// Which event of which task is being folded.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    task: usize,
    event: usize,
}

/// Where a thread is, for others to see.
struct Mark(AtomicU64);

impl Default for Mark {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Mark {
    fn set(&self, task: usize, event: usize) {
        self.0.store((task as u64) << 32 | event as u64, Relaxed);
    }

    /// None before the first event.
    fn get(&self) -> Option<Place> {
        let mark = self.0.load(Relaxed);
        (mark != u64::MAX).then_some(Place {
            task: (mark >> 32) as usize,
            event: (mark & u64::from(u32::MAX)) as usize,
        })
    }
}
