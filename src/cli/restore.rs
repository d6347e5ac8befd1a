//! `restore`: makes a data directory of a backup.
//!
//! Promises: the database gets its name in the directory only after every check; a restore that fails
//! leaves the directory as it was.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::backup::{MEGABYTE, contents, newest, sync, unwritten};
use super::print::Progress;
use super::reach::Place;
use super::{Exit, Printer, Trouble, lock};
use crate::admin::Admin;
use crate::config::DataDir;
use crate::domain::time::Timestamp;
use crate::store::{self, BackupFault, BackupSummary, Restored, Store};
use crate::text::{counted, duration, quoted};

/// Make a data directory of a backup
///
/// The directory must be new or empty; its lock, log and hooklane.key may be there. The backup is compared with its
/// checksum, and every page, every event and the seqs of every stream are checked before the database gets its name.
/// Events that were acknowledged after the backup are not in it: their senders must send them again. Receivers that
/// compare epochs accept the deliveries of the restored database.
///
/// hooklane.key is not in a backup: copy it into the directory before the daemon starts.
///
/// Examples:
///   hooklane restore /backup/hooklane.backup --data /var/lib/hooklane
///   hooklane restore - --data /var/lib/hooklane < /backup/hooklane.backup
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Restore {
    /// The backup, or - for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Files that may be in the directory: a node ran there and lost its database, or its key was put there
/// for this restore.
const MAY_STAY: [&str; 5] = [
    "hooklane.lock",
    "hooklane.id",
    "hooklane.key",
    "hooklane.sock",
    "log",
];

/// Beginning of the name of the directory in which a database is restored. One that an earlier restore
/// left behind is removed.
const WORKSHOP: &str = ".restore-";

/// Bytes copied at a time.
const CHUNK: usize = 1024 * 1024;

/// Result of a restore.
#[derive(Serialize)]
struct Report {
    /// Contents of the backup.
    #[serde(flatten)]
    summary: BackupSummary,
    /// Time of the last log entry of a node in this directory, if it is after the backup.
    ran_until: Option<Timestamp>,
    /// Hooks with secrets that cannot be decrypted with the key that is here.
    locked_secrets: Vec<String>,
}

impl Restore {
    /// Restores the backup.
    pub async fn run(self, place: &Place, out: &mut Printer) -> anyhow::Result<Exit> {
        if place.url.is_some() {
            let message = "a backup is restored on the machine of the daemon, not through a URL";
            return Err(Trouble::usage(message)
                .fact("there", "hooklane restore FILE --data DIR")
                .into());
        }
        let data = place.data()?;
        let backup = self.open()?;
        refuse_full(&data)?;
        out.on_ctrl_c(vec![("stopped", "nothing was restored".to_owned())]);
        let mut traces = Traces::before(&data);
        let _lock = lock::wait(&data).await?;
        refuse_full(&data)?;
        clean(&data)?;
        let workshop = workshop(&data)?;
        let file = workshop.path().join("hooklane.db");
        let ran_until = last_log(&data);
        let restored = self.restore(backup, &file, &data, out).await?;
        let report = Report {
            ran_until: ran_until.filter(|at| *at > restored.0.taken_at),
            summary: restored.0,
            locked_secrets: restored.1,
        };
        name(&file, &data)?;
        traces.stay();
        if !out.object(&report)? {
            out.facts(&told(&report, &data))?;
        }
        Ok(Exit::Done)
    }

    /// The file; `None` for stdin. A file that is no whole backup is refused before it is copied.
    fn open(&self) -> Result<Option<File>, Trouble> {
        if self.file.as_os_str() == "-" {
            return match io::stdin().is_terminal() {
                true => Err(Trouble::usage("a backup is not typed on a terminal")
                    .fact("give", "a file, or a pipe before -")),
                false => Ok(None),
            };
        }
        let opened = File::open(&self.file);
        let mut file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                let message = format!("there is no file {}", self.file.display());
                Trouble::new(Exit::Missing, "no_backup", message)
            }
            _ => self.fault(&BackupFault::System(error)),
        })?;
        if file.metadata().is_ok_and(|meta| meta.is_file()) {
            store::read_summary(&mut file).map_err(|fault| self.fault(&fault))?;
        }
        Ok(Some(file))
    }

    /// Makes a checked database of the backup; returns its summary and the hooks whose secrets cannot be
    /// decrypted.
    async fn restore(
        &self,
        backup: Option<File>,
        file: &Path,
        data: &DataDir,
        out: &mut Printer,
    ) -> anyhow::Result<(BackupSummary, Vec<String>)> {
        let summary = self.unpack(backup, file, out).await?;
        let failed = |error: store::Error| self.refused(&error, &summary);
        let store = Store::open(file, Box::new(|_| ())).await.map_err(failed)?;
        let now = Timestamp::now();
        let marked = store.mark_restored(Restored {
            taken_at: summary.taken_at,
            at: now,
        });
        marked.await.map_err(failed)?;
        let key = data.secret_key();
        let store = match key.exists() {
            true => store.with_secret_key(&key)?,
            false => store,
        };
        let admin = Admin::offline(store.clone());
        let (locked, _) = admin.unfit_secrets().await?;
        drop(admin);
        store.close().await;
        let mut bar = Progress::new("check", "Ctrl-C stops it, and nothing is restored");
        let checked = store::check_restored(file, &summary, |done, of| {
            // Failing to show the progress bar does not stop the restore.
            let _ = out.progress(&mut bar, done, of, None);
        });
        let checked = checked.await;
        out.progress_ends(&bar)?;
        checked.map_err(failed)?;
        Ok((summary, locked))
    }

    /// Copies the backup, compares it with its checksum, and cuts its end off.
    async fn unpack(
        &self,
        backup: Option<File>,
        to: &Path,
        out: &mut Printer,
    ) -> anyhow::Result<BackupSummary> {
        let written = |error: io::Error| unwritten(&to.display().to_string(), &error);
        let mut options = File::options();
        let options = options.read(true).write(true).create_new(true);
        let mut file = options.open(to).map_err(written)?;
        let stopped = "Ctrl-C stops it, and nothing is restored";
        let mut bar = Progress::new("restore", stopped).of_things("MB");
        let length = self.fill(backup, (&mut file, to), &mut bar, out).await?;
        let verified = store::verify_backup(&mut file, |hashed, _| {
            let (done, of) = ((length + hashed) / MEGABYTE, 2 * length / MEGABYTE);
            // Failing to show the progress bar does not stop the restore.
            let _ = out.progress(&mut bar, done, of, None);
        });
        let verified = verified.await;
        out.progress_ends(&bar)?;
        let summary = verified.map_err(|fault| self.fault(&fault))?;
        file.set_len(summary.bytes).map_err(written)?;
        file.sync_all().map_err(written)?;
        Ok(summary)
    }

    /// Copies the backup into a file; returns its length.
    async fn fill(
        &self,
        backup: Option<File>,
        (file, path): (&mut File, &Path),
        bar: &mut Progress,
        out: &mut Printer,
    ) -> anyhow::Result<u64> {
        let all = backup.as_ref();
        let all = all.and_then(|file| Some(file.metadata().ok()?.len()));
        let mut from: Box<dyn AsyncRead + Unpin> = match backup {
            Some(file) => Box::new(tokio::fs::File::from_std(file)),
            None => Box::new(tokio::io::stdin()),
        };
        let mut chunk = vec![0; CHUNK];
        let mut done = 0;
        loop {
            let read = from.read(&mut chunk).await;
            let read = read.map_err(|error| self.fault(&BackupFault::System(error)))?;
            if read == 0 {
                return Ok(done);
            }
            let written = file.write_all(&chunk[..read]);
            written.map_err(|error| unwritten(&path.display().to_string(), &error))?;
            done += read as u64;
            let of = all.unwrap_or(done);
            out.progress(bar, done / MEGABYTE, 2 * of / MEGABYTE, None)?;
        }
    }

    fn shown(&self) -> String {
        match self.file.as_os_str() == "-" {
            true => "stdin".to_owned(),
            false => self.file.display().to_string(),
        }
    }

    fn fault(&self, fault: &BackupFault) -> Trouble {
        let message = format!("{} {fault}", self.shown());
        Trouble::new(Exit::Failed, "bad_backup", message)
            .fact("state", "nothing was restored")
            .fact("next", "take another backup")
    }

    fn refused(&self, error: &store::Error, summary: &BackupSummary) -> Trouble {
        let message = match error {
            store::Error::Space => "the disk of the directory is full".to_owned(),
            error => format!("{} cannot be restored: {error}", self.shown()),
        };
        Trouble::new(Exit::Failed, "not_restored", message)
            .fact("state", "nothing was restored")
            .fact("made by", format!("hooklane {}", summary.hooklane))
    }
}

/// Refuses a directory with a database or with files of others.
fn refuse_full(data: &DataDir) -> Result<(), Trouble> {
    let dir = data.path();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unwritten(&dir.display().to_string(), &error)),
    };
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !MAY_STAY.contains(&name.as_str()) && !name.starts_with(WORKSHOP))
        .collect();
    names.sort();
    let Some(first) = names.first() else {
        return Ok(());
    };
    let (shown, aside) = (dir.display(), format!("{}.old", dir.display()));
    let message = match first.starts_with("hooklane.db") {
        true => format!("{shown} has a database already"),
        false => format!("{shown} is not empty: it has {first}"),
    };
    Err(Trouble::new(Exit::Conflict, "not_empty", message)
        .fact("other", "--data DIR, a new or an empty one")
        .fact("or", format!("mv {} {}", quoted(shown), quoted(aside))))
}

/// Removes the directories in which killed restores worked. The lock of the data directory is held.
fn clean(data: &DataDir) -> Result<(), Trouble> {
    let failed = |error: io::Error| unwritten(&data.path().display().to_string(), &error);
    for entry in fs::read_dir(data.path()).map_err(failed)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(WORKSHOP) {
            fs::remove_dir_all(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

fn workshop(data: &DataDir) -> Result<TempDir, Trouble> {
    let made = tempfile::Builder::new()
        .prefix(WORKSHOP)
        .tempdir_in(data.path());
    made.map_err(|error| unwritten(&data.path().display().to_string(), &error))
}

/// Gives the checked database its name.
fn name(file: &Path, data: &DataDir) -> Result<(), Trouble> {
    let failed = |error: io::Error| unwritten(&data.database().display().to_string(), &error);
    let synced = File::open(file).and_then(|file| file.sync_all());
    synced.map_err(failed)?;
    fs::rename(file, data.database()).map_err(failed)?;
    sync(data.path())
}

/// Time of the newest entry in the logs of the directory.
fn last_log(data: &DataDir) -> Option<Timestamp> {
    let logs = fs::read_dir(data.log()).into_iter().flatten().flatten();
    let times = logs.filter_map(|log| log.metadata().ok()?.modified().ok());
    let since = |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).ok();
    let newest = times.filter_map(since).max()?;
    Some(Timestamp::default().after(newest))
}

fn told(report: &Report, data: &DataDir) -> Vec<(&'static str, String)> {
    let summary = &report.summary;
    let checked = "the checksum, every page, every event, the seqs of every stream";
    let serve = format!("hooklane serve --data {}", quoted(data.path().display()));
    vec![
        ("restored", contents(summary)),
        ("backup", format!("of {}", summary.taken_at)),
        ("newest", newest(summary)),
        ("checked", checked.to_owned()),
        ("missing", missing(report)),
        ("secrets", secrets(report, data)),
        ("next", serve),
    ]
}

/// The events that are not in the backup, in words.
fn missing(report: &Report) -> String {
    match report.ran_until {
        Some(until) => {
            let long = duration(until.since(report.summary.taken_at));
            format!(
                "a node ran here until {until}, {long} after the backup; what it accepted then must be sent again"
            )
        }
        None => "events that were accepted after the backup; their senders must send them again"
            .to_owned(),
    }
}

/// The next step for the secret key, in words.
fn secrets(report: &Report, data: &DataDir) -> String {
    let Some(first) = report.locked_secrets.first() else {
        return "none that needs another hooklane.key".to_owned();
    };
    let places = report.locked_secrets.len() as u64;
    format!(
        "{} such as {first} need hooklane.key of the original: copy it to {}",
        counted(places, "place", "places"),
        data.secret_key().display()
    )
}

/// Removes what a failed restore has made: the lock file, and a directory that is new.
struct Traces {
    files: Vec<PathBuf>,
    dir: Option<PathBuf>,
}

impl Traces {
    /// Notes what is there before a restore.
    fn before(data: &DataDir) -> Self {
        let is_new = |path: &Path| !path.exists();
        Self {
            files: Some(data.lock())
                .filter(|path| is_new(path))
                .into_iter()
                .collect(),
            dir: Some(data.path().to_path_buf()).filter(|path| is_new(path)),
        }
    }

    /// Keeps everything.
    fn stay(&mut self) {
        (self.files, self.dir) = (Vec::new(), None);
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // A file that stays does no harm: the next restore accepts it.
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
        if let Some(dir) = &self.dir {
            let _ = fs::remove_dir(dir);
        }
    }
}
