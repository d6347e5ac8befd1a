//! Handshakes: the test of a URL by a provider is answered where the hook asks for it, and nowhere else; it is never
//! stored, and no answer repeats markup.

use serde_json::{Value, json};

use super::daemon::Setup;
use super::verify::{hmac, now};
use super::world::{Ask, Reply, World};

on_both_setups! {
    slack_gets_its_challenge_back_only_when_it_has_signed
    zoom_gets_its_token_signed_only_where_the_hook_asks_for_it
    twitch_gets_its_challenge_back_only_when_it_has_signed
    x_gets_its_token_signed_and_nothing_that_could_be_an_event
    meta_subscribes_only_with_a_write_key_of_the_hook
    graph_gets_its_token_back_only_with_a_key_and_where_the_hook_asks_for_it
    probes_are_answered_only_where_the_hook_asks_for_it
    handshakes_that_are_not_safe_are_refused_with_what_to_give
}

const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";

const ZOOM: &str = "hmac:header=x-zm-signature,prefix=v0=,time=x-zm-request-timestamp,\
                    signed=v0:{header:x-zm-request-timestamp}:{body}";

/// A world with one hook for each line: its name, and its other settings.
fn world(setup: Setup, hooks: &[(&str, &str)]) -> World {
    let hook =
        |(name, settings): &(&str, &str)| format!("[[hooks]]\nname = '{name}'\n{settings}\n");
    let hooks: String = hooks.iter().map(hook).collect();
    World::new(setup, &[("a.secret", SECRET)], &hooks)
}

fn verified(scheme: &str) -> String {
    format!("verify = '{scheme}'\nsecret_file = 'a.secret'\n")
}

/// A write key of one hook, for its URL.
fn key(world: &World, hook: &str) -> String {
    let name = format!("key-{hook}");
    let args = [
        "keys", "create", "--type", "write", "--hook", hook, "--name", &name,
    ];
    world.home.run(&args)
}

/// A request as Slack and Zoom sign it, with the names of their headers.
fn signed(hook: &str, [signature, time]: [&str; 2], key: &str, body: &str) -> Ask {
    let at = now();
    let made = hmac(key, &format!("v0:{at}:{body}"));
    Ask::post(hook)
        .header(signature, format!("v0={made}"))
        .header(time, at.to_string())
        .body(body)
}

const OF_SLACK: [&str; 2] = ["X-Slack-Signature", "X-Slack-Request-Timestamp"];

const OF_ZOOM: [&str; 2] = ["x-zm-signature", "x-zm-request-timestamp"];

/// An answer that repeats `text`, of a type that no browser interprets.
fn repeats(reply: &Reply, text: &str) {
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert_eq!(reply.body, text.as_bytes(), "{reply:?}");
}

/// A refusal in which nothing of `text` is repeated.
fn refused(reply: &Reply, status: u16, text: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    let body = String::from_utf8_lossy(&reply.body);
    assert!(!body.contains(text), "{reply:?}");
}

fn events(world: &World, hook: &str) -> usize {
    let list = ["events", "list", "--hook", hook, "-o", "json"];
    let rows: Value = serde_json::from_str(&world.home.run(&list)).unwrap();
    rows["items"].as_array().unwrap().len()
}

fn slack_gets_its_challenge_back_only_when_it_has_signed(setup: Setup) {
    let world = world(setup, &[("team", &verified("slack")), ("plain", "")]);
    let body = |challenge: &str| {
        json!({"token": "t", "type": "url_verification", "challenge": challenge}).to_string()
    };
    let challenge = "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P";
    let ask = |key: &str, body: &str| world.ask(&signed("team", OF_SLACK, key, body));
    repeats(&ask(SECRET, &body(challenge)), challenge);
    refused(&ask("another", &body(challenge)), 401, challenge);
    let unsigned = Ask::post("team").body(body(challenge));
    refused(&world.ask(&unsigned), 401, challenge);
    refused(&ask(SECRET, &body("<script>")), 400, "script");
    refused(&ask(SECRET, &body(&"a".repeat(1_025))), 400, "aaaa");
    assert_eq!(events(&world, "team"), 0, "a handshake is no event");
    let other = json!({"type": "event_callback", "event_id": "Ev1", "challenge": "c"}).to_string();
    assert_eq!(ask(SECRET, &other).status, 202);
    assert_eq!(events(&world, "team"), 1);
    // Without --verify it is an event as any other.
    refused(&world.post("plain", body(challenge)), 202, challenge);
    assert!(
        world
            .home
            .run(&["hooks", "show", "team"])
            .contains("handshake   slack")
    );
}

fn zoom_gets_its_token_signed_only_where_the_hook_asks_for_it(setup: Setup) {
    let asks = format!("{}handshake = 'zoom'", verified(ZOOM));
    let world = world(setup, &[("meet", &asks), ("silent", &verified(ZOOM))]);
    let body = json!({
        "event": "endpoint.url_validation",
        "event_ts": 1_654_503_849_680_i64,
        "payload": {"plainToken": "qgg8vlvZRS6UYooatFL8Aw"},
    });
    let body = body.to_string();
    let ask = |hook, key: &str| world.ask(&signed(hook, OF_ZOOM, key, &body));
    let reply = ask("meet", SECRET);
    let tokens = json!({
        "plainToken": "qgg8vlvZRS6UYooatFL8Aw",
        "encryptedToken": hmac(SECRET, "qgg8vlvZRS6UYooatFL8Aw"),
    });
    assert_eq!((reply.status, reply.json()), (200, tokens), "{reply:?}");
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    refused(&ask("meet", "another"), 401, "encryptedToken");
    refused(
        &world.ask(&Ask::post("meet").body(&body)),
        401,
        "encryptedToken",
    );
    assert_eq!(events(&world, "meet"), 0);
    refused(&ask("silent", SECRET), 202, "encryptedToken");
    assert_eq!(events(&world, "silent"), 1);
    // While a secret is changed, the token is signed with the one that signed the request.
    let next = world.home.write("next.secret", "the-next-secret");
    let add = ["hooks", "secrets", "add", "meet", "--secret-file"];
    world
        .home
        .run(&[&add[..], &[next.to_str().unwrap()]].concat());
    for secret in [SECRET, "the-next-secret"] {
        let encrypted = hmac(secret, "qgg8vlvZRS6UYooatFL8Aw");
        assert_eq!(
            ask("meet", secret).json()["encryptedToken"],
            json!(encrypted)
        );
    }
}

const TWITCH: &str = "hmac:header=twitch-eventsub-message-signature,prefix=sha256=,\
                      time=twitch-eventsub-message-timestamp,\
                      signed={header:twitch-eventsub-message-id}{header:twitch-eventsub-message-timestamp}{body}";

fn twitch_gets_its_challenge_back_only_when_it_has_signed(setup: Setup) {
    let asks = format!("{}handshake = 'twitch'", verified(TWITCH));
    let world = world(setup, &[("stream", &asks), ("silent", &verified(TWITCH))]);
    let id = "e76c6bd4-55c9-4987-8304-da1588d8988b";
    let at = jiff::Timestamp::now().to_string();
    let ask = |hook: &str, kind: &str, key: &str, body: &str| {
        let made = hmac(key, &format!("{id}{at}{body}"));
        let ask = Ask::post(hook)
            .header("Twitch-Eventsub-Message-Id", id)
            .header("Twitch-Eventsub-Message-Timestamp", &at)
            .header("Twitch-Eventsub-Message-Type", kind)
            .header(
                "Twitch-Eventsub-Message-Signature",
                format!("sha256={made}"),
            );
        world.ask(&ask.body(body))
    };
    let verification = "webhook_callback_verification";
    let body = json!({"challenge": "pogchamp-kappa-360noscope-vohiyo"}).to_string();
    repeats(
        &ask("stream", verification, SECRET, &body),
        "pogchamp-kappa-360noscope-vohiyo",
    );
    refused(
        &ask("stream", verification, "another", &body),
        401,
        "pogchamp",
    );
    let markup = json!({"challenge": "<script>"}).to_string();
    refused(&ask("stream", verification, SECRET, &markup), 400, "script");
    assert_eq!(events(&world, "stream"), 0);
    assert_eq!(ask("stream", "notification", SECRET, &body).status, 202);
    refused(&ask("silent", verification, SECRET, &body), 202, "pogchamp");
}

const OF_X: &str = "hmac:header=x-twitter-webhooks-signature,encoding=base64,prefix=sha256=";

/// The signature of X, from hexadecimal digits.
fn in_base64(digits: &str) -> String {
    use base64::Engine as _;
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    format!("sha256={text}")
}

fn x_gets_its_token_signed_and_nothing_that_could_be_an_event(setup: Setup) {
    let asks = format!("{}handshake = 'x'", verified(OF_X));
    let world = world(setup, &[("posts", &asks), ("silent", &verified(OF_X))]);
    let ask = |hook: &str, token: &str| {
        world.ask(&Ask::new(
            "GET",
            &format!("/in/{hook}?crc_token={token}&nonce=a"),
        ))
    };
    let token = "9b4507b3-9040-4669-9ca3-6b94edb50553";
    let reply = ask("posts", token);
    let signed = in_base64(&hmac(SECRET, token));
    assert_eq!(
        (reply.status, reply.json()),
        (200, json!({"response_token": signed}))
    );
    assert_eq!(ask("silent", token).status, 401);
    // A token that could be an event would be its signature.
    for bad in [
        "%7B%7D",
        "%5B%5D",
        "%22a%22",
        "",
        "%0a",
        &"a".repeat(257),
        "a&crc_token=b",
    ] {
        let reply = ask("posts", bad);
        refused(&reply, 400, "response_token");
    }
    let event = |body: &str| {
        let header = in_base64(&hmac(SECRET, body));
        let ask = Ask::post("posts").header("x-twitter-webhooks-signature", header);
        world.ask(&ask.body(body)).status
    };
    assert_eq!(event("{\"for_user_id\":\"1\"}"), 202);
    for forged in [token, "17", "true", ""] {
        assert_eq!(event(forged), 400, "{forged}");
    }
    assert_eq!(events(&world, "posts"), 1);
}

fn meta_subscribes_only_with_a_write_key_of_the_hook(setup: Setup) {
    let github = verified("github");
    let asks = format!("{github}handshake = 'meta'");
    let world = world(
        setup,
        &[("page", &asks), ("other", &asks), ("silent", &github)],
    );
    let ask = |hook: &str, query: &str| world.ask(&Ask::new("GET", &format!("/in/{hook}?{query}")));
    let query = |token: &str, challenge: &str| {
        format!("hub.mode=subscribe&hub.challenge={challenge}&hub.verify_token={token}")
    };
    let (good, others, silents) = (
        key(&world, "page"),
        key(&world, "other"),
        key(&world, "silent"),
    );
    repeats(&ask("page", &query(&good, "1158201444")), "1158201444");
    for token in [&others, &world.read, &world.admin, "", "wrong", "hl_w_x"] {
        refused(&ask("page", &query(token, "1158201444")), 401, "1158201444");
    }
    refused(
        &ask("page", "hub.mode=subscribe&hub.challenge=77"),
        400,
        "77",
    );
    refused(&ask("page", &query(&good, "%3Cscript%3E")), 400, "script");
    refused(&ask("page", &query(&good, "")), 400, "challenge=");
    refused(
        &ask("silent", &query(&silents, "1158201444")),
        401,
        "1158201444",
    );
    // The token lets nobody post.
    assert_eq!(
        world
            .ask(&Ask::post(&format!("page/{good}")).body("{}"))
            .status,
        401
    );
    assert_eq!(world.ask(&Ask::new("HEAD", "/in/page")).status, 401);
    assert_eq!(events(&world, "page"), 0);
    // A revoked key is no token.
    let id = format!("k_{}", &good["hl_w_".len()..][..8]);
    world.home.run(&["keys", "revoke", &id, "--yes"]);
    refused(&ask("page", &query(&good, "1158201444")), 401, "1158201444");
}

fn graph_gets_its_token_back_only_with_a_key_and_where_the_hook_asks_for_it(setup: Setup) {
    let world = world(setup, &[("mail", "handshake = 'graph'"), ("silent", "")]);
    let (mail, silent) = (key(&world, "mail"), key(&world, "silent"));
    let ask = |path: &str, token: &str| {
        world.ask(&Ask::post(&format!("{path}?validationToken={token}")).body(""))
    };
    let sent = "Validation%3A+Testing+client%20application%2C+Request-Id%3A+0a1b";
    let told = "Validation: Testing client application, Request-Id: 0a1b";
    repeats(&ask(&format!("mail/{mail}"), sent), told);
    refused(&ask("mail", sent), 401, "Testing");
    refused(&ask(&format!("mail/{silent}"), sent), 401, "Testing");
    for bad in [
        "%3Cscript%3E",
        "%0d%0a",
        "%ff",
        "",
        &"a".repeat(1_025),
        "a&validationToken=b",
    ] {
        refused(&ask(&format!("mail/{mail}"), bad), 400, "script");
    }
    assert_eq!(events(&world, "mail"), 0);
    let event = world.ask(&Ask::post(&format!("mail/{mail}")).body("{\"value\":[]}"));
    assert_eq!(event.status, 202, "{event:?}");
    refused(&ask(&format!("silent/{silent}"), sent), 202, "Testing");
}

fn probes_are_answered_only_where_the_hook_asks_for_it(setup: Setup) {
    let stripe = verified("stripe");
    let asks = format!("{stripe}handshake = 'probe'");
    let hooks = [
        ("open", &*asks),
        ("keyed", "handshake = 'probe'"),
        ("silent", &stripe),
    ];
    let world = world(setup, &hooks);
    let keyed = key(&world, "keyed");
    let ask = |method: &str, path: &str| world.ask(&Ask::new(method, &format!("/in/{path}")));
    for method in ["HEAD", "GET"] {
        repeats(&ask(method, "open"), "");
        repeats(&ask(method, &format!("keyed/{keyed}")), "");
        for path in ["keyed", "silent", "unknown"] {
            assert_eq!(ask(method, path).status, 401, "{method} {path}");
        }
    }
    assert_eq!(ask("PUT", "open").status, 401);
    assert_eq!(ask("PUT", &format!("keyed/{keyed}")).status, 405);
    assert_eq!(
        ask("POST", "open").status,
        401,
        "an event needs its signature"
    );
    // It ends as it began, by a flag.
    world
        .home
        .run(&["hooks", "edit", "open", "--handshake", "none"]);
    assert_eq!(ask("GET", "open").status, 401);
    world
        .home
        .run(&["hooks", "edit", "silent", "--handshake", "probe"]);
    repeats(&ask("GET", "silent"), "");
    let shown = world.home.run(&["hooks", "show", "silent", "-o", "json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["handshake"], json!("probe"), "{shown}");
}

fn handshakes_that_are_not_safe_are_refused_with_what_to_give(setup: Setup) {
    let world = world(setup, &[("a", "")]);
    let file = world.home.write("b.secret", SECRET);
    let file = file.to_str().unwrap();
    for (args, part) in [
        (&["--handshake", "slack"][..], "give --verify slack"),
        (
            &["--handshake", "zoom"],
            "give --verify 'hmac:header=x-zm-signature",
        ),
        (
            &[
                "--handshake",
                "graph",
                "--verify",
                "stripe",
                "--secret-file",
                file,
            ],
            "Microsoft Graph signs nothing",
        ),
        (
            &["--handshake", "facebook"],
            "is not a handshake: slack, meta, graph, zoom, twitch, x or probe",
        ),
    ] {
        let create = [&["hooks", "create", "b"], args].concat();
        let done = world.home.command(&create).output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(
            !done.status.success() && told.contains(part),
            "{args:?}: {told}"
        );
    }
}
