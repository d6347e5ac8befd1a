//! Access keys: `hl_<w|r|a>_<id8><secret30><crc6>`, base 62.
//!
//! The prefix lets scanners find leaked keys. The checksum lets truncated keys be refused without a
//! look-up; it is no proof of validity. The SHA-256 of the whole key is stored: the secret has over 170
//! bits, so a slow hash would add only load.

use std::cmp::Ordering;
use std::fmt;

use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

use super::hook::HookId;
use super::name::Name;
use super::rate::Limit;
use super::time::Timestamp;

/// Permissions of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// May post events.
    Write,
    /// May read states and events.
    Read,
    /// May do everything.
    Admin,
}

impl Kind {
    /// Its name in tables, JSON and the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Write => 'w',
            Self::Read => 'r',
            Self::Admin => 'a',
        }
    }
}

/// Hooks that a key is valid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every hook, future ones included.
    All,
    /// One hook.
    Hook(HookId),
}

impl Scope {
    /// True if the key is valid for `hook`.
    pub fn covers(self, hook: HookId) -> bool {
        self == Self::All || self == Self::Hook(hook)
    }
}

/// A key as stored, without its secret.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its number; never reused.
    pub number: i64,
    /// Public part of its text.
    pub id: KeyId,
    /// Its name for people.
    pub name: Name,
    /// Its permissions.
    pub kind: Kind,
    /// The hooks that it is valid for.
    pub scope: Scope,
    /// Pull handler whose deliveries it may take; only for a read key of one hook.
    pub consume: Option<Name>,
    /// Request limit; `None` is no limit.
    pub limit: Option<Limit>,
    /// SHA-256 of its whole text.
    pub hash: [u8; 32],
    /// Time of its creation.
    pub created_at: Timestamp,
    /// Name of the operator who created it; `None` for keys older than this column.
    pub created_by: Option<String>,
    /// Time at which it expires.
    pub expires_at: Option<Timestamp>,
    /// Time at which it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl Key {
    /// True if it is valid at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| now < at)
    }
}

const ID_LEN: usize = 8;
const SECRET_LEN: usize = 30;
const CHECK_LEN: usize = 6;
const PREFIX_LEN: usize = "hl_w_".len();

/// Length of a whole key, in characters.
pub const KEY_LEN: usize = PREFIX_LEN + ID_LEN + SECRET_LEN + CHECK_LEN;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Public part of a key, by which it is looked up; displayed as `k_…`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; ID_LEN]);

impl KeyId {
    /// The eight digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Parses an id, with or without the prefix `k_`.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("k_").unwrap_or(text).as_bytes();
        let id = Self(digits.try_into().ok()?);
        id.0.iter().all(u8::is_ascii_alphanumeric).then_some(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k_{}", self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A well-formed key of a request, not yet compared with a stored one. It cannot be printed.
pub struct Presented {
    /// Id to look it up by.
    pub id: KeyId,
    hash: [u8; 32],
}

/// Reason why a text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It does not begin like a key.
    #[error("that is not a hooklane key: keys begin with hl_w_, hl_r_ or hl_a_")]
    NoKey,
    /// It begins like a key, but is incomplete or altered; its number of characters.
    #[error("that is not a whole hooklane key: the checksum does not match, {}", guess(*.0))]
    Damaged(usize),
}

/// Guesses from its length what happened to a damaged key.
fn guess(characters: usize) -> &'static str {
    match characters.cmp(&KEY_LEN) {
        Ordering::Less => "cut off when copied?",
        Ordering::Equal => "mistyped?",
        Ordering::Greater => "copied with something else?",
    }
}

impl Presented {
    /// Parses a key. Needs no look-up to refuse a malformed one.
    ///
    /// # Errors
    /// [`Malformed`] when it is no key, or not a complete one.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let bytes = text.as_bytes();
        if !["hl_w_", "hl_r_", "hl_a_"]
            .iter()
            .any(|p| text.starts_with(p))
        {
            return Err(Malformed::NoKey);
        }
        let damaged = Malformed::Damaged(text.chars().count());
        if bytes.len() != KEY_LEN || !bytes[PREFIX_LEN..].iter().all(u8::is_ascii_alphanumeric) {
            return Err(damaged);
        }
        let (body, check) = bytes.split_at(KEY_LEN - CHECK_LEN);
        if checksum(body) != check {
            return Err(damaged);
        }
        let id = KeyId(
            body[PREFIX_LEN..PREFIX_LEN + ID_LEN]
                .try_into()
                .map_err(|_| damaged)?,
        );
        Ok(Self {
            id,
            hash: Sha256::digest(bytes).into(),
        })
    }

    /// Compares with `key` in constant time. A missing key is compared too, so that the time of the
    /// answer does not reveal whether an id exists.
    pub fn is(&self, key: Option<&Key>) -> bool {
        let stored = key.map_or([0; 32], |key| key.hash);
        bool::from(self.hash.ct_eq(&stored)) && key.is_some()
    }
}

/// A newly created key. Its text exists only here.
pub struct Minted {
    /// The text to give to its user.
    pub text: String,
    /// Public part.
    pub id: KeyId,
    /// Hash to store.
    pub hash: [u8; 32],
}

/// Creates a key of `kind` from the operating system's randomness.
pub fn mint(kind: Kind) -> Minted {
    let mut rng = rand::rng();
    let mut text = format!("hl_{}_", kind.letter()).into_bytes();
    text.extend((0..ID_LEN + SECRET_LEN).map(|_| DIGITS[rng.random_range(0..DIGITS.len())]));
    let check = checksum(&text);
    text.extend(check);
    let mut id = [0; ID_LEN];
    id.copy_from_slice(&text[PREFIX_LEN..PREFIX_LEN + ID_LEN]);
    let hash = Sha256::digest(&text).into();
    Minted {
        text: text.into_iter().map(char::from).collect(),
        id: KeyId(id),
        hash,
    }
}

/// CRC-32 (IEEE) of `body` in six base-62 digits, most significant first.
fn checksum(body: &[u8]) -> [u8; CHECK_LEN] {
    let mut rest = crc32fast::hash(body) as usize;
    let mut digits = [0; CHECK_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[rest % DIGITS.len()];
        rest /= DIGITS.len();
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_key_is_whole_and_every_damage_is_seen_without_a_look_up() {
        let key = mint(Kind::Write).text;
        assert_eq!(key.len(), KEY_LEN);
        assert!(Presented::parse(&key).is_ok());
        for cut in PREFIX_LEN..KEY_LEN {
            assert_eq!(
                Presented::parse(&key[..cut]).err(),
                Some(Malformed::Damaged(cut))
            );
        }
        for at in PREFIX_LEN..KEY_LEN {
            let mut other = key.clone().into_bytes();
            other[at] = if other[at] == b'x' { b'y' } else { b'x' };
            let other = String::from_utf8(other).unwrap();
            assert!(Presented::parse(&other).is_err(), "changed at {at}");
        }
        for garbage in ["", "hl_", "hl_x_", "Bearer", "hl_w_\u{e9}", "€uro"] {
            assert!(Presented::parse(garbage).is_err(), "{garbage}");
        }
    }

    #[test]
    fn only_the_right_secret_is_the_key() {
        let minted = mint(Kind::Admin);
        let key = Key {
            number: 1,
            id: minted.id,
            name: Name::default_namespace(),
            kind: Kind::Admin,
            scope: Scope::All,
            consume: None,
            limit: None,
            hash: minted.hash,
            created_at: Timestamp::now(),
            created_by: None,
            expires_at: None,
            revoked_at: None,
        };
        assert!(Presented::parse(&minted.text).unwrap().is(Some(&key)));
        let other = Presented::parse(&mint(Kind::Admin).text).unwrap();
        assert!(!other.is(Some(&key)) && !other.is(None));
    }
}
