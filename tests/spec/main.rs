//! The tests that see hooklane as a whole.

#![allow(clippy::unwrap_used, clippy::panic)]

mod checker;
mod cli;
mod daemon;
mod http;
mod order;
mod serve;
mod shipped;
mod store;
mod torture;
mod world;
