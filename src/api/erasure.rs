//! Erasing streams, and the receipt.

use serde::{Deserialize, Serialize};

use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;

/// Request to erase one stream, or the streams of a hook whose ordering keys match a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EraseSpec {
    /// The stream; `null` with `hook` and `matching`.
    #[serde(default)]
    pub stream: Option<StreamName>,
    /// The hook.
    #[serde(default)]
    pub hook: Option<Name>,
    /// Pattern of ordering keys: `*` matches any text, `?` any character.
    #[serde(default)]
    pub matching: Option<String>,
    /// Reason, in the operator's words. The audit log keeps it.
    #[serde(default)]
    pub reason: Option<String>,
    /// Number of streams in the plan; the request is refused if there are more or fewer now.
    #[serde(default)]
    pub expect: Option<u64>,
    /// Only count.
    #[serde(default)]
    pub dry_run: bool,
}

/// Receipt of an erasure, or its plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// The hook.
    pub hook: Name,
    /// Names of the streams in the audit log, the first hundred: `HOOK/erased:` and a hash.
    pub names: Vec<String>,
    /// Number of streams.
    pub streams: u64,
    /// Number of stored events.
    pub events: u64,
    /// Number of events that were held back for a reorder window.
    pub held_back: u64,
    /// Number of dedupe keys.
    pub dedupe_keys: u64,
    /// Number of cursors.
    pub cursors: u64,
    /// Number of states.
    pub states: u64,
    /// Number of checkpoints.
    pub checkpoints: u64,
    /// Number of dead letters.
    pub dead_letters: u64,
    /// Number of running replays.
    pub replays: u64,
    /// Time of the erasure, or of the plan.
    pub at: Timestamp,
    /// The operator.
    pub by: String,
    /// The reason that the operator gave.
    pub reason: Option<String>,
    /// `planned`, `pending` while bytes are being overwritten, `overwritten`, or `removed` where the database keeps the
    /// bytes of removed rows until it uses their pages again.
    pub bytes: String,
    /// Statements that overwrite the bytes on Postgres where the nodes do not; empty where they do.
    pub to_run: Vec<String>,
}

/// Number of erased streams whose data is still being removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenErasures {
    /// Number of streams.
    pub open: u64,
}
