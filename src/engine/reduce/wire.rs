//! Protocol between a node and its fold processes: frames of a length and a body, little-endian.
//!
//! Both ends are the same build of the same program, so there is no version. A frame that makes no sense is an
//! error of the connection, whichever end reads it.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Failure, Outcome};
use crate::domain::cursor::DeadLetter;
use crate::domain::event::{Event, EventId, StreamId};
use crate::domain::hook::{OnError, Source};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;
use crate::domain::version::Late;

/// The longest frame that is read: the largest state, event and script fit many times.
const FRAME_MAX: usize = 256 * 1024 * 1024;

/// The bytes of a frame while they are written.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new() -> Self {
        Self(vec![0; 4])
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u32(&mut self, value: usize) {
        let value = u32::try_from(value).unwrap_or(u32::MAX);
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn duration(&mut self, value: Duration) {
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.0.extend(nanos.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.u32(value.len());
        self.0.extend(value);
    }

    pub(super) fn optional(&mut self, value: Option<&str>) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            self.bytes(value.as_bytes());
        }
    }

    pub(super) fn source(&mut self, source: &Source) {
        self.bytes(source.file.as_bytes());
        self.bytes(source.text.as_bytes());
    }

    pub(super) fn event(&mut self, event: &Event) {
        self.0.extend(event.id.as_bytes());
        self.i64(event.seq.0);
        self.i64(event.received_at.as_millis());
        self.bytes(event.headers.as_bytes());
        self.bytes(&event.body);
        self.u8(u8::from(event.is_marked_late()));
    }

    pub(super) fn outcome(&mut self, outcome: &Outcome) {
        self.u32(outcome.passed);
        self.u32(outcome.skipped.len());
        for letter in &outcome.skipped {
            self.i64(letter.seq.0);
            self.bytes(letter.reason.as_bytes());
        }
        self.optional(outcome.state.as_deref());
        let kind = match &outcome.failure {
            None => 0,
            Some(Failure::Rejected(_)) => 1,
            Some(Failure::OutOfTime(_)) => 2,
            Some(Failure::OutOfMemory(_)) => 3,
            Some(Failure::Stuck(_)) => 4,
            // No process is given what is damaged.
            Some(Failure::Damaged) => 5,
        };
        self.u8(kind);
        if let Some(failure) = &outcome.failure {
            self.bytes(failure.to_string().as_bytes());
        }
        self.duration(outcome.took);
        self.duration(outcome.over);
    }

    /// Sends the frame.
    pub(super) fn send(mut self, to: &mut impl Write) -> io::Result<()> {
        let len = u32::try_from(self.0.len() - 4).map_err(|_| broken())?;
        self.0[..4].copy_from_slice(&len.to_le_bytes());
        to.write_all(&self.0)
    }
}

/// The bytes of a frame while they are read.
pub(super) struct Reader {
    frame: Bytes,
}

impl Reader {
    /// Receives a frame; `None` if the other end has closed.
    pub(super) fn receive(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut len = [0; 4];
        match from.read_exact(&mut len) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let len = u32::from_le_bytes(len) as usize;
        if len > FRAME_MAX {
            return Err(broken());
        }
        let mut frame = vec![0; len];
        from.read_exact(&mut frame)?;
        let frame = frame.into();
        Ok(Some(Self { frame }))
    }

    fn take(&mut self, len: usize) -> io::Result<Bytes> {
        match len <= self.frame.len() {
            true => Ok(self.frame.split_to(len)),
            false => Err(broken()),
        }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let bytes = self.take(N)?;
        <[u8; N]>::try_from(&bytes[..]).map_err(|_| broken())
    }

    pub(super) fn u8(&mut self) -> io::Result<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> io::Result<usize> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    pub(super) fn i64(&mut self) -> io::Result<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(super) fn duration(&mut self) -> io::Result<Duration> {
        Ok(Duration::from_nanos(u64::from_le_bytes(self.array()?)))
    }

    fn bytes(&mut self) -> io::Result<Bytes> {
        let len = self.u32()?;
        self.take(len)
    }

    pub(super) fn text(&mut self) -> io::Result<String> {
        String::from_utf8(self.bytes()?.into()).map_err(|_| broken())
    }

    pub(super) fn optional(&mut self) -> io::Result<Option<String>> {
        match self.u8()? {
            0 => Ok(None),
            _ => self.text().map(Some),
        }
    }

    pub(super) fn source(&mut self) -> io::Result<Source> {
        Ok(Source {
            file: self.text()?,
            text: self.text()?,
        })
    }

    /// The parts of an event that a script can see.
    pub(super) fn event(&mut self) -> io::Result<Arc<Event>> {
        Ok(Arc::new(Event {
            stream: StreamId(0),
            id: EventId::from_bytes(self.array()?),
            seq: Seq(self.i64()?),
            received_at: Timestamp::from_millis(self.i64()?),
            key_id: None,
            dedupe_key: None,
            headers: self.text()?.into(),
            body: self.bytes()?,
            late: (self.u8()? != 0).then_some(Late::Mark),
            is_damaged: false,
        }))
    }

    pub(super) fn on_error(&mut self) -> io::Result<OnError> {
        match self.u8()? {
            0 => Ok(OnError::Hold),
            _ => Ok(OnError::Skip),
        }
    }

    pub(super) fn outcome(&mut self) -> io::Result<Outcome> {
        let passed = self.u32()?;
        let letters = self.u32()?;
        let mut skipped = Vec::new();
        for _ in 0..letters {
            skipped.push(DeadLetter {
                seq: Seq(self.i64()?),
                reason: self.text()?,
            });
        }
        Ok(Outcome {
            passed,
            skipped,
            state: self.optional()?,
            failure: match self.u8()? {
                0 => None,
                1 => Some(Failure::Rejected(self.text()?)),
                2 => Some(Failure::OutOfTime(self.text()?)),
                3 => Some(Failure::OutOfMemory(self.text()?)),
                4 => Some(Failure::Stuck(self.text()?)),
                _ => self.text().map(|_| Some(Failure::Damaged))?,
            },
            took: self.duration()?,
            over: self.duration()?,
        })
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a frame makes no sense")
}
