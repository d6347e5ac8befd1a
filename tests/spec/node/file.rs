//! Promises of a daemon on a file: commands work without it, and a full disk leads to error answers,
//! not to its end.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::daemon::{Home, Setup};
use super::embedded::serve::{ACCOUNTS, SUM, attempt, event, text};
use super::world::{World, until};

#[test]
fn hooks_and_keys_are_made_without_a_daemon_and_states_need_one() {
    let home = Home::new(Setup::Embedded);
    home.run(&["hooks", "create", "hello", "--reduce", "latest"]);
    let key = home.run(&[
        "keys", "create", "--type", "write", "--hook", "hello", "--name", "me",
    ]);
    assert!(key.starts_with("hl_w_") && !key.contains('\n'), "{key}");
    let names = home.run(&["hooks", "list", "-o", "names"]);
    assert_eq!(names, "hello");
    for asking in [
        &["state", "show", "hello"][..],
        &["streams", "retry", "hello"],
        &["events", "tail"],
    ] {
        let (code, out, said) = attempt(&home, asking);
        assert!(out.is_empty(), "{asking:?} {out}");
        if asking[0] == "state" {
            assert_eq!(code, Some(6), "{said}");
            assert!(said.contains("hooklane serve"), "{said}");
        } else {
            assert!(code > Some(0), "{asking:?} {said}");
        }
    }
    let _daemon = home.start();
    let reply = crate::world::send(
        home.addr,
        format!("POST /in/hello/{key} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}")
            .as_bytes(),
    );
    assert_eq!(reply.status, 202, "{reply:?}");
    until(|| (home.run(&["state", "show", "hello"]) == "{}").then_some(()));
}

on_both_setups! {
    what_a_file_says_is_seen_whole_or_not_at_all_also_when_the_node_dies_then
}

fn what_a_file_says_is_seen_whole_or_not_at_all_also_when_the_node_dies_then(setup: Setup) {
    let file = |body_max: i64| {
        let hook = |n| format!("[[hooks]]\nname = 'h{n}'\nbody_max = {body_max}\n");
        (0..100).map(hook).collect::<String>()
    };
    let mut world = World::at(Home::new(setup), &[], &file(1_000));
    let seen = |world: &World| {
        let hooks = world.admin("GET", "/v1/admin/hooks", &Value::Null).json();
        let hooks = hooks["items"].as_array().unwrap().iter();
        let sizes: Vec<_> = hooks
            .map(|hook| hook["body_max"].as_i64().unwrap())
            .collect();
        assert_eq!(sizes.len(), 100);
        assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
        sizes[0]
    };
    for size in 1_001..1_004 {
        let file = world.home.write("next.toml", &file(size));
        let mut apply = world
            .home
            .command(&["hooks", "apply", file.to_str().unwrap()]);
        let mut apply = apply.stderr(Stdio::null()).spawn().unwrap();
        until(|| (seen(&world) == size).then_some(()));
        world.kill();
        apply.wait().unwrap();
        world.restart();
        assert_eq!(seen(&world), size);
    }
    let rows = world.home.run(&["audit", "list", "-o", "json"]);
    assert_eq!(rows.matches("hooks apply").count(), 4, "{rows}");

    let hook = "name = 'h7'\nbody_max = 2000\nnamespace = 'acme'\n";
    let moves = format!("[[namespaces]]\nname = 'acme'\n[[hooks]]\n{hook}");
    world.home.apply(&moves);
    let hook = world
        .admin("GET", "/v1/admin/hooks/h7", &Value::Null)
        .json();
    assert_eq!(
        (&hook["namespace"], &hook["body_max"]),
        (&json!("acme"), &json!(2_000))
    );
}

#[test]
fn applying_the_same_file_twice_changes_nothing_the_second_time() {
    let home = Home::new(Setup::Embedded);
    home.write("sum.js", SUM);
    let file = home.write(
        "all.toml",
        r#"
        [[namespaces]]
        name = "acme"
        lanes = 3
        [[hooks]]
        name = "accounts"
        namespace = "acme"
        order_by = "header:X-Account"
        unordered = "keep"
        reduce = "sum.js"
        on_error = "skip"
        debounce = "500ms,5s"
        body_max = 4096
        [[hooks]]
        name = "stored"
        "#,
    );
    let file = file.to_str().unwrap();
    let apply = |more: &[&str]| {
        let args = [&["hooks", "apply", file, "-o", "json"][..], more].concat();
        let said: Value = serde_json::from_str(&home.run(&args)).unwrap();
        said["changes"].as_array().unwrap().len()
    };
    let shown = || home.run(&["hooks", "list", "-o", "json"]);
    let items = |text: &str| serde_json::from_str::<Value>(text).unwrap()["items"].take();
    // A command that changes nothing makes no database: there is one by now.
    home.run(&["namespaces", "create", "other"]);
    assert_eq!(apply(&["--dry-run"]), 3);
    assert_eq!(apply(&[]), 3);
    let first = items(&shown());
    assert_eq!(
        (apply(&[]), apply(&["--prune"]), apply(&["--dry-run"])),
        (0, 0, 0)
    );
    let daemon = home.start();
    assert_eq!(
        (apply(&[]), apply(&["--prune"])),
        (0, 0),
        "a daemon says the same"
    );
    assert_eq!(items(&shown()), first, "not even the version of a reducer");

    home.write("sum.js", &format!("{SUM}\n// new"));
    assert_eq!((apply(&["--dry-run"]), apply(&[]), apply(&[])), (1, 1, 0));
    drop(daemon);
    assert_eq!(apply(&[]), 0);

    let wrong = home.write(
        "wrong.toml",
        "[[hooks]]\nname = \"new\"\n[[hooks]]\nname = \"x\"\nreduce = \"gone.js\"",
    );
    let (code, _, said) = attempt(&home, &["hooks", "apply", wrong.to_str().unwrap()]);
    assert_eq!(code, Some(2), "{said}");
    assert_eq!(
        home.run(&["hooks", "list", "-o", "names"]),
        "accounts\nstored",
        "all or nothing"
    );
}

#[test]
fn a_data_directory_that_others_could_write_to_is_refused() {
    let home = Home::new(Setup::Embedded);
    fs::create_dir(home.data()).unwrap();
    for mode in [0o777, 0o770, 0o702] {
        fs::set_permissions(home.data(), fs::Permissions::from_mode(mode)).unwrap();
        for args in [
            &["serve", "--listen", "127.0.0.1:0"][..],
            &["hooks", "create", "hello"],
        ] {
            let (code, _, said) = attempt(&home, args);
            assert_eq!(code, Some(2), "{said}");
            assert!(said.contains("chmod 700"), "{said}");
        }
    }
    assert_eq!(
        fs::read_dir(home.data()).unwrap().count(),
        0,
        "nothing was made"
    );
    fs::set_permissions(home.data(), fs::Permissions::from_mode(0o700)).unwrap();
    home.run(&["hooks", "create", "hello"]);
}

/// A file system of its own over the data directory, taken away when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of this size, such as `24m`.
    pub fn over(dir: PathBuf, size: &str) -> Self {
        fs::create_dir(&dir).unwrap();
        let options = format!("size={size},mode=700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "hooklane-test"])
            .arg(&dir)
            .output();
        let why = match &mounted {
            Ok(done) if done.status.success() => return Self(dir),
            Ok(done) => text(&done.stderr),
            Err(error) => error.to_string(),
        };
        panic!("this test fills a disk and must be allowed to mount a small tmpfs: {why}");
    }

    /// Fills it with a file that may be removed.
    pub fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_is_answered_503_and_the_daemon_recovers_by_itself() {
    let home = Home::new(Setup::Embedded);
    let disk = SmallDisk::over(home.data(), "24m");
    let mut world = World::at(home, &[("sum.js", SUM)], ACCOUNTS);
    world.may_complain = true;
    world.accepted("accounts", event("a", 1));
    world.state("accounts/a", 1);
    let body = json!({"who": "a", "n": 1, "pad": "x".repeat(30_000)}).to_string();
    let mut accepted = 1;
    let mut post = || {
        let reply = world.post("accounts", &body);
        accepted += i64::from(reply.status == 202);
        reply
    };
    let filler = disk.fill();
    let refused = until(|| Some(post()).filter(|reply| reply.status != 202));
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "disk_full")
    );
    assert!(!refused.header("retry-after").is_empty());
    for _ in 0..20 {
        assert!([202, 503].contains(&post().status));
    }
    assert_eq!(
        world.get("/v1/hooks/accounts/state?stream=a").status,
        200,
        "reading goes on"
    );
    let make = |n: i64| {
        world.admin(
            "POST",
            "/v1/admin/hooks",
            &json!({"name": format!("new{n}")}),
        )
    };
    for n in 0..20 {
        let made = make(n);
        assert!([201, 503].contains(&made.status), "{made:?}");
    }
    fs::remove_file(filler).unwrap();
    until(|| (post().status == 202).then_some(()));
    assert_eq!(
        make(20).status,
        201,
        "no trace is left in what changes hooks"
    );
    assert_eq!(world.state("accounts/a", accepted)["sum"], accepted);
    let events = world
        .get("/v1/hooks/accounts/events?stream=a&limit=1000")
        .json();
    assert_eq!(
        events["items"].as_array().map(Vec::len),
        usize::try_from(accepted).ok()
    );
    world.kill();
    world.restart();
    assert_eq!(world.state("accounts/a", accepted)["sum"], accepted);
    world.kill();
    // Before the directory that it is mounted on goes.
    drop(disk);
}
