//! The threads that fold.
//!
//! Built-in reducers fold on these threads. Scripts fold in processes, one for each thread that needs one: the
//! thread sends all the tasks of a turn that have scripts, folds the others meanwhile, and gathers what comes back.
//! An event with which a process ends costs the tasks after it this turn, and its own task is folded again up to it:
//! folding is deterministic, so that gives the same.
//!
//! Tasks of several turns wait in `queue.rs`, by namespace; the one that has used least time is next.
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
use super::process::{EVENT_MAX, End, Piece, Process};
use super::queue::{Handle, Job, Next, Queue};
use super::script::Scripts;
use super::task::fold_task_while;
use super::{Failure, Folded, Outcome, Task};
use crate::domain::hook::{HandlerId, Reducer, Source};
use crate::engine::share::{Cost, Shares};

/// How long a thread rests after the system had no room for a process.
const REST: Duration = Duration::from_secs(1);

/// The bytes of events after which no more are sent to a process at once.
const SEND_MAX: usize = 4 * 1024 * 1024;

/// Events of one task that are sent at once while something else may end its turn.
const EVENTS_BETWEEN: usize = 64;

/// A handle to the threads that fold. They end when the last handle is gone.
#[derive(Clone)]
pub struct Folds {
    queue: Arc<Handle>,
    pool: Pool,
}

/// Threads of one kind.
#[derive(Clone)]
pub struct Pool {
    /// How many.
    pub threads: usize,
    /// True if these fold for handlers beyond their share: with lower priority.
    pub is_slow: bool,
    /// What each handler uses of their time.
    pub shares: Arc<SharedShares>,
}

impl Folds {
    /// Starts `threads` threads that fold for whoever asks.
    ///
    /// # Errors
    /// The system has no room for another thread.
    pub fn start(threads: usize) -> io::Result<Self> {
        Self::start_pool(Pool {
            threads,
            is_slow: false,
            shares: Arc::default(),
        })
    }

    /// Starts the threads of a pool.
    ///
    /// # Errors
    /// The system has no room for another thread.
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

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.pool.threads
    }

    /// Whose fold time is used how much.
    pub fn shares(&self) -> &Arc<SharedShares> {
        &self.pool.shares
    }

    /// Folds the tasks until they are done or `budget` is spent; the answer has one entry for each, in their
    /// order. A task that was not reached has passed nothing and has no failure. The first event is always tried.
    /// May be dropped: the fold then ends unheard.
    ///
    /// An event that is not as it was stored ends its task: nothing of it reaches a reducer.
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

/// Takes the first damaged event and what is behind it out of a task; says how many are left, if there was one.
fn cut_at_damage(task: &mut Task) -> Option<usize> {
    let at = task.events.iter().position(|event| event.is_damaged)?;
    task.events.truncate(at);
    Some(at)
}

/// A thread that folds, and its process.
struct Folder {
    queue: Arc<Queue>,
    pool: Pool,
    process: Option<Process>,
}

/// Where the scripts of a job are.
struct Scripted<'j> {
    job: &'j Job,
    until: Option<Instant>,
    /// Which tasks they are.
    tasks: Vec<(usize, &'j Arc<Source>)>,
    /// How many of those are done.
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

    /// Which handlers do not fold here: those that lanes have left out since their turn began.
    fn slow_ones(&self, job: &Job) -> impl Fn(HandlerId) -> bool + use<> {
        let is_fast = !self.pool.is_slow && job.budget.of.is_some();
        let slow = |shares: &mut Shares, _| {
            let handlers = job.tasks.iter().map(|task| task.handler);
            handlers
                .filter(|handler| shares.is_left_out(*handler))
                .collect()
        };
        let slow: Vec<_> = match is_fast {
            true => self.pool.shares.with(slow),
            false => Vec::new(),
        };
        move |handler| slow.contains(&handler)
    }

    /// Notes what each handler has used.
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

    /// Sends what is next to the process; none when there is nothing.
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
        // One that has died while it had nothing to do is replaced.
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

    /// The process, a new one where there is none.
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

    /// Notes what became of pieces that were sent.
    fn receive(
        &mut self,
        scripts: &mut Scripted<'_>,
        pieces: Vec<(usize, Piece<'_>)>,
        outcomes: &mut [Outcome],
    ) {
        let Some(process) = self.process.take() else {
            // Nothing is known against these events: their cursors come again.
            scripts.done = scripts.tasks.len();
            return;
        };
        let (answers, ended) = process.receive(|at| match pieces.get(at) {
            Some((_, piece)) => self.waits_for(scripts.job, piece.task.handler),
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
            Err(End::GivenUp) => {
                if let Some((at, piece)) = pieces.next() {
                    scripts.leave(at);
                    scripts.leave_out(piece.task.handler);
                }
            }
            Err(End::Died(why)) => {
                tracing::warn!(
                    why,
                    "a process that folds has ended; another one folds again"
                );
                self.one_by_one(scripts, pieces.collect(), outcomes);
            }
        }
    }

    /// Whether a long event of a handler is waited for: on one thread of the lanes at a time.
    fn waits_for(&self, job: &Job, handler: HandlerId) -> bool {
        if self.pool.is_slow || job.budget.of.is_none() {
            return true;
        }
        let thread = thread::current().id();
        let waits = (self.pool.shares).with(|shares, _| shares.suspect(handler, thread));
        self.pool.shares.slower.notify_one();
        waits
    }

    /// What becomes of a piece of which an event does not end: those before it are folded again.
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

    /// Folds pieces with which a process has died for no known reason, event by event.
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

    /// Folds the events of a piece that come after `outcome` and before `to`. A process that dies twice in that
    /// dies of it.
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

    /// The same; an error says in the words of the system how the process died.
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
        let (answers, ended) = process.receive(|_| true);
        for answer in answers {
            next.add(answer);
        }
        match ended {
            Ok(process) => self.process = Some(process),
            Err(End::Stuck(_)) => next.fail(Failure::stuck(&piece.task.reducer)),
            Err(End::Died(why)) => return Err(why),
            Err(End::GivenUp) => {}
        }
        Ok(next)
    }
}

impl Outcome {
    /// Fails at an event for which a process was ended.
    fn fail(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.took += EVENT_MAX;
        self.over += EVENT_MAX;
    }
}

impl<'j> Scripted<'j> {
    /// The pieces that are next: as many events as are sent at once.
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
            // The rest begins where this ends.
            if to < task.events.len() {
                break;
            }
        }
        pieces
    }

    /// Notes what became of a piece. Its task is done when it did not come to the end of the piece.
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

    /// Goes on with the task after this one.
    fn leave(&mut self, at: usize) {
        let place = self.tasks.iter().position(|(task, _)| *task == at);
        self.done = place.map_or(self.done, |place| place + 1);
    }

    /// Folds nothing more of a handler.
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
        // Built-in reducers are asked event by event whether to go on.
        let ends = |event: usize| {
            folded = event;
            event > 0 && job.ends(event)
        };
        outcomes[*at] = fold_task_while(&job.tasks[*at], &mut none, end, nth == 0, ends);
    }
}
