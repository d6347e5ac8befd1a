//! Notifies readers (`min_seq`, `watch`) when a stream's state has moved. Costs nothing while no one
//! waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::event::StreamId;

/// The streams that are being watched.
#[derive(Default)]
pub struct Applied {
    watched: Mutex<HashMap<StreamId, watch::Sender<()>>>,
    count: AtomicUsize,
}

impl Applied {
    /// A receiver that changes with every move of `stream` from now on. Read the state after this call.
    pub fn watch(&self, stream: StreamId) -> watch::Receiver<()> {
        let mut watched = self.watched.lock();
        watched.retain(|_, sender| sender.receiver_count() > 0);
        let receiver = watched
            .entry(stream)
            .or_insert_with(|| watch::channel(()).0)
            .subscribe();
        self.count.store(watched.len(), Ordering::SeqCst);
        receiver
    }

    /// Reports that the states of these streams have moved.
    pub fn moved(&self, streams: impl Iterator<Item = StreamId>) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let watched = self.watched.lock();
        for stream in streams {
            if let Some(sender) = watched.get(&stream) {
                sender.send_replace(());
            }
        }
    }
}
