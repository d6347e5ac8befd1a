//! Check of the senders' clocks, by the requests that were rejected for the time in their signature.

use std::time::Duration;

use crate::admin::{Admin, Error};
use crate::api::Check;
use crate::domain::time::Timestamp;
use crate::domain::verify::diagnosis::Reason;
use crate::text::duration;

/// Age of a rejection after which it says nothing about the clocks of now.
const RECENT: Duration = Duration::from_secs(3_600);

/// Number of hooks named at most.
const NAMED_MAX: usize = 3;

impl Admin {
    /// The hooks that rejected a request lately because of its time.
    pub(super) async fn clocks_of_senders(&self) -> Result<Vec<Check>, Error> {
        let now = Timestamp::now();
        let mut checks = Vec::new();
        for hook in self.store.hooks().await? {
            if hook.verify.is_none() || checks.len() == NAMED_MAX {
                continue;
            }
            let rejections = self.rejections(&hook.name).await?;
            let mut of_clocks = rejections.into_iter().filter(|one| {
                one.reason == Reason::Clock.word() && now.since(one.last_at) < RECENT
            });
            checks.extend(of_clocks.next().map(|one| {
                let (name, ago) = (&hook.name, duration(now.since(one.last_at)));
                let text = format!("a sender of hook {name}, {ago} ago: {}", one.told);
                let remedy = format!("timedatectl on both machines; more: hooklane why {name}");
                Check::warn("clock", text, remedy)
            }));
        }
        Ok(checks)
    }
}
