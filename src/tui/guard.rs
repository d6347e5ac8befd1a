//! The terminal, taken and given back, whatever happens: a quit, a panic, a signal, or a terminal that is
//! gone without a word.
//!
//! Two threads stand outside of everything else. One waits for signals. The other asks every two seconds
//! whether the terminal is still there, without reading from it: once it is gone, reads return at once and
//! for ever, and under `setsid` or `sudo` no SIGHUP comes.

use std::io::{self, Write as _, stdin, stdout};
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::cursor::{Hide, Show};
use crossterm::execute;
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::signal::unix::{SignalKind, signal};

/// How often it is looked whether the terminal is there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the terminal: raw mode, the other screen, no cursor.
///
/// # Errors
/// Those of the terminal.
pub fn take() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(stdout(), EnterAlternateScreen, Hide)
}

/// Gives the terminal back as it was; does nothing when it was not taken.
pub fn restore() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // There is nobody left to tell that it is gone.
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
        let _ = stdout().flush();
    }
}

/// Gives the terminal back and tells the panic after it, so that it can be read.
pub fn on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        before(panic);
    }));
}

/// Starts the threads that watch.
///
/// # Errors
/// The system has no room for a thread.
pub fn watch() -> io::Result<()> {
    let name = |name: &str| std::thread::Builder::new().name(name.to_owned());
    name("signals").spawn(|| {
        if let Some(number) = signalled() {
            restore();
            exit(128 + number);
        }
    })?;
    name("terminal").spawn(|| {
        loop {
            if is_gone() {
                restore();
                exit(129);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    })?;
    Ok(())
}

/// Waits for a signal that ends the process, and gives its number.
fn signalled() -> Option<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).ok()?;
        let mut hangup = signal(SignalKind::hangup()).ok()?;
        let mut interrupt = signal(SignalKind::interrupt()).ok()?;
        tokio::select! {
            _ = terminate.recv() => Some(15),
            _ = hangup.recv() => Some(1),
            _ = interrupt.recv() => Some(2),
        }
    })
}

/// Whether the terminal of stdin is gone. Nothing is asked for, so no key is taken.
fn is_gone() -> bool {
    let stdin = stdin();
    let mut asked = [PollFd::new(&stdin, PollFlags::empty())];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match poll(&mut asked, Some(&at_once)) {
        Ok(_) => {
            let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
            asked[0].revents().intersects(gone)
        }
        Err(_) => false,
    }
}
