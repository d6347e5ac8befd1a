//! Deliveries of three nodes while one is killed, one sleeps past its lease, and the lanes are resized.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::daemon::{Home, Servers};
use super::postgres;
use super::sink::{Answer, Sink};
use super::world::{Ask, encoded, send, until, within};

const NAMES: [&str; 3] = ["a", "b", "c"];
const STREAMS: usize = 16;
const EVENTS: i64 = 80;

/// Time that the destination takes for an event.
const WORK: Duration = Duration::from_millis(40);

/// Time after which other nodes have taken the lanes of a node that sleeps.
const PAST_LEASE: Duration = Duration::from_secs(22);

/// Number of faults, each of which may repeat one delivery of a stream.
const FAULTS: usize = 2;

/// One request, as the destination has written it down before it answered.
struct Noted {
    seq: i64,
    epoch: i64,
    in_flight: u64,
}

/// Lets a destination write down each request in a file.
fn writes_down(sink: &Sink, file: File) {
    let file = Arc::new(Mutex::new(file));
    sink.answers(move |seen| {
        let line = json!({
            "stream": seen.stream(),
            "seq": seen.seq(),
            "epoch": seen.header("hooklane-epoch").parse::<i64>().unwrap(),
            "in_flight": seen.in_flight,
        });
        let mut file = file.lock();
        writeln!(file, "{line}").unwrap();
        file.sync_data().unwrap();
        Answer::Late(WORK)
    });
}

/// The requests of each stream in the order in which they came.
fn read(path: &std::path::Path) -> BTreeMap<String, Vec<Noted>> {
    let mut streams: BTreeMap<String, Vec<Noted>> = BTreeMap::new();
    for line in fs::read_to_string(path).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let noted = Noted {
            seq: line["seq"].as_i64().unwrap(),
            epoch: line["epoch"].as_i64().unwrap(),
            in_flight: line["in_flight"].as_u64().unwrap(),
        };
        let stream = line["stream"].as_str().unwrap().to_owned();
        streams.entry(stream).or_default().push(noted);
    }
    streams
}

/// Checks the promises to a receiver: a delivery that comes after its node was replaced is stale.
fn judge(stream: &str, noted: &[Noted]) {
    let (mut newest, mut epoch) = (0, 0);
    let (mut repeats, mut doubles, mut stale) = (0, 0, 0);
    for request in noted {
        assert!(
            request.seq <= newest + 1,
            "{stream}: {} after {newest}",
            request.seq
        );
        repeats += usize::from(request.seq <= newest);
        doubles += usize::from(request.in_flight > 1);
        stale += usize::from(request.epoch < epoch);
        newest = newest.max(request.seq);
        epoch = epoch.max(request.epoch);
    }
    assert_eq!(newest, EVENTS, "{stream}");
    for (what, count) in [
        ("repeated", repeats),
        ("at once", doubles),
        ("stale", stale),
    ] {
        assert!(count <= FAULTS, "{stream}: {count} deliveries are {what}");
    }
}

fn position(home: &Home, key: &str, stream: &str) -> Option<i64> {
    let path = format!("/v1/admin/streams/show?stream={}", encoded(stream));
    let shown = send(home.addr, &Ask::new("GET", &path).key(key).bytes());
    shown.json()["cursors"][0]["position"].as_i64()
}

#[test]
fn deliveries_stay_in_order_through_a_kill_a_sleep_and_a_resize() {
    let sink = Sink::start();
    let servers = Servers::on(postgres::shared());
    let homes = NAMES.map(|name| {
        let mut home = Home::of(&servers, name);
        home.environment
            .push(("HOOKLANE_ALLOW_DESTINATION", "127.0.0.0/8"));
        home
    });
    let path = homes[0].write("requests.jsonl", "");
    writes_down(&sink, File::options().append(true).open(&path).unwrap());
    let a = homes[0].start();
    homes[0].apply(&format!(
        "[[hooks]]\nname = 'orders'\norder_by = '/who'\n[[hooks.forward]]\nname = 'crm'\nurl = '{}'\n",
        sink.url()
    ));
    let write = homes[0].key("write");
    let admin = homes[0].run(&["keys", "create", "--type", "admin", "--name", "ops"]);
    let (b, c) = (homes[1].start(), homes[2].start());
    let owners = "select coalesce(n.name, '') from lanes l left join nodes n on n.id = l.node where l.sealed_at is null";
    let all = BTreeSet::from(NAMES.map(str::to_owned));
    until(|| (servers.ask(owners) == all).then_some(()));

    let post = |from: i64, to: i64| {
        for n in from..=to {
            for who in 0..STREAMS {
                let body = json!({"who": format!("s{who}"), "n": n}).to_string();
                let reply = send(
                    homes[0].addr,
                    &Ask::post("orders").key(&write).body(body).bytes(),
                );
                assert_eq!(reply.status, 202, "{reply:?}");
            }
        }
    };
    // All of it is there before the first delivery, so that deliveries go on during the faults.
    homes[0].run(&["hooks", "pause", "orders"]);
    post(1, EVENTS / 2);
    homes[0].run(&["hooks", "resume", "orders"]);
    until(|| (sink.seen().len() > STREAMS).then_some(()));
    b.kill();
    homes[0].run(&["lanes", "resize", "13", "--yes", "--confirm", "13"]);
    c.freeze();
    post(EVENTS / 2 + 1, EVENTS);
    std::thread::sleep(PAST_LEASE);
    c.thaw();
    let b = homes[1].start();

    for who in 0..STREAMS {
        let stream = format!("orders/s{who}");
        let there = within(Duration::from_secs(60), || {
            (position(&homes[0], &admin, &stream) == Some(EVENTS)).then_some(())
        });
        assert!(
            there.is_some(),
            "{stream}: {:?}\n{}",
            position(&homes[0], &admin, &stream),
            homes[0].log()
        );
    }
    let noted = read(&path);
    assert_eq!(noted.len(), STREAMS);
    for (stream, noted) in &noted {
        judge(stream, noted);
    }
    let epochs: BTreeSet<_> = noted
        .values()
        .flatten()
        .map(|request| request.epoch)
        .collect();
    assert!(
        epochs.len() > NAMES.len(),
        "lanes changed their nodes: {epochs:?}"
    );
    drop((a, b, c));
}
