//! What the kernel says about a process, and about the machine.

use std::fs;
use std::time::{Duration, Instant};

/// Memory of a process, in MB.
#[derive(Clone, Copy)]
pub struct Memory {
    /// Resident now.
    pub now: f64,
    /// The most that was ever resident.
    pub peak: f64,
}

/// The memory of `pid`.
pub fn memory(pid: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    Memory {
        now: field(&status, "VmRSS:") / 1024.0,
        peak: field(&status, "VmHWM:") / 1024.0,
    }
}

/// Bytes that `pid` has caused to be written to storage.
pub fn written(pid: u32) -> f64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    field(&io, "write_bytes:")
}

fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap()
}

/// CPU time that `pid` has used.
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second field is the name, in brackets, and may hold anything.
    let rest = &stat[stat.rfind(')').unwrap() + 2..];
    let ticks = |index: usize| -> u64 { rest.split(' ').nth(index).unwrap().parse().unwrap() };
    let per_second = rustix::param::clock_ticks_per_second();
    Duration::from_secs_f64((ticks(11) + ticks(12)) as f64 / per_second as f64)
}

/// Prints what the figures depend on: cores, and how long a sync takes where the data will be.
pub fn print_machine() {
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    println!(
        "{cores} cores shared by daemon and load; one 4 KB append and sync takes {:.0} µs here",
        sync_us()
    );
}

fn sync_us() -> f64 {
    let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut once = || {
        let began = Instant::now();
        std::io::Write::write_all(&mut file, &[0; 4096]).unwrap();
        file.sync_data().unwrap();
        began.elapsed().as_secs_f64() * 1e6
    };
    super::table::median((0..200).map(|_| once()).collect())
}
