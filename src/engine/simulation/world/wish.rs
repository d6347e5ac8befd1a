//! Decisions of operators.

use crate::domain::hook::HookId;
use crate::domain::lane::{LaneId, LaneSet};
use crate::domain::name::Name;
use crate::store::NamespaceMove;

/// A decision of an operator that is not carried out yet.
pub enum Wish {
    Resize(LaneSet, u16),
    Plan(LaneSet, u16),
    Pause(LaneSet, Vec<LaneId>),
    Drain(LaneSet, Vec<LaneId>),
    Resume(LaneSet, Vec<LaneId>),
    Move(HookId, Name, Name),
    /// Waits until every node acts by the stop.
    EndMove(NamespaceMove, usize),
}
