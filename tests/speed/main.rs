//! Measures hooklane over HTTP against the ceiling of the machine in the same run.
//!
//! `cargo bench --bench speed [-- [--quick] [--production] [--nodes N] [--connections N] [--sync TIME] [SCENARIO…]]`
//! drives the real binary, on a file or on private servers (`HOOKLANE_SETUP=production` too). With `--sync 1ms`
//! every sync of node, database and this program lasts at least that long, so that machines with different disks
//! can be compared. Owns the scenarios
//! and their targets; every scenario also checks order, counts and states, and a wrong one fails the
//! run. A missed target is shown and does not: machines differ.

#![allow(clippy::unwrap_used, missing_docs)]

mod bare;
mod deliveries;
mod generator;
mod plans;
mod proc;
mod requests;
mod scenarios;
mod sink;
mod table;
mod viewer;
mod world;

#[allow(
    dead_code,
    reason = "the benchmark needs a part of what the tests need"
)]
#[path = "../spec/daemon.rs"]
mod daemon;

#[allow(
    dead_code,
    reason = "the benchmark needs a server, and does it no harm"
)]
#[path = "../spec/postgres.rs"]
mod postgres;

#[allow(
    dead_code,
    reason = "the benchmark needs a server, and does it no harm"
)]
#[path = "../spec/redis_server.rs"]
mod redis_server;

#[path = "../spec/preload.rs"]
mod preload;

use std::process::{Command, exit};
use std::time::Duration;

use daemon::Setup;
use scenarios::{SCENARIOS, Scale, Scenario};

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == bare::FLAG) {
        return bare::serve();
    }
    if let Some(sync) = value(&mut args, "--sync") {
        return with_sync_time(&sync, &args);
    }
    let quick = args.iter().any(|arg| arg == "--quick");
    let nodes = number(&mut args, "--nodes").unwrap_or(1);
    let connections = number(&mut args, "--connections").unwrap_or(world::CONNECTIONS);
    let on = value(&mut args, "--on").or_else(|| std::env::var("HOOKLANE_SETUP").ok());
    let is_short = args.iter().any(|arg| arg == "--production");
    let setup = match on.as_deref() {
        None if is_short => Setup::Production,
        None | Some("embedded") => Setup::Embedded,
        Some("production") => Setup::Production,
        Some(other) => panic!("no set-up {other:?}; there are embedded and production"),
    };
    world::choose(setup, nodes, connections);
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
    println!("set-up: {setup:?}, nodes: {nodes}, connections: {connections}");
    table::print_head();
    for scenario in SCENARIOS.iter().filter(wanted) {
        (scenario.run)(&Scale { quick });
    }
    // A disk that others use meanwhile explains more than anything else.
    proc::print_machine();
}

/// Takes an option whose value is a number out of the arguments.
fn number(args: &mut Vec<String>, option: &str) -> Option<usize> {
    let text = value(args, option)?;
    let number = text.parse().ok().filter(|number| *number > 0);
    Some(number.unwrap_or_else(|| panic!("{option} takes a number")))
}

/// Takes an option and its value out of the arguments.
fn value(args: &mut Vec<String>, option: &str) -> Option<String> {
    let at = args.iter().position(|arg| arg == option)?;
    args.remove(at);
    assert!(at < args.len(), "{option} needs a value");
    Some(args.remove(at))
}

/// Runs this program again, with syncs that last at least so long.
fn with_sync_time(text: &str, args: &[String]) {
    let time: Duration = hooklane::domain::time::parse_duration(text)
        .unwrap_or_else(|_| panic!("--sync takes a duration such as 1ms"));
    // The database runs as another user, who must be able to read it.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let delay = dir.path().join("delay");
    std::fs::write(&delay, time.as_micros().to_string()).unwrap();
    let library = preload::compile(dir.path(), "slow_sync.c");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(args)
        .env("LD_PRELOAD", library)
        .env("SLOW_SYNC", delay)
        .status()
        .unwrap();
    drop(dir);
    exit(status.code().unwrap_or(1));
}
