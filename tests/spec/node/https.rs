//! The command line through a proxy that speaks TLS, as a daemon on another network is reached.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use super::daemon::Setup;
use super::world::World;

/// A proxy with a certificate of its own for localhost, and the certificate as text.
async fn proxy(to: SocketAddr) -> (SocketAddr, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust the certificate ends the handshake.
                if let Ok(mut secured) = acceptor.accept(stream).await {
                    let mut daemon = TcpStream::connect(to).await.unwrap();
                    let _ = copy_bidirectional(&mut secured, &mut daemon).await;
                }
            });
        }
    });
    (addr, cert.pem())
}

#[test]
fn a_daemon_is_reached_over_https_with_a_certificate_that_is_trusted_and_with_no_other() {
    let world = World::new(
        Setup::Embedded,
        &[],
        "[[hooks]]\nname = 'orders'\nreduce = 'latest'\n",
    );
    world.accepted("orders", json!({"n": 1}).to_string());
    let key = world.admin.trim().to_owned();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (addr, certificate) = runtime.block_on(proxy(world.home.addr));
    let file = world.home.write("trusted.pem", &certificate);

    let url = format!("https://localhost:{}", addr.port());
    let mut trusting = world
        .home
        .command(&["hooks", "list", "-o", "names", "--url", &url]);
    trusting.env("HOOKLANE_KEY", &key);
    let done = trusting.env("SSL_CERT_FILE", &file).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "orders");

    let mut doubting = world.home.command(&["hooks", "list", "--url", &url]);
    doubting
        .env_remove("SSL_CERT_FILE")
        .env("HOOKLANE_KEY", &key);
    let done = doubting.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success());
    let told =
        "this machine does not trust its certificate: name that of its CA with SSL_CERT_FILE=FILE";
    assert!(said.contains(told), "{said}");
    assert!(!said.contains(&key), "{said}");
}
