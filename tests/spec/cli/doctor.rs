//! The doctor: what it finds, what it says to do about it, and that it changes nothing.

use std::fs::{Permissions, set_permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::daemon::{Home, Servers, Setup};
use super::pooler::Pooler;
use super::postgres;
use super::preload;
use super::redis_server::RedisServer;
use super::world::World;

const HOOKS: &str = "[[hooks]]\nname = 'bills'\nreduce = 'picky.js'\n";
const PICKY_JS: &str = "export default (state, event) => { throw new Error('no good') };\n";

/// Findings of the doctor, and its exit code.
fn doctor(home: &Home, options: &[&str]) -> (Value, i32) {
    let args = [&["doctor", "-o", "json"], options].concat();
    let output = home.command(&args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout);
    let report: Value = report.unwrap_or_else(|_| panic!("{:?}: {said}", output.status));
    (report, output.status.code().unwrap())
}

/// The finding of this name.
fn found(report: &Value, name: &str) -> Value {
    let items = report["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["name"] == name);
    item.unwrap_or_else(|| panic!("{name}: {report}")).clone()
}

fn is(report: &Value, name: &str, grade: &str, words: &[&str]) {
    let item = found(report, name);
    assert_eq!(item["grade"], grade, "{item}");
    for word in words {
        assert!(item.to_string().contains(word), "{word}: {item}");
    }
}

fn a_daemon_says_what_it_stands_on_and_what_stands_still(setup: Setup) {
    let mut world = World::at(Home::new(setup), &[("picky.js", PICKY_JS)], HOOKS);
    world.may_complain = true;
    let (report, code) = doctor(&world.home, &[]);
    assert_eq!(
        (code, &report["problems"]),
        (0, &Value::from(0)),
        "{report}"
    );
    let (database, hints) = match setup {
        Setup::Embedded => ("SQLite 3.", "in memory"),
        Setup::Production => ("Postgres ", "Redis "),
    };
    is(&report, "daemon", "ok", &["node a", "hooklane.sock", "up "]);
    is(&report, "database", "ok", &[database, "tables "]);
    let listen = format!("listen {}", world.home.addr);
    is(
        &report,
        "serve",
        "ok",
        &[&listen, "lanes 8", "(built-in default)"],
    );
    let own = format!("data {} (--data)", world.home.data().display());
    is(&report, "settings", "ok", &[&own, "timeout 10s"]);
    let serve = found(&report, "serve").to_string();
    let is_secret = serve.contains("postgres://postgres:") && !serve.contains(":***@");
    assert!(!is_secret, "{serve}");
    is(&report, "hints", "ok", &[hints]);
    is(&report, "data", "ok", &["mode 700"]);
    is(&report, "keys", "ok", &["3 good keys"]);
    assert!(found(&report, "disk").to_string().contains("a sync takes"));

    world.accepted("bills", "{}");
    world.held("bills");
    let failed = super::world::until(|| {
        let (report, code) = doctor(&world.home, &[]);
        (code == 3).then_some(report)
    });
    is(
        &failed,
        "streams",
        "fail",
        &["CODE  bills -> reduce", "hooklane why bills"],
    );

    let lines = world.home.command(&["doctor"]).output().unwrap();
    let lines = String::from_utf8(lines.stdout).unwrap();
    assert!(
        lines.contains("FAIL  streams    CODE  bills -> reduce"),
        "{lines}"
    );
    assert!(
        lines.contains("\n                 -> hooklane why bills\n"),
        "{lines}"
    );

    let url = format!("http://{}", world.home.addr);
    let mut far = world.home.command(&["doctor", "-o", "json", "--url", &url]);
    let far = far.env("HOOKLANE_KEY", &world.admin).output().unwrap();
    let far: Value = serde_json::from_slice(&far.stdout).unwrap();
    is(&far, "clock", "ok", &["the daemon"]);
}

fn a_daemon_that_hangs_or_is_open_to_all_is_a_problem(setup: Setup) {
    let home = Home::new(setup);
    let daemon = home.start();
    set_permissions(home.data(), Permissions::from_mode(0o777)).unwrap();
    let (report, code) = doctor(&home, &[]);
    assert_eq!(code, 3, "{report}");
    let remedy = format!("chmod 700 {}", home.data().display());
    is(&report, "data", "fail", &["others can replace", &remedy]);
    set_permissions(home.data(), Permissions::from_mode(0o700)).unwrap();

    daemon.freeze();
    let (report, code) = doctor(&home, &["--timeout", "300ms"]);
    assert_eq!(code, 3, "{report}");
    is(&report, "daemon", "fail", &["no answer"]);
    is(&report, "data", "ok", &[]);
    daemon.thaw();
}

/// The doctor reports a retention that is shorter than the slowest cursor needs, and names the cursor.
fn a_time_that_is_too_short_for_the_slowest_cursor_is_told(setup: Setup) {
    let mut world = World::at(Home::new(setup), &[("picky.js", PICKY_JS)], HOOKS);
    world.may_complain = true;
    let keep = |time: &str| {
        world.home.run(&["hooks", "edit", "bills", "--keep", time]);
    };
    keep("30d");
    let (report, _) = doctor(&world.home, &[]);
    is(&report, "retention", "ok", &["1 hook removes old events"]);
    keep("71h");
    let (report, _) = doctor(&world.home, &[]);
    is(
        &report,
        "retention",
        "warn",
        &["senders try again for longer", "--keep 3d"],
    );

    world.accepted("bills", "{}");
    world.held("bills");
    let (report, _) = doctor(&world.home, &[]);
    assert!(
        !report.to_string().contains("has one that waits"),
        "{report}"
    );
    keep("1ms");
    let (report, _) = doctor(&world.home, &[]);
    let told = "hook bills keeps events for 1ms, and bills has one that waits for ";
    let items = report["items"].as_array().unwrap();
    let item = items.iter().find(|item| item.to_string().contains(told));
    let item = item.unwrap_or_else(|| panic!("{report}")).to_string();
    for word in [
        "(held): it and all later events stay",
        "hooklane why bills",
        "warn",
    ] {
        assert!(item.contains(word), "{word}: {item}");
    }
}

on_both_setups! {
    a_time_that_is_too_short_for_the_slowest_cursor_is_told
    a_daemon_says_what_it_stands_on_and_what_stands_still
    a_daemon_that_hangs_or_is_open_to_all_is_a_problem
}

#[test]
fn before_the_first_start_it_looks_at_the_machine_and_leaves_nothing() {
    let home = Home::new(Setup::Embedded);
    let free = home.addr.to_string();
    let (report, code) = doctor(&home, &["--listen", &free]);
    assert_eq!(code, 0, "{report}");
    is(&report, "daemon", "warn", &["hooklane serve"]);
    is(&report, "database", "ok", &["no tables yet"]);
    is(&report, "port", "ok", &["is free"]);
    is(&report, "data", "ok", &["not there"]);
    assert!(!home.data().exists());

    let taken = TcpListener::bind(home.addr).unwrap();
    let (report, code) = doctor(&home, &["--listen", &free]);
    assert_eq!(code, 3);
    is(&report, "port", "fail", &["ss -ltnp"]);
    drop(taken);
}

#[test]
fn tables_of_a_newer_hooklane_are_told_before_a_start_is_tried() {
    let home = Home::new(Setup::Embedded);
    home.run(&["hooks", "create", "a"]);
    let db = rusqlite::Connection::open(home.data().join("hooklane.db")).unwrap();
    let newer = "insert into _sqlx_migrations
        select 9999, description, installed_on, success, checksum, execution_time
        from _sqlx_migrations limit 1";
    let (report, code) = doctor(&home, &["--listen", &home.addr.to_string()]);
    assert_eq!(code, 0, "{report}");
    db.execute(newer, []).unwrap();
    let (report, code) = doctor(&home, &["--listen", &home.addr.to_string()]);
    assert_eq!(code, 3);
    is(
        &report,
        "database",
        "fail",
        &["newer hooklane", "tables 9999"],
    );
}

#[test]
fn a_server_that_would_be_refused_is_told_with_the_remedy_and_gets_no_tables() {
    let server = postgres::shared();
    let name = server.database();
    let home = Home::new(Setup::Embedded);
    let ask = |database: &str, redis: &str| {
        let listen = home.addr.to_string();
        doctor(
            &home,
            &[
                "--listen",
                &listen,
                "--database",
                database,
                "--redis",
                redis,
            ],
        )
    };
    let redis = RedisServer::start();
    let url = server.url("postgres", &name);
    let (report, code) = ask(&url, &redis.url());
    assert_eq!(code, 0, "{report}");
    is(&report, "database", "ok", &["no tables yet"]);
    is(&report, "hints", "ok", &["Redis "]);
    let tables = "select count(*) from pg_tables where schemaname = 'public'";
    assert!(server.ask(&name, tables).contains("0"));
    assert_eq!(redis.ask(&["dbsize"]), ["0"]);

    server.ask("postgres", &format!("create role {name} login"));
    let alter = format!("alter role {name} set synchronous_commit = off");
    server.ask("postgres", &alter);
    let (report, code) = ask(&server.url(&name, &name), &redis.url());
    assert_eq!(code, 3);
    is(
        &report,
        "database",
        "fail",
        &["synchronous_commit=off", "alter role"],
    );

    let (report, code) = ask(&Pooler::shared().url(&name), &redis.url());
    assert_eq!(code, 0, "{report}");
    is(&report, "database", "ok", &["pooler of transactions"]);

    let nobody = "postgres://u:secret@127.0.0.1:1/n";
    let (report, code) = ask(nobody, "redis://:secret@127.0.0.1:1");
    assert_eq!(code, 3);
    is(
        &report,
        "database",
        "fail",
        &["cannot be reached", "does it run"],
    );
    is(
        &report,
        "hints",
        "fail",
        &["cannot be reached", "does it run"],
    );
    assert!(!report.to_string().contains("secret"), "{report}");
}

#[test]
fn a_clock_that_is_off_is_told_at_the_start_and_by_the_doctor() {
    let servers = Servers::on(postgres::shared());
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let library = preload::compile(dir.path(), "wrong_clock.c");
    let mut home = Home::of(&servers, "a");
    let library = library.to_str().unwrap().to_owned().leak();
    home.environment = vec![("LD_PRELOAD", library), ("CLOCK_AHEAD", "600")];
    let _daemon = home.start();
    let log = home.log();
    let mut lines = log.lines().filter(|line| line.contains("WARN"));
    let line = lines.find(|line| line.contains("clock")).expect(&log);
    for words in ["ahead of that of Postgres", "timedatectl set-ntp true"] {
        assert!(line.contains(words), "{line}");
    }
    let (report, code) = doctor(&home, &[]);
    assert_eq!(code, 3, "{report}");
    is(
        &report,
        "clock",
        "fail",
        &["Postgres", "behind ours", "timedatectl"],
    );
}

#[test]
fn a_redis_that_keeps_the_hints_of_another_database_is_told() {
    let servers = Servers::on(postgres::shared());
    let first = Home::of(&servers, "a");
    drop(first.start());
    let other = Servers::sharing(postgres::shared(), RedisServer::start().into());
    let second = Home::of(&other, "b");
    drop(second.start());
    let listen = second.addr.to_string();
    let (url, redis) = (other.url(), servers.redis.url());
    let options = ["--listen", &listen, "--database", &url, "--redis", &redis];
    let (report, code) = doctor(&second, &options);
    assert_eq!(code, 3);
    is(&report, "hints", "fail", &["another hooklane database"]);
}
