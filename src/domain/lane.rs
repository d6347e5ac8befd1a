//! Which lane a stream belongs to: slots, lane sets and their generations.

use std::fmt;

use sha2::{Digest, Sha256};

use super::name::{Name, OrderingKey};

/// A stable 16-bit hash of a stream's identity, stored when the stream is created. The stored value
/// is the truth: it stays even if the rule ever changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(pub u16);

impl Slot {
    /// The first two bytes, big-endian, of SHA-256(hook name, one zero byte, ordering key).
    pub fn of(hook: &Name, key: &OrderingKey) -> Self {
        let mut hash = Sha256::new();
        hash.update(hook.as_str());
        hash.update([0]);
        hash.update(key.as_str());
        let digest = hash.finalize();
        Self(u16::from_be_bytes([digest[0], digest[1]]))
    }

    /// The lane of this slot among `lanes`: ranges of slots, so that a resize moves few streams.
    pub fn lane(self, lanes: u16) -> u16 {
        let index = u32::from(self.0) * u32::from(lanes) / 65_536;
        u16::try_from(index).unwrap_or(u16::MAX)
    }
}

/// The most lanes a namespace may have.
pub const LANES_MAX: u16 = 1024;

/// The lanes of one namespace; a resize makes a new generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneSet {
    /// Whose lanes these are.
    pub namespace: Name,
    /// Counts the sets of a namespace; never given twice.
    pub generation: i64,
    /// How many there are.
    pub lanes: u16,
}

impl LaneSet {
    /// The lane in which the streams of `slot` take their turns.
    pub fn lane(&self, slot: Slot) -> LaneId {
        self.nth(slot.lane(self.lanes))
    }

    /// Every lane of the set, in order.
    pub fn ids(&self) -> impl Iterator<Item = LaneId> + '_ {
        (0..self.lanes).map(|index| self.nth(index))
    }

    fn nth(&self, index: u16) -> LaneId {
        LaneId {
            namespace: self.namespace.clone(),
            generation: self.generation,
            index,
        }
    }
}

/// One lane, written `default-115-3`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId {
    /// Whose lane this is.
    pub namespace: Name,
    /// The lane set it belongs to.
    pub generation: i64,
    /// Its place in the set, from 0.
    pub index: u16,
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.namespace, self.generation, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_ranges_that_cover_every_slot() {
        for lanes in [1, 2, 3, 8, 17, LANES_MAX] {
            let all: Vec<u16> = (0..=u16::MAX).map(|slot| Slot(slot).lane(lanes)).collect();
            assert!(all.is_sorted());
            assert_eq!((all[0], all[65_535]), (0, lanes - 1));
        }
    }

    #[test]
    fn the_slot_of_a_stream_never_changes() {
        let hook: Name = "billing".parse().unwrap();
        assert_eq!(Slot::of(&hook, &OrderingKey::new(b"acme")), Slot(10_992));
    }
}
