//! Square: `x-square-hmacsha256-signature: BASE64`, HMAC-SHA256 over the notification URL and the body. No time is
//! signed.
//! <https://developer.squareup.com/docs/webhooks/step3validate>

use super::claim::{Algorithm, Claim, Rejected, Request, base64, signatures, text};

const SIGNATURE: &str = "x-square-hmacsha256-signature";

/// Reads the claim of a request.
pub fn claim<'r>(request: &Request<'r>) -> Result<Claim<'r>, Rejected> {
    let value = text(request, SIGNATURE)?;
    let signatures = signatures(SIGNATURE, std::iter::once(value), base64)?;
    let message = vec![request.url.as_bytes().into(), request.body.into()];
    Ok(Claim::new(Algorithm::HmacSha256, message, signatures))
}
