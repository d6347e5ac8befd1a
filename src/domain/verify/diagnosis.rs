//! Finds the cause of a rejection, for an operator. The search covers causes that leave the sender's
//! signature intact: a body that a proxy rewrote, another URL, the secret of another hook.

use std::borrow::Cow;

use super::claim::{Rejected, Request};
use super::{Scheme, Verify};

/// Reason under which rejected requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The sender's address is not one from which the hook accepts requests.
    Address,
    /// The request has no signature.
    NoSignature,
    /// The signature is unreadable.
    Malformed,
    /// No secret of the hook matches the signature.
    WrongSecret,
    /// The body differs from the signed one.
    BodyChanged,
    /// The signature covers another URL.
    OtherUrl,
    /// The secret of another hook matches the signature.
    OtherHook,
    /// The signed time is outside the tolerance.
    Clock,
    /// The secrets of the hook cannot be decrypted.
    Locked,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::Address,
        Self::NoSignature,
        Self::Malformed,
        Self::WrongSecret,
        Self::BodyChanged,
        Self::OtherUrl,
        Self::OtherHook,
        Self::Clock,
        Self::Locked,
    ];

    /// Name of the reason in metrics, JSON and the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::NoSignature => "no_signature",
            Self::Malformed => "malformed",
            Self::WrongSecret => "wrong_secret",
            Self::BodyChanged => "body_changed",
            Self::OtherUrl => "other_url",
            Self::OtherHook => "other_hook",
            Self::Clock => "clock",
            Self::Locked => "locked",
        }
    }

    /// Parses the name of a reason.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }
}

/// Reason of a rejection, with details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// The reason.
    pub reason: Reason,
    /// The details in a few words, without any part of a signature or secret.
    pub found: String,
    /// Milliseconds by which the sender's clock is ahead of ours, if known.
    pub clock_ms: Option<i64>,
}

impl Diagnosis {
    /// A diagnosis with these details.
    pub fn new(reason: Reason, found: impl Into<String>) -> Self {
        Self {
            reason,
            found: found.into(),
            clock_ms: None,
        }
    }

    /// The diagnosis that follows from the rejection alone, without a search.
    pub fn of(rejected: &Rejected) -> Self {
        match rejected {
            Rejected::Missing(header) => Self::new(Reason::NoSignature, format!("no {header}")),
            Rejected::Malformed(header, what) => {
                Self::new(Reason::Malformed, format!("{header}: {what}"))
            }
            Rejected::NoMatch => Self::new(Reason::WrongSecret, ""),
            Rejected::OtherBody => Self::new(Reason::BodyChanged, "another body is signed"),
            Rejected::Clock(ms) => Self {
                clock_ms: Some(*ms),
                ..Self::new(Reason::Clock, "")
            },
        }
    }
}

/// Searches for the cause of a signature that no secret of the hook matches. `others` are the other
/// hooks that verify, by name. A search costs some dozens of signature checks.
pub fn diagnose<'h>(
    verify: &Verify,
    request: &Request<'_>,
    others: impl Iterator<Item = (&'h str, &'h Verify)>,
) -> Diagnosis {
    if let Some(what) = changed_body(verify, request) {
        return Diagnosis::new(Reason::BodyChanged, what);
    }
    if let Some(url) = other_url(verify, request) {
        return Diagnosis::new(Reason::OtherUrl, format!("it is signed for {url}"));
    }
    for (name, other) in others
        .filter(|(_, other)| other.scheme == verify.scheme)
        .take(100)
    {
        if is_made(other, &verify.scheme, request) {
            return Diagnosis::new(
                Reason::OtherHook,
                format!("the secret of hook {name} makes it"),
            );
        }
    }
    Diagnosis::of(&Rejected::NoMatch)
}

fn is_made(with: &Verify, scheme: &Scheme, request: &Request<'_>) -> bool {
    let Ok(claim) = scheme.claim(request) else {
        return false;
    };
    let mut secrets = with.secrets.open.iter();
    secrets.any(|secret| claim.is_made_with(&scheme.key(secret)))
}

/// Size limit of a body that is rewritten for comparison, in bytes.
const REWRITTEN_MAX: usize = 256 * 1024;

/// The change made to the body on its way, if the signature matches a rewritten form of it.
fn changed_body(verify: &Verify, request: &Request<'_>) -> Option<&'static str> {
    if request.body.len() > REWRITTEN_MAX {
        return None;
    }
    let body = request.body;
    let json = || serde_json::from_slice::<serde_json::Value>(body).ok();
    let with_end = |end: &[u8]| Some([body, end].concat().into());
    type Made<'m> = dyn Fn() -> Option<Cow<'m, [u8]>> + 'm;
    let bodies: [(_, &Made<'_>); 6] = [
        ("a newline at its end was removed", &|| with_end(b"\n")),
        ("a line end at its end was removed", &|| with_end(b"\r\n")),
        ("white space was added around it", &|| {
            Some(body.trim_ascii().into())
        }),
        ("white space in its JSON was added", &|| {
            Some(without_space(body).into())
        }),
        ("its JSON was written anew", &|| {
            Some(serde_json::to_vec(&json()?).ok()?.into())
        }),
        ("white space in its JSON was removed", &|| {
            Some(serde_json::to_vec_pretty(&json()?).ok()?.into())
        }),
    ];
    bodies.into_iter().find_map(|(what, made)| {
        let other = made().filter(|other| **other != *body)?;
        let other = Request {
            body: &other,
            ..*request
        };
        is_made(verify, &verify.scheme, &other).then_some(what)
    })
}

/// JSON without white space between its tokens; strings stay unchanged.
fn without_space(json: &[u8]) -> Vec<u8> {
    let (mut in_string, mut is_escaped) = (false, false);
    let mut kept = json.to_vec();
    kept.retain(|byte| {
        let ends = *byte == b'"' && !is_escaped;
        is_escaped = in_string && *byte == b'\\' && !is_escaped;
        in_string ^= ends;
        in_string || !byte.is_ascii_whitespace()
    });
    kept
}

/// The URL that the signature covers, if it is a variant of the hook's URL.
fn other_url(verify: &Verify, request: &Request<'_>) -> Option<String> {
    let url = request.url;
    if !verify.scheme.signs_url() || url.is_empty() {
        return None;
    }
    let (front, query) = url
        .split_once('?')
        .map_or((url, None), |(a, b)| (a, Some(b)));
    let whole = |front: &str| match query {
        Some(query) => format!("{front}?{query}"),
        None => front.to_owned(),
    };
    let swapped = match front.strip_prefix("https://") {
        Some(rest) => format!("http://{rest}"),
        None => front.replacen("http://", "https://", 1),
    };
    let slashed = match front.strip_suffix('/') {
        Some(bare) => bare.to_owned(),
        None => format!("{front}/"),
    };
    let candidates = [whole(&swapped), whole(&slashed), front.to_owned()];
    candidates.into_iter().find(|other| {
        let other = Request {
            url: other,
            ..*request
        };
        other.url != url && is_made(verify, &verify.scheme, &other)
    })
}
