//! Reports a panic of the dashboard into a file, because the terminal shows too little of it.

use std::backtrace::Backtrace;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};

use crate::domain::time::Timestamp;
use crate::text::printable_line;
use crate::tui;

/// Writes a report, at the end of `log` or into a file of its own, and returns a few lines that say
/// where it is.
pub fn report(panic: &PanicHookInfo<'_>, log: Option<&Path>) -> String {
    let what = panic.payload_as_str().unwrap_or("a panic without a word");
    let at = panic.location().map(ToString::to_string);
    let at = at.unwrap_or_else(|| "an unknown place".to_owned());
    let own = || {
        let (time, process) = (tui::stamp(Timestamp::now()), std::process::id());
        std::env::temp_dir().join(format!("hooklane-top-{time}-{process}.txt"))
    };
    let path = log.map_or_else(own, Path::to_path_buf);
    let report = match write(&path, what, &at) {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("none: cannot write {}: {error}", path.display()),
    };
    format!(
        "error: the dashboard failed: {}\n  at      {at}\n  report  {report}\n  \
         now     nothing was changed by it; hooklane status says how the lanes are\n",
        printable_line(what)
    )
}

fn write(path: &PathBuf, what: &str, at: &str) -> std::io::Result<()> {
    let mut text = format!("{} ! dashboard  panicked\n", Timestamp::now());
    let thread = std::thread::current();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "hooklane {}, thread {}, at {at}\n{what}\n{}",
        env!("CARGO_PKG_VERSION"),
        thread.name().unwrap_or("without a name"),
        Backtrace::force_capture()
    );
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
