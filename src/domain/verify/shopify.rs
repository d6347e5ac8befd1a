//! Shopify: `X-Shopify-Hmac-Sha256: BASE64`, HMAC-SHA256 over the body. No time is signed.
//! <https://shopify.dev/docs/apps/build/webhooks/subscribe/https>

use super::claim::{Algorithm, Claim, Rejected, Request, base64, signatures, text};

const SIGNATURE: &str = "x-shopify-hmac-sha256";

/// Reads the claim of a request.
pub fn claim<'r>(request: &Request<'r>) -> Result<Claim<'r>, Rejected> {
    let value = text(request, SIGNATURE)?;
    let signatures = signatures(SIGNATURE, std::iter::once(value), base64)?;
    let message = vec![request.body.into()];
    Ok(Claim::new(Algorithm::HmacSha256, message, signatures))
}
