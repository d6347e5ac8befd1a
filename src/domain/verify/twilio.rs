//! Twilio: `X-Twilio-Signature: BASE64`, HMAC over the URL and the sorted form fields. With a JSON
//! body, the URL has the hash of the body as `bodySHA256`. No time is signed.
//! <https://www.twilio.com/docs/usage/webhooks/webhooks-security>

use std::borrow::Cow;

use super::claim::{Algorithm, Claim, Rejected, Request, base64, hex, pairs, signatures, text};
use crate::domain::place;

const SIGNATURE: &str = "x-twilio-signature";

/// Header that names the algorithm if it is not HMAC-SHA1.
const SETTINGS: &str = "x-twilio-webhooks-signature-settings";

/// Reads the claim of a request.
pub fn claim<'r>(request: &Request<'r>) -> Result<Claim<'r>, Rejected> {
    let value = text(request, SIGNATURE)?;
    let signatures = signatures(SIGNATURE, std::iter::once(value), base64)?;
    let body_hash = body_hash(request.url);
    let fields = match body_hash {
        Some(_) => Vec::new(),
        None => fields(request.body),
    };
    // Twilio signs the URL with or without its port, undocumented which, so both forms are tried.
    let message = |url: String| {
        let parts = fields.iter().map(|part| Cow::Owned(part.clone()));
        std::iter::once(url.into_bytes().into())
            .chain(parts)
            .collect()
    };
    let urls = with_and_without_port(request.url);
    Ok(Claim {
        messages: urls.into_iter().map(message).collect(),
        body_hash,
        ..Claim::new(algorithm(request), Vec::new(), signatures)
    })
}

fn algorithm(request: &Request<'_>) -> Algorithm {
    let settings = text(request, SETTINGS).unwrap_or_default();
    let is_sha256 = pairs(settings, ',').any(|pair| pair == ("algorithm", "HMAC_SHA256"));
    match is_sha256 {
        true => Algorithm::HmacSha256,
        false => Algorithm::HmacSha1,
    }
}

/// Names and values of a form, sorted by name, then by value; equal pairs count once.
fn fields(form: &[u8]) -> Vec<Vec<u8>> {
    let mut fields: Vec<_> = place::fields(form).collect();
    fields.sort();
    fields.dedup();
    let written = fields
        .into_iter()
        .map(|(name, value)| [name, value].concat());
    written.collect()
}

fn body_hash(url: &str) -> Option<Vec<u8>> {
    let (_, query) = url.split_once('?')?;
    let mut pairs = pairs(query, '&').filter(|(name, _)| *name == "bodySHA256");
    pairs.next().and_then(|(_, hash)| hex(hash))
}

fn with_and_without_port(url: &str) -> [String; 2] {
    let Some((scheme, rest)) = url.split_once("://") else {
        return [url.to_owned(), url.to_owned()];
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let port = match (scheme, host.len() == authority.len()) {
        (_, false) => &authority[host.len() + 1..],
        ("http", true) => "80",
        (_, true) => "443",
    };
    [
        format!("{scheme}://{host}{path}"),
        format!("{scheme}://{host}:{port}{path}"),
    ]
}
