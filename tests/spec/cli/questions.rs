//! Ten questions of a first day, each answered by what the screens say: what is wrong, since when, what do I type,
//! how do I undo it, what did I just do. A command is typed only if a screen has printed it.

use std::process::Command;

use super::daemon::{Home, Setup};
use super::world::{Ask, World, send, until};

const PICKY_JS: &str = "export default function reduce(state, event) {\n\
    if (event.body.bad) throw new Error('no good');\n  return (state ?? 0) + 1;\n}\n";

const FIXED_JS: &str = "export default (state, event) => (state ?? 0) + 1;";

const HOOKS: &str = "[[hooks]]\nname = 'orders'\nreduce = 'picky.js'\norder_by = 'body:/account'\n";

fn world() -> World {
    let files = [("picky.js", PICKY_JS), ("fixed.js", FIXED_JS)];
    World::new(Setup::Embedded, &files, HOOKS)
}

/// A world in which the stream of an account is held since its first event.
fn held() -> World {
    let world = world();
    world.accepted("orders", r#"{"account":"acme","bad":true}"#);
    world.held("orders/acme");
    world
}

/// Both outputs of a line that is typed in a shell with the real `hooklane`.
fn typed(home: &Home, line: &str) -> String {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_hooklane"));
    let path = format!("{}:/usr/bin:/bin", program.parent().unwrap().display());
    let mut shell = Command::new("sh");
    let done = shell
        .args(["-c", line])
        .env_clear()
        .env("PATH", path)
        .env("HOOKLANE_DATA", home.data())
        .current_dir(home.data().parent().unwrap())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    String::from_utf8([done.stdout, done.stderr].concat()).unwrap()
}

/// The command that a screen prints behind a label, without its comment.
fn printed(screen: &str, label: &str) -> String {
    let lines = screen.lines().filter_map(|line| {
        let (before, command) = line.split_once("hooklane ")?;
        (before.trim() == label).then(|| format!("hooklane {command}"))
    });
    let found = lines.map(|line| line.split("   #").next().unwrap().to_owned());
    let mut found = found.collect::<Vec<_>>();
    assert!(!found.is_empty(), "{label:?} is not in\n{screen}");
    found.remove(0)
}

/// `status`, once it has these words.
fn status(home: &Home, words: &[&str]) -> String {
    until(|| {
        let screen = typed(home, "hooklane status");
        let has_all = words.iter().all(|word| screen.contains(word));
        has_all.then_some(screen)
    })
}

#[test]
fn what_is_wrong_and_whose_fault_is_it() {
    let world = held();
    let screen = status(&world.home, &["CODE  orders/acme -> reduce held since "]);
    assert!(screen.contains("at seq 1: Error in picky.js:2: no good"));
    assert!(screen.contains("Holds up only its own 1 event"), "{screen}");
}

#[test]
fn since_when_is_the_same_moment_on_every_screen() {
    let world = held();
    let screen = status(&world.home, &["held since "]);
    let since = screen.split("held since ").nth(1).unwrap();
    let since = since.split(':').take(3).collect::<Vec<_>>().join(":");
    assert_eq!(since.len(), "02:41:07Z".len(), "{screen}");
    for line in ["hooklane why orders/acme", "hooklane top --once"] {
        let screen = typed(&world.home, line);
        assert!(screen.contains(&since), "{since}: {screen}");
    }
}

#[test]
fn what_do_i_type_to_let_it_go_on() {
    let world = held();
    let next = printed(&status(&world.home, &["Next: "]), "Next:");
    let why = typed(&world.home, &next);
    assert!(why.contains("it will not recover by itself"), "{why}");
    assert!(why.contains("after you fix the reducer with hooks edit"));
    typed(
        &world.home,
        "hooklane hooks edit orders --reduce fixed.js --yes",
    );
    typed(&world.home, &printed(&why, "helps"));
    status(&world.home, &["OK  nothing waits"]);
}

#[test]
fn how_do_i_undo_what_i_just_did() {
    let world = world();
    for (act, label) in [
        ("hooklane hooks pause orders --reason deploy", "back"),
        ("hooklane lanes pause 0 --reason deploy", "back"),
        ("hooklane hooks create mistake --reduce count", "undo"),
    ] {
        let screen = typed(&world.home, act);
        let back = printed(&screen, label);
        let undone = typed(&world.home, &format!("{back} --yes --confirm mistake"));
        assert!(!undone.contains("error"), "{act}: {undone}");
    }
    status(&world.home, &["OK  "]);
    assert!(!typed(&world.home, "hooklane hooks list").contains("mistake"));
}

#[test]
fn what_did_i_just_do() {
    let world = world();
    typed(&world.home, "hooklane lanes pause 0 --reason 'deploy #812'");
    let screen = typed(&world.home, "hooklane audit list");
    let newest = screen.lines().nth(1).unwrap();
    for word in ["uid ", "socket", "lanes pause", "deploy #812"] {
        assert!(newest.contains(word), "{word}: {screen}");
    }
}

#[test]
fn who_stopped_this_and_how_does_it_go_on() {
    let world = world();
    typed(
        &world.home,
        "hooklane hooks pause orders --reason 'deploy #812'",
    );
    world.accepted("orders", r#"{"account":"acme"}"#);
    let words = ["ON PURPOSE  hook orders paused by uid ", "\"deploy #812\""];
    let screen = status(&world.home, &words);
    let shown = typed(&world.home, "hooklane hooks show orders");
    assert!(
        shown.contains("paused since ") && shown.contains("deploy #812"),
        "{shown}"
    );
    typed(&world.home, &printed(&screen, "Next:"));
    status(&world.home, &["OK  nothing waits"]);
}

#[test]
fn why_does_my_sender_get_an_error() {
    let world = world();
    let without_key = send(world.home.addr, &Ask::post("orders").body("{}").bytes());
    let told = without_key.json()["error"].to_string();
    assert_eq!(without_key.status, 401);
    assert!(told.contains("Authorization: Bearer KEY"), "{told}");
    let without_account = world.post("orders", r#"{"customer":"acme"}"#);
    let told = without_account.json()["error"].to_string();
    assert_eq!(without_account.status, 422);
    assert!(
        told.contains("no value at /account") && told.contains("--unordered keep"),
        "{told}"
    );
}

#[test]
fn where_is_my_event() {
    let world = held();
    let later = world.accepted("orders", r#"{"account":"acme"}"#);
    let event = later["event"].as_str().unwrap();
    let screen = typed(
        &world.home,
        &format!("hooklane why orders/acme --event {event}"),
    );
    assert!(
        screen.contains("reduce: 1 event is before it, held"),
        "{screen}"
    );
    let list = typed(&world.home, "hooklane events list");
    assert!(
        list.contains("orders/acme") && list.contains("reduce held: at seq 1"),
        "{list}"
    );
}

#[test]
fn why_does_no_command_work() {
    let home = Home::new(Setup::Embedded);
    let screen = typed(&home, "hooklane status");
    assert!(screen.starts_with("error: no daemon at "), "{screen}");
    assert_eq!(printed(&screen, "start"), "hooklane serve");
}

#[test]
fn what_would_be_lost_if_i_delete_it() {
    let world = held();
    let screen = typed(&world.home, "hooklane hooks delete orders");
    assert!(
        screen.contains("this would ask (1 stream, 1 event)"),
        "{screen}"
    );
    assert!(screen.contains("--yes --confirm orders"), "{screen}");
    assert!(typed(&world.home, "hooklane hooks list").contains("orders"));
}
