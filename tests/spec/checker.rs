//! Checks that hooklane kept its promises, from the senders' log and from what it shows afterwards.
//!
//! Owns the invariants of `src/lib.rs` that can be seen from outside: durable, gapless, real time,
//! fold, liveness, dedupe, and nothing stored that nobody sent. It shares no code with hooklane and
//! trusts nothing but the senders' clock, which is one monotonic clock for all of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::daemon::{Client, Servers};

/// One request as its sender saw it. Bodies are unique, except for repeats of the same event.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The stream it belongs to, `HOOK` or `HOOK/KEY`.
    pub stream: String,
    /// The body sent.
    pub body: Bytes,
    /// The idempotency key sent with it.
    pub dedupe_key: Option<String>,
    /// Time at which the first byte was sent.
    pub sent_at: Duration,
    /// The sender's knowledge of the outcome.
    pub outcome: Outcome,
}

/// Outcome of an [`Attempt`], as far as its sender knows.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A 2xx.
    Accepted(Receipt),
    /// A 4xx: not stored.
    Refused,
    /// A 5xx, or no answer: stored once or not at all.
    Unknown,
}

/// A 2xx.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// Time at which it had been read.
    pub at: Duration,
    /// The id of the event.
    pub event: String,
    /// Its seq.
    pub seq: i64,
    /// True if the event had been accepted before.
    pub duplicate: bool,
}

/// A stream as hooklane shows it.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// `HOOK` or `HOOK/KEY`.
    pub stream: String,
    /// Its last seq.
    pub head: i64,
    /// The events in it, as they are listed.
    pub events: Vec<Event>,
    /// The seq of the last event in the state.
    pub position: i64,
    /// The state.
    pub state: Value,
}

/// A stored event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its id.
    pub id: String,
    /// Its seq.
    pub seq: i64,
    /// Its body.
    pub body: Bytes,
}

/// The promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// I1: an event that got a 2xx is stored once, with the same body, at the seq in the 2xx.
    Durable,
    /// I2: the seqs are 1 … head.
    Gapless,
    /// I3: an event that was acknowledged before another was sent has the lower seq.
    RealTime,
    /// I4: the state is the fold of the events up to its position, each applied once.
    Fold,
    /// I8: in the end every position is at its head.
    Liveness,
    /// I12: one event per dedupe key, and every repeat is answered with it.
    Dedupe,
    /// O3: no event is stored that was not sent or was refused, and none more often than it was sent.
    Sent,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The promise.
    pub promise: Promise,
    /// The stream.
    pub stream: String,
    /// Description of the violation.
    pub seen: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.promise, self.stream, self.seen)
    }
}

/// The fold of the reducer under test, written again.
pub type Fold = fn(Option<Value>, &Event) -> Value;

/// The promises that `log` and `stored` show to be broken.
pub fn check(log: &[Attempt], stored: &[Stored], fold: Fold) -> Vec<Violation> {
    let mut sent: BTreeMap<&str, Vec<&Attempt>> = BTreeMap::new();
    for attempt in log {
        sent.entry(&attempt.stream).or_default().push(attempt);
    }
    for stream in stored {
        sent.entry(&stream.stream).or_default();
    }
    let kept: HashMap<&str, &Stored> = stored.iter().map(|s| (s.stream.as_str(), s)).collect();
    let nothing = Stored::default();
    let mut found = Vec::new();
    for (stream, attempts) in sent {
        let stored = kept.get(stream).copied().unwrap_or(&nothing);
        let mut report = |promise, seen: Vec<String>| {
            found.extend(seen.into_iter().map(|seen| Violation {
                promise,
                stream: stream.to_owned(),
                seen,
            }));
        };
        report(Promise::Durable, durable(&attempts, stored));
        report(Promise::Gapless, gapless(stored));
        report(Promise::RealTime, real_time(&spans(&attempts, stored)));
        report(Promise::Fold, folded(stored, fold));
        report(Promise::Liveness, at_head(stored));
        report(Promise::Dedupe, deduped(&attempts, stored));
        report(Promise::Sent, only_sent(&attempts, stored));
    }
    found
}

impl Attempt {
    fn receipt(&self) -> Option<&Receipt> {
        match &self.outcome {
            Outcome::Accepted(receipt) => Some(receipt),
            _ => None,
        }
    }
}

fn durable(attempts: &[&Attempt], stored: &Stored) -> Vec<String> {
    let mut seen = Vec::new();
    let mut by_id: HashMap<&str, &Event> = HashMap::new();
    for event in &stored.events {
        if by_id.insert(&event.id, event).is_some() {
            seen.push(format!("{} is stored twice", event.id));
        }
    }
    for attempt in attempts {
        let Some(receipt) = attempt.receipt() else {
            continue;
        };
        let Receipt { event: id, seq, .. } = receipt;
        match by_id.get(id.as_str()) {
            None => seen.push(format!("{id} was accepted as {seq} and is not stored")),
            Some(event) if event.seq != *seq => seen.push(format!(
                "{id} was accepted as {seq} and is stored as {}",
                event.seq
            )),
            Some(event) if event.body != attempt.body => {
                seen.push(format!("{id} has another body than was sent"));
            }
            Some(_) => {}
        }
    }
    seen
}

fn gapless(stored: &Stored) -> Vec<String> {
    let listed = stored.events.iter().map(|event| event.seq);
    let wrong = listed.zip(1..).find(|(seq, expected)| seq != expected);
    let last = stored.events.last().map_or(0, |event| event.seq);
    let mut seen = Vec::new();
    if let Some((seq, expected)) = wrong {
        seen.push(format!("{seq} stands where {expected} belongs"));
    }
    if last != stored.head {
        seen.push(format!("the last is {last}, the head {}", stored.head));
    }
    seen
}

/// Times at which an event was sent and, if known, acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Its seq.
    pub seq: i64,
    /// Time at which the first byte of the first request that may have stored it was sent.
    pub sent_at: Duration,
    /// Time at which its first 2xx had been read.
    pub acknowledged_at: Option<Duration>,
}

fn spans(attempts: &[&Attempt], stored: &Stored) -> Vec<Span> {
    let mut by_body: HashMap<&Bytes, Vec<&Attempt>> = HashMap::new();
    for attempt in attempts {
        by_body.entry(&attempt.body).or_default().push(attempt);
    }
    let span = |event: &Event| {
        let attempts = by_body.get(&event.body)?;
        let receipt = |a: &&&Attempt| a.receipt().is_some_and(|r| r.event == event.id);
        let answered = || attempts.iter().filter(receipt);
        // The request whose answer says that it is no duplicate stored the event.
        let storing = answered().find(|a| a.receipt().is_some_and(|r| !r.duplicate));
        let sent_at = match storing {
            Some(attempt) => attempt.sent_at,
            None => attempts.iter().map(|a| a.sent_at).min()?,
        };
        Some(Span {
            seq: event.seq,
            sent_at,
            acknowledged_at: answered().filter_map(|a| a.receipt()).map(|r| r.at).min(),
        })
    };
    stored.events.iter().filter_map(span).collect()
}

/// Pairs of which the later one was acknowledged before the earlier one was sent. From the head
/// down, keeping the least time of acknowledgement: one look at each event finds them all.
pub fn real_time(spans: &[Span]) -> Vec<String> {
    let mut down = spans.to_vec();
    down.sort_unstable_by_key(|span| std::cmp::Reverse(span.seq));
    let mut least: Option<(Duration, i64)> = None;
    let mut seen = Vec::new();
    for span in down {
        if let Some((at, after)) = least
            && span.sent_at > at
        {
            seen.push(format!(
                "{} was sent after {after} had been acknowledged",
                span.seq
            ));
        }
        let acknowledged = span.acknowledged_at.map(|at| (at, span.seq));
        least = least.into_iter().chain(acknowledged).min();
    }
    seen
}

fn folded(stored: &Stored, fold: Fold) -> Vec<String> {
    let applied = stored.events.iter().filter(|e| e.seq <= stored.position);
    let expected = applied.fold(None, |state, event| Some(fold(state, event)));
    let expected = expected.unwrap_or_default();
    if expected == stored.state {
        return Vec::new();
    }
    vec![format!(
        "the state at {} is {}, the fold {expected}",
        stored.position, stored.state
    )]
}

fn at_head(stored: &Stored) -> Vec<String> {
    if stored.position == stored.head {
        return Vec::new();
    }
    let Stored { position, head, .. } = stored;
    vec![format!("the position is {position}, the head {head}")]
}

fn deduped(attempts: &[&Attempt], stored: &Stored) -> Vec<String> {
    let mut by_key: BTreeMap<&str, Vec<&Attempt>> = BTreeMap::new();
    let mut seen = Vec::new();
    for attempt in attempts {
        match (&attempt.dedupe_key, attempt.receipt()) {
            (Some(key), _) => by_key.entry(key).or_default().push(attempt),
            (None, Some(receipt)) if receipt.duplicate => {
                seen.push(format!("{} is a duplicate without a key", receipt.event));
            }
            _ => {}
        }
    }
    let mut copies: HashMap<&Bytes, usize> = HashMap::new();
    for event in &stored.events {
        *copies.entry(&event.body).or_default() += 1;
    }
    for (key, attempts) in by_key {
        let receipts: Vec<_> = attempts.iter().filter_map(|a| a.receipt()).collect();
        let answers: HashSet<_> = receipts.iter().map(|r| (&r.event, r.seq)).collect();
        let firsts = receipts.iter().filter(|r| !r.duplicate).count();
        let lost = attempts.iter().any(|a| a.outcome == Outcome::Unknown);
        let bodies: HashSet<_> = attempts.iter().map(|a| &a.body).collect();
        let stored: usize = bodies.iter().filter_map(|body| copies.get(*body)).sum();
        if answers.len() > 1 {
            seen.push(format!("{key} was answered with {answers:?}"));
        }
        if firsts > 1 || (firsts == 0 && !receipts.is_empty() && !lost) {
            seen.push(format!("{key} was answered as the first {firsts} times"));
        }
        if stored > 1 {
            seen.push(format!("{key} is stored {stored} times"));
        }
    }
    seen
}

fn only_sent(attempts: &[&Attempt], stored: &Stored) -> Vec<String> {
    let mut sends: HashMap<&Bytes, i64> = HashMap::new();
    for attempt in attempts.iter().filter(|a| a.outcome != Outcome::Refused) {
        *sends.entry(&attempt.body).or_default() += 1;
    }
    let mut seen = Vec::new();
    for event in &stored.events {
        let left = sends.entry(&event.body).or_default();
        *left -= 1;
        if *left < 0 {
            seen.push(format!("{} at {} was not sent", event.id, event.seq));
        }
    }
    seen
}

/// The violations in lines, the first hundred of them.
pub fn report(broken: &[Violation]) -> String {
    let lines = broken.iter().take(100).map(|v| format!("\n  {v}"));
    format!("{} violations:{}", broken.len(), lines.collect::<String>())
}

/// Everything that hooklane shows of `hooks` to the holder of a read key.
pub async fn read(client: &mut Client, hooks: &[&str]) -> Vec<Stored> {
    let mut stored = Vec::new();
    for row in rows(client, hooks).await {
        stored.push(read_stream(client, row["stream"].as_str().unwrap()).await);
    }
    stored
}

/// Waits until every cursor of `hooks` is at its head, `patience` at the longest: one that is not
/// there by then is for [`check`] to report.
pub async fn settle(client: &mut Client, hooks: &[&str], patience: Duration) {
    let began = Instant::now();
    while began.elapsed() < patience {
        let rows = rows(client, hooks).await;
        if rows.iter().all(|row| row["position"] == row["head"]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A row for each cursor of `hooks`.
async fn rows(client: &mut Client, hooks: &[&str]) -> Vec<Value> {
    let mut rows = Vec::new();
    for hook in hooks {
        let mut after = String::new();
        loop {
            let path = format!("/v1/hooks/{hook}/streams?limit=500{after}");
            let mut page = page(client, &path).await;
            rows.append(page["items"].as_array_mut().unwrap());
            let Some(next) = page["next"].as_str() else {
                break;
            };
            after = format!("&after={}", escaped(next));
        }
    }
    rows
}

async fn read_stream(client: &mut Client, stream: &str) -> Stored {
    let (hook, key) = stream.split_once('/').unwrap_or((stream, ""));
    let path = |what: &str| format!("/v1/hooks/{hook}/{what}?stream={}", escaped(key));
    let state = page(client, &path("state")).await;
    let mut stored = Stored {
        stream: stream.to_owned(),
        head: state["head"].as_i64().unwrap(),
        position: state["position"].as_i64().unwrap(),
        state: state["state"].clone(),
        events: Vec::new(),
    };
    loop {
        let after = stored.events.last().map_or(0, |event| event.seq);
        let path = format!("{}&after_seq={after}&limit=500", path("events"));
        let page = page(client, &path).await;
        let items = page["items"].as_array().unwrap();
        if items.is_empty() {
            return stored;
        }
        stored.events.extend(items.iter().map(listed));
    }
}

/// The same from the tables of a server, past everything that hooklane could show or hide.
pub fn read_tables(servers: &Servers) -> Vec<Stored> {
    const STREAMS: &str = "select json_build_array(s.id, h.name, s.ordering_key, s.head,
        coalesce(c.position, 0), c.state) from streams s
        join hooks h on h.id = s.hook left join cursors c on c.stream = s.id";
    const EVENTS: &str =
        "select json_build_array(stream, seq, encode(id, 'hex'), encode(body, 'hex')) from events";
    let rows = |query| {
        let rows = servers.ask(query).into_iter();
        rows.map(|row| serde_json::from_str::<Value>(&row).unwrap())
    };
    let mut streams = BTreeMap::new();
    for row in rows(STREAMS) {
        let text = |at: usize| row[at].as_str().unwrap_or_default();
        let stored = Stored {
            stream: format!("{}/{}", text(1), text(2))
                .trim_end_matches('/')
                .to_owned(),
            head: row[3].as_i64().unwrap(),
            position: row[4].as_i64().unwrap(),
            state: serde_json::from_str(text(5)).unwrap_or_default(),
            events: Vec::new(),
        };
        streams.insert(row[0].as_i64().unwrap(), stored);
    }
    for row in rows(EVENTS) {
        let stream = streams.get_mut(&row[0].as_i64().unwrap()).unwrap();
        stream.events.push(Event {
            id: event_id(row[2].as_str().unwrap()),
            seq: row[1].as_i64().unwrap(),
            body: bytes_of(row[3].as_str().unwrap()),
        });
    }
    let mut streams: Vec<_> = streams.into_values().collect();
    for stream in &mut streams {
        stream.events.sort_unstable_by_key(|event| event.seq);
    }
    streams
}

fn bytes_of(hex: &str) -> Bytes {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(2).map(byte).collect()
}

/// An id as it is shown: `evt_`, and 26 digits of Crockford's base 32.
fn event_id(hex: &str) -> String {
    const DIGITS: &[u8] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let id = u128::from_str_radix(hex, 16).unwrap();
    let digits = (0..26).rev().map(|n| (id >> (5 * n)) as usize & 31);
    let digits: String = digits.map(|digit| char::from(DIGITS[digit])).collect();
    format!("evt_{digits}")
}

fn listed(row: &Value) -> Event {
    let text = |name: &str| row[name].as_str().unwrap().to_owned();
    Event {
        id: text("event"),
        seq: row["seq"].as_i64().unwrap(),
        body: text("body").into(),
    }
}

async fn page(client: &mut Client, path: &str) -> Value {
    let answer = client.get(path).await;
    assert_eq!(answer.status, 200, "GET {path}: {}", answer.json());
    answer.json()
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// The reducer of the black-box tests: its trail depends on every event and on their order.
pub const TRAIL_JS: &str = "export default function reduce(state, event) {
  state ??= { count: 0, total: 0, trail: 0 };
  state.count += 1;
  state.total += event.body.amount;
  state.trail = (state.trail * 31 + event.body.number) % 1000003;
  state.last = event.id;
  state.seq = event.seq;
  return state;
}
";

/// The fold of [`TRAIL_JS`].
pub fn trail(state: Option<Value>, event: &Event) -> Value {
    let state = state.unwrap_or_default();
    let body: Value = serde_json::from_slice(&event.body).unwrap();
    let was = |name: &str| state[name].as_i64().unwrap_or(0);
    let sent = |name: &str| body[name].as_i64().unwrap();
    json!({
        "count": was("count") + 1,
        "total": was("total") + sent("amount"),
        "trail": (was("trail") * 31 + sent("number")) % 1_000_003,
        "last": event.id,
        "seq": event.seq,
    })
}

/// A history in which every promise is kept: three events in one stream, the second one sent twice
/// because its first answer was lost, and a fourth one that was refused.
fn kept() -> (Vec<Attempt>, Stored) {
    let body = |number: i64| Bytes::from(json!({"number": number, "amount": 5}).to_string());
    let attempt = |number: i64, sent_at: u64, outcome| Attempt {
        stream: "billing/acme".into(),
        body: body(number),
        dedupe_key: (number == 2).then(|| "two".into()),
        sent_at: Duration::from_millis(sent_at),
        outcome,
    };
    let accepted = |seq: i64, at: u64, duplicate| {
        Outcome::Accepted(Receipt {
            at: Duration::from_millis(at),
            event: format!("evt_{seq}"),
            seq,
            duplicate,
        })
    };
    let log = vec![
        attempt(1, 10, accepted(1, 20, false)),
        attempt(2, 30, Outcome::Unknown),
        attempt(2, 40, accepted(2, 50, true)),
        attempt(3, 60, accepted(3, 70, false)),
        attempt(4, 80, Outcome::Refused),
    ];
    let stored = (1..=3).map(|seq| Event {
        id: format!("evt_{seq}"),
        seq,
        body: body(seq),
    });
    let events: Vec<Event> = stored.collect();
    let state = events.iter().fold(None, |s, event| Some(trail(s, event)));
    let stored = Stored {
        stream: "billing/acme".into(),
        head: 3,
        position: 3,
        state: state.unwrap(),
        events,
    };
    (log, stored)
}

/// The promises that are reported as broken once `harm` has been done to a kept history.
fn broken_by(harm: impl FnOnce(&mut Vec<Attempt>, &mut Stored)) -> Vec<Promise> {
    let (mut log, mut stored) = kept();
    harm(&mut log, &mut stored);
    let mut broken: Vec<Promise> = check(&log, &[stored], trail)
        .iter()
        .map(|violation| violation.promise)
        .collect();
    broken.sort_unstable();
    broken.dedup();
    broken
}

/// Folds the events of a harmed stream again, so that only the harm itself is seen.
fn refold(stored: &mut Stored) {
    let state = stored.events.iter().fold(None, |s, e| Some(trail(s, e)));
    stored.state = state.unwrap_or_default();
}

fn receipt(attempt: &mut Attempt) -> &mut Receipt {
    match &mut attempt.outcome {
        Outcome::Accepted(receipt) => receipt,
        other => panic!("{other:?} is no receipt"),
    }
}

#[test]
fn the_checker_finds_nothing_where_every_promise_was_kept() {
    assert_eq!(broken_by(|_, _| {}), []);
}

#[test]
fn the_checker_sees_an_accepted_event_that_is_gone() {
    let broken = broken_by(|_, stored| {
        stored.events.pop();
        (stored.head, stored.position) = (2, 2);
        refold(stored);
    });
    assert_eq!(broken, [Promise::Durable]);
}

#[test]
fn the_checker_sees_an_accepted_stream_that_is_gone() {
    let (log, _) = kept();
    let broken = check(&log, &[], trail);
    assert_eq!(broken.len(), 3, "{broken:?}");
    assert!(broken.iter().all(|v| v.promise == Promise::Durable));
}

#[test]
fn the_checker_sees_an_altered_body() {
    let broken = broken_by(|_, stored| {
        stored.events[2].body = Bytes::from_static(b"{\"number\":9,\"amount\":5}");
        refold(stored);
    });
    assert_eq!(broken, [Promise::Durable, Promise::Sent]);
}

#[test]
fn the_checker_sees_an_event_that_is_stored_twice() {
    let broken = broken_by(|_, stored| {
        let mut again = stored.events[2].clone();
        again.seq = 4;
        stored.events.push(again);
        (stored.head, stored.position) = (4, 4);
        refold(stored);
    });
    assert_eq!(broken, [Promise::Durable, Promise::Sent]);
}

#[test]
fn the_checker_sees_a_seq_other_than_the_one_that_was_answered() {
    assert_eq!(
        broken_by(|log, _| receipt(&mut log[3]).seq = 4),
        [Promise::Durable]
    );
}

#[test]
fn the_checker_sees_a_gap() {
    let broken = broken_by(|log, stored| {
        stored.events[2].seq = 4;
        receipt(&mut log[3]).seq = 4;
        (stored.head, stored.position) = (4, 4);
        refold(stored);
    });
    assert_eq!(broken, [Promise::Gapless]);
}

#[test]
fn the_checker_sees_a_head_beyond_the_last_event() {
    let broken = broken_by(|_, stored| (stored.head, stored.position) = (4, 4));
    assert_eq!(broken, [Promise::Gapless]);
}

#[test]
fn the_checker_sees_an_event_that_stands_before_one_acknowledged_before_it_was_sent() {
    let broken = broken_by(|log, stored| {
        stored.events.swap(0, 2);
        (stored.events[0].seq, stored.events[2].seq) = (1, 3);
        receipt(&mut log[0]).seq = 3;
        receipt(&mut log[3]).seq = 1;
        refold(stored);
    });
    assert_eq!(broken, [Promise::RealTime]);
}

#[test]
fn the_checker_lets_events_that_overlapped_stand_in_any_order() {
    let broken = broken_by(|log, stored| {
        stored.events.swap(0, 2);
        (stored.events[0].seq, stored.events[2].seq) = (1, 3);
        receipt(&mut log[0]).seq = 3;
        receipt(&mut log[3]).seq = 1;
        for (index, sent_at) in [(0, 10), (1, 11), (2, 12), (3, 13)] {
            log[index].sent_at = Duration::from_millis(sent_at);
        }
        refold(stored);
    });
    assert_eq!(broken, []);
}

#[test]
fn the_checker_sees_an_event_that_was_applied_twice() {
    let broken = broken_by(|_, stored| {
        stored.state = trail(Some(stored.state.take()), &stored.events[2]);
    });
    assert_eq!(broken, [Promise::Fold]);
}

#[test]
fn the_checker_sees_events_that_were_applied_in_another_order() {
    let broken = broken_by(|_, stored| {
        let state = [1, 0, 2].iter().fold(None, |state, index| {
            Some(trail(state, &stored.events[*index]))
        });
        stored.state = state.unwrap();
    });
    assert_eq!(broken, [Promise::Fold]);
}

#[test]
fn the_checker_sees_a_state_beyond_its_position() {
    assert_eq!(
        broken_by(|_, stored| stored.position = 2),
        [Promise::Fold, Promise::Liveness]
    );
}

#[test]
fn the_checker_sees_a_stream_that_was_forgotten() {
    let broken = broken_by(|_, stored| (stored.position, stored.state) = (0, Value::Null));
    assert_eq!(broken, [Promise::Liveness]);
}

#[test]
fn the_checker_sees_a_repeat_that_was_answered_with_another_event() {
    let broken = broken_by(|log, _| {
        let mut repeat = log[2].clone();
        receipt(&mut repeat).event = "evt_9".into();
        log.push(repeat);
    });
    assert_eq!(broken, [Promise::Durable, Promise::Dedupe]);
}

#[test]
fn the_checker_sees_a_repeat_that_was_stored_again() {
    let broken = broken_by(|_, stored| {
        stored.events.push(Event {
            id: "evt_4".into(),
            seq: 4,
            body: stored.events[1].body.clone(),
        });
        (stored.head, stored.position) = (4, 4);
        refold(stored);
    });
    assert_eq!(broken, [Promise::Dedupe]);
}

#[test]
fn the_checker_sees_a_first_answer_that_was_called_a_duplicate() {
    for index in [0, 3] {
        let broken = broken_by(|log, _| receipt(&mut log[index]).duplicate = true);
        assert_eq!(broken, [Promise::Dedupe]);
    }
    let broken = broken_by(|log, _| {
        log.remove(1);
    });
    assert_eq!(broken, [Promise::Dedupe]);
}

#[test]
fn the_checker_sees_what_nobody_sent() {
    let broken = broken_by(|_, stored| {
        stored.events.push(Event {
            id: "evt_4".into(),
            seq: 4,
            body: Bytes::from_static(b"{\"number\":5,\"amount\":5}"),
        });
        (stored.head, stored.position) = (4, 4);
        refold(stored);
    });
    assert_eq!(broken, [Promise::Sent]);
}

#[test]
fn the_checker_sees_what_was_refused_and_stored_all_the_same() {
    let broken = broken_by(|log, stored| {
        stored.events.push(Event {
            id: "evt_4".into(),
            seq: 4,
            body: log[4].body.clone(),
        });
        (stored.head, stored.position) = (4, 4);
        refold(stored);
    });
    assert_eq!(broken, [Promise::Sent]);
}
