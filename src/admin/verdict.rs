//! What is wrong, in words: whose fault, what it holds up, whether more lanes help. Made here and nowhere
//! else, so that `status`, the dashboard and alerts say the same. No clock, no I/O.

use std::collections::HashMap;
use std::time::Duration;

use super::eta;
use crate::api::{Class, CursorLine, Lane, LaneState, Outage, Severity, Storage, Verdict, command};
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::domain::thresholds::Thresholds;
use crate::domain::time::Timestamp;
use crate::text::{count, counted, duration, printable_line, shortened};

/// A try again that is further away than this needs somebody.
const WAITS_LONG: Duration = Duration::from_secs(300);

/// A turn that runs for longer hangs.
const HANGS: Duration = Duration::from_secs(10);

/// A reducer that takes longer than this for an event is named when events wait, normal or not.
const FOLD_SLOW: f64 = 0.005;

/// The longest name in a sentence. A longer one is cut in its middle; the command beside it has it whole.
const NAME_MAX: usize = 36;

/// A commit slower than this, and than five times the normal one, is a slow disk.
const COMMIT_SLOW_MS: f64 = 50.0;

/// A lane that takes turns for a larger share of the time is busy.
const BUSY: f64 = 0.9;

/// What is known when a verdict is asked for.
#[derive(Default)]
pub struct Facts<'f> {
    /// Now.
    pub at: Timestamp,
    /// From when on the namespace is late.
    pub thresholds: Thresholds,
    /// The lanes of the namespace.
    pub lanes: &'f [Lane],
    /// Its cursors with work, those set aside first.
    pub cursors: &'f [CursorLine],
    /// The namespace that the verdict is about; none: the default one.
    pub namespace: Option<Name>,
    /// Nodes that are silent.
    pub silent: &'f [Silent],
    /// Live nodes, which take over the lanes of silent ones.
    pub heirs: &'f [String],
    /// What is wrong with Redis.
    pub hints: Option<Outage>,
    /// How events are stored.
    pub storage: Storage,
    /// How long commits take on each node of a cluster, named, and what is normal there, in milliseconds.
    pub commits: &'f [(Option<String>, f64, f64)],
    /// Turns that run: the lane, the cursor, and for how long.
    pub turns: &'f [(LaneId, String, Duration)],
    /// Hooks with what they get a second, and what is normal.
    pub hooks: &'f [(Name, f64, f64)],
    /// Handlers, such as `orders -> reduce`, with the time they take for an event in seconds, and what is normal
    /// where that is known.
    pub handlers: &'f [(String, f64, Option<f64>)],
    /// Hooks that operators have paused, and who, when and why.
    pub paused: &'f [(Name, String)],
    /// Handlers, such as `orders -> reduce`, that are too slow for the lanes: each takes one turn at a time on each
    /// node.
    pub beside: &'f [String],
    /// Hooks that a node has stopped because their events do not end: with which, and since when.
    pub stuck: &'f [(Name, String, Timestamp)],
    /// Streams that keep events past their time, in words, a line a hook.
    pub overdue: &'f [String],
    /// The stream with most to go among those that flow in each lane: the lane's place, and how much.
    pub largest: &'f [(LaneId, StreamName, u64)],
    /// The least number of lanes that no stream would keep busy, were what waits laid on them.
    pub lanes_that_help: Option<u16>,
    /// Acknowledged events that a failover has lost and that no operator knows of.
    pub lost: u64,
}

/// A node that has not been heard for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent {
    /// What people call it.
    pub node: String,
    /// For how long.
    pub silent: Duration,
    /// How long until others may take its lanes.
    pub left: Duration,
}

impl Facts<'_> {
    fn namespace(&self) -> Name {
        let named = self.namespace.clone();
        named.unwrap_or_else(Name::default_namespace)
    }

    /// The slowest reducer and its time for an event, in seconds, where that is long.
    fn slowest(&self) -> Option<(&str, f64)> {
        let handlers = self.handlers.iter().map(|(name, now, _)| (&**name, *now));
        let slow = handlers.filter(|(_, now)| *now > FOLD_SLOW);
        slow.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn flow(&self) -> Option<Duration> {
        let running = self.lanes.iter().filter(|lane| !lane.is_stopped());
        running
            .filter_map(|lane| lane.flow_ms)
            .max()
            .map(Duration::from_millis)
    }

    /// Whether what may flow waits for too long.
    pub fn is_late(&self) -> bool {
        self.flow().is_some_and(|flow| flow > self.thresholds.warn)
    }

    fn busy(&self) -> Vec<&Lane> {
        let busy = |lane: &&Lane| lane.busy.is_some_and(|share| share > BUSY);
        self.lanes.iter().filter(busy).collect()
    }

    fn flowing(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.backlog_flowing).sum()
    }

    fn is_late_lane(&self, lane: &Lane) -> bool {
        !lane.is_stopped() && lane.flow_ms.is_some_and(over(self.thresholds.warn))
    }

    /// Busy lanes in which turns wait behind other cursors. However short a round is there: what waits in such a
    /// lane gets only its share of it.
    fn crowded(&self) -> Vec<&Lane> {
        let waits = |lane: &&Lane| lane.turn_wait_ms.is_some_and(|ms| ms > 0);
        self.busy().into_iter().filter(waits).collect()
    }

    fn backlog(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.backlog).sum()
    }

    /// A handler beside the lanes that has work, if any; of this hook, where one is given.
    fn beside(&self, hook: Option<&Name>) -> Option<&str> {
        let has_work = |name: &&String| {
            let mut flowing = self.cursors.iter().filter(|c| c.condition == "flowing");
            flowing.any(|c| **name == format!("{} -> {}", c.stream.hook, c.handler))
        };
        let is_meant = |name: &&String| hook.is_none() || hook_of(name).as_ref() == hook;
        let mut beside = self.beside.iter().filter(is_meant).filter(has_work);
        beside.next().map(String::as_str)
    }

    /// How many cursors are set aside, where there are more of them than are known by name.
    fn set_aside_beyond_named(&self) -> Option<u64> {
        let all = self.lanes.iter().map(|lane| lane.set_aside).sum();
        let named = self.cursors.iter().filter(|c| is_set_aside(c)).count() as u64;
        (all > named).then_some(all)
    }

    /// Events that wait for cursors that are set aside.
    fn events_set_aside(&self) -> u64 {
        let flows = |lane: &Lane| lane.backlog_flowing + lane.kept;
        let aside = |lane: &Lane| lane.backlog.saturating_sub(flows(lane));
        self.lanes.iter().map(aside).sum()
    }
}

/// Everything there is to say, the worst first; at least one.
pub fn verdicts(facts: &Facts<'_>) -> Vec<Verdict> {
    let mut all = Vec::new();
    all.extend(no_owner(facts));
    all.extend(lost(facts));
    all.extend(storage(facts));
    all.extend(hints(facts));
    all.extend(hangs(facts));
    all.extend(flood(facts));
    all.extend(slow_code(facts));
    all.extend(one_stream(facts));
    all.extend(too_few_lanes(facts));
    if all.is_empty() {
        all.extend(late(facts));
    }
    all.extend(stuck_hooks(facts));
    all.extend(set_aside(facts));
    all.extend(on_purpose(facts));
    all.extend(paused_hooks(facts));
    all.extend(held_on_purpose(facts));
    all.extend(overdue(facts));
    all.sort_by_key(|verdict| (verdict.rule, std::cmp::Reverse(verdict.events)));
    if all.is_empty() {
        all.push(well(facts));
    }
    all
}

/// Since when findings stand, where nothing else tells. Each node tells the others, and the earliest counts.
#[derive(Default)]
pub struct Since(HashMap<Finding, Timestamp>);

/// A finding, by its rule and the stream that it is about.
pub type Finding = (u8, Option<StreamName>);

impl Since {
    /// What this node tells the others.
    pub fn told(&self) -> impl Iterator<Item = (&Finding, Timestamp)> {
        self.0.iter().map(|(finding, since)| (finding, *since))
    }

    /// Adds to each finding since when it stands without a break, and says it. `others` is what other nodes tell.
    pub fn date(
        &mut self,
        verdicts: &mut [Verdict],
        others: &[(Finding, Timestamp)],
        now: Timestamp,
    ) {
        let before = std::mem::take(&mut self.0);
        let is_trouble = |verdict: &&mut Verdict| !verdict.class.is_well();
        let undated = verdicts.iter_mut().filter(is_trouble);
        for verdict in undated.filter(|verdict| verdict.since.is_none()) {
            let finding = (verdict.rule, verdict.stream.clone());
            let of_others = others.iter().filter(|(of, _)| *of == finding);
            let known = of_others.map(|(_, since)| *since);
            let known = known.chain(before.get(&finding).copied()).min();
            let since = known.unwrap_or(now).min(now);
            self.0.insert(finding, since);
            verdict.since = Some(since);
            verdict.text += &format!(", since {}", since.clock_at(now));
        }
    }
}

/// How much a lane needs somebody; `flow_ms` is its FLOW once a second, oldest first.
pub fn severity(
    lane: &Lane,
    cursors: &[CursorLine],
    flow_ms: &[u64],
    thresholds: Thresholds,
) -> Severity {
    let of_lane = |cursor: &&CursorLine| cursor.is_in(lane);
    let held_by_hand = cursors.iter().filter(of_lane).filter(|c| is_by_hand(c));
    let held_by_hand = held_by_hand.count() as u64;
    let is_bad = |cursor: &CursorLine| match cursor.condition.as_str() {
        "held" => !is_by_hand(cursor),
        "waiting" => cursor.oldest_ms.is_some_and(over(WAITS_LONG)),
        _ => false,
    };
    let is_running = !lane.is_stopped();
    let rises = eta::slope(flow_ms).is_some_and(|slope| slope >= 0.95);
    if lane.state == LaneState::NoOwner
        || lane.held > held_by_hand
        || cursors.iter().filter(of_lane).any(is_bad)
        || is_running && (lane.flow_ms.is_some_and(over(thresholds.crit)) || rises)
    {
        Severity::Trouble
    } else if !is_running
        || lane.state == LaneState::Draining
        || lane.waiting + lane.held > 0
        || lane.flow_ms.is_some_and(over(thresholds.warn))
    {
        Severity::Unusual
    } else {
        Severity::Fine
    }
}

fn over(bound: Duration) -> impl Fn(u64) -> bool {
    move |ms| Duration::from_millis(ms) > bound
}

fn verdict(rule: u8, class: Class, text: String, more: String) -> Verdict {
    Verdict {
        rule,
        class,
        severity: Severity::Trouble,
        text,
        more: Some(more),
        next: None,
        since: None,
        events: 0,
        lanes_that_help: None,
        lane: None,
        stream: None,
        hook: None,
    }
}

/// `billing/acme -> reduce`, cut in its middle where the name is long.
fn named(stream: &StreamName, handler: &Name) -> String {
    format!("{} -> {handler}", short_name(stream))
}

fn short_name(stream: &StreamName) -> String {
    let name = printable_line(&stream.to_string()).to_string();
    shortened(&name, NAME_MAX).into_owned()
}

/// Lanes that nobody runs, and lanes of nodes that are silent.
fn no_owner(facts: &Facts<'_>) -> Option<Verdict> {
    let longest = facts.silent.iter().max_by_key(|silent| silent.silent);
    let is_silent = |lane: &&Lane| {
        let mut silent = facts.silent.iter();
        lane.state == LaneState::NoOwner
            || silent.any(|silent| lane.node.as_ref() == Some(&silent.node))
    };
    let orphans: Vec<_> = facts.lanes.iter().filter(is_silent).collect();
    if orphans.is_empty() && longest.is_none() {
        return None;
    }
    let events = orphans.iter().map(|lane| lane.backlog).sum();
    let is_lost = orphans.iter().any(|lane| lane.state == LaneState::NoOwner);
    let have = match (orphans.is_empty(), is_lost) {
        (true, _) => "it has no lanes".to_owned(),
        (_, true) => {
            let lanes = listed(&orphans, "lane", "lanes", "has", "have");
            format!("{lanes} no owner")
        }
        (_, false) => listed(&orphans, "lane", "lanes", "stands still", "stand still"),
    };
    let since = longest.map(|silent| facts.at.before(silent.silent));
    let text = match (longest, since) {
        (Some(Silent { node, silent, .. }), Some(since)) => {
            let (node, silent) = (printable_line(node), duration(*silent));
            let since = since.clock_at(facts.at);
            format!("node {node} silent for {silent}, since {since}: {have}")
        }
        _ => have,
    };
    let wait = match events {
        0 => String::new(),
        _ => format!(", {}", counted(events, "event waits", "events wait")),
    };
    let left = longest.map(|silent| silent.left).unwrap_or_default();
    let heir = take_over(facts.heirs, left);
    let more = format!("Accepting goes on{wait}. More lanes: no. {heir}");
    Some(Verdict {
        since,
        events,
        lane: orphans.first().map(|lane| lane.lane.clone()),
        severity: match is_lost || orphans.is_empty() {
            true => Severity::Trouble,
            false => Severity::Unusual,
        },
        next: Some(match facts.heirs.is_empty() {
            true => "hooklane serve".to_owned(),
            false => "hooklane status --wait 30s".to_owned(),
        }),
        ..verdict(1, Class::Us, text, more)
    })
}

/// Who takes the lanes of a silent node, and when.
fn take_over(heirs: &[String], left: Duration) -> String {
    // The others look twice a second.
    let when = match left.as_secs() {
        0 => "within 2s".to_owned(),
        _ => format!("in {}", duration(left)),
    };
    match heirs {
        [] => "No node is running: start one.".to_owned(),
        [heir] => format!("Node {} takes them over {when}.", printable_line(heir)),
        heirs => format!("The other {} nodes take them over {when}.", heirs.len()),
    }
}

fn lost(facts: &Facts<'_>) -> Option<Verdict> {
    let events = counted(facts.lost, "acknowledged event", "acknowledged events");
    let text = format!("storage: Postgres failed over and lost {events}");
    let more = "Holds up nothing. Their senders must send them again. More lanes: no. This stays until you \
        acknowledge them: hooklane events lost --acknowledge"
        .to_owned();
    (facts.lost > 0).then(|| Verdict {
        next: Some("hooklane events lost".to_owned()),
        ..verdict(2, Class::Us, text, more)
    })
}

pub(super) fn storage(facts: &Facts<'_>) -> Option<Verdict> {
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
            ..verdict(2, Class::Us, text, more(storage.accepting))
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
        events: facts.backlog(),
        next: doctor,
        ..verdict(2, Class::Us, text, more(true))
    })
}

/// Redis is away: work is found by sweeping the database, which takes a second.
fn hints(facts: &Facts<'_>) -> Option<Verdict> {
    let Outage { why, since } = facts.hints.as_ref()?;
    let text = format!(
        "{}, since {}",
        printable_line(why),
        since.clock_at(facts.at)
    );
    let more =
        "Holds up nothing: events are accepted, and processed up to 1s later. More lanes: no.";
    Some(Verdict {
        since: Some(*since),
        severity: Severity::Unusual,
        next: Some("hooklane doctor".to_owned()),
        ..verdict(2, Class::Us, text, more.to_owned())
    })
}

/// By place and generation: while lanes are resized, two of them have the same place.
fn is_lane(lane: &Lane, id: &LaneId) -> bool {
    (lane.generation, lane.index) == (id.generation, id.index)
}

fn hangs(facts: &Facts<'_>) -> Option<Verdict> {
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
        next: of_lane.and_then(|lane| Some(command::lanes("show", &lane.id()?))),
        lane: of_lane.map(|lane| lane.lane.clone()),
        ..verdict(3, Class::UsPerhaps, text, more)
    })
}

fn flood(facts: &Facts<'_>) -> Option<Verdict> {
    if !facts.is_late() {
        return None;
    }
    let flooding = facts.hooks.iter();
    let flooding = flooding.filter(|(_, now, normal)| *now > 10.0 && *now > 4.0 * normal);
    let (hook, now, normal) = flooding.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let text = format!(
        "hook {hook} gets {}/s (normal {}/s)",
        rate(*now),
        rate(*normal)
    );
    let beside = facts.beside(Some(hook));
    let help = match beside {
        Some(handler) => one_turn_at_a_time(handler),
        None => format!(
            "{} Or lanes of its own: hooklane hooks edit {hook} --namespace NAME",
            lanes_help(facts)
        ),
    };
    let more = format!(
        "{} wait{}. {help}",
        counted(facts.flowing(), "event", "events"),
        slow_reducer(facts)
    );
    let resize = resize(facts).filter(|_| beside.is_none());
    Some(Verdict {
        events: facts.flowing(),
        lanes_that_help: facts.lanes_that_help.filter(|_| beside.is_none()),
        next: resize.or_else(|| Some(command::hooks("show", hook))),
        hook: Some(hook.clone()),
        ..verdict(5, Class::Senders, text, more)
    })
}

fn slow_code(facts: &Facts<'_>) -> Option<Verdict> {
    if !facts.is_late() {
        return None;
    }
    let slow = facts.handlers.iter();
    let slow = slow.filter_map(|(name, now, normal)| Some((name, *now, (*normal)?)));
    let slow = slow.filter(|(_, now, normal)| *now > 0.001 && *now > 3.0 * normal);
    let (handler, now, normal) = slow.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let is_beside = facts.beside.contains(handler);
    let text = format!(
        "{handler} takes {} an event (normal {})",
        millis(now * 1_000.0),
        millis(normal * 1_000.0)
    );
    let more = format!(
        "{} wait, the oldest for {}. {}",
        counted(facts.flowing(), "event", "events"),
        duration(facts.flow().unwrap_or_default()),
        match is_beside {
            true => one_turn_at_a_time(handler),
            false => lanes_help(facts),
        }
    );
    let hook: Option<Name> = hook_of(handler);
    let show = hook.as_ref().map(|hook| command::hooks("show", hook));
    Some(Verdict {
        events: facts.flowing(),
        lanes_that_help: facts.lanes_that_help.filter(|_| !is_beside),
        next: resize(facts).filter(|_| !is_beside).or(show),
        hook,
        ..verdict(6, Class::Code, text, more)
    })
}

/// In the lanes that are late one stream each is over half of what flows.
fn one_stream(facts: &Facts<'_>) -> Option<Verdict> {
    if !facts.is_late() {
        return None;
    }
    let late: Vec<_> = facts
        .lanes
        .iter()
        .filter(|l| facts.is_late_lane(l))
        .collect();
    let is_late = |id: &LaneId| late.iter().any(|late| is_lane(late, id));
    let largest = facts.largest.iter().filter(|(lane, ..)| is_late(lane));
    let mut largest: Vec<_> = largest.collect();
    largest.sort_by_key(|(.., events)| std::cmp::Reverse(*events));
    let (_, stream, most) = largest.first()?;
    let events: u64 = largest.iter().map(|(.., events)| events).sum();
    let flowing: u64 = late.iter().map(|lane| lane.backlog_flowing).sum();
    let (events, streams) = match most * 2 > flowing {
        true => (*most, 1),
        false => (events, largest.len()),
    };
    if events * 2 <= flowing {
        return None;
    }
    let share = percent(events as f64 / facts.flowing().max(1) as f64);
    let went: f64 = late.iter().filter_map(|lane| lane.out_per_s).sum();
    let went = rate(went);
    let name = short_name(stream);
    let text = match streams {
        1 => {
            format!("{name} is {share} of what flows: one stream, one event at a time, {went}/s")
        }
        _ => format!(
            "{streams} streams are {share} of what flows, {name} the longest: each one event at a time, \
             {went}/s"
        ),
    };
    let more = format!(
        "{} of it wait{}. More lanes: no, {}; a finer ordering key would help.",
        counted(events, "event", "events"),
        slow_reducer(facts),
        counted(streams as u64, "stream", "streams")
    );
    Some(Verdict {
        events,
        next: Some(command::why(stream)),
        stream: Some(stream.clone()),
        ..verdict(7, Class::Order, text, more)
    })
}

fn too_few_lanes(facts: &Facts<'_>) -> Option<Verdict> {
    let busy = facts.crowded();
    if !facts.is_late() || busy.is_empty() {
        return None;
    }
    let text = format!(
        "turns wait {} behind other cursors: {} 90% busy or more",
        duration(facts.flow().unwrap_or_default()),
        listed(&busy, "lane", "lanes", "is", "are")
    );
    let more = format!(
        "{} wait{}. {}",
        counted(facts.flowing(), "event", "events"),
        slow_reducer(facts),
        lanes_help(facts)
    );
    Some(Verdict {
        events: facts.flowing(),
        lanes_that_help: facts.lanes_that_help,
        lane: busy.first().map(|lane| lane.lane.clone()),
        next: resize(facts).or_else(|| Some(command::lanes("show", &busy.first()?.id()?))),
        ..verdict(8, Class::Lanes, text, more)
    })
}

/// Names the slowest reducer: `; orders -> reduce takes 48ms an event`.
fn slow_reducer(facts: &Facts<'_>) -> String {
    let slow = facts.slowest();
    slow.map_or_else(String::new, |(name, each)| {
        format!("; {name} takes {} an event", millis(each * 1_000.0))
    })
}

/// The hook of `orders -> reduce`.
fn hook_of(handler: &str) -> Option<Name> {
    handler.split(" -> ").next()?.parse().ok()
}

/// The command that makes as many lanes as help.
fn resize(facts: &Facts<'_>) -> Option<String> {
    let lanes = facts.lanes_that_help?;
    (!facts.crowded().is_empty()).then(|| command::resize(lanes, &facts.namespace()))
}

/// Late, and none of the rules says why.
fn late(facts: &Facts<'_>) -> Option<Verdict> {
    let late = facts.lanes.iter().filter(|lane| facts.is_late_lane(lane));
    let lane = late.max_by_key(|lane| lane.flow_ms)?;
    let busy = percent(lane.busy.unwrap_or(0.0));
    let text = format!(
        "lane {}: the oldest event that may flow waits for {}; the lane is {busy} busy, its turns wait {}",
        lane.index,
        duration(facts.flow().unwrap_or_default()),
        duration(Duration::from_millis(lane.turn_wait_ms.unwrap_or(0)))
    );
    let more = format!(
        "{} wait{}. {}",
        counted(facts.flowing(), "event", "events"),
        slow_reducer(facts),
        lanes_help(facts)
    );
    Some(Verdict {
        events: facts.flowing(),
        next: lane.id().map(|id| command::lanes("show", &id)),
        lane: Some(lane.lane.clone()),
        ..verdict(8, Class::UsPerhaps, text, more)
    })
}

/// Whether more lanes would help: they do when turns wait behind other cursors in busy lanes.
fn lanes_help(facts: &Facts<'_>) -> String {
    match facts.lanes_that_help {
        _ if facts.crowded().is_empty() => match facts.beside(None) {
            Some(handler) => one_turn_at_a_time(handler),
            None => "More lanes: no, no turn waits behind another cursor.".to_owned(),
        },
        Some(lanes) => format!("More lanes: yes, {lanes}."),
        None => "More lanes: no, too few streams have work.".to_owned(),
    }
}

/// That a handler beside the lanes gains nothing from more of them.
fn one_turn_at_a_time(handler: &str) -> String {
    format!("More lanes: no, {handler} takes one turn at a time.")
}

fn is_by_hand(cursor: &CursorLine) -> bool {
    cursor.condition == "held" && cursor.by_operator
}

fn is_set_aside(cursor: &CursorLine) -> bool {
    matches!(cursor.condition.as_str(), "waiting" | "held")
}

/// Set-aside cursors of one handler are one subject; the one that waits longest is named.
fn set_aside(facts: &Facts<'_>) -> Vec<Verdict> {
    let is_wrong = |cursor: &&CursorLine| is_set_aside(cursor) && !is_by_hand(cursor);
    let mut subjects: Vec<Vec<&CursorLine>> = Vec::new();
    for cursor in facts.cursors.iter().filter(is_wrong) {
        let is_of = |subject: &&mut Vec<&CursorLine>| {
            subject.first().is_some_and(|first| {
                first.handler == cursor.handler && first.stream.hook == cursor.stream.hook
            })
        };
        match subjects.iter_mut().find(is_of) {
            Some(subject) => subject.push(cursor),
            None => subjects.push(vec![cursor]),
        }
    }
    let told = subjects
        .iter()
        .filter_map(|subject| set_aside_one(facts, subject));
    told.collect()
}

fn set_aside_one(facts: &Facts<'_>, subject: &[&CursorLine]) -> Option<Verdict> {
    let worst = subject.iter().max_by_key(|cursor| cursor.oldest_ms)?;
    let (stream, handler) = (&worst.stream, &worst.handler);
    let result = printable_line(worst.result.as_deref().unwrap_or("set aside"));
    let condition = &worst.condition;
    // Events leave a stream by its reducer, or to somebody else.
    let (rule, class) = match *handler == Name::reduce() {
        true => (9, Class::Code),
        false => (10, Class::Them),
    };
    let age = worst.oldest_ms.map(Duration::from_millis);
    let since = age.map(|age| facts.at.before(age));
    // What fits in two lines comes first: a reducer's error may be long.
    let since_when = since.map_or_else(String::new, |at| {
        format!(" since {}", at.clock_at(facts.at))
    });
    let next = match worst.retry_at {
        Some(at) => format!(", next try in {}", duration(at.since(facts.at))),
        None => String::new(),
    };
    let all = facts.set_aside_beyond_named();
    let events = match all {
        None => subject.iter().map(|cursor| cursor.behind).sum(),
        Some(_) => facts.events_set_aside(),
    };
    let share = percent(events as f64 / facts.backlog().max(1) as f64);
    let events_told = counted(events, "event", "events");
    let others = |streams: u64| counted(streams - 1, "more stream", "more streams");
    let more = match (subject.len() as u64, all) {
        (_, Some(streams)) => format!(
            "It and {} hold up only their own {events_told} ({share} of all). More lanes: no.",
            others(streams)
        ),
        (1, None) => format!(
            "Holds up only its own {events_told} ({share} of all). More lanes: no, 1 stream."
        ),
        (streams, None) => format!(
            "It and {} of {} hold up only their own {events_told} ({share} of all). More lanes: no.",
            others(streams),
            stream.hook
        ),
    };
    let is_unusual = |cursor: &&CursorLine| {
        cursor.condition == "waiting" && !cursor.oldest_ms.is_some_and(over(WAITS_LONG))
    };
    Some(Verdict {
        severity: match subject.iter().all(is_unusual) {
            true => Severity::Unusual,
            false => Severity::Trouble,
        },
        since,
        events,
        stream: Some(stream.clone()),
        hook: Some(stream.hook.clone()),
        next: Some(command::why(stream)),
        ..verdict(
            rule,
            class,
            format!(
                "{} {condition}{since_when}{next}: {result}",
                named(stream, handler)
            ),
            more,
        )
    })
}

fn on_purpose(facts: &Facts<'_>) -> Vec<Verdict> {
    let stopped = |lane: &&Lane| lane.is_stopped() || lane.state == LaneState::Draining;
    let line = |lane: &Lane| {
        let by = lane
            .by
            .as_ref()
            .map(|by| format!(" by {}", printable_line(by)));
        let since = lane.since;
        let since = since.map(|at| format!(" since {}", at.clock_at(facts.at)));
        let reason = lane.reason.as_ref();
        let reason = reason.map(|reason| format!(" \"{}\"", printable_line(reason)));
        let text = format!(
            "lane {} {}{}{}{}",
            lane.index,
            lane.state.word(),
            by.unwrap_or_default(),
            since.unwrap_or_default(),
            reason.unwrap_or_default()
        );
        let more = format!(
            "{} waiting. More lanes: no.",
            counted(lane.backlog, "event", "events")
        );
        Verdict {
            severity: Severity::Unusual,
            next: lane.id().map(|id| command::lanes("resume", &id)),
            events: lane.backlog,
            lane: Some(lane.lane.clone()),
            since: lane.since,
            ..verdict(11, Class::OnPurpose, text, more)
        }
    };
    facts.lanes.iter().filter(stopped).map(line).collect()
}

fn paused_hooks(facts: &Facts<'_>) -> Vec<Verdict> {
    let line = |(hook, told): &(Name, String)| {
        let of_hook = |cursor: &&CursorLine| cursor.stream.hook == *hook;
        let waiting = facts.cursors.iter().filter(of_hook);
        let more = "Its events are accepted and kept. More lanes: no.".to_owned();
        Verdict {
            severity: Severity::Unusual,
            next: Some(command::hooks("resume", hook)),
            hook: Some(hook.clone()),
            events: waiting.map(|cursor| cursor.behind).sum(),
            ..verdict(11, Class::OnPurpose, printable_line(told).to_string(), more)
        }
    };
    facts.paused.iter().map(line).collect()
}

fn stuck_hooks(facts: &Facts<'_>) -> Vec<Verdict> {
    let line = |(hook, told, since): &(Name, String, Timestamp)| {
        let of_hook = |cursor: &&CursorLine| cursor.stream.hook == *hook;
        let waiting = facts.cursors.iter().filter(of_hook);
        let more = format!(
            "Its events are accepted and kept. More lanes: no. Fix its reducer: hooklane hooks edit {hook} \
             --reduce FILE. Then: hooklane hooks resume {hook}"
        );
        Verdict {
            since: Some(*since),
            next: Some(command::hooks("show", hook)),
            hook: Some(hook.clone()),
            events: waiting.map(|cursor| cursor.behind).sum(),
            ..verdict(9, Class::Code, printable_line(told).to_string(), more)
        }
    };
    facts.stuck.iter().map(line).collect()
}

fn held_on_purpose(facts: &Facts<'_>) -> Vec<Verdict> {
    let line = |cursor: &CursorLine| {
        let (stream, handler) = (&cursor.stream, &cursor.handler);
        let result = printable_line(cursor.result.as_deref().unwrap_or_default());
        let more = format!(
            "{} waiting. More lanes: no, 1 stream.",
            counted(cursor.behind, "event", "events")
        );
        let name = named(stream, handler);
        Verdict {
            severity: Severity::Unusual,
            next: Some(command::streams("release", stream, handler)),
            events: cursor.behind,
            stream: Some(stream.clone()),
            hook: Some(stream.hook.clone()),
            ..verdict(11, Class::OnPurpose, format!("{name} {result}"), more)
        }
    };
    let by_hand = facts.cursors.iter().filter(|cursor| is_by_hand(cursor));
    by_hand.map(line).collect()
}

fn overdue(facts: &Facts<'_>) -> Vec<Verdict> {
    let line = |told: &String| {
        let more = "Holds up nothing, but the disk fills. More lanes: no. Release the held streams, or fix their reducer."
            .to_owned();
        let text = format!("retention: {}", printable_line(told));
        Verdict {
            severity: Severity::Unusual,
            next: Some("hooklane streams list --condition held".to_owned()),
            ..verdict(11, Class::Us, text, more)
        }
    };
    facts.overdue.iter().map(line).collect()
}

fn well(facts: &Facts<'_>) -> Verdict {
    let oldest = facts.lanes.iter().filter_map(|lane| lane.oldest_ms).max();
    let oldest = match oldest {
        Some(ms) => format!("oldest {}", duration(Duration::from_millis(ms))),
        None => "nothing waits".to_owned(),
    };
    let busiest = facts.lanes.iter().filter_map(|lane| lane.busy);
    let busiest = percent(busiest.fold(0.0, f64::max));
    let commit = facts.storage.commit_p99_ms;
    let commit = commit.map_or_else(String::new, |ms| format!(", commit {}", millis(ms)));
    Verdict {
        severity: Severity::Fine,
        more: None,
        ..verdict(
            12,
            Class::Ok,
            format!("{oldest}, busiest lane {busiest}{commit}, nothing set aside"),
            String::new(),
        )
    }
}

/// `lane 4 has`, `lanes 4 and 5 have`, `lanes 2, 3 and 6 are`; from five on only how many.
fn listed(lanes: &[&Lane], one: &str, many: &str, is: &str, are: &str) -> String {
    let numbers: Vec<_> = lanes.iter().map(|lane| lane.index.to_string()).collect();
    match numbers.as_slice() {
        [only] => format!("{one} {only} {is}"),
        all if all.len() > 5 => format!("{} {many} {are}", count(all.len() as u64)),
        [first @ .., last] => format!("{many} {} and {last} {are}", first.join(", ")),
        [] => format!("no {one} {is}"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

fn rate(per_s: f64) -> String {
    match per_s < 10.0 {
        true => format!("{per_s:.1}"),
        false => count(per_s.round() as u64),
    }
}

fn millis(ms: f64) -> String {
    match ms < 1.0 {
        true => format!("{ms:.2}ms"),
        false => duration(Duration::from_secs_f64((ms / 1_000.0).clamp(0.0, 1e9))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u16) -> LaneId {
        LaneId {
            namespace: crate::domain::name::Name::default_namespace(),
            generation: 1,
            index,
        }
    }

    fn lane(index: u16) -> Lane {
        Lane {
            state: LaneState::Active,
            ..super::super::lanes::idle(&id(index))
        }
    }

    fn late(index: u16) -> Lane {
        Lane {
            flow_ms: Some(175_000),
            oldest_ms: Some(175_000),
            backlog: 1_000,
            backlog_flowing: 1_000,
            busy: Some(0.99),
            turn_wait_ms: Some(170_000),
            ..lane(index)
        }
    }

    fn cursor(condition: &str, age_ms: u64) -> CursorLine {
        CursorLine {
            stream: "billing/acme".parse().unwrap(),
            handler: "reduce".parse().unwrap(),
            lane: 3,
            generation: 1,
            condition: condition.to_owned(),
            position: Default::default(),
            head: crate::domain::position::Seq(61),
            behind: 61,
            oldest_ms: Some(age_ms),
            tries: 3,
            result: Some("at seq 912: TypeError in sum.js:12: x".to_owned()),
            retry_at: None,
            next: None,
            by_operator: false,
        }
    }

    fn first(facts: &Facts<'_>) -> (u8, Class, String) {
        let worst = verdicts(facts).remove(0);
        assert!(worst.rule == 12 || worst.more.is_some());
        let more = worst.more.unwrap_or_default();
        (worst.rule, worst.class, format!("{} | {more}", worst.text))
    }

    #[test]
    fn nothing_wrong_is_said_with_figures() {
        let lanes = [lane(0)];
        let facts = Facts {
            lanes: &lanes,
            ..Facts::default()
        };
        let (rule, class, text) = first(&facts);
        assert_eq!((rule, class), (12, Class::Ok));
        assert!(text.starts_with("nothing waits, busiest lane 0%"), "{text}");
    }

    #[test]
    fn a_node_that_is_silent_goes_before_what_holds_up_only_itself() {
        let orphan = |index| Lane {
            state: LaneState::NoOwner,
            backlog: 800,
            ..lane(index)
        };
        let (lanes, cursors) = ([orphan(4), orphan(5)], [cursor("held", 9_000)]);
        let silent = [Silent {
            node: "eu-2".to_owned(),
            silent: Duration::from_secs(12),
            left: Duration::from_secs(3),
        }];
        let heirs = ["eu-1".to_owned()];
        let facts = Facts {
            lanes: &lanes,
            cursors: &cursors,
            silent: &silent,
            heirs: &heirs,
            at: Timestamp::from_millis(86_400_000),
            ..Facts::default()
        };
        let (rule, class, text) = first(&facts);
        assert_eq!((rule, class), (1, Class::Us));
        let said = "node eu-2 silent for 12s, since 23:59:48Z: lanes 4 and 5 have no owner | ";
        assert!(text.starts_with(said), "{text}");
        let more = "1,600 events wait. More lanes: no. Node eu-1 takes them over in 3.0s.";
        assert!(text.ends_with(more), "{text}");
        assert_eq!(verdicts(&facts).len(), 2);

        let alone = verdicts(&Facts {
            heirs: &[],
            ..facts
        })
        .remove(0);
        assert_eq!(alone.next.as_deref(), Some("hooklane serve"));
        assert!(
            alone
                .more
                .unwrap()
                .ends_with("No node is running: start one.")
        );
    }

    #[test]
    fn a_node_that_is_silent_for_a_moment_has_its_lanes_still_and_they_stand() {
        let lanes = [Lane {
            node: Some("eu-2".to_owned()),
            backlog: 7,
            ..lane(4)
        }];
        let silent = [Silent {
            node: "eu-2".to_owned(),
            silent: Duration::from_secs(6),
            left: Duration::from_secs(9),
        }];
        let facts = Facts {
            lanes: &lanes,
            silent: &silent,
            ..Facts::default()
        };
        let worst = verdicts(&facts).remove(0);
        assert_eq!(worst.severity, Severity::Unusual);
        assert!(
            worst.text.ends_with(": lane 4 stands still"),
            "{}",
            worst.text
        );
        assert_eq!(worst.events, 7);
    }

    #[test]
    fn database_and_redis_say_which_since_when_and_what_to_type() {
        let at = Timestamp::from_millis(86_400_000);
        let facts = Facts {
            at,
            storage: Storage {
                error: Some("the database does not answer".to_owned()),
                error_since: Some(at.before(Duration::from_secs(5))),
                ..Storage::default()
            },
            hints: Some(Outage {
                why: "Redis at 10.0.0.7:6379 cannot be reached".to_owned(),
                since: at.before(Duration::from_secs(86_400)),
            }),
            ..Facts::default()
        };
        let all = verdicts(&facts);
        let told =
            |nth: usize| format!("{} | {}", all[nth].text, all[nth].next.as_deref().unwrap());
        assert_eq!(
            told(0),
            "storage: the database does not answer, since 23:59:55Z | hooklane doctor"
        );
        assert_eq!(
            told(1),
            "Redis at 10.0.0.7:6379 cannot be reached, since 01-01 00:00:00Z | hooklane doctor"
        );
        assert_eq!(all[1].severity, Severity::Unusual, "it holds up nothing");
    }

    #[test]
    fn names_are_cut_in_their_middle_and_commands_have_them_whole_and_quoted() {
        let key = format!("y;touch PWNED;#{}end", "x".repeat(100));
        let hostile = CursorLine {
            stream: format!("pay/{key}").parse().unwrap(),
            ..cursor("held", 9_000)
        };
        let cursors = [hostile];
        let facts = Facts {
            cursors: &cursors,
            ..Facts::default()
        };
        let worst = verdicts(&facts).remove(0);
        let name = worst.text.split(" -> ").next().unwrap();
        assert!(
            name.starts_with("pay/y;touch PW") && name.ends_with("xend"),
            "{name}"
        );
        assert!(name.chars().count() <= NAME_MAX);
        let why = format!("hooklane why 'pay/{key}'");
        assert_eq!(worst.next, Some(why));
    }

    #[test]
    fn a_slow_disk_is_slow_against_its_own_past_only() {
        let storage = |p99, normal| Storage {
            accepting: true,
            commit_p99_ms: Some(p99),
            commit_normal_ms: Some(normal),
            ..Storage::default()
        };
        let of = |storage| {
            first(&Facts {
                storage,
                ..Facts::default()
            })
        };
        let (rule, _, text) = of(storage(2_100.0, 3.0));
        assert_eq!(rule, 2);
        assert!(text.contains("commit p99 2.1s (normal 3ms)"), "{text}");
        assert_eq!(of(storage(2_100.0, 900.0)).0, 12);
        assert_eq!(of(storage(40.0, 3.0)).0, 12, "not slow enough to be felt");
    }

    #[test]
    fn what_is_late_is_told_apart_by_who_made_it_so() {
        let lanes = [late(2), late(3), lane(4)];
        let flood = [("billing".parse().unwrap(), 1_900.0, 101.0)];
        let slow = [("orders -> reduce".to_owned(), 0.048, Some(0.000_1))];
        let facts = |hooks, handlers| Facts {
            lanes: &lanes,
            hooks,
            handlers,
            lanes_that_help: Some(16),
            ..Facts::default()
        };
        let (rule, class, text) = first(&facts(&flood, &slow));
        assert_eq!((rule, class), (5, Class::Senders));
        assert!(text.starts_with("hook billing gets 1,900/s (normal 101/s)"));
        let (rule, class, text) = first(&facts(&[], &slow));
        assert_eq!((rule, class), (6, Class::Code));
        assert!(text.starts_with("orders -> reduce takes 48ms an event (normal 0.10ms)"));
        let (rule, class, text) = first(&facts(&[], &[]));
        assert_eq!((rule, class), (8, Class::Lanes));
        assert!(
            text.contains("lanes 2 and 3 are 90% busy or more"),
            "{text}"
        );
        assert!(text.contains("More lanes: yes, 16"), "{text}");
        // A reducer that was never quicker is named too.
        let always = [("orders -> reduce".to_owned(), 0.048, None)];
        let worst = verdicts(&facts(&[], &always)).remove(0);
        assert_eq!(worst.rule, 8);
        assert!(
            worst
                .more
                .unwrap()
                .contains("; orders -> reduce takes 48ms an event. ")
        );
        assert_eq!(worst.next.as_deref(), Some("hooklane lanes resize 16"));
    }

    #[test]
    fn more_lanes_do_not_help_a_reducer_that_is_too_slow_for_them() {
        let lanes = [Lane {
            turn_wait_ms: Some(0),
            busy: Some(0.0),
            ..late(2)
        }];
        let flowing = CursorLine {
            stream: "orders/a1".parse().unwrap(),
            ..cursor("flowing", 12_000)
        };
        let (cursors, beside) = ([flowing], ["orders -> reduce".to_owned()]);
        let slow = [("orders -> reduce".to_owned(), 0.048, Some(0.000_1))];
        let flood = [("orders".parse().unwrap(), 1_900.0, 101.0)];
        let crowded = [super::tests::late(2)];
        let of = |lanes, hooks, handlers| {
            let facts = Facts {
                lanes,
                cursors: &cursors,
                hooks,
                handlers,
                beside: &beside,
                lanes_that_help: Some(16),
                ..Facts::default()
            };
            verdicts(&facts).remove(0)
        };
        let no = "More lanes: no, orders -> reduce takes one turn at a time.";
        let code = of(&lanes, &[], &slow);
        assert_eq!(code.rule, 6);
        assert!(code.more.unwrap().ends_with(no));
        assert_eq!(code.next.as_deref(), Some("hooklane hooks show orders"));
        let senders = of(&lanes, &flood, &slow);
        assert_eq!((senders.rule, senders.lanes_that_help), (5, None));
        assert!(senders.more.unwrap().ends_with(no));
        let late = of(&lanes, &[], &[]);
        assert_eq!(late.rule, 8);
        assert!(late.more.unwrap().ends_with(no));
        // A quick handler that fills the lanes beside it is another matter.
        let quick = of(&crowded, &[], &[]);
        assert!(quick.more.unwrap().ends_with("More lanes: yes, 16."));
    }

    #[test]
    fn a_finding_stands_since_the_same_moment_on_every_node() {
        let lanes = [late(2)];
        let facts = Facts {
            lanes: &lanes,
            ..Facts::default()
        };
        let at = Timestamp::from_millis;
        let (mut one, mut other) = (Since::default(), Since::default());
        let dated = |of: &mut Since, others: &[_], now| {
            let mut found = verdicts(&facts);
            of.date(&mut found, others, at(now));
            found[0].since
        };
        assert_eq!(dated(&mut one, &[], 1_000), Some(at(1_000)));
        let told: Vec<_> = one.told().map(|(of, at)| (of.clone(), at)).collect();
        assert_eq!(dated(&mut other, &told, 3_000), Some(at(1_000)));
        assert_eq!(
            dated(&mut other, &[], 4_000),
            Some(at(1_000)),
            "it keeps it"
        );
        let ahead = [(told[0].0.clone(), at(9_000))];
        assert_eq!(dated(&mut one, &ahead, 5_000), Some(at(1_000)));
    }

    #[test]
    fn a_reason_that_only_sounds_like_an_operator_is_a_failure() {
        let failed = CursorLine {
            result: Some("held by the customs office".to_owned()),
            ..cursor("held", 1_000)
        };
        let severity = severity(&lane(3), &[failed], &[], Thresholds::default());
        assert_eq!(severity, Severity::Trouble);
    }

    #[test]
    fn more_lanes_never_help_when_no_lane_is_busy_or_one_stream_is_most_of_it() {
        let idle = Lane {
            busy: Some(0.1),
            ..late(2)
        };
        let lanes = [idle];
        let slow = [("orders -> reduce".to_owned(), 0.048, Some(0.000_1))];
        let facts = Facts {
            lanes: &lanes,
            handlers: &slow,
            lanes_that_help: Some(16),
            ..Facts::default()
        };
        assert!(first(&facts).2.contains("More lanes: no"));

        let lanes = [late(2)];
        let largest = [(id(2), "orders/9107".parse().unwrap(), 920)];
        let facts = Facts {
            lanes: &lanes,
            largest: &largest,
            lanes_that_help: Some(16),
            ..Facts::default()
        };
        let (rule, class, text) = first(&facts);
        assert_eq!((rule, class), (7, Class::Order));
        assert!(
            text.starts_with("orders/9107 is 92% of what flows"),
            "{text}"
        );
        assert!(text.contains("More lanes: no"), "{text}");
    }

    #[test]
    fn lanes_help_only_where_turns_wait_and_a_few_streams_are_told_from_many() {
        let lanes = [late(2), late(3)];
        let largest = |events| {
            let of = |lane, name: &str| (id(lane), name.parse().unwrap(), events);
            [of(2, "orders/a"), of(3, "orders/b")]
        };
        let few = largest(900);
        let facts = Facts {
            lanes: &lanes,
            largest: &few,
            lanes_that_help: Some(16),
            ..Facts::default()
        };
        let (rule, class, text) = first(&facts);
        assert_eq!((rule, class), (7, Class::Order));
        assert!(
            text.starts_with("2 streams are 90% of what flows, orders/a the longest"),
            "{text}"
        );
        assert!(text.contains("More lanes: no, 2 streams"), "{text}");

        let many = largest(20);
        let facts = Facts {
            largest: &many,
            ..facts
        };
        let (rule, _, text) = first(&facts);
        assert_eq!(rule, 8);
        assert!(
            text.starts_with("turns wait 2m55 behind other cursors"),
            "{text}"
        );

        let lanes = [late(2), late(3)].map(|lane| Lane {
            turn_wait_ms: Some(0),
            ..lane
        });
        let facts = Facts {
            lanes: &lanes,
            ..facts
        };
        let (rule, class, text) = first(&facts);
        assert_eq!((rule, class), (8, Class::UsPerhaps));
        assert!(
            text.contains("its turns wait 0ms") && text.contains("More lanes: no"),
            "{text}"
        );
    }

    #[test]
    fn a_turn_that_hangs_names_its_cursor() {
        let (lanes, turn) = (
            [lane(2)],
            [(
                id(2),
                "orders/9107 -> reduce".to_owned(),
                Duration::from_secs(41),
            )],
        );
        let facts = Facts {
            lanes: &lanes,
            turns: &turn,
            ..Facts::default()
        };
        let (rule, _, text) = first(&facts);
        assert_eq!(rule, 3);
        assert!(text.starts_with("lane 2: turn of orders/9107 -> reduce runs for 41s"));
    }

    #[test]
    fn while_lanes_are_resized_a_finding_is_about_the_lane_of_its_own_generation() {
        let older = crate::api::Lane {
            lane: "default-0-2".to_owned(),
            generation: 0,
            held: 1,
            ..lane(2)
        };
        let lanes = [older, lane(2)];
        let turn = [(id(2), "orders/9107 -> reduce".to_owned(), HANGS)];
        let facts = Facts {
            lanes: &lanes,
            turns: &turn,
            ..Facts::default()
        };
        let worst = verdicts(&facts).remove(0);
        assert_eq!(
            (worst.rule, worst.lane.as_deref()),
            (3, Some("default-1-2"))
        );
        let by_hand = CursorLine {
            lane: 2,
            by_operator: true,
            ..cursor("held", 1_000)
        };
        let by_hand = [by_hand];
        let severity = |lane| severity(lane, &by_hand, &[], Thresholds::default());
        assert_eq!(
            severity(&lanes[0]),
            Severity::Trouble,
            "that is of the newer"
        );
    }

    #[test]
    fn streams_of_one_handler_are_one_subject_and_the_oldest_is_named() {
        let other = CursorLine {
            stream: "billing/zeta".parse().unwrap(),
            ..cursor("held", 20_000)
        };
        let elsewhere = CursorLine {
            stream: "ship/acme".parse().unwrap(),
            ..cursor("held", 1_000)
        };
        let cursors = [cursor("held", 9_000), other, elsewhere];
        let facts = Facts {
            cursors: &cursors,
            ..Facts::default()
        };
        let all = verdicts(&facts);
        assert_eq!(all.len(), 2);
        let (rule, _, text) = first(&facts);
        assert_eq!(rule, 9);
        assert!(
            text.starts_with("billing/zeta -> reduce held since 23:59:40Z: at seq 912"),
            "{text}"
        );
        assert!(text.contains("It and 1 more stream of billing hold up only their own 122 events"));
    }

    #[test]
    fn streams_that_are_set_aside_are_all_counted_though_few_are_known_by_name() {
        let lanes = [Lane {
            set_aside: 60_000,
            backlog: 61_500,
            backlog_flowing: 1_000,
            kept: 200,
            ..lane(0)
        }];
        let cursors = [cursor("held", 9_000), cursor("held", 8_000)];
        let facts = Facts {
            lanes: &lanes,
            cursors: &cursors,
            ..Facts::default()
        };
        let (_, _, text) = first(&facts);
        let said = "It and 59,999 more streams hold up only their own 60,300 events (98% of all).";
        assert!(text.contains(said), "{text}");
    }

    #[test]
    fn no_text_from_outside_acts_on_a_terminal() {
        let mut hostile = cursor("held", 9_000);
        hostile.result = Some("\u{1b}[2J boom".to_owned());
        let cursors = [hostile];
        let facts = Facts {
            cursors: &cursors,
            ..Facts::default()
        };
        assert!(!first(&facts).2.contains('\u{1b}'));
    }

    #[test]
    fn a_lane_needs_somebody_when_a_cursor_of_it_is_held_and_is_unusual_when_stopped() {
        let severity = |lane: &Lane, cursors: &[CursorLine]| {
            severity(lane, cursors, &[], Thresholds::default())
        };
        assert_eq!(severity(&lane(3), &[]), Severity::Fine);
        let held = Lane { held: 1, ..lane(3) };
        assert_eq!(severity(&held, &[]), Severity::Trouble);
        let waiting = Lane {
            waiting: 1,
            ..lane(3)
        };
        let soon = [cursor("waiting", 9_000)];
        assert_eq!(severity(&waiting, &soon), Severity::Unusual);
        let long = [cursor("waiting", 900_000)];
        assert_eq!(severity(&waiting, &long), Severity::Trouble);
        let paused = Lane {
            state: LaneState::Paused,
            flow_ms: Some(900_000),
            ..lane(3)
        };
        assert_eq!(severity(&paused, &[]), Severity::Unusual);
    }
    #[test]
    fn how_old_is_late_is_for_the_namespace_to_say() {
        let flows = |flow_ms| Lane {
            flow_ms: Some(flow_ms),
            backlog_flowing: 1,
            ..lane(3)
        };
        let of = |warn, crit| Thresholds::default().with(Some(warn), Some(crit)).unwrap();
        let severity = |flow_ms, thresholds| severity(&flows(flow_ms), &[], &[], thresholds);
        assert_eq!(severity(9_000, Thresholds::default()), Severity::Fine);
        assert_eq!(severity(11_000, Thresholds::default()), Severity::Unusual);
        assert_eq!(severity(61_000, Thresholds::default()), Severity::Trouble);
        assert_eq!(severity(9_000, of(5_000, 20_000)), Severity::Unusual);
        assert_eq!(severity(9_000, of(5_000, 8_000)), Severity::Trouble);
        assert_eq!(severity(61_000, of(300_000, 300_000)), Severity::Fine);

        let lanes = [flows(61_000)];
        let rule = |thresholds| {
            first(&Facts {
                lanes: &lanes,
                thresholds,
                ..Facts::default()
            })
            .0
        };
        assert_eq!(rule(Thresholds::default()), 8);
        assert_eq!(rule(of(300_000, 300_000)), 12, "all is well");
    }
}
