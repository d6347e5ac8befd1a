//! Metrics: every counter, with its description.
//!
//! Code that counts has an `Arc<Metrics>` and increments a field: an atomic for counters and gauges, a
//! short lock for histograms, which are fed once per commit, turn or fold, not per event. No label has
//! values by stream or key; rejections and backlogs are labelled by hook, and deliveries by handler, for a limited
//! number of each. So the page stays small.

mod pulse;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

pub use pulse::{Baseline, Failing, Folds, PastFailure, Pulse};

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Number of hooks with a label of their own at most, in each metric; the others share the label `other`.
const HOOKS_MAX: usize = 200;

/// Number of handlers with labels of their own at most; the others share the label `other`.
const HANDLERS_MAX: usize = 200;

/// Names that have a label of their own: the first that come, up to a limit.
#[derive(Debug, Default)]
struct Labels(parking_lot::Mutex<HashSet<String>>);

impl Labels {
    /// True if a name has a label of its own, of `max` in all.
    fn include(&self, name: &str, max: usize) -> bool {
        let mut known = self.0.lock();
        known.contains(name) || known.len() < max && known.insert(name.to_owned())
    }

    /// The label of a hook: its name, or `other` once [`HOOKS_MAX`] hooks have labels of their own.
    fn of_hook(&self, hook: &str) -> String {
        match self.include(hook, HOOKS_MAX) {
            true => hook.to_owned(),
            false => "other".to_owned(),
        }
    }
}

/// Gauges with one label, whose values come and go.
type ByName = Family<[(&'static str, String); 1], Gauge>;

/// The same, in seconds.
type SecondsByName = Family<[(&'static str, String); 1], Gauge<f64, AtomicU64>>;

/// Counters with one label.
type Labelled = Family<[(&'static str, &'static str); 1], Counter>;

/// Deliveries by hook, handler and outcome.
type OfHandlers = Family<[(&'static str, String); 3], Counter>;

/// All metrics. Times are in seconds, as is usual with Prometheus.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Recent figures of this node, for verdicts.
    pub pulse: Pulse,

    /// Events stored durably and answered 202.
    pub events_accepted: Counter,
    /// Events answered as duplicates, with the first one's id and seq.
    pub events_duplicate: Counter,
    events_refused: Labelled,
    events_rejected: Family<[(&'static str, String); 2], Counter>,
    events_late: Family<[(&'static str, String); 1], Counter>,
    /// Hooks with a label of their own in `events_rejected`; the others share one.
    rejecting: Labels,
    /// Hooks with a label of their own in `events_late`; the others share one.
    late_hooks: Labels,
    /// Events that wait for the committer.
    pub queue_events: Gauge,
    /// Bytes of bodies that are being read or wait for the committer.
    pub queue_bytes: Gauge,
    /// Commits of events and cursors.
    pub commits: Counter,
    /// Time from the begin of a transaction until it is durable.
    pub commit_seconds: Histogram,
    /// Events stored by one commit.
    pub commit_events: Histogram,

    /// Cursors hinted that had no hint before.
    pub hints: Counter,
    /// Cursors hinted and not yet taken.
    pub hints_waiting: Gauge,
    /// Turns of lanes.
    pub turns: Counter,
    /// Events applied, including skipped ones.
    pub events_applied: Counter,
    /// Time from the receipt of an event until it was applied.
    pub wait_seconds: Histogram,
    /// Time of one fold: one cursor's events in one turn.
    pub fold_seconds: Histogram,
    /// Folds that went on after their deadline in the JavaScript engine.
    pub folds_stuck: Counter,
    /// Cursors that are waiting or held.
    pub cursors_set_aside: Gauge,
    /// Cursors that need an operator.
    pub cursors_held: Gauge,
    lane_backlog: ByName,
    lane_oldest_seconds: SecondsByName,
    hook_backlog: ByName,
    hook_held: ByName,
    hook_oldest_seconds: SecondsByName,
    /// 1 while transactions succeed.
    pub database_up: Gauge,
    /// 1 while Redis answers, and where none is used.
    pub redis_up: Gauge,
    process_resident_bytes: Gauge,
    process_open_files: Gauge,
    /// Cursors held because the event after their position was missing. Must stay 0.
    pub gaps: Counter,
    /// Turns that read an event that does not match its checksum. Must stay 0.
    pub damaged: Counter,
    /// Cursors with work but without a hint, found by a sweep; zero in a healthy run.
    pub forgotten: Counter,

    /// Events removed by retention.
    pub events_pruned: Counter,
    /// Streams, with turns on this node, that keep events past their retention.
    pub streams_overdue: Gauge,

    events_passed: Labelled,
    deliveries: Labelled,
    deliveries_of: OfHandlers,
    /// Handlers with labels of their own.
    delivering: Labels,
    /// Time from the begin of a request to a destination to the end of its answer, or its time-out.
    pub delivery_seconds: Histogram,

    database_retries: Labelled,
    /// Times that this node saw another server take over.
    pub failovers: Counter,
    /// Events acknowledged by this node that a server which took over does not have.
    pub events_lost: Counter,

    /// Open connections.
    pub connections: Gauge,
    /// Connections accepted.
    pub connections_accepted: Counter,
    connections_refused: Labelled,
    /// Idle connections without a valid key that were closed for others.
    pub connections_evicted: Counter,
    connections_timed_out: Labelled,
    /// Connections that ended in a panic. Must stay 0.
    pub connections_panicked: Counter,
    /// Connections that could not be accepted, for example because files ran out.
    pub accept_errors: Counter,
}

/// Declares the values of a label with their spelling.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident $label:literal { $($(#[$why:meta])* $value:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$why])* $value,)* }

        impl $name {
            const ALL: &[Self] = &[$(Self::$value,)*];

            fn labels(self) -> [(&'static str, &'static str); 1] {
                match self { $(Self::$value => [($label, $word)],)* }
            }
        }
    };
}

label! {
    /// Reason why an event was not stored.
    Refused "reason" {
        /// No key, a wrong one, or no such hook.
        Key = "key",
        /// The sender's address is not one from which the hook accepts requests.
        Address = "address",
        /// The signature is missing or wrong.
        Signature = "signature",
        /// The secrets of the hook cannot be decrypted.
        Locked = "locked",
        /// Not HTTP, or not the JSON that its hook needs.
        Malformed = "malformed",
        /// The body is longer than the hook accepts.
        TooLarge = "too_large",
        /// The body is compressed.
        Encoded = "encoded",
        /// The body arrived too slowly.
        TooSlow = "too_slow",
        /// The sender disconnected within the body.
        Aborted = "aborted",
        /// The event has no ordering key.
        OrderingKey = "ordering_key",
        /// The event has two different dedupe keys.
        DedupeKey = "dedupe_key",
        /// The idempotency key was used before with another body.
        IdempotencyKey = "idempotency_key",
        /// The access key exceeds its rate limit.
        Rate = "rate",
        /// The queue of the committer is full.
        QueueFull = "queue_full",
        /// The database is busy or does not answer.
        Busy = "busy",
        /// The disk is full.
        DiskFull = "disk_full",
        /// The commit failed with an unknown outcome.
        Unknown = "unknown",
    }
}

label! {
    /// Reason why a transaction was rolled back and tried again.
    Retried "reason" {
        /// Two transactions waited for each other's rows.
        Deadlock = "deadlock",
        /// Rows that it had read were changed before it could write.
        Serialization = "serialization",
    }
}

label! {
    /// Reason for which an event was passed without being handled.
    Passed "reason" {
        /// The handler's filter excludes it.
        Filter = "filter",
        /// A newer event was delivered in its place.
        Coalesced = "coalesced",
    }
}

label! {
    /// Outcome of a delivery.
    Delivered "outcome" {
        /// The destination answered 2xx.
        Acknowledged = "acknowledged",
        /// The destination answered otherwise, or not at all.
        Failed = "failed",
    }
}

label! {
    /// Reason why a connection was turned away before its first request was read.
    TurnedAway "reason" {
        /// There are too many connections.
        Total = "total",
        /// There are too many connections of this address.
        Address = "address",
        /// The connection came through the socket from another user.
        User = "user",
        /// A trusted proxy sent no valid header of the PROXY protocol.
        Proxy = "proxy_header",
        /// The client spoke plain HTTP where TLS is spoken.
        Plain = "plain_http",
        /// The TLS handshake failed.
        Tls = "tls",
    }
}

label! {
    /// The wait in which a connection timed out.
    Awaited "waiting_for" {
        /// Waiting for the header of a proxy, or for the TLS handshake.
        Handshake = "handshake",
        /// Waiting for the first byte.
        FirstByte = "first_byte",
        /// Waiting for the rest of a head.
        Head = "head",
        /// Waiting for the rest of a body.
        Body = "body",
        /// Waiting for another request: the usual end of a connection.
        Request = "request",
        /// Waiting for the client to read the answer.
        Reader = "reader",
    }
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Arc<Self> {
        let mut page = Page(Registry::with_prefix("hooklane"));
        page.version();
        Arc::new(Self {
            events_accepted: page
                .counter("events_accepted", "Events stored durably and answered 202"),
            events_duplicate: page.counter("events_duplicate", "Events answered as duplicates"),
            events_refused: page.labelled(
                "events_refused",
                "Events not stored, by reason",
                Refused::ALL.iter().map(|reason| reason.labels()),
            ),
            events_rejected: page.add(
                "events_rejected",
                "Requests without a good signature, by hook and reason",
                Family::default(),
            ),
            events_late: page.add(
                "events_late",
                "Events stored after one of their stream with a higher version, by hook",
                Family::default(),
            ),
            late_hooks: Labels::default(),
            rejecting: Labels::default(),
            queue_events: page.gauge("queue_events", "Events that wait for the committer"),
            queue_bytes: page.gauge(
                "queue_bytes",
                "Bytes that are read or wait for the committer",
            ),
            commits: page.counter("commits", "Commits of events and cursors"),
            commit_seconds: page.seconds(
                "commit_seconds",
                "From the begin of a transaction until it is durable",
            ),
            commit_events: page.histogram("commit_events", "Events stored by one commit", 1.0, 14),
            hints: page.counter("hints", "Cursors hinted, without repetitions"),
            hints_waiting: page.gauge("hints_waiting", "Cursors hinted and not yet taken"),
            turns: page.counter("turns", "Turns of lanes"),
            events_applied: page.counter("events_applied", "Events applied, skipped ones included"),
            wait_seconds: page.seconds("wait_seconds", "From received to applied"),
            fold_seconds: page.seconds(
                "fold_seconds",
                "One fold of one cursor's events in one turn",
            ),
            folds_stuck: page.counter("folds_stuck", "Folds that outlived their deadline"),
            cursors_set_aside: page.gauge("cursors_set_aside", "Cursors that wait or are held"),
            cursors_held: page.gauge("cursors_held", "Cursors that need an operator"),
            lane_backlog: page.add(
                "lane_backlog_events",
                "Events that wait in a lane of this node",
                Family::default(),
            ),
            lane_oldest_seconds: page.add(
                "lane_oldest_seconds",
                "Age of the oldest event that waits in a lane of this node",
                Family::default(),
            ),
            hook_backlog: page.add(
                "hook_backlog_events",
                "Events of a hook that wait in the lanes of this node",
                Family::default(),
            ),
            hook_held: page.add(
                "hook_held_cursors",
                "Cursors of a hook in the lanes of this node that need an operator",
                Family::default(),
            ),
            hook_oldest_seconds: page.add(
                "hook_oldest_seconds",
                "Age of the oldest event of a hook that waits in the lanes of this node",
                Family::default(),
            ),
            database_up: page.gauge("database_up", "1 while transactions succeed"),
            redis_up: page.gauge("redis_up", "1 while Redis answers, or none is used"),
            process_resident_bytes: page.gauge(
                "process_resident_bytes",
                "Memory of the process that is in RAM",
            ),
            process_open_files: page.gauge("process_open_files", "Open file descriptors"),
            gaps: page.counter(
                "gaps",
                "Cursors halted because the next event was missing; must stay 0",
            ),
            damaged: page.counter(
                "events_damaged",
                "Turns that met an event that is not as it was stored; must stay 0",
            ),
            forgotten: page.counter(
                "forgotten_cursors",
                "Cursors with work that a sweep found and nobody had hinted",
            ),
            events_pruned: page.counter("events_pruned", "Events that retention has removed"),
            streams_overdue: page.gauge(
                "streams_overdue",
                "Streams that keep events past the time that their hook says",
            ),
            events_passed: page.labelled(
                "events_passed",
                "Events that a handler passed without handling them, by reason",
                Passed::ALL.iter().map(|reason| reason.labels()),
            ),
            deliveries: page.labelled(
                "deliveries",
                "Requests to destinations, by how they ended",
                Delivered::ALL.iter().map(|outcome| outcome.labels()),
            ),
            deliveries_of: page.add(
                "handler_deliveries",
                "Deliveries of each forward and pull handler, by how they ended",
                OfHandlers::default(),
            ),
            delivering: Labels::default(),
            delivery_seconds: page.seconds(
                "delivery_seconds",
                "From the begin of a request to a destination to the end of its answer",
            ),
            database_retries: page.labelled(
                "database_retries",
                "Statements that Postgres rolled back and that were tried again; must stay 0",
                Retried::ALL.iter().map(|reason| reason.labels()),
            ),
            failovers: page.counter(
                "failovers",
                "Postgres servers that took the place of another",
            ),
            events_lost: page.counter(
                "events_lost",
                "Acknowledged events that a failover of Postgres has lost",
            ),
            connections: page.gauge("connections", "Open connections"),
            connections_accepted: page.counter("connections_accepted", "Connections accepted"),
            connections_refused: page.labelled(
                "connections_refused",
                "Connections turned away unread, by reason",
                TurnedAway::ALL.iter().map(|reason| reason.labels()),
            ),
            connections_evicted: page.counter(
                "connections_evicted",
                "Idle connections without a valid key that made room for others",
            ),
            connections_timed_out: page.labelled(
                "connections_timed_out",
                "Connections cut off, by what they kept us waiting for",
                Awaited::ALL.iter().map(|what| what.labels()),
            ),
            connections_panicked: page.counter(
                "connections_panicked",
                "Connections that ended in a panic; must stay 0",
            ),
            accept_errors: page.counter("accept_errors", "Connections that could not be accepted"),
            registry: page.0,
            pulse: Pulse::default(),
        })
    }

    /// Counts an event that was not stored.
    pub fn refused(&self, reason: Refused) {
        self.events_refused.get_or_create(&reason.labels()).inc();
    }

    /// Counts a request that a hook rejected; beyond [`HOOKS_MAX`] hooks under the label `other`.
    pub fn rejected(&self, hook: &str, reason: &str) {
        let labels = [
            ("hook", self.rejecting.of_hook(hook)),
            ("reason", reason.to_owned()),
        ];
        self.events_rejected.get_or_create(&labels).inc();
    }

    /// Counts a late event; beyond [`HOOKS_MAX`] hooks under the label `other`.
    pub fn late(&self, hook: &str) {
        let hook = self.late_hooks.of_hook(hook);
        self.events_late.get_or_create(&[("hook", hook)]).inc();
    }

    /// Shows the lanes that run here: name, events that wait, age of the oldest. There are 1,024 of a namespace at
    /// most.
    pub fn show_lanes(&self, lanes: Vec<(String, u64, Duration)>) {
        self.lane_backlog.clear();
        self.lane_oldest_seconds.clear();
        for (lane, events, age) in lanes {
            let labels = [("lane", lane)];
            set(&self.lane_backlog, &labels, events);
            set_seconds(&self.lane_oldest_seconds, &labels, age);
        }
    }

    /// Shows the hooks that have work here: name, events that wait, held cursors, age of the oldest event. The
    /// [`HOOKS_MAX`] with the oldest events have a label of their own, the rest counts as `other`.
    pub fn show_hooks(&self, mut hooks: Vec<(String, u64, u64, Duration)>) {
        hooks.sort_by(|(.., one), (.., other)| other.cmp(one));
        let rest = hooks.split_off(hooks.len().min(HOOKS_MAX));
        let rest = rest
            .into_iter()
            .reduce(|(_, events, held, age), (_, e, h, a)| {
                (String::new(), events + e, held + h, age.max(a))
            });
        let rest = rest.map(|(_, events, held, age)| ("other".to_owned(), events, held, age));
        self.hook_backlog.clear();
        self.hook_held.clear();
        self.hook_oldest_seconds.clear();
        for (hook, events, held, age) in hooks.into_iter().chain(rest) {
            let labels = [("hook", hook)];
            set(&self.hook_backlog, &labels, events);
            set(&self.hook_held, &labels, held);
            set_seconds(&self.hook_oldest_seconds, &labels, age);
        }
    }

    /// Shows the memory and the open files of the process, where the system tells.
    pub fn show_process(&self) {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages = status
            .split(' ')
            .nth(1)
            .and_then(|pages| pages.parse::<u64>().ok());
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        if let Some(pages) = pages {
            self.process_resident_bytes.set(number(pages * page));
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.process_open_files.set(number(files.count() as u64));
        }
    }

    /// Counts a transaction that is tried again.
    pub fn retried(&self, reason: Retried) {
        self.database_retries.get_or_create(&reason.labels()).inc();
    }

    /// Counts events that a handler passed without handling them.
    pub fn passed(&self, reason: Passed, events: usize) {
        let events = u64::try_from(events).unwrap_or(0);
        self.events_passed
            .get_or_create(&reason.labels())
            .inc_by(events);
    }

    /// Counts a request to a destination.
    pub fn delivered(&self, outcome: Delivered, took: std::time::Duration) {
        self.deliveries.get_or_create(&outcome.labels()).inc();
        self.delivery_seconds.observe(took.as_secs_f64());
    }

    /// Counts a delivery of a handler; beyond [`HANDLERS_MAX`] handlers under the labels `other`.
    pub fn delivered_by(&self, hook: &str, handler: &str, outcome: Delivered) {
        let [(_, outcome)] = outcome.labels();
        // No name of a hook has a space.
        let name = format!("{hook} {handler}");
        let (hook, handler) = match self.delivering.include(&name, HANDLERS_MAX) {
            true => (hook, handler),
            false => ("other", "other"),
        };
        let labels = [
            ("hook", hook.to_owned()),
            ("handler", handler.to_owned()),
            ("outcome", outcome.to_owned()),
        ];
        self.deliveries_of.get_or_create(&labels).inc();
    }

    /// Counts a connection that was turned away.
    pub fn turned_away(&self, reason: TurnedAway) {
        self.connections_refused
            .get_or_create(&reason.labels())
            .inc();
    }

    /// Counts a connection that timed out.
    pub fn timed_out(&self, waiting_for: Awaited) {
        self.connections_timed_out
            .get_or_create(&waiting_for.labels())
            .inc();
    }

    /// The page for Prometheus, in the format of [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut page = String::with_capacity(16 * 1024);
        // Writing to a string cannot fail, and the encoders have no other errors.
        let _ = encode(&mut page, &self.registry);
        page
    }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn set(family: &ByName, labels: &[(&'static str, String); 1], count: u64) {
    family.get_or_create(labels).set(number(count));
}

fn set_seconds(family: &SecondsByName, labels: &[(&'static str, String); 1], time: Duration) {
    family.get_or_create(labels).set(time.as_secs_f64());
}

/// A registry that is being filled.
struct Page(Registry);

impl Page {
    fn add<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    fn counter(&mut self, name: &str, help: &str) -> Counter {
        self.add(name, help, Counter::default())
    }

    fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        self.add(name, help, Gauge::default())
    }

    /// A histogram of times from 100 µs to about 26 s.
    fn seconds(&mut self, name: &str, help: &str) -> Histogram {
        self.histogram(name, help, 0.000_1, 19)
    }

    fn histogram(&mut self, name: &str, help: &str, first: f64, buckets: u16) -> Histogram {
        self.add(
            name,
            help,
            Histogram::new(exponential_buckets(first, 2.0, buckets)),
        )
    }

    /// A family whose members are all present from the beginning, at zero.
    fn labelled(
        &mut self,
        name: &str,
        help: &str,
        members: impl Iterator<Item = [(&'static str, &'static str); 1]>,
    ) -> Labelled {
        let family = Labelled::default();
        for labels in members {
            drop(family.get_or_create(&labels));
        }
        self.add(name, help, family)
    }

    fn version(&mut self) {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        self.0.register("build", "The version that runs", version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_of_many_handlers_share_one_label() {
        let metrics = Metrics::new();
        for n in 0..2 * HANDLERS_MAX {
            metrics.delivered_by(&format!("hook{n}"), "crm", Delivered::Acknowledged);
            metrics.delivered_by("hook1", "crm", Delivered::Failed);
        }
        let page = metrics.encode();
        let series = page
            .lines()
            .filter(|line| line.starts_with("hooklane_handler_deliveries_total{"));
        assert_eq!(series.count(), HANDLERS_MAX + 2);
        let other =
            format!("{{hook=\"other\",handler=\"other\",outcome=\"acknowledged\"}} {HANDLERS_MAX}");
        assert!(page.contains(&other), "{page}");
    }

    #[test]
    fn the_page_shows_what_was_counted_under_one_prefix() {
        let metrics = Metrics::new();
        metrics.events_accepted.inc_by(3);
        metrics.queue_events.set(7);
        metrics.commit_seconds.observe(0.003);
        metrics.refused(Refused::QueueFull);
        metrics.timed_out(Awaited::Head);
        metrics.turned_away(TurnedAway::Address);
        let page = metrics.encode();
        for line in [
            "hooklane_events_accepted_total 3",
            "hooklane_queue_events 7",
            "hooklane_commit_seconds_count 1",
            "hooklane_events_refused_total{reason=\"queue_full\"} 1",
            "hooklane_events_refused_total{reason=\"too_large\"} 0",
            "hooklane_connections_timed_out_total{waiting_for=\"head\"} 1",
            "hooklane_connections_refused_total{reason=\"address\"} 1",
            "# EOF",
        ] {
            assert!(
                page.lines().any(|found| found == line),
                "{line} is not on\n{page}"
            );
        }
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("hooklane_"), "{line}");
        }
    }

    #[test]
    fn every_metric_is_described() {
        let page = Metrics::new().encode();
        let described = |kind: &str| page.lines().filter(|line| line.starts_with(kind)).count();
        assert_eq!(described("# HELP"), described("# TYPE"));
        assert!(described("# HELP") > 20);
    }
}
