//! The tests that see hooklane as a whole.

#![allow(clippy::unwrap_used, clippy::panic)]

mod chance;
mod checker;
mod cli;
mod daemon;
mod home;
mod http;
mod lane;
mod migrations;
mod nodes;
mod order;
mod postgres;
mod refused;
mod serve;
mod shipped;
mod store;
mod torture;
mod world;
