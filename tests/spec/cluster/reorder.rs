//! Two nodes hold back events of the same streams, and one is killed before their windows end: the other
//! stores them all, once each and in the provider's order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::daemon::{Client, Daemon, Home, Lost, Servers};
use super::postgres;
use super::seeds::seed;
use super::world::{Ask, send, state_path, until};

/// Keeps the versions in the order in which they were applied.
const VERSIONS_JS: &str = "export default (state, event) => [...(state ?? []), event.body.v];\n";

const STREAMS: usize = 60;
const EVENTS: i64 = 8;
const SENDERS: usize = 8;

/// The reorder window; much longer than the sending takes.
const WINDOW: Duration = Duration::from_secs(12);

/// Between two tries to have an event accepted.
const AGAIN: Duration = Duration::from_millis(50);

/// An event to be sent first to one of the nodes.
struct Job {
    who: usize,
    v: i64,
    node: usize,
}

/// For each stream, the time at which its first event was sent and the time at which its last one was
/// accepted.
type Spans = Arc<Mutex<BTreeMap<usize, (Instant, Instant)>>>;

/// All events in an order that chance draws.
fn shuffled() -> Vec<Job> {
    let mut chance = StdRng::seed_from_u64(seed());
    let of = |who| (1..=EVENTS).map(move |v| (who, v));
    let mut all: Vec<_> = (0..STREAMS).flat_map(of).collect();
    all.shuffle(&mut chance);
    let job = |(who, v)| Job {
        who,
        v,
        node: chance.random_range(0..2),
    };
    all.into_iter().map(job).collect()
}

/// Sends an event until a node accepts it, and tries the nodes in turn. A second try has the same
/// idempotency key, since the first may have been stored.
async fn accept(clients: &mut [Client; 2], job: &Job) {
    let body = json!({"who": format!("s{}", job.who), "v": job.v}).to_string();
    let key = format!("{}-{}", job.who, job.v);
    for node in (0..2).cycle().skip(job.node) {
        let answer = clients[node].post("orders", body.clone().into(), Some(&key));
        match answer.await {
            Ok(answer) if matches!(answer.status, 200 | 202) => return,
            Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.json()),
            Err(Lost::Unsent | Lost::Unknown) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Sends all events at once to both nodes; the first node is killed when half of them are accepted.
async fn send_through_a_kill(homes: &[Home; 2], key: &str, first: Daemon) -> Spans {
    let (jobs, spans) = (Arc::new(Mutex::new(shuffled())), Spans::default());
    let all = jobs.lock().len();
    let senders = (0..SENDERS).map(|_| {
        let (jobs, spans) = (jobs.clone(), spans.clone());
        let mut clients = homes.each_ref().map(|home| Client::new(home.addr, key));
        tokio::spawn(async move {
            loop {
                let Some(job) = jobs.lock().pop() else {
                    return;
                };
                let began = Instant::now();
                accept(&mut clients, &job).await;
                let mut spans = spans.lock();
                let span = spans.entry(job.who).or_insert((began, began));
                *span = (span.0.min(began), Instant::now());
            }
        })
    });
    let senders: Vec<_> = senders.collect();
    while jobs.lock().len() > all / 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    first.kill();
    for sender in senders {
        sender.await.unwrap();
    }
    spans
}

fn state(home: &Home, key: &str, who: usize) -> Value {
    let path = state_path(&format!("orders/s{who}"));
    let path = format!("{path}&min_seq={EVENTS}&wait=60s");
    let reply = send(home.addr, &Ask::new("GET", &path).key(key).bytes());
    assert_eq!(reply.status, 200, "{reply:?}\n{}", home.log());
    reply.json()["state"].take()
}

#[test]
fn a_node_that_is_killed_inside_the_window_loses_doubles_and_reorders_nothing() {
    let servers = Servers::on(postgres::shared());
    let homes = ["a", "b"].map(|name| Home::of(&servers, name));
    homes[0].write("versions.js", VERSIONS_JS);
    let first = homes[0].start();
    homes[0].apply(&format!(
        "[[hooks]]\nname = 'orders'\norder_by = '/who'\nreduce = 'versions.js'\nversion_by = '/v'\n\
         reorder_window = '{}s'\n",
        WINDOW.as_secs()
    ));
    let (write, read) = (homes[0].key("write"), homes[0].key("read"));
    let _second = homes[1].start();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let spans = runtime.block_on(send_through_a_kill(&homes, &write, first));
    let count = |table| {
        let rows = servers.ask(&format!("select count(*) from {table}"));
        rows.first().unwrap().parse::<i64>().unwrap()
    };
    assert_eq!(count("events"), 0, "the node was killed inside the window");
    let all = i64::try_from(STREAMS).unwrap() * EVENTS;
    assert_eq!(count("waiting"), all);
    until(|| (count("waiting") == 0).then_some(()));
    assert_eq!(count("events"), all);

    let sorted: Vec<_> = (1..=EVENTS).collect();
    for (who, (began, ended)) in spans.lock().iter() {
        let versions: Vec<i64> = serde_json::from_value(state(&homes[1], &read, *who)).unwrap();
        let mut once = versions.clone();
        once.sort_unstable();
        assert_eq!(once, sorted, "s{who}");
        assert!(*ended - *began < WINDOW, "s{who} is within the window");
        assert_eq!(versions, sorted, "s{who}");
    }
}
