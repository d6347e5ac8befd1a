//! Back-off: the delay before a failed event is tried again.

use std::time::Duration;

/// The longest delay between two tries.
pub const DELAY_MAX: Duration = Duration::from_secs(600);

/// The delay after `tries` failed tries: 1 s doubled with each failure up to ten minutes, of which a
/// random part between half and all is taken. `random` is a number from 0 to 1.
pub fn delay(tries: u32, random: f64) -> Duration {
    let doubled = Duration::from_secs(1 << tries.saturating_sub(1).min(16));
    let longest = doubled.min(DELAY_MAX);
    longest.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_ten_minutes_and_are_half_jittered() {
        assert_eq!(delay(1, 1.0), Duration::from_secs(1));
        assert_eq!(delay(1, 0.0), Duration::from_millis(500));
        assert_eq!(delay(4, 1.0), Duration::from_secs(8));
        assert_eq!(delay(u32::MAX, 1.0), DELAY_MAX);
    }
}
