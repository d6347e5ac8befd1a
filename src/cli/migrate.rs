//! `migrate`: moves everything from a data directory to Postgres.

use std::path::{Path, PathBuf};

use clap::Args;

use super::lock;
use super::print::{Progress, Stake};
use super::{Exit, Printer, Trouble};
use crate::config::DataDir;
use crate::store::{self, Database, MigrationProof, Store};
use crate::text::counted;

/// Move everything from a data directory to Postgres: events, states, positions, hooks, keys
///
/// Stop the daemons on both sides first. At the end both sides are read and compared: the counts, and a chain of
/// hashes over every event of every stream. If it is interrupted, run the same command again and it goes on. The
/// directory keeps its data, but no daemon starts there any more.
///
/// Examples:
///   hooklane migrate --from /var/lib/hooklane --to postgres://me@db/hl --dry-run
///   hooklane migrate --from /var/lib/hooklane --to postgres://me@db/hl
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Migrate {
    /// The data directory, as a path or as sqlite:PATH
    #[arg(long, value_name = "DIR")]
    from: String,
    /// The Postgres server
    #[arg(
        long,
        value_name = "URL",
        env = "HOOKLANE_DATABASE",
        hide_env_values = true
    )]
    to: String,
    /// Say how much it is and stop
    #[arg(long)]
    dry_run: bool,
}

/// File in a data directory that names the database to which everything was moved.
const MOVED: &str = "moved-to";

/// File in a data directory that names the database to which everything is being moved.
const MOVING: &str = "moving-to";

/// Refuses a directory whose events were moved, because new events here would get numbers that are used
/// there; and one that is being moved, because new events would not be moved.
///
/// # Errors
/// [`Trouble`] that says how to continue and how to go back.
pub fn refuse_moved(data: &DataDir) -> Result<(), Trouble> {
    let read = |name: &str| {
        let mark = data.path().join(name);
        let place = std::fs::read_to_string(&mark).ok()?;
        let place = crate::text::printable_line(place.trim()).to_string();
        Some((place, mark.display().to_string()))
    };
    if let Some((place, mark)) = read(MOVED) {
        let message = format!("this data has moved to {place}");
        return Err(Trouble::new(Exit::Conflict, "moved", message)
            .fact("go on", "hooklane serve --database URL --redis URL")
            .fact(
                "back",
                format!("delete {mark}: events after the move are not here"),
            ));
    }
    if let Some((place, mark)) = read(MOVING) {
        let message = format!("this data is being moved to {place}, and the move has not finished");
        let from = crate::text::quoted(data.path().display());
        return Err(Trouble::new(Exit::Conflict, "moving", message)
            .fact("go on", format!("hooklane migrate --from {from} --to URL"))
            .fact(
                "give up",
                format!("delete {mark}: all is here still; a later move needs an empty target"),
            ));
    }
    Ok(())
}

impl Migrate {
    /// Moves the data and verifies it.
    pub async fn run(self, out: &mut Printer) -> anyhow::Result<Exit> {
        let to: Database = self
            .to
            .parse()
            .map_err(|error: store::InvalidDatabase| Trouble::usage(error.to_string()))?;
        let Database::Postgres(server) = &to else {
            return Err(Trouble::usage("--to takes postgres://USER@HOST/NAME").into());
        };
        let data = self.data()?;
        let file = data.database();
        if !file.exists() {
            let message = format!("there is no database at {}", file.display());
            return Err(Trouble::new(Exit::Missing, "no_database", message).into());
        }
        let lock = lock::wait(&data).await.map_err(stop_first)?;
        if let Some(mended) = &lock.mended {
            out.say(format_args!("{mended}"))?;
        }
        // Opening the store completes what a crash interrupted, and indexes the log.
        Store::open(&file, Box::new(|_| ())).await?.close().await;
        let (streams, events) = store::migration_size(&file)?;
        if !self.dry_run {
            out.is_answered("everything", &Stake::Moderate)?;
        }
        out.say(format_args!(
            "migrate {} to {server}",
            data.path().display()
        ))?;
        out.facts(&[
            (
                "  amount",
                format!(
                    "{}, {}",
                    counted(streams, "stream", "streams"),
                    counted(events, "event", "events")
                ),
            ),
            (
                "  how",
                "copies every row, then reads both sides and compares them".to_owned(),
            ),
            (
                "  after",
                "start with serve --database; the directory keeps its data".to_owned(),
            ),
            ("  secrets", secrets(&data)),
        ])?;
        if self.dry_run {
            // A dry run reports what would stop the migration.
            store::check_migration(&file, server)
                .await
                .map_err(not_moved)?;
            return Ok(Exit::Done);
        }
        if !out.confirm("Move it?", "everything", &Stake::Moderate)? {
            return Ok(Exit::Failed);
        }
        let mut bar = Progress::new(
            "move",
            "Ctrl-C stops it; run the same command again to go on",
        );
        let (moving_to, moved_to) = (data.path().join(MOVING), data.path().join(MOVED));
        let mark = format!("{server}\n");
        let begun = || std::fs::write(&moving_to, &mark);
        let moving = store::migrate(&file, server, begun, |moved| {
            // Failing to show the progress bar does not stop the migration.
            let _ = out.progress(&mut bar, moved.done, moved.of, None);
        });
        let moved = moving.await;
        out.progress_ends(&bar)?;
        let proof = moved.map_err(not_moved)?;
        std::fs::write(&moved_to, &mark).map_err(|error| unwritten(&moved_to, &error))?;
        // Either file prevents serving from here; only the one that is read first is kept.
        let _ = std::fs::remove_file(&moving_to);
        tell(&proof, out)?;
        Ok(Exit::Done)
    }

    fn data(&self) -> anyhow::Result<DataDir> {
        let path = self.from.strip_prefix("sqlite:").unwrap_or(&self.from);
        let path = PathBuf::from(path);
        let is_file = path.extension().is_some_and(|end| end == "db");
        let dir = match (is_file, path.parent()) {
            (true, Some(dir)) => dir.to_path_buf(),
            _ => path,
        };
        if !dir.is_dir() {
            let message = format!("there is no directory {}", dir.display());
            return Err(Trouble::new(Exit::Missing, "no_database", message).into());
        }
        Ok(DataDir::at(&dir))
    }
}

/// Says that the secret key must be copied separately: it is not in the database.
fn secrets(data: &DataDir) -> String {
    let key = data.secret_key();
    match key.exists() {
        true => format!(
            "start each node with --secret-key-file and a copy of {}",
            key.display()
        ),
        false => "none is stored".to_owned(),
    }
}

fn not_moved(error: store::Error) -> Trouble {
    Trouble::new(Exit::Conflict, "not_moved", error.to_string())
        .fact("again", "run the same command: it goes on where it stopped")
}

/// A directory in use belongs to a daemon that still writes to it.
fn stop_first(error: lock::Error) -> Trouble {
    let pid = match &error {
        lock::Error::InUse { pid, .. } => Some(pid.clone()),
        _ => None,
    };
    let mut trouble = Trouble::from(error);
    if let Some(pid) = pid {
        trouble.facts = vec![
            (
                "stop it",
                format!("systemctl stop hooklane, or kill {pid}: nothing is lost"),
            ),
            ("then", "run the same command again".to_owned()),
        ];
    }
    trouble
}

fn unwritten(path: &Path, error: &std::io::Error) -> Trouble {
    let message = format!("cannot write {}: {error}", path.display());
    Trouble::new(Exit::Failed, "no_file", message)
        .fact("state", "everything is moved and verified")
        .fact("again", "the same command writes it")
}

fn tell(proof: &MigrationProof, out: &mut Printer) -> std::io::Result<()> {
    let done = if proof.was_moved {
        "already moved"
    } else {
        "moved"
    };
    out.say(format_args!(
        "{done}, verified: {}, {}, {} the same on both sides",
        counted(proof.streams, "stream", "streams"),
        counted(proof.events, "event", "events"),
        counted(proof.cursors, "cursor", "cursors"),
    ))?;
    out.say(format_args!(
        "next    hooklane serve --database URL --redis URL"
    ))
}
