//! Linear: `Linear-Signature: HEX`, HMAC-SHA256 over the body, in which `webhookTimestamp` is the time.
//! <https://linear.app/developers/webhooks#securing-webhooks>

use super::claim::{Algorithm, Claim, Rejected, Request, hex, signatures, text};
use crate::domain::pointer::{self, Found};
use crate::domain::time::Timestamp;

const SIGNATURE: &str = "linear-signature";

/// Reads the claim of a request. The body is parsed before the signature is verified, but its time
/// counts only if the signature is good.
pub fn claim<'r>(request: &Request<'r>) -> Result<Claim<'r>, Rejected> {
    let value = text(request, SIGNATURE)?;
    let signatures = signatures(SIGNATURE, std::iter::once(value), hex)?;
    let message = vec![request.body.into()];
    let at = match pointer::find(request.body, "/webhookTimestamp") {
        Ok(Found::Key(text)) => text.parse().ok().map(Timestamp::from_millis),
        _ => None,
    };
    let claim = Claim::new(Algorithm::HmacSha256, message, signatures);
    Ok(Claim { at, ..claim })
}
