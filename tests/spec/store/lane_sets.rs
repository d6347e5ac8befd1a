//! Operations on lanes and hooks that race with changes of others, statement by statement, on both
//! databases.

use bytes::Bytes;
use hooklane::domain::event::EventId;
use hooklane::domain::hook::Hook;
use hooklane::domain::lane::{LaneId, LaneSet, Mode, Slot};
use hooklane::domain::name::{Name, OrderingKey};
use hooklane::domain::thresholds::Thresholds;
use hooklane::domain::time::Timestamp;
use hooklane::store::{
    Attribution, HookPlan, NamespaceMove, NewEvent, NodeRow, ResizeStart, Store,
};

use crate::home::{Home, On};
use crate::store::{counting, on_each};

/// Number of rounds of each racing task.
const ROUNDS: usize = 25;

on_each! {
    what_is_asked_of_lanes_that_are_being_resized_changes_nothing,
    of_a_stop_and_a_resize_at_once_the_new_lanes_do_what_was_asked_or_nothing_was,
    of_a_plan_and_a_resume_at_once_the_plan_is_given_up_or_the_resume_comes_too_late,
    a_lane_that_drains_again_is_not_called_drained_by_who_looked_before,
    a_mark_that_a_hook_left_behind_elsewhere_does_not_stop_it,
    a_hook_goes_where_it_moves_when_every_node_acts_by_its_standing_still,
    a_hook_that_has_moved_has_an_epoch_between_those_of_the_takes_before_and_after,
    whoever_is_late_with_a_move_changes_nothing,
    however_many_move_a_hook_at_once_it_goes_where_one_of_them_was_told,
    a_namespace_that_a_hook_is_on_its_way_to_is_not_deleted,
}

struct World {
    store: Store,
    _home: Home,
}

fn why() -> Attribution {
    Attribution {
        by: "ana".to_owned(),
        reason: Some("a look".to_owned()),
        at: Timestamp::from_millis(7),
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl World {
    /// Two namespaces of four lanes, and a hook in the first.
    async fn new(on: On) -> Self {
        let home = Home::new(on);
        let store = home.open().await.unwrap();
        for namespace in ["default", "acme"].map(name) {
            let made =
                store.create_namespace(&namespace, 4, Thresholds::default(), Timestamp::now());
            assert!(made.await.unwrap());
        }
        let plan = counting("orders");
        let made = store.create_hooks(&[plan], Timestamp::now()).await;
        made.unwrap().unwrap();
        Self { store, _home: home }
    }

    async fn set(&self, of: &str) -> LaneSet {
        let namespaces = self.store.namespaces().await.unwrap();
        let mut sets = namespaces.into_iter().map(|namespace| namespace.lanes);
        sets.find(|set| set.namespace.as_str() == of).unwrap()
    }

    async fn hook(&self) -> Hook {
        self.store.hooks().await.unwrap().remove(0)
    }

    async fn append(&self) {
        let (hook, key) = (self.hook().await, OrderingKey::new(b"a"));
        let event = NewEvent {
            hook: hook.id,
            slot: Slot::of(&hook.name, &key),
            key,
            id: EventId::new(Timestamp::now()),
            received_at: Timestamp::now(),
            key_id: None,
            dedupe_key: None,
            headers: "{}".into(),
            body: Bytes::from("{}"),
            provided: None,
        };
        self.store.append(move || vec![event]).await.unwrap();
    }

    /// Present work of each running lane.
    async fn modes(&self, of: &str) -> Vec<(LaneId, Mode)> {
        let modes = self.store.lane_modes().await.unwrap();
        let lanes = self.store.lanes().await.unwrap().into_iter();
        let lanes = lanes.filter(|lane| lane.id.namespace.as_str() == of);
        let mode = |lane: &LaneId| modes.get(lane).map_or(Mode::Active, |mode| mode.mode);
        lanes.map(|row| (row.id.clone(), mode(&row.id))).collect()
    }

    async fn begin_move(&self, from: &str, to: &str) -> Option<NamespaceMove> {
        let (hook, from, to) = (self.hook().await.id, name(from), name(to));
        let begun = self.store.begin_move(hook, &from, &to, Timestamp::now());
        begun.await.unwrap()
    }

    async fn join(&self, id: &str) {
        let node = NodeRow {
            id: id.into(),
            name: id.into(),
            data_dir: id.into(),
            hints: "redis".into(),
            state: "live".into(),
            beat: 0,
            config_seen: 0,
            report: String::new(),
            started_at: Timestamp::default(),
        };
        self.store.join(&node).await.unwrap();
    }

    /// Ends a resize whose old lanes nobody runs.
    async fn end_resize(&self) {
        let lanes = self.store.lanes().await.unwrap().into_iter();
        let closing = lanes.filter(|lane| lane.is_closing());
        let closing: Vec<_> = closing.map(|lane| (lane.id, lane.epoch)).collect();
        let now = Timestamp::now();
        self.store.seal_lanes(&closing, "", now).await.unwrap();
        self.store.close_sets().await.unwrap();
    }
}

async fn what_is_asked_of_lanes_that_are_being_resized_changes_nothing(on: On) {
    let world = World::new(on).await;
    world.append().await;
    let old = world.set("default").await;
    let lanes: Vec<_> = old.ids().collect();
    let begun = world.store.begin_resize(&old, 2, &why()).await.unwrap();
    assert!(matches!(begun, ResizeStart::Begun(_)));
    for _ in 0..2 {
        let store = &world.store;
        assert!(!store.pause_lanes(&old, &lanes, &why()).await.unwrap());
        assert!(!store.drain_lanes(&old, &lanes, &why()).await.unwrap());
        assert!(!store.resume_lanes(&old, &lanes).await.unwrap());
        store.lanes_drained(&old, &lanes).await.unwrap();
        let modes = world.modes("default").await;
        assert!(modes.iter().all(|(_, mode)| *mode == Mode::Active));
        assert!(store.marks().await.unwrap().is_empty());
        // Nor when the resize is over.
        world.end_resize().await;
    }
    let new = world.set("default").await;
    let lanes: Vec<_> = new.ids().collect();
    assert!(world.store.pause_lanes(&new, &lanes, &why()).await.unwrap());
    let modes = world.modes("default").await;
    assert_eq!(
        modes,
        [0, 1].map(|lane| (lanes[lane].clone(), Mode::Paused))
    );
}

async fn of_a_stop_and_a_resize_at_once_the_new_lanes_do_what_was_asked_or_nothing_was(on: On) {
    let world = World::new(on).await;
    let mut crossed = [0, 0];
    for round in 0..ROUNDS {
        let set = world.set("default").await;
        let lanes: Vec<_> = set.ids().collect();
        let stop = async {
            let store = &world.store;
            match round % 2 {
                0 => store.pause_lanes(&set, &lanes, &why()).await,
                _ => store.drain_lanes(&set, &lanes, &why()).await,
            }
        };
        let why = why();
        let resize = world.store.begin_resize(&set, 2 + round as u16 % 3, &why);
        let (stopped, begun) = tokio::join!(stop, resize);
        let stopped = stopped.unwrap();
        assert!(matches!(begun.unwrap(), ResizeStart::Begun(_)));
        let modes = world.modes("default").await;
        let all = |mode| modes.iter().all(|(_, is)| *is == mode);
        let expected = match (stopped, round % 2) {
            (false, _) => Mode::Active,
            (true, 0) => Mode::Paused,
            (true, _) => Mode::Draining,
        };
        assert!(all(expected), "{stopped} {modes:?}");
        crossed[usize::from(stopped)] += 1;
        world.end_resize().await;
        let set = world.set("default").await;
        let lanes: Vec<_> = set.ids().collect();
        assert!(world.store.resume_lanes(&set, &lanes).await.unwrap());
    }
    println!("too late, in time: {crossed:?}");
}

async fn of_a_plan_and_a_resume_at_once_the_plan_is_given_up_or_the_resume_comes_too_late(on: On) {
    let world = World::new(on).await;
    for _ in 0..ROUNDS {
        let from = world.set("default").await;
        let lanes: Vec<_> = from.ids().collect();
        let planned = world.store.plan_resize(&from, 3, &why()).await.unwrap();
        let ResizeStart::Begun(to) = planned else {
            panic!("{planned:?}")
        };
        let second = world.store.begin_resize(&from, 5, &why()).await.unwrap();
        assert_eq!(second, ResizeStart::Changed, "one resize at a time");
        world.store.lanes_drained(&from, &lanes).await.unwrap();
        let (begun, resumed) = tokio::join!(
            world.store.begin_planned(&from, &to),
            world.store.resume_lanes(&from, &lanes)
        );
        assert_ne!(begun.unwrap(), resumed.unwrap(), "one of them");
        let modes = world.modes("default").await;
        let of_set = |set: &LaneSet, lane: &LaneId| lane.generation == set.generation;
        let newest = world.set("default").await;
        let newest = modes.iter().filter(|(lane, _)| of_set(&newest, lane));
        assert!(newest.clone().count() > 0);
        assert!(newest.into_iter().all(|(_, mode)| *mode == Mode::Active));
        world.end_resize().await;
        assert_eq!(
            world
                .store
                .resize_under_way(&name("default"))
                .await
                .unwrap(),
            None
        );
    }
}

async fn a_lane_that_drains_again_is_not_called_drained_by_who_looked_before(on: On) {
    let world = World::new(on).await;
    let set = world.set("default").await;
    let lanes: Vec<_> = set.ids().collect();
    world.store.drain_lanes(&set, &lanes, &why()).await.unwrap();
    assert!(world.store.left(&set).await.unwrap().is_empty());
    // Between this look and what is written by it:
    world.store.resume_lanes(&set, &lanes).await.unwrap();
    world.append().await;
    world.store.drain_lanes(&set, &lanes, &why()).await.unwrap();
    world.store.lanes_drained(&set, &lanes).await.unwrap();
    let left = world.store.left(&set).await.unwrap();
    assert_eq!(left.len(), 1);
    for (lane, mode) in world.modes("default").await {
        let expected = match left.contains_key(&lane.index) {
            true => Mode::Draining,
            false => Mode::Drained,
        };
        assert_eq!(mode, expected, "{lane}");
    }
}

async fn a_mark_that_a_hook_left_behind_elsewhere_does_not_stop_it(on: On) {
    let world = World::new(on).await;
    world.append().await;
    let [from, to] = [world.set("default").await, world.set("acme").await];
    let drain = async |set: &LaneSet| {
        let lanes: Vec<_> = set.ids().collect();
        assert!(world.store.drain_lanes(set, &lanes, &why()).await.unwrap());
    };
    let moving = world.begin_move("default", "acme").await.unwrap();
    assert!(world.store.end_move(&moving).await.unwrap());
    // As a drain leaves it that saw the hook before it had moved.
    drain(&to).await;
    let moving = world.begin_move("acme", "default").await.unwrap();
    let marks = world.store.marks().await.unwrap();
    assert_eq!(marks.values().map(|mark| mark.0).collect::<Vec<_>>(), [1]);
    assert!(world.store.end_move(&moving).await.unwrap());
    assert!(world.store.marks().await.unwrap().is_empty());
    world.append().await;
    drain(&from).await;
    let marks = world.store.marks().await.unwrap();
    assert_eq!(marks.values().map(|mark| mark.0).collect::<Vec<_>>(), [2]);
    assert_eq!(world.store.left(&from).await.unwrap().len(), 1);
    assert!(world.store.left(&to).await.unwrap().is_empty());
}

async fn a_hook_goes_where_it_moves_when_every_node_acts_by_its_standing_still(on: On) {
    let world = World::new(on).await;
    for node in ["a", "b"] {
        world.join(node).await;
    }
    let moving = world.begin_move("default", "acme").await.unwrap();
    assert_eq!(moving.since, world.store.config_version().await.unwrap());
    let stops = world.store.hook_stops().await.unwrap();
    assert_eq!(stops[&moving.hook].moving, Some(moving.clone()));
    for (node, seen) in [
        ("a", moving.since - 1),
        ("b", moving.since),
        ("a", moving.since + 1),
    ] {
        assert!(!world.store.end_move(&moving).await.unwrap());
        assert_eq!(world.hook().await.namespace, name("default"));
        assert!(world.store.beat(node, seen, "").await.unwrap());
    }
    world.join("c").await;
    assert!(
        !world.store.end_move(&moving).await.unwrap(),
        "who is this?"
    );
    assert!(world.store.beat("c", moving.since, "").await.unwrap());
    assert!(world.store.end_move(&moving).await.unwrap());
    assert_eq!(world.hook().await.namespace, name("acme"));
    assert!(world.store.hook_stops().await.unwrap().is_empty());
    // Other edits of the hook do not undo the move.
    let old = HookPlan {
        namespace: name("default"),
        ..HookPlan::from(&world.hook().await)
    };
    let hook = world.hook().await;
    let edited = world.store.edit_hook(&hook, &old, Timestamp::now());
    edited.await.unwrap();
    assert_eq!(world.hook().await.namespace, name("acme"));
}

async fn a_hook_that_has_moved_has_an_epoch_between_those_of_the_takes_before_and_after(on: On) {
    let world = World::new(on).await;
    world.join("a").await;
    let take = async |of: &str| {
        let lanes: Vec<_> = world.set(of).await.ids().collect();
        let taken = world.store.take_lanes(&lanes, "a").await.unwrap();
        taken.into_iter().map(|(_, epoch)| epoch).max().unwrap()
    };
    let free = async |of: &str| {
        let lanes = world.store.lanes().await.unwrap().into_iter();
        let lanes = lanes.filter(|lane| lane.id.namespace.as_str() == of);
        let lanes: Vec<_> = lanes.map(|lane| (lane.id, lane.epoch)).collect();
        world.store.release_lanes(&lanes, "a").await.unwrap();
    };
    let go = async |from: &str, to: &str| {
        let moving = world.begin_move(from, to).await.unwrap();
        assert!(world.store.beat("a", moving.since, "").await.unwrap());
        assert!(world.store.end_move(&moving).await.unwrap());
        world.store.configuration().await.unwrap().moved[&moving.hook]
    };
    let configuration = world.store.configuration().await.unwrap();
    assert!(configuration.moved.is_empty());
    let new = take("acme").await;
    let old = take("default").await;
    assert!(new < old, "the hook goes to lanes that were taken earlier");
    let there = go("default", "acme").await;
    assert!(there > old, "receivers have seen the epoch of the old lane");
    free("acme").await;
    let later = take("acme").await;
    assert!(later > there);
    let back = go("acme", "default").await;
    assert!(back > later);
}

async fn whoever_is_late_with_a_move_changes_nothing(on: On) {
    let world = World::new(on).await;
    let first = world.begin_move("default", "acme").await.unwrap();
    assert_eq!(world.begin_move("default", "acme").await, None);
    assert!(world.store.end_move(&first).await.unwrap());
    assert_eq!(
        world.begin_move("default", "acme").await,
        None,
        "it is gone"
    );
    assert_eq!(world.begin_move("acme", "nowhere").await, None);
    let back = world.begin_move("acme", "default").await.unwrap();
    assert!(!world.store.end_move(&first).await.unwrap());
    assert!(!world.store.give_up_move(&first, "late").await.unwrap());
    assert_eq!(world.hook().await.namespace, name("acme"));
    assert!(world.store.give_up_move(&back, "late").await.unwrap());
    assert!(!world.store.end_move(&back).await.unwrap());
    assert_eq!(world.hook().await.namespace, name("acme"));
    assert!(world.store.hook_stops().await.unwrap().is_empty());
}

async fn however_many_move_a_hook_at_once_it_goes_where_one_of_them_was_told(on: On) {
    let world = World::new(on).await;
    for _ in 0..ROUNDS {
        let there = world.hook().await.namespace;
        let (from, to) = match there.as_str() {
            "default" => ("default", "acme"),
            _ => ("acme", "default"),
        };
        let mover = async || {
            let Some(moving) = world.begin_move(from, to).await else {
                return 0;
            };
            u32::from(world.store.end_move(&moving).await.unwrap())
        };
        let (a, b, c) = tokio::join!(mover(), mover(), mover());
        assert_eq!(a + b + c, 1, "one of them");
        assert_eq!(world.hook().await.namespace, name(to));
    }
}

async fn a_namespace_that_a_hook_is_on_its_way_to_is_not_deleted(on: On) {
    let world = World::new(on).await;
    let acme = name("acme");
    let moving = world.begin_move("default", "acme").await.unwrap();
    assert!(!world.store.delete_namespace(&acme).await.unwrap());
    assert!(world.store.give_up_move(&moving, "late").await.unwrap());
    for _ in 0..ROUNDS {
        let (deleted, moving) = tokio::join!(
            world.store.delete_namespace(&acme),
            world.begin_move("default", "acme")
        );
        match moving {
            Some(moving) => {
                assert!(!deleted.unwrap());
                assert!(world.store.give_up_move(&moving, "late").await.unwrap());
            }
            None => {
                assert!(deleted.unwrap());
                let made =
                    world
                        .store
                        .create_namespace(&acme, 4, Thresholds::default(), Timestamp::now());
                assert!(made.await.unwrap());
            }
        }
    }
}
