//! A daemon with hooks, and the ledger of what was sent to it, against which it is checked.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, Home, Servers, Setup};
use super::generator;
use super::plans::{Closed, Measured, Open, Pace, Settle, Until};
use super::postgres::Server;
use super::proc;
use super::requests::{Requests, amount};

/// Counts, sums and keeps the last.
const SUM_JS: &str = "export default function reduce(state, event) {
  state ??= { count: 0, total: 0, last: null };
  state.count += 1;
  state.total += event.body.amount;
  state.last = event.body.number;
  return state;
}
";

/// Takes nothing.
const REJECTS_JS: &str = "export default function reduce(state, event) {
  throw new Error('rejected');
}
";

/// Secret of the senders that sign.
const SECRET: &str = "It's a Secret to Everybody";

/// Time that new nodes need to divide the lanes.
const SPREAD: Duration = Duration::from_secs(8);

/// Default number of parallel connections.
pub const CONNECTIONS: usize = 64;

static CHOSEN: OnceLock<(Setup, usize, usize)> = OnceLock::new();

/// Says on what everything runs, on how many nodes, and over how many connections; a file has one node.
pub fn choose(setup: Setup, nodes: usize, connections: usize) {
    let fits = setup == Setup::Production || nodes == 1;
    assert!(nodes > 0 && fits, "{nodes} nodes on {setup:?}");
    CHOSEN.get_or_init(|| (setup, nodes, connections));
}

/// Number of parallel connections.
pub fn connections() -> usize {
    CHOSEN.get().map_or(CONNECTIONS, |chosen| chosen.2)
}

/// One of two targets: of a file and of servers.
pub fn by_setup<T>(embedded: T, production: T) -> T {
    match CHOSEN.get() {
        Some((Setup::Production, ..)) => production,
        _ => embedded,
    }
}

/// A home for each node.
fn homes() -> Vec<Home> {
    // On a disk, because a sync to memory costs nothing; its guard ends it with this process.
    static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start_in(Path::new("/var/tmp")));
    let mut homes = match CHOSEN.get() {
        Some((Setup::Production, nodes, _)) => {
            let servers = Servers::on(&SERVER);
            (0..*nodes)
                .map(|n| Home::of(&servers, &format!("node{n}")))
                .collect()
        }
        _ => vec![Home::new(Setup::Embedded)],
    };
    for home in &mut homes {
        let loopback = ("HOOKLANE_ALLOW_DESTINATION", "127.0.0.0/8");
        home.environment.push(loopback);
    }
    homes
}

/// Kind of a hook.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its events are stored and not folded.
    Store,
    /// Its events are folded by [`SUM_JS`].
    Sum,
    /// As `Sum`, in one stream for each customer.
    SumByCustomer,
    /// In one stream for each customer, and its reducer rejects every event.
    RejectedByCustomer,
    /// As `Sum`, in a hundred streams.
    SumByAmount,
    /// As `Store`, and its requests are signed.
    Signed,
}

impl Kind {
    fn toml(self, name: &str) -> String {
        let rest = match self {
            Self::Store => "",
            Self::Signed => "verify = 'github'\nsecret_file = 'signing.secret'\n",
            Self::Sum => "reduce = 'sum.js'\n",
            Self::SumByAmount => "reduce = 'sum.js'\norder_by = 'body:/amount'\n",
            Self::SumByCustomer => "reduce = 'sum.js'\norder_by = 'body:/customer'\n",
            Self::RejectedByCustomer => "reduce = 'rejects.js'\norder_by = 'body:/customer'\n",
        };
        format!("[[hooks]]\nname = '{name}'\n{rest}")
    }
}

/// Running nodes.
pub struct World {
    /// Their address for requests.
    pub addrs: Vec<SocketAddr>,
    pub kind: Kind,
    pub daemons: Vec<Daemon>,
    pub requests: Requests,
    pub ledger: Ledger,
    pub write_key: String,
    pub read_key: String,
    /// Last, because daemons live there.
    pub homes: Vec<Home>,
}

impl World {
    /// A fresh daemon with these hooks.
    pub fn with(hooks: Vec<String>, kind: Kind) -> Self {
        let toml: String = hooks.iter().map(|h| kind.toml(h)).collect();
        Self::of_toml(hooks, kind, &toml)
    }

    /// A fresh daemon with these hooks, which a TOML text describes.
    pub fn of_toml(hooks: Vec<String>, kind: Kind, toml: &str) -> Self {
        let homes = homes();
        homes[0].write("sum.js", SUM_JS);
        homes[0].write("rejects.js", REJECTS_JS);
        homes[0].write("signing.secret", SECRET);
        let (write_key, read_key) = homes[0].prepare(|home| {
            home.apply(toml);
            (home.key("write"), home.key("read"))
        });
        let world = Self {
            daemons: homes.iter().map(Home::start).collect(),
            ledger: Ledger::new(hooks.len()),
            requests: match kind {
                Kind::Signed => Requests::signed(hooks, SECRET),
                _ => Requests::new(hooks, &write_key, &read_key),
            },
            addrs: homes.iter().map(|home| home.addr).collect(),
            kind,
            write_key,
            read_key,
            homes,
        };
        if world.daemons.len() > 1 {
            std::thread::sleep(SPREAD);
        }
        world
    }

    /// CPU time that each part of it has used, and the load.
    pub fn cpu(&self) -> Vec<(&'static str, Duration)> {
        // Scripts fold in children of a node.
        let nodes = (self.daemons.iter()).map(|daemon| proc::cpu_of_family(daemon.pid()));
        let mut parts = vec![("nodes", nodes.sum())];
        if let Some(servers) = &self.homes[0].servers {
            parts.push(("Postgres", proc::cpu_of_family(servers.postgres.pid())));
            parts.push(("Redis", proc::cpu(servers.redis.pid())));
        }
        parts.push(("load", proc::cpu(std::process::id())));
        parts
    }

    /// A fresh daemon with `count` hooks.
    pub fn of(count: usize, kind: Kind) -> Self {
        let name = |n| format!("h{n:04}");
        Self::with((0..count).map(name).collect(), kind)
    }

    /// Sends in a closed loop; gives how long it took to the last 2xx, in seconds.
    pub fn send(&mut self, until: Until) -> f64 {
        let began = Instant::now();
        let hooks = self.requests.hooks();
        let mut plan = Closed::new(&mut self.ledger, hooks, until);
        generator::run(&self.addrs, connections(), &mut self.requests, &mut plan);
        plan.warn();
        began.elapsed().as_secs_f64()
    }

    /// Waits until every state is at its head, and gives the states.
    pub fn settle(&mut self) -> Vec<(u32, Vec<u8>)> {
        let mut plan = Settle::new(&self.ledger);
        generator::run(&self.addrs, connections(), &mut self.requests, &mut plan);
        plan.states
    }

    /// Waits until every state is at its head, and checks all of it.
    pub fn settle_and_check(&mut self) {
        let states = self.settle();
        self.check(&states);
    }

    /// Checks the order of all that was accepted, and the states against it.
    pub fn check(&mut self, states: &[(u32, Vec<u8>)]) {
        self.ledger.check_order();
        self.ledger.check_states(states);
    }

    /// Sends at a fixed rate to the first `hooks` hooks.
    pub fn open(&mut self, hooks: u32, pace: Pace<'_>) -> Measured {
        let mut plan = Open::new(&mut self.ledger, hooks, pace);
        generator::run(&self.addrs, connections(), &mut self.requests, &mut plan);
        plan.measured
    }
}

/// An event that was accepted.
#[derive(Clone, Copy)]
struct Entry {
    seq: i64,
    number: u32,
    sent_at: Instant,
    acknowledged_at: Instant,
}

/// Accepted events by hook; each hook has one stream.
pub struct Ledger {
    hooks: Vec<Vec<Entry>>,
    next: u32,
}

impl Ledger {
    pub fn new(hooks: usize) -> Self {
        Self {
            hooks: vec![Vec::new(); hooks],
            next: 0,
        }
    }

    /// A number that no event has had.
    pub fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// Notes a 2xx.
    pub fn accepted(&mut self, hook: u32, number: u32, seq: i64, sent_at: Instant, at: Instant) {
        self.hooks[hook as usize].push(Entry {
            seq,
            number,
            sent_at,
            acknowledged_at: at,
        });
    }

    /// Number and time of sending of each event of the first `hooks` hooks that was sent since then.
    pub fn sent_since(&self, then: Instant, hooks: usize) -> Vec<(u32, Instant)> {
        let entries = self.hooks.iter().take(hooks).flatten();
        let sent = entries.filter(|entry| entry.sent_at >= then);
        sent.map(|entry| (entry.number, entry.sent_at)).collect()
    }

    /// Number of accepted events.
    pub fn count(&self) -> usize {
        self.hooks.iter().map(Vec::len).sum()
    }

    /// The hooks that have events, and their heads.
    pub fn heads(&self) -> impl Iterator<Item = (u32, i64)> + '_ {
        let head = |entries: &Vec<Entry>| entries.iter().map(|entry| entry.seq).max();
        (0..)
            .zip(&self.hooks)
            .filter_map(move |(h, e)| Some((h, head(e)?)))
    }

    /// Every hook's seqs have no gap, none came twice, and what was acknowledged before another was
    /// sent stands before it.
    pub fn check_order(&mut self) {
        for (hook, entries) in self.hooks.iter_mut().enumerate() {
            entries.sort_unstable_by_key(|entry| entry.seq);
            for (entry, expected) in entries.iter().zip(1..) {
                assert_eq!(entry.seq, expected, "the seqs of hook {hook}");
            }
            let mut least: Option<Instant> = None;
            for entry in entries.iter().rev() {
                assert!(
                    least.is_none_or(|least| entry.sent_at <= least),
                    "event {} of hook {hook} was sent after a later one was acknowledged",
                    entry.seq
                );
                let acknowledged = entry.acknowledged_at;
                least = Some(least.map_or(acknowledged, |least| least.min(acknowledged)));
            }
        }
    }

    /// Every state is the fold of what was accepted.
    fn check_states(&self, states: &[(u32, Vec<u8>)]) {
        assert_eq!(states.len(), self.heads().count(), "states");
        for (hook, answer) in states {
            let entries = &self.hooks[*hook as usize];
            let shown: Value = serde_json::from_slice(answer).unwrap();
            let state = json!({
                "count": entries.len(),
                "total": entries.iter().map(|entry| amount(entry.number)).sum::<i64>(),
                "last": entries.last().map(|entry| entry.number),
            });
            assert_eq!(shown["state"], state, "the state of hook {hook}");
            assert_eq!(
                shown["position"],
                entries.len(),
                "the position of hook {hook}"
            );
            assert_eq!(shown["head"], entries.len(), "the head of hook {hook}");
        }
    }
}
