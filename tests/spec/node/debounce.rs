//! Debounced streams: they gather events for no longer than they were told, whatever clocks say, and tell so.

use serde_json::Value;

use super::daemon::{Home, Setup};
use super::retention::tamper;
use super::world::{World, until};

fn hooks(debounce: &str) -> String {
    format!("[[hooks]]\nname = 'orders'\nreduce = 'count'\ndebounce = '{debounce}'\n")
}

/// As if the event had come by a clock that was an hour ahead: of another node, or of this one before it was set.
fn an_event_from_the_future_is_gathered_no_longer_than_any_other(setup: Setup) {
    let mut world = World::at(Home::new(setup), &[], &hooks("30m,1h"));
    world.accepted("orders", "{}");
    world.kill();
    let ahead =
        |table| format!("update {table} set received_at = received_at + 3600000, checksum = null");
    tamper(&world.home, &ahead("log"), &ahead("events"));
    world.restart();
    world
        .home
        .run(&["hooks", "edit", "orders", "--debounce", "200ms,2s"]);
    assert_eq!(world.state("orders", 1), 1);
}

fn a_stream_that_gathers_events_says_so_and_until_when(setup: Setup) {
    let world = World::at(Home::new(setup), &[], &hooks("30m,1h"));
    world.accepted("orders", "{}");
    let why = || {
        world
            .admin("GET", "/v1/admin/why?stream=orders", &Value::Null)
            .json()
    };
    let why = until(|| Some(why()).filter(|why| why["cursors"][0]["gathers_until"].is_string()));
    let verdict = why["verdict"].as_str().unwrap();
    assert!(
        verdict.starts_with("it gathers events (debounce) and goes on in "),
        "{verdict}"
    );
    let said = world.home.run(&["why", "orders"]);
    assert!(
        said.contains("by itself: it goes on in ") && !said.contains("takes turns"),
        "{said}"
    );
    let status = until(|| {
        let status = world.home.run(&["status"]);
        status.contains("gathering").then_some(status)
    });
    assert!(
        status.contains("gathering  1 cursor (debounce); orders -> reduce goes on in "),
        "{status}"
    );
    world
        .home
        .run(&["hooks", "edit", "orders", "--no-debounce"]);
    assert_eq!(world.state("orders", 1), 1);
    let said = until(|| {
        let said = world.home.run(&["status"]);
        (!said.contains("gathering")).then_some(said)
    });
    assert!(said.contains("nothing waits"), "{said}");
}

on_both_setups! {
    an_event_from_the_future_is_gathered_no_longer_than_any_other
    a_stream_that_gathers_events_says_so_and_until_when
}
