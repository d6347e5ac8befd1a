//! Timeouts of a connection, by the part of a request that is awaited.
//!
//! ```text
//!   first byte ──▶ head ──▶ body, answer ──▶ next request ──▶ head ──▶ …
//! ```
//! The clock of each wait starts when a read first finds no data. So a request that arrives in one piece
//! needs no clock, and each connection has one timer, which is armed again only after it has fired. Each
//! byte of a body extends its time, up to a limit. Nothing is read while an answer is made (hyper does
//! not check for the end of a connection that may be half closed), so no timeout applies then.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use parking_lot::Mutex;

use super::framing::{Framing, Refusal};
use super::limits::Limits;
use super::listener::Stream;
use crate::http::error::Error;
use crate::metrics::{Awaited, Metrics};

/// State of a connection's requests, shared with its stream.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// Odd while a request is being answered.
    turns: AtomicU64,
    stopping: AtomicBool,
    is_refused: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
}

impl Course {
    /// Notes that a request has arrived, or that its answer has been sent completely.
    pub(super) fn turn(&self) {
        self.turns.fetch_add(1, Relaxed);
    }

    /// Closes the connection as soon as it is idle, because the daemon is stopping.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    fn refuse(&self, refusal: Refusal) {
        *self.refusal.lock() = Some(refusal);
        self.is_refused.store(true, Relaxed);
    }

    /// The refusal of the request that has just arrived, if its head was refused. Call it before
    /// [`Course::turn`], in the task that also reads.
    pub(super) fn refused(&self) -> Option<Error> {
        if !self.is_refused.load(Relaxed) {
            return None;
        }
        let number = self.turns.load(Relaxed) / 2;
        let mut refusal = self.refusal.lock();
        let refusal = refusal.take_if(|(refused, _)| *refused == number);
        refusal.map(|(_, error)| error)
    }
}

/// A stream that fails with `TimedOut` when the client takes too long.
#[derive(Debug)]
pub(super) struct Patient {
    stream: Stream,
    course: Arc<Course>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    timer: Pin<Box<Sleep>>,
    reading: Reading,
    framing: Framing,
    /// Time since when the client has not read its answer.
    stalled: Option<Instant>,
    closing: Closing,
}

/// Progress of reading one request, or of waiting for it.
#[derive(Debug, Default)]
struct Reading {
    /// The value of [`Course::turns`] that it belongs to.
    turn: u64,
    /// True once a head has begun.
    is_begun: bool,
    /// Start of the present wait.
    since: Option<Instant>,
    /// Body bytes received so far.
    received: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Closing {
    NotYet,
    /// The client has closed its side, or was cut off, so lingering is pointless.
    Abrupt,
    /// Our side is closed; the client may still be sending.
    Lingering(Instant),
}

impl Patient {
    pub(super) fn new(
        stream: Stream,
        course: Arc<Course>,
        limits: Arc<Limits>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let timer = Box::pin(tokio::time::sleep(limits.first_byte));
        Self {
            stream,
            course,
            limits,
            metrics,
            timer,
            reading: Reading::default(),
            framing: Framing::default(),
            stalled: None,
            closing: Closing::NotYet,
        }
    }

    /// Reads what has arrived, and fails when the wait has taken too long.
    fn poll_stream(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let awaited = self.awaited();
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                self.got(awaited, buf.filled().len() - before);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                self.closing = Closing::Abrupt;
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                let since = *self.reading.since.get_or_insert_with(Instant::now);
                self.poll_give_up(cx, awaited, since).map(Err)
            }
        }
    }

    /// The part of a request for which the present read waits.
    fn awaited(&mut self) -> Awaited {
        let turn = self.course.turns.load(Relaxed);
        if self.reading.turn != turn {
            self.reading = Reading {
                turn,
                ..Reading::default()
            };
        }
        match turn {
            _ if turn % 2 == 1 => Awaited::Body,
            _ if self.reading.is_begun || self.framing.is_mid_head() => Awaited::Head,
            0 => Awaited::FirstByte,
            _ => Awaited::Request,
        }
    }

    fn got(&mut self, awaited: Awaited, bytes: usize) {
        match awaited {
            _ if bytes == 0 => self.closing = Closing::Abrupt,
            Awaited::Body => self.reading.received += bytes as u64,
            Awaited::FirstByte | Awaited::Request => {
                self.reading.is_begun = true;
                self.reading.since = None;
            }
            Awaited::Head | Awaited::Reader | Awaited::Handshake => {}
        }
    }

    fn patience(&self, awaited: Awaited) -> Duration {
        match awaited {
            Awaited::Handshake => self.limits.handshake,
            Awaited::FirstByte => self.limits.first_byte,
            Awaited::Head => self.limits.head,
            Awaited::Request => self.limits.idle,
            Awaited::Reader => self.limits.reader,
            Awaited::Body => self.limits.body_patience(self.reading.received),
        }
    }

    /// Keeps waiting, or fails if the wait for `awaited` since `since` has taken too long.
    fn poll_give_up(
        &mut self,
        cx: &mut Context<'_>,
        awaited: Awaited,
        since: Instant,
    ) -> Poll<io::Error> {
        let deadline = since + self.patience(awaited);
        ready!(self.poll_deadline(cx, deadline));
        self.metrics.timed_out(awaited);
        self.closing = Closing::Abrupt;
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Ready from `deadline` on. The timer may be set to an earlier time, never a later one.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.timer.deadline() > deadline {
            self.timer.as_mut().reset(deadline);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let since = *self.stalled.get_or_insert_with(Instant::now);
        self.poll_give_up(cx, Awaited::Reader, since).map(Err)
    }

    /// True if the client's close should be awaited. Bytes that arrive after our close make the system
    /// reset the connection, and a client that is still sending would lose its answer.
    fn is_considerate(&mut self) -> bool {
        let is_idle = matches!(self.awaited(), Awaited::FirstByte | Awaited::Request);
        !(is_idle && self.course.stopping.load(Relaxed))
    }

    /// Discards what still arrives, until the client closes its side or the time is up.
    fn poll_linger(&mut self, cx: &mut Context<'_>, since: Instant) -> Poll<()> {
        let deadline = since + self.limits.linger;
        let mut waste = [0; 4096];
        while Instant::now() < deadline {
            let mut waste = ReadBuf::new(&mut waste);
            match Pin::new(&mut self.stream).poll_read(cx, &mut waste) {
                Poll::Ready(Ok(())) if !waste.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.poll_deadline(cx, deadline),
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.framing.is_ready() {
                this.framing.read(buf);
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(this.poll_stream(cx, buf))?;
            let new = &buf.filled()[before..];
            if new.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let (at_once, refusal) = this.framing.arrived(new, &this.limits);
            buf.set_filled(before + at_once);
            if let Some(refusal) = refusal {
                this.course.refuse(refusal);
            }
            if at_once > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.written(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !matches!(this.closing, Closing::Lingering(_)) {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if this.closing == Closing::Abrupt || !this.is_considerate() {
                return Poll::Ready(Ok(()));
            }
            this.closing = Closing::Lingering(Instant::now());
        }
        match this.closing {
            Closing::Lingering(since) => this.poll_linger(cx, since).map(Ok),
            _ => Poll::Ready(Ok(())),
        }
    }
}
