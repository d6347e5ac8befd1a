//! The daemon's log: daily files in the data directory, and stderr, as short lines on a terminal and
//! JSON otherwise. It never contains a body or a secret.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{DataDir, Log};

/// Number of daily files kept.
const FILES_MAX: usize = 14;

/// The time of day in UTC, such as `02:41:07`.
struct TimeOfDay;

impl FormatTime for TimeOfDay {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{}", jiff::Timestamp::now().strftime("%H:%M:%S"))
    }
}

/// Starts the log. Pending lines are written when the guards are dropped.
///
/// # Errors
/// The log directory cannot be written.
pub fn begin(data: &DataDir, log: Log, level: &Targets) -> anyhow::Result<[WorkerGuard; 2]> {
    // The appender looks for old files before it creates the directory, and complains otherwise.
    let dir = data.log();
    std::fs::create_dir_all(&dir)
        .with_context(|| format!("cannot make the directory {}", dir.display()))?;
    let files = tracing_appender::rolling::Builder::new()
        .rotation(tracing_appender::rolling::Rotation::DAILY)
        .filename_prefix("hooklane")
        .filename_suffix("log")
        .max_log_files(FILES_MAX)
        .build(&dir)
        .with_context(|| format!("cannot write logs in {}", dir.display()))?;
    let (file, file_guard) = tracing_appender::non_blocking(files);
    let (screen, screen_guard) = tracing_appender::non_blocking(std::io::stderr());
    let to_file = fmt::layer().json().with_writer(file).with_ansi(false);
    let short = |screen| {
        fmt::layer()
            .compact()
            .with_target(false)
            .with_ansi(false)
            .with_timer(TimeOfDay)
            .with_writer(screen)
            .boxed()
    };
    let to_screen = match log {
        Log::Files => None,
        Log::Short => Some(short(screen)),
        Log::Auto if std::io::stderr().is_terminal() => Some(short(screen)),
        Log::Auto | Log::Json => Some(fmt::layer().json().with_writer(screen).boxed()),
    };
    tracing_subscriber::registry()
        .with(level.clone())
        .with(to_file)
        .with(to_screen)
        .try_init()?;
    Ok([file_guard, screen_guard])
}
