//! Lanes: slots, lane sets and their generations, and the lane that a stream belongs to.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::name::{Name, OrderingKey};

/// A stable 16-bit hash of a stream's identity. It is stored when the stream is created and never
/// computed again, so it would stay the same if the rule changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(pub u16);

impl Slot {
    /// First two bytes, big-endian, of SHA-256(hook name, one zero byte, ordering key).
    pub fn of(hook: &Name, key: &OrderingKey) -> Self {
        let mut hash = Sha256::new();
        hash.update(hook.as_str());
        hash.update([0]);
        hash.update(key.as_str());
        let digest = hash.finalize();
        Self(u16::from_be_bytes([digest[0], digest[1]]))
    }

    /// Index of the slot's lane among `lanes`. Lanes are ranges of slots, so that a resize moves few
    /// streams.
    pub fn lane(self, lanes: u16) -> u16 {
        let index = u32::from(self.0) * u32::from(lanes) / SLOTS;
        u16::try_from(index).unwrap_or(u16::MAX)
    }
}

/// Largest number of lanes of a namespace.
pub const LANES_MAX: u16 = 1024;

/// Number of slots; it never changes.
pub const SLOTS: u32 = 65_536;

/// The slots of lane `index` among `lanes`.
pub fn slots(index: u16, lanes: u16) -> Range<u32> {
    let first = |index: u32| (index * SLOTS).div_ceil(u32::from(lanes).max(1));
    first(u32::from(index))..first(u32::from(index) + 1)
}

/// True if two lanes of different lane sets share a slot. Each is given with the number of lanes of its
/// set. The SQL statement that takes a lane contains the same condition.
pub fn overlap((one, of): (u16, u16), (other, of_other): (u16, u16)) -> bool {
    let before = |a: u16, of_a: u16, b: u16, of_b: u16| {
        u32::from(a) * u32::from(of_b) < (u32::from(b) + 1) * u32::from(of_a)
    };
    before(one, of, other, of_other) && before(other, of_other, one, of)
}

/// Number of slots whose lane changes when `from` lanes become `to`.
pub fn moved_slots(from: u16, to: u16) -> u32 {
    let moves = |slot: &u16| Slot(*slot).lane(from) != Slot(*slot).lane(to);
    u32::try_from((0..=u16::MAX).filter(moves).count()).unwrap_or(SLOTS)
}

/// Mode of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Cursors take turns.
    #[default]
    Active,
    /// Cursors take turns up to the marks that were set when draining began.
    Draining,
    /// All marks are reached; later events wait.
    Drained,
    /// No turn begins.
    Paused,
}

impl Mode {
    /// Its name in the database and for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Paused => "paused",
        }
    }

    /// True if cursors move only up to their marks.
    pub fn has_marks(self) -> bool {
        matches!(self, Self::Draining | Self::Drained)
    }
}

/// A text that is not a mode, or not a lane.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no {1}")]
pub struct Unknown(String, &'static str);

impl FromStr for Mode {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let all = [Self::Active, Self::Draining, Self::Drained, Self::Paused];
        let found = all.into_iter().find(|mode| mode.word() == text);
        found.ok_or_else(|| Unknown(text.to_owned(), "mode of a lane"))
    }
}

/// The lanes of one namespace. A resize creates a new generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneSet {
    /// The namespace.
    pub namespace: Name,
    /// Number of the set within its namespace; never reused.
    pub generation: i64,
    /// Number of lanes.
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

    /// True if the lane is one of this set.
    pub fn has(&self, lane: &LaneId) -> bool {
        let is_of_set = (&lane.namespace, lane.generation) == (&self.namespace, self.generation);
        is_of_set && lane.index < self.lanes
    }

    fn nth(&self, index: u16) -> LaneId {
        LaneId {
            namespace: self.namespace.clone(),
            generation: self.generation,
            index,
        }
    }
}

/// A lane, written `default-115-3`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId {
    /// The namespace.
    pub namespace: Name,
    /// Generation of its lane set.
    pub generation: i64,
    /// Its index in the set, from 0.
    pub index: u16,
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.namespace, self.generation, self.index)
    }
}

impl FromStr for LaneId {
    type Err = Unknown;

    /// Parsed from the right, because the name of a namespace may contain hyphens and end in a number.
    fn from_str(text: &str) -> Result<Self, Unknown> {
        let mut parts = text.rsplitn(3, '-');
        let mut part = || parts.next();
        let lane = (|| {
            let index = part()?.parse().ok()?;
            let generation = part()?.parse().ok()?;
            Some(Self {
                namespace: part()?.parse().ok()?,
                generation,
                index,
            })
        })();
        lane.ok_or_else(|| Unknown(text.to_owned(), "lane"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_slots_of_a_lane_are_those_that_point_to_it() {
        for lanes in [1, 2, 3, 7, 1000, LANES_MAX] {
            for slot in 0..=u16::MAX {
                let lane = Slot(slot).lane(lanes);
                assert!(slots(lane, lanes).contains(&u32::from(slot)));
            }
            let ends: Vec<u32> = (0..lanes).map(|lane| slots(lane, lanes).end).collect();
            let begins: Vec<u32> = (1..lanes).map(|lane| slots(lane, lanes).start).collect();
            assert_eq!(ends[..begins.len()], begins);
            assert_eq!(ends.last(), Some(&SLOTS));
        }
    }

    proptest! {
        #[test]
        fn lanes_that_share_a_slot_overlap(slot: u16, from in 1..=LANES_MAX, to in 1..=LANES_MAX) {
            let lane = |lanes| (Slot(slot).lane(lanes), lanes);
            prop_assert!(overlap(lane(from), lane(to)));
            prop_assert!(overlap(lane(to), lane(from)));
        }

        #[test]
        fn lanes_that_overlap_share_slots_or_touch(
            a in 0..LANES_MAX, from in 1..=LANES_MAX, b in 0..LANES_MAX, to in 1..=LANES_MAX,
        ) {
            let (a, b) = (a % from, b % to);
            let (ours, theirs) = (slots(a, from), slots(b, to));
            let share = ours.start < theirs.end && theirs.start < ours.end;
            let touch = ours.start <= theirs.end && theirs.start <= ours.end;
            let overlap = overlap((a, from), (b, to));
            prop_assert!(!share || overlap);
            prop_assert!(touch || !overlap);
        }
    }

    #[test]
    fn a_lane_is_read_from_its_name_whatever_its_namespace_is_called() {
        for (name, namespace) in [
            ("default-115-3", "default"),
            ("default-eu-1-1", "default-eu"),
            ("default-2-1-0", "default-2"),
        ] {
            let lane: LaneId = name.parse().unwrap();
            assert_eq!(
                (lane.namespace.as_str(), lane.to_string().as_str()),
                (namespace, name)
            );
        }
        for wrong in ["", "3", "115-3", "default-x-3", "default-1-99999", "Up-1-1"] {
            assert!(wrong.parse::<LaneId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn twice_the_lanes_split_each_and_overlap_nothing_else() {
        let parts = |lane| (0..16).filter(move |new| overlap((lane, 8), (*new, 16)));
        for lane in 0..8 {
            assert_eq!(parts(lane).collect::<Vec<_>>(), [2 * lane, 2 * lane + 1]);
        }
        assert_eq!(moved_slots(8, 8), 0);
        assert_eq!(moved_slots(1, 2), 32_768);
    }

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
