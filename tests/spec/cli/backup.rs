//! Backups: one that is taken under load restores to a state that keeps every promise; whatever else is
//! given to `restore` is refused, and nothing is changed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hooklane::store::{self, Store};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::checker::{self, Attempt, Outcome, Receipt, TRAIL_JS, trail};
use super::daemon::{Client, Home, Servers, Setup};
use super::file::SmallDisk;
use super::readme::block;
use super::world::{World, ended, until, within};

const HOOKS: &str = "[[hooks]]\nname = 'billing'\nreduce = 'trail.js'\norder_by = 'body:/account'\n\
    [[hooks]]\nname = 'plain'\nreduce = 'trail.js'\n";

const SENDERS: i64 = 6;

/// Time limit for cursors to reach their heads.
const HEAL_MAX: Duration = Duration::from_secs(60);

fn world() -> World {
    World::new(Setup::Embedded, &[("trail.js", TRAIL_JS)], HOOKS)
}

fn body(number: i64, pad: usize) -> String {
    let account = format!("a{}", number % 5);
    json!({"account": account, "number": number, "amount": number % 90, "pad": "x".repeat(pad)})
        .to_string()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A command on a data directory that must end with a code and one error.
#[track_caller]
fn fails(home: &Home, args: &[&str], code: i32, words: &str) {
    let output = ended(home.command(args).stdin(Stdio::null()));
    is_refused(&output, code, words);
}

#[track_caller]
fn is_refused(output: &Output, code: i32, words: &str) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.starts_with("error: "), "{said}");
    assert_eq!(said.matches("error:").count(), 1, "{said}");
    assert!(said.contains(words), "{words}: {said}");
}

/// Every file below a directory with its bytes, also where there is no directory.
fn all(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(all(&path)),
            false => found.push((path.clone(), fs::read(&path).unwrap_or_default())),
        }
    }
    found.sort();
    found
}

fn names(dir: &Path) -> Vec<String> {
    let names = all(dir).into_iter();
    names.map(|(path, _)| path.display().to_string()).collect()
}

fn path(home: &Home, name: &str) -> String {
    let beside = home.data().with_file_name(name);
    beside.to_str().unwrap().to_owned()
}

fn epoch(home: &Home) -> i64 {
    let db = Connection::open(home.data().join("hooklane.db")).unwrap();
    let text = "select value from counters where name = 'epoch'";
    db.query_row(text, [], |row| row.get(0)).unwrap()
}

/// A daemon on a restored directory, with the keys of the original.
fn started(home: Home, of: &World) -> World {
    World {
        daemon: Some(home.start()),
        home,
        write: of.write.clone(),
        read: of.read.clone(),
        admin: of.admin.clone(),
        may_complain: false,
    }
}

/// Senders that post without a pause, and remember every request.
struct Load {
    began: Instant,
    stop: AtomicBool,
    numbers: AtomicI64,
    log: Mutex<Vec<Attempt>>,
}

impl Load {
    async fn send(self: Arc<Self>, mut client: Client) {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            let body = Bytes::from(body(number, 300));
            let sent_at = self.began.elapsed();
            let answer = client.post("billing", body.clone(), None).await.unwrap();
            assert_eq!(answer.status, 202, "{answer:?}");
            let json = answer.json();
            self.log.lock().push(Attempt {
                stream: format!("billing/a{}", number % 5),
                body,
                dedupe_key: None,
                sent_at,
                outcome: Outcome::Accepted(Receipt {
                    at: self.began.elapsed(),
                    event: json["event"].as_str().unwrap().to_owned(),
                    seq: json["seq"].as_i64().unwrap(),
                    duplicate: false,
                }),
            });
        }
    }

    /// The requests as a backup that was made in this time must know them: those that were answered
    /// before are in it, those that were sent after it are not, and the others may be.
    fn known(&self, from: Duration, until: Duration) -> Vec<Attempt> {
        let log = self.log.lock();
        let sent = log.iter().filter(|attempt| attempt.sent_at < until);
        let mut known: Vec<_> = sent.cloned().collect();
        for attempt in &mut known {
            if matches!(&attempt.outcome, Outcome::Accepted(receipt) if receipt.at > from) {
                attempt.outcome = Outcome::Unknown;
            }
        }
        known
    }

    /// The longest time that an answer took in a time.
    fn longest(&self, from: Duration, until: Duration) -> Duration {
        let log = self.log.lock();
        let times = log.iter().filter_map(|attempt| match &attempt.outcome {
            Outcome::Accepted(receipt) if receipt.at > from && attempt.sent_at < until => {
                Some(receipt.at - attempt.sent_at)
            }
            _ => None,
        });
        times.max().unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_restores_to_a_state_that_keeps_every_promise() {
    let mut world = world();
    for number in 0..200 {
        world.accepted("plain", body(number, 60_000));
    }
    let load = Arc::new(Load {
        began: Instant::now(),
        stop: AtomicBool::new(false),
        numbers: AtomicI64::new(1_000),
        log: Mutex::default(),
    });
    let client = |_| Client::new(world.home.addr, &world.write);
    let senders = (0..SENDERS).map(client);
    let senders: Vec<_> = senders
        .map(|client| tokio::spawn(Arc::clone(&load).send(client)))
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let file = path(&world.home, "backup");
    let from = load.began.elapsed();
    let mut command = world.home.command(&["backup", &file]);
    let made = tokio::task::spawn_blocking(move || command.output().unwrap());
    let made = made.await.unwrap();
    let until = load.began.elapsed();
    assert_eq!(made.status.code(), Some(0), "{}", said(&made));
    tokio::time::sleep(Duration::from_millis(300)).await;
    load.stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await.unwrap();
    }
    let known = load.known(from, until);
    let longest = load.longest(from, until);
    let all = load.log.lock().len();
    println!(
        "{all} events, {} of them before the end of the backup, which took {:?}; the longest 202 in it took {longest:?}",
        known.len(),
        until - from
    );
    assert!(known.len() < all, "events came after it, too");
    world.kill();

    let home = Home::new(Setup::Embedded);
    let restored = ended(&mut home.command(&["restore", &file]));
    assert_eq!(restored.status.code(), Some(0), "{}", said(&restored));
    assert!(
        epoch(&home) >= epoch(&world.home) + (1 << 19),
        "epochs grow"
    );
    let copy = started(home, &world);
    let mut client = Client::new(copy.home.addr, &copy.read);
    checker::settle(&mut client, &["billing"], HEAL_MAX).await;
    let stored = checker::read(&mut client, &["billing"]).await;
    let broken = checker::check(&known, &stored, trail);
    assert!(broken.is_empty(), "{}", checker::report(&broken));
    let events: usize = stored.iter().map(|stream| stream.events.len()).sum();
    assert!(events > 0);
    copy.accepted("billing", body(1, 0));
    let status = copy.home.command(&["status"]).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("restored   from a backup of "), "{status}");
    let doctor = copy.home.command(&["doctor"]).output().unwrap();
    let doctor = String::from_utf8(doctor.stdout).unwrap();
    assert!(doctor.contains("restored from a backup of "), "{doctor}");
}

/// A world with some events, and its backup in a file.
fn backed_up() -> (World, String) {
    let world = world();
    for number in 0..40 {
        world.accepted("billing", body(number, 2_000));
    }
    let file = path(&world.home, "backup");
    world.home.run(&["backup", &file]);
    (world, file)
}

#[test]
fn a_backup_is_one_private_file_whose_summary_and_checksum_anyone_can_read() {
    let (mut world, file) = backed_up();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let bytes = fs::read(&file).unwrap();
    let end = String::from_utf8_lossy(&bytes[bytes.len() - 1_000..]).into_owned();
    let lines: Vec<_> = end.lines().rev().take(2).collect();
    let summary = &lines[1][lines[1].find("{\"hooklane\"").unwrap()..];
    let summary: Value = serde_json::from_str(summary).unwrap();
    assert_eq!(
        (&summary["events"], &summary["streams"], &summary["hooks"]),
        (&json!(40), &json!(5), &json!(2))
    );
    assert!(lines[0].starts_with("hooklane backup 1 "), "{}", lines[0]);
    let sum = Command::new("sh")
        .args(["-c", "head --bytes=-$1 \"$0\" | sha256sum", &file])
        .arg((lines[0].len() + 1).to_string())
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert!(lines[0].ends_with(sum.split(' ').next().unwrap()), "{sum}");

    let uri = format!("file:{file}?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let db = Connection::open_with_flags(uri, flags).unwrap();
    let count: i64 = db
        .query_row("select count(*) from events", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 40, "it opens as a database, too");

    world.accepted("billing", body(99, 0));
    fails(&world.home, &["backup", &file], 7, "exists");
    assert_eq!(fs::read(&file).unwrap(), bytes);
    let shown = world.home.run(&["backup", &file, "--force", "-o", "json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["events"], 41);

    // Without a daemon, and after a crash.
    world.kill();
    let piped = world.home.command(&["backup", "-"]).output().unwrap();
    assert_eq!(piped.status.code(), Some(0), "{}", said(&piped));
    let home = Home::new(Setup::Embedded);
    let mut restore = home.command(&["restore", "-"]);
    restore.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut restore = restore.spawn().unwrap();
    restore
        .stdin
        .take()
        .unwrap()
        .write_all(&piped.stdout)
        .unwrap();
    let restored = restore.wait_with_output().unwrap();
    assert_eq!(restored.status.code(), Some(0), "{}", said(&restored));
    assert!(
        said(&restored).contains("41 events of 5 streams"),
        "{}",
        said(&restored)
    );
    let modes = fs::metadata(home.data().join("hooklane.db"))
        .unwrap()
        .mode();
    assert_eq!(modes & 0o777, 0o600);
    let copy = started(home, &world);
    assert_eq!(copy.state("billing/a4", 9)["count"], 9);
    let parts = names(&world.home.data());
    assert!(
        parts.iter().all(|name| !name.contains(".part")),
        "{parts:?}"
    );
}

#[test]
fn what_is_no_whole_backup_is_refused_and_nothing_changes() {
    let (world, file) = backed_up();
    let bytes = fs::read(&file).unwrap();
    let home = Home::new(Setup::Embedded);
    let bad = path(&home, "bad");
    let refused = |bytes: &[u8], words: &str| {
        fs::write(&bad, bytes).unwrap();
        fails(&home, &["restore", &bad], 1, words);
        assert!(!home.data().exists(), "{:?}", names(&home.data()));
    };
    let length = bytes.len();
    for at in [
        20,
        30_000,
        length / 2,
        length - 400,
        length - 120,
        length - 70,
        length - 20,
    ] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        refused(&flipped, "error: ");
    }
    let mut flipped = bytes.clone();
    flipped[length / 2] ^= 1;
    refused(&flipped, "its checksum does not match");
    for cut in [length - 1, length - 200, length / 2, 10] {
        refused(&bytes[..cut], "is cut off");
    }
    for foreign in [&b""[..], b"hello", &[0; 5_000]] {
        refused(foreign, "is no backup of hooklane");
    }
    let trailer = length - 94;
    assert!(bytes[trailer..].starts_with(b"hooklane backup 1 "));
    let mut newer = bytes.clone();
    newer[trailer + 16] = b'2';
    refused(&newer, "newer hooklane");
    fails(
        &home,
        &["restore", &format!("{bad}-not-there")],
        5,
        "there is no file",
    );
    fails(&home, &["restore", "-"], 1, "stdin is no backup");
    fails(
        &home,
        &["restore", &file, "--url", "http://127.0.0.1:1"],
        2,
        "not through a URL",
    );
    assert!(!home.data().exists());

    // Directories that are not empty.
    let before = world.home.command(&["restore", &file]).output().unwrap();
    is_refused(&before, 7, "has a database already");
    fs::create_dir(home.data()).unwrap();
    fs::write(home.data().join("notes"), "mine").unwrap();
    fails(&home, &["restore", &file], 7, "it has notes");
    assert_eq!(names(&home.data()).len(), 1);
    fs::remove_file(home.data().join("notes")).unwrap();
    fails(&home, &["restore", &bad], 1, "newer");
    assert_eq!(names(&home.data()), Vec::<String>::new());

    // A directory that lost its database: its log says what is missing.
    fs::write(home.data().join("hooklane.key"), "").unwrap();
    fs::remove_file(home.data().join("hooklane.key")).unwrap();
    fs::create_dir(home.data().join("log")).unwrap();
    fs::write(home.data().join("log/hooklane.log"), "{}\n").unwrap();
    let restored = ended(&mut home.command(&["restore", &file]));
    assert_eq!(restored.status.code(), Some(0), "{}", said(&restored));
    assert!(
        said(&restored).contains("a node ran here until "),
        "{}",
        said(&restored)
    );
}

#[test]
fn a_damaged_event_is_found_although_the_checksum_of_the_backup_matches() {
    let (mut world, _) = backed_up();
    world.kill();
    let db = Connection::open(world.home.data().join("hooklane.db")).unwrap();
    db.execute("update log set body = x'00' where n = 7", [])
        .unwrap();
    drop(db);
    let file = path(&world.home, "damaged");
    world.home.run(&["backup", &file]);
    let home = Home::new(Setup::Embedded);
    fails(&home, &["restore", &file], 1, "is not as it was stored");
    let db = Connection::open(world.home.data().join("hooklane.db")).unwrap();
    db.execute_batch("pragma foreign_keys = off; delete from log_index where n = 9; delete from log where n in (7, 9)")
        .unwrap();
    drop(db);
    world.home.run(&["backup", &file, "--force"]);
    fails(&home, &["restore", &file], 1, "lack events");
    assert!(!home.data().exists());
}

#[test]
fn a_full_disk_and_a_directory_that_cannot_be_written_end_it_with_one_line() {
    let world = world();
    for number in 0..60 {
        world.accepted("plain", body(number, 100_000));
    }
    let small = PathBuf::from(path(&world.home, "small"));
    let disk = SmallDisk::over(small.clone(), "3m");
    let there = small.join("backup");
    let there = there.to_str().unwrap();
    fails(&world.home, &["backup", there], 1, "is full");
    assert_eq!(names(&small), Vec::<String>::new());

    let file = path(&world.home, "backup");
    world.home.run(&["backup", &file]);
    let data = small.to_str().unwrap();
    let mut restore = Command::new(env!("CARGO_BIN_EXE_hooklane"));
    let full = ended(restore.args(["restore", &file, "--data", data]));
    is_refused(&full, 1, "No space left on device");
    assert_eq!(names(&small), Vec::<String>::new());
    drop(disk);

    fails(
        &world.home,
        &["backup", "/proc/backup"],
        1,
        "cannot write /proc",
    );
    fails(
        &world.home,
        &["backup", "/not/there/backup"],
        1,
        "cannot write /not/there",
    );
    fails(&world.home, &["backup", data], 2, "is a directory");
    let empty = Home::new(Setup::Embedded);
    fails(
        &empty,
        &["backup", &file, "--force"],
        5,
        "there is no database",
    );
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let (world, file) = backed_up();
    let before = names(&world.home.data());
    let interrupt = |child: &std::process::Child| {
        kill_process(Pid::from_child(child), Signal::INT).unwrap();
    };
    // Nobody reads the pipe, so the backup waits in the middle.
    let mut backup = world.home.command(&["backup", "-"]);
    let mut backup = backup
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    backup
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    interrupt(&backup);
    let status = within(HEAL_MAX, || backup.try_wait().unwrap()).unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(names(&world.home.data()), before);

    let home = Home::new(Setup::Embedded);
    let mut restore = home.command(&["restore", "-"]);
    let mut restore = restore
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let half = &fs::read(&file).unwrap()[..50_000];
    restore.stdin.as_mut().unwrap().write_all(half).unwrap();
    until(|| (names(&home.data()).len() > 1).then_some(()));
    interrupt(&restore);
    let status = within(HEAL_MAX, || restore.try_wait().unwrap()).unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(!home.data().exists(), "{:?}", names(&home.data()));
}

#[tokio::test]
async fn a_copy_that_gives_way_to_a_daemon_ends_its_snapshot() {
    let (world, _) = backed_up();
    let from = world.home.data().join("hooklane.db");
    let mut part = tempfile::NamedTempFile::new().unwrap();
    let path = part.path().to_path_buf();
    let target = (part.as_file_mut(), path.as_path());
    let given_up = store::back_up(&from, target, || true, |_, _| ()).await;
    assert_eq!(given_up.unwrap(), None);
    part.as_file_mut().set_len(0).unwrap();
    let target = (part.as_file_mut(), path.as_path());
    let whole = store::back_up(&from, target, || false, |_, _| ()).await;
    assert_eq!(whole.unwrap().unwrap().events, 40);
}

#[test]
fn the_secret_key_is_asked_for_where_secrets_need_it() {
    let mut world = world();
    let secret = world
        .home
        .write("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
    let secret = secret.to_str().unwrap();
    let create = [
        "hooks",
        "create",
        "signed",
        "--verify",
        "standard",
        "--secret-file",
        secret,
    ];
    world.home.run(&create);
    let file = path(&world.home, "backup");
    let made = world.home.command(&["backup", &file]).output().unwrap();
    assert!(
        said(&made).contains("hooklane.key, the key of secrets"),
        "{}",
        said(&made)
    );
    world.kill();
    let home = Home::new(Setup::Embedded);
    let restored = home.command(&["restore", &file]).output().unwrap();
    assert!(
        said(&restored).contains("signed need hooklane.key"),
        "{}",
        said(&restored)
    );
    let home = Home::new(Setup::Embedded);
    fs::create_dir(home.data()).unwrap();
    let key = "hooklane.key";
    fs::copy(world.home.data().join(key), home.data().join(key)).unwrap();
    let restored = home.command(&["restore", &file]).output().unwrap();
    assert!(
        said(&restored).contains("none that needs another"),
        "{}",
        said(&restored)
    );
}

/// The commands of README.md, typed by a shell.
#[test]
fn a_dump_of_postgres_is_restored_as_the_readme_says() {
    let mut world = World::new(Setup::Production, &[("trail.js", TRAIL_JS)], HOOKS);
    for number in 0..30 {
        world.accepted("billing", body(number, 10));
    }
    world.state("billing/a0", 6);
    let servers = world.home.servers.clone().unwrap();
    let file = path(&world.home, "backup");
    let refused = ended(
        &mut world
            .home
            .command(&["backup", &file, "--database", &servers.url()]),
    );
    is_refused(&refused, 2, "pg_dump --format=custom");
    let dir = world.home.data().parent().unwrap().to_owned();
    let shell = |script: &str, from: &str, to: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-ec", script]).current_dir(&dir);
        let output = shell.env("FROM", from).env("TO", to).output().unwrap();
        assert!(output.status.success(), "{script}: {}", said(&output));
    };
    let printed = said(&refused);
    let printed = &printed[printed.find("pg_dump").unwrap()..];
    shell(printed.lines().next().unwrap(), "", "");
    // After the dump a node draws epochs, which Redis remembers.
    world.kill();
    world.restart();
    world.accepted("billing", body(30, 10));
    world.state("billing/a0", 7);
    let drawn = servers.ask("select value from counters where name = 'epoch'");
    world
        .daemon
        .take()
        .unwrap()
        .terminate(Duration::from_secs(10));

    let commands = block("### Backups", "pg_restore");
    let database = servers.postgres.database();
    let copy = Servers {
        postgres: servers.postgres,
        database,
        redis: Arc::clone(&servers.redis),
        door: None,
    };
    shell(&commands, &servers.url(), &copy.url());
    let raised = copy.ask("select value from counters where name = 'epoch'");
    let number = |rows: &std::collections::BTreeSet<String>| -> i64 {
        rows.first().unwrap().parse().unwrap()
    };
    assert!(number(&raised) > number(&drawn), "{raised:?} {drawn:?}");
    let copy = started(Home::of(&Arc::new(copy), "b"), &world);
    assert_eq!(copy.state("billing/a0", 6)["count"], 6);
    assert_eq!(copy.accepted("billing", body(35, 10))["seq"], 7);
    assert_eq!(copy.state("billing/a0", 7)["count"], 7);
}

#[tokio::test]
async fn a_database_that_was_never_restored_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("x.db"), Box::new(|_| {}))
        .await
        .unwrap();
    assert_eq!(store.restored().await.unwrap(), None);
    store.close().await;
}
