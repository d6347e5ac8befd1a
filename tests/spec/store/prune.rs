//! Promises of the store about removed events, on a real file and a real server.

use hooklane::domain::cursor::{Chain, Condition, DeadLetter, Holder};
use hooklane::domain::event::EventId;
use hooklane::domain::hook::{HookId, Reducer};
use hooklane::domain::position::{Position, Seq};
use hooklane::domain::time::Timestamp;
use hooklane::store::{
    Advance, Appended, Checkpoint, Cut, HookPlan, InputRequest, NewEvent, NewRebuild, Prune, Step,
};

use crate::home::On;
use crate::store::{World, event, on_each, seqs, step};

on_each! {
    what_every_cursor_has_passed_goes_and_its_checkpoint_stands_in_its_place,
    a_cut_that_is_not_due_changes_nothing,
    one_of_two_that_cut_the_same_stream_does_it,
    a_handler_that_comes_later_begins_at_the_floor,
    a_log_without_its_newest_events_goes_on_counting,
    what_an_amount_leaves_is_measured_and_the_oldest_come_first,
    a_purge_takes_checkpoints_too,
    events_that_come_while_others_go_are_stored_without_a_gap,
}

/// A cut of the stream of `key` by the reducer of `hook1`, with a checkpoint that says where it stands.
async fn cut(world: &World, key: &str, floor: i64, to: i64) -> Prune {
    let cursor = world.cursor(key).await;
    // Events not yet in the index of a file stay.
    world.store.streams_with_events(HookId(1)).await.unwrap();
    Prune {
        hook: HookId(1),
        reducer: Some((cursor.handler, 1)),
        cuts: vec![Cut {
            stream: cursor.stream,
            floor: Seq(floor),
            to: Seq(to),
            checkpoint: Checkpoint {
                fold: 1,
                state: Some(format!("at {to}")),
                chain: Chain::from_bytes(vec![to as u8; 32]),
            },
        }],
    }
}

async fn is_cut(world: &World, prune: Prune) -> bool {
    let done = world.store.prune(prune).await.unwrap();
    assert_eq!(done.len(), 1);
    done[0]
}

/// The seqs of the events that a stream has.
async fn left(world: &World, key: &str) -> Vec<i64> {
    let stream = world.cursor(key).await.stream;
    let events = world.store.events_after(stream, Seq(0), 1_000).await;
    events
        .unwrap()
        .iter()
        .map(|stored| stored.event.seq.0)
        .collect()
}

async fn moves(world: &World, step: Step) {
    let moved = world.store.advance(vec![step]).await.unwrap();
    assert_eq!(moved, [Advance::Moved]);
}

async fn what_every_cursor_has_passed_goes_and_its_checkpoint_stands_in_its_place(on: On) {
    let world = World::new(on).await;
    let keyed = |body: &str| event(1, "a", body, Some(body));
    let batch = ["1", "2", "3", "4"].map(keyed);
    let ids = batch.each_ref().map(|event| event.id);
    world.append_batch(batch.into()).await.unwrap();
    world.append(&[("b", "1"), ("b", "2")]).await;
    let a = world.cursor("a").await;
    let skips = Step {
        skipped: [1, 3]
            .map(|seq| DeadLetter {
                seq: Seq(seq),
                reason: "bad".into(),
            })
            .into(),
        ..step(a, 0, 3, "three")
    };
    moves(&world, skips).await;
    assert!(is_cut(&world, cut(&world, "a", 0, 2).await).await);

    let world = world.reopened().await;
    assert_eq!(left(&world, "a").await, [3, 4]);
    assert_eq!(left(&world, "b").await, [1, 2], "others keep theirs");
    assert_eq!(world.home.rows("events"), 4);
    let stands = world.position(a).await;
    assert_eq!(
        stands,
        (Position(3), Condition::Flowing, Some("three".into()))
    );
    assert_eq!(world.bodies(a).await, ["4"], "turns go on without a gap");
    for (id, is_there) in ids.into_iter().zip([false, false, true, true]) {
        assert_eq!(world.store.event(id).await.unwrap().is_some(), is_there);
    }
    for (seq, is_there) in [(1, false), (3, true)] {
        let letter = world.store.dead_letter(a, Seq(seq)).await.unwrap();
        assert_eq!(
            letter.is_some(),
            is_there,
            "a dead letter goes with its event"
        );
    }
    let stream = world
        .store
        .stream(HookId(1), &key("a"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((stream.floor, stream.head), (Seq(2), Seq(4)));
    let found = world
        .store
        .beginnings(HookId(1), a.handler, a.stream, a.stream)
        .await;
    let [begins] = &found.unwrap()[..] else {
        panic!("one stream has a floor");
    };
    assert_eq!(begins.shadow.position, Position(2));
    assert_eq!(begins.shadow.state.as_deref(), Some("at 2"));
    assert_eq!(begins.shadow.chain.as_bytes(), [2; 32]);
    assert_eq!(begins.fold, Some(1));

    // A dedupe key is remembered as long as its event.
    let again = world
        .append_batch(["2", "3"].map(keyed).into())
        .await
        .unwrap();
    assert_eq!(seqs(&again), [5, -3]);
    // The next checkpoint takes the place of the last.
    assert!(is_cut(&world, cut(&world, "a", 2, 3).await).await);
    assert_eq!(world.home.rows("checkpoints"), 1);
    assert_eq!(left(&world, "a").await, [4, 5]);
}

async fn a_cut_that_is_not_due_changes_nothing(on: On) {
    let world = World::new(on).await;
    world.append(&[("a", "1"), ("a", "2"), ("a", "3")]).await;
    let a = world.cursor("a").await;
    assert!(
        !is_cut(&world, cut(&world, "a", 0, 1).await).await,
        "no row is position 0"
    );
    let held = Step {
        condition: Condition::Held {
            reason: "no".into(),
            by: Holder::Failure,
        },
        ..step(a, 0, 2, "two")
    };
    moves(&world, held).await;
    assert!(
        !is_cut(&world, cut(&world, "a", 0, 3).await).await,
        "held at 2"
    );
    assert!(
        !is_cut(&world, cut(&world, "a", 1, 2).await).await,
        "another floor"
    );
    assert!(
        !is_cut(&world, cut(&world, "a", 0, 0).await).await,
        "nothing"
    );
    assert!(
        !is_cut(&world, cut(&world, "a", 0, 9).await).await,
        "beyond the head"
    );
    let due = cut(&world, "a", 0, 2).await;
    let others = [
        Prune {
            reducer: Some((a.handler, 2)),
            ..due.clone()
        },
        Prune {
            reducer: None,
            ..due.clone()
        },
        Prune {
            hook: HookId(2),
            ..due.clone()
        },
    ];
    for other in others {
        assert!(!is_cut(&world, other).await, "another reducer or hook");
    }
    let rebuild = NewRebuild {
        hook: HookId(1),
        handler: a.handler,
        fold: 1,
        only: None,
        check_only: true,
        by: "ana".into(),
    };
    let now = Timestamp::now();
    let id = world
        .store
        .begin_rebuild(&rebuild, now)
        .await
        .unwrap()
        .unwrap();
    assert!(
        !is_cut(&world, due.clone()).await,
        "it is being folded again"
    );
    let rebuild = world.store.rebuild(id).await.unwrap().unwrap();
    world.store.end_rebuild(&rebuild, None, now).await.unwrap();
    assert_eq!(left(&world, "a").await, [1, 2, 3]);
    assert_eq!(world.home.rows("checkpoints"), 0);

    assert!(is_cut(&world, due.clone()).await);
    assert!(!is_cut(&world, due.clone()).await, "it is done");
    world.store.delete_hook(HookId(1), now).await.unwrap();
    let third = Cut {
        floor: Seq(2),
        to: Seq(3),
        ..due.cuts[0].clone()
    };
    assert!(
        !is_cut(
            &world,
            Prune {
                cuts: vec![third],
                ..due
            }
        )
        .await,
        "its hook is gone"
    );
}

async fn one_of_two_that_cut_the_same_stream_does_it(on: On) {
    let world = World::new(on).await;
    world.append(&[("a", "1"), ("a", "2"), ("b", "1")]).await;
    for (key, to) in [("a", 2), ("b", 1)] {
        moves(&world, step(world.cursor(key).await, 0, to, "x")).await;
    }
    let mut both = cut(&world, "a", 0, 2).await;
    both.cuts.extend(cut(&world, "b", 0, 1).await.cuts);
    let (one, other) = tokio::join!(world.store.prune(both.clone()), world.store.prune(both));
    let mut done = [one.unwrap(), other.unwrap()];
    done.sort();
    assert_eq!(done, [[false; 2], [true; 2]]);
    assert_eq!(world.home.rows("events"), 0);
    assert_eq!(world.home.rows("checkpoints"), 2);
}

async fn a_handler_that_comes_later_begins_at_the_floor(on: On) {
    let world = World::new(on).await;
    world
        .append(&[("a", "1"), ("a", "2"), ("a", "3"), ("b", "1")])
        .await;
    let before = world.cursor("a").await;
    let edit = async |reducer: Option<Reducer>| {
        let hook = world.hook("hook1").await;
        let plan = HookPlan {
            reducer,
            ..HookPlan::from(&hook)
        };
        world
            .store
            .edit_hook(&hook, &plan, Timestamp::now())
            .await
            .unwrap();
    };
    let due = cut(&world, "a", 0, 2).await;
    edit(None).await;
    // A hook that only stores has no cursors to wait for.
    assert!(
        is_cut(
            &world,
            Prune {
                reducer: None,
                ..due
            }
        )
        .await
    );
    assert_eq!(world.home.rows("checkpoints"), 0);
    edit(Some(Reducer::Latest)).await;

    let [a, b] = [world.cursor("a").await, world.cursor("b").await];
    assert_ne!(a.handler, before.handler);
    assert_eq!(
        world.position(a).await,
        (Position(2), Condition::Flowing, None)
    );
    assert_eq!(
        world.position(b).await,
        (Position(0), Condition::Flowing, None)
    );
    assert_eq!(world.bodies(a).await, ["3"]);
    let counted = world
        .store
        .checkpointed(HookId(1), a.handler, None, 1)
        .await;
    assert_eq!(counted.unwrap(), (0, 0), "it never saw what is gone");
    let found = world
        .store
        .beginnings(HookId(1), a.handler, a.stream, b.stream)
        .await;
    let found = found.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].shadow.position, found[0].fold),
        (Position(2), None)
    );
    assert_eq!(found[0].shadow.state, None);

    moves(&world, step(a, 2, 3, "three")).await;
    moves(&world, step(b, 0, 1, "one")).await;
    assert!(is_cut(&world, cut(&world, "a", 2, 3).await).await);
    for (fold, older) in [(1, 0), (2, 1)] {
        let counted = world
            .store
            .checkpointed(HookId(1), a.handler, None, fold)
            .await;
        assert_eq!(counted.unwrap(), (1, older));
        let counted = world
            .store
            .checkpointed(HookId(1), a.handler, Some(b.stream), fold)
            .await;
        assert_eq!(counted.unwrap(), (0, 0));
    }
}

async fn a_log_without_its_newest_events_goes_on_counting(on: On) {
    let mut world = World::new(on).await;
    for round in 0..3 {
        let stored = world.append(&[("a", "1"), ("a", "2")]).await;
        assert_eq!(seqs(&stored), [2 * round + 1, 2 * round + 2]);
        let a = world.cursor("a").await;
        moves(&world, step(a, 2 * round, 2 * round + 2, "x")).await;
        assert!(is_cut(&world, cut(&world, "a", 2 * round, 2 * round + 2).await).await);
        assert_eq!(world.home.rows("events"), 0);
        let want = InputRequest {
            cursor: a,
            events_max: 9,
        };
        let input = world
            .store
            .inputs(vec![want])
            .await
            .unwrap()
            .remove(0)
            .unwrap();
        assert!(!input.has_gap() && input.events.is_empty());
        if round != 1 {
            world = world.reopened().await;
        }
    }
    let (streams, events) = world.store.hook_size(HookId(1)).await.unwrap();
    assert_eq!((streams, events), (1, 0));
    let stored = world
        .append_batch(vec![event(2, "z", "1", None)])
        .await
        .unwrap();
    assert_eq!(seqs(&stored), [1]);
    assert_eq!(world.home.rows("events"), 1);
}

async fn what_an_amount_leaves_is_measured_and_the_oldest_come_first(on: On) {
    let world = World::new(on).await;
    let at = |hook: i64, key: &str, size: usize, ms: i64| NewEvent {
        received_at: Timestamp::from_millis(ms),
        id: EventId::new(Timestamp::from_millis(ms)),
        headers: "{}".into(),
        ..event(hook, key, &"x".repeat(size - 2), None)
    };
    let batch = vec![
        at(1, "a", 100, 1_000),
        at(2, "a", 999, 1_500),
        at(1, "b", 200, 2_000),
        at(1, "a", 300, 3_000),
    ];
    world.append_batch(batch).await.unwrap();
    let bytes = async || world.store.hook_bytes(HookId(1)).await.unwrap();
    let oldest = async |bytes| {
        let found = world.store.oldest_bytes(HookId(1), bytes).await.unwrap();
        found.map(Timestamp::as_millis)
    };
    assert_eq!(bytes().await, 600);
    assert_eq!(bytes().await, 600, "what was measured is not counted twice");
    for (excess, ms) in [
        (1, 1_000),
        (100, 1_000),
        (101, 2_000),
        (300, 2_000),
        (301, 3_000),
    ] {
        assert_eq!(oldest(excess).await, Some(ms), "{excess}");
    }
    assert_eq!(oldest(601).await, None);

    moves(&world, step(world.cursor("a").await, 0, 2, "x")).await;
    assert!(is_cut(&world, cut(&world, "a", 0, 1).await).await);
    assert_eq!(bytes().await, 500);
    assert_eq!(oldest(1).await, Some(2_000));
    world
        .append_batch(vec![at(1, "a", 50, 4_000)])
        .await
        .unwrap();
    assert_eq!(bytes().await, 550);
    // Events removed before they were measured are not counted.
    world
        .append_batch(vec![at(1, "a", 60, 5_000)])
        .await
        .unwrap();
    moves(&world, step(world.cursor("a").await, 2, 4, "x")).await;
    assert!(is_cut(&world, cut(&world, "a", 1, 4).await).await);
    assert_eq!(bytes().await, 200);
}

async fn a_purge_takes_checkpoints_too(on: On) {
    let world = World::new(on).await;
    world.append(&[("a", "1"), ("a", "2")]).await;
    moves(&world, step(world.cursor("a").await, 0, 1, "x")).await;
    assert!(is_cut(&world, cut(&world, "a", 0, 1).await).await);
    world.store.hook_bytes(HookId(1)).await.unwrap();
    let now = Timestamp::now();
    world.store.delete_hook(HookId(1), now).await.unwrap();
    let later = now.after(std::time::Duration::from_millis(1));
    assert_eq!(world.store.purge(later, 10).await.unwrap(), 1);
    for relation in ["events", "streams", "cursors", "checkpoints", "sizes"] {
        assert_eq!(world.home.rows(relation), 0, "{relation}");
    }
}

/// Storing, moving and removing the same streams at once: nobody waits for ever, and no number is missing.
async fn events_that_come_while_others_go_are_stored_without_a_gap(on: On) {
    let world = World::new(on).await;
    let keys = ["a", "b", "c"];
    world.append(&keys.map(|key| (key, "0"))).await;
    let store = async {
        for n in 1..60 {
            let batch = keys.map(|key| event(1, key, &n.to_string(), None));
            let stored = world.append_batch(batch.into()).await.unwrap();
            assert!(stored.iter().all(|one| matches!(one, Appended::New { .. })));
        }
    };
    let remove = async {
        for to in 1..40 {
            let mut prune = cut(&world, "a", to - 1, to).await;
            for (key, floor) in [("b", to - 1), ("c", to - 1)] {
                prune.cuts.extend(cut(&world, key, floor, to).await.cuts);
            }
            for of in &prune.cuts {
                let cursor = hooklane::domain::cursor::CursorId {
                    stream: of.stream,
                    handler: prune.reducer.unwrap().0,
                };
                let mut moved = Advance::Lost;
                while moved == Advance::Lost {
                    let (_, head, _) = world.store.cursor(cursor).await.unwrap().unwrap();
                    if head.0 < to {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    let steps = vec![step(cursor, to - 1, to, "x")];
                    moved = world.store.advance(steps).await.unwrap()[0];
                }
            }
            let mut done = [false; 3];
            while done.contains(&false) {
                world.store.streams_with_events(HookId(1)).await.unwrap();
                let again = world.store.prune(prune.clone()).await.unwrap();
                done.iter_mut()
                    .zip(again)
                    .for_each(|(done, again)| *done |= again);
            }
        }
    };
    tokio::join!(store, remove);
    for key in keys {
        assert_eq!(
            left(&world, key).await,
            (40..=60).collect::<Vec<_>>(),
            "{key}"
        );
    }
}

fn key(text: &str) -> hooklane::domain::name::OrderingKey {
    hooklane::domain::name::OrderingKey::new(text.as_bytes())
}
