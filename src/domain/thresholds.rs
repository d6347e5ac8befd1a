//! Thresholds: the ages of events from which a namespace counts as late.

use std::time::Duration;

use super::time::millis;

/// Ages of the oldest event that may flow in a running lane (FLOW).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// The namespace is late from this age on.
    pub warn: Duration,
    /// An operator must look from this age on.
    pub crit: Duration,
}

/// Longest threshold accepted; a longer one is taken for a typing error.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            warn: Duration::from_secs(10),
            crit: Duration::from_secs(60),
        }
    }
}

impl Thresholds {
    /// These thresholds with the given ones replaced, in milliseconds.
    ///
    /// # Errors
    /// A sentence that says which value is wrong.
    pub fn with(self, warn_ms: Option<u64>, crit_ms: Option<u64>) -> Result<Self, String> {
        let these = Self {
            warn: warn_ms.map_or(self.warn, Duration::from_millis),
            crit: crit_ms.map_or(self.crit, Duration::from_millis),
        };
        let (warn, crit) = (millis(these.warn), millis(these.crit));
        if these.warn.is_zero() || these.crit > LONGEST {
            return Err("warn and crit are 1ms to 365d".to_owned());
        }
        match these.warn <= these.crit {
            true => Ok(these),
            false => Err(format!("warn ({warn}ms) must not be above crit ({crit}ms)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays_and_warn_never_comes_after_crit() {
        let of = |warn, crit| Thresholds::default().with(warn, crit);
        assert_eq!(of(None, None), Ok(Thresholds::default()));
        assert_eq!(of(Some(500), None).unwrap().warn.as_millis(), 500);
        assert_eq!(of(None, Some(10_000)).unwrap().crit.as_millis(), 10_000);
        for (warn, crit) in [(Some(60_001), None), (None, Some(9_999)), (Some(0), None)] {
            assert!(of(warn, crit).is_err(), "{warn:?} {crit:?}");
        }
        assert!(of(Some(u64::MAX), Some(u64::MAX)).is_err());
    }
}
