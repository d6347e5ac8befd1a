//! Names of namespaces, hooks and handlers, and ordering keys: parsed once, valid from then on.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// Name of a namespace, hook or handler: 1 to 63 of `a-z 0-9 - _`, beginning with a letter or digit.
/// Needs no escaping in a URL, a file name, a metric label or a shell.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Longest name, in bytes.
pub const NAME_MAX: usize = 63;

impl Name {
    /// The namespace that always exists.
    pub fn default_namespace() -> Self {
        Self("default".into())
    }

    /// Name of every hook's reduce handler.
    pub fn reduce() -> Self {
        Self("reduce".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is not a name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a name: 1 to 63 of a-z, 0-9, - and _, beginning with a letter or digit")]
pub struct InvalidName(String);

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let bytes = text.as_bytes();
        let inside = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        let begins = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
        if begins && bytes.len() <= NAME_MAX && bytes.iter().all(inside) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Key that identifies a stream within its hook; empty for the stream without a key. Compared as bytes.
///
/// Any input gives a key, the same one on every database: an input longer than 200 bytes, not in UTF-8
/// or with a control character is replaced by `sha256:` and its digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OrderingKey(Arc<str>);

/// Longest ordering or dedupe key that is stored unchanged, in bytes.
pub const KEPT_KEY_MAX: usize = 200;

impl OrderingKey {
    /// The empty key, of the stream without a key.
    pub fn none() -> Self {
        Self::default()
    }

    /// The key for the bytes that a sender gave.
    pub fn new(given: &[u8]) -> Self {
        Self(kept(given).into())
    }

    /// A key read from the database, where it already has its stored form.
    pub fn stored(text: String) -> Self {
        Self(text.into())
    }

    /// The key as text; empty for the stream without a key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The stored form of an ordering or dedupe key.
pub fn kept(given: &[u8]) -> String {
    match std::str::from_utf8(given) {
        Ok(text) if given.len() <= KEPT_KEY_MAX && !text.chars().any(char::is_control) => {
            text.to_owned()
        }
        _ => format!("{HASHED}{}", hex(&Sha256::digest(given))),
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Name of a stream: `HOOK` or `HOOK/KEY`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamName {
    /// The hook.
    pub hook: Name,
    /// The ordering key.
    pub key: OrderingKey,
}

impl StreamName {
    /// The name as tables show it: a hashed key is shortened to enough digits to tell it apart.
    /// Commands accept this form too.
    pub fn short(&self) -> String {
        match hashed(&self.key).filter(|digits| digits.len() == HASH_LEN) {
            Some(digits) => format!("{}/{HASHED}{}", self.hook, &digits[..HASH_SHOWN]),
            None => self.to_string(),
        }
    }

    /// The name of the stream in the audit log once it is erased: its key may tell whom it is about, a hash does so only to
    /// readers who know the key. The stream without a key keeps its name.
    pub fn alias(&self) -> String {
        if self.key.as_str().is_empty() {
            return self.hook.to_string();
        }
        let digest = hex(&Sha256::digest(self.to_string()));
        format!("{}/erased:{}", self.hook, &digest[..ALIAS_LEN])
    }

    /// True if the key may be a hashed one shortened by [`StreamName::short`].
    pub fn is_short(&self) -> bool {
        hashed(&self.key).is_some_and(|digits| (HASH_SHORTEST..HASH_LEN).contains(&digits.len()))
    }
}

/// The digits of a hashed key, or of the beginning of one.
fn hashed(key: &OrderingKey) -> Option<&str> {
    let digits = key.as_str().strip_prefix(HASHED)?;
    let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    digits.bytes().all(is_hex).then_some(digits)
}

/// Prefix of a hashed key, and its number of hexadecimal digits: in full, in tables, and at least.
const HASHED: &str = "sha256:";
const HASH_LEN: usize = 64;
const HASH_SHOWN: usize = 12;
const HASH_SHORTEST: usize = 8;

/// Number of hexadecimal digits of the hash in an alias.
const ALIAS_LEN: usize = 16;

impl FromStr for StreamName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (hook, key) = text.split_once('/').unwrap_or((text, ""));
        Ok(Self {
            hook: hook.parse()?,
            key: OrderingKey::new(key.as_bytes()),
        })
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}", self.hook),
            key => write!(f, "{}/{key}", self.hook),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_plain_and_begins_with_a_letter_or_digit() {
        for right in ["a", "billing", "7-eleven", "a_b-c", &"x".repeat(63)] {
            assert!(right.parse::<Name>().is_ok(), "{right}");
        }
        for wrong in ["", "-a", "_a", "A", "a b", "a/b", "ä", &"x".repeat(64)] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_ordering_key_has_exactly_one_kept_form() {
        assert_eq!(OrderingKey::new(b"acme").as_str(), "acme");
        for odd in [
            &b"\xff\xfe"[..],
            b"a\nb",
            "x".repeat(201).as_bytes(),
            "\u{85}".as_bytes(),
        ] {
            let key = OrderingKey::new(odd);
            assert!(key.as_str().starts_with("sha256:"), "{key:?}");
            assert_eq!(
                OrderingKey::new(key.as_str().as_bytes()),
                key,
                "kept forms stay"
            );
        }
    }

    #[test]
    fn a_hashed_key_has_a_short_form_and_other_keys_are_whole() {
        let of = |key: &[u8]| StreamName {
            hook: "pay".parse().unwrap(),
            key: OrderingKey::new(key),
        };
        let hashed = of(&[b'x'; 300]);
        assert!(hashed.to_string().starts_with(&hashed.short()));
        assert_eq!(hashed.short().len(), "pay/sha256:".len() + 12);
        assert!(hashed.short().parse::<StreamName>().unwrap().is_short());
        assert!(!hashed.is_short(), "it is whole");
        for key in [
            "acme",
            "",
            "sha256:",
            "sha256:1234567",
            "sha256:xyzxyzxyzxyz",
        ] {
            let name = of(key.as_bytes());
            assert_eq!(name.short(), name.to_string());
            assert!(!name.is_short(), "{name}");
        }
    }

    #[test]
    fn a_stream_is_written_as_hook_or_hook_and_key() {
        for text in ["billing", "billing/acme", "billing/a/b"] {
            assert_eq!(text.parse::<StreamName>().unwrap().to_string(), text);
        }
    }
}
