//! GitHub: `X-Hub-Signature-256: sha256=HEX`, HMAC-SHA256 over the body. No time is signed.
//! <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>

use super::claim::{Algorithm, Claim, Rejected, Request, hex, signatures, text};

const SIGNATURE: &str = "x-hub-signature-256";

/// Reads the claim of a request.
pub fn claim<'r>(request: &Request<'r>) -> Result<Claim<'r>, Rejected> {
    let value = text(request, SIGNATURE)?;
    let found = value.strip_prefix("sha256=");
    let signatures = signatures(SIGNATURE, found.into_iter(), hex)?;
    let message = vec![request.body.into()];
    Ok(Claim::new(Algorithm::HmacSha256, message, signatures))
}
