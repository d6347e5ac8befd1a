//! Decides from rows which node should run which lane: no clock, no I/O. `look.rs` has the order in which
//! a node reads those rows and acts on them.
//!
//! Every node computes the same result from the same rows. When two nodes see different rows, the
//! statement that takes a lane decides, so no agreement is needed. Times are durations on a node's own
//! clock, which counts while the machine sleeps; no wall clock decides which node is dead.

#[cfg(test)]
mod churn;
mod look;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use crate::domain::lane::{LaneId, overlap};
use crate::domain::name::Name;
use crate::store::{LaneRow, NodeRow, SetState};

pub use look::{Look, LookStep};

/// Time without a heartbeat after which other nodes take a node's lanes.
pub const LEASE: Duration = Duration::from_secs(15);

/// Time by which a node stops earlier itself, to allow for different speeds of clocks.
pub const MARGIN: Duration = Duration::from_secs(2);

/// Interval of heartbeats.
pub const RENEWAL: Duration = Duration::from_secs(3);

/// Time for which the set of live nodes must be unchanged before a lane is given away.
const STABLE: Duration = Duration::from_secs(3);

/// A node that could not look for this long does not know whether the others could have sent
/// heartbeats, so it waits anew.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// A node's own right to run lanes.
#[derive(Debug)]
pub struct Lease {
    until: Duration,
}

impl Lease {
    /// The lease of a node that joined at `sent`, the time before the statement was sent.
    pub fn begun(sent: Duration) -> Self {
        Self {
            until: sent + LEASE - MARGIN,
        }
    }

    /// Records a renewal that is known to have succeeded. One with an unknown outcome extends nothing.
    pub fn renewed(&mut self, sent: Duration) {
        self.until = self.until.max(sent + LEASE - MARGIN);
    }

    /// Remaining time of the lease.
    pub fn left(&self, now: Duration) -> Duration {
        self.until.saturating_sub(now)
    }

    /// True while no other node may have taken the lanes.
    pub fn holds(&self, now: Duration) -> bool {
        now < self.until
    }
}

/// Observations of the other nodes by one node.
#[derive(Debug, Default)]
pub struct Watch {
    beats: HashMap<String, Beat>,
    live: BTreeSet<String>,
    same_since: Duration,
    looked: Duration,
    has_changed: bool,
}

/// The newest heartbeat of a node, the time when it was first seen, and whether it is the first one
/// seen of this node.
#[derive(Debug)]
struct Beat {
    number: i64,
    since: Duration,
    is_first: bool,
}

impl Watch {
    /// True if a new heartbeat of the node has been seen.
    pub fn has_beaten(&self, id: &str) -> bool {
        self.beats.get(id).is_some_and(|beat| !beat.is_first)
    }

    /// Time since each node's newest heartbeat was first seen, by `now`.
    pub fn silences(&self, now: Duration) -> HashMap<String, Duration> {
        let silence = |beat: &Beat| now.saturating_sub(beat.since);
        let beats = self.beats.iter();
        beats
            .map(|(id, beat)| (id.clone(), silence(beat)))
            .collect()
    }

    /// Records the rows as read at `now`. Returns the nodes that have been silent for too long, each
    /// with its last heartbeat; removing a node requires that its heartbeat is unchanged.
    pub fn see(&mut self, nodes: &[NodeRow], me: &str, now: Duration) -> Vec<(String, i64)> {
        let live: BTreeSet<_> = nodes.iter().map(|node| node.id.clone()).collect();
        self.has_changed = live != self.live && !self.live.is_empty();
        if live != self.live {
            self.same_since = now;
        }
        // Whatever kept this node from looking may have kept the others from sending heartbeats, so
        // their time starts anew.
        if now.saturating_sub(self.looked) > LOOK_MAX {
            self.beats.values_mut().for_each(|beat| beat.since = now);
        }
        self.looked = now;
        self.beats.retain(|id, _| live.contains(id));
        self.live = live;
        let mut silent = Vec::new();
        for node in nodes.iter().filter(|node| node.id != me) {
            let beat = self.beats.entry(node.id.clone()).or_insert(Beat {
                number: node.beat,
                since: now,
                is_first: true,
            });
            if beat.number != node.beat {
                *beat = Beat {
                    number: node.beat,
                    since: now,
                    is_first: false,
                };
            } else if now.saturating_sub(beat.since) >= LEASE {
                silent.push((node.id.clone(), node.beat));
            }
        }
        silent
    }

    /// True if a node has joined or left between the last two looks. A node that is gone may have died
    /// with hints for other lanes, so a sweep is needed.
    pub fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// True if no node has joined or left for a while.
    pub fn is_stable(&self, now: Duration) -> bool {
        now.saturating_sub(self.same_since) >= STABLE
    }
}

/// The node that should run each lane; empty without nodes. Lanes of a closing set are not assigned.
///
/// Lanes are divided evenly; the first nodes get one more. Nodes that own most lanes come first, so
/// that few lanes move. A lane stays with its node unless that has its share already.
pub fn assign<'a>(lanes: &'a [LaneRow], nodes: &'a [NodeRow]) -> HashMap<&'a LaneId, &'a str> {
    let lanes: Vec<&LaneRow> = lanes.iter().filter(|lane| !lane.is_closing()).collect();
    let mut owned: HashMap<&str, usize> = nodes
        .iter()
        .filter(|node| !node.is_leaving())
        .map(|node| (node.id.as_str(), 0))
        .collect();
    for owner in lanes.iter().filter_map(|lane| lane.node.as_deref()) {
        owned.entry(owner).and_modify(|count| *count += 1);
    }
    let mut order: Vec<(&str, usize)> = owned.into_iter().collect();
    order.sort_unstable_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
    let (share, more) = match order.len() {
        0 => return HashMap::new(),
        nodes => (lanes.len() / nodes, lanes.len() % nodes),
    };
    let mut left: Vec<(&str, usize)> = order
        .iter()
        .enumerate()
        .map(|(at, (id, _))| (*id, share + usize::from(at < more)))
        .collect();
    let mut targets = HashMap::with_capacity(lanes.len());
    let mut moving = Vec::new();
    for lane in lanes {
        let owner = lane.node.as_deref();
        let place = left
            .iter_mut()
            .find(|(id, left)| Some(*id) == owner && *left > 0);
        match place {
            Some((id, left)) => {
                *left -= 1;
                targets.insert(&lane.id, *id);
            }
            None => moving.push(&lane.id),
        }
    }
    for lane in moving {
        if let Some((id, left)) = left.iter_mut().find(|(_, left)| *left > 0) {
            *left -= 1;
            targets.insert(lane, *id);
        }
    }
    targets
}

/// Tasks of a node concerning its lanes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Moves {
    /// Free lanes to take.
    take: Vec<LaneId>,
    /// Own lanes that belong to another node now.
    hand_over: Vec<LaneId>,
    /// Lanes of a closing set to seal: own ones and free ones, with the epoch of their rows.
    seal: Vec<(LaneId, i64)>,
    /// Lanes that run here but are no longer owned.
    drop: Vec<LaneId>,
}

/// Computes the tasks of node `me`; `held` are the lanes that it runs, with their epochs.
fn decide(
    lanes: &[LaneRow],
    nodes: &[NodeRow],
    me: &str,
    held: &HashMap<LaneId, i64>,
    stable: bool,
) -> Moves {
    let targets = assign(lanes, nodes);
    let lives = |id: &str| nodes.iter().any(|node| node.id == id);
    let mut moves = Moves::default();
    let mut ours = BTreeSet::new();
    for lane in lanes {
        let is_target = targets.get(&lane.id) == Some(&me);
        let is_ours = lane.node.as_deref() == Some(me);
        let is_free = lane.node.as_deref().is_none_or(|node| !lives(node));
        if lane.is_closing() && (is_ours || is_free) {
            if held.get(&lane.id) == Some(&lane.epoch) {
                ours.insert(&lane.id);
            }
            moves.seal.push((lane.id.clone(), lane.epoch));
            continue;
        }
        match held.get(&lane.id) {
            Some(epoch) if is_ours && *epoch == lane.epoch => {
                ours.insert(&lane.id);
                if !is_target && stable {
                    moves.hand_over.push(lane.id.clone());
                }
            }
            _ if is_free && is_target && may_open(lane, lanes) => {
                moves.take.push(lane.id.clone());
            }
            // Our row has an epoch that we do not run the lane by, because an answer was lost. The lane
            // is freed and taken again.
            None if is_ours => moves.hand_over.push(lane.id.clone()),
            _ => {}
        }
    }
    moves.drop = held
        .keys()
        .filter(|lane| !ours.contains(lane))
        .cloned()
        .collect();
    moves
}

/// The lanes that the only node of a SQLite file seals. Lanes that still run, because a resize began
/// after the configuration was read, are sealed once they have stopped.
pub fn idle(lanes: Vec<LaneRow>, running: &HashSet<LaneId>) -> Vec<(LaneId, i64)> {
    let ends = |lane: &LaneRow| lane.is_closing() && !running.contains(&lane.id);
    let idle = lanes.into_iter().filter(ends);
    idle.map(|lane| (lane.id, lane.epoch)).collect()
}

/// True if all old lanes of a resize are sealed but its end is not recorded.
fn is_unfinished(lanes: &[LaneRow]) -> bool {
    let closing = |namespace: &Name| {
        let mut of_it = lanes.iter().filter(|lane| lane.id.namespace == *namespace);
        of_it.any(LaneRow::is_closing)
    };
    let mut opening = lanes.iter().filter(|lane| lane.set == SetState::Opening);
    opening.any(|lane| !closing(&lane.id.namespace))
}

/// A lane of a new set waits until every older lane that shares a slot with it is sealed.
fn may_open(lane: &LaneRow, lanes: &[LaneRow]) -> bool {
    let waits_for = |old: &LaneRow| {
        old.is_closing()
            && old.id.namespace == lane.id.namespace
            && overlap((old.id.index, old.lanes), (lane.id.index, lane.lanes))
    };
    lane.set != SetState::Opening || !lanes.iter().any(waits_for)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::time::Timestamp;

    fn node(id: &str, beat: i64) -> NodeRow {
        NodeRow {
            id: id.into(),
            name: id.into(),
            data_dir: id.into(),
            hints: "redis".into(),
            state: "live".into(),
            beat,
            config_seen: 0,
            report: String::new(),
            started_at: Timestamp::default(),
        }
    }

    fn lane(index: u16, node: Option<&str>) -> LaneRow {
        LaneRow {
            id: LaneId {
                namespace: "default".parse().unwrap(),
                generation: 1,
                index,
            },
            node: node.map(str::to_owned),
            epoch: i64::from(index),
            lanes: 40,
            set: SetState::Stable,
        }
    }

    fn shares(targets: &HashMap<&LaneId, &str>) -> HashMap<String, usize> {
        let mut shares = HashMap::new();
        for id in targets.values() {
            *shares.entry((*id).to_owned()).or_insert(0) += 1;
        }
        shares
    }

    proptest! {
        #[test]
        fn shares_differ_by_one_and_nothing_moves_that_need_not(
            owners in proptest::collection::vec(proptest::option::of(0..5_u8), 0..40),
            count in 1..5_u8,
        ) {
            let nodes: Vec<_> = (0..count).map(|n| node(&n.to_string(), 0)).collect();
            let lanes: Vec<_> = (0..).zip(&owners)
                .map(|(index, owner)| lane(index, owner.map(|n| n.to_string()).as_deref()))
                .collect();
            let targets = assign(&lanes, &nodes);
            prop_assert_eq!(targets.len(), lanes.len(), "every lane has a node");
            let shares = shares(&targets);
            let least = nodes.iter().map(|n| shares.get(&n.id).copied().unwrap_or(0)).min().unwrap();
            let most = shares.values().copied().max().unwrap_or(0);
            prop_assert!(most - least <= 1, "{:?}", shares);
            // A lane leaves a live node only when that node has its full share without it.
            for lane in &lanes {
                let owner = lane.node.as_deref().filter(|id| nodes.iter().any(|n| n.id == *id));
                if let Some(owner) = owner && targets[&lane.id] != owner {
                    prop_assert!(shares[owner] >= lanes.len() / nodes.len());
                }
            }
            // Once every node has done its part, nothing moves any more.
            let settled: Vec<_> = lanes.iter()
                .map(|lane| LaneRow { node: Some(targets[&lane.id].to_owned()), ..lane.clone() })
                .collect();
            prop_assert_eq!(assign(&settled, &nodes).values().collect::<Vec<_>>().len(), lanes.len());
            for lane in &settled {
                prop_assert_eq!(assign(&settled, &nodes)[&lane.id], lane.node.as_deref().unwrap());
            }
        }
    }

    proptest! {
        #[test]
        fn no_even_division_moves_fewer_lanes_in_whatever_order_nodes_are_read(
            owners in proptest::collection::vec(proptest::option::of(0..6_u8), 0..30),
            count in 1..5_u8,
        ) {
            let nodes: Vec<_> = (0..count).map(|n| node(&n.to_string(), 0)).collect();
            let lanes: Vec<_> = (0..).zip(&owners)
                .map(|(index, owner)| lane(index, owner.map(|n| n.to_string()).as_deref()))
                .collect();
            let targets = assign(&lanes, &nodes);
            let stay = |lane: &&LaneRow| lane.node.as_deref() == Some(targets[&lane.id]);
            let stay = lanes.iter().filter(stay).count();
            // Every choice of the nodes that have one lane more than the others.
            let owned = |n: u8| owners.iter().filter(|owner| **owner == Some(n)).count();
            let (share, more) = (lanes.len() / nodes.len(), lanes.len() % nodes.len());
            let best = (0..1_u32 << count).filter(|ones| ones.count_ones() as usize == more).map(|ones| {
                let quota = |n: u8| share + usize::from(ones >> n & 1 == 1);
                (0..count).map(|n| owned(n).min(quota(n))).sum::<usize>()
            });
            prop_assert_eq!(Some(stay), best.max());
            let backwards: Vec<_> = nodes.iter().rev().cloned().collect();
            prop_assert_eq!(assign(&lanes, &backwards), targets);
        }
    }

    #[test]
    fn a_free_lane_is_taken_at_once_and_one_of_ours_given_away_only_when_all_is_calm() {
        let nodes = [node("a", 0), node("b", 0)];
        let lanes = [
            lane(0, Some("a")),
            lane(1, Some("a")),
            lane(2, Some("gone")),
            lane(3, Some("a")),
        ];
        let held = |lanes: &[LaneRow], me: &str| -> HashMap<LaneId, i64> {
            let ours = lanes.iter().filter(|lane| lane.node.as_deref() == Some(me));
            ours.map(|lane| (lane.id.clone(), lane.epoch)).collect()
        };
        let of_b = decide(&lanes, &nodes, "b", &HashMap::new(), false);
        assert_eq!(of_b.take, [lanes[2].id.clone()]);
        let calm = |stable| decide(&lanes, &nodes, "a", &held(&lanes, "a"), stable).hand_over;
        assert_eq!(calm(false), []);
        assert_eq!(calm(true), [lanes[3].id.clone()]);
    }

    #[test]
    fn what_no_longer_carries_our_epoch_is_dropped() {
        let nodes = [node("a", 0)];
        let lanes = [lane(0, Some("a"))];
        let held = HashMap::from([(lanes[0].id.clone(), 99), (lane(7, None).id, 1)]);
        let moves = decide(&lanes, &nodes, "a", &held, true);
        assert_eq!(moves.drop.len(), 2);
    }

    #[test]
    fn old_lanes_are_sealed_by_who_has_them_or_by_anybody_and_new_ones_wait_for_those_they_overlap()
    {
        let nodes = [node("a", 0), node("b", 0)];
        let old = |index, owner| LaneRow {
            lanes: 2,
            set: SetState::Closing,
            ..lane(index, owner)
        };
        let new = |index| {
            let mut row = lane(index, None);
            row.id.generation = 2;
            (row.lanes, row.set) = (4, SetState::Opening);
            row
        };
        let of_a = |lanes: &[LaneRow]| {
            let held = HashMap::from([(lanes[0].id.clone(), lanes[0].epoch)]);
            decide(lanes, &nodes, "a", &held, true)
        };
        let mut lanes = vec![old(0, Some("a")), old(1, Some("b"))];
        lanes.extend((0..4).map(new));
        let first = of_a(&lanes);
        assert_eq!(first.seal, [(lanes[0].id.clone(), 0)], "not what b runs");
        assert_eq!(
            (first.take, first.drop, first.hand_over),
            (vec![], vec![], vec![])
        );
        lanes.remove(0);
        let then = decide(&lanes, &nodes, "a", &HashMap::new(), true);
        assert_eq!(then.take, [lanes[1].id.clone(), lanes[2].id.clone()]);
        lanes[0].node = Some("dead".into());
        let free = decide(&lanes, &nodes, "a", &HashMap::new(), true);
        assert_eq!(free.seal, [(lanes[0].id.clone(), lanes[0].epoch)]);
    }

    #[test]
    fn a_leaving_node_gets_nothing() {
        let leaving = NodeRow {
            state: "leaving".into(),
            ..node("a", 0)
        };
        let (nodes, lanes) = ([leaving, node("b", 0)], [lane(0, Some("a")), lane(1, None)]);
        assert_eq!(
            shares(&assign(&lanes, &nodes)),
            HashMap::from([("b".to_owned(), 2)])
        );
        assert_eq!(assign(&lanes, &nodes[..1]), HashMap::new());
    }

    #[test]
    fn only_silence_on_our_own_clock_makes_a_node_dead() {
        let at = Duration::from_secs;
        let mut watch = Watch::default();
        let rows = |beat| [node("a", 1), node("b", beat)];
        for seconds in 100..114 {
            assert_eq!(watch.see(&rows(1), "a", at(seconds)), []);
        }
        for seconds in 114..129 {
            assert_eq!(watch.see(&rows(2), "a", at(seconds)), []);
        }
        let silent = watch.see(&rows(2), "a", at(129));
        assert_eq!(silent, [("b".to_owned(), 2)], "never ourselves");
        assert!(watch.is_stable(at(129)) && !watch.has_changed());
        watch.see(&[node("a", 1)], "a", at(130));
        assert!(watch.has_changed(), "b may have died with hints for us");
        assert!(!watch.is_stable(at(132)) && watch.is_stable(at(133)));
    }

    #[test]
    fn who_could_not_look_does_not_call_the_others_dead() {
        let at = Duration::from_secs;
        let mut watch = Watch::default();
        let rows = [node("a", 1), node("b", 1)];
        assert_eq!(watch.see(&rows, "a", at(100)), []);
        assert_eq!(watch.see(&rows, "a", at(160)), [], "the database was away");
        for seconds in 161..175 {
            assert_eq!(watch.see(&rows, "a", at(seconds)), []);
        }
        assert_eq!(watch.see(&rows, "a", at(175)).len(), 1);
    }

    #[test]
    fn a_lease_counts_from_before_its_renewal_was_sent_and_ends_before_others_may_take() {
        let at = Duration::from_secs;
        let mut lease = Lease::begun(at(0));
        assert!(lease.holds(at(12)) && !lease.holds(at(13)));
        lease.renewed(at(3));
        assert!(lease.holds(at(15)) && !lease.holds(at(16)));
        lease.renewed(at(1));
        assert!(
            lease.holds(at(15)),
            "an older answer that comes late takes nothing back"
        );
    }
}
