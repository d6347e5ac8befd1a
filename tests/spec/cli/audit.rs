//! The note of an operation and its change: one is not there without the other, and what was planned for a
//! configuration that is no more changes nothing. On both databases.

use std::collections::BTreeSet;

use hooklane::domain::cursor::{Chain, Condition, CursorId, Era, Holder};
use hooklane::domain::hook::{HandlerId, Hook, HookId};
use hooklane::domain::key::{self, Key, Kind, Scope};
use hooklane::domain::lane::LaneSet;
use hooklane::domain::name::{Name, OrderingKey};
use hooklane::domain::position::Position;
use hooklane::domain::thresholds::Thresholds;
use hooklane::domain::time::Timestamp;
use hooklane::store::{
    Attribution, AuditFilter, AuditRow, CursorsFilter, Error, HookPlan, Mover, NewRebuild, Note,
    Step, Store,
};
use serde_json::{Map, json};

use crate::home::{Home, On};
use crate::store::{counting, on_each};

on_each! {
    a_change_whose_note_cannot_be_written_is_not_made,
    a_note_is_one_row_that_says_what_is_known_in_the_end,
    of_many_who_planned_for_the_same_configuration_one_acts,
    what_changes_no_configuration_is_refused_for_a_plan_that_is_old,
    a_drain_that_nodes_carry_on_leaves_plans_valid_but_is_read_by_all,
}

struct World {
    store: Store,
    home: Home,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn note(operation: &'static str, planned: Option<i64>) -> Note {
    Note {
        by: "ana".to_owned(),
        from: "socket".to_owned(),
        operation,
        subject: "all".to_owned(),
        reason: None,
        details: Map::new(),
        planned,
    }
}

fn why() -> Attribution {
    Attribution {
        by: "ana".to_owned(),
        reason: None,
        at: Timestamp::from_millis(7),
    }
}

fn new_key() -> Key {
    let minted = key::mint(Kind::Write);
    Key {
        number: 0,
        id: minted.id,
        name: name("shop"),
        kind: Kind::Write,
        scope: Scope::All,
        consume: None,
        limit: None,
        hash: minted.hash,
        created_by: None,
        created_at: Timestamp::from_millis(1),
        expires_at: None,
        revoked_at: None,
    }
}

/// A cursor that is held by hand.
fn hold(cursor: CursorId) -> Step {
    Step {
        cursor,
        era: Era(1),
        from: Position(0),
        to: Position(0),
        state: None,
        chain: Chain::default(),
        condition: Condition::Held {
            reason: "by ana".to_owned(),
            by: Holder::Operator,
        },
        skipped: Vec::new(),
        mover: Mover::Operator,
        at: Timestamp::now(),
    }
}

impl World {
    /// Two namespaces, and a hook with a stream in the first.
    async fn new(on: On) -> Self {
        let home = Home::new(on);
        let store = home.open().await.unwrap();
        for namespace in ["default", "acme"].map(name) {
            let made =
                store.create_namespace(&namespace, 4, Thresholds::default(), Timestamp::now());
            assert!(made.await.unwrap());
        }
        let orders = [counting("orders")];
        let made = store.create_hooks(&orders, Timestamp::now()).await;
        made.unwrap().unwrap();
        let world = Self { store, home };
        world.append().await;
        world
    }

    async fn append(&self) {
        let hook = self.hook().await;
        let (key, now) = (OrderingKey::new(b"a"), Timestamp::now());
        let event = hooklane::store::NewEvent {
            hook: hook.id,
            slot: hooklane::domain::lane::Slot::of(&hook.name, &key),
            key,
            id: hooklane::domain::event::EventId::new(now),
            received_at: now,
            key_id: None,
            dedupe_key: None,
            headers: "{}".into(),
            body: bytes::Bytes::from("{}"),
            provided: None,
        };
        self.store.append(move || vec![event]).await.unwrap();
    }

    async fn hook(&self) -> Hook {
        self.store.hooks().await.unwrap().remove(0)
    }

    async fn set(&self) -> LaneSet {
        let namespaces = self.store.namespaces().await.unwrap();
        let mut sets = namespaces.into_iter().map(|namespace| namespace.lanes);
        sets.find(|set| set.namespace.as_str() == "default")
            .unwrap()
    }

    async fn cursor(&self) -> CursorId {
        let hook = self.hook().await;
        let stream = self.store.stream(hook.id, &OrderingKey::new(b"a")).await;
        CursorId {
            stream: stream.unwrap().unwrap().id,
            handler: hook.handlers[0].id,
        }
    }

    async fn notes(&self) -> Vec<AuditRow> {
        let filter = AuditFilter {
            limit: 100,
            ..AuditFilter::default()
        };
        self.store.audit(&filter).await.unwrap()
    }

    /// All that an operator can change, as text.
    async fn all(&self) -> String {
        let store = &self.store;
        let filter = CursorsFilter {
            limit: 100,
            ..CursorsFilter::default()
        };
        let modes = store.lane_modes().await.unwrap();
        let modes: BTreeSet<_> = modes.iter().map(|mode| format!("{mode:?}")).collect();
        format!(
            "{} {:?} {:?} {:?} {modes:?} {:?} {:?} {:?} {:?} {}",
            store.config_version().await.unwrap(),
            store.hooks().await.unwrap(),
            store.keys().await.unwrap(),
            store.namespaces().await.unwrap(),
            store.hook_stops().await.unwrap(),
            store.cursors(&filter).await.unwrap(),
            store.running_rebuilds().await.unwrap(),
            store.resize_under_way(&name("default")).await.unwrap(),
            self.home.rows("hint_requests"),
        )
    }

    fn without_audit(&self) {
        let gone = "alter table audit rename to audit_gone";
        self.home.tamper(gone, gone);
    }

    fn with_audit(&self) {
        let back = "alter table audit_gone rename to audit";
        self.home.tamper(back, back);
    }
}

/// Every change that operators ask for, in an order in which each finds something to change.
const CHANGES: [&str; 21] = [
    "namespaces create",
    "namespaces delete",
    "hooks create",
    "hooks edit",
    "hooks pause",
    "hooks resume",
    "keys create",
    "keys revoke",
    "lanes pause",
    "lanes drain",
    "lanes resume",
    "lanes resize --drain-first",
    "lanes resume",
    "streams hold",
    "streams release",
    "streams hold",
    "streams retry",
    "lanes rebuild",
    "state rebuild",
    "lanes resize",
    "hooks delete",
];

/// Does it, with the store of somebody who acts.
async fn change(world: &World, store: &Store, what: &str, key: &Key) -> Result<(), Error> {
    let (now, hook, set) = (Timestamp::now(), world.hook().await, world.set().await);
    let lanes: Vec<_> = set.ids().collect();
    let gone = name("gone");
    match what {
        "namespaces create" => store
            .create_namespace(&gone, 2, Thresholds::default(), now)
            .await
            .map(drop),
        "namespaces delete" => store.delete_namespace(&gone).await.map(drop),
        "hooks create" => store.create_hooks(&[counting("ship")], now).await.map(drop),
        "hooks edit" => {
            let other = HookPlan {
                body_max: 2_000,
                ..counting("orders")
            };
            store.edit_hook(&hook, &other, now).await.map(drop)
        }
        "hooks pause" => store.pause_hook(hook.id, &why()).await.map(drop),
        "hooks resume" => store.resume_hook(hook.id).await.map(drop),
        "keys create" => store.create_key(key).await,
        "keys revoke" => store.revoke_key(key.id, now).await.map(drop),
        "lanes pause" => store.pause_lanes(&set, &lanes, &why()).await.map(drop),
        "lanes drain" => store.drain_lanes(&set, &lanes, &why()).await.map(drop),
        "lanes resume" => store.resume_lanes(&set, &lanes).await.map(drop),
        "lanes resize --drain-first" => store.plan_resize(&set, 7, &why()).await.map(drop),
        "lanes resize" => store.begin_resize(&set, 3, &why()).await.map(drop),
        "lanes rebuild" => store.ask_for_hints(None, false, now).await.map(drop),
        "streams hold" => {
            let step = hold(world.cursor().await);
            store.operate(&[step]).await.map(drop)
        }
        "streams release" => {
            let cursor = world.cursor().await;
            store.release(cursor.stream, None).await.map(drop)
        }
        "streams retry" => store.release_all(&[world.cursor().await]).await.map(drop),
        "state rebuild" => {
            let new = NewRebuild {
                hook: hook.id,
                handler: hook.handlers[0].id,
                fold: hook.handlers[0].fold,
                only: None,
                check_only: false,
                by: "ana".to_owned(),
            };
            store.begin_rebuild(&new, now).await.map(drop)
        }
        "hooks delete" => store.delete_hook(hook.id, now).await.map(drop),
        other => panic!("{other}?"),
    }
}

async fn a_change_whose_note_cannot_be_written_is_not_made(on: On) {
    let world = World::new(on).await;
    let key = new_key();
    for what in CHANGES {
        let before = world.all().await;
        world.without_audit();
        let store = world.store.noting(note("a change", None));
        let refused = change(&world, &store, what, &key).await;
        world.with_audit();
        assert!(refused.is_err(), "{what} was done without a trace");
        assert_eq!(world.all().await, before, "{what}");

        let notes = world.notes().await.len();
        change(&world, &store, what, &key).await.unwrap();
        assert_ne!(world.all().await, before, "{what}");
        assert_eq!(world.notes().await.len(), notes + 1, "{what}");
    }
}

async fn a_note_is_one_row_that_says_what_is_known_in_the_end(on: On) {
    let world = World::new(on).await;
    let store = world.store.noting(note("hooks edit", None));
    assert!(!store.resume_hook(HookId(1)).await.unwrap());
    assert!(
        !store
            .revoke_key(new_key().id, Timestamp::now())
            .await
            .unwrap()
    );
    assert_eq!(world.notes().await, [], "nothing was changed");

    let hook = world.hook().await;
    store.tell_note(json!({"set": "namespace"}));
    let (from, to) = (name("default"), name("acme"));
    let moving = store
        .begin_move(hook.id, &from, &to, Timestamp::now())
        .await;
    let moving = moving.unwrap().unwrap();
    assert!(
        store
            .give_up_move(&moving, "node b does not answer")
            .await
            .unwrap()
    );
    store.finish_note(json!({"took_ms": 7})).await.unwrap();
    store.finish_note(json!({})).await.unwrap();

    let notes = world.notes().await;
    let [note] = &notes[..] else {
        panic!("{notes:?}");
    };
    assert_eq!((&*note.actor, &*note.operation), ("ana", "hooks edit"));
    let details: serde_json::Value = serde_json::from_str(&note.details).unwrap();
    let expected = json!({"set": "namespace", "given_up": "node b does not answer", "took_ms": 7});
    assert_eq!(details, expected);
}

async fn of_many_who_planned_for_the_same_configuration_one_acts(on: On) {
    const MANY: usize = 8;
    const ROUNDS: usize = 10;
    let world = World::new(on).await;
    for _ in 0..ROUNDS {
        let keys = world.store.keys().await.unwrap().len();
        let planned = world.store.plan_version().await.unwrap();
        let acts = (0..MANY).map(|_| {
            let store = world.store.noting(note("keys create", Some(planned)));
            tokio::spawn(async move { store.create_key(&new_key()).await })
        });
        let acts: Vec<_> = acts.collect();
        let mut done = 0;
        for act in acts {
            match act.await.unwrap() {
                Ok(()) => done += 1,
                Err(error) => assert!(matches!(error, Error::Changed), "{error}"),
            }
        }
        assert_eq!(done, 1);
        assert_eq!(world.store.keys().await.unwrap().len(), keys + 1);
    }
    assert_eq!(world.notes().await.len(), ROUNDS);
}

async fn what_changes_no_configuration_is_refused_for_a_plan_that_is_old(on: On) {
    let world = World::new(on).await;
    let cursor = world.cursor().await;
    let planned = world.store.plan_version().await.unwrap();
    world.store.operate(&[hold(cursor)]).await.unwrap();
    world.store.pause_hook(HookId(1), &why()).await.unwrap();
    let late = world.store.noting(note("streams release", Some(planned)));
    let refused = late.release(cursor.stream, None).await;
    assert!(matches!(refused, Err(Error::Changed)), "{refused:?}");
    let now = world.store.plan_version().await.unwrap();
    let timely = world.store.noting(note("streams release", Some(now)));
    let released = timely.release(cursor.stream, Some(HandlerId(1))).await;
    assert_eq!(released.unwrap(), [cursor]);
    assert_eq!(world.notes().await.len(), 1);
}

async fn a_drain_that_nodes_carry_on_leaves_plans_valid_but_is_read_by_all(on: On) {
    let world = World::new(on).await;
    let (store, set) = (&world.store, world.set().await);
    let lanes: Vec<_> = set.ids().collect();
    assert!(store.drain_lanes(&set, &lanes, &why()).await.unwrap());
    let planned = store.plan_version().await.unwrap();
    let read = store.config_version().await.unwrap();
    store.lanes_drained(&set, &lanes).await.unwrap();
    assert!(store.config_version().await.unwrap() > read);
    let timely = store.noting(note("lanes resume", Some(planned)));
    assert!(timely.resume_lanes(&set, &lanes).await.unwrap());
    let late = store.noting(note("lanes pause", Some(planned)));
    let refused = late.pause_lanes(&set, &lanes, &why()).await;
    assert!(matches!(refused, Err(Error::Changed)), "{refused:?}");
}
