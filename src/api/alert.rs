//! Alerts, as they are posted to an operator's receivers.

use serde::{Deserialize, Serialize};

use super::rule::Rule;
use super::severity::Severity;
use super::snapshot::{Class, Verdict};
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;

/// A message to a receiver, in the shape of Standard Webhooks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertMessage {
    /// `alert.began` or `alert.ended`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Time at which the finding began or ended.
    pub timestamp: Timestamp,
    /// The alert.
    pub data: Alert,
}

/// An alert: a finding that has stood for a while. Its words are those of the moment at which it began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Id of the alert, the same in both of its messages.
    #[serde(default)]
    pub alert: String,
    /// Name of the finding: `late`, `nodes`, `orders -> crm held`.
    pub finding: String,
    /// Namespace of the finding; `null` for one about nodes, the database, Redis or a disk.
    pub namespace: Option<Name>,
    /// Node that reports it.
    pub node: String,
    /// Rule of the finding.
    pub rule: Rule,
    /// Side on which the cause lies.
    pub class: Class,
    /// Severity of the finding.
    pub severity: Severity,
    /// First sentence, without the class.
    pub text: String,
    /// Effect on events, and if more lanes help.
    pub more: Option<String>,
    /// Command to run next.
    pub next: Option<String>,
    /// Time since when it has been so.
    pub since: Option<Timestamp>,
    /// The hook that it is about.
    pub hook: Option<Name>,
    /// The stream that it is about.
    pub stream: Option<StreamName>,
    /// The lane that it is about.
    pub lane: Option<LaneId>,
    /// Time at which it ended; `null` in the message of its begin.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
}

impl Alert {
    /// An alert about a verdict, found on a node.
    pub fn about(verdict: &Verdict, namespace: Option<Name>, node: &str) -> Self {
        let verdict = verdict.clone();
        Self {
            alert: String::new(),
            finding: verdict.finding,
            namespace,
            node: node.to_owned(),
            rule: verdict.rule,
            class: verdict.class,
            severity: verdict.severity,
            text: verdict.text,
            more: verdict.more,
            next: verdict.next,
            since: verdict.since,
            hook: verdict.hook,
            stream: verdict.stream,
            lane: verdict.lane,
            ended_at: None,
        }
    }
}
