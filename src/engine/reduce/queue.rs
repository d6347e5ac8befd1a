//! Queue of turns that wait to be folded, fair among namespaces.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::budget::{Budget, Slices};
use super::sieve::{Sieved, takes_all};
use super::{Folded, Task};
use crate::domain::name::Name;
use crate::engine::share::Fair;

/// Time after which an idle process is ended.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// The tasks of one turn.
pub(super) struct Job {
    pub(super) tasks: Arc<Vec<Task>>,
    pub(super) budget: Budget,
    pub(super) done: oneshot::Sender<Vec<Folded>>,
}

impl Job {
    pub(super) fn slices(&self) -> Slices {
        match self.budget.of.is_some() && self.tasks.len() > 1 {
            true => Slices::Short,
            false => Slices::None,
        }
    }

    /// Removes from each task the events that its handler does not take.
    pub(super) fn sieve(&mut self) -> Vec<Option<Sieved>> {
        if self.tasks.iter().all(takes_all) {
            return Vec::new();
        }
        let mut tasks = self.tasks.to_vec();
        let sieved = tasks.iter_mut().map(Sieved::of).collect();
        self.tasks = Arc::new(tasks);
        sieved
    }

    pub(super) fn ends(&self, folded: usize) -> bool {
        let until = self.budget.until.as_ref();
        until.is_some_and(|until| until(folded))
    }
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
pub(super) struct Waiting {
    jobs: HashMap<Option<Name>, VecDeque<Job>>,
    pub(super) fair: Fair<Option<Name>>,
    is_closed: bool,
}

/// Owner's end of the queue; dropping it ends the threads.
pub(super) struct Handle(pub(super) Arc<Queue>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.waiting.lock().is_closed = true;
        self.0.wake.notify_all();
    }
}

pub(super) enum Next {
    Job(Job),
    Nothing,
    Closed,
}

impl Queue {
    pub(super) fn put(&self, job: Job) {
        let mut waiting = self.waiting.lock();
        let of = waiting.jobs.entry(job.budget.of.clone());
        of.or_default().push_back(job);
        drop(waiting);
        self.wake.notify_one();
    }

    pub(super) fn next(&self) -> Next {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.is_closed {
                return Next::Closed;
            }
            if let Some(job) = waiting.take() {
                return Next::Job(job);
            }
            if self.wake.wait_for(&mut waiting, IDLE_MAX).timed_out() {
                return Next::Nothing;
            }
        }
    }
}

impl Waiting {
    fn take(&mut self) -> Option<Job> {
        let of = self.fair.first(self.jobs.keys())?.clone();
        let jobs = self.jobs.get_mut(&of)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.jobs.remove(&of);
        }
        job
    }
}
