//! Checks of a node's surroundings: database, hints, clock, directory, disk and limits. Changes
//! nothing. The checks are the same for a running daemon and for a command without one.

mod retention;
mod secrets;
mod senders;

use std::io::{Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Resource, geteuid, getrlimit};
use tokio::sync::watch;

use super::{Admin, Error};
use crate::api::Check;
use crate::config::{self, Config, DataDir, Setting};
use crate::domain::time::Timestamp;
use crate::lanes::redis::{self, Address};
use crate::store::{self, DamageCheck, Database, Inspection, Restored};
use crate::text::{counted, duration, size};

/// The things to check.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Data directory.
    pub data: DataDir,
    /// Place of the events.
    pub database: Database,
    /// File with the key that encrypts secrets; `None` for the file beside an SQLite database.
    pub secret_key: Option<PathBuf>,
    /// Place of the hints; `None` for memory.
    pub redis: Option<Address>,
    /// Number of connections that the node accepts.
    pub connections_max: usize,
    /// Settings of the node, each with its origin.
    pub settings: Vec<Setting>,
    /// Fault of the certificate's files as they are now; `None` without a certificate.
    pub certificate: Option<watch::Receiver<Option<String>>>,
}

impl Surroundings {
    /// The surroundings of a node with this configuration and number of connections.
    pub fn of(config: &Config, connections_max: usize) -> Self {
        let file = || Database::from(&config.data.database());
        Self {
            data: config.data.clone(),
            database: config.database.clone().unwrap_or_else(file),
            secret_key: config.secret_key.clone(),
            redis: config.redis.clone(),
            connections_max,
            settings: config.settings.clone(),
            certificate: None,
        }
    }

    /// Free bytes on the disk of the data directory if it is nearly full: less than a tenth of the disk, and less
    /// than what the check of the disk warns about.
    pub fn little_room(&self) -> Option<u64> {
        let there = |dir: &&Path| dir.is_dir();
        let dir = self.data.path().ancestors().find(there)?;
        let disk = rustix::fs::statvfs(dir).ok()?;
        let (free, all) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
        (free < ROOM_WARN && free < all / 10).then_some(free)
    }
}

/// Free bytes on the disk below which to warn, and below which events will soon be refused.
const ROOM_WARN: u64 = 2_000_000_000;
const ROOM_FAIL: u64 = 100_000_000;

/// Sync times above this make every sender wait.
const SYNC_WARN: Duration = Duration::from_millis(20);

/// Number of syncs measured; the median counts.
const SYNCS: usize = 7;

/// Round-trip time of a query above which to warn.
const ASK_WARN: Duration = Duration::from_millis(10);

/// Difference of two clocks above which to warn, and to fail.
const CLOCK_WARN: Duration = Duration::from_secs(1);
const CLOCK_FAIL: Duration = Duration::from_secs(60);

/// Number of open files needed besides senders' connections: database, log, threads, socket.
pub const FILES_BESIDE: u64 = 256;

/// Magic number of tmpfs, a file system in memory.
const TMPFS: i64 = 0x0102_1994;

impl Admin {
    /// Checks the surroundings of this node.
    ///
    /// # Errors
    /// [`Error::NeedsDaemon`].
    pub async fn examine(&self) -> Result<Vec<Check>, Error> {
        let around = self.surroundings.as_ref().ok_or(Error::NeedsDaemon)?;
        let looked = store::examine(&around.database).await;
        if let (Err(error), Some(engine)) = (&looked, &self.engine) {
            // A malformed page ends the node, even when it is this check that finds it.
            engine.fail_if_fatal(error);
        }
        let is_there = looked.is_ok();
        let mut checks = judge(around, looked).await;
        if !is_there {
            return Ok(checks);
        }
        match self.retention().await {
            Ok(found) => checks.extend(found),
            Err(error) => checks.push(refused("retention", &error.to_string())),
        }
        match self.secrets_check().await {
            Ok(found) => checks.extend(found),
            Err(error) => checks.push(refused("secrets", &error.to_string())),
        }
        match self.clocks_of_senders().await {
            Ok(found) => checks.extend(found),
            Err(error) => checks.push(refused("clock", &error.to_string())),
        }
        Ok(checks)
    }
}

/// Runs all checks that need no node.
pub async fn examine(around: &Surroundings) -> Vec<Check> {
    let looked = store::examine(&around.database).await;
    let key = looked.as_ref().ok();
    let key = key.and_then(|looked| secrets::key_check(around, &looked.sealed));
    let mut checks = judge(around, looked).await;
    checks.extend(key);
    checks
}

/// Runs all checks except that of the database, whose result is given.
async fn judge(around: &Surroundings, looked: Result<Inspection, store::Error>) -> Vec<Check> {
    let cluster = looked.as_ref().ok().and_then(|looked| looked.cluster);
    let mut checks = Vec::new();
    if !around.settings.is_empty() {
        checks.push(Check::ok("serve", config::told(&around.settings)));
    }
    checks.push(database(around, &looked));
    let found = looked.as_ref().ok().and_then(|l| l.damage.as_ref());
    checks.extend(found.map(damage));
    let copy = looked.as_ref().ok().and_then(|looked| looked.restored);
    checks.extend(copy.and_then(|copy| restored(copy, Timestamp::now())));
    checks.extend(around.certificate.as_ref().map(certificate));
    let mut clocks = Vec::new();
    if let Ok(looked) = &looked {
        clocks.extend(looked.clock.map(|at| ("Postgres", at)));
    }
    checks.push(match &around.redis {
        None => Check::ok(
            "hints",
            "in memory: made again from the database at each start",
        ),
        Some(address) => match redis::look(address, cluster).await {
            Ok(looked) => {
                clocks.push(("Redis", looked.clock));
                hints(address, &looked)
            }
            Err(error) => refused("hints", &error.to_string()),
        },
    });
    checks.extend(clocks.into_iter().map(|(of, ahead)| clock(of, ahead)));
    let (dir, connections) = (around.data.clone(), around.connections_max);
    let here =
        tokio::task::spawn_blocking(move || [permissions(&dir), disk(&dir), limits(connections)]);
    checks.extend(here.await.into_iter().flatten());
    checks
}

/// A failed check from an error. Errors of the store end with their remedy after a semicolon.
fn refused(name: &str, error: &str) -> Check {
    match error.split_once("; ") {
        Some((text, remedy)) => Check::fail(name, text, remedy),
        None => Check::fail(name, error, "hooklane serve says more when it starts"),
    }
}

fn database(around: &Surroundings, looked: &Result<Inspection, store::Error>) -> Check {
    let of = &around.database;
    let looked = match looked {
        Ok(looked) => looked,
        Err(error) => return refused("database", &error.to_string()),
    };
    let way = match looked.shares_sessions {
        true => " through a pooler of transactions",
        false => "",
    };
    let Some(tables) = looked.tables else {
        if matches!(of, Database::Sqlite(_)) && around.data.was_used() {
            let text = format!("{of}: nothing is in it, and a node ran here");
            return Check::fail("database", text, "restore a backup, or give --database URL");
        }
        let text = format!("{of}{way}: no tables yet, the first start makes them");
        return Check::ok("database", text);
    };
    let mut text = format!(
        "{of}{way}, {}, {}, tables {tables}",
        looked.version,
        size(looked.bytes)
    );
    if tables > looked.tables_known {
        let remedy = "run that hooklane, or a newer one";
        let text = format!(
            "{text}: made by a newer hooklane, this one knows {}",
            looked.tables_known
        );
        return Check::fail("database", text, remedy);
    }
    if tables < looked.tables_known {
        text += &format!(" (the next start moves them to {})", looked.tables_known);
    }
    if let Some((used, most)) = looked.connections {
        text += &format!(", {used} of {most} connections in use");
        if used * 10 > most * 9 {
            return Check::warn("database", text, "raise max_connections, or close some");
        }
    }
    match looked.answers_in {
        Some(took) => {
            text += &format!(", answers in {}", fine(took));
            match took > ASK_WARN {
                true => Check::warn("database", text, "bring nodes and server closer together"),
                false => Check::ok("database", text),
            }
        }
        None => Check::ok("database", text),
    }
}

/// Reports whether the stored data is intact, as far as it was checked.
fn damage(found: &DamageCheck) -> Check {
    let events = counted(found.events, "event", "events");
    let pages = match found.all_pages {
        Some(true) => "every page can be read, ",
        Some(false) => "pages can be read as far as the time for it went, ",
        None => "",
    };
    let text = match found.damaged.as_slice() {
        [] => {
            let text = format!("{pages}{events} of a sample as stored");
            return Check::ok("damage", text);
        }
        [first, ..] => format!(
            "{} of {events} of a sample not as stored (hash mismatch), such as {}",
            found.damaged.len(),
            first.id
        ),
    };
    let remedy =
        "restore a backup, or ask the sender for it; its cursor is held when it comes there";
    Check::fail("damage", text, remedy)
}

/// Reports for a day that the database was restored.
fn restored(copy: Restored, now: Timestamp) -> Option<Check> {
    let (taken_at, at) = (copy.taken_at, copy.at);
    copy.is_new(now).then(|| {
        let text = format!("restored from a backup of {taken_at}, at {at}");
        let remedy = "have senders send again what was accepted after the backup";
        Check::warn("backup", text, remedy)
    })
}

/// Reports whether the certificate in use is that of its files.
fn certificate(fault: &watch::Receiver<Option<String>>) -> Check {
    match fault.borrow().as_deref() {
        None => Check::ok("tls", "the certificate is that of its files"),
        Some(fault) => {
            let text = format!("new connections use the certificate from before: {fault}");
            Check::fail("tls", text, "mend the files; they are read each second")
        }
    }
}

fn hints(address: &Address, looked: &redis::RedisInspection) -> Check {
    let text = format!(
        "Redis {} at {address}, answers in {}",
        looked.version,
        fine(looked.answers_in)
    );
    if looked.evicts {
        let text = format!("{text}, may evict hints when its memory is full");
        return Check::warn("hints", text, "set maxmemory-policy noeviction");
    }
    match looked.answers_in > ASK_WARN {
        true => Check::warn("hints", text, "bring nodes and server closer together"),
        false => Check::ok("hints", text),
    }
}

/// Checks the difference of a clock from ours, in milliseconds.
pub fn clock(of: &str, ahead_ms: i64) -> Check {
    let apart = Duration::from_millis(ahead_ms.unsigned_abs());
    let side = if ahead_ms < 0 { "behind" } else { "ahead of" };
    let text = format!("that of {of} is {} {side} ours", fine(apart));
    let remedy = "run a time service on both machines: timedatectl set-ntp true";
    match apart {
        apart if apart > CLOCK_FAIL => Check::fail("clock", text, remedy),
        apart if apart > CLOCK_WARN => Check::warn("clock", text, remedy),
        _ => Check::ok("clock", text),
    }
}

/// Checks whether other users can read or change the data.
fn permissions(data: &DataDir) -> Check {
    let dir = data.path();
    let shown = dir.display();
    let meta = match std::fs::metadata(dir) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Check::ok(
                "data",
                format!("{shown}: not there, the first start makes it"),
            );
        }
        Err(error) => {
            let remedy = format!("see who may enter it: namei -l {shown}");
            return Check::fail("data", format!("{shown}: {error}"), remedy);
        }
    };
    let mode = meta.mode() & 0o777;
    let text = format!("{shown}, mode {mode:03o}, of uid {}", meta.uid());
    let us = geteuid();
    if !meta.is_dir() {
        return Check::fail("data", format!("{shown} is no directory"), "--data DIR");
    }
    if mode & 0o022 != 0 {
        let text = format!("{text}: others can replace what is kept");
        return Check::fail("data", text, format!("chmod 700 {shown}"));
    }
    if meta.uid() != us.as_raw() && !us.is_root() {
        let text = format!("{text}, and we are uid {}", us.as_raw());
        let remedy = format!(
            "run as uid {}, or: chown {} {shown}",
            meta.uid(),
            us.as_raw()
        );
        return Check::fail("data", text, remedy);
    }
    if mode & 0o077 != 0 {
        let text = format!("{text}: others on this machine can see into it");
        return Check::warn("data", text, format!("chmod 700 {shown}"));
    }
    Check::ok("data", text)
}

/// Checks free space and sync time.
fn disk(data: &DataDir) -> Check {
    let there = |dir: &&Path| dir.is_dir();
    let Some(dir) = data.path().ancestors().find(there) else {
        return Check::fail("disk", "no such place", "--data DIR");
    };
    let system = |error: std::io::Error| {
        let text = format!("{} cannot be written: {error}", dir.display());
        Check::fail(
            "disk",
            text,
            format!("df -h {0}; ls -ld {0}", dir.display()),
        )
    };
    let (room, inodes, kind) = match (rustix::fs::statvfs(dir), rustix::fs::statfs(dir)) {
        (Ok(room), Ok(kind)) => (room.f_bavail * room.f_frsize, room.f_favail, kind.f_type),
        (Err(error), _) | (_, Err(error)) => return system(error.into()),
    };
    let took = match sync_time(dir) {
        Ok(took) => took,
        Err(error) => return system(error),
    };
    let text = format!("{} free, a sync takes {}", size(room), fine(took));
    #[allow(clippy::unnecessary_cast)] // The type of the number differs between systems.
    let is_memory = kind as i64 == TMPFS;
    if room < ROOM_FAIL || inodes == 0 {
        let remedy = "make room: events are refused (503) while it is full";
        return Check::fail("disk", text, remedy);
    }
    if is_memory {
        let text = format!("{text}; it is in memory: data is lost on reboot");
        return Check::warn("disk", text, "--data DIR on a disk");
    }
    if room < ROOM_WARN {
        return Check::warn("disk", text, "make room: a full disk refuses events (503)");
    }
    match took > SYNC_WARN {
        true => Check::warn("disk", text, "a faster disk: senders wait for each sync"),
        false => Check::ok("disk", text),
    }
}

/// Median time to sync one block. The file has no name, so nothing of it remains.
fn sync_time(dir: &Path) -> std::io::Result<Duration> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut times = [Duration::ZERO; SYNCS];
    for took in &mut times {
        file.rewind()?;
        file.write_all(&[7; 4096])?;
        let began = Instant::now();
        file.sync_data()?;
        *took = began.elapsed();
    }
    times.sort_unstable();
    Ok(times[SYNCS / 2])
}

/// Checks that the process may open enough files for its connections.
fn limits(connections_max: usize) -> Check {
    let wanted = connections_max as u64 + FILES_BESIDE;
    let limit = getrlimit(Resource::Nofile);
    // The soft limit is raised to the hard limit at the start.
    let Some(most) = limit.maximum else {
        return Check::ok("limits", "any number of open files");
    };
    let text = format!("{most} open files, {wanted} needed at full load");
    match most < wanted {
        true => Check::warn("limits", text, "LimitNOFILE= in its unit, or ulimit -Hn"),
        false => Check::ok("limits", text),
    }
}

/// Formats short times with a tenth of a millisecond.
fn fine(long: Duration) -> String {
    match long.as_secs_f64() * 1_000.0 {
        ms if ms < 100.0 => format!("{ms:.1}ms"),
        _ => duration(long),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::api::Grade;

    #[test]
    fn clocks_that_are_apart_are_told_by_how_far() {
        for (ahead, grade) in [
            (0, Grade::Ok),
            (-900, Grade::Ok),
            (2_000, Grade::Warn),
            (-120_000, Grade::Fail),
        ] {
            assert_eq!(clock("x", ahead).grade, grade, "{ahead}");
        }
    }

    #[test]
    fn a_directory_is_judged_by_who_may_enter_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path());
        let modes = [
            (0o700, Grade::Ok),
            (0o755, Grade::Warn),
            (0o777, Grade::Fail),
        ];
        for (mode, grade) in modes {
            let mode_is = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.path(), mode_is).unwrap();
            assert_eq!(permissions(&data).grade, grade, "{mode:o}");
        }
        let nowhere = DataDir::at(dir.path().join("a/b"));
        assert_eq!(permissions(&nowhere).grade, Grade::Ok);
        assert!(disk(&nowhere).text.contains("a sync takes"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_error_ends_in_what_to_do() {
        let check = refused(
            "database",
            "Postgres at h:1 cannot be reached: x; does it run?",
        );
        assert_eq!(check.remedy.as_deref(), Some("does it run?"));
        assert_eq!(check.grade, Grade::Fail);
    }
}
