//! The provider's order in the store: late events, and events that are held back for a reorder window.
//! Time is driven by the tests.

use std::time::Duration;

use hooklane::domain::event::EventId;
use hooklane::domain::hook::HookId;
use hooklane::domain::name::OrderingKey;
use hooklane::domain::position::Seq;
use hooklane::domain::time::Timestamp;
use hooklane::domain::version::{Late, Version, Versioning};
use hooklane::store::{
    Appended, Due, Filter, HeldBackFilter, HookPlan, NewEvent, Provided, Released,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::store::{World, event, on_each};
use crate::home::{Home, On};
use crate::seeds::seed;

on_each! {
    streams_shuffled_by_up_to_the_window_are_stored_in_the_order_of_their_versions,
    an_event_is_late_after_a_higher_version_of_its_stream,
    a_repeat_of_a_held_back_event_is_known_before_and_after_its_release,
    held_back_events_outlive_a_restart_and_are_released_once,
    events_without_a_version_do_not_wait,
    a_shorter_window_releases_events_earlier,
    held_back_events_of_a_deleted_hook_are_not_stored,
}

/// The reorder window of the tests.
const WINDOW: i64 = 5_000;

fn version(rule: u32, number: i64) -> Version {
    let by = "/version".parse().unwrap();
    let body = format!(r#"{{"version":{number}}}"#);
    Version::of(&by, rule, &http::HeaderMap::new(), body.as_bytes()).unwrap()
}

/// An event with a version, not held back.
fn versioned(key: &str, number: i64, late: Late) -> NewEvent {
    NewEvent {
        provided: Some(Provided {
            version: Some(version(1, number)),
            late,
            due_at: None,
        }),
        ..event(1, key, &number.to_string(), None)
    }
}

/// An event with a version that arrives at a time and is held back for the window.
fn held(key: &str, number: i64, at: i64) -> NewEvent {
    let received_at = Timestamp::from_millis(at);
    NewEvent {
        id: EventId::new(received_at),
        received_at,
        provided: Some(Provided {
            version: Some(version(1, number)),
            late: Late::Mark,
            due_at: Some(Timestamp::from_millis(at + WINDOW)),
        }),
        ..event(1, key, &number.to_string(), None)
    }
}

fn due(at: i64) -> Due {
    Due::at(Timestamp::from_millis(at))
}

impl World {
    /// Releases everything that is due.
    async fn release(&self, at: i64) -> Vec<Released> {
        let mut all = Vec::new();
        loop {
            let released = self.store.release_due(due(at)).await.unwrap();
            if released.is_empty() {
                return all;
            }
            all.extend(released);
        }
    }

    /// Bodies of a stream of `hook1` in order, and treatments of its late events.
    async fn stored(&self, key: &str) -> (Vec<i64>, Vec<Option<Late>>) {
        let key = OrderingKey::new(key.as_bytes());
        let Some(stream) = self.store.stream(HookId(1), &key).await.unwrap() else {
            return Default::default();
        };
        let events = self
            .store
            .events_after(stream.id, Seq(0), 10_000)
            .await
            .unwrap();
        let number = |body: &[u8]| std::str::from_utf8(body).unwrap().parse().unwrap();
        let numbers = events.iter().map(|stored| number(&stored.event.body));
        let late = events.iter().map(|stored| stored.event.late);
        (numbers.collect(), late.collect())
    }

    async fn waiting(&self) -> u64 {
        let count = self.store.held_back_count(HookId(1), None);
        count.await.unwrap().events
    }
}

/// A thousand streams of a provider that sends an event every 700 ms, each of which takes up to the
/// window to arrive.
async fn streams_shuffled_by_up_to_the_window_are_stored_in_the_order_of_their_versions(on: On) {
    const STREAMS: usize = 1_000;
    const EVENTS: i64 = 12;
    const EVERY: i64 = 700;
    const TICK: i64 = 100;
    let mut chance = StdRng::seed_from_u64(seed());
    let world = World::new(on).await;
    let mut arrivals: Vec<(i64, usize, i64)> = Vec::new();
    for stream in 0..STREAMS {
        for number in 0..EVENTS {
            let at = 1_000_000 + number * EVERY + chance.random_range(0..=WINDOW);
            arrivals.push((at, stream, number));
        }
    }
    arrivals.sort_unstable();
    let disordered = (0..STREAMS).filter(|stream| {
        let numbers = arrivals.iter().filter(|(_, of, _)| of == stream);
        !numbers.is_sorted_by_key(|(.., number)| number)
    });
    assert!(
        disordered.count() > STREAMS * 9 / 10,
        "the shuffle is too mild"
    );
    let mut rest = arrivals.as_slice();
    let mut now = 1_000_000;
    while world.waiting().await > 0 || !rest.is_empty() {
        now += TICK;
        let (come, later) = rest.split_at(rest.partition_point(|(at, ..)| *at <= now));
        rest = later;
        let batch: Vec<_> = come
            .iter()
            .map(|(at, stream, number)| held(&format!("s{stream}"), *number, *at))
            .collect();
        for part in batch.chunks(512) {
            let stored = world.append_batch(part.to_vec()).await.unwrap();
            assert!(stored.iter().all(|one| *one == Appended::HeldBack));
        }
        let released = world.release(now).await;
        assert!(released.iter().all(|event| event.late.is_none()));
    }
    let sorted: Vec<_> = (0..EVENTS).collect();
    let mut right = 0;
    for stream in 0..STREAMS {
        let (numbers, _) = world.stored(&format!("s{stream}")).await;
        assert_eq!(numbers.len(), sorted.len());
        right += usize::from(numbers == sorted);
    }
    assert!(
        right * 1_000 >= STREAMS * 999,
        "{right} of {STREAMS} streams are sorted"
    );
}

async fn an_event_is_late_after_a_higher_version_of_its_stream(on: On) {
    let world = World::new(on).await;
    let of = |numbers: &[i64]| -> Vec<_> {
        let events = numbers
            .iter()
            .map(|number| versioned("a", *number, Late::Skip));
        events.collect()
    };
    let lates = |appended: &[Appended]| -> Vec<bool> {
        let late = appended.iter().map(|one| match one {
            Appended::New { late, .. } => late.is_some(),
            other => panic!("{other:?}"),
        });
        late.collect()
    };
    let first = world
        .append_batch(of(&[1, 3, 2, 3, 5, 4, 4]))
        .await
        .unwrap();
    let wanted = [false, false, true, false, false, true, true];
    assert_eq!(lates(&first), wanted);
    let world = world.reopened().await;
    assert_eq!(
        lates(&world.append_batch(of(&[4, 6])).await.unwrap()),
        [true, false]
    );
    // Other streams, events without a version, and versions of a new rule are never late.
    let mut others = vec![
        versioned("b", 1, Late::Skip),
        event(1, "a", "0", None),
        versioned("a", 1, Late::Skip),
    ];
    others[2].provided.as_mut().unwrap().version = Some(version(2, 1));
    assert_eq!(
        lates(&world.append_batch(others).await.unwrap()),
        [false; 3]
    );
    // The old rule, of a node that has not read the new one yet.
    assert_eq!(lates(&world.append_batch(of(&[1])).await.unwrap()), [false]);
    let mut again = vec![versioned("a", 0, Late::Apply)];
    again[0].provided.as_mut().unwrap().version = Some(version(2, 0));
    assert_eq!(lates(&world.append_batch(again).await.unwrap()), [true]);

    let (numbers, late) = world.stored("a").await;
    assert_eq!(numbers, [1, 3, 2, 3, 5, 4, 4, 4, 6, 0, 1, 1, 0]);
    let places: Vec<_> = late
        .iter()
        .enumerate()
        .filter(|(_, late)| late.is_some())
        .collect();
    let skip = &Some(Late::Skip);
    let wanted = [
        (2, skip),
        (5, skip),
        (6, skip),
        (7, skip),
        (12, &Some(Late::Apply)),
    ];
    assert_eq!(places, wanted);
    let cursor = world.cursor("a").await;
    assert_eq!(world.store.late_in_stream(cursor.stream).await.unwrap(), 5);
    assert_eq!(world.store.late_count(HookId(1)).await.unwrap(), 5);
    let filter = Filter {
        late: true,
        limit: 10,
        ..Filter::default()
    };
    let listed = world.store.events_list(&filter).await.unwrap();
    let mut seqs: Vec<_> = listed.iter().map(|stored| stored.event.seq.0).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, [3, 6, 7, 8, 13]);
}

async fn a_repeat_of_a_held_back_event_is_known_before_and_after_its_release(on: On) {
    let world = World::new(on).await;
    let keyed = |number, at| NewEvent {
        dedupe_key: Some("d".to_owned()),
        ..held("a", number, at)
    };
    let (first, second) = (keyed(1, 1_000), keyed(2, 1_001));
    let id = first.id;
    let stored = world.append_batch(vec![first, second]).await.unwrap();
    let repeat = |seq| Appended::Duplicate {
        id,
        seq,
        received_at: Timestamp::from_millis(1_000),
    };
    assert_eq!(stored, [Appended::HeldBack, repeat(None)]);
    let again = world.append_batch(vec![keyed(1, 1_500)]).await.unwrap();
    assert_eq!(again, [repeat(None)]);
    let body = async |body: &[u8]| {
        let key = OrderingKey::new(b"a");
        world
            .store
            .repeats_body(HookId(1), &key, "d", body)
            .await
            .unwrap()
    };
    assert!(body(b"1").await && !body(b"2").await);
    assert_eq!(world.release(1_000 + WINDOW).await.len(), 1);
    let again = world.append_batch(vec![keyed(1, 9_000)]).await.unwrap();
    assert_eq!(again, [repeat(Some(Seq(1)))]);
    assert_eq!(
        (world.waiting().await, world.stored("a").await.0),
        (0, vec![1])
    );
}

async fn held_back_events_outlive_a_restart_and_are_released_once(on: On) {
    let world = World::new(on).await;
    let mut batch: Vec<_> = (0..600).map(|n| held("a", n, 1_000 + n)).collect();
    batch.shuffle(&mut rand::rng());
    for part in batch.chunks(300) {
        world.append_batch(part.to_vec()).await.unwrap();
    }
    assert_eq!(
        world.store.next_due().await.unwrap(),
        Some(Timestamp::from_millis(1_000 + WINDOW))
    );
    assert!(world.release(999 + WINDOW).await.is_empty());
    let one = HeldBackFilter {
        id: Some(batch[0].id),
        limit: 2,
        ..HeldBackFilter::default()
    };
    assert_eq!(world.store.held_back(&one).await.unwrap().len(), 1);
    // The highest version waits longest, so each release takes those up to the one that is due.
    assert_eq!(world.release(1_099 + WINDOW).await.len(), 100);
    let world = world.reopened().await;
    assert_eq!(world.waiting().await, 500);
    let other = world.beside().await;
    let (mine, theirs) = tokio::join!(world.release(9_000), async {
        match &other {
            Some(other) => other.release(9_000).await.len(),
            None => 0,
        }
    });
    let left = world.release(9_000).await.len();
    assert_eq!(mine.len() + theirs + left, 500);
    assert_eq!(world.stored("a").await.0, (0..600).collect::<Vec<_>>());
    assert_eq!(world.store.next_due().await.unwrap(), None);
    assert!(world.store.held_back(&one).await.unwrap().is_empty());
}

async fn events_without_a_version_do_not_wait(on: On) {
    let world = World::new(on).await;
    let plain = |number: i64, at: i64| {
        let mut event = held("a", number, at);
        let provided = event.provided.as_mut().unwrap();
        provided.version = None;
        provided.due_at = Some(event.received_at);
        event
    };
    let batch = vec![
        held("a", 9, 1_000),
        plain(3, 1_001),
        plain(1, 1_002),
        held("a", 8, 1_003),
    ];
    world.append_batch(batch).await.unwrap();
    assert_eq!(world.release(1_002).await.len(), 2);
    assert_eq!(world.release(1_000 + WINDOW).await.len(), 2);
    assert_eq!(world.stored("a").await.0, [3, 1, 8, 9]);
}

async fn a_shorter_window_releases_events_earlier(on: On) {
    let world = World::new(on).await;
    let set = async |window: Option<u64>| {
        let hook = world.hook("hook1").await;
        let plan = HookPlan {
            versioning: Some(Versioning {
                by: "/version".parse().unwrap(),
                late: Late::Mark,
                window: window.map(Duration::from_millis),
            }),
            ..HookPlan::from(&hook)
        };
        let edited = world.store.edit_hook(&hook, &plan, Timestamp::now()).await;
        assert!(edited.unwrap());
        world.hook("hook1").await.version_rule
    };
    assert_eq!(set(Some(5_000)).await, 1);
    world.append_batch(vec![held("a", 1, 1_000)]).await.unwrap();
    assert!(world.release(1_100).await.is_empty());
    assert_eq!(set(Some(50)).await, 1, "the place stays");
    assert!(world.release(1_049).await.is_empty());
    assert_eq!(world.release(1_050).await.len(), 1);
    world.append_batch(vec![held("a", 2, 2_000)]).await.unwrap();
    assert_eq!(set(None).await, 1);
    assert_eq!(world.release(2_000).await.len(), 1);
    // An event that was received by a clock which was ahead by hours does not wait for hours.
    world
        .append_batch(vec![held("a", 3, 9_000_000)])
        .await
        .unwrap();
    assert_eq!(world.release(1_000).await.len(), 1);
}

async fn held_back_events_of_a_deleted_hook_are_not_stored(on: On) {
    let world = World::new(on).await;
    world.append_batch(vec![held("a", 1, 1_000)]).await.unwrap();
    let deleted = world.store.delete_hook(HookId(1), Timestamp::now()).await;
    assert!(deleted.unwrap());
    let after = world.append_batch(vec![held("a", 2, 1_000)]).await.unwrap();
    assert_eq!(after, [Appended::Gone]);
    assert!(world.release(9_000).await.is_empty());
    assert_eq!(world.home.rows("waiting") + world.home.rows("events"), 0);
}

impl World {
    /// Another store on the same database, if it may have two.
    async fn beside(&self) -> Option<Self> {
        match self.home {
            Home::File(_) => None,
            _ => {
                let database = self.home.database();
                let store = hooklane::store::Store::open(database, Box::new(|_| {})).await;
                let home = Home::Server(String::new());
                Some(Self {
                    store: store.unwrap(),
                    home,
                })
            }
        }
    }
}
