//! The world outside of nodes: database, Redis, time and chance.

use rand::RngExt;
use rand::rngs::SmallRng;

use super::database::Database;
use super::mutant::Mutant;
use super::redis::Redis;
use crate::domain::hook::HookId;
use crate::domain::time::Timestamp;

/// The database or Redis has not done it, or has not answered.
#[derive(Debug)]
pub struct Failed;

/// What nodes ask, and chance.
pub struct Outside {
    pub random: SmallRng,
    pub mutant: Mutant,
    pub now: u64,
    /// Whether there are several nodes, and Redis between them.
    pub is_shared: bool,
    pub database: Database,
    pub redis: Redis,
    /// Whether nodes sweep now and then.
    pub sweeps: bool,
    /// How often a call fails, or its answer is lost.
    pub trouble: f64,
    /// Whether events may fail.
    pub fails: bool,
    /// Whether states are folded again all the time.
    pub refolds: bool,
    /// Hooks that have moved just now.
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

    /// Asks the database; of a failure nobody knows whether it was before or after it was done.
    pub fn ask<T>(&mut self, ask: impl FnOnce(&mut Database) -> T) -> Result<T, Failed> {
        if !self.chance(self.trouble) {
            return Ok(ask(&mut self.database));
        }
        if self.chance(0.5) {
            ask(&mut self.database);
        }
        Err(Failed)
    }

    /// The same of Redis.
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
