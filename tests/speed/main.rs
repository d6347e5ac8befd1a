//! How fast hooklane is, over HTTP, against the ceiling of the machine in the same run.
//!
//! `cargo bench --bench speed [-- [--quick] [--production] [SCENARIO…]]` drives the real binary. Owns the scenarios
//! and their targets; every scenario also checks order, counts and states, and a wrong one fails the
//! run. A missed target is shown and does not: machines differ.

#![allow(clippy::unwrap_used, missing_docs)]

mod bare;
mod generator;
mod plans;
mod proc;
mod production;
mod requests;
mod scenarios;
mod table;
mod world;

#[allow(
    dead_code,
    reason = "the benchmark needs a part of what the tests need"
)]
#[path = "../spec/daemon.rs"]
mod daemon;

#[allow(
    dead_code,
    reason = "the benchmark needs a part of what the tests need"
)]
#[path = "../spec/postgres.rs"]
mod postgres;

use scenarios::{SCENARIOS, Scale, Scenario};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == bare::FLAG) {
        return bare::serve();
    }
    if args.iter().any(|arg| arg == production::FLAG) {
        production::choose();
    }
    let quick = args.iter().any(|arg| arg == "--quick");
    // Cargo itself passes `--bench`.
    let names: Vec<&String> = args.iter().filter(|a| !a.starts_with("--")).collect();
    if let Some(wrong) = names
        .iter()
        .find(|name| !SCENARIOS.iter().any(|s| s.is(name)))
    {
        let known: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        eprintln!("no scenario {wrong:?}; there are {}", known.join(", "));
        std::process::exit(2);
    }
    let wanted = |scenario: &&Scenario| match names.is_empty() {
        true => scenario.by_default,
        false => names.iter().any(|name| scenario.is(name)),
    };
    proc::print_machine();
    table::print_head();
    for scenario in SCENARIOS.iter().filter(wanted) {
        (scenario.run)(&Scale { quick });
    }
    // A disk that others use meanwhile explains more than anything else.
    proc::print_machine();
}
