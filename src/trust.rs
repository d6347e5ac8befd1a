//! Trusted certificates of this machine: those of the system's store, or of the file in
//! `SSL_CERT_FILE`.

use std::io::Error;
use std::sync::Arc;

use rustls_native_certs::load_native_certs;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// TLS configuration of a client with the present certificates.
///
/// # Errors
/// The machine has no trusted certificate; the message says what to do.
pub fn tls() -> Result<ClientConfig, Error> {
    let found = load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(Error::other(
            "this machine trusts no certificate at all: install ca-certificates, or name a file in SSL_CERT_FILE",
        ));
    }
    Ok(with(roots))
}

/// TLS configuration without trusted certificates: every handshake fails.
pub fn nobody() -> ClientConfig {
    with(RootCertStore::empty())
}

fn with(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks the default versions, because its features include tls12")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
