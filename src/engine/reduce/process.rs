//! Processes that fold with scripts, so that any script can be killed.
//!
//! A native call inside the JavaScript engine cannot be interrupted, so scripts never run in the node
//! itself. A process is the same program again and gets tasks through a socket. It watches itself: a
//! second thread detects an event that has used up its processor time, reports it, and ends the
//! process. A process that dies otherwise, or is silent for too long, is replaced, and its request is
//! repeated event by event.
//!
//! ```text
//! node: Process::send ──▶ tasks ──▶ thread that folds ──▶ outcomes ──▶ Process::receive
//!                                     │ marks each event
//!                                   watch ── long ────▶ "event 3 is long": the node may give it up
//!                                         ── overdue ─▶ "event 3 is overdue": lanes give it up
//!                                         ── no end ──▶ "stuck at event 3", and the process ends
//! ```
//! A process ends with the thread that owns it: the socket closes, and the kernel kills a process that does
//! not notice.

use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::budget::Slices;
use super::script::{self, Scripts};
use super::task::fold_task;
use super::wire::{Reader, Writer};
use super::{Failure, Outcome, Task};
use crate::domain::cursor::Chain;
use crate::domain::filter::Filter;
use crate::domain::hook::{HandlerId, OnError, Reducer, Source};

/// Command-line argument that makes the program such a process.
pub const ARGUMENT: &str = "__fold";

/// Processor time after which an event is given up. The engine itself ends what it can after a fifth of
/// that.
pub(super) const EVENT_MAX: Duration = Duration::from_millis(250);

/// Processor time for checking a script, which may be long.
const CHECK_MAX: Duration = Duration::from_secs(1);

/// Time without a message after which a process counts as dead; while it folds it sends one every
/// second.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// Interval of the watch thread.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Processor time after which an event counts as long: the node is told of it while it still folds.
const LONG: Duration = Duration::from_millis(10);

/// Processor time after which an event is overdue. A script is interrupted before, so this one is in a
/// native call.
pub(super) const OVERDUE: Duration = Duration::from_millis(60);

/// Number of bytes after which outcomes are sent.
const SEND_AT: usize = 64 * 1024;

/// Stack size of the folding thread: the limit of scripts plus room for the engine itself.
const STACK: usize = 4 * 1024 * 1024;

/// Address space of a process. Scripts have limits of their own; this one catches what they miss.
const MEMORY_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Niceness of a process with low priority.
const NICE: i32 = 10;

/// Number of scripts that a process keeps; with one more it drops all of them.
const SOURCES_MAX: usize = 4096;

const FOLD: u8 = 0;
const CHECK: u8 = 1;

const DONE: u8 = 0;
const FOLDED: u8 = 1;
const STUCK: u8 = 2;
const ALIVE: u8 = 3;
const CHECKED: u8 = 4;
const LONG_EVENT: u8 = 5;
const OVERDUE_EVENT: u8 = 6;

/// A folding process, seen from the node. It is killed when this is dropped.
pub(super) struct Process {
    child: Child,
    socket: BufReader<UnixStream>,
    /// Scripts that the process has, with their numbers there. Keeping them here ensures that no
    /// address is used twice.
    sources: HashMap<usize, (usize, Arc<Source>)>,
}

/// Consecutive events of one task that are sent together.
pub(super) struct Piece<'t> {
    pub(super) task: &'t Task,
    pub(super) source: &'t Arc<Source>,
    /// State before the first of them.
    pub(super) state: Option<String>,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// Reason why a process did not complete a request. The process is gone.
pub(super) enum End {
    /// This event of the first piece without an outcome does not end.
    Stuck(usize),
    /// It died; the system's description.
    Died(String),
    /// The node gave up an event of the first piece without an outcome.
    GivenUp(Overtime),
}

/// Time beyond the usual that an event takes, and that a node decides about while it still folds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Overtime {
    /// More than [`LONG`].
    Long,
    /// More than [`OVERDUE`].
    Overdue,
}

impl Overtime {
    fn of(took: Duration) -> Option<Self> {
        match took {
            _ if took >= OVERDUE => Some(Self::Overdue),
            _ if took >= LONG => Some(Self::Long),
            _ => None,
        }
    }

    const fn told_by(frame: u8) -> Option<Self> {
        match frame {
            LONG_EVENT => Some(Self::Long),
            OVERDUE_EVENT | STUCK => Some(Self::Overdue),
            _ => None,
        }
    }

    const fn frame(self) -> u8 {
        match self {
            Self::Long => LONG_EVENT,
            Self::Overdue => OVERDUE_EVENT,
        }
    }
}

impl Process {
    /// Starts a process.
    ///
    /// # Errors
    /// The system cannot create it.
    pub(super) fn start(is_nice: bool) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(SILENCE_MAX))?;
        ours.set_write_timeout(Some(SILENCE_MAX))?;
        let child = command()
            .env_clear()
            .env("TZ", "UTC")
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            // Ctrl-C is for the node, which lets running turns end.
            .process_group(0)
            .spawn()?;
        if is_nice {
            let pid = i32::try_from(child.id()).ok();
            let pid = pid.and_then(rustix::process::Pid::from_raw);
            // If lowering the priority is forbidden, the process keeps the node's priority.
            let _ = pid.map(|pid| rustix::process::setpriority_process(Some(pid), NICE));
        }
        Ok(Self {
            child,
            socket: BufReader::new(ours),
            sources: HashMap::new(),
        })
    }

    /// Sends pieces to fold within a time. [`Process::receive`] returns the outcomes.
    pub(super) fn send(
        &mut self,
        pieces: &[Piece<'_>],
        slices: Slices,
        time: Duration,
    ) -> io::Result<()> {
        let forgets = self.sources.len() + pieces.len() > SOURCES_MAX;
        if forgets {
            self.sources.clear();
        }
        let mut frame = Writer::new();
        frame.u8(FOLD);
        frame.u8(u8::from(forgets));
        frame.u8(u8::from(slices == Slices::Short));
        frame.duration(time);
        frame.u32(pieces.len());
        for piece in pieces {
            let next = self.sources.len();
            let key = Arc::as_ptr(piece.source) as usize;
            let known = self.sources.entry(key);
            let known = known.or_insert_with(|| (next, Arc::clone(piece.source)));
            frame.u32(known.0);
            if known.0 == next {
                frame.source(piece.source);
            }
            frame.u8(u8::from(piece.task.on_error == OnError::Skip));
            frame.optional(piece.state.as_deref());
            frame.u32(piece.to - piece.from);
            for event in &piece.task.events[piece.from..piece.to] {
                frame.event(event);
            }
        }
        frame.send(self.socket.get_mut())
    }

    /// Waits for the outcomes of the pieces sent last, in order: all of them, or the first ones with
    /// the reason why there are no more. `goes_on` decides, from the place of a piece, if an event of it that
    /// takes long may go on.
    pub(super) fn receive(
        mut self,
        mut goes_on: impl FnMut(usize, Overtime) -> bool,
    ) -> (Vec<Outcome>, Result<Self, End>) {
        let mut outcomes = Vec::new();
        let end = loop {
            let answer = Reader::receive(&mut self.socket).and_then(|frame| {
                let Some(mut frame) = frame else {
                    return Ok(None);
                };
                Ok(Some(match frame.u8()? {
                    FOLDED => {
                        outcomes.push(frame.outcome()?);
                        None
                    }
                    DONE => Some(Ok(())),
                    kind => match Overtime::told_by(kind) {
                        Some(over) if !goes_on(outcomes.len(), over) => {
                            Some(Err(End::GivenUp(over)))
                        }
                        Some(_) if kind == STUCK => Some(Err(End::Stuck(frame.u32()?))),
                        _ => None,
                    },
                }))
            });
            match answer {
                Ok(Some(None)) => {}
                Ok(Some(Some(end))) => break end,
                Ok(None) => break Err(End::Died(self.death())),
                Err(error) => break Err(End::Died(self.told(&error))),
            }
        };
        (outcomes, end.map(|()| self))
    }

    /// Compiles a script and checks that it is a reducer.
    fn check(&mut self, source: &Source) -> io::Result<Option<Result<(), String>>> {
        let mut frame = Writer::new();
        frame.u8(CHECK);
        frame.source(source);
        frame.send(self.socket.get_mut())?;
        while let Some(mut frame) = Reader::receive(&mut self.socket)? {
            match frame.u8()? {
                CHECKED => {
                    let fault = frame.optional()?;
                    return Ok(Some(fault.map_or(Ok(()), Err)));
                }
                STUCK => break,
                _ => {}
            }
        }
        Ok(None)
    }

    /// The system's description of how it died, once it sends nothing more.
    fn death(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    fn told(&mut self, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("no answer for {} s", SILENCE_MAX.as_secs())
            }
            _ => error.to_string(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killing fails if it is already gone; waiting is needed either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Compiles a script and finds its default export. Blocks for at most a second.
///
/// # Errors
/// Error of the script, with its line.
pub fn check(source: &Source) -> Result<(), String> {
    script::check_len(source)?;
    let mut process = Process::start(false)
        .map_err(|error| format!("no process to compile {} in: {error}", source.file))?;
    match process.check(source) {
        Ok(Some(answer)) => answer,
        Ok(None) => Err(format!("{} does not even begin", source.file)),
        Err(error) => Err(format!("{} could not be compiled: {error}", source.file)),
    }
}

/// This program as it was started; on disk it may have been replaced by a newer one.
#[cfg(not(test))]
fn command() -> Command {
    let program = match cfg!(target_os = "linux") {
        true => "/proc/self/exe".into(),
        false => std::env::current_exe().unwrap_or_default(),
    };
    let mut command = Command::new(program);
    command.arg0("hooklane").arg(ARGUMENT);
    command
}

/// In tests: the test program, told to run the one test that acts as such a process.
#[cfg(test)]
fn command() -> Command {
    let mut command = Command::new("/proc/self/exe");
    let this = "engine::reduce::process::tests::is_a_process_that_folds";
    command.args([this, "--exact", "--ignored", "--nocapture"]);
    command
}

// ---- The process itself

/// State shared by the folding thread and the watch thread.
#[derive(Default)]
struct Shared {
    /// Number of events begun so far; zero while idle.
    mark: AtomicU64,
    /// Index of the current event in its piece.
    event: AtomicU64,
    /// Time limit of the current event, in milliseconds.
    limit: AtomicU64,
    /// True while the watch sleeps until a request arrives.
    watch_sleeps: AtomicBool,
    outbox: Mutex<Outbox>,
}

impl Shared {
    fn limit_to(&self, limit: Duration) {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.limit.store(limit, Ordering::Relaxed);
    }
}

/// Frames on their way to the node.
#[derive(Default)]
struct Outbox {
    frames: Vec<u8>,
    socket: Option<UnixStream>,
    sent: Option<Instant>,
}

impl Outbox {
    fn put(&mut self, frame: Writer) -> io::Result<()> {
        frame.send(&mut self.frames)?;
        match self.frames.len() >= SEND_AT {
            true => self.send(),
            false => Ok(()),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        self.sent = Some(Instant::now());
        let frames = std::mem::take(&mut self.frames);
        self.socket
            .as_mut()
            .map_or(Ok(()), |to| to.write_all(&frames))
    }
}

/// Marks the events of a process as they begin, for its watch.
struct Marker<'s> {
    shared: &'s Shared,
    begun: u64,
}

impl Marker<'_> {
    /// Records that an event of the piece begins.
    fn begin(&mut self, event: usize) {
        self.begun += 1;
        self.shared.limit_to(EVENT_MAX);
        self.shared.event.store(event as u64, Ordering::Relaxed);
        self.shared.mark.store(self.begun, Ordering::Release);
    }
}

/// Folds what a node requests on standard input, until the node is gone.
pub fn serve() {
    confine();
    let input = io::stdin().as_fd().try_clone_to_owned();
    let Ok(input) = input.map(UnixStream::from) else {
        return;
    };
    let Ok(output) = input.try_clone() else {
        return;
    };
    let shared = Arc::new(Shared::default());
    shared.outbox.lock().socket = Some(output);
    let fold = {
        let shared = Arc::clone(&shared);
        let watch = thread::current();
        move || {
            let mut folds = Served {
                shared: &shared,
                watch,
                input: BufReader::new(input),
                scripts: Scripts::default(),
                sources: Vec::new(),
                begun: 0,
            };
            // The node is gone, or its request is malformed; no one could read an error.
            let _ = folds.run();
            std::process::exit(0);
        }
    };
    let folding = thread::Builder::new()
        .name("fold".to_owned())
        .stack_size(STACK)
        .spawn(fold);
    if folding.is_ok() {
        watch(&shared);
    }
}

/// Removes rights and resources that a fold does not need.
fn confine() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    for (resource, max) in [
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, 16),
        (Resource::As, MEMORY_MAX),
    ] {
        let limit = Rlimit {
            current: Some(max),
            maximum: Some(max),
        };
        let _ = setrlimit(resource, limit);
    }
}

/// Ends the process when an event has used up its time; otherwise reports long events, and progress every
/// second.
fn watch(shared: &Shared) {
    let used = || {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        Duration::try_from(used).unwrap_or_default()
    };
    let (mut seen, mut since, mut told) = (0, used(), None);
    loop {
        let mark = shared.mark.load(Ordering::Acquire);
        if mark == 0 {
            shared.watch_sleeps.store(true, Ordering::SeqCst);
            if shared.mark.load(Ordering::SeqCst) == 0 {
                thread::park();
            }
            shared.watch_sleeps.store(false, Ordering::SeqCst);
            (seen, since, told) = (0, used(), None);
            continue;
        }
        if mark != seen {
            (seen, since, told) = (mark, used(), None);
        }
        let took = used().saturating_sub(since);
        let limit = Duration::from_millis(shared.limit.load(Ordering::Relaxed));
        if took >= limit {
            let mut outbox = shared.outbox.lock();
            if shared.mark.load(Ordering::Acquire) == mark {
                let mut frame = Writer::new();
                frame.u8(STUCK);
                frame.u32(usize::try_from(shared.event.load(Ordering::Relaxed)).unwrap_or(0));
                let _ = outbox.put(frame).and_then(|()| outbox.send());
                std::process::exit(1);
            }
        }
        let mut outbox = shared.outbox.lock();
        let over = Overtime::of(took).filter(|over| Some(*over) > told);
        if let Some(over) = over
            && shared.mark.load(Ordering::Acquire) == mark
        {
            told = Some(over);
            let mut frame = Writer::new();
            frame.u8(over.frame());
            let _ = outbox.put(frame).and_then(|()| outbox.send());
        }
        if outbox.sent.is_some_and(|at| at.elapsed() >= ALIVE_EVERY) {
            let mut frame = Writer::new();
            frame.u8(ALIVE);
            let _ = outbox.put(frame).and_then(|()| outbox.send());
        }
        drop(outbox);
        thread::sleep(LOOK_EVERY);
    }
}

/// The folding thread of a process.
struct Served<'s> {
    shared: &'s Shared,
    watch: thread::Thread,
    input: BufReader<UnixStream>,
    scripts: Scripts,
    sources: Vec<Arc<Source>>,
    begun: u64,
}

impl Served<'_> {
    fn run(&mut self) -> io::Result<()> {
        while let Some(frame) = Reader::receive(&mut self.input)? {
            let last = self.answer(frame);
            // Reset before the last frame, after which the node may send the next request, so that the
            // watch does not end the process in between.
            self.shared.mark.store(0, Ordering::SeqCst);
            let mut outbox = self.shared.outbox.lock();
            outbox.put(last?)?;
            outbox.send()?;
        }
        Ok(())
    }

    /// Answers a frame; returns the last frame of the answer.
    fn answer(&mut self, mut frame: Reader) -> io::Result<Writer> {
        let mut last = Writer::new();
        match frame.u8()? {
            CHECK => {
                let source = Arc::new(frame.source()?);
                self.begin_watch();
                let fault = script::inspect(&source).err();
                last.u8(CHECKED);
                last.optional(fault.as_deref());
            }
            _ => {
                self.fold(frame)?;
                last.u8(DONE);
            }
        }
        Ok(last)
    }

    fn fold(&mut self, mut frame: Reader) -> io::Result<()> {
        if frame.u8()? != 0 {
            (self.sources, self.scripts) = Default::default();
        }
        let slices = match frame.u8()? {
            0 => Slices::None,
            _ => Slices::Short,
        };
        let until = Instant::now().checked_add(frame.duration()?);
        for at in 0..frame.u32()? {
            let task = self.task(&mut frame)?;
            self.begin_watch();
            let mut marker = Marker {
                shared: self.shared,
                begun: self.begun,
            };
            self.begun += task.events.len() as u64;
            let until = slices.end(until);
            let outcome = fold_task(&task, &mut self.scripts, until, at == 0, |event| {
                marker.begin(event);
            });
            let mut answer = Writer::new();
            answer.u8(FOLDED);
            answer.outcome(&outcome);
            self.shared.outbox.lock().put(answer)?;
        }
        Ok(())
    }

    fn task(&mut self, frame: &mut Reader) -> io::Result<Task> {
        let number = frame.u32()?;
        if number == self.sources.len() {
            self.sources.push(Arc::new(frame.source()?));
        }
        let source = self.sources.get(number).cloned();
        let source = source.ok_or(io::ErrorKind::InvalidData)?;
        let on_error = frame.on_error()?;
        let state = frame.optional()?;
        let events = frame.u32()?;
        let events: io::Result<_> = (0..events).map(|_| frame.event()).collect();
        Ok(Task {
            handler: HandlerId(0),
            reducer: Reducer::Script(source),
            state,
            chain: Chain::default(),
            on_error,
            only: Filter::default(),
            events: events?,
        })
    }

    /// Starts the watch. Until the first event begins there is more time, because a script may be long.
    fn begin_watch(&mut self) {
        self.begun += 1;
        self.shared.limit_to(CHECK_MAX);
        self.shared.event.store(0, Ordering::Relaxed);
        self.shared.mark.store(self.begun, Ordering::SeqCst);
        if self.shared.watch_sleeps.swap(false, Ordering::SeqCst) {
            self.shared.outbox.lock().sent = Some(Instant::now());
            self.watch.unpark();
        }
    }
}

impl Failure {
    /// The failure of an event whose process was killed.
    pub(super) fn stuck(reducer: &Reducer) -> Self {
        let limit = EVENT_MAX.as_millis();
        Self::Stuck(format!(
            "{reducer}: a call inside the engine did not come back in {limit} ms; its process was ended"
        ))
    }

    /// The failure of an event with which processes die.
    pub(super) fn died(reducer: &Reducer, why: &str) -> Self {
        Self::Stuck(format!("{reducer}: the process that folds it ends ({why})"))
    }
}

#[cfg(test)]
mod tests {
    /// Not a test: what the processes of the tests run.
    #[test]
    #[ignore = "the processes of other tests run it"]
    fn is_a_process_that_folds() {
        super::serve();
    }
}
