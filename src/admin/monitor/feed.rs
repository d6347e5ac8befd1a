//! The feed: once a second a snapshot is encoded as a message for all followers of its namespace, or
//! not at all when there are none.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use crate::api::Snapshot;
use crate::api::feed::{change, stilled};
use crate::domain::name::Name;

/// A snapshot as sent, without its history, and its change since the previous one.
pub(super) struct SentSnapshot {
    pub seq: u64,
    pub value: Value,
    pub change: Option<Arc<Value>>,
}

/// The latest message for each namespace that has followers.
#[derive(Default)]
pub(super) struct Feeds(Mutex<HashMap<Name, watch::Sender<Option<Arc<SentSnapshot>>>>>);

impl Feeds {
    pub fn follow(&self, namespace: &Name) -> watch::Receiver<Option<Arc<SentSnapshot>>> {
        let mut feeds = self.0.lock();
        let feed = feeds.entry(namespace.clone());
        feed.or_insert_with(|| watch::channel(None).0).subscribe()
    }

    /// Sends a snapshot to the followers of its namespace; drops the feed when there are none.
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
        feed.send_replace(Some(Arc::new(SentSnapshot {
            seq: snapshot.seq,
            value,
            change: change.map(Arc::new),
        })));
    }

    /// Ends the feeds of deleted namespaces.
    pub fn keep(&self, is_there: impl Fn(&Name) -> bool) {
        self.0.lock().retain(|namespace, _| is_there(namespace));
    }
}
