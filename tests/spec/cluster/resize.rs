//! Lanes operated while webhooks come, on both set-ups: nothing is lost, doubled or reordered, whatever
//! the number of lanes becomes and whatever is stopped and let go meanwhile.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hooklane::domain::thresholds::Thresholds;
use hooklane::domain::time::Timestamp;
use hooklane::store::{Attribution, Database, ResizeStart, Store};
use serde_json::{Value, json};

use super::checker::{self, Attempt, TRAIL_JS, trail};
use super::daemon::{Client, Home, Setup};
use super::embedded::torture::outcome;
use super::world::{World, until};

const HOOKS: &str = "[[hooks]]\nname = 'orders'\nreduce = 'trail.js'\norder_by = 'body:/account'\n";
const SENDERS: usize = 8;

/// The database of a daemon that does not run.
fn database(home: &Home) -> Database {
    match &home.servers {
        Some(servers) => servers.url().parse().unwrap(),
        None => (&home.data().join("hooklane.db")).into(),
    }
}

/// A daemon with a hook whose state is the trail of its events.
pub fn world(setup: Setup) -> World {
    World::at(Home::new(setup), &[("trail.js", TRAIL_JS)], HOOKS)
}

/// Sends to streams of its own, one event after the other, until it is told to stop.
async fn send(
    mut client: Client,
    sender: usize,
    began: Instant,
    stop: Arc<AtomicBool>,
) -> Vec<Attempt> {
    let mut log = Vec::new();
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let account = format!("s{sender}-{}", number % 40);
        let body =
            Bytes::from(json!({"account": account, "number": number, "amount": 1}).to_string());
        let sent_at = began.elapsed();
        let answer = client.post("orders", body.clone(), None).await.unwrap();
        assert_eq!(answer.status, 202, "{}", answer.json());
        log.push(Attempt {
            stream: format!("orders/{account}"),
            body,
            dedupe_key: None,
            sent_at,
            outcome: outcome(&answer, began.elapsed()),
        });
    }
    log
}

/// Does `work` under load, then checks every promise.
pub async fn under_load(world: &World, work: impl FnOnce(&World)) {
    let (stop, began) = (Arc::new(AtomicBool::new(false)), Instant::now());
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let client = Client::new(world.home.addr, &world.write);
            tokio::spawn(send(client, sender, began, Arc::clone(&stop)))
        })
        .collect();
    tokio::task::block_in_place(|| work(world));
    stop.store(true, Ordering::Relaxed);
    let mut log = Vec::new();
    for sender in senders {
        log.extend(sender.await.unwrap());
    }
    let mut client = Client::new(world.home.addr, &world.read);
    checker::settle(&mut client, &["orders"], Duration::from_secs(10)).await;
    let stored = checker::read(&mut client, &["orders"]).await;
    let broken = checker::check(&log, &stored, trail);
    assert!(broken.is_empty(), "{}", checker::report(&broken));
}

fn resize(world: &World, lanes: u16) {
    let count = lanes.to_string();
    // Confirmed, as fewer lanes than the load needs ask for.
    let said = [
        "lanes",
        "resize",
        &count,
        "--yes",
        "--confirm",
        &count,
        "-o",
        "json",
    ];
    let said = world.home.run(&said);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["to"], lanes);
}

fn lanes(world: &World) -> Value {
    world.admin("GET", "/v1/admin/lanes", &Value::Null).json()["items"].take()
}

/// Duration of a storm of resizes; `HOOKLANE_STORM` sets it in seconds. Run it for a minute before a
/// release.
fn storm() -> Duration {
    let seconds = std::env::var("HOOKLANE_STORM").map(|text| text.parse().unwrap());
    Duration::from_secs(seconds.unwrap_or(12))
}

async fn a_storm_of_resizes_under_load_keeps_every_order(setup: Setup) {
    const EVERY: Duration = Duration::from_secs(2);
    let world = world(setup);
    under_load(&world, |world| {
        let began = Instant::now();
        let counts = [64, 3, 17, 1].into_iter().cycle();
        for (nth, count) in (1..).zip(counts) {
            resize(world, count);
            assert_eq!(lanes(world).as_array().unwrap().len(), usize::from(count));
            until(|| (began.elapsed() >= EVERY * nth).then_some(()));
            if began.elapsed() >= storm() {
                break;
            }
        }
    })
    .await;
}

/// The daemon is killed at any moment of a resize, and goes on with it.
async fn a_resize_survives_a_kill_at_any_moment(setup: Setup) {
    const STREAMS: usize = 20;
    let mut world = world(setup);
    let counts = [(16, 5), (3, 40), (64, 90), (5, 140)];
    for (round, (count, pause_ms)) in (1..).zip(counts) {
        for account in 0..STREAMS {
            let body = json!({"account": account.to_string(), "number": round, "amount": 1});
            world.accepted("orders", body.to_string());
        }
        let count = count.to_string();
        let mut resize =
            world
                .home
                .command(&["lanes", "resize", &count, "--yes", "--confirm", &count]);
        let mut resize = resize
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(pause_ms));
        world.kill();
        resize.wait().unwrap();
        world.restart();
        until(|| {
            let progress = world.admin("GET", "/v1/admin/lanes/resize", &Value::Null);
            (progress.json()["under_way"] == false).then_some(())
        });
    }
    let rounds = counts.len() as i64;
    for account in 0..STREAMS {
        let state = world.state(&format!("orders/{account}"), rounds);
        let trail = (1..=rounds).fold(0, |trail, number| trail * 31 + number) % 1_000_003;
        assert_eq!(
            (&state["count"], &state["trail"]),
            (&json!(rounds), &json!(trail))
        );
    }
}

/// An event that is gathered for an hour is in the way of a drain, and that of a resize which waits for it.
async fn what_cannot_end_says_so_and_holds_up_the_next_resize(setup: Setup) {
    const GATHERS: &str = "[[hooks]]\nname = 'orders'\nreduce = 'count'\ndebounce = '30m,1h'\n";
    let world = World::at(Home::new(setup), &[], GATHERS);
    world.accepted("orders", "{}");
    let run = |args: &[&str]| {
        let done = world.home.command(args).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code(), said)
    };
    // Without --wait it has begun when the command returns.
    let (code, said) = run(&["lanes", "drain", "--all", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    let drain = [
        "lanes",
        "drain",
        "--all",
        "--yes",
        "--wait",
        "--timeout",
        "3s",
    ];
    let (code, said) = run(&drain);
    assert_eq!(code, Some(3), "{said}");
    for told in [
        "NOT MOVING: the 1 left is of orders -> reduce, which gathers events (debounce) and goes on in 29m",
        "is not drained after 3.0s: 0 done, 1 left",
        "hooklane why orders",
        "hooklane lanes resume --all",
    ] {
        assert!(said.contains(told), "{told:?} is not in {said}");
    }
    let resume = ["lanes", "resume", "--all"];
    assert_eq!(run(&resume).0, Some(0));

    let planned = [
        "lanes",
        "resize",
        "5",
        "--yes",
        "--drain-first",
        "--no-wait",
    ];
    assert_eq!(run(&planned).0, Some(0));
    let (code, said) = run(&["lanes", "resize", "7", "--yes"]);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("default is being resized already"), "{said}");
    // The same once more is the one that is under way.
    let (code, said) = run(&planned);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("already under way: default 8 -> 5 lanes"),
        "{said}"
    );
    assert_eq!(run(&resume).0, Some(0), "it gives the plan up");
    resize(&world, 7);
    assert_eq!(world.cursor("orders")["position"], 0);
    world
        .home
        .run(&["hooks", "edit", "orders", "--no-debounce"]);
    world.state("orders", 1);
}

/// Of two racing moves, the second is refused; the hook is where the first moved it, and order is kept.
async fn of_two_who_move_a_hook_one_does(setup: Setup) {
    let world = world(setup);
    for namespace in ["acme", "globex"] {
        world
            .home
            .run(&["namespaces", "create", namespace, "--lanes", "2"]);
    }
    under_load(&world, |world| {
        for round in 0..4 {
            let movers = ["acme", "globex", "default"].map(|namespace| {
                let mut mover =
                    world
                        .home
                        .command(&["hooks", "edit", "orders", "--namespace", namespace]);
                let mover = mover.stdout(Stdio::null()).stderr(Stdio::null());
                (namespace, mover.spawn().unwrap())
            });
            let ended =
                movers.map(|(namespace, mut mover)| (namespace, mover.wait().unwrap().code()));
            let hook = world.home.run(&["hooks", "show", "orders", "-o", "json"]);
            let hook: Value = serde_json::from_str(&hook).unwrap();
            assert!(
                ended.iter().all(|(_, code)| matches!(code, Some(0 | 7))),
                "{ended:?}"
            );
            let moved = ended
                .iter()
                .any(|(namespace, code)| *code == Some(0) && hook["namespace"] == *namespace);
            assert!(moved, "round {round}: {ended:?} {hook}");
        }
    })
    .await;
}

async fn a_drain_keeps_what_comes_later_and_a_pause_outlives_its_daemon(setup: Setup) {
    let mut world = world(setup);
    world.accepted("orders", r#"{"account":"a","number":1,"amount":1}"#);
    world.home.run(&[
        "lanes", "drain", "--all", "--yes", "--wait", "--reason", "a look",
    ]);
    let all = lanes(&world);
    for lane in all.as_array().unwrap() {
        assert_eq!(
            (&lane["state"], &lane["reason"]),
            (&json!("drained"), &json!("a look"))
        );
        assert!(lane["by"].as_str().unwrap().contains("uid"), "{lane}");
    }
    assert_eq!(
        world.cursor("orders/a")["position"],
        1,
        "what waited was applied"
    );
    world.accepted("orders", r#"{"account":"a","number":2,"amount":1}"#);
    until(|| {
        let kept = lanes(&world)
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|l| l["kept"].as_u64())
            .sum::<u64>();
        (kept == 1).then_some(())
    });
    assert_eq!(world.cursor("orders/a")["position"], 1);
    world.home.run(&["lanes", "resume", "--all"]);
    world.state("orders/a", 2);

    world.home.run(&["lanes", "pause", "--all", "--yes"]);
    world.kill();
    world.restart();
    world.accepted("orders", r#"{"account":"a","number":3,"amount":1}"#);
    assert_eq!(lanes(&world)[0]["state"], "paused");
    assert_eq!(world.cursor("orders/a")["position"], 2);
    world.home.run(&["lanes", "resume", "--all"]);
    world.state("orders/a", 3);
}

async fn a_hook_changes_its_namespace_under_load_and_back(setup: Setup) {
    let world = world(setup);
    world
        .home
        .run(&["namespaces", "create", "acme", "--lanes", "4"]);
    under_load(&world, |world| {
        for namespace in ["acme", "default", "acme"] {
            world
                .home
                .run(&["hooks", "edit", "orders", "--namespace", namespace]);
        }
    })
    .await;
}

async fn a_resize_that_waits_for_the_drain_begins_when_it_is_done(setup: Setup) {
    let world = world(setup);
    under_load(&world, |world| {
        world
            .home
            .run(&["lanes", "resize", "5", "--yes", "--drain-first"]);
        assert_eq!(lanes(world).as_array().unwrap().len(), 5);
    })
    .await;
}

/// The rows are as a crash leaves them right after a resize has begun, and in the middle of a hook's move.
async fn what_a_crash_broke_off_is_carried_on(setup: Setup) {
    let mut world = world(setup);
    world.accepted("orders", r#"{"account":"a","number":1,"amount":1}"#);
    world.state("orders/a", 1);
    world.kill();
    let store = Store::open(database(&world.home), Box::new(|_| {}))
        .await
        .unwrap();
    let why = Attribution {
        by: "a node that died".to_owned(),
        reason: None,
        at: Timestamp::now(),
    };
    let set = store.namespaces().await.unwrap().remove(0).lanes;
    assert!(matches!(
        store.begin_resize(&set, 5, &why).await.unwrap(),
        ResizeStart::Begun(_)
    ));
    let again = store.begin_resize(&set, 6, &why).await.unwrap();
    assert_eq!(again, ResizeStart::Changed, "one resize at a time");
    let hook = store.hooks().await.unwrap().remove(0);
    let acme = "acme".parse().unwrap();
    assert!(
        store
            .create_namespace(&acme, 2, Thresholds::default(), why.at)
            .await
            .unwrap()
    );
    let begun = store.begin_move(hook.id, &hook.namespace, &acme, why.at);
    assert!(begun.await.unwrap().is_some());
    store.close().await;
    world.restart();
    world.accepted("orders", r#"{"account":"a","number":2,"amount":1}"#);
    world.state("orders/a", 2);
    until(|| {
        let progress = world.admin("GET", "/v1/admin/lanes/resize", &Value::Null);
        let progress = progress.json();
        (progress["under_way"] == false && progress["lanes"] == 5).then_some(())
    });
    let hook = world.home.run(&["hooks", "show", "orders", "-o", "json"]);
    let hook: Value = serde_json::from_str(&hook).unwrap();
    assert_eq!(hook["namespace"], "acme", "{hook}");
}

/// A plan names the stream that no number of lanes makes faster, and what moves as it is.
async fn a_plan_says_what_it_helps_and_what_it_does_not(setup: Setup) {
    let world = world(setup);
    let body = |number: i64| json!({"account": "a", "number": number, "amount": 1}).to_string();
    world.accepted("orders", body(1));
    world.state("orders/a", 1);
    world.home.run(&["streams", "hold", "orders/a"]);
    for number in 2..=4 {
        world.accepted("orders", body(number));
    }
    let plan = json!({"lanes": 16, "dry_run": true});
    let plan = until(|| {
        let plan = world.admin("POST", "/v1/admin/lanes/resize", &plan).json();
        (plan["worst"]["events"] == 3).then_some(plan)
    });
    assert_eq!(
        (&plan["fullest"], &plan["fullest_stream"], &plan["backlog"]),
        (&json!("orders/a"), &json!(3), &json!(3))
    );
    let lane = plan["lane"].as_u64().unwrap();
    let after = plan["fullest_index_after"].as_u64().unwrap();
    assert_eq!(after / 2, lane, "{plan}");
    let resize = ["lanes", "resize", "16", "--yes"];
    let done = world.home.command(&resize).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    for told in [
        format!(
            "every lane becomes two ({lane} -> {} and {})",
            lane * 2,
            lane * 2 + 1
        ),
        "1 cursor stays set aside and delays nothing: orders/a -> reduce, held".to_owned(),
        format!(
            "clear orders/a sooner: one stream stays in one lane ({after}), and it is 100% of the backlog"
        ),
        "16 lanes, generation 2; every cursor with work is in its new lane (checked)".to_owned(),
    ] {
        assert!(said.contains(&told), "{told:?} is not in {said}");
    }
}

async fn what_was_not_planned_on_is_refused(setup: Setup) {
    let world = world(setup);
    let code = |args: &[&str]| world.home.command(args).output().unwrap().status.code();
    assert_eq!(
        code(&["lanes", "resize", "16", "--expect", "3", "--yes"]),
        Some(7)
    );
    assert_eq!(code(&["lanes", "resize", "0", "--yes"]), Some(2));
    assert_eq!(code(&["lanes", "pause", "99"]), Some(5));
    let plan = world
        .home
        .run(&["lanes", "resize", "16", "--dry-run", "-o", "json"]);
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(
        (&plan["to"], &plan["next_generation"]),
        (&json!(16), &Value::Null)
    );
    let old = json!({"lanes": 16, "generation": 77});
    assert_eq!(
        world.admin("POST", "/v1/admin/lanes/resize", &old).status,
        409
    );
}

macro_rules! on_both {
    ($($name:ident)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Setup::Embedded).await;
            })*
        }
        mod production {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Setup::Production).await;
            })*
        }
    };
}

on_both! {
    a_storm_of_resizes_under_load_keeps_every_order
    a_drain_keeps_what_comes_later_and_a_pause_outlives_its_daemon
    a_hook_changes_its_namespace_under_load_and_back
    a_resize_that_waits_for_the_drain_begins_when_it_is_done
    what_a_crash_broke_off_is_carried_on
    what_was_not_planned_on_is_refused
    a_plan_says_what_it_helps_and_what_it_does_not
    a_resize_survives_a_kill_at_any_moment
    what_cannot_end_says_so_and_holds_up_the_next_resize
    of_two_who_move_a_hook_one_does
}
