//! `completions` and `man`: files for packages.

use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::Shell;

use super::{Exit, Printer, Trouble, complete, help, tree};

/// The shells whose completions are shipped, with their file names.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "hooklane.bash"),
    ("zsh", "_hooklane"),
    ("fish", "hooklane.fish"),
];

/// Write shell completions
///
/// The scripts ask this program while a line is typed: for commands and flags, and for the names of hooks,
/// streams, lanes, namespaces and keys, which the daemon knows. A new shell loads them. The packages for Debian
/// bring all three.
///
/// Examples:
///   hooklane completions bash > /etc/bash_completion.d/hooklane
///   hooklane completions zsh > /usr/local/share/zsh/site-functions/_hooklane
///   hooklane completions fish > ~/.config/fish/completions/hooklane.fish
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
    /// Runs the verb.
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
    /// Runs the verb.
    pub fn run(self, out: &mut Printer) -> anyhow::Result<Exit> {
        match &self.dir {
            Some(dir) => {
                make(dir)?;
                for (file, page) in help::pages(&built())? {
                    std::fs::write(dir.join(file), page)?;
                }
            }
            None => {
                let (_, page) = help::page(&built())?;
                out.bytes(page.as_bytes())?;
            }
        }
        Ok(Exit::Done)
    }
}

/// The tree in which every command knows its full name.
fn built() -> clap::Command {
    let mut tree = tree().disable_help_subcommand(true);
    tree.build();
    tree
}

fn make(dir: &Path) -> Result<(), Trouble> {
    std::fs::create_dir_all(dir).map_err(|error| {
        let message = format!("cannot write to {}: {error}", dir.display());
        Trouble::new(Exit::Usage, "no_directory", message)
    })
}
