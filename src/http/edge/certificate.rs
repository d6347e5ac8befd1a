//! The certificate of the door, with its private key: PEM files that are read again when they change.
//!
//! Promises: a connection keeps the certificate with which it began; files that do not fit change
//! nothing, and the fault is kept for operators. HTTP/1.1 is the only protocol that is offered.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig, crypto};
use tracing::{info, warn};

/// Interval at which the files are read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Size limit of a file, in bytes: a chain of certificates has some kilobytes.
const FILE_MAX: u64 = 1024 * 1024;

/// A certificate that connections use, and the files that it comes from.
pub struct Certificate {
    files: Files,
    config: ArcSwap<ServerConfig>,
    /// Content that was read last, so that each content is judged once.
    seen: Read,
    fault: watch::Sender<Option<String>>,
}

/// The two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, and those that lead to its root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Reason why files cannot be used, with the next step.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Fault {
    /// A file cannot be read.
    #[error("{file} cannot be read: {why}; give a PEM file that this user may read")]
    Unread {
        /// Path of the file.
        file: String,
        /// Message of the system.
        why: String,
    },
    /// The file contains no certificate.
    #[error(
        "{0} has no certificate: give the PEM text of the certificate and of those that signed it, its own first"
    )]
    NoCertificate(String),
    /// The file contains no key.
    #[error(
        "{0} has no private key in PEM: give one of PKCS#8, PKCS#1 or SEC1 without a passphrase"
    )]
    NoKey(String),
    /// The two do not belong together, or their algorithm is not supported.
    #[error(
        "{certificate} and {key} do not fit: {why}; give the key that the certificate was made for"
    )]
    Unfit {
        /// Path of the certificate.
        certificate: String,
        /// Path of the key.
        key: String,
        /// The fault.
        why: String,
    },
}

/// The contents of certificate and key.
type Read = Result<(Vec<u8>, Vec<u8>), Fault>;

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Fault`] with the next step.
    pub async fn load(files: Files) -> Result<Self, Fault> {
        let seen = files.read().await;
        let config = files.config(&seen)?;
        Ok(Self {
            files,
            config: ArcSwap::new(config),
            seen,
            fault: watch::Sender::new(None),
        })
    }

    /// The fault of the files as they are now; `None` if the certificate in use is theirs.
    pub fn fault(&self) -> watch::Receiver<Option<String>> {
        self.fault.subscribe()
    }

    /// Makes the next handshake with the present certificate.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Takes up changes of the files until the other side of `stopping` says true. A change counts when
    /// two readings in a row agree, so that one in the middle of writing is not judged.
    pub async fn follow(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        let mut judged = self.seen.clone();
        let mut last = self.seen.clone();
        while !*stopping.borrow() {
            let _ = tokio::time::timeout(LOOK_EVERY, stopping.changed()).await;
            let now = self.files.read().await;
            if now == last && now != judged {
                self.take_up(&now);
                judged = now.clone();
            }
            last = now;
        }
    }

    fn take_up(&self, read: &Read) {
        let file = self.files.certificate.display();
        match self.files.config(read) {
            Ok(config) => {
                self.config.store(config);
                self.fault.send_replace(None);
                info!(%file, "new connections use the new certificate");
            }
            Err(fault) => {
                warn!(%fault, "the certificate stays as it was");
                self.fault.send_replace(Some(fault.to_string()));
            }
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(&self.files).finish()
    }
}

impl Files {
    async fn read(&self) -> Read {
        let certificate = read(&self.certificate).await?;
        Ok((certificate, read(&self.key).await?))
    }

    fn config(&self, read: &Read) -> Result<Arc<ServerConfig>, Fault> {
        let shown = |path: &Path| path.display().to_string();
        let (certificates, key) = read.as_ref().map_err(Fault::clone)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| Fault::NoCertificate(shown(&self.certificate)))?;
        let key = PrivateKeyDer::from_pem_slice(key);
        let key = key.map_err(|_| Fault::NoKey(shown(&self.key)))?;
        let config = config(chain, key).map_err(|error| Fault::Unfit {
            certificate: shown(&self.certificate),
            key: shown(&self.key),
            why: error.to_string(),
        })?;
        Ok(Arc::new(config))
    }
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let unread = |why: String| Fault::Unread {
        file: path.display().to_string(),
        why,
    };
    let found = tokio::fs::metadata(path).await;
    let found = found.map_err(|error| unread(error.to_string()))?;
    if !found.is_file() || found.len() > FILE_MAX {
        return Err(unread("it is no file of text".to_owned()));
    }
    let text = tokio::fs::read(path).await;
    text.map_err(|error| unread(error.to_string()))
}
