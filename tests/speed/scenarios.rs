//! The scenarios, each with its targets: what a user of hooklane would want to know of its speed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::bare::Bare;
use super::daemon::{Client, Home};
use super::deliveries;
use super::generator;
use super::plans::{Closed, Open, Pace, Seen, Settle, Until, latencies, micros, quantile};
use super::proc;
use super::requests::Requests;
use super::table::{Target, median, note, row};
use super::viewer::Viewer;
use super::world::{Kind, Ledger, World, by_setup, connections};

const HOOKS: usize = 1_000;

/// Something that is measured.
pub struct Scenario {
    pub name: &'static str,
    pub by_default: bool,
    pub run: fn(&Scale),
}

impl Scenario {
    /// True if it has this name.
    pub fn is(&self, name: &str) -> bool {
        self.name == name
    }
}

/// All of them, in the order in which they run.
pub const SCENARIOS: [Scenario; 17] = [
    by_default("bare", bare),
    by_default("accept", accept),
    by_default("verified", verified),
    by_default("applied", applied),
    by_default("one", one),
    by_default("latency", latency),
    by_default("spike", spike),
    by_default("poison", poison),
    by_default("memory", memory),
    Scenario {
        name: "million",
        by_default: false,
        run: million,
    },
    by_default("rebuild", rebuild),
    by_default("resize", resize),
    by_default("prune", prune),
    by_default("feed", feed),
    by_default("push", deliveries::push),
    by_default("pull", deliveries::pull),
    by_default("idle", idle),
];

const fn by_default(name: &'static str, run: fn(&Scale)) -> Scenario {
    Scenario {
        name,
        by_default: true,
        run,
    }
}

/// Extent of a run.
pub struct Scale {
    /// A tenth, to see that it works: its figures mean little.
    pub quick: bool,
}

impl Scale {
    pub fn events(&self, events: u64) -> u64 {
        if self.quick { events / 10 } else { events }
    }

    pub fn time(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(if self.quick { seconds / 10.0 } else { seconds })
    }
}

/// Answered per second by the bare server.
fn bare_rate(bare: &Bare, time: Duration) -> f64 {
    let hooks = (0..HOOKS).map(|n| format!("h{n:04}")).collect();
    let mut requests = Requests::new(hooks, "hl_w_0000000000000000", "");
    let mut ledger = Ledger::new(HOOKS);
    let began = Instant::now();
    let mut plan = Closed::new(&mut ledger, requests.hooks(), Until::Passed(time));
    generator::run(&[bare.addr], connections(), &mut requests, &mut plan);
    ledger.count() as f64 / began.elapsed().as_secs_f64()
}

fn bare(scale: &Scale) {
    let bare = Bare::start();
    bare_rate(&bare, scale.time(1.0));
    let rates = (0..5).map(|_| bare_rate(&bare, scale.time(2.0))).collect();
    let what = "bare HTTP server, 512-byte bodies, answered 202";
    row(what, median(rates), "/s", Target::None);
}

/// Accepted per second, and how many cores each part took meanwhile.
fn accept_rate(world: &mut World, time: Duration) -> (f64, Cores) {
    let (before, accepted) = (world.cpu(), world.ledger.count());
    let took = world.send(Until::Passed(time));
    let accepted = world.ledger.count() - accepted;
    (accepted as f64 / took, cores(&before, &world.cpu(), took))
}

pub type Cores = Vec<(&'static str, f64)>;

/// Cores used by each part between two samples, `seconds` apart.
pub fn cores(
    before: &[(&'static str, Duration)],
    after: &[(&str, Duration)],
    seconds: f64,
) -> Cores {
    let parts = before.iter().zip(after);
    let took = parts.map(|((part, before), (_, after))| (*part, *after - *before));
    took.map(|(part, took)| (part, took.as_secs_f64() / seconds))
        .collect()
}

pub fn note_cores(cores: &[(&str, f64)]) {
    let parts: Vec<_> = cores
        .iter()
        .map(|(part, cores)| format!("{part} {cores:.2}"))
        .collect();
    note(&format!("cores taken meanwhile: {}", parts.join(", ")));
}

fn accept(scale: &Scale) {
    let bare = Bare::start();
    let mut worlds = [
        (World::of(HOOKS, Kind::Store), "without reducer"),
        (World::of(HOOKS, Kind::Sum), "with a JavaScript reducer"),
    ];
    bare_rate(&bare, scale.time(1.0));
    let mut ceilings = Vec::new();
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..6 {
        for ((world, _), rates) in worlds.iter_mut().zip(&mut rates) {
            let ceiling = bare_rate(&bare, scale.time(2.0));
            let rate = accept_rate(world, scale.time(3.0));
            if world.kind == Kind::Sum {
                world.settle();
            }
            // The first round warms up.
            if round > 0 {
                ceilings.push(ceiling);
                rates.push(rate);
            }
        }
    }
    let ceiling = median(ceilings);
    row(
        "bare HTTP server in the same run",
        ceiling,
        "/s",
        Target::None,
    );
    for ((world, how), mut rates) in worlds.iter_mut().zip(rates) {
        rates.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let (rate, cores) = &rates[rates.len() / 2];
        if world.kind == Kind::Sum {
            world.settle_and_check();
        }
        world.ledger.check_order();
        let share = rate / ceiling * 100.0;
        let what = format!("accepted durably, 1,000 hooks {how}, of the bare server's rate");
        row(&what, share, " %", Target::AtLeast(by_setup(50.0, 25.0)));
        row(
            &format!("the same, absolute, {how}"),
            *rate,
            "/s",
            Target::None,
        );
        note_cores(cores);
    }
}

/// Accepted with a signature, of what is accepted with a write key.
fn verified(scale: &Scale) {
    let mut worlds = [
        World::of(HOOKS, Kind::Store),
        World::of(HOOKS, Kind::Signed),
    ];
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..6 {
        for (world, rates) in worlds.iter_mut().zip(&mut rates) {
            let (rate, _) = accept_rate(world, scale.time(3.0));
            // The first round warms up.
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    let [with_key, signed] = rates.map(median);
    let what = "accepted with an HMAC-SHA256 of 512 bytes, of those with a write key";
    let share = signed / with_key * 100.0;
    row(what, share, " %", Target::AtLeast(85.0));
    row("the same, absolute", signed, "/s", Target::None);
}

/// From the first send until the last state is at its head: events per second, and the cores taken.
fn applied_rate(hooks: usize, events: u64) -> (f64, Cores) {
    let mut world = World::of(hooks, Kind::Sum);
    let (began, before) = (Instant::now(), world.cpu());
    world.send(Until::Accepted(events));
    let states = world.settle();
    let took = began.elapsed().as_secs_f64();
    let cores = cores(&before, &world.cpu(), took);
    world.check(&states);
    assert_eq!(world.ledger.count() as u64, events, "events accepted");
    (events as f64 / took, cores)
}

/// The median of three.
fn report_applied(hooks: usize, events: u64, over: &str, target: f64) {
    let mut rates = [(); 3].map(|()| applied_rate(hooks, events));
    rates.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let (rate, cores) = &rates[1];
    let what = format!("received and applied, {events} events {over}, JavaScript");
    row(&what, *rate, "/s", Target::AtLeast(target));
    note_cores(cores);
}

fn applied(scale: &Scale) {
    let target = by_setup(35_000.0, 15_000.0);
    report_applied(HOOKS, scale.events(100_000), "over 1,000 hooks", target);
}

fn one(scale: &Scale) {
    let target = by_setup(30_000.0, 15_000.0);
    report_applied(1, scale.events(100_000), "in one stream", target);
}

fn latency(scale: &Scale) {
    let mut world = World::of(HOOKS, Kind::Sum);
    let never = AtomicBool::new(false);
    let pace = |seconds| Pace {
        per_second: 1_000,
        every: 5,
        longest: scale.time(seconds),
        stop: &never,
    };
    world.open(HOOKS as u32, pace(2.0));
    let open = world.open(HOOKS as u32, pace(20.0));
    world.settle_and_check();
    row(
        "sent to 202 at 1,000/s, p50",
        quantile(&open.accepted, 0.5),
        " ms",
        Target::None,
    );
    row(
        "sent to 202 at 1,000/s, p99",
        quantile(&open.accepted, 0.99),
        " ms",
        Target::None,
    );
    let mut applied = latencies();
    for seen in &open.seen {
        applied.saturating_record(micros(seen.due_at, seen.at));
    }
    let what = |share| format!("sent to seen in the state at 1,000/s, {share}");
    row(
        &what("p50"),
        quantile(&applied, 0.5),
        " ms",
        Target::AtMost(by_setup(1.5, 3.0)),
    );
    row(
        &what("p99"),
        quantile(&applied, 0.99),
        " ms",
        Target::AtMost(by_setup(8.0, 15.0)),
    );
    note(
        "every fifth event, seen by GET state?min_seq after its 202: more than received to applied",
    );
}

/// Names of hooks whose streams have nearly the same slot, and so the same lane.
fn neighbours() -> impl Iterator<Item = String> {
    let slot = |name: &str| Sha256::new_with_prefix(name).chain_update([0]).finalize()[0];
    let names = (0..).map(|n| format!("n{n}"));
    names.filter(move |name| slot(name) == slot("spike"))
}

fn spike(scale: &Scale) {
    const SPIKES: u32 = 5;
    let mut hooks: Vec<String> = neighbours().take(50).collect();
    hooks.push("spike".into());
    let mut world = World::with(hooks, Kind::Sum);
    let addrs = world.addrs.clone();
    let mut requests = Requests::new(vec!["spike".into()], &world.write_key, &world.read_key);
    let mut ledger = Ledger::new(1);
    let stop = AtomicBool::new(false);
    let spikes = Mutex::new(Vec::new());
    let events = scale.events(20_000);
    let open = std::thread::scope(|threads| {
        threads.spawn(|| {
            for _ in 0..SPIKES {
                std::thread::sleep(scale.time(3.0));
                let began = Instant::now();
                let mut plan = Closed::new(&mut ledger, 1, Until::Accepted(events));
                generator::run(&addrs, connections(), &mut requests, &mut plan);
                let mut plan = Settle::new(&ledger);
                generator::run(&addrs, 1, &mut requests, &mut plan);
                spikes.lock().unwrap().push((began, Instant::now()));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let pace = Pace {
            per_second: 500,
            every: 1,
            longest: Duration::from_secs(600),
            stop: &stop,
        };
        world.open(50, pace)
    });
    world.settle_and_check();
    ledger.check_order();
    report_spikes(&open.seen, &spikes.into_inner().unwrap(), events);
    bare_spike(scale);
}

/// Effect of as many parallel requests on others on these cores, without storing: the floor of the
/// ratio.
fn bare_spike(scale: &Scale) {
    let bare = Bare::start();
    bare_rate(&bare, scale.time(1.0));
    let p99 = [false, true].map(|beside| bare_p99(&bare, scale.time(5.0), beside));
    let what = "p99 of a bare HTTP server's answers at 1,000/s, 64 connections busy beside, by p99 without";
    row(what, p99[1] / p99[0], " times", Target::None);
    for (p99, when) in p99.into_iter().zip(["without", "beside them"]) {
        row(&format!("p99 {when}, bare"), p99, " ms", Target::None);
    }
}

/// The 99th percentile of a bare server's answers, in milliseconds, for `time`; others keep it busy meanwhile or not.
fn bare_p99(bare: &Bare, time: Duration, is_busy: bool) -> f64 {
    let requests = |name: &str| Requests::new(vec![name.into()], "hl_w_0000000000000000", "");
    let (mut ledger, stop) = (Ledger::new(1), AtomicBool::new(false));
    let mut open = Open::new(
        &mut ledger,
        1,
        Pace {
            per_second: 1_000,
            every: u32::MAX,
            longest: time,
            stop: &stop,
        },
    );
    std::thread::scope(|threads| {
        if is_busy {
            threads.spawn(|| {
                let mut ledger = Ledger::new(1);
                let mut plan = Closed::new(&mut ledger, 1, Until::Passed(time));
                generator::run(
                    &[bare.addr],
                    connections(),
                    &mut requests("spike"),
                    &mut plan,
                );
            });
        }
        generator::run(
            &[bare.addr],
            connections(),
            &mut requests("other"),
            &mut open,
        );
    });
    quantile(&open.measured.accepted, 0.99)
}

fn report_spikes(seen: &[Seen], spikes: &[(Instant, Instant)], events: u64) {
    let (mut quiet, mut spiked) = (latencies(), latencies());
    for seen in seen {
        // Requests that began or ended in a spike belong to it.
        let is_in = |(began, ended): &(Instant, Instant)| seen.due_at < *ended && seen.at > *began;
        let latencies = if spikes.iter().any(is_in) {
            &mut spiked
        } else {
            &mut quiet
        };
        latencies.saturating_record(micros(seen.due_at, seen.at));
    }
    let p99 = [&quiet, &spiked].map(|latencies| quantile(latencies, 0.99));
    let what =
        format!("p99 of 50 hooks in the same lane during a {events}-event spike, by p99 without");
    row(&what, p99[1] / p99[0], " times", Target::AtMost(3.0));
    for (share, name) in [(0.5, "p50"), (0.99, "p99"), (1.0, "worst")] {
        for (latencies, when) in [(&quiet, "without"), (&spiked, "during")] {
            let what = format!("{name} {when}, sent to seen in the state");
            row(&what, quantile(latencies, share), " ms", Target::None);
        }
    }
    let rates = spikes.iter().map(|(began, ended)| {
        let took = ended.duration_since(*began).as_secs_f64();
        events as f64 / took
    });
    row(
        "received and applied in the spike",
        median(rates.collect()),
        "/s",
        Target::None,
    );
    note(&format!(
        "{} samples without, {} during",
        quiet.len(),
        spiked.len()
    ));
}

/// Reducers that never end: one that can be interrupted, and one in a native call, which cannot.
const POISONS: [(&str, &str); 2] = [
    ("for(;;)", "for (;;);"),
    ("a native call", "return [Array(4e9).join('-').length];"),
];

/// Effect of a hook with endless folds on others: ratio of their p99 with it to their p99 without.
fn poison(scale: &Scale) {
    for (what, body) in POISONS {
        let mut world = World::of(50, Kind::Sum);
        world.open(
            50,
            neighbours_pace(scale.time(5.0), &AtomicBool::new(false)),
        );
        let without = neighbours_p99(&mut world, scale.time(20.0));
        row(
            &format!("p99 of 50 hooks without {what}"),
            without,
            " ms",
            Target::None,
        );
        let text = format!("export default function reduce(state, event) {{ {body} }}");
        let file = world.homes[0].write("poison.js", &text);
        let file = file.to_str().unwrap();
        for per_second in [2, 50, 500] {
            let hook = format!("poison{per_second}");
            let key = "body:/customer";
            world.homes[0].run(&[
                "hooks",
                "create",
                &hook,
                "--reduce",
                file,
                "--order-by",
                key,
            ]);
            let with = beside_poison(&mut world, &hook, per_second, scale.time(20.0));
            let what =
                format!("p99 of 50 hooks beside {per_second} events/s of {what}, by p99 without");
            row(&what, with / without, " times", Target::AtMost(3.0));
            row("the same, absolute", with, " ms", Target::None);
            world.homes[0].run(&["hooks", "delete", &hook, "--yes", "--confirm", &hook]);
        }
        world.settle_and_check();
    }
}

/// The neighbours' p99 while another hook gets so many events a second, each in a stream of its own.
fn beside_poison(world: &mut World, hook: &str, per_second: u32, time: Duration) -> f64 {
    let addrs = world.addrs.clone();
    let mut requests = Requests::new(vec![hook.to_owned()], &world.write_key, &world.read_key);
    let (mut ledger, stop) = (Ledger::new(1), AtomicBool::new(false));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let pace = Pace {
                per_second,
                every: u32::MAX,
                longest: Duration::from_secs(600),
                stop: &stop,
            };
            let mut plan = Open::new(&mut ledger, 1, pace);
            // A node closes connections that are idle for long.
            let connections = connections().min(per_second.div_ceil(4) as usize);
            generator::run(&addrs, connections, &mut requests, &mut plan);
        });
        let p99 = neighbours_p99(world, time);
        stop.store(true, Ordering::Relaxed);
        p99
    })
}

fn neighbours_pace(time: Duration, stop: &AtomicBool) -> Pace<'_> {
    Pace {
        per_second: 500,
        every: 1,
        longest: time,
        stop,
    }
}

/// From sent to seen in the state, of the hooks of a world, in milliseconds.
fn neighbours_p99(world: &mut World, time: Duration) -> f64 {
    let stop = AtomicBool::new(false);
    let open = world.open(50, neighbours_pace(time, &stop));
    let mut latencies = latencies();
    for seen in &open.seen {
        latencies.saturating_record(micros(seen.due_at, seen.at));
    }
    quantile(&latencies, 0.99)
}

fn memory(scale: &Scale) {
    let mut world = World::of(HOOKS, Kind::Sum);
    let pid = world.daemons[0].pid();
    std::thread::sleep(scale.time(2.0));
    row(
        "resident, idle, 1,000 hooks",
        proc::memory(pid).now,
        " MB",
        Target::AtMost(60.0),
    );
    // Memory grows while caches fill; after that it must not.
    let peaks = [(); 3].map(|()| {
        world.send(Until::Passed(scale.time(10.0)));
        proc::memory(pid).peak
    });
    row(
        "resident, at most, under full load",
        peaks[2],
        " MB",
        Target::AtMost(300.0),
    );
    row(
        "the same, last third by the second",
        peaks[2] / peaks[1],
        " times",
        Target::AtMost(1.1),
    );
    world.settle_and_check();
    std::thread::sleep(scale.time(3.0));
    row(
        "resident, afterwards",
        proc::memory(pid).now,
        " MB",
        Target::None,
    );
}

fn million(scale: &Scale) {
    let streams = scale.events(1_000_000);
    let mut world = World::with(vec!["many".into()], Kind::SumByCustomer);
    let took = world.send(Until::Accepted(streams));
    let pid = world.daemons[0].pid();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .unwrap()
        .block_on(count_streams(&world, "many", streams));
    let what = format!("resident with {streams} streams, all applied");
    row(&what, proc::memory(pid).now, " MB", Target::AtMost(500.0));
    row(
        "the same, at most",
        proc::memory(pid).peak,
        " MB",
        Target::None,
    );
    row("streams made", streams as f64 / took, "/s", Target::None);
}

/// Lists every stream, page by page, and waits where one is not at its head yet.
async fn count_streams(world: &World, hook: &str, streams: u64) {
    let mut client = Client::new(world.addrs[0], &world.read_key);
    let (mut count, mut after) = (0, String::new());
    loop {
        let path = format!("/v1/hooks/{hook}/streams?limit=500{after}");
        let page = client.get(&path).await.json();
        let items = page["items"].as_array().unwrap();
        if items
            .iter()
            .any(|row: &Value| row["position"] != row["head"])
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        count += items.len() as u64;
        match page["next"].as_str() {
            Some(next) => after = format!("&after={}", next.replace('/', "%2F")),
            None => break assert_eq!(count, streams, "streams listed"),
        }
    }
}

/// Numbers of lanes, one for each second.
const STORM: [&str; 8] = ["64", "3", "17", "1", "16", "5", "32", "8"];

/// Waits of fifty hooks, from send to state, under full load of others: without resizes, and with one
/// every second. Then the time of a resize, and of making hints again, with many streams.
fn resize(scale: &Scale) {
    const PROBES: u32 = 50;
    const LOAD: usize = 200;
    let mut hooks: Vec<String> = (0..PROBES).map(|n| format!("p{n:02}")).collect();
    let load: Vec<String> = (0..LOAD).map(|n| format!("h{n:03}")).collect();
    hooks.extend(load.iter().cloned());
    let mut world = World::with(hooks, Kind::Sum);
    let addrs = world.addrs.clone();
    let home = std::mem::take(&mut world.homes);
    let mut requests = Requests::new(load, &world.write_key, &world.read_key);
    let mut ledger = Ledger::new(LOAD);
    let (calm, stormy) = (scale.time(10.0), scale.time(1.0));
    let stop = AtomicBool::new(false);
    let storm = Mutex::new(Vec::new());
    let open = std::thread::scope(|threads| {
        threads.spawn(|| {
            let time = calm + stormy * (STORM.len() as u32 + 1);
            let mut plan = Closed::new(&mut ledger, LOAD as u32, Until::Passed(time));
            generator::run(&addrs, connections(), &mut requests, &mut plan);
        });
        threads.spawn(|| {
            std::thread::sleep(calm);
            for count in STORM {
                let began = Instant::now();
                home[0].run(&["lanes", "resize", count, "--yes", "--confirm", count]);
                storm.lock().unwrap().push((began, Instant::now()));
                std::thread::sleep(stormy.saturating_sub(began.elapsed()));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let pace = Pace {
            per_second: 200,
            every: 1,
            longest: Duration::from_secs(600),
            stop: &stop,
        };
        world.open(PROBES, pace)
    });
    world.homes = home;
    world.settle_and_check();
    ledger.check_order();
    report_storm(&open.seen, &storm.into_inner().unwrap());
    many_streams(scale);
}

fn report_storm(seen: &[Seen], storm: &[(Instant, Instant)]) {
    let (mut calm, mut stormy) = (latencies(), latencies());
    for seen in seen {
        let is_in = |(began, ended): &(Instant, Instant)| seen.due_at < *ended && seen.at > *began;
        match storm.iter().any(is_in) {
            true => stormy.saturating_record(micros(seen.due_at, seen.at)),
            false => calm.saturating_record(micros(seen.due_at, seen.at)),
        }
    }
    for (share, name) in [(0.5, "p50"), (0.99, "p99"), (1.0, "longest")] {
        for (latencies, when) in [(&calm, "without"), (&stormy, "during")] {
            let what = format!("{name} wait under full load {when} a resize");
            row(&what, quantile(latencies, share), " ms", Target::None);
        }
    }
    let more = quantile(&stormy, 1.0) - quantile(&calm, 1.0);
    let what = "longest wait during a resize, more than the longest without";
    row(what, more, " ms", Target::AtMost(by_setup(50.0, 250.0)));
    let took = storm
        .iter()
        .map(|(began, ended)| ended.duration_since(*began).as_secs_f64());
    row(
        "resize under full load, by the command",
        median(took.collect()) * 1e3,
        " ms",
        Target::None,
    );
    note(&format!(
        "{} samples without, {} during",
        calm.len(),
        stormy.len()
    ));
}

fn many_streams(scale: &Scale) {
    let streams = scale.events(100_000);
    let mut world = World::with(vec!["many".into()], Kind::SumByCustomer);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    world.homes[0].run(&["lanes", "pause", "--all", "--yes"]);
    world.send(Until::Accepted(streams));
    let said = world.homes[0].run(&["lanes", "rebuild", "-o", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["behind"], streams, "{said}");
    let what = format!("lanes rebuild, {streams} streams with work");
    let took = said["took_ms"].as_f64().unwrap();
    row(&what, took, " ms", Target::AtMost(2_000.0));
    world.homes[0].run(&["lanes", "resume", "--all"]);
    runtime.block_on(count_streams(&world, "many", streams));
    world.homes[0].run(&["lanes", "pause", "--all", "--yes"]);
    let more = scale.events(1_000);
    world.send(Until::Accepted(more));
    let took = ["16", "3", "64", "8"].map(|count| {
        let began = Instant::now();
        world.homes[0].run(&["lanes", "resize", count, "--yes", "--confirm", count]);
        began.elapsed().as_secs_f64() * 1e3
    });
    let what = format!("resize, {streams} streams of which {more} have work, by the command");
    row(&what, median(took.to_vec()), " ms", Target::AtMost(1_000.0));
    row(
        "the same, the longest",
        took.into_iter().fold(0.0, f64::max),
        " ms",
        Target::AtMost(1_000.0),
    );
    world.homes[0].run(&["lanes", "resume", "--all"]);
    runtime.block_on(count_streams(&world, "many", streams + more));
}

/// From asking for it until every state is in its place, with a JavaScript reducer and a built-in one.
fn rebuild(scale: &Scale) {
    let events = scale.events(400_000);
    let mut world = World::with(vec!["many".into()], Kind::SumByAmount);
    world.send(Until::Accepted(events));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .unwrap()
        .block_on(count_streams(&world, "many", 100));
    let again = |what: &str, target: f64| {
        let began = Instant::now();
        let args = [
            "state",
            "rebuild",
            "many",
            "--yes",
            "--confirm",
            "many",
            "-o",
            "json",
        ];
        let said: Value = serde_json::from_str(&world.homes[0].run(&args)).unwrap();
        let took = began.elapsed().as_secs_f64();
        assert_eq!(said[0]["events_done"], events, "{said}");
        assert_eq!(said[0]["failed"], 0, "{said}");
        let what = format!("state rebuild, {events} events in 100 streams, {what}");
        row(&what, events as f64 / took, "/s", Target::AtLeast(target));
        said[0]["differ"].clone()
    };
    let differ = again("JavaScript", by_setup(100_000.0, 60_000.0));
    assert_eq!(differ, 0, "the same reducer makes the same states");
    world.homes[0].run(&["hooks", "edit", "many", "--reduce", "count"]);
    let differ = again("built-in", by_setup(200_000.0, 100_000.0));
    assert_eq!(differ, 100, "another reducer makes others");
}

/// Events of ten hooks are removed at once, while fifty others are sent to: how fast, by how fast they were taken in,
/// and what a sender waits meanwhile, by what he waits when nothing is removed.
fn prune(scale: &Scale) {
    const PROBES: u32 = 50;
    const OLD: usize = 10;
    let mut hooks: Vec<String> = (0..PROBES).map(|n| format!("p{n:02}")).collect();
    let old: Vec<String> = (0..OLD).map(|n| format!("old{n}")).collect();
    hooks.extend(old.iter().cloned());
    let mut world = World::with(hooks, Kind::Sum);
    let mut requests = Requests::new(old.clone(), &world.write_key, &world.read_key);
    let mut ledger = Ledger::new(OLD);
    let (events, sending) = (scale.events(200_000), Instant::now());
    let mut plan = Closed::new(&mut ledger, OLD as u32, Until::Accepted(events));
    generator::run(&world.addrs, connections(), &mut requests, &mut plan);
    let taken_in = events as f64 / sending.elapsed().as_secs_f64();
    let mut plan = Settle::new(&ledger);
    generator::run(&world.addrs, 1, &mut requests, &mut plan);

    let never = AtomicBool::new(false);
    let stop = AtomicBool::new(false);
    let pace = |stop, longest| Pace {
        per_second: 1_000,
        every: 1,
        longest,
        stop,
    };
    world.open(PROBES, pace(&never, scale.time(2.0)));
    let quiet = world.open(PROBES, pace(&never, scale.time(10.0)));
    let homes = std::mem::take(&mut world.homes);
    let removed_in = Mutex::new(0.0);
    let pruning = std::thread::scope(|threads| {
        threads.spawn(|| {
            let began = Instant::now();
            for hook in &old {
                homes[0].run(&["hooks", "edit", hook, "--keep", "1s"]);
            }
            while kept(&homes[0], &old) > 0 {
                std::thread::sleep(Duration::from_millis(50));
            }
            *removed_in.lock().unwrap() = began.elapsed().as_secs_f64();
            stop.store(true, Ordering::Relaxed);
        });
        world.open(PROBES, pace(&stop, Duration::from_secs(600)))
    });
    assert_eq!(kept(&homes[0], &old), 0, "events left after ten minutes");
    world.homes = homes;
    world.settle_and_check();
    ledger.check_order();

    let removed = events as f64 / removed_in.into_inner().unwrap();
    let what = format!("{events} events of {OLD} hooks removed, of the rate they were taken in at");
    row(&what, removed / taken_in * 100.0, " %", Target::None);
    row("the same, absolute", removed, "/s", Target::None);
    let p99 = [&quiet, &pruning].map(|open| quantile(&open.accepted, 0.99));
    let what = "p99 of sent to 202 at 1,000/s while events are removed, by p99 without";
    row(what, p99[1] / p99[0], " times", Target::None);
    for (share, name) in [(0.5, "p50"), (0.99, "p99"), (1.0, "worst")] {
        for (open, when) in [(&quiet, "without"), (&pruning, "meanwhile")] {
            let what = format!("{name} {when}, sent to 202");
            row(&what, quantile(&open.accepted, share), " ms", Target::None);
        }
    }
}

/// Events that some hooks keep.
fn kept(home: &Home, hooks: &[String]) -> u64 {
    let said = home.run(&["hooks", "list", "-o", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    let all = said["items"].as_array().unwrap().iter();
    let ours = all.filter(|hook| hooks.iter().any(|name| hook["name"] == *name));
    ours.map(|hook| hook["events"].as_u64().unwrap()).sum()
}

/// Cost of the monitor with very many streams that have work but do not run, in paused lanes and held,
/// and the bytes sent to viewers.
fn feed(scale: &Scale) {
    for (kind, what) in [
        (Kind::SumByCustomer, "in paused lanes"),
        (Kind::RejectedByCustomer, "held"),
    ] {
        let streams = scale.events(100_000);
        let mut world = World::with(vec!["many".into()], kind);
        world.homes[0].run(&["lanes", "resize", "64", "--yes", "--confirm", "64"]);
        if kind == Kind::SumByCustomer {
            world.homes[0].run(&["lanes", "pause", "--all", "--yes"]);
        }
        world.send(Until::Accepted(streams));
        let aside = match kind {
            Kind::RejectedByCustomer => streams,
            _ => 0,
        };
        while stands_still(&world.homes[0]) != (streams, aside) {
            std::thread::sleep(Duration::from_secs(1));
        }
        // All events sent are stored.
        std::thread::sleep(scale.time(10.0));
        for viewers in [0, 1, 10] {
            watched(
                &world,
                viewers,
                scale.time(20.0),
                &format!("{streams} {what}"),
            );
        }
    }
}

/// Events that wait, and cursors that are set aside.
fn stands_still(home: &Home) -> (u64, u64) {
    // It says by its exit code that all is not well.
    let status = home.command(&["status", "-o", "json"]).output().unwrap();
    let said: Value = serde_json::from_slice(&status.stdout).unwrap();
    let total = |name: &str| said["total"][name].as_u64().unwrap();
    (total("backlog"), total("set_aside"))
}

fn watched(world: &World, viewers: usize, time: Duration, what: &str) {
    let viewers: Vec<_> = (0..viewers).map(|_| Viewer::of(&world.homes[0])).collect();
    // The first picture is whole.
    std::thread::sleep(Duration::from_secs(2));
    let sent = || viewers.iter().map(Viewer::bytes).sum::<u64>();
    let pid = world.daemons[0].pid();
    let (cpu, before) = (proc::cpu(pid), sent());
    std::thread::sleep(time);
    let seconds = time.as_secs_f64();
    let share = (proc::cpu(pid) - cpu).as_secs_f64() / seconds * 100.0;
    let said = format!("CPU of a core, 64 lanes, {what}, {} look", viewers.len());
    row(&said, share, " %", Target::AtMost(1.0));
    if !viewers.is_empty() {
        let each = (sent() - before) as f64 / seconds / viewers.len() as f64;
        assert!(each > 0.0, "nothing was sent");
        row("sent to each", each, " B/s", Target::AtMost(3_000.0));
    }
}

fn idle(scale: &Scale) {
    let mut world = World::of(HOOKS, Kind::Sum);
    world.send(Until::Accepted(scale.events(20_000)));
    world.settle_and_check();
    std::thread::sleep(scale.time(5.0));
    let pid = world.daemons[0].pid();
    let (cpu, written) = (proc::cpu(pid), proc::written(pid));
    let time = scale.time(20.0);
    std::thread::sleep(time);
    let seconds = time.as_secs_f64();
    let share = (proc::cpu(pid) - cpu).as_secs_f64() / seconds * 100.0;
    row(
        "CPU of a core, idle, 1,000 hooks",
        share,
        " %",
        Target::AtMost(0.5),
    );
    let written = (proc::written(pid) - written) / seconds;
    row("written, idle", written, " B/s", Target::None);
}
