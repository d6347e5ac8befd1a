//! Promises of the HTTP server to senders, readers and operators, and its answers to hostile requests:
//! each answer is hooklane's own, none is a 500, and nothing panics.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::SETUP;
use super::daemon::{Home, Setup};
use super::world::{Ask, PATIENCE, Reply, Watcher, World, send, send_and_leave, until};

/// Two hooks that take everything, one ordered by a header, one by its body, and one that is small.
const HOOKS: &str = r#"
    [[hooks]]
    name = "plain"
    reduce = "count"
    [[hooks]]
    name = "other"
    reduce = "latest"
    [[hooks]]
    name = "accounts"
    order_by = "header:X-Account"
    reduce = "count"
    [[hooks]]
    name = "orders"
    order_by = "body:/who"
    reduce = "count"
    [[hooks]]
    name = "small"
    reduce = "count"
    body_max = 10
    [[hooks]]
    name = "stored"
"#;

/// A key that is whole and that nobody made: every checksum is right, the secret is another world's.
fn foreign_key() -> String {
    let home = Home::new(Setup::Embedded);
    home.key("write")
}

fn new_key(world: &World, spec: &Value) -> String {
    let made = world.admin("POST", "/v1/admin/keys", spec);
    assert_eq!(made.status, 201, "{made:?}");
    made.json()["key"].as_str().unwrap().to_owned()
}

fn key_for(world: &World, kind: &str, hook: &str) -> String {
    let spec = json!({"kind": kind, "hook": hook, "name": "mine", "expires_in_ms": null});
    new_key(world, &spec)
}

fn head(world: &World, hook: &str) -> usize {
    let events = world.get(&format!("/v1/hooks/{hook}/events?limit=1000"));
    events.json()["items"].as_array().unwrap().len()
}

#[test]
fn a_write_key_for_the_hook_opens_the_door_from_four_places_and_nothing_else_does() {
    let world = World::new(SETUP, &[], HOOKS);
    let of_plain = key_for(&world, "write", "plain");
    let of_other = key_for(&world, "write", "other");
    let cut_off = &of_plain[..of_plain.len() - 1];
    let mut twisted = of_plain.clone().into_bytes();
    twisted.swap(10, 11);
    twisted.swap(12, 20);
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));

    let right = [
        Ask::post("plain").key(&of_plain),
        Ask::post("plain").key(&world.write),
        Ask::post("plain").key(&world.admin),
        Ask::post("plain").header("authorization", format!("bEaReR   {of_plain} ")),
        Ask::post("plain").header("X-Hooklane-Key", &of_plain),
        Ask::post("plain").header("authorization", basic(&format!("anybody:{of_plain}"))),
        Ask::post("plain").header("authorization", basic(&format!(":{of_plain}"))),
        Ask::post(&format!("plain/{of_plain}")),
    ];
    for ask in &right {
        let reply = world.ask(&ask.clone().body("{}"));
        assert_eq!(reply.status, 202, "{ask:?}: {reply:?}");
    }

    let wrong = [
        Ask::post("plain"),
        Ask::post("plain").key(""),
        Ask::post("plain").key("secret"),
        Ask::post("plain").key(cut_off),
        Ask::post("plain").key(&format!("{of_plain}x")),
        Ask::post("plain").header("authorization", [b"Bearer ", &twisted[..]].concat()),
        Ask::post("plain").header("authorization", b"Bearer \xff\xfe"),
        Ask::post("plain").header("authorization", &of_plain),
        Ask::post("plain").header("authorization", format!("Bearer{of_plain}")),
        Ask::post("plain").header("authorization", format!("Digest {of_plain}")),
        Ask::post("plain").header("authorization", "Basic !!!"),
        Ask::post("plain").header("authorization", basic(&of_plain)),
        Ask::post("plain").header("authorization", basic("a:b")),
        Ask::post("plain").header("x-hooklane-key", ""),
        Ask::post("plain").header("cookie", format!("key={of_plain}")),
        Ask::post("plain").key(&foreign_key()),
        Ask::post("plain").key(&world.read),
        Ask::post("plain").key(&key_for(&world, "read", "plain")),
        Ask::post("plain").key(&of_other),
        Ask::post("other").key(&of_plain),
        Ask::post(&format!("plain?key={of_plain}")),
        Ask::post(&format!("plain/{of_other}")),
        Ask::post(&format!("plain/{cut_off}")),
        Ask::post(&format!("plain/{of_plain}/")),
        Ask::post("plain/"),
        // A key in a path is seen on the way: one that opens more than this hook must not be there.
        Ask::post(&format!("plain/{}", world.write)),
        Ask::post(&format!("plain/{}", world.admin)),
        // The key in the path counts, whatever else is sent.
        Ask::post(&format!("plain/{of_other}")).key(&of_plain),
    ];
    for ask in &wrong {
        let reply = world.ask(&ask.clone().body("{}"));
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (401, "unauthorized"),
            "{ask:?}"
        );
        assert_eq!(
            reply.header("www-authenticate"),
            r#"Bearer realm="hooklane""#
        );
    }
    assert_eq!(head(&world, "plain"), right.len(), "nothing else came in");
    assert_eq!(head(&world, "other"), 0);
}

#[test]
fn a_hook_that_does_not_exist_cannot_be_told_from_one_whose_key_is_wrong() {
    let world = World::new(SETUP, &[], HOOKS);
    let foreign = foreign_key();
    let of_other = key_for(&world, "write", "other");
    let keys = [&foreign, &of_other, &world.read, "hl_w_short", ""];
    let without_date = |mut reply: Reply| {
        reply.headers.retain(|(name, _)| name != "date");
        reply
    };
    for key in keys {
        for method in ["POST", "GET", "PUT"] {
            let to = |hook: &str| {
                let ask = Ask::new(method, &format!("/in/{hook}")).key(key);
                without_date(world.ask(&ask.body("{}")))
            };
            assert_eq!(to("plain"), to("nothing-of-that-name"), "{method} {key}");
        }
        let read = |hook: &str| {
            let ask = Ask::new("GET", &format!("/v1/hooks/{hook}/state")).key(key);
            without_date(world.ask(&ask))
        };
        if key != world.read {
            assert_eq!(read("plain"), read("nothing-of-that-name"), "{key}");
        }
    }
    let in_path = |hook: &str| without_date(world.ask(&Ask::post(&format!("{hook}/{foreign}"))));
    assert_eq!(in_path("plain"), in_path("nothing-of-that-name"));
}

#[test]
fn a_key_opens_nothing_from_the_moment_it_is_revoked_or_has_expired() {
    let world = World::new(SETUP, &[], HOOKS);
    let sends = |key: &str| world.ask(&Ask::post("plain").key(key).body("{}")).status;

    let revoked = key_for(&world, "write", "plain");
    assert_eq!(sends(&revoked), 202);
    world.revoke(&revoked);
    assert_eq!(sends(&revoked), 401, "in force at once");

    let spec = json!({"kind": "write", "hook": "plain", "name": "short", "expires_in_ms": 3000});
    let short = new_key(&world, &spec);
    assert_eq!(sends(&short), 202);
    until(|| (sends(&short) == 401).then_some(()));
    let keys = world.admin("GET", "/v1/admin/keys", &Value::Null).json();
    let states = keys["items"].as_array().unwrap().iter();
    let states: Vec<_> = states.map(|key| key["state"].as_str().unwrap()).collect();
    assert!(states.contains(&"revoked") && states.contains(&"expired"));

    for endless in [u64::MAX, i64::MAX as u64] {
        let spec = json!({"kind": "write", "hook": null, "name": "x", "expires_in_ms": endless});
        let made = world.admin("POST", "/v1/admin/keys", &spec);
        assert!(made.status < 500, "{made:?}");
    }
}

#[test]
fn a_key_that_sends_too_many_is_told_when_to_come_again_before_its_body_is_read() {
    let world = World::new(SETUP, &[], HOOKS);
    let spec =
        json!({"kind": "write", "hook": "plain", "name": "noisy", "rate": "1/m", "burst": 3});
    let noisy = new_key(&world, &spec);
    let post = |key: &str| world.ask(&Ask::post("plain").key(key).body("{}"));
    for _ in 0..3 {
        assert_eq!(post(&noisy).status, 202);
    }
    // A change of the configuration is no new bucket.
    let other = new_key(
        &world,
        &json!({"kind": "write", "hook": null, "name": "b", "rate": "9/s"}),
    );
    let refused = post(&noisy);
    assert_eq!((refused.status, refused.code().as_str()), (429, "too_many"));
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{refused:?}");
    let unsent = Ask::post("plain").key(&noisy);
    let unsent = unsent.header("content-length", "9");
    assert_eq!(
        world.ask(&unsent.header("expect", "100-continue")).status,
        429
    );
    let in_path = Ask::post(&format!("plain/{noisy}")).body("{}");
    assert_eq!(world.ask(&in_path).status, 429, "by whatever way it comes");

    assert_eq!(post(&other).status, 202, "every key has its own");
    assert_eq!(post(&world.write).status, 202, "or none");
    assert_eq!(head(&world, "plain"), 5);
    let page = String::from_utf8(world.get("/metrics").body).unwrap();
    let counted = "hooklane_events_refused_total{reason=\"rate\"} 3";
    assert!(page.contains(counted), "{page}");

    let keys = world.admin("GET", "/v1/admin/keys", &Value::Null).json();
    let keys = keys["items"].as_array().unwrap().iter();
    let rates: Vec<_> = keys.map(|key| (&key["rate"], &key["burst"])).collect();
    assert!(rates.contains(&(&json!("1/m"), &json!(3))), "{rates:?}");
    assert!(rates.contains(&(&json!("9/s"), &json!(9))), "{rates:?}");
    for wrong in [
        json!({"kind": "read", "hook": null, "name": "x", "rate": "1/s"}),
        json!({"kind": "write", "hook": null, "name": "x", "burst": 1}),
        json!({"kind": "write", "hook": null, "name": "x", "rate": "1/s", "burst": 0}),
        json!({"kind": "write", "hook": null, "name": "x", "rate": "0/s"}),
        json!({"kind": "write", "hook": null, "name": "x", "rate": "1/h"}),
    ] {
        let refused = world.admin("POST", "/v1/admin/keys", &wrong);
        assert_eq!((refused.status, refused.code().as_str()), (422, "invalid"));
    }
}

#[test]
fn a_body_that_is_too_long_or_compressed_is_refused_and_one_that_just_fits_is_not() {
    let world = World::new(SETUP, &[], HOOKS);
    let post = || Ask::post("small").key(&world.write);
    let long = vec![b'x'; 3 * 1024 * 1024];
    let cases = [
        (post().body("0123456789"), 202, ""),
        (post().chunks(&[b"01234", b"56789"]), 202, ""),
        (post().chunks(&[]), 202, ""),
        (post().body(""), 202, ""),
        (post(), 202, ""),
        (post().body("0123456789x"), 413, "too_large"),
        (post().chunks(&[b"01234", b"56789", b"x"]), 413, "too_large"),
        (post().body(&long), 413, "too_large"),
        (post().chunks(&[&long[..70_000]; 40]), 413, "too_large"),
        (
            Ask::post("plain").key(&world.write).body(&long),
            413,
            "too_large",
        ),
        (
            post().header("content-encoding", "gzip").body("\x1f\u{8b}"),
            415,
            "encoded",
        ),
        (
            post().header("content-encoding", "identity, br").body("x"),
            415,
            "encoded",
        ),
        (
            post().header("content-encoding", "identity").body("x"),
            202,
            "",
        ),
    ];
    for (ask, status, code) in cases {
        let reply = world.ask(&ask);
        assert_eq!(reply.status, status, "{reply:?}");
        if status != 202 {
            assert_eq!(reply.code(), code);
        }
    }
    assert_eq!(head(&world, "small"), 6);
}

#[test]
fn a_request_is_stored_whole_or_not_at_all() {
    let world = World::new(SETUP, &[], HOOKS);
    let addr = world.home.addr;
    let start = format!(
        "POST /in/plain HTTP/1.1\r\nhost: x\r\nx-hooklane-key: {}\r\nconnection: close\r\n",
        world.write
    );
    for rest in [
        "content-length: 10\r\n\r\n01234",
        "transfer-encoding: chunked\r\n\r\n5\r\n01234\r\n",
        "transfer-encoding: chunked\r\n\r\n5\r\n01234\r\nnonsense\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n-5\r\n01234\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n01234",
        "content-length: -1\r\n\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n\r\n012345",
        "content-length: 99999999999999999999999\r\n\r\n",
        "content-length: 5\r\nno colon\r\n\r\n01234",
        "content-length: 5\r\nx-y: a\u{0}b\r\n\r\n01234",
        "content-length: 5\r\n",
    ] {
        let reply = send_and_leave(addr, format!("{start}{rest}").as_bytes());
        assert!([0, 400, 413].contains(&reply.status), "{rest:?}: {reply:?}");
    }
    for nonsense in [
        &b"\r\n\r\n"[..],
        b"\0\0\0\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/3.0\r\n\r\n",
        b"POST /in/plain\r\n\r\n",
        b"P\xffST /in/plain HTTP/1.1\r\n\r\n",
    ] {
        let reply = send_and_leave(addr, nonsense);
        assert!([0, 400, 404, 505].contains(&reply.status), "{reply:?}");
    }
    assert_eq!(head(&world, "plain"), 0);
    world.accepted("plain", "{}");
}

#[test]
fn what_follows_a_refused_head_is_never_taken_for_another_request() {
    let world = World::new(SETUP, &[], HOOKS);
    let hidden = format!(
        "POST /in/plain HTTP/1.1\r\nhost: x\r\nx-hooklane-key: {}\r\ncontent-length: 2\r\n\r\n{{}}",
        world.write
    );
    let length = hidden.len();
    for head in [
        format!("POST /in/plain HTTP/1.1\r\nhost: x\r\ncontent-length: {length}"),
        format!("POST /in/none HTTP/1.1\r\nhost: x\r\ncontent-length: {length}"),
        format!("GET /in/plain HTTP/1.1\r\nhost: x\r\ncontent-length: {length}"),
        format!("GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: {length}"),
        format!(
            "POST /in/small HTTP/1.1\r\nhost: x\r\nx-hooklane-key: {}\r\ncontent-length: {length}",
            world.write
        ),
    ] {
        let wire = format!("{head}\r\n\r\n{hidden}");
        send_and_leave(world.home.addr, wire.as_bytes());
    }
    assert_eq!(head(&world, "plain"), 0);
}

#[test]
fn a_sender_that_asks_first_is_refused_before_it_sends() {
    let world = World::new(SETUP, &[], HOOKS);
    let refused = |hook: &str, key: &str, more: &str| {
        let head = format!(
            "POST /in/{hook} HTTP/1.1\r\nhost: x\r\nx-hooklane-key: {key}\r\n{more}\
             expect: 100-continue\r\nconnection: close\r\n\r\n"
        );
        send(world.home.addr, head.as_bytes()).status
    };
    assert_eq!(
        refused("small", &world.write, "content-length: 11\r\n"),
        413
    );
    assert_eq!(refused("plain", &world.read, "content-length: 11\r\n"), 401);
    let gzip = "content-length: 9\r\ncontent-encoding: gzip\r\n";
    assert_eq!(refused("plain", &world.write, gzip), 415);
}

#[test]
fn the_secret_of_a_key_is_found_in_no_file() {
    let mut world = World::new(SETUP, &[], HOOKS);
    let key = key_for(&world, "write", "plain");
    let basic = STANDARD.encode(format!("me:{key}"));
    for ask in [
        Ask::post("plain").key(&key),
        Ask::post("plain").header("x-hooklane-key", &key),
        Ask::post("plain").header("authorization", format!("Basic {basic}")),
        Ask::post(&format!("plain/{key}")),
    ] {
        assert_eq!(world.ask(&ask.clone().body("{}")).status, 202);
        assert_eq!(world.ask(&ask.clone().body(vec![0; 2 << 20])).status, 413);
        assert_eq!(world.ask(&ask.chunks(&[b"{}"])).status, 202);
    }
    world.ask(&Ask::post(&format!("other/{key}")).body("{}"));
    world.state("plain", 8);
    world.kill();
    let secret = &key["hl_w_12345678".len()..];
    let mut files = vec![world.home.data().with_file_name("serve.log")];
    for dir in [world.home.data(), world.home.data().join("log")] {
        let entries = std::fs::read_dir(dir).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.retain(|path| path.is_file());
    assert!(files.len() >= 3, "{files:?}");
    for path in files {
        let bytes = std::fs::read(&path).unwrap();
        for secret in [secret, &basic[8..]] {
            let is_there = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!is_there, "{}", path.display());
        }
    }
}

#[test]
fn a_path_means_what_it_says_byte_by_byte() {
    let world = World::new(SETUP, &[], HOOKS);
    for path in [
        "/in/",
        "/in//",
        "/in//plain",
        "/in/%70lain",
        "/in/plain%00",
        "/in/plain%2f",
        "/in/PLAIN",
        "/in/../in/plain",
        "/in/./plain",
        "/in/plain/..",
        "/in/%2e%2e/plain",
        "/in/..%2fplain",
        "/in/%ff",
        "/in/plain;x",
        "/in/'%20or%201=1--",
    ] {
        let reply = world.ask(&Ask::new("POST", path).key(&world.write).body("{}"));
        assert_eq!((reply.status, reply.code().as_str()), (401, "unauthorized"));
    }
    for path in [
        "/",
        "/in",
        "//in/plain",
        "/IN/plain",
        "/v1",
        "/v1/hooks",
        "/..",
    ] {
        let reply = world.ask(&Ask::new("POST", path).key(&world.write).body("{}"));
        assert_eq!((reply.status, reply.code().as_str()), (404, "not_found"));
    }
    assert_eq!(head(&world, "plain"), 0);
    let query = world.ask(&Ask::post("plain?a=b&%ff=%00").key(&world.write).body("1"));
    assert_eq!(query.status, 202, "a query is the sender's business");
    let whole = world.ask(
        &Ask::new("POST", "http://x/in/plain")
            .key(&world.write)
            .body("2"),
    );
    assert_eq!(whole.status, 202, "as proxies write it");
}

#[test]
fn only_post_brings_events_and_the_answer_says_so() {
    let world = World::new(SETUP, &[], HOOKS);
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
        let reply = world.ask(&Ask::new(method, "/in/plain").key(&world.write));
        assert_eq!((reply.status, reply.code().as_str()), (405, "method"));
        assert_eq!(reply.header("allow"), "POST");
    }
    for (method, path, allowed) in [
        ("POST", "/v1/hooks/plain/state", "GET,HEAD"),
        ("DELETE", "/v1/admin/lanes", "GET,HEAD"),
        ("PUT", "/v1/admin/hooks", "GET,HEAD,POST"),
        ("POST", "/healthz", "GET,HEAD"),
    ] {
        let reply = world.ask(&Ask::new(method, path).key(&world.admin));
        assert_eq!((reply.status, reply.code().as_str()), (405, "method"));
        assert_eq!(reply.header("allow"), allowed, "{method} {path}");
    }
}

#[test]
fn events_stand_in_the_stream_that_they_name_whatever_the_name() {
    let world = World::new(SETUP, &[], HOOKS);
    let digest = |bytes: &[u8]| {
        let digest = Sha256::digest(bytes);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    };
    let long = "x".repeat(201);
    let emoji_long = "🎁".repeat(51);
    let mut expected = Vec::new();
    for (value, stream) in [
        ("acme", "acme".to_owned()),
        ("a b", "a b".into()),
        ("a/b", "a/b".into()),
        ("../../etc/passwd", "../../etc/passwd".into()),
        ("%2e%2e", "%2e%2e".into()),
        (
            "'; drop table events; --",
            "'; drop table events; --".into(),
        ),
        ("🎁", "🎁".into()),
        (&"y".repeat(200), "y".repeat(200)),
        (&long, digest(long.as_bytes())),
        (&emoji_long, digest(emoji_long.as_bytes())),
    ] {
        let ask = Ask::post("accounts").key(&world.write);
        let reply = world.ask(&ask.header("x-account", value).body("{}"));
        assert_eq!(reply.json()["stream"], stream, "{value}: {reply:?}");
        let body = json!({"who": value}).to_string();
        assert_eq!(world.accepted("orders", body)["stream"], stream, "{value}");
        expected.push(stream);
    }
    let ask = Ask::post("accounts")
        .key(&world.write)
        .header("x-account", b"\xff\xfe");
    let reply = world.ask(&ask.body("{}"));
    assert_eq!(reply.json()["stream"], digest(b"\xff\xfe"), "not UTF-8");

    for (who, stream) in [
        (r#""a\nb""#, digest(b"a\nb")),
        (r#""\u0000""#, digest(b"\0")),
        (r#""\u00e9""#, "é".to_owned()),
        (r#""é""#, "é".to_owned()),
        (r#""e\u0301""#, "e\u{301}".to_owned()),
        ("1", "1".to_owned()),
        ("1.0", "1".to_owned()),
        ("-0", "0".to_owned()),
        ("1e400", "1e400".to_owned()),
        (
            "123456789012345678901234567890",
            "123456789012345678901234567890".to_owned(),
        ),
        ("true", "true".to_owned()),
    ] {
        let answer = world.accepted("orders", format!(r#"{{"who":{who}}}"#));
        assert_eq!(answer["stream"], stream, "{who}");
    }
    for stream in expected {
        assert_eq!(world.state(&format!("orders/{stream}"), 1), json!(1));
        assert_eq!(world.state(&format!("accounts/{stream}"), 1), json!(1));
        let shown = world.cursor(&format!("orders/{stream}"));
        assert_eq!(shown["stream"], format!("orders/{stream}"));
    }
    assert_eq!(
        world.state("orders/a\nb", 1),
        json!(1),
        "found by the key as it was sent"
    );
    assert_eq!(
        world.state("orders/é", 2),
        json!(2),
        "two ways to write one"
    );
}

#[test]
fn an_event_without_an_ordering_key_is_refused_or_kept_as_its_hook_says() {
    let world = World::new(SETUP, &[], HOOKS);
    let without = [
        "",
        "text",
        "{}",
        "[]",
        "[1,2]",
        r#"{"who":null}"#,
        r#"{"who":""}"#,
        r#"{"who":{}}"#,
        r#"{"who":["a"]}"#,
        r#"{"who":"\ud800"}"#,
        r#"{"who":"a"}x"#,
        r#"{"who":"a""#,
        "who=a",
    ];
    for body in without {
        let reply = world.post("orders", body);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (422, "ordering_key_missing"),
            "{body}"
        );
        assert!(
            reply.json()["error"]["message"]
                .as_str()
                .unwrap()
                .contains("body:/who")
        );
    }
    for empty in [
        Ask::post("accounts"),
        Ask::post("accounts").header("x-account", ""),
    ] {
        let reply = world.ask(&empty.key(&world.write).body("{}"));
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (422, "ordering_key_missing")
        );
    }
    world
        .home
        .run(&["hooks", "edit", "orders", "--unordered", "keep"]);
    for (seq, body) in (1..).zip(without) {
        let answer = world.accepted("orders", body);
        assert_eq!(
            (&answer["stream"], &answer["seq"]),
            (&json!(""), &json!(seq))
        );
    }
    assert_eq!(world.accepted("orders", r#"{"who":"a"}"#)["stream"], "a");
}

/// Bodies that are no pleasure.
fn odd_bodies() -> Vec<Vec<u8>> {
    let deep = |open: &str, close: &str, depth| open.repeat(depth) + "1" + &close.repeat(depth);
    [
        "".into(),
        " ".into(),
        "\0".into(),
        "{\"a\":\"\0\"}".into(),
        "null".into(),
        "true".into(),
        "\"text\"".into(),
        "not json".into(),
        "{\"a\":1".into(),
        "{\"a\":1}{\"b\":2}".into(),
        "{\"a\":1,\"a\":2}".into(),
        "{\"__proto__\":{\"x\":1},\"constructor\":1,\"toString\":null}".into(),
        "1e999".into(),
        "-1e999".into(),
        "{\"n\":123456789012345678901234567890.12345678901234567890}".into(),
        "9".repeat(5_000),
        "\"\\ud800\"".into(),
        "{\"\\ud800\":\"\\udc00\"}".into(),
        "\"\\u0000\"".into(),
        "\u{feff}{}".into(),
        "\u{2028}\u{2029}".into(),
        "a=1&b=2".into(),
        "<xml/>".into(),
        deep("[", "]", 100),
        deep("[", "]", 127),
        deep("[", "]", 128),
        deep("[", "]", 200_000),
        deep("{\"a\":", "}", 50_000),
        "[".repeat(500_000),
        "\u{1b}[31mred\u{7}".into(),
    ]
    .into_iter()
    .map(String::into_bytes)
    .chain([
        b"\xff\xfe\x00".to_vec(),
        b"{\"a\":\"\xc3\x28\"}".to_vec(),
        vec![0; 100_000],
        (0..=255).collect(),
    ])
    .collect()
}

#[test]
fn any_body_comes_back_byte_for_byte_and_every_reducer_goes_on_behind_it() {
    let reducer = "export default (state, event) => ({
        seen: (state?.seen ?? 0) + 1, kind: typeof event.body, last: event.body });";
    let world = World::new(
        SETUP,
        &[("keep.js", reducer)],
        r#"
        [[hooks]]
        name = "script"
        reduce = "keep.js"
        on_error = "skip"
        [[hooks]]
        name = "latest"
        reduce = "latest"
        on_error = "skip"
        [[hooks]]
        name = "merge"
        reduce = "merge"
        on_error = "skip"
        [[hooks]]
        name = "patch"
        reduce = "patch"
        on_error = "skip"
        [[hooks]]
        name = "append"
        reduce = "append:3"
        on_error = "skip"
        "#,
    );
    let bodies = odd_bodies();
    let last = i64::try_from(bodies.len()).unwrap() + 1;
    for hook in ["script", "latest", "merge", "patch", "append"] {
        for body in &bodies {
            world.accepted(hook, body);
        }
        let end = if hook == "patch" {
            "[]"
        } else {
            r#"{"end":1}"#
        };
        world.accepted(hook, end);
        let state = world.state(hook, last);
        match hook {
            "script" => assert_eq!(state["last"], json!({"end": 1}), "{state}"),
            "latest" => assert_eq!(state, json!({"end": 1})),
            "merge" => assert_eq!(state["end"], 1),
            "append" => assert_eq!(state[2], json!({"end": 1})),
            _ => {}
        }
        let events = world
            .get(&format!("/v1/hooks/{hook}/events?limit=1000"))
            .json();
        let kept: Vec<_> = events["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(body_of)
            .collect();
        assert_eq!(kept.len(), bodies.len() + 1);
        for (kept, sent) in kept.iter().zip(&bodies) {
            assert!(kept == sent, "{:?}", String::from_utf8_lossy(sent));
        }
    }
}

/// The bytes of a body as the API shows it: as text if it is one, else in base 64.
fn body_of(row: &Value) -> Vec<u8> {
    match (&row["body"], &row["body_base64"]) {
        (Value::String(text), Value::Null) => text.clone().into_bytes(),
        (Value::Null, Value::String(base64)) => {
            let bytes = STANDARD.decode(base64).unwrap();
            assert!(
                std::str::from_utf8(&bytes).is_err(),
                "text needs no base 64"
            );
            bytes
        }
        _ => panic!("{row}"),
    }
}

#[test]
fn headers_are_kept_for_the_reducer_and_credentials_are_not() {
    let reducer = "export default (state, event) => event.headers;";
    let world = World::new(
        SETUP,
        &[("headers.js", reducer)],
        "[[hooks]]\nname = \"plain\"\nreduce = \"headers.js\"",
    );
    let ask = Ask::post("plain")
        .header("X-Hooklane-Key", &world.write)
        .header("authorization", "Bearer x")
        .header("cookie", "a=b")
        .header("X-Twice", "1")
        .header("x-twice", "\"2\"")
        .header("x-odd", b"\xff\xe9")
        .header("x-empty", "");
    assert_eq!(world.ask(&ask.body("{}")).status, 202);
    let state = world.state("plain", 1);
    assert_eq!(state["x-twice"], "1, \"2\"");
    assert_eq!(state["x-odd"], "\u{fffd}\u{fffd}");
    assert_eq!(state["x-empty"], "");
    for secret in ["authorization", "cookie", "x-hooklane-key", "connection"] {
        assert!(state.get(secret).is_none(), "{secret}");
    }
}

#[test]
fn a_repeat_is_answered_with_the_first_event_and_changes_nothing() {
    let world = World::new(SETUP, &[], HOOKS);
    let send = |hook: &str, name: &str, key: &str, body: &str| {
        let ask = Ask::post(hook).key(&world.write);
        let reply = world.ask(&ask.header(name, key).body(body));
        (reply.status, reply.json())
    };
    for (name, key) in [
        ("Idempotency-Key", "delivery 1"),
        ("webhook-id", "msg_2"),
        ("webhook-id", "🎁"),
        ("idempotency-key", &"k".repeat(5_000)),
    ] {
        let (status, first) = send("plain", name, key, "1");
        assert_eq!((status, &first["duplicate"]), (202, &json!(false)));
        let bodies = if name == "webhook-id" {
            ["1", "another body"]
        } else {
            ["1", "1"]
        };
        for body in bodies {
            let (status, again) = send("plain", name, key, body);
            assert_eq!((status, &again["duplicate"]), (200, &json!(true)));
            for same in ["event", "seq", "received_at", "stream", "hook"] {
                assert_eq!(again[same], first[same], "{name} {same}");
            }
        }
    }
    assert_eq!(head(&world, "plain"), 4);
    let (status, elsewhere) = send("other", "webhook-id", "msg_2", "1");
    assert_eq!((status, &elsewhere["seq"]), (202, &json!(1)), "per stream");
    let orders = |who: &str| {
        send(
            "orders",
            "webhook-id",
            "msg_2",
            &json!({"who": who}).to_string(),
        )
    };
    assert_eq!(
        (orders("a").0, orders("b").0, orders("a").0),
        (202, 202, 200)
    );
    let empty = || send("plain", "webhook-id", "", "1").0;
    assert_eq!((empty(), empty()), (202, 202), "an empty key is none");
    assert_eq!(world.state("plain", 6), json!(6));
}

#[test]
fn of_many_repeats_at_once_one_is_the_first() {
    let world = World::new(SETUP, &[], HOOKS);
    for n in 0..5 {
        let ask = Ask::post("plain").key(&world.write);
        let ask = ask.header("webhook-id", format!("m{n}")).body("{}");
        let replies: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| world.ask(&ask))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let firsts = replies.iter().filter(|reply| reply.status == 202).count();
        assert_eq!(firsts, 1);
        for reply in replies {
            assert!([200, 202].contains(&reply.status), "{reply:?}");
            assert_eq!(reply.json()["seq"], n + 1);
        }
    }
    assert_eq!(head(&world, "plain"), 5);
}

#[test]
fn a_reader_waits_for_a_position_and_is_told_what_there_is_when_it_does_not_come() {
    let world = World::new(SETUP, &[], HOOKS);
    let empty = world.get("/v1/hooks/plain/state");
    assert_eq!(empty.status, 200);
    let empty = empty.json();
    assert_eq!(
        (&empty["position"], &empty["state"]),
        (&json!(0), &Value::Null)
    );

    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| world.get("/v1/hooks/plain/state?min_seq=2&wait=60s"));
        world.accepted("plain", "1");
        world.accepted("plain", "2");
        waiting.join().unwrap()
    });
    assert_eq!(waiting.status, 200, "a stream that was not there yet");
    assert_eq!(waiting.json()["state"], 2);

    let never = world.get("/v1/hooks/plain/state?min_seq=3&wait=20ms");
    assert_eq!(never.status, 504, "{never:?}");
    let told = never.json();
    assert_eq!(
        (&told["position"], &told["head"], &told["state"]),
        (&json!(2), &json!(2), &json!(2))
    );
    assert_eq!(told["hook"], "plain");
    for far in [
        "9223372036854775807&wait=1ms",
        "-9223372036854775808&wait=0ms",
    ] {
        let reply = world.get(&format!("/v1/hooks/plain/state?min_seq={far}"));
        assert!([200, 504].contains(&reply.status), "{reply:?}");
    }
    let unknown = world.get("/v1/hooks/orders/state?stream=nobody&min_seq=1&wait=10ms");
    assert_eq!(
        (unknown.status, &unknown.json()["position"]),
        (504, &json!(0))
    );
    let stored = world.get("/v1/hooks/stored/state");
    assert_eq!(
        (stored.status, stored.code().as_str()),
        (422, "invalid"),
        "no reducer, no state"
    );
}

#[test]
fn a_state_that_is_known_is_not_sent_again_until_it_changes() {
    let world = World::new(SETUP, &[], HOOKS);
    world.accepted("plain", "1");
    world.state("plain", 1);
    let path = "/v1/hooks/plain/state";
    let tag = world.get(path).header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with("-1\""), "{tag}");
    let ask = |tag: &str| {
        world.ask(
            &Ask::new("GET", path)
                .key(&world.read)
                .header("if-none-match", tag),
        )
    };
    let known = ask(&tag);
    assert_eq!((known.status, known.body.len()), (304, 0));
    assert_eq!(known.header("etag"), tag);
    for also in [
        format!("W/{tag}"),
        format!("\"0-0\", {tag}"),
        format!("\"0-0\",W/{tag} , \"x\""),
        "*".to_owned(),
    ] {
        assert_eq!(ask(&also).status, 304, "{also}");
    }
    for other in ["\"0-0\"", "nonsense", "", "\u{0}1"] {
        assert!([200, 0, 400].contains(&ask(other).status), "{other:?}");
    }
    world.accepted("plain", "2");
    world.state("plain", 2);
    assert_eq!(ask(&tag).status, 200, "it has changed");
}

#[test]
fn pages_of_streams_and_events_have_each_item_once() {
    let world = World::new(SETUP, &[], HOOKS);
    for who in 0..7 {
        world.accepted("orders", format!(r#"{{"who":"w{who}"}}"#));
    }
    for n in 0..7 {
        world.accepted("plain", n.to_string());
        // Ids of one millisecond stand in no order.
        std::thread::sleep(Duration::from_millis(1));
    }
    let pages = |path: &str, cursor: &str, limit: usize, name: &str| {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = world.get(&format!("{path}?limit={limit}{after}")).json();
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= limit);
            seen.extend(items.iter().map(|item| item[name].to_string()));
            match page["next"].as_str() {
                Some(next) => after = format!("&{cursor}={next}"),
                None => return seen,
            }
        }
    };
    let streams: Vec<_> = (0..7).map(|who| format!("\"orders/w{who}\"")).collect();
    let seqs: Vec<_> = (1..=7).map(|seq| seq.to_string()).collect();
    for limit in [1, 2, 3, 7, 8, 1000] {
        assert_eq!(
            pages("/v1/hooks/orders/streams", "after", limit, "stream"),
            streams
        );
        assert_eq!(
            pages("/v1/hooks/plain/events", "after_seq", limit, "seq"),
            seqs
        );
    }
    let (mut ids, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/admin/events?hook=plain&limit=3{after}");
        let page = world.admin("GET", &path, &Value::Null).json();
        ids.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|row| row["seq"].clone()),
        );
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(
        ids,
        (1..=7).rev().map(Value::from).collect::<Vec<_>>(),
        "newest first"
    );
    let nothing = world.get("/v1/hooks/orders/events?stream=nobody").json();
    assert_eq!(
        (&nothing["items"], &nothing["next"]),
        (&json!([]), &Value::Null)
    );
}

#[test]
fn a_watcher_sees_each_new_state_once_and_a_proper_end_when_the_daemon_stops() {
    let mut world = World::new(SETUP, &[], HOOKS);
    world.accepted("orders", r#"{"who":"a"}"#);
    world.state("orders/a", 1);
    let path = "/v1/hooks/orders/watch?stream=a";
    let mut watcher = Watcher::new(world.home.addr, path, &world.read);
    assert_eq!(watcher.next().unwrap()["state"], 1, "what there is");
    for n in 2..6 {
        world.accepted("orders", r#"{"who":"b"}"#);
        world.accepted("orders", r#"{"who":"a"}"#);
        let seen = watcher.next().unwrap();
        assert_eq!((&seen["state"], &seen["position"]), (&json!(n), &json!(n)));
        assert_eq!(seen["stream"], "a");
    }
    let early = "/v1/hooks/orders/watch?stream=later";
    let mut early = Watcher::new(world.home.addr, early, &world.read);
    assert_eq!(early.next().unwrap()["position"], 0, "before it exists");
    world.accepted("orders", r#"{"who":"later"}"#);
    assert_eq!(early.next().unwrap()["state"], 1);

    let mut daemon = world.daemon.take().unwrap();
    let status = daemon.terminate(Duration::from_secs(10)).expect("in time");
    assert_eq!(status.code(), Some(0));
    assert_eq!((watcher.next(), early.next()), (None, None));
    assert!(watcher.has_ended && early.has_ended);
}

#[test]
fn a_tail_shows_what_comes_to_its_hook_and_nothing_that_came_before() {
    let mut world = World::new(SETUP, &[], HOOKS);
    for n in 0..3 {
        world.accepted("plain", n.to_string());
    }
    world.accepted("other", "the newest of all");
    let tail = |query: &str| {
        let path = format!("/v1/admin/events/tail{query}");
        Watcher::new(world.home.addr, &path, &world.admin)
    };
    let mut all = tail("");
    let mut plain = tail("?hook=plain");
    let mut stream = tail("?stream=plain");
    for n in 4..8 {
        let other = world.accepted("other", "x")["event"].clone();
        let sent = world.accepted("plain", n.to_string());
        assert_eq!(all.next().unwrap()["event"], other);
        for tail in [&mut all, &mut plain, &mut stream] {
            let row = tail.next().unwrap();
            assert_eq!((&row["event"], &row["seq"]), (&sent["event"], &json!(n)));
        }
    }
    let mut daemon = world.daemon.take().unwrap();
    assert_eq!(
        daemon.terminate(Duration::from_secs(10)).unwrap().code(),
        Some(0)
    );
    assert_eq!((all.next(), plain.next()), (None, None));
}

/// Every call of the admin API, each as it would be right.
const ADMIN: [(&str, &str); 20] = [
    ("GET", "/v1/admin/hooks"),
    ("POST", "/v1/admin/hooks"),
    ("GET", "/v1/admin/hooks/plain"),
    ("PATCH", "/v1/admin/hooks/plain"),
    ("DELETE", "/v1/admin/hooks/plain"),
    ("POST", "/v1/admin/hooks/apply"),
    ("POST", "/v1/admin/hooks/plain/test"),
    ("GET", "/v1/admin/keys"),
    ("POST", "/v1/admin/keys"),
    ("DELETE", "/v1/admin/keys/k_00000000"),
    ("GET", "/v1/admin/namespaces"),
    ("POST", "/v1/admin/namespaces"),
    ("DELETE", "/v1/admin/namespaces/default"),
    ("GET", "/v1/admin/lanes"),
    ("GET", "/v1/admin/streams"),
    ("GET", "/v1/admin/streams/show?stream=plain"),
    ("POST", "/v1/admin/streams/retry"),
    ("POST", "/v1/admin/streams/skip"),
    ("GET", "/v1/admin/events"),
    ("GET", "/v1/admin/events/tail"),
];

#[test]
fn a_key_was_used_as_soon_as_it_was_and_from_where_a_restart_remembers() {
    let mut world = World::new(SETUP, &[], HOOKS);
    let used = |world: &World| {
        let keys = world.admin("GET", "/v1/admin/keys", &Value::Null).json();
        let keys = keys["items"].as_array().unwrap().clone();
        let key = keys.into_iter().find(|key| key["type"] == "write").unwrap();
        (key["last_used_at"].clone(), key["last_used_from"].clone())
    };
    assert_eq!(used(&world), (Value::Null, Value::Null));
    world.accepted("plain", "{}");
    let seen = used(&world);
    assert_eq!(seen.1, "127.0.0.1");
    world.daemon.take().unwrap().terminate(PATIENCE);
    world.restart();
    assert_eq!(used(&world), seen);
}

#[test]
fn the_admin_api_is_for_admin_keys_alone_and_reading_for_keys_that_read() {
    let world = World::new(SETUP, &[], HOOKS);
    world.accepted("plain", "1");
    for (method, path) in ADMIN {
        let ask = |key: &str| world.ask(&Ask::new(method, path).key(key).body("{}"));
        for key in [&world.read, &world.write] {
            let reply = ask(key);
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (403, "forbidden"),
                "{path}"
            );
        }
        for nobody in ["", "hl_a_x", &foreign_key()] {
            let reply = ask(nobody);
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (401, "unauthorized"),
                "{path}"
            );
        }
    }
    let of_plain = key_for(&world, "read", "plain");
    for what in ["state", "streams", "events"] {
        let ask = |hook: &str, key: &str| {
            let path = format!("/v1/hooks/{hook}/{what}");
            world.ask(&Ask::new("GET", &path).key(key)).status
        };
        assert_eq!(ask("plain", &of_plain), 200);
        assert_eq!(ask("plain", &world.read), 200);
        assert_eq!(ask("plain", &world.admin), 200);
        assert_eq!(ask("plain", &world.write), 401);
        assert_eq!(ask("other", &of_plain), 401);
        assert_eq!(ask("none", &of_plain), 401);
        assert_eq!(ask("none", &world.read), 404);
    }
}

#[test]
fn garbage_in_a_query_or_an_admin_body_is_refused_in_our_own_words() {
    let world = World::new(SETUP, &[], HOOKS);
    world.accepted("plain", "1");
    for path in [
        "/v1/hooks/plain/state?min_seq=x",
        "/v1/hooks/plain/state?min_seq=99999999999999999999",
        "/v1/hooks/plain/state?wait=soon",
        "/v1/hooks/plain/state?wait=-1s",
        "/v1/hooks/plain/state?wait=999999999999999999999d",
        "/v1/hooks/plain/state?surprise=1",
        "/v1/hooks/plain/state?stream=a&stream=b",
        "/v1/hooks/plain/streams?limit=0",
        "/v1/hooks/plain/streams?limit=1001",
        "/v1/hooks/plain/streams?limit=-1",
        "/v1/hooks/plain/streams?after=x",
        "/v1/hooks/plain/events?limit=1e3",
        "/v1/hooks/plain/events?after_seq=x",
        "/v1/hooks/plain/watch?streams=a",
        "/v1/hooks/%ff/state",
        "/v1/admin/hooks?namespace=No%20Name",
        "/v1/admin/hooks/UPPER",
        "/v1/admin/hooks/%ff",
        "/v1/admin/lanes?namespace=-",
        "/v1/admin/streams?sort=newest",
        "/v1/admin/streams?limit=x",
        "/v1/admin/streams/show",
        "/v1/admin/streams/show?stream=",
        "/v1/admin/streams/show?stream=/a",
        "/v1/admin/events?since=yesterday",
        "/v1/admin/events?after=evt_1",
        "/v1/admin/events/evt_x",
        "/v1/admin/events/tail?hook=%00",
    ] {
        let reply = world.admin("GET", path, &Value::Null);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "malformed"),
            "{path}"
        );
    }
    for (path, status) in [
        ("/v1/admin/streams?condition=sad", 422),
        ("/v1/admin/hooks/nobody", 404),
        ("/v1/admin/lanes?namespace=nobody", 404),
        ("/v1/admin/streams?hook=nobody", 404),
        ("/v1/admin/streams/show?stream=plain/nobody", 404),
        ("/v1/admin/events?hook=nobody", 404),
        ("/v1/admin/events?stream=plain/nobody", 404),
        ("/v1/admin/events/evt_00000000000000000000000000", 404),
        ("/v1/admin/nothing", 404),
    ] {
        let reply = world.admin("GET", path, &Value::Null);
        assert_eq!(reply.status, status, "{path}: {reply:?}");
        reply.code();
    }
    for path in [
        "/v1/admin/keys/x",
        "/v1/admin/keys/%ff",
        "/v1/admin/keys/k_00000000",
    ] {
        let reply = world.admin("DELETE", path, &Value::Null);
        assert!([400, 404].contains(&reply.status), "{reply:?}");
        reply.code();
    }
    let json = |body: &str| {
        let ask = Ask::new("POST", "/v1/admin/hooks").key(&world.admin);
        world.ask(&ask.header("content-type", "application/json").body(body))
    };
    let big = format!(r#"{{"name":"{}"}}"#, "x".repeat(3 << 20));
    for body in [
        "",
        "{",
        "null",
        "[]",
        "\u{0}",
        "{}",
        r#"{"name":7}"#,
        r#"{"name":""}"#,
        r#"{"name":"UPPER"}"#,
        r#"{"name":"plain"}"#,
        r#"{"name":"a","surprise":1}"#,
        r#"{"name":"a","namespace":"nobody"}"#,
        r#"{"name":"a","order_by":"who"}"#,
        r#"{"name":"a","unordered":"perhaps"}"#,
        r#"{"name":"a","reduce":"sum"}"#,
        r#"{"name":"a","reduce":"append:0"}"#,
        r#"{"name":"a","on_error":"cry"}"#,
        r#"{"name":"a","body_max":0}"#,
        r#"{"name":"a","body_max":-1}"#,
        r#"{"name":"a","body_max":99999999999}"#,
        &"[".repeat(100_000),
        &big,
    ] {
        let reply = json(body);
        let shown: String = body.chars().take(80).collect();
        assert!((400..500).contains(&reply.status), "{shown}: {reply:?}");
        reply.code();
    }
    let hooks = world.admin("GET", "/v1/admin/hooks", &Value::Null).json();
    assert_eq!(
        hooks["items"].as_array().unwrap().len(),
        6,
        "nothing was made"
    );
    let untyped = Ask::new("POST", "/v1/admin/hooks")
        .key(&world.admin)
        .body("{}");
    let untyped = world.ask(&untyped);
    assert!((400..500).contains(&untyped.status), "{untyped:?}");
    untyped.code();
}

#[test]
fn an_operation_longer_than_it_may_be_is_too_large_and_not_malformed() {
    let world = World::new(SETUP, &[], HOOKS);
    let max = 2 * 1024 * 1024;
    let spec = r#"{"name":"long"}"#;
    let spec = |length: usize| spec.to_owned() + &" ".repeat(length - spec.len());
    let ask = || {
        let ask = Ask::new("POST", "/v1/admin/hooks").key(&world.admin);
        ask.header("content-type", "application/json")
    };
    let too_long = spec(max + 1);
    assert_eq!(too_long.len(), max + 1);
    let (first, last) = too_long.as_bytes().split_at(max);
    for refused in [
        world.ask(
            &ask()
                .header("content-length", "999999999")
                .header("expect", "100-continue"),
        ),
        world.ask(&ask().body(&too_long)),
        world.ask(&ask().chunks(&[first, last])),
    ] {
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (413, "too_large")
        );
    }
    assert_eq!(world.ask(&ask().body(spec(max))).status, 201);
}

#[test]
fn the_daemon_says_whether_it_is_well_without_a_key() {
    let world = World::new(SETUP, &[], HOOKS);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(world.ask(&Ask::new("GET", path)).status, 200, "{path}");
    }
    let old = b"GET /healthz HTTP/1.0\r\n\r\n";
    assert_eq!(send(world.home.addr, old).status, 200);
}

#[test]
fn deliveries_of_known_providers_become_the_state_that_their_reducers_mean() {
    let world = World::new(
        SETUP,
        &[
            ("github.js", include_str!("samples/github.js")),
            ("stripe.js", include_str!("samples/stripe.js")),
            ("shopify.js", include_str!("samples/shopify.js")),
        ],
        r#"
        [[hooks]]
        name = "github"
        order_by = "body:/repository/full_name"
        reduce = "github.js"
        [[hooks]]
        name = "stripe"
        order_by = "body:/data/object/customer"
        reduce = "stripe.js"
        [[hooks]]
        name = "shopify"
        order_by = "header:X-Shopify-Shop-Domain"
        reduce = "shopify.js"
        "#,
    );
    let push = include_str!("samples/github-push.json");
    let github = |event: &str, id: &str| {
        let ask = Ask::post("github").key(&world.write);
        let ask = ask
            .header("X-GitHub-Event", event)
            .header("X-GitHub-Delivery", id);
        world
            .ask(&ask.header("content-type", "application/json").body(push))
            .status
    };
    assert_eq!(
        (
            github("push", "1"),
            github("star", "2"),
            github("push", "3")
        ),
        (202, 202, 202)
    );
    assert_eq!(
        world.state("github/octo/shop", 3),
        json!({
            "pushes": 2,
            "authors": {"ana": 2, "ben": 2},
            "files": ["README.md", "src/lib.rs", "src/old.rs", "src/thanks.rs"],
            "head": "8f0e1d2c3b4a59687786a5b4c3d2e1f00f1e2d3c",
            "subject": "Say \"thank you\" – in every language",
        })
    );

    let paid = include_str!("samples/stripe-invoice-paid.json");
    let second = paid.replace("in_1SXa2aLkdIwHu7ixN6tYw8Vd", "in_2");
    for body in [paid, paid, &second] {
        world.accepted("stripe", body);
    }
    assert_eq!(
        world.state("stripe/cus_TUiPq1Zx8bKw3n", 3),
        json!({
            "customer": "cus_TUiPq1Zx8bKw3n",
            "paid": {"eur": 4756},
            "invoices": ["in_1SXa2aLkdIwHu7ixN6tYw8Vd", "in_2"],
            "last": "2025-11-24T16:02:03.000Z",
        })
    );

    let order = include_str!("samples/shopify-orders-create.json");
    let shopify = |id: &str, name: &str| {
        let ask = Ask::post("shopify").key(&world.write);
        let ask = ask.header("X-Shopify-Shop-Domain", "octo.myshopify.com");
        let ask = ask
            .header("webhook-id", id)
            .header("X-Shopify-Topic", "orders/create");
        world.ask(&ask.body(order.replace("#9999", name))).status
    };
    assert_eq!(
        (shopify("a", "#1"), shopify("a", "#1"), shopify("b", "#2")),
        (202, 200, 202)
    );
    assert_eq!(
        world.state("shopify/octo.myshopify.com", 2),
        json!({
            "shop": "octo.myshopify.com",
            "orders": ["#1", "#2"],
            "cents": 79_600,
            "pieces": {"IPOD2008PINK": 4},
        })
    );
}
