//! The way to a node: proxies that name the sender, hooks for some addresses only, and TLS at the port that serves.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto};

use super::daemon::{Home, Setup};
use super::world::{Ask, PATIENCE, Reply, World, ended, send, until};

on_both_setups! {
    a_hook_accepts_requests_from_its_addresses_only
    an_untrusted_peer_names_no_sender
    the_audit_log_and_the_keys_tell_the_sender_behind_a_proxy
    a_header_of_the_proxy_protocol_tells_the_sender
    a_certificate_serves_and_is_taken_up_when_it_changes
}

const HOOKS: &str = "
    [[hooks]]
    name = 'pay'
    reduce = 'count'
    allow_from = ['192.0.2.0/24', '2001:db8::/32']
    [[hooks]]
    name = 'open'
    reduce = 'count'
";

/// A world whose daemon has these variables.
fn world(setup: Setup, environment: &[(&'static str, &'static str)]) -> World {
    let mut home = Home::new(setup);
    home.environment = environment.to_vec();
    World::at(home, &[], HOOKS)
}

const TRUSTING: (&str, &str) = ("HOOKLANE_TRUST_PROXY", "127.0.0.0/8,10.0.0.0/8");

fn post(world: &World, hook: &str, header: &str, value: &str) -> Reply {
    let ask = Ask::post(hook).key(&world.write).header(header, value);
    world.ask(&ask.body("{}"))
}

fn is_forbidden(reply: &Reply, ip: &str) {
    assert_eq!(reply.status, 403, "{reply:?}");
    assert_eq!(reply.code(), "forbidden");
    let message = reply.json()["error"]["message"].clone();
    assert!(message.as_str().unwrap().contains(ip), "{reply:?}");
}

fn a_hook_accepts_requests_from_its_addresses_only(setup: Setup) {
    let world = world(setup, &[TRUSTING]);
    let from = |hook: &str, list: &str| post(&world, hook, "x-forwarded-for", list);
    assert_eq!(from("pay", "192.0.2.5").status, 202);
    assert_eq!(from("pay", "6.6.6.6, 192.0.2.5, 10.1.1.1").status, 202);
    let pairs = post(&world, "pay", "forwarded", "for=\"[2001:db8::1]:4711\"");
    assert_eq!(pairs.status, 202, "{pairs:?}");
    is_forbidden(&from("pay", "192.0.2.5, 203.0.113.9"), "203.0.113.9");
    is_forbidden(&world.post("pay", "{}"), "127.0.0.1");
    assert_eq!(from("open", "203.0.113.9").status, 202);
    let unclear = from("open", "192.0.2.5, nobody");
    assert_eq!(unclear.status, 400);
    assert_eq!(unclear.code(), "malformed");
    // A stranger does not learn that the hook exists.
    assert_eq!(world.ask(&Ask::post("pay").body("{}")).status, 401);
    // Operators go through the socket, which has no address. For `send`, --data is a body.
    let mut operator = Command::new(env!("CARGO_BIN_EXE_hooklane"));
    operator
        .args(["send", "pay"])
        .env("HOOKLANE_DATA", world.home.data());
    let done = ended(&mut operator);
    assert!(done.status.success(), "{done:?}");
    world.state("pay", 4);

    let why = world.home.run(&["why", "pay"]);
    for words in [
        "2 requests, the last",
        "another address: 127.0.0.1 is not one",
        "--allow-from CIDR",
        "POST from 127.0.0.1",
    ] {
        assert!(why.contains(words), "{why}");
    }
    assert!(!why.contains(&world.write), "{why}");
    let metrics = String::from_utf8(world.get("/metrics").body).unwrap();
    assert!(metrics.contains("hooklane_events_refused_total{reason=\"address\"} 2"));
    let shown = world.home.run(&["hooks", "show", "pay"]);
    assert!(shown.contains("192.0.2.0/24 2001:db8::/32"), "{shown}");
    assert!(shown.contains("2 address: hooklane why pay"), "{shown}");
    let file = world.home.run(&[
        "hooks",
        "apply",
        "--dry-run",
        world.home.write("again.toml", HOOKS).to_str().unwrap(),
    ]);
    assert!(!file.contains("allow"), "{file}");

    world
        .home
        .run(&["hooks", "edit", "pay", "--allow-from", "203.0.113.9"]);
    until(|| (from("pay", "203.0.113.9").status == 202).then_some(()));
    is_forbidden(&from("pay", "192.0.2.5"), "192.0.2.5");
    world
        .home
        .run(&["hooks", "edit", "pay", "--allow-from", "any"]);
    until(|| (world.post("pay", "{}").status == 202).then_some(()));
}

fn an_untrusted_peer_names_no_sender(setup: Setup) {
    for environment in [&[][..], &[("HOOKLANE_TRUST_PROXY", "10.0.0.0/8")]] {
        let world = world(setup, environment);
        for (header, value) in [
            ("x-forwarded-for", "192.0.2.5"),
            ("x-forwarded-for", "192.0.2.5, 10.0.0.1"),
            ("forwarded", "for=192.0.2.5"),
            ("x-real-ip", "192.0.2.5"),
        ] {
            is_forbidden(&post(&world, "pay", header, value), "127.0.0.1");
            assert_eq!(post(&world, "open", header, value).status, 202);
        }
        let ask = Ask::post("pay").key(&world.write).body("{}").bytes();
        let claim = b"PROXY TCP4 192.0.2.5 127.0.0.1 4711 80\r\n".to_vec();
        let reply = send(world.home.addr, &[claim, ask].concat());
        assert!((400..600).contains(&reply.status), "{reply:?}");
    }
}

fn the_audit_log_and_the_keys_tell_the_sender_behind_a_proxy(setup: Setup) {
    let world = world(setup, &[TRUSTING]);
    let spec = json!({"name": "late"}).to_string();
    let ask = Ask::new("POST", "/v1/admin/hooks").key(&world.admin);
    let ask = ask.header("content-type", "application/json");
    let reply = world.ask(&ask.header("x-forwarded-for", "198.51.100.7").body(spec));
    assert_eq!(reply.status, 201, "{reply:?}");
    let audit: Value =
        serde_json::from_str(&world.home.run(&["audit", "list", "-o", "json"])).unwrap();
    assert_eq!(audit["items"][0]["from"], "198.51.100.7", "{audit}");
    // A client behind a proxy is not near, even if the proxy names this machine.
    let near = Ask::new("GET", "/metrics").header("x-forwarded-for", "127.0.0.1");
    assert_eq!(world.ask(&near).status, 401);
    assert_eq!(world.ask(&Ask::new("GET", "/metrics")).status, 200);
}

fn a_header_of_the_proxy_protocol_tells_the_sender(setup: Setup) {
    let world = world(setup, &[]);
    let mut behind = world;
    let keys = behind.write.clone();
    let daemon = behind.daemon.take().unwrap();
    drop(daemon);
    behind.home.environment = vec![
        ("HOOKLANE_TRUST_PROXY", "127.0.0.0/8"),
        ("HOOKLANE_PROXY_PROTOCOL", "1"),
    ];
    // The check of readiness has no header, and is answered 400: any answer means that it listens.
    behind.daemon = Some(behind.home.spawn());
    until(|| TcpStream::connect(behind.home.addr).ok());
    let from = |claim: &str| {
        let ask = Ask::post("pay").key(&keys).body("{}").bytes();
        send(behind.home.addr, &[claim.as_bytes(), &ask].concat())
    };
    assert_eq!(
        from("PROXY TCP4 192.0.2.5 127.0.0.1 4711 80\r\n").status,
        202
    );
    assert_eq!(from("PROXY TCP6 2001:db8::5 ::1 4711 80\r\n").status, 202);
    is_forbidden(
        &from("PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n"),
        "203.0.113.9",
    );
    is_forbidden(&from("PROXY UNKNOWN\r\n"), "127.0.0.1");
    let without = from("");
    assert_eq!(
        (without.status, without.code()),
        (400, "proxy_header".to_owned())
    );
    assert_eq!(from("PROXY TCP4 192.0.2.5\r\n").status, 400);
}

/// Writes a new certificate for localhost and its key; the certificate as PEM.
fn certify(home: &Home) -> String {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    home.write("key.pem", &signing_key.serialize_pem());
    home.write("cert.pem", &cert.pem());
    cert.pem()
}

type Secured = StreamOwned<ClientConnection, TcpStream>;

/// A TLS connection that trusts one certificate and offers these protocols.
fn secured(world: &World, trusted: &str, protocols: &[&str]) -> std::io::Result<Secured> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap();
    roots.add(certificate).unwrap();
    let provider = Arc::new(crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(world.home.addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut secured = StreamOwned::new(connection, stream);
    secured.conn.complete_io(&mut secured.sock)?;
    Ok(secured)
}

/// The status of an event posted over a connection that stays open.
fn status(stream: &mut Secured, key: &str) -> String {
    let ask = format!(
        "POST /in/open HTTP/1.1\r\nhost: localhost\r\nx-hooklane-key: {key}\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    stream.write_all(ask.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    head[9..12].to_owned()
}

fn leaked(path: &Path) -> &'static str {
    path.to_str().unwrap().to_owned().leak()
}

fn a_certificate_serves_and_is_taken_up_when_it_changes(setup: Setup) {
    let mut home = Home::new(setup);
    let first = certify(&home);
    let file = |name: &str| home.data().with_file_name(name);
    let (certificate, key) = (leaked(&file("cert.pem")), leaked(&file("key.pem")));
    home.environment = vec![
        ("HOOKLANE_TLS_CERT", certificate),
        ("HOOKLANE_TLS_KEY", key),
    ];
    let world = World::at(home, &[], HOOKS);
    let url = format!("https://localhost:{}", world.home.addr.port());

    // The command line over TLS, with a certificate of one's own.
    let mut list = world
        .home
        .command(&["hooks", "list", "-o", "names", "--url", &url]);
    list.env("HOOKLANE_KEY", &world.admin)
        .env("SSL_CERT_FILE", certificate);
    let done = ended(&mut list);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "open\npay");

    let mut old = secured(&world, &first, &["h2", "http/1.1"]).unwrap();
    assert_eq!(old.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(status(&mut old, &world.write), "202");
    assert!(secured(&world, &first, &["h2"]).is_err());

    // Plain HTTP gets an answer that says what to do, a port scanner a close.
    let plain = world.post("open", "{}");
    assert_eq!(
        (plain.status, plain.code()),
        (400, "tls_required".to_owned())
    );
    let mut garbage = TcpStream::connect(world.home.addr).unwrap();
    garbage
        .write_all(b"\x16\x03\x01\x00\x05hello, this is no hello")
        .unwrap();
    let _ = garbage.shutdown(Shutdown::Write);
    let mut rest = Vec::new();
    let _ = garbage.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");

    // A file that does not fit changes nothing, and is told.
    let before = std::fs::read(certificate).unwrap();
    std::fs::write(certificate, "no certificate").unwrap();
    let doctor = || {
        let report = world
            .home
            .command(&["doctor", "-o", "json"])
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&report.stdout).unwrap();
        let items = report["items"].as_array().unwrap().clone();
        items
            .into_iter()
            .find(|check| check["name"] == "tls")
            .unwrap()
    };
    let failed = until(|| Some(doctor()).filter(|check| check["grade"] == "fail"));
    let text = failed["text"].as_str().unwrap();
    assert!(text.contains("has no certificate"), "{text}");
    assert!(world.home.log().contains("the certificate stays as it was"));
    let mut still = secured(&world, &first, &[]).unwrap();
    assert_eq!(status(&mut still, &world.write), "202");

    // A new certificate is for new connections; open ones stay open.
    std::fs::write(certificate, before).unwrap();
    until(|| (doctor()["grade"] == "ok").then_some(()));
    let second = certify(&world.home);
    let mut new = until(|| secured(&world, &second, &[]).ok());
    assert_eq!(status(&mut new, &world.write), "202");
    assert_eq!(status(&mut old, &world.write), "202");
    assert!(secured(&world, &first, &[]).is_err());
}

#[test]
fn files_that_do_not_fit_are_refused_at_the_start_with_what_to_do() {
    let home = Home::new(Setup::Embedded);
    certify(&home);
    let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    home.write("other.pem", &other.signing_key.serialize_pem());
    home.write("empty.pem", "");
    let file = |name: &str| -> PathBuf { home.data().with_file_name(name) };
    for (certificate, key, words) in [
        ("cert.pem", "other.pem", "do not fit"),
        ("cert.pem", "cert.pem", "has no private key"),
        ("empty.pem", "key.pem", "has no certificate"),
        ("none.pem", "key.pem", "cannot be read"),
        ("cert.pem", ".", "cannot be read"),
    ] {
        let mut serve = home.command(&["serve", "--listen", "127.0.0.1:0"]);
        serve.arg("--tls-cert").arg(file(certificate));
        let done = ended(serve.arg("--tls-key").arg(file(key)));
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains(words) && said.contains("give"), "{said}");
    }
    let mut alone = home.command(&["serve", "--proxy-protocol"]);
    let done = ended(&mut alone);
    assert_eq!(done.status.code(), Some(2), "{done:?}");
    let mut half = home.command(&["serve", "--tls-cert", "cert.pem"]);
    assert_eq!(ended(&mut half).status.code(), Some(2));
    for count in ["0", "10241", "many"] {
        let mut serve = home.command(&["serve", "--connections-per-address", count]);
        assert_eq!(ended(&mut serve).status.code(), Some(2), "{count}");
    }
    assert!(
        !home.data().exists() || home.data().metadata().unwrap().permissions().mode() & 0o077 == 0
    );
}
