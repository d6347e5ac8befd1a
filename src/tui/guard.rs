//! Takes the terminal and restores it in every case: on quit, panic or signal, or when the terminal
//! disappears.
//!
//! Two threads run beside everything else. One waits for signals. The other checks every two seconds
//! whether the terminal still exists, without reading from it: once it is gone, reads return at once
//! and endlessly, and under `setsid` or `sudo` there is no SIGHUP.

use std::io::{self, Write as _, stderr, stdin, stdout};
use std::panic::PanicHookInfo;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use crossterm::cursor::{Hide, Show};
use crossterm::execute;
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use parking_lot::{Mutex, MutexGuard};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::signal::unix::{SignalKind, signal};

/// Interval of the check for the terminal.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Time for which restoring waits for a drawing to end.
const DRAWN_WITHIN: Duration = Duration::from_millis(250);

static TAKEN: AtomicBool = AtomicBool::new(false);
static SIGNALS: AtomicBool = AtomicBool::new(false);

/// Held while drawing, so that nothing is drawn on a restored terminal.
static SCREEN: Mutex<()> = Mutex::new(());

/// Work to do before the process ends abruptly.
type Last = Box<dyn FnOnce() + Send>;

static LAST: Mutex<Option<Last>> = Mutex::new(None);

/// Takes the terminal: raw mode, alternate screen, no cursor.
///
/// # Errors
/// Errors of the terminal.
pub fn take() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(stdout(), EnterAlternateScreen, Hide)
}

/// Lock to hold while drawing.
pub fn drawing() -> MutexGuard<'static, ()> {
    SCREEN.lock()
}

/// Restores the terminal; does nothing if it was not taken.
pub fn restore() {
    // A panic may happen while drawing, and a terminal may block.
    let _screen = SCREEN.try_lock_for(DRAWN_WITHIN);
    give_back();
}

fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // If the terminal is gone, errors cannot be shown.
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
        let _ = stdout().flush();
    }
}

/// On a panic, restores the terminal and prints the text that `tell` returns. The process then ends
/// whichever thread panicked, because a dashboard without one of its threads would look alive.
pub fn on_panic(tell: impl Fn(&PanicHookInfo<'_>) -> String + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        // If stderr is closed, the panic cannot be reported.
        let _ = stderr().write_all(tell(panic).as_bytes());
        leave(1);
    }));
}

/// Sets the work that [`leave`] does before the process ends.
pub fn at_last(work: impl FnOnce() + Send + 'static) {
    *LAST.lock() = Some(Box::new(work));
}

/// Restores the terminal, does the last work, and ends the process.
pub fn leave(code: i32) -> ! {
    // Never released, so that nothing is drawn any more.
    let _screen = SCREEN.try_lock_for(DRAWN_WITHIN);
    give_back();
    // Held until the end, so that a second caller does not interrupt the work.
    let mut last = LAST.lock();
    if let Some(work) = last.take() {
        work();
    }
    exit(code)
}

/// Starts the two threads.
///
/// # Errors
/// The system cannot create a thread.
pub fn watch() -> io::Result<()> {
    watch_signals()?;
    thread("terminal").spawn(|| {
        loop {
            if is_gone() {
                leave(129);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    })?;
    Ok(())
}

/// Starts the thread that waits for signals, unless it runs.
///
/// # Errors
/// The system cannot create a thread.
pub fn watch_signals() -> io::Result<()> {
    if SIGNALS.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let (ready, listens) = std::sync::mpsc::channel();
    thread("signals").spawn(move || {
        if let Some(number) = signalled(&ready) {
            leave(128 + number);
        }
    })?;
    // Until the thread listens, a signal would end the process without restoring anything.
    let _ = listens.recv();
    Ok(())
}

fn thread(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.to_owned())
}

/// Waits for a signal that ends the process; returns its number.
fn signalled(ready: &Sender<()>) -> Option<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).ok()?;
        let mut hangup = signal(SignalKind::hangup()).ok()?;
        let mut interrupt = signal(SignalKind::interrupt()).ok()?;
        ready.send(()).ok()?;
        tokio::select! {
            _ = terminate.recv() => Some(15),
            _ = hangup.recv() => Some(1),
            _ = interrupt.recv() => Some(2),
        }
    })
}

/// True if the terminal of stdin is gone. Reads nothing, so no key is lost.
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
