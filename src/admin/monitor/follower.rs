//! A follower of a namespace: it gets everything first, then the changes.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::feed::SentSnapshot;
use crate::admin::{Admin, Error};
use crate::api::feed::{Frame, change};
use crate::api::{Sample, Viewer, Window};
use crate::domain::name::Name;
use crate::domain::time::Timestamp;

/// One viewer who follows a namespace.
pub struct Follower {
    admin: Admin,
    namespace: Name,
    window: Window,
    viewer: Viewer,
    feed: watch::Receiver<Option<Arc<SentSnapshot>>>,
    /// Message that was sent last.
    told: Option<Arc<SentSnapshot>>,
    past: Option<Timestamp>,
}

impl Admin {
    /// Follows a namespace, with the history of a window.
    ///
    /// # Errors
    /// [`Error::Missing`] namespace; [`Error::NeedsDaemon`].
    pub async fn follow(
        &self,
        namespace: &Name,
        window: Window,
        viewer: Viewer,
    ) -> Result<Follower, Error> {
        let snapshot = self.seen(namespace).await?;
        let feed = self.monitor.feeds.follow(namespace);
        self.monitor.feeds.tell(&snapshot);
        Ok(Follower {
            admin: self.clone(),
            namespace: namespace.clone(),
            window,
            viewer,
            feed,
            told: None,
            past: None,
        })
    }
}

impl Follower {
    /// Waits for the next frame: the full snapshot first, then changes; `None` when the namespace is
    /// deleted. A slow follower gets fewer frames, not a backlog of them.
    pub async fn next(&mut self) -> Option<Frame> {
        let news = match &self.told {
            None => self.feed.wait_for(Option::is_some).await.ok()?.clone()?,
            Some(_) => {
                self.feed.changed().await.ok()?;
                self.feed.borrow_and_update().clone()?
            }
        };
        let past = self.gained();
        let frame = match self.told.replace(Arc::clone(&news)) {
            None => Frame {
                whole: Some(self.whole(&news.value, &past)),
                ..Frame::default()
            },
            Some(known) if known.seq + 1 == news.seq => Frame {
                change: news.change.clone(),
                past,
                ..Frame::default()
            },
            Some(known) => Frame {
                change: change(&known.value, &news.value).map(Arc::new),
                past,
                ..Frame::default()
            },
        };
        Some(frame)
    }

    fn gained(&mut self) -> Vec<Sample> {
        let gained = self.admin.past(&self.namespace, self.window, self.past);
        self.past = gained.last().map(|last| last.at).or(self.past);
        gained
    }

    fn whole(&self, value: &Value, past: &[Sample]) -> Value {
        let mut whole = value.clone();
        whole["viewer"] = serde_json::json!(self.viewer);
        whole["history"] = serde_json::json!(past);
        whole
    }
}
