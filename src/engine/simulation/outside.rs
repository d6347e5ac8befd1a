//! The world outside of nodes: database, Redis, time and chance.

use rand::RngExt;
use rand::rngs::SmallRng;

use super::database::Database;
use super::mutant::Mutant;
use super::redis::Redis;
use crate::domain::hook::HookId;
use crate::domain::time::Timestamp;

/// A call to the database or Redis failed, or its answer was lost.
#[derive(Debug)]
pub struct Failed;

/// Everything outside of nodes.
pub struct Outside {
    pub random: SmallRng,
    pub mutant: Mutant,
    pub now: u64,
    /// True if there are several nodes, and Redis between them.
    pub is_shared: bool,
    pub database: Database,
    pub redis: Redis,
    /// True if nodes sweep regularly.
    pub sweeps: bool,
    /// Probability that a call fails, or its answer is lost.
    pub trouble: f64,
    /// True if events may fail.
    pub fails: bool,
    /// True if states are rebuilt all the time.
    pub refolds: bool,
    /// True if the events of the second hook are delivered.
    pub delivers: bool,
    /// Hooks that have just moved.
    pub moved: Vec<HookId>,
}

impl Outside {
    pub fn chance(&mut self, of: f64) -> bool {
        of > 0.0 && self.random.random_bool(of)
    }

    pub fn below(&mut self, max: u64) -> u64 {
        self.random.random_range(0..max)
    }

    pub fn time(&self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.now).unwrap_or(0))
    }

    /// Calls the database. After a failure it is unknown whether the call took effect.
    pub fn ask<T>(&mut self, ask: impl FnOnce(&mut Database) -> T) -> Result<T, Failed> {
        if !self.chance(self.trouble) {
            return Ok(ask(&mut self.database));
        }
        if self.chance(0.5) {
            ask(&mut self.database);
        }
        Err(Failed)
    }

    /// Calls Redis. After a failure it is unknown whether the call took effect.
    pub fn ask_redis<T>(&mut self, ask: impl FnOnce(&mut Redis) -> T) -> Result<T, Failed> {
        if !self.chance(self.trouble) {
            return Ok(ask(&mut self.redis));
        }
        if self.chance(0.5) {
            ask(&mut self.redis);
        }
        Err(Failed)
    }
}
