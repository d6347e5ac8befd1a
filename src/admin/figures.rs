//! Numbers as they are kept, shown and added up.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::{Counter, Histogram};

pub(super) fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

pub(super) fn mean(shares: impl Iterator<Item = f64>) -> Option<f64> {
    let shares: Vec<_> = shares.collect();
    let sum: f64 = shares.iter().sum();
    (!shares.is_empty()).then(|| hundredths(sum / shares.len() as f64))
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn fine_millis(took: Duration) -> f64 {
    hundredths(took.as_secs_f64() * 1_000.0)
}

/// Writes sorted indexes as ranges: `0-3,7`.
pub(super) fn ranges(indexes: &[u16]) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*index) => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let written = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    written.collect::<Vec<_>>().join(",")
}

/// The times that were seen, in microseconds, and how many events took them.
pub(super) fn counts<C: Counter>(times: &Histogram<C>) -> impl Iterator<Item = (u64, u64)> + '_ {
    let recorded = times.iter_recorded();
    recorded.map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value().as_u64()))
}

pub(super) fn gather(times: &mut Histogram<u64>, counts: impl IntoIterator<Item = (u64, u64)>) {
    for (time, events) in counts {
        times.saturating_record_n(time, events);
    }
}

pub(super) fn keep<T>(ring: &mut VecDeque<T>, value: T, most: usize) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(value);
}
