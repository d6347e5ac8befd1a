//! TLS to what stands before a daemon: its certificate must be one that this machine trusts, as the
//! system's store says, or the file that `SSL_CERT_FILE` names.

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use rustls_native_certs::load_native_certs;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Shakes hands over `stream`; `authority` is the host with its port.
///
/// # Errors
/// What is wrong with the certificate, with the other end, or with what this machine trusts.
pub async fn secure(stream: TcpStream, authority: &str) -> Result<TlsStream<TcpStream>, Error> {
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "its host is no name for TLS"))?;
    TlsConnector::from(Arc::new(config()?))
        .connect(name, stream)
        .await
}

fn config() -> Result<ClientConfig, Error> {
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::other)?;
    Ok(config
        .with_root_certificates(trusted()?)
        .with_no_client_auth())
}

fn trusted() -> Result<RootCertStore, Error> {
    let found = load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(Error::other(
            "this machine trusts no certificate at all: install ca-certificates, or name a file in SSL_CERT_FILE",
        ));
    }
    Ok(roots)
}
