//! The order of the lanes on the overview.

use crate::api::Lane;

/// Sort column of the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Lane number; rows keep their places.
    Lane,
    /// Age of the oldest event.
    Oldest,
    /// Number of waiting events.
    Backlog,
    /// Age of the oldest event that is not set aside.
    Flow,
    /// Number of cursors set aside.
    Held,
    /// Events received per second.
    In,
    /// 99th percentile of the wait.
    Wait,
}

impl Sort {
    /// The next sort column.
    pub fn next(self) -> Self {
        match self {
            Self::Lane => Self::Oldest,
            Self::Oldest => Self::Flow,
            Self::Flow => Self::Held,
            Self::Held => Self::Backlog,
            Self::Backlog => Self::In,
            Self::In => Self::Wait,
            Self::Wait => Self::Lane,
        }
    }

    pub fn apply(self, lanes: &mut [&Lane]) {
        use std::cmp::Reverse;
        let whole = |rate: Option<f64>| (rate.unwrap_or(-1.0) * 1_000.0) as i64;
        match self {
            Self::Lane => {}
            Self::Oldest => lanes.sort_by_key(|lane| Reverse(lane.oldest_ms)),
            Self::Flow => lanes.sort_by_key(|lane| Reverse(lane.flow_ms)),
            Self::Held => lanes.sort_by_key(|lane| Reverse(lane.set_aside)),
            Self::Backlog => lanes.sort_by_key(|lane| Reverse(lane.backlog)),
            Self::In => lanes.sort_by_key(|lane| Reverse(whole(lane.in_per_s))),
            Self::Wait => {
                lanes.sort_by_key(|lane| Reverse(whole(lane.wait_ms.map(|wait| wait.p99))));
            }
        }
    }

    /// Name of the sort column.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lane => "lane",
            Self::Oldest => "oldest",
            Self::Flow => "flow",
            Self::Held => "held",
            Self::Backlog => "backlog",
            Self::In => "in/s",
            Self::Wait => "p99",
        }
    }
}
