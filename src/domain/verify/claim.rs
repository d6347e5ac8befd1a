//! A signed request as a scheme reads it: the signed bytes, the algorithm and the signatures.
//!
//! The files beside this one turn a [`Request`] into a [`Claim`] and decide nothing. [`Claim`] decides for
//! all schemes: in constant time, over the full length, and with the time stamp last.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use http::HeaderMap;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::DecodePublicKey as _;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};
use subtle::ConstantTimeEq as _;

use crate::domain::time::Timestamp;

/// Number of signatures read from a request at most; a rotation needs two.
pub const SIGNATURES_MAX: usize = 8;

/// The parts of a request that senders sign.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// The method, such as `POST`.
    pub method: &'r str,
    /// The URL configured at the sender; empty if the hook has no public URL.
    pub url: &'r str,
    /// The headers.
    pub headers: &'r HeaderMap,
    /// The raw body.
    pub body: &'r [u8],
}

/// Cause for which a request is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The signature header, or a header that the signature covers, is missing: its name.
    Missing(String),
    /// A header is repeated or unreadable: its name and the fault.
    Malformed(String, &'static str),
    /// No secret of the hook matches a signature.
    NoMatch,
    /// The signature is good, but covers the hash of another body.
    OtherBody,
    /// The signature is good, but its time is outside the tolerance: the sender's clock is ahead of
    /// ours by this many milliseconds, or behind if negative.
    Clock(i64),
}

/// Signature algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-1.
    HmacSha1,
    /// HMAC with SHA-256.
    HmacSha256,
    /// HMAC with SHA-512.
    HmacSha512,
    /// ECDSA on P-256 with SHA-256; the secret is the public key.
    EcdsaP256,
    /// No algorithm: the sender sends the secret itself.
    Token,
}

/// Signatures of a request and the bytes that they cover.
#[derive(Clone, Debug)]
pub struct Claim<'r> {
    /// Algorithm of the signatures.
    pub algorithm: Algorithm,
    /// The signed bytes, in parts. Providers that sign in alternative ways have one list for each.
    pub messages: Vec<Vec<Cow<'r, [u8]>>>,
    /// The decoded signatures.
    pub signatures: Vec<Vec<u8>>,
    /// The signed time; `None` if the scheme signs none.
    pub at: Option<Timestamp>,
    /// SHA-256 of the body, if the signature covers this hash and not the body itself.
    pub body_hash: Option<Vec<u8>>,
}

impl<'r> Claim<'r> {
    /// A claim without a time.
    pub fn new(
        algorithm: Algorithm,
        message: Vec<Cow<'r, [u8]>>,
        signatures: Vec<Vec<u8>>,
    ) -> Self {
        Self {
            algorithm,
            messages: vec![message],
            signatures,
            at: None,
            body_hash: None,
        }
    }

    /// The same claim with a signed time.
    pub fn at(self, at: Timestamp) -> Self {
        Self {
            at: Some(at),
            ..self
        }
    }

    /// Checks the rest of a claim whose signature is good: the hash of `body`, then the time.
    ///
    /// # Errors
    /// [`Rejected`] with the cause, which must not be told to the sender.
    pub fn check_beside(
        &self,
        body: &[u8],
        now: Timestamp,
        tolerance: Duration,
    ) -> Result<(), Rejected> {
        if let Some(hash) = &self.body_hash
            && !bool::from(hash.as_slice().ct_eq(&Sha256::digest(body)))
        {
            return Err(Rejected::OtherBody);
        }
        match self.at {
            Some(at) if apart(at, now) > tolerance => Err(Rejected::Clock(ahead(at, now))),
            _ => Ok(()),
        }
    }

    /// True if one of the signatures was made with this key. An empty key matches none.
    pub fn is_made_with(&self, key: &[u8]) -> bool {
        let makes = |signature: &Vec<u8>| {
            let mut messages = self.messages.iter();
            messages.any(|message| is_made(self.algorithm, key, message, signature))
        };
        !key.is_empty() && self.signatures.iter().any(makes)
    }
}

fn is_made(algorithm: Algorithm, key: &[u8], message: &[Cow<'_, [u8]>], signature: &[u8]) -> bool {
    match algorithm {
        Algorithm::HmacSha1 => is_mac::<Hmac<Sha1>>(key, message, signature),
        Algorithm::HmacSha256 => is_mac::<Hmac<Sha256>>(key, message, signature),
        Algorithm::HmacSha512 => is_mac::<Hmac<Sha512>>(key, message, signature),
        Algorithm::EcdsaP256 => is_ecdsa(key, message, signature),
        Algorithm::Token => key.ct_eq(signature).into(),
    }
}

/// Compares in constant time and over the full length; a truncated signature does not match.
fn is_mac<M: Mac + hmac::digest::KeyInit>(
    key: &[u8],
    message: &[Cow<'_, [u8]>],
    signature: &[u8],
) -> bool {
    let Ok(mut mac) = <M as Mac>::new_from_slice(key) else {
        return false;
    };
    for part in message {
        mac.update(part);
    }
    mac.verify_slice(signature).is_ok()
}

fn is_ecdsa(key: &[u8], message: &[Cow<'_, [u8]>], signature: &[u8]) -> bool {
    let key = public_key(key);
    let signature = Signature::from_der(signature).ok();
    key.zip(signature)
        .is_some_and(|(key, signature)| key.verify(&message.concat(), &signature).is_ok())
}

/// Parses a public key as SendGrid shows it: base64 of the DER form, with or without PEM lines.
pub fn public_key(text: &[u8]) -> Option<VerifyingKey> {
    let text = std::str::from_utf8(text).ok()?;
    let lines = text.lines().filter(|line| !line.starts_with("-----"));
    let encoded: String = lines
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .collect();
    VerifyingKey::from_public_key_der(&STANDARD.decode(encoded).ok()?).ok()
}

fn ahead(at: Timestamp, now: Timestamp) -> i64 {
    at.as_millis().saturating_sub(now.as_millis())
}

fn apart(at: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(ahead(at, now).unsigned_abs())
}

/// The value of a header that must occur once.
///
/// # Errors
/// [`Rejected`] if the header is missing, empty or repeated, even with the same value.
pub fn header<'r>(request: &Request<'r>, name: &str) -> Result<&'r [u8], Rejected> {
    let mut values = request.headers.get_all(name).iter();
    let value = values.next().map(|value| value.as_bytes().trim_ascii());
    let value = value.filter(|value| !value.is_empty());
    match (value, values.next()) {
        (None, _) => Err(Rejected::Missing(name.to_owned())),
        (Some(value), None) => Ok(value),
        (Some(_), Some(_)) => Err(malformed(name, "it came twice")),
    }
}

/// The value of a header that must occur once, as text.
///
/// # Errors
/// Errors of [`header`]; also if the value is not text.
pub fn text<'r>(request: &Request<'r>, name: &str) -> Result<&'r str, Rejected> {
    let value = header(request, name)?;
    std::str::from_utf8(value).map_err(|_| malformed(name, "it is no text"))
}

/// The rejection for an unreadable header.
pub fn malformed(name: &str, what: &'static str) -> Rejected {
    Rejected::Malformed(name.to_owned(), what)
}

/// Decodes the signatures of a header. Undecodable ones are left out, because providers add new forms.
///
/// # Errors
/// [`Rejected::Malformed`] if none is left or there are more than [`SIGNATURES_MAX`].
pub fn signatures<'r>(
    name: &str,
    encoded: impl Iterator<Item = &'r str>,
    decode: impl Fn(&str) -> Option<Vec<u8>>,
) -> Result<Vec<Vec<u8>>, Rejected> {
    let encoded: Vec<_> = encoded.take(SIGNATURES_MAX + 1).collect();
    if encoded.len() > SIGNATURES_MAX {
        return Err(malformed(name, "it has more than 8 signatures"));
    }
    let decoded = encoded.into_iter().filter_map(decode);
    let decoded: Vec<_> = decoded.filter(|bytes| !bytes.is_empty()).collect();
    match decoded.is_empty() {
        true => Err(malformed(
            name,
            "it has no signature in the form of this scheme",
        )),
        false => Ok(decoded),
    }
}

/// Decodes hexadecimal digits in either case.
pub fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| match pair {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    });
    bytes.collect()
}

/// Decodes base64.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Parses seconds since 1970.
pub fn seconds(text: &str) -> Option<Timestamp> {
    let seconds: i64 = text.parse().ok()?;
    Some(Timestamp::from_millis(seconds.checked_mul(1_000)?))
}

/// The pairs of a header such as `t=1,v1=ab`.
pub fn pairs(text: &str, between: char) -> impl Iterator<Item = (&str, &str)> {
    let parts = text.split(between);
    parts.filter_map(|part| part.trim().split_once('='))
}

/// The value of a pair that must occur once.
///
/// # Errors
/// [`Rejected::Malformed`] unless the pair occurs exactly once.
pub fn only<'r>(
    header: &str,
    text: &'r str,
    between: char,
    name: &str,
) -> Result<&'r str, Rejected> {
    let mut values = pairs(text, between).filter(|(found, _)| *found == name);
    match (values.next(), values.next()) {
        (Some((_, value)), None) => Ok(value),
        (None, _) => Err(malformed(header, "it has no time")),
        _ => Err(malformed(header, "it has two times")),
    }
}

/// The values of all pairs with a name.
pub fn values<'r>(
    text: &'r str,
    between: char,
    name: &'static str,
) -> impl Iterator<Item = &'r str> {
    pairs(text, between).filter_map(move |(found, value)| (found == name).then_some(value))
}
