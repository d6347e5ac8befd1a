//! The wishes of a consumer.

use std::time::Duration;

/// What a consumer asks for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Deliveries, at most.
    pub streams_max: usize,
    /// Events in each, at most.
    pub events_max: usize,
    /// How long it waits if there is nothing.
    pub wait: Duration,
    /// For how long a delivery is its own.
    pub lease: Duration,
    /// Who it is, for people.
    pub consumer: String,
}
