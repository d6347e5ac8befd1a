//! Paddle: `Paddle-Signature: ts=SECONDS;h1=HEX`, HMAC-SHA256 over `ts:body`.
//! <https://developer.paddle.com/webhooks/signature-verification>

use super::claim::{
    Algorithm, Claim, Rejected, Request, hex, malformed, only, seconds, signatures,
};
use super::claim::{text, values};

const SIGNATURE: &str = "paddle-signature";

/// Reads the claim of a request.
pub fn claim<'r>(request: &Request<'r>) -> Result<Claim<'r>, Rejected> {
    let value = text(request, SIGNATURE)?;
    let time = only(SIGNATURE, value, ';', "ts")?;
    let at = seconds(time).ok_or_else(|| malformed(SIGNATURE, "its time is no number"))?;
    let signatures = signatures(SIGNATURE, values(value, ';', "h1"), hex)?;
    let message = vec![
        time.as_bytes().into(),
        b":".as_slice().into(),
        request.body.into(),
    ];
    Ok(Claim::new(Algorithm::HmacSha256, message, signatures).at(at))
}
