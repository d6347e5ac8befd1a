//! Power cuts: at any moment, the disk has every event that was acknowledged and every state that was shown.
//!
//! A daemon runs on a disk that notes its writes and syncs (`power.c`). From that trace a test makes, for
//! hundreds of moments, a disk that could be found after the power has come back: all that was synced, and of
//! the rest some writes, some of them torn. Each must hold the events that a 202 was sent for until then, and the
//! states that were shown.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hooklane::domain::event::EventId;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::Value;

use super::daemon::{Home, Setup};
use super::preload;
use super::seeds::seeds;
use super::world::{Ask, World, send, state_path};

/// Hooks that events go to, each over a connection of its own.
const HOOKS: usize = 8;

/// Events of each hook.
const EVENTS: usize = 100;

/// Bytes that a disk writes in one piece.
const SECTOR: usize = 512;

/// Moments at which the power fails.
const CUTS: usize = 200;

/// One call that the daemon made, in the order of all of them.
enum Call {
    Write {
        file: usize,
        at: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        file: usize,
        to: usize,
    },
    SyncBegins {
        file: usize,
        number: u64,
    },
    SyncEnds {
        number: u64,
    },
    Send(Vec<u8>),
}

/// Names of the files, by their number in the trace.
const FILES: [&str; 2] = ["hooklane.db", "hooklane.db-wal"];

fn trace(bytes: &[u8]) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut rest = bytes;
    while let Some((head, after)) = rest.split_first_chunk::<24>() {
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        let (offset, length) = (number(8), usize::try_from(number(16)).unwrap());
        // The daemon was killed, maybe within a record.
        let Some((bytes, after)) = after.split_at_checked(length) else {
            break;
        };
        let (file, at) = (usize::from(head[1]), usize::try_from(offset).unwrap());
        calls.push(match head[0] {
            b'W' => Call::Write {
                file,
                at,
                bytes: bytes.to_vec(),
            },
            b'T' => Call::Truncate { file, to: at },
            b'B' => Call::SyncBegins {
                file,
                number: offset,
            },
            b'E' => Call::SyncEnds { number: offset },
            b'A' => Call::Send(bytes.to_vec()),
            kind => panic!("no call is noted as {kind}"),
        });
        rest = after;
    }
    calls
}

/// Everything that the daemon has said until a moment.
#[derive(Default)]
struct Said {
    /// Of each accepted event its hook, seq and id.
    accepted: Vec<(String, i64, String)>,
    /// The furthest state that was shown of a hook.
    shown: BTreeMap<String, i64>,
}

impl Said {
    fn hear(&mut self, sent: &[u8]) {
        let text = String::from_utf8_lossy(sent);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            return;
        };
        let Ok(body) = serde_json::from_str::<Value>(body) else {
            return;
        };
        let Some(hook) = body["hook"].as_str() else {
            return;
        };
        if let (true, Some(seq)) = (head.starts_with("HTTP/1.1 202"), body["seq"].as_i64()) {
            let id = body["event"].as_str().unwrap();
            self.accepted.push((hook.into(), seq, id.into()));
        } else if let Some(position) = body["position"].as_i64() {
            let shown = self.shown.entry(hook.into()).or_default();
            *shown = position.max(*shown);
        }
    }
}

/// The files as a disk may have them when the power fails after the call `cut`. Of writes that no sync covers,
/// `keeps` says how many bytes are there.
fn disk(
    base: &[Vec<u8>; 2],
    calls: &[Call],
    cut: usize,
    mut keeps: impl FnMut(usize) -> usize,
) -> [Vec<u8>; 2] {
    // Everything before these calls is certainly there.
    let mut synced = [0; 2];
    let mut begun = BTreeMap::new();
    for (at, call) in calls[..=cut].iter().enumerate() {
        match call {
            Call::SyncBegins { file, number } => drop(begun.insert(number, (*file, at))),
            Call::SyncEnds { number } => {
                let (file, from) = begun[number];
                synced[file] = from.max(synced[file]);
            }
            _ => {}
        }
    }
    let mut files = base.clone();
    for (nth, call) in calls[..=cut].iter().enumerate() {
        match call {
            Call::Write { file, at, bytes } => {
                let is_synced = nth < synced[*file];
                let kept = if is_synced {
                    bytes.len()
                } else {
                    keeps(bytes.len())
                };
                put(&mut files[*file], *at, &bytes[..kept]);
            }
            Call::Truncate { file, to } => {
                let is_synced = nth < synced[*file];
                if is_synced || keeps(1) == 1 {
                    files[*file].resize(*to, 0);
                }
            }
            _ => {}
        }
    }
    files
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if !bytes.is_empty() {
        file.resize(file.len().max(at + bytes.len()), 0);
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Looks at a disk as the next start would find it: something that is missing or wrong, if there is any.
fn look(files: &[Vec<u8>; 2], said: &Said) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in FILES.iter().zip(files) {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    look_at(dir.path(), said).map_err(|error| format!("{error}"))
}

fn look_at(dir: &Path, said: &Said) -> Result<(), Box<dyn std::error::Error>> {
    const FIND: &str = "select count(*) from log l join streams s on s.id = l.stream
        join hooks h on h.id = s.hook where h.name = ?1 and l.seq = ?2 and l.id = ?3";
    const GAPS: &str = "select count(*) from (select stream from log group by stream
        having count(distinct seq) <> max(seq) or count(*) <> max(seq))";
    const STATE: &str = "select c.position, c.state, (select max(seq) from log where stream = s.id)
        from cursors c join streams s on s.id = c.stream join hooks h on h.id = s.hook where h.name = ?1";
    let db = Connection::open(dir.join(FILES[0]))?;
    let whole: String = db.query_row("pragma integrity_check", [], |row| row.get(0))?;
    if whole != "ok" {
        return Err(whole.into());
    }
    for (hook, seq, id) in &said.accepted {
        let id: EventId = id.parse()?;
        let found: i64 = db.query_row(FIND, (hook, seq, id.as_bytes()), |row| row.get(0))?;
        if found != 1 {
            return Err(
                format!("event {seq} of {hook} was accepted and is there {found} times").into(),
            );
        }
    }
    let gaps: i64 = db.query_row(GAPS, [], |row| row.get(0))?;
    if gaps != 0 {
        return Err(format!("{gaps} streams have a gap or a doubled seq").into());
    }
    for (hook, shown) in &said.shown {
        let (position, state, head): (i64, Option<String>, i64) = db
            .query_row(STATE, [hook], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?
            .unwrap_or_default();
        let counted = state.map_or(Ok(0), |state| state.parse::<i64>())?;
        if position < *shown || position > head || counted != position {
            let found =
                format!("{hook} was shown at {shown}; it counts {counted} at {position} of {head}");
            return Err(found.into());
        }
    }
    Ok(())
}

/// A daemon under load on a disk that notes everything: its files before, and the calls.
fn record() -> ([Vec<u8>; 2], Vec<Call>) {
    let hooks: String = (0..HOOKS)
        .map(|n| format!("[[hooks]]\nname = 'h{n}'\nreduce = 'count'\n"))
        .collect();
    let mut world = World::new(Setup::Embedded, &[], &hooks);
    let mut daemon = world.daemon.take().unwrap();
    assert!(
        daemon
            .terminate(std::time::Duration::from_secs(30))
            .unwrap()
            .success()
    );
    let read = |name: &str| fs::read(world.home.data().join(name)).unwrap_or_default();
    let base = FILES.map(read);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let text = |path: &Path| -> &'static str { path.to_str().unwrap().to_owned().leak() };
    let notes = dir.path().join("trace");
    let library = preload::compile(dir.path(), "power.c");
    world.home.environment.push(("LD_PRELOAD", text(&library)));
    world.home.environment.push(("POWER_TRACE", text(&notes)));
    let daemon = world.home.start();
    // Commands have files and sockets of their own.
    world.home.environment.clear();
    load(&world);
    daemon.kill();
    (base, trace(&fs::read(&notes).unwrap()))
}

/// Senders and an operator, and a reader as long as they are at it.
fn load(world: &World) {
    std::thread::scope(|threads| {
        let operator = threads.spawn(|| operate(&world.home));
        let senders: Vec<_> = (0..HOOKS)
            .map(|n| threads.spawn(move || send_all(world, &format!("h{n}"))))
            .collect();
        while !operator.is_finished() || senders.iter().any(|sender| !sender.is_finished()) {
            for n in 0..HOOKS {
                world.get(&state_path(&format!("h{n}")));
            }
        }
    });
}

fn operate(home: &Home) {
    home.run(&["lanes", "resize", "5", "--yes", "--confirm", "5"]);
    home.run(&["state", "rebuild", "h1", "--yes", "--confirm", "h1"]);
    home.run(&["hooks", "create", "late", "--reduce", "count"]);
}

fn send_all(world: &World, hook: &str) {
    let body = format!("{{\"text\":\"{}\"}}", "x".repeat(2_000));
    for _ in 0..EVENTS {
        let sent = Ask::post(hook).key(&world.write).body(&body).bytes();
        assert_eq!(send(world.home.addr, &sent).status, 202);
    }
}

/// One moment at which the power fails: after which call, and whether the disk writes nothing unasked.
struct Cut {
    after: usize,
    is_lazy: bool,
}

/// Half of the cuts come just after something was sent, on a lazy disk; the others at any moment.
fn cuts(calls: &[Call], chance: &mut StdRng) -> Vec<Cut> {
    let is_send = |(at, call): (usize, &Call)| matches!(call, Call::Send(_)).then_some(at);
    let sends: Vec<usize> = calls.iter().enumerate().filter_map(is_send).collect();
    assert!(sends.len() > HOOKS * EVENTS, "only {} sends", sends.len());
    let cut = |nth| match nth % 2 {
        0 => Cut {
            after: sends[chance.random_range(0..sends.len())],
            is_lazy: true,
        },
        _ => Cut {
            after: chance.random_range(0..calls.len()),
            is_lazy: false,
        },
    };
    (0..CUTS).map(cut).collect()
}

/// The first cut after which a disk lacks something that was said, with what is wrong.
fn first_loss(base: &[Vec<u8>; 2], calls: &[Call], chance: &mut StdRng) -> Option<String> {
    let mut accepted = 0;
    for Cut { after, is_lazy } in cuts(calls, chance) {
        let mut said = Said::default();
        for call in &calls[..=after] {
            if let Call::Send(sent) = call {
                said.hear(sent);
            }
        }
        let files = disk(base, calls, after, |length| match is_lazy {
            true => 0,
            false => torn(chance, length),
        });
        accepted = said.accepted.len().max(accepted);
        if let Err(found) = look(&files, &said) {
            return Some(format!("after call {after} of {}: {found}", calls.len()));
        }
    }
    assert!(
        accepted > HOOKS * EVENTS / 2,
        "{accepted} accepted before a cut"
    );
    None
}

#[test]
fn events_that_were_acknowledged_and_states_that_were_shown_survive_a_power_cut() {
    let (base, mut calls) = record();
    for seed in seeds(1) {
        let mut chance = StdRng::seed_from_u64(seed);
        let lost = first_loss(&base, &calls, &mut chance);
        assert_eq!(lost, None, "seed {seed}");
    }
    // A disk that syncs nothing must be found out, or this test could not fail.
    calls.retain(|call| !matches!(call, Call::SyncEnds { .. }));
    let lost = first_loss(&base, &calls, &mut StdRng::seed_from_u64(0));
    assert!(lost.is_some());
}

/// Bytes of an unsynced write that reached the disk.
fn torn(chance: &mut StdRng, length: usize) -> usize {
    match chance.random_range(0..4) {
        0 | 1 => length,
        2 => 0,
        _ => chance.random_range(0..=length / SECTOR) * SECTOR,
    }
}
