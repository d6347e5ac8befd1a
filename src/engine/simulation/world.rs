//! A world of nodes, a database and a Redis, which lives through storms and must settle after each.

mod checks;
mod faults;
mod operators;
mod wish;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use self::wish::Wish;
use super::database::{Database, NAMESPACES};
use super::mutant::Mutant;
use super::node::{DUTIES, Duty, Node};
use super::outside::Outside;
use super::redis::Redis;
use crate::domain::hook::HookId;

/// Number of storms in the life of a world, and of steps in each. Short storms ensure that a forgotten
/// hint is not found by chance.
const STORMS: usize = 8;
const STEPS_MAX: u64 = 240;

/// Time after the last fault within which everything must be settled.
const HEAL_MAX: u64 = 30_000;

/// Number of rounds through all duties without time passing, after which a world counts as never
/// settling.
const ROUNDS_MAX: usize = 400;

#[derive(Default)]
struct Machine {
    node: Option<Node>,
    up_at: u64,
}

pub struct World {
    out: Outside,
    machines: Vec<Machine>,
    /// Decisions, each with the machine through which they were made.
    wishes: Vec<(usize, Wish)>,
    /// An earlier copy of Redis.
    older: Option<Redis>,
    started: u64,
}

impl World {
    pub fn new(seed: u64, mutant: Mutant) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let is_shared = seed % 2 == 1;
        let is_gentle = !(seed / 2).is_multiple_of(3);
        let refolds = (seed / 4).is_multiple_of(3);
        let delivers = seed % 5 == 1;
        let database = Database::new(mutant, delivers, &mut || random.random());
        let machines = match is_shared {
            true => 2 + seed as usize / 8 % 2,
            false => 1,
        };
        Self {
            out: Outside {
                random,
                mutant,
                now: 0,
                is_shared,
                database,
                redis: Redis::default(),
                sweeps: !is_gentle,
                trouble: 0.0,
                fails: true,
                refolds,
                delivers,
                moved: Vec::new(),
            },
            machines: (0..machines).map(|_| Machine::default()).collect(),
            wishes: Vec::new(),
            older: None,
            started: 0,
        }
    }

    pub fn live(mut self) -> Result<(), String> {
        for _ in 0..STORMS {
            self.storm()?;
            self.heal()?;
            if self.out.chance(0.5) {
                self.let_all_go();
                self.settle()?;
            }
        }
        self.let_all_go();
        self.settle()?;
        self.order_of_answers()
    }

    fn storm(&mut self) -> Result<(), String> {
        if self.out.sweeps {
            self.out.trouble = self.out.random.random_range(0.0..0.04);
        }
        self.out.fails = self.out.chance(0.5);
        let [sends, acts, faults] = [30, 8, 6].map(|most| 1 + self.out.below(most));
        for _ in 0..self.out.below(STEPS_MAX) {
            match self.out.below(100) {
                at if at < sends => self.send(),
                at if at < sends + acts => self.operate(),
                at if at < sends + acts + faults => self.hurt(),
                at if at < sends + acts * 3 + faults => self.fulfil(),
                _ => self.go_on()?,
            }
            self.out.now += self.out.below(6);
            if self.out.below(60) == 0 {
                let longest = 1 + self.out.below(20_000);
                self.pass(longest);
            }
            self.check()?;
        }
        Ok(())
    }

    /// Lets time pass, during which frozen nodes do nothing and the others see to their lanes.
    fn pass(&mut self, longest: u64) {
        let end = self.out.now + self.out.below(longest);
        while self.out.now < end {
            self.out.now += 400;
            for at in 0..self.machines.len() {
                let now = self.out.now;
                let Some(node) = &mut self.machines[at].node else {
                    continue;
                };
                for _ in 0..12 {
                    if node.frozen_until > now || !node.go_on(Duty::Look, &mut self.out) {
                        break;
                    }
                }
            }
        }
    }

    fn any(&mut self) -> Option<usize> {
        let at = self.out.below(self.machines.len() as u64) as usize;
        let now = self.out.now;
        self.see_off(at);
        let machine = &mut self.machines[at];
        if machine.node.is_none() && machine.up_at <= now {
            self.started += 1;
            self.out.database.forget_data_dir(at);
            let id = format!("{at}-{}", self.started);
            machine.node = Some(Node::start(id, &mut self.out));
        }
        let node = machine.node.as_ref()?;
        (node.frozen_until <= now).then_some(at)
    }

    /// Removes a process that has ended.
    fn see_off(&mut self, at: usize) -> bool {
        let machine = &mut self.machines[at];
        let has_left = machine.node.as_ref().is_some_and(|node| node.has_left);
        if has_left {
            machine.node = None;
            machine.up_at = self.out.now + self.out.below(3_000);
        }
        has_left
    }

    fn node(&mut self, at: usize) -> (&mut Node, &mut Outside) {
        let node = self.machines[at].node.as_mut();
        (node.expect("it is up"), &mut self.out)
    }

    fn go_on(&mut self) -> Result<(), String> {
        let Some(at) = self.any() else {
            return Ok(());
        };
        // Until one of its duties has something to do, which then continues for a while.
        for _ in 0..6 {
            let (node, out) = self.node(at);
            let nth = out.below((DUTIES.len() + 2 * node.runs()) as u64) as usize;
            let duty = match DUTIES.get(nth) {
                _ if out.refolds && out.chance(0.25) => Duty::Rebuild,
                _ if out.delivers && out.chance(0.3) => Duty::Deliver,
                Some(duty) => *duty,
                None => Duty::Turns((nth - DUTIES.len()) / 2),
            };
            let mut steps = 0;
            while node.go_on(duty, out) {
                steps += 1;
                if out.chance(0.5) {
                    break;
                }
            }
            self.check()?;
            if steps > 0 {
                break;
            }
        }
        Ok(())
    }

    /// Ends all faults, after which everything must settle soon.
    fn heal(&mut self) -> Result<(), String> {
        self.out.trouble = 0.0;
        self.wishes.clear();
        for machine in &mut self.machines {
            machine.up_at = 0;
            if let Some(node) = &mut machine.node {
                node.frozen_until = 0;
            }
        }
        self.settle()
    }

    /// Resumes everything that was stopped, and lets no more events fail.
    fn let_all_go(&mut self) {
        let database = &mut self.out.database;
        for namespace in NAMESPACES {
            let set = database.set(&namespace.parse().unwrap()).clone();
            database.resume_lanes(&set, &set.ids().collect::<Vec<_>>());
        }
        for hook in [HookId(1), HookId(2)] {
            database.resume_hook(hook);
        }
        self.out.fails = false;
        let streams: Vec<_> = self.out.database.streams.keys().copied().collect();
        for stream in streams {
            self.release(0, stream);
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        let end = self.out.now + HEAL_MAX;
        loop {
            self.rest()?;
            self.owners()?;
            let Some(unsettled) = self.unsettled() else {
                return Ok(());
            };
            if self.out.now > end {
                return Err(unsettled);
            }
            self.out.now += 250;
        }
    }

    /// Lets every node do all that is due at this moment.
    fn rest(&mut self) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            let mut busy = false;
            for at in 0..self.machines.len() {
                if self.machines[at].node.is_none() {
                    self.started += 1;
                    self.out.database.forget_data_dir(at);
                    let id = format!("{at}-{}", self.started);
                    self.machines[at].node = Some(Node::start(id, &mut self.out));
                }
                let (node, out) = self.node(at);
                for duty in DUTIES {
                    busy |= node.go_on(duty, out) && duty != Duty::Receive;
                }
                // Turns that begin after a move are none of those that it should have waited for.
                if !self.out.moved.is_empty() {
                    self.check()?;
                }
                let (node, out) = self.node(at);
                for nth in 0..node.runs() {
                    busy |= node.go_on(Duty::Turns(nth), out);
                }
                // A delivery has more steps than a turn, and moves its cursor by one event.
                for _ in 0..8 {
                    busy |= node.go_on(Duty::Deliver, out);
                }
                busy |= self.see_off(at);
                self.check()?;
            }
            if !busy {
                return Ok(());
            }
        }
        Err("the world does not come to rest".to_owned())
    }
}
