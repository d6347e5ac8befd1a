//! `status`: the health of a namespace in words and as an exit code.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, MissedTickBehavior};

use super::print::Progress;
use super::reach::{Reach, with_query};
use super::{Exit, Printer};
use crate::api::{
    AlertReceiver, Class, Lane, LaneState, NodeLine, Snapshot, Storage, Total, Verdict,
    how_many_more,
};
use crate::domain::name::Name;
use crate::domain::time::{Timestamp, parse_duration};
use crate::text::{count, duration, printable_line};

/// Say whether all is well: whose fault it is, what it holds up, whether more lanes help
///
/// Exit 0 if all is well or stopped on purpose, else 3. With --ours senders that send more than usual and
/// destinations that fail count as well.
///
/// Examples:
///   hooklane status
///   hooklane status --wait 30s
///   hooklane status --ours
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Status {
    /// Namespace to show
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: Name,
    /// Show it again every second; Ctrl-C ends
    #[arg(long)]
    watch: bool,
    /// Wait until all is well, for so long at most
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "watch")]
    wait: Option<Duration>,
    /// Exit 0 also if only senders or destinations are at fault
    #[arg(long)]
    ours: bool,
}

/// Interval of watching.
const EVERY: Duration = Duration::from_secs(1);

impl Status {
    /// Runs the verb.
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let namespace = Some(self.namespace.to_string());
        let path = with_query("/v1/admin/snapshot", &[("namespace", namespace)]);
        let deadline = self.wait.map(|wait| Instant::now() + wait);
        let mut due = tokio::time::interval(EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bar = Progress::new("wait", "Ctrl-C stops waiting").of_things("seconds");
        let began = Instant::now();
        loop {
            due.tick().await;
            let snapshot: Snapshot = reach.get(&path).await?;
            let is_well = self.is_well(&snapshot);
            if !is_well && deadline.is_some_and(|deadline| Instant::now() < deadline) {
                let of = self.wait.unwrap_or_default().as_secs().max(1);
                let worst = snapshot.verdicts.first();
                let worst = worst.map(|worst| format!("{}  {}", worst.class.word(), worst.text));
                out.progress(&mut bar, began.elapsed().as_secs(), of, worst.as_deref())?;
                out.on_ctrl_c(stopped(began.elapsed(), worst.unwrap_or_default()));
                continue;
            }
            out.progress_ends(&bar)?;
            if self.watch {
                out.clear()?;
            }
            if !out.object(&snapshot)? {
                out.line(&text(&snapshot))?;
            }
            if !self.watch {
                return Ok(match is_well {
                    true => Exit::Done,
                    false => Exit::Unfinished,
                });
            }
        }
    }

    fn is_well(&self, snapshot: &Snapshot) -> bool {
        let theirs = |class| matches!(class, Class::Them | Class::Senders);
        let verdicts = snapshot.verdicts.iter();
        let mut classes = verdicts.map(|verdict| verdict.class);
        classes.all(|class| class.is_well() || self.ours && theirs(class))
    }
}

/// The message for Ctrl-C while waiting for recovery.
fn stopped(after: Duration, worst: String) -> Vec<(&'static str, String)> {
    vec![
        (
            "stopped",
            format!("waiting after {}: not well yet", duration(after)),
        ),
        ("now", worst),
        ("look", "hooklane status".to_owned()),
    ]
}

/// The snapshot in a few lines.
fn text(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    if let Some(worst) = snapshot.verdicts.first() {
        text.push_str(&verdict(worst, &snapshot.verdicts[1..]));
    }
    // Writing to a string cannot fail.
    for operation in &snapshot.operations {
        let told = printable_line(&operation.told()).to_string();
        let _ = writeln!(
            text,
            "under way  {told}\n           watch: {}",
            operation.watch
        );
    }
    if let Some(since) = snapshot.old_since {
        let since = since.clock_at(snapshot.at);
        let _ = writeln!(text, "OLD DATA   the figures below are from {since}");
    }
    let total = &snapshot.total;
    let storage = &snapshot.storage;
    let accepting = match (&storage.error, storage.accepting) {
        (Some(error), _) => format!("no: {}", printable_line(error)),
        (None, true) => "yes".to_owned(),
        (None, false) => "no".to_owned(),
    };
    let commit = storage.commit_p99_ms.map_or_else(String::new, |ms| {
        let p99 = Duration::try_from_secs_f64(ms / 1_000.0).unwrap_or_default();
        format!(", commit p99 {}", duration(p99))
    });
    let _ = write!(
        text,
        "oldest     {}     backlog {} {}     set aside {}\n{}\
         accepting  {accepting}, {}/s{commit}\n\
         {}{}{}{}\
         lanes      {}{}\n\
         nodes      {}",
        oldest(total),
        count(total.backlog),
        change(total.backlog_per_s),
        crate::text::counted(total.set_aside, "cursor", "cursors"),
        gathering(&snapshot.lanes),
        count(storage.accepted_per_s.round() as u64),
        noted(storage, snapshot.at),
        restored(storage),
        hints(storage, snapshot.at),
        receivers(&snapshot.receivers),
        lanes_of(
            &snapshot.namespace,
            snapshot.lanes.len(),
            states(&snapshot.lanes)
        ),
        elsewhere(snapshot),
        nodes(snapshot)
    );
    text
}

/// The last outage of the database, if it is over.
fn noted(storage: &Storage, now: Timestamp) -> String {
    storage.noted.as_ref().map_or_else(String::new, |noted| {
        format!(
            "           not from {} to {}: {}\n",
            noted.from.clock_at(now),
            noted.until.clock_at(now),
            printable_line(&noted.error)
        )
    })
}

/// The restore of the database, if it was a short while ago.
fn restored(storage: &Storage) -> String {
    storage
        .restored
        .as_ref()
        .map_or_else(String::new, |restored| {
            let (taken_at, at) = (restored.taken_at, restored.at);
            format!("restored   from a backup of {taken_at}, at {at}\n")
        })
}

/// The Redis server, if there is one.
fn hints(storage: &Storage, now: Timestamp) -> String {
    match (&storage.hints, &storage.hints_server) {
        (Some(outage), _) => format!(
            "hints      none since {}; nodes find work by a sweep every second\n",
            outage.since.clock_at(now)
        ),
        (None, Some(server)) => format!("hints      Redis {}\n", printable_line(server)),
        (None, None) => String::new(),
    }
}

/// The receivers of alerts that fail.
fn receivers(receivers: &[AlertReceiver]) -> String {
    let failing = receivers.iter().filter_map(|of| {
        let outage = of.failing.as_ref()?;
        Some(format!(
            "alerts     {} fails since {}: {}; {}\n",
            printable_line(&of.receiver),
            outage.since,
            printable_line(&outage.why),
            crate::text::counted(of.waiting, "post waits", "posts wait")
        ))
    });
    failing.collect()
}

/// Change of the backlog, as on the dashboard: `+16/s`, `-1,207/s`, `=0/s`.
fn change(per_s: f64) -> String {
    let sign = match per_s.round() {
        0.0 => '=',
        rounded if rounded < 0.0 => '-',
        _ => '+',
    };
    format!("{sign}{}/s", count(per_s.abs().round() as u64))
}

/// Ages of the oldest flowing event and the oldest event.
fn oldest(total: &Total) -> String {
    let age = |ms: u64| duration(Duration::from_millis(ms));
    let Some(oldest) = total.oldest_ms else {
        return match total.backlog {
            0 => "nothing waits".to_owned(),
            // They wait for a node that has not reported since.
            _ => "-".to_owned(),
        };
    };
    if total.flow_ms == Some(oldest) {
        return format!("{} flowing", age(oldest));
    }
    let what = match total.set_aside {
        0 => "kept",
        _ => "set aside",
    };
    let flow = total.flow_ms.map_or_else(|| "-".to_owned(), age);
    format!("{} {what}, {flow} flowing", age(oldest))
}

/// A line about gathering cursors, with the one that gathers longest; empty when there are none.
fn gathering(lanes: &[Lane]) -> String {
    let gathers = lanes.iter().filter_map(|lane| lane.gathers.as_ref());
    let cursors = gathers.clone().map(|gathers| gathers.cursors).sum();
    let Some(last) = gathers.max_by_key(|gathers| gathers.until) else {
        return String::new();
    };
    format!(
        "gathering  {} (debounce); {} -> {} goes on in {}\n",
        crate::text::counted(cursors, "cursor", "cursors"),
        last.stream,
        last.handler,
        duration(last.until.since(Timestamp::now()))
    )
}

/// The lanes of the other namespaces.
fn elsewhere(snapshot: &Snapshot) -> String {
    let others = snapshot.namespaces.iter();
    let others = others.filter(|line| line.namespace != snapshot.namespace);
    others
        .map(|line| {
            let lanes = usize::from(line.lanes);
            let states = line.states.iter().map(|(state, lanes)| (*state, *lanes));
            format!("     {}", lanes_of(&line.namespace, lanes, states))
        })
        .collect()
}

/// A namespace's lanes, such as `default 8: 6 active, 1 paused, 1 drained`.
fn lanes_of(
    namespace: &Name,
    lanes: usize,
    states: impl Iterator<Item = (LaneState, u64)>,
) -> String {
    let said = states.map(|(state, lanes)| format!("{lanes} {}", state.word()));
    let said: Vec<_> = said.collect();
    match said.is_empty() {
        true => format!("{namespace} {lanes}"),
        false => format!("{namespace} {lanes}: {}", said.join(", ")),
    }
}

/// A verdict in two sentences, and the number of further ones.
fn verdict(worst: &Verdict, rest: &[Verdict]) -> String {
    let class = worst.class.word();
    let more = how_many_more(rest);
    let indent = " ".repeat(class.len() + 2);
    let second = worst.more.as_ref();
    let second = second.map(|second| format!("{indent}{}\n", printable_line(second)));
    let next = worst.next.as_ref();
    let next = next.map(|next| format!("{indent}Next: {next}\n"));
    format!(
        "{class}  {}{more}\n{}{}",
        printable_line(&worst.text),
        second.unwrap_or_default(),
        next.unwrap_or_default()
    )
}

/// Number of lanes in each mode.
fn states(lanes: &[Lane]) -> impl Iterator<Item = (LaneState, u64)> {
    let mut states = BTreeMap::new();
    for lane in lanes {
        *states.entry(lane.state).or_insert(0) += 1;
    }
    states.into_iter()
}

fn nodes(snapshot: &Snapshot) -> String {
    let up = |node: &NodeLine| {
        let up = node.up_ms.map(|ms| duration(Duration::from_millis(ms)));
        let name = printable_line(&node.node);
        format!("{name} up {}", up.unwrap_or_else(|| "-".to_owned()))
    };
    let version =
        |node: &NodeLine| printable_line(node.version.as_deref().unwrap_or("-")).to_string();
    let versions: HashSet<_> = snapshot.nodes.iter().map(version).collect();
    match (&snapshot.nodes[..], versions.len()) {
        (nodes @ [_, first, ..], 1) => {
            let all = if nodes.len() == 2 { "both" } else { "all" };
            let nodes: Vec<_> = nodes.iter().map(up).collect();
            format!("{}, {all} {}", nodes.join(", "), version(first))
        }
        (nodes, _) => {
            let node = |node: &NodeLine| format!("{}, {}", up(node), version(node));
            let nodes: Vec<_> = nodes.iter().map(node).collect();
            nodes.join("; ")
        }
    }
}
