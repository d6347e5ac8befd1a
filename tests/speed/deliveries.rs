//! Scenarios of deliveries: pushed to a local sink, and pulled.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::plans::{Pace, Until, latencies, micros, quantile};
use super::scenarios::{Scale, cores, note_cores};
use super::sink::{Answers, Sink};
use super::table::{Target, row};
use super::world::{Kind, World};

/// Time that a slow destination takes for an answer.
const SLOW: Duration = Duration::from_millis(20);

/// Number of destinations that hang, and of workers that wait.
const HANGING: usize = 100;
const WORKERS: usize = 1_000;

/// Pushed to destinations that are fast, slow, and hang.
pub fn push(scale: &Scale) {
    fast(scale);
    slow(scale.events(200), "", 45.0, "one by one");
    slow(
        scale.events(20_000),
        "batch = '100'\n",
        2_000.0,
        "in batches of 100",
    );
    hanging(scale);
}

fn hook(name: &str, order: &str, sink: &Sink, rest: &str) -> String {
    let url = sink.url();
    format!(
        "[[hooks]]\nname = '{name}'\n{order}[[hooks.forward]]\nname = 'out'\nurl = '{url}'\n{rest}"
    )
}

const BY_AMOUNT: &str = "order_by = 'body:/amount'\n";

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n}")).collect()
}

/// Ten hooks of a hundred streams each.
fn fast(scale: &Scale) {
    let sink = Sink::start(Answers::After(Duration::ZERO));
    let hooks = names("fast", 10);
    let toml: String = hooks
        .iter()
        .map(|name| hook(name, BY_AMOUNT, &sink, ""))
        .collect();
    let mut world = World::of_toml(hooks, Kind::Store, &toml);
    let events = scale.events(50_000);
    let (began, before) = (Instant::now(), world.cpu());
    world.send(Until::Accepted(events));
    sink.wait_for(events);
    let took = began.elapsed().as_secs_f64();
    let cores = cores(&before, &world.cpu(), took);
    let rate = events as f64 / took;
    let what =
        format!("received and delivered in order, {events} events, 1,000 streams, a fast sink");
    row(&what, rate, "/s", Target::AtLeast(5_000.0));
    let what = "the same, by each core of the nodes";
    row(what, rate / cores[0].1, "/s", Target::AtLeast(5_000.0));
    note_cores(&cores);
}

/// One stream to a destination that takes its time.
fn slow(events: u64, rest: &str, target: f64, how: &str) {
    let sink = Sink::start(Answers::After(SLOW));
    let toml = hook("slow", "", &sink, rest);
    let mut world = World::of_toml(vec!["slow".into()], Kind::Store, &toml);
    let began = Instant::now();
    world.send(Until::Accepted(events));
    sink.wait_for(events);
    let rate = events as f64 / began.elapsed().as_secs_f64();
    let what = format!("delivered of one stream, 20 ms for each answer, {how}");
    row(&what, rate, "/s", Target::AtLeast(target));
}

/// The others' latency beside destinations that hang until their timeout.
fn hanging(scale: &Scale) {
    let p99 = [0, HANGING].map(|hanging| {
        let (sink, never) = (
            Sink::start(Answers::After(Duration::ZERO)),
            Sink::start(Answers::Never),
        );
        let (healthy, hang) = (names("well", 10), names("hang", hanging));
        let healthy_toml = healthy.iter().map(|name| hook(name, BY_AMOUNT, &sink, ""));
        let hang_toml = hang.iter().map(|name| hook(name, BY_AMOUNT, &never, ""));
        let toml: String = healthy_toml.chain(hang_toml).collect();
        let all = healthy.into_iter().chain(hang).collect();
        let mut world = World::of_toml(all, Kind::Store, &toml);
        // Every hook has work, also those that hang.
        world.send(Until::Accepted(10_000));
        let stop = AtomicBool::new(false);
        let mut pace = |seconds| {
            world.open(
                10,
                Pace {
                    per_second: 500,
                    every: u32::MAX,
                    longest: scale.time(seconds),
                    stop: &stop,
                },
            );
        };
        pace(5.0);
        let began = Instant::now();
        pace(20.0);
        std::thread::sleep(Duration::from_secs(2));
        let arrivals = sink.arrivals();
        let mut latencies = latencies();
        for (number, sent_at) in world.ledger.sent_since(began, 10) {
            latencies.saturating_record(micros(sent_at, arrivals[&number]));
        }
        quantile(&latencies, 0.99)
    });
    let what = "p99 from sent to delivered beside 100 destinations that hang, by p99 without";
    row(what, p99[1] / p99[0], " times", Target::AtMost(1.5));
    row("the same, absolute", p99[1], " ms", Target::None);
}

/// Cost of workers that wait for deliveries of one handler.
pub fn pull(scale: &Scale) {
    let toml = "[[hooks]]\nname = 'jobs'\n[[hooks.pull]]\nname = 'worker'\n";
    let world = World::of_toml(vec!["jobs".into()], Kind::Store, toml);
    let consume = ["--type", "read", "--hook", "jobs", "--consume", "worker"];
    let key = world.homes[0].run(&[&["keys", "create", "--name", "pool"], &consume[..]].concat());
    let body = r#"{"wait":"30s"}"#;
    let request = format!(
        "POST /v1/hooks/jobs/pull/worker HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        key.trim(),
        body.len()
    );
    let workers: Vec<TcpStream> = (0..WORKERS)
        .map(|at| {
            let mut worker = TcpStream::connect(world.addrs[at % world.addrs.len()]).unwrap();
            worker.write_all(request.as_bytes()).unwrap();
            worker
        })
        .collect();
    std::thread::sleep(Duration::from_secs(3));
    let (began, before) = (Instant::now(), world.cpu());
    std::thread::sleep(scale.time(20.0));
    let used = cores(&before, &world.cpu(), began.elapsed().as_secs_f64());
    drop(workers);
    let what = "a core taken by 1,000 pull workers that wait";
    row(what, used[0].1 * 100.0, " %", Target::AtMost(2.0));
}
