//! `backup`: copies a data directory into one file, also while its daemon runs.
//!
//! Promises: a file of the given name is either absent, the former one, or a whole backup.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use clap::Args;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt as _;

use super::print::Progress;
use super::reach::Place;
use super::{Exit, Printer, Trouble, migrate};
use crate::config::{self, DataDir};
use crate::store::{self, BackupSummary, Database, Server};
use crate::text::{counted, size};

/// Copy all data into one file, also while the daemon runs
///
/// The copy is the data as it was when the command began. It has events, states, positions, hooks, access keys and
/// the audit log. It does not have hooklane.key, which encrypts the secrets of senders and destinations: keep a copy
/// of that file in another place. `restore` checks a backup and makes a data directory of it.
///
/// Senders do not wait meanwhile. The write-ahead log in the data directory grows until the copy is done.
///
/// Examples:
///   hooklane backup /backup/hooklane.backup
///   hooklane backup - > /backup/hooklane.backup
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Backup {
    /// The file to write, or - for stdout
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
    /// The database that `serve` uses [default: a file in the data directory]
    #[arg(long, value_name = "URL", env = "HOOKLANE_DATABASE")]
    #[arg(hide_env_values = true)]
    database: Option<String>,
}

/// Bytes written to stdout at a time.
const CHUNK: usize = 256 * 1024;

/// Bytes in the unit of the progress bar.
pub const MEGABYTE: u64 = 1_000_000;

/// Target of a backup.
enum Target {
    Stdout,
    /// A file, and its directory.
    File(PathBuf, PathBuf),
}

impl Backup {
    /// Writes the backup.
    pub async fn run(self, place: &Place, out: &mut Printer) -> anyhow::Result<Exit> {
        let data = place.data()?;
        let from = self.source(place, &data)?;
        let target = self.target()?;
        let dir = match &target {
            // Unlike the usual directory for temporary files, this one is private and on a disk.
            Target::Stdout => from.parent().unwrap_or(Path::new(".")),
            Target::File(_, dir) => dir,
        };
        out.on_ctrl_c(vec![("stopped", "nothing was written".to_owned())]);
        let mut part = part(dir)?;
        let summary = copy(&from, &data, &mut part, out).await;
        let summary = summary.map_err(|error| not_copied(&error, dir))?;
        match &target {
            Target::Stdout => {
                print(part.as_file_mut()).await?;
                drop(part);
            }
            Target::File(file, dir) => {
                self.persist(part, file)?;
                sync(dir)?;
                out.object(&summary)?;
            }
        }
        tell(&summary, &from, out)?;
        Ok(Exit::Done)
    }

    /// The database file.
    fn source(&self, place: &Place, data: &DataDir) -> Result<PathBuf, Trouble> {
        if place.url.is_some() {
            let message = "a backup is made on the machine of the daemon, not through a URL";
            return Err(Trouble::usage(message).fact("there", "hooklane backup FILE"));
        }
        let given = self.database.as_ref().map(|text| text.parse());
        let given = given.transpose().map_err(config::Error::Database)?;
        let from = match given {
            Some(Database::Postgres(server)) => return Err(on_server(&server)),
            Some(Database::Sqlite(file)) => file,
            None => {
                migrate::refuse_moved(data)?;
                data.database()
            }
        };
        match from.exists() {
            true => Ok(from),
            false => {
                let message = format!("there is no database at {}", from.display());
                Err(Trouble::new(Exit::Missing, "no_database", message)
                    .fact("other", "--data DIR")
                    .fact("server", "--database URL, if its events are in Postgres"))
            }
        }
    }

    fn target(&self) -> Result<Target, Trouble> {
        if self.file.as_os_str() == "-" {
            return match io::stdout().is_terminal() {
                true => Err(Trouble::usage("a backup is not printed on a terminal")
                    .fact("give", "a file, or a pipe behind -")),
                false => Ok(Target::Stdout),
            };
        }
        let (file, shown) = (self.file.clone(), self.file.display());
        if file.is_dir() {
            return Err(Trouble::usage(format!("{shown} is a directory"))
                .fact("give", "the name of a file in it"));
        }
        if file.exists() && !self.force {
            return Err(exists(&file));
        }
        let dir = match file.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
            _ => PathBuf::from("."),
        };
        Ok(Target::File(file, dir))
    }

    /// Gives the finished file its name.
    fn persist(&self, part: NamedTempFile, file: &Path) -> Result<(), Trouble> {
        let named = match self.force {
            true => part.persist(file),
            false => part.persist_noclobber(file),
        };
        match named {
            Ok(_) => Ok(()),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(exists(file)),
            Err(error) => Err(unwritten(&file.display().to_string(), &error.error)),
        }
    }
}

/// A file under a temporary name, for its owner only. Dropping it removes it.
fn part(dir: &Path) -> Result<NamedTempFile, Trouble> {
    let mut name = tempfile::Builder::new();
    let name = name.prefix(".hooklane-").suffix(".part");
    name.tempfile_in(dir)
        .map_err(|error| unwritten(&dir.display().to_string(), &error))
}

/// Copies the database into `part`. A daemon that starts meanwhile needs the write-ahead log for itself:
/// the copy gives up its snapshot then and begins again.
async fn copy(
    from: &Path,
    data: &DataDir,
    part: &mut NamedTempFile,
    out: &mut Printer,
) -> Result<BackupSummary, store::Error> {
    let holder = || std::fs::read_to_string(data.lock()).unwrap_or_default();
    loop {
        let (before, path) = (holder(), part.path().to_path_buf());
        let stopped = "Ctrl-C stops it, and nothing is written";
        let mut bar = Progress::new("backup", stopped).of_things("MB");
        let copied = store::back_up(
            from,
            (part.as_file_mut(), &path),
            || holder() != before,
            |done, all| {
                // Failing to show the progress bar does not stop the backup.
                let _ = out.progress(&mut bar, done / MEGABYTE, all / MEGABYTE, None);
            },
        );
        let copied = copied.await?;
        let _ = out.progress_ends(&bar);
        match copied {
            Some(summary) => return Ok(summary),
            None => part
                .as_file_mut()
                .set_len(0)
                .map_err(|error| store::Error::Refused(error.to_string()))?,
        }
    }
}

/// Writes the file to stdout. A pipe that is closed before the end is an error here, because the other
/// end has no whole backup.
async fn print(file: &mut File) -> Result<(), Trouble> {
    let failed = |error: io::Error| unwritten("stdout", &error);
    // The standard handle would stay locked while a write waits, and Ctrl-C flushes it.
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
    let mut stdout = tokio::fs::File::from_std(stdout.into());
    let mut chunk = vec![0; CHUNK];
    file.rewind().map_err(failed)?;
    loop {
        match file.read(&mut chunk).map_err(failed)? {
            0 => return stdout.flush().await.map_err(failed),
            read => stdout.write_all(&chunk[..read]).await.map_err(failed)?,
        }
    }
}

/// Syncs a directory, so that a new name in it survives a power cut.
pub fn sync(dir: &Path) -> Result<(), Trouble> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| unwritten(&dir.display().to_string(), &error))
}

/// Contents of a backup in words: `14.2 MB: 46 events of 11 streams, 4 hooks, 3 keys`.
pub fn contents(summary: &BackupSummary) -> String {
    format!(
        "{}: {} of {}, {}, {}",
        size(summary.bytes),
        counted(summary.events, "event", "events"),
        counted(summary.streams, "stream", "streams"),
        counted(summary.hooks, "hook", "hooks"),
        counted(summary.keys, "key", "keys"),
    )
}

/// The newest event of a backup in words.
pub fn newest(summary: &BackupSummary) -> String {
    match (summary.newest_event, summary.newest_received_at) {
        (Some(id), Some(at)) => format!("{id}, received {at}"),
        _ => "no event".to_owned(),
    }
}

fn tell(summary: &BackupSummary, from: &Path, out: &mut Printer) -> io::Result<()> {
    let key = from.with_file_name(store::KEY_FILE);
    let key = match key.exists() {
        true => format!(
            "{}, the key of secrets: keep a copy elsewhere",
            key.display()
        ),
        false => "no secret key is stored here".to_owned(),
    };
    out.facts(&[
        ("backup", contents(summary)),
        ("newest", newest(summary)),
        ("not in it", key),
    ])
}

fn exists(file: &Path) -> Trouble {
    Trouble::new(
        Exit::Conflict,
        "exists",
        format!("{} exists", file.display()),
    )
    .fact("replace", "--force")
}

/// An error of the file system about a file or directory.
pub fn unwritten(what: &str, error: &io::Error) -> Trouble {
    let message = format!("cannot write {what}: {error}");
    Trouble::new(Exit::Failed, "unwritten", message).fact("state", "nothing was changed")
}

fn not_copied(error: &store::Error, dir: &Path) -> Trouble {
    let message = match error {
        store::Error::Space => format!("no backup: the disk of {} is full", dir.display()),
        error => format!("no backup: {error}"),
    };
    Trouble::new(Exit::Failed, "no_backup", message).fact("state", "nothing was written")
}

/// Postgres has tools for this, which know its users and versions.
fn on_server(server: &Server) -> Trouble {
    let message = "the events are in Postgres, which makes the backup itself";
    Trouble::usage(message).fact(
        "dump",
        format!(
            "pg_dump --format=custom --file=hooklane.dump {}",
            server.client_flags()
        ),
    )
}
