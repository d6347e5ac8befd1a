//! Senders that sign: what a provider's own library signs is stored once, what is not is rejected and explained, and a
//! secret is rotated without a lost event. The schemes one by one are tested beside them, in `src/domain/verify`.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::daemon::{Home, SECRET_KEY_FILE, Setup};
use super::sink::Sink;
use super::world::{Ask, Reply, World, ended, until};

on_both_setups! {
    what_official_libraries_sign_is_stored_once_and_one_changed_byte_is_not
    what_github_signs_and_shopify_accepts_is_stored_once
    a_signature_takes_the_place_of_the_write_key_and_a_key_does_not_take_its_place
    a_rejected_sender_learns_nothing_and_the_operator_learns_why
    a_secret_is_rotated_without_a_lost_event
    a_secret_that_no_longer_verifies_anything_is_named
    a_signing_secret_is_rotated_and_shown_once
    secrets_are_not_in_the_database_and_a_lost_key_is_told
    plain_signing_secrets_of_an_earlier_version_are_encrypted_at_the_next_start
    a_delivery_is_found_by_the_id_of_its_provider
    settings_that_cannot_work_are_refused_with_what_to_give
}

const SECRET: &str = "whsec_c3RyaXBlLWxpa2Utc2VjcmV0LW9mLXRlc3Rz";
const OTHER: &str = "whsec_YW5vdGhlci1zZWNyZXQtZm9yLXRoZS1uZXh0LXllYXI=";

/// A world with one hook that verifies.
fn world(setup: Setup, settings: &str) -> World {
    let files = [("a.secret", SECRET), ("b.secret", OTHER)];
    let hooks = format!("[[hooks]]\nname = 'pay'\nreduce = 'count'\n{settings}\n");
    World::new(setup, &files, &hooks)
}

const STRIPE: &str = "verify = 'stripe'\nsecret_file = 'a.secret'";

/// The time in seconds.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs().try_into().unwrap()
}

/// HMAC-SHA256 in hexadecimal digits, by OpenSSL.
pub fn hmac(key: &str, message: &str) -> String {
    let mut signer = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", key, "-r"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = signer.stdin.take().unwrap();
    stdin.write_all(message.as_bytes()).unwrap();
    drop(stdin);
    let signed = String::from_utf8(signer.wait_with_output().unwrap().stdout).unwrap();
    signed.split_whitespace().next().unwrap().to_owned()
}

/// A request as Stripe signs it.
fn stripe(hook: &str, key: &str, at: i64, body: &str) -> Ask {
    let signature = hmac(key, &format!("{at}.{body}"));
    let header = format!("t={at},v1={signature}");
    Ask::post(hook)
        .header("Stripe-Signature", header)
        .body(body)
}

fn event(id: &str) -> String {
    json!({"id": id, "type": "charge.succeeded"}).to_string()
}

fn sent(world: &World, key: &str, id: &str) -> Reply {
    world.ask(&stripe("pay", key, now(), &event(id)))
}

fn reasons(world: &World) -> Vec<(String, u64)> {
    let answer = world
        .admin("GET", "/v1/admin/hooks/pay/rejections", &Value::Null)
        .json();
    let items = answer["items"].as_array().unwrap().clone();
    let mut reasons: Vec<_> = items
        .iter()
        .map(|one| {
            (
                one["reason"].as_str().unwrap().to_owned(),
                one["count"].as_u64().unwrap(),
            )
        })
        .collect();
    reasons.sort();
    reasons
}

/// The output of `why` for the hook.
fn why(world: &World) -> String {
    world.home.run(&["why", "pay"])
}

fn what_official_libraries_sign_is_stored_once_and_one_changed_byte_is_not(setup: Setup) {
    let Some(signer) = Signer::get() else {
        return;
    };
    let hooks = ["stripe", "github", "slack", "standard", "twilio"].map(|scheme| {
        let url = match scheme {
            "twilio" => "public_url = 'https://hooks.example.com/in/twilio'",
            _ => "",
        };
        format!(
            "[[hooks]]\nname = '{scheme}'\nverify = '{scheme}'\nsecret_file = 'a.secret'\n{url}\n"
        )
    });
    let world = World::new(setup, &[("a.secret", SECRET)], &hooks.concat());
    for scheme in ["stripe", "slack", "standard", "twilio"] {
        let body = match scheme {
            "twilio" => "From=%2B14158675309&Body=a+b".to_owned(),
            _ => json!({"id": "evt_1", "event_id": "Ev1", "text": "Zürich"}).to_string(),
        };
        let headers = signer.sign(scheme, &body);
        let ask = |body: &str| {
            let ask = Ask::post(scheme);
            let ask = headers
                .iter()
                .fold(ask, |ask, (name, value)| ask.header(name, value));
            world.ask(&ask.header("I-Twilio-Idempotency-Token", "t1").body(body))
        };
        assert_eq!(ask(&body).status, 202, "{scheme}");
        let again = ask(&body);
        assert_eq!(
            (again.status, &again.json()["duplicate"]),
            (200, &json!(true)),
            "{scheme}"
        );
        let changed = body.replacen('1', "2", 1);
        assert_eq!(ask(&changed).status, 401, "{scheme}");
    }
}

fn what_github_signs_and_shopify_accepts_is_stored_once(setup: Setup) {
    // The example of GitHub's documentation, a signature of npm @octokit/webhooks-methods 6.0.0, and one that npm
    // @shopify/shopify-api 13.1.0 accepts.
    let body = r#"{"id":"evt_1PqLm8","type":"charge.succeeded","created":1700000000,"text":"Zürich é \u00e9 \"x\""}"#;
    let github = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let octokit = "sha256=6f60f2ffccf37dcc1fe5cb107591cc7b8892df4cb0f3b55087cd43f34695c09f";
    let shopify = "BOiREgqIm/PZ5I/xqT+9d+8DjwcBaqiOpMHw10bJrzQ=";
    let files = [
        ("github.secret", "It's a Secret to Everybody"),
        ("shopify.secret", "shpss_secret\n"),
    ];
    let hooks = ["github", "shopify"].map(|scheme| {
        format!(
            "[[hooks]]\nname = '{scheme}'\nverify = '{scheme}'\nsecret_file = '{scheme}.secret'\n"
        )
    });
    let world = World::new(setup, &files, &hooks.concat());
    for (hook, header, signature, id, body) in [
        (
            "github",
            "X-Hub-Signature-256",
            github,
            "X-GitHub-Delivery",
            "Hello, World!",
        ),
        (
            "github",
            "X-Hub-Signature-256",
            octokit,
            "X-GitHub-Delivery",
            body,
        ),
        (
            "shopify",
            "X-Shopify-Hmac-SHA256",
            shopify,
            "X-Shopify-Webhook-Id",
            body,
        ),
    ] {
        let ask = |delivery: &str, body: &str| {
            let ask = Ask::post(hook)
                .header(header, signature)
                .header(id, format!("{delivery} of {signature}"));
            world.ask(&ask.body(body))
        };
        assert_eq!(ask("d1", body).status, 202, "{hook}");
        assert_eq!(ask("d1", body).status, 200, "{hook}: a repeat");
        assert_eq!(ask("d2", body).status, 202, "{hook}: another delivery");
        let changed = body.replacen('e', "E", 1);
        assert_eq!(ask("d3", &changed).status, 401, "{hook}");
    }
}

fn a_signature_takes_the_place_of_the_write_key_and_a_key_does_not_take_its_place(setup: Setup) {
    let world = world(setup, STRIPE);
    assert_eq!(sent(&world, SECRET, "evt_1").status, 202);
    let body = event("evt_2");
    let signed = |ask: Ask| {
        let at = now();
        let signature = format!("t={at},v1={}", hmac(SECRET, &format!("{at}.{body}")));
        world.ask(&ask.header("stripe-signature", signature).body(&body))
    };
    let unknown = "hl_w_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    assert_eq!(
        signed(Ask::post("pay").key(unknown)).status,
        202,
        "the signature counts"
    );
    assert_eq!(
        world.post("pay", &body).status,
        401,
        "a key is no signature"
    );
    let get = world.ask(&Ask::new("GET", "/in/pay"));
    assert_eq!((get.status, get.code()), (401, "unauthorized".into()));
    // The socket is the operator's own.
    let mut send = Command::new(env!("CARGO_BIN_EXE_hooklane"));
    let send = send
        .args(["send", "pay"])
        .env("HOOKLANE_DATA", world.home.data());
    assert!(ended(send).status.success());
    world
        .home
        .run(&["hooks", "edit", "pay", "--verify", "none"]);
    assert_eq!(
        sent(&world, SECRET, "evt_3").status,
        401,
        "the write key is needed again"
    );
    assert_eq!(world.post("pay", "{}").status, 202);
}

fn a_rejected_sender_learns_nothing_and_the_operator_learns_why(setup: Setup) {
    let shop = "[[hooks]]\nname = 'shop'\nverify = 'stripe'\nsecret_file = 'b.secret'\n";
    let world = world(setup, &format!("{STRIPE}\n{shop}"));
    let body = event("evt_1");
    let plain = Ask::post("pay").body(&body);
    let unknown = Ask::post("nobody").body(&body);
    let mut changed = stripe("pay", SECRET, now(), &body).bytes();
    let end = changed.len();
    changed[end - 3] = b'x';
    // A cause is looked for once in a while only: strangers ask for it.
    let pause = || std::thread::sleep(Duration::from_millis(60));
    let mut answers = vec![world.ask(&unknown), world.ask(&plain)];
    answers.push(
        world.ask(
            &Ask::post("pay")
                .header("stripe-signature", "t=1,v0=00")
                .body(&body),
        ),
    );
    for key in ["hunter2", OTHER] {
        pause();
        answers.push(world.ask(&stripe("pay", key, now(), &body)));
    }
    pause();
    let at = now();
    let signature = hmac(SECRET, &format!("{at}.{body}"));
    let signature = format!("t={at},v1={signature}");
    let spaced = body.replace(':', ": ");
    answers.push(
        world.ask(
            &Ask::post("pay")
                .header("stripe-signature", signature)
                .body(spaced),
        ),
    );
    answers.push(world.ask(&stripe("pay", SECRET, now() - 7 * 60, &body)));
    for answer in &answers {
        assert_eq!(answer.status, 401, "{answer:?}");
        assert_eq!(answer.body, answers[0].body, "each is told the same");
        assert_eq!(answer.code(), "unauthorized");
    }
    let expected = [
        "body_changed",
        "clock",
        "malformed",
        "no_signature",
        "other_hook",
        "wrong_secret",
    ];
    assert_eq!(
        reasons(&world),
        expected.map(|reason| (reason.to_owned(), 1))
    );
    let told = why(&world);
    for part in [
        "no signature: no stripe-signature",
        "a signature that cannot be read",
        "wrong secret",
        "the secret of hook shop makes it",
        "the body was changed on the way: white space in its JSON was added",
        "clock off by 7m",
        "from 127.0.0.1",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let told = doctor(&world)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let clock = "ago: clock off by 7m";
    assert!(
        told.contains("a sender of hook pay, ") && told.contains(clock),
        "{told}"
    );
    // One row for each reason, whatever is sent, and nothing in it by which a signature could be made.
    for _ in 0..20 {
        world.ask(&plain);
    }
    assert!(reasons(&world).contains(&("no_signature".to_owned(), 21)));
    let shown = world.admin("GET", "/v1/admin/hooks/pay/rejections", &Value::Null);
    let shown = String::from_utf8(shown.body).unwrap();
    assert!(
        !shown.contains("v1=") && !shown.contains("evt_1"),
        "{shown}"
    );
    let metrics = world.ask(&Ask::new("GET", "/metrics"));
    let metrics = String::from_utf8(metrics.body).unwrap();
    let line = "hooklane_events_rejected_total{hook=\"pay\",reason=\"no_signature\"} 21";
    assert!(metrics.contains(line), "{metrics}");
    // Nothing was stored.
    assert_eq!(sent(&world, SECRET, "evt_1").json()["seq"], 1);
}

fn a_secret_is_rotated_without_a_lost_event(setup: Setup) {
    let world = world(setup, STRIPE);
    let stop = AtomicBool::new(false);
    let key = std::sync::Mutex::new(SECRET);
    let accepted = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut accepted = 0;
            while !stop.load(Ordering::Relaxed) {
                let key = *key.lock().unwrap();
                let reply = sent(&world, key, &format!("evt_{accepted}"));
                assert_eq!(reply.status, 202, "{reply:?}");
                accepted += 1;
            }
            accepted
        });
        let more = || std::thread::sleep(Duration::from_millis(300));
        more();
        let new = world.home.write("new.secret", &format!("{OTHER}\n"));
        world.home.run(&[
            "hooks",
            "secrets",
            "add",
            "pay",
            "--secret-file",
            new.to_str().unwrap(),
        ]);
        more();
        *key.lock().unwrap() = OTHER;
        more();
        let rows = world
            .home
            .run(&["hooks", "secrets", "list", "pay", "-o", "json"]);
        let rows: Value = serde_json::from_str(&rows).unwrap();
        let items = rows["items"].as_array().unwrap();
        assert_eq!(items.len(), 2, "{rows}");
        let old = items[1]["id"].as_str().unwrap();
        world.home.run(&["hooks", "secrets", "remove", "pay", old]);
        more();
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap()
    });
    assert!(accepted > 4, "{accepted}");
    assert_eq!(world.state("pay", accepted), json!(accepted));
    assert_eq!(
        sent(&world, SECRET, "evt_old").status,
        401,
        "the old one is gone"
    );
    let rows = world
        .home
        .run(&["hooks", "secrets", "list", "pay", "-o", "names"]);
    let last = world
        .home
        .command(&["hooks", "secrets", "remove", "pay", &rows])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&last.stderr);
    assert!(
        !last.status.success() && told.contains("add the next one first"),
        "{told}"
    );
}

/// Ids of the secrets, the newest first, each with the time of its last use.
fn secrets(world: &World) -> Vec<(String, Option<String>)> {
    let list = ["hooks", "secrets", "list", "pay", "-o", "json"];
    let rows: Value = serde_json::from_str(&world.home.run(&list)).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let items = rows["items"].as_array().unwrap().iter();
    items
        .map(|row| (text(&row["id"]).unwrap(), text(&row["last_used_at"])))
        .collect()
}

/// The lines of `doctor` about secrets.
fn doctor(world: &World) -> String {
    let told = ended(&mut world.home.command(&["doctor"]));
    let told = String::from_utf8(told.stdout).unwrap();
    let lines = told.lines().skip_while(|line| !line.contains("secrets"));
    lines.collect::<Vec<_>>().join("\n")
}

fn a_secret_that_no_longer_verifies_anything_is_named(setup: Setup) {
    let mut world = world(setup, STRIPE);
    // As if the sender had used a secret for two more days than the other one.
    let two_days_pass = |world: &mut World, id: &str| {
        world.kill();
        let later =
            format!("update secret_uses set last_at = last_at + 172800000 where secret = '{id}'");
        change(world, &later);
        world.restart();
    };
    let remove = |id: &str| format!("hooklane hooks secrets remove pay {id}");

    assert_eq!(sent(&world, SECRET, "evt_1").status, 202);
    let new = world.home.write("new.secret", OTHER);
    let add = [
        "hooks",
        "secrets",
        "add",
        "pay",
        "--secret-file",
        new.to_str().unwrap(),
    ];
    world.home.run(&add);
    let [(new, None), (old, Some(_))] = &secrets(&world)[..] else {
        panic!("{:?}", secrets(&world));
    };
    assert!(!doctor(&world).contains(&remove("")), "{}", doctor(&world));

    two_days_pass(&mut world, old);
    let told =
        format!("secret {new} of hook pay has verified no request; the sender signs with {old}");
    let (give, helps) = ("give it to the sender", format!("or: {}", remove(new)));
    for shown in [doctor(&world), why(&world)] {
        let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            shown.contains(&told) && shown.contains(give) && shown.contains(&helps),
            "{shown}"
        );
        assert!(!shown.contains(SECRET) && !shown.contains(OTHER), "{shown}");
    }
    let listed = world.home.run(&["hooks", "secrets", "list", "pay"]);
    let [_, of_new, of_old] = listed.lines().collect::<Vec<_>>()[..] else {
        panic!("{listed}");
    };
    assert!(
        of_new.contains("unused") && of_old.contains("in force"),
        "{listed}"
    );

    assert_eq!(sent(&world, OTHER, "evt_2").status, 202);
    assert!(secrets(&world)[0].1.is_some());
    two_days_pass(&mut world, new);
    two_days_pass(&mut world, new);
    let told = format!("secret {old} of hook pay verified its last request");
    let shown = doctor(&world)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert!(
        shown.contains(&told) && shown.contains(&remove(old)),
        "{shown}"
    );
    assert!(!shown.contains(&remove(new)), "{shown}");

    world.home.run(&["hooks", "secrets", "remove", "pay", old]);
    assert!(!doctor(&world).contains(&remove("")), "{}", doctor(&world));
    // The last use is kept when a node stops.
    let before = secrets(&world);
    assert!(before[0].1.is_some());
    world.kill();
    world.restart();
    assert_eq!(secrets(&world), before);
}

fn a_signing_secret_is_rotated_and_shown_once(setup: Setup) {
    let sink = Sink::start();
    let mut home = Home::new(setup);
    home.environment
        .push(("HOOKLANE_ALLOW_DESTINATION", "127.0.0.0/8"));
    let hooks = format!(
        "[[hooks]]\nname = 'pay'\n[[hooks.forward]]\nname = 'crm'\nurl = '{}'\n",
        sink.url()
    );
    let world = World::at(home, &[], &hooks);
    let added = world.home.run(&[
        "hooks",
        "secrets",
        "add",
        "pay",
        "--handler",
        "crm",
        "-o",
        "json",
    ]);
    let added: Value = serde_json::from_str(&added).unwrap();
    assert!(added["secret"].as_str().unwrap().starts_with("whsec_"));
    let listed = world
        .home
        .run(&["hooks", "secrets", "list", "pay", "-o", "json"]);
    assert!(!listed.contains("whsec_"), "{listed}");
    world.accepted("pay", "{}");
    let seen = until(|| sink.seen().into_iter().next());
    let signatures = seen.header("webhook-signature").split(' ').count();
    assert_eq!(signatures, 2, "receivers may verify with either");
}

/// Asks the doctor without a daemon, with the key file as it is, lost, damaged and of another key.
fn lost_keys_are_told_before_a_start(home: &Home, file: &Path) {
    let told = || {
        let mut doctor = home.command(&["doctor", "-o", "json"]);
        if let Some(servers) = &home.servers {
            doctor.args(["--database", &servers.url()]);
        }
        let report: Value = serde_json::from_slice(&ended(&mut doctor).stdout).unwrap();
        let items = report["items"].as_array().unwrap().clone();
        let found = items.into_iter().find(|check| check["name"] == "secrets");
        found.unwrap_or_else(|| panic!("{report}"))
    };
    let kept = std::fs::read(file).unwrap();
    let good = told();
    assert_eq!(good["grade"], "ok", "{good}");
    let text = good["text"].as_str().unwrap();
    let id = text.split_whitespace().nth(4).unwrap().to_owned();
    for (content, words) in [
        (
            None,
            &["does not decrypt", "cannot be read", "no key to decrypt"][..],
        ),
        (
            Some("short"),
            &["is damaged: a secret key is the base64 of 32 bytes"],
        ),
        (Some(OTHER_KEY), &["does not decrypt the secrets of pay"]),
    ] {
        match content {
            Some(text) => std::fs::write(file, text).unwrap(),
            None => std::fs::remove_file(file).unwrap(),
        }
        let failed = told();
        assert_eq!(failed["grade"], "fail", "{failed}");
        let text = failed["text"].as_str().unwrap();
        assert!(words.iter().any(|words| text.contains(words)), "{failed}");
        let remedy = failed["remedy"].as_str().unwrap().to_lowercase();
        assert!(remedy.contains("restore"), "{failed}");
        if text.contains("of pay") {
            assert!(
                remedy.contains(&id) && remedy.contains("secrets add pay"),
                "{failed}"
            );
        }
        assert_eq!(file.exists(), content.is_some(), "the doctor makes no key");
    }
    std::fs::write(file, &kept).unwrap();
    assert_eq!(told(), good);
}

const OTHER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";

fn secrets_are_not_in_the_database_and_a_lost_key_is_told(setup: Setup) {
    let mut home = Home::new(setup);
    let key: &'static str = home
        .write("node.key", "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=\n")
        .to_str()
        .unwrap()
        .to_owned()
        .leak();
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(key, private).unwrap();
    if let Setup::Production = setup {
        home.environment.push((SECRET_KEY_FILE, key));
    }
    let files = [("a.secret", SECRET)];
    let hooks = format!("[[hooks]]\nname = 'pay'\nreduce = 'count'\n{STRIPE}\n");
    let mut world = World::at(home, &files, &hooks);
    assert_eq!(sent(&world, SECRET, "evt_1").status, 202);
    let file = match setup {
        Setup::Embedded => world.home.data().join("hooklane.key"),
        Setup::Production => PathBuf::from(key),
    };
    if let Setup::Embedded = setup {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for end in ["hooklane.db", "hooklane.db-wal"] {
            let bytes = std::fs::read(world.home.data().join(end)).unwrap_or_default();
            let is_there = bytes
                .windows(SECRET.len())
                .any(|part| part == SECRET.as_bytes());
            assert!(!is_there, "{end} has the secret");
        }
    }
    let doctor = world.home.run(&["doctor"]);
    assert!(doctor.contains("encrypted with the key"), "{doctor}");

    // Another key, as after a restored backup.
    world.may_complain = true;
    world.kill();
    let kept = std::fs::read(&file).unwrap();
    lost_keys_are_told_before_a_start(&world.home, &file);
    std::fs::write(&file, OTHER_KEY).unwrap();
    world.restart();
    let reply = sent(&world, SECRET, "evt_2");
    assert_eq!(
        (reply.status, reply.code()),
        (503, "secrets_locked".into()),
        "it will try again"
    );
    assert!(
        world.home.log().contains("does not decrypt the secrets"),
        "{}",
        world.home.log()
    );
    let doctor = world.home.command(&["doctor"]).output().unwrap();
    let told = String::from_utf8_lossy(&doctor.stdout);
    assert!(
        !doctor.status.success() && told.contains("does not decrypt the secrets of pay"),
        "{told}"
    );
    assert!(why(&world).contains("cannot be decrypted"));

    // Given again, it goes on; the lost one stays for the day when its key is found.
    let again = world.home.write("again.secret", OTHER);
    world.home.run(&[
        "hooks",
        "secrets",
        "add",
        "pay",
        "--secret-file",
        again.to_str().unwrap(),
    ]);
    assert_eq!(sent(&world, OTHER, "evt_2").status, 202);
    world.kill();
    std::fs::write(&file, kept).unwrap();
    world.restart();
    assert_eq!(sent(&world, SECRET, "evt_3").status, 202);

    // A damaged key is named before anything is served.
    world.kill();
    std::fs::write(&file, "not a key").unwrap();
    let mut refused = world.home.spawn();
    let ended = until(|| refused.ended());
    assert!(!ended.success(), "it must not start");
    assert!(
        world.home.log().contains("is damaged"),
        "{}",
        world.home.log()
    );
}

/// The database file of a world whose daemon is gone.
fn file(world: &World) -> rusqlite::Connection {
    rusqlite::Connection::open(world.home.data().join("hooklane.db")).unwrap()
}

/// Runs a statement in the database of a world whose daemon is gone.
fn change(world: &World, statement: &str) {
    match &world.home.servers {
        Some(servers) => drop(servers.ask(statement)),
        None => drop(file(world).execute(statement, []).unwrap()),
    }
}

/// The secrets of the handlers of a world whose daemon is gone.
fn stored_secrets(world: &World) -> String {
    const SECRETS: &str = "select secrets from handlers where kind = 'forward'";
    match &world.home.servers {
        Some(servers) => servers.ask(SECRETS).into_iter().collect(),
        None => file(world)
            .query_row(SECRETS, [], |row| row.get(0))
            .unwrap(),
    }
}

fn plain_signing_secrets_of_an_earlier_version_are_encrypted_at_the_next_start(setup: Setup) {
    let sink = Sink::start();
    let mut home = Home::new(setup);
    home.environment
        .push(("HOOKLANE_ALLOW_DESTINATION", "127.0.0.0/8"));
    let hooks = format!(
        "[[hooks]]\nname = 'pay'\n[[hooks.forward]]\nname = 'crm'\nurl = '{}'\n",
        sink.url()
    );
    let mut world = World::at(home, &[], &hooks);
    world.kill();
    let plain = format!("update handlers set secrets = '[\"{SECRET}\"]' where kind = 'forward'");
    change(&world, &plain);
    assert!(stored_secrets(&world).contains(SECRET));
    world.restart();
    let rows = world
        .home
        .run(&["hooks", "secrets", "list", "pay", "-o", "json"]);
    let rows: Value = serde_json::from_str(&rows).unwrap();
    assert_eq!(rows["items"][0]["usable"], true, "{rows}");
    assert!(rows["items"][0]["id"].is_string(), "{rows}");
    world.accepted("pay", "{}");
    let seen = until(|| sink.seen().into_iter().next());
    assert!(super::forward::is_signed(&seen, SECRET), "{seen:?}");
    world.kill();
    let stored = stored_secrets(&world);
    assert!(
        stored.contains("v1.") && !stored.contains(SECRET),
        "{stored}"
    );
}

fn a_delivery_is_found_by_the_id_of_its_provider(setup: Setup) {
    let world = world(setup, STRIPE);
    let first = sent(&world, SECRET, "evt_a");
    assert_eq!(first.status, 202);
    // Sent again by the provider, with another time and signature.
    let again = stripe("pay", SECRET, now() - 60, &event("evt_a"));
    let again = world.ask(&again);
    assert_eq!(
        (again.status, &again.json()["event"]),
        (200, &first.json()["event"])
    );
    let list = |args: &[&str]| {
        let args = [&["events", "list", "-o", "json"], args].concat();
        let rows: Value = serde_json::from_str(&world.home.run(&args)).unwrap();
        rows["items"].as_array().unwrap().clone()
    };
    for args in [
        &["--delivery", "evt_a"][..],
        &["--delivery", "evt_a", "--hook", "pay"],
    ] {
        let rows = list(args);
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(rows[0]["event"], first.json()["event"]);
    }
    assert!(list(&["--delivery", "evt_b"]).is_empty());
    // The hook's own rule goes first.
    world
        .home
        .run(&["hooks", "edit", "pay", "--dedupe-by", "body:/type"]);
    assert_eq!(sent(&world, SECRET, "evt_c").status, 202);
    assert_eq!(list(&["--delivery", "charge.succeeded"]).len(), 1);
}

fn settings_that_cannot_work_are_refused_with_what_to_give(setup: Setup) {
    let world = world(setup, STRIPE);
    let file = world.home.write("c.secret", "not base64!");
    let file = file.to_str().unwrap();
    for (args, part) in [
        (
            &["--verify", "paypal"][..],
            "cannot be verified without asking PayPal",
        ),
        (&["--verify", "strype"], "is not a scheme: stripe, github"),
        (&["--verify", "stripe"], "needs the secret"),
        (
            &["--verify", "square", "--secret-file", file],
            "give --public-url",
        ),
        (
            &["--verify", "standard", "--secret-file", file],
            "whsec_ and base64",
        ),
        (
            &["--verify", "sendgrid", "--secret-file", file],
            "verification key",
        ),
        (
            &["--verify", "stripe", "--secret-env", "NOT_SET"],
            "no text in NOT_SET",
        ),
        (
            &[
                "--verify",
                "stripe",
                "--secret-file",
                file,
                "--tolerance",
                "25h",
            ],
            "1ms to 24h",
        ),
        (&["--tolerance", "5m"], "give --verify SCHEME"),
    ] {
        let create = [&["hooks", "create", "other"], args].concat();
        let done = world.home.command(&create).output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(
            !done.status.success() && told.contains(part),
            "{args:?}: {told}"
        );
    }
    let mut command = world.home.command(&[
        "hooks",
        "create",
        "other",
        "--verify",
        "stripe",
        "--secret-env",
        "A_SECRET",
    ]);
    let done = ended(command.env("A_SECRET", SECRET));
    assert!(done.status.success(), "{done:?}");
    assert_eq!(world.ask(&stripe("other", SECRET, now(), "{}")).status, 202);
    // The same file twice changes nothing; another secret in it is another secret in force.
    let apply = |secret: &str| {
        world.home.write("a.secret", secret);
        let toml = format!("[[hooks]]\nname = 'pay'\nreduce = 'count'\n{STRIPE}\n");
        let toml = world.home.write("again.toml", &toml);
        world
            .home
            .run(&["hooks", "apply", toml.to_str().unwrap(), "-o", "json"])
    };
    let changes = |text: String| serde_json::from_str::<Value>(&text).unwrap()["changes"].clone();
    assert_eq!(changes(apply(SECRET)), json!([]));
    let what = changes(apply(OTHER));
    assert_eq!(
        what[0]["what"],
        json!(["verify: another secret is in force too"])
    );
    for key in [SECRET, OTHER] {
        assert_eq!(sent(&world, key, key).status, 202);
    }
    // No secret is noted in the audit or shown.
    let audit = world.home.run(&["audit", "list", "-o", "json"]);
    let shown = world.home.run(&["hooks", "show", "pay", "-o", "json"]);
    assert!(
        !audit.contains("whsec_") && !shown.contains("whsec_"),
        "{audit} {shown}"
    );
}

/// Official Python libraries, in a directory of their own.
struct Signer {
    python: PathBuf,
}

/// The libraries, in the versions of the day on which this was written.
const LIBRARIES: [&str; 4] = [
    "stripe==16.1.0",
    "standardwebhooks==1.1.0",
    "slack_sdk==3.48.0",
    "twilio==9.13.0",
];

/// Signs as they do; the arguments are the scheme, the secret and the body.
const SIGN: &str = r#"
import json, sys, time
scheme, secret, body = sys.argv[1:]
now = int(time.time())
if scheme == "stripe":
    import stripe
    signed = stripe.WebhookSignature._compute_signature(f"{now}.{body}", secret)
    headers = {"Stripe-Signature": f"t={now},v1={signed}"}
    stripe.Webhook.construct_event(body, headers["Stripe-Signature"], secret)
elif scheme == "slack":
    from slack_sdk.signature import SignatureVerifier
    signed = SignatureVerifier(secret).generate_signature(timestamp=str(now), body=body)
    headers = {"X-Slack-Signature": signed, "X-Slack-Request-Timestamp": str(now)}
elif scheme == "standard":
    import datetime
    from standardwebhooks.webhooks import Webhook
    at = datetime.datetime.fromtimestamp(now, tz=datetime.timezone.utc)
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(now),
               "webhook-signature": Webhook(secret).sign("msg_1", at, body)}
else:
    from urllib.parse import parse_qsl
    from twilio.request_validator import RequestValidator
    url = "https://hooks.example.com/in/twilio"
    headers = {"X-Twilio-Signature": RequestValidator(secret).compute_signature(url, dict(parse_qsl(body)))}
print(json.dumps(headers))
"#;

impl Signer {
    /// Installs them once for all tests; without a registry it says that nothing was run.
    fn get() -> Option<&'static Self> {
        static SIGNER: std::sync::OnceLock<Option<Signer>> = std::sync::OnceLock::new();
        SIGNER.get_or_init(Self::install).as_ref()
    }

    fn install() -> Option<Self> {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("signers-1");
        let python = dir.join("bin/python");
        if !dir.join("ready").exists() {
            let run = |program: &Path, args: &[&str]| {
                let done = Command::new(program)
                    .args(args)
                    .stdin(Stdio::null())
                    .output();
                done.is_ok_and(|done| done.status.success())
            };
            let made = run(Path::new("python3"), &["-m", "venv", dir.to_str().unwrap()]);
            let install = [
                &["-m", "pip", "install", "--quiet", "--retries", "1"][..],
                &LIBRARIES,
            ]
            .concat();
            if !made || !run(&python, &install) {
                // Past the capture of the harness, so that it is seen.
                let _ = writeln!(
                    std::io::stderr(),
                    "not run: what_official_libraries_sign (no registry gives {})",
                    LIBRARIES.join(", ")
                );
                return None;
            }
            std::fs::write(dir.join("ready"), "").unwrap();
        }
        Some(Self { python })
    }

    fn sign(&self, scheme: &str, body: &str) -> Vec<(String, String)> {
        let mut python = Command::new(&self.python);
        let done = python
            .args(["-c", SIGN, scheme, SECRET, body])
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let headers: Value = serde_json::from_slice(&done.stdout).unwrap();
        let headers = headers.as_object().unwrap().iter();
        headers
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect()
    }
}
