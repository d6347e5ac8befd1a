//! Hostile variants of good inputs, for tests of parsers. A generator with a seed, so that each run tries
//! the same ones.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Bytes that mean something to a parser of headers.
const SPECIAL: &[u8] = b"\0\x01\x16\x7f\x80\xff\r\n\t ,;:=\"'\\/[](){}_-+.%0&";

/// Length limit of a variant, in bytes.
const LEN_MAX: usize = 4_096;

/// The generator.
pub struct Mutation(StdRng);

impl Mutation {
    /// A generator whose variants follow from `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    /// A variant of one of `good`, which is not empty; now and then an unchanged one.
    pub fn of<T: AsRef<[u8]>>(&mut self, good: &[T]) -> Vec<u8> {
        let at = self.below(good.len());
        let mut bytes = good[at].as_ref().to_vec();
        for _ in 0..self.below(5) {
            let other = self.below(good.len());
            self.change(&mut bytes, good[other].as_ref());
        }
        bytes.truncate(LEN_MAX);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len() + 1);
        let end = (at + self.below(16)).min(bytes.len());
        match self.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, self.special()),
            3 => bytes.insert(at, self.0.random()),
            4 if at < bytes.len() => bytes[at] = self.special(),
            5 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            6 => {
                let again = bytes[at..end].repeat(1 + self.below(64));
                bytes.splice(at..at, again);
            }
            _ => {
                let from = self.below(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied());
            }
        }
    }

    fn special(&mut self) -> u8 {
        SPECIAL[self.below(SPECIAL.len())]
    }
}
