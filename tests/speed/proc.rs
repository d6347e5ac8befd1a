//! Figures of the kernel about a process and the machine.

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

/// CPU time that `pid` has used, with those of its children that have ended.
pub fn cpu(pid: u32) -> Duration {
    let stat = Stat::of(pid).unwrap();
    Duration::from_secs_f64(stat.ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// CPU time that `pid` and its children have used.
pub fn cpu_of_family(pid: u32) -> Duration {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |child: &u32| Stat::of(*child).is_some_and(|stat| stat.parent == pid);
    let children = all.filter(is_child).collect::<Vec<u32>>();
    cpu(pid) + children.into_iter().map(cpu).sum::<Duration>()
}

/// Counters of the kernel for a process.
struct Stat {
    parent: u32,
    ticks: u64,
}

impl Stat {
    /// None when it is gone.
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name, in brackets, and may hold anything.
        let rest = &stat[stat.rfind(')')? + 2..];
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks = fields[11..15].iter().map(|ticks| ticks.parse::<u64>());
        Some(Self {
            parent: fields[1].parse().ok()?,
            ticks: ticks.sum::<Result<_, _>>().ok()?,
        })
    }
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
