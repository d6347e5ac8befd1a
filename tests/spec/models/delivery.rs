//! Deliveries of one cursor by two nodes: a lane that is handed over while a request is in flight, a node that sleeps
//! between its last check and its request, answers that get lost, and the compare-and-set of the position.

use stateright::{Model, Property};

use super::{explore, lost};

/// Number of events, and of times at which the lane changes its node.
const HEAD: u8 = 3;
const CHANGES: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    BusyIgnored,
    Unmarked,
    MovesBeforeTheAnswer,
    NoEpoch,
    Blind,
}

struct Deliveries(Mutant);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Checked: the lease is long enough.
    Checked,
    Sent,
    Acknowledged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flight {
    seq: u8,
    epoch: u8,
    stage: Stage,
    /// True if the next owner knows of it.
    is_marked: bool,
    /// True if its node has lost the lease.
    is_stale: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    position: u8,
    owner: usize,
    epoch: u8,
    flights: [Option<Flight>; 2],
    changes: u8,
    /// The destination: the newest event, those acknowledged, and the newest epoch, as it is and as it was named.
    newest: u8,
    acknowledged: [bool; HEAD as usize],
    seen: (u8, u8),
    /// Events that may come once more.
    repeats: u8,
    broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Begin,
    Send(usize),
    Answer(usize),
    LoseAnswer(usize),
    Fail(usize),
    Move(usize),
    HandOver,
    LoseLease,
}

impl World {
    fn is_acknowledged(&self, seq: u8) -> bool {
        seq == 0 || self.acknowledged[usize::from(seq) - 1]
    }

    /// The request comes to its destination.
    fn arrives(&mut self, flight: Flight, named: u8) {
        if flight.seq > self.newest + 1
            || flight.seq > self.newest && !self.is_acknowledged(self.newest)
        {
            self.broken = Some("in order");
        }
        if self.is_acknowledged(flight.seq) {
            match self.repeats {
                0 => self.broken = Some("once"),
                _ => self.repeats -= 1,
            }
        }
        let (newest, newest_named) = self.seen;
        if flight.epoch < newest && named >= newest_named {
            self.broken = Some("stale ones can be told");
        }
        self.newest = self.newest.max(flight.seq);
        self.seen = (newest.max(flight.epoch), newest_named.max(named));
    }

    fn moves(&mut self, flight: Flight, is_blind: bool) {
        if is_blind || self.position + 1 == flight.seq {
            if flight.seq < self.position {
                self.broken = Some("in order");
            }
            self.position = flight.seq;
            if !self.is_acknowledged(flight.seq) {
                self.broken = Some("nothing is passed over");
            }
        }
    }

    fn changes_owner(&mut self) {
        self.changes += 1;
        (self.owner, self.epoch) = (1 - self.owner, self.epoch + 1);
    }
}

impl Model for Deliveries {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            position: 0,
            owner: 0,
            epoch: 1,
            flights: [None; 2],
            changes: 0,
            newest: 0,
            acknowledged: [false; HEAD as usize],
            seen: (0, 0),
            repeats: 0,
            broken: None,
        }]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        if world.broken.is_some() {
            return;
        }
        let other = world.flights[1 - world.owner];
        let is_busy = other.is_some_and(|flight| flight.is_marked) && self.0 != Mutant::BusyIgnored;
        if world.flights[world.owner].is_none() && world.position < HEAD && !is_busy {
            acts.push(Act::Begin);
        }
        for (node, flight) in world.flights.iter().enumerate() {
            match flight.map(|flight| flight.stage) {
                None => {}
                Some(Stage::Checked) => acts.push(Act::Send(node)),
                Some(Stage::Sent) => {
                    acts.push(Act::Answer(node));
                    // A destination knows an event that it has acknowledged.
                    let is_known = flight.is_some_and(|of| world.is_acknowledged(of.seq));
                    acts.extend((!is_known).then_some(Act::Fail(node)));
                    // An event may come more often, but not without end.
                    acts.extend((world.repeats < CHANGES).then_some(Act::LoseAnswer(node)));
                }
                Some(Stage::Acknowledged) => acts.push(Act::Move(node)),
            }
        }
        if world.changes < CHANGES {
            acts.extend([Act::HandOver, Act::LoseLease]);
        }
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        let mut next = world.clone();
        match act {
            Act::Begin => {
                next.flights[world.owner] = Some(Flight {
                    seq: world.position + 1,
                    epoch: world.epoch,
                    stage: Stage::Checked,
                    is_marked: false,
                    is_stale: false,
                });
            }
            Act::Send(node) => {
                let flight = next.flights[node].as_mut()?;
                flight.stage = Stage::Sent;
                let flight = *flight;
                let named = match self.0 {
                    Mutant::NoEpoch => 1,
                    _ => flight.epoch,
                };
                next.arrives(flight, named);
                if self.0 == Mutant::MovesBeforeTheAnswer {
                    next.moves(flight, false);
                }
            }
            Act::Answer(node) => {
                let flight = next.flights[node].as_mut()?;
                flight.stage = Stage::Acknowledged;
                next.acknowledged[usize::from(flight.seq) - 1] = true;
            }
            Act::LoseAnswer(node) => {
                let flight = next.flights[node].take()?;
                next.acknowledged[usize::from(flight.seq) - 1] = true;
                next.repeats += 1;
            }
            Act::Fail(node) => next.flights[node] = None,
            Act::Move(node) => {
                let flight = next.flights[node].take()?;
                next.moves(flight, self.0 == Mutant::Blind);
            }
            Act::HandOver => {
                if let Some(flight) = &mut next.flights[world.owner] {
                    flight.is_marked = self.0 != Mutant::Unmarked;
                }
                next.changes_owner();
            }
            Act::LoseLease => {
                if let Some(flight) = &mut next.flights[world.owner] {
                    flight.is_stale = true;
                    next.repeats += 1;
                }
                next.changes_owner();
            }
        }
        let in_flight = next.flights.iter().flatten();
        let counted = in_flight.filter(|flight| flight.stage == Stage::Sent && !flight.is_stale);
        if counted.count() > 1 {
            next.broken = Some("one in flight");
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("safe", |_, world: &World| {
            world.broken.is_none()
        })]
    }
}

#[test]
fn deliveries_come_in_order_one_at_a_time_and_stale_ones_can_be_told() {
    let states = explore(Deliveries(Mutant::None));
    println!("deliveries: {states:?}");
    assert!(states.is_ok());
}

#[test]
fn no_event_is_forgotten_by_its_deliveries() {
    let all_done = |world: &World| world.position == HEAD;
    let forgotten = lost(&Deliveries(Mutant::None), |_| true, all_done);
    assert_eq!(forgotten, None);
}

#[test]
fn each_rule_of_the_deliveries_is_needed() {
    use Mutant::*;
    for mutant in [BusyIgnored, Unmarked, MovesBeforeTheAnswer, NoEpoch, Blind] {
        assert_eq!(explore(Deliveries(mutant)), Err("safe"), "{mutant:?}");
    }
}
