//! Promises of the store, statement by statement, on a real file and a real server, directly and
//! through a pooler.

use std::sync::Arc;
use std::time::Duration;

use hooklane::domain::cursor::{Applied, Chain, Condition, CursorId, DeadLetter, Era, Holder};
use hooklane::domain::event::{EventId, StreamId};
use hooklane::domain::hook::{
    Debounce, DedupeBy, Hook, HookId, OnError, OrderBy, Reducer, Source, Unordered,
};
use hooklane::domain::keep::Keep;
use hooklane::domain::key::{self, Key, Kind, Scope};
use hooklane::domain::lane::Slot;
use hooklane::domain::name::OrderingKey;
use hooklane::domain::place::Place;
use hooklane::domain::position::{Position, Seq};
use hooklane::domain::rate::Limit;
use hooklane::domain::thresholds::Thresholds;
use hooklane::domain::time::Timestamp;
use hooklane::store::{
    Advance, Appended, Attribution, BaselineRow, Batch, CursorsFilter, Filter, HookPlan,
    InputRequest, LastUse, Mover, NewEvent, NewRebuild, RebuildStep, Shadow, SkipOutcome, Step,
    Store, Swap,
};

use crate::home::{Home, On};

/// Has every test run once on each database, and once through a pooler of transactions.
macro_rules! on_each {
    ($($test:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $test() { super::$test(super::On::Sqlite).await })*
        }
        mod on_postgres {
            $(#[tokio::test] async fn $test() { super::$test(super::On::Postgres).await })*
        }
        mod through_a_pooler {
            $(#[tokio::test] async fn $test() { super::$test(super::On::Pooler).await })*
        }
    };
}
pub(crate) use on_each;

on_each! {
    numbers_are_gapless_per_stream_and_go_on_after_a_restart,
    a_repeat_of_a_dedupe_key_gets_the_first_ones_place_and_leaves_no_gap,
    events_of_a_deleted_hook_are_not_stored,
    a_purge_takes_all_that_a_deleted_hook_had_and_nothing_else,
    a_cursor_moves_only_from_where_it_was_seen,
    a_state_that_was_folded_again_fences_turns_and_swaps_that_began_before,
    a_state_that_was_folded_again_takes_no_cursor_further_where_turns_may_not,
    a_held_cursor_is_moved_by_operators_only,
    a_reason_does_not_tell_who_holds_a_cursor,
    a_dead_letter_is_written_with_the_step_that_passes_it_or_not_at_all,
    a_waiting_cursor_comes_back_as_it_was_and_can_be_let_go,
    everything_behind_its_head_is_found_in_pages,
    what_the_log_holds_reads_the_same_indexed_or_not,
    a_missing_event_is_seen_as_a_gap,
    hooks_read_back_as_they_were_planned_and_edits_count_versions_of_the_code,
    changes_that_belong_together_are_all_made_or_none,
    keys_keep_everything_but_their_text,
    what_is_normal_is_kept_for_a_node_of_the_same_name,
    a_namespace_made_again_goes_on_counting_generations,
    cursors_are_listed_by_stream_or_by_age,
    epochs_grow_for_ever,
    a_database_of_a_newer_hooklane_is_refused,
}

/// A store with hooks to receive.
pub(crate) struct World {
    pub store: Store,
    pub home: Home,
}

impl World {
    pub async fn new(on: On) -> Self {
        let home = Home::new(on);
        let store = home.open().await.unwrap();
        let name = |n: u8| plan(&format!("hook{n}"), Some(Reducer::Count));
        store
            .create_namespace(
                &"default".parse().unwrap(),
                4,
                Thresholds::default(),
                Timestamp::now(),
            )
            .await
            .unwrap();
        store
            .create_hooks(&[name(1), name(2)], Timestamp::now())
            .await
            .unwrap()
            .unwrap();
        Self { store, home }
    }

    /// Closes the store and opens it again, as a restart does.
    pub async fn reopened(self) -> Self {
        self.store.close().await;
        let store = self.home.open().await.unwrap();
        Self { store, ..self }
    }

    pub async fn hook(&self, name: &str) -> Hook {
        let hooks = self.store.hooks().await.unwrap();
        let found = hooks.into_iter().find(|hook| hook.name.as_str() == name);
        found.unwrap()
    }

    /// Stores events of `hook1`, each given as its ordering key and its body.
    pub async fn append(&self, events: &[(&str, &str)]) -> Vec<Appended> {
        let batch = events.iter().map(|(key, body)| event(1, key, body, None));
        self.append_batch(batch.collect()).await.unwrap()
    }

    pub async fn append_batch(
        &self,
        batch: Vec<NewEvent>,
    ) -> Result<Vec<Appended>, hooklane::store::Error> {
        self.store.append(move || batch).await
    }

    pub async fn cursor(&self, key: &str) -> CursorId {
        let hook = self.hook("hook1").await;
        let stream = self
            .store
            .stream(hook.id, &OrderingKey::new(key.as_bytes()))
            .await;
        CursorId {
            stream: stream.unwrap().unwrap().id,
            handler: hook.reduce().unwrap().id,
        }
    }

    pub async fn bodies(&self, cursor: CursorId) -> Vec<String> {
        let want = InputRequest {
            cursor,
            events_max: 10_000,
        };
        let input = self
            .store
            .inputs(vec![want])
            .await
            .unwrap()
            .remove(0)
            .unwrap();
        assert!(!input.has_gap());
        let body = |body: &[u8]| String::from_utf8(body.to_vec()).unwrap();
        input.events.iter().map(|event| body(&event.body)).collect()
    }

    pub async fn position(&self, cursor: CursorId) -> (Position, Condition, Option<String>) {
        let (cursor, ..) = self.store.cursor(cursor).await.unwrap().unwrap();
        (cursor.position, cursor.condition, cursor.state)
    }
}

pub(crate) fn plan(name: &str, reducer: Option<Reducer>) -> HookPlan {
    HookPlan {
        name: name.parse().unwrap(),
        namespace: "default".parse().unwrap(),
        order_by: OrderBy::Place(Place::Body("/c".into())),
        unordered: Unordered::Refuse,
        dedupe_by: DedupeBy::default(),
        verify: None,
        handshake: None,
        versioning: None,
        allow_from: Default::default(),
        body_max: 1_000,
        keep: Keep::Forever,
        reducer,
        on_error: OnError::Hold,
        debounce: None,
        only: Default::default(),
        forwards: Vec::new(),
        pulls: Vec::new(),
    }
}

/// A hook that counts its events, ordered by a header.
pub(crate) fn counting(name: &str) -> HookPlan {
    HookPlan {
        order_by: OrderBy::Place(Place::Header("x-account".into())),
        unordered: Unordered::Keep,
        ..plan(name, Some(Reducer::Count))
    }
}

pub(crate) fn event(hook: i64, key: &str, body: &str, dedupe_key: Option<&str>) -> NewEvent {
    let key = OrderingKey::new(key.as_bytes());
    NewEvent {
        hook: HookId(hook),
        slot: Slot::of(&"hook1".parse().unwrap(), &key),
        key,
        id: EventId::new(Timestamp::now()),
        received_at: Timestamp::now(),
        key_id: None,
        dedupe_key: dedupe_key.map(str::to_owned),
        headers: r#"{"a":"b"}"#.into(),
        body: body.to_owned().into(),
        provided: None,
    }
}

pub(crate) fn step(cursor: CursorId, from: i64, to: i64, state: &str) -> Step {
    Step {
        cursor,
        era: Era(1),
        from: Position(from),
        to: Position(to),
        state: Some(state.to_owned()),
        chain: Chain::default(),
        condition: Condition::Flowing,
        skipped: Vec::new(),
        mover: Mover::Turn,
        at: Timestamp::now(),
    }
}

pub(crate) fn seqs(appended: &[Appended]) -> Vec<i64> {
    let seq = |appended: &Appended| match appended {
        Appended::New { seq, .. } => seq.0,
        Appended::Duplicate { seq, .. } => -seq.unwrap_or_default().0,
        Appended::HeldBack | Appended::Gone | Appended::Refused => 0,
    };
    appended.iter().map(seq).collect()
}

async fn changes_that_belong_together_are_all_made_or_none(on: On) {
    let world = World::new(on).await;
    let (store, now) = (&world.store, Timestamp::now());
    let acme = "acme".parse().unwrap();
    let (first, second) = (world.hook("hook1").await, world.hook("hook2").await);
    let smaller = HookPlan {
        body_max: 7,
        ..HookPlan::from(&first)
    };
    let batch = |new: &str| Batch {
        new_namespaces: vec![(&acme, 2, Thresholds::default())],
        edited: vec![(&first, smaller.clone())],
        deleted: vec![second.id],
        new_hooks: vec![plan("hook3", None), plan(new, None)],
        ..Batch::default()
    };
    let seen = async || {
        let hooks = store.hooks().await.unwrap();
        let hooks = hooks.into_iter().map(|h| (h.name.to_string(), h.body_max));
        let namespaces = store.namespaces().await.unwrap().len();
        (
            hooks.collect::<Vec<_>>(),
            namespaces,
            store.config_version().await.unwrap(),
        )
    };
    let before = seen().await;
    assert!(
        !store.apply(&batch("hook1"), now).await.unwrap(),
        "its name is taken"
    );
    assert_eq!(seen().await, before);
    assert!(store.apply(&batch("hook4"), now).await.unwrap());
    let (hooks, namespaces, version) = seen().await;
    let names: Vec<_> = hooks.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["hook1", "hook3", "hook4"]);
    assert_eq!((hooks[0].1, namespaces, version), (7, 2, before.2 + 1));
    assert!(
        !store.apply(&batch("hook5"), now).await.unwrap(),
        "acme is there"
    );
    assert_eq!(seen().await, (hooks, namespaces, version));
}

async fn numbers_are_gapless_per_stream_and_go_on_after_a_restart(on: On) {
    let world = World::new(on).await;
    let first = world.append(&[("a", "1"), ("b", "2"), ("a", "3")]).await;
    assert_eq!(seqs(&first), [1, 1, 2]);
    let world = world.reopened().await;
    assert_eq!(seqs(&world.append(&[("b", "4"), ("a", "5")]).await), [2, 3]);
    assert_eq!(world.bodies(world.cursor("a").await).await, ["1", "3", "5"]);
    assert_eq!(world.bodies(world.cursor("b").await).await, ["2", "4"]);
}

async fn a_repeat_of_a_dedupe_key_gets_the_first_ones_place_and_leaves_no_gap(on: On) {
    let world = World::new(on).await;
    let batch = |body: &str| {
        vec![
            event(1, "a", body, Some("x")),
            event(1, "b", body, Some("x")),
        ]
    };
    let first = world.append_batch(batch("1")).await.unwrap();
    assert_eq!(seqs(&first), [1, 1], "dedupe is per stream");
    let mut again = batch("2");
    again.push(event(1, "a", "3", Some("y")));
    again.push(event(1, "a", "4", Some("y")));
    let world = world.reopened().await;
    assert_eq!(
        seqs(&world.append_batch(again).await.unwrap()),
        [-1, -1, 2, -2]
    );
    assert_eq!(world.bodies(world.cursor("a").await).await, ["1", "3"]);
}

async fn events_of_a_deleted_hook_are_not_stored(on: On) {
    let world = World::new(on).await;
    world.append(&[("a", "1")]).await;
    let hook = world.hook("hook1").await;
    world
        .store
        .delete_hook(hook.id, Timestamp::now())
        .await
        .unwrap();
    assert_eq!(
        world.append(&[("a", "2"), ("z", "3")]).await,
        [Appended::Gone; 2]
    );
    let other = world
        .append_batch(vec![event(2, "a", "4", None)])
        .await
        .unwrap();
    assert_eq!(seqs(&other), [1]);
}

async fn a_purge_takes_all_that_a_deleted_hook_had_and_nothing_else(on: On) {
    let world = World::new(on).await;
    world.append(&[("a", "1"), ("b", "2"), ("a", "3")]).await;
    let kept = world
        .append_batch(vec![event(2, "a", "4", None)])
        .await
        .unwrap();
    let hook = world.hook("hook1").await;
    let cursor = world.cursor("a").await;
    world
        .store
        .advance(vec![step(cursor, 0, 1, "1")])
        .await
        .unwrap();
    world
        .store
        .delete_hook(hook.id, Timestamp::from_millis(5))
        .await
        .unwrap();
    assert_eq!(
        world
            .store
            .purge(Timestamp::from_millis(5), 10)
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        world
            .store
            .purge(Timestamp::from_millis(6), 10)
            .await
            .unwrap(),
        2
    );
    for (relation, rows) in [("events", 1), ("streams", 1), ("cursors", 0)] {
        assert_eq!(world.home.rows(relation), rows, "{relation}");
    }
    let left = world.store.events_list(&all()).await.unwrap();
    assert_eq!(left.len(), 1);
    let Appended::New { stream, .. } = kept[0] else {
        panic!("{kept:?}");
    };
    assert_eq!(left[0].event.stream, stream);
    assert!(world.store.cursor(cursor).await.unwrap().is_none());

    // A hook of the same name begins anew.
    let again = plan("hook1", None);
    world
        .store
        .create_hooks(&[again], Timestamp::now())
        .await
        .unwrap()
        .unwrap();
    let hook = world.hook("hook1").await;
    let stored = world
        .append_batch(vec![event(hook.id.0, "a", "5", None)])
        .await
        .unwrap();
    assert_eq!(seqs(&stored), [1]);
}

fn all() -> Filter {
    Filter {
        limit: 1_000,
        ..Filter::default()
    }
}

async fn a_cursor_moves_only_from_where_it_was_seen(on: On) {
    let world = World::new(on).await;
    world.append(&[("a", "1"), ("a", "2"), ("b", "3")]).await;
    let [a, b] = [world.cursor("a").await, world.cursor("b").await];
    let steps = vec![
        step(a, 0, 1, "one"),
        step(a, 0, 2, "lost"),
        step(b, 0, 1, "x"),
    ];
    let moved = world.store.advance(steps).await.unwrap();
    assert_eq!(moved, [Advance::Moved, Advance::Lost, Advance::Moved]);
    let other_era = Step {
        era: Era(2),
        ..step(a, 1, 2, "lost")
    };
    assert_eq!(
        world.store.advance(vec![other_era]).await.unwrap(),
        [Advance::Lost]
    );
    let world = world.reopened().await;
    let stands = world.position(a).await;
    assert_eq!(
        stands,
        (Position(1), Condition::Flowing, Some("one".into()))
    );
    assert_eq!(world.bodies(a).await, ["2"]);
}

async fn a_state_that_was_folded_again_fences_turns_and_swaps_that_began_before(on: On) {
    let world = World::new(on).await;
    world.append(&[("a", "1"), ("a", "2"), ("b", "3")]).await;
    let [a, b] = [world.cursor("a").await, world.cursor("b").await];
    let steps = vec![step(a, 0, 1, "old")];
    assert_eq!(world.store.advance(steps).await.unwrap(), [Advance::Moved]);
    let new = NewRebuild {
        hook: HookId(1),
        handler: a.handler,
        fold: 1,
        only: None,
        check_only: false,
        by: "ana".into(),
    };
    let now = Timestamp::now();
    let id = world.store.begin_rebuild(&new, now).await.unwrap().unwrap();
    assert_eq!(world.store.begin_rebuild(&new, now).await.unwrap(), None);
    let mut rebuild = world.store.rebuild(id).await.unwrap().unwrap();
    let swap = |cursor, era, position, state: &str| Swap {
        shadow: Shadow {
            cursor,
            position: Position(position),
            state: Some(state.to_owned()),
            chain: Chain::default(),
        },
        era: Era(era),
        condition: Condition::Flowing,
        skipped: Vec::new(),
    };
    let mut put = async |swaps: &[Swap]| {
        let step = RebuildStep {
            swaps: swaps.to_vec(),
            ..RebuildStep::of(&rebuild)
        };
        let mut stepped = world.store.advance_rebuilds(vec![step], now).await.unwrap();
        let swapped;
        (rebuild, swapped) = stepped.pop().unwrap();
        swapped
    };
    // One below its cursor is not put there; one at it is, and one for a cursor without a row.
    let swaps = [
        swap(a, 1, 0, "low"),
        swap(a, 1, 1, "new"),
        swap(b, 1, 1, "first"),
    ];
    assert_eq!(put(&swaps).await, [false, true, true]);
    assert_eq!(
        put(&[swap(a, 1, 2, "late"), swap(b, 1, 1, "late")]).await,
        [false, false]
    );
    // The position is what it was, but the state under it is another one.
    let late = world
        .store
        .advance(vec![step(a, 1, 2, "late")])
        .await
        .unwrap();
    assert_eq!(late, [Advance::Lost]);
    let next = Step {
        era: Era(2),
        ..step(a, 1, 2, "next")
    };
    let stands = world.position(a).await;
    assert_eq!(
        stands,
        (Position(1), Condition::Flowing, Some("new".into()))
    );
    assert_eq!(
        world.store.advance(vec![next]).await.unwrap(),
        [Advance::Moved]
    );
    let stands = world.position(b).await;
    assert_eq!(
        stands,
        (Position(1), Condition::Flowing, Some("first".into()))
    );
}

async fn a_state_that_was_folded_again_takes_no_cursor_further_where_turns_may_not(on: On) {
    let world = World::new(on).await;
    world.append(&[("a", "1"), ("a", "2"), ("b", "3")]).await;
    let [a, b] = [world.cursor("a").await, world.cursor("b").await];
    let moved = world.store.advance(vec![step(a, 0, 1, "old")]).await;
    assert_eq!(moved.unwrap(), [Advance::Moved]);
    let (store, now) = (&world.store, Timestamp::now());
    let new = NewRebuild {
        hook: HookId(1),
        handler: a.handler,
        fold: 1,
        only: None,
        check_only: false,
        by: "ana".into(),
    };
    let id = store.begin_rebuild(&new, now).await.unwrap().unwrap();
    let mut rebuild = store.rebuild(id).await.unwrap().unwrap();
    let mut put = async |cursor, era, position| {
        let shadow = Shadow {
            cursor,
            position: Position(position),
            state: Some("new".to_owned()),
            chain: Chain::default(),
        };
        let swap = Swap {
            shadow,
            era: Era(era),
            condition: Condition::Flowing,
            skipped: Vec::new(),
        };
        let step = RebuildStep {
            swaps: vec![swap],
            ..RebuildStep::of(&rebuild)
        };
        let mut stepped = store.advance_rebuilds(vec![step], now).await.unwrap();
        let swapped;
        (rebuild, swapped) = stepped.pop().unwrap();
        swapped[0]
    };
    let why = Attribution {
        by: "ana".into(),
        reason: None,
        at: now,
    };
    let set = store.namespaces().await.unwrap().remove(0).lanes;
    let lanes: Vec<_> = set.ids().collect();
    assert!(store.pause_lanes(&set, &lanes, &why).await.unwrap());
    assert!(!put(a, 1, 2).await, "its lane is paused");
    assert!(!put(b, 1, 1).await, "the same, of a cursor without a row");
    assert!(put(a, 1, 1).await, "another state is no move");
    assert!(store.resume_lanes(&set, &lanes).await.unwrap());
    assert!(store.pause_hook(HookId(1), &why).await.unwrap());
    assert!(!put(a, 2, 2).await, "its hook is paused");
    assert!(store.resume_hook(HookId(1)).await.unwrap());
    assert!(put(a, 2, 2).await && put(b, 1, 1).await);
}

async fn a_reason_does_not_tell_who_holds_a_cursor(on: On) {
    let world = World::new(on).await;
    world.append(&[("a", "1")]).await;
    let cursor = world.cursor("a").await;
    let filter = CursorsFilter {
        limit: 10,
        ..CursorsFilter::default()
    };
    for (mover, by) in [
        (Mover::Turn, Holder::Failure),
        (Mover::Operator, Holder::Operator),
        (Mover::Operator, Holder::Failure),
    ] {
        let held = Condition::Held {
            reason: "held by the customs office".into(),
            by,
        };
        let hold = Step {
            condition: held.clone(),
            mover,
            ..step(cursor, 0, 0, "s")
        };
        let moved = match by {
            Holder::Failure => world.store.advance(vec![hold]).await.unwrap()[0],
            Holder::Operator => world.store.operate(&[hold]).await.unwrap(),
        };
        assert_eq!(moved, Advance::Moved);
        assert_eq!(world.position(cursor).await.1, held);
        let listed = world.store.cursors(&filter).await.unwrap();
        assert_eq!(listed[0].condition, held);
        let read = world.store.cursors_of(&[cursor.stream]).await.unwrap();
        assert_eq!(read[0].of(cursor.handler).unwrap().condition, held);
        let want = InputRequest {
            cursor,
            events_max: 1,
        };
        let inputs = world.store.inputs(vec![want]).await.unwrap();
        assert_eq!(inputs[0].as_ref().unwrap().cursor.condition, held);
    }
    let released = world.store.release(cursor.stream, None).await.unwrap();
    assert_eq!(released, [cursor]);
    assert_eq!(world.position(cursor).await.1, Condition::Flowing);
}

async fn a_held_cursor_is_moved_by_operators_only(on: On) {
    let world = World::new(on).await;
    world.append(&[("a", "1"), ("a", "2")]).await;
    let cursor = world.cursor("a").await;
    let held = Condition::Held {
        reason: "why".into(),
        by: Holder::Failure,
    };
    let hold = Step {
        condition: held.clone(),
        ..step(cursor, 0, 0, "s")
    };
    assert_eq!(
        world.store.advance(vec![hold]).await.unwrap(),
        [Advance::Moved]
    );
    let moved = world
        .store
        .advance(vec![step(cursor, 0, 1, "t")])
        .await
        .unwrap();
    assert_eq!(moved, [Advance::Lost]);
    assert_eq!(world.position(cursor).await.1, held);

    let events = world
        .store
        .events_after(cursor.stream, Seq(0), 10)
        .await
        .unwrap();
    let skip = |id| world.store.skip(cursor, id, "poison", Timestamp::now());
    assert_eq!(
        skip(events[1].event.id).await.unwrap(),
        SkipOutcome::NotNext
    );
    assert_eq!(
        skip(events[0].event.id).await.unwrap(),
        SkipOutcome::Skipped
    );
    let (position, condition, state) = world.position(cursor).await;
    assert_eq!((position, condition), (Position(1), Condition::Flowing));
    assert_eq!(state, Some("s".into()), "a skip leaves the state as it is");
    let reason = world.store.dead_letter(cursor, Seq(1)).await.unwrap();
    assert_eq!(reason, Some("poison".into()));
    let (row, ..) = world.store.cursor(cursor).await.unwrap().unwrap();
    let wanted = Chain::default().next(events[0].event.id, Applied::Skipped);
    assert_eq!(row.chain, wanted);
}

async fn a_dead_letter_is_written_with_the_step_that_passes_it_or_not_at_all(on: On) {
    let world = World::new(on).await;
    world.append(&[("a", "1"), ("a", "2")]).await;
    let cursor = world.cursor("a").await;
    let skipping = |from, to| Step {
        skipped: vec![DeadLetter {
            seq: Seq(to),
            reason: "bad".into(),
        }],
        ..step(cursor, from, to, "s")
    };
    let moved = world
        .store
        .advance(vec![skipping(0, 1), skipping(0, 2)])
        .await
        .unwrap();
    assert_eq!(moved, [Advance::Moved, Advance::Lost]);
    assert!(
        world
            .store
            .dead_letter(cursor, Seq(1))
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        world
            .store
            .dead_letter(cursor, Seq(2))
            .await
            .unwrap()
            .is_none()
    );
}

async fn a_waiting_cursor_comes_back_as_it_was_and_can_be_let_go(on: On) {
    let world = World::new(on).await;
    world.append(&[("a", "1")]).await;
    let cursor = world.cursor("a").await;
    let waiting = Condition::Waiting {
        retry_at: Timestamp::from_millis(77),
        tries: 2,
        reason: "slow".into(),
    };
    let wait = Step {
        condition: waiting.clone(),
        ..step(cursor, 0, 0, "s")
    };
    world.store.advance(vec![wait]).await.unwrap();
    let world = world.reopened().await;
    assert_eq!(world.position(cursor).await.1, waiting);
    assert_eq!(
        world.store.release(cursor.stream, None).await.unwrap(),
        [cursor]
    );
    assert_eq!(world.position(cursor).await.1, Condition::Flowing);
    assert!(
        world
            .store
            .release(cursor.stream, None)
            .await
            .unwrap()
            .is_empty()
    );
}

async fn everything_behind_its_head_is_found_in_pages(on: On) {
    let world = World::new(on).await;
    world
        .append(&[("a", "1"), ("b", "2"), ("b", "3"), ("c", "4")])
        .await;
    let done = world.cursor("c").await;
    world
        .store
        .advance(vec![step(done, 0, 1, "s")])
        .await
        .unwrap();
    let none = CursorId {
        stream: StreamId(0),
        handler: done.handler,
    };
    let page = world.store.behind(none, 1).await.unwrap();
    assert_eq!(
        (page.len(), page[0].cursor, page[0].events),
        (1, world.cursor("a").await, 1)
    );
    let page = world.store.behind(page[0].cursor, 10).await.unwrap();
    assert_eq!(
        (page.len(), page[0].cursor, page[0].events),
        (1, world.cursor("b").await, 2)
    );
}

async fn what_the_log_holds_reads_the_same_indexed_or_not(on: On) {
    let world = World::new(on).await;
    // More than stays in memory whole, so that every way of reading is taken.
    let body = "x".repeat(100_000);
    for n in 0..400 {
        let batch = vec![
            event(1, "a", &format!("{n}{body}"), Some(&format!("k{n}"))),
            event(1, "b", &format!("{n}"), None),
        ];
        world.append_batch(batch).await.unwrap();
    }
    let check = async |world: &World| {
        for key in ["a", "b"] {
            let cursor = world.cursor(key).await;
            let bodies = world.bodies(cursor).await;
            let numbers = bodies
                .iter()
                .map(|body| body.trim_end_matches('x').parse::<i32>().unwrap());
            assert!(numbers.eq(0..400), "{key}");
            let listed = world
                .store
                .events_after(cursor.stream, Seq(100), 50)
                .await
                .unwrap();
            let seqs = listed.iter().map(|stored| stored.event.seq.0);
            assert!(seqs.eq(101..=150), "{key}");
        }
        let newest = world.store.events_list(&all()).await.unwrap();
        assert_eq!(newest.len(), 800);
        let last = &newest[0].event;
        let found = world.store.event(last.id).await.unwrap().unwrap();
        assert_eq!(found.event, *last);
        let older = Filter {
            before: Some(last.id),
            limit: 1,
            ..Filter::default()
        };
        let older = world.store.events_list(&older).await.unwrap();
        assert_eq!(older[0].event.id, newest[1].event.id);
    };
    check(&world).await;
    let world = world.reopened().await;
    check(&world).await;
}

async fn a_missing_event_is_seen_as_a_gap(on: On) {
    let world = World::new(on).await;
    world.append(&[("a", "1"), ("a", "2"), ("a", "3")]).await;
    let cursor = world.cursor("a").await;
    world.store.close().await;
    world.home.tamper(
        "delete from log_index where seq = 2",
        "delete from events where seq = 2",
    );
    let store = world.home.open().await.unwrap();
    let input = async |from: i64| {
        if from > 0 {
            store
                .advance(vec![step(cursor, from - 1, from, "s")])
                .await
                .unwrap();
        }
        let want = InputRequest {
            cursor,
            events_max: 10,
        };
        store.inputs(vec![want]).await.unwrap().remove(0).unwrap()
    };
    assert!(input(0).await.has_gap(), "1, 3");
    assert!(input(1).await.has_gap(), "3 after 1");
    assert!(!input(2).await.has_gap());
}

#[tokio::test]
async fn a_doubled_number_is_refused_when_the_log_is_indexed() {
    let world = World::new(On::Sqlite).await;
    world.append(&[("a", "1")]).await;
    world.store.close().await;
    world.home.tamper(
        "insert into log select n + 1, stream, seq, x'00', received_at, key_id, null, headers, body,
         checksum, null from log",
        "",
    );
    let refused = world.home.open().await;
    assert!(refused.is_err(), "two events with one number");
}

async fn hooks_read_back_as_they_were_planned_and_edits_count_versions_of_the_code(on: On) {
    let world = World::new(on).await;
    let script = |text: &str| {
        Some(Reducer::Script(Arc::new(Source {
            file: "sum.js".into(),
            text: text.into(),
        })))
    };
    let mut wanted = HookPlan {
        order_by: OrderBy::Place(Place::Header("x-account".into())),
        unordered: Unordered::Keep,
        dedupe_by: DedupeBy::default(),
        verify: None,
        handshake: None,
        on_error: OnError::Skip,
        debounce: Some(Debounce {
            quiet: Duration::from_millis(5),
            longest: Duration::from_millis(50),
        }),
        ..plan("full", script("1"))
    };
    let create = |plan: &HookPlan| {
        let plans = [plan.clone()];
        let store = world.store.clone();
        async move { store.create_hooks(&plans, Timestamp::now()).await.unwrap() }
    };
    assert!(create(&wanted).await.is_some());
    assert!(create(&wanted).await.is_none(), "the name is taken");
    let hook = world.hook("full").await;
    assert_eq!(HookPlan::from(&hook), wanted);

    let edit = async |wanted: &HookPlan| {
        let hook = world.hook("full").await;
        world
            .store
            .edit_hook(&hook, wanted, Timestamp::now())
            .await
            .unwrap();
        let hook = world.hook("full").await;
        assert_eq!(HookPlan::from(&hook), *wanted);
        hook.reduce().map(|handler| (handler.id, handler.fold))
    };
    let id = hook.reduce().unwrap().id;
    wanted.body_max = 7;
    assert_eq!(edit(&wanted).await, Some((id, 1)));
    wanted.reducer = script("2");
    assert_eq!(edit(&wanted).await, Some((id, 2)));
    wanted = plan("full", None);
    assert_eq!(edit(&wanted).await, None);
    wanted.reducer = Some(Reducer::Latest);
    assert_ne!(edit(&wanted).await.unwrap().0, id);
}

/// Each node's own, the newest of each figure, and none that was not learned for a week.
async fn what_is_normal_is_kept_for_a_node_of_the_same_name(on: On) {
    let world = World::new(on).await;
    let row = |kind: &str, subject, mean| BaselineRow {
        kind: kind.to_owned(),
        subject,
        mean,
        samples: 7,
    };
    let day = |day: i64| Timestamp::from_millis(day * 86_400_000);
    let keep = async |node: &str, rows: &[BaselineRow], at| {
        world.store.keep_normals(node, rows, at).await.unwrap();
    };
    keep("a", &[row("hook", 1, 5), row("handler", 1, -6)], day(0)).await;
    keep("b", &[row("hook", 1, 50)], day(0)).await;
    keep("a", &[row("hook", 1, 8), row("commit", 0, 1)], day(3)).await;
    let world = world.reopened().await;
    let of = async |node: &str| {
        let mut rows = world.store.normals(node).await.unwrap();
        rows.sort_by(|a, b| a.kind.cmp(&b.kind));
        rows
    };
    let all = [
        row("commit", 0, 1),
        row("handler", 1, -6),
        row("hook", 1, 8),
    ];
    assert_eq!(of("a").await, all);
    assert_eq!(of("b").await, [row("hook", 1, 50)]);
    assert_eq!(of("c").await, []);
    world.store.keep_normals("b", &[], day(8)).await.unwrap();
    assert_eq!(of("a").await, [row("commit", 0, 1), row("hook", 1, 8)]);
    assert_eq!(of("b").await, []);
}

async fn keys_keep_everything_but_their_text(on: On) {
    let world = World::new(on).await;
    let minted = key::mint(Kind::Write);
    let rate = "600/m".parse().unwrap();
    let limit = Some(Limit { rate, burst: 20 });
    let key = Key {
        number: 0,
        id: minted.id,
        name: "me".parse().unwrap(),
        kind: Kind::Write,
        scope: Scope::Hook(HookId(1)),
        consume: None,
        limit,
        hash: minted.hash,
        created_at: Timestamp::from_millis(1),
        created_by: Some("uid 1000".to_owned()),
        expires_at: Some(Timestamp::from_millis(9)),
        revoked_at: None,
    };
    let version = world.store.config_version().await.unwrap();
    world.store.create_key(&key).await.unwrap();
    assert!(
        world.store.config_version().await.unwrap() > version,
        "nodes read again"
    );
    let (stored, used) = world.store.keys().await.unwrap().remove(0);
    assert_eq!(
        (stored.id, stored.hash, stored.scope),
        (key.id, key.hash, key.scope)
    );
    assert_eq!(stored.limit, limit);
    assert_eq!(used, None);
    assert!(
        stored.is_live(Timestamp::from_millis(8)) && !stored.is_live(Timestamp::from_millis(9))
    );
    let last = LastUse {
        at: Timestamp::from_millis(5),
        from: "::1".into(),
    };
    world
        .store
        .keys_used(&[(stored.number, last.clone())])
        .await
        .unwrap();
    assert!(
        world
            .store
            .revoke_key(key.id, Timestamp::from_millis(3))
            .await
            .unwrap()
    );
    assert!(
        world
            .store
            .revoke_key(key.id, Timestamp::from_millis(4))
            .await
            .unwrap()
    );
    let (stored, used) = world.store.keys().await.unwrap().remove(0);
    assert_eq!(
        stored.revoked_at,
        Some(Timestamp::from_millis(3)),
        "the first moment stays"
    );
    assert_eq!(used, Some(last));
}

async fn a_namespace_made_again_goes_on_counting_generations(on: On) {
    let world = World::new(on).await;
    let acme = "acme".parse().unwrap();
    let now = Timestamp::now();
    assert!(
        world
            .store
            .create_namespace(&acme, 3, Thresholds::default(), now)
            .await
            .unwrap()
    );
    assert!(
        !world
            .store
            .create_namespace(&acme, 5, Thresholds::default(), now)
            .await
            .unwrap()
    );
    assert!(world.store.delete_namespace(&acme).await.unwrap());
    assert!(
        world
            .store
            .create_namespace(&acme, 5, Thresholds::default(), now)
            .await
            .unwrap()
    );
    let namespaces = world.store.namespaces().await.unwrap();
    let acme = namespaces
        .iter()
        .find(|n| n.lanes.namespace == acme)
        .unwrap();
    assert_eq!((acme.lanes.generation, acme.lanes.lanes), (2, 5));
    assert!(
        !world
            .store
            .delete_namespace(&"default".parse().unwrap())
            .await
            .unwrap()
    );
}

async fn cursors_are_listed_by_stream_or_by_age(on: On) {
    let world = World::new(on).await;
    world.append(&[("a", "1"), ("b", "2"), ("c", "3")]).await;
    let b = world.cursor("b").await;
    world.store.advance(vec![step(b, 0, 1, "s")]).await.unwrap();
    let filter = CursorsFilter {
        limit: 10,
        ..CursorsFilter::default()
    };
    let keys = |rows: Vec<hooklane::store::CursorRow>| -> Vec<String> {
        rows.iter().map(|row| row.key.as_str().to_owned()).collect()
    };
    assert_eq!(
        keys(world.store.cursors(&filter).await.unwrap()),
        ["a", "b", "c"]
    );
    assert_eq!(
        keys(world.store.cursors_behind(&filter).await.unwrap()),
        ["a", "c"]
    );
    let after = CursorsFilter {
        after: Some(b.stream),
        ..filter.clone()
    };
    assert_eq!(keys(world.store.cursors(&after).await.unwrap()), ["c"]);
    let held = CursorsFilter {
        condition: Some("held"),
        ..filter
    };
    assert!(world.store.cursors(&held).await.unwrap().is_empty());
}

async fn epochs_grow_for_ever(on: On) {
    let world = World::new(on).await;
    let first = world.store.draw_epoch().await.unwrap();
    let world = world.reopened().await;
    assert!(world.store.draw_epoch().await.unwrap() > first);
}

async fn a_database_of_a_newer_hooklane_is_refused(on: On) {
    let world = World::new(on).await;
    world.store.close().await;
    world.home.tamper(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'later', 1, x'00', 0)",
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'later', true, '', 0)",
    );
    let refused = world.home.open().await.err().unwrap();
    assert!(refused.to_string().contains("9999"), "{refused}");
}

#[tokio::test]
async fn a_doubted_cursor_is_read_with_what_other_nodes_have_stored() {
    let world = World::new(On::Postgres).await;
    let other = world.home.open().await.unwrap();
    world.append(&[("a", "1")]).await;
    let cursor = world.cursor("a").await;
    let want = || {
        let events_max = 10;
        vec![InputRequest { cursor, events_max }]
    };
    let turn = world.store.turn_inputs(want()).await.unwrap();
    assert_eq!(turn[0].as_ref().unwrap().head, Seq(1));
    let moved = world.store.advance(vec![step(cursor, 0, 1, "1")]).await;
    assert_eq!(moved.unwrap(), [Advance::Moved]);

    // This node knows of the second event, and not of the third.
    world.append(&[("a", "2")]).await;
    let third = vec![event(1, "a", "3", None)];
    other.append(move || third).await.unwrap();
    world.store.invalidate(std::iter::once(cursor));
    let turn = world.store.turn_inputs(want()).await.unwrap();
    let turn = turn[0].as_ref().unwrap();
    let seqs: Vec<_> = turn.events.iter().map(|event| event.seq).collect();
    assert_eq!((turn.head, seqs), (Seq(3), vec![Seq(2), Seq(3)]));
}
