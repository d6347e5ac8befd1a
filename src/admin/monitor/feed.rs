//! The feed: what is seen is made into a message once a second for all who follow it, and for nobody when
//! nobody does.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use super::super::{Admin, Error};
use crate::api::feed::{Frame, change, stilled};
use crate::api::{Sample, Snapshot, Viewer, Window};
use crate::domain::name::Name;
use crate::domain::time::Timestamp;

/// A snapshot as it is sent, without its history, and what changed since the one before.
struct Told {
    seq: u64,
    value: Value,
    change: Option<Arc<Value>>,
}

/// Namespaces that somebody follows, and what was told last.
#[derive(Default)]
pub(super) struct Feeds(Mutex<HashMap<Name, watch::Sender<Option<Arc<Told>>>>>);

impl Feeds {
    fn follow(&self, namespace: &Name) -> watch::Receiver<Option<Arc<Told>>> {
        let mut feeds = self.0.lock();
        let feed = feeds.entry(namespace.clone());
        feed.or_insert_with(|| watch::channel(None).0).subscribe()
    }

    /// Tells those who follow it; forgets a namespace that nobody follows.
    pub fn tell(&self, snapshot: &Snapshot) {
        let mut feeds = self.0.lock();
        let Some(feed) = feeds.get(&snapshot.namespace) else {
            return;
        };
        if feed.receiver_count() == 0 {
            feeds.remove(&snapshot.namespace);
            return;
        }
        let before = feed.borrow().clone();
        if before.as_ref().is_some_and(|told| told.seq == snapshot.seq) {
            return;
        }
        let bare = Snapshot {
            history: Vec::new(),
            ..snapshot.clone()
        };
        let Ok(value) = serde_json::to_value(&bare) else {
            return;
        };
        let value = stilled(value, snapshot.at);
        let change = before.and_then(|before| change(&before.value, &value));
        feed.send_replace(Some(Arc::new(Told {
            seq: snapshot.seq,
            value,
            change: change.map(Arc::new),
        })));
    }

    /// Ends the feeds of namespaces that are gone.
    pub fn keep(&self, is_there: impl Fn(&Name) -> bool) {
        self.0.lock().retain(|namespace, _| is_there(namespace));
    }
}

/// Somebody who follows a namespace.
pub struct Follower {
    admin: Admin,
    namespace: Name,
    window: Window,
    viewer: Viewer,
    feed: watch::Receiver<Option<Arc<Told>>>,
    /// What he knows.
    told: Option<Arc<Told>>,
    past: Option<Timestamp>,
}

impl Admin {
    /// Follows a namespace, as seen through a window.
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
    /// What to send next: all of it at first, then what changed; none when the namespace is gone. One who is
    /// slow is told less often, and not more at once.
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
