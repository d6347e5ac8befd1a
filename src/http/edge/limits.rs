//! Limits and time-outs of client connections.

use std::time::Duration;

/// Limits and time-outs of client connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Number of open connections.
    pub connections_max: usize,
    /// Number of open connections of one address, and of its requests in progress that trusted proxies
    /// passed on; this machine's own connections and those of the proxies are exempt.
    pub per_address_max: usize,
    /// Time from connecting to the end of a proxy's header and of the TLS handshake.
    pub handshake: Duration,
    /// Time from connecting, or from the handshake, to the first byte.
    pub first_byte: Duration,
    /// Time from the first byte of a head to the last.
    pub head: Duration,
    /// Time from an answer to the next request.
    pub idle: Duration,
    /// Time from the first wait for a body to its last byte.
    pub body: Duration,
    /// Time for a body before `body_rate_min` applies.
    pub body_grace: Duration,
    /// Number of body bytes that extend the time by one second.
    pub body_rate_min: u64,
    /// Time for which a client may leave an answer unread.
    pub reader: Duration,
    /// Time to wait, after the last answer, for a client that is still sending.
    pub linger: Duration,
    /// Time for running requests when the daemon stops.
    pub stop: Duration,
    /// Number of headers of a request.
    pub headers_max: usize,
    /// Bytes of a head; at least 8 KiB.
    pub head_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_240,
            per_address_max: 1_024,
            handshake: Duration::from_secs(5),
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
    /// Time limit of a body of which `received` bytes have arrived.
    pub(super) fn body_patience(&self, received: u64) -> Duration {
        let bought =
            Duration::from_millis(received.saturating_mul(1_000) / self.body_rate_min.max(1));
        self.body.min(self.body_grace.saturating_add(bought))
    }
}
