//! The destination of a stream's deliveries. It detects a violation of the order when a request comes.

use std::collections::HashSet;

use crate::domain::position::Seq;

/// A request to a destination.
pub struct Request<'r> {
    pub seq: Seq,
    /// Node that sends it, and the epoch that it names.
    pub node: &'r str,
    pub epoch: i64,
    /// True if the node may have lost its lane to another one.
    pub is_stale: bool,
}

/// State of a destination. It answers stale requests, too, and detects those that cannot be told from others.
#[derive(Default)]
pub struct Destination {
    /// The newest event that has come; events come in order, so all before it have come, too.
    newest: i64,
    acknowledged: HashSet<Seq>,
    /// The highest epoch that has come, and the node that sent it first.
    owner: Option<(String, i64)>,
    /// Number of acknowledged events that may come once more, after a fault each.
    repeats: u32,
}

impl Destination {
    /// Takes a request; returns the reason why it must not have come.
    pub fn take(
        &mut self,
        request: &Request<'_>,
        dead: &HashSet<Seq>,
        is_shared: bool,
    ) -> Option<String> {
        let Request { seq, epoch, .. } = *request;
        let before = Seq(self.newest);
        let is_settled = |seq: &Seq| self.acknowledged.contains(seq) || dead.contains(seq);
        if seq.0 > self.newest + 1
            || seq.0 == self.newest + 1 && before.0 > 0 && !is_settled(&before)
        {
            return Some(format!(
                "event {seq} comes after {before} without a 2xx for it"
            ));
        }
        if seq.0 < self.newest || self.acknowledged.contains(&seq) {
            if self.repeats == 0 {
                return Some(format!("event {seq} comes once more without a fault"));
            }
            self.repeats -= 1;
        }
        self.newest = self.newest.max(seq.0);
        if !is_shared {
            return None;
        }
        let Some((node, newest)) = &self.owner else {
            self.owner = Some((request.node.to_owned(), epoch));
            return None;
        };
        let is_lower = epoch < *newest;
        if is_lower && !request.is_stale {
            return Some(format!("epoch {epoch} after {newest} would be refused"));
        }
        if epoch == *newest && node != request.node {
            return Some(format!(
                "a stale delivery cannot be told: epoch {epoch} of two nodes"
            ));
        }
        if epoch > *newest {
            // A stale delivery that comes before all of the next owner is in order.
            self.owner = Some((request.node.to_owned(), epoch));
        }
        None
    }

    /// True if an event has had a 2xx.
    pub fn has_acknowledged(&self, seq: Seq) -> bool {
        self.acknowledged.contains(&seq)
    }

    /// Answers a request with a 2xx.
    pub fn acknowledge(&mut self, seq: Seq) {
        self.acknowledged.insert(seq);
    }

    /// Notes a fault, after which one delivery may come once more.
    pub fn excuse(&mut self) {
        self.repeats += 1;
    }

    /// The first event between two positions that is neither acknowledged nor dead.
    pub fn passed_over(&self, from: usize, to: usize, dead: &HashSet<Seq>) -> Option<Seq> {
        let mut passed = (from..to).map(|at| Seq(at as i64 + 1));
        passed.find(|seq| !self.acknowledged.contains(seq) && !dead.contains(seq))
    }
}
