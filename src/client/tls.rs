//! TLS to a daemon, or to a proxy in front of it. Its certificate must be trusted by this machine, through the
//! system's store or the file in `SSL_CERT_FILE`.

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, CertificateError};

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
    let secured = TlsConnector::from(Arc::new(trust::tls()?)).connect(name, stream);
    secured.await.map_err(|error| told(error, host))
}

/// An error of the handshake in words. Errors of a certificate say what to do.
fn told(error: Error, host: &str) -> Error {
    use rustls::Error::InvalidCertificate;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(InvalidCertificate(fault)) = inner else {
        return error;
    };
    let text = match fault {
        CertificateError::UnknownIssuer => {
            "this machine does not trust its certificate: name that of its CA with SSL_CERT_FILE=FILE".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is not for {host}: give --url with a name that is in it")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        // The library has no variant of its own for this.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "its certificate is one of a CA: make one with -addext basicConstraints=critical,CA:FALSE".to_owned()
        }
        _ => return error,
    };
    Error::other(text)
}
