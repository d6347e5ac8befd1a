//! Faults: crashes, frozen nodes, and a Redis that forgets.

use super::World;

impl World {
    pub(super) fn hurt(&mut self) {
        let at = self.out.below(self.machines.len() as u64) as usize;
        let is_shared = self.out.is_shared;
        match self.out.below(10) {
            0 | 1 => self.crash(at),
            8 | 9 => {
                if let Some(node) = &mut self.machines[at].node {
                    node.end();
                }
            }
            2 if is_shared => {
                let until = self.out.now + self.out.below(12_000);
                self.freeze(at, until);
            }
            3 if is_shared => {
                // Until others have its lanes, and a moment longer.
                self.freeze(at, u64::MAX);
                self.pass(40_000);
                let now = self.out.now;
                let more = self.out.below(600);
                self.freeze(at, now + more);
            }
            4 => self.out.redis.come_back(None),
            // Hints after the last pulse are lost without a sign.
            5 if self.out.sweeps => self.out.redis.come_back(self.older.as_ref()),
            6 => self.older = Some(self.out.redis.clone()),
            7 => self.pass(6_000),
            _ => {}
        }
    }

    fn freeze(&mut self, at: usize, until: u64) {
        if let Some(node) = &mut self.machines[at].node {
            node.frozen_until = until;
        }
    }

    fn crash(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if let Some(node) = machine.node.take() {
            node.crashes(&mut self.out);
            machine.up_at = self.out.now + self.out.below(6_000);
        }
    }
}
