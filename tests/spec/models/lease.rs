//! The lease of a node in discrete time: A holds a lane and renews, B watches A's beat, removes A and takes
//! the lane. No wall clock is used: only that both count seconds at nearly the same rate.

use stateright::{Model, Property};

use super::{explore, lost};

const LEASE: i8 = 5;
const MARGIN: i8 = 1;
const REQUEST: i8 = 2;
const END: i8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    DeadlineFromReply,
    NoRequestBound,
    ReapWithoutCompare,
    RenewalRevives,
    ShortWatch,
    NoMargin,
    NoReap,
}

struct Lease(Mutant);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Renewal {
    Sent,
    Stored,
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: i8,
    /// True if A has a row.
    row: bool,
    alive: bool,
    renewal: Option<(i8, Renewal)>,
    deadline: i8,
    /// Ends of the deliveries of A and B; 0 for none.
    delivers: [i8; 2],
    /// True if the beat is the one that B saw last; `None` before its first check.
    seen: Option<bool>,
    since: i8,
    /// True if B has the lane.
    taken: bool,
    /// True if the clock of B may still count one second too many.
    fast: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Tick,
    CountTwice,
    Send,
    Store,
    Learn,
    Drop,
    Deliver(usize),
    Die,
    StoreLate,
    See,
    Reap,
}

impl Model for Lease {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            now: 0,
            row: true,
            alive: true,
            renewal: None,
            deadline: LEASE - MARGIN,
            delivers: [0, 0],
            seen: None,
            since: 0,
            taken: false,
            fast: true,
        }]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        let mut may = |is: bool, act| acts.extend(is.then_some(act));
        may(world.now < END, Act::Tick);
        may(world.fast && world.seen.is_some(), Act::CountTwice);
        let renewal = world.renewal.map(|(_, renewal)| renewal);
        if world.alive {
            let is_late = world.now + LEASE - MARGIN > world.deadline;
            may(renewal.is_none() && is_late, Act::Send);
            may(renewal == Some(Renewal::Sent), Act::Store);
            may(renewal == Some(Renewal::Stored), Act::Learn);
            may(renewal == Some(Renewal::Lost), Act::Drop);
            let in_time = match self.0 {
                Mutant::NoRequestBound => world.now < world.deadline,
                _ => world.now + REQUEST <= world.deadline,
            };
            may(world.delivers[0] == 0 && in_time, Act::Deliver(0));
            may(true, Act::Die);
        } else {
            may(renewal == Some(Renewal::Sent) && world.row, Act::StoreLate);
        }
        may(world.row && world.seen != Some(true), Act::See);
        let watched = match self.0 {
            Mutant::ShortWatch => LEASE - 3,
            _ => LEASE,
        };
        let same = world.seen == Some(true) || self.0 == Mutant::ReapWithoutCompare;
        let is_silent = world.row && world.seen.is_some() && world.now - world.since >= watched;
        may(
            is_silent && same && !world.taken && self.0 != Mutant::NoReap,
            Act::Reap,
        );
        may(world.taken && world.delivers[1] == 0, Act::Deliver(1));
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        let mut next = world.clone();
        let moved = world.seen.map(|_| false);
        match act {
            Act::Tick => {
                next.now += 1;
                for until in &mut next.delivers {
                    *until = if next.now >= *until { 0 } else { *until };
                }
            }
            Act::CountTwice => (next.since, next.fast) = (world.since - 1, false),
            Act::Send => next.renewal = Some((world.now, Renewal::Sent)),
            Act::Store => {
                let (sent, _) = world.renewal?;
                let revives = self.0 == Mutant::RenewalRevives;
                if world.row || revives {
                    (next.row, next.seen) = (true, moved);
                    next.renewal = Some((sent, Renewal::Stored));
                } else {
                    next.renewal = Some((sent, Renewal::Lost));
                }
            }
            Act::Learn => {
                let (sent, _) = world.renewal?;
                let from = if self.0 == Mutant::DeadlineFromReply {
                    world.now
                } else {
                    sent
                };
                let margin = if self.0 == Mutant::NoMargin {
                    0
                } else {
                    MARGIN
                };
                (next.deadline, next.renewal) = (from + LEASE - margin, None);
            }
            Act::Drop => (next.alive, next.renewal) = (false, None),
            Act::Deliver(who) => next.delivers[who] = world.now + REQUEST,
            Act::Die => {
                next.alive = false;
                next.delivers[0] = 0;
                next.renewal = world
                    .renewal
                    .filter(|(_, renewal)| *renewal == Renewal::Sent);
            }
            Act::StoreLate => (next.seen, next.renewal) = (moved, None),
            Act::See => (next.seen, next.since) = (Some(true), world.now),
            Act::Reap => (next.row, next.taken) = (false, true),
        }
        Some(next)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.now <= END
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("one delivers", |_, world: &World| {
            world.delivers.contains(&0)
        })]
    }
}

/// Number of states, or the violated property.
fn explored(mutant: Mutant) -> Result<usize, &'static str> {
    let states = explore(Lease(mutant))?;
    // If there is still time for it.
    let is_dead = |world: &World| !world.alive && world.now <= END - LEASE - 2;
    match lost(&Lease(mutant), is_dead, |world| world.taken) {
        Some(_) => Err("nobody takes the lane of a dead node"),
        None => Ok(states),
    }
}

#[test]
fn a_lane_is_never_delivered_by_two_and_that_of_a_dead_node_is_taken() {
    // As many as lease_model.py finds, which this was ported from.
    assert_eq!(explored(Mutant::None), Ok(197_743));
}

#[test]
fn each_rule_of_the_lease_is_needed() {
    use Mutant::*;
    for mutant in [
        DeadlineFromReply,
        NoRequestBound,
        ReapWithoutCompare,
        RenewalRevives,
        ShortWatch,
        NoMargin,
    ] {
        assert_eq!(explored(mutant), Err("one delivers"), "{mutant:?}");
    }
    let nobody = Err("nobody takes the lane of a dead node");
    assert_eq!(explored(NoReap), nobody);
}
