//! Plans of sending: as fast as answers come, at a fixed rate, or polling until every state is at its
//! head.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::generator::{Answer, Next, Plan};
use super::requests::Ask;
use super::table;
use super::world::Ledger;

/// Time limit for states to reach their heads.
const SETTLE_MAX: Duration = Duration::from_secs(300);

/// End of a closed loop.
#[derive(Clone, Copy)]
pub enum Until {
    /// This number of events is accepted.
    Accepted(u64),
    /// This long has passed.
    Passed(Duration),
}

/// The next request goes out when an answer is in.
pub struct Closed<'a> {
    ledger: &'a mut Ledger,
    hooks: u32,
    left: u64,
    end: Instant,
    refused: u64,
    random: SmallRng,
}

impl<'a> Closed<'a> {
    pub fn new(ledger: &'a mut Ledger, hooks: u32, until: Until) -> Self {
        let (left, patience) = match until {
            Until::Accepted(events) => (events, SETTLE_MAX),
            Until::Passed(time) => (u64::MAX, time),
        };
        Self {
            ledger,
            hooks,
            left,
            end: Instant::now() + patience,
            refused: 0,
            random: SmallRng::seed_from_u64(1),
        }
    }

    /// Says how many requests were refused, if any were.
    pub fn warn(&self) {
        if self.refused > 0 {
            table::note(&format!("{} requests were not accepted", self.refused));
        }
    }
}

impl Plan for Closed<'_> {
    fn next(&mut self, now: Instant) -> Next {
        if self.left == 0 || now >= self.end {
            return Next::Done;
        }
        self.left -= 1;
        let hook = self.random.random_range(0..self.hooks);
        let number = self.ledger.number();
        Next::Send(Ask::Post { hook, number }, now)
    }

    fn answered(&mut self, answer: Answer<'_>) {
        if !note(self.ledger, &answer) {
            self.refused += 1;
            self.left = self.left.saturating_add(1);
        }
    }
}

/// Notes an accepted event; whether it was one.
fn note(ledger: &mut Ledger, answer: &Answer<'_>) -> bool {
    let Ask::Post { hook, number } = answer.ask else {
        return false;
    };
    if answer.status != 202 {
        return false;
    }
    ledger.accepted(hook, number, seq(answer.body), answer.sent_at, answer.at);
    true
}

/// The seq in an answer, without parsing all of it.
fn seq(body: &[u8]) -> i64 {
    const NAME: &[u8] = b"\"seq\":";
    let at = body.windows(NAME.len()).position(|w| w == NAME);
    let digits = &body[at.expect("an answer with a seq") + NAME.len()..];
    let digits = digits.trim_ascii_start().iter();
    let digits = digits.take_while(|b| b.is_ascii_digit());
    digits.fold(0, |seq, digit| seq * 10 + i64::from(digit - b'0'))
}

/// Asks for every state until it is at its head.
pub struct Settle {
    left: VecDeque<(u32, i64)>,
    end: Instant,
    /// The hooks and their last answers.
    pub states: Vec<(u32, Vec<u8>)>,
}

impl Settle {
    pub fn new(ledger: &Ledger) -> Self {
        Self {
            left: ledger.heads().collect(),
            end: Instant::now() + SETTLE_MAX,
            states: Vec::new(),
        }
    }
}

impl Plan for Settle {
    fn next(&mut self, now: Instant) -> Next {
        assert!(now < self.end, "states do not reach their heads");
        match self.left.pop_front() {
            Some((hook, seq)) => Next::Send(Ask::State { hook, seq }, now),
            None => Next::Done,
        }
    }

    fn answered(&mut self, answer: Answer<'_>) {
        let Ask::State { hook, seq } = answer.ask else {
            return;
        };
        match answer.status {
            200 => self.states.push((hook, answer.body.to_vec())),
            504 => self.left.push_back((hook, seq)),
            other => panic!("{other}: {}", String::from_utf8_lossy(answer.body)),
        }
    }
}

/// Microseconds.
pub type Latencies = Histogram<u64>;

/// An empty histogram, up to ten minutes: one without a bound would clip what is recorded in it.
pub fn latencies() -> Latencies {
    Histogram::new_with_max(600_000_000, 3).unwrap()
}

/// The latency below which this share of them is, in milliseconds.
pub fn quantile(latencies: &Latencies, share: f64) -> f64 {
    latencies.value_at_quantile(share) as f64 / 1_000.0
}

/// Requests go out at a fixed rate, whether answers are in or not; latency counts from the moment
/// at which a request was due. Of every so many events the state is then asked for, to see when the
/// event is in it: that is more than the time from received to applied, never less.
pub struct Open<'a> {
    ledger: &'a mut Ledger,
    hooks: u32,
    gap: Duration,
    due_at: Instant,
    every: u32,
    sent: u32,
    asks: VecDeque<(Ask, Instant)>,
    stop: &'a AtomicBool,
    end: Instant,
    /// The results.
    pub measured: Measured,
}

/// Measurements of an open loop.
pub struct Measured {
    /// Due to 2xx.
    pub accepted: Latencies,
    /// The samples: due to seen in the state.
    pub seen: Vec<Seen>,
}

/// An event that was seen in its state.
#[derive(Clone, Copy)]
pub struct Seen {
    pub due_at: Instant,
    pub at: Instant,
}

/// Settings of an open loop.
pub struct Pace<'a> {
    pub per_second: u32,
    /// Number of events for each sampled one.
    pub every: u32,
    pub longest: Duration,
    /// Ends it earlier.
    pub stop: &'a AtomicBool,
}

impl<'a> Open<'a> {
    pub fn new(ledger: &'a mut Ledger, hooks: u32, pace: Pace<'a>) -> Self {
        let now = Instant::now();
        Self {
            ledger,
            hooks,
            gap: Duration::from_secs(1) / pace.per_second,
            due_at: now,
            every: pace.every,
            sent: 0,
            asks: VecDeque::new(),
            stop: pace.stop,
            end: now + pace.longest,
            measured: Measured {
                accepted: latencies(),
                seen: Vec::new(),
            },
        }
    }
}

/// The time from `due_at` to `at`, in microseconds.
pub fn micros(due_at: Instant, at: Instant) -> u64 {
    let latency = at.saturating_duration_since(due_at);
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
}

impl Plan for Open<'_> {
    fn next(&mut self, now: Instant) -> Next {
        if let Some((ask, due_at)) = self.asks.pop_front() {
            return Next::Send(ask, due_at);
        }
        if now >= self.end || self.stop.load(Ordering::Relaxed) {
            return Next::Done;
        }
        if now < self.due_at {
            return Next::Wait(self.due_at);
        }
        let due_at = self.due_at;
        self.due_at += self.gap;
        self.sent += 1;
        let number = self.ledger.number();
        // A stride that has no factor in common with the count visits every hook in turn.
        let hook = self.sent.wrapping_mul(7) % self.hooks;
        Next::Send(Ask::Post { hook, number }, due_at)
    }

    fn answered(&mut self, answer: Answer<'_>) {
        match answer.ask {
            Ask::Post { hook, number } => {
                assert!(note(self.ledger, &answer), "{}", answer.status);
                self.measured
                    .accepted
                    .saturating_record(micros(answer.due_at, answer.at));
                if number % self.every == 0 {
                    let seq = seq(answer.body);
                    self.asks
                        .push_back((Ask::State { hook, seq }, answer.due_at));
                }
            }
            Ask::State { .. } if answer.status == 200 => self.measured.seen.push(Seen {
                due_at: answer.due_at,
                at: answer.at,
            }),
            ask => self.asks.push_back((ask, answer.due_at)),
        }
    }
}
