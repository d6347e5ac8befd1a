//! Behaviour of the HTTP server under too many bytes, connections, files or slow senders, and its
//! answers while the database or Redis cannot be written.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Output;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::Value;
use sqlx::Connection as _;

use super::SETUP;
use super::daemon::{Home, Setup};
use super::world::{Ask, PATIENCE, World, ended, send, until};

const HOOKS: &str = r#"
    [[hooks]]
    name = "plain"
    reduce = "count"
    [[hooks]]
    name = "other"
    reduce = "count"
"#;

const MIB: usize = 1024 * 1024;

fn connect(world: &World) -> TcpStream {
    let stream = TcpStream::connect(world.home.addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Asks on a connection that stays open; the head of the answer.
fn ask(stream: &mut TcpStream, request: &str) -> String {
    let mut answer = Vec::new();
    let mut byte = [0];
    if stream.write_all(request.as_bytes()).is_err() {
        return String::new();
    }
    while !answer.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        answer.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&answer).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    let _ = stream.read_exact(&mut vec![0; length]);
    head
}

/// The most memory that the daemon has had, in bytes.
fn memory_peak(world: &World) -> usize {
    let pid = world.daemon.as_ref().unwrap().pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse::<usize>().unwrap() * 1024
}

#[test]
fn bodies_that_are_being_read_have_one_bound() {
    let world = World::new(SETUP, &[], HOOKS);
    world.accepted("plain", "{}");
    let before = memory_peak(&world);
    let head = format!(
        "POST /in/plain HTTP/1.1\r\nhost: x\r\nx-hooklane-key: {}\r\ncontent-length: {MIB}\r\n\r\n",
        world.write
    );
    let almost = vec![b'x'; MIB - 1];
    let mut senders = Vec::new();
    for n in 0..600 {
        let mut sender = connect(&world);
        sender.write_all(head.as_bytes()).unwrap();
        // Those that are refused at once do not read it.
        let _ = sender.write_all(&almost);
        senders.push(sender);
        if n % 100 == 99 {
            world.accepted("other", "{}");
        }
    }
    let grown = memory_peak(&world) - before;
    assert!(grown < 128 * MIB, "{} MiB", grown / MIB);
    let mut refused = 0;
    for sender in &mut senders {
        let mut answer = Vec::new();
        let _ = sender.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        if answer.starts_with("HTTP/1.1 503") {
            assert!(answer.contains("hook_queue_full"), "{answer}");
            assert!(answer.to_lowercase().contains("retry-after: "), "{answer}");
            refused += 1;
        }
    }
    assert!(refused >= 500, "{refused}");
    drop(senders);
    // The memory of the slow requests is free again.
    until(|| (world.post("plain", vec![b'1'; MIB]).status == 202).then_some(()));
}

#[test]
fn a_body_of_25_mib_is_stored_and_folded() {
    let large = "[[hooks]]\nname = 'large'\nreduce = 'count'\nbody_max = '32MiB'";
    let world = World::new(SETUP, &[], large);
    let body = vec![b' '; 25 * MIB - 2];
    let json = [&b"{}"[..], &body].concat();
    for seq in 1..=3 {
        assert_eq!(world.accepted("large", &json)["seq"], seq);
    }
    assert_eq!(world.state("large", 3), 3);
    let longer = vec![b' '; 32 * MIB + 1];
    assert_eq!(world.post("large", longer).status, 413);
}

#[test]
fn silent_strangers_do_not_lock_a_sender_out_and_files_are_kept_back() {
    let mut home = Home::new(SETUP);
    home.files_max = Some(400);
    let world = World::at(home, &[], HOOKS);
    until(|| {
        world
            .home
            .log()
            .contains("144 connections: ulimit -n")
            .then_some(())
    });
    let post = format!(
        "POST /in/plain HTTP/1.1\r\nhost: x\r\nx-hooklane-key: {}\r\ncontent-length: 2\r\n\r\n{{}}",
        world.write
    );
    let mut sender = connect(&world);
    assert!(ask(&mut sender, &post).contains(" 202 "));
    let mut strangers = Vec::new();
    for n in 0..300 {
        let mut stranger = connect(&world);
        ask(&mut stranger, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
        strangers.push(stranger);
        if n % 50 == 49 {
            world.accepted("plain", "{}");
        }
    }
    assert!(
        ask(&mut sender, &post).contains(" 202 "),
        "a sender with a key stays"
    );
    assert_eq!(world.state("plain", 8), 8);
    world.home.run(&["status"]);
}

#[test]
fn running_out_of_files_is_no_end() {
    let mut world = World::new(SETUP, &[], HOOKS);
    world.may_complain = true;
    let post = format!(
        "POST /in/plain HTTP/1.1\r\nhost: x\r\nx-hooklane-key: {}\r\ncontent-length: 2\r\n\r\n{{}}",
        world.write
    );
    let mut sender = connect(&world);
    let mut reader = connect(&world);
    let healthy = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    for accepted in [&mut sender, &mut reader] {
        assert!(ask(accepted, healthy).contains(" 200 "));
    }
    let read = format!(
        "GET /v1/hooks/plain/events HTTP/1.1\r\nhost: x\r\nx-hooklane-key: {}\r\n\r\n",
        world.read
    );
    let pid = Pid::from_raw(world.daemon.as_ref().unwrap().pid().cast_signed());
    let before = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(8),
        maximum: before.maximum,
    };
    prlimit(pid, Resource::Nofile, none).unwrap();
    // The first turn opens the database to read.
    let mut accepted = 0;
    for _ in 0..20 {
        let answer = ask(&mut sender, &post);
        assert!(
            answer.contains(" 202 ") || answer.contains(" 503 "),
            "{answer}"
        );
        accepted += i64::from(answer.contains(" 202 "));
        assert!(!ask(&mut reader, &read).is_empty());
    }
    prlimit(pid, Resource::Nofile, before).unwrap();
    until(|| {
        let is_accepted = ask(&mut sender, &post).contains(" 202 ");
        accepted += i64::from(is_accepted);
        is_accepted.then_some(())
    });
    assert_eq!(world.state("plain", accepted), accepted);
}

#[test]
fn the_letter_of_http_is_kept_and_nothing_of_a_refused_request_is_stored() {
    let world = World::new(SETUP, &[], HOOKS);
    let key = &world.write;
    for (version, more, body, status, code) in [
        ("1.1", "", "", 400, "malformed"),
        ("1.1", "host: a\r\nhost: b\r\n", "", 400, "malformed"),
        ("1.1", "host: a b\r\n", "", 400, "malformed"),
        ("1.0", "", "{}", 411, "length_required"),
        (
            "1.1",
            "host: x\r\ntransfer-encoding: gzip\r\n",
            "{}",
            501,
            "transfer_encoding",
        ),
        (
            "1.1",
            "host: x\r\ncontent-length: 18446744073709551617\r\n",
            "{}",
            413,
            "too_large",
        ),
        ("1.1", "host: x\r\nno colon\r\n", "{}", 400, "malformed"),
        ("3.0", "host: x\r\n", "", 505, "version"),
    ] {
        let wire =
            format!("POST /in/plain HTTP/{version}\r\nx-hooklane-key: {key}\r\n{more}\r\n{body}");
        let reply = send(world.home.addr, wire.as_bytes());
        assert_eq!(reply.status, status, "{wire}: {reply:?}");
        assert_eq!(reply.code(), code);
    }
    assert_eq!(world.accepted("plain", "{}")["seq"], 1);
}

#[test]
fn metrics_are_for_this_machine_and_for_keys_whoever_else_names_another_host() {
    let world = World::new(SETUP, &[], HOOKS);
    let port = world.home.addr.port();
    let status = |head: &str| {
        let wire = format!("GET {head}\r\nconnection: close\r\n\r\n");
        send(world.home.addr, wire.as_bytes()).status
    };
    for host in ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "LocalHost"] {
        let head = format!("/metrics HTTP/1.1\r\nhost: {host}:{port}");
        assert_eq!(status(&head), 200, "{host}");
    }
    let key = &world.read;
    for head in [
        "/metrics HTTP/1.1\r\nhost: rebound.example",
        "/metrics HTTP/1.1\r\nhost: 127.0.0.1.rebound.example:8420",
        "/metrics HTTP/1.1\r\nhost:",
        "/metrics HTTP/1.0",
        "http://rebound.example/metrics HTTP/1.1\r\nhost: localhost",
        "/metrics HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: 203.0.113.9",
        "/metrics HTTP/1.1\r\nhost: localhost\r\nvia: 1.1 proxy",
    ] {
        assert_eq!(status(head), 401, "{head}");
        let with_key = format!("{head}\r\nx-hooklane-key: {key}");
        assert_eq!(status(&with_key), 200, "{head}");
    }
}

/// Keeps everybody from storing events, as a careless command of an operator may; until dropped.
struct WriteLock {
    _file: Option<rusqlite::Connection>,
    _server: Option<(tokio::runtime::Runtime, sqlx::PgConnection)>,
}

impl WriteLock {
    fn on(home: &Home) -> Self {
        let Some(servers) = &home.servers else {
            let file = rusqlite::Connection::open(home.data().join("hooklane.db")).unwrap();
            file.busy_timeout(PATIENCE).unwrap();
            file.execute_batch("begin immediate").unwrap();
            return Self {
                _file: Some(file),
                _server: None,
            };
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let server = runtime.block_on(async {
            let mut server = sqlx::PgConnection::connect(&servers.url()).await.unwrap();
            sqlx::raw_sql("begin; lock table streams in share row exclusive mode")
                .execute(&mut server)
                .await
                .unwrap();
            server
        });
        Self {
            _file: None,
            _server: Some((runtime, server)),
        }
    }

    fn release(self) {
        if let Some((runtime, server)) = self._server {
            runtime.block_on(server.close()).unwrap();
        }
    }
}

fn status(world: &World) -> (Option<i32>, String) {
    let Output { status, stdout, .. } = ended(&mut world.home.command(&["status"]));
    (status.code(), String::from_utf8(stdout).unwrap())
}

#[test]
fn readiness_and_status_say_what_is_now_and_note_what_was() {
    let mut world = World::new(SETUP, &[], HOOKS);
    world.may_complain = true;
    world.accepted("plain", "{}");
    let ready = || world.ask(&Ask::new("GET", "/readyz"));
    assert_eq!(ready().status, 200);
    assert_eq!(status(&world).0, Some(0));

    let lock = WriteLock::on(&world.home);
    // The failure is detected even without requests.
    let not_ready = until(|| Some(ready()).filter(|reply| reply.status != 200));
    assert_eq!(
        (not_ready.status, not_ready.code().as_str()),
        (503, "not_ready")
    );
    assert!(!not_ready.header("retry-after").is_empty());
    let refused = world.post("plain", "{}");
    assert_eq!((refused.status, refused.code().as_str()), (503, "busy"));
    let told = until(|| Some(status(&world)).filter(|(code, _)| *code == Some(3)));
    assert!(told.1.contains("accepting  no: "), "{}", told.1);
    assert_eq!(ready().status, 503);

    lock.release();
    until(|| (world.post("plain", "{}").status == 202).then_some(()));
    assert_eq!(ready().status, 200);
    // The next look is within a second or two; the note stays.
    let (_, told) = until(|| Some(status(&world)).filter(|(code, _)| *code == Some(0)));
    assert!(told.contains("accepting  yes"), "{told}");
    let note = told
        .lines()
        .find(|line| line.trim_start().starts_with("not from "));
    assert!(note.is_some_and(|note| note.contains("Z to ")), "{told}");
}

#[test]
fn what_failed_is_over_when_it_is_also_when_nobody_sends() {
    let mut world = World::new(SETUP, &[], HOOKS);
    world.may_complain = true;
    let lock = WriteLock::on(&world.home);
    assert_eq!(world.post("plain", "{}").status, 503);
    lock.release();
    until(|| Some(status(&world)).filter(|(code, _)| *code == Some(0)));
}

#[test]
fn each_trouble_of_redis_has_its_own_words_everywhere() {
    if SETUP == Setup::Embedded {
        return;
    }
    let mut world = World::new(SETUP, &[], HOOKS);
    world.may_complain = true;
    let redis = world.home.servers.as_ref().unwrap().redis.clone();
    let doctor = || {
        let output = ended(&mut world.home.command(&["doctor", "-o", "json"]));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let items = report["items"].as_array().unwrap().clone();
        let hints = items.into_iter().find(|item| item["name"] == "hints");
        hints.unwrap().to_string()
    };
    let says = |words: &str| {
        until(|| status(&world).1.contains(words).then_some(()));
        assert!(doctor().contains(words), "{}", doctor());
        until(|| world.home.log().contains(words).then_some(()));
        world.accepted("plain", "{}");
    };
    let seq = |n| assert_eq!(world.state("plain", n), n);
    assert!(status(&world).1.contains("hints      Redis "));

    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    says("is out of memory and takes no hints");
    seq(1);
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    until(|| status(&world).1.contains("hints      Redis ").then_some(()));

    redis.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    says("follows another server and takes no writes");
    redis.ask(&["REPLICAOF", "NO", "ONE"]);
    until(|| status(&world).1.contains("hints      Redis ").then_some(()));
    seq(2);

    redis.kill();
    says("cannot be reached");
    redis.start_empty();
    until(|| status(&world).1.contains("hints      Redis ").then_some(()));
    seq(3);
}

#[test]
fn a_hangup_is_a_graceful_stop() {
    let mut world = World::new(SETUP, &[], HOOKS);
    world.accepted("plain", "{}");
    let mut daemon = world.daemon.take().unwrap();
    let status = daemon.stops_by(Signal::HUP, Duration::from_secs(20));
    assert_eq!(
        status.and_then(|status| status.code()),
        Some(0),
        "{}",
        world.home.log()
    );
    world.restart();
    assert_eq!(world.state("plain", 1), 1);
}
