//! The terminal, taken and given back, whatever happens: a quit, a panic, a signal, or a terminal that is
//! gone without a word.
//!
//! Two threads stand outside of everything else. One waits for signals. The other asks every two seconds
//! whether the terminal is still there, without reading from it: once it is gone, reads return at once and
//! for ever, and under `setsid` or `sudo` no SIGHUP comes.

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

/// How often it is looked whether the terminal is there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long whoever gives the terminal back waits for a picture that is being drawn.
const DRAWN_WITHIN: Duration = Duration::from_millis(250);

static TAKEN: AtomicBool = AtomicBool::new(false);
static SIGNALS: AtomicBool = AtomicBool::new(false);

/// Held while something is drawn, so that nothing is drawn on a terminal that was just given back.
static SCREEN: Mutex<()> = Mutex::new(());

/// What is to be done before the process ends at once.
type Last = Box<dyn FnOnce() + Send>;

static LAST: Mutex<Option<Last>> = Mutex::new(None);

/// Takes the terminal: raw mode, the other screen, no cursor.
///
/// # Errors
/// Those of the terminal.
pub fn take() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(stdout(), EnterAlternateScreen, Hide)
}

/// To be held while something is drawn.
pub fn drawing() -> MutexGuard<'static, ()> {
    SCREEN.lock()
}

/// Gives the terminal back as it was; does nothing when it was not taken.
pub fn restore() {
    // A panic may come from within a picture, and a terminal may not take any more of it.
    let _screen = SCREEN.try_lock_for(DRAWN_WITHIN);
    give_back();
}

fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // There is nobody left to tell that it is gone.
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
        let _ = stdout().flush();
    }
}

/// Gives the terminal back and tells the panic after it, so that it can be read, in the words of `tell`. It ends
/// the process whichever thread it was: a dashboard without one of its threads would look alive.
pub fn on_panic(tell: impl Fn(&PanicHookInfo<'_>) -> String + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        // There is nowhere left to say that stderr is closed.
        let _ = stderr().write_all(tell(panic).as_bytes());
        leave(1);
    }));
}

/// Has something done whenever [`leave`] ends the process.
pub fn at_last(work: impl FnOnce() + Send + 'static) {
    *LAST.lock() = Some(Box::new(work));
}

/// Gives the terminal back, does what is to be done at last, and ends the process.
pub fn leave(code: i32) -> ! {
    // Never given back: nothing is drawn any more.
    let _screen = SCREEN.try_lock_for(DRAWN_WITHIN);
    give_back();
    // Held until the end: a second one who leaves does not cut the work short.
    let mut last = LAST.lock();
    if let Some(work) = last.take() {
        work();
    }
    exit(code)
}

/// Starts the threads that watch.
///
/// # Errors
/// The system has no room for a thread.
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

/// Starts the one that waits for signals, unless it runs.
///
/// # Errors
/// The system has no room for a thread.
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
    // Until it listens, a signal ends the process and nothing is given back.
    let _ = listens.recv();
    Ok(())
}

fn thread(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.to_owned())
}

/// Waits for a signal that ends the process, and gives its number.
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
