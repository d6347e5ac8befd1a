//! The tests that see hooklane as a whole.

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

mod advice;
mod audit;
mod chance;
mod checker;
mod circles;
mod cli;
mod cluster;
mod complete;
mod daemon;
mod damage;
mod debounce;
mod demo;
mod doctor;
mod failover;
mod file;
mod forward;
mod home;
mod incidents;
mod ingest;
mod lane;
mod lane_sets;
mod migrate;
mod migrations;
mod models;
mod nodes;
mod operator;
mod package;
mod paste;
mod poison;
mod pooler;
mod postgres;
mod private;
mod prune;
mod pull;
mod questions;
mod rebuild;
mod redis;
mod redis_server;
mod refused;
mod resize;
mod retention;
mod revoked;
mod seeds;
mod session;
mod shipped;
mod silence;
mod sink;
mod slow;
mod status;
mod stops;
mod store;
mod terminal;
mod top;
mod truth;
mod verify;
mod world;

/// What is asked of any daemon, asked of one with a file.
#[path = "."]
mod embedded {
    use super::{checker, daemon, seeds, world};

    const SETUP: daemon::Setup = daemon::Setup::Embedded;

    mod door;
    mod http;
    mod https;
    mod keys_of_events;
    mod order;
    pub mod serve;
    pub mod torture;
}

/// The same, asked of a node on Postgres and Redis.
#[path = "."]
mod production {
    use super::{checker, daemon, seeds, world};

    const SETUP: daemon::Setup = daemon::Setup::Production;

    mod door;
    mod http;
    mod https;
    mod keys_of_events;
    mod order;
    mod serve;
    mod torture;
}
