//! `completions` and `man`: what a packager puts beside the binary.

use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::Shell;
use clap_mangen::Man as Page;

use super::{Exit, Printer, Trouble, complete, tree};

/// The shells whose completions are shipped, and in which files.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "hooklane.bash"),
    ("zsh", "_hooklane"),
    ("fish", "hooklane.fish"),
];

/// Write shell completions
///
/// The scripts ask this program while a line is typed: commands, flags, and the names of hooks, streams,
/// lanes, namespaces and keys, as the daemon knows them at that moment.
///
/// Examples:
///   hooklane completions bash > ~/.local/share/bash-completion/completions/hooklane
///   hooklane completions --dir completions
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Completions {
    /// The shell
    #[arg(value_enum, required_unless_present = "dir")]
    shell: Option<Shell>,
    /// Write those of bash, zsh and fish into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "shell")]
    dir: Option<PathBuf>,
}

impl Completions {
    /// Does what the verb says.
    pub fn run(self, out: &mut Printer) -> anyhow::Result<Exit> {
        if let Some(dir) = &self.dir {
            make(dir)?;
            for (shell, file) in SHELLS {
                std::fs::write(dir.join(file), complete::script(shell)?)?;
            }
        }
        if let Some(shell) = self.shell {
            out.bytes(&complete::script(&shell.to_string())?)?;
        }
        Ok(Exit::Done)
    }
}

/// Write the manual page
///
/// Examples:
///   hooklane man | man -l -
///   hooklane man --dir man
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Man {
    /// Write the pages of all commands into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    /// Does what the verb says.
    pub fn run(self, out: &mut Printer) -> anyhow::Result<Exit> {
        match &self.dir {
            Some(dir) => {
                make(dir)?;
                clap_mangen::generate_to(tree(), dir)?;
            }
            None => {
                let mut text = Vec::new();
                Page::new(tree()).render(&mut text)?;
                out.bytes(&text)?;
            }
        }
        Ok(Exit::Done)
    }
}

fn make(dir: &Path) -> Result<(), Trouble> {
    std::fs::create_dir_all(dir).map_err(|error| {
        let message = format!("cannot write to {}: {error}", dir.display());
        Trouble::new(Exit::Usage, "no_directory", message)
    })
}
