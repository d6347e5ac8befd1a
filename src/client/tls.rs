//! TLS to a daemon, or to a proxy in front of it. Its certificate must be trusted by this machine, through the
//! system's store or the file in `SSL_CERT_FILE`.

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::trust;

/// Does the TLS handshake over `stream`; `authority` is the host with its port.
///
/// # Errors
/// Describes what is wrong with the certificate, with the other end, or with this machine's trusted
/// certificates.
pub async fn secure(stream: TcpStream, authority: &str) -> Result<TlsStream<TcpStream>, Error> {
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "its host is no name for TLS"))?;
    TlsConnector::from(Arc::new(trust::tls()?))
        .connect(name, stream)
        .await
}
