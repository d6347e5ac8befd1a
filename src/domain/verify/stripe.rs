//! Stripe: `Stripe-Signature: t=SECONDS,v1=HEX`, HMAC-SHA256 over `t.body`.
//! <https://docs.stripe.com/webhooks#verify-manually>

use super::claim::{
    Algorithm, Claim, Rejected, Request, hex, malformed, only, seconds, signatures,
};
use super::claim::{text, values};

const SIGNATURE: &str = "stripe-signature";

/// Reads the claim of a request.
pub fn claim<'r>(request: &Request<'r>) -> Result<Claim<'r>, Rejected> {
    let value = text(request, SIGNATURE)?;
    let time = only(SIGNATURE, value, ',', "t")?;
    let at = seconds(time).ok_or_else(|| malformed(SIGNATURE, "its time is no number"))?;
    let signatures = signatures(SIGNATURE, values(value, ',', "v1"), hex)?;
    let message = vec![
        time.as_bytes().into(),
        b".".as_slice().into(),
        request.body.into(),
    ];
    Ok(Claim::new(Algorithm::HmacSha256, message, signatures).at(at))
}
