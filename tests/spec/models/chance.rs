//! Order under random operations: the real store and engine run through random storms of events,
//! repeats, lost hints, stops, crashes and operators. A reference model computes the expected result.
//!
//! Each seed is a separate run. A seed repeats the choices; the interleaving of threads depends on the
//! machine. The steps printed before a failure are the shortest prefix that led to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hooklane::admin::{self, Admin};
use hooklane::api;
use hooklane::domain::cursor::{Applied, Chain, Condition, CursorId};
use hooklane::domain::event::EventId;
use hooklane::domain::hook::{DedupeBy, Hook, OnError, OrderBy, Reducer, Unordered};
use hooklane::domain::keep::Keep;
use hooklane::domain::lane::Slot;
use hooklane::domain::name::{Name, OrderingKey, StreamName};
use hooklane::domain::place::Place;
use hooklane::domain::position::Seq;
use hooklane::domain::time::Timestamp;
use hooklane::engine::prune::prune_before;
use hooklane::engine::{self, Engine, Running, intake};
use hooklane::metrics::Metrics;
use hooklane::store::{Appended, HookPlan, NewEvent, Store, StreamRow};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::home::{Home, On};

const SEEDS: u64 = 64;
const SEEDS_AT_ONCE: usize = 4;
const STEPS: usize = 16;
const HOOKS: [&str; 2] = ["billing", "orders"];
const KEYS: [&str; 4] = ["", "acme", "globex", "initech"];

/// Time limit for a cursor to reach its head. It is less than the time between two sweeps, so that no
/// routine sweep hides a lost hint.
const QUIET_MAX: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_in_between_each_state_is_the_fold_of_its_stream_in_order() {
    live(On::Sqlite, SEEDS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_server_too_each_state_is_the_fold_of_its_stream_in_order() {
    live(On::Postgres, SEEDS / 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_pooler_too_each_state_is_the_fold_of_its_stream_in_order() {
    live(On::Pooler, SEEDS / 8).await;
}

async fn live(on: On, seeds: u64) {
    let mut seeds = crate::seeds::seeds(seeds);
    let mut worlds = JoinSet::new();
    while !seeds.is_empty() || !worlds.is_empty() {
        while worlds.len() < SEEDS_AT_ONCE
            && let Some(seed) = seeds.pop()
        {
            worlds.spawn(async move { World::new(on, seed).await.live().await });
        }
        worlds.join_next().await.unwrap().unwrap();
    }
}

// The expected result.

/// An event as it was sent.
#[derive(Clone, Debug)]
struct Sent {
    id: EventId,
    body: String,
    dedupe_key: Option<String>,
    received_at: Timestamp,
}

/// A stream and its reducer's cursor, as they must be.
#[derive(Clone, Debug, Default)]
struct Stream {
    events: Vec<Sent>,
    position: usize,
    state: Option<Value>,
    chain: Chain,
    held: bool,
    /// The seqs that were passed without being folded, and whether an operator did it.
    dead: BTreeMap<usize, bool>,
    /// Number of removed events, and the start of a fold from the beginning.
    floor: usize,
    begins: (Option<Value>, Chain),
}

impl Stream {
    /// Id and seq of the event, or of the first one with its dedupe key.
    fn append(&mut self, sent: Sent) -> (EventId, usize) {
        let same = |first: &Sent| sent.dedupe_key.is_some() && first.dedupe_key == sent.dedupe_key;
        let kept = self.events.iter().skip(self.floor).position(same);
        if let Some(at) = kept.map(|at| at + self.floor) {
            return (self.events[at].id, at + 1);
        }
        self.events.push(sent);
        (self.events.last().unwrap().id, self.events.len())
    }

    fn run(&mut self, reducer: &Reducer, on_error: OnError) {
        while let (false, Some(next)) = (self.held, self.events.get(self.position)) {
            match fold(reducer, self.state.as_ref(), &next.body) {
                Some(state) => {
                    self.state = Some(state);
                    self.pass(Applied::Folded);
                }
                None if on_error == OnError::Skip => self.bury(false),
                None => self.held = true,
            }
        }
    }

    fn bury(&mut self, by_operator: bool) {
        // A dead letter is removed with its event, perhaps before the model hears of the turn.
        if self.position >= self.floor {
            self.dead.insert(self.position + 1, by_operator);
        }
        self.held = false;
        self.pass(Applied::Skipped);
    }

    fn pass(&mut self, applied: Applied) {
        self.chain = self.chain.next(self.events[self.position].id, applied);
        self.position += 1;
    }

    /// Removes the next event; true if the reducer permits it.
    fn prune(&mut self, reducer: Option<&Reducer>, on_error: OnError) -> bool {
        let event = &self.events[self.floor];
        let is_dead = self.dead.contains_key(&(self.floor + 1));
        let folded = reducer.map(|reducer| fold(reducer, self.begins.0.as_ref(), &event.body));
        let applied = match folded {
            Some(Some(state)) if !is_dead => {
                self.begins.0 = Some(state);
                Applied::Folded
            }
            Some(None) if !is_dead && on_error == OnError::Hold => return false,
            _ => Applied::Skipped,
        };
        self.begins.1 = self.begins.1.next(event.id, applied);
        self.floor += 1;
        self.dead.remove(&self.floor);
        true
    }

    /// A new handler begins at the first event that is there.
    fn begin_anew(&mut self) {
        *self = Self {
            events: std::mem::take(&mut self.events),
            floor: self.floor,
            position: self.floor,
            ..Self::default()
        };
    }
}

/// The state after one more body; none when the reducer rejects it.
fn fold(reducer: &Reducer, state: Option<&Value>, body: &str) -> Option<Value> {
    let parsed = serde_json::from_str::<Value>(body);
    let text = parsed.as_ref().ok().cloned().unwrap_or(json!(body));
    match (reducer, state) {
        (Reducer::Latest, _) => Some(text),
        (Reducer::Count, None) => Some(json!(1)),
        (Reducer::Count, Some(count)) => Some(json!(count.as_u64()? + 1)),
        (Reducer::Append(_), None) => Some(json!([text])),
        (Reducer::Append(max), Some(list)) => {
            let mut list = list.as_array()?.clone();
            list.push(text);
            let leaving = list.len().saturating_sub(*max as usize);
            Some(list.split_off(leaving).into())
        }
        (_, state) => {
            let mut merged: Map<_, _> = state
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default();
            for (field, value) in parsed.ok()?.as_object()? {
                match value {
                    Value::Null => drop(merged.remove(field)),
                    value => drop(merged.insert(field.clone(), value.clone())),
                }
            }
            Some(merged.into())
        }
    }
}

// Operations.

/// An event that was let in and is not known to be stored.
struct Flight {
    name: StreamName,
    sent: Sent,
    answer: oneshot::Receiver<intake::Answer>,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Send,
    SendWhileHintsAreLost,
    Rest,
    Stop,
    Crash,
    Retry,
    Skip,
    RetryAndSkip,
    SkipAnother,
    Edit,
    Prune,
}

/// Weights of the operations.
const OPS: [(Op, u32); 11] = [
    (Op::Send, 8),
    (Op::SendWhileHintsAreLost, 3),
    (Op::Rest, 3),
    (Op::Stop, 1),
    (Op::Crash, 2),
    (Op::Retry, 3),
    (Op::Skip, 3),
    (Op::RetryAndSkip, 2),
    (Op::SkipAnother, 1),
    (Op::Edit, 3),
    (Op::Prune, 4),
];

struct World {
    rng: StdRng,
    seed: u64,
    number: u64,
    home: Home,
    /// `None` only between a stop and the next start.
    running: Option<Running>,
    streams: BTreeMap<(Name, OrderingKey), Stream>,
    plans: BTreeMap<Name, HookPlan>,
}

async fn start(home: &Home) -> Running {
    let metrics = Metrics::new();
    let (failed, _) = watch::channel(None);
    let observer = engine::observer(metrics.clone(), failed.clone());
    let store = Store::open(home.database(), observer).await.unwrap();
    Admin::prepare(&store, 3).await.unwrap();
    Engine::start(store, None, Default::default(), metrics, failed)
        .await
        .unwrap()
}

/// Content after a crash: the file, and the written part of the log.
fn copy(from: &Path, to: &Path) {
    for file in ["hooklane.db", "hooklane.db-wal"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

impl World {
    async fn new(on: On, seed: u64) -> Self {
        let home = Home::new(on);
        let running = start(&home).await;
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            seed,
            number: 0,
            home,
            running: Some(running),
            streams: BTreeMap::new(),
            plans: BTreeMap::new(),
        };
        for hook in HOOKS {
            let plan = world.plan(hook.parse().unwrap());
            world.plans.insert(plan.name.clone(), plan);
        }
        let plans: Vec<_> = world.plans.values().cloned().collect();
        let made = world.engine().store.create_hooks(&plans, Timestamp::now());
        made.await.unwrap().unwrap();
        world.engine().config_changed().await.unwrap();
        world
    }

    async fn live(mut self) {
        for step in 1..=STEPS {
            let op = self.draw();
            println!("HOOKLANE_SEED={} step {step}: {op:?}", self.seed);
            self.act(op).await;
        }
        self.rest().await;
        self.running.unwrap().stop().await;
    }

    fn draw(&mut self) -> Op {
        let total = OPS.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.random_range(0..total);
        let chosen = OPS.iter().find(|(_, weight)| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        });
        chosen.unwrap().0
    }

    async fn act(&mut self, op: Op) {
        match op {
            Op::Send => {
                let flights = self.send();
                self.land(flights).await;
            }
            Op::SendWhileHintsAreLost => self.send_while_hints_are_lost().await,
            Op::Rest => self.rest().await,
            Op::Stop => self.stop().await,
            Op::Crash => self.crash().await,
            Op::Retry => self.retry_one().await,
            Op::Skip => self.skip_one().await,
            Op::RetryAndSkip => self.retry_and_skip_one().await,
            Op::SkipAnother => self.skip_another().await,
            Op::Edit => self.edit().await,
            Op::Prune => self.prune().await,
        }
    }

    fn engine(&self) -> &Arc<Engine> {
        self.running.as_ref().unwrap().engine()
    }

    fn admin(&self) -> Admin {
        Admin::online(self.engine().clone(), "here".into())
    }

    fn plan(&mut self, name: Name) -> HookPlan {
        let reducer = match self.rng.random_range(0..12) {
            0..6 => Some(Reducer::Merge),
            6 => Some(Reducer::Latest),
            7 => Some(Reducer::Count),
            8 | 9 => Some(Reducer::Append(self.rng.random_range(1..6))),
            10 => Some(Reducer::Append(1_000)),
            _ => None,
        };
        HookPlan {
            name,
            namespace: Name::default_namespace(),
            order_by: OrderBy::Place(Place::Header("x-account".into())),
            unordered: Unordered::Keep,
            dedupe_by: DedupeBy::default(),
            verify: None,
            handshake: None,
            versioning: None,
            allow_from: Default::default(),
            body_max: 1_000,
            keep: Keep::Forever,
            reducer,
            on_error: match self.rng.random_bool(0.7) {
                true => OnError::Hold,
                false => OnError::Skip,
            },
            debounce: None,
            only: Default::default(),
            forwards: Vec::new(),
            pulls: Vec::new(),
        }
    }

    /// Sends a storm of events.
    fn send(&mut self) -> Vec<Flight> {
        let events = match self.rng.random_bool(0.1) {
            true => 150,
            false => self.rng.random_range(1..25),
        };
        (0..events).map(|_| self.send_one()).collect()
    }

    fn send_one(&mut self) -> Flight {
        self.number += 1;
        let hook: Name = HOOKS[self.rng.random_range(0..HOOKS.len())]
            .parse()
            .unwrap();
        let key = OrderingKey::new(KEYS[self.rng.random_range(0..KEYS.len())].as_bytes());
        let field = ["a", "b", "c"][self.rng.random_range(0..3)];
        let body = match self.rng.random_range(0..40) {
            0 => format!("{{malformed {}", self.number),
            1..8 => format!("{{\"{field}\":null}}"),
            _ => format!("{{\"{field}\":{}}}", self.number),
        };
        let repeats = self.rng.random_bool(0.3);
        let now = Timestamp::now();
        let sent = Sent {
            id: EventId::new(now),
            body,
            dedupe_key: repeats.then(|| self.rng.random_range(0..20).to_string()),
            received_at: now,
        };
        let answer = self.engine().intake.let_in(NewEvent {
            hook: self.engine().catalog.now().hooks[&hook].id,
            slot: Slot::of(&hook, &key),
            key: key.clone(),
            id: sent.id,
            received_at: now,
            key_id: None,
            dedupe_key: sent.dedupe_key.clone(),
            headers: "{}".into(),
            body: sent.body.clone().into(),
            provided: None,
        });
        Flight {
            name: StreamName { hook, key },
            sent,
            answer: answer.unwrap(),
        }
    }

    async fn land(&mut self, flights: Vec<Flight>) {
        for flight in flights {
            let answer = flight.answer.await.unwrap();
            self.acknowledged(flight.name, flight.sent, &answer);
        }
    }

    fn acknowledged(&mut self, name: StreamName, sent: Sent, answer: &intake::Answer) {
        let own = sent.id;
        let stream = self.streams.entry((name.hook, name.key)).or_default();
        let (id, seq) = stream.append(sent);
        let told = match answer.as_ref().unwrap() {
            Appended::New { seq, .. } => (own, seq.0 as usize),
            Appended::Duplicate { id, seq, .. } => (*id, seq.unwrap_or_default().0 as usize),
            other => panic!("{own} was not stored: {other:?}"),
        };
        assert_eq!(told, (id, seq), "an answer names the first of its kind");
    }

    async fn send_while_hints_are_lost(&mut self) {
        for flight in self.send() {
            let answer = flight.answer.await.unwrap();
            self.lose_hints();
            self.acknowledged(flight.name, flight.sent, &answer);
        }
        self.engine().sweep().await.unwrap();
    }

    fn lose_hints(&self) {
        for set in self.engine().catalog.now().lane_sets.values() {
            for lane in set.ids() {
                drop(self.engine().lanes.open(&lane).take());
            }
        }
    }

    /// Stops while events are in flight, and starts again.
    async fn stop(&mut self) {
        let flights = self.send();
        self.running.take().unwrap().stop().await;
        self.land(flights).await;
        self.running = Some(start(&self.home).await);
        self.events_are_right().await;
    }

    /// Restarts from the disk's content at some moment; events acknowledged by then must be there.
    async fn crash(&mut self) {
        // A crash of the server is not part of this test.
        if !matches!(self.home, Home::File(_)) {
            return self.stop().await;
        }
        let mut flights = self.send();
        let moment = self.rng.random_range(0..20_000);
        tokio::time::sleep(Duration::from_micros(moment)).await;
        // Backwards: when a later one has its answer, an earlier one of its stream has too.
        let answers: Vec<_> = flights
            .iter_mut()
            .rev()
            .map(|f| f.answer.try_recv())
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let Home::File(from) = &self.home else {
            unreachable!("servers were left out");
        };
        let (from, to) = (from.path().to_owned(), dir.path().to_owned());
        let copied = tokio::task::spawn_blocking(move || copy(&from, &to));
        copied.await.unwrap();
        let home = Home::File(dir);
        let newborn = start(&home).await;
        let dead = self.running.replace(newborn).unwrap();
        dead.stop().await;
        self.home = home;

        let mut unknown = Vec::new();
        for (flight, answer) in flights.into_iter().zip(answers.into_iter().rev()) {
            match answer {
                Ok(answer) => self.acknowledged(flight.name, flight.sent, &answer),
                Err(_) => unknown.push((flight.name, flight.sent)),
            }
        }
        self.adopt(unknown).await;
        self.events_are_right().await;
    }

    /// Of the unacknowledged events of a stream, a prefix may be stored.
    async fn adopt(&mut self, unknown: Vec<(StreamName, Sent)>) {
        let acknowledged = self.streams.clone();
        for (name, sent) in unknown {
            let stream = self.streams.entry((name.hook, name.key)).or_default();
            stream.append(sent);
        }
        let mut found = BTreeMap::new();
        for name in self.streams.keys() {
            let stored = match self.row(name).await {
                Some(row) => usize::try_from(row.head.0).unwrap(),
                None => 0,
            };
            let known = acknowledged.get(name).map_or(0, |s| s.events.len());
            assert!(stored >= known, "{name:?}: {known} known, {stored} stored");
            found.insert(name.clone(), stored);
        }
        for (name, stored) in found {
            self.streams.get_mut(&name).unwrap().events.truncate(stored);
        }
        self.streams.retain(|_, stream| !stream.events.is_empty());
    }

    // Operators.

    fn any_stream(&mut self, held: bool) -> Option<StreamName> {
        let fits = |(_, stream): &(_, &Stream)| stream.held || !held;
        let names: Vec<_> = self.streams.iter().filter(fits).map(|(n, _)| n).collect();
        let nth = self.rng.random_range(0..names.len().max(1));
        let (hook, key) = names.get(nth).copied().cloned()?;
        Some(StreamName { hook, key })
    }

    fn stream(&mut self, name: &StreamName) -> &mut Stream {
        let name = (name.hook.clone(), name.key.clone());
        self.streams.get_mut(&name).unwrap()
    }

    async fn retry(&mut self, stream: &StreamName) {
        let retry = api::Retry {
            stream: stream.clone(),
            handler: None,
        };
        let released = self.admin().retry(&retry).await.unwrap();
        if std::mem::take(&mut self.stream(stream).held) {
            assert_eq!(released.released, 1, "{stream} was held");
        }
    }

    async fn skip(&self, stream: &StreamName, event: EventId) -> Result<(), admin::Error> {
        let skip = api::Skip {
            stream: stream.clone(),
            handler: None,
            event,
        };
        self.admin().skip(&skip).await.map(drop)
    }

    async fn retry_one(&mut self) {
        let held = self.rng.random_bool(0.8);
        if let Some(stream) = self.any_stream(held) {
            self.retry(&stream).await;
            if self.rng.random_bool(0.5) {
                self.lose_hints();
                self.engine().sweep().await.unwrap();
            }
        }
    }

    async fn skip_one(&mut self) {
        let Some(name) = self.any_stream(true) else {
            return;
        };
        let stream = self.stream(&name);
        let next = stream.events[stream.position].id;
        self.skip(&name, next).await.unwrap();
        self.stream(&name).bury(true);
    }

    /// A turn and an operator reach for the same event.
    async fn retry_and_skip_one(&mut self) {
        let Some(name) = self.any_stream(true) else {
            return;
        };
        let plan = self.plans[&name.hook].clone();
        self.retry(&name).await;
        let stream = self.stream(&name);
        let next = stream.position;
        let id = stream.events[next].id;
        let skipped = self.skip(&name, id).await;
        let stream = self.stream(&name);
        match skipped {
            Ok(()) => stream.bury(true),
            Err(admin::Error::Conflict(_)) => {
                stream.run(plan.reducer.as_ref().unwrap(), plan.on_error);
                assert!(stream.position > next, "{name}: neither passed it");
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn skip_another(&mut self) {
        if let Some(name) = self.any_stream(true) {
            let stream = self.stream(&name);
            let others = [stream.position.wrapping_sub(1), stream.position + 1];
            let kept = |at: &usize| *at >= stream.floor;
            let others = others.map(|at| stream.events.get(at).filter(|_| kept(&at)).map(|e| e.id));
            for other in others.into_iter().flatten() {
                let skipped = self.skip(&name, other).await;
                assert!(matches!(skipped, Err(admin::Error::Conflict(_))));
            }
        }
    }

    /// Gives a hook another reducer, or none. Only the events after it are folded by it, so this
    /// waits until the ones before it are.
    async fn edit(&mut self) {
        self.rest().await;
        let name: Name = HOOKS[self.rng.random_range(0..HOOKS.len())]
            .parse()
            .unwrap();
        let plan = self.plan(name.clone());
        let (hook, store) = (self.hook(&name).await, self.engine().store.clone());
        store
            .edit_hook(&hook, &plan, Timestamp::now())
            .await
            .unwrap();
        self.engine().config_changed().await.unwrap();
        self.plans.insert(name.clone(), plan.clone());
        // A reducer that is set again begins at the first stored event.
        if plan.reducer.is_none() || hook.reduce().is_none() {
            let of_hook = self.streams.iter_mut().filter(|((h, _), _)| *h == name);
            of_hook.for_each(|(_, stream)| stream.begin_anew());
        }
        let fold = |hook: &Hook| hook.reduce().map(|handler| (handler.id, handler.fold));
        let reducer = |hook: &Hook| hook.reduce().and_then(|handler| handler.reducer().cloned());
        let edited = self.hook(&name).await;
        if let (Some((old, before)), Some((new, after))) = (fold(&hook), fold(&edited)) {
            let changed = i64::from(reducer(&hook) != reducer(&edited));
            assert_eq!((new, after), (old, before + changed));
        }
    }

    /// Removes what a hook has received before one of its events, while turns go on or when they are done.
    async fn prune(&mut self) {
        let name = &HOOKS[self.rng.random_range(0..HOOKS.len())];
        // Skips by turns are known to the model only after the work has settled.
        let skips = self
            .plans
            .values()
            .any(|plan| plan.on_error == OnError::Skip);
        let rested = skips || self.rng.random_bool(0.5);
        if rested {
            self.rest().await;
        }
        let hook = self.hook(&name.parse().unwrap()).await;
        let of_hook = self.streams.iter().filter(|((of, _), _)| *of == hook.name);
        let events = of_hook.flat_map(|(_, stream)| &stream.events);
        let times: Vec<_> = events.map(|event| event.received_at).collect();
        let Some(before) = times
            .get(self.rng.random_range(0..times.len().max(1)))
            .copied()
        else {
            return;
        };
        prune_before(self.engine(), &hook, before).await.unwrap();
        let plan = self.plans[&hook.name].clone();
        let (reducer, on_error) = (plan.reducer.as_ref(), plan.on_error);
        let names: Vec<_> = self
            .streams
            .keys()
            .filter(|(of, _)| *of == hook.name)
            .cloned()
            .collect();
        for name in names {
            let row = self.row(&name).await.unwrap();
            let floor = row.floor.0 as usize;
            let stream = self.streams.get_mut(&name).unwrap();
            while stream.floor < floor {
                assert!(stream.events[stream.floor].received_at < before, "{name:?}");
                assert!(
                    stream.prune(reducer, on_error),
                    "{name:?} at {}",
                    stream.floor
                );
            }
            assert_eq!(stream.floor, floor, "{name:?}");
            let passed = match reducer {
                Some(_) => stream.position,
                None => stream.events.len(),
            };
            let next = stream
                .events
                .get(floor)
                .filter(|_| rested && floor < passed);
            if let Some(next) = next.filter(|next| next.received_at < before) {
                assert!(
                    !stream.clone().prune(reducer, on_error),
                    "{name:?} keeps {next:?}"
                );
            }
            if let Some(handler) = hook.reduce().filter(|_| floor > 0) {
                let stream = stream.clone();
                let store = &self.engine().store;
                let found = store
                    .beginnings(hook.id, handler.id, row.id, row.id)
                    .await
                    .unwrap();
                let state = found[0].shadow.state.as_ref();
                let state = state.map(|text| serde_json::from_str(text).unwrap());
                assert_eq!(
                    (state, &found[0].shadow.chain),
                    (stream.begins.0, &stream.begins.1)
                );
            }
        }
        self.events_are_right().await;
    }

    async fn hook(&self, name: &Name) -> Hook {
        let hooks = self.engine().store.hooks().await.unwrap();
        hooks.into_iter().find(|hook| hook.name == *name).unwrap()
    }

    // The checks.

    async fn row(&self, (hook, key): &(Name, OrderingKey)) -> Option<StreamRow> {
        let hook = self.hook(hook).await.id;
        self.engine().store.stream(hook, key).await.unwrap()
    }

    /// Waits until no work is left, and checks everything.
    async fn rest(&mut self) {
        for ((hook, _), stream) in &mut self.streams {
            let plan = &self.plans[hook];
            if let Some(reducer) = &plan.reducer {
                stream.run(reducer, plan.on_error);
            }
        }
        self.events_are_right().await;
        for (name, stream) in &self.streams {
            let row = self.row(name).await.unwrap();
            if let Some(handler) = self.hook(&name.0).await.reduce() {
                let cursor = CursorId {
                    stream: row.id,
                    handler: handler.id,
                };
                self.is_quiet(cursor).await;
                self.cursor_is_right(cursor, stream).await;
            }
        }
    }

    async fn is_quiet(&self, cursor: CursorId) {
        let mut moved = self.engine().changes.applied.watch(cursor.stream);
        loop {
            let (found, head, _) = self.engine().store.cursor(cursor).await.unwrap().unwrap();
            let is_held = matches!(found.condition, Condition::Held { .. });
            if is_held || found.position.behind(head) == 0 {
                return;
            }
            let wait = tokio::time::timeout(QUIET_MAX, moved.changed()).await;
            wait.unwrap_or_else(|_| panic!("forgotten: {found:?}, head {head}"))
                .unwrap();
        }
    }

    async fn cursor_is_right(&self, id: CursorId, stream: &Stream) {
        let store = &self.engine().store;
        let (cursor, ..) = store.cursor(id).await.unwrap().unwrap();
        let state = cursor
            .state
            .map(|text| serde_json::from_str(&text).unwrap());
        let is_held = matches!(cursor.condition, Condition::Held { .. });
        assert_eq!(
            (cursor.position.0 as usize, is_held, &state),
            (stream.position, stream.held, &stream.state),
            "{stream:?}"
        );
        assert_eq!(cursor.chain, stream.chain, "{stream:?}");
        for seq in 1..=stream.events.len() {
            let letter = store.dead_letter(id, Seq(seq as i64)).await.unwrap();
            let by_operator = letter.map(|reason| reason == "skipped by an operator");
            assert_eq!(by_operator, stream.dead.get(&seq).copied(), "seq {seq}");
        }
    }

    /// Every stream has the acknowledged events, in that order, under gapless numbers, and no others.
    async fn events_are_right(&self) {
        for (name, stream) in &self.streams {
            let row = self.row(name).await.unwrap();
            let store = &self.engine().store;
            let stored = store.events_after(row.id, Seq(0), i64::MAX).await.unwrap();
            let stored: Vec<_> = stored
                .iter()
                .map(|s| {
                    (
                        s.event.seq.0,
                        s.event.id,
                        &*s.event.body,
                        &s.event.dedupe_key,
                    )
                })
                .collect();
            let sent = stream.events.iter().zip(1..).skip(stream.floor);
            let sent: Vec<_> = sent
                .map(|(e, seq)| (seq, e.id, e.body.as_bytes(), &e.dedupe_key))
                .collect();
            assert_eq!(stored, sent, "{name:?}");
            let numbers = (row.floor.0 as usize, row.head.0 as usize);
            assert_eq!(numbers, (stream.floor, stream.events.len()), "{name:?}");
            if let Some(last) = stream.events.last().filter(|_| !sent.is_empty()) {
                let found = store.event(last.id).await.unwrap().unwrap();
                assert_eq!(found.event.seq, row.head, "{name:?}");
            }
        }
    }
}
