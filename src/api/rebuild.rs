//! States folded again, as operators ask for it and see it.

use serde::{Deserialize, Serialize};

use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;

/// Which states to fold again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebuildSpec {
    /// Those of this hook.
    #[serde(default)]
    pub hook: Option<Name>,
    /// Only the one of this stream.
    #[serde(default)]
    pub stream: Option<StreamName>,
    /// Only compare, change nothing.
    #[serde(default)]
    pub check: bool,
    /// Only say how much it is.
    #[serde(default)]
    pub dry_run: bool,
    /// Begin at checkpoints even where older code had a part in them.
    #[serde(default)]
    pub from_checkpoints: bool,
}

/// A rebuild, planned, under way or at its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuild {
    /// Its number; none while it is only planned.
    pub id: Option<i64>,
    /// Whose states.
    pub hook: Name,
    /// Its only stream, if it is about one.
    pub stream: Option<StreamName>,
    /// Whether states are only compared.
    pub check: bool,
    /// `planned`, `running`, `done` or `failed`.
    pub state: String,
    /// Streams that it is about.
    pub streams: u64,
    /// Those that are done.
    pub streams_done: u64,
    /// Events to fold.
    pub events: u64,
    /// Those that are folded.
    pub events_done: u64,
    /// Streams that begin at a checkpoint, as retention has removed what was before it; said of a plan.
    #[serde(default)]
    pub checkpoints: u64,
    /// Those of them where older code had a part in the checkpoint; said of a plan.
    #[serde(default)]
    pub older: u64,
    /// Events that the last one of the same hook has folded a second, where it took long enough to tell; said of
    /// a plan.
    #[serde(default)]
    pub per_s_before: Option<u64>,
    /// Streams whose state is another one than before.
    pub differ: u64,
    /// Streams that could not be folded, and kept their states.
    pub failed: u64,
    /// Some of both, a line each.
    pub samples: Vec<String>,
    /// Why it failed as a whole.
    pub error: Option<String>,
    /// When it was asked for; the same for all hooks of one `--all`.
    #[serde(default)]
    pub asked_at: Option<Timestamp>,
}

/// A state as today's reducer folds it, up to and with an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FoldedTo {
    /// The stream.
    pub stream: StreamName,
    /// The event.
    pub position: i64,
    /// The state there.
    pub state: Option<Box<serde_json::value::RawValue>>,
}
