//! The settings of forward and pull handlers as their rows keep them: JSON objects to which fields are
//! only ever added.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::filter::Filter;
use crate::domain::forward::Forward;
use crate::domain::pull::Pull;
use crate::domain::time::millis;

#[derive(Serialize, Deserialize)]
struct Terms {
    url: String,
    timeout_ms: u64,
    attempts: Option<u32>,
    in_flight_max: u32,
    rate: Option<String>,
    batch: Option<String>,
    #[serde(default)]
    coalesce: bool,
}

/// The settings as JSON.
pub fn write(forward: &Forward) -> String {
    let terms = Terms {
        url: forward.url.to_string(),
        timeout_ms: millis(forward.timeout).unsigned_abs(),
        attempts: forward.attempts,
        in_flight_max: forward.in_flight_max,
        rate: forward.rate.map(|rate| rate.to_string()),
        batch: forward.batch.map(|batch| batch.to_string()),
        coalesce: forward.coalesce,
    };
    serde_json::to_string(&terms).unwrap_or_default()
}

/// Parses settings that [`write()`] has written; `None` for any other text.
pub fn read(text: &str) -> Option<Forward> {
    let terms: Terms = serde_json::from_str(text).ok()?;
    Some(Forward {
        url: terms.url.parse().ok()?,
        timeout: Duration::from_millis(terms.timeout_ms),
        attempts: terms.attempts,
        in_flight_max: terms.in_flight_max,
        rate: terms.rate.map(|rate| rate.parse()).transpose().ok()?,
        batch: terms.batch.map(|batch| batch.parse()).transpose().ok()?,
        coalesce: terms.coalesce,
    })
}

#[derive(Serialize, Deserialize)]
struct PullTerms {
    attempts: Option<u32>,
    lease_ms: u64,
}

/// The settings of a pull handler as text.
pub fn write_pull(pull: &Pull) -> String {
    let terms = PullTerms {
        attempts: pull.attempts,
        lease_ms: millis(pull.lease).unsigned_abs(),
    };
    serde_json::to_string(&terms).unwrap_or_default()
}

/// The settings that [`write_pull`] has written; `None` for any other text.
pub fn read_pull(text: &str) -> Option<Pull> {
    let terms: PullTerms = serde_json::from_str(text).ok()?;
    Some(Pull {
        attempts: terms.attempts,
        lease: Duration::from_millis(terms.lease_ms),
    })
}

/// Encodes a filter as text; `None` for one that takes all events.
pub fn write_filter(filter: &Filter) -> Option<String> {
    let text = || serde_json::to_string(filter).unwrap_or_default();
    (!filter.takes_all()).then(text)
}

/// Decodes text of [`write_filter`]; `None` for any other text.
pub fn read_filter(text: &str) -> Option<Filter> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::forward::Batch;

    #[test]
    fn settings_read_back_as_they_were_written() {
        let mut forward = Forward::to("https://crm.example/hooks".parse().unwrap());
        assert_eq!(read(&write(&forward)), Some(forward.clone()));
        forward.attempts = Some(7);
        forward.rate = Some("50/s".parse().unwrap());
        forward.batch = Some(Batch {
            events: 9,
            bytes: 77,
        });
        forward.coalesce = true;
        assert_eq!(read(&write(&forward)), Some(forward));
        assert_eq!(read("{}"), None);
    }
}
