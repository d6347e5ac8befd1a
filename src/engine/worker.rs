//! Runs one lane: everything that waits is in this loop, everything that decides is in the lane.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::catalog::Snapshot;
use super::gauge::{Gauge, Reading};
use super::lane::{Lane, Line, Survey};
use super::{Engine, turn};
use crate::domain::cursor::CursorId;
use crate::domain::lane::{LaneId, Mode};
use crate::domain::time::Timestamp;
use crate::lanes::{self, Behind, Hint, Queue};
use crate::store::Error;

/// How long a lane waits after the database refused its turn.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// The same, while the disk is full.
const PAUSE_WITHOUT_SPACE: Duration = Duration::from_secs(5);

/// One lane that is run here.
pub struct Worker {
    /// Which lane.
    pub id: LaneId,
    queue: Arc<Queue>,
    lane: Mutex<Lane>,
    gauge: Mutex<Gauge>,
    /// The turn that runs: since when, and the first of its cursors.
    running: Mutex<Option<(Instant, CursorId)>>,
    /// Held from the look at what the lane may do until its turn has ended.
    turn: tokio::sync::Mutex<()>,
}

impl Worker {
    /// A worker for the lane of `queue`.
    pub fn new(id: LaneId, queue: Arc<Queue>) -> Self {
        Self {
            id,
            queue,
            lane: Mutex::default(),
            gauge: Mutex::default(),
            running: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Takes turns until `stop` is asked for; the turn that runs is finished first.
    pub async fn run(&self, engine: &Engine, mut stop: watch::Receiver<bool>) {
        let mut changes = engine.acting.subscribe();
        while !*stop.borrow() {
            changes.mark_unchanged();
            let turn = self.turn.lock().await;
            if *stop.borrow() {
                break;
            }
            self.take_hints();
            let (batch, alone) = self.next_batch(engine);
            if batch.is_empty() {
                drop(turn);
                tokio::select! {
                    () = self.idle(engine) => {}
                    _ = changes.changed() => {}
                    _ = stop.changed() => {}
                }
                continue;
            }
            let taken = self.take_turn(engine, &batch, alone).await;
            drop(turn);
            if let Err(error) = taken {
                self.again(&batch);
                if engine.fail_if_fatal(&error) {
                    return;
                }
                tracing::warn!(lane = %self.id, %error, "a turn is taken again");
                tokio::select! {
                    () = tokio::time::sleep(pause(&error)) => {}
                    _ = stop.changed() => {}
                }
            }
        }
    }

    /// Returns when the turn that runs has ended. Every later one goes by the configuration as it is now.
    pub async fn turn_ends(&self) {
        drop(self.turn.lock().await);
    }

    /// Gives up every cursor, once the lane does not run any more.
    pub fn give_up(&self) -> Vec<Hint> {
        self.lane.lock().give_up()
    }

    /// Gives up cursors that take their turns elsewhere now.
    pub fn give_up_strangers(&self, catalog: &Snapshot) -> Vec<Hint> {
        self.take_hints();
        let is_strange = |cursor| catalog.is_stranger(&self.id, cursor);
        self.lane.lock().give_up_those(is_strange)
    }

    /// Lets cursors that an operator had stopped, or that gather events, find out whether they still have to.
    pub fn let_kept_go(&self) {
        self.lane.lock().let_kept_go();
    }

    fn is_paused(&self, engine: &Engine) -> bool {
        engine.catalog.peek().stops.mode(&self.id) == Mode::Paused
    }

    /// Whether the lane knows that a cursor has work.
    pub fn knows(&self, cursor: CursorId) -> bool {
        self.take_hints();
        self.lane.lock().knows(cursor)
    }

    /// The cursors that the lane knows to have work, in no order.
    pub fn cursors(&self) -> Vec<CursorId> {
        self.lane.lock().cursors().collect()
    }

    /// The same, with those whose hints it has not taken yet.
    pub fn known(&self) -> Vec<CursorId> {
        self.take_hints();
        self.cursors()
    }

    /// Forgets what has work, and says what that was; whoever wipes finds it again in the database.
    pub fn wipe(&self) -> Vec<CursorId> {
        self.take_hints();
        self.lane.lock().wipe()
    }

    /// The lane in numbers, now.
    pub fn survey(&self, now: Timestamp) -> (Survey, Reading) {
        self.take_hints();
        let (survey, spans) = {
            let lane = self.lane.lock();
            let survey = Survey {
                turn_wait: lane.turn_wait(now),
                ..lane.survey()
            };
            (survey, lane.spans())
        };
        let reading = self.gauge.lock().reading(now, &spans);
        (survey, reading)
    }

    /// The cursors that have work and are worth a look: those set aside that wait longest, then those that
    /// take turns and wait longest.
    pub fn lines(&self, set_aside_max: usize, flowing_max: usize) -> Vec<Line> {
        self.lane.lock().lines(set_aside_max, flowing_max)
    }

    /// The turn that runs, for how long, and the first of its cursors.
    pub fn turn(&self) -> Option<(Duration, CursorId)> {
        let running = self.running.lock();
        running.map(|(since, cursor)| (since.elapsed(), cursor))
    }

    fn take_hints(&self) {
        // Under the lane's lock from queue to lane, so that nobody sees a hint in neither.
        let mut lane = self.lane.lock();
        let hints = self.queue.take();
        if hints.is_empty() {
            return;
        }
        let came = |hint: &lanes::Hint| match hint.behind {
            Behind::More(events) => events,
            Behind::All(_) => 0,
        };
        let came = hints.iter().map(came).sum();
        lane.hinted(hints);
        drop(lane);
        self.gauge.lock().came(came, Timestamp::now());
    }

    /// Who is next, and the lane's queue if nobody else waits.
    fn next_batch(&self, engine: &Engine) -> (Vec<CursorId>, Option<Arc<Queue>>) {
        if self.is_paused(engine) {
            return (Vec::new(), None);
        }
        let mut lane = self.lane.lock();
        let batch = lane.next_batch(turn::CURSORS_MAX, Timestamp::now());
        let alone = lane.is_idle().then(|| self.queue.clone());
        (batch, alone)
    }

    async fn take_turn(
        &self,
        engine: &Engine,
        batch: &[CursorId],
        alone: Option<Arc<Queue>>,
    ) -> Result<(), Error> {
        let began = Instant::now();
        *self.running.lock() = batch.first().map(|cursor| (began, *cursor));
        let turned = turn::take(engine, &self.id, batch, alone).await;
        *self.running.lock() = None;
        let turned = turned?;
        let now = Timestamp::now();
        {
            let mut lane = self.lane.lock();
            for (cursor, outcome) in &turned.outcomes {
                lane.turned(*cursor, *outcome);
            }
        }
        {
            let mut gauge = self.gauge.lock();
            gauge.went(&turned.received, &turned.work, now);
            gauge.turned(began.elapsed(), turned.failed, now);
        }
        engine.count_turn(&turned, now);
        engine
            .applied
            .moved(batch.iter().map(|cursor| cursor.stream));
        Ok(())
    }

    /// Puts a batch whose turn failed back to the tail.
    fn again(&self, batch: &[CursorId]) {
        let mut lane = self.lane.lock();
        for cursor in batch {
            lane.not_turned(*cursor);
        }
    }

    /// Waits for a hint, or for the time of a cursor that waits.
    async fn idle(&self, engine: &Engine) {
        let due = self.lane.lock().next_due();
        let due = due.filter(|_| !self.is_paused(engine));
        let Some(due) = due else {
            return self.queue.poked().await;
        };
        // Rounded up, so that the time has come when this returns.
        let wait = due.since(Timestamp::now()) + Duration::from_millis(1);
        let _ = tokio::time::timeout(wait, self.queue.poked()).await;
    }
}

fn pause(error: &Error) -> Duration {
    match error {
        Error::Space => PAUSE_WITHOUT_SPACE,
        _ => PAUSE_AFTER_ERROR,
    }
}
