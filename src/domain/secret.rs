//! Secrets that sign requests, as Standard Webhooks writes them: `whsec_` and base64.
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const PREFIX: &str = "whsec_";

/// Sizes that Standard Webhooks allows, in bytes.
const SIZES: std::ops::RangeInclusive<usize> = 24..=64;

/// Bytes of a shared secret. `Debug` does not print them; see [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// A text that is not a secret. The error does not repeat the text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a secret is whsec_ and the base64 of 24 to 64 bytes")]
pub struct InvalidSecret;

impl Secret {
    /// A new secret of 32 random bytes.
    pub fn generate() -> Self {
        Self(rand::random::<[u8; 32]>().to_vec())
    }

    /// The key of the HMAC.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The secret in the form that receivers configure.
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }
}

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(InvalidSecret)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| InvalidSecret)?;
        match SIZES.contains(&bytes.len()) {
            true => Ok(Self(bytes)),
            false => Err(InvalidSecret),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_back_and_is_never_printed() {
        let secret = Secret::generate();
        let text = secret.expose();
        assert_eq!(format!(" {text}\n").parse::<Secret>().unwrap(), secret);
        assert!(!format!("{secret:?}").contains(&text[PREFIX.len()..]));
        for wrong in ["", "whsec_", "whsec_AAAA", "hunter2", "whsec_!!"] {
            assert_eq!(wrong.parse::<Secret>(), Err(InvalidSecret), "{wrong}");
        }
    }
}
