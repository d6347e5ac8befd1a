//! Signals to the duties of the engine. A signal that comes while a duty works counts for its next round.

use tokio::sync::Notify;

/// One signal for each duty that can be asked to act at once.
#[derive(Default)]
pub struct Signals {
    /// Requests a look at the other nodes and their lanes.
    pub look: Notify,
    /// Requests a sweep, for example for a new handler.
    pub sweep: Notify,
    /// Requests a search for rebuilds to work on.
    pub rebuilds: Notify,
    /// Requests a search for hint requests to answer.
    pub hints: Notify,
    /// Requests a search for events that retention may remove.
    pub prunes: Notify,
    /// Reports that events were held back for a reorder window.
    pub held_back: Notify,
    /// Requests a search for erasures to finish.
    pub erasures: Notify,
    /// Requests acting by the configuration as read.
    pub changed: Notify,
}
