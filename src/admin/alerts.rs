//! Alerts: a post to each receiver of the operator when a finding of the verdict begins, and one when it ends.
//!
//! `watch.rs` decides by the findings of this node's snapshots. The table `alerts` has a row for each alert that stands:
//! it outlives a restart, and the node that claims a row posts it, so a cluster posts once. A node that dies between a
//! post and its row leaves the row to another node, which posts once more, with the same `webhook-id`. A database that
//! does not answer has no rows: each node tells of that by itself, from memory.
//!
//! Nothing waits for a receiver: posts are tasks of their own, few at a time, with a time limit and a last try.

mod message;
mod watch;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Admin, Error};
use crate::api::{self, Alert, Rule};
use crate::domain::alert::{Alerts, Receiver};
use crate::domain::backoff;
use crate::domain::name::Name;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::engine::forward::{Client, Guard};
use crate::store::{AlertRow, AlertStage};
use watch::{DATABASE, Watch};

/// Interval of rounds.
const ROUND_EVERY: Duration = Duration::from_secs(1);

/// Time limit of the work of a round in the database.
const SHARE_MAX: Duration = Duration::from_secs(3);

/// Time limit of a post.
const POST_MAX: Duration = Duration::from_secs(5);

/// Time for which a claimed post is left to its node: the post, and the change of its row.
const CLAIM: Duration = Duration::from_secs(30);

/// Number of tries of a post. With the back-off the last one is about eight minutes after the first.
const TRIES_MAX: u32 = 10;

/// Number of posts in flight to one receiver.
const IN_FLIGHT_MAX: usize = 4;

/// Number of posts about the database that wait for one receiver.
const OUTAGES_MAX: usize = 16;

impl Admin {
    /// Posts alerts until `stop` is over; then finishes the posts in flight. Without receivers it does nothing.
    pub async fn post_alerts(self, alerts: Alerts, stop: impl Future<Output = ()>) {
        if alerts.receivers.is_empty() {
            return;
        }
        let mut poster = Poster::new(self, alerts);
        let mut stop = std::pin::pin!(stop);
        let mut before = Instant::now();
        while tokio::time::timeout(ROUND_EVERY, &mut stop).await.is_err() {
            let now = Instant::now();
            poster.round(now - before).await;
            before = now;
        }
        while poster.posts.join_next().await.is_some() {}
    }

    /// The findings of this node's latest snapshots that concern an operator, by name.
    fn findings(&self) -> BTreeMap<String, Alert> {
        let mut found = BTreeMap::new();
        for snapshot in self.monitor.snapshots() {
            let namespace = &snapshot.namespace;
            let verdicts = snapshot.verdicts.iter();
            for verdict in verdicts.filter(|verdict| !verdict.class.is_well()) {
                let namespace = of_namespace(verdict.rule, namespace);
                let name = match &namespace {
                    Some(namespace) => format!("{namespace}: {}", verdict.finding),
                    None => verdict.finding.clone(),
                };
                found.insert(name, Alert::about(verdict, namespace, &self.node));
            }
        }
        found
    }
}

/// The namespace of a finding; `None` if the finding is about nodes, the database, Redis or a disk.
fn of_namespace(rule: Rule, namespace: &Name) -> Option<Name> {
    let is_shared = matches!(rule, Rule::NoOwner | Rule::Storage);
    (!is_shared).then(|| namespace.clone())
}

/// Posts the alerts of a node.
struct Poster {
    admin: Admin,
    watch: Watch,
    lines: Vec<Line>,
    /// The begin of an outage of the database that the receivers were told of.
    outage: Option<Message>,
    posts: JoinSet<()>,
}

/// A receiver, as this node reaches it.
struct Line {
    id: String,
    room: Arc<Semaphore>,
    to: Arc<Sender>,
    outages: mpsc::Sender<Message>,
}

/// A message about an alert.
#[derive(Clone)]
struct Message {
    alert: Alert,
    began_at: Timestamp,
}

impl Poster {
    fn new(admin: Admin, alerts: Alerts) -> Self {
        let client = Client::new(Guard::of_operator());
        let line = |receiver: Receiver| {
            let (outages, waiting) = mpsc::channel(OUTAGES_MAX);
            let id = receiver.id();
            let to = Arc::new(Sender {
                receiver,
                secret: alerts.secret.clone(),
                client: client.clone(),
                failing: Mutex::default(),
            });
            tokio::spawn(tell_outages(to.clone(), waiting));
            Line {
                id,
                room: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
                to,
                outages,
            }
        };
        let mut known = HashSet::new();
        let receivers = alerts.receivers.into_iter();
        let receivers = receivers.filter(|receiver| known.insert(receiver.id()));
        Self {
            admin,
            watch: Watch::default(),
            lines: receivers.map(line).collect(),
            outage: None,
            posts: JoinSet::new(),
        }
    }

    async fn round(&mut self, elapsed: Duration) {
        let now = Timestamp::now();
        self.watch.note(self.admin.findings(), elapsed);
        self.note_outage(now);
        while self.posts.try_join_next().is_some() {}
        // A database that hangs must not keep this node from noticing it. A claim whose outcome is unknown ends.
        match tokio::time::timeout(SHARE_MAX, self.share(now)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "alerts wait for the database"),
            Err(_) => tracing::debug!("alerts wait for the database, which does not answer"),
        }
    }

    /// Begins and ends the alert about a database that does not answer.
    fn note_outage(&mut self, now: Timestamp) {
        let standing = self.watch.standing().find(|(name, _)| *name == DATABASE);
        let message = match (&self.outage, standing) {
            (None, Some((_, alert))) => Message {
                alert: Alert {
                    alert: new_id(),
                    ..alert.clone()
                },
                began_at: now,
            },
            (Some(told), _) if self.watch.is_over(DATABASE) => {
                let mut message = told.clone();
                message.alert.ended_at = Some(now);
                message
            }
            _ => return,
        };
        for line in &self.lines {
            if line.outages.try_send(message.clone()).is_err() {
                let receiver = line.to.receiver.to_string();
                tracing::warn!(
                    receiver,
                    "too many posts wait: one about the database is dropped"
                );
            }
        }
        self.outage = message.alert.ended_at.is_none().then_some(message);
    }

    /// Begins and ends the alerts that all nodes share, and posts those that are due.
    async fn share(&mut self, now: Timestamp) -> Result<(), Error> {
        let rows = self.admin.store.alerts().await?;
        self.tell_receivers(&rows);
        for line in &self.lines {
            let own: Vec<_> = rows.iter().filter(|row| row.receiver == line.id).collect();
            for (name, alert) in self.watch.standing() {
                let is_known = own.iter().any(|row| row.finding == *name);
                if name != DATABASE && !is_known {
                    let content = serde_json::to_string(alert).unwrap_or_default();
                    let (receiver, name) = (line.id.clone(), name.clone());
                    let row = AlertRow::new(receiver, name, new_id(), content, now);
                    self.admin.store.add_alert(&row).await?;
                }
            }
            for row in own {
                match row.stage() {
                    AlertStage::Stands if self.watch.is_over(&row.finding) => {
                        self.admin.store.finish_alert(row, now).await?;
                    }
                    AlertStage::Stands => {}
                    _ if row.due_at > now.as_millis() => {}
                    AlertStage::Begin | AlertStage::End => {
                        line.post(&self.admin, row, now, &mut self.posts).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Shows operators the receivers, with the posts that wait for each.
    fn tell_receivers(&self, rows: &[AlertRow]) {
        let told = self.lines.iter().map(|line| {
            let own = rows.iter().filter(|row| row.receiver == line.id);
            let waiting = own.filter(|row| row.stage() != AlertStage::Stands).count();
            api::AlertReceiver {
                receiver: line.to.receiver.to_string(),
                waiting: waiting as u64,
                failing: line.to.failing.lock().clone(),
            }
        });
        *self.admin.monitor.receivers.lock() = told.collect();
    }
}

fn new_id() -> String {
    format!("alr_{}", uuid::Uuid::now_v7().simple())
}

impl Line {
    /// Claims a post that is due, and sends it in a task. Leaves it if another node is first or if there is no room.
    async fn post(
        &self,
        admin: &Admin,
        row: &AlertRow,
        now: Timestamp,
        posts: &mut JoinSet<()>,
    ) -> Result<(), Error> {
        let Ok(room) = self.room.clone().try_acquire_owned() else {
            return Ok(());
        };
        if !admin.store.claim_alert(row, now.after(CLAIM)).await? {
            return Ok(());
        }
        let row = row.clone().claimed();
        let (to, admin) = (self.to.clone(), admin.clone());
        posts.spawn(async move {
            // After a failure of the database the claim ends, and the post is tried again.
            if let Err(error) = to.deliver(&admin, &row).await {
                tracing::debug!(%error, "an alert was posted, but its row has not changed");
            }
            drop(room);
        });
        Ok(())
    }
}

/// Tells a receiver of outages of the database, one message after the other.
async fn tell_outages(to: Arc<Sender>, mut waiting: mpsc::Receiver<Message>) {
    while let Some(message) = waiting.recv().await {
        for tries in 1..=TRIES_MAX {
            if to.send(&message).await {
                break;
            }
            if tries == TRIES_MAX {
                to.give_up(&message.alert);
                break;
            }
            tokio::time::sleep(backoff::delay(tries, rand::random())).await;
        }
    }
}

/// Sends messages to one receiver.
struct Sender {
    receiver: Receiver,
    secret: Option<Secret>,
    client: Client,
    /// Present failure to reach the receiver.
    failing: Mutex<Option<api::Outage>>,
}

impl Sender {
    /// Sends the message of a claimed row, and notes the outcome in the row.
    async fn deliver(&self, admin: &Admin, row: &AlertRow) -> Result<(), Error> {
        let Ok(alert) = serde_json::from_str::<Alert>(&row.content) else {
            // Written by another version that has another shape.
            return Ok(admin.store.settle_alert(row).await?);
        };
        let message = Message {
            alert: Alert {
                alert: row.id.clone(),
                ended_at: row.ended_at.map(Timestamp::from_millis),
                ..alert
            },
            began_at: Timestamp::from_millis(row.began_at),
        };
        let tries = u32::try_from(row.tries).unwrap_or(TRIES_MAX);
        if self.send(&message).await {
            return Ok(admin.store.settle_alert(row).await?);
        }
        if tries >= TRIES_MAX {
            self.give_up(&message.alert);
            return Ok(admin.store.settle_alert(row).await?);
        }
        let due = Timestamp::now().after(backoff::delay(tries, rand::random()));
        Ok(admin.store.postpone_alert(row, due).await?)
    }

    /// Sends a message once; true if the receiver has it.
    async fn send(&self, message: &Message) -> bool {
        let now = Timestamp::now();
        let (secret, alert) = (self.secret.as_ref(), &message.alert);
        let request = message::request(&self.receiver, secret, alert, message.began_at, now);
        let why = match self.client.send(request, POST_MAX).await {
            Ok(answer) if answer.status().is_success() => {
                self.note_success();
                return true;
            }
            Ok(answer) => format!("answers {}", answer.status().as_u16()),
            Err(error) => error.to_string(),
        };
        self.note_failure(why, now);
        false
    }

    fn note_success(&self) {
        if self.failing.lock().take().is_some() {
            let receiver = self.receiver.to_string();
            tracing::info!(receiver, "alerts are posted again");
        }
    }

    fn note_failure(&self, why: String, now: Timestamp) {
        let mut failing = self.failing.lock();
        if failing.is_none() {
            let receiver = self.receiver.to_string();
            tracing::warn!(
                receiver,
                why,
                "an alert could not be posted: it is tried again"
            );
        }
        let since = failing.as_ref().map_or(now, |failing| failing.since);
        *failing = Some(api::Outage { why, since });
    }

    fn give_up(&self, alert: &Alert) {
        let receiver = self.receiver.to_string();
        let (finding, tries) = (&alert.finding, TRIES_MAX);
        tracing::warn!(
            receiver,
            finding,
            tries,
            "an alert was never posted: the receiver has failed each time"
        );
    }
}
