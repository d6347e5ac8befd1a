//! The configuration as it stood at one moment, read in one snapshot of the database.

use std::collections::HashMap;

use super::backend::session::{Sessions, Tx};
use super::{
    Error, HookStop, LaneMode, LastUse, Namespace, Statement, Store, counts, erase, hooks, keys,
    lane_modes, namespaces, replays, stops,
};
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::hook::{HandlerId, Hook, HookId, Replay};
use crate::domain::key::Key;
use crate::domain::lane::LaneId;
use crate::domain::position::Position;

/// Hooks, keys, namespaces, lane modes and stops, all of the same version.
#[derive(Debug)]
pub struct Configuration {
    /// Version number; it grows with every change of the configuration.
    pub version: i64,
    /// Every hook with its handlers, by name.
    pub hooks: Vec<Hook>,
    /// Every access key with its last use, oldest key first.
    pub keys: Vec<(Key, Option<LastUse>)>,
    /// Every namespace, by name.
    pub namespaces: Vec<Namespace>,
    /// Lanes in another mode than `active`.
    pub lane_modes: HashMap<LaneId, LaneMode>,
    /// Drain marks: the position up to which each cursor of a draining lane still moves. Empty while no
    /// lane drains.
    pub marks: HashMap<CursorId, Position>,
    /// The hooks whose cursors take no turns.
    pub hook_stops: HashMap<HookId, HookStop>,
    /// Running replays by number.
    pub replays: Vec<(HandlerId, Replay)>,
    /// The epoch drawn at the end of each hook's last move to another namespace.
    pub moved: HashMap<HookId, i64>,
    /// Streams that were erased and whose data is still being removed.
    pub erased: Vec<StreamId>,
}

/// Begins a read-only transaction in which every statement sees the database as the first one did.
const SNAPSHOT: Statement = Statement {
    sqlite: "begin",
    postgres: "begin isolation level repeatable read, read only",
};

impl Store {
    /// Reads the configuration in one snapshot: a change that commits meanwhile is absent as a whole.
    pub async fn configuration(&self) -> Result<Configuration, Error> {
        let mut tx = self.snapshot().await?;
        let version = counts::config_version(&mut tx).await?;
        let hooks = hooks::list(&mut tx, &self.vault).await?;
        let keys = keys::list(&mut tx).await?;
        let namespaces = namespaces::list(&mut tx).await?;
        let lane_modes = lane_modes::modes(&mut tx).await?;
        let has_marks = lane_modes.values().any(|lane| lane.mode.has_marks());
        let configuration = Configuration {
            version,
            hooks,
            keys,
            namespaces,
            marks: match has_marks {
                true => lane_modes::marks(&mut tx).await?,
                false => HashMap::new(),
            },
            hook_stops: stops::list(&mut tx).await?,
            moved: counts::moved(&mut tx).await?,
            replays: replays::list(&mut tx).await?,
            erased: erase::streams(&mut tx).await?,
            lane_modes,
        };
        tx.commit().await?;
        Ok(configuration)
    }

    /// Begins a transaction that reads one snapshot.
    pub(super) async fn snapshot(&self) -> Result<Tx, Error> {
        let (reader, text) = (&self.reader, self.sql(SNAPSHOT));
        match reader.sessions {
            Sessions::Own => Ok(Tx::begin(&reader.pool, reader, text).await?),
            Sessions::Shared => Ok(Tx::snapshot(reader).await?),
        }
    }
}
