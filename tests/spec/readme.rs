//! The examples of README.md, run as they stand there.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::daemon::{Home, Setup};
use super::world::{World, encoded, until};

/// The block of a section of README.md that begins so.
pub fn block(section: &str, begin: &str) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let section = readme.split(&format!("{section}\n")).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```");
    let mut blocks = blocks.map(|block| block.split_once('\n').unwrap_or_default().1);
    let block = blocks.find(|block| block.starts_with(begin));
    block
        .unwrap_or_else(|| panic!("no block in {section}"))
        .to_owned()
}

/// True if a program can be run. If not, says on the terminal which example is not run.
pub fn is_there(program: &str, example: &str) -> bool {
    let mut version = Command::new(program);
    // A shell has no such flag, and is there.
    version.arg(if program == "sh" { "-c" } else { "--version" });
    version.args((program == "sh").then_some("true"));
    let version = version.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_there = version.is_ok_and(|status| status.success());
    if !is_there {
        not_run(example, &format!("there is no {program}"));
    }
    is_there
}

/// The harness shows what a test prints only when it fails, so this goes past it.
fn not_run(example: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "NOT RUN: {example}: {why}");
}

/// Installs a package of a registry into a directory; false if the registry is out of reach.
fn installed(program: &str, args: &[&str], home: &Home, example: &str) -> bool {
    let mut install = Command::new(program);
    install
        .args(args)
        .current_dir(home.data().parent().unwrap());
    install.stdout(Stdio::null()).stderr(Stdio::null());
    let is_installed = install.status().is_ok_and(|status| status.success());
    if !is_installed {
        not_run(example, &format!("{program} does not install its package"));
    }
    is_installed
}

struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Runs a receiver, delivers to it with its secret and with another one, and looks at what it has accepted.
fn verifies(program: &str, begin: &str, file: &str) {
    let mut home = Home::new(Setup::Embedded);
    home.environment
        .push(("HOOKLANE_ALLOW_DESTINATION", "127.0.0.0/8"));
    let world = World::at(home, &[], "");
    let (port, path) = (
        free_port(),
        world.home.write(file, &block("## Delivering", begin)),
    );
    let url = format!("crm=http://127.0.0.1:{port}/hooks");
    let args = ["hooks", "create", "sales", "--forward", &url, "-o", "json"];
    let made: Value = serde_json::from_str(&world.home.run(&args)).unwrap();
    let secret = made["new_secrets"][0]["secret"].as_str().unwrap();
    let dir = path.parent().unwrap().to_owned();
    let installs = match program {
        "node" => (
            "npm",
            &[
                "install",
                "--no-audit",
                "--no-fund",
                "--prefix",
                ".",
                "standardwebhooks",
            ][..],
        ),
        _ => (
            "python3",
            &[
                "-m",
                "pip",
                "install",
                "--quiet",
                "--target",
                ".",
                "standardwebhooks",
            ][..],
        ),
    };
    let here = std::fs::canonicalize(&dir).unwrap();
    assert_eq!(
        here,
        std::fs::canonicalize(world.home.data().parent().unwrap()).unwrap()
    );
    if !installed(installs.0, installs.1, &world.home, begin) {
        return;
    }
    let mut receiver = Command::new(program);
    receiver.arg(&path).current_dir(&dir);
    receiver.env("SECRET", secret).env("PORT", port.to_string());
    let printed = dir.join("printed");
    receiver.stdout(std::fs::File::create(&printed).unwrap());
    let _receiver = Receiver(receiver.spawn().unwrap());
    for n in 1..=3 {
        world.accepted("sales", json!({"n": n}).to_string());
    }
    let path = format!("/v1/admin/streams/show?stream={}", encoded("sales"));
    let position = || {
        let shown = world.admin("GET", &path, &Value::Null).json();
        shown["cursors"][0]["position"].clone()
    };
    until(|| (position() == 3).then_some(()));
    let printed = std::fs::read_to_string(printed).unwrap();
    assert_eq!(printed.lines().count(), 3, "{printed}");
    assert!(
        printed.lines().all(|line| line.starts_with("sales ")),
        "{printed}"
    );
    // An unsigned request is refused.
    let unsigned = Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--data",
            "{}",
        ])
        .arg(format!("http://127.0.0.1:{port}/hooks"))
        .output()
        .unwrap();
    assert_eq!(unsigned.stdout, b"400");
}

#[test]
fn the_receiver_in_python_verifies() {
    if is_there("python3", "the receiver in Python") {
        verifies("python3", "import http.server", "receiver.py");
    }
}

#[test]
fn the_receiver_in_node_verifies() {
    if is_there("node", "the receiver in Node") && is_there("npm", "the receiver in Node") {
        verifies("node", "import http from", "receiver.mjs");
    }
}
