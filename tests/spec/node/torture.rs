//! Kills the real daemon at random moments under load, and lets the checker find losses.
//!
//! Senders continue through all kills: half of their events carry an idempotency key and are repeated
//! until they are answered, the others are sent once. `HOOKLANE_KILLS` sets the number of kills,
//! `HOOKLANE_SEED` repeats the choices of an earlier run; the exact moment of a signal depends on the
//! machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::task::JoinHandle;

use super::SETUP;
use super::checker::{self, Attempt, Outcome, Receipt, TRAIL_JS, trail};
use super::daemon::{Answer, Client, Home, Lost, Setup};
use super::seeds;

const SENDERS: u64 = 16;
const HOOKS: [&str; 3] = ["plain", "billing", "orders"];
const ACCOUNTS: u32 = 5;

/// Longest life of a daemon once it is ready.
const LIFE_MAX_MS: u64 = 400;

/// Time limit for a daemon to stop.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Time limit for cursors to reach their heads once the kills have ended.
const HEAL_MAX: Duration = Duration::from_secs(30);

/// Between two tries to reach a daemon that is down or busy.
const AGAIN: Duration = Duration::from_millis(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_reordered_by_kill_9_at_random_moments_under_load() {
    let kills = from_env("HOOKLANE_KILLS").unwrap_or(match SETUP {
        Setup::Embedded => 100,
        Setup::Production => 30,
    });
    let mut chance = Chance::new();
    let world = World::new(&mut chance);
    let senders = world.send(&mut chance);
    let mut bites = Bites::default();
    for _ in 0..kills {
        if chance.rng.random_bool(0.1) {
            let newborn = world.home.spawn();
            chance.wait(50).await;
            newborn.kill();
        } else {
            let daemon = world.home.start();
            chance.wait(LIFE_MAX_MS).await;
            bites.count(world.unknown());
            daemon.kill();
        }
    }
    bites.count(world.unknown());
    world.judge(senders).await;
    println!("{} of {kills} kills cut requests", bites.felt);
    assert!(bites.felt * 2 > kills, "the kills did not bite");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_ends_the_daemon_with_0_within_10_seconds_and_loses_nothing() {
    let mut chance = Chance::new();
    let world = World::new(&mut chance);
    let senders = world.send(&mut chance);
    for _ in 0..5 {
        let mut daemon = world.home.start();
        chance.wait(LIFE_MAX_MS).await;
        let status = daemon.terminate(STOP_MAX);
        let status = status.expect("a daemon that stops in time");
        assert_eq!(status.code(), Some(0), "{}", world.home.log());
    }
    world.judge(senders).await;
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Random choices of a run, from one seed.
struct Chance {
    rng: StdRng,
}

impl Chance {
    fn new() -> Self {
        let seed = seeds::seed();
        println!("seed {seed}");
        Self {
            rng: StdRng::seed_from_u64(seed),
        }
    }

    async fn wait(&mut self, max_ms: u64) {
        let moment = self.rng.random_range(0..max_ms * 1_000);
        tokio::time::sleep(Duration::from_micros(moment)).await;
    }
}

/// Number of kills that senders noticed: requests were lost before the next kill.
#[derive(Default)]
struct Bites {
    lost: usize,
    felt: u64,
}

impl Bites {
    /// Takes the number of requests that were ever lost, before every kill and at the end.
    fn count(&mut self, lost: usize) {
        self.felt += u64::from(lost > self.lost);
        self.lost = lost;
    }
}

/// A home whose daemon comes and goes, and what its senders know.
struct World {
    home: Home,
    read_key: String,
    write_key: String,
    began: Instant,
    numbers: AtomicI64,
    stop: AtomicBool,
    log: Mutex<Vec<Attempt>>,
}

/// An event to send.
struct Draft {
    hook: &'static str,
    stream: String,
    body: Bytes,
    dedupe_key: Option<String>,
}

impl World {
    fn new(chance: &mut Chance) -> Arc<Self> {
        let home = Home::new(SETUP);
        home.write("trail.js", TRAIL_JS);
        let hooks = r#"
            [[hooks]]
            name = "plain"
            reduce = "trail.js"
            [[hooks]]
            name = "billing"
            reduce = "trail.js"
            order_by = "body:/account"
            [[hooks]]
            name = "orders"
            reduce = "trail.js"
            order_by = "body:/account"
            "#;
        let (read_key, write_key) = home.prepare(|home| {
            home.apply(hooks);
            (home.key("read"), home.key("write"))
        });
        Arc::new(Self {
            read_key,
            write_key,
            home,
            began: Instant::now(),
            numbers: AtomicI64::new(chance.rng.random_range(1..1_000)),
            stop: AtomicBool::new(false),
            log: Mutex::default(),
        })
    }

    fn send(self: &Arc<Self>, chance: &mut Chance) -> Vec<JoinHandle<()>> {
        let sender = |_| {
            let rng = StdRng::seed_from_u64(chance.rng.random());
            tokio::spawn(Arc::clone(self).send_until_stopped(rng))
        };
        (0..SENDERS).map(sender).collect()
    }

    async fn send_until_stopped(self: Arc<Self>, mut rng: StdRng) {
        let mut client = Client::new(self.home.addr, &self.write_key);
        while !self.stop.load(Ordering::Relaxed) {
            let draft = self.draw(&mut rng);
            self.deliver(&mut client, &draft).await;
            if draft.dedupe_key.is_some() && rng.random_bool(0.05) {
                self.deliver(&mut client, &draft).await;
            }
        }
    }

    fn draw(&self, rng: &mut StdRng) -> Draft {
        let hook = HOOKS[rng.random_range(0..HOOKS.len())];
        let account = format!("a{}", rng.random_range(0..ACCOUNTS));
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let pad = "x".repeat(rng.random_range(0..400));
        let body = json!({
            "account": account, "number": number, "amount": rng.random_range(0..100), "pad": pad,
        });
        Draft {
            hook,
            stream: match hook {
                "plain" => hook.to_owned(),
                _ => format!("{hook}/{account}"),
            },
            body: body.to_string().into(),
            dedupe_key: rng.random_bool(0.5).then(|| format!("key-{number}")),
        }
    }

    /// Sends once; with an idempotency key again and again until there is an answer.
    async fn deliver(&self, client: &mut Client, draft: &Draft) {
        while !self.attempt(client, draft).await {
            if draft.dedupe_key.is_none() {
                return;
            }
        }
    }

    /// True if it was answered.
    async fn attempt(&self, client: &mut Client, draft: &Draft) -> bool {
        let key = draft.dedupe_key.as_deref();
        let (sent_at, answer) = loop {
            let sent_at = self.began.elapsed();
            match client.post(draft.hook, draft.body.clone(), key).await {
                // No daemon listens: the request was not sent. It is not logged, or the log would grow
                // without end.
                Err(Lost::Unsent) if self.stop.load(Ordering::Relaxed) => return true,
                Err(Lost::Unsent) => tokio::time::sleep(AGAIN).await,
                answer => break (sent_at, answer),
            }
        };
        let outcome = self.outcome(answer);
        let answered = outcome != Outcome::Unknown;
        self.log.lock().push(Attempt {
            stream: draft.stream.clone(),
            body: draft.body.clone(),
            dedupe_key: draft.dedupe_key.clone(),
            sent_at,
            outcome,
        });
        answered
    }

    fn outcome(&self, answer: Result<Answer, Lost>) -> Outcome {
        match answer {
            Ok(answer) => outcome(&answer, self.began.elapsed()),
            Err(_) => Outcome::Unknown,
        }
    }

    fn unknown(&self) -> usize {
        let log = self.log.lock();
        let unknown = |attempt: &&Attempt| attempt.outcome == Outcome::Unknown;
        log.iter().filter(unknown).count()
    }

    /// Starts the daemon for the last time, lets the senders finish, and compares.
    async fn judge(&self, senders: Vec<JoinHandle<()>>) {
        let _daemon = self.home.start();
        self.stop.store(true, Ordering::Relaxed);
        for sender in senders {
            sender.await.unwrap();
        }
        let mut client = Client::new(self.home.addr, &self.read_key);
        checker::settle(&mut client, &HOOKS, HEAL_MAX).await;
        let stored = checker::read(&mut client, &HOOKS).await;
        let log = self.log.lock();
        let count: usize = stored.iter().map(|stream| stream.events.len()).sum();
        println!("{} requests, {count} events stored", log.len());
        let broken = checker::check(&log, &stored, trail);
        assert!(broken.is_empty(), "{}", checker::report(&broken));
        let said = self.home.log();
        assert!(!said.contains("panicked"), "{said}");
    }
}

/// Outcome for the sender of an answer read `at` a time.
pub fn outcome(answer: &Answer, at: Duration) -> Outcome {
    match answer.status {
        200 | 202 => {
            let json = answer.json();
            let receipt = Receipt {
                at,
                event: json["event"].as_str().unwrap().to_owned(),
                seq: json["seq"].as_i64().unwrap(),
                duplicate: json["duplicate"].as_bool().unwrap(),
            };
            assert_eq!(receipt.duplicate, answer.status == 200, "{json}");
            Outcome::Accepted(receipt)
        }
        400..=499 => Outcome::Refused,
        503 => Outcome::Unknown,
        other => panic!("{other}: {}", answer.json()),
    }
}
