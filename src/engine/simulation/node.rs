//! A node of the simulation: the loops of `engine.rs`, `ownership.rs`, `worker.rs`, `relay.rs` and
//! `place.rs`, one step at a time, where each step is one request to the database or Redis. Decisions
//! are made by the engine's own code.

mod acting;
mod hints;
mod intake;
mod leaving;
mod operations;
mod ownership;
mod rebuilds;
mod runs;
mod tasks;
mod turns;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::runs::{Run, Stopping};
use self::tasks::{Act, Leave, Part, Refold, Send};
use super::flight::Flights;
use super::outside::{Failed, Outside};
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::lane::LaneId;
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::engine::catalog::Snapshot;
use crate::engine::lane::Lane;
use crate::engine::membership::{Lease, Look, Watch};
use crate::engine::share::Shares;
use crate::lanes::{Hint, Lanes};
use crate::store::{CursorBacklog as Found, LaneRow, NodeRow};

const FOLLOW_EVERY: u64 = 1_000;
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
    /// The request that a mutant hinted before it was stored.
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

    /// Simulates `Worker::has_stopped`.
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

    /// Simulates `Engine::hint`.
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
}
