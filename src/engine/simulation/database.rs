//! The database of the simulation: rows in memory, with one transaction for each method, as the store's
//! statements promise. Violations are detected where they are written.

mod cursors;
pub mod folds;
mod lane_sets;
mod nodes;
mod rebuilds;
mod stops;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use self::folds::reducer;
use super::destination::Destination;
use super::mutant::Mutant;
use crate::domain::cursor::{Chain, Cursor, CursorId};
use crate::domain::event::{Event, StreamId};
use crate::domain::forward::Forward;
use crate::domain::hook::{
    DedupeBy, Handler, HandlerId, Hook, HookId, OnError, OrderBy, Unordered, Work,
};
use crate::domain::keep::Keep;
use crate::domain::lane::{LaneSet, Mode, Slot};
use crate::domain::name::{Name, OrderingKey};
use crate::domain::position::{Position, Seq};
use crate::domain::secret::Secrets;
use crate::domain::time::Timestamp;
use crate::engine::catalog::{Snapshot, Stops};
use crate::store::{HookStop, LaneMode, LaneRow, NodeRow, SetState, StreamRow};

/// The namespaces of every world.
pub const NAMESPACES: [&str; 2] = ["acme", "default"];

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
    /// Times at which each event was sent and acknowledged.
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
        for namespace in NAMESPACES {
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
            erased: Vec::new(),
            stops,
        });
        self.read = Some(read.clone());
        read
    }
}
