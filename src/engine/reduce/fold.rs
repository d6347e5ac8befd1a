//! The threads that fold.
//!
//! Built-in reducers run on these threads. Scripts run in processes, one for each thread that needs
//! one: the thread sends all tasks of a turn that have scripts, folds the others meanwhile, and
//! collects the results. When an event ends its process, later tasks lose this turn, and its own task
//! is folded again up to that event, which gives the same result because folding is deterministic.
//!
//! Tasks of several turns wait in `queue.rs`, by namespace; the namespace that has used least time is
//! next.
//!
//! ```text
//! fold ──▶ queue, fair among namespaces ──▶ thread ──▶ built-in: here
//!                                              └──▶ process: scripts ──▶ what was folded
//! ```

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::budget::{Budget, SharedShares, Slices};
use super::process::{EVENT_MAX, End, OVERDUE, Overtime, Piece, Process};
use super::queue::{Handle, Job, Next, Queue};
use super::script::Scripts;
use super::task::fold_task_while;
use super::{Failure, Folded, Outcome, Task};
use crate::domain::hook::{HandlerId, Reducer, Source};
use crate::engine::share::{Cost, Shares};

/// Pause of a thread after the system could not create a process.
const REST: Duration = Duration::from_secs(1);

/// Bytes of events after which no more are sent to a process at once.
const SEND_MAX: usize = 4 * 1024 * 1024;

/// Number of events of one task that are sent at once while another condition may end its turn.
const EVENTS_BETWEEN: usize = 64;

/// A handle on the threads that fold. They end when the last handle is dropped.
#[derive(Clone)]
pub struct Folds {
    queue: Arc<Handle>,
    pool: Pool,
}

/// Settings of a pool of threads.
#[derive(Clone)]
pub struct Pool {
    /// Number of threads.
    pub threads: usize,
    /// True for handlers beyond their share: these threads have a lower priority.
    pub is_slow: bool,
    /// The shares that fold time is charged to.
    pub shares: Arc<SharedShares>,
}

impl Folds {
    /// Starts a pool of `threads` threads.
    ///
    /// # Errors
    /// The system cannot create another thread.
    pub fn start(threads: usize) -> io::Result<Self> {
        Self::start_pool(Pool {
            threads,
            is_slow: false,
            shares: Arc::default(),
        })
    }

    /// Starts a pool of threads.
    ///
    /// # Errors
    /// The system cannot create another thread.
    pub fn start_pool(pool: Pool) -> io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let folds = Self {
            queue: Arc::new(Handle(Arc::clone(&queue))),
            pool: pool.clone(),
        };
        for _ in 0..pool.threads.max(1) {
            let mut folder = Folder {
                queue: Arc::clone(&queue),
                pool: pool.clone(),
                process: None,
            };
            thread::Builder::new()
                .name("fold".to_owned())
                .spawn(move || folder.run())?;
        }
        Ok(folds)
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads
    }

    /// The shares that fold time is charged to.
    pub fn shares(&self) -> &Arc<SharedShares> {
        &self.pool.shares
    }

    /// Folds the tasks until they are done or `budget` ends it. The result has one entry for each task,
    /// in order. A task that was not reached has passed nothing and has no failure; the first event is
    /// always tried. Cancel-safe: when the future is dropped, the fold's result is discarded.
    ///
    /// A damaged event ends its task before it reaches a reducer.
    pub async fn fold(&self, mut tasks: Vec<Task>, budget: impl Into<Budget>) -> Vec<Folded> {
        let cut: Vec<_> = tasks.iter_mut().map(cut_at_damage).collect();
        let mut folded = self.fold_intact(tasks, budget.into()).await;
        for (folded, cut) in folded.iter_mut().zip(cut) {
            if folded.failure.is_none() && cut == Some(folded.passed) {
                folded.failure = Some(Failure::Damaged);
            }
        }
        folded
    }

    async fn fold_intact(&self, tasks: Vec<Task>, budget: Budget) -> Vec<Folded> {
        let (done, folded) = oneshot::channel();
        let tasks = Arc::new(tasks);
        self.queue.0.put(Job {
            tasks: Arc::clone(&tasks),
            budget,
            done,
        });
        folded.await.unwrap_or_else(|_| {
            let nothing = |task| Folded::of(task, Outcome::nothing(task));
            tasks.iter().map(nothing).collect()
        })
    }
}

/// Removes the first damaged event and all later ones from a task; returns the number of events left if
/// there was one.
fn cut_at_damage(task: &mut Task) -> Option<usize> {
    let at = task.events.iter().position(|event| event.is_damaged)?;
    task.events.truncate(at);
    Some(at)
}

/// A thread that folds, with its process.
struct Folder {
    queue: Arc<Queue>,
    pool: Pool,
    process: Option<Process>,
}

/// Progress of the tasks of a job that have scripts.
struct Scripted<'j> {
    job: &'j Job,
    until: Option<Instant>,
    /// Indices of these tasks, with their scripts.
    tasks: Vec<(usize, &'j Arc<Source>)>,
    /// Number of tasks done.
    done: usize,
}

impl Folder {
    fn run(&mut self) {
        loop {
            match self.queue.next() {
                Next::Job(job) if job.done.is_closed() => {}
                Next::Job(mut job) => {
                    let began = Instant::now();
                    let sieved = job.sieve();
                    let mut folded = self.fold(&job);
                    for (folded, sieved) in folded.iter_mut().zip(sieved) {
                        if let Some(sieved) = sieved {
                            *folded = sieved.among_all(folded.clone());
                        }
                    }
                    let mut waiting = self.queue.waiting.lock();
                    waiting.fair.charge(&job.budget.of, began.elapsed());
                    drop(waiting);
                    let _ = job.done.send(folded);
                }
                Next::Nothing => self.process = None,
                Next::Closed => return,
            }
        }
    }

    fn fold(&mut self, job: &Job) -> Vec<Folded> {
        let until = Instant::now().checked_add(job.budget.time);
        let mut outcomes: Vec<_> = job.tasks.iter().map(Outcome::nothing).collect();
        let (mut scripts, mut built_in) = (Vec::new(), Vec::new());
        let is_slow = self.slow_ones(job);
        for (at, task) in job.tasks.iter().enumerate() {
            match &task.reducer {
                _ if task.events.is_empty() || is_slow(task.handler) => {}
                Reducer::Script(source) => scripts.push((at, source)),
                _ => built_in.push(at),
            }
        }
        let mut scripts = Scripted {
            job,
            until,
            tasks: scripts,
            done: 0,
        };
        let sent = self.send(&mut scripts, &outcomes);
        fold_built_in(job, &built_in, until, &mut outcomes);
        if let Some(pieces) = sent {
            self.receive(&mut scripts, pieces, &mut outcomes);
        }
        while !scripts.is_over(&outcomes)
            && let Some(pieces) = self.send(&mut scripts, &outcomes)
        {
            self.receive(&mut scripts, pieces, &mut outcomes);
        }
        self.charge(job, &outcomes);
        let tasks = job.tasks.iter().zip(outcomes);
        tasks
            .map(|(task, outcome)| Folded::of(task, outcome))
            .collect()
    }

    /// Tells which handlers must not fold here: those that lanes have left out since the turn began.
    fn slow_ones(&self, job: &Job) -> impl Fn(HandlerId) -> bool + use<> {
        let slow = |shares: &mut Shares, _| {
            let handlers = job.tasks.iter().map(|task| task.handler);
            handlers
                .filter(|handler| shares.is_left_out(*handler))
                .collect()
        };
        let slow: Vec<_> = match self.folds_for_lanes(job) {
            true => self.pool.shares.with(slow),
            false => Vec::new(),
        };
        move |handler| slow.contains(&handler)
    }

    /// Charges the time to the handlers.
    fn charge(&self, job: &Job, outcomes: &[Outcome]) {
        let Some(namespace) = &job.budget.of else {
            return;
        };
        let mut costs: HashMap<HandlerId, Cost> = HashMap::new();
        for (task, outcome) in job.tasks.iter().zip(outcomes) {
            let cost = costs.entry(task.handler).or_default();
            cost.took += outcome.took;
            cost.over += outcome.over;
            let failure = outcome.failure.as_ref();
            cost.ran_out |= failure.is_some_and(Failure::is_out_of_time);
        }
        let slower = self.pool.shares.with(|shares, now| {
            shares.clear(thread::current().id());
            let mut slower = false;
            for (handler, cost) in costs {
                slower |= shares.charge(handler, cost, now);
                if self.pool.is_slow {
                    shares.used(namespace, handler, cost.took);
                }
            }
            slower
        });
        if slower {
            self.pool.shares.slower.notify_one();
        }
    }

    /// Sends the next pieces to the process; `None` when there are none.
    fn send<'j>(
        &mut self,
        scripts: &mut Scripted<'j>,
        outcomes: &[Outcome],
    ) -> Option<Vec<(usize, Piece<'j>)>> {
        let pieces = scripts.next(outcomes);
        if pieces.is_empty() {
            return None;
        }
        let left = scripts.until.map_or(Duration::MAX, |until| {
            until.saturating_duration_since(Instant::now())
        });
        let (places, pieces): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
        // A process that died while idle is replaced.
        for _ in 0..2 {
            let slices = scripts.job.slices();
            match self
                .process()
                .map(|process| process.send(&pieces, slices, left))
            {
                None | Some(Ok(())) => break,
                Some(Err(error)) => {
                    tracing::warn!(%error, "a process that folds takes nothing");
                    self.process = None;
                }
            }
        }
        Some(places.into_iter().zip(pieces).collect())
    }

    /// The process; started if there is none.
    fn process(&mut self) -> Option<&mut Process> {
        if self.process.is_none() {
            match Process::start(self.pool.is_slow) {
                Ok(process) => self.process = Some(process),
                Err(error) => {
                    tracing::warn!(%error, "no process to fold in; it is tried again");
                    thread::sleep(REST);
                }
            }
        }
        self.process.as_mut()
    }

    /// Receives the results of the pieces that were sent.
    fn receive(
        &mut self,
        scripts: &mut Scripted<'_>,
        pieces: Vec<(usize, Piece<'_>)>,
        outcomes: &mut [Outcome],
    ) {
        let Some(process) = self.process.take() else {
            // The events are not at fault; their cursors come again.
            scripts.done = scripts.tasks.len();
            return;
        };
        let (answers, ended) = process.receive(|at, over| match pieces.get(at) {
            Some((_, piece)) => self.waits_for(scripts.job, piece.task.handler, over),
            None => true,
        });
        let mut pieces = pieces.into_iter();
        for answer in answers {
            if let Some((at, piece)) = pieces.next() {
                scripts.note(at, &piece, answer, outcomes);
            }
        }
        match ended {
            Ok(process) => self.process = Some(process),
            Err(End::Stuck(event)) => {
                if let Some((at, piece)) = pieces.next() {
                    let outcome = self.stuck(&piece, event);
                    scripts.note(at, &piece, outcome, outcomes);
                }
            }
            Err(End::GivenUp(over)) => {
                if let Some((at, piece)) = pieces.next() {
                    scripts.give_up(at, &piece, over, outcomes);
                }
            }
            Err(End::Died(why)) => {
                tracing::warn!(
                    why,
                    "a process that folds has ended; another one folds again"
                );
                if !self.folds_for_lanes(scripts.job) {
                    self.one_by_one(scripts, pieces.collect(), outcomes);
                } else if let Some((at, piece)) = pieces.next() {
                    scripts.give_up(at, &piece, Overtime::Overdue, outcomes);
                }
            }
        }
    }

    /// True if lanes wait for the turn. What takes long there is given up and folded beside them.
    fn folds_for_lanes(&self, job: &Job) -> bool {
        !self.pool.is_slow && job.budget.of.is_some()
    }

    /// True if this thread may wait for an event of a handler that takes long. Of the threads of the
    /// lanes only one may at a time, and not for an overdue one.
    fn waits_for(&self, job: &Job, handler: HandlerId, over: Overtime) -> bool {
        if !self.folds_for_lanes(job) {
            return true;
        }
        if over == Overtime::Overdue {
            return false;
        }
        let thread = thread::current().id();
        let waits = (self.pool.shares).with(|shares, _| shares.suspect(handler, thread));
        self.pool.shares.slower.notify_one();
        waits
    }

    /// The outcome of a piece with an event that does not end: the events before it are folded again.
    fn stuck(&mut self, piece: &Piece<'_>, event: usize) -> Outcome {
        let mut outcome = Outcome {
            state: piece.state.clone(),
            ..Outcome::default()
        };
        if event > 0 {
            outcome.add(self.fold_again(piece, &outcome, event));
        }
        if outcome.failure.is_none() && outcome.passed == event {
            outcome.fail(Failure::stuck(&piece.task.reducer));
        }
        outcome
    }

    /// Folds pieces whose process died for an unknown reason, event by event.
    fn one_by_one(
        &mut self,
        scripts: &mut Scripted<'_>,
        pieces: Vec<(usize, Piece<'_>)>,
        outcomes: &mut [Outcome],
    ) {
        for (nth, (at, piece)) in pieces.into_iter().enumerate() {
            let mut outcome = Outcome {
                state: piece.state.clone(),
                ..Outcome::default()
            };
            while outcome.passed < piece.to - piece.from && outcome.failure.is_none() {
                let is_first = nth == 0 && outcome.passed == 0;
                if !is_first && scripts.is_late() {
                    break;
                }
                let next = self.fold_again(&piece, &outcome, outcome.passed + 1);
                outcome.add(next);
            }
            scripts.note(at, &piece, outcome, outcomes);
        }
    }

    /// Folds the events of a piece after `outcome` and before `to`. If the process dies twice, the
    /// event is at fault.
    fn fold_again(&mut self, piece: &Piece<'_>, outcome: &Outcome, to: usize) -> Outcome {
        match self.try_again(piece, outcome, to) {
            Ok(next) => next,
            Err(_) => match self.try_again(piece, outcome, to) {
                Ok(next) => next,
                Err(why) => {
                    let mut next = Outcome {
                        state: outcome.state.clone(),
                        ..Outcome::default()
                    };
                    next.fail(Failure::died(&piece.task.reducer, &why));
                    next
                }
            },
        }
    }

    /// One attempt of [`Self::fold_again`]. The error is the system's description of how the process
    /// died.
    fn try_again(
        &mut self,
        piece: &Piece<'_>,
        outcome: &Outcome,
        to: usize,
    ) -> Result<Outcome, String> {
        let mut next = Outcome {
            state: outcome.state.clone(),
            ..Outcome::default()
        };
        let again = Piece {
            state: outcome.state.clone(),
            from: piece.from + outcome.passed,
            to: piece.from + to,
            ..*piece
        };
        let Some(process) = self.process() else {
            next.failure = Some(Failure::OutOfMemory("no process to fold in".to_owned()));
            return Ok(next);
        };
        let sent = process.send(std::slice::from_ref(&again), Slices::None, Duration::MAX);
        let process = self.process.take();
        sent.map_err(|error| error.to_string())?;
        let process = process.ok_or("it is gone")?;
        let (answers, ended) = process.receive(|_, _| true);
        for answer in answers {
            next.add(answer);
        }
        match ended {
            Ok(process) => self.process = Some(process),
            Err(End::Stuck(_)) => next.fail(Failure::stuck(&piece.task.reducer)),
            Err(End::Died(why)) => return Err(why),
            Err(End::GivenUp(_)) => {}
        }
        Ok(next)
    }
}

impl Outcome {
    /// Fails at an event for which a process was killed.
    fn fail(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.took += EVENT_MAX;
        self.over += EVENT_MAX;
    }
}

impl<'j> Scripted<'j> {
    /// The next pieces: as many events as are sent at once.
    fn next(&self, outcomes: &[Outcome]) -> Vec<(usize, Piece<'j>)> {
        let mut pieces = Vec::new();
        let mut bytes = 0;
        let events_max = match self.job.budget.until {
            Some(_) => EVENTS_BETWEEN,
            None => usize::MAX,
        };
        for (at, source) in &self.tasks[self.done..] {
            let (task, outcome) = (&self.job.tasks[*at], &outcomes[*at]);
            let from = outcome.passed;
            let left = task.events[from..].iter().take(events_max);
            let fits = left.take_while(|event| {
                let fits = bytes < SEND_MAX;
                bytes += event.body.len() + event.headers.len();
                fits
            });
            let to = from + fits.count();
            let piece = Piece {
                task,
                source,
                state: outcome.state.clone(),
                from,
                to,
            };
            if to > from {
                pieces.push((*at, piece));
            }
            // The rest of the task begins where this piece ends.
            if to < task.events.len() {
                break;
            }
        }
        pieces
    }

    /// Records the result of a piece. Its task is done if it stopped before the end of the piece.
    fn note(&mut self, at: usize, piece: &Piece<'_>, answer: Outcome, outcomes: &mut [Outcome]) {
        let all = piece.to - piece.from;
        let goes_on = answer.passed == all
            && answer.failure.is_none()
            && piece.to < piece.task.events.len()
            && !self.job.ends(piece.to);
        outcomes[at].add(answer);
        if !goes_on {
            self.leave(at);
        }
    }

    /// Continues with the next task.
    fn leave(&mut self, at: usize) {
        let place = self.tasks.iter().position(|(task, _)| *task == at);
        self.done = place.map_or(self.done, |place| place + 1);
    }

    /// Gives up a piece, and the remaining tasks of its handler. An overdue event makes the handler slow,
    /// so it folds again beside the lanes.
    fn give_up(&mut self, at: usize, piece: &Piece<'_>, over: Overtime, outcomes: &mut [Outcome]) {
        if over == Overtime::Overdue {
            outcomes[at].took += OVERDUE;
            outcomes[at].over += OVERDUE;
        }
        self.leave(at);
        self.leave_out(piece.task.handler);
    }

    fn leave_out(&mut self, handler: HandlerId) {
        let rest = self.tasks.split_off(self.done);
        let stays = |(at, _): &(usize, _)| self.job.tasks[*at].handler != handler;
        self.tasks.extend(rest.into_iter().filter(stays));
    }

    fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// True if nothing more is to be sent.
    fn is_over(&self, outcomes: &[Outcome]) -> bool {
        let passed = outcomes.iter().map(|outcome| outcome.passed).sum::<usize>();
        let tried = passed > 0 || outcomes.iter().any(|outcome| outcome.failure.is_some());
        self.done == self.tasks.len() || tried && self.is_late()
    }
}

/// Folds the tasks of a job that need no script.
fn fold_built_in(job: &Job, built_in: &[usize], until: Option<Instant>, outcomes: &mut [Outcome]) {
    let mut none = Scripts::default();
    for (nth, at) in built_in.iter().enumerate() {
        let end = job.slices().end(until);
        let mut folded = 0;
        // Built-in reducers check before each event whether to stop.
        let ends = |event: usize| {
            folded = event;
            event > 0 && job.ends(event)
        };
        outcomes[*at] = fold_task_while(&job.tasks[*at], &mut none, end, nth == 0, ends);
    }
}
