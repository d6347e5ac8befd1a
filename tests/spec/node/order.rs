//! Order where a sender can see it: no two requests of one stream are ever in flight together, so
//! every stream must be stored exactly in the order in which it was sent.
//!
//! `HOOKLANE_ORDER_EVENTS` sets how many events are sent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::SETUP;
use super::checker::{self, Attempt, Event, TRAIL_JS, trail};
use super::daemon::{Client, Home, Setup};
use super::torture::outcome;

const CONNECTIONS: usize = 64;

/// A few more than connections, so that a stream is handed from one to another at once.
const STREAMS: usize = 72;

const HOOK: &str = "orders";

/// A stream that nobody is sending to, with the number of its last event.
struct Baton {
    account: String,
    number: i64,
}

/// State shared by the senders.
struct Relay {
    began: Instant,
    left: AtomicI64,
    batons: Mutex<VecDeque<Baton>>,
    log: Mutex<Vec<Attempt>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_handed_on_after_each_2xx_between_64_connections_is_stored_in_the_order_sent() {
    let home = Home::new(SETUP);
    home.write("trail.js", TRAIL_JS);
    let hooks = "[[hooks]]\nname = 'orders'\nreduce = 'trail.js'\norder_by = 'body:/account'\n";
    let (write_key, read_key) = home.prepare(|home| {
        home.apply(hooks);
        (home.key("write"), home.key("read"))
    });
    let _daemon = home.start();

    let relay = Arc::new(Relay::of(events()));
    let sender = |_| {
        let client = Client::new(home.addr, &write_key);
        tokio::spawn(Arc::clone(&relay).run(client))
    };
    let senders: Vec<_> = (0..CONNECTIONS).map(sender).collect();
    for sender in senders {
        sender.await.unwrap();
    }

    let mut client = Client::new(home.addr, &read_key);
    checker::settle(&mut client, &[HOOK], Duration::from_secs(60)).await;
    let stored = checker::read(&mut client, &[HOOK]).await;
    let all = stored.iter().flat_map(|stream| &stream.events);
    let astray = all.filter(|event| number(event) != event.seq).count();
    assert_eq!(astray, 0, "events out of order");
    let broken = checker::check(&relay.log.lock(), &stored, trail);
    assert!(broken.is_empty(), "{}", checker::report(&broken));
}

fn events() -> i64 {
    let given = std::env::var("HOOKLANE_ORDER_EVENTS").ok();
    let by_default = match SETUP {
        Setup::Embedded => 100_000,
        Setup::Production => 20_000,
    };
    given.and_then(|n| n.parse().ok()).unwrap_or(by_default)
}

fn number(event: &Event) -> i64 {
    let body: Value = serde_json::from_slice(&event.body).unwrap();
    body["number"].as_i64().unwrap()
}

impl Relay {
    fn of(events: i64) -> Self {
        let baton = |n| Baton {
            account: format!("account-{n}"),
            number: 0,
        };
        Self {
            began: Instant::now(),
            left: AtomicI64::new(events),
            batons: Mutex::new((0..STREAMS).map(baton).collect()),
            log: Mutex::default(),
        }
    }

    async fn run(self: Arc<Self>, mut client: Client) {
        while self.left.fetch_sub(1, Ordering::Relaxed) > 0 {
            let mut baton = self.batons.lock().pop_front().unwrap();
            baton.number += 1;
            let attempt = self.send(&mut client, &baton).await;
            self.log.lock().push(attempt);
            self.batons.lock().push_back(baton);
        }
    }

    async fn send(&self, client: &mut Client, baton: &Baton) -> Attempt {
        let body = json!({"account": baton.account, "number": baton.number, "amount": 1});
        let body = Bytes::from(body.to_string());
        let sent_at = self.began.elapsed();
        let answer = client.post(HOOK, body.clone(), None).await.unwrap();
        assert_eq!(answer.status, 202, "{}", answer.json());
        Attempt {
            stream: format!("{HOOK}/{}", baton.account),
            body,
            dedupe_key: None,
            sent_at,
            outcome: outcome(&answer, self.began.elapsed()),
        }
    }
}
