//! Forecast of when a lane has applied its backlog, from the slope of the age of its oldest event
//! instead of rates.

use crate::api::{Eta, LaneState};

/// Number of samples needed for a slope; one is taken each second.
const SAMPLES_MIN: usize = 30;

/// Figures of one lane.
pub struct Facts<'f> {
    /// Its mode.
    pub state: LaneState,
    /// True if another live node may take the lane.
    pub has_heir: bool,
    /// Age of the oldest event of flowing cursors, once a second, in milliseconds, oldest sample first.
    pub flow_ms: &'f [u64],
    /// Number of waiting events of flowing cursors.
    pub backlog_flowing: u64,
    /// Number of cursors that wait for a retry.
    pub waiting: u64,
    /// Number of cursors that need an operator.
    pub held: u64,
}

/// Estimate of the time until the lane is empty: a word, and milliseconds if a figure can be given.
pub fn eta(lane: &Facts<'_>) -> (Option<Eta>, Option<u64>) {
    match lane.state {
        LaneState::Paused | LaneState::Drained => return (Some(Eta::Resume), None),
        LaneState::NoOwner if lane.has_heir => return (Some(Eta::Lease), None),
        LaneState::NoOwner => return (Some(Eta::Never), None),
        LaneState::Active | LaneState::Draining => {}
    }
    let slope = slope(lane.flow_ms);
    let is_level = slope.is_none_or(|slope| slope.abs() <= 0.05);
    if lane.backlog_flowing == 0 || is_level {
        if lane.held > 0 {
            return (Some(Eta::Held), None);
        }
        if lane.waiting > 0 {
            return (Some(Eta::Retry), None);
        }
    }
    if lane.backlog_flowing == 0 {
        return (None, None);
    }
    let age = lane.flow_ms.last().copied().unwrap_or(0);
    match slope {
        None => (Some(Eta::Steady), None),
        Some(slope) if slope >= 0.95 => (Some(Eta::Never), None),
        Some(slope) if slope > 0.05 => (Some(Eta::Grows), None),
        Some(slope) if slope >= -0.05 => (Some(Eta::Steady), None),
        Some(slope) => (None, Some((age as f64 / -slope) as u64)),
    }
}

/// The worst of several, of lanes that are not stopped on purpose.
pub fn worst(all: impl Iterator<Item = (Option<Eta>, Option<u64>)>) -> (Option<Eta>, Option<u64>) {
    const ORDER: [Eta; 5] = [Eta::Never, Eta::Held, Eta::Retry, Eta::Lease, Eta::Grows];
    let rank = |(word, ms): &(Option<Eta>, Option<u64>)| match word {
        Some(word) => ORDER
            .iter()
            .position(|known| known == word)
            .map_or((7, 0), |at| (at, 0)),
        None => ms.map_or((9, 0), |ms| (6, u64::MAX - ms)),
    };
    let stopped = |(word, _): &(Option<Eta>, Option<u64>)| *word == Some(Eta::Resume);
    let worst = all.filter(|eta| !stopped(eta)).min_by_key(rank);
    worst.unwrap_or((None, None))
}

/// Growth of the oldest event's age per second, in seconds, by least squares.
pub fn slope(flow_ms: &[u64]) -> Option<f64> {
    if flow_ms.len() < SAMPLES_MIN {
        return None;
    }
    let n = flow_ms.len() as f64;
    let mean_x = (n - 1.0) / 2.0;
    let mean_y = flow_ms.iter().map(|y| *y as f64).sum::<f64>() / n;
    let (mut xy, mut xx) = (0.0, 0.0);
    for (x, y) in flow_ms.iter().enumerate() {
        let x = x as f64 - mean_x;
        xy += x * (*y as f64 - mean_y);
        xx += x * x;
    }
    Some(xy / xx / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(state: LaneState, flow_ms: &[u64], backlog_flowing: u64) -> Facts<'_> {
        Facts {
            state,
            has_heir: true,
            flow_ms,
            backlog_flowing,
            waiting: 0,
            held: 0,
        }
    }

    fn line(from: u64, step: i64) -> Vec<u64> {
        let at = |n: i64| u64::try_from(from as i64 + n * step).unwrap();
        (0..40).map(at).collect()
    }

    #[test]
    fn the_slope_of_the_oldest_age_tells_how_it_will_end() {
        use LaneState::Active;
        assert_eq!(eta(&facts(Active, &[], 0)), (None, None));
        assert_eq!(
            eta(&facts(Active, &line(5, 0), 9)),
            (Some(Eta::Steady), None)
        );
        let ages = line(0, 1_000);
        assert_eq!(eta(&facts(Active, &ages, 9)), (Some(Eta::Never), None));
        let ages = line(0, 300);
        assert_eq!(eta(&facts(Active, &ages, 9)), (Some(Eta::Grows), None));
        let ages = line(60_000, -500);
        let (word, ms) = eta(&facts(Active, &ages, 9));
        assert_eq!(word, None);
        let ms = ms.unwrap();
        assert!((80_000..82_000).contains(&ms), "{ms}");
    }

    #[test]
    fn what_waits_for_somebody_says_for_whom() {
        let ages = line(5, 0);
        let set_aside = |waiting, held| Facts {
            waiting,
            held,
            ..facts(LaneState::Active, &ages, 3)
        };
        assert_eq!(eta(&set_aside(1, 0)).0, Some(Eta::Retry));
        assert_eq!(eta(&set_aside(1, 1)).0, Some(Eta::Held));
        let paused = facts(LaneState::Paused, &ages, 3);
        assert_eq!(eta(&paused).0, Some(Eta::Resume));
        let orphan = facts(LaneState::NoOwner, &ages, 3);
        assert_eq!(eta(&orphan).0, Some(Eta::Lease));
        let last = Facts {
            has_heir: false,
            ..orphan
        };
        assert_eq!(eta(&last).0, Some(Eta::Never));
    }

    #[test]
    fn the_whole_is_as_late_as_its_slowest_lane_that_nobody_has_stopped() {
        let all = [
            (Some(Eta::Resume), None),
            (Some(Eta::Steady), None),
            (None, Some(9)),
            (None, Some(4_000)),
            (None, None),
        ];
        assert_eq!(worst(all.into_iter()), (None, Some(4_000)));
        let all = [(Some(Eta::Grows), None), (Some(Eta::Retry), None)];
        assert_eq!(worst(all.into_iter()).0, Some(Eta::Retry));
        assert_eq!(worst(std::iter::empty()), (None, None));
    }
}
