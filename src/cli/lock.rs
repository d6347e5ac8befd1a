//! Exclusive use of the data directory: makes it private and locks it.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::DataDir;

/// Reason why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process uses it. Two daemons on one file would be two sets of lanes.
    #[error("{dir} is in use by process {pid}")]
    InUse {
        /// The directory.
        dir: String,
        /// Process id of its user.
        pid: String,
    },
    /// Others can read the files, and only the owner of the directory can change that.
    #[error("{0} can be read by others, and is of uid {1}; its owner runs: chmod 700 {0}")]
    Open(String, u32),
    /// A node ran here, and its database is missing or empty.
    #[error("a node ran in {0}, and its database hooklane.db is {1}")]
    Emptied(String, &'static str),
    /// Others could replace the database.
    #[error("{0} can be written by others; run: chmod 700 {quoted}", quoted = crate::text::quoted(.0))]
    Shared(String),
    /// The directory is on a network file system, where locks and syncs are unreliable.
    #[error("{0} is on a network file system, where neither locks nor syncs can be relied on")]
    Network(String),
    /// The system refused.
    #[error("cannot use {0}: {1}")]
    System(String, std::io::Error),
}

/// The lock of a data directory. The system releases it when the process ends in any way.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    /// Message about permissions that were corrected; `None` when there were none.
    pub mended: Option<String>,
}

/// Magic numbers of network file systems (statfs(2)): NFS, SMB, SMB2, CIFS, AFS, Coda, 9P, Ceph.
const NETWORK: [i64; 8] = [
    0x6969,
    0x517b,
    0xfe53_4d42,
    0xff53_4d42,
    0x5346_414f,
    0x7375_7245,
    0x0102_1997,
    0x00c3_6400,
];

/// Time limit for getting the lock. Commands that work on the database hold it for less.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Interval between two attempts.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Creates the directory if it is missing, and locks it, waiting up to two seconds.
///
/// # Errors
/// [`Error::InUse`] names the process that holds it.
pub async fn wait(data: &DataDir) -> Result<Lock, Error> {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        match take(data) {
            Err(Error::InUse { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(TRY_EVERY).await;
            }
            taken => return taken,
        }
    }
}

fn take(data: &DataDir) -> Result<Lock, Error> {
    let dir = data.path();
    let shown = || dir.display().to_string();
    let system = |error| Error::System(shown(), error);
    if !dir.exists() {
        std::fs::create_dir_all(dir).map_err(system)?;
        std::fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(system)?;
    }
    check(dir)?;
    let mended = make_private(data)?;
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(data.lock())
        .map_err(system)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = match pid.trim() {
                "" => "unknown".to_owned(),
                pid => pid.to_owned(),
            };
            return Err(Error::InUse { dir: shown(), pid });
        }
        Err(std::fs::TryLockError::Error(error)) => return Err(system(error)),
    }
    file.set_len(0).map_err(system)?;
    file.rewind().map_err(system)?;
    writeln!(file, "{}", std::process::id()).map_err(system)?;
    Ok(Lock {
        _file: file,
        mended,
    })
}

/// Refuses a directory in which a node ran and whose database is gone. A new database would have no
/// hooks and keys, and senders would get errors about their keys.
///
/// # Errors
/// [`Error::Emptied`].
pub fn refuse_emptied(data: &DataDir) -> Result<(), Error> {
    let is = match std::fs::metadata(data.database()) {
        Ok(meta) if meta.len() > 0 => return Ok(()),
        Ok(_) => "empty",
        Err(_) => "not there",
    };
    match data.was_used() {
        true => Err(Error::Emptied(data.path().display().to_string(), is)),
        false => Ok(()),
    }
}

/// Removes others' access to the directory and its files; returns a message if they had any.
fn make_private(data: &DataDir) -> Result<Option<String>, Error> {
    let dir = data.path();
    let system = |path: &Path, error| Error::System(path.display().to_string(), error);
    let meta = std::fs::metadata(dir).map_err(|error| system(dir, error))?;
    let ours = rustix::process::geteuid().as_raw();
    if meta.mode() & 0o077 != 0 && meta.uid() != ours {
        return Err(Error::Open(dir.display().to_string(), meta.uid()));
    }
    let mut mended = Vec::new();
    let mut close = |path: &Path, mode: u32| {
        let Ok(meta) = std::fs::symlink_metadata(path) else {
            return Ok(());
        };
        if meta.mode() & 0o077 == 0 || meta.uid() != ours || meta.is_symlink() {
            return Ok(());
        }
        let closed = std::fs::set_permissions(path, Permissions::from_mode(mode));
        closed.map_err(|error| system(path, error))?;
        mended.push(path.display().to_string());
        Ok(())
    };
    close(dir, 0o700)?;
    close(&data.log(), 0o700)?;
    let logs = std::fs::read_dir(data.log()).into_iter().flatten();
    let logs = logs.flatten().map(|file| file.path());
    for file in data.files().into_iter().chain(logs) {
        close(&file, 0o600)?;
    }
    Ok((!mended.is_empty()).then(|| {
        let them = mended.join(", ");
        format!("others on this machine could read {them}: closed to them now (chmod)")
    }))
}

/// Id by which other nodes know this directory. A node that starts here again replaces the one that
/// died here. A directory copied to another machine gets a new id.
///
/// # Errors
/// [`Error::System`].
pub fn word(data: &DataDir) -> Result<String, Error> {
    let path = data.word();
    let system = |error| Error::System(path.display().to_string(), error);
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some((word, of)) = known.trim_end().split_once(' ')
        && of == machine.trim()
    {
        return Ok(word.to_owned());
    }
    let word = format!("{:016x}", rand::random::<u64>());
    std::fs::write(&path, format!("{word} {}\n", machine.trim())).map_err(system)?;
    Ok(word)
}

fn check(dir: &Path) -> Result<(), Error> {
    let shown = || dir.display().to_string();
    let system = |error| Error::System(shown(), error);
    let meta = std::fs::metadata(dir).map_err(system)?;
    if meta.mode() & 0o022 != 0 {
        return Err(Error::Shared(shown()));
    }
    let stat = rustix::fs::statfs(dir).map_err(|error| system(error.into()))?;
    #[allow(clippy::unnecessary_cast)] // The type of the number differs between systems.
    let kind = stat.f_type as i64 & 0xffff_ffff;
    match NETWORK.contains(&kind) {
        true => Err(Error::Network(shown())),
        false => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_told_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path().join("data"));
        let lock = take(&data).unwrap();
        let mode = std::fs::metadata(data.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        match take(&data) {
            Err(Error::InUse { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
            other => panic!("{other:?}"),
        }
        drop(lock);
        take(&data).unwrap();
    }

    #[tokio::test]
    async fn who_holds_the_directory_for_a_moment_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path().join("data"));
        let lock = take(&data).unwrap();
        let short_command = async {
            tokio::time::sleep(TRY_EVERY * 3).await;
            drop(lock);
        };
        let (waited, ()) = tokio::join!(wait(&data), short_command);
        let _lock = waited.unwrap();
        let held = wait(&data).await;
        assert!(matches!(held, Err(Error::InUse { .. })), "{held:?}");
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        let refused = take(&DataDir::at(dir.path()));
        assert!(matches!(refused, Err(Error::Shared(_))), "{refused:?}");
    }
}
