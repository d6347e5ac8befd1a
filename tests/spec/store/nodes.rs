//! Promises of the rows of nodes and lanes, statement by statement and in races, on both databases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hooklane::domain::lane::LaneId;
use hooklane::domain::thresholds::Thresholds;
use hooklane::domain::time::Timestamp;
use hooklane::store::{Attribution, LaneRow, NodeRow, ResizeStart, SetState, Store};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::home::{Home, On};
use crate::store::on_each;

/// Number of rounds of each racing task.
const ROUNDS: usize = 40;

on_each! {
    lanes_come_and_go_with_their_lane_set,
    a_lease_that_was_lost_never_comes_back,
    a_node_is_reaped_only_at_the_beat_that_was_seen,
    whoever_holds_a_data_directory_ends_all_nodes_of_it,
    a_lane_is_taken_only_when_its_node_is_null_or_gone,
    a_new_lane_is_taken_only_when_every_older_one_it_overlaps_is_sealed,
    every_take_draws_an_epoch_of_its_own,
    a_lane_is_given_back_only_by_its_node_and_with_its_epoch,
    of_a_renewal_and_a_reaping_at_the_same_time_one_changes_nothing,
    a_lane_never_has_two_owners_however_many_race,
    a_database_knows_itself_again,
}

struct World {
    store: Store,
    home: Home,
}

impl World {
    async fn new(on: On) -> Self {
        let home = Home::new(on);
        let store = home.open().await.unwrap();
        let default = "default".parse().unwrap();
        let made = store
            .create_namespace(&default, 4, Thresholds::default(), Timestamp::now())
            .await;
        assert!(made.unwrap());
        Self { store, home }
    }

    async fn joined(&self) -> String {
        join(&self.store, "here").await
    }

    async fn lanes(&self) -> Vec<LaneRow> {
        self.store.lanes().await.unwrap()
    }

    async fn lane(&self, index: usize) -> LaneRow {
        self.lanes().await.swap_remove(index)
    }

    async fn nodes(&self) -> Vec<String> {
        let nodes = self.store.nodes().await.unwrap();
        nodes.into_iter().map(|node| node.id).collect()
    }
}

async fn join(store: &Store, data_dir: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let id = format!("node{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let node = NodeRow {
        id: id.clone(),
        name: "eu-1".into(),
        data_dir: data_dir.into(),
        hints: "redis".into(),
        state: "live".into(),
        beat: 0,
        config_seen: 0,
        report: String::new(),
        started_at: Timestamp::from_millis(7),
    };
    store.join(&node).await.unwrap();
    id
}

/// Takes one of the four lanes.
async fn take(world: &World, index: usize, me: &str) -> Option<i64> {
    let lane = world.lane(index).await.id;
    let taken = world.store.take_lanes(&[lane], me).await.unwrap();
    taken.first().map(|(_, epoch)| *epoch)
}

async fn lanes_come_and_go_with_their_lane_set(on: On) {
    let world = World::new(on).await;
    let acme = "acme".parse().unwrap();
    let now = Timestamp::now();
    assert!(
        world
            .store
            .create_namespace(&acme, 1024, Thresholds::default(), now)
            .await
            .unwrap()
    );
    let lanes = world.lanes().await;
    assert_eq!(lanes.len(), 1028);
    assert_eq!(lanes[1023].id.to_string(), "acme-1-1023");
    assert_eq!(lanes[1027].id.to_string(), "default-1-3");
    assert!(world.store.delete_namespace(&acme).await.unwrap());
    assert_eq!(world.lanes().await.len(), 4);
    assert!(
        world
            .store
            .create_namespace(&acme, 1, Thresholds::default(), now)
            .await
            .unwrap()
    );
    let expected = LaneRow {
        id: LaneId {
            namespace: acme,
            generation: 2,
            index: 0,
        },
        node: None,
        epoch: 0,
        lanes: 1,
        set: SetState::Stable,
    };
    assert_eq!(world.lane(0).await, expected);
}

async fn a_lease_that_was_lost_never_comes_back(on: On) {
    let world = World::new(on).await;
    let me = world.joined().await;
    assert!(world.store.beat(&me, 5, "{\"lanes\":3}").await.unwrap());
    let row = world.store.nodes().await.unwrap().remove(0);
    assert_eq!((&row.id, row.beat, row.config_seen), (&me, 1, 5));
    assert_eq!((row.name.as_str(), row.hints.as_str()), ("eu-1", "redis"));
    assert_eq!(
        (row.report.as_str(), row.data_dir.as_str()),
        ("{\"lanes\":3}", "here")
    );
    assert!(!row.is_leaving());
    assert_eq!(world.store.leave(&me).await.unwrap(), 1);
    assert!(
        world.store.beat(&me, 6, "").await.unwrap(),
        "a leaving node still renews"
    );
    assert!(world.store.nodes().await.unwrap()[0].is_leaving());
    world.store.remove_node(&me).await.unwrap();
    assert!(!world.store.beat(&me, 6, "").await.unwrap());
    assert_eq!(world.store.leave(&me).await.unwrap(), 0);
    assert!(world.nodes().await.is_empty());
    assert_eq!(take(&world, 0, &me).await, None, "no row, no lease");
}

async fn a_node_is_reaped_only_at_the_beat_that_was_seen(on: On) {
    let world = World::new(on).await;
    let (me, other) = (world.joined().await, world.joined().await);
    assert!(world.store.beat(&other, 1, "").await.unwrap());
    assert!(
        !world.store.reap(&other, 0).await.unwrap(),
        "it has moved since"
    );
    assert!(world.store.reap(&other, 1).await.unwrap());
    assert!(!world.store.reap(&other, 1).await.unwrap());
    assert_eq!(world.nodes().await, [me]);
}

async fn whoever_holds_a_data_directory_ends_all_nodes_of_it(on: On) {
    let world = World::new(on).await;
    let elsewhere = join(&world.store, "elsewhere").await;
    world.joined().await;
    world.joined().await;
    assert_eq!(world.store.reap_data_dir("here").await.unwrap(), 2);
    assert_eq!(world.nodes().await, [elsewhere]);
}

async fn a_lane_is_taken_only_when_its_node_is_null_or_gone(on: On) {
    let world = World::new(on).await;
    let (me, other) = (world.joined().await, world.joined().await);
    let epoch = take(&world, 0, &other).await.unwrap();
    let row = world.lane(0).await;
    assert_eq!((row.node.as_ref(), row.epoch), (Some(&other), epoch));
    assert_eq!(take(&world, 0, &me).await, None);
    assert_eq!(take(&world, 0, &other).await, None, "not even by its owner");
    assert!(world.store.reap(&other, 0).await.unwrap());
    let later = take(&world, 0, &me).await.unwrap();
    assert!(later > epoch);
    assert_eq!(world.lane(0).await.node, Some(me));
}

/// Four lanes become two: each of the new ones takes over from two.
async fn a_new_lane_is_taken_only_when_every_older_one_it_overlaps_is_sealed(on: On) {
    let world = World::new(on).await;
    let (me, now) = (world.joined().await, Timestamp::now());
    let old: Vec<_> = world.lanes().await.into_iter().map(|row| row.id).collect();
    let owned = world.store.take_lanes(&old, &me).await.unwrap();
    let why = Attribution {
        by: "an operator".into(),
        reason: None,
        at: now,
    };
    let set = world.store.namespaces().await.unwrap().remove(0).lanes;
    let begun = world.store.begin_resize(&set, 2, &why).await.unwrap();
    let ResizeStart::Begun(new) = begun else {
        panic!("{begun:?}")
    };
    let new: Vec<_> = new.ids().collect();
    let take = async || {
        let taken = world.store.take_lanes(&new, &me).await.unwrap();
        taken.into_iter().map(|(lane, _)| lane).collect::<Vec<_>>()
    };
    let seal = async |lanes: &[(LaneId, i64)], node: &str| {
        world.store.seal_lanes(lanes, node, now).await.unwrap();
    };
    assert_eq!(take().await, []);
    seal(&owned, "somebody else").await;
    assert_eq!(take().await, [], "only its owner seals a lane");
    seal(&owned[..1], &me).await;
    assert_eq!(take().await, [], "the second half is not sealed yet");
    seal(&owned[1..2], &me).await;
    assert_eq!(take().await, [new[0].clone()]);
    assert_eq!(world.store.close_sets().await.unwrap(), []);
    assert_eq!(world.store.remove_node(&me).await.unwrap(), 1);
    let other = world.joined().await;
    seal(&owned[2..], &other).await;
    let taken = world.store.take_lanes(&new, &other).await.unwrap();
    assert_eq!(taken.len(), 2, "what nobody runs is sealed by anybody");
    assert_eq!(world.store.close_sets().await.unwrap(), [set]);
}

async fn every_take_draws_an_epoch_of_its_own(on: On) {
    let world = World::new(on).await;
    let (me, other) = (world.joined().await, world.joined().await);
    take(&world, 1, &other).await.unwrap();
    let all: Vec<_> = world
        .lanes()
        .await
        .into_iter()
        .map(|lane| lane.id)
        .collect();
    let backwards: Vec<_> = all.iter().chain(&all).rev().cloned().collect();
    let taken = world.store.take_lanes(&backwards, &me).await.unwrap();
    let lanes: Vec<_> = taken.iter().map(|(lane, _)| lane.clone()).collect();
    assert_eq!(lanes, [&all[0], &all[2], &all[3]].map(Clone::clone));
    assert!(taken.is_sorted_by_key(|(_, epoch)| *epoch));
    let epochs: BTreeSet<_> = world.lanes().await.iter().map(|lane| lane.epoch).collect();
    assert_eq!(epochs.len(), 4);
    let next = world.store.draw_epoch().await.unwrap();
    assert!(epochs.into_iter().all(|epoch| epoch < next));
    assert_eq!(world.store.take_lanes(&[], &me).await.unwrap(), []);
}

async fn a_lane_is_given_back_only_by_its_node_and_with_its_epoch(on: On) {
    let world = World::new(on).await;
    let (me, other) = (world.joined().await, world.joined().await);
    let lane = world.lane(0).await.id;
    let owner = async |node: &str, epoch| {
        let lanes = [(lane.clone(), epoch)];
        world.store.release_lanes(&lanes, node).await.unwrap();
        world.lane(0).await.node
    };
    let early = take(&world, 0, &me).await.unwrap();
    assert_eq!(owner(&me, early).await, None);
    let late = take(&world, 0, &me).await.unwrap();
    assert_eq!(owner(&me, early).await.as_ref(), Some(&me));
    assert_eq!(owner(&other, late).await.as_ref(), Some(&me));
    assert_eq!(owner(&me, late).await, None);
}

async fn of_a_renewal_and_a_reaping_at_the_same_time_one_changes_nothing(on: On) {
    let world = World::new(on).await;
    for _ in 0..ROUNDS {
        let other = world.joined().await;
        let (renewed, reaped) =
            tokio::join!(world.store.beat(&other, 1, ""), world.store.reap(&other, 0));
        let (renewed, reaped) = (renewed.unwrap(), reaped.unwrap());
        assert!(renewed != reaped, "renewed: {renewed}, reaped: {reaped}");
        world.store.remove_node(&other).await.unwrap();
    }
}

/// Owner of each lane, as the nodes themselves believe.
type Believed = Arc<Mutex<BTreeMap<LaneId, String>>>;

async fn a_lane_never_has_two_owners_however_many_race(on: On) {
    let world = World::new(on).await;
    let believed = Believed::default();
    let mut racing = JoinSet::new();
    for number in 0..6 {
        let store = match on {
            On::Sqlite => world.store.clone(),
            On::Postgres | On::Pooler => world.home.open().await.unwrap(),
        };
        racing.spawn(race(store, believed.clone(), number));
    }
    let takes: usize = racing.join_all().await.into_iter().sum();
    assert!(takes >= ROUNDS, "{takes} takes are too few for a race");
    assert!(world.nodes().await.is_empty());
}

/// Joins, takes what it gets, gives some back and leaves the rest behind with its row; again and again.
/// A node stops believing before it says so to the others, as an owner stops acting before.
async fn race(store: Store, believed: Believed, number: usize) -> usize {
    let lanes = store.lanes().await.unwrap();
    let mut lanes: Vec<_> = lanes.into_iter().map(|lane| lane.id).collect();
    lanes.rotate_left(number % 4);
    let disbelieve = |lanes: &[(LaneId, i64)]| {
        for (lane, _) in lanes {
            believed.lock().remove(lane);
        }
    };
    let mut takes = 0;
    for round in 0..ROUNDS {
        let me = join(&store, "here").await;
        let mut taken = store.take_lanes(&lanes, &me).await.unwrap();
        takes += taken.len();
        for (lane, _) in &taken {
            let other = believed.lock().insert(lane.clone(), me.clone());
            assert_eq!(other, None, "{lane} has two owners");
        }
        tokio::task::yield_now().await;
        let left_behind = taken.split_off(taken.len() / 2);
        disbelieve(&taken);
        store.release_lanes(&taken, &me).await.unwrap();
        disbelieve(&left_behind);
        match round % 2 {
            0 => assert_eq!(store.remove_node(&me).await.unwrap(), 1),
            _ => assert!(store.reap(&me, 0).await.unwrap()),
        }
    }
    takes
}

async fn a_database_knows_itself_again(on: On) {
    let (world, other) = (World::new(on).await, World::new(on).await);
    let known = world.store.cluster().await.unwrap();
    assert_ne!(known, other.store.cluster().await.unwrap());
    let history = world.store.history().await.unwrap();
    let expected = match on {
        On::Sqlite => None,
        On::Postgres | On::Pooler => Some(1),
    };
    assert_eq!(history.map(|history| history.timeline), expected);
    world.store.close().await;
    let store = world.home.open().await.unwrap();
    assert_eq!(store.cluster().await.unwrap(), known);
    assert_eq!(store.history().await.unwrap(), history);
}
