//! Parsers of what stands before a request, against 260,000 hostile inputs and 300 hostile connections.
//! None may panic, and no sender may choose its address.

use std::io::Cursor;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, crypto};

use super::forwarded::{Unclear, sender};
use super::proxy::{ProxySource, read_bytes};
use crate::domain::network::Networks;
use crate::mutation::Mutation;

const EXECUTIONS: usize = 100_000;

const LISTS: &[&str] = &[
    "192.0.2.7",
    "6.6.6.6, 198.51.100.2 , 10.9.9.9",
    "[2001:db8::7]:4711, unknown",
    "::ffff:192.0.2.7,_hidden,10.0.0.1:80",
];

const PAIRS: &[&str] = &[
    "for=192.0.2.7;proto=https;by=203.0.113.43",
    "For=\"[2001:db8:cafe::17]:4711\", for=unknown",
    "for=\"_gaz\\\"onk\";host=\"a, b\", for=10.0.0.1",
    "for=\"192.0.2.43:_port\"",
];

/// The sender of a request from a trusted proxy, which added `last` to what its client sent.
fn behind(name: &'static str, sent: &[u8], last: &str) -> Option<Result<IpAddr, Unclear>> {
    let value = [sent, b", ", last.as_bytes()].concat();
    let mut headers = HeaderMap::new();
    headers.insert(name, HeaderValue::from_bytes(&value).ok()?);
    let trusted: Networks = "10.0.0.0/8".parse().ok()?;
    Some(sender(&headers, IpAddr::from([10, 0, 0, 1]), &trusted))
}

#[test]
fn no_list_of_a_sender_hides_the_address_that_its_proxy_adds() {
    let mut mutation = Mutation::seeded(1);
    let real = IpAddr::from([192, 0, 2, 200]);
    let mut parsed = 0;
    for _ in 0..EXECUTIONS {
        let sent = mutation.of(LISTS);
        let found = behind("x-forwarded-for", &sent, "192.0.2.200");
        parsed += usize::from(found.is_some());
        assert!(found.is_none_or(|found| found == Ok(real)), "{sent:?}");
    }
    assert!(parsed > EXECUTIONS / 4, "{parsed}");
}

#[test]
fn no_pairs_of_a_sender_hide_the_address_that_its_proxy_adds() {
    let mut mutation = Mutation::seeded(2);
    let real = IpAddr::from([192, 0, 2, 200]);
    let mut parsed = 0;
    for _ in 0..EXECUTIONS {
        let sent = mutation.of(PAIRS);
        match behind("forwarded", &sent, "for=192.0.2.200") {
            Some(Ok(found)) => {
                parsed += 1;
                assert_eq!(found, real, "{sent:?}");
            }
            Some(Err(unclear)) => assert_eq!(unclear, Unclear::Malformed("Forwarded")),
            None => {}
        }
    }
    assert!(parsed > EXECUTIONS / 10, "{parsed}");
}

#[test]
fn no_bytes_in_place_of_a_proxy_header_panic() {
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x12\x34\0\x50GET /";
    let longer = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x28\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\0\x01\0\x50\x04\0\x01\0POST";
    let good: &[&[u8]] = &[
        b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\nGET / HTTP/1.1\r\n",
        b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\nGET /",
        b"PROXY UNKNOWN\r\nGET /",
        binary,
        longer,
    ];
    let mut mutation = Mutation::seeded(3);
    let mut told = 0;
    for _ in 0..50_000 {
        let bytes = mutation.of(good);
        if let Some((found, len)) = read_bytes(&bytes) {
            assert!(len <= bytes.len().min(2_048));
            told += usize::from(matches!(found, ProxySource::Client(_)));
        }
    }
    assert!(told > 5_000, "{told}");
}

/// The first bytes of a TLS client.
pub(super) fn hello() -> Vec<u8> {
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks the default versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a host name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("memory can be written");
    bytes
}

#[test]
fn no_first_bytes_of_tls_panic() {
    let good = [hello(), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()];
    let mut mutation = Mutation::seeded(4);
    for _ in 0..10_000 {
        let bytes = mutation.of(&good);
        let mut acceptor = Acceptor::default();
        let mut left = Cursor::new(&bytes);
        while acceptor.read_tls(&mut left).is_ok_and(|read| read > 0) {
            if !matches!(acceptor.accept(), Ok(None)) {
                break;
            }
        }
    }
}
