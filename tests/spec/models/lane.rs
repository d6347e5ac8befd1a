//! Hints, lanes, epochs: cursors of forwards, lanes of two generations, nodes that may own them, nodes that let
//! events in. One step is one atomic act on the database, on Redis or on the receiver.
//!
//! A port of `lane_model.py` (one cursor, one lane a generation) that also knows more cursors and lanes that
//! overlap. `HOOKLANE_MODELS=all` runs every scenario with as many events as the original.

use stateright::{Model, Property};

use super::{explore, lost};

/// Next step of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Idle,
    Read,
    Have,
    Sent,
    Raise,
    Claim,
    Late,
    SweepEarly,
}

/// A node that may own a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Worker {
    alive: bool,
    active: bool,
    at: At,
    /// The cursor that it reads or delivers, with its position at the time.
    cursor: u8,
    n: u8,
    epoch: u8,
    /// Cursors that it has to check, as bits.
    todo: u8,
}

const OFF: Worker = Worker {
    alive: true,
    active: false,
    at: At::Idle,
    cursor: 0,
    n: 0,
    epoch: 0,
    todo: 0,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Cursor {
    head: u8,
    position: u8,
    /// The last event delivered for the first time.
    most: u8,
    /// Workers that still deliver although their lane was taken.
    busy: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Lane {
    queue: u8,
    own: u8,
    lease: Option<u8>,
    epoch: u8,
    sealed: bool,
}

/// A node that lets events of one cursor in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Producer {
    events: u8,
    /// 0 nothing, 1 about to hint, 2 about to commit what was hinted.
    step: u8,
    generation: u8,
}

/// `C` cursors, `L` lanes of both generations, `W` workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World<const C: usize, const L: usize, const W: usize> {
    cursors: [Cursor; C],
    lanes: [Lane; L],
    workers: [Worker; W],
    producers: [Producer; 2],
    /// The newest generation, and the one that Redis has heard of; 0: none.
    newest: u8,
    heard: u8,
    faults: Faults,
    broken: Option<&'static str>,
}

/// Failures and operator actions that may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Faults {
    resize: bool,
    wipe: bool,
    crash: bool,
    expire: bool,
    lost_push: bool,
    failover: bool,
    lost_hint: bool,
    handover: bool,
    /// Failures that may happen any number of times.
    zombie: bool,
    sweep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    ReadBeforePop,
    HintBeforeCommit,
    SweepBeforeRaise,
    SweepBeforeClaim,
    NoSealWait,
    IgnoreBusy,
    NoSweepOnTake,
    NoGenerationCheck,
    BlindWrite,
    StopOnLostAdvance,
    EpochPerNode,
    IgnoreNotOwner,
}

/// The lane of each cursor in each generation, and the old lanes for which each new lane waits.
struct Lanes<const C: usize, const L: usize, const W: usize> {
    mutant: Mutant,
    faults: Faults,
    events: [u8; 2],
    /// Old lanes come first.
    old: usize,
    of: [[usize; 2]; C],
    overlaps: &'static [(usize, usize)],
}

type Act<const C: usize, const L: usize, const W: usize> = World<C, L, W>;

impl<const C: usize, const L: usize, const W: usize> Lanes<C, L, W> {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == mutant
    }

    fn generation(&self, lane: usize) -> u8 {
        if lane < self.old { 1 } else { 2 }
    }

    /// The cursors of a lane, as bits.
    fn cursors(&self, lane: usize) -> u8 {
        let side = usize::from(lane >= self.old);
        let of = (0..C).filter(|cursor| self.of[*cursor][side] == lane);
        of.fold(0, |bits, cursor| bits | 1 << cursor)
    }

    /// All successor states.
    fn next(&self, world: &World<C, L, W>) -> Vec<World<C, L, W>> {
        let mut next = Vec::with_capacity(16);
        for producer in 0..2 {
            self.produce(world, producer, &mut next);
        }
        for worker in 0..W {
            self.work(world, worker, &mut next);
        }
        self.others(world, &mut next);
        next
    }

    fn produce(&self, world: &World<C, L, W>, at: usize, next: &mut Vec<World<C, L, W>>) {
        let Producer {
            events,
            step,
            generation,
        } = world.producers[at];
        let cursor = at % C;
        let early = self.is(Mutant::HintBeforeCommit);
        let mut put = |change: &dyn Fn(&mut World<C, L, W>)| {
            let mut new = *world;
            change(&mut new);
            next.push(new);
        };
        match step {
            0 if events > 0 && early => put(&|new| new.producers[at].step = 1),
            0 if events > 0 => put(&|new| {
                new.cursors[cursor].head += 1;
                (new.producers[at].events, new.producers[at].step) = (events - 1, 1);
            }),
            1 => {
                let done = if early { 2 } else { 0 };
                let push = |new: &mut World<C, L, W>| {
                    let lane = self.of[cursor][usize::from(generation) - 1];
                    new.lanes[lane].queue |= 1 << cursor;
                    new.producers[at].step = done;
                };
                if world.heard == 0 {
                    put(&|new| {
                        new.heard = world.newest;
                        new.producers[at].generation = world.newest;
                    });
                } else if self.is(Mutant::NoGenerationCheck) {
                    put(&push);
                } else if generation < world.heard {
                    put(&|new| new.producers[at].generation = world.newest);
                } else if generation > world.heard {
                    put(&|new| new.heard = generation);
                } else {
                    put(&push);
                }
                if world.faults.lost_push {
                    put(&|new| {
                        new.producers[at].step = done;
                        new.faults.lost_push = false;
                    });
                }
            }
            2 => put(&|new| {
                new.cursors[cursor].head += 1;
                (new.producers[at].events, new.producers[at].step) = (events - 1, 0);
            }),
            _ => {}
        }
    }

    fn work(&self, world: &World<C, L, W>, at: usize, next: &mut Vec<World<C, L, W>>) {
        let worker = world.workers[at];
        if !worker.alive {
            return;
        }
        let lane = at * L / W;
        if worker.active {
            self.act(world, at, lane, next);
        }
        self.own(world, at, lane, next);
    }

    fn act(&self, world: &World<C, L, W>, at: usize, lane: usize, next: &mut Vec<World<C, L, W>>) {
        let worker = world.workers[at];
        let me = at as u8;
        let generation = self.generation(lane);
        let Lane {
            queue, own, lease, ..
        } = world.lanes[lane];
        let holds = lease == Some(me);
        let zombie = world.faults.zombie;
        let mut put = |change: &dyn Fn(&mut World<C, L, W>, &mut Worker)| {
            let (mut new, mut doing) = (*world, worker);
            change(&mut new, &mut doing);
            new.workers[at] = doing;
            next.push(new);
        };
        let idle = |doing: &mut Worker| {
            (doing.at, doing.cursor, doing.n, doing.todo) = (At::Idle, 0, 0, 0);
        };
        let to = |at: At| move |_: &mut World<C, L, W>, doing: &mut Worker| doing.at = at;
        let have = |doing: &mut Worker, cursor: u8| {
            let n = world.cursors[usize::from(cursor)].position;
            (doing.at, doing.cursor, doing.n) = (At::Have, cursor, n);
        };
        let is_behind = |cursor: u8| {
            let cursor = world.cursors[usize::from(cursor)];
            cursor.head > cursor.position
        };
        let all = self.cursors(lane);
        let bits = |bits: u8| (0..C as u8).filter(move |cursor| bits >> cursor & 1 == 1);
        let first_behind = bits(all).find(|cursor| is_behind(*cursor));
        match worker.at {
            At::Idle => {
                let heard = world.heard;
                if heard < generation {
                    put(&to(At::Raise));
                } else if heard == generation
                    && own < worker.epoch
                    && !self.is(Mutant::IgnoreNotOwner)
                {
                    put(&to(At::Claim));
                } else if heard == generation && own > worker.epoch {
                    put(&|_, doing| doing.active = false);
                } else if heard == generation && queue != 0 {
                    if self.is(Mutant::ReadBeforePop) {
                        put(&|_, doing| match first_behind {
                            Some(cursor) => have(doing, cursor),
                            None => doing.at = At::Late,
                        });
                    } else {
                        put(&|new, doing| {
                            new.lanes[lane].queue = 0;
                            (doing.at, doing.todo) = (At::Read, queue);
                        });
                    }
                }
                if world.faults.sweep && holds && first_behind.is_some() {
                    put(&|_, doing| {
                        let behind = bits(all).filter(|cursor| is_behind(*cursor));
                        doing.todo = behind.fold(0, |todo, cursor| todo | 1 << cursor);
                        doing.at = At::Read;
                    });
                }
            }
            At::Late => put(&|new, doing| {
                new.lanes[lane].queue = 0;
                idle(doing);
            }),
            At::Raise => put(&|new, doing| {
                new.heard = world.heard.max(generation);
                doing.at = match self.is(Mutant::SweepBeforeClaim) {
                    true => At::SweepEarly,
                    false => At::Claim,
                };
            }),
            At::SweepEarly => put(&|_, doing| match first_behind {
                Some(cursor) => have(doing, cursor),
                None => doing.at = At::Claim,
            }),
            At::Claim => {
                let swept = [
                    Mutant::SweepBeforeClaim,
                    Mutant::SweepBeforeRaise,
                    Mutant::NoSweepOnTake,
                ];
                if world.heard < generation {
                    put(&to(At::Raise));
                } else if world.heard > generation {
                    put(&to(At::Idle));
                } else if worker.epoch >= own {
                    put(&|new, doing| {
                        new.lanes[lane].own = worker.epoch;
                        (doing.at, doing.todo) = match swept.contains(&self.mutant) {
                            true => (At::Idle, 0),
                            false => (At::Read, all),
                        };
                    });
                } else if !self.is(Mutant::EpochPerNode) {
                    put(&|_, doing| {
                        idle(doing);
                        doing.active = false;
                    });
                }
            }
            At::Read => {
                let waits = |cursor: &u8| {
                    let busy = world.cursors[usize::from(*cursor)].busy;
                    let other = busy.filter(|busy| *busy != me && !self.is(Mutant::IgnoreBusy));
                    other.is_some_and(|busy| world.workers[usize::from(busy)].alive)
                };
                if let Some(cursor) = bits(worker.todo).find(|cursor| !waits(cursor)) {
                    put(&|_, doing| {
                        if is_behind(cursor) {
                            return have(doing, cursor);
                        }
                        doing.todo &= !(1 << cursor);
                        if doing.todo == 0 {
                            idle(doing);
                        }
                    });
                }
            }
            At::Have if holds || zombie => put(&|new, doing| {
                let cursor = &mut new.cursors[usize::from(worker.cursor)];
                let others = world.workers.iter().enumerate();
                let mut others = others.filter(|(other, _)| *other != at);
                let twice = others.any(|(_, other)| {
                    other.alive && other.at == At::Sent && other.cursor == worker.cursor
                });
                if worker.n > cursor.most {
                    new.broken = Some("skipped an event");
                }
                if !zombie && twice {
                    new.broken = Some("two deliver at once");
                }
                cursor.most = cursor.most.max(worker.n + 1);
                (doing.at, doing.todo) = (At::Sent, worker.todo & !(1 << worker.cursor));
            }),
            At::Have => {}
            At::Sent => self.sent(world, at, holds, next),
        }
        let busy = |cursor: &Cursor| cursor.busy == Some(me);
        let is_busy = world.cursors.iter().any(busy);
        if !holds && !is_busy && !matches!(worker.at, At::Sent | At::Late) {
            let (mut new, mut doing) = (*world, worker);
            idle(&mut doing);
            doing.active = false;
            new.workers[at] = doing;
            next.push(new);
        }
    }

    /// The outcome of a delivery is written.
    fn sent(&self, world: &World<C, L, W>, at: usize, holds: bool, next: &mut Vec<World<C, L, W>>) {
        let (mut new, mut doing) = (*world, world.workers[at]);
        let Worker {
            cursor: which, n, ..
        } = doing;
        let cursor = &mut new.cursors[usize::from(which)];
        let was_busy = cursor.busy == Some(at as u8);
        let mine = holds || (!was_busy && world.faults.zombie);
        let is_late = self.is(Mutant::ReadBeforePop) && cursor.head <= n + 1;
        if was_busy {
            cursor.busy = None;
        }
        let (to, active) = match (is_late, mine) {
            (true, _) => (At::Late, doing.active),
            (false, true) => (At::Read, doing.active),
            (false, false) => (At::Idle, false),
        };
        let (to, active) = if self.is(Mutant::BlindWrite) {
            if cursor.position != n {
                new.broken = Some("applied twice");
            }
            cursor.position += 1;
            (to, active)
        } else if cursor.position == n {
            cursor.position += 1;
            (to, active)
        } else if holds && !self.is(Mutant::StopOnLostAdvance) {
            (At::Read, doing.active)
        } else {
            (At::Idle, holds)
        };
        (doing.at, doing.active, doing.n, doing.cursor) = (to, active, 0, 0);
        match to {
            At::Read => doing.todo |= 1 << which,
            _ => doing.todo = 0,
        }
        new.workers[at] = doing;
        next.push(new);
    }

    /// Leases and ownership, in the database.
    fn own(&self, world: &World<C, L, W>, at: usize, lane: usize, next: &mut Vec<World<C, L, W>>) {
        let worker = world.workers[at];
        let me = at as u8;
        let row = world.lanes[lane];
        let (holds, is_sent) = (row.lease == Some(me), worker.at == At::Sent);
        let mine = |cursor: &Cursor| cursor.busy == Some(me);
        let idle = Worker {
            epoch: worker.epoch,
            ..OFF
        };
        if holds || world.cursors.iter().any(mine) {
            let mut lapsed = *world;
            if holds {
                lapsed.lanes[lane].lease = None;
            }
            if world.faults.crash {
                let mut new = lapsed;
                new.faults.crash = false;
                new.workers[at] = Worker {
                    alive: false,
                    ..OFF
                };
                next.push(new);
            }
            if world.faults.expire && (world.faults.zombie || !is_sent) {
                let mut new = lapsed;
                new.faults.expire = false;
                for cursor in new.cursors.iter_mut().filter(|cursor| mine(cursor)) {
                    cursor.busy = None;
                }
                if !world.faults.zombie {
                    new.workers[at] = idle;
                }
                next.push(new);
            }
        }
        let cursor = world.cursors[usize::from(worker.cursor)];
        if holds && (!is_sent || cursor.busy.is_none_or(|busy| busy == me)) {
            // A delivery in flight keeps its cursor busy, not the lane.
            let mut new = *world;
            new.lanes[lane].lease = None;
            new.workers[at] = match is_sent {
                true => Worker { todo: 0, ..worker },
                false => idle,
            };
            if is_sent {
                new.cursors[usize::from(worker.cursor)].busy = Some(me);
            }
            if lane < self.old && world.newest == 2 {
                let mut sealed = new;
                sealed.lanes[lane].sealed = true;
                next.push(sealed);
            }
            if world.faults.handover {
                new.faults.handover = false;
                next.push(new);
            }
        }
        if row.lease.is_some() || worker.active {
            return;
        }
        let waits = || {
            let mut of_it = self.overlaps.iter().filter(|(_, new)| *new == lane);
            of_it.any(|(old, _)| !world.lanes[*old].sealed) && !self.is(Mutant::NoSealWait)
        };
        let may = match lane < self.old {
            true => world.newest == 1 && !row.sealed,
            false => world.newest == 2 && !waits(),
        };
        if may {
            let mut new = *world;
            let epoch = match self.is(Mutant::EpochPerNode) {
                true => 2 - me % 2,
                false => row.epoch + 1,
            };
            let early = self.is(Mutant::SweepBeforeRaise) && lane >= self.old;
            let (to, todo) = match early {
                true => (At::Read, self.cursors(lane)),
                false => (At::Raise, 0),
            };
            new.lanes[lane].lease = Some(me);
            new.lanes[lane].epoch = row.epoch.max(epoch);
            new.workers[at] = Worker {
                active: true,
                at: to,
                epoch,
                todo,
                ..OFF
            };
            next.push(new);
        }
    }

    /// Everybody else: who seals what nobody owns, the operator, and Redis.
    fn others(&self, world: &World<C, L, W>, next: &mut Vec<World<C, L, W>>) {
        let mut put = |change: &dyn Fn(&mut World<C, L, W>)| {
            let mut new = *world;
            change(&mut new);
            next.push(new);
        };
        for lane in 0..self.old {
            let Lane { lease, sealed, .. } = world.lanes[lane];
            if world.newest == 2 && lease.is_none() && !sealed {
                put(&|new| new.lanes[lane].sealed = true);
            }
        }
        let faults = world.faults;
        if faults.resize {
            put(&|new| (new.newest, new.faults.resize) = (2, false));
        }
        if world.heard < world.newest && (world.heard == 0 || world.newest == 2) {
            put(&|new| new.heard = world.newest);
        }
        let empty = |new: &mut World<C, L, W>| new.lanes.iter_mut().for_each(|lane| lane.queue = 0);
        if faults.wipe && world.heard > 0 {
            put(&|new| {
                (new.heard, new.faults.wipe) = (0, false);
                empty(new);
                new.lanes.iter_mut().for_each(|lane| lane.own = 0);
            });
        }
        if faults.failover && world.heard == 2 {
            put(&|new| {
                (new.heard, new.faults.failover) = (1, false);
                empty(new);
                new.lanes[self.old..]
                    .iter_mut()
                    .for_each(|lane| lane.own = 0);
            });
        }
        if faults.lost_hint && world.lanes.iter().any(|lane| lane.queue != 0) {
            put(&|new| {
                new.faults.lost_hint = false;
                empty(new);
            });
        }
    }
}

impl<const C: usize, const L: usize, const W: usize> World<C, L, W> {
    fn is_done(&self) -> bool {
        let done = |cursor: &Cursor| cursor.head == cursor.position;
        let said = |producer: &Producer| producer.events == 0 && producer.step == 0;
        self.cursors.iter().all(done) && self.producers.iter().all(said)
    }
}

impl<const C: usize, const L: usize, const W: usize> Model for Lanes<C, L, W> {
    type State = World<C, L, W>;
    type Action = Act<C, L, W>;

    fn init_states(&self) -> Vec<World<C, L, W>> {
        let first = if self.is(Mutant::EpochPerNode) { 2 } else { 1 };
        let mut world = World {
            cursors: [Cursor {
                head: 0,
                position: 0,
                most: 0,
                busy: None,
            }; C],
            lanes: [Lane {
                queue: 0,
                own: 0,
                lease: None,
                epoch: 0,
                sealed: false,
            }; L],
            workers: [OFF; W],
            producers: self.events.map(|events| Producer {
                events,
                step: 0,
                generation: 1,
            }),
            newest: 1,
            heard: 1,
            faults: self.faults,
            broken: None,
        };
        for lane in 0..self.old {
            let owner = lane * W / L;
            let row = &mut world.lanes[lane];
            (row.own, row.epoch, row.lease) = (first, first, Some(owner as u8));
            (world.workers[owner].active, world.workers[owner].epoch) = (true, first);
        }
        vec![world]
    }

    fn actions(&self, world: &World<C, L, W>, acts: &mut Vec<Act<C, L, W>>) {
        if world.broken.is_none() {
            acts.append(&mut self.next(world));
        }
    }

    fn next_state(&self, _: &World<C, L, W>, act: Act<C, L, W>) -> Option<World<C, L, W>> {
        Some(act)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("safe", |_, world: &World<C, L, W>| world.broken.is_none()),
            Property::always("goes on", |model: &Self, world: &World<C, L, W>| {
                world.is_done() || world.broken.is_some() || !model.next(world).is_empty()
            }),
        ]
    }
}

/// One cursor, one lane a generation, two nodes for each: as in the original.
fn one(mutant: Mutant, faults: Faults, events: [u8; 2]) -> Lanes<1, 2, 4> {
    Lanes {
        mutant,
        faults,
        events,
        old: 1,
        of: [[0, 1]],
        overlaps: &[(0, 1)],
    }
}

/// Two streams, and three lanes that become two: the first new lane waits for two old ones, each of which has a
/// stream of it.
fn three_to_two(mutant: Mutant, faults: Faults) -> Lanes<2, 5, 5> {
    Lanes {
        mutant,
        faults,
        events: [1, 1],
        old: 3,
        of: [[0, 3], [1, 3]],
        overlaps: &[(0, 3), (1, 3), (1, 4), (2, 4)],
    }
}

/// The same backwards: two lanes become three, and the streams of one old lane part.
fn two_to_three(mutant: Mutant, faults: Faults) -> Lanes<2, 5, 5> {
    Lanes {
        mutant,
        faults,
        events: [1, 1],
        old: 2,
        of: [[0, 2], [0, 3]],
        overlaps: &[(0, 2), (0, 3), (1, 3), (1, 4)],
    }
}

const NONE: Faults = Faults {
    resize: false,
    wipe: false,
    crash: false,
    expire: false,
    lost_push: false,
    failover: false,
    lost_hint: false,
    handover: false,
    zombie: false,
    sweep: false,
};

const RESIZE: Faults = Faults {
    resize: true,
    ..NONE
};

const ZOMBIE: Faults = Faults {
    expire: true,
    zombie: true,
    ..NONE
};

const CRASH: Faults = Faults {
    crash: true,
    expire: true,
    ..NONE
};

const WIPE: Faults = Faults { wipe: true, ..NONE };

fn is_full() -> bool {
    std::env::var("HOOKLANE_MODELS").is_ok_and(|which| which == "all")
}

#[test]
fn lanes_lose_double_and_reorder_nothing_and_never_stand_still() {
    let scenarios = [
        // As many states as lane_model.py finds, with its few events and with all of them.
        ("no faults", NONE, [54, 173]),
        (
            "hand-over",
            Faults {
                handover: true,
                ..NONE
            },
            [418, 1_122],
        ),
        ("resize", RESIZE, [1_394, 4_777]),
        (
            "resize, hand-over",
            Faults {
                handover: true,
                ..RESIZE
            },
            [14_358, 46_093],
        ),
        (
            "resize, crash, expiry",
            Faults {
                resize: true,
                ..CRASH
            },
            [81_776, 260_290],
        ),
        ("zombie", ZOMBIE, [921, 2_992]),
        (
            "resize, zombie",
            Faults {
                resize: true,
                ..ZOMBIE
            },
            [34_889, 138_273],
        ),
        ("wipe", WIPE, [327, 893]),
        (
            "wipe, resize",
            Faults {
                resize: true,
                ..WIPE
            },
            [8_038, 24_337],
        ),
        (
            "failover, resize",
            Faults {
                failover: true,
                ..RESIZE
            },
            [4_910, 16_060],
        ),
        (
            "wipe, crash, zombie",
            Faults {
                wipe: true,
                zombie: true,
                ..CRASH
            },
            [11_724, 31_891],
        ),
        (
            "lost hints, resize, with a sweep",
            Faults {
                lost_push: true,
                lost_hint: true,
                sweep: true,
                ..RESIZE
            },
            [5_012, 18_192],
        ),
    ];
    for (name, faults, states) in scenarios {
        let (events, states) = match is_full() {
            true => ([2, 1], states[1]),
            false => ([1, 1], states[0]),
        };
        let found = explore(one(Mutant::None, faults, events));
        assert_eq!(found, Ok(states), "{name}");
    }
}

#[test]
fn from_everywhere_a_lane_can_come_to_its_end() {
    for (name, model) in [
        ("no faults", one(Mutant::None, NONE, [2, 1])),
        ("resize", one(Mutant::None, RESIZE, [1, 1])),
        ("wipe", one(Mutant::None, WIPE, [1, 1])),
    ] {
        assert_eq!(lost(&model, |_| true, World::is_done), None, "{name}");
    }
    let model = three_to_two(Mutant::None, RESIZE);
    assert_eq!(lost(&model, |_| true, World::is_done), None);
}

#[test]
fn lanes_that_overlap_lose_double_and_reorder_nothing() {
    let expire = Faults {
        expire: true,
        ..RESIZE
    };
    let wipe = Faults {
        wipe: true,
        ..RESIZE
    };
    for faults in [RESIZE, expire, wipe] {
        let found = explore(three_to_two(Mutant::None, faults));
        assert!(found.is_ok(), "three to two: {found:?} {faults:?}");
        let found = explore(two_to_three(Mutant::None, faults));
        assert!(found.is_ok(), "two to three: {found:?} {faults:?}");
    }
    let found = explore(three_to_two(Mutant::NoSealWait, RESIZE));
    assert_eq!(found, Err("safe"));
    let found = explore(two_to_three(Mutant::NoGenerationCheck, RESIZE));
    assert_eq!(found, Err("goes on"));
}

#[test]
fn each_rule_of_the_lanes_is_needed() {
    use Mutant::*;
    let handover = Faults {
        handover: true,
        ..NONE
    };
    let crash = Faults {
        crash: true,
        ..NONE
    };
    for (mutant, faults, broken) in [
        (ReadBeforePop, NONE, "goes on"),
        (HintBeforeCommit, NONE, "goes on"),
        (SweepBeforeRaise, RESIZE, "goes on"),
        (SweepBeforeClaim, ZOMBIE, "goes on"),
        (NoSealWait, RESIZE, "safe"),
        (IgnoreBusy, handover, "safe"),
        (IgnoreBusy, RESIZE, "safe"),
        (NoSweepOnTake, crash, "goes on"),
        (NoSweepOnTake, RESIZE, "goes on"),
        (NoGenerationCheck, RESIZE, "goes on"),
        (BlindWrite, ZOMBIE, "safe"),
        (StopOnLostAdvance, ZOMBIE, "goes on"),
        (EpochPerNode, handover, "goes on"),
        (IgnoreNotOwner, WIPE, "goes on"),
        (
            None,
            Faults {
                lost_push: true,
                ..NONE
            },
            "goes on",
        ),
        (
            None,
            Faults {
                lost_hint: true,
                ..NONE
            },
            "goes on",
        ),
    ] {
        let found = explore(one(mutant, faults, [2, 1]));
        assert_eq!(found, Err(broken), "{mutant:?}");
    }
}
