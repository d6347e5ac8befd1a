//! Standard Webhooks: `webhook-signature: v1,BASE64 v1,BASE64`, HMAC-SHA256 over `id.SECONDS.body`. The key is the
//! base64 after `whsec_`.
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use super::claim::{
    Algorithm, Claim, Rejected, Request, base64, header, malformed, seconds, signatures, text,
};

const ID: &str = "webhook-id";
const TIME: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";

/// Reads the claim of a request.
pub fn claim<'r>(request: &Request<'r>) -> Result<Claim<'r>, Rejected> {
    let value = text(request, SIGNATURE)?;
    let (id, time) = (header(request, ID)?, text(request, TIME)?);
    let at = seconds(time).ok_or_else(|| malformed(TIME, "it is no number"))?;
    let found = value.split_ascii_whitespace();
    let found = found.filter_map(|one| one.strip_prefix("v1,"));
    let signatures = signatures(SIGNATURE, found, base64)?;
    let dot = || b".".as_slice().into();
    let message = vec![
        id.into(),
        dot(),
        time.as_bytes().into(),
        dot(),
        request.body.into(),
    ];
    Ok(Claim::new(Algorithm::HmacSha256, message, signatures).at(at))
}

/// The key of a secret; `None` if it is not base64, with or without the prefix `whsec_`.
pub fn key(secret: &str) -> Option<Vec<u8>> {
    let encoded = secret.strip_prefix("whsec_").unwrap_or(secret);
    base64(encoded).filter(|key| !key.is_empty())
}
