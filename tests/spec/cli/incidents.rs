//! Incidents, staged for real. On small terminals without colour the first screen of the dashboard and `status` say
//! of each what is at fault, since when, whose fault it is, whether more lanes help, and what to type.
//!
//! A daemon needs a minute to learn usual values, so the incidents that need them run in parallel.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hooklane::domain::time::Timestamp;
use serde_json::Value;

use super::daemon::{Client, Daemon, Home, Servers, Setup};
use super::sink::{Answer, Sink};
use super::top::Terminal;
use super::world::{Ask, PATIENCE, World, until, within};
use super::{postgres, preload};

/// Time limit until a daemon knows usual values, or is late.
const LONG: Duration = Duration::from_secs(240);

/// Waits until the first screen of the dashboard has all of these words, and `status` too; gives what
/// `status` says. Nothing is pressed.
fn told(home: &Home, words: &[&str]) -> String {
    let command = format!("top --data {}", home.data().display());
    let sizes = [(80, 24), (60, 20)];
    let terminals = sizes.map(|size| Terminal::running("LANG=C.UTF-8 NO_COLOR=1", &command, size));
    // A line may end anywhere: in a command only the order of its characters counts.
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    let has_all = |text: &str| words.iter().all(|word| bare(text).contains(&bare(word)));
    let (mut shown, mut said) = (Vec::new(), String::new());
    let all = within(PATIENCE, || {
        shown = terminals.iter().map(Terminal::screen).collect();
        let status = home.command(&["status"]).output().unwrap();
        said = String::from_utf8(status.stdout).unwrap();
        let is_wrong = status.status.code() == Some(3);
        let first = |screen: &String| screen.lines().take(14).collect::<String>();
        let are_shown = shown.iter().all(|screen| has_all(&first(screen)));
        (is_wrong && has_all(&said) && are_shown).then_some(())
    });
    assert!(all.is_some(), "{words:?}\n{}\n{said}", shown.join("\n"));
    said
}

/// True if it gives the time since which the finding stands.
fn is_dated(said: &str) -> bool {
    let mut rest = said.split(" since ").skip(1);
    rest.any(|rest| rest.len() > 9 && rest.as_bytes()[2] == b':' && rest.as_bytes()[8] == b'Z')
}

/// Time within which an outage is in the snapshots that `status` and `top` show.
const NAMED_WITHIN: Duration = Duration::from_secs(3);

/// Checks that an outage which began at `began` was in the daemon's own log in time. The time stamp of the log
/// counts: on a busy machine the command line, the shell and this test are slow too, and a limit for them
/// would have to be loose.
fn is_noted_in_time(home: &Home, words: &str, began: Timestamp) -> Timestamp {
    let noted = until(|| {
        let log = snapshot(home)["log"].take();
        let mut entries = log.as_array()?.iter().rev();
        let entry = entries.find(|entry| entry["what"].as_str().unwrap().contains(words))?;
        serde_json::from_value::<Timestamp>(entry["at"].clone()).ok()
    });
    let took = noted.since(began);
    assert!(took <= NAMED_WITHIN, "{words}: {took:?}");
    noted
}

fn snapshot(home: &Home) -> Value {
    let status = home.command(&["status", "-o", "json"]).output().unwrap();
    serde_json::from_slice(&status.stdout).unwrap_or_default()
}

/// Sends to one hook, so many a second in turn to sixteen streams, until it is dropped.
struct Traffic {
    pace: Arc<Pace>,
    thread: Option<JoinHandle<()>>,
}

struct Pace {
    per_s: AtomicU32,
    /// Work for each event.
    work: AtomicU32,
}

/// Streams of the sender: so many that more lanes help also where the reducer is far too slow.
const ACCOUNTS: u32 = 64;

/// Connections of a sender.
const CONNECTIONS: u32 = 8;

impl Traffic {
    fn new(world: &World, per_s: u32, work: u32) -> Self {
        let pace = Arc::new(Pace {
            per_s: per_s.into(),
            work: work.into(),
        });
        let (addr, key, paced) = (world.home.addr, world.write.clone(), pace.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            let send = |nth| {
                let (mut client, pace) = (Client::new(addr, &key), paced.clone());
                async move {
                    let mut due = tokio::time::Instant::now();
                    for count in 0.. {
                        let per_s = pace.per_s.load(Ordering::Relaxed);
                        let work = pace.work.load(Ordering::Relaxed);
                        if per_s == 0 {
                            return;
                        }
                        let account = (count * CONNECTIONS + nth) % ACCOUNTS;
                        let body = format!("{{\"account\":\"a{account}\",\"work\":{work}}}");
                        let _ = client.post("orders", body.into(), None).await;
                        due += Duration::from_secs(CONNECTIONS.into()) / per_s;
                        tokio::time::sleep_until(due).await;
                    }
                }
            };
            let senders = (0..CONNECTIONS).map(send);
            runtime.block_on(futures_util::future::join_all(senders));
        });
        Self {
            pace,
            thread: Some(thread),
        }
    }

    fn becomes(&self, per_s: u32, work: u32) {
        self.pace.work.store(work, Ordering::Relaxed);
        self.pace.per_s.store(per_s, Ordering::Relaxed);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.becomes(0, 0);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// It is late from two seconds on, so that nobody has to wait for longer.
const ORDERS: &str = "[[namespaces]]\nname = 'default'\nwarn = '2s'\n\
    [[hooks]]\nname = 'orders'\nreduce = 'works.js'\norder_by = 'body:/account'\n";

/// Held by the incident that needs the processors: the others learn what is normal meanwhile.
static ACUTE: Mutex<()> = Mutex::new(());

fn acute() -> MutexGuard<'static, ()> {
    ACUTE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes as long as its event says.
const WORKS_JS: &str = "export default function reduce(state, event) {\n\
    let n = state?.n ?? 0;\n\
    for (let i = 0; i < event.body.work * 1000; i += 1) n = (n * 31 + i) % 1000003;\n\
    return { n };\n}\n";

/// A world with one lane.
fn world(home: Home) -> World {
    let world = World::at(home, &[("works.js", WORKS_JS)], ORDERS);
    world.home.run(&["lanes", "resize", "1", "--yes"]);
    world
}

/// Sends the usual load, until the daemon has learned it.
fn usual(world: &World, per_s: u32, work: u32) -> Traffic {
    let traffic = Traffic::new(world, per_s, work);
    let known = within(LONG, || {
        let seen = snapshot(&world.home);
        let is_known = seen["hooks"][0]["normal_per_s"].is_number()
            && seen["storage"]["commit_normal_ms"].is_number();
        is_known.then_some(())
    });
    known.expect("what is normal is known");
    traffic
}

/// Waits until this rule finds the worst.
fn finds(world: &World, rule: u8) {
    let mut seen = Value::Null;
    let found = within(LONG, || {
        seen = snapshot(&world.home);
        (seen["verdicts"][0]["rule"] == rule).then_some(())
    });
    assert!(found.is_some(), "{}", seen["verdicts"]);
}

/// Thousands of steps of the reducer that take this machine so many milliseconds when it is at its best.
fn steps(world: &World, ms: f64) -> u32 {
    let took_ms = |steps: u32| {
        let body = format!("{{\"account\":\"a\",\"work\":{steps}}}");
        let event = world.home.write("event.json", &body);
        let event = event.to_str().unwrap();
        let test = ["hooks", "test", "orders", "--event", event, "-o", "json"];
        let tested: Value = serde_json::from_str(&world.home.run(&test)).unwrap();
        tested["took_ms"].as_f64().unwrap()
    };
    let mut steps = 20;
    while (0..6).map(|_| took_ms(steps)).fold(f64::MAX, f64::min) < ms {
        steps = steps * 5 / 4;
    }
    steps
}

fn a_held_stream(setup: Setup) {
    const PICKY_JS: &str = "export default function reduce(state, event) {\n\
        if (event.body.bad) throw new Error('no good, and more to say of it than fits into a line');\n\
        return (state ?? 0) + 1;\n}\n";
    let hooks = "[[hooks]]\nname = 'bills'\nreduce = 'picky.js'\norder_by = 'body:/account'\n";
    let world = World::at(Home::new(setup), &[("picky.js", PICKY_JS)], hooks);
    world.accepted("bills", r#"{"account":"acme","bad":true}"#);
    world.accepted("bills", r#"{"account":"acme"}"#);
    world.held("bills/acme");
    let said = told(
        &world.home,
        &[
            "CODE bills/acme -> reduce held since ",
            "at seq 1: Error in picky.js:2: no good",
            "Holds up only its own 2 events",
            "More lanes: no, 1 stream.",
            "Next: hooklane why bills/acme",
        ],
    );
    assert!(is_dated(&said), "{said}");
}

#[test]
fn a_held_stream_is_named_with_one_node_and_a_file() {
    a_held_stream(Setup::Embedded);
}

#[test]
fn a_held_stream_is_named_on_postgres_and_redis() {
    a_held_stream(Setup::Production);
}

#[test]
fn a_slow_reducer_a_flood_and_a_slow_disk_are_named() {
    std::thread::scope(|scope| {
        scope.spawn(a_reducer_that_became_slow_is_named);
        scope.spawn(a_flood_of_one_sender_is_named);
        scope.spawn(a_slow_disk_is_named);
    });
}

fn a_reducer_that_became_slow_is_named() {
    let world = world(Home::new(Setup::Embedded));
    // Twice as much as one turn at a time can do, also where the measure was taken on a busy machine.
    let work = steps(&world, 25.0);
    let traffic = usual(&world, 25, 1);
    let _acute = acute();
    // Far from four times as many as usual, but a hundred times the work: it is the code.
    traffic.becomes(70, work);
    finds(&world, 6);
    let words = [
        "CODE orders -> reduce takes ",
        "an event (normal ",
        "since ",
        "the oldest for",
        // It is too slow for the lanes, and takes its turns beside them.
        "More lanes: no, orders -> reduce takes one turn at a time.",
        "Next: hooklane hooks show orders",
    ];
    let said = told(&world.home, &words);
    assert!(is_dated(&said), "{said}");
    until(|| {
        let why = world.home.run(&["why", "orders/a1"]);
        (why.contains("CODE") && why.contains("reduce is slow, so it takes one turn at a time"))
            .then_some(())
    });
}

fn a_flood_of_one_sender_is_named() {
    let world = world(Home::new(Setup::Embedded));
    // Quick enough for the lanes: a lane does three hundred a second.
    let work = steps(&world, 2.5);
    let traffic = usual(&world, 10, work);
    let _acute = acute();
    traffic.becomes(1_200, work);
    finds(&world, 5);
    let words = [
        "SENDERS hook orders gets ",
        "/s (normal ",
        "since ",
        "events wait",
        "More lanes: yes, ",
        "Or lanes of its own: hooklane hooks edit orders --namespace NAME",
        "Next: hooklane lanes resize ",
    ];
    let said = told(&world.home, &words);
    assert!(is_dated(&said), "{said}");
    // A problem of the whole namespace is reported for its streams, too.
    until(|| {
        let why = world.home.run(&["why", "orders/a1"]);
        (why.contains("SENDERS") && !why.contains("helps     hooklane lanes rebuild")).then_some(())
    });
}

fn a_slow_disk_is_named() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let delay = dir.path().join("delay");
    let mut home = Home::new(Setup::Embedded);
    let text = |path: &Path| -> &'static str { path.to_str().unwrap().to_owned().leak() };
    home.environment.push((
        "LD_PRELOAD",
        text(&preload::compile(dir.path(), "slow_sync.c")),
    ));
    home.environment.push(("SLOW_SYNC", text(&delay)));
    let world = world(home);
    let _traffic = usual(&world, 10, 1);
    let _acute = acute();
    // Many times what a sync takes on a machine that builds something meanwhile.
    std::fs::write(&delay, "1000000").unwrap();
    finds(&world, 2);
    let said = told(
        &world.home,
        &[
            "US storage: commit p99 ",
            "(normal ",
            "all lanes slow, since ",
            "Accepting goes on, slowly. More lanes: no.",
            "Next: hooklane doctor",
        ],
    );
    assert!(is_dated(&said), "{said}");
}

/// Two nodes, each with lanes, and a hook.
fn two_nodes() -> ([Home; 2], [Daemon; 2]) {
    let servers = Servers::on(postgres::shared());
    let homes = ["a", "b"].map(|name| Home::of(&servers, name));
    let nodes = [homes[0].start(), homes[1].start()];
    homes[0].apply("[[hooks]]\nname = 'orders'\nreduce = 'count'\norder_by = 'body:/account'\n");
    until(|| {
        let nodes = snapshot(&homes[0])["nodes"].take();
        let owns = |node: &Value| node["owns"] != "";
        (nodes.as_array()?.len() == 2 && nodes.as_array()?.iter().all(owns)).then_some(())
    });
    (homes, nodes)
}

#[test]
fn a_dead_node_is_named() {
    let (homes, [_a, b]) = two_nodes();
    let key = homes[0].key("write");
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let send = async || {
        let mut client = Client::new(homes[0].addr, &key);
        for account in 0..64 {
            let body = format!("{{\"account\":\"a{account}\"}}");
            let answer = client.post("orders", body.into(), None).await;
            assert_eq!(answer.unwrap().status, 202);
        }
    };
    runtime.block_on(send());
    until(|| {
        let seen = snapshot(&homes[1]);
        let came = seen["hooks"][0]["in_per_s"].as_f64()?;
        (came > 0.0).then_some(())
    });
    b.kill();
    // Some of them are for its lanes.
    runtime.block_on(send());
    why_names_the_silent_node(&homes[0]);
    told(
        &homes[0],
        &[
            "US node b silent for ",
            "have no owner",
            ", since ",
            "Accepting goes on, ",
            " events wait. More lanes: no. Node a takes them over ",
            "Next: hooklane status --wait 30s",
        ],
    );
}

/// A stream in a lane of a dead node waits for another node, not for a hint.
fn why_names_the_silent_node(home: &Home) {
    let list = home.run(&["streams", "list", "-o", "json", "--limit", "100"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    let mut rows = list["items"].as_array().unwrap().iter();
    let waits = rows
        .find(|row| row["behind"] == 1)
        .expect("one of its lanes");
    let stream = waits["stream"].as_str().unwrap();
    let why = until(|| {
        let why = home.run(&["why", stream]);
        assert!(!why.contains("hooklane lanes rebuild"), "{why}");
        why.contains("US  node b silent for ").then_some(why)
    });
    let ends = "by itself: node b answers again, or another node takes over the lane in ";
    assert!(
        why.contains(ends) || why.contains("no node runs lane"),
        "{why}"
    );
}

/// Events in the lanes of a dead node are counted before it is reported as dead, and two live nodes
/// never disagree about the state.
#[test]
fn what_waits_for_a_dead_node_is_counted_at_once_and_by_every_node() {
    let servers = Servers::on(postgres::shared());
    let homes = ["a", "b", "c"].map(|name| Home::of(&servers, name));
    let (_a, b, _c) = (homes[0].start(), homes[1].start(), homes[2].start());
    homes[0].apply("[[hooks]]\nname = 'orders'\nreduce = 'count'\norder_by = 'body:/account'\n");
    let key = homes[0].key("write");
    until(|| {
        let nodes = snapshot(&homes[0])["nodes"].take();
        let owns = |node: &Value| node["owns"] != "";
        (nodes.as_array()?.len() == 3 && nodes.as_array()?.iter().all(owns)).then_some(())
    });
    b.kill();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = Client::new(homes[0].addr, &key);
        for account in 0..64 {
            let body = format!("{{\"account\":\"a{account}\"}}");
            let answer = client.post("orders", body.into(), None).await;
            assert_eq!(answer.unwrap().status, 202);
        }
    });
    let sent = Timestamp::now();
    let mut were_silent = [false; 2];
    let taken = within(LONG, || {
        let seen = [&homes[0], &homes[2]].map(snapshot);
        for (seen, was_silent) in seen.iter().zip(&mut were_silent) {
            *was_silent |= claims_no_more_than_it_knows(seen, sent);
        }
        let is_over = |seen: &Value| seen["verdicts"][0]["class"] == "OK";
        (were_silent == [true; 2] && seen.iter().all(is_over)).then_some(())
    });
    assert!(taken.is_some(), "{were_silent:?}");
}

/// Checks a snapshot against the age of the last heartbeat of node b that is in it: a node knows no more than
/// that, and the age does not depend on the speed of this machine. True if it reports the node as silent.
fn claims_no_more_than_it_knows(seen: &Value, sent: Timestamp) -> bool {
    let nodes = seen["nodes"].as_array().unwrap();
    let Some(dead) = nodes.iter().find(|node| node["node"] == "b") else {
        return false;
    };
    let at: Timestamp = serde_json::from_value(seen["at"].clone()).unwrap();
    let (age, worst) = (dead["beat_ms"].as_u64().unwrap(), &seen["verdicts"][0]);
    let text = worst["text"].as_str().unwrap();
    if age >= 1_000 && at > sent {
        assert_ne!(seen["total"]["backlog"], 0, "{age} {worst}");
        assert!(!text.contains("nothing waits"), "{age} {worst}");
    }
    if age < 2_000 {
        return false;
    }
    assert_eq!(worst["rule"], 1, "{age} {worst}");
    assert!(text.contains("node b silent for "), "{age} {worst}");
    let heirs = "odes a and c take them over ";
    assert!(worst["more"].as_str().unwrap().contains(heirs), "{worst}");
    true
}

#[test]
fn a_dead_database_is_named_within_seconds_and_old_figures_are_said_to_be_old() {
    let postgres = Box::leak(Box::new(postgres::Server::start()));
    let home = Home::of(&Servers::on(postgres), "a");
    let _daemon = home.start();
    home.apply("[[hooks]]\nname = 'orders'\nreduce = 'count'\n");
    let key = home.key("write");
    home.run(&["status", "--wait", "30s"]);
    let killed = Timestamp::now();
    postgres.kill();
    let refused = senders_of_the_moment(home.addr, &key);
    let noted = is_noted_in_time(&home, "the database does not answer", killed);
    for refused in refused {
        // A second for the product, and one for this machine. A batch may be resolved for six.
        let took = refused.join().unwrap().since(noted);
        assert!(took < 2 * AT_ONCE, "{took:?}");
    }
    let marks = snapshot(&home)["namespaces"].take();
    assert_eq!(marks[0]["severity"], "trouble", "{marks}");
    nobody_waits_for_the_database(&home, &key);
    the_doctor_checks_nothing_in_a_database_that_is_away(&home);
    let said = told(
        &home,
        &[
            "US storage: the database does not answer, since ",
            "Senders get 503 and try again; no acknowledged event is lost. More lanes: no.",
            "Next: hooklane doctor",
            "OLD DATA",
        ],
    );
    assert!(is_dated(&said) && !said.contains("pool"), "{said}");
    postgres.start_again();
    home.run(&["status", "--wait", "60s"]);
}

/// Time within which a command or a sender is refused while the database is known to be away.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The shortest of three times. A busy machine lengthens each of them, and only some by much; a daemon that
/// waits for its database lengthens all.
fn quickest(mut once: impl FnMut()) -> Duration {
    let times = std::iter::repeat_with(|| {
        let began = Instant::now();
        once();
        began.elapsed()
    });
    times.take(3).min().unwrap()
}

/// Commands and senders are refused at once, in words that name the database.
fn nobody_waits_for_the_database(home: &Home, key: &str) {
    for args in [
        &["why", "orders"][..],
        &["hooks", "list"],
        &["streams", "list"],
        &["events", "list"],
        &["keys", "list"],
    ] {
        let took = quickest(|| {
            let done = home.command(args).output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(!done.status.success(), "{args:?}");
            for words in ["the database does not answer", "hooklane doctor"] {
                assert!(said.contains(words), "{args:?}: {said}");
            }
        });
        assert!(took < AT_ONCE, "{args:?}: {took:?}");
    }
    let took = quickest(|| {
        let post = Ask::post("orders").key(key).body("{}").bytes();
        let refused = super::world::send(home.addr, &post);
        assert_eq!(refused.status, 503, "{refused:?}");
    });
    assert!(took < AT_ONCE, "{took:?}");
}

/// Posts events while the outage is not known yet; each returns the time at which it was refused.
fn senders_of_the_moment(addr: SocketAddr, key: &str) -> Vec<JoinHandle<Timestamp>> {
    let sender = |_| {
        let post = Ask::post("orders").key(key).body("{}").bytes();
        std::thread::spawn(move || {
            let refused = super::world::send(addr, &post);
            assert_eq!(refused.status, 503, "{refused:?}");
            Timestamp::now()
        })
    };
    (0..4).map(sender).collect()
}

/// The doctor names the database once, and skips all checks that would read from it.
fn the_doctor_checks_nothing_in_a_database_that_is_away(home: &Home) {
    let done = home.command(&["doctor", "-o", "json"]).output().unwrap();
    assert_eq!(done.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    let items = report["items"].as_array().unwrap();
    let named = |name: &str| items.iter().filter(|item| item["name"] == name).count();
    let database = items.iter().find(|item| item["name"] == "database");
    assert_eq!(database.unwrap()["grade"], "fail", "{report}");
    assert_eq!(named("database"), 1, "{report}");
    for name in ["retention", "secrets", "damage", "keys"] {
        assert_eq!(named(name), 0, "{name}: {report}");
    }
    for name in ["hints", "data", "disk", "limits"] {
        assert_eq!(named(name), 1, "{name}: {report}");
    }
}

#[test]
fn a_dead_redis_is_named_with_what_it_holds_up() {
    let servers = Servers::on(postgres::shared());
    let home = Home::of(&servers, "a");
    let _daemon = home.start();
    home.run(&["status", "--wait", "30s"]);
    let frozen = Timestamp::now();
    servers.redis.freeze();
    is_noted_in_time(&home, "does not answer within a second", frozen);
    servers.redis.thaw();
    home.run(&["status", "--wait", "60s"]);
    let killed = Timestamp::now();
    servers.redis.kill();
    is_noted_in_time(&home, "cannot be reached", killed);
    let said = told(
        &home,
        &[
            "US Redis at ",
            "cannot be reached",
            "since ",
            "Holds up nothing: events are accepted, and processed up to 1s later. More lanes: no.",
            "Next: hooklane doctor",
        ],
    );
    assert!(is_dated(&said), "{said}");
    servers.redis.start_empty();
    home.run(&["status", "--wait", "60s"]);
    let log = snapshot(&home)["log"].to_string();
    assert!(
        log.contains("cannot be reached") && log.contains("over: "),
        "{log}"
    );
}

#[test]
fn a_full_disk_is_named() {
    let home = Home::new(Setup::Embedded);
    let disk = super::file::SmallDisk::over(home.data(), "24m");
    let mut world = World::at(home, &[], "[[hooks]]\nname = 'bills'\nreduce = 'count'\n");
    world.may_complain = true;
    world.accepted("bills", "{}");
    let filler = disk.fill();
    let body = serde_json::json!({"pad": "x".repeat(200_000)}).to_string();
    until(|| (world.post("bills", &body).status == 503).then_some(()));
    let refused = Timestamp::now();
    is_noted_in_time(&world.home, "the disk of the database is full", refused);
    let (addr, key) = (world.home.addr, world.write.clone());
    let is_over = AtomicU32::new(0);
    std::thread::scope(|scope| {
        // Senders try again, as they do.
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async {
                let mut client = Client::new(addr, &key);
                while is_over.load(Ordering::Relaxed) == 0 {
                    let _ = client.post("bills", body.clone().into(), None).await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        });
        let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            told(
                &world.home,
                &[
                    "US storage: the disk of the database is full, since ",
                    "Senders get 503 and try again; no acknowledged event is lost. More lanes: no.",
                    "Next: hooklane doctor",
                ],
            )
        }));
        // Small transactions may still succeed; they do not make it ready.
        let later = Instant::now() + Duration::from_secs(3);
        let mut ready = Vec::new();
        while Instant::now() < later {
            ready.push(world.ask(&Ask::new("GET", "/readyz")).status);
        }
        is_over.store(1, Ordering::Relaxed);
        assert!(is_dated(&said.unwrap()));
        assert!(ready.iter().all(|status| *status == 503), "{ready:?}");
    });
    std::fs::remove_file(filler).unwrap();
    until(|| (world.ask(&Ask::new("GET", "/readyz")).status == 200).then_some(()));
    world.kill();
    drop(disk);
}

/// Names of all kinds: the sentence keeps both ends of a long one, the command has it whole.
#[test]
fn held_streams_are_named_whatever_they_are_called_also_beside_a_paused_lane() {
    const PICKY_JS: &str = "export default function reduce(state, event) {\n\
        if (event.body.bad) throw new Error('no good');\n  return (state ?? 0) + 1;\n}\n";
    let hook = |name: &str| {
        format!("[[hooks]]\nname = '{name}'\nreduce = 'picky.js'\norder_by = 'body:/account'\n")
    };
    let hooks = ["short", "long", "hashed"].map(hook).concat();
    let world = World::at(
        Home::new(Setup::Embedded),
        &[("picky.js", PICKY_JS)],
        &hooks,
    );
    let paused = ["lanes", "pause", "--all", "--yes", "--reason", "deploy"];
    let long = format!("it's {} the end", "x".repeat(100));
    let digest = "sha256:";
    for (events, hook, account, begin, end) in [
        (2, "short", "a".to_owned(), "short/a", "-> reduce"),
        (
            4,
            "long",
            long.clone(),
            "long/it's xxx",
            "the end -> reduce",
        ),
        (6, "hashed", "y".repeat(300), "hashed/sha256:", "-> reduce"),
    ] {
        for nth in 0..events {
            let body = serde_json::json!({"account": account, "bad": nth == 0}).to_string();
            world.accepted(hook, body);
        }
        let next = match hook {
            "hashed" => format!("Next: hooklane why hashed/{digest}"),
            "long" => format!("Next: hooklane why 'long/{}'", long.replace('\'', r"'\''")),
            _ => "Next: hooklane why short/a".to_owned(),
        };
        let said = told(
            &world.home,
            &[
                "CODE ",
                begin,
                end,
                " held since ",
                "at seq 1: Error in picky.js:2: no good",
                "More lanes: no, 1 stream.",
                &next,
            ],
        );
        assert!(is_dated(&said), "{said}");
    }
    world.home.run(&paused);
    told(
        &world.home,
        &["CODE hashed/", "(+", " more", "!)", "Next: hooklane why"],
    );
    // The lane must be resumed, too.
    let why = world.home.run(&["why", "short/a"]);
    for words in ["hooklane streams retry short/a", "hooklane lanes resume "] {
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn a_destination_that_fails_is_named_also_in_a_paused_lane() {
    let sink = Sink::start();
    sink.answers(|_| Answer::Full(503, "x: y", "upstream connect error".to_owned()));
    let mut home = Home::new(Setup::Embedded);
    home.environment
        .push(("HOOKLANE_ALLOW_DESTINATION", "127.0.0.0/8"));
    let hooks = format!(
        "[[hooks]]\nname = 'billing'\norder_by = '/customer'\nreduce = 'count'\n\
         [[hooks.forward]]\nname = 'crm'\nurl = '{}'\n",
        sink.url()
    );
    let world = World::at(home, &[], &hooks);
    world.accepted("billing", r#"{"customer":"acme"}"#);
    let said = told(
        &world.home,
        &[
            "THEM billing/acme -> crm waiting since ",
            "next try ",
            ": 503 in ",
            "upstream connect error",
            "Holds up only its own 1 event",
            "More lanes: no, 1 stream.",
            "Next: hooklane why billing/acme",
        ],
    );
    assert!(is_dated(&said), "{said}");
    let why = world.home.run(&["why", "billing/acme"]);
    for words in [
        "THEM",
        "503",
        "by itself if the next try succeeds",
        &sink.url(),
    ] {
        assert!(why.contains(words), "{words}: {why}");
    }
    let pause = ["lanes", "pause", "--all", "--yes", "--reason", "deploy"];
    world.home.run(&pause);
    told(
        &world.home,
        &["THEM billing/acme", "no try while lane ", "(+1 more)"],
    );
    let why = world.home.run(&["why", "billing/acme"]);
    let ends = "when the lane is resumed and the next try succeeds";
    assert!(
        why.contains(ends) && why.contains("hooklane lanes resume "),
        "{why}"
    );
}

#[test]
fn an_operation_under_way_is_shown_on_the_first_screen() {
    const SLOW_JS: &str = "export default function reduce(state, event) {\n\
        let n = state ?? 0;\n\
        for (let i = 0; i < 300000; i += 1) n = (n * 31 + i) % 1000003;\n  return n;\n}\n";
    let hooks = "[[hooks]]\nname = 'orders'\nreduce = 'slow.js'\n";
    let world = World::at(Home::new(Setup::Embedded), &[("slow.js", SLOW_JS)], hooks);
    for _ in 0..200 {
        world.accepted("orders", "{}");
    }
    world.state("orders", 200);
    let rebuild = ["state", "rebuild", "orders", "--yes", "--confirm", "orders"];
    world.home.run(&[&rebuild[..], &["--no-wait"]].concat());
    let top = format!("top --data {}", world.home.data().display());
    let screens =
        [(80, 24), (60, 20)].map(|size| Terminal::running("LANG=C.UTF-8 NO_COLOR=1", &top, size));
    for screen in screens {
        screen.sees(&["under way: rebuild state of orders: ", "of 200 events"]);
    }
    let lost = |screen: String| (!screen.contains("under way: ")).then_some(());
    let after = Terminal::running("LANG=C.UTF-8 NO_COLOR=1", &top, (80, 24));
    let over = within(LONG, || {
        lost(after.screen()).filter(|()| after.screen().contains("LIVE"))
    });
    assert!(over.is_some(), "{}", after.screen());
}

/// The lanes of a dead node are sealed by the others only when its lease is over.
#[test]
fn a_resize_under_way_is_shown_on_every_screen_with_what_it_waits_for() {
    let (homes, [_a, b]) = two_nodes();
    let key = homes[0].key("write");
    let top = format!("top --data {}", homes[0].data().display());
    let screens =
        [(80, 24), (60, 20)].map(|size| Terminal::running("LANG=C.UTF-8 NO_COLOR=1", &top, size));
    for screen in &screens {
        screen.sees(&["LIVE"]);
    }
    b.kill();
    let mut resize = homes[0].command(&["lanes", "resize", "4", "--yes", "--confirm", "4"]);
    let mut resize = resize
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let status = until(|| {
        let status = homes[0].command(&["status"]).output().unwrap();
        let said = String::from_utf8(status.stdout).unwrap();
        said.contains("under way  resize default 8 -> 4 lanes: ")
            .then_some(said)
    });
    assert!(status.contains(" of 8 lanes sealed, begun by "), "{status}");
    assert!(status.contains("; waits for lane "), "{status}");
    assert!(
        status.contains("watch: hooklane lanes resize 4"),
        "{status}"
    );
    for screen in &screens {
        screen.sees(&["under way: resize default 8 -> 4 lanes: "]);
    }
    for account in 0..16 {
        let body = format!("{{\"account\":\"a{account}\"}}");
        let post = Ask::post("orders").key(&key).body(body).bytes();
        assert_eq!(super::world::send(homes[0].addr, &post).status, 202);
    }
    // A stream of a lane that still waits for one of the dead node is not told that its hint is lost.
    for account in 0..16 {
        let done = homes[0]
            .command(&["why", &format!("orders/a{account}")])
            .output()
            .unwrap();
        let why = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
        assert!(!why.contains("hooklane lanes rebuild"), "{why}");
    }
    assert!(resize.wait().unwrap().success());
    homes[0].run(&["status", "--wait", "60s"]);
    let log = snapshot(&homes[0])["log"].to_string();
    assert!(log.contains("resize"), "{log}");
}

/// At a terminal of 80 columns every line breaks between words, and a command stays whole.
#[test]
fn why_and_the_doctor_break_their_lines_between_words() {
    const PICKY_JS: &str = "export default function reduce(state, event) {\n\
        throw new Error('no good, and more to say of it than fits into a line');\n}\n";
    let hooks = "[[hooks]]\nname = 'bills'\nreduce = 'picky.js'\norder_by = 'body:/account'\n";
    let world = World::at(Home::new(Setup::Embedded), &[("picky.js", PICKY_JS)], hooks);
    world.accepted("bills", r#"{"account":"acme"}"#);
    world.held("bills/acme");
    let data = world.home.data();
    for (command, end) in [("why bills/acme", "does not"), ("doctor", "terminal   ")] {
        let line = format!("{command} --data {}", data.display());
        let screen = Terminal::running("LANG=C.UTF-8 NO_COLOR=1", &line, (80, 60)).sees(&[end]);
        // A line that the terminal broke goes on in the first column. Only a command may be as long.
        let labels = [
            "bills/", "verdict", "our side", "ends", "helps", "does not", "ok ", "warn ", "FAIL ",
        ];
        let mut before = "";
        for line in screen.lines().filter(|line| !line.is_empty()) {
            let is_whole = line.starts_with(' ')
                || labels.iter().any(|label| line.starts_with(label))
                || before.contains("hooklane ")
                || line.contains("To paste: ")
                || line.starts_with("ended ")
                || line.starts_with('-');
            assert!(is_whole, "{line:?}\n{screen}");
            before = line;
        }
    }
}
