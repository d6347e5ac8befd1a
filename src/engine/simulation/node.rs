//! A node of the simulation: the loops of `engine.rs`, `ownership.rs`, `worker.rs`, `relay.rs` and
//! `place.rs`, one step at a time, where each step is one request to the database or Redis. Decisions
//! are made by the engine's own code.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::database::{Rebuild, code, fold};
use super::flight::Flights;
use super::mutant::Mutant;
use super::outside::{Failed, Outside};
use crate::domain::cursor::{Applied, Cursor, CursorId, DeadLetter};
use crate::domain::event::StreamId;
use crate::domain::hook::{Handler, OnError};
use crate::domain::lane::{LaneId, Mode};
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::engine::catalog::{Drain, Snapshot};
use crate::engine::lane::Lane;
use crate::engine::membership::{Lease, Look, LookStep, RENEWAL, Watch, idle};
use crate::engine::place::placed;
use crate::engine::rebuild::work::{Standing, Work, may_pass};
use crate::engine::reduce::{Failure, Folded, Task as Fold};
use crate::engine::relay::{Popped, Pushed, hint_of};
use crate::engine::share::{Cost, Shares};
use crate::engine::sweep;
use crate::engine::turn::{self, Turn};
use crate::engine::worker::TURNS_MAX;
use crate::lanes::{self, Backlog, Hint, Lanes, Queue};
use crate::store::{CursorBacklog as Found, LaneRow, NodeRow, SetState, Step, StreamRow};

const LOOK_EVERY: u64 = 500;
const FOLLOW_EVERY: u64 = 1_000;
const DRAINS_EVERY: u64 = 250;
const SWEEP_EVERY: u64 = 15_000;

/// A task that a node runs beside others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    Commit,
    Hint,
    Send,
    Receive,
    Look,
    Follow,
    Sweep,
    Drains,
    Moves,
    Place,
    Pulse,
    Lease,
    Rebuild,
    Leave,
    Turns(usize),
    Deliver,
}

/// The duties of a node, without those of its lanes and its deliveries.
pub const DUTIES: [Duty; 14] = [
    Duty::Commit,
    Duty::Hint,
    Duty::Send,
    Duty::Receive,
    Duty::Look,
    Duty::Follow,
    Duty::Sweep,
    Duty::Drains,
    Duty::Moves,
    Duty::Place,
    Duty::Pulse,
    Duty::Lease,
    Duty::Rebuild,
    Duty::Leave,
];

type Done = Result<bool, Failed>;

/// A lane that runs here, or is in its last turn.
struct Run {
    number: u64,
    lane: Lane,
    queue: Arc<Queue>,
    epoch: i64,
    /// Running turns in the order in which they began; the last one may not have read yet.
    turns: Vec<Taken>,
}

/// A running turn.
struct Taken {
    number: u64,
    batch: Vec<CursorId>,
    /// `None` until it has read.
    read: Option<(Turn, Vec<Folded>, Vec<Step>, Timestamp)>,
}

/// Stopped lanes, with the hints left in their queues.
struct Stopping {
    ticket: u64,
    lane: LaneId,
    hints: Vec<Hint>,
    run: Run,
}

/// A part of a step of [`Look`] that is left to do.
enum Part {
    /// Waits for lanes to stop, and sends their hints to the next owners.
    Sent(u64),
    /// Waits for lanes to stop, and seals them.
    Seal(u64, Vec<(LaneId, i64)>),
    /// Waits for lanes to stop, and frees them.
    Free(u64, Vec<(LaneId, i64)>),
    Claim(LaneId, i64),
    Hint(Vec<Found>),
}

/// A step of acting by a configuration.
enum Act {
    Stop,
    Seal(u64),
    CloseSets,
    Open(BTreeSet<LaneId>),
    Turns,
    Wait(Vec<u64>),
}

/// A step of a rebuild.
enum Refold {
    /// Checks the reducer.
    Claimed(Rebuild),
    Begin(Rebuild, Arc<Handler>),
    Fold(Rebuild, Arc<Handler>, Box<Work>),
    ReadAgain(Rebuild, Arc<Handler>, Box<Work>),
    End(Rebuild),
}

/// A step of leaving.
enum Leave {
    Row,
    Close,
    Free(u64, Vec<(LaneId, i64)>),
    /// No more events are accepted; accepted ones are stored, hinted and passed on.
    Finish,
    Stopped(u64),
    Go,
}

/// A step of sending hints to another node.
enum Send {
    Push(LaneId, Vec<CursorId>, bool),
    Raise(Name),
}

pub struct Node {
    pub id: String,
    /// True if there are other nodes. A single node has no row.
    is_member: bool,
    lease: Lease,
    watch: Watch,
    beaten: u64,
    config_seen: i64,
    pub frozen_until: u64,
    pub catalog: Arc<Snapshot>,
    before: Arc<Snapshot>,
    pub acted: i64,
    numbers: u64,
    lanes: Lanes,
    runs: BTreeMap<LaneId, Run>,
    stopping: Vec<Stopping>,
    /// Lanes that a ticket waits for although another caller has stopped them.
    others: Vec<(u64, LaneId)>,
    misplaced: Vec<Hint>,
    place_due: bool,
    /// Accepted requests: the stream, the content, and when they were sent.
    pub requests: VecDeque<(StreamId, u8, u64)>,
    /// Events that are stored but not hinted yet.
    pub unhinted: VecDeque<StreamId>,
    /// For a mutant: the request that was hinted before it is stored.
    hinted: Option<u64>,
    sending: VecDeque<Send>,
    look: Option<Look>,
    parts: VecDeque<Part>,
    /// Lanes and nodes, as last read.
    rows: Vec<LaneRow>,
    nodes: Vec<NodeRow>,
    left: Vec<Hint>,
    look_at: u64,
    act: VecDeque<Act>,
    to_act_by: Arc<Snapshot>,
    follow_at: u64,
    sweep_soon: bool,
    sweep_at: u64,
    swept: Option<Vec<Found>>,
    drains_at: u64,
    moves_at: u64,
    pulse_at: u64,
    pulse: i64,
    boots: HashMap<Name, u64>,
    has_lost: bool,
    away: bool,
    recovering: VecDeque<(LaneId, Option<i64>)>,
    popped: usize,
    expired: Option<u64>,
    refold: Option<Refold>,
    pub refold_at: u64,
    leave: Option<Leave>,
    /// True once the process has ended.
    pub has_left: bool,
    /// Handlers that fold too long take separate turns.
    shares: Shares,
    pub flights: Flights,
}

impl Node {
    /// A process that has read the configuration and runs nothing yet.
    pub fn start(id: String, out: &mut Outside) -> Self {
        let catalog = out.database.snapshot();
        let is_member = out.is_shared;
        let now = out.now;
        let mut node = Self {
            id,
            is_member,
            lease: Lease::begun(Duration::from_millis(now)),
            watch: Watch::default(),
            beaten: now,
            config_seen: 0,
            frozen_until: 0,
            before: catalog.clone(),
            to_act_by: catalog.clone(),
            catalog,
            acted: 0,
            numbers: 0,
            lanes: Lanes::default(),
            runs: BTreeMap::new(),
            stopping: Vec::new(),
            others: Vec::new(),
            misplaced: Vec::new(),
            place_due: false,
            requests: VecDeque::new(),
            unhinted: VecDeque::new(),
            hinted: None,
            sending: VecDeque::new(),
            look: None,
            parts: VecDeque::new(),
            rows: Vec::new(),
            nodes: Vec::new(),
            left: Vec::new(),
            look_at: now,
            act: VecDeque::new(),
            follow_at: now,
            sweep_soon: true,
            sweep_at: now + SWEEP_EVERY,
            swept: None,
            drains_at: now,
            moves_at: now,
            pulse_at: now,
            pulse: 0,
            boots: HashMap::new(),
            has_lost: false,
            away: false,
            recovering: VecDeque::new(),
            popped: 0,
            expired: None,
            refold: None,
            refold_at: now,
            leave: None,
            has_left: false,
            shares: Shares::default(),
            flights: Flights::default(),
        };
        if is_member {
            node.join(out);
        }
        node
    }

    fn join(&mut self, out: &mut Outside) {
        let row = NodeRow {
            id: self.id.clone(),
            name: self.id.clone(),
            data_dir: self.id.split('-').next().unwrap_or_default().to_owned(),
            hints: "redis".to_owned(),
            state: "live".to_owned(),
            beat: 0,
            config_seen: 0,
            report: String::new(),
            started_at: Timestamp::default(),
        };
        out.database.join(row);
        self.lease = Lease::begun(Duration::from_millis(out.now));
        self.watch = Watch::default();
        (self.beaten, self.config_seen) = (out.now, 0);
    }

    /// True while it may act on lanes.
    pub fn has_right(&self, out: &Outside) -> bool {
        let holds = self.lease.holds(Duration::from_millis(out.now));
        !self.is_member || (holds && out.database.lives(&self.id))
    }

    /// The version that its turns go by, while it has the right to them.
    pub fn acts_by(&self, out: &Outside) -> Option<i64> {
        self.has_right(out).then_some(self.acted)
    }

    /// Cursors in turns that have read, each with its lane.
    pub fn reading(&self) -> impl Iterator<Item = (&LaneId, CursorId)> {
        let stopping = self.stopping.iter().map(|stop| (&stop.lane, &stop.run));
        self.runs
            .iter()
            .chain(stopping)
            .flat_map(|(lane, run)| {
                let read = run.turns.iter().filter_map(|turn| turn.read.as_ref());
                let folding = read.flat_map(|read| &read.2);
                folding.map(move |step| (lane, step.cursor))
            })
            .chain(self.flights.sent())
    }

    /// The lane of a run that has not given up its cursors.
    pub fn lane_of_run(&mut self, number: u64) -> Option<&mut Lane> {
        let stopping = self.stopping.iter_mut().map(|stop| &mut stop.run);
        let mut runs = self.runs.values_mut().chain(stopping);
        let run = runs.find(|run| run.number == number);
        run.map(|run| &mut run.lane)
    }

    /// As `Worker::has_stopped`.
    pub fn has_stopped(&self, run: u64) -> bool {
        !self.runs.values().any(|known| known.number == run)
    }

    /// Time for which the node may act; a single node may for ever.
    pub fn lease_left(&self, now: Duration) -> Duration {
        match self.is_member {
            true => self.lease.left(now),
            false => Duration::MAX,
        }
    }

    /// True while it folds a stream anew, even if another node has ended that rebuild meanwhile.
    pub fn is_refolding(&self) -> bool {
        self.refold.is_some()
    }

    pub fn runs(&self) -> usize {
        self.runs.len() + self.stopping.len()
    }

    pub fn held(&self) -> HashMap<LaneId, i64> {
        let held = self.runs.iter().map(|(id, run)| (id.clone(), run.epoch));
        held.collect()
    }

    fn held_lanes(&self) -> Vec<LaneId> {
        let stopping = self.stopping.iter().map(|stop| &stop.lane);
        self.runs.keys().chain(stopping).cloned().collect()
    }

    fn has_hints_to_say(&self) -> bool {
        !self.sending.is_empty() || !self.misplaced.is_empty()
    }

    /// Continues one of its duties; true if there was anything to do.
    pub fn go_on(&mut self, duty: Duty, out: &mut Outside) -> bool {
        let done = match duty {
            Duty::Commit => self.commit(out),
            Duty::Hint => Ok(self.hint_stored(out)),
            Duty::Send => self.send(out),
            Duty::Receive => self.receive(out),
            Duty::Look => self.look(out),
            Duty::Follow => self.follow(out),
            Duty::Sweep => self.sweep(out),
            Duty::Drains => self.see_to_drains(out),
            Duty::Moves => self.see_to_moves(out),
            Duty::Place => self.place(out),
            Duty::Pulse => self.beat_pulse(out),
            Duty::Lease => Ok(self.end_lease(out)),
            Duty::Rebuild => self.refold(out),
            Duty::Leave => self.leave_on(out),
            Duty::Turns(nth) => Ok(self.turns(nth, out)),
            Duty::Deliver => Ok(self.deliver(out)),
        };
        done.unwrap_or(true)
    }

    /// Keeps hints until the right lane is known.
    pub fn place_later(&mut self, hints: Vec<Hint>) {
        self.place_due |= !hints.is_empty();
        self.misplaced.extend(hints);
    }

    /// As `Engine::hint`.
    fn hint(&mut self, lane: LaneId, hints: Vec<Hint>) {
        let Err(hints) = self.lanes.hint(&lane, hints) else {
            return;
        };
        match self.is_member {
            true => self.send_later(lane, hints.into_iter().map(|hint| hint.cursor).collect()),
            false => self.place_later(hints),
        }
    }

    fn send_later(&mut self, lane: LaneId, cursors: Vec<CursorId>) {
        if self.is_member && !cursors.is_empty() {
            self.sending.push_back(Send::Push(lane, cursors, false));
        }
    }

    // Accepting and committing events.

    fn commit(&mut self, out: &mut Outside) -> Done {
        let Some((stream, body, sent)) = self.requests.pop_front() else {
            return Ok(false);
        };
        if out.mutant == Mutant::HintBeforeCommit && self.hinted != Some(sent) {
            self.hinted = Some(sent);
            self.unhinted.push_back(stream);
            self.hint_stored(out);
            self.requests.push_front((stream, body, sent));
            return Ok(true);
        }
        let at = out.ask(|database| database.append(stream, body, sent))?;
        let now = out.now;
        let stored = out.database.streams.get_mut(&stream);
        if let (Some(at), Some(stored)) = (at, stored) {
            stored.times[at].1 = Some(now);
            if out.mutant != Mutant::HintBeforeCommit {
                self.unhinted.push_back(stream);
            }
        }
        Ok(true)
    }

    fn hint_stored(&mut self, out: &mut Outside) -> bool {
        let Some(stream) = self.unhinted.pop_front() else {
            return false;
        };
        let stored = &out.database.streams[&stream];
        let hook = &self.catalog.hooks_by_id[&stored.hook];
        let lane = self.catalog.lanes_of(hook).map(|set| set.lane(stored.slot));
        let hint = Hint {
            cursor: stored.cursor.id,
            oldest: out.time(),
            newest: out.time(),
            backlog: Backlog::More(1),
            recheck: lanes::Recheck::No,
        };
        if let Some(lane) = lane {
            self.hint(lane, vec![hint]);
        }
        true
    }

    /// As `Engine::let_go`.
    pub fn let_go(&mut self, stream: StreamId, out: &Outside) {
        let stored = &out.database.streams[&stream];
        let hook = &self.catalog.hooks_by_id[&stored.hook];
        let lane = self.catalog.lanes_of(hook).map(|set| set.lane(stored.slot));
        let hint = Hint {
            cursor: stored.cursor.id,
            oldest: out.time(),
            newest: out.time(),
            backlog: Backlog::Total(1),
            recheck: lanes::Recheck::Yes,
        };
        if let Some(lane) = lane {
            self.hint(lane, vec![hint]);
        }
    }

    /// As `Engine::config_changed`.
    pub fn config_changed(&mut self, out: &mut Outside) -> Result<(), Failed> {
        self.follow_at = out.now;
        self.refresh(out)
    }

    fn refresh(&mut self, out: &mut Outside) -> Result<(), Failed> {
        let read = out.ask(super::database::Database::snapshot)?;
        if read.version > self.catalog.version {
            self.catalog = read;
        }
        Ok(())
    }

    // Turns.

    fn turns(&mut self, nth: usize, out: &mut Outside) -> bool {
        let acted = self.acts_by(out);
        self.numbers += 1;
        let number = self.numbers;
        let running = self.runs.len();
        let (id, run, ends) = if nth < running {
            let Some((id, run)) = self.runs.iter_mut().nth(nth) else {
                return false;
            };
            (id, run, false)
        } else {
            let Some(stop) = self.stopping.get_mut(nth - running) else {
                return false;
            };
            (&stop.lane, &mut stop.run, true)
        };
        if run.turns.last().is_some_and(|turn| turn.read.is_none()) {
            let mut strangers = Vec::new();
            let read = run.read(id, &self.catalog, &mut self.shares, &mut strangers, out);
            self.place_later(strangers);
            return read;
        }
        let may_begin = !ends && run.turns.len() < TURNS_MAX;
        let begins = may_begin && (run.turns.is_empty() || out.chance(0.5));
        let mut strangers = Vec::new();
        let mut deliveries = Vec::new();
        let begins = begins && {
            let (shares, strangers) = (&mut self.shares, &mut strangers);
            let batch = run.next_batch(id, &self.catalog, shares, strangers, out);
            batch.is_some_and(|batch| {
                deliveries = run.begin(number, batch, &self.catalog, out);
                true
            })
        };
        let (lane, run_number, epoch) = (id.clone(), run.number, run.epoch);
        self.flights.begin(deliveries, &lane, run_number, epoch);
        let run = match ends {
            false => self.runs.get_mut(&lane),
            true => self
                .stopping
                .get_mut(nth - running)
                .map(|stop| &mut stop.run),
        };
        let Some(run) = run else { return false };
        if begins {
            self.place_later(strangers);
            return true;
        }
        if run.turns.is_empty() {
            return false;
        }
        // Commits of different cursors may overtake each other.
        let ended = run.turns.remove(out.below(run.turns.len() as u64) as usize);
        let Some((turn, folded, steps, at)) = ended.read else {
            return false;
        };
        let advanced = out.ask(|database| database.advance(steps, acted));
        let Ok(moved) = advanced else {
            run.again(&ended.batch);
            return true;
        };
        for (cursor, outcome) in turn.end(&folded, &moved, at).outcomes {
            run.lane.turned(cursor, outcome);
        }
        true
    }

    // Stopping lanes.

    /// Stops lanes; the ticket tells when their turns have ended.
    fn stop(&mut self, lanes: &[LaneId]) -> u64 {
        self.numbers += 1;
        for id in lanes {
            if self.stopping.iter().any(|stop| stop.lane == *id) {
                self.others.push((self.numbers, id.clone()));
            }
            if let Some(run) = self.runs.remove(id) {
                self.stopping.push(Stopping {
                    ticket: self.numbers,
                    lane: id.clone(),
                    hints: self.lanes.close(id),
                    run,
                });
            }
        }
        self.numbers
    }

    /// Remaining hints of stopped lanes, once all of them have ended their turns.
    fn stopped(&mut self, ticket: u64, out: &mut Outside) -> Option<Vec<(LaneId, Vec<Hint>)>> {
        let awaited = |stop: &&Stopping| {
            let other = (ticket, stop.lane.clone());
            stop.ticket == ticket || self.others.contains(&other)
        };
        let mut awaited = self.stopping.iter().filter(awaited);
        if awaited.any(|stop| !stop.run.turns.is_empty()) {
            return None;
        }
        let others = self.others.iter().filter(|(other, _)| *other == ticket);
        let mut given_up: Vec<_> = others.map(|(_, lane)| lane.clone()).collect();
        self.others.retain(|(other, _)| *other != ticket);
        let (ended, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.stopping)
            .into_iter()
            .partition(|stop| stop.ticket == ticket);
        self.stopping = others;
        if self.is_member {
            given_up.extend(ended.iter().map(|stop| stop.lane.clone()));
            self.flights.mark(&given_up, &self.id, out);
        }
        let left = ended.into_iter().map(|mut stop| {
            stop.hints.extend(stop.run.lane.give_up());
            (stop.lane, stop.hints)
        });
        Some(left.collect())
    }

    fn open(&mut self, lane: LaneId, epoch: i64) {
        let is_ending = matches!(self.leave, Some(Leave::Stopped(_) | Leave::Go));
        if self.runs.contains_key(&lane) || is_ending {
            return;
        }
        self.numbers += 1;
        let run = Run {
            number: self.numbers,
            queue: self.lanes.open(&lane),
            lane: Lane::default(),
            epoch,
            turns: Vec::new(),
        };
        self.runs.insert(lane, run);
    }

    // Ownership of lanes.

    fn look(&mut self, out: &mut Outside) -> Done {
        if !self.is_member {
            return Ok(false);
        }
        let looked = match (self.parts.pop_front(), self.look.take()) {
            (Some(part), look) => {
                self.look = look;
                self.look_part(part, out)
            }
            (None, Some(look)) => self.look_on(look, out),
            (None, None) if out.now < self.look_at => return Ok(false),
            (None, None) => {
                self.look_at = out.now + LOOK_EVERY;
                self.look = Some(Look::begin());
                return Ok(true);
            }
        };
        if looked.is_err() {
            self.look = None;
            self.parts.clear();
            self.left.clear();
        }
        looked
    }

    /// The next step of a look, up to its first request.
    fn look_on(&mut self, mut look: Look, out: &mut Outside) -> Done {
        let Some(step) = look.next_step() else {
            return Ok(true);
        };
        match step {
            // No other server takes the place of the database here.
            LookStep::Follow => return self.look_on(look, out),
            LookStep::Beat => {
                if !self.beat(out)? {
                    look.lease_lost();
                }
            }
            LookStep::CloseAll => {
                let lanes = self.held_lanes();
                self.close(&lanes);
            }
            LookStep::Join => {
                self.numbers += 1;
                self.id = format!("{}+", self.id);
                self.join(out);
            }
            LookStep::ReadLanes => look.lanes_read(self.read_lanes(out)?),
            LookStep::ReadNodes => {
                let nodes = out.ask(|database| database.nodes.clone())?;
                let now = Duration::from_millis(out.now);
                let silent = self.watch.see(&nodes, &self.id, now);
                let is_blind = out.mutant == Mutant::NoSweepForTheDead;
                self.sweep_soon |= self.watch.has_changed() && !is_blind;
                look.nodes_read(nodes, silent);
                let (rows, nodes) = look.rows();
                (self.rows, self.nodes) = (rows.to_vec(), nodes.to_vec());
            }
            LookStep::Reap(id, beat) => {
                out.ask(|database| database.reap(&id, beat))?;
                self.look_at = out.now;
            }
            LookStep::Decide if self.leave.is_some() => return Ok(true),
            LookStep::Decide => {
                let stable = self.watch.is_stable(Duration::from_millis(out.now));
                look.decide(&self.id, &self.held(), stable);
            }
            LookStep::Close(lanes) => self.close(&lanes),
            LookStep::Seal(lanes) => {
                let ids: Vec<_> = lanes.iter().map(|(lane, _)| lane.clone()).collect();
                let ticket = self.stop(&ids);
                self.parts.push_back(Part::Seal(ticket, lanes));
            }
            LookStep::EndResizes => {
                for set in out.ask(|database| database.close_sets())? {
                    let _ = out.ask_redis(|redis| redis.forget(&set));
                }
            }
            LookStep::Refresh => self.config_changed(out)?,
            LookStep::Raise(namespaces) => self.raise_all(&namespaces, out),
            LookStep::Place => {
                let left = std::mem::take(&mut self.left);
                self.place_later(left);
            }
            LookStep::HandOver(lanes) => {
                let ids: Vec<_> = lanes.iter().map(|(lane, _)| lane.clone()).collect();
                let ticket = self.stop(&ids);
                self.parts.push_back(Part::Free(ticket, lanes));
            }
            LookStep::Take(lanes) => {
                let me = self.id.clone();
                look.taken(out.ask(|database| database.take_lanes(&lanes, &me))?);
            }
            LookStep::Open(lanes) => {
                if out.delivers {
                    self.flights.look(&self.id, out)?;
                }
                for (lane, epoch) in lanes {
                    self.open(lane, epoch);
                }
            }
            LookStep::Claim(lanes) => {
                let namespaces = lanes.iter().map(|(lane, _)| lane.namespace.clone());
                self.raise_all(&namespaces.collect(), out);
                let claims = lanes.into_iter();
                let claims = claims.map(|(lane, epoch)| Part::Claim(lane, epoch));
                self.parts.extend(claims);
            }
            LookStep::Sweep if out.mutant == Mutant::NoSweepOnTake => {}
            LookStep::Sweep => {
                let found = out.ask(|database| database.behind())?;
                self.parts.push_back(Part::Hint(found));
            }
        }
        self.look = Some(look);
        Ok(true)
    }

    fn look_part(&mut self, part: Part, out: &mut Outside) -> Done {
        match part {
            Part::Sent(ticket) => {
                let Some(left) = self.stopped(ticket, out) else {
                    self.parts.push_front(part);
                    return Ok(false);
                };
                self.send_left(left);
            }
            Part::Seal(ticket, lanes) => {
                let waits = out.mutant != Mutant::SealUnderTurns;
                match self.stopped(ticket, out) {
                    Some(left) => self
                        .left
                        .extend(left.into_iter().flat_map(|(_, hints)| hints)),
                    None if waits => {
                        self.parts.push_front(Part::Seal(ticket, lanes));
                        return Ok(false);
                    }
                    None => {}
                }
                let me = self.id.clone();
                out.ask(|database| database.seal_lanes(&lanes, &me))?;
                if !lanes.is_empty() {
                    self.look_at = out.now;
                }
            }
            Part::Free(ticket, lanes) => {
                let Some(left) = self.stopped(ticket, out) else {
                    self.parts.push_front(Part::Free(ticket, lanes));
                    return Ok(false);
                };
                self.send_left(left);
                let me = self.id.clone();
                out.ask(|database| database.release_lanes(&lanes, &me))?;
            }
            Part::Claim(lane, epoch) => {
                let _ = out.ask_redis(|redis| redis.claim(&lane, epoch));
            }
            Part::Hint(found) => self.hint_found(&found, out),
        }
        Ok(true)
    }

    fn close(&mut self, lanes: &[LaneId]) {
        let ticket = self.stop(lanes);
        self.parts.push_back(Part::Sent(ticket));
    }

    fn read_lanes(&self, out: &mut Outside) -> Result<Vec<LaneRow>, Failed> {
        let mut rows = out.ask(|database| database.rows())?;
        if out.mutant == Mutant::NoSealWait {
            let opening = rows.iter_mut().filter(|row| row.set == SetState::Opening);
            opening.for_each(|row| row.set = SetState::Stable);
        }
        Ok(rows)
    }

    fn raise_all(&self, namespaces: &BTreeSet<Name>, out: &mut Outside) {
        let sets = self.catalog.lane_sets.values();
        for set in sets.filter(|set| namespaces.contains(&set.namespace)) {
            let _ = out.ask_redis(|redis| redis.raise(set));
        }
    }

    fn send_left(&mut self, left: Vec<(LaneId, Vec<Hint>)>) {
        for (lane, hints) in left {
            self.send_later(lane, hints.into_iter().map(|hint| hint.cursor).collect());
        }
    }

    /// False if its row is gone.
    fn beat(&mut self, out: &mut Outside) -> Result<bool, Failed> {
        let (sent, acted) = (out.now, self.acted);
        let renewal = u64::try_from(RENEWAL.as_millis()).unwrap_or(0);
        if sent < self.beaten + renewal && self.config_seen == acted {
            return Ok(true);
        }
        let me = self.id.clone();
        if !out.ask(|database| database.beat(&me, acted))? {
            return Ok(false);
        }
        self.lease.renewed(Duration::from_millis(sent));
        (self.beaten, self.config_seen) = (sent, acted);
        Ok(true)
    }

    /// As `Member::close_if_expired`.
    fn end_lease(&mut self, out: &mut Outside) -> bool {
        if let Some(ticket) = self.expired {
            let Some(left) = self.stopped(ticket, out) else {
                return false;
            };
            self.send_left(left);
            self.expired = None;
            return true;
        }
        let holds = self.lease.holds(Duration::from_millis(out.now));
        if !self.is_member || holds || self.runs.is_empty() {
            return false;
        }
        let lanes: Vec<_> = self.runs.keys().cloned().collect();
        self.expired = Some(self.stop(&lanes));
        true
    }

    // Leaving.

    /// A signal has asked the process to end.
    pub fn end(&mut self) {
        self.leave.get_or_insert(Leave::Row);
    }

    /// True if it accepts events.
    pub fn lets_in(&self) -> bool {
        matches!(
            self.leave,
            None | Some(Leave::Row | Leave::Close | Leave::Free(..))
        )
    }

    /// As `Running::leave`, then `Running::stop`.
    fn leave_on(&mut self, out: &mut Outside) -> Done {
        let Some(now) = self.leave.take() else {
            return Ok(false);
        };
        // Whatever cannot be passed on is found by the others once this node is gone.
        let (next, done) = match now {
            Leave::Row if !self.is_member => (Leave::Finish, true),
            Leave::Row => {
                let me = self.id.clone();
                match out.ask(|database| database.leave(&me)) {
                    Ok(()) => (Leave::Close, true),
                    Err(Failed) => (Leave::Finish, true),
                }
            }
            Leave::Close => {
                let mut held: Vec<_> = self.held().into_iter().collect();
                held.sort();
                let lanes: Vec<_> = held.iter().map(|(lane, _)| lane.clone()).collect();
                (Leave::Free(self.stop(&lanes), held), true)
            }
            Leave::Free(ticket, held) => match self.stopped(ticket, out) {
                None if out.mutant != Mutant::LeavesUnderTurns => {
                    (Leave::Free(ticket, held), false)
                }
                left => {
                    self.send_left(left.unwrap_or_default());
                    let me = self.id.clone();
                    let _ = out.ask(|database| database.release_lanes(&held, &me));
                    (Leave::Finish, true)
                }
            },
            Leave::Finish if !self.requests.is_empty() || !self.unhinted.is_empty() => {
                (Leave::Finish, false)
            }
            Leave::Finish => {
                let lanes = self.held_lanes();
                (Leave::Stopped(self.stop(&lanes)), true)
            }
            Leave::Stopped(ticket) if !self.flights.is_empty() => (Leave::Stopped(ticket), false),
            Leave::Stopped(ticket) => match self.stopped(ticket, out) {
                None => (Leave::Stopped(ticket), false),
                Some(left) => {
                    self.send_left(left);
                    (Leave::Go, true)
                }
            },
            // A node that starts on SQLite sweeps. In a cluster, the leaving node waits at most a
            // second.
            Leave::Go if self.is_member && self.has_hints_to_say() && !out.chance(0.05) => {
                (Leave::Go, false)
            }
            Leave::Go => {
                let me = self.id.clone();
                let _ = out.ask(|database| database.remove_node(&me));
                self.has_left = true;
                (Leave::Go, false)
            }
        };
        self.leave = Some(next);
        Ok(done)
    }

    // Rebuilds.

    fn refold(&mut self, out: &mut Outside) -> Done {
        if out.now < self.refold_at {
            return Ok(false);
        }
        let Some(now) = self.refold.take() else {
            let me = self.id.clone();
            let claimed = out.ask(|database| database.claim_rebuild(&me))?;
            if claimed.is_none() {
                self.refold_at = out.now + FOLLOW_EVERY;
            }
            self.refold = claimed.map(Refold::Claimed);
            return Ok(true);
        };
        // After a failure of the database, it starts again.
        self.refold = self.refold_on(now, out)?;
        // Folding takes time.
        if out.chance(0.2) {
            self.refold_at = out.now + out.below(500);
        }
        Ok(true)
    }

    fn refold_on(&mut self, now: Refold, out: &mut Outside) -> Result<Option<Refold>, Failed> {
        let next = match now {
            Refold::Claimed(rebuild) => {
                self.config_changed(out)?;
                let hook = out.database.streams[&rebuild.stream].hook;
                let handler = self.catalog.hooks_by_id[&hook].handlers[0].clone();
                match handler.fold == rebuild.fold {
                    true => Refold::Begin(rebuild, handler),
                    false => Refold::End(rebuild),
                }
            }
            Refold::Begin(rebuild, handler) => {
                let stream = rebuild.stream;
                let dead = out.ask(|database| database.streams[&stream].dead.clone())?;
                let (live, row) = self.live(stream, out)?;
                let (head, slot) = (row.head, row.slot);
                let hook = &self.catalog.hooks_by_id[&row.hook];
                let may_pass = may_pass(&self.catalog, hook, slot, &live);
                let mut work = Work::new(row, live.clone(), head, None, None, dead);
                // As if turns had been faster before.
                work.lost = out.below(4) as u32;
                work.lost_to(live, head, may_pass);
                Refold::Fold(rebuild, handler, work.into())
            }
            Refold::Fold(rebuild, handler, mut work) if !work.is_there() => {
                let after = work.shadow.position.0 as usize;
                let most = work.rest().min(1 + out.below(3) as usize);
                let stream = rebuild.stream;
                let read = out.ask(|database| {
                    let events = &database.streams[&stream].events;
                    events[after..after + most].to_vec()
                })?;
                work.events = read.into_iter().rev().collect();
                while let Some(task) = work.task(&handler) {
                    work.take(fold_all(&task, true, out));
                }
                Refold::Fold(rebuild, handler, work)
            }
            Refold::Fold(rebuild, handler, mut work) => match work.settle() {
                Standing::GoesOn => Refold::Fold(rebuild, handler, work),
                Standing::Failed => Refold::End(rebuild),
                Standing::IsThere => {
                    let (swap, acted) = (work.swap(), self.acts_by(out));
                    match out.ask(|database| database.swap(&swap, acted))? {
                        false => Refold::ReadAgain(rebuild, handler, work),
                        true => {
                            self.let_go(rebuild.stream, out);
                            Refold::End(rebuild)
                        }
                    }
                }
            },
            Refold::ReadAgain(rebuild, handler, mut work) => {
                let (live, row) = self.live(rebuild.stream, out)?;
                let hook = &self.catalog.hooks_by_id[&row.hook];
                let may_pass = may_pass(&self.catalog, hook, row.slot, &live);
                work.lost_to(live, row.head, may_pass);
                Refold::Fold(rebuild, handler, work)
            }
            Refold::End(rebuild) => {
                out.ask(|database| database.end_rebuild(&rebuild))?;
                return Ok(None);
            }
        };
        Ok(Some(next))
    }

    /// A cursor and its stream, as they are now.
    fn live(&self, stream: StreamId, out: &mut Outside) -> Result<(Cursor, StreamRow), Failed> {
        let read = out.ask(|database| {
            let live = database.streams[&stream].cursor.clone();
            (live, database.row(stream))
        })?;
        match read {
            (live, Some(row)) => Ok((live, row)),
            (_, None) => Err(Failed),
        }
    }

    // Acting by the configuration.

    fn follow(&mut self, out: &mut Outside) -> Done {
        let Some(next) = self.act.pop_front() else {
            if out.now < self.follow_at {
                return Ok(false);
            }
            self.follow_at = out.now + FOLLOW_EVERY;
            self.refresh(out)?;
            if self.acted != self.catalog.version {
                self.to_act_by = self.catalog.clone();
                match self.is_member {
                    true => self.look_at = out.now,
                    false => self.act.push_back(Act::Stop),
                }
                self.act.push_back(Act::Turns);
            }
            return Ok(true);
        };
        let acted = self.act_on(next, out);
        if acted.is_err() {
            self.act.clear();
        }
        acted
    }

    fn act_on(&mut self, next: Act, out: &mut Outside) -> Done {
        match next {
            Act::Stop => {
                let sets = self.catalog.lane_sets.values();
                let lanes: BTreeSet<_> = sets.flat_map(|set| set.ids()).collect();
                let gone = |lane: &&LaneId| !lanes.contains(lane);
                let held = self.held_lanes();
                let gone: Vec<_> = held.iter().filter(gone).cloned().collect();
                self.act.push_front(Act::Open(lanes));
                let ticket = self.stop(&gone);
                self.act.push_front(Act::Seal(ticket));
            }
            Act::Seal(ticket) => {
                let Some(left) = self.stopped(ticket, out) else {
                    self.act.push_front(next);
                    return Ok(false);
                };
                self.left
                    .extend(left.into_iter().flat_map(|(_, hints)| hints));
                // Lanes are opened even if this fails.
                let running = self.held_lanes().into_iter().collect();
                let sealed = out.ask(|database| database.rows()).and_then(|rows| {
                    let closing = idle(rows, &running);
                    out.ask(|database| database.seal_lanes(&closing, ""))
                });
                match sealed {
                    Ok(()) => self.act.push_front(Act::CloseSets),
                    Err(Failed) => self.act.truncate(1),
                }
            }
            Act::CloseSets => {
                if out.ask(|database| database.close_sets()).is_err() {
                    self.act.truncate(1);
                }
            }
            Act::Open(lanes) => {
                let opened = lanes.iter().any(|lane| !self.lanes.is_open(lane));
                for lane in lanes {
                    self.open(lane, 0);
                }
                let left = std::mem::take(&mut self.left);
                self.place_later(left);
                self.place_due |= opened;
                self.sweep_soon |= opened;
            }
            Act::Turns => {
                let running = self
                    .runs
                    .values()
                    .chain(self.stopping.iter().map(|stop| &stop.run));
                let turns = running
                    .flat_map(|run| run.turns.iter().map(|turn| turn.number))
                    .collect();
                self.act.push_front(Act::Wait(turns));
            }
            Act::Wait(turns) => {
                let mut running = self
                    .runs
                    .values()
                    .chain(self.stopping.iter().map(|stop| &stop.run));
                let is_awaited = |turn: &Taken| turns.contains(&turn.number);
                let ends = running.any(|run| run.turns.iter().any(is_awaited));
                if ends && out.mutant != Mutant::ActsUnderTurns {
                    self.act.push_front(Act::Wait(turns));
                    return Ok(false);
                }
                let now = &self.to_act_by;
                let are_older = self.flights.are_older_than(now.version);
                let flies = now.stops != self.before.stops && are_older;
                if flies && out.mutant != Mutant::ActsUnderFlights {
                    self.act.push_front(Act::Wait(Vec::new()));
                    return Ok(false);
                }
                self.acts(out);
            }
        }
        Ok(true)
    }

    /// The end of `Engine::act`.
    fn acts(&mut self, out: &Outside) {
        let now = self.to_act_by.clone();
        let lets_go = now.lets_go(&self.before);
        let mut strangers = Vec::new();
        for (id, run) in &mut self.runs {
            if lets_go {
                run.lane.hinted(run.queue.take());
                strangers.extend(run.lane.give_up_those(|cursor| now.is_stranger(id, cursor)));
            }
            run.lane.let_kept_go();
        }
        self.place_later(strangers);
        self.sweep_soon |= lets_go;
        self.acted = now.version;
        self.before = now;
        self.look_at = out.now;
    }

    // Hints sent and received.

    fn hint_found(&mut self, found: &[Found], out: &Outside) {
        for (lane, hints) in sweep::hints(&self.catalog, found, out.time()) {
            let _ = self.lanes.hint(&lane, hints);
        }
    }

    fn sweep(&mut self, out: &mut Outside) -> Done {
        if let Some(found) = self.swept.take() {
            self.hint_found(&found, out);
            return Ok(true);
        }
        let is_due = out.sweeps && out.now >= self.sweep_at;
        if !self.sweep_soon && !is_due {
            return Ok(false);
        }
        self.sweep_at = out.now + SWEEP_EVERY;
        self.sweep_soon = false;
        self.swept = Some(out.ask(|database| database.behind())?);
        Ok(true)
    }

    fn place(&mut self, out: &mut Outside) -> Done {
        if !std::mem::take(&mut self.place_due) {
            return Ok(false);
        }
        let hints = std::mem::take(&mut self.misplaced);
        let read = match out.mutant {
            Mutant::PlacedByOldNews => Ok(()),
            _ => self.config_changed(out),
        };
        let slots = read.and_then(|()| out.ask(|database| database.slots()));
        let Ok(slots) = slots else {
            self.sweep_soon = true;
            return Ok(true);
        };
        for (lane, hints) in placed(&self.catalog, &slots, hints) {
            let Err(hints) = self.lanes.hint(&lane, hints) else {
                continue;
            };
            match self.is_member {
                true => self.send_later(lane, hints.into_iter().map(|hint| hint.cursor).collect()),
                false => self.misplaced.extend(hints),
            }
        }
        Ok(true)
    }

    fn send(&mut self, out: &mut Outside) -> Done {
        let Some(next) = self.sending.pop_front() else {
            return Ok(false);
        };
        let (lane, cursors, is_again) = match next {
            Send::Raise(namespace) => {
                self.raise(&namespace, out)?;
                return Ok(true);
            }
            Send::Push(lane, cursors, is_again) => (lane, cursors, is_again),
        };
        let checks = out.mutant != Mutant::PushAnyGeneration;
        let answer = out.ask_redis(|redis| redis.push(&lane, &cursors, checks))?;
        match Pushed::of(&answer) {
            Pushed::Unknown if !is_again => {
                let namespace = lane.namespace.clone();
                self.sending.push_front(Send::Push(lane, cursors, true));
                self.sending.push_front(Send::Raise(namespace));
            }
            Pushed::Old if !is_again => {
                let _ = self.config_changed(out);
                let set = self.catalog.lane_sets.get(&lane.namespace);
                if set.is_some_and(|set| set.generation > lane.generation) {
                    let now = out.time();
                    self.place_later(cursors.iter().map(|cursor| hint_of(*cursor, now)).collect());
                }
            }
            _ => {}
        }
        Ok(true)
    }

    fn raise(&mut self, namespace: &Name, out: &mut Outside) -> Result<(), Failed> {
        let Some(set) = self.catalog.lane_sets.get(namespace) else {
            return Ok(());
        };
        let raised = out.ask_redis(|redis| redis.raise(set))?;
        if let lanes::redis::Answer::Done(boot) = raised {
            let known = self.boots.insert(namespace.clone(), boot);
            self.has_lost |= known.is_some_and(|known| known != boot);
        }
        Ok(())
    }

    fn receive(&mut self, out: &mut Outside) -> Done {
        if !self.is_member {
            return Ok(false);
        }
        if let Some((lane, epoch)) = self.recovering.pop_front() {
            self.recover_on(&lane, epoch, out);
            return Ok(true);
        }
        // As `Engine::look_at_lanes_if_free`, after a poke.
        let leaves = self.nodes.iter().any(NodeRow::is_leaving);
        if leaves || self.rows.iter().any(LaneRow::is_closing) {
            let soon = if leaves { 20 } else { 250 };
            self.look_at = self.look_at.min(out.now + soon);
        }
        let count = self.runs.len().max(1);
        self.popped = (self.popped + 1) % count;
        let Some((lane, run)) = self.runs.iter().nth(self.popped) else {
            return Ok(false);
        };
        let (lane, epoch) = (lane.clone(), run.epoch);
        let Ok(answer) = out.ask_redis(|redis| redis.pop(&lane, epoch)) else {
            self.away = true;
            return Ok(true);
        };
        match Popped::of(answer, epoch) {
            Popped::Hints(cursors) if cursors.is_empty() => return Ok(false),
            Popped::Hints(cursors) => {
                let now = out.time();
                let hints = cursors.iter().map(|cursor| hint_of(*cursor, now)).collect();
                if let Err(hints) = self.lanes.hint(&lane, hints) {
                    self.send_later(lane, hints.into_iter().map(|hint| hint.cursor).collect());
                }
            }
            Popped::Forgotten if out.mutant == Mutant::LossIgnored => {}
            Popped::Forgotten => self.recover(vec![(lane, epoch)]),
            Popped::Taken => self.look_at = out.now,
            Popped::Old => {
                let _ = self.config_changed(out);
                self.look_at = out.now;
            }
        }
        Ok(true)
    }

    /// Raises, claims, and sweeps once all are claimed.
    fn recover(&mut self, lanes: Vec<(LaneId, i64)>) {
        for (lane, epoch) in &lanes {
            self.recovering.push_back((lane.clone(), None));
            self.recovering.push_back((lane.clone(), Some(*epoch)));
        }
        self.sweep_soon |= lanes.is_empty();
    }

    fn recover_on(&mut self, lane: &LaneId, epoch: Option<i64>, out: &mut Outside) {
        let done = match epoch {
            None => self.raise(&lane.namespace, out).is_ok(),
            Some(epoch) => match out.ask_redis(|redis| redis.claim(lane, epoch)) {
                Ok(lanes::redis::Answer::Fenced(_)) => {
                    self.look_at = out.now;
                    true
                }
                answer => answer.is_ok(),
            },
        };
        if !done {
            self.recovering.clear();
        }
        self.sweep_soon |= self.recovering.is_empty();
    }

    fn beat_pulse(&mut self, out: &mut Outside) -> Done {
        if !self.is_member || out.now < self.pulse_at {
            return Ok(false);
        }
        self.pulse_at = out.now + 1_000;
        let (me, beat) = (self.id.trim_end_matches('+').to_owned(), self.pulse + 1);
        let Ok(stood) = out.ask_redis(|redis| redis.pulse(&me, beat)) else {
            self.away = true;
            self.sweep_soon = true;
            return Ok(true);
        };
        let was_away = std::mem::take(&mut self.away);
        let has_lost = std::mem::take(&mut self.has_lost) || stood < self.pulse;
        self.pulse = beat;
        if has_lost || was_away {
            let mut held: Vec<_> = self.held().into_iter().collect();
            held.sort();
            self.recover(held);
        }
        Ok(true)
    }

    // Operations that operators have begun.

    fn see_to_drains(&mut self, out: &mut Outside) -> Done {
        if out.now < self.drains_at {
            return Ok(false);
        }
        self.drains_at = out.now + DRAINS_EVERY;
        let catalog = self.catalog.clone();
        let mut sets: Vec<_> = catalog.lane_sets.values().collect();
        sets.sort_by(|a, b| a.namespace.cmp(&b.namespace));
        for set in sets {
            match catalog.stops.drain(set) {
                Drain::None => {}
                Drain::UnderWay(draining) => {
                    let left = out.ask(|database| database.left(set))?;
                    let is_done = |lane: &LaneId| !left.contains(&lane.index);
                    let done: Vec<_> = draining.into_iter().filter(is_done).collect();
                    if !done.is_empty() {
                        out.ask(|database| database.lanes_drained(set, &done))?;
                        self.config_changed(out)?;
                    }
                }
                Drain::Done => {
                    if out.ask(|database| database.begin_planned(&set.namespace))? {
                        self.config_changed(out)?;
                    }
                }
            }
        }
        Ok(true)
    }

    fn see_to_moves(&mut self, out: &mut Outside) -> Done {
        if out.now < self.moves_at {
            return Ok(false);
        }
        self.moves_at = out.now + FOLLOW_EVERY;
        let catalog = self.catalog.clone();
        let mut moving: Vec<_> = catalog.stops.moving().collect();
        moving.sort_by_key(|moving| moving.hook);
        for moving in moving {
            self.end_move(moving, out)?;
        }
        Ok(true)
    }

    /// As `Engine::end_move`.
    pub fn end_move(&mut self, moving: &crate::store::NamespaceMove, out: &mut Outside) -> Done {
        let unseen = self.acted < moving.since && out.mutant != Mutant::MoveBeforeAllAct;
        if unseen || !out.ask(|database| database.end_move(moving))? {
            return Ok(false);
        }
        out.moved.push(moving.hook);
        self.config_changed(out)?;
        Ok(true)
    }

    /// As `Relay::wipe`.
    pub fn wipe(&mut self, namespace: &Name, out: &mut Outside) {
        if !self.is_member || out.ask_redis(|redis| redis.wipe(namespace)).is_err() {
            return;
        }
        let held = self.held().into_iter();
        let mut held: Vec<_> = held
            .filter(|(lane, _)| lane.namespace == *namespace)
            .collect();
        held.sort();
        let _ = self.raise(namespace, out);
        for (lane, epoch) in held {
            let _ = out.ask_redis(|redis| redis.claim(&lane, epoch));
        }
        self.sweep_soon = true;
    }

    /// As `engine/wipe.rs`: what this node does for its own lanes.
    pub fn make_hints_again(&mut self, namespace: &Name, out: &mut Outside) {
        for (id, run) in &mut self.runs {
            if id.namespace == *namespace {
                run.lane.hinted(run.queue.take());
                run.lane.wipe();
            }
        }
        match out.ask(|database| database.behind()) {
            Ok(found) => self.hint_found(&found, out),
            Err(Failed) => self.sweep_soon = true,
        }
    }
}

impl Run {
    /// The cursors of the next turn; `None` if there is nothing to do. A paused lane forwards hints that belong
    /// elsewhere.
    fn next_batch(
        &mut self,
        id: &LaneId,
        catalog: &Snapshot,
        shares: &mut Shares,
        strangers: &mut Vec<Hint>,
        out: &mut Outside,
    ) -> Option<Vec<CursorId>> {
        self.lane.hinted(self.queue.take());
        if catalog.stops.mode(id) == Mode::Paused {
            let is_strange = |cursor| catalog.is_stranger(id, cursor);
            strangers.append(&mut self.lane.give_up_new(is_strange));
            return (!strangers.is_empty()).then(Vec::new);
        }
        let max = out.below(3) as usize + 1;
        shares.relax(Duration::from_millis(out.now));
        let slow = shares.may_fold(Duration::from_millis(out.now));
        let mut slow = self.lane.ready_of(&slow, out.time());
        slow.sort_unstable();
        let batch = match slow.first() {
            Some(handler) if out.chance(0.5) => self.lane.next_of(*handler, max, out.time()),
            _ => {
                let is_slow = |handler| shares.is_slow(handler);
                self.lane.next_batch(max, out.time(), is_slow)
            }
        };
        (!batch.is_empty()).then_some(batch)
    }

    /// Begins a turn of the cursors to fold, and returns those to deliver, with their gathering times.
    fn begin(
        &mut self,
        number: u64,
        batch: Vec<CursorId>,
        catalog: &Snapshot,
        out: &Outside,
    ) -> Vec<(CursorId, Duration)> {
        let gathered = self.lane.gathered(&batch, out.time());
        let delivers = |(cursor, _): &(CursorId, Duration)| {
            let handler = catalog.handlers.get(&cursor.handler);
            handler.is_some_and(|handler| handler.forward().is_some())
        };
        let batch = batch.into_iter().zip(gathered);
        let (deliveries, batch): (Vec<_>, Vec<_>) = batch.partition(delivers);
        let flying = deliveries.iter().map(|(cursor, _)| *cursor);
        self.lane.delivers(flying);
        let batch: Vec<_> = batch.into_iter().map(|(cursor, _)| cursor).collect();
        if !batch.is_empty() {
            self.turns.push(Taken {
                number,
                batch,
                read: None,
            });
        }
        deliveries
    }

    /// Reads, decides and folds.
    fn read(
        &mut self,
        id: &LaneId,
        catalog: &Snapshot,
        shares: &mut Shares,
        strangers: &mut Vec<Hint>,
        out: &mut Outside,
    ) -> bool {
        let Some(mut taken) = self.turns.pop() else {
            return false;
        };
        let wants = turn::wants(&taken.batch, turn::EVENTS_MAX);
        let Ok(inputs) = out.ask(|database| database.inputs(&wants)) else {
            self.again(&taken.batch);
            return true;
        };
        let now = out.time();
        let gathered = self.lane.gathered(&taken.batch, now);
        let batch: Vec<_> = taken.batch.iter().copied().zip(gathered).collect();
        let (mut turn, tasks) = Turn::begin(catalog, id, &batch, inputs, now);
        strangers.append(&mut turn.strangers);
        let folded = tasks.iter().map(|task| fold_all(task, false, out));
        let folded: Vec<_> = folded.collect();
        for (task, folded) in tasks.iter().zip(&folded) {
            let failure = folded.failure.as_ref();
            let ran_out = failure.is_some_and(Failure::is_out_of_time);
            let took = Duration::from_millis(if ran_out { 50 } else { 1 });
            let cost = Cost {
                took,
                over: if ran_out { took } else { Duration::ZERO },
                ran_out,
            };
            shares.charge(task.handler, cost, Duration::from_millis(out.now));
        }
        let steps = turn.steps(&folded, now, || 0.5);
        taken.read = Some((turn, folded, steps, now));
        self.turns.push(taken);
        true
    }

    /// As `Worker::again`.
    fn again(&mut self, batch: &[CursorId]) {
        for cursor in batch {
            self.lane.not_turned(*cursor);
        }
    }
}

/// Folds as much as the time allows. The content of an event determines its outcome; an event that is
/// skipped once is always skipped.
fn fold_all(task: &Fold, has_time: bool, out: &mut Outside) -> Folded {
    let (code, skips) = (code(&task.reducer), task.on_error == OnError::Skip);
    let mut folded = Folded {
        passed: 0,
        state: task.state.clone(),
        chain: task.chain.clone(),
        skipped: Vec::new(),
        untaken: 0,
        failure: None,
        took: Duration::ZERO,
    };
    for event in &task.events {
        let failure = match event.body[0] {
            b'r' if out.fails || skips => Some(Failure::Rejected("no good".to_owned())),
            b't' if !has_time && out.fails && out.chance(0.6) => {
                Some(Failure::OutOfTime("slow".to_owned()))
            }
            _ if !has_time && folded.passed > 0 && out.chance(0.05) => return folded,
            _ => None,
        };
        let applied = match failure {
            None => {
                folded.state = Some(fold(code, folded.state.as_deref(), event));
                Applied::Folded
            }
            Some(Failure::Rejected(reason)) if skips => {
                folded.skipped.push(DeadLetter {
                    seq: event.seq,
                    reason,
                });
                Applied::Skipped
            }
            Some(failure) => {
                folded.failure = Some(failure);
                return folded;
            }
        };
        folded.chain = folded.chain.next(event.id, applied);
        folded.passed += 1;
    }
    folded
}
