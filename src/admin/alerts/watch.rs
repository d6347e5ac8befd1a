//! Decides which findings have stood, or have been absent, for long enough. Without clock and I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::Alert;

/// Time for which a finding stands without a break before its begin is posted.
pub const BEGIN_AFTER: Duration = Duration::from_secs(5);

/// Time for which a finding is absent without a break before its end is posted.
pub const END_AFTER: Duration = Duration::from_secs(15);

/// Longest time that one round counts for. A node that was stopped for minutes has seen nothing meanwhile.
const ROUND_MAX: Duration = Duration::from_secs(2);

/// Finding about lanes that no node runs. While it stands, nothing is known of their streams.
const NODES: &str = "nodes";

/// Finding about a database that does not answer. While it stands, nothing is known of anything else.
pub const DATABASE: &str = "database";

/// Findings during which others cannot be seen.
const BLINDING: [&str; 2] = [NODES, DATABASE];

/// Findings of this node's snapshots, each with the time for which it has stood or been absent.
#[derive(Default)]
pub struct Watch {
    known: BTreeMap<String, WatchedFinding>,
    /// Time for which everything could be seen, up to [`END_AFTER`].
    seen: Duration,
}

/// A finding with the time for which it has stood, and then been absent.
struct WatchedFinding {
    alert: Alert,
    stood: Duration,
    absent: Duration,
}

impl Watch {
    /// Takes the findings of a round, by their names, and the time since the round before.
    pub fn note(&mut self, found: BTreeMap<String, Alert>, elapsed: Duration) {
        let elapsed = elapsed.min(ROUND_MAX);
        let is_blind = BLINDING.iter().any(|name| found.contains_key(*name));
        if !is_blind {
            self.seen = (self.seen + elapsed).min(END_AFTER);
        }
        for (name, known) in &mut self.known {
            if !found.contains_key(name) {
                known.stood = Duration::ZERO;
                let counts = !is_blind || BLINDING.contains(&name.as_str());
                known.absent += if counts { elapsed } else { Duration::ZERO };
            }
        }
        for (name, alert) in found {
            let known = self.known.entry(name).or_insert_with(|| WatchedFinding {
                alert: alert.clone(),
                stood: Duration::ZERO,
                absent: Duration::ZERO,
            });
            known.stood += elapsed;
            known.absent = Duration::ZERO;
            known.alert = alert;
        }
        self.known.retain(|_, known| known.absent < END_AFTER);
    }

    /// Findings that have stood for long enough, by name.
    pub fn standing(&self) -> impl Iterator<Item = (&String, &Alert)> {
        let all = self.known.iter();
        let standing = all.filter(|(_, known)| known.stood >= BEGIN_AFTER);
        standing.map(|(name, known)| (name, &known.alert))
    }

    /// True if a finding has been absent for long enough. One of before a restart counts from the start.
    pub fn is_over(&self, name: &str) -> bool {
        !self.known.contains_key(name) && self.seen >= END_AFTER
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn alert(finding: &str) -> Alert {
        let verdict = crate::admin::verdict::verdicts(&Default::default()).remove(0);
        let finding = finding.to_owned();
        Alert::about(&crate::api::Verdict { finding, ..verdict }, None, "a")
    }

    fn rounds(watch: &mut Watch, seconds: u64, found: &[&str]) {
        for _ in 0..seconds {
            let found = found.iter().map(|name| ((*name).to_owned(), alert(name)));
            watch.note(found.collect(), Duration::from_secs(1));
        }
    }

    fn stands(watch: &Watch, name: &str) -> bool {
        watch.standing().any(|(known, _)| known == name)
    }

    #[test]
    fn a_finding_stands_after_five_seconds_without_a_break() {
        let mut watch = Watch::default();
        rounds(&mut watch, 4, &["late"]);
        assert!(!stands(&watch, "late"));
        rounds(&mut watch, 1, &[]);
        rounds(&mut watch, 4, &["late"]);
        assert!(!stands(&watch, "late"), "it was away for a second");
        rounds(&mut watch, 1, &["late"]);
        assert!(stands(&watch, "late"));
    }

    #[test]
    fn a_finding_is_over_after_fifteen_seconds_without_a_break() {
        let mut watch = Watch::default();
        rounds(&mut watch, 20, &["late"]);
        rounds(&mut watch, 14, &[]);
        rounds(&mut watch, 1, &["late"]);
        rounds(&mut watch, 14, &[]);
        assert!(!watch.is_over("late"));
        rounds(&mut watch, 1, &[]);
        assert!(watch.is_over("late"));
    }

    #[test]
    fn a_finding_of_before_the_start_is_over_only_after_fifteen_seconds_of_seeing() {
        let mut watch = Watch::default();
        rounds(&mut watch, 30, &["nodes"]);
        assert!(
            !watch.is_over("orders -> crm held"),
            "its lane has no owner"
        );
        rounds(&mut watch, 14, &[]);
        assert!(!watch.is_over("orders -> crm held"));
        rounds(&mut watch, 1, &[]);
        assert!(watch.is_over("orders -> crm held") && watch.is_over("nodes"));
    }

    #[test]
    fn while_nothing_can_be_seen_nothing_ends_but_that() {
        let mut watch = Watch::default();
        rounds(&mut watch, 20, &["late"]);
        rounds(&mut watch, 60, &["database"]);
        assert!(!watch.is_over("late"));
        rounds(&mut watch, 15, &["late"]);
        assert!(watch.is_over("database") && stands(&watch, "late"));
    }

    #[test]
    fn a_node_that_slept_has_not_watched_meanwhile() {
        let mut watch = Watch::default();
        rounds(&mut watch, 20, &["late"]);
        watch.note(BTreeMap::new(), Duration::from_secs(3600));
        assert!(!watch.is_over("late"));
    }
}
