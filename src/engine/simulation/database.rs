//! The database of the simulation: rows in memory, with one transaction for each method, as the store's
//! statements promise. Violations are detected where they are written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::destination::Destination;
use super::mutant::Mutant;
use crate::domain::cursor::{Applied, Chain, Condition, Cursor, CursorId, Era};
use crate::domain::event::{Event, EventId, StreamId};
use crate::domain::forward::Forward;
use crate::domain::hook::{
    DedupeBy, Handler, HandlerId, Hook, HookId, OnError, OrderBy, Reducer, Source, Unordered, Work,
};
use crate::domain::keep::Keep;
use crate::domain::lane::{LaneId, LaneSet, Mode, Slot, overlap, slots};
use crate::domain::name::{Name, OrderingKey};
use crate::domain::position::{Position, Seq};
use crate::domain::secret::Secrets;
use crate::domain::time::Timestamp;
use crate::engine::catalog::{Snapshot, Stops};
use crate::store::{
    Advance, Attribution, CursorBacklog, HookStop, Input, InputRequest, LaneMode, LaneRow, Mover,
    NamespaceMove, NodeRow, SetState, Step, StreamRow, Swap,
};

/// State of a lane set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Planned,
    Opening,
    Stable,
    Closing,
}

/// A lane that is not sealed.
#[derive(Clone)]
pub struct Lane {
    pub row: LaneRow,
    pub mode: Mode,
    /// Version of the configuration in which its mode was set.
    since: i64,
}

/// A stream with its only cursor.
pub struct Stream {
    pub hook: HookId,
    pub slot: Slot,
    pub events: Vec<Arc<Event>>,
    /// For each event when it was sent, and when that was acknowledged.
    pub times: Vec<(u64, Option<u64>)>,
    pub cursor: Cursor,
    /// The correct state and chain at its position.
    truth: (Option<String>, Chain),
    /// Events that were skipped.
    pub dead: HashSet<Seq>,
    /// Its destination, if its events are delivered.
    pub destination: Option<Destination>,
}

/// A rebuild of a state, with the version of the reducer and the node that works on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuild {
    pub stream: StreamId,
    pub fold: i64,
    pub node: Option<String>,
}

pub struct Database {
    mutant: Mutant,
    pub version: i64,
    epoch: i64,
    pub nodes: Vec<NodeRow>,
    gone: HashSet<String>,
    pub lanes: Vec<Lane>,
    pub sets: Vec<(LaneSet, Stage)>,
    pub hooks: Vec<Arc<Hook>>,
    pub stops: HashMap<HookId, (HookStop, i64)>,
    marks: HashMap<CursorId, (Name, Position)>,
    /// The epoch drawn at the end of each hook's last move.
    moved: HashMap<HookId, i64>,
    /// Deliveries that nodes had in flight when they gave up their lanes.
    flights: Vec<(CursorId, String)>,
    pub streams: BTreeMap<StreamId, Stream>,
    pub rebuild: Option<Rebuild>,
    /// The configuration, once it has been read.
    read: Option<Arc<Snapshot>>,
    pub broken: Option<String>,
}

/// The state after one more event, as folded by a version of the reducer; the state names the version
/// that folded last.
pub fn fold(code: u64, state: Option<&str>, event: &Event) -> String {
    let numbers: Vec<_> = state.iter().flat_map(|state| state.split(':')).collect();
    let (count, hash) = match numbers[..] {
        [count, hash, _] => (number(count), number(hash)),
        _ => (0, 7),
    };
    let seq = event.seq.0.unsigned_abs();
    let hash = hash.wrapping_mul(30 + code).wrapping_add(seq);
    format!("{}:{hash}:{code}", count + 1)
}

/// The version that folded a state last.
fn code_of(state: Option<&str>) -> u64 {
    let code = state.and_then(|state| state.rsplit_once(':'));
    code.map_or(0, |(_, code)| number(code))
}

/// The version of a reducer, which is its source text.
pub fn code(reducer: &Reducer) -> u64 {
    match reducer {
        Reducer::Script(source) => number(&source.text),
        _ => 0,
    }
}

fn reducer(code: i64) -> Reducer {
    Reducer::Script(Arc::new(Source {
        file: "reduce.js".to_owned(),
        text: code.to_string(),
    }))
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

fn cursor_of(stream: StreamId, hook: HookId) -> CursorId {
    CursorId {
        stream,
        handler: HandlerId(hook.0),
    }
}

/// A forward handler that gives an event up after three tries.
fn forward() -> Work {
    let mut to = Forward::to("http://crm.example/".parse().unwrap());
    to.attempts = Some(3);
    Work::Forward {
        to,
        secrets: Secrets::default(),
    }
}

fn hook(id: i64, namespace: &Name, work: Work, on_error: OnError) -> Hook {
    let name: Name = format!("hook{id}").parse().unwrap();
    let handler = Handler {
        id: HandlerId(id),
        hook: HookId(id),
        name: "reduce".parse().unwrap(),
        work,
        only: Default::default(),
        fold: 1,
        on_error,
        debounce: None,
        replay: None,
    };
    Hook {
        id: HookId(id),
        name,
        namespace: namespace.clone(),
        order_by: OrderBy::Nothing,
        unordered: Unordered::Keep,
        dedupe_by: DedupeBy::default(),
        verify: None,
        handshake: None,
        versioning: None,
        version_rule: 0,
        allow_from: crate::domain::network::Networks::default(),
        body_max: 1,
        keep: Keep::default(),
        handlers: vec![Arc::new(handler)],
        created_at: Timestamp::default(),
    }
}

/// Advances the correct state by one event. `code` is `None` for a handler that delivers.
fn one_more(
    (state, chain): &mut (Option<String>, Chain),
    code: Option<u64>,
    event: &Event,
    dead: &HashSet<Seq>,
) {
    let applied = match dead.contains(&event.seq) {
        true => Applied::Skipped,
        false => {
            *state = code.map(|code| fold(code, state.as_deref(), event));
            Applied::Folded
        }
    };
    *chain = chain.next(event.id, applied);
}

impl Database {
    /// Two namespaces with two lanes each, and two hooks in the first with three streams each. The second hook
    /// forwards its events if the world `delivers`.
    pub fn new(mutant: Mutant, delivers: bool, random: &mut impl FnMut() -> u16) -> Self {
        let mut database = Self {
            mutant,
            version: 1,
            epoch: 0,
            nodes: Vec::new(),
            gone: HashSet::new(),
            lanes: Vec::new(),
            sets: Vec::new(),
            hooks: Vec::new(),
            stops: HashMap::new(),
            marks: HashMap::new(),
            moved: HashMap::new(),
            flights: Vec::new(),
            streams: BTreeMap::new(),
            rebuild: None,
            read: None,
            broken: None,
        };
        for namespace in super::NAMESPACES {
            let set = LaneSet {
                namespace: namespace.parse().unwrap(),
                generation: 1,
                lanes: 2,
            };
            database.open(&set, SetState::Stable, Mode::Active);
            database.sets.push((set, Stage::Stable));
        }
        let home = database.sets[0].0.namespace.clone();
        for (id, on_error) in [(1, OnError::Hold), (2, OnError::Skip)] {
            let forwards = delivers && id == 2;
            let work = match forwards {
                true => forward(),
                false => Work::Reduce(reducer(1)),
            };
            database
                .hooks
                .push(Arc::new(hook(id, &home, work, on_error)));
            for stream in [
                StreamId(id * 10),
                StreamId(id * 10 + 1),
                StreamId(id * 10 + 2),
            ] {
                let stored = Stream {
                    hook: HookId(id),
                    slot: Slot(random()),
                    events: Vec::new(),
                    times: Vec::new(),
                    cursor: Cursor::new(cursor_of(stream, HookId(id))),
                    truth: (None, Chain::default()),
                    dead: HashSet::new(),
                    destination: forwards.then(Destination::default),
                };
                database.streams.insert(stream, stored);
            }
        }
        database
    }

    fn breaks(&mut self, what: impl FnOnce() -> String) {
        self.broken.get_or_insert_with(what);
    }

    fn changed(&mut self) -> i64 {
        self.version += 1;
        self.read = None;
        self.version
    }

    // Events and cursors.

    /// Stores an event; returns its place in the stream.
    pub fn append(&mut self, stream: StreamId, body: u8, sent: u64) -> Option<usize> {
        let stored = self.streams.get_mut(&stream)?;
        let seq = stored.events.len() as i64 + 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&stream.0.to_be_bytes());
        id[8..].copy_from_slice(&seq.to_be_bytes());
        let event = Event {
            stream,
            seq: Seq(seq),
            id: EventId::from_bytes(id),
            received_at: Timestamp::from_millis(sent as i64),
            key_id: None,
            dedupe_key: None,
            headers: "".into(),
            body: vec![body].into(),
            late: None,
            is_damaged: false,
        };
        stored.events.push(Arc::new(event));
        stored.times.push((sent, None));
        Some(stored.events.len() - 1)
    }

    pub fn inputs(&self, wants: &[InputRequest]) -> Vec<Option<Input>> {
        let input = |want: &InputRequest| {
            let stream = self.streams.get(&want.cursor.stream)?;
            let after = stream.cursor.position.0 as usize;
            let events = stream.events.iter().skip(after).take(want.events_max);
            Some(Input {
                cursor: stream.cursor.clone(),
                head: Seq(stream.events.len() as i64),
                events: events.cloned().collect(),
            })
        };
        wants.iter().map(input).collect()
    }

    pub fn behind(&self) -> Vec<CursorBacklog> {
        let received = |stream: &Stream| {
            let next = usize::try_from(stream.cursor.position.0).unwrap_or(0);
            let first = stream.events.get(next)?.received_at;
            Some((first, stream.events.last()?.received_at))
        };
        let streams = self.streams.values();
        let behind = streams.map(|stream| CursorBacklog {
            cursor: stream.cursor.id,
            slot: stream.slot,
            events: stream
                .cursor
                .position
                .behind(Seq(stream.events.len() as i64)),
            flows: stream.cursor.condition == Condition::Flowing,
            received: received(stream),
        });
        behind.filter(|behind| behind.events > 0).collect()
    }

    pub fn slots(&self) -> HashMap<StreamId, Slot> {
        let streams = self.streams.iter();
        streams.map(|(id, stream)| (*id, stream.slot)).collect()
    }

    /// `acted` is the version that the mover's node acts by; `None` when it has lost the right to its
    /// lanes, or is not a node.
    pub fn advance(&mut self, steps: Vec<Step>, acted: Option<i64>) -> Vec<Advance> {
        let advanced = steps.into_iter().map(|step| self.advance_one(step, acted));
        advanced.collect()
    }

    fn advance_one(&mut self, step: Step, acted: Option<i64>) -> Advance {
        if let Some(why) = acted.and_then(|acted| self.stopped(&step, acted)) {
            self.breaks(|| format!("{why}: {step:?}"));
        }
        let blind = self.mutant == Mutant::NoCompare;
        let Some(stream) = self.streams.get_mut(&step.cursor.stream) else {
            return Advance::Lost;
        };
        let row = &mut stream.cursor;
        let is_same = row.era == step.era && row.position == step.from || blind;
        let is_held = matches!(row.condition, Condition::Held { .. });
        if !is_same || (is_held && step.mover == Mover::Turn) {
            return Advance::Lost;
        }
        let (from, to) = (row.position.0.min(step.to.0) as usize, step.to.0 as usize);
        let went_back = step.to < row.position;
        stream
            .dead
            .extend(step.skipped.iter().map(|letter| letter.seq));
        let delivers = stream.destination.is_some();
        let code = (!delivers).then(|| code_of(step.state.as_deref()));
        for event in &stream.events[from..to] {
            one_more(&mut stream.truth, code, event, &stream.dead);
        }
        let passed = stream.destination.as_ref();
        let passed = passed.and_then(|to_it| to_it.passed_over(from, to, &stream.dead));
        (row.position, row.condition) = (step.to, step.condition.clone());
        (row.state, row.chain) = (step.state.clone(), step.chain.clone());
        if went_back || stream.truth != (step.state.clone(), step.chain.clone()) {
            self.breaks(|| format!("not the fold of its events: {step:?}"));
        }
        if let Some(seq) = passed {
            self.breaks(|| format!("event {seq} is passed without a 2xx: {step:?}"));
        }
        Advance::Moved
    }

    /// As `Store::advance_held`.
    pub fn advance_held(&mut self, step: &Step) -> Advance {
        let Some(stream) = self.streams.get_mut(&step.cursor.stream) else {
            return Advance::Lost;
        };
        let row = &stream.cursor;
        let is_held = matches!(row.condition, Condition::Held { .. });
        if !is_held || (row.era, row.position) != (step.era, step.from) {
            return Advance::Lost;
        }
        let held = Step {
            condition: row.condition.clone(),
            mover: Mover::Operator,
            ..step.clone()
        };
        self.advance_one(held, None)
    }

    /// As `Store::mark_in_flight`.
    pub fn mark_in_flight(&mut self, cursors: &[CursorId], node: &str) {
        self.flights.retain(|(of, _)| !cursors.contains(of));
        let marked = cursors.iter().map(|cursor| (*cursor, node.to_owned()));
        self.flights.extend(marked);
    }

    /// As `Store::unmark_in_flight`.
    pub fn unmark_in_flight(&mut self, cursor: CursorId, node: &str) {
        self.flights.retain(|(of, by)| *of != cursor || by != node);
    }

    /// As `Store::in_flight_elsewhere`.
    pub fn in_flight_elsewhere(&self, me: &str) -> HashSet<CursorId> {
        let flights = self.flights.iter();
        let elsewhere = flights.filter(|(_, node)| node != me && self.lives(node));
        elsewhere.map(|(cursor, _)| *cursor).collect()
    }

    /// As `Store::advance_rebuilds` for one stream. `acted` as for [`Self::advance`].
    pub fn swap(&mut self, swap: &Swap, acted: Option<i64>) -> bool {
        let (cursor, to) = (swap.shadow.cursor, swap.shadow.position);
        let Some(stream) = self.streams.get(&cursor.stream) else {
            return false;
        };
        let row = &stream.cursor;
        let is_ahead = to > row.position;
        if row.era != swap.era || to < row.position {
            return false;
        }
        let stop = self.stop_of(stream, cursor, to);
        if is_ahead && stop.is_some() && self.mutant != Mutant::SwapWhereStopped {
            return false;
        }
        if let Some((why, since)) = stop.filter(|_| is_ahead)
            && acted.is_some_and(|acted| since <= acted)
        {
            self.breaks(|| format!("{why}: {swap:?}"));
        }
        let keeps_era = self.mutant == Mutant::SwapKeepsEra;
        let Some(stream) = self.streams.get_mut(&cursor.stream) else {
            return false;
        };
        stream
            .dead
            .extend(swap.skipped.iter().map(|letter| letter.seq));
        let code = Some(code_of(swap.shadow.state.as_deref()));
        let mut truth = (None, Chain::default());
        for event in &stream.events[..to.0 as usize] {
            one_more(&mut truth, code, event, &stream.dead);
        }
        let is_right = truth == (swap.shadow.state.clone(), swap.shadow.chain.clone());
        stream.truth = truth;
        let row = &mut stream.cursor;
        (row.position, row.condition) = (to, swap.condition.clone());
        row.state.clone_from(&swap.shadow.state);
        row.chain = swap.shadow.chain.clone();
        row.era = Era(row.era.0 + i64::from(!keeps_era));
        if !is_right {
            self.breaks(|| format!("not the fold of its events: {swap:?}"));
        }
        true
    }

    /// Begins a rebuild; a stream whose events are delivered has no state.
    pub fn begin_rebuild(&mut self, stream: StreamId, fold: i64) {
        let known = self.streams.get(&stream);
        if known.is_some_and(|known| known.destination.is_some()) {
            return;
        }
        let new = || Rebuild {
            stream,
            fold,
            node: None,
        };
        self.rebuild.get_or_insert_with(new);
    }

    /// Claims the rebuild for a node, unless another live node has it.
    pub fn claim_rebuild(&mut self, me: &str) -> Option<Rebuild> {
        let nodes = &self.nodes;
        let rebuild = self.rebuild.as_mut()?;
        let owner = rebuild.node.as_deref();
        let is_free = owner.is_none_or(|node| node == me || !nodes.iter().any(|n| n.id == node));
        if !is_free {
            return None;
        }
        rebuild.node = Some(me.to_owned());
        Some(rebuild.clone())
    }

    pub fn end_rebuild(&mut self, rebuild: &Rebuild) {
        let is_it = |now: &Rebuild| (now.stream, now.fold) == (rebuild.stream, rebuild.fold);
        if self.rebuild.as_ref().is_some_and(is_it) {
            self.rebuild = None;
        }
    }

    /// Stores a new version of a hook's reducer; old states stay.
    pub fn edit_hook(&mut self, hook: HookId) {
        self.changed();
        let found = self.hooks.iter_mut().find(|known| known.id == hook);
        if let Some(hook) = found {
            let mut edited = (**hook).clone();
            let mut handler = (*edited.handlers[0]).clone();
            handler.fold += 1;
            if matches!(handler.work, Work::Reduce(_)) {
                handler.work = Work::Reduce(reducer(handler.fold));
            }
            edited.handlers = vec![Arc::new(handler)];
            *hook = Arc::new(edited);
        }
    }

    pub fn row(&self, id: StreamId) -> Option<StreamRow> {
        let stream = self.streams.get(&id)?;
        Some(StreamRow {
            id,
            hook: stream.hook,
            key: OrderingKey::stored(id.0.to_string()),
            slot: stream.slot,
            head: Seq(stream.events.len() as i64),
            floor: Seq(0),
            created_at: Timestamp::default(),
        })
    }

    /// The reason why a turn may not move a cursor once every node acts by the operators' requests.
    fn stopped(&self, step: &Step, acted: i64) -> Option<&'static str> {
        if step.mover == Mover::Operator || step.to == step.from {
            return None;
        }
        self.grounded(step.cursor, step.to, acted)
    }

    /// The reason why no delivery that moves a cursor this far may be in flight on a node that acts by a
    /// version.
    pub fn grounded(&self, cursor: CursorId, to: Position, acted: i64) -> Option<&'static str> {
        let stream = self.streams.get(&cursor.stream)?;
        let stop = self.stop_of(stream, cursor, to);
        stop.filter(|(_, since)| *since <= acted)
            .map(|(why, _)| why)
    }

    /// The cause that keeps a cursor from moving this far, and the version in which it began.
    fn stop_of(
        &self,
        stream: &Stream,
        cursor: CursorId,
        to: Position,
    ) -> Option<(&'static str, i64)> {
        if let Some((_, since)) = self.stops.get(&stream.hook) {
            return Some(("a turn of a hook that stands still", *since));
        }
        let lane = self.lane_of(stream)?;
        let mark = self.marks.get(&cursor).map(|(_, mark)| *mark);
        match lane.mode {
            Mode::Paused => Some(("a turn in a paused lane", lane.since)),
            Mode::Draining | Mode::Drained if mark.is_none_or(|mark| to > mark) => {
                Some(("a turn beyond its mark", lane.since))
            }
            _ => None,
        }
    }

    pub fn namespace_of(&self, hook: HookId) -> &Name {
        let found = self.hooks.iter().find(|known| known.id == hook);
        &found.unwrap().namespace
    }

    /// The lane of a stream by the newest rows.
    pub fn lane_of(&self, stream: &Stream) -> Option<&Lane> {
        let set = self.set(self.namespace_of(stream.hook));
        let id = set.lane(stream.slot);
        self.lanes.iter().find(|lane| lane.row.id == id)
    }

    pub fn mark(&self, cursor: CursorId) -> Option<Position> {
        self.marks.get(&cursor).map(|(_, mark)| *mark)
    }

    pub fn has_marks(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Releases a cursor; true if it was set aside.
    pub fn release(&mut self, stream: StreamId) -> bool {
        let stream = self.streams.get_mut(&stream);
        let condition = stream.map(|stream| std::mem::take(&mut stream.cursor.condition));
        condition.is_some_and(|condition| condition != Condition::Flowing)
    }

    // Nodes and their lanes.

    pub fn join(&mut self, row: NodeRow) {
        if !self.gone.insert(row.id.clone()) {
            self.breaks(|| format!("{} comes back", row.id));
        }
        self.nodes.push(row);
    }

    pub fn beat(&mut self, id: &str, config_seen: i64) -> bool {
        let row = self.nodes.iter_mut().find(|node| node.id == id);
        let Some(row) = row else { return false };
        row.beat += 1;
        row.config_seen = config_seen;
        true
    }

    pub fn leave(&mut self, id: &str) {
        let row = self.nodes.iter_mut().filter(|node| node.id == id);
        row.for_each(|node| node.state = "leaving".to_owned());
    }

    pub fn remove_node(&mut self, id: &str) {
        self.nodes.retain(|node| node.id != id);
    }

    pub fn reap(&mut self, id: &str, beat: i64) {
        self.nodes.retain(|node| node.id != id || node.beat != beat);
    }

    /// A process that starts on a machine knows that its predecessor there is dead.
    pub fn forget_data_dir(&mut self, machine: usize) {
        let data_dir = machine.to_string();
        self.nodes.retain(|node| node.data_dir != data_dir);
    }

    pub fn lives(&self, id: &str) -> bool {
        self.nodes.iter().any(|node| node.id == id)
    }

    pub fn rows(&self) -> Vec<LaneRow> {
        self.lanes.iter().map(|lane| lane.row.clone()).collect()
    }

    pub fn take_lanes(&mut self, lanes: &[LaneId], me: &str) -> Vec<(LaneId, i64)> {
        let mut taken = Vec::new();
        for lane in lanes {
            self.epoch += 1;
            if self.take(lane, me) {
                taken.push((lane.clone(), self.epoch));
            }
        }
        taken
    }

    fn take(&mut self, id: &LaneId, me: &str) -> bool {
        let Some(at) = self.lanes.iter().position(|lane| lane.row.id == *id) else {
            return false;
        };
        let row = &self.lanes[at].row;
        let owner = row.node.as_ref();
        let is_free = owner.is_none_or(|node| !self.lives(node));
        let waits = self.lanes.iter().any(|old| {
            old.row.id.namespace == id.namespace
                && old.row.id.generation < id.generation
                && overlap((old.row.id.index, old.row.lanes), (id.index, row.lanes))
        });
        if !is_free || !self.lives(me) || (waits && self.mutant != Mutant::NoSealWait) {
            return false;
        }
        if row.epoch >= self.epoch {
            self.breaks(|| format!("the epochs of {id} do not grow"));
        }
        let row = &mut self.lanes[at].row;
        (row.node, row.epoch) = (Some(me.to_owned()), self.epoch);
        true
    }

    pub fn release_lanes(&mut self, lanes: &[(LaneId, i64)], me: &str) {
        for lane in &mut self.lanes {
            let row = &mut lane.row;
            let is_ours = row.node.as_deref() == Some(me);
            if is_ours
                && lanes
                    .iter()
                    .any(|(id, epoch)| *id == row.id && *epoch == row.epoch)
            {
                row.node = None;
            }
        }
    }

    pub fn seal_lanes(&mut self, lanes: &[(LaneId, i64)], me: &str) {
        let nodes: HashSet<&str> = self.nodes.iter().map(|node| node.id.as_str()).collect();
        self.lanes.retain(|lane| {
            let row = &lane.row;
            let named = lanes.iter().find(|(id, _)| *id == row.id);
            let is_ours = named
                .is_some_and(|(_, epoch)| row.node.as_deref() == Some(me) && *epoch == row.epoch);
            let is_free = row.node.as_deref().is_none_or(|node| !nodes.contains(node));
            !(row.is_closing() && named.is_some() && (is_ours || is_free))
        });
    }

    /// Ends the resizes whose old lanes are all sealed.
    pub fn close_sets(&mut self) -> Vec<LaneSet> {
        let closed: Vec<LaneSet> = self
            .sets
            .iter()
            .filter(|(set, stage)| {
                let is_of = |lane: &Lane| {
                    lane.row.id.namespace == set.namespace
                        && lane.row.id.generation == set.generation
                };
                *stage == Stage::Closing && !self.lanes.iter().any(is_of)
            })
            .map(|(set, _)| set.clone())
            .collect();
        for set in &closed {
            self.sets.retain(|(known, _)| known != set);
            self.turn_to(&set.namespace, Stage::Opening, Stage::Stable);
            self.changed();
        }
        closed
    }

    // Lane sets and stops.

    /// The lane set of a namespace that runs, or is about to.
    pub fn set(&self, namespace: &Name) -> &LaneSet {
        let runs = |(set, stage): &&(LaneSet, Stage)| {
            set.namespace == *namespace && matches!(stage, Stage::Opening | Stage::Stable)
        };
        &self.sets.iter().find(runs).unwrap().0
    }

    pub fn has(&self, namespace: &Name, wanted: Stage) -> bool {
        let is = |(set, stage): &(LaneSet, Stage)| set.namespace == *namespace && *stage == wanted;
        self.sets.iter().any(is)
    }

    fn turn_to(&mut self, namespace: &Name, from: Stage, to: Stage) {
        for (set, stage) in &mut self.sets {
            if set.namespace != *namespace || *stage != from {
                continue;
            }
            *stage = to;
            for lane in &mut self.lanes {
                if lane.row.id.namespace == set.namespace
                    && lane.row.id.generation == set.generation
                {
                    lane.row.set = match to {
                        Stage::Closing => SetState::Closing,
                        Stage::Stable => SetState::Stable,
                        Stage::Opening | Stage::Planned => SetState::Opening,
                    };
                }
            }
        }
    }

    fn open(&mut self, set: &LaneSet, state: SetState, mode: Mode) {
        let since = self.version;
        self.lanes.extend(set.ids().map(|id| Lane {
            row: LaneRow {
                id,
                node: None,
                epoch: 0,
                lanes: set.lanes,
                set: state,
            },
            mode,
            since,
        }));
        self.lanes.sort_by(|a, b| a.row.id.cmp(&b.row.id));
    }

    /// True if the set is stable, which every change of lanes requires.
    fn locks(&self, set: &LaneSet) -> bool {
        let stable = (set.clone(), Stage::Stable);
        self.sets.contains(&stable) || self.mutant == Mutant::StopsCrossResizes
    }

    fn next(from: &LaneSet, lanes: u16) -> LaneSet {
        LaneSet {
            namespace: from.namespace.clone(),
            generation: from.generation + 1,
            lanes,
        }
    }

    pub fn begin_resize(&mut self, from: &LaneSet, lanes: u16) -> bool {
        let stable = (from.clone(), Stage::Stable);
        if !self.sets.contains(&stable) || self.has(&from.namespace, Stage::Planned) {
            return false;
        }
        let of_set: Vec<_> = self.of_set(from).collect();
        let kind = |mode| match mode {
            Mode::Drained => Mode::Draining,
            other => other,
        };
        let mode = kind(of_set[0].mode);
        let since = of_set.iter().map(|lane| lane.since).max().unwrap_or(0);
        if of_set.iter().any(|lane| kind(lane.mode) != mode) {
            return false;
        }
        self.follow(from, &Self::next(from, lanes), mode, since);
        true
    }

    fn of_set<'a>(&'a self, set: &'a LaneSet) -> impl Iterator<Item = &'a Lane> {
        let ours = |lane: &&Lane| {
            lane.row.id.namespace == set.namespace && lane.row.id.generation == set.generation
        };
        self.lanes.iter().filter(ours)
    }

    fn follow(&mut self, from: &LaneSet, to: &LaneSet, mode: Mode, since: i64) {
        self.turn_to(&from.namespace, Stage::Stable, Stage::Closing);
        self.sets
            .retain(|(set, stage)| *stage != Stage::Planned || set.namespace != to.namespace);
        self.sets.push((to.clone(), Stage::Opening));
        self.open(to, SetState::Opening, mode);
        let version = self.changed();
        for lane in self.lanes.iter_mut().filter(|lane| {
            lane.row.id.namespace == to.namespace && lane.row.id.generation == to.generation
        }) {
            lane.since = if mode == Mode::Active { version } else { since };
        }
    }

    pub fn plan_resize(&mut self, from: &LaneSet, lanes: u16) -> bool {
        let stable = (from.clone(), Stage::Stable);
        if !self.sets.contains(&stable) || self.has(&from.namespace, Stage::Planned) {
            return false;
        }
        self.sets.push((Self::next(from, lanes), Stage::Planned));
        self.drain_lanes(from, &from.ids().collect::<Vec<_>>())
    }

    pub fn begin_planned(&mut self, namespace: &Name) -> bool {
        let found = |wanted| {
            let is = move |(set, stage): &&(LaneSet, Stage)| {
                set.namespace == *namespace && *stage == wanted
            };
            self.sets.iter().find(is).map(|(set, _)| set.clone())
        };
        let (Some(from), Some(to)) = (found(Stage::Stable), found(Stage::Planned)) else {
            return false;
        };
        if self.of_set(&from).any(|lane| lane.mode != Mode::Drained) {
            return false;
        }
        self.follow(&from, &to, Mode::Active, 0);
        self.marks.retain(|_, (of, _)| of != namespace);
        true
    }

    fn set_modes(
        &mut self,
        lanes: &[LaneId],
        mode: Mode,
        may: impl Fn(Mode) -> bool,
    ) -> Vec<LaneId> {
        let since = self.changed();
        let mut changed = Vec::new();
        for lane in &mut self.lanes {
            if lanes.contains(&lane.row.id) && lane.mode != mode && may(lane.mode) {
                (lane.mode, lane.since) = (mode, since);
                changed.push(lane.row.id.clone());
            }
        }
        changed
    }

    /// Applies a request about lanes to all of their slots, whatever lane set has them now.
    fn asked(&mut self, set: &LaneSet, lanes: &[LaneId], is: impl Fn(Mode) -> bool) {
        let newest = self.set(&set.namespace).clone();
        let strays = |lane: &LaneId| {
            let (ours, of) = (lane.index, set.lanes);
            let overlaps = |other: &&Lane| {
                let id = &other.row.id;
                let shares = slots(ours, of).start < slots(id.index, newest.lanes).end
                    && slots(id.index, newest.lanes).start < slots(ours, of).end;
                shares && !is(other.mode)
            };
            self.of_set(&newest)
                .find(overlaps)
                .map(|lane| lane.row.id.clone())
        };
        if let Some(stray) = lanes.iter().find_map(strays) {
            self.breaks(|| format!("{stray} does not do what was asked"));
        }
    }

    pub fn pause_lanes(&mut self, set: &LaneSet, lanes: &[LaneId]) -> bool {
        if !self.locks(set) {
            return false;
        }
        self.set_modes(lanes, Mode::Paused, |_| true);
        self.asked(set, lanes, |mode| mode == Mode::Paused);
        true
    }

    pub fn drain_lanes(&mut self, set: &LaneSet, lanes: &[LaneId]) -> bool {
        if !self.locks(set) {
            return false;
        }
        let may = |mode| matches!(mode, Mode::Active | Mode::Paused);
        let drained = self.set_modes(lanes, Mode::Draining, may);
        let mut marks = Vec::new();
        for stream in self.streams.values() {
            let head = Position(stream.events.len() as i64);
            let lane = set.lane(stream.slot);
            let is_here = *self.namespace_of(stream.hook) == set.namespace;
            let is_held = matches!(stream.cursor.condition, Condition::Held { .. });
            if is_here && drained.contains(&lane) && stream.cursor.position < head && !is_held {
                marks.push((stream.cursor.id, head));
            }
        }
        for (cursor, head) in marks {
            let mark = self.marks.entry(cursor);
            let mark = mark.or_insert_with(|| (set.namespace.clone(), head));
            if mark.0 != set.namespace {
                *mark = (set.namespace.clone(), head);
            }
        }
        self.asked(set, lanes, Mode::has_marks);
        true
    }

    pub fn resume_lanes(&mut self, set: &LaneSet, lanes: &[LaneId]) -> bool {
        if !self.locks(set) {
            return false;
        }
        self.set_modes(lanes, Mode::Active, |_| true);
        let streams = &self.streams;
        self.marks.retain(|cursor, (namespace, _)| {
            let lane = set.lane(streams[&cursor.stream].slot);
            *namespace != set.namespace || !lanes.contains(&lane)
        });
        self.sets.retain(|(planned, stage)| {
            *stage != Stage::Planned || planned.namespace != set.namespace
        });
        self.asked(set, lanes, |mode| mode == Mode::Active);
        true
    }

    /// Indices of the lanes that have not reached their marks.
    pub fn left(&self, set: &LaneSet) -> HashSet<u16> {
        let mut left = HashSet::new();
        for (cursor, (namespace, mark)) in &self.marks {
            let stream = &self.streams[&cursor.stream];
            let is_held = matches!(stream.cursor.condition, Condition::Held { .. });
            let stop = self.stops.get(&stream.hook);
            let is_paused = stop.is_some_and(|(stop, _)| stop.pause.is_some());
            let is_below = stream.cursor.position < *mark;
            if *namespace == set.namespace && is_below && !is_held && !is_paused {
                left.insert(stream.slot.lane(set.lanes));
            }
        }
        left
    }

    pub fn lanes_drained(&mut self, set: &LaneSet, lanes: &[LaneId]) {
        if !self.locks(set) {
            return;
        }
        let left = self.left(set);
        let done = lanes.iter().filter(|lane| !left.contains(&lane.index));
        let done: Vec<_> = done.collect();
        let since = self.changed();
        for lane in &mut self.lanes {
            if done.contains(&&lane.row.id) && lane.mode == Mode::Draining {
                // The lane's rights are the same as before.
                lane.mode = Mode::Drained;
                lane.since = lane.since.min(since);
            }
        }
    }

    pub fn pause_hook(&mut self, hook: HookId) {
        let since = self.changed();
        let (stop, _) = self
            .stops
            .entry(hook)
            .or_insert((HookStop::default(), since));
        stop.pause = Some(Attribution {
            by: "somebody".to_owned(),
            reason: None,
            at: Timestamp::from_millis(since),
        });
    }

    pub fn resume_hook(&mut self, hook: HookId) {
        self.changed();
        if let Some((stop, _)) = self.stops.get_mut(&hook) {
            stop.pause = None;
        }
        self.stops
            .retain(|_, (stop, _)| *stop != HookStop::default());
    }

    pub fn begin_move(&mut self, hook: HookId, from: &Name, to: &Name) -> Option<NamespaceMove> {
        let is_moving = self
            .stops
            .get(&hook)
            .is_some_and(|(stop, _)| stop.moving.is_some());
        let is_there = self.namespace_of(hook) == from;
        // The fault that this mutant has: the second mover goes on as if it were the first.
        let late = self.mutant == Mutant::LateMover;
        if (is_moving || !is_there) && !late {
            return None;
        }
        let since = self.changed();
        let moving = NamespaceMove {
            hook,
            to: to.clone(),
            since,
        };
        let (stop, _) = self
            .stops
            .entry(hook)
            .or_insert((HookStop::default(), since));
        stop.moving = Some(moving.clone());
        Some(moving)
    }

    pub fn end_move(&mut self, moving: &NamespaceMove) -> bool {
        let stop = self.stops.get_mut(&moving.hook);
        let late = self.mutant == Mutant::LateMover;
        let is_it = stop.is_some_and(|(stop, _)| stop.moving.as_ref() == Some(moving));
        let unseen = self
            .nodes
            .iter()
            .any(|node| node.config_seen < moving.since);
        if (!is_it && !late) || (unseen && self.mutant != Mutant::MoveBeforeAllAct) {
            return false;
        }
        self.give_up(moving.hook);
        if self.mutant != Mutant::MovesWithoutEpoch {
            self.epoch += 1;
            self.moved.insert(moving.hook, self.epoch);
        }
        let found = self.hooks.iter_mut().find(|hook| hook.id == moving.hook);
        if let Some(hook) = found {
            let mut moved = (**hook).clone();
            moved.namespace = moving.to.clone();
            *hook = Arc::new(moved);
        }
        self.marks.retain(|cursor, (namespace, _)| {
            cursor.handler.0 != moving.hook.0 || *namespace == moving.to
        });
        true
    }

    pub fn give_up_move(&mut self, moving: &NamespaceMove) {
        let stop = self.stops.get(&moving.hook);
        if stop.is_some_and(|(stop, _)| stop.moving.as_ref() == Some(moving)) {
            self.give_up(moving.hook);
        }
    }

    fn give_up(&mut self, hook: HookId) {
        self.changed();
        if let Some((stop, _)) = self.stops.get_mut(&hook) {
            stop.moving = None;
        }
        self.stops
            .retain(|_, (stop, _)| *stop != HookStop::default());
    }

    /// The present configuration.
    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        if let Some(read) = &self.read {
            return read.clone();
        }
        // Two stops of the same lane differ by their time, by which deliveries are told.
        let delivers = self.streams.values().any(|of| of.destination.is_some());
        let mode = |lane: &Lane| LaneMode {
            mode: lane.mode,
            by: None,
            at: delivers.then(|| Timestamp::from_millis(lane.since)),
            reason: None,
        };
        let stopped = self.lanes.iter().filter(|lane| lane.mode != Mode::Active);
        let stops = Stops {
            lanes: stopped
                .map(|lane| (lane.row.id.clone(), mode(lane)))
                .collect(),
            marks: self
                .marks
                .iter()
                .map(|(c, (_, mark))| (*c, *mark))
                .collect(),
            hooks: self
                .stops
                .iter()
                .map(|(h, (stop, _))| (*h, stop.clone()))
                .collect(),
        };
        let hooks = self.hooks.iter();
        let handlers = hooks.clone().flat_map(|hook| &hook.handlers);
        let runs = self.sets.iter();
        let runs = runs.filter(|(_, stage)| matches!(stage, Stage::Opening | Stage::Stable));
        let read = Arc::new(Snapshot {
            version: self.version,
            hooks: hooks.clone().map(|h| (h.name.clone(), h.clone())).collect(),
            hooks_by_id: hooks.clone().map(|h| (h.id, h.clone())).collect(),
            handlers: handlers.map(|h| (h.id, h.clone())).collect(),
            keys: HashMap::new(),
            thresholds: HashMap::new(),
            lane_sets: runs
                .map(|(set, _)| (set.namespace.clone(), set.clone()))
                .collect(),
            replays: Vec::new(),
            moved: self.moved.clone(),
            stops,
        });
        self.read = Some(read.clone());
        read
    }
}
