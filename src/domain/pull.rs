//! Where a pull handler's consumers ask for deliveries: its settings and the limits of a call.

use std::ops::RangeInclusive;
use std::time::Duration;

/// How long a delivery stays open unless its handler or the call says otherwise.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);

/// How long a delivery may stay open without being extended.
pub const LEASES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(12 * 3_600);

/// How long after its end a lease is taken as over: what a consumer has sent in time may still be on its way.
pub const LEASE_MARGIN: Duration = Duration::from_secs(2);

/// Deliveries in one answer unless the call says otherwise, and at most.
pub const STREAMS_DEFAULT: u32 = 10;
/// The most deliveries in one answer.
pub const STREAMS_MAX: u32 = 100;

/// Events in one delivery unless the call says otherwise.
pub const EVENTS_DEFAULT: u32 = 100;
/// The most events in one delivery.
pub const EVENTS_MAX: u32 = 1_000;

/// How long a call waits for something to deliver unless it says otherwise.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(20);
/// The longest that a call may wait.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// The most pull handlers of a hook.
pub const HANDLERS_MAX: usize = 32;

/// The settings of a pull handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// Tries of one event before the failure policy decides; `None` tries for ever.
    pub attempts: Option<u32>,
    /// How long a delivery stays open unless the call says otherwise; within [`LEASES`].
    pub lease: Duration,
}

impl Default for Pull {
    fn default() -> Self {
        Self {
            attempts: None,
            lease: LEASE_DEFAULT,
        }
    }
}
