//! The feed: what is seen is made into a message once a second for all who follow it, and for nobody when
//! nobody does.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use crate::api::Snapshot;
use crate::api::feed::{change, stilled};
use crate::domain::name::Name;

/// A snapshot as it is sent, without its history, and what changed since the one before.
pub(super) struct Told {
    pub seq: u64,
    pub value: Value,
    pub change: Option<Arc<Value>>,
}

/// Namespaces that somebody follows, and what was told last.
#[derive(Default)]
pub(super) struct Feeds(Mutex<HashMap<Name, watch::Sender<Option<Arc<Told>>>>>);

impl Feeds {
    pub fn follow(&self, namespace: &Name) -> watch::Receiver<Option<Arc<Told>>> {
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
