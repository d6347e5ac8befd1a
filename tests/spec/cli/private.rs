//! Files that are for their owner only, keys that are handed over or taken back, and passwords that are shown nowhere.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::daemon::{Home, Setup};
use super::world::{World, ended, until};

const HOOK: &str = "[[hooks]]\nname = 'orders'\nreduce = 'latest'\n";

on_both_setups! {
    every_file_of_a_node_is_for_its_owner_only_also_where_it_was_not
    a_key_that_could_not_be_handed_over_is_taken_back
}

/// Every file and directory below one, and itself.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_path_buf()];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(below(&path)),
            false => found.push(path),
        }
    }
    found
}

fn is_private(path: &Path) -> bool {
    fs::symlink_metadata(path).unwrap().mode() & 0o077 == 0
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn every_file_of_a_node_is_for_its_owner_only_also_where_it_was_not(setup: Setup) {
    let mut world = World::at(Home::new(setup), &[], HOOK);
    world.accepted("orders", "{}");
    world.state("orders", 1);
    let open = |path: &PathBuf| !is_private(path);
    let opened: Vec<_> = below(&world.home.data()).into_iter().filter(open).collect();
    assert_eq!(opened, Vec::<PathBuf>::new());
    world.kill();

    for path in below(&world.home.data()) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    world.restart();
    let opened: Vec<_> = below(&world.home.data()).into_iter().filter(open).collect();
    assert_eq!(opened, Vec::<PathBuf>::new());
    assert!(
        world.home.log().contains("closed to them now"),
        "it says so"
    );
}

#[test]
fn a_directory_of_somebody_else_that_others_can_read_is_refused() {
    let home = Home::new(Setup::Embedded);
    fs::create_dir(home.data()).unwrap();
    fs::set_permissions(home.data(), Permissions::from_mode(0o755)).unwrap();
    if chown(home.data(), Some(65_534), None).is_err() {
        // Only root can give a directory away.
        return;
    }
    for command in [&["serve"][..], &["hooks", "create", "x"]] {
        let output = home.command(command).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains("chmod 700"), "{}", said(&output));
    }
    assert_eq!(fs::metadata(home.data()).unwrap().mode() & 0o777, 0o755);
}

fn keys(home: &Home) -> String {
    home.run(&["keys", "list"])
}

fn a_key_that_could_not_be_handed_over_is_taken_back(setup: Setup) {
    let world = World::at(Home::new(setup), &[], HOOK);
    let make = |name: &str, more: &[&str]| {
        let make = [
            "keys",
            "create",
            "--type",
            "write",
            "--all-hooks",
            "--name",
            name,
        ];
        let args = [&make[..], more].concat();
        world.home.command(&args)
    };
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    for (name, more) in [("lost", &[][..]), ("lost-json", &["-o", "json"])] {
        let output = make(name, more).stdout(full()).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("revoked again") && said.contains("stdout"),
            "{said}"
        );
        let list = keys(&world.home);
        let row = list
            .lines()
            .find(|row| row.contains(&format!(" {name} ")))
            .unwrap();
        assert!(row.ends_with("revoked"), "{row}");
    }
    let nobody = make("unread", &[]).stdout(closed_pipe()).output().unwrap();
    assert!(said(&nobody).contains("revoked again"), "{}", said(&nobody));

    let before = keys(&world.home).lines().count();
    let nowhere = make("nowhere", &["--out", "/nonexistent/key"])
        .output()
        .unwrap();
    assert!(
        said(&nowhere).contains("No key was made"),
        "{}",
        said(&nowhere)
    );
    assert_eq!(keys(&world.home).lines().count(), before);

    let file = world.home.data().with_file_name("one.key");
    let made = make("kept", &["--out", file.to_str().unwrap()]);
    let made = { made }.output().unwrap();
    assert!(
        made.status.success() && is_private(&file),
        "{}",
        said(&made)
    );
}

/// A pipe that nobody reads.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn no_piece_of_a_password_is_shown_by_any_command() {
    let home = Home::new(Setup::Embedded);
    let asking = |args: &[&str]| {
        let output = home.command(args).output().unwrap();
        assert!(!output.status.success(), "{args:?}");
        let said = said(&output);
        assert!(
            !said.contains("secret") && !said.contains("hunter"),
            "{args:?} {said}"
        );
        said
    };
    for sign in ["@", "/", "#", ":", "?"] {
        for password in [format!("hunter{sign}secret"), format!("1{sign}secret")] {
            let postgres = format!("postgres://u:{password}@127.0.0.1:1/n");
            let redis = format!("redis://u:{password}@127.0.0.1:1");
            for args in [
                &["serve", "--database", &postgres][..],
                &["doctor", "--database", &postgres],
                &["migrate", "--from", ".", "--to", &postgres],
                &[
                    "doctor",
                    "--database",
                    "postgres://127.0.0.1:1/n",
                    "--redis",
                    &redis,
                ],
            ] {
                let said = asking(args);
                assert!(
                    said.contains("percent-encode user and password"),
                    "{args:?} {said}"
                );
            }
        }
    }
    let url = "http://hunter:secret/x@127.0.0.1:1";
    asking(&["status", "--url", url]);
}

#[test]
fn a_directory_whose_database_is_gone_does_not_begin_as_a_new_node() {
    for is_empty in [false, true] {
        let mut world = World::at(Home::new(Setup::Embedded), &[], HOOK);
        let file = world.home.data().join("hooklane.db");
        // Its log is the trace that a node leaves. Another thread writes it.
        until(|| {
            let mut logs = fs::read_dir(world.home.data().join("log")).ok()?.flatten();
            logs.any(|log| log.metadata().is_ok_and(|log| log.len() > 0))
                .then_some(())
        });
        world.kill();
        for end in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(file.with_extension(format!("db{end}")));
        }
        if is_empty {
            fs::write(&file, "").unwrap();
        }
        for command in [&["serve"][..], &["hooks", "create", "x"]] {
            let output = ended(&mut world.home.command(command));
            assert_eq!(output.status.code(), Some(7), "{}", said(&output));
            for word in [
                "a node ran in",
                "hooklane.db",
                "hooklane restore",
                "--database",
            ] {
                assert!(said(&output).contains(word), "{}", said(&output));
            }
        }
        fs::remove_dir_all(world.home.data().join("log")).unwrap();
        world.restart();
    }
}

#[test]
fn an_error_about_a_file_names_it() {
    let home = Home::new(Setup::Embedded);
    fs::create_dir(home.data()).unwrap();
    fs::write(home.data().join("log"), "a file").unwrap();
    let output = home.command(&["serve"]).output().unwrap();
    let path = home.data().join("log").display().to_string();
    assert!(said(&output).contains(&path), "{}", said(&output));

    let file = home.write("file", "");
    let mut serve = Command::new(env!("CARGO_BIN_EXE_hooklane"));
    let output = serve.args(["serve", "--data"]).arg(&file).output().unwrap();
    assert!(
        said(&output).contains(file.to_str().unwrap()),
        "{}",
        said(&output)
    );
}

#[test]
fn a_server_that_hangs_up_is_said_to() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
        }
    });
    let home = Home::new(Setup::Embedded);
    let url = format!("postgres://u@127.0.0.1:{port}/n");
    let output = home
        .command(&["doctor", "--database", &url])
        .output()
        .unwrap();
    let said = said(&output);
    assert!(
        said.contains("closed the connection") || said.contains("reset"),
        "{said}"
    );
    assert!(!said.contains("SSLRequest"), "{said}");
}
