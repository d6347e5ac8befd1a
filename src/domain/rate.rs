//! Rate limits of access keys and destinations, enforced by token buckets.
//!
//! A bucket is stored as one number: the time at which it will be full again. It takes eight bytes,
//! needs no lock, and is never refilled by a timer.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Largest number in a [`Rate`], and largest burst.
pub const RATE_MAX: u32 = 1_000_000;

/// A number of requests per second or per minute. Written `100/s` or `600/m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    requests: u32,
    per: Per,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Per {
    Second,
    Minute,
}

/// A text that is not a rate.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a rate such as 100/s or 600/m, {RATE_MAX} at most")]
pub struct InvalidRate(String);

impl Rate {
    /// Number of requests per second or minute.
    pub fn requests(self) -> u32 {
        self.requests
    }

    /// Time between two requests.
    fn interval(self) -> Duration {
        let per = match self.per {
            Per::Second => Duration::from_secs(1),
            Per::Minute => Duration::from_secs(60),
        };
        per / self.requests
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let wrong = || InvalidRate(text.chars().take(80).collect());
        let (requests, per) = text.split_once('/').ok_or_else(wrong)?;
        let per = match per {
            "s" => Per::Second,
            "m" => Per::Minute,
            _ => return Err(wrong()),
        };
        let is_plain = requests.bytes().all(|byte| byte.is_ascii_digit());
        match requests.parse() {
            Ok(requests @ 1..=RATE_MAX) if is_plain => Ok(Self { requests, per }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per {
            Per::Second => "s",
            Per::Minute => "m",
        };
        write!(f, "{}/{per}", self.requests)
    }
}

/// A limit: a long-term rate, and a number of requests at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Long-term rate.
    pub rate: Rate,
    /// Number of requests at once after a pause; 1 to [`RATE_MAX`].
    pub burst: u32,
}

/// Token bucket of one key. It starts full. Safe for use by many threads.
#[derive(Debug)]
pub struct Bucket {
    limit: Limit,
    begun: Instant,
    /// Time at which it will be full again, in nanoseconds since `begun`.
    full_at: AtomicU64,
}

impl Bucket {
    /// A full bucket.
    pub fn new(limit: Limit) -> Self {
        Self {
            limit,
            begun: Instant::now(),
            full_at: AtomicU64::new(0),
        }
    }

    /// The limit that the bucket enforces.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// Takes a token at `now`.
    ///
    /// # Errors
    /// The time until there is a token, when there is none now. Nothing was taken.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        let interval = nanos(self.limit.rate.interval());
        let depth = interval.saturating_mul(u64::from(self.limit.burst));
        let now = nanos(now.saturating_duration_since(self.begun));
        let after = |full_at: u64| full_at.max(now).saturating_add(interval);
        let taken = |full_at| Some(after(full_at)).filter(|full| full - now <= depth);
        match (self.full_at).fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken) {
            Ok(_) => Ok(()),
            Err(full_at) => Err(Duration::from_nanos(after(full_at) - now - depth)),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(rate: &str, burst: u32) -> (Bucket, Instant) {
        let rate = rate.parse().unwrap();
        let bucket = Bucket::new(Limit { rate, burst });
        let begun = bucket.begun;
        (bucket, begun)
    }

    #[test]
    fn a_rate_reads_back_as_it_was_written() {
        for text in ["1/s", "100/s", "600/m", "1000000/s"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "5",
            "/s",
            "0/s",
            "+5/s",
            "-1/s",
            "1.5/s",
            "5/h",
            "5/",
            "1000001/s",
            "5 /s",
        ] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_burst_is_taken_at_once_and_then_the_rate_counts() {
        let (bucket, begun) = bucket("10/s", 3);
        let ms = |ms| begun + Duration::from_millis(ms);
        for _ in 0..3 {
            assert_eq!(bucket.take(ms(0)), Ok(()));
        }
        assert_eq!(bucket.take(ms(0)), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(ms(99)), Err(Duration::from_millis(1)));
        assert_eq!(bucket.take(ms(100)), Ok(()));
        assert!(
            bucket.take(ms(100)).is_err(),
            "one came back, one was taken"
        );
    }

    #[test]
    fn a_long_silence_fills_it_and_no_further() {
        let (bucket, begun) = bucket("60/m", 2);
        let late = begun + Duration::from_secs(3600);
        assert_eq!(bucket.take(late), Ok(()));
        assert_eq!(bucket.take(late), Ok(()));
        assert_eq!(bucket.take(late), Err(Duration::from_secs(1)));
    }

    #[test]
    fn what_is_refused_costs_nothing_and_a_clock_that_goes_back_breaks_nothing() {
        let (bucket, begun) = bucket("1/s", 1);
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(bucket.take(at(5)), Ok(()));
        for _ in 0..1_000 {
            assert!(bucket.take(at(5)).is_err());
        }
        assert_eq!(bucket.take(at(4)), Err(Duration::from_secs(2)));
        assert_eq!(bucket.take(at(6)), Ok(()));
    }

    #[test]
    fn many_threads_together_get_no_more_than_one_would() {
        let (bucket, begun) = bucket("1/m", 500);
        let taken = std::thread::scope(|scope| {
            let take = || (0..200).filter(|_| bucket.take(begun).is_ok()).count();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap())
                .sum::<usize>()
        });
        assert_eq!(taken, 500);
    }
}
