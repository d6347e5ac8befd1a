//! Three nodes and one database, driven by a seed through failures of requests, processes and clocks.
//! Whatever is late, lost or of unknown outcome, two nodes never both act on a lane; and soon after the
//! last fault every lane has a node again, evenly.
//!
//! The database here is atomic, statement by statement; `tests/spec/store/nodes.rs` races real ones. The
//! nodes take the steps of `look.rs`, as `engine/ownership.rs` does. Each mutant breaks one rule and must be
//! detected.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::domain::time::Timestamp;

const MACHINES: usize = 3;
const LANES: u16 = 8;
const SEEDS: u64 = 100;

/// One step of real time, and the ends of the phases, in milliseconds.
const TICK: u64 = 50;
const STORM_END: u64 = 90_000;
const LATE_MAX: u64 = 12_000;
const CALM: u64 = STORM_END + LATE_MAX;
/// Time by which all lanes run: a lease and a renewal by the slowest clock, and the looks around them.
const ALL_RUN: u64 = CALM + 21_000;
const EVEN: u64 = ALL_RUN + 6_000;

/// Time for which a node waits for an answer, and interval between two looks.
const PATIENCE: u64 = 5_000;
const LOOK_EVERY: u64 = 500;

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    DeadlineFromAnswer,
    UnknownRenews,
    NoMargin,
    NoRowIgnored,
    RenewalRevives,
    ReapWithoutCompare,
    ShortWatch,
    NoReap,
    ExpiryByWallClock,
    OneEpochPerNode,
}

#[test]
fn two_nodes_never_act_on_a_lane_and_none_is_left_alone_whatever_happens() {
    for seed in 0..SEEDS {
        let lived = World::new(seed, Mutant::None).live();
        assert_eq!(lived, Ok(()), "seed {seed}");
    }
}

#[test]
fn each_rule_of_the_leases_is_needed() {
    use Mutant::*;
    // Each mutant with the first seed that detects it today; the search continues from there.
    for (mutant, first, expected) in [
        (DeadlineFromAnswer, 396, "two owners"),
        (UnknownRenews, 2, "two owners"),
        (NoMargin, 215, "two owners"),
        (NoRowIgnored, 0, "uneven"),
        (RenewalRevives, 565, "two owners"),
        (ReapWithoutCompare, 21, "two owners"),
        (ShortWatch, 3, "two owners"),
        (NoReap, 1, "no owner"),
        (ExpiryByWallClock, 0, "two owners"),
        (OneEpochPerNode, 0, "no owner"),
    ] {
        let found = (first..first + SEEDS * 10).find(|seed| {
            let error = World::new(*seed, mutant).live().err();
            error.is_some_and(|error| error.contains(expected))
        });
        assert!(found.is_some(), "{mutant:?} is not found out");
        println!("{mutant:?} is found out by seed {found:?}");
    }
}

/// A request of a node to the database.
#[derive(Clone, Debug)]
enum Ask {
    Join,
    Beat,
    Nodes,
    Lanes,
    Reap(String, i64),
    Release(Vec<(LaneId, i64)>),
    Take(Vec<LaneId>),
}

#[derive(Clone, Debug)]
enum Answer {
    Done,
    Beaten(bool),
    Nodes(Vec<NodeRow>),
    Lanes(Vec<LaneRow>),
    Taken(Vec<(LaneId, i64)>),
}

/// A request on its way to the database, or an answer on its way back.
struct Flight {
    due: u64,
    machine: usize,
    /// The process that asked, and the number of its request.
    node: String,
    number: u64,
    /// Time of sending, by the clock of the machine.
    sent: Duration,
    what: What,
}

enum What {
    Ask(Ask, Option<u64>),
    Answer(Answer),
}

struct Machine {
    /// Speed of its clock, and its start.
    rate: f64,
    began: Duration,
    frozen_until: u64,
    cut_off_until: u64,
    up_at: u64,
    node: Option<Node>,
}

impl Machine {
    fn clock(&self, now: u64) -> Duration {
        self.began + Duration::from_millis(now).mul_f64(self.rate)
    }
}

/// A process, as in `ownership.rs`.
struct Node {
    id: String,
    lease: Option<Lease>,
    watch: Watch,
    held: HashMap<LaneId, i64>,
    beaten: Option<Duration>,
    look: Option<Look>,
    waits: Option<(u64, u64, Ask, Duration)>,
    next_look: u64,
}

#[derive(Default)]
struct Database {
    nodes: BTreeMap<String, NodeRow>,
    lanes: Vec<LaneRow>,
    drawn: i64,
    /// The epoch of each node, which only a mutant uses.
    epochs: HashMap<String, i64>,
}

struct World {
    random: StdRng,
    mutant: Mutant,
    now: u64,
    /// Frequency of failures of requests and machines, from 1 to 5.
    weather: u64,
    database: Database,
    away_until: u64,
    machines: Vec<Machine>,
    flights: Vec<Flight>,
    numbers: u64,
}

impl World {
    fn new(seed: u64, mutant: Mutant) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let machine = |random: &mut StdRng| Machine {
            rate: random.random_range(0.94..1.06),
            began: Duration::from_secs(random.random_range(0..100_000)),
            frozen_until: 0,
            cut_off_until: 0,
            up_at: random.random_range(0..10_000),
            node: None,
        };
        Self {
            machines: (0..MACHINES).map(|_| machine(&mut random)).collect(),
            random,
            mutant,
            now: 0,
            weather: seed % 5 + 1,
            database: Database {
                lanes: (0..LANES).map(free_lane).collect(),
                ..Database::default()
            },
            away_until: 0,
            flights: Vec::new(),
            numbers: 0,
        }
    }

    fn live(mut self) -> Result<(), String> {
        while self.now < EVEN {
            self.now += TICK;
            if self.now < STORM_END {
                self.storm();
            }
            self.deliver();
            for machine in 0..MACHINES {
                self.run(machine);
            }
            let shares = self.shares()?;
            let run: usize = shares.iter().sum();
            if self.now >= ALL_RUN && run != usize::from(LANES) {
                return Err(format!("no owner: {run} lanes run at {}", self.now));
            }
        }
        let shares = self.shares()?;
        match (shares.iter().max(), shares.iter().min()) {
            (Some(most), Some(least)) if most - least <= 1 => Ok(()),
            _ => Err(format!("uneven: {shares:?}")),
        }
    }

    /// Number of lanes that each machine may act on now.
    fn shares(&self) -> Result<Vec<usize>, String> {
        let mut owners: BTreeMap<&LaneId, &str> = BTreeMap::new();
        let mut shares = vec![0; MACHINES];
        for (share, machine) in shares.iter_mut().zip(&self.machines) {
            let Some(node) = &machine.node else { continue };
            if !node.holds(machine.clock(self.now), self.mutant) {
                continue;
            }
            *share = node.held.len();
            for lane in node.held.keys() {
                if let Some(other) = owners.insert(lane, &node.id) {
                    let both = format!("{other} and {} at {}", node.id, self.now);
                    return Err(format!("two owners of {lane}: {both}"));
                }
            }
        }
        Ok(shares)
    }

    /// Occasionally something happens to a machine or the database.
    fn storm(&mut self) {
        let within = |random: &mut StdRng, now: u64, max: u64| {
            (now + random.random_range(0..max)).min(STORM_END)
        };
        for machine in &mut self.machines {
            match self.random.random_range(0..6_000 / self.weather) {
                0 | 1 => machine.frozen_until = within(&mut self.random, self.now, 25_000),
                2 | 3 => machine.cut_off_until = within(&mut self.random, self.now, 25_000),
                4 => {
                    machine.node = None;
                    machine.up_at = within(&mut self.random, self.now, 15_000);
                }
                _ => {}
            }
        }
        if self.random.random_range(0..6_000 / self.weather) == 0 {
            self.away_until = within(&mut self.random, self.now, 20_000);
        }
    }

    /// Times at which a request and its answer arrive; `None` if lost.
    fn fate(&mut self, machine: usize) -> (Option<u64>, Option<u64>) {
        let quick = |random: &mut StdRng| random.random_range(0..100);
        let there = self.now + quick(&mut self.random);
        let back = Some(quick(&mut self.random));
        if self.now >= STORM_END {
            return (Some(there), back);
        }
        let cut_off = self.now < self.machines[machine].cut_off_until;
        let away = self.now < self.away_until;
        match self.random.random_range(0..500 / self.weather) {
            _ if cut_off => (None, None),
            0..50 if away => (None, None),
            _ if away => (Some(self.away_until + there - self.now), back),
            0..2 => (None, None),
            2..5 => (Some(there), None),
            5..15 => {
                let late = self.random.random_range(0..LATE_MAX / 2);
                let back = self.random.random_range(0..LATE_MAX / 3);
                (Some(there + late), Some(back))
            }
            _ => (Some(there), back),
        }
    }

    fn deliver(&mut self) {
        let flights = std::mem::take(&mut self.flights);
        let (due, later): (Vec<_>, Vec<_>) = flights
            .into_iter()
            .partition(|flight| flight.due <= self.now);
        self.flights = later;
        for flight in due {
            match flight.what {
                What::Ask(ask, back) => {
                    let clock = self.machines[flight.machine].clock(self.now);
                    let what =
                        self.database
                            .answer(&flight.node, ask, (flight.sent, clock), self.mutant);
                    if let Some(back) = back {
                        self.flights.push(Flight {
                            due: self.now + back,
                            what: What::Answer(what),
                            ..flight
                        });
                    }
                }
                What::Answer(answer) => {
                    let frozen_until = self.machines[flight.machine].frozen_until;
                    if frozen_until > self.now {
                        self.flights.push(Flight {
                            due: frozen_until,
                            what: What::Answer(answer),
                            ..flight
                        });
                    } else {
                        self.answered(flight.machine, &flight.node, flight.number, answer);
                    }
                }
            }
        }
    }

    fn answered(&mut self, machine: usize, id: &str, number: u64, answer: Answer) {
        let clock = self.machines[machine].clock(self.now);
        let Some(node) = &mut self.machines[machine].node else {
            return;
        };
        let waits = node
            .waits
            .take_if(|waits| node.id == id && waits.0 == number);
        if let Some((_, _, ask, sent)) = waits {
            node.learn(ask, answer, sent, (clock, self.now), self.mutant);
        }
    }

    fn fresh_id(&mut self) -> String {
        self.numbers += 1;
        // In random order, so that young and old nodes are equally likely to come first.
        format!("{:04x}-{}", self.random.random::<u16>(), self.numbers)
    }

    fn run(&mut self, number: usize) {
        if self.now < self.machines[number].frozen_until || self.now < self.machines[number].up_at {
            return;
        }
        let fresh = self.fresh_id();
        let machine = &mut self.machines[number];
        let clock = machine.clock(self.now);
        let node = machine.node.get_or_insert_with(|| Node::new(fresh.clone()));
        let Some(ask) = node.next(clock, self.now, fresh, self.mutant) else {
            return;
        };
        self.numbers += 1;
        node.waits = Some((self.numbers, self.now + PATIENCE, ask.clone(), clock));
        let node = node.id.clone();
        let request = self.numbers;
        if let (Some(due), back) = self.fate(number) {
            self.flights.push(Flight {
                due,
                machine: number,
                node,
                number: request,
                sent: clock,
                what: What::Ask(ask, back),
            });
        }
    }
}

impl Node {
    fn new(id: String) -> Self {
        Self {
            id,
            lease: None,
            watch: Watch::default(),
            held: HashMap::new(),
            beaten: None,
            look: None,
            waits: None,
            next_look: 0,
        }
    }

    fn holds(&self, clock: Duration, mutant: Mutant) -> bool {
        let more = match mutant {
            Mutant::NoMargin => MARGIN,
            _ => Duration::ZERO,
        };
        let lease = self.lease.as_ref();
        lease.is_some_and(|lease| lease.holds(clock.saturating_sub(more)))
    }

    /// The next request, if any.
    fn next(&mut self, clock: Duration, now: u64, fresh: String, mutant: Mutant) -> Option<Ask> {
        if let Some((_, until, ask, sent)) = &self.waits {
            if now < *until {
                return None;
            }
            match (ask, mutant, &mut self.lease) {
                // The row may exist; it will never be used.
                (Ask::Join, ..) => *self = Self::new(fresh.clone()),
                (Ask::Beat, Mutant::UnknownRenews, Some(lease)) => lease.renewed(*sent),
                _ => {}
            }
            self.waits = None;
            self.look = None;
        }
        if self.lease.is_some() && !self.holds(clock, mutant) {
            self.held.clear();
        }
        if self.lease.is_none() {
            return Some(Ask::Join);
        }
        if self.look.is_none() {
            if now < self.next_look {
                return None;
            }
            self.next_look = now + LOOK_EVERY;
            self.look = Some(Look::begin());
        }
        loop {
            let Some(step) = self.look.as_mut()?.next_step() else {
                self.look = None;
                return None;
            };
            let ask = self.ask(step, clock, &fresh, mutant);
            if ask.is_some() {
                return ask;
            }
        }
    }

    /// The request of a step, if it has one.
    fn ask(&mut self, step: LookStep, clock: Duration, fresh: &str, mutant: Mutant) -> Option<Ask> {
        match step {
            LookStep::Beat => {
                let due = |beaten: Duration| clock.saturating_sub(beaten) >= RENEWAL;
                return self.beaten.is_none_or(due).then_some(Ask::Beat);
            }
            // It begins again as a new process would.
            LookStep::Join => {
                *self = Self::new(fresh.to_owned());
                return Some(Ask::Join);
            }
            LookStep::ReadLanes => return Some(Ask::Lanes),
            LookStep::ReadNodes => return Some(Ask::Nodes),
            LookStep::Reap(id, beat) => return Some(Ask::Reap(id, beat)),
            LookStep::HandOver(lanes) => {
                lanes.iter().for_each(|(lane, _)| {
                    self.held.remove(lane);
                });
                return Some(Ask::Release(lanes));
            }
            LookStep::Take(lanes) => return Some(Ask::Take(lanes)),
            LookStep::Decide => {
                let is_stable = self.watch.is_stable(seen_at(clock, mutant));
                let look = self.look.as_mut()?;
                look.decide(&self.id, &self.held, is_stable);
            }
            LookStep::CloseAll => self.held.clear(),
            LookStep::Close(lanes) => lanes.iter().for_each(|lane| {
                self.held.remove(lane);
            }),
            LookStep::Open(lanes) => self.held.extend(lanes),
            // There is no resize here, no configuration and no hint.
            LookStep::Follow
            | LookStep::Seal(_)
            | LookStep::EndResizes
            | LookStep::Refresh
            | LookStep::Raise(_)
            | LookStep::Place
            | LookStep::Claim(_)
            | LookStep::Sweep => {}
        }
        None
    }

    fn learn(
        &mut self,
        ask: Ask,
        answer: Answer,
        sent: Duration,
        (clock, now): (Duration, u64),
        mutant: Mutant,
    ) {
        let Some(look) = &mut self.look else {
            // Only a node without a lease asks for anything outside a look.
            self.lease = Some(Lease::begun(sent));
            return;
        };
        match (ask, answer) {
            (Ask::Beat, Answer::Beaten(beaten)) => {
                self.beaten = Some(sent);
                let from = match mutant {
                    Mutant::DeadlineFromAnswer => clock,
                    _ => sent,
                };
                match &mut self.lease {
                    Some(lease) if beaten || mutant == Mutant::NoRowIgnored => lease.renewed(from),
                    _ => look.lease_lost(),
                }
            }
            (_, Answer::Nodes(mut nodes)) => {
                if mutant == Mutant::ExpiryByWallClock {
                    let time = Timestamp::default().after(clock);
                    nodes.retain(|node| node.id == self.id || node.started_at > time);
                }
                let mut silent = self.watch.see(&nodes, &self.id, seen_at(clock, mutant));
                if mutant == Mutant::NoReap {
                    silent.clear();
                }
                look.nodes_read(nodes, silent);
            }
            (_, Answer::Lanes(lanes)) => look.lanes_read(lanes),
            (_, Answer::Taken(taken)) => look.taken(taken),
            (Ask::Reap(..), _) => self.next_look = now,
            _ => {}
        }
    }
}

/// The time that a node's watch goes by.
fn seen_at(clock: Duration, mutant: Mutant) -> Duration {
    match mutant {
        Mutant::ShortWatch => clock.mul_f64(1.5),
        _ => clock,
    }
}

impl Database {
    /// Runs one transaction of the node `id`, `sent` at a time of its clock, which shows `clock` now.
    fn answer(
        &mut self,
        id: &str,
        ask: Ask,
        (sent, clock): (Duration, Duration),
        mutant: Mutant,
    ) -> Answer {
        match ask {
            Ask::Join => {
                self.nodes.insert(id.to_owned(), fresh_node(id, sent));
                self.drawn += 1;
                self.epochs.insert(id.to_owned(), self.drawn);
            }
            Ask::Beat => {
                if mutant == Mutant::RenewalRevives {
                    self.nodes
                        .entry(id.to_owned())
                        .or_insert_with(|| fresh_node(id, sent));
                }
                let Some(row) = self.nodes.get_mut(id) else {
                    return Answer::Beaten(false);
                };
                row.beat += 1;
                row.started_at = expires(sent);
                return Answer::Beaten(true);
            }
            Ask::Nodes => return Answer::Nodes(self.nodes.values().cloned().collect()),
            Ask::Lanes => return Answer::Lanes(self.lanes.clone()),
            Ask::Reap(other, beat) => {
                let compares = mutant != Mutant::ReapWithoutCompare;
                let is_same = |row: &NodeRow| row.beat == beat || !compares;
                if self.nodes.get(&other).is_some_and(is_same) {
                    self.nodes.remove(&other);
                }
            }
            Ask::Release(lanes) => {
                for (lane, epoch) in lanes {
                    let row = self.lanes.iter_mut().find(|row| row.id == lane);
                    let row = row.filter(|row| row.node.as_deref() == Some(id));
                    if let Some(row) = row.filter(|row| row.epoch == epoch) {
                        row.node = None;
                    }
                }
            }
            Ask::Take(lanes) => {
                let taken = lanes
                    .into_iter()
                    .filter_map(|lane| self.take(lane, id, clock, mutant));
                return Answer::Taken(taken.collect());
            }
        }
        Answer::Done
    }

    fn take(
        &mut self,
        lane: LaneId,
        id: &str,
        clock: Duration,
        mutant: Mutant,
    ) -> Option<(LaneId, i64)> {
        self.drawn += 1;
        let epoch = match mutant {
            Mutant::OneEpochPerNode => *self.epochs.get(id)?,
            _ => self.drawn,
        };
        let lives = |node: &String| match mutant {
            Mutant::ExpiryByWallClock => {
                let row = self.nodes.get(node);
                row.is_some_and(|row| row.started_at > Timestamp::default().after(clock))
            }
            _ => self.nodes.contains_key(node),
        };
        let row = self.lanes.iter_mut().find(|row| row.id == lane)?;
        let is_free = !row.node.as_ref().is_some_and(lives);
        if !is_free || row.epoch >= epoch || !self.nodes.contains_key(id) {
            return None;
        }
        row.node = Some(id.to_owned());
        row.epoch = epoch;
        Some((lane, epoch))
    }
}

fn free_lane(index: u16) -> LaneRow {
    LaneRow {
        id: LaneId {
            namespace: crate::domain::name::Name::default_namespace(),
            generation: 1,
            index,
        },
        node: None,
        epoch: 0,
        lanes: 8,
        set: crate::store::SetState::Stable,
    }
}

/// Expiry by wall clocks, which only a mutant uses.
fn expires(sent: Duration) -> Timestamp {
    Timestamp::default().after(sent + LEASE)
}

fn fresh_node(id: &str, sent: Duration) -> NodeRow {
    NodeRow {
        id: id.to_owned(),
        name: id.to_owned(),
        data_dir: id.to_owned(),
        hints: "redis".to_owned(),
        state: "live".to_owned(),
        beat: 0,
        config_seen: 0,
        report: String::new(),
        started_at: expires(sent),
    }
}
