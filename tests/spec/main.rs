//! The tests that see hooklane as a whole.
//!
//! - `store/`: each statement on both databases, migrations, and databases that fail
//! - `node/`: one node, as senders, readers, consumers and destinations see it
//! - `cluster/`: several nodes on Postgres and Redis
//! - `cli/`: commands, the dashboard, and sessions that are compared with `cli/snapshots`
//! - `models/`: the rules of `src/lib.rs` in every interleaving, and the order against chance
//!
//! Beside this file are the helpers: `world.rs` and `daemon.rs` start a node, `home.rs`, `postgres.rs` and
//! `redis_server.rs` what it needs, `checker.rs` judges what it has kept.

#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::duplicate_mod, reason = "the same tests run on both set-ups")]

/// Asks the same of both set-ups, each as a test of its own; the file that asks names `Setup`.
macro_rules! on_both_setups {
    ($($name:ident)*) => {
        mod embedded {
            $(#[test]
            fn $name() {
                super::$name(super::Setup::Embedded);
            })*
        }
        mod production {
            $(#[test]
            fn $name() {
                super::$name(super::Setup::Production);
            })*
        }
    };
}

// Servers, daemons and clients for tests, and the checker of promises.
mod checker;
mod daemon;
mod home;
mod postgres;
mod preload;
mod redis_server;
mod seeds;
mod sink;
mod slow;
mod world;

// The source itself, and the files that are shipped.
mod circles;
mod package;
mod readme;
mod shipped;

// The store: each statement on both databases, and what a server may do to it.
#[path = "store/damage.rs"]
mod damage;
#[path = "store/ingest.rs"]
mod ingest;
#[path = "store/lane_sets.rs"]
mod lane_sets;
#[path = "store/migrations.rs"]
mod migrations;
#[path = "store/nodes.rs"]
mod nodes;
#[path = "store/pooler.rs"]
mod pooler;
#[path = "store/power.rs"]
mod power;
#[path = "store/prune.rs"]
mod prune;
#[path = "store/redis.rs"]
mod redis;
#[path = "store/refused.rs"]
mod refused;
#[path = "store/silence.rs"]
mod silence;
#[path = "store/store.rs"]
mod store;
#[path = "store/waiting.rs"]
mod waiting;

// One node: what senders, readers and consumers may rely on.
#[path = "node/alert.rs"]
mod alert;
#[path = "node/debounce.rs"]
mod debounce;
#[path = "node/entrance.rs"]
mod entrance;
#[path = "node/feed.rs"]
mod feed;
#[path = "node/file.rs"]
mod file;
#[path = "node/filter.rs"]
mod filter;
#[path = "node/forward.rs"]
mod forward;
#[path = "node/handshake.rs"]
mod handshake;
#[path = "node/lane.rs"]
mod lane;
#[path = "node/late.rs"]
mod late;
#[path = "node/poison.rs"]
mod poison;
#[path = "node/pull.rs"]
mod pull;
#[path = "node/rebuild.rs"]
mod rebuild;
#[path = "node/replay.rs"]
mod replay;
#[path = "node/retention.rs"]
mod retention;
#[path = "node/revoked.rs"]
mod revoked;
#[path = "node/verify.rs"]
mod verify;

// Several nodes on Postgres and Redis.
#[path = "cluster/cluster.rs"]
mod cluster;
#[path = "cluster/failover.rs"]
mod failover;
#[path = "cluster/push.rs"]
mod push;
#[path = "cluster/reorder.rs"]
mod reorder;
#[path = "cluster/resize.rs"]
mod resize;

// Commands, the dashboard and what operators see.
#[path = "cli/advice.rs"]
mod advice;
#[path = "cli/audit.rs"]
mod audit;
#[path = "cli/backup.rs"]
mod backup;
#[path = "cli/cli.rs"]
mod cli;
#[path = "cli/complete.rs"]
mod complete;
#[path = "cli/demo.rs"]
mod demo;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/erase.rs"]
mod erase;
#[path = "cli/export.rs"]
mod export;
#[path = "cli/incidents.rs"]
mod incidents;
#[path = "cli/migrate.rs"]
mod migrate;
#[path = "cli/operator.rs"]
mod operator;
#[path = "cli/paste.rs"]
mod paste;
#[path = "cli/private.rs"]
mod private;
#[path = "cli/questions.rs"]
mod questions;
#[path = "cli/session.rs"]
mod session;
#[path = "cli/status.rs"]
mod status;
#[path = "cli/stops.rs"]
mod stops;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/top.rs"]
mod top;
#[path = "cli/truth.rs"]
mod truth;

// The rules of `src/lib.rs` as models, and the order against chance.
#[path = "models/chance.rs"]
mod chance;
#[path = "models/models.rs"]
mod models;

/// Tests that any set-up must pass, run on a daemon with a file.
#[path = "."]
mod embedded {
    use super::{checker, daemon, seeds, world};

    const SETUP: daemon::Setup = daemon::Setup::Embedded;

    #[path = "node/door.rs"]
    mod door;
    #[path = "node/http.rs"]
    mod http;
    #[path = "node/https.rs"]
    mod https;
    #[path = "node/keys_of_events.rs"]
    mod keys_of_events;
    #[path = "node/order.rs"]
    mod order;
    #[path = "node/serve.rs"]
    pub mod serve;
    #[path = "node/torture.rs"]
    pub mod torture;
}

/// The same, asked of a node on Postgres and Redis.
#[path = "."]
mod production {
    use super::{checker, daemon, seeds, world};

    const SETUP: daemon::Setup = daemon::Setup::Production;

    #[path = "node/door.rs"]
    mod door;
    #[path = "node/http.rs"]
    mod http;
    #[path = "node/https.rs"]
    mod https;
    #[path = "node/keys_of_events.rs"]
    mod keys_of_events;
    #[path = "node/order.rs"]
    mod order;
    #[path = "node/serve.rs"]
    mod serve;
    #[path = "node/torture.rs"]
    mod torture;
}
