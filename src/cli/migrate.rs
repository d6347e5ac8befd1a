//! `migrate`: from a data directory to Postgres, with everything.

use std::path::PathBuf;

use clap::Args;

use super::lock;
use super::print::{Progress, Stake};
use super::{Exit, Printer, Trouble};
use crate::config::DataDir;
use crate::store::{self, Database, Proof, Store};
use crate::text::counted;

/// Move everything from a data directory to Postgres: events, states, positions, hooks, keys
///
/// No daemon may run on either side. What is moved is proved at the end, by counts and by a chain of hashes
/// over every event of every stream. Broken off, it goes on when it is run again. The directory keeps what
/// it has, and a daemon does not start there any more.
///
/// Examples:
///   hooklane migrate --from sqlite:/var/lib/hooklane --to postgres://hooklane@db/hooklane
///   hooklane migrate --from /var/lib/hooklane --to postgres://hooklane@db/hooklane --dry-run
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

/// Says in a data directory where everything is now.
pub const MOVED: &str = "moved-to";

impl Migrate {
    /// Moves and proves.
    pub async fn run(self, out: &mut Printer) -> anyhow::Result<Exit> {
        let to: Database = self
            .to
            .parse()
            .map_err(|error: store::NoDatabase| Trouble::usage(error.to_string()))?;
        let Database::Postgres(server) = &to else {
            return Err(Trouble::usage("--to takes postgres://USER@HOST/NAME").into());
        };
        let data = self.data()?;
        let file = data.database();
        if !file.exists() {
            let message = format!("there is no database at {}", file.display());
            return Err(Trouble::new(Exit::Missing, "no_database", message).into());
        }
        let _lock = lock::wait(&data).await?;
        // What a crash left is finished, and the index of the log is brought to its end.
        Store::open(&file, Box::new(|_| ())).await?.close().await;
        let (streams, events) = store::migrate_size(&file)?;
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
                "every row under its own number; then both sides are read and compared".to_owned(),
            ),
            (
                "  after",
                "serve --database; the directory keeps what it has".to_owned(),
            ),
        ])?;
        if self.dry_run {
            return Ok(Exit::Done);
        }
        if !out.confirm("Move it?", "everything", &Stake::Moderate)? {
            return Ok(Exit::Failed);
        }
        let mut bar = Progress::new(
            "move",
            "Ctrl-C breaks it off; run again, it goes on from there",
        );
        let moving = store::migrate(&file, server, |moved| {
            // A bar that cannot be shown stops nothing.
            let _ = out.progress(&mut bar, moved.done, moved.of, None);
        });
        let moved = moving.await;
        out.progress_ends(&bar)?;
        let proof = moved.map_err(|error| {
            Trouble::new(Exit::Conflict, "not_moved", error.to_string())
                .fact("again", "the same command goes on where it was")
        })?;
        std::fs::write(data.path().join(MOVED), format!("{server}\n"))?;
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

fn tell(proof: &Proof, out: &mut Printer) -> std::io::Result<()> {
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
