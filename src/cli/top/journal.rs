//! `--log-file`: a log of what happened while the dashboard ran, appended line by line.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::api::{LogLine, Snapshot};
use crate::cli::{Exit, Trouble};
use crate::domain::time::Timestamp;
use crate::text::printable_line;
use crate::tui::app::Message;

/// The log file.
pub struct Journal {
    file: File,
    /// The newest entry of the daemon's log that is written; the outer `None` before the first
    /// snapshot.
    seen: Option<Option<LogLine>>,
    is_lost: bool,
}

impl Journal {
    /// Opens a file; a new one is readable by its owner only.
    ///
    /// # Errors
    /// [`Trouble`] when it cannot be written.
    pub fn open(path: &Path) -> Result<Self, Trouble> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(|error| {
            let message = format!("cannot write {}: {error}", path.display());
            Trouble::new(Exit::Usage, "no_file", message)
        })?;
        Ok(Self {
            file,
            seen: None,
            is_lost: false,
        })
    }

    /// Writes what is new in a message.
    ///
    /// # Errors
    /// Errors of the file.
    pub fn note(&mut self, message: &Message, now: Timestamp) -> std::io::Result<()> {
        match message {
            Message::Snapshot(snapshot) => self.seen(snapshot, now),
            Message::Lost { why, .. } if !std::mem::replace(&mut self.is_lost, true) => {
                self.write(now, '!', "dashboard", &format!("lost the daemon: {why}"))
            }
            Message::Done(Ok(done)) => self.write(now, ' ', "dashboard", done),
            Message::Done(Err(why)) => self.write(now, '~', "dashboard", why),
            _ => Ok(()),
        }
    }

    fn seen(&mut self, snapshot: &Snapshot, now: Timestamp) -> std::io::Result<()> {
        let newest = snapshot.log.first().cloned();
        if std::mem::take(&mut self.is_lost) {
            self.write(now, ' ', "dashboard", "found the daemon again")?;
        }
        let Some(before) = self.seen.replace(newest) else {
            let what = format!("watches {} on {}", snapshot.namespace, snapshot.node);
            return self.write(now, ' ', "dashboard", &what);
        };
        let is_new = |line: &&LogLine| Some(*line) != before.as_ref();
        let new: Vec<_> = snapshot.log.iter().take_while(is_new).collect();
        for line in new.into_iter().rev() {
            self.write(line.at, line.severity.mark(), &line.scope, &line.what)?;
        }
        Ok(())
    }

    fn write(&mut self, at: Timestamp, mark: char, scope: &str, what: &str) -> std::io::Result<()> {
        let (scope, what) = (printable_line(scope), printable_line(what));
        writeln!(self.file, "{at} {mark} {scope}  {what}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_is_named_before_anything_is_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let trouble = Journal::open(dir.path()).err().unwrap();
        assert_eq!(trouble.exit, Exit::Usage);
        assert!(trouble.message.contains(&dir.path().display().to_string()));
    }
}
