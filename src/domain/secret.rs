//! Secrets that sign deliveries or verify senders. Signing secrets have the form of Standard Webhooks:
//! `whsec_` and base64.
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::seal::Sealed;
use super::time::Timestamp;

const PREFIX: &str = "whsec_";

/// Sizes in bytes that Standard Webhooks allows.
const SIZES: std::ops::RangeInclusive<usize> = 24..=64;

/// Size limit of a sender's secret, in bytes; a public key of SendGrid has 124.
const SENDERS_MAX: usize = 1_000;

/// Number of secrets in force at most: two during a rotation.
pub const SECRETS_MAX: usize = 2;

/// A shared secret. `Debug` does not print it; [`Secret::expose`] returns it. Two secrets are equal if
/// their texts are.
#[derive(Clone, Eq)]
pub struct Secret {
    text: String,
    bytes: Vec<u8>,
    sealed: Option<Sealed>,
}

/// Error for a text that is not a secret. The error does not repeat the text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidSecret {
    /// Not a signing secret.
    #[error("a secret is whsec_ and the base64 of 24 to 64 bytes")]
    Signing,
    /// Not a secret of a sender.
    #[error("the secret is empty, longer than {SENDERS_MAX} bytes, or has more than one line")]
    Sender,
}

impl Secret {
    /// Creates a signing secret of 32 random bytes.
    pub fn generate() -> Self {
        let bytes = rand::random::<[u8; 32]>().to_vec();
        let text = format!("{PREFIX}{}", STANDARD.encode(&bytes));
        Self {
            text,
            bytes,
            sealed: None,
        }
    }

    /// A secret of a sender, from its text without surrounding white space.
    ///
    /// # Errors
    /// [`InvalidSecret::Sender`] if the text is empty, too long or has several lines.
    pub fn of_sender(text: &str) -> Result<Self, InvalidSecret> {
        let text = text.trim();
        let is_pem = text.starts_with("-----");
        let has_lines = text.contains(['\r', '\n']) && !is_pem;
        if text.is_empty() || text.len() > SENDERS_MAX || has_lines {
            return Err(InvalidSecret::Sender);
        }
        Ok(Self {
            text: text.to_owned(),
            bytes: text.as_bytes().to_vec(),
            sealed: None,
        })
    }

    /// The bytes used as the key of the HMAC.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The secret as text, as an operator configures it.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The same secret, with its encrypted form.
    pub fn with_sealed(self, sealed: Sealed) -> Self {
        Self {
            sealed: Some(sealed),
            ..self
        }
    }

    /// The encrypted form; `None` before the secret is stored encrypted.
    pub fn sealed(&self) -> Option<&Sealed> {
        self.sealed.as_ref()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl FromStr for Secret {
    type Err = InvalidSecret;

    /// Parses a signing secret.
    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidSecret::Signing)?;
        let bytes = STANDARD.decode(encoded);
        let bytes = bytes.map_err(|_| InvalidSecret::Signing)?;
        match SIZES.contains(&bytes.len()) {
            true => Ok(Self {
                text: text.to_owned(),
                bytes,
                sealed: None,
            }),
            false => Err(InvalidSecret::Signing),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The secrets of a hook or a handler, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    /// The secrets in force, decrypted.
    pub open: Vec<Secret>,
    /// The secrets that this node cannot decrypt.
    pub locked: Vec<Sealed>,
}

impl Secrets {
    /// A set of one secret.
    pub fn one(secret: Secret) -> Self {
        Self {
            open: vec![secret],
            locked: Vec::new(),
        }
    }

    /// The set with `new` in front and older secrets up to [`SECRETS_MAX`]. A secret that is already in
    /// the set changes nothing.
    pub fn with(&self, new: Secret) -> Self {
        let mut all = self.clone();
        if !all.open.contains(&new) {
            all.open.insert(0, new);
            all.open.truncate(SECRETS_MAX);
        }
        all
    }

    /// The set without the secret with this id; `None` if there is no such secret.
    pub fn without(&self, id: &str) -> Option<Self> {
        let mut rest = self.clone();
        let is_meant = |sealed: &Sealed| sealed.id() == id;
        rest.open
            .retain(|secret| !secret.sealed().is_some_and(is_meant));
        rest.locked.retain(|sealed| !is_meant(sealed));
        let count = |all: &Self| all.open.len() + all.locked.len();
        (count(&rest) < count(self)).then_some(rest)
    }

    /// Ids of the encrypted secrets, each with the time at which the secret was given.
    pub fn ids(&self) -> impl Iterator<Item = (&str, Timestamp)> {
        let open = self.open.iter().filter_map(Secret::sealed);
        open.chain(&self.locked)
            .map(|sealed| (sealed.id(), sealed.at()))
    }

    /// True if there are secrets but none can be decrypted.
    pub fn is_locked(&self) -> bool {
        self.open.is_empty() && !self.locked.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_back_and_is_never_printed() {
        let secret = Secret::generate();
        let text = secret.expose();
        assert_eq!(format!(" {text}\n").parse::<Secret>().unwrap(), secret);
        assert!(!format!("{secret:?}").contains(&text[PREFIX.len()..]));
        for wrong in ["", "whsec_", "whsec_AAAA", "hunter2", "whsec_!!"] {
            assert_eq!(
                wrong.parse::<Secret>(),
                Err(InvalidSecret::Signing),
                "{wrong}"
            );
        }
        assert_eq!(
            Secret::of_sender(" hunter2\n").unwrap().as_bytes(),
            b"hunter2"
        );
        for wrong in ["", " \n", "a\nb", &"a".repeat(1_001)] {
            assert_eq!(Secret::of_sender(wrong), Err(InvalidSecret::Sender));
        }
    }

    #[test]
    fn the_newest_two_secrets_are_in_force() {
        let [a, b, c] = ["a", "b", "c"].map(|text| Secret::of_sender(text).unwrap());
        let two = Secrets::one(a.clone()).with(b.clone());
        assert_eq!(two.open, [b.clone(), a.clone()]);
        assert_eq!(two.with(a), two, "it is there already");
        assert_eq!(two.with(c.clone()).open, [c, b]);
        assert_eq!(two.without("00000000"), None);
    }
}
