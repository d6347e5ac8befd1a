//! Secrets encrypted for the database: XChaCha20-Poly1305 with a key that is not in it.
//! <https://datatracker.ietf.org/doc/html/draft-irtf-cfrg-xchacha-03>

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use sha2::{Digest as _, Sha256};

use super::name::hex;
use super::time::Timestamp;

const VERSION: &str = "v1";

/// Key that encrypts secrets. `Debug` does not print it; [`SealKey::expose`] returns it.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey([u8; 32]);

/// Error for a text that is not a key. The error does not repeat the text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a secret key is the base64 of 32 bytes")]
pub struct InvalidKey;

/// An encrypted secret as text: `v1.KEY.ID.TIME.BASE64`. Key id, secret id and time are readable, but
/// authenticated: a secret in which one of them was changed no longer decrypts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed(Arc<str>);

impl SealKey {
    /// Creates a random key.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// The key in base64, as its file stores it.
    pub fn expose(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Id of the key, a short hash that reveals nothing about the key.
    pub fn id(&self) -> String {
        let hash = Sha256::new()
            .chain_update(b"hooklane secret key")
            .chain_update(self.0);
        hex(&hash.finalize()[..4])
    }

    /// Encrypts a secret. `at` is stored as the time at which it was given.
    pub fn seal(&self, secret: &str, at: Timestamp) -> Sealed {
        let nonce: [u8; 24] = rand::random();
        let front = format!(
            "{VERSION}.{}.{}.{}",
            self.id(),
            hex(&nonce[..4]),
            at.as_millis()
        );
        let payload = Payload {
            msg: secret.as_bytes(),
            aad: front.as_bytes(),
        };
        let cipher = XChaCha20Poly1305::new(&self.0.into());
        let encrypted = cipher
            .encrypt(&nonce.into(), payload)
            .expect("a secret is shorter than the cipher's limit of 256 GiB");
        let encoded = STANDARD.encode([&nonce[..], &encrypted].concat());
        Sealed(format!("{front}.{encoded}").into())
    }

    /// Decrypts a secret; `None` if it was encrypted with another key or altered.
    pub fn open(&self, sealed: &Sealed) -> Option<String> {
        let (front, encoded) = sealed.0.rsplit_once('.')?;
        let bytes = STANDARD.decode(encoded).ok()?;
        let (nonce, encrypted) = bytes.split_first_chunk::<24>()?;
        let payload = Payload {
            msg: encrypted,
            aad: front.as_bytes(),
        };
        let cipher = XChaCha20Poly1305::new(&self.0.into());
        let opened = cipher.decrypt(nonce.into(), payload).ok()?;
        String::from_utf8(opened).ok()
    }
}

impl FromStr for SealKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| InvalidKey)?;
        bytes.try_into().map(Self).map_err(|_| InvalidKey)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", self.id())
    }
}

impl Sealed {
    /// The text that the database stores.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Id of the key that encrypted it.
    pub fn key_id(&self) -> &str {
        self.part(1)
    }

    /// Id of the secret, for operators.
    pub fn id(&self) -> &str {
        self.part(2)
    }

    /// Time at which the secret was given.
    pub fn at(&self) -> Timestamp {
        Timestamp::from_millis(self.part(3).parse().unwrap_or_default())
    }

    fn part(&self, index: usize) -> &str {
        self.0.split('.').nth(index).unwrap_or_default()
    }
}

impl FromStr for Sealed {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let parts = text.split('.').count();
        let is_ours = text.starts_with("v1.") && parts == 5;
        is_ours.then(|| Self(text.into())).ok_or(InvalidKey)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_its_key_opens_a_secret_and_only_if_nothing_was_changed() {
        let (key, other) = (SealKey::generate(), SealKey::generate());
        let at = Timestamp::from_millis(1_700_000_000_000);
        let sealed = key.seal("hunter2", at);
        assert_eq!(key.expose().parse::<SealKey>().unwrap(), key);
        assert_eq!((sealed.key_id(), sealed.at()), (&*key.id(), at));
        assert_eq!(sealed.as_str().parse::<Sealed>().unwrap(), sealed);
        assert_eq!(key.open(&sealed).unwrap(), "hunter2");
        assert_eq!(other.open(&sealed), None);
        for place in 0..sealed.as_str().len() {
            let mut bytes = sealed.as_str().as_bytes().to_vec();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            let text = String::from_utf8(bytes).unwrap();
            let opened = text
                .parse::<Sealed>()
                .ok()
                .and_then(|sealed| key.open(&sealed));
            assert_eq!(opened, None, "{place}");
        }
        assert!(
            !sealed.as_str().contains("hunter2") && !format!("{key:?}").contains(&key.expose())
        );
    }
}
