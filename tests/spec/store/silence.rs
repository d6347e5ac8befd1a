//! A database that is silent: its connections stay open, and nothing comes through them any more.

use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hooklane::domain::time::Timestamp;

use super::daemon::{Home, Servers};
use super::postgres;
use super::world::{World, until};

const HOOKS: &str = "[[hooks]]\nname = 'orders'\norder_by = 'body:/k'\nreduce = 'count'\n";

/// Stands before a server, and can fall silent: connections stay open, and whatever comes is swallowed.
struct Door {
    port: u16,
    /// Connections with a lower number are silent.
    silent_below: AtomicU64,
    /// True if new connections are silent too.
    is_silent: AtomicBool,
    opened: AtomicU64,
}

impl Door {
    fn before(server: &postgres::Server) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            silent_below: AtomicU64::new(0),
            is_silent: AtomicBool::new(false),
            opened: AtomicU64::new(0),
        });
        let socket = server.dir().join(".s.PGSQL.5432");
        let all = Arc::clone(&door);
        thread::spawn(move || {
            for outside in listener.incoming().flatten() {
                all.open(outside, &socket);
            }
        });
        door
    }

    fn open(self: &Arc<Self>, outside: TcpStream, socket: &PathBuf) {
        let number = self.opened.fetch_add(1, Ordering::SeqCst);
        if self.is_silent.load(Ordering::SeqCst) {
            // Swallowed for as long as the other side believes in it.
            thread::spawn(move || std::io::copy(&mut &outside, &mut std::io::sink()));
            return;
        }
        let inside = UnixStream::connect(socket).unwrap();
        let (asked, asks) = (outside.try_clone().unwrap(), inside.try_clone().unwrap());
        let (to, from) = (Arc::clone(self), Arc::clone(self));
        thread::spawn(move || to.pass(number, asked, asks));
        thread::spawn(move || from.pass(number, inside, outside));
    }

    fn pass(&self, number: u64, mut from: impl std::io::Read, mut to: impl std::io::Write) {
        let mut bytes = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let is_silent = number < self.silent_below.load(Ordering::SeqCst);
            if !is_silent && to.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
        if number < self.silent_below.load(Ordering::SeqCst) {
            // The other side is not told that it ended.
            std::mem::forget((from, to));
        }
    }

    /// Makes every connection that there is half-open.
    fn cut(&self) {
        let all = self.opened.load(Ordering::SeqCst);
        self.silent_below.store(all, Ordering::SeqCst);
    }

    fn fall_silent(&self) {
        self.is_silent.store(true, Ordering::SeqCst);
        self.cut();
    }

    fn speak(&self) {
        self.is_silent.store(false, Ordering::SeqCst);
    }
}

/// A node whose pools have connections that were used a moment ago.
fn busy_node() -> (World, Arc<Door>) {
    let server = postgres::shared();
    let door = Door::before(server);
    let address = format!("127.0.0.1&port={}", door.port);
    let servers = Servers::behind(server, address);
    let mut world = World::at(Home::of(&servers, "a"), &[], HOOKS);
    world.may_complain = true;
    thread::scope(|scope| {
        for n in 0..24 {
            let world = &world;
            scope.spawn(move || {
                for _ in 0..10 {
                    world.accepted("orders", format!(r#"{{"k":"{n}"}}"#));
                    assert_eq!(world.get("/v1/hooks/orders/streams").status, 200);
                }
            });
        }
    });
    (world, door)
}

#[test]
fn of_connections_that_are_half_open_only_the_first_costs_its_time() {
    let (world, door) = busy_node();
    door.cut();
    // The first may find out for all; what is behind it must not.
    world.post("orders", r#"{"k":"first"}"#);
    for n in 0..20 {
        let reply = world.post("orders", format!(r#"{{"k":"{n}"}}"#));
        assert_eq!(reply.status, 202, "{n}: {reply:?}\n{}", world.home.log());
        let reply = world.get("/v1/hooks/orders/streams");
        assert_eq!(reply.status, 200, "{n}: {reply:?}");
    }
    let log = world.home.log();
    assert!(
        !log.contains("nobody waits for it"),
        "it answered all the time: {log}"
    );
}

#[test]
fn while_the_database_is_silent_nobody_waits_for_it() {
    let (world, door) = busy_node();
    let began = Timestamp::now();
    door.fall_silent();
    let refused = world.post("orders", r#"{"k":"1"}"#);
    assert_eq!(refused.status, 503, "{refused:?}");
    until(|| {
        world
            .home
            .log()
            .contains("nobody waits for it")
            .then_some(())
    });
    is_in_the_snapshots_within_three_seconds(&world, began);
    let quickest = (0..5).map(|n| {
        let began = Instant::now();
        let reply = world.post("orders", format!(r#"{{"k":"{n}"}}"#));
        assert_eq!(reply.status, 503, "{reply:?}");
        began.elapsed()
    });
    let quickest = quickest.min().unwrap();
    assert!(quickest < Duration::from_secs(1), "{quickest:?}");

    door.speak();
    until(|| (world.post("orders", r#"{"k":"1"}"#).status == 202).then_some(()));
    assert!(world.home.log().contains("the database answers again"));
}

/// The time stamp in the daemon's own log counts, because this machine may be slow to ask for it.
fn is_in_the_snapshots_within_three_seconds(world: &World, began: Timestamp) {
    let status = world.home.command(&["status", "-o", "json"]).output();
    let seen: serde_json::Value = serde_json::from_slice(&status.unwrap().stdout).unwrap();
    let log = seen["log"].as_array().unwrap();
    let noted = log.iter().find(|line| line["scope"] == "storage").unwrap();
    let noted: Timestamp = serde_json::from_value(noted["at"].clone()).unwrap();
    let took = noted.since(began);
    assert!(took <= Duration::from_secs(3), "{took:?}: {log:?}");
}
