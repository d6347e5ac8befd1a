//! By which keys events are ordered and known again: where they stand, when two of them are one, and
//! what a sender is told when there is none. And what is kept of an event beside its body.

use serde_json::{Value, json};

use super::SETUP;
use super::world::{Ask, Reply, World};

const HOOKS: &str = r#"
    [[hooks]]
    name = "plain"
    reduce = "event.js"
    [[hooks]]
    name = "accounts"
    order_by = "header:X-Account"
    reduce = "count"
    [[hooks]]
    name = "orders"
    order_by = "/id"
    reduce = "count"
    [[hooks]]
    name = "forms"
    order_by = "form:who"
    dedupe_by = "form:delivery"
    reduce = "count"
    [[hooks]]
    name = "github"
    dedupe_by = "header:X-GitHub-Delivery"
    reduce = "count"
"#;

const EVENT: &str =
    "export default (state, event) => [event.query, event.raw, event.headers[':query'] ?? null]";

fn world() -> World {
    World::new(SETUP, &[("event.js", EVENT)], HOOKS)
}

fn send(world: &World, hook: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Reply {
    let mut ask = Ask::post(hook).key(&world.write);
    for (name, value) in headers {
        ask = ask.header(name, value);
    }
    world.ask(&ask.body(body))
}

fn stream(reply: &Reply) -> String {
    assert!([200, 202].contains(&reply.status), "{reply:?}");
    reply.json()["stream"].as_str().unwrap().to_owned()
}

fn why(reply: &Reply) -> String {
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (422, "ordering_key_missing")
    );
    let message = reply.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    message.rsplit_once("): ").unwrap().1.to_owned()
}

#[test]
fn numbers_of_one_value_are_one_stream_and_texts_are_compared_byte_by_byte() {
    let world = world();
    let of = |id: &str| stream(&world.post("orders", format!(r#"{{"id":{id}}}"#)));
    for same in ["1", "1.0", "1e0", "10E-1", "\"1\""] {
        assert_eq!(of(same), "1", "{same}");
    }
    for itself in ["9007199254740992", "9007199254740993", "1.5", "-7"] {
        assert_eq!(of(itself), itself);
    }
    assert_eq!(of("\"1.0\""), "1.0");
    assert_eq!((of("true"), of("\"true\"")), ("true".into(), "true".into()));
    assert_eq!(of("\"\\u00e9\""), of("\"\u{e9}\""));
    assert_ne!(of("\"e\u{301}\""), of("\"\u{e9}\""));
    assert_eq!(stream(&world.post("orders", "\u{feff}{\"id\":\"b\"}")), "b");
    assert_eq!(stream(&world.post("forms", "a=1&who=a+b%2F&who=")), "a b/");
}

#[test]
fn a_refusal_says_what_stands_where_the_key_should_be() {
    let world = world();
    for (body, reason) in [
        (&b""[..], "the body is not JSON: it is empty"),
        (
            b"{\"id\":\"caf\xe9\"}",
            "the body is not JSON: byte 11 is not UTF-8",
        ),
        (
            b"who=a",
            "the body is not JSON: expected value at line 1 column 1",
        ),
        (b"{}", "no value at /id"),
        (b"{\"id\":{}}", "an object at /id"),
        (b"{\"id\":[]}", "an array at /id"),
        (b"{\"id\":null}", "null at /id"),
        (b"{\"id\":\"\"}", "an empty text at /id"),
    ] {
        assert_eq!(why(&world.post("orders", body)), reason);
    }
    assert_eq!(
        why(&world.post("forms", "who=a&who=b")),
        "two values in field \"who\" of the form"
    );
    let of = |headers: &[(&str, &str)]| send(&world, "accounts", headers, "{}");
    assert_eq!(
        why(&of(&[("x-account", "a"), ("x-account", "b")])),
        "two values in header x-account"
    );
    assert_eq!(
        why(&of(&[("x-account", "")])),
        "no value in header x-account"
    );
    assert_eq!(
        stream(&of(&[
            ("x-account", "a"),
            ("x-account", ""),
            ("x-account", "a")
        ])),
        "a"
    );
}

#[test]
fn an_idempotency_key_promises_one_body_and_a_webhook_id_does_not() {
    let world = world();
    let idem = |key: &str, body: &str| send(&world, "plain", &[("Idempotency-Key", key)], body);
    assert_eq!(idem("k", "1").status, 202);
    assert_eq!(
        (idem("k", "1").status, idem("\"k\"", "1").status),
        (200, 200)
    );
    let reused = idem("k", "2");
    assert_eq!(
        (reused.status, reused.code().as_str()),
        (422, "idempotency_key_reused")
    );
    assert_eq!(idem("k", "1").status, 200, "the first one stays");
    let metrics = String::from_utf8(world.get("/metrics").body).unwrap();
    let counted = |line: &&str| line.contains("idempotency_key\"") && line.ends_with(" 1");
    assert!(metrics.lines().any(|line| counted(&line)), "{metrics}");

    let id = |body: &str| {
        send(
            &world,
            "plain",
            &[("webhook-id", "w"), ("idempotency-key", "")],
            body,
        )
    };
    assert_eq!((id("1").status, id("2").status), (202, 200));
    let twice = [("webhook-id", "a"), ("webhook-id", "b")];
    let twice = send(&world, "plain", &twice, "1");
    assert_eq!(
        (twice.status, twice.code().as_str()),
        (422, "dedupe_key_ambiguous")
    );
}

#[test]
fn a_hook_may_say_where_a_repeat_is_known_by() {
    let world = world();
    let github =
        |id: &str, body: &str| send(&world, "github", &[("x-github-delivery", id)], body).status;
    assert_eq!(
        (github("d", "1"), github("d", "2"), github("e", "1")),
        (202, 200, 202)
    );
    let form = |body: &str| send(&world, "forms", &[], body).status;
    assert_eq!(
        (form("who=a&delivery=1"), form("delivery=1&who=a")),
        (202, 200)
    );
    assert_eq!(
        (form("who=a"), form("who=a")),
        (202, 202),
        "without one nothing is a repeat"
    );

    world
        .home
        .run(&["hooks", "edit", "github", "--dedupe-by", "/id"]);
    let shown = world.admin("GET", "/v1/admin/hooks/github", &Value::Null);
    assert_eq!(shown.json()["dedupe_by"], json!("body:/id"), "{shown:?}");
    let of = |body: &str| send(&world, "github", &[], body).status;
    assert_eq!((of(r#"{"id":7}"#), of(r#"{"id":7.0,"n":1}"#)), (202, 200));
}

#[test]
fn the_query_and_the_body_as_sent_are_kept_with_the_event() {
    let world = world();
    let sent = send(&world, "plain?token=a%20b&x=\"1\"", &[], " [1] ");
    let sent = match sent.status {
        202 => sent,
        // A quotation mark is none of a URI's characters.
        _ => send(&world, "plain?token=a%20b&x=1", &[], " [1] "),
    };
    let event = sent.json()["event"].as_str().unwrap().to_owned();
    let state = world.state("plain", 1);
    let query = state[0].as_str().unwrap();
    assert!(query.starts_with("token=a%20b&x="), "{query}");
    assert_eq!((&state[1], &state[2]), (&json!(" [1] "), &Value::Null));
    let shown = world.admin("GET", &format!("/v1/admin/events/{event}"), &Value::Null);
    assert_eq!(shown.json()["query"], json!(query));
    assert_eq!(shown.json()["headers"][":query"], Value::Null);
    let read = world.get("/v1/hooks/plain/events");
    assert_eq!(read.json()["items"][0]["query"], json!(query));
    let told = world.home.run(&["events", "show", &event]);
    assert!(told.contains("token=a%20b"), "{told}");
}

#[test]
fn an_empty_value_is_no_value() {
    let world = world();
    assert_eq!(
        world
            .ask(&Ask::post("plain/").key(&world.write).body("1"))
            .status,
        202
    );
    let both = Ask::post("plain")
        .header("x-hooklane-key", "")
        .key(&world.write);
    assert_eq!(world.ask(&both.body("1")).status, 202);
    let asked = world.get("/v1/hooks/plain/events?limit=&stream=&after_seq=");
    assert_eq!(
        asked.json()["items"].as_array().unwrap().len(),
        2,
        "{asked:?}"
    );
    assert_eq!(world.get("/v1/hooks/plain/events?limit=0").status, 400);
}

#[test]
fn a_hook_with_ordering_keys_is_asked_about_one_stream() {
    let world = world();
    world.accepted("orders", r#"{"id":1}"#);
    for what in ["events", "watch", "state"] {
        let asked = world.get(&format!("/v1/hooks/orders/{what}"));
        assert_eq!(
            (asked.status, asked.code().as_str()),
            (422, "stream_missing"),
            "{what}"
        );
        assert!(
            asked.json()["error"]["hint"]
                .as_str()
                .unwrap()
                .contains("stream=KEY")
        );
    }
    let named = world.get("/v1/hooks/orders/events?stream=1");
    assert_eq!(named.json()["items"].as_array().unwrap().len(), 1);
    world
        .home
        .run(&["hooks", "edit", "orders", "--unordered", "keep"]);
    world.accepted("orders", "{}");
    let own = world.get("/v1/hooks/orders/events");
    assert_eq!(
        own.json()["items"].as_array().unwrap().len(),
        1,
        "its own stream"
    );
}
