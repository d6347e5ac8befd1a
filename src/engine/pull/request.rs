//! A consumer's request for deliveries.

use std::time::Duration;

/// Parameters of a pull.
#[derive(Clone, Debug)]
pub struct ConsumerRequest {
    /// Number of deliveries at most.
    pub streams_max: usize,
    /// Number of events in each delivery at most.
    pub events_max: usize,
    /// Time to wait if there are no events.
    pub wait: Duration,
    /// Lease of each delivery.
    pub lease: Duration,
    /// Display name of the consumer.
    pub consumer: String,
}
