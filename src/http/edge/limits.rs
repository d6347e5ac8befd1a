//! What clients may do.

use std::time::Duration;

/// What clients may do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections in all.
    pub connections_max: usize,
    /// Open connections of one address; this machine's own are exempt.
    pub per_address_max: usize,
    /// From connecting to the first byte.
    pub first_byte: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// From an answer to the next request.
    pub idle: Duration,
    /// From the first wait for a body to its last byte.
    pub body: Duration,
    /// How long a body may take before `body_rate_min` counts.
    pub body_grace: Duration,
    /// Bytes of a body that buy it one second more.
    pub body_rate_min: u64,
    /// How long a client may leave an answer unread.
    pub reader: Duration,
    /// How long to wait, after the last answer, for a client that is still sending.
    pub linger: Duration,
    /// How long requests have to be answered when the daemon stops.
    pub stop: Duration,
    /// Headers of a request.
    pub headers_max: usize,
    /// Bytes of a head; 8 KiB at least.
    pub head_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_240,
            per_address_max: 1_024,
            first_byte: Duration::from_secs(5),
            head: Duration::from_secs(5),
            idle: Duration::from_secs(75),
            body: Duration::from_secs(15),
            body_grace: Duration::from_secs(5),
            body_rate_min: 1_024,
            reader: Duration::from_secs(30),
            linger: Duration::from_secs(2),
            stop: Duration::from_secs(8),
            headers_max: 64,
            head_max: 32 * 1024,
        }
    }
}

impl Limits {
    /// How long a body may take of which `received` bytes are here.
    pub(super) fn body_patience(&self, received: u64) -> Duration {
        let bought =
            Duration::from_millis(received.saturating_mul(1_000) / self.body_rate_min.max(1));
        self.body.min(self.body_grace.saturating_add(bought))
    }
}
