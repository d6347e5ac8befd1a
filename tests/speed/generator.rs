//! The load generator: one thread, one `epoll`, raw sockets, and little work per request, because it
//! shares its cores with the daemon. A connection has one request in flight.
//!
//! A [`Plan`] decides what is sent and when.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use super::requests::{Ask, Requests};

/// Next step of a [`Plan`].
pub enum Next {
    /// Send this request now; it was due at the given time, which may have passed.
    Send(Ask, Instant),
    /// Send nothing before this time.
    Wait(Instant),
    /// Send nothing before an answer arrives.
    Listen,
    /// Send nothing more, unless a later answer changes that.
    Done,
}

/// An answer with its request.
pub struct Answer<'a> {
    pub ask: Ask,
    /// Time at which the request was due; latency counts from here.
    pub due_at: Instant,
    /// Time at which it was sent.
    pub sent_at: Instant,
    pub at: Instant,
    pub status: u16,
    pub body: &'a [u8],
}

/// Decides what is sent.
pub trait Plan {
    /// Asked whenever a connection is free.
    fn next(&mut self, now: Instant) -> Next;
    /// Told of every answer.
    fn answered(&mut self, answer: Answer<'_>);
}

/// Runs `plan` to its end on `connections` connections, spread over the addresses.
pub fn run(
    addrs: &[SocketAddr],
    connections: usize,
    requests: &mut Requests,
    plan: &mut impl Plan,
) {
    Generator::connect(addrs, connections)
        .and_then(|mut generator| generator.run(requests, plan))
        .unwrap_or_else(|error| panic!("the load on {addrs:?}: {error}"));
}

struct Generator {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    free: VecDeque<usize>,
}

impl Generator {
    fn connect(addrs: &[SocketAddr], connections: usize) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let open = |index: usize| {
            let connection = Connection::open(addrs[index % addrs.len()])?;
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, &connection.stream, data, flags)?;
            Ok(connection)
        };
        let connections = (0..connections).map(open).collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            free: (0..connections.len()).collect(),
            epoll,
            connections,
        })
    }

    fn run(&mut self, requests: &mut Requests, plan: &mut impl Plan) -> io::Result<()> {
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(self.connections.len());
        loop {
            let patience = match self.send(requests, plan)? {
                Next::Done if self.free.len() == self.connections.len() => return Ok(()),
                Next::Wait(until) => Some(until.saturating_duration_since(Instant::now())),
                _ => None,
            };
            let patience = patience.map(|left| Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            });
            match epoll::wait(&self.epoll, spare_capacity(&mut ready), patience.as_ref()) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for event in ready.drain(..) {
                let index = event.data.u64() as usize;
                if self.connections[index].receive(plan)? {
                    self.free.push_back(index);
                    // At once, while the daemon works on the others.
                    self.send(requests, plan)?;
                }
            }
        }
    }

    /// Sends as long as a connection is free and the plan wants to.
    fn send(&mut self, requests: &mut Requests, plan: &mut impl Plan) -> io::Result<Next> {
        loop {
            if self.free.is_empty() {
                return Ok(Next::Listen);
            }
            match plan.next(Instant::now()) {
                Next::Send(ask, due_at) => {
                    if let Some(index) = self.free.pop_front() {
                        self.connections[index].send(requests, ask, due_at)?;
                    }
                }
                other => return Ok(other),
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    buffer: Vec<u8>,
    filled: usize,
    in_flight: Option<(Ask, Instant, Instant)>,
}

impl Connection {
    fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            out: Vec::with_capacity(2048),
            buffer: vec![0; 4096],
            filled: 0,
            in_flight: None,
        })
    }

    fn send(&mut self, requests: &mut Requests, ask: Ask, due_at: Instant) -> io::Result<()> {
        requests.render(ask, &mut self.out);
        self.in_flight = Some((ask, due_at, Instant::now()));
        // An idle socket's buffer holds a request as small as ours in one piece; were it ever
        // otherwise, `WouldBlock` ends the run and says so.
        self.stream.write_all(&self.out)
    }

    /// Reads available bytes; true if the answer is complete.
    fn receive(&mut self, plan: &mut impl Plan) -> io::Result<bool> {
        loop {
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            if self.deliver(plan)? {
                return Ok(true);
            }
            if self.filled == self.buffer.len() {
                self.buffer.resize(self.filled * 2, 0);
            }
        }
    }

    fn deliver(&mut self, plan: &mut impl Plan) -> io::Result<bool> {
        let Some((status, body)) = parse(&self.buffer[..self.filled])? else {
            return Ok(false);
        };
        self.filled = 0;
        let Some((ask, due_at, sent_at)) = self.in_flight.take() else {
            return Err(io::Error::other("an answer to nothing"));
        };
        plan.answered(Answer {
            ask,
            due_at,
            sent_at,
            at: Instant::now(),
            status,
            body: &self.buffer[body],
        });
        Ok(true)
    }
}

/// The status and the range of the body, once it is complete.
fn parse(bytes: &[u8]) -> io::Result<Option<(u16, std::ops::Range<usize>)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(bytes).map_err(io::Error::other)?;
    let httparse::Status::Complete(start) = parsed else {
        return Ok(None);
    };
    let is_length = |h: &&httparse::Header| h.name.eq_ignore_ascii_case("content-length");
    let length = head.headers.iter().find(is_length);
    let length = length.and_then(|h| std::str::from_utf8(h.value).ok()?.parse::<usize>().ok());
    let length = length.ok_or_else(|| io::Error::other("an answer without content-length"))?;
    let status = head.code.unwrap_or(0);
    Ok((bytes.len() >= start + length).then_some((status, start..start + length)))
}
