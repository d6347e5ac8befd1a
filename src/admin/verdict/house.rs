//! Findings about nodes, storage, Redis and turns that hang.

use std::time::Duration;

use super::facts::{Facts, QUIET, Silent};
use super::words::{is_lane, listed, millis, verdict};
use crate::api::{Class, Lane, LaneState, Outage, Rule, Severity, Verdict, command};
use crate::text::{counted, duration, printable_line, size};

/// A turn that runs for longer hangs.
pub(super) const HANGS: Duration = Duration::from_secs(10);

/// A node that is silent for longer is not only slow: its lanes stand still.
const CERTAIN: Duration = Duration::from_secs(5);

/// Number of nodes that are named in a sentence; more are counted.
const HEIRS_NAMED: usize = 3;

/// A commit slower than this, and than five times the normal one, is a slow disk.
const COMMIT_SLOW_MS: f64 = 50.0;

/// Lanes that nobody runs, and lanes of nodes that are silent.
pub(super) fn no_owner(facts: &Facts<'_>) -> Option<Verdict> {
    let longest = facts.most_silent();
    let is_orphan = |lane: &&Lane| {
        lane.state == LaneState::NoOwner || facts.unheard_owner(lane, QUIET).is_some()
    };
    let orphans: Vec<_> = facts.lanes.iter().filter(is_orphan).collect();
    if orphans.is_empty() && longest.is_none() {
        return None;
    }
    let is_lost = orphans.iter().any(|lane| lane.state == LaneState::NoOwner);
    let is_certain = is_lost || longest.is_none_or(|node| node.silent >= CERTAIN);
    let have = stand(&orphans, is_lost, is_certain);
    let since = longest.map(|node| facts.at.before(node.silent));
    let text = match (longest, since) {
        (Some(Silent { node, silent, .. }), Some(since)) => {
            let (node, silent) = (printable_line(node), duration(*silent));
            let since = since.clock_at(facts.at);
            format!("node {node} silent for {silent}, since {since}: {have}")
        }
        _ => have,
    };
    let events = orphans.iter().map(|lane| lane.backlog).sum();
    let wait = waiting(events, facts.uncounted && !orphans.is_empty());
    let left = longest.map(|node| node.left).unwrap_or_default();
    let heir = take_over(facts.heirs, left, is_certain);
    let more = format!("Accepting goes on{wait}. More lanes: no. {heir}");
    Some(Verdict {
        since,
        events,
        lane: orphans.first().map(|lane| lane.id.clone()),
        severity: match is_lost || is_certain && orphans.is_empty() {
            true => Severity::Trouble,
            false => Severity::Unusual,
        },
        next: Some(match facts.heirs.is_empty() {
            true => "hooklane serve".to_owned(),
            false => "hooklane status --wait 30s".to_owned(),
        }),
        ..verdict(Rule::NoOwner, class(is_certain), text, more)
    })
}

fn class(is_certain: bool) -> Class {
    match is_certain {
        true => Class::Us,
        false => Class::UsPerhaps,
    }
}

/// Says how the lanes of a silent node stand, such as `lanes 4 and 5 have no owner`.
fn stand(lanes: &[&Lane], is_lost: bool, is_certain: bool) -> String {
    let (one, many) = ("lane", "lanes");
    match (lanes.is_empty(), is_lost, is_certain) {
        (true, ..) => "it has no lanes".to_owned(),
        (_, true, _) => format!("{} no owner", listed(lanes, one, many, "has", "have")),
        (.., true) => listed(lanes, one, many, "stands still", "stand still"),
        _ => listed(lanes, one, many, "may stand still", "may stand still"),
    }
}

fn waiting(events: u64, is_uncounted: bool) -> String {
    match (events, is_uncounted) {
        (0, true) => ", events may wait".to_owned(),
        (0, false) => String::new(),
        (_, is_uncounted) => {
            let least = if is_uncounted { "at least " } else { "" };
            let wait = counted(events, "event waits", "events wait");
            format!(", {least}{wait}")
        }
    }
}

/// Names the nodes that take the lanes of a silent node, and the time until then.
fn take_over(heirs: &[String], left: Duration, is_certain: bool) -> String {
    // The others look twice a second.
    let when = match left.as_secs() {
        0 => "within 2s".to_owned(),
        _ => format!("in {}", duration(left)),
    };
    let heirs: Vec<_> = heirs.iter().map(|heir| printable_line(heir)).collect();
    let who = match &heirs[..] {
        [] => return "No node is running: start one.".to_owned(),
        [heir] => format!("node {heir} takes"),
        [first @ .., last] if heirs.len() <= HEIRS_NAMED => {
            let first: Vec<_> = first.iter().map(ToString::to_string).collect();
            format!("nodes {} and {last} take", first.join(", "))
        }
        heirs => format!("the {} live nodes take", heirs.len()),
    };
    match (is_certain, who.split_at(1)) {
        (true, (first, rest)) => format!("{}{rest} them over {when}.", first.to_uppercase()),
        (false, _) => format!("If it stays silent, {who} them over {when}."),
    }
}

pub(super) fn lost(facts: &Facts<'_>) -> Option<Verdict> {
    let events = counted(facts.lost, "acknowledged event", "acknowledged events");
    let text = format!("storage: Postgres failed over and lost {events}");
    let more = "Holds up nothing. Their senders must send them again. More lanes: no. This stays until you \
        acknowledge them: hooklane events lost --acknowledge"
        .to_owned();
    (facts.lost > 0).then(|| Verdict {
        finding: "lost".to_owned(),
        next: Some("hooklane events lost".to_owned()),
        ..verdict(Rule::Storage, Class::Us, text, more)
    })
}

pub(in crate::admin) fn storage(facts: &Facts<'_>) -> Option<Verdict> {
    let storage = &facts.storage;
    let more = |accepting| {
        let accepting = match accepting {
            true => "Accepting goes on, slowly.",
            false => "Senders get 503 and try again; no acknowledged event is lost.",
        };
        format!("{accepting} More lanes: no.")
    };
    let doctor = Some("hooklane doctor".to_owned());
    if let Some(error) = &storage.error {
        let since = storage.error_since;
        let when = since.map_or_else(String::new, |at| {
            format!(", since {}", at.clock_at(facts.at))
        });
        let text = format!("storage: {}{when}", printable_line(error));
        return Some(Verdict {
            since,
            next: doctor,
            ..verdict(Rule::Storage, Class::Us, text, more(storage.accepting))
        });
    }
    let own = storage.commit_p99_ms.zip(storage.commit_normal_ms);
    let own = own.map(|(p99, normal)| (None, p99, normal));
    let own = own.filter(|_| facts.commits.is_empty());
    let slow = facts.commits.iter().cloned().chain(own);
    let slow = slow.filter(|(_, p99, normal)| *p99 >= COMMIT_SLOW_MS && *p99 >= 5.0 * normal);
    let (node, p99, normal) = slow.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let lanes = match node {
        Some(node) => format!("the lanes of node {} are slow", printable_line(&node)),
        None => "all lanes slow".to_owned(),
    };
    let text = format!(
        "storage: commit p99 {} (normal {}), {lanes}",
        millis(p99),
        millis(normal)
    );
    Some(Verdict {
        finding: "commits".to_owned(),
        events: facts.backlog(),
        next: doctor,
        ..verdict(Rule::Storage, Class::Us, text, more(true))
    })
}

/// Disks on which events will soon find no room.
pub(super) fn disks(facts: &Facts<'_>) -> Vec<Verdict> {
    let line = |(node, free): &(String, u64)| {
        let node = printable_line(node);
        let text = format!("disk: node {node} has only {} left", size(*free));
        let more = "Holds up nothing yet; a full disk refuses events (503). More lanes: no.";
        Verdict {
            finding: format!("disk {node}"),
            next: Some("hooklane doctor".to_owned()),
            ..verdict(Rule::Storage, Class::Us, text, more.to_owned())
        }
    };
    facts.full.iter().map(line).collect()
}

/// Redis is away: work is found by sweeping the database, which takes a second.
pub(super) fn hints(facts: &Facts<'_>) -> Option<Verdict> {
    let Outage { why, since } = facts.hints.as_ref()?;
    // The remedy follows behind a semicolon; `doctor` gives it.
    let problem = why
        .split_once("; ")
        .map_or(why.as_str(), |(problem, _)| problem);
    let text = format!(
        "{}, since {}",
        printable_line(problem),
        since.clock_at(facts.at)
    );
    let more =
        "Holds up nothing: events are accepted, and processed up to 1s later. More lanes: no.";
    Some(Verdict {
        finding: "redis".to_owned(),
        since: Some(*since),
        severity: Severity::Unusual,
        next: Some("hooklane doctor".to_owned()),
        ..verdict(Rule::Storage, Class::Us, text, more.to_owned())
    })
}

pub(super) fn hangs(facts: &Facts<'_>) -> Option<Verdict> {
    let longest = facts.turns.iter().max_by_key(|(.., ran)| *ran);
    let (lane, cursor, ran) = longest.filter(|(.., ran)| *ran >= HANGS)?;
    let of_lane = facts.lanes.iter().find(|known| is_lane(known, lane));
    let events = of_lane.map_or(0, |lane| lane.backlog_flowing);
    let lane = lane.index;
    let since = facts.at.before(*ran);
    let text = format!(
        "lane {lane}: turn of {} runs for {}, since {}",
        printable_line(cursor),
        duration(*ran),
        since.clock_at(facts.at)
    );
    let more = format!(
        "Holds up the {} of its lane. More lanes: no.",
        counted(events, "event", "events")
    );
    Some(Verdict {
        events,
        since: Some(since),
        next: of_lane.map(|lane| command::lanes("show", &lane.id)),
        lane: of_lane.map(|lane| lane.id.clone()),
        ..verdict(Rule::Turn, Class::UsPerhaps, text, more)
    })
}
