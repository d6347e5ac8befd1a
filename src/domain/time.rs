//! Times and durations: milliseconds inside, RFC 3339 UTC and `90d` outside.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A time in milliseconds since 1970 UTC. For people and time-outs; events are never ordered by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The wall clock now.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// A clock that never jumps: the wall clock at the start of the process, plus the time since then
    /// by the boot clock. Used for waits inside the process; people and other nodes get the wall clock.
    pub fn steady() -> Self {
        static BEGAN: OnceLock<(Timestamp, Duration)> = OnceLock::new();
        let (wall, boot) = BEGAN.get_or_init(|| (Self::now(), since_boot()));
        wall.after(since_boot().saturating_sub(*boot))
    }

    /// Converts this time to another clock, which shows `to` when the clock of this time shows `from`.
    pub fn by_other_clock(self, from: Self, to: Self) -> Self {
        to.after(self.since(from))
    }

    /// A time read from the database.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970 UTC.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The time `duration` later; saturates instead of overflowing.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// The time `duration` earlier; saturates instead of overflowing.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// Time of day, such as `02:59:14Z`.
    pub fn clock(self) -> String {
        let text = self.to_string();
        text.get(11..19)
            .map_or(text.clone(), |time| format!("{time}Z"))
    }

    /// Time of day, preceded by the date if it is 20 hours or more before `now`, such as `11-23
    /// 02:41:07Z`.
    pub fn clock_at(self, now: Self) -> String {
        const LONG: Duration = Duration::from_secs(20 * 3_600);
        let text = self.to_string();
        match text.get(5..10).filter(|_| now.since(self) >= LONG) {
            Some(day) => format!("{day} {}", self.clock()),
            None => self.clock(),
        }
    }

    /// Time elapsed since `earlier`; zero when `earlier` is in the future, as after a clock was set
    /// back.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<i64> for Timestamp {
    fn from(millis: i64) -> Self {
        Self(millis)
    }
}

/// Time since this machine was booted, sleep included. Leases are timed by it.
pub fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A duration in whole milliseconds, as stored in the database.
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let at: jiff::Timestamp = text.parse().map_err(|_| Invalid::Timestamp(text.into()))?;
        Ok(Self(at.as_millisecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that is not a time or not a duration.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// Not a time in RFC 3339.
    #[error("{0:?} is not a time such as 2026-11-23T02:59:14Z")]
    Timestamp(String),
    /// Not a number with a unit.
    #[error("{0:?} is not a duration such as 500ms, 5s, 10m, 1h or 90d")]
    Duration(String),
}

/// Parses `500ms`, `5s`, `10m`, `1h` or `90d`.
///
/// # Errors
/// [`Invalid::Duration`] for anything else, including a missing unit and values over 100 years.
pub fn parse_duration(text: &str) -> Result<Duration, Invalid> {
    let wrong = || Invalid::Duration(text.to_owned());
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    const CENTURY_MS: u64 = 36_525 * 86_400_000;
    match number.checked_mul(unit_ms) {
        Some(millis) if millis <= CENTURY_MS => Ok(Duration::from_millis(millis)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_and_read_in_utc_with_milliseconds() {
        let at = Timestamp::from_millis(1_795_402_754_231);
        assert_eq!(at.to_string(), "2026-11-23T02:59:14.231Z");
        assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
    }

    #[test]
    fn a_duration_needs_a_unit_and_a_sane_size() {
        assert_eq!(
            parse_duration("90d").unwrap(),
            Duration::from_secs(7_776_000)
        );
        for wrong in ["", "5", "s", "-1s", "5 s", "99999999999999999d", "400000d"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
