//! Settings and limits of pull handlers, whose consumers ask for deliveries.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Default length of a lease.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);

/// Permitted lengths of a lease without extension.
pub const LEASES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(12 * 3_600);

/// Grace time after the end of a lease: an answer that a consumer sent in time may still be on its way.
pub const LEASE_MARGIN: Duration = Duration::from_secs(2);

/// Default number of deliveries in one answer.
pub const STREAMS_DEFAULT: u32 = 10;
/// Largest number of deliveries in one answer.
pub const STREAMS_MAX: u32 = 100;

/// Default number of events in one delivery.
pub const EVENTS_DEFAULT: u32 = 100;
/// Largest number of events in one delivery.
pub const EVENTS_MAX: u32 = 1_000;

/// Default time that a call waits for events.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(20);
/// Longest time that a call may wait.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// Largest number of pull handlers of a hook.
pub const HANDLERS_MAX: usize = 32;

/// Settings of a pull handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// Number of tries of an event before the failure policy applies; `None` tries without end.
    pub attempts: Option<u32>,
    /// Length of a lease unless the call gives another one; within [`LEASES`].
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
